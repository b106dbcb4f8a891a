#include "migrate.h"

#include <stdio.h>

#include "cs/base/embed.h"

extern const struct cs_embedded cs_migrations[];

int cs_migrate_newest(void)
{
    int count = 0;

    while (cs_migrations[count].name != NULL)
        count++;
    return count;
}

static enum cs_status apply(struct cs_db *db, const struct cs_embedded *migration, int version,
                            struct cs_err *err)
{
    char stamp[80];
    enum cs_status status = cs_db_exec(db, "BEGIN IMMEDIATE", err);

    if (status != CS_OK)
        return status;
    status = cs_db_exec(db, (const char *)migration->data, err);
    if (status != CS_OK)
        goto undo;
    (void)snprintf(stamp, sizeof stamp, "PRAGMA application_id = %d; PRAGMA user_version = %d",
                   CS_APPLICATION_ID, version);
    status = cs_db_exec(db, stamp, err);
    if (status != CS_OK)
        goto undo;
    status = cs_db_exec(db, "COMMIT", err);
    if (status == CS_OK)
        return CS_OK;

undo:
    if (sqlite3_get_autocommit(db->sqlite) == 0)
        (void)sqlite3_exec(db->sqlite, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

enum cs_status cs_migrate(struct cs_db *db, struct cs_err *err)
{
    int64_t version = 0;
    enum cs_status status = cs_db_int(db, "PRAGMA user_version", &version, err);

    for (int i = (int)version; status == CS_OK && cs_migrations[i].name != NULL; i++)
        status = apply(db, &cs_migrations[i], i + 1, err);
    return status;
}
