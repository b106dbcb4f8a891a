/* mirror/push: local messages into Redis.
 *
 * The message table is the log: a cursor of rowids says what was offered. A session whose messages
 * Redis did not take at once is marked, and compared; the cursor passes them only in the
 * transaction that sets the mark.
 *
 * A prompt waits for its answer, to go with it in one request, but not for long. It is marked
 * meanwhile, so that nobody forgets it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mirror_priv.h"

#define NEWS_MAX    256        /* sessions in one pipeline */
#define BATCH_MAX   1024       /* messages in one request */
#define GATHER_MIN  8          /* messages of a session in a page of news that go as they are */
#define FLIGHT_MAX  (8u << 20) /* bytes of a pipeline, and of the messages of a page */
#define WRITE_MIN   65536 /* bytes of it that are written at once: Redis need not wait for all */
#define KEEP_MAX    4096  /* changes that one transaction keeps */
#define DONE_MAX    (1u << 17) /* sessions of one call that are remembered, twice */
#define WAIT_MS     30000      /* that a prompt waits for its answer */
#define WAIT_NEW_MS 2000       /* in a session that other hosts do not know yet */

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
    struct cs_buf text; /* rendered messages, a comma before each */
    struct cs_buf lens; /* of all but the last, as the script wants them */
    size_t count, last; /* last: bytes of the last one */
    size_t message_max, request_max;
    bool more;  /* there are further ones */
    bool part;  /* there may be further ones, which other news will bring */
    bool ended; /* there is more than what began a turn */
};

static enum cs_status add_message(void *arg, const struct cs_mirror_message *message,
                                  struct cs_err *err)
{
    struct batch *batch = arg;
    size_t begin = batch->text.len;

    if (batch->count == BATCH_MAX ||
        (batch->count > 0 && batch->text.len + message->len > batch->request_max)) {
        batch->more = true;
        return CS_CANCELLED;
    }
    if (batch->count > 0) {
        cs_buf_addc(&batch->lens, ' ');
        cs_record_number(&batch->lens, batch->last);
    }
    batch->ended = batch->ended || !message->begins;
    cs_buf_addc(&batch->text, ',');
    cs_record_write(&batch->text, message, batch->message_max);
    batch->last = batch->text.len - begin;
    batch->count++;
    return cs_buf_check(batch->lens.status == CS_OK ? &batch->text : &batch->lens, err);
}

static void batch_init(struct batch *batch)
{
    cs_buf_init(&batch->text, SIZE_MAX / 2);
    cs_buf_init(&batch->lens, SIZE_MAX / 2);
}

static void batch_fini(struct batch *batch)
{
    cs_buf_fini(&batch->text);
    cs_buf_fini(&batch->lens);
}

static enum cs_status read_batch(struct cs_mirror *mirror, const char *sid, int64_t origin,
                                 int64_t from, struct batch *batch, struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;

    cs_leases_over(mirror, sid);
    cs_buf_reset(&batch->text);
    cs_buf_reset(&batch->lens);
    batch->count = 0;
    batch->more = batch->part = batch->ended = false;
    batch->message_max = mirror->message_max;
    batch->request_max = mirror->request_max;
    batch->range = (struct cs_mirror_range){sid, origin, from};
    return port->read(port->arg, &batch->range, add_message, batch, err);
}

/* ---- sessions whose index is fresh ---- */

static uint64_t hash_sid(const char *sid, uint64_t hash)
{
    for (; *sid != '\0'; sid++)
        hash = (hash ^ (unsigned char)*sid) * UINT64_C(1099511628211);
    return hash >> 20;
}

static struct cs_indexed *indexed_slot(struct cs_mirror *mirror, const char *sid)
{
    return &mirror->indexed[hash_sid(sid, 0) % CS_INDEXED_MAX];
}

static uint64_t connects(const struct cs_mirror *mirror)
{
    struct cs_redis_counts counts;

    cs_redis_counts(mirror->redis, &counts);
    return counts.connects;
}

static bool is_indexed(struct cs_mirror *mirror, const char *sid)
{
    const struct cs_indexed *slot = indexed_slot(mirror, sid);

    return strcmp(slot->sid, sid) == 0 && slot->until > cs_mono_ms() &&
           slot->connects == connects(mirror);
}

/* What a PUSH said of the index. Both it and the next one may have been under way for a while. */
static void note_indexed(struct cs_mirror *mirror, const char *sid,
                         const struct cs_script_reply *reply)
{
    struct cs_indexed *slot = indexed_slot(mirror, sid);
    int64_t fresh = reply->fresh_s * 1000 - INT64_C(2) * CS_OP_MS;

    if (reply->verdict == CS_VERDICT_DUP)
        return;
    if (reply->verdict != CS_VERDICT_OK || fresh <= 0) {
        slot->sid[0] = '\0';
        return;
    }
    (void)snprintf(slot->sid, sizeof slot->sid, "%s", sid);
    slot->until = cs_mono_ms() + fresh;
    slot->connects = connects(mirror);
}

static enum cs_status append_push(struct cs_mirror *mirror, const struct cs_mirror_local *local,
                                  const struct batch *batch, struct cs_err *err)
{
    char name[CS_VECTOR_NAME_MAX];
    struct cs_push push = {
        .session = cs_script_session_of(local),
        .state = cs_script_state_of(local),
        .origin = name,
        .from = batch->range.from,
        .messages = batch->text.data,
        .messages_len = batch->text.len,
        .lens = batch->lens.len > 0 ? batch->lens.data : "",
        .lease = batch->more || batch->part ? NULL : cs_lease_to_release(mirror, local->meta.sid),
        .index = !is_indexed(mirror, local->meta.sid),
    };

    cs_vector_name(batch->range.origin, name);
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
    note_indexed(mirror, local->meta.sid, reply);
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

bool cs_ask_for_less(struct cs_mirror *mirror, size_t messages, size_t bytes)
{
    if (messages > 1 && mirror->request_max > 4096) {
        mirror->request_max = (bytes < mirror->request_max ? bytes : mirror->request_max) / 2;
        return true;
    }
    if (messages == 1 && mirror->message_max > 1024) {
        mirror->message_max = (bytes < mirror->message_max ? bytes : mirror->message_max) / 2;
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
    batch_init(batch);
    while (rc == CS_OK) {
        struct cs_script_reply reply = {0};
        struct cs_err why = {0};

        rc = read_batch(mirror, local->meta.sid, origin, from, batch, err);
        if (rc != CS_OK || batch->count == 0)
            break;
        rc = push_once(mirror, local, batch, &reply, &why);
        if (rc != CS_OK && cs_redis_class(&why) == CS_REDIS_LARGE &&
            cs_ask_for_less(mirror, batch->count, batch->text.len)) {
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
    batch_fini(batch);
    free(batch);
    if (rc == CS_OK)
        rc = cs_changes_apply(mirror, &changes, err);
    else
        cs_changes_fini(&changes);
    if (rc == CS_OK)
        *out_verdict = verdict == CS_VERDICT_DUP ? CS_VERDICT_OK : verdict;
    return rc;
}

/* ---- prompts that wait for their answers ---- */

/* A session whose turn runs, and whose messages from `from` on are marked instead of sent. */
struct cs_waiting {
    char sid[CS_UUID_MAX];
    int64_t origin, from;
    int64_t generation; /* of the mark */
    int64_t until;      /* mono ms */
    struct cs_waiting *next;
};

static struct cs_waiting *find_waiting(const struct cs_mirror *mirror, const char *sid,
                                       int64_t origin)
{
    struct cs_waiting *one = mirror->waiting;

    while (one != NULL && (one->origin != origin || strcmp(one->sid, sid) != 0))
        one = one->next;
    return one;
}

bool cs_waits(const struct cs_mirror *mirror, const char *sid)
{
    const struct cs_waiting *one = mirror->waiting;

    while (one != NULL && strcmp(one->sid, sid) != 0)
        one = one->next;
    return one != NULL;
}

static void drop_waiting(struct cs_mirror *mirror, const struct cs_waiting *waiting)
{
    struct cs_waiting **link = &mirror->waiting, *one;

    while (*link != NULL && *link != waiting)
        link = &(*link)->next;
    one = *link;
    if (one == NULL)
        return;
    *link = one->next;
    free(one);
}

void cs_waiting_free(struct cs_mirror *mirror)
{
    while (mirror->waiting != NULL)
        drop_waiting(mirror, mirror->waiting);
}

int64_t cs_waiting_until(const struct cs_mirror *mirror)
{
    const struct cs_waiting *one;
    int64_t until = CS_NEVER;

    for (one = mirror->waiting; one != NULL; one = one->next)
        if (one->until < until)
            until = one->until;
    return until;
}

/* Gather those whose time is over. */
static size_t due(const struct cs_mirror *mirror, struct cs_mirror_news *news)
{
    const struct cs_waiting *one;
    int64_t now = cs_mono_ms();
    size_t count = 0;

    for (one = mirror->waiting; one != NULL && count < NEWS_MAX; one = one->next)
        if (mirror->push_all || one->until <= now) {
            memcpy(news[count].sid, one->sid, CS_UUID_MAX);
            news[count].origin = one->origin;
            news[count].to = INT64_MAX;
            news[count++].from = one->from;
        }
    return count;
}

/* ---- what is done already ---- */

struct done_entry {
    char sid[CS_UUID_MAX]; /* "": free */
    int64_t origin, upto;
};

/* Each session is pushed to its end, though the pages of news that name it go on: how far. */
struct done {
    struct done_entry *entries;
    size_t count, cap; /* cap: 0 or a power of two */
};

static struct done_entry *done_find(const struct done *done, const struct cs_mirror_news *news)
{
    size_t i = (size_t)hash_sid(news->sid, (uint64_t)news->origin) & (done->cap - 1);

    for (;; i = (i + 1) & (done->cap - 1)) {
        struct done_entry *entry = &done->entries[i];

        if (entry->sid[0] == '\0' ||
            (entry->origin == news->origin && strcmp(entry->sid, news->sid) == 0))
            return entry;
    }
}

static int64_t done_upto(const struct done *done, const struct cs_mirror_news *news)
{
    return done->cap > 0 ? done_find(done, news)->upto : 0;
}

/* Twice the room. Past its cap, and without memory, it forgets: what is pushed again is known. */
static void done_grow(struct done *done)
{
    size_t cap = done->cap == 0 ? 512 : done->cap * 2, i;
    struct done grown = {NULL, 0, cap};

    if (cap <= DONE_MAX)
        grown.entries = calloc(cap, sizeof *grown.entries);
    for (i = 0; i < done->cap && grown.entries != NULL; i++)
        if (done->entries[i].sid[0] != '\0') {
            struct cs_mirror_news key = {.origin = done->entries[i].origin};

            memcpy(key.sid, done->entries[i].sid, CS_UUID_MAX);
            *done_find(&grown, &key) = done->entries[i];
            grown.count++;
        }
    free(done->entries);
    *done = grown.entries != NULL ? grown : (struct done){NULL, 0, 0};
}

static void done_note(struct done *done, const struct cs_mirror_news *news, int64_t upto)
{
    struct done_entry *entry;

    if (done->count * 2 >= done->cap)
        done_grow(done);
    if (done->cap == 0)
        return;
    entry = done_find(done, news);
    done->count += entry->sid[0] == '\0';
    memcpy(entry->sid, news->sid, CS_UUID_MAX);
    entry->origin = news->origin;
    if (entry->upto < upto)
        entry->upto = upto;
}

/* ---- news of many sessions in one pipeline ---- */

enum way {
    WAY_NONE, /* nothing to send */
    WAY_PUSH,
    WAY_PUT,
    WAY_WAIT, /* for the end of its turn */
    WAY_SLOW, /* to be compared */
};

/* News on their way. */
struct item {
    struct cs_mirror_local local;
    struct batch gathered;      /* as the page of news brought them */
    struct cs_waiting *waiting; /* that ends with it, or NULL */
    enum way way;
    bool owed;              /* a reply */
    bool more;              /* messages behind this request */
    size_t messages, bytes; /* of the request */
    unsigned how;           /* to compare */
};

/* What a call did so far. What Redis took is remembered for a while before it is written down: to
 * offer it again does no harm, and a commit takes longer than a page of news. */
struct run {
    struct done done;
    struct cs_changes changes;
    int64_t upto; /* rowid: the news up to it are dealt with, if the changes are kept; -1: unread */
    bool moved;   /* it is to be kept */
};

struct flight {
    struct cs_mirror_news news[NEWS_MAX];
    struct item items[NEWS_MAX];
    size_t count;
    int64_t upto; /* rowid; 0: no news */
    struct run *run;
    struct cs_mirror *mirror;
    struct batch batch;
    size_t bytes;   /* that were gathered; then of the pipeline */
    size_t written; /* of these */
};

static void flight_free(struct flight *flight)
{
    size_t i;

    for (i = 0; i < NEWS_MAX; i++) { /* a page that failed may have gathered something */
        cs_mirror_local_fini(&flight->items[i].local);
        batch_fini(&flight->items[i].gathered);
    }
    batch_fini(&flight->batch);
    free(flight);
}

/* Whether Redis has nothing of a session: it never had, or its time is over there. */
static bool is_new(const struct cs_mirror *mirror, const struct cs_mirror_local *local)
{
    int64_t ttl = local->meta.ttl_s * 1000;

    return local->live && (local->stamp == 0 ||
                           (ttl > 0 && cs_local_ms(mirror, local->stamp) + ttl < cs_clock_ms()));
}

/* The queue or the request may be too small for it: then it goes the slow way. */
static enum cs_status asked(struct flight *flight, struct item *item, enum way way,
                            enum cs_status rc, struct cs_err *err)
{
    if (rc == CS_NO_MEM)
        return cs_err_nomem(err);
    flight->bytes += item->bytes;
    item->owed = rc == CS_OK;
    item->way = item->owed ? way : WAY_SLOW;
    return CS_OK;
}

static enum cs_status ask_put(struct cs_mirror *mirror, struct flight *flight, size_t i,
                              struct cs_err *err)
{
    struct item *item = &flight->items[i];
    struct cs_whole whole;
    struct cs_putting putting = {&item->local.meta, &item->local, &whole, NULL, 0};
    enum cs_status rc = cs_whole_load(mirror, flight->news[i].sid, 0, &whole, &item->local, err);

    if (rc == CS_OK && item->local.known && whole.text.len > 0) {
        item->more = whole.more;
        item->messages = whole.count;
        item->bytes = whole.text.len;
        rc = asked(flight, item, WAY_PUT, cs_whole_append(mirror, &putting, NULL), err);
    }
    cs_whole_fini(&whole);
    return rc;
}

static enum cs_status ask_push(struct cs_mirror *mirror, struct flight *flight, size_t i,
                               const struct batch *batch, struct cs_err *err)
{
    struct item *item = &flight->items[i];

    item->more = batch->more;
    item->messages = batch->count;
    item->bytes = batch->text.len;
    return asked(flight, item, WAY_PUSH, append_push(mirror, &item->local, batch, NULL), err);
}

/* A page of news brings its messages: in a backlog those of a session lie far apart, and to read
 * each session by itself would read all of it many times over. */
static enum cs_status gather(void *arg, size_t i, const struct cs_mirror_message *message,
                             struct cs_err *err)
{
    struct flight *flight = arg;
    struct batch *batch = &flight->items[i].gathered;
    enum cs_status rc;

    if (flight->bytes > 0 && flight->bytes + message->len > FLIGHT_MAX)
        return CS_CANCELLED;
    if (batch->count == 0) {
        batch_init(batch);
        batch->message_max = flight->mirror->message_max;
        batch->request_max = flight->mirror->request_max;
        batch->range = (struct cs_mirror_range){flight->news[i].sid, message->origin, message->seq};
    }
    if (message->seq != batch->range.from + (int64_t)batch->count)
        batch->more = true; /* or out of order: the rest is read by itself */
    flight->bytes += message->len;
    rc = batch->more ? CS_OK : add_message(batch, message, err);
    return rc == CS_CANCELLED ? CS_OK : rc;
}

/* The messages of news @i: those at hand if they are many, else all that there are by now. */
static enum cs_status choose_batch(struct cs_mirror *mirror, struct flight *flight, size_t i,
                                   struct batch **out_batch, struct cs_err *err)
{
    const struct cs_mirror_news *news = &flight->news[i];
    struct item *item = &flight->items[i];
    struct batch *batch = &item->gathered;
    int64_t last = batch->range.from + (int64_t)batch->count - 1;

    *out_batch = batch;
    if (batch->count >= GATHER_MIN && batch->range.from == news->from) {
        batch->part = cs_vector_get(&item->local.vv, news->origin) > last;
        return CS_OK;
    }
    *out_batch = &flight->batch;
    return read_batch(mirror, news->sid, news->origin, news->from, &flight->batch, err);
}

/* Put news @i into the pipeline, or find it another way. */
static enum cs_status ask(struct cs_mirror *mirror, struct flight *flight, size_t i,
                          struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;
    struct cs_mirror_news *news = &flight->news[i];
    struct item *item = &flight->items[i];
    struct cs_mirror_local *local = &item->local;
    struct batch *batch;
    int64_t done = done_upto(&flight->run->done, news);
    enum cs_status rc;

    if (news->to <= done)
        return CS_OK;
    rc = port->load(port->arg, news->sid, local, NULL, NULL, err);
    if (rc != CS_OK)
        return rc;
    item->waiting = find_waiting(mirror, news->sid, news->origin);
    if (item->waiting != NULL && item->waiting->from < news->from)
        news->from = item->waiting->from;
    if (news->from <= done)
        news->from = done + 1;
    if (!local->known || cs_vector_get(&local->vv, news->origin) < news->from)
        return CS_OK;
    if (is_new(mirror, local) && (!local->busy || local->marked || mirror->push_all))
        return ask_put(mirror, flight, i, err);
    rc = choose_batch(mirror, flight, i, &batch, err);
    if (rc != CS_OK || batch->count == 0)
        return rc;
    if (local->busy && !local->marked && !batch->ended && !mirror->push_all) {
        item->way = WAY_WAIT;
        return CS_OK;
    }
    return is_new(mirror, local) ? ask_put(mirror, flight, i, err)
                                 : ask_push(mirror, flight, i, batch, err);
}

/* The next messages of news @i, the ones before having been taken. */
static enum cs_status ask_more(struct cs_mirror *mirror, struct flight *flight, size_t i,
                               struct cs_err *err)
{
    const struct cs_mirror_news *news = &flight->news[i];
    enum cs_status rc = CS_OK;

    if (flight->items[i].way != WAY_PUSH || !flight->items[i].more)
        return CS_OK;
    rc = read_batch(mirror, news->sid, news->origin, news->from, &flight->batch, err);
    flight->items[i].more = false;
    return rc == CS_OK && flight->batch.count > 0 ? ask_push(mirror, flight, i, &flight->batch, err)
                                                  : rc;
}

/* An accepted PUT or PUSH. */
static enum cs_status note(struct cs_mirror *mirror, const struct item *item,
                           const struct cs_script_reply *reply, struct cs_changes *changes,
                           struct cs_err *err)
{
    const struct cs_whole whole = {.more = item->more};
    const struct cs_putting putting = {&item->local.meta, &item->local, &whole, NULL, 0};

    return item->way == WAY_PUT ? cs_whole_note(mirror, &putting, reply, changes, err)
                                : note_accepted(mirror, &item->local, reply, changes, err);
}

/* Take the reply for news @i. */
static enum cs_status hear(struct cs_mirror *mirror, struct flight *flight, size_t i,
                           struct cs_err *err)
{
    struct item *item = &flight->items[i];
    struct cs_script_reply reply = {0};
    struct cs_err why = {0};
    enum cs_verdict verdict;
    enum cs_status rc = cs_script_take(mirror->redis, cs_op_deadline(), &reply, &why);

    item->owed = false;
    if (rc != CS_OK) {
        item->way = WAY_SLOW;
        if (cs_redis_class(&why) == CS_REDIS_LARGE) /* the server may hang up now: for next time */
            (void)cs_ask_for_less(mirror, item->messages, item->bytes);
        return cs_ends_step(mirror, &why) ? cs_err_set(err, why.status, why.code, "%s", why.msg)
                                          : CS_OK;
    }
    verdict = reply.verdict;
    if (verdict == CS_VERDICT_OK || verdict == CS_VERDICT_DUP || verdict == CS_VERDICT_NOINDEX)
        rc = note(mirror, item, &reply, &flight->run->changes, err);
    if (verdict != CS_VERDICT_OK && verdict != CS_VERDICT_DUP)
        cs_ring(mirror, item->local.meta.user); /* Redis is not as we left it */
    if (item->way == WAY_PUSH)
        flight->news[i].from += (int64_t)item->messages;
    if ((verdict != CS_VERDICT_OK && verdict != CS_VERDICT_DUP) ||
        (item->way == WAY_PUT && item->more))
        item->way = WAY_SLOW;
    if (verdict == CS_VERDICT_FORK)
        item->how = CS_COMPARE_PULL;
    else if (verdict == CS_VERDICT_NOINDEX)
        item->how = CS_COMPARE_INDEX;
    cs_script_reply_free(&reply);
    return rc;
}

static enum cs_status add_change(struct cs_changes *changes, enum cs_mirror_change_kind kind,
                                 const char *sid, int64_t number, struct cs_err *err)
{
    const struct cs_mirror_change change = {.kind = kind, .sid = sid, .number = number};

    return cs_changes_add(changes, &change, err);
}

/* What became of the marks: set for what goes the slow way or waits, cleared for what waited.
 * *out_any: there are such, and the changes are to be applied while the flight lasts. */
static enum cs_status add_marks(const struct flight *flight, bool *out_any, struct cs_err *err)
{
    struct cs_changes *changes = &flight->run->changes;
    enum cs_status rc = CS_OK;
    size_t i;

    *out_any = false;
    for (i = 0; i < flight->count && rc == CS_OK; i++) {
        const struct item *item = &flight->items[i];
        const char *sid = flight->news[i].sid;

        if (item->way == WAY_SLOW || item->way == WAY_WAIT)
            rc = add_change(changes, CS_CHANGE_UNSENT, sid, 0, err);
        else if (item->waiting != NULL)
            rc = add_change(changes, CS_CHANGE_CLEAN, sid, item->waiting->generation, err);
        else
            continue;
        *out_any = true;
    }
    return rc;
}

/* Write down what was done, and let the cursor pass. */
static enum cs_status keep(struct cs_mirror *mirror, struct run *run, struct cs_err *err)
{
    enum cs_status rc = CS_OK;

    if (run->moved)
        rc = add_change(&run->changes, CS_CHANGE_PUSHED, NULL, run->upto, err);
    run->moved = false;
    return rc == CS_OK ? cs_changes_apply(mirror, &run->changes, err) : rc;
}

static enum cs_status begin_waiting(struct cs_mirror *mirror, const struct cs_mirror_news *news,
                                    const struct cs_mirror_local *local, struct cs_err *err)
{
    struct cs_waiting *waiting = calloc(1, sizeof *waiting);

    if (waiting == NULL)
        return cs_err_nomem(err); /* its mark stands */
    memcpy(waiting->sid, news->sid, CS_UUID_MAX);
    waiting->origin = news->origin;
    waiting->from = news->from;
    waiting->generation = local->generation + 1;
    waiting->until = cs_mono_ms() + (local->stamp == 0 ? WAIT_NEW_MS : WAIT_MS);
    waiting->next = mirror->waiting;
    mirror->waiting = waiting;
    return CS_OK;
}

/* How far news @i are in Redis. What was pushed may be less than what was loaded, and newer. */
static int64_t sent_upto(const struct flight *flight, size_t i)
{
    const struct cs_mirror_news *news = &flight->news[i];
    const struct item *item = &flight->items[i];

    return item->way == WAY_PUSH ? news->from - 1 : cs_vector_get(&item->local.vv, news->origin);
}

/* The marks are set. */
static enum cs_status settle_each(struct cs_mirror *mirror, struct flight *flight,
                                  struct cs_err *err)
{
    enum cs_status rc = CS_OK;
    size_t i;

    for (i = 0; i < flight->count && rc == CS_OK; i++) {
        struct item *item = &flight->items[i];

        drop_waiting(mirror, item->waiting);
        item->waiting = NULL;
        if (item->way == WAY_WAIT)
            rc = begin_waiting(mirror, &flight->news[i], &item->local, err);
        if (item->way == WAY_SLOW)
            rc = cs_compare(mirror, (const char(*)[CS_UUID_MAX])flight->news[i].sid, 1, NULL,
                            item->how, err);
        if (rc == CS_OK && item->way != WAY_WAIT && item->way != WAY_NONE)
            done_note(&flight->run->done, &flight->news[i], sent_upto(flight, i));
    }
    return rc;
}

/* Set the marks, and only then let the cursor pass: in one transaction if nothing is to be compared
 * before, and in a later one if there are no marks either. */
static enum cs_status settle(struct cs_mirror *mirror, struct flight *flight, struct cs_err *err)
{
    struct run *run = flight->run;
    bool marks, slow = false;
    enum cs_status rc = add_marks(flight, &marks, err);
    size_t i;

    for (i = 0; i < flight->count; i++)
        slow = slow || flight->items[i].way == WAY_SLOW;
    if (slow && rc == CS_OK)
        rc = keep(mirror, run, err);
    if (rc == CS_OK && flight->upto > 0) {
        run->upto = flight->upto;
        run->moved = true;
    }
    if (rc == CS_OK && !slow && (marks || run->changes.count >= KEEP_MAX))
        rc = keep(mirror, run, err);
    if (rc == CS_OK)
        rc = settle_each(mirror, flight, err);
    if (rc != CS_OK && slow)
        run->moved = false; /* what was not compared is offered again */
    return rc == CS_OK && slow ? keep(mirror, run, err) : rc;
}

typedef enum cs_status (*asker)(struct cs_mirror *mirror, struct flight *flight, size_t i,
                                struct cs_err *err);

/* Let Redis begin with what is in the pipeline. */
static enum cs_status write_some(struct cs_mirror *mirror, struct flight *flight,
                                 struct cs_err *err)
{
    if (flight->bytes - flight->written < WRITE_MIN || cs_redis_owed(mirror->redis) == 0)
        return CS_OK;
    flight->written = flight->bytes;
    return cs_redis_flush(mirror->redis, cs_op_deadline(), err);
}

/* One request for each of the news that have something to send. *out_any: some had. */
static enum cs_status fly_once(struct cs_mirror *mirror, struct flight *flight, asker ask_for,
                               bool *out_any, struct cs_err *err)
{
    enum cs_status rc = CS_OK;
    size_t i, sent;

    *out_any = false;
    for (sent = 0; sent < flight->count && rc == CS_OK;) {
        size_t first = sent;

        flight->bytes = flight->written = 0;
        for (; sent < flight->count && rc == CS_OK && flight->bytes < FLIGHT_MAX; sent++) {
            rc = ask_for(mirror, flight, sent, err);
            if (rc == CS_OK)
                rc = write_some(mirror, flight, err);
        }
        for (i = first; i < sent && rc == CS_OK; i++)
            if (flight->items[i].owed) {
                *out_any = true;
                rc = hear(mirror, flight, i, err);
            }
    }
    return rc;
}

static enum cs_status fly(struct cs_mirror *mirror, struct flight *flight, struct cs_err *err)
{
    bool any;
    enum cs_status rc = fly_once(mirror, flight, ask, &any, err);

    while (rc == CS_OK && any)
        rc = fly_once(mirror, flight, ask_more, &any, err);
    return rc == CS_OK ? settle(mirror, flight, err) : rc;
}

/* Those that waited long enough; else the next page of news. *out_more is false when there was
 * neither. */
static enum cs_status fill(struct cs_mirror *mirror, struct flight *flight, bool *out_more,
                           struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;
    struct cs_mirror_news_page page = {
        .items = flight->news, .max = NEWS_MAX, .each = gather, .arg = flight};
    struct run *run = flight->run;
    enum cs_status rc = CS_OK;
    size_t i;

    *out_more = true;
    flight->count = due(mirror, flight->news);
    for (i = 0; i < flight->count && rc == CS_OK; i++)
        rc = cs_lease_ask_late(mirror, flight->news[i].sid, err);
    if (flight->count > 0)
        return rc;
    if (run->upto < 0)
        rc = port->pushed(port->arg, &run->upto, err);
    if (rc == CS_OK)
        rc = port->news(port->arg, run->upto, &page, err);
    if (rc != CS_OK)
        return rc;
    flight->count = page.count;
    flight->upto = page.upto;
    *out_more = page.upto > run->upto;
    return CS_OK;
}

static enum cs_status push_page(struct cs_mirror *mirror, struct run *run, bool *out_more,
                                struct cs_err *err)
{
    struct flight *flight = calloc(1, sizeof *flight);
    enum cs_status rc;

    if (flight == NULL)
        return cs_err_nomem(err);
    flight->run = run;
    flight->mirror = mirror;
    batch_init(&flight->batch);
    rc = fill(mirror, flight, out_more, err);
    if (rc == CS_OK && *out_more)
        rc = fly(mirror, flight, err);
    flight_free(flight);
    return rc;
}

enum cs_status cs_push_news(struct cs_mirror *mirror, struct cs_err *err)
{
    struct run run = {.upto = -1};
    bool more = mirror->push_after <= cs_mono_ms();
    enum cs_status rc = CS_OK, kept;

    cs_leases_over(mirror, NULL);
    while (rc == CS_OK && more) {
        rc = push_page(mirror, &run, &more, err);
        cs_mirror_serve(mirror);
    }
    kept = keep(mirror, &run, rc == CS_OK ? err : NULL);
    cs_changes_fini(&run.changes);
    free(run.done.entries);
    return rc == CS_OK ? kept : rc;
}
