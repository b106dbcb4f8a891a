/* api/mcp: the Model Context Protocol over HTTP: /mcp.
 *
 * A message is answered with JSON, or with a stream of events once there is more to say than the
 * answer. A stream ends with its connection. A client that takes no stream is looked for at its
 * connection: who ends it, even one side of it, has gone.
 */
#include "cs/mcp/mcp.h"

#include <string.h>

#include "priv.h"

/* A request's way back. */
struct way {
    struct cs_request *rq;
    struct cs_sse sse;
    int fd; /* of a connection that is looked at; -1: not found yet */
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

static bool send_message(void *arg, const char *event, const char *json, size_t len)
{
    struct way *way = arg;

    return cs_sse_send(&way->sse, event, NULL, len > 0 ? json : "", len);
}

static bool beat(void *arg)
{
    struct way *way = arg;

    return cs_sse_beat(&way->sse);
}

/* The same where nothing can be sent ahead of the answer. What cannot be told is no end. */
static bool look(void *arg)
{
    struct way *way = arg;
    struct sockaddr_storage client;
    enum cs_status rc = CS_OK;

    if (way->fd < 0 && cs_client_address(way->rq->info, &client))
        rc = cs_socket_find(&client, &way->rq->http->listen, &way->fd, NULL);
    return rc != CS_NOT_FOUND && (way->fd < 0 || !cs_socket_ended(way->fd));
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

static enum cs_status enter_stream(void *arg, struct cs_err *err)
{
    const struct way *way = arg;

    return cs_stream_enter(way->rq->http, err);
}

static void leave_stream(void *arg)
{
    const struct way *way = arg;

    cs_stream_leave(way->rq->http);
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
    cs_reply_begin(reply, &w);
    cs_buf_add(&reply->out, answer->json.data, answer->json.len);
    return cs_buf_check(&reply->out, err);
}

/* Answer as JSON, or as the last event of a stream that has begun or is wanted. */
static enum cs_status reply_answer(struct way *way, struct cs_reply *reply, bool stream,
                                   struct cs_mcp_answer *answer, struct cs_err *err)
{
    bool begun = reply->sent;
    enum cs_status rc = CS_OK;

    if (answer->session[0] != '\0' && !begun)
        cs_reply_header(reply, "Mcp-Session-Id", answer->session);
    if (!begun && !stream) {
        rc = reply_json(reply, answer, err);
    } else if (answer->json.len > 0 &&
               !cs_sse_send(&way->sse, NULL, NULL, answer->json.data, answer->json.len) && !begun) {
        reply->sent = false; /* want of memory; if it is the client who has gone, nobody minds */
        rc = cs_err_nomem(err);
    }
    cs_sse_fini(&way->sse);
    cs_mcp_answer_fini(answer);
    return rc;
}

enum cs_status cs_api_mcp_post(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct way way = {.rq = rq, .fd = -1};
    struct cs_mcp_stream stream = {.beat = look, .enter = enter, .leave = leave, .arg = &way};
    struct cs_mcp_head head = head_of(rq);
    struct cs_mcp_answer answer;

    if (rq->body_len == 0)
        return cs_refuse(rq, 400, "body_required", "A message is required", err);
    if (!takes_json(rq) && !takes_stream(rq))
        return cs_refuse(rq, 406, "not_acceptable",
                         "Answers are application/json or text/event-stream", err);
    if (takes_stream(rq)) {
        stream.send = send_message;
        stream.beat = beat;
    }
    cs_sse_init(&way.sse, rq, reply);
    cs_mcp_post(rq->http->mcp, &head, rq->raw.data + rq->body_at, rq->raw.len - rq->body_at,
                &stream, &answer);
    return reply_answer(&way, reply, !takes_json(rq) && answer.json.len > 0 && answer.status == 200,
                        &answer, err);
}

enum cs_status cs_api_mcp_get(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct way way = {.rq = rq};
    struct cs_mcp_stream stream = {send_message, beat, enter_stream, leave_stream, &way};
    struct cs_mcp_head head = head_of(rq);
    struct cs_mcp_answer answer;

    if (rq->head || !takes_stream(rq) || (head.session == NULL && head.last_event == NULL)) {
        memcpy(rq->allow, "POST", sizeof "POST");
        return cs_refuse(rq, 405, "method_not_allowed", "Messages are sent with POST", err);
    }
    cs_sse_init(&way.sse, rq, reply);
    cs_mcp_listen(rq->http->mcp, &head, &stream, &answer);
    return reply_answer(&way, reply, answer.status == 200, &answer, err);
}

enum cs_status cs_api_mcp_delete(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_mcp_head head = head_of(rq);
    struct cs_mcp_answer answer = {.status = cs_mcp_end(rq->http->mcp, &head)};

    return reply_json(reply, &answer, err);
}
