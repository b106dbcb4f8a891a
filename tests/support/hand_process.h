/* Children moved by hand: stands in for src/engine/{process,spawner,detect}.c at link time, so that
 * the rest of the engine runs without a process. A "child" keeps what is written to it; the test
 * feeds it lines and ends it, and is its reader thread. Include it once in a program.
 */
#ifndef TESTS_SUPPORT_HAND_PROCESS_H
#define TESTS_SUPPORT_HAND_PROCESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cs/base/buf.h"
#include "cs/base/clock.h"
#include "../../src/engine/priv.h"

/* As src/engine/process_priv.h declares it. */
void cs_process_end_by(struct cs_process *process, int64_t kill_at);

struct cs_process {
    struct cs_process_events events;
    void *arg;
    struct cs_buf written; /* under hand_mutex, like all below */
    size_t taken;          /* of it, by hand_take() */
    bool stopped, ended;
    bool deaf; /* its stdin is closed */
};

static pthread_mutex_t hand_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct cs_process *hand_last; /* the newest child; NULL once freed */
static int hand_spawned;             /* children so far; a test may start again at 0 */
static bool hand_refuse;             /* no child can be started */
/* Called, once, with the next child before whoever starts it has it. */
static void (*hand_born)(struct cs_process *child);

enum cs_status cs_spawner_new(const char *instance, struct cs_spawner **out_spawner,
                              struct cs_err *err)
{
    (void)instance;
    (void)err;
    *out_spawner = NULL;
    return CS_OK;
}

void cs_spawner_free(struct cs_spawner *spawner, int64_t deadline)
{
    (void)spawner;
    (void)deadline;
}

int64_t cs_spawner_children(struct cs_spawner *spawner)
{
    (void)spawner;
    return 0;
}

void cs_codex_detect(struct cs_spawner *spawner, const char *path_or_null,
                     enum cs_engine_kind wanted, struct cs_codex *out)
{
    (void)spawner;
    *out = (struct cs_codex){
        .version = "0.169.0",
        .kinds = 1U << CS_ENGINE_APP_SERVER | 1U << CS_ENGINE_MCP | 1U << CS_ENGINE_EXEC,
        .best = wanted == CS_ENGINE_AUTO ? CS_ENGINE_APP_SERVER : wanted,
        .mcp_subcommand = "mcp-server",
    };
    snprintf(out->path, sizeof(out->path), "%s", path_or_null ? path_or_null : "/codex");
}

enum cs_status cs_process_spawn(struct cs_spawner *spawner, const struct cs_process_spec *spec,
                                struct cs_process **out_process, struct cs_err *err)
{
    (void)spawner;
    if (hand_refuse) {
        return cs_err_set(err, CS_UNAVAILABLE, "codex_unavailable", "no children today");
    }
    struct cs_process *process = calloc(1, sizeof(*process));
    if (!process) {
        return cs_err_nomem(err);
    }
    process->events = spec->events;
    process->arg = spec->arg;
    cs_buf_init(&process->written, 64 * 1024 * 1024);
    pthread_mutex_lock(&hand_mutex);
    hand_last = process;
    hand_spawned++;
    pthread_mutex_unlock(&hand_mutex);
    if (hand_born) {
        hand_born(process);
        hand_born = NULL;
    }
    *out_process = process;
    return CS_OK;
}

enum cs_status cs_process_write(struct cs_process *process, const void *data, size_t len,
                                struct cs_err *err)
{
    pthread_mutex_lock(&hand_mutex);
    enum cs_status status = CS_OK;
    if (process->ended || process->stopped || process->deaf) {
        status = cs_err_set(err, CS_UNAVAILABLE, "codex_unavailable", "the child is gone");
    } else {
        cs_buf_add(&process->written, data, len);
        status = cs_buf_check(&process->written, err);
    }
    pthread_mutex_unlock(&hand_mutex);
    return status;
}

void cs_process_close_stdin(struct cs_process *process)
{
    (void)process;
}

pid_t cs_process_pid(const struct cs_process *process)
{
    (void)process;
    return 0;
}

void cs_process_stop(struct cs_process *process, bool interrupt, bool skip_stdin)
{
    (void)interrupt;
    (void)skip_stdin;
    pthread_mutex_lock(&hand_mutex);
    process->stopped = true;
    pthread_mutex_unlock(&hand_mutex);
}

void cs_process_end_by(struct cs_process *process, int64_t kill_at)
{
    (void)kill_at;
    cs_process_stop(process, false, false);
}

bool cs_process_wait(struct cs_process *process, int64_t deadline)
{
    (void)process;
    (void)deadline;
    return true;
}

/** End the child: its last call. */
static inline void hand_end(struct cs_process *process, int wait_status, bool too_long,
                            const char *errors)
{
    pthread_mutex_lock(&hand_mutex);
    bool first = !process->ended;
    process->ended = true;
    pthread_mutex_unlock(&hand_mutex);
    if (first) {
        process->events.on_exit(process->arg, wait_status, too_long, errors);
    }
}

void cs_process_free(struct cs_process *process)
{
    if (!process) {
        return;
    }
    hand_end(process, 0, false, "");
    pthread_mutex_lock(&hand_mutex);
    if (hand_last == process) {
        hand_last = NULL;
    }
    pthread_mutex_unlock(&hand_mutex);
    cs_buf_fini(&process->written);
    free(process);
}

void cs_process_abandon(struct cs_process *process)
{
    cs_process_free(process);
}

void cs_process_describe(int wait_status, char *out, size_t cap)
{
    snprintf(out, cap, "ended with %d", wait_status);
}

/** The @nth child (from 1), which must be the newest, once it was sent @words; waits up to 10 s. */
static inline struct cs_process *hand_await(int nth, const char *words)
{
    for (int i = 0; i < 100000; i++) {
        pthread_mutex_lock(&hand_mutex);
        struct cs_process *process = hand_spawned == nth ? hand_last : NULL;
        bool there = process && process->written.data && strstr(process->written.data, words);
        pthread_mutex_unlock(&hand_mutex);
        if (there) {
            return process;
        }
        usleep(100);
    }
    return NULL;
}

/** The newest child if it has not ended, else NULL. It stays until the caller ends it. */
static inline struct cs_process *hand_live(void)
{
    pthread_mutex_lock(&hand_mutex);
    struct cs_process *process = hand_last && !hand_last->ended ? hand_last : NULL;
    pthread_mutex_unlock(&hand_mutex);
    return process;
}

/** Feed a line to the child's reader. */
static inline void hand_line(struct cs_process *process, const char *text, size_t len)
{
    char *line = malloc(len + 1);
    if (!line) { /* a failure that the test asked for, but not here */
        line = malloc(len + 1);
    }
    if (line) {
        memcpy(line, text, len);
        line[len] = '\0';
        process->events.on_line(process->arg, line, len);
        free(line);
    }
}

static inline void hand_say(struct cs_process *process, const char *text)
{
    hand_line(process, text, strlen(text));
}

/** What was written since the last call, whole lines; for free(), or NULL if there is nothing. */
static inline char *hand_take(struct cs_process *process)
{
    char *text = NULL;
    pthread_mutex_lock(&hand_mutex);
    if (process->written.len > process->taken) {
        text = strdup(process->written.data + process->taken);
        process->taken = process->written.len;
    }
    pthread_mutex_unlock(&hand_mutex);
    return text;
}

#endif
