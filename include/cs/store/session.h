/* store/session: the rows of table `session`.
 *
 * Layer: store. Functions marked W need the writer's cs_db, the others take any.
 *
 * A session's last use is the time of its newest message; `check_at` in the row is only a lower
 * bound of the expiry, so that a message costs no session update: the sweeper looks again when it
 * comes and moves it.
 */
#ifndef CS_STORE_SESSION_H
#define CS_STORE_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "cs/store/store.h"

enum cs_session_state {
    CS_SESSION_LIVE,
    CS_SESSION_ARCHIVED, /* expired or evicted; its rows stay until the archive's time ends */
};

enum cs_archive_reason {
    CS_ARCHIVE_NONE,
    CS_ARCHIVE_EXPIRED, /* its time to live passed */
    CS_ARCHIVE_EVICTED, /* put out by the user's limit */
};

struct cs_session {
    int64_t id;            /* rowid on this host */
    char sid[CS_UUID_MAX]; /* session id */
    char cid[CS_UUID_MAX]; /* conversation id, minted here */
    char *user;            /* UTF-8, at most 128 bytes */
    bool own;              /* belongs to the daemon's own user (no userId was given) */
    char *model;           /* asked for at creation, or what the fallback settled on */
    char *sandbox;         /* read-only, workspace-write or danger-full-access */
    char *cwd;             /* absolute */
    char *title;           /* never NULL, may be empty */
    char *initial_prompt;  /* never NULL; the first 1,024 bytes of the first prompt, cut at a
                              character */
    char *engine;          /* asked for: auto, app-server, mcp or exec */
    char *origin;          /* origin that created it */
    char *approval;        /* may Codex ask: never or on-request; NULL is put as never */
    int64_t created_at;    /* wall ms */
    int64_t ttl_ms;        /* sliding; 0: never expires */
    enum cs_session_state state;
    enum cs_archive_reason archive_reason;
    int64_t archived_at; /* wall ms; 0 while live */
    bool branched;       /* it may have been continued on two hosts at once */
    int64_t restored_at; /* wall ms of the last return from the archive; 0: none */
    /* derived when read */
    int64_t last_used_at; /* wall ms: newest message, else created_at (or restored_at if later) */
    int64_t expires_at;   /* last_used_at + ttl_ms; 0: never */
    int64_t message_count;
    bool last_failed; /* the newest message is the outcome of a turn that did not complete */
};

/** Free the strings; the struct itself is the caller's. */
void cs_session_fini(struct cs_session *session);

/** W. Insert a live session from the first group of fields (id, state and derived ones are ignored;
 * id is set). check_at starts at created_at + ttl_ms. */
CS_MUST_USE enum cs_status cs_session_insert(struct cs_db *db, struct cs_session *session,
                                             struct cs_err *err);

/** Read by session id or conversation id, live or archived; derived fields filled. CS_NOT_FOUND
 * (code "session_not_found") otherwise. The caller calls cs_session_fini(). */
CS_MUST_USE enum cs_status cs_session_find(struct cs_db *db, const char *identifier,
                                           struct cs_session *out_session, struct cs_err *err);
CS_MUST_USE enum cs_status cs_session_get(struct cs_db *db, int64_t id,
                                          struct cs_session *out_session, struct cs_err *err);

/** W. Set the model, e.g. when Codex's own default took the place of the asked one. */
CS_MUST_USE enum cs_status cs_session_set_model(struct cs_db *db, int64_t id, const char *model,
                                                struct cs_err *err);

/** W. Move a live session to the archive / a session from the archive to the live set (its hour
 * starts anew at
 * @now). CS_CONFLICT when it is not in the other state. */
CS_MUST_USE enum cs_status cs_session_archive(struct cs_db *db, int64_t id,
                                              enum cs_archive_reason reason, int64_t now,
                                              struct cs_err *err);
CS_MUST_USE enum cs_status cs_session_restore(struct cs_db *db, int64_t id, int64_t now,
                                              struct cs_err *err);

/** W. Delete a session with its messages, turns and idempotency keys. */
CS_MUST_USE enum cs_status cs_session_delete(struct cs_db *db, int64_t id, struct cs_err *err);

/** Filters of a listing; NULL or 0 means any. */
struct cs_session_filter {
    const char *user;  /* exact */
    int live;          /* 1 live, -1 archived, 0 both */
    int failed;        /* 1 only last_failed, -1 only the others, 0 both */
    int64_t before_id; /* keyset cursor: rows with a smaller id; 0 starts at the newest */
    unsigned limit;    /* 1 … 500 */
};

struct cs_session_list {
    struct cs_session *items; /* newest first */
    size_t count;
    int64_t next_before_id; /* cursor of the next page (this one may be short), or 0 at the end */
};
void cs_session_list_fini(struct cs_session_list *list);

CS_MUST_USE enum cs_status cs_session_list(struct cs_db *db, const struct cs_session_filter *filter,
                                           struct cs_session_list *out_list, struct cs_err *err);

/** Live sessions of @user (own ones or given ones, as @own says). */
CS_MUST_USE enum cs_status cs_session_count_live(struct cs_db *db, const char *user, bool own,
                                                 int64_t *out_count, struct cs_err *err);

/** The live session of @user used least recently, @except (a rowid) and those with a running turn
 * left out: out_session as of cs_session_find(). CS_NOT_FOUND when there is none. */
CS_MUST_USE enum cs_status cs_session_least_recent(struct cs_db *db, const char *user, bool own,
                                                   int64_t except, struct cs_session *out_session,
                                                   struct cs_err *err);

/** W. Archive live sessions whose expiry is at or before @now and which have no running turn, at
 * most @max in one call; others whose check_at has come get a new one. @each (may be NULL) is told
 * of each archived one. *out_archived counts them; *out_next is the wall time at which to look
 * again, INT64_MAX for never. */
CS_MUST_USE enum cs_status cs_session_expire(struct cs_db *db, int64_t now, unsigned max,
                                             void (*each)(const char *sid, const char *cid,
                                                          void *arg),
                                             void *arg, int64_t *out_archived, int64_t *out_next,
                                             struct cs_err *err);

/** W. Delete archived sessions whose archived_at is at or before @until, at most @max; as above.
 * *out_next is the archived_at of the oldest one left, INT64_MAX for none. */
CS_MUST_USE enum cs_status cs_session_purge(struct cs_db *db, int64_t until, unsigned max,
                                            int64_t *out_purged, int64_t *out_next,
                                            struct cs_err *err);

/** Figures for /stats, each from an index or the tally table, never a scan of all rows. */
struct cs_session_figures {
    int64_t live, archived;
    int64_t oldest_live_at; /* created_at, wall ms; 0 for none */
};
CS_MUST_USE enum cs_status cs_session_figures(struct cs_db *db, struct cs_session_figures *out,
                                              struct cs_err *err);

#endif
