#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bridge.h"
#include "fault.h"

#define STATELESS "\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"}"

static void assert_text(const char *got, const char *want)
{
    if (want == NULL)
        assert_null(got);
    else
        assert_string_equal(got, want);
}

static struct cs_line read_line(const char *text)
{
    struct cs_line line;
    struct cs_err err = {0};
    int code;

    if (cs_line_read(text, strlen(text), NULL, &line, &code, &err) != CS_OK)
        fail_msg("%s: %s", text, err.msg);
    assert_string_equal(line.text, text);
    return line;
}

static void a_line_is_a_request_a_note_or_a_response(void **state)
{
    static const struct {
        const char *text;
        enum cs_line_kind kind;
        const char *id, *cancels, *subject, *method;
    } cases[] = {
        {"{\"id\":1,\"method\":\"ping\"}", CS_LINE_REQUEST, "1", NULL, NULL, "ping"},
        {" {\"method\":\"ping\",\"id\":\"a\\\"b\"}", CS_LINE_REQUEST, "\"a\\\"b\"", NULL, NULL,
         "ping"},
        {"{\"method\":\"notifications/initialized\"}", CS_LINE_NOTE, NULL, NULL, NULL,
         "notifications/initialized"},
        {"{\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":7}}", CS_LINE_NOTE,
         NULL, "7", NULL, "notifications/cancelled"},
        {"{\"method\":\"notifications/cancelled\"}", CS_LINE_NOTE, NULL, NULL, NULL,
         "notifications/cancelled"},
        {"{\"id\":2,\"method\":\"tools/call\",\"params\":{\"arguments\":{\"sessionId\":\"s\","
         "\"threadId\":\"t\"}}}",
         CS_LINE_REQUEST, "2", NULL, "t", "tools/call"},
        {"{\"id\":3,\"method\":\"ping\",\"params\":{\"arguments\":{\"threadId\":\"t\"}}}",
         CS_LINE_REQUEST, "3", NULL, NULL, "ping"},
        {"{\"id\":3,\"result\":{}}", CS_LINE_RESPONSE, NULL, NULL, NULL, ""},
        {"{\"id\":3,\"error\":{}}", CS_LINE_RESPONSE, NULL, NULL, NULL, ""},
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cs_line line = read_line(cases[i].text);

        assert_int_equal(line.kind, cases[i].kind);
        assert_text(line.id, cases[i].id);
        assert_text(line.cancels, cases[i].cancels);
        assert_text(line.subject, cases[i].subject);
        assert_string_equal(line.method, cases[i].method);
        assert_string_equal(line.revision, "");
        assert_int_equal(line.head.len, 0);
        cs_line_fini(&line);
    }
}

static void what_is_no_message_is_refused_with_json_rpcs_code(void **state)
{
    static const struct {
        const char *text;
        int code;
    } cases[] = {
        {"{", CS_RPC_PARSE},
        {"nonsense", CS_RPC_PARSE},
        {"{\"method\":\"a\"} {}", CS_RPC_PARSE},
        {"{\"method\":\"\xff\"}", CS_RPC_PARSE},
        {"1", CS_RPC_INVALID},
        {"[{\"id\":1,\"method\":\"ping\"}]", CS_RPC_INVALID},
        {"{}", CS_RPC_INVALID},
        {"{\"id\":1}", CS_RPC_INVALID},
        {"{\"result\":1}", CS_RPC_INVALID},
        {"{\"method\":7}", CS_RPC_INVALID},
        {"{\"id\":null,\"method\":\"ping\"}", CS_RPC_INVALID},
        {"{\"id\":1.5,\"method\":\"ping\"}", CS_RPC_INVALID},
        {"{\"id\":{},\"method\":\"ping\"}", CS_RPC_INVALID},
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cs_line line;
        int code = 0;

        assert_int_equal(
            cs_line_read(cases[i].text, strlen(cases[i].text), NULL, &line, &code, NULL),
            CS_INVALID);
        assert_int_equal(code, cases[i].code);
    }
}

static void a_stateless_request_gets_the_headers_that_repeat_it(void **state)
{
    static const struct {
        const char *text, *head;
    } cases[] = {
        {"{\"id\":1,\"method\":\"tools/list\",\"params\":{" STATELESS "}}",
         "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/list\r\n"},
        {"{\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"codex\"," STATELESS "}}",
         "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: codex\r\n"},
        {"{\"id\":1,\"method\":\"resources/read\",\"params\":{\"uri\":\"codex-session://"
         "1\"," STATELESS "}}",
         "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: resources/read\r\n"
         "Mcp-Name: codex-session://1\r\n"},
        {"{\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"caf\xc3\xa9\"," STATELESS "}}",
         "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n"
         "Mcp-Name: =?base64?Y2Fmw6k=?=\r\n"},
        {"{\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"a\\r\\nX: y\"," STATELESS "}}",
         "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n"
         "Mcp-Name: =?base64?YQ0KWDogeQ==?=\r\n"},
        {"{\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\" a\"," STATELESS "}}",
         "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n"
         "Mcp-Name: =?base64?IGE=?=\r\n"},
        {"{\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"=?base64?YQ==?=\"," STATELESS
         "}}",
         "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n"
         "Mcp-Name: =?base64?PT9iYXNlNjQ/WVE9PT89?=\r\n"},
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cs_line line = read_line(cases[i].text);

        assert_string_equal(line.revision, "2026-07-28");
        assert_string_equal(line.head.data, cases[i].head);
        cs_line_fini(&line);
    }
}

static void codex_works_in_the_clients_folder_unless_told_otherwise(void **state)
{
    static const struct {
        const char *name, *arguments, *cwd;
    } cases[] = {
        {"codex", "{\"prompt\":\"a \\\" b\"}", "/w \"x\""},
        {"codex", "{\"prompt\":\"p\",\"cwd\":\"sub/dir\"}", "/w \"x\"/sub/dir"},
        {"codex", "{\"prompt\":\"p\",\"cwd\":\"/elsewhere\"}", "/elsewhere"},
        {"codex-reply", "{\"prompt\":\"p\"}", NULL},
        {"codex", "{\"prompt\":\"p\",\"cwd\":7}", NULL},
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct cs_json *arguments;
        struct cs_json *sent, *said;
        struct cs_line line;
        char text[300];
        int code;
        int len =
            snprintf(text, sizeof text,
                     "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":"
                     "\"%s\",\"arguments\":%s,\"_meta\":{\"progressToken\":5}}}",
                     cases[i].name, cases[i].arguments);
        assert_int_equal(cs_line_read(text, (size_t)len, "/w \"x\"", &line, &code, NULL), CS_OK);
        assert_int_equal(cs_json_parse(line.text, line.len, 1000, &sent, NULL), CS_OK);
        assert_int_equal(cs_json_parse(text, (size_t)len, 1000, &said, NULL), CS_OK);
        arguments = cs_json_path(sent, "params", "arguments", NULL);
        assert_text(cs_json_get_string(arguments, "cwd"), cases[i].cwd);
        assert_string_equal(
            cs_json_get_string(arguments, "prompt"),
            cs_json_get_string(cs_json_path(said, "params", "arguments", NULL), "prompt"));
        assert_int_equal(
            cs_json_int(cs_json_path(sent, "params", "_meta", "progressToken", NULL), 0), 5);
        assert_int_equal(cs_json_size(sent), 4);
        cs_json_free(sent);
        cs_json_free(said);
        cs_line_fini(&line);
    }
}

static void an_error_names_the_request_and_the_conversation(void **state)
{
    struct cs_buf out;

    (void)state;
    cs_buf_init(&out, 1000);
    cs_line_error(&out, "\"a\"", CS_RPC_CLOSED, "Gone", "t-1");
    cs_line_error(&out, NULL, CS_RPC_PARSE, "Bad", NULL);
    assert_string_equal(
        out.data,
        "{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"error\":{\"code\":-32000,\"message\":\"Gone\","
        "\"data\":{\"threadId\":\"t-1\"}}}\n"
        "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"Bad\"}}\n");
    cs_buf_fini(&out);
}

static void read_once(void *arg)
{
    static const char text[] =
        "{\"id\":\"x\",\"method\":\"tools/call\",\"params\":{\"name\":\"codex\","
        "\"arguments\":{\"threadId\":\"t\"}," STATELESS "}}";
    struct cs_line line;
    int code;

    (void)arg;
    if (cs_line_read(text, sizeof text - 1, "/w", &line, &code, NULL) == CS_OK) {
        assert_string_equal(line.id, "\"x\"");
        cs_line_fini(&line);
    } else {
        assert_true(fault_hit());
    }
}

static void failing_memory_is_told(void **state)
{
    (void)state;
    assert_true(fault_sweep(read_once, NULL) > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_is_a_request_a_note_or_a_response),
        cmocka_unit_test(what_is_no_message_is_refused_with_json_rpcs_code),
        cmocka_unit_test(a_stateless_request_gets_the_headers_that_repeat_it),
        cmocka_unit_test(codex_works_in_the_clients_folder_unless_told_otherwise),
        cmocka_unit_test(an_error_names_the_request_and_the_conversation),
        cmocka_unit_test(failing_memory_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
