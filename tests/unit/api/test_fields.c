#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fault.h"
#include "fields.h"

struct reading {
    struct cs_json *body;
    struct cs_turn_request request;
    struct cs_buf joined;
    struct cs_err err;
    enum cs_status status;
};

static void read_text(struct reading *r, const char *text, bool continued)
{
    memset(r, 0, sizeof *r);
    cs_buf_init(&r->joined, 1 << 20);
    if (text != NULL)
        assert_int_equal(cs_json_parse(text, strlen(text), strlen(text), &r->body, &r->err), CS_OK);
    r->status = cs_fields_read(r->body, continued, &r->request, &r->joined, &r->err);
}

static void done(struct reading *r)
{
    cs_buf_fini(&r->joined);
    cs_json_free(r->body);
}

static void every_member_of_a_creation_is_read(void **state)
{
    struct reading r;

    (void)state;
    read_text(
        &r,
        "{\"prompt\":\"p\\u00e9\",\"model\":\"m\",\"sandbox\":\"read-only\",\"userId\":\"u\","
        "\"context\":\"c\",\"cwd\":\"/x\",\"title\":\"t\",\"timeoutMs\":2000,\"ttlSeconds\":0,"
        "\"engine\":\"exec\",\"conversationId\":\"ignored\"}",
        false);
    assert_int_equal(r.status, CS_OK);
    assert_false(r.request.continued);
    assert_string_equal(r.request.prompt, "p\xc3\xa9");
    assert_int_equal(r.request.prompt_len, 3);
    assert_string_equal(r.request.model, "m");
    assert_string_equal(r.request.sandbox, "read-only");
    assert_string_equal(r.request.user, "u");
    assert_string_equal(r.request.context, "c");
    assert_int_equal(r.request.context_len, 1);
    assert_string_equal(r.request.cwd, "/x");
    assert_string_equal(r.request.title, "t");
    assert_string_equal(r.request.engine, "exec");
    assert_int_equal(r.request.timeout_ms, 2000);
    assert_int_equal(r.request.ttl_seconds, 0);
    assert_null(r.request.identifier);
    done(&r);
}

static void what_is_not_given_is_left_to_the_settings(void **state)
{
    static const char *const bodies[] = {
        NULL, "{}",
        "{\"prompt\":null,\"model\":null,\"ttlSeconds\":null,\"context\":null,\"new\":[1]}"};
    struct reading r;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        read_text(&r, bodies[i], false);
        assert_int_equal(r.status, CS_OK);
        assert_null(r.request.prompt);
        assert_null(r.request.model);
        assert_null(r.request.context);
        assert_int_equal(r.request.timeout_ms, 0);
        assert_int_equal(r.request.ttl_seconds, -1);
        done(&r);
    }
}

static void a_continuation_names_its_session_either_way(void **state)
{
    struct reading r;

    (void)state;
    read_text(&r, "{\"prompt\":\"p\",\"sessionId\":\"s\",\"cwd\":7}", true);
    assert_int_equal(r.status, CS_OK);
    assert_true(r.request.continued);
    assert_string_equal(r.request.identifier, "s");
    assert_false(r.request.by_conversation);
    assert_null(r.request.cwd);
    done(&r);
    read_text(&r, "{\"prompt\":\"p\",\"sessionId\":\"s\",\"conversationId\":\"c\"}", true);
    assert_string_equal(r.request.identifier, "c");
    assert_true(r.request.by_conversation);
    done(&r);
    read_text(&r, "{\"prompt\":\"p\",\"sessionId\":\"s\",\"conversationId\":\"\"}", true);
    assert_string_equal(r.request.identifier, "s");
    done(&r);
    read_text(&r, "{\"prompt\":\"p\"}", true);
    assert_int_equal(r.status, CS_OK);
    assert_null(r.request.identifier);
    done(&r);
}

static void a_member_of_the_wrong_type_is_named(void **state)
{
    static const struct {
        const char *body, *code, *name;
    } cases[] = {
        {"{\"prompt\":1}", "invalid_prompt", "prompt"},
        {"{\"prompt\":[\"x\"]}", "invalid_prompt", "prompt"},
        {"{\"prompt\":\"p\",\"conversationId\":{}}", "invalid_conversation_id", "conversationId"},
        {"{\"prompt\":\"p\",\"sessionId\":3}", "invalid_session_id", "sessionId"},
        {"{\"prompt\":\"p\",\"model\":true}", "invalid_model", "model"},
        {"{\"prompt\":\"p\",\"sandbox\":1}", "invalid_sandbox", "sandbox"},
        {"{\"prompt\":\"p\",\"userId\":1}", "invalid_user", "userId"},
        {"{\"prompt\":\"p\",\"timeoutMs\":\"1000\"}", "invalid_timeout", "timeoutMs"},
        {"{\"prompt\":\"p\",\"timeoutMs\":1000.5}", "invalid_timeout", "timeoutMs"},
        {"{\"prompt\":\"p\",\"timeoutMs\":-1}", "invalid_timeout", "timeoutMs"},
    };
    struct reading r;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        read_text(&r, cases[i].body, true);
        assert_int_equal(r.status, CS_INVALID);
        assert_string_equal(r.err.code, cases[i].code);
        assert_non_null(strstr(r.err.msg, cases[i].name));
        done(&r);
    }
    read_text(&r, "{\"prompt\":\"p\",\"ttlSeconds\":-1}", false);
    assert_string_equal(r.err.code, "invalid_ttl");
    done(&r);
}

static void contexts_become_one_text(void **state)
{
    static const struct {
        const char *json, *text;
    } cases[] = {
        {"\"a\"", "a"},
        {"[\"a\",\"b\"]", "a\n\nb"},
        {"[{\"content\":\"a\"},{\"text\":\"b\"},\"\",{\"role\":\"x\",\"content\":\"c\",\"text\":"
         "\"d\"}]",
         "a\n\nb\n\nc"},
        {"[]", NULL},
        {"[\"\"]", NULL},
    };
    struct reading r;
    char body[256];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        (void)snprintf(body, sizeof body, "{\"prompt\":\"p\",\"context\":%s}", cases[i].json);
        read_text(&r, body, false);
        assert_int_equal(r.status, CS_OK);
        if (cases[i].text == NULL) {
            assert_null(r.request.context);
        } else {
            assert_string_equal(r.request.context, cases[i].text);
            assert_int_equal(r.request.context_len, strlen(cases[i].text));
        }
        done(&r);
    }
}

static void a_context_of_another_shape_is_refused(void **state)
{
    static const char *const contexts[] = {"1",    "{}",   "{\"content\":\"a\"}", "[1]",
                                           "[[]]", "[{}]", "[{\"content\":1}]",   "[\"a\",null]"};
    struct reading r;
    char body[256];

    (void)state;
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
        (void)snprintf(body, sizeof body, "{\"prompt\":\"p\",\"context\":%s}", contexts[i]);
        read_text(&r, body, false);
        assert_int_equal(r.status, CS_INVALID);
        assert_string_equal(r.err.code, "invalid_context");
        done(&r);
    }
}

static void a_context_beyond_the_cap_is_too_large(void **state)
{
    static const char text[] = "{\"prompt\":\"p\",\"context\":[\"0123456789\",\"0123456789\"]}";
    struct reading r;

    (void)state;
    memset(&r, 0, sizeof r);
    cs_buf_init(&r.joined, 16);
    assert_int_equal(cs_json_parse(text, strlen(text), strlen(text), &r.body, NULL), CS_OK);
    assert_int_equal(cs_fields_read(r.body, false, &r.request, &r.joined, &r.err), CS_TOO_LARGE);
    done(&r);
}

static void join_with_failures(void *arg)
{
    static const char text[] = "{\"prompt\":\"p\",\"context\":[\"a\",{\"text\":\"b\"}]}";
    struct reading r;

    (void)arg;
    memset(&r, 0, sizeof r);
    cs_buf_init(&r.joined, 1 << 20);
    r.status = cs_json_parse(text, strlen(text), strlen(text), &r.body, &r.err);
    if (r.status == CS_OK)
        r.status = cs_fields_read(r.body, false, &r.request, &r.joined, &r.err);
    if (fault_hit())
        assert_int_equal(r.status, CS_NO_MEM);
    else
        assert_string_equal(r.request.context, "a\n\nb");
    done(&r);
}

static void every_failed_allocation_is_told(void **state)
{
    (void)state;
    assert_true(fault_sweep(join_with_failures, NULL) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_member_of_a_creation_is_read),
        cmocka_unit_test(what_is_not_given_is_left_to_the_settings),
        cmocka_unit_test(a_continuation_names_its_session_either_way),
        cmocka_unit_test(a_member_of_the_wrong_type_is_named),
        cmocka_unit_test(contexts_become_one_text),
        cmocka_unit_test(a_context_of_another_shape_is_refused),
        cmocka_unit_test(a_context_beyond_the_cap_is_too_large),
        cmocka_unit_test(every_failed_allocation_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
