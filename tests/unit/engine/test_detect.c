#include "priv.h"

#include "fake_codex.h"

enum { APP = 1 << CS_ENGINE_APP_SERVER, MCP = 1 << CS_ENGINE_MCP, EXEC = 1 << CS_ENGINE_EXEC };

struct fixture {
    struct cs_spawner *spawner;
    char folder[64];
    struct cs_codex codex;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);

    make_folder(fixture->folder);
    fixture->spawner = new_spawner("detect");
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    end_spawner(fixture->spawner);
    remove_folder(fixture->folder);
    free(fixture);
    return 0;
}

static const struct cs_codex *detect(struct fixture *fixture, const char *name,
                                     enum cs_engine_kind wanted)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", fixture->folder, name);
    cs_codex_detect(fixture->spawner, path, wanted, &fixture->codex);
    return &fixture->codex;
}

static void each_version_offers_what_it_has(void **state)
{
    static const struct {
        const char *version, *help;
        unsigned kinds;
        enum cs_engine_kind best;
        const char *mcp;
        bool upgrade;
    } cases[] = {
        {"0.169.0", HELP_0_169, APP | EXEC, CS_ENGINE_APP_SERVER, NULL, false},
        {"0.153.4", HELP_0_153, APP | MCP | EXEC, CS_ENGINE_APP_SERVER, "mcp-server", false},
        {"0.58.0", HELP_0_58, MCP | EXEC, CS_ENGINE_MCP, "mcp-server", true},
        {"0.36.0", HELP_0_36, MCP, CS_ENGINE_MCP, "mcp", true},
        {"1.2.0", HELP_0_169, APP | EXEC, CS_ENGINE_APP_SERVER, NULL, false},
        {"0.170.0", "Commands:\n  exec  x\n\n", EXEC, CS_ENGINE_EXEC, NULL, false},
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct cs_codex *codex;

        write_codex(fixture->folder, cases[i].version, cases[i].help, "exit 9");
        codex = detect(fixture, "codex", CS_ENGINE_AUTO);
        assert_string_equal(codex->version, cases[i].version);
        assert_int_equal(codex->kinds, cases[i].kinds);
        assert_int_equal(codex->best, cases[i].best);
        if (cases[i].mcp != NULL)
            assert_string_equal(codex->mcp_subcommand, cases[i].mcp);
        else
            assert_null(codex->mcp_subcommand);
        assert_non_null(strstr(codex->why, cases[i].version));
        assert_int_equal(strstr(codex->why, "upgrade") != NULL, cases[i].upgrade);
    }
}

static void an_engine_that_is_not_there_is_named_with_the_mend(void **state)
{
    const struct cs_codex *codex;
    struct fixture *fixture = *state;

    write_codex(fixture->folder, "0.169.0", HELP_0_169, "exit 9");
    codex = detect(fixture, "codex", CS_ENGINE_MCP);
    assert_int_equal(codex->best, CS_ENGINE_MCP);
    assert_int_equal(codex->kinds, APP | EXEC);
    assert_non_null(strstr(codex->why, "--engine auto"));
    codex = detect(fixture, "codex", CS_ENGINE_EXEC);
    assert_int_equal(codex->best, CS_ENGINE_EXEC);
}

static void a_path_that_does_not_exist_says_so(void **state)
{
    const struct cs_codex *codex = detect(*state, "absent", CS_ENGINE_AUTO);

    assert_string_equal(codex->path, "");
    assert_int_equal(codex->kinds, 0);
    assert_non_null(strstr(codex->why, "does not exist"));
    assert_non_null(strstr(codex->why, "--codex"));
}

static void without_codex_in_path_the_why_tells_how_to_install_it(void **state)
{
    struct fixture *fixture = *state;
    char *before = strdup(getenv("PATH"));

    setenv("PATH", fixture->folder, 1);
    cs_codex_detect(fixture->spawner, NULL, CS_ENGINE_AUTO, &fixture->codex);
    assert_non_null(strstr(fixture->codex.why, "npm install -g @openai/codex"));
    setenv("PATH", before, 1);
    free(before);
}

static void codex_is_found_in_path(void **state)
{
    struct fixture *fixture = *state;
    char *before = strdup(getenv("PATH"));
    char path[4200];

    write_codex(fixture->folder, "0.169.0", HELP_0_169, "exit 9");
    snprintf(path, sizeof path, "/nowhere::%s:%s", fixture->folder, before);
    setenv("PATH", path, 1);
    cs_codex_detect(fixture->spawner, NULL, CS_ENGINE_AUTO, &fixture->codex);
    assert_int_equal(fixture->codex.best, CS_ENGINE_APP_SERVER);
    setenv("PATH", before, 1);
    free(before);
}

static void another_program_is_not_taken_for_codex(void **state)
{
    struct fixture *fixture = *state;
    const struct cs_codex *codex;

    write_file(fixture->folder, "codex", "#!/bin/sh\necho hello\n");
    codex = detect(fixture, "codex", CS_ENGINE_AUTO);
    assert_int_equal(codex->kinds, 0);
    assert_non_null(strstr(codex->why, "not the Codex CLI"));
    write_file(fixture->folder, "codex", "#!/bin/sh\necho 'GLIBC not found' >&2; exit 1\n");
    codex = detect(fixture, "codex", CS_ENGINE_AUTO);
    assert_non_null(strstr(codex->why, "exited with status 1"));
    assert_non_null(strstr(codex->why, "GLIBC not found"));
}

static void a_codex_that_hangs_is_given_up(void **state)
{
    struct fixture *fixture = *state;
    int64_t start = cs_mono_ms();
    const struct cs_codex *codex;

    write_file(fixture->folder, "codex", "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n");
    codex = detect(fixture, "codex", CS_ENGINE_AUTO);
    assert_non_null(strstr(codex->why, "did not answer within 10 s"));
    assert_true(cs_mono_ms() - start < 12000);
}

#if defined(__x86_64__)
#define PACKAGE "codex-linux-x64"
#define TRIPLE  "x86_64-unknown-linux-musl"
#else
#define PACKAGE "codex-linux-arm64"
#define TRIPLE  "aarch64-unknown-linux-musl"
#endif

static void copy_program(const char *from, const char *folder, const char *name)
{
    char command[1024];

    write_file(folder, name, "");
    snprintf(command, sizeof command, "cp %s %s/%s", from, folder, name);
    assert_int_equal(system(command), 0);
}

static void behind_the_npm_launcher_the_native_binary_is_found(void **state)
{
    static const char *const layouts[] = {
        "node_modules/@openai/" PACKAGE "/vendor/" TRIPLE "/bin/codex",
        "node_modules/@openai/codex/node_modules/@openai/" PACKAGE "/vendor/" TRIPLE "/bin/codex",
        "node_modules/@openai/codex/vendor/" TRIPLE "/codex/codex",
    };
    struct fixture *fixture = *state;
    char link[256], native[512];

    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        write_file(fixture->folder, "node_modules/@openai/codex/bin/codex.js",
                   "#!/bin/sh\necho codex-cli 0.1.0\n");
        copy_program("/bin/echo", fixture->folder,
                     layouts[i]); /* ELF; says "--version", no version */
        snprintf(link, sizeof link, "%s/codex-link", fixture->folder);
        unlink(link);
        assert_int_equal(symlink("node_modules/@openai/codex/bin/codex.js", link), 0);
        snprintf(native, sizeof native, "%s/%s", fixture->folder, layouts[i]);
        assert_string_equal(detect(fixture, "codex-link", CS_ENGINE_AUTO)->path, native);
        unlink(native);
    }
    /* without any, the launcher itself has to do */
    assert_string_equal(detect(fixture, "codex-link", CS_ENGINE_AUTO)->version, "0.1.0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_version_offers_what_it_has, setup, teardown),
        cmocka_unit_test_setup_teardown(an_engine_that_is_not_there_is_named_with_the_mend, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_path_that_does_not_exist_says_so, setup, teardown),
        cmocka_unit_test_setup_teardown(without_codex_in_path_the_why_tells_how_to_install_it,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(codex_is_found_in_path, setup, teardown),
        cmocka_unit_test_setup_teardown(another_program_is_not_taken_for_codex, setup, teardown),
        cmocka_unit_test_setup_teardown(a_codex_that_hangs_is_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(behind_the_npm_launcher_the_native_binary_is_found, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("detect", tests, NULL, NULL);
}
