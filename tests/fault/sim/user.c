/* What users do at a host. */
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/mirror/mirror.h"
#include "cs/store/message.h"
#include "priv.h" /* core's: the limit */
#include "sim.h"

/* A session that exists somewhere, mostly a recent one; -1 for none. */
static int pick(void)
{
    if (sim.serial == 0)
        return -1;
    if (sim.aim >= 0 && sim_chance(80))
        return sim.aim; /* in the middle of a request: the session that it is about */
    return sim.serial <= 6 ? sim_below(sim.serial) : sim.serial - 1 - sim_below(6);
}

/* Whether the session is live at the host; one that is not is looked for in Redis, unless the
 * host's connection is busy. */
static bool is_live(struct host *host, const char *sid)
{
    struct cs_session session = {0};
    struct cs_db *db = NULL;
    bool live;

    if (host != sim.sender) {
        live = cs_core_session(host->core, sid, &session, NULL) == CS_OK;
    } else {
        if (cs_store_read(host->store, &db, NULL) != CS_OK)
            abort();
        live = cs_session_find_live(host->core, db, sid, &session, NULL) == CS_OK;
        cs_store_done(host->store, db);
    }
    if (live)
        cs_session_fini(&session);
    return live;
}

/* ---- writing ---- */

struct writing {
    struct host *host;
    int session;
    bool fresh; /* a new session */
    int messages;
    bool begins, ends; /* a turn */
};

static enum cs_status make(struct cs_db *db, struct writing *w, struct cs_session *session,
                           struct cs_err *err)
{
    int user = session_user(w->session);
    struct cs_buf evicted;
    enum cs_status rc;

    *session = (struct cs_session){.user = strdup(users[user]),
                                   .own = user == 0,
                                   .model = strdup("m"),
                                   .sandbox = strdup("read-only"),
                                   .cwd = strdup("/tmp"),
                                   .title = strdup("t"),
                                   .initial_prompt = strdup("p"),
                                   .engine = strdup("auto"),
                                   .created_at = cs_clock_ms(),
                                   .ttl_ms = session_ttl_s(w->session) * 1000};
    (void)session_name(w->session, session->sid);
    (void)snprintf(session->cid, sizeof session->cid, "c%.30s", session->sid);
    rc = cs_session_insert(db, session, err);
    cs_buf_init(&evicted, 65536);
    if (rc == CS_OK)
        rc = cs_limits_enforce(db, session, sim.limits[user], true, &evicted, err);
    cs_buf_fini(&evicted);
    return rc;
}

static enum cs_status add_message(struct cs_db *db, struct writing *w, int64_t session, int i,
                                  int64_t *out_id, struct cs_err *err)
{
    static const size_t sizes[] = {40, 40, 40, 40, 40, 40, 40, 40, 5000, SHARED_MAX + 3000};
    size_t size = sizes[sim_chance(30) ? sim_below(10) : 0];
    char *text = malloc(size + 1);
    struct cs_message_new message = {
        .session = session, .content = text, .content_len = size, .at = cs_clock_ms()};
    enum cs_status rc;
    int n;

    if (text == NULL)
        abort();
    memset(text, 'x', size);
    text[size] = '\0';
    n = snprintf(text, size, "#%d# host %d", fact_new(w->session, size, false), w->host->index);
    text[n] = ' ';
    message.kind = i % 2 == (w->ends ? 1 : 0) ? CS_MESSAGE_USER : CS_MESSAGE_ASSISTANT;
    rc = cs_message_append(db, &message, out_id, err);
    free(text);
    count(COUNT_MESSAGES);
    return rc;
}

static enum cs_status begin_turn(struct cs_db *db, struct writing *w, int64_t session,
                                 int64_t prompt, struct cs_err *err)
{
    struct cs_turn_row row = {.session = session,
                              .continued = true,
                              .started_at = cs_clock_ms(),
                              .timeout_ms = 1000,
                              .model = (char[]){"m"},
                              .sandbox = (char[]){"read-only"},
                              .prompt_message = prompt,
                              .evicted = NULL};
    enum cs_status rc;

    (void)snprintf(row.tid, sizeof row.tid, "t%d-%llx", w->host->index,
                   (unsigned long long)sim_random());
    rc = cs_turn_insert(db, &row, err);
    if (rc == CS_OK)
        w->host->turn.id = row.id;
    return rc;
}

static enum cs_status end_turn(struct cs_db *db, const struct writing *w, int64_t answer,
                               struct cs_err *err)
{
    struct cs_turn_row row = {.id = w->host->turn.id,
                              .status = CS_TURN_COMPLETED,
                              .ended_at = cs_clock_ms(),
                              .model = (char[]){"m"},
                              .engine = (char[]){"exec"},
                              .engine_version = (char[]){""},
                              .thread_id = (char[]){""},
                              .engine_turn_id = (char[]){""},
                              .answer_message = answer,
                              .error_code = (char[]){""},
                              .error = (char[]){""}};

    return cs_turn_finish(db, &row, err);
}

static enum cs_status apply(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct writing *w = arg;
    struct cs_session session = {0};
    char sid[CS_UUID_MAX];
    int64_t last = 0;
    enum cs_status rc = w->fresh
                            ? make(db, w, &session, err)
                            : cs_session_find(db, session_name(w->session, sid), &session, err);

    for (int i = 0; i < w->messages && rc == CS_OK; i++)
        rc = add_message(db, w, session.id, i, &last, err);
    if (rc == CS_OK && w->begins)
        rc = begin_turn(db, w, session.id, last, err);
    if (rc == CS_OK && w->ends)
        rc = end_turn(db, w, last, err);
    cs_session_fini(&session);
    return rc;
}

static void write_messages(struct writing *w)
{
    struct cs_err err = {0};
    char sid[CS_UUID_MAX];

    if (cs_store_write(w->host->store, apply, w, &err) != CS_OK)
        sim_fail("append: %s", err.msg);
    check_host(w->host);
    count(COUNT_APPENDS);
    talk("host %d appends %d to %s%s", w->host->index, w->messages, session_name(w->session, sid),
         w->fresh ? " (new)" : "");
}

void user_begin(struct host *host, int user)
{
    struct writing w = {.host = host, .fresh = true, .messages = 1 + sim_below(3)};
    struct host *was;

    if (sim.serial == SESSIONS_MAX)
        return;
    host_enter(host, &was);
    w.session = session_new(user, sim_chance(50) ? TTL_S : 0);
    write_messages(&w);
    host_leave(was);
}

void user_append(struct host *host)
{
    struct writing w = {.host = host, .session = pick(), .messages = 1 + sim_below(3)};
    char sid[CS_UUID_MAX];
    struct host *was;

    if (w.session < 0 || sim_chance(sim.serial < 3 ? 30 : 8)) {
        user_begin(host, sim_chance(70) ? 0 : 1);
        return;
    }
    (void)session_name(w.session, sid);
    if (strcmp(host->turn.sid, sid) == 0)
        return; /* busy */
    host_enter(host, &was);
    if (is_live(host, sid))
        write_messages(&w);
    else if (sim_chance(30))
        user_restore(host);
    host_leave(was);
}

void user_delete(struct host *host)
{
    int session = pick();
    char sid[CS_UUID_MAX], out[CS_UUID_MAX];
    struct cs_vector vv = {0};
    struct host *was;

    if (session < 0 || strcmp(host->turn.sid, session_name(session, sid)) == 0)
        return;
    check_host(host);
    host_enter(host, &was);
    if (host_vector(host, sid, &vv)) {
        truth_delete(host, session);
        if (cs_core_delete(host->core, sid, out, NULL) != CS_OK)
            sim_fail("delete: %s", sid);
        talk("host %d deletes %s", host->index, sid);
        count(COUNT_DELETES);
    }
    cs_vector_fini(&vv);
    host_leave(was);
}

void user_restore(struct host *host)
{
    int session = pick();
    struct cs_session restored = {0};
    char sid[CS_UUID_MAX], *evicted = NULL;
    struct host *was;

    if (session < 0)
        return;
    host_enter(host, &was);
    if (cs_core_restore(host->core, session_name(session, sid), &restored, &evicted, NULL) ==
        CS_OK) {
        talk("host %d brings %s back from the archive", host->index, sid);
        truth_restore(host, session);
        cs_session_fini(&restored);
        free(evicted);
        count(COUNT_RESTORES);
    }
    host_leave(was);
}

/* ---- reading ---- */

/* A session that is not live here is looked for in Redis, and then is all that Redis has. */
void user_read(struct host *host)
{
    int session = pick();
    char sid[CS_UUID_MAX];
    bool stale = true;
    struct host *was;

    if (session < 0)
        return;
    (void)session_name(session, sid);
    host_enter(host, &was);
    sim.nested++; /* nobody else: what is compared must stand still */
    cs_core_refresh(host->core, sid, &stale);
    count(COUNT_READS);
    if (!stale)
        check_read(host, session);
    sim.nested--;
    host_leave(was);
}

bool user_asks_for_orphans(struct host *host)
{
    bool found = false;
    struct host *was;

    host_enter(host, &was);
    for (int i = 0; i < sim.serial; i++) {
        char sid[CS_UUID_MAX];
        bool stale;

        if (!is_orphan(i))
            continue;
        cs_core_refresh(host->core, session_name(i, sid), &stale);
        found = true;
    }
    host_leave(was);
    return found;
}

/* ---- turns ---- */

static void end(struct host *host)
{
    struct writing w = {.host = host, .ends = true, .messages = 1};

    w.session = session_number(host->turn.sid);
    if (is_known(host, w.session))
        write_messages(&w);
    cs_mirror_lease_end(host->core->mirror, host->turn.sid);
    talk("host %d ends its turn of %s", host->index, host->turn.sid);
    host->turn = (struct turn){0};
}

void user_turn(struct host *host)
{
    struct writing w = {.host = host, .session = pick(), .begins = true, .messages = 1};
    struct cs_err err = {0};
    char sid[CS_UUID_MAX];
    unsigned losses = sim.losses;
    struct host *was;
    enum cs_status rc;

    host_enter(host, &was);
    if (host->turn.id != 0) {
        end(host);
    } else if (w.session >= 0 && is_live(host, session_name(w.session, sid))) {
        rc = cs_mirror_lease(host->core->mirror, sid, cs_mono_ms() + 500, &err);
        if (rc == CS_CONFLICT) {
            count(COUNT_BUSY);
        } else if (is_live(host, sid)) {
            memcpy(host->turn.sid, sid, CS_UUID_MAX);
            host->turn.leased = rc == CS_OK && losses == sim.losses;
            host->turn.losses = losses;
            host->turn.until_us = sim.now_us + (LEASE_S - 1) * 1000000;
            write_messages(&w);
            count(COUNT_TURNS);
            check_lease(host);
        } else {
            cs_mirror_lease_end(host->core->mirror, sid);
        }
    }
    host_leave(was);
}
