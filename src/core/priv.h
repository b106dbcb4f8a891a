/* core/priv: what core's files share.
 *
 * Layer: core, private.
 *
 * Lock order: core->mutex, then a history-cache, engine or event-bus lock. No store call is made
 * with core->mutex held.
 */
#ifndef CS_CORE_PRIV_H
#define CS_CORE_PRIV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "cs/base/thread.h"
#include "cs/core/core.h"
#include "cs/core/events.h"
#include "cs/store/message.h"

/** Why a running turn was asked to stop. */
enum cs_stop { CS_STOP_NONE, CS_STOP_TIMEOUT, CS_STOP_CANCEL, CS_STOP_SHUTDOWN };

/** A turn under way. Immutable after cs_turn_begin() but for the fields marked otherwise. */
struct cs_turn {
    struct cs_core *core;
    struct cs_session session; /* as at the start */
    char *prompt;              /* owned; for a new thread the context is sent before it */
    size_t prompt_len;
    char *context; /* owned; NULL without */
    size_t context_len;
    char *idempotency_key; /* owned; NULL without */
    unsigned char body_hash[CS_SHA256_LEN];
    enum cs_engine_kind kind; /* never CS_ENGINE_AUTO */
    bool default_model;       /* nobody asked for the model by name */
    bool may_ask;             /* Codex may ask for approvals */
    int64_t begun;            /* mono ms */
    int64_t limit;            /* mono ms: its end, whatever it waits for */
    /* how to reach Codex's thread: from the session's last turn on this host */
    char *thread_id;   /* NULL: a new thread */
    char *orphan_turn; /* Codex turn to revert first; NULL: none */
    struct cs_usage thread_total;

    /* the driving thread's */
    struct cs_turn_row row;
    char *answer; /* last complete agent message; NULL: none yet */
    size_t answer_len;
    struct cs_transcript *transcript;
    struct cs_engine_item *items; /* borrow the transcript's texts */

    /* under core->mutex */
    unsigned refs; /* registry, driver, waiters */
    bool stored;   /* its prompt is durable */
    bool ending;   /* its outcome is about to be, and may be seen already */
    bool ended;    /* its outcome is durable (or handed to the unfinished list) */
    enum cs_stop stop;
    struct cs_engine_turn *engine_turn; /* while it runs */
    struct cs_approval *approvals;      /* what Codex asked, oldest first (approval.c) */
    unsigned open;                      /* of these, how many wait for an answer */
    int64_t still_since;                /* mono ms: since then, if any is open, its clock stands */
    int64_t deadline;                   /* mono ms: its time is over, unless its clock stands */
    pthread_cond_t changed;             /* one of these became true, or an approval was told */
    struct cs_turn *next_unfinished;
};

struct cs_history_cache;
struct cs_sync_part;
struct cs_bus;

/** Jumps of the wall clock against the time since boot, as far as they were seen (expiry.c). */
struct cs_clock_watch {
    pthread_mutex_t mutex;
    int64_t wall, boot;           /* ms, at the last look */
    int64_t jump_wall, jump_boot; /* the same just after the last jump; INT64_MIN, 0: none */
    int64_t ahead;                /* ms, sum of the jumps ahead of the last day */
};

struct cs_core {
    struct cs_store *store;
    struct cs_engine *engine;
    int64_t started_wall, started_mono;
    struct cs_history_cache *cache;
    struct cs_bus *bus;        /* who listens (events.c) */
    struct cs_mirror *mirror;  /* NULL: no Redis is set */
    struct cs_sync_part *sync; /* likewise (sync.c) */
    struct cs_clock_watch clock;
    _Atomic(struct cs_config *) config; /* readers take it as const */
    atomic_bool model_fallback;

    pthread_mutex_t mutex; /* guards all below and each turn's last group */
    pthread_cond_t idle;   /* running, ending or turns became less */
    void *by_session;      /* tsearch trees of struct cs_turn */
    void *by_tid;
    int64_t asked; /* approvals, since the start */
    int64_t running;
    int64_t ending; /* of these */
    int64_t turns;  /* referenced: the running ones, and ended ones for a moment */
    bool draining;
    struct cs_turn *unfinished;        /* outcomes that could not be written yet */
    struct cs_config *old_configs[64]; /* replaced by reloads; readers may still hold them */
    size_t old_count;

    pthread_t sweeper;    /* expiry.c */
    bool sweeping;        /* it was started */
    pthread_cond_t sweep; /* wake the sweeper */
    int64_t sweep_at;     /* wall ms of its next look */
    bool stopping;
};

/* registry.c */

/** Claim the session for @turn and count it. CS_CONFLICT session_busy, CS_BUSY too_many_turns,
 * CS_UNAVAILABLE shutting_down. When the holder was begun with the same idempotency key and body,
 * *out_twin is its id and the status CS_OK (nothing is claimed). */
CS_MUST_USE enum cs_status cs_registry_claim(struct cs_turn *turn, char out_twin[CS_UUID_MAX],
                                             struct cs_err *err);
/** The claimed turn's prompt is durable: who has the same request may be sent to it. */
void cs_registry_stored(struct cs_turn *turn);
/** The turn's outcome is being committed, or that has failed. Readers may see it ahead of us: who
 * claims what it holds waits until it is settled. */
void cs_registry_ending(struct cs_turn *turn, bool ending);
/** Undo a claim, or end it: wakes all waiters, drops the registry's reference. */
void cs_registry_release(struct cs_turn *turn);
/** A reference to the running turn with this id / of this session, or NULL. */
struct cs_turn *cs_registry_by_tid(struct cs_core *core, const char *tid);
struct cs_turn *cs_registry_by_session(struct cs_core *core, const char *sid);
bool cs_registry_busy(struct cs_core *core, const char *sid);
/** Ask a turn to stop; the first reason wins. Returns whether it was this one. */
bool cs_registry_stop(struct cs_turn *turn, enum cs_stop stop);
void cs_registry_stop_all(struct cs_core *core, enum cs_stop stop);
/** Let the turn's driver be seen by cs_registry_stop(); NULL when it is to be freed. */
void cs_registry_set_engine_turn(struct cs_turn *turn, struct cs_engine_turn *engine_turn);
void cs_turn_ref(struct cs_turn *turn);
void cs_turn_unref(struct cs_turn *turn);

/* request.c */

/** Check @request and fill what does not depend on stored state. */
CS_MUST_USE enum cs_status cs_request_check(struct cs_core *core,
                                            const struct cs_turn_request *request,
                                            struct cs_err *err);
/** Resolve a working folder by the rules of the settings. The caller frees *out_path. */
CS_MUST_USE enum cs_status cs_request_cwd(const struct cs_config *config, const char *asked,
                                          char **out_path, struct cs_err *err);
CS_MUST_USE enum cs_status cs_request_sandbox(const struct cs_config *config, const char *sandbox,
                                              struct cs_err *err);
/** Whether writing the file @path changes nothing outside of the folder @cwd, as links stand now,
 * nor what Codex's sandbox protects in it: the folders of git and of agents' settings. */
bool cs_request_inside(const char *cwd, const char *path);

/* context.c */

/** Decide from the session's last turn on this host whether Codex's thread can be gone on with.
 * @last may be NULL; @newest: the session's newest message is of that turn. */
CS_MUST_USE enum cs_status cs_context_thread(struct cs_turn *turn, const struct cs_turn_row *last,
                                             bool newest, struct cs_err *err);
/** cs_engine_history of a turn (@arg): loads the transcript from the store. */
enum cs_status cs_context_history(void *arg, const struct cs_engine_item **out_items,
                                  size_t *out_count, struct cs_err *err);

/* turn_row.c */

/** Make prompt, turn and, unless continued, the session durable. When the idempotency key is known,
 * *out_tid is the earlier turn and nothing is written. */
CS_MUST_USE enum cs_status cs_turn_persist_begin(struct cs_turn *turn, char out_tid[CS_UUID_MAX],
                                                 struct cs_err *err);
/** Make the outcome in turn->row and turn->answer durable, and end the claim before anybody hears
 * of it. CS_CONFLICT, CS_NOT_FOUND: there is nothing to write it to, the claim is ended too. Any
 * other failure: the claim stays, try again. With the claim goes its reference: the caller has
 * another. */
CS_MUST_USE enum cs_status cs_turn_persist_end(struct cs_turn *turn, struct cs_err *err);
/** Look the request's key up: CS_OK with *out_tid set, or "" when it is unknown. */
CS_MUST_USE enum cs_status cs_turn_replay(struct cs_core *core,
                                          const struct cs_turn_request *request,
                                          char out_tid[CS_UUID_MAX], struct cs_err *err);

/* limits.c */

/** The limit of live sessions for this owner; 0: none. */
int64_t cs_limits_of(const struct cs_config *config, bool own);
/** Writer thread: archive the least recently used sessions of @user until @limit holds, never
 * @keep; appends their ids to the JSON array @evicted (opened and closed here). */
/** @shared: Redis may have its own mind about who is least recent: the evicted ones are compared.
 */
CS_MUST_USE enum cs_status cs_limits_enforce(struct cs_db *db, const struct cs_session *keep,
                                             int64_t limit, bool shared, struct cs_buf *evicted,
                                             struct cs_err *err);

/* expiry.c */

void cs_clock_watch_init(struct cs_clock_watch *watch);
/** Whether a live session's time is over, with jumps of the wall clock left out of account. */
bool cs_expired(struct cs_core *core, int64_t last_used_at, int64_t expires_at);
CS_MUST_USE enum cs_status cs_expiry_start(struct cs_core *core, struct cs_err *err);
void cs_expiry_stop(struct cs_core *core);
/** A session will expire at @wall_ms: the sweeper must look no later. */
void cs_expiry_note(struct cs_core *core, int64_t wall_ms);
/** Keep a turn whose outcome could not be written; the sweeper tries again. */
void cs_expiry_retry_later(struct cs_turn *turn);

/* session.c */

/** "Session not found for conversation_id: …". */
enum cs_status cs_session_missing(const char *identifier, struct cs_err *err);
/** cs_session_find(), and CS_NOT_FOUND unless it is live and not expired. */
CS_MUST_USE enum cs_status cs_session_find_live(struct cs_core *core, struct cs_db *db,
                                                const char *identifier,
                                                struct cs_session *out_session, struct cs_err *err);

/* events.c */

CS_MUST_USE enum cs_status cs_bus_start(struct cs_core *core, struct cs_err *err);
/** Every feed ends after what waits in it, and no new one is opened. */
void cs_bus_close(struct cs_core *core);
/** All feeds were closed. */
void cs_bus_stop(struct cs_core *core);
/** Whether anybody listens: a passing event that nobody hears need not be rendered. */
bool cs_events_heard(struct cs_core *core);
/** Tell whoever listens of a passing event of @turn, whose prompt is durable. @name is static,
 * @members its members beside the ids, rendered: `"delta":"x"`. Any thread that holds a reference,
 * with core->mutex or without. */
void cs_events_passing(struct cs_turn *turn, const char *name, const struct cs_buf *members);
/** Whether @feed is to hear of @turn. */
bool cs_events_wanted(const struct cs_feed *feed, const struct cs_turn *turn);
/** Tell a new @feed alone of what was told before. False when it has no room, or there is no
 * memory. */
bool cs_events_again(struct cs_feed *feed, struct cs_turn *turn, const char *name,
                     const struct cs_buf *members);

/* event_text.c */

/** Begin an event's data: `{` and the members that each has. */
void cs_event_begin(struct cs_buf *out, const char *sid, const char *cid, const char *user,
                    const char *tid);
/** Render the lasting event that @row is; *out_name stays NULL for a row that is none. */
CS_MUST_USE enum cs_status cs_event_lasting(struct cs_db *db, const struct cs_message_row *row,
                                            struct cs_buf *out, const char **out_name,
                                            struct cs_err *err);
/** Pass on what Codex reports of a turn under way. */
void cs_event_of_engine(struct cs_turn *turn, const struct cs_engine_event *event);
/** The turn has ended, but its outcome could not be stored: @why. */
void cs_event_unstored(struct cs_turn *turn, const struct cs_err *why);

/* history.c */

CS_MUST_USE enum cs_status cs_history_cache_new(size_t max_bytes,
                                                struct cs_history_cache **out_cache,
                                                struct cs_err *err);
void cs_history_cache_free(struct cs_history_cache *cache);
/** The session changed: what is cached of it is stale. */
void cs_history_forget(struct cs_core *core, const char *sid, const char *cid);
/** Sessions were put out by a limit: forget everything. */
void cs_history_forget_all(struct cs_core *core);

#endif
