/* api/sse: an answer that goes on: server-sent events. */
#include <stdio.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "cs/core/events.h"
#include "priv.h"

#define FRAME_MAX ((size_t)64 * 1024) /* bytes of an event with its lines, and of the header */
#define COPY_MAX  ((size_t)16 * 1024) /* longer data is sent from where it is */
#define RETRY     "retry: 1000\n"     /* ms until a client comes back */

enum cs_status cs_stream_enter(struct cs_http *http, struct cs_err *err)
{
    if (cs_share_take(&http->streams, http->stream_max))
        return CS_OK;
    return cs_err_set(err, CS_BUSY, "too_many_streams", "Too many streams are open already");
}

void cs_stream_leave(struct cs_http *http)
{
    atomic_fetch_sub(&http->streams, 1);
}

bool cs_stream_leave_early(struct cs_http *http)
{
    if (atomic_load(&http->quiet))
        return false;
    cs_stream_leave(http);
    return true;
}

void cs_sse_init(struct cs_sse *sse, struct cs_request *rq, struct cs_reply *reply)
{
    *sse = (struct cs_sse){.rq = rq, .reply = reply};
    cs_buf_init(&sse->frame, FRAME_MAX);
}

void cs_sse_fini(struct cs_sse *sse)
{
    cs_buf_fini(&sse->frame);
}

/* The header, ahead of the first frame. The end of the connection is the end of the stream. */
static void add_head(struct cs_sse *sse)
{
    struct cs_request *rq = sse->rq;

    rq->close = true;
    mg_disable_connection_keep_alive(rq->conn);
    cs_buf_adds(&sse->frame, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                             "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
                             "X-Accel-Buffering: no\r\nConnection: close\r\nX-Request-Id: ");
    cs_buf_adds(&sse->frame, rq->id);
    cs_buf_adds(&sse->frame, "\r\n");
    cs_buf_adds(&sse->frame, sse->reply->extra);
    cs_buf_adds(&sse->frame, "\r\n");
}

/* civetweb gives up when nothing was taken for CS_REQUEST_MS; a sooner end is the client's. */
static void log_broken(const struct cs_sse *sse, int64_t began)
{
    bool slow = cs_mono_ms() - began >= CS_REQUEST_MS;

    cs_log(slow ? CS_LOG_INFO : CS_LOG_DEBUG, "stream_dropped", "id", sse->rq->id, "reason",
           slow ? "slow_reader" : "gone", NULL);
}

static bool put(struct cs_sse *sse, const char *data, size_t len)
{
    int64_t began = cs_mono_ms();

    if (!sse->broken && !cs_write_all(sse->rq, data, len)) {
        log_broken(sse, began);
        sse->broken = true;
    }
    sse->last = cs_mono_ms();
    return !sse->broken;
}

static bool flush(struct cs_sse *sse)
{
    bool sent = false;

    if (sse->frame.status == CS_OK) {
        sent = put(sse, sse->frame.data, sse->frame.len);
    } else {
        cs_log(CS_LOG_WARN, "stream_dropped", "id", sse->rq->id, "reason",
               cs_status_name(sse->frame.status), NULL);
        sse->broken = true;
    }
    cs_buf_reset(&sse->frame);
    return sent;
}

static void begin_frame(struct cs_sse *sse)
{
    if (sse->reply->sent)
        return;
    sse->reply->sent = true;
    add_head(sse);
    if (!sse->rq->head)
        cs_buf_adds(&sse->frame, RETRY);
}

static void add_line(struct cs_buf *frame, const char *field, const char *text, size_t len)
{
    cs_buf_adds(frame, field);
    cs_buf_add(frame, text, len);
    cs_buf_addc(frame, '\n');
}

bool cs_sse_send(struct cs_sse *sse, const char *id, const char *name, const char *data, size_t len)
{
    if (sse->broken)
        return false;
    begin_frame(sse);
    if (sse->rq->head)
        return flush(sse);
    if (id != NULL)
        add_line(&sse->frame, "id: ", id, strlen(id));
    if (name != NULL)
        add_line(&sse->frame, "event: ", name, strlen(name));
    if (len <= COPY_MAX) { /* one write for all */
        if (data != NULL)
            add_line(&sse->frame, "data: ", data, len);
        cs_buf_addc(&sse->frame, '\n');
        return flush(sse);
    }
    cs_buf_adds(&sse->frame, "data: ");
    return flush(sse) && put(sse, data, len) && put(sse, "\n\n", 2);
}

bool cs_sse_beat(struct cs_sse *sse)
{
    if (sse->broken)
        return false;
    begin_frame(sse);
    if (!sse->rq->head)
        cs_buf_adds(&sse->frame, ":\n\n");
    return flush(sse);
}

int64_t cs_sse_due(const struct cs_sse *sse)
{
    return sse->last + sse->rq->config->heartbeat_ms;
}

/* ---- feeds ---- */

static bool send_number(struct cs_sse *sse, int64_t id, const char *name, const char *data,
                        size_t len)
{
    char text[24];

    snprintf(text, sizeof text, "%lld", (long long)id);
    return cs_sse_send(sse, text, name, data, len);
}

static bool send_reason(struct cs_sse *sse, const char *name, const char *reason)
{
    char data[96];
    int len = snprintf(data, sizeof data, "{\"reason\":\"%s\"}", reason);

    return cs_sse_send(sse, NULL, name, data, (size_t)len);
}

/* Nothing happened for a while. A turn whose session was deleted meanwhile never ends. */
static bool beat(struct cs_sse *sse, const char *tid)
{
    struct cs_turn_view view;
    enum cs_status rc = CS_OK;

    if (tid != NULL)
        rc = cs_turn_view(sse->rq->http->core, tid, 0, &view, NULL);
    if (tid != NULL && rc == CS_OK)
        cs_turn_view_fini(&view);
    if (rc != CS_NOT_FOUND)
        return cs_sse_beat(sse);
    (void)send_reason(sse, "stream.closing", "session_deleted");
    return false;
}

/* The feed gives no more: say why. */
static void close_stream(struct cs_sse *sse, const struct cs_err *why)
{
    const char *reason = why->code != NULL ? why->code : cs_status_name(why->status);

    if (why->status == CS_UNAVAILABLE) {
        (void)send_reason(sse, "stream.closing", reason);
        return;
    }
    cs_log(CS_LOG_INFO, "stream_dropped", "id", sse->rq->id, "reason", reason, NULL);
    (void)send_reason(sse, "stream.dropped", reason);
}

/* One event, or a heartbeat. Returns whether the stream goes on. */
static bool step(struct cs_sse *sse, struct cs_feed *feed, const char *tid)
{
    struct cs_event event;
    struct cs_err err = {0};
    enum cs_status rc = cs_feed_next(feed, cs_sse_due(sse), &event, &err);
    bool last;

    if (rc == CS_TIMEOUT)
        return beat(sse, tid);
    if (rc != CS_OK) {
        close_stream(sse, &err);
        return false;
    }
    last = tid != NULL && cs_event_ends_turn(&event);
    if (last && cs_stream_leave_early(sse->rq->http))
        sse->entered = false;
    if (event.id != 0 ? !send_number(sse, event.id, event.name, event.data, event.len)
                      : !cs_sse_send(sse, NULL, event.name, event.data, event.len))
        return false;
    return !last;
}

void cs_sse_follow(struct cs_request *rq, struct cs_reply *reply, struct cs_feed *feed,
                   const char *tid, const char *reset)
{
    struct cs_sse sse;
    bool on;

    cs_sse_init(&sse, rq, reply);
    sse.entered = true;
    /* where a client goes on that breaks off before the first event */
    on = send_number(&sse, cs_feed_position(feed), NULL, NULL, 0);
    if (on && reset != NULL)
        on = send_reason(&sse, "stream.reset", reset);
    while (on && !rq->head)
        on = step(&sse, feed, tid);
    if (sse.entered)
        cs_stream_leave(rq->http);
    cs_sse_fini(&sse);
}

void cs_sse_refuse(struct cs_request *rq, struct cs_reply *reply)
{
    struct cs_sse sse;

    cs_sse_init(&sse, rq, reply);
    (void)send_reason(&sse, "stream.closing", "shutting_down");
    cs_sse_fini(&sse);
}
