/* main/bridge_line: what a line of the client is, as far as its way over HTTP depends on it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bridge.h"
#include "cs/base/file.h"
#include "cs/base/hash.h"

#define REVISION_KEY "io.modelcontextprotocol/protocolVersion"
#define HEAD_MAX     65536
#define ID_MAX       1024

void cs_line_fini(struct cs_line *line)
{
    free(line->text);
    free(line->id);
    free(line->cancels);
    free(line->subject);
    free(line->uri);
    cs_buf_fini(&line->head);
    *line = (struct cs_line){0};
}

/* The id as JSON: a string or a whole number; NULL otherwise, and when out of memory. */
static char *dump_id(const struct cs_json *id)
{
    enum cs_json_type type = cs_json_type(id);
    struct cs_buf text;
    char *taken;

    if (type != CS_JSON_STRING && type != CS_JSON_INT)
        return NULL;
    cs_buf_init(&text, ID_MAX);
    cs_json_dump(id, &text);
    taken = cs_buf_take(&text, NULL);
    cs_buf_fini(&text);
    return taken;
}

static char *copy(const char *text)
{
    return text != NULL ? strdup(text) : NULL;
}

/* ---- the headers of a stateless request ---- */

static bool is_plain(const char *value)
{
    size_t len = strlen(value), i;

    if (len == 0 || value[0] == ' ' || value[len - 1] == ' ')
        return false;
    if (strncmp(value, "=?base64?", 9) == 0)
        return false;
    for (i = 0; i < len; i++)
        if (value[i] < 0x20 || value[i] > 0x7e)
            return false;
    return true;
}

static void add_header(struct cs_buf *head, const char *name, const char *value)
{
    if (value == NULL)
        return;
    cs_buf_addf(head, "%s: ", name);
    if (is_plain(value)) {
        cs_buf_adds(head, value);
    } else {
        cs_buf_adds(head, "=?base64?");
        cs_base64(head, value, strlen(value));
        cs_buf_adds(head, "?=");
    }
    cs_buf_adds(head, "\r\n");
}

/* The member of params that Mcp-Name repeats. */
static const char *name_of(const struct cs_json *params, const char *method)
{
    static const struct {
        const char *method, *member;
    } names[] = {
        {"tools/call", "name"},  {"prompts/get", "name"},    {"resources/read", "uri"},
        {"tasks/get", "taskId"}, {"tasks/update", "taskId"}, {"tasks/cancel", "taskId"},
    };
    size_t i;

    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i].method, method) == 0)
            return cs_json_get_string(params, names[i].member);
    return NULL;
}

static void add_stateless(struct cs_line *line, const struct cs_json *params, const char *method)
{
    const char *revision = cs_json_get_string(cs_json_get(params, "_meta"), REVISION_KEY);
    int len;

    if (revision == NULL)
        return;
    len = snprintf(line->revision, sizeof line->revision, "%s", revision);
    if (len <= 0 || (size_t)len >= sizeof line->revision)
        memcpy(line->revision, "?", 2); /* the daemon will refuse it */
    add_header(&line->head, "MCP-Protocol-Version", line->revision);
    add_header(&line->head, "Mcp-Method", method);
    add_header(&line->head, "Mcp-Name", name_of(params, method));
}

/* ---- the working folder ---- */

struct copying {
    struct cs_jsonw *w;
    const char *but; /* the member that is left out */
};

static bool copy_member(const char *key, const struct cs_json *value, void *arg)
{
    const struct copying *copying = arg;
    struct cs_buf text;

    if (strcmp(key, copying->but) == 0)
        return true;
    cs_buf_init(&text, copying->w->out->max);
    cs_json_dump(value, &text);
    if (text.status == CS_OK)
        cs_jsonw_raw(copying->w, key, text.data, text.len);
    else
        copying->w->out->status = text.status;
    cs_buf_fini(&text);
    return copying->w->out->status == CS_OK;
}

/* Begin an object with the members of @object but one. */
static void copy_but(struct cs_jsonw *w, const char *key, const struct cs_json *object,
                     const char *but)
{
    struct copying copying = {w, but};

    cs_jsonw_object(w, key);
    (void)cs_json_each(object, copy_member, &copying);
}

static bool needs_folder(const struct cs_json *params, const char *method)
{
    const char *tool = cs_json_get_string(params, "name");
    const struct cs_json *arguments = cs_json_get(params, "arguments");
    const struct cs_json *folder = cs_json_get(arguments, "cwd");
    const char *path = cs_json_string(folder, NULL);

    return strcmp(method, "tools/call") == 0 && tool != NULL && strcmp(tool, "codex") == 0 &&
           cs_json_type(arguments) == CS_JSON_OBJECT &&
           (folder == NULL || (path != NULL && path[0] != '/'));
}

/* Codex works where the client runs us, as a server of its own would: the daemon is elsewhere. */
static enum cs_status add_folder(struct cs_line *line, const struct cs_json *message,
                                 const char *folder, struct cs_err *err)
{
    const struct cs_json *params = cs_json_get(message, "params");
    const struct cs_json *arguments = cs_json_get(params, "arguments");
    const char *below = cs_json_get_string(arguments, "cwd");
    char *path = below != NULL ? cs_path_join(folder, below) : strdup(folder);
    struct cs_buf text;
    struct cs_jsonw w;
    enum cs_status rc;

    if (path == NULL)
        return cs_err_nomem(err);
    cs_buf_init(&text, 8 * line->len + 65536); /* escapes may be longer than they came */
    cs_jsonw_init(&w, &text);
    copy_but(&w, NULL, message, "params");
    copy_but(&w, "params", params, "arguments");
    copy_but(&w, "arguments", arguments, "cwd");
    cs_jsonw_string(&w, "cwd", path);
    cs_jsonw_end_object(&w);
    cs_jsonw_end_object(&w);
    cs_jsonw_end_object(&w);
    free(path);
    rc = cs_buf_check(&text, err);
    if (rc == CS_OK)
        line->text = cs_buf_take(&text, &line->len);
    cs_buf_fini(&text);
    return rc;
}

/* ---- the line ---- */

static const char *subject_of(const struct cs_json *params)
{
    static const char *const names[] = {"threadId", "conversationId", "sessionId"};
    const struct cs_json *arguments = cs_json_get(params, "arguments");
    const char *found = NULL;
    size_t i;

    for (i = 0; i < sizeof names / sizeof names[0] && found == NULL; i++)
        found = cs_json_get_string(arguments, names[i]);
    return found;
}

static enum cs_status invalid(const char *sentence, struct cs_err *err)
{
    return cs_err_set(err, CS_INVALID, "invalid_request", "%s", sentence);
}

static enum cs_status read_method(struct cs_line *line, const struct cs_json *message,
                                  const char *method, struct cs_err *err)
{
    const struct cs_json *params = cs_json_get(message, "params");
    const struct cs_json *id = cs_json_get(message, "id");

    snprintf(line->method, sizeof line->method, "%s", method);
    line->kind = id != NULL ? CS_LINE_REQUEST : CS_LINE_NOTE;
    if (id != NULL && (line->id = dump_id(id)) == NULL)
        return invalid("The id of a request is a string or a whole number", err);
    if (strcmp(method, "notifications/cancelled") == 0)
        line->cancels = dump_id(cs_json_get(params, "requestId"));
    if (strcmp(method, "tools/call") == 0)
        line->subject = copy(subject_of(params));
    line->uri = copy(cs_json_get_string(params, "uri"));
    add_stateless(line, params, method);
    return cs_buf_check(&line->head, err);
}

static enum cs_status read_message(struct cs_line *line, const struct cs_json *message,
                                   struct cs_err *err)
{
    const char *method = cs_json_get_string(message, "method");

    if (cs_json_type(message) == CS_JSON_ARRAY)
        return invalid("MCP has no batches: send one message a line", err);
    if (method != NULL)
        return read_method(line, message, method, err);
    line->kind = CS_LINE_RESPONSE;
    if (cs_json_get(message, "id") != NULL &&
        (cs_json_get(message, "result") != NULL || cs_json_get(message, "error") != NULL))
        return CS_OK;
    return invalid("This is not a JSON-RPC message", err);
}

enum cs_status cs_line_read(const char *text, size_t len, const char *folder,
                            struct cs_line *out_line, int *out_code, struct cs_err *err)
{
    struct cs_line line = {.len = len};
    struct cs_json *message = NULL;
    enum cs_status rc = cs_json_parse(text, len, len, &message, err);

    *out_code = rc == CS_OK ? CS_RPC_INVALID : CS_RPC_PARSE;
    if (rc != CS_OK)
        return rc;
    cs_buf_init(&line.head, HEAD_MAX);
    rc = read_message(&line, message, err);
    if (rc == CS_OK && folder != NULL && needs_folder(cs_json_get(message, "params"), line.method))
        rc = add_folder(&line, message, folder, err);
    cs_json_free(message);
    if (rc == CS_OK && line.text == NULL)
        line.text = strndup(text, len);
    if (rc != CS_OK || line.text == NULL) {
        cs_line_fini(&line);
        return rc != CS_OK ? rc : cs_err_nomem(err);
    }
    *out_line = line;
    return CS_OK;
}

void cs_line_error(struct cs_buf *out, const char *id, int code, const char *message,
                   const char *subject)
{
    struct cs_jsonw w;

    if (id == NULL)
        id = "null";
    cs_jsonw_init(&w, out);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "jsonrpc", "2.0");
    cs_jsonw_raw(&w, "id", id, strlen(id));
    cs_jsonw_object(&w, "error");
    cs_jsonw_int(&w, "code", code);
    cs_jsonw_string(&w, "message", message);
    if (subject != NULL) {
        cs_jsonw_object(&w, "data");
        cs_jsonw_string(&w, "threadId", subject);
        cs_jsonw_end_object(&w);
    }
    cs_jsonw_end_object(&w);
    cs_jsonw_end_object(&w);
    cs_buf_addc(out, '\n');
}
