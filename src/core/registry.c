/* core/registry: the turns that run in this process, found by session and by turn id. */
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/uuid.h"
#include "approval.h"
#include "priv.h"

static int compare_session(const void *a, const void *b)
{
    const struct cs_turn *x = a, *y = b;

    return strcmp(x->session.sid, y->session.sid);
}

static int compare_tid(const void *a, const void *b)
{
    const struct cs_turn *x = a, *y = b;

    return strcmp(x->row.tid, y->row.tid);
}

void cs_turn_ref(struct cs_turn *turn)
{
    pthread_mutex_lock(&turn->core->mutex);
    turn->refs++;
    pthread_mutex_unlock(&turn->core->mutex);
}

void cs_turn_unref(struct cs_turn *turn)
{
    bool last;

    pthread_mutex_lock(&turn->core->mutex);
    last = --turn->refs == 0;
    if (last && --turn->core->turns == 0)
        pthread_cond_broadcast(&turn->core->idle); /* the core may go now */
    pthread_mutex_unlock(&turn->core->mutex);
    if (!last)
        return;
    cs_session_fini(&turn->session);
    cs_turn_row_fini(&turn->row);
    cs_transcript_free(turn->transcript);
    cs_approval_free(turn);
    free(turn->items);
    free(turn->prompt);
    free(turn->context);
    free(turn->idempotency_key);
    free(turn->thread_id);
    free(turn->orphan_turn);
    free(turn->answer);
    pthread_cond_destroy(&turn->changed);
    free(turn);
}

static bool same_request(const struct cs_turn *a, const struct cs_turn *b)
{
    return a->idempotency_key != NULL && b->idempotency_key != NULL &&
           strcmp(a->idempotency_key, b->idempotency_key) == 0 &&
           memcmp(a->body_hash, b->body_hash, sizeof a->body_hash) == 0;
}

/* With the mutex held: the turn that the same request began, if it holds the session. Who is sent
 * to it must find it: one that is about to be stored, or to be refused, is waited for. */
static const struct cs_turn *find_twin(struct cs_turn *turn)
{
    struct cs_core *core = turn->core;

    for (;;) {
        struct cs_turn **node = tfind(turn, &core->by_session, compare_session);
        struct cs_turn *twin = node != NULL && same_request(*node, turn) ? *node : NULL;

        if (twin == NULL || twin->stored)
            return twin;
        twin->refs++;
        while (!twin->stored && !twin->ended)
            (void)cs_cond_wait(&twin->changed, &core->mutex, CS_NEVER);
        pthread_mutex_unlock(&core->mutex);
        cs_turn_unref(twin);
        pthread_mutex_lock(&core->mutex);
    }
}

/* With the mutex held: whether what stands in the way of @turn is about to go. */
static bool gives_way(struct cs_turn *turn)
{
    struct cs_core *core = turn->core;
    struct cs_turn **node = tfind(turn, &core->by_session, compare_session);

    if (node != NULL)
        return (*node)->ending;
    return core->running >= cs_core_config(core)->max_turns && core->ending > 0;
}

/* With the mutex held. */
static enum cs_status claim_locked(struct cs_turn *turn, char out_twin[CS_UUID_MAX],
                                   struct cs_err *err)
{
    struct cs_core *core = turn->core;
    const struct cs_turn *twin;
    struct cs_turn **node;

    while ((twin = find_twin(turn)) == NULL && !core->draining && gives_way(turn))
        (void)cs_cond_wait(&core->idle, &core->mutex, CS_NEVER);
    if (twin != NULL) {
        memcpy(out_twin, twin->row.tid, CS_UUID_MAX);
        return CS_OK;
    }
    if (core->draining)
        return cs_err_set(err, CS_UNAVAILABLE, "shutting_down", "The daemon is shutting down");
    if (core->running >= cs_core_config(core)->max_turns)
        return cs_err_set(err, CS_BUSY, "too_many_turns", "Too many turns are running");
    node = tsearch(turn, &core->by_session, compare_session);
    if (node == NULL)
        return cs_err_nomem(err);
    if (*node != turn)
        return cs_err_set(err, CS_CONFLICT, "session_busy",
                          "Session %s is busy with turn %s on this host", turn->session.sid,
                          (*node)->row.tid);
    if (tsearch(turn, &core->by_tid, compare_tid) == NULL) {
        tdelete(turn, &core->by_session, compare_session);
        return cs_err_nomem(err);
    }
    core->running++;
    turn->refs++;
    return CS_OK;
}

enum cs_status cs_registry_claim(struct cs_turn *turn, char out_twin[CS_UUID_MAX],
                                 struct cs_err *err)
{
    enum cs_status rc;

    out_twin[0] = '\0';
    pthread_mutex_lock(&turn->core->mutex);
    rc = claim_locked(turn, out_twin, err);
    pthread_mutex_unlock(&turn->core->mutex);
    return rc;
}

void cs_registry_stored(struct cs_turn *turn)
{
    pthread_mutex_lock(&turn->core->mutex);
    turn->stored = true;
    pthread_cond_broadcast(&turn->changed);
    pthread_mutex_unlock(&turn->core->mutex);
}

/* With the mutex held. */
static void set_ending(struct cs_turn *turn, bool ending)
{
    turn->core->ending += (int64_t)ending - (int64_t)turn->ending;
    turn->ending = ending;
}

void cs_registry_ending(struct cs_turn *turn, bool ending)
{
    pthread_mutex_lock(&turn->core->mutex);
    set_ending(turn, ending);
    pthread_cond_broadcast(&turn->core->idle);
    pthread_mutex_unlock(&turn->core->mutex);
}

void cs_registry_release(struct cs_turn *turn)
{
    struct cs_core *core = turn->core;

    pthread_mutex_lock(&core->mutex);
    set_ending(turn, false);
    tdelete(turn, &core->by_session, compare_session);
    tdelete(turn, &core->by_tid, compare_tid);
    turn->ended = true;
    pthread_cond_broadcast(&turn->changed);
    core->running--;
    pthread_cond_broadcast(&core->idle);
    pthread_mutex_unlock(&core->mutex);
    cs_turn_unref(turn);
}

/* A reference to the turn that equals @probe, or NULL. */
static struct cs_turn *find(struct cs_core *core, void *const *tree, const struct cs_turn *probe,
                            int (*compare)(const void *, const void *))
{
    struct cs_turn **node, *turn = NULL;

    pthread_mutex_lock(&core->mutex);
    node = tfind(probe, tree, compare);
    if (node != NULL) {
        turn = *node;
        turn->refs++;
    }
    pthread_mutex_unlock(&core->mutex);
    return turn;
}

struct cs_turn *cs_registry_by_tid(struct cs_core *core, const char *tid)
{
    struct cs_turn probe;

    if (!cs_uuid_valid(tid))
        return NULL;
    memcpy(probe.row.tid, tid, CS_UUID_MAX);
    return find(core, &core->by_tid, &probe, compare_tid);
}

struct cs_turn *cs_registry_by_session(struct cs_core *core, const char *sid)
{
    struct cs_turn probe;

    if (!cs_uuid_valid(sid))
        return NULL;
    memcpy(probe.session.sid, sid, CS_UUID_MAX);
    return find(core, &core->by_session, &probe, compare_session);
}

bool cs_registry_busy(struct cs_core *core, const char *sid)
{
    struct cs_turn *turn = cs_registry_by_session(core, sid);

    if (turn == NULL)
        return false;
    cs_turn_unref(turn);
    return true;
}

static void stop_locked(struct cs_turn *turn, enum cs_stop stop)
{
    if (turn->stop != CS_STOP_NONE)
        return;
    turn->stop = stop;
    if (turn->engine_turn != NULL)
        cs_engine_turn_cancel(turn->engine_turn);
}

bool cs_registry_stop(struct cs_turn *turn, enum cs_stop stop)
{
    bool first;

    pthread_mutex_lock(&turn->core->mutex);
    first = turn->stop == CS_STOP_NONE;
    stop_locked(turn, stop);
    pthread_mutex_unlock(&turn->core->mutex);
    return first;
}

struct stop_walk {
    enum cs_stop stop;
};

static void stop_node(const void *node, VISIT visit, void *arg)
{
    struct cs_turn *const *turn = node;
    const struct stop_walk *walk = arg;

    if (visit == postorder || visit == leaf)
        stop_locked(*turn, walk->stop);
}

void cs_registry_stop_all(struct cs_core *core, enum cs_stop stop)
{
    struct stop_walk walk = {stop};

    pthread_mutex_lock(&core->mutex);
    twalk_r(core->by_tid, stop_node, &walk);
    pthread_mutex_unlock(&core->mutex);
}

void cs_registry_set_engine_turn(struct cs_turn *turn, struct cs_engine_turn *engine_turn)
{
    pthread_mutex_lock(&turn->core->mutex);
    turn->engine_turn = engine_turn;
    if (engine_turn != NULL && turn->stop != CS_STOP_NONE)
        cs_engine_turn_cancel(engine_turn);
    pthread_mutex_unlock(&turn->core->mutex);
}
