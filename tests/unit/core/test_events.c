/* Who listens hears each lasting event once and in order, however it came to be, and no more waits
 * for a slow one than may.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/core/events.h"
#include "cs/store/replica.h"
#include "core_fixture.h"

#define FAR        INT64_C(0x0123456789abcdef) /* an origin of another host */
#define AT_ONCE    0
#define PUBLISHERS 4
#define EACH       200
#define MANY       9000 /* more than could wait in a feed one by one */

/* ---- turns ---- */

static struct cs_turn_request ask(const char *prompt)
{
    return (struct cs_turn_request){
        .prompt = prompt, .prompt_len = strlen(prompt), .ttl_seconds = -1};
}

static struct cs_turn *begin(struct fixture *f, const struct cs_turn_request *request)
{
    struct cs_turn *turn = NULL;
    char tid[CS_UUID_MAX];
    struct cs_err err = {0};

    if (cs_turn_begin(f->core, request, &turn, tid, &err) != CS_OK)
        fail_msg("%s", err.msg);
    assert_non_null(turn);
    return turn;
}

/* What the engine does with turns begun from now on. */
static void play(struct fixture *f, enum script script)
{
    pthread_mutex_lock(&f->engine.mutex);
    f->engine.script = script;
    pthread_mutex_unlock(&f->engine.mutex);
}

/* Run a turn to its end; out_sid gets its session. */
static void run(struct fixture *f, const struct cs_turn_request *request, char *out_sid)
{
    struct cs_turn *turn = begin(f, request);

    if (out_sid != NULL)
        memcpy(out_sid, cs_turn_sid(turn), CS_UUID_MAX);
    assert_int_equal(cs_turn_run(turn, NULL), CS_OK);
}

/* A turn that hangs, on a thread of its own, and a reference to it. */
static struct cs_turn *hang(struct fixture *f, const char *prompt)
{
    struct cs_turn_request request = ask(prompt);
    struct cs_turn *turn;

    play(f, HANG);
    turn = begin(f, &request);
    cs_turn_ref(turn);
    assert_int_equal(cs_turn_detach(turn, NULL), CS_OK);
    pthread_mutex_lock(&f->engine.mutex);
    while (f->engine.running == 0) /* it goes by the script of now */
        assert_true(cs_cond_wait(&f->engine.changed, &f->engine.mutex, SOON));
    pthread_mutex_unlock(&f->engine.mutex);
    return turn;
}

static void end_hanging(struct cs_turn *turn)
{
    (void)cs_registry_stop(turn, CS_STOP_CANCEL);
    cs_turn_unref(turn);
}

/* ---- rows ---- */

struct append {
    struct cs_message_new message;
    int64_t id;
};

static enum cs_status append(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct append *x = arg;

    return cs_message_append(db, &x->message, &x->id, err);
}

static enum cs_status append_and_fail(struct cs_db *db, void *arg, struct cs_err *err)
{
    assert_int_equal(append(db, arg, err), CS_OK);
    return CS_DENIED;
}

/* A prompt of no turn of ours, in session @rowid. */
static struct append prompt_row(int64_t rowid)
{
    return (struct append){.message = {.session = rowid,
                                       .kind = CS_MESSAGE_USER,
                                       .content = "p",
                                       .content_len = 1,
                                       .turn = "t",
                                       .at = 1}};
}

static int64_t rowid_of(struct fixture *f, const char *sid)
{
    struct cs_session session;
    int64_t id;

    assert_int_equal(cs_core_session(f->core, sid, &session, NULL), CS_OK);
    id = session.id;
    cs_session_fini(&session);
    return id;
}

/* ---- listening ---- */

static struct cs_feed *listen_to(struct fixture *f, struct cs_feed_filter filter)
{
    struct cs_feed *feed = NULL;
    struct cs_err err = {0};

    if (cs_feed_open(f->core, &filter, &feed, &err) != CS_OK)
        fail_msg("%s", err.msg);
    return feed;
}

static struct cs_event next(struct cs_feed *feed)
{
    struct cs_event event = {0};
    struct cs_err err = {0};
    int64_t deadline = SOON;

    if (cs_feed_next(feed, deadline, &event, &err) != CS_OK)
        fail_msg("%s", err.msg);
    assert_true(cs_mono_ms() < deadline); /* it was woken, and did not just look again */
    assert_int_equal(event.len, strlen(event.data));
    return event;
}

static struct cs_event expect(struct cs_feed *feed, const char *name, const char *part)
{
    struct cs_event event = next(feed);

    assert_string_equal(event.name, name);
    if (strstr(event.data, part) == NULL)
        fail_msg("%s: no %s in %s", name, part, event.data);
    return event;
}

static void expect_none(struct cs_feed *feed)
{
    struct cs_event event;

    assert_int_equal(cs_feed_next(feed, AT_ONCE, &event, NULL), CS_TIMEOUT);
}

static void expect_refused(struct fixture *f, struct cs_feed_filter filter, enum cs_status status,
                           const char *code)
{
    struct cs_feed *feed = NULL;
    struct cs_err err = {0};

    assert_int_equal(cs_feed_open(f->core, &filter, &feed, &err), status);
    assert_string_equal(err.code, code);
    assert_null(feed);
}

/* ---- cases ---- */

static void a_feed_of_a_turn_gives_it_from_its_prompt_to_its_answer(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("hello \"you\"");
    struct cs_turn *turn;
    struct cs_feed *feed;
    struct cs_event event;
    char ids[256];
    int64_t first;

    play(f, TALK);
    turn = begin(f, &request);
    snprintf(ids, sizeof ids,
             "{\"sessionId\":\"%s\",\"conversationId\":\"%s\",\"userId\":\"%s\",\"turnId\":\"%s\",",
             cs_turn_sid(turn), cs_turn_cid(turn), f->config.user, cs_turn_tid(turn));
    feed = listen_to(f, (struct cs_feed_filter){.turn = cs_turn_tid(turn), .after = 1000000});
    assert_int_equal(cs_turn_detach(turn, NULL), CS_OK);
    event = expect(feed, "turn.started", "\"prompt\":\"hello \\\"you\\\"\"");
    first = event.id;
    assert_true(first > 0);
    assert_memory_equal(event.data, ids, strlen(ids));
    event = expect(feed, "message.delta", "\"delta\":\"the \"}");
    assert_int_equal(event.id, 0);
    assert_memory_equal(event.data, ids, strlen(ids));
    expect(feed, "message.delta", "\"delta\":\"\\\"answer\\\"\"}");
    expect(feed, "item", "\"item\":{\"type\":\"reasoning\",\"id\":\"r1\"}}");
    expect(feed, "usage",
           "\"usage\":{\"inputTokens\":10,\"cachedInputTokens\":4,\"outputTokens\":3}}");
    event = expect(feed, "turn.completed", "\"response\":\"the \\\"answer\\\"\",\"metadata\":{");
    assert_true(event.id > first);
    assert_memory_equal(event.data, ids, strlen(ids));
    assert_non_null(strstr(event.data, "\"usage\":{\"inputTokens\":10,"));
    assert_non_null(strstr(event.data, "\"host\":\"here\""));
    expect_none(feed);
    cs_feed_close(feed);
}

static void a_turn_that_failed_says_why(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("hello");
    struct cs_feed *feed = listen_to(f, (struct cs_feed_filter){.after = -1});

    play(f, FAIL);
    run(f, &request, NULL);
    expect(feed, "turn.started", "\"prompt\":\"hello\"");
    expect(feed, "turn.failed",
           "\"status\":\"failed\",\"code\":\"codex_error\",\"error\":\"codex says codex_error\"}");
    cs_feed_close(feed);
}

static void a_turn_of_the_past_is_given_from_the_store(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("hello");
    struct cs_turn *turn = begin(f, &request);
    char tid[CS_UUID_MAX], sid[CS_UUID_MAX];
    struct cs_feed *feed;

    memcpy(tid, cs_turn_tid(turn), sizeof tid);
    memcpy(sid, cs_turn_sid(turn), sizeof sid);
    assert_int_equal(cs_turn_run(turn, NULL), CS_OK);
    request.continued = true;
    request.identifier = sid;
    run(f, &request, NULL); /* the next one */
    feed = listen_to(f, (struct cs_feed_filter){.turn = tid});
    expect(feed, "turn.started", tid);
    expect(feed, "turn.completed", tid);
    expect_none(feed);
    cs_feed_close(feed);
}

static void a_listener_that_comes_back_gets_what_it_missed(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("hello");
    int64_t ids[6], last = 0;
    struct cs_feed *feed;

    for (int i = 0; i < 3; i++)
        run(f, &request, NULL);
    feed = listen_to(f, (struct cs_feed_filter){.after = -1});
    expect_none(feed);
    cs_feed_close(feed);
    feed = listen_to(f, (struct cs_feed_filter){.after = 0});
    for (int i = 0; i < 6; i++) {
        ids[i] = expect(feed, i % 2 == 0 ? "turn.started" : "turn.completed", "").id;
        assert_true(ids[i] > last);
        last = ids[i];
    }
    expect_none(feed);
    cs_feed_close(feed);
    close_core(f); /* also over a restart */
    open_core(f);
    for (int i = 0; i < 6; i++) {
        feed = listen_to(f, (struct cs_feed_filter){.after = ids[i]});
        for (int k = i + 1; k < 6; k++)
            assert_int_equal(next(feed).id, ids[k]);
        expect_none(feed);
        cs_feed_close(feed);
    }
}

static void filters_narrow_what_is_heard(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request ours = ask("ours"), hers = ask("hers");
    struct cs_feed *by_session, *by_user, *by_both, *replay;
    char sid[CS_UUID_MAX], her_sid[CS_UUID_MAX];

    hers.user = "anna";
    play(f, TALK);
    run(f, &ours, sid);
    run(f, &hers, her_sid);
    ours = ask("ours again");
    ours.continued = true;
    ours.identifier = sid;
    by_session = listen_to(f, (struct cs_feed_filter){.identifier = sid, .after = -1});
    by_user = listen_to(f, (struct cs_feed_filter){.user = "anna", .after = -1});
    by_both = listen_to(f, (struct cs_feed_filter){.identifier = sid, .user = "anna", .after = -1});
    run(f, &hers, NULL);
    run(f, &ours, NULL);
    expect(by_session, "turn.started", "ours again");
    expect(by_session, "message.delta", sid);
    expect(by_user, "turn.started", "hers");
    for (int i = 0; i < 4; i++)
        assert_non_null(strstr(next(by_user).data, "\"userId\":\"anna\""));
    expect(by_user, "turn.completed", "\"userId\":\"anna\"");
    expect_none(by_user);
    expect_none(by_both);
    replay = listen_to(f, (struct cs_feed_filter){.identifier = sid, .after = 0});
    expect(replay, "turn.started", "\"ours\"");
    expect(replay, "turn.completed", sid);
    expect(replay, "turn.started", "ours again");
    expect(replay, "turn.completed", sid);
    expect_none(replay);
    cs_feed_close(replay);
    replay = listen_to(f, (struct cs_feed_filter){.identifier = her_sid, .after = 7});
    expect_none(replay); /* the eighth is not of this session */
    cs_feed_close(replay);
    replay = listen_to(f, (struct cs_feed_filter){.user = "anna", .after = 0});
    for (int i = 0; i < 4; i++)
        expect(replay, i % 2 == 0 ? "turn.started" : "turn.completed", "\"userId\":\"anna\"");
    expect_none(replay);
    cs_feed_close(replay);
    cs_feed_close(by_session);
    cs_feed_close(by_user);
    cs_feed_close(by_both);
}

static void what_cannot_be_listened_to_is_refused(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("hello");
    char sid[CS_UUID_MAX];

    run(f, &request, sid);
    expect_refused(f, (struct cs_feed_filter){.identifier = "nobody"}, CS_NOT_FOUND,
                   "session_not_found");
    expect_refused(f, (struct cs_feed_filter){.turn = "none"}, CS_NOT_FOUND, "turn_not_found");
    expect_refused(f, (struct cs_feed_filter){.after = 3}, CS_CONFLICT, "events_lost");
    assert_false(cs_events_heard(f->core));
}

static void a_deleted_session_is_passed_over_and_loses_nobody_his_place(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("hello");
    char sid[CS_UUID_MAX], gone[CS_UUID_MAX], again[CS_UUID_MAX];
    struct cs_feed *feed, *later;

    feed = listen_to(f, (struct cs_feed_filter){.after = -1});
    run(f, &request, sid);
    run(f, &request, gone);
    assert_int_equal(cs_core_delete(f->core, gone, again, NULL), CS_OK);
    later = listen_to(f, (struct cs_feed_filter){.after = 4}); /* the newest row was the fourth */
    expect_none(later);
    expect(feed, "turn.started", sid);
    expect(feed, "turn.completed", sid);
    expect_none(feed);
    cs_feed_close(feed);
    cs_feed_close(later);
}

static void what_was_rolled_back_and_contexts_are_no_events(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("hello");
    char sid[CS_UUID_MAX];
    struct append row;
    struct cs_feed *feed;

    request.context = "mind the gap";
    request.context_len = strlen(request.context);
    feed = listen_to(f, (struct cs_feed_filter){.after = -1});
    run(f, &request, sid);
    row = prompt_row(rowid_of(f, sid));
    assert_int_equal(cs_store_write(f->store, append_and_fail, &row, NULL), CS_DENIED);
    expect(feed, "turn.started", "hello");
    expect(feed, "turn.completed", sid);
    expect_none(feed);
    cs_feed_close(feed);
}

struct insertion {
    int64_t session;
    struct cs_replica_message message;
};

static enum cs_status insert(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct insertion *x = arg;
    enum cs_replica_outcome outcome = CS_REPLICA_DIFFERS;
    enum cs_status rc = cs_replica_insert(db, x->session, &x->message, 2000000, &outcome, err);

    assert_int_equal(outcome, CS_REPLICA_ADDED);
    return rc;
}

static void merge(struct fixture *f, int64_t session, int64_t seq, enum cs_message_kind kind,
                  const char *frag)
{
    struct insertion x = {.session = session,
                          .message = {.hlc = 1000 + seq,
                                      .origin = FAR,
                                      .seq = seq,
                                      .kind = kind,
                                      .turn = "far-turn",
                                      .frag = frag,
                                      .len = strlen(frag)}};

    assert_int_equal(cs_store_write(f->store, insert, &x, NULL), CS_OK);
}

static void messages_of_other_hosts_are_events_too(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("hello");
    struct cs_feed *feed;
    char sid[CS_UUID_MAX];
    int64_t session;

    run(f, &request, sid);
    session = rowid_of(f, sid);
    feed = listen_to(f, (struct cs_feed_filter){.identifier = sid, .after = -1});
    merge(f, session, 1, CS_MESSAGE_USER,
          "{\"type\":\"user\",\"content\":\"from afar\",\"host\":\"there\"}");
    merge(f, session, 2, CS_MESSAGE_ASSISTANT, "this is no JSON");
    merge(f, session, 3, CS_MESSAGE_ASSISTANT,
          "{\"type\":\"assistant\",\"content\":\"far\\u00e9\",\"host\":\"there\",\"model\":\"m\"}");
    merge(f, session, 4, CS_MESSAGE_OUTCOME,
          "{\"type\":\"error\",\"content\":\"it stopped\",\"code\":\"turn_interrupted\"}");
    expect(feed, "turn.started", "\"host\":\"there\",\"prompt\":\"from afar\"");
    expect(feed, "turn.completed",
           "\"host\":\"there\",\"response\":\"far\xc3\xa9\",\"metadata\":{\"model\":\"m\"");
    expect(feed, "turn.failed",
           "\"status\":\"interrupted\",\"code\":\"turn_interrupted\",\"error\":\"it stopped\"");
    expect_none(feed);
    cs_feed_close(feed);
}

static struct cs_engine_event delta_of(const char *text, size_t len)
{
    return (struct cs_engine_event){.type = CS_EVENT_DELTA, .text = text, .len = len, .detail = ""};
}

static void a_slow_reader_is_told_so_and_can_come_back(void **state)
{
    struct fixture *f = *state;
    static char text[1001];
    struct cs_engine_event delta = delta_of(text, 1000);
    struct cs_feed *slow, *quick, *again;
    struct cs_err err = {0};
    struct cs_event event;
    struct cs_turn *turn;
    int64_t seen;

    memset(text, 'x', 1000);
    slow = listen_to(f, (struct cs_feed_filter){.after = -1});
    quick = listen_to(f, (struct cs_feed_filter){.after = -1});
    turn = hang(f, "a long story");
    seen = expect(slow, "turn.started", "a long story").id;
    expect(quick, "turn.started", "a long story");
    for (int i = 0; i < 300; i++) {
        cs_event_of_engine(turn, &delta);
        expect(quick, "message.delta", text);
    }
    assert_int_equal(cs_feed_next(slow, AT_ONCE, &event, &err), CS_BUSY);
    assert_string_equal(err.code, "slow_reader");
    end_hanging(turn);
    expect(quick, "turn.failed", "turn_cancelled");
    assert_int_equal(cs_feed_next(slow, AT_ONCE, &event, NULL), CS_BUSY);
    again = listen_to(f, (struct cs_feed_filter){.after = seen});
    expect(again, "turn.failed", "turn_cancelled");
    cs_feed_close(again);
    cs_feed_close(slow);
    cs_feed_close(quick);
}

static enum cs_status append_many(struct cs_db *db, void *arg, struct cs_err *err)
{
    for (int i = 0; i < MANY; i++)
        assert_int_equal(append(db, arg, err), CS_OK);
    return CS_OK;
}

static void lasting_events_wait_in_the_store_however_many(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("hello");
    struct cs_feed *feed;
    char sid[CS_UUID_MAX];
    struct append row;
    int64_t last = 2;

    run(f, &request, sid);
    row = prompt_row(rowid_of(f, sid));
    feed = listen_to(f, (struct cs_feed_filter){.after = -1});
    assert_int_equal(cs_store_write(f->store, append_many, &row, NULL), CS_OK);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(next(feed).id, ++last);
    expect_none(feed);
    cs_feed_close(feed);
}

static void listeners_share_an_event_short_or_long(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("hello");
    static char text[20000];
    struct cs_feed *a, *b, *later;
    struct cs_event event;
    struct append row;
    char sid[CS_UUID_MAX];

    run(f, &request, sid);
    row = prompt_row(rowid_of(f, sid));
    memset(text, 'z', sizeof text);
    for (size_t len = 10; len <= sizeof text; len += sizeof text - 10) {
        row.message.content = text;
        row.message.content_len = len;
        a = listen_to(f, (struct cs_feed_filter){.after = -1});
        b = listen_to(f, (struct cs_feed_filter){.after = -1});
        assert_int_equal(cs_store_write(f->store, append, &row, NULL), CS_OK);
        event = next(a);
        assert_ptr_equal(event.data, next(b).data);
        cs_feed_close(a);
        assert_int_equal(strlen(event.data), event.len); /* the other one holds it */
        cs_feed_close(b);
        later = listen_to(f, (struct cs_feed_filter){.after = event.id - 1});
        assert_true(next(later).len > len);
        cs_feed_close(later);
    }
}

static void a_long_item_is_passed_on_by_its_id(void **state)
{
    struct fixture *f = *state;
    static char text[70000];
    struct cs_engine_event item = {.type = CS_EVENT_ITEM, .text = text, .detail = "fileChange"};
    struct cs_feed *feed = listen_to(f, (struct cs_feed_filter){.after = -1});
    struct cs_turn *turn = hang(f, "change it");

    memset(text, 'y', sizeof text - 1);
    memcpy(text, "{\"id\":\"i7\",\"diff\":\"", strlen("{\"id\":\"i7\",\"diff\":\""));
    memcpy(text + sizeof text - 3, "\"}", 2);
    item.len = sizeof text - 1;
    expect(feed, "turn.started", "change it");
    cs_event_of_engine(turn, &item);
    expect(feed, "item", ",\"item\":{\"type\":\"fileChange\",\"id\":\"i7\",\"truncated\":true}}");
    end_hanging(turn);
    cs_feed_close(feed);
}

/* What the disk still takes for a file. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void an_outcome_that_the_disk_refuses_is_told_in_passing_and_later_for_good(void **state)
{
    struct fixture *f = *state;
    struct cs_feed *feed = listen_to(f, (struct cs_feed_filter){.after = -1});
    struct cs_turn *turn = hang(f, "hello");

    expect(feed, "turn.started", "hello");
    (void)signal(SIGXFSZ, SIG_IGN);
    limit_files(0);
    (void)cs_registry_stop(turn, CS_STOP_CANCEL);
    assert_int_equal(expect(feed, "turn.failed", ",\"status\":\"failed\",\"code\":\"").id, 0);
    limit_files(RLIM_INFINITY);
    assert_true(expect(feed, "turn.failed", "\"status\":\"cancelled\"").id > 0);
    cs_turn_unref(turn);
    cs_feed_close(feed);
}

static void shutdown_ends_a_feed_after_what_waits(void **state)
{
    struct fixture *f = *state;
    struct cs_feed *feed = listen_to(f, (struct cs_feed_filter){.after = -1});
    struct cs_err err = {0};
    struct cs_event event;

    cs_turn_unref(hang(f, "hello"));
    assert_true(cs_core_drain(f->core, SOON));
    expect(feed, "turn.started", "hello");
    expect(feed, "turn.failed", "\"status\":\"interrupted\"");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(cs_feed_next(feed, SOON, &event, &err), CS_UNAVAILABLE);
        assert_string_equal(err.code, "shutting_down");
    }
    expect_refused(f, (struct cs_feed_filter){.after = -1}, CS_UNAVAILABLE, "shutting_down");
    cs_feed_close(feed);
}

static void *wake(void *arg)
{
    cs_feed_wake(arg);
    return NULL;
}

static void a_waiting_listener_can_be_woken(void **state)
{
    struct fixture *f = *state;
    struct cs_feed *feed = listen_to(f, (struct cs_feed_filter){.after = -1});
    struct cs_event event;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, wake, feed), 0);
    assert_int_equal(cs_feed_next(feed, CS_NEVER, &event, NULL), CS_CANCELLED);
    assert_int_equal(pthread_join(thread, NULL), 0);
    expect_none(feed);
    cs_feed_close(feed);
}

/* ---- many at once ---- */

struct publisher {
    struct fixture *f;
    struct cs_turn *turn; /* whose deltas are told */
    int64_t session;
    pthread_t thread;
};

static void *publish(void *arg)
{
    struct publisher *publisher = arg;
    struct cs_engine_event delta = delta_of("d", 1);

    for (int i = 0; i < EACH; i++) {
        struct append row = prompt_row(publisher->session);

        assert_int_equal(cs_store_write(publisher->f->store, append, &row, NULL), CS_OK);
        cs_event_of_engine(publisher->turn, &delta);
    }
    return NULL;
}

/* A listener that goes and comes back all the time, and misses nothing. */
struct visitor {
    struct fixture *f;
    const char *sid; /* NULL: all */
    int64_t from;    /* its first event is the one after */
    int64_t wanted;  /* events to hear */
    int64_t heard, last;
    bool wrong;
    pthread_t thread;
};

static void *visit(void *arg)
{
    struct visitor *visitor = arg;
    int64_t deadline = cs_mono_ms() + 60000;
    struct cs_event event;

    visitor->last = visitor->from;
    while (visitor->heard < visitor->wanted && !visitor->wrong && cs_mono_ms() < deadline) {
        struct cs_feed *feed =
            listen_to(visitor->f,
                      (struct cs_feed_filter){.identifier = visitor->sid, .after = visitor->last});

        /* until there is nothing more for the moment: the live ones follow on those of the log */
        while (cs_feed_next(feed, cs_mono_ms() + 1, &event, NULL) == CS_OK) {
            if (event.id == 0)
                continue;
            visitor->wrong = visitor->wrong || event.id <= visitor->last;
            visitor->last = event.id;
            visitor->heard++;
        }
        cs_feed_close(feed);
    }
    return NULL;
}

static void nothing_is_lost_or_given_twice_while_many_write_and_listeners_come_and_go(void **state)
{
    struct fixture *f = *state;
    struct publisher publishers[PUBLISHERS];
    struct visitor visitors[PUBLISHERS + 1];
    char sids[PUBLISHERS][CS_UUID_MAX];
    struct cs_turn *turn = hang(f, "hello");

    for (int i = 0; i < PUBLISHERS; i++) {
        struct cs_turn_request request = ask("hello");

        play(f, ANSWER);
        run(f, &request, sids[i]);
        publishers[i] = (struct publisher){.f = f, .turn = turn, .session = rowid_of(f, sids[i])};
    }
    for (int i = 0; i <= PUBLISHERS; i++)
        visitors[i] = (struct visitor){.f = f,
                                       .sid = i < PUBLISHERS ? sids[i] : NULL,
                                       .from = 1 + 2 * PUBLISHERS,
                                       .wanted = i < PUBLISHERS ? EACH : PUBLISHERS * EACH};
    for (int i = 0; i <= PUBLISHERS; i++)
        assert_int_equal(pthread_create(&visitors[i].thread, NULL, visit, &visitors[i]), 0);
    for (int i = 0; i < PUBLISHERS; i++)
        assert_int_equal(pthread_create(&publishers[i].thread, NULL, publish, &publishers[i]), 0);
    for (int i = 0; i < PUBLISHERS; i++)
        assert_int_equal(pthread_join(publishers[i].thread, NULL), 0);
    for (int i = 0; i <= PUBLISHERS; i++) {
        assert_int_equal(pthread_join(visitors[i].thread, NULL), 0);
        assert_false(visitors[i].wrong);
        assert_int_equal(visitors[i].heard, visitors[i].wanted);
    }
    /* the ids of all have no hole: the last one tells that none was missed */
    assert_int_equal(visitors[PUBLISHERS].last, 1 + 2 * PUBLISHERS + PUBLISHERS * EACH);
    end_hanging(turn);
}

static void what_a_fork_copies_is_no_event(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("once");
    struct cs_session fork;
    struct cs_feed *feed;
    char sid[CS_UUID_MAX];

    run(f, &request, sid);
    feed = listen_to(f, (struct cs_feed_filter){.after = 0});
    assert_int_equal(cs_core_fork(f->core, sid, &fork, NULL), CS_OK);
    (void)expect(feed, "turn.started", "once");
    (void)expect(feed, "turn.completed", sid);
    expect_none(feed);
    request = ask("in the fork");
    request.continued = true;
    request.identifier = fork.sid;
    run(f, &request, NULL);
    (void)expect(feed, "turn.started", fork.sid);
    cs_feed_close(feed);
    cs_session_fini(&fork);
}

/* Looks at a session each time its rows are told of, while their teller waits. */
struct witness {
    struct fixture *f;
    const char *sid;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    size_t told, looked;
    bool busy[2];
    unsigned messages[2];
};

static void wait_for_witness(void *arg, const struct cs_appended *rows, size_t count)
{
    struct witness *w = arg;
    int64_t deadline = SOON;

    (void)rows;
    assert_int_equal(count, 1);
    pthread_mutex_lock(&w->mutex);
    w->told++;
    pthread_cond_broadcast(&w->changed);
    while (w->looked < w->told && cs_cond_wait(&w->changed, &w->mutex, deadline))
        continue;
    assert_int_equal(w->looked, w->told);
    pthread_mutex_unlock(&w->mutex);
}

static void *look(void *arg)
{
    struct witness *w = arg;
    const struct cs_history *history;
    size_t i;

    for (i = 0; i < 2; i++) {
        pthread_mutex_lock(&w->mutex);
        while (w->told <= i)
            assert_true(cs_cond_wait(&w->changed, &w->mutex, SOON));
        pthread_mutex_unlock(&w->mutex);
        w->busy[i] = cs_registry_busy(w->f->core, w->sid);
        assert_int_equal(cs_core_history(w->f->core, w->sid, 0, 0, &history, NULL), CS_OK);
        w->messages[i] = (unsigned)history->count;
        cs_history_release(history);
        pthread_mutex_lock(&w->mutex);
        w->looked++;
        pthread_cond_broadcast(&w->changed);
        pthread_mutex_unlock(&w->mutex);
    }
    return NULL;
}

static void who_hears_of_a_message_reads_it_and_may_go_on_after_an_end(void **state)
{
    struct fixture *f = *state;
    char sid[CS_UUID_MAX];
    struct witness w = {.f = f, .sid = sid, .mutex = PTHREAD_MUTEX_INITIALIZER};
    struct cs_turn_request request = ask("one");
    pthread_t thread;

    run(f, &request, sid);
    request = ask("two");
    request.identifier = sid;
    request.continued = true;
    assert_int_equal(cs_cond_init(&w.changed, NULL), CS_OK);
    cs_store_listen(f->store, wait_for_witness, &w);
    assert_int_equal(pthread_create(&thread, NULL, look, &w), 0);
    run(f, &request, NULL);
    assert_int_equal(pthread_join(thread, NULL), 0);
    cs_store_listen(f->store, NULL, NULL);
    pthread_cond_destroy(&w.changed);
    assert_true(w.busy[0]);
    assert_int_equal(w.messages[0], 3);
    assert_false(w.busy[1]);
    assert_int_equal(w.messages[1], 4);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup_core, teardown_core)
    const struct CMUnitTest tests[] = {
        CASE(a_feed_of_a_turn_gives_it_from_its_prompt_to_its_answer),
        CASE(a_turn_that_failed_says_why),
        CASE(a_turn_of_the_past_is_given_from_the_store),
        CASE(a_listener_that_comes_back_gets_what_it_missed),
        CASE(filters_narrow_what_is_heard),
        CASE(what_cannot_be_listened_to_is_refused),
        CASE(a_deleted_session_is_passed_over_and_loses_nobody_his_place),
        CASE(what_was_rolled_back_and_contexts_are_no_events),
        CASE(what_a_fork_copies_is_no_event),
        CASE(messages_of_other_hosts_are_events_too),
        CASE(a_slow_reader_is_told_so_and_can_come_back),
        CASE(lasting_events_wait_in_the_store_however_many),
        CASE(listeners_share_an_event_short_or_long),
        CASE(a_long_item_is_passed_on_by_its_id),
        CASE(an_outcome_that_the_disk_refuses_is_told_in_passing_and_later_for_good),
        CASE(shutdown_ends_a_feed_after_what_waits),
        CASE(a_waiting_listener_can_be_woken),
        CASE(who_hears_of_a_message_reads_it_and_may_go_on_after_an_end),
        CASE(nothing_is_lost_or_given_twice_while_many_write_and_listeners_come_and_go),
    };
#undef CASE

    return cmocka_run_group_tests(tests, NULL, NULL);
}
