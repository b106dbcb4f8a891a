/* store/store: the database of this host: one file, one writing thread, a few readers.
 *
 * Layer: store; sqlite3.h is included in src/store alone. The writer thread owns the only
 * connection that writes or checkpoints (WAL, synchronous=FULL); it commits queued writes in
 * groups. Table functions (session.h, message.h, turn.h, idempotency.h) take a struct cs_db, which
 * is either the writer's, inside cs_store_write(), or a reader's, between cs_store_read() and
 * cs_store_done().
 */
#ifndef CS_STORE_STORE_H
#define CS_STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "cs/base/buf.h"
#include "cs/base/err.h"
#include "cs/base/uuid.h"

struct cs_store;
struct cs_db; /* a connection and its prepared statements */

struct cs_store_options {
    const char *dir;    /* an existing private folder; the file is dir/codex-sessiond.db */
    unsigned readers;   /* reading connections, 1 … 16; 0 means 6 */
    unsigned queue_max; /* queued writes; more are CS_BUSY; 0 means 8192 */
    const char *host;   /* this host's name, which its messages carry; NULL or "": none */
    bool no_thread;     /* tests: no writer thread; cs_store_write() runs and commits at once */
};

/** What opening had to do, for the log and /health. */
struct cs_store_opened {
    bool created;           /* the database is new */
    char quarantined[4096]; /* path of a damaged file that was set aside, or "" */
    char damage[512];       /* what the check said of it, or "" */
    int schema_version;     /* after migrating */
};

/**
 * Open or create the database: check integrity (quick_check; a damaged file is renamed with its WAL
 * to codex-sessiond.db.damaged-<time>, never deleted, and an empty one takes its place), migrate,
 * register a new origin for this start (a random id: a restored backup never reuses a sequence),
 * mark this host's running turns interrupted (with an outcome message each), start the writer. A
 * database from a newer program: CS_CONFLICT, code "database_newer", the file untouched. The caller
 * holds the lock of the folder.
 */
CS_MUST_USE enum cs_status cs_store_open(const struct cs_store_options *options,
                                         struct cs_store **out_store,
                                         struct cs_store_opened *out_opened, struct cs_err *err);

/** Commit what is queued, checkpoint, stop the writer and close. No other call may be under way.
 * NULL is a no-op. */
void cs_store_close(struct cs_store *store);

/** A write: runs on the writer thread inside the group's transaction, under a savepoint of its own.
 * On any status but CS_OK its changes (and only its) are rolled back. It must not block, and must
 * not call cs_store_*. */
typedef enum cs_status (*cs_store_apply)(struct cs_db *db, void *arg, struct cs_err *err);

/**
 * Queue @apply and wait until it is durable (group commit) or has failed. Returns its status;
 * CS_FULL when the disk is full, CS_IO when the commit failed, CS_BUSY (nothing was done) when the
 * queue is full, CS_UNAVAILABLE after cs_store_close() began. On failure of the commit every write
 * of the group reports it. So do those applied before a write for which SQLite had to abandon the
 * whole transaction (it may, for want of memory or disk); those behind it go into another one.
 */
CS_MUST_USE enum cs_status cs_store_write(struct cs_store *store, cs_store_apply apply, void *arg,
                                          struct cs_err *err);

/** Told that a write is durable: on the writer thread, before the listener or the write's caller
 * hears of it. What they may go by once they do (a session that is free again, a cache that is
 * stale) is put right here. It must not block, and must not call cs_store_*. */
typedef void (*cs_store_committed)(void *arg);

/** As cs_store_write(), with @committed called, with @arg too, if and only if it returns CS_OK. */
CS_MUST_USE enum cs_status cs_store_write_then(struct cs_store *store, cs_store_apply apply,
                                               cs_store_committed committed, void *arg,
                                               struct cs_err *err);

/** A row of the log that was committed: its id, and the rowid of its session. */
struct cs_appended {
    int64_t id, session;
};
/** Told of the messages of each commit, on the writer thread, before those who wrote them go on.
 * Over all calls the ids ascend: who has seen one has been told of all before it. It must not
 * block, and must not call cs_store_*. */
typedef void (*cs_store_listener)(void *arg, const struct cs_appended *rows, size_t count);

/** Let @listener (NULL: nobody) be told from the next commit on. When this returns, the one before
 * it does not run and is not called again. */
void cs_store_listen(struct cs_store *store, cs_store_listener listener, void *arg);

/** Borrow a reader; waits at most 5 s, then CS_BUSY. It sees one snapshot until cs_store_done(). */
CS_MUST_USE enum cs_status cs_store_read(struct cs_store *store, struct cs_db **out_db,
                                         struct cs_err *err);
/** Give a reader back. NULL is a no-op. */
void cs_store_done(struct cs_store *store, struct cs_db *db);

/** This start's origin: 16 hex digits, valid while the store is open. */
const char *cs_store_origin(const struct cs_store *store);

/** Free bytes on the database's disk and the size of database and WAL, for doctor and /health. */
struct cs_store_size {
    int64_t file_bytes, wal_bytes, disk_free_bytes;
};
CS_MUST_USE enum cs_status cs_store_size(struct cs_store *store, struct cs_store_size *out_size,
                                         struct cs_err *err);

/** Write a consistent copy to the new file @path (VACUUM INTO, mode 0600; an existing path is
 * CS_CONFLICT), fsynced. Works from any process: it opens @dir's database read-only by itself,
 * while a daemon serves. */
CS_MUST_USE enum cs_status cs_store_backup(const char *dir, const char *path, struct cs_err *err);

/** Check every row's hash and the file's full integrity_check; appends a sentence per finding to
 * @report. CS_CORRUPT if there was any. Read-only, any process. */
CS_MUST_USE enum cs_status cs_store_verify(const char *dir, struct cs_buf *report,
                                           struct cs_err *err);

#endif
