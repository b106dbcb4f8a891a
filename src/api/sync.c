/* api/sync: GET and POST /api/codex/sync: how this host stands against Redis, and bringing it up to
 * date now. */

#include "cs/base/clock.h"
#include "priv.h"

#define WAIT_DEFAULT_MS 10000
#define WAIT_MAX_MS     60000

static void render_hosts(struct cs_jsonw *w, const struct cs_sync_status *status)
{
    size_t i;

    cs_jsonw_array(w, "hosts");
    for (i = 0; i < status->host_count; i++) {
        cs_jsonw_object(w, NULL);
        cs_jsonw_string(w, "name", status->hosts[i].name);
        cs_jsonw_time(w, "lastSeen", status->hosts[i].last_seen);
        cs_jsonw_end_object(w);
    }
    cs_jsonw_end_array(w);
}

static void render_quarantined(struct cs_jsonw *w, const struct cs_sync_status *status)
{
    size_t i;

    cs_jsonw_array(w, "quarantined");
    for (i = 0; i < status->aside_count; i++) {
        cs_jsonw_object(w, NULL);
        cs_jsonw_string(w, "sessionId", status->aside[i].sid);
        cs_jsonw_string(w, "reason", status->aside[i].why);
        cs_jsonw_end_object(w);
    }
    cs_jsonw_end_array(w);
}

void cs_sync_render(struct cs_jsonw *w, const struct cs_sync_status *status)
{
    const struct cs_mirror_figures *mirror = &status->mirror;

    cs_jsonw_object(w, "sync");
    cs_jsonw_string(w, "state", cs_mirror_state_name(mirror->state));
    cs_jsonw_time(w, "since", mirror->since);
    cs_jsonw_string(w, "error", mirror->error[0] != '\0' ? mirror->error : NULL);
    cs_jsonw_string(w, "url", status->url[0] != '\0' ? status->url : NULL);
    cs_jsonw_string(w, "host", status->host);
    cs_jsonw_int(w, "pendingSessions", status->pending_sessions);
    cs_jsonw_int(w, "pendingMessages", status->pending_messages);
    cs_jsonw_time(w, "oldestPending", status->oldest_pending);
    cs_jsonw_time(w, "lastPush", mirror->last_push);
    cs_jsonw_time(w, "lastPull", mirror->last_pull);
    cs_jsonw_int(w, "commands", (int64_t)mirror->commands);
    cs_jsonw_int(w, "bytesSent", (int64_t)mirror->bytes_sent);
    cs_jsonw_int(w, "bytesReceived", (int64_t)mirror->bytes_received);
    cs_jsonw_int(w, "connects", (int64_t)mirror->connects);
    cs_jsonw_int(w, "clockSkewMs", mirror->skew_ms);
    render_hosts(w, status);
    render_quarantined(w, status);
    cs_jsonw_end_object(w);
}

void cs_stale_note(struct cs_request *rq)
{
    switch (cs_core_sync_state(rq->http->core)) {
    case CS_MIRROR_OFF: /* there are no others */
    case CS_MIRROR_ONLINE:
    case CS_MIRROR_FULL: /* reading goes on */
        break;
    case CS_MIRROR_CONNECTING:
    case CS_MIRROR_OFFLINE:
    case CS_MIRROR_AUTH:
    case CS_MIRROR_READONLY:
        rq->stale = true;
    }
}

/* Whether a wait was long enough is @done; NULL where nobody waited. */
static enum cs_status answer(struct cs_request *rq, struct cs_reply *reply, const bool *done,
                             struct cs_err *err)
{
    struct cs_sync_status status;
    struct cs_jsonw w;
    enum cs_status rc = cs_core_sync_status(rq->http->core, &status, err);

    if (rc != CS_OK)
        return rc;
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    if (done != NULL)
        cs_jsonw_bool(&w, "done", *done);
    cs_sync_render(&w, &status);
    cs_jsonw_time(&w, "timestamp", cs_clock_ms());
    cs_jsonw_end_object(&w);
    cs_sync_status_fini(&status);
    return cs_buf_check(&reply->out, err);
}

enum cs_status cs_api_sync(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    return answer(rq, reply, NULL, err);
}

static enum cs_status read_wait(const struct cs_json *body, int64_t *out_ms, struct cs_err *err)
{
    const struct cs_json *value = cs_json_get(body, "waitMs");
    int64_t ms;

    *out_ms = WAIT_DEFAULT_MS;
    if (cs_json_type(value) == CS_JSON_NULL)
        return CS_OK;
    ms = cs_json_int(value, -1);
    if (cs_json_type(value) != CS_JSON_INT || ms < 0 || ms > WAIT_MAX_MS)
        return cs_err_set(err, CS_INVALID, "invalid_wait", "waitMs must be 0 to %d", WAIT_MAX_MS);
    *out_ms = ms;
    return CS_OK;
}

/* CS_TIMEOUT: it goes on. */
static enum cs_status sync_now(struct cs_request *rq, int64_t wait_ms, bool *out_done,
                               struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc = wait_ms > 0 ? cs_wait_enter(rq->http, err) : CS_OK;

    if (rc != CS_OK)
        return rc;
    rc = cs_core_sync_now(rq->http->core, cs_mono_ms() + wait_ms, &why);
    if (wait_ms > 0)
        cs_wait_leave(rq->http);
    *out_done = rc == CS_OK;
    return rc == CS_OK || rc == CS_TIMEOUT ? CS_OK : cs_err_set(err, rc, why.code, "%s", why.msg);
}

enum cs_status cs_api_sync_now(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    int64_t wait_ms;
    bool done;
    enum cs_status rc = read_wait(rq->body, &wait_ms, err);

    if (rc == CS_OK)
        rc = sync_now(rq, wait_ms, &done, err);
    if (rc != CS_OK)
        return rc;
    reply->status = done ? 200 : 202;
    return answer(rq, reply, &done, err);
}
