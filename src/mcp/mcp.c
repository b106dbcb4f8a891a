/* mcp/mcp: a message's way: which revision it speaks, what it must say for it, who answers it. */
#include "cs/mcp/mcp.h"

#include <stdlib.h>
#include <string.h>

#include "cs/base/embed.h"
#include "cs/base/thread.h"
#include "priv.h"

#define DATA_MAX 65536 /* bytes of an error's data */

#define META(name) "io.modelcontextprotocol/" name

static const char *const revisions[] = {"2025-06-18", "2025-11-25", "2026-07-28"};

const char *cs_revision_name(enum cs_revision revision)
{
    return revisions[revision];
}

bool cs_revision_parse(const char *text, enum cs_revision *out_revision)
{
    size_t i;

    for (i = 0; text != NULL && i < sizeof revisions / sizeof *revisions; i++)
        if (strcmp(revisions[i], text) == 0) {
            if (out_revision != NULL)
                *out_revision = (enum cs_revision)i;
            return true;
        }
    return false;
}

/* ---- life ----
 *
 * After cs_mcp_new() the definitions are only read, which many threads may do at once. */

static enum cs_status prepare(struct cs_mcp *mcp, struct cs_err *err)
{
    const struct cs_embedded *file = mcp->table->definitions;
    unsigned char start[4];
    enum cs_status rc = cs_random(mcp->key, sizeof mcp->key, err);

    if (rc == CS_OK)
        rc = cs_random(start, sizeof start, err);
    if (rc == CS_OK)
        rc = cs_json_parse((const char *)file->data, file->len, file->len, &mcp->definitions, err);
    if (rc != CS_OK)
        return rc;
    cs_hex(start, sizeof start, mcp->start);
    mcp->capabilities = cs_json_get(mcp->definitions, "capabilities");
    return cs_mcp_prepare(mcp, err);
}

enum cs_status cs_mcp_new(struct cs_core *core, const struct cs_mcp_table *table,
                          const char *version, struct cs_mcp **out_mcp, struct cs_err *err)
{
    struct cs_mcp *mcp = calloc(1, sizeof *mcp);
    enum cs_status rc;

    if (mcp == NULL)
        return cs_err_nomem(err);
    mcp->core = core;
    mcp->table = table != NULL ? table : &cs_mcp_codex;
    mcp->version = version;
    cs_buf_init(&mcp->tools[0], CS_MCP_MESSAGE_MAX);
    cs_buf_init(&mcp->tools[1], CS_MCP_MESSAGE_MAX);
    (void)pthread_mutex_init(&mcp->mutex, NULL);
    rc = cs_cond_init(&mcp->changed, err);
    if (rc != CS_OK) {
        (void)pthread_mutex_destroy(&mcp->mutex);
        free(mcp);
        return rc;
    }
    rc = prepare(mcp, err);
    if (rc != CS_OK) {
        cs_mcp_free(mcp);
        return rc;
    }
    *out_mcp = mcp;
    return CS_OK;
}

void cs_mcp_free(struct cs_mcp *mcp)
{
    if (mcp == NULL)
        return;
    cs_session_end_all(mcp);
    cs_buf_fini(&mcp->tools[0]);
    cs_buf_fini(&mcp->tools[1]);
    cs_json_free(mcp->definitions);
    (void)pthread_cond_destroy(&mcp->changed);
    (void)pthread_mutex_destroy(&mcp->mutex);
    free(mcp);
}

void cs_mcp_answer_fini(struct cs_mcp_answer *answer)
{
    cs_buf_fini(&answer->json);
}

/* ---- what a message must say for its revision ---- */

/* An error of the protocol with a status of HTTP of its own. */
#define DENY(call, http, ...) ((call)->status = (http), cs_mcp_refuse((call), __VA_ARGS__))

static enum cs_status deny_revision(struct cs_mcp_call *call, const char *asked, struct cs_err *err)
{
    struct cs_buf data;
    struct cs_jsonw w;
    enum cs_status rc;
    size_t i;

    cs_buf_init(&data, 1024);
    cs_jsonw_init(&w, &data);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_array(&w, "supported");
    for (i = sizeof revisions / sizeof *revisions; i > 0; i--)
        cs_jsonw_string(&w, NULL, revisions[i - 1]);
    cs_jsonw_end_array(&w);
    cs_jsonw_stringn(&w, "requested", asked, strnlen(asked, 64));
    cs_jsonw_end_object(&w);
    rc = DENY(call, 400, CS_RPC_NO_REVISION, data.data, err,
              "This revision of the protocol is not supported");
    cs_buf_fini(&data);
    return rc;
}

static enum cs_status deny_header(struct cs_mcp_call *call, const char *header, struct cs_err *err)
{
    return DENY(call, 400, CS_RPC_HEADER_MISMATCH, NULL, err,
                "The header %s is missing or differs from the message", header);
}

unsigned cs_capabilities_read(const struct cs_json *capabilities)
{
    unsigned can = 0;

    if (cs_json_type(cs_json_get(capabilities, "elicitation")) == CS_JSON_OBJECT)
        can |= CS_CAN_ELICIT;
    if (cs_json_type(cs_json_get(capabilities, "sampling")) == CS_JSON_OBJECT)
        can |= CS_CAN_SAMPLE;
    if (cs_json_type(cs_json_get(capabilities, "roots")) == CS_JSON_OBJECT)
        can |= CS_CAN_ROOTS;
    if (cs_json_type(cs_json_path(capabilities, "extensions", CS_TASKS_EXTENSION, NULL)) ==
        CS_JSON_OBJECT)
        can |= CS_CAN_TASKS;
    return can;
}

/* Whether a header's value is @text; spaces around it are nobody's. */
static bool is_value(const char *header, const char *text)
{
    size_t len = strlen(text);

    header += strspn(header, " \t");
    return strncmp(header, text, len) == 0 && header[len + strspn(header + len, " \t")] == '\0';
}

/* Header values that are not plain ASCII come as =?base64?…?=. */
static bool same_name(const char *header, const char *name)
{
    struct cs_buf encoded;
    bool same;

    if (header == NULL || name == NULL)
        return header == name;
    if (is_value(header, name))
        return true;
    cs_buf_init(&encoded, 2 * strlen(header) + 16);
    cs_buf_adds(&encoded, "=?base64?");
    cs_base64(&encoded, name, strlen(name));
    cs_buf_adds(&encoded, "?=");
    same = encoded.status == CS_OK && is_value(header, encoded.data);
    cs_buf_fini(&encoded);
    return same;
}

/* A request that stands alone: everything is in its _meta, and the headers repeat it. */
static enum cs_status check_stateless(struct cs_mcp_call *call, const struct cs_method *method,
                                      struct cs_err *err)
{
    const struct cs_json *meta = cs_json_get(call->params, "_meta");
    const char *inner = cs_json_get_string(meta, META("protocolVersion"));
    const struct cs_json *can = cs_json_get(meta, META("clientCapabilities"));

    call->revision = CS_REVISION_2026_07_28;
    if (inner == NULL || cs_json_type(can) != CS_JSON_OBJECT)
        return DENY(
            call, 400, CS_RPC_INVALID_PARAMS, NULL, err,
            "params._meta must have " META("protocolVersion") " and " META("clientCapabilities"));
    if (call->head->revision == NULL || strcmp(call->head->revision, inner) != 0)
        return deny_header(call, "MCP-Protocol-Version", err);
    if (strcmp(inner, revisions[CS_REVISION_2026_07_28]) != 0)
        return deny_revision(call, inner, err);
    if (!same_name(call->head->method, call->method))
        return deny_header(call, "Mcp-Method", err);
    if (method != NULL && (method->flags & CS_METHOD_STATELESS) != 0 && method->name_key != NULL &&
        !same_name(call->head->name, cs_json_get_string(call->params, method->name_key)))
        return deny_header(call, "Mcp-Name", err);
    call->can = cs_capabilities_read(can);
    call->log_level = cs_log_severity(cs_json_get_string(meta, META("logLevel")));
    if (call->log_level < 0)
        call->log_level = INT32_MAX;
    return CS_OK;
}

/* A request of a session. */
static enum cs_status check_session(struct cs_mcp_call *call, struct cs_err *err)
{
    const char *asked = call->head->revision;

    if (call->head->session == NULL)
        return DENY(call, 400, CS_RPC_INVALID_REQUEST, NULL, err,
                    "The header Mcp-Session-Id is missing: initialize first");
    if (asked != NULL && !cs_revision_parse(asked, NULL))
        return deny_revision(call, asked, err);
    call->session = cs_session_take(call->mcp, call->head->session);
    if (call->session == NULL)
        return DENY(call, 404, CS_RPC_INVALID_REQUEST, NULL, err,
                    "This session has ended: initialize again");
    call->revision = call->session->revision;
    call->can = call->session->can;
    pthread_mutex_lock(&call->mcp->mutex);
    call->log_level = call->session->log_level;
    pthread_mutex_unlock(&call->mcp->mutex);
    return CS_OK;
}

/* Revisions of which a client may still send the header with `initialize`. */
static bool was_a_revision(const char *text)
{
    return strcmp(text, "2024-11-05") == 0 || strcmp(text, "2025-03-26") == 0 ||
           cs_revision_parse(text, NULL);
}

static enum cs_status settle(struct cs_mcp_call *call, const struct cs_method *method,
                             struct cs_err *err)
{
    const char *asked = call->head->revision;
    const char *inner =
        cs_json_get_string(cs_json_get(call->params, "_meta"), META("protocolVersion"));
    bool stateless =
        inner != NULL || (asked != NULL && strcmp(asked, revisions[CS_REVISION_2026_07_28]) == 0);

    if (stateless)
        return check_stateless(call, method, err);
    if (strcmp(call->method, "initialize") != 0)
        return check_session(call, err);
    call->revision = CS_REVISION_2025_11_25;
    return asked == NULL || was_a_revision(asked) ? CS_OK : deny_revision(call, asked, err);
}

/* ---- answering ---- */

void cs_result_restart(struct cs_mcp_call *call)
{
    cs_buf_reset(&call->answer->json);
    cs_jsonw_init(&call->w, &call->answer->json);
    cs_jsonw_object(&call->w, NULL);
    cs_jsonw_string(&call->w, "jsonrpc", "2.0");
    cs_jsonw_raw(&call->w, "id", call->id, strlen(call->id));
    cs_jsonw_object(&call->w, "result");
}

static void end_result(struct cs_mcp_call *call, const struct cs_method *method)
{
    if (cs_mcp_stateless(call) && !call->typed)
        cs_jsonw_string(&call->w, "resultType", "complete");
    if (cs_mcp_stateless(call) && method != NULL && (method->flags & CS_METHOD_CACHED) != 0 &&
        !call->typed) {
        cs_jsonw_int(&call->w, "ttlMs", 0);
        cs_jsonw_string(&call->w, "cacheScope", "private");
    }
    if (cs_mcp_stateless(call) && !call->meta) {
        cs_jsonw_object(&call->w, "_meta");
        cs_mcp_self(call);
        cs_jsonw_end_object(&call->w);
    }
    cs_jsonw_end_object(&call->w);
    cs_jsonw_end_object(&call->w);
}

/* The code of an error that was not refused by one of its own. */
static int code_of(const struct cs_err *err)
{
    return err->status == CS_INVALID || err->status == CS_NOT_FOUND ? CS_RPC_INVALID_PARAMS
                                                                    : CS_RPC_INTERNAL;
}

static void answer_error(struct cs_mcp_call *call, const struct cs_err *err)
{
    struct cs_mcp_answer *answer = call->answer;

    cs_buf_reset(&answer->json);
    cs_msg_error(&answer->json, call->id, call->code != 0 ? call->code : code_of(err), err->msg,
                 call->data.len > 0 ? call->data.data : NULL);
    answer->status = call->status != 0 ? call->status : 200;
}

void cs_call_run(struct cs_mcp_call *call, const struct cs_method *method, cs_mcp_handler answer)
{
    struct cs_err err = {0};
    enum cs_status rc;
    size_t i;

    (void)cs_msg_id(cs_json_path(call->params, "_meta", "progressToken", NULL), call->token);
    cs_result_restart(call);
    cs_call_link(call);
    rc = answer(call, &err);
    cs_call_unlink(call);
    if (rc == CS_OK) {
        end_result(call, method);
        rc = cs_buf_check(&call->answer->json, &err);
    }
    if (rc != CS_OK)
        answer_error(call, &err);
    if (call->silent || cs_mcp_cancelled(call)) {
        cs_buf_reset(&call->answer->json);
        call->answer->status = 202;
    }
    for (i = 0; i < CS_QUESTIONS_MAX; i++)
        cs_json_free(call->questions[i].reply);
}

static enum cs_status find_method(struct cs_mcp_call *call, const struct cs_method *method,
                                  struct cs_err *err)
{
    unsigned era = cs_mcp_stateless(call) ? CS_METHOD_STATELESS : CS_METHOD_SESSION;

    if (method == NULL || (method->flags & era) == 0 || !cs_method_offered(call, method))
        return DENY(call, cs_mcp_stateless(call) ? 404 : 0, CS_RPC_NO_METHOD, NULL, err,
                    "There is no method %.64s", call->method);
    if (cs_mcp_stateless(call) && (method->flags & CS_METHOD_TASKS) != 0 &&
        (call->can & CS_CAN_TASKS) == 0)
        return cs_mcp_refuse_capability(call, CS_TASKS_EXTENSION, err);
    if (method->name_key == NULL)
        return CS_OK;
    call->name = cs_json_get_string(call->params, method->name_key);
    if (call->name != NULL)
        return CS_OK;
    return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err, "params.%s is required",
                         method->name_key);
}

static void serve(struct cs_mcp_call *call)
{
    const struct cs_method *method = cs_method_find(call->method);
    struct cs_err err = {0};
    enum cs_status rc = settle(call, method, &err);

    if (rc == CS_OK)
        rc = find_method(call, method, &err);
    if (rc == CS_OK)
        cs_call_run(call, method, method->handler);
    else
        answer_error(call, &err);
}

/* Notifications and responses: nothing is answered, but who may not send them is told. */
static void note(struct cs_mcp_call *call, struct cs_msg *msg)
{
    const char *method = msg->method != NULL ? msg->method : "";
    const char *asked = call->head->revision;
    char id[CS_MCP_ID_MAX];
    struct cs_err err = {0};

    if (asked != NULL && strcmp(asked, revisions[CS_REVISION_2026_07_28]) == 0) {
        call->answer->status = 202; /* without sessions none of them means anything */
        return;
    }
    if (check_session(call, &err) != CS_OK) {
        answer_error(call, &err);
        return;
    }
    call->answer->status = 202;
    if (msg->kind == CS_RPC_RESPONSE)
        cs_call_reply(call->mcp, call->session, msg);
    else if (strcmp(method, "notifications/cancelled") == 0 &&
             cs_msg_id(cs_json_get(msg->params, "requestId"), id) == CS_OK)
        cs_call_cancel(call->mcp, call->session, id);
}

/* ---- the way in ---- */

void cs_call_init(struct cs_mcp_call *call, struct cs_mcp *mcp, const struct cs_mcp_head *head,
                  const struct cs_mcp_stream *stream, struct cs_mcp_answer *answer)
{
    *call = (struct cs_mcp_call){
        .mcp = mcp, .head = head, .stream = stream, .answer = answer, .progress = -1};
    *answer = (struct cs_mcp_answer){.status = 200};
    cs_buf_init(&answer->json, CS_MCP_MESSAGE_MAX);
    cs_buf_init(&call->data, DATA_MAX);
}

void cs_call_fini(struct cs_mcp_call *call)
{
    struct cs_mcp_answer *answer = call->answer;

    if (answer->json.status != CS_OK) {
        cs_buf_fini(&answer->json);
        cs_buf_init(&answer->json, 0);
        answer->status = 503;
    }
    cs_buf_fini(&call->data);
    cs_session_drop(call->mcp, call->session);
}

void cs_call_deny(struct cs_mcp_call *call, int status, const char *sentence)
{
    cs_buf_reset(&call->answer->json);
    cs_msg_error(&call->answer->json, "", CS_RPC_INVALID_REQUEST, sentence, NULL);
    call->answer->status = status;
}

void cs_mcp_post(struct cs_mcp *mcp, const struct cs_mcp_head *head, const char *text, size_t len,
                 const struct cs_mcp_stream *stream, struct cs_mcp_answer *out_answer)
{
    struct cs_mcp_call call;
    struct cs_err err = {0};
    struct cs_msg msg;
    int code;
    enum cs_status rc = cs_msg_parse(text, len, len, &msg, &code, &err);

    cs_call_init(&call, mcp, head, stream, out_answer);
    memcpy(call.id, msg.id, sizeof call.id);
    call.method = msg.method;
    call.params = msg.params;
    if (rc != CS_OK) {
        call.status = rc == CS_NO_MEM ? 503 : 400;
        call.code = code;
        answer_error(&call, &err);
    } else if (msg.kind == CS_RPC_REQUEST) {
        serve(&call);
    } else {
        note(&call, &msg);
    }
    cs_call_fini(&call);
    cs_msg_fini(&msg);
}

int cs_mcp_end(struct cs_mcp *mcp, const struct cs_mcp_head *head)
{
    if (head->session == NULL)
        return 400;
    return cs_session_end(mcp, head->session) ? 200 : 404;
}
