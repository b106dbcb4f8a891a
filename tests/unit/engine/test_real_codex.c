/* The drivers over the real Codex: 0.169.0 for app-server, 0.153.4 (the last one that has it) for
 * MCP. Skipped where they are not installed. */
#include "turns.h"

static bool start_real(enum cs_engine_kind kind)
{
    return kind == CS_ENGINE_MCP ? bench_real(&bench, kind, "0.153.4", "CS_TEST_CODEX_MCP")
                                 : bench_real(&bench, kind, "0.169.0", "CS_TEST_CODEX");
}

#define START(kind)                                                                                \
    do {                                                                                           \
        (void)state;                                                                               \
        if (!start_real(kind)) {                                                                   \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

static void app_server_remembers_across_turns_and_restarts(void **state)
{
    START(CS_ENGINE_APP_SERVER);
    struct outcome first = good_turn("my name is Ada", NULL, NULL);
    assert_string_equal(first.how, "new");
    assert_string_equal(first.model, "gpt-5-codex");
    struct cs_engine_request request = request_for("what is my name?");
    struct outcome outcome;
    request.thread_id = first.thread;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "loaded");
    assert_says(outcome, "I saw 3 messages (2 from you, 1 from me).");
    assert_says(outcome, "Ada");
    assert_true(outcome.used[0] > 0 && outcome.totals[0] > outcome.used[0]);
    outcome_fini(&outcome);
    bench_stop_engine(&bench);
    bench_engine(&bench, CS_ENGINE_APP_SERVER, NULL);
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "resumed");
    assert_says(outcome, "I saw 5 messages (3 from you, 2 from me).");
    outcome_fini(&outcome);
}

static void app_server_with_an_empty_home_gets_the_transcript(void **state)
{
    START(CS_ENGINE_APP_SERVER);
    struct outcome first = good_turn("my name is Ada", NULL, NULL);
    bench_stop_engine(&bench);
    codex_home(&bench, "empty");
    bench_engine(&bench, CS_ENGINE_APP_SERVER, NULL);
    struct past past = {0};
    remember(&past, CS_ROLE_USER, "my name is Ada");
    remember(&past, CS_ROLE_ASSISTANT, "Good morning, Ada. \xe3\x81\x82 \xf0\x9f\x8c\xb8");
    struct cs_engine_request request = request_for("what is my name?");
    struct outcome outcome;
    request.thread_id = first.thread;
    request.history = tell_past;
    request.history_arg = &past;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "injected");
    assert_says(outcome, "I saw 3 messages (2 from you, 1 from me).");
    outcome_fini(&outcome);
}

static void app_server_does_not_show_an_interrupted_prompt_again(void **state)
{
    START(CS_ENGINE_APP_SERVER);
    struct outcome first = good_turn("my name is Ada", NULL, NULL);
    struct outcome lost = cancelled_turn("[[stall]]", first.thread, CS_EVENT_STARTED);
    struct cs_engine_request request = request_for("what is my name?");
    struct outcome outcome;
    request.thread_id = first.thread;
    request.orphan_turn = lost.turn;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "reverted");
    assert_string_equal(outcome.thread, first.thread);
    assert_says(outcome, "I saw 3 messages (2 from you, 1 from me).");
    outcome_fini(&outcome);
}

static void app_server_killed_in_a_turn_does_not_show_its_prompt_again(void **state)
{
    START(CS_ENGINE_APP_SERVER);
    struct outcome first = good_turn("my name is Ada", NULL, NULL);
    struct cs_engine_request request = request_for("[[stall]]");
    struct outcome lost, outcome;
    outcome_init(&lost);
    request.thread_id = first.thread;
    struct cs_engine_turn *turn = begin_turn(&bench, &request);
    assert_true(pull(turn, &lost, CS_EVENT_STARTED, WAIT_MS));
    usleep(200000);
    kill(child_pid(), SIGKILL);
    assert_true(pull(turn, &lost, CS_EVENT_DONE, WAIT_MS));
    assert_string_equal(lost.code, "codex_died");
    cs_engine_turn_free(turn);
    request = request_for("what is my name?");
    request.thread_id = first.thread;
    request.orphan_turn = lost.turn;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "reverted");
    assert_says(outcome, "I saw 3 messages (2 from you, 1 from me).");
    outcome_fini(&outcome);
    outcome_fini(&lost);
}

static void app_server_is_cancelled_quickly_and_its_tools_with_it(void **state)
{
    START(CS_ENGINE_APP_SERVER);
    char prompt[64];
    char look[96];
    struct outcome outcome;
    /* a length of its own: other runs of this test may be under way on this machine */
    snprintf(prompt, sizeof(prompt), "[[tool sleep 4%07d]]", getpid());
    snprintf(look, sizeof(look), "pgrep -f '^sleep 4%07d' >/dev/null", getpid());
    struct cs_engine_request request = request_for(prompt);
    outcome_init(&outcome);
    request.sandbox = "danger-full-access";
    struct cs_engine_turn *turn = begin_turn(&bench, &request);
    assert_true(pull(turn, &outcome, CS_EVENT_STARTED, WAIT_MS));
    for (int i = 0; i < 500 && system(look) != 0; i++) {
        pull(turn, &outcome, CS_EVENT_DONE, 10);
    }
    int64_t start = cs_mono_ms();
    cs_engine_turn_cancel(turn);
    assert_true(pull(turn, &outcome, CS_EVENT_DONE, WAIT_MS));
    assert_in_range(cs_mono_ms() - start, 0, 2000);
    assert_int_equal(outcome.status, CS_CANCELLED);
    cs_engine_turn_free(turn);
    for (int i = 0; i < 200 && system(look) == 0; i++) {
        usleep(10000);
    }
    assert_int_not_equal(system(look), 0);
    outcome_fini(&outcome);
}

static void app_server_obeys_a_cancel_however_early(void **state)
{
    START(CS_ENGINE_APP_SERVER);
    good_turn("warm up", NULL, NULL);
    for (int ms = 0; ms < 40; ms += 3) {
        struct cs_engine_request request = request_for("[[stall]]");
        struct outcome outcome;
        outcome_init(&outcome);
        struct cs_engine_turn *turn = begin_turn(&bench, &request);
        pull(turn, &outcome, CS_EVENT_DONE, ms);
        int64_t start = cs_mono_ms();
        cs_engine_turn_cancel(turn);
        assert_true(pull(turn, &outcome, CS_EVENT_DONE, WAIT_MS));
        assert_in_range(cs_mono_ms() - start, 0, 2500); /* it was not given up */
        assert_int_equal(outcome.status, CS_CANCELLED);
        cs_engine_turn_free(turn);
        outcome_fini(&outcome);
    }
}

static void app_server_errors_have_names(void **state)
{
    START(CS_ENGINE_APP_SERVER);
    static const struct {
        const char *prompt, *code;
    } cases[] = {
        {"[[status 401]]", "codex_auth"},
        {"[[status 429]]", "codex_rate_limited"},
        {"[[status 500]]", "codex_error"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cs_engine_request request = request_for(cases[i].prompt);
        struct outcome outcome;
        run_turn(&bench, &request, &outcome);
        assert_int_equal(outcome.status, CS_UPSTREAM);
        assert_string_equal(outcome.code, cases[i].code);
        outcome_fini(&outcome);
    }
}

static void app_server_serves_many_conversations_at_once(void **state)
{
    START(CS_ENGINE_APP_SERVER);
    crowd_of_conversations(&bench, "I saw 5 messages (3 from you, 2 from me).");
}

static void mcp_remembers_across_turns_and_restarts(void **state)
{
    START(CS_ENGINE_MCP);
    struct outcome first = good_turn("my name is Ada", NULL, NULL);
    assert_string_equal(first.how, "new");
    assert_string_equal(first.model, "gpt-5-codex");
    struct past past = {0};
    remember(&past, CS_ROLE_USER, "my name is Ada");
    remember(&past, CS_ROLE_ASSISTANT, "Good morning, Ada. \xe3\x81\x82 \xf0\x9f\x8c\xb8");
    struct cs_engine_request request = request_for("what is my name?");
    struct outcome outcome;
    request.thread_id = first.thread;
    request.history = tell_past;
    request.history_arg = &past;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "loaded");
    assert_says(outcome, "I saw 3 messages (2 from you, 1 from me).");
    assert_true(outcome.used[0] > 0 && outcome.totals[0] > outcome.used[0]);
    assert_true(outcome.delta_count > 0);
    assert_string_equal(outcome.deltas.data, outcome.message.data);
    assert_int_equal(past.asked, 0);
    outcome_fini(&outcome);
    bench_stop_engine(&bench);
    bench_engine(&bench, CS_ENGINE_MCP, NULL);
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "preamble");
    assert_says(outcome, "I saw 1 message (1 from you, 0 from me).");
    assert_says(outcome, "Good morning, Ada. \xe3\x81\x82 \xf0\x9f\x8c\xb8");
    outcome_fini(&outcome);
}

static void mcp_keeps_context_over_twenty_turns_with_a_restart(void **state)
{
    START(CS_ENGINE_MCP);
    static char texts[40][512];
    struct past past = {0};
    struct outcome outcome;
    char thread[64] = "";
    for (int i = 0; i < 20; i++) {
        if (i == 10) {
            bench_stop_engine(&bench);
            bench_engine(&bench, CS_ENGINE_MCP, NULL);
        }
        snprintf(texts[i * 2], sizeof(texts[0]), "this is prompt %d", i);
        struct cs_engine_request request = request_for(texts[i * 2]);
        request.thread_id = *thread ? thread : NULL;
        request.history = tell_past;
        request.history_arg = &past;
        run_turn(&bench, &request, &outcome);
        assert_ok(outcome);
        assert_string_equal(outcome.how, i == 0 ? "new" : i == 10 ? "preamble" : "loaded");
        snprintf(thread, sizeof(thread), "%s", outcome.thread);
        snprintf(texts[i * 2 + 1], sizeof(texts[0]), "answer %d", i);
        remember(&past, CS_ROLE_USER, texts[i * 2]);
        remember(&past, CS_ROLE_ASSISTANT, texts[i * 2 + 1]);
        if (i == 19) {
            assert_says(outcome, "I saw 19 messages (10 from you, 9 from me).");
        }
        outcome_fini(&outcome);
    }
}

static void mcp_does_not_show_a_cancelled_prompt_again(void **state)
{
    START(CS_ENGINE_MCP);
    struct past past = {0};
    remember(&past, CS_ROLE_USER, "my name is Ada");
    remember(&past, CS_ROLE_ASSISTANT, "Good morning");
    struct outcome first = good_turn("my name is Ada", NULL, NULL);
    struct outcome lost = cancelled_turn("[[stall]]", first.thread, CS_EVENT_STARTED);
    assert_true(lost.used[0] < 2500);
    struct cs_engine_request request = request_for("what is my name?");
    struct outcome outcome;
    request.thread_id = first.thread;
    request.history = tell_past;
    request.history_arg = &past;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "preamble");
    assert_false(says_text(&outcome, "stall"));
    outcome_fini(&outcome);
}

static void mcp_obeys_a_cancel_however_early(void **state)
{
    START(CS_ENGINE_MCP);
    good_turn("warm up", NULL, NULL);
    for (int ms = 0; ms < 30; ms += 3) {
        struct cs_engine_request request = request_for("[[stall]]");
        struct outcome outcome;
        outcome_init(&outcome);
        struct cs_engine_turn *turn = begin_turn(&bench, &request);
        pull(turn, &outcome, CS_EVENT_DONE, ms);
        int64_t start = cs_mono_ms();
        cs_engine_turn_cancel(turn);
        assert_true(pull(turn, &outcome, CS_EVENT_DONE, WAIT_MS));
        assert_in_range(cs_mono_ms() - start, 0, 2500); /* it was not given up */
        assert_int_equal(outcome.status, CS_CANCELLED);
        cs_engine_turn_free(turn);
        outcome_fini(&outcome);
    }
}

static void mcp_errors_have_names(void **state)
{
    START(CS_ENGINE_MCP);
    static const struct {
        const char *prompt, *code;
    } cases[] = {
        {"[[status 401]]", "codex_auth"},
        {"[[status 429]]", "codex_rate_limited"},
        {"[[status 500]]", "codex_error"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cs_engine_request request = request_for(cases[i].prompt);
        struct outcome outcome;
        run_turn(&bench, &request, &outcome);
        assert_int_equal(outcome.status, CS_UPSTREAM);
        assert_string_equal(outcome.code, cases[i].code);
        outcome_fini(&outcome);
    }
}

static void mcp_serves_many_conversations_at_once(void **state)
{
    START(CS_ENGINE_MCP);
    crowd_of_conversations(&bench, "I saw 5 messages (3 from you, 2 from me).");
}

#define CASE(name) cmocka_unit_test_teardown(name, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(app_server_remembers_across_turns_and_restarts),
        CASE(app_server_with_an_empty_home_gets_the_transcript),
        CASE(app_server_does_not_show_an_interrupted_prompt_again),
        CASE(app_server_killed_in_a_turn_does_not_show_its_prompt_again),
        CASE(app_server_is_cancelled_quickly_and_its_tools_with_it),
        CASE(app_server_obeys_a_cancel_however_early),
        CASE(app_server_errors_have_names),
        CASE(app_server_serves_many_conversations_at_once),
        CASE(mcp_remembers_across_turns_and_restarts),
        CASE(mcp_keeps_context_over_twenty_turns_with_a_restart),
        CASE(mcp_does_not_show_a_cancelled_prompt_again),
        CASE(mcp_obeys_a_cancel_however_early),
        CASE(mcp_errors_have_names),
        CASE(mcp_serves_many_conversations_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
