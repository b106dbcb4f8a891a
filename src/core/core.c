#include "cs/core/core.h"

#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "priv.h"
#include "sync.h"

/* A private copy of @from, so that the caller's may go or change. */
static enum cs_status config_copy(const struct cs_config *from, struct cs_config **out_copy,
                                  struct cs_err *err)
{
    struct cs_config *copy = calloc(1, sizeof *copy);
    enum cs_status rc = CS_OK;

    if (copy == NULL)
        return cs_err_nomem(err);
#define X(kind, field, flag, def, min, max, secret, reload, help) COPY_##kind(field)
#define COPY_STR(field)                                                                            \
    if (from->field != NULL && (copy->field = strdup(from->field)) == NULL)                        \
        rc = CS_NO_MEM;
#define COPY_INT(field)  copy->field = from->field;
#define COPY_BOOL(field) copy->field = from->field;
    CS_CONFIG_TABLE(X)
#undef X
#undef COPY_STR
#undef COPY_INT
#undef COPY_BOOL
    if (rc != CS_OK) {
        cs_config_fini(copy);
        free(copy);
        return cs_err_nomem(err);
    }
    *out_copy = copy;
    return CS_OK;
}

static void config_free(struct cs_config *config)
{
    if (config == NULL)
        return;
    cs_config_fini(config);
    free(config);
}

static enum cs_status core_init(struct cs_core *core, const struct cs_core_parts *parts,
                                struct cs_err *err)
{
    struct cs_config *config = NULL;
    enum cs_status rc;

    core->store = parts->store;
    core->engine = parts->engine;
    core->started_wall = cs_clock_ms();
    core->started_mono = cs_mono_ms();
    core->sweep_at = INT64_MAX;
    cs_clock_watch_init(&core->clock);
    rc = cs_cond_init(&core->idle, err);
    if (rc == CS_OK)
        rc = cs_cond_init(&core->sweep, err);
    if (rc == CS_OK)
        rc = config_copy(parts->config, &config, err);
    atomic_store(&core->config, config);
    if (rc == CS_OK)
        rc = cs_history_cache_new((size_t)parts->config->cache_bytes, &core->cache, err);
    if (rc == CS_OK)
        rc = cs_bus_start(core, err);
    if (rc == CS_OK)
        rc = cs_sync_start(core, parts, err);
    if (rc == CS_OK && !parts->no_thread)
        rc = cs_expiry_start(core, err);
    if (rc != CS_OK)
        cs_sync_stop(core);
    return rc;
}

enum cs_status cs_core_new(const struct cs_core_parts *parts, struct cs_core **out_core,
                           struct cs_err *err)
{
    struct cs_core *core = calloc(1, sizeof *core);
    enum cs_status rc;

    if (core == NULL)
        return cs_err_nomem(err);
    pthread_mutex_init(&core->mutex, NULL);
    rc = core_init(core, parts, err);
    if (rc != CS_OK) {
        cs_bus_stop(core);
        config_free(atomic_load(&core->config));
        cs_history_cache_free(core->cache);
        free(core);
        return rc;
    }
    *out_core = core;
    return CS_OK;
}

bool cs_core_drain(struct cs_core *core, int64_t deadline)
{
    bool drained;

    pthread_mutex_lock(&core->mutex);
    core->draining = true;
    pthread_mutex_unlock(&core->mutex);
    cs_registry_stop_all(core, CS_STOP_SHUTDOWN);

    pthread_mutex_lock(&core->mutex);
    /* what runs must be written, and what has run must be told of */
    while (core->turns > 0 && cs_cond_wait(&core->idle, &core->mutex, deadline))
        continue;
    drained = core->running == 0;
    pthread_mutex_unlock(&core->mutex);
    cs_bus_close(core); /* after the outcomes */
    return drained;
}

void cs_core_free(struct cs_core *core)
{
    size_t i;

    if (core == NULL)
        return;
    cs_expiry_stop(core);
    pthread_mutex_lock(&core->mutex);
    while (core->turns > 0) /* their threads are about to let go */
        (void)cs_cond_wait(&core->idle, &core->mutex, CS_NEVER);
    pthread_mutex_unlock(&core->mutex);
    cs_sync_stop(core);
    cs_bus_stop(core);
    cs_history_cache_free(core->cache);
    config_free(atomic_load(&core->config));
    for (i = 0; i < core->old_count; i++)
        config_free(core->old_configs[i]);
    pthread_cond_destroy(&core->idle);
    pthread_cond_destroy(&core->sweep);
    pthread_mutex_destroy(&core->mutex);
    free(core);
}

const struct cs_config *cs_core_config(struct cs_core *core)
{
    return atomic_load_explicit(&core->config, memory_order_acquire);
}

enum cs_status cs_core_reload(struct cs_core *core, const struct cs_config *fresh,
                              struct cs_buf *out_ignored, struct cs_err *err)
{
    struct cs_config *old = atomic_load(&core->config), *next = NULL;
    struct cs_buf unheard, *ignored = out_ignored != NULL ? out_ignored : &unheard;
    bool restart = false;
    enum cs_status rc;

    if (core->old_count == sizeof core->old_configs / sizeof core->old_configs[0])
        return cs_err_set(err, CS_BUSY, "too_many_reloads",
                          "the settings were reloaded too often; restart the daemon");
    cs_buf_init(&unheard, 4096);
    rc = config_copy(old, &next, err);
    if (rc == CS_OK)
        rc = cs_config_reload(next, fresh, ignored, err);
    if (rc == CS_OK)
        rc = cs_sync_reload(core, old, next, &restart, err);
    if (restart)
        cs_buf_addf(ignored, "%sredisUrl", ignored->len > 0 ? "," : "");
    cs_buf_fini(&unheard);
    if (rc != CS_OK) {
        config_free(next);
        return rc;
    }
    /* Readers hold the old settings for the length of a request; they are freed with the core. */
    core->old_configs[core->old_count++] = old;
    atomic_store_explicit(&core->config, next, memory_order_release);
    cs_expiry_note(core, cs_clock_ms());
    if (core->mirror != NULL) /* what Redis refused us for may be mended, too: do not wait */
        (void)!cs_mirror_sync(core->mirror, 0, NULL);
    return CS_OK;
}

struct cs_engine *cs_core_engine(struct cs_core *core)
{
    return core->engine;
}

struct cs_store *cs_core_store(struct cs_core *core)
{
    return core->store;
}
