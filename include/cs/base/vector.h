/* base/vector: version vectors: how far the messages of each origin are known.
 *
 * Layer: base. An origin is a random number of 63 bits, written as 16 hex digits. A vector serves
 * one thread at a time; zero-initialised it is empty.
 */
#ifndef CS_BASE_VECTOR_H
#define CS_BASE_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/buf.h"
#include "cs/base/err.h"
#include "cs/base/json.h"

/** 16 hex digits and a NUL. */
#define CS_VECTOR_NAME_MAX 17

struct cs_vector_item {
    int64_t origin; /* ≥ 1 */
    int64_t seq;    /* ≥ 1 */
};
struct cs_vector {
    struct cs_vector_item *items; /* owned; ascending origins */
    size_t count, cap;
};

void cs_vector_fini(struct cs_vector *vector);
/** The sequence of @origin; 0 when it is not in the vector. */
int64_t cs_vector_get(const struct cs_vector *vector, int64_t origin);
/** Raise @origin to at least @seq. CS_NO_MEM. */
CS_MUST_USE enum cs_status cs_vector_raise(struct cs_vector *vector, int64_t origin, int64_t seq,
                                           struct cs_err *err);
/** Raise every origin to what @other has. */
CS_MUST_USE enum cs_status cs_vector_join(struct cs_vector *vector, const struct cs_vector *other,
                                          struct cs_err *err);
/** Whether @other has all that @vector has. */
bool cs_vector_le(const struct cs_vector *vector, const struct cs_vector *other);

/** Append {"<origin>":n,…} in ascending order, without blanks. */
void cs_vector_write(const struct cs_vector *vector, struct cs_buf *out);
/** Read what cs_vector_write() wrote: an object of positive integers whose names are 16 lower-case
 * hex digits. CS_INVALID, code "invalid_vector". Caller: cs_vector_fini(). */
CS_MUST_USE enum cs_status cs_vector_read(const struct cs_json *object,
                                          struct cs_vector *out_vector, struct cs_err *err);
CS_MUST_USE enum cs_status cs_vector_parse(const char *text, size_t len,
                                           struct cs_vector *out_vector, struct cs_err *err);

void cs_vector_name(int64_t origin, char out[CS_VECTOR_NAME_MAX]);
/** 16 lower-case hex digits → origin; 0 for anything else. */
int64_t cs_vector_origin(const char *name);

#endif
