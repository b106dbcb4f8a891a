/* main: the verb `doctor`: what works here, what does not, and how to mend it. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/file.h"
#include "cs/base/json.h"
#include "cs/engine/engine.h"
#include "ask.h"
#include "datadir.h"
#include "redis.h"
#include "verbs.h"

#define DISK_LOW_BYTES (INT64_C(256) << 20)
#define CLOCK_FLOOR_MS INT64_C(1735689600000) /* 2025-01-01: no clock in order shows less */
#define HEALTH_WAIT_MS 5000

struct report {
    const struct cs_config *config;
    bool failed;
    struct cs_datadir_owner owner; /* of the data folder's lock */
};

static void ok(const char *what, const char *text)
{
    printf("ok    %-12s %s\n", what, text);
}

static void warn(const char *what, const char *text)
{
    printf("note  %-12s %s\n", what, text);
}

static void fail(struct report *report, const char *what, const char *text)
{
    printf("FAIL  %-12s %s\n", what, text);
    report->failed = true;
}

static void check_codex(struct report *report)
{
    struct cs_engine_options options = {
        .codex = report->config->codex,
        .instance = "doctor", /* not the daemon's: its children are left alone */
        .max_line = report->config->max_reply_bytes,
        .version = CS_VERSION,
    };
    struct cs_engine *engine = NULL;
    struct cs_engine_info info;
    struct cs_err err = {0};
    char line[5000];

    if (cs_engine_kind_parse(report->config->engine, &options.kind, &err) != CS_OK ||
        cs_engine_new(&options, &engine, &err) != CS_OK) {
        fail(report, "codex", err.msg);
        return;
    }
    cs_engine_info(engine, &info);
    if (info.usable) {
        snprintf(line, sizeof line, "%s (%s), engine %s", info.version, info.path,
                 cs_engine_kind_name(info.kind));
        ok("codex", line);
        ok("engine", info.why);
    } else {
        fail(report, "codex", info.why);
    }
    cs_engine_free(engine, cs_mono_ms() + 5000);
}

/* Whether `codex login` left credentials: only that the file is there; it is never opened. */
static bool logged_in(void)
{
    const char *home = getenv("CODEX_HOME"); // NOLINT(concurrency-mt-unsafe): one thread here
    char path[4200];

    if (home != NULL) {
        snprintf(path, sizeof path, "%s/auth.json", home);
    } else {
        home = getenv("HOME"); // NOLINT(concurrency-mt-unsafe)
        snprintf(path, sizeof path, "%s/.codex/auth.json", home != NULL ? home : "");
    }
    return access(path, R_OK) == 0;
}

static void check_credentials(struct report *report)
{
    if (report->config->openai_api_key != NULL)
        ok("credentials", "an API key is set");
    else if (logged_in())
        ok("credentials", "from `codex login`");
    else if (report->config->demo)
        ok("credentials", "none needed: the demo model server answers");
    else
        fail(report, "credentials", "none found: run `codex login`, or set OPENAI_API_KEY");
}

static void check_folder(struct report *report)
{
    const char *dir = report->config->data_dir;
    struct cs_err err = {0};
    struct statvfs fs;
    char line[4200];
    int64_t free_bytes;

    if (cs_mkdir_private(dir, &err) != CS_OK) {
        fail(report, "data folder", err.msg);
        return;
    }
    if (access(dir, R_OK | W_OK | X_OK) != 0) {
        snprintf(line, sizeof line, "%s is not writable: choose another with --data-dir", dir);
        fail(report, "data folder", line);
        return;
    }
    ok("data folder", dir);
    if (statvfs(dir, &fs) != 0) {
        fail(report, "disk", "its free space cannot be read");
        return;
    }
    free_bytes = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
    snprintf(line, sizeof line, "%lld MB free", (long long)(free_bytes >> 20));
    if (free_bytes < DISK_LOW_BYTES) {
        strncat(line, ": free some space, or move --data-dir", sizeof line - strlen(line) - 1);
        fail(report, "disk", line);
    } else {
        ok("disk", line);
    }
}

static int bind_errno(const struct cs_config *config)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)config->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)config->port)};
    bool is_v6 = inet_pton(AF_INET6, config->host, &v6.sin6_addr) == 1;
    int fd, one = 1, failed;

    if (!is_v6 &&
        inet_pton(AF_INET, strcmp(config->host, "localhost") == 0 ? "127.0.0.1" : config->host,
                  &v4.sin_addr) != 1)
        return EINVAL;
    fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    failed = is_v6 ? bind(fd, (struct sockaddr *)&v6, sizeof v6)
                   : bind(fd, (struct sockaddr *)&v4, sizeof v4);
    failed = failed != 0 ? errno : 0;
    close(fd);
    return failed;
}

static void check_port(struct report *report)
{
    char line[512];
    int errnum;

    if (report->owner.pid != 0) {
        if (report->owner.port != 0)
            snprintf(line, sizeof line, "the daemon, pid %ld, listens on port %d",
                     report->owner.pid, report->owner.port);
        else
            snprintf(line, sizeof line, "the daemon, pid %ld, is starting or stopping",
                     report->owner.pid);
        ok("port", line);
        return;
    }
    errnum = bind_errno(report->config);
    snprintf(line, sizeof line, "%s:%lld", report->config->host, (long long)report->config->port);
    if (errnum == 0) {
        ok("port", line);
        return;
    }
    snprintf(line, sizeof line, "%s:%lld cannot be bound (%s): choose another with --port",
             report->config->host, (long long)report->config->port, strerrordesc_np(errnum));
    fail(report, "port", line);
}

static void check_clock(struct report *report)
{
    char now[CS_ISO_MAX];

    cs_clock_iso(cs_clock_ms(), now);
    if (cs_clock_ms() < CLOCK_FLOOR_MS)
        fail(report, "clock", "it shows a time long past: set it, or start time synchronisation");
    else
        ok("clock", now);
}

static void check_redis(struct report *report)
{
    const struct cs_config *config = report->config;
    struct cs_redis_endpoint endpoint = {0};
    struct cs_err err = {0};
    const char *hint = "";
    struct cs_buf shown;
    char line[1200];

    if (cs_redis_settings(config, &endpoint, &err) != CS_OK) {
        fail(report, "redis", err.msg);
        return;
    }
    if (config->redis_url == NULL) {
        ok("redis", "off: sessions stay on this host");
        return;
    }
    cs_buf_init(&shown, sizeof line / 2);
    cs_redis_endpoint_show(&endpoint, &shown);
    if (cs_redis_probe(config, &endpoint, &hint, &err) == CS_OK) {
        ok("redis", shown.len > 0 ? shown.data : "it answers");
    } else {
        snprintf(line, sizeof line, "%s: %s", err.msg, hint);
        fail(report, "redis", line);
    }
    cs_buf_fini(&shown);
    cs_redis_endpoint_fini(&endpoint);
    if (cs_user_is_common(config->user)) {
        snprintf(
            line, sizeof line,
            "\"%s\" is many people's name: who shares this Redis under it shares the sessions; "
            "set one with --user, the same on all hosts of yours",
            config->user);
        warn("user", line);
    }
}

/* How the daemon itself stands against Redis. */
static void report_sync(struct report *report, const struct cs_json *sync)
{
    const char *state = cs_json_get_string(sync, "state");
    const char *error = cs_json_get_string(sync, "error");
    size_t aside = cs_json_size(cs_json_get(sync, "quarantined"));
    char line[800];

    if (state == NULL || strcmp(state, "off") == 0)
        return;
    snprintf(line, sizeof line, "%s, %lld messages pending%s%s", state,
             (long long)cs_json_int(cs_json_get(sync, "pendingMessages"), 0),
             error != NULL ? ": " : "", error != NULL ? error : "");
    if (strcmp(state, "online") == 0)
        ok("sync", line);
    else
        fail(report, "sync", line);
    if (aside > 0)
        warn("sync", "some sessions are set aside: `codex-sessiond sync` names them");
}

static void check_daemon(struct report *report)
{
    struct cs_ask ask = {
        .port = report->owner.port, .method = "GET", .path = "/health", .wait_ms = HEALTH_WAIT_MS};
    struct cs_json *health = NULL;
    const char *notice;

    if (report->owner.pid == 0) {
        warn("daemon", "not running");
        return;
    }
    if (report->owner.port == 0) {
        warn("daemon", "it is starting or stopping: ask again");
        return;
    }
    if (cs_ask(&ask, &health, NULL) != CS_OK) {
        fail(report, "daemon", "it runs but does not answer: restart it");
        return;
    }
    ok("daemon", "it answers");
    notice = cs_json_get_string(health, "notice");
    if (notice != NULL)
        warn("daemon", notice);
    if (cs_json_bool(cs_json_get(health, "modelFallback"), false))
        warn("model",
             "Codex refused the default model and ran its own; set `model` to one it knows");
    report_sync(report, cs_json_get(health, "sync"));
    cs_json_free(health);
}

int cs_verb_doctor(const struct cs_verb_input *input)
{
    struct report report = {.config = input->config};
    struct cs_err err = {0};

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (input->config->file != NULL)
        ok("settings", input->config->file);
    if (cs_datadir_owner(input->config->data_dir, &report.owner, &err) != CS_OK)
        fail(&report, "lock", err.msg);
    check_codex(&report);
    check_credentials(&report);
    check_folder(&report);
    check_port(&report);
    check_clock(&report);
    check_redis(&report);
    check_daemon(&report);
    puts(report.failed ? "Something needs mending: see FAIL above." : "All is well.");
    return report.failed ? 1 : 0;
}
