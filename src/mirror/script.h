/* The scripts in lua/: arguments in, verdicts out.
 *
 * Layer: mirror, private. A call is appended to the pipeline of a cs_redis and its verdict is taken
 * in order, like any reply. The first comment of each script states its keys, arguments and reply.
 */
#ifndef CS_MIRROR_SCRIPT_H
#define CS_MIRROR_SCRIPT_H

#include "cs/base/json.h"
#include "cs/mirror/redis.h"
#include "keys.h"

/** Load the scripts on a new connection: cs_redis_connect() forgets them. A connection that only
 * reads needs none. Picks each script's header as the server knows it. */
CS_MUST_USE enum cs_status cs_scripts_load(struct cs_redis *redis, int64_t deadline,
                                           struct cs_err *err);

/** What a script answered. Every request can be repeated: it then changes nothing. */
enum cs_verdict {
    CS_VERDICT_OK,       /* done */
    CS_VERDICT_DUP,      /* done before, with the same bytes */
    CS_VERDICT_FORK,     /* PUSH: Redis has other bytes under the same origin and sequence */
    CS_VERDICT_GAP,      /* PUSH: Redis has messages up to `seq` only: resend from seq + 1 */
    CS_VERDICT_MISS,     /* PUSH: there is no such session: PUT it */
    CS_VERDICT_NOLOG,    /* PUSH: the log is gone: PUT, which makes it anew */
    CS_VERDICT_NOINDEX,  /* PUSH: done, but the user's set does not have it, or may not: PUT as well
                          */
    CS_VERDICT_FOREIGN,  /* the value is not one of ours: import it, then PUT with its digest */
    CS_VERDICT_TORN,     /* PUSH: the value was damaged and has been removed: PUT it */
    CS_VERDICT_LARGE,    /* the value would pass its cap: nothing was written */
    CS_VERDICT_WIDE,     /* more origins than the widest tail holds: nothing was written */
    CS_VERDICT_PROTOCOL, /* written by a newer version: read only */
    CS_VERDICT_TOMB,     /* PUT: a tombstone covers it: `vv` */
    CS_VERDICT_STALE,    /* PUT: Redis has messages that the new value lacks: `vv` */
    CS_VERDICT_FULL,     /* PUT: put out by the user's limit just now, or (to heal) fresher sessions
                          * use it up: it is not in Redis */
    CS_VERDICT_EXPIRED,  /* PUT to heal: its time to live has passed */
    CS_VERDICT_NEWER,    /* DEL: Redis has messages that the deletion does not cover: `vv` */
    CS_VERDICT_BUSY,     /* LEASE: somebody else holds it: `host` */
};

/** A verdict and what came with it. The strings live until cs_script_reply_free(). */
struct cs_script_reply {
    enum cs_verdict verdict;
    int64_t seq;      /* PUSH, OK, DUP, FORK, GAP: highest sequence of the origin in Redis;
                       * PUT, OK: 1 if the log may have been gone */
    int64_t length;   /* PUSH and PUT, OK: bytes of the session's value */
    int64_t fresh_s;  /* PUSH, OK: seconds for which its index need not be looked at */
    const char *id;   /* OK but LEASE: id of the log's entry; else NULL */
    const char *vv;   /* vector as JSON: TOMB, STALE, NEWER, DUP of PUT, OK of DEL; else NULL */
    const char *host; /* BUSY: who holds the lease; else NULL */
    const struct cs_reply *evicted; /* PUT, OK: array of session ids that made room; else NULL */
    struct cs_reply *reply;         /* owns all of it */
};
void cs_script_reply_free(struct cs_script_reply *reply);

/**
 * Take the next reply of the pipeline as a script's. CS_OK with a verdict; a failure of the
 * connection (closed then) or an error that the server answered (connection stands, see
 * cs_redis_connected()). Class NOSCRIPT: append the same call once more.
 */
CS_MUST_USE enum cs_status cs_script_take(struct cs_redis *redis, int64_t deadline,
                                          struct cs_script_reply *out_reply, struct cs_err *err);

/** Whose session it is: what the keys are made of. */
struct cs_script_session {
    const char *sid;
    const char *cid;
    const char *user;
    int64_t ttl_s; /* time to live; 0: none of its own, 30 days in Redis, refreshed */
};

/** The members that plain readers see at the end of a session: as of the writer's newest message.
 * The newer `last_used_at` of two writers wins. */
struct cs_script_state {
    const char *status;       /* e.g. "active" */
    const char *last_used_at; /* ISO 8601 in UTC with milliseconds */
    const char *model;        /* UTF-8, at most 128 bytes */
};

/** Append messages of one origin to a session. */
struct cs_push {
    struct cs_script_session session;
    struct cs_script_state state;
    const char *origin;   /* [A-Za-z0-9_-]{1,64} */
    int64_t from;         /* sequence of the first; contiguous from there */
    const char *messages; /* rendered JSON objects, a comma before each; at least one */
    size_t messages_len;
    const char *lens;  /* of all but the last, with their commas: " 12 34"; "" for one message */
    const char *lease; /* token of a lease to release with it; NULL: none */
    bool index;        /* have the keys that name the session refreshed if it is time to. False: no
                        * longer than `fresh_s` after a reply said so */
};
CS_MUST_USE enum cs_status cs_push_append(struct cs_redis *redis, const struct cs_push *push,
                                          struct cs_err *err);

/** Create or replace a whole session. Nothing is written if Redis has these messages and this meta
 * already, but that a missing log or index is made anew. STALE also if Redis has a higher meta. */
struct cs_put {
    struct cs_script_session session;
    struct cs_script_state state;
    const char
        *prefix; /* `{"sessionId":…,"conversationId":…,…` up to the messages' `[`, included */
    size_t prefix_len;
    const char *messages; /* rendered, in order, comma-separated; never empty */
    size_t messages_len;
    const char *vv;      /* the vector of exactly these messages: {"origin":n,…}, no spaces */
    const char *note;    /* goes into the log's entry as it is, at most 4 KB; "" for none */
    int64_t limit;       /* live sessions of this user; 0: no limit */
    int64_t heal_at;     /* 0: activity. Else the session's last stamp: re-created after a loss, it
                          * displaces no fresher session and keeps the rest of its time */
    const char *foreign; /* hex SHA-1 of the foreign value that is imported; NULL: none */
    int64_t meta;        /* version of the prefix: a higher one is not replaced by a lower; ≥ 0 */
    const char *lease;   /* token of a lease to release with it; NULL: none */
};
CS_MUST_USE enum cs_status cs_put_append(struct cs_redis *redis, const struct cs_put *put,
                                         struct cs_err *err);

/** Delete a session that holds no message beyond vector @vv, and leave a tombstone. */
CS_MUST_USE enum cs_status cs_del_append(struct cs_redis *redis,
                                         const struct cs_script_session *session, const char *vv,
                                         struct cs_err *err);

/* The lease of a session's turn: 60 s, renewed by its holder. @token is random, without spaces. */

struct cs_lease {
    const char *sid, *token, *host;
    int64_t deadline; /* of each command */
};
/** OK or BUSY. Asking again with the same token is OK. One command, two when somebody holds it. No
 * replies may be owed. */
CS_MUST_USE enum cs_status cs_lease_take(struct cs_redis *redis, const struct cs_lease *lease,
                                         struct cs_script_reply *out_reply, struct cs_err *err);
/** OK (also when it had lapsed and was free), BUSY: lost to another. Verdict by cs_script_take().
 */
CS_MUST_USE enum cs_status cs_lease_renew_append(struct cs_redis *redis, const char *sid,
                                                 const char *token, const char *host,
                                                 struct cs_err *err);
/** OK, whoever holds it now. Verdict by cs_script_take(). */
CS_MUST_USE enum cs_status cs_lease_release_append(struct cs_redis *redis, const char *sid,
                                                   const char *token, struct cs_err *err);

/* ---- The tail of a session's value, read by C -------------------------------------------------
 */

enum cs_tail_kind {
    CS_TAIL_MISS,     /* no value */
    CS_TAIL_OURS,     /* fields below are set */
    CS_TAIL_WIDER,    /* ours, but `width` bytes are needed to read it: ask for them, once */
    CS_TAIL_FOREIGN,  /* somebody else's value */
    CS_TAIL_PROTOCOL, /* ours, of a newer version: only `protocol` is set */
};
struct cs_tail {
    enum cs_tail_kind kind;
    int64_t protocol;
    size_t width;
    int64_t length;           /* L: bytes of the value */
    int64_t stamp;            /* at: microseconds of the server's clock at the last append */
    int64_t meta;             /* mv: version of the prefix */
    const struct cs_json *vv; /* object of integers ≥ 1 */
    const char *status, *last_used_at, *model; /* may be NULL */
    struct cs_json *root;                      /* owns them */
};
/** Read the last bytes of a value: GETRANGE key -1024 -1, or -width for a wider one, or all of it.
 */
CS_MUST_USE enum cs_status cs_tail_parse(const char *text, size_t len, struct cs_tail *out_tail,
                                         struct cs_err *err);
void cs_tail_fini(struct cs_tail *tail);

#endif
