/* The oracle: what Redis has, and whether all agree. The numbers are the invariants':
 *
 *  1 every message is on a host until its user deletes it
 *  2 every host has every message of every mirrored session, byte for byte
 *  3 in the same order
 *  4 no hole per origin
 *  5 Redis' JSON parses, nothing is in it twice, length and vector are true
 *  6 what Redis took stays there until a fault, an eviction, a deletion or its time
 *  7 no session stands beside a tombstone that covers it
 *  8 no tombstone exceeds what users deleted
 *  9 every key has a time to live; the user's set is within the limit, and names what is there
 * 10 repeating a request changes nothing
 * 11 with the network well all agree after a few rounds, with nobody's help
 * 12 no host loses a row to an eviction
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/json.h"
#include "oracle.h"

static char log_seen[USERS][48]; /* the newest entry that was looked at */
static unsigned losses_seen;     /* of Redis, at the last look */

void check_forget(void)
{
    memset(log_seen, 0, sizeof log_seen);
    losses_seen = 0;
}

/* ---- the logs: what Redis took, and put out ---- */

static const char *field(const struct cs_reply *fields, const char *name, size_t *out_len)
{
    for (size_t i = 0; i + 1 < cs_reply_size(fields); i += 2)
        if (cs_reply_is(cs_reply_at(fields, i), name))
            return cs_reply_string(cs_reply_at(fields, i + 1), out_len);
    return NULL;
}

/* How many messages an entry brought: those in it, or in the part of the value that it names. */
static int64_t messages_in(const struct cs_reply *fields, const char *sid)
{
    static const char identity[] = ",\"_cx\":[\"";
    char key[96], last[24], *rest = NULL;
    struct cs_reply *part = NULL;
    size_t len = 0;
    const char *text = field(fields, "b", &len), *range = field(fields, "r", NULL), *at;
    int64_t n = 0;

    if (text == NULL && range != NULL) {
        long long start = strtoll(range, &rest, 10), size = strtoll(rest, NULL, 10);
        char first[24];

        (void)snprintf(key, sizeof key, "codex:session:%s", sid);
        (void)snprintf(first, sizeof first, "%lld", start);
        (void)snprintf(last, sizeof last, "%lld", start + size - 1);
        part = server_ask("GETRANGE", key, first, last);
        text = cs_reply_string(part, &len);
    }
    at = text;
    while (at != NULL &&
           (at = memmem(at, len - (size_t)(at - text), identity, sizeof identity - 1)) != NULL) {
        at++;
        n++;
    }
    cs_reply_free(part);
    return n;
}

static void note_entry(const struct cs_reply *fields)
{
    const char *kind = field(fields, "k", NULL), *sid = field(fields, "s", NULL), *vv;
    int number = sid != NULL ? session_number(sid) : -1;
    struct session *session = number >= 0 ? &sessions[number] : NULL;
    struct cs_vector vector = {0};
    size_t len = 0;

    if (kind == NULL || session == NULL)
        return;
    if (strcmp(kind, "evict") == 0 || strcmp(kind, "del") == 0)
        session->put_out = true;
    if (strcmp(kind, "add") == 0) {
        const char *origin = field(fields, "o", NULL), *from = field(fields, "f", NULL);
        int64_t first = from != NULL ? strtoll(from, NULL, 10) : 0;

        session->restored = 0;
        if (cs_vector_raise(&session->offered, cs_vector_origin(origin),
                            first + messages_in(fields, sid) - 1, NULL) != CS_OK)
            abort();
    }
    vv = field(fields, "v", &len);
    if (strcmp(kind, "del") == 0 && vv != NULL &&
        cs_vector_parse(vv, len, &vector, NULL) == CS_OK) {
        if (cs_vector_join(&session->told, &vector, NULL) != CS_OK)
            abort();
        cs_vector_fini(&vector);
    }
    if (strcmp(kind, "put") == 0 && vv != NULL &&
        cs_vector_parse(vv, len, &vector, NULL) == CS_OK) {
        session->restored = 0;
        if (cs_vector_join(&session->offered, &vector, NULL) != CS_OK)
            abort();
        cs_vector_fini(&vector);
    }
}

void check_log(void)
{
    for (int u = 0; u < USERS; u++) {
        char key[64], from[128];
        struct cs_reply *log;

        (void)snprintf(key, sizeof key, "cx:log:%s", users[u]);
        (void)snprintf(from, sizeof from, "%s%s", log_seen[u][0] != '\0' ? "(" : "-", log_seen[u]);
        log = server_ask("XRANGE", key, from, "+");
        for (size_t i = 0; i < cs_reply_size(log); i++) {
            const struct cs_reply *entry = cs_reply_at(log, i);

            note_entry(cs_reply_at(entry, 1));
            (void)snprintf(log_seen[u], sizeof log_seen[u], "%s",
                           cs_reply_string(cs_reply_at(entry, 0), NULL));
        }
        cs_reply_free(log);
    }
}

/* ---- one value ---- */

static void check_message(int session, const struct cs_json *message, struct cs_vector *seen,
                          bool foreign)
{
    const struct cs_json *identity = cs_json_get(message, "_cx");
    const char *origin = cs_json_string(cs_json_at(identity, 0), NULL);
    int64_t seq = cs_json_int(cs_json_at(identity, 1), 0);
    int64_t number = origin != NULL ? cs_vector_origin(origin) : 0;

    truth_shown(session, cs_json_get_string(message, "content"));
    if (foreign)
        return;
    if (number == 0 || seq < 1)
        sim_fail("5: a message of s%d has no identity", session);
    else if (cs_vector_get(seen, number) != seq - 1)
        sim_fail("4: s%d in Redis has a hole, or a message twice", session);
    else if (cs_vector_raise(seen, number, seq, NULL) != CS_OK)
        abort();
}

/* Whether the tail is one of ours: as wide as it says. */
static bool is_foreign(const char *text, size_t len, const struct cs_json *root)
{
    const char *width = cs_json_get_string(root, "w");
    size_t n = width != NULL ? strtoul(width, NULL, 10) : 0;

    return n == 0 || n > len || memcmp(text + len - n, "],\"_cx\":", 8) != 0;
}

static void check_value(int number, const char *text, size_t len, struct cs_vector *out)
{
    struct session *session = &sessions[number];
    struct cs_json *root = NULL;
    const struct cs_json *messages, *cx;
    struct cs_vector vv = {0};
    bool foreign;

    if (cs_json_parse(text, len, len, &root, NULL) != CS_OK) {
        sim_fail("5: the value of s%d is no JSON", number);
        return;
    }
    truth_value();
    foreign = session->foreign = is_foreign(text, len, root);
    messages = cs_json_get(root, "messages");
    for (size_t i = 0; i < cs_json_size(messages); i++)
        check_message(number, cs_json_at(messages, i), out, foreign);
    cx = cs_json_get(root, "_cx");
    if (foreign) {
        if (!session->plain)
            sim_fail("5: s%d is not in our format", number);
    } else if (cs_json_int(cs_json_get(cx, "L"), -1) != (int64_t)len) {
        sim_fail("5: the length of s%d", number);
    } else if (cs_vector_read(cs_json_get(cx, "vv"), &vv, NULL) != CS_OK ||
               !cs_vector_le(&vv, out) || !cs_vector_le(out, &vv)) {
        sim_fail("5: the vector of s%d", number);
    }
    cs_vector_fini(&vv);
    cs_json_free(root);
}

/* ---- all of Redis ---- */

/* The item of @key in a state; NULL when it is not there. */
static const struct cs_reply *item_of(const struct cs_reply *state, const char *prefix,
                                      const char *id)
{
    char key[96];

    (void)snprintf(key, sizeof key, "%s%s", prefix, id);
    for (size_t i = 0; i < cs_reply_size(state); i++)
        if (cs_reply_is(cs_reply_at(cs_reply_at(state, i), 0), key))
            return cs_reply_at(state, i);
    return NULL;
}

/* 7, 8 */
static void check_tombstone(const struct cs_reply *state, int number, const struct cs_vector *vv)
{
    char sid[CS_UUID_MAX];
    const struct cs_reply *item = item_of(state, "cx:tomb:", session_name(number, sid));
    size_t len = 0;
    const char *text = cs_reply_string(cs_reply_at(item, 3), &len);
    struct cs_vector tomb = {0};

    if (text == NULL)
        return;
    if (cs_vector_parse(text, len, &tomb, NULL) != CS_OK)
        sim_fail("8: the tombstone of s%d is unreadable", number);
    check_tomb(number, &tomb, "Redis");
    if (vv != NULL && vv->count > 0 && cs_vector_le(vv, &tomb))
        sim_fail("7: s%d stands beside its tombstone", number);
    cs_vector_fini(&tomb);
}

/* The hour slides with what Redis saw last, to two seconds. */
static void check_hour(int number, const char *text, size_t len, int64_t left_ms)
{
    static const char name[] = "\"at\":";
    size_t tail = len < 1024 ? 0 : len - 1024;
    const char *at = memmem(text + tail, len - tail, name, sizeof name - 1);
    int64_t ttl_s = sessions[number].ttl_s > 0 ? sessions[number].ttl_s : 2592000;
    int64_t off_ms;

    if (at == NULL)
        return; /* a wide tail */
    off_ms = sim.now_us / 1000 + left_ms -
             (strtoll(at + sizeof name - 1, NULL, 10) / 1000 + ttl_s * 1000);
    if (off_ms < -1000 || off_ms > 2500)
        sim_fail("9: the hour of s%d is off by %" PRId64 " ms", number, off_ms);
}

/* 4 to 8 of one session. */
static void check_session(const struct cs_reply *state, int number)
{
    struct session *session = &sessions[number];
    char sid[CS_UUID_MAX];
    const struct cs_reply *item = item_of(state, "codex:session:", session_name(number, sid));
    struct cs_vector vv = {0};
    size_t len = 0;
    const char *text = cs_reply_string(cs_reply_at(item, 3), &len);
    bool over = session->shown && session->ends_us <= sim.now_us;

    session->foreign = false;
    session->over = text == NULL && (over || session->over);
    if (text != NULL)
        check_value(number, text, len, &vv);
    check_tombstone(state, number, text != NULL ? &vv : NULL);
    if (session->shown && losses_seen == sim.losses && !session->put_out && !over &&
        !cs_vector_le(&session->vv, &vv))
        sim_fail("6: Redis lost messages of s%d", number);
    if (text == NULL && (over || losses_seen != sim.losses))
        session->unnamed = true;
    else if (text != NULL)
        session->unnamed = false;
    if (text != NULL && !session->foreign)
        check_hour(number, text, len, cs_reply_int(cs_reply_at(item, 1), 0));
    cs_vector_fini(&session->vv);
    session->vv = vv;
    session->shown = text != NULL;
    if (text != NULL)
        session->ends_us = sim.now_us + cs_reply_int(cs_reply_at(item, 1), 0) * 1000;
    if (session->put_out || over)
        truth_let_go(number);
    session->put_out = false;
}

/* 9 */
static void check_set(const struct cs_reply *state, int user, bool strict)
{
    const struct cs_reply *item = item_of(state, "user:sessions:", users[user]);
    const struct cs_reply *members = cs_reply_at(item, 3);

    if (sim.limits[user] > 0 && cs_reply_size(members) > (size_t)sim.limits[user])
        sim_fail("9: %zu sessions of %s", cs_reply_size(members), users[user]);
    for (size_t i = 0; i < cs_reply_size(members); i++) {
        int number = session_number(cs_reply_string(cs_reply_at(members, i), NULL));

        if (number < 0 || session_user(number) != user)
            sim_fail("9: the set of %s names a session of somebody else", users[user]);
        else if (!sessions[number].shown && (strict || !sessions[number].unnamed))
            sim_fail("9: the set of %s names s%d, which is not there", users[user], number);
    }
}

static void check_keys(const struct cs_reply *state)
{
    for (size_t i = 0; i < cs_reply_size(state); i++) {
        const struct cs_reply *item = cs_reply_at(state, i);
        const char *key = cs_reply_string(cs_reply_at(item, 0), NULL);
        int64_t ttl_ms = cs_reply_int(cs_reply_at(item, 1), -1);

        if (ttl_ms < 0)
            sim_fail("9: %s has no time to live", key);
        if (strncmp(key, "cx:lease:", 9) == 0 && ttl_ms > LEASE_S * 1000)
            sim_fail("9: %s outlives its minute", key);
    }
}

static void check_redis(bool strict)
{
    struct cs_reply *state;

    check_log();
    state = server_state();
    check_keys(state);
    for (int i = 0; i < sim.serial; i++)
        check_session(state, i);
    for (int u = 0; u < USERS; u++)
        check_set(state, u, strict);
    cs_reply_free(state);
    losses_seen = sim.losses;
}

void truth_lost_key(const char *key)
{
    static const char *const kinds[] = {"codex:session:", "cx:tomb:"};
    static const char set[] = "user:sessions:";

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strncmp(key, kinds[i], strlen(kinds[i])) == 0 &&
            session_number(key + strlen(kinds[i])) >= 0)
            sessions[session_number(key + strlen(kinds[i]))].lost = true;
    for (int i = 0; i < sim.serial; i++) /* who compares now does not see them */
        if (strncmp(key, set, sizeof set - 1) == 0 &&
            strcmp(key + sizeof set - 1, users[sessions[i].user]) == 0)
            sessions[i].lost = true;
}

void truth_rolled_back(void)
{
    for (int i = 0; i < sim.serial; i++) {
        char key[96], sid[CS_UUID_MAX];
        struct cs_reply *reply;
        struct cs_json *root = NULL;
        const char *text;
        size_t len = 0;

        (void)snprintf(key, sizeof key, "codex:session:%s", session_name(i, sid));
        reply = server_ask("GET", key, NULL, NULL);
        text = cs_reply_string(reply, &len);
        if (text != NULL && cs_json_parse(text, len, len, &root, NULL) == CS_OK &&
            is_foreign(text, len, root))
            sessions[i].replayed = true;
        cs_json_free(root);
        cs_reply_free(reply);
    }
}

void truth_compared(void)
{
    for (int i = 0; i < sim.serial; i++)
        sessions[i].lost = false;
    for (int h = 0; h < sim.host_count; h++)
        sim.hosts[h].clock_set = false;
}

/* ---- at certain moments ---- */

void check_repeat(uint64_t before, const char *what)
{
    if (before != server_digest())
        sim_fail("10: a request repeated %s changed something", what);
}

/* A lease that Redis gave, and that nothing took, is held. */
void check_lease(struct host *host)
{
    const struct turn *turn = &host->turn;
    char key[96], name[8];
    struct cs_reply *reply;
    const char *held;

    if (!turn->leased || turn->losses != sim.losses || sim.now_us >= turn->until_us)
        return;
    (void)snprintf(key, sizeof key, "cx:lease:%s", turn->sid);
    (void)snprintf(name, sizeof name, " h%d", host->index);
    reply = server_ask("GET", key, NULL, NULL);
    held = cs_reply_string(reply, NULL);
    if (held == NULL || strlen(held) < 3 || strcmp(held + strlen(held) - 3, name) != 0)
        sim_fail("lease: host %d runs a turn of %s, and its lease is %s", host->index, turn->sid,
                 held != NULL ? held : "free");
    cs_reply_free(reply);
}

/* Whether the host knows that all of what Redis shows was deleted. It deletes that there, too; but
 * Redis may forget the deletion the moment after. */
static bool knows_deleted(struct host *host, int number)
{
    struct cs_replica_mark mark = {0};
    struct cs_db *db = NULL;
    char sid[CS_UUID_MAX];
    bool deleted;

    if (cs_store_read(host->store, &db, NULL) != CS_OK ||
        cs_replica_mark(db, session_name(number, sid), &mark, NULL) != CS_OK)
        abort();
    cs_store_done(host->store, db);
    deleted = cs_vector_le(&sessions[number].vv, &mark.tomb);
    cs_replica_mark_fini(&mark);
    return deleted;
}

void check_read(struct host *host, int number)
{
    struct cs_vector vv;
    char sid[CS_UUID_MAX];

    check_redis(false);
    (void)host_vector(host, session_name(number, sid), &vv);
    if (sessions[number].shown && !sessions[number].foreign && !is_live_on(host, number) &&
        !cs_vector_le(&sessions[number].vv, &vv) && !knows_deleted(host, number)) {
        sim_fail("read-through: host %d did not read s%d", host->index, number);
        show_session(number);
    }
    cs_vector_fini(&vv);
}

void check_step(void)
{
    check_redis(false);
    for (int h = 0; h < sim.host_count; h++) {
        if (sim.hosts[h].touched)
            check_host(&sim.hosts[h]);
        if (sim.hosts[h].acted)
            check_pending(&sim.hosts[h]);
        sim.hosts[h].acted = false;
        check_lease(&sim.hosts[h]);
    }
    check_somewhere();
    truth_looked();
}

/* ---- when all is well ---- */

/* What a turn will be is seen when it ends. */
static bool is_running(int number)
{
    char sid[CS_UUID_MAX];

    for (int h = 0; h < sim.host_count; h++)
        if (strcmp(sim.hosts[h].turn.sid, session_name(number, sid)) == 0)
            return true;
    return false;
}

/* 11: what its users wrote, and what they took back, a host offers as soon as it can; the prompt of
 * a turn goes with its answer. */
void check_offers(struct host *host)
{
    struct set before, after;
    bool live[SESSIONS_MAX];

    check_host(host);
    before = unoffered(host);
    for (int i = 0; i < sim.serial; i++)
        live[i] = before.has[i] && is_live_on(host, i) && !is_running(i);
    if (!host_step(host, false)) {
        sim_fail("11: host %d cannot sync on a good network", host->index);
        return;
    }
    check_host(host);
    check_redis(false);
    for (int i = 0; i < sim.serial; i++)
        if (sessions[i].shown)
            sessions[i].restored = 0; /* it is there */
    after = unoffered(host);
    for (int i = 0; i < sim.serial; i++)
        if (live[i] && after.has[i]) {
            sim_fail("11: host %d does not offer what it has of s%d", host->index, i);
            show_session(i);
        }
}

/* 2, 3: a session that Redis shows is the same on all hosts. */
static void check_same(int number, const char *what)
{
    char *first = NULL;
    bool was_broken = sim.broken;

    for (int h = 0; h < sim.host_count; h++) {
        char *text;

        if (!is_followed(&sim.hosts[h], sessions[number].user))
            continue;
        text = dump(&sim.hosts[h], number);
        if (text == NULL)
            sim_fail("%s: host %d lacks s%d", what, h, number);
        else if (first != NULL && strcmp(first, text) != 0)
            sim_fail("%s: s%d differs on host %d", what, number, h);
        if (text != NULL && !sim.hosts[h].clock_set && !is_live_on(&sim.hosts[h], number))
            sim_fail("%s: s%d is in the archive of host %d", what, number, h);
        if (first == NULL)
            first = text;
        else
            free(text);
    }
    free(first);
    if (sim.broken && !was_broken)
        show_session(number);
}

/* What Redis shows is what the hosts have. */
static void check_projection(int number, const char *what)
{
    struct cs_vector vv;
    char sid[CS_UUID_MAX];

    for (int h = 0; h < sim.host_count; h++) {
        if (!is_followed(&sim.hosts[h], sessions[number].user))
            continue;
        (void)host_vector(&sim.hosts[h], session_name(number, sid), &vv);
        if (!cs_vector_le(&vv, &sessions[number].vv) || !cs_vector_le(&sessions[number].vv, &vv))
            sim_fail("%s: Redis and host %d differ in s%d", what, h, number);
        cs_vector_fini(&vv);
    }
}

static bool is_member(int number)
{
    char key[64], sid[CS_UUID_MAX];
    struct cs_reply *reply;
    bool member;

    (void)snprintf(key, sizeof key, "user:sessions:%s", users[sessions[number].user]);
    reply = server_ask("SISMEMBER", key, session_name(number, sid), NULL);
    member = cs_reply_int(reply, 0) == 1;
    cs_reply_free(reply);
    return member;
}

/* Its conversation leads to it. */
static bool is_found(int number)
{
    char key[96], sid[CS_UUID_MAX];
    struct cs_reply *reply;
    bool found;

    (void)snprintf(key, sizeof key, "codex:conversation:c%s", session_name(number, sid));
    reply = server_ask("GET", key, NULL, NULL);
    found = cs_reply_is(reply, sid);
    cs_reply_free(reply);
    return found;
}

/* Vectors do not tell messages apart that a machine gave the same number. Hosts find them when one
 * meets the other; if Redis lost one of them before, they may differ for good, and what goes out
 * under a new number is known to some under the old one, too: nobody discards it. */
bool is_ambiguous(int number)
{
    return sessions[number].forked && sim.losses > 0;
}

static bool is_any_ambiguous(void)
{
    for (int i = 0; i < sim.serial; i++)
        if (is_ambiguous(i))
            return true;
    return false;
}

bool is_orphan(int number)
{
    return sessions[number].shown && !is_member(number);
}

static void say_aside(void *arg, const char *sid, const char *why)
{
    if (is_ambiguous(session_number(sid)))
        return;
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

/* The last seconds of a session: a healed one lives for whole seconds. */
static bool is_ending(int number)
{
    const struct session *session = &sessions[number];

    return (session->shown || session->over) && session->ends_us < sim.now_us + 2000000 &&
           session->ends_us > sim.now_us - 2000000;
}

/* Sessions that are shown, or live somewhere. @full: all were compared, also what was lost alone.
 */
static void check_agreed(const char *what, bool full)
{
    for (int i = 0; i < sim.serial; i++) {
        bool live = is_live_anywhere(i);

        if (((sessions[i].lost || sessions[i].foreign) && !full) || is_running(i) || is_ending(i) ||
            is_ambiguous(i))
            continue;
        if (sessions[i].foreign) {
            if (is_member(i))
                sim_fail("%s: what a plain client wrote of s%d is not taken over", what, i);
            continue;
        }
        if (full && is_orphan(i))
            sim_fail("9: s%d is in Redis, was asked for, and no set names it", i);
        if (sessions[i].shown && (live || is_member(i))) {
            check_same(i, what);
            check_projection(i, what);
        } else if (live && (full || !sessions[i].over)) {
            sim_fail("%s: s%d is live and not in Redis", what, i);
            show_session(i);
        }
        if (full && live && sessions[i].shown && !is_found(i))
            sim_fail("9: s%d is live, and its conversation does not lead to it", i);
        if (full && live && !is_member(i)) {
            sim_fail("9: s%d is live, and the set of its user does not name it", i);
            show_session(i);
        }
    }
    for (int h = 0; h < sim.host_count; h++)
        if (sim.hosts[h].turn.id == 0 && !is_any_ambiguous())
            check_drained(&sim.hosts[h]);
}

void check_calm(void)
{
    check_step();
    check_agreed("11", false);
}

void check_end(void)
{
    check_step();
    check_agreed("2", true);
    check_redis(true);
}
