/* The protocol, message by message, on a real store and a scripted engine. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "fault.h"
#include "priv.h"
#include "scripted_engine.h"

#define SESSIONS_ERA "2025-11-25"
#define NOBODY       "00000000-0000-7000-8000-000000000000"
#define META                                                                                       \
    "\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\","                       \
    "\"io.modelcontextprotocol/clientCapabilities\":{}}"

#define TASKS_META                                                                                 \
    "\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\","                       \
    "\"io.modelcontextprotocol/clientCapabilities\":{\"extensions\":{\"" CS_TASKS_EXTENSION        \
    "\":{}}}}"

struct fixture {
    char dir[64];
    struct cs_config config;
    struct cs_store *store;
    struct cs_engine engine;
    struct cs_core *core;
    struct cs_mcp *mcp;
    char session[CS_MCP_SESSION_MAX]; /* of 2025-11-25 */
};

static struct fixture fixture;

/* What a client got: the stream's messages, one a line, then the answer. */
struct got {
    int status;
    struct cs_json *json; /* the answer; NULL without */
    char session[CS_MCP_SESSION_MAX];
    char *sent;
};

/* A client's stream; it goes away when it has got `most` messages. */
struct client {
    struct cs_buf sent;
    char event[256];
    int count, most;
    bool gone;
};

static struct got got;

static bool take(void *arg, const char *event, const char *json, size_t len)
{
    struct client *client = arg;

    if (client->gone)
        return false;
    if (event != NULL)
        (void)snprintf(client->event, sizeof client->event, "%s", event);
    if (len > 0) {
        cs_buf_add(&client->sent, json, len);
        cs_buf_addc(&client->sent, '\n');
        client->count++;
    }
    client->gone = client->most > 0 && client->count >= client->most;
    return true;
}

static bool there(void *arg)
{
    const struct client *client = arg;

    return !client->gone;
}

static void forget(void)
{
    cs_json_free(got.json);
    free(got.sent);
    memset(&got, 0, sizeof got);
}

static void keep(struct cs_mcp_answer *answer, struct client *client)
{
    forget();
    got.status = answer->status;
    memcpy(got.session, answer->session, sizeof got.session);
    if (answer->json.len > 0)
        assert_int_equal(
            cs_json_parse(answer->json.data, answer->json.len, answer->json.len, &got.json, NULL),
            CS_OK);
    if (client != NULL)
        got.sent = cs_buf_take(&client->sent, NULL);
    cs_mcp_answer_fini(answer);
}

static void send_as(const struct cs_mcp_head *head, struct client *client, const char *text)
{
    struct cs_mcp_stream stream = {
        .send = client != NULL ? take : NULL, .beat = client != NULL ? there : NULL, .arg = client};
    struct cs_mcp_answer answer;

    cs_mcp_post(fixture.mcp, head, text, strlen(text), &stream, &answer);
    keep(&answer, client);
}

/* Send in the fixture's session. */
static void send(const char *text)
{
    struct cs_mcp_head head = {.session = fixture.session};

    send_as(&head, NULL, text);
}

/* Call @method with the members @params in the fixture's session. */
static void call(const char *method, const char *params)
{
    char text[4096];

    (void)snprintf(text, sizeof text,
                   "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":{%s}}", method,
                   params);
    send(text);
}

/* The same without sessions. */
static void call_alone(const char *method, const char *name, const char *params)
{
    struct cs_mcp_head head = {.revision = "2026-07-28", .method = method, .name = name};
    char text[4096];

    (void)snprintf(text, sizeof text,
                   "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":{%s%s" META "}}",
                   method, params, params[0] != '\0' ? "," : "");
    send_as(&head, NULL, text);
}

static const struct cs_json *result(void)
{
    const struct cs_json *found = cs_json_get(got.json, "result");

    if (found == NULL)
        fail_msg("%d: no result: %s", got.status,
                 cs_json_string(cs_json_path(got.json, "error", "message", NULL), NULL));
    return found;
}

static int64_t code(void)
{
    return cs_json_int(cs_json_path(got.json, "error", "code", NULL), 0);
}

static const char *text_of_tool(void)
{
    return cs_json_get_string(cs_json_at(cs_json_get(result(), "content"), 0), "text");
}

static const char *structured(const char *member)
{
    return cs_json_string(cs_json_path(result(), "structuredContent", member, NULL), NULL);
}

static void initialize_able(const char *revision, const char *capabilities)
{
    struct cs_mcp_head head = {0};
    char text[512];

    (void)snprintf(text, sizeof text,
                   "{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":{"
                   "\"protocolVersion\":\"%s\",\"capabilities\":{%s},"
                   "\"clientInfo\":{\"name\":\"t\",\"version\":\"1\"}}}",
                   revision, capabilities);
    send_as(&head, NULL, text);
}

static void initialize(const char *revision)
{
    initialize_able(revision, "");
}

static int setup(void **state)
{
    struct fixture *f = &fixture;
    struct cs_store_options options = {.dir = f->dir, .host = "here"};
    struct cs_store_opened opened;
    struct cs_core_parts parts;
    char data_flag[128], cwd_flag[96];
    char beat_flag[] = "--heartbeat-ms=100", ask_flag[] = "--approval-timeout-ms=5000";
    char *argv[] = {data_flag, cwd_flag, beat_flag, ask_flag, NULL}, *envp[] = {NULL};
    struct cs_err err = {0};

    (void)state;
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/cs-mcp-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(data_flag, sizeof data_flag, "--data-dir=%s", f->dir);
    (void)snprintf(cwd_flag, sizeof cwd_flag, "--cwd=/tmp");
    cs_log_set_level(CS_LOG_ERROR);
    scripted_engine_init(&f->engine);
    if (cs_config_load(&f->config, 4, argv, envp, &err) != CS_OK ||
        cs_store_open(&options, &f->store, &opened, &err) != CS_OK)
        fail_msg("%s", err.msg);
    parts = (struct cs_core_parts){.store = f->store, .engine = &f->engine, .config = &f->config};
    if (cs_core_new(&parts, &f->core, &err) != CS_OK ||
        cs_mcp_new(f->core, NULL, "1", &f->mcp, &err) != CS_OK)
        fail_msg("%s", err.msg);
    initialize(SESSIONS_ERA);
    memcpy(f->session, got.session, sizeof f->session);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = &fixture;
    static const char *const files[] = {"codex-sessiond.db", "codex-sessiond.db-wal",
                                        "codex-sessiond.db-shm"};
    char path[160];
    size_t i;

    (void)state;
    forget();
    f->engine.script = ANSWER;
    assert_true(cs_core_drain(f->core, cs_mono_ms() + 5000));
    cs_mcp_free(f->mcp);
    cs_core_free(f->core);
    cs_store_close(f->store);
    cs_config_fini(&f->config);
    for (i = 0; i < sizeof files / sizeof *files; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", f->dir, files[i]);
        (void)unlink(path);
    }
    return rmdir(f->dir);
}

/* ---- sessions ---- */

static void initialize_speaks_the_clients_revision_or_offers_the_newest(void **state)
{
    static const char *const cases[][2] = {
        {"2025-06-18", "2025-06-18"}, {"2025-11-25", "2025-11-25"}, {"2024-11-05", SESSIONS_ERA},
        {"2025-03-26", SESSIONS_ERA}, {"9999-01-01", SESSIONS_ERA}, {"2026-07-28", SESSIONS_ERA},
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        initialize(cases[i][0]);
        assert_int_equal(got.status, 200);
        assert_string_equal(cs_json_get_string(result(), "protocolVersion"), cases[i][1]);
    }
    assert_non_null(cs_json_path(result(), "capabilities", "tools", NULL));
    assert_non_null(cs_json_path(result(), "serverInfo", "version", NULL));
    call("initialize", "\"capabilities\":{}");
    assert_int_equal(code(), CS_RPC_INVALID_PARAMS);
}

static void a_session_id_is_random_and_visible_ascii(void **state)
{
    char first[CS_MCP_SESSION_MAX];
    const char *c;

    (void)state;
    initialize(SESSIONS_ERA);
    memcpy(first, got.session, sizeof first);
    assert_true(strlen(first) > 32);
    for (c = first; *c != '\0'; c++)
        assert_true(*c > ' ' && *c < 127);
    initialize(SESSIONS_ERA);
    assert_string_not_equal(first, got.session);
}

static void a_request_needs_a_session_that_has_not_ended(void **state)
{
    static const char ping[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}";
    static const char note[] = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}";
    struct cs_mcp_head head = {0};
    char session[CS_MCP_SESSION_MAX];

    (void)state;
    send_as(&head, NULL, ping);
    assert_int_equal(got.status, 400);
    head.session = "unknown";
    send_as(&head, NULL, ping);
    assert_int_equal(got.status, 404);
    initialize(SESSIONS_ERA);
    memcpy(session, got.session, sizeof session);
    head.session = session;
    send_as(&head, NULL, ping);
    assert_int_equal(got.status, 200);
    assert_int_equal(cs_mcp_end(fixture.mcp, &head), 200);
    assert_int_equal(cs_mcp_end(fixture.mcp, &head), 404);
    send_as(&head, NULL, ping);
    assert_int_equal(got.status, 404);
    send_as(&head, NULL, note);
    assert_int_equal(got.status, 404);
    head.session = NULL;
    assert_int_equal(cs_mcp_end(fixture.mcp, &head), 400);
}

static void the_session_unused_for_longest_makes_room(void **state)
{
    struct cs_mcp_head head = {0};
    char oldest[CS_MCP_SESSION_MAX];
    int i;

    (void)state;
    initialize(SESSIONS_ERA);
    memcpy(oldest, got.session, sizeof oldest);
    for (i = 0; i < CS_MCP_SESSIONS_MAX; i++)
        initialize(SESSIONS_ERA);
    assert_int_equal(fixture.mcp->session_count, CS_MCP_SESSIONS_MAX);
    head.session = oldest;
    send_as(&head, NULL, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}");
    assert_int_equal(got.status, 404);
    initialize(SESSIONS_ERA);
    memcpy(fixture.session, got.session, sizeof fixture.session);
}

static void a_revision_that_is_not_spoken_is_refused_with_those_that_are(void **state)
{
    struct cs_mcp_head head = {.session = fixture.session, .revision = "1999-01-01"};

    (void)state;
    send_as(&head, NULL, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}");
    assert_int_equal(got.status, 400);
    assert_int_equal(code(), CS_RPC_NO_REVISION);
    assert_int_equal(cs_json_size(cs_json_path(got.json, "error", "data", "supported", NULL)), 3);
    head.revision = NULL;
    send_as(&head, NULL, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}");
    assert_int_equal(got.status, 200);
    head.revision = "2025-06-18";
    send_as(&head, NULL, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}");
    assert_int_equal(got.status, 200);
}

/* ---- messages ---- */

static void what_is_no_message_is_refused(void **state)
{
    static const struct {
        const char *text;
        int code;
    } cases[] = {
        {"", CS_RPC_PARSE},
        {"{", CS_RPC_PARSE},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"ping\"}", CS_RPC_PARSE},
        {"[]", CS_RPC_INVALID_REQUEST},
        {"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]", CS_RPC_INVALID_REQUEST},
        {"{\"id\":1,\"method\":\"ping\"}", CS_RPC_INVALID_REQUEST},
        {"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"ping\"}", CS_RPC_INVALID_REQUEST},
        {"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"ping\"}", CS_RPC_INVALID_REQUEST},
        {"{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"ping\"}", CS_RPC_INVALID_REQUEST},
        {"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"ping\"}", CS_RPC_INVALID_REQUEST},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}", CS_RPC_INVALID_REQUEST},
        {"{\"jsonrpc\":\"2.0\",\"id\":1}", CS_RPC_INVALID_REQUEST},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":[]}",
         CS_RPC_INVALID_REQUEST},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"result\":{}}",
         CS_RPC_INVALID_REQUEST},
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        send(cases[i].text);
        if (got.status != 400 || code() != cases[i].code)
            fail_msg("%s: %d %d", cases[i].text, got.status, (int)code());
    }
}

static void notifications_and_responses_are_taken_without_a_word(void **state)
{
    static const char *const cases[] = {
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/unheard-of\"}",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/"
        "cancelled\",\"params\":{\"requestId\":99}}",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/"
        "cancelled\",\"params\":{\"requestId\":[]}}",
        "{\"jsonrpc\":\"2.0\",\"id\":99,\"result\":{}}",
        "{\"jsonrpc\":\"2.0\",\"id\":99,\"error\":{\"code\":1,\"message\":\"x\"}}",
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        send(cases[i]);
        assert_int_equal(got.status, 202);
        assert_null(got.json);
    }
}

static void ids_come_back_as_they_were(void **state)
{
    (void)state;
    send("{\"jsonrpc\":\"2.0\",\"id\":\"a\\\"b\",\"method\":\"ping\"}");
    assert_string_equal(cs_json_get_string(got.json, "id"), "a\"b");
    assert_int_equal(cs_json_size(result()), 0);
    send("{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"nothing\"}");
    assert_int_equal(cs_json_int(cs_json_get(got.json, "id"), -1), 0);
    assert_int_equal(code(), CS_RPC_NO_METHOD);
    assert_int_equal(got.status, 200);
}

static void ping_and_the_level_of_logs_are_answered_with_nothing(void **state)
{
    (void)state;
    call("ping", "");
    assert_int_equal(cs_json_size(result()), 0);
    call("logging/setLevel", "\"level\":\"warning\"");
    assert_int_equal(cs_json_size(result()), 0);
    call("logging/setLevel", "\"level\":\"loud\"");
    assert_int_equal(code(), CS_RPC_INVALID_PARAMS);
}

/* ---- tools ---- */

static void tools_are_defined_whole(void **state)
{
    static const char *const members[] = {"name",        "title",        "description",
                                          "inputSchema", "outputSchema", "annotations"};
    const struct cs_json *tools;
    size_t i, j;

    (void)state;
    call("tools/list", "");
    tools = cs_json_get(result(), "tools");
    assert_int_equal(cs_json_size(tools), 6);
    for (i = 0; i < 6; i++) {
        for (j = 0; j < sizeof members / sizeof *members; j++)
            assert_non_null(cs_json_get(cs_json_at(tools, i), members[j]));
        assert_null(strchr(cs_json_get_string(cs_json_at(tools, i), "description"), '\n'));
    }
}

static void an_unknown_tool_is_an_error_of_the_protocol(void **state)
{
    (void)state;
    call("tools/call", "\"name\":\"nothing\"");
    assert_int_equal(code(), CS_RPC_INVALID_PARAMS);
    call("tools/call", "");
    assert_int_equal(code(), CS_RPC_INVALID_PARAMS);
    call("tools/call", "\"name\":\"codex\",\"arguments\":[]");
    assert_int_equal(code(), CS_RPC_INVALID_PARAMS);
}

static void arguments_are_checked_and_what_is_wrong_is_told_to_the_model(void **state)
{
    static const char *const cases[][2] = {
        {"\"name\":\"codex\"", "`prompt` is required"},
        {"\"name\":\"codex\",\"arguments\":{\"prompt\":\"\"}", "must not be empty"},
        {"\"name\":\"codex\",\"arguments\":{\"prompt\":1}", "must be of type string"},
        {"\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\",\"sandbox\":\"none\"}",
         "`sandbox` must be one of [\"read-only\",\"workspace-write\""},
        {"\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\",\"colour\":1}", "`colour` is unknown"},
        {"\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\",\"base-instructions\":\"y\"}",
         "base-instructions are not supported"},
        {"\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\",\"config\":{\"profile\":\"y\"}}",
         "config.profile is not supported"},
        {"\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\",\"config\":{\"model\":1}}",
         "config.model must be a string"},
        {"\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\",\"sandbox\":\"read-only\","
         "\"config\":{\"sandbox_mode\":\"workspace-write\"}}",
         "agree with the argument"},
        {"\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\",\"sandbox\":\"danger-full-access\"}",
         "danger-full-access"},
        {"\"name\":\"codex-reply\",\"arguments\":{\"prompt\":\"x\"}", "`threadId` is required"},
        {"\"name\":\"codex-reply\",\"arguments\":{\"prompt\":\"x\",\"threadId\":\"a\","
         "\"sessionId\":\"b\"}",
         "Give one of"},
        {"\"name\":\"codex-reply\",\"arguments\":{\"prompt\":\"x\",\"threadId\":\"" NOBODY "\"}",
         "\ncodex-sessions lists the conversations"},
        {"\"name\":\"codex-sessions\",\"arguments\":{\"limit\":0}", "must be from 1 to 100"},
        {"\"name\":\"codex-sessions\",\"arguments\":{\"limit\":1.5}", "of type integer"},
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        call("tools/call", cases[i][0]);
        if (!cs_json_bool(cs_json_get(result(), "isError"), false) ||
            strstr(text_of_tool(), cases[i][1]) == NULL)
            fail_msg("%s: %s", cases[i][0], text_of_tool());
    }
}

/* Call @tool and check its result against its own outputSchema. */
static void call_tool(const char *tool, const char *arguments)
{
    const struct cs_json *tools = cs_json_get(fixture.mcp->definitions, "tools");
    struct cs_err err = {0};
    char params[1024];
    size_t i;

    (void)snprintf(params, sizeof params, "\"name\":\"%s\",\"arguments\":{%s}", tool, arguments);
    call("tools/call", params);
    if (cs_json_get(result(), "isError") != NULL)
        fail_msg("%s: %s", tool, text_of_tool());
    for (i = 0; i < cs_json_size(tools); i++)
        if (strcmp(cs_json_get_string(cs_json_at(tools, i), "name"), tool) == 0 &&
            cs_schema_check(cs_json_get(cs_json_at(tools, i), "outputSchema"),
                            cs_json_get(result(), "structuredContent"), &err) != CS_OK)
            fail_msg("%s: %s", tool, err.msg);
}

static bool running(void)
{
    return cs_json_bool(cs_json_path(result(), "structuredContent", "running", NULL), false);
}

static void results_are_what_the_output_schemas_say(void **state)
{
    char thread[64], arguments[160];

    (void)state;
    fixture.engine.script = ANSWER;
    call_tool("codex", "\"prompt\":\"x\",\"config\":{\"model\":\"m\"},\"compact-prompt\":\"y\"");
    assert_string_equal(fixture.engine.model_asked, "m");
    assert_string_equal(structured("content"), "the answer");
    (void)snprintf(thread, sizeof thread, "%s", structured("threadId"));
    assert_non_null(strstr(text_of_tool(), thread));
    (void)snprintf(arguments, sizeof arguments, "\"prompt\":\"y\",\"conversationId\":\"%s\"",
                   thread);
    call_tool("codex-reply", arguments);
    assert_string_equal(structured("threadId"), thread);
    (void)snprintf(arguments, sizeof arguments, "\"threadId\":\"%s\"", thread);
    call_tool("codex-history", arguments);
    call_tool("codex-fork", arguments);
    assert_string_not_equal(structured("threadId"), thread);
    call_tool("codex-sessions", "\"query\":\"ANSWER\"");
    call("tools/call", "\"name\":\"codex-sessions\"");
    assert_null(cs_json_get(result(), "isError"));
}

static void a_fork_has_what_was_answered_and_stands_alone(void **state)
{
    char source[64], fork[64], arguments[160], sid[CS_UUID_MAX];

    (void)state;
    fixture.engine.script = ANSWER;
    call_tool("codex", "\"prompt\":\"first\"");
    (void)snprintf(source, sizeof source, "%s", structured("threadId"));
    fixture.engine.script = FAIL;
    (void)snprintf(
        arguments, sizeof arguments,
        "\"name\":\"codex-reply\",\"arguments\":{\"prompt\":\"lost\",\"threadId\":\"%s\"}", source);
    call("tools/call", arguments);
    fixture.engine.script = ANSWER;
    (void)snprintf(arguments, sizeof arguments, "\"threadId\":\"%s\"", source);
    call_tool("codex-fork", arguments);
    (void)snprintf(fork, sizeof fork, "%s", structured("threadId"));
    assert_int_equal(
        cs_json_int(cs_json_path(result(), "structuredContent", "messageCount", NULL), 0), 2);
    assert_int_equal(cs_core_delete(fixture.core, source, sid, NULL), CS_OK);
    (void)snprintf(arguments, sizeof arguments, "\"prompt\":\"on\",\"threadId\":\"%s\"", fork);
    call_tool("codex-reply", arguments);
    assert_string_equal(fixture.engine.seen, "user:first|codex:the answer|");
}

static void a_turn_in_the_background_is_answered_by_the_history(void **state)
{
    char thread[64], params[160];

    (void)state;
    fixture.engine.script = HANG;
    call_tool("codex", "\"prompt\":\"x\",\"background\":true");
    (void)snprintf(thread, sizeof thread, "%s", structured("threadId"));
    assert_non_null(strstr(structured("content"), "codex-history"));
    (void)snprintf(params, sizeof params, "\"threadId\":\"%s\",\"wait\":1", thread);
    call_tool("codex-history", params);
    assert_true(running());
    (void)snprintf(params, sizeof params,
                   "\"name\":\"codex-reply\",\"arguments\":{\"prompt\":\"y\",\"background\":true,"
                   "\"threadId\":\"%s\"}",
                   thread);
    call("tools/call", params);
    assert_non_null(strstr(text_of_tool(), "codex-history with `wait`")); /* one at a time */
    (void)snprintf(params, sizeof params, "\"threadId\":\"%s\"", thread);
    call_tool("codex-cancel", params);
    (void)snprintf(params, sizeof params, "\"threadId\":\"%s\",\"wait\":50", thread);
    call_tool("codex-history", params);
    assert_false(running());
    assert_int_equal(
        cs_json_int(cs_json_path(result(), "structuredContent", "messageCount", NULL), 0), 2);
    fixture.engine.script = ANSWER;
    (void)snprintf(params, sizeof params,
                   "\"prompt\":\"y\",\"background\":true,\"threadId\":\"%s\"", thread);
    call_tool("codex-reply", params); /* who heard of the end may go on */
    (void)snprintf(params, sizeof params, "\"threadId\":\"%s\",\"wait\":50,\"limit\":1", thread);
    call_tool("codex-history", params);
    assert_false(running());
    assert_non_null(strstr(text_of_tool(), "the answer"));
}

static void a_failed_turn_is_told_with_its_thread(void **state)
{
    (void)state;
    fixture.engine.script = FAIL;
    call("tools/call", "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"}");
    assert_true(cs_json_bool(cs_json_get(result(), "isError"), false));
    assert_int_equal(strlen(structured("threadId")), 36);
    assert_non_null(strstr(text_of_tool(), structured("threadId")));
    assert_non_null(strstr(text_of_tool(), "codex-reply goes on"));
    fixture.engine.script = ANSWER;
}

/* ---- streams ---- */

static void send_call(struct client *client, const char *id, const char *more)
{
    struct cs_mcp_head head = {.session = fixture.session};
    char text[512];

    cs_buf_init(&client->sent, 1 << 20);
    (void)snprintf(text, sizeof text,
                   "{\"jsonrpc\":\"2.0\",\"id\":%s,\"method\":\"tools/call\",\"params\":{"
                   "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"}%s}}",
                   id, more);
    send_as(&head, client, text);
}

static void progress_grows_and_bears_the_callers_token(void **state)
{
    struct client client = {0};
    int64_t last = -1;
    char *line, *rest = NULL;
    int lines = 0;

    (void)state;
    fixture.engine.script = TALK;
    send_call(&client, "5", ",\"_meta\":{\"progressToken\":\"tok\"}");
    assert_non_null(result());
    for (line = strtok_r(got.sent, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        struct cs_json *json = NULL;
        int64_t now;

        assert_int_equal(cs_json_parse(line, strlen(line), strlen(line), &json, NULL), CS_OK);
        assert_string_equal(cs_json_get_string(json, "method"), "notifications/progress");
        assert_string_equal(cs_json_get_string(cs_json_get(json, "params"), "progressToken"),
                            "tok");
        now = cs_json_int(cs_json_path(json, "params", "progress", NULL), -1);
        assert_true(now > last);
        last = now;
        lines++;
        cs_json_free(json);
    }
    assert_true(lines >= 3);
    client = (struct client){0};
    send_call(&client, "6", "");
    assert_string_equal(got.sent, "");
    fixture.engine.script = ANSWER;
}

static void progress_that_does_not_grow_is_not_told(void **state)
{
    static const int64_t told[] = {5, 5, 4, 6};
    struct client client = {0};
    struct cs_mcp_stream stream = {.send = take, .beat = there, .arg = &client};
    struct cs_mcp_call one = {.mcp = fixture.mcp, .stream = &stream, .token = "1", .progress = -1};
    size_t i;

    (void)state;
    cs_buf_init(&client.sent, 4096);
    for (i = 0; i < sizeof told / sizeof *told; i++)
        cs_mcp_progress(&one, told[i], 0, NULL);
    assert_int_equal(client.count, 2);
    one.cancelled = true;
    cs_mcp_progress(&one, 7, 0, NULL);
    assert_int_equal(client.count, 2);
    cs_buf_fini(&client.sent);
}

static void a_stream_begins_with_an_event_to_resume_from(void **state)
{
    struct client client = {0}, again = {0};
    struct cs_mcp_head head = {.session = fixture.session};
    struct cs_mcp_stream stream = {.send = take, .beat = there, .arg = &again};
    struct cs_mcp_answer answer;
    char other[CS_MCP_SESSION_MAX];

    (void)state;
    fixture.engine.script = ANSWER;
    send_call(&client, "\"seven\"", "");
    assert_true(client.event[0] != '\0');
    cs_buf_init(&again.sent, 1 << 20);
    head.last_event = client.event;
    cs_mcp_listen(fixture.mcp, &head, &stream, &answer);
    keep(&answer, &again);
    assert_int_equal(got.status, 200);
    assert_string_equal(cs_json_get_string(got.json, "id"), "seven");
    assert_string_equal(structured("content"), "the answer");
    initialize(SESSIONS_ERA);
    memcpy(other, got.session, sizeof other);
    head.session = other;
    cs_mcp_listen(fixture.mcp, &head, &stream, &answer);
    keep(&answer, NULL);
    assert_int_equal(got.status, 404);
    head.session = fixture.session;
    head.last_event = "0123456789abcdef." NOBODY ".31";
    cs_mcp_listen(fixture.mcp, &head, &stream, &answer);
    keep(&answer, NULL);
    assert_int_equal(got.status, 404);
}

struct parallel {
    pthread_t thread;
    bool mute; /* the client takes the answer alone */
    struct cs_mcp_head head;
    struct client client;
    const char *text;
    struct cs_mcp_answer answer;
};

static void *call_in_parallel(void *arg)
{
    struct parallel *one = arg;
    struct cs_mcp_stream stream = {
        .send = one->mute ? NULL : take, .beat = there, .arg = &one->client};

    cs_mcp_post(fixture.mcp, &one->head, one->text, strlen(one->text), &stream, &one->answer);
    return NULL;
}

static void await_running(int count)
{
    int64_t deadline = cs_mono_ms() + 10000;
    bool in_time = true;

    pthread_mutex_lock(&fixture.engine.mutex);
    while (fixture.engine.running != count && in_time)
        in_time = cs_cond_wait(&fixture.engine.changed, &fixture.engine.mutex, deadline);
    pthread_mutex_unlock(&fixture.engine.mutex);
    assert_true(in_time);
}

static void start_as(struct parallel *one, enum script script, const char *text)
{
    fixture.engine.script = script;
    one->text = text;
    cs_buf_init(&one->client.sent, 1 << 20);
    assert_int_equal(pthread_create(&one->thread, NULL, call_in_parallel, one), 0);
    await_running(1);
}

static void start(struct parallel *one, const char *text)
{
    start_as(one, HANG, text);
}

static void join(struct parallel *one)
{
    assert_int_equal(pthread_join(one->thread, NULL), 0);
    keep(&one->answer, &one->client);
    fixture.engine.script = ANSWER;
}

static void a_cancelled_call_stops_the_engine_and_has_no_answer(void **state)
{
    struct parallel one = {.head = {.session = fixture.session}};

    (void)state;
    start(&one, "{\"jsonrpc\":\"2.0\",\"id\":\"c\",\"method\":\"tools/call\",\"params\":{"
                "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"}}}");
    send("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/"
         "cancelled\",\"params\":{\"requestId\":\"d\"}}");
    assert_int_equal(fixture.engine.running, 1);
    send("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/"
         "cancelled\",\"params\":{\"requestId\":\"c\"}}");
    assert_int_equal(got.status, 202);
    await_running(0);
    join(&one);
    assert_null(got.json);
}

static void a_cancellation_that_overtakes_its_call_holds(void **state)
{
    struct parallel one = {.head = {.session = fixture.session}};
    struct timespec deadline;

    (void)state;
    send("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/"
         "cancelled\",\"params\":{\"requestId\":\"early\"}}");
    assert_int_equal(got.status, 202);
    fixture.engine.script = HANG;
    one.text = "{\"jsonrpc\":\"2.0\",\"id\":\"early\",\"method\":\"tools/call\",\"params\":{"
               "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"}}}";
    cs_buf_init(&one.client.sent, 1 << 20);
    assert_int_equal(pthread_create(&one.thread, NULL, call_in_parallel, &one), 0);
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &deadline), 0);
    deadline.tv_sec += 10;
    assert_int_equal(pthread_timedjoin_np(one.thread, NULL, &deadline), 0);
    keep(&one.answer, &one.client);
    await_running(0);
    fixture.engine.script = ANSWER;
    assert_null(got.json);
    call("ping", ""); /* the id alone is meant */
    assert_non_null(got.json);
}

/* Stop the turn that was begun last. */
static void cancel_newest(void)
{
    char tid[CS_UUID_MAX];
    struct cs_turn_row row;
    size_t count = 0;

    assert_int_equal(cs_core_turns(fixture.core, 0, &row, 1, &count, NULL), CS_OK);
    assert_int_equal(count, 1);
    memcpy(tid, row.tid, sizeof tid);
    cs_turn_row_fini(&row);
    assert_true(cs_turn_cancel(fixture.core, tid));
    await_running(0);
}

static void who_goes_away_from_a_session_does_not_cancel(void **state)
{
    struct parallel one = {.head = {.session = fixture.session}, .client = {.most = 1}};

    (void)state;
    start(&one,
          "{\"jsonrpc\":\"2.0\",\"id\":\"g\",\"method\":\"tools/call\",\"params\":{"
          "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"},\"_meta\":{\"progressToken\":1}}}");
    join(&one);
    assert_null(got.json);
    assert_int_equal(fixture.engine.running, 1);
    call("tools/call", "\"name\":\"codex-sessions\",\"arguments\":{\"limit\":1}");
    assert_string_equal(
        cs_json_get_string(
            cs_json_at(cs_json_path(result(), "structuredContent", "sessions", NULL), 0), "status"),
        "running");
    cancel_newest();
}

/* ---- without sessions ---- */

static void a_request_that_stands_alone_says_all_by_itself(void **state)
{
    static const struct {
        struct cs_mcp_head head;
        const char *params;
        int status, code;
    } cases[] = {
        {{.revision = "2026-07-28", .method = "tools/list"}, "", 400, CS_RPC_INVALID_PARAMS},
        {{.revision = "2026-07-28", .method = "tools/list"},
         "\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"}",
         400,
         CS_RPC_INVALID_PARAMS},
        {{.method = "tools/list"}, META, 400, CS_RPC_HEADER_MISMATCH},
        {{.revision = "2025-11-25", .method = "tools/list"}, META, 400, CS_RPC_HEADER_MISMATCH},
        {{.revision = "2026-07-28"}, META, 400, CS_RPC_HEADER_MISMATCH},
        {{.revision = "2026-07-28", .method = "Tools/list"}, META, 400, CS_RPC_HEADER_MISMATCH},
        {{.revision = "2026-07-28", .method = " tools/list "}, META, 200, 0},
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];

        (void)snprintf(text, sizeof text,
                       "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\",\"params\":{%s}}",
                       cases[i].params);
        send_as(&cases[i].head, NULL, text);
        if (got.status != cases[i].status || code() != cases[i].code)
            fail_msg("%d: %d %d", (int)i, got.status, (int)code());
    }
}

static void removed_methods_are_not_found(void **state)
{
    static const char *const methods[] = {"initialize",
                                          "ping",
                                          "logging/setLevel",
                                          "resources/subscribe",
                                          "resources/unsubscribe",
                                          "tasks/list",
                                          "tasks/result",
                                          "nothing"};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof methods / sizeof *methods; i++) {
        call_alone(methods[i], NULL, "");
        assert_int_equal(got.status, 404);
        assert_int_equal(code(), CS_RPC_NO_METHOD);
        assert_int_equal(cs_json_int(cs_json_get(got.json, "id"), 0), 1);
    }
    call("server/discover", "");
    assert_int_equal(code(), CS_RPC_NO_METHOD);
}

static void results_tell_their_type_and_how_long_they_hold(void **state)
{
    static const char *const cached[] = {"server/discover", "tools/list", "resources/list",
                                         "resources/templates/list", "prompts/list"};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof cached / sizeof *cached; i++) {
        call_alone(cached[i], NULL, "");
        assert_string_equal(cs_json_get_string(result(), "resultType"), "complete");
        assert_true(cs_json_int(cs_json_get(result(), "ttlMs"), -1) >= 0);
        assert_string_equal(cs_json_get_string(result(), "cacheScope"), "private");
        assert_non_null(
            cs_json_path(result(), "_meta", "io.modelcontextprotocol/serverInfo", "name", NULL));
    }
    call_alone("tools/call", "codex-sessions", "\"name\":\"codex-sessions\"");
    assert_string_equal(cs_json_get_string(result(), "resultType"), "complete");
    assert_null(cs_json_get(result(), "ttlMs"));
    call("tools/list", "");
    assert_null(cs_json_get(result(), "resultType"));
}

static void the_name_in_the_header_may_be_encoded(void **state)
{
    (void)state;
    call_alone("tools/call", "=?base64?Y29kZXgtc2Vzc2lvbnM=?=", "\"name\":\"codex-sessions\"");
    assert_int_equal(got.status, 200);
    call_alone("tools/call", "=?base64?Y29kZXg=?=", "\"name\":\"codex-sessions\"");
    assert_int_equal(code(), CS_RPC_HEADER_MISMATCH);
    call_alone("tools/call", NULL, "\"name\":\"codex-sessions\"");
    assert_int_equal(code(), CS_RPC_HEADER_MISMATCH);
}

static void without_sessions_who_goes_away_has_cancelled(void **state)
{
    struct parallel one = {
        .head = {.revision = "2026-07-28", .method = "tools/call", .name = "codex"},
        .client = {.most = 1}};

    (void)state;
    start(&one, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{"
                "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"},\"_meta\":{"
                "\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\","
                "\"io.modelcontextprotocol/clientCapabilities\":{},\"progressToken\":1}}}");
    join(&one);
    assert_null(got.json);
    await_running(0);
}

static void who_takes_no_stream_and_goes_away_is_missed(void **state)
{
    struct parallel alone = {
        .mute = true,
        .head = {.revision = "2026-07-28", .method = "tools/call", .name = "codex"},
        .client = {.gone = true}};
    struct parallel one = {
        .mute = true, .head = {.session = fixture.session}, .client = {.gone = true}};

    (void)state;
    start(&alone, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{"
                  "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"}," META "}}");
    join(&alone);
    await_running(0); /* that is how it cancels */
    start(&one, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{"
                "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"}}}");
    join(&one);
    assert_null(got.json);
    assert_int_equal(fixture.engine.running, 1); /* and that it does not */
    cancel_newest();
}

static void who_goes_away_is_missed_also_while_codex_never_pauses(void **state)
{
    struct parallel one = {
        .head = {.revision = "2026-07-28", .method = "tools/call", .name = "codex"},
        .client = {.gone = true}};
    struct cs_turn_view view;
    struct cs_turn_row row;
    size_t count = 0;

    (void)state;
    start_as(&one, CHAT,
             "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{"
             "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"}," META "}}");
    join(&one);
    assert_int_equal(cs_core_turns(fixture.core, 0, &row, 1, &count, NULL), CS_OK);
    assert_int_equal(cs_turn_view(fixture.core, row.tid, cs_mono_ms() + 10000, &view, NULL), CS_OK);
    assert_int_equal(view.row.status, CS_TURN_CANCELLED);
    cs_turn_view_fini(&view);
    cs_turn_row_fini(&row);
}

static void a_sealed_text_is_taken_back_only_as_it_was(void **state)
{
    struct cs_buf sealed;
    char text[32];

    (void)state;
    cs_buf_init(&sealed, 1024);
    assert_int_equal(cs_mcp_seal(fixture.mcp, "state.1", &sealed, NULL), CS_OK);
    assert_true(cs_mcp_unseal(fixture.mcp, sealed.data, text, sizeof text));
    assert_string_equal(text, "state.1");
    assert_false(cs_mcp_unseal(fixture.mcp, sealed.data, text, 7));
    sealed.data[0] = 'S';
    assert_false(cs_mcp_unseal(fixture.mcp, sealed.data, text, sizeof text));
    sealed.data[0] = 's';
    sealed.data[sealed.len - 1] ^= 1;
    assert_false(cs_mcp_unseal(fixture.mcp, sealed.data, text, sizeof text));
    assert_false(cs_mcp_unseal(fixture.mcp, "state.1", text, sizeof text));
    assert_false(cs_mcp_unseal(fixture.mcp, NULL, text, sizeof text));
    cs_buf_fini(&sealed);
}

/* ---- resources, tasks ---- */

static void a_session_watches_a_bounded_number_of_resources(void **state)
{
    char params[64];
    int i;

    (void)state;
    for (i = 0; i <= CS_MCP_WATCHED_MAX; i++) {
        (void)snprintf(params, sizeof params, "\"uri\":\"codex-session://%d\"", i);
        call("resources/subscribe", params);
        assert_int_equal(code(), i < CS_MCP_WATCHED_MAX ? 0 : CS_RPC_INVALID_PARAMS);
    }
    for (i = 0; i < CS_MCP_WATCHED_MAX; i++) {
        (void)snprintf(params, sizeof params, "\"uri\":\"codex-session://%d\"", i * 7 % 64);
        call("resources/unsubscribe", params);
        assert_int_equal(cs_json_size(result()), 0);
    }
    call("resources/subscribe", "\"uri\":\"codex-session://x\"");
    assert_int_equal(cs_json_size(result()), 0);
}

static void a_uri_that_is_watched_is_short(void **state)
{
    char params[CS_URI_MAX + 64];

    (void)state;
    (void)snprintf(params, sizeof params, "\"uri\":\"%0*d\"", CS_URI_MAX, 0);
    call("resources/subscribe", params);
    assert_int_equal(code(), CS_RPC_INVALID_PARAMS);
    (void)snprintf(params, sizeof params, "\"uri\":\"%0*d\"", CS_URI_MAX - 1, 0);
    call("resources/subscribe", params);
    assert_int_equal(cs_json_size(result()), 0);
}

static void an_unknown_resource_is_named_in_the_error(void **state)
{
    (void)state;
    call("resources/read", "\"uri\":\"codex-session://" NOBODY "\"");
    assert_int_equal(code(), CS_RPC_NO_RESOURCE);
    call_alone("resources/read", "other://x", "\"uri\":\"other://x\"");
    assert_int_equal(code(), CS_RPC_INVALID_PARAMS);
    assert_string_equal(cs_json_string(cs_json_path(got.json, "error", "data", "uri", NULL), NULL),
                        "other://x");
    call("resources/list", "\"cursor\":\"-1\"");
    assert_int_equal(code(), CS_RPC_INVALID_PARAMS);
}

/* The rest of a stream of tasks/result is of the task, too, and its call only waits. */
static void resume_result(const char *task)
{
    struct cs_mcp_head head = {.session = fixture.session};
    struct client client = {0};
    struct cs_mcp_stream stream = {.send = take, .beat = there, .arg = &client};
    struct cs_mcp_answer answer;
    char text[256];

    (void)snprintf(text, sizeof text,
                   "{\"jsonrpc\":\"2.0\",\"id\":\"w\",\"method\":\"tasks/result\",\"params\":{"
                   "\"taskId\":\"%s\"}}",
                   task);
    cs_buf_init(&client.sent, 1 << 20);
    send_as(&head, &client, text);
    head.last_event = client.event;
    cs_buf_init(&client.sent, 1 << 20);
    cs_mcp_listen(fixture.mcp, &head, &stream, &answer);
    keep(&answer, &client);
    assert_string_equal(cs_json_get_string(got.json, "id"), "w");
    assert_string_equal(
        cs_json_string(
            cs_json_path(result(), "_meta", "io.modelcontextprotocol/related-task", "taskId", NULL),
            NULL),
        task);
}

static void a_task_is_answered_at_once_and_found_by_its_id(void **state)
{
    char task[CS_UUID_MAX], params[64];

    (void)state;
    fixture.engine.script = HANG;
    call("tools/call", "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"},\"task\":{}");
    (void)snprintf(task, sizeof task, "%s",
                   cs_json_string(cs_json_path(result(), "task", "taskId", NULL), NULL));
    (void)snprintf(params, sizeof params, "\"taskId\":\"%s\"", task);
    call("tasks/get", params);
    assert_string_equal(cs_json_get_string(result(), "status"), "working");
    call("tasks/cancel", params);
    assert_string_equal(cs_json_get_string(result(), "status"), "cancelled");
    call("tasks/cancel", params);
    assert_int_equal(code(), CS_RPC_INVALID_PARAMS);
    call("tasks/result", params);
    assert_true(cs_json_bool(cs_json_get(result(), "isError"), false));
    resume_result(task);
    call("tasks/list", "");
    assert_string_equal(cs_json_get_string(cs_json_at(cs_json_get(result(), "tasks"), 0), "taskId"),
                        task);
    call("tools/call", "\"name\":\"codex-history\",\"task\":{}");
    assert_int_equal(code(), CS_RPC_NO_METHOD);
    fixture.engine.script = ANSWER;
}

/* Its client waits for a task's id, whatever its model asks for. */
static void a_task_is_one_also_where_it_is_to_run_in_the_background(void **state)
{
    char task[CS_UUID_MAX], params[64];

    (void)state;
    fixture.engine.script = ANSWER;
    call("tools/call",
         "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\",\"background\":true},\"task\":{}");
    assert_non_null(cs_json_path(result(), "task", "taskId", NULL));
    (void)snprintf(task, sizeof task, "%s",
                   cs_json_string(cs_json_path(result(), "task", "taskId", NULL), NULL));
    (void)snprintf(params, sizeof params, "\"taskId\":\"%s\"", task);
    call("tasks/result", params);
    assert_string_equal(structured("content"), "the answer");
}

/* What its user got to read before. */
static char was_asked[512];

/* A client that answers while it is asked. */
static bool take_and_accept(void *arg, const char *event, const char *json, size_t len)
{
    struct cs_json *message = NULL;
    const char *method;
    struct cs_mcp_head head = {.session = fixture.session};
    struct cs_mcp_stream none = {0};
    struct cs_mcp_answer answer;
    char text[128];

    (void)arg;
    (void)event;
    if (len == 0 || cs_json_parse(json, len, len, &message, NULL) != CS_OK)
        return true;
    method = cs_json_get_string(message, "method");
    if (method != NULL && strcmp(method, "elicitation/create") == 0) {
        (void)snprintf(was_asked, sizeof was_asked, "%s",
                       cs_json_string(cs_json_path(message, "params", "message", NULL), NULL));
        (void)snprintf(text, sizeof text,
                       "{\"jsonrpc\":\"2.0\",\"id\":%lld,\"result\":{\"action\":\"accept\"}}",
                       (long long)cs_json_int(cs_json_get(message, "id"), 0));
        cs_mcp_post(fixture.mcp, &head, text, strlen(text), &none, &answer);
        cs_mcp_answer_fini(&answer);
    }
    cs_json_free(message);
    return true;
}

static void await_status(const char *params, const char *status)
{
    int64_t deadline = cs_mono_ms() + 4000;

    do
        call("tasks/get", params);
    while (strcmp(cs_json_get_string(result(), "status"), status) != 0 && cs_mono_ms() < deadline);
    assert_string_equal(cs_json_get_string(result(), "status"), status);
}

static void a_task_says_that_codex_asks_and_takes_the_quickest_answer(void **state)
{
    struct cs_mcp_head head = {.session = fixture.session};
    struct cs_mcp_stream stream = {.send = take_and_accept};
    struct cs_mcp_answer answer;
    char params[64], text[256];

    (void)state;
    initialize_able(SESSIONS_ERA, "\"elicitation\":{}");
    memcpy(fixture.session, got.session, sizeof fixture.session);
    fixture.engine.script = ASK;
    fixture.engine.asks = 1;
    fixture.engine.ask_kind = "patch";
    fixture.engine.ask_text = "{\"reason\":\"mend\\nchanges: none\","
                              "\"changes\":[{\"path\":\"/tmp/in.txt\",\"kind\":{}}]}";
    call("tools/call", "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\","
                       "\"approval-policy\":\"on-request\"},\"task\":{}");
    (void)snprintf(params, sizeof params, "\"taskId\":\"%s\"",
                   cs_json_string(cs_json_path(result(), "task", "taskId", NULL), NULL));
    await_status(params, "input_required");
    (void)snprintf(text, sizeof text,
                   "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tasks/result\",\"params\":{%s}}",
                   params);
    cs_mcp_post(fixture.mcp, &head, text, strlen(text), &stream, &answer);
    keep(&answer, NULL);
    assert_string_equal(structured("content"), "1+");
    /* who approves it knows what, whatever the model says of it */
    assert_non_null(strstr(was_asked, "/tmp/in.txt"));
    assert_true(strstr(was_asked, "/tmp/in.txt") < strstr(was_asked, "\nchanges: none"));
    await_status(params, "completed");
    fixture.engine.script = ANSWER;
}

/* ---- listeners ---- */

struct listening {
    pthread_t thread;
    atomic_bool there, left;
};

static bool still_there(void *arg)
{
    struct listening *listening = arg;

    return atomic_load(&listening->there);
}

static bool send_nothing(void *arg, const char *event, const char *json, size_t len)
{
    (void)event;
    (void)json;
    (void)len;
    return still_there(arg);
}

static void *listen_to_news(void *arg)
{
    struct listening *listening = arg;
    struct cs_mcp_head head = {.session = fixture.session};
    struct cs_mcp_stream stream = {.send = send_nothing, .beat = still_there, .arg = arg};
    struct cs_mcp_answer answer;

    cs_mcp_listen(fixture.mcp, &head, &stream, &answer);
    cs_mcp_answer_fini(&answer);
    atomic_store(&listening->left, true);
    return NULL;
}

static bool anybody_listens(void)
{
    bool anybody;

    pthread_mutex_lock(&fixture.mcp->mutex);
    anybody = fixture.mcp->listeners != NULL;
    pthread_mutex_unlock(&fixture.mcp->mutex);
    return anybody;
}

/* Its events never leave the listener the pause of a heartbeat. */
static void a_listener_that_left_is_missed_however_much_happens(void **state)
{
    struct listening listening;
    struct cs_turn_row row;
    size_t count = 0;
    bool talks = true;

    (void)state;
    atomic_init(&listening.there, true);
    atomic_init(&listening.left, false);
    fixture.engine.script = CHAT;
    call("tools/call", "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"},\"task\":{}");
    assert_int_equal(pthread_create(&listening.thread, NULL, listen_to_news, &listening), 0);
    while (!anybody_listens())
        call("ping", "");
    atomic_store(&listening.there, false);
    while (talks && !atomic_load(&listening.left)) {
        assert_int_equal(cs_core_turns(fixture.core, 0, &row, 1, &count, NULL), CS_OK);
        talks = row.status == CS_TURN_RUNNING;
        cs_turn_row_fini(&row);
    }
    assert_int_equal(pthread_join(listening.thread, NULL), 0);
    assert_true(talks); /* it left before there was a pause */
    cancel_newest();
    fixture.engine.script = ANSWER;
}

/* ---- no memory ---- */

struct sweep {
    const char *method, *params;
};

/* Whatever fails, there is an answer, or the word that there is none for want of memory. */
static void run_sweep(void *arg)
{
    const struct sweep *sweep = arg;
    struct cs_mcp_head head = {.session = fixture.session};
    struct client client = {0};
    struct cs_mcp_stream stream = {.send = take, .beat = there, .arg = &client};
    struct cs_mcp_answer answer;
    char text[1024];

    (void)snprintf(text, sizeof text,
                   "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":{%s}}",
                   sweep->method, sweep->params);
    cs_buf_init(&client.sent, 1 << 20);
    cs_mcp_post(fixture.mcp, &head, text, strlen(text), &stream, &answer);
    (void)fault_disarm();
    if (answer.json.len == 0 && answer.status != 503)
        fail_msg("%s: %d without an answer", sweep->method, answer.status);
    cs_mcp_answer_fini(&answer);
    cs_buf_fini(&client.sent);
    call("ping", "");
    assert_int_equal(got.status, 200);
}

struct lone_sweep {
    struct cs_mcp_head head;
    char text[1024];
};

/* The same without sessions; nobody stays to listen. */
static void run_lone_sweep(void *arg)
{
    const struct lone_sweep *sweep = arg;
    struct client client = {.gone = strcmp(sweep->head.method, "subscriptions/listen") == 0};
    struct cs_mcp_stream stream = {.send = take, .beat = there, .arg = &client};
    struct cs_mcp_answer answer;

    cs_buf_init(&client.sent, 1 << 20);
    cs_mcp_post(fixture.mcp, &sweep->head, sweep->text, strlen(sweep->text), &stream, &answer);
    (void)fault_disarm();
    if (answer.json.len == 0 && answer.status != 503 && !client.gone)
        fail_msg("%s: %d without an answer", sweep->head.method, answer.status);
    cs_mcp_answer_fini(&answer);
    cs_buf_fini(&client.sent);
}

static void every_failed_allocation_is_answered_to_who_knows_tasks(void **state)
{
    static const char *const methods[] = {"server/discover", "tools/call",
                                          "tasks/get",       "tasks/update",
                                          "tasks/cancel",    "subscriptions/listen"};
    struct cs_turn_row row;
    size_t i, count = 0;

    (void)state;
    fixture.engine.script = ANSWER;
    call_tool("codex", "\"prompt\":\"x\"");
    assert_int_equal(cs_core_turns(fixture.core, 0, &row, 1, &count, NULL), CS_OK);
    for (i = 0; i < sizeof methods / sizeof *methods; i++) {
        struct lone_sweep one = {.head = {.revision = "2026-07-28", .method = methods[i]}};

        if (i > 0)
            one.head.name = i == 1 ? "codex" : row.tid;
        (void)snprintf(one.text, sizeof one.text,
                       "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":{"
                       "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"},\"taskId\":\"%s\","
                       "\"inputResponses\":{\"1\":{\"action\":\"accept\"}},"
                       "\"notifications\":{\"taskIds\":[\"%s\"]}," TASKS_META "}}",
                       methods[i], row.tid, row.tid);
        assert_true(fault_sweep(run_lone_sweep, &one) > 0);
    }
    cs_turn_row_fini(&row);
}

static void every_failed_allocation_is_answered(void **state)
{
    static const struct sweep sweeps[] = {
        {"initialize", "\"protocolVersion\":\"x\",\"capabilities\":{},\"clientInfo\":{}"},
        {"tools/list", ""},
        {"nothing", ""},
        {"tools/call", "\"name\":\"codex-sessions\",\"arguments\":{\"query\":\"x\"}"},
        {"tools/call", "\"name\":\"codex\",\"arguments\":{\"prompt\":\"x\"},"
                       "\"_meta\":{\"progressToken\":1}"},
        {"resources/list", ""},
        {"resources/read", "\"uri\":\"codex-session://" NOBODY "\""},
        {"tasks/list", ""},
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof sweeps / sizeof *sweeps; i++) {
        struct sweep one = sweeps[i];

        assert_true(fault_sweep(run_sweep, &one) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(initialize_speaks_the_clients_revision_or_offers_the_newest),
        cmocka_unit_test(a_session_id_is_random_and_visible_ascii),
        cmocka_unit_test(a_request_needs_a_session_that_has_not_ended),
        cmocka_unit_test(the_session_unused_for_longest_makes_room),
        cmocka_unit_test(a_revision_that_is_not_spoken_is_refused_with_those_that_are),
        cmocka_unit_test(what_is_no_message_is_refused),
        cmocka_unit_test(notifications_and_responses_are_taken_without_a_word),
        cmocka_unit_test(ids_come_back_as_they_were),
        cmocka_unit_test(ping_and_the_level_of_logs_are_answered_with_nothing),
        cmocka_unit_test(tools_are_defined_whole),
        cmocka_unit_test(an_unknown_tool_is_an_error_of_the_protocol),
        cmocka_unit_test(arguments_are_checked_and_what_is_wrong_is_told_to_the_model),
        cmocka_unit_test(results_are_what_the_output_schemas_say),
        cmocka_unit_test(a_fork_has_what_was_answered_and_stands_alone),
        cmocka_unit_test(a_turn_in_the_background_is_answered_by_the_history),
        cmocka_unit_test(a_failed_turn_is_told_with_its_thread),
        cmocka_unit_test(progress_grows_and_bears_the_callers_token),
        cmocka_unit_test(progress_that_does_not_grow_is_not_told),
        cmocka_unit_test(a_stream_begins_with_an_event_to_resume_from),
        cmocka_unit_test(a_cancelled_call_stops_the_engine_and_has_no_answer),
        cmocka_unit_test(a_cancellation_that_overtakes_its_call_holds),
        cmocka_unit_test(who_goes_away_from_a_session_does_not_cancel),
        cmocka_unit_test(a_request_that_stands_alone_says_all_by_itself),
        cmocka_unit_test(removed_methods_are_not_found),
        cmocka_unit_test(results_tell_their_type_and_how_long_they_hold),
        cmocka_unit_test(the_name_in_the_header_may_be_encoded),
        cmocka_unit_test(without_sessions_who_goes_away_has_cancelled),
        cmocka_unit_test(who_takes_no_stream_and_goes_away_is_missed),
        cmocka_unit_test(who_goes_away_is_missed_also_while_codex_never_pauses),
        cmocka_unit_test(a_sealed_text_is_taken_back_only_as_it_was),
        cmocka_unit_test(a_session_watches_a_bounded_number_of_resources),
        cmocka_unit_test(a_uri_that_is_watched_is_short),
        cmocka_unit_test(an_unknown_resource_is_named_in_the_error),
        cmocka_unit_test(a_task_is_answered_at_once_and_found_by_its_id),
        cmocka_unit_test(a_task_is_one_also_where_it_is_to_run_in_the_background),
        cmocka_unit_test(a_task_says_that_codex_asks_and_takes_the_quickest_answer),
        cmocka_unit_test(a_listener_that_left_is_missed_however_much_happens),
        cmocka_unit_test(every_failed_allocation_is_answered),
        cmocka_unit_test(every_failed_allocation_is_answered_to_who_knows_tasks),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
