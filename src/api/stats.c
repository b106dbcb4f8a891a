/* api/stats: GET /api/codex/stats, POST /api/codex/cleanup. */
#include "cs/base/clock.h"
#include "priv.h"

static void render_turns(struct cs_jsonw *w, const struct cs_turn_figures *turns)
{
    cs_jsonw_object(w, "turns");
    cs_jsonw_int(w, "running", turns->running);
    cs_jsonw_int(w, "completed", turns->completed);
    cs_jsonw_int(w, "failed", turns->failed);
    cs_jsonw_int(w, "interrupted", turns->interrupted);
    cs_jsonw_int(w, "cancelled", turns->cancelled);
    cs_jsonw_end_object(w);
    cs_jsonw_object(w, "tokens");
    cs_jsonw_int(w, "input", turns->usage.input);
    cs_jsonw_int(w, "cachedInput", turns->usage.cached_input);
    cs_jsonw_int(w, "output", turns->usage.output);
    cs_jsonw_end_object(w);
}

enum cs_status cs_api_stats(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_figures figures;
    struct cs_sync_status sync;
    struct cs_jsonw w;
    enum cs_status rc = cs_core_figures(rq->http->core, &figures, err);

    if (rc == CS_OK)
        rc = cs_core_sync_status(rq->http->core, &sync, err);
    if (rc != CS_OK)
        return rc;
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    cs_jsonw_object(&w, "stats");
    cs_jsonw_int(&w, "totalActiveSessions", figures.sessions.live);
    cs_jsonw_int(&w, "totalConversations", figures.sessions.live + figures.sessions.archived);
    cs_jsonw_time(&w, "oldestSession", figures.sessions.oldest_live_at);
    cs_jsonw_int(&w, "archivedSessions", figures.sessions.archived);
    render_turns(&w, &figures.turns);
    cs_jsonw_string(&w, "redis", cs_mirror_state_name(sync.mirror.state));
    cs_sync_render(&w, &sync);
    cs_sync_status_fini(&sync);
    cs_jsonw_time(&w, "timestamp", cs_clock_ms());
    cs_jsonw_int(&w, "uptime", figures.uptime_ms / 1000);
    cs_jsonw_object(&w, "memoryUsage");
    cs_jsonw_int(&w, "rss", figures.rss_bytes);
    cs_jsonw_end_object(&w);
    cs_jsonw_end_object(&w);
    cs_jsonw_end_object(&w);
    return cs_buf_check(&reply->out, err);
}

enum cs_status cs_api_cleanup(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_jsonw w;
    int64_t cleaned;
    enum cs_status rc = cs_core_cleanup(rq->http->core, &cleaned, err);

    if (rc != CS_OK)
        return rc;
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    cs_jsonw_int(&w, "cleaned", cleaned);
    cs_jsonw_time(&w, "timestamp", cs_clock_ms());
    cs_jsonw_end_object(&w);
    return cs_buf_check(&reply->out, err);
}
