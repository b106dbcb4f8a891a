/* What the drivers' tests share: an engine over a Codex, told or real, and turns with their
 * outcome. */
#ifndef TURNS_H
#define TURNS_H

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <glob.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/base/clock.h"
#include "cs/base/file.h"
#include "cs/base/log.h"
#include "cs/base/thread.h"
#include "cs/engine/engine.h"

#include "priv.h"
#include "rpc.h"

#define WAIT_MS 60000

/** A folder of its own, and an engine. */
struct bench {
    char dir[64];
    char codex[512];
    struct cs_engine *engine;
    pid_t model; /* the model server, 0: none */
};

static inline void path_in(const struct bench *bench, const char *name, char out[160])
{
    snprintf(out, 160, "%s/%s", bench->dir, name);
}

/** The path of a file of the project, from its path below tests/. */
static inline void project_path(const char *name, char out[512])
{
    const char *here = __FILE__;
    const char *end = strstr(here, "unit/engine/");
    assert_non_null(end);
    snprintf(out, 512, "%.*s%s", (int)(end - here), here, name);
}

static inline void write_text_file(const char *path, const char *text, mode_t mode)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    assert_int_equal(chmod(path, mode), 0);
}

/** The file's text; for free(). */
static inline char *read_text_file(const char *path)
{
    struct cs_buf buf;
    cs_buf_init(&buf, 64 * 1024 * 1024);
    assert_int_equal(cs_file_read(path, &buf, NULL), CS_OK);
    return cs_buf_take(&buf, NULL);
}

static inline void bench_dir(struct bench *bench)
{
    memset(bench, 0, sizeof(*bench));
    snprintf(bench->dir, sizeof(bench->dir), "/tmp/cs-engine-XXXXXX");
    assert_non_null(mkdtemp(bench->dir));
    /* Codex runs commands in a login shell: not with the profile of whoever runs the tests. */
    assert_int_equal(setenv("HOME", bench->dir, 1), 0);
    cs_log_set_level(CS_LOG_ERROR);
}

static inline void bench_engine(struct bench *bench, enum cs_engine_kind kind, const char *api_key)
{
    struct cs_err err = {0};
    struct cs_engine_options options = {
        .codex = bench->codex,
        .kind = kind,
        .instance = bench->dir,
        .api_key = api_key,
        .max_line = 4 * 1024 * 1024,
        .version = "1.0",
    };
    if (cs_engine_new(&options, &bench->engine, &err) != CS_OK) {
        fail_msg("%s", err.msg);
    }
}

static inline void bench_stop_engine(struct bench *bench)
{
    cs_engine_free(bench->engine, cs_mono_ms() + 10000);
    bench->engine = NULL;
}

/** An engine over tests/support/fake_codex.py. */
static inline void bench_fake(struct bench *bench, enum cs_engine_kind kind, const char *scenario)
{
    char script[512], text[1024];
    bench_dir(bench);
    project_path("support/fake_codex.py", script);
    snprintf(bench->codex, sizeof(bench->codex), "%s/codex", bench->dir);
    snprintf(text, sizeof(text),
             "#!/bin/sh\nexec /usr/bin/python3 '%s' --scenario '%s' --log '%s/log' \"$@\"\n",
             script, scenario, bench->dir);
    write_text_file(bench->codex, text, 0755);
    bench_engine(bench, kind, NULL);
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static inline void bench_end(struct bench *bench)
{
    if (bench->engine) {
        bench_stop_engine(bench);
    }
    if (bench->model) {
        kill(bench->model, SIGTERM);
        waitpid(bench->model, NULL, 0);
    }
    nftw(bench->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* The real Codex, and the project's model server behind it. */

/** The native program of that version as scripts/setup installs it, or what the variable names;
 * false when it is missing. */
static inline bool real_codex(const char *version, const char *variable, char out[512])
{
    const char *named = getenv(variable);
    char pattern[600];
    glob_t found;
    bool is_there = false;
    if (named && strlen(named) < 512) {
        strcpy(out, named);
        return true;
    }
    project_path("", pattern);
    size_t len = strlen(pattern);
    snprintf(pattern + len, sizeof(pattern) - len,
             "../.deps/codex-%s/node_modules/@openai/codex*/vendor/*/bin/codex", version);
    if (glob(pattern, 0, NULL, &found) == 0) {
        char *path = realpath(found.gl_pathv[0], NULL);
        is_there = path && strlen(path) < 512;
        if (is_there) {
            strcpy(out, path);
        }
        free(path);
        globfree(&found);
    }
    return is_there;
}

static inline void codex_home(const struct bench *bench, const char *name)
{
    char script[512], home[160], port_file[160], url[64], *port;
    project_path("support/codex_home.py", script);
    path_in(bench, name, home);
    path_in(bench, "port", port_file);
    port = read_text_file(port_file);
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/v1", atoi(port));
    free(port);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/usr/bin/python3", "python3", script, home, url, (char *)NULL);
        _exit(127);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    setenv("CODEX_HOME", home, 1);
}

/** An engine over the real Codex; false when it is not installed. */
static inline bool bench_real(struct bench *bench, enum cs_engine_kind kind, const char *version,
                              const char *variable)
{
    char script[512], port_file[160];
    bench_dir(bench);
    if (!real_codex(version, variable, bench->codex)) {
        bench_end(bench);
        return false;
    }
    project_path("support/model_server.py", script);
    path_in(bench, "port", port_file);
    bench->model = fork();
    if (bench->model == 0) {
        FILE *quiet = freopen("/dev/null", "w", stdout);
        execl("/usr/bin/python3", "python3", script, "--port-file", port_file, (char *)NULL);
        _exit(quiet ? 127 : 126);
    }
    for (int i = 0; i < 1000 && access(port_file, R_OK) != 0; i++) {
        usleep(10000);
    }
    codex_home(bench, "home");
    bench_engine(bench, kind, NULL);
    return true;
}

/* Turns. */

struct outcome {
    char thread[64], how[16], turn[64], model[64];
    char ask[24], ask_kind[16], ask_text[1024]; /* the last CS_EVENT_APPROVAL */
    struct cs_buf deltas, message;
    int delta_count, message_count, item_count, started_count, ask_count;
    int64_t used[3], totals[3];
    bool done;
    enum cs_status status;
    char code[48], why[512];
};

struct past {
    struct cs_engine_item items[64];
    size_t count, asked;
};

static inline enum cs_status tell_past(void *arg, const struct cs_engine_item **out_items,
                                       size_t *out_count, struct cs_err *err)
{
    struct past *past = arg;
    (void)err;
    past->asked++;
    *out_items = past->items;
    *out_count = past->count;
    return CS_OK;
}

static inline void remember(struct past *past, enum cs_role role, const char *text)
{
    past->items[past->count++] =
        (struct cs_engine_item){.role = role, .text = text, .len = strlen(text)};
}

static inline struct cs_engine_request request_for(const char *prompt)
{
    return (struct cs_engine_request){
        .kind = CS_ENGINE_AUTO,
        .prompt = prompt,
        .prompt_len = strlen(prompt),
        .cwd = "/tmp",
        .sandbox = "read-only",
        .preamble_bytes = 65536,
        .total_input = -1,
        .total_cached = -1,
        .total_output = -1,
    };
}

static inline void outcome_init(struct outcome *outcome)
{
    memset(outcome, 0, sizeof(*outcome));
    cs_buf_init(&outcome->deltas, 64 * 1024 * 1024);
    cs_buf_init(&outcome->message, 64 * 1024 * 1024);
    for (int i = 0; i < 3; i++) {
        outcome->used[i] = outcome->totals[i] = -1;
    }
}

static inline void outcome_fini(struct outcome *outcome)
{
    cs_buf_fini(&outcome->deltas);
    cs_buf_fini(&outcome->message);
}

static inline void note_event(struct outcome *outcome, const struct cs_engine_event *event)
{
    switch (event->type) {
    case CS_EVENT_THREAD:
        snprintf(outcome->thread, sizeof(outcome->thread), "%s", event->text);
        snprintf(outcome->how, sizeof(outcome->how), "%s", event->detail);
        break;
    case CS_EVENT_STARTED:
        snprintf(outcome->turn, sizeof(outcome->turn), "%s", event->text);
        snprintf(outcome->model, sizeof(outcome->model), "%s", event->detail);
        outcome->started_count++;
        break;
    case CS_EVENT_DELTA:
        cs_buf_add(&outcome->deltas, event->text, event->len);
        outcome->delta_count++;
        break;
    case CS_EVENT_ITEM:
        outcome->item_count++;
        break;
    case CS_EVENT_APPROVAL:
        assert_int_equal(sscanf(event->detail, "%23s %15s", outcome->ask, outcome->ask_kind), 2);
        snprintf(outcome->ask_text, sizeof(outcome->ask_text), "%s", event->text);
        outcome->ask_count++;
        break;
    case CS_EVENT_USAGE:
        memcpy(outcome->used, (int64_t[3]){event->input, event->cached_input, event->output},
               sizeof(outcome->used));
        memcpy(outcome->totals,
               (int64_t[3]){event->total_input, event->total_cached_input, event->total_output},
               sizeof(outcome->totals));
        break;
    case CS_EVENT_MESSAGE:
        cs_buf_reset(&outcome->message);
        cs_buf_add(&outcome->message, event->text, event->len);
        outcome->message_count++;
        break;
    case CS_EVENT_DONE:
        outcome->done = true;
        outcome->status = event->error->status;
        snprintf(outcome->code, sizeof(outcome->code), "%s",
                 event->error->code ? event->error->code : "");
        snprintf(outcome->why, sizeof(outcome->why), "%s", event->error->msg);
        break;
    }
}

/** Pull events until one of @until has come or @ms have passed. Returns whether it has. */
static inline bool pull(struct cs_engine_turn *turn, struct outcome *outcome,
                        enum cs_event_type until, int64_t ms)
{
    int64_t deadline = cs_mono_ms() + ms;
    struct cs_engine_event event;
    while (!outcome->done) {
        if (cs_engine_turn_next(turn, deadline, &event, NULL) != CS_OK) {
            return false;
        }
        note_event(outcome, &event);
        if (event.type == until) {
            return true;
        }
    }
    return until == CS_EVENT_DONE;
}

static inline struct cs_engine_turn *begin_turn(struct bench *bench,
                                                const struct cs_engine_request *request)
{
    struct cs_engine_turn *turn = NULL;
    struct cs_err err = {0};
    if (cs_engine_turn_start(bench->engine, request, &turn, &err) != CS_OK) {
        fail_msg("%s", err.msg);
    }
    return turn;
}

/** A whole turn. */
static inline void run_turn(struct bench *bench, const struct cs_engine_request *request,
                            struct outcome *outcome)
{
    outcome_init(outcome);
    struct cs_engine_turn *turn = begin_turn(bench, request);
    if (!pull(turn, outcome, CS_EVENT_DONE, WAIT_MS)) {
        fail_msg("no end of the turn");
    }
    cs_engine_turn_free(turn);
}

#define assert_ok(outcome)                                                                         \
    do {                                                                                           \
        if ((outcome).status != CS_OK) {                                                           \
            fail_msg("%s: %s", (outcome).code, (outcome).why);                                     \
        }                                                                                          \
    } while (0)

static inline bool says_text(const struct outcome *outcome, const char *text)
{
    return outcome->message.data && strstr(outcome->message.data, text);
}

#define assert_says(outcome, text)                                                                 \
    do {                                                                                           \
        if (!says_text(&(outcome), text)) {                                                        \
            fail_msg("no \"%s\" in: %s", text,                                                     \
                     (outcome).message.data ? (outcome).message.data : "(nothing)");               \
        }                                                                                          \
    } while (0)

static inline char *read_log(const struct bench *bench)
{
    char path[160];
    path_in(bench, "log", path);
    return read_text_file(path);
}

/* How often the text came to the fake Codex. */
static inline int logged(const struct bench *bench, const char *text)
{
    char *log = read_log(bench);
    int count = 0;
    for (const char *at = log; (at = strstr(at, text)); at += strlen(text)) {
        count++;
    }
    free(log);
    return count;
}

/* Whether the text comes to the fake Codex that often, soon. */
static inline bool soon_logged(const struct bench *bench, const char *text, int count)
{
    for (int i = 0; i < 500 && logged(bench, text) < count; i++) {
        usleep(10000);
    }
    return logged(bench, text) == count;
}

struct crowd {
    pthread_t thread;
    struct bench *bench;
    int number;
    struct outcome outcome;
};

static inline void *crowd_turns(void *arg)
{
    struct crowd *one = arg;
    char prompt[64], thread[64] = "";
    for (int i = 0; i < 3; i++) {
        snprintf(prompt, sizeof(prompt), "turn %d of %d", i, one->number);
        struct cs_engine_request request = request_for(prompt);
        request.thread_id = *thread ? thread : NULL;
        struct cs_engine_turn *turn = NULL;
        outcome_init(&one->outcome);
        if (cs_engine_turn_start(one->bench->engine, &request, &turn, NULL) != CS_OK) {
            return NULL;
        }
        pull(turn, &one->outcome, CS_EVENT_DONE, WAIT_MS);
        cs_engine_turn_free(turn);
        snprintf(thread, sizeof(thread), "%s", one->outcome.thread);
        if (i < 2) {
            outcome_fini(&one->outcome);
        }
    }
    return NULL;
}

/* 32 conversations of three turns at once: each saw its own and nothing else. @saw is a format with
 * the number. */
static inline void crowd_of_conversations(struct bench *bench, const char *saw)
{
    static struct crowd crowd[32];
    char text[128];
    for (int i = 0; i < 32; i++) {
        crowd[i].bench = bench;
        crowd[i].number = i;
        assert_int_equal(
            cs_thread_start(&crowd[i].thread, "turn", 256 * 1024, crowd_turns, &crowd[i], NULL),
            CS_OK);
    }
    for (int i = 0; i < 32; i++) {
        pthread_join(crowd[i].thread, NULL);
    }
    for (int i = 0; i < 32; i++) {
        assert_ok(crowd[i].outcome);
        for (int before = 0; before < 3; before++) {
            snprintf(text, sizeof(text), "turn %d of %d", before, i);
            assert_says(crowd[i].outcome, text);
        }
        assert_says(crowd[i].outcome, saw);
        outcome_fini(&crowd[i].outcome);
    }
}

/* The test at hand. */

static struct bench bench;

static inline int teardown(void **state)
{
    (void)state;
    bench_end(&bench);
    return 0;
}

static inline pid_t child_pid(void)
{
    char text[64];
    pid_t pid = 0;
    snprintf(text, sizeof(text), "/proc/self/task/*/children");
    glob_t found;
    assert_int_equal(glob(text, 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        FILE *file = fopen(found.gl_pathv[i], "r");
        int one;
        while (file && fscanf(file, "%d", &one) == 1) {
            if (one != bench.model) {
                pid = one;
            }
        }
        if (file) {
            fclose(file);
        }
    }
    globfree(&found);
    return pid;
}

/* A turn on @thread (NULL: none) with @past (NULL: none), which must end well. */
static inline struct outcome good_turn(const char *prompt, const char *thread, struct past *past)
{
    struct cs_engine_request request = request_for(prompt);
    struct outcome outcome;
    request.thread_id = thread;
    request.history = past ? tell_past : NULL;
    request.history_arg = past;
    run_turn(&bench, &request, &outcome);
    assert_ok(outcome);
    outcome_fini(&outcome); /* the strings beside the buffers stay */
    return outcome;
}

/* Start a turn with @prompt on @thread, and cancel it once @after has come. Returns what became of
 * it. */
static inline struct outcome cancelled_turn(const char *prompt, const char *thread,
                                            enum cs_event_type after)
{
    struct cs_engine_request request = request_for(prompt);
    struct outcome outcome;
    outcome_init(&outcome);
    request.thread_id = thread;
    struct cs_engine_turn *turn = begin_turn(&bench, &request);
    assert_true(pull(turn, &outcome, after, WAIT_MS));
    int64_t start = cs_mono_ms();
    cs_engine_turn_cancel(turn);
    cs_engine_turn_cancel(turn);
    assert_true(pull(turn, &outcome, CS_EVENT_DONE, WAIT_MS));
    outcome.used[0] = cs_mono_ms() - start;
    cs_engine_turn_free(turn);
    assert_int_equal(outcome.status, CS_CANCELLED);
    assert_string_equal(outcome.code, "turn_cancelled");
    outcome_fini(&outcome);
    return outcome;
}

#endif
