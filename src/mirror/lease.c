/* mirror/lease: the leases of turns that run here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mirror_priv.h"

#define RENEW_MS 30000 /* of a lease */

/* ---- what is held ---- */

static struct cs_held *find_held(struct cs_mirror *mirror, const char *sid)
{
    struct cs_held *held = mirror->held;

    while (held != NULL && strcmp(held->sid, sid) != 0)
        held = held->next;
    return held;
}

static void drop_held(struct cs_mirror *mirror, const char *sid)
{
    struct cs_held **link = &mirror->held, *held;

    while (*link != NULL && strcmp((*link)->sid, sid) != 0)
        link = &(*link)->next;
    held = *link;
    if (held == NULL)
        return;
    *link = held->next;
    free(held);
}

void cs_leases_over(struct cs_mirror *mirror, const char *sid)
{
    struct cs_held *held;

    pthread_mutex_lock(&mirror->mutex);
    for (held = mirror->held; held != NULL; held = held->next)
        if (sid == NULL || strcmp(held->sid, sid) == 0) {
            held->over = held->ended;
            held->releasing = false; /* a request that was to do so was refused */
        }
    pthread_mutex_unlock(&mirror->mutex);
}

const char *cs_lease_to_release(struct cs_mirror *mirror, const char *sid)
{
    struct cs_held *held;
    const char *token = NULL;

    pthread_mutex_lock(&mirror->mutex);
    held = find_held(mirror, sid);
    if (held != NULL && held->over && held->asked) {
        held->releasing = true;
        token = held->token;
    }
    pthread_mutex_unlock(&mirror->mutex);
    return token;
}

void cs_lease_released(struct cs_mirror *mirror, const char *sid)
{
    struct cs_held *held;

    pthread_mutex_lock(&mirror->mutex);
    held = find_held(mirror, sid);
    if (held != NULL && held->ended && held->releasing)
        drop_held(mirror, sid);
    pthread_mutex_unlock(&mirror->mutex);
}

void cs_mirror_lease_end(struct cs_mirror *mirror, const char *sid)
{
    struct cs_held *held;

    pthread_mutex_lock(&mirror->mutex);
    held = find_held(mirror, sid);
    if (held != NULL && !held->asked)
        drop_held(mirror, sid);
    else if (held != NULL)
        held->ended = true;
    mirror->woken = true;
    pthread_cond_broadcast(&mirror->work);
    pthread_mutex_unlock(&mirror->mutex);
}

enum cs_status cs_lease_hold(struct cs_mirror *mirror, const char *sid, struct cs_err *err)
{
    struct cs_held *held, *fresh = calloc(1, sizeof *fresh);
    unsigned char token[(CS_TOKEN_CAP - 1) / 2];
    enum cs_status rc;

    if (fresh == NULL)
        return cs_err_nomem(err);
    rc = cs_random(token, sizeof token, err);
    if (rc != CS_OK) {
        free(fresh);
        return rc;
    }
    cs_hex(token, sizeof token, fresh->token);
    (void)snprintf(fresh->sid, sizeof fresh->sid, "%s", sid);
    pthread_mutex_lock(&mirror->mutex);
    held = find_held(mirror, sid);
    if (held != NULL) {
        held->ended = held->over = held->releasing = false;
    } else {
        fresh->next = mirror->held;
        mirror->held = fresh;
        fresh = NULL;
    }
    pthread_mutex_unlock(&mirror->mutex);
    free(fresh);
    return CS_OK;
}

/* The next lease that is due for renewing, or with @over one that is over; a copy. */
static bool next_due(struct cs_mirror *mirror, bool over, struct cs_held *out)
{
    int64_t now = cs_mono_ms();
    struct cs_held *held;

    pthread_mutex_lock(&mirror->mutex);
    for (held = mirror->held; held != NULL; held = held->next)
        if (held->asked && (held->ended ? over && held->over : held->renew_at <= now))
            break;
    if (held != NULL) {
        held->renew_at = now + RENEW_MS;
        held->releasing = held->ended;
        *out = *held;
    }
    pthread_mutex_unlock(&mirror->mutex);
    return held != NULL;
}

void cs_leases_renew_now(struct cs_mirror *mirror)
{
    struct cs_held *held;

    pthread_mutex_lock(&mirror->mutex);
    for (held = mirror->held; held != NULL; held = held->next)
        held->renew_at = 0;
    pthread_mutex_unlock(&mirror->mutex);
}

int64_t cs_leases_until(const struct cs_mirror *mirror)
{
    const struct cs_held *held;
    int64_t until = CS_NEVER;

    for (held = mirror->held; held != NULL; held = held->next)
        if (held->asked && held->renew_at < until)
            until = held->renew_at;
    return until;
}

void cs_leases_free(struct cs_mirror *mirror)
{
    struct cs_held *held;

    while ((held = mirror->held) != NULL) {
        mirror->held = held->next;
        free(held);
    }
}

/* ---- asking Redis ---- */

/* Renew it, or release it if it is over. What is wrong with its key alone is no error. */
static enum cs_status tend_lease(struct cs_mirror *mirror, const struct cs_held *held,
                                 struct cs_err *err)
{
    struct cs_script_reply reply = {0};
    struct cs_err why = {0};
    enum cs_status rc = CS_OK;
    int tries;

    for (tries = 0; tries < 2; tries++) {
        cs_err_clear(&why);
        rc = held->ended
                 ? cs_lease_release_append(mirror->redis, held->sid, held->token, &why)
                 : cs_lease_renew_append(mirror->redis, held->sid, held->token, mirror->host, &why);
        if (rc == CS_OK)
            rc = cs_script_take(mirror->redis, cs_op_deadline(), &reply, &why);
        if (rc == CS_OK || cs_redis_class(&why) != CS_REDIS_NOSCRIPT)
            break; /* else once more, with its text */
    }
    cs_script_reply_free(&reply);
    if (rc != CS_OK && cs_ends_step(mirror, &why))
        return cs_err_set(err, why.status, why.code, "%s", why.msg);
    return CS_OK;
}

enum cs_status cs_leases_tend(struct cs_mirror *mirror, bool over, struct cs_err *err)
{
    struct cs_held held;
    enum cs_status rc = CS_OK;

    while (rc == CS_OK && next_due(mirror, over, &held)) {
        rc = tend_lease(mirror, &held, err);
        if (rc == CS_OK && held.ended)
            cs_lease_released(mirror, held.sid);
    }
    return rc;
}

enum cs_status cs_lease_ask(struct cs_mirror *mirror, const char *sid, struct cs_err *err)
{
    struct cs_script_reply reply = {0};
    struct cs_held *held;
    char token[CS_TOKEN_CAP] = "";
    enum cs_status rc;

    pthread_mutex_lock(&mirror->mutex);
    held = find_held(mirror, sid);
    if (held != NULL && !held->ended) {
        memcpy(token, held->token, sizeof token);
        held->asked = true;
        held->renew_at = cs_mono_ms() + RENEW_MS;
    }
    pthread_mutex_unlock(&mirror->mutex);
    if (token[0] == '\0')
        return CS_OK; /* the turn is over already */
    rc = cs_lease_take(mirror->redis,
                       &(struct cs_lease){sid, token, mirror->host, cs_op_deadline()}, &reply, err);
    if (rc == CS_OK && reply.verdict == CS_VERDICT_BUSY) {
        rc = cs_err_set(err, CS_CONFLICT, "session_busy", "Session %s is busy on host %s", sid,
                        reply.host != NULL && reply.host[0] != '\0' ? reply.host : "unknown");
        pthread_mutex_lock(&mirror->mutex);
        drop_held(mirror, sid);
        pthread_mutex_unlock(&mirror->mutex);
    }
    cs_script_reply_free(&reply);
    return rc;
}

enum cs_status cs_lease_ask_late(struct cs_mirror *mirror, const char *sid, struct cs_err *err)
{
    struct cs_err why = {0};
    const struct cs_held *held;
    bool late;

    pthread_mutex_lock(&mirror->mutex);
    held = find_held(mirror, sid);
    late = held != NULL && !held->asked;
    pthread_mutex_unlock(&mirror->mutex);
    if (!late || cs_lease_ask(mirror, sid, &why) == CS_OK)
        return CS_OK;
    if (why.status == CS_CONFLICT || !cs_ends_step(mirror, &why)) /* another host was first */
        return CS_OK;
    return cs_err_set(err, why.status, why.code, "%s", why.msg);
}
