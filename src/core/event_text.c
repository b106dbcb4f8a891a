/* core/event_text: how a turn's end reads, in answers and in events, and the other events. */
#include <string.h>

#include "priv.h"

#define ITEM_MAX                                                                                   \
    ((size_t)64 * 1024) /* bytes of an item; of a longer one only its id is passed on */
#define USE_MAX 1024    /* bytes of rendered counts and names */

/* ---- turns ---- */

/* A count of tokens; null where Codex did not tell. */
static void render_tokens(struct cs_jsonw *w, const char *key, int64_t tokens)
{
    if (tokens >= 0)
        cs_jsonw_int(w, key, tokens);
    else
        cs_jsonw_null(w, key);
}

static void render_usage(struct cs_jsonw *w, const struct cs_usage *usage)
{
    cs_jsonw_object(w, "usage");
    render_tokens(w, "inputTokens", usage->input);
    render_tokens(w, "cachedInputTokens", usage->cached_input);
    render_tokens(w, "outputTokens", usage->output);
    cs_jsonw_end_object(w);
}

void cs_turn_render(struct cs_jsonw *w, const struct cs_turn_view *view)
{
    const struct cs_turn_row *row = &view->row;
    const char *evicted = row->evicted != NULL && row->evicted[0] != '\0' ? row->evicted : "[]";

    cs_jsonw_stringn(w, "response", view->response != NULL ? view->response : "",
                     view->response_len);
    cs_jsonw_object(w, "metadata");
    /* exec does not say which model its own default is */
    cs_jsonw_string(w, "model", row->model[0] != '\0' ? row->model : NULL);
    cs_jsonw_string(w, "sandbox", row->sandbox);
    cs_jsonw_time(w, "timestamp", row->ended_at);
    cs_jsonw_string(w, "turnId", row->tid);
    cs_jsonw_string(w, "engine", row->engine);
    cs_jsonw_int(w, "durationMs", row->duration_ms);
    render_usage(w, &row->usage);
    cs_jsonw_raw(w, "evicted", evicted, strlen(evicted));
    if (row->continued)
        cs_jsonw_bool(w, "continued", true);
    if (row->model_fallback)
        cs_jsonw_bool(w, "modelFallback", true);
    if (row->stale)
        cs_jsonw_bool(w, "stale", true);
    cs_jsonw_end_object(w);
}

void cs_stale_render(struct cs_jsonw *w, bool stale)
{
    if (!stale)
        return;
    cs_jsonw_object(w, "metadata");
    cs_jsonw_bool(w, "stale", true);
    cs_jsonw_end_object(w);
}

/* ---- lasting events ---- */

static void render_ids(struct cs_jsonw *w, const char *sid, const char *cid, const char *user,
                       const char *tid)
{
    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "sessionId", sid);
    cs_jsonw_string(w, "conversationId", cid);
    cs_jsonw_string(w, "userId", user);
    cs_jsonw_string(w, "turnId", tid);
}

void cs_event_begin(struct cs_buf *out, const char *sid, const char *cid, const char *user,
                    const char *tid)
{
    struct cs_jsonw w;

    cs_jsonw_init(&w, out);
    render_ids(&w, sid, cid, user, tid);
}

/* Whether message @id is the end of turn @row; else the turn is another host's. */
static bool ends_turn(const struct cs_turn_row *row, int64_t id)
{
    return row->answer_message == id && row->status == CS_TURN_COMPLETED;
}

/* When it was written, on whatever host; the row knows when it came here. */
static void render_time(struct cs_jsonw *w, const struct cs_message_row *row,
                        const struct cs_json *message)
{
    const char *time = cs_json_get_string(message, "timestamp");

    if (time != NULL)
        cs_jsonw_string(w, "timestamp", time);
    else
        cs_jsonw_time(w, "timestamp", row->at);
}

/* An answer of another host: its message is all that there is of the turn. */
static void render_remote(struct cs_jsonw *w, const struct cs_message_row *row,
                          const struct cs_json *message)
{
    size_t len = 0;
    const char *response = cs_json_string(cs_json_get(message, "content"), &len);

    cs_jsonw_stringn(w, "response", response != NULL ? response : "", len);
    cs_jsonw_object(w, "metadata");
    cs_jsonw_string(w, "model", cs_json_get_string(message, "model"));
    render_time(w, row, message);
    cs_jsonw_string(w, "turnId", row->tid);
    cs_jsonw_string(w, "engine", cs_json_get_string(message, "engine"));
    cs_jsonw_end_object(w);
}

/* The turn of this host that message @row belongs to; CS_NOT_FOUND when it is another host's. */
static enum cs_status find_turn(struct cs_db *db, const struct cs_message_row *row,
                                struct cs_turn_row *out_turn, struct cs_err *err)
{
    struct cs_err why = {.status = CS_OK};
    enum cs_status rc = cs_turn_find(db, row->tid, out_turn, &why);

    if (rc != CS_OK && rc != CS_NOT_FOUND)
        return cs_err_set(err, rc, why.code, "%s", why.msg);
    return rc;
}

static enum cs_status render_started(struct cs_jsonw *w, struct cs_db *db,
                                     const struct cs_message_row *row,
                                     const struct cs_json *message, struct cs_err *err)
{
    struct cs_turn_row turn;
    enum cs_status rc = find_turn(db, row, &turn, err);

    cs_jsonw_string(w, "prompt", cs_json_get_string(message, "content"));
    if (rc == CS_NOT_FOUND)
        return CS_OK;
    if (rc != CS_OK)
        return rc;
    cs_stale_render(w, turn.stale);
    cs_turn_row_fini(&turn);
    return CS_OK;
}

static enum cs_status render_completed(struct cs_jsonw *w, struct cs_db *db,
                                       const struct cs_message_row *row,
                                       const struct cs_json *message, struct cs_err *err)
{
    struct cs_turn_view view = {.response = NULL};
    enum cs_status rc = find_turn(db, row, &view.row, err);

    if (rc != CS_OK && rc != CS_NOT_FOUND)
        return rc;
    if (rc == CS_OK && ends_turn(&view.row, row->id)) {
        const struct cs_json *content = cs_json_get(message, "content");

        /* borrowed; the row alone is ours */
        view.response = (char *)(uintptr_t)cs_json_string(content, &view.response_len);
        cs_turn_render(w, &view);
    } else {
        render_remote(w, row, message);
    }
    if (rc == CS_OK)
        cs_turn_row_fini(&view.row);
    return CS_OK;
}

static void render_failed(struct cs_jsonw *w, const struct cs_json *message)
{
    const char *code = cs_json_get_string(message, "code");
    const char *status = cs_json_get_string(message, "status");

    if (status == NULL) /* written by a start after the end of its daemon */
        status = code != NULL && strcmp(code, "turn_interrupted") == 0 ? "interrupted" : "failed";
    cs_jsonw_string(w, "status", status);
    cs_jsonw_string(w, "code", code);
    cs_jsonw_string(w, "error", cs_json_get_string(message, "content"));
}

static enum cs_status render_lasting(struct cs_jsonw *w, struct cs_db *db,
                                     const struct cs_message_row *row,
                                     const struct cs_json *message, struct cs_err *err)
{
    const char *host = cs_json_get_string(message, "host");
    enum cs_status rc = CS_OK;

    render_ids(w, row->sid, row->cid, row->user, row->tid);
    render_time(w, row, message);
    if (host != NULL)
        cs_jsonw_string(w, "host", host);
    switch (row->kind) {
    case CS_MESSAGE_USER:
        rc = render_started(w, db, row, message, err);
        break;
    case CS_MESSAGE_ASSISTANT:
        rc = render_completed(w, db, row, message, err);
        break;
    case CS_MESSAGE_OUTCOME:
        render_failed(w, message);
        break;
    case CS_MESSAGE_CONTEXT:
        break;
    }
    cs_jsonw_end_object(w);
    return rc == CS_OK ? cs_buf_check(w->out, err) : rc;
}

static const char *name_of(enum cs_message_kind kind)
{
    switch (kind) {
    case CS_MESSAGE_USER:
        return "turn.started";
    case CS_MESSAGE_ASSISTANT:
        return "turn.completed";
    case CS_MESSAGE_OUTCOME:
        return "turn.failed";
    case CS_MESSAGE_CONTEXT:
        break;
    }
    return NULL;
}

enum cs_status cs_event_lasting(struct cs_db *db, const struct cs_message_row *row,
                                struct cs_buf *out, const char **out_name, struct cs_err *err)
{
    const char *name = name_of(row->kind);
    struct cs_json *message = NULL;
    struct cs_jsonw w;
    enum cs_status rc;

    if (name == NULL || row->tid[0] == '\0')
        return CS_OK;
    rc = cs_json_parse(row->frag, row->len, row->len, &message, NULL);
    if (rc == CS_NO_MEM)
        return cs_err_nomem(err);
    if (rc != CS_OK)
        return CS_OK; /* another host's message that nobody can read: no reason to stop here */
    if (cs_json_bool(cs_json_get(message, "forked"), false)) { /* that turn ran elsewhere */
        cs_json_free(message);
        return CS_OK;
    }
    cs_buf_reset(out);
    cs_jsonw_init(&w, out);
    rc = render_lasting(&w, db, row, message, err);
    cs_json_free(message);
    if (rc == CS_OK)
        *out_name = name;
    return rc;
}

/* ---- passing events ---- */

static void pass_delta(struct cs_turn *turn, const struct cs_engine_event *event)
{
    struct cs_buf members;

    cs_buf_init(&members, event->len * 6 + USE_MAX);
    cs_buf_adds(&members, "\"delta\":");
    cs_json_quote(&members, event->text, event->len);
    cs_events_passing(turn, "message.delta", &members);
    cs_buf_fini(&members);
}

/* What is left of an item that is too long to be passed on. */
static void render_cut_item(struct cs_buf *members, const struct cs_engine_event *event)
{
    struct cs_json *item = NULL;
    struct cs_jsonw w;
    const char *id = NULL;

    if (cs_json_parse(event->text, event->len, event->len, &item, NULL) == CS_OK)
        id = cs_json_get_string(item, "id");
    cs_jsonw_init(&w, members);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "type", event->detail);
    cs_jsonw_string(&w, "id", id);
    cs_jsonw_bool(&w, "truncated", true);
    cs_jsonw_end_object(&w);
    cs_json_free(item);
}

static void pass_item(struct cs_turn *turn, const struct cs_engine_event *event)
{
    struct cs_buf members;

    cs_buf_init(&members, ITEM_MAX + USE_MAX);
    cs_buf_adds(&members, "\"item\":");
    if (event->len <= ITEM_MAX)
        cs_buf_add(&members, event->text, event->len);
    else
        render_cut_item(&members, event);
    cs_events_passing(turn, "item", &members);
    cs_buf_fini(&members);
}

/* Pass on the object that @w has filled, without its braces. */
static void pass_members(struct cs_turn *turn, const char *name, struct cs_jsonw *w)
{
    cs_jsonw_end_object(w);
    if (w->out->status == CS_OK) {
        cs_buf_consume(w->out, 1);
        w->out->len--;
        cs_events_passing(turn, name, w->out);
    }
    cs_buf_fini(w->out);
}

static void pass_usage(struct cs_turn *turn, const struct cs_engine_event *event)
{
    const struct cs_usage usage = {event->input, event->cached_input, event->output};
    struct cs_buf members;
    struct cs_jsonw w;

    cs_buf_init(&members, USE_MAX);
    cs_jsonw_init(&w, &members);
    cs_jsonw_object(&w, NULL);
    render_usage(&w, &usage);
    pass_members(turn, "usage", &w);
}

void cs_event_of_engine(struct cs_turn *turn, const struct cs_engine_event *event)
{
    if (!cs_events_heard(turn->core))
        return;
    switch (event->type) {
    case CS_EVENT_DELTA:
        pass_delta(turn, event);
        break;
    case CS_EVENT_ITEM:
        pass_item(turn, event);
        break;
    case CS_EVENT_USAGE:
        pass_usage(turn, event);
        break;
    case CS_EVENT_THREAD:
    case CS_EVENT_STARTED:
    case CS_EVENT_MESSAGE:
    case CS_EVENT_APPROVAL:
    case CS_EVENT_DONE:
        break;
    }
}

void cs_event_unstored(struct cs_turn *turn, const struct cs_err *why)
{
    struct cs_buf members;
    struct cs_jsonw w;

    cs_buf_init(&members, sizeof why->msg * 6 + USE_MAX);
    cs_jsonw_init(&w, &members);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "status", cs_turn_status_name(CS_TURN_FAILED));
    cs_jsonw_string(&w, "code", why->code != NULL ? why->code : cs_status_name(why->status));
    cs_jsonw_string(&w, "error", why->msg);
    pass_members(turn, "turn.failed", &w);
}
