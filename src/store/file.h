/* store/file: the files of the database, made private and durable. */
#ifndef CS_STORE_FILE_H
#define CS_STORE_FILE_H

#include "cs/base/err.h"

/** Create the empty file @path with mode 0600, durably. CS_CONFLICT (code "file_exists") if it
 * exists. */
CS_MUST_USE enum cs_status cs_create_private(const char *path, struct cs_err *err);

/** fsync the file @path. Not for a live database: closing it would drop SQLite's locks. */
CS_MUST_USE enum cs_status cs_sync_file(const char *path, struct cs_err *err);

/** fsync the folder that @path is in. */
CS_MUST_USE enum cs_status cs_sync_parent(const char *path, struct cs_err *err);

#endif
