/* core/limits: how many live sessions one user may have. */

#include "cs/base/clock.h"
#include "cs/base/json.h"
#include "cs/store/replica.h"
#include "priv.h"

int64_t cs_limits_of(const struct cs_config *config, bool own)
{
    return own ? config->own_session_limit : config->session_limit;
}

enum cs_status cs_limits_enforce(struct cs_db *db, const struct cs_session *keep, int64_t limit,
                                 bool shared, struct cs_buf *evicted, struct cs_err *err)
{
    struct cs_jsonw w;
    struct cs_session victim;
    struct cs_err none = {0};
    int64_t live = 0;
    enum cs_status rc = CS_OK;

    cs_jsonw_init(&w, evicted);
    cs_jsonw_array(&w, NULL);
    if (limit > 0)
        rc = cs_session_count_live(db, keep->user, keep->own, &live, err);
    while (rc == CS_OK && limit > 0 && live > limit) {
        rc = cs_session_least_recent(db, keep->user, keep->own, keep->id, &victim, &none);
        if (rc ==
            CS_NOT_FOUND) { /* every other session has a turn running: over the limit for now */
            rc = CS_OK;
            break;
        }
        if (rc != CS_OK)
            return cs_err_set(err, rc, none.code, "%s", none.msg);
        rc = cs_session_archive(db, victim.id, CS_ARCHIVE_EVICTED, cs_clock_ms(), err);
        if (rc == CS_OK && shared)
            rc = cs_replica_flag(db, victim.sid, CS_REPLICA_DIRTY, err);
        if (rc == CS_OK)
            cs_jsonw_string(&w, NULL, victim.sid);
        cs_session_fini(&victim);
        live--;
    }
    cs_jsonw_end_array(&w);
    return rc != CS_OK ? rc : cs_buf_check(evicted, err);
}
