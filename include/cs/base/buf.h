/* base/buf: a growable byte buffer with a hard cap.
 *
 * Layer: base. A buffer serves one thread at a time. The first failure (cap reached: CS_TOO_LARGE;
 * no memory: CS_NO_MEM) sticks in `status`; later additions do nothing, so that a run of additions
 * needs one check at its end. The bytes are always followed by a NUL that `len` does not count.
 */
#ifndef CS_BASE_BUF_H
#define CS_BASE_BUF_H

#include <stddef.h>

#include "cs/base/err.h"

struct cs_buf {
    char *data;            /* owned; NULL while empty */
    size_t len;            /* bytes in use */
    size_t cap;            /* bytes allocated, the final NUL included */
    size_t max;            /* len never exceeds it */
    enum cs_status status; /* CS_OK, CS_TOO_LARGE or CS_NO_MEM */
};

/** An empty buffer of at most @max bytes. Allocates nothing. */
void cs_buf_init(struct cs_buf *buf, size_t max);
/** Free the bytes; the buffer is empty and usable again with the same cap. */
void cs_buf_fini(struct cs_buf *buf);
/** Empty it and forget a failure, keeping the memory. */
void cs_buf_reset(struct cs_buf *buf);

void cs_buf_add(struct cs_buf *buf, const void *data, size_t len);
void cs_buf_adds(struct cs_buf *buf, const char *text);
void cs_buf_addc(struct cs_buf *buf, char c);
void cs_buf_addf(struct cs_buf *buf, const char *fmt, ...) CS_PRINTF(2, 3);
/** Make room for @len more bytes and return where they go (then add to buf->len), or NULL.
 * A caller that uses fewer than @len ends them with a NUL. */
char *cs_buf_reserve(struct cs_buf *buf, size_t len);
/** Drop the first @len bytes, moving the rest down. */
void cs_buf_consume(struct cs_buf *buf, size_t len);

/** CS_OK, or the sticky failure recorded in @err. */
CS_MUST_USE enum cs_status cs_buf_check(const struct cs_buf *buf, struct cs_err *err);

/** Hand the bytes (NUL-terminated, for free()) to the caller and leave the buffer empty. An empty
 * buffer gives an allocated "". NULL when out of memory or when the buffer has failed. */
char *cs_buf_take(struct cs_buf *buf, size_t *out_len);

#endif
