/* mcp/approval: what Codex asks before it goes on, asked of the user of an MCP client.
 *
 * With sessions the client is asked on the stream of its call, and whatever it answers first
 * counts, here or elsewhere. Without them the call ends with what is asked, and comes again with
 * the answers and a sealed word about the turn.
 */
#include "approval.h"

#include <stdio.h>
#include <string.h>

#define STATE     "turn:" /* and the turn's id: what a call brings back */
#define SHOWN_MAX 65536   /* bytes of a member in a question */

/* Write a member of what is asked for people. What nobody would read to its end is not shown. */
static void write_member(struct cs_buf *out, const char *name, const struct cs_json *value)
{
    const char *string = cs_json_string(value, NULL);
    struct cs_buf shown;

    if (cs_json_type(value) == CS_JSON_NULL)
        return;
    cs_buf_init(&shown, SHOWN_MAX);
    if (string != NULL)
        cs_buf_adds(&shown, string);
    else
        cs_json_dump(value, &shown);
    cs_buf_addf(out, "\n%s: ", name);
    if (shown.status == CS_OK)
        cs_buf_add(out, shown.data, shown.len);
    else if (shown.status == CS_TOO_LARGE)
        cs_buf_adds(out, "too long to be shown here");
    else
        out->status = shown.status;
    cs_buf_fini(&shown);
}

/* The parameters of elicitation/create: to accept is to approve. All that would be granted is told;
 * text that the model may have written, with lines that look like others, comes last. */
static void write_question(struct cs_buf *out, const struct cs_json *asked)
{
    static const char *const told[] = {
        "cwd",
        "grantRoot",
        "permissions",
        "additionalPermissions",
        "networkApprovalContext",
        "truncated",
        "changes",
        "command",
        "reason",
    };
    const struct cs_json *request = cs_json_get(asked, "request");
    const char *kind = cs_json_get_string(asked, "kind");
    struct cs_buf text;
    struct cs_jsonw w;
    size_t i;

    cs_buf_init(&text, CS_MCP_MESSAGE_MAX);
    cs_buf_adds(&text, "Codex asks for your approval: ");
    cs_buf_adds(&text, kind != NULL ? kind : "action");
    for (i = 0; i < sizeof told / sizeof *told; i++)
        write_member(&text, told[i], cs_json_get(request, told[i]));
    cs_jsonw_init(&w, out);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_stringn(&w, "message", text.data, text.len);
    cs_jsonw_raw(&w, "requestedSchema", "{\"type\":\"object\",\"properties\":{}}", 33);
    cs_jsonw_end_object(&w);
    if (text.status != CS_OK)
        out->status = text.status;
    cs_buf_fini(&text);
}

static bool is_accepted(const struct cs_json *result)
{
    const char *action = cs_json_get_string(result, "action");

    return action != NULL && strcmp(action, "accept") == 0;
}

/* ---- with sessions ---- */

static struct cs_question *find(struct cs_mcp_call *call, const char *approval)
{
    size_t i;

    for (i = 0; i < CS_QUESTIONS_MAX; i++)
        if (strcmp(call->questions[i].approval, approval) == 0)
            return &call->questions[i];
    return NULL;
}

void cs_approval_ask(struct cs_mcp_call *call, const struct cs_json *asked)
{
    const char *id = cs_json_get_string(asked, "approvalId");
    struct cs_question *question;
    struct cs_buf params;

    if ((call->can & CS_CAN_ELICIT) == 0 || id == NULL || id[0] == '\0' ||
        strlen(id) >= sizeof question->approval || find(call, id) != NULL)
        return;
    cs_buf_init(&params, CS_MCP_MESSAGE_MAX);
    write_question(&params, asked);
    question = params.status == CS_OK ? cs_call_ask(call, "elicitation/create", params.data) : NULL;
    if (question != NULL)
        memcpy(question->approval, id, strlen(id) + 1);
    cs_buf_fini(&params);
}

void cs_approval_settle(struct cs_mcp_call *call, const struct cs_json *resolved)
{
    const char *id = cs_json_get_string(resolved, "approvalId");
    struct cs_question *question = id != NULL && id[0] != '\0' ? find(call, id) : NULL;
    struct cs_buf out;
    struct cs_jsonw w;

    if (question == NULL)
        return;
    cs_buf_init(&out, CS_MCP_MESSAGE_MAX);
    cs_msg_begin(&out, &w, "notifications/cancelled", "");
    cs_jsonw_int(&w, "requestId", question->number);
    cs_jsonw_string(&w, "reason", "It was answered elsewhere, or too late");
    cs_msg_end(&w);
    cs_call_send(call, NULL, &out);
    cs_buf_fini(&out);
    cs_json_free(cs_call_asked(call, question));
}

void cs_approval_answer(struct cs_mcp_call *call, const char *tid)
{
    size_t i;

    for (i = 0; i < CS_QUESTIONS_MAX; i++) {
        struct cs_question *question = &call->questions[i];
        char id[sizeof question->approval];
        struct cs_json *reply;
        struct cs_err ignored = {0}; /* who answered first has decided */
        bool replied;

        pthread_mutex_lock(&call->mcp->mutex);
        replied = question->reply != NULL && question->approval[0] != '\0';
        memcpy(id, question->approval, sizeof id);
        pthread_mutex_unlock(&call->mcp->mutex);
        if (!replied)
            continue;
        reply = cs_call_asked(call, question);
        if (cs_turn_approve(call->mcp->core, tid, id, is_accepted(cs_json_get(reply, "result")),
                            "mcp", &ignored) != CS_OK)
            cs_mcp_log(call, "warning", ignored.msg);
        cs_json_free(reply);
    }
}

/* ---- without ---- */

bool cs_approval_by_result(const struct cs_mcp_call *call)
{
    return cs_mcp_stateless(call) && (call->can & CS_CAN_ELICIT) != 0;
}

enum cs_status cs_approval_requests(struct cs_jsonw *w, const struct cs_json *asked,
                                    struct cs_err *err)
{
    struct cs_buf text;
    enum cs_status rc = CS_OK;
    size_t i;

    cs_buf_init(&text, CS_MCP_MESSAGE_MAX);
    cs_jsonw_object(w, "inputRequests");
    for (i = 0; i < cs_json_size(asked) && rc == CS_OK; i++) {
        cs_buf_reset(&text);
        write_question(&text, cs_json_at(asked, i));
        rc = cs_buf_check(&text, err);
        if (rc != CS_OK)
            break;
        cs_jsonw_object(w, cs_json_get_string(cs_json_at(asked, i), "approvalId"));
        cs_jsonw_string(w, "method", "elicitation/create");
        cs_jsonw_raw(w, "params", text.data, text.len);
        cs_jsonw_end_object(w);
    }
    cs_jsonw_end_object(w);
    cs_buf_fini(&text);
    return rc;
}

enum cs_status cs_approval_result(struct cs_mcp_call *call, const char *tid,
                                  const struct cs_json *asked, struct cs_err *err)
{
    struct cs_buf sealed;
    char state[sizeof STATE + CS_UUID_MAX];
    enum cs_status rc;

    cs_mcp_result_type(call, "input_required");
    rc = cs_approval_requests(&call->w, asked, err);
    if (rc != CS_OK)
        return rc;
    cs_buf_init(&sealed, CS_MCP_MESSAGE_MAX);
    snprintf(state, sizeof state, STATE "%s", tid);
    rc = cs_mcp_seal(call->mcp, state, &sealed, err);
    if (rc == CS_OK)
        cs_jsonw_string(&call->w, "requestState", sealed.data);
    cs_buf_fini(&sealed);
    return rc;
}

struct answers {
    struct cs_mcp_call *call;
    const char *tid;
};

/* What is no answer of a user leaves the question open. */
static bool take_answer(const char *key, const struct cs_json *value, void *arg)
{
    const struct answers *answers = arg;
    struct cs_err ignored = {0}; /* who answered first has decided */

    if (cs_json_get_string(value, "action") != NULL &&
        cs_turn_approve(answers->call->mcp->core, answers->tid, key, is_accepted(value), "mcp",
                        &ignored) != CS_OK)
        cs_mcp_log(answers->call, "warning", ignored.msg);
    return true;
}

void cs_approval_take(struct cs_mcp_call *call, const char *tid, const struct cs_json *given)
{
    struct answers answers = {call, tid};

    (void)cs_json_each(given, take_answer, &answers);
}

enum cs_status cs_approval_again(struct cs_mcp_call *call, char out_tid[CS_UUID_MAX],
                                 struct cs_err *err)
{
    const char *sealed = cs_json_get_string(call->params, "requestState");
    char state[sizeof STATE + CS_UUID_MAX];

    out_tid[0] = '\0';
    if (!cs_mcp_stateless(call) || sealed == NULL)
        return CS_OK;
    if (!cs_mcp_unseal(call->mcp, sealed, state, sizeof state) ||
        strncmp(state, STATE, sizeof STATE - 1) != 0 || !cs_uuid_valid(state + sizeof STATE - 1))
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err,
                             "This requestState is not of this server");
    memcpy(out_tid, state + sizeof STATE - 1, CS_UUID_MAX);
    cs_approval_take(call, out_tid, cs_json_get(call->params, "inputResponses"));
    return CS_OK;
}
