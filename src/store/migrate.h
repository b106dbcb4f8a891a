/* store/migrate: brings a database to today's tables. */
#ifndef CS_STORE_MIGRATE_H
#define CS_STORE_MIGRATE_H

#include "db.h"

/** "CxSd": marks a file as ours. */
#define CS_APPLICATION_ID 0x43785364

/** The version that this program makes: the number of migrations. */
int cs_migrate_newest(void);

/** Run the migrations that @db lacks, each in a transaction of its own that also sets the version.
 */
CS_MUST_USE enum cs_status cs_migrate(struct cs_db *db, struct cs_err *err);

#endif
