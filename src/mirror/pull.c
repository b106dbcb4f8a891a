/* mirror/pull: the logs of the users that are followed.
 *
 * A log is read from the cursor on, the cursor's own entry included: if it is not there, the log
 * was trimmed, wiped or went back in time, and every session is compared. Each entry of ours must
 * come back; one that does not was lost after it was acknowledged.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mirror_priv.h"

#define ENTRIES 64  /* read at once */
#define SIDS    256 /* looked at in one go */

struct pull {
    struct cs_mirror *mirror;
    struct cs_follow *follow;
    struct cs_changes changes;
    const char *sid; /* of the entry under way */
    int64_t stamp;
    bool bad;  /* the entry holds something unreadable */
    bool lost; /* the entry of ours that the bell heard last was not seen again yet */
};

static enum cs_status add(struct pull *pull, enum cs_mirror_change_kind kind, int64_t number,
                          const struct cs_vector *vector, struct cs_err *err)
{
    struct cs_mirror_change change = {
        .kind = kind, .number = number, .vector = vector, .user = pull->follow->user};

    change.sid = cs_changes_text(&pull->changes, pull->sid, strlen(pull->sid));
    return change.sid != NULL ? cs_changes_add(&pull->changes, &change, err) : cs_err_nomem(err);
}

/* ---- entries ---- */

/* The value of @field in an entry's flat list of fields. */
static const char *field_of(const struct cs_reply *fields, const char *name, size_t *out_len)
{
    size_t i;

    for (i = 0; i + 1 < cs_reply_size(fields); i += 2)
        if (cs_reply_is(cs_reply_at(fields, i), name))
            return cs_reply_string(cs_reply_at(fields, i + 1), out_len);
    return NULL;
}

static enum cs_status add_message(void *arg, const char *item, size_t len, struct cs_err *err)
{
    struct pull *pull = arg;
    struct cs_record record = {0};
    enum cs_status rc = cs_record_parse(item, len, &record, NULL);

    if (rc == CS_NO_MEM)
        return cs_err_nomem(err);
    if (rc != CS_OK) {
        pull->bad = true;
        return CS_OK;
    }
    rc = cs_changes_message(&pull->changes, pull->sid, &record,
                            cs_local_ms(pull->mirror, pull->stamp), err);
    cs_record_fini(&record);
    return rc;
}

/* A payload that stands in the session's value: "start length". */
static enum cs_status add_range(struct pull *pull, const char *range, struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    struct cs_buf array;
    char key[CS_KEY_CAP], first[24], last[24], *rest = NULL;
    long long start = strtoll(range, &rest, 10), size = strtoll(rest, NULL, 10);
    const char *text;
    size_t len = 0;
    struct cs_err why = {0};
    enum cs_status rc;

    if (start <= 0 || size <= 0 || size > CS_VALUE_MAX) {
        pull->bad = true;
        return CS_OK;
    }
    (void)snprintf(key, sizeof key, "%s%s", CS_KEY_SESSION, pull->sid);
    (void)snprintf(first, sizeof first, "%lld", start);
    (void)snprintf(last, sizeof last, "%lld", start + size - 1);
    rc = cs_redis_call(pull->mirror->redis, cs_op_deadline(), &reply, &why, "GETRANGE", key, first,
                       last, NULL);
    if (rc != CS_OK) {
        pull->bad = true;
        return cs_ends_step(pull->mirror, &why)
                   ? cs_err_set(err, why.status, why.code, "%s", why.msg)
                   : CS_OK;
    }
    text = cs_reply_string(reply, &len);
    cs_buf_init(&array, (size_t)CS_VALUE_MAX + 16);
    cs_buf_addc(&array, '[');
    cs_buf_add(&array, text != NULL ? text : "", text != NULL ? len : 0);
    cs_buf_addc(&array, ']');
    rc = cs_buf_check(&array, err);
    if (rc == CS_OK && cs_record_items(array.data, array.len, add_message, pull, NULL) != CS_OK)
        pull->bad = true;
    cs_buf_fini(&array);
    cs_reply_free(reply);
    return rc;
}

static enum cs_status hear_add(struct pull *pull, const struct cs_reply *fields, struct cs_err *err)
{
    size_t len = 0;
    const char *payload = field_of(fields, "b", &len);
    const char *range = field_of(fields, "r", NULL);
    enum cs_status rc = add(pull, CS_CHANGE_STAMP, pull->stamp, NULL, err);

    pull->bad = payload == NULL && range == NULL;
    if (rc == CS_OK && payload != NULL &&
        cs_record_items(payload, len, add_message, pull, NULL) != CS_OK)
        pull->bad = true;
    else if (rc == CS_OK && range != NULL)
        rc = add_range(pull, range, err);
    if (rc == CS_OK)
        rc = add(pull, CS_CHANGE_LIVE, cs_local_ms(pull->mirror, pull->stamp), NULL, err);
    return rc == CS_OK && pull->bad ? add(pull, CS_CHANGE_DIRTY, 0, NULL, err) : rc;
}

/* Somebody put a whole session: compare it, unless it is what we have. */
static enum cs_status hear_put(struct pull *pull, const struct cs_reply *fields, struct cs_err *err)
{
    const struct cs_mirror_port *port = &pull->mirror->options.port;
    struct cs_mirror_local local = {0};
    struct cs_vector vv = {0};
    size_t len = 0;
    const char *text = field_of(fields, "v", &len), *at = field_of(fields, "a", NULL);
    int64_t healed = at != NULL ? strtoll(at, NULL, 10) : 0;
    bool same;
    enum cs_status rc = cs_changes_apply(pull->mirror, &pull->changes, err);

    if (healed > 0 && healed < pull->stamp)
        pull->stamp = healed;
    if (rc == CS_OK)
        rc = port->load(port->arg, pull->sid, &local, NULL, NULL, err);
    if (rc != CS_OK)
        return rc;
    same = local.known && text != NULL && cs_vector_parse(text, len, &vv, NULL) == CS_OK &&
           cs_vector_le(&vv, &local.vv) && cs_vector_le(&local.vv, &vv);
    if (local.known)
        rc = add(pull, CS_CHANGE_STAMP, pull->stamp, NULL, err);
    if (rc == CS_OK && local.known)
        rc = add(pull, CS_CHANGE_LIVE, cs_local_ms(pull->mirror, pull->stamp), NULL, err);
    if (rc == CS_OK && !same)
        rc = add(pull, CS_CHANGE_DIRTY, 0, NULL, err);
    cs_vector_fini(&vv);
    cs_mirror_local_fini(&local);
    return rc;
}

static enum cs_status hear_del(struct pull *pull, const struct cs_reply *fields, struct cs_err *err)
{
    struct cs_vector vv = {0};
    size_t len = 0;
    const char *text = field_of(fields, "v", &len);
    struct cs_mirror_change change = {
        .kind = CS_CHANGE_TOMB, .sid = pull->sid, .user = pull->follow->user, .vector = &vv};
    enum cs_status rc = cs_changes_apply(pull->mirror, &pull->changes, err);

    if (rc != CS_OK || text == NULL || cs_vector_parse(text, len, &vv, NULL) != CS_OK)
        return rc;
    rc = cs_changes_add(&pull->changes, &change, err);
    if (rc == CS_OK) /* at once: the vector is on this stack */
        rc = cs_changes_apply(pull->mirror, &pull->changes, err);
    cs_vector_fini(&vv);
    return rc;
}

bool cs_confirm(struct cs_follow *follow, const char *id)
{
    size_t i;

    for (i = 0; i < follow->sent_count; i++)
        if (strcmp(follow->sent[i].id, id) == 0) {
            follow->sent[i] = follow->sent[--follow->sent_count];
            return true;
        }
    return false;
}

static enum cs_status hear_entry(struct pull *pull, const char *id, const struct cs_reply *fields,
                                 struct cs_err *err)
{
    const char *kind = field_of(fields, "k", NULL), *sid = field_of(fields, "s", NULL);

    bool ours = cs_confirm(pull->follow, id);
    enum cs_status rc;

    if (strcmp(id, pull->follow->heard) == 0)
        pull->lost = false;
    if (kind == NULL || sid == NULL || !cs_record_id_valid(sid))
        return CS_OK; /* nothing that we could make use of */
    pull->sid = sid;
    pull->stamp = cs_entry_stamp(id);
    pull->bad = false;
    rc = cs_believe(pull->mirror, &pull->stamp, err);
    if (rc != CS_OK)
        return rc;
    if (strcmp(kind, "put") == 0) /* ours too: earlier entries may have brought what it lacked */
        return hear_put(pull, fields, err);
    if (ours && strcmp(kind, "add") == 0) /* it may have been put out before */
        return add(pull, CS_CHANGE_LIVE, cs_local_ms(pull->mirror, pull->stamp), NULL, err);
    if (ours)
        return CS_OK;
    if (strcmp(kind, "add") == 0)
        return hear_add(pull, fields, err);
    if (strcmp(kind, "del") == 0)
        return hear_del(pull, fields, err);
    if (strcmp(kind, "evict") == 0)
        return add(pull, CS_CHANGE_EVICT, 0, NULL, err);
    return CS_OK;
}

/* ---- the log ---- */

static enum cs_status read_log(struct cs_mirror *mirror, const struct cs_follow *follow,
                               struct cs_reply **out_reply, struct cs_err *err)
{
    char key[CS_KEY_CAP], count[16];

    (void)snprintf(key, sizeof key, "%s%s", CS_KEY_LOG, follow->user);
    (void)snprintf(count, sizeof count, "%d", ENTRIES);
    return cs_redis_call(mirror->redis, cs_op_deadline(), out_reply, err, "XRANGE", key,
                         follow->cursor, "+", "COUNT", count, NULL);
}

/* Apply the entries behind the cursor, and move it, in one transaction. */
static enum cs_status hear_log(struct pull *pull, const struct cs_reply *reply, struct cs_err *err)
{
    struct cs_mirror_change moved = {.kind = CS_CHANGE_CURSOR, .user = pull->follow->user};
    size_t i, count = cs_reply_size(reply);
    const char *id = NULL, *before = pull->follow->cursor;
    enum cs_status rc = CS_OK;

    for (i = 1; i < count && rc == CS_OK; i++, before = id) {
        const struct cs_reply *entry = cs_reply_at(reply, i);

        id = cs_reply_string(cs_reply_at(entry, 0), NULL);
        if (id == NULL || strlen(id) >= CS_ENTRY_ID || cs_entry_compare(id, before) <= 0)
            return cs_err_set(err, CS_INVALID, "invalid_record", "a log in Redis is malformed");
        rc = hear_entry(pull, id, cs_reply_at(entry, 1), err);
    }
    if (rc != CS_OK || id == NULL)
        return rc;
    moved.text = id;
    rc = cs_changes_add(&pull->changes, &moved, err);
    if (rc == CS_OK)
        rc = cs_changes_apply(pull->mirror, &pull->changes, err);
    if (rc == CS_OK)
        memcpy(pull->follow->cursor, id, strlen(id) + 1);
    pull->follow->own = 0;
    return rc;
}

enum cs_status cs_pull_user(struct cs_mirror *mirror, struct cs_follow *follow, struct cs_err *err)
{
    struct pull pull = {.mirror = mirror, .follow = follow};
    bool more = true;
    enum cs_status rc = CS_OK;

    pull.lost = cs_entry_compare(follow->heard, follow->cursor) > 0;
    if (follow->cursor[0] == '\0')
        follow->resync = true;
    while (rc == CS_OK && more && !follow->resync) {
        struct cs_reply *reply = NULL;

        rc = read_log(mirror, follow, &reply, err);
        if (rc == CS_OK && !cs_reply_is(cs_reply_at(cs_reply_at(reply, 0), 0), follow->cursor)) {
            follow->resync = true;
        } else if (rc == CS_OK) {
            rc = hear_log(&pull, reply, err);
            more = cs_reply_size(reply) == ENTRIES;
        }
        cs_reply_free(reply);
        if (rc == CS_OK && more) /* nobody waits for the end of a long log */
            cs_mirror_serve(mirror);
    }
    /* The log was read to its end. What of ours is still missing, or was heard and is gone, was
     * lost: Redis went back in time, and who knows what else it forgot. */
    if (rc == CS_OK && (follow->sent_count > 0 || pull.lost))
        follow->resync = true;
    cs_changes_fini(&pull.changes);
    return rc == CS_OK && follow->resync ? cs_resync_user(mirror, follow, err) : rc;
}

/* ---- comparing all ---- */

struct members {
    const char *user;
    char (*sids)[CS_UUID_MAX];
    size_t count, cap;
};

static enum cs_status add_sid(struct members *members, const char *sid, struct cs_err *err)
{
    size_t cap = members->cap > 0 ? members->cap * 2 : 64;
    void *sids;

    if (members->count == members->cap) {
        sids = reallocarray(members->sids, cap, sizeof *members->sids);
        if (sids == NULL)
            return cs_err_nomem(err);
        members->sids = sids;
        members->cap = cap;
    }
    memcpy(members->sids[members->count++], sid, strlen(sid) + 1);
    return CS_OK;
}

static int compare_sids(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* What Redis says: the newest entry, then the user's sessions. In this order: what comes later is
 * read again from that entry on. */
static enum cs_status ask_redis(struct cs_mirror *mirror, const char *user, char tip[CS_ENTRY_ID],
                                struct members *members, struct cs_err *err)
{
    struct cs_reply *log = NULL, *set = NULL;
    char key[CS_KEY_CAP];
    const char *id;
    size_t i;
    enum cs_status rc;

    (void)snprintf(key, sizeof key, "%s%s", CS_KEY_LOG, user);
    rc = cs_redis_call(mirror->redis, cs_op_deadline(), &log, err, "XREVRANGE", key, "+", "-",
                       "COUNT", "1", NULL);
    (void)snprintf(key, sizeof key, "%s%s", CS_KEY_USER, user);
    if (rc == CS_OK)
        rc = cs_redis_call(mirror->redis, cs_op_deadline(), &set, err, "SMEMBERS", key, NULL);
    id = cs_reply_string(cs_reply_at(cs_reply_at(log, 0), 0), NULL);
    tip[0] = '\0';
    if (id != NULL && strlen(id) < CS_ENTRY_ID)
        memcpy(tip, id, strlen(id) + 1);
    for (i = 0; i < cs_reply_size(set) && rc == CS_OK; i++) {
        const char *sid = cs_reply_string(cs_reply_at(set, i), NULL);

        if (sid != NULL && cs_record_id_valid(sid))
            rc = add_sid(members, sid, err);
    }
    cs_reply_free(log);
    cs_reply_free(set);
    return rc;
}

static enum cs_status add_local(struct cs_mirror *mirror, const char *user, struct members *members,
                                struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;
    struct cs_id_page page = {.max = SIDS, .count = SIDS};
    char after[CS_UUID_MAX] = "";
    size_t i;
    enum cs_status rc;

    page.ids = calloc(SIDS, sizeof *page.ids);
    rc = page.ids != NULL ? CS_OK : cs_err_nomem(err);
    while (rc == CS_OK && page.count == SIDS) {
        page.count = 0;
        rc = port->sessions(port->arg, user, after, &page, err);
        for (i = 0; i < page.count && rc == CS_OK; i++)
            rc = add_sid(members, page.ids[i], err);
        if (page.count > 0)
            memcpy(after, page.ids[page.count - 1], CS_UUID_MAX);
    }
    free(page.ids);
    return rc;
}

/* Drop what occurs twice, or before @from: those of the user's set come first. Returns the count.
 */
static size_t keep_once(struct members *members, size_t from)
{
    size_t i, kept = from;

    if (members->count > from)
        qsort(members->sids + from, members->count - from, sizeof *members->sids, compare_sids);
    for (i = from; i < members->count; i++) {
        const char *sid = members->sids[i];
        bool twice = kept > from && strcmp(members->sids[kept - 1], sid) == 0;

        if (!twice && from > 0)
            twice = bsearch(sid, members->sids, from, sizeof *members->sids, compare_sids) != NULL;
        if (!twice)
            memmove(members->sids[kept++], sid, CS_UUID_MAX);
    }
    members->count = kept;
    return kept;
}

static enum cs_status compare_range(struct cs_mirror *mirror, const struct members *members,
                                    size_t from, size_t to, unsigned how, struct cs_err *err)
{
    enum cs_status rc = CS_OK;

    for (; from < to && rc == CS_OK; from += 32) {
        rc = cs_compare(mirror, (const char(*)[CS_UUID_MAX])members->sids + from,
                        to - from < 32 ? to - from : 32, members->user, how, err);
        if (to > 32)
            cs_mirror_serve(mirror);
    }
    return rc;
}

static enum cs_status hear_tombs(struct cs_mirror *mirror, const char *user,
                                 const struct cs_id_page *page, const struct cs_reply *reply,
                                 struct cs_err *err)
{
    enum cs_status rc = cs_reply_check(reply, err);
    size_t i;

    for (i = 0; i < page->count && rc == CS_OK; i++) {
        size_t len = 0;
        const char *text = cs_reply_string(cs_reply_at(reply, i), &len);
        struct cs_vector vv = {0};
        const struct cs_mirror_change change = {
            .kind = CS_CHANGE_TOMB, .sid = page->ids[i], .user = user, .vector = &vv};

        if (text != NULL && cs_vector_parse(text, len, &vv, NULL) == CS_OK)
            rc = mirror->options.port.apply(mirror->options.port.arg, &change, 1, err);
        cs_vector_fini(&vv);
    }
    return rc;
}

/* What others deleted while it is in the archive here: no comparison asks for that. */
static enum cs_status bury_archived(struct cs_mirror *mirror, const char *user, struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;
    struct cs_id_page page = {.max = SIDS, .count = SIDS};
    char after[CS_UUID_MAX] = "";
    enum cs_status rc;

    page.ids = calloc(SIDS, sizeof *page.ids);
    rc = page.ids != NULL ? CS_OK : cs_err_nomem(err);
    while (rc == CS_OK && page.count == SIDS) {
        struct cs_reply *reply = NULL;

        page.count = 0;
        rc = port->archived(port->arg, user, after, &page, err);
        if (rc != CS_OK || page.count == 0)
            break;
        memcpy(after, page.ids[page.count - 1], CS_UUID_MAX);
        rc = cs_mget_append(mirror, CS_KEY_TOMB, (const char(*)[CS_UUID_MAX])page.ids, page.count,
                            err);
        if (rc == CS_OK)
            rc = cs_redis_take(mirror->redis, cs_op_deadline(), &reply, err);
        if (rc == CS_OK)
            rc = hear_tombs(mirror, user, &page, reply, err);
        cs_reply_free(reply);
    }
    free(page.ids);
    return rc;
}

enum cs_status cs_resync_user(struct cs_mirror *mirror, struct cs_follow *follow,
                              struct cs_err *err)
{
    struct members members = {.user = follow->user};
    size_t indexed;
    char tip[CS_ENTRY_ID] = "";
    struct cs_mirror_change moved = {.kind = CS_CHANGE_CURSOR, .user = follow->user, .text = tip};
    enum cs_status rc = ask_redis(mirror, follow->user, tip, &members, err);

    follow->sent_count = 0; /* all are compared below */
    indexed = keep_once(&members, 0);
    if (rc == CS_OK)
        rc = add_local(mirror, follow->user, &members, err);
    (void)keep_once(&members, indexed);
    rc = rc == CS_OK ? compare_range(mirror, &members, 0, indexed, CS_COMPARE_AROUND, err) : rc;
    if (rc == CS_OK)
        rc = compare_range(mirror, &members, indexed, members.count, CS_COMPARE_INDEX, err);
    if (rc == CS_OK)
        rc = bury_archived(mirror, follow->user, err);
    free(members.sids);
    if (rc == CS_OK)
        rc = mirror->options.port.apply(mirror->options.port.arg, &moved, 1, err);
    if (rc != CS_OK)
        return rc;
    memcpy(follow->cursor, tip, sizeof tip);
    follow->heard[0] = '\0'; /* ids may be smaller now */
    follow->own = 0;
    follow->resync = false;
    return CS_OK;
}
