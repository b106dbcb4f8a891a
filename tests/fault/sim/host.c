/* Hosts: a store, a core and a mirror without threads, in a folder of their own. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/mirror/mirror.h"
#include "db.h"          /* the store's: a start's origin */
#include "mirror_priv.h" /* the mirror's: when it compared all */
#include "priv.h"        /* core's: its mirror */
#include "sim.h"

/* Mirrors share less in one message, some less in one request, so that stubs and pieces occur. */
enum cs_status __real_cs_mirror_new(const struct cs_mirror_options *options,
                                    struct cs_mirror **out_mirror, struct cs_err *err);
enum cs_status __wrap_cs_mirror_new(const struct cs_mirror_options *options,
                                    struct cs_mirror **out_mirror, struct cs_err *err);
enum cs_status __wrap_cs_mirror_new(const struct cs_mirror_options *options,
                                    struct cs_mirror **out_mirror, struct cs_err *err)
{
    struct cs_mirror_options ours = *options;

    ours.message_max = SHARED_MAX;
    ours.request_max = sim_chance(30) ? 8192 : 0;
    return __real_cs_mirror_new(&ours, out_mirror, err);
}

static void host_open(struct host *host)
{
    char name[8];
    struct cs_store_options options = {
        .dir = host->dir, .readers = 2, .no_thread = true, .host = name};
    struct cs_store_opened *opened = calloc(1, sizeof *opened);
    struct cs_redis_options redis = sim.redis;
    struct cs_core_parts parts = {.config = &host->config, .no_thread = true, .redis = &redis};
    struct cs_err err = {0};
    struct host *was;

    host_enter(host, &was);
    (void)snprintf(name, sizeof name, "h%d", host->index);
    redis.dial = sim_dial;
    redis.dial_arg = host;
    if (cs_store_open(&options, &host->store, opened, &err) == CS_OK) {
        parts.store = host->store;
        if (cs_core_new(&parts, &host->core, &err) == CS_OK) {
            free(opened);
            host_leave(was);
            return;
        }
    }
    (void)fprintf(stderr, "sim: host: %s\n", err.msg);
    abort();
}

static void host_close(struct host *host)
{
    cs_core_free(host->core);
    cs_store_close(host->store);
    host->core = NULL;
    host->store = NULL;
    host->turn = (struct turn){0};
}

void host_new(struct host *host, int index)
{
    static const int64_t skews[] = {0, 0, -90000, 3600000};
    char name[8];

    memset(host, 0, sizeof *host);
    host->index = index;
    host->skew = skews[sim_below(4)];
    (void)snprintf(name, sizeof name, "h%d", index);
    (void)snprintf(host->dir, sizeof host->dir, "%s/host%d", sim.dir, index);
    (void)snprintf(host->backup.path, sizeof host->backup.path, "%s/backup%d.db", sim.dir, index);
    (void)snprintf(host->machine.path, sizeof host->machine.path, "%s/machine%d.db", sim.dir,
                   index);
    run_command("rm -rf %s && mkdir %s", host->dir, host->dir);
    host->config = (struct cs_config){
        .user = strdup(users[0]),
        .host_name = strdup(name),
        .model = strdup("m"),
        .sandbox = strdup("read-only"),
        .sandbox_ceiling = strdup("workspace-write"),
        .cwd = strdup("/tmp"),
        .engine = strdup("auto"),
        .session_limit = sim.limits[1],
        .own_session_limit = sim.limits[0],
        .archive_days = 30,
        .idempotency_hours = 24,
        .cache_bytes = 1 << 20,
    };
    host_open(host);
}

void host_free(struct host *host)
{
    host_close(host);
    cs_config_fini(&host->config);
    while (host->zombie_count > 0)
        request_free(&host->zombies[--host->zombie_count]);
    request_free(&host->last);
}

bool host_step(struct host *host, bool full)
{
    struct cs_err err = {0};
    struct host *was;
    enum cs_status rc;

    host_enter(host, &was);
    rc = cs_mirror_step(host->core->mirror, full, &err);
    host_leave(was);
    if (rc != CS_OK)
        talk("host %d: %s", host->index, err.msg);
    return rc == CS_OK;
}

void host_sweep(struct host *host)
{
    struct host *was;
    int64_t cleaned = 0;

    host_enter(host, &was);
    if (cs_core_cleanup(host->core, &cleaned, NULL) != CS_OK)
        abort();
    host_leave(was);
    if (cleaned > 0)
        talk("host %d archives %d", host->index, (int)cleaned);
}

/* A crash. */
void host_restart(struct host *host)
{
    host_close(host);
    host_open(host);
    count(COUNT_RESTARTS);
}

static enum cs_status read_origin(struct cs_db *db, void *arg, struct cs_err *err)
{
    (void)err;
    *(int64_t *)arg = db->origin;
    return CS_OK;
}

static enum cs_status set_origin(struct cs_db *db, void *arg, struct cs_err *err)
{
    (void)err;
    db->origin = *(int64_t *)arg;
    return CS_OK;
}

void host_take(struct host *host, struct image *image)
{
    (void)unlink(image->path);
    image->taken = cs_store_backup(host->dir, image->path, NULL) == CS_OK &&
                   cs_store_write(host->store, read_origin, &image->origin, NULL) == CS_OK;
    image->full_at = host->core->mirror->full_at;
}

void host_put_back(struct host *host, const struct image *image, bool running)
{
    int64_t origin = image->origin;

    if (!image->taken)
        return;
    host_close(host);
    run_command("cd %s && rm -f codex-sessiond.db* && cp %s codex-sessiond.db", host->dir,
                image->path);
    host_open(host);
    if (running) { /* it never knows that it was not always so */
        if (cs_store_write(host->store, set_origin, &origin, NULL) != CS_OK)
            abort();
        host->core->mirror->full_at = image->full_at;
        sim.machine_rolled = true;
    }
    truth_put_back(host);
    count(running ? COUNT_MACHINES_ROLLED : COUNT_BACKUPS_RESTORED);
}
