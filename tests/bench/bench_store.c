/* bench_store DIR [SESSIONS]: what the store does below the HTTP server.
 *
 * Fills a database in DIR with SESSIONS (10,000) sessions of 20 messages of 500 bytes, then prints
 * a JSON object a line,
 * {"figure", "value", "ratio", "aim", "reached"}, ratios being of this run. Sessions are picked at
 * random.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/thread.h"
#include "cs/base/uuid.h"
#include "cs/store/message.h"
#include "cs/store/session.h"
#include "cs/store/store.h"
#include "cs/store/turn.h"

#define MESSAGES   20
#define TEXT       500
#define SECONDS    2
#define SYNCS      3000
#define CLIENTS    128
#define SYNC_BYTES 8240 /* two pages in the WAL: what an append of two messages writes at least */

static char text[TEXT + 1];

struct bench {
    struct cs_store *store;
    int64_t sessions; /* rowids 1 … sessions */
    enum cs_status (*work)(struct bench *bench, unsigned *seed, int64_t session);
    int64_t until; /* cs_mono_us() */
    atomic_long done;
};

static void must(enum cs_status status, const struct cs_err *err)
{
    if (status == CS_OK)
        return;
    fprintf(stderr, "bench_store: %s: %s\n", cs_status_name(status), err->msg);
    exit(1);
}

static void print(const char *figure, const char *value, double ratio, const char *aim, int reached)
{
    printf("{\"figure\": \"%s\", \"value\": \"%s\", ", figure, value);
    if (ratio > 0)
        printf("\"ratio\": %.3f, ", ratio);
    else
        printf("\"ratio\": null, ");
    if (aim != NULL)
        printf("\"aim\": \"%s\", \"reached\": %s}\n", aim, reached ? "true" : "false");
    else
        printf("\"aim\": null, \"reached\": null}\n");
    (void)fflush(stdout);
}

/* ---- writes ---- */

static enum cs_status append(struct cs_db *db, int64_t session, enum cs_message_kind kind,
                             const char *turn, int64_t *out_id, struct cs_err *err)
{
    const struct cs_message_new message = {.session = session,
                                           .kind = kind,
                                           .content = text,
                                           .content_len = TEXT,
                                           .turn = turn,
                                           .at = cs_clock_ms()};

    return cs_message_append(db, &message, out_id, err);
}

static enum cs_status fill(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct bench *bench = arg;
    struct cs_session session = {.user = (char[]){"bench"},
                                 .model = (char[]){"gpt-5-codex"},
                                 .sandbox = (char[]){"read-only"},
                                 .cwd = (char[]){"/tmp"},
                                 .title = (char[]){""},
                                 .initial_prompt = (char[]){"hello"},
                                 .engine = (char[]){"auto"},
                                 .created_at = cs_clock_ms(),
                                 .ttl_ms = 3600000};
    enum cs_status status = cs_uuid_new(session.sid, err);

    if (status == CS_OK)
        status = cs_uuid_new(session.cid, err);
    if (status == CS_OK)
        status = cs_session_insert(db, &session, err);
    bench->sessions = session.id;
    return status;
}

/* The log in the order in which conversations grow side by side. */
static enum cs_status fill_round(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct bench *bench = arg;
    enum cs_status status = CS_OK;

    for (int64_t i = 1; status == CS_OK && i <= bench->sessions; i++)
        status = append(db, i, CS_MESSAGE_USER, NULL, NULL, err);
    return status;
}

static enum cs_status append_pair(struct cs_db *db, void *arg, struct cs_err *err)
{
    const int64_t *session = arg;
    enum cs_status status = append(db, *session, CS_MESSAGE_USER, NULL, NULL, err);

    if (status == CS_OK)
        status = append(db, *session, CS_MESSAGE_ASSISTANT, NULL, NULL, err);
    return status;
}

static enum cs_status work_append(struct bench *bench, unsigned *seed, int64_t session)
{
    (void)seed;
    return cs_store_write(bench->store, append_pair, &session, NULL);
}

static enum cs_status begin_turn(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct cs_turn_row *turn = arg;
    enum cs_status status =
        append(db, turn->session, CS_MESSAGE_USER, turn->tid, &turn->prompt_message, err);

    return status == CS_OK ? cs_turn_insert(db, turn, err) : status;
}

static enum cs_status end_turn(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct cs_turn_row *turn = arg;
    enum cs_status status =
        append(db, turn->session, CS_MESSAGE_ASSISTANT, turn->tid, &turn->answer_message, err);

    return status == CS_OK ? cs_turn_finish(db, turn, err) : status;
}

static enum cs_status work_turn(struct bench *bench, unsigned *seed, int64_t session)
{
    struct cs_turn_row turn = {.session = session,
                               .started_at = cs_clock_ms(),
                               .timeout_ms = 30000,
                               .model = (char[]){"gpt-5-codex"},
                               .sandbox = (char[]){"read-only"},
                               .engine = (char[]){"app-server"},
                               .engine_version = (char[]){"0.169.0"},
                               .usage = {1000, 800, 50},
                               .total = {-1, -1, -1}};
    enum cs_status status = cs_uuid_new(turn.tid, NULL);

    (void)seed;
    if (status == CS_OK)
        status = cs_store_write(bench->store, begin_turn, &turn, NULL);
    if (status == CS_CONFLICT) /* another client has the session */
        return CS_OK;
    turn.status = CS_TURN_COMPLETED;
    turn.ended_at = cs_clock_ms();
    return status == CS_OK ? cs_store_write(bench->store, end_turn, &turn, NULL) : status;
}

static enum cs_status work_read(struct bench *bench, unsigned *seed, int64_t session)
{
    struct cs_db *db = NULL;
    struct cs_buf out;
    int64_t count = 0;
    enum cs_status status = cs_store_read(bench->store, &db, NULL);

    (void)seed;
    cs_buf_init(&out, 1 << 20);
    if (status == CS_OK)
        status = cs_message_history(db, session, MESSAGES, 0, &out, &count, NULL, NULL);
    cs_store_done(bench->store, db);
    cs_buf_fini(&out);
    return status;
}

/* ---- clients ---- */

static void *client(void *arg)
{
    struct bench *bench = arg;
    static atomic_uint number;
    unsigned seed = atomic_fetch_add(&number, 1) * 7919 + 17;
    long done = 0;

    while (cs_mono_us() < bench->until) {
        int64_t session = 1 + (int64_t)rand_r(&seed) % bench->sessions;

        if (bench->work(bench, &seed, session) != CS_OK) {
            fprintf(stderr, "bench_store: a request failed\n");
            exit(1);
        }
        done++;
    }
    (void)atomic_fetch_add(&bench->done, done);
    return NULL;
}

/* Requests per second of @clients at once. */
static double rate(struct bench *bench, int clients,
                   enum cs_status (*work)(struct bench *, unsigned *, int64_t))
{
    static pthread_t threads[CLIENTS];
    int64_t start = cs_mono_us();

    bench->work = work;
    bench->until = start + (int64_t)SECONDS * 1000000;
    atomic_store(&bench->done, 0);
    for (int i = 0; i < clients; i++) {
        struct cs_err err = {.status = CS_OK};

        must(cs_thread_start(&threads[i], "client", 256 << 10, client, bench, &err), &err);
    }
    for (int i = 0; i < clients; i++)
        (void)pthread_join(threads[i], NULL);
    return (double)atomic_load(&bench->done) * 1e6 / (double)(cs_mono_us() - start);
}

static void rates(struct bench *bench, const char *what,
                  enum cs_status (*work)(struct bench *, unsigned *, int64_t))
{
    static const int clients[] = {1, 32, 128};
    char figure[80];
    char value[80];
    double single = 0;

    for (size_t i = 0; i < sizeof clients / sizeof *clients; i++) {
        double each = rate(bench, clients[i], work);
        bool aimed = clients[i] == 32;

        if (i == 0)
            single = each;
        (void)snprintf(figure, sizeof figure, "%s, c=%d", what, clients[i]);
        (void)snprintf(value, sizeof value, "%.0f/s", each);
        print(figure, value, i == 0 ? 0 : each / single, aimed ? ">= 5" : NULL, each / single >= 5);
    }
}

/* ---- one commit against one sync ---- */

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static int64_t median(int64_t *values)
{
    qsort(values, SYNCS, sizeof *values, compare);
    return values[SYNCS / 2];
}

static int open_floor(const char *dir)
{
    static char zeros[1 << 20];
    char path[512];
    int fd;

    (void)snprintf(path, sizeof path, "%s/floor", dir);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (int i = 0; fd >= 0 && i < 4; i++) {
        if (write(fd, zeros, sizeof zeros) != (ssize_t)sizeof zeros)
            return -1;
    }
    return fd >= 0 && fsync(fd) == 0 ? fd : -1;
}

/* fdatasync of a plain file and commit of an append, turn by turn: the disk's moods hit both. */
static void commit_against_sync(struct bench *bench, const char *dir)
{
    static int64_t syncs[SYNCS];
    static int64_t commits[SYNCS];
    static char bytes[SYNC_BYTES];
    int fd = open_floor(dir);
    unsigned seed = 1;
    char value[80];
    int64_t sync, commit;

    for (int i = 0; i < SYNCS && fd >= 0; i++) {
        int64_t session = 1 + (int64_t)rand_r(&seed) % bench->sessions;
        struct cs_err err = {.status = CS_OK};
        int64_t start;

        if (pwrite(fd, bytes, sizeof bytes, (off_t)(i % 400) * SYNC_BYTES) < 0)
            break;
        start = cs_mono_us();
        if (fdatasync(fd) != 0)
            break;
        syncs[i] = cs_mono_us() - start;
        start = cs_mono_us();
        must(cs_store_write(bench->store, append_pair, &session, &err), &err);
        commits[i] = cs_mono_us() - start;
    }
    (void)close(fd);
    commit = median(commits);
    sync = median(syncs);
    sync = sync > 0 ? sync : 1; /* a disk of memory */
    (void)snprintf(value, sizeof value, "%" PRId64 " us / %" PRId64 " us", commit, sync);
    print("commit in the writer / fdatasync, p50, c=1", value, (double)commit / (double)sync,
          "<= 1.25", (double)commit / (double)sync <= 1.25);
}

static void open_store(struct bench *bench, const char *dir, bool no_thread)
{
    static struct cs_store_opened opened;
    struct cs_store_options options = {.dir = dir, .no_thread = no_thread};
    struct cs_err err = {.status = CS_OK};

    must(cs_store_open(&options, &bench->store, &opened, &err), &err);
}

int main(int argc, char *argv[])
{
    static struct bench bench;
    long sessions = argc > 2 ? strtol(argv[2], NULL, 10) : 10000;
    struct cs_err err = {.status = CS_OK};
    char value[80];

    if (argc < 2 || sessions < 1) {
        fprintf(stderr, "usage: bench_store DIR [SESSIONS]\n");
        return 2;
    }
    memset(text, 'x', TEXT);
    open_store(&bench, argv[1], true);
    for (long i = 0; i < sessions; i++) {
        must(cs_store_write(bench.store, fill, &bench, &err), &err);
    }
    for (int i = 0; i < MESSAGES; i++)
        must(cs_store_write(bench.store, fill_round, &bench, &err), &err);
    commit_against_sync(&bench, argv[1]);
    cs_store_close(bench.store);

    open_store(&bench, argv[1], false);
    rates(&bench, "append of 2 messages, durable", work_append);
    rates(&bench, "turn of two durable writes", work_turn);
    (void)snprintf(value, sizeof value, "%.0f/s", rate(&bench, 1, work_read));
    print("history of 20 messages, c=1", value, 0, NULL, 0);
    (void)snprintf(value, sizeof value, "%.0f/s", rate(&bench, 8, work_read));
    print("history of 20 messages, c=8", value, 0, NULL, 0);
    cs_store_close(bench.store);
    return 0;
}
