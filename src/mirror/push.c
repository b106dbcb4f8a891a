/* mirror/push: local messages into Redis.
 *
 * The message table is the log: a cursor of rowids says what was offered. A session whose messages
 * Redis did not take at once is marked, and compared; the cursor passes them only in the
 * transaction that sets the mark.
 */
#include <stdlib.h>
#include <string.h>

#include "mirror_priv.h"

#define NEWS_MAX   64         /* sessions in one pipeline */
#define BATCH_MAX  64         /* messages in one request */
#define FLIGHT_MAX (8u << 20) /* bytes of a pipeline */

struct cs_script_session cs_script_session_of(const struct cs_mirror_local *local)
{
    return (struct cs_script_session){local->meta.sid, local->meta.cid, local->meta.user,
                                      local->meta.ttl_s};
}

struct cs_script_state cs_script_state_of(const struct cs_mirror_local *local)
{
    return (struct cs_script_state){local->status, local->last_used_at, local->meta.model};
}

/* ---- messages of one request ---- */

struct batch {
    struct cs_mirror_range range;
    struct cs_buf text;           /* rendered messages, one after the other */
    size_t starts[BATCH_MAX + 1]; /* where each begins; [count] is the end */
    size_t count;
    size_t message_max, request_max;
    bool more; /* there are further ones */
};

static enum cs_status add_message(void *arg, const struct cs_mirror_message *message,
                                  struct cs_err *err)
{
    struct batch *batch = arg;

    if (batch->count == BATCH_MAX ||
        (batch->count > 0 && batch->text.len + message->len > batch->request_max)) {
        batch->more = true;
        return CS_CANCELLED;
    }
    cs_record_write(&batch->text, message, batch->message_max);
    batch->starts[++batch->count] = batch->text.len;
    return cs_buf_check(&batch->text, err);
}

static enum cs_status read_batch(struct cs_mirror *mirror, const char *sid, int64_t origin,
                                 int64_t from, struct batch *batch, struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;

    cs_buf_reset(&batch->text);
    batch->count = 0;
    batch->more = false;
    batch->message_max = mirror->message_max;
    batch->request_max = mirror->request_max;
    batch->range = (struct cs_mirror_range){sid, origin, from};
    return port->read(port->arg, &batch->range, add_message, batch, err);
}

static enum cs_status append_push(struct cs_mirror *mirror, const struct cs_mirror_local *local,
                                  const struct batch *batch, struct cs_err *err)
{
    const char *messages[BATCH_MAX];
    size_t lens[BATCH_MAX], i;
    char name[CS_VECTOR_NAME_MAX];
    struct cs_push push = {
        .session = cs_script_session_of(local),
        .state = cs_script_state_of(local),
        .origin = name,
        .from = batch->range.from,
        .messages = messages,
        .lens = lens,
        .count = batch->count,
        .lease = batch->more ? NULL : cs_lease_to_release(mirror, local->meta.sid),
    };

    cs_vector_name(batch->range.origin, name);
    for (i = 0; i < batch->count; i++) {
        messages[i] = batch->text.data + batch->starts[i];
        lens[i] = batch->starts[i + 1] - batch->starts[i];
    }
    return cs_push_append(mirror->redis, &push, err);
}

/* ---- seeing them come back ---- */

void cs_note_sent(struct cs_mirror *mirror, const char *user, const char *sid, const char *id)
{
    struct cs_follow *follow = cs_follow_of(mirror, user);
    struct cs_sent *sent;
    size_t cap;

    if (follow == NULL || id == NULL || strlen(id) >= CS_ENTRY_ID)
        return;
    if (follow->sent_count == follow->sent_cap) {
        cap = follow->sent_cap > 0 ? follow->sent_cap * 2 : 16;
        sent = cap <= 65536 ? reallocarray(follow->sent, cap, sizeof *sent) : NULL;
        if (sent == NULL) { /* too many to watch: compare all instead */
            follow->resync = true;
            return;
        }
        follow->sent = sent;
        follow->sent_cap = cap;
    }
    sent = &follow->sent[follow->sent_count++];
    memcpy(sent->id, id, strlen(id) + 1);
    memcpy(sent->sid, sid, CS_UUID_MAX);
}

/* What an accepted request leaves to be remembered. */
static enum cs_status note_accepted(struct cs_mirror *mirror, const struct cs_mirror_local *local,
                                    const struct cs_script_reply *reply, struct cs_changes *changes,
                                    struct cs_err *err)
{
    struct cs_mirror_change change = {.kind = CS_CHANGE_STAMP};

    cs_lease_released(mirror, local->meta.sid);
    if (reply->id == NULL)
        return CS_OK;
    cs_note_sent(mirror, local->meta.user, local->meta.sid, reply->id);
    change.number = cs_entry_stamp(reply->id);
    change.sid = cs_changes_text(changes, local->meta.sid, strlen(local->meta.sid));
    return change.sid != NULL ? cs_changes_add(changes, &change, err) : cs_err_nomem(err);
}

/* ---- one session ---- */

/* A push and its verdict; the script's text goes along when the server has forgotten it. */
static enum cs_status push_once(struct cs_mirror *mirror, const struct cs_mirror_local *local,
                                const struct batch *batch, struct cs_script_reply *reply,
                                struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc = append_push(mirror, local, batch, err);

    if (rc == CS_OK)
        rc = cs_script_take(mirror->redis, cs_op_deadline(), reply, &why);
    else
        return rc;
    if (rc != CS_OK && cs_redis_class(&why) == CS_REDIS_NOSCRIPT) {
        cs_err_clear(&why);
        rc = append_push(mirror, local, batch, &why);
        if (rc == CS_OK)
            rc = cs_script_take(mirror->redis, cs_op_deadline(), reply, &why);
    }
    return rc == CS_OK ? rc : cs_err_set(err, why.status, why.code, "%s", why.msg);
}

/* The server finds the request too large: ask for less from now on. False when less is not to be
 * had. */
static bool ask_for_less(struct cs_mirror *mirror, const struct batch *batch)
{
    if (batch->count > 1 && mirror->request_max > 4096) {
        mirror->request_max /= 2;
        return true;
    }
    if (batch->count == 1 && mirror->message_max > 1024) {
        mirror->message_max = batch->text.len / 2 < mirror->message_max ? batch->text.len / 2
                                                                        : mirror->message_max / 2;
        return true;
    }
    return false;
}

enum cs_status cs_push_origin(struct cs_mirror *mirror, const struct cs_mirror_local *local,
                              int64_t origin, int64_t from, enum cs_verdict *out_verdict,
                              struct cs_err *err)
{
    struct batch *batch = calloc(1, sizeof *batch);
    struct cs_changes changes = {0};
    enum cs_verdict verdict = CS_VERDICT_OK;
    enum cs_status rc = CS_OK;
    int gaps = 0;

    if (batch == NULL)
        return cs_err_nomem(err);
    cs_buf_init(&batch->text, SIZE_MAX / 2);
    while (rc == CS_OK) {
        struct cs_script_reply reply = {0};
        struct cs_err why = {0};

        rc = read_batch(mirror, local->meta.sid, origin, from, batch, err);
        if (rc != CS_OK || batch->count == 0)
            break;
        rc = push_once(mirror, local, batch, &reply, &why);
        if (rc != CS_OK && cs_redis_class(&why) == CS_REDIS_LARGE && ask_for_less(mirror, batch)) {
            rc = CS_OK;
            continue;
        }
        if (rc != CS_OK) {
            rc = cs_err_set(err, why.status, why.code, "%s", why.msg);
            break;
        }
        verdict = reply.verdict;
        if (verdict == CS_VERDICT_OK || verdict == CS_VERDICT_DUP || verdict == CS_VERDICT_NOINDEX)
            rc = note_accepted(mirror, local, &reply, &changes, err);
        if (verdict == CS_VERDICT_GAP && gaps++ < 4) {
            from = reply.seq + 1;
            cs_script_reply_free(&reply);
            continue;
        }
        cs_script_reply_free(&reply);
        if (verdict != CS_VERDICT_OK && verdict != CS_VERDICT_DUP)
            break;
        from += (int64_t)batch->count;
    }
    cs_buf_fini(&batch->text);
    free(batch);
    if (rc == CS_OK)
        rc = cs_changes_apply(mirror, &changes, err);
    else
        cs_changes_fini(&changes);
    if (rc == CS_OK)
        *out_verdict = verdict == CS_VERDICT_DUP ? CS_VERDICT_OK : verdict;
    return rc;
}

/* ---- news of many sessions in one pipeline ---- */

struct flight {
    struct cs_mirror_news news[NEWS_MAX];
    struct cs_mirror_local locals[NEWS_MAX];
    bool asked[NEWS_MAX];   /* a reply is owed */
    bool slow[NEWS_MAX];    /* to be compared */
    unsigned how[NEWS_MAX]; /* then */
    size_t count;
    int64_t upto;
    struct batch batch;
};

static void flight_free(struct flight *flight)
{
    size_t i;

    for (i = 0; i < flight->count; i++)
        cs_mirror_local_fini(&flight->locals[i]);
    cs_buf_fini(&flight->batch.text);
    free(flight);
}

/* Put the push of news @i into the pipeline, or leave it for the slow way. */
static enum cs_status ask(struct cs_mirror *mirror, struct flight *flight, size_t i,
                          struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;
    const struct cs_mirror_news *news = &flight->news[i];
    struct cs_mirror_local *local = &flight->locals[i];
    struct cs_err why = {0};
    enum cs_status rc = port->load(port->arg, news->sid, local, NULL, NULL, err);

    if (rc != CS_OK || !local->known)
        return rc;
    rc = read_batch(mirror, news->sid, news->origin, news->from, &flight->batch, err);
    if (rc != CS_OK || flight->batch.count == 0)
        return rc;
    flight->slow[i] = flight->batch.more; /* the rest goes the slow way, which has no limit */
    rc = append_push(mirror, local, &flight->batch, &why);
    flight->asked[i] = rc == CS_OK;
    if (rc == CS_NO_MEM)
        return cs_err_nomem(err);
    if (rc != CS_OK)
        flight->slow[i] = true; /* the queue or the request was too small for it */
    return CS_OK;
}

/* Take the reply for news @i. */
static enum cs_status hear(struct cs_mirror *mirror, struct flight *flight, size_t i,
                           struct cs_changes *changes, struct cs_err *err)
{
    struct cs_script_reply reply = {0};
    struct cs_err why = {0};
    enum cs_status rc = cs_script_take(mirror->redis, cs_op_deadline(), &reply, &why);

    if (rc != CS_OK) {
        if (cs_ends_step(mirror, &why))
            return cs_err_set(err, why.status, why.code, "%s", why.msg);
        flight->slow[i] = true;
        return CS_OK;
    }
    if (reply.verdict == CS_VERDICT_OK || reply.verdict == CS_VERDICT_DUP ||
        reply.verdict == CS_VERDICT_NOINDEX)
        rc = note_accepted(mirror, &flight->locals[i], &reply, changes, err);
    if (reply.verdict != CS_VERDICT_OK && reply.verdict != CS_VERDICT_DUP)
        flight->slow[i] = true;
    if (reply.verdict == CS_VERDICT_FORK)
        flight->how[i] = CS_COMPARE_PULL;
    else if (reply.verdict == CS_VERDICT_NOINDEX)
        flight->how[i] = CS_COMPARE_INDEX;
    cs_script_reply_free(&reply);
    return rc;
}

static enum cs_status add_mark(struct cs_changes *changes, const char *sid, struct cs_err *err)
{
    struct cs_mirror_change change = {.kind = CS_CHANGE_UNSENT};

    change.sid = cs_changes_text(changes, sid, strlen(sid));
    return change.sid != NULL ? cs_changes_add(changes, &change, err) : cs_err_nomem(err);
}

/* Mark what goes the slow way, then go it; only then the cursor moves. */
static enum cs_status settle(struct cs_mirror *mirror, struct flight *flight,
                             struct cs_changes *changes, struct cs_err *err)
{
    struct cs_mirror_change pushed = {.kind = CS_CHANGE_PUSHED, .number = flight->upto};
    enum cs_status rc = CS_OK;
    size_t i;

    for (i = 0; i < flight->count && rc == CS_OK; i++)
        if (flight->slow[i])
            rc = add_mark(changes, flight->news[i].sid, err);
    if (rc == CS_OK)
        rc = cs_changes_apply(mirror, changes, err);
    for (i = 0; i < flight->count && rc == CS_OK; i++)
        if (flight->slow[i])
            rc = cs_compare(mirror, (const char(*)[CS_UUID_MAX])flight->news[i].sid, 1, NULL,
                            flight->how[i], err);
    if (rc == CS_OK)
        rc = mirror->options.port.apply(mirror->options.port.arg, &pushed, 1, err);
    return rc;
}

static enum cs_status push_flight(struct cs_mirror *mirror, struct flight *flight,
                                  struct cs_err *err)
{
    struct cs_changes changes = {0};
    enum cs_status rc = CS_OK;
    size_t i, sent;

    for (sent = 0; sent < flight->count && rc == CS_OK;) {
        size_t first = sent;
        size_t bytes = 0;

        for (; sent < flight->count && rc == CS_OK && bytes < FLIGHT_MAX; sent++) {
            rc = ask(mirror, flight, sent, err);
            bytes += flight->batch.text.len;
        }
        for (i = first; i < sent && rc == CS_OK; i++)
            if (flight->asked[i])
                rc = hear(mirror, flight, i, &changes, err);
    }
    if (rc == CS_OK)
        rc = settle(mirror, flight, &changes, err);
    cs_changes_fini(&changes);
    return rc;
}

enum cs_status cs_push_news(struct cs_mirror *mirror, struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;
    enum cs_status rc = CS_OK;
    bool more = mirror->push_after <= cs_mono_ms();

    while (rc == CS_OK && more) {
        struct flight *flight = calloc(1, sizeof *flight);
        struct cs_mirror_news_page page = {.max = NEWS_MAX};
        int64_t after = 0;

        if (flight == NULL)
            return cs_err_nomem(err);
        cs_buf_init(&flight->batch.text, SIZE_MAX / 2);
        page.items = flight->news;
        rc = port->pushed(port->arg, &after, err);
        if (rc == CS_OK)
            rc = port->news(port->arg, after, &page, err);
        flight->count = page.count;
        flight->upto = page.upto;
        more = rc == CS_OK && flight->upto > after;
        if (more)
            rc = push_flight(mirror, flight, err);
        flight_free(flight);
        cs_mirror_serve(mirror);
    }
    return rc;
}
