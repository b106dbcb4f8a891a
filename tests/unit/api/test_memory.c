/* Memory that runs out anywhere on a request's way, from the socket to the store and back: the
 * client gets an answer, nothing acknowledged is lost, and the next request works. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/api/http.h"
#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "fault.h"
#include "scripted_engine.h"

#define ANSWER_MAX 65536

static struct fixture {
    char dir[64], data[96];
    struct cs_config config;
    struct cs_store *store;
    struct cs_engine engine;
    struct cs_core *core;
    struct cs_http *http;
    int acknowledged; /* sessions that a client was told of */
    char cid[64];     /* of one that is continued */
    char answer[ANSWER_MAX];
} f;

static int setup(void **state)
{
    char data_flag[128], cwd_flag[96], token[128];
    char *argv[] = {data_flag, cwd_flag, (char[]){"--port=0"}, (char[]){"--http-threads=16"}, NULL};
    char *envp[] = {NULL};
    struct cs_store_options options = {.dir = f.data};
    struct cs_store_opened opened;
    struct cs_core_parts parts;
    struct cs_http_options http;

    (void)state;
    snprintf(f.dir, sizeof f.dir, "/tmp/cs-memory-XXXXXX");
    assert_non_null(mkdtemp(f.dir));
    snprintf(f.data, sizeof f.data, "%s/data", f.dir);
    assert_int_equal(mkdir(f.data, 0700), 0);
    snprintf(data_flag, sizeof data_flag, "--data-dir=%s", f.data);
    snprintf(cwd_flag, sizeof cwd_flag, "--cwd=%s", f.dir);
    snprintf(token, sizeof token, "%s/token", f.data);
    assert_int_equal(cs_config_load(&f.config, 4, argv, envp, NULL), CS_OK);
    cs_log_set_level(CS_LOG_ERROR);
    scripted_engine_init(&f.engine);
    assert_int_equal(cs_store_open(&options, &f.store, &opened, NULL), CS_OK);
    parts = (struct cs_core_parts){.store = f.store, .engine = &f.engine, .config = &f.config};
    assert_int_equal(cs_core_new(&parts, &f.core, NULL), CS_OK);
    http = (struct cs_http_options){.core = f.core, .token_path = token, .version = "1"};
    assert_int_equal(cs_http_start(&http, &f.http, NULL), CS_OK);
    return 0;
}

static int teardown(void **state)
{
    char command[128];

    (void)state;
    cs_http_stop(f.http);
    assert_true(cs_core_drain(f.core, cs_mono_ms() + 5000));
    cs_core_free(f.core);
    cs_store_close(f.store);
    cs_config_fini(&f.config);
    snprintf(command, sizeof command, "rm -rf %s", f.dir);
    return system(command); // NOLINT
}

/* One request on a connection of its own; the status, and the whole answer in f.answer. Allocates
 * nothing. */
static int request(const char *method, const char *path, const char *body)
{
    static char text[4096];
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)cs_http_port(f.http))};
    struct timeval wait = {.tv_sec = 20};
    size_t used = 0;
    ssize_t got;
    int len, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    len = snprintf(text, sizeof text,
                   "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n"
                   "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                   method, path, cs_http_port(f.http), strlen(body), body);
    assert_int_equal(send(fd, text, (size_t)len, MSG_NOSIGNAL), len);
    while (used < ANSWER_MAX - 1 && (got = recv(fd, f.answer + used, ANSWER_MAX - 1 - used, 0)) > 0)
        used += (size_t)got;
    f.answer[used] = '\0';
    close(fd);
    return strncmp(f.answer, "HTTP/1.1 ", 9) == 0 ? (int)strtol(f.answer + 9, NULL, 10) : 0;
}

static void remember_conversation(void)
{
    const char *at = strstr(f.answer, "\"conversationId\":\"");

    assert_non_null(at);
    snprintf(f.cid, sizeof f.cid, "%.36s", at + strlen("\"conversationId\":\""));
}

/* An outcome that found no memory is stored a little later by the sweeper: until then its turn
 * runs. */
static int64_t live_sessions(void)
{
    int64_t deadline = cs_mono_ms() + 10000;
    struct cs_figures figures;

    do
        assert_int_equal(cs_core_figures(f.core, &figures, NULL), CS_OK);
    while ((figures.turns_now > 0 || figures.turns.running > 0) && cs_mono_ms() < deadline);
    assert_int_equal(figures.turns_now, 0);
    assert_int_equal(figures.turns.running, 0);
    return figures.sessions.live;
}

/* What a client may see when memory ran out: an error in our shape with a code, or a connection
 * that just ends (no memory for the answer itself). */
static void expect_clean_failure(int status)
{
    if (status == 0) {
        assert_string_equal(f.answer, "");
        return;
    }
    if (status < 500)
        fail_msg("answered %s", f.answer);
    assert_null(strstr(f.answer, "\"code\":\"\""));
}

static void create(void *arg)
{
    int status =
        request("POST", "/api/codex/session", "{\"prompt\":\"one\",\"context\":[\"a\",\"b\"]}");

    (void)arg;
    (void)fault_disarm();
    if (status == 200) {
        f.acknowledged++;
        remember_conversation();
    } else {
        expect_clean_failure(status);
    }
    assert_true(live_sessions() >= f.acknowledged);
    assert_int_equal(request("GET", "/healthz", ""), 200);
}

/* Continue a conversation of one turn with the @nth allocation failing; whether one did. A new one
 * each time: the longer a conversation, the more allocations. */
static bool go_on(long nth)
{
    char body[256];
    bool failed;
    int status;

    create(NULL);
    snprintf(body, sizeof body, "{\"prompt\":\"two\",\"conversationId\":\"%s\"}", f.cid);
    fault_arm(nth);
    status = request("POST", "/api/codex/continue", body);
    failed = fault_disarm();
    if (status != 200)
        expect_clean_failure(status);
    assert_true(live_sessions() >= f.acknowledged);
    /* the session is not left busy */
    assert_int_equal(request("POST", "/api/codex/continue", body), 200);
    return failed;
}

struct place {
    const char *path;
    bool of_session;
    const char *query;
};

static void read_back(void *arg)
{
    const struct place *place = arg;
    char full[256];
    int status;

    snprintf(full, sizeof full, "%s%s%s", place->path, place->of_session ? f.cid : "",
             place->query);
    status = request("GET", full, "");
    (void)fault_disarm();
    if (status != 200)
        expect_clean_failure(status);
    assert_int_equal(request("GET", full, ""), 200);
}

static void creating_a_session_stands_every_failed_allocation(void **state)
{
    (void)state;
    assert_true(fault_sweep(create, NULL) > 10);
    assert_true(f.acknowledged > 0);
}

static void continuing_stands_every_failed_allocation(void **state)
{
    long nth = 1;

    (void)state;
    while (go_on(nth))
        nth++;
    assert_true(nth > 10);
}

static void reading_stands_every_failed_allocation(void **state)
{
    static struct place places[] = {
        {"/api/codex/history/", true, ""}, {"/api/codex/history/", true, "?limit=3"},
        {"/api/codex/session/", true, ""}, {"/api/codex/sessions", false, "?limit=5"},
        {"/api/codex/stats", false, ""},   {"/health", false, ""},
    };
    size_t i;

    (void)state;
    fault_disarm();
    create(NULL);
    for (i = 1; i < sizeof places / sizeof places[0]; i++)
        assert_true(fault_sweep(read_back, &places[i]) > 0);
    read_back(&places[0]); /* cached from here on: a read may need no memory at all */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creating_a_session_stands_every_failed_allocation),
        cmocka_unit_test(continuing_stands_every_failed_allocation),
        cmocka_unit_test(reading_stands_every_failed_allocation),
    };

    return cmocka_run_group_tests_name("memory", tests, setup, teardown);
}
