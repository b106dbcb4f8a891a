#include "certs.h"

#include <openssl/ssl.h>

#define PASSWORD "hunter2-hunter2"

static struct cert authority, other_authority;
static char dir[] = "/tmp/cs-mirror-XXXXXX";
static char ca_file[60];
static char password[] = PASSWORD;

static int start(void **state)
{
    (void)state;
    authority = cert_make(NULL, NULL, 86400);
    other_authority = cert_make(NULL, NULL, 86400);
    assert_non_null(mkdtemp(dir));
    cert_write(&authority, dir, "ca.pem", NULL);
    (void)snprintf(ca_file, sizeof ca_file, "%s/ca.pem", dir);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    cert_free(&authority);
    cert_free(&other_authority);
    (void)unlink(ca_file);
    (void)rmdir(dir);
    return 0;
}

static struct cs_redis *tls_client(struct cs_redis_endpoint *endpoint, const char *ca)
{
    struct cs_redis *redis = NULL;
    struct cs_redis_options options = {.endpoint = endpoint, .ca_file = ca};
    endpoint->scheme = CS_REDIS_TLS;
    endpoint->password = password;
    assert_int_equal(cs_redis_new(&options, &redis, NULL), CS_OK);
    return redis;
}

/* ---- A recording TLS server ------------------------------------------------------------------ */

struct tls_server {
    struct cert *cert;
    int max_version;   /* 0: any */
    char name[100];    /* that the client asked for */
    size_t got;        /* bytes inside TLS */
    bool mute;         /* answers AUTH alone */
    _Atomic int pause; /* reads nothing after AUTH while it is set */
    size_t value;      /* bytes of the answer to anything but AUTH */
};

/* Keep what arrives inside TLS in `got`; answer AUTH and other commands like a server. */
static void talk(struct fake *fake, SSL *ssl)
{
    struct tls_server *server = fake->arg;
    char buf[16384];
    for (int n; (n = SSL_read(ssl, buf, sizeof buf)) > 0;) {
        size_t room = sizeof fake->got - 1 - fake->len, len = (size_t)n < room ? (size_t)n : room;
        memcpy(fake->got + fake->len, buf, len);
        fake->len += len;
        server->got += (size_t)n;
        while (server->pause && server->got > (size_t)n)
            nap(10);
        if (server->mute && server->got > (size_t)n)
            continue;
        if (server->value == 0 || (n > 14 && memcmp(buf + 8, "AUTH", 4) == 0)) {
            (void)SSL_write(ssl, "+OK\r\n", 5);
            continue;
        }
        char head[30];
        nap(50); /* the client has to wait for it */
        (void)SSL_write(ssl, head, snprintf(head, sizeof head, "$%zu\r\n", server->value));
        memset(buf, 'v', sizeof buf);
        for (size_t left = server->value; left > 0;) {
            size_t step = left < sizeof buf ? left : sizeof buf;
            if (SSL_write(ssl, buf, (int)step) <= 0)
                return;
            left -= step;
        }
        (void)SSL_write(ssl, "\r\n", 2);
    }
}

static void serve_tls(struct fake *fake, int fd)
{
    struct tls_server *server = fake->arg;
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    (void)SSL_CTX_use_certificate(context, server->cert->x509);
    (void)SSL_CTX_use_PrivateKey(context, server->cert->key);
    if (server->max_version)
        (void)SSL_CTX_set_max_proto_version(context, server->max_version);
    SSL *ssl = SSL_new(context);
    (void)SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1) {
        const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
        (void)snprintf(server->name, sizeof server->name, "%s", name ? name : "");
        talk(fake, ssl);
    }
    SSL_free(ssl);
    SSL_CTX_free(context);
}

/* Connect to a server with @cert under the name @host; *out_got: bytes that it got inside TLS. */
static enum cs_status attempt(struct cert *cert, const char *host, const char *ca, size_t *out_got,
                              struct cs_err *err)
{
    struct tls_server server = {.cert = cert};
    struct fake *fake = fake_start(serve_tls, &server);
    char name[64];
    (void)snprintf(name, sizeof name, "%s", host);
    fake->endpoint.host = name;
    struct cs_redis *redis = tls_client(&fake->endpoint, ca);
    enum cs_status rc = cs_redis_connect(redis, soon(), err);
    assert_int_equal(cs_redis_connected(redis), rc == CS_OK);
    cs_redis_free(redis);
    fake_stop(fake); /* joins: the server has seen all that it will */
    *out_got = server.got;
    return rc;
}

static void accepted(struct cert *cert, const char *host, const char *ca)
{
    struct cs_err err = {0};
    size_t got = 0;
    if (attempt(cert, host, ca, &got, &err) != CS_OK)
        fail_msg("%s: %s", host, err.msg);
    assert_true(got > 0);
}

static void refused(struct cert *cert, const char *host, const char *ca, const char *why)
{
    struct cs_err err = {0};
    size_t got = 1;
    assert_int_equal(attempt(cert, host, ca, &got, &err), CS_DENIED);
    assert_int_equal(got, 0); /* AUTH was not sent */
    assert_int_equal(cs_redis_class(&err), CS_REDIS_DENIED);
    assert_string_equal(err.code, "redis_tls");
    if (!strstr(err.msg, why))
        fail_msg("%s, not: %s", err.msg, why);
}

/* ---- Cases ----------------------------------------------------------------------------------- */

static void a_verified_server_gets_the_password(void **state)
{
    (void)state;
    struct cert cert = cert_make(&authority, "DNS:localhost,IP:127.0.0.1", 86400);
    struct tls_server server = {.cert = &cert};
    struct fake *fake = fake_start(serve_tls, &server);
    char host[] = "localhost";
    fake->endpoint.host = host;
    struct cs_redis *redis = tls_client(&fake->endpoint, ca_file);
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};
    if (cs_redis_connect(redis, soon(), &err) != CS_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(cs_redis_call(redis, soon(), &reply, NULL, "PING", NULL), CS_OK);
    cs_reply_free(reply);
    cs_redis_free(redis);
    assert_non_null(strstr(fake->got, PASSWORD));
    assert_string_equal(server.name, "localhost");
    fake_stop(fake);
    cert_free(&cert);
}

static void names_addresses_and_wildcards_are_matched(void **state)
{
    (void)state;
    struct cert both = cert_make(&authority, "DNS:localhost,IP:127.0.0.1", 86400);
    struct cert address = cert_make(&authority, "IP:127.0.0.1", 86400);
    struct cert name = cert_make(&authority, "DNS:localhost", 86400);
    struct cert text = cert_make(&authority, "DNS:127.0.0.1", 86400);
    accepted(&both, "localhost", ca_file);
    accepted(&both, "127.0.0.1", ca_file);
    accepted(&address, "127.0.0.1", ca_file);
    accepted(&name, "LOCALHOST", ca_file);
    refused(&name, "127.0.0.1", ca_file, "mismatch");
    refused(&address, "localhost", ca_file, "mismatch");
    refused(&text, "127.0.0.1", ca_file, "mismatch");
    cert_free(&both);
    cert_free(&address);
    cert_free(&name);
    cert_free(&text);
}

static void a_certificate_for_another_name_is_refused(void **state)
{
    (void)state;
    struct cert cert = cert_make(&authority, "DNS:redis.example,DNS:localhos,DNS:*host", 86400);
    refused(&cert, "localhost", ca_file, "ostname mismatch");
    refused(&cert, "127.0.0.1", ca_file, "IP address mismatch");
    cert_free(&cert);
}

static void an_expired_certificate_is_refused(void **state)
{
    (void)state;
    struct cert cert = cert_make(&authority, "DNS:localhost", -60);
    refused(&cert, "localhost", ca_file, "expired");
    cert_free(&cert);
}

static void a_self_signed_certificate_is_refused(void **state)
{
    (void)state;
    struct cert cert = cert_make(NULL, "DNS:localhost", 86400);
    refused(&cert, "localhost", ca_file, "self");
    refused(&cert, "localhost", NULL, "self");
    cert_free(&cert);
}

static void an_unknown_authority_is_refused(void **state)
{
    (void)state;
    struct cert cert = cert_make(&other_authority, "DNS:localhost", 86400);
    struct cert ours = cert_make(&authority, "DNS:localhost", 86400);
    refused(&cert, "localhost", ca_file, "issuer");
    refused(&ours, "localhost", NULL, "issuer"); /* the system's authorities do not know ours */
    cert_free(&cert);
    cert_free(&ours);
}

static void an_old_protocol_is_refused(void **state)
{
    (void)state;
    struct cert cert = cert_make(&authority, "DNS:localhost", 86400);
    const int versions[] = {TLS1_1_VERSION, TLS1_2_VERSION, TLS1_3_VERSION};
    for (size_t i = 0; i < 3; i++) {
        struct tls_server server = {.cert = &cert, .max_version = versions[i]};
        struct fake *fake = fake_start(serve_tls, &server);
        char host[] = "localhost";
        fake->endpoint.host = host;
        struct cs_redis *redis = tls_client(&fake->endpoint, ca_file);
        enum cs_status rc = cs_redis_connect(redis, soon(), NULL);
        assert_int_equal(rc, i == 0 ? CS_DENIED : CS_OK);
        cs_redis_free(redis);
        fake_stop(fake);
    }
    cert_free(&cert);
}

static void plain(struct fake *fake, int fd)
{
    if (fake->arg)
        (void)fake_send(fd, fake->arg, strlen(fake->arg));
    else if (fake_read(fake, fd, 5000))
        (void)fake_send(fd, "-ERR unknown command\r\n", 22);
    while (!fake->stop && fake_read(fake, fd, 20))
        ;
}

static void a_server_without_tls_is_refused_before_auth(void **state)
{
    (void)state;
    static char greeting[] = "-NOAUTH Authentication required.\r\n";
    static char html[] = "<html>";
    char *const says[] = {NULL, greeting, html};
    for (size_t i = 0; i < 3; i++) {
        struct fake *fake = fake_start(plain, says[i]);
        struct cs_redis *redis = tls_client(&fake->endpoint, ca_file);
        struct cs_err err = {0};
        assert_int_equal(cs_redis_connect(redis, soon(), &err), CS_DENIED);
        assert_string_equal(err.code, "redis_tls");
        cs_redis_free(redis);
        nap(50);
        assert_true(fake->len > 0);
        for (size_t at = 0; at + 4 < fake->len; at++) {
            assert_memory_not_equal(fake->got + at, "AUTH", 4);
            assert_memory_not_equal(fake->got + at, PASSWORD, 4);
        }
        fake_stop(fake);
    }
}

static void silent(struct fake *fake, int fd)
{
    while (!fake->stop && fake_read(fake, fd, 20))
        ;
}

static void a_silent_server_costs_the_deadline(void **state)
{
    (void)state;
    struct fake *fake = fake_start(silent, NULL);
    struct cs_redis *redis = tls_client(&fake->endpoint, ca_file);
    struct cs_err err = {0};
    int64_t before = cs_mono_ms();
    assert_int_equal(cs_redis_connect(redis, before + 200, &err), CS_TIMEOUT);
    assert_in_range(cs_mono_ms() - before, 190, 3000);
    assert_int_equal(cs_redis_class(&err), CS_REDIS_LOST);
    cs_redis_interrupt(redis);
    assert_int_equal(cs_redis_connect(redis, soon(), NULL), CS_CANCELLED);
    cs_redis_free(redis);
    fake_stop(fake);
}

static void a_missing_file_of_authorities_is_named_a_matter_of_settings(void **state)
{
    (void)state;
    struct fake *fake = fake_start(silent, NULL);
    struct cs_redis *redis = tls_client(&fake->endpoint, "/nonexistent/ca.pem");
    struct cs_err err = {0};
    assert_int_equal(cs_redis_connect(redis, soon(), &err), CS_DENIED);
    assert_int_equal(cs_redis_class(&err), CS_REDIS_DENIED);
    assert_non_null(strstr(err.msg, "trusted certificates"));
    cs_redis_free(redis);
    fake_stop(fake);
}

/* Much in both directions, with an interruption on the way. */
static void large_requests_and_replies_pass(void **state)
{
    (void)state;
    struct cert cert = cert_make(&authority, "IP:127.0.0.1", 86400);
    struct tls_server server = {.cert = &cert, .value = 5000000};
    struct fake *fake = fake_start(serve_tls, &server);
    struct cs_redis *redis = tls_client(&fake->endpoint, ca_file);
    assert_int_equal(cs_redis_connect(redis, soon(), NULL), CS_OK);
    struct cs_reply *reply = NULL;
    size_t len = 0, interrupted = 0;
    assert_int_equal(cs_redis_appends(redis, NULL, "GET", "x", NULL), CS_OK);
    for (;;) {
        cs_redis_interrupt(redis);
        enum cs_status rc = cs_redis_take(redis, soon(), &reply, NULL);
        if (rc == CS_OK)
            break;
        assert_int_equal(rc, CS_CANCELLED);
        interrupted++;
    }
    const char *value = cs_reply_string(reply, &len);
    assert_int_equal(len, 5000000);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(value[i], 'v');
    assert_true(interrupted > 0);
    cs_reply_free(reply);
    cs_redis_free(redis);
    fake_stop(fake);
    cert_free(&cert);
}

static void an_interrupted_request_is_sent_once(void **state)
{
    (void)state;
    struct cert cert = cert_make(&authority, "IP:127.0.0.1", 86400);
    struct tls_server server = {.cert = &cert, .mute = true, .pause = 1};
    struct fake *fake = fake_start(serve_tls, &server);
    struct cs_redis *redis = tls_client(&fake->endpoint, ca_file);
    struct cs_redis_counts counts;
    assert_int_equal(cs_redis_connect(redis, soon(), NULL), CS_OK);
    size_t size = 9000000, interrupted = 0;
    char *big = malloc(size);
    assert_non_null(big);
    memset(big, 'x', size);
    const char *set[] = {"SET", "k", big};
    for (int i = 0; i < 3; i++)
        assert_int_equal(cs_redis_append(redis, 3, set, (const size_t[]){3, 1, size}, NULL), CS_OK);
    for (;;) {
        cs_redis_interrupt(redis);
        enum cs_status rc = cs_redis_flush(redis, soon(), NULL);
        if (rc == CS_OK)
            break;
        assert_int_equal(rc, CS_CANCELLED);
        server.pause = ++interrupted < 3;
    }
    cs_redis_counts(redis, &counts);
    cs_redis_close(redis);
    cs_redis_free(redis);
    fake_stop(fake);
    free(big);
    assert_true(interrupted > 0);
    /* An interruption at the very end may leave the last record to nobody. */
    assert_in_range(server.got, counts.bytes_sent - 16384, counts.bytes_sent);
    cert_free(&cert);
}

static void redis_itself_is_spoken_to_over_tls(void **state)
{
    (void)state;
    struct cert cert = cert_make(&authority, "IP:127.0.0.1", 86400);
    struct server server;
    char port[8], host[] = "127.0.0.1";
    server_folder(&server);
    cert_write(&authority, server.dir, "ca.pem", NULL);
    cert_write(&cert, server.dir, "cert.pem", "key.pem");
    int number = free_port();
    (void)snprintf(port, sizeof port, "%d", number);
    const char *const options[] = {"--tls-port",
                                   port,
                                   "--bind",
                                   host,
                                   "--tls-ca-cert-file",
                                   "ca.pem",
                                   "--tls-cert-file",
                                   "cert.pem",
                                   "--tls-key-file",
                                   "key.pem",
                                   "--tls-auth-clients",
                                   "no",
                                   "--requirepass",
                                   PASSWORD,
                                   NULL};
    server_run(&server, options);
    struct cs_redis_endpoint endpoint = {.host = host, .port = number};
    struct cs_redis *redis = tls_client(&endpoint, ca_file);
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};
    if (cs_redis_connect(redis, soon(), &err) != CS_OK)
        fail_msg("%s", err.msg);
    size_t size = 3000000, len = 0;
    char *big = malloc(size);
    assert_non_null(big);
    memset(big, 'x', size);
    const char *set[] = {"SET", "k", big}, *get[] = {"GET", "k"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(cs_redis_append(redis, 3, set, (const size_t[]){3, 1, size}, NULL), CS_OK);
        assert_int_equal(cs_redis_append(redis, 2, get, (const size_t[]){3, 1}, NULL), CS_OK);
    }
    for (int i = 0; i < 6; i++) {
        assert_int_equal(cs_redis_take(redis, soon(), &reply, NULL), CS_OK);
        const char *value = cs_reply_string(reply, &len);
        if (i % 2 == 1) {
            assert_int_equal(len, size);
            assert_memory_equal(value, big, size);
        }
        cs_reply_free(reply);
    }
    free(big);
    cs_redis_free(redis);
    server_stop(&server);
    cert_free(&cert);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_verified_server_gets_the_password),
        cmocka_unit_test(names_addresses_and_wildcards_are_matched),
        cmocka_unit_test(a_certificate_for_another_name_is_refused),
        cmocka_unit_test(an_expired_certificate_is_refused),
        cmocka_unit_test(a_self_signed_certificate_is_refused),
        cmocka_unit_test(an_unknown_authority_is_refused),
        cmocka_unit_test(an_old_protocol_is_refused),
        cmocka_unit_test(a_server_without_tls_is_refused_before_auth),
        cmocka_unit_test(a_silent_server_costs_the_deadline),
        cmocka_unit_test(a_missing_file_of_authorities_is_named_a_matter_of_settings),
        cmocka_unit_test(large_requests_and_replies_pass),
        cmocka_unit_test(an_interrupted_request_is_sent_once),
        cmocka_unit_test(redis_itself_is_spoken_to_over_tls),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
