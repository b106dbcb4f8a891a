#include "cs/store/store.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "cs/base/clock.h"
#include "cs/base/file.h"
#include "cs/base/thread.h"
#include "damage.h"
#include "db.h"
#include "file.h"
#include "migrate.h"
#include "names.h"
#include "turn.h"
#include "writer.h"

#define FILE_NAME "codex-sessiond.db"

#define READERS_DEFAULT 6
#define READERS_MAX     16
#define QUEUE_DEFAULT   8192

#define READ_WAIT_MS 5000

struct cs_store {
    char *path;
    char origin[CS_ORIGIN_MAX];
    struct cs_writer writer;
    bool writer_ready; /* writer was initialised */

    pthread_mutex_t lock; /* guards idle; nothing else is locked while it is held */
    pthread_cond_t freed;
    bool lock_ready;    /* lock and freed were initialised */
    struct cs_db *idle; /* readers that nobody has; the one used last is first, its cache is warm */
    struct cs_db *readers[READERS_MAX];
};

char *cs_store_path(const char *dir)
{
    return cs_path_join(dir, FILE_NAME);
}

/* ---- opening ---- */

/* Files beside the database that SQLite may have made, private whatever made them. */
static enum cs_status make_private(const char *path, struct cs_err *err)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    char name[PATH_MAX];

    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (snprintf(name, sizeof name, "%s%s", path, suffixes[i]) >= (int)sizeof name)
            return cs_err_set(err, CS_INVALID, NULL, "the path of the database is too long");
        if (chmod(name, 0600) != 0 && errno != ENOENT)
            return cs_err_errno(err, errno, "make the database private");
    }
    return CS_OK;
}

/* See to it that a sound database, or an empty file, stands at @path. */
static enum cs_status prepare_file(const char *path, struct cs_store_opened *opened,
                                   struct cs_err *err)
{
    struct cs_inspection seen;
    enum cs_status status = cs_damage_inspect(path, &seen, err);

    if (status != CS_OK)
        return status;
    if (seen.damaged)
        (void)snprintf(opened->damage, sizeof opened->damage, "%s", seen.damage);
    /* A WAL alone would be lost, or worse, replayed into the new file. */
    if (seen.damaged || (!seen.exists && cs_damage_has_wal(path))) {
        status = cs_damage_set_aside(path, opened->quarantined, sizeof opened->quarantined, err);
        if (status != CS_OK)
            return status;
    }
    if (seen.exists && !seen.damaged)
        return make_private(path, err);
    opened->created = true;
    return cs_create_private(path, err);
}

/* A start's first write: its origin, and the end of what the last start left running. */
static enum cs_status begin_start(struct cs_db *db, void *arg, struct cs_err *err)
{
    int64_t now = cs_clock_ms();
    struct cs_sql q;
    enum cs_status status;

    (void)arg;
    cs_sql_begin(&q, db, CS_SQL_ORIGIN_INSERT);
    cs_sql_int(&q, db->origin);
    cs_sql_int(&q, now);
    status = cs_sql_run(&q, "register the origin", err);
    if (status == CS_OK)
        status = cs_turn_interrupt_all(db, now, err);
    return status;
}

static enum cs_status open_writer(struct cs_store *store, const struct cs_store_options *options,
                                  int *out_version, struct cs_err *err)
{
    struct cs_db *db = NULL;
    enum cs_status status = cs_db_open(store->path, CS_DB_WRITER, &db, err);

    if (status == CS_OK)
        status = cs_migrate(db, err);
    if (status == CS_OK)
        status = cs_db_prepare_all(db, err);
    if (status == CS_OK)
        status = cs_tally_load_tops(db, err);
    if (status == CS_OK)
        status = cs_origin_new(&db->origin, err);
    if (status == CS_OK)
        status = cs_writer_init(&store->writer, db,
                                options->queue_max > 0 ? options->queue_max : QUEUE_DEFAULT, err);
    if (status != CS_OK) {
        cs_db_close(db);
        return status;
    }
    store->writer_ready = true;
    if (options->host != NULL)
        (void)snprintf(db->host, sizeof db->host, "%s", options->host);
    cs_origin_name(db->origin, store->origin);
    *out_version = cs_migrate_newest();
    return cs_writer_run(&store->writer, &(struct cs_write){.apply = begin_start}, err);
}

static enum cs_status open_readers(struct cs_store *store, unsigned count, struct cs_err *err)
{
    for (unsigned i = 0; i < count; i++) {
        struct cs_db *db = NULL;
        enum cs_status status = cs_db_open(store->path, CS_DB_READER, &db, err);

        if (status != CS_OK)
            return status;
        store->readers[i] = db;
        status = cs_db_exec(db, "PRAGMA query_only = ON", err);
        if (status != CS_OK)
            return status;
        db->next = store->idle;
        store->idle = db;
    }
    return CS_OK;
}

static enum cs_status init_lock(struct cs_store *store, struct cs_err *err)
{
    enum cs_status status = cs_cond_init(&store->freed, err);
    int rc;

    if (status != CS_OK)
        return status;
    rc = pthread_mutex_init(&store->lock, NULL);
    if (rc != 0) {
        (void)pthread_cond_destroy(&store->freed);
        return cs_err_errno(err, rc, "make a lock");
    }
    store->lock_ready = true;
    return CS_OK;
}

enum cs_status cs_store_open(const struct cs_store_options *options, struct cs_store **out_store,
                             struct cs_store_opened *out_opened, struct cs_err *err)
{
    unsigned readers = options->readers > 0 ? options->readers : READERS_DEFAULT;
    struct cs_store *store = NULL;
    struct cs_store_opened *opened = NULL;
    enum cs_status status;

    cs_db_global_init();
    if (readers > READERS_MAX)
        return cs_err_set(err, CS_INVALID, NULL, "at most %d readers", READERS_MAX);
    store = calloc(1, sizeof *store);
    opened = calloc(1, sizeof *opened);
    if (store == NULL || opened == NULL || (store->path = cs_store_path(options->dir)) == NULL) {
        status = cs_err_nomem(err);
        goto out;
    }
    status = init_lock(store, err);
    if (status == CS_OK)
        status = prepare_file(store->path, opened, err);
    if (status == CS_OK)
        status = open_writer(store, options, &opened->schema_version, err);
    if (status == CS_OK)
        status = open_readers(store, readers, err);
    if (status == CS_OK && !options->no_thread)
        status = cs_writer_start(&store->writer, err);
    if (status != CS_OK)
        goto out;
    *out_opened = *opened;
    *out_store = store;
    store = NULL;

out:
    cs_store_close(store);
    free(opened);
    return status;
}

void cs_store_close(struct cs_store *store)
{
    if (store == NULL)
        return;
    if (store->writer_ready)
        cs_writer_stop(&store->writer);
    for (size_t i = 0; i < READERS_MAX; i++)
        cs_db_close(store->readers[i]);
    if (store->writer_ready) {
        struct cs_db *db = store->writer.db;

        /* Only tidies up: what fails here is done by the next start. */
        (void)sqlite3_wal_checkpoint_v2(db->sqlite, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
        cs_writer_fini(&store->writer);
        cs_db_close(db);
    }
    if (store->lock_ready) {
        (void)pthread_cond_destroy(&store->freed);
        (void)pthread_mutex_destroy(&store->lock);
    }
    free(store->path);
    free(store);
}

/* ---- using ---- */

struct cs_writer *cs_store_writer(struct cs_store *store)
{
    return &store->writer;
}

enum cs_status cs_store_write(struct cs_store *store, cs_store_apply apply, void *arg,
                              struct cs_err *err)
{
    return cs_store_write_then(store, apply, NULL, arg, err);
}

enum cs_status cs_store_write_then(struct cs_store *store, cs_store_apply apply,
                                   cs_store_committed committed, void *arg, struct cs_err *err)
{
    return cs_writer_run(&store->writer, &(struct cs_write){apply, committed, arg}, err);
}

void cs_store_listen(struct cs_store *store, cs_store_listener listener, void *arg)
{
    cs_writer_listen(&store->writer, listener, arg);
}

enum cs_status cs_store_read(struct cs_store *store, struct cs_db **out_db, struct cs_err *err)
{
    int64_t deadline = cs_mono_ms() + READ_WAIT_MS;
    struct cs_db *db;
    enum cs_status status;
    bool waiting = true;

    (void)pthread_mutex_lock(&store->lock);
    while (store->idle == NULL && waiting)
        waiting = cs_cond_wait(&store->freed, &store->lock, deadline);
    db = store->idle;
    if (db != NULL)
        store->idle = db->next;
    (void)pthread_mutex_unlock(&store->lock);
    if (db == NULL)
        return cs_err_set(err, CS_BUSY, "store_busy", "all readers of the database are in use");
    status = cs_sql_do(db, CS_SQL_READ, "begin to read", err);
    if (status != CS_OK) {
        cs_store_done(store, db);
        return status;
    }
    *out_db = db;
    return CS_OK;
}

void cs_store_done(struct cs_store *store, struct cs_db *db)
{
    if (db == NULL)
        return;
    if (sqlite3_get_autocommit(db->sqlite) == 0)
        (void)!cs_sql_do(db, CS_SQL_ROLLBACK, "end reading", NULL);
    (void)pthread_mutex_lock(&store->lock);
    db->next = store->idle;
    store->idle = db;
    (void)pthread_cond_signal(&store->freed);
    (void)pthread_mutex_unlock(&store->lock);
}

const char *cs_store_origin(const struct cs_store *store)
{
    return store->origin;
}

enum cs_status cs_store_size(struct cs_store *store, struct cs_store_size *out_size,
                             struct cs_err *err)
{
    char wal[PATH_MAX];
    struct stat file = {0};
    struct stat log = {0};
    struct statvfs disk;

    /* By name alone: opening and closing the file here would drop SQLite's locks on it. */
    if (stat(store->path, &file) != 0 || statvfs(store->path, &disk) != 0)
        return cs_err_errno(err, errno, "look at the database");
    if (snprintf(wal, sizeof wal, "%s-wal", store->path) >= (int)sizeof wal)
        return cs_err_set(err, CS_INVALID, NULL, "the path of the database is too long");
    if (stat(wal, &log) != 0 && errno != ENOENT)
        return cs_err_errno(err, errno, "look at the WAL");
    *out_size = (struct cs_store_size){
        .file_bytes = file.st_size,
        .wal_bytes = log.st_size,
        .disk_free_bytes = (int64_t)disk.f_bavail * (int64_t)disk.f_frsize,
    };
    return CS_OK;
}
