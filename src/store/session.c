#include "cs/store/session.h"

#include <stdlib.h>

#include "cs/store/message.h"
#include "db.h"
#include "names.h"

/* A listing looks at so many rows at most before it hands out a cursor, however few of them pass
 * its filter. */
#define LIST_LOOK_MAX  10000
#define LIST_LIMIT_MAX 500

/* Rows of which cs_session_expire() only moves check_at, besides those that it archives. */
#define EXPIRE_MOVES_MAX 5000

/* A session with a running turn is looked at again after its time to live, but within these bounds.
 */
#define RECHECK_MIN_MS 1000
#define RECHECK_MAX_MS 60000

void cs_session_fini(struct cs_session *session)
{
    free(session->user);
    free(session->model);
    free(session->sandbox);
    free(session->cwd);
    free(session->title);
    free(session->initial_prompt);
    free(session->engine);
    free(session->origin);
    free(session->approval);
    *session = (struct cs_session){0};
}

/* ---- writing ---- */

enum cs_status cs_session_insert(struct cs_db *db, struct cs_session *session, struct cs_err *err)
{
    int64_t id = ++db->tops[CS_TOP_SESSION];
    int64_t origin = db->origin;
    struct cs_sql q;
    enum cs_status status = CS_OK;

    if (session->origin != NULL)
        status = cs_origin_parse(session->origin, &origin, err);
    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, CS_SQL_SESSION_INSERT);
    cs_sql_int(&q, id);
    cs_sql_text(&q, session->sid);
    cs_sql_text(&q, session->cid);
    cs_sql_text(&q, session->user);
    cs_sql_int(&q, session->own);
    cs_sql_text(&q, session->model);
    cs_sql_text(&q, session->sandbox);
    cs_sql_text(&q, session->cwd);
    cs_sql_text(&q, session->title);
    cs_sql_text(&q, session->initial_prompt);
    cs_sql_text(&q, session->engine);
    cs_sql_int(&q, origin);
    cs_sql_int(&q, session->created_at);
    cs_sql_int(&q, session->ttl_ms);
    if (session->ttl_ms > 0)
        cs_sql_int(&q, session->created_at + session->ttl_ms);
    else
        cs_sql_null(&q);
    cs_sql_text(&q, session->approval != NULL ? session->approval : "never");
    status = cs_sql_run(&q, "create a session", err);
    if (status != CS_OK)
        return status;
    cs_tally_add(db, CS_TALLY_SESSIONS_LIVE, 1);
    session->id = id;
    return CS_OK;
}

/* CS_NOT_FOUND or CS_CONFLICT: why an update of session @id met no row. */
static enum cs_status explain_no_row(struct cs_db *db, int64_t id, const char *code,
                                     const char *sentence, struct cs_err *err)
{
    bool exists;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_SESSION_STATE);
    cs_sql_int(&q, id);
    exists = cs_sql_next(&q);
    status = cs_sql_end(&q, "read the session", err);
    if (status != CS_OK)
        return status;
    if (!exists)
        return cs_err_set(err, CS_NOT_FOUND, "session_not_found", "there is no such session");
    return cs_err_set(err, CS_CONFLICT, code, "%s", sentence);
}

enum cs_status cs_session_set_model(struct cs_db *db, int64_t id, const char *model,
                                    struct cs_err *err)
{
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_SESSION_SET_MODEL);
    cs_sql_int(&q, id);
    cs_sql_text(&q, model);
    status = cs_sql_run(&q, "set the session's model", err);
    if (status == CS_OK && cs_sql_changes(&q) == 0)
        return cs_err_set(err, CS_NOT_FOUND, "session_not_found", "there is no such session");
    return status;
}

enum cs_status cs_session_archive(struct cs_db *db, int64_t id, enum cs_archive_reason reason,
                                  int64_t now, struct cs_err *err)
{
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_SESSION_ARCHIVE);
    cs_sql_int(&q, id);
    cs_sql_int(&q, now);
    cs_sql_int(&q, (int64_t)reason);
    status = cs_sql_run(&q, "archive a session", err);
    if (status != CS_OK)
        return status;
    if (cs_sql_changes(&q) == 0)
        return explain_no_row(db, id, "not_live", "the session is in the archive already", err);
    cs_tally_add(db, CS_TALLY_SESSIONS_LIVE, -1);
    cs_tally_add(db, CS_TALLY_SESSIONS_ARCHIVED, 1);
    return CS_OK;
}

enum cs_status cs_session_restore(struct cs_db *db, int64_t id, int64_t now, struct cs_err *err)
{
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_SESSION_RESTORE);
    cs_sql_int(&q, id);
    cs_sql_int(&q, now);
    status = cs_sql_run(&q, "restore a session", err);
    if (status != CS_OK)
        return status;
    if (cs_sql_changes(&q) == 0)
        return explain_no_row(db, id, "not_archived", "the session is not in the archive", err);
    cs_tally_add(db, CS_TALLY_SESSIONS_LIVE, 1);
    cs_tally_add(db, CS_TALLY_SESSIONS_ARCHIVED, -1);
    return CS_OK;
}

/* Read whether session @id is live and whether a turn of it runs. */
static enum cs_status read_state(struct cs_db *db, int64_t id, bool *out_live, bool *out_running,
                                 struct cs_err *err)
{
    bool found;
    bool live = false;
    bool running;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_SESSION_STATE);
    cs_sql_int(&q, id);
    found = cs_sql_next(&q);
    if (found)
        live = cs_sql_get_int(&q, 0) != 0;
    status = cs_sql_end(&q, "read the session", err);
    if (status != CS_OK)
        return status;
    if (!found)
        return cs_err_set(err, CS_NOT_FOUND, "session_not_found", "there is no such session");
    cs_sql_begin(&q, db, CS_SQL_TURN_RUNNING);
    cs_sql_int(&q, id);
    running = cs_sql_next(&q);
    status = cs_sql_end(&q, "look for a running turn", err);
    if (status != CS_OK)
        return status;
    *out_live = live;
    *out_running = running;
    return CS_OK;
}

enum cs_status cs_session_delete(struct cs_db *db, int64_t id, struct cs_err *err)
{
    /* The messages tell which turns to delete, and the turns which keys: in this order. */
    static const enum cs_sql_id steps[] = {
        CS_SQL_IDEMPOTENCY_DELETE,
        CS_SQL_TURN_DELETE,
        CS_SQL_MESSAGE_DELETE,
        CS_SQL_SESSION_DELETE,
    };
    bool live = false;
    bool running = false;
    enum cs_status status = read_state(db, id, &live, &running, err);

    if (status == CS_OK)
        status = cs_tally_save_tops(db, err);
    for (size_t i = 0; status == CS_OK && i < sizeof steps / sizeof *steps; i++) {
        struct cs_sql q;

        cs_sql_begin(&q, db, steps[i]);
        cs_sql_int(&q, id);
        status = cs_sql_run(&q, "delete a session", err);
    }
    if (status != CS_OK)
        return status;
    cs_tally_add(db, live ? CS_TALLY_SESSIONS_LIVE : CS_TALLY_SESSIONS_ARCHIVED, -1);
    if (running)
        cs_tally_add(db, CS_TALLY_TURNS_RUNNING, -1);
    return CS_OK;
}

/* ---- reading ---- */

static int64_t greatest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Columns as SESSION_COLUMNS in sql.c lists them. Out of memory sticks in @q. */
static void read_row(struct cs_sql *q, struct cs_session *session)
{
    char origin[CS_ORIGIN_MAX];

    session->id = cs_sql_get_int(q, 0);
    cs_sql_copy_text(q, 1, session->sid, sizeof session->sid);
    cs_sql_copy_text(q, 2, session->cid, sizeof session->cid);
    session->user = cs_sql_dup_text(q, 3);
    session->own = cs_sql_get_int(q, 4) != 0;
    session->model = cs_sql_dup_text(q, 5);
    session->sandbox = cs_sql_dup_text(q, 6);
    session->cwd = cs_sql_dup_text(q, 7);
    session->title = cs_sql_dup_text(q, 8);
    session->initial_prompt = cs_sql_dup_text(q, 9);
    session->engine = cs_sql_dup_text(q, 10);
    cs_origin_name(cs_sql_get_int(q, 11), origin);
    session->origin = cs_sql_dup(q, origin);
    session->created_at = cs_sql_get_int(q, 12);
    session->ttl_ms = cs_sql_get_int(q, 13);
    session->state = cs_sql_is_null(q, 14) ? CS_SESSION_LIVE : CS_SESSION_ARCHIVED;
    session->archived_at = cs_sql_get_int(q, 14);
    session->archive_reason = (enum cs_archive_reason)cs_sql_get_int(q, 15);
    session->last_used_at =
        greatest(session->created_at, greatest(cs_sql_get_int(q, 16), cs_sql_get_int(q, 17)));
    session->expires_at = session->ttl_ms > 0 ? session->last_used_at + session->ttl_ms : 0;
    session->last_failed =
        !cs_sql_is_null(q, 18) && cs_sql_get_int(q, 18) == (int64_t)CS_MESSAGE_OUTCOME;
    session->restored_at = cs_sql_get_int(q, 16);
    session->branched = cs_sql_get_int(q, 19) != 0;
    session->message_count = cs_sql_get_int(q, 20);
    session->approval = cs_sql_dup_text(q, 21);
}

/* Run @q, whose parameters are bound, for one session. */
static enum cs_status read_one(struct cs_sql *q, struct cs_session *out_session, struct cs_err *err)
{
    struct cs_session session = {0};
    bool found = cs_sql_next(q);
    enum cs_status status;

    if (found)
        read_row(q, &session);
    status = cs_sql_end(q, "read a session", err);
    if (status == CS_OK && !found)
        status = cs_err_set(err, CS_NOT_FOUND, "session_not_found", "there is no such session");
    if (status != CS_OK) {
        cs_session_fini(&session);
        return status;
    }
    *out_session = session;
    return CS_OK;
}

enum cs_status cs_session_find(struct cs_db *db, const char *identifier,
                               struct cs_session *out_session, struct cs_err *err)
{
    struct cs_err why = {.status = CS_OK};
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_SESSION_BY_SID);
    cs_sql_text(&q, identifier);
    status = read_one(&q, out_session, &why);
    if (status == CS_OK)
        return CS_OK;
    if (status != CS_NOT_FOUND)
        return cs_err_set(err, status, why.code, "%s", why.msg);
    cs_sql_begin(&q, db, CS_SQL_SESSION_BY_CID);
    cs_sql_text(&q, identifier);
    return read_one(&q, out_session, err);
}

enum cs_status cs_session_get(struct cs_db *db, int64_t id, struct cs_session *out_session,
                              struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_SESSION_BY_ID);
    cs_sql_int(&q, id);
    return read_one(&q, out_session, err);
}

/* ---- listing ---- */

void cs_session_list_fini(struct cs_session_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        cs_session_fini(&list->items[i]);
    free(list->items);
    *list = (struct cs_session_list){0};
}

static void begin_list(struct cs_sql *q, struct cs_db *db, const struct cs_session_filter *filter)
{
    bool live = filter->live > 0;
    enum cs_sql_id id = live ? CS_SQL_SESSION_LIST_LIVE : CS_SQL_SESSION_LIST;

    if (filter->user != NULL)
        id = live ? CS_SQL_SESSION_LIST_USER_LIVE : CS_SQL_SESSION_LIST_USER;
    cs_sql_begin(q, db, id);
    cs_sql_int(q, filter->before_id > 0 ? filter->before_id : INT64_MAX);
    if (filter->user != NULL)
        cs_sql_text(q, filter->user);
}

static bool passes(const struct cs_session_filter *filter, const struct cs_session *session)
{
    if (filter->live < 0 && session->state != CS_SESSION_ARCHIVED)
        return false;
    return filter->failed == 0 || session->last_failed == (filter->failed > 0);
}

enum cs_status cs_session_list(struct cs_db *db, const struct cs_session_filter *filter,
                               struct cs_session_list *out_list, struct cs_err *err)
{
    struct cs_session_list list = {0};
    int64_t last = 0;
    struct cs_sql q;
    enum cs_status status;

    if (filter->limit < 1 || filter->limit > LIST_LIMIT_MAX)
        return cs_err_set(err, CS_INVALID, "invalid_limit", "limit must be 1 to %d",
                          LIST_LIMIT_MAX);
    list.items = calloc(filter->limit, sizeof *list.items);
    if (list.items == NULL)
        return cs_err_nomem(err);
    begin_list(&q, db, filter);
    for (int looked = 0; cs_sql_next(&q); looked++) {
        struct cs_session *item = &list.items[list.count];

        if (list.count == filter->limit || looked == LIST_LOOK_MAX) {
            list.next_before_id = last; /* there is more behind the row looked at last */
            break;
        }
        read_row(&q, item);
        last = item->id;
        if (passes(filter, item))
            list.count++;
        else
            cs_session_fini(item);
    }
    status = cs_sql_end(&q, "list the sessions", err);
    if (status != CS_OK) {
        cs_session_list_fini(&list);
        return status;
    }
    *out_list = list;
    return CS_OK;
}

enum cs_status cs_session_count_live(struct cs_db *db, const char *user, bool own,
                                     int64_t *out_count, struct cs_err *err)
{
    int64_t count = 0;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_SESSION_COUNT_LIVE);
    cs_sql_text(&q, user);
    cs_sql_int(&q, own);
    if (cs_sql_next(&q))
        count = cs_sql_get_int(&q, 0);
    status = cs_sql_end(&q, "count the sessions", err);
    if (status == CS_OK)
        *out_count = count;
    return status;
}

enum cs_status cs_session_least_recent(struct cs_db *db, const char *user, bool own, int64_t except,
                                       struct cs_session *out_session, struct cs_err *err)
{
    int64_t id = 0;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_SESSION_LEAST_RECENT);
    cs_sql_text(&q, user);
    cs_sql_int(&q, own);
    cs_sql_int(&q, except);
    if (cs_sql_next(&q))
        id = cs_sql_get_int(&q, 0);
    status = cs_sql_end(&q, "look for the session used least recently", err);
    if (status != CS_OK)
        return status;
    if (id == 0)
        return cs_err_set(err, CS_NOT_FOUND, "session_not_found", "no session can give way");
    return cs_session_get(db, id, out_session, err);
}

/* ---- expiry ---- */

/* A session whose check_at has come. */
struct due {
    int64_t id, ttl_ms, last_used_at;
    bool running;
    char sid[CS_UUID_MAX], cid[CS_UUID_MAX];
};

static enum cs_status next_due(struct cs_db *db, int64_t now, struct due *out, bool *out_found,
                               struct cs_err *err)
{
    bool found;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_SESSION_DUE);
    cs_sql_int(&q, now);
    found = cs_sql_next(&q);
    if (found) {
        out->id = cs_sql_get_int(&q, 0);
        cs_sql_copy_text(&q, 1, out->sid, sizeof out->sid);
        cs_sql_copy_text(&q, 2, out->cid, sizeof out->cid);
        out->ttl_ms = cs_sql_get_int(&q, 3);
        out->last_used_at = cs_sql_get_int(&q, 4);
        out->running = cs_sql_get_int(&q, 5) != 0;
    }
    status = cs_sql_end(&q, "look for expired sessions", err);
    if (status == CS_OK)
        *out_found = found;
    return status;
}

/* Put a session that is due but in use back in line. */
static enum cs_status move_check(struct cs_db *db, const struct due *due, int64_t now,
                                 struct cs_err *err)
{
    int64_t at = due->last_used_at + due->ttl_ms;
    struct cs_sql q;

    if (due->running) {
        int64_t wait = due->ttl_ms < RECHECK_MAX_MS ? due->ttl_ms : RECHECK_MAX_MS;

        at = greatest(at, now + greatest(wait, RECHECK_MIN_MS));
    }
    cs_sql_begin(&q, db, CS_SQL_SESSION_SET_CHECK);
    cs_sql_int(&q, due->id);
    cs_sql_int(&q, at);
    return cs_sql_run(&q, "move a session's expiry", err);
}

/* The least value that the index of @id holds, INT64_MAX for none. */
static enum cs_status read_next(struct cs_db *db, enum cs_sql_id id, int64_t *out_at,
                                int64_t *out_id, struct cs_err *err)
{
    int64_t at = INT64_MAX;
    int64_t row = 0;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, id);
    if (cs_sql_next(&q)) {
        at = cs_sql_get_int(&q, 0);
        row = cs_sql_get_int(&q, 1);
    }
    status = cs_sql_end(&q, "look for the next session", err);
    if (status == CS_OK) {
        *out_at = at;
        *out_id = row;
    }
    return status;
}

/* NOLINTNEXTLINE(readability-function-size): eight parameters by its contract */
enum cs_status cs_session_expire(struct cs_db *db, int64_t now, unsigned max,
                                 void (*each)(const char *sid, const char *cid, void *arg),
                                 void *arg, int64_t *out_archived, int64_t *out_next,
                                 struct cs_err *err)
{
    int64_t archived = 0;
    int64_t next = INT64_MAX;
    int64_t id;
    int moves = 0;
    enum cs_status status = CS_OK;

    while (status == CS_OK && archived < (int64_t)max && moves < EXPIRE_MOVES_MAX) {
        struct due due;
        bool found = false;

        status = next_due(db, now, &due, &found, err);
        if (status != CS_OK || !found)
            break;
        if (due.running || due.last_used_at + due.ttl_ms > now) {
            status = move_check(db, &due, now, err);
            moves++;
            continue;
        }
        status = cs_session_archive(db, due.id, CS_ARCHIVE_EXPIRED, now, err);
        archived++;
        if (status == CS_OK && each != NULL)
            each(due.sid, due.cid, arg);
    }
    if (status == CS_OK)
        status = read_next(db, CS_SQL_SESSION_NEXT_CHECK, &next, &id, err);
    if (status != CS_OK)
        return status;
    *out_archived = archived;
    *out_next = next;
    return CS_OK;
}

enum cs_status cs_session_purge(struct cs_db *db, int64_t until, unsigned max, int64_t *out_purged,
                                int64_t *out_next, struct cs_err *err)
{
    int64_t purged = 0;
    int64_t next = INT64_MAX;
    int64_t id = 0;
    enum cs_status status = read_next(db, CS_SQL_SESSION_NEXT_PURGE, &next, &id, err);

    while (status == CS_OK && next <= until && purged < (int64_t)max) {
        status = cs_session_delete(db, id, err);
        purged++;
        if (status == CS_OK)
            status = read_next(db, CS_SQL_SESSION_NEXT_PURGE, &next, &id, err);
    }
    if (status != CS_OK)
        return status;
    *out_purged = purged;
    *out_next = next;
    return CS_OK;
}

enum cs_status cs_session_figures(struct cs_db *db, struct cs_session_figures *out,
                                  struct cs_err *err)
{
    struct cs_session_figures figures = {0};
    struct cs_sql q;
    enum cs_status status = cs_tally_get(db, CS_TALLY_SESSIONS_LIVE, &figures.live, err);

    if (status == CS_OK)
        status = cs_tally_get(db, CS_TALLY_SESSIONS_ARCHIVED, &figures.archived, err);
    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, CS_SQL_SESSION_OLDEST_LIVE);
    if (cs_sql_next(&q))
        figures.oldest_live_at = cs_sql_get_int(&q, 0);
    status = cs_sql_end(&q, "read the oldest session", err);
    if (status == CS_OK)
        *out = figures;
    return status;
}
