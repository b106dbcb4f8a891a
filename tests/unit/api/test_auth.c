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
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/base/clock.h"
#include "priv.h"

/* ---- the token's file ---- */

static char dir[] = "/tmp/cs_test_auth_XXXXXX";
static char path[64];

static int make_dir(void **state)
{
    (void)state;
    memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
    if (mkdtemp(dir) == NULL)
        return -1;
    (void)snprintf(path, sizeof path, "%s/token", dir);
    return 0;
}

static int drop_dir(void **state)
{
    (void)state;
    (void)remove(path);
    return rmdir(dir);
}

static void put_file(const char *text, mode_t mode)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    (void)fputs(text, file);
    (void)fclose(file);
    assert_int_equal(chmod(path, mode), 0);
}

static void a_missing_token_is_made_and_stays(void **state)
{
    char first[65], second[65];
    struct stat st;

    (void)state;
    assert_int_equal(cs_token_load(path, first, NULL), CS_OK);
    assert_int_equal(strlen(first), 64);
    assert_int_equal(strspn(first, "0123456789abcdef"), 64);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(cs_token_load(path, second, NULL), CS_OK);
    assert_string_equal(first, second);
    assert_int_equal(remove(path), 0);
    assert_int_equal(cs_token_load(path, second, NULL), CS_OK);
    assert_string_not_equal(first, second);
}

static void a_token_that_others_can_read_is_refused(void **state)
{
    char token[65];
    struct cs_err err = {0};

    (void)state;
    put_file("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n", 0640);
    assert_int_equal(cs_token_load(path, token, &err), CS_DENIED);
    assert_string_equal(err.code, "token_exposed");
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(cs_token_load(path, token, NULL), CS_OK);
}

static void a_file_without_a_token_is_refused_and_kept(void **state)
{
    static const char *const texts[] = {
        "", "\n", "short\n", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeefg\n",
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff0\n"};
    char token[65] = "untouched";

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        put_file(texts[i], 0600);
        assert_int_equal(cs_token_load(path, token, NULL), CS_CORRUPT);
        assert_string_equal(token, "untouched");
    }
}

/* ---- the limit of wrong tokens ---- */

static void wrong_tokens_are_slowed_to_one_a_second(void **state)
{
    struct cs_limiter limiter;
    int seconds = 0, taken = 0;
    int64_t now;

    (void)state;
    cs_limiter_init(&limiter);
    now = limiter.refilled_at;
    while (cs_limiter_take(&limiter, now, &seconds))
        taken++;
    assert_int_equal(taken, 20);
    assert_int_equal(seconds, 1);
    assert_false(cs_limiter_take(&limiter, now + 999, &seconds));
    assert_true(cs_limiter_take(&limiter, now + 1000, &seconds));
    assert_false(cs_limiter_take(&limiter, now + 1999, &seconds));
    taken = 0;
    while (cs_limiter_take(&limiter, now + 86400000, &seconds)) /* never more than a bucketful */
        taken++;
    assert_int_equal(taken, 20);
    cs_limiter_fini(&limiter);
}

/* ---- the peer ---- */

struct link {
    int listener, client, server;
    struct sockaddr_storage client_address, server_address;
};

static void connect_link(struct link *link, int family)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const struct sockaddr *address = family == AF_INET
                                         ? (const struct sockaddr *)(const void *)&in
                                         : (const struct sockaddr *)(const void *)&in6;
    socklen_t len = family == AF_INET ? sizeof in : sizeof in6, got = sizeof link->server_address;

    memset(link, 0, sizeof *link);
    link->listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(link->listener >= 0);
    assert_int_equal(bind(link->listener, address, len), 0);
    assert_int_equal(listen(link->listener, 1), 0);
    assert_int_equal(
        getsockname(link->listener, (struct sockaddr *)(void *)&link->server_address, &got), 0);
    link->client = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(
        connect(link->client, (const struct sockaddr *)(const void *)&link->server_address, got),
        0);
    got = sizeof link->client_address;
    link->server = accept4(link->listener, (struct sockaddr *)(void *)&link->client_address, &got,
                           SOCK_CLOEXEC);
    assert_true(link->server >= 0);
}

static void close_link(struct link *link)
{
    if (link->client >= 0)
        (void)close(link->client);
    (void)close(link->server);
    (void)close(link->listener);
}

static void a_peer_of_our_user_is_ours(void **state)
{
    static const int families[] = {AF_INET, AF_INET6};
    struct link link;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        connect_link(&link, families[i]);
        assert_int_equal(cs_peer_find(&link.client_address, &link.server_address), CS_PEER_OURS);
        close_link(&link);
    }
}

static void a_peer_that_has_closed_is_nobody(void **state)
{
    struct link link;

    (void)state;
    connect_link(&link, AF_INET);
    assert_int_equal(send(link.client, "x", 1, 0), 1);
    (void)close(link.client);
    link.client = -1;
    assert_int_equal(cs_peer_find(&link.client_address, &link.server_address), CS_PEER_OTHER);
    close_link(&link);
}

static void a_connection_that_is_not_there_is_nobodys(void **state)
{
    struct link link;
    struct sockaddr_in *in = (struct sockaddr_in *)(void *)&link.client_address;

    (void)state;
    connect_link(&link, AF_INET);
    in->sin_port = htons((uint16_t)(ntohs(in->sin_port) ^ 1));
    assert_int_equal(cs_peer_find(&link.client_address, &link.server_address), CS_PEER_OTHER);
    in->sin_port = htons((uint16_t)(ntohs(in->sin_port) ^ 1));
    link.server_address.ss_family = AF_INET6;
    assert_int_equal(cs_peer_find(&link.client_address, &link.server_address), CS_PEER_OTHER);
    close_link(&link);
}

/* The question is asked as another user: our socket is then another's. Needs root. */
static void a_peer_of_another_user_is_not_ours(void **state)
{
    struct link link;
    int status = 0;
    pid_t child;

    (void)state;
    if (geteuid() != 0)
        return;
    connect_link(&link, AF_INET);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (setresuid(65534, 65534, 65534) != 0)
            _exit(2);
        _exit(cs_peer_find(&link.client_address, &link.server_address) == CS_PEER_OTHER ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close_link(&link);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_missing_token_is_made_and_stays, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(a_token_that_others_can_read_is_refused, make_dir,
                                        drop_dir),
        cmocka_unit_test_setup_teardown(a_file_without_a_token_is_refused_and_kept, make_dir,
                                        drop_dir),
        cmocka_unit_test(wrong_tokens_are_slowed_to_one_a_second),
        cmocka_unit_test(a_peer_of_our_user_is_ours),
        cmocka_unit_test(a_peer_that_has_closed_is_nobody),
        cmocka_unit_test(a_connection_that_is_not_there_is_nobodys),
        cmocka_unit_test(a_peer_of_another_user_is_not_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
