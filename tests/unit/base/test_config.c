#include <pwd.h>
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

#include "cs/base/config.h"
#include "cs/base/file.h"
#include "fault.h"

#define MAX 8

static char home[] = "/tmp/cs_test_config_XXXXXX";
static char home_entry[64]; /* HOME=… */
static char file_path[128]; /* where the file is looked for when nobody names it */

/* One call of cs_config_load(): lists that end with NULL, and the file's text. */
struct given {
    const char *flags[MAX];
    const char *env[MAX];
    const char *file; /* NULL: there is none */
};

static void put_file(const char *path, const char *text)
{
    assert_int_equal(cs_file_write_private(path, text, strlen(text), NULL), CS_OK);
}

static enum cs_status load(struct cs_config *config, const struct given *given, struct cs_err *err)
{
    char *argv[MAX] = {0};
    char *envp[MAX + 2] = {home_entry};
    int argc = 0;
    for (; argc < MAX && given->flags[argc]; argc++)
        argv[argc] = (char *)(uintptr_t)given->flags[argc];
    for (int i = 0; i < MAX && given->env[i]; i++)
        envp[i + 1] = (char *)(uintptr_t)given->env[i];
    if (given->file)
        put_file(file_path, given->file);
    else
        (void)unlink(file_path);
    return cs_config_load(config, argc, argv, envp, err);
}

static struct cs_config loaded(const struct given *given)
{
    struct cs_config config;
    struct cs_err err = {0};
    if (load(&config, given, &err) != CS_OK)
        fail_msg("%s", err.msg);
    return config;
}

static void refused(const struct given *given, const char *message)
{
    struct cs_config config = {.port = 77};
    struct cs_err err = {0};
    assert_int_equal(load(&config, given, &err), CS_INVALID);
    assert_string_equal(err.code, "invalid_config");
    if (!strstr(err.msg, message))
        fail_msg("\"%s\" is not in: %s", message, err.msg);
    assert_null(strstr(err.msg, "hush"));
    assert_int_equal(config.port, 77); /* untouched */
}

static int make_home(void **state)
{
    (void)state;
    if (!mkdtemp(home))
        return -1;
    (void)snprintf(home_entry, sizeof home_entry, "HOME=%s", home);
    (void)snprintf(file_path, sizeof file_path, "%s/.config/codex-sessiond", home);
    if (cs_mkdir_private(file_path, NULL) != CS_OK)
        return -1;
    (void)snprintf(file_path, sizeof file_path, "%s/.config/codex-sessiond/config.json", home);
    return 0;
}

static int drop_home(void **state)
{
    (void)state;
    static const char *const names[] = {"other.json", ".config/codex-sessiond/config.json",
                                        ".config/codex-sessiond", ".config", "."};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[160];
        (void)snprintf(path, sizeof path, "%s/%s", home, i == 4 ? "" : names[i]);
        (void)remove(path);
    }
    return access(home, F_OK) == 0 ? -1 : 0;
}

static void defaults_hold_when_nothing_is_given(void **state)
{
    (void)state;
    struct cs_config c = loaded(&(struct given){0});
    assert_string_equal(c.host, "127.0.0.1");
    assert_int_equal(c.port, 3000);
    assert_string_equal(c.sandbox, "read-only");
    assert_int_equal(c.turn_timeout_ms, 30000);
    assert_false(c.allow_remote);
    assert_null(c.codex);
    assert_null(c.redis_url);
    assert_null(c.file);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/.local/share/codex-sessiond", home);
    assert_string_equal(c.data_dir, path);
    assert_string_equal(c.cwd, home);
    struct passwd *account = getpwuid(geteuid()); // NOLINT(concurrency-mt-unsafe): one thread
    assert_string_equal(c.user, account->pw_name);
    cs_config_fini(&c);
    cs_config_fini(&c);
}

static void flags_beat_environment_beats_file_beats_default(void **state)
{
    (void)state;
    struct cs_config c = loaded(&(struct given){
        .flags = {"--port", "1", "--model=m1"},
        .env = {"CODEX_SESSIOND_PORT=2", "CODEX_SESSIOND_MODEL=m2", "CODEX_SESSIOND_USER=u2",
                "CODEX_SESSIOND_TTL_SECONDS=2"},
        .file = "{\"port\":3,\"model\":\"m3\",\"user\":\"u3\",\"ttlSeconds\":3,\"archiveDays\":3,"
                "\"allowRemote\":true}",
    });
    assert_int_equal(c.port, 1);
    assert_string_equal(c.model, "m1");
    assert_string_equal(c.user, "u2");
    assert_int_equal(c.ttl_seconds, 2);
    assert_int_equal(c.archive_days, 3);
    assert_true(c.allow_remote);
    assert_string_equal(c.file, file_path);
    assert_int_equal(c.session_limit, 10);
    cs_config_fini(&c);
}

static void a_stronger_source_may_set_what_the_default_is(void **state)
{
    (void)state;
    struct cs_config c = loaded(&(struct given){
        .flags = {"--port=3000", "--demo", "false"},
        .env = {"CODEX_SESSIOND_PORT=2", "CODEX_SESSIOND_DEMO=true"},
    });
    assert_int_equal(c.port, 3000);
    assert_false(c.demo);
    cs_config_fini(&c);
}

static void of_two_equal_flags_the_later_counts(void **state)
{
    (void)state;
    struct cs_config c = loaded(&(struct given){.flags = {"--user", "a", "--user=b"}});
    assert_string_equal(c.user, "b");
    cs_config_fini(&c);
}

static void a_bool_flag_may_stand_alone(void **state)
{
    (void)state;
    struct cs_config c = loaded(&(struct given){.flags = {"--demo", "--port", "5"}});
    assert_true(c.demo);
    assert_int_equal(c.port, 5);
    cs_config_fini(&c);
    c = loaded(&(struct given){.flags = {"--demo", "0", "--allow-remote=1"}});
    assert_false(c.demo);
    assert_true(c.allow_remote);
    cs_config_fini(&c);
}

static void foreign_names_count_below_our_own(void **state)
{
    (void)state;
    struct cs_config c = loaded(&(struct given){
        .env = {"PORT=8080", "OPENAI_API_KEY=key", "UPSTASH_REDIS_REST_TOKEN=t2",
                "UPSTASH_REDIS_TOKEN=t1", "REDIS_URL=r2", "UPSTASH_REDIS_REST_URL=r3"},
        .file = "{\"port\":3}",
    });
    assert_int_equal(c.port, 8080);
    assert_string_equal(c.openai_api_key, "key");
    assert_string_equal(c.redis_token, "t1");
    assert_string_equal(c.redis_url, "r2");
    cs_config_fini(&c);
    c = loaded(&(struct given){
        .env = {"PORT=8080", "CODEX_SESSIOND_PORT=9", "REDIS_URL=r2", "UPSTASH_REDIS_URL=r1",
                "CODEX_SESSIOND_OPENAI_API_KEY=ours", "OPENAI_API_KEY=theirs"},
    });
    assert_int_equal(c.port, 9);
    assert_string_equal(c.redis_url, "r1");
    assert_string_equal(c.openai_api_key, "ours");
    cs_config_fini(&c);
}

static void an_empty_foreign_name_counts_as_unset(void **state)
{
    (void)state;
    struct cs_config c = loaded(
        &(struct given){.env = {"PORT=", "UPSTASH_REDIS_URL=", "UPSTASH_REDIS_REST_URL=r3"}});
    assert_int_equal(c.port, 3000);
    assert_string_equal(c.redis_url, "r3");
    cs_config_fini(&c);
}

static void environment_of_others_and_reserved_names_are_left_alone(void **state)
{
    (void)state;
    struct cs_config c = loaded(&(struct given){
        .env = {"CODEX_HOME=/x", "SESSIOND_PORT=1", "CODEX_SESSIOND_INSTANCE=abc", "odd"}});
    assert_int_equal(c.port, 3000);
    cs_config_fini(&c);
}

static void xdg_folders_count_when_they_are_absolute(void **state)
{
    (void)state;
    char config_home[64];
    (void)snprintf(config_home, sizeof config_home, "XDG_CONFIG_HOME=%s/.config", home);
    struct cs_config c = loaded(&(struct given){
        .env = {"XDG_DATA_HOME=/data", "HOME=/nowhere", config_home}, .file = "{\"port\":4}"});
    assert_string_equal(c.data_dir, "/data/codex-sessiond");
    assert_int_equal(c.port, 4);
    cs_config_fini(&c);
    c = loaded(
        &(struct given){.env = {"XDG_DATA_HOME=data", "XDG_CONFIG_HOME="}, .file = "{\"port\":4}"});
    assert_memory_equal(c.data_dir, home, strlen(home));
    assert_int_equal(c.port, 4);
    cs_config_fini(&c);
}

static void a_named_file_replaces_the_usual_one(void **state)
{
    (void)state;
    char other[128];
    char flag[160];
    char env[160];
    (void)snprintf(other, sizeof other, "%s/other.json", home);
    (void)snprintf(flag, sizeof flag, "--config=%s", other);
    (void)snprintf(env, sizeof env, "CODEX_SESSIOND_CONFIG=%s", other);
    put_file(other, "{\"port\":9}");
    struct cs_config c = loaded(&(struct given){.flags = {flag}, .file = "{\"port\":4}"});
    assert_int_equal(c.port, 9);
    assert_string_equal(c.file, other);
    cs_config_fini(&c);
    c = loaded(&(struct given){.env = {env}, .file = "{\"port\":4}"});
    assert_int_equal(c.port, 9);
    cs_config_fini(&c);
    c = loaded(
        &(struct given){.flags = {"--config", file_path}, .env = {env}, .file = "{\"port\":4}"});
    assert_int_equal(c.port, 4);
    cs_config_fini(&c);
    refused(&(struct given){.flags = {"--config", "/no/such/file"}}, "/no/such/file");
    refused(&(struct given){.env = {"CODEX_SESSIOND_CONFIG=/no/such/file"}}, "/no/such/file");
}

static void wrong_flags_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *flags[3];
        const char *message;
    } cases[] = {
        {{"--nope", "1"}, "unknown setting (flag --nope)"},
        {{"--nope=hush"}, "unknown setting (flag --nope)"},
        {{"stray"}, "argument 1 is not a flag"},
        {{"--port", "1", "--"}, "argument 3 is not a flag"},
        {{"--port"}, "a value is missing (flag --port)"},
        {{"--config"}, "a value is missing (flag --config)"},
        {{"--port", "x"}, "port is not a whole number (flag --port)"},
        {{"--port="}, "port is not a whole number (flag --port)"},
        {{"--port= 5"}, "port is not a whole number (flag --port)"},
        {{"--port=5x"}, "port is not a whole number (flag --port)"},
        {{"--port=99999999999999999999"}, "port is not a whole number (flag --port)"},
        {{"--port", "65536"}, "port is 65536, but may be 0 to 65535 (flag --port)"},
        {{"--port=-1"}, "port is -1, but may be 0 to 65535 (flag --port)"},
        {{"--demo=maybe"}, "demo is neither true nor false (flag --demo)"},
        {{"--user="}, "user has 0 bytes, but may have 1 to 128 (flag --user)"},
        {{"--user=\xff"}, "user is not valid UTF-8 (flag --user)"},
        {{"--engine", "warp"}, "engine is \"warp\", but may be auto, app-server, mcp, exec"},
        {{"--log-level", "loud"}, "logLevel is \"loud\", but may be debug, info, warn, error"},
        {{"--sandbox", "none"}, "sandbox is \"none\", but may be read-only, workspace-write"},
        {{"--b\xff"}, "unknown setting (flag --b?)"},
        {{"--config=/\xe6/"}, "/?/ does not exist"},
        {{"--redis-url", "hush"}, "redisUrl is a secret"},
        {{"--openai-api-key=hush"}, "openaiApiKey is a secret"},
        {{"--sandbox", "danger-full-access"}, "sandbox is above sandboxCeiling (flag --sandbox)"},
        {{"--turn-timeout-max-ms=1000"},
         "turnTimeoutMs is above turnTimeoutMaxMs (flag --turn-timeout-max-ms)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct given given = {0};
        memcpy(given.flags, cases[i].flags, sizeof cases[i].flags);
        refused(&given, cases[i].message);
    }
}

static void wrong_environment_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *env;
        const char *message;
    } cases[] = {
        {"CODEX_SESSIOND_NOPE=hush", "unknown setting (environment CODEX_SESSIOND_NOPE)"},
        {"CODEX_SESSIOND_=1", "unknown setting (environment CODEX_SESSIOND_)"},
        {"CODEX_SESSIOND_PORT=x", "port is not a whole number (environment CODEX_SESSIOND_PORT)"},
        {"CODEX_SESSIOND_PORT=", "port is not a whole number (environment CODEX_SESSIOND_PORT)"},
        {"PORT=tcp://1", "port is not a whole number (environment PORT)"},
        {"CODEX_SESSIOND_REDIS_URL=",
         "redisUrl has 0 bytes, but may have 1 to 4000 (environment CODEX_SESSIOND_REDIS_URL)"},
        {"CODEX_SESSIOND_REDIS_URL=hush\xff",
         "redisUrl is not valid UTF-8 (environment CODEX_SESSIOND_REDIS_URL)"},
        {"CODEX_SESSIOND_SANDBOX=workspace", "(environment CODEX_SESSIOND_SANDBOX)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(&(struct given){.env = {cases[i].env}}, cases[i].message);
    static char longest[4200] = "OPENAI_API_KEY=";
    memset(longest + strlen(longest), 'h', 4001);
    refused(&(struct given){.env = {longest}}, "openaiApiKey has 4001 bytes");
    refused(&(struct given){.env = {longest}}, "(environment OPENAI_API_KEY)");
}

static void a_wrong_file_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *message;
    } cases[] = {
        {"{\"nope\":\"hush\"}", "unknown setting \"nope\" (file "},
        {"{\"data_dir\":\"/x\"}", "unknown setting \"data_dir\" (file "},
        {"{\"port\":\"3000\"}", "port is not a whole number (file "},
        {"{\"port\":3000.0}", "port is not a whole number (file "},
        {"{\"port\":true}", "port is not a whole number (file "},
        {"{\"port\":70000}", "port is 70000, but may be 0 to 65535 (file "},
        {"{\"demo\":1}", "demo is neither true nor false (file "},
        {"{\"user\":null}", "user is not a string (file "},
        {"{\"redisUrl\":[\"hush\"]}", "redisUrl is not a string (file "},
        {"{\"redisUrl\":\"hush\n\"}", "invalid JSON at line 1"},
        {"{\"openaiApiKey\":\"hush\" \"hush\"}", "invalid JSON at line 1"},
        {"{\"port\":1,\"port\":1}", "duplicate object key"},
        {"[]", "the settings are not a JSON object (file "},
        {"", "invalid JSON"},
        {"{\"engine\":\"warp\"}", "engine is \"warp\""},
        {"{\"sandboxCeiling\":\"read-only\",\"sandbox\":\"workspace-write\"}",
         "sandbox is above sandboxCeiling (file "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        refused(&(struct given){.file = cases[i].text}, cases[i].message);
        refused(&(struct given){.file = cases[i].text}, file_path);
    }
    struct cs_buf large;
    cs_buf_init(&large, 100000);
    cs_buf_addf(&large, "{\"port\":1%65536s}", "");
    refused(&(struct given){.file = large.data}, "more than 65536 bytes");
    cs_buf_fini(&large);
}

/* Run @given with stderr in a file and return what came out there. */
static const char *stderr_of(const struct given *given, mode_t mode)
{
    static char text[4096];
    FILE *captured = tmpfile();
    assert_non_null(captured);
    put_file(file_path, given->file);
    assert_int_equal(chmod(file_path, mode), 0);
    int real = dup(STDERR_FILENO);
    assert_true(dup2(fileno(captured), STDERR_FILENO) >= 0);
    char *envp[] = {home_entry, NULL};
    struct cs_config c;
    enum cs_status status = cs_config_load(&c, 0, NULL, envp, NULL);
    (void)dup2(real, STDERR_FILENO);
    (void)close(real);
    assert_int_equal(status, CS_OK);
    cs_config_fini(&c);
    rewind(captured);
    text[fread(text, 1, sizeof text - 1, captured)] = '\0';
    (void)fclose(captured);
    return text;
}

static void a_readable_file_with_a_secret_is_worth_one_warning(void **state)
{
    (void)state;
    const struct given secret = {.file = "{\"redisToken\":\"hush\"}"};
    assert_string_equal(stderr_of(&secret, 0600), "");
    assert_string_equal(stderr_of(&(struct given){.file = "{\"port\":1}"}, 0644), "");
    const char *warning = stderr_of(&secret, 0640);
    assert_non_null(strstr(warning, "level=warn event=config_file_readable"));
    assert_null(strstr(warning, "hush"));
    assert_string_equal(stderr_of(&secret, 0644), "");
}

static void reload_copies_what_may_change_and_names_the_rest(void **state)
{
    (void)state;
    struct cs_config c = loaded(&(struct given){.file = "{\"model\":\"m1\",\"cwdAllow\":\"/a\"}"});
    struct cs_config next = loaded(
        &(struct given){.file = "{\"model\":\"m2\",\"ttlSeconds\":5,\"port\":9,\"redisUrl\":\"r\","
                                "\"allowedHosts\":\"h\",\"openaiApiKey\":\"hush\",\"demo\":true}"});
    struct cs_buf ignored;
    cs_buf_init(&ignored, 4096);
    assert_int_equal(cs_config_reload(&c, &next, &ignored, NULL), CS_OK);
    cs_config_fini(&next);
    assert_string_equal(c.model, "m2");
    assert_string_equal(c.allowed_hosts, "h");
    assert_null(c.cwd_allow);
    assert_int_equal(c.ttl_seconds, 5);
    assert_int_equal(c.port, 3000);
    assert_string_equal(c.redis_url, "r");
    assert_null(c.openai_api_key);
    assert_false(c.demo);
    assert_string_equal(ignored.data, "port,openaiApiKey,demo");
    cs_buf_fini(&ignored);
    cs_config_fini(&c);
}

static void reload_of_the_same_ignores_nothing(void **state)
{
    (void)state;
    const struct given given = {.env = {"OPENAI_API_KEY=k"}};
    struct cs_config c = loaded(&given);
    struct cs_config next = loaded(&given);
    struct cs_buf ignored;
    cs_buf_init(&ignored, 4096);
    assert_int_equal(cs_config_reload(&c, &next, &ignored, NULL), CS_OK);
    assert_int_equal(ignored.len, 0);
    assert_string_equal(c.openai_api_key, "k");
    cs_buf_fini(&ignored);
    cs_config_fini(&next);
    cs_config_fini(&c);
}

static void the_help_knows_every_setting(void **state)
{
    (void)state;
    struct cs_buf help;
    cs_buf_init(&help, 100000);
    cs_config_help(&help);
#define X(kind, field, flag, def, min, max, secret, reload, help_)                                 \
    assert_true((secret) != 0 || strstr(help.data, "\n  --" flag));                                \
    assert_true((secret) == 0 || !strstr(help.data, "--" flag));                                   \
    assert_non_null(strstr(help.data, help_));
    CS_CONFIG_TABLE(X)
#undef X
    assert_non_null(strstr(help.data, "  --config FILE\n      the file of settings (environment "
                                      "CODEX_SESSIOND_CONFIG)\n"));
    assert_non_null(strstr(help.data, "environment CODEX_SESSIOND_TURN_TIMEOUT_MAX_MS; file "
                                      "\"turnTimeoutMaxMs\"; 1000 to 3600000; default 3600000\n"));
    cs_buf_fini(&help);
}

static void load_and_reload(void *arg)
{
    const struct given *given = arg;
    struct cs_config c = {0};
    struct cs_config next = {0};
    struct cs_err err = {0};
    struct cs_buf ignored;
    cs_buf_init(&ignored, 4096);
    char *argv[] = {(char *)(uintptr_t)given->flags[0]};
    char *envp[] = {home_entry, (char *)(uintptr_t)given->env[0], NULL};
    enum cs_status status = cs_config_load(&c, 1, argv, envp, &err);
    if (status == CS_OK)
        status = cs_config_load(&next, 0, argv, envp, &err);
    if (status == CS_OK)
        status = cs_config_reload(&c, &next, &ignored, &err);
    assert_int_equal(status, fault_hit() ? CS_NO_MEM : CS_OK);
    assert_int_equal(err.status, status);
    if (status == CS_OK) {
        assert_string_equal(c.model, "m");
        assert_string_equal(ignored.data, "host");
    }
    cs_buf_fini(&ignored);
    cs_config_fini(&c);
    cs_config_fini(&next);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    struct given given = {.flags = {"--host=::1"}, .env = {"CODEX_SESSIOND_CWD=/"}};
    put_file(file_path, "{\"model\":\"m\",\"redisUrl\":\"hush\"}");
    assert_true(fault_sweep(load_and_reload, &given) > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_hold_when_nothing_is_given),
        cmocka_unit_test(flags_beat_environment_beats_file_beats_default),
        cmocka_unit_test(a_stronger_source_may_set_what_the_default_is),
        cmocka_unit_test(of_two_equal_flags_the_later_counts),
        cmocka_unit_test(a_bool_flag_may_stand_alone),
        cmocka_unit_test(foreign_names_count_below_our_own),
        cmocka_unit_test(an_empty_foreign_name_counts_as_unset),
        cmocka_unit_test(environment_of_others_and_reserved_names_are_left_alone),
        cmocka_unit_test(xdg_folders_count_when_they_are_absolute),
        cmocka_unit_test(a_named_file_replaces_the_usual_one),
        cmocka_unit_test(wrong_flags_are_named),
        cmocka_unit_test(wrong_environment_is_named),
        cmocka_unit_test(a_wrong_file_is_named),
        cmocka_unit_test(a_readable_file_with_a_secret_is_worth_one_warning),
        cmocka_unit_test(reload_copies_what_may_change_and_names_the_rest),
        cmocka_unit_test(reload_of_the_same_ignores_nothing),
        cmocka_unit_test(the_help_knows_every_setting),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, make_home, drop_home);
}
