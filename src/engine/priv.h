/* engine/priv: what the engine's files share.
 *
 * Layer: engine, private.
 *
 * A turn's owner pulls events with cs_engine_turn_next(); a driver's reader thread pushes what
 * Codex said into the turn's inbox (event.c). The driver's state machine (which rung of the
 * recovery ladder the turn is on) runs in driver->step(), on the owner's thread only: reader
 * threads parse, route and push, and decide nothing.
 */
#ifndef CS_ENGINE_PRIV_H
#define CS_ENGINE_PRIV_H

#include <pthread.h>

#include "cs/base/buf.h"
#include "cs/base/json.h"
#include "cs/engine/engine.h"
#include "process.h"

/** What detection found. */
struct cs_codex {
    char path[4096];  /* native binary, "" if none */
    char version[32]; /* "0.169.0" */
    unsigned kinds;   /* 1 << enum cs_engine_kind */
    enum cs_engine_kind best;
    const char *mcp_subcommand; /* "mcp-server" or "mcp"; NULL without MCP */
    char why[512];
};
/** Resolve, --version, --help; a few bounded child processes. Never fails: an unusable result says
 * why. */
void cs_codex_detect(struct cs_spawner *spawner, const char *path_or_null,
                     enum cs_engine_kind wanted, struct cs_codex *out);

/** One way to drive Codex. A driver object lives as long as the engine and owns its long-lived
 * child, if it has one. */
struct cs_driver;
struct cs_message_in;
struct cs_driver_ops {
    enum cs_engine_kind kind;
    /** Make the driver; starts nothing yet. */
    enum cs_status (*create)(struct cs_engine *engine, struct cs_driver **out_driver,
                             struct cs_err *err);
    void (*destroy)(struct cs_driver *driver, int64_t deadline);
    /** Called on the owner's thread: at first with message NULL to begin, then with each message
     * that the reader thread put in the inbox. Emits events for the owner with cs_turn_emit*().
     * Must not block. */
    void (*step)(struct cs_driver *driver, struct cs_engine_turn *turn,
                 struct cs_message_in *message);
    /** Ask Codex to stop the turn. On the owner's thread, at most once, after the first step(); a
     * turn whose owner frees it before its end is cancelled too. Must not block. */
    void (*cancel)(struct cs_driver *driver, struct cs_engine_turn *turn);
    /** Answer an open CS_EVENT_APPROVAL. Any thread; must not block. CS_NOT_FOUND when it is not
     * open. NULL: this driver's Codex cannot ask. */
    enum cs_status (*answer)(struct cs_driver *driver, struct cs_engine_turn *turn, const char *id,
                             bool approve, struct cs_err *err);
    /** The turn is being freed (on the owner's thread): forget every pointer to it. */
    void (*detach)(struct cs_driver *driver, struct cs_engine_turn *turn);
};
extern const struct cs_driver_ops cs_app_server_ops; /* app_server.c */
extern const struct cs_driver_ops cs_mcp_ops;        /* mcp.c */
extern const struct cs_driver_ops cs_exec_ops;       /* exec.c */

struct cs_engine {
    struct cs_engine_options options; /* its strings live in `strings` */
    char *strings;                    /* owned */
    struct cs_spawner *spawner;
    pthread_mutex_t mutex; /* guards codex and drivers[] */
    struct cs_codex codex;
    struct cs_engine_found
        *found; /* every different outcome of detection: cs_engine_info() lends their strings */
    struct cs_driver *drivers[4]; /* by kind; NULL until first used */
    int64_t restarts;             /* atomic: children that died and were replaced */
};

/** A message from a reader thread to a turn: what kind is the driver's business. */
struct cs_message_in {
    struct cs_message_in *next;
    int kind;             /* driver's own enum */
    struct cs_json *json; /* the parsed line, owned; or NULL */
    char *text;           /* owned; or NULL */
    size_t cost;          /* bytes counted against the inbox */
};

struct cs_engine_turn {
    struct cs_engine *engine;
    const struct cs_driver_ops *ops;
    struct cs_driver *driver;
    struct cs_engine_request request; /* borrowed strings */
    void *state;                      /* driver's own per-turn state; freed by ops->detach */

    pthread_mutex_t mutex; /* guards the inbox and the flags below */
    pthread_cond_t wake;
    struct cs_message_in *head, **tail;
    size_t inbox_bytes;
    bool cancelled;
    bool cancel_sent;        /* ops->cancel was called, or is about to be */
    bool no_mem;             /* a message that must not be dropped was lost */
    bool flooded;            /* such messages filled 256 MiB: the turn fails */
    int64_t cancel_deadline; /* mono ms: after it the turn is given up; CS_NEVER before a cancel */

    /* owner's thread only */
    struct cs_out_event *out_head, **out_tail; /* events ready for the owner */
    struct cs_out_event *current; /* returned by the last next(); freed by the following one */
    bool begun, done;
    bool out_of_memory;      /* the owner gets CS_EVENT_DONE with CS_NO_MEM after what is queued */
    const char *unavailable; /* with ops NULL: why there is no engine */
};

/* event.c */

/** Set up the queues of a zeroed turn; free what they hold. */
CS_MUST_USE enum cs_status cs_turn_init(struct cs_engine_turn *turn, struct cs_err *err);
void cs_turn_fini(struct cs_engine_turn *turn);

/* Reader threads: */

/** Put a message in the turn's inbox and wake its owner. Takes @json and @text in every case. A
 * message with @droppable is dropped when the inbox is over its cap (8 MiB); others are always kept
 * (the line cap bounds each). */
void cs_turn_push(struct cs_engine_turn *turn, int kind, struct cs_json *json, char *text,
                  size_t cost, bool droppable);

/* Owner's thread, from step(): */

void cs_turn_emit(struct cs_engine_turn *turn, enum cs_event_type type, const char *text,
                  size_t len, const char *detail);
/** Usage of this turn and totals of the thread; -1 unknown. */
void cs_turn_emit_usage(struct cs_engine_turn *turn, const int64_t this_turn[3],
                        const int64_t totals[3]);
/** The end: CS_OK, or an error with its code and sentence. Later emits are ignored. */
void cs_turn_emit_done(struct cs_engine_turn *turn, enum cs_status status, const char *code,
                       const char *sentence);

/** Compose "context, transcript, prompt" for engines that cannot inject: the newest items of @items
 * that fit @budget bytes, never fewer than the last 5, each labelled with its role; then @prompt.
 */
void cs_preamble(const struct cs_engine_item *items, size_t count, int64_t budget,
                 const struct cs_engine_request *request, struct cs_buf *out);

/** Classify what Codex said of a failed turn: "model_not_found", "codex_auth",
 * "codex_rate_limited", "context_window_exceeded" or "codex_error". @info is codexErrorInfo or
 * NULL. */
const char *cs_codex_error_code(const struct cs_json *info, const char *message);

#endif
