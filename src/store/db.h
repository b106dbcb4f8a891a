/* store/db: one SQLite connection with its prepared statements, and the errors of SQLite as ours.
 *
 * A cs_db is used by one thread at a time: the writer's by the writer thread, a reader's by who
 * borrowed it.
 */
#ifndef CS_STORE_DB_H
#define CS_STORE_DB_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "cs/base/buf.h"
#include "sql.h"
#include "tally.h"

/** Tables whose ids are never given out twice, also after the newest rows were deleted. */
enum cs_top { CS_TOP_SESSION, CS_TOP_MESSAGE, CS_TOP_TURN, CS_TOP_COUNT };

struct cs_db {
    sqlite3 *sqlite;
    sqlite3_stmt *stmts[CS_SQL_COUNT]; /* a reader's lack those not used yet, and all that write */
    struct cs_db *next;                /* in the pool of readers */
    bool writer;

    /* the writer's alone */
    int64_t origin;                /* of this start */
    int64_t tops[CS_TOP_COUNT];    /* greatest ids given out; a rolled back one leaves a gap */
    int64_t tally[CS_TALLY_COUNT]; /* counted in this transaction, not yet in the table */
    struct cs_appended *appended;  /* messages added in this transaction; owned */
    size_t appended_count, appended_cap;
    char host[64];         /* name that messages carry; "": none */
    struct cs_buf scratch; /* where messages are rendered */
    int wal_pages;         /* in the WAL after the last commit */
    int checkpoint_at;     /* pages in the WAL that are worth a checkpoint */
};

enum cs_db_mode {
    CS_DB_WRITER,    /* reads and writes; checkpoints when told and when closed last */
    CS_DB_READER,    /* never writes the database, never checkpoints */
    CS_DB_IMMUTABLE, /* reads the database file alone; nothing beside it is made or looked at */
};

/** Once per process, before SQLite is first used: settings that hold for all connections. */
void cs_db_global_init(void);

/** Open a connection to the database file @path without preparing statements. */
CS_MUST_USE enum cs_status cs_db_open(const char *path, enum cs_db_mode mode, struct cs_db **out_db,
                                      struct cs_err *err);
/** Open the database of folder @dir for reading, as any process may while a daemon serves.
 * CS_NOT_FOUND if there is none. */
CS_MUST_USE enum cs_status cs_db_open_dir(const char *dir, struct cs_db **out_db,
                                          struct cs_err *err);
/** Make a writer of @db: prepare all statements, which also proves them. */
CS_MUST_USE enum cs_status cs_db_prepare_all(struct cs_db *db, struct cs_err *err);
/** Prepare one statement that is not there yet. SQLite's result code; SQLITE_READONLY for one that
 * writes, when @db is a reader. */
CS_MUST_USE int cs_db_prepare(struct cs_db *db, enum cs_sql_id id);
/** Finalize and close. NULL is a no-op. */
void cs_db_close(struct cs_db *db);

/** W. Remember a message that was added: whoever listens is told after the commit. */
CS_MUST_USE enum cs_status cs_db_note_appended(struct cs_db *db, int64_t id, int64_t session,
                                               struct cs_err *err);

/** Run SQL text without results. */
CS_MUST_USE enum cs_status cs_db_exec(struct cs_db *db, const char *sql, struct cs_err *err);
/** Run SQL text that gives one integer. */
CS_MUST_USE enum cs_status cs_db_int(struct cs_db *db, const char *sql, int64_t *out_value,
                                     struct cs_err *err);

/** Record SQLite's result code @rc, with its words, as one of ours. */
enum cs_status cs_db_fail(struct cs_db *db, int rc, const char *doing, struct cs_err *err);

#endif
