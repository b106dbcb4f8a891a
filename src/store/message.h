/* store/message, inside the store: the hash that a message carries.
 *
 * It covers what makes the message the same on every host: its identity, then its rendered text.
 * Both stand in one buffer, so that appending hashes what it has just rendered without a copy.
 */
#ifndef CS_STORE_MESSAGE_PRIV_H
#define CS_STORE_MESSAGE_PRIV_H

#include <stdint.h>

#include "cs/store/message.h"

#define CS_MESSAGE_HASH_LEN 16

/** The bytes that cs_identity_add() writes. */
#define CS_IDENTITY_LEN 56

struct cs_identity {
    int64_t hlc, origin, seq;
    int64_t parent_origin,
        parent_seq; /* the newest message in order when this one was appended; 0 for none */
    int64_t kind;
    int64_t at; /* wall ms */
};

/** Append the identity as big-endian numbers in the order of the struct. */
void cs_identity_add(struct cs_buf *out, const struct cs_identity *identity);

/** The first bytes of the SHA-256 of @sealed: an identity and a rendered message. */
CS_MUST_USE enum cs_status cs_message_hash(const struct cs_buf *sealed,
                                           unsigned char out[CS_MESSAGE_HASH_LEN],
                                           struct cs_err *err);

#endif
