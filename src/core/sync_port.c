/* core/sync_port: the store as the mirror sees it. */
#include "sync.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "cs/store/replica.h"

/* ---- reading ---- */

/* A store's message as the mirror knows it. */
static struct cs_mirror_message pass(const struct cs_replica_message *message)
{
    return (struct cs_mirror_message){
        .origin = message->origin,
        .seq = message->seq,
        .hlc = message->hlc,
        .parent_origin = message->parent_origin,
        .parent_seq = message->parent_seq,
        .frag = message->frag,
        .len = message->len,
        .begins = message->kind == CS_MESSAGE_USER || message->kind == CS_MESSAGE_CONTEXT,
    };
}

static enum cs_status visit_news(void *arg, size_t item, const struct cs_replica_message *message,
                                 struct cs_err *err)
{
    struct cs_mirror_news_page *page = arg;
    const struct cs_mirror_message passed = pass(message);

    return page->each(page->arg, item, &passed, err);
}

static enum cs_status port_news(void *arg, int64_t after, struct cs_mirror_news_page *page,
                                struct cs_err *err)
{
    struct cs_core *core = arg;
    struct cs_replica_news_page rows = {.max = page->max, .each = visit_news, .arg = page};
    struct cs_db *db = NULL;
    size_t i;
    enum cs_status rc;

    rows.items = calloc(page->max, sizeof *rows.items);
    rc = rows.items != NULL ? cs_store_read(core->store, &db, err) : cs_err_nomem(err);
    if (rc == CS_OK)
        rc = cs_replica_news(db, after, &rows, err);
    cs_store_done(core->store, db);
    for (i = 0; i < rows.count && rc == CS_OK; i++) {
        memcpy(page->items[i].sid, rows.items[i].sid, CS_UUID_MAX);
        page->items[i].origin = rows.items[i].origin;
        page->items[i].from = rows.items[i].from;
        page->items[i].to = rows.items[i].to;
    }
    page->count = rows.count;
    page->upto = rows.upto;
    free(rows.items);
    return rc;
}

/* Gives a store's message to a visitor of the mirror's. */
struct visit {
    cs_mirror_each each;
    void *arg;
};

static enum cs_status visit_message(void *arg, const struct cs_replica_message *message,
                                    struct cs_err *err)
{
    struct visit *visit = arg;
    const struct cs_mirror_message passed = pass(message);

    return visit->each(visit->arg, &passed, err);
}

/* Copy what the mirror needs of a session; steals its strings. */
static void fill_local(struct cs_core *core, struct cs_session *session,
                       struct cs_mirror_local *local)
{
    struct cs_mirror_meta *meta = &local->meta;

    local->known = true;
    local->live = session->state == CS_SESSION_LIVE;
    local->limit = cs_limits_of(cs_core_config(core), session->own);
    local->version = session->restored_at;
    (void)snprintf(local->status, sizeof local->status, "%s",
                   session->last_failed ? "failed" : "active");
    cs_clock_iso(session->last_used_at, local->last_used_at);
    memcpy(meta->sid, session->sid, CS_UUID_MAX);
    memcpy(meta->cid, session->cid, CS_UUID_MAX);
    (void)snprintf(meta->origin, sizeof meta->origin, "%s", session->origin);
    meta->created_at = session->created_at;
    meta->ttl_s = session->ttl_ms > 0 ? (session->ttl_ms + 999) / 1000 : 0;
    meta->user = session->user;
    meta->model = session->model;
    meta->sandbox = session->sandbox;
    meta->cwd = session->cwd;
    meta->title = session->title;
    meta->prompt = session->initial_prompt;
    meta->engine = session->engine;
    session->user = session->model = session->sandbox = session->cwd = NULL;
    session->title = session->initial_prompt = session->engine = NULL;
}

static enum cs_status fill_marks(struct cs_db *db, const char *sid, struct cs_mirror_local *local,
                                 struct cs_err *err)
{
    struct cs_replica_mark mark;
    enum cs_status rc = cs_replica_mark(db, sid, &mark, err);

    if (rc != CS_OK)
        return rc;
    local->unsent = mark.unsent;
    local->marked = mark.dirty;
    local->busy = mark.running;
    local->stamp = mark.stamp;
    local->generation = mark.generation;
    local->tomb = mark.tomb;
    mark.tomb = (struct cs_vector){0};
    if (!local->known) {
        (void)snprintf(local->meta.sid, sizeof local->meta.sid, "%s", sid);
        (void)snprintf(local->meta.cid, sizeof local->meta.cid, "%s",
                       mark.cid[0] != '\0' ? mark.cid : sid);
        local->meta.user = mark.user != NULL ? mark.user : strdup("");
        mark.user = NULL;
        if (local->meta.user == NULL)
            rc = cs_err_nomem(err);
    }
    cs_replica_mark_fini(&mark);
    return rc;
}

static enum cs_status port_load(void *arg, const char *sid, struct cs_mirror_local *out_local,
                                cs_mirror_each each, void *each_arg, struct cs_err *err)
{
    struct cs_core *core = arg;
    struct cs_mirror_local local = {0};
    struct visit visit = {each, each_arg};
    struct cs_session session = {0};
    struct cs_err why = {0};
    struct cs_db *db = NULL;
    int64_t id;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc != CS_OK)
        return rc;
    rc = cs_session_find(db, sid, &session, &why);
    id = session.id;
    if (rc == CS_OK && strcmp(session.sid, sid) == 0)
        fill_local(core, &session, &local);
    cs_session_fini(&session);
    if (rc == CS_NOT_FOUND)
        rc = CS_OK;
    else if (rc != CS_OK)
        rc = cs_err_set(err, rc, why.code, "%s", why.msg);
    if (rc == CS_OK)
        rc = fill_marks(db, sid, &local, err);
    if (rc == CS_OK && local.known)
        rc = cs_replica_vector(db, id, &local.vv, err);
    if (rc == CS_OK && local.known && each != NULL)
        rc = cs_replica_messages(db, &(struct cs_replica_range){.session = id}, visit_message,
                                 &visit, err);
    cs_store_done(core->store, db);
    if (rc != CS_OK) {
        cs_mirror_local_fini(&local);
        return rc;
    }
    *out_local = local;
    return CS_OK;
}

static enum cs_status port_read(void *arg, const struct cs_mirror_range *range, cs_mirror_each each,
                                void *each_arg, struct cs_err *err)
{
    struct cs_replica_range rows = {.origin = range->origin, .from = range->from};
    struct cs_core *core = arg;
    struct visit visit = {each, each_arg};
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_replica_session(db, range->sid, &rows.session, err);
    if (rc == CS_OK && rows.session != 0) /* else deleted meanwhile */
        rc = cs_replica_messages(db, &rows, visit_message, &visit, err);
    cs_store_done(core->store, db);
    return rc;
}

static enum cs_status port_marked(void *arg, const char *after, bool aside, struct cs_id_page *page,
                                  struct cs_err *err)
{
    struct cs_core *core = arg;
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_replica_marked(db, after, aside, page, err);
    cs_store_done(core->store, db);
    return rc;
}

static enum cs_status port_sessions(void *arg, const char *user, const char *after,
                                    struct cs_id_page *page, struct cs_err *err)
{
    struct cs_core *core = arg;
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_replica_of_user(db, user, after, page, err);
    cs_store_done(core->store, db);
    return rc;
}

static enum cs_status port_archived(void *arg, const char *user, const char *after,
                                    struct cs_id_page *page, struct cs_err *err)
{
    struct cs_core *core = arg;
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_replica_archived(db, user, after, page, err);
    cs_store_done(core->store, db);
    return rc;
}

/* Gives each user with its cursor. */
struct visit_user {
    struct cs_db *db;
    enum cs_status (*each)(void *arg, const char *user, const char *cursor, struct cs_err *err);
    void *arg;
};

static enum cs_status visit_user(void *arg, const char *user, struct cs_err *err)
{
    struct visit_user *visit = arg;
    char *cursor = NULL;
    enum cs_status rc;

    if (user[0] == '\0')
        return CS_OK;
    rc = cs_replica_cursor(visit->db, user, &cursor, err);
    if (rc == CS_OK)
        rc = visit->each(visit->arg, user, cursor, err);
    free(cursor);
    return rc;
}

static enum cs_status port_users(void *arg,
                                 enum cs_status (*each)(void *each_arg, const char *user,
                                                        const char *cursor, struct cs_err *err),
                                 void *each_arg, struct cs_err *err)
{
    struct cs_core *core = arg;
    struct visit_user visit = {.each = each, .arg = each_arg};
    enum cs_status rc = cs_store_read(core->store, &visit.db, err);

    if (rc == CS_OK) /* the daemon's own user comes first: its sessions may all be elsewhere yet */
        rc = visit_user(&visit, cs_core_config(core)->user, err);
    if (rc == CS_OK)
        rc = cs_replica_users(visit.db, visit_user, &visit, err);
    cs_store_done(core->store, visit.db);
    return rc;
}

static int64_t port_limit(void *arg, const char *user)
{
    const struct cs_config *config = cs_core_config(arg);

    return cs_limits_of(config, strcmp(user, config->user) == 0);
}

static enum cs_status port_pushed(void *arg, int64_t *out_rowid, struct cs_err *err)
{
    struct cs_core *core = arg;
    struct cs_db *db = NULL;
    char *value = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_replica_cursor(db, CS_REPLICA_PUSHED, &value, err);
    cs_store_done(core->store, db);
    if (rc == CS_OK)
        *out_rowid = strtoll(value, NULL, 10);
    free(value);
    return rc;
}

/* ---- changing ---- */

struct applying {
    struct cs_core *core;
    const struct cs_mirror_change *changes;
    size_t count;
    bool touched; /* something that readers may have cached */
    int64_t next_expiry;
};

/* A session by id; CS_NOT_FOUND leaves @err empty. */
static enum cs_status find(struct cs_db *db, const char *sid, struct cs_session *session,
                           struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc = cs_session_find(db, sid, session, &why);

    if (rc == CS_OK && strcmp(session->sid, sid) != 0) { /* another one's conversation id */
        cs_session_fini(session);
        return CS_NOT_FOUND;
    }
    return rc == CS_OK || rc == CS_NOT_FOUND ? rc : cs_err_set(err, rc, why.code, "%s", why.msg);
}

/* The folder of another host may not be here. */
static const char *usable_cwd(struct cs_core *core, const char *cwd, char *fallback)
{
    const struct cs_config *config = cs_core_config(core);
    char *allowed = NULL;

    if (cwd[0] == '/' && access(cwd, X_OK) == 0 &&
        cs_request_cwd(config, cwd, &allowed, NULL) == CS_OK) {
        free(allowed);
        return cwd;
    }
    return fallback;
}

static enum cs_status create_session(struct cs_db *db, struct applying *a,
                                     const struct cs_mirror_meta *meta, int64_t at,
                                     struct cs_err *err)
{
    const struct cs_config *config = cs_core_config(a->core);
    char *fallback = NULL;
    struct cs_session session = {
        .user = meta->user[0] != '\0' ? meta->user : config->user,
        .model = meta->model[0] != '\0' ? meta->model : config->model,
        .sandbox = meta->sandbox,
        .title = meta->title,
        .initial_prompt = meta->prompt,
        .engine = meta->engine,
        .created_at = meta->created_at,
        .ttl_ms = meta->ttl_s * 1000,
    };
    char origin[CS_VECTOR_NAME_MAX], engine[] = "auto", cwd[4096];
    enum cs_engine_kind kind;
    enum cs_status rc = cs_request_cwd(config, NULL, &fallback, err);

    if (rc != CS_OK)
        return rc;
    memcpy(session.sid, meta->sid, CS_UUID_MAX);
    memcpy(session.cid, meta->cid, CS_UUID_MAX);
    (void)snprintf(cwd, sizeof cwd, "%s", usable_cwd(a->core, meta->cwd, fallback));
    free(fallback);
    session.cwd = cwd;
    (void)snprintf(origin, sizeof origin, "%s",
                   meta->origin[0] != '\0' ? meta->origin : cs_store_origin(a->core->store));
    session.origin = origin;
    session.own = strcmp(session.user, config->user) == 0;
    if (cs_engine_kind_parse(session.engine, &kind, NULL) != CS_OK)
        session.engine = engine;
    if (cs_request_sandbox(config, session.sandbox, NULL) != CS_OK)
        session.sandbox = config->sandbox; /* nobody gets more from elsewhere than here */
    if (session.created_at > at)
        session.created_at = at;
    rc = cs_session_insert(db, &session, err);
    if (session.ttl_ms > 0)
        a->next_expiry = at + session.ttl_ms;
    return rc == CS_OK ? cs_replica_reborn(db, meta->sid, err) : rc;
}

static enum cs_status apply_session(struct cs_db *db, struct applying *a,
                                    const struct cs_mirror_change *change, struct cs_err *err)
{
    struct cs_session session;
    enum cs_status rc = find(db, change->meta->sid, &session, err);

    if (rc == CS_OK)
        cs_session_fini(&session);
    return rc == CS_NOT_FOUND ? create_session(db, a, change->meta, change->number, err) : rc;
}

static enum cs_message_kind kind_of(const char *type)
{
    if (strcmp(type, "user") == 0)
        return CS_MESSAGE_USER;
    if (strcmp(type, "assistant") == 0)
        return CS_MESSAGE_ASSISTANT;
    return strcmp(type, "error") == 0 ? CS_MESSAGE_OUTCOME : CS_MESSAGE_CONTEXT;
}

static enum cs_status insert_message(struct cs_db *db, struct applying *a,
                                     const struct cs_mirror_change *change, int64_t session,
                                     struct cs_err *err)
{
    const struct cs_mirror_message *from = change->message;
    const struct cs_replica_message message = {
        .origin = from->origin,
        .seq = from->seq,
        .hlc = from->hlc,
        .parent_origin = from->parent_origin,
        .parent_seq = from->parent_seq,
        .kind = kind_of(from->type),
        .turn = from->turn,
        .frag = from->frag,
        .len = from->len,
        .stub = change->text != NULL,
    };
    enum cs_replica_outcome outcome = CS_REPLICA_KNOWN;
    enum cs_status rc = cs_replica_insert(db, session, &message, change->number, &outcome, err);

    if (rc != CS_OK)
        return rc;
    if (outcome == CS_REPLICA_ADDED || outcome == CS_REPLICA_FORKED) {
        a->touched = true;
        cs_sync_note_host(a->core, from->host, change->number);
    }
    if (outcome == CS_REPLICA_FORKED)
        return cs_replica_flag(db, change->sid, CS_REPLICA_RENUMBERED, err);
    if (outcome == CS_REPLICA_HOLE)
        return cs_replica_flag(db, change->sid, CS_REPLICA_DIRTY, err);
    if (outcome == CS_REPLICA_DIFFERS)
        return cs_replica_aside(db, change->sid, "a message has other bytes in Redis than here",
                                err);
    return CS_OK;
}

static enum cs_status apply_message(struct cs_db *db, struct applying *a,
                                    const struct cs_mirror_change *change, struct cs_err *err)
{
    struct cs_session session;
    int64_t id;
    enum cs_status rc = find(db, change->sid, &session, err);

    if (rc == CS_NOT_FOUND) /* it is fetched whole */
        return cs_replica_flag(db, change->sid, CS_REPLICA_DIRTY, err);
    if (rc != CS_OK)
        return rc;
    id = session.id;
    cs_session_fini(&session);
    return insert_message(db, a, change, id, err);
}

/* Redis has it live: back from the archive, if its time is not over. */
static enum cs_status apply_live(struct cs_db *db, struct applying *a,
                                 const struct cs_mirror_change *change, struct cs_err *err)
{
    struct cs_session session;
    bool wanted;
    int64_t id, ttl;
    enum cs_status rc = find(db, change->sid, &session, err);

    if (rc != CS_OK)
        return rc == CS_NOT_FOUND ? CS_OK : rc;
    id = session.id;
    ttl = session.ttl_ms;
    wanted =
        session.state == CS_SESSION_ARCHIVED && (ttl == 0 || change->number + ttl > cs_clock_ms());
    cs_session_fini(&session);
    if (!wanted)
        return CS_OK;
    a->touched = true;
    if (ttl > 0)
        a->next_expiry = change->number + ttl;
    return cs_session_restore(db, id, change->number, err);
}

static enum cs_status apply_archive(struct cs_db *db, struct applying *a,
                                    const struct cs_mirror_change *change,
                                    enum cs_archive_reason reason, struct cs_err *err)
{
    struct cs_replica_mark mark = {0};
    struct cs_session session;
    bool wanted;
    int64_t id;
    enum cs_status rc = find(db, change->sid, &session, err);

    if (rc != CS_OK)
        return rc == CS_NOT_FOUND ? CS_OK : rc;
    id = session.id;
    rc = cs_replica_mark(db, change->sid, &mark, err);
    wanted =
        session.state == CS_SESSION_LIVE && !mark.running && (!mark.unsent || change->number != 0);
    cs_session_fini(&session);
    cs_replica_mark_fini(&mark);
    if (rc != CS_OK || !wanted)
        return rc;
    a->touched = true;
    a->next_expiry = cs_clock_ms() + cs_core_config(a->core)->archive_days * 86400000;
    return cs_session_archive(db, id, reason, cs_clock_ms(), err);
}

/* Join a tombstone; a session that it covers wholly is deleted. */
static enum cs_status apply_tomb(struct cs_db *db, struct applying *a,
                                 const struct cs_mirror_change *change, struct cs_err *err)
{
    struct cs_session session = {0};
    struct cs_replica_mark mark = {0};
    struct cs_vector vv = {0};
    const char *user = change->user != NULL ? change->user : "";
    enum cs_status rc = find(db, change->sid, &session, err);
    bool known = rc == CS_OK;

    if (rc == CS_NOT_FOUND)
        rc = CS_OK;
    if (rc == CS_OK)
        rc = cs_replica_mark(db, change->sid, &mark, err);
    if (rc == CS_OK && !cs_vector_le(change->vector, &mark.tomb)) {
        rc = cs_replica_bury(db, change->sid, known ? session.cid : mark.cid,
                             known ? session.user : user, change->vector, err);
        if (rc == CS_OK)
            rc = cs_vector_join(&mark.tomb, change->vector, err);
    }
    if (rc == CS_OK && known && !mark.running)
        rc = cs_replica_vector(db, session.id, &vv, err);
    if (rc == CS_OK && known && !mark.running && cs_vector_le(&vv, &mark.tomb)) {
        a->touched = true;
        rc = cs_session_delete(db, session.id, err);
    }
    cs_vector_fini(&vv);
    cs_replica_mark_fini(&mark);
    cs_session_fini(&session);
    return rc;
}

static enum cs_status apply_one(struct cs_db *db, struct applying *a,
                                const struct cs_mirror_change *change, struct cs_err *err)
{
    char number[24];

    switch (change->kind) {
    case CS_CHANGE_SESSION:
        return apply_session(db, a, change, err);
    case CS_CHANGE_MESSAGE:
        return apply_message(db, a, change, err);
    case CS_CHANGE_STAMP:
        return cs_replica_stamp(db, change->sid, change->number, err);
    case CS_CHANGE_LIVE:
        return apply_live(db, a, change, err);
    case CS_CHANGE_EVICT:
        return apply_archive(db, a, change, CS_ARCHIVE_EVICTED, err);
    case CS_CHANGE_EXPIRE:
        return apply_archive(db, a, change, CS_ARCHIVE_EXPIRED, err);
    case CS_CHANGE_TOMB:
        return apply_tomb(db, a, change, err);
    case CS_CHANGE_DIRTY:
        return cs_replica_flag(db, change->sid, CS_REPLICA_DIRTY, err);
    case CS_CHANGE_UNSENT:
        return cs_replica_flag(db, change->sid, CS_REPLICA_UNSENT, err);
    case CS_CHANGE_CLEAN:
        return cs_replica_clean(db, change->sid, change->number, err);
    case CS_CHANGE_ASIDE:
        return cs_replica_aside(db, change->sid, change->text, err);
    case CS_CHANGE_CURSOR:
        return cs_replica_set_cursor(db, change->user, change->text, err);
    case CS_CHANGE_PUSHED:
        (void)snprintf(number, sizeof number, "%lld", (long long)change->number);
        return cs_replica_set_cursor(db, CS_REPLICA_PUSHED, number, err);
    }
    return CS_OK;
}

static enum cs_status apply_all(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct applying *a = arg;
    enum cs_status rc = CS_OK;
    size_t i;

    for (i = 0; i < a->count && rc == CS_OK; i++)
        rc = apply_one(db, a, &a->changes[i], err);
    return rc;
}

/* Writer thread. */
static void on_applied(void *arg)
{
    const struct applying *a = arg;

    if (a->touched)
        cs_history_forget_all(a->core);
}

static enum cs_status port_apply(void *arg, const struct cs_mirror_change *changes, size_t count,
                                 struct cs_err *err)
{
    struct cs_core *core = arg;
    struct applying a = {
        .core = core, .changes = changes, .count = count, .next_expiry = INT64_MAX};
    enum cs_status rc = cs_store_write_then(core->store, apply_all, on_applied, &a, err);
    size_t i;

    for (i = 0; i < count; i++)
        if (changes[i].kind == CS_CHANGE_ASIDE)
            cs_log(CS_LOG_WARN, "sync_set_aside", "session", changes[i].sid, "why", changes[i].text,
                   NULL);
    if (rc == CS_OK && a.next_expiry != INT64_MAX)
        cs_expiry_note(core, a.next_expiry);
    return rc;
}

struct cs_mirror_port cs_sync_port(struct cs_core *core)
{
    return (struct cs_mirror_port){
        .arg = core,
        .news = port_news,
        .load = port_load,
        .read = port_read,
        .apply = port_apply,
        .marked = port_marked,
        .sessions = port_sessions,
        .archived = port_archived,
        .users = port_users,
        .limit = port_limit,
        .pushed = port_pushed,
    };
}
