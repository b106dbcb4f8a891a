#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fault.h"
#include "priv.h"

static void every_status_has_an_http_status(void **state)
{
    static const int expected[] = {200, 400, 403, 404, 409, 422, 413, 503, 504,
                                   409, 503, 502, 507, 500, 503, 500, 500};

    (void)state;
    assert_int_equal(sizeof expected / sizeof *expected, CS_INTERNAL + 1);
    for (int status = CS_OK; status <= CS_INTERNAL; status++)
        assert_int_equal(cs_http_status((enum cs_status)status), expected[status]);
}

static struct cs_json *body_of(const struct cs_reply *reply)
{
    struct cs_json *body = NULL;
    size_t len = reply->out.len - CS_HEAD_ROOM;

    assert_int_equal(reply->out.status, CS_OK);
    assert_int_equal(cs_json_parse(reply->out.data + CS_HEAD_ROOM, len, len, &body, NULL), CS_OK);
    return body;
}

static void an_error_has_one_shape(void **state)
{
    struct cs_request rq = {.id = "r1"};
    struct cs_err err = {CS_BUSY, "too_many_turns", "Zu viele \xc3\x9c \"x\""};
    struct cs_reply reply;
    struct cs_json *body;

    (void)state;
    cs_reply_init(&reply);
    cs_reply_error(&rq, &reply, &err);
    assert_int_equal(reply.status, 503);
    assert_string_equal(reply.extra, "Retry-After: 1\r\n");
    body = body_of(&reply);
    assert_int_equal(cs_json_size(body), 4);
    assert_false(cs_json_bool(cs_json_get(body, "success"), true));
    assert_string_equal(cs_json_get_string(body, "error"), err.msg);
    assert_string_equal(cs_json_get_string(body, "code"), "too_many_turns");
    assert_string_equal(cs_json_get_string(body, "requestId"), "r1");
    cs_json_free(body);
    cs_reply_fini(&reply);
}

static void an_error_of_a_turn_names_its_session(void **state)
{
    struct cs_request rq = {.id = "r1", .code = "codex_died", .tid = "t", .sid = "s", .cid = "c"};
    struct cs_err err = {CS_UPSTREAM, NULL, "gone"};
    struct cs_reply reply;
    struct cs_json *body;

    (void)state;
    cs_reply_init(&reply);
    cs_reply_error(&rq, &reply, &err);
    assert_int_equal(reply.status, 502);
    body = body_of(&reply);
    assert_string_equal(cs_json_get_string(body, "code"), "codex_died");
    assert_string_equal(cs_json_get_string(body, "turnId"), "t");
    assert_string_equal(cs_json_get_string(body, "sessionId"), "s");
    assert_string_equal(cs_json_get_string(body, "conversationId"), "c");
    cs_json_free(body);
    cs_reply_fini(&reply);
}

static void statuses_of_http_alone_bring_their_headers(void **state)
{
    static const struct {
        int status;
        const char *header;
    } cases[] = {
        {401, "WWW-Authenticate: Bearer\r\n"},
        {405, "Allow: POST\r\n"},
        {429, "Retry-After: 7\r\n"},
        {411, ""},
    };
    struct cs_err err = {CS_INVALID, "x", "y"};
    struct cs_reply reply;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cs_request rq = {.status = cases[i].status, .allow = "POST", .retry_after = 7};

        cs_reply_init(&reply);
        cs_reply_error(&rq, &reply, &err);
        assert_int_equal(reply.status, cases[i].status);
        assert_string_equal(reply.extra, cases[i].header);
        cs_reply_fini(&reply);
    }
}

static void a_header_that_does_not_fit_is_left_out_whole(void **state)
{
    struct cs_reply reply;
    char value[301];

    (void)state;
    memset(value, 'v', 300);
    value[300] = '\0';
    cs_reply_init(&reply);
    cs_reply_header(&reply, "A", "1");
    cs_reply_header(&reply, "Location-Of-It-All", value);
    cs_reply_header(&reply, "B", "2");
    assert_string_equal(reply.extra, "A: 1\r\nB: 2\r\n");
    cs_reply_fini(&reply);
}

static void fail_with_failures(void *arg)
{
    struct cs_request rq = {.id = "r1"};
    struct cs_err err = {CS_BUSY, "too_many_turns", "busy"};
    struct cs_reply reply;

    (void)arg;
    cs_reply_init(&reply);
    cs_reply_error(&rq, &reply, &err);
    assert_int_equal(reply.out.status, fault_hit() ? CS_NO_MEM : CS_OK);
    cs_reply_fini(&reply);
}

static void every_failed_allocation_sticks(void **state)
{
    (void)state;
    assert_true(fault_sweep(fail_with_failures, NULL) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_an_http_status),
        cmocka_unit_test(an_error_has_one_shape),
        cmocka_unit_test(an_error_of_a_turn_names_its_session),
        cmocka_unit_test(statuses_of_http_alone_bring_their_headers),
        cmocka_unit_test(a_header_that_does_not_fit_is_left_out_whole),
        cmocka_unit_test(every_failed_allocation_sticks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
