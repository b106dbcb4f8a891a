/* core/turn: beginning, watching and cancelling turns. */
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/json.h"
#include "approval.h"
#include "priv.h"
#include "sync.h"

#define INITIAL_PROMPT_MAX 1024 /* bytes kept in the session row */
#define GIVE_WAY_MS        1000 /* ample: from the end of a turn in the store to its end here */

static char *dup_bytes(const char *text, size_t len)
{
    char *copy = malloc(len + 1);

    if (copy == NULL)
        return NULL;
    memcpy(copy, text, len);
    copy[len] = '\0';
    return copy;
}

/* The beginning of @text, cut at a character. */
static char *dup_start(const char *text, size_t len, size_t max)
{
    if (len > max) {
        len = max;
        while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
            len--;
    }
    return dup_bytes(text, len);
}

/* strdup of the first that is not NULL. */
static char *dup_first(const char *a, const char *b)
{
    return strdup(a != NULL ? a : b);
}

/* A new session from the request. */
static enum cs_status shape_session(struct cs_turn *turn, const struct cs_turn_request *request,
                                    struct cs_err *err)
{
    const struct cs_config *config = cs_core_config(turn->core);
    struct cs_session *session = &turn->session;
    int64_t ttl = request->ttl_seconds >= 0 ? request->ttl_seconds : config->ttl_seconds;
    enum cs_status rc = cs_request_cwd(config, request->cwd, &session->cwd, err);

    if (rc == CS_OK)
        rc = cs_uuid_new(session->sid, err);
    if (rc == CS_OK)
        rc = cs_uuid_new(session->cid, err);
    if (rc != CS_OK)
        return rc;
    session->own = request->user == NULL || strcmp(request->user, config->user) == 0;
    session->user = dup_first(request->user, config->user);
    session->model = dup_first(request->model, config->model);
    session->sandbox = dup_first(request->sandbox, config->sandbox);
    session->title = dup_first(request->title, "");
    session->engine = dup_first(request->engine, "auto");
    session->approval = dup_first(request->approval, "never");
    session->origin = strdup(cs_store_origin(turn->core->store));
    session->initial_prompt = dup_start(turn->prompt, turn->prompt_len, INITIAL_PROMPT_MAX);
    session->created_at = turn->row.started_at;
    session->ttl_ms = ttl * 1000;
    if (session->user == NULL || session->model == NULL || session->sandbox == NULL ||
        session->title == NULL || session->engine == NULL || session->approval == NULL ||
        session->origin == NULL || session->initial_prompt == NULL)
        return cs_err_nomem(err);
    return CS_OK;
}

static enum cs_status load_session(struct cs_turn *turn, const struct cs_turn_request *request,
                                   struct cs_err *err)
{
    struct cs_db *db = NULL;
    enum cs_status rc;

    cs_core_refresh(turn->core, request->identifier, &turn->row.stale);
    rc = cs_store_read(turn->core->store, &db, err);
    if (rc == CS_OK)
        rc = cs_session_find_live(turn->core, db, request->identifier, &turn->session, err);
    cs_store_done(turn->core->store, db);
    return rc;
}

/* Which driver runs it: the one asked for now, or at the session's creation, or the best there is.
 */
static enum cs_status choose_engine(struct cs_turn *turn, const struct cs_turn_request *request,
                                    struct cs_err *err)
{
    struct cs_engine_info info;
    enum cs_status rc;

    rc = cs_engine_kind_parse(request->engine != NULL ? request->engine : turn->session.engine,
                              &turn->kind, err);
    if (rc != CS_OK)
        return rc;
    cs_engine_info(turn->core->engine, &info);
    if (turn->kind == CS_ENGINE_AUTO || (info.kinds & (1u << turn->kind)) == 0)
        turn->kind = info.kind; /* a session's driver may be gone after an upgrade of Codex */
    if (turn->may_ask && turn->kind == CS_ENGINE_EXEC)
        return cs_err_set(err, CS_INVALID, "approvals_unavailable",
                          "The engine exec cannot ask for approvals: approvalPolicy must be never");
    turn->row.engine = strdup(cs_engine_kind_name(turn->kind));
    turn->row.engine_version = strdup(info.version);
    return turn->row.engine != NULL && turn->row.engine_version != NULL ? CS_OK : cs_err_nomem(err);
}

/* What the turn asks Codex for, from the request and the session. */
static enum cs_status shape_row(struct cs_turn *turn, const struct cs_turn_request *request,
                                struct cs_err *err)
{
    const struct cs_config *config = cs_core_config(turn->core);
    struct cs_turn_row *row = &turn->row;
    enum cs_status rc;

    row->timeout_ms = request->timeout_ms != 0 ? request->timeout_ms : config->turn_timeout_ms;
    row->model = dup_first(request->model, turn->session.model);
    row->sandbox = dup_first(request->sandbox, turn->session.sandbox);
    row->thread_id = strdup("");
    row->engine_turn_id = strdup("");
    row->error_code = strdup("");
    row->error = strdup("");
    if (row->model == NULL || row->sandbox == NULL || row->thread_id == NULL ||
        row->engine_turn_id == NULL || row->error_code == NULL || row->error == NULL)
        return cs_err_nomem(err);
    turn->default_model = request->model == NULL && strcmp(turn->session.model, config->model) == 0;
    turn->deadline = turn->begun + row->timeout_ms;
    turn->limit =
        turn->begun + (row->timeout_ms > config->turn_timeout_max_ms ? row->timeout_ms
                                                                     : config->turn_timeout_max_ms);
    turn->may_ask = strcmp(request->approval != NULL ? request->approval : turn->session.approval,
                           "on-request") == 0;
    row->usage = row->total = (struct cs_usage){-1, -1, -1};
    /* the ceiling may have been lowered since the session was made */
    rc = cs_request_sandbox(config, row->sandbox, err);
    return rc == CS_OK ? choose_engine(turn, request, err) : rc;
}

static enum cs_status copy_request(struct cs_turn *turn, const struct cs_turn_request *request,
                                   struct cs_err *err)
{
    turn->prompt_len = request->prompt_len;
    turn->prompt = dup_bytes(request->prompt, request->prompt_len);
    if (turn->prompt == NULL)
        return cs_err_nomem(err);
    if (request->context != NULL && request->context_len > 0 && !request->continued) {
        turn->context_len = request->context_len;
        turn->context = dup_bytes(request->context, request->context_len);
        if (turn->context == NULL)
            return cs_err_nomem(err);
    }
    if (request->idempotency_key != NULL) {
        turn->idempotency_key = strdup(request->idempotency_key);
        if (turn->idempotency_key == NULL)
            return cs_err_nomem(err);
        memcpy(turn->body_hash, request->body_hash, sizeof turn->body_hash);
    }
    return CS_OK;
}

/* A turn with everything that is known before it is stored; nothing is claimed yet. */
static enum cs_status turn_new(struct cs_core *core, const struct cs_turn_request *request,
                               struct cs_turn **out_turn, struct cs_err *err)
{
    struct cs_turn *turn = calloc(1, sizeof *turn);
    enum cs_status rc;

    if (turn == NULL)
        return cs_err_nomem(err);
    turn->core = core;
    turn->refs = 1;
    turn->begun = cs_mono_ms();
    turn->row.started_at = cs_clock_ms();
    turn->row.continued = request->continued;
    rc = cs_cond_init(&turn->changed, err);
    if (rc != CS_OK) {
        free(turn);
        return rc;
    }
    pthread_mutex_lock(&core->mutex);
    core->turns++;
    pthread_mutex_unlock(&core->mutex);
    rc = cs_uuid_new(turn->row.tid, err);
    if (rc == CS_OK)
        rc = copy_request(turn, request, err);
    if (rc == CS_OK)
        rc = request->continued ? load_session(turn, request, err)
                                : shape_session(turn, request, err);
    if (rc == CS_OK)
        rc = shape_row(turn, request, err);
    if (rc != CS_OK) {
        cs_turn_unref(turn);
        return rc;
    }
    *out_turn = turn;
    return CS_OK;
}

/* Nobody will be able to run an unusable Codex: say so before anything is stored. */
static enum cs_status check_codex(struct cs_core *core, struct cs_err *err)
{
    struct cs_engine_info info;

    cs_engine_info(core->engine, &info);
    if (info.usable)
        return CS_OK;
    cs_engine_refresh(core->engine);
    cs_engine_info(core->engine, &info);
    if (info.usable)
        return CS_OK;
    return cs_err_set(err, CS_UNAVAILABLE, "codex_unavailable", "%s", info.why);
}

/* The session is ours on this host; make it so on all, then store the prompt. */
static enum cs_status begin_claimed(struct cs_turn *turn, char out_tid[CS_UUID_MAX],
                                    struct cs_err *err)
{
    enum cs_status rc = cs_lease_begin(turn, err);
    bool leased = rc == CS_OK;

    if (rc == CS_OK)
        rc = cs_turn_persist_begin(turn, out_tid, err);
    if (rc == CS_OK && out_tid[0] == '\0')
        return CS_OK;
    if (leased)
        cs_lease_end(turn);
    cs_registry_release(turn);
    return rc;
}

enum cs_status cs_turn_begin(struct cs_core *core, const struct cs_turn_request *request,
                             struct cs_turn **out_turn, char out_tid[CS_UUID_MAX],
                             struct cs_err *err)
{
    struct cs_turn *turn = NULL;
    char tid[CS_UUID_MAX] = "";
    enum cs_status rc = cs_request_check(core, request, err);

    if (rc == CS_OK)
        rc = cs_turn_replay(core, request, tid, err);
    if (rc == CS_OK && tid[0] == '\0')
        rc = check_codex(core, err);
    if (rc == CS_OK && tid[0] == '\0')
        rc = turn_new(core, request, &turn, err);
    if (rc == CS_OK && tid[0] == '\0') {
        rc = cs_registry_claim(turn, tid, err);
        if (rc == CS_OK && tid[0] == '\0')
            rc = begin_claimed(turn, tid, err);
    }
    if (rc != CS_OK || tid[0] != '\0') {
        if (turn != NULL)
            cs_turn_unref(turn);
        turn = NULL;
    }
    if (rc != CS_OK)
        return rc;
    if (turn != NULL) {
        memcpy(tid, turn->row.tid, CS_UUID_MAX);
        if (turn->session.ttl_ms > 0)
            cs_expiry_note(core, turn->row.started_at + turn->session.ttl_ms);
    }
    memcpy(out_tid, tid, CS_UUID_MAX);
    *out_turn = turn;
    return CS_OK;
}

const char *cs_turn_tid(const struct cs_turn *turn)
{
    return turn->row.tid;
}

const char *cs_turn_sid(const struct cs_turn *turn)
{
    return turn->session.sid;
}

const char *cs_turn_cid(const struct cs_turn *turn)
{
    return turn->session.cid;
}

bool cs_turn_stale(const struct cs_turn *turn)
{
    return turn->row.stale;
}

bool cs_turn_may_ask(const struct cs_turn *turn)
{
    return turn->may_ask;
}

void cs_turn_view_fini(struct cs_turn_view *view)
{
    cs_turn_row_fini(&view->row);
    free(view->response);
    free(view->approvals);
    view->response = view->approvals = NULL;
}

/* Wait for the end of a turn that runs here, or, if @heed, for what Codex asks in it. */
static void await_turn(struct cs_core *core, const char *tid, int64_t deadline, bool heed)
{
    struct cs_turn *turn = cs_registry_by_tid(core, tid);
    int64_t begun = cs_mono_ms(), until;

    if (turn == NULL)
        return;
    pthread_mutex_lock(&core->mutex);
    while (!turn->ended) {
        until = heed ? cs_approval_news(turn, begun) : CS_NEVER;
        if (until > deadline)
            until = deadline;
        if (until <= cs_mono_ms())
            break;
        (void)cs_cond_wait(&turn->changed, &core->mutex, until);
    }
    pthread_mutex_unlock(&core->mutex);
    cs_turn_unref(turn);
}

static enum cs_status read_view(struct cs_db *db, const char *tid, struct cs_turn_view *view,
                                struct cs_err *err)
{
    struct cs_session session;
    enum cs_status rc = cs_turn_find(db, tid, &view->row, err);

    if (rc != CS_OK)
        return rc;
    rc = cs_session_get(db, view->row.session, &session, err);
    if (rc == CS_OK) {
        memcpy(view->sid, session.sid, CS_UUID_MAX);
        memcpy(view->cid, session.cid, CS_UUID_MAX);
        cs_session_fini(&session);
    }
    if (rc == CS_OK && view->row.status == CS_TURN_COMPLETED)
        rc = cs_message_content(db, view->row.answer_message, &view->response, &view->response_len,
                                err);
    if (rc != CS_OK)
        cs_turn_view_fini(view);
    return rc;
}

static enum cs_status view_turn(struct cs_core *core, const char *tid,
                                struct cs_turn_view *out_view, struct cs_err *err)
{
    struct cs_turn_view view = {0};
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = read_view(db, tid, &view, err);
    cs_store_done(core->store, db);
    if (rc == CS_OK && view.row.status == CS_TURN_RUNNING) {
        rc = cs_approval_list(core, tid, &view.approvals, err);
        if (rc != CS_OK)
            cs_turn_view_fini(&view);
    } else if (rc == CS_OK) { /* who reads that it has ended may go on: it has given way, too */
        await_turn(core, tid, cs_mono_ms() + GIVE_WAY_MS, false);
    }
    if (rc == CS_OK)
        *out_view = view;
    return rc;
}

enum cs_status cs_turn_view(struct cs_core *core, const char *tid, int64_t deadline,
                            struct cs_turn_view *out_view, struct cs_err *err)
{
    if (deadline > cs_mono_ms())
        await_turn(core, tid, deadline, false);
    return view_turn(core, tid, out_view, err);
}

enum cs_status cs_turn_await(struct cs_core *core, const char *tid, int64_t deadline,
                             struct cs_turn_view *out_view, struct cs_err *err)
{
    if (deadline > cs_mono_ms())
        await_turn(core, tid, deadline, true);
    return view_turn(core, tid, out_view, err);
}

/* An interrupted turn is no case for another try, Codex may have done half of it. What does not
 * stand here is Codex's failure. */
static const struct {
    const char *code;
    enum cs_status status;
} outcomes[] = {
    {"execution_timeout", CS_TIMEOUT}, {"turn_cancelled", CS_CANCELLED},
    {"turn_interrupted", CS_CONFLICT}, {"codex_unavailable", CS_UNAVAILABLE},
    {"codex_busy", CS_BUSY},           {"too_many_turns", CS_BUSY},
    {"model_not_found", CS_INVALID},   {"engine_unavailable", CS_INVALID},
    {"out_of_memory", CS_NO_MEM},
};

enum cs_status cs_turn_outcome(const struct cs_turn_row *row)
{
    size_t i;

    if (row->status == CS_TURN_COMPLETED)
        return CS_OK;
    for (i = 0; i < sizeof outcomes / sizeof outcomes[0]; i++)
        if (strcmp(outcomes[i].code, row->error_code) == 0)
            return outcomes[i].status;
    return CS_UPSTREAM;
}
