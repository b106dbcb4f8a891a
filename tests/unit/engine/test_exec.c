#include "priv.h"

#include "fake_codex.h"
#include "fault.h"

#define ID_1 "01890000-0000-7000-8000-000000000001"
#define ID_2 "01890000-0000-7000-8000-000000000002"

struct fixture {
    struct cs_engine *engine;
    char folder[64], path[128], log[128];
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);

    make_folder(fixture->folder);
    snprintf(fixture->path, sizeof fixture->path, "%s/codex", fixture->folder);
    snprintf(fixture->log, sizeof fixture->log, "%s/log", fixture->folder);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    cs_engine_free(fixture->engine, cs_mono_ms() + 5000);
    remove_folder(fixture->folder);
    free(fixture);
    return 0;
}

/* An engine whose `codex exec` is @body; $D is the folder. */
static void start_engine(struct fixture *fixture, const char *body)
{
    struct cs_engine_options options = {
        .codex = fixture->path,
        .kind = CS_ENGINE_EXEC,
        .instance = "exec-test",
        .api_key = "sk-secret",
        .max_line = 1 << 20,
        .version = "1.0",
    };
    char script[7000];

    snprintf(script, sizeof script, "D=%s\n%s", fixture->folder, body);
    write_codex(fixture->folder, "0.169.0", HELP_0_169, script);
    assert_int_equal(cs_engine_new(&options, &fixture->engine, NULL), CS_OK);
}

/* Everything that a turn said. */
struct outcome {
    char thread[64], reached[32], model[64], message[4096], items[1024];
    int64_t input, cached, output, total_input, total_cached, total_output;
    struct cs_err error;
    int events;
};

static void note(struct outcome *outcome, const struct cs_engine_event *event)
{
    outcome->events++;
    switch (event->type) {
    case CS_EVENT_THREAD:
        snprintf(outcome->thread, sizeof outcome->thread, "%s", event->text);
        snprintf(outcome->reached, sizeof outcome->reached, "%s", event->detail);
        break;
    case CS_EVENT_STARTED:
        snprintf(outcome->model, sizeof outcome->model, "%s", event->detail);
        break;
    case CS_EVENT_ITEM:
        strncat(outcome->items, event->detail, 100);
        strncat(outcome->items, " ", 2);
        break;
    case CS_EVENT_USAGE:
        outcome->input = event->input;
        outcome->cached = event->cached_input;
        outcome->output = event->output;
        outcome->total_input = event->total_input;
        outcome->total_cached = event->total_cached_input;
        outcome->total_output = event->total_output;
        break;
    case CS_EVENT_MESSAGE:
        snprintf(outcome->message, sizeof outcome->message, "%s", event->text);
        break;
    case CS_EVENT_DONE:
        outcome->error = *event->error;
        break;
    case CS_EVENT_DELTA:
    case CS_EVENT_APPROVAL:
        break;
    }
}

static struct cs_engine_request request_of(const char *prompt)
{
    return (struct cs_engine_request){
        .kind = CS_ENGINE_AUTO,
        .prompt = prompt,
        .prompt_len = strlen(prompt),
        .cwd = "/tmp",
        .sandbox = "read-only",
        .preamble_bytes = 65536,
        .total_input = -1,
        .total_cached = -1,
        .total_output = -1,
    };
}

static struct outcome finish(struct cs_engine_turn *turn)
{
    struct outcome outcome = {0};
    struct cs_engine_event event = {.type = CS_EVENT_DELTA};

    while (event.type != CS_EVENT_DONE) {
        assert_int_equal(cs_engine_turn_next(turn, cs_mono_ms() + 20000, &event, NULL), CS_OK);
        note(&outcome, &event);
    }
    cs_engine_turn_free(turn);
    return outcome;
}

static struct outcome run(struct fixture *fixture, const struct cs_engine_request *request)
{
    struct cs_engine_turn *turn = NULL;

    assert_int_equal(cs_engine_turn_start(fixture->engine, request, &turn, NULL), CS_OK);
    return finish(turn);
}

/* The file that a script wrote, for free(). */
static char *read_log(const struct fixture *fixture, const char *name)
{
    char path[256], *text = calloc(1, 65536);
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", fixture->folder, name);
    file = fopen(path, "r");
    assert_non_null(file);
    assert_true(fread(text, 1, 65535, file) < 65535);
    fclose(file);
    return text;
}

#define STARTED(id)                                                                                \
    "echo '{\"type\":\"thread.started\",\"thread_id\":\"" id                                       \
    "\"}'; echo '{\"type\":\"turn.started\"}'\n"
#define MESSAGE(text)                                                                              \
    "echo "                                                                                        \
    "'{\"type\":\"item.completed\",\"item\":{\"id\":\"i\",\"type\":\"agent_message\",\"text\":"    \
    "\"" text "\"}}'\n"
#define FAILED(text) "echo '{\"type\":\"turn.failed\",\"error\":{\"message\":\"" text "\"}}'\n"
#define COMPLETED(in, cached, out)                                                                 \
    "echo '{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":" #in                          \
    ",\"cached_input_tokens\":" #cached ",\"output_tokens\":" #out "}}'\n"

static void a_new_conversation_runs_as_the_facts_say(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("-the \346\227\245 prompt\n");
    struct outcome outcome;
    char *log;

    start_engine(fixture, "echo \"$*|$CODEX_API_KEY|$PWD\" > $D/log; cat > $D/prompt\n"
                          "echo 'a warning on stdout'\n" STARTED(
                              ID_1) "echo "
                                    "'{\"type\":\"item.completed\",\"item\":{\"type\":"
                                    "\"reasoning\",\"text\":\"hm\"}}'\n" MESSAGE("first")
                                        MESSAGE("an answer") COMPLETED(10, 4, 3));
    request.model = "--a-model";
    outcome = run(fixture, &request);
    assert_int_equal(outcome.error.status, CS_OK);
    assert_string_equal(outcome.thread, ID_1);
    assert_string_equal(outcome.reached, "new");
    assert_string_equal(outcome.model, "--a-model");
    assert_string_equal(outcome.message, "an answer");
    assert_string_equal(outcome.items, "reasoning ");
    assert_int_equal(outcome.input, 10);
    assert_int_equal(outcome.cached, 4);
    assert_int_equal(outcome.output, 3);
    assert_int_equal(outcome.total_input, 10);
    log = read_log(fixture, "log");
    assert_string_equal(log, "exec --json --skip-git-repo-check --sandbox=read-only --cd=/tmp -c "
                             "approval_policy=\"never\" --model=--a-model -|sk-secret|/tmp\n");
    free(log);
    log = read_log(fixture, "prompt");
    assert_string_equal(log, "-the \346\227\245 prompt\n");
    free(log);
}

static void a_resumed_thread_counts_only_its_own_tokens(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("go on");
    struct outcome outcome;
    char *log;

    start_engine(fixture, "echo \"$*\" > $D/log; cat > $D/prompt\n" STARTED(ID_1) MESSAGE("yes")
                              COMPLETED(30, 14, 8));
    request.thread_id = ID_1;
    request.total_input = 10;
    request.total_cached = 4;
    outcome = run(fixture, &request);
    assert_int_equal(outcome.error.status, CS_OK);
    assert_string_equal(outcome.reached, "resumed");
    assert_int_equal(outcome.input, 20);
    assert_int_equal(outcome.cached, 10);
    assert_int_equal(outcome.output, -1); /* the total before is not known */
    assert_int_equal(outcome.total_output, 8);
    log = read_log(fixture, "log");
    assert_non_null(strstr(log, "\"never\" resume " ID_1 " -\n"));
    free(log);
    log = read_log(fixture, "prompt");
    assert_string_equal(log, "go on");
    free(log);
}

static const struct cs_engine_item past[] = {
    {CS_ROLE_USER, "my name is Ada", 14},
    {CS_ROLE_ASSISTANT, "hello Ada", 9},
};

static enum cs_status tell_past(void *arg, const struct cs_engine_item **out_items,
                                size_t *out_count, struct cs_err *err)
{
    (void)err;
    ++*(int *)arg;
    *out_items = past;
    *out_count = 2;
    return CS_OK;
}

/* Fails a resume as real Codex does; else starts thread 2. */
#define FORGETFUL                                                                                  \
    "echo \"$*\" >> $D/log; cat >> $D/prompt\n"                                                    \
    "case \"$*\" in *resume*) echo 'Error: thread/resume failed: no rollout found for thread id "  \
    "x' >&2; exit 1;; esac\n" STARTED(ID_2) MESSAGE("anew") COMPLETED(50, 0, 5)

static void a_lost_thread_is_told_again_in_a_new_one(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("what is my name?");
    int asked = 0;
    struct outcome outcome;
    char *log;

    start_engine(fixture, FORGETFUL);
    request.thread_id = ID_1;
    request.total_input = 10;
    request.history = tell_past;
    request.history_arg = &asked;
    outcome = run(fixture, &request);
    assert_int_equal(outcome.error.status, CS_OK);
    assert_string_equal(outcome.thread, ID_2);
    assert_string_equal(outcome.reached, "preamble");
    assert_string_equal(outcome.message, "anew");
    assert_int_equal(outcome.input, 50); /* of a new thread: nothing to take off */
    assert_int_equal(asked, 1);
    log = read_log(fixture, "prompt");
    assert_non_null(strstr(log, "[user]\nmy name is Ada\n\n[assistant]\nhello Ada\n\n"));
    free(log);
}

static void a_codex_that_silently_begins_another_thread_is_found_out(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("what is my name?");
    struct cs_engine_turn *turn = NULL;
    struct cs_engine_event event;
    int asked = 0;
    struct outcome outcome;

    /* What follows in the wrong thread comes at once, and must not count. */
    start_engine(fixture,
                 "cat >> $D/prompt\ncase \"$*\" in *resume*) { " STARTED(ID_2) MESSAGE("who?")
                     FAILED("in the wrong thread") "} > $D/all; cat $D/all; exit;; esac\n" STARTED(
                         ID_1) MESSAGE("Ada") COMPLETED(50, 0, 5));
    request.thread_id = "01890000-0000-7000-8000-00000000000f";
    request.history = tell_past;
    request.history_arg = &asked;
    assert_int_equal(cs_engine_turn_start(fixture->engine, &request, &turn, NULL), CS_OK);
    assert_int_equal(cs_engine_turn_next(turn, 0, &event, NULL), CS_TIMEOUT);
    usleep(500000); /* all of it is waiting when the first line is looked at */
    outcome = finish(turn);
    assert_int_equal(outcome.error.status, CS_OK);
    assert_string_equal(outcome.thread, ID_1);
    assert_string_equal(outcome.reached, "preamble");
    assert_string_equal(outcome.message, "Ada");
    assert_int_equal(asked, 1);
}

static void an_unanswered_prompt_and_a_strange_id_lead_to_a_new_thread(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("again");
    int asked = 0;
    struct outcome outcome;
    char *log;

    start_engine(fixture, FORGETFUL);
    request.thread_id = ID_1;
    request.orphan_turn = "";
    request.history = tell_past;
    request.history_arg = &asked;
    outcome = run(fixture, &request);
    assert_string_equal(outcome.reached, "preamble");
    request.orphan_turn = NULL;
    request.thread_id = "--last";
    outcome = run(fixture, &request);
    assert_string_equal(outcome.reached, "preamble");
    log = read_log(fixture, "log");
    assert_null(strstr(log, "resume"));
    assert_null(strstr(log, "--last"));
    free(log);
}

static void a_failed_turn_carries_what_codex_said(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("x");
    struct outcome outcome;

    start_engine(
        fixture,
        STARTED(ID_1) "echo '{\"type\":\"error\",\"message\":\"Reconnecting 1/5\"}'\n"
                      "echo '{\"type\":\"turn.failed\",\"error\":{\"message\":\"unexpected status "
                      "401 Unauthorized: no\"}}'\n"
                      "exit 1");
    outcome = run(fixture, &request);
    assert_int_equal(outcome.error.status, CS_UPSTREAM);
    assert_string_equal(outcome.error.code, "codex_auth");
    assert_string_equal(outcome.error.msg, "unexpected status 401 Unauthorized: no");
}

static void a_codex_that_dies_is_told_with_its_last_error(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("x");
    struct outcome outcome;

    start_engine(fixture, STARTED(ID_1) "echo 'WARN x' >&2; echo 'Error: disk on fire' >&2; echo ' "
                                        " 0: trace' >&2; kill -9 $$");
    outcome = run(fixture, &request);
    assert_int_equal(outcome.error.status, CS_UPSTREAM);
    assert_string_equal(outcome.error.code, "codex_died");
    assert_string_equal(
        outcome.error.msg,
        "Codex was killed by signal 9 before the turn was over: Error: disk on fire");
}

static void a_reply_over_the_cap_fails_the_turn(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("x");
    struct outcome outcome;

    start_engine(fixture, STARTED(ID_1) "printf '{\"a\":\"'; head -c 2000000 /dev/zero | tr '\\0' "
                                        "x; echo '\"}'; sleep 100");
    outcome = run(fixture, &request);
    assert_string_equal(outcome.error.code, "reply_too_large");
}

static void an_answer_lost_in_a_bad_line_is_a_failure(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("x");
    struct outcome outcome;

    start_engine(fixture, STARTED(ID_1) "echo '{\"type\": broken'\n" COMPLETED(1, 1, 1));
    outcome = run(fixture, &request);
    assert_string_equal(outcome.error.code, "codex_protocol");
}

static void a_prompt_that_is_never_read_does_not_block(void **state)
{
    struct fixture *fixture = *state;
    char *prompt = calloc(1, 1000001);
    struct cs_engine_request request;
    struct outcome outcome;

    memset(prompt, 'p', 1000000);
    request = request_of(prompt);
    start_engine(fixture, STARTED(ID_1) MESSAGE("I did not listen") COMPLETED(1, 1, 1));
    outcome = run(fixture, &request);
    assert_int_equal(outcome.error.status, CS_OK);
    assert_string_equal(outcome.message, "I did not listen");
    free(prompt);
}

static void a_cancelled_turn_ends_by_an_interrupt(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("x");
    struct cs_engine_turn *turn = NULL;
    struct cs_engine_event event;
    struct outcome outcome;
    int64_t start;

    start_engine(fixture, "trap 'echo INT > $D/log; exit 0' INT\n" STARTED(
                              ID_1) "while :; do sleep 0.05; done");
    assert_int_equal(cs_engine_turn_start(fixture->engine, &request, &turn, NULL), CS_OK);
    assert_int_equal(cs_engine_turn_next(turn, cs_mono_ms() + 20000, &event, NULL), CS_OK);
    start = cs_mono_ms();
    cs_engine_turn_cancel(turn);
    outcome = finish(turn);
    assert_int_equal(outcome.error.status, CS_CANCELLED);
    assert_true(cs_mono_ms() - start < 1500);
    free(read_log(fixture, "log"));
}

static void a_turn_freed_midway_leaves_nothing_running(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("x");
    struct cs_engine_turn *turn = NULL;
    struct cs_engine_event event;
    int64_t children = -1, restarts, start;

    start_engine(fixture, "trap '' INT TERM\n" STARTED(ID_1) "while :; do sleep 1; done");
    assert_int_equal(cs_engine_turn_start(fixture->engine, &request, &turn, NULL), CS_OK);
    assert_int_equal(cs_engine_turn_next(turn, cs_mono_ms() + 20000, &event, NULL), CS_OK);
    start = cs_mono_ms();
    cs_engine_turn_free(turn);
    assert_true(cs_mono_ms() - start < 100);
    for (int i = 0; i < 800 && children != 0; i++) {
        usleep(10000);
        cs_engine_figures(fixture->engine, &children, &restarts);
    }
    assert_int_equal(children, 0);
}

struct one_turn {
    struct fixture *fixture;
    int calls;
};

static void one_turn_with_failures(void *arg)
{
    struct one_turn *one = arg;
    struct cs_engine_request request = request_of("what is my name?");
    struct cs_engine_turn *turn = NULL;
    struct cs_err err = {0};
    int asked = 0;
    struct outcome outcome;

    one->calls++;
    request.thread_id = ID_1;
    request.history = tell_past;
    request.history_arg = &asked;
    request.model = "m";
    if (cs_engine_turn_start(one->fixture->engine, &request, &turn, &err) != CS_OK) {
        assert_int_equal(err.status, CS_NO_MEM);
        return;
    }
    outcome = finish(turn);
    if (!fault_hit())
        assert_string_equal(outcome.message, "anew");
    else if (outcome.error.status != CS_OK && outcome.error.status != CS_NO_MEM)
        assert_int_equal(outcome.error.status, CS_UPSTREAM);
}

static void any_failed_allocation_ends_the_turn_in_order(void **state)
{
    struct one_turn one = {.fixture = *state};
    int fds;

    start_engine(*state, FORGETFUL);
    fds = settled_entries("/proc/self/fd");
    assert_true(fault_sweep(one_turn_with_failures, &one) > 30);
    one_turn_with_failures(&one);
    assert_int_equal(settled_entries("/proc/self/fd"), fds);
}

static void without_codex_a_turn_says_why(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_options options = {
        .codex = "/nowhere/codex", .instance = "none", .max_line = 1000, .version = "1"};
    struct cs_engine_request request = request_of("x");
    struct cs_engine_info info;
    struct outcome outcome;

    assert_int_equal(cs_engine_new(&options, &fixture->engine, NULL), CS_OK);
    cs_engine_info(fixture->engine, &info);
    assert_false(info.usable);
    outcome = run(fixture, &request);
    assert_int_equal(outcome.error.status, CS_UNAVAILABLE);
    assert_string_equal(outcome.error.code, "codex_unavailable");
    assert_string_equal(outcome.error.msg, info.why);
}

static void an_engine_that_is_not_offered_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_request request = request_of("x");
    struct cs_engine_turn *turn = NULL;
    struct cs_err err = {0};

    start_engine(fixture, "exit 1");
    request.kind = CS_ENGINE_MCP;
    assert_int_equal(cs_engine_turn_start(fixture->engine, &request, &turn, &err), CS_INVALID);
    assert_string_equal(err.code, "engine_unavailable");
    assert_null(turn);
}

static void a_codex_installed_later_is_found_by_refresh(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_options options = {
        .codex = fixture->path, .instance = "later", .max_line = 1000, .version = "1"};
    struct cs_engine_info before, after;

    assert_int_equal(cs_engine_new(&options, &fixture->engine, NULL), CS_OK);
    cs_engine_info(fixture->engine, &before);
    assert_false(before.usable);
    write_codex(fixture->folder, "0.169.0", HELP_0_169, "exit 1");
    cs_engine_refresh(fixture->engine);
    cs_engine_refresh(fixture->engine);
    cs_engine_info(fixture->engine, &after);
    assert_true(after.usable);
    assert_int_equal(after.kind, CS_ENGINE_APP_SERVER);
    assert_non_null(strstr(before.why, "does not exist")); /* lent strings stay */
}

static void below_a_codex_of_its_own_the_engine_refuses(void **state)
{
    struct fixture *fixture = *state;
    struct cs_engine_options options = {
        .codex = fixture->path, .instance = "ours", .max_line = 1000, .version = "1"};
    struct cs_engine_info info;

    write_codex(fixture->folder, "0.169.0", HELP_0_169, "exit 1");
    setenv("CODEX_SESSIOND_INSTANCE", "ours", 1);
    assert_int_equal(cs_engine_new(&options, &fixture->engine, NULL), CS_OK);
    unsetenv("CODEX_SESSIOND_INSTANCE");
    cs_engine_info(fixture->engine, &info);
    assert_false(info.usable);
    assert_non_null(strstr(info.why, "outside of Codex"));
}

static void engine_words_are_parsed(void **state)
{
    enum cs_engine_kind kind = CS_ENGINE_AUTO;
    struct cs_err err = {0};

    (void)state;
    assert_int_equal(cs_engine_kind_parse("app-server", &kind, NULL), CS_OK);
    assert_int_equal(kind, CS_ENGINE_APP_SERVER);
    assert_string_equal(cs_engine_kind_name(kind), "app-server");
    assert_int_equal(cs_engine_kind_parse("App", &kind, &err), CS_INVALID);
    assert_string_equal(err.code, "invalid_engine");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_new_conversation_runs_as_the_facts_say),
        CASE(a_resumed_thread_counts_only_its_own_tokens),
        CASE(a_lost_thread_is_told_again_in_a_new_one),
        CASE(a_codex_that_silently_begins_another_thread_is_found_out),
        CASE(an_unanswered_prompt_and_a_strange_id_lead_to_a_new_thread),
        CASE(a_failed_turn_carries_what_codex_said),
        CASE(a_codex_that_dies_is_told_with_its_last_error),
        CASE(a_reply_over_the_cap_fails_the_turn),
        CASE(an_answer_lost_in_a_bad_line_is_a_failure),
        CASE(a_prompt_that_is_never_read_does_not_block),
        CASE(a_cancelled_turn_ends_by_an_interrupt),
        CASE(a_turn_freed_midway_leaves_nothing_running),
        CASE(any_failed_allocation_ends_the_turn_in_order),
        CASE(without_codex_a_turn_says_why),
        CASE(an_engine_that_is_not_offered_is_refused),
        CASE(a_codex_installed_later_is_found_by_refresh),
        CASE(below_a_codex_of_its_own_the_engine_refuses),
        CASE(engine_words_are_parsed),
    };

    return cmocka_run_group_tests_name("exec", tests, NULL, NULL);
}
