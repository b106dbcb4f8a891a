#include "sql.h"

#include <string.h>

#include "db.h"

/* The newest message of a session, from the index alone. */
#define NEWEST "ORDER BY hlc DESC, origin DESC, seq DESC LIMIT 1"

#define SESSION_COLUMNS                                                                            \
    "SELECT s.id, s.sid, s.cid, s.user, s.own, s.model, s.sandbox, s.cwd, s.title, "               \
    "s.initial_prompt, s.engine, s.origin, s.created_at, s.ttl_ms, s.archived_at, "                \
    "s.archive_reason, s.restored_at, n.at, n.kind, s.branched, "                                  \
    "(SELECT count(*) FROM message WHERE session = s.id), s.approval "                             \
    "FROM session AS s LEFT JOIN message AS n "                                                    \
    "ON n.id = (SELECT id FROM message WHERE session = s.id " NEWEST ") "

#define TURN_COLUMNS                                                                               \
    "SELECT t.id, t.tid, t.session, t.continued, t.status, t.started_at, t.ended_at, "             \
    "t.duration_ms, t.timeout_ms, t.model, t.model_fallback, t.sandbox, t.engine, "                \
    "t.engine_version, t.thread_id, t.engine_turn_id, t.input, t.cached_input, t.output, "         \
    "t.total_input, t.total_cached_input, t.total_output, t.prompt_message, t.answer_message, "    \
    "t.error_code, t.error, t.evicted, t.stale "

#define REPLICA_COLUMNS                                                                            \
    "SELECT hlc, origin, seq, parent_origin, parent_seq, kind, at, frag, id FROM message "

#define OWN_MESSAGE "EXISTS (SELECT 1 FROM origin AS o WHERE o.id = m.origin) "

#define NO_SESSION "NOT EXISTS (SELECT 1 FROM session AS s WHERE s.sid = mark.sid)"

#define BEFORE "(hlc, origin, seq) < (?2, ?3, ?4) "

static const struct {
    const char *sql;
    bool writes;
} statements[CS_SQL_COUNT] = {
    [CS_SQL_READ] = {"BEGIN", false},
    [CS_SQL_BEGIN] = {"BEGIN IMMEDIATE", true},
    [CS_SQL_COMMIT] = {"COMMIT", false},
    [CS_SQL_ROLLBACK] = {"ROLLBACK", false},
    [CS_SQL_SAVE] = {"SAVEPOINT one", true},
    [CS_SQL_RELEASE] = {"RELEASE one", true},
    [CS_SQL_UNDO] = {"ROLLBACK TO one", true},

    [CS_SQL_ORIGIN_INSERT] = {"INSERT INTO origin (id, started_at) VALUES (?1, ?2)", true},

    [CS_SQL_SESSION_INSERT] =
        {"INSERT INTO session (id, sid, cid, user, own, model, sandbox, cwd, title, "
         "initial_prompt, engine, origin, created_at, ttl_ms, check_at, approval) "
         "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
         true},
    [CS_SQL_SESSION_BY_ID] = {SESSION_COLUMNS "WHERE s.id = ?1", false},
    [CS_SQL_SESSION_BY_SID] = {SESSION_COLUMNS "WHERE s.sid = ?1", false},
    [CS_SQL_SESSION_BY_CID] = {SESSION_COLUMNS "WHERE s.cid = ?1", false},
    [CS_SQL_SESSION_STATE] = {"SELECT archived_at IS NULL, branched FROM session WHERE id = ?1",
                              false},
    [CS_SQL_SESSION_SET_MODEL] = {"UPDATE session SET model = ?2 WHERE id = ?1", true},
    [CS_SQL_SESSION_ARCHIVE] =
        {"UPDATE session SET archived_at = ?2, archive_reason = ?3, check_at = NULL "
         "WHERE id = ?1 AND archived_at IS NULL",
         true},
    [CS_SQL_SESSION_RESTORE] =
        {"UPDATE session SET archived_at = NULL, archive_reason = 0, "
         "restored_at = max(?2, restored_at + 1), " /* other hosts go by it, whatever our clock */
         "check_at = CASE ttl_ms WHEN 0 THEN NULL ELSE ?2 + ttl_ms END "
         "WHERE id = ?1 AND archived_at IS NOT NULL",
         true},
    [CS_SQL_SESSION_DELETE] = {"DELETE FROM session WHERE id = ?1", true},
    [CS_SQL_SESSION_LIST] = {SESSION_COLUMNS "WHERE s.id < ?1 ORDER BY s.id DESC", false},
    [CS_SQL_SESSION_LIST_LIVE] = {SESSION_COLUMNS
                                  "WHERE s.archived_at IS NULL AND s.id < ?1 ORDER BY s.id DESC",
                                  false},
    [CS_SQL_SESSION_LIST_USER] = {SESSION_COLUMNS
                                  "WHERE s.id < ?1 AND s.user = ?2 ORDER BY s.id DESC",
                                  false},
    [CS_SQL_SESSION_LIST_USER_LIVE] = {SESSION_COLUMNS
                                       "WHERE s.id < ?1 AND s.user = ?2 AND s.archived_at IS NULL "
                                       "ORDER BY s.id DESC",
                                       false},
    [CS_SQL_SESSION_COUNT_LIVE] =
        {"SELECT count(*) FROM session WHERE user = ?1 AND own = ?2 AND archived_at IS NULL",
         false},
    [CS_SQL_SESSION_LEAST_RECENT] =
        {"SELECT s.id, max(s.created_at, s.restored_at, coalesce("
         "(SELECT at FROM message WHERE session = s.id " NEWEST "), 0)) AS used "
         "FROM session AS s "
         "WHERE s.user = ?1 AND s.own = ?2 AND s.archived_at IS NULL AND s.id <> ?3 "
         "AND NOT EXISTS (SELECT 1 FROM turn AS t WHERE t.session = s.id AND t.status = 0) "
         "ORDER BY used, s.id LIMIT 1",
         false},
    [CS_SQL_SESSION_OLDEST_LIVE] =
        {"SELECT created_at FROM session WHERE archived_at IS NULL ORDER BY id LIMIT 1", false},
    [CS_SQL_SESSION_DUE] =
        {"SELECT s.id, s.sid, s.cid, s.ttl_ms, max(s.created_at, s.restored_at, coalesce("
         "(SELECT at FROM message WHERE session = s.id " NEWEST "), 0)), "
         "EXISTS (SELECT 1 FROM turn AS t WHERE t.session = s.id AND t.status = 0) "
         "FROM session AS s WHERE s.check_at <= ?1 ORDER BY s.check_at LIMIT 1",
         false},
    [CS_SQL_SESSION_SET_CHECK] = {"UPDATE session SET check_at = ?2 WHERE id = ?1", true},
    [CS_SQL_SESSION_NEXT_CHECK] =
        {"SELECT check_at FROM session WHERE check_at > -1 ORDER BY check_at LIMIT 1", false},
    [CS_SQL_SESSION_NEXT_PURGE] =
        {"SELECT archived_at, id FROM session WHERE archived_at > -1 ORDER BY archived_at LIMIT 1",
         false},

    [CS_SQL_MESSAGE_INSERT] =
        {"INSERT INTO message (id, session, hlc, origin, seq, parent_origin, parent_seq, kind, at, "
         "turn, hash, frag) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
         true},
    [CS_SQL_MESSAGE_NEWEST] = {"SELECT hlc, origin, seq FROM message WHERE session = ?1 " NEWEST,
                               false},
    [CS_SQL_MESSAGE_NEWEST_SEQ] =
        {"SELECT seq FROM message WHERE session = ?1 AND origin = ?2 " NEWEST, false},
    [CS_SQL_MESSAGE_NEWEST_TURN] = {"SELECT turn FROM message WHERE session = ?1 " NEWEST, false},
    [CS_SQL_MESSAGE_PLACE] = {"SELECT hlc, origin, seq FROM message WHERE id = ?1 AND session = ?2",
                              false},
    [CS_SQL_MESSAGE_PAGE_START] =
        {"SELECT hlc, origin, seq, id FROM message WHERE session = ?1 AND " BEFORE
         "ORDER BY hlc DESC, origin DESC, seq DESC LIMIT 2 OFFSET ?5",
         false},
    /* What the next one finds before the end of time, for a sixth less of the work. */
    [CS_SQL_MESSAGE_WHOLE] = {"SELECT frag FROM message WHERE session = ?1 "
                              "ORDER BY hlc, origin, seq",
                              false},
    [CS_SQL_MESSAGE_UNTIL] = {"SELECT frag FROM message WHERE session = ?1 AND " BEFORE
                              "ORDER BY hlc, origin, seq",
                              false},
    [CS_SQL_MESSAGE_FROM] =
        {"SELECT frag FROM message WHERE session = ?1 AND (hlc, origin, seq) >= (?2, ?3, ?4) "
         "ORDER BY hlc, origin, seq LIMIT ?5",
         false},
    [CS_SQL_MESSAGE_ANSWERED] =
        {"SELECT turn FROM message WHERE session = ?1 AND kind = 1 AND turn IS NOT NULL", false},
    [CS_SQL_MESSAGE_TALK] = {"SELECT kind, turn, frag, origin, seq FROM message WHERE session = ?1 "
                             "AND kind IN (0, 1, 2) ORDER BY hlc, origin, seq",
                             false},
    [CS_SQL_MESSAGE_NEWEST_FRAG] = {"SELECT frag FROM message WHERE session = ?1 " NEWEST, false},
    [CS_SQL_MESSAGE_LIKE] = {"SELECT frag FROM message WHERE session = ?1 "
                             "AND frag LIKE ?2 ESCAPE '!' "
                             "ORDER BY hlc DESC, origin DESC, seq DESC",
                             false},
    [CS_SQL_MESSAGE_BY_ID] = {"SELECT frag FROM message WHERE id = ?1", false},
    [CS_SQL_MESSAGE_ROW] = {"SELECT s.sid, s.cid, s.user, m.kind, m.at, m.turn, m.frag, s.id "
                            "FROM message AS m CROSS JOIN session AS s ON s.id = m.session "
                            "WHERE m.id = ?1",
                            false},
    [CS_SQL_MESSAGE_IDS] = {"SELECT id FROM message WHERE id > ?1 AND id <= ?2 "
                            "ORDER BY id LIMIT ?3",
                            false},
    /* The sign keeps the search in the session's part of the index, which holds the ids. */
    [CS_SQL_MESSAGE_IDS_SESSION] = {"SELECT id FROM message WHERE +id > ?1 AND +id <= ?2 "
                                    "AND session = ?4 ORDER BY id LIMIT ?3",
                                    false},
    [CS_SQL_MESSAGE_IDS_USER] =
        {"SELECT m.id FROM message AS m CROSS JOIN session AS s ON s.id = m.session "
         "WHERE m.id > ?1 AND m.id <= ?2 AND s.user = ?4 ORDER BY m.id LIMIT ?3",
         false},
    [CS_SQL_MESSAGE_DELETE] = {"DELETE FROM message WHERE session = ?1", true},

    [CS_SQL_TURN_INSERT] =
        {"INSERT INTO turn (id, tid, session, continued, status, started_at, timeout_ms, model, "
         "sandbox, prompt_message, evicted, stale) VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, ?8, ?9, "
         "?10, ?11)",
         true},
    [CS_SQL_TURN_FINISH] =
        {"UPDATE turn SET status = ?2, ended_at = ?3, duration_ms = ?4, model = ?5, "
         "model_fallback = ?6, engine = ?7, engine_version = ?8, thread_id = ?9, "
         "engine_turn_id = ?10, input = ?11, cached_input = ?12, output = ?13, total_input = ?14, "
         "total_cached_input = ?15, total_output = ?16, answer_message = ?17, error_code = ?18, "
         "error = ?19 WHERE id = ?1 AND status = 0",
         true},
    [CS_SQL_TURN_BY_ID] = {TURN_COLUMNS "FROM turn AS t WHERE t.id = ?1", false},
    [CS_SQL_TURN_BY_TID] = {TURN_COLUMNS "FROM turn AS t WHERE t.tid = ?1", false},
    [CS_SQL_TURN_LAST] = {TURN_COLUMNS "FROM message AS m CROSS JOIN turn AS t ON t.tid = m.turn "
                                       "WHERE m.session = ?1 "
                                       "ORDER BY m.hlc DESC, m.origin DESC, m.seq DESC LIMIT 1",
                          false},
    [CS_SQL_TURN_LIST] = {TURN_COLUMNS "FROM turn AS t WHERE t.id < ?1 ORDER BY t.id DESC LIMIT ?2",
                          false},
    [CS_SQL_TURN_RUNNING] = {"SELECT id FROM turn WHERE session = ?1 AND status = 0", false},
    [CS_SQL_TURN_ANY_RUNNING] =
        {"SELECT id FROM turn WHERE session > ?1 AND status = 0 ORDER BY session LIMIT 1", false},
    [CS_SQL_TURN_DELETE] =
        {"DELETE FROM turn WHERE tid IN (SELECT turn FROM message WHERE session = ?1)", true},

    [CS_SQL_IDEMPOTENCY_INSERT] =
        {"INSERT INTO idempotency (turn, key, body, created_at) VALUES (?1, ?2, ?3, ?4)", true},
    [CS_SQL_IDEMPOTENCY_FIND] =
        {"SELECT turn, body, created_at FROM idempotency WHERE key = ?1 AND created_at >= ?2",
         false},
    [CS_SQL_IDEMPOTENCY_PURGE] =
        {"DELETE FROM idempotency WHERE turn IN (SELECT turn FROM idempotency "
         "WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)",
         true},
    [CS_SQL_IDEMPOTENCY_NEXT] = {"SELECT min(created_at) FROM idempotency", false},
    [CS_SQL_IDEMPOTENCY_DELETE] =
        {"DELETE FROM idempotency WHERE turn IN (SELECT t.id FROM message AS m "
         "CROSS JOIN turn AS t ON t.tid = m.turn WHERE m.session = ?1)",
         true},

    [CS_SQL_REPLICA_SESSION] = {"SELECT id FROM session WHERE sid = ?1", false},
    [CS_SQL_REPLICA_VECTOR] =
        {"SELECT origin, max(seq) FROM message WHERE session = ?1 GROUP BY origin", false},
    [CS_SQL_REPLICA_ALL] = {REPLICA_COLUMNS "WHERE session = ?1 ORDER BY hlc, origin, seq", false},
    [CS_SQL_REPLICA_FROM] = {REPLICA_COLUMNS "WHERE session = ?1 AND origin = ?2 AND seq >= ?3 "
                                             "ORDER BY hlc, origin, seq",
                             false},
    [CS_SQL_REPLICA_NEWS] = {"SELECT m.id, m.session, s.sid, m.origin, m.seq, m.hlc, "
                             "m.parent_origin, m.parent_seq, m.kind, m.frag FROM message AS m "
                             "CROSS JOIN session AS s ON s.id = m.session WHERE m.id > ?1 "
                             "AND " OWN_MESSAGE "ORDER BY m.id",
                             false},
    [CS_SQL_REPLICA_UNSENT] = {"SELECT 1 FROM message AS m WHERE m.session = ?1 AND m.id > ?2 "
                               "AND " OWN_MESSAGE "LIMIT 1",
                               false},
    /* + keeps it off the session's index: the first behind the cursor is near it. */
    [CS_SQL_REPLICA_FIRST] = {"SELECT m.hlc FROM message AS m WHERE m.id > ?2 AND +m.session = ?1 "
                              "AND " OWN_MESSAGE "ORDER BY m.id LIMIT 1",
                              false},
    /* Sessions without the marked ones: CS_SQL_MARK_PENDING has those. */
    [CS_SQL_REPLICA_PENDING] =
        {"SELECT count(*), count(DISTINCT m.session) FILTER (WHERE NOT EXISTS (SELECT 1 "
         "FROM session AS s CROSS JOIN mark AS k ON k.sid = s.sid "
         "WHERE s.id = m.session AND k.dirty = 1)), min(m.at) "
         "FROM message AS m WHERE m.id > ?1 AND " OWN_MESSAGE,
         false},
    [CS_SQL_REPLICA_OTHERS] = {"SELECT m.origin, m.at, m.frag FROM message AS m WHERE m.id > ?1 "
                               "AND NOT " OWN_MESSAGE "ORDER BY m.id DESC",
                               false},
    [CS_SQL_REPLICA_LAST] =
        {"SELECT seq, hlc FROM message WHERE session = ?1 AND origin = ?2 " NEWEST, false},
    [CS_SQL_REPLICA_HASH] =
        {"SELECT parent_origin, parent_seq, frag FROM message WHERE session = ?1 "
         "AND hlc = ?2 AND origin = ?3 AND seq = ?4",
         false},
    [CS_SQL_REPLICA_RENUMBER] = {"UPDATE message SET origin = ?2, seq = ?3, parent_origin = ?4, "
                                 "parent_seq = ?5, hash = ?6 WHERE id = ?1",
                                 true},
    [CS_SQL_REPLICA_TURN] = {"SELECT turn FROM message WHERE session = ?1 AND origin = ?2 " NEWEST,
                             false},
    [CS_SQL_REPLICA_OWN] = {"SELECT 1 FROM origin WHERE id = ?1", false},
    [CS_SQL_REPLICA_SET_BRANCHED] =
        {"UPDATE session SET branched = 1 WHERE id = ?1 AND branched = 0", true},
    [CS_SQL_REPLICA_LINKS] = {"SELECT origin, seq, parent_origin, parent_seq FROM message "
                              "WHERE session = ?1 ORDER BY hlc, origin, seq",
                              false},
    [CS_SQL_REPLICA_USER] =
        {"SELECT min(name) FROM (SELECT min(user) AS name FROM session WHERE user > ?1 AND "
         "archived_at IS NULL UNION ALL SELECT min(user) FROM mark WHERE user > ?1)",
         false},
    [CS_SQL_REPLICA_SIDS] =
        {"SELECT sid FROM session WHERE user = ?1 AND archived_at IS NULL AND sid > ?2 "
         "ORDER BY sid LIMIT ?3",
         false},
    [CS_SQL_REPLICA_ARCHIVED] =
        {"SELECT sid FROM session WHERE user = ?1 AND archived_at IS NOT NULL AND sid > ?2 "
         "ORDER BY sid LIMIT ?3",
         false},

    [CS_SQL_MARK_GET] = {"SELECT cid, user, dirty, unsent, generation, stamp, aside, tomb "
                         "FROM mark WHERE sid = ?1",
                         false},
    [CS_SQL_MARK_FLAG] =
        {"INSERT INTO mark (sid, dirty, unsent, generation, unsent_from) "
         "VALUES (?1, 1, ?2, 1, ?3) ON CONFLICT (sid) DO UPDATE SET dirty = 1, aside = NULL, "
         "unsent = max(unsent, excluded.unsent), generation = generation + 1, "
         "unsent_from = min(coalesce(unsent_from, excluded.unsent_from), "
         "coalesce(excluded.unsent_from, unsent_from))",
         true},
    [CS_SQL_MARK_CLEAN] = {"UPDATE mark SET dirty = 0, unsent = 0, unsent_from = NULL, "
                           "aside = NULL, tomb_at = iif(tomb_at IS NULL, NULL, ?3) "
                           "WHERE sid = ?1 AND generation = ?2",
                           true},
    [CS_SQL_MARK_ASIDE] = {"INSERT INTO mark (sid, dirty, aside) VALUES (?1, 1, ?2) "
                           "ON CONFLICT (sid) DO UPDATE SET dirty = 1, aside = excluded.aside",
                           true},
    [CS_SQL_MARK_STAMP] = {"INSERT INTO mark (sid, stamp) VALUES (?1, ?2) ON CONFLICT (sid) "
                           "DO UPDATE SET stamp = max(stamp, excluded.stamp)",
                           true},
    [CS_SQL_MARK_BURY] =
        {"INSERT INTO mark (sid, cid, user, dirty, generation, tomb, tomb_at) "
         "VALUES (?1, ?2, ?3, 1, 1, ?4, ?5) ON CONFLICT (sid) DO UPDATE SET cid = excluded.cid, "
         "user = excluded.user, dirty = 1, aside = NULL, generation = generation + 1, "
         "tomb = excluded.tomb, tomb_at = excluded.tomb_at",
         true},
    [CS_SQL_MARK_PURGE] = {"DELETE FROM mark WHERE dirty = 0 AND tomb_at <= ?1 AND " NO_SESSION,
                           true},
    [CS_SQL_MARK_OVERFLOW] =
        {"DELETE FROM mark WHERE dirty = 1 AND tomb_at <= (SELECT tomb_at FROM mark "
         "WHERE dirty = 1 AND tomb_at IS NOT NULL ORDER BY tomb_at DESC LIMIT 1 OFFSET ?1) "
         "AND " NO_SESSION,
         true},
    [CS_SQL_MARK_LIST] = {"SELECT sid FROM mark WHERE dirty = 1 AND sid > ?1 "
                          "AND (?2 OR aside IS NULL) ORDER BY sid LIMIT ?3",
                          false},
    [CS_SQL_MARK_SIDS] = {"SELECT sid FROM mark WHERE user = ?1 AND sid > ?2 ORDER BY sid LIMIT ?3",
                          false},
    [CS_SQL_MARK_PENDING] =
        {"SELECT count(m.id), count(DISTINCT k.sid), min(m.at) FROM mark AS k "
         "LEFT JOIN session AS s ON s.sid = k.sid LEFT JOIN message AS m "
         "ON m.session = s.id AND m.hlc >= k.unsent_from AND m.id <= ?1 AND " OWN_MESSAGE
         "WHERE k.dirty = 1 AND k.sid > ''",
         false},
    [CS_SQL_MARK_EACH_ASIDE] =
        {"SELECT sid, aside FROM mark WHERE aside IS NOT NULL AND sid > '' ORDER BY sid LIMIT ?1",
         false},

    [CS_SQL_CURSOR_GET] = {"SELECT value FROM cursor WHERE name = ?1", false},
    [CS_SQL_CURSOR_SET] = {"INSERT INTO cursor (name, value) VALUES (?1, ?2) "
                           "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                           true},

    [CS_SQL_TALLY_ADD] = {"UPDATE tally SET value = value + ?2 WHERE name = ?1", true},
    [CS_SQL_TALLY_SET] = {"UPDATE tally SET value = ?2 WHERE name = ?1 AND value < ?2", true},
    [CS_SQL_TALLY_GET] = {"SELECT value FROM tally WHERE name = ?1", false},
    [CS_SQL_TOP_SESSION] = {"SELECT max(id) FROM session", false},
    [CS_SQL_TOP_MESSAGE] = {"SELECT max(id) FROM message", false},
    [CS_SQL_TOP_TURN] = {"SELECT max(id) FROM turn", false},
};

const char *cs_sql_text_of(enum cs_sql_id id)
{
    return statements[id].sql;
}

bool cs_sql_writes(enum cs_sql_id id)
{
    return statements[id].writes;
}

/* Keep the first failure. */
static void note(struct cs_sql *q, int rc)
{
    if (q->rc == SQLITE_OK && rc != SQLITE_OK)
        q->rc = rc;
}

void cs_sql_begin(struct cs_sql *q, struct cs_db *db, enum cs_sql_id id)
{
    *q = (struct cs_sql){.db = db, .rc = SQLITE_OK};
    if (db->stmts[id] == NULL) /* a reader prepares what it comes to need: six times all is 2 MB */
        q->rc = cs_db_prepare(db, id);
    q->stmt = db->stmts[id];
}

void cs_sql_int(struct cs_sql *q, int64_t value)
{
    if (q->rc == SQLITE_OK)
        note(q, sqlite3_bind_int64(q->stmt, ++q->bound, value));
}

void cs_sql_text(struct cs_sql *q, const char *text)
{
    if (text == NULL)
        text = "";
    cs_sql_textn(q, text, strlen(text));
}

void cs_sql_textn(struct cs_sql *q, const char *text, size_t len)
{
    if (q->rc == SQLITE_OK)
        note(q, sqlite3_bind_text64(q->stmt, ++q->bound, text, len, SQLITE_STATIC, SQLITE_UTF8));
}

void cs_sql_blob(struct cs_sql *q, const void *data, size_t len)
{
    if (q->rc == SQLITE_OK)
        note(q, sqlite3_bind_blob64(q->stmt, ++q->bound, data, len, SQLITE_STATIC));
}

void cs_sql_null(struct cs_sql *q)
{
    if (q->rc == SQLITE_OK)
        note(q, sqlite3_bind_null(q->stmt, ++q->bound));
}

bool cs_sql_next(struct cs_sql *q)
{
    int rc;

    if (q->rc != SQLITE_OK)
        return false;
    rc = sqlite3_step(q->stmt);
    if (rc == SQLITE_ROW)
        return true;
    if (rc != SQLITE_DONE)
        note(q, sqlite3_extended_errcode(q->db->sqlite));
    return false;
}

int64_t cs_sql_get_int(struct cs_sql *q, int column)
{
    return sqlite3_column_int64(q->stmt, column);
}

const char *cs_sql_get_text(struct cs_sql *q, int column, size_t *out_len)
{
    const char *text = (const char *)sqlite3_column_text(q->stmt, column);

    if (text == NULL && sqlite3_column_type(q->stmt, column) != SQLITE_NULL)
        note(q, SQLITE_NOMEM);
    if (out_len != NULL)
        *out_len = (size_t)sqlite3_column_bytes(q->stmt, column);
    return text;
}

const char *cs_sql_get_bytes(struct cs_sql *q, int column, size_t *out_len)
{
    const char *bytes = sqlite3_column_blob(q->stmt, column);

    if (bytes == NULL && sqlite3_column_type(q->stmt, column) != SQLITE_NULL)
        note(q, SQLITE_NOMEM);
    *out_len = (size_t)sqlite3_column_bytes(q->stmt, column);
    return bytes;
}

char *cs_sql_dup_text(struct cs_sql *q, int column)
{
    return cs_sql_dup(q, cs_sql_get_text(q, column, NULL));
}

char *cs_sql_dup(struct cs_sql *q, const char *text)
{
    char *copy = text != NULL ? strdup(text) : NULL;

    if (copy == NULL)
        note(q, SQLITE_NOMEM);
    return copy;
}

bool cs_sql_is_null(struct cs_sql *q, int column)
{
    return sqlite3_column_type(q->stmt, column) == SQLITE_NULL;
}

void cs_sql_copy_text(struct cs_sql *q, int column, char *out, size_t cap)
{
    size_t len = 0;
    const char *text = cs_sql_get_text(q, column, &len);

    if (len >= cap)
        len = cap - 1;
    if (len > 0)
        memcpy(out, text, len);
    out[len] = '\0';
}

enum cs_status cs_sql_end(struct cs_sql *q, const char *doing, struct cs_err *err)
{
    enum cs_status status = CS_OK;

    /* The words are the connection's: fetch them before the reset can replace them. */
    if (q->rc != SQLITE_OK)
        status = cs_db_fail(q->db, q->rc, doing, err);
    if (q->stmt != NULL) {
        sqlite3_reset(q->stmt);
        sqlite3_clear_bindings(q->stmt);
    }
    return status;
}

enum cs_status cs_sql_run(struct cs_sql *q, const char *doing, struct cs_err *err)
{
    (void)cs_sql_next(q);
    return cs_sql_end(q, doing, err);
}

int64_t cs_sql_changes(const struct cs_sql *q)
{
    return sqlite3_changes64(q->db->sqlite);
}

enum cs_status cs_sql_do(struct cs_db *db, enum cs_sql_id id, const char *doing, struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, id);
    return cs_sql_run(&q, doing, err);
}
