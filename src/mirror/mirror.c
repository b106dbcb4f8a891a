/* mirror/mirror: what is done when, and for whom.
 *
 * Lock order: mirror->mutex alone; nothing waits for Redis or calls the port with it held.
 */
#include "cs/mirror/mirror.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mirror_priv.h"

#define CONNECT_MS     5000
#define AGAIN_MS       5000              /* until comparisons that gave up are tried, at first */
#define KEEPALIVE_MS   600000            /* between two looks at logs whose doorbell is silent */
#define FULL_MS        INT64_C(21600000) /* between two comparisons of everything */
#define RECONNECT_MS   600000 /* a younger one need not be repeated on a new connection */
#define REFUSED_MS     30000  /* before another try when Redis refuses us altogether */
#define EAGER_MS       5000   /* a local write need not wait longer for another try */
#define LEASE_AGAIN_MS 60     /* before a busy session is asked for again */
#define MESSAGE_MAX    (8u << 20)
#define REQUEST_MAX    (1u << 20)
#define MARKED         64
#define STACK_BYTES    ((size_t)512 * 1024)

/* ---- small things ---- */

int64_t cs_op_deadline(void)
{
    return cs_mono_ms() + CS_OP_MS;
}

bool cs_ends_step(const struct cs_mirror *mirror, const struct cs_err *err)
{
    (void)mirror;
    switch (cs_redis_class(err)) {
    case CS_REDIS_FINE:
    case CS_REDIS_LARGE:
    case CS_REDIS_NOSCRIPT:
    case CS_REDIS_REFUSED:
        return false;
    case CS_REDIS_LOST:
    case CS_REDIS_DENIED:
    case CS_REDIS_READONLY:
    case CS_REDIS_FULL:
    case CS_REDIS_STOPPED:
        break;
    }
    return true;
}

const char *cs_mirror_state_name(enum cs_mirror_state state)
{
    static const char *const names[] = {"off",  "connecting", "online", "offline",
                                        "auth", "readonly",   "full"};

    return names[state];
}

/* ---- state ---- */

static enum cs_mirror_state state_after(const struct cs_err *err)
{
    switch (cs_redis_class(err)) {
    case CS_REDIS_DENIED:
        return CS_MIRROR_AUTH;
    case CS_REDIS_READONLY:
        return CS_MIRROR_READONLY;
    case CS_REDIS_FULL:
        return CS_MIRROR_FULL;
    case CS_REDIS_FINE:
        return CS_MIRROR_ONLINE;
    case CS_REDIS_LOST:
    case CS_REDIS_LARGE: /* these concern a session, or else everything, as at greeting */
    case CS_REDIS_NOSCRIPT:
    case CS_REDIS_REFUSED:
    case CS_REDIS_STOPPED:
        break;
    }
    return CS_MIRROR_OFFLINE;
}

static void set_state_locked(struct cs_mirror *mirror, enum cs_mirror_state state,
                             const char *error)
{
    struct cs_mirror_figures *figures = &mirror->figures;

    if (figures->state != state) {
        figures->state = state;
        figures->since = cs_clock_ms();
        pthread_cond_broadcast(&mirror->work); /* the doorbell follows */
    }
    (void)snprintf(figures->error, sizeof figures->error, "%s", error);
}

static void set_state(struct cs_mirror *mirror, enum cs_mirror_state state, const char *error)
{
    pthread_mutex_lock(&mirror->mutex);
    if (mirror->target == NULL) /* else it is that of a Redis that was left */
        set_state_locked(mirror, state, error);
    pthread_mutex_unlock(&mirror->mutex);
}

static void note_time(struct cs_mirror *mirror, int64_t *slot)
{
    pthread_mutex_lock(&mirror->mutex);
    *slot = cs_clock_ms();
    pthread_mutex_unlock(&mirror->mutex);
}

void cs_mirror_figures(struct cs_mirror *mirror, struct cs_mirror_figures *out)
{
    struct cs_redis_counts a = {0}, b = {0};

    cs_redis_counts(mirror->redis, &a);
    cs_redis_counts(mirror->bell, &b);
    pthread_mutex_lock(&mirror->mutex);
    *out = mirror->figures;
    pthread_mutex_unlock(&mirror->mutex);
    out->commands = a.commands + b.commands;
    out->connects = a.connects + b.connects;
    out->bytes_sent = a.bytes_sent + b.bytes_sent;
    out->bytes_received = a.bytes_received + b.bytes_received;
}

bool cs_mirror_online(struct cs_mirror *mirror)
{
    bool online;

    if (mirror == NULL)
        return false;
    pthread_mutex_lock(&mirror->mutex);
    online = mirror->figures.state == CS_MIRROR_ONLINE || mirror->figures.state == CS_MIRROR_FULL;
    pthread_mutex_unlock(&mirror->mutex);
    return online;
}

/* ---- users that are followed ---- */

static size_t follow_place(const struct cs_mirror *mirror, const char *user, bool *out_found)
{
    size_t low = 0, high = mirror->follow_count;

    *out_found = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(mirror->follows[middle].user, user);

        if (order == 0) {
            *out_found = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct cs_follow *cs_follow_of(struct cs_mirror *mirror, const char *user)
{
    bool found;
    size_t place = follow_place(mirror, user, &found);

    return found ? &mirror->follows[place] : NULL;
}

/* A user as the port names it. */
struct named {
    struct cs_buf text; /* pairs of strings */
};

static enum cs_status note_user(void *arg, const char *user, const char *cursor, struct cs_err *err)
{
    struct named *named = arg;

    cs_buf_add(&named->text, user, strlen(user) + 1);
    cs_buf_add(&named->text, cursor, strlen(cursor) + 1);
    return cs_buf_check(&named->text, err);
}

/* With the mutex held. */
static enum cs_status keep_follow(struct cs_mirror *mirror, const char *user, const char *cursor,
                                  struct cs_err *err)
{
    size_t cap = mirror->follow_cap > 0 ? mirror->follow_cap * 2 : 8;
    struct cs_follow *follows;
    char *copy;
    bool found;
    size_t place = follow_place(mirror, user, &found);

    if (found) {
        mirror->follows[place].kept = true;
        return CS_OK;
    }
    if (mirror->follow_count == mirror->follow_cap) {
        follows = reallocarray(mirror->follows, cap, sizeof *follows);
        if (follows == NULL)
            return cs_err_nomem(err);
        mirror->follows = follows;
        mirror->follow_cap = cap;
    }
    copy = strdup(user);
    if (copy == NULL)
        return cs_err_nomem(err);
    follows = &mirror->follows[place];
    memmove(follows + 1, follows, (mirror->follow_count - place) * sizeof *follows);
    *follows = (struct cs_follow){.user = copy, .kept = true, .rung = true};
    (void)snprintf(follows->cursor, sizeof follows->cursor, "%s", cursor);
    mirror->follow_count++;
    mirror->bell_stale = true;
    return CS_OK;
}

static void drop_follow(struct cs_follow *follow)
{
    free(follow->user);
    free(follow->sent);
}

static enum cs_status refresh_follows(struct cs_mirror *mirror, struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;
    struct named named;
    size_t i, at, kept = 0;
    enum cs_status rc;

    cs_buf_init(&named.text, 64 << 20);
    rc = port->users(port->arg, note_user, &named, err);
    pthread_mutex_lock(&mirror->mutex); /* for the doorbell's rings */
    for (i = 0; i < mirror->follow_count; i++)
        mirror->follows[i].kept = mirror->follows[i].sent_count > 0;
    for (at = 0; at < named.text.len && rc == CS_OK;) {
        const char *user = named.text.data + at, *cursor = user + strlen(user) + 1;

        rc = keep_follow(mirror, user, cursor, err);
        at += strlen(user) + strlen(cursor) + 2;
    }
    for (i = 0; i < mirror->follow_count; i++) {
        if (rc == CS_OK && !mirror->follows[i].kept)
            drop_follow(&mirror->follows[i]);
        else
            mirror->follows[kept++] = mirror->follows[i];
    }
    mirror->follow_count = kept;
    pthread_mutex_unlock(&mirror->mutex);
    cs_buf_fini(&named.text);
    return rc;
}

/* ---- connecting ---- */

void cs_mirror_redirect(struct cs_mirror *mirror, const struct cs_redis_options *redis)
{
    pthread_mutex_lock(&mirror->mutex);
    mirror->target = mirror->bell_target = redis;
    set_state_locked(mirror, CS_MIRROR_CONNECTING, ""); /* who asks is told of this one */
    mirror->woken = true;
    pthread_cond_broadcast(&mirror->work);
    pthread_mutex_unlock(&mirror->mutex);
    cs_redis_interrupt(mirror->bell); /* it may be blocked for minutes */
}

/* Before a step: go to another Redis, if there is one. What is known of the old one does not hold
 * there. */
static void follow_target(struct cs_mirror *mirror)
{
    const struct cs_redis_options *target;

    pthread_mutex_lock(&mirror->mutex);
    target = mirror->target;
    mirror->target = NULL;
    pthread_mutex_unlock(&mirror->mutex);
    if (target == NULL)
        return;
    cs_redis_redirect(mirror->redis, target);
    cs_backoff_reset(&mirror->backoff);
    cs_err_clear(&mirror->full);
    mirror->push_after = mirror->full_at = 0;
}

static enum cs_status connect_redis(struct cs_mirror *mirror, bool *out_fresh, struct cs_err *err)
{
    enum cs_status rc = CS_OK;
    size_t i;

    *out_fresh = !cs_redis_connected(mirror->redis);
    if (!*out_fresh)
        return CS_OK;
    if (mirror->figures.state == CS_MIRROR_OFF)
        set_state(mirror, CS_MIRROR_CONNECTING, "");
    rc = cs_redis_connect(mirror->redis, cs_mono_ms() + CONNECT_MS, err);
    if (rc == CS_OK)
        rc = cs_scripts_load(mirror->redis, cs_op_deadline(), err);
    if (rc == CS_OK)
        rc = cs_ask_time(mirror, err);
    if (rc != CS_OK)
        return rc;
    cs_leases_renew_now(mirror); /* it may be another server, that knows none of them */
    pthread_mutex_lock(&mirror->mutex);
    for (i = 0; i < mirror->follow_count; i++)
        mirror->follows[i].rung = true;
    mirror->bell_now = true;
    pthread_cond_broadcast(&mirror->work);
    pthread_mutex_unlock(&mirror->mutex);
    return CS_OK;
}

/* ---- room ---- */

/* Redis has no room: write nothing for a while. */
static void note_full(struct cs_mirror *mirror, const struct cs_err *why)
{
    mirror->full = *why;
    mirror->push_after = cs_mono_ms() + cs_backoff_next(&mirror->backoff, CS_REDIS_FULL);
}

bool cs_may_write(const struct cs_mirror *mirror)
{
    return mirror->push_after <= cs_mono_ms();
}

/* ---- what others wait for ---- */

/* A session or conversation that somebody asks for. */
static enum cs_status fetch(struct cs_mirror *mirror, const char *name, struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    char key[CS_KEY_CAP], sid[1][CS_UUID_MAX];
    const char *found;
    enum cs_status rc;

    (void)snprintf(key, sizeof key, "%s%s", CS_KEY_CONVERSATION, name);
    rc = cs_redis_call(mirror->redis, cs_op_deadline(), &reply, err, "GET", key, NULL);
    if (rc != CS_OK)
        return rc;
    found = cs_reply_string(reply, NULL);
    if (found == NULL || !cs_record_id_valid(found))
        found = name;
    memcpy(sid[0], found, strlen(found) + 1);
    cs_reply_free(reply);
    return cs_compare(mirror, (const char(*)[CS_UUID_MAX])sid, 1, NULL, 0, err);
}

static enum cs_status answer(struct cs_mirror *mirror, struct cs_ask *ask, struct cs_err *err)
{
    struct cs_err why = {0};
    bool fresh;
    enum cs_status rc;

    if (ask->kind == CS_ASK_SYNC)
        return CS_OK; /* the step is its answer */
    rc = connect_redis(mirror, &fresh, &why);
    if (rc == CS_OK && ask->kind == CS_ASK_FETCH)
        rc = fetch(mirror, ask->name, &why);
    if (rc == CS_OK && ask->kind == CS_ASK_LEASE && cs_may_write(mirror))
        rc = cs_lease_ask(mirror, ask->name, &why);
    if (rc == CS_OK && ask->kind == CS_ASK_LEASE)
        rc = cs_glance(mirror, ask->name, &why);
    if (rc == CS_OK && ask->kind == CS_ASK_LEASE && !cs_may_write(mirror))
        rc = cs_err_set(&why, CS_UNAVAILABLE, "redis_full", "Redis has no room for a lease");
    if (rc != CS_OK && cs_redis_owed(mirror->redis) > 0)
        cs_redis_close(mirror->redis);
    return rc == CS_OK ? rc : cs_err_set(err, why.status, why.code, "%s", why.msg);
}

/* Under the mutex: the ask has its answer. */
static void finish_ask(struct cs_mirror *mirror, struct cs_ask *ask)
{
    if (ask->left) {
        free(ask);
        return;
    }
    ask->done = true;
    pthread_cond_broadcast(&mirror->answered);
}

void cs_mirror_serve(struct cs_mirror *mirror)
{
    struct cs_ask **link, *ask;
    struct cs_err err = {0};

    /* a long step must not cost a turn its lease; if this fails, the step's next request does */
    if (cs_redis_connected(mirror->redis) && cs_redis_owed(mirror->redis) == 0 &&
        cs_may_write(mirror))
        (void)!cs_leases_tend(mirror, false, &err);
    for (;;) {
        pthread_mutex_lock(&mirror->mutex);
        for (link = &mirror->asks; *link != NULL && (*link)->kind == CS_ASK_SYNC;)
            link = &(*link)->next;
        ask = *link;
        if (ask != NULL) {
            *link = ask->next;
            if (ask->next == NULL)
                mirror->asks_end = link;
        }
        pthread_mutex_unlock(&mirror->mutex);
        if (ask == NULL)
            return;
        ask->status = answer(mirror, ask, &ask->err);
        pthread_mutex_lock(&mirror->mutex);
        finish_ask(mirror, ask);
        pthread_mutex_unlock(&mirror->mutex);
    }
}

/* The full step that the waiting syncs asked for is over. */
static void answer_syncs(struct cs_mirror *mirror, struct cs_ask *list, const struct cs_err *err)
{
    struct cs_ask *ask;

    pthread_mutex_lock(&mirror->mutex);
    while ((ask = list) != NULL) {
        list = ask->next;
        ask->status = err->status;
        ask->err = *err;
        finish_ask(mirror, ask);
    }
    pthread_mutex_unlock(&mirror->mutex);
}

/* Wait for an ask until @deadline. Steals it. */
static enum cs_status wait_take(struct cs_mirror *mirror, struct cs_ask *ask, int64_t deadline,
                                struct cs_err *err)
{
    enum cs_status rc;

    pthread_mutex_lock(&mirror->mutex);
    *mirror->asks_end = ask;
    mirror->asks_end = &ask->next;
    mirror->woken = true;
    pthread_cond_broadcast(&mirror->work);
    while (!ask->done && cs_mono_ms() < deadline &&
           cs_cond_wait(&mirror->answered, &mirror->mutex, deadline))
        continue;
    if (!ask->done) {
        ask->left = true;
        pthread_mutex_unlock(&mirror->mutex);
        return cs_err_set(err, CS_TIMEOUT, "sync_timeout", "Redis did not answer in time");
    }
    pthread_mutex_unlock(&mirror->mutex);
    rc = ask->status;
    if (rc != CS_OK)
        rc = cs_err_set(err, ask->err.status, ask->err.code, "%s", ask->err.msg);
    free(ask);
    return rc;
}

static enum cs_status ask_for(struct cs_mirror *mirror, enum cs_ask_kind kind, const char *name,
                              int64_t deadline, struct cs_err *err)
{
    struct cs_ask *ask = calloc(1, sizeof *ask);
    enum cs_status rc;

    if (ask == NULL)
        return cs_err_nomem(err);
    ask->kind = kind;
    if (name != NULL)
        (void)snprintf(ask->name, sizeof ask->name, "%s", name);
    if (!mirror->threads) {
        rc = kind == CS_ASK_SYNC ? cs_mirror_step(mirror, true, err) : answer(mirror, ask, err);
        free(ask);
        return rc;
    }
    return wait_take(mirror, ask, deadline, err);
}

enum cs_status cs_mirror_sync(struct cs_mirror *mirror, int64_t deadline, struct cs_err *err)
{
    return ask_for(mirror, CS_ASK_SYNC, NULL, deadline, err);
}

static enum cs_status not_online(struct cs_err *err)
{
    return cs_err_set(err, CS_UNAVAILABLE, "redis_unavailable", "Redis is not reachable");
}

enum cs_status cs_mirror_fetch(struct cs_mirror *mirror, const char *identifier, int64_t deadline,
                               struct cs_err *err)
{
    if (!cs_record_id_valid(identifier))
        return CS_OK; /* no session has such an id */
    if (!cs_mirror_online(mirror))
        return not_online(err);
    return ask_for(mirror, CS_ASK_FETCH, identifier, deadline, err);
}

enum cs_status cs_mirror_lease(struct cs_mirror *mirror, const char *sid, int64_t deadline,
                               struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc;

    if (!cs_mirror_online(mirror))
        return not_online(err);
    for (;;) {
        rc = cs_lease_hold(mirror, sid, &why);
        if (rc == CS_OK && deadline <= cs_mono_ms())
            rc = cs_err_set(&why, CS_TIMEOUT, "sync_timeout", "The lease is asked for later");
        else if (rc == CS_OK)
            rc = ask_for(mirror, CS_ASK_LEASE, sid, deadline, &why);
        if (rc != CS_CONFLICT || !mirror->threads || cs_mono_ms() + LEASE_AGAIN_MS > deadline)
            break;
        /* its turn may just have ended: what is seen of it runs ahead of the release */
        (void)poll(NULL, 0, LEASE_AGAIN_MS);
        cs_err_clear(&why);
    }
    return rc == CS_OK ? rc : cs_err_set(err, why.status, why.code, "%s", why.msg);
}

/* ---- a step ---- */

/* Whether the user's log is to be read now. */
static bool take_ring(struct cs_mirror *mirror, size_t i, bool all)
{
    bool rung;

    pthread_mutex_lock(&mirror->mutex);
    rung = mirror->follows[i].rung || all || !mirror->threads;
    mirror->follows[i].rung = false;
    pthread_mutex_unlock(&mirror->mutex);
    return rung || mirror->follows[i].resync;
}

static enum cs_status pull_logs(struct cs_mirror *mirror, bool full, struct cs_err *err)
{
    bool all = full || mirror->keepalive_at <= cs_mono_ms();
    enum cs_status rc = CS_OK;
    size_t i;

    for (i = 0; i < mirror->follow_count && rc == CS_OK; i++) {
        struct cs_err why = {0};

        if (!take_ring(mirror, i, all))
            continue;
        rc = full ? cs_resync_user(mirror, &mirror->follows[i], &why)
                  : cs_pull_user(mirror, &mirror->follows[i], &why);
        if (rc != CS_OK && !cs_ends_step(mirror, &why))
            rc = CS_OK; /* its keys hold something else: the others go on */
        if (rc != CS_OK)
            (void)cs_err_set(err, why.status, why.code, "%s", why.msg);
        cs_mirror_serve(mirror);
    }
    if (rc == CS_OK && all)
        mirror->keepalive_at = cs_mono_ms() + KEEPALIVE_MS;
    if (rc == CS_OK)
        note_time(mirror, &mirror->figures.last_pull);
    return rc;
}

/* Leave out those that hold something unsent: as long as Redis has no room, the others are read. */
static enum cs_status drop_unsent(struct cs_mirror *mirror, char (*sids)[CS_UUID_MAX],
                                  size_t *count, struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;
    size_t i, kept = 0;
    enum cs_status rc = CS_OK;

    for (i = 0; i < *count && rc == CS_OK; i++) {
        struct cs_mirror_local local = {0};

        rc = port->load(port->arg, sids[i], &local, NULL, NULL, err);
        if (rc == CS_OK && !local.unsent)
            memmove(sids[kept++], sids[i], CS_UUID_MAX);
        cs_mirror_local_fini(&local);
    }
    *count = kept;
    return rc;
}

/* Leave out those whose marks only remember prompts that wait. Returns how many are left. */
static size_t drop_waiting(const struct cs_mirror *mirror, char sids[][CS_UUID_MAX], size_t count)
{
    size_t i, kept = 0;

    for (i = 0; i < count; i++)
        if (!cs_waits(mirror, sids[i]))
            memmove(sids[kept++], sids[i], CS_UUID_MAX);
    return kept;
}

static enum cs_status compare_marked(struct cs_mirror *mirror, bool aside, struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;
    char sids[MARKED][CS_UUID_MAX], after[CS_UUID_MAX] = "";
    struct cs_id_page page = {.ids = sids, .max = MARKED, .count = MARKED};
    size_t count;
    enum cs_status rc = CS_OK;

    while (rc == CS_OK && page.count == MARKED) {
        page.count = 0;
        rc = port->marked(port->arg, after, aside, &page, err);
        if (page.count > 0)
            memcpy(after, sids[page.count - 1], CS_UUID_MAX);
        count = drop_waiting(mirror, sids, page.count);
        if (rc == CS_OK && !cs_may_write(mirror))
            rc = drop_unsent(mirror, sids, &count, err);
        if (rc == CS_OK)
            rc = cs_compare(mirror, (const char(*)[CS_UUID_MAX])sids, count, NULL, 0, err);
        cs_mirror_serve(mirror);
    }
    return rc;
}

/* Push and tend leases; a Redis without room is no reason not to pull. */
static enum cs_status push(struct cs_mirror *mirror, struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc;

    if (!cs_may_write(mirror))
        return CS_OK;
    rc = cs_push_news(mirror, &why);
    if (rc == CS_OK)
        note_time(mirror, &mirror->figures.last_push);
    if (rc == CS_OK)
        rc = cs_leases_tend(mirror, true, &why);
    if (rc == CS_OK)
        return CS_OK;
    if (cs_redis_owed(mirror->redis) > 0)
        cs_redis_close(mirror->redis);
    if (cs_redis_class(&why) != CS_REDIS_FULL)
        return cs_err_set(err, why.status, why.code, "%s", why.msg);
    note_full(mirror, &why);
    return cs_redis_connected(mirror->redis)
               ? CS_OK
               : cs_redis_connect(mirror->redis, cs_op_deadline(), err);
}

/* What logs named and Redis has not is forgotten only after a second look at both. */
static enum cs_status compare_missing(struct cs_mirror *mirror, bool full, struct cs_err *err)
{
    enum cs_status rc;

    if (!mirror->missed)
        return CS_OK;
    mirror->keepalive_at = 0; /* all logs */
    rc = pull_logs(mirror, false, err);
    mirror->sure = true;
    if (rc == CS_OK)
        rc = compare_marked(mirror, full, err);
    mirror->sure = false;
    return rc;
}

void cs_step_again(struct cs_mirror *mirror)
{
    if (mirror->again_at != 0)
        return;
    mirror->again_ms = mirror->again_ms == 0 ? AGAIN_MS : mirror->again_ms * 2;
    if (mirror->again_ms > KEEPALIVE_MS)
        mirror->again_ms = KEEPALIVE_MS;
    mirror->again_at = cs_mono_ms() + mirror->again_ms;
}

static enum cs_status do_step(struct cs_mirror *mirror, bool full, struct cs_err *err)
{
    bool waited;
    bool fresh = false;
    int64_t now = cs_mono_ms();
    enum cs_status rc;

    follow_target(mirror);
    rc = connect_redis(mirror, &fresh, err);
    mirror->again_at = 0;
    if (full)
        mirror->push_after = 0; /* asked for: try whether there is room now */
    waited = mirror->full.status != CS_OK && cs_may_write(mirror);
    if (rc == CS_OK)
        rc = refresh_follows(mirror, err);
    if (fresh && (mirror->full_at == 0 || mirror->full_at + RECONNECT_MS < now))
        full = true;
    if (mirror->full_at != 0 && mirror->full_at + FULL_MS < now)
        full = true;
    mirror->push_all = full;
    if (rc == CS_OK)
        cs_mirror_serve(mirror);
    if (rc == CS_OK)
        rc = push(mirror, err);
    if (waited && cs_may_write(mirror))
        full = true; /* comparisons had to leave out what they would have written */
    if (rc == CS_OK)
        cs_bell_heed(mirror);
    if (rc == CS_OK)
        rc = pull_logs(mirror, full, err);
    mirror->missed = false;
    if (rc == CS_OK)
        rc = compare_marked(mirror, full, err);
    if (rc == CS_OK)
        rc = compare_missing(mirror, full, err);
    if (rc == CS_OK) /* of a host that was put back to its backup, messages of its own came back */
        rc = push(mirror, err);
    if (rc == CS_OK && cs_may_write(mirror))
        cs_err_clear(&mirror->full);
    if (rc == CS_OK && mirror->again_at == 0)
        mirror->again_ms = 0;
    if (rc == CS_OK && full) {
        mirror->full_at = cs_mono_ms();
        rc = cs_ask_time(mirror, err);
    }
    return rc;
}

enum cs_status cs_mirror_step(struct cs_mirror *mirror, bool full, struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc = do_step(mirror, full, &why);

    if (rc != CS_OK && cs_redis_owed(mirror->redis) > 0)
        cs_redis_close(mirror->redis); /* what it owes belongs to work that was given up */
    if (rc != CS_OK && cs_redis_class(&why) == CS_REDIS_FULL)
        note_full(mirror, &why);
    if (rc == CS_OK && mirror->full.status != CS_OK) {
        why = mirror->full;
        rc = why.status;
    }
    if (rc == CS_OK) {
        cs_backoff_reset(&mirror->backoff);
        set_state(mirror, CS_MIRROR_ONLINE, "");
    } else {
        set_state(mirror, state_after(&why), why.msg);
        if (cs_redis_class_reconnects(cs_redis_class(&why)))
            cs_redis_close(mirror->redis);
    }
    cs_bell_publish(mirror);
    return rc == CS_OK ? rc : cs_err_set(err, why.status, why.code, "%s", why.msg);
}

/* ---- the thread ---- */

static int64_t next_time(struct cs_mirror *mirror)
{
    int64_t at = mirror->keepalive_at;

    if (!cs_may_write(mirror))
        return mirror->push_after < at ? mirror->push_after : at;
    if (cs_leases_until(mirror) < at)
        at = cs_leases_until(mirror);
    if (mirror->again_at != 0 && mirror->again_at < at)
        at = mirror->again_at;
    if (cs_waiting_until(mirror) < at)
        at = cs_waiting_until(mirror);
    return at;
}

/* With the mutex held: take the syncs out of the list of asks; serve() does the others. */
static struct cs_ask *take_syncs(struct cs_mirror *mirror)
{
    struct cs_ask *syncs = NULL, **end = &syncs, **link = &mirror->asks, *ask;

    while ((ask = *link) != NULL) {
        if (ask->kind != CS_ASK_SYNC) {
            link = &ask->next;
            continue;
        }
        *link = ask->next;
        ask->next = NULL;
        *end = ask;
        end = &ask->next;
    }
    mirror->asks_end = link;
    return syncs;
}

/* When the next step is due. */
struct schedule {
    int64_t retry_at; /* mono ms; 0: the last step worked */
    int64_t eager_at; /* from then on a local write is reason enough to try again */
};

/* Sleep until there is something to do. Syncs that wait move to *out_syncs. False at the end. */
static bool await_work(struct cs_mirror *mirror, const struct schedule *schedule,
                       struct cs_ask **out_syncs)
{
    bool stopping;

    pthread_mutex_lock(&mirror->mutex);
    for (;;) {
        int64_t at = schedule->retry_at != 0 ? schedule->retry_at : next_time(mirror);
        int64_t now = cs_mono_ms();

        if (mirror->stopping || mirror->asks != NULL ||
            (mirror->woken && (schedule->retry_at == 0 || schedule->eager_at <= now)))
            break;
        if (mirror->woken && schedule->eager_at < at)
            at = schedule->eager_at;
        if (at <= now)
            break;
        (void)cs_cond_wait(&mirror->work, &mirror->mutex, at);
    }
    *out_syncs = take_syncs(mirror);
    stopping = mirror->stopping;
    pthread_mutex_unlock(&mirror->mutex);
    return !stopping;
}

/* After a step that failed: what Redis refuses today it refuses in a second, too. */
static void plan_retry(struct cs_mirror *mirror, const struct cs_err *err,
                       struct schedule *schedule)
{
    enum cs_redis_class class = cs_redis_class(err);
    int64_t now = cs_mono_ms();
    int64_t wait = class == CS_REDIS_FULL ? mirror->push_after - now
                                          : cs_backoff_next(&mirror->backoff, class);

    if (class == CS_REDIS_LARGE || class == CS_REDIS_NOSCRIPT || class == CS_REDIS_REFUSED ||
        class == CS_REDIS_STOPPED)
        wait = REFUSED_MS;
    schedule->retry_at = now + wait + 1;
    schedule->eager_at = class == CS_REDIS_DENIED ? schedule->retry_at : now + EAGER_MS;
}

static void *run(void *arg)
{
    struct cs_mirror *mirror = arg;
    struct schedule schedule = {0, 0};
    struct cs_ask *syncs;
    struct cs_err stopped = {0};

    while (await_work(mirror, &schedule, &syncs)) {
        struct cs_err err = {0};
        int64_t now = cs_mono_ms();
        bool woken;

        pthread_mutex_lock(&mirror->mutex);
        woken = mirror->woken && schedule.eager_at <= now;
        mirror->woken = mirror->woken && !woken && schedule.retry_at > now;
        pthread_mutex_unlock(&mirror->mutex);
        if (schedule.retry_at > now && syncs == NULL && !woken) {
            cs_mirror_serve(mirror);
            continue;
        }
        if (cs_mirror_step(mirror, syncs != NULL, &err) == CS_OK ||
            (cs_redis_class(&err) == CS_REDIS_FULL && mirror->keepalive_at > cs_mono_ms()))
            schedule = (struct schedule){0, 0}; /* one without room is read all the same */
        else
            plan_retry(mirror, &err, &schedule);
        answer_syncs(mirror, syncs, &err);
        cs_mirror_serve(mirror); /* what came meanwhile and found no connection is told so */
    }
    (void)cs_err_set(&stopped, CS_UNAVAILABLE, "shutting_down", "The daemon is shutting down");
    answer_syncs(mirror, syncs, &stopped);
    if (cs_redis_connected(mirror->redis)) {
        struct cs_err err = {0};

        mirror->push_all = true;
        (void)!cs_push_news(mirror, &err); /* what a drained turn left */
        (void)!cs_leases_tend(mirror, true, &err);
    }
    pthread_mutex_lock(&mirror->mutex);
    mirror->ended = true;
    pthread_cond_broadcast(&mirror->answered);
    pthread_mutex_unlock(&mirror->mutex);
    return NULL;
}

void cs_mirror_wake(struct cs_mirror *mirror)
{
    if (mirror == NULL)
        return;
    pthread_mutex_lock(&mirror->mutex);
    mirror->woken = true;
    pthread_cond_broadcast(&mirror->work);
    pthread_mutex_unlock(&mirror->mutex);
}

/* ---- life ---- */

static enum cs_status init(struct cs_mirror *mirror, struct cs_err *err)
{
    uint64_t seed = 0;
    enum cs_status rc = cs_cond_init(&mirror->work, err);

    if (rc == CS_OK)
        rc = cs_cond_init(&mirror->answered, err);
    if (rc == CS_OK)
        rc = cs_random(&seed, sizeof seed, err);
    if (rc == CS_OK)
        rc = cs_redis_new(mirror->options.redis, &mirror->redis, err);
    if (rc == CS_OK)
        rc = cs_redis_new(mirror->options.redis, &mirror->bell, err);
    cs_backoff_init(&mirror->backoff, seed);
    return rc;
}

enum cs_status cs_mirror_new(const struct cs_mirror_options *options, struct cs_mirror **out_mirror,
                             struct cs_err *err)
{
    struct cs_mirror *mirror = calloc(1, sizeof *mirror);
    enum cs_status rc;

    if (mirror == NULL)
        return cs_err_nomem(err);
    mirror->options = *options;
    (void)snprintf(mirror->host, sizeof mirror->host, "%s", options->host);
    mirror->message_max = options->message_max != 0 ? options->message_max : MESSAGE_MAX;
    mirror->request_max = options->request_max != 0 ? options->request_max : REQUEST_MAX;
    mirror->asks_end = &mirror->asks;
    mirror->figures.state = CS_MIRROR_CONNECTING;
    mirror->figures.since = cs_clock_ms();
    pthread_mutex_init(&mirror->mutex, NULL);
    rc = init(mirror, err);
    if (rc != CS_OK) {
        cs_mirror_free(mirror);
        return rc;
    }
    *out_mirror = mirror;
    return CS_OK;
}

enum cs_status cs_mirror_start(struct cs_mirror *mirror, struct cs_err *err)
{
    enum cs_status rc;

    mirror->threads = true;
    rc = cs_thread_start(&mirror->thread, "mirror", STACK_BYTES, run, mirror, err);
    if (rc != CS_OK) {
        mirror->threads = false;
        return rc;
    }
    rc = cs_thread_start(&mirror->bell_thread, "doorbell", STACK_BYTES, cs_bell_run, mirror, err);
    if (rc != CS_OK) {
        pthread_mutex_lock(&mirror->mutex);
        mirror->stopping = true;
        pthread_cond_broadcast(&mirror->work);
        pthread_mutex_unlock(&mirror->mutex);
        pthread_join(mirror->thread, NULL);
        mirror->threads = false;
    }
    return rc;
}

void cs_mirror_stop(struct cs_mirror *mirror, int64_t deadline)
{
    bool ended;

    if (mirror == NULL || !mirror->threads)
        return;
    pthread_mutex_lock(&mirror->mutex);
    mirror->stopping = true;
    pthread_cond_broadcast(&mirror->work);
    pthread_mutex_unlock(&mirror->mutex);
    cs_redis_interrupt(mirror->bell);

    pthread_mutex_lock(&mirror->mutex);
    while (!mirror->ended && cs_cond_wait(&mirror->answered, &mirror->mutex, deadline))
        continue;
    ended = mirror->ended;
    pthread_mutex_unlock(&mirror->mutex);
    if (!ended)
        cs_redis_interrupt(mirror->redis);
    pthread_join(mirror->thread, NULL);
    cs_redis_interrupt(mirror->bell);
    pthread_join(mirror->bell_thread, NULL);
    mirror->threads = false;
}

void cs_mirror_free(struct cs_mirror *mirror)
{
    struct cs_ask *ask;
    size_t i;

    if (mirror == NULL)
        return;
    cs_redis_free(mirror->redis);
    cs_redis_free(mirror->bell);
    for (i = 0; i < mirror->follow_count; i++)
        drop_follow(&mirror->follows[i]);
    free(mirror->follows);
    cs_leases_free(mirror);
    while ((ask = mirror->asks) != NULL) {
        mirror->asks = ask->next;
        free(ask);
    }
    cs_waiting_free(mirror);
    cs_reply_free(mirror->heard);
    free(mirror->heard_users);
    free(mirror->bell_users);
    pthread_cond_destroy(&mirror->work);
    pthread_cond_destroy(&mirror->answered);
    pthread_mutex_destroy(&mirror->mutex);
    free(mirror);
}
