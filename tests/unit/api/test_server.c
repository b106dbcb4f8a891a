/* The server in this process, on a real store and a scripted engine. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/api/http.h"
#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "fault.h"
#include "scripted_engine.h"

#define NOBODY "00000000-0000-7000-8000-000000000000"

struct fixture {
    char dir[64], data[96], token[128];
    struct cs_config config;
    struct cs_store *store;
    struct cs_engine engine;
    struct cs_core *core;
    struct cs_http *http;
};

static struct fixture fixture;

static enum cs_status start_http(struct cs_err *err)
{
    struct cs_http_options options = {
        .core = fixture.core, .token_path = fixture.token, .version = "1"};

    return cs_http_start(&options, &fixture.http, err);
}

static int setup(void **state)
{
    struct fixture *f = &fixture;
    struct cs_store_options store_options = {.dir = f->data};
    struct cs_store_opened opened;
    struct cs_core_parts parts;
    char data_flag[128], cwd_flag[96], port_flag[] = "--port=0",
                                       threads_flag[] = "--http-threads=16";
    char *argv[] = {data_flag, cwd_flag, port_flag, threads_flag, NULL};
    char *envp[] = {NULL};
    struct cs_err err = {0};

    (void)state;
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/cs-api-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->data, sizeof f->data, "%s/data", f->dir);
    (void)snprintf(f->token, sizeof f->token, "%s/token", f->data);
    assert_int_equal(mkdir(f->data, 0700), 0);
    (void)snprintf(data_flag, sizeof data_flag, "--data-dir=%s", f->data);
    (void)snprintf(cwd_flag, sizeof cwd_flag, "--cwd=%s", f->dir);
    cs_log_set_level(CS_LOG_ERROR);
    if (cs_config_load(&f->config, 4, argv, envp, &err) != CS_OK ||
        cs_store_open(&store_options, &f->store, &opened, &err) != CS_OK)
        fail_msg("%s", err.msg);
    scripted_engine_init(&f->engine);
    parts = (struct cs_core_parts){.store = f->store, .engine = &f->engine, .config = &f->config};
    if (cs_core_new(&parts, &f->core, &err) != CS_OK || start_http(&err) != CS_OK)
        fail_msg("%s", err.msg);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = &fixture;
    static const char *const files[] = {"codex-sessiond.db", "codex-sessiond.db-wal",
                                        "codex-sessiond.db-shm", "token"};
    char path[160];

    (void)state;
    cs_http_quiesce(f->http);
    assert_true(cs_core_drain(f->core, cs_mono_ms() + 5000));
    cs_http_stop(f->http);
    cs_core_free(f->core);
    cs_store_close(f->store);
    cs_config_fini(&f->config);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", f->data, files[i]);
        (void)remove(path);
    }
    assert_int_equal(rmdir(f->data), 0);
    return rmdir(f->dir);
}

/* ---- requests ---- */

static char answer[65536];

/* Send @text on a connection of its own and read to its end. The status, or 0 without an answer. */
static int exchange(const char *text)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)cs_http_port(fixture.http)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t len = 0;
    ssize_t got;

    assert_int_equal(connect(fd, (struct sockaddr *)(void *)&to, sizeof to), 0);
    assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
    while (len + 1 < sizeof answer &&
           (got = recv(fd, answer + len, sizeof answer - len - 1, 0)) > 0)
        len += (size_t)got;
    answer[len] = '\0';
    (void)close(fd);
    return len > 12 ? (int)strtol(answer + 9, NULL, 10) : 0;
}

/* @headers: further lines, each with its CRLF. */
static int request(const char *method, const char *path, const char *headers, const char *body)
{
    static char text[4096];

    (void)snprintf(text, sizeof text,
                   "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s"
                   "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                   method, path, headers, strlen(body), body);
    return exchange(text);
}

/* The string member @key of the last answer, "" when it has none. */
static const char *member(const char *key)
{
    static char value[128];
    char pattern[64];
    const char *at;

    (void)snprintf(pattern, sizeof pattern, "\"%s\":\"", key);
    at = strstr(answer, pattern);
    if (at == NULL)
        return "";
    at += strlen(pattern);
    (void)snprintf(value, sizeof value, "%.*s", (int)strcspn(at, "\""), at);
    return value;
}

static void a_turn_goes_round(void **state)
{
    char path[128], body[160];

    (void)state;
    fixture.engine.script = ANSWER;
    assert_int_equal(request("POST", "/api/codex/session", "", "{\"prompt\":\"hi\"}"), 200);
    assert_string_equal(member("response"), "the answer");
    (void)snprintf(path, sizeof path, "/api/codex/history/%s", member("conversationId"));
    (void)snprintf(body, sizeof body, "{\"prompt\":\"on\",\"sessionId\":\"%s\"}",
                   member("sessionId"));
    assert_int_equal(request("POST", "/api/codex/continue", "", body), 200);
    assert_non_null(strstr(answer, "\"continued\":true"));
    assert_int_equal(request("GET", path, "", ""), 200);
    assert_non_null(strstr(answer, "\"messageCount\":4,"));
}

static void a_failed_turn_carries_its_ids(void **state)
{
    (void)state;
    fixture.engine.script = FAIL;
    assert_int_equal(request("POST", "/api/codex/session", "", "{\"prompt\":\"hi\"}"), 502);
    assert_string_equal(member("code"), "codex_error");
    assert_int_equal(strlen(member("sessionId")), 36);
    assert_int_equal(strlen(member("conversationId")), 36);
    assert_int_equal(strlen(member("turnId")), 36);
}

static void a_model_that_was_named_and_is_unknown_is_the_callers_error(void **state)
{
    (void)state;
    fixture.engine.script = REFUSE_MODEL;
    assert_int_equal(
        request("POST", "/api/codex/session", "", "{\"prompt\":\"hi\",\"model\":\"x\"}"), 400);
    assert_string_equal(member("code"), "model_not_found");
    assert_int_equal(request("POST", "/api/codex/session", "", "{\"prompt\":\"hi\"}"), 200);
    assert_string_equal(member("model"), "codex-own");
    assert_non_null(strstr(answer, "\"modelFallback\":true"));
}

static void a_turn_that_hangs_is_cut_off_or_cancelled(void **state)
{
    char path[128];

    (void)state;
    fixture.engine.script = HANG;
    assert_int_equal(
        request("POST", "/api/codex/session", "", "{\"prompt\":\"hi\",\"timeoutMs\":1000}"), 504);
    assert_string_equal(member("error"), "Codex execution timeout");
    assert_int_equal(request("POST", "/api/codex/session", "Prefer: respond-async\r\n",
                             "{\"prompt\":\"hi\",\"timeoutMs\":60000}"),
                     202);
    (void)snprintf(path, sizeof path, "/api/codex/session/%s/cancel", member("sessionId"));
    assert_int_equal(request("POST", path, "", ""), 202);
    (void)snprintf(path, sizeof path, "/api/codex/turn/%s?waitMs=10000", member("turnId"));
    assert_int_equal(request("GET", path, "", ""), 200);
    assert_string_equal(member("status"), "cancelled");
}

static void a_second_server_does_not_get_the_port(void **state)
{
    struct cs_http_options options = {
        .core = fixture.core, .token_path = fixture.token, .version = "1"};
    struct cs_http *second = NULL;
    struct cs_err err = {0};
    int64_t port = fixture.config.port;
    struct cs_config *config = &fixture.config;

    (void)state;
    config->port = cs_http_port(fixture.http);
    /* core keeps a copy of the settings: a core of its own sees the port */
    struct cs_core_parts parts = {
        .store = fixture.store, .engine = &fixture.engine, .config = config};
    assert_int_equal(cs_core_new(&parts, &options.core, &err), CS_OK);
    assert_int_equal(cs_http_start(&options, &second, &err), CS_CONFLICT);
    assert_string_equal(err.code, "port_in_use");
    assert_null(second);
    assert_true(cs_core_drain(options.core, cs_mono_ms() + 1000));
    cs_core_free(options.core);
    config->port = port;
}

/* ---- every failed allocation ---- */

struct sweep {
    const char *method, *path, *headers, *body;
    int status; /* when nothing fails */
};

/* Whatever fails, there is an answer: the usual one, or that it cannot be done now. */
static void run_sweep(void *arg)
{
    const struct sweep *sweep = arg;
    int status = request(sweep->method, sweep->path, sweep->headers, sweep->body);

    (void)fault_disarm();
    if (status != sweep->status && status != 503 && status != 500)
        fail_msg("%s %s: %d: %s", sweep->method, sweep->path, status, answer);
    assert_int_equal(request("GET", "/api/codex/stats", "", ""), 200);
}

static void every_failed_allocation_is_answered(void **state)
{
    static const struct sweep sweeps[] = {
        {"GET", "/healthz", "", "", 200},
        {"GET", "/health", "", "", 200},
        {"GET", "/nowhere", "", "", 404},
        {"GET", "/api/codex/openapi.json", "", "", 200},
        {"GET", "/api/codex/sessions", "", "", 200},
        {"GET", "/api/codex/stats", "", "", 200},
        {"GET", "/api/codex/history/" NOBODY, "", "", 404},
        {"GET", "/api/codex/turn/" NOBODY, "", "", 404},
        {"DELETE", "/api/codex/session/" NOBODY, "", "", 404},
        {"POST", "/api/codex/cleanup", "", "", 200},
        {"GET", "/mcp", "", "", 405},
        {"POST", "/mcp", "", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", 400},
        {"POST", "/mcp", "Accept: text/event-stream\r\n",
         "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{"
         "\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"clientInfo\":{}}}",
         200},
        {"POST", "/api/codex/session", "", "{\"prompt\":\"x\",\"context\":[\"a\",\"b\"]}", 200},
        {"POST", "/api/codex/session", "Idempotency-Key: k\r\n", "{\"prompt\":\"x\"}", 200},
        {"POST", "/api/codex/session", "", "{\"prompt\":", 400},
        {"POST", "/api/codex/continue", "", "{\"prompt\":\"x\",\"sessionId\":\"" NOBODY "\"}", 404},
    };
    (void)state;
    fixture.engine.script = ANSWER;
    for (size_t i = 0; i < sizeof sweeps / sizeof *sweeps; i++) {
        struct sweep one = sweeps[i];

        assert_true(fault_sweep(run_sweep, &one) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turn_goes_round),
        cmocka_unit_test(a_failed_turn_carries_its_ids),
        cmocka_unit_test(a_model_that_was_named_and_is_unknown_is_the_callers_error),
        cmocka_unit_test(a_turn_that_hangs_is_cut_off_or_cancelled),
        cmocka_unit_test(a_second_server_does_not_get_the_port),
        cmocka_unit_test(every_failed_allocation_is_answered),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
