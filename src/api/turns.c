/* api/turns: POST /api/codex/session, POST /api/codex/continue, GET /api/codex/turn/:id, POST
 * /api/codex/turn/:id/approval. */
#include <stdio.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/hash.h"
#include "cs/core/events.h"
#include "fields.h"
#include "priv.h"

#define WAIT_MAX_MS 60000 /* of GET /turn */
#define SLACK_MS                                                                                   \
    30000 /* beyond its own time-out, until a running turn is given up by its waiter               \
           */
#define CONTEXT_MAX (64u << 20)

/* ---- rendering ---- */

static void render_ids(struct cs_jsonw *w, const struct cs_turn_view *view)
{
    cs_jsonw_string(w, "sessionId", view->sid);
    cs_jsonw_string(w, "conversationId", view->cid);
}

static void render_approvals(struct cs_jsonw *w, const struct cs_turn_view *view)
{
    if (view->approvals != NULL)
        cs_jsonw_raw(w, "approvals", view->approvals, strlen(view->approvals));
}

static void render_completed(struct cs_reply *reply, const struct cs_turn_view *view)
{
    struct cs_jsonw w;

    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    render_ids(&w, view);
    cs_turn_render(&w, view);
    cs_jsonw_end_object(&w);
}

/* 202: the turn goes on; here is where to look, and what Codex asks before it does. */
static void render_accepted(struct cs_reply *reply, const struct cs_turn_view *view)
{
    char location[64];
    struct cs_jsonw w;

    snprintf(location, sizeof location, "/api/codex/turn/%s", view->row.tid);
    reply->status = 202;
    cs_reply_header(reply, "Location", location);
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    cs_jsonw_string(&w, "turnId", view->row.tid);
    render_ids(&w, view);
    cs_jsonw_string(&w, "status", cs_turn_status_name(view->row.status));
    render_approvals(&w, view);
    cs_stale_render(&w, view->row.stale);
    cs_jsonw_end_object(&w);
}

/* The answer of a turn that was waited for. */
static enum cs_status render_outcome(struct cs_request *rq, struct cs_reply *reply,
                                     const struct cs_turn_view *view, struct cs_err *err)
{
    switch (view->row.status) {
    case CS_TURN_RUNNING:
        render_accepted(reply, view);
        break;
    case CS_TURN_COMPLETED:
        render_completed(reply, view);
        break;
    case CS_TURN_FAILED:
    case CS_TURN_INTERRUPTED:
    case CS_TURN_CANCELLED:
        snprintf(rq->code, sizeof rq->code, "%s", view->row.error_code);
        rq->stale = view->row.stale;
        return cs_err_set(err, cs_turn_outcome(&view->row), NULL, "%s", view->row.error);
    }
    return cs_buf_check(&reply->out, err);
}

/* ---- beginning a turn ---- */

static enum cs_status read_request(struct cs_request *rq, bool continued,
                                   struct cs_turn_request *out, struct cs_buf *joined,
                                   struct cs_err *err)
{
    enum cs_status rc = cs_fields_read(rq->body, continued, out, joined, err);

    out->idempotency_key = rq->header[CS_HEADER_IDEMPOTENCY_KEY];
    if (rc == CS_OK && out->idempotency_key != NULL && rq->raw.data != NULL)
        rc = cs_sha256(rq->raw.data, rq->raw.len, out->body_hash, err);
    return rc;
}

static void keep_ids(struct cs_request *rq, const struct cs_turn_view *view)
{
    memcpy(rq->tid, view->row.tid, sizeof rq->tid);
    memcpy(rq->sid, view->sid, sizeof rq->sid);
    memcpy(rq->cid, view->cid, sizeof rq->cid);
}

/* Drive the turn just begun, or leave it to a thread of its own. Consumes @turn. */
static enum cs_status go(struct cs_request *rq, struct cs_turn *turn, bool apart,
                         struct cs_err *err)
{
    memcpy(rq->sid, cs_turn_sid(turn), strlen(cs_turn_sid(turn)) + 1);
    memcpy(rq->cid, cs_turn_cid(turn), strlen(cs_turn_cid(turn)) + 1);
    return apart ? cs_turn_detach(turn, err) : cs_turn_run(turn, err);
}

static enum cs_status begin(struct cs_request *rq, struct cs_reply *reply,
                            const struct cs_turn_request *request, bool async, struct cs_err *err)
{
    struct cs_turn *turn = NULL;
    struct cs_turn_view view;
    int64_t deadline = 0;
    char tid[CS_UUID_MAX];
    enum cs_status rc = cs_turn_begin(rq->http->core, request, &turn, tid, err);

    if (rc == CS_NOT_FOUND)
        cs_stale_note(rq);
    if (rc != CS_OK)
        return rc;
    cs_req_drop_body(rq); /* the turn has its own copy of what it needs */
    memcpy(rq->tid, tid, sizeof rq->tid);
    if (turn != NULL) {
        /* who drives it cannot tell what it asks */
        rc = go(rq, turn, async || cs_turn_may_ask(turn), err);
        if (rc != CS_OK)
            return rc;
    } else { /* the key is known: wait for that turn */
        cs_reply_header(reply, "Idempotency-Replayed", "true");
    }
    if (!async) /* it may have ended on this thread */
        deadline = cs_mono_ms() + rq->config->turn_timeout_max_ms + SLACK_MS;
    rc = cs_turn_await(rq->http->core, tid, deadline, &view, err);
    if (rc != CS_OK)
        return rc;
    keep_ids(rq, &view);
    if (async) {
        cs_reply_header(reply, "Preference-Applied", "respond-async");
        render_accepted(reply, &view);
        rc = cs_buf_check(&reply->out, err);
    } else {
        rc = render_outcome(rq, reply, &view, err);
    }
    cs_turn_view_fini(&view);
    return rc;
}

/* Begin the turn, or find the one that the key stands for, and listen to it before it goes. */
static enum cs_status begin_stream(struct cs_request *rq, struct cs_reply *reply,
                                   const struct cs_turn_request *request, struct cs_feed **out_feed,
                                   struct cs_err *err)
{
    struct cs_feed_filter filter = {.turn = rq->tid};
    struct cs_turn *turn = NULL;
    struct cs_feed *feed = NULL;
    enum cs_status rc = cs_turn_begin(rq->http->core, request, &turn, rq->tid, err);

    if (rc == CS_NOT_FOUND)
        cs_stale_note(rq);
    if (rc != CS_OK)
        return rc;
    rc = cs_feed_open(rq->http->core, &filter, &feed, err);
    if (turn == NULL)
        cs_reply_header(reply, "Idempotency-Replayed", "true");
    else if (rc == CS_OK)
        rc = go(rq, turn, true, err);
    else
        (void)!go(rq, turn, true, NULL); /* it was begun: it runs, also unheard */
    if (rc != CS_OK) {
        cs_feed_close(feed);
        return rc;
    }
    *out_feed = feed;
    return CS_OK;
}

/* What the caller wants: the answer, a word at once, or all that happens. */
enum how { WAIT, ASYNC, STREAM };

static enum cs_status read_how(const struct cs_request *rq, enum how *out_how, struct cs_err *err)
{
    const struct cs_json *stream = cs_json_get(rq->body, "stream");
    enum cs_json_type type = cs_json_type(stream);

    if (type != CS_JSON_NULL && type != CS_JSON_BOOL)
        return cs_err_set(err, CS_INVALID, "invalid_stream", "stream must be true or false");
    if (cs_json_bool(stream, cs_list_has(rq->header[CS_HEADER_ACCEPT], "text/event-stream")))
        *out_how = STREAM;
    else
        *out_how = cs_list_has(rq->header[CS_HEADER_PREFER], "respond-async") ? ASYNC : WAIT;
    return CS_OK;
}

static enum cs_status answer(struct cs_request *rq, struct cs_reply *reply,
                             const struct cs_turn_request *request, bool async, struct cs_err *err)
{
    enum cs_status rc = async ? CS_OK : cs_wait_enter(rq->http, err);

    if (rc != CS_OK)
        return rc;
    rc = begin(rq, reply, request, async, err);
    if (!async)
        cs_wait_leave(rq->http);
    return rc;
}

static enum cs_status take_turn(struct cs_request *rq, struct cs_reply *reply, bool continued,
                                struct cs_err *err)
{
    struct cs_turn_request request;
    struct cs_feed *feed = NULL;
    struct cs_buf joined;
    enum how how = WAIT;
    enum cs_status rc;

    cs_buf_init(&joined, CONTEXT_MAX);
    rc = read_request(rq, continued, &request, &joined, err);
    if (rc == CS_OK)
        rc = read_how(rq, &how, err);
    if (rc == CS_OK && how == STREAM)
        rc = cs_stream_enter(rq->http, err);
    if (rc == CS_OK && how == STREAM) {
        rc = begin_stream(rq, reply, &request, &feed, err);
        if (rc != CS_OK)
            cs_stream_leave(rq->http);
    } else if (rc == CS_OK) {
        rc = answer(rq, reply, &request, how == ASYNC, err);
    }
    cs_buf_fini(&joined);
    if (feed == NULL)
        return rc;
    cs_req_drop_body(rq);
    cs_sse_follow(rq, reply, feed, rq->tid, NULL);
    cs_feed_close(feed);
    return CS_OK;
}

enum cs_status cs_api_create(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    return take_turn(rq, reply, false, err);
}

enum cs_status cs_api_continue(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    return take_turn(rq, reply, true, err);
}

/* ---- looking at a turn ---- */

static void render_view(struct cs_reply *reply, const struct cs_turn_view *view)
{
    const struct cs_turn_row *row = &view->row;
    struct cs_jsonw w;

    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    cs_jsonw_string(&w, "turnId", row->tid);
    cs_jsonw_string(&w, "status", cs_turn_status_name(row->status));
    render_ids(&w, view);
    cs_jsonw_time(&w, "startedAt", row->started_at);
    if (row->status != CS_TURN_RUNNING)
        cs_jsonw_time(&w, "endedAt", row->ended_at);
    if (row->status == CS_TURN_COMPLETED) {
        cs_turn_render(&w, view);
    } else {
        cs_stale_render(&w, row->stale);
    }
    if (row->error[0] != '\0') {
        cs_jsonw_string(&w, "error", row->error);
        cs_jsonw_string(&w, "code", row->error_code);
    }
    render_approvals(&w, view);
    cs_jsonw_end_object(&w);
}

enum cs_status cs_api_turn(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    static const int64_t waits[2] = {0, WAIT_MAX_MS};
    struct cs_turn_view view;
    int64_t wait_ms = 0;
    enum cs_status rc = cs_query_int(rq, "waitMs", "invalid_wait", waits, &wait_ms, err);

    if (rc == CS_OK && wait_ms > 0)
        rc = cs_wait_enter(rq->http, err);
    if (rc != CS_OK)
        return rc;
    rc = cs_turn_await(rq->http->core, rq->param, wait_ms > 0 ? cs_mono_ms() + wait_ms : 0, &view,
                       err);
    if (wait_ms > 0)
        cs_wait_leave(rq->http);
    if (rc != CS_OK)
        return rc;
    render_view(reply, &view);
    cs_turn_view_fini(&view);
    return cs_buf_check(&reply->out, err);
}

enum cs_status cs_api_approval(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    const char *id = cs_json_get_string(rq->body, "approvalId");
    bool approve = false;
    struct cs_jsonw w;
    enum cs_status rc = cs_decision_read(rq->body, &approve, err);

    if (rc == CS_OK && id == NULL)
        rc = cs_err_set(err, CS_INVALID, "invalid_approval_id", "approvalId must be a string");
    if (rc == CS_OK)
        rc = cs_turn_approve(rq->http->core, rq->param, id, approve, "rest", err);
    if (rc != CS_OK)
        return rc;
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    cs_jsonw_string(&w, "turnId", rq->param);
    cs_jsonw_string(&w, "approvalId", id);
    cs_jsonw_string(&w, "decision", approve ? "approve" : "decline");
    cs_jsonw_end_object(&w);
    return cs_buf_check(&reply->out, err);
}
