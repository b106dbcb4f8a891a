/* engine/app_ladder: how a turn gets to a thread that Codex has loaded, with what must be known of
 * the past on it, and begins there. On the owner's thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app_server.h"

#define INJECT_MAX ((size_t)16 * 1024 * 1024) /* bytes of transcript */

static void refuse(struct cs_driver *driver, struct cs_engine_turn *turn,
                   const struct cs_json *error)
{
    cs_rpc_refused(driver, turn, cs_json_get_string(error, "message"));
}

static void write_policy(struct cs_jsonw *w, const struct cs_engine_request *request)
{
    cs_jsonw_string(w, "approvalPolicy", request->approvals ? "on-request" : "never");
    if (request->approvals) {
        cs_jsonw_string(w, "approvalsReviewer", "user");
    }
}

/* What starting, resuming and forking a thread have in common. */
static void write_thread(struct cs_jsonw *w, const struct cs_engine_request *request)
{
    cs_jsonw_string(w, "cwd", request->cwd);
    write_policy(w, request);
    cs_jsonw_string(w, "sandbox", request->sandbox);
    if (request->model) {
        cs_jsonw_string(w, "model", request->model);
    }
}

/* A request under way: its parameters go to w. */
struct request {
    enum cs_app_rung rung;
    int64_t id;
    struct cs_buf line;
    struct cs_jsonw w;
};

/* Begin the request of @rung, about @thread_id if it is not NULL. */
static void begin(struct cs_driver *driver, enum cs_app_rung rung, const char *thread_id,
                  struct request *out)
{
    static const char *const methods[] = {
        [CS_RUNG_START] = "thread/start",         [CS_RUNG_RESUME] = "thread/resume",
        [CS_RUNG_REVERT] = "thread/revert",       [CS_RUNG_FORK] = "thread/fork",
        [CS_RUNG_INJECT] = "thread/inject_items", [CS_RUNG_TURN] = "turn/start",
    };
    out->rung = rung;
    cs_buf_init(&out->line, CS_RPC_LINE_MAX);
    out->id = cs_rpc_request(&driver->link, &out->line, &out->w, methods[rung]);
    if (thread_id) {
        cs_jsonw_string(&out->w, "threadId", thread_id);
    }
}

/* Finish the request and send it; its reply comes while the turn is on its rung. */
static void call(struct cs_driver *driver, struct cs_engine_turn *turn, struct request *request)
{
    struct cs_app_turn *state = turn->state;
    struct cs_err err = {0};
    cs_rpc_end(&request->line, &request->w);
    state->rung = request->rung;
    pthread_mutex_lock(&driver->link.mutex);
    enum cs_status status =
        cs_link_call(&driver->link, &state->rpc.node, request->id, &request->line, &err);
    state->rpc.prompted = request->rung == CS_RUNG_TURN && status == CS_OK;
    if (state->rpc.prompted && state->claim.thread) {
        state->claim.thread->busy = true;
        state->claim.thread->start_call = request->id;
    }
    pthread_mutex_unlock(&driver->link.mutex);
    cs_buf_fini(&request->line);
    if (status != CS_OK) {
        cs_rpc_unsent(driver, turn, status, &err);
    }
}

static void start_thread(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct cs_app_turn *state = turn->state;
    struct request start;
    pthread_mutex_lock(&driver->link.mutex);
    cs_app_leave(driver, state);
    pthread_mutex_unlock(&driver->link.mutex);
    state->rpc.how = "new";
    begin(driver, CS_RUNG_START, NULL, &start);
    write_thread(&start.w, &turn->request);
    call(driver, turn, &start);
}

static void resume_thread(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct cs_app_turn *state = turn->state;
    struct request resume;
    state->resumed = true;
    begin(driver, CS_RUNG_RESUME, turn->request.thread_id, &resume);
    cs_jsonw_bool(&resume.w, "excludeTurns", true);
    write_thread(&resume.w, &turn->request);
    call(driver, turn, &resume);
}

static void revert_thread(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    const struct cs_app_turn *state = turn->state;
    struct request revert;
    begin(driver, CS_RUNG_REVERT, state->thread_id, &revert);
    cs_jsonw_string(&revert.w, "beforeTurnId", state->orphan);
    call(driver, turn, &revert);
}

static void fork_thread(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    const struct cs_app_turn *state = turn->state;
    struct request copy;
    begin(driver, CS_RUNG_FORK, state->thread_id, &copy);
    cs_jsonw_string(&copy.w, "beforeTurnId", state->orphan);
    write_thread(&copy.w, &turn->request);
    call(driver, turn, &copy);
}

static void write_item(struct cs_jsonw *w, const struct cs_engine_item *item)
{
    bool user = item->role == CS_ROLE_USER;
    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "type", "message");
    cs_jsonw_string(w, "role", user ? "user" : "assistant");
    cs_jsonw_array(w, "content");
    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "type", user ? "input_text" : "output_text");
    cs_jsonw_stringn(w, "text", item->text, item->len);
    cs_jsonw_end_object(w);
    cs_jsonw_end_array(w);
    cs_jsonw_end_object(w);
}

/* Give the thread the newest part of our transcript. */
static void inject_items(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    const struct cs_app_turn *state = turn->state;
    struct request inject;
    size_t first = state->rpc.item_count;
    for (size_t bytes = 0; first > 0; first--) {
        bytes += state->rpc.items[first - 1].len;
        if (bytes > INJECT_MAX) {
            break;
        }
    }
    begin(driver, CS_RUNG_INJECT, state->thread_id, &inject);
    cs_jsonw_array(&inject.w, "items");
    for (size_t i = first; i < state->rpc.item_count; i++) {
        write_item(&inject.w, &state->rpc.items[i]);
    }
    cs_jsonw_end_array(&inject.w);
    call(driver, turn, &inject);
}

static void write_text(struct cs_jsonw *w, const char *text, size_t len)
{
    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "type", "text");
    cs_jsonw_stringn(w, "text", text, len);
    cs_jsonw_end_object(w);
}

static void write_input(struct cs_jsonw *w, const struct cs_engine_turn *turn,
                        struct cs_buf *scratch)
{
    const struct cs_engine_request *request = &turn->request;
    const struct cs_app_turn *state = turn->state;
    cs_jsonw_array(w, "input");
    if (state->preamble) {
        cs_preamble(state->rpc.items, state->rpc.item_count, request->preamble_bytes, request,
                    scratch);
        write_text(w, scratch->data ? scratch->data : "", scratch->len);
    } else {
        if (request->context_len) {
            write_text(w, request->context, request->context_len);
        }
        write_text(w, request->prompt, request->prompt_len);
    }
    cs_jsonw_end_array(w);
}

/* The sandbox for the turn. The policy that Codex made of the word when the thread was loaded has
 * the user's own settings in it (writable roots, network), so it is sent back where it is of the
 * same kind. */
static void write_sandbox(struct cs_jsonw *w, const char *sandbox, const char *policy)
{
    static const struct {
        const char *sandbox, *plain;
    } kinds[] = {
        {"read-only", "{\"type\":\"readOnly\"}"},
        {"workspace-write", "{\"type\":\"workspaceWrite\"}"},
        {"danger-full-access", "{\"type\":\"dangerFullAccess\"}"},
    };
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(sandbox, kinds[i].sandbox) != 0) {
            continue;
        }
        size_t type = strlen(kinds[i].plain) - 1;
        bool same = policy && strncmp(policy, kinds[i].plain, type) == 0;
        const char *json = same ? policy : kinds[i].plain;
        cs_jsonw_raw(w, "sandboxPolicy", json, strlen(json));
    }
}

/* Settle what the turn sets on its thread: the model, and the counts that it starts from. False
 * when out of memory. */
static bool settle(struct cs_driver *driver, struct cs_engine_turn *turn, char **out_model,
                   char **out_policy)
{
    struct cs_app_turn *state = turn->state;
    const struct cs_engine_request *request = &turn->request;
    pthread_mutex_lock(&driver->link.mutex);
    struct cs_app_thread *thread = state->claim.thread;
    const char *model = request->model;
    if (thread) {
        if (!model && thread->sticky) {
            model = driver->default_model;
        }
        thread->sticky = request->model != NULL;
        if (model) {
            cs_text_replace(&thread->model, model);
        }
        cs_text_replace(&state->rpc.model, thread->model);
        cs_text_replace(out_policy, thread->policy);
        memcpy(state->rpc.totals, thread->totals, sizeof(state->rpc.totals));
    }
    cs_text_replace(out_model, model);
    bool ok = !model || *out_model; /* without it another model would run */
    pthread_mutex_unlock(&driver->link.mutex);
    return ok;
}

static void send_turn(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct cs_app_turn *state = turn->state;
    const struct cs_engine_request *request = &turn->request;
    struct request start;
    struct cs_buf scratch;
    char *model = NULL, *policy = NULL;
    if (!settle(driver, turn, &model, &policy)) {
        free(policy);
        cs_rpc_finish(driver, turn, CS_NO_MEM, NULL, "out of memory");
        return;
    }
    cs_turn_emit(turn, CS_EVENT_THREAD, state->thread_id, strlen(state->thread_id), state->rpc.how);
    cs_buf_init(&scratch, CS_RPC_LINE_MAX);
    begin(driver, CS_RUNG_TURN, state->thread_id, &start);
    write_input(&start.w, turn, &scratch);
    cs_jsonw_string(&start.w, "cwd", request->cwd);
    write_policy(&start.w, request);
    write_sandbox(&start.w, request->sandbox, policy);
    if (model) {
        cs_jsonw_string(&start.w, "model", model);
    }
    if (start.line.status == CS_OK) {
        start.line.status = scratch.status;
    }
    call(driver, turn, &start);
    cs_buf_fini(&scratch);
    free(model);
    free(policy);
}

/* The thread is loaded and claimed: what is left before the turn. */
static void use_thread(struct cs_driver *driver, struct cs_engine_turn *turn, const char *how)
{
    struct cs_app_turn *state = turn->state;
    const struct cs_engine_request *request = &turn->request;
    state->rpc.how = how;
    pthread_mutex_lock(&driver->link.mutex);
    const struct cs_app_thread *thread = state->claim.thread;
    bool model_unknown = false;
    if (thread) {
        bool asked = request->orphan_turn && *request->orphan_turn;
        cs_codex_id(state->thread_id, thread->id);
        cs_codex_id(state->orphan, asked ? request->orphan_turn : thread->orphan);
        model_unknown = thread->sticky && !request->model && !driver->default_model;
    }
    pthread_mutex_unlock(&driver->link.mutex);
    if (model_unknown) {
        start_thread(driver, turn); /* that shows Codex's own model */
    } else if (*state->orphan) {
        revert_thread(driver, turn);
    } else {
        send_turn(driver, turn);
    }
}

/* First rung: the child is ready. */
void cs_app_ready(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct cs_app_turn *state = turn->state;
    const char *wanted = turn->request.thread_id;
    state->claim.turn = turn;
    state->resumed = state->preamble = false;
    if (!wanted || !*wanted) {
        start_thread(driver, turn);
        return;
    }
    pthread_mutex_lock(&driver->link.mutex);
    struct cs_app_thread *thread = cs_app_thread_find(&driver->threads, wanted);
    bool free_to_use = thread && !thread->busy && !thread->claim;
    if (free_to_use) {
        cs_app_take(driver, state, thread);
    }
    pthread_mutex_unlock(&driver->link.mutex);
    if (!thread) {
        resume_thread(driver, turn);
    } else if (free_to_use) {
        use_thread(driver, turn, "loaded");
    } else {
        start_thread(driver, turn); /* a turn that was given up still runs there */
    }
}

/* Take the thread of a reply to thread/start, /resume or /fork. False when it is of no use. */
static bool adopt(struct cs_driver *driver, struct cs_engine_turn *turn,
                  const struct cs_json *result)
{
    struct cs_app_turn *state = turn->state;
    const struct cs_json *status = cs_json_path(result, "thread", "status", "type", NULL);
    const char *id = cs_json_get_string(cs_json_get(result, "thread"), "id");
    const char *model = cs_json_get_string(result, "model");
    const char *active = cs_json_string(status, NULL);
    bool resumed = state->rung == CS_RUNG_RESUME;
    if (!id || cs_text_is(active, "active") ||
        (resumed && strcmp(id, turn->request.thread_id) != 0)) {
        return false;
    }
    struct cs_buf policy;
    cs_buf_init(&policy, 65536);
    cs_json_dump(cs_json_get(result, "sandbox"), &policy);
    pthread_mutex_lock(&driver->link.mutex);
    bool live = cs_link_live(&driver->link, &state->rpc.node);
    struct cs_app_thread *thread = live ? cs_app_thread_add(&driver->threads, id) : NULL;
    bool usable = thread && (!thread->claim || thread->claim == &state->claim) && !thread->busy;
    if (usable) {
        cs_app_take(driver, state, thread);
        cs_codex_id(state->thread_id, id);
        cs_text_replace(&thread->model, model);
        cs_text_replace(&thread->policy, policy.len ? policy.data : NULL);
        thread->sticky = turn->request.model || (driver->default_model && model &&
                                                 strcmp(driver->default_model, model) != 0);
        if (!resumed && !turn->request.model) {
            cs_text_replace(&driver->default_model, model);
        }
        const int64_t known[3] = {turn->request.total_input, turn->request.total_cached,
                                  turn->request.total_output};
        memcpy(thread->totals, resumed ? known : (int64_t[3]){0, 0, 0}, sizeof(thread->totals));
    }
    pthread_mutex_unlock(&driver->link.mutex);
    cs_buf_fini(&policy);
    return usable || !live;
}

static bool says(const struct cs_json *error, const char *words)
{
    const char *message = cs_json_get_string(error, "message");
    return message && strstr(message, words);
}

static bool has_turn(const struct cs_json *turns, const char *id)
{
    for (size_t i = 0; i < cs_json_size(turns); i++) {
        if (cs_text_is(cs_json_get_string(cs_json_at(turns, i), "id"), id)) {
            return true;
        }
    }
    return false;
}

/* The replies, by rung. */

static void start_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                          const struct cs_json *result, const struct cs_json *error)
{
    struct cs_app_turn *state = turn->state;
    if (error) {
        refuse(driver, turn, error);
    } else if (!adopt(driver, turn, result)) {
        cs_rpc_finish(driver, turn, CS_UPSTREAM, "codex_protocol",
                      "Codex's reply to thread/start names no usable thread");
    } else if (cs_rpc_ask_history(driver, turn)) {
        if (state->rpc.item_count) {
            inject_items(driver, turn);
        } else {
            send_turn(driver, turn);
        }
    }
}

static void resume_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                           const struct cs_json *result, const struct cs_json *error)
{
    if (error || !adopt(driver, turn, result)) {
        start_thread(driver, turn);
    } else {
        use_thread(driver, turn, "resumed");
    }
}

static void revert_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                           const struct cs_json *result, const struct cs_json *error)
{
    struct cs_app_turn *state = turn->state;
    (void)result;
    if (error && !says(error, "turn not found")) {
        fork_thread(driver, turn);
        return;
    }
    if (!error) {
        state->rpc.how = "reverted";
    } /* else the orphan never got into Codex's history */
    pthread_mutex_lock(&driver->link.mutex);
    if (state->claim.thread) {
        state->claim.thread->orphan[0] = '\0';
        state->claim.thread->totals[0] = state->claim.thread->totals[1] =
            state->claim.thread->totals[2] = -1;
    }
    pthread_mutex_unlock(&driver->link.mutex);
    send_turn(driver, turn);
}

static void fork_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                         const struct cs_json *result, const struct cs_json *error)
{
    struct cs_app_turn *state = turn->state;
    /* A version that does not know beforeTurnId copies everything. */
    if (error || has_turn(cs_json_path(result, "thread", "turns", NULL), state->orphan) ||
        !adopt(driver, turn, result)) {
        start_thread(driver, turn);
        return;
    }
    state->rpc.how = "reverted";
    send_turn(driver, turn);
}

static void inject_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                           const struct cs_json *result, const struct cs_json *error)
{
    struct cs_app_turn *state = turn->state;
    (void)result;
    state->preamble = error != NULL;
    state->rpc.how = error ? "preamble" : "injected";
    send_turn(driver, turn);
}

static void turn_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                         const struct cs_json *result, const struct cs_json *error)
{
    struct cs_app_turn *state = turn->state;
    if (!error) {
        const char *turn_id = cs_json_get_string(cs_json_get(result, "turn"), "id");
        if (turn_id) {
            cs_rpc_started(turn, turn_id);
        }
        return;
    }
    if (says(error, "thread not found") && !state->resumed &&
        cs_text_is(turn->request.thread_id, state->thread_id)) {
        pthread_mutex_lock(&driver->link.mutex);
        if (state->claim.thread) {
            cs_app_thread_free(&driver->threads, state->claim.thread);
        }
        pthread_mutex_unlock(&driver->link.mutex);
        resume_thread(driver, turn);
        return;
    }
    refuse(driver, turn, error);
}

void cs_app_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                    const struct cs_json *json)
{
    static void (*const handlers[])(struct cs_driver *, struct cs_engine_turn *,
                                    const struct cs_json *, const struct cs_json *) = {
        [CS_RUNG_START] = start_replied,   [CS_RUNG_RESUME] = resume_replied,
        [CS_RUNG_REVERT] = revert_replied, [CS_RUNG_FORK] = fork_replied,
        [CS_RUNG_INJECT] = inject_replied, [CS_RUNG_TURN] = turn_replied,
    };
    const struct cs_app_turn *state = turn->state;
    const struct cs_json *error = cs_json_get(json, "error");
    handlers[state->rung](driver, turn, cs_json_get(json, "result"),
                          cs_json_type(error) == CS_JSON_NULL ? NULL : error);
}
