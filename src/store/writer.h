/* store/writer: the thread that owns the only writing connection, and its queue.
 *
 * Whoever writes puts an op of its own stack into the queue and sleeps on the op's semaphore. The
 * thread takes all that is queued, applies each op under a savepoint, commits once and wakes each
 * waiter. It sleeps without a time-out while nothing is queued.
 */
#ifndef CS_STORE_WRITER_H
#define CS_STORE_WRITER_H

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>

#include "db.h"

struct cs_op; /* a queued write */

struct cs_writer {
    struct cs_db *db; /* the thread's, or the caller's without one */
    bool threaded;
    pthread_t thread;

    pthread_mutex_t lock; /* guards what follows; nothing else is locked while it is held */
    pthread_cond_t work;  /* signalled when an op arrives while the thread sleeps, and to stop */
    struct cs_op *head;   /* oldest first */
    struct cs_op **tail;  /* where the next one is linked */
    unsigned queued;
    unsigned queue_max;
    bool sleeping;
    bool closed;

    pthread_mutex_t hearing; /* guards what follows, and is held while the listener runs */
    cs_store_listener listener;
    void *listener_arg;
};

/** Prepare the queue. Borrows @db. Until cs_writer_start(), and without a thread, writes run on
 * their caller. */
CS_MUST_USE enum cs_status cs_writer_init(struct cs_writer *writer, struct cs_db *db,
                                          unsigned queue_max, struct cs_err *err);
CS_MUST_USE enum cs_status cs_writer_start(struct cs_writer *writer, struct cs_err *err);
/** Refuse new writes, commit what is queued and end the thread. */
void cs_writer_stop(struct cs_writer *writer);
void cs_writer_fini(struct cs_writer *writer);

/** What cs_store_write_then() is given. */
struct cs_write {
    cs_store_apply apply;
    cs_store_committed committed; /* NULL: nothing to do */
    void *arg;
};

/** As cs_store_write_then(). */
CS_MUST_USE enum cs_status cs_writer_run(struct cs_writer *writer, const struct cs_write *write,
                                         struct cs_err *err);

/** As cs_store_listen(). */
void cs_writer_listen(struct cs_writer *writer, cs_store_listener listener, void *arg);

/** Writes that wait for the next transaction. */
unsigned cs_writer_queued(struct cs_writer *writer);
/** The writer of @store: tests look into its queue. */
struct cs_writer *cs_store_writer(struct cs_store *store);

#endif
