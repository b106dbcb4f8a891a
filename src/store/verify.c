/* store/verify: the check of every row. */
#include <string.h>

#include "cs/base/buf.h"
#include "db.h"
#include "message.h"

/* More findings than this say nothing new. */
#define FINDINGS_MAX 100

struct report {
    struct cs_buf *out;
    int findings;
};

static void add(struct report *report, const char *sentence)
{
    if (report->findings++ < FINDINGS_MAX)
        cs_buf_addf(report->out, "%s\n", sentence);
}

/* Run @sql, whose first column is a sentence per finding. "ok" is none. */
static enum cs_status check_by_sql(struct cs_db *db, const char *sql, struct report *report,
                                   struct cs_err *err)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db->sqlite, sql, -1, &stmt, NULL);

    while (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(stmt, 0);

        rc = SQLITE_OK;
        if (text != NULL && strcmp(text, "ok") != 0)
            add(report, text);
    }
    if (rc != SQLITE_DONE)
        rc = sqlite3_extended_errcode(db->sqlite);
    (void)sqlite3_finalize(stmt);
    return rc == SQLITE_DONE ? CS_OK : cs_db_fail(db, rc, "verify the database", err);
}

/* Compare the hash of the row that @stmt stands on. */
static enum cs_status check_hash(sqlite3_stmt *stmt, struct cs_buf *sealed, bool *out_same,
                                 struct cs_err *err)
{
    const struct cs_identity identity = {
        .hlc = sqlite3_column_int64(stmt, 0),
        .origin = sqlite3_column_int64(stmt, 1),
        .seq = sqlite3_column_int64(stmt, 2),
        .parent_origin = sqlite3_column_int64(stmt, 3),
        .parent_seq = sqlite3_column_int64(stmt, 4),
        .kind = sqlite3_column_int64(stmt, 5),
        .at = sqlite3_column_int64(stmt, 6),
    };
    const void *hash = sqlite3_column_blob(stmt, 7);
    const void *frag = sqlite3_column_blob(stmt, 8);
    unsigned char fresh[CS_MESSAGE_HASH_LEN];
    enum cs_status status;

    cs_buf_reset(sealed);
    cs_identity_add(sealed, &identity);
    if (frag != NULL)
        cs_buf_add(sealed, frag, (size_t)sqlite3_column_bytes(stmt, 8));
    status = cs_buf_check(sealed, err);
    if (status == CS_OK)
        status = cs_message_hash(sealed, fresh, err);
    if (status == CS_OK)
        *out_same = hash != NULL && sqlite3_column_bytes(stmt, 7) == CS_MESSAGE_HASH_LEN &&
                    memcmp(hash, fresh, sizeof fresh) == 0;
    return status;
}

static enum cs_status check_hashes(struct cs_db *db, struct report *report, struct cs_err *err)
{
    static const char sql[] = "SELECT hlc, origin, seq, parent_origin, parent_seq, kind, at, hash, "
                              "frag, format('message %d has another hash than its text', id) "
                              "FROM message ORDER BY id";
    sqlite3_stmt *stmt = NULL;
    enum cs_status status = CS_OK;
    int rc = sqlite3_prepare_v2(db->sqlite, sql, -1, &stmt, NULL);

    while (status == CS_OK && rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        bool same = false;

        rc = SQLITE_OK;
        status = check_hash(stmt, &db->scratch, &same, err);
        if (status == CS_OK && !same)
            add(report, (const char *)sqlite3_column_text(stmt, 9));
    }
    if (status == CS_OK && rc != SQLITE_DONE)
        status = cs_db_fail(db, sqlite3_extended_errcode(db->sqlite), "verify the messages", err);
    (void)sqlite3_finalize(stmt);
    return status;
}

static enum cs_status check_all(struct cs_db *db, struct report *report, struct cs_err *err)
{
    static const char *const checks[] = {
        "PRAGMA integrity_check(100)",
        "SELECT format('session %d lacks messages of origin %016x', session, origin) FROM message "
        "GROUP BY session, origin HAVING count(*) <> max(seq) OR min(seq) <> 1",
        "SELECT format('message %d has no session', id) FROM message "
        "WHERE session NOT IN (SELECT id FROM session)",
        "SELECT format('turn %d has no session', id) FROM turn "
        "WHERE session NOT IN (SELECT id FROM session)",
        "SELECT format('idempotency key of turn %d has no turn', turn) FROM idempotency "
        "WHERE turn NOT IN (SELECT id FROM turn)",
    };
    enum cs_status status = cs_db_exec(db, "BEGIN", err);

    for (size_t i = 0; status == CS_OK && i < sizeof checks / sizeof *checks; i++)
        status = check_by_sql(db, checks[i], report, err);
    if (status == CS_OK)
        status = check_hashes(db, report, err);
    return status;
}

enum cs_status cs_store_verify(const char *dir, struct cs_buf *out, struct cs_err *err)
{
    struct report report = {.out = out};
    struct cs_err why = {.status = CS_OK};
    struct cs_db *db = NULL;
    enum cs_status status = cs_db_open_dir(dir, &db, &why);

    if (status == CS_OK)
        status = check_all(db, &report, &why);
    cs_db_close(db);
    if (status == CS_CORRUPT)
        add(&report, why.msg);
    else if (status != CS_OK)
        return cs_err_set(err, status, why.code, "%s", why.msg);
    status = cs_buf_check(out, err);
    if (status == CS_OK && report.findings > 0)
        return cs_err_set(err, CS_CORRUPT, "database_damaged", "%d findings", report.findings);
    return status;
}
