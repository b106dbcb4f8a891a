/* A store in a temporary folder, and short ways to fill it. */
#ifndef CS_TEST_STORE_FIXTURE_H
#define CS_TEST_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/base/clock.h"
#include "cs/store/idempotency.h"
#include "cs/store/message.h"
#include "cs/store/session.h"
#include "cs/store/store.h"
#include "cs/store/turn.h"

struct fixture {
    char dir[64];
    char path[128]; /* of the database */
    struct cs_store *store;
    struct cs_store_opened opened;
    struct cs_err err;
};

#define ok(expression) assert_int_equal(CS_OK, (expression))

static inline void fixture_open_with(struct fixture *f, struct cs_store_options options)
{
    options.dir = f->dir;
    f->err = (struct cs_err){.status = CS_OK};
    if (cs_store_open(&options, &f->store, &f->opened, &f->err) != CS_OK)
        fail_msg("open: %s", f->err.msg);
}

static inline void fixture_open(struct fixture *f)
{
    fixture_open_with(f, (struct cs_store_options){.readers = 2, .no_thread = true});
}

static inline void fixture_close(struct fixture *f)
{
    cs_store_close(f->store);
    f->store = NULL;
}

static inline void fixture_reopen(struct fixture *f)
{
    fixture_close(f);
    fixture_open(f);
}

/* Fill in a new folder, in memory if there is room: the tests sync thousands of times. */
static inline void make_folder(struct fixture *f)
{
    struct statvfs shm;
    bool room =
        statvfs("/dev/shm", &shm) == 0 && shm.f_bavail >= ((uint64_t)1 << 30) / shm.f_frsize;

    *f = (struct fixture){.store = NULL};
    (void)snprintf(f->dir, sizeof f->dir, "%s/cs-store-XXXXXX",
                   room && access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->path, sizeof f->path, "%s/codex-sessiond.db", f->dir);
}

/* A folder without a database. */
static inline int setup_folder(void **state)
{
    static struct fixture f;

    make_folder(&f);
    *state = &f;
    return 0;
}

static inline int setup_store(void **state)
{
    (void)setup_folder(state);
    fixture_open(*state);
    return 0;
}

static inline int setup_threaded(void **state)
{
    (void)setup_folder(state);
    fixture_open_with(*state, (struct cs_store_options){.readers = 2});
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];

    cs_clock_override(NULL);
    fixture_close(f);
    (void)snprintf(command, sizeof command, "rm -rf '%.63s'", f->dir);
    return system(command); /* NOLINT: a fixed text and mkdtemp()'s name */
}

/* ---- a write of one call ---- */

#define WRITE(name, type, call)                                                                    \
    static inline enum cs_status name##_apply(struct cs_db *db, void *arg, struct cs_err *err)     \
    {                                                                                              \
        type *x = arg;                                                                             \
        return call;                                                                               \
    }                                                                                              \
    static inline enum cs_status name(struct fixture *f, type *x)                                  \
    {                                                                                              \
        f->err = (struct cs_err){.status = CS_OK};                                                 \
        return cs_store_write(f->store, name##_apply, x, &f->err);                                 \
    }

WRITE(write_session, struct cs_session, cs_session_insert(db, x, err))
WRITE(write_turn, struct cs_turn_row, cs_turn_insert(db, x, err))
WRITE(write_end, struct cs_turn_row, cs_turn_finish(db, x, err))
WRITE(write_delete, int64_t, cs_session_delete(db, *x, err))

struct append {
    struct cs_message_new message;
    int64_t id;
};
WRITE(write_message, struct append, cs_message_append(db, &x->message, &x->id, err))

/* A session of user "anna" made at @at that lives for an hour; sid is "s<n>", cid "c<n>". Returns
 * its rowid. */
static inline int64_t add_session_of(struct fixture *f, int n, const char *user, int64_t at,
                                     int64_t ttl_ms)
{
    struct cs_session session = {.user = (char *)(uintptr_t)user,
                                 .model = (char[]){"gpt-5-codex"},
                                 .sandbox = (char[]){"read-only"},
                                 .cwd = (char[]){"/tmp"},
                                 .title = (char[]){"a title"},
                                 .initial_prompt = (char[]){"hello"},
                                 .engine = (char[]){"auto"},
                                 .created_at = at,
                                 .ttl_ms = ttl_ms};

    (void)snprintf(session.sid, sizeof session.sid, "s%d", n);
    (void)snprintf(session.cid, sizeof session.cid, "c%d", n);
    ok(write_session(f, &session));
    return session.id;
}

static inline int64_t add_session(struct fixture *f, int n)
{
    return add_session_of(f, n, "anna", 1000000, 3600000);
}

/* Append a message; returns its rowid. */
static inline int64_t add_message(struct fixture *f, int64_t session, enum cs_message_kind kind,
                                  const char *text, const char *turn, int64_t at)
{
    struct append append = {.message = {.session = session,
                                        .kind = kind,
                                        .content = text,
                                        .content_len = strlen(text),
                                        .turn = turn,
                                        .at = at}};

    ok(write_message(f, &append));
    return append.id;
}

/* A prompt and its running turn "t<n>". Returns the turn's rowid. */
static inline int64_t begin_turn(struct fixture *f, int64_t session, int n, int64_t at)
{
    struct cs_turn_row turn = {.session = session,
                               .started_at = at,
                               .timeout_ms = 30000,
                               .model = (char[]){"gpt-5-codex"},
                               .sandbox = (char[]){"read-only"}};

    (void)snprintf(turn.tid, sizeof turn.tid, "t%d", n);
    turn.prompt_message = add_message(f, session, CS_MESSAGE_USER, "do it", turn.tid, at);
    ok(write_turn(f, &turn));
    return turn.id;
}

/* End turn "t<n>" as @status, with its message. */
static inline void end_turn(struct fixture *f, int64_t session, int64_t turn, int n,
                            enum cs_turn_status status, int64_t at)
{
    struct cs_turn_row row = {.id = turn,
                              .status = status,
                              .ended_at = at,
                              .duration_ms = 5,
                              .model = (char[]){"gpt-5-codex"},
                              .engine = (char[]){"exec"},
                              .usage = {10, 4, 3},
                              .total = {-1, -1, -1}};
    char tid[CS_UUID_MAX];

    (void)snprintf(tid, sizeof tid, "t%d", n);
    row.answer_message = add_message(
        f, session, status == CS_TURN_COMPLETED ? CS_MESSAGE_ASSISTANT : CS_MESSAGE_OUTCOME,
        status == CS_TURN_COMPLETED ? "done" : "it failed", tid, at);
    ok(write_end(f, &row));
}

/* The messages of a session as history() renders them, to be freed. */
static inline char *history(struct fixture *f, int64_t session, unsigned limit, int64_t before,
                            int64_t *out_count, int64_t *out_before)
{
    struct cs_db *db = NULL;
    struct cs_buf out;
    char *text;

    cs_buf_init(&out, 64 << 20);
    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_message_history(db, session, limit, before, &out, out_count, out_before, &f->err));
    cs_store_done(f->store, db);
    text = cs_buf_take(&out, NULL);
    assert_non_null(text);
    return text;
}

/* No damage, no hole, every hash right. */
static inline void assert_sound(struct fixture *f)
{
    struct cs_err err = {.status = CS_OK};
    struct cs_buf report;
    enum cs_status status;

    cs_buf_init(&report, 1 << 20);
    status = cs_store_verify(f->dir, &report, &err);
    if (status != CS_OK)
        fail_msg("%s: %s", err.msg, report.data != NULL ? report.data : "");
    cs_buf_fini(&report);
}

#endif
