/* core/sync: the mirror as the rest of core sees it. */
#include "sync.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/mirror/url.h"
#include "cs/store/replica.h"

#define FETCH_MS  500
#define STOP_MS   2000
#define HOSTS_MAX 64
#define ASIDE_MAX 100
#define TOMB_MS   (INT64_C(7) * 86400000) /* that a deletion is known after Redis was told */
#define TOMBS_MAX 100000                  /* deletions that wait to be told */
#define HOST_ROWS 8192                    /* newest messages that are looked at for hosts */

/* Where Redis is. */
struct target {
    struct cs_redis_endpoint endpoint;
    struct cs_redis_options redis;
    char url[300];
    struct target *older; /* it may still be in use */
};

/* Everything about replication that outlives a call. */
struct cs_sync_part {
    char host[64];

    pthread_mutex_t mutex; /* guards what follows */
    struct target *target;
    struct cs_sync_host hosts[HOSTS_MAX];
    size_t host_count;
};

/* ---- other hosts ---- */

void cs_sync_note_host(struct cs_core *core, const char *name, int64_t at)
{
    struct cs_sync_part *part = core->sync;
    size_t i, oldest = 0;

    if (name == NULL || name[0] == '\0' || strlen(name) >= sizeof part->hosts[0].name)
        return;
    pthread_mutex_lock(&part->mutex);
    for (i = 0; i < part->host_count && strcmp(part->hosts[i].name, name) != 0; i++)
        if (part->hosts[i].last_seen < part->hosts[oldest].last_seen)
            oldest = i;
    if (i == part->host_count && part->host_count < HOSTS_MAX)
        part->hosts[part->host_count++] = (struct cs_sync_host){.last_seen = 0};
    else if (i == part->host_count)
        part->hosts[i = oldest].last_seen = 0;
    (void)snprintf(part->hosts[i].name, sizeof part->hosts[i].name, "%s", name);
    if (part->hosts[i].last_seen < at)
        part->hosts[i].last_seen = at;
    pthread_mutex_unlock(&part->mutex);
}

/* Looks for the newest message of each origin, which is one start of one host. */
struct looking {
    struct cs_core *core;
    int64_t seen[4 * HOSTS_MAX]; /* origins */
    size_t count;
};

static enum cs_status look_at(void *arg, const struct cs_replica_other *message, struct cs_err *err)
{
    struct looking *looking = arg;
    struct cs_json *root = NULL;
    size_t i;

    (void)err;
    for (i = 0; i < looking->count; i++)
        if (looking->seen[i] == message->origin)
            return CS_OK;
    if (looking->count == sizeof looking->seen / sizeof looking->seen[0])
        return CS_CANCELLED;
    looking->seen[looking->count++] = message->origin;
    if (cs_json_parse(message->frag, message->len, message->len, &root, NULL) == CS_OK)
        cs_sync_note_host(looking->core, cs_json_get_string(root, "host"), message->at);
    cs_json_free(root);
    return CS_OK;
}

/* What earlier runs saw of other hosts is in their messages. */
static enum cs_status remember_hosts(struct cs_core *core, struct cs_err *err)
{
    struct looking looking = {.core = core};
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_replica_others(db, HOST_ROWS, look_at, &looking, err);
    cs_store_done(core->store, db);
    return rc;
}

/* ---- life ---- */

static enum cs_status target_new(const struct cs_config *config, struct target **out_target,
                                 struct cs_err *err)
{
    struct target *target = calloc(1, sizeof *target);
    struct cs_buf shown;
    enum cs_status rc;

    if (target == NULL)
        return cs_err_nomem(err);
    rc = cs_redis_endpoint_parse(config->redis_url, config->redis_token, &target->endpoint, err);
    if (rc != CS_OK) {
        free(target);
        return rc;
    }
    target->redis.endpoint = &target->endpoint;
    target->redis.ca_file = config->redis_ca;
    cs_buf_init(&shown, sizeof target->url - 1);
    cs_redis_endpoint_show(&target->endpoint, &shown);
    if (shown.data != NULL)
        (void)snprintf(target->url, sizeof target->url, "%s", shown.data);
    cs_buf_fini(&shown);
    *out_target = target;
    return CS_OK;
}

/* The first Redis; tests bring their own. */
static enum cs_status reach(struct cs_core *core, const struct cs_core_parts *parts,
                            struct cs_err *err)
{
    struct cs_sync_part *part = core->sync;

    if (parts->redis == NULL)
        return target_new(cs_core_config(core), &part->target, err);
    part->target = calloc(1, sizeof *part->target);
    if (part->target == NULL)
        return cs_err_nomem(err);
    part->target->redis = *parts->redis;
    return CS_OK;
}

static bool is_same(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* Into @next what @old says of Redis. */
static enum cs_status keep_redis(const struct cs_config *old, struct cs_config *next,
                                 struct cs_err *err)
{
    const char *const from[] = {old->redis_url, old->redis_token, old->redis_ca};
    char **const to[] = {&next->redis_url, &next->redis_token, &next->redis_ca};
    size_t i;

    for (i = 0; i < sizeof from / sizeof *from; i++) {
        char *copy = from[i] != NULL ? strdup(from[i]) : NULL;

        if (from[i] != NULL && copy == NULL)
            return cs_err_nomem(err);
        free(*to[i]);
        *to[i] = copy;
    }
    return CS_OK;
}

enum cs_status cs_sync_reload(struct cs_core *core, const struct cs_config *old,
                              struct cs_config *next, bool *out_restart, struct cs_err *err)
{
    struct cs_sync_part *part = core->sync;
    struct target *target = NULL;
    enum cs_status rc;

    *out_restart = false;
    if (is_same(old->redis_url, next->redis_url) && is_same(old->redis_token, next->redis_token) &&
        is_same(old->redis_ca, next->redis_ca))
        return CS_OK;
    if (old->redis_url == NULL || next->redis_url == NULL || part == NULL) {
        *out_restart = true;
        return keep_redis(old, next, err);
    }
    rc = target_new(next, &target, err);
    if (target == NULL)
        return rc;
    cs_mirror_redirect(core->mirror, &target->redis); /* first: nobody sees the old one's state */
    pthread_mutex_lock(&part->mutex);
    target->older = part->target;
    part->target = target;
    pthread_mutex_unlock(&part->mutex);
    return CS_OK;
}

static enum cs_status make_mirror(struct cs_core *core, bool no_thread, struct cs_err *err)
{
    struct cs_mirror_options options = {
        .redis = &core->sync->target->redis,
        .port = cs_sync_port(core),
        .host = core->sync->host,
        .user = cs_core_config(core)->user,
        .no_thread = no_thread,
    };
    enum cs_status rc = cs_mirror_new(&options, &core->mirror, err);

    return rc == CS_OK && !no_thread ? cs_mirror_start(core->mirror, err) : rc;
}

enum cs_status cs_sync_start(struct cs_core *core, const struct cs_core_parts *parts,
                             struct cs_err *err)
{
    struct cs_sync_part *part;
    enum cs_status rc;

    if (parts->redis == NULL && parts->config->redis_url == NULL)
        return CS_OK;
    part = calloc(1, sizeof *part);
    if (part == NULL)
        return cs_err_nomem(err);
    pthread_mutex_init(&part->mutex, NULL);
    core->sync = part;
    cs_core_host_name(parts->config, part->host);
    rc = reach(core, parts, err);
    if (rc == CS_OK)
        rc = remember_hosts(core, err);
    if (rc == CS_OK)
        rc = make_mirror(core, parts->no_thread, err);
    if (rc != CS_OK)
        cs_sync_stop(core);
    return rc;
}

void cs_sync_stop(struct cs_core *core)
{
    struct target *target;

    if (core->sync == NULL)
        return;
    cs_mirror_stop(core->mirror, cs_mono_ms() + STOP_MS);
    cs_mirror_free(core->mirror);
    while ((target = core->sync->target) != NULL) {
        core->sync->target = target->older;
        cs_redis_endpoint_fini(&target->endpoint);
        free(target);
    }
    pthread_mutex_destroy(&core->sync->mutex);
    free(core->sync);
    core->sync = NULL;
    core->mirror = NULL;
}

void cs_sync_wake(struct cs_core *core)
{
    cs_mirror_wake(core->mirror);
}

enum cs_status cs_sync_delete(struct cs_db *db, const struct cs_session *session,
                              struct cs_err *err)
{
    struct cs_vector vv = {0};
    enum cs_status rc = cs_replica_purge(db, cs_clock_ms() - TOMB_MS, TOMBS_MAX, err);

    if (rc == CS_OK)
        rc = cs_replica_vector(db, session->id, &vv, err);
    if (rc == CS_OK)
        rc = cs_replica_bury(db, session->sid, session->cid, session->user, &vv, err);
    cs_vector_fini(&vv);
    return rc == CS_OK ? cs_session_delete(db, session->id, err) : rc;
}

/* ---- what requests ask ---- */

void cs_core_refresh(struct cs_core *core, const char *identifier, bool *out_stale)
{
    struct cs_session session;
    struct cs_db *db = NULL;
    bool live = false;

    *out_stale = false;
    if (core->mirror == NULL)
        return;
    if (cs_store_read(core->store, &db, NULL) != CS_OK)
        return;
    if (cs_session_find_live(core, db, identifier, &session, NULL) == CS_OK) {
        live = true;
        cs_session_fini(&session);
    }
    cs_store_done(core->store, db);
    if (live) { /* the doorbell keeps it fresh while online */
        *out_stale = !cs_mirror_online(core->mirror);
        return;
    }
    *out_stale = cs_mirror_fetch(core->mirror, identifier, cs_mono_ms() + FETCH_MS, NULL) != CS_OK;
}

const char *cs_sync_name(enum cs_sync sync)
{
    static const char *const names[] = {"local", "pending", "synced", "diverged", "evicted"};

    return names[sync];
}

enum cs_status cs_core_session_sync(struct cs_core *core, const struct cs_session *session,
                                    enum cs_sync *out_sync, struct cs_err *err)
{
    struct cs_replica_mark mark = {0};
    struct cs_db *db = NULL;
    enum cs_status rc;

    *out_sync = CS_SYNC_LOCAL;
    if (core->mirror == NULL)
        return CS_OK;
    rc = cs_store_read(core->store, &db, err);
    if (rc == CS_OK)
        rc = cs_replica_mark(db, session->sid, &mark, err);
    cs_store_done(core->store, db);
    if (rc != CS_OK)
        return rc;
    if (mark.unsent || mark.dirty)
        *out_sync = CS_SYNC_PENDING;
    else if (session->archive_reason == CS_ARCHIVE_EVICTED)
        *out_sync = CS_SYNC_EVICTED;
    else if (session->branched)
        *out_sync = CS_SYNC_DIVERGED;
    else if (mark.stamp != 0)
        *out_sync = CS_SYNC_SYNCED;
    cs_replica_mark_fini(&mark);
    return CS_OK;
}

enum cs_mirror_state cs_core_sync_state(struct cs_core *core)
{
    struct cs_mirror_figures figures;

    if (core->mirror == NULL)
        return CS_MIRROR_OFF;
    cs_mirror_figures(core->mirror, &figures);
    return figures.state;
}

enum cs_status cs_core_sync_now(struct cs_core *core, int64_t deadline, struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc;

    if (core->mirror == NULL)
        return cs_err_set(err, CS_CONFLICT, "redis_off", "No Redis is set");
    rc = cs_mirror_sync(core->mirror, deadline, &why);
    if (rc == CS_OK)
        return CS_OK;
    if (rc == CS_TIMEOUT && strcmp(why.code, "sync_timeout") == 0)
        return cs_err_set(err, rc, "sync_timeout", "The sync goes on; it took longer than asked");
    return cs_err_set(err, CS_UNAVAILABLE, "redis_unavailable", "%s", why.msg);
}

static void add_aside(void *arg, const char *sid, const char *why)
{
    struct cs_sync_status *status = arg;
    struct cs_sync_aside *aside = &status->aside[status->aside_count];

    (void)snprintf(aside->sid, sizeof aside->sid, "%s", sid);
    aside->why = strdup(why);
    if (aside->why != NULL)
        status->aside_count++;
}

void cs_sync_status_fini(struct cs_sync_status *status)
{
    size_t i;

    for (i = 0; i < status->aside_count; i++)
        free(status->aside[i].why);
    free(status->aside);
    free(status->hosts);
    *status = (struct cs_sync_status){0};
}

static enum cs_status read_status(struct cs_core *core, struct cs_sync_status *status,
                                  struct cs_err *err)
{
    struct cs_replica_figures figures = {0};
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_replica_figures(db, &figures, err);
    if (rc == CS_OK)
        rc = cs_replica_each_aside(db, ASIDE_MAX, add_aside, status, err);
    cs_store_done(core->store, db);
    status->pending_sessions = figures.pending_sessions;
    status->pending_messages = figures.pending_messages;
    status->oldest_pending = figures.oldest_pending;
    return rc;
}

enum cs_status cs_core_sync_status(struct cs_core *core, struct cs_sync_status *out_status,
                                   struct cs_err *err)
{
    struct cs_sync_status status = {0};
    struct cs_sync_part *part = core->sync;
    enum cs_status rc = CS_OK;

    cs_core_host_name(cs_core_config(core), status.host);
    if (part == NULL) {
        *out_status = status;
        return CS_OK;
    }
    status.aside = calloc(ASIDE_MAX, sizeof *status.aside);
    status.hosts = calloc(HOSTS_MAX, sizeof *status.hosts);
    if (status.aside == NULL || status.hosts == NULL) {
        free(status.aside);
        free(status.hosts);
        return cs_err_nomem(err);
    }
    rc = read_status(core, &status, err);
    if (rc != CS_OK) {
        cs_sync_status_fini(&status);
        return rc;
    }
    cs_mirror_figures(core->mirror, &status.mirror);
    pthread_mutex_lock(&part->mutex);
    (void)snprintf(status.url, sizeof status.url, "%s", part->target->url);
    memcpy(status.hosts, part->hosts, part->host_count * sizeof *part->hosts);
    status.host_count = part->host_count;
    pthread_mutex_unlock(&part->mutex);
    *out_status = status;
    return CS_OK;
}
