/* mirror/bell: a second connection that waits for news in the users' logs.
 *
 * A blocked XREAD is a doorbell only: it would not notice a log that went back in time, so news of
 * others are read by the other connection, from the cursor on. What it hears of our own, though,
 * needs no second look: it confirms what was pushed.
 *
 * It listens for so many users at once; if there are more, for some after the others. A log that
 * grew meanwhile rings as soon as it is listened to.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mirror_priv.h"

#define CONNECT_MS 5000
#define BLOCK_MS   600000 /* of the doorbell's read */
#define ROUND_MS   10000  /* until it has listened for all, if they are too many for one read */
#define PART_MS    500    /* but for so long at least for each part of them */
#define PAUSE_MS   1000   /* after what we rang ourselves: more may follow */
#define RETRY_MS   500    /* after a failure, at least */
#define USERS_MAX  1000u
#define OWN_MAX    256 /* entries of ours heard, before the cursor is to follow */

/* What it listens for, as one text: pairs of a user and an entry's id, in the users' order. */
struct users {
    char *text;
    size_t len, count;
    int block_ms;
    char last[CS_KEY_CAP]; /* user, if others come after; else "" */
};

/* ---- the stepping thread's side ---- */

static int compare_numbers(unsigned long long a, unsigned long long b)
{
    return (a > b) - (a < b);
}

int cs_entry_compare(const char *a, const char *b)
{
    char *rest_a = NULL, *rest_b = NULL;
    int order = compare_numbers(strtoull(a, &rest_a, 10), strtoull(b, &rest_b, 10));

    if (order != 0)
        return order;
    return compare_numbers(*rest_a == '-' ? strtoull(rest_a + 1, NULL, 10) : 0,
                           *rest_b == '-' ? strtoull(rest_b + 1, NULL, 10) : 0);
}

void cs_bell_publish(struct cs_mirror *mirror)
{
    struct cs_buf users;
    char *text;
    size_t len, i;
    bool stale;

    if (!mirror->threads)
        return;
    cs_buf_init(&users, 64 << 20);
    for (i = 0; i < mirror->follow_count; i++) {
        const struct cs_follow *follow = &mirror->follows[i];
        const char *from =
            cs_entry_compare(follow->heard, follow->cursor) > 0 ? follow->heard : follow->cursor;

        cs_buf_add(&users, follow->user, strlen(follow->user) + 1);
        cs_buf_add(&users, from, strlen(from) + 1);
    }
    text = cs_buf_take(&users, &len);
    pthread_mutex_lock(&mirror->mutex);
    if (text != NULL) {
        char *old = mirror->bell_users;

        mirror->bell_users = text;
        mirror->bell_len = len;
        text = old;
    }
    if (mirror->heeded) {
        cs_reply_free(mirror->heard);
        free(mirror->heard_users);
        mirror->heard = NULL;
        mirror->heard_users = NULL;
        mirror->heeded = false;
    }
    stale = mirror->bell_stale;
    mirror->bell_stale = false;
    pthread_cond_broadcast(&mirror->work);
    pthread_mutex_unlock(&mirror->mutex);
    free(text);
    if (stale) /* it may be blocked on a list without the new users, for minutes */
        cs_redis_interrupt(mirror->bell);
}

/* Where the bell listened from. */
static const char *heard_from(const struct cs_mirror *mirror, const char *user)
{
    const char *at = mirror->heard_users, *end = at + mirror->heard_len;

    while (at < end) {
        const char *from = at + strlen(at) + 1;

        if (strcmp(at, user) == 0)
            return from;
        at = from + strlen(from) + 1;
    }
    return "";
}

/* Whether an entry of ours between @from and @to did not come back. */
static bool misses(const struct cs_follow *follow, const char *from, const char *to)
{
    size_t i;

    for (i = 0; i < follow->sent_count; i++)
        if (cs_entry_compare(follow->sent[i].id, from) > 0 &&
            cs_entry_compare(follow->sent[i].id, to) <= 0)
            return true;
    return false;
}

/* One user's new entries. Whether they are all ours. */
static bool heed_entries(struct cs_mirror *mirror, struct cs_follow *follow,
                         const struct cs_reply *entries)
{
    const char *id = NULL, *from = heard_from(mirror, follow->user);
    size_t i, count = cs_reply_size(entries);
    bool ours = count > 0;

    for (i = 0; i < count; i++) {
        id = cs_reply_string(cs_reply_at(cs_reply_at(entries, i), 0), NULL);
        if (id == NULL || strlen(id) >= CS_ENTRY_ID)
            return false;
        ours = cs_confirm(follow, id) && ours;
    }
    if (!ours)
        return false;
    if (misses(follow, from, id))
        follow->resync = true;
    memcpy(follow->heard, id, strlen(id) + 1);
    follow->own += count;
    return follow->own < OWN_MAX;
}

void cs_bell_heed(struct cs_mirror *mirror)
{
    static const char prefix[] = CS_KEY_LOG;
    const struct cs_reply *heard;
    size_t i;

    pthread_mutex_lock(&mirror->mutex);
    heard = mirror->heeded ? NULL : mirror->heard; /* the bell waits until it is published */
    mirror->heeded = mirror->heard != NULL;
    pthread_mutex_unlock(&mirror->mutex);
    for (i = 0; i < cs_reply_size(heard); i++) {
        const struct cs_reply *stream = cs_reply_at(heard, i);
        const char *key = cs_reply_string(cs_reply_at(stream, 0), NULL);
        struct cs_follow *follow = NULL;

        if (key != NULL && strncmp(key, prefix, sizeof prefix - 1) == 0)
            follow = cs_follow_of(mirror, key + sizeof prefix - 1);
        if (follow != NULL && !heed_entries(mirror, follow, cs_reply_at(stream, 1)))
            cs_ring(mirror, follow->user);
    }
}

void cs_ring(struct cs_mirror *mirror, const char *user)
{
    struct cs_follow *follow = cs_follow_of(mirror, user);

    if (follow == NULL)
        return;
    pthread_mutex_lock(&mirror->mutex);
    follow->rung = true;
    pthread_mutex_unlock(&mirror->mutex);
}

/* ---- the bell's thread ---- */

/* Behind the pair at @at. */
static const char *next_pair(const char *at)
{
    at += strlen(at) + 1;
    return at + strlen(at) + 1;
}

/* With the mutex held: the users to listen for after the last ones. */
static void take_users(const struct cs_mirror *mirror, struct users *users)
{
    const char *first = mirror->bell_users, *end = first + mirror->bell_len, *from = first, *at;
    const char *last = "";
    size_t all = 0;

    for (at = first; at < end; at = next_pair(at), all++)
        if (strcmp(at, users->last) <= 0)
            from = next_pair(at);
    if (all <= USERS_MAX || from == end)
        from = first;
    users->count = 0;
    for (at = from; at < end && users->count < USERS_MAX; at = next_pair(at), users->count++)
        last = at;
    (void)snprintf(users->last, sizeof users->last, "%s", all > USERS_MAX ? last : "");
    users->block_ms = BLOCK_MS;
    if (all > USERS_MAX) {
        users->block_ms = (int)(ROUND_MS / ((all + USERS_MAX - 1) / USERS_MAX));
        if (users->block_ms < PART_MS)
            users->block_ms = PART_MS;
    }
    users->len = (size_t)(at - from);
    users->text = users->len > 0 ? malloc(users->len) : NULL;
    if (users->text != NULL)
        memcpy(users->text, from, users->len);
}

/* Wait until there is something to listen for, @until at the earliest. False at the end. */
static bool await(struct cs_mirror *mirror, int64_t until, struct users *users)
{
    const struct cs_redis_options *target;
    bool stopping;

    free(users->text);
    users->text = NULL;
    pthread_mutex_lock(&mirror->mutex);
    while (!mirror->stopping) {
        bool ready =
            mirror->bell_len > 0 && mirror->heard == NULL &&
            (mirror->figures.state == CS_MIRROR_ONLINE || mirror->figures.state == CS_MIRROR_FULL);

        if (ready && (mirror->bell_now || until <= cs_mono_ms()))
            break;
        (void)cs_cond_wait(&mirror->work, &mirror->mutex, ready ? until : CS_NEVER);
    }
    mirror->bell_now = false;
    stopping = mirror->stopping;
    target = mirror->bell_target;
    mirror->bell_target = NULL;
    if (!stopping)
        take_users(mirror, users);
    pthread_mutex_unlock(&mirror->mutex);
    if (target != NULL)
        cs_redis_redirect(mirror->bell, target);
    return !stopping;
}

/* XREAD COUNT n BLOCK ms STREAMS keys… ids… */
static enum cs_status append_read(struct cs_mirror *mirror, const struct users *users,
                                  struct cs_err *err)
{
    size_t count = users->count, at, i;
    const char **argv = calloc(6 + 2 * count, sizeof *argv);
    size_t *lens = calloc(6 + 2 * count, sizeof *lens);
    char(*keys)[CS_KEY_CAP] = calloc(count, sizeof *keys), block[16];
    const char *const words[] = {"XREAD", "COUNT", "64", "BLOCK", block, "STREAMS"};
    enum cs_status rc = CS_NO_MEM;

    if (argv == NULL || lens == NULL || keys == NULL) {
        (void)cs_err_nomem(err);
        goto out;
    }
    (void)snprintf(block, sizeof block, "%d", users->block_ms);
    for (i = 0; i < 6; i++)
        argv[i] = words[i];
    for (i = 0, at = 0; i < count; i++) {
        (void)snprintf(keys[i], CS_KEY_CAP, "%s%s", CS_KEY_LOG, users->text + at);
        argv[6 + i] = keys[i];
        at += strlen(users->text + at) + 1;
        argv[6 + count + i] = users->text[at] != '\0' ? users->text + at : "0-0";
        at += strlen(users->text + at) + 1;
    }
    for (i = 0; i < 6 + 2 * count; i++)
        lens[i] = strlen(argv[i]);
    rc = cs_redis_append(mirror->bell, 6 + 2 * count, argv, lens, err);

out:
    free(argv);
    free(lens);
    free(keys);
    return rc;
}

/* Listen until somebody rings, or for a while: *out_heard NULL. */
static enum cs_status listen_once(struct cs_mirror *mirror, const struct users *users,
                                  struct cs_reply **out_heard, struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    enum cs_status rc = CS_OK;

    if (!cs_redis_connected(mirror->bell))
        rc = cs_redis_connect(mirror->bell, cs_mono_ms() + CONNECT_MS, err);
    if (rc == CS_OK)
        rc = append_read(mirror, users, err);
    if (rc == CS_OK)
        rc = cs_redis_take(mirror->bell, cs_mono_ms() + users->block_ms + CS_OP_MS, &reply, err);
    if (rc == CS_OK)
        rc = cs_reply_check(reply, err);
    if (rc == CS_OK && cs_reply_type(reply) == CS_REPLY_ARRAY) {
        *out_heard = reply;
        return CS_OK;
    }
    cs_reply_free(reply);
    return rc;
}

/* Hand over what was heard. */
static void tell_take(struct cs_mirror *mirror, struct cs_reply *heard, struct users *users)
{
    pthread_mutex_lock(&mirror->mutex);
    mirror->heard = heard;
    mirror->heard_users = users->text;
    mirror->heard_len = users->len;
    mirror->woken = true;
    pthread_cond_broadcast(&mirror->work);
    pthread_mutex_unlock(&mirror->mutex);
    users->text = NULL;
}

/* There may be news for everybody. */
static void ring_all(struct cs_mirror *mirror)
{
    size_t i;

    pthread_mutex_lock(&mirror->mutex);
    for (i = 0; i < mirror->follow_count; i++)
        mirror->follows[i].rung = true;
    mirror->woken = true;
    pthread_cond_broadcast(&mirror->work);
    pthread_mutex_unlock(&mirror->mutex);
}

void *cs_bell_run(void *arg)
{
    struct cs_mirror *mirror = arg;
    struct users users = {0};
    struct cs_backoff backoff;
    int64_t until = 0;

    cs_backoff_init(&backoff, (uint64_t)cs_mono_us());
    while (await(mirror, until, &users)) {
        struct cs_reply *heard = NULL;
        struct cs_err err = {0};
        enum cs_status rc =
            users.text != NULL ? listen_once(mirror, &users, &heard, &err) : cs_err_nomem(&err);

        until = 0; /* nothing new: listen again at once */
        if (rc == CS_OK) {
            cs_backoff_reset(&backoff);
            if (heard == NULL)
                continue;
            until = cs_mono_ms() + PAUSE_MS;
            tell_take(mirror, heard, &users);
            continue;
        }
        cs_redis_close(mirror->bell);
        if (rc == CS_CANCELLED)
            continue; /* there are more users to listen for */
        /* the mirror's own connection may be gone as well: let it find out */
        ring_all(mirror);
        until = cs_mono_ms() + RETRY_MS + cs_backoff_next(&backoff, CS_REDIS_LOST);
    }
    free(users.text);
    return NULL;
}
