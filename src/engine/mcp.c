/* The MCP driver.
 *
 * One child, `codex mcp-server`, answers tools/call in parallel: "codex" begins a conversation,
 * "codex-reply" goes on with one. Wire facts (0.98 to 0.153; 0.154 has no such server): events come
 * as the notification codex/event and name the call in _meta.requestId. A conversation is known
 * only to the child that began it, and keeps the folder, sandbox and model that it began with. A
 * cancelled call is never answered, and its prompt stays in the conversation. There is no way to
 * put a transcript in but the prompt. Closing stdin does not end the child. With approval-policy
 * on-request Codex asks with elicitation/create, which names the call; a user's approvals_reviewer
 * could let a model answer in our place, so the reviewer is always named.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc_turn.h"

#define TALK_BUCKETS 1024 /* a power of two */
#define TALKS_MAX    1024 /* conversations that are remembered; forgetting one costs it a preamble */
#define STOPPED_MAX  1024
#define DENIED       "{\"decision\":\"denied\",\"action\":\"decline\"}"

struct state;

/* A conversation that the child has. Guarded by the link's mutex. */
struct talk {
    struct talk *chain;         /* in its bucket */
    struct talk *newer, *older; /* all, by their last use */
    struct state *owner;        /* the turn of ours that uses it, or NULL */
    char *terms;                /* sandbox, policy, model and folder, which no reply can change */
    char *model;                /* that runs; or NULL */
    char id[CS_CODEX_ID_MAX];
};

/* A turn. The owner's thread alone uses it, but for the talk. */
struct state {
    struct cs_rpc_turn rpc; /* first */
    struct talk *talk;      /* guarded by the link's mutex */
    bool reply, content_deltas;
    int64_t call;
    char *spoken; /* the last message that was told; or NULL */
    char *error;  /* what Codex said of its failure; or NULL */
    const char *error_code;
};

struct cs_driver {
    struct cs_link link; /* first */
    /* Guarded by the link's mutex: */
    struct talk *talks[TALK_BUCKETS];
    struct talk *newest, *oldest;
    size_t talk_count;
    int64_t stopped[STOPPED_MAX]; /* calls that were cancelled; a ring */
    size_t stopped_next;
};

/* Conversations. The caller holds the link's mutex. */

static struct talk **talk_bucket(struct cs_driver *driver, const char *id)
{
    return &driver->talks[cs_codex_hash(id) & (TALK_BUCKETS - 1)];
}

static struct talk *find_talk(struct cs_driver *driver, const char *id)
{
    if (!id) {
        return NULL;
    }
    struct talk *talk = *talk_bucket(driver, id);
    while (talk && strcmp(talk->id, id) != 0) {
        talk = talk->chain;
    }
    return talk;
}

static void unlink_talk(struct cs_driver *driver, struct talk *talk)
{
    *(talk->newer ? &talk->newer->older : &driver->newest) = talk->older;
    *(talk->older ? &talk->older->newer : &driver->oldest) = talk->newer;
    talk->newer = talk->older = NULL;
}

static void put_newest(struct cs_driver *driver, struct talk *talk)
{
    talk->older = driver->newest;
    *(driver->newest ? &driver->newest->newer : &driver->oldest) = talk;
    driver->newest = talk;
}

static void dispose_talk(struct talk *talk)
{
    if (talk->owner) {
        talk->owner->talk = NULL;
    }
    free(talk->terms);
    free(talk->model);
    free(talk);
}

static void free_talk(struct cs_driver *driver, struct talk *talk)
{
    unlink_talk(driver, talk);
    struct talk **at = talk_bucket(driver, talk->id);
    while (*at != talk) {
        at = &(*at)->chain;
    }
    *at = talk->chain;
    driver->talk_count--;
    dispose_talk(talk);
}

static char *terms_of(const struct cs_engine_request *request)
{
    char *terms = NULL;
    int n = asprintf(&terms, "%s\n%d\n%s\n%s", request->sandbox, request->approvals,
                     request->model ? request->model : "", request->cwd);
    return n < 0 ? NULL : terms;
}

/* Remember a conversation that @state has begun. Without memory it is not remembered. */
static void add_talk(struct cs_driver *driver, struct state *state, const char *id,
                     const char *model)
{
    if (!id || !*id || strlen(id) >= CS_CODEX_ID_MAX || find_talk(driver, id)) {
        return;
    }
    struct talk *talk = calloc(1, sizeof(*talk));
    char *terms = terms_of(&state->rpc.node.turn->request);
    if (!talk || !terms) {
        free(talk);
        free(terms);
        return;
    }
    talk->terms = terms;
    talk->model = model ? strdup(model) : NULL;
    cs_codex_id(talk->id, id);
    struct talk **at = talk_bucket(driver, id);
    talk->chain = *at;
    *at = talk;
    put_newest(driver, talk);
    talk->owner = state;
    state->talk = talk;
    if (++driver->talk_count > TALKS_MAX && !driver->oldest->owner) {
        free_talk(driver, driver->oldest);
    }
}

/* The turn is over for the conversation: with its answer in it, or else it is of no more use,
 * because the unanswered prompt stays in it. */
static void leave_talk(struct cs_driver *driver, struct state *state, bool answered)
{
    struct talk *talk = state->talk;
    if (!talk) {
        return;
    }
    state->talk = NULL;
    talk->owner = NULL;
    if (answered) {
        unlink_talk(driver, talk);
        put_newest(driver, talk);
    } else {
        free_talk(driver, talk);
    }
}

/* Hooks of the link, on the child's reader thread. */

static void arguments(const struct cs_engine *engine, const struct cs_codex *codex,
                      const char **out_argv)
{
    (void)engine;
    out_argv[0] = codex->mcp_subcommand ? codex->mcp_subcommand : "mcp-server";
    out_argv[1] = NULL;
}

static void shake_initialize(struct cs_driver *driver)
{
    const char *version = driver->link.engine->options.version;
    struct cs_buf line;
    struct cs_jsonw w;
    cs_buf_init(&line, 65536);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "initialize");
    cs_jsonw_string(&w, "protocolVersion", "2025-06-18");
    cs_jsonw_object(&w, "capabilities");
    cs_jsonw_end_object(&w);
    cs_jsonw_object(&w, "clientInfo");
    cs_jsonw_string(&w, "name", "codex-sessiond");
    cs_jsonw_string(&w, "version", version ? version : "0");
    cs_jsonw_end_object(&w);
    cs_rpc_end(&line, &w);
    cs_link_shake(&driver->link, id, &line);
    cs_buf_fini(&line);
}

static void handshake(struct cs_driver *driver, const struct cs_codex_line *reply)
{
    struct cs_link *link = &driver->link;
    if (!reply) {
        shake_initialize(driver);
        return;
    }
    if (!cs_json_get_string(cs_json_get(reply->result, "serverInfo"), "name")) {
        cs_link_refuse(link, "Codex refused the MCP handshake");
        return;
    }
    cs_link_send_text(link, "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n");
    cs_link_ready(link);
}

static const char *answer(const char *method)
{
    /* An error would leave the call that asks hanging for ever. */
    if (strcmp(method, "elicitation/create") == 0) {
        return DENIED;
    }
    if (strcmp(method, "roots/list") == 0) {
        return "{\"roots\":[]}";
    }
    return strcmp(method, "ping") == 0 ? "{}" : NULL;
}

static void on_reply(struct cs_driver *driver, struct cs_link_turn *node,
                     const struct cs_codex_line *line)
{
    (void)driver;
    (void)node;
    (void)line;
}

static void send_cancelled(struct cs_driver *driver, int64_t call)
{
    char line[128];
    snprintf(line, sizeof(line),
             "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/"
             "cancelled\",\"params\":{\"requestId\":%lld}}\n",
             (long long)call);
    cs_link_send_text(&driver->link, line);
}

static bool was_stopped(const struct cs_driver *driver, int64_t call)
{
    for (size_t i = 0; i < STOPPED_MAX; i++) {
        if (driver->stopped[i] == call) {
            return true;
        }
    }
    return false;
}

static bool on_request(struct cs_driver *driver, struct cs_codex_line *line)
{
    static const struct cs_ask_kind kinds[] = {
        {"exec-approval", "command", "{\"decision\":\"approved\"}", DENIED},
        {"patch-approval", "patch", "{\"decision\":\"approved\"}", DENIED},
    };
    const char *what = cs_json_get_string(line->params, "codex_elicitation");
    const char *call = cs_json_get_string(line->params, "codex_mcp_tool_call_id");
    int64_t id = call ? strtoll(call, NULL, 10) : 0;
    struct cs_link_turn *node = cs_link_find(&driver->link, id);
    if (strcmp(line->method, "elicitation/create") != 0 || !node ||
        !node->turn->request.approvals || was_stopped(driver, id)) {
        return false;
    }
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (cs_text_is(what, kinds[i].method)) {
            return cs_link_ask(&driver->link, line, node->turn, &kinds[i], NULL);
        }
    }
    return false;
}

static void on_notice(struct cs_driver *driver, struct cs_codex_line *line)
{
    if (strcmp(line->method, "codex/event") != 0) {
        return;
    }
    int64_t id = cs_json_int(cs_json_path(line->params, "_meta", "requestId", NULL), -1);
    const char *type = cs_json_get_string(cs_json_get(line->params, "msg"), "type");
    if (cs_text_is(type, "task_started") && id > 0 && was_stopped(driver, id)) {
        send_cancelled(driver, id);
    }
    struct cs_link_turn *node = cs_link_find(&driver->link, id);
    if (!node) {
        return;
    }
    bool delta =
        cs_text_is(type, "agent_message_content_delta") || cs_text_is(type, "agent_message_delta");
    cs_turn_push(node->turn, CS_IN_NOTICE, line->json, NULL, line->len, delta);
    line->json = NULL;
}

static void on_down(struct cs_driver *driver)
{
    struct talk *talk = driver->newest;
    memset(driver->talks, 0, sizeof(driver->talks));
    driver->newest = driver->oldest = NULL;
    driver->talk_count = 0;
    while (talk) {
        struct talk *next = talk->older;
        dispose_talk(talk);
        talk = next;
    }
}

/* The owner's thread. */

/* The prompt as Codex gets it: plain, or with context and transcript before it. */
static void write_prompt(struct cs_jsonw *w, const struct cs_engine_turn *turn,
                         struct cs_buf *scratch)
{
    const struct state *state = turn->state;
    const struct cs_engine_request *request = &turn->request;
    size_t count = state->reply ? 0 : state->rpc.item_count;
    if (!count && !request->context_len) {
        cs_jsonw_stringn(w, "prompt", request->prompt, request->prompt_len);
        return;
    }
    cs_preamble(state->rpc.items, count, request->preamble_bytes, request, scratch);
    cs_jsonw_stringn(w, "prompt", scratch->data ? scratch->data : "", scratch->len);
}

static void write_policy(struct cs_jsonw *w, const struct cs_engine_request *request)
{
    cs_jsonw_string(w, "approval-policy", request->approvals ? "on-request" : "never");
    if (request->approvals) {
        cs_jsonw_object(w, "config");
        cs_jsonw_string(w, "approvals_reviewer", "user");
        cs_jsonw_end_object(w);
    }
}

static void write_arguments(struct cs_jsonw *w, const struct cs_engine_turn *turn,
                            struct cs_buf *scratch)
{
    const struct state *state = turn->state;
    const struct cs_engine_request *request = &turn->request;
    cs_jsonw_string(w, "name", state->reply ? "codex-reply" : "codex");
    cs_jsonw_object(w, "arguments");
    write_prompt(w, turn, scratch);
    if (state->reply) {
        cs_jsonw_string(w, "threadId", request->thread_id);
    } else {
        cs_jsonw_string(w, "cwd", request->cwd);
        cs_jsonw_string(w, "sandbox", request->sandbox);
        write_policy(w, request);
        if (request->model) {
            cs_jsonw_string(w, "model", request->model);
        }
    }
    cs_jsonw_end_object(w);
}

static void call_tool(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    struct cs_buf line, scratch;
    struct cs_jsonw w;
    struct cs_err err = {0};
    cs_buf_init(&line, CS_RPC_LINE_MAX);
    cs_buf_init(&scratch, CS_RPC_LINE_MAX);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "tools/call");
    write_arguments(&w, turn, &scratch);
    cs_rpc_end(&line, &w);
    if (line.status == CS_OK) {
        line.status = scratch.status;
    }
    pthread_mutex_lock(&driver->link.mutex);
    enum cs_status status = cs_link_call(&driver->link, &state->rpc.node, id, &line, &err);
    pthread_mutex_unlock(&driver->link.mutex);
    cs_buf_fini(&line);
    cs_buf_fini(&scratch);
    if (status == CS_OK) {
        state->rpc.prompted = true;
        state->call = id;
    } else {
        cs_rpc_unsent(driver, turn, status, &err);
    }
}

/* Begin a conversation, with our transcript if there is one. */
static void call_codex(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    state->reply = false;
    if (cs_rpc_ask_history(driver, turn)) {
        state->rpc.how = state->rpc.item_count ? "preamble" : "new";
        call_tool(driver, turn);
    }
}

static void choose(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    const struct cs_engine_request *request = &turn->request;
    bool orphan = request->orphan_turn && *request->orphan_turn;
    char *terms = terms_of(request);
    pthread_mutex_lock(&driver->link.mutex);
    struct talk *talk = find_talk(driver, request->thread_id);
    if (talk && !talk->owner && !orphan && terms && strcmp(terms, talk->terms) == 0) {
        talk->owner = state;
        state->talk = talk;
        cs_text_replace(&state->rpc.model, talk->model);
    }
    bool known = state->talk != NULL;
    pthread_mutex_unlock(&driver->link.mutex);
    free(terms);
    if (known) {
        state->reply = true;
        state->rpc.how = "loaded";
        cs_turn_emit(turn, CS_EVENT_THREAD, request->thread_id, strlen(request->thread_id),
                     state->rpc.how);
        call_tool(driver, turn);
    } else {
        call_codex(driver, turn);
    }
}

static void on_configured(struct cs_driver *driver, struct cs_engine_turn *turn,
                          const struct cs_json *msg)
{
    struct state *state = turn->state;
    const char *id = cs_json_get_string(msg, "session_id");
    if (state->reply || !id) {
        return;
    }
    cs_text_replace(&state->rpc.model, cs_json_get_string(msg, "model"));
    pthread_mutex_lock(&driver->link.mutex);
    if (cs_link_live(&driver->link, &state->rpc.node) && !state->talk) {
        add_talk(driver, state, id, state->rpc.model);
    }
    pthread_mutex_unlock(&driver->link.mutex);
    cs_turn_emit(turn, CS_EVENT_THREAD, id, strlen(id), state->rpc.how);
}

static void on_started(struct cs_engine_turn *turn, const struct cs_json *params)
{
    const char *id = cs_json_get_string(cs_json_get(params, "msg"), "turn_id");
    cs_rpc_started(turn, id ? id : cs_json_get_string(params, "id"));
}

/* 0.58 to 0.128 send each piece in both forms, 0.153 in the newer one alone. */
static void on_delta(struct cs_engine_turn *turn, const struct cs_json *msg, bool content)
{
    struct state *state = turn->state;
    size_t len = 0;
    const char *delta = cs_json_string(cs_json_get(msg, "delta"), &len);
    state->content_deltas = state->content_deltas || content;
    if (delta && content == state->content_deltas) {
        cs_turn_emit(turn, CS_EVENT_DELTA, delta, len, "");
    }
}

static void speak(struct cs_engine_turn *turn, const char *text)
{
    struct state *state = turn->state;
    if (text && !cs_text_is(state->spoken, text)) {
        cs_text_replace(&state->spoken, text);
        cs_turn_emit(turn, CS_EVENT_MESSAGE, text, strlen(text), "");
    }
}

static void on_item(struct cs_engine_turn *turn, const struct cs_json *item)
{
    const char *type = cs_json_get_string(item, "type");
    if (!type || cs_text_is(type, "UserMessage") || cs_text_is(type, "AgentMessage")) {
        return;
    }
    /* The names that app-server has for the same: commandExecution for CommandExecution. */
    char name[64];
    snprintf(name, sizeof(name), "%s", type);
    if (name[0] >= 'A' && name[0] <= 'Z') {
        name[0] = (char)(name[0] - 'A' + 'a');
    }
    cs_rpc_emit_json(turn, CS_EVENT_ITEM, item, name);
}

/* Totals of the conversation, which may be missing, and the last request's. */
static void on_tokens(struct cs_rpc_turn *state, const struct cs_json *info)
{
    static const char *const names[] = {"input_tokens", "cached_input_tokens", "output_tokens"};
    const struct cs_json *total = cs_json_get(info, "total_token_usage");
    int64_t totals[3] = {-1, -1, -1}, last[3];
    cs_rpc_tokens(cs_json_get(info, "last_token_usage"), names, last);
    if (total) {
        cs_rpc_tokens(total, names, totals);
    }
    cs_rpc_used(state, last, totals);
}

/* A command as a shell would read it. */
static void write_command(struct cs_jsonw *w, const struct cs_json *argv)
{
    struct cs_buf text;
    cs_buf_init(&text, CS_RPC_LINE_MAX);
    for (size_t i = 0; i < cs_json_size(argv); i++) {
        const char *word = cs_json_string(cs_json_at(argv, i), NULL);
        bool plain = word && *word && !word[strcspn(word, " \t\n\"'`$\\|&;<>()*?[]{}#~!^")];
        cs_buf_adds(&text, i ? " " : "");
        cs_buf_adds(&text, plain ? "" : "'");
        for (; word && *word; word++) {
            if (*word == '\'') {
                cs_buf_adds(&text, "'\\''");
            } else {
                cs_buf_addc(&text, *word);
            }
        }
        cs_buf_adds(&text, plain ? "" : "'");
    }
    if (cs_json_size(argv)) {
        cs_jsonw_stringn(w, "command", text.data, text.len);
    }
    if (w->out->status == CS_OK) {
        w->out->status = text.status;
    }
    cs_buf_fini(&text);
}

/* One file's change, in app-server's shape. */
static bool write_change(const char *path, const struct cs_json *change, void *arg)
{
    struct cs_jsonw *w = arg;
    const char *text = cs_json_get_string(change, "unified_diff");
    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "path", path);
    cs_jsonw_object(w, "kind");
    cs_jsonw_string(w, "type", cs_json_get_string(change, "type"));
    cs_rpc_approval_member(w, "move_path", cs_json_get(change, "move_path"));
    cs_jsonw_end_object(w);
    cs_jsonw_string(w, "diff", text ? text : cs_json_get_string(change, "content"));
    cs_jsonw_end_object(w);
    return true;
}

/* Tell what Codex asks in the words of app-server. */
static void asked(struct cs_engine_turn *turn, const struct cs_json *request, const char *detail)
{
    const struct cs_json *params = cs_json_get(request, "params");
    const struct cs_json *changes = cs_json_get(params, "codex_changes");
    struct cs_buf text;
    struct cs_jsonw w;
    cs_rpc_approval_begin(&text, &w);
    write_command(&w, cs_json_get(params, "codex_command"));
    cs_rpc_approval_member(&w, "cwd", cs_json_get(params, "codex_cwd"));
    cs_rpc_approval_member(&w, "reason", cs_json_get(params, "codex_reason"));
    cs_rpc_approval_member(&w, "grantRoot", cs_json_get(params, "codex_grant_root"));
    if (changes) {
        cs_jsonw_array(&w, "changes");
        (void)cs_json_each(changes, write_change, &w);
        cs_jsonw_end_array(&w);
    }
    cs_rpc_approval_end(turn, &text, &w, detail);
}

static void noticed(struct cs_driver *driver, struct cs_engine_turn *turn,
                    const struct cs_json *json)
{
    struct state *state = turn->state;
    const struct cs_json *params = cs_json_get(json, "params");
    const struct cs_json *msg = cs_json_get(params, "msg");
    const char *type = cs_json_get_string(msg, "type");
    if (!state->rpc.prompted ||
        cs_json_int(cs_json_path(params, "_meta", "requestId", NULL), -1) != state->call) {
        return;
    }
    if (cs_text_is(type, "session_configured")) {
        on_configured(driver, turn, msg);
    } else if (cs_text_is(type, "task_started") || cs_text_is(type, "turn_started")) {
        on_started(turn, params);
    } else if (cs_text_is(type, "agent_message_content_delta")) {
        on_delta(turn, msg, true);
    } else if (cs_text_is(type, "agent_message_delta")) {
        on_delta(turn, msg, false);
    } else if (cs_text_is(type, "agent_message")) {
        speak(turn, cs_json_get_string(msg, "message"));
    } else if (cs_text_is(type, "item_completed")) {
        on_item(turn, cs_json_get(msg, "item"));
    } else if (cs_text_is(type, "token_count")) {
        on_tokens(&state->rpc, cs_json_get(msg, "info"));
    } else if (cs_text_is(type, "error")) {
        const char *message = cs_json_get_string(msg, "message");
        cs_text_replace(&state->error, message);
        state->error_code = cs_codex_error_code(cs_json_get(msg, "codex_error_info"), message);
    } else if (cs_text_is(type, "turn_aborted")) {
        cs_rpc_finish(driver, turn, CS_UPSTREAM, "codex_error", "Codex interrupted the turn");
    }
}

/* The text of a tool's result; borrowed. */
static const char *content_of(const struct cs_json *result)
{
    const char *text = cs_json_get_string(cs_json_get(result, "structuredContent"), "content");
    return text ? text : cs_json_get_string(cs_json_at(cs_json_get(result, "content"), 0), "text");
}

static void replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                    const struct cs_json *json)
{
    struct state *state = turn->state;
    const struct cs_json *result = cs_json_get(json, "result");
    const struct cs_json *error = cs_json_get(json, "error");
    if (!state->rpc.prompted || cs_json_int(cs_json_get(json, "id"), -1) != state->call) {
        return;
    }
    const char *text = content_of(result);
    bool failed = cs_json_type(error) == CS_JSON_OBJECT ||
                  cs_json_bool(cs_json_get(result, "isError"), false);
    if (!failed && !state->error) {
        speak(turn, text);
        cs_rpc_finish(driver, turn, CS_OK, NULL, NULL);
        return;
    }
    if (state->reply && failed && text && strstr(text, "Session not found")) {
        pthread_mutex_lock(&driver->link.mutex);
        leave_talk(driver, state, false);
        pthread_mutex_unlock(&driver->link.mutex);
        call_codex(driver, turn);
        return;
    }
    if (!text) {
        text = cs_json_get_string(error, "message");
    }
    if (state->error) {
        cs_rpc_finish(driver, turn, CS_UPSTREAM, state->error_code, state->error);
    } else {
        cs_rpc_refused(driver, turn, text);
    }
}

/* Let Codex end the call, if there is one. With the mutex held. */
static void stop(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    const struct state *state = turn->state;
    if (state->rpc.prompted && cs_link_live(&driver->link, &state->rpc.node)) {
        driver->stopped[driver->stopped_next++ % STOPPED_MAX] = state->call;
        send_cancelled(driver, state->call);
    }
}

static void release(struct cs_driver *driver, struct cs_engine_turn *turn, bool clean)
{
    leave_talk(driver, turn->state, clean);
}

static void clear(struct cs_engine_turn *turn)
{
    struct state *state = turn->state;
    free(state->spoken);
    free(state->error);
}

static const struct cs_link_ops link_ops = {
    .name = "Codex mcp-server",
    .skip_stdin = true,
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

const struct cs_driver_ops cs_mcp_ops = {
    .kind = CS_ENGINE_MCP,
    .create = create,
    .destroy = cs_rpc_driver_free,
    .step = cs_rpc_step,
    .cancel = cs_rpc_cancel,
    .answer = cs_rpc_answer,
    .detach = cs_rpc_detach,
};
