/* The oracle: what was written and deleted, and what the hosts have of it. */
#include "oracle.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cs/store/message.h"

#define FACTS_MAX 4096

struct session sessions[SESSIONS_MAX];
static struct fact facts[FACTS_MAX];
static int fact_count;
static int rounds_looked = 1;      /* looks at all of Redis */
static int seen[FACTS_MAX], looks; /* a message was met in look number … */

/* ---- what should be ---- */

const char *session_name(int number, char out[CS_UUID_MAX])
{
    (void)snprintf(out, CS_UUID_MAX, "s%d", number);
    return out;
}

int session_number(const char *sid)
{
    int number = sid[0] == 's' ? (int)strtol(sid + 1, NULL, 10) : -1;

    return number < sim.serial ? number : -1;
}

int session_user(int number)
{
    return sessions[number].user;
}

int64_t session_ttl_s(int number)
{
    return sessions[number].ttl_s;
}

int session_new(int user, int64_t ttl_s)
{
    sessions[sim.serial] = (struct session){.user = user, .ttl_s = ttl_s};
    return sim.serial++;
}

int fact_new(int session, size_t size, bool plain)
{
    if (fact_count == FACTS_MAX)
        abort();
    facts[fact_count] = (struct fact){.session = session, .size = size, .plain = plain};
    return fact_count++;
}

void check_begin(void)
{
    for (int i = 0; i < SESSIONS_MAX; i++) {
        cs_vector_fini(&sessions[i].deleted);
        cs_vector_fini(&sessions[i].offered);
        cs_vector_fini(&sessions[i].told);
        cs_vector_fini(&sessions[i].vv);
        sessions[i] = (struct session){0};
    }
    fact_count = 0;
    check_forget();
}

/* ---- what is ---- */

bool host_vector(struct host *host, const char *sid, struct cs_vector *out)
{
    struct cs_session session = {0};
    struct cs_db *db = NULL;
    bool found = false;

    *out = (struct cs_vector){0};
    if (cs_store_read(host->store, &db, NULL) != CS_OK)
        abort();
    if (cs_session_find(db, sid, &session, NULL) == CS_OK) {
        found = cs_replica_vector(db, session.id, out, NULL) == CS_OK;
        cs_session_fini(&session);
    }
    cs_store_done(host->store, db);
    return found;
}

bool is_known(struct host *host, int session)
{
    char sid[CS_UUID_MAX];
    struct cs_vector vv;
    bool known = host_vector(host, session_name(session, sid), &vv);

    cs_vector_fini(&vv);
    return known;
}

bool is_live_on(struct host *host, int number)
{
    struct cs_session session = {0};
    struct cs_db *db = NULL;
    char sid[CS_UUID_MAX];
    bool live = false;

    if (cs_store_read(host->store, &db, NULL) != CS_OK)
        abort();
    if (cs_session_find(db, session_name(number, sid), &session, NULL) == CS_OK) {
        live = session.state == CS_SESSION_LIVE;
        cs_session_fini(&session);
    }
    cs_store_done(host->store, db);
    return live;
}

bool is_live_anywhere(int session)
{
    for (int h = 0; h < sim.host_count; h++)
        if (is_live_on(&sim.hosts[h], session))
            return true;
    return false;
}

struct following {
    const char *user;
    bool found;
};

static enum cs_status is_user(void *arg, const char *user, struct cs_err *err)
{
    struct following *following = arg;

    (void)err;
    following->found = following->found || strcmp(user, following->user) == 0;
    return CS_OK;
}

bool is_followed(struct host *host, int user)
{
    struct following following = {.user = users[user], .found = user == 0};
    struct cs_db *db = NULL;

    if (cs_store_read(host->store, &db, NULL) != CS_OK ||
        cs_replica_users(db, is_user, &following, NULL) != CS_OK)
        abort();
    cs_store_done(host->store, db);
    return following.found;
}

static uint64_t hash_of(const char *data, size_t len)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (unsigned char)data[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* The number in a message's text; -1 for none. */
static int number_in(const char *text)
{
    char *end = NULL;
    long number = text != NULL && text[0] == '#' ? strtol(text + 1, &end, 10) : -1;

    return number >= 0 && number < fact_count && *end == '#' ? (int)number : -1;
}

static int fact_at(int session, int64_t origin, int64_t seq)
{
    for (int i = 0; i < fact_count; i++)
        if (facts[i].session == session && facts[i].origin == origin && facts[i].seq == seq)
            return i;
    return -1;
}

static bool is_stub(const struct cs_replica_message *message)
{
    return memmem(message->frag, message->len, "\"stub\":{", 8) != NULL;
}

/* The message's fact. One without a number (the outcome of a turn that a crash ended) is known by
 * its place. */
static int fact_of(int session, const struct cs_replica_message *message)
{
    static const char name[] = "\"content\":\"";
    const char *at = memmem(message->frag, message->len, name, sizeof name - 1);
    int number = at != NULL ? number_in(at + sizeof name - 1) : -1;

    if (number < 0)
        number = fact_at(session, message->origin, message->seq);
    if (number < 0 && !is_stub(message))
        number = fact_new(session, message->len, false);
    return number;
}

/* ---- a look at one host ---- */

struct look {
    struct host *host;
    int session;
    struct cs_vector vv;
    int64_t hlc, origin, seq; /* of the message before */
};

/* 2, 3: a message's bytes, and its place in the order, are the same wherever it is. */
static void check_fact(const struct look *look, const struct cs_replica_message *message,
                       struct fact *fact)
{
    unsigned bit = 1U << look->host->index;
    uint64_t hash = hash_of(message->frag, message->len);
    bool moved = fact->origin != message->origin || fact->seq != message->seq;

    if (is_stub(message)) {
        if (fact->size < SHARED_MAX && !sim.machine_rolled)
            sim_fail("2: host %d has a stub of a small message of s%d", look->host->index,
                     look->session);
        if ((fact->whole & bit) != 0 && !sim.machine_rolled)
            sim_fail("12: host %d has a stub for its own message of s%d", look->host->index,
                     look->session);
        fact->stub |= bit;
        return;
    }
    if (fact->session != look->session)
        sim_fail("2: a message of s%d is in s%d", fact->session, look->session);
    if (fact->committed && fact->hash != hash && !sessions[look->session].replayed)
        sim_fail("2: host %d has other bytes for a message of s%d", look->host->index,
                 look->session);
    if (fact->committed && moved && !sim.machine_rolled && !sessions[look->session].replayed)
        sim_fail("2: host %d has a message of s%d in another place", look->host->index,
                 look->session);
    if (fact->committed && !moved && fact->hlc != message->hlc)
        sim_fail("3: host %d has a message of s%d at another time", look->host->index,
                 look->session);
    if (sim.machine_rolled && moved && fact_at(look->session, message->origin, message->seq) >= 0)
        sessions[look->session].forked = true;
    fact->origin = message->origin;
    fact->seq = message->seq;
    fact->hlc = message->hlc;
    fact->hash = hash;
    fact->committed = true;
    fact->whole |= bit;
}

/* The same text under two numbers: imported twice, or sent again under a new number. */
static bool may_be_twice(int session)
{
    return sessions[session].replayed || is_ambiguous(session);
}

static enum cs_status look_at(void *arg, const struct cs_replica_message *message,
                              struct cs_err *err)
{
    struct look *look = arg;
    int number = fact_of(look->session, message);

    (void)err;
    if (message->seq != cs_vector_get(&look->vv, message->origin) + 1)
        sim_fail("4: host %d has a hole in s%d: %016" PRIx64 ".%" PRId64 " follows .%" PRId64,
                 look->host->index, look->session, (uint64_t)message->origin, message->seq,
                 cs_vector_get(&look->vv, message->origin));
    if (message->hlc < look->hlc || (message->hlc == look->hlc && message->origin < look->origin))
        sim_fail("3: host %d has s%d out of order", look->host->index, look->session);
    if (number >= 0 && seen[number] == looks && !may_be_twice(look->session))
        sim_fail("2: host %d has a message of s%d twice: #%d#, as %016" PRIx64 ".%" PRId64,
                 look->host->index, look->session, number, (uint64_t)message->origin, message->seq);
    if (number >= 0) {
        seen[number] = looks;
        check_fact(look, message, &facts[number]);
    }
    look->hlc = message->hlc;
    look->origin = message->origin;
    return cs_vector_raise(&look->vv, message->origin, message->seq, err);
}

static void look_through(struct cs_db *db, struct host *host, int number)
{
    struct look look = {.host = host, .session = number};
    struct cs_replica_mark mark = {0};
    struct cs_session session = {0};
    char sid[CS_UUID_MAX];

    (void)session_name(number, sid);
    if (cs_session_find(db, sid, &session, NULL) == CS_OK) {
        if (cs_replica_messages(db, &(struct cs_replica_range){.session = session.id}, look_at,
                                &look, NULL) != CS_OK)
            abort();
        cs_session_fini(&session);
        cs_vector_fini(&look.vv);
    }
    if (cs_replica_mark(db, sid, &mark, NULL) != CS_OK)
        abort();
    check_tomb(number, &mark.tomb, "a host");
    cs_replica_mark_fini(&mark);
}

/* Whether hosts must have it. A deletion names messages by their numbers: those that a machine gave
 * out twice, before and after it was put back, go together. */
static bool is_due(const struct fact *fact)
{
    bool named = cs_vector_get(&sessions[fact->session].deleted, fact->origin) >= fact->seq;

    return !fact->deleted && !fact->maybe && !(named && sim.machine_rolled);
}

struct set unoffered(struct host *host)
{
    struct set set = {{false}};

    for (int i = 0; i < fact_count; i++) {
        const struct session *session = &sessions[facts[i].session];

        if ((facts[i].whole & 1U << host->index) != 0 &&
            cs_vector_get(&session->offered, facts[i].origin) < facts[i].seq)
            set.has[facts[i].session] = true;
    }
    for (int i = 0; i < sim.serial; i++)
        if ((sessions[i].restored & 1U << host->index) != 0 && is_known(host, i))
            set.has[i] = true;
    return set;
}

/* A deletion that Redis never heard of, of a session that did not come back. */
static bool is_untold(int session, const struct cs_vector *tomb)
{
    const struct session *s = &sessions[session];
    bool back = s->shown && !cs_vector_le(&s->vv, tomb);

    return !back && !cs_vector_le(tomb, &s->told);
}

/* 11: a host knows what it has not told Redis yet. */
void check_pending(struct host *host)
{
    struct set waiting = unoffered(host);

    for (int i = 0; i < sim.serial; i++) {
        struct cs_replica_mark mark = {0};
        struct cs_db *db = NULL;
        char sid[CS_UUID_MAX];
        bool live = is_live_on(host, i);

        if (cs_store_read(host->store, &db, NULL) != CS_OK ||
            cs_replica_mark(db, session_name(i, sid), &mark, NULL) != CS_OK)
            abort();
        cs_store_done(host->store, db);
        if (!mark.dirty && !is_known(host, i) && is_untold(i, &mark.tomb))
            sim_fail("11: host %d forgot to tell that s%d was deleted", host->index, i);
        if (!mark.dirty && !mark.unsent && live && waiting.has[i] && sessions[i].restored == 0 &&
            !sim.machine_rolled)
            sim_fail("11: host %d forgot that it has not offered all of s%d", host->index, i);
        cs_replica_mark_fini(&mark);
    }
}

/* 12: what a host had, it keeps, but for what was deleted. */
void check_host(struct host *host)
{
    unsigned had[FACTS_MAX], bit = 1U << host->index;
    struct cs_db *db = NULL;
    int before = fact_count;

    looks++;
    for (int i = 0; i < fact_count; i++) {
        had[i] = facts[i].whole & bit;
        facts[i].whole &= ~bit;
        facts[i].stub &= ~bit;
    }
    if (cs_store_read(host->store, &db, NULL) != CS_OK)
        abort();
    for (int i = 0; i < sim.serial; i++)
        look_through(db, host, i);
    cs_store_done(host->store, db);
    for (int i = 0; i < before; i++)
        if (had[i] != 0 && (facts[i].whole & bit) == 0 && is_due(&facts[i]))
            sim_fail("12: host %d lost a message of s%d", host->index, facts[i].session);
    host->touched = false;
}

/* 1: every message is somewhere. */
void check_somewhere(void)
{
    for (int i = 0; i < fact_count; i++)
        if (facts[i].committed && facts[i].whole == 0 && is_due(&facts[i]))
            sim_fail("1: a message of s%d is on no host", facts[i].session);
}

/* 8: nobody deletes more than a user asked for. */
void check_tomb(int session, const struct cs_vector *tomb, const char *where)
{
    if (!cs_vector_le(tomb, &sessions[session].deleted))
        sim_fail("8: %s buried more of s%d than was deleted", where, session);
}

/* ---- what users and faults change ---- */

void truth_delete(struct host *host, int session)
{
    unsigned bit = 1U << host->index;
    struct cs_vector vv;
    char sid[CS_UUID_MAX];

    (void)host_vector(host, session_name(session, sid), &vv);
    if (cs_vector_join(&sessions[session].deleted, &vv, NULL) != CS_OK)
        abort();
    for (int i = 0; i < fact_count; i++) {
        if (facts[i].session != session || facts[i].origin == 0)
            continue;
        if (((facts[i].whole | facts[i].stub) & bit) != 0)
            facts[i].deleted = true;
    }
    cs_vector_fini(&vv);
}

void truth_restore(struct host *host, int session)
{
    sessions[session].restored |= 1U << host->index;
}

/* What only this host had is gone with its disk, and nobody's fault. */
void truth_put_back(struct host *host)
{
    unsigned bit = 1U << host->index;

    for (int i = 0; i < fact_count; i++) {
        facts[i].whole &= ~bit;
        facts[i].stub &= ~bit;
    }
    for (int i = 0; i < sim.serial; i++)
        sessions[i].restored &= ~bit;
    check_host(host);
    for (int i = 0; i < fact_count; i++)
        if (facts[i].committed && facts[i].whole == 0)
            facts[i].maybe = true;
}

/* 5: what Redis shows are messages that were written, in their session. */
void truth_value(void)
{
    looks++;
}

/* 6: what a plain client wrote stays until a host has taken it over. */
void truth_looked(void)
{
    for (int i = 0; i < fact_count; i++) {
        struct fact *fact = &facts[i];

        if (fact->in_redis && !fact->committed && fact->losses == sim.losses &&
            fact->shown != rounds_looked)
            sim_fail("6: what a plain client wrote of s%d is nowhere", fact->session);
    }
    rounds_looked++;
}

void truth_let_go(int session)
{
    for (int i = 0; i < fact_count; i++)
        if (facts[i].session == session)
            facts[i].in_redis = false;
}

void truth_plain(int session, const char *text)
{
    char mark[24];

    sessions[session].plain = sessions[session].lost = true;
    for (int i = 0; i < fact_count; i++) {
        (void)snprintf(mark, sizeof mark, "\"#%d# plain", i);
        if (facts[i].session == session && facts[i].plain && strstr(text, mark) != NULL) {
            facts[i].in_redis = true;
            facts[i].losses = sim.losses;
        }
    }
}

void truth_shown(int session, const char *content)
{
    int number = number_in(content);
    struct fact *fact = number >= 0 ? &facts[number] : NULL;

    if (fact == NULL)
        return;
    if (fact->session != session)
        sim_fail("5: Redis shows a message of s%d in s%d", fact->session, session);
    fact->shown = rounds_looked;
    if (seen[number] == looks && !may_be_twice(session))
        sim_fail("5: Redis shows a message of s%d twice", session);
    seen[number] = looks;
}

/* ---- comparing ---- */

static enum cs_status add_text(void *arg, const struct cs_replica_message *message,
                               struct cs_err *err)
{
    struct cs_buf *text = arg;

    cs_buf_addf(text, "%016" PRIx64 ".%" PRId64 "@%" PRId64 "<%016" PRIx64 ".%" PRId64 " ",
                (uint64_t)message->origin, message->seq, message->hlc,
                (uint64_t)message->parent_origin, message->parent_seq);
    if (message->len <= SHARED_MAX && !is_stub(message))
        cs_buf_add(text, message->frag, message->len);
    cs_buf_addc(text, '\n');
    return cs_buf_check(text, err);
}

char *dump(struct host *host, int number)
{
    struct cs_session session = {0};
    struct cs_db *db = NULL;
    struct cs_buf text;
    char sid[CS_UUID_MAX], *out = NULL;

    cs_buf_init(&text, 16 << 20);
    if (cs_store_read(host->store, &db, NULL) != CS_OK)
        abort();
    if (cs_session_find(db, session_name(number, sid), &session, NULL) == CS_OK) {
        if (cs_replica_messages(db, &(struct cs_replica_range){.session = session.id}, add_text,
                                &text, NULL) != CS_OK)
            abort();
        out = cs_buf_take(&text, NULL);
        cs_session_fini(&session);
    }
    cs_store_done(host->store, db);
    cs_buf_fini(&text);
    return out;
}

/* For who looks into a failure. */
void show_session(int session)
{
    for (int h = 0; h < sim.host_count; h++) {
        struct cs_db *db = NULL;
        struct cs_replica_mark mark = {0};
        struct cs_vector vv;
        struct cs_buf text;
        char sid[CS_UUID_MAX];

        cs_buf_init(&text, 65536);
        (void)host_vector(&sim.hosts[h], session_name(session, sid), &vv);
        cs_vector_write(&vv, &text);
        cs_vector_fini(&vv);
        if (cs_store_read(sim.hosts[h].store, &db, NULL) == CS_OK &&
            cs_replica_mark(db, sid, &mark, NULL) == CS_OK) {
            cs_buf_addf(
                &text, " live %d dirty %d unsent %d generation %d stamp %lld aside %s tomb ",
                is_live_on(&sim.hosts[h], session), mark.dirty, mark.unsent, (int)mark.generation,
                (long long)mark.stamp, mark.aside != NULL ? mark.aside : "-");
            cs_vector_write(&mark.tomb, &text);
            cs_replica_mark_fini(&mark);
        }
        cs_store_done(sim.hosts[h].store, db);
        (void)fprintf(story, "      host %d has %s of %s\n", h, text.data, sid);
        cs_buf_fini(&text);
    }
}
