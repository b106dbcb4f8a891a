#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>

/* ---- helpers ---- */

/* The bytes of a file, to be freed; NULL when there is none. */
static char *slurp(const char *path, size_t *out_len)
{
    FILE *file = fopen(path, "rb");
    struct stat st;
    char *bytes;

    if (file == NULL)
        return NULL;
    assert_int_equal(0, fstat(fileno(file), &st));
    bytes = malloc((size_t)st.st_size + 1);
    assert_non_null(bytes);
    assert_int_equal(st.st_size, fread(bytes, 1, (size_t)st.st_size, file));
    bytes[st.st_size] = '\0';
    (void)fclose(file);
    *out_len = (size_t)st.st_size;
    return bytes;
}

static void spit(const char *path, const void *bytes, size_t len)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(len, fwrite(bytes, 1, len, file));
    assert_int_equal(0, fclose(file));
}

static const char *beside(const struct fixture *f, const char *suffix)
{
    static char name[256];

    (void)snprintf(name, sizeof name, "%s%s", f->path, suffix);
    return name;
}

static bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

static mode_t mode_of(const char *path)
{
    struct stat st;

    assert_int_equal(0, stat(path, &st));
    return st.st_mode & 07777;
}

/* Run SQL on the file from outside. */
static void run_sql(const char *path, const char *sql)
{
    sqlite3 *db = NULL;

    assert_int_equal(SQLITE_OK, sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL));
    assert_int_equal(SQLITE_OK, sqlite3_exec(db, sql, NULL, NULL, NULL));
    assert_int_equal(SQLITE_OK, sqlite3_close(db));
}

static int64_t count_messages(struct fixture *f, int64_t session)
{
    int64_t count = -1;

    free(history(f, session, 0, 0, &count, NULL));
    return count;
}

/* Opening must fail so, and change no byte. */
static void assert_refused(struct fixture *f, const char *code)
{
    struct cs_store_options options = {.dir = f->dir, .no_thread = true};
    size_t before_len = 0;
    size_t after_len = 0;
    char *before = slurp(f->path, &before_len);
    char *after;
    struct cs_err err = {.status = CS_OK};

    assert_int_equal(CS_CONFLICT, cs_store_open(&options, &f->store, &f->opened, &err));
    assert_string_equal(code, err.code);
    assert_null(f->store);
    after = slurp(f->path, &after_len);
    assert_int_equal(before_len, after_len);
    assert_memory_equal(before, after, before_len);
    free(before);
    free(after);
}

/* ---- opening ---- */

static void a_new_database_is_made_and_private(void **state)
{
    struct fixture *f = *state;
    mode_t mask = umask(0);

    fixture_open(f);
    (void)umask(mask);
    assert_true(f->opened.created);
    assert_int_equal(6, f->opened.schema_version);
    assert_string_equal("", f->opened.quarantined);
    (void)add_session(f, 1);
    assert_int_equal(0600, mode_of(f->path));
    assert_int_equal(0600, mode_of(beside(f, "-wal")));
    assert_int_equal(0600, mode_of(beside(f, "-shm")));
}

static void a_tight_umask_does_not_matter(void **state)
{
    struct fixture *f = *state;
    mode_t mask = umask(0777);

    fixture_open(f);
    (void)umask(mask);
    assert_int_equal(0600, mode_of(f->path));
}

static void opening_again_keeps_the_rows_and_makes_the_file_private(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);

    (void)add_message(f, session, CS_MESSAGE_USER, "hello", NULL, 1);
    fixture_close(f);
    assert_false(exists(beside(f, "-wal")));
    assert_int_equal(0, chmod(f->path, 0644));
    fixture_open(f);
    assert_false(f->opened.created);
    assert_int_equal(0600, mode_of(f->path));
    assert_int_equal(1, count_messages(f, session));
}

static void every_start_has_an_origin_of_its_own(void **state)
{
    struct fixture *f = *state;
    char first[32];

    (void)snprintf(first, sizeof first, "%s", cs_store_origin(f->store));
    assert_int_equal(16, strlen(first));
    assert_int_equal(16, strspn(first, "0123456789abcdef"));
    fixture_reopen(f);
    assert_string_not_equal(first, cs_store_origin(f->store));
}

static void an_empty_file_is_a_new_database(void **state)
{
    struct fixture *f = *state;

    spit(f->path, "", 0);
    fixture_open(f);
    assert_string_equal("", f->opened.quarantined);
    (void)add_session(f, 1);
}

static void a_missing_folder_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct cs_store_options options = {.dir = "/nonexistent/folder"};
    struct cs_err err = {.status = CS_OK};

    assert_int_equal(CS_IO, cs_store_open(&options, &f->store, &f->opened, &err));
    assert_null(f->store);
}

static void too_many_readers_are_refused(void **state)
{
    struct fixture *f = *state;
    struct cs_store_options options = {.dir = f->dir, .readers = 17};

    assert_int_equal(CS_INVALID, cs_store_open(&options, &f->store, &f->opened, NULL));
}

static void a_newer_database_is_refused_and_untouched(void **state)
{
    struct fixture *f = *state;

    (void)add_session(f, 1);
    fixture_close(f);
    run_sql(f->path, "PRAGMA user_version = 999");
    assert_refused(f, "database_newer");
    assert_false(exists(beside(f, "-wal")));
    assert_false(exists(beside(f, "-shm")));
}

static void a_newer_database_with_a_wal_is_refused_and_untouched(void **state)
{
    struct fixture *f = *state;
    sqlite3 *db = NULL;
    size_t before_len = 0;
    size_t after_len = 0;
    char *before, *after;

    fixture_close(f);
    assert_int_equal(SQLITE_OK, sqlite3_open(f->path, &db));
    assert_int_equal(SQLITE_OK, sqlite3_exec(db, "PRAGMA user_version = 999", NULL, NULL, NULL));
    before = slurp(beside(f, "-wal"), &before_len);
    assert_true(before_len > 0);
    assert_refused(f, "database_newer");
    after = slurp(beside(f, "-wal"), &after_len);
    assert_int_equal(before_len, after_len);
    assert_memory_equal(before, after, before_len);
    free(before);
    free(after);
    assert_int_equal(SQLITE_OK, sqlite3_close(db));
}

static void a_database_of_another_program_is_refused_and_untouched(void **state)
{
    struct fixture *f = *state;

    spit(f->path, "", 0);
    run_sql(f->path, "CREATE TABLE theirs (x)");
    assert_refused(f, "database_foreign");
}

/* ---- damage ---- */

static void assert_set_aside(struct fixture *f, const char *bytes, size_t len)
{
    size_t kept_len = 0;
    char *kept;

    assert_true(f->opened.created);
    assert_non_null(strstr(f->opened.quarantined, "codex-sessiond.db.damaged-"));
    kept = slurp(f->opened.quarantined, &kept_len);
    assert_non_null(kept);
    assert_int_equal(len, kept_len);
    assert_memory_equal(bytes, kept, len);
    free(kept);
    (void)add_session(f, 77);
}

static void a_file_that_is_no_database_is_set_aside(void **state)
{
    struct fixture *f = *state;
    static char garbage[5000];

    memset(garbage, 'g', sizeof garbage);
    spit(f->path, garbage, sizeof garbage);
    fixture_open(f);
    assert_true(strlen(f->opened.damage) > 0);
    assert_set_aside(f, garbage, sizeof garbage);
}

static void a_few_bytes_are_set_aside(void **state)
{
    struct fixture *f = *state;

    spit(f->path, "xyz", 3); /* one byte counts as empty */
    fixture_open(f);
    assert_set_aside(f, "xyz", 3);
}

static void a_damaged_page_is_found_and_set_aside(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    size_t len = 0;
    char *bytes;

    for (int i = 0; i < 200; i++)
        (void)add_message(f, session, CS_MESSAGE_USER, "some text to fill the pages with", NULL, 1);
    fixture_close(f);
    bytes = slurp(f->path, &len);
    memset(bytes + len - 3 * 4096, 0xee, 2000);
    spit(f->path, bytes, len);
    fixture_open(f);
    assert_true(strlen(f->opened.damage) > 0);
    assert_set_aside(f, bytes, len);
    assert_int_equal(0, count_messages(f, session));
    free(bytes);
}

static void a_truncated_database_is_set_aside(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    size_t len = 0;
    char *bytes;

    for (int i = 0; i < 200; i++)
        (void)add_message(f, session, CS_MESSAGE_USER, "some text to fill the pages with", NULL, 1);
    fixture_close(f);
    bytes = slurp(f->path, &len);
    spit(f->path, bytes, len / 2);
    fixture_open(f);
    assert_set_aside(f, bytes, len / 2);
    free(bytes);
}

static void a_damaged_database_takes_its_wal_along(void **state)
{
    struct fixture *f = *state;
    static char garbage[5000];
    char name[4200];
    size_t len = 0;
    char *kept;

    memset(garbage, 'g', sizeof garbage);
    spit(f->path, garbage, sizeof garbage);
    spit(beside(f, "-wal"), "a wal", 5);
    fixture_open(f);
    assert_set_aside(f, garbage, sizeof garbage);
    (void)snprintf(name, sizeof name, "%s-wal", f->opened.quarantined);
    kept = slurp(name, &len);
    assert_non_null(kept);
    assert_string_equal("a wal", kept);
    free(kept);
}

static void a_wal_without_its_database_is_set_aside(void **state)
{
    struct fixture *f = *state;
    char name[4200];

    spit(beside(f, "-wal"), "a wal", 5);
    fixture_open(f);
    assert_true(f->opened.created);
    (void)snprintf(name, sizeof name, "%s-wal", f->opened.quarantined);
    assert_true(exists(name));
}

/* ---- reading ---- */

static void a_reader_sees_one_snapshot(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct cs_db *db = NULL;
    struct cs_session seen = {0};

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_session_get(db, session, &seen, NULL));
    assert_int_equal(0, seen.message_count);
    cs_session_fini(&seen);
    (void)add_message(f, session, CS_MESSAGE_USER, "later", NULL, 1);
    ok(cs_session_get(db, session, &seen, NULL));
    assert_int_equal(0, seen.message_count);
    cs_session_fini(&seen);
    cs_store_done(f->store, db);

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_session_get(db, session, &seen, NULL));
    assert_int_equal(1, seen.message_count);
    cs_session_fini(&seen);
    cs_store_done(f->store, db);
    cs_store_done(f->store, NULL);
}

static void a_reader_cannot_write(void **state)
{
    struct fixture *f = *state;
    struct cs_session session = {.sid = "s9", .cid = "c9"};
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, NULL));
    assert_int_equal(CS_IO, cs_session_insert(db, &session, NULL));
    cs_store_done(f->store, db);
}

static void *give_back(void *arg)
{
    struct cs_db **db = arg;

    (void)usleep(50000);
    cs_store_done((struct cs_store *)(void *)db[1], db[0]);
    return NULL;
}

static void who_waits_gets_the_next_free_reader(void **state)
{
    struct fixture *f = *state;
    struct cs_db *first = NULL;
    struct cs_db *second = NULL;
    struct cs_db *third = NULL;
    struct cs_db *pair[2];
    pthread_t thread;

    ok(cs_store_read(f->store, &first, NULL));
    ok(cs_store_read(f->store, &second, NULL));
    pair[0] = first;
    pair[1] = (struct cs_db *)(void *)f->store;
    assert_int_equal(0, pthread_create(&thread, NULL, give_back, pair));
    ok(cs_store_read(f->store, &third, NULL));
    assert_ptr_equal(first, third);
    assert_int_equal(0, pthread_join(thread, NULL));
    cs_store_done(f->store, second);
    cs_store_done(f->store, third);
}

static void without_a_free_reader_it_is_busy_after_five_seconds(void **state)
{
    struct fixture *f = *state;
    struct cs_db *taken[2] = {NULL, NULL};
    struct cs_db *none = NULL;
    int64_t start = cs_mono_ms();

    ok(cs_store_read(f->store, &taken[0], NULL));
    ok(cs_store_read(f->store, &taken[1], NULL));
    assert_int_equal(CS_BUSY, cs_store_read(f->store, &none, NULL));
    assert_in_range(cs_mono_ms() - start, 4900, 20000);
    assert_null(none);
    cs_store_done(f->store, taken[0]);
    cs_store_done(f->store, taken[1]);
}

static void the_size_is_told(void **state)
{
    struct fixture *f = *state;
    struct cs_store_size size = {0};

    (void)add_session(f, 1);
    ok(cs_store_size(f->store, &size, NULL));
    assert_true(size.wal_bytes > 0);
    assert_true(size.disk_free_bytes > 0);
    fixture_reopen(f);
    ok(cs_store_size(f->store, &size, NULL));
    assert_true(size.file_bytes >= 4096);
}

/* ---- after a stop ---- */

static void running_turns_of_an_earlier_start_are_interrupted(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    int64_t other = add_session(f, 2);
    int64_t running = begin_turn(f, session, 1, 5);
    int64_t done = begin_turn(f, other, 2, 5);
    struct cs_turn_row turn = {0};
    struct cs_turn_figures figures;
    struct cs_db *db = NULL;
    char *text;
    int64_t count = 0;

    end_turn(f, other, done, 2, CS_TURN_COMPLETED, 6);
    fixture_reopen(f);
    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_turn_get(db, running, &turn, NULL));
    assert_int_equal(CS_TURN_INTERRUPTED, turn.status);
    assert_string_equal("turn_interrupted", turn.error_code);
    assert_true(turn.answer_message > turn.prompt_message);
    assert_true(turn.ended_at > 0);
    cs_turn_row_fini(&turn);
    ok(cs_turn_get(db, done, &turn, NULL));
    assert_int_equal(CS_TURN_COMPLETED, turn.status);
    cs_turn_row_fini(&turn);
    ok(cs_turn_figures(db, &figures, NULL));
    assert_int_equal(0, figures.running);
    assert_int_equal(1, figures.interrupted);
    assert_int_equal(1, figures.completed);
    cs_store_done(f->store, db);

    text = history(f, session, 0, 0, &count, NULL);
    assert_int_equal(2, count);
    assert_non_null(strstr(text,
                           "{\"type\":\"error\",\"content\":\"The daemon stopped while this turn "
                           "was running\""));
    assert_non_null(strstr(text, "\"turnId\":\"t1\",\"code\":\"turn_interrupted\"}"));
    free(text);
    fixture_reopen(f); /* once is enough */
    assert_int_equal(2, count_messages(f, session));
}

/* ---- backup and verification ---- */

static void a_backup_is_whole_private_and_opens(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    char copy[128];
    struct fixture other;

    (void)add_message(f, session, CS_MESSAGE_USER, "kept", NULL, 1);
    make_folder(&other);
    (void)snprintf(copy, sizeof copy, "%s/codex-sessiond.db", other.dir);
    ok(cs_store_backup(f->dir, copy, &f->err));
    assert_int_equal(0600, mode_of(copy));
    assert_int_equal(CS_CONFLICT, cs_store_backup(f->dir, copy, NULL));
    fixture_open(&other);
    assert_false(other.opened.created);
    assert_int_equal(1, count_messages(&other, session));
    void *end = &other;
    assert_int_equal(0, teardown(&end));
}

static void a_backup_without_a_database_is_not_found(void **state)
{
    struct fixture *f = *state;
    char copy[128];

    (void)snprintf(copy, sizeof copy, "%s/copy", f->dir);
    assert_int_equal(CS_NOT_FOUND, cs_store_backup(f->dir, copy, NULL));
    assert_false(exists(copy));
}

static void a_failed_backup_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    char command[256];

    assert_int_equal(CS_IO, cs_store_backup(f->dir, "/nonexistent/copy", NULL));
    (void)snprintf(command, sizeof command, "! ls %s | grep part", f->dir);
    assert_int_equal(0, system(command)); /* NOLINT: a fixed text and mkdtemp()'s name */
}

struct writing {
    struct fixture *f;
    int64_t session;
    int acked;
    bool stop;
    pthread_mutex_t lock;
};

static void *write_on(void *arg)
{
    struct writing *w = arg;
    bool stop = false;

    while (!stop) {
        (void)add_message(w->f, w->session, CS_MESSAGE_USER, "more", NULL, 1);
        (void)pthread_mutex_lock(&w->lock);
        w->acked++;
        stop = w->stop;
        (void)pthread_mutex_unlock(&w->lock);
    }
    return NULL;
}

static void a_backup_while_writing_holds_what_was_acknowledged(void **state)
{
    struct fixture *f = *state;
    struct writing w = {.f = f, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct fixture other;
    struct cs_buf report;
    pthread_t thread;
    char copy[128];
    int acked;

    w.session = add_session(f, 1);
    assert_int_equal(0, pthread_create(&thread, NULL, write_on, &w));
    (void)usleep(100000);
    (void)pthread_mutex_lock(&w.lock);
    acked = w.acked;
    (void)pthread_mutex_unlock(&w.lock);
    make_folder(&other);
    (void)snprintf(copy, sizeof copy, "%s/codex-sessiond.db", other.dir);
    struct cs_err err = {.status = CS_OK};
    ok(cs_store_backup(f->dir, copy, &err));
    (void)pthread_mutex_lock(&w.lock);
    w.stop = true;
    (void)pthread_mutex_unlock(&w.lock);
    assert_int_equal(0, pthread_join(thread, NULL));
    cs_buf_init(&report, 1 << 20);
    ok(cs_store_verify(other.dir, &report, &err));
    cs_buf_fini(&report);
    fixture_open(&other);
    assert_true(count_messages(&other, w.session) >= acked);
    void *end = &other;
    assert_int_equal(0, teardown(&end));
}

static void verify_of_a_sound_store_reports_nothing(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    int64_t turn = begin_turn(f, session, 1, 5);
    struct cs_buf report;

    end_turn(f, session, turn, 1, CS_TURN_COMPLETED, 6);
    cs_buf_init(&report, 1 << 20);
    ok(cs_store_verify(f->dir, &report, &f->err));
    assert_int_equal(0, report.len);
    cs_buf_fini(&report);
}

static void verify_finds(struct fixture *f, const char *sql, const char *sentence)
{
    struct cs_buf report;

    fixture_close(f);
    run_sql(f->path, sql);
    cs_buf_init(&report, 1 << 20);
    assert_int_equal(CS_CORRUPT, cs_store_verify(f->dir, &report, NULL));
    assert_non_null(strstr(report.data, sentence));
    cs_buf_fini(&report);
}

static void verify_finds_a_changed_text(void **state)
{
    struct fixture *f = *state;

    (void)add_message(f, add_session(f, 1), CS_MESSAGE_USER, "true", NULL, 1);
    verify_finds(f, "UPDATE message SET frag = replace(frag, 'true', 'lies')",
                 "message 1 has another hash than its text");
}

static void verify_finds_a_changed_author(void **state)
{
    struct fixture *f = *state;

    (void)add_message(f, add_session(f, 1), CS_MESSAGE_USER, "true", NULL, 1);
    verify_finds(f, "UPDATE message SET origin = 5", "message 1 has another hash than its text");
}

static void verify_finds_a_hole_and_an_orphan(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);

    (void)add_message(f, session, CS_MESSAGE_USER, "one", NULL, 1);
    (void)add_message(f, session, CS_MESSAGE_USER, "two", NULL, 1);
    verify_finds(f, "DELETE FROM message WHERE seq = 1", "session 1 lacks messages of origin");
    verify_finds(f, "DELETE FROM session", "message 2 has no session");
}

static void verify_of_garbage_is_corrupt(void **state)
{
    struct fixture *f = *state;
    static char garbage[5000];
    struct cs_buf report;

    memset(garbage, 'g', sizeof garbage);
    spit(f->path, garbage, sizeof garbage);
    cs_buf_init(&report, 1 << 20);
    assert_int_equal(CS_CORRUPT, cs_store_verify(f->dir, &report, NULL));
    assert_true(report.len > 0);
    cs_buf_fini(&report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_new_database_is_made_and_private, setup_folder, teardown),
        cmocka_unit_test_setup_teardown(a_tight_umask_does_not_matter, setup_folder, teardown),
        cmocka_unit_test_setup_teardown(opening_again_keeps_the_rows_and_makes_the_file_private,
                                        setup_store, teardown),
        cmocka_unit_test_setup_teardown(every_start_has_an_origin_of_its_own, setup_store,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_empty_file_is_a_new_database, setup_folder, teardown),
        cmocka_unit_test_setup_teardown(a_missing_folder_is_an_error, setup_folder, teardown),
        cmocka_unit_test_setup_teardown(too_many_readers_are_refused, setup_folder, teardown),
        cmocka_unit_test_setup_teardown(a_newer_database_is_refused_and_untouched, setup_store,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_newer_database_with_a_wal_is_refused_and_untouched,
                                        setup_store, teardown),
        cmocka_unit_test_setup_teardown(a_database_of_another_program_is_refused_and_untouched,
                                        setup_folder, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_is_no_database_is_set_aside, setup_folder,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_few_bytes_are_set_aside, setup_folder, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_page_is_found_and_set_aside, setup_store,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_truncated_database_is_set_aside, setup_store, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_database_takes_its_wal_along, setup_folder,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_wal_without_its_database_is_set_aside, setup_folder,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_reader_sees_one_snapshot, setup_store, teardown),
        cmocka_unit_test_setup_teardown(a_reader_cannot_write, setup_store, teardown),
        cmocka_unit_test_setup_teardown(who_waits_gets_the_next_free_reader, setup_store, teardown),
        cmocka_unit_test_setup_teardown(without_a_free_reader_it_is_busy_after_five_seconds,
                                        setup_store, teardown),
        cmocka_unit_test_setup_teardown(the_size_is_told, setup_store, teardown),
        cmocka_unit_test_setup_teardown(running_turns_of_an_earlier_start_are_interrupted,
                                        setup_store, teardown),
        cmocka_unit_test_setup_teardown(a_backup_is_whole_private_and_opens, setup_store, teardown),
        cmocka_unit_test_setup_teardown(a_backup_without_a_database_is_not_found, setup_folder,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_failed_backup_leaves_nothing, setup_store, teardown),
        cmocka_unit_test_setup_teardown(a_backup_while_writing_holds_what_was_acknowledged,
                                        setup_threaded, teardown),
        cmocka_unit_test_setup_teardown(verify_of_a_sound_store_reports_nothing, setup_store,
                                        teardown),
        cmocka_unit_test_setup_teardown(verify_finds_a_changed_text, setup_store, teardown),
        cmocka_unit_test_setup_teardown(verify_finds_a_changed_author, setup_store, teardown),
        cmocka_unit_test_setup_teardown(verify_finds_a_hole_and_an_orphan, setup_store, teardown),
        cmocka_unit_test_setup_teardown(verify_of_garbage_is_corrupt, setup_folder, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
