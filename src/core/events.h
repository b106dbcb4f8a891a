/* core/events, inside core: events that feeds share.
 *
 * An event is rendered once and given out by many feeds. A passing one is held by the feeds in
 * which it waits. A lasting one is read from the store when its turn has come in a feed; the shelf
 * lets those feeds that are at the same place share one rendering, and has the others wait while
 * one of them makes it: five hundred listeners cost one look at the store and one copy of the
 * answer.
 */
#ifndef CS_CORE_EVENTS_PRIV_H
#define CS_CORE_EVENTS_PRIV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "cs/base/uuid.h"
#include "cs/core/events.h"
#include "cs/store/store.h"

#define CS_SHELF_SLOTS 8

struct cs_slot;

/** A rendered event. Immutable but for the reference count. */
struct cs_told {
    atomic_uint refs;
    struct cs_shelf *shelf; /* of a lasting event; NULL: it is passing */
    struct cs_slot *slot;   /* under shelf->mutex: where it stands; NULL: nowhere */
    const char *name;       /* static */
    int64_t id;             /* 0: passing */
    int64_t session;        /* rowid */
    char turn[CS_UUID_MAX];
    const char *user; /* behind the data */
    size_t len;
    char data[];
};

/** What an event tells, to make one of. */
struct cs_tale {
    const char *name;
    int64_t id, session;
    const char *turn, *user;
    const struct cs_buf *text;
};
/** A copy with one reference; NULL when out of memory. */
struct cs_told *cs_told_new(const struct cs_tale *tale);
/** Give a reference back. NULL is a no-op. */
void cs_told_unref(struct cs_told *told);

struct cs_slot {
    int64_t id; /* of a message; 0: empty */
    bool busy;  /* somebody renders it */
    /* NULL: the message is no event. A short one is held; a long one only stands here while a feed
     * holds it. */
    struct cs_told *told;
};

struct cs_shelf {
    pthread_mutex_t mutex; /* guards what follows; nothing else is locked while it is held */
    pthread_cond_t ready;  /* a slot is busy no more */
    struct cs_slot slots[CS_SHELF_SLOTS];
    size_t next; /* to be used anew */
};

CS_MUST_USE enum cs_status cs_shelf_init(struct cs_shelf *shelf, struct cs_err *err);
/** No feed holds an event of it any more. */
void cs_shelf_fini(struct cs_shelf *shelf);
/** The event that message @id is; the caller gives the reference back. *out_told stays NULL when it
 * is none, or is gone. */
CS_MUST_USE enum cs_status cs_shelf_get(struct cs_shelf *shelf, struct cs_store *store, int64_t id,
                                        struct cs_told **out_told, struct cs_err *err);

#endif
