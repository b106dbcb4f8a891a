/* The names of all keys in Redis, and the constants that C and the scripts share.
 *
 * schema/redis.md describes them for readers; the scripts get whole names from C.
 */
#ifndef CS_MIRROR_KEYS_H
#define CS_MIRROR_KEYS_H

#define CS_KEY_SESSION      "codex:session:"      /* + session id: JSON string */
#define CS_KEY_CONVERSATION "codex:conversation:" /* + conversation id: session id */
#define CS_KEY_USER         "user:sessions:"      /* + user id: set of session ids */
#define CS_KEY_LOG          "cx:log:"             /* + user id: stream */
#define CS_KEY_TOMB         "cx:tomb:"            /* + session id: version vector */
#define CS_KEY_LEASE        "cx:lease:"           /* + session id: token and host */

#define CS_TAIL_WIDTH     1024 /* bytes of a session's tail; it doubles when its vector outgrows it */
#define CS_TAIL_WIDTH_MAX 65536 /* and never passes this */
#define CS_PROTOCOL       1     /* _cx.p; a higher one in Redis is read and never written */

#define CS_LOG_LENGTH 1000   /* entries kept in a user's log, about */
#define CS_LOG_TTL_S  604800 /* 7 days */
#define CS_TOMB_TTL_S 604800
#define CS_LEASE_MS   60000
#define CS_VALUE_MAX  67108864 /* bytes of a session's value */
#define CS_ENTRY_MAX  4096    /* payload of a log entry; above it the entry points into the value */
#define CS_PIECE_MAX  6144    /* bytes that a script joins to others; more go on their own */
#define CS_LONG_TTL_S 2592000 /* 30 days: a session without a time to live */
#define CS_INDEX_S    900     /* index keys outlive their session by so much */
#define CS_REFRESH_S  600     /* and are refreshed by appends when so old */

#endif
