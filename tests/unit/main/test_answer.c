#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "answer.h"
#include "fault.h"

#define MAX 200

/* What came out: the messages, each ended by "|". */
static void collect(void *arg, const char *text, size_t len)
{
    struct cs_buf *out = arg;

    cs_buf_add(out, text, len);
    cs_buf_addc(out, '|');
}

struct outcome {
    enum cs_status rc;
    bool whole;
    bool overflow; /* of what was collected */
    int status;
    char session[CS_ANSWER_ID_MAX], last_id[CS_ANSWER_ID_MAX];
    int64_t retry_ms;
    char messages[2048];
};

/* Feed @text in steps of @step bytes, then end the connection. */
static struct outcome read_in_steps(const char *text, size_t step)
{
    struct outcome outcome = {0};
    struct cs_answer answer;
    struct cs_buf out;
    size_t len = strlen(text), at, n;

    cs_buf_init(&out, sizeof outcome.messages - 1);
    cs_answer_init(&answer, MAX, collect, &out);
    for (at = 0; at < len && outcome.rc == CS_OK; at += n) {
        n = len - at < step ? len - at : step;
        outcome.rc = cs_answer_feed(&answer, text + at, n, NULL);
    }
    outcome.whole = outcome.rc == CS_OK && cs_answer_end(&answer);
    outcome.overflow = out.status != CS_OK;
    outcome.status = answer.status;
    outcome.retry_ms = answer.retry_ms;
    memcpy(outcome.session, answer.session, sizeof outcome.session);
    memcpy(outcome.last_id, answer.last_id, sizeof outcome.last_id);
    if (out.len > 0)
        memcpy(outcome.messages, out.data, out.len);
    cs_answer_fini(&answer);
    cs_buf_fini(&out);
    return outcome;
}

/* The same however the bytes are cut. */
static struct outcome read_all(const char *text)
{
    struct outcome whole = read_in_steps(text, strlen(text));
    size_t step;

    for (step = 1; step < 40; step++) {
        struct outcome cut = read_in_steps(text, step);

        assert_int_equal(cut.rc, whole.rc);
        assert_int_equal(cut.whole, whole.whole);
        assert_int_equal(cut.status, whole.status);
        assert_int_equal(cut.retry_ms, whole.retry_ms);
        assert_string_equal(cut.session, whole.session);
        assert_string_equal(cut.last_id, whole.last_id);
        assert_string_equal(cut.messages, whole.messages);
    }
    return whole;
}

static void a_body_is_one_message_on_one_line(void **state)
{
    static const char *const answers[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"a\":\r\n1 }and more",
        "HTTP/1.1 200 OK\r\nX: y\r\n\r\n{\"a\":\r\n1 }",
        "HTTP/1.0 200\r\nX:\r\n\r\n{\"a\":\r\n1 }",
        "HTTP/1.1 200 OK\ncontent-length:10\n\n{\"a\":\r\n1 }",
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
         "4;x=y\r\n{\"a\"\r\n06 \r\n:\r\n1 }\r\n0\r\nTrailer: x\r\n\r\n"),
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct outcome outcome = read_all(answers[i]);

        assert_int_equal(outcome.rc, CS_OK);
        assert_true(outcome.whole);
        assert_int_equal(outcome.status, 200);
        assert_string_equal(outcome.messages, "{\"a\":  1 }|");
    }
}

static void an_answer_without_a_body_is_whole_at_once(void **state)
{
    struct outcome outcome = read_all("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");

    (void)state;
    assert_true(outcome.whole);
    assert_int_equal(outcome.status, 202);
    assert_string_equal(outcome.messages, "");
}

static void events_come_one_by_one(void **state)
{
    struct outcome outcome = read_all("HTTP/1.1 200 OK\r\nMcp-Session-Id: abc-1\r\n"
                                      "Content-Type: text/event-stream; charset=utf-8\r\n\r\n"
                                      ": beat\n\nid: 7\ndata:\n\nid:8\r\nevent: message\r\n"
                                      "data: {\"x\":\r\ndata:1}\r\nretry: 50\r\n\r\n"
                                      "data: two\nid\nunknown: x\n\ndata: unfinished\n");

    (void)state;
    assert_string_equal(outcome.messages, "{\"x\": 1}|two|");
    assert_string_equal(outcome.session, "abc-1");
    assert_string_equal(outcome.last_id, "8");
    assert_int_equal(outcome.retry_ms, 50);
}

static void a_cut_answer_is_not_whole(void **state)
{
    static const char *const answers[] = {
        "",
        "HTTP/1.1 20",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1234",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n1234",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n",
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct outcome outcome = read_all(answers[i]);

        assert_int_equal(outcome.rc, CS_OK);
        assert_false(outcome.whole);
        assert_string_equal(outcome.messages, "");
    }
}

static void what_is_no_http_is_refused(void **state)
{
    static const char *const answers[] = {
        "+OK\r\n",
        "HTTP/1.1 100 Continue\r\n",
        "HTTP/1.1 2000\r\n",
        "HTTP/2 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nno header\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof answers / sizeof answers[0]; i++)
        assert_int_equal(read_all(answers[i]).rc, CS_INVALID);
}

static void what_is_too_large_is_refused(void **state)
{
    char text[1024], fill[MAX + 100];
    static const char *const heads[] = {
        "",
        "Content-Type: text/event-stream\r\n",
    };
    size_t i;

    (void)state;
    memset(fill, 'x', sizeof fill - 1);
    fill[sizeof fill - 1] = '\0';
    for (i = 0; i < 2; i++) {
        snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\n%s\r\ndata: %s\n\n", heads[i], fill);
        assert_int_equal(read_all(text).rc, CS_TOO_LARGE);
    }
}

static void an_id_that_cannot_be_sent_back_is_not_kept(void **state)
{
    struct outcome outcome = read_all("HTTP/1.1 200 OK\r\nMcp-Session-Id: a b\r\n"
                                      "Content-Type: text/event-stream\r\n\r\n"
                                      "id: good\n\nid: b\x01"
                                      "ad\n\n");

    (void)state;
    assert_string_equal(outcome.session, "");
    assert_string_equal(outcome.last_id, "good");
}

static void read_one_event(void *arg)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
                               "data: {\"a\":1}\n\n";
    struct outcome outcome = read_in_steps(text, sizeof text);

    (void)arg;
    if (outcome.rc == CS_OK && !outcome.overflow)
        assert_string_equal(outcome.messages, "{\"a\":1}|");
    else
        assert_true(fault_hit());
}

static void failing_memory_is_told(void **state)
{
    (void)state;
    assert_true(fault_sweep(read_one_event, NULL) > 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_body_is_one_message_on_one_line),
        cmocka_unit_test(an_answer_without_a_body_is_whole_at_once),
        cmocka_unit_test(events_come_one_by_one),
        cmocka_unit_test(a_cut_answer_is_not_whole),
        cmocka_unit_test(what_is_no_http_is_refused),
        cmocka_unit_test(what_is_too_large_is_refused),
        cmocka_unit_test(an_id_that_cannot_be_sent_back_is_not_kept),
        cmocka_unit_test(failing_memory_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
