/* store_load: drives the store as turns do, for tests that take its power, its disk or its process
 * away.
 *
 *   store_load run DIR THREADS COUNT TAG
 *       Each thread keeps sessions of its own and appends COUNT turns: a prompt, then its answer,
 * each a write of its own. Content begins with an id, "<TAG>-<thread>-<n>p" or "…a". Once a write
 * has returned, stdout gets "ack <id>" or "nack <id> <status>". Before the first: "open <what was
 * done to the file>". store_load list DIR Every session, one JSON array of its rendered messages a
 * line, after the same "open …" line; then "end".
 *
 * Exit status: 0; 1 when the store does not open (stderr says why); 2 for wrong usage.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/thread.h"
#include "cs/store/message.h"
#include "cs/store/session.h"
#include "cs/store/store.h"
#include "cs/store/turn.h"

#define CONTENT_MAX       20000
#define TURNS_PER_SESSION 25

struct worker {
    pthread_t thread;
    struct cs_store *store;
    const char *tag;
    int number, count;
    unsigned random;
    struct cs_session session; /* the one in use; its strings are literals */
    struct cs_turn_row turn;   /* the one under way; likewise */
    char content[CONTENT_MAX];
    size_t content_len;
};

/** A line goes out in one piece, also from several threads and also when the process dies next. */
static void say(const char *verb, const char *id, const char *rest)
{
    char line[256];
    int len = snprintf(line, sizeof line, "%s %s%s%s\n", verb, id, *rest != '\0' ? " " : "", rest);
    if (len < 0 || write(STDOUT_FILENO, line, (size_t)len) != len) {
        _exit(0); /* the test is gone */
    }
}

/** Content of a few bytes up to several pages, beginning with the id. */
static void compose(struct worker *worker, const char *id)
{
    worker->random = worker->random * 1103515245U + 12345U;
    size_t len =
        (worker->random >> 16) % 10 == 0 ? CONTENT_MAX - 1 : 40 + (worker->random >> 16) % 600;
    memset(worker->content, 'a' + (int)(worker->random >> 8) % 26, len);
    size_t id_len = strlen(id);
    memcpy(worker->content, id, id_len);
    worker->content[id_len] = ' ';
    worker->content[len] = '\0';
    worker->content_len = len;
}

static enum cs_status append(struct cs_db *db, struct worker *worker, enum cs_message_kind kind,
                             int64_t *out_id, struct cs_err *err)
{
    struct cs_message_new message = {
        .session = worker->session.id,
        .kind = kind,
        .content = worker->content,
        .content_len = worker->content_len,
        .turn = worker->turn.tid,
        .at = cs_clock_ms(),
    };
    return cs_message_append(db, &message, out_id, err);
}

/** A write: the prompt of a turn, with its session when that is new. */
static enum cs_status begin_turn(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct worker *worker = arg;
    enum cs_status status = CS_OK;
    if (worker->session.id == 0) {
        status = cs_session_insert(db, &worker->session, err);
    }
    if (status == CS_OK) {
        status = append(db, worker, CS_MESSAGE_USER, &worker->turn.prompt_message, err);
    }
    if (status == CS_OK) {
        worker->turn.session = worker->session.id;
        status = cs_turn_insert(db, &worker->turn, err);
    }
    return status;
}

/** A write: the answer of a turn. */
static enum cs_status end_turn(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct worker *worker = arg;
    worker->turn.status = CS_TURN_COMPLETED;
    worker->turn.ended_at = cs_clock_ms();
    enum cs_status status =
        append(db, worker, CS_MESSAGE_ASSISTANT, &worker->turn.answer_message, err);
    return status == CS_OK ? cs_turn_finish(db, &worker->turn, err) : status;
}

static enum cs_status put(struct worker *worker, int n, char part, cs_store_apply apply)
{
    char id[128];
    (void)snprintf(id, sizeof id, "%s-%d-%d%c", worker->tag, worker->number, n, part);
    compose(worker, id);
    struct cs_err err = {0};
    enum cs_status status = cs_store_write(worker->store, apply, worker, &err);
    say(status == CS_OK ? "ack" : "nack", id, status == CS_OK ? "" : cs_status_name(status));
    return status;
}

static void new_session(struct worker *worker)
{
    static char model[] = "m", sandbox[] = "read-only", cwd[] = "/", empty[] = "",
                engine[] = "auto", user[] = "load";
    worker->session =
        (struct cs_session){.user = user,
                            .model = model,
                            .sandbox = sandbox,
                            .cwd = cwd,
                            .title = empty,
                            .initial_prompt = empty,
                            .engine = engine,
                            .origin = (char *)(uintptr_t)cs_store_origin(worker->store),
                            .created_at = cs_clock_ms(),
                            .ttl_ms = 0};
    if (cs_uuid_new(worker->session.sid, NULL) != CS_OK ||
        cs_uuid_new(worker->session.cid, NULL) != CS_OK) {
        abort();
    }
}

static void new_turn(struct worker *worker, bool continued)
{
    static char text[] = "m", sandbox[] = "read-only", empty[] = "", none[] = "[]";
    worker->turn = (struct cs_turn_row){.continued = continued,
                                        .status = CS_TURN_RUNNING,
                                        .started_at = cs_clock_ms(),
                                        .timeout_ms = 30000,
                                        .model = text,
                                        .sandbox = sandbox,
                                        .engine = empty,
                                        .engine_version = empty,
                                        .thread_id = empty,
                                        .engine_turn_id = empty,
                                        .usage = {1, 1, 1},
                                        .total = {-1, -1, -1},
                                        .error_code = empty,
                                        .error = empty,
                                        .evicted = none};
    if (cs_uuid_new(worker->turn.tid, NULL) != CS_OK) {
        abort();
    }
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    bool fresh = true; /* a session of its own comes with the next turn */
    for (int n = 0; n < worker->count; n++) {
        fresh = fresh || n % TURNS_PER_SESSION == 0;
        if (fresh) {
            new_session(worker);
        }
        new_turn(worker, !fresh);
        if (put(worker, n, 'p', begin_turn) == CS_OK) {
            fresh = put(worker, n, 'a', end_turn) != CS_OK; /* its turn still runs */
        }
    }
    return NULL;
}

static struct cs_store *open_store(const char *dir)
{
    struct cs_store_options options = {.dir = dir, .readers = 1};
    struct cs_store_opened opened = {0};
    struct cs_store *store = NULL;
    struct cs_err err = {0};
    if (cs_store_open(&options, &store, &opened, &err) != CS_OK) {
        (void)fprintf(stderr, "store_load: %s\n", err.msg);
        return NULL;
    }
    say("open",
        opened.quarantined[0] != '\0' ? "quarantined"
        : opened.created              ? "created"
                                      : "existing",
        opened.damage);
    return store;
}

static int run(const char *dir, int threads, int count, const char *tag)
{
    struct cs_store *store = open_store(dir);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    if (store == NULL || workers == NULL) {
        free(workers);
        cs_store_close(store);
        return 1;
    }
    for (int i = 0; i < threads; i++) {
        workers[i] = (struct worker){
            .store = store, .tag = tag, .number = i, .count = count, .random = (unsigned)i};
        if (cs_thread_start(&workers[i].thread, "load", 262144, work, &workers[i], NULL) != CS_OK) {
            abort();
        }
    }
    for (int i = 0; i < threads; i++) {
        (void)pthread_join(workers[i].thread, NULL);
    }
    cs_store_close(store);
    free(workers);
    return 0;
}

/** Print the messages of one page of sessions; the cursor of the next, 0 at the end. */
static int64_t list_page(struct cs_db *db, int64_t before)
{
    struct cs_session_filter filter = {.before_id = before, .limit = 500};
    struct cs_session_list list = {0};
    struct cs_err err = {0};
    if (cs_session_list(db, &filter, &list, &err) != CS_OK) {
        (void)fprintf(stderr, "store_load: %s\n", err.msg);
        exit(1);
    }
    for (size_t i = 0; i < list.count; i++) {
        struct cs_buf out;
        int64_t count = 0;
        cs_buf_init(&out, SIZE_MAX / 2);
        if (cs_message_history(db, list.items[i].id, 0, 0, &out, &count, NULL, &err) != CS_OK) {
            (void)fprintf(stderr, "store_load: %s\n", err.msg);
            exit(1);
        }
        (void)printf("[%.*s]\n", (int)out.len, out.data);
        cs_buf_fini(&out);
    }
    int64_t next = list.next_before_id;
    cs_session_list_fini(&list);
    return next;
}

static int list(const char *dir)
{
    struct cs_store *store = open_store(dir);
    struct cs_db *db = NULL;
    if (store == NULL || cs_store_read(store, &db, NULL) != CS_OK) {
        return 1;
    }
    for (int64_t before = list_page(db, 0); before != 0;) {
        before = list_page(db, before);
    }
    cs_store_done(store, db);
    cs_store_close(store);
    (void)puts("end");
    return 0;
}

int main(int argc, char *argv[])
{
    if (argc == 6 && strcmp(argv[1], "run") == 0) {
        return run(argv[2], (int)strtol(argv[3], NULL, 10), (int)strtol(argv[4], NULL, 10),
                   argv[5]);
    }
    if (argc == 3 && strcmp(argv[1], "list") == 0) {
        return list(argv[2]);
    }
    (void)fprintf(stderr, "usage: store_load run DIR THREADS COUNT TAG | list DIR\n");
    return 2;
}
