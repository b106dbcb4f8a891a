#include "fixture.h"

/* ---- helpers ---- */

static struct cs_turn_row get(struct fixture *f, int64_t id)
{
    struct cs_turn_row turn = {0};
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_turn_get(db, id, &turn, &f->err));
    cs_store_done(f->store, db);
    return turn;
}

static struct cs_turn_figures figures(struct fixture *f)
{
    struct cs_turn_figures figures = {0};
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_turn_figures(db, &figures, &f->err));
    cs_store_done(f->store, db);
    return figures;
}

/* ---- cases ---- */

static void each_status_has_its_name(void **state)
{
    (void)state;
    assert_string_equal("running", cs_turn_status_name(CS_TURN_RUNNING));
    assert_string_equal("completed", cs_turn_status_name(CS_TURN_COMPLETED));
    assert_string_equal("failed", cs_turn_status_name(CS_TURN_FAILED));
    assert_string_equal("interrupted", cs_turn_status_name(CS_TURN_INTERRUPTED));
    assert_string_equal("cancelled", cs_turn_status_name(CS_TURN_CANCELLED));
}

static void a_new_turn_runs(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_row new = {.tid = "t9",
                              .session = add_session(f, 1),
                              .continued = true,
                              .started_at = 5,
                              .timeout_ms = 6,
                              .model = (char[]){"m"},
                              .sandbox = (char[]){"read-only"},
                              .prompt_message = 7,
                              .evicted = (char[]){"[\"s0\"]"}};
    struct cs_turn_row turn;

    ok(write_turn(f, &new));
    turn = get(f, new.id);
    assert_string_equal("t9", turn.tid);
    assert_int_equal(new.session, turn.session);
    assert_true(turn.continued);
    assert_int_equal(CS_TURN_RUNNING, turn.status);
    assert_int_equal(5, turn.started_at);
    assert_int_equal(0, turn.ended_at);
    assert_int_equal(6, turn.timeout_ms);
    assert_string_equal("m", turn.model);
    assert_string_equal("read-only", turn.sandbox);
    assert_string_equal("", turn.engine);
    assert_string_equal("", turn.thread_id);
    assert_int_equal(-1, turn.usage.input);
    assert_int_equal(-1, turn.total.output);
    assert_int_equal(7, turn.prompt_message);
    assert_int_equal(0, turn.answer_message);
    assert_string_equal("", turn.error_code);
    assert_string_equal("[\"s0\"]", turn.evicted);
    cs_turn_row_fini(&turn);
    assert_int_equal(1, figures(f).running);
}

static void a_turn_ends_with_all_that_is_known(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_row end = {.id = begin_turn(f, add_session(f, 1), 1, 5),
                              .status = CS_TURN_FAILED,
                              .ended_at = 9,
                              .duration_ms = 4,
                              .model = (char[]){"other"},
                              .model_fallback = true,
                              .engine = (char[]){"mcp"},
                              .engine_version = (char[]){"0.1"},
                              .thread_id = (char[]){"th"},
                              .engine_turn_id = (char[]){"et"},
                              .usage = {10, -1, 3},
                              .total = {100, 40, 30},
                              .answer_message = 8,
                              .error_code = (char[]){"boom"},
                              .error = (char[]){"it went boom"}};
    struct cs_turn_row turn;

    ok(write_end(f, &end));
    turn = get(f, end.id);
    assert_int_equal(CS_TURN_FAILED, turn.status);
    assert_int_equal(5, turn.started_at);
    assert_int_equal(9, turn.ended_at);
    assert_int_equal(4, turn.duration_ms);
    assert_string_equal("other", turn.model);
    assert_true(turn.model_fallback);
    assert_string_equal("mcp", turn.engine);
    assert_string_equal("0.1", turn.engine_version);
    assert_string_equal("th", turn.thread_id);
    assert_string_equal("et", turn.engine_turn_id);
    assert_int_equal(10, turn.usage.input);
    assert_int_equal(-1, turn.usage.cached_input);
    assert_int_equal(3, turn.usage.output);
    assert_int_equal(100, turn.total.input);
    assert_int_equal(40, turn.total.cached_input);
    assert_int_equal(30, turn.total.output);
    assert_int_equal(8, turn.answer_message);
    assert_string_equal("boom", turn.error_code);
    assert_string_equal("it went boom", turn.error);
    assert_string_equal("[]", turn.evicted);
    cs_turn_row_fini(&turn);
    assert_int_equal(CS_CONFLICT, write_end(f, &end));
    assert_string_equal("turn_not_running", f->err.code);
}

static void a_turn_cannot_end_as_running(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_row end = {.id = begin_turn(f, add_session(f, 1), 1, 5)};

    assert_int_equal(CS_INVALID, write_end(f, &end));
}

static void a_session_runs_one_turn_at_a_time(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct cs_turn_row second = {.tid = "t2", .session = session};
    int64_t first = begin_turn(f, session, 1, 5);

    assert_int_equal(CS_CONFLICT, write_turn(f, &second));
    assert_string_equal("session_busy", f->err.code);
    end_turn(f, session, first, 1, CS_TURN_COMPLETED, 6);
    ok(write_turn(f, &second));
}

static void a_turn_id_is_used_once(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_row again = {.tid = "t1", .session = add_session(f, 2)};

    (void)begin_turn(f, add_session(f, 1), 1, 5);
    assert_int_equal(CS_CONFLICT, write_turn(f, &again));
    assert_string_equal("turn_exists", f->err.code);
}

static void turns_are_found_by_their_id(void **state)
{
    struct fixture *f = *state;
    int64_t id = begin_turn(f, add_session(f, 1), 1, 5);
    struct cs_turn_row turn = {0};
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_turn_find(db, "t1", &turn, NULL));
    assert_int_equal(id, turn.id);
    cs_turn_row_fini(&turn);
    assert_int_equal(CS_NOT_FOUND, cs_turn_find(db, "t2", &turn, &f->err));
    assert_string_equal("turn_not_found", f->err.code);
    assert_int_equal(CS_NOT_FOUND, cs_turn_get(db, 99, &turn, NULL));
    assert_null(turn.model);
    cs_store_done(f->store, db);
}

static void the_last_turn_of_a_session_is_the_one_begun_last(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    int64_t other = add_session(f, 2);
    struct cs_turn_row turn = {0};
    struct cs_db *db = NULL;
    int64_t second;

    ok(cs_store_read(f->store, &db, NULL));
    assert_int_equal(CS_NOT_FOUND, cs_turn_last(db, session, &turn, NULL));
    cs_store_done(f->store, db);
    end_turn(f, session, begin_turn(f, session, 1, 5), 1, CS_TURN_COMPLETED, 6);
    second = begin_turn(f, session, 2, 7);
    (void)begin_turn(f, other, 3, 8);
    /* A turn that ran on another host has messages here, but no row. */
    (void)add_message(f, session, CS_MESSAGE_USER, "elsewhere", "t99", 9);
    (void)add_message(f, session, CS_MESSAGE_CONTEXT, "no turn", NULL, 9);
    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_turn_last(db, session, &turn, NULL));
    assert_int_equal(second, turn.id);
    cs_turn_row_fini(&turn);
    cs_store_done(f->store, db);
}

static void figures_add_up(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_figures all;

    for (int i = 0; i < 10; i++) {
        int64_t session = add_session(f, i);
        int64_t turn = begin_turn(f, session, i, 5);

        if (i < 9)
            end_turn(f, session, turn, i, (enum cs_turn_status)(1 + i % 4), 6);
    }
    all = figures(f);
    assert_int_equal(1, all.running);
    assert_int_equal(3, all.completed);
    assert_int_equal(2, all.failed);
    assert_int_equal(2, all.interrupted);
    assert_int_equal(2, all.cancelled);
    assert_int_equal(90, all.usage.input);
    assert_int_equal(36, all.usage.cached_input);
    assert_int_equal(27, all.usage.output);
}

static void ending_an_unknown_turn_is_a_conflict(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_row end = {.id = 99, .status = CS_TURN_COMPLETED};

    assert_int_equal(CS_CONFLICT, write_end(f, &end));
    assert_int_equal(0, figures(f).completed);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_store, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_status_has_its_name),
        TEST(a_new_turn_runs),
        TEST(a_turn_ends_with_all_that_is_known),
        TEST(a_turn_cannot_end_as_running),
        TEST(a_session_runs_one_turn_at_a_time),
        TEST(a_turn_id_is_used_once),
        TEST(turns_are_found_by_their_id),
        TEST(the_last_turn_of_a_session_is_the_one_begun_last),
        TEST(figures_add_up),
        TEST(ending_an_unknown_turn_is_a_conflict),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
