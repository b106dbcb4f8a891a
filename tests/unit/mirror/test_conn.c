#include "server.h"

#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/time.h>

#include "fault.h"

static struct server server;
static char big[1 << 20];

static int start(void **state)
{
    (void)state;
    server_start(&server);
    memset(big, 'x', sizeof big);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    server_stop(&server);
    return 0;
}

static void expect_class(const struct cs_err *err, enum cs_redis_class class)
{
    if (cs_redis_class(err) != class)
        fail_msg("%s: %s (%s)", cs_redis_class_name(cs_redis_class(err)), err->msg, err->code);
}

/* ---- A real server --------------------------------------------------------------------------- */

static void commands_are_answered_in_their_order(void **state)
{
    (void)state;
    struct cs_redis *redis = client_connect(&server.endpoint);
    for (int i = 0; i < 2000; i++) {
        char text[24];
        (void)snprintf(text, sizeof text, "%d", i);
        assert_int_equal(cs_redis_appends(redis, NULL, "ECHO", text, NULL), CS_OK);
    }
    assert_int_equal(cs_redis_owed(redis), 2000);
    assert_int_equal(cs_redis_flush(redis, soon(), NULL), CS_OK);
    for (int i = 0; i < 2000; i++) {
        struct cs_reply *reply = NULL;
        assert_int_equal(cs_redis_take(redis, soon(), &reply, NULL), CS_OK);
        assert_int_equal(cs_reply_int(reply, -1), i);
        cs_reply_free(reply);
    }
    assert_int_equal(cs_redis_owed(redis), 0);
    cs_redis_free(redis);
}

static void binary_words_and_values_pass_unchanged(void **state)
{
    (void)state;
    struct cs_redis *redis = client_connect(&server.endpoint);
    struct cs_reply *reply = NULL;
    size_t len = 0;
    const char *set[] = {"SET", "bin\0ary", big};
    assert_int_equal(cs_redis_append(redis, 3, set, (const size_t[]){3, 7, sizeof big}, NULL),
                     CS_OK);
    const char *get[] = {"GET", "bin\0ary"};
    assert_int_equal(cs_redis_append(redis, 2, get, (const size_t[]){3, 7}, NULL), CS_OK);
    assert_int_equal(cs_redis_take(redis, soon(), &reply, NULL), CS_OK);
    assert_true(cs_reply_is(reply, "OK"));
    cs_reply_free(reply);
    assert_int_equal(cs_redis_take(redis, soon(), &reply, NULL), CS_OK);
    const char *value = cs_reply_string(reply, &len);
    assert_int_equal(len, sizeof big);
    assert_memory_equal(value, big, len);
    assert_int_equal(value[len], 0);
    cs_reply_free(reply);
    cs_redis_free(redis);
}

static void an_error_reply_leaves_the_connection(void **state)
{
    (void)state;
    struct cs_redis *redis = client_connect(&server.endpoint);
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};
    assert_int_equal(cs_redis_call(redis, soon(), &reply, &err, "NONSENSE", NULL), CS_UPSTREAM);
    expect_class(&err, CS_REDIS_REFUSED);
    assert_null(reply);
    assert_true(cs_redis_connected(redis));
    assert_int_equal(cs_redis_call(redis, soon(), &reply, NULL, "PING", NULL), CS_OK);
    assert_true(cs_reply_is(reply, "PONG"));
    cs_reply_free(reply);
    cs_redis_free(redis);
}

static void what_is_sent_and_received_is_counted(void **state)
{
    (void)state;
    struct cs_redis *redis = client_connect(&server.endpoint);
    struct cs_redis_counts counts;
    struct cs_reply *reply = NULL;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(cs_redis_call(redis, soon(), &reply, NULL, "PING", NULL), CS_OK);
        cs_reply_free(reply);
    }
    assert_int_equal(cs_redis_appends(redis, NULL, "PING", NULL), CS_OK);
    cs_redis_counts(redis, &counts);
    assert_int_equal(counts.connects, 1);
    assert_int_equal(counts.commands, 3);
    assert_int_equal(counts.bytes_sent, 3 * 14);
    assert_int_equal(counts.bytes_received, 3 * 7);
    cs_redis_free(redis);
}

static void caps_of_requests_and_of_the_queue_hold(void **state)
{
    (void)state;
    struct cs_redis *redis = NULL;
    struct cs_redis_options options = {
        .endpoint = &server.endpoint, .request_max = 1000, .queue_max = 3000};
    assert_int_equal(cs_redis_new(&options, &redis, NULL), CS_OK);
    assert_int_equal(cs_redis_connect(redis, soon(), NULL), CS_OK);
    const char *argv[] = {"ECHO", big};
    struct cs_err err = {0};
    assert_int_equal(cs_redis_append(redis, 2, argv, (const size_t[]){4, 997}, &err), CS_TOO_LARGE);
    expect_class(&err, CS_REDIS_LARGE);
    size_t many = 0;
    enum cs_status rc;
    cs_err_clear(&err);
    while ((rc = cs_redis_append(redis, 2, argv, (const size_t[]){4, 900}, &err)) == CS_OK)
        many++;
    assert_int_equal(rc, CS_BUSY);
    expect_class(&err, CS_REDIS_STOPPED);
    assert_int_equal(many, 3);
    assert_int_equal(cs_redis_owed(redis), 3);
    while (cs_redis_owed(redis) > 0) {
        struct cs_reply *reply = NULL;
        assert_int_equal(cs_redis_take(redis, soon(), &reply, NULL), CS_OK);
        cs_reply_free(reply);
    }
    cs_redis_free(redis);
}

static void a_database_is_selected(void **state)
{
    (void)state;
    struct cs_redis_endpoint second = server.endpoint;
    second.db = 3;
    struct cs_redis *redis = client_connect(&second);
    struct cs_reply *reply = NULL;
    assert_int_equal(cs_redis_call(redis, soon(), &reply, NULL, "CLIENT", "INFO", NULL), CS_OK);
    assert_non_null(strstr(cs_reply_string(reply, NULL), " db=3 "));
    cs_reply_free(reply);
    cs_redis_free(redis);
    second.db = 999;
    redis = client_new(&second);
    struct cs_err err = {0};
    assert_int_equal(cs_redis_connect(redis, soon(), &err), CS_DENIED);
    expect_class(&err, CS_REDIS_DENIED);
    assert_false(cs_redis_connected(redis));
    cs_redis_free(redis);
}

static void a_user_and_a_password_are_checked(void **state)
{
    (void)state;
    char user[] = "bob", right[] = "hunter2", wrong[] = "wrong-hunter2";
    struct cs_redis *admin = client_connect(&server.endpoint);
    struct cs_reply *reply = NULL;
    assert_int_equal(cs_redis_call(admin, soon(), &reply, NULL, "ACL", "SETUSER", user, "on",
                                   ">hunter2", "+ping", NULL),
                     CS_OK);
    cs_reply_free(reply);
    cs_redis_free(admin);
    struct cs_redis_endpoint endpoint = server.endpoint;
    endpoint.user = user;
    endpoint.password = right;
    struct cs_redis *redis = client_connect(&endpoint);
    struct cs_err err = {0};
    assert_int_equal(cs_redis_call(redis, soon(), &reply, &err, "GET", "x", NULL), CS_DENIED);
    expect_class(&err, CS_REDIS_DENIED);
    assert_int_equal(cs_redis_call(redis, soon(), &reply, NULL, "PING", NULL), CS_OK);
    cs_reply_free(reply);
    cs_redis_free(redis);

    endpoint.password = wrong;
    for (int token = 0; token < 2; token++) {
        endpoint.token = token != 0;
        redis = client_new(&endpoint);
        cs_err_clear(&err);
        assert_int_equal(cs_redis_connect(redis, soon(), &err), CS_DENIED);
        expect_class(&err, CS_REDIS_DENIED);
        assert_null(strstr(err.msg, "hunter2"));
        assert_int_equal(strstr(err.msg, "rediss://") != NULL, token);
        cs_redis_free(redis);
    }
}

static void a_blocking_read_is_interrupted_and_its_reply_still_comes(void **state)
{
    (void)state;
    struct cs_redis *redis = client_connect(&server.endpoint);
    struct cs_redis *other = client_connect(&server.endpoint);
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};
    assert_int_equal(cs_redis_appends(redis, NULL, "BLPOP", "bell", "10", NULL), CS_OK);
    cs_redis_interrupt(redis);
    cs_redis_interrupt(redis);
    int64_t before = cs_mono_ms();
    /* The first wait to come ends; both interruptions are one. */
    assert_int_equal(cs_redis_take(redis, soon(), &reply, &err), CS_CANCELLED);
    expect_class(&err, CS_REDIS_STOPPED);
    assert_true(cs_mono_ms() - before < 1000);
    assert_true(cs_redis_connected(redis));
    assert_int_equal(cs_redis_owed(redis), 1);
    /* What comes later is waited for again. */
    assert_int_equal(cs_redis_appends(other, NULL, "DEBUG", "SLEEP", "0.2", NULL), CS_OK);
    assert_int_equal(cs_redis_appends(other, NULL, "LPUSH", "bell", "v", NULL), CS_OK);
    assert_int_equal(cs_redis_flush(other, soon(), NULL), CS_OK);
    assert_int_equal(cs_redis_take(redis, soon(), &reply, NULL), CS_OK);
    assert_true(cs_reply_is(cs_reply_at(reply, 1), "v"));
    cs_reply_free(reply);
    cs_redis_free(redis);
    cs_redis_free(other);
}

static void *interrupt_later(void *arg)
{
    nap(100);
    cs_redis_interrupt(arg);
    return NULL;
}

static void another_thread_ends_a_wait(void **state)
{
    (void)state;
    struct cs_redis *redis = client_connect(&server.endpoint);
    struct cs_reply *reply = NULL;
    pthread_t thread;
    assert_int_equal(cs_redis_appends(redis, NULL, "BLPOP", "none", "10", NULL), CS_OK);
    assert_int_equal(pthread_create(&thread, NULL, interrupt_later, redis), 0);
    int64_t before = cs_mono_ms();
    assert_int_equal(cs_redis_take(redis, soon(), &reply, NULL), CS_CANCELLED);
    assert_in_range(cs_mono_ms() - before, 50, 2000);
    (void)pthread_join(thread, NULL);
    cs_redis_free(redis);
}

static void a_server_that_dies_is_noticed_and_found_again(void **state)
{
    (void)state;
    struct cs_redis *redis = client_connect(&server.endpoint);
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};
    server_kill(&server);
    assert_int_equal(cs_redis_call(redis, soon(), &reply, &err, "PING", NULL), CS_UNAVAILABLE);
    expect_class(&err, CS_REDIS_LOST);
    assert_false(cs_redis_connected(redis));
    assert_int_equal(cs_redis_owed(redis), 0);
    cs_err_clear(&err);
    assert_int_equal(cs_redis_call(redis, soon(), &reply, &err, "PING", NULL), CS_UNAVAILABLE);
    expect_class(&err, CS_REDIS_LOST);
    cs_err_clear(&err);
    assert_int_equal(cs_redis_connect(redis, soon(), &err), CS_UNAVAILABLE);
    expect_class(&err, CS_REDIS_LOST);
    server_run(&server, NULL);
    assert_int_equal(cs_redis_connect(redis, soon(), NULL), CS_OK);
    assert_int_equal(cs_redis_call(redis, soon(), &reply, NULL, "PING", NULL), CS_OK);
    cs_reply_free(reply);
    cs_redis_free(redis);
}

static void a_stopped_server_costs_the_deadline_and_no_more(void **state)
{
    (void)state;
    struct cs_redis *redis = client_connect(&server.endpoint);
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};
    (void)kill(server.pid, SIGSTOP);
    int64_t before = cs_mono_ms();
    assert_int_equal(cs_redis_call(redis, before + 150, &reply, &err, "PING", NULL), CS_TIMEOUT);
    assert_in_range(cs_mono_ms() - before, 140, 1500);
    expect_class(&err, CS_REDIS_LOST);
    assert_false(cs_redis_connected(redis));
    /* A connection is accepted by the kernel, and then nobody takes what is written. */
    assert_int_equal(cs_redis_connect(redis, soon(), NULL), CS_OK);
    const char *argv[] = {"ECHO", big};
    enum cs_status rc = CS_OK;
    for (int i = 0; i < 8; i++)
        assert_int_equal(cs_redis_append(redis, 2, argv, (const size_t[]){4, sizeof big}, NULL),
                         CS_OK);
    before = cs_mono_ms();
    cs_err_clear(&err);
    rc = cs_redis_flush(redis, before + 150, &err);
    assert_int_equal(rc, CS_TIMEOUT);
    assert_in_range(cs_mono_ms() - before, 140, 1500);
    (void)kill(server.pid, SIGCONT);
    cs_redis_free(redis);
}

static void talk(void *arg)
{
    struct cs_redis *redis = NULL;
    struct cs_reply *reply = NULL;
    struct cs_redis_options options = {.endpoint = arg};
    if (cs_redis_new(&options, &redis, NULL) != CS_OK)
        return;
    if (cs_redis_connect(redis, soon(), NULL) == CS_OK &&
        cs_redis_call(redis, soon(), &reply, NULL, "PING", NULL) == CS_OK)
        cs_reply_free(reply);
    cs_redis_free(redis);
}

static void any_failed_allocation_is_stood(void **state)
{
    (void)state;
    assert_true(fault_sweep(talk, &server.endpoint) >= 3);
}

/* ---- Fake servers ---------------------------------------------------------------------------- */

static void answer(struct fake *fake, int fd)
{
    const char *text = fake->arg;
    if (fake_read(fake, fd, 5000) && fake_send(fd, text, strlen(text)))
        while (!fake->stop && fake_read(fake, fd, 20))
            ;
}

/* The client's fate when the server answers PING with @text. */
static void against(const char *text, enum cs_redis_class class, int64_t patience)
{
    char copy[4096];
    (void)snprintf(copy, sizeof copy, "%s", text);
    struct fake *fake = fake_start(answer, copy);
    struct cs_redis *redis = client_connect(&fake->endpoint);
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};
    int64_t before = cs_mono_ms();
    enum cs_status rc = cs_redis_call(redis, before + patience, &reply, &err, "PING", NULL);
    assert_int_not_equal(rc, CS_OK);
    expect_class(&err, class);
    assert_true(cs_mono_ms() - before < patience + 1000);
    assert_int_equal(cs_redis_connected(redis), class != CS_REDIS_LOST);
    cs_redis_free(redis);
    fake_stop(fake);
}

static void a_server_that_is_no_redis_is_refused(void **state)
{
    (void)state;
    against("HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n", CS_REDIS_LOST, 5000);
    against("<html><body>Log in to this network</body></html>", CS_REDIS_LOST, 5000);
    against("%1\r\n+server\r\n+redis\r\n", CS_REDIS_LOST, 5000);
    against("_\r\n", CS_REDIS_LOST, 5000);
    against(">2\r\n+message\r\n+x\r\n", CS_REDIS_LOST, 5000);
    against("\x15\x03\x01", CS_REDIS_LOST, 5000);
    against("-ERR no\r\n", CS_REDIS_REFUSED, 5000);
    against("-LOADING wait\r\n", CS_REDIS_READONLY, 5000);
}

static void lengths_that_pass_the_caps_are_refused_at_once(void **state)
{
    (void)state;
    against("$9223372036854775807\r\n", CS_REDIS_LOST, 5000);
    against("$200000000\r\n", CS_REDIS_LOST, 5000);
    against("*2147483647\r\n", CS_REDIS_LOST, 5000);
    against("*4294967297\r\n", CS_REDIS_LOST, 5000);
    against("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", CS_REDIS_LOST, 5000);
    against("*2\r\n:1\r\n$-5\r\n", CS_REDIS_LOST, 5000);
}

static void a_reply_that_never_ends_costs_the_deadline(void **state)
{
    (void)state;
    against("", CS_REDIS_LOST, 200);
    against("+PON", CS_REDIS_LOST, 200);
    against("$10\r\nabc", CS_REDIS_LOST, 200);
    against("*1000\r\n:1\r\n", CS_REDIS_LOST, 200);
}

static void drip(struct fake *fake, int fd)
{
    if (!fake_read(fake, fd, 5000) || !fake_send(fd, "$1000\r\n", 7))
        return;
    while (!fake->stop && fake_send(fd, "x", 1))
        nap(20);
}

static void a_byte_now_and_then_does_not_move_the_deadline(void **state)
{
    (void)state;
    struct fake *fake = fake_start(drip, NULL);
    struct cs_redis *redis = client_connect(&fake->endpoint);
    struct cs_reply *reply = NULL;
    int64_t before = cs_mono_ms();
    assert_int_equal(cs_redis_call(redis, before + 300, &reply, NULL, "PING", NULL), CS_TIMEOUT);
    assert_in_range(cs_mono_ms() - before, 290, 1500);
    cs_redis_free(redis);
    fake_stop(fake);
}

static void flood(struct fake *fake, int fd)
{
    if (!fake_read(fake, fd, 5000) || !fake_send(fd, fake->arg, strlen(fake->arg)))
        return;
    while (!fake->stop && fake_send(fd, big, sizeof big))
        ;
}

static long resident_kb(void)
{
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &pages, &resident), 2);
    (void)fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static void an_endless_line_or_array_ends_without_filling_the_memory(void **state)
{
    (void)state;
    static char line[] = "+", array[] = "*1000\r\n+";
    char *const begins[] = {line, array};
    for (size_t i = 0; i < 2; i++) {
        struct fake *fake = fake_start(flood, begins[i]);
        struct cs_redis *redis = client_connect(&fake->endpoint);
        struct cs_reply *reply = NULL;
        struct cs_err err = {0};
        long before = resident_kb();
        assert_int_not_equal(cs_redis_call(redis, soon(), &reply, &err, "PING", NULL), CS_OK);
        assert_string_equal(err.code, "redis_protocol");
        assert_true(resident_kb() - before < 8192);
        cs_redis_free(redis);
        fake_stop(fake);
    }
}

/* 70 MB of one string: legal, and more than the client was made for. */
static void a_string_past_the_cap_is_never_buffered(void **state)
{
    (void)state;
    static char begin[] = "$70000000\r\n";
    struct fake *fake = fake_start(flood, begin);
    struct cs_redis *redis = NULL;
    struct cs_redis_options options = {.endpoint = &fake->endpoint, .reply_max = 1000000};
    assert_int_equal(cs_redis_new(&options, &redis, NULL), CS_OK);
    assert_int_equal(cs_redis_connect(redis, soon(), NULL), CS_OK);
    struct cs_reply *reply = NULL;
    long before = resident_kb();
    assert_int_equal(cs_redis_call(redis, soon(), &reply, NULL, "GET", "x", NULL), CS_CORRUPT);
    assert_true(resident_kb() - before < 4096);
    cs_redis_free(redis);
    fake_stop(fake);
}

static void replies_that_nobody_asked_for_end_the_connection(void **state)
{
    (void)state;
    static char twice[] = "+PONG\r\n+PONG\r\n";
    struct fake *fake = fake_start(answer, twice);
    struct cs_redis *redis = client_connect(&fake->endpoint);
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};
    assert_int_equal(cs_redis_call(redis, soon(), &reply, NULL, "PING", NULL), CS_OK);
    cs_reply_free(reply);
    assert_int_equal(cs_redis_call(redis, soon(), &reply, &err, "PING", NULL), CS_CORRUPT);
    expect_class(&err, CS_REDIS_LOST);
    assert_false(cs_redis_connected(redis));
    cs_redis_free(redis);
    fake_stop(fake);
}

static void echo_auth(struct fake *fake, int fd)
{
    if (fake_read(fake, fd, 5000))
        (void)fake_send(fd, "-ERR you sent hunter2\r\n", 23);
    while (!fake->stop && fake_read(fake, fd, 20))
        ;
}

static void a_server_that_repeats_the_password_is_not_quoted(void **state)
{
    (void)state;
    struct fake *fake = fake_start(echo_auth, NULL);
    char password[] = "hunter2";
    fake->endpoint.password = password;
    struct cs_redis *redis = client_new(&fake->endpoint);
    struct cs_err err = {0};
    assert_int_equal(cs_redis_connect(redis, soon(), &err), CS_DENIED);
    assert_null(strstr(err.msg, "hunter2"));
    assert_non_null(strstr(fake->got, "AUTH\r\n$7\r\nhunter2\r\n"));
    cs_redis_free(redis);
    fake_stop(fake);
}

/* ---- Connecting ------------------------------------------------------------------------------ */

static void a_closed_port_is_lost(void **state)
{
    (void)state;
    static char local[] = "127.0.0.1";
    struct cs_redis_endpoint endpoint = {
        .scheme = CS_REDIS_TCP, .host = local, .port = free_port()};
    struct cs_redis *redis = client_new(&endpoint);
    struct cs_err err = {0};
    assert_int_equal(cs_redis_connect(redis, soon(), &err), CS_UNAVAILABLE);
    expect_class(&err, CS_REDIS_LOST);
    cs_redis_free(redis);
}

/* A listener whose queue is full drops further handshakes: connecting takes until the deadline. */
static void a_connection_that_is_never_accepted_costs_the_deadline(void **state)
{
    (void)state;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    static char local[] = "127.0.0.1";
    int fds[8], fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    for (int i = 0; i < 8; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)connect(fds[i], (struct sockaddr *)&at, sizeof at);
    }
    nap(50);
    struct cs_redis_endpoint endpoint = {
        .scheme = CS_REDIS_TCP, .host = local, .port = ntohs(at.sin_port)};
    struct cs_redis *redis = client_new(&endpoint);
    struct cs_err err = {0};
    int64_t before = cs_mono_ms();
    assert_int_equal(cs_redis_connect(redis, before + 300, &err), CS_TIMEOUT);
    assert_in_range(cs_mono_ms() - before, 290, 1500);
    expect_class(&err, CS_REDIS_LOST);
    cs_redis_interrupt(redis);
    assert_int_equal(cs_redis_connect(redis, soon(), NULL), CS_CANCELLED);
    cs_redis_free(redis);
    for (int i = 0; i < 8; i++)
        (void)close(fds[i]);
    (void)close(fd);
}

/* ---- A wire of one's own --------------------------------------------------------------------- */

/* Loses the reply to every request, or the request itself. */
struct lossy {
    struct cs_wire wire;
    struct cs_wire *real;
    bool lose_request;
};

static enum cs_status lossy_read(struct cs_wire *wire, void *to, size_t cap, int64_t deadline,
                                 size_t *out_len, struct cs_err *err)
{
    (void)wire, (void)to, (void)cap, (void)deadline, (void)out_len;
    return cs_err_set(err, CS_TIMEOUT, "redis_timeout", "lost");
}

static enum cs_status lossy_write(struct cs_wire *wire, const void *data, size_t len,
                                  int64_t deadline, size_t *out_len, struct cs_err *err)
{
    struct lossy *lossy = (struct lossy *)wire;
    *out_len = len;
    if (lossy->lose_request)
        return CS_OK;
    return lossy->real->ops->write(lossy->real, data, len, deadline, out_len, err);
}

static void lossy_close(struct cs_wire *wire)
{
    struct lossy *lossy = (struct lossy *)wire;
    nap(50); /* the request is on its way */
    lossy->real->ops->close(lossy->real);
    free(lossy);
}

static enum cs_status lossy_dial(void *arg, const struct cs_dial *dial, struct cs_wire **out_wire,
                                 struct cs_err *err)
{
    static const struct cs_wire_ops ops = {lossy_read, lossy_write, lossy_close};
    struct lossy *lossy = calloc(1, sizeof *lossy);
    assert_non_null(lossy);
    lossy->wire.ops = &ops;
    lossy->lose_request = *(const bool *)arg;
    *out_wire = &lossy->wire;
    return cs_wire_dial(dial, &lossy->real, err);
}

static void a_faulty_wire_can_stand_before_a_real_server(void **state)
{
    (void)state;
    struct cs_redis *admin = client_connect(&server.endpoint);
    struct cs_reply *reply = NULL;
    for (int lose = 0; lose < 2; lose++) {
        bool lose_request = lose != 0;
        struct cs_redis_options options = {
            .endpoint = &server.endpoint, .dial = lossy_dial, .dial_arg = &lose_request};
        struct cs_redis *redis = NULL;
        assert_int_equal(cs_redis_new(&options, &redis, NULL), CS_OK);
        assert_int_equal(cs_redis_connect(redis, soon(), NULL), CS_OK);
        assert_int_equal(cs_redis_call(redis, soon(), &reply, NULL, "INCR", lose ? "b" : "a", NULL),
                         CS_TIMEOUT);
        cs_redis_free(redis);
        assert_int_equal(
            cs_redis_call(admin, soon(), &reply, NULL, "EXISTS", lose ? "b" : "a", NULL), CS_OK);
        assert_int_equal(cs_reply_int(reply, -1), lose ? 0 : 1);
        cs_reply_free(reply);
    }
    cs_redis_free(admin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_are_answered_in_their_order),
        cmocka_unit_test(binary_words_and_values_pass_unchanged),
        cmocka_unit_test(an_error_reply_leaves_the_connection),
        cmocka_unit_test(what_is_sent_and_received_is_counted),
        cmocka_unit_test(caps_of_requests_and_of_the_queue_hold),
        cmocka_unit_test(a_database_is_selected),
        cmocka_unit_test(a_user_and_a_password_are_checked),
        cmocka_unit_test(a_blocking_read_is_interrupted_and_its_reply_still_comes),
        cmocka_unit_test(another_thread_ends_a_wait),
        cmocka_unit_test(a_server_that_dies_is_noticed_and_found_again),
        cmocka_unit_test(a_stopped_server_costs_the_deadline_and_no_more),
        cmocka_unit_test(any_failed_allocation_is_stood),
        cmocka_unit_test(a_server_that_is_no_redis_is_refused),
        cmocka_unit_test(lengths_that_pass_the_caps_are_refused_at_once),
        cmocka_unit_test(a_reply_that_never_ends_costs_the_deadline),
        cmocka_unit_test(a_byte_now_and_then_does_not_move_the_deadline),
        cmocka_unit_test(an_endless_line_or_array_ends_without_filling_the_memory),
        cmocka_unit_test(a_string_past_the_cap_is_never_buffered),
        cmocka_unit_test(replies_that_nobody_asked_for_end_the_connection),
        cmocka_unit_test(a_server_that_repeats_the_password_is_not_quoted),
        cmocka_unit_test(a_closed_port_is_lost),
        cmocka_unit_test(a_connection_that_is_never_accepted_costs_the_deadline),
        cmocka_unit_test(a_faulty_wire_can_stand_before_a_real_server),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
