/* api/reply: answers: a header and a body in one write. */
#include <stdio.h>
#include <string.h>

#include "cs/base/clock.h"
#include "priv.h"

#define BODY_MAX ((size_t)512 << 20) /* bytes */
#define WRITE_SLICE                                                                                \
    262144            /* a longer answer is sent in pieces, each of which may find the time over */
#define WRITE_RATE 64 /* bytes per ms: a reader slower than this over all is let go */

int cs_http_status(enum cs_status status)
{
    switch (status) {
    case CS_OK:
        return 200;
    case CS_INVALID:
        return 400;
    case CS_DENIED:
        return 403;
    case CS_NOT_FOUND:
        return 404;
    case CS_CONFLICT:
    case CS_CANCELLED:
        return 409;
    case CS_TOO_LARGE:
        return 413;
    case CS_MISMATCH:
        return 422;
    case CS_UPSTREAM:
        return 502;
    case CS_BUSY:
    case CS_UNAVAILABLE:
    case CS_NO_MEM:
        return 503;
    case CS_TIMEOUT:
        return 504;
    case CS_FULL:
        return 507;
    case CS_CORRUPT:
    case CS_IO:
    case CS_INTERNAL:
        return 500;
    }
    return 500;
}

void cs_reply_init(struct cs_reply *reply)
{
    memset(reply, 0, sizeof *reply);
    reply->status = 200;
    cs_buf_init(&reply->out, BODY_MAX);
}

void cs_reply_fini(struct cs_reply *reply)
{
    if (reply->history != NULL) {
        cs_history_return(reply->history);
        cs_history_release(reply->history);
    }
    cs_buf_fini(&reply->out);
}

void cs_reply_begin(struct cs_reply *reply, struct cs_jsonw *w)
{
    reply->body = NULL;
    cs_buf_reset(&reply->out);
    if (cs_buf_reserve(&reply->out, CS_HEAD_ROOM) != NULL)
        reply->out.len = CS_HEAD_ROOM;
    cs_jsonw_init(w, &reply->out);
}

void cs_reply_header(struct cs_reply *reply, const char *name, const char *value)
{
    size_t room = sizeof reply->extra - reply->extra_len;
    int n = snprintf(reply->extra + reply->extra_len, room, "%s: %s\r\n", name, value);

    if (n > 0 && (size_t)n < room)
        reply->extra_len += (size_t)n;
    else
        reply->extra[reply->extra_len] = '\0';
}

static void error_headers(struct cs_request *rq, struct cs_reply *reply)
{
    char seconds[24];
    int wait = rq->retry_after;

    if (reply->status == 401)
        cs_reply_header(reply, "WWW-Authenticate", "Bearer");
    if (reply->status == 405)
        cs_reply_header(reply, "Allow", rq->allow);
    if (reply->status == 429 || reply->status == 503) {
        snprintf(seconds, sizeof seconds, "%d", wait > 0 ? wait : 1);
        cs_reply_header(reply, "Retry-After", seconds);
    }
}

static void add_id(struct cs_jsonw *w, const char *key, const char *id)
{
    if (id[0] != '\0')
        cs_jsonw_string(w, key, id);
}

void cs_reply_error(struct cs_request *rq, struct cs_reply *reply, const struct cs_err *err)
{
    const char *code = err->code != NULL ? err->code : cs_status_name(err->status);
    struct cs_jsonw w;

    reply->status = rq->status != 0 ? rq->status : cs_http_status(err->status);
    reply->cacheable = false;
    error_headers(rq, reply);
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", false);
    cs_jsonw_string(&w, "error", err->msg);
    cs_jsonw_string(&w, "code", rq->code[0] != '\0' ? rq->code : code);
    cs_jsonw_string(&w, "requestId", rq->id);
    add_id(&w, "sessionId", rq->sid);
    add_id(&w, "conversationId", rq->cid);
    add_id(&w, "turnId", rq->tid);
    cs_stale_render(&w, rq->stale);
    cs_jsonw_end_object(&w);
}

bool cs_write_all(struct cs_request *rq, const char *data, size_t len)
{
    int64_t deadline = 0; /* set where there is a second piece */

    while (len > 0) {
        size_t slice = len < WRITE_SLICE ? len : WRITE_SLICE;
        int sent;

        if (len > slice && deadline == 0)
            deadline = cs_mono_ms() + CS_REQUEST_MS + (int64_t)(len / WRITE_RATE);
        sent = mg_write(rq->conn, data, slice);
        if (sent < 0 || (size_t)sent != slice || (len > slice && cs_mono_ms() > deadline)) {
            mg_disable_connection_keep_alive(rq->conn);
            return false;
        }
        data += slice;
        len -= slice;
    }
    return true;
}

/* The last resort: no memory to say more. */
static int send_nothing(struct cs_request *rq)
{
    static const char text[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n"
                               "Retry-After: 1\r\nConnection: close\r\n\r\n";

    mg_disable_connection_keep_alive(rq->conn);
    (void)cs_write_all(rq, text, sizeof text - 1);
    return 503;
}

static char *put(char *at, const char *text)
{
    return mempcpy(at, text, strlen(text));
}

static char *put_number(char *at, size_t number)
{
    char digits[20];
    size_t n = 0;

    do
        digits[n++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    while (n > 0)
        *at++ = digits[--n];
    return at;
}

/* The header at @head; returns its end. Every piece is bounded, and CS_HEAD_ROOM holds their sum.
 */
static char *render_head(const struct cs_request *rq, const struct cs_reply *reply, size_t body,
                         char *head)
{
    char *at = put(head, "HTTP/1.1 ");

    at = put_number(at, (size_t)reply->status);
    at = put(at, " ");
    at = put(at, mg_get_response_code_text(rq->conn, reply->status));
    at = put(at, "\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ");
    at = put_number(at, body);
    at = put(at, "\r\nX-Content-Type-Options: nosniff\r\nCache-Control: ");
    at = put(at, reply->cacheable ? "max-age=300" : "no-store");
    at = put(at, "\r\nX-Request-Id: ");
    at = put(at, rq->id);
    at = put(at, "\r\n");
    at = put(at, reply->extra);
    return put(at, rq->close ? "Connection: close\r\n\r\n" : "Connection: keep-alive\r\n\r\n");
}

/* Send the header and @body, which has CS_HEAD_ROOM bytes of ours before it. */
static void send_body(struct cs_request *rq, const struct cs_reply *reply, char *body, size_t len)
{
    char *room = body - CS_HEAD_ROOM, *start;
    size_t head;

    if (!rq->body_read)
        rq->close = true;
    if (rq->close)
        mg_disable_connection_keep_alive(rq->conn);
    head = (size_t)(render_head(rq, reply, len, room) - room);
    start = body - head; /* up against the body: one write sends both */
    memmove(start, room, head);
    (void)cs_write_all(rq, start, head + (rq->head ? 0 : len));
}

int cs_reply_send(struct cs_request *rq, struct cs_reply *reply)
{
    struct cs_buf *out = &reply->out;

    if (reply->body != NULL)
        send_body(rq, reply, reply->body, reply->body_len);
    else if (out->status == CS_OK && out->len >= CS_HEAD_ROOM)
        send_body(rq, reply, out->data + CS_HEAD_ROOM, out->len - CS_HEAD_ROOM);
    else
        return send_nothing(rq);
    return reply->status;
}
