/* engine/app_thread: what is known of the threads that an app-server has loaded.
 *
 * Layer: engine, private; used by the app-server driver alone, under its link's mutex.
 */
#ifndef CS_ENGINE_APP_THREAD_H
#define CS_ENGINE_APP_THREAD_H

#include "rpc.h"

#define CS_APP_THREAD_BUCKETS 1024 /* a power of two */
/** Loaded threads without a turn that are kept; each costs Codex about 1.3 MB, and loading it again
 * about 15 ms. */
#define CS_APP_THREADS_IDLE 128

struct cs_app_thread;

/** A turn of ours and the thread that it uses: NULL when it has none, or when its child is gone. */
struct cs_app_claim {
    struct cs_engine_turn *turn;
    struct cs_app_thread *thread;
};

struct cs_app_thread {
    struct cs_app_thread *chain;         /* in its bucket */
    struct cs_app_thread *newer, *older; /* among the idle ones */
    struct cs_app_claim *claim;          /* of the turn of ours that uses it, or NULL */
    bool idle;                           /* in the list of idle threads */
    bool busy;                           /* Codex runs a turn on it, or was just asked to */
    bool stop;                           /* interrupt that turn, now or when its id is known */
    bool sticky;                         /* another model than Codex's default was set on it */
    char running[CS_CODEX_ID_MAX];       /* id of the turn that runs, "" unknown */
    char orphan[CS_CODEX_ID_MAX]; /* the first turn since the last revert that did not complete, ""
                                     none */
    char *model;                  /* or NULL */
    char *policy;                 /* its sandbox policy as JSON, or NULL */
    int64_t totals[3];            /* input, cached, output tokens so far; -1 unknown */
    int64_t start_call;           /* id of the turn/start that made it busy */
    char id[CS_CODEX_ID_MAX];
};

struct cs_app_threads {
    struct cs_app_thread *buckets[CS_APP_THREAD_BUCKETS];
    struct cs_app_thread *newest, *oldest; /* idle */
    size_t idle_count;
};

/** NULL when @id is unknown or NULL. */
struct cs_app_thread *cs_app_thread_find(struct cs_app_threads *threads, const char *id);
/** The record of a loaded thread, made if it is new; NULL when out of memory or when the id is
 * none. */
struct cs_app_thread *cs_app_thread_add(struct cs_app_threads *threads, const char *id);
/** Forget the thread. */
void cs_app_thread_free(struct cs_app_threads *threads, struct cs_app_thread *thread);
/** Forget all. */
void cs_app_threads_clear(struct cs_app_threads *threads);

/** Let @claim's turn use @thread, which nobody else uses. */
void cs_app_thread_claim(struct cs_app_threads *threads, struct cs_app_claim *claim,
                         struct cs_app_thread *thread);
/** If nobody of ours uses the thread now, it is idle and stays loaded. Returns the thread that has
 * to go for it, to be unsubscribed and freed, or NULL. */
struct cs_app_thread *cs_app_thread_rest(struct cs_app_threads *threads,
                                         struct cs_app_thread *thread);

#endif
