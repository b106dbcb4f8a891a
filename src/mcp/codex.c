/* mcp/codex: the tools, resources and prompts of Codex. codex.json defines them. */
#include <string.h>

#include "cs/base/embed.h"
#include "priv.h"
#include "turn.h"

#define HISTORY_DEFAULT 50 /* messages */

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
    return cs_turn_call(call, &request, err);
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
    return cs_turn_call(call, &request, err);
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

static enum cs_status tool_history(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct cs_json *args = cs_mcp_args(call);
    unsigned limit = (unsigned)cs_json_int(cs_json_get(args, "limit"), HISTORY_DEFAULT);
    int64_t before = cs_json_int(cs_json_get(args, "before"), 0);
    const struct cs_history *history;
    struct cs_buf both;
    struct cs_jsonw w;
    enum cs_status rc = cs_core_history(cs_mcp_core(call), cs_mcp_arg(call, "threadId"), limit,
                                        before, &history, err);

    if (rc != CS_OK)
        return rc;
    cs_buf_init(&both, CS_MCP_MESSAGE_MAX);
    cs_jsonw_init(&w, &both);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "threadId", history->cid);
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

static const struct cs_mcp_entry tools[] = {
    {"codex", tool_codex, true},
    {"codex-reply", tool_reply, true},
    {"codex-history", tool_history, false},
    {"codex-cancel", tool_cancel, false},
    {NULL, NULL, false},
};

const struct cs_mcp_table cs_mcp_codex = {
    .definitions = cs_mcp_definitions,
    .name = "codex-sessiond",
    .title = "Codex sessions",
    .tools = tools,
};
