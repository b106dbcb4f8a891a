/* The app-server driver, over a Codex that does what it is told. */
#include "turns.h"

static void start_fake(const char *scenario)
{
    bench_fake(&bench, CS_ENGINE_APP_SERVER, scenario);
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
    assert_int_equal(outcome.item_count, 1);
    assert_int_equal(outcome.used[0], 10); /* told twice, counted once */
    assert_int_equal(outcome.used[2], 5);
    assert_int_equal(outcome.totals[0], 10);
    outcome_fini(&outcome);
    assert_int_equal(logged(&bench, "\"read-only\""), 1);
    assert_int_equal(logged(&bench, "{\"type\":\"readOnly\",\"networkAccess\":true}"),
                     1); /* Codex's own policy */
    assert_int_equal(logged(&bench, "\"approvalPolicy\":\"never\""), 2);
}

static void a_second_turn_finds_its_thread_loaded(void **state)
{
    (void)state;
    start_fake("");
    struct outcome first = good_turn("one", NULL, NULL);
    struct cs_engine_request request = request_for("two");
    struct outcome second;
    request.thread_id = first.thread;
    request.context = "mind this";
    request.context_len = strlen(request.context);
    request.sandbox = "workspace-write";
    run_turn(&bench, &request, &second);
    assert_ok(second);
    assert_string_equal(second.how, "loaded");
    assert_string_equal(second.thread, first.thread);
    assert_says(second, "3 texts: one|1 texts: one|mind this\ntwo");
    assert_int_equal(second.used[0], 10);
    assert_int_equal(second.totals[0], 20);
    outcome_fini(&second);
    assert_int_equal(logged(&bench, "\"thread/start\""), 1);
    assert_int_equal(logged(&bench, "{\"type\":\"workspaceWrite\"}"), 1);
}

static void an_unloaded_thread_is_resumed(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("two");
    struct outcome outcome;
    request.thread_id = "thread-old";
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "resumed");
    assert_string_equal(outcome.thread, "thread-old");
    assert_says(outcome, "2 texts: from the files|two");
    outcome_fini(&outcome);
    assert_int_equal(logged(&bench, "\"excludeTurns\":true"), 1);
}

static void a_lost_thread_is_rebuilt_from_the_transcript(void **state)
{
    (void)state;
    start_fake("forget");
    struct past past = {0};
    remember(&past, CS_ROLE_USER, "what is 1+1?");
    remember(&past, CS_ROLE_ASSISTANT, "2");
    struct cs_engine_request request = request_for("and 2+2?");
    struct outcome outcome;
    request.thread_id = "thread-lost";
    request.history = tell_past;
    request.history_arg = &past;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "injected");
    assert_string_not_equal(outcome.thread, "thread-lost");
    assert_says(outcome, "3 texts: what is 1+1?|2|and 2+2?");
    assert_int_equal(past.asked, 1);
    outcome_fini(&outcome);
    assert_int_equal(logged(&bench, "\"output_text\""), 1);
}

static void the_transcript_goes_into_the_prompt_where_injection_is_unknown(void **state)
{
    (void)state;
    start_fake("forget,no-inject");
    struct past past = {0};
    remember(&past, CS_ROLE_USER, "what is 1+1?");
    remember(&past, CS_ROLE_ASSISTANT, "2");
    struct cs_engine_request request = request_for("and 2+2?");
    struct outcome outcome;
    request.thread_id = "thread-lost";
    request.history = tell_past;
    request.history_arg = &past;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "preamble");
    assert_says(outcome, "1 texts: ");
    assert_int_equal(past.asked, 1);
    outcome_fini(&outcome);
    assert_int_equal(logged(&bench, "and 2+2?"), 1);
    assert_true(logged(&bench, "what is 1+1?") >=
                2); /* the injection that failed, and the prompt */
}

static void an_orphaned_turn_is_reverted(void **state)
{
    (void)state;
    start_fake("");
    struct outcome first = good_turn("one", NULL, NULL);
    struct cs_engine_request request = request_for("lost [[fail]]");
    struct outcome outcome;
    request.thread_id = first.thread;
    run_turn(&bench, &request, &outcome);
    assert_int_equal(outcome.status, CS_UPSTREAM);
    assert_string_equal(outcome.code, "context_window_exceeded");
    assert_string_equal(outcome.why, "out of room");
    assert_int_equal(outcome.used[0], -1);
    struct outcome again;
    request = request_for("two");
    request.thread_id = first.thread;
    request.orphan_turn = outcome.turn;
    run_turn(&bench, &request, &again);
    assert_ok(again);
    assert_string_equal(again.how, "reverted");
    assert_string_equal(again.thread, first.thread);
    assert_says(again, "3 texts: one|1 texts: one|two");
    outcome_fini(&again);
    outcome_fini(&outcome);
}

static void an_orphan_that_the_owner_does_not_know_of_is_reverted_too(void **state)
{
    (void)state;
    start_fake("");
    struct outcome first = good_turn("one", NULL, NULL);
    struct cs_engine_request request = request_for("lost [[fail]]");
    struct outcome outcome;
    request.thread_id = first.thread;
    run_turn(&bench, &request, &outcome);
    outcome_fini(&outcome);
    request = request_for("two");
    request.thread_id = first.thread;
    run_turn(&bench, &request, &outcome);
    assert_string_equal(outcome.how, "reverted");
    outcome_fini(&outcome);
    run_turn(&bench, &request, &outcome);
    assert_string_equal(outcome.how, "loaded"); /* once is enough */
    outcome_fini(&outcome);
}

static void an_orphan_that_never_reached_codex_needs_no_revert(void **state)
{
    (void)state;
    start_fake("");
    struct outcome first = good_turn("one", NULL, NULL);
    struct cs_engine_request request = request_for("two");
    struct outcome outcome;
    request.thread_id = first.thread;
    request.orphan_turn = "turn-unknown";
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "loaded");
    assert_string_equal(outcome.thread, first.thread);
    outcome_fini(&outcome);
}

/* The turn after an orphan in a Codex with @scenario: how it was reached, and what it saw. */
static void after_an_orphan(const char *scenario, const char *how, const char *saw)
{
    start_fake(scenario);
    struct past past = {0};
    remember(&past, CS_ROLE_USER, "one");
    remember(&past, CS_ROLE_ASSISTANT, "answer");
    struct outcome first = good_turn("one", NULL, NULL);
    struct cs_engine_request request = request_for("lost [[fail]]");
    struct outcome outcome;
    request.thread_id = first.thread;
    run_turn(&bench, &request, &outcome);
    outcome_fini(&outcome);
    request = request_for("two");
    request.thread_id = first.thread;
    request.history = tell_past;
    request.history_arg = &past;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, how);
    assert_string_not_equal(outcome.thread, first.thread);
    assert_says(outcome, saw);
    outcome_fini(&outcome);
}

static void where_revert_is_unknown_the_thread_is_forked(void **state)
{
    (void)state;
    after_an_orphan("no-revert", "reverted", "3 texts: one|1 texts: one|two");
}

static void where_fork_is_unknown_too_the_thread_is_rebuilt(void **state)
{
    (void)state;
    after_an_orphan("no-revert,no-fork", "injected", "3 texts: one|answer|two");
}

static void a_fork_that_copied_the_orphan_is_not_used(void **state)
{
    (void)state;
    after_an_orphan("no-revert,old-fork", "injected", "3 texts: one|answer|two");
}

static void a_turn_dies_with_codex_and_the_next_starts_a_new_one(void **state)
{
    (void)state;
    start_fake("");
    struct outcome first = good_turn("one", NULL, NULL);
    struct cs_engine_request request = request_for("[[die]]");
    struct outcome outcome;
    int64_t children, restarts;
    request.thread_id = first.thread;
    run_turn(&bench, &request, &outcome);
    assert_int_equal(outcome.status, CS_UPSTREAM);
    assert_string_equal(outcome.code, "codex_died");
    assert_non_null(strstr(outcome.why, "exited with status 3"));
    assert_non_null(strstr(outcome.why, "out of the window"));
    outcome_fini(&outcome);
    request = request_for("two");
    request.thread_id = first.thread;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_string_equal(outcome.how, "resumed");
    outcome_fini(&outcome);
    cs_engine_figures(bench.engine, &children, &restarts);
    assert_int_equal(children, 1);
    assert_int_equal(restarts, 1);
}

static void a_turn_whose_prompt_codex_has_not_seen_survives_its_death(void **state)
{
    (void)state;
    start_fake("die-once");
    struct outcome outcome = good_turn("one", NULL, NULL);
    assert_string_equal(outcome.how, "new");
    assert_int_equal(logged(&bench, "\"turn/start\""), 1);
}

static void an_idle_codex_that_was_killed_is_replaced(void **state)
{
    (void)state;
    start_fake("");
    good_turn("one", NULL, NULL);
    kill(child_pid(), SIGKILL);
    good_turn("two", NULL, NULL);
    good_turn("three", NULL, NULL);
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

static void a_reply_may_come_after_all_notifications(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("x [[late]]");
    struct outcome outcome;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_int_equal(outcome.started_count, 1);
    assert_memory_equal(outcome.turn, "turn-", 5);
    assert_string_equal(outcome.message.data, "1 texts: x [[late]]");
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

static void a_long_line_passes_and_a_longer_one_ends_the_turn(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("x [[huge 3000000]]");
    struct outcome outcome;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_int_equal(outcome.item_count, 2);
    outcome_fini(&outcome);
    request = request_for("x [[huge 5000000]]");
    run_turn(&bench, &request, &outcome);
    assert_int_equal(outcome.status, CS_UPSTREAM);
    assert_string_equal(outcome.code, "reply_too_large");
    outcome_fini(&outcome);
    good_turn("and on", NULL, NULL);
}

static void a_prompt_of_a_megabyte_arrives_whole(void **state)
{
    (void)state;
    start_fake("");
    size_t len = 1048576;
    char *text = malloc(len + 1);
    assert_non_null(text);
    for (size_t i = 0; i < len; i++) {
        text[i] = "abcdefg\n\"\\"[i % 10];
    }
    text[len] = '\0';
    good_turn(text, NULL, NULL);
    struct stat st;
    char path[160];
    path_in(&bench, "log", path);
    assert_int_equal(stat(path, &st), 0);
    assert_true((size_t)st.st_size > len + len * 3 / 10);
    free(text);
}

static void many_deltas_may_be_dropped_but_not_the_message(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("slow owner [[deltas 20]]");
    struct outcome outcome;
    outcome_init(&outcome);
    struct cs_engine_turn *turn = begin_turn(&bench, &request);
    assert_true(pull(turn, &outcome, CS_EVENT_STARTED, WAIT_MS));
    usleep(300000);
    assert_true(pull(turn, &outcome, CS_EVENT_DONE, WAIT_MS));
    cs_engine_turn_free(turn);
    assert_ok(outcome);
    assert_string_equal(outcome.message.data, "1 texts: slow owner [[deltas 20]]");
    outcome_fini(&outcome);
}

static void whatever_codex_asks_is_declined(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("x [[ask]]");
    struct outcome outcome;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_says(outcome,
                "{\"id\": 0, \"jsonrpc\": \"2.0\", \"result\": {\"decision\": \"decline\"}}");
    assert_says(outcome,
                "{\"id\": \"x\", \"jsonrpc\": \"2.0\", \"result\": {\"action\": \"decline\"}}");
    assert_says(outcome,
                "{\"id\": 1, \"jsonrpc\": \"2.0\", \"result\": {\"decision\": \"denied\"}}");
    assert_says(outcome, "{\"error\": {\"code\": -32601, ");
    outcome_fini(&outcome);
}

static void the_model_that_really_runs_is_told(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("x [[reroute]]");
    struct outcome outcome;
    request.model = "wanted-model";
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    assert_int_equal(outcome.started_count, 2);
    assert_string_equal(outcome.model, "other-model");
    outcome_fini(&outcome);
}

static void a_model_does_not_stick_to_a_turn_that_wants_the_default(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("one");
    struct outcome first, outcome;
    request.model = "wanted-model";
    run_turn(&bench, &request, &first);
    assert_string_equal(first.model, "wanted-model");
    outcome_fini(&first);
    request.model = NULL;
    request.thread_id = first.thread;
    run_turn(&bench, &request, &outcome); /* the default is not known yet */
    assert_string_equal(outcome.model, "default-model");
    assert_string_not_equal(outcome.thread, first.thread);
    outcome_fini(&outcome);
    run_turn(&bench, &request, &outcome);
    assert_string_equal(outcome.model, "default-model");
    assert_string_equal(outcome.thread, first.thread);
    outcome_fini(&outcome);
    assert_int_equal(logged(&bench, "\"model\":\"default-model\""), 1);
}

static void a_running_turn_is_interrupted(void **state)
{
    (void)state;
    start_fake("");
    struct outcome outcome = cancelled_turn("x [[wait]]", NULL, CS_EVENT_STARTED);
    assert_true(outcome.used[0] < 2000);
    assert_true(logged(&bench, "\"turn/interrupt\"") > 0);
    struct outcome next = good_turn("y", outcome.thread, NULL);
    assert_string_equal(next.how, "reverted");
    assert_true(soon_logged(&bench, "\"thread/backgroundTerminals/clean\"", 1));
}

static void a_cancel_before_the_turn_id_is_known_waits_for_it(void **state)
{
    (void)state;
    start_fake("");
    struct outcome outcome = cancelled_turn("x [[hold]]", NULL, CS_EVENT_THREAD);
    assert_true(outcome.used[0] < 2000);
    assert_true(logged(&bench, "\"turn/interrupt\"") > 0);
}

static void a_cancel_before_the_turn_has_begun_is_repeated(void **state)
{
    (void)state;
    start_fake("");
    struct outcome outcome = cancelled_turn("x [[early]]", NULL, CS_EVENT_STARTED);
    assert_true(outcome.used[0] < 2000);
    assert_int_equal(logged(&bench, "\"turn/interrupt\""), 2);
}

static void a_turn_that_does_not_obey_is_given_up_and_its_thread_left_alone(void **state)
{
    (void)state;
    start_fake("");
    struct outcome outcome = cancelled_turn("x [[deaf]]", NULL, CS_EVENT_STARTED);
    assert_in_range(outcome.used[0], 2500, 6000);
    struct outcome next = good_turn("y", outcome.thread, NULL);
    assert_string_equal(next.how, "new"); /* else it would steer the turn that still runs */
    assert_string_not_equal(next.thread, outcome.thread);
}

static void a_turn_that_is_freed_while_it_runs_is_interrupted(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("x [[wait]]");
    struct outcome outcome;
    outcome_init(&outcome);
    struct cs_engine_turn *turn = begin_turn(&bench, &request);
    assert_true(pull(turn, &outcome, CS_EVENT_STARTED, WAIT_MS));
    cs_engine_turn_free(turn);
    assert_true(soon_logged(&bench, "\"thread/backgroundTerminals/clean\"", 1));
    struct outcome next = good_turn("y", outcome.thread, NULL);
    assert_string_equal(next.how, "reverted");
    outcome_fini(&outcome);
}

static void a_turn_may_be_freed_in_each_state(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_request request = request_for("x [[late]] [[deltas 50]]");
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

static void a_codex_that_stops_at_its_start_is_unavailable_and_not_started_for_ever(void **state)
{
    (void)state;
    start_fake("crash");
    struct cs_engine_request request = request_for("x");
    struct outcome outcome;
    int64_t children, restarts;
    for (int i = 0; i < 8; i++) {
        run_turn(&bench, &request, &outcome);
        assert_int_equal(outcome.status, CS_UNAVAILABLE);
        assert_string_equal(outcome.code, "codex_unavailable");
        assert_non_null(strstr(outcome.why, "out of the window"));
        outcome_fini(&outcome);
    }
    cs_engine_figures(bench.engine, &children, &restarts);
    assert_int_equal(children, 0);
    assert_int_equal(restarts, CS_LINK_STARTS - 1);
    assert_non_null(strstr(outcome.why, "within a minute"));
}

static void a_refused_handshake_is_unavailable(void **state)
{
    (void)state;
    start_fake("refuse");
    struct cs_engine_request request = request_for("x");
    struct outcome outcome;
    run_turn(&bench, &request, &outcome);
    assert_int_equal(outcome.status, CS_UNAVAILABLE);
    assert_non_null(strstr(outcome.why, "not today"));
    outcome_fini(&outcome);
}

static void a_turn_that_waits_for_codex_can_be_cancelled_and_timed(void **state)
{
    (void)state;
    start_fake("mute");
    struct cs_engine_request request = request_for("x");
    struct outcome outcome;
    outcome_init(&outcome);
    struct cs_engine_turn *turn = begin_turn(&bench, &request);
    int64_t start = cs_mono_ms();
    assert_false(pull(turn, &outcome, CS_EVENT_DONE, 200));
    assert_in_range(cs_mono_ms() - start, 190, 2000);
    cs_engine_turn_cancel(turn);
    assert_true(pull(turn, &outcome, CS_EVENT_DONE, 1000));
    assert_int_equal(outcome.status, CS_CANCELLED);
    cs_engine_turn_free(turn);
    outcome_fini(&outcome);
}

static void the_api_key_goes_in_by_login_alone(void **state)
{
    (void)state;
    start_fake("");
    bench_stop_engine(&bench);
    bench_engine(&bench, CS_ENGINE_APP_SERVER, "sk-secret-key");
    good_turn("x", NULL, NULL);
    assert_int_equal(logged(&bench, "{\"type\":\"apiKey\",\"apiKey\":\"sk-secret-key\"}"), 1);
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/cmdline", child_pid());
    char line[2048];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t len = fread(line, 1, sizeof(line) - 1, file);
    fclose(file);
    for (size_t i = 0; i < len; i++) {
        line[i] = line[i] ? line[i] : ' ';
    }
    line[len] = '\0';
    assert_non_null(strstr(line, "cli_auth_credentials_store=\"ephemeral\""));
    assert_null(strstr(line, "sk-secret-key"));
}

static void threads_that_were_not_used_for_long_are_let_go(void **state)
{
    (void)state;
    start_fake("");
    struct outcome first = good_turn("one", NULL, NULL);
    for (int i = 0; i < 129; i++) {
        good_turn("more", NULL, NULL);
    }
    assert_true(soon_logged(&bench, "\"thread/unsubscribe\"", 2));
    struct outcome again = good_turn("two", first.thread, NULL);
    assert_string_equal(again.how, "resumed");
}

static void many_conversations_at_once_do_not_mix(void **state)
{
    (void)state;
    start_fake("");
    crowd_of_conversations(&bench, "5 texts: ");
    assert_int_equal(logged(&bench, "\"initialize\""), 1);
}

static void a_thousand_turns_wait_at_once(void **state)
{
    (void)state;
    start_fake("");
    enum { COUNT = 1000 };
    struct cs_engine_turn **turns = calloc(COUNT, sizeof(struct cs_engine_turn *));
    struct cs_engine_request request = request_for("x [[wait]]");
    struct outcome outcome;
    assert_non_null(turns);
    for (int i = 0; i < COUNT; i++) {
        turns[i] = begin_turn(&bench, &request);
        outcome_init(&outcome);
        assert_true(pull(turns[i], &outcome, CS_EVENT_STARTED, WAIT_MS));
        outcome_fini(&outcome);
    }
    good_turn("meanwhile", NULL, NULL);
    for (int i = 0; i < COUNT; i++) {
        cs_engine_turn_cancel(turns[i]);
    }
    for (int i = 0; i < COUNT; i++) {
        outcome_init(&outcome);
        assert_true(pull(turns[i], &outcome, CS_EVENT_DONE, WAIT_MS));
        assert_int_equal(outcome.status, CS_CANCELLED);
        outcome_fini(&outcome);
        cs_engine_turn_free(turns[i]);
    }
    free(turns);
}

static void all_turns_die_with_codex(void **state)
{
    (void)state;
    start_fake("");
    struct cs_engine_turn *turns[20];
    struct cs_engine_request request = request_for("x [[wait]]");
    struct outcome outcome;
    for (int i = 0; i < 20; i++) {
        outcome_init(&outcome);
        turns[i] = begin_turn(&bench, &request);
        assert_true(pull(turns[i], &outcome, CS_EVENT_STARTED, WAIT_MS));
        outcome_fini(&outcome);
    }
    kill(child_pid(), SIGKILL);
    for (int i = 0; i < 20; i++) {
        outcome_init(&outcome);
        assert_true(pull(turns[i], &outcome, CS_EVENT_DONE, WAIT_MS));
        assert_string_equal(outcome.code, "codex_died");
        assert_non_null(strstr(outcome.why, "killed by signal 9"));
        outcome_fini(&outcome);
        cs_engine_turn_free(turns[i]);
    }
    good_turn("on", NULL, NULL);
}

#define CASE(name) cmocka_unit_test_teardown(name, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_turn_tells_thread_model_deltas_message_and_usage),
        CASE(a_second_turn_finds_its_thread_loaded),
        CASE(an_unloaded_thread_is_resumed),
        CASE(a_lost_thread_is_rebuilt_from_the_transcript),
        CASE(the_transcript_goes_into_the_prompt_where_injection_is_unknown),
        CASE(an_orphaned_turn_is_reverted),
        CASE(an_orphan_that_the_owner_does_not_know_of_is_reverted_too),
        CASE(an_orphan_that_never_reached_codex_needs_no_revert),
        CASE(where_revert_is_unknown_the_thread_is_forked),
        CASE(where_fork_is_unknown_too_the_thread_is_rebuilt),
        CASE(a_fork_that_copied_the_orphan_is_not_used),
        CASE(a_turn_dies_with_codex_and_the_next_starts_a_new_one),
        CASE(a_turn_whose_prompt_codex_has_not_seen_survives_its_death),
        CASE(an_idle_codex_that_was_killed_is_replaced),
        CASE(garbage_between_lines_is_ignored),
        CASE(a_reply_may_come_after_all_notifications),
        CASE(a_nul_in_the_answer_does_not_hide_the_end_of_the_turn),
        CASE(a_long_line_passes_and_a_longer_one_ends_the_turn),
        CASE(a_prompt_of_a_megabyte_arrives_whole),
        CASE(many_deltas_may_be_dropped_but_not_the_message),
        CASE(whatever_codex_asks_is_declined),
        CASE(the_model_that_really_runs_is_told),
        CASE(a_model_does_not_stick_to_a_turn_that_wants_the_default),
        CASE(a_running_turn_is_interrupted),
        CASE(a_cancel_before_the_turn_id_is_known_waits_for_it),
        CASE(a_cancel_before_the_turn_has_begun_is_repeated),
        CASE(a_turn_that_does_not_obey_is_given_up_and_its_thread_left_alone),
        CASE(a_turn_that_is_freed_while_it_runs_is_interrupted),
        CASE(a_turn_may_be_freed_in_each_state),
        CASE(a_codex_that_stops_at_its_start_is_unavailable_and_not_started_for_ever),
        CASE(a_refused_handshake_is_unavailable),
        CASE(a_turn_that_waits_for_codex_can_be_cancelled_and_timed),
        CASE(the_api_key_goes_in_by_login_alone),
        CASE(threads_that_were_not_used_for_long_are_let_go),
        CASE(many_conversations_at_once_do_not_mix),
        CASE(a_thousand_turns_wait_at_once),
        CASE(all_turns_die_with_codex),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
