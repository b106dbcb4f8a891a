/* api/mcp: the Model Context Protocol over HTTP: /mcp. */
#include "cs/mcp/mcp.h"

#include "priv.h"

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

static enum cs_status enter(void *arg, struct cs_err *err)
{
    struct cs_request *rq = arg;

    return cs_wait_enter(rq->http, err);
}

static void leave(void *arg)
{
    struct cs_request *rq = arg;

    cs_wait_leave(rq->http);
}

enum cs_status cs_api_mcp_post(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_mcp_stream stream = {.enter = enter, .leave = leave, .arg = rq};
    struct cs_mcp_head head = head_of(rq);
    struct cs_mcp_answer answer;
    struct cs_jsonw w;

    if (rq->body_len == 0)
        return cs_refuse(rq, 400, "body_required", "A message is required", err);
    cs_mcp_post(rq->http->mcp, &head, rq->raw.data + rq->body_at, rq->raw.len - rq->body_at,
                &stream, &answer);
    reply->status = answer.status;
    if (answer.session[0] != '\0')
        cs_reply_header(reply, "Mcp-Session-Id", answer.session);
    cs_reply_begin(reply, &w);
    cs_buf_add(&reply->out, answer.json.data, answer.json.len);
    cs_mcp_answer_fini(&answer);
    return cs_buf_check(&reply->out, err);
}

enum cs_status cs_api_mcp_delete(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_mcp_head head = head_of(rq);
    struct cs_jsonw w;

    reply->status = cs_mcp_end(rq->http->mcp, &head);
    cs_reply_begin(reply, &w);
    return cs_buf_check(&reply->out, err);
}
