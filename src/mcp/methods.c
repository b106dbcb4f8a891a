/* mcp/methods: what can be asked of every server: who it is, and what its table offers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "priv.h"
#include "turn.h"

static const struct cs_method methods[] = {
    {"initialize", cs_mcp_initialize, CS_METHOD_SESSION, NULL, NULL},
    {"ping", cs_mcp_ping, CS_METHOD_SESSION, NULL, NULL},
    {"logging/setLevel", cs_mcp_set_level, CS_METHOD_SESSION, NULL, NULL},
    {"server/discover", cs_mcp_discover, CS_METHOD_STATELESS | CS_METHOD_CACHED, NULL, NULL},
    {"subscriptions/listen", cs_mcp_subscriptions, CS_METHOD_STATELESS, NULL, NULL},
    {"tasks/get", cs_mcp_tasks_get, CS_METHOD_BOTH | CS_METHOD_TASKS, NULL, "taskId"},
    {"tasks/result", cs_mcp_tasks_result, CS_METHOD_SESSION | CS_METHOD_TASKS, NULL, "taskId"},
    {"tasks/update", cs_mcp_tasks_update, CS_METHOD_STATELESS | CS_METHOD_TASKS, NULL, "taskId"},
    {"tasks/cancel", cs_mcp_tasks_cancel, CS_METHOD_BOTH | CS_METHOD_TASKS, NULL, "taskId"},
    {"tasks/list", cs_mcp_tasks_list, CS_METHOD_SESSION | CS_METHOD_TASKS, NULL, NULL},
    {"tools/list", cs_mcp_tools_list, CS_METHOD_BOTH | CS_METHOD_CACHED, "tools", NULL},
    {"tools/call", cs_mcp_tools_call, CS_METHOD_BOTH, "tools", "name"},
    {"resources/list", cs_mcp_resources_list, CS_METHOD_BOTH | CS_METHOD_CACHED, "resources", NULL},
    {"resources/templates/list", cs_mcp_templates_list, CS_METHOD_BOTH | CS_METHOD_CACHED,
     "resources", NULL},
    {"resources/read", cs_mcp_resources_read, CS_METHOD_BOTH | CS_METHOD_CACHED, "resources",
     "uri"},
    {"resources/subscribe", cs_mcp_subscribe, CS_METHOD_SESSION, "resources", "uri"},
    {"resources/unsubscribe", cs_mcp_unsubscribe, CS_METHOD_SESSION, "resources", "uri"},
    {"prompts/list", cs_mcp_prompts_list, CS_METHOD_BOTH | CS_METHOD_CACHED, "prompts", NULL},
    {"prompts/get", cs_mcp_prompts_get, CS_METHOD_BOTH, "prompts", "name"},
    {"completion/complete", cs_mcp_complete, CS_METHOD_BOTH, "completions", NULL},
};

const struct cs_method *cs_method_find(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof methods / sizeof *methods; i++)
        if (strcmp(methods[i].name, name) == 0)
            return &methods[i];
    return NULL;
}

bool cs_method_offered(const struct cs_mcp_call *call, const struct cs_method *method)
{
    if ((method->flags & CS_METHOD_TASKS) != 0)
        return call->mcp->tasks && call->revision != CS_REVISION_2025_06_18;
    return method->capability == NULL ||
           cs_json_get(call->mcp->capabilities, method->capability) != NULL;
}

/* ---- who we are ---- */

static void write_implementation(struct cs_mcp_call *call, const char *key)
{
    struct cs_jsonw *w = &call->w;

    cs_jsonw_object(w, key);
    cs_jsonw_string(w, "name", call->mcp->table->name);
    cs_jsonw_string(w, "title", call->mcp->table->title);
    cs_jsonw_string(w, "version", call->mcp->version);
    cs_jsonw_end_object(w);
}

void cs_mcp_self(struct cs_mcp_call *call)
{
    write_implementation(call, "io.modelcontextprotocol/serverInfo");
}

static bool write_capability(const char *key, const struct cs_json *value, void *arg)
{
    struct cs_mcp_call *call = arg;
    struct cs_buf text;

    cs_buf_init(&text, 65536);
    cs_json_dump(value, &text);
    cs_jsonw_raw(&call->w, key, text.data != NULL ? text.data : "{}",
                 text.data != NULL ? text.len : 2);
    cs_buf_fini(&text);
    return true;
}

static void write_capabilities(struct cs_mcp_call *call)
{
    static const char tasks[] =
        "{\"list\":{},\"cancel\":{},\"requests\":{\"tools\":{\"call\":{}}}}";
    static const char extensions[] = "{\"" CS_TASKS_EXTENSION "\":{}}";

    cs_jsonw_object(&call->w, "capabilities");
    (void)cs_json_each(call->mcp->capabilities, write_capability, call);
    if (!cs_mcp_stateless(call))
        cs_jsonw_raw(&call->w, "logging", "{}", 2);
    if (call->mcp->tasks && call->revision == CS_REVISION_2025_11_25)
        cs_jsonw_raw(&call->w, "tasks", tasks, sizeof tasks - 1);
    if (call->mcp->tasks && cs_mcp_stateless(call))
        cs_jsonw_raw(&call->w, "extensions", extensions, sizeof extensions - 1);
    cs_jsonw_end_object(&call->w);
}

static void write_instructions(struct cs_mcp_call *call)
{
    const char *text = cs_json_get_string(call->mcp->definitions, "instructions");

    if (text != NULL)
        cs_jsonw_string(&call->w, "instructions", text);
}

enum cs_status cs_mcp_initialize(struct cs_mcp_call *call, struct cs_err *err)
{
    const char *asked = cs_json_get_string(call->params, "protocolVersion");
    enum cs_status rc;

    if (asked == NULL ||
        cs_json_type(cs_json_get(call->params, "capabilities")) != CS_JSON_OBJECT ||
        cs_json_type(cs_json_get(call->params, "clientInfo")) != CS_JSON_OBJECT)
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err,
                             "params must have protocolVersion, capabilities and clientInfo");
    /* the newest with sessions is offered in place of one that is not spoken */
    if (!cs_revision_parse(asked, &call->revision) || call->revision == CS_REVISION_2026_07_28)
        call->revision = CS_REVISION_2025_11_25;
    rc = cs_session_begin(call->mcp, call->revision,
                          cs_capabilities_read(cs_json_get(call->params, "capabilities")),
                          call->answer->session, err);
    if (rc != CS_OK)
        return rc;
    cs_jsonw_string(&call->w, "protocolVersion", cs_revision_name(call->revision));
    write_capabilities(call);
    write_implementation(call, "serverInfo");
    write_instructions(call);
    return CS_OK;
}

enum cs_status cs_mcp_discover(struct cs_mcp_call *call, struct cs_err *err)
{
    int i;

    (void)err;
    cs_jsonw_array(&call->w, "supportedVersions");
    for (i = CS_REVISION_2026_07_28; i >= 0; i--)
        cs_jsonw_string(&call->w, NULL, cs_revision_name((enum cs_revision)i));
    cs_jsonw_end_array(&call->w);
    write_capabilities(call);
    write_instructions(call);
    return CS_OK;
}

enum cs_status cs_mcp_ping(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)call;
    (void)err;
    return CS_OK;
}

enum cs_status cs_mcp_set_level(struct cs_mcp_call *call, struct cs_err *err)
{
    int severity = cs_log_severity(cs_json_get_string(call->params, "level"));

    if (severity < 0)
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err, "There is no such level");
    pthread_mutex_lock(&call->mcp->mutex);
    call->session->log_level = severity;
    pthread_mutex_unlock(&call->mcp->mutex);
    return CS_OK;
}

/* ---- definitions ---- */

/* The definition with @key (its name or URI) in the list @list, or NULL. */
static const struct cs_json *definition(const struct cs_mcp *mcp, const char *list, const char *key,
                                        const char *value)
{
    const struct cs_json *all = cs_json_get(mcp->definitions, list);
    size_t i;

    for (i = 0; i < cs_json_size(all); i++) {
        const char *name = cs_json_get_string(cs_json_at(all, i), key);

        if (name != NULL && strcmp(name, value) == 0)
            return cs_json_at(all, i);
    }
    return NULL;
}

static const struct cs_mcp_entry *entry(const struct cs_mcp_entry *entries, const char *name)
{
    while (entries != NULL && entries->name != NULL && strcmp(entries->name, name) != 0)
        entries++;
    return entries != NULL && entries->name != NULL ? entries : NULL;
}

/* Append the elements of list @list, comma-separated. */
static void dump_list(const struct cs_mcp *mcp, const char *list, struct cs_buf *out)
{
    const struct cs_json *all = cs_json_get(mcp->definitions, list);
    size_t i;

    for (i = 0; i < cs_json_size(all); i++) {
        if (i > 0)
            cs_buf_addc(out, ',');
        cs_json_dump(cs_json_at(all, i), out);
    }
}

static void write_list(struct cs_mcp_call *call, const char *list)
{
    cs_jsonw_array(&call->w, list);
    dump_list(call->mcp, list, &call->answer->json);
    cs_jsonw_end_array(&call->w);
}

enum cs_status cs_mcp_prepare(struct cs_mcp *mcp, struct cs_err *err)
{
    static const char task[] = ",\"execution\":{\"taskSupport\":\"optional\"}}";
    const struct cs_json *tools = cs_json_get(mcp->definitions, "tools");
    enum cs_status rc;
    size_t i;

    dump_list(mcp, "tools", &mcp->tools[0]);
    for (i = 0; i < cs_json_size(tools); i++) {
        const char *name = cs_json_get_string(cs_json_at(tools, i), "name");
        const struct cs_mcp_entry *handler = entry(mcp->table->tools, name);
        struct cs_buf *out = &mcp->tools[1];

        if (handler == NULL)
            return cs_err_set(err, CS_INTERNAL, NULL, "tool %s has no function", name);
        if (i > 0)
            cs_buf_addc(out, ',');
        cs_json_dump(cs_json_at(tools, i), out);
        if (!handler->task || out->status != CS_OK)
            continue;
        mcp->tasks = true;
        out->len--; /* its closing brace */
        cs_buf_adds(out, task);
    }
    rc = cs_buf_check(&mcp->tools[0], err);
    return rc == CS_OK ? cs_buf_check(&mcp->tools[1], err) : rc;
}

/* ---- tools ---- */

enum cs_status cs_mcp_tools_list(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct cs_buf *all = &call->mcp->tools[call->revision == CS_REVISION_2025_11_25];

    (void)err;
    cs_jsonw_array(&call->w, "tools");
    if (all->len > 0)
        cs_buf_add(&call->answer->json, all->data, all->len);
    cs_jsonw_end_array(&call->w);
    return CS_OK;
}

/* What the model gets to read of a failure. */
static void tool_failed(struct cs_mcp_call *call, const struct cs_err *why)
{
    const struct cs_mcp_table *table = call->mcp->table;
    const char *advice = table->advise != NULL ? table->advise(why->code) : NULL;
    char text[2 * sizeof why->msg];
    int len = snprintf(text, sizeof text, "%s%s%s", why->msg, advice != NULL ? "\n" : "",
                       advice != NULL ? advice : "");

    cs_result_restart(call);
    cs_mcp_text(call, text, (size_t)len);
    cs_jsonw_bool(&call->w, "isError", true);
}

enum cs_status cs_mcp_tools_call(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct cs_json *tool = definition(call->mcp, "tools", "name", call->name);
    const struct cs_mcp_entry *handler = entry(call->mcp->table->tools, call->name);
    const struct cs_json *args = cs_mcp_args(call);
    struct cs_err why = {0};
    enum cs_status rc;

    if (tool == NULL || handler == NULL)
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err, "Unknown tool: %.64s",
                             call->name);
    if (args != NULL && cs_json_type(args) != CS_JSON_OBJECT)
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err, "arguments must be an object");
    if (cs_task_asked(call) && !handler->task)
        return cs_mcp_refuse(call, CS_RPC_NO_METHOD, NULL, err, "This tool cannot be a task");
    rc = cs_schema_check(cs_json_get(tool, "inputSchema"), args, &why);
    if (rc == CS_OK)
        rc = handler->handler(call, &why);
    if (rc == CS_OK)
        return CS_OK;
    if (call->code != 0)
        return cs_err_set(err, rc, why.code, "%s", why.msg);
    tool_failed(call, &why);
    return CS_OK;
}

/* ---- resources ---- */

enum cs_status cs_mcp_resources_list(struct cs_mcp_call *call, struct cs_err *err)
{
    if (call->mcp->table->list_resources != NULL)
        return call->mcp->table->list_resources(call, err);
    write_list(call, "resources");
    return CS_OK;
}

enum cs_status cs_mcp_templates_list(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)err;
    write_list(call, "resourceTemplates");
    return CS_OK;
}

/* There is no such resource: the code depends on the revision. */
static enum cs_status no_resource(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_buf data;
    struct cs_jsonw w;
    enum cs_status rc;

    cs_buf_init(&data, 8192);
    cs_jsonw_init(&w, &data);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_stringn(&w, "uri", call->name, strnlen(call->name, 1024));
    cs_jsonw_end_object(&w);
    rc = cs_mcp_refuse(call, cs_mcp_stateless(call) ? CS_RPC_INVALID_PARAMS : CS_RPC_NO_RESOURCE,
                       data.status == CS_OK ? data.data : NULL, err, "Resource not found");
    cs_buf_fini(&data);
    return rc;
}

enum cs_status cs_mcp_resources_read(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc = call->mcp->table->read_resource(call, &why);

    if (rc == CS_NOT_FOUND)
        return no_resource(call, err);
    return rc == CS_OK ? rc : cs_err_set(err, rc, why.code, "%s", why.msg);
}

/* The place of @uri in the watched ones, or the free one behind the last. mcp->mutex is held. */
static char **watched(struct cs_mcp_session *session, const char *uri)
{
    size_t i = 0;

    while (i < CS_MCP_WATCHED_MAX && session->watched[i] != NULL &&
           strcmp(session->watched[i], uri) != 0)
        i++;
    return i < CS_MCP_WATCHED_MAX ? &session->watched[i] : NULL;
}

enum cs_status cs_mcp_subscribe(struct cs_mcp_call *call, struct cs_err *err)
{
    char *copy, **place;

    if (strlen(call->name) >= CS_URI_MAX)
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err,
                             "No resource has a URI so long");
    copy = strdup(call->name);
    if (copy == NULL)
        return cs_err_nomem(err);
    pthread_mutex_lock(&call->mcp->mutex);
    place = watched(call->session, call->name);
    if (place != NULL && *place == NULL) {
        *place = copy;
        copy = NULL;
    }
    pthread_mutex_unlock(&call->mcp->mutex);
    free(copy);
    return place != NULL ? CS_OK
                         : cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err,
                                         "A session may watch %d resources", CS_MCP_WATCHED_MAX);
}

enum cs_status cs_mcp_unsubscribe(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_mcp_session *session = call->session;
    char **place, **last;

    (void)err;
    pthread_mutex_lock(&call->mcp->mutex);
    place = watched(session, call->name);
    if (place != NULL && *place != NULL) {
        free(*place);
        for (last = place; last + 1 < session->watched + CS_MCP_WATCHED_MAX && last[1] != NULL;
             last++)
            continue;
        *place = *last;
        *last = NULL;
    }
    pthread_mutex_unlock(&call->mcp->mutex);
    return CS_OK;
}

/* ---- prompts and completions ---- */

enum cs_status cs_mcp_prompts_list(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)err;
    write_list(call, "prompts");
    return CS_OK;
}

/* Arguments of prompts are strings, and those that are required must be there. */
static enum cs_status check_arguments(struct cs_mcp_call *call, const struct cs_json *prompt,
                                      struct cs_err *err)
{
    const struct cs_json *arguments = cs_json_get(prompt, "arguments");
    size_t i;

    for (i = 0; i < cs_json_size(arguments); i++) {
        const char *name = cs_json_get_string(cs_json_at(arguments, i), "name");

        if (cs_json_bool(cs_json_get(cs_json_at(arguments, i), "required"), false) &&
            cs_mcp_arg(call, name) == NULL)
            return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err,
                                 "Argument `%s` is required", name);
    }
    return CS_OK;
}

enum cs_status cs_mcp_prompts_get(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct cs_json *prompt = definition(call->mcp, "prompts", "name", call->name);
    const struct cs_mcp_entry *handler = entry(call->mcp->table->prompts, call->name);
    enum cs_status rc;

    if (prompt == NULL || handler == NULL)
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err, "Unknown prompt: %.64s",
                             call->name);
    rc = check_arguments(call, prompt, err);
    return rc == CS_OK ? handler->handler(call, err) : rc;
}

enum cs_status cs_mcp_complete(struct cs_mcp_call *call, struct cs_err *err)
{
    const char *kind = cs_json_get_string(cs_json_get(call->params, "ref"), "type");
    enum cs_status rc = CS_OK;

    if (kind == NULL || cs_json_get_string(cs_json_get(call->params, "argument"), "name") == NULL)
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err,
                             "params must have ref and argument");
    cs_jsonw_object(&call->w, "completion");
    if (call->mcp->table->complete != NULL)
        rc = call->mcp->table->complete(call, err);
    else
        cs_jsonw_raw(&call->w, "values", "[]", 2);
    cs_jsonw_end_object(&call->w);
    return rc;
}
