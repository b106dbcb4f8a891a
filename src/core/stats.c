/* core/stats: figures for operators. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "priv.h"

/* Resident bytes of this process; 0 when unknown. */
static int64_t resident_bytes(void)
{
    FILE *statm = fopen("/proc/self/statm", "re");
    char line[128] = "", *rest = line;

    if (statm == NULL)
        return 0;
    if (fgets(line, sizeof line, statm) == NULL)
        line[0] = '\0';
    fclose(statm);
    strtoll(line, &rest, 10); /* the first field is the size */
    return strtoll(rest, NULL, 10) * sysconf(_SC_PAGESIZE);
}

enum cs_status cs_core_figures(struct cs_core *core, struct cs_figures *out_figures,
                               struct cs_err *err)
{
    struct cs_figures figures = {0};
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_session_figures(db, &figures.sessions, err);
    if (rc == CS_OK)
        rc = cs_turn_figures(db, &figures.turns, err);
    cs_store_done(core->store, db);
    if (rc != CS_OK)
        return rc;

    pthread_mutex_lock(&core->mutex);
    figures.turns_now = core->running;
    pthread_mutex_unlock(&core->mutex);
    figures.started_at = core->started_wall;
    figures.uptime_ms = cs_mono_ms() - core->started_mono;
    figures.rss_bytes = resident_bytes();
    cs_engine_figures(core->engine, &figures.children, &figures.restarts);
    figures.model_fallback = atomic_load(&core->model_fallback);
    *out_figures = figures;
    return CS_OK;
}
