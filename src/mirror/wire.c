/* Sockets: TCP and unix, without ever blocking past a deadline. */
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "priv.h"

#define READING    "reading from Redis"
#define WRITING    "writing to Redis"
#define CONNECTING "connecting to Redis"

struct socket_wire {
    struct cs_wire wire;
    int fd;
    int wake_fd;
};

enum cs_status cs_wait_fd(int fd, short events, int wake_fd, int64_t deadline, struct cs_err *err)
{
    for (;;) {
        struct pollfd fds[2] = {{.fd = fd, .events = events}, {.fd = wake_fd, .events = POLLIN}};
        int64_t left = deadline == CS_NEVER ? -1 : deadline - cs_mono_ms();
        if (deadline != CS_NEVER && left < 0)
            left = 0;
        int n = poll(fds, 2, left > INT_MAX ? INT_MAX : (int)left);
        if (n < 0 && errno != EINTR)
            return cs_error_set(err, CS_ERROR_LOST, "waiting for Redis", "poll failed");
        if (n > 0 && fds[1].revents)
            return cs_error_set(err, CS_ERROR_STOPPED, "waiting for Redis", "interrupted");
        if (n > 0)
            return CS_OK;
        if (n == 0 && left <= INT_MAX)
            return cs_error_set(err, CS_ERROR_TIMEOUT, "waiting for Redis", "no answer in time");
    }
}

/* The error of a socket call, of errno @errnum. */
static enum cs_status socket_error(int errnum, const char *doing, struct cs_err *err)
{
    if (errnum == ENOMEM || errnum == ENOBUFS)
        return cs_err_nomem(err);
    enum cs_error error = strcmp(doing, CONNECTING) == 0 ? CS_ERROR_UNREACHABLE : CS_ERROR_LOST;
    return cs_error_set(err, error, doing, strerrordesc_np(errnum));
}

static enum cs_status socket_read(struct cs_wire *wire, void *to, size_t cap, int64_t deadline,
                                  size_t *out_len, struct cs_err *err)
{
    const struct socket_wire *s = (const struct socket_wire *)wire;
    for (;;) {
        ssize_t n = recv(s->fd, to, cap, 0);
        if (n > 0) {
            *out_len = (size_t)n;
            return CS_OK;
        }
        if (n == 0)
            return cs_error_set(err, CS_ERROR_LOST, READING, "the server closed the connection");
        if (errno != EAGAIN && errno != EINTR)
            return socket_error(errno, READING, err);
        enum cs_status rc = cs_wait_fd(s->fd, POLLIN, s->wake_fd, deadline, err);
        if (rc != CS_OK)
            return rc;
    }
}

static enum cs_status socket_write(struct cs_wire *wire, const void *data, size_t len,
                                   int64_t deadline, size_t *out_len, struct cs_err *err)
{
    const struct socket_wire *s = (const struct socket_wire *)wire;
    for (;;) {
        ssize_t n = send(s->fd, data, len, MSG_NOSIGNAL);
        if (n >= 0) {
            *out_len = (size_t)n;
            return CS_OK;
        }
        if (errno != EAGAIN && errno != EINTR)
            return socket_error(errno, WRITING, err);
        enum cs_status rc = cs_wait_fd(s->fd, POLLOUT, s->wake_fd, deadline, err);
        if (rc != CS_OK)
            return rc;
    }
}

static void socket_close(struct cs_wire *wire)
{
    struct socket_wire *s = (struct socket_wire *)wire;
    (void)close(s->fd);
    free(s);
}

static const struct cs_wire_ops socket_ops = {socket_read, socket_write, socket_close};

/* ---- Connecting ------------------------------------------------------------------------------ */

/* Small requests leave at once, and a peer that vanished is noticed within a minute even when
 * nothing is being waited for. A socket without these works too. */
static void tune(int fd)
{
    const struct {
        int level, name, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},   {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 30}, {IPPROTO_TCP, TCP_KEEPINTVL, 10},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                         sizeof options[i].value);
}

static enum cs_status finish_connect(int fd, const struct cs_dial *dial, int64_t deadline,
                                     struct cs_err *err)
{
    int errnum = 0;
    socklen_t len = sizeof errnum;
    enum cs_status rc = cs_wait_fd(fd, POLLOUT, dial->wake_fd, deadline, err);
    if (rc != CS_OK)
        return rc;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &errnum, &len) != 0)
        errnum = errno;
    return errnum == 0 ? CS_OK : socket_error(errnum, CONNECTING, err);
}

static enum cs_status connect_to(const struct sockaddr *address, socklen_t len,
                                 const struct cs_dial *dial, int64_t deadline, int *out_fd,
                                 struct cs_err *err)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return socket_error(errno, CONNECTING, err);
    if (address->sa_family != AF_UNIX)
        tune(fd);
    enum cs_status rc = CS_OK;
    if (connect(fd, address, len) != 0)
        rc = errno == EINPROGRESS ? finish_connect(fd, dial, deadline, err)
                                  : socket_error(errno, CONNECTING, err);
    if (rc != CS_OK)
        (void)close(fd);
    else
        *out_fd = fd;
    return rc;
}

static enum cs_status connect_unix(const struct cs_dial *dial, int *out_fd, struct cs_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(dial->endpoint->path);
    if (len >= sizeof address.sun_path)
        return socket_error(ENAMETOOLONG, CONNECTING, err);
    memcpy(address.sun_path, dial->endpoint->path, len + 1);
    return connect_to((const struct sockaddr *)&address, sizeof address, dial, dial->deadline,
                      out_fd, err);
}

/* Each address gets its share of the time that is left, so that a dead one leaves some to the
 * others. */
static int64_t share(int64_t deadline, const struct addrinfo *from)
{
    int64_t now = cs_mono_ms(), count = 0;
    if (deadline == CS_NEVER || deadline <= now)
        return deadline;
    for (; from; from = from->ai_next)
        count++;
    return now + (deadline - now) / count;
}

static enum cs_status connect_tcp(const struct cs_dial *dial, int *out_fd, struct cs_err *err)
{
    struct addrinfo *list = NULL;
    struct cs_err last = {0};
    enum cs_status rc = cs_resolve(dial, &list, err);
    if (rc != CS_OK)
        return rc;
    for (const struct addrinfo *a = list; a; a = a->ai_next) {
        cs_err_clear(&last);
        rc = connect_to(a->ai_addr, a->ai_addrlen, dial, share(dial->deadline, a), out_fd, &last);
        if (rc == CS_OK || rc == CS_CANCELLED)
            break;
    }
    freeaddrinfo(list);
    return rc == CS_OK ? CS_OK : cs_err_set(err, rc, last.code, "%s", last.msg);
}

enum cs_status cs_wire_dial(const struct cs_dial *dial, struct cs_wire **out_wire,
                            struct cs_err *err)
{
    int fd = -1;
    enum cs_redis_scheme scheme = dial->endpoint->scheme;
    enum cs_status rc =
        scheme == CS_REDIS_UNIX ? connect_unix(dial, &fd, err) : connect_tcp(dial, &fd, err);
    if (rc != CS_OK)
        return rc;
    struct socket_wire *s = malloc(sizeof *s);
    if (!s) {
        (void)close(fd);
        return cs_err_nomem(err);
    }
    *s = (struct socket_wire){{&socket_ops}, fd, dial->wake_fd};
    if (scheme == CS_REDIS_TLS)
        return cs_tls_wrap_take(&s->wire, dial, out_wire, err);
    *out_wire = &s->wire;
    return CS_OK;
}
