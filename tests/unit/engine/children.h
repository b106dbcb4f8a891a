/* What the engine's tests share: children made of shell text, and a record of what they said. */
#ifndef CHILDREN_H
#define CHILDREN_H

#include <dirent.h>
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
#include <unistd.h>

#include <cmocka.h>

#include "cs/base/clock.h"
#include "cs/base/thread.h"
#include "process.h"

/** What a child said: lines joined by '\n'. */
struct record {
    pthread_mutex_t mutex;
    pthread_cond_t change;
    struct cs_buf text;
    size_t lines, bytes;
    bool exited, too_long;
    int wait_status;
    char errors[8192];
};

static inline void record_init(struct record *record)
{
    memset(record, 0, sizeof *record);
    pthread_mutex_init(&record->mutex, NULL);
    assert_int_equal(cs_cond_init(&record->change, NULL), CS_OK);
    cs_buf_init(&record->text, 64 * 1024 * 1024);
}

static inline void record_fini(struct record *record)
{
    cs_buf_fini(&record->text);
    pthread_cond_destroy(&record->change);
    pthread_mutex_destroy(&record->mutex);
}

static inline void record_line(void *arg, char *line, size_t len)
{
    struct record *record = arg;

    pthread_mutex_lock(&record->mutex);
    cs_buf_add(&record->text, line, len);
    cs_buf_addc(&record->text, '\n');
    record->lines++;
    record->bytes += len;
    pthread_cond_broadcast(&record->change);
    pthread_mutex_unlock(&record->mutex);
}

static inline void record_exit(void *arg, int wait_status, bool too_long, const char *errors)
{
    struct record *record = arg;

    pthread_mutex_lock(&record->mutex);
    record->exited = true;
    record->wait_status = wait_status;
    record->too_long = too_long;
    snprintf(record->errors, sizeof record->errors, "%s", errors);
    pthread_cond_broadcast(&record->change);
    pthread_mutex_unlock(&record->mutex);
}

/** How many entries a folder of /proc has: descriptors, threads. */
static inline int count_entries(const char *path)
{
    DIR *dir = opendir(path);
    int count = 0;

    assert_non_null(dir);
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

/** The same once the threads of ours are at rest: a sweep has descriptors of its own for a moment.
 */
static inline int settled_entries(const char *path)
{
    int least = count_entries(path);

    for (int i = 0; i < 50; i++) {
        int count = count_entries(path);

        least = count < least ? count : least;
        usleep(10000);
    }
    return least;
}

/** Wait until the child has said @count lines. */
static inline void await_lines(struct record *record, size_t count)
{
    int64_t deadline = cs_mono_ms() + 20000;

    pthread_mutex_lock(&record->mutex);
    while (record->lines < count && cs_cond_wait(&record->change, &record->mutex, deadline))
        ;
    pthread_mutex_unlock(&record->mutex);
    assert_true(record->lines >= count);
}

static inline struct cs_spawner *new_spawner(const char *instance)
{
    struct cs_spawner *spawner = NULL;

    assert_int_equal(cs_spawner_new(instance, &spawner, NULL), CS_OK);
    return spawner;
}

static inline void end_spawner(struct cs_spawner *spawner)
{
    cs_spawner_free(spawner, cs_mono_ms() + 5000);
}

/** Start `sh -c @script`, recorded. */
static inline struct cs_process *run_shell(struct cs_spawner *spawner, const char *script,
                                           struct record *record, int64_t max_line)
{
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    struct cs_process_spec spec = {
        .argv = argv,
        .max_line = max_line,
        .events = {.on_line = record_line, .on_exit = record_exit},
        .arg = record,
    };
    struct cs_process *process = NULL;

    record_init(record);
    assert_int_equal(cs_process_spawn(spawner, &spec, &process, NULL), CS_OK);
    return process;
}

static inline void await_exit(struct cs_process *process)
{
    assert_true(cs_process_wait(process, cs_mono_ms() + 20000));
}

/** Whether @pid runs (a zombie does not). */
static inline bool runs(pid_t pid)
{
    char path[64], text[512] = "";
    FILE *file;
    const char *state;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    file = fopen(path, "r");
    if (file == NULL)
        return false;
    if (fgets(text, sizeof text, file) == NULL)
        text[0] = '\0';
    fclose(file);
    state = strrchr(text, ')');
    return state != NULL && state[2] != 'Z' && state[2] != 'X';
}

/** Whether @pid has ended within @ms. */
static inline bool ends_within(pid_t pid, int64_t ms)
{
    int64_t deadline = cs_mono_ms() + ms;

    while (runs(pid) && cs_mono_ms() < deadline)
        usleep(5000);
    return !runs(pid);
}

/** The number in line @index of what was recorded. */
static inline pid_t recorded_pid(struct record *record, size_t index)
{
    const char *at;
    pid_t pid;

    await_lines(record, index + 1);
    pthread_mutex_lock(&record->mutex);
    for (at = record->text.data; index > 0; index--)
        at = strchr(at, '\n') + 1;
    pid = (pid_t)strtol(at, NULL, 10);
    pthread_mutex_unlock(&record->mutex);
    assert_true(pid > 1);
    return pid;
}

#endif
