/* base/hash: digests (OpenSSL) and base64.
 *
 * Layer: base. Any thread.
 */
#ifndef CS_BASE_HASH_H
#define CS_BASE_HASH_H

#include <stddef.h>

#include "cs/base/buf.h"
#include "cs/base/err.h"

#define CS_SHA256_LEN 32

CS_MUST_USE enum cs_status cs_sha256(const void *data, size_t len, unsigned char out[CS_SHA256_LEN],
                                     struct cs_err *err);

CS_MUST_USE enum cs_status cs_hmac_sha256(const void *key, size_t key_len, const void *data,
                                          size_t len, unsigned char out[CS_SHA256_LEN],
                                          struct cs_err *err);

/** The SHA-1 as 40 hex digits and a NUL: for what Redis names by it, never for safety. */
CS_MUST_USE enum cs_status cs_sha1_hex(const void *data, size_t len, char out[41],
                                       struct cs_err *err);
/** The same in base64, for WebSocket's handshake: 28 characters and a NUL. */
CS_MUST_USE enum cs_status cs_sha1_base64(const void *data, size_t len, char out[29],
                                          struct cs_err *err);

/** Append @len bytes in base64. */
void cs_base64(struct cs_buf *out, const void *data, size_t len);

#endif
