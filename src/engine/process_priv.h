/* engine/process_priv: what process.c, spawner.c and sweep.c share.
 *
 * Layer: engine, private.
 */
#ifndef CS_ENGINE_PROCESS_PRIV_H
#define CS_ENGINE_PROCESS_PRIV_H

#include <pthread.h>
#include <sys/types.h>

#include "complaint.h"
#include "process.h"

/** What ended children left behind: descendants are found by the marker in their environment, by
 * the process group of their leader, and as descendants of such. Owned by the spawner thread once
 * queued. */
struct cs_sweep {
    struct cs_sweep *next;
    int64_t number;  /* of the child that ended */
    pid_t leader;    /* its pid, which was also its process group */
    int64_t due;     /* mono ms: look again then */
    int64_t kill_at; /* mono ms: SIGKILL from then on; 0 before the first SIGTERM */
    int64_t pause;   /* ms until the next look */
    int rounds;      /* looks after the first SIGKILL */
};

struct cs_spawner {
    pthread_t thread;
    char *instance; /* owned */
    char *stack;    /* owned: of a child until its exec; spawner thread only */
    char
        daemon[96]; /* "<pid namespace>.<pid>.<start time>": who we are, in the children's marker */

    pthread_mutex_t mutex; /* guards all that follows */
    pthread_cond_t work;   /* for the spawner thread */
    pthread_cond_t change; /* a request was served, a reader ended */
    struct cs_spawn *requests, **requests_tail;
    struct cs_process *processes; /* started and not reaped */
    struct cs_sweep *sweeps;      /* handed over by readers; the spawner thread takes them */
    int64_t next_number;
    int64_t readers;  /* processes whose on_exit has not returned */
    int64_t close_by; /* mono ms: end of the spawner; CS_NEVER while open */
    bool quit;        /* the spawner thread must return now */
};

enum cs_rung { CS_RUNG_NONE, CS_RUNG_ASKED, CS_RUNG_TERM, CS_RUNG_KILL };

struct cs_process {
    struct cs_process *next, **link; /* in spawner->processes; under its mutex */
    struct cs_spawner *spawner;
    pthread_t thread; /* the owner's, for joining */
    int64_t number;
    pid_t pid;
    struct cs_sweep *sweep; /* made at the start, so that ending needs no memory */
    struct cs_process_events events;
    void *arg;
    size_t max_line;

    int wake, pidfd; /* eventfd: the reader must look at the state */

    /* reader thread only */
    int out, errors;     /* pipes; -1 closed */
    struct cs_buf lines; /* what came without a newline yet */
    size_t scanned;      /* bytes of it known to hold none */
    struct cs_buf tail;  /* end of stderr */
    struct cs_complaint complaint;
    bool too_long, reaped;
    int wait_status;

    pthread_mutex_t mutex; /* guards all that follows */
    pthread_cond_t ending;
    int in;              /* pipe; -1 closed */
    struct cs_buf queue; /* for stdin, from queue_head on */
    size_t queue_head;
    bool close_in; /* once the queue is empty */
    bool stop, interrupt, skip_stdin, abandoned, ended;
    enum cs_rung rung;
    int64_t rung_due; /* mono ms: climb then */
    int64_t kill_at;  /* mono ms: SIGKILL then at the latest */
};

/** A start, asked for by a caller and done by the spawner thread. */
struct cs_spawn {
    struct cs_spawn *next;
    struct cs_process *process;
    char *const *argv;
    char *const *env;
    const char *cwd;
    int in, out, errors; /* the child's ends */
    int failed;          /* errno, 0 when it runs */
    const char *doing;   /* what failed */
    bool done;
};

/* spawner.c */
/** Start the child of @spawn on the spawner thread and wait for the outcome. On success the process
 * is listed. */
CS_MUST_USE enum cs_status cs_spawner_run(struct cs_spawner *spawner, struct cs_spawn *spawn,
                                          struct cs_err *err);
/** The environment of a child: markers, then @extra, then the allowed part of ours. One block for
 * free(). */
char **cs_spawner_env(const struct cs_spawner *spawner, int64_t number, const char *const *extra);

/* sweep.c; spawner thread, or before it runs */
/** Name this process: pid namespace, pid and start time. */
void cs_sweep_self(char *out, size_t cap);
/** End what a dead daemon of this @instance left running; takes 3 s at most. */
void cs_sweep_survivors(const char *instance, const char *self);
/** One look; true when nothing is left. @live holds the pids of running children. */
bool cs_sweep_step(struct cs_sweep *sweep, const struct cs_spawner *spawner, const pid_t *live,
                   size_t live_count, int64_t close_by);
/** Reap adopted orphans that have ended, and no one else's children. */
void cs_sweep_reap(const pid_t *live, size_t live_count);

#endif
