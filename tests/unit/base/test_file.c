#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/base/file.h"
#include "fault.h"

static char dir[] = "/tmp/cs_test_file_XXXXXX";

/* @name in the test's folder, until the next call but three. */
static const char *at(const char *name)
{
    static char paths[4][256];
    static int turn;
    char *path = paths[turn++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

static unsigned mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static int entries(void)
{
    DIR *d = opendir(dir);
    assert_non_null(d);
    int count = 0;
    while (readdir(d)) // NOLINT(concurrency-mt-unsafe): one thread
        count++;
    (void)closedir(d);
    return count - 2;
}

static int make(void **state)
{
    (void)state;
    memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
    return mkdtemp(dir) ? 0 : -1;
}

static int drop(void **state)
{
    (void)state;
    (void)umask(022);
    static const char *const names[] = {"file", "link", "a/b/c", "a/b", "a", "d"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        (void)remove(at(names[i]));
    return rmdir(dir);
}

static void put_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void paths_are_joined_by_one_slash(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"/a", "b", "/a/b"}, {"/a/", "b", "/a/b"}, {"/", "b", "/b"}, {"", "b", "/b"}};
    for (size_t i = 0; i < 4; i++) {
        char *path = cs_path_join(cases[i][0], cases[i][1]);
        assert_string_equal(path, cases[i][2]);
        free(path);
    }
}

static void folders_are_private_whatever_the_umask(void **state)
{
    (void)state;
    static const mode_t masks[] = {0, 022, 077, 0777};
    for (size_t i = 0; i < 4; i++) {
        (void)umask(masks[i]);
        assert_int_equal(cs_mkdir_private(at("a/b//c/"), NULL), CS_OK);
        (void)umask(022);
        assert_int_equal(mode_of(at("a")), 0700);
        assert_int_equal(mode_of(at("a/b")), 0700);
        assert_int_equal(mode_of(at("a/b/c")), 0700);
        assert_int_equal(rmdir(at("a/b/c")), 0);
        assert_int_equal(rmdir(at("a/b")), 0);
        assert_int_equal(rmdir(at("a")), 0);
    }
}

static void an_existing_folder_becomes_private(void **state)
{
    (void)state;
    assert_int_equal(mkdir(at("a"), 0755), 0);
    assert_int_equal(mkdir(at("a/b"), 0755), 0);
    assert_int_equal(cs_mkdir_private(at("a/b"), NULL), CS_OK);
    assert_int_equal(mode_of(at("a/b")), 0700);
    assert_int_equal(mode_of(at("a")), 0755);
}

static void what_is_not_our_folder_is_refused(void **state)
{
    (void)state;
    struct cs_err err = {0};
    put_file(at("file"), "x");
    assert_int_equal(cs_mkdir_private(at("file"), &err), CS_INVALID);
    assert_non_null(strstr(err.msg, "not a folder"));
    assert_int_equal(cs_mkdir_private(at("file/below"), NULL), CS_INVALID);
    assert_int_equal(cs_mkdir_private("", NULL), CS_INVALID);
    assert_int_equal(symlink("nowhere", at("link")), 0);
    assert_int_not_equal(cs_mkdir_private(at("link"), NULL), CS_OK);
}

static void a_folder_of_somebody_else_is_refused(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(mkdir(at("d"), 0755), 0);
    assert_int_equal(chown(at("d"), 65534, 65534), 0);
    struct cs_err err = {0};
    assert_int_equal(cs_mkdir_private(at("d"), &err), CS_INVALID);
    assert_non_null(strstr(err.msg, "another user"));
    assert_int_equal(mode_of(at("d")), 0755);
}

static void a_written_file_is_private_and_reads_back(void **state)
{
    (void)state;
    (void)umask(0777);
    assert_int_equal(cs_file_write_private(at("file"), "one\0two", 7, NULL), CS_OK);
    (void)umask(0);
    assert_int_equal(mode_of(at("file")), 0600);
    assert_int_equal(cs_file_write_private(at("file"), "replaced", 8, NULL), CS_OK);
    assert_int_equal(mode_of(at("file")), 0600);
    struct cs_buf buf;
    cs_buf_init(&buf, 1000);
    cs_buf_adds(&buf, "before ");
    assert_int_equal(cs_file_read(at("file"), &buf, NULL), CS_OK);
    assert_string_equal(buf.data, "before replaced");
    assert_int_equal(entries(), 1);
    cs_buf_fini(&buf);
}

static void a_failed_write_leaves_the_old_file_alone(void **state)
{
    (void)state;
    put_file(at("file"), "old");
    assert_int_equal(mkdir(at("d"), 0700), 0);
    /* A folder cannot be replaced by a file. */
    assert_int_equal(cs_file_write_private(at("d"), "x", 1, NULL), CS_IO);
    assert_int_equal(cs_file_write_private(at("no/such"), "x", 1, NULL), CS_IO);
    assert_int_equal(entries(), 2);
    struct cs_buf buf;
    cs_buf_init(&buf, 100);
    assert_int_equal(cs_file_read(at("file"), &buf, NULL), CS_OK);
    assert_string_equal(buf.data, "old");
    cs_buf_fini(&buf);
}

static void reading_stops_at_the_cap(void **state)
{
    (void)state;
    put_file(at("file"), "12345");
    for (size_t cap = 0; cap < 10; cap++) {
        struct cs_buf buf;
        cs_buf_init(&buf, cap);
        cs_buf_adds(&buf, cap >= 2 ? "ab" : "");
        size_t before = buf.len;
        enum cs_status status = cs_file_read(at("file"), &buf, NULL);
        assert_int_equal(status, cap >= before + 5 ? CS_OK : CS_TOO_LARGE);
        assert_int_equal(buf.len, status == CS_OK ? before + 5 : before);
        assert_int_equal(buf.status, CS_OK);
        if (buf.data)
            assert_int_equal(buf.data[buf.len], '\0');
        cs_buf_fini(&buf);
    }
}

static void what_cannot_be_read_says_so(void **state)
{
    (void)state;
    struct cs_buf buf;
    cs_buf_init(&buf, 100);
    struct cs_err err = {0};
    assert_int_equal(cs_file_read(at("missing"), &buf, &err), CS_NOT_FOUND);
    assert_non_null(strstr(err.msg, "missing"));
    assert_int_equal(cs_file_read(dir, &buf, NULL), CS_IO);
    put_file(at("file"), "");
    assert_int_equal(cs_file_read(at("file"), &buf, NULL), CS_OK);
    assert_int_equal(buf.len, 0);
    cs_buf_fini(&buf);
}

static void a_large_file_is_read_whole(void **state)
{
    (void)state;
    struct cs_buf in;
    cs_buf_init(&in, 1000000);
    for (int i = 0; i < 100000; i++)
        cs_buf_addf(&in, "%d\n", i);
    assert_int_equal(cs_file_write_private(at("file"), in.data, in.len, NULL), CS_OK);
    struct cs_buf out;
    cs_buf_init(&out, 1000000);
    assert_int_equal(cs_file_read(at("file"), &out, NULL), CS_OK);
    assert_int_equal(out.len, in.len);
    assert_memory_equal(out.data, in.data, in.len);
    cs_buf_fini(&in);
    cs_buf_fini(&out);
}

static void use_files(void *arg)
{
    (void)arg;
    struct cs_buf buf;
    cs_buf_init(&buf, 100);
    enum cs_status status = cs_mkdir_private(at("a/b"), NULL);
    if (status == CS_OK)
        status = cs_file_write_private(at("file"), "x", 1, NULL);
    if (status == CS_OK)
        status = cs_file_read(at("file"), &buf, NULL);
    char *path = cs_path_join("a", "b");
    assert_true(path || fault_hit());
    free(path);
    assert_true(status == CS_OK || (status == CS_NO_MEM && fault_hit()));
    assert_true(entries() <= 2);
    cs_buf_fini(&buf);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    assert_true(fault_sweep(use_files, NULL) >= 5);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, make, drop)
    const struct CMUnitTest tests[] = {
        CASE(paths_are_joined_by_one_slash),
        CASE(folders_are_private_whatever_the_umask),
        CASE(an_existing_folder_becomes_private),
        CASE(what_is_not_our_folder_is_refused),
        CASE(a_folder_of_somebody_else_is_refused),
        CASE(a_written_file_is_private_and_reads_back),
        CASE(a_failed_write_leaves_the_old_file_alone),
        CASE(reading_stops_at_the_cap),
        CASE(what_cannot_be_read_says_so),
        CASE(a_large_file_is_read_whole),
        CASE(every_failed_allocation_is_reported),
    };
#undef CASE
    return cmocka_run_group_tests(tests, NULL, NULL);
}
