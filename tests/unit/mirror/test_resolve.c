/* Names and addresses, with a resolver of the test's own in the place of the C library's. */
#include "server.h"

#include <netdb.h>
#include <stdatomic.h>

#include "fault.h"

static char two_test[] = "two.test", slow_test[] = "slow.test", no_test[] = "no.test";
static _Atomic int asked, answered;
static int slow_ms;

static struct addrinfo *address(const char *text, const char *port, struct addrinfo *next)
{
    struct addrinfo *info = calloc(1, sizeof *info);
    struct sockaddr_in *at = calloc(1, sizeof *at);
    assert_non_null(info);
    assert_non_null(at);
    *at = (struct sockaddr_in){.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)strtol(port, NULL, 10))};
    assert_int_equal(inet_pton(AF_INET, text, &at->sin_addr), 1);
    *info = (struct addrinfo){.ai_family = AF_INET,
                              .ai_socktype = SOCK_STREAM,
                              .ai_addrlen = sizeof *at,
                              .ai_addr = (struct sockaddr *)at,
                              .ai_next = next};
    return info;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **res)
{
    if (hints->ai_flags & AI_NUMERICHOST)
        return EAI_NONAME;
    asked++;
    if (strcmp(node, slow_test) == 0)
        nap(slow_ms);
    if (strcmp(node, no_test) == 0)
        return EAI_AGAIN;
    *res = address("127.0.0.2", service, address("127.0.0.1", service, NULL));
    answered++;
    return 0;
}

void freeaddrinfo(struct addrinfo *res)
{
    while (res) {
        struct addrinfo *next = res->ai_next;
        free(res->ai_addr);
        free(res);
        res = next;
    }
}

static void pong(struct fake *fake, int fd)
{
    while (!fake->stop && fake_read(fake, fd, 20))
        if (fake->len > 0) {
            fake->len = 0;
            (void)fake_send(fd, "+PONG\r\n", 7);
        }
}

static void ping(struct cs_redis *redis)
{
    struct cs_reply *reply = NULL;
    assert_int_equal(cs_redis_call(redis, soon(), &reply, NULL, "PING", NULL), CS_OK);
    cs_reply_free(reply);
}

static void the_next_address_is_tried_when_one_refuses(void **state)
{
    (void)state;
    struct fake *fake = fake_start(pong, NULL); /* on 127.0.0.1 alone */
    fake->endpoint.host = two_test;
    struct cs_redis *redis = client_connect(&fake->endpoint);
    ping(redis);
    cs_redis_free(redis);
    fake_stop(fake);
}

/* A listener at @ip whose queue is full: connecting to it hangs. Fills @fds[0 … 8]. */
static void hang(const char *ip, int port, int fds[9])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    assert_int_equal(inet_pton(AF_INET, ip, &at.sin_addr), 1);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fds[0], (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fds[0], 0), 0);
    for (int i = 1; i < 9; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)connect(fds[i], (struct sockaddr *)&at, sizeof at);
    }
    nap(50);
}

static void a_dead_address_leaves_time_for_the_next(void **state)
{
    (void)state;
    int fds[9];
    struct fake *fake = fake_start(pong, NULL);
    hang("127.0.0.2", fake->port, fds);
    fake->endpoint.host = two_test;
    struct cs_redis *redis = client_new(&fake->endpoint);
    int64_t before = cs_mono_ms();
    assert_int_equal(cs_redis_connect(redis, before + 2000, NULL), CS_OK);
    assert_in_range(cs_mono_ms() - before, 500, 1900);
    ping(redis);
    cs_redis_free(redis);
    fake_stop(fake);
    for (int i = 0; i < 9; i++)
        (void)close(fds[i]);
}

static void a_resolver_that_fails_is_unreachable(void **state)
{
    (void)state;
    struct cs_redis_endpoint endpoint = {.scheme = CS_REDIS_TCP, .host = no_test, .port = 1};
    struct cs_redis *redis = client_new(&endpoint);
    struct cs_err err = {0};
    assert_int_equal(cs_redis_connect(redis, soon(), &err), CS_UNAVAILABLE);
    assert_string_equal(err.code, "redis_unreachable");
    assert_int_equal(cs_redis_class(&err), CS_REDIS_LOST);
    cs_redis_free(redis);
}

static void a_resolver_that_hangs_costs_the_deadline_and_few_threads(void **state)
{
    (void)state;
    struct cs_redis_endpoint endpoint = {.scheme = CS_REDIS_TCP, .host = slow_test, .port = 1};
    struct cs_redis *redis = client_new(&endpoint);
    struct cs_err err = {0};
    asked = answered = 0;
    slow_ms = 4000;
    cs_redis_interrupt(redis);
    assert_int_equal(cs_redis_connect(redis, soon(), NULL), CS_CANCELLED);
    for (int i = 0; i < 3; i++) {
        int64_t before = cs_mono_ms();
        cs_err_clear(&err);
        assert_int_equal(cs_redis_connect(redis, before + 50, &err), CS_TIMEOUT);
        assert_in_range(cs_mono_ms() - before, 45, 1000);
        assert_int_equal(cs_redis_class(&err), CS_REDIS_LOST);
    }
    /* Four threads wait for the resolver: no fifth joins them. */
    cs_err_clear(&err);
    assert_int_equal(cs_redis_connect(redis, soon(), &err), CS_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "still hang"));
    assert_int_equal(asked, 4);
    cs_redis_free(redis);
    for (int i = 0; i < 3000 && answered < 4; i++)
        nap(10);
    assert_int_equal(answered, 4); /* too late, and freed by themselves */
    nap(100);
    slow_ms = 0;
    redis = client_new(&endpoint);
    cs_err_clear(&err);
    assert_int_equal(cs_redis_connect(redis, soon(), &err), CS_UNAVAILABLE);
    assert_null(strstr(err.msg, "still hang"));
    cs_redis_free(redis);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_next_address_is_tried_when_one_refuses),
        cmocka_unit_test(a_dead_address_leaves_time_for_the_next),
        cmocka_unit_test(a_resolver_that_fails_is_unreachable),
        cmocka_unit_test(a_resolver_that_hangs_costs_the_deadline_and_few_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
