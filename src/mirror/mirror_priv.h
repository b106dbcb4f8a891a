/* What the files of the replication share: mirror.c (threads, requests), lease.c, push.c, pull.c,
 * merge.c (one session against Redis) and record.c (messages and sessions as text).
 *
 * Layer: mirror, private. All but what is marked belongs to the thread that steps.
 */
#ifndef CS_MIRROR_MIRROR_PRIV_H
#define CS_MIRROR_MIRROR_PRIV_H

#include <pthread.h>

#include "cs/base/thread.h"
#include "cs/mirror/mirror.h"
#include "script.h"

#define CS_KEY_CAP   192   /* bytes of a key with its NUL: the longest prefix and a user of 128 */
#define CS_TOKEN_CAP 17    /* bytes of a lease's token with its NUL */
#define CS_ENTRY_ID  48    /* bytes of an id of a log entry with its NUL */
#define CS_OP_MS     10000 /* for each reply */

/* An entry of ours in a user's log that has not come back in it yet. */
struct cs_sent {
    char id[CS_ENTRY_ID];
    char sid[CS_UUID_MAX];
};

/* A user whose log is followed. */
struct cs_follow {
    char *user;
    char cursor[CS_ENTRY_ID]; /* "": none */
    char heard[CS_ENTRY_ID];  /* the doorbell is there; may be ahead of the cursor */
    size_t own;               /* entries of ours between the two */
    bool resync;              /* the log does not fit the cursor: compare all */
    bool rung;                /* there may be news (under mirror->mutex) */
    bool kept;                /* still followed */
    struct cs_sent *sent;
    size_t sent_count, sent_cap;
};

/* A session whose keys of the index need not be named, in the slot of its id's hash. */
#define CS_INDEXED_MAX 256
struct cs_indexed {
    char sid[CS_UUID_MAX]; /* "": none */
    uint64_t connects;     /* on the connection of this number */
    int64_t until;         /* mono ms */
};

/* A turn's lease. */
struct cs_held {
    char sid[CS_UUID_MAX];
    char token[CS_TOKEN_CAP];
    int64_t renew_at; /* mono ms */
    bool asked;       /* Redis was asked for it */
    bool ended;       /* the turn is over */
    bool over;        /* and was so before that was read which goes out now */
    bool releasing;   /* its release is on the way */
    struct cs_held *next;
};

enum cs_ask_kind { CS_ASK_SYNC, CS_ASK_FETCH, CS_ASK_LEASE };
/* What another thread waits for. */
struct cs_ask {
    enum cs_ask_kind kind;
    char name[CS_UUID_MAX]; /* identifier or session id */
    enum cs_status status;
    struct cs_err err;
    bool done;
    bool left; /* nobody waits any more: who finishes it frees it */
    struct cs_ask *next;
};

struct cs_mirror {
    struct cs_mirror_options options;
    struct cs_redis *redis, *bell; /* bell: the doorbell's thread's */
    char host[64];

    /* the stepping thread's */
    struct cs_follow *follows; /* ascending users */
    size_t follow_count, follow_cap;
    struct cs_backoff backoff;
    int64_t skew_ms;      /* server's clock minus ours */
    int64_t asked_at;     /* wall ms at which it was asked */
    int64_t full_at;      /* mono ms of the last full comparison; 0: none */
    int64_t push_after;   /* mono ms: nothing is written before, for want of room */
    struct cs_err full;   /* and why; CS_OK: there is room */
    int64_t keepalive_at; /* mono ms of the next look at the logs */
    int64_t again_at;     /* and of the next try of comparisons that gave up; 0: none did */
    int64_t again_ms;     /* how long such a try waits */
    size_t message_max, request_max;
    struct cs_waiting *waiting; /* prompts that wait for their answers */
    bool push_all;              /* not now */
    bool missed; /* what a log named was not there: Redis may have gone back since it was read */
    bool sure;   /* the logs were read again since */
    struct cs_indexed indexed[CS_INDEXED_MAX];

    pthread_t thread, bell_thread;
    bool threads;

    pthread_mutex_t mutex; /* guards what follows, and follows[].rung */
    pthread_cond_t work, answered;
    bool woken, stopping, bell_stale;
    const struct cs_redis_options *target, *bell_target; /* to go to; NULL: no other one */
    bool bell_now; /* the mirror has a new connection: the bell need not wait for its next try */
    bool ended;    /* the stepping thread is at its end */
    struct cs_ask *asks, **asks_end;
    struct cs_held *held;
    struct cs_mirror_figures figures;
    char *bell_users; /* for the doorbell: users and where to listen from, pairs of strings */
    size_t bell_len;
    struct cs_reply *heard; /* what it heard; NULL while it listens */
    char *heard_users;      /* bell_users of then */
    size_t heard_len;
    bool heeded; /* the stepping thread dealt with it */
};

/* ---- record.c ---- */

/* The parts of a session's value: `prefix` up to and with the messages' bracket. */
CS_MUST_USE enum cs_status cs_record_split(const char *text, size_t len, size_t *out_prefix,
                                           enum cs_status (*each)(void *arg, const char *item,
                                                                  size_t len, struct cs_err *err),
                                           void *arg, struct cs_err *err);
/* The same of a bare array. */
CS_MUST_USE enum cs_status cs_record_items(const char *text, size_t len,
                                           enum cs_status (*each)(void *arg, const char *item,
                                                                  size_t len, struct cs_err *err),
                                           void *arg, struct cs_err *err);
/* A message of Redis: identity and object. The parsed object owns the strings; frag is in @scratch.
 */
struct cs_record {
    struct cs_mirror_message message;
    struct cs_json *root;
    char *frag;
    bool stub; /* the content is kept elsewhere */
};
CS_MUST_USE enum cs_status cs_record_parse(const char *item, size_t len, struct cs_record *out,
                                           struct cs_err *err);
void cs_record_fini(struct cs_record *record);
/* Append @message as it stands in Redis; larger than @max: a stub. */
void cs_record_write(struct cs_buf *out, const struct cs_mirror_message *message, size_t max);
/* Append @number. */
void cs_record_number(struct cs_buf *out, uint64_t number);
/* Append a session's value up to its messages. */
void cs_record_prefix(struct cs_buf *out, const struct cs_mirror_meta *meta);
/* Read meta from a prefix, or from a foreign object; what is missing gets defaults. */
CS_MUST_USE enum cs_status cs_record_meta(const struct cs_json *object, const char *model,
                                          struct cs_mirror_meta *out_meta, struct cs_err *err);
/* Append a message of a foreign writer as an object of ours, without identity. *out_cx: the
 * identity that it carried, or NULL. */
void cs_record_foreign(struct cs_buf *out, const struct cs_json *message, const char *default_time);
bool cs_record_id_valid(const char *id);

/* ---- changes: gathered, then applied in one transaction ---- */

struct cs_changes {
    struct cs_mirror_change *items;
    size_t count, cap;
    void **owned; /* freed with them */
    size_t owned_count, owned_cap;
};
/* Add a change. */
CS_MUST_USE enum cs_status cs_changes_add(struct cs_changes *changes,
                                          const struct cs_mirror_change *change,
                                          struct cs_err *err);
/* Keep malloc()ed memory as long as the changes; steals it even on failure. */
CS_MUST_USE enum cs_status cs_changes_own_take(struct cs_changes *changes, void *memory,
                                               struct cs_err *err);
/* A copy of @text that lives as long. NULL when out of memory. */
const char *cs_changes_text(struct cs_changes *changes, const char *text, size_t len);
/* Add a message of Redis, copied. */
CS_MUST_USE enum cs_status cs_changes_message(struct cs_changes *changes, const char *sid,
                                              const struct cs_record *record, int64_t at,
                                              struct cs_err *err);
CS_MUST_USE enum cs_status cs_changes_apply(struct cs_mirror *mirror, struct cs_changes *changes,
                                            struct cs_err *err);
void cs_changes_fini(struct cs_changes *changes);

/* ---- push.c ---- */

/* Offer all messages that were never offered. */
CS_MUST_USE enum cs_status cs_push_news(struct cs_mirror *mirror, struct cs_err *err);
/* Append what a session lacks in Redis, of one origin from @from on. The verdict of the last call;
 * OK when all is there. */
CS_MUST_USE enum cs_status cs_push_origin(struct cs_mirror *mirror,
                                          const struct cs_mirror_local *local, int64_t origin,
                                          int64_t from, enum cs_verdict *out_verdict,
                                          struct cs_err *err);
/* What the scripts need of a session. */
struct cs_script_session cs_script_session_of(const struct cs_mirror_local *local);
struct cs_script_state cs_script_state_of(const struct cs_mirror_local *local);
/* The server finds a request too large: ask for less from now on. False when less is not to be had.
 */
bool cs_ask_for_less(struct cs_mirror *mirror, size_t messages, size_t bytes);
/* Remember an entry of ours, to see it come back. */
void cs_note_sent(struct cs_mirror *mirror, const char *user, const char *sid, const char *id);

/* Forget those that wait for the end of their turns. */
void cs_waiting_free(struct cs_mirror *mirror);
/* Mono ms at which the next of them has waited long enough. */
int64_t cs_waiting_until(const struct cs_mirror *mirror);
/* Whether messages of @sid wait for the end of its turn: its mark is no work then. */
bool cs_waits(const struct cs_mirror *mirror, const char *sid);

/* ---- put.c ---- */

/* The messages of a session for one request. */
struct cs_whole {
    struct cs_buf text;  /* with commas */
    struct cs_vector vv; /* of exactly these */
    size_t count;
    size_t message_max, max;
    bool more; /* it has further ones */
    int64_t newest_hlc, newest_origin, newest_seq;
};
/* A cs_mirror_each(): add a message; @arg is the whole. */
CS_MUST_USE enum cs_status cs_whole_add(void *arg, const struct cs_mirror_message *message,
                                        struct cs_err *err);
/* Load @sid and its messages, at most @max bytes (0: what a request takes), into @whole and @local.
 * Even on failure cs_whole_fini() is due. */
CS_MUST_USE enum cs_status cs_whole_load(struct cs_mirror *mirror, const char *sid, size_t max,
                                         struct cs_whole *whole, struct cs_mirror_local *local,
                                         struct cs_err *err);
void cs_whole_fini(struct cs_whole *whole);

/* A PUT. */
struct cs_putting {
    const struct cs_mirror_meta *meta;
    const struct cs_mirror_local *local;
    const struct cs_whole *whole;
    const char *foreign; /* digest of the foreign value that it replaces, or NULL */
    int64_t version;     /* of the prefix in Redis, as far as is known */
};
/* Put it into the pipeline. Verdict by cs_script_take(). */
CS_MUST_USE enum cs_status cs_whole_append(struct cs_mirror *mirror,
                                           const struct cs_putting *putting, struct cs_err *err);
/* It was accepted: the changes that come of it. */
CS_MUST_USE enum cs_status cs_whole_note(struct cs_mirror *mirror, const struct cs_putting *putting,
                                         const struct cs_script_reply *reply,
                                         struct cs_changes *changes, struct cs_err *err);

/* ---- merge.c ---- */

/* Compare sessions with Redis, and make both as they should be. @user: whose they are, or NULL
 * where that is known here. */
enum {
    CS_COMPARE_PULL = 1,   /* fetch the value even if the vectors are equal */
    CS_COMPARE_INDEX = 2,  /* the user's set does not name them: put them even if they are there */
    CS_COMPARE_AROUND = 4, /* likewise if their conversations do not lead to them */
};
CS_MUST_USE enum cs_status cs_compare(struct cs_mirror *mirror, const char (*sids)[CS_UUID_MAX],
                                      size_t count, const char *user, unsigned how,
                                      struct cs_err *err);

/* Put MGET of the keys of some ids into the pipeline. */
CS_MUST_USE enum cs_status cs_mget_append(struct cs_mirror *mirror, const char *prefix,
                                          const char (*ids)[CS_UUID_MAX], size_t count,
                                          struct cs_err *err);

/* Look whether Redis has news of a session, and compare it if so: one command when it has none. */
CS_MUST_USE enum cs_status cs_glance(struct cs_mirror *mirror, const char *sid, struct cs_err *err);

/* ---- pull.c ---- */

CS_MUST_USE enum cs_status cs_pull_user(struct cs_mirror *mirror, struct cs_follow *follow,
                                        struct cs_err *err);
/* Compare all sessions of a user, here and in Redis. */
CS_MUST_USE enum cs_status cs_resync_user(struct cs_mirror *mirror, struct cs_follow *follow,
                                          struct cs_err *err);

/* An entry of ours came back: true, once. */
bool cs_confirm(struct cs_follow *follow, const char *id);

/* ---- bell.c ---- */

/* Tell the doorbell what to listen for, and that what it heard was dealt with. */
void cs_bell_publish(struct cs_mirror *mirror);
/* Deal with what the doorbell heard: rung then tells whose log is to be read. */
void cs_bell_heed(struct cs_mirror *mirror);
/* Have a user's log read in this step: what Redis lost, the doorbell would not tell. */
void cs_ring(struct cs_mirror *mirror, const char *user);
/* Its thread. */
void *cs_bell_run(void *arg);
/* The order of two ids of log entries; "" comes first. */
int cs_entry_compare(const char *a, const char *b);

/* ---- stamp.c ---- */

/* Ask Redis for its clock. No replies may be owed. */
CS_MUST_USE enum cs_status cs_ask_time(struct cs_mirror *mirror, struct cs_err *err);
/* A stamp of the server as wall ms here. */
int64_t cs_local_ms(const struct cs_mirror *mirror, int64_t stamp);
/* The stamp of a log entry's id. */
int64_t cs_entry_stamp(const char *id);
/* One that is ahead of Redis' clock becomes the time that it is there. Asks Redis for it if need
 * be, unless replies are owed. */
CS_MUST_USE enum cs_status cs_believe(struct cs_mirror *mirror, int64_t *stamp, struct cs_err *err);

/* ---- lease.c ---- */

/* Have a lease of @sid for a turn that begins, without asking yet. One of an earlier turn that was
 * not released is taken over with its token: another one would find the session busy on this very
 * host. */
CS_MUST_USE enum cs_status cs_lease_hold(struct cs_mirror *mirror, const char *sid,
                                         struct cs_err *err);
/* Ask Redis for it. CS_CONFLICT: another host has it, and ours is gone. */
CS_MUST_USE enum cs_status cs_lease_ask(struct cs_mirror *mirror, const char *sid,
                                        struct cs_err *err);
/* Note whether the turn of @sid (NULL: which of all) is over: what is read from now on holds all
 * that it wrote, and may end its lease. */
void cs_leases_over(struct cs_mirror *mirror, const char *sid);
/* The token of @sid's lease if its turn is over, to go with a push; NULL for none. Borrowed. */
const char *cs_lease_to_release(struct cs_mirror *mirror, const char *sid);
void cs_lease_released(struct cs_mirror *mirror, const char *sid);
/* Ask for the lease of a turn that runs, if nobody did yet. */
CS_MUST_USE enum cs_status cs_lease_ask_late(struct cs_mirror *mirror, const char *sid,
                                             struct cs_err *err);
/* Renew what is held; with @over, release what is over and was not released with a push. */
CS_MUST_USE enum cs_status cs_leases_tend(struct cs_mirror *mirror, bool over, struct cs_err *err);
/* Have all of them renewed when they are next tended. */
void cs_leases_renew_now(struct cs_mirror *mirror);
/* With the mutex held: mono ms at which the next one is due; CS_NEVER when none is. */
int64_t cs_leases_until(const struct cs_mirror *mirror);
void cs_leases_free(struct cs_mirror *mirror);

/* ---- mirror.c ---- */

struct cs_follow *cs_follow_of(struct cs_mirror *mirror, const char *user);
/* Deal with what other threads wait for; called between pieces of work. */
void cs_mirror_serve(struct cs_mirror *mirror);
/* A comparison gave up: one more step, and the more of them end so the later. */
void cs_step_again(struct cs_mirror *mirror);
/* Whether Redis may be written to now: not while it has no room, and we wait for some. */
bool cs_may_write(const struct cs_mirror *mirror);
int64_t cs_op_deadline(void);
/* Whether the error ends the work of this step (else it concerns one session alone). */
bool cs_ends_step(const struct cs_mirror *mirror, const struct cs_err *err);

#endif
