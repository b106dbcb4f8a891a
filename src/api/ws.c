/* api/ws: GET /api/codex/ws: the handshake, and the way of bytes in and out.
 *
 * The route's checks (Host, Origin, credentials) come first, as for every request. civetweb gives
 * its worker for as long as the connection lasts; the bytes after the handshake are ours.
 */
#include "ws.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "cs/base/clock.h"
#include "cs/base/log.h"

#define PONG_MS  10000 /* an answer to our ping takes no longer */
#define CLOSE_MS 1000  /* nor does one to our close */
#define RATE     64    /* bytes per ms: as for other answers */
#define CHUNK    4096

/* ---- out ---- */

static bool wait_for(int fd, short what, int64_t deadline)
{
    struct pollfd poller = {.fd = fd, .events = what};
    int64_t left = deadline - cs_mono_ms();
    int ready;

    do
        ready = poll(&poller, 1, left > 0 ? (int)left : 0);
    while (ready < 0 && errno == EINTR && (left = deadline - cs_mono_ms()) > 0);
    return ready > 0;
}

/* The part of @parts that is left when @sent bytes of it are gone. */
static size_t drop_sent(struct iovec **parts, size_t count, size_t sent)
{
    while (count > 0 && sent >= (*parts)->iov_len) {
        sent -= (*parts)->iov_len;
        (*parts)++;
        count--;
    }
    if (count > 0) {
        (*parts)->iov_base = (char *)(*parts)->iov_base + sent;
        (*parts)->iov_len -= sent;
    }
    return count;
}

/* False when the other side is gone, takes nothing for CS_REQUEST_MS, or is slower than RATE over
 * all. */
static bool write_all(int fd, struct iovec *parts, size_t count, size_t len)
{
    int64_t deadline = cs_mono_ms() + CS_REQUEST_MS + (int64_t)(len / RATE);

    while (count > 0) {
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        int64_t patience = cs_mono_ms() + CS_REQUEST_MS;

        if (sent >= 0)
            count = drop_sent(&parts, count, (size_t)sent);
        else if (errno == EAGAIN ? !wait_for(fd, POLLOUT, patience < deadline ? patience : deadline)
                                 : errno != EINTR)
            return false;
    }
    return true;
}

bool cs_ws_send(struct cs_ws *ws, enum cs_ws_op op, const void *data, size_t len)
{
    unsigned char head[CS_WS_HEAD_MAX];
    struct iovec parts[2] = {
        {.iov_base = head, .iov_len = cs_ws_head(head, op, len)},
        {.iov_base = (void *)(uintptr_t)data, .iov_len = len},
    };
    bool sent;

    pthread_mutex_lock(&ws->writing);
    sent = !ws->broken && write_all(ws->fd, parts, 2, len);
    if (!sent && !ws->broken) {
        ws->broken = true;
        (void)shutdown(ws->fd, SHUT_RDWR);
        cs_log(CS_LOG_INFO, "websocket_dropped", "id", ws->rq->id, "reason",
               "it takes nothing any more", NULL);
    }
    pthread_mutex_unlock(&ws->writing);
    return sent;
}

/* ---- in ---- */

static void end(struct cs_ws *ws, int code, const char *why)
{
    if (ws->code != 0)
        return;
    ws->code = code;
    ws->why = why;
}

/* What a message under way takes counts against what all requests may hold. */
static void count_message(struct cs_ws *ws)
{
    long long held = (long long)ws->reader.message.cap, more = held - ws->held;
    long long before = atomic_fetch_add(&ws->rq->http->body_bytes, more);

    ws->held = held;
    if (more > 0 && before > 0 && before + more > CS_BODIES_MAX)
        end(ws, 1013, "too many large messages at once"); /* "try again later" */
}

static void act_on(struct cs_ws *ws, enum cs_ws_got got)
{
    struct cs_ws_reader *reader = &ws->reader;

    switch (got) {
    case CS_WS_GOT_TEXT:
        cs_ws_act(ws, reader->message.len > 0 ? reader->message.data : "", reader->message.len);
        cs_buf_fini(&reader->message);
        break;
    case CS_WS_GOT_PING:
        (void)cs_ws_send(ws, CS_WS_PONG, reader->control, reader->control_len);
        break;
    case CS_WS_GOT_CLOSE:
        end(ws, reader->code == CS_WS_NO_CODE ? CS_WS_NORMAL : reader->code, NULL);
        break;
    case CS_WS_GOT_ERROR:
        end(ws, reader->code, reader->why);
        break;
    case CS_WS_GOT_PONG:
    case CS_WS_GOT_NOTHING:
        break;
    }
}

static void take(struct cs_ws *ws, unsigned char *data, size_t len)
{
    size_t at = 0, used;

    ws->heard_at = cs_mono_ms();
    ws->pinged = false;
    while (at < len && ws->code == 0) {
        enum cs_ws_got got = cs_ws_read(&ws->reader, data + at, len - at, &used);

        at += used;
        count_message(ws);
        if (ws->code == 0)
            act_on(ws, got);
        count_message(ws);
        if (got == CS_WS_GOT_TEXT)
            ws->began_at = 0;
    }
    if (!cs_ws_partial(&ws->reader))
        ws->began_at = 0;
    else if (ws->began_at == 0)
        ws->began_at = ws->heard_at;
}

/* Nothing came for a while: is anybody there? Returns when to look again. */
static int64_t look_after(struct cs_ws *ws)
{
    int64_t now = cs_mono_ms(), quiet = ws->rq->config->heartbeat_ms;

    if (ws->began_at != 0 && now >= ws->began_at + CS_BODY_MS)
        end(ws, CS_WS_POLICY, "the message did not arrive whole and in time");
    else if (ws->pinged && now >= ws->heard_at + quiet + PONG_MS)
        end(ws, CS_WS_GOING_AWAY, "no answer to a ping");
    else if (!ws->pinged && now >= ws->heard_at + quiet)
        ws->pinged = cs_ws_send(ws, CS_WS_PING, NULL, 0);
    if (ws->began_at != 0)
        return ws->began_at + CS_BODY_MS;
    return ws->heard_at + quiet + (ws->pinged ? PONG_MS : 0);
}

/* Read until the connection ends; ws->code says how, 0 when there is nobody to tell. */
static void serve(struct cs_ws *ws)
{
    unsigned char chunk[CHUNK];

    while (ws->code == 0) {
        int64_t deadline = look_after(ws);
        ssize_t got;

        if (ws->code != 0 || !wait_for(ws->fd, POLLIN, deadline))
            continue;
        got = recv(ws->fd, chunk, sizeof chunk, MSG_DONTWAIT);
        if (got > 0) {
            take(ws, chunk, (size_t)got);
        } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            if (atomic_load(&ws->rq->http->quiet))
                end(ws, CS_WS_GOING_AWAY, "the daemon is shutting down");
            return;
        }
    }
}

/* Say how it ends, and let the other side's last bytes come: closing over them would reset the
 * connection before the code is read. */
static void say_goodbye(struct cs_ws *ws)
{
    unsigned char payload[CS_WS_CONTROL_MAX];
    int64_t deadline = cs_mono_ms() + CLOSE_MS;
    size_t len = ws->why != NULL ? strlen(ws->why) : 0;

    payload[0] = (unsigned char)(ws->code >> 8);
    payload[1] = (unsigned char)(ws->code & 0xff);
    if (len > 0)
        memcpy(payload + 2, ws->why, len);
    if (!cs_ws_send(ws, CS_WS_CLOSE, payload, len + 2))
        return;
    (void)shutdown(ws->fd, SHUT_WR);
    while (wait_for(ws->fd, POLLIN, deadline) &&
           recv(ws->fd, payload, sizeof payload, MSG_DONTWAIT) > 0)
        continue;
}

/* ---- the handshake ---- */

static enum cs_status shake_hands(struct cs_request *rq, struct cs_reply *reply, char *accept,
                                  struct cs_err *err)
{
    const char *version = mg_get_header(rq->conn, "Sec-WebSocket-Version");
    const char *key = mg_get_header(rq->conn, "Sec-WebSocket-Key");

    if (!cs_list_has(rq->header[CS_HEADER_UPGRADE], "websocket") ||
        !cs_list_has(rq->header[CS_HEADER_CONNECTION], "upgrade")) {
        cs_reply_header(reply, "Upgrade", "websocket");
        return cs_refuse(rq, 426, "upgrade_required", "This path speaks WebSocket", err);
    }
    if (version == NULL || strcmp(version, "13") != 0) {
        cs_reply_header(reply, "Sec-WebSocket-Version", "13");
        return cs_refuse(rq, 426, "upgrade_required", "Only version 13 of WebSocket is spoken",
                         err);
    }
    return cs_ws_accept(key != NULL ? key : "", accept, err);
}

static bool answer(struct cs_ws *ws, const char *accept)
{
    char text[256];
    struct iovec part = {.iov_base = text};
    int len =
        snprintf(text, sizeof text,
                 "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                 "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nX-Request-Id: %s\r\n\r\n",
                 accept, ws->rq->id);

    part.iov_len = (size_t)len;
    return write_all(ws->fd, &part, 1, (size_t)len);
}

/* ---- life ---- */

static void join_list(struct cs_ws *ws)
{
    struct cs_http *http = ws->rq->http;

    pthread_mutex_lock(&http->sockets_mutex);
    ws->link = &http->sockets;
    ws->next = http->sockets;
    if (ws->next != NULL)
        ws->next->link = &ws->next;
    http->sockets = ws;
    pthread_mutex_unlock(&http->sockets_mutex);
}

static void leave_list(struct cs_ws *ws)
{
    pthread_mutex_lock(&ws->rq->http->sockets_mutex);
    *ws->link = ws->next;
    if (ws->next != NULL)
        ws->next->link = ws->link;
    pthread_mutex_unlock(&ws->rq->http->sockets_mutex);
}

void cs_ws_quiesce(struct cs_http *http)
{
    pthread_mutex_lock(&http->sockets_mutex);
    for (struct cs_ws *ws = http->sockets; ws != NULL; ws = ws->next)
        (void)shutdown(ws->fd, SHUT_RD);
    pthread_mutex_unlock(&http->sockets_mutex);
}

static enum cs_status ws_init(struct cs_ws *ws, struct cs_request *rq, struct cs_err *err)
{
    struct sockaddr_storage client;
    enum cs_status rc;

    ws->rq = rq;
    if (!cs_client_address(rq->info, &client))
        return cs_err_set(err, CS_INTERNAL, NULL, "the client's address is unknown");
    rc = cs_socket_find(&client, &rq->http->listen, &ws->fd, err);
    if (rc != CS_OK)
        return rc;
    ws->heard_at = cs_mono_ms();
    pthread_mutex_init(&ws->writing, NULL);
    pthread_mutex_init(&ws->feeds, NULL);
    cs_ws_reader_init(&ws->reader, (size_t)rq->config->max_body_bytes);
    return CS_OK;
}

static void ws_fini(struct cs_ws *ws)
{
    cs_ws_reader_fini(&ws->reader);
    atomic_fetch_sub(&ws->rq->http->body_bytes, ws->held);
    pthread_mutex_destroy(&ws->writing);
    pthread_mutex_destroy(&ws->feeds);
}

/* Leaves the streams. */
static void run(struct cs_ws *ws, const char *accept)
{
    bool left;

    join_list(ws);
    if (atomic_load(&ws->rq->http->quiet)) /* since it was admitted: cs_ws_quiesce() has passed */
        end(ws, CS_WS_GOING_AWAY, "the daemon is shutting down");
    if (answer(ws, accept))
        serve(ws);
    leave_list(ws);
    if (ws->code == 0)
        (void)shutdown(ws->fd, SHUT_RDWR); /* its threads must not wait for a reader that left */
    cs_ws_end_all(ws);
    left = cs_stream_leave_early(ws->rq->http);
    if (ws->code != 0)
        say_goodbye(ws);
    if (!left)
        cs_stream_leave(ws->rq->http);
}

static enum cs_status take_over(struct cs_request *rq, struct cs_reply *reply, const char *accept,
                                struct cs_err *err)
{
    struct cs_ws *ws = calloc(1, sizeof *ws);
    enum cs_status rc;

    if (ws == NULL)
        return cs_err_nomem(err);
    rc = ws_init(ws, rq, err);
    if (rc == CS_OK) {
        rq->close = true;
        reply->sent = true;
        reply->status = 101;
        mg_disable_connection_keep_alive(rq->conn);
        run(ws, accept);
        ws_fini(ws);
    }
    free(ws);
    return rc;
}

enum cs_status cs_api_ws(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    char accept[CS_WS_ACCEPT_MAX];
    enum cs_status rc = shake_hands(rq, reply, accept, err);

    if (rc == CS_OK)
        rc = cs_stream_enter(rq->http, err);
    if (rc != CS_OK)
        return rc;
    rc = take_over(rq, reply, accept, err);
    if (rc != CS_OK)
        cs_stream_leave(rq->http);
    return rc;
}
