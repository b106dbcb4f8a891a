/* engine/engine: one interface to Codex, over whichever way in the installed version has.
 *
 * Layer: engine. Wire facts: the comments in src/engine/{app_server,mcp,exec}.c. An engine may be
 * used by any number of threads; a turn by one thread, except cs_engine_turn_cancel(), which any
 * thread may call while the turn has not been freed.
 *
 * A turn is pulled: its owner calls cs_engine_turn_next() until CS_EVENT_DONE. Events are queued
 * per turn under a byte cap; when the owner is slow, deltas are dropped first (the full text comes
 * in CS_EVENT_MESSAGE).
 */
#ifndef CS_ENGINE_ENGINE_H
#define CS_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/buf.h"
#include "cs/base/err.h"

enum cs_engine_kind {
    CS_ENGINE_AUTO, /* the best that the installed version has */
    CS_ENGINE_APP_SERVER,
    CS_ENGINE_MCP,
    CS_ENGINE_EXEC,
};
/** "auto", "app-server", "mcp", "exec". */
const char *cs_engine_kind_name(enum cs_engine_kind kind);
/** CS_INVALID, code "invalid_engine", for any other word. */
CS_MUST_USE enum cs_status cs_engine_kind_parse(const char *word, enum cs_engine_kind *out_kind,
                                                struct cs_err *err);

struct cs_engine;

struct cs_engine_options {
    const char *codex; /* path, or NULL: `codex` in PATH; the native binary behind an npm launcher
                          is found */
    enum cs_engine_kind kind; /* used where a turn asks for CS_ENGINE_AUTO */
    const char *instance; /* id of this daemon's data folder: marks the children's environment */
    const char *api_key;  /* OPENAI_API_KEY for Codex, or NULL */
    int64_t max_line;     /* bytes; longer lines from Codex fail the turn */
    const char *version;  /* ours, for clientInfo */
};

/** What was found, for doctor, /health and metadata. Strings live as long as the engine. */
struct cs_engine_info {
    bool usable;              /* some driver can run */
    const char *path;         /* native binary, or "" */
    const char *version;      /* "0.169.0", or "" */
    enum cs_engine_kind kind; /* what CS_ENGINE_AUTO stands for */
    unsigned kinds;           /* bit 1 << kind for each available driver */
    const char *why;          /* a sentence: why this kind, or what is wrong and how to mend it */
};

/**
 * Find Codex and start the spawner thread (the only thread that forks: PR_SET_PDEATHSIG follows the
 * thread). Sets PR_SET_CHILD_SUBREAPER, and kills survivors of an earlier daemon with the same
 * @instance. Succeeds also when no Codex is usable: cs_engine_info() says why, and turns fail with
 * CS_UNAVAILABLE, code "codex_unavailable". Spawns no app-server yet: that happens at the first
 * turn.
 */
CS_MUST_USE enum cs_status cs_engine_new(const struct cs_engine_options *options,
                                         struct cs_engine **out_engine, struct cs_err *err);
/** Stop every child (the stop ladder, at most @deadline) and free. All turns must have been freed.
 */
void cs_engine_free(struct cs_engine *engine, int64_t deadline);
void cs_engine_info(struct cs_engine *engine, struct cs_engine_info *out_info);
/** Look for Codex again (it was installed or upgraded); running children stay. */
void cs_engine_refresh(struct cs_engine *engine);
/** Children alive and app-server restarts since the start, for /health. */
void cs_engine_figures(struct cs_engine *engine, int64_t *out_children, int64_t *out_restarts);

enum cs_role { CS_ROLE_USER, CS_ROLE_ASSISTANT };
struct cs_engine_item {
    enum cs_role role;
    const char *text; /* UTF-8 */
    size_t len;
};

/** Supplies the transcript when the thread must be rebuilt; called at most once per turn, on the
 * turn's thread. The items stay valid until the turn is freed. */
typedef enum cs_status (*cs_engine_history)(void *arg, const struct cs_engine_item **out_items,
                                            size_t *out_count, struct cs_err *err);

/** A turn to run. Everything is borrowed until cs_engine_turn_free(). */
struct cs_engine_request {
    enum cs_engine_kind kind;
    const char *prompt; /* UTF-8, at most 1,048,576 characters */
    size_t prompt_len;
    const char *context; /* sent before the prompt, in the same turn; or NULL */
    size_t context_len;
    const char *cwd;     /* absolute, exists */
    const char *sandbox; /* read-only, workspace-write, danger-full-access */
    const char *model;   /* NULL: Codex's own default */
    const char
        *thread_id; /* Codex thread to go on with; NULL for a new one (with the history, if any) */
    const char *orphan_turn;   /* Codex turn id on that thread that did not complete: its prompt and
                                  what follows   must be reverted first; or NULL */
    cs_engine_history history; /* NULL for a conversation without a past */
    void *history_arg;
    int64_t preamble_bytes; /* budget where history can only go into the prompt */
    int64_t total_input, total_cached,
        total_output; /* thread totals so far, -1 unknown (exec reports totals) */
    bool approvals;   /* Codex may ask (policy on-request); else it is told never to, and whatever
                         it asks all the same is declined. exec cannot ask: CS_INVALID, code
                         "approvals_unavailable" */
};

enum cs_event_type {
    CS_EVENT_THREAD, /* text: thread id; how it was reached in `detail`: "new", "loaded", "resumed",
                        "reverted", "injected", "preamble" */
    CS_EVENT_STARTED,  /* text: Codex's turn id ("" where it has none); detail: the model that runs,
                          "" unknown */
    CS_EVENT_DELTA,    /* text: a piece of the answer */
    CS_EVENT_ITEM,     /* text: an item as JSON; detail: its type as Codex names it
                          (commandExecution, fileChange, reasoning, …) */
    CS_EVENT_USAGE,    /* usage (of this turn) and totals */
    CS_EVENT_MESSAGE,  /* text: a complete agent message; the last one is the answer */
    CS_EVENT_APPROVAL, /* Codex asks and waits for cs_engine_turn_answer(); only with request
                          `approvals`. detail: "ID KIND", KIND command, patch or permission; text:
                          what it asks, as JSON */
    CS_EVENT_DONE,     /* the last event: status and, unless CS_OK, error */
};

struct cs_engine_event {
    enum cs_event_type type;
    const char *text; /* UTF-8, NUL-terminated; valid until the next call on this turn */
    size_t len;
    const char *detail;                  /* likewise; never NULL */
    int64_t input, cached_input, output; /* CS_EVENT_USAGE: of this turn; -1 unknown */
    int64_t total_input, total_cached_input,
        total_output; /* CS_EVENT_USAGE: of the thread; -1 unknown */
    /* NULL but for CS_EVENT_DONE, valid as long as the text: status CS_OK, or CS_UPSTREAM (codes
     * "codex_error", "model_not_found", "codex_auth", "codex_rate_limited",
     * "context_window_exceeded", "codex_died", "reply_too_large", "codex_protocol"), CS_UNAVAILABLE
     * "codex_unavailable", CS_CANCELLED "turn_cancelled", CS_NO_MEM */
    const struct cs_err *error;
};

struct cs_engine_turn;

/** Begin: cheap and without waiting for Codex; what can go wrong with Codex comes as CS_EVENT_DONE.
 * CS_INVALID, code "engine_unavailable", when the kind asked for is not there. */
CS_MUST_USE enum cs_status cs_engine_turn_start(struct cs_engine *engine,
                                                const struct cs_engine_request *request,
                                                struct cs_engine_turn **out_turn,
                                                struct cs_err *err);

/** The next event, waiting at most until @deadline (cs_mono_ms()): CS_TIMEOUT then, and the turn
 * goes on. Any other status than CS_OK and CS_TIMEOUT is a bug. */
CS_MUST_USE enum cs_status cs_engine_turn_next(struct cs_engine_turn *turn, int64_t deadline,
                                               struct cs_engine_event *out_event,
                                               struct cs_err *err);

/** Ask Codex to stop. CS_EVENT_DONE follows within about 3 s (with CS_CANCELLED, unless it was done
 * before): if Codex does not obey, the turn is given up (exec: the process goes down the stop
 * ladder). Idempotent. */
void cs_engine_turn_cancel(struct cs_engine_turn *turn);

/** Answer a CS_EVENT_APPROVAL by its id: let Codex do it, or decline. Any thread, while the turn
 * has not been freed. CS_NOT_FOUND, code "approval_not_found", for one that is not open (any more).
 */
CS_MUST_USE enum cs_status cs_engine_turn_answer(struct cs_engine_turn *turn, const char *id,
                                                 bool approve, struct cs_err *err);

/** Free; a turn that is not done is cancelled first and detached, without waiting. NULL is a no-op.
 */
void cs_engine_turn_free(struct cs_engine_turn *turn);

#endif
