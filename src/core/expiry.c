/* core/expiry: the sweeper: it archives what has expired, purges what is old, and writes outcomes
 * that the disk refused before. It sleeps until the next of these is due; with nothing due it does
 * not wake at all. */
#include <time.h>

#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "cs/store/idempotency.h"
#include "cs/store/replica.h"
#include "priv.h"

#define JUMP_MS    60000 /* a larger difference between wall clock and time since boot is a jump */
#define BATCH      200   /* sessions per transaction, so that prompts wait little */
#define RETRY_MS   2000  /* between attempts to write refused outcomes */
#define LEAST_MS   1000  /* between two sweeps */
#define FAILED_MS  30000 /* after a sweep that failed */
#define DAY_MS     INT64_C(86400000)
#define GRACE_MS   DAY_MS /* what jumped ahead is left out of sweeps for so long */
#define STACK_SIZE 131072

/* What a look at the clocks told. */
struct cs_clock_state {
    int64_t jump_wall;  /* wall ms just after the last jump; INT64_MIN: there was none */
    int64_t since_jump; /* real ms since then */
    int64_t ahead;      /* as in struct cs_clock_watch */
};

static int64_t boot_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void cs_clock_watch_init(struct cs_clock_watch *watch)
{
    pthread_mutex_init(&watch->mutex, NULL);
    watch->wall = cs_clock_ms();
    watch->boot = boot_ms();
    watch->jump_wall = INT64_MIN;
}

/* Look at both clocks. Returns the wall time. */
static int64_t look(struct cs_clock_watch *watch, struct cs_clock_state *out_now)
{
    int64_t wall = cs_clock_ms(), boot = boot_ms(), difference;

    pthread_mutex_lock(&watch->mutex);
    difference = (wall - watch->wall) - (boot - watch->boot);
    if (watch->ahead > 0 && boot - watch->jump_boot >= GRACE_MS)
        watch->ahead = 0;
    if (difference > JUMP_MS || difference < -JUMP_MS) {
        watch->jump_wall = wall;
        watch->jump_boot = boot;
        watch->ahead += difference > 0 ? difference : 0;
    }
    watch->wall = wall;
    watch->boot = boot;
    out_now->since_jump = boot - watch->jump_boot;
    out_now->jump_wall = watch->jump_wall;
    out_now->ahead = watch->ahead;
    pthread_mutex_unlock(&watch->mutex);
    return wall;
}

/* A clock that jumps a day ahead, or back and ahead again, must not end every session at once: one
 * that was used before the jump has its whole time anew from there, by the clock that cannot
 * jump. */
bool cs_expired(struct cs_core *core, int64_t last_used_at, int64_t expires_at)
{
    struct cs_clock_state now;
    int64_t wall = look(&core->clock, &now);

    if (expires_at == 0 || expires_at > wall)
        return false;
    return last_used_at >= now.jump_wall || now.since_jump >= expires_at - last_used_at;
}

/* What is due at this moment. */
struct sweep {
    struct cs_core *core;
    int64_t now; /* for sessions: jumps of the clock left out */
    int64_t purge_until;
    int64_t oldest_key;
    int64_t count;    /* of this step */
    int64_t next;     /* wall ms at which the step wants to be called again */
    struct cs_db *db; /* while sessions expire */
    struct cs_err *err;
    enum cs_status rc; /* of what was done beside it */
};

/* What was offered late has its hour in Redis, and on other hosts, from then on: it is compared,
 * and comes back. */
static void heed_expired(const char *sid, const char *cid, void *arg)
{
    struct sweep *sweep = arg;
    struct cs_mirror_figures figures;
    struct cs_session session = {0};
    struct cs_replica_mark mark = {0};

    (void)cid;
    if (sweep->core->mirror == NULL || sweep->rc != CS_OK)
        return;
    cs_mirror_figures(sweep->core->mirror, &figures);
    sweep->rc = cs_session_find(sweep->db, sid, &session, sweep->err);
    if (sweep->rc == CS_OK)
        sweep->rc = cs_replica_mark(sweep->db, sid, &mark, sweep->err);
    if (sweep->rc == CS_OK && mark.stamp / 1000 - figures.skew_ms + session.ttl_ms > sweep->now)
        sweep->rc = cs_replica_flag(sweep->db, sid, CS_REPLICA_DIRTY, sweep->err);
    cs_replica_mark_fini(&mark);
    cs_session_fini(&session);
}

static enum cs_status apply_expire(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct sweep *sweep = arg;
    enum cs_status rc;

    sweep->db = db;
    sweep->err = err;
    sweep->rc = CS_OK;
    rc = cs_session_expire(db, sweep->now, BATCH, heed_expired, sweep, &sweep->count, &sweep->next,
                           err);
    return rc == CS_OK ? sweep->rc : rc;
}

static enum cs_status apply_purge(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct sweep *sweep = arg;

    return cs_session_purge(db, sweep->purge_until, BATCH, &sweep->count, &sweep->next, err);
}

static enum cs_status apply_keys(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct sweep *sweep = arg;

    sweep->count = 0;
    return cs_idempotency_purge(db, sweep->oldest_key, BATCH, &sweep->next, err);
}

static int64_t later(int64_t at, int64_t by)
{
    return at == INT64_MAX ? INT64_MAX : at + by;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Run @apply until a call has nothing left to do now. */
static enum cs_status repeat(struct sweep *sweep, cs_store_apply apply, int64_t *total,
                             struct cs_err *err)
{
    enum cs_status rc;

    do {
        rc = cs_store_write(sweep->core->store, apply, sweep, err);
        if (rc == CS_OK)
            *total += sweep->count;
    } while (rc == CS_OK && sweep->count == BATCH);
    return rc;
}

/* Everything that is due. *out_next: wall ms of the next look. */
static enum cs_status sweep_once(struct cs_core *core, int64_t *out_cleaned, int64_t *out_next,
                                 struct cs_err *err)
{
    const struct cs_config *config = cs_core_config(core);
    struct sweep sweep = {.core = core};
    struct cs_clock_state clock;
    int64_t wall = look(&core->clock, &clock), expired = 0, purged = 0, none = 0;
    enum cs_status rc;

    /* Late by what jumped is harmless: cs_expired() decides what clients see. */
    sweep.now = wall - clock.ahead;
    sweep.purge_until = sweep.now - config->archive_days * DAY_MS;
    sweep.oldest_key = sweep.now - config->idempotency_hours * 3600000;
    rc = repeat(&sweep, apply_expire, &expired, err);
    *out_next = sweep.next;
    if (rc == CS_OK)
        rc = repeat(&sweep, apply_purge, &purged, err);
    *out_next = least(*out_next, later(sweep.next, config->archive_days * DAY_MS));
    if (rc == CS_OK)
        rc = repeat(&sweep, apply_keys, &none, err);
    *out_next = least(*out_next, later(sweep.next, config->idempotency_hours * 3600000));
    *out_next = later(*out_next, clock.ahead);
    if (clock.ahead > 0)
        *out_next = least(*out_next, wall + GRACE_MS - clock.since_jump);
    if (expired + purged > 0) {
        cs_history_forget_all(core);
        cs_log(CS_LOG_INFO, "sweep", "expired", CS_NUM(expired), "purged", CS_NUM(purged), NULL);
    }
    /* with no days in the archive, what expires is purged in the same sweep: once is enough */
    *out_cleaned = config->archive_days == 0 && purged >= expired ? purged : expired + purged;
    return rc;
}

enum cs_status cs_core_cleanup(struct cs_core *core, int64_t *out_cleaned, struct cs_err *err)
{
    int64_t cleaned, next;
    enum cs_status rc = sweep_once(core, &cleaned, &next, err);

    if (rc == CS_OK)
        *out_cleaned = cleaned;
    return rc;
}

void cs_expiry_note(struct cs_core *core, int64_t wall_ms)
{
    pthread_mutex_lock(&core->mutex);
    if (wall_ms < core->sweep_at) {
        core->sweep_at = wall_ms;
        pthread_cond_signal(&core->sweep);
    }
    pthread_mutex_unlock(&core->mutex);
}

void cs_expiry_retry_later(struct cs_turn *turn)
{
    struct cs_core *core = turn->core;

    pthread_mutex_lock(&core->mutex);
    turn->next_unfinished = core->unfinished;
    core->unfinished = turn; /* the registry's reference moves here */
    pthread_cond_signal(&core->sweep);
    pthread_mutex_unlock(&core->mutex);
}

/* Write the outcomes that were refused; those refused again go back. Returns whether any did. */
static bool retry_unfinished(struct cs_core *core)
{
    struct cs_turn *list, *turn;
    bool again = false;

    pthread_mutex_lock(&core->mutex);
    list = core->unfinished;
    core->unfinished = NULL;
    pthread_mutex_unlock(&core->mutex);
    while ((turn = list) != NULL) {
        struct cs_err err = {0};
        enum cs_status rc;

        list = turn->next_unfinished;
        cs_turn_ref(turn);
        rc = cs_turn_persist_end(turn, &err);
        if (rc == CS_OK || rc == CS_CONFLICT || rc == CS_NOT_FOUND) {
            cs_log(CS_LOG_INFO, "turn_stored_late", "turn", turn->row.tid, NULL);
        } else {
            again = true;
            cs_expiry_retry_later(turn);
        }
        cs_turn_unref(turn);
    }
    return again;
}

/* Sleep until the sweep is due, an outcome waits, or the end. Returns false at the end. */
static bool await_work(struct cs_core *core, bool retrying)
{
    int64_t now, deadline;
    bool stopping;

    pthread_mutex_lock(&core->mutex);
    for (;;) {
        stopping = core->stopping;
        now = cs_clock_ms();
        if (stopping || core->sweep_at <= now || (core->unfinished != NULL && !retrying))
            break;
        deadline = core->sweep_at == INT64_MAX ? CS_NEVER : cs_mono_ms() + (core->sweep_at - now);
        if (core->unfinished != NULL)
            deadline = least(deadline, cs_mono_ms() + RETRY_MS);
        if (!cs_cond_wait(&core->sweep, &core->mutex, deadline))
            break;
    }
    pthread_mutex_unlock(&core->mutex);
    return !stopping;
}

/* Take the due time, so that notes made while the sweep runs are kept. Returns whether a sweep is
 * due. */
static bool take_due(struct cs_core *core)
{
    bool due;

    pthread_mutex_lock(&core->mutex);
    due = core->sweep_at <= cs_clock_ms();
    if (due)
        core->sweep_at = INT64_MAX;
    pthread_mutex_unlock(&core->mutex);
    return due;
}

static void *run(void *arg)
{
    struct cs_core *core = arg;
    int64_t cleaned, next;
    bool retrying = false;

    while (await_work(core, retrying)) {
        struct cs_err err = {0};

        retrying = retry_unfinished(core);
        if (!take_due(core))
            continue;
        if (sweep_once(core, &cleaned, &next, &err) != CS_OK) {
            cs_log_err("sweep_failed", &err, NULL, NULL);
            next = cs_clock_ms() + FAILED_MS;
        }
        if (next != INT64_MAX && next < cs_clock_ms() + LEAST_MS)
            next = cs_clock_ms() + LEAST_MS;
        cs_expiry_note(core, next);
    }
    return NULL;
}

enum cs_status cs_expiry_start(struct cs_core *core, struct cs_err *err)
{
    core->sweep_at = 0; /* a first look at once: time passed while no daemon ran */
    enum cs_status rc = cs_thread_start(&core->sweeper, "sweeper", STACK_SIZE, run, core, err);

    core->sweeping = rc == CS_OK;
    return rc;
}

void cs_expiry_stop(struct cs_core *core)
{
    struct cs_turn *turn;

    pthread_mutex_lock(&core->mutex);
    core->stopping = true;
    pthread_cond_signal(&core->sweep);
    pthread_mutex_unlock(&core->mutex);
    if (core->sweeping)
        pthread_join(core->sweeper, NULL);
    while ((turn = core->unfinished) != NULL) { /* they are marked interrupted at the next start */
        core->unfinished = turn->next_unfinished;
        cs_registry_release(turn);
    }
}
