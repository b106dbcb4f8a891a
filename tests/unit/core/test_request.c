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

#include "priv.h"

struct fixture {
    char root[64], data[96], work[96], link[96];
    struct cs_config config;
};

static char *own(const char *text)
{
    char *copy = strdup(text);

    assert_non_null(copy);
    return copy;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    snprintf(f->root, sizeof f->root, "/tmp/cs-request-XXXXXX");
    assert_non_null(mkdtemp(f->root));
    snprintf(f->data, sizeof f->data, "%s/data", f->root);
    snprintf(f->work, sizeof f->work, "%s/work", f->root);
    snprintf(f->link, sizeof f->link, "%s/work/link", f->root);
    assert_int_equal(mkdir(f->data, 0700), 0);
    assert_int_equal(mkdir(f->work, 0700), 0);
    assert_int_equal(symlink(f->data, f->link), 0);
    f->config.data_dir = own(f->data);
    f->config.cwd = own(f->work);
    f->config.sandbox_ceiling = own("workspace-write");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    unlink(f->link);
    rmdir(f->work);
    rmdir(f->data);
    rmdir(f->root);
    free(f->config.data_dir);
    free(f->config.cwd);
    free(f->config.cwd_allow);
    free(f->config.sandbox_ceiling);
    free(f);
    return 0;
}

static void expect_cwd(struct fixture *f, const char *asked, enum cs_status status)
{
    char *path = NULL;
    struct cs_err err = {0};

    assert_int_equal(cs_request_cwd(&f->config, asked, &path, &err), status);
    if (status == CS_OK)
        assert_non_null(path);
    else
        assert_null(path);
    free(path);
}

static void cwd_defaults_to_the_setting(void **state)
{
    struct fixture *f = *state;
    char *path = NULL;

    assert_int_equal(cs_request_cwd(&f->config, NULL, &path, NULL), CS_OK);
    assert_string_equal(path, f->work);
    free(path);
}

static void cwd_must_be_an_existing_absolute_folder(void **state)
{
    struct fixture *f = *state;

    expect_cwd(f, "work", CS_INVALID);
    expect_cwd(f, "", CS_INVALID);
    expect_cwd(f, "/no/such/folder", CS_INVALID);
    expect_cwd(f, "/etc/passwd", CS_INVALID);
}

static void cwd_is_neither_root_nor_the_data_folder(void **state)
{
    struct fixture *f = *state;

    expect_cwd(f, "/", CS_DENIED);
    expect_cwd(f, "/usr/..", CS_DENIED);
    expect_cwd(f, f->data, CS_DENIED);
    expect_cwd(f, f->link, CS_DENIED); /* a symbolic link does not hide it */
}

static void cwd_lies_in_an_allowed_folder(void **state)
{
    struct fixture *f = *state;
    char sibling[128];

    f->config.cwd_allow = own("/no/such:/usr/lib");
    expect_cwd(f, "/usr/lib", CS_OK);
    expect_cwd(f, "/usr", CS_DENIED);
    expect_cwd(f, f->work, CS_DENIED);
    free(f->config.cwd_allow);
    snprintf(sibling, sizeof sibling, "%s/wor",
             f->root); /* a prefix of the name is not the folder */
    assert_int_equal(mkdir(sibling, 0700), 0);
    f->config.cwd_allow = own(sibling);
    expect_cwd(f, f->work, CS_DENIED);
    rmdir(sibling);
}

static void sandbox_above_the_ceiling_is_denied(void **state)
{
    struct fixture *f = *state;
    struct cs_err err = {0};

    assert_int_equal(cs_request_sandbox(&f->config, "read-only", NULL), CS_OK);
    assert_int_equal(cs_request_sandbox(&f->config, "workspace-write", NULL), CS_OK);
    assert_int_equal(cs_request_sandbox(&f->config, "danger-full-access", &err), CS_DENIED);
    assert_string_equal(err.code, "sandbox_above_ceiling");
    assert_int_equal(cs_request_sandbox(&f->config, "none", NULL), CS_INVALID);
    assert_int_equal(cs_request_sandbox(&f->config, "", NULL), CS_INVALID);
}

static bool inside(const struct fixture *f, const char *name)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", f->work, name);
    return cs_request_inside(f->work, path);
}

static void a_file_is_inside_when_no_link_leads_out(void **state)
{
    struct fixture *f = *state;
    char nowhere[128], real[128];

    snprintf(nowhere, sizeof nowhere, "%s/nowhere", f->work);
    snprintf(real, sizeof real, "%s/real", f->work);
    assert_int_equal(symlink("/no/such/place", nowhere), 0);
    assert_int_equal(mkdir(real, 0700), 0);
    assert_true(inside(f, "a.txt"));
    assert_true(inside(f, "real/b/c.txt"));
    assert_true(inside(f, "new//folder/a.txt"));
    assert_true(inside(f, ".github/a.yml"));
    assert_false(inside(f, "link/a.txt")); /* to the data folder */
    assert_false(inside(f, "link"));
    assert_false(inside(f, "nowhere"));
    assert_false(inside(f, "nowhere/a.txt"));
    assert_false(inside(f, "../a.txt"));
    assert_false(inside(f, "real/../a.txt"));
    assert_false(inside(f, ".git/hooks/post-commit"));
    assert_false(inside(f, "real/.git"));
    assert_false(inside(f, ".codex/config.toml"));
    assert_false(inside(f, ".agents/x"));
    assert_false(cs_request_inside(f->work, "a.txt"));
    assert_false(cs_request_inside(f->work, ""));
    assert_false(cs_request_inside(f->work, "/"));
    assert_false(cs_request_inside(f->work, "/etc/passwd"));
    assert_false(cs_request_inside(f->work, "/no/such/folder/a.txt"));
    snprintf(nowhere, sizeof nowhere, "%s2/a.txt", f->work);
    assert_false(cs_request_inside(f->work, nowhere));
    assert_int_equal(rmdir(real), 0);
    snprintf(nowhere, sizeof nowhere, "%s/nowhere", f->work);
    assert_int_equal(unlink(nowhere), 0);
}

static void outcomes_have_their_status_class(void **state)
{
    static const struct {
        enum cs_turn_status status;
        const char *code;
        enum cs_status outcome;
    } cases[] = {
        {CS_TURN_COMPLETED, "", CS_OK},
        {CS_TURN_FAILED, "execution_timeout", CS_TIMEOUT},
        {CS_TURN_CANCELLED, "turn_cancelled", CS_CANCELLED},
        {CS_TURN_INTERRUPTED, "turn_interrupted", CS_CONFLICT},
        {CS_TURN_FAILED, "codex_unavailable", CS_UNAVAILABLE},
        {CS_TURN_FAILED, "codex_busy", CS_BUSY},
        {CS_TURN_FAILED, "too_many_turns", CS_BUSY},
        {CS_TURN_FAILED, "model_not_found", CS_INVALID},
        {CS_TURN_FAILED, "engine_unavailable", CS_INVALID},
        {CS_TURN_FAILED, "out_of_memory", CS_NO_MEM},
        {CS_TURN_FAILED, "codex_died", CS_UPSTREAM},
        {CS_TURN_FAILED, "what a later Codex says", CS_UPSTREAM},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cs_turn_row row = {.status = cases[i].status, .error_code = own(cases[i].code)};
        enum cs_status outcome = cs_turn_outcome(&row);

        free(row.error_code);
        if (outcome != cases[i].outcome)
            fail_msg("%s: %s", cases[i].code, cs_status_name(outcome));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(cwd_defaults_to_the_setting, setup, teardown),
        cmocka_unit_test_setup_teardown(cwd_must_be_an_existing_absolute_folder, setup, teardown),
        cmocka_unit_test_setup_teardown(cwd_is_neither_root_nor_the_data_folder, setup, teardown),
        cmocka_unit_test_setup_teardown(cwd_lies_in_an_allowed_folder, setup, teardown),
        cmocka_unit_test_setup_teardown(sandbox_above_the_ceiling_is_denied, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_is_inside_when_no_link_leads_out, setup, teardown),
        cmocka_unit_test(outcomes_have_their_status_class),
    };

    return cmocka_run_group_tests_name("request", tests, NULL, NULL);
}
