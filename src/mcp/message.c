/* mcp/message: messages of JSON-RPC 2.0. */
#include <string.h>

#include "priv.h"

enum cs_status cs_msg_id(const struct cs_json *value, char out[CS_MCP_ID_MAX])
{
    enum cs_json_type type = cs_json_type(value);
    struct cs_buf text;
    enum cs_status rc;

    if (type != CS_JSON_STRING && type != CS_JSON_INT)
        return CS_INVALID;
    cs_buf_init(&text, CS_MCP_ID_MAX - 1);
    cs_json_dump(value, &text);
    rc = text.status;
    if (rc == CS_OK)
        memcpy(out, text.data, text.len + 1);
    cs_buf_fini(&text);
    return rc;
}

static enum cs_status invalid(const char *sentence, struct cs_err *err)
{
    return cs_err_set(err, CS_INVALID, "invalid_request", "%s", sentence);
}

/* Sort the message out. */
static enum cs_status classify(struct cs_msg *msg, struct cs_err *err)
{
    const struct cs_json *id = cs_json_get(msg->root, "id");
    const struct cs_json *method = cs_json_get(msg->root, "method");
    const char *version = cs_json_get_string(msg->root, "jsonrpc");
    bool answer =
        cs_json_get(msg->root, "result") != NULL || cs_json_get(msg->root, "error") != NULL;
    enum cs_status rc;

    if (cs_json_type(msg->root) != CS_JSON_OBJECT)
        return invalid("A message is one JSON object; batches are not taken", err);
    rc = id != NULL ? cs_msg_id(id, msg->id) : CS_OK;
    if (rc == CS_NO_MEM)
        return cs_err_nomem(err);
    if (rc != CS_OK && (!answer || cs_json_type(id) != CS_JSON_NULL))
        return invalid("The id must be a string or an integer, and short", err);
    if (version == NULL || strcmp(version, "2.0") != 0)
        return invalid("jsonrpc must be \"2.0\"", err);
    msg->method = cs_json_string(method, NULL);
    msg->params = cs_json_get(msg->root, "params");
    if (method == NULL && answer) {
        msg->kind = CS_RPC_RESPONSE;
        return CS_OK;
    }
    if (msg->method == NULL || answer)
        return invalid("A message has a method, or is a response", err);
    if (msg->params != NULL && cs_json_type(msg->params) != CS_JSON_OBJECT)
        return invalid("params must be an object", err);
    msg->kind = id != NULL ? CS_RPC_REQUEST : CS_RPC_NOTIFICATION;
    return CS_OK;
}

enum cs_status cs_msg_parse(const char *text, size_t len, size_t max, struct cs_msg *out_msg,
                            int *out_code, struct cs_err *err)
{
    enum cs_status rc;

    memset(out_msg, 0, sizeof *out_msg);
    rc = cs_json_parse(text, len, max, &out_msg->root, err);
    *out_code = rc == CS_NO_MEM ? CS_RPC_INTERNAL : CS_RPC_PARSE;
    if (rc != CS_OK)
        return rc;
    rc = classify(out_msg, err);
    *out_code = rc == CS_NO_MEM ? CS_RPC_INTERNAL : CS_RPC_INVALID_REQUEST;
    return rc;
}

void cs_msg_fini(struct cs_msg *msg)
{
    cs_json_free(msg->root);
    msg->root = NULL;
}

void cs_msg_begin(struct cs_buf *out, struct cs_jsonw *w, const char *method, const char *id)
{
    cs_jsonw_init(w, out);
    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "jsonrpc", "2.0");
    if (id[0] != '\0')
        cs_jsonw_raw(w, "id", id, strlen(id));
    cs_jsonw_string(w, "method", method);
    cs_jsonw_object(w, "params");
}

void cs_msg_end(struct cs_jsonw *w)
{
    cs_jsonw_end_object(w);
    cs_jsonw_end_object(w);
}

void cs_msg_error(struct cs_buf *out, const char *id, int code, const char *message,
                  const char *data)
{
    struct cs_jsonw w;

    cs_jsonw_init(&w, out);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "jsonrpc", "2.0");
    if (id[0] != '\0')
        cs_jsonw_raw(&w, "id", id, strlen(id));
    else
        cs_jsonw_null(&w, "id");
    cs_jsonw_object(&w, "error");
    cs_jsonw_int(&w, "code", code);
    cs_jsonw_string(&w, "message", message);
    if (data != NULL)
        cs_jsonw_raw(&w, "data", data, strlen(data));
    cs_jsonw_end_object(&w);
    cs_jsonw_end_object(&w);
}
