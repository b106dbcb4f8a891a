/* mirror/mirror: replication between this host's store and Redis.
 *
 * Layer: mirror; includes base. It does not know the store: what it needs of it is a port, a table
 * of functions that core fills in.
 *
 * One thread pushes and pulls on one connection; a second one waits for the doorbell (a blocking
 * read of the users' logs) on another. Local writes never wait for either. Without threads (tests)
 * cs_mirror_step() does on the caller's thread what the first thread would do next.
 */
#ifndef CS_MIRROR_MIRROR_H
#define CS_MIRROR_MIRROR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/buf.h"
#include "cs/base/clock.h"
#include "cs/base/err.h"
#include "cs/base/json.h"
#include "cs/base/uuid.h"
#include "cs/base/vector.h"
#include "cs/mirror/redis.h"

struct cs_mirror;

/* ---- What is replicated ---------------------------------------------------------------------- */

/** A message: its identity, and the JSON object that is stored and shown. */
struct cs_mirror_message {
    int64_t origin, seq, hlc;
    int64_t parent_origin, parent_seq; /* 0, 0: none */
    const char *type, *turn, *host;    /* of the object; turn and host may be NULL */
    const char *frag;
    size_t len;
    bool begins; /* it began a turn; of those that the port reads */
};

/** What a session is besides its messages. Strings are owned: cs_mirror_meta_fini(). */
struct cs_mirror_meta {
    char sid[CS_UUID_MAX], cid[CS_UUID_MAX];
    char *user;
    char *model, *sandbox, *cwd, *title, *prompt, *engine; /* never NULL once filled */
    char origin[CS_VECTOR_NAME_MAX];
    int64_t created_at; /* wall ms */
    int64_t ttl_s;      /* 0: never expires */
};
void cs_mirror_meta_fini(struct cs_mirror_meta *meta);

/** How a session stands here, in one snapshot. Caller: cs_mirror_local_fini(). */
struct cs_mirror_local {
    bool known;  /* there is a session; else only what follows `vv` and the marks may be set */
    bool live;   /* and it is not in the archive */
    bool busy;   /* and a turn of it runs here */
    bool unsent; /* holds messages that Redis never took */
    bool marked; /* is to be compared */
    struct cs_mirror_meta meta; /* of use if known; for a deleted one sid, cid and user */
    char status[16];            /* for plain readers: active or failed */
    char last_used_at[CS_ISO_MAX];
    int64_t limit;         /* live sessions of this user; 0: none */
    struct cs_vector vv;   /* its messages */
    struct cs_vector tomb; /* what was deleted */
    int64_t stamp;         /* microseconds of the server's clock at the last known activity */
    int64_t version;       /* wall ms at which it came back from the archive; grows, 0: never */
    int64_t generation;    /* moves whenever a mark is set */
};
void cs_mirror_local_fini(struct cs_mirror_local *local);

/** A session with messages of its own that were never offered to Redis. */
struct cs_mirror_news {
    char sid[CS_UUID_MAX];
    int64_t origin;
    int64_t from; /* first sequence */
    int64_t to;   /* last one of the page */
};

struct cs_mirror_news_page {
    struct cs_mirror_news *items; /* room for `max` */
    size_t max, count;
    int64_t upto; /* the rowid that they reach to; where it began when there is none */
    /** Is given each message with the place of its item; the page ends before one for which it does
     * not answer CS_OK. */
    enum cs_status (*each)(void *arg, size_t item, const struct cs_mirror_message *message,
                           struct cs_err *err);
    void *arg;
};

/** Messages of one origin from a sequence on. */
struct cs_mirror_range {
    const char *sid;
    int64_t origin, from;
};
/** Is given messages, one after the other. */
typedef enum cs_status (*cs_mirror_each)(void *arg, const struct cs_mirror_message *message,
                                         struct cs_err *err);

/** One change to the store. All changes of a call are one transaction. */
enum cs_mirror_change_kind {
    CS_CHANGE_SESSION, /* create `meta` unless it is known; a new one is live */
    CS_CHANGE_MESSAGE, /* add `message` to `sid` unless it is there: contiguous per origin, else the
                        * session is marked. `number`: stamp. With other bytes than ours: see the
                        * store */
    CS_CHANGE_STAMP,   /* `number`: activity that Redis saw */
    CS_CHANGE_LIVE,    /* it is live in Redis: back from the archive */
    CS_CHANGE_EVICT,   /* it was put out of Redis: into the archive, unless unsent or busy */
    CS_CHANGE_EXPIRE,  /* its time is over by the server's clock: likewise */
    CS_CHANGE_TOMB,    /* join `vector` to its tombstone; all covered: delete its rows */
    CS_CHANGE_DIRTY,   /* to be compared with Redis */
    CS_CHANGE_UNSENT,  /* likewise; it holds messages that Redis never took */
    CS_CHANGE_CLEAN,   /* compared; unless its generation is no longer `number` */
    CS_CHANGE_ASIDE,   /* set aside because of `text`, until it changes or all is compared */
    CS_CHANGE_CURSOR,  /* `user`'s log was read up to entry `text` */
    CS_CHANGE_PUSHED,  /* local messages were offered up to rowid `number` */
};
struct cs_mirror_change {
    enum cs_mirror_change_kind kind;
    const char *sid, *user, *text;
    int64_t number;
    const struct cs_mirror_meta *meta;
    const struct cs_mirror_message *message;
    const struct cs_vector *vector;
};

/** The store, as the mirror sees it. Called on the mirror's thread, never while it waits for Redis.
 * `arg` is the port's own. */
struct cs_mirror_port {
    void *arg;
    /** Sessions with messages of this host behind rowid @after, a row each per origin. */
    enum cs_status (*news)(void *arg, int64_t after, struct cs_mirror_news_page *page,
                           struct cs_err *err);
    /** CS_OK also when nothing is known of @sid. @each (may be NULL) gets its messages in order, of
     * the same snapshot. */
    enum cs_status (*load)(void *arg, const char *sid, struct cs_mirror_local *out_local,
                           cs_mirror_each each, void *each_arg, struct cs_err *err);
    /** Messages of one origin, until @each says CS_CANCELLED. */
    enum cs_status (*read)(void *arg, const struct cs_mirror_range *range, cs_mirror_each each,
                           void *each_arg, struct cs_err *err);
    enum cs_status (*apply)(void *arg, const struct cs_mirror_change *changes, size_t count,
                            struct cs_err *err);
    /** Sessions whose marks are set (@aside: those set aside too), behind @after. */
    enum cs_status (*marked)(void *arg, const char *after, bool aside, struct cs_id_page *page,
                             struct cs_err *err);
    /** All sessions of @user that are live, marked or deleted, likewise. */
    enum cs_status (*sessions)(void *arg, const char *user, const char *after,
                               struct cs_id_page *page, struct cs_err *err);
    /** Those in the archive. */
    enum cs_status (*archived)(void *arg, const char *user, const char *after,
                               struct cs_id_page *page, struct cs_err *err);
    /** The users whose logs are followed, each with its cursor ("" when there is none). @each may
     * not call the port. */
    enum cs_status (*users)(void *arg,
                            enum cs_status (*each)(void *each_arg, const char *user,
                                                   const char *cursor, struct cs_err *err),
                            void *each_arg, struct cs_err *err);
    /** Live sessions that @user may have; 0: no limit. For sessions that are not known here. */
    int64_t (*limit)(void *arg, const char *user);
    /** The rowid that CS_CHANGE_PUSHED set last. */
    enum cs_status (*pushed)(void *arg, int64_t *out_rowid, struct cs_err *err);
};

/* ---- The mirror ------------------------------------------------------------------------------ */

struct cs_mirror_options {
    const struct cs_redis_options *redis; /* must outlive the mirror */
    struct cs_mirror_port port;
    const char *host;   /* this host's name, shown to others */
    const char *user;   /* whose the sessions are that name nobody; NULL: nobody's */
    bool no_thread;     /* tests: nothing runs but cs_mirror_step() and what callers ask for */
    size_t message_max; /* bytes of one message in Redis; larger ones leave a stub; 0: 8 MB */
    size_t request_max; /* bytes of messages in one request; 0: 1 MB */
};

CS_MUST_USE enum cs_status cs_mirror_new(const struct cs_mirror_options *options,
                                         struct cs_mirror **out_mirror, struct cs_err *err);
/** Start the threads. Not with no_thread. */
CS_MUST_USE enum cs_status cs_mirror_start(struct cs_mirror *mirror, struct cs_err *err);
/** Offer what is unsent until @deadline at the latest, then end the threads. */
void cs_mirror_stop(struct cs_mirror *mirror, int64_t deadline);
/** NULL is a no-op. */
void cs_mirror_free(struct cs_mirror *mirror);

/** Any thread: there is another Redis, or another way to it. @redis must outlive the mirror. All is
 * compared with what is there. Never blocks. */
void cs_mirror_redirect(struct cs_mirror *mirror, const struct cs_redis_options *redis);

/** Any thread: a local write was committed that others should see. Never blocks. */
void cs_mirror_wake(struct cs_mirror *mirror);

/** Everything that is to be done now: push, pull, compare what is marked, and with @full all
 * sessions. CS_OK: Redis was reached and nothing is left; otherwise what stopped it. For tests, and
 * the body of the thread. */
CS_MUST_USE enum cs_status cs_mirror_step(struct cs_mirror *mirror, bool full, struct cs_err *err);

/** Any thread: have a full step made and wait for it. CS_TIMEOUT, or what stopped it. */
CS_MUST_USE enum cs_status cs_mirror_sync(struct cs_mirror *mirror, int64_t deadline,
                                          struct cs_err *err);

/** Any thread: bring the session or conversation @identifier up to date before it is answered.
 * CS_OK: what is here is what Redis has (or Redis has none); CS_TIMEOUT or CS_UNAVAILABLE: it could
 * not be checked. Does not wait while offline. */
CS_MUST_USE enum cs_status cs_mirror_fetch(struct cs_mirror *mirror, const char *identifier,
                                           int64_t deadline, struct cs_err *err);

/** Any thread: take the lease of a turn of @sid, and bring the session up to date. CS_OK: ours.
 * CS_CONFLICT, code "session_busy": another host holds it, the message names the host. CS_TIMEOUT
 * or CS_UNAVAILABLE: nobody knows; go on without. After CS_OK, and after CS_TIMEOUT too, the lease
 * is renewed until cs_mirror_lease_end(). A @deadline that is past (nobody else knows the session):
 * CS_TIMEOUT, and it is asked for when the session is first pushed, if the turn still runs then. */
CS_MUST_USE enum cs_status cs_mirror_lease(struct cs_mirror *mirror, const char *sid,
                                           int64_t deadline, struct cs_err *err);
/** Any thread: the turn is over. Released with the push of its outcome. Never blocks. */
void cs_mirror_lease_end(struct cs_mirror *mirror, const char *sid);

/* ---- To see ---------------------------------------------------------------------------------- */

enum cs_mirror_state {
    CS_MIRROR_OFF,
    CS_MIRROR_CONNECTING,
    CS_MIRROR_ONLINE,
    CS_MIRROR_OFFLINE,
    CS_MIRROR_AUTH,     /* Redis does not let us in */
    CS_MIRROR_READONLY, /* Redis takes no writes */
    CS_MIRROR_FULL,     /* Redis has no room */
};
const char *cs_mirror_state_name(enum cs_mirror_state state);

struct cs_mirror_figures {
    enum cs_mirror_state state;
    int64_t since;                /* wall ms of the last change of state */
    int64_t last_push, last_pull; /* wall ms of the last that worked; 0: never */
    uint64_t commands, bytes_sent, bytes_received, connects;
    int64_t skew_ms; /* server's clock minus ours */
    char error[512]; /* of the last failure; "" when online */
};
void cs_mirror_figures(struct cs_mirror *mirror, struct cs_mirror_figures *out);
/** Whether Redis answers, as far as is known. Any thread; NULL is false. */
bool cs_mirror_online(struct cs_mirror *mirror);

#endif
