/* store/idempotency: the rows of table `idempotency`: which turn a client's Idempotency-Key began.
 *
 * Layer: store. W: needs the writer's cs_db.
 */
#ifndef CS_STORE_IDEMPOTENCY_H
#define CS_STORE_IDEMPOTENCY_H

#include <stdint.h>

#include "cs/base/hash.h"
#include "cs/store/store.h"

struct cs_idempotency {
    int64_t turn;                      /* rowid of the turn */
    unsigned char body[CS_SHA256_LEN]; /* hash of method, path and body */
    int64_t created_at;                /* wall ms */
};

/** W. Remember @key (1 … 255 bytes) for the turn. CS_CONFLICT if the key is known, also one too old
 * for cs_idempotency_find() that was not purged yet, or if the turn has a key already. */
CS_MUST_USE enum cs_status cs_idempotency_insert(struct cs_db *db, const char *key,
                                                 const struct cs_idempotency *entry,
                                                 struct cs_err *err);

/** CS_NOT_FOUND when the key is unknown or was made before @oldest (wall ms). */
CS_MUST_USE enum cs_status cs_idempotency_find(struct cs_db *db, const char *key, int64_t oldest,
                                               struct cs_idempotency *out_entry,
                                               struct cs_err *err);

/** W. Forget keys made before @oldest, at most @max. *out_next: created_at of the oldest left,
 * INT64_MAX for none. */
CS_MUST_USE enum cs_status cs_idempotency_purge(struct cs_db *db, int64_t oldest, unsigned max,
                                                int64_t *out_next, struct cs_err *err);

#endif
