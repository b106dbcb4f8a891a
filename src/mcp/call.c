/* mcp/call: what a handler can read, say and ask while its call is under way. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/thread.h"
#include "priv.h"

static const char *const severities[] = {"debug", "info",     "notice", "warning",
                                         "error", "critical", "alert",  "emergency"};

int cs_log_severity(const char *level)
{
    size_t i;

    for (i = 0; level != NULL && i < sizeof severities / sizeof *severities; i++)
        if (strcmp(severities[i], level) == 0)
            return (int)i;
    return -1;
}

/* ---- reading ---- */

struct cs_core *cs_mcp_core(const struct cs_mcp_call *call)
{
    return call->mcp->core;
}

struct cs_mcp *cs_mcp_server(const struct cs_mcp_call *call)
{
    return call->mcp;
}

const char *cs_mcp_name(const struct cs_mcp_call *call)
{
    return call->name;
}

const struct cs_json *cs_mcp_params(const struct cs_mcp_call *call)
{
    return call->params;
}

const struct cs_json *cs_mcp_args(const struct cs_mcp_call *call)
{
    return cs_json_get(call->params, "arguments");
}

const char *cs_mcp_arg(const struct cs_mcp_call *call, const char *name)
{
    return cs_json_get_string(cs_mcp_args(call), name);
}

bool cs_mcp_can(const struct cs_mcp_call *call, const char *name)
{
    static const struct {
        const char *name;
        unsigned bit;
    } bits[] = {
        {"elicitation", CS_CAN_ELICIT},
        {"sampling", CS_CAN_SAMPLE},
        {"roots", CS_CAN_ROOTS},
        {CS_TASKS_EXTENSION, CS_CAN_TASKS},
    };
    size_t i;

    for (i = 0; i < sizeof bits / sizeof *bits; i++)
        if (strcmp(bits[i].name, name) == 0)
            return (call->can & bits[i].bit) != 0;
    return false;
}

bool cs_mcp_stateless(const struct cs_mcp_call *call)
{
    return call->revision == CS_REVISION_2026_07_28;
}

bool cs_mcp_cancelled(struct cs_mcp_call *call)
{
    bool cancelled;

    pthread_mutex_lock(&call->mcp->mutex);
    cancelled = call->cancelled;
    pthread_mutex_unlock(&call->mcp->mutex);
    return cancelled;
}

/* ---- answering ---- */

struct cs_jsonw *cs_mcp_result(struct cs_mcp_call *call)
{
    return &call->w;
}

void cs_mcp_result_type(struct cs_mcp_call *call, const char *type)
{
    cs_jsonw_string(&call->w, "resultType", type);
    call->typed = true;
}

void cs_text_write(struct cs_jsonw *w, const char *text, size_t len)
{
    cs_jsonw_array(w, "content");
    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "type", "text");
    cs_jsonw_stringn(w, "text", text, len);
    cs_jsonw_end_object(w);
    cs_jsonw_end_array(w);
}

void cs_mcp_text(struct cs_mcp_call *call, const char *text, size_t len)
{
    cs_text_write(&call->w, text, len);
}

enum cs_status cs_mcp_refuse(struct cs_mcp_call *call, int code, const char *data,
                             struct cs_err *err, const char *fmt, ...)
{
    char sentence[sizeof err->msg];
    va_list args;

    va_start(args, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, args);
    va_end(args);
    call->code = code;
    cs_buf_reset(&call->data);
    if (data != NULL)
        cs_buf_adds(&call->data, data);
    return cs_err_set(err, CS_INVALID, "refused", "%s", sentence);
}

enum cs_status cs_mcp_refuse_capability(struct cs_mcp_call *call, const char *capability,
                                        struct cs_err *err)
{
    bool extension = strchr(capability, '/') != NULL;
    char data[160];

    snprintf(data, sizeof data, "{\"requiredCapabilities\":{%s\"%s\":{}%s}}",
             extension ? "\"extensions\":{" : "", capability, extension ? "}" : "");
    call->status = cs_mcp_stateless(call) ? 400 : 0;
    return cs_mcp_refuse(call, CS_RPC_NO_CAPABILITY, data, err,
                         "This needs a client with the capability %s", capability);
}

/* ---- cursors ---- */

#define CURSOR_MAX 24 /* with its NUL */

enum cs_status cs_cursor_read(struct cs_mcp_call *call, const char *text, int64_t *out_id,
                              struct cs_err *err)
{
    if (text == NULL)
        return CS_OK;
    if (text[0] != '\0' && strlen(text) <= 16 && text[strspn(text, "0123456789abcdef")] == '\0') {
        *out_id = strtoll(text, NULL, 16);
        if (*out_id > 0)
            return CS_OK;
    }
    return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err,
                         "The cursor is not one that was handed out");
}

void cs_cursor_write(struct cs_jsonw *w, int64_t id)
{
    char text[CURSOR_MAX];

    snprintf(text, sizeof text, "%llx", (unsigned long long)id);
    if (id != 0)
        cs_jsonw_string(w, "nextCursor", text);
}

/* ---- on the way ---- */

void cs_call_send(struct cs_mcp_call *call, const char *event, const struct cs_buf *message)
{
    if (call->stream->send == NULL || call->silent || message->status != CS_OK)
        return;
    if (!call->stream->send(call->stream->arg, event, message->data, message->len))
        call->silent = true;
}

bool cs_call_beat(struct cs_mcp_call *call)
{
    if (!call->silent && call->stream->beat != NULL && !call->stream->beat(call->stream->arg))
        call->silent = true;
    if (!cs_mcp_cancelled(call))
        return !call->silent;
    call->silent = true;
    return false;
}

void cs_mcp_progress(struct cs_mcp_call *call, int64_t progress, int64_t total, const char *message)
{
    struct cs_buf out;
    struct cs_jsonw w;

    if (call->token[0] == '\0' || call->stream->send == NULL || progress <= call->progress ||
        cs_mcp_cancelled(call))
        return;
    call->progress = progress;
    cs_buf_init(&out, CS_MCP_MESSAGE_MAX);
    cs_msg_begin(&out, &w, "notifications/progress", "");
    cs_jsonw_raw(&w, "progressToken", call->token, strlen(call->token));
    cs_jsonw_int(&w, "progress", progress);
    if (total > 0)
        cs_jsonw_int(&w, "total", total);
    if (message != NULL)
        cs_jsonw_string(&w, "message", message);
    cs_msg_end(&w);
    cs_call_send(call, NULL, &out);
    cs_buf_fini(&out);
}

void cs_mcp_log(struct cs_mcp_call *call, const char *level, const char *text)
{
    struct cs_buf out;
    struct cs_jsonw w;

    if (cs_log_severity(level) < call->log_level || call->stream->send == NULL ||
        cs_mcp_cancelled(call))
        return;
    cs_buf_init(&out, CS_MCP_MESSAGE_MAX);
    cs_msg_begin(&out, &w, "notifications/message", "");
    cs_jsonw_string(&w, "level", level);
    cs_jsonw_string(&w, "logger", call->mcp->table->name);
    cs_jsonw_string(&w, "data", text);
    cs_msg_end(&w);
    cs_call_send(call, NULL, &out);
    cs_buf_fini(&out);
}

bool cs_mcp_pause(struct cs_mcp_call *call, int64_t ms)
{
    struct cs_mcp *mcp = call->mcp;
    int64_t deadline = cs_mono_ms() + ms;
    bool full;

    pthread_mutex_lock(&mcp->mutex);
    while (!call->cancelled && cs_cond_wait(&mcp->changed, &mcp->mutex, deadline))
        continue;
    full = !call->cancelled;
    pthread_mutex_unlock(&mcp->mutex);
    return full;
}

/* ---- asking the client ---- */

static struct cs_question *take_place(struct cs_mcp_call *call)
{
    struct cs_question *found = NULL;
    size_t i;

    pthread_mutex_lock(&call->mcp->mutex);
    for (i = 0; i < CS_QUESTIONS_MAX && found == NULL; i++)
        if (call->questions[i].number == 0)
            found = &call->questions[i];
    if (found != NULL)
        found->number = ++call->mcp->asked;
    pthread_mutex_unlock(&call->mcp->mutex);
    return found;
}

struct cs_question *cs_call_ask(struct cs_mcp_call *call, const char *method, const char *params)
{
    struct cs_question *question = NULL;
    struct cs_buf out;

    if (call->session != NULL && call->stream->send != NULL)
        question = take_place(call);
    if (question == NULL)
        return NULL;
    cs_buf_init(&out, CS_MCP_MESSAGE_MAX);
    cs_buf_addf(&out, "{\"jsonrpc\":\"2.0\",\"id\":%lld,\"method\":\"%s\",\"params\":",
                (long long)question->number, method);
    cs_buf_adds(&out, params);
    cs_buf_adds(&out, "}");
    cs_call_send(call, NULL, &out);
    cs_buf_fini(&out);
    return question;
}

struct cs_json *cs_call_asked(struct cs_mcp_call *call, struct cs_question *question)
{
    struct cs_json *reply;

    pthread_mutex_lock(&call->mcp->mutex);
    reply = question->reply;
    *question = (struct cs_question){0};
    pthread_mutex_unlock(&call->mcp->mutex);
    return reply;
}

/* Wait for the reply, with a look now and then whether the client is still there. */
static void await_reply(struct cs_mcp_call *call, const struct cs_question *question,
                        int64_t deadline)
{
    struct cs_mcp *mcp = call->mcp;
    bool answered = false;

    while (!answered && cs_mono_ms() < deadline && cs_call_beat(call)) {
        int64_t look = cs_mono_ms() + CS_MCP_BEAT_MS;

        pthread_mutex_lock(&mcp->mutex);
        while (question->reply == NULL && !call->cancelled &&
               cs_cond_wait(&mcp->changed, &mcp->mutex, look < deadline ? look : deadline))
            continue;
        answered = question->reply != NULL;
        pthread_mutex_unlock(&mcp->mutex);
    }
}

enum cs_status cs_mcp_ask(struct cs_mcp_call *call, const char *method, const char *params,
                          int64_t deadline, struct cs_json **out_reply, struct cs_err *err)
{
    struct cs_question *question = cs_call_ask(call, method, params);
    struct cs_json *reply;

    if (question == NULL)
        return cs_err_set(err, CS_UNAVAILABLE, "cannot_ask", "The client cannot be asked");
    await_reply(call, question, deadline);
    reply = cs_call_asked(call, question);
    if (reply == NULL)
        return call->silent ? cs_err_set(err, CS_CANCELLED, NULL, "The call was cancelled")
                            : cs_err_set(err, CS_TIMEOUT, "no_answer", "The client did not answer");
    if (cs_json_type(cs_json_get(reply, "result")) != CS_JSON_OBJECT) {
        cs_json_free(reply);
        return cs_err_set(err, CS_UPSTREAM, "refused_by_client",
                          "The client answered with an error");
    }
    *out_reply = reply;
    return CS_OK;
}

/* ---- sealed text ---- */

#define SEAL_HEX ((size_t)2 * CS_SHA256_LEN)

static enum cs_status sign(struct cs_mcp *mcp, const char *text, size_t len, char out[SEAL_HEX + 1],
                           struct cs_err *err)
{
    unsigned char mac[CS_SHA256_LEN];
    enum cs_status rc = cs_hmac_sha256(mcp->key, sizeof mcp->key, text, len, mac, err);

    if (rc == CS_OK)
        cs_hex(mac, sizeof mac, out);
    return rc;
}

enum cs_status cs_mcp_seal(struct cs_mcp *mcp, const char *text, struct cs_buf *out,
                           struct cs_err *err)
{
    char mac[SEAL_HEX + 1];
    enum cs_status rc = sign(mcp, text, strlen(text), mac, err);

    if (rc != CS_OK)
        return rc;
    cs_buf_adds(out, text);
    cs_buf_addc(out, '.');
    cs_buf_adds(out, mac);
    return cs_buf_check(out, err);
}

bool cs_mcp_unseal(struct cs_mcp *mcp, const char *sealed, char *out, size_t cap)
{
    const char *dot = sealed != NULL ? strrchr(sealed, '.') : NULL;
    size_t len = dot != NULL ? (size_t)(dot - sealed) : 0;
    char mac[SEAL_HEX + 1];

    if (dot == NULL || len >= cap || strlen(dot + 1) != SEAL_HEX ||
        sign(mcp, sealed, len, mac, NULL) != CS_OK || !cs_equal_secret(dot + 1, mac, SEAL_HEX))
        return false;
    memcpy(out, sealed, len);
    out[len] = '\0';
    return true;
}
