/* core/core: the use cases, over store and engine.
 *
 * Layer: core; includes base, store, mirror and engine. One cs_core per daemon; every function may
 * be called by any thread. civetweb workers have 100 KB of stack: nothing here recurses over input
 * or keeps large locals.
 */
#ifndef CS_CORE_CORE_H
#define CS_CORE_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "cs/base/config.h"
#include "cs/base/hash.h"
#include "cs/base/json.h"
#include "cs/engine/engine.h"
#include "cs/mirror/mirror.h"
#include "cs/store/search.h"
#include "cs/store/session.h"
#include "cs/store/store.h"
#include "cs/store/turn.h"

struct cs_core;

/** What the caller made and keeps until cs_core_free() has returned. */
struct cs_core_parts {
    struct cs_store *store;
    struct cs_engine *engine;
    const struct cs_config *config;
    bool no_thread; /* tests: neither the mirror nor the sweeper gets a thread */
    const struct cs_redis_options *redis; /* tests: how Redis is reached; NULL: as config says */
};

/** Starts the expiry thread. */
CS_MUST_USE enum cs_status cs_core_new(const struct cs_core_parts *parts, struct cs_core **out_core,
                                       struct cs_err *err);
/** Begin to stop: new turns are CS_UNAVAILABLE (code "shutting_down"), running ones are cancelled
 * and end as interrupted. Returns when none runs, or at @deadline with false. */
bool cs_core_drain(struct cs_core *core, int64_t deadline);
/** After cs_core_drain() and when no other call is under way. NULL is a no-op. */
void cs_core_free(struct cs_core *core);

/** The settings in force. The pointer stays valid until cs_core_free(); read it anew per request.
 */
const struct cs_config *cs_core_config(struct cs_core *core);
/** Put the reloadable settings of @fresh in force; *out_ignored (may be NULL) gets the names that
 * need a restart. */
CS_MUST_USE enum cs_status cs_core_reload(struct cs_core *core, const struct cs_config *fresh,
                                          struct cs_buf *out_ignored, struct cs_err *err);

/* ---- turns ---- */

/** A request for a turn. Strings are borrowed during the call that takes it; NULL where not given.
 */
struct cs_turn_request {
    bool continued;         /* go on with `identifier`; else create a session */
    const char *identifier; /* session or conversation id */
    bool by_conversation;   /* which of the two the client named: shapes the 404 sentence */
    const char *prompt;
    size_t prompt_len;
    const char *context; /* rendered to text already */
    size_t context_len;
    const char *model, *sandbox, *user, *cwd, *title, *engine;
    const char *approval; /* "never" or "on-request"; NULL: the session's, for a new one "never".
                             Of a continued one it holds for this turn alone */
    int64_t timeout_ms;   /* 0: the setting */
    int64_t ttl_seconds;  /* -1: the setting; 0: never expires */
    const char *idempotency_key;
    unsigned char body_hash[CS_SHA256_LEN]; /* of method, path and body; used with a key */
};

/** How a turn stands: a snapshot that its owner frees with cs_turn_view_fini(). */
struct cs_turn_view {
    struct cs_turn_row row;
    char sid[CS_UUID_MAX], cid[CS_UUID_MAX];
    char *response; /* the answer; NULL unless completed */
    size_t response_len;
    char *approvals; /* what Codex asks and nobody answered yet: a JSON array of approvalId, kind,
                        request and expiresAt; NULL: nothing */
};
void cs_turn_view_fini(struct cs_turn_view *view);
/** Append the members "response" and "metadata" of a completed turn: what every way out of the
 * daemon says of it. */
void cs_turn_render(struct cs_jsonw *w, const struct cs_turn_view *view);
/** Append member "metadata", which says so, if @stale (Redis could not be asked: others may know
 * more); else nothing. */
void cs_stale_render(struct cs_jsonw *w, bool stale);
/** What a call that waited for an ended turn returns: CS_OK if it completed, else as its error_code
 * says (CS_TIMEOUT for "execution_timeout", CS_CANCELLED, CS_UPSTREAM, …). */
enum cs_status cs_turn_outcome(const struct cs_turn_row *row);

struct cs_turn; /* a turn under way in this process, reference-counted */

/**
 * Validate, make the prompt (and for a new session its row) durable, and begin the turn on Codex.
 * On CS_OK *out_turn is a reference, to be given to cs_turn_run() or cs_turn_detach().
 *
 * With an idempotency key that is known: *out_turn NULL and *out_tid the earlier turn's id, to be
 * answered by cs_turn_view() (after waiting, if it runs) — or CS_MISMATCH "idempotency_key_reused",
 * or CS_CONFLICT "turn_interrupted".
 *
 * Errors: CS_INVALID (prompt_required, identifier_required, invalid_*), CS_NOT_FOUND
 * session_not_found, CS_CONFLICT session_busy, CS_DENIED (sandbox_above_ceiling, cwd_denied),
 * CS_TOO_LARGE prompt_too_large, CS_BUSY too_many_turns, CS_UNAVAILABLE, CS_FULL, CS_IO, CS_NO_MEM.
 */
CS_MUST_USE enum cs_status cs_turn_begin(struct cs_core *core,
                                         const struct cs_turn_request *request,
                                         struct cs_turn **out_turn, char out_tid[CS_UUID_MAX],
                                         struct cs_err *err);
/** The turn's id and its session's ids; valid while the reference is held. */
const char *cs_turn_tid(const struct cs_turn *turn);
const char *cs_turn_sid(const struct cs_turn *turn);
const char *cs_turn_cid(const struct cs_turn *turn);
/** Whether the conversation could not be compared with Redis before the turn: other hosts may have
 * gone on with it. */
bool cs_turn_stale(const struct cs_turn *turn);
/** Whether Codex may ask for approvals in it: then it is better not waited for by driving it. */
bool cs_turn_may_ask(const struct cs_turn *turn);

/** Drive the turn to its end on this thread: its outcome is durable when this returns CS_OK,
 * whatever it was. Consumes the reference. */
CS_MUST_USE enum cs_status cs_turn_run(struct cs_turn *turn, struct cs_err *err);
/** Drive it on a thread of its own, for callers that do not wait. Consumes the reference. */
CS_MUST_USE enum cs_status cs_turn_detach(struct cs_turn *turn, struct cs_err *err);

/** Read a turn by id, waiting until it has ended or @deadline (cs_mono_ms()) has come; a past
 * deadline does not wait. CS_NOT_FOUND, code "turn_not_found". */
CS_MUST_USE enum cs_status cs_turn_view(struct cs_core *core, const char *tid, int64_t deadline,
                                        struct cs_turn_view *out_view, struct cs_err *err);
/** As cs_turn_view(), and not longer than until Codex asks something, which stands in the view:
 * at once when it does so meanwhile. What was asked before ends the wait after a second, so that
 * who looks again and again, and leaves the answer to somebody else, does not go round in circles.
 */
CS_MUST_USE enum cs_status cs_turn_await(struct cs_core *core, const char *tid, int64_t deadline,
                                         struct cs_turn_view *out_view, struct cs_err *err);

/** Ask the running turn of a session to stop; returns without waiting. *out_tid gets its id.
 * CS_NOT_FOUND session_not_found; CS_CONFLICT "no_running_turn". */
CS_MUST_USE enum cs_status cs_session_cancel(struct cs_core *core, const char *identifier,
                                             char out_tid[CS_UUID_MAX], struct cs_err *err);

/** Ask turn @tid to stop, without waiting. Whether it was running here. */
bool cs_turn_cancel(struct cs_core *core, const char *tid);

/** Answer what a running turn of this host asks (approval.requested): @approve or decline it, in
 * the name of @by (a word for the event: "rest", "websocket", "mcp"). CS_NOT_FOUND turn_not_found
 * or "approval_not_found"; CS_CONFLICT, code "approval_answered", when it was answered or timed
 * out; CS_DENIED, code "sandbox_above_ceiling", for more than the operator allows now. */
CS_MUST_USE enum cs_status cs_turn_approve(struct cs_core *core, const char *tid,
                                           const char *approval_id, bool approve, const char *by,
                                           struct cs_err *err);

/* ---- sessions ---- */

/** A live session; CS_NOT_FOUND (session_not_found, the kept sentence) when it is unknown, expired
 * or archived. Caller: cs_session_fini(). */
CS_MUST_USE enum cs_status cs_core_session(struct cs_core *core, const char *identifier,
                                           struct cs_session *out_session, struct cs_err *err);
CS_MUST_USE enum cs_status cs_core_sessions(struct cs_core *core,
                                            const struct cs_session_filter *filter,
                                            struct cs_session_list *out_list, struct cs_err *err);
/** Whether a turn of this session is running here. */
bool cs_core_busy(struct cs_core *core, const char *sid);
/** As cs_search(). Caller: cs_findings_fini(). */
CS_MUST_USE enum cs_status cs_core_search(struct cs_core *core, const struct cs_search *search,
                                          struct cs_findings *out_findings, struct cs_err *err);
/** As cs_turn_list(). */
CS_MUST_USE enum cs_status cs_core_turns(struct cs_core *core, int64_t before,
                                         struct cs_turn_row *out_turns, size_t max,
                                         size_t *out_count, struct cs_err *err);
/** Begin a session that has all that was said in a live one up to now: prompts with their answers,
 * and contexts. Caller: cs_session_fini(). */
CS_MUST_USE enum cs_status cs_core_fork(struct cs_core *core, const char *identifier,
                                        struct cs_session *out_session, struct cs_err *err);
/** Delete, with all its rows; *out_sid is its session id. CS_CONFLICT session_busy while a turn
 * runs. Archived ones too. */
CS_MUST_USE enum cs_status cs_core_delete(struct cs_core *core, const char *identifier,
                                          char out_sid[CS_UUID_MAX], struct cs_err *err);
/** Bring an archived session back; its limit is enforced (the evicted ids come in
 * *out_evicted_json, a JSON array to be freed). CS_CONFLICT "not_archived" when it is live. Caller:
 * cs_session_fini(). */
CS_MUST_USE enum cs_status cs_core_restore(struct cs_core *core, const char *identifier,
                                           struct cs_session *out_session, char **out_evicted_json,
                                           struct cs_err *err);
/** Expire and purge what is due, now. */
CS_MUST_USE enum cs_status cs_core_cleanup(struct cs_core *core, int64_t *out_cleaned,
                                           struct cs_err *err);

/** Rendered history of a live session, shared and immutable. */
struct cs_history {
    char sid[CS_UUID_MAX], cid[CS_UUID_MAX];
    const char *messages; /* rendered messages, comma-separated, without brackets */
    size_t len;
    int64_t count;  /* messages in it */
    int64_t total;  /* messages of the session */
    int64_t before; /* cursor of the older ones; 0 at the start */
};
/** @limit 0: all. @before 0: the newest. Cached when both are 0. Free with cs_history_release(). */
CS_MUST_USE enum cs_status cs_core_history(struct cs_core *core, const char *identifier,
                                           unsigned limit, int64_t before,
                                           const struct cs_history **out_history,
                                           struct cs_err *err);
void cs_history_release(const struct cs_history *history);

/* Bytes around the messages of a history: who borrows it may write there, and needs no copy of what
 * lies between. */
#define CS_HISTORY_BEFORE 1536
#define CS_HISTORY_AFTER  2
/** The messages of @history, for one who alone may write around them until cs_history_return().
 * NULL while somebody else may. */
char *cs_history_borrow(const struct cs_history *history);
void cs_history_return(const struct cs_history *history);

/* ---- figures ---- */

struct cs_figures {
    struct cs_session_figures sessions;
    struct cs_turn_figures turns;
    int64_t turns_now;  /* running in this process */
    int64_t started_at; /* wall ms of the daemon's start */
    int64_t uptime_ms;
    int64_t rss_bytes;
    int64_t children, restarts; /* of Codex */
    bool
        model_fallback; /* the default model was refused and Codex's own one ran, since the start */
};
CS_MUST_USE enum cs_status cs_core_figures(struct cs_core *core, struct cs_figures *out_figures,
                                           struct cs_err *err);
struct cs_engine *cs_core_engine(struct cs_core *core);
struct cs_store *cs_core_store(struct cs_core *core);

/* ---- the mirror ---- */

/** The name of this host in its messages: the setting, or the system's. */
void cs_core_host_name(const struct cs_config *config, char out[64]);

/** How a session stands against Redis. */
enum cs_sync {
    CS_SYNC_LOCAL,   /* no Redis is set, or it was never there */
    CS_SYNC_PENDING, /* has something that Redis does not have yet */
    CS_SYNC_SYNCED,
    CS_SYNC_DIVERGED, /* was continued on two hosts at once: it has branches */
    CS_SYNC_EVICTED,  /* put out of Redis by the user's limit; it is in the archive */
};
/** "local", "pending", … */
const char *cs_sync_name(enum cs_sync sync);
CS_MUST_USE enum cs_status cs_core_session_sync(struct cs_core *core,
                                                const struct cs_session *session,
                                                enum cs_sync *out_sync, struct cs_err *err);

struct cs_sync_host {
    char name[64];
    int64_t last_seen; /* wall ms of its newest message here */
};
struct cs_sync_aside {
    char sid[CS_UUID_MAX];
    char *why;
};
struct cs_sync_status {
    struct cs_mirror_figures mirror;
    char url[300]; /* what may be shown of it; "" when off */
    char host[64]; /* this host's name */
    int64_t pending_sessions, pending_messages;
    int64_t oldest_pending; /* wall ms; 0: none */
    struct cs_sync_host *hosts;
    size_t host_count;
    struct cs_sync_aside *aside; /* records set aside, with the reasons; at most 100 */
    size_t aside_count;
};
void cs_sync_status_fini(struct cs_sync_status *status);
/** Caller: cs_sync_status_fini(). */
CS_MUST_USE enum cs_status cs_core_sync_status(struct cs_core *core,
                                               struct cs_sync_status *out_status,
                                               struct cs_err *err);
/** "off", "online", …: cheap, for /health. */
enum cs_mirror_state cs_core_sync_state(struct cs_core *core);
/** Push, pull and compare everything now, and wait for it until @deadline. CS_CONFLICT, code
 * "redis_off"; CS_TIMEOUT, code "sync_timeout"; CS_UNAVAILABLE, code "redis_unavailable". */
CS_MUST_USE enum cs_status cs_core_sync_now(struct cs_core *core, int64_t deadline,
                                            struct cs_err *err);
/** Before a session or its history is read: look in Redis for one that is unknown here, or has
 * news, for at most 500 ms. Sets *out_stale when that could not be found out. */
void cs_core_refresh(struct cs_core *core, const char *identifier, bool *out_stale);

#endif
