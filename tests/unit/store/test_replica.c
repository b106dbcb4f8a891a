/* What replication keeps: marks, tombstones, cursors, and messages of other hosts. */
#include "fixture.h"

#include "cs/store/replica.h"
#include "db.h"

#define FAR INT64_C(0x0123456789abcdef) /* an origin of another host */

struct insertion {
    int64_t session;
    struct cs_replica_message message;
    enum cs_replica_outcome outcome;
};
WRITE(write_insert, struct insertion,
      cs_replica_insert(db, x->session, &x->message, 2000000, &x->outcome, err))

struct flagging {
    const char *sid;
    enum cs_replica_flag flag;
    int64_t generation;
    const struct cs_vector *vector;
    const char *text;
    int64_t until, max;
};
WRITE(write_flag, struct flagging, cs_replica_flag(db, x->sid, x->flag, err))
WRITE(write_clean, struct flagging, cs_replica_clean(db, x->sid, x->generation, err))
WRITE(write_aside, struct flagging, cs_replica_aside(db, x->sid, x->text, err))
WRITE(write_bury, struct flagging, cs_replica_bury(db, x->sid, "c1", "anna", x->vector, err))
WRITE(write_purge, struct flagging, cs_replica_purge(db, x->until, x->max, err))
WRITE(write_pushed, struct flagging, cs_replica_set_cursor(db, CS_REPLICA_PUSHED, x->text, err))
WRITE(write_reborn, struct flagging, cs_replica_reborn(db, x->sid, err))

static enum cs_replica_outcome insert(struct fixture *f, int64_t session,
                                      struct cs_replica_message message)
{
    struct insertion insertion = {.session = session, .message = message};

    if (message.frag == NULL)
        insertion.message.frag = "{\"type\":\"user\",\"content\":\"from afar\"}";
    insertion.message.len = strlen(insertion.message.frag);
    ok(write_insert(f, &insertion));
    return insertion.outcome;
}

static struct cs_vector vector_of(struct fixture *f, int64_t session)
{
    struct cs_vector vector;
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_replica_vector(db, session, &vector, &f->err));
    cs_store_done(f->store, db);
    return vector;
}

static struct cs_replica_mark mark_of(struct fixture *f, const char *sid)
{
    struct cs_replica_mark mark;
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_replica_mark(db, sid, &mark, &f->err));
    cs_store_done(f->store, db);
    return mark;
}

static int64_t own_origin(struct fixture *f)
{
    return cs_vector_origin(cs_store_origin(f->store));
}

static int64_t newest_hlc(struct fixture *f, int64_t session)
{
    struct cs_db *db = NULL;
    struct cs_sql q;
    int64_t hlc;

    ok(cs_store_read(f->store, &db, &f->err));
    cs_sql_begin(&q, db, CS_SQL_MESSAGE_NEWEST);
    cs_sql_int(&q, session);
    assert_true(cs_sql_next(&q));
    hlc = cs_sql_get_int(&q, 0);
    ok(cs_sql_end(&q, "read", &f->err));
    cs_store_done(f->store, db);
    return hlc;
}

/* ---- messages ---- */

static void a_message_of_another_host_is_kept_byte_for_byte(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1), count;
    static const char frag[] = "{\"type\":\"user\",\"content\":\"a\\u0020b\",\"n\":1.0}";
    char *text;

    assert_int_equal(
        CS_REPLICA_ADDED,
        insert(f, session,
               (struct cs_replica_message){.origin = FAR, .seq = 1, .hlc = 5, .frag = frag}));
    text = history(f, session, 0, 0, &count, NULL);
    assert_string_equal(frag, text);
    free(text);
    assert_sound(f);
}

static void the_same_message_again_changes_nothing(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct cs_replica_message message = {.origin = FAR, .seq = 1, .hlc = 5};
    struct cs_vector vector;

    assert_int_equal(CS_REPLICA_ADDED, insert(f, session, message));
    assert_int_equal(CS_REPLICA_KNOWN, insert(f, session, message));
    vector = vector_of(f, session);
    assert_int_equal(1, vector.count);
    assert_int_equal(1, cs_vector_get(&vector, FAR));
    cs_vector_fini(&vector);
}

static void a_hole_in_an_origin_is_not_made(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct cs_vector vector;

    assert_int_equal(
        CS_REPLICA_HOLE,
        insert(f, session, (struct cs_replica_message){.origin = FAR, .seq = 2, .hlc = 5}));
    vector = vector_of(f, session);
    assert_int_equal(0, vector.count);
    cs_vector_fini(&vector);
}

static void other_bytes_under_another_hosts_number_are_refused(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);

    (void)insert(f, session, (struct cs_replica_message){.origin = FAR, .seq = 1, .hlc = 5});
    assert_int_equal(
        CS_REPLICA_DIFFERS,
        insert(f, session,
               (struct cs_replica_message){.origin = FAR,
                                           .seq = 1,
                                           .hlc = 5,
                                           .frag = "{\"type\":\"user\",\"content\":\"other\"}"}));
    assert_int_equal(
        CS_REPLICA_DIFFERS,
        insert(f, session, (struct cs_replica_message){.origin = FAR, .seq = 2, .hlc = 4}));
}

static void a_host_that_went_back_in_time_numbers_anew(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1), origin = own_origin(f);
    struct cs_vector vector;
    struct cs_replica_message theirs = {.origin = origin, .seq = 2};

    (void)add_message(f, session, CS_MESSAGE_USER, "one", NULL, 1);
    (void)add_message(f, session, CS_MESSAGE_USER, "two, on the second way", NULL, 2);
    (void)add_message(f, session, CS_MESSAGE_USER, "three", NULL, 3);
    theirs.hlc = newest_hlc(f, session) - 1;

    assert_int_equal(CS_REPLICA_FORKED, insert(f, session, theirs));
    vector = vector_of(f, session);
    assert_int_equal(2, vector.count);
    assert_int_equal(2, cs_vector_get(&vector, origin)); /* one, and theirs */
    assert_int_equal(2, vector.items[0].seq);            /* two and three, under a new origin */
    assert_int_equal(2, vector.items[1].seq);
    cs_vector_fini(&vector);
    assert_sound(f);

    (void)add_message(f, session, CS_MESSAGE_USER, "four", NULL, 4); /* goes on there */
    vector = vector_of(f, session);
    assert_int_equal(2, vector.count);
    assert_int_equal(2, cs_vector_get(&vector, origin));
    cs_vector_fini(&vector);
}

static void the_two_ways_of_a_host_that_went_back_are_not_mixed(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1), origin = own_origin(f);
    struct cs_replica_message theirs = {.origin = origin, .seq = 2};
    struct cs_vector vector;

    (void)add_message(f, session, CS_MESSAGE_USER, "one, on the second way", NULL, 1);
    theirs.hlc = newest_hlc(f, session) - 1; /* so it follows another one */
    (void)add_message(f, session, CS_MESSAGE_USER, "two, on the second way", NULL, 2);

    assert_int_equal(CS_REPLICA_DIFFERS, insert(f, session, theirs));
    vector = vector_of(f, session);
    assert_int_equal(1, vector.count);
    assert_int_equal(2, cs_vector_get(&vector, origin));
    cs_vector_fini(&vector);
    assert_sound(f);
}

static void a_stub_stands_for_one_message_and_not_for_its_number(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1), origin = own_origin(f);
    struct cs_replica_message stub = {
        .origin = origin, .seq = 1, .frag = "{\"type\":\"user\",\"content\":\"\"}", .stub = true};
    struct cs_vector vector;

    (void)add_message(f, session, CS_MESSAGE_USER, "the whole message", NULL, 1);
    stub.hlc = newest_hlc(f, session);
    assert_int_equal(CS_REPLICA_KNOWN, insert(f, session, stub));

    stub.hlc--; /* of what this host wrote there before it went back in time */
    assert_int_equal(CS_REPLICA_FORKED, insert(f, session, stub));
    vector = vector_of(f, session);
    assert_int_equal(2, vector.count);
    assert_int_equal(1, cs_vector_get(&vector, origin));
    cs_vector_fini(&vector);
    assert_sound(f);
}

static void numbers_that_others_know_and_we_do_not_are_not_used_again(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1), origin = own_origin(f);
    struct cs_vector vector;

    (void)insert(f, session, (struct cs_replica_message){.origin = origin, .seq = 1, .hlc = 5});
    (void)add_message(f, session, CS_MESSAGE_USER, "new", NULL, 1);
    vector = vector_of(f, session);
    assert_int_equal(2, vector.count);
    assert_int_equal(1, cs_vector_get(&vector, origin));
    cs_vector_fini(&vector);
}

static void a_deleted_session_that_returns_uses_no_number_of_its_tombstone(void **state)
{
    struct fixture *f = *state;
    int64_t session, origin = own_origin(f);
    struct cs_vector tomb = {0}, vector;

    ok(cs_vector_raise(&tomb, origin, 3, &f->err));
    ok(write_bury(f, &(struct flagging){.sid = "s1", .vector = &tomb}));
    session = add_session(f, 1);
    ok(write_reborn(f, &(struct flagging){.sid = "s1"}));
    (void)add_message(f, session, CS_MESSAGE_USER, "new", NULL, 1);
    vector = vector_of(f, session);
    assert_int_equal(0, cs_vector_get(&vector, origin));
    assert_int_equal(1, vector.count);
    cs_vector_fini(&vector);
    cs_vector_fini(&tomb);
}

/* ---- branches ---- */

/* a – b (ours), and a – x (another host's, later in order). Returns the session. */
static int64_t add_branches(struct fixture *f)
{
    int64_t session = add_session(f, 1), hlc;

    (void)add_message(f, session, CS_MESSAGE_CONTEXT, "a", NULL, 1);
    hlc = newest_hlc(f, session);
    (void)add_message(f, session, CS_MESSAGE_CONTEXT, "b", NULL, 2);
    assert_int_equal(
        CS_REPLICA_ADDED,
        insert(f, session,
               (struct cs_replica_message){.origin = FAR,
                                           .seq = 1,
                                           .hlc = hlc + (INT64_C(1) << 40),
                                           .parent_origin = own_origin(f),
                                           .parent_seq = 1,
                                           .kind = CS_MESSAGE_CONTEXT,
                                           .frag = "{\"type\":\"context\",\"content\":\"x\"}"}));
    return session;
}

static void both_branches_are_shown_and_the_left_one_has_a_badge(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_branches(f), count;
    char *text = history(f, session, 0, 0, &count, NULL);

    assert_int_equal(3, count);
    assert_non_null(strstr(text, "\"content\":\"b\""));
    assert_non_null(strstr(text, "\"branch\":true},{\"type\":\"context\",\"content\":\"x\"}"));
    assert_null(strstr(strstr(text, "\"branch\":true") + 1, "\"branch\":true"));
    free(text);
}

static void a_model_is_told_the_active_branch_alone(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_branches(f);
    struct cs_transcript *transcript = NULL;
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_message_transcript(db, session, NULL, &transcript, &f->err));
    cs_store_done(f->store, db);
    assert_int_equal(2, transcript->count);
    assert_string_equal("a", transcript->items[0].text);
    assert_string_equal("x", transcript->items[1].text);
    cs_transcript_free(transcript);
}

static void an_answer_hangs_on_its_own_prompt(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct cs_transcript *transcript = NULL;
    struct cs_db *db = NULL;

    (void)add_message(f, session, CS_MESSAGE_USER, "mine", "t1", 1);
    (void)insert(f, session, /* while the turn runs */
                 (struct cs_replica_message){.origin = FAR,
                                             .seq = 1,
                                             .hlc = newest_hlc(f, session) + 1,
                                             .kind = CS_MESSAGE_CONTEXT});
    (void)add_message(f, session, CS_MESSAGE_ASSISTANT, "my answer", "t1", 2);
    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_message_transcript(db, session, NULL, &transcript, &f->err));
    cs_store_done(f->store, db);
    assert_int_equal(2, transcript->count);
    assert_string_equal("mine", transcript->items[0].text);
    assert_string_equal("my answer", transcript->items[1].text);
    cs_transcript_free(transcript);
}

/* ---- marks ---- */

static void a_mark_set_meanwhile_is_not_cleared(void **state)
{
    struct fixture *f = *state;
    struct flagging flagging = {.sid = "s1"};
    struct cs_replica_mark mark;

    ok(write_flag(f, &flagging));
    mark = mark_of(f, "s1");
    assert_true(mark.dirty);
    flagging.generation = mark.generation;
    cs_replica_mark_fini(&mark);
    ok(write_flag(f, &flagging));
    ok(write_clean(f, &flagging));
    mark = mark_of(f, "s1");
    assert_true(mark.dirty);
    flagging.generation = mark.generation;
    cs_replica_mark_fini(&mark);
    ok(write_clean(f, &flagging));
    mark = mark_of(f, "s1");
    assert_false(mark.dirty);
    cs_replica_mark_fini(&mark);
}

static void tombstones_join(void **state)
{
    struct fixture *f = *state;
    struct cs_vector a = {0}, b = {0};
    struct cs_replica_mark mark;

    ok(cs_vector_raise(&a, FAR, 3, NULL));
    ok(cs_vector_raise(&b, FAR, 1, NULL));
    ok(cs_vector_raise(&b, FAR + 1, 2, NULL));
    ok(write_bury(f, &(struct flagging){.sid = "s1", .vector = &a}));
    ok(write_bury(f, &(struct flagging){.sid = "s1", .vector = &b}));
    mark = mark_of(f, "s1");
    assert_int_equal(3, cs_vector_get(&mark.tomb, FAR));
    assert_int_equal(2, cs_vector_get(&mark.tomb, FAR + 1));
    assert_string_equal("anna", mark.user);
    cs_replica_mark_fini(&mark);
    cs_vector_fini(&a);
    cs_vector_fini(&b);
}

static int64_t now_ms;

static int64_t set_clock(void)
{
    return now_ms;
}

/* @sid is deleted at @at. */
static void bury(struct fixture *f, const char *sid, int64_t at)
{
    struct cs_vector tomb = {0};

    now_ms = at;
    cs_clock_override(set_clock);
    ok(cs_vector_raise(&tomb, FAR, 1, NULL));
    ok(write_bury(f, &(struct flagging){.sid = sid, .vector = &tomb}));
    cs_vector_fini(&tomb);
}

/* And Redis is told at @at. */
static void tell(struct fixture *f, const char *sid, int64_t at)
{
    struct cs_replica_mark mark = mark_of(f, sid);

    now_ms = at;
    ok(write_clean(f, &(struct flagging){.sid = sid, .generation = mark.generation}));
    cs_replica_mark_fini(&mark);
}

static bool is_buried(struct fixture *f, const char *sid)
{
    struct cs_replica_mark mark = mark_of(f, sid);
    bool buried = mark.tomb.count > 0;

    cs_replica_mark_fini(&mark);
    return buried;
}

static void a_deletion_is_kept_until_it_was_told_and_then_for_its_time(void **state)
{
    struct fixture *f = *state;

    bury(f, "told", 100);
    bury(f, "waits", 100);
    bury(f, "late", 100);
    tell(f, "told", 110);
    tell(f, "late", 300);
    ok(write_purge(f, &(struct flagging){.until = 109, .max = 9}));
    assert_true(is_buried(f, "told"));
    ok(write_purge(f, &(struct flagging){.until = 299, .max = 9}));
    assert_false(is_buried(f, "told"));
    assert_true(is_buried(f, "late"));
    ok(write_purge(f, &(struct flagging){.until = 1000, .max = 9}));
    assert_false(is_buried(f, "late"));
    assert_true(is_buried(f, "waits"));
}

static void of_too_many_deletions_that_wait_the_oldest_are_forgotten(void **state)
{
    struct fixture *f = *state;
    struct cs_replica_mark mark;

    (void)add_session(f, 1);
    bury(f, "s1", 99); /* it came back: its mark says more than that */
    bury(f, "d1", 101);
    bury(f, "d2", 102);
    bury(f, "d3", 103);
    bury(f, "d4", 104);
    tell(f, "d4", 104);
    ok(write_purge(f, &(struct flagging){.max = 4}));
    assert_true(is_buried(f, "d1"));
    ok(write_purge(f, &(struct flagging){.max = 2}));
    assert_false(is_buried(f, "d1"));
    assert_true(is_buried(f, "d2") && is_buried(f, "d3") && is_buried(f, "d4"));
    mark = mark_of(f, "s1");
    assert_true(mark.dirty);
    cs_replica_mark_fini(&mark);
}

static void what_was_set_aside_waits_for_a_change(void **state)
{
    struct fixture *f = *state;
    char ids[4][CS_UUID_MAX];
    struct cs_id_page page = {.ids = ids, .max = 4};
    struct cs_db *db = NULL;

    ok(write_aside(f, &(struct flagging){.sid = "s1", .text = "it is odd"}));
    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_replica_marked(db, "", false, &page, &f->err));
    assert_int_equal(0, page.count);
    ok(cs_replica_marked(db, "", true, &page, &f->err));
    assert_int_equal(1, page.count);
    cs_store_done(f->store, db);
    ok(write_flag(f, &(struct flagging){.sid = "s1"}));
    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_replica_marked(db, "", false, &page, &f->err));
    assert_int_equal(1, page.count);
    cs_store_done(f->store, db);
}

/* ---- the log ---- */

/* Takes `room` messages of those that the test makes. */
struct taker {
    size_t room, count;
};

static enum cs_status take_news(void *arg, size_t item, const struct cs_replica_message *message,
                                struct cs_err *err)
{
    struct taker *taker = arg;

    (void)err;
    if (taker->count == taker->room)
        return CS_CANCELLED;
    assert_int_equal(taker->count / 2, item);
    assert_int_equal(taker->count % 2 + 1, message->seq);
    assert_non_null(memchr(message->frag, "abcd"[taker->count], message -> len));
    taker->count++;
    return CS_OK;
}

static void a_page_of_news_ends_before_what_is_not_taken(void **state)
{
    struct fixture *f = *state;
    int64_t first = add_session(f, 1), second = add_session(f, 2), id;
    struct cs_replica_news items[8];
    struct taker taker = {.room = 3};
    struct cs_replica_news_page page = {.items = items, .max = 8, .each = take_news, .arg = &taker};
    struct cs_db *db = NULL;

    (void)add_message(f, first, CS_MESSAGE_USER, "a", NULL, 1);
    (void)add_message(f, first, CS_MESSAGE_USER, "b", NULL, 2);
    id = add_message(f, second, CS_MESSAGE_USER, "c", NULL, 3);
    (void)add_message(f, second, CS_MESSAGE_USER, "d", NULL, 4);
    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_replica_news(db, 0, &page, &f->err));
    assert_int_equal(3, taker.count);
    assert_int_equal(2, page.count);
    assert_int_equal(1, items[1].to);
    assert_int_equal(id, page.upto);
    taker.room = 0;
    taker.count = 0;
    ok(cs_replica_news(db, id, &page, &f->err));
    assert_int_equal(0, page.count);
    assert_int_equal(id, page.upto);
    cs_store_done(f->store, db);
}

static void the_news_are_this_hosts_messages_behind_the_cursor(void **state)
{
    struct fixture *f = *state;
    int64_t first = add_session(f, 1), second = add_session(f, 2), id;
    struct cs_replica_news items[8];
    struct cs_replica_news_page page = {.items = items, .max = 8};
    struct cs_replica_mark mark;
    struct cs_db *db = NULL;
    char number[24];

    (void)add_message(f, first, CS_MESSAGE_USER, "a", NULL, 1);
    id = add_message(f, first, CS_MESSAGE_USER, "b", NULL, 2);
    (void)add_message(f, first, CS_MESSAGE_USER, "c", NULL, 3);
    (void)insert(f, second, (struct cs_replica_message){.origin = FAR, .seq = 1, .hlc = 5});
    (void)snprintf(number, sizeof number, "%lld", (long long)id);
    ok(write_pushed(f, &(struct flagging){.text = number}));

    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_replica_news(db, id, &page, &f->err));
    cs_store_done(f->store, db);
    assert_int_equal(1, page.count);
    assert_string_equal("s1", items[0].sid);
    assert_int_equal(3, items[0].from);
    assert_int_equal(3, items[0].to);
    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_replica_news(db, 0, &page, &f->err));
    cs_store_done(f->store, db);
    assert_int_equal(1, items[0].from);
    assert_int_equal(3, items[0].to);
    assert_int_equal(id + 2, page.upto); /* the other host's message counts as seen */
    mark = mark_of(f, "s1");
    assert_true(mark.unsent);
    cs_replica_mark_fini(&mark);
    mark = mark_of(f, "s2");
    assert_false(mark.unsent);
    cs_replica_mark_fini(&mark);
}

static void assert_pending(struct fixture *f, int64_t sessions, int64_t messages, int64_t oldest)
{
    struct cs_replica_figures figures;
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_replica_figures(db, &figures, &f->err));
    cs_store_done(f->store, db);
    assert_int_equal(sessions, figures.pending_sessions);
    assert_int_equal(messages, figures.pending_messages);
    assert_int_equal(oldest, figures.oldest_pending);
}

static void push_upto(struct fixture *f, int64_t id)
{
    char number[24];

    (void)snprintf(number, sizeof number, "%lld", (long long)id);
    ok(write_pushed(f, &(struct flagging){.text = number}));
}

static void what_waits_under_a_mark_is_pending_like_what_is_behind_the_cursor(void **state)
{
    struct fixture *f = *state;
    int64_t first = add_session(f, 1), second = add_session(f, 2), id;
    struct flagging unsent = {.sid = "s1", .flag = CS_REPLICA_UNSENT};
    struct cs_replica_mark mark;

    assert_pending(f, 0, 0, 0);
    id = add_message(f, first, CS_MESSAGE_USER, "taken", NULL, 1);
    push_upto(f, id);
    id = add_message(f, first, CS_MESSAGE_USER, "waits", NULL, 2);
    assert_pending(f, 1, 1, 2);
    ok(write_flag(f, &unsent));
    assert_pending(f, 1, 1, 2); /* not twice */
    push_upto(f, id);
    assert_pending(f, 1, 1, 2); /* the cursor passed */
    id = add_message(f, first, CS_MESSAGE_ASSISTANT, "answer", NULL, 3);
    assert_pending(f, 1, 2, 2);
    (void)insert(f, first, (struct cs_replica_message){.origin = FAR, .seq = 1, .hlc = INT64_MAX});
    ok(write_flag(f, &unsent));
    push_upto(f, id + 1);
    assert_pending(f, 1, 2, 2); /* not another host's; the mark keeps the first */
    (void)add_message(f, second, CS_MESSAGE_USER, "another", NULL, 1);
    assert_pending(f, 2, 3, 1);
    ok(write_flag(f, &(struct flagging){.sid = "s3", .flag = CS_REPLICA_DIRTY}));
    assert_pending(f, 3, 3, 1); /* a session that is not known yet */

    mark = mark_of(f, "s1");
    ok(write_clean(f, &(struct flagging){.sid = "s1", .generation = mark.generation}));
    cs_replica_mark_fini(&mark);
    assert_pending(f, 2, 1, 1);
    ok(write_flag(f, &unsent));
    assert_pending(f, 3, 1, 1); /* as after a return from the archive: Redis took all */
}

static void what_got_a_new_number_is_pending_again(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1), origin = own_origin(f), id;

    (void)add_message(f, session, CS_MESSAGE_USER, "one", NULL, 1);
    (void)add_message(f, session, CS_MESSAGE_USER, "two", NULL, 2);
    id = add_message(f, session, CS_MESSAGE_USER, "three", NULL, 3);
    push_upto(f, id);
    assert_int_equal(CS_REPLICA_FORKED,
                     insert(f, session,
                            (struct cs_replica_message){
                                .origin = origin, .seq = 2, .hlc = newest_hlc(f, session) + 1}));
    push_upto(f, id + 1);
    assert_pending(f, 0, 0, 0);
    ok(write_flag(f, &(struct flagging){.sid = "s1", .flag = CS_REPLICA_RENUMBERED}));
    assert_pending(f, 1, 3, 2); /* what came back is offered along */
}

static enum cs_status count_other(void *arg, const struct cs_replica_other *message,
                                  struct cs_err *err)
{
    int64_t *sum = arg;

    (void)err;
    assert_true(message->origin == FAR || message->origin == FAR + 1);
    assert_true(message->len > 0 && message->frag[0] == '{');
    *sum = *sum * 10 + (message->origin - FAR + 1);
    return *sum > 100 ? CS_CANCELLED : CS_OK;
}

/* The origins of others' messages among the newest @rows, 1 or 2, as digits. */
static int64_t others(struct fixture *f, int64_t rows)
{
    struct cs_db *db = NULL;
    int64_t sum = 0;

    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_replica_others(db, rows, count_other, &sum, &f->err));
    cs_store_done(f->store, db);
    return sum;
}

static void the_newest_messages_of_other_hosts_come_first(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);

    assert_int_equal(others(f, 100), 0);
    (void)insert(f, session, (struct cs_replica_message){.origin = FAR, .seq = 1, .hlc = 1});
    (void)add_message(f, session, CS_MESSAGE_USER, "ours", NULL, 1);
    (void)insert(f, session, (struct cs_replica_message){.origin = FAR + 1, .seq = 1, .hlc = 2});
    assert_int_equal(others(f, 100), 21);
    assert_int_equal(others(f, 2), 2);
    (void)insert(f, session, (struct cs_replica_message){.origin = FAR, .seq = 2, .hlc = 3});
    (void)insert(f, session, (struct cs_replica_message){.origin = FAR, .seq = 3, .hlc = 4});
    assert_int_equal(others(f, 100), 112); /* was told to end */
}

static void a_users_sessions_are_live_marked_or_deleted_ones_each_once(void **state)
{
    struct fixture *f = *state;
    char ids[8][CS_UUID_MAX];
    struct cs_id_page page = {.ids = ids, .max = 8};
    struct cs_vector tomb = {0};
    struct cs_db *db = NULL;

    (void)add_session(f, 1);
    (void)add_session(f, 3);
    ok(cs_vector_raise(&tomb, FAR, 1, NULL));
    ok(write_bury(f, &(struct flagging){.sid = "s2", .vector = &tomb}));
    ok(write_bury(f, &(struct flagging){.sid = "s3", .vector = &tomb}));
    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_replica_of_user(db, "anna", "", &page, &f->err));
    assert_int_equal(3, page.count);
    assert_string_equal("s1", ids[0]);
    assert_string_equal("s2", ids[1]);
    assert_string_equal("s3", ids[2]);
    ok(cs_replica_of_user(db, "anna", "s2", &page, &f->err));
    assert_int_equal(1, page.count);
    cs_store_done(f->store, db);
    cs_vector_fini(&tomb);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup_store, teardown)
    const struct CMUnitTest tests[] = {
        CASE(a_message_of_another_host_is_kept_byte_for_byte),
        CASE(the_same_message_again_changes_nothing),
        CASE(a_hole_in_an_origin_is_not_made),
        CASE(other_bytes_under_another_hosts_number_are_refused),
        CASE(a_host_that_went_back_in_time_numbers_anew),
        CASE(the_two_ways_of_a_host_that_went_back_are_not_mixed),
        CASE(a_stub_stands_for_one_message_and_not_for_its_number),
        CASE(numbers_that_others_know_and_we_do_not_are_not_used_again),
        CASE(a_deleted_session_that_returns_uses_no_number_of_its_tombstone),
        CASE(both_branches_are_shown_and_the_left_one_has_a_badge),
        CASE(a_model_is_told_the_active_branch_alone),
        CASE(an_answer_hangs_on_its_own_prompt),
        CASE(a_mark_set_meanwhile_is_not_cleared),
        CASE(tombstones_join),
        CASE(a_deletion_is_kept_until_it_was_told_and_then_for_its_time),
        CASE(of_too_many_deletions_that_wait_the_oldest_are_forgotten),
        CASE(what_was_set_aside_waits_for_a_change),
        CASE(a_page_of_news_ends_before_what_is_not_taken),
        CASE(the_news_are_this_hosts_messages_behind_the_cursor),
        CASE(what_waits_under_a_mark_is_pending_like_what_is_behind_the_cursor),
        CASE(what_got_a_new_number_is_pending_again),
        CASE(the_newest_messages_of_other_hosts_come_first),
        CASE(a_users_sessions_are_live_marked_or_deleted_ones_each_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
