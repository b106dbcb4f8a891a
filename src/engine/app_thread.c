#include "app_thread.h"

#include <stdlib.h>
#include <string.h>

static struct cs_app_thread **bucket(struct cs_app_threads *threads, const char *id)
{
    return &threads->buckets[cs_codex_hash(id) & (CS_APP_THREAD_BUCKETS - 1)];
}

struct cs_app_thread *cs_app_thread_find(struct cs_app_threads *threads, const char *id)
{
    if (!id) {
        return NULL;
    }
    struct cs_app_thread *thread = *bucket(threads, id);
    while (thread && strcmp(thread->id, id) != 0) {
        thread = thread->chain;
    }
    return thread;
}

struct cs_app_thread *cs_app_thread_add(struct cs_app_threads *threads, const char *id)
{
    struct cs_app_thread *thread = cs_app_thread_find(threads, id);
    if (thread || !id || !*id || strlen(id) >= CS_CODEX_ID_MAX) {
        return thread;
    }
    thread = calloc(1, sizeof(*thread));
    if (!thread) {
        return NULL;
    }
    cs_codex_id(thread->id, id);
    thread->totals[0] = thread->totals[1] = thread->totals[2] = -1;
    struct cs_app_thread **at = bucket(threads, id);
    thread->chain = *at;
    *at = thread;
    return thread;
}

static void idle_remove(struct cs_app_threads *threads, struct cs_app_thread *thread)
{
    if (!thread->idle) {
        return;
    }
    *(thread->newer ? &thread->newer->older : &threads->newest) = thread->older;
    *(thread->older ? &thread->older->newer : &threads->oldest) = thread->newer;
    thread->newer = thread->older = NULL;
    thread->idle = false;
    threads->idle_count--;
}

static void dispose(struct cs_app_thread *thread)
{
    if (thread->claim) {
        thread->claim->thread = NULL;
    }
    free(thread->model);
    free(thread->policy);
    free(thread);
}

void cs_app_thread_free(struct cs_app_threads *threads, struct cs_app_thread *thread)
{
    idle_remove(threads, thread);
    struct cs_app_thread **at = bucket(threads, thread->id);
    while (*at != thread) {
        at = &(*at)->chain;
    }
    *at = thread->chain;
    dispose(thread);
}

void cs_app_threads_clear(struct cs_app_threads *threads)
{
    for (size_t i = 0; i < CS_APP_THREAD_BUCKETS; i++) {
        struct cs_app_thread *thread = threads->buckets[i];
        while (thread) {
            struct cs_app_thread *next = thread->chain;
            dispose(thread);
            thread = next;
        }
    }
    memset(threads, 0, sizeof(*threads));
}

void cs_app_thread_claim(struct cs_app_threads *threads, struct cs_app_claim *claim,
                         struct cs_app_thread *thread)
{
    idle_remove(threads, thread);
    thread->claim = claim;
    claim->thread = thread;
}

struct cs_app_thread *cs_app_thread_rest(struct cs_app_threads *threads,
                                         struct cs_app_thread *thread)
{
    if (thread->claim || thread->busy || thread->idle) {
        return NULL;
    }
    thread->idle = true;
    thread->older = threads->newest;
    *(threads->newest ? &threads->newest->newer : &threads->oldest) = thread;
    threads->newest = thread;
    return ++threads->idle_count > CS_APP_THREADS_IDLE ? threads->oldest : NULL;
}
