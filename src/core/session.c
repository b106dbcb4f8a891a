/* core/session: use cases on whole sessions. */
#include <string.h>

#include "cs/base/clock.h"
#include "cs/store/replica.h"
#include "priv.h"
#include "sync.h"

enum cs_status cs_session_missing(const char *identifier, struct cs_err *err)
{
    return cs_err_set(err, CS_NOT_FOUND, "session_not_found",
                      "Session not found for conversation_id: %s", identifier);
}

/* Read a session in any state; the kept sentence when there is none. */
static enum cs_status find_any(struct cs_db *db, const char *identifier,
                               struct cs_session *out_session, struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc = cs_session_find(db, identifier, out_session, &why);

    if (rc == CS_NOT_FOUND)
        return cs_session_missing(identifier, err);
    return rc == CS_OK ? rc : cs_err_set(err, rc, why.code, "%s", why.msg);
}

enum cs_status cs_session_find_live(struct cs_core *core, struct cs_db *db, const char *identifier,
                                    struct cs_session *out_session, struct cs_err *err)
{
    struct cs_session session;
    enum cs_status rc = find_any(db, identifier, &session, err);

    if (rc != CS_OK)
        return rc;
    if (session.state != CS_SESSION_LIVE ||
        (cs_expired(core, session.last_used_at, session.expires_at) &&
         !cs_registry_busy(core, session.sid))) {
        cs_session_fini(&session);
        return cs_session_missing(identifier, err);
    }
    *out_session = session;
    return CS_OK;
}

static enum cs_status read_live(struct cs_core *core, const char *identifier,
                                struct cs_session *out_session, struct cs_err *err)
{
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_session_find_live(core, db, identifier, out_session, err);
    cs_store_done(core->store, db);
    return rc;
}

enum cs_status cs_core_session(struct cs_core *core, const char *identifier,
                               struct cs_session *out_session, struct cs_err *err)
{
    struct cs_err why = {0};
    bool stale;
    enum cs_status rc = read_live(core, identifier, out_session, &why);

    if (rc == CS_NOT_FOUND && core->mirror != NULL) { /* another host may know it */
        cs_err_clear(&why);
        cs_core_refresh(core, identifier, &stale);
        rc = read_live(core, identifier, out_session, &why);
    }
    return rc == CS_OK ? rc : cs_err_set(err, why.status, why.code, "%s", why.msg);
}

enum cs_status cs_core_sessions(struct cs_core *core, const struct cs_session_filter *filter,
                                struct cs_session_list *out_list, struct cs_err *err)
{
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_session_list(db, filter, out_list, err);
    cs_store_done(core->store, db);
    return rc;
}

bool cs_core_busy(struct cs_core *core, const char *sid)
{
    return cs_registry_busy(core, sid);
}

enum cs_status cs_core_search(struct cs_core *core, const struct cs_search *search,
                              struct cs_findings *out_findings, struct cs_err *err)
{
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_search(db, search, out_findings, err);
    cs_store_done(core->store, db);
    return rc;
}

enum cs_status cs_core_turns(struct cs_core *core, int64_t before, struct cs_turn_row *out_turns,
                             size_t max, size_t *out_count, struct cs_err *err)
{
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_turn_list(db, before, out_turns, max, out_count, err);
    cs_store_done(core->store, db);
    return rc;
}

enum cs_status cs_session_cancel(struct cs_core *core, const char *identifier,
                                 char out_tid[CS_UUID_MAX], struct cs_err *err)
{
    struct cs_session session;
    struct cs_turn *turn;
    enum cs_status rc = cs_core_session(core, identifier, &session, err);

    if (rc != CS_OK)
        return rc;
    turn = cs_registry_by_session(core, session.sid);
    cs_session_fini(&session);
    if (turn == NULL)
        return cs_err_set(err, CS_CONFLICT, "no_running_turn",
                          "No turn of this session is running");
    cs_registry_stop(turn, CS_STOP_CANCEL);
    memcpy(out_tid, turn->row.tid, CS_UUID_MAX);
    cs_turn_unref(turn);
    return CS_OK;
}

bool cs_turn_cancel(struct cs_core *core, const char *tid)
{
    struct cs_turn *turn = cs_registry_by_tid(core, tid);

    if (turn == NULL)
        return false;
    cs_registry_stop(turn, CS_STOP_CANCEL);
    cs_turn_unref(turn);
    return true;
}

/* ---- writes ---- */

struct change {
    struct cs_core *core;
    const char *identifier;
    struct cs_session session; /* as it was, or for a restore as it is */
    bool found;
    int64_t now;
    int64_t limit; /* for a restore */
    struct cs_buf evicted;
};

/* A turn may begin between this check and the commit: it then finds its session gone and ends with
 * an error. */
static enum cs_status check_idle(struct change *change, struct cs_err *err)
{
    if (cs_registry_busy(change->core, change->session.sid))
        return cs_err_set(err, CS_CONFLICT, "session_busy", "A turn of this session is running");
    return CS_OK;
}

static enum cs_status apply_delete(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct change *change = arg;
    enum cs_status rc = find_any(db, change->identifier, &change->session, err);

    change->found = rc == CS_OK;
    if (rc == CS_OK)
        rc = check_idle(change, err);
    return rc == CS_OK ? cs_sync_delete(db, &change->session, err) : rc;
}

enum cs_status cs_core_delete(struct cs_core *core, const char *identifier,
                              char out_sid[CS_UUID_MAX], struct cs_err *err)
{
    struct change change = {.core = core, .identifier = identifier};
    struct cs_err why = {0};
    bool stale;
    enum cs_status rc = cs_store_write(core->store, apply_delete, &change, &why);

    if (rc == CS_NOT_FOUND && core->mirror != NULL) { /* another host may know it */
        cs_err_clear(&why);
        cs_core_refresh(core, identifier, &stale);
        rc = cs_store_write(core->store, apply_delete, &change, &why);
    }
    if (rc == CS_OK) {
        memcpy(out_sid, change.session.sid, CS_UUID_MAX);
        cs_sync_wake(core);
        cs_history_forget(core, change.session.sid, change.session.cid);
    }
    if (change.found)
        cs_session_fini(&change.session);
    return rc == CS_OK ? rc : cs_err_set(err, why.status, why.code, "%s", why.msg);
}

static enum cs_status apply_restore(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct change *change = arg;
    struct cs_session before;
    enum cs_status rc = find_any(db, change->identifier, &before, err);
    int64_t id;

    if (rc != CS_OK)
        return rc;
    id = before.id;
    /* its time may be over although the sweeper has not come by yet */
    if (before.state == CS_SESSION_LIVE &&
        cs_expired(change->core, before.last_used_at, before.expires_at) &&
        !cs_registry_busy(change->core, before.sid)) {
        rc = cs_session_archive(db, id, CS_ARCHIVE_EXPIRED, change->now, err);
        before.state = CS_SESSION_ARCHIVED;
    }
    if (rc == CS_OK && before.state != CS_SESSION_ARCHIVED)
        rc = cs_err_set(err, CS_CONFLICT, "not_archived", "The session is not in the archive");
    if (rc == CS_OK)
        rc = cs_session_restore(db, id, change->now, err);
    if (rc == CS_OK) /* it enters Redis again as activity */
        rc = cs_replica_flag(db, before.sid, CS_REPLICA_UNSENT, err);
    cs_session_fini(&before);
    if (rc == CS_OK)
        rc = cs_session_get(db, id, &change->session, err);
    change->found = rc == CS_OK;
    if (rc == CS_OK)
        rc = cs_limits_enforce(db, &change->session,
                               cs_limits_of(cs_core_config(change->core), change->session.own),
                               change->core->mirror != NULL, &change->evicted, err);
    return rc;
}

enum cs_status cs_core_restore(struct cs_core *core, const char *identifier,
                               struct cs_session *out_session, char **out_evicted_json,
                               struct cs_err *err)
{
    struct change change = {.core = core, .identifier = identifier, .now = cs_clock_ms()};
    char *evicted = NULL;
    enum cs_status rc;

    cs_buf_init(&change.evicted, 65536);
    rc = cs_store_write(core->store, apply_restore, &change, err);
    if (rc == CS_OK) {
        cs_history_forget_all(core);
        cs_sync_wake(core);
        if (change.session.ttl_ms > 0)
            cs_expiry_note(core, change.now + change.session.ttl_ms);
        evicted = cs_buf_take(&change.evicted, NULL);
        if (evicted == NULL)
            rc = cs_err_nomem(err);
    }
    cs_buf_fini(&change.evicted);
    if (rc == CS_OK) {
        *out_session = change.session;
        *out_evicted_json = evicted;
    } else if (change.found) {
        cs_session_fini(&change.session);
    }
    return rc;
}
