/* store/sql: every statement in one array, and a short way to run one.
 *
 *     struct cs_sql q;
 *     cs_sql_begin(&q, db, CS_SQL_TURN_BY_ID);
 *     cs_sql_int(&q, id);
 *     found = cs_sql_next(&q);
 *     … read columns …
 *     return cs_sql_end(&q, "read a turn", err);
 *
 * The first failure sticks in the struct; cs_sql_end() reports it and always resets the statement
 * (one left unreset would pin the WAL).
 */
#ifndef CS_STORE_SQL_H
#define CS_STORE_SQL_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/store/store.h"

enum cs_sql_id {
    CS_SQL_READ,
    CS_SQL_BEGIN,
    CS_SQL_COMMIT,
    CS_SQL_ROLLBACK,
    CS_SQL_SAVE,
    CS_SQL_RELEASE,
    CS_SQL_UNDO,

    CS_SQL_ORIGIN_INSERT,

    CS_SQL_SESSION_INSERT,
    CS_SQL_SESSION_BY_ID,
    CS_SQL_SESSION_BY_SID,
    CS_SQL_SESSION_BY_CID,
    CS_SQL_SESSION_STATE,
    CS_SQL_SESSION_SET_MODEL,
    CS_SQL_SESSION_ARCHIVE,
    CS_SQL_SESSION_RESTORE,
    CS_SQL_SESSION_DELETE,
    CS_SQL_SESSION_LIST,
    CS_SQL_SESSION_LIST_LIVE,
    CS_SQL_SESSION_LIST_USER,
    CS_SQL_SESSION_LIST_USER_LIVE,
    CS_SQL_SESSION_COUNT_LIVE,
    CS_SQL_SESSION_LEAST_RECENT,
    CS_SQL_SESSION_OLDEST_LIVE,
    CS_SQL_SESSION_DUE,
    CS_SQL_SESSION_SET_CHECK,
    CS_SQL_SESSION_NEXT_CHECK,
    CS_SQL_SESSION_NEXT_PURGE,

    CS_SQL_MESSAGE_INSERT,
    CS_SQL_MESSAGE_NEWEST,
    CS_SQL_MESSAGE_NEWEST_SEQ,
    CS_SQL_MESSAGE_NEWEST_TURN,
    CS_SQL_MESSAGE_PLACE,
    CS_SQL_MESSAGE_PAGE_START,
    CS_SQL_MESSAGE_WHOLE,
    CS_SQL_MESSAGE_UNTIL,
    CS_SQL_MESSAGE_FROM,
    CS_SQL_MESSAGE_ANSWERED,
    CS_SQL_MESSAGE_TALK,
    CS_SQL_MESSAGE_BY_ID,
    CS_SQL_MESSAGE_NEWEST_FRAG,
    CS_SQL_MESSAGE_LIKE,
    CS_SQL_MESSAGE_ROW,
    CS_SQL_MESSAGE_IDS,
    CS_SQL_MESSAGE_IDS_SESSION,
    CS_SQL_MESSAGE_IDS_USER,
    CS_SQL_MESSAGE_DELETE,

    CS_SQL_TURN_INSERT,
    CS_SQL_TURN_FINISH,
    CS_SQL_TURN_BY_ID,
    CS_SQL_TURN_BY_TID,
    CS_SQL_TURN_LAST,
    CS_SQL_TURN_LIST,
    CS_SQL_TURN_RUNNING,
    CS_SQL_TURN_ANY_RUNNING,
    CS_SQL_TURN_DELETE,

    CS_SQL_IDEMPOTENCY_INSERT,
    CS_SQL_IDEMPOTENCY_FIND,
    CS_SQL_IDEMPOTENCY_PURGE,
    CS_SQL_IDEMPOTENCY_NEXT,
    CS_SQL_IDEMPOTENCY_DELETE,

    CS_SQL_REPLICA_SESSION,
    CS_SQL_REPLICA_VECTOR,
    CS_SQL_REPLICA_ALL,
    CS_SQL_REPLICA_FROM,
    CS_SQL_REPLICA_NEWS,
    CS_SQL_REPLICA_UNSENT,
    CS_SQL_REPLICA_FIRST,
    CS_SQL_REPLICA_PENDING,
    CS_SQL_REPLICA_OTHERS,
    CS_SQL_REPLICA_LAST,
    CS_SQL_REPLICA_HASH,
    CS_SQL_REPLICA_RENUMBER,
    CS_SQL_REPLICA_TURN,
    CS_SQL_REPLICA_OWN,
    CS_SQL_REPLICA_SET_BRANCHED,
    CS_SQL_REPLICA_LINKS,
    CS_SQL_REPLICA_USER,
    CS_SQL_REPLICA_SIDS,
    CS_SQL_REPLICA_ARCHIVED,

    CS_SQL_MARK_GET,
    CS_SQL_MARK_FLAG,
    CS_SQL_MARK_CLEAN,
    CS_SQL_MARK_ASIDE,
    CS_SQL_MARK_STAMP,
    CS_SQL_MARK_BURY,
    CS_SQL_MARK_PURGE,
    CS_SQL_MARK_OVERFLOW,
    CS_SQL_MARK_LIST,
    CS_SQL_MARK_SIDS,
    CS_SQL_MARK_PENDING,
    CS_SQL_MARK_EACH_ASIDE,

    CS_SQL_CURSOR_GET,
    CS_SQL_CURSOR_SET,

    CS_SQL_TALLY_ADD,
    CS_SQL_TALLY_SET,
    CS_SQL_TALLY_GET,
    CS_SQL_TOP_SESSION,
    CS_SQL_TOP_MESSAGE,
    CS_SQL_TOP_TURN,

    CS_SQL_COUNT,
};

/** The text of a statement. */
const char *cs_sql_text_of(enum cs_sql_id id);
/** Whether it needs the writer. */
bool cs_sql_writes(enum cs_sql_id id);

/** A run of a statement. */
struct cs_sql {
    struct cs_db *db;   /* borrowed */
    sqlite3_stmt *stmt; /* borrowed from db */
    int bound;          /* parameters bound so far */
    int rc;             /* SQLITE_OK, or the first failure */
};

void cs_sql_begin(struct cs_sql *q, struct cs_db *db, enum cs_sql_id id);

/* Bind the next parameter. Memory is borrowed until cs_sql_end(). */
void cs_sql_int(struct cs_sql *q, int64_t value);
void cs_sql_text(struct cs_sql *q, const char *text); /* NULL binds "" */
void cs_sql_textn(struct cs_sql *q, const char *text, size_t len);
void cs_sql_blob(struct cs_sql *q, const void *data, size_t len);
void cs_sql_null(struct cs_sql *q);

/** Step to the next row. False at the end and on failure. */
bool cs_sql_next(struct cs_sql *q);

/* Columns of the row, from 0. */
int64_t cs_sql_get_int(struct cs_sql *q, int column);
/** A borrowed text, valid until the next step; *out_len (may be NULL) counts bytes. NULL for a null
 * column, or when out of memory (which then sticks). */
const char *cs_sql_get_text(struct cs_sql *q, int column, size_t *out_len);
/** The same without a NUL after it, which saves a copy. */
const char *cs_sql_get_bytes(struct cs_sql *q, int column, size_t *out_len);
/** A copy of a text for the caller to free; out of memory sticks. */
char *cs_sql_dup_text(struct cs_sql *q, int column);

/** A copy of @text, likewise. */
char *cs_sql_dup(struct cs_sql *q, const char *text);
bool cs_sql_is_null(struct cs_sql *q, int column);
/** Copy a short text into @out, cut to fit. */
void cs_sql_copy_text(struct cs_sql *q, int column, char *out, size_t cap);

/** Reset the statement and report the first failure. */
CS_MUST_USE enum cs_status cs_sql_end(struct cs_sql *q, const char *doing, struct cs_err *err);
/** Step once and end: for statements without rows. */
CS_MUST_USE enum cs_status cs_sql_run(struct cs_sql *q, const char *doing, struct cs_err *err);
/** Rows changed by the last statement that ended on this connection. */
int64_t cs_sql_changes(const struct cs_sql *q);

/** Run a statement that has no parameters and no rows. */
CS_MUST_USE enum cs_status cs_sql_do(struct cs_db *db, enum cs_sql_id id, const char *doing,
                                     struct cs_err *err);

#endif
