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
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc.h"

#define THREAD_BUCKETS 1024 /* a power of two */
/* Loaded threads without a turn that are kept; each costs Codex about 1.3 MB, and loading it again
 * about 15 ms. */
#define IDLE_MAX     128
#define INJECT_MAX   ((size_t)16 * 1024 * 1024) /* bytes of transcript */
#define LINE_MAX_OUT ((size_t)64 * 1024 * 1024)

struct state;

/* What is known of a thread that the child has loaded. Guarded by the link's mutex. */
struct thread {
    struct thread *chain;          /* in its bucket */
    struct thread *newer, *older;  /* among the idle ones */
    struct state *owner;           /* the turn of ours that uses it, or NULL */
    bool idle;                     /* in the list of idle threads */
    bool busy;                     /* Codex runs a turn on it, or was just asked to */
    bool stop;                     /* interrupt that turn, now or as soon as its id is known */
    bool sticky;                   /* another model than Codex's default was set on it */
    char running[CS_CODEX_ID_MAX]; /* id of the turn that runs, "" unknown */
    char orphan[CS_CODEX_ID_MAX];  /* the first turn since the last revert that did not complete, ""
                                   none */
    char *model;                   /* or NULL */
    char *policy;                  /* its sandbox policy as JSON, or NULL */
    int64_t totals[3];             /* input, cached, output tokens so far; -1 unknown */
    int64_t start_call;            /* id of the turn/start that made it busy */
    char id[CS_CODEX_ID_MAX];
};

/* The recovery ladder: what the turn waits for. */
enum rung {
    RUNG_CHILD,
    RUNG_START,
    RUNG_RESUME,
    RUNG_REVERT,
    RUNG_FORK,
    RUNG_INJECT,
    RUNG_TURN,
    RUNG_DONE
};

/* A turn. The owner's thread alone uses it, but for node and thread. */
struct state {
    struct cs_link_turn node; /* first; guarded by the link's mutex, like thread */
    struct thread *thread;    /* claimed; NULL when none, or when its child is gone */
    enum rung rung;
    bool retried, resumed, started, spoke, preamble, asked_history;
    const char *how; /* detail of CS_EVENT_THREAD */
    char thread_id[CS_CODEX_ID_MAX], turn_id[CS_CODEX_ID_MAX], orphan[CS_CODEX_ID_MAX];
    char *model; /* that runs; or NULL */
    const struct cs_engine_item *items;
    size_t item_count;
    int64_t used[3], totals[3]; /* -1 unknown */
};

struct cs_driver {
    struct cs_link link;
    /* Guarded by the link's mutex: */
    struct thread *threads[THREAD_BUCKETS];
    struct thread *newest, *oldest; /* idle */
    size_t idle_count;
    char *default_model; /* Codex's own, once it is known */
    bool initialized;    /* the child has answered initialize */
};

/* Threads. The caller holds the link's mutex. */

static struct thread **thread_bucket(struct cs_driver *driver, const char *id)
{
    return &driver->threads[cs_codex_hash(id) & (THREAD_BUCKETS - 1)];
}

static struct thread *find_thread(struct cs_driver *driver, const char *id)
{
    if (!id) {
        return NULL;
    }
    struct thread *thread = *thread_bucket(driver, id);
    while (thread && strcmp(thread->id, id) != 0) {
        thread = thread->chain;
    }
    return thread;
}

static void idle_remove(struct cs_driver *driver, struct thread *thread)
{
    if (!thread->idle) {
        return;
    }
    *(thread->newer ? &thread->newer->older : &driver->newest) = thread->older;
    *(thread->older ? &thread->older->newer : &driver->oldest) = thread->newer;
    thread->newer = thread->older = NULL;
    thread->idle = false;
    driver->idle_count--;
}

static void dispose_thread(struct thread *thread)
{
    if (thread->owner) {
        thread->owner->thread = NULL;
    }
    free(thread->model);
    free(thread->policy);
    free(thread);
}

static void free_thread(struct cs_driver *driver, struct thread *thread)
{
    idle_remove(driver, thread);
    struct thread **at = thread_bucket(driver, thread->id);
    while (*at != thread) {
        at = &(*at)->chain;
    }
    *at = thread->chain;
    dispose_thread(thread);
}

/* The record of a loaded thread; NULL when out of memory or when the id is none. */
static struct thread *add_thread(struct cs_driver *driver, const char *id)
{
    struct thread *thread = find_thread(driver, id);
    if (thread || !id || !*id || strlen(id) >= CS_CODEX_ID_MAX) {
        return thread;
    }
    thread = calloc(1, sizeof(*thread));
    if (!thread) {
        return NULL;
    }
    cs_codex_id(thread->id, id);
    thread->totals[0] = thread->totals[1] = thread->totals[2] = -1;
    struct thread **at = thread_bucket(driver, id);
    thread->chain = *at;
    *at = thread;
    return thread;
}

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
static void release_thread(struct cs_driver *driver, struct thread *thread)
{
    if (thread->owner || thread->busy || thread->idle) {
        return;
    }
    thread->idle = true;
    thread->older = driver->newest;
    *(driver->newest ? &driver->newest->newer : &driver->oldest) = thread;
    driver->newest = thread;
    if (++driver->idle_count > IDLE_MAX) {
        struct thread *oldest = driver->oldest;
        send_about(driver, "thread/unsubscribe", oldest->id, NULL);
        free_thread(driver, oldest);
    }
}

static void unclaim(struct cs_driver *driver, struct state *state)
{
    struct thread *thread = state->thread;
    if (thread) {
        state->thread = NULL;
        thread->owner = NULL;
        release_thread(driver, thread);
    }
}

static void claim(struct cs_driver *driver, struct state *state, struct thread *thread)
{
    if (state->thread == thread) {
        return;
    }
    unclaim(driver, state);
    idle_remove(driver, thread);
    thread->owner = state;
    state->thread = thread;
}

static void interrupt(struct cs_driver *driver, struct thread *thread)
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
static void note_running(struct cs_driver *driver, struct thread *thread, const char *turn_id,
                         bool begun)
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

static void note_completed(struct cs_driver *driver, struct thread *thread,
                           const struct cs_json *turn)
{
    const char *status = cs_json_get_string(turn, "status");
    if (status && strcmp(status, "completed") == 0) {
        cs_link_proved(&driver->link);
    } else if (!*thread->orphan) {
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
    "item/started",
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

static const char *answer(const char *method)
{
    /* Codex runs without anybody to ask: the policy is never, and whatever is asked all the same is
     * declined. */
    static const struct {
        const char *method, *result;
    } answers[] = {
        {"item/commandExecution/requestApproval", "{\"decision\":\"decline\"}"},
        {"item/fileChange/requestApproval", "{\"decision\":\"decline\"}"},
        {"item/permissions/requestApproval", "{\"permissions\":{}}"},
        {"item/tool/requestUserInput", "{\"answers\":{}}"},
        {"item/tool/call", "{\"contentItems\":[],\"success\":false}"},
        {"mcpServer/elicitation/request", "{\"action\":\"decline\"}"},
        {"execCommandApproval", "{\"decision\":\"denied\"}"},
        {"applyPatchApproval", "{\"decision\":\"denied\"}"},
    };
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        if (strcmp(method, answers[i].method) == 0) {
            return answers[i].result;
        }
    }
    return NULL;
}

static void on_reply(struct cs_driver *driver, struct cs_link_turn *node,
                     const struct cs_codex_line *line)
{
    struct state *state = (struct state *)node;
    struct thread *thread = state->thread;
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
    NOTICE_ITEM,
    NOTICE_USAGE,
    NOTICE_MODEL,
    NOTICE_STARTED,
    NOTICE_COMPLETED,
    NOTICE_CLOSED
};

static enum notice notice_of(const char *method)
{
    static const struct {
        const char *method;
        enum notice notice;
    } notices[] = {
        {"item/agentMessage/delta", NOTICE_DELTA},
        {"item/completed", NOTICE_ITEM},
        {"thread/tokenUsage/updated", NOTICE_USAGE},
        {"model/rerouted", NOTICE_MODEL},
        {"turn/started", NOTICE_STARTED},
        {"turn/completed", NOTICE_COMPLETED},
        {"thread/closed", NOTICE_CLOSED},
    };
    for (size_t i = 0; i < sizeof(notices) / sizeof(notices[0]); i++) {
        if (strcmp(method, notices[i].method) == 0) {
            return notices[i].notice;
        }
    }
    return NOTICE_OTHER;
}

static void on_notice(struct cs_driver *driver, struct cs_codex_line *line)
{
    enum notice notice = notice_of(line->method);
    struct thread *thread = notice == NOTICE_OTHER
                                ? NULL
                                : find_thread(driver, cs_json_get_string(line->params, "threadId"));
    if (!thread) {
        return;
    }
    if (notice == NOTICE_CLOSED) {
        if (!thread->busy && !thread->owner) { /* else turn/start will tell */
            free_thread(driver, thread);
        }
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
    struct state *owner = thread->owner;
    if (notice == NOTICE_COMPLETED) {
        note_completed(driver, thread, turn);
    }
    if (owner) {
        cs_turn_push(owner->node.turn, CS_IN_NOTICE, line->json, NULL, line->len,
                     notice == NOTICE_DELTA);
        line->json = NULL;
    }
}

static void on_down(struct cs_driver *driver)
{
    driver->newest = driver->oldest = NULL;
    driver->idle_count = 0;
    for (size_t i = 0; i < THREAD_BUCKETS; i++) {
        struct thread *thread = driver->threads[i];
        driver->threads[i] = NULL;
        while (thread) {
            struct thread *next = thread->chain;
            dispose_thread(thread);
            thread = next;
        }
    }
}

/* The owner's thread. */

/* The turn ends: tell what it used, and leave its thread to the next turn. */
static void finish(struct cs_driver *driver, struct cs_engine_turn *turn, enum cs_status status,
                   const char *code, const char *sentence)
{
    struct state *state = turn->state;
    if (state->used[0] >= 0) {
        cs_turn_emit_usage(turn, state->used, state->totals);
    }
    pthread_mutex_lock(&driver->link.mutex);
    if (state->thread && state->rung == RUNG_TURN) {
        memcpy(state->thread->totals, state->totals, sizeof(state->totals));
    }
    unclaim(driver, state);
    pthread_mutex_unlock(&driver->link.mutex);
    state->rung = RUNG_DONE;
    cs_turn_emit_done(turn, status, code, sentence);
}

/* Codex refused a call that there is no way around. */
static void refuse(struct cs_driver *driver, struct cs_engine_turn *turn,
                   const struct cs_json *error)
{
    const char *message = cs_json_get_string(error, "message");
    finish(driver, turn, CS_UPSTREAM, cs_codex_error_code(NULL, message),
           message ? message : "Codex refused the turn");
}

/* Finish the request @line and send it; its reply comes while the turn is on @rung. */
static void call(struct cs_driver *driver, struct cs_engine_turn *turn, enum rung rung, int64_t id,
                 struct cs_buf *line)
{
    struct state *state = turn->state;
    struct cs_err err = {0};
    state->rung = rung;
    pthread_mutex_lock(&driver->link.mutex);
    enum cs_status status = cs_link_call(&driver->link, &state->node, id, line, &err);
    if (status == CS_OK && rung == RUNG_TURN && state->thread) {
        state->thread->busy = true;
        state->thread->start_call = id;
    }
    pthread_mutex_unlock(&driver->link.mutex);
    cs_buf_fini(line);
    if (status != CS_OK && status != CS_CONFLICT) {
        finish(driver, turn, status == CS_NO_MEM ? CS_NO_MEM : CS_UNAVAILABLE,
               status == CS_NO_MEM ? NULL : "codex_unavailable", err.msg);
    }
}

/* What starting, resuming and forking a thread have in common. */
static void write_thread(struct cs_jsonw *w, const struct cs_engine_request *request)
{
    cs_jsonw_string(w, "cwd", request->cwd);
    cs_jsonw_string(w, "approvalPolicy", "never");
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
    state->how = "new";
    cs_buf_init(&line, LINE_MAX_OUT);
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
    cs_buf_init(&line, LINE_MAX_OUT);
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
    cs_buf_init(&line, LINE_MAX_OUT);
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
    cs_buf_init(&line, LINE_MAX_OUT);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "thread/fork");
    cs_jsonw_string(&w, "threadId", state->thread_id);
    cs_jsonw_string(&w, "beforeTurnId", state->orphan);
    write_thread(&w, &turn->request);
    cs_rpc_end(&line, &w);
    call(driver, turn, RUNG_FORK, id, &line);
}

/* Our transcript, once; false when the turn has ended because there is none to be had. */
static bool ask_history(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    const struct cs_engine_request *request = &turn->request;
    if (state->asked_history || !request->history) {
        return true;
    }
    struct cs_err err = {0};
    state->asked_history = true;
    enum cs_status status =
        request->history(request->history_arg, &state->items, &state->item_count, &err);
    if (status != CS_OK) {
        finish(driver, turn, status, err.code, err.msg);
    }
    return status == CS_OK;
}

static void inject_items(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    struct cs_buf line;
    struct cs_jsonw w;
    size_t first = state->item_count;
    for (size_t bytes = 0; first > 0; first--) {
        bytes += state->items[first - 1].len;
        if (bytes > INJECT_MAX) {
            break;
        }
    }
    cs_buf_init(&line, LINE_MAX_OUT);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "thread/inject_items");
    cs_jsonw_string(&w, "threadId", state->thread_id);
    cs_jsonw_array(&w, "items");
    for (size_t i = first; i < state->item_count; i++) {
        const struct cs_engine_item *item = &state->items[i];
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
        cs_preamble(state->items, state->item_count, request->preamble_bytes, request, scratch);
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
    struct thread *thread = state->thread;
    const char *model = request->model;
    if (thread) {
        if (!model && thread->sticky) {
            model = driver->default_model;
        }
        thread->sticky = request->model != NULL;
        if (model) {
            cs_text_replace(&thread->model, model);
        }
        cs_text_replace(&state->model, thread->model);
        cs_text_replace(out_policy, thread->policy);
        memcpy(state->totals, thread->totals, sizeof(state->totals));
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
        finish(driver, turn, CS_NO_MEM, NULL, "out of memory");
        return;
    }
    cs_turn_emit(turn, CS_EVENT_THREAD, state->thread_id, strlen(state->thread_id), state->how);
    cs_buf_init(&line, LINE_MAX_OUT);
    cs_buf_init(&scratch, LINE_MAX_OUT);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "turn/start");
    cs_jsonw_string(&w, "threadId", state->thread_id);
    write_input(&w, turn, &scratch);
    cs_jsonw_string(&w, "cwd", request->cwd);
    cs_jsonw_string(&w, "approvalPolicy", "never");
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
    state->how = how;
    pthread_mutex_lock(&driver->link.mutex);
    const struct thread *thread = state->thread;
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
    if (!wanted || !*wanted) {
        start_thread(driver, turn);
        return;
    }
    pthread_mutex_lock(&driver->link.mutex);
    struct thread *thread = find_thread(driver, wanted);
    bool free_to_use = thread && !thread->busy && !thread->owner;
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
    bool live = cs_link_live(&driver->link, &state->node);
    struct thread *thread = live ? add_thread(driver, id) : NULL;
    bool usable = thread && (!thread->owner || thread->owner == state) && !thread->busy;
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
    struct state *state = turn->state;
    if (state->started || !turn_id) {
        return;
    }
    state->started = true;
    cs_codex_id(state->turn_id, turn_id);
    cs_turn_emit(turn, CS_EVENT_STARTED, state->turn_id, strlen(state->turn_id), state->model);
}

/* The replies, by rung. */

static void start_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                          const struct cs_json *result, const struct cs_json *error)
{
    struct state *state = turn->state;
    if (error) {
        refuse(driver, turn, error);
    } else if (!adopt(driver, turn, result)) {
        finish(driver, turn, CS_UPSTREAM, "codex_protocol",
               "Codex's reply to thread/start names no usable thread");
    } else if (ask_history(driver, turn)) {
        if (state->item_count) {
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
        state->how = "reverted";
    } /* else the orphan never got into Codex's history */
    pthread_mutex_lock(&driver->link.mutex);
    if (state->thread) {
        state->thread->orphan[0] = '\0';
        state->thread->totals[0] = state->thread->totals[1] = state->thread->totals[2] = -1;
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
    state->how = "reverted";
    send_turn(driver, turn);
}

static void inject_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                           const struct cs_json *result, const struct cs_json *error)
{
    struct state *state = turn->state;
    (void)result;
    state->preamble = error != NULL;
    state->how = error ? "preamble" : "injected";
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
        if (state->thread) {
            free_thread(driver, state->thread);
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
        [RUNG_START] = start_replied,
        [RUNG_RESUME] = resume_replied,
        [RUNG_REVERT] = revert_replied,
        [RUNG_FORK] = fork_replied,
        [RUNG_INJECT] = inject_replied,
        [RUNG_TURN] = turn_replied,
        [RUNG_DONE] = NULL,
    };
    const struct state *state = turn->state;
    const struct cs_json *error = cs_json_get(json, "error");
    if (handlers[state->rung]) {
        handlers[state->rung](driver, turn, cs_json_get(json, "result"),
                              cs_json_type(error) == CS_JSON_NULL ? NULL : error);
    }
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
    struct cs_buf json;
    cs_buf_init(&json, LINE_MAX_OUT);
    cs_json_dump(item, &json);
    if (cs_buf_check(&json, NULL) == CS_OK && json.len) {
        cs_turn_emit(turn, CS_EVENT_ITEM, json.data, json.len, type);
    }
    cs_buf_fini(&json);
}

static void read_tokens(const struct cs_json *json, int64_t out[3])
{
    out[0] = cs_json_int(cs_json_get(json, "inputTokens"), 0);
    out[1] = cs_json_int(cs_json_get(json, "cachedInputTokens"), 0);
    out[2] = cs_json_int(cs_json_get(json, "outputTokens"), 0);
}

/* Codex tells the thread's totals and those of the last request to the model, and repeats itself
 * when a turn fails. */
static void on_usage(struct state *state, const struct cs_json *usage)
{
    int64_t total[3], last[3];
    read_tokens(cs_json_get(usage, "total"), total);
    read_tokens(cs_json_get(usage, "last"), last);
    if (memcmp(total, state->totals, sizeof(total)) == 0 || last[0] + last[2] <= 0) {
        return;
    }
    for (int i = 0; i < 3; i++) {
        state->used[i] = (state->used[i] < 0 ? 0 : state->used[i]) + last[i];
        state->totals[i] = total[i];
    }
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
        finish(driver, turn, CS_OK, NULL, NULL);
    } else if (status && strcmp(status, "interrupted") == 0) {
        finish(driver, turn, CS_UPSTREAM, "codex_error", "Codex interrupted the turn");
    } else {
        finish(driver, turn, CS_UPSTREAM,
               cs_codex_error_code(cs_json_get(error, "codexErrorInfo"), message),
               message ? message : "Codex says that the turn failed, and not why");
    }
}

static void noticed(struct cs_driver *driver, struct cs_engine_turn *turn,
                    const struct cs_json *json)
{
    struct state *state = turn->state;
    const struct cs_json *params = cs_json_get(json, "params");
    const char *method = cs_json_get_string(json, "method");
    size_t len = 0;
    const char *delta;
    if (state->rung != RUNG_TURN || !method) {
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
    case NOTICE_ITEM:
        on_item(turn, cs_json_get(params, "item"));
        break;
    case NOTICE_USAGE:
        on_usage(state, cs_json_get(params, "tokenUsage"));
        break;
    case NOTICE_MODEL:
        cs_text_replace(&state->model, cs_json_get_string(params, "toModel"));
        state->started = false; /* tell again, with the model that really runs */
        on_started(turn, cs_json_get_string(params, "turnId"));
        break;
    case NOTICE_COMPLETED:
        on_completed(driver, turn, cs_json_get(params, "turn"));
        break;
    case NOTICE_CLOSED:
    case NOTICE_OTHER:
        break;
    }
}

static void begin(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = calloc(1, sizeof(*state));
    if (!state) {
        cs_turn_emit_done(turn, CS_NO_MEM, NULL, "out of memory");
        return;
    }
    state->node.turn = turn;
    state->rung = RUNG_CHILD;
    state->how = "new";
    for (int i = 0; i < 3; i++) {
        state->used[i] = state->totals[i] = -1;
    }
    turn->state = state;
    cs_link_join(&driver->link, &state->node);
}

static void gone(struct cs_driver *driver, struct cs_engine_turn *turn,
                 const struct cs_message_in *message)
{
    struct state *state = turn->state;
    const char *why = message->text ? message->text : "Codex stopped";
    if (message->kind == CS_IN_UNAVAILABLE) {
        finish(driver, turn, CS_UNAVAILABLE, "codex_unavailable", why);
    } else if (message->kind == CS_IN_TOO_LARGE) {
        finish(driver, turn, CS_UPSTREAM, "reply_too_large", why);
    } else if (state->rung < RUNG_TURN && !state->retried) {
        state->retried = true; /* Codex has not seen the prompt */
        state->rung = RUNG_CHILD;
        state->resumed = state->preamble = false;
        cs_link_join(&driver->link, &state->node);
    } else {
        finish(driver, turn, CS_UPSTREAM, "codex_died", why);
    }
}

/* Let Codex end the turn, if it runs one for us. */
static void stop_turn(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    pthread_mutex_lock(&driver->link.mutex);
    if (state->thread) {
        interrupt(driver, state->thread);
    }
    pthread_mutex_unlock(&driver->link.mutex);
}

static void step(struct cs_driver *driver, struct cs_engine_turn *turn,
                 struct cs_message_in *message)
{
    if (!message) {
        begin(driver, turn);
        return;
    }
    const struct state *state = turn->state;
    switch ((enum cs_link_message)message->kind) {
    case CS_IN_READY:
        if (state->rung == RUNG_CHILD) {
            choose(driver, turn);
        }
        break;
    case CS_IN_REPLY:
        replied(driver, turn, message->json);
        break;
    case CS_IN_NOTICE:
        noticed(driver, turn, message->json);
        break;
    case CS_IN_NO_MEM:
        stop_turn(driver, turn);
        finish(driver, turn, CS_NO_MEM, NULL, "out of memory");
        break;
    case CS_IN_DIED:
    case CS_IN_TOO_LARGE:
    case CS_IN_UNAVAILABLE:
        gone(driver, turn, message);
        break;
    }
}

static void cancel(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    if (!state || state->rung == RUNG_DONE) {
        return;
    }
    if (state->rung < RUNG_TURN) { /* Codex has not seen the prompt */
        finish(driver, turn, CS_CANCELLED, "turn_cancelled", "The turn was cancelled");
        return;
    }
    stop_turn(driver, turn);
}

static void detach(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    if (!state) {
        return;
    }
    turn->state = NULL;
    cs_link_leave(&driver->link, &state->node);
    pthread_mutex_lock(&driver->link.mutex);
    unclaim(driver, state);
    pthread_mutex_unlock(&driver->link.mutex);
    free(state->model);
    free(state);
}

static const struct cs_link_ops link_ops = {
    .name = "Codex app-server",
    .skip_stdin = false,
    .arguments = arguments,
    .handshake = handshake,
    .on_reply = on_reply,
    .on_notice = on_notice,
    .answer = answer,
    .on_down = on_down,
};

static enum cs_status create(struct cs_engine *engine, struct cs_driver **out_driver,
                             struct cs_err *err)
{
    struct cs_driver *driver = calloc(1, sizeof(*driver));
    if (!driver) {
        return cs_err_nomem(err);
    }
    enum cs_status status = cs_link_init(&driver->link, engine, &link_ops, driver, err);
    if (status != CS_OK) {
        free(driver);
        return status;
    }
    *out_driver = driver;
    return CS_OK;
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
    .step = step,
    .cancel = cancel,
    .detach = detach,
};
