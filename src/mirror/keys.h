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

#define CS_LOG_LENGTH 10000  /* entries kept in a user's log, about */
#define CS_LOG_TTL_S  604800 /* 7 days */
#define CS_TOMB_TTL_S 604800
#define CS_LEASE_MS   60000

#endif
