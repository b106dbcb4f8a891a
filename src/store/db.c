#include "db.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "names.h"

/* A test builds a variant with NORMAL, to show that the power-loss test bites. */
#ifndef CS_SQLITE_SYNCHRONOUS
#define CS_SQLITE_SYNCHRONOUS "FULL"
#endif

/* Above the usual size of the WAL (1,000 pages), so that it is overwritten in place: a file that
 * keeps its size syncs faster than one that grows. */
#define JOURNAL_SIZE_LIMIT "16777216"

#define WRITER_CACHE_KIB "16384"
#define READER_CACHE_KIB "2048"

/* The largest row: a message of tens of MB, escaped. */
#define ROW_MAX (512 << 20)

#define BUSY_TIMEOUT_MS 5000

static void set_global(void)
{
    /* Each connection serves one thread at a time, and nobody asks how much memory SQLite uses:
     * both settings save locks on every allocation. They fail once SQLite is in use, which is
     * harmless. */
    (void)sqlite3_config(SQLITE_CONFIG_MULTITHREAD);
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

void cs_db_global_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, set_global);
}

enum cs_status cs_db_fail(struct cs_db *db, int rc, const char *doing, struct cs_err *err)
{
    bool live = db != NULL && db->sqlite != NULL;
    int errnum = live ? sqlite3_system_errno(db->sqlite) : 0;
    const char *words = live ? sqlite3_errmsg(db->sqlite) : sqlite3_errstr(rc);
    enum cs_status status = CS_INTERNAL;

    switch (rc & 0xff) {
    case SQLITE_NOMEM:
        return cs_err_nomem(err);
    case SQLITE_FULL:
        status = CS_FULL;
        break;
    case SQLITE_IOERR:
        if (rc == SQLITE_IOERR_NOMEM)
            return cs_err_nomem(err);
        status = errnum == ENOSPC || errnum == EDQUOT ? CS_FULL : CS_IO;
        break;
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
        status = errnum == ENOSPC || errnum == EDQUOT ? CS_FULL : CS_IO;
        break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        status = CS_CORRUPT;
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        status = CS_BUSY;
        break;
    case SQLITE_TOOBIG:
        status = CS_TOO_LARGE;
        break;
    case SQLITE_CONSTRAINT:
        status = CS_CONFLICT;
        break;
    default:
        break;
    }
    return cs_err_set(err, status, NULL, "%s: %s", doing, words);
}

enum cs_status cs_db_exec(struct cs_db *db, const char *sql, struct cs_err *err)
{
    int rc = sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL);

    return rc == SQLITE_OK ? CS_OK
                           : cs_db_fail(db, sqlite3_extended_errcode(db->sqlite), "database", err);
}

enum cs_status cs_db_int(struct cs_db *db, const char *sql, int64_t *out_value, struct cs_err *err)
{
    sqlite3_stmt *stmt = NULL;
    enum cs_status status = CS_OK;
    int rc = sqlite3_prepare_v2(db->sqlite, sql, -1, &stmt, NULL);

    if (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW)
        *out_value = sqlite3_column_int64(stmt, 0);
    else
        status = cs_db_fail(db, sqlite3_extended_errcode(db->sqlite), "database", err);
    sqlite3_finalize(stmt);
    return status;
}

/* Less than SQLite's defaults, which allow what no statement of ours needs. */
static void set_limits(sqlite3 *sqlite)
{
    static const struct {
        int limit, value;
    } limits[] = {
        {SQLITE_LIMIT_LENGTH, ROW_MAX},
        {SQLITE_LIMIT_SQL_LENGTH, 100000},
        {SQLITE_LIMIT_COLUMN, 64},
        {SQLITE_LIMIT_EXPR_DEPTH, 50},
        {SQLITE_LIMIT_COMPOUND_SELECT, 8},
        {SQLITE_LIMIT_VDBE_OP, 25000},
        {SQLITE_LIMIT_FUNCTION_ARG, 8},
        {SQLITE_LIMIT_ATTACHED, 1},
        {SQLITE_LIMIT_VARIABLE_NUMBER, 32},
        {SQLITE_LIMIT_TRIGGER_DEPTH, 1},
        {SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 64},
        {SQLITE_LIMIT_WORKER_THREADS, 0},
    };

    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        (void)sqlite3_limit(sqlite, limits[i].limit, limits[i].value);
}

/* A database file may have been made by somebody else: its schema can run nothing, and no statement
 * can damage it on purpose. */
static void harden(sqlite3 *sqlite)
{
    static const struct {
        int option, value;
    } options[] = {
        {SQLITE_DBCONFIG_DEFENSIVE, 1},      {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
        {SQLITE_DBCONFIG_DQS_DML, 0},        {SQLITE_DBCONFIG_DQS_DDL, 0},
        {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0}, {SQLITE_DBCONFIG_ENABLE_VIEW, 0},
    };

    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        (void)sqlite3_db_config(sqlite, options[i].option, options[i].value, NULL);
}

static enum cs_status configure(struct cs_db *db, enum cs_db_mode mode, struct cs_err *err)
{
    enum cs_status status;

    (void)sqlite3_extended_result_codes(db->sqlite, 1);
    (void)sqlite3_busy_timeout(db->sqlite, BUSY_TIMEOUT_MS);
    (void)sqlite3_wal_autocheckpoint(db->sqlite, 0);
    set_limits(db->sqlite);
    harden(db->sqlite);
    if (mode != CS_DB_WRITER) {
        (void)sqlite3_db_config(db->sqlite, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        return cs_db_exec(db,
                          "PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;"
                          "PRAGMA cache_size = -" READER_CACHE_KIB,
                          err);
    }
    /* No foreign keys: rows of a session go together in cs_session_delete(), and a check per
     * message would cost a look at the session's page. */
    status = cs_db_exec(db,
                        "PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;"
                        "PRAGMA cache_size = -" WRITER_CACHE_KIB ";"
                        "PRAGMA foreign_keys = OFF;"
                        "PRAGMA journal_mode = WAL;"
                        "PRAGMA synchronous = " CS_SQLITE_SYNCHRONOUS ";"
                        "PRAGMA journal_size_limit = " JOURNAL_SIZE_LIMIT,
                        err);
    return status;
}

/* The path as a URI that says that nobody changes the file meanwhile. */
static enum cs_status immutable_uri(const char *path, struct cs_buf *uri, struct cs_err *err)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-";

    cs_buf_adds(uri, "file:");
    for (const char *p = path; *p != '\0'; p++) {
        if (strchr(plain, *p) != NULL)
            cs_buf_addc(uri, *p);
        else
            cs_buf_addf(uri, "%%%02x", (unsigned)(unsigned char)*p);
    }
    cs_buf_adds(uri, "?immutable=1");
    return cs_buf_check(uri, err);
}

enum cs_status cs_db_open(const char *path, enum cs_db_mode mode, struct cs_db **out_db,
                          struct cs_err *err)
{
    int flags =
        SQLITE_OPEN_NOMUTEX | (mode == CS_DB_WRITER ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY);
    struct cs_db *db = calloc(1, sizeof *db);
    struct cs_buf uri;
    enum cs_status status = CS_OK;
    int rc;

    cs_buf_init(&uri, 16384);
    if (db == NULL) {
        status = cs_err_nomem(err);
        goto out;
    }
    cs_buf_init(&db->scratch, ROW_MAX);
    if (mode == CS_DB_IMMUTABLE) {
        status = immutable_uri(path, &uri, err);
        if (status != CS_OK)
            goto out;
        flags |= SQLITE_OPEN_URI;
        path = uri.data;
    }
    rc = sqlite3_open_v2(path, &db->sqlite, flags, NULL);
    if (rc != SQLITE_OK) {
        status = cs_db_fail(db, rc, "open the database", err);
        goto out;
    }
    status = configure(db, mode, err);
    if (status != CS_OK)
        goto out;
    *out_db = db;
    db = NULL;

out:
    cs_buf_fini(&uri);
    cs_db_close(db);
    return status;
}

enum cs_status cs_db_open_dir(const char *dir, struct cs_db **out_db, struct cs_err *err)
{
    char *path = cs_store_path(dir);
    struct stat st;
    enum cs_status status;

    if (path == NULL)
        return cs_err_nomem(err);
    cs_db_global_init();
    if (stat(path, &st) == 0)
        status = cs_db_open(path, CS_DB_READER, out_db, err);
    else if (errno == ENOENT)
        status = cs_err_set(err, CS_NOT_FOUND, "database_not_found", "no database in %s", dir);
    else
        status = cs_err_errno(err, errno, "look at the database");
    free(path);
    return status;
}

int cs_db_prepare(struct cs_db *db, enum cs_sql_id id)
{
    if (cs_sql_writes(id) && !db->writer)
        return SQLITE_READONLY;
    return sqlite3_prepare_v3(db->sqlite, cs_sql_text_of(id), -1, SQLITE_PREPARE_PERSISTENT,
                              &db->stmts[id], NULL);
}

enum cs_status cs_db_prepare_all(struct cs_db *db, struct cs_err *err)
{
    db->writer = true;
    for (int i = 0; i < CS_SQL_COUNT; i++) {
        int rc = cs_db_prepare(db, (enum cs_sql_id)i);

        if (rc != SQLITE_OK)
            return cs_db_fail(db, rc, "prepare a statement", err);
    }
    return CS_OK;
}

void cs_db_close(struct cs_db *db)
{
    if (db == NULL)
        return;
    for (int i = 0; i < CS_SQL_COUNT; i++)
        (void)sqlite3_finalize(db->stmts[i]);
    (void)sqlite3_close(db->sqlite);
    cs_buf_fini(&db->scratch);
    free(db->appended);
    free(db);
}

enum cs_status cs_db_note_appended(struct cs_db *db, int64_t id, int64_t session,
                                   struct cs_err *err)
{
    if (db->appended_count == db->appended_cap) {
        size_t more = db->appended_cap > 0 ? db->appended_cap * 2 : 64;
        void *grown = reallocarray(db->appended, more, sizeof *db->appended);

        if (grown == NULL)
            return cs_err_nomem(err);
        db->appended = grown;
        db->appended_cap = more;
    }
    db->appended[db->appended_count++] = (struct cs_appended){id, session};
    return CS_OK;
}
