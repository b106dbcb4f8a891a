#include "ask.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cs/base/buf.h"
#include "cs/base/clock.h"

#define ANSWER_MAX 1048576

static enum cs_status silent(struct cs_err *err)
{
    return cs_err_set(err, CS_UNAVAILABLE, "no_answer", "the daemon does not answer");
}

/* A connection to the port on 127.0.0.1 or ::1; -1 without. A loopback connect does not wait. */
static int dial(int port, const char **out_host)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    v6.sin6_addr = in6addr_loopback;
    *out_host = "127.0.0.1";
    if (fd >= 0 && connect(fd, (struct sockaddr *)&v4, sizeof v4) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *out_host = "[::1]";
    if (fd >= 0 && connect(fd, (struct sockaddr *)&v6, sizeof v6) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool send_request(int fd, const char *host, const struct cs_ask *ask)
{
    const char *body = ask->body != NULL ? ask->body : "";
    char request[1024];
    int len = snprintf(request, sizeof request,
                       "%s %s HTTP/1.1\r\nHost: %s:%d\r\nConnection: close\r\n"
                       "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                       ask->method, ask->path, host, ask->port, strlen(body), body);

    return len > 0 && (size_t)len < sizeof request &&
           send(fd, request, (size_t)len, MSG_NOSIGNAL) == len;
}

/* Read until the other side closes. */
static bool read_answer(int fd, int64_t deadline, struct cs_buf *answer)
{
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    ssize_t n;

    for (;;) {
        int64_t left = deadline - cs_mono_ms();
        char *room = cs_buf_reserve(answer, 4096);

        if (room == NULL || left <= 0)
            return false;
        if (poll(&readable, 1, (int)left) <= 0 && errno != EINTR)
            return false;
        n = recv(fd, room, 4096, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            return n == 0;
        answer->len += (size_t)n;
    }
}

enum cs_status cs_ask(const struct cs_ask *ask, struct cs_json **out_answer, struct cs_err *err)
{
    int64_t deadline = cs_mono_ms() + ask->wait_ms;
    enum cs_status rc = CS_UNAVAILABLE;
    struct cs_buf answer;
    const char *host, *body;
    int fd = dial(ask->port, &host);

    if (fd < 0)
        return silent(err);
    cs_buf_init(&answer, ANSWER_MAX);
    if (send_request(fd, host, ask) && read_answer(fd, deadline, &answer)) {
        cs_buf_addc(&answer, '\0'); /* the tail of a reservation is not terminated */
        body = answer.status == CS_OK ? strstr(answer.data, "\r\n\r\n") : NULL;
        if (body != NULL)
            rc = cs_json_parse(body + 4, strlen(body + 4), ANSWER_MAX, out_answer, NULL);
    }
    close(fd);
    cs_buf_fini(&answer);
    return rc == CS_OK ? rc : silent(err);
}
