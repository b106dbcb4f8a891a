/* store/backup: a copy of the database while it serves. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cs/base/uuid.h"
#include "cs/store/store.h"
#include "db.h"
#include "file.h"

static enum cs_status vacuum_into(struct cs_db *db, const char *path, struct cs_err *err)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db->sqlite, "VACUUM INTO ?1", -1, &stmt, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(stmt, 1, path, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc != SQLITE_DONE)
        rc = sqlite3_extended_errcode(db->sqlite);
    (void)sqlite3_finalize(stmt);
    return rc == SQLITE_DONE ? CS_OK : cs_db_fail(db, rc, "copy the database", err);
}

/* Give the finished copy @part its name @path, which must be free. */
static enum cs_status publish(const char *part, const char *path, struct cs_err *err)
{
    if (link(part, path) != 0) {
        if (errno == EEXIST)
            return cs_err_set(err, CS_CONFLICT, "file_exists", "%s exists already", path);
        return cs_err_errno(err, errno, "name the backup");
    }
    return CS_OK;
}

enum cs_status cs_store_backup(const char *dir, const char *path, struct cs_err *err)
{
    char random[8];
    char suffix[2 * sizeof random + 1];
    char part[PATH_MAX];
    struct cs_db *db = NULL;
    struct stat st;
    bool made = false;
    enum cs_status status;

    if (lstat(path, &st) == 0)
        return cs_err_set(err, CS_CONFLICT, "file_exists", "%s exists already", path);
    status = cs_random(random, sizeof random, err);
    if (status != CS_OK)
        return status;
    /* Under another name until it is whole: what bears the asked name is a backup. */
    cs_hex(random, sizeof random, suffix);
    if (snprintf(part, sizeof part, "%s.part-%s", path, suffix) >= (int)sizeof part)
        return cs_err_set(err, CS_INVALID, NULL, "the path of the backup is too long");
    status = cs_db_open_dir(dir, &db, err);
    if (status == CS_OK)
        status = cs_create_private(part, err);
    made = status == CS_OK;
    if (status == CS_OK)
        status = vacuum_into(db, part, err);
    if (status == CS_OK)
        status = cs_sync_file(part, err);
    if (status == CS_OK)
        status = publish(part, path, err);
    if (made)
        (void)unlink(part);
    if (status == CS_OK)
        status = cs_sync_parent(path, err);
    cs_db_close(db);
    return status;
}
