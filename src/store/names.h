/* store/names: origins as numbers and as text, and where the database file is. */
#ifndef CS_STORE_NAMES_H
#define CS_STORE_NAMES_H

#include <stdint.h>

#include "cs/base/err.h"

/** 16 hex digits and a NUL. */
#define CS_ORIGIN_MAX 17

/** A random origin: 63 bits, so that the order of the numbers is the order of their hex digits, the
 * same on every host. Never 0. */
CS_MUST_USE enum cs_status cs_origin_new(int64_t *out_origin, struct cs_err *err);
/** The number as 16 hex digits. */
void cs_origin_name(int64_t origin, char out[CS_ORIGIN_MAX]);
/** 16 lower-case hex digits → number. CS_INVALID for anything else. */
CS_MUST_USE enum cs_status cs_origin_parse(const char *name, int64_t *out_origin,
                                           struct cs_err *err);

/** The path of the database in @dir, in new memory; NULL when out of memory. */
char *cs_store_path(const char *dir);

#endif
