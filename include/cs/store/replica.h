/* store/replica: what replication needs of the tables: marks, tombstones, cursors, and messages of
 * other hosts.
 *
 * Layer: store. W: needs the writer's cs_db. The message table is the log: nothing here holds a
 * second copy of a message. A mark is a row only for sessions that need one.
 */
#ifndef CS_STORE_REPLICA_H
#define CS_STORE_REPLICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/vector.h"
#include "cs/store/message.h"
#include "cs/store/session.h"
#include "cs/store/store.h"

/** A message as every host has it. */
struct cs_replica_message {
    int64_t origin, seq, hlc;
    int64_t parent_origin, parent_seq; /* 0, 0: none */
    enum cs_message_kind kind;
    const char *turn; /* turn id, or NULL */
    const char *frag; /* the JSON object */
    size_t len;
    bool stub; /* it stands for a message that is too large to be shared */
};

/** Marks of a session; a session without a row has none. */
struct cs_replica_mark {
    bool dirty;   /* to be compared */
    bool unsent;  /* a mark, or local messages behind the cursor of pushes */
    bool running; /* a turn runs here */
    char *aside;  /* why it was set aside; NULL: it was not */
    char cid[CS_UUID_MAX];
    char *user;            /* NULL without a row */
    struct cs_vector tomb; /* what was deleted */
    int64_t stamp;         /* microseconds of the server's clock at the last known activity */
    int64_t generation;
};
void cs_replica_mark_fini(struct cs_replica_mark *mark);

typedef enum cs_status (*cs_replica_each)(void *arg, const struct cs_replica_message *message,
                                          struct cs_err *err);

/** The rowid of session @sid; 0: there is none. */
CS_MUST_USE enum cs_status cs_replica_session(struct cs_db *db, const char *sid, int64_t *out_id,
                                              struct cs_err *err);
/** The vector of a session's messages. */
CS_MUST_USE enum cs_status cs_replica_vector(struct cs_db *db, int64_t session,
                                             struct cs_vector *out_vector, struct cs_err *err);
CS_MUST_USE enum cs_status cs_replica_mark(struct cs_db *db, const char *sid,
                                           struct cs_replica_mark *out_mark, struct cs_err *err);
/** Messages of a session: all in order, or (origin not 0) those of one origin from a sequence on.
 */
struct cs_replica_range {
    int64_t session, origin, from;
};
/** @each ends it early with CS_CANCELLED, which is CS_OK here. */
CS_MUST_USE enum cs_status cs_replica_messages(struct cs_db *db,
                                               const struct cs_replica_range *range,
                                               cs_replica_each each, void *arg, struct cs_err *err);

struct cs_replica_news {
    char sid[CS_UUID_MAX];
    int64_t session, origin;
    int64_t from, to; /* first and last sequence of the page */
};
struct cs_replica_news_page {
    struct cs_replica_news *items; /* room for `max` */
    size_t max, count;
    int64_t upto; /* the rowid that they reach to */
    /** NULL, or is given each message with the place of its item; the page ends before one for
     * which it does not answer CS_OK. */
    enum cs_status (*each)(void *arg, size_t item, const struct cs_replica_message *message,
                           struct cs_err *err);
    void *arg;
};
/** (session, origin) pairs of messages of this host's origins behind rowid @after. */
CS_MUST_USE enum cs_status cs_replica_news(struct cs_db *db, int64_t after,
                                           struct cs_replica_news_page *page, struct cs_err *err);

/** Ids behind @after ("": from the first). */
CS_MUST_USE enum cs_status cs_replica_marked(struct cs_db *db, const char *after, bool aside,
                                             struct cs_id_page *page, struct cs_err *err);
CS_MUST_USE enum cs_status cs_replica_of_user(struct cs_db *db, const char *user, const char *after,
                                              struct cs_id_page *page, struct cs_err *err);
CS_MUST_USE enum cs_status cs_replica_archived(struct cs_db *db, const char *user,
                                               const char *after, struct cs_id_page *page,
                                               struct cs_err *err);
/** Users with a live session, or one that was deleted and not forgotten yet. */
CS_MUST_USE enum cs_status cs_replica_users(struct cs_db *db,
                                            enum cs_status (*each)(void *arg, const char *user,
                                                                   struct cs_err *err),
                                            void *arg, struct cs_err *err);
/** The cursor kept under @name; "" when there is none. The caller frees. */
CS_MUST_USE enum cs_status cs_replica_cursor(struct cs_db *db, const char *name, char **out_value,
                                             struct cs_err *err);
/** W. */
CS_MUST_USE enum cs_status cs_replica_set_cursor(struct cs_db *db, const char *name,
                                                 const char *value, struct cs_err *err);
#define CS_REPLICA_PUSHED "" /* the cursor of pushes; the others are named like their users */

/** W. What came of inserting a message. */
enum cs_replica_outcome {
    CS_REPLICA_ADDED,
    CS_REPLICA_KNOWN,   /* the same bytes were here */
    CS_REPLICA_HOLE,    /* an earlier one of its origin is missing: nothing was added */
    CS_REPLICA_FORKED,  /* ours had other bytes and were numbered anew; this one was added */
    CS_REPLICA_DIFFERS, /* another one has this number, and it is not ours to give it a new one, or
                         * what is before it is of another past of ours: nothing was changed */
};
/** W. Add another host's message; @at is the time of use that it gives the session (wall ms). A
 * message of this start's own origin that is not here means that this host went back in time: it
 * then goes on under a new origin. */
CS_MUST_USE enum cs_status cs_replica_insert(struct cs_db *db, int64_t session,
                                             const struct cs_replica_message *message, int64_t at,
                                             enum cs_replica_outcome *out_outcome,
                                             struct cs_err *err);
/** W. A deleted session came back: when its tombstone names this start's origin, that one's numbers
 * are used up, and this host goes on under a new one. */
CS_MUST_USE enum cs_status cs_replica_reborn(struct cs_db *db, const char *sid, struct cs_err *err);

/* W. Marks. Unsent: Redis did not take what is behind the cursor of pushes, or never had the
 * session; renumbered: nor what got new numbers. A mark keeps where that begins until cleared. */
enum cs_replica_flag { CS_REPLICA_DIRTY, CS_REPLICA_UNSENT, CS_REPLICA_RENUMBERED };
CS_MUST_USE enum cs_status cs_replica_flag(struct cs_db *db, const char *sid,
                                           enum cs_replica_flag flag, struct cs_err *err);
CS_MUST_USE enum cs_status cs_replica_clean(struct cs_db *db, const char *sid, int64_t generation,
                                            struct cs_err *err);
CS_MUST_USE enum cs_status cs_replica_aside(struct cs_db *db, const char *sid, const char *why,
                                            struct cs_err *err);
CS_MUST_USE enum cs_status cs_replica_stamp(struct cs_db *db, const char *sid, int64_t stamp,
                                            struct cs_err *err);
/** W. Remember that @vector of @sid was deleted. */
CS_MUST_USE enum cs_status cs_replica_bury(struct cs_db *db, const char *sid, const char *cid,
                                           const char *user, const struct cs_vector *vector,
                                           struct cs_err *err);
/** W. Forget tombstones that were compared with Redis (else: made) before @until (wall ms). Those
 * that wait for it stay, but for the oldest of more than @untold_max. */
CS_MUST_USE enum cs_status cs_replica_purge(struct cs_db *db, int64_t until, int64_t untold_max,
                                            struct cs_err *err);

/** Sessions set aside, with the reasons. */
CS_MUST_USE enum cs_status cs_replica_each_aside(struct cs_db *db, size_t max,
                                                 void (*each)(void *arg, const char *sid,
                                                              const char *why),
                                                 void *arg, struct cs_err *err);
struct cs_replica_other {
    int64_t origin, at; /* wall ms */
    const char *frag;
    size_t len;
};
/** The messages of other hosts among the newest @rows of all, the newest first. @each ends it early
 * with CS_CANCELLED, which is CS_OK here. */
CS_MUST_USE enum cs_status cs_replica_others(
    struct cs_db *db, int64_t rows,
    enum cs_status (*each)(void *arg, const struct cs_replica_other *message, struct cs_err *err),
    void *arg, struct cs_err *err);

struct cs_replica_figures {
    int64_t pending_sessions; /* marked, or with messages behind the cursor of pushes */
    int64_t pending_messages; /* of this host, behind that cursor or waiting under a mark */
    int64_t oldest_pending;   /* wall ms; 0: none */
};
CS_MUST_USE enum cs_status cs_replica_figures(struct cs_db *db, struct cs_replica_figures *out,
                                              struct cs_err *err);

#endif
