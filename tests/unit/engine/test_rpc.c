/* Lines, and the link over children moved by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cs/base/log.h"
#include "rpc.h"
#include "fault.h"
#include "hand_process.h"

/* Lines. */

static struct cs_codex_line line;
static char line_text[1024];

static int forget_line(void **state)
{
    (void)state;
    cs_json_free(line.json);
    line.json = NULL;
    return 0;
}

static enum cs_line_kind read_line(const char *text)
{
    forget_line(NULL);
    snprintf(line_text, sizeof(line_text), "%s", text);
    cs_codex_line(line_text, strlen(line_text), &line);
    return line.kind;
}

static void a_line_that_is_no_object_is_noise(void **state)
{
    (void)state;
    static const char *const lines[] = {"",       " ", "warming up", "[1]",
                                        "\"{}\"", "3", "null",       "\t[{}]"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        assert_int_equal(read_line(lines[i]), CS_LINE_NOISE);
        assert_null(line.json);
    }
}

static void an_object_that_is_no_message_is_bad(void **state)
{
    (void)state;
    static const char *const lines[] = {"{",
                                        "{}",
                                        "{\"id\":null}",
                                        "{\"id\":1.5}",
                                        "{\"id\":{}}",
                                        "{\"id\":1}}",
                                        "{\"method\":1}",
                                        "{\"method\":\"a\",\"method\":\"b\"}",
                                        "{\"id\":1,\"result\":\"\xff\"}"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        assert_int_equal(read_line(lines[i]), CS_LINE_BAD);
        assert_null(line.json);
    }
}

static void an_object_too_deep_is_bad(void **state)
{
    (void)state;
    char text[1024];
    size_t len = 0;
    len += (size_t)snprintf(text, sizeof(text), "{\"method\":\"m\",\"params\":");
    memset(text + len, '[', 100);
    memset(text + len + 100, ']', 100);
    strcpy(text + len + 200, "}");
    assert_int_equal(read_line(text), CS_LINE_BAD);
}

static void a_reply_has_our_id_and_a_result_or_an_error(void **state)
{
    (void)state;
    assert_int_equal(read_line("{\"id\":7,\"result\":{\"a\":1}}"), CS_LINE_REPLY);
    assert_int_equal(line.call, 7);
    assert_string_equal(line.method, "");
    assert_int_equal(cs_json_int(cs_json_get(line.result, "a"), 0), 1);
    assert_null(line.error);
    assert_int_equal(
        read_line(" {\"id\":8,\"error\":{\"code\":-1,\"message\":\"no\"},\"result\":null}"),
        CS_LINE_REPLY);
    assert_string_equal(cs_json_get_string(line.error, "message"), "no");
    assert_int_equal(read_line("{\"id\":8,\"error\":null,\"result\":{}}"), CS_LINE_REPLY);
    assert_null(line.error);
    assert_int_equal(read_line("{\"id\":\"8\",\"result\":{}}"), CS_LINE_REPLY);
    assert_int_equal(line.call, -1);
}

static void a_method_without_an_id_is_a_notice_and_with_one_a_request(void **state)
{
    (void)state;
    assert_int_equal(read_line("{\"method\":\"m\",\"params\":{\"p\":2}}"), CS_LINE_NOTICE);
    assert_string_equal(line.method, "m");
    assert_int_equal(cs_json_int(cs_json_get(line.params, "p"), 0), 2);
    assert_int_equal(read_line("{\"method\":\"m\",\"id\":null}"), CS_LINE_NOTICE);
    assert_int_equal(read_line("{\"method\":\"m\",\"id\":0}"), CS_LINE_REQUEST);
    assert_int_equal(read_line("{\"method\":\"m\",\"id\":\"x\"}"), CS_LINE_REQUEST);
    assert_string_equal(cs_json_string(line.id, NULL), "x");
}

static void an_escaped_nul_is_replaced_and_an_escaped_backslash_is_not(void **state)
{
    (void)state;
    assert_int_equal(read_line("{\"method\":\"a\\u0000b\\\\u0000c\\\\\\u0000\"}"), CS_LINE_NOTICE);
    assert_string_equal(line.method, "a\xef\xbf\xbd"
                                     "b\\u0000c\\\xef\xbf\xbd");
    assert_int_equal(read_line("{\"method\":\"\\u0000"), CS_LINE_BAD);
    assert_int_equal(read_line("{\\"), CS_LINE_BAD);
}

static void a_line_read_without_memory_says_so(void **state)
{
    (void)state;
    forget_line(NULL);
    strcpy(line_text, "{\"method\":\"m\",\"params\":{}}");
    fault_arm(1);
    cs_codex_line(line_text, strlen(line_text), &line);
    if (fault_disarm()) {
        assert_int_equal(line.kind, CS_LINE_NO_MEM);
        assert_null(line.json);
    }
}

/* The whole engine over children moved by hand. */

static struct cs_engine *engine;
static struct cs_engine_turn *turn;
static struct cs_engine_event event;

static int setup(void **state)
{
    (void)state;
    struct cs_engine_options options = {.instance = "x", .max_line = 1048576, .version = "1"};
    cs_log_set_level(CS_LOG_ERROR);
    hand_refuse = false;
    hand_spawned = 0;
    return cs_engine_new(&options, &engine, NULL) == CS_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    cs_engine_turn_free(turn);
    turn = NULL;
    cs_engine_free(engine, cs_mono_ms());
    engine = NULL;
    return 0;
}

static struct cs_engine_request request;

/* What a turn asks for, unless a test changes it. */
static void ask_for(enum cs_engine_kind kind, const char *thread)
{
    request = (struct cs_engine_request){
        .kind = kind,
        .prompt = "hello",
        .prompt_len = 5,
        .cwd = "/tmp",
        .sandbox = "read-only",
        .thread_id = thread,
        .preamble_bytes = 1000,
        .total_input = -1,
        .total_cached = -1,
        .total_output = -1,
    };
}

static void begin(const char *thread)
{
    ask_for(CS_ENGINE_APP_SERVER, thread);
    assert_int_equal(cs_engine_turn_start(engine, &request, &turn, NULL), CS_OK);
}

/* The link is the driver's first member. */
static struct cs_link *link_of_turn(void)
{
    return (struct cs_link *)turn->driver;
}

static void set_limit(int *limit, int ms)
{
    pthread_mutex_lock(&link_of_turn()->mutex);
    *limit = ms;
    pthread_mutex_unlock(&link_of_turn()->mutex);
}

/* The next event's type, or -1 for none within @ms. */
static int next(int64_t ms)
{
    return cs_engine_turn_next(turn, cs_mono_ms() + ms, &event, NULL) == CS_OK ? (int)event.type
                                                                               : -1;
}

/* The turn's first child, with its handshake done. */
static struct cs_process *shaken(void)
{
    assert_int_equal(next(0), -1);
    struct cs_process *child = hand_await(1, "initialize");
    assert_non_null(child);
    free(hand_take(child));
    hand_say(child, "{\"id\":1,\"result\":{\"userAgent\":\"x\"}}");
    return child;
}

/* What was written holds the words. */
static void assert_sent(struct cs_process *child, const char *words)
{
    char *text = hand_take(child);
    if (!text || !strstr(text, words)) {
        fail_msg("no %s in: %s", words, text ? text : "(nothing)");
    }
    free(text);
}

static void assert_done(enum cs_status status, const char *code)
{
    int type;
    while ((type = next(10000)) != CS_EVENT_DONE) {
        assert_int_not_equal(type, -1);
    }
    assert_int_equal(event.error->status, status);
    if (code) {
        assert_string_equal(event.error->code, code);
    }
}

static void no_child_is_started_before_the_first_turn(void **state)
{
    (void)state;
    usleep(20000);
    assert_int_equal(hand_spawned, 0);
    begin(NULL);
    usleep(20000);
    assert_int_equal(hand_spawned, 0); /* its owner has not asked for an event yet */
    assert_int_equal(next(0), -1);
    assert_non_null(hand_await(1, "initialize"));
    assert_int_equal(hand_spawned, 1);
}

static void the_handshake_comes_before_all_else(void **state)
{
    (void)state;
    begin(NULL);
    struct cs_process *child = shaken();
    assert_sent(child, "{\"method\":\"initialized\"}\n");
    assert_int_equal(next(0), -1);
    assert_sent(child, "\"id\":2,\"method\":\"thread/start\"");
}

static void a_handshake_without_end_is_bounded(void **state)
{
    (void)state;
    begin(NULL);
    set_limit(&link_of_turn()->handshake_ms, 50);
    assert_done(CS_UNAVAILABLE, "codex_unavailable");
    assert_non_null(strstr(event.error->msg, "in 50 ms"));
    assert_true(hand_await(1, "initialize")->stopped);
}

/* The first child, whose turn is over, was stopped; the next turn is for another one. */
static void assert_replaced(struct cs_process *child)
{
    assert_true(child->stopped);
    hand_end(child, 0, false, "");
    cs_engine_turn_free(turn);
    begin(NULL);
    assert_int_equal(next(0), -1);
    assert_non_null(hand_await(2, "initialize"));
}

static void talk_without_memory(struct cs_process *child)
{
    fault_arm(2); /* the first one is the test's own */
    hand_say(child, "{\"method\":\"m\",\"params\":{}}");
    assert_true(fault_disarm());
}

static void a_child_given_up_before_its_start_is_over_is_stopped(void **state)
{
    (void)state;
    hand_born = talk_without_memory;
    begin(NULL);
    assert_done(CS_UNAVAILABLE, "codex_unavailable");
    for (int i = 0; i < 1000 && hand_live() && !hand_live()->stopped; i++) {
        usleep(10000);
    }
    struct cs_process *child = hand_live();
    assert_non_null(child);
    assert_replaced(child);
}

static void a_child_that_cannot_be_started_is_unavailable(void **state)
{
    (void)state;
    hand_refuse = true;
    begin(NULL);
    assert_done(CS_UNAVAILABLE, "codex_unavailable");
    assert_non_null(strstr(event.error->msg, "no children today"));
}

static void a_reply_to_nobody_is_ignored(void **state)
{
    (void)state;
    begin(NULL);
    struct cs_process *child = shaken();
    assert_int_equal(next(0), -1);
    free(hand_take(child));
    hand_say(child, "{\"id\":1,\"result\":{\"userAgent\":\"again\"}}");
    hand_say(child, "{\"id\":0,\"result\":{}}");
    hand_say(child, "{\"id\":-2,\"result\":{}}");
    hand_say(child, "{\"id\":1026,\"error\":{}}"); /* in the same bucket as 2 */
    hand_say(child, "{\"id\":\"2\",\"error\":{}}");
    assert_int_equal(next(0), -1);
    assert_null(hand_take(child));
}

static void a_reply_without_a_thread_is_a_protocol_error(void **state)
{
    (void)state;
    begin(NULL);
    struct cs_process *child = shaken();
    assert_int_equal(next(0), -1);
    hand_say(child, "{\"id\":2,\"result\":{\"thread\":{}}}");
    assert_done(CS_UPSTREAM, "codex_protocol");
}

static void a_resumed_thread_of_another_id_is_not_used(void **state)
{
    (void)state;
    begin("wanted");
    struct cs_process *child = shaken();
    assert_int_equal(next(0), -1);
    assert_sent(child, "thread/resume");
    hand_say(child, "{\"id\":2,\"result\":{\"thread\":{\"id\":\"other\"}}}");
    assert_int_equal(next(0), -1);
    assert_sent(child, "\"thread/start\"");
}

static void a_thread_that_runs_elsewhere_is_not_used(void **state)
{
    (void)state;
    begin("wanted");
    struct cs_process *child = shaken();
    assert_int_equal(next(0), -1);
    free(hand_take(child));
    hand_say(
        child,
        "{\"id\":2,\"result\":{\"thread\":{\"id\":\"wanted\",\"status\":{\"type\":\"active\"}}}}");
    assert_int_equal(next(0), -1);
    assert_sent(child, "\"thread/start\"");
}

static void what_an_old_child_said_does_not_reach_the_new_one(void **state)
{
    (void)state;
    begin(NULL);
    struct cs_process *child = shaken(); /* the turn has not looked at its inbox */
    hand_end(child, 9, false, "ouch");
    usleep(1000);
    assert_int_equal(next(0), -1); /* ready and died, in this order: begin again */
    child = hand_await(2, "initialize");
    assert_non_null(child);
    char *text = hand_take(child);
    assert_null(strstr(text, "\"thread/start\""));
    free(text);
}

static void a_turn_of_an_old_child_does_not_call_the_new_one(void **state)
{
    (void)state;
    begin(NULL);
    hand_end(shaken(), 9, false, "ouch"); /* the turn has not looked at its inbox */
    struct cs_engine_turn *old = turn;
    begin(NULL); /* another turn brings up the next child */
    assert_int_equal(next(0), -1);
    struct cs_process *child = hand_await(2, "initialize");
    free(hand_take(child));
    hand_say(child, "{\"id\":2,\"result\":{\"userAgent\":\"x\"}}");
    struct cs_engine_turn *new = turn;
    turn = old;
    assert_int_equal(next(0), -1); /* ready, died, ready */
    char *text = hand_take(child);
    const char *first = strstr(text, "\"thread/start\"");
    assert_non_null(first);
    assert_null(strstr(first + 1, "\"thread/start\""));
    free(text);
    cs_engine_turn_free(new);
}

static void a_closed_thread_is_loaded_again(void **state)
{
    (void)state;
    begin("t");
    struct cs_process *child = shaken();
    assert_int_equal(next(0), -1);
    assert_sent(child, "thread/resume");
    hand_say(child, "{\"id\":2,\"result\":{\"thread\":{\"id\":\"t\"}}}");
    assert_int_equal(next(0), CS_EVENT_THREAD);
    assert_int_equal(next(0), -1);
    assert_sent(child, "turn/start");
    hand_say(child, "{\"id\":3,\"error\":{\"code\":-32600,\"message\":\"thread not found: t\"}}");
    assert_done(CS_UPSTREAM, "codex_error"); /* it was just resumed */
    cs_engine_turn_free(turn);
    begin("t");
    assert_int_equal(next(0), CS_EVENT_THREAD);
    assert_int_equal(next(0), -1);
    assert_sent(child, "turn/start");
    hand_say(child, "{\"id\":4,\"error\":{\"code\":-32600,\"message\":\"thread not found: t\"}}");
    assert_int_equal(next(0), -1);
    assert_sent(child, "thread/resume");
}

static void a_child_that_hangs_is_replaced(void **state)
{
    (void)state;
    begin(NULL);
    set_limit(&link_of_turn()->silence_ms, 40);
    struct cs_process *child = shaken();
    for (int i = 0; i < 10; i++) { /* no call, so it may be silent */
        usleep(10000);
    }
    assert_false(child->stopped);
    assert_int_equal(next(0), -1);
    hand_say(child, "{\"id\":2,\"result\":{\"thread\":{\"id\":\"t\"}}}");
    assert_int_equal(next(0), CS_EVENT_THREAD);
    assert_int_equal(next(0), -1); /* turn/start was sent */
    assert_done(CS_UPSTREAM, "codex_died");
    assert_non_null(strstr(event.error->msg, "said nothing for 40 ms"));
    assert_replaced(child);
}

static void a_child_that_does_not_read_is_stopped(void **state)
{
    (void)state;
    begin(NULL);
    struct cs_process *child = shaken();
    child->deaf = true;
    assert_int_equal(next(0), -1);
    assert_true(child->stopped);
    hand_end(child, 0, false, "");
    assert_int_equal(next(0), -1); /* the prompt was not sent: on the next child */
    assert_non_null(hand_await(2, "initialize"));
}

/* Take the events that come within @ms; whether the last one was among them. */
static bool drain(struct cs_engine_turn *one, int64_t ms)
{
    struct cs_engine_event got;
    int64_t deadline = cs_mono_ms() + ms;
    while (cs_engine_turn_next(one, deadline, &got, NULL) == CS_OK) {
        if (got.type == CS_EVENT_DONE) {
            return true;
        }
    }
    return false;
}

static void bad_lines_are_counted(void **state)
{
    (void)state;
    begin(NULL);
    struct cs_process *child = shaken();
    hand_say(child, "{\"id\":");
    hand_say(child, "chatter");
    hand_say(child, "{}");
    assert_int_equal(link_of_turn()->bad_lines, 2);
}

/* Bring a turn on thread t to the point where it runs as u. */
static struct cs_process *running(void)
{
    begin(NULL);
    struct cs_process *child = shaken();
    assert_int_equal(next(0), -1);
    hand_say(child, "{\"id\":2,\"result\":{\"thread\":{\"id\":\"t\"}}}");
    assert_int_equal(next(0), CS_EVENT_THREAD);
    assert_int_equal(next(0), -1);
    hand_say(child, "{\"id\":3,\"result\":{\"turn\":{\"id\":\"u\"}}}");
    assert_int_equal(next(0), CS_EVENT_STARTED);
    free(hand_take(child));
    return child;
}

static void a_call_has_one_reply(void **state)
{
    (void)state;
    struct cs_process *child = running();
    hand_say(child, "{\"id\":3,\"error\":{\"code\":-1,\"message\":\"after all not\"}}");
    assert_int_equal(next(0), -1);
}

static void an_answer_that_came_only_with_the_end_is_told(void **state)
{
    (void)state;
    struct cs_process *child = running();
    hand_say(child, "{\"method\":\"turn/"
                    "completed\",\"params\":{\"threadId\":\"t\",\"turn\":{\"id\":\"u\",\"status\":"
                    "\"completed\",\"items\":[{\"type\":\"agentMessage\",\"text\":\"late\"},{"
                    "\"type\":\"x\"}]}}}");
    assert_int_equal(next(0), CS_EVENT_MESSAGE);
    assert_string_equal(event.text, "late");
    assert_done(CS_OK, NULL);
}

static void a_turn_that_failed_without_a_reason_has_a_sentence(void **state)
{
    (void)state;
    struct cs_process *child = running();
    hand_say(
        child,
        "{\"method\":\"turn/completed\",\"params\":{\"threadId\":\"t\",\"turn\":{\"id\":\"u\"}}}");
    assert_done(CS_UPSTREAM, "codex_error");
    assert_true(strlen(event.error->msg) > 0);
}

static void a_thread_that_codex_unloads_is_resumed(void **state)
{
    (void)state;
    struct cs_process *child = running();
    hand_say(child,
             "{\"method\":\"thread/closed\",\"params\":{\"threadId\":\"t\"}}"); /* not while a turn
                                                                                   runs */
    hand_say(child, "{\"method\":\"turn/"
                    "completed\",\"params\":{\"threadId\":\"t\",\"turn\":{\"id\":\"u\",\"status\":"
                    "\"completed\"}}}");
    assert_done(CS_OK, NULL);
    cs_engine_turn_free(turn);
    hand_say(child, "{\"method\":\"thread/closed\",\"params\":{\"threadId\":\"t\"}}");
    begin("t");
    assert_int_equal(next(0), -1);
    assert_sent(child, "thread/resume");
}

static enum cs_status no_past(void *arg, const struct cs_engine_item **out_items, size_t *out_count,
                              struct cs_err *err)
{
    (void)arg;
    (void)out_items;
    (void)out_count;
    return cs_err_set(err, CS_IO, "disk_gone", "the transcript cannot be read");
}

/* The handshake of either kind, for a turn whose transcript cannot be read. */
static struct cs_process *shaken_without_a_past(enum cs_engine_kind kind, int nth)
{
    ask_for(kind, NULL);
    request.history = no_past;
    assert_int_equal(cs_engine_turn_start(engine, &request, &turn, NULL), CS_OK);
    assert_int_equal(next(0), -1);
    struct cs_process *child = hand_await(nth, "initialize");
    assert_non_null(child);
    hand_say(child, "{\"id\":1,\"result\":{\"userAgent\":\"x\",\"serverInfo\":{\"name\":\"x\"}}}");
    return child;
}

static void a_transcript_that_cannot_be_read_ends_the_turn(void **state)
{
    (void)state;
    struct cs_process *child = shaken_without_a_past(CS_ENGINE_APP_SERVER, 1);
    assert_int_equal(next(0), -1);
    hand_say(child, "{\"id\":2,\"result\":{\"thread\":{\"id\":\"t\"}}}");
    assert_done(CS_IO, "disk_gone");
    cs_engine_turn_free(turn);
    (void)shaken_without_a_past(CS_ENGINE_MCP, 2);
    assert_done(CS_IO, "disk_gone");
}

static void an_mcp_server_of_another_kind_is_refused(void **state)
{
    (void)state;
    ask_for(CS_ENGINE_MCP, NULL);
    assert_int_equal(cs_engine_turn_start(engine, &request, &turn, NULL), CS_OK);
    assert_int_equal(next(0), -1);
    hand_say(hand_await(1, "initialize"), "{\"id\":1,\"result\":{}}");
    assert_done(CS_UNAVAILABLE, "codex_unavailable");
}

static void an_mcp_error_has_its_sentence(void **state)
{
    (void)state;
    ask_for(CS_ENGINE_MCP, NULL);
    request.model = "m";
    assert_int_equal(cs_engine_turn_start(engine, &request, &turn, NULL), CS_OK);
    assert_int_equal(next(0), -1);
    struct cs_process *child = hand_await(1, "initialize");
    hand_say(child, "{\"id\":1,\"result\":{\"serverInfo\":{\"name\":\"x\"}}}");
    assert_int_equal(next(0), -1);
    assert_sent(child, "\"model\":\"m\"");
    hand_say(child, "{\"id\":2,\"error\":{\"code\":-32602,\"message\":\"bad arguments\"}}");
    assert_done(CS_UPSTREAM, "codex_error");
    assert_string_equal(event.error->msg, "bad arguments");
}

/* A whole turn, answered by hand; ends in any way, but ends. */
static void whole_turn(enum cs_engine_kind kind, const char *const *replies, size_t count)
{
    struct cs_engine_options options = {.instance = "x", .max_line = 1048576, .version = "1"};
    struct cs_engine *one = NULL;
    struct cs_engine_turn *mine = NULL;
    ask_for(kind, NULL);
    request.model = "m";
    request.approvals = true;
    if (cs_engine_new(&options, &one, NULL) != CS_OK) {
        return;
    }
    if (cs_engine_turn_start(one, &request, &mine, NULL) == CS_OK) {
        bool done = drain(mine, 0);
        for (int i = 0; i < 1000 && !done && !hand_live(); i++) {
            done = drain(mine, 1);
        }
        for (size_t i = 0; i < count && !done && hand_live(); i++) {
            hand_say(hand_live(), replies[i]);
            done = drain(mine, 0);
        }
        done = done || drain(mine, 1000);
        assert_true(done);
        cs_engine_turn_free(mine);
    }
    cs_engine_free(one, cs_mono_ms());
}

#define OF_TURN "\"params\":{\"threadId\":\"t\",\"turnId\":\"u\","
#define OF_CALL                                                                                    \
    "{\"method\":\"codex/event\",\"params\":{\"_meta\":{\"requestId\":2},\"id\":\"u\",\"msg\":"

static void whole_app_server_turn(void *arg)
{
    static const char *const replies[] = {
        "{\"id\":1,\"result\":{\"userAgent\":\"x\"}}",
        "{\"id\":2,\"result\":{\"thread\":{\"id\":\"t\"},\"model\":\"m\",\"sandbox\":{\"type\":"
        "\"readOnly\"}}}",
        "{\"id\":3,\"result\":{\"turn\":{\"id\":\"u\"}}}",
        "{\"method\":\"item/agentMessage/delta\"," OF_TURN "\"delta\":\"hi\"}}",
        "{\"method\":\"item/started\"," OF_TURN
        "\"item\":{\"type\":\"fileChange\",\"id\":\"i\",\"changes\":[{\"path\":\"/a\"}]}}}",
        "{\"id\":0,\"method\":\"item/fileChange/requestApproval\"," OF_TURN
        "\"itemId\":\"i\",\"reason\":\"r\"}}",
        "{\"id\":1,\"method\":\"item/permissions/requestApproval\"," OF_TURN "\"permissions\":{}}}",
        "{\"method\":\"serverRequest/resolved\",\"params\":{\"threadId\":\"t\",\"requestId\":1}}",
        "{\"method\":\"item/completed\"," OF_TURN
        "\"item\":{\"type\":\"agentMessage\",\"text\":\"hi\"}}}",
        "{\"method\":\"thread/tokenUsage/updated\"," OF_TURN
        "\"tokenUsage\":{\"total\":{\"inputTokens\":3},\"last\":{\"inputTokens\":3}}}}",
        "{\"method\":\"turn/completed\"," OF_TURN
        "\"turn\":{\"id\":\"u\",\"status\":\"completed\"}}}",
    };
    (void)arg;
    whole_turn(CS_ENGINE_APP_SERVER, replies, sizeof(replies) / sizeof(replies[0]));
}

static void whole_mcp_turn(void *arg)
{
    static const char *const replies[] = {
        "{\"id\":1,\"result\":{\"serverInfo\":{\"name\":\"x\"}}}",
        OF_CALL "{\"type\":\"session_configured\",\"session_id\":\"t\",\"model\":\"m\"}}}",
        OF_CALL "{\"type\":\"task_started\",\"turn_id\":\"u\"}}}",
        OF_CALL "{\"type\":\"agent_message_content_delta\",\"delta\":\"hi\"}}}",
        "{\"id\":0,\"method\":\"elicitation/create\",\"params\":{\"codex_elicitation\":"
        "\"exec-approval\",\"codex_mcp_tool_call_id\":\"2\",\"codex_command\":[\"a\",\"b c\"]}}",
        "{\"id\":1,\"method\":\"elicitation/create\",\"params\":{\"codex_elicitation\":"
        "\"patch-approval\",\"codex_mcp_tool_call_id\":\"2\",\"codex_changes\":{\"/a\":{}}}}",
        OF_CALL "{\"type\":\"agent_message\",\"message\":\"hi\"}}}",
        OF_CALL "{\"type\":\"error\",\"message\":\"no\"}}}",
        "{\"id\":2,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]}}",
    };
    (void)arg;
    whole_turn(CS_ENGINE_MCP, replies, sizeof(replies) / sizeof(replies[0]));
}

static void any_one_allocation_may_fail(void **state)
{
    (void)state;
    cs_log_set_level(CS_LOG_ERROR + 1);
    assert_true(fault_sweep(whole_app_server_turn, NULL) > 100);
    assert_true(fault_sweep(whole_mcp_turn, NULL) > 100);
}

#define LINE(name) cmocka_unit_test_teardown(name, forget_line)
#define LINK(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LINE(a_line_that_is_no_object_is_noise),
        LINE(an_object_that_is_no_message_is_bad),
        LINE(an_object_too_deep_is_bad),
        LINE(a_reply_has_our_id_and_a_result_or_an_error),
        LINE(a_method_without_an_id_is_a_notice_and_with_one_a_request),
        LINE(an_escaped_nul_is_replaced_and_an_escaped_backslash_is_not),
        LINE(a_line_read_without_memory_says_so),
        LINK(no_child_is_started_before_the_first_turn),
        LINK(the_handshake_comes_before_all_else),
        LINK(a_handshake_without_end_is_bounded),
        LINK(a_child_given_up_before_its_start_is_over_is_stopped),
        LINK(a_child_that_cannot_be_started_is_unavailable),
        LINK(a_reply_to_nobody_is_ignored),
        LINK(a_reply_without_a_thread_is_a_protocol_error),
        LINK(a_resumed_thread_of_another_id_is_not_used),
        LINK(a_thread_that_runs_elsewhere_is_not_used),
        LINK(what_an_old_child_said_does_not_reach_the_new_one),
        LINK(a_turn_of_an_old_child_does_not_call_the_new_one),
        LINK(a_closed_thread_is_loaded_again),
        LINK(a_child_that_hangs_is_replaced),
        LINK(a_child_that_does_not_read_is_stopped),
        LINK(bad_lines_are_counted),
        LINK(a_call_has_one_reply),
        LINK(an_answer_that_came_only_with_the_end_is_told),
        LINK(a_turn_that_failed_without_a_reason_has_a_sentence),
        LINK(a_thread_that_codex_unloads_is_resumed),
        LINK(a_transcript_that_cannot_be_read_ends_the_turn),
        LINK(an_mcp_server_of_another_kind_is_refused),
        LINK(an_mcp_error_has_its_sentence),
        cmocka_unit_test(any_one_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
