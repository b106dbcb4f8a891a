/* base/uuid: identifiers and random bytes (libuuid, getrandom).
 *
 * Layer: base. Any thread.
 */
#ifndef CS_BASE_UUID_H
#define CS_BASE_UUID_H

#include <stdbool.h>
#include <stddef.h>

#include "cs/base/err.h"

/** 36 characters and a NUL. */
#define CS_UUID_MAX 37

/** A page of ids in ascending order. */
struct cs_id_page {
    char (*ids)[CS_UUID_MAX]; /* room for `max` */
    size_t max, count;
};

/** A new version 7 UUID (RFC 9562), lower case: 48 bits of wall time, so that index insertions stay
 * together, then random bits. */
CS_MUST_USE enum cs_status cs_uuid_new(char out[CS_UUID_MAX], struct cs_err *err);

/** Whether @text is a UUID in its 36-character form. */
bool cs_uuid_valid(const char *text);

/** Fill @out with @len random bytes from the kernel. */
CS_MUST_USE enum cs_status cs_random(void *out, size_t len, struct cs_err *err);

/** Write @len bytes as 2*@len lower-case hex digits and a NUL. */
void cs_hex(const void *bytes, size_t len, char *out);

/** Whether two byte strings are equal, in time that depends on @len only. */
bool cs_equal_secret(const void *a, const void *b, size_t len);

#endif
