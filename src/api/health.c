/* api/health: GET /health (the whole picture, for those who may use the daemon), GET /healthz
 * (alive, for anyone). */
#include <unistd.h>

#include "cs/base/clock.h"
#include "priv.h"

static void render_engine(struct cs_jsonw *w, const struct cs_engine_info *info,
                          const struct cs_figures *figures)
{
    cs_jsonw_object(w, "engine");
    cs_jsonw_bool(w, "usable", info->usable);
    cs_jsonw_string(w, "kind", cs_engine_kind_name(info->kind));
    cs_jsonw_string(w, "path", info->path);
    cs_jsonw_string(w, "version", info->version);
    cs_jsonw_string(w, "why", info->why);
    cs_jsonw_int(w, "children", figures->children);
    cs_jsonw_int(w, "restarts", figures->restarts);
    cs_jsonw_end_object(w);
}

static void render_store(struct cs_jsonw *w, const struct cs_store_size *size)
{
    cs_jsonw_object(w, "database");
    cs_jsonw_int(w, "bytes", size->file_bytes);
    cs_jsonw_int(w, "walBytes", size->wal_bytes);
    cs_jsonw_int(w, "diskFreeBytes", size->disk_free_bytes);
    cs_jsonw_end_object(w);
}

static void render_work(struct cs_jsonw *w, const struct cs_figures *figures)
{
    cs_jsonw_object(w, "sessions");
    cs_jsonw_int(w, "active", figures->sessions.live);
    cs_jsonw_int(w, "archived", figures->sessions.archived);
    cs_jsonw_end_object(w);
    cs_jsonw_object(w, "turns");
    cs_jsonw_int(w, "running", figures->turns_now);
    cs_jsonw_int(w, "completed", figures->turns.completed);
    cs_jsonw_int(w, "failed", figures->turns.failed);
    cs_jsonw_int(w, "interrupted", figures->turns.interrupted);
    cs_jsonw_int(w, "cancelled", figures->turns.cancelled);
    cs_jsonw_end_object(w);
}

enum cs_status cs_api_health(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_http *http = rq->http;
    struct cs_engine_info info;
    struct cs_figures figures;
    struct cs_store_size size;
    struct cs_sync_status sync;
    struct cs_jsonw w;
    enum cs_status rc = cs_core_figures(http->core, &figures, err);

    if (rc == CS_OK)
        rc = cs_store_size(cs_core_store(http->core), &size, err);
    if (rc == CS_OK)
        rc = cs_core_sync_status(http->core, &sync, err);
    if (rc != CS_OK)
        return rc;
    cs_engine_info(cs_core_engine(http->core), &info);
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    cs_jsonw_string(&w, "status", info.usable ? "ok" : "degraded");
    cs_jsonw_string(&w, "version", http->version);
    cs_jsonw_int(&w, "pid", getpid());
    cs_jsonw_int(&w, "uptime", figures.uptime_ms / 1000);
    cs_jsonw_time(&w, "timestamp", cs_clock_ms());
    render_engine(&w, &info, &figures);
    render_store(&w, &size);
    render_work(&w, &figures);
    cs_jsonw_string(&w, "redis", cs_mirror_state_name(sync.mirror.state));
    cs_sync_render(&w, &sync);
    cs_sync_status_fini(&sync);
    cs_jsonw_bool(&w, "demo", rq->config->demo);
    cs_jsonw_bool(&w, "modelFallback", figures.model_fallback);
    if (http->notice != NULL)
        cs_jsonw_string(&w, "notice", http->notice);
    cs_jsonw_end_object(&w);
    return cs_buf_check(&reply->out, err);
}

enum cs_status cs_api_healthz(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_jsonw w;

    (void)rq;
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "status", "ok");
    cs_jsonw_end_object(&w);
    return cs_buf_check(&reply->out, err);
}
