/* mirror/merge: one session, here against Redis. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/hash.h"
#include "mirror_priv.h"

#define PROBE_MAX 32 /* sessions looked at in one pipeline */
#define TRIES_MAX 6  /* of one session in one comparison */

/* What Redis has of a session. */
struct remote {
    struct cs_tail tail;
    struct cs_vector vv, tomb;
};

static void remote_fini(struct remote *remote)
{
    cs_tail_fini(&remote->tail);
    cs_vector_fini(&remote->vv);
    cs_vector_fini(&remote->tomb);
    *remote = (struct remote){0};
}

/* How a try ended. LATER: there is something to write, when Redis has room again. */
enum outcome { DONE, AGAIN, ASIDE, LATER };

struct compare {
    struct cs_mirror *mirror;
    const char *sid;
    const char *user; /* whose it is, where that is not known here; or NULL */
    struct cs_mirror_local local;
    struct remote remote;
    bool index;    /* put it, so that the user's set names it */
    bool pull;     /* fetch the value whatever the vectors say */
    bool entire;   /* put all of it in one request */
    int forks;     /* times that Redis had other bytes */
    char why[200]; /* for ASIDE */
};

/* ---- looking ---- */

static void key_of(char out[CS_KEY_CAP], const char *prefix, const char *id)
{
    (void)snprintf(out, CS_KEY_CAP, "%s%s", prefix, id);
}

static enum cs_status ask_probe(struct cs_mirror *mirror, const char *sid, size_t width,
                                struct cs_err *err)
{
    char session[CS_KEY_CAP], tomb[CS_KEY_CAP], start[24];
    enum cs_status rc;

    key_of(session, CS_KEY_SESSION, sid);
    key_of(tomb, CS_KEY_TOMB, sid);
    (void)snprintf(start, sizeof start, "-%zu", width);
    rc = cs_redis_appends(mirror->redis, err, "GETRANGE", session, start, "-1", NULL);
    if (rc == CS_OK)
        rc = cs_redis_appends(mirror->redis, err, "GET", tomb, NULL);
    return rc;
}

/* A reply that may be an error of that key alone, e.g. of another type: *out_bad then. */
static enum cs_status take(struct cs_mirror *mirror, struct cs_reply **out_reply, bool *out_bad,
                           struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    struct cs_err why = {0};
    enum cs_status rc = cs_redis_take(mirror->redis, cs_op_deadline(), &reply, err);

    if (rc != CS_OK)
        return rc;
    if (cs_reply_check(reply, &why) != CS_OK) {
        if (cs_ends_step(mirror, &why)) {
            cs_reply_free(reply);
            return cs_err_set(err, why.status, why.code, "%s", why.msg);
        }
        *out_bad = true;
    }
    *out_reply = reply;
    return CS_OK;
}

static enum cs_status hear_probe(struct cs_mirror *mirror, struct remote *remote, bool *out_bad,
                                 struct cs_err *err)
{
    struct cs_reply *tail = NULL, *tomb = NULL;
    const char *text;
    size_t len = 0;
    enum cs_status rc = take(mirror, &tail, out_bad, err);

    if (rc == CS_OK)
        rc = take(mirror, &tomb, out_bad, err);
    if (rc == CS_OK && !*out_bad) {
        text = cs_reply_string(tail, &len);
        rc = cs_tail_parse(text != NULL ? text : "", len, &remote->tail, err);
        if (rc == CS_OK && remote->tail.kind == CS_TAIL_OURS &&
            cs_vector_read(remote->tail.vv, &remote->vv, NULL) != CS_OK)
            remote->tail.kind = CS_TAIL_FOREIGN;
        text = cs_reply_string(tomb, &len);
        if (rc == CS_OK && text != NULL && cs_vector_parse(text, len, &remote->tomb, NULL) != CS_OK)
            *out_bad = true;
    }
    cs_reply_free(tail);
    cs_reply_free(tomb);
    return rc;
}

static enum cs_status probe(struct compare *c, bool *out_bad, struct cs_err *err)
{
    size_t width = CS_TAIL_WIDTH;
    enum cs_status rc;
    int tries;

    for (tries = 0; tries < 2; tries++) {
        remote_fini(&c->remote);
        rc = ask_probe(c->mirror, c->sid, width, err);
        if (rc == CS_OK)
            rc = hear_probe(c->mirror, &c->remote, out_bad, err);
        if (rc != CS_OK || c->remote.tail.kind != CS_TAIL_WIDER)
            return rc;
        width = c->remote.tail.width;
    }
    return CS_OK;
}

/* ---- changes of one session ---- */

static enum cs_status change(struct compare *c, enum cs_mirror_change_kind kind, int64_t number,
                             const struct cs_vector *vector, struct cs_err *err)
{
    const struct cs_mirror_port *port = &c->mirror->options.port;
    const struct cs_mirror_change one = {
        .kind = kind,
        .sid = c->sid,
        .user = c->local.meta.user,
        .text = c->why,
        .number = number,
        .vector = vector,
    };

    return port->apply(port->arg, &one, 1, err);
}

static enum outcome aside(struct compare *c, const char *why)
{
    (void)snprintf(c->why, sizeof c->why, "%.*s", (int)sizeof c->why - 1, why); /* cut to fit */
    return ASIDE;
}

/* A stamp that is ahead of Redis' clock says nothing: it counts as what is known here, or as now.
 */
static enum cs_status believe_tail(const struct compare *c, struct cs_tail *tail,
                                   struct cs_err *err)
{
    int64_t stamp = tail->stamp;
    enum cs_status rc = cs_believe(c->mirror, &stamp, err);

    if (rc == CS_OK && stamp != tail->stamp)
        tail->stamp = c->local.stamp > 0 && c->local.stamp < stamp ? c->local.stamp : stamp;
    return rc;
}

/* ---- fetching the value ---- */

struct fetched {
    struct cs_mirror *mirror;
    struct cs_changes changes;
    const char *sid;
    int64_t at;
    size_t bad; /* messages that could not be read */
};

static enum cs_status fetch_message(void *arg, const char *item, size_t len, struct cs_err *err)
{
    struct fetched *fetched = arg;
    struct cs_record record = {0};
    enum cs_status rc = cs_record_parse(item, len, &record, NULL);

    if (rc == CS_NO_MEM)
        return cs_err_nomem(err);
    if (rc != CS_OK) {
        fetched->bad++;
        return CS_OK;
    }
    rc = cs_changes_message(&fetched->changes, fetched->sid, &record, fetched->at, err);
    cs_record_fini(&record);
    return rc;
}

/* The meta of a value of ours, from its prefix alone. */
static enum cs_status read_meta(const char *text, size_t prefix, const char *model,
                                struct cs_mirror_meta *meta, struct cs_err *err)
{
    char *object = malloc(prefix + 3);
    struct cs_json *root = NULL;
    enum cs_status rc;

    if (object == NULL)
        return cs_err_nomem(err);
    memcpy(object, text, prefix);
    memcpy(object + prefix, "]}", 3);
    rc = cs_json_parse(object, prefix + 2, prefix + 2, &root, err);
    if (rc == CS_OK)
        rc = cs_record_meta(root, model, meta, err);
    cs_json_free(root);
    free(object);
    return rc;
}

/* Bring the value's messages here. */
static enum cs_status apply_value(struct compare *c, const char *text, size_t len,
                                  const struct cs_tail *tail, struct cs_err *err)
{
    struct fetched fetched = {.mirror = c->mirror, .sid = c->sid};
    struct cs_mirror_meta meta = {0};
    struct cs_mirror_change one = {.kind = CS_CHANGE_SESSION, .sid = c->sid, .meta = &meta};
    size_t prefix = 0;
    struct cs_err why = {0};
    enum cs_status rc;

    fetched.at = cs_local_ms(c->mirror, tail->stamp);
    one.number = fetched.at;
    rc = cs_changes_add(&fetched.changes, &one, err);
    if (rc == CS_OK)
        rc = cs_record_split(text, len, &prefix, fetch_message, &fetched, &why);
    if (rc == CS_OK)
        rc = read_meta(text, prefix, tail->model, &meta, &why);
    if (rc == CS_OK && strcmp(meta.sid, c->sid) != 0)
        rc = cs_err_set(&why, CS_INVALID, "invalid_record", "the value is of another session");
    one.kind = CS_CHANGE_STAMP;
    one.number = tail->stamp;
    if (rc == CS_OK)
        rc = cs_changes_add(&fetched.changes, &one, &why);
    if (rc == CS_OK)
        rc = cs_changes_apply(c->mirror, &fetched.changes, &why);
    cs_changes_fini(&fetched.changes);
    cs_mirror_meta_fini(&meta);
    if (rc == CS_OK && fetched.bad > 0)
        rc = cs_err_set(&why, CS_INVALID, "invalid_record", "%zu messages are malformed",
                        fetched.bad);
    return rc == CS_OK ? rc : cs_err_set(err, why.status, why.code, "%s", why.msg);
}

/* Whether the value that was brought here holds all that its vector names. What it does not, no
 * further try would bring. */
static enum cs_status check_whole(struct compare *c, const struct cs_tail *tail, enum outcome *out,
                                  struct cs_err *err)
{
    const struct cs_mirror_port *port = &c->mirror->options.port;
    struct cs_mirror_local local = {0};
    struct cs_vector vv = {0};
    enum cs_status rc = port->load(port->arg, c->sid, &local, NULL, NULL, err);

    if (rc == CS_OK && local.known && cs_vector_read(tail->vv, &vv, NULL) == CS_OK &&
        !cs_vector_le(&vv, &local.vv))
        *out = aside(c, "its value in Redis names messages that it does not hold");
    cs_vector_fini(&vv);
    cs_mirror_local_fini(&local);
    return rc;
}

/* The value, unless it is too large to be a session: that is the session's trouble alone. */
static enum cs_status get_value(struct compare *c, struct cs_reply **out_reply, struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    char key[CS_KEY_CAP], last[24];
    int64_t size;
    enum cs_status rc;

    key_of(key, CS_KEY_SESSION, c->sid);
    rc = cs_redis_call(c->mirror->redis, cs_op_deadline(), &reply, err, "STRLEN", key, NULL);
    if (rc != CS_OK)
        return rc;
    size = cs_reply_int(reply, 0);
    cs_reply_free(reply);
    if (size > CS_VALUE_MAX)
        return cs_err_set(err, CS_INVALID, "invalid_record", "its value in Redis is too large");
    (void)snprintf(last, sizeof last, "%d", CS_VALUE_MAX - 1); /* it may have grown since */
    return cs_redis_call(c->mirror->redis, cs_op_deadline() + 20000, out_reply, err, "GETRANGE",
                         key, "0", last, NULL);
}

static enum cs_status pull_value(struct compare *c, enum outcome *out, struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    struct cs_tail tail = {0};
    struct cs_err why = {0};
    const char *text;
    size_t len = 0;
    enum cs_status rc = get_value(c, &reply, err);

    if (rc != CS_OK)
        return rc;
    *out = AGAIN;
    text = cs_reply_string(reply, &len);
    if (text != NULL)
        rc = cs_tail_parse(text, len, &tail, err);
    if (rc == CS_OK && tail.kind == CS_TAIL_OURS)
        rc = believe_tail(c, &tail, err);
    if (rc == CS_OK && text != NULL && tail.kind == CS_TAIL_OURS) {
        rc = apply_value(c, text, len, &tail, &why);
        if (rc == CS_OK)
            rc = check_whole(c, &tail, out, &why);
        if (rc == CS_INVALID || rc == CS_TOO_LARGE) { /* its fault, not ours */
            *out = aside(c, why.msg);
            rc = CS_OK;
        } else if (rc != CS_OK) {
            rc = cs_err_set(err, why.status, why.code, "%s", why.msg);
        }
    }
    cs_tail_fini(&tail);
    cs_reply_free(reply);
    return rc;
}

/* ---- a whole session into Redis ---- */

static enum cs_status call_put(struct compare *c, const struct cs_putting *putting,
                               struct cs_script_reply *reply, struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc = CS_OK;
    int tries;

    for (tries = 0; tries < 2; tries++) {
        cs_err_clear(&why);
        rc = cs_whole_append(c->mirror, putting, &why);
        if (rc == CS_OK)
            rc = cs_script_take(c->mirror->redis, cs_op_deadline() + 20000, reply, &why);
        if (rc == CS_OK || cs_redis_class(&why) != CS_REDIS_NOSCRIPT)
            break; /* else once more, with its text */
    }
    return rc == CS_OK ? rc : cs_err_set(err, why.status, why.code, "%s", why.msg);
}

/* Sessions that made room, and what Redis now knows of this one. */
static enum cs_status note_put(struct compare *c, const struct cs_putting *putting,
                               const struct cs_script_reply *reply, struct cs_err *err)
{
    struct cs_changes changes = {0};
    enum cs_status rc = cs_whole_note(c->mirror, putting, reply, &changes, err);

    if (rc == CS_OK)
        rc = cs_changes_apply(c->mirror, &changes, err);
    cs_changes_fini(&changes);
    return rc;
}

static enum cs_status join_reply_tomb(struct compare *c, const char *text, struct cs_err *err)
{
    struct cs_vector tomb = {0};
    enum cs_status rc = cs_vector_parse(text, strlen(text), &tomb, err);

    if (rc == CS_OK)
        rc = change(c, CS_CHANGE_TOMB, 0, &tomb, err);
    cs_vector_fini(&tomb);
    return rc;
}

/* Verdicts on the vector of what was sent: they need not hold of the whole session. */
static bool refuses_beginning(enum cs_verdict verdict)
{
    return verdict == CS_VERDICT_TOMB || verdict == CS_VERDICT_STALE || verdict == CS_VERDICT_FULL;
}

static enum cs_status after_put(struct compare *c, const struct cs_putting *putting,
                                const struct cs_script_reply *reply, enum outcome *out,
                                struct cs_err *err)
{
    *out = AGAIN;
    if (putting->whole->more && refuses_beginning(reply->verdict)) {
        c->entire = true;
        return CS_OK;
    }
    switch (reply->verdict) {
    case CS_VERDICT_OK:
    case CS_VERDICT_DUP:
        *out = putting->whole->more ? AGAIN : DONE;
        c->index = false;
        return note_put(c, putting, reply, err);
    case CS_VERDICT_TOMB:
        return join_reply_tomb(c, reply->vv, err);
    case CS_VERDICT_STALE:
        c->pull = true;
        return CS_OK;
    case CS_VERDICT_FULL:
        *out = DONE;
        return change(c, CS_CHANGE_EVICT, 1, NULL, err);
    case CS_VERDICT_EXPIRED:
        *out = DONE;
        return change(c, CS_CHANGE_EXPIRE, 0, NULL, err);
    case CS_VERDICT_LARGE:
        *out = aside(c, "the session is too large for Redis");
        return CS_OK;
    case CS_VERDICT_WIDE:
        *out = aside(c, "too many starts of hosts took part in the session");
        return CS_OK;
    case CS_VERDICT_PROTOCOL:
        *out = aside(c, "the session was written by a newer version");
        return CS_OK;
    case CS_VERDICT_FORK:
    case CS_VERDICT_GAP:
    case CS_VERDICT_MISS:
    case CS_VERDICT_NOLOG:
    case CS_VERDICT_NOINDEX:
    case CS_VERDICT_FOREIGN:
    case CS_VERDICT_TORN:
    case CS_VERDICT_NEWER:
    case CS_VERDICT_BUSY:
        break;
    }
    return CS_OK;
}

static enum cs_status put(struct compare *c, enum outcome *out, struct cs_err *err)
{
    struct cs_script_reply reply = {0};
    struct cs_err why = {0};
    struct cs_whole whole;
    struct cs_putting putting = {
        &c->local.meta, &c->local, &whole, NULL, c->remote.tail.meta,
    };
    enum cs_status rc;

    *out = LATER;
    if (!cs_may_write(c->mirror))
        return CS_OK;
    *out = DONE;
    rc = cs_whole_load(c->mirror, c->sid, c->entire ? SIZE_MAX / 4 : 0, &whole, &c->local, err);
    if (rc == CS_OK && !c->local.known)
        *out = AGAIN; /* deleted meanwhile: that is to be told */
    if (rc == CS_OK)
        rc = cs_believe(c->mirror, &c->local.stamp, err);
    if (rc != CS_OK || whole.text.len == 0 || !c->local.known)
        goto out;
    rc = call_put(c, &putting, &reply, &why);
    if (rc != CS_OK && cs_redis_class(&why) == CS_REDIS_LARGE &&
        cs_ask_for_less(c->mirror, whole.count, whole.text.len)) {
        *out = AGAIN;
        rc = CS_OK;
    } else if (rc != CS_OK) {
        rc = cs_err_set(err, why.status, why.code, "%s", why.msg);
    } else {
        rc = after_put(c, &putting, &reply, out, err);
    }

out:
    cs_script_reply_free(&reply);
    cs_whole_fini(&whole);
    return rc;
}

/* ---- a value of somebody else ---- */

struct import {
    struct cs_whole *whole;
    struct cs_changes *changes;
    const char *sid;
    char time[CS_ISO_MAX];
    int64_t origin, seq, hlc, at;
    int64_t parent_origin, parent_seq;
};

/* Whether the message still carries an identity, in the form in which every host writes it. */
static enum cs_status read_own(const struct cs_json *message, struct cs_record *out, bool *out_own,
                               struct cs_err *err)
{
    struct cs_buf text;
    enum cs_status rc;

    *out_own = false;
    if (cs_json_get(message, "_cx") == NULL)
        return CS_OK;
    cs_buf_init(&text, 72u << 20);
    cs_json_dump(message, &text); /* without the blanks that the writer may have put in */
    rc = cs_buf_check(&text, err);
    if (rc == CS_OK) {
        rc = cs_record_parse(text.data, text.len, out, NULL);
        *out_own = rc == CS_OK;
        rc = rc == CS_NO_MEM ? cs_err_nomem(err) : CS_OK;
    }
    cs_buf_fini(&text);
    return rc;
}

static enum cs_status take_over(struct import *import, const struct cs_record *record,
                                struct cs_err *err)
{
    const struct cs_mirror_message *message = &record->message;
    enum cs_status rc = cs_whole_add(import->whole, message, err);

    if (message->hlc >= import->hlc) { /* what follows it comes later */
        import->hlc = message->hlc;
        import->parent_origin = message->origin;
        import->parent_seq = message->seq;
    }
    return rc == CS_OK ? cs_changes_message(import->changes, import->sid, record, import->at, err)
                       : rc;
}

/* A message without identity gets one of the import's own origin. */
static enum cs_status import_new(struct import *import, const struct cs_json *message,
                                 struct cs_err *err)
{
    struct cs_record record = {0};
    struct cs_buf frag;
    enum cs_status rc;

    cs_buf_init(&frag, 72u << 20);
    cs_record_foreign(&frag, message, import->time);
    record.message = (struct cs_mirror_message){
        .origin = import->origin,
        .seq = ++import->seq,
        .hlc = cs_hlc_next(import->hlc, cs_clock_ms()),
        .parent_origin = import->parent_origin,
        .parent_seq = import->parent_seq,
        .frag = frag.data,
        .len = frag.len,
        .type = cs_json_get_string(message, "type"),
    };
    if (record.message.type == NULL)
        record.message.type = "user";
    rc = cs_buf_check(&frag, err);
    if (rc == CS_OK)
        rc = take_over(import, &record, err);
    cs_buf_fini(&frag);
    return rc;
}

/* One that carries its identity is what it says: it is known, or the next of its origin. Behind a
 * hole it is left to the host that has the whole. */
static enum cs_status import_message(struct import *import, const struct cs_json *message,
                                     struct cs_err *err)
{
    struct cs_record record = {0};
    bool own = false;
    enum cs_status rc;

    if (cs_json_type(message) != CS_JSON_OBJECT)
        return CS_OK;
    rc = read_own(message, &record, &own, err);
    if (rc != CS_OK)
        return rc;
    if (!own)
        return import_new(import, message, err);
    if (record.message.seq == cs_vector_get(&import->whole->vv, record.message.origin) + 1)
        rc = take_over(import, &record, err);
    cs_record_fini(&record);
    return rc;
}

static enum cs_status import_messages(struct import *import, const struct cs_json *root,
                                      struct cs_err *err)
{
    const struct cs_json *messages = cs_json_get(root, "messages");
    enum cs_status rc = cs_random(&import->origin, sizeof import->origin, err);
    size_t i;

    import->origin &= INT64_MAX;
    import->origin |= 1;
    for (i = 0; i < cs_json_size(messages) && rc == CS_OK; i++)
        rc = import_message(import, cs_json_at(messages, i), err);
    return rc;
}

/* What is known here goes before what the value says; its user has a limit in any case. */
static void heed_local(struct compare *c, struct cs_mirror_meta *meta)
{
    const struct cs_mirror_port *port = &c->mirror->options.port;

    if (c->local.known) {
        cs_mirror_meta_fini(meta);
        *meta = c->local.meta;
    } else if (port->limit != NULL) {
        c->local.limit = port->limit(port->arg, meta->user);
    }
}

/* Take a parsed foreign value over: first into Redis, where only one host's import can replace it,
 * then here. */
static enum cs_status adopt(struct compare *c, const struct cs_json *root, const char *digest,
                            enum outcome *out, struct cs_err *err)
{
    struct cs_changes changes = {0};
    struct cs_script_reply reply = {0};
    struct cs_mirror_meta meta = {0};
    struct cs_whole whole;
    struct cs_putting putting = {&meta, &c->local, &whole, digest, c->remote.tail.meta};
    struct import import = {.whole = &whole, .changes = &changes, .sid = c->sid};
    struct cs_mirror_change one = {.kind = CS_CHANGE_SESSION, .sid = c->sid, .meta = &meta};
    enum cs_status rc = cs_whole_load(c->mirror, c->sid, SIZE_MAX / 4, &whole, &c->local, err);

    cs_clock_iso(cs_clock_ms(), import.time);
    import.at = one.number = cs_clock_ms();
    import.hlc = whole.newest_hlc;
    import.parent_origin = whole.newest_origin;
    import.parent_seq = whole.newest_seq;
    if (c->local.last_used_at[0] == '\0')
        memcpy(c->local.last_used_at, import.time, CS_ISO_MAX);
    if (rc == CS_OK && cs_record_meta(root, NULL, &meta, NULL) != CS_OK) {
        *out = aside(c, "a value of another program has no usable ids");
        goto out;
    }
    if (rc == CS_OK && strcmp(meta.sid, c->sid) != 0) {
        *out = aside(c, "a value of another program is of another session");
        goto out;
    }
    if (rc == CS_OK && meta.user[0] == '\0' && c->mirror->options.user != NULL) {
        free(meta.user);
        meta.user = strdup(c->mirror->options.user);
        if (meta.user == NULL)
            rc = cs_err_nomem(err);
    }
    if (rc == CS_OK)
        heed_local(c, &meta);
    if (rc == CS_OK)
        rc = cs_changes_add(&changes, &one, err);
    if (rc == CS_OK)
        rc = import_messages(&import, root, err);
    if (rc == CS_OK && whole.text.len == 0) {
        *out = aside(c, "a value of another program has no messages");
        goto out;
    }
    if (rc == CS_OK)
        rc = call_put(c, &putting, &reply, err);
    if (rc == CS_OK)
        rc = after_put(c, &putting, &reply, out, err);
    if (rc == CS_OK && reply.verdict == CS_VERDICT_OK)
        rc = cs_changes_apply(c->mirror, &changes, err);
    else if (reply.verdict == CS_VERDICT_DUP)
        *out = AGAIN; /* it was one of ours again when it was read: compare it as such */

out:
    if (meta.user != c->local.meta.user)
        cs_mirror_meta_fini(&meta);
    cs_changes_fini(&changes);
    cs_script_reply_free(&reply);
    cs_whole_fini(&whole);
    return rc;
}

static enum cs_status import_value(struct compare *c, enum outcome *out, struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    struct cs_json *root = NULL;
    char digest[41];
    const char *text;
    size_t len = 0;
    enum cs_status rc;

    *out = LATER;
    if (!cs_may_write(c->mirror))
        return CS_OK;
    *out = AGAIN;
    rc = get_value(c, &reply, err);
    if (rc != CS_OK)
        return rc;
    text = cs_reply_string(reply, &len);
    if (len > 0) {
        if (cs_json_parse(text, len, 72u << 20, &root, NULL) != CS_OK) {
            *out = aside(c, "a value of another program is not JSON");
        } else {
            rc = cs_sha1_hex(text, len, digest, err);
            if (rc == CS_OK)
                rc = adopt(c, root, digest, out, err);
        }
    }
    cs_json_free(root);
    cs_reply_free(reply);
    return rc;
}

/* ---- deciding ---- */

static enum cs_status delete_there(struct compare *c, enum outcome *out, struct cs_err *err)
{
    struct cs_script_session session = cs_script_session_of(&c->local);
    struct cs_script_reply reply = {0};
    struct cs_err why = {0};
    struct cs_buf vv;
    enum cs_status rc;
    int tries;

    *out = DONE;
    if (session.user[0] == '\0') /* nobody's that we know: who deleted it will say so */
        return CS_OK;
    *out = LATER;
    if (!cs_may_write(c->mirror))
        return CS_OK;
    cs_buf_init(&vv, 1 << 20);
    cs_vector_write(&c->local.tomb, &vv);
    rc = cs_buf_check(&vv, &why);
    for (tries = 0; tries < 2 && rc == CS_OK; tries++) {
        rc = cs_del_append(c->mirror->redis, &session, vv.data, &why);
        if (rc == CS_OK)
            rc = cs_script_take(c->mirror->redis, cs_op_deadline(), &reply, &why);
        if (rc == CS_OK || cs_redis_class(&why) != CS_REDIS_NOSCRIPT)
            break;
        cs_err_clear(&why);
        rc = CS_OK;
    }
    cs_buf_fini(&vv);
    if (rc != CS_OK)
        return cs_err_set(err, why.status, why.code, "%s", why.msg);
    *out = DONE;
    if (reply.verdict == CS_VERDICT_NEWER)
        *out = AGAIN;
    else if (reply.verdict == CS_VERDICT_FOREIGN)
        c->remote.tail.kind = CS_TAIL_FOREIGN, *out = AGAIN;
    else if (reply.verdict == CS_VERDICT_PROTOCOL)
        *out = aside(c, "the session was written by a newer version");
    else if (reply.id != NULL)
        cs_note_sent(c->mirror, c->local.meta.user, c->sid, reply.id);
    cs_script_reply_free(&reply);
    return CS_OK;
}

/* Append what Redis lacks. */
static enum cs_status push_missing(struct compare *c, enum outcome *out, struct cs_err *err)
{
    enum cs_verdict verdict = CS_VERDICT_OK;
    enum cs_status rc = CS_OK;
    size_t i;

    for (i = 0; i < c->local.vv.count && rc == CS_OK && verdict == CS_VERDICT_OK; i++) {
        const struct cs_vector_item *item = &c->local.vv.items[i];
        int64_t there = cs_vector_get(&c->remote.vv, item->origin);

        *out = LATER;
        if (item->seq > there && !cs_may_write(c->mirror))
            return CS_OK;
        if (item->seq > there)
            rc = cs_push_origin(c->mirror, &c->local, item->origin, there + 1, &verdict, err);
    }
    *out = DONE;
    if (rc != CS_OK || verdict == CS_VERDICT_OK)
        return rc;
    *out = AGAIN;
    if (verdict == CS_VERDICT_FORK && c->forks++ < 2)
        c->pull = true;
    else if (verdict == CS_VERDICT_FORK)
        *out = aside(c, "Redis has other bytes for a message of another host");
    else if (verdict == CS_VERDICT_WIDE)
        *out = aside(c, "too many starts of hosts took part in the session");
    else if (verdict == CS_VERDICT_LARGE)
        *out = aside(c, "the session is too large for Redis");
    else if (verdict == CS_VERDICT_NOLOG || verdict == CS_VERDICT_NOINDEX) {
        c->index = true; /* until a PUT is taken: a beginning may be refused */
        rc = put(c, out, err);
    }
    return rc;
}

/* Redis has a value of ours. */
static enum cs_status compare_ours(struct compare *c, enum outcome *out, struct cs_err *err)
{
    bool pull = c->pull || !cs_vector_le(&c->remote.vv, &c->local.vv);
    enum cs_status rc;

    c->pull = false;
    if (pull)
        return pull_value(c, out, err);
    rc = CS_OK; /* a comparison that finds nothing writes nothing */
    if (c->remote.tail.stamp > c->local.stamp)
        rc = change(c, CS_CHANGE_STAMP, c->remote.tail.stamp, NULL, err);
    if (rc == CS_OK && !c->local.live)
        rc = change(c, CS_CHANGE_LIVE, cs_local_ms(c->mirror, c->remote.tail.stamp), NULL, err);
    if (rc == CS_OK)
        rc = push_missing(c, out, err);
    return rc == CS_OK && *out == DONE && c->index ? put(c, out, err) : rc;
}

/* How the session stands here; of one that is unknown at least whose it is. */
static enum cs_status load(struct compare *c, struct cs_err *err)
{
    const struct cs_mirror_port *port = &c->mirror->options.port;
    enum cs_status rc;

    cs_mirror_local_fini(&c->local);
    rc = port->load(port->arg, c->sid, &c->local, NULL, NULL, err);
    if (rc != CS_OK || c->local.known || c->user == NULL || c->local.meta.user[0] != '\0')
        return rc;
    free(c->local.meta.user);
    c->local.meta.user = strdup(c->user);
    return c->local.meta.user != NULL ? CS_OK : cs_err_nomem(err);
}

static enum cs_status try_once(struct compare *c, enum outcome *out, struct cs_err *err)
{
    bool exists = c->remote.tail.kind != CS_TAIL_MISS, gone;
    enum cs_status rc = load(c, err);

    if (rc == CS_OK && !cs_vector_le(&c->remote.tomb, &c->local.tomb)) {
        rc = change(c, CS_CHANGE_TOMB, 0, &c->remote.tomb, err);
        if (rc == CS_OK)
            rc = load(c, err);
    }
    if (rc == CS_OK && c->remote.tail.kind == CS_TAIL_OURS)
        rc = believe_tail(c, &c->remote.tail, err);
    if (rc != CS_OK)
        return rc;
    if (c->remote.tail.kind == CS_TAIL_PROTOCOL) {
        *out = aside(c, "the session was written by a newer version");
        return CS_OK;
    }
    if (c->remote.tail.kind == CS_TAIL_FOREIGN)
        return import_value(c, out, err);
    gone = !c->local.known && c->local.tomb.count > 0;
    if (gone && (!exists || cs_vector_le(&c->remote.vv, &c->local.tomb))) {
        *out = DONE;
        if (exists || !cs_vector_le(&c->local.tomb, &c->remote.tomb))
            return delete_there(c, out, err);
        return CS_OK;
    }
    if (exists)
        return compare_ours(c, out, err);
    *out = DONE;
    c->pull = false;
    return c->local.known && c->local.live ? put(c, out, err) : CS_OK;
}

/* Others change it all the time: later, and the mark remembers it. */
static enum cs_status give_up(struct compare *c, struct cs_err *err)
{
    cs_step_again(c->mirror);
    return c->local.marked ? CS_OK : change(c, CS_CHANGE_DIRTY, 0, NULL, err);
}

/* A log named it, and neither it nor its tombstone is there. */
static bool is_missing(const struct compare *c)
{
    return c->local.marked && !c->local.known && c->local.tomb.count == 0 &&
           c->remote.tail.kind == CS_TAIL_MISS;
}

/* Compare until both agree. */
static enum cs_status settle(struct compare *c, bool bad, struct cs_err *err)
{
    enum outcome outcome = AGAIN;
    enum cs_status rc = CS_OK;
    int tries;

    for (tries = 0; rc == CS_OK && outcome == AGAIN && tries < TRIES_MAX; tries++) {
        if (tries > 0)
            rc = probe(c, &bad, err);
        if (rc == CS_OK && bad)
            outcome = aside(c, "its keys in Redis hold something else");
        else if (rc == CS_OK)
            rc = try_once(c, &outcome, err);
    }
    if (rc != CS_OK)
        return rc;
    if (outcome == ASIDE)
        return change(c, CS_CHANGE_ASIDE, 0, NULL, err);
    if (outcome == DONE && is_missing(c) && !c->mirror->sure) {
        c->mirror->missed = true;
        return CS_OK;
    }
    if (outcome == DONE && c->local.marked)
        return change(c, CS_CHANGE_CLEAN, c->local.generation, NULL, err);
    return outcome == AGAIN ? give_up(c, err) : CS_OK;
}

/* One session whose probe was heard. What concerns it alone sets it aside. */
static enum cs_status compare_one(struct compare *c, bool bad, struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc = settle(c, bad, &why);

    if (rc != CS_OK && !cs_ends_step(c->mirror, &why)) {
        (void)snprintf(c->why, sizeof c->why, "%.190s", why.msg);
        return change(c, CS_CHANGE_ASIDE, 0, NULL, err);
    }
    return rc == CS_OK ? rc : cs_err_set(err, why.status, why.code, "%s", why.msg);
}

enum cs_status cs_mget_append(struct cs_mirror *mirror, const char *prefix,
                              const char (*ids)[CS_UUID_MAX], size_t count, struct cs_err *err)
{
    const char **argv = calloc(count + 1, sizeof *argv);
    size_t *lens = calloc(count + 1, sizeof *lens), i;
    char(*keys)[CS_KEY_CAP] = calloc(count, sizeof *keys);
    enum cs_status rc = CS_NO_MEM;

    if (argv == NULL || lens == NULL || keys == NULL) {
        (void)cs_err_nomem(err);
        goto out;
    }
    argv[0] = "MGET";
    lens[0] = 4;
    for (i = 0; i < count; i++) {
        key_of(keys[i], prefix, ids[i]);
        argv[i + 1] = keys[i];
        lens[i + 1] = strlen(keys[i]);
    }
    rc = cs_redis_append(mirror->redis, count + 1, argv, lens, err);

out:
    free(argv);
    free(lens);
    free(keys);
    return rc;
}

/* Ask where the conversations of the sessions lead. */
static enum cs_status ask_around(struct cs_mirror *mirror, struct compare *c, size_t count,
                                 struct cs_err *err)
{
    char(*cids)[CS_UUID_MAX] = calloc(count, sizeof *cids);
    enum cs_status rc = CS_OK;
    size_t i;

    if (cids == NULL)
        return cs_err_nomem(err);
    for (i = 0; i < count && rc == CS_OK; i++) {
        rc = load(&c[i], err);
        if (rc == CS_OK)
            memcpy(cids[i], c[i].local.meta.cid, CS_UUID_MAX);
    }
    if (rc == CS_OK)
        rc = cs_mget_append(mirror, CS_KEY_CONVERSATION, (const char(*)[CS_UUID_MAX])cids, count,
                            err);
    free(cids);
    return rc;
}

/* One that leads nowhere is put again with its session. */
static enum cs_status hear_around(struct cs_mirror *mirror, struct compare *c, size_t count,
                                  struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    bool bad = false;
    enum cs_status rc = take(mirror, &reply, &bad, err);
    size_t i;

    for (i = 0; i < count && rc == CS_OK && !bad; i++)
        if (c[i].local.known && cs_reply_string(cs_reply_at(reply, i), NULL) == NULL)
            c[i].index = true;
    cs_reply_free(reply);
    return rc;
}

static enum cs_status compare_some(struct cs_mirror *mirror, const char (*sids)[CS_UUID_MAX],
                                   size_t count, const char *user, unsigned how, struct cs_err *err)
{
    struct compare *c = calloc(count, sizeof *c);
    bool bad[PROBE_MAX] = {false}, around = (how & CS_COMPARE_AROUND) != 0;
    enum cs_status rc = CS_OK;
    size_t i;

    if (c == NULL)
        return cs_err_nomem(err);
    for (i = 0; i < count; i++) {
        c[i].mirror = mirror;
        c[i].sid = sids[i];
        c[i].user = user;
        c[i].pull = (how & CS_COMPARE_PULL) != 0;
        c[i].index = (how & CS_COMPARE_INDEX) != 0;
    }
    if (around)
        rc = ask_around(mirror, c, count, err);
    for (i = 0; i < count && rc == CS_OK; i++)
        rc = ask_probe(mirror, sids[i], CS_TAIL_WIDTH, err);
    if (around && rc == CS_OK)
        rc = hear_around(mirror, c, count, err);
    for (i = 0; i < count && rc == CS_OK; i++)
        rc = hear_probe(mirror, &c[i].remote, &bad[i], err);
    for (i = 0; i < count && rc == CS_OK; i++) {
        if (c[i].remote.tail.kind == CS_TAIL_WIDER)
            rc = probe(&c[i], &bad[i], err);
        if (rc == CS_OK)
            rc = compare_one(&c[i], bad[i], err);
    }
    for (i = 0; i < count; i++) {
        cs_mirror_local_fini(&c[i].local);
        remote_fini(&c[i].remote);
    }
    free(c);
    return rc;
}

enum cs_status cs_compare(struct cs_mirror *mirror, const char (*sids)[CS_UUID_MAX], size_t count,
                          const char *user, unsigned how, struct cs_err *err)
{
    enum cs_status rc = CS_OK;
    size_t at;

    for (at = 0; at < count && rc == CS_OK; at += PROBE_MAX) {
        size_t some = count - at < PROBE_MAX ? count - at : PROBE_MAX;

        rc = compare_some(mirror, sids + at, some, user, how, err);
    }
    return rc;
}

enum cs_status cs_glance(struct cs_mirror *mirror, const char *sid, struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;
    struct compare c = {.mirror = mirror, .sid = sid};
    struct cs_reply *reply = NULL;
    char key[CS_KEY_CAP], sids[1][CS_UUID_MAX];
    const char *text;
    size_t len = 0;
    bool same;
    enum cs_status rc;

    key_of(key, CS_KEY_SESSION, sid);
    rc = cs_redis_call(mirror->redis, cs_op_deadline(), &reply, err, "GETRANGE", key, "-1024", "-1",
                       NULL);
    if (rc == CS_OK)
        rc = port->load(port->arg, sid, &c.local, NULL, NULL, err);
    text = cs_reply_string(reply, &len);
    if (rc == CS_OK)
        rc = cs_tail_parse(text != NULL ? text : "", len, &c.remote.tail, err);
    same = rc == CS_OK && c.remote.tail.kind == CS_TAIL_OURS &&
           cs_vector_read(c.remote.tail.vv, &c.remote.vv, NULL) == CS_OK &&
           cs_vector_le(&c.remote.vv, &c.local.vv) && c.local.live;
    same = same || (rc == CS_OK && c.remote.tail.kind == CS_TAIL_MISS);
    cs_reply_free(reply);
    cs_mirror_local_fini(&c.local);
    remote_fini(&c.remote);
    (void)snprintf(sids[0], CS_UUID_MAX, "%s", sid);
    return rc == CS_OK && !same
               ? cs_compare(mirror, (const char(*)[CS_UUID_MAX])sids, 1, NULL, 0, err)
               : rc;
}
