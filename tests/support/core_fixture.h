/* A core on a store of its own in a temporary folder, and on the scripted engine. Include it in one
 * file of a test program, with cmocka.h before it.
 */
#ifndef TESTS_SUPPORT_CORE_FIXTURE_H
#define TESTS_SUPPORT_CORE_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "cs/core/core.h"
#include "priv.h"
#include "scripted_engine.h"

#define SOON (cs_mono_ms() + 10000)

struct fixture {
    char dir[64], data[96];
    struct cs_config config;
    struct cs_store *store;
    struct cs_engine engine;
    struct cs_core *core;
};

/* Settings for @f's folders in @config; @flag is one more, or NULL. */
static void load_config(const struct fixture *f, const char *flag, struct cs_config *config)
{
    char data_flag[128], cwd_flag[96], more[96];
    char *argv[] = {data_flag, cwd_flag, more, NULL};
    char *envp[] = {NULL};
    struct cs_err err = {0};

    snprintf(data_flag, sizeof data_flag, "--data-dir=%s", f->data);
    snprintf(cwd_flag, sizeof cwd_flag, "--cwd=%s", f->dir);
    snprintf(more, sizeof more, "%s", flag != NULL ? flag : "");
    if (cs_config_load(config, flag != NULL ? 3 : 2, argv, envp, &err) != CS_OK)
        fail_msg("%s", err.msg);
}

static void open_core(struct fixture *f)
{
    struct cs_store_options options = {.dir = f->data, .host = "here"};
    struct cs_store_opened opened;
    struct cs_core_parts parts;
    struct cs_err err = {0};

    if (cs_store_open(&options, &f->store, &opened, &err) != CS_OK)
        fail_msg("%s", err.msg);
    parts = (struct cs_core_parts){.store = f->store, .engine = &f->engine, .config = &f->config};
    assert_int_equal(cs_core_new(&parts, &f->core, &err), CS_OK);
}

static void close_core(struct fixture *f)
{
    assert_true(cs_core_drain(f->core, SOON));
    cs_core_free(f->core);
    cs_store_close(f->store);
}

/* @f is zeroed; @flag as in load_config(). */
static void fixture_open(struct fixture *f, const char *flag)
{
    snprintf(f->dir, sizeof f->dir, "/tmp/cs-core-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->data, sizeof f->data, "%s/data", f->dir);
    assert_int_equal(mkdir(f->data, 0700), 0);
    load_config(f, flag, &f->config);
    scripted_engine_init(&f->engine);
    cs_log_set_level(CS_LOG_ERROR);
    open_core(f);
}

static void fixture_close(struct fixture *f)
{
    char command[128];

    close_core(f);
    cs_config_fini(&f->config);
    snprintf(command, sizeof command, "rm -rf %s", f->dir);
    assert_int_equal(system(command), 0); // NOLINT
}

/* Setup and teardown of one case, where the fixture is all that it has. */

static inline int setup_core(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    fixture_open(f, NULL);
    *state = f;
    return 0;
}

static inline int teardown_core(void **state)
{
    fixture_close(*state);
    free(*state);
    return 0;
}

#endif
