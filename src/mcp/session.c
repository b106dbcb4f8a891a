/* mcp/session: who has introduced itself, and which of its calls are under way.
 *
 * A session's id is a handle, not a credential: every request is authenticated by itself. It lives
 * in memory alone; a client of an ended one is told so and introduces itself again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/core/events.h"
#include "priv.h"

#define EARLY_MS 10000 /* as long a cancellation waits for the call that it has overtaken */

/* ---- the table; mcp->mutex is held in all of these ---- */

static void free_session(struct cs_mcp_session *session)
{
    size_t i;

    for (i = 0; i < CS_MCP_WATCHED_MAX && session->watched[i] != NULL; i++)
        free(session->watched[i]);
    free(session);
}

static void unref(struct cs_mcp_session *session)
{
    if (--session->refs == 0)
        free_session(session);
}

/* Take *@place out of the table. */
static void remove_at(struct cs_mcp *mcp, struct cs_mcp_session **place)
{
    struct cs_mcp_session *session = *place;

    *place = session->next;
    mcp->session_count--;
    session->ended = true;
    if (session->listener != NULL)
        cs_feed_wake(session->listener->feed);
    pthread_cond_broadcast(&mcp->changed);
    unref(session);
}

static struct cs_mcp_session **find(struct cs_mcp *mcp, const char *id)
{
    struct cs_mcp_session **place = &mcp->sessions;

    while (*place != NULL && strcmp((*place)->id, id) != 0)
        place = &(*place)->next;
    return *place != NULL ? place : NULL;
}

/* End what is idle for too long and, when the table is full, what is idle for longest. Whether
 * there is room. */
static bool make_room(struct cs_mcp *mcp, int64_t now)
{
    struct cs_mcp_session **place = &mcp->sessions, **oldest = NULL;

    while (*place != NULL) {
        if ((*place)->refs == 1 && now - (*place)->used > CS_MCP_IDLE_MS) {
            remove_at(mcp, place);
            continue;
        }
        if ((*place)->refs == 1 && (oldest == NULL || (*place)->used <= (*oldest)->used))
            oldest = place;
        place = &(*place)->next;
    }
    if (mcp->session_count >= CS_MCP_SESSIONS_MAX && oldest != NULL)
        remove_at(mcp, oldest);
    return mcp->session_count < CS_MCP_SESSIONS_MAX;
}

/* ---- sessions ---- */

enum cs_status cs_session_begin(struct cs_mcp *mcp, enum cs_revision revision, unsigned can,
                                char out_id[CS_MCP_SESSION_MAX], struct cs_err *err)
{
    struct cs_mcp_session *session;
    unsigned char secret[16];
    char hex[2 * sizeof secret + 1];
    bool room;
    enum cs_status rc = cs_random(secret, sizeof secret, err);

    if (rc != CS_OK)
        return rc;
    session = calloc(1, sizeof *session);
    if (session == NULL)
        return cs_err_nomem(err);
    cs_hex(secret, sizeof secret, hex);
    snprintf(session->id, sizeof session->id, "%s-%s", mcp->start, hex);
    session->revision = revision;
    session->can = can;
    session->used = cs_mono_ms();
    session->refs = 1; /* the table's */
    memcpy(out_id, session->id, CS_MCP_SESSION_MAX);
    pthread_mutex_lock(&mcp->mutex);
    room = make_room(mcp, session->used);
    if (room) {
        session->next = mcp->sessions;
        mcp->sessions = session;
        mcp->session_count++;
    }
    pthread_mutex_unlock(&mcp->mutex);
    if (room)
        return CS_OK;
    free(session);
    out_id[0] = '\0';
    return cs_err_set(err, CS_BUSY, "too_many_sessions", "Too many sessions are in use");
}

struct cs_mcp_session *cs_session_take(struct cs_mcp *mcp, const char *id)
{
    struct cs_mcp_session **place, *session = NULL;
    int64_t now = cs_mono_ms();

    pthread_mutex_lock(&mcp->mutex);
    place = find(mcp, id);
    if (place != NULL && (*place)->refs == 1 && now - (*place)->used > CS_MCP_IDLE_MS) {
        remove_at(mcp, place);
        place = NULL;
    }
    if (place != NULL) {
        session = *place;
        session->refs++;
        session->used = now;
    }
    pthread_mutex_unlock(&mcp->mutex);
    return session;
}

void cs_session_drop(struct cs_mcp *mcp, struct cs_mcp_session *session)
{
    if (session == NULL)
        return;
    pthread_mutex_lock(&mcp->mutex);
    session->used = cs_mono_ms();
    unref(session);
    pthread_mutex_unlock(&mcp->mutex);
}

bool cs_session_end(struct cs_mcp *mcp, const char *id)
{
    struct cs_mcp_session **place;

    pthread_mutex_lock(&mcp->mutex);
    place = find(mcp, id);
    if (place != NULL)
        remove_at(mcp, place);
    pthread_mutex_unlock(&mcp->mutex);
    return place != NULL;
}

void cs_session_end_all(struct cs_mcp *mcp)
{
    pthread_mutex_lock(&mcp->mutex);
    while (mcp->sessions != NULL)
        remove_at(mcp, &mcp->sessions);
    pthread_mutex_unlock(&mcp->mutex);
}

/* ---- calls under way ---- */

/* Each message has a connection of its own, and may overtake another. Or the call has lost its
 * stream, and will come back for the rest. */
static void keep_early(struct cs_mcp_session *session, const char *id)
{
    struct cs_early *early = &session->early[session->early_count++ % CS_EARLY_MAX];

    snprintf(early->id, sizeof early->id, "%s", id);
    early->until = cs_mono_ms() + EARLY_MS;
}

static bool take_early(struct cs_mcp_session *session, const char *id)
{
    for (size_t i = 0; i < CS_EARLY_MAX; i++) {
        struct cs_early *early = &session->early[i];

        if (early->until > cs_mono_ms() && strcmp(early->id, id) == 0) {
            early->until = 0;
            return true;
        }
    }
    return false;
}

void cs_call_link(struct cs_mcp_call *call)
{
    if (call->session == NULL)
        return;
    pthread_mutex_lock(&call->mcp->mutex);
    call->cancelled = take_early(call->session, call->id);
    call->next = call->session->calls;
    call->session->calls = call;
    pthread_mutex_unlock(&call->mcp->mutex);
}

void cs_call_unlink(struct cs_mcp_call *call)
{
    struct cs_mcp_call **place;

    if (call->session == NULL)
        return;
    pthread_mutex_lock(&call->mcp->mutex);
    for (place = &call->session->calls; *place != call; place = &(*place)->next)
        continue;
    *place = call->next;
    pthread_mutex_unlock(&call->mcp->mutex);
}

static struct cs_mcp_call *find_call(struct cs_mcp_session *session, const char *id)
{
    struct cs_mcp_call *call = session->calls;

    while (call != NULL && strcmp(call->id, id) != 0)
        call = call->next;
    return call;
}

void cs_call_cancel(struct cs_mcp *mcp, struct cs_mcp_session *session, const char *id)
{
    char tid[CS_UUID_MAX] = "";
    struct cs_mcp_call *call;

    pthread_mutex_lock(&mcp->mutex);
    call = find_call(session, id);
    if (call != NULL) {
        call->cancelled = true;
        memcpy(tid, call->tid, sizeof tid);
        if (call->feed != NULL)
            cs_feed_wake(call->feed);
        pthread_cond_broadcast(&mcp->changed);
    } else {
        keep_early(session, id);
    }
    pthread_mutex_unlock(&mcp->mutex);
    if (tid[0] != '\0')
        (void)cs_turn_cancel(mcp->core, tid); /* it may have ended by now */
}

/* The open question @number of a call of @session, or NULL. */
static struct cs_question *find_question(struct cs_mcp_session *session, int64_t number,
                                         struct cs_mcp_call **out_call)
{
    struct cs_mcp_call *call;
    size_t i;

    for (call = session->calls; number != 0 && call != NULL; call = call->next)
        for (i = 0; i < CS_QUESTIONS_MAX; i++)
            if (call->questions[i].number == number && call->questions[i].reply == NULL) {
                *out_call = call;
                return &call->questions[i];
            }
    return NULL;
}

void cs_call_reply(struct cs_mcp *mcp, struct cs_mcp_session *session, struct cs_msg *msg)
{
    int64_t number = cs_json_int(cs_json_get(msg->root, "id"), 0);
    struct cs_mcp_call *call = NULL;
    struct cs_question *question;

    pthread_mutex_lock(&mcp->mutex);
    question = find_question(session, number, &call);
    if (question != NULL) {
        question->reply = msg->root;
        msg->root = NULL;
        if (call->feed != NULL)
            cs_feed_wake(call->feed);
        pthread_cond_broadcast(&mcp->changed);
    }
    pthread_mutex_unlock(&mcp->mutex);
}

void cs_call_bind(struct cs_mcp_call *call, const char *tid, struct cs_feed *feed)
{
    bool cancelled;

    pthread_mutex_lock(&call->mcp->mutex);
    call->feed = feed;
    call->tid[0] = '\0';
    if (tid != NULL)
        memcpy(call->tid, tid, strlen(tid) + 1);
    cancelled = call->cancelled;
    pthread_mutex_unlock(&call->mcp->mutex);
    if (cancelled && tid != NULL)
        (void)cs_turn_cancel(call->mcp->core, tid);
}
