/* The app-server driver.
 *
 * One child, `codex app-server`, holds many threads. Wire facts (0.98 to 0.169): requests and
 * replies are JSON objects, a line each; notifications name their thread and turn. A thread must be
 * loaded by the child before a turn: thread/start makes one, thread/resume reads one from Codex's
 * own files, and one process at a time may write a thread. A second turn/start on a busy thread
 * would steer the running turn. What a turn sets (sandbox, model) sticks to the thread, and so does
 * the prompt of a turn that failed or was interrupted, until thread/revert. After turn/interrupt a
 * shell tool keeps running, which thread/backgroundTerminals/clean ends; that is why the handshake
 * asks for experimentalApi.
 *
 * With approvalPolicy on-request Codex asks by requests of its own, whose ids begin at 0. One about
 * a command does not say whether the command is to leave the sandbox; one about a patch names an
 * item, and what it changes was told before, by item/started. A user's approvals_reviewer could let
 * a model answer in our place, so the reviewer is always named. An interrupt settles what is open.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app_thread.h"
#include "rpc_turn.h"

#define INJECT_MAX  ((size_t)16 * 1024 * 1024) /* bytes of transcript */
#define PATCHES_MAX CS_LINK_ASKS_MAX

/* The recovery ladder: what the turn waits for. */
enum rung { RUNG_START, RUNG_RESUME, RUNG_REVERT, RUNG_FORK, RUNG_INJECT, RUNG_TURN };

/* What an item is about to change: a question about it names the item only. */
struct patch {
    char item[CS_CODEX_ID_MAX];
    char *changes; /* JSON; or NULL */
};

/* A turn. The owner's thread alone uses it, but for the claim. */
struct state {
    struct cs_rpc_turn rpc;    /* first */
    struct cs_app_claim claim; /* guarded by the link's mutex */
    enum rung rung;
    bool resumed, spoke, preamble;
    char thread_id[CS_CODEX_ID_MAX], orphan[CS_CODEX_ID_MAX];
    struct patch patches[PATCHES_MAX]; /* the last that began; a ring */
    size_t patch_count;
};

struct cs_driver {
    struct cs_link link; /* first */
    /* Guarded by the link's mutex: */
    struct cs_app_threads threads;
    char *default_model; /* Codex's own, once it is known */
    bool initialized;    /* the child has answered initialize */
};

/* Threads. The caller holds the link's mutex. */

/* A line with only a threadId (and a turnId, if not NULL) whose reply nobody waits for. */
static void send_about(struct cs_driver *driver, const char *method, const char *thread_id,
                       const char *turn_id)
{
    struct cs_buf line;
    struct cs_jsonw w;
    cs_buf_init(&line, 4096);
    (void)cs_rpc_request(&driver->link, &line, &w, method);
    cs_jsonw_string(&w, "threadId", thread_id);
    if (turn_id) {
        cs_jsonw_string(&w, "turnId", turn_id);
    }
    cs_rpc_end(&line, &w);
    cs_link_send(&driver->link, &line);
    cs_buf_fini(&line);
}

/* Nobody of ours uses the thread now: keep it loaded, within reason. Codex unloads a thread without
 * subscribers by itself. */
static void release_thread(struct cs_driver *driver, struct cs_app_thread *thread)
{
    struct cs_app_thread *surplus = cs_app_thread_rest(&driver->threads, thread);
    if (surplus) {
        send_about(driver, "thread/unsubscribe", surplus->id, NULL);
        cs_app_thread_free(&driver->threads, surplus);
    }
}

static void unclaim(struct cs_driver *driver, struct state *state)
{
    struct cs_app_thread *thread = state->claim.thread;
    if (thread) {
        state->claim.thread = NULL;
        thread->claim = NULL;
        release_thread(driver, thread);
    }
}

static void claim(struct cs_driver *driver, struct state *state, struct cs_app_thread *thread)
{
    if (state->claim.thread != thread) {
        unclaim(driver, state);
        cs_app_thread_claim(&driver->threads, &state->claim, thread);
    }
}

static void interrupt(struct cs_driver *driver, struct cs_app_thread *thread)
{
    if (!thread->busy) {
        return;
    }
    bool asked = thread->stop && *thread->running;
    thread->stop = true;
    if (!asked && *thread->running) {
        send_about(driver, "turn/interrupt", thread->id, thread->running);
    }
}

/* The turn on the thread has an id (in the reply to turn/start) or has begun (turn/started); either
 * may come first. Codex refuses to interrupt what has not begun. */
static void note_running(struct cs_driver *driver, struct cs_app_thread *thread,
                         const char *turn_id, bool begun)
{
    if (!turn_id || !thread->busy) {
        return;
    }
    if (!*thread->running) {
        cs_codex_id(thread->running, turn_id);
    } else if (!begun || strcmp(thread->running, turn_id) != 0) {
        return;
    }
    if (thread->stop) {
        send_about(driver, "turn/interrupt", thread->id, thread->running);
    }
}

static void note_completed(struct cs_driver *driver, struct cs_app_thread *thread,
                           const struct cs_json *turn)
{
    const char *status = cs_json_get_string(turn, "status");
    bool completed = status && strcmp(status, "completed") == 0;
    if (!completed && !*thread->orphan) {
        cs_codex_id(thread->orphan, cs_json_get_string(turn, "id"));
    }
    if (thread->stop) {
        send_about(driver, "thread/backgroundTerminals/clean", thread->id, NULL);
    }
    thread->busy = thread->stop = false;
    thread->running[0] = '\0';
    release_thread(driver, thread);
}

/* Hooks of the link, on the child's reader thread. */

static void arguments(const struct cs_engine *engine, const struct cs_codex *codex,
                      const char **out_argv)
{
    (void)codex;
    size_t n = 0;
    if (engine->options.api_key) {
        out_argv[n++] = "-c";
        out_argv[n++] =
            "cli_auth_credentials_store=\"ephemeral\""; /* the key must not reach Codex's files */
    }
    out_argv[n++] = "app-server";
    out_argv[n] = NULL;
}

/* Notifications that nobody here reads; Codex need not send them. */
static const char *const unread[] = {
    "account/rateLimits/updated",
    "item/commandExecution/outputDelta",
    "item/fileChange/outputDelta",
    "item/fileChange/patchUpdated",
    "item/plan/delta",
    "item/reasoning/summaryPartAdded",
    "item/reasoning/summaryTextDelta",
    "item/reasoning/textDelta",
    "remoteControl/status/changed",
    "thread/started",
    "thread/status/changed",
    "turn/diff/updated",
    "turn/plan/updated",
};

static void shake_initialize(struct cs_driver *driver)
{
    const char *version = driver->link.engine->options.version;
    struct cs_buf line;
    struct cs_jsonw w;
    cs_buf_init(&line, 65536);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "initialize");
    cs_jsonw_object(&w, "clientInfo");
    cs_jsonw_string(&w, "name", "codex-sessiond");
    cs_jsonw_string(&w, "title", "codex-sessiond");
    cs_jsonw_string(&w, "version", version ? version : "0");
    cs_jsonw_end_object(&w);
    cs_jsonw_object(&w, "capabilities");
    cs_jsonw_bool(&w, "experimentalApi", true);
    cs_jsonw_array(&w, "optOutNotificationMethods");
    for (size_t i = 0; i < sizeof(unread) / sizeof(unread[0]); i++) {
        cs_jsonw_string(&w, NULL, unread[i]);
    }
    cs_jsonw_end_array(&w);
    cs_jsonw_end_object(&w);
    cs_rpc_end(&line, &w);
    cs_link_shake(&driver->link, id, &line);
    cs_buf_fini(&line);
}

static void shake_login(struct cs_driver *driver)
{
    struct cs_buf line;
    struct cs_jsonw w;
    cs_buf_init(&line, 65536);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "account/login/start");
    cs_jsonw_string(&w, "type", "apiKey");
    cs_jsonw_string(&w, "apiKey", driver->link.engine->options.api_key);
    cs_rpc_end(&line, &w);
    cs_link_shake(&driver->link, id, &line);
    cs_buf_fini(&line);
}

static void handshake(struct cs_driver *driver, const struct cs_codex_line *reply)
{
    struct cs_link *link = &driver->link;
    if (!reply) {
        driver->initialized = false;
        shake_initialize(driver);
        return;
    }
    if (reply->error) {
        char sentence[300];
        const char *message = cs_json_get_string(reply->error, "message");
        snprintf(sentence, sizeof(sentence), "Codex app-server refused the handshake: %.200s",
                 message ? message : "");
        cs_link_refuse(link, sentence);
        return;
    }
    if (driver->initialized) { /* and this was the reply to the login */
        cs_link_ready(link);
        return;
    }
    if (!cs_json_get_string(reply->result, "userAgent")) {
        cs_link_refuse(link, "Codex app-server answered the handshake like something else");
        return;
    }
    driver->initialized = true;
    cs_link_send_text(link, "{\"method\":\"initialized\"}\n");
    if (link->engine->options.api_key) {
        shake_login(driver);
    } else {
        cs_link_ready(link);
    }
}

/* What a turn's owner may be asked. Nothing is approved for longer than once. */
static const struct cs_ask_kind asks[] = {
    {"item/commandExecution/requestApproval", "command", "{\"decision\":\"accept\"}",
     "{\"decision\":\"decline\"}"},
    {"item/fileChange/requestApproval", "patch", "{\"decision\":\"accept\"}",
     "{\"decision\":\"decline\"}"},
    {"item/permissions/requestApproval", "permission", NULL, "{\"permissions\":{}}"},
};

static const struct cs_ask_kind *ask_of(const char *method)
{
    for (size_t i = 0; i < sizeof(asks) / sizeof(asks[0]); i++) {
        if (strcmp(method, asks[i].method) == 0) {
            return &asks[i];
        }
    }
    return NULL;
}

static bool is(const char *text, const char *word)
{
    return text && strcmp(text, word) == 0;
}

/* The result that grants the permissions asked for, for this turn; for free(). */
static char *grant(const struct cs_json *params)
{
    char *result = NULL, *permissions = cs_json_text(cs_json_get(params, "permissions"));
    if (permissions &&
        asprintf(&result, "{\"permissions\":%s,\"scope\":\"turn\"}", permissions) < 0) {
        result = NULL;
    }
    free(permissions);
    return result;
}

static bool on_request(struct cs_driver *driver, struct cs_codex_line *line)
{
    const struct cs_ask_kind *kind = ask_of(line->method);
    const struct cs_app_thread *thread =
        cs_app_thread_find(&driver->threads, cs_json_get_string(line->params, "threadId"));
    if (!kind || !thread || !thread->claim || thread->stop ||
        !thread->claim->turn->request.approvals ||
        !is(cs_json_get_string(line->params, "turnId"), thread->running)) {
        return false;
    }
    char *granted = kind->approve ? NULL : grant(line->params);
    bool asked = (kind->approve || granted) &&
                 cs_link_ask(&driver->link, line, thread->claim->turn, kind, granted);
    free(granted);
    return asked;
}

static const char *answer(const char *method)
{
    static const struct {
        const char *method, *result;
    } answers[] = {
        {"item/tool/requestUserInput", "{\"answers\":{}}"},
        {"item/tool/call", "{\"contentItems\":[],\"success\":false}"},
        {"mcpServer/elicitation/request", "{\"action\":\"decline\"}"},
        {"execCommandApproval", "{\"decision\":\"denied\"}"},
        {"applyPatchApproval", "{\"decision\":\"denied\"}"},
    };
    const struct cs_ask_kind *kind = ask_of(method);
    for (size_t i = 0; !kind && i < sizeof(answers) / sizeof(answers[0]); i++) {
        if (strcmp(method, answers[i].method) == 0) {
            return answers[i].result;
        }
    }
    return kind ? kind->decline : NULL;
}

static void on_reply(struct cs_driver *driver, struct cs_link_turn *node,
                     const struct cs_codex_line *line)
{
    struct state *state = (struct state *)node;
    struct cs_app_thread *thread = state->claim.thread;
    if (!thread || node->call != thread->start_call) {
        return;
    }
    if (line->error) {
        thread->busy = thread->stop = false;
    } else {
        note_running(driver, thread, cs_json_get_string(cs_json_get(line->result, "turn"), "id"),
                     false);
    }
}

/* Notifications that go to a turn, and what they mean for the thread. */
enum notice {
    NOTICE_OTHER,
    NOTICE_DELTA,
    NOTICE_BEGUN,
    NOTICE_ITEM,
    NOTICE_USAGE,
    NOTICE_MODEL,
    NOTICE_STARTED,
    NOTICE_COMPLETED,
    NOTICE_SETTLED,
    NOTICE_CLOSED
};

static enum notice notice_of(const char *method)
{
    static const struct {
        const char *method;
        enum notice notice;
    } notices[] = {
        {"item/agentMessage/delta", NOTICE_DELTA}, {"item/started", NOTICE_BEGUN},
        {"item/completed", NOTICE_ITEM},           {"thread/tokenUsage/updated", NOTICE_USAGE},
        {"model/rerouted", NOTICE_MODEL},          {"turn/started", NOTICE_STARTED},
        {"turn/completed", NOTICE_COMPLETED},      {"serverRequest/resolved", NOTICE_SETTLED},
        {"thread/closed", NOTICE_CLOSED},
    };
    for (size_t i = 0; i < sizeof(notices) / sizeof(notices[0]); i++) {
        if (strcmp(method, notices[i].method) == 0) {
            return notices[i].notice;
        }
    }
    return NOTICE_OTHER;
}

/* Whether an item that begins is a patch that @turn's owner may be asked about. */
static bool tells_patch(const struct cs_engine_turn *turn, const struct cs_json *params)
{
    return turn->request.approvals &&
           is(cs_json_get_string(cs_json_get(params, "item"), "type"), "fileChange");
}

static void on_notice(struct cs_driver *driver, struct cs_codex_line *line)
{
    enum notice notice = notice_of(line->method);
    struct cs_app_thread *thread =
        notice == NOTICE_OTHER
            ? NULL
            : cs_app_thread_find(&driver->threads, cs_json_get_string(line->params, "threadId"));
    if (!thread) {
        return;
    }
    if (notice == NOTICE_CLOSED) {
        if (!thread->busy && !thread->claim) { /* else turn/start will tell */
            cs_app_thread_free(&driver->threads, thread);
        }
        return;
    }
    if (notice == NOTICE_SETTLED) {
        cs_link_ask_settled(&driver->link, cs_json_get(line->params, "requestId"));
        return;
    }
    const struct cs_json *turn = cs_json_get(line->params, "turn");
    const char *id =
        turn ? cs_json_get_string(turn, "id") : cs_json_get_string(line->params, "turnId");
    if (notice == NOTICE_STARTED) {
        note_running(driver, thread, id, true);
    }
    if (!id || strcmp(id, thread->running) != 0) {
        return; /* of an earlier turn */
    }
    const struct cs_app_claim *owner = thread->claim;
    if (notice == NOTICE_COMPLETED) {
        note_completed(driver, thread, turn);
    }
    if (owner && (notice != NOTICE_BEGUN || tells_patch(owner->turn, line->params))) {
        cs_turn_push(owner->turn, CS_IN_NOTICE, line->json, NULL, line->len,
                     notice == NOTICE_DELTA);
        line->json = NULL;
    }
}

static void on_down(struct cs_driver *driver)
{
    cs_app_threads_clear(&driver->threads);
}

/* The owner's thread. */

/* Let Codex end the turn, if it runs one for us. With the mutex held. */
static void stop(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    const struct state *state = turn->state;
    if (state->claim.thread) {
        interrupt(driver, state->claim.thread);
    }
}

/* Leave the thread to the next turn. With the mutex held. */
static void release(struct cs_driver *driver, struct cs_engine_turn *turn, bool clean)
{
    struct state *state = turn->state;
    (void)clean; /* what must be reverted stands in the thread */
    if (state->claim.thread && state->rpc.prompted) {
        memcpy(state->claim.thread->totals, state->rpc.totals, sizeof(state->rpc.totals));
    }
    unclaim(driver, state);
}

static void refuse(struct cs_driver *driver, struct cs_engine_turn *turn,
                   const struct cs_json *error)
{
    cs_rpc_refused(driver, turn, cs_json_get_string(error, "message"));
}

/* Finish the request @line and send it; its reply comes while the turn is on @rung. */
static void call(struct cs_driver *driver, struct cs_engine_turn *turn, enum rung rung, int64_t id,
                 struct cs_buf *line)
{
    struct state *state = turn->state;
    struct cs_err err = {0};
    state->rung = rung;
    pthread_mutex_lock(&driver->link.mutex);
    enum cs_status status = cs_link_call(&driver->link, &state->rpc.node, id, line, &err);
    state->rpc.prompted = rung == RUNG_TURN && status == CS_OK;
    if (state->rpc.prompted && state->claim.thread) {
        state->claim.thread->busy = true;
        state->claim.thread->start_call = id;
    }
    pthread_mutex_unlock(&driver->link.mutex);
    cs_buf_fini(line);
    if (status != CS_OK) {
        cs_rpc_unsent(driver, turn, status, &err);
    }
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

static void start_thread(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    struct cs_buf line;
    struct cs_jsonw w;
    pthread_mutex_lock(&driver->link.mutex);
    unclaim(driver, state);
    pthread_mutex_unlock(&driver->link.mutex);
    state->rpc.how = "new";
    cs_buf_init(&line, CS_RPC_LINE_MAX);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "thread/start");
    write_thread(&w, &turn->request);
    cs_rpc_end(&line, &w);
    call(driver, turn, RUNG_START, id, &line);
}

static void resume_thread(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    struct cs_buf line;
    struct cs_jsonw w;
    state->resumed = true;
    cs_buf_init(&line, CS_RPC_LINE_MAX);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "thread/resume");
    cs_jsonw_string(&w, "threadId", turn->request.thread_id);
    cs_jsonw_bool(&w, "excludeTurns", true);
    write_thread(&w, &turn->request);
    cs_rpc_end(&line, &w);
    call(driver, turn, RUNG_RESUME, id, &line);
}

static void revert_thread(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    struct cs_buf line;
    struct cs_jsonw w;
    cs_buf_init(&line, CS_RPC_LINE_MAX);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "thread/revert");
    cs_jsonw_string(&w, "threadId", state->thread_id);
    cs_jsonw_string(&w, "beforeTurnId", state->orphan);
    cs_rpc_end(&line, &w);
    call(driver, turn, RUNG_REVERT, id, &line);
}

static void fork_thread(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    struct cs_buf line;
    struct cs_jsonw w;
    cs_buf_init(&line, CS_RPC_LINE_MAX);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "thread/fork");
    cs_jsonw_string(&w, "threadId", state->thread_id);
    cs_jsonw_string(&w, "beforeTurnId", state->orphan);
    write_thread(&w, &turn->request);
    cs_rpc_end(&line, &w);
    call(driver, turn, RUNG_FORK, id, &line);
}

static void inject_items(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    struct cs_buf line;
    struct cs_jsonw w;
    size_t first = state->rpc.item_count;
    for (size_t bytes = 0; first > 0; first--) {
        bytes += state->rpc.items[first - 1].len;
        if (bytes > INJECT_MAX) {
            break;
        }
    }
    cs_buf_init(&line, CS_RPC_LINE_MAX);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "thread/inject_items");
    cs_jsonw_string(&w, "threadId", state->thread_id);
    cs_jsonw_array(&w, "items");
    for (size_t i = first; i < state->rpc.item_count; i++) {
        const struct cs_engine_item *item = &state->rpc.items[i];
        bool user = item->role == CS_ROLE_USER;
        cs_jsonw_object(&w, NULL);
        cs_jsonw_string(&w, "type", "message");
        cs_jsonw_string(&w, "role", user ? "user" : "assistant");
        cs_jsonw_array(&w, "content");
        cs_jsonw_object(&w, NULL);
        cs_jsonw_string(&w, "type", user ? "input_text" : "output_text");
        cs_jsonw_stringn(&w, "text", item->text, item->len);
        cs_jsonw_end_object(&w);
        cs_jsonw_end_array(&w);
        cs_jsonw_end_object(&w);
    }
    cs_jsonw_end_array(&w);
    cs_rpc_end(&line, &w);
    call(driver, turn, RUNG_INJECT, id, &line);
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
    const struct state *state = turn->state;
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
        const char *sandbox, *type;
    } kinds[] = {
        {"read-only", "{\"type\":\"readOnly\""},
        {"workspace-write", "{\"type\":\"workspaceWrite\""},
        {"danger-full-access", "{\"type\":\"dangerFullAccess\""},
    };
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(sandbox, kinds[i].sandbox) != 0) {
            continue;
        }
        char plain[64];
        snprintf(plain, sizeof(plain), "%s}", kinds[i].type);
        const char *json =
            policy && strncmp(policy, kinds[i].type, strlen(kinds[i].type)) == 0 ? policy : plain;
        cs_jsonw_raw(w, "sandboxPolicy", json, strlen(json));
    }
}

/* Settle what the turn sets on its thread: the model, and the counts that it starts from. False
 * when out of memory. */
static bool settle(struct cs_driver *driver, struct cs_engine_turn *turn, char **out_model,
                   char **out_policy)
{
    struct state *state = turn->state;
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
    struct state *state = turn->state;
    const struct cs_engine_request *request = &turn->request;
    struct cs_buf line, scratch;
    struct cs_jsonw w;
    char *model = NULL, *policy = NULL;
    if (!settle(driver, turn, &model, &policy)) {
        free(policy);
        cs_rpc_finish(driver, turn, CS_NO_MEM, NULL, "out of memory");
        return;
    }
    cs_turn_emit(turn, CS_EVENT_THREAD, state->thread_id, strlen(state->thread_id), state->rpc.how);
    cs_buf_init(&line, CS_RPC_LINE_MAX);
    cs_buf_init(&scratch, CS_RPC_LINE_MAX);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "turn/start");
    cs_jsonw_string(&w, "threadId", state->thread_id);
    write_input(&w, turn, &scratch);
    cs_jsonw_string(&w, "cwd", request->cwd);
    write_policy(&w, request);
    write_sandbox(&w, request->sandbox, policy);
    if (model) {
        cs_jsonw_string(&w, "model", model);
    }
    cs_rpc_end(&line, &w);
    if (line.status == CS_OK) {
        line.status = scratch.status;
    }
    call(driver, turn, RUNG_TURN, id, &line);
    cs_buf_fini(&scratch);
    free(model);
    free(policy);
}

/* The thread is loaded and claimed: what is left before the turn. */
static void use_thread(struct cs_driver *driver, struct cs_engine_turn *turn, const char *how)
{
    struct state *state = turn->state;
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
static void choose(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
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
        claim(driver, state, thread);
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
    struct state *state = turn->state;
    const struct cs_json *status = cs_json_path(result, "thread", "status", "type", NULL);
    const char *id = cs_json_get_string(cs_json_get(result, "thread"), "id");
    const char *model = cs_json_get_string(result, "model");
    const char *active = cs_json_string(status, NULL);
    bool resumed = state->rung == RUNG_RESUME;
    if (!id || (active && strcmp(active, "active") == 0) ||
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
        claim(driver, state, thread);
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
        const char *other = cs_json_get_string(cs_json_at(turns, i), "id");
        if (other && strcmp(other, id) == 0) {
            return true;
        }
    }
    return false;
}

static void on_started(struct cs_engine_turn *turn, const char *turn_id)
{
    if (turn_id) {
        cs_rpc_started(turn, turn_id);
    }
}

/* The replies, by rung. */

static void start_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                          const struct cs_json *result, const struct cs_json *error)
{
    struct state *state = turn->state;
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
    struct state *state = turn->state;
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
    struct state *state = turn->state;
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
    struct state *state = turn->state;
    (void)result;
    state->preamble = error != NULL;
    state->rpc.how = error ? "preamble" : "injected";
    send_turn(driver, turn);
}

static void turn_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                         const struct cs_json *result, const struct cs_json *error)
{
    struct state *state = turn->state;
    if (!error) {
        on_started(turn, cs_json_get_string(cs_json_get(result, "turn"), "id"));
        return;
    }
    const char *wanted = turn->request.thread_id;
    if (says(error, "thread not found") && !state->resumed && wanted &&
        strcmp(wanted, state->thread_id) == 0) {
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

static void replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                    const struct cs_json *json)
{
    static void (*const handlers[])(struct cs_driver *, struct cs_engine_turn *,
                                    const struct cs_json *, const struct cs_json *) = {
        [RUNG_START] = start_replied,   [RUNG_RESUME] = resume_replied,
        [RUNG_REVERT] = revert_replied, [RUNG_FORK] = fork_replied,
        [RUNG_INJECT] = inject_replied, [RUNG_TURN] = turn_replied,
    };
    const struct state *state = turn->state;
    const struct cs_json *error = cs_json_get(json, "error");
    handlers[state->rung](driver, turn, cs_json_get(json, "result"),
                          cs_json_type(error) == CS_JSON_NULL ? NULL : error);
}

/* The notifications of a running turn. */

static void on_item(struct cs_engine_turn *turn, const struct cs_json *item)
{
    struct state *state = turn->state;
    const char *type = cs_json_get_string(item, "type");
    if (!type || strcmp(type, "userMessage") == 0) {
        return;
    }
    if (strcmp(type, "agentMessage") == 0) {
        size_t len = 0;
        const char *text = cs_json_string(cs_json_get(item, "text"), &len);
        if (text) {
            state->spoke = true;
            cs_turn_emit(turn, CS_EVENT_MESSAGE, text, len, "");
        }
        return;
    }
    cs_rpc_emit_json(turn, CS_EVENT_ITEM, item, type);
}

/* Codex tells the thread's totals and those of the last request to the model, and repeats itself
 * when a turn fails. */
static void on_usage(struct cs_rpc_turn *state, const struct cs_json *usage)
{
    static const char *const names[] = {"inputTokens", "cachedInputTokens", "outputTokens"};
    int64_t totals[3], last[3];
    cs_rpc_tokens(cs_json_get(usage, "total"), names, totals);
    cs_rpc_tokens(cs_json_get(usage, "last"), names, last);
    cs_rpc_used(state, last, totals);
}

static void on_completed(struct cs_driver *driver, struct cs_engine_turn *turn,
                         const struct cs_json *result)
{
    const struct state *state = turn->state;
    const struct cs_json *items = cs_json_get(result, "items");
    for (size_t i = cs_json_size(items); i > 0 && !state->spoke; i--) {
        const struct cs_json *item = cs_json_at(items, i - 1);
        const char *type = cs_json_get_string(item, "type");
        if (type && strcmp(type, "agentMessage") == 0) {
            on_item(turn, item);
        }
    }
    const char *status = cs_json_get_string(result, "status");
    const struct cs_json *error = cs_json_get(result, "error");
    const char *message = cs_json_get_string(error, "message");
    if (status && strcmp(status, "completed") == 0) {
        cs_rpc_finish(driver, turn, CS_OK, NULL, NULL);
    } else if (status && strcmp(status, "interrupted") == 0) {
        cs_rpc_finish(driver, turn, CS_UPSTREAM, "codex_error", "Codex interrupted the turn");
    } else {
        cs_rpc_finish(driver, turn, CS_UPSTREAM,
                      cs_codex_error_code(cs_json_get(error, "codexErrorInfo"), message),
                      message ? message : "Codex says that the turn failed, and not why");
    }
}

/* A patch begins. One whose id does not fit is not known when Codex asks about it. */
static void keep_patch(struct state *state, const struct cs_json *item)
{
    const char *id = cs_json_get_string(item, "id");
    if (!id || strlen(id) >= CS_CODEX_ID_MAX) {
        return;
    }
    struct patch *patch = &state->patches[state->patch_count++ % PATCHES_MAX];
    cs_codex_id(patch->item, id);
    free(patch->changes);
    patch->changes = cs_json_text(cs_json_get(item, "changes"));
}

static const char *find_patch(const struct state *state, const char *item)
{
    for (size_t i = 0; item && i < PATCHES_MAX; i++) {
        if (state->patches[i].changes && strcmp(state->patches[i].item, item) == 0) {
            return state->patches[i].changes;
        }
    }
    return NULL;
}

/* Tell what Codex asks: the members that say what would be done, and what a patch changes. */
static void asked(struct cs_engine_turn *turn, const struct cs_json *request, const char *detail)
{
    static const char *const told[] = {"command",
                                       "cwd",
                                       "reason",
                                       "permissions",
                                       "additionalPermissions",
                                       "networkApprovalContext",
                                       "grantRoot"};
    const struct cs_json *params = cs_json_get(request, "params");
    const char *changes = find_patch(turn->state, cs_json_get_string(params, "itemId"));
    struct cs_buf text;
    struct cs_jsonw w;
    cs_rpc_approval_begin(&text, &w);
    for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
        cs_rpc_approval_member(&w, told[i], cs_json_get(params, told[i]));
    }
    if (changes) {
        cs_jsonw_raw(&w, "changes", changes, strlen(changes));
    }
    cs_rpc_approval_end(turn, &text, &w, detail);
}

static void noticed(struct cs_driver *driver, struct cs_engine_turn *turn,
                    const struct cs_json *json)
{
    struct state *state = turn->state;
    const struct cs_json *params = cs_json_get(json, "params");
    const char *method = cs_json_get_string(json, "method");
    size_t len = 0;
    const char *delta;
    if (!state->rpc.prompted || !method) {
        return;
    }
    switch (notice_of(method)) {
    case NOTICE_STARTED:
        on_started(turn, cs_json_get_string(cs_json_get(params, "turn"), "id"));
        break;
    case NOTICE_DELTA:
        delta = cs_json_string(cs_json_get(params, "delta"), &len);
        if (delta) {
            cs_turn_emit(turn, CS_EVENT_DELTA, delta, len, "");
        }
        break;
    case NOTICE_BEGUN:
        keep_patch(state, cs_json_get(params, "item"));
        break;
    case NOTICE_ITEM:
        on_item(turn, cs_json_get(params, "item"));
        break;
    case NOTICE_USAGE:
        on_usage(&state->rpc, cs_json_get(params, "tokenUsage"));
        break;
    case NOTICE_MODEL:
        cs_text_replace(&state->rpc.model, cs_json_get_string(params, "toModel"));
        state->rpc.started = false; /* tell again, with the model that really runs */
        on_started(turn, cs_json_get_string(params, "turnId"));
        break;
    case NOTICE_COMPLETED:
        on_completed(driver, turn, cs_json_get(params, "turn"));
        break;
    case NOTICE_SETTLED:
    case NOTICE_CLOSED:
    case NOTICE_OTHER:
        break;
    }
}

static void clear(struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    for (size_t i = 0; i < PATCHES_MAX; i++) {
        free(state->patches[i].changes);
    }
}

static const struct cs_link_ops link_ops = {
    .name = "Codex app-server",
    .skip_stdin = false,
    .arguments = arguments,
    .handshake = handshake,
    .on_reply = on_reply,
    .on_notice = on_notice,
    .on_request = on_request,
    .answer = answer,
    .on_down = on_down,
    .state_size = sizeof(struct state),
    .ready = choose,
    .replied = replied,
    .noticed = noticed,
    .asked = asked,
    .stop = stop,
    .release = release,
    .clear = clear,
};

static enum cs_status create(struct cs_engine *engine, struct cs_driver **out_driver,
                             struct cs_err *err)
{
    return cs_rpc_driver_new(engine, &link_ops, sizeof(struct cs_driver), out_driver, err);
}

static void destroy(struct cs_driver *driver, int64_t deadline)
{
    if (!driver) {
        return;
    }
    cs_link_fini(&driver->link, deadline);
    on_down(driver);
    free(driver->default_model);
    free(driver);
}

const struct cs_driver_ops cs_app_server_ops = {
    .kind = CS_ENGINE_APP_SERVER,
    .create = create,
    .destroy = destroy,
    .step = cs_rpc_step,
    .cancel = cs_rpc_cancel,
    .answer = cs_rpc_answer,
    .detach = cs_rpc_detach,
};
