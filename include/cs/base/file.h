/* base/file: private files and folders.
 *
 * Layer: base. Any thread. Modes hold whatever the umask is.
 */
#ifndef CS_BASE_FILE_H
#define CS_BASE_FILE_H

#include <stddef.h>

#include "cs/base/buf.h"
#include "cs/base/err.h"

/** Create @path and its missing parents; @path itself gets mode 0700 (also when it existed and
 * belongs to us), new parents 0700. CS_INVALID if it is not a folder or belongs to another user. */
CS_MUST_USE enum cs_status cs_mkdir_private(const char *path, struct cs_err *err);

/** Append the whole file to @out. CS_NOT_FOUND, CS_TOO_LARGE (out's cap) or CS_IO. */
CS_MUST_USE enum cs_status cs_file_read(const char *path, struct cs_buf *out, struct cs_err *err);

/** Create or replace @path with mode 0600, atomically (temporary file, fsync, rename, fsync of the
 * folder). */
CS_MUST_USE enum cs_status cs_file_write_private(const char *path, const void *data, size_t len,
                                                 struct cs_err *err);

/** @dir + "/" + @name in new memory (free()), or NULL when out of memory. */
char *cs_path_join(const char *dir, const char *name);

#endif
