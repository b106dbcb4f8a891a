#include "damage.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cs/base/clock.h"
#include "db.h"
#include "file.h"
#include "migrate.h"

/* quick_check reads the whole file: 0.1 s per 100 MB from the cache, as long as the disk takes
 * else. Larger files are not read at every start, only when asked (cs_store_verify). */
#define CHECK_MAX_BYTES (INT64_C(2) << 30)

static const char *const suffixes[] = {"", "-wal", "-shm"};

bool cs_damage_has_wal(const char *path)
{
    char wal[PATH_MAX];
    struct stat st;

    return snprintf(wal, sizeof wal, "%s-wal", path) < (int)sizeof wal && lstat(wal, &st) == 0 &&
           st.st_size > 0;
}

static enum cs_status check_owner(struct cs_db *db, struct cs_err *err)
{
    int64_t id = 0;
    int64_t version = 0;
    int64_t tables = 0;
    enum cs_status status = cs_db_int(db, "PRAGMA application_id", &id, err);

    if (status == CS_OK)
        status = cs_db_int(db, "PRAGMA user_version", &version, err);
    if (status == CS_OK && id == CS_APPLICATION_ID && version > cs_migrate_newest())
        return cs_err_set(
            err, CS_CONFLICT, "database_newer",
            "the database has version %lld, this program knows up to %d: use the newer "
            "program",
            (long long)version, cs_migrate_newest());
    if (status != CS_OK || id == CS_APPLICATION_ID)
        return status;
    /* Not marked yet: a start that died before the first migration left an empty database. */
    status = cs_db_int(db, "SELECT count(*) FROM sqlite_schema", &tables, err);
    if (status == CS_OK && (id != 0 || version != 0 || tables != 0))
        return cs_err_set(err, CS_CONFLICT, "database_foreign",
                          "the database file belongs to another program");
    return status;
}

/* quick_check reports a page that it could not read as a finding, too: what memory or disk refused
 * is no damage. SQLITE_OK if @finding is one indeed, else the code of the failure. */
static int refused(const char *finding)
{
    static const char mark[] = "error code=";
    const char *at = strstr(finding, mark);
    long code = at != NULL ? strtol(at + sizeof mark - 1, NULL, 10) : SQLITE_OK;

    if (strstr(finding, "failed to get page") != NULL)
        return SQLITE_IOERR;
    return (code & 0xff) == SQLITE_NOMEM || (code & 0xff) == SQLITE_IOERR ? (int)code : SQLITE_OK;
}

/* Append the findings of quick_check to @damage; none leaves it empty. */
static enum cs_status quick_check(struct cs_db *db, char *damage, size_t cap, struct cs_err *err)
{
    sqlite3_stmt *stmt = NULL;
    size_t used = 0;
    int rc = sqlite3_prepare_v2(db->sqlite, "PRAGMA quick_check(3)", -1, &stmt, NULL);

    while (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(stmt, 0);

        rc = text != NULL ? refused(text) : SQLITE_NOMEM;
        if (rc != SQLITE_OK || strcmp(text, "ok") == 0 || used + 3 > cap)
            continue;
        (void)snprintf(damage + used, cap - used, "%s%s", used > 0 ? "; " : "", text);
        used = strlen(damage);
    }
    (void)sqlite3_finalize(stmt);
    return rc == SQLITE_DONE ? CS_OK : cs_db_fail(db, rc, "check the database", err);
}

enum cs_status cs_damage_inspect(const char *path, struct cs_inspection *out, struct cs_err *err)
{
    struct cs_inspection seen = {.exists = true};
    struct cs_err why = {.status = CS_OK};
    struct cs_db *db = NULL;
    struct stat st;
    enum cs_status status;

    if (stat(path, &st) != 0) {
        if (errno != ENOENT)
            return cs_err_errno(err, errno, "look at the database");
        *out = (struct cs_inspection){.exists = false};
        return CS_OK;
    }
    /* A WAL with content belongs to the database, and reading it needs the file of shared memory.
     * Without one nothing but the database file is touched. */
    status = cs_db_open(path, cs_damage_has_wal(path) ? CS_DB_READER : CS_DB_IMMUTABLE, &db, &why);
    if (status == CS_OK)
        status = check_owner(db, &why);
    if (status == CS_OK && st.st_size <= CHECK_MAX_BYTES)
        status = quick_check(db, seen.damage, sizeof seen.damage, &why);
    cs_db_close(db);
    if (status == CS_CORRUPT && seen.damage[0] == '\0')
        (void)snprintf(seen.damage, sizeof seen.damage, "%s", why.msg);
    seen.damaged = seen.damage[0] != '\0';
    if (status != CS_OK && status != CS_CORRUPT)
        return cs_err_set(err, status, why.code, "%s", why.msg);
    *out = seen;
    return CS_OK;
}

/* A path that no file has yet. */
static enum cs_status free_name(const char *path, char *out, size_t cap, struct cs_err *err)
{
    char iso[CS_ISO_MAX];
    char stamp[CS_ISO_MAX];
    size_t used = 0;
    struct stat st;

    cs_clock_iso(cs_clock_ms(), iso);
    for (const char *p = iso; *p != '\0'; p++) {
        if (strchr("-:.", *p) == NULL)
            stamp[used++] = *p;
    }
    stamp[used] = '\0';
    for (int i = 0; i < 1000; i++) {
        int len = i == 0 ? snprintf(out, cap, "%s.damaged-%s", path, stamp)
                         : snprintf(out, cap, "%s.damaged-%s.%d", path, stamp, i);

        if (len < 0 || (size_t)len + sizeof "-wal" > cap)
            return cs_err_set(err, CS_INVALID, NULL, "the path of the database is too long");
        if (lstat(out, &st) != 0 && errno == ENOENT)
            return CS_OK;
    }
    return cs_err_set(err, CS_IO, NULL, "no free name for the damaged database");
}

enum cs_status cs_damage_set_aside(const char *path, char *out, size_t out_cap, struct cs_err *err)
{
    char from[PATH_MAX];
    char to[PATH_MAX];
    char base[PATH_MAX];
    enum cs_status status = free_name(path, base, sizeof base, err);

    if (status != CS_OK)
        return status;
    /* The database first: a WAL that is left behind by a crash in between is set aside by the next
     * start, before a new database could take it for its own. */
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (snprintf(from, sizeof from, "%s%s", path, suffixes[i]) >= (int)sizeof from ||
            snprintf(to, sizeof to, "%s%s", base, suffixes[i]) >= (int)sizeof to)
            return cs_err_set(err, CS_INVALID, NULL, "the path of the database is too long");
        if (rename(from, to) != 0 && errno != ENOENT)
            return cs_err_errno(err, errno, "set the damaged database aside");
    }
    status = cs_sync_parent(path, err);
    if (status == CS_OK)
        (void)snprintf(out, out_cap, "%s", base);
    return status;
}
