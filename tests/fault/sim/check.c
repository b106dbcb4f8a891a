/* The oracle: what was written, what was deleted, and the invariants. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/json.h"
#include "cs/store/message.h"
#include "sim.h"

#define TRUTH_MAX    4096
#define SESSIONS_MAX 256

/* ---- what should be ---- */

struct fact {
    char sid[CS_UUID_MAX];
    int64_t origin, seq;
    bool maybe; /* a host that was put back to its backup alone had it */
};
static struct fact truth[TRUTH_MAX];
static size_t truth_count;

struct buried {
    char sid[CS_UUID_MAX];
    struct cs_vector vv;
};
static struct buried deleted[SESSIONS_MAX];
static size_t deleted_count;

/* What Redis had at the last check. */
struct shown {
    char sid[CS_UUID_MAX];
    struct cs_vector vv;
};
static struct shown before[64];
static size_t before_count;

/* What each host had. */
static struct shown had[HOSTS_MAX][SESSIONS_MAX];
static size_t had_count[HOSTS_MAX];

static void forget(struct shown *list, size_t *count)
{
    for (size_t i = 0; i < *count; i++)
        cs_vector_fini(&list[i].vv);
    *count = 0;
}

void check_begin(void)
{
    truth_count = 0;
    for (size_t i = 0; i < deleted_count; i++)
        cs_vector_fini(&deleted[i].vv);
    deleted_count = 0;
    forget(before, &before_count);
    for (int i = 0; i < HOSTS_MAX; i++)
        forget(had[i], &had_count[i]);
}

void truth_add(const char *sid, int64_t origin, int64_t seq)
{
    struct fact *fact = &truth[truth_count++];

    if (truth_count == TRUTH_MAX)
        abort();
    *fact = (struct fact){.origin = origin, .seq = seq};
    (void)snprintf(fact->sid, sizeof fact->sid, "%s", sid);
}

static struct cs_vector *deleted_of(const char *sid)
{
    for (size_t i = 0; i < deleted_count; i++)
        if (strcmp(deleted[i].sid, sid) == 0)
            return &deleted[i].vv;
    return NULL;
}

void truth_delete(const char *sid, const struct cs_vector *vv)
{
    struct cs_vector *known = deleted_of(sid);

    if (known == NULL) {
        struct buried *buried = &deleted[deleted_count++];

        *buried = (struct buried){0};
        (void)snprintf(buried->sid, sizeof buried->sid, "%s", sid);
        known = &buried->vv;
    }
    if (cs_vector_join(known, vv, NULL) != CS_OK)
        abort();
}

static bool is_deleted(const char *sid, int64_t origin, int64_t seq)
{
    const struct cs_vector *vv = deleted_of(sid);

    return vv != NULL && cs_vector_get(vv, origin) >= seq;
}

/* ---- what is ---- */

bool host_vector(struct host *host, const char *sid, struct cs_vector *out)
{
    struct cs_session session = {0};
    struct cs_db *db = NULL;
    bool found = false;

    *out = (struct cs_vector){0};
    if (cs_store_read(host->store, &db, NULL) != CS_OK)
        return false;
    if (cs_session_find(db, sid, &session, NULL) == CS_OK) {
        found = cs_replica_vector(db, session.id, out, NULL) == CS_OK;
        cs_session_fini(&session);
    }
    cs_store_done(host->store, db);
    return found;
}

void truth_restored(struct host *host, bool ahead)
{
    /* what only the restored host had is gone with it, and nobody's fault */
    (void)ahead;
    for (size_t i = 0; i < truth_count; i++) {
        bool found = false;

        for (int h = 0; h < sim.host_count && !found; h++) {
            struct cs_vector vv;

            (void)host_vector(&sim.hosts[h], truth[i].sid, &vv);
            found = cs_vector_get(&vv, truth[i].origin) >= truth[i].seq;
            cs_vector_fini(&vv);
        }
        if (!found)
            truth[i].maybe = true;
    }
    forget(had[host->index], &had_count[host->index]);
}

struct text {
    struct cs_buf buf;
};

static enum cs_status add_text(void *arg, const struct cs_replica_message *message,
                               struct cs_err *err)
{
    struct text *text = arg;

    cs_buf_addf(&text->buf, "%016" PRIx64 ".%" PRId64 "@%" PRId64 "<%016" PRIx64 ".%" PRId64 " ",
                (uint64_t)message->origin, message->seq, message->hlc,
                (uint64_t)message->parent_origin, message->parent_seq);
    cs_buf_add(&text->buf, message->frag, message->len);
    cs_buf_addc(&text->buf, '\n');
    return cs_buf_check(&text->buf, err);
}

/* All messages of a session in order, as text; NULL when the host does not have it. *out_live: not
 * in the archive. */
static char *dump(struct host *host, const char *sid, bool *out_live)
{
    struct cs_session session = {0};
    struct text text;
    struct cs_db *db = NULL;
    char *out = NULL;

    *out_live = false;
    cs_buf_init(&text.buf, 16 << 20);
    if (cs_store_read(host->store, &db, NULL) != CS_OK)
        abort();
    if (cs_session_find(db, sid, &session, NULL) == CS_OK) {
        *out_live = session.state == CS_SESSION_LIVE;
        if (cs_replica_messages(db, &(struct cs_replica_range){.session = session.id}, add_text,
                                &text, NULL) != CS_OK)
            abort();
        out = cs_buf_take(&text.buf, NULL);
        cs_session_fini(&session);
    }
    cs_store_done(host->store, db);
    cs_buf_fini(&text.buf);
    return out;
}

/* ---- Redis ---- */

static struct cs_reply *ask(const char *a, const char *b, const char *c, const char *d)
{
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};

    if (cs_redis_call(sim.admin, cs_mono_ms() + 5000, &reply, &err, a, b, c, d, NULL) != CS_OK) {
        (void)fprintf(stderr, "sim: %s: %s\n", a, err.msg);
        abort();
    }
    return reply;
}

/* Whether the log says that @sid was put out or deleted. */
static bool was_put_out(const struct cs_reply *log, const char *sid)
{
    for (size_t i = 0; i < cs_reply_size(log); i++) {
        const struct cs_reply *fields = cs_reply_at(cs_reply_at(log, i), 1);

        if ((cs_reply_is(cs_reply_at(fields, 1), "evict") ||
             cs_reply_is(cs_reply_at(fields, 1), "del")) &&
            cs_reply_is(cs_reply_at(fields, 3), sid))
            return true;
    }
    return false;
}

static void check_message(const char *sid, const struct cs_json *message, struct cs_vector *seen,
                          size_t *count)
{
    const struct cs_json *identity = cs_json_get(message, "_cx");
    const char *origin = cs_json_string(cs_json_at(identity, 0), NULL);
    int64_t seq = cs_json_int(cs_json_at(identity, 1), 0);

    if (origin == NULL || cs_vector_origin(origin) == 0 || seq < 1) {
        sim_fail("5: a message of %s has no identity", sid);
        return;
    }
    ++*count;
    if (cs_vector_raise(seen, cs_vector_origin(origin), seq, NULL) != CS_OK)
        abort();
}

/* 4, 5: parses, no hole, none twice, length and vector as they are. */
static void check_value(const char *sid, const char *text, size_t len, struct cs_vector *out)
{
    struct cs_json *root = NULL;
    const struct cs_json *messages, *cx;
    struct cs_vector vv = {0};
    size_t count = 0, sum = 0;

    if (cs_json_parse(text, len, len, &root, NULL) != CS_OK) {
        sim_fail("5: the value of %s is no JSON", sid);
        return;
    }
    messages = cs_json_get(root, "messages");
    for (size_t i = 0; i < cs_json_size(messages); i++)
        check_message(sid, cs_json_at(messages, i), out, &count);
    for (size_t i = 0; i < out->count; i++)
        sum += (size_t)out->items[i].seq;
    if (sum != count)
        sim_fail("4: the value of %s has %zu messages where %zu belong", sid, count, sum);
    cx = cs_json_get(root, "_cx");
    if (cs_json_int(cs_json_get(cx, "L"), -1) != (int64_t)len)
        sim_fail("5: the length of %s", sid);
    if (cs_vector_read(cs_json_get(cx, "vv"), &vv, NULL) != CS_OK || !cs_vector_le(&vv, out) ||
        !cs_vector_le(out, &vv))
        sim_fail("5: the vector of %s", sid);
    cs_vector_fini(&vv);
    cs_json_free(root);
}

static void check_tomb(const char *sid, const struct cs_vector *vv)
{
    char key[64];
    struct cs_reply *reply;
    struct cs_vector tomb = {0};
    const char *text;

    (void)snprintf(key, sizeof key, "cx:tomb:%s", sid);
    reply = ask("GET", key, NULL, NULL);
    text = cs_reply_string(reply, NULL);
    if (text != NULL && cs_vector_parse(text, strlen(text), &tomb, NULL) == CS_OK &&
        cs_vector_le(vv, &tomb))
        sim_fail("7: %s stands beside its tombstone", sid);
    cs_vector_fini(&tomb);
    cs_reply_free(reply);
}

/* 6: without a fault, an eviction or a deletion nothing goes. */
static void check_kept(const struct shown *now, size_t count, const struct cs_reply *log)
{
    for (size_t i = 0; i < before_count && !sim.fault; i++) {
        const struct shown *old = &before[i];
        size_t n = 0;

        while (n < count && strcmp(now[n].sid, old->sid) != 0)
            n++;
        if ((n == count || !cs_vector_le(&old->vv, &now[n].vv)) && !was_put_out(log, old->sid))
            sim_fail("6: Redis lost messages of %s", old->sid);
    }
}

static void check_redis(void)
{
    static struct shown now[64];
    struct cs_reply *keys = ask("KEYS", "*", NULL, NULL), *log = NULL;
    size_t count = 0;

    log = ask("XRANGE", "cx:log:" USER, "-", "+");
    for (size_t i = 0; i < cs_reply_size(keys); i++) {
        const char *key = cs_reply_string(cs_reply_at(keys, i), NULL);
        struct cs_reply *reply = ask("TTL", key, NULL, NULL);

        if (cs_reply_int(reply, 0) < 0)
            sim_fail("9: %s has no time to live", key);
        cs_reply_free(reply);
        if (strncmp(key, "codex:session:", 14) == 0 && count < 64) {
            size_t len = 0;
            const char *text;

            reply = ask("GET", key, NULL, NULL);
            text = cs_reply_string(reply, &len);
            now[count] = (struct shown){0};
            (void)snprintf(now[count].sid, CS_UUID_MAX, "%s", key + 14);
            check_value(key + 14, text, len, &now[count].vv);
            check_tomb(key + 14, &now[count].vv);
            cs_reply_free(reply);
            count++;
        }
    }
    check_kept(now, count, log);
    cs_reply_free(keys);
    cs_reply_free(log);
    forget(before, &before_count);
    memcpy(before, now, count * sizeof *now);
    before_count = count;
    sim.fault = false;
}

/* ---- hosts ---- */

/* Every session that was ever made. */
static size_t all_sids(char (*out)[CS_UUID_MAX])
{
    size_t count = 0;

    for (size_t i = 0; i < truth_count; i++) {
        size_t k = 0;

        while (k < count && strcmp(out[k], truth[i].sid) != 0)
            k++;
        if (k == count && count < SESSIONS_MAX)
            memcpy(out[count++], truth[i].sid, CS_UUID_MAX);
    }
    return count;
}

/* 12: what a host has, it keeps, but for what was deleted. */
static void check_rows(struct host *host)
{
    static char sids[SESSIONS_MAX][CS_UUID_MAX];
    struct shown *list = had[host->index];
    size_t count = all_sids(sids);

    for (size_t i = 0; i < had_count[host->index]; i++) {
        struct cs_vector vv;

        (void)host_vector(host, list[i].sid, &vv);
        for (size_t k = 0; k < list[i].vv.count; k++) {
            const struct cs_vector_item *item = &list[i].vv.items[k];

            if (cs_vector_get(&vv, item->origin) < item->seq &&
                !is_deleted(list[i].sid, item->origin, item->seq))
                sim_fail("12: host %d lost messages of %s", host->index, list[i].sid);
        }
        cs_vector_fini(&vv);
    }
    forget(list, &had_count[host->index]);
    for (size_t i = 0; i < count; i++) {
        struct shown *item = &list[had_count[host->index]];

        if (!host_vector(host, sids[i], &item->vv))
            continue;
        memcpy(item->sid, sids[i], CS_UUID_MAX);
        had_count[host->index]++;
    }
}

/* 1: every message is somewhere. */
static void check_somewhere(void)
{
    for (size_t i = 0; i < truth_count; i++) {
        bool found = truth[i].maybe || is_deleted(truth[i].sid, truth[i].origin, truth[i].seq);

        for (int h = 0; h < sim.host_count && !found; h++)
            for (size_t k = 0; k < had_count[h] && !found; k++)
                found = strcmp(had[h][k].sid, truth[i].sid) == 0 &&
                        cs_vector_get(&had[h][k].vv, truth[i].origin) >= truth[i].seq;
        if (!found)
            sim_fail("1: a message of %s is on no host", truth[i].sid);
    }
}

void check_step(void)
{
    check_redis();
    for (int h = 0; h < sim.host_count; h++)
        check_rows(&sim.hosts[h]);
    check_somewhere();
}

/* For who looks into a failure. */
static void show(const char *sid)
{
    for (int h = 0; h < sim.host_count && sim.talk; h++) {
        struct cs_db *db = NULL;
        struct cs_replica_mark mark = {0};
        struct cs_vector vv;
        struct cs_buf text;

        cs_buf_init(&text, 65536);
        (void)host_vector(&sim.hosts[h], sid, &vv);
        cs_vector_write(&vv, &text);
        cs_vector_fini(&vv);
        if (cs_store_read(sim.hosts[h].store, &db, NULL) == CS_OK &&
            cs_replica_mark(db, sid, &mark, NULL) == CS_OK) {
            cs_buf_addf(&text, " dirty %d unsent %d generation %d aside %s tomb ", mark.dirty,
                        mark.unsent, (int)mark.generation, mark.aside != NULL ? mark.aside : "-");
            cs_vector_write(&mark.tomb, &text);
            cs_replica_mark_fini(&mark);
        }
        cs_store_done(sim.hosts[h].store, db);
        (void)fprintf(story, "      host %d has %s of %s\n", h, text.data, sid);
        cs_buf_fini(&text);
    }
}

/* 2, 3: a session that Redis shows is the same on all hosts. */
static void check_same(const char *sid, const char *what)
{
    char *first = NULL;
    bool live, was_broken = sim.broken;

    for (int h = 0; h < sim.host_count; h++) {
        char *text = dump(&sim.hosts[h], sid, &live);

        if (text == NULL)
            sim_fail("%s: host %d lacks %s", what, h, sid);
        else if (first != NULL && strcmp(first, text) != 0)
            sim_fail("%s: %s differs on host %d", what, sid, h);
        if (text != NULL && !live)
            sim_fail("%s: %s is in the archive of host %d", what, sid, h);
        if (first == NULL)
            first = text;
        else
            free(text);
    }
    free(first);
    if (sim.broken && !was_broken)
        show(sid);
}

/* Whether the user's set names it. One that nobody names any more, for want of its set, ends by
 * itself. */
static bool is_member(const char *sid)
{
    struct cs_reply *reply = ask("SISMEMBER", "user:sessions:" USER, sid, NULL);
    bool member = cs_reply_int(reply, 0) == 1;

    cs_reply_free(reply);
    return member;
}

/* 11: the network is well again; no comparison of everything helps. */
void check_calm(void)
{
    check_redis();
    if (sim.lost_keys)
        return;
    for (size_t i = 0; i < before_count; i++)
        if (is_member(before[i].sid))
            check_same(before[i].sid, "11");
}

/* 8: nobody deleted more than a user asked for. */
static void check_tombs(struct host *host, char (*sids)[CS_UUID_MAX], size_t count)
{
    struct cs_db *db = NULL;

    if (cs_store_read(host->store, &db, NULL) != CS_OK)
        abort();
    for (size_t i = 0; i < count; i++) {
        static const struct cs_vector none;
        struct cs_replica_mark mark;
        const struct cs_vector *asked = deleted_of(sids[i]);

        if (cs_replica_mark(db, sids[i], &mark, NULL) != CS_OK)
            abort();
        if (!cs_vector_le(&mark.tomb, asked != NULL ? asked : &none))
            sim_fail("8: host %d buried more of %s than was deleted", host->index, sids[i]);
        cs_replica_mark_fini(&mark);
    }
    cs_store_done(host->store, db);
}

static void say_aside(void *arg, const char *sid, const char *why)
{
    sim_fail("11: host %d set %s aside: %s", *(int *)arg, sid, why);
}

/* 11: nothing is left to be done. */
static void check_drained(struct host *host)
{
    struct cs_replica_figures figures = {0};
    struct cs_db *db = NULL;

    if (cs_store_read(host->store, &db, NULL) != CS_OK ||
        cs_replica_figures(db, &figures, NULL) != CS_OK ||
        cs_replica_each_aside(db, 10, say_aside, &host->index, NULL) != CS_OK)
        abort();
    cs_store_done(host->store, db);
    if (figures.pending_messages != 0 || figures.pending_sessions != 0)
        sim_fail("11: host %d is not drained: %" PRId64 " sessions, %" PRId64 " messages",
                 host->index, figures.pending_sessions, figures.pending_messages);
}

/* 9: the user's set is within the limit and names what is there. */
static void check_set(void)
{
    struct cs_reply *set = ask("SMEMBERS", "user:sessions:" USER, NULL, NULL);

    if (cs_reply_size(set) > LIMIT)
        sim_fail("9: %zu sessions of one user", cs_reply_size(set));
    for (size_t i = 0; i < cs_reply_size(set); i++) {
        const char *sid = cs_reply_string(cs_reply_at(set, i), NULL);
        size_t k = 0;

        while (k < before_count && strcmp(before[k].sid, sid) != 0)
            k++;
        if (k == before_count)
            sim_fail("9: the user's set names %s, which is not there", sid);
    }
    cs_reply_free(set);
}

/* What Redis shows is what the hosts have. */
static void check_projection(void)
{
    for (size_t i = 0; i < before_count; i++) {
        struct cs_vector vv;

        if (!is_member(before[i].sid))
            continue;
        (void)host_vector(&sim.hosts[0], before[i].sid, &vv);
        if (!cs_vector_le(&vv, &before[i].vv) || !cs_vector_le(&before[i].vv, &vv))
            sim_fail("2: Redis and host 0 differ in %s", before[i].sid);
        cs_vector_fini(&vv);
    }
}

/* A session that is live on one host is in Redis, and deleted everywhere or nowhere. */
static void check_verdicts(char (*sids)[CS_UUID_MAX], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t k = 0;

        while (k < before_count && strcmp(before[k].sid, sids[i]) != 0)
            k++;
        if (k < before_count && !is_member(sids[i]))
            k = before_count;
        for (int h = 0; h < sim.host_count && k == before_count; h++) {
            bool live;
            char *text = dump(&sim.hosts[h], sids[i], &live);

            if (text != NULL && live)
                sim_fail("2: %s is live on host %d and not in Redis", sids[i], h);
            free(text);
        }
    }
}

void check_end(void)
{
    static char sids[SESSIONS_MAX][CS_UUID_MAX];
    size_t count = all_sids(sids);

    check_step();
    for (size_t i = 0; i < before_count; i++)
        if (is_member(before[i].sid))
            check_same(before[i].sid, "2");
    for (int h = 0; h < sim.host_count; h++) {
        check_tombs(&sim.hosts[h], sids, count);
        check_drained(&sim.hosts[h]);
    }
    check_set();
    check_projection();
    check_verdicts(sids, count);
}
