/* mcp/turn: a turn of Codex as the call of a tool. */
#include "turn.h"

#include <string.h>

#include "cs/base/clock.h"

#define NEWS_MS 10000 /* without other news the client is told so often that it still runs */

/* ---- the result ---- */

void cs_turn_result(struct cs_mcp_call *call, const struct cs_turn_view *view)
{
    const struct cs_turn_row *row = &view->row;
    bool completed = row->status == CS_TURN_COMPLETED;
    struct cs_buf both;
    struct cs_jsonw w;

    cs_buf_init(&both, CS_MCP_MESSAGE_MAX);
    cs_jsonw_init(&w, &both);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "threadId", view->cid);
    if (completed)
        cs_jsonw_stringn(&w, "content", view->response, view->response_len);
    else
        cs_jsonw_string(&w, "content", row->error);
    cs_jsonw_end_object(&w);
    if (both.status == CS_OK) {
        cs_mcp_text(call, both.data, both.len);
        cs_jsonw_raw(&call->w, "structuredContent", both.data, both.len);
        if (!completed)
            cs_jsonw_bool(&call->w, "isError", true);
    } else {
        call->answer->json.status = both.status;
    }
    cs_buf_fini(&both);
}

/* ---- waiting ---- */

enum cs_status cs_turn_await(struct cs_mcp_call *call, const char *tid,
                             struct cs_turn_view *out_view, struct cs_err *err)
{
    int64_t began = cs_mono_ms(), told = began;

    for (;;) {
        int64_t now = cs_mono_ms();
        enum cs_status rc = cs_turn_view(call->mcp->core, tid, now + CS_MCP_BEAT_MS, out_view, err);

        if (rc != CS_OK || out_view->row.status != CS_TURN_RUNNING)
            return rc;
        cs_turn_view_fini(out_view);
        if (!cs_call_beat(call))
            return cs_err_set(err, CS_CANCELLED, NULL, "Nobody waits for the turn any more");
        if (now - told >= NEWS_MS) {
            told = now;
            cs_mcp_progress(call, call->progress + 1, 0, "Codex is working");
        }
    }
}

/* ---- the call ---- */

/* Without sessions a client that goes away has cancelled its request. */
static void gone(struct cs_mcp_call *call, const char *tid)
{
    if (cs_mcp_stateless(call))
        (void)cs_turn_cancel(call->mcp->core, tid);
}

static enum cs_status run(struct cs_mcp_call *call, const struct cs_turn_request *request,
                          struct cs_err *err)
{
    struct cs_core *core = call->mcp->core;
    struct cs_turn *turn = NULL;
    struct cs_turn_view view;
    char tid[CS_UUID_MAX];
    enum cs_status rc = cs_turn_begin(core, request, &turn, tid, err);

    if (rc == CS_OK)
        rc = cs_turn_detach(turn, err);
    if (rc != CS_OK)
        return rc;
    cs_call_bind(call, tid, NULL);
    rc = cs_turn_await(call, tid, &view, err);
    cs_call_bind(call, NULL, NULL);
    if (rc == CS_CANCELLED)
        gone(call, tid);
    if (rc != CS_OK)
        return rc;
    cs_turn_result(call, &view);
    cs_turn_view_fini(&view);
    return CS_OK;
}

enum cs_status cs_turn_call(struct cs_mcp_call *call, struct cs_turn_request *request,
                            struct cs_err *err)
{
    const struct cs_mcp_stream *stream = call->stream;
    enum cs_status rc;

    /* Clients of tools name no time-out: they cancel. */
    request->timeout_ms = cs_core_config(call->mcp->core)->turn_timeout_max_ms;
    request->ttl_seconds = -1;
    rc = stream->enter != NULL ? stream->enter(stream->arg, err) : CS_OK;
    if (rc != CS_OK)
        return rc;
    rc = run(call, request, err);
    if (stream->leave != NULL)
        stream->leave(stream->arg);
    return rc;
}
