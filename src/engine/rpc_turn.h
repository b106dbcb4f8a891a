/* engine/rpc_turn: what every turn over a link does alike, whichever protocol the child speaks.
 *
 * Layer: engine, private; shared by the app-server and the MCP driver.
 *
 * A driver's object begins with its struct cs_link, and its state per turn with a struct
 * cs_rpc_turn, so that the functions here serve as entries of its struct cs_driver_ops. What is its
 * own way of doing things, they ask of its struct cs_link_ops.
 */
#ifndef CS_ENGINE_RPC_TURN_H
#define CS_ENGINE_RPC_TURN_H

#include "rpc.h"

/** Bytes of a line to Codex at most. */
#define CS_RPC_LINE_MAX ((size_t)64 * 1024 * 1024)

/** The beginning of a driver's state per turn. The owner's thread alone uses it, but for node. */
struct cs_rpc_turn {
    struct cs_link_turn node; /* guarded by the link's mutex */
    bool prompted;            /* Codex may have seen the prompt */
    bool ended;               /* CS_EVENT_DONE was queued */
    bool retried, started, asked_history;
    const char *how; /* detail of CS_EVENT_THREAD */
    char turn_id[CS_CODEX_ID_MAX];
    char *model; /* that runs; or NULL */
    const struct cs_engine_item *items;
    size_t item_count;
    int64_t used[3], totals[3]; /* input, cached, output tokens; -1 unknown */
};

/* Entries of struct cs_driver_ops. */

void cs_rpc_step(struct cs_driver *driver, struct cs_engine_turn *turn,
                 struct cs_message_in *message);
void cs_rpc_cancel(struct cs_driver *driver, struct cs_engine_turn *turn);
void cs_rpc_detach(struct cs_driver *driver, struct cs_engine_turn *turn);
enum cs_status cs_rpc_answer(struct cs_driver *driver, struct cs_engine_turn *turn, const char *id,
                             bool approve, struct cs_err *err); /* ask.c */

/** Make a driver of @size bytes, zeroed but for its link. */
CS_MUST_USE enum cs_status cs_rpc_driver_new(struct cs_engine *engine,
                                             const struct cs_link_ops *ops, size_t size,
                                             struct cs_driver **out_driver, struct cs_err *err);
/** Stop the driver's child, at most until @deadline if it obeys, and free it; an entry of struct
 * cs_driver_ops. All turns have left. */
void cs_rpc_driver_free(struct cs_driver *driver, int64_t deadline);

/* For the hooks; on the owner's thread, without the mutex. */

/** The turn ends: tell what it used, let go of its thread, and queue CS_EVENT_DONE. */
void cs_rpc_finish(struct cs_driver *driver, struct cs_engine_turn *turn, enum cs_status status,
                   const char *code, const char *sentence);
/** The turn ends because a call could not be sent: @status is not CS_OK. On CS_CONFLICT nothing is
 * done: why the child is gone is in the inbox. */
void cs_rpc_unsent(struct cs_driver *driver, struct cs_engine_turn *turn, enum cs_status status,
                   const struct cs_err *why);
/** The turn ends as Codex refused a call; @message may be NULL. */
void cs_rpc_refused(struct cs_driver *driver, struct cs_engine_turn *turn, const char *message);
/** Get our transcript into items, once; false when the turn has ended because there is none. */
bool cs_rpc_ask_history(struct cs_driver *driver, struct cs_engine_turn *turn);
/** Tell, once, that Codex's turn @turn_id has begun. */
void cs_rpc_started(struct cs_engine_turn *turn, const char *turn_id);
/** Queue an event whose text is @json. */
void cs_rpc_emit_json(struct cs_engine_turn *turn, enum cs_event_type type,
                      const struct cs_json *json, const char *detail);
/** Write the text of CS_EVENT_APPROVAL: the beginning, members as Codex gave them (none for null),
 * and the end, which queues the event. */
void cs_rpc_approval_begin(struct cs_buf *text, struct cs_jsonw *w);
void cs_rpc_approval_member(struct cs_jsonw *w, const char *key, const struct cs_json *value);
void cs_rpc_approval_end(struct cs_engine_turn *turn, struct cs_buf *text, struct cs_jsonw *w,
                         const char *detail);
/** The numbers that @json has under @names: input, cached and output tokens. */
void cs_rpc_tokens(const struct cs_json *json, const char *const names[3], int64_t out[3]);
/** A request to the model has used @last, which makes @totals for the thread (-1 unknown). Codex
 * repeats itself: the same totals again count nothing. */
void cs_rpc_used(struct cs_rpc_turn *state, const int64_t last[3], const int64_t totals[3]);

#endif
