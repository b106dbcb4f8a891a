/* engine/process: children: spawning, lines in and out, stopping, sweeping.
 *
 * Layer: engine, private. One spawner thread per engine (spawner.c) starts every child, because
 * PR_SET_PDEATHSIG follows the creating thread; it also reaps the orphans that we adopt and sweeps
 * what ended children leave behind (sweep.c). Each child has one thread of ours (process.c) that
 * reads its output, writes its input, walks its stop ladder and reaps it. Children get: their own
 * process group, PR_SET_PDEATHSIG SIGTERM, an allow-listed environment plus
 * CODEX_SESSIOND_INSTANCE=<instance> and CODEX_SESSIOND_CHILD=<daemon>-<number>, no inherited fds
 * but 0-2, default signal dispositions and mask.
 *
 * Lock order: spawner, then process.
 */
#ifndef CS_ENGINE_PROCESS_H
#define CS_ENGINE_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cs/base/buf.h"
#include "cs/base/err.h"

struct cs_spawner;
struct cs_process;

/** Starts the spawner thread, makes this process a subreaper, and sweeps survivors: processes that
 * carry @instance in their environment and whose daemon is dead. One at a time in a process: what
 * no child of this spawner accounts for is taken for its orphan. Ignores SIGPIPE, and gives SIGCHLD
 * its default disposition if it was ignored. */
CS_MUST_USE enum cs_status cs_spawner_new(const char *instance, struct cs_spawner **out_spawner,
                                          struct cs_err *err);
/** Stops every process with the ladder's end by @deadline, then the thread. Every process must have
 * been freed or abandoned, or be freed after this. NULL is a no-op. */
void cs_spawner_free(struct cs_spawner *spawner, int64_t deadline);
int64_t cs_spawner_children(struct cs_spawner *spawner);

/** What a process tells its owner; called on the process's reader thread, never concurrently for
 * one process. */
struct cs_process_events {
    /** A line of stdout without its newline; NUL-terminated, writable, valid during the call. */
    void (*on_line)(void *arg, char *line, size_t len);
    /** The last call: the process was reaped and what it had written was read. @errors is the tail
     * of its stderr (4 KB at most), without escapes and control characters, valid UTF-8, during the
     * call. */
    void (*on_exit)(void *arg, int wait_status, bool line_too_long, const char *errors);
};

struct cs_process_spec {
    const char *const *argv; /* argv[0] is the path; ends with NULL */
    const char *const *env;  /* further NAME=VALUE; ends with NULL; NULL for none */
    const char *cwd;         /* or NULL: "/" */
    int64_t max_line;        /* a longer line ends the process */
    struct cs_process_events events;
    void *arg;
};

/** Start. The events come from a reader thread of the process, the first perhaps before this
 * returns. Everything in @spec is borrowed for the call. Free with cs_process_free() or
 * cs_process_abandon(). CS_UNAVAILABLE, code "codex_unavailable", when the program cannot be
 * started. */
CS_MUST_USE enum cs_status cs_process_spawn(struct cs_spawner *spawner,
                                            const struct cs_process_spec *spec,
                                            struct cs_process **out_process, struct cs_err *err);

/** Queue bytes for stdin and return at once (a per-process writer drains it; cap 64 MiB: CS_BUSY).
 * Any thread. CS_UNAVAILABLE when stdin is closed or the process is gone. Bytes of one call stay
 * together. */
CS_MUST_USE enum cs_status cs_process_write(struct cs_process *process, const void *data,
                                            size_t len, struct cs_err *err);
/** Close stdin once the queue is drained. */
void cs_process_close_stdin(struct cs_process *process);

pid_t cs_process_pid(const struct cs_process *process);

/** Walk the stop ladder in the background from the rung that fits: @interrupt sends SIGINT first
 * (exec); then close stdin → 2 s → SIGTERM → 2 s → SIGKILL + sweep of descendants. @skip_stdin goes
 * straight to SIGTERM (MCP). Idempotent. */
void cs_process_stop(struct cs_process *process, bool interrupt, bool skip_stdin);

/** Stop at once (SIGTERM), with SIGKILL at @kill_at (mono ms) at the latest. */
void cs_process_end_by(struct cs_process *process, int64_t kill_at);

/** Wait until on_exit has returned. False when @deadline passed. Not on the reader thread. */
bool cs_process_wait(struct cs_process *process, int64_t deadline);

/** Free after on_exit has returned (waits for it: stop it first). NULL is a no-op. Not on the
 * reader thread. */
void cs_process_free(struct cs_process *process);

/** Stop the process and let it free itself after on_exit has returned. Waits for nothing; any
 * thread, also in a callback. The events go on until then. NULL is a no-op. */
void cs_process_abandon(struct cs_process *process);

/** "exited with status 1" or "was killed by signal 9". */
void cs_process_describe(int wait_status, char *out, size_t cap);

#endif
