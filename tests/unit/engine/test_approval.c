/* What Codex may ask a turn's owner: by a told Codex, and by the real ones. */
#include "turns.h"

static struct outcome outcome;

/* A turn that may be asked, up to its first question. */
static struct cs_engine_turn *ask_in(const char *prompt, const char *sandbox)
{
    static struct cs_engine_request request;
    request = request_for(prompt);
    request.approvals = true;
    request.sandbox = sandbox;
    request.cwd = bench.dir;
    outcome_init(&outcome);
    struct cs_engine_turn *turn = begin_turn(&bench, &request);
    if (!pull(turn, &outcome, CS_EVENT_APPROVAL, WAIT_MS)) {
        fail_msg("nothing asked: %s %s", outcome.code, outcome.why);
    }
    return turn;
}

static void end(struct cs_engine_turn *turn)
{
    assert_true(pull(turn, &outcome, CS_EVENT_DONE, WAIT_MS));
    cs_engine_turn_free(turn);
}

static void assert_not_open(struct cs_engine_turn *turn, const char *id)
{
    struct cs_err err = {0};
    assert_int_equal(cs_engine_turn_answer(turn, id, true, &err), CS_NOT_FOUND);
    assert_string_equal(err.code, "approval_not_found");
}

static bool exists(const char *name)
{
    char path[160];
    path_in(&bench, name, path);
    return access(path, F_OK) == 0;
}

/* Told. */

static void what_codex_asks_is_told_and_answered_as_decided(void **state)
{
    (void)state;
    bench_fake(&bench, CS_ENGINE_APP_SERVER, "");
    struct cs_engine_turn *turn = ask_in("[[propose]]", "read-only");
    assert_string_equal(outcome.ask_kind, "patch");
    assert_string_equal(outcome.ask_text,
                        "{\"reason\":\"so that it works\",\"changes\":[{\"path\":\"/w/a.txt\","
                        "\"kind\":{\"type\":\"add\"},\"diff\":\"hi\\n\"}]}");
    assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, true, NULL), CS_OK);
    assert_not_open(turn, outcome.ask);
    assert_not_open(turn, "0");
    assert_not_open(turn, "");

    assert_true(pull(turn, &outcome, CS_EVENT_APPROVAL, WAIT_MS));
    assert_string_equal(outcome.ask_kind, "permission");
    assert_string_equal(outcome.ask_text,
                        "{\"cwd\":\"/w\",\"permissions\":{\"network\":{\"enabled\":true}}}");
    assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, true, NULL), CS_OK);

    assert_true(pull(turn, &outcome, CS_EVENT_APPROVAL, WAIT_MS));
    assert_string_equal(outcome.ask_kind, "command");
    assert_string_equal(outcome.ask_text, "{\"command\":\"rm -r x\",\"cwd\":\"/w\"}");
    assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, false, NULL), CS_OK);
    end(turn);
    assert_ok(outcome);
    assert_int_equal(outcome.ask_count, 3);
    assert_says(outcome,
                "{\"id\": 0, \"jsonrpc\": \"2.0\", \"result\": {\"decision\": \"accept\"}}");
    assert_says(outcome, "{\"id\": \"p\", \"jsonrpc\": \"2.0\", \"result\": {\"permissions\": "
                         "{\"network\": {\"enabled\": true}}, \"scope\": \"turn\"}}");
    assert_says(outcome,
                "{\"id\": 1, \"jsonrpc\": \"2.0\", \"result\": {\"decision\": \"decline\"}}");
    /* of another turn: nobody is asked */
    assert_says(outcome,
                "{\"id\": 2, \"jsonrpc\": \"2.0\", \"result\": {\"decision\": \"decline\"}}");
    assert_int_equal(logged(&bench, "\"approvalPolicy\":\"on-request\""), 2);
    assert_int_equal(logged(&bench, "\"approvalsReviewer\":\"user\""), 2);
    outcome_fini(&outcome);
}

static void who_does_not_want_to_be_asked_is_not(void **state)
{
    (void)state;
    bench_fake(&bench, CS_ENGINE_APP_SERVER, "");
    struct cs_engine_request request = request_for("[[propose]]");
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_int_equal(outcome.ask_count, 0);
    assert_says(outcome,
                "{\"id\": 0, \"jsonrpc\": \"2.0\", \"result\": {\"decision\": \"decline\"}}");
    assert_says(outcome,
                "{\"id\": \"p\", \"jsonrpc\": \"2.0\", \"result\": {\"permissions\": {}}}");
    assert_int_equal(logged(&bench, "\"approvalPolicy\":\"never\""), 2);
    assert_int_equal(logged(&bench, "on-request"), 0);
    outcome_fini(&outcome);
    bench_end(&bench);

    bench_fake(&bench, CS_ENGINE_MCP, "");
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_int_equal(outcome.ask_count, 0);
    assert_int_equal(logged(&bench, "\"denied\""), 4);
    assert_int_equal(logged(&bench, "\"approval-policy\":\"never\""), 1);
    outcome_fini(&outcome);
}

static void only_so_many_questions_are_open_at_once(void **state)
{
    (void)state;
    char text[64];
    snprintf(text, sizeof(text), "[[asks %d]]", CS_LINK_ASKS_MAX + 1);
    bench_fake(&bench, CS_ENGINE_APP_SERVER, "");
    struct cs_engine_turn *turn = ask_in(text, "read-only");
    assert_true(soon_logged(&bench, "\"decline\"", 1)); /* the last one, at once */
    assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, true, NULL), CS_OK);
    while (outcome.ask_count < CS_LINK_ASKS_MAX) {
        assert_true(pull(turn, &outcome, CS_EVENT_APPROVAL, WAIT_MS));
        assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, true, NULL), CS_OK);
    }
    end(turn);
    assert_ok(outcome);
    assert_int_equal(outcome.ask_count, CS_LINK_ASKS_MAX);
    assert_says(outcome,
                "{\"id\": 16, \"jsonrpc\": \"2.0\", \"result\": {\"decision\": \"decline\"}}");
    assert_int_equal(logged(&bench, "\"accept\""), CS_LINK_ASKS_MAX);
    outcome_fini(&outcome);
}

static void what_codex_settles_itself_is_not_open_any_more(void **state)
{
    (void)state;
    bench_fake(&bench, CS_ENGINE_APP_SERVER, "");
    struct cs_engine_turn *turn = ask_in("[[settle]]", "read-only");
    /* what comes after the word of it: Codex goes on */
    assert_true(pull(turn, &outcome, CS_EVENT_MESSAGE, WAIT_MS));
    assert_not_open(turn, outcome.ask);
    cs_engine_turn_cancel(turn);
    end(turn);
    assert_int_equal(logged(&bench, "\"id\":\"s\""), 0);
    outcome_fini(&outcome);
}

static void a_cancelled_turn_leaves_no_question_without_an_answer(void **state)
{
    (void)state;
    bench_fake(&bench, CS_ENGINE_APP_SERVER, "");
    struct cs_engine_turn *turn = ask_in("[[asks 2]]", "read-only");
    cs_engine_turn_cancel(turn);
    end(turn);
    assert_int_equal(outcome.status, CS_CANCELLED);
    assert_true(soon_logged(&bench, "\"decline\"", 2));
    outcome_fini(&outcome);
    /* nor does one that is let go of */
    turn = ask_in("[[asks 2]]", "read-only");
    cs_engine_turn_free(turn);
    assert_true(soon_logged(&bench, "\"decline\"", 4));
    outcome_fini(&outcome);
}

static void a_question_ends_with_the_codex_that_asked(void **state)
{
    (void)state;
    bench_fake(&bench, CS_ENGINE_APP_SERVER, "");
    struct cs_engine_turn *lost = ask_in("[[asks 1]]", "read-only");
    struct outcome first = outcome;
    kill(child_pid(), SIGKILL);
    struct cs_engine_turn *turn = ask_in("[[asks 1]]", "read-only"); /* of another child, which */
    assert_not_open(lost, first.ask);                                /* counts from 0 too */
    assert_true(pull(lost, &first, CS_EVENT_DONE, WAIT_MS));
    assert_string_equal(first.code, "codex_died");
    cs_engine_turn_free(lost);
    outcome_fini(&first);
    assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, true, NULL), CS_OK);
    end(turn);
    assert_ok(outcome);
    assert_says(outcome,
                "{\"id\": 0, \"jsonrpc\": \"2.0\", \"result\": {\"decision\": \"accept\"}}");
    outcome_fini(&outcome);
}

static void mcp_asks_in_the_same_words(void **state)
{
    (void)state;
    bench_fake(&bench, CS_ENGINE_MCP, "");
    struct cs_engine_turn *turn = ask_in("[[propose]]", "read-only");
    assert_string_equal(outcome.ask_kind, "patch");
    assert_string_equal(outcome.ask_text,
                        "{\"reason\":\"so that it works\",\"changes\":[{\"path\":\"/w/a.txt\","
                        "\"kind\":{\"type\":\"update\",\"move_path\":\"/w/b.txt\"},"
                        "\"diff\":\"@@\"}]}");
    assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, false, NULL), CS_OK);
    assert_true(pull(turn, &outcome, CS_EVENT_APPROVAL, WAIT_MS));
    assert_string_equal(outcome.ask_kind, "command");
    assert_string_equal(outcome.ask_text,
                        "{\"command\":\"sh -c 'echo '\\\\''a b'\\\\'' $HOME' ''\",\"cwd\":\"/w\"}");
    assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, true, NULL), CS_OK);
    end(turn);
    assert_ok(outcome);
    assert_int_equal(outcome.ask_count, 2);
    assert_says(outcome, "{\"id\": 0, \"jsonrpc\": \"2.0\", \"result\": {\"action\": \"decline\", "
                         "\"decision\": \"denied\"}}");
    assert_says(outcome,
                "{\"id\": \"x\", \"jsonrpc\": \"2.0\", \"result\": {\"decision\": \"approved\"}}");
    assert_says(outcome, "{\"id\": 1, \"jsonrpc\": \"2.0\", \"result\": {\"action\": \"decline\"");
    assert_says(outcome, "{\"id\": 2, \"jsonrpc\": \"2.0\", \"result\": {\"action\": \"decline\"");
    assert_int_equal(logged(&bench, "\"approval-policy\":\"on-request\""), 1);
    assert_int_equal(logged(&bench, "\"approvals_reviewer\":\"user\""), 1);
    outcome_fini(&outcome);
}

static void an_mcp_conversation_with_another_policy_is_another_one(void **state)
{
    (void)state;
    bench_fake(&bench, CS_ENGINE_MCP, "");
    struct outcome first = good_turn("one", NULL, NULL);
    struct cs_engine_request request = request_for("two");
    request.thread_id = first.thread;
    request.approvals = true;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_not_equal(outcome.thread, first.thread);
    outcome_fini(&outcome);
}

static void exec_cannot_ask(void **state)
{
    (void)state;
    struct cs_engine_turn *turn = NULL;
    struct cs_err err = {0};
    bench_fake(&bench, CS_ENGINE_EXEC, "");
    struct cs_engine_request request = request_for("x");
    request.approvals = true;
    assert_int_equal(cs_engine_turn_start(bench.engine, &request, &turn, &err), CS_INVALID);
    assert_string_equal(err.code, "approvals_unavailable");
    assert_null(turn);
}

/* Real. */

static bool start_real(enum cs_engine_kind kind)
{
    return kind == CS_ENGINE_MCP ? bench_real(&bench, kind, "0.153.4", "CS_TEST_CODEX_MCP")
                                 : bench_real(&bench, kind, "0.169.0", "CS_TEST_CODEX");
}

static void approved_and_declined(enum cs_engine_kind kind)
{
    if (!start_real(kind)) {
        skip();
    }
    struct cs_engine_turn *turn = ask_in("[[escalate touch yes.txt]]", "read-only");
    assert_string_equal(outcome.ask_kind, "command");
    assert_non_null(strstr(outcome.ask_text, "\"command\":\"/bin/bash -lc 'touch yes.txt'\""));
    assert_false(exists("yes.txt"));
    assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, true, NULL), CS_OK);
    end(turn);
    assert_ok(outcome);
    assert_true(exists("yes.txt"));
    outcome_fini(&outcome);

    turn = ask_in("[[escalate touch no.txt]]", "read-only");
    assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, false, NULL), CS_OK);
    end(turn);
    assert_ok(outcome);
    assert_says(outcome, "Rejected");
    assert_false(exists("no.txt"));
    outcome_fini(&outcome);

    turn = ask_in("[[patch new.txt some words]]", "read-only");
    assert_string_equal(outcome.ask_kind, "patch");
    assert_non_null(strstr(outcome.ask_text, "/new.txt\",\"kind\":{\"type\":\"add\""));
    assert_non_null(strstr(outcome.ask_text, "some words"));
    assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, true, NULL), CS_OK);
    end(turn);
    assert_ok(outcome);
    assert_true(exists("new.txt"));
    outcome_fini(&outcome);
}

static void app_server_does_what_is_approved_and_not_what_is_declined(void **state)
{
    (void)state;
    approved_and_declined(CS_ENGINE_APP_SERVER);
}

static void mcp_does_what_is_approved_and_not_what_is_declined(void **state)
{
    (void)state;
    approved_and_declined(CS_ENGINE_MCP);
}

/* A turn is cancelled in its question, and the next ones go well. */
static void cancelled_in_a_question(enum cs_engine_kind kind)
{
    if (!start_real(kind)) {
        skip();
    }
    struct cs_engine_turn *turn = ask_in("[[escalate touch no.txt]]", "read-only");
    int64_t start = cs_mono_ms();
    cs_engine_turn_cancel(turn);
    end(turn);
    assert_int_equal(outcome.status, CS_CANCELLED);
    assert_in_range(cs_mono_ms() - start, 0, 2000);
    outcome_fini(&outcome);
    struct outcome next = good_turn("go on", NULL, NULL);
    assert_false(exists("no.txt"));
    assert_int_equal(next.message_count, 1);
}

static void app_server_is_cancelled_in_a_question(void **state)
{
    (void)state;
    cancelled_in_a_question(CS_ENGINE_APP_SERVER);
}

static void mcp_is_cancelled_in_a_question(void **state)
{
    (void)state;
    cancelled_in_a_question(CS_ENGINE_MCP);
}

/* A user may have told Codex to let a model decide: not where we were told to ask. */
static void nobody_answers_in_our_place(void **state)
{
    (void)state;
    if (!start_real(CS_ENGINE_APP_SERVER)) {
        skip();
    }
    char path[160];
    path_in(&bench, "home/config.toml", path);
    char *config = read_text_file(path), *with = NULL;
    assert_true(asprintf(&with, "approvals_reviewer = \"auto_review\"\n%s", config) > 0);
    write_text_file(path, with, 0600);
    struct cs_engine_turn *turn = ask_in("[[escalate touch no.txt]]", "read-only");
    assert_int_equal(cs_engine_turn_answer(turn, outcome.ask, false, NULL), CS_OK);
    end(turn);
    assert_ok(outcome);
    assert_false(exists("no.txt"));
    outcome_fini(&outcome);
    free(config);
    free(with);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_teardown(name, teardown)
        CASE(what_codex_asks_is_told_and_answered_as_decided),
        CASE(who_does_not_want_to_be_asked_is_not),
        CASE(only_so_many_questions_are_open_at_once),
        CASE(what_codex_settles_itself_is_not_open_any_more),
        CASE(a_cancelled_turn_leaves_no_question_without_an_answer),
        CASE(a_question_ends_with_the_codex_that_asked),
        CASE(mcp_asks_in_the_same_words),
        CASE(an_mcp_conversation_with_another_policy_is_another_one),
        CASE(exec_cannot_ask),
        CASE(app_server_does_what_is_approved_and_not_what_is_declined),
        CASE(mcp_does_what_is_approved_and_not_what_is_declined),
        CASE(app_server_is_cancelled_in_a_question),
        CASE(mcp_is_cancelled_in_a_question),
        CASE(nobody_answers_in_our_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
