/* mcp/codex: the tools, resources and prompts of Codex. codex.json defines them. */
#include <stdio.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/embed.h"
#include "priv.h"
#include "turn.h"

#define HISTORY_DEFAULT 50  /* messages */
#define LIST_DEFAULT    20  /* conversations */
#define COMPLETE_MAX    100 /* values of a completion */
#define SEARCH_MS       250 /* for one look; a cursor leads on */

extern const struct cs_embedded cs_mcp_definitions[];

/* ---- turns ---- */

/* A setting of Codex that is given as an argument of its own by others. */
static enum cs_status take_setting(const char *name, const struct cs_json *value, const char **slot,
                                   struct cs_err *err)
{
    const char *text = cs_json_string(value, NULL);

    if (text == NULL || (*slot != NULL && strcmp(*slot, text) != 0))
        return cs_err_set(err, CS_INVALID, "invalid_arguments",
                          "config.%.64s must be a string, and agree with the argument", name);
    *slot = text;
    return CS_OK;
}

struct settings {
    struct cs_turn_request *request;
    struct cs_err *err;
};

static bool read_setting(const char *key, const struct cs_json *value, void *arg)
{
    struct settings *settings = arg;
    const struct {
        const char *key;
        const char **slot;
    } known[] = {{"model", &settings->request->model},
                 {"sandbox_mode", &settings->request->sandbox},
                 {"approval_policy", &settings->request->approval}};
    size_t i;

    for (i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].key, key) == 0)
            return take_setting(key, value, known[i].slot, settings->err) == CS_OK;
    (void)cs_err_set(settings->err, CS_INVALID, "invalid_arguments",
                     "config.%.64s is not supported: only model, sandbox_mode and approval_policy "
                     "are",
                     key);
    return false;
}

/* Who asked for a task waits for its id: it works in the background anyway. */
static enum cs_status run(struct cs_mcp_call *call, struct cs_turn_request *request,
                          struct cs_err *err)
{
    bool background = cs_json_bool(cs_json_get(cs_mcp_args(call), "background"), false);

    return background && !cs_task_asked(call) ? cs_turn_background(call, request, err)
                                              : cs_turn_call(call, request, err);
}

static enum cs_status tool_codex(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct cs_json *args = cs_mcp_args(call);
    struct cs_turn_request request = {
        .model = cs_mcp_arg(call, "model"),
        .sandbox = cs_mcp_arg(call, "sandbox"),
        .cwd = cs_mcp_arg(call, "cwd"),
        .approval = cs_mcp_arg(call, "approval-policy"),
    };
    struct settings settings = {&request, err};

    if (cs_mcp_arg(call, "base-instructions") != NULL)
        return cs_err_set(err, CS_INVALID, "invalid_arguments",
                          "base-instructions are not supported: Codex keeps its own. What matters "
                          "can be given as developer-instructions");
    if (!cs_json_each(cs_json_get(args, "config"), read_setting, &settings))
        return CS_INVALID;
    request.prompt = cs_json_string(cs_json_get(args, "prompt"), &request.prompt_len);
    request.context =
        cs_json_string(cs_json_get(args, "developer-instructions"), &request.context_len);
    return run(call, &request, err);
}

static enum cs_status tool_reply(struct cs_mcp_call *call, struct cs_err *err)
{
    static const char *const names[] = {"threadId", "conversationId", "sessionId"};
    struct cs_turn_request request = {.continued = true, .by_conversation = true};
    size_t i;

    request.prompt = cs_json_string(cs_json_get(cs_mcp_args(call), "prompt"), &request.prompt_len);
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        const char *id = cs_mcp_arg(call, names[i]);

        if (id != NULL && request.identifier != NULL && strcmp(id, request.identifier) != 0)
            return cs_err_set(err, CS_INVALID, "invalid_arguments",
                              "Give one of threadId, conversationId and sessionId");
        if (id != NULL)
            request.identifier = id;
    }
    if (request.identifier == NULL)
        return cs_err_set(err, CS_INVALID, "invalid_arguments", "Argument `threadId` is required");
    return run(call, &request, err);
}

/* ---- results that are the same as structure and as text ---- */

/* Write what @both holds, a JSON object, and forget it. */
static enum cs_status write_both(struct cs_mcp_call *call, struct cs_buf *both, struct cs_err *err)
{
    enum cs_status rc = cs_buf_check(both, err);

    if (rc == CS_OK) {
        cs_mcp_text(call, both->data, both->len);
        cs_jsonw_raw(cs_mcp_result(call), "structuredContent", both->data, both->len);
    }
    cs_buf_fini(both);
    return rc;
}

/* ---- whole conversations ---- */

/* Whether a turn is running in conversation @id, which ends within the time that the call waits for
 * it or does not. Who is told that none is finds its outcome in the history from now on. */
static enum cs_status await_turn(struct cs_mcp_call *call, const char *id, bool *out_running,
                                 struct cs_err *err)
{
    int64_t seconds = cs_json_int(cs_json_get(cs_mcp_args(call), "wait"), 0);
    const struct cs_history *newest;
    char sid[CS_UUID_MAX];
    enum cs_status rc = cs_core_history(cs_mcp_core(call), id, 1, 0, &newest, err);

    if (rc != CS_OK)
        return rc;
    memcpy(sid, newest->sid, sizeof sid);
    cs_history_release(newest);
    if (seconds > 0 && cs_core_busy(cs_mcp_core(call), sid))
        rc = cs_turn_wait(call, sid, cs_mono_ms() + seconds * 1000, err);
    *out_running = cs_core_busy(cs_mcp_core(call), sid);
    return rc;
}

static enum cs_status tool_history(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct cs_json *args = cs_mcp_args(call);
    unsigned limit = (unsigned)cs_json_int(cs_json_get(args, "limit"), HISTORY_DEFAULT);
    int64_t before = cs_json_int(cs_json_get(args, "before"), 0);
    const char *id = cs_mcp_arg(call, "threadId");
    const struct cs_history *history;
    bool running = false;
    struct cs_buf both;
    struct cs_jsonw w;
    enum cs_status rc = await_turn(call, id, &running, err);

    if (rc == CS_OK)
        rc = cs_core_history(cs_mcp_core(call), id, limit, before, &history, err);
    if (rc != CS_OK)
        return rc;
    cs_buf_init(&both, CS_MCP_MESSAGE_MAX);
    cs_jsonw_init(&w, &both);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "threadId", history->cid);
    cs_jsonw_bool(&w, "running", running);
    cs_jsonw_int(&w, "messageCount", history->total);
    cs_jsonw_array(&w, "messages");
    cs_buf_add(&both, history->messages, history->len);
    cs_jsonw_end_array(&w);
    if (history->before != 0)
        cs_jsonw_int(&w, "nextBefore", history->before);
    cs_jsonw_end_object(&w);
    cs_history_release(history);
    return write_both(call, &both, err);
}

static enum cs_status tool_cancel(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_session session;
    char tid[CS_UUID_MAX] = "";
    struct cs_buf both;
    struct cs_jsonw w;
    enum cs_status rc =
        cs_core_session(cs_mcp_core(call), cs_mcp_arg(call, "threadId"), &session, err);

    if (rc != CS_OK)
        return rc;
    rc = cs_session_cancel(cs_mcp_core(call), session.sid, tid, err);
    cs_buf_init(&both, 4096);
    cs_jsonw_init(&w, &both);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "threadId", session.cid);
    cs_jsonw_string(&w, "turnId", tid);
    cs_jsonw_end_object(&w);
    cs_session_fini(&session);
    if (rc == CS_OK)
        return write_both(call, &both, err);
    cs_buf_fini(&both);
    return rc;
}

static enum cs_status tool_fork(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_session from, session;
    struct cs_buf both;
    struct cs_jsonw w;
    enum cs_status rc =
        cs_core_session(cs_mcp_core(call), cs_mcp_arg(call, "threadId"), &from, err);

    if (rc != CS_OK)
        return rc;
    rc = cs_core_fork(cs_mcp_core(call), from.sid, &session, err);
    if (rc != CS_OK) {
        cs_session_fini(&from);
        return rc;
    }
    cs_buf_init(&both, 4096);
    cs_jsonw_init(&w, &both);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "threadId", session.cid);
    cs_jsonw_string(&w, "forkedFrom", from.cid);
    cs_jsonw_int(&w, "messageCount", session.message_count);
    cs_jsonw_end_object(&w);
    cs_session_fini(&session);
    cs_session_fini(&from);
    return write_both(call, &both, err);
}

/* ---- lists of conversations ---- */

static const char *status_of(struct cs_core *core, const struct cs_session *session)
{
    if (session->state == CS_SESSION_ARCHIVED)
        return "archived";
    if (cs_core_busy(core, session->sid))
        return "running";
    return session->last_failed ? "failed" : "active";
}

static void write_finding(struct cs_core *core, struct cs_jsonw *w,
                          const struct cs_finding *finding)
{
    const struct cs_session *session = &finding->session;
    int64_t age = cs_clock_ms() - session->last_used_at;

    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "threadId", session->cid);
    cs_jsonw_string(w, "title", session->title);
    cs_jsonw_string(w, "status", status_of(core, session));
    cs_jsonw_int(w, "ageSeconds", age > 0 ? age / 1000 : 0);
    cs_jsonw_time(w, "lastUsedAt", session->last_used_at);
    cs_jsonw_string(w, "host", finding->host);
    cs_jsonw_int(w, "messageCount", session->message_count);
    cs_jsonw_string(w, "snippet", finding->snippet);
    cs_jsonw_end_object(w);
}

static enum cs_status tool_sessions(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct cs_json *args = cs_mcp_args(call);
    struct cs_search search = {
        .text = cs_mcp_arg(call, "query"),
        .archived = cs_json_bool(cs_json_get(args, "archived"), false),
        .limit = (unsigned)cs_json_int(cs_json_get(args, "limit"), LIST_DEFAULT),
        .deadline = cs_mono_ms() + SEARCH_MS,
    };
    struct cs_findings findings;
    struct cs_buf both;
    struct cs_jsonw w;
    size_t i;
    enum cs_status rc = cs_cursor_read(call, cs_mcp_arg(call, "cursor"), &search.before_id, err);

    if (rc == CS_OK)
        rc = cs_core_search(cs_mcp_core(call), &search, &findings, err);
    if (rc != CS_OK)
        return rc;
    cs_buf_init(&both, CS_MCP_MESSAGE_MAX);
    cs_jsonw_init(&w, &both);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_array(&w, "sessions");
    for (i = 0; i < findings.count; i++)
        write_finding(cs_mcp_core(call), &w, &findings.items[i]);
    cs_jsonw_end_array(&w);
    cs_cursor_write(&w, findings.next_before_id);
    cs_jsonw_end_object(&w);
    cs_findings_fini(&findings);
    return write_both(call, &both, err);
}

/* ---- resources ---- */

static void write_resource(struct cs_jsonw *w, const struct cs_finding *finding)
{
    const struct cs_session *session = &finding->session;
    char uri[CS_URI_MAX];

    snprintf(uri, sizeof uri, CS_SESSION_URI "%s", session->cid);
    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "uri", uri);
    cs_jsonw_string(w, "name", session->cid);
    cs_jsonw_string(w, "title", session->title[0] != '\0' ? session->title : finding->snippet);
    cs_jsonw_string(w, "mimeType", "application/json");
    cs_jsonw_object(w, "annotations");
    cs_jsonw_time(w, "lastModified", session->last_used_at);
    cs_jsonw_end_object(w);
    cs_jsonw_end_object(w);
}

static enum cs_status list_resources(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_jsonw *w = cs_mcp_result(call);
    struct cs_search search = {.limit = LIST_DEFAULT, .deadline = cs_mono_ms() + SEARCH_MS};
    struct cs_findings findings;
    size_t i;
    enum cs_status rc = cs_cursor_read(call, cs_json_get_string(cs_mcp_params(call), "cursor"),
                                       &search.before_id, err);

    if (rc == CS_OK)
        rc = cs_core_search(cs_mcp_core(call), &search, &findings, err);
    if (rc != CS_OK)
        return rc;
    cs_jsonw_array(w, "resources");
    for (i = 0; i < findings.count; i++)
        write_resource(w, &findings.items[i]);
    cs_jsonw_end_array(w);
    cs_cursor_write(w, findings.next_before_id);
    cs_findings_fini(&findings);
    return CS_OK;
}

static enum cs_status read_resource(struct cs_mcp_call *call, struct cs_err *err)
{
    static const char scheme[] = CS_SESSION_URI;
    const char *uri = cs_mcp_name(call);
    struct cs_jsonw *w = cs_mcp_result(call);
    const struct cs_history *history;
    struct cs_buf text;
    enum cs_status rc;

    if (strncmp(uri, scheme, sizeof scheme - 1) != 0)
        return cs_err_set(err, CS_NOT_FOUND, NULL, "There is no such resource");
    rc = cs_core_history(cs_mcp_core(call), uri + sizeof scheme - 1, 0, 0, &history, err);
    if (rc != CS_OK)
        return rc;
    cs_buf_init(&text, CS_MCP_MESSAGE_MAX);
    cs_buf_addf(&text, "{\"threadId\":\"%s\",\"messages\":[", history->cid);
    cs_buf_add(&text, history->messages, history->len);
    cs_buf_adds(&text, "]}");
    cs_history_release(history);
    rc = cs_buf_check(&text, err);
    if (rc == CS_OK) {
        cs_jsonw_array(w, "contents");
        cs_jsonw_object(w, NULL);
        cs_jsonw_string(w, "uri", uri);
        cs_jsonw_string(w, "mimeType", "application/json");
        cs_jsonw_stringn(w, "text", text.data, text.len);
        cs_jsonw_end_object(w);
        cs_jsonw_end_array(w);
    }
    cs_buf_fini(&text);
    return rc;
}

/* ---- the prompt, and what may stand in for an id ---- */

static void write_message(struct cs_jsonw *w, const struct cs_json *message)
{
    const char *type = cs_json_get_string(message, "type");
    bool answer = type != NULL && strcmp(type, "assistant") == 0;

    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "role", answer ? "assistant" : "user");
    cs_jsonw_object(w, "content");
    cs_jsonw_string(w, "type", "text");
    cs_jsonw_string(w, "text", cs_json_get_string(message, "content"));
    cs_jsonw_end_object(w);
    cs_jsonw_end_object(w);
}

static enum cs_status prompt_session(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_jsonw *w = cs_mcp_result(call);
    const struct cs_history *history;
    struct cs_json *messages = NULL;
    struct cs_buf text;
    size_t i;
    enum cs_status rc =
        cs_core_history(cs_mcp_core(call), cs_mcp_arg(call, "threadId"), 0, 0, &history, err);

    if (rc != CS_OK)
        return rc;
    cs_buf_init(&text, CS_MCP_MESSAGE_MAX);
    cs_buf_addc(&text, '[');
    cs_buf_add(&text, history->messages, history->len);
    cs_buf_addc(&text, ']');
    cs_history_release(history);
    rc = cs_buf_check(&text, err);
    if (rc == CS_OK)
        rc = cs_json_parse(text.data, text.len, text.len, &messages, err);
    cs_buf_fini(&text);
    if (rc != CS_OK)
        return rc;
    cs_jsonw_array(w, "messages");
    for (i = 0; i < cs_json_size(messages); i++)
        write_message(w, cs_json_at(messages, i));
    cs_jsonw_end_array(w);
    cs_json_free(messages);
    return CS_OK;
}

/* Ids of the newest conversations that begin with what was typed: the only arguments there are. */
static enum cs_status complete(struct cs_mcp_call *call, struct cs_err *err)
{
    const char *typed = cs_json_get_string(cs_json_get(cs_mcp_params(call), "argument"), "value");
    struct cs_jsonw *w = cs_mcp_result(call);
    struct cs_session_filter filter = {.live = 1, .limit = COMPLETE_MAX};
    struct cs_session_list list;
    size_t i, len = typed != NULL ? strlen(typed) : 0;
    enum cs_status rc = cs_core_sessions(cs_mcp_core(call), &filter, &list, err);

    if (rc != CS_OK)
        return rc;
    cs_jsonw_array(w, "values");
    for (i = 0; i < list.count; i++)
        if (len == 0 || strncmp(list.items[i].cid, typed, len) == 0)
            cs_jsonw_string(w, NULL, list.items[i].cid);
    cs_jsonw_end_array(w);
    cs_jsonw_bool(w, "hasMore", list.next_before_id != 0);
    cs_session_list_fini(&list);
    return CS_OK;
}

/* What a model can do about a failure. */
static const char *advise(const char *code)
{
    static const struct {
        const char *code, *advice;
    } known[] = {
        {"session_not_found", "codex-sessions lists the conversations; with `archived` also those "
                              "whose time is over, which must be restored first."},
        {"session_busy", "codex-history with `wait` waits for the end of the turn that is running; "
                         "codex-cancel stops it."},
        {"no_running_turn", "codex-history shows how the last one ended."},
        {"too_many_turns", "Try again when one has ended."},
        {"too_many_requests", "Try again later, or with `background`, which does not wait."},
        {"shutting_down", "Try again in a few seconds."},
    };
    size_t i;

    for (i = 0; code != NULL && i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].code, code) == 0)
            return known[i].advice;
    return NULL;
}

static const struct cs_mcp_entry tools[] = {
    {"codex", tool_codex, true},
    {"codex-reply", tool_reply, true},
    {"codex-sessions", tool_sessions, false},
    {"codex-history", tool_history, false},
    {"codex-fork", tool_fork, false},
    {"codex-cancel", tool_cancel, false},
    {NULL, NULL, false},
};

static const struct cs_mcp_entry prompts[] = {
    {"session", prompt_session, false},
    {NULL, NULL, false},
};

const struct cs_mcp_table cs_mcp_codex = {
    .definitions = cs_mcp_definitions,
    .name = "codex-sessiond",
    .title = "Codex sessions",
    .tools = tools,
    .prompts = prompts,
    .list_resources = list_resources,
    .read_resource = read_resource,
    .complete = complete,
    .advise = advise,
};
