/* main: the verb `doctor`: what works here, what does not, and how to mend it. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/file.h"
#include "cs/base/json.h"
#include "cs/engine/engine.h"
#include "datadir.h"
#include "verbs.h"

#define DISK_LOW_BYTES (INT64_C(256) << 20)
#define CLOCK_FLOOR_MS INT64_C(1735689600000) /* 2025-01-01: no clock in order shows less */
#define HEALTH_MAX     65536
#define HEALTH_WAIT_S  5

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
        snprintf(line, sizeof line, "the daemon, pid %ld, listens on port %d", report->owner.pid,
                 report->owner.port);
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

static bool has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static void check_redis(struct report *report)
{
    const char *url = report->config->redis_url;

    if (url == NULL)
        ok("redis", "off: sessions stay on this host");
    else if (has_prefix(url, "https://") && report->config->redis_token == NULL)
        fail(report, "redis", "Upstash Redis URL and TOKEN are required: set UPSTASH_REDIS_TOKEN");
    else if (has_prefix(url, "https://") || has_prefix(url, "rediss://") ||
             has_prefix(url, "redis://") || has_prefix(url, "unix://"))
        warn("redis", "set, but this version does not mirror yet");
    else
        fail(report, "redis", "the URL must begin with rediss://, redis://, unix:// or https://");
}

/* GET /health of the daemon on loopback, the body parsed; NULL if it did not answer. */
static struct cs_json *fetch_health(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval wait = {.tv_sec = HEALTH_WAIT_S};
    struct cs_json *health = NULL;
    struct cs_buf answer;
    const char *body;
    char *room, request[128];
    ssize_t n = 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), len;

    if (fd < 0)
        return NULL;
    cs_buf_init(&answer, HEALTH_MAX);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    len = snprintf(request, sizeof request,
                   "GET /health HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n", port);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 &&
        send(fd, request, (size_t)len, 0) == len)
        while ((room = cs_buf_reserve(&answer, 4096)) != NULL && (n = recv(fd, room, 4096, 0)) > 0)
            answer.len += (size_t)n;
    close(fd);
    cs_buf_addc(&answer, '\0'); /* the tail of a reservation is not terminated */
    body = answer.status == CS_OK ? strstr(answer.data, "\r\n\r\n") : NULL;
    if (body != NULL &&
        cs_json_parse(body + 4, strlen(body + 4), HEALTH_MAX, &health, NULL) != CS_OK)
        health = NULL;
    cs_buf_fini(&answer);
    return health;
}

static void check_daemon(struct report *report)
{
    struct cs_json *health;
    const char *notice;

    if (report->owner.pid == 0) {
        warn("daemon", "not running");
        return;
    }
    health = fetch_health(report->owner.port);
    if (health == NULL) {
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
