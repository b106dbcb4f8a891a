#include "writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/thread.h"

#define STACK (1 << 20)

/* Pages in the WAL that make a checkpoint worth its cost. */
#define CHECKPOINT_PAGES 1000

/* Rows of a transaction whose list is kept for the next one; a longer one is given back. */
#define APPENDED_KEEP 1024

struct cs_op {
    struct cs_write write;
    struct cs_err *err; /* the waiter's, or NULL */
    enum cs_status status;
    struct cs_op *next;
    sem_t done; /* posted last: the op is gone once its waiter has seen it */
};

/* ---- one transaction ---- */

static bool in_transaction(const struct cs_db *db)
{
    return sqlite3_get_autocommit(db->sqlite) == 0;
}

static void roll_back(struct cs_db *db)
{
    memset(db->tally, 0, sizeof db->tally);
    db->appended_count = 0;
    /* SQLite may have rolled back by itself. Whatever this one answers, the transaction is over. */
    if (in_transaction(db))
        (void)!cs_sql_do(db, CS_SQL_ROLLBACK, "roll back", NULL);
}

/* Run @op under a savepoint. The transaction is gone after this if SQLite had to abandon it (it
 * does for some failures of memory and disk) or when undoing failed. */
static void apply_saved(struct cs_db *db, struct cs_op *op)
{
    int64_t tally[CS_TALLY_COUNT];
    size_t appended = db->appended_count;

    op->status = cs_sql_do(db, CS_SQL_SAVE, "begin a write", op->err);
    if (op->status != CS_OK)
        return;
    memcpy(tally, db->tally, sizeof tally);
    op->status = op->write.apply(db, op->write.arg, op->err);
    if (!in_transaction(db))
        return;
    if (op->status != CS_OK) {
        memcpy(db->tally, tally, sizeof tally);
        db->appended_count = appended;
        if (cs_sql_do(db, CS_SQL_UNDO, "undo a write", NULL) != CS_OK)
            roll_back(db);
    }
    if (in_transaction(db) && cs_sql_do(db, CS_SQL_RELEASE, "end a write", NULL) != CS_OK)
        roll_back(db);
}

/* Every op of [@from, @to) that had succeeded failed with the transaction. */
static void fail_all(struct cs_op *from, const struct cs_op *to, const struct cs_err *why)
{
    for (struct cs_op *op = from; op != to; op = op->next) {
        if (op->status == CS_OK)
            op->status = cs_err_set(op->err, why->status, why->code, "%s", why->msg);
    }
}

static enum cs_status commit(struct cs_db *db, struct cs_err *err)
{
    enum cs_status status = cs_tally_flush(db, err);

    if (status == CS_OK)
        status = cs_sql_do(db, CS_SQL_COMMIT, "commit", err);
    return status;
}

/* The commit of @ops stands: say which messages are in the log now. */
static void tell(struct cs_writer *writer, const struct cs_op *ops)
{
    struct cs_db *db = writer->db;

    for (const struct cs_op *op = ops; op != NULL; op = op->next) {
        if (op->status == CS_OK && op->write.committed != NULL)
            op->write.committed(op->write.arg);
    }
    if (db->appended_count == 0)
        return;
    (void)pthread_mutex_lock(&writer->hearing);
    if (writer->listener != NULL)
        writer->listener(writer->listener_arg, db->appended, db->appended_count);
    (void)pthread_mutex_unlock(&writer->hearing);
    db->appended_count = 0;
    if (db->appended_cap > APPENDED_KEEP) {
        free(db->appended);
        db->appended = NULL;
        db->appended_cap = 0;
    }
}

/* Apply ops in one transaction and commit. Returns the first op that was not reached because SQLite
 * abandoned the transaction before it: it belongs into another one. NULL when all have their
 * status. */
static struct cs_op *run_transaction(struct cs_writer *writer, struct cs_op *ops)
{
    struct cs_db *db = writer->db;
    struct cs_err err = {.status = CS_OK};
    struct cs_op *op = ops;
    enum cs_status last = CS_OK;
    bool alone = ops->next == NULL;
    bool any = false;

    if (cs_sql_do(db, CS_SQL_BEGIN, "begin", &err) != CS_OK) {
        for (; op != NULL; op = op->next)
            op->status = cs_err_set(op->err, err.status, err.code, "%s", err.msg);
        return NULL;
    }
    for (; op != NULL && in_transaction(db); op = op->next) {
        /* A lone op needs no savepoint: the transaction is its own. */
        if (alone)
            op->status = op->write.apply(db, op->write.arg, op->err);
        else
            apply_saved(db, op);
        last = op->status;
        any = any || last == CS_OK;
    }
    if (!in_transaction(db)) {
        (void)cs_err_set(&err, last != CS_OK ? last : CS_IO, NULL,
                         "the group of writes was abandoned");
        fail_all(ops, op, &err);
    } else if (any && commit(db, &err) != CS_OK) {
        fail_all(ops, NULL, &err);
    } else if (any) {
        tell(writer, ops);
    }
    roll_back(db); /* what is left, if anything */
    return op;
}

/* Copy the WAL into the database when it has grown enough. Failing is harmless: the WAL holds
 * everything, and the next commit tries again after some more pages. */
static void checkpoint(struct cs_db *db)
{
    int in_wal = 0;
    int copied = 0;

    if (db->wal_pages < db->checkpoint_at)
        return;
    (void)sqlite3_wal_checkpoint_v2(db->sqlite, NULL, SQLITE_CHECKPOINT_PASSIVE, &in_wal, &copied);
    /* When a reader holds an old snapshot the WAL grows on, and trying at every commit would be in
     * vain. */
    db->checkpoint_at = db->wal_pages + CHECKPOINT_PAGES;
}

/* Learns the size of the WAL at each commit. */
static int on_commit(void *arg, sqlite3 *sqlite, const char *name, int pages)
{
    struct cs_db *db = arg;

    (void)sqlite;
    (void)name;
    if (pages < db->wal_pages) /* it began anew */
        db->checkpoint_at = CHECKPOINT_PAGES;
    db->wal_pages = pages;
    return SQLITE_OK;
}

static void run_all(struct cs_writer *writer, struct cs_op *ops)
{
    while (ops != NULL)
        ops = run_transaction(writer, ops);
}

/* ---- the thread ---- */

/* All that is queued, oldest first; sleeps while there is nothing. NULL when closed and empty. */
static struct cs_op *take(struct cs_writer *writer)
{
    struct cs_op *ops;

    (void)pthread_mutex_lock(&writer->lock);
    while (writer->head == NULL && !writer->closed) {
        writer->sleeping = true;
        (void)cs_cond_wait(&writer->work, &writer->lock, CS_NEVER);
        writer->sleeping = false;
    }
    ops = writer->head;
    writer->head = NULL;
    writer->tail = &writer->head;
    writer->queued = 0;
    (void)pthread_mutex_unlock(&writer->lock);
    return ops;
}

static void *write_loop(void *arg)
{
    struct cs_writer *writer = arg;
    struct cs_op *ops;

    /* Every request waits for this thread. Without the right to it, it runs as the others do. */
    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), -10);
    while ((ops = take(writer)) != NULL) {
        run_all(writer, ops);
        for (struct cs_op *next; ops != NULL; ops = next) {
            next = ops->next;
            (void)sem_post(&ops->done);
        }
        checkpoint(writer->db);
    }
    return NULL;
}

enum cs_status cs_writer_init(struct cs_writer *writer, struct cs_db *db, unsigned queue_max,
                              struct cs_err *err)
{
    enum cs_status status;
    int rc;

    *writer = (struct cs_writer){.db = db, .queue_max = queue_max};
    writer->tail = &writer->head;
    status = cs_cond_init(&writer->work, err);
    if (status != CS_OK)
        return status;
    rc = pthread_mutex_init(&writer->lock, NULL);
    if (rc == 0 && (rc = pthread_mutex_init(&writer->hearing, NULL)) != 0)
        (void)pthread_mutex_destroy(&writer->lock);
    if (rc != 0) {
        (void)pthread_cond_destroy(&writer->work);
        return cs_err_errno(err, rc, "make a lock");
    }
    db->checkpoint_at = CHECKPOINT_PAGES;
    (void)sqlite3_wal_hook(db->sqlite, on_commit, db);
    return CS_OK;
}

enum cs_status cs_writer_start(struct cs_writer *writer, struct cs_err *err)
{
    enum cs_status status =
        cs_thread_start(&writer->thread, "cs-writer", STACK, write_loop, writer, err);

    writer->threaded = status == CS_OK;
    return status;
}

void cs_writer_stop(struct cs_writer *writer)
{
    (void)pthread_mutex_lock(&writer->lock);
    writer->closed = true;
    (void)pthread_cond_signal(&writer->work);
    (void)pthread_mutex_unlock(&writer->lock);
    if (writer->threaded)
        (void)pthread_join(writer->thread, NULL);
    writer->threaded = false;
}

void cs_writer_fini(struct cs_writer *writer)
{
    (void)pthread_mutex_destroy(&writer->hearing);
    (void)pthread_mutex_destroy(&writer->lock);
    (void)pthread_cond_destroy(&writer->work);
}

/* ---- its callers ---- */

void cs_writer_listen(struct cs_writer *writer, cs_store_listener listener, void *arg)
{
    (void)pthread_mutex_lock(&writer->hearing);
    writer->listener = listener;
    writer->listener_arg = arg;
    (void)pthread_mutex_unlock(&writer->hearing);
}

unsigned cs_writer_queued(struct cs_writer *writer)
{
    unsigned queued;

    (void)pthread_mutex_lock(&writer->lock);
    queued = writer->queued;
    (void)pthread_mutex_unlock(&writer->lock);
    return queued;
}

static enum cs_status enqueue(struct cs_writer *writer, struct cs_op *op)
{
    enum cs_status status = CS_OK;

    (void)pthread_mutex_lock(&writer->lock);
    if (writer->closed) {
        status = cs_err_set(op->err, CS_UNAVAILABLE, "shutting_down", "the store is closing");
    } else if (writer->queued >= writer->queue_max) {
        status = cs_err_set(op->err, CS_BUSY, "store_busy", "too many writes are waiting");
    } else {
        *writer->tail = op;
        writer->tail = &op->next;
        writer->queued++;
        if (writer->sleeping)
            (void)pthread_cond_signal(&writer->work);
    }
    (void)pthread_mutex_unlock(&writer->lock);
    return status;
}

enum cs_status cs_writer_run(struct cs_writer *writer, const struct cs_write *write,
                             struct cs_err *err)
{
    struct cs_op op = {.write = *write, .err = err};
    enum cs_status status;

    if (!writer->threaded) {
        run_all(writer, &op);
        checkpoint(writer->db);
        return op.status;
    }
    if (sem_init(&op.done, 0, 0) != 0)
        return cs_err_errno(err, errno, "make a semaphore");
    status = enqueue(writer, &op);
    if (status == CS_OK) {
        while (sem_wait(&op.done) != 0)
            continue; /* a signal */
        status = op.status;
    }
    (void)sem_destroy(&op.done);
    return status;
}
