/* base/hash: SHA-256 (OpenSSL).
 *
 * Layer: base. Any thread.
 */
#ifndef CS_BASE_HASH_H
#define CS_BASE_HASH_H

#include <stddef.h>

#include "cs/base/err.h"

#define CS_SHA256_LEN 32

CS_MUST_USE enum cs_status cs_sha256(const void *data, size_t len, unsigned char out[CS_SHA256_LEN],
                                     struct cs_err *err);

#endif
