/* main: the verb `serve`: wires the modules, waits for signals, takes them down again. */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "cs/api/http.h"
#include "cs/base/clock.h"
#include "cs/base/file.h"
#include "cs/base/log.h"
#include "cs/core/core.h"
#include "datadir.h"
#include "redis.h"
#include "verbs.h"

#define DRAIN_MS      5000 /* for running turns: Codex gets 3 s to obey a cancel */
#define ENGINE_MS     2000 /* for Codex's processes after that */
#define MALLOC_ARENAS 4
#define WATCHDOG_S    9 /* then leave at once: what was acknowledged is durable */

struct daemon {
    const struct cs_config *config;
    int lock;
    char instance[17];
    char notice[1024];
    struct cs_store *store;
    struct cs_engine *engine;
    struct cs_core *core;
    struct cs_http *http;
};

/* No secret may reach a core dump or another process of this user. */
static void harden(void)
{
    struct rlimit none = {0, 0}, files;

    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max; /* a connection and a turn each take some */
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    /* Thousands of threads that allocate little: an arena for each of a few at a time is enough,
     * and each costs memory. */
    mallopt(M_ARENA_MAX, MALLOC_ARENAS); /* NOLINT(concurrency-mt-unsafe): before any thread */
}

static enum cs_status redact(const struct cs_config *config, const char *password,
                             struct cs_err *err)
{
    const char *const secrets[] = {config->openai_api_key, config->redis_token, config->redis_url,
                                   password};
    enum cs_status rc = CS_OK;
    size_t i;

    for (i = 0; i < sizeof secrets / sizeof secrets[0] && rc == CS_OK; i++)
        if (secrets[i] != NULL)
            rc = cs_log_redact(secrets[i], err);
    return rc;
}

/* Refuse settings that cannot work, before anything is made. */
static enum cs_status check_settings(const struct cs_config *config, struct cs_err *err)
{
    struct cs_redis_endpoint redis;
    enum cs_status rc = cs_redis_settings(config, &redis, err);

    if (rc != CS_OK)
        return rc;
    rc = redact(config, redis.password, err);
    cs_redis_endpoint_fini(&redis);
    if (config->redis_url != NULL && cs_user_is_common(config->user))
        cs_log(CS_LOG_WARN, "common_user", "user", config->user, "mend",
               "people who share this Redis under one name share their sessions: set --user", NULL);
    return rc;
}

static enum cs_status open_store(struct daemon *daemon, struct cs_err *err)
{
    char host[64];
    struct cs_store_options options = {.dir = daemon->config->data_dir, .host = host};
    struct cs_store_opened opened;
    enum cs_status rc;

    cs_core_host_name(daemon->config, host);
    rc = cs_store_open(&options, &daemon->store, &opened, err);
    if (rc != CS_OK)
        return rc;
    if (opened.quarantined[0] != '\0') {
        snprintf(
            daemon->notice, sizeof daemon->notice,
            "The database was damaged; it was set aside as %.700s and an empty one took its place",
            opened.quarantined);
        cs_log(CS_LOG_ERROR, "database_quarantined", "kept", opened.quarantined, "damage",
               opened.damage, NULL);
    }
    return CS_OK;
}

static enum cs_status open_engine(struct daemon *daemon, struct cs_err *err)
{
    const struct cs_config *config = daemon->config;
    struct cs_engine_options options = {
        .codex = config->codex,
        .instance = daemon->instance,
        .api_key = config->openai_api_key,
        .max_line = config->max_reply_bytes,
        .version = CS_VERSION,
    };
    struct cs_engine_info info;
    enum cs_status rc = cs_engine_kind_parse(config->engine, &options.kind, err);

    if (rc == CS_OK)
        rc = cs_engine_new(&options, &daemon->engine, err);
    if (rc != CS_OK)
        return rc;
    cs_engine_info(daemon->engine, &info);
    cs_log(info.usable ? CS_LOG_INFO : CS_LOG_WARN, "codex", "path", info.path, "version",
           info.version, "engine", cs_engine_kind_name(info.kind), "why", info.why, NULL);
    return CS_OK;
}

static enum cs_status open_http(struct daemon *daemon, struct cs_err *err)
{
    char *token = cs_path_join(daemon->config->data_dir, "token");
    struct cs_http_options options = {
        .core = daemon->core,
        .token_path = token,
        .version = CS_VERSION,
        .notice = daemon->notice[0] != '\0' ? daemon->notice : NULL,
    };
    enum cs_status rc =
        token != NULL ? cs_http_start(&options, &daemon->http, err) : cs_err_nomem(err);

    free(token);
    if (rc == CS_OK)
        rc = cs_datadir_announce(daemon->lock, cs_http_port(daemon->http), err);
    return rc;
}

static enum cs_status start(struct daemon *daemon, struct cs_err *err)
{
    struct cs_core_parts parts;
    enum cs_status rc = check_settings(daemon->config, err);

    if (rc == CS_OK)
        rc = cs_datadir_lock(daemon->config->data_dir, &daemon->lock, err);
    if (rc == CS_OK)
        rc = cs_datadir_instance(daemon->config->data_dir, daemon->instance, err);
    if (rc == CS_OK)
        rc = open_store(daemon, err);
    if (rc == CS_OK)
        rc = open_engine(daemon, err);
    if (rc != CS_OK)
        return rc;
    parts = (struct cs_core_parts){
        .store = daemon->store, .engine = daemon->engine, .config = daemon->config};
    rc = cs_core_new(&parts, &daemon->core, err);
    return rc == CS_OK ? open_http(daemon, err) : rc;
}

static void stop(struct daemon *daemon)
{
    if (daemon->lock >= 0) /* clients send the token there, and anybody's it may be soon */
        (void)!cs_datadir_announce(daemon->lock, 0, NULL);
    if (daemon->http != NULL)
        cs_http_quiesce(daemon->http);
    if (daemon->core != NULL && !cs_core_drain(daemon->core, cs_mono_ms() + DRAIN_MS))
        cs_log(CS_LOG_WARN, "turns_left_running", NULL);
    cs_http_stop(daemon->http);
    cs_core_free(daemon->core);
    if (daemon->engine != NULL)
        cs_engine_free(daemon->engine, cs_mono_ms() + ENGINE_MS);
    cs_store_close(daemon->store);
    if (daemon->lock >= 0)
        close(daemon->lock);
}

static void reload(struct daemon *daemon, const struct cs_verb_input *input)
{
    struct cs_config fresh;
    struct cs_buf ignored;
    struct cs_err err = {0};
    enum cs_log_level level;
    enum cs_status rc = cs_config_load(&fresh, input->argc, input->argv, environ, &err);

    if (rc != CS_OK) {
        cs_log_err("reload_refused", &err, NULL, NULL);
        return;
    }
    cs_buf_init(&ignored, 4096);
    rc = check_settings(&fresh, &err); /* and hide what is secret in them */
    if (rc == CS_OK)
        rc = cs_core_reload(daemon->core, &fresh, &ignored, &err);
    if (rc == CS_OK)
        rc = cs_log_level_parse(fresh.log_level, &level, &err);
    if (rc == CS_OK) {
        cs_log_set_level(level);
        cs_engine_refresh(daemon->engine);
        cs_log(CS_LOG_INFO, "reloaded", "needs_restart", ignored.len > 0 ? ignored.data : NULL,
               NULL);
    } else {
        cs_log_err("reload_refused", &err, NULL, NULL);
    }
    cs_buf_fini(&ignored);
    cs_config_fini(&fresh);
}

static void announce(const struct daemon *daemon)
{
    bool v6 = strchr(daemon->config->host, ':') != NULL;

    printf("listening on http://%s%s%s:%d\n", v6 ? "[" : "", daemon->config->host, v6 ? "]" : "",
           cs_http_port(daemon->http));
    fflush(stdout);
    cs_log(CS_LOG_INFO, "listening", "port", CS_NUM(cs_http_port(daemon->http)), "version",
           CS_VERSION, "pid", CS_NUM(getpid()), NULL);
}

/* Serve until a signal ends it; SIGHUP reloads. */
static void await_end(struct daemon *daemon, const struct cs_verb_input *input,
                      const sigset_t *signals)
{
    int got;

    for (;;) {
        got = sigwaitinfo(signals, NULL);
        if (got == SIGHUP)
            reload(daemon, input);
        else if (got > 0)
            break;
    }
    cs_log(CS_LOG_INFO, "stopping", "signal", CS_NUM(got), NULL);
}

static void leave_at_once(int signal_number)
{
    (void)signal_number;
    _exit(0);
}

static void arm_watchdog(void)
{
    sigset_t alarm_only;

    signal(SIGALRM, leave_at_once);
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL);
    alarm(WATCHDOG_S);
}

int cs_verb_serve(const struct cs_verb_input *input)
{
    struct daemon daemon = {.config = input->config, .lock = -1};
    struct cs_err err = {0};
    enum cs_log_level level;
    sigset_t signals;
    enum cs_status rc;

    harden();
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread: all inherit it */
    rc = cs_log_level_parse(input->config->log_level, &level, &err);
    if (rc == CS_OK) {
        cs_log_set_level(level);
        rc = start(&daemon, &err);
    }
    if (rc == CS_OK) {
        announce(&daemon);
        await_end(&daemon, input, &signals);
    }
    arm_watchdog();
    stop(&daemon);
    if (rc != CS_OK)
        return cs_verb_fail(&err);
    cs_log(CS_LOG_INFO, "stopped", NULL);
    return 0;
}
