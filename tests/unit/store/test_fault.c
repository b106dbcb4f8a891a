/* What fails beneath the store: memory, and the disk through a VFS of our own. Nothing acknowledged
 * is lost, nothing crashes, and the next write works. */
#include "fixture.h"

#include <sqlite3.h>

#include "fault.h"

/* ---- memory of SQLite ---- */

static sqlite3_mem_methods plain;

static void *take_memory(int size)
{
    return fault_take() ? NULL : plain.xMalloc(size);
}

static void *resize_memory(void *memory, int size)
{
    return fault_take() ? NULL : plain.xRealloc(memory, size);
}

static void install_memory(void)
{
    sqlite3_mem_methods failing;

    assert_int_equal(SQLITE_OK, sqlite3_config(SQLITE_CONFIG_GETMALLOC, &plain));
    failing = plain;
    failing.xMalloc = take_memory;
    failing.xRealloc = resize_memory;
    assert_int_equal(SQLITE_OK, sqlite3_config(SQLITE_CONFIG_MALLOC, &failing));
    /* No pool of small pieces, from which every allocation of a turn may come. */
    assert_int_equal(SQLITE_OK, sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0));
}

/* ---- a disk that fails ---- */

enum operation { OP_WRITE = 1, OP_SYNC = 2, OP_TRUNCATE = 4, OP_READ = 8 };

static struct {
    int operations; /* that count */
    long countdown; /* the one that reaches 0 fails; negative: none */
    bool lasting;   /* all after it fail too */
    int rc;         /* what it answers */
    bool hit;
} disk = {.countdown = -1};

struct shim_file {
    sqlite3_file base;
    sqlite3_file *real; /* follows in memory */
};

static bool fails(enum operation operation)
{
    if ((disk.operations & (int)operation) == 0 || disk.countdown < 0)
        return false;
    if (disk.countdown > 0) {
        disk.countdown--;
        return false;
    }
    if (!disk.lasting)
        disk.countdown = -1;
    disk.hit = true;
    return true;
}

static void break_disk(int operations, long nth, bool lasting, int rc)
{
    disk.operations = operations;
    disk.countdown = nth;
    disk.lasting = lasting;
    disk.rc = rc;
    disk.hit = false;
}

static void mend_disk(void)
{
    disk.countdown = -1;
}

static sqlite3_file *real_of(sqlite3_file *file)
{
    return ((struct shim_file *)(void *)file)->real;
}

#define FORWARD(name, args, call)                                                                  \
    static int shim_##name args                                                                    \
    {                                                                                              \
        sqlite3_file *real = real_of(file);                                                        \
                                                                                                   \
        return real->pMethods->call;                                                               \
    }

FORWARD(close, (sqlite3_file * file), xClose(real))
FORWARD(size, (sqlite3_file * file, sqlite3_int64 *size), xFileSize(real, size))
FORWARD(lock, (sqlite3_file * file, int level), xLock(real, level))
FORWARD(unlock, (sqlite3_file * file, int level), xUnlock(real, level))
FORWARD(reserved, (sqlite3_file * file, int *out), xCheckReservedLock(real, out))
FORWARD(control, (sqlite3_file * file, int op, void *arg), xFileControl(real, op, arg))
FORWARD(sector, (sqlite3_file * file), xSectorSize(real))
FORWARD(device, (sqlite3_file * file), xDeviceCharacteristics(real))
FORWARD(shm_map, (sqlite3_file * file, int page, int size, int extend, void volatile **out),
        xShmMap(real, page, size, extend, out))
FORWARD(shm_lock, (sqlite3_file * file, int offset, int n, int flags),
        xShmLock(real, offset, n, flags))
FORWARD(shm_unmap, (sqlite3_file * file, int remove_it), xShmUnmap(real, remove_it))

static int shim_read(sqlite3_file *file, void *out, int len, sqlite3_int64 at)
{
    sqlite3_file *real = real_of(file);

    return fails(OP_READ) ? SQLITE_IOERR_READ : real->pMethods->xRead(real, out, len, at);
}

static int shim_write(sqlite3_file *file, const void *data, int len, sqlite3_int64 at)
{
    sqlite3_file *real = real_of(file);

    if (!fails(OP_WRITE))
        return real->pMethods->xWrite(real, data, len, at);
    if (len > 1) /* half of it arrives */
        (void)real->pMethods->xWrite(real, data, len / 2, at);
    return disk.rc;
}

static int shim_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    sqlite3_file *real = real_of(file);

    return fails(OP_TRUNCATE) ? SQLITE_IOERR_TRUNCATE : real->pMethods->xTruncate(real, size);
}

static int shim_sync(sqlite3_file *file, int flags)
{
    sqlite3_file *real = real_of(file);

    return fails(OP_SYNC) ? SQLITE_IOERR_FSYNC : real->pMethods->xSync(real, flags);
}

static void shim_barrier(sqlite3_file *file)
{
    sqlite3_file *real = real_of(file);

    real->pMethods->xShmBarrier(real);
}

static const sqlite3_io_methods shim_methods = {
    .iVersion = 2,
    .xClose = shim_close,
    .xRead = shim_read,
    .xWrite = shim_write,
    .xTruncate = shim_truncate,
    .xSync = shim_sync,
    .xFileSize = shim_size,
    .xLock = shim_lock,
    .xUnlock = shim_unlock,
    .xCheckReservedLock = shim_reserved,
    .xFileControl = shim_control,
    .xSectorSize = shim_sector,
    .xDeviceCharacteristics = shim_device,
    .xShmMap = shim_shm_map,
    .xShmLock = shim_shm_lock,
    .xShmBarrier = shim_barrier,
    .xShmUnmap = shim_shm_unmap,
};

static sqlite3_vfs *unix_vfs;

static int shim_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags,
                     int *out_flags)
{
    struct shim_file *shim = (struct shim_file *)(void *)file;
    int rc;

    (void)vfs;
    shim->real = (sqlite3_file *)(void *)(shim + 1);
    rc = unix_vfs->xOpen(unix_vfs, name, shim->real, flags, out_flags);
    shim->base.pMethods = shim->real->pMethods != NULL ? &shim_methods : NULL;
    return rc;
}

static void install_disk(void)
{
    static sqlite3_vfs shim;

    unix_vfs = sqlite3_vfs_find(NULL);
    shim = *unix_vfs;
    shim.zName = "shim";
    shim.pNext = NULL;
    shim.szOsFile = unix_vfs->szOsFile + (int)sizeof(struct shim_file);
    shim.xOpen = shim_open;
    assert_int_equal(SQLITE_OK, sqlite3_vfs_register(&shim, 1));
}

/* ---- failing memory ---- */

static int64_t next_number(void)
{
    static int64_t number = 1000;

    return number++;
}

/* What a turn does to the store. Any call may fail for want of memory; then the rest is left out.
 */
static enum cs_status try_turn(struct fixture *f)
{
    int number = (int)next_number();
    struct cs_session session = {.user = (char[]){"anna"}, .created_at = 1, .ttl_ms = 5};
    struct cs_turn_row turn = {.started_at = 1};
    struct append append = {.message = {.kind = CS_MESSAGE_USER, .content = "do it", .at = 1}};
    enum cs_status status;

    append.message.content_len = strlen(append.message.content);
    (void)snprintf(session.sid, sizeof session.sid, "s%d", number);
    (void)snprintf(session.cid, sizeof session.cid, "c%d", number);
    (void)snprintf(turn.tid, sizeof turn.tid, "t%d", number);
    status = write_session(f, &session);
    if (status == CS_OK) {
        append.message.session = turn.session = session.id;
        append.message.turn = turn.tid;
        status = write_message(f, &append);
    }
    if (status == CS_OK)
        status = write_turn(f, &turn);
    if (status == CS_OK) {
        turn.status = CS_TURN_COMPLETED;
        append.message.kind = CS_MESSAGE_ASSISTANT;
        status = write_message(f, &append);
    }
    if (status == CS_OK)
        status = write_end(f, &turn);
    return status;
}

static enum cs_status try_reads(struct fixture *f, int64_t id, const char *tid)
{
    const struct cs_session_filter filter = {.limit = 5, .user = "anna", .live = 1};
    struct cs_session_list list = {0};
    struct cs_session session = {0};
    struct cs_turn_row turn = {0};
    struct cs_transcript *transcript = NULL;
    struct cs_db *db = NULL;
    struct cs_buf out;
    char *text = NULL;
    size_t len = 0;
    int64_t count = 0;
    enum cs_status status = cs_store_read(f->store, &db, NULL);

    if (status != CS_OK)
        return status;
    cs_buf_init(&out, 1 << 20);
    status = cs_session_get(db, id, &session, NULL);
    if (status == CS_OK)
        status = cs_session_list(db, &filter, &list, NULL);
    if (status == CS_OK)
        status = cs_message_history(db, id, 3, 0, &out, &count, NULL, NULL);
    if (status == CS_OK)
        status = cs_message_transcript(db, id, NULL, &transcript, NULL);
    if (status == CS_OK)
        status = cs_message_content(db, 1, &text, &len, NULL);
    if (status == CS_OK)
        status = cs_turn_find(db, tid, &turn, NULL);
    if (status == CS_OK)
        assert_int_equal(2, transcript->count);
    cs_store_done(f->store, db);
    cs_session_fini(&session);
    cs_session_list_fini(&list);
    cs_turn_row_fini(&turn);
    cs_transcript_free(transcript);
    cs_buf_fini(&out);
    free(text);
    return status;
}

static void assert_ok_or_no_memory(enum cs_status status)
{
    if (status == CS_OK)
        return;
    assert_int_equal(CS_NO_MEM, status);
    assert_true(fault_hit());
}

static void write_turn_short_of_memory(void *arg)
{
    struct fixture *f = arg;

    assert_ok_or_no_memory(try_turn(f));
    (void)fault_disarm();
    ok(try_turn(f));
}

static void a_turn_stands_every_failing_allocation(void **state)
{
    struct fixture *f = *state;

    ok(try_turn(f));
    assert_true(fault_sweep(write_turn_short_of_memory, f) > 5);
    assert_sound(f);
}

static void read_short_of_memory(void *arg)
{
    assert_ok_or_no_memory(try_reads(arg, 1, "t1"));
    (void)fault_disarm();
    ok(try_reads(arg, 1, "t1"));
}

static void reads_stand_every_failing_allocation(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);

    end_turn(f, session, begin_turn(f, session, 1, 5), 1, CS_TURN_COMPLETED, 6);
    assert_true(fault_sweep(read_short_of_memory, f) > 20);
}

/* Open @f short of one allocation, then with memory enough. Returns whether one failed. */
static bool open_short_of_memory(struct fixture *f, long nth)
{
    struct cs_store_options options = {.dir = f->dir, .readers = 1, .no_thread = true};
    bool failed;

    fault_arm(nth);
    assert_ok_or_no_memory(cs_store_open(&options, &f->store, &f->opened, NULL));
    failed = fault_disarm();
    if (f->store != NULL)
        assert_string_equal("", f->opened.damage); /* no memory is no damage */
    fixture_close(f);
    fixture_open(f);
    assert_string_equal("", f->opened.damage);
    return failed;
}

/* Opening makes thousands of allocations, most of them for statements: some of them are enough. */
#define STRIDE 101

static void opening_stands_failing_allocations(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);

    for (long nth = 1; open_short_of_memory(f, nth); nth += STRIDE) {
        /* Each start ends what the last one left running. */
        (void)begin_turn(f, session, (int)nth, 5);
        fixture_close(f);
    }
    assert_sound(f);
}

static void making_a_database_stands_failing_allocations(void **state)
{
    bool failed = true;

    (void)state;
    for (long nth = 1; failed; nth += STRIDE) {
        struct fixture fresh;
        void *end = &fresh;

        make_folder(&fresh);
        failed = open_short_of_memory(&fresh, nth);
        ok(try_turn(&fresh));
        assert_int_equal(0, teardown(&end));
    }
}

/* ---- failing disk ---- */

/* Appends texts "<n>" and remembers which were acknowledged. */
struct oracle {
    bool acked[64];
    int sent;
};

static void append_some(struct fixture *f, int64_t session, struct oracle *oracle, int times)
{
    for (int i = 0; i < times; i++) {
        char text[6000];
        struct append append = {.message = {.session = session, .content = text, .at = 1}};
        enum cs_status status;

        memset(text, '.', sizeof text); /* more than a page */
        append.message.content_len = sizeof text;
        (void)snprintf(text, 8, "<%02d>", oracle->sent);
        text[4] = '.';
        status = write_message(f, &append);
        assert_true(status == CS_OK || status == CS_IO || status == CS_FULL);
        oracle->acked[oracle->sent++] = status == CS_OK;
    }
}

static void assert_kept(struct fixture *f, int64_t session, const struct oracle *oracle)
{
    int64_t count = 0;
    char *text = history(f, session, 0, 0, &count, NULL);

    for (int i = 0; i < oracle->sent; i++) {
        char mark[8];
        char *at;

        (void)snprintf(mark, sizeof mark, "<%02d>", i);
        at = strstr(text, mark);
        if (oracle->acked[i])
            assert_non_null(at);
        if (at != NULL)
            assert_null(strstr(at + 1, mark)); /* once */
    }
    free(text);
}

/* One run with the nth operation failing: write, fail, heal, write, restart, compare. Returns
 * whether it was reached. */
static bool run_on_broken_disk(int operations, long nth, bool lasting, int rc)
{
    struct fixture f;
    void *end = &f;
    struct oracle oracle = {.sent = 0};
    int64_t session;
    bool hit;

    make_folder(&f);
    fixture_open(&f);
    session = add_session(&f, 1);
    append_some(&f, session, &oracle, 2);
    break_disk(operations, nth, lasting, rc);
    append_some(&f, session, &oracle, 4);
    hit = disk.hit;
    if (lasting)
        mend_disk();
    append_some(&f, session, &oracle, 2);
    mend_disk();
    append_some(&f, session, &oracle, 2);
    assert_true(oracle.acked[oracle.sent - 1]);
    assert_true(oracle.acked[oracle.sent - 2]);
    assert_kept(&f, session, &oracle);
    assert_sound(&f);
    fixture_reopen(&f);
    assert_string_equal("", f.opened.quarantined);
    assert_kept(&f, session, &oracle);
    assert_sound(&f);
    assert_int_equal(0, teardown(&end));
    return hit;
}

static void sweep_disk(int operations, bool lasting, int rc)
{
    long nth = 0;

    while (run_on_broken_disk(operations, nth, lasting, rc))
        nth++;
    assert_true(nth >= 4);
}

static void every_failing_write_is_survived(void **state)
{
    (void)state;
    sweep_disk(OP_WRITE, false, SQLITE_IOERR_WRITE);
}

static void every_failing_sync_is_survived(void **state)
{
    (void)state;
    sweep_disk(OP_SYNC, false, SQLITE_IOERR_FSYNC);
}

static void a_disk_that_is_full_from_any_write_on_heals(void **state)
{
    (void)state;
    sweep_disk(OP_WRITE, true, SQLITE_FULL);
}

static void a_disk_that_fails_from_any_call_on_heals(void **state)
{
    (void)state;
    sweep_disk(OP_WRITE | OP_SYNC | OP_TRUNCATE, true, SQLITE_IOERR_WRITE);
}

/* Closing and opening fail at the nth call; nothing is lost, and no damage is seen where there is
 * none. */
static bool restart_on_broken_disk(long nth)
{
    struct fixture f;
    struct cs_store_options options = {.readers = 1, .no_thread = true};
    void *end = &f;
    struct oracle oracle = {.sent = 0};
    int64_t session;
    bool hit;

    make_folder(&f);
    options.dir = f.dir;
    fixture_open(&f);
    session = add_session(&f, 1);
    (void)begin_turn(&f, session, 1, 5);
    append_some(&f, session, &oracle, 3);
    break_disk(OP_WRITE | OP_SYNC | OP_TRUNCATE | OP_READ, nth, false, SQLITE_IOERR_WRITE);
    fixture_close(&f);
    if (cs_store_open(&options, &f.store, &f.opened, NULL) == CS_OK)
        assert_string_equal("", f.opened.damage); /* a failing disk is no damage */
    hit = disk.hit;
    mend_disk();
    fixture_close(&f);
    fixture_open(&f);
    assert_string_equal("", f.opened.quarantined);
    assert_kept(&f, session, &oracle);
    assert_sound(&f);
    assert_int_equal(0, teardown(&end));
    return hit;
}

static void every_failure_during_a_restart_is_survived(void **state)
{
    long nth = 0;

    (void)state;
    while (restart_on_broken_disk(nth))
        nth++;
    assert_true(nth > 20);
}

/* The WAL is full of commits, and copying it into the database fails. */
static void a_failing_checkpoint_loses_nothing(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    size_t len = (size_t)1 << 20;
    char *big = malloc(len);
    struct append append = {.message = {.session = session, .content = big, .content_len = len}};
    int64_t count = 0;

    assert_non_null(big);
    memset(big, 'b', len);
    for (int i = 0; i < 3; i++)
        ok(write_message(f, &append));
    disk.operations = OP_WRITE;
    for (int i = 0; i < 6; i++) {
        /* Beyond the frames of the commit itself: in the checkpoint, if one follows. */
        break_disk(OP_WRITE, 800 + i, true, SQLITE_IOERR_WRITE);
        ok(write_message(f, &append));
        mend_disk();
    }
    free(history(f, session, 0, 0, &count, NULL));
    assert_int_equal(9, count);
    assert_sound(f);
    fixture_reopen(f);
    free(history(f, session, 0, 0, &count, NULL));
    assert_int_equal(9, count);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_turn_stands_every_failing_allocation, setup_store,
                                        teardown),
        cmocka_unit_test_setup_teardown(reads_stand_every_failing_allocation, setup_store,
                                        teardown),
        cmocka_unit_test_setup_teardown(opening_stands_failing_allocations, setup_store, teardown),
        cmocka_unit_test(making_a_database_stands_failing_allocations),
        cmocka_unit_test(every_failing_write_is_survived),
        cmocka_unit_test(every_failing_sync_is_survived),
        cmocka_unit_test(a_disk_that_is_full_from_any_write_on_heals),
        cmocka_unit_test(a_disk_that_fails_from_any_call_on_heals),
        cmocka_unit_test(every_failure_during_a_restart_is_survived),
        cmocka_unit_test_setup_teardown(a_failing_checkpoint_loses_nothing, setup_store, teardown),
    };

    install_memory();
    install_disk();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
