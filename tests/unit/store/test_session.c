#include "fixture.h"

#define HOUR 3600000

/* ---- helpers ---- */

static struct cs_session get(struct fixture *f, int64_t id)
{
    struct cs_session session = {0};
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_session_get(db, id, &session, &f->err));
    cs_store_done(f->store, db);
    return session;
}

struct change {
    int64_t id, now;
    enum cs_archive_reason reason;
    const char *model;
};
WRITE(write_archive, struct change, cs_session_archive(db, x->id, x->reason, x->now, err))
WRITE(write_restore, struct change, cs_session_restore(db, x->id, x->now, err))
WRITE(write_model, struct change, cs_session_set_model(db, x->id, x->model, err))

static void archive(struct fixture *f, int64_t id, int64_t now)
{
    struct change change = {.id = id, .now = now, .reason = CS_ARCHIVE_EVICTED};

    ok(write_archive(f, &change));
}

struct expiry {
    int64_t now;
    unsigned max;
    void (*each)(const char *sid, const char *cid, void *arg);
    void *arg;
    int64_t archived, next;
};
WRITE(write_expire, struct expiry,
      cs_session_expire(db, x->now, x->max, x->each, x->arg, &x->archived, &x->next, err))
WRITE(write_purge, struct expiry, cs_session_purge(db, x->now, x->max, &x->archived, &x->next, err))

static struct expiry expire(struct fixture *f, int64_t now, unsigned max)
{
    struct expiry expiry = {.now = now, .max = max};

    ok(write_expire(f, &expiry));
    return expiry;
}

static struct cs_session_figures figures(struct fixture *f)
{
    struct cs_session_figures figures = {0};
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_session_figures(db, &figures, &f->err));
    cs_store_done(f->store, db);
    return figures;
}

static int64_t count_live(struct fixture *f, const char *user, bool own)
{
    struct cs_db *db = NULL;
    int64_t count = -1;

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_session_count_live(db, user, own, &count, NULL));
    cs_store_done(f->store, db);
    return count;
}

/* ---- rows ---- */

static void a_session_comes_back_as_it_was_put(void **state)
{
    struct fixture *f = *state;
    struct cs_session put = {.sid = "0199aaaa-0000-7000-8000-000000000001",
                             .cid = "0199aaaa-0000-7000-8000-000000000002",
                             .user = (char[]){"\xe3\x81\x82\xe3\x82\x93\xe3\x81\xaa"},
                             .own = true,
                             .model = (char[]){"m"},
                             .sandbox = (char[]){"workspace-write"},
                             .cwd = (char[]){"/home"},
                             .title = NULL,
                             .initial_prompt = (char[]){"p"},
                             .engine = (char[]){"mcp"},
                             .approval = (char[]){"on-request"},
                             .created_at = 1000,
                             .ttl_ms = 500};
    struct cs_session got = {0};
    struct cs_db *db = NULL;

    ok(write_session(f, &put));
    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_session_find(db, put.sid, &got, NULL));
    assert_int_equal(put.id, got.id);
    assert_string_equal(put.cid, got.cid);
    assert_string_equal(put.user, got.user);
    assert_true(got.own);
    assert_string_equal("m", got.model);
    assert_string_equal("workspace-write", got.sandbox);
    assert_string_equal("/home", got.cwd);
    assert_string_equal("", got.title);
    assert_string_equal("p", got.initial_prompt);
    assert_string_equal("mcp", got.engine);
    assert_string_equal("on-request", got.approval);
    assert_string_equal(cs_store_origin(f->store), got.origin);
    assert_int_equal(1000, got.created_at);
    assert_int_equal(500, got.ttl_ms);
    assert_int_equal(CS_SESSION_LIVE, got.state);
    assert_int_equal(CS_ARCHIVE_NONE, got.archive_reason);
    assert_int_equal(0, got.archived_at);
    assert_int_equal(1000, got.last_used_at);
    assert_int_equal(1500, got.expires_at);
    assert_int_equal(0, got.message_count);
    assert_false(got.last_failed);
    cs_session_fini(&got);
    ok(cs_session_find(db, put.cid, &got, NULL));
    assert_string_equal(put.sid, got.sid);
    cs_session_fini(&got);
    cs_store_done(f->store, db);
}

static void an_unknown_session_is_not_found(void **state)
{
    struct fixture *f = *state;
    struct cs_session got = {0};
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, NULL));
    assert_int_equal(CS_NOT_FOUND, cs_session_find(db, "nobody", &got, &f->err));
    assert_string_equal("session_not_found", f->err.code);
    assert_int_equal(CS_NOT_FOUND, cs_session_get(db, 99, &got, NULL));
    cs_store_done(f->store, db);
}

static void ids_are_used_once(void **state)
{
    struct fixture *f = *state;
    struct cs_session again = {.sid = "s1", .cid = "c2"};

    (void)add_session(f, 1);
    assert_int_equal(CS_CONFLICT, write_session(f, &again));
    assert_int_equal(1, figures(f).live);
}

static void an_origin_of_another_host_is_kept(void **state)
{
    struct fixture *f = *state;
    struct cs_session put = {.sid = "s1", .cid = "c1", .origin = (char[]){"00000000000000ff"}};
    struct cs_session got;

    ok(write_session(f, &put));
    got = get(f, put.id);
    assert_string_equal("00000000000000ff", got.origin);
    cs_session_fini(&got);
    put.origin = (char[]){"ff"};
    assert_int_equal(CS_INVALID, write_session(f, &put));
    put.origin = (char[]){"ffffffffffffffff"};
    assert_int_equal(CS_INVALID, write_session(f, &put));
    put.origin = (char[]){"000000000000000g"};
    assert_int_equal(CS_INVALID, write_session(f, &put));
}

static void the_newest_message_tells_the_last_use(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct cs_session got;

    (void)add_message(f, session, CS_MESSAGE_USER, "a", NULL, 2000000);
    (void)add_message(f, session, CS_MESSAGE_OUTCOME, "b", NULL, 3000000);
    got = get(f, session);
    assert_int_equal(3000000, got.last_used_at);
    assert_int_equal(3000000 + HOUR, got.expires_at);
    assert_int_equal(2, got.message_count);
    assert_true(got.last_failed);
    cs_session_fini(&got);
    (void)add_message(f, session, CS_MESSAGE_ASSISTANT, "c", NULL, 4000000);
    got = get(f, session);
    assert_false(got.last_failed);
    cs_session_fini(&got);
}

static void the_model_can_be_set(void **state)
{
    struct fixture *f = *state;
    struct change change = {.id = add_session(f, 1), .model = "fallback"};
    struct cs_session got;

    ok(write_model(f, &change));
    got = get(f, change.id);
    assert_string_equal("fallback", got.model);
    cs_session_fini(&got);
    change.id = 99;
    assert_int_equal(CS_NOT_FOUND, write_model(f, &change));
}

/* ---- archive ---- */

static void a_session_goes_to_the_archive_and_back(void **state)
{
    struct fixture *f = *state;
    struct change change = {.id = add_session(f, 1), .now = 5000000, .reason = CS_ARCHIVE_EVICTED};
    struct cs_session got;

    assert_int_equal(CS_CONFLICT, write_restore(f, &change));
    assert_string_equal("not_archived", f->err.code);
    ok(write_archive(f, &change));
    got = get(f, change.id);
    assert_int_equal(CS_SESSION_ARCHIVED, got.state);
    assert_int_equal(CS_ARCHIVE_EVICTED, got.archive_reason);
    assert_int_equal(5000000, got.archived_at);
    cs_session_fini(&got);
    assert_int_equal(0, figures(f).live);
    assert_int_equal(1, figures(f).archived);
    assert_int_equal(CS_CONFLICT, write_archive(f, &change));
    assert_string_equal("not_live", f->err.code);

    change.now = 9000000;
    ok(write_restore(f, &change));
    got = get(f, change.id);
    assert_int_equal(CS_SESSION_LIVE, got.state);
    assert_int_equal(CS_ARCHIVE_NONE, got.archive_reason);
    assert_int_equal(9000000, got.last_used_at);
    assert_int_equal(9000000 + HOUR, got.expires_at);
    cs_session_fini(&got);
    assert_int_equal(1, figures(f).live);
    assert_int_equal(0, figures(f).archived);

    ok(write_archive(f, &change));
    change.now = 8000000; /* the clock was set back: a later return is later all the same */
    ok(write_restore(f, &change));
    got = get(f, change.id);
    assert_int_equal(9000001, got.restored_at);
    cs_session_fini(&got);

    change.id = 99;
    assert_int_equal(CS_NOT_FOUND, write_archive(f, &change));
    assert_int_equal(CS_NOT_FOUND, write_restore(f, &change));
}

static void a_deleted_session_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    int64_t other = add_session(f, 2);
    int64_t archived = add_session(f, 3);
    struct cs_turn_row turn = {0};
    struct cs_db *db = NULL;
    int64_t done = begin_turn(f, session, 1, 5);
    int64_t running;
    int64_t kept = begin_turn(f, other, 3, 5);
    int64_t count = 0;

    end_turn(f, session, done, 1, CS_TURN_COMPLETED, 6);
    running = begin_turn(f, session, 2, 7);
    archive(f, archived, 8);
    ok(write_delete(f, &session));
    ok(write_delete(f, &archived));
    assert_int_equal(CS_NOT_FOUND, write_delete(f, &session));
    ok(cs_store_read(f->store, &db, NULL));
    assert_int_equal(CS_NOT_FOUND, cs_turn_get(db, done, &turn, NULL));
    assert_int_equal(CS_NOT_FOUND, cs_turn_get(db, running, &turn, NULL));
    ok(cs_turn_get(db, kept, &turn, NULL));
    cs_turn_row_fini(&turn);
    struct cs_turn_figures turns;
    ok(cs_turn_figures(db, &turns, NULL));
    assert_int_equal(1, turns.running);
    assert_int_equal(1, turns.completed); /* it was one */
    cs_store_done(f->store, db);
    free(history(f, session, 0, 0, &count, NULL));
    assert_int_equal(0, count);
    free(history(f, other, 0, 0, &count, NULL));
    assert_int_equal(1, count);
    assert_int_equal(1, figures(f).live);
    assert_int_equal(0, figures(f).archived);
    assert_sound(f);
}

/* ---- listing ---- */

static void assert_list(struct fixture *f, struct cs_session_filter filter, const char *expected,
                        int64_t *out_next)
{
    struct cs_session_list list = {0};
    struct cs_db *db = NULL;
    char found[512] = "";
    size_t used = 0;

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_session_list(db, &filter, &list, &f->err));
    cs_store_done(f->store, db);
    for (size_t i = 0; i < list.count; i++)
        used += (size_t)snprintf(found + used, sizeof found - used, "%s%s", i > 0 ? " " : "",
                                 list.items[i].sid);
    assert_string_equal(expected, found);
    if (out_next != NULL)
        *out_next = list.next_before_id;
    cs_session_list_fini(&list);
}

/* s1 … s6: odd ones are anna's, even ones ben's; s1 and s2 are archived; s3 and s4 failed. */
static void fill(struct fixture *f)
{
    for (int i = 1; i <= 6; i++) {
        int64_t id = add_session_of(f, i, i % 2 == 1 ? "anna" : "ben", 1000000 + i, HOUR);

        (void)add_message(f, id, i == 3 || i == 4 ? CS_MESSAGE_OUTCOME : CS_MESSAGE_ASSISTANT, "x",
                          NULL, 2000000);
        if (i <= 2)
            archive(f, id, 3000000);
    }
}

static void listings_are_filtered(void **state)
{
    struct fixture *f = *state;

    fill(f);
    assert_list(f, (struct cs_session_filter){.limit = 10}, "s6 s5 s4 s3 s2 s1", NULL);
    assert_list(f, (struct cs_session_filter){.limit = 10, .live = 1}, "s6 s5 s4 s3", NULL);
    assert_list(f, (struct cs_session_filter){.limit = 10, .live = -1}, "s2 s1", NULL);
    assert_list(f, (struct cs_session_filter){.limit = 10, .failed = 1}, "s4 s3", NULL);
    assert_list(f, (struct cs_session_filter){.limit = 10, .failed = -1, .live = 1}, "s6 s5", NULL);
    assert_list(f, (struct cs_session_filter){.limit = 10, .user = "anna"}, "s5 s3 s1", NULL);
    assert_list(f, (struct cs_session_filter){.limit = 10, .user = "anna", .live = 1}, "s5 s3",
                NULL);
    assert_list(f, (struct cs_session_filter){.limit = 10, .user = "ben", .live = -1}, "s2", NULL);
    assert_list(f, (struct cs_session_filter){.limit = 10, .user = "nobody"}, "", NULL);
}

static void listings_are_paged(void **state)
{
    struct fixture *f = *state;
    int64_t next = 0;

    fill(f);
    assert_list(f, (struct cs_session_filter){.limit = 4}, "s6 s5 s4 s3", &next);
    assert_true(next > 0);
    assert_list(f, (struct cs_session_filter){.limit = 4, .before_id = next}, "s2 s1", &next);
    assert_int_equal(0, next);
    assert_list(f, (struct cs_session_filter){.limit = 6}, "s6 s5 s4 s3 s2 s1", &next);
    assert_int_equal(0, next);
    assert_list(f, (struct cs_session_filter){.limit = 1, .user = "anna", .live = 1}, "s5", &next);
    assert_list(
        f, (struct cs_session_filter){.limit = 1, .user = "anna", .live = 1, .before_id = next},
        "s3", &next);
    assert_int_equal(0, next);
}

static void a_listing_has_1_to_500_rows(void **state)
{
    struct fixture *f = *state;
    struct cs_session_filter filter = {.limit = 0};
    struct cs_session_list list = {0};
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, NULL));
    assert_int_equal(CS_INVALID, cs_session_list(db, &filter, &list, NULL));
    filter.limit = 501;
    assert_int_equal(CS_INVALID, cs_session_list(db, &filter, &list, NULL));
    assert_null(list.items);
    cs_store_done(f->store, db);
}

static void live_sessions_are_counted_per_user_and_kind(void **state)
{
    struct fixture *f = *state;
    struct cs_session own = {.sid = "s7", .cid = "c7", .user = (char[]){"anna"}, .own = true};

    fill(f);
    ok(write_session(f, &own));
    assert_int_equal(2, count_live(f, "anna", false));
    assert_int_equal(1, count_live(f, "anna", true));
    assert_int_equal(0, count_live(f, "nobody", false));
}

static void the_figures_tell_the_oldest(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(0, figures(f).oldest_live_at);
    fill(f);
    assert_int_equal(4, figures(f).live);
    assert_int_equal(2, figures(f).archived);
    assert_int_equal(1000003, figures(f).oldest_live_at);
    fixture_reopen(f);
    assert_int_equal(4, figures(f).live);
}

/* ---- eviction and expiry ---- */

static void the_session_used_least_recently_gives_way(void **state)
{
    struct fixture *f = *state;
    int64_t ids[5];
    struct cs_session found = {0};
    struct cs_db *db = NULL;

    for (int i = 0; i < 5; i++) {
        ids[i] = add_session_of(f, i, "anna", 1000, HOUR);
        (void)add_message(f, ids[i], CS_MESSAGE_USER, "x", NULL,
                          5000 - i); /* 4 is the least recent */
    }
    (void)begin_turn(f, ids[4], 4, 4000);
    archive(f, ids[3], 6000);
    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_session_least_recent(db, "anna", false, ids[2], &found, NULL));
    assert_int_equal(ids[1], found.id);
    cs_session_fini(&found);
    ok(cs_session_least_recent(db, "anna", false, 0, &found, NULL));
    assert_int_equal(ids[2], found.id);
    cs_session_fini(&found);
    assert_int_equal(CS_NOT_FOUND, cs_session_least_recent(db, "anna", true, 0, &found, NULL));
    assert_int_equal(CS_NOT_FOUND, cs_session_least_recent(db, "ben", false, 0, &found, NULL));
    cs_store_done(f->store, db);
}

static void note_sid(const char *sid, const char *cid, void *arg)
{
    char *names = arg;

    assert_int_equal(sid[1], cid[1]);
    (void)strncat(names, sid, 3); /* NOLINT: room for four */
}

static void sessions_expire_when_their_time_has_passed(void **state)
{
    struct fixture *f = *state;
    char names[32] = "";
    struct expiry expiry = {.now = 1000 + HOUR - 1, .max = 10, .each = note_sid, .arg = names};
    struct cs_session got;
    int64_t used;

    (void)add_session_of(f, 1, "anna", 1000, HOUR);
    used = add_session_of(f, 2, "anna", 1000, HOUR);
    (void)add_session_of(f, 3, "anna", 1000, 0); /* never */
    (void)add_message(f, used, CS_MESSAGE_USER, "x", NULL, 2000);
    ok(write_expire(f, &expiry));
    assert_int_equal(0, expiry.archived);
    assert_int_equal(1000 + HOUR, expiry.next);

    expiry.now = 1000 + HOUR;
    ok(write_expire(f, &expiry));
    assert_int_equal(1, expiry.archived);
    assert_string_equal("s1", names);
    assert_int_equal(2000 + HOUR, expiry.next); /* moved, not archived */

    expiry.now = 2000 + HOUR;
    ok(write_expire(f, &expiry));
    assert_int_equal(1, expiry.archived);
    assert_true(expiry.next == INT64_MAX);
    got = get(f, used);
    assert_int_equal(CS_SESSION_ARCHIVED, got.state);
    assert_int_equal(CS_ARCHIVE_EXPIRED, got.archive_reason);
    assert_int_equal(2000 + HOUR, got.archived_at);
    cs_session_fini(&got);
    assert_int_equal(1, figures(f).live);
}

static void a_session_with_a_running_turn_does_not_expire(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session_of(f, 1, "anna", 1000, HOUR);
    int64_t turn = begin_turn(f, session, 1, 1000);
    int64_t now = 1000 + 2 * (int64_t)HOUR;
    struct expiry expiry = expire(f, now, 10);

    assert_int_equal(0, expiry.archived);
    assert_in_range(expiry.next, now + 1, now + 60000);
    end_turn(f, session, turn, 1, CS_TURN_COMPLETED, now);
    expiry = expire(f, expiry.next, 10);
    assert_int_equal(0, expiry.archived);
    assert_int_equal(now + HOUR, expiry.next);
}

static void no_more_than_asked_expire_at_once(void **state)
{
    struct fixture *f = *state;
    struct expiry expiry;

    for (int i = 0; i < 5; i++)
        (void)add_session_of(f, i, "anna", 1000 + i, HOUR);
    expiry = expire(f, 5000 + HOUR, 2);
    assert_int_equal(2, expiry.archived);
    assert_int_equal(1002 + HOUR, expiry.next); /* due already: call again */
    expiry = expire(f, 5000 + HOUR, 100);
    assert_int_equal(3, expiry.archived);
}

static void the_archive_is_purged_oldest_first(void **state)
{
    struct fixture *f = *state;
    struct expiry purge = {.now = 200, .max = 1};
    int64_t ids[4];

    for (int i = 0; i < 4; i++)
        ids[i] = add_session(f, i);
    archive(f, ids[1], 100);
    archive(f, ids[0], 200);
    archive(f, ids[2], 300);
    ok(write_purge(f, &purge));
    assert_int_equal(1, purge.archived);
    assert_int_equal(200, purge.next);
    purge.max = 10;
    ok(write_purge(f, &purge));
    assert_int_equal(1, purge.archived);
    assert_int_equal(300, purge.next);
    purge.now = 300;
    ok(write_purge(f, &purge));
    assert_true(purge.next == INT64_MAX);
    assert_int_equal(1, figures(f).live);
    assert_int_equal(0, figures(f).archived);
    assert_list(f, (struct cs_session_filter){.limit = 10}, "s3", NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_store, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_session_comes_back_as_it_was_put),
        TEST(an_unknown_session_is_not_found),
        TEST(ids_are_used_once),
        TEST(an_origin_of_another_host_is_kept),
        TEST(the_newest_message_tells_the_last_use),
        TEST(the_model_can_be_set),
        TEST(a_session_goes_to_the_archive_and_back),
        TEST(a_deleted_session_leaves_nothing),
        TEST(listings_are_filtered),
        TEST(listings_are_paged),
        TEST(a_listing_has_1_to_500_rows),
        TEST(live_sessions_are_counted_per_user_and_kind),
        TEST(the_figures_tell_the_oldest),
        TEST(the_session_used_least_recently_gives_way),
        TEST(sessions_expire_when_their_time_has_passed),
        TEST(a_session_with_a_running_turn_does_not_expire),
        TEST(no_more_than_asked_expire_at_once),
        TEST(the_archive_is_purged_oldest_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
