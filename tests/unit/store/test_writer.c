/* Group commit: what is acknowledged, what is rolled back, and what a full disk does. */
#include "fixture.h"

#include <pthread.h>
#include <semaphore.h>
#include <sqlite3.h>

#include "db.h"
#include "writer.h"

#define THREADS 32
#define EACH    50

/* ---- helpers ---- */

static int64_t count_messages(struct fixture *f, int64_t session)
{
    int64_t count = -1;

    free(history(f, session, 0, 0, &count, NULL));
    return count;
}

/* Holds the writer until released, so that writes gather behind it. */
struct gate {
    struct fixture *f;
    sem_t entered, open;
    pthread_t thread;
};

static enum cs_status wait_at_gate(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct gate *gate = arg;

    (void)db;
    (void)err;
    (void)sem_post(&gate->entered);
    while (sem_wait(&gate->open) != 0)
        continue;
    return CS_OK;
}

static void *hold(void *arg)
{
    struct gate *gate = arg;

    ok(cs_store_write(gate->f->store, wait_at_gate, gate, NULL));
    return NULL;
}

static void close_gate(struct gate *gate, struct fixture *f)
{
    gate->f = f;
    (void)sem_init(&gate->entered, 0, 0);
    (void)sem_init(&gate->open, 0, 0);
    assert_int_equal(0, pthread_create(&gate->thread, NULL, hold, gate));
    while (sem_wait(&gate->entered) != 0)
        continue;
}

static void open_gate(struct gate *gate)
{
    (void)sem_post(&gate->open);
    assert_int_equal(0, pthread_join(gate->thread, NULL));
    (void)sem_destroy(&gate->entered);
    (void)sem_destroy(&gate->open);
}

/* One write on a thread of its own. */
struct request {
    struct fixture *f;
    cs_store_apply apply;
    void *arg;
    pthread_t thread;
    enum cs_status status;
    struct cs_err err;
};

static void *run_request(void *arg)
{
    struct request *request = arg;

    request->status =
        cs_store_write(request->f->store, request->apply, request->arg, &request->err);
    return NULL;
}

static void start(struct request *request, struct fixture *f, cs_store_apply apply, void *arg)
{
    unsigned before = cs_writer_queued(cs_store_writer(f->store));

    *request = (struct request){.f = f, .apply = apply, .arg = arg};
    assert_int_equal(0, pthread_create(&request->thread, NULL, run_request, request));
    while (cs_writer_queued(cs_store_writer(f->store)) == before)
        (void)usleep(1000); /* behind a closed gate the order of the queue is that of the starts */
}

static void join(struct request *request)
{
    assert_int_equal(0, pthread_join(request->thread, NULL));
}

/* Appends "kept" and then does as the test says. */
struct step {
    int64_t session;
    enum cs_status status; /* to answer */
    size_t len;            /* of the text, 0: "kept" */
};

static enum cs_status append_and_answer(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct step *step = arg;
    static char big[4 << 20];
    struct cs_message_new message = {.session = step->session,
                                     .kind = CS_MESSAGE_USER,
                                     .content = "kept",
                                     .content_len = 4,
                                     .at = 1};
    enum cs_status status;

    if (step->len > 0) {
        memset(big, 'b', step->len);
        message.content = big;
        message.content_len = step->len;
    }
    status = cs_message_append(db, &message, NULL, err);
    if (status != CS_OK || step->status == CS_OK)
        return status;
    return cs_err_set(err, step->status, "asked_for", "as the test asked");
}

/* ---- groups ---- */

struct worker {
    struct fixture *f;
    pthread_t thread;
    int64_t session;
    int number;
};

static void *work(void *arg)
{
    struct worker *worker = arg;

    for (int i = 0; i < EACH; i++) {
        char text[32];
        struct append append = {
            .message = {
                .session = worker->session, .kind = CS_MESSAGE_USER, .content = text, .at = 1}};

        append.message.content_len =
            (size_t)snprintf(text, sizeof text, "<%d.%d>", worker->number, i);
        ok(cs_store_write(worker->f->store, write_message_apply, &append, NULL));
    }
    return NULL;
}

static void many_threads_write_each_of_theirs_once(void **state)
{
    struct fixture *f = *state;
    static struct worker workers[THREADS];
    int64_t count = 0;
    char *text;

    for (int i = 0; i < THREADS; i++) /* four threads share a session */
        workers[i] =
            (struct worker){.f = f,
                            .number = i,
                            .session = i % 4 == 0 ? add_session(f, i) : workers[i - 1].session};
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(0, pthread_create(&workers[i].thread, NULL, work, &workers[i]));
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(0, pthread_join(workers[i].thread, NULL));
    for (int i = 0; i < THREADS; i++) {
        const char *at;

        text = history(f, workers[i].session, 0, 0, &count, NULL);
        assert_int_equal(4 * EACH, count);
        at = text;
        for (int n = 0; n < EACH; n++) { /* in the order in which the thread wrote them */
            char mark[32];

            (void)snprintf(mark, sizeof mark, "<%d.%d>", i, n);
            at = strstr(at, mark);
            assert_non_null(at);
        }
        free(text);
    }
    assert_sound(f);
}

static void a_failing_write_of_a_group_takes_back_only_its_own(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct step good = {.session = session};
    struct step bad = {.session = session, .status = CS_DENIED};
    struct request requests[5];
    struct gate gate;

    close_gate(&gate, f);
    for (int i = 0; i < 5; i++)
        start(&requests[i], f, append_and_answer, i == 2 ? &bad : &good);
    open_gate(&gate);
    for (int i = 0; i < 5; i++) {
        join(&requests[i]);
        assert_int_equal(i == 2 ? CS_DENIED : CS_OK, requests[i].status);
    }
    assert_string_equal("asked_for", requests[2].err.code);
    assert_int_equal(4, count_messages(f, session));
    assert_sound(f);
}

static enum cs_status count_and_fail(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct cs_session session = {.sid = "lost", .cid = "lost"};

    (void)arg;
    ok(cs_session_insert(db, &session, err));
    return CS_DENIED;
}

static void a_write_that_failed_is_not_counted(void **state)
{
    struct fixture *f = *state;
    struct cs_session_figures figures;
    struct step step = {.session = add_session(f, 1)};
    struct request requests[2];
    struct gate gate;
    struct cs_db *db = NULL;

    close_gate(&gate, f);
    start(&requests[0], f, count_and_fail, NULL);
    start(&requests[1], f, append_and_answer, &step); /* what keeps the group's transaction */
    open_gate(&gate);
    join(&requests[0]);
    join(&requests[1]);
    assert_int_equal(CS_DENIED, requests[0].status);
    ok(requests[1].status);
    assert_int_equal(CS_DENIED, cs_store_write(f->store, count_and_fail, NULL, NULL)); /* alone */
    ok(cs_store_write(f->store, append_and_answer, &step, NULL));
    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_session_figures(db, &figures, NULL));
    assert_int_equal(1, figures.live);
    cs_store_done(f->store, db);
}

/* ---- listening ---- */

/* What the listener was told. */
struct heard {
    int64_t last, count;
    bool out_of_order;
};

static void hear(void *arg, const struct cs_appended *rows, size_t count)
{
    struct heard *heard = arg;

    for (size_t i = 0; i < count; i++) {
        heard->out_of_order = heard->out_of_order || rows[i].id <= heard->last;
        heard->last = rows[i].id;
        heard->count++;
    }
}

static void a_listener_hears_of_a_group_what_was_kept(void **state)
{
    struct fixture *f = *state;
    struct step good = {.session = add_session(f, 1)};
    struct step bad = {.session = good.session, .status = CS_DENIED};
    struct heard heard = {.count = 0};
    struct request requests[5];
    struct gate gate;

    close_gate(&gate, f);
    cs_store_listen(f->store, hear, &heard);
    for (int i = 0; i < 5; i++)
        start(&requests[i], f, append_and_answer, i % 2 == 1 ? &bad : &good);
    open_gate(&gate);
    for (int i = 0; i < 5; i++)
        join(&requests[i]);
    cs_store_listen(f->store, NULL, NULL);
    assert_int_equal(3, heard.count);
    assert_false(heard.out_of_order);
    assert_int_equal(3, count_messages(f, good.session));
}

static void a_listener_hears_of_many_threads_in_the_order_of_ids(void **state)
{
    struct fixture *f = *state;
    static struct worker workers[THREADS];
    struct heard heard = {.count = 0};

    for (int i = 0; i < THREADS; i++)
        workers[i] = (struct worker){.f = f, .number = i, .session = add_session(f, i)};
    cs_store_listen(f->store, hear, &heard);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(0, pthread_create(&workers[i].thread, NULL, work, &workers[i]));
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(0, pthread_join(workers[i].thread, NULL));
    cs_store_listen(f->store, NULL, NULL);
    assert_false(heard.out_of_order);
    assert_int_equal(THREADS * EACH, heard.count);
}

/* ---- limits ---- */

static void a_full_queue_is_busy(void **state)
{
    struct fixture *f = *state;
    struct request requests[2];
    struct step step;
    struct gate gate;
    struct cs_err err = {.status = CS_OK};

    fixture_open_with(f, (struct cs_store_options){.readers = 1, .queue_max = 2});
    step = (struct step){.session = add_session(f, 1)};
    close_gate(&gate, f);
    start(&requests[0], f, append_and_answer, &step);
    start(&requests[1], f, append_and_answer, &step);
    assert_int_equal(CS_BUSY, cs_store_write(f->store, append_and_answer, &step, &err));
    assert_string_equal("store_busy", err.code);
    open_gate(&gate);
    join(&requests[0]);
    join(&requests[1]);
    ok(requests[0].status);
    ok(requests[1].status);
    assert_int_equal(2, count_messages(f, step.session));
}

static enum cs_status limit_pages(struct cs_db *db, void *arg, struct cs_err *err)
{
    char sql[64];

    (void)snprintf(sql, sizeof sql, "PRAGMA max_page_count = %d", *(int *)arg);
    return cs_db_exec(db, sql, err);
}

static void a_full_disk_fails_the_writes_and_heals(void **state)
{
    struct fixture *f = *state;
    struct step step = {.session = add_session(f, 1)};
    struct step big = {.session = step.session, .len = 2 << 20};
    struct cs_err err = {.status = CS_OK};
    int pages = 1; /* as many as there are */

    ok(cs_store_write(f->store, append_and_answer, &step, NULL));
    ok(cs_store_write(f->store, limit_pages, &pages, NULL));
    assert_int_equal(CS_FULL, cs_store_write(f->store, append_and_answer, &big, &err));
    assert_int_equal(CS_FULL, err.status);
    assert_int_equal(1, count_messages(f, step.session));         /* reads go on */
    ok(cs_store_write(f->store, append_and_answer, &step, NULL)); /* it needs no page */
    pages = 1000000;
    ok(cs_store_write(f->store, limit_pages, &pages, NULL));
    ok(cs_store_write(f->store, append_and_answer, &big, NULL));
    assert_int_equal(3, count_messages(f, step.session));
}

static void a_full_disk_within_a_group_acknowledges_nothing_that_is_lost(void **state)
{
    struct fixture *f = *state;
    struct step step = {.session = add_session(f, 1)};
    struct step big = {.session = step.session, .len = 2 << 20};
    struct request requests[5];
    struct gate gate;
    int pages = 1;
    int acked = 0;

    ok(cs_store_write(f->store, limit_pages, &pages, NULL));
    close_gate(&gate, f);
    for (int i = 0; i < 5; i++)
        start(&requests[i], f, append_and_answer, i == 2 ? &big : &step);
    open_gate(&gate);
    for (int i = 0; i < 5; i++) {
        join(&requests[i]);
        assert_true(requests[i].status == CS_OK || requests[i].status == CS_FULL);
        assert_int_equal(requests[i].status, requests[i].err.status);
        acked += requests[i].status == CS_OK;
    }
    assert_int_equal(CS_FULL, requests[2].status);
    assert_true(acked >= 2); /* those behind it at least */
    assert_int_equal(acked, count_messages(f, step.session));
}

static void *close_store(void *arg)
{
    struct fixture *f = arg;

    fixture_close(f);
    return NULL;
}

/* Close on another thread; returns when new writes are refused. The gate is closed, so that it goes
 * no further. */
static void begin_closing(pthread_t *closer, struct fixture *f)
{
    struct cs_writer *writer = cs_store_writer(f->store);
    bool closed = false;

    assert_int_equal(0, pthread_create(closer, NULL, close_store, f));
    while (!closed) {
        (void)pthread_mutex_lock(&writer->lock);
        closed = writer->closed;
        (void)pthread_mutex_unlock(&writer->lock);
    }
}

static void closing_commits_what_is_queued(void **state)
{
    struct fixture *f = *state;
    struct step step = {.session = add_session(f, 1)};
    struct request requests[3];
    struct gate gate;
    pthread_t closer;

    close_gate(&gate, f);
    for (int i = 0; i < 3; i++)
        start(&requests[i], f, append_and_answer, &step);
    begin_closing(&closer, f);
    open_gate(&gate);
    for (int i = 0; i < 3; i++) {
        join(&requests[i]);
        ok(requests[i].status);
    }
    assert_int_equal(0, pthread_join(closer, NULL));
    fixture_open(f);
    assert_int_equal(3, count_messages(f, step.session));
}

static void a_write_after_closing_began_is_unavailable(void **state)
{
    struct fixture *f = *state;
    struct step step = {.session = add_session(f, 1)};
    struct gate gate;
    pthread_t closer;

    close_gate(&gate, f);
    begin_closing(&closer, f);
    assert_int_equal(CS_UNAVAILABLE, cs_store_write(f->store, append_and_answer, &step, NULL));
    open_gate(&gate);
    assert_int_equal(0, pthread_join(closer, NULL));
}

/* ---- the WAL ---- */

static void the_wal_does_not_grow_without_bound(void **state)
{
    struct fixture *f = *state;
    struct step big = {.session = add_session(f, 1), .len = 1 << 20};
    struct cs_store_size size;

    for (int i = 0; i < 40; i++)
        ok(cs_store_write(f->store, append_and_answer, &big, NULL));
    ok(cs_store_size(f->store, &size, NULL));
    assert_true(size.wal_bytes < 16 << 20);
    assert_true(size.file_bytes > 30 << 20);
}

static void the_wal_shrinks_after_an_old_snapshot_ends(void **state)
{
    struct fixture *f = *state;
    struct step big = {.session = add_session(f, 1), .len = 1 << 20};
    struct cs_session seen = {0};
    struct cs_store_size size;
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_session_get(db, big.session, &seen, NULL));
    cs_session_fini(&seen);
    for (int i = 0; i < 40; i++)
        ok(cs_store_write(f->store, append_and_answer, &big, NULL));
    ok(cs_store_size(f->store, &size, NULL));
    assert_true(size.wal_bytes > 32 << 20);
    cs_store_done(f->store, db);
    for (int i = 0; i < 12; i++)
        ok(cs_store_write(f->store, append_and_answer, &big, NULL));
    ok(cs_store_size(f->store, &size, NULL));
    assert_true(size.wal_bytes <= 17 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(many_threads_write_each_of_theirs_once, setup_threaded,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_failing_write_of_a_group_takes_back_only_its_own,
                                        setup_threaded, teardown),
        cmocka_unit_test_setup_teardown(a_write_that_failed_is_not_counted, setup_threaded,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_listener_hears_of_a_group_what_was_kept, setup_threaded,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_listener_hears_of_many_threads_in_the_order_of_ids,
                                        setup_threaded, teardown),
        cmocka_unit_test_setup_teardown(a_full_queue_is_busy, setup_folder, teardown),
        cmocka_unit_test_setup_teardown(a_full_disk_fails_the_writes_and_heals, setup_threaded,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            a_full_disk_within_a_group_acknowledges_nothing_that_is_lost, setup_threaded, teardown),
        cmocka_unit_test_setup_teardown(closing_commits_what_is_queued, setup_threaded, teardown),
        cmocka_unit_test_setup_teardown(a_write_after_closing_began_is_unavailable, setup_threaded,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_wal_does_not_grow_without_bound, setup_threaded,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_wal_shrinks_after_an_old_snapshot_ends, setup_threaded,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
