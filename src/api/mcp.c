/* api/mcp: the Model Context Protocol over HTTP: /mcp.
 *
 * A message is answered with JSON, or with a stream of events once there is more to say than the
 * answer. A stream ends with its connection.
 */
#include "cs/mcp/mcp.h"

#include <string.h>

#include "priv.h"

#define RETRY_MS "1000" /* until a client whose stream broke comes back */
#define HEAD_MAX 4096   /* bytes of a stream's header and of an event beside its data */

/* A request's way back. */
struct way {
    struct cs_request *rq;
    struct cs_reply *reply;
    const char *session; /* issued by the answer; "" */
    bool open;           /* the stream has begun */
    bool gone;           /* the client did not take what was sent */
};

static struct cs_mcp_head head_of(const struct cs_request *rq)
{
    return (struct cs_mcp_head){
        .session = rq->header[CS_HEADER_MCP_SESSION_ID],
        .revision = rq->header[CS_HEADER_MCP_REVISION],
        .method = rq->header[CS_HEADER_MCP_METHOD],
        .name = rq->header[CS_HEADER_MCP_NAME],
        .last_event = rq->header[CS_HEADER_LAST_EVENT_ID],
    };
}

/* ---- the stream ---- */

static void put_head(struct way *way, struct cs_buf *out)
{
    if (way->open)
        return;
    way->open = true;
    way->reply->sent = true;
    way->reply->status = 200;
    way->rq->close = true;
    mg_disable_connection_keep_alive(way->rq->conn);
    cs_buf_adds(out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                     "Cache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
                     "X-Content-Type-Options: nosniff\r\nConnection: close\r\n");
    cs_buf_addf(out, "X-Request-Id: %s\r\n", way->rq->id);
    if (way->session[0] != '\0')
        cs_buf_addf(out, "Mcp-Session-Id: %s\r\n", way->session);
    cs_buf_adds(out, "\r\n");
}

/* Send what is in @out and forget it. */
static bool put(struct way *way, struct cs_buf *out)
{
    if (!way->gone)
        way->gone =
            out->status != CS_OK || mg_write(way->rq->conn, out->data, out->len) != (int)out->len;
    cs_buf_fini(out);
    return !way->gone;
}

/* Our JSON has no line ends: a message is one line of data. */
static bool send_event(void *arg, const char *event, const char *json, size_t len)
{
    struct way *way = arg;
    struct cs_buf out;

    cs_buf_init(&out, len + HEAD_MAX);
    put_head(way, &out);
    if (event != NULL)
        cs_buf_addf(&out, "id: %s\n", event);
    if (len == 0)
        cs_buf_adds(&out, "retry: " RETRY_MS "\n");
    cs_buf_adds(&out, "data: ");
    if (len > 0)
        cs_buf_add(&out, json, len);
    cs_buf_adds(&out, "\n\n");
    return put(way, &out);
}

static bool beat(void *arg)
{
    struct way *way = arg;
    struct cs_buf out;

    cs_buf_init(&out, HEAD_MAX);
    put_head(way, &out);
    cs_buf_adds(&out, ":\n\n");
    return put(way, &out);
}

static enum cs_status enter(void *arg, struct cs_err *err)
{
    const struct way *way = arg;

    return cs_wait_enter(way->rq->http, err);
}

static void leave(void *arg)
{
    const struct way *way = arg;

    cs_wait_leave(way->rq->http);
}

/* ---- what a client takes ---- */

static bool takes(const struct cs_request *rq, const char *type, const char *family)
{
    const char *accept = rq->header[CS_HEADER_ACCEPT];

    return cs_list_has(accept, type) || cs_list_has(accept, family) || cs_list_has(accept, "*/*");
}

static bool takes_json(const struct cs_request *rq)
{
    return rq->header[CS_HEADER_ACCEPT] == NULL || takes(rq, "application/json", "application/*");
}

/* A stream must be asked for by its name: who takes anything may not read it. */
static bool takes_stream(const struct cs_request *rq)
{
    return cs_list_has(rq->header[CS_HEADER_ACCEPT], "text/event-stream");
}

/* ---- answers ---- */

static enum cs_status reply_json(struct cs_reply *reply, const struct cs_mcp_answer *answer,
                                 struct cs_err *err)
{
    struct cs_jsonw w;

    reply->status = answer->status;
    if (answer->session[0] != '\0')
        cs_reply_header(reply, "Mcp-Session-Id", answer->session);
    cs_reply_begin(reply, &w);
    cs_buf_add(&reply->out, answer->json.data, answer->json.len);
    return cs_buf_check(&reply->out, err);
}

/* End the stream that has begun, or is all that the client takes. */
static void reply_stream(struct way *way, const struct cs_mcp_answer *answer)
{
    way->session = answer->session;
    if (answer->json.len > 0)
        (void)send_event(way, NULL, answer->json.data, answer->json.len);
}

enum cs_status cs_api_mcp_post(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct way way = {.rq = rq, .reply = reply, .session = ""};
    struct cs_mcp_stream stream = {.enter = enter, .leave = leave, .arg = &way};
    struct cs_mcp_head head = head_of(rq);
    struct cs_mcp_answer answer;
    enum cs_status rc = CS_OK;

    if (rq->body_len == 0)
        return cs_refuse(rq, 400, "body_required", "A message is required", err);
    if (!takes_json(rq) && !takes_stream(rq))
        return cs_refuse(rq, 406, "not_acceptable",
                         "Answers are application/json or text/event-stream", err);
    if (takes_stream(rq)) {
        stream.send = send_event;
        stream.beat = beat;
    }
    cs_mcp_post(rq->http->mcp, &head, rq->raw.data + rq->body_at, rq->raw.len - rq->body_at,
                &stream, &answer);
    if (way.open || (!takes_json(rq) && answer.json.len > 0 && answer.status == 200))
        reply_stream(&way, &answer);
    else
        rc = reply_json(reply, &answer, err);
    cs_mcp_answer_fini(&answer);
    return rc;
}

enum cs_status cs_api_mcp_get(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct way way = {.rq = rq, .reply = reply, .session = ""};
    struct cs_mcp_stream stream = {send_event, beat, enter, leave, &way};
    struct cs_mcp_head head = head_of(rq);
    struct cs_mcp_answer answer;
    enum cs_status rc = CS_OK;

    if (!takes_stream(rq) || (head.session == NULL && head.last_event == NULL)) {
        memcpy(rq->allow, "POST", sizeof "POST");
        return cs_refuse(rq, 405, "method_not_allowed", "Messages are sent with POST", err);
    }
    cs_mcp_listen(rq->http->mcp, &head, &stream, &answer);
    if (way.open || answer.status == 200)
        reply_stream(&way, &answer);
    else
        rc = reply_json(reply, &answer, err);
    cs_mcp_answer_fini(&answer);
    return rc;
}

enum cs_status cs_api_mcp_delete(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_mcp_head head = head_of(rq);
    struct cs_mcp_answer answer = {.status = cs_mcp_end(rq->http->mcp, &head)};

    return reply_json(reply, &answer, err);
}
