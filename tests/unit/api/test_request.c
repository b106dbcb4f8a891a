#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "priv.h"

#define PORT 3000

/* A request as civetweb hands it over: its buffer, with a NUL over the end of each part. */
struct made {
    char text[8192];
    struct mg_request_info info;
    struct cs_http http;
    struct cs_config config;
    char allowed_hosts[64];
    struct cs_worker worker;
    struct cs_request rq;
    struct cs_err err;
};

static char *part(char *at, const char *text)
{
    size_t len = strlen(text);

    memcpy(at, text, len + 1);
    return at + len + 1;
}

/* @lines ends with NULL; a line is "Name: value". */
static void make(struct made *m, const char *method, const char *uri, const char *const lines[])
{
    char *at = m->text;
    int n = 0;

    memset(m, 0, sizeof *m);
    m->info.request_method = at;
    at = part(at, method);
    m->info.request_uri = at;
    at = part(at, uri);
    m->info.http_version = "1.1";
    for (; lines[n] != NULL && n < MG_MAX_HEADERS; n++) {
        char *colon;

        m->info.http_headers[n].name = at;
        colon = strchr(lines[n], ':') - lines[n] + at;
        at = part(at, lines[n]);
        *colon = '\0';
        m->info.http_headers[n].value = colon + 1 + strspn(colon + 1, " ");
        *at++ = '\0'; /* over the \n; the \r was the first */
    }
    memcpy(at, "\r", 2);
    m->info.num_headers = n;
    m->http.port = PORT;
    memcpy(m->http.host, "127.0.0.1", 10);
    m->rq.http = &m->http;
    m->rq.info = &m->info;
    m->rq.worker = &m->worker;
    m->rq.config = &m->config;
    m->rq.body_read = true;
}

/* The HTTP status that checking ends with. */
static int check(struct made *m)
{
    if (cs_req_check(&m->rq, &m->err) == CS_OK)
        return 200;
    assert_non_null(m->err.code);
    return m->rq.status;
}

static int check_headers(const char *first, const char *second, const char *third)
{
    static struct made m;
    const char *const lines[] = {first, second, third, NULL};

    make(&m, "GET", "/healthz", lines);
    return check(&m);
}

static void a_plain_request_passes(void **state)
{
    struct made m;
    const char *const lines[] = {"Host: 127.0.0.1:3000", "X-Request-Id: abc-1_2.3", "prefer: x",
                                 NULL};

    (void)state;
    make(&m, "HEAD", "/api/codex/history/0b3c", lines);
    assert_int_equal(check(&m), 200);
    assert_true(m.rq.head);
    assert_false(m.rq.close);
    assert_false(m.rq.forwarded);
    assert_string_equal(m.rq.id, "abc-1_2.3");
    assert_string_equal(m.rq.header[CS_HEADER_PREFER], "x");
}

static void only_the_own_hosts_pass(void **state)
{
    static const char *const good[] = {"Host: 127.0.0.1:3000", "Host: localhost:3000",
                                       "Host: LOCALHOST",      "Host: [::1]:3000",
                                       "Host: 127.0.0.1",      "Host: [::1]"};
    static const char *const refused[] = {"Host: evil.example",
                                          "Host: evil.example:3000",
                                          "Host: 127.0.0.1.evil.example:3000",
                                          "Host: localhost.:3000",
                                          "Host: 127.0.0.2:3000",
                                          "Host: 127.0.0.1:3001",
                                          "Host: localhost:80",
                                          "Host: ::1",
                                          "Host: 0.0.0.0:3000",
                                          "Host: user@localhost:3000"};
    static const char *const bad[] = {"Host: ",
                                      "Host: localhost:",
                                      "Host: localhost:3000x",
                                      "Host: :3000",
                                      "Host: [::1",
                                      "Host: localhost:0",
                                      "Host: a:b:3000",
                                      "Host: localhost:99999",
                                      "Host: [::1]3000",
                                      "Host: localhost:003000"};

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(check_headers(good[i], NULL, NULL), 200);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        int status = check_headers(refused[i], NULL, NULL);

        assert_true(status == 403 || status == 400);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(check_headers(bad[i], NULL, NULL), 400);
    assert_int_equal(check_headers(NULL, NULL, NULL), 400);
    assert_int_equal(check_headers("Accept: x", NULL, NULL), 400);
}

static void configured_hosts_pass_with_our_port_or_theirs(void **state)
{
    static const struct {
        const char *host, *origin;
        int status;
    } cases[] = {
        {"Host: box.example", "Origin: https://box.example", 200},
        {"Host: box.example:3000", "Origin: http://box.example:3000", 200},
        {"Host: localhost:8080", "Origin: http://localhost:8080", 200},
        {"Host: box.example:8080", NULL, 403},
        {"Host: xbox.example", NULL, 403},
        {"Host: localhost:8081", NULL, 403},
        {"Host: localhost", "Origin: http://localhost:8081", 403},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const lines[] = {cases[i].host, cases[i].origin, NULL};
        struct made m;

        make(&m, "GET", "/healthz", lines);
        memcpy(m.allowed_hosts, "box.example, localhost:8080", 28);
        m.config.allowed_hosts = m.allowed_hosts;
        assert_int_equal(check(&m), cases[i].status);
    }
}

static void only_the_own_origin_passes(void **state)
{
    static const char *const good[] = {"Origin: http://127.0.0.1:3000",
                                       "Origin: http://localhost:3000", "Origin: http://[::1]:3000",
                                       "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none"};
    static const char *const refused[] = {
        "Origin: null",
        "Origin: ",
        "Origin: http://localhost",
        "Origin: http://localhost:3001",
        "Origin: https://localhost:3000",
        "Origin: http://evil.example",
        "Origin: http://localhost:3000.evil.example",
        "Origin: http://localhost:3000/",
        "Origin: http://localhost:3000 http://evil.example",
        "Origin: file://localhost:3000",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: ",
    };

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(check_headers("Host: localhost:3000", good[i], NULL), 200);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_int_equal(check_headers("Host: localhost:3000", refused[i], NULL), 403);
}

static void odd_framing_is_refused(void **state)
{
    static const char *const bad[] = {"+1", "-1", "0x1", "1,1", "1 1", "", "9999999999999999999"};
    static const char host[] = "Host: localhost:3000";
    char line[64];

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        (void)snprintf(line, sizeof line, "Content-Length: %s", bad[i]);
        assert_int_equal(check_headers(host, line, NULL), 400);
    }
    assert_int_equal(check_headers(host, "Content-Length: 1", "Content-Length: 1"), 400);
    assert_int_equal(check_headers(host, "Content-Length: 1", "Transfer-Encoding: chunked"), 400);
    assert_int_equal(check_headers(host, "Transfer-Encoding: identity", NULL), 411);
    assert_int_equal(check_headers(host, "Host: localhost:3000", NULL), 400);
    assert_int_equal(check_headers(host, "Authorization: a", "authorization: b"), 400);
    assert_int_equal(check_headers(host, "Content-Length: 12", NULL), 200);
    assert_int_equal(check_headers(host, "Prefer: a", "Prefer: b"), 200);
}

static void headers_that_were_dropped_are_noticed(void **state)
{
    const char *const lines[] = {"Host: localhost:3000", NULL};
    struct made m;
    char *end;

    (void)state;
    make(&m, "GET", "/healthz", lines);
    end = m.text + sizeof "GET" + sizeof "/healthz" + sizeof "Host: localhost:3000";
    assert_int_equal(check(&m), 200);
    make(&m, "GET", "/healthz", lines);
    memcpy(end + 1, " folded\r\n\r", 11); /* in the place of the empty line */
    assert_int_equal(check(&m), 400);
}

static void a_request_that_does_not_begin_in_place_is_refused(void **state)
{
    const char *const lines[] = {"Host: localhost:3000", NULL};
    struct made m;

    (void)state;
    make(&m, "GET", "/healthz", lines);
    m.worker.buffer = m.text;
    assert_int_equal(check(&m), 200);
    make(&m, "GET", "/healthz", lines);
    m.worker.buffer = m.text;
    m.info.request_method = m.text + 1;
    assert_int_equal(check(&m), 400);
    make(&m, "GET", "/healthz", lines);
    m.worker.buffer = m.text + 4; /* what was learned of a worse request */
    assert_int_equal(check(&m), 200);
    assert_ptr_equal(m.worker.buffer, m.text);
}

static void more_headers_than_are_kept_are_too_many(void **state)
{
    const char *lines[MG_MAX_HEADERS + 1] = {"Host: localhost:3000"};
    struct made m;

    (void)state;
    for (int i = 1; i < MG_MAX_HEADERS; i++)
        lines[i] = "X-Other: 1";
    make(&m, "GET", "/healthz", lines);
    assert_int_equal(check(&m), 431);
    lines[MG_MAX_HEADERS - 1] = NULL;
    make(&m, "GET", "/healthz", lines);
    assert_int_equal(check(&m), 200);
}

static void paths_with_escapes_or_climbs_are_refused(void **state)
{
    static const char *const paths[] = {
        "/a%00",     "/a%2e%2e/b", "/../a", "/a/./b",   "http://localhost/",
        "/a\\..\\b", "/a\"b",      "*",     "/caf\xc3", "a"};
    const char *const lines[] = {"Host: localhost:3000", NULL};
    struct made m;

    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        make(&m, "GET", paths[i], lines);
        assert_int_equal(check(&m), 400);
        assert_string_equal(m.err.code, "invalid_path");
        assert_true(m.rq.close);
    }
}

static void a_proxy_is_noticed(void **state)
{
    static const char *const headers[] = {"Forwarded: for=1.2.3.4", "X-Forwarded-For: 1.2.3.4",
                                          "Via: 1.1 x", "x-forwarded-proto: https",
                                          "X-Real-IP: 1.2.3.4"};
    struct made m;

    (void)state;
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        const char *const lines[] = {"Host: localhost:3000", headers[i], NULL};

        make(&m, "GET", "/healthz", lines);
        assert_int_equal(check(&m), 200);
        assert_true(m.rq.forwarded);
    }
}

static void the_connection_is_kept_as_civetweb_keeps_it(void **state)
{
    static const struct {
        const char *header;
        bool close;
    } cases[] = {
        {"Accept: x", false},          {"Connection: keep-alive", false},
        {"Connection: close", true},   {"Connection: TE, Keep-Alive", false},
        {"Connection: Upgrade", true}, {"Upgrade: websocket", true},
    };
    struct made m;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const lines[] = {"Host: localhost:3000", cases[i].header, NULL};

        make(&m, "GET", "/healthz", lines);
        assert_int_equal(check(&m), 200);
        assert_int_equal(m.rq.close, cases[i].close);
        make(&m, "GET", "/healthz", lines);
        m.info.http_version = "1.0";
        assert_int_equal(check(&m), 200);
        assert_int_equal(m.rq.close, strstr(cases[i].header, "eep-") == NULL &&
                                         strstr(cases[i].header, "Keep") == NULL);
    }
}

static void lists_are_searched_by_word(void **state)
{
    (void)state;
    assert_true(cs_list_has("respond-async", "respond-async"));
    assert_true(cs_list_has("wait=5, Respond-Async; x=1", "respond-async"));
    assert_true(cs_list_has(",, a ,b", "b"));
    assert_false(cs_list_has("respond-asynchronously", "respond-async"));
    assert_false(cs_list_has("xrespond-async", "respond-async"));
    assert_false(cs_list_has("a;respond-async", "respond-async"));
    assert_false(cs_list_has("", "a"));
    assert_false(cs_list_has(NULL, "a"));
}

static void waiters_leave_workers_for_the_rest(void **state)
{
    struct cs_http http;
    struct cs_err err = {0};

    (void)state;
    memset(&http, 0, sizeof http);
    http.wait_max = 2;
    assert_int_equal(cs_wait_enter(&http, &err), CS_OK);
    assert_int_equal(cs_wait_enter(&http, &err), CS_OK);
    assert_int_equal(cs_wait_enter(&http, &err), CS_BUSY);
    assert_string_equal(err.code, "too_many_requests");
    cs_wait_leave(&http);
    assert_int_equal(cs_wait_enter(&http, &err), CS_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_request_passes),
        cmocka_unit_test(only_the_own_hosts_pass),
        cmocka_unit_test(configured_hosts_pass_with_our_port_or_theirs),
        cmocka_unit_test(only_the_own_origin_passes),
        cmocka_unit_test(odd_framing_is_refused),
        cmocka_unit_test(headers_that_were_dropped_are_noticed),
        cmocka_unit_test(a_request_that_does_not_begin_in_place_is_refused),
        cmocka_unit_test(more_headers_than_are_kept_are_too_many),
        cmocka_unit_test(paths_with_escapes_or_climbs_are_refused),
        cmocka_unit_test(a_proxy_is_noticed),
        cmocka_unit_test(the_connection_is_kept_as_civetweb_keeps_it),
        cmocka_unit_test(lists_are_searched_by_word),
        cmocka_unit_test(waiters_leave_workers_for_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
