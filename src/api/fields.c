/* api/fields: the members of a turn's request body. */
#include <string.h>

#include "fields.h"

enum kind { TEXT, NUMBER };

/* Members that are taken as they are; core checks their values. */
static const struct {
    const char *name, *code;
    enum kind kind;
    bool create_only;
    size_t offset; /* in struct cs_turn_request */
} fields[] = {
    {"model", "invalid_model", TEXT, false, offsetof(struct cs_turn_request, model)},
    {"sandbox", "invalid_sandbox", TEXT, false, offsetof(struct cs_turn_request, sandbox)},
    {"approvalPolicy", "invalid_approval_policy", TEXT, false,
     offsetof(struct cs_turn_request, approval)},
    {"userId", "invalid_user", TEXT, false, offsetof(struct cs_turn_request, user)},
    {"timeoutMs", "invalid_timeout", NUMBER, false, offsetof(struct cs_turn_request, timeout_ms)},
    {"engine", "invalid_engine", TEXT, true, offsetof(struct cs_turn_request, engine)},
    {"cwd", "invalid_cwd", TEXT, true, offsetof(struct cs_turn_request, cwd)},
    {"title", "invalid_title", TEXT, true, offsetof(struct cs_turn_request, title)},
    {"ttlSeconds", "invalid_ttl", NUMBER, true, offsetof(struct cs_turn_request, ttl_seconds)},
};

/* Member @name, with null as good as absent. */
static const struct cs_json *member(const struct cs_json *body, const char *name)
{
    const struct cs_json *value = cs_json_get(body, name);

    return cs_json_type(value) == CS_JSON_NULL ? NULL : value;
}

static enum cs_status text_member(const struct cs_json *body, const char *name, const char *code,
                                  const char **out_text, size_t *out_len, struct cs_err *err)
{
    const struct cs_json *value = member(body, name);
    const char *text = cs_json_string(value, out_len);

    if (value != NULL && text == NULL)
        return cs_err_set(err, CS_INVALID, code, "%s must be a string", name);
    *out_text = text;
    return CS_OK;
}

static enum cs_status number_member(const struct cs_json *body, const char *name, const char *code,
                                    int64_t *inout_value, struct cs_err *err)
{
    const struct cs_json *value = member(body, name);
    int64_t number;

    if (value == NULL)
        return CS_OK;
    number = cs_json_int(value, -1);
    if (cs_json_type(value) != CS_JSON_INT || number < 0)
        return cs_err_set(err, CS_INVALID, code, "%s must be a whole number, not negative", name);
    *inout_value = number;
    return CS_OK;
}

static enum cs_status read_plain(const struct cs_json *body, struct cs_turn_request *out,
                                 struct cs_err *err)
{
    enum cs_status rc = CS_OK;
    size_t i;

    for (i = 0; rc == CS_OK && i < sizeof fields / sizeof *fields; i++) {
        void *slot = (char *)out + fields[i].offset;

        if (fields[i].create_only && out->continued)
            continue;
        if (fields[i].kind == TEXT)
            rc = text_member(body, fields[i].name, fields[i].code, slot, NULL, err);
        else
            rc = number_member(body, fields[i].name, fields[i].code, slot, err);
    }
    return rc;
}

/* ---- context ---- */

static enum cs_status bad_context(struct cs_err *err)
{
    return cs_err_set(
        err, CS_INVALID, "invalid_context",
        "context must be a string, or an array of strings or of objects with a string "
        "`content` or `text`");
}

/* One entry: a string, or an object that has one. NULL otherwise. */
static const char *context_entry(const struct cs_json *entry, size_t *out_len)
{
    const char *text = cs_json_string(entry, out_len);

    if (text == NULL)
        text = cs_json_string(cs_json_get(entry, "content"), out_len);
    if (text == NULL)
        text = cs_json_string(cs_json_get(entry, "text"), out_len);
    return text;
}

static enum cs_status join_context(const struct cs_json *list, struct cs_buf *out,
                                   struct cs_err *err)
{
    size_t i, len = 0;

    for (i = 0; i < cs_json_size(list); i++) {
        const char *text = context_entry(cs_json_at(list, i), &len);

        if (text == NULL)
            return bad_context(err);
        if (out->len > 0 && len > 0)
            cs_buf_adds(out, "\n\n");
        cs_buf_add(out, text, len);
    }
    return cs_buf_check(out, err);
}

static enum cs_status read_context(const struct cs_json *body, struct cs_turn_request *out,
                                   struct cs_buf *joined, struct cs_err *err)
{
    const struct cs_json *value = member(body, "context");
    enum cs_status rc = CS_OK;

    out->context = cs_json_string(value, &out->context_len);
    if (value == NULL || out->context != NULL)
        return CS_OK;
    if (cs_json_type(value) != CS_JSON_ARRAY)
        return bad_context(err);
    rc = join_context(value, joined, err);
    if (rc == CS_OK && joined->len > 0) {
        out->context = joined->data;
        out->context_len = joined->len;
    }
    return rc;
}

/* ---- which session ---- */

static enum cs_status read_identifier(const struct cs_json *body, struct cs_turn_request *out,
                                      struct cs_err *err)
{
    const char *conversation = NULL, *session = NULL;
    enum cs_status rc =
        text_member(body, "conversationId", "invalid_conversation_id", &conversation, NULL, err);

    if (rc == CS_OK)
        rc = text_member(body, "sessionId", "invalid_session_id", &session, NULL, err);
    out->by_conversation = conversation != NULL && conversation[0] != '\0';
    out->identifier = out->by_conversation ? conversation : session;
    return rc;
}

enum cs_status cs_fields_read(const struct cs_json *body, bool continued,
                              struct cs_turn_request *out, struct cs_buf *joined,
                              struct cs_err *err)
{
    enum cs_status rc;

    memset(out, 0, sizeof *out);
    out->continued = continued;
    out->ttl_seconds = -1;
    rc = text_member(body, "prompt", "invalid_prompt", &out->prompt, &out->prompt_len, err);
    if (rc == CS_OK && continued)
        rc = read_identifier(body, out, err);
    if (rc == CS_OK && !continued)
        rc = read_context(body, out, joined, err);
    return rc == CS_OK ? read_plain(body, out, err) : rc;
}

enum cs_status cs_decision_read(const struct cs_json *body, bool *out_approve, struct cs_err *err)
{
    const char *decision = cs_json_get_string(body, "decision");

    if (decision == NULL || (strcmp(decision, "approve") != 0 && strcmp(decision, "decline") != 0))
        return cs_err_set(err, CS_INVALID, "invalid_decision",
                          "decision must be approve or decline");
    *out_approve = decision[0] == 'a';
    return CS_OK;
}
