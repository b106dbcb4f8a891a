/* Servers for the tests of this module: a private redis-server, and fake ones that misbehave.
 *
 * Functions assert: a test that cannot have its server fails.
 */
#ifndef TESTS_UNIT_MIRROR_SERVER_H
#define TESTS_UNIT_MIRROR_SERVER_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/base/clock.h"
#include "cs/mirror/redis.h"

#define UNUSED_OK __attribute__((unused))

/* A deadline for what is expected to work. */
UNUSED_OK static int64_t soon(void)
{
    return cs_mono_ms() + 20000;
}

UNUSED_OK static void nap(int ms)
{
    (void)nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
}

/* ---- redis-server ---------------------------------------------------------------------------- */

struct server {
    pid_t pid;
    char dir[40];
    char path[60]; /* unix socket */
    struct cs_redis_endpoint endpoint;
};

UNUSED_OK static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    (void)close(fd);
    return ntohs(at.sin_port);
}

/* Make the folder, before certificates go there and the server is started. */
UNUSED_OK static void server_folder(struct server *server)
{
    *server = (struct server){.dir = "/tmp/cs-mirror-XXXXXX"};
    assert_non_null(mkdtemp(server->dir));
    (void)snprintf(server->path, sizeof server->path, "%s/s", server->dir);
}

/* Start redis-server on a unix socket in the folder, with more options (ended by NULL). */
UNUSED_OK static void server_run(struct server *server, const char *const *options)
{
    const char *argv[40] = {"redis-server",
                            "--port",
                            "0",
                            "--save",
                            "",
                            "--appendonly",
                            "no",
                            "--dir",
                            server->dir,
                            "--logfile",
                            "log",
                            "--unixsocket",
                            server->path,
                            "--enable-debug-command",
                            "local"};
    size_t n = 15;
    while (options && *options)
        argv[n++] = *options++;
    server->pid = fork();
    assert_true(server->pid >= 0);
    if (server->pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        char *words[40];
        memcpy(words, argv, sizeof words);
        execvp("redis-server", words);
        _exit(127);
    }
    for (int i = 0; i < 500 && access(server->path, F_OK) != 0; i++)
        nap(10);
    assert_int_equal(access(server->path, F_OK), 0);
    server->endpoint = (struct cs_redis_endpoint){.scheme = CS_REDIS_UNIX, .path = server->path};
}

UNUSED_OK static void server_start(struct server *server)
{
    server_folder(server);
    server_run(server, NULL);
}

UNUSED_OK static void server_kill(struct server *server)
{
    (void)kill(server->pid, SIGKILL);
    (void)waitpid(server->pid, NULL, 0);
    (void)unlink(server->path);
}

UNUSED_OK static void server_stop(struct server *server)
{
    static const char *const names[] = {"log", "s", "ca.pem", "cert.pem", "key.pem"};
    char path[100];
    server_kill(server);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", server->dir, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(server->dir);
}

UNUSED_OK static struct cs_redis *client_new(const struct cs_redis_endpoint *endpoint)
{
    struct cs_redis *redis = NULL;
    struct cs_redis_options options = {.endpoint = endpoint};
    assert_int_equal(cs_redis_new(&options, &redis, NULL), CS_OK);
    return redis;
}

UNUSED_OK static struct cs_redis *client_connect(const struct cs_redis_endpoint *endpoint)
{
    struct cs_redis *redis = client_new(endpoint);
    struct cs_err err = {0};
    if (cs_redis_connect(redis, soon(), &err) != CS_OK)
        fail_msg("%s", err.msg);
    return redis;
}

/* ---- Fake servers ---------------------------------------------------------------------------- */

/* Listens on a free loopback port and serves one connection after another. What clients send before
 * `serve` reads it is kept in `got`. */
struct fake {
    int listen_fd, port;
    void (*serve)(struct fake *fake, int fd);
    void *arg;
    _Atomic int stop;
    char got[65536];
    _Atomic size_t len;
    _Atomic int accepted;
    pthread_t thread;
    char host[16];
    struct cs_redis_endpoint endpoint;
};

UNUSED_OK static void *fake_run(void *arg)
{
    struct fake *fake = arg;
    for (;;) {
        int fd = accept4(fake->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 || fake->stop) {
            if (fd >= 0)
                (void)close(fd);
            return NULL;
        }
        fake->accepted++;
        fake->serve(fake, fd);
        (void)close(fd);
    }
}

UNUSED_OK static struct fake *fake_start(void (*serve)(struct fake *fake, int fd), void *arg)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    struct fake *fake = calloc(1, sizeof *fake);
    assert_non_null(fake);
    (void)signal(SIGPIPE, SIG_IGN);
    fake->serve = serve;
    fake->arg = arg;
    fake->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fake->listen_fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fake->listen_fd, 8), 0);
    assert_int_equal(getsockname(fake->listen_fd, (struct sockaddr *)&at, &len), 0);
    fake->port = ntohs(at.sin_port);
    (void)snprintf(fake->host, sizeof fake->host, "127.0.0.1");
    fake->endpoint =
        (struct cs_redis_endpoint){.scheme = CS_REDIS_TCP, .host = fake->host, .port = fake->port};
    assert_int_equal(pthread_create(&fake->thread, NULL, fake_run, fake), 0);
    return fake;
}

UNUSED_OK static void fake_stop(struct fake *fake)
{
    fake->stop = 1;
    (void)shutdown(fake->listen_fd, SHUT_RDWR);
    (void)pthread_join(fake->thread, NULL);
    (void)close(fake->listen_fd);
    free(fake);
}

/* Keep what the client sends within @ms; false at its end. */
UNUSED_OK static bool fake_read(struct fake *fake, int fd, int ms)
{
    struct pollfd at = {.fd = fd, .events = POLLIN};
    if (poll(&at, 1, ms) <= 0)
        return true;
    size_t len = fake->len;
    size_t room = sizeof fake->got - 1 - len;
    static _Thread_local char waste[65536];
    ssize_t n = room > 0 ? read(fd, fake->got + len, room) : read(fd, waste, sizeof waste);
    if (n > 0 && room > 0)
        fake->len = len + (size_t)n;
    return n > 0;
}

/* Send all, or as much as the client takes. */
UNUSED_OK static bool fake_send(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

#endif
