/* store/damage: looks at a database file before it is used, and sets a damaged one aside. */
#ifndef CS_STORE_DAMAGE_H
#define CS_STORE_DAMAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "cs/base/err.h"

struct cs_inspection {
    bool exists;
    bool damaged;
    char damage[512]; /* what the check said */
};

/**
 * Look at the database @path (which may be missing) without changing a byte of it: it must be ours
 * and not of a newer program (else CS_CONFLICT, code "database_foreign" or "database_newer"), and
 * is checked by quick_check. Damage is no error: it is told in *out.
 */
CS_MUST_USE enum cs_status cs_damage_inspect(const char *path, struct cs_inspection *out,
                                             struct cs_err *err);

/** Rename @path, its WAL and its shared memory file (those that exist) to @path.damaged-<time>…;
 * @out gets the new path of the database. */
CS_MUST_USE enum cs_status cs_damage_set_aside(const char *path, char *out, size_t out_cap,
                                               struct cs_err *err);

/** Whether a WAL with content lies beside where @path should be. */
bool cs_damage_has_wal(const char *path);

#endif
