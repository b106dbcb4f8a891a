/* The MCP driver, over a Codex that does what it is told. */
#include "turns.h"

static void start_fake(const char *scenario)
{
    bench_fake(&bench, CS_ENGINE_MCP, scenario);
}

static void a_turn_tells_thread_model_deltas_message_and_usage(void **state)
{
    (void)state;
    start_fake("noise");
    struct cs_engine_request request = request_for("hello [[deltas 5]]");
    struct outcome outcome;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "new");
    assert_memory_equal(outcome.thread, "thread-", 7);
    assert_memory_equal(outcome.turn, "turn-", 5);
    assert_int_equal(outcome.started_count, 1);
    assert_string_equal(outcome.model, "default-model");
    assert_int_equal(outcome.delta_count, 5);
    assert_string_equal(outcome.deltas.data, outcome.message.data);
    assert_string_equal(outcome.message.data, "1 texts: hello [[deltas 5]]");
    assert_int_equal(outcome.message_count, 1);
    assert_int_equal(outcome.item_count, 1);
    assert_int_equal(outcome.used[0], 20); /* told twice, counted once */
    assert_int_equal(outcome.used[2], 5);
    assert_int_equal(outcome.totals[0], 20);
    outcome_fini(&outcome);
    assert_int_equal(logged(&bench, "\"approval-policy\":\"never\""), 1);
    assert_int_equal(logged(&bench, "\"sandbox\":\"read-only\""), 1);
}

static void deltas_in_both_forms_count_once(void **state)
{
    (void)state;
    start_fake("duplicate");
    struct cs_engine_request request = request_for("hello [[deltas 5]]");
    struct outcome outcome;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_int_equal(outcome.delta_count, 5);
    assert_string_equal(outcome.deltas.data, outcome.message.data);
    outcome_fini(&outcome);
}

static void a_second_turn_replies_in_its_conversation(void **state)
{
    (void)state;
    start_fake("");
    struct outcome first = good_turn("one", NULL, NULL);
    struct cs_engine_request request = request_for("two");
    struct outcome second;
    request.thread_id = first.thread;
    request.context = "mind this";
    request.context_len = strlen(request.context);
    run_turn(&bench, &request, &second);
    assert_ok(second);
    assert_string_equal(second.how, "loaded");
    assert_string_equal(second.thread, first.thread);
    assert_string_equal(second.model, "default-model");
    assert_says(second, "3 texts: one|1 texts: one|mind this\n\ntwo");
    outcome_fini(&second);
}

static void other_terms_need_another_conversation(void **state)
{
    (void)state;
    start_fake("");
    struct past past = {0};
    remember(&past, CS_ROLE_USER, "one");
    remember(&past, CS_ROLE_ASSISTANT, "1 texts: one");
    struct cs_engine_request request = request_for("one");
    struct outcome outcome;
    request.sandbox = "workspace-write";
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    outcome_fini(&outcome);
    struct outcome stricter = good_turn("two", outcome.thread, &past);
    assert_string_equal(stricter.how, "preamble");
    assert_string_not_equal(stricter.thread, outcome.thread);
    assert_int_equal(logged(&bench, "\"sandbox\":\"read-only\""), 1);
}

static void a_lost_conversation_goes_on_with_a_preamble(void **state)
{
    (void)state;
    start_fake("");
    struct past past = {0};
    remember(&past, CS_ROLE_USER, "what is 1+1?");
    remember(&past, CS_ROLE_ASSISTANT, "2");
    struct cs_engine_request request = request_for("and 2+2?");
    struct outcome outcome;
    request.thread_id = "thread-of-an-earlier-child";
    request.history = tell_past;
    request.history_arg = &past;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "preamble");
    assert_says(outcome, "1 texts: ");
    assert_int_equal(past.asked, 1);
    outcome_fini(&outcome);
    assert_int_equal(logged(&bench, "what is 1+1?"), 1);
    assert_int_equal(logged(&bench, "and 2+2?"), 1);
    assert_int_equal(logged(&bench, "codex-reply"), 0); /* it was not even tried */
}

static void a_conversation_that_codex_forgot_goes_on_with_a_preamble(void **state)
{
    (void)state;
    start_fake("forget");
    struct past past = {0};
    remember(&past, CS_ROLE_USER, "one");
    remember(&past, CS_ROLE_ASSISTANT, "1 texts: one");
    struct outcome first = good_turn("one", NULL, NULL);
    struct outcome outcome = good_turn("two", first.thread, &past);
    assert_string_equal(outcome.how, "preamble");
    assert_string_not_equal(outcome.thread, first.thread);
    assert_int_equal(logged(&bench, "codex-reply"), 1);
}

static void an_orphan_costs_a_new_conversation(void **state)
{
    (void)state;
    start_fake("");
    struct past past = {0};
    remember(&past, CS_ROLE_USER, "one");
    struct outcome first = good_turn("one", NULL, NULL);
    struct cs_engine_request request = request_for("two");
    struct outcome outcome;
    request.thread_id = first.thread;
    request.orphan_turn = "turn-x";
    request.history = tell_past;
    request.history_arg = &past;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "preamble");
    assert_string_not_equal(outcome.thread, first.thread);
    outcome_fini(&outcome);
}

static void a_failed_turn_has_a_name_and_leaves_its_conversation(void **state)
{
    (void)state;
    start_fake("");
    struct outcome first = good_turn("one", NULL, NULL);
    struct cs_engine_request request = request_for("x [[fail]]");
    struct outcome outcome;
    request.thread_id = first.thread;
    run_turn(&bench, &request, &outcome);
    assert_int_equal(outcome.status, CS_UPSTREAM);
    assert_string_equal(outcome.code, "codex_rate_limited");
    assert_non_null(strstr(outcome.why, "429"));
    outcome_fini(&outcome);
    struct outcome next = good_turn("two", first.thread, NULL);
    assert_string_equal(next.how, "new");
}

static void a_turn_dies_with_codex_and_the_next_starts_a_new_one(void **state)
{
    (void)state;
    start_fake("");
    struct past past = {0};
    remember(&past, CS_ROLE_USER, "one");
    struct outcome first = good_turn("one", NULL, NULL);
    struct cs_engine_request request = request_for("[[die]]");
    struct outcome outcome;
    int64_t children, restarts;
    request.thread_id = first.thread;
    run_turn(&bench, &request, &outcome);
    assert_int_equal(outcome.status, CS_UPSTREAM);
    assert_string_equal(outcome.code, "codex_died");
    assert_non_null(strstr(outcome.why, "out of the window"));
    outcome_fini(&outcome);
    struct outcome next = good_turn("two", first.thread, &past);
    assert_string_equal(next.how, "preamble");
    cs_engine_figures(bench.engine, &children, &restarts);
    assert_int_equal(children, 1);
    assert_int_equal(restarts, 1);
}

static void garbage_between_lines_is_ignored(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("x [[garbage]]");
    struct outcome outcome;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.message.data, "1 texts: x [[garbage]]");
    outcome_fini(&outcome);
}

static void a_nul_in_the_answer_does_not_hide_the_end_of_the_turn(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("x [[nul]]");
    struct outcome outcome;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.message.data, "a\xef\xbf\xbd"
                                              "b\\u0000c\xef\xbf\xbd");
    outcome_fini(&outcome);
}

static void too_long_a_line_ends_the_turn(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("x [[huge 5000000]]");
    struct outcome outcome;
    run_turn(&bench, &request, &outcome);
    assert_int_equal(outcome.status, CS_UPSTREAM);
    assert_string_equal(outcome.code, "reply_too_large");
    outcome_fini(&outcome);
    good_turn("and on", NULL, NULL);
}

static void whatever_codex_asks_is_denied(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("x [[ask]]");
    struct outcome outcome;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_says(outcome, "{\"id\": 0, \"jsonrpc\": \"2.0\", \"result\": {");
    assert_says(outcome, "\"decision\": \"denied\"");
    assert_says(outcome, "{\"id\": \"x\", \"jsonrpc\": \"2.0\", \"result\": {");
    assert_says(outcome, "{\"id\": 1, \"jsonrpc\": \"2.0\", \"result\": {}}");
    assert_says(outcome, "{\"error\": {\"code\": -32601, ");
    outcome_fini(&outcome);
}

static void a_cancelled_call_ends_though_it_is_never_answered(void **state)
{
    (void)state;
    start_fake("");
    struct outcome outcome = cancelled_turn("x [[wait]]", NULL, CS_EVENT_STARTED);
    assert_true(outcome.used[0] < 2000);
    struct outcome next = good_turn("y", outcome.thread, NULL);
    assert_string_not_equal(next.thread, outcome.thread); /* the old one has the orphaned prompt */
}

static void a_call_that_does_not_obey_is_given_up(void **state)
{
    (void)state;
    start_fake("");
    struct outcome outcome = cancelled_turn("x [[deaf]]", NULL, CS_EVENT_STARTED);
    assert_in_range(outcome.used[0], 2500, 6000);
    good_turn("y", outcome.thread, NULL);
}

static void a_turn_may_be_freed_in_each_state(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("x [[deltas 50]]");
    struct outcome outcome;
    for (int i = 0; i < 40; i++) {
        outcome_init(&outcome);
        struct cs_engine_turn *turn = begin_turn(&bench, &request);
        pull(turn, &outcome, CS_EVENT_DONE, i / 2);
        cs_engine_turn_free(turn);
        outcome_fini(&outcome);
    }
    good_turn("still here", NULL, NULL);
}

static void a_codex_that_stops_at_its_start_is_unavailable(void **state)
{
    (void)state;
    start_fake("crash");
    struct cs_engine_request request = request_for("x");
    struct outcome outcome;
    run_turn(&bench, &request, &outcome);
    assert_int_equal(outcome.status, CS_UNAVAILABLE);
    assert_string_equal(outcome.code, "codex_unavailable");
    assert_non_null(strstr(outcome.why, "out of the window"));
    outcome_fini(&outcome);
}

static void many_conversations_at_once_do_not_mix(void **state)
{
    (void)state;
    start_fake("");
    crowd_of_conversations(&bench, "5 texts: ");
    assert_int_equal(logged(&bench, "\"initialize\""), 1);
}

#define CASE(name) cmocka_unit_test_teardown(name, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_turn_tells_thread_model_deltas_message_and_usage),
        CASE(deltas_in_both_forms_count_once),
        CASE(a_second_turn_replies_in_its_conversation),
        CASE(other_terms_need_another_conversation),
        CASE(a_lost_conversation_goes_on_with_a_preamble),
        CASE(a_conversation_that_codex_forgot_goes_on_with_a_preamble),
        CASE(an_orphan_costs_a_new_conversation),
        CASE(a_failed_turn_has_a_name_and_leaves_its_conversation),
        CASE(a_turn_dies_with_codex_and_the_next_starts_a_new_one),
        CASE(garbage_between_lines_is_ignored),
        CASE(a_nul_in_the_answer_does_not_hide_the_end_of_the_turn),
        CASE(too_long_a_line_ends_the_turn),
        CASE(whatever_codex_asks_is_denied),
        CASE(a_cancelled_call_ends_though_it_is_never_answered),
        CASE(a_call_that_does_not_obey_is_given_up),
        CASE(a_turn_may_be_freed_in_each_state),
        CASE(a_codex_that_stops_at_its_start_is_unavailable),
        CASE(many_conversations_at_once_do_not_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
