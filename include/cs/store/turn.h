/* store/turn: the rows of table `turn`: a prompt's way through Codex.
 *
 * Layer: store. W: needs the writer's cs_db.
 */
#ifndef CS_STORE_TURN_H
#define CS_STORE_TURN_H

#include <stdbool.h>
#include <stdint.h>

#include "cs/store/store.h"

enum cs_turn_status {
    CS_TURN_RUNNING,
    CS_TURN_COMPLETED,
    CS_TURN_FAILED,      /* Codex or the time-out said no */
    CS_TURN_INTERRUPTED, /* the daemon stopped or died meanwhile */
    CS_TURN_CANCELLED,   /* on request */
};
/** "running", "completed", … */
const char *cs_turn_status_name(enum cs_turn_status status);

/** Tokens; -1 where unknown. */
struct cs_usage {
    int64_t input, cached_input, output;
};

struct cs_turn_row {
    int64_t id;
    char tid[CS_UUID_MAX]; /* turn id */
    int64_t session;       /* rowid */
    bool continued;        /* false for the turn that created the session */
    enum cs_turn_status status;
    int64_t started_at, ended_at; /* wall ms; ended_at 0 while running */
    int64_t duration_ms;
    int64_t timeout_ms;
    char *model;            /* asked for; at the end: what ran */
    bool model_fallback;    /* Codex did not know the default model and its own one ran */
    char *sandbox;          /* of this turn */
    char *engine;           /* driver that ran it: app-server, mcp, exec; "" before that is known */
    char *engine_version;   /* never NULL */
    char *thread_id;        /* Codex's id of the thread; "" if none was begun */
    char *engine_turn_id;   /* Codex's id of the turn; "" if unknown */
    struct cs_usage usage;  /* of this turn */
    struct cs_usage total;  /* of the thread after it, where the engine reports totals; else -1 */
    int64_t prompt_message; /* rowid */
    int64_t answer_message; /* rowid of the answer or the outcome; 0 while running */
    char *error_code;       /* stable name; "" unless it did not complete */
    char *error;            /* sentence; "" likewise */
    char *evicted; /* JSON array of the session ids that its creation put out; "[]" usually */
    bool stale;    /* the conversation could not be compared with Redis before it */
};
void cs_turn_row_fini(struct cs_turn_row *turn);

/** W. Insert a running turn: tid, session, continued, started_at, timeout_ms, model, sandbox,
 * prompt_message, evicted and stale are taken, id is set. */
CS_MUST_USE enum cs_status cs_turn_insert(struct cs_db *db, struct cs_turn_row *turn,
                                          struct cs_err *err);

/** W. End the running turn turn->id: writes every field but the inserted ones (model is rewritten).
 * CS_CONFLICT if it is not running. Counts it in the tally. */
CS_MUST_USE enum cs_status cs_turn_finish(struct cs_db *db, const struct cs_turn_row *turn,
                                          struct cs_err *err);

/** Read by turn id. CS_NOT_FOUND, code "turn_not_found". */
CS_MUST_USE enum cs_status cs_turn_find(struct cs_db *db, const char *tid,
                                        struct cs_turn_row *out_turn, struct cs_err *err);
CS_MUST_USE enum cs_status cs_turn_get(struct cs_db *db, int64_t id, struct cs_turn_row *out_turn,
                                       struct cs_err *err);

/** The turn of @session begun last on this host; CS_NOT_FOUND when it has none here. */
CS_MUST_USE enum cs_status cs_turn_last(struct cs_db *db, int64_t session,
                                        struct cs_turn_row *out_turn, struct cs_err *err);

/** Turns of this host begun before the one with id @before (0: all), newest first: *out_turns has
 * room for @max; the caller frees each with cs_turn_row_fini(). */
CS_MUST_USE enum cs_status cs_turn_list(struct cs_db *db, int64_t before,
                                        struct cs_turn_row *out_turns, size_t max,
                                        size_t *out_count, struct cs_err *err);

struct cs_turn_figures {
    int64_t running, completed, failed, interrupted, cancelled;
    struct cs_usage usage; /* of all turns that ended */
};
/** From the tally table. */
CS_MUST_USE enum cs_status cs_turn_figures(struct cs_db *db, struct cs_turn_figures *out,
                                           struct cs_err *err);

#endif
