/* mcp/listen: streams that are not the answer to a call: the rest of one that broke, and what a
 * client is told without asking for it. */
#include <stdio.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/core/events.h"
#include "priv.h"
#include "turn.h"

/* ---- streams that can be resumed ----
 *
 * The id of an event says all that is needed to go on: a digest of the session that it belongs to,
 * the turn, and the id of the request in hex. So nothing is kept for it, and it holds over restarts
 * of the daemon. The mark ahead of the request tells whether it owns the turn or only watches it.
 */

#define DIGEST_HEX 16  /* digits */
#define EVENT_MAX  640 /* of an event id, with its NUL */
#define OWNS       '.'
#define WATCHES    '-'

struct place {
    char tid[CS_UUID_MAX];
    bool watches;
    char id[CS_MCP_ID_MAX];
};

static bool digest(const char *session, char out[DIGEST_HEX + 1])
{
    unsigned char hash[CS_SHA256_LEN];

    if (cs_sha256(session, strlen(session), hash, NULL) != CS_OK)
        return false;
    cs_hex(hash, DIGEST_HEX / 2, out);
    return true;
}

static bool write_place(const char *session, const struct place *place, char out[], size_t cap)
{
    char hex[2 * CS_MCP_ID_MAX + 1], mark[DIGEST_HEX + 1];
    int n;

    if (!digest(session, mark))
        return false;
    cs_hex(place->id, strlen(place->id), hex);
    n = snprintf(out, cap, "%s.%s%c%s", mark, place->tid, place->watches ? WATCHES : OWNS, hex);
    return n > 0 && (size_t)n < cap;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_id(const char *hex, char out[CS_MCP_ID_MAX])
{
    size_t i, len = strlen(hex);
    struct cs_json *value = NULL;
    bool valid;

    if (len % 2 != 0 || len / 2 >= CS_MCP_ID_MAX)
        return false;
    for (i = 0; i < len / 2; i++) {
        int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        out[i] = (char)(high * 16 + low);
    }
    out[i] = '\0';
    valid = cs_json_parse(out, i, i, &value, NULL) == CS_OK && cs_msg_id(value, out) == CS_OK;
    cs_json_free(value);
    return valid;
}

/* Whether @event is a place in a stream of @session. */
static bool read_place(const char *event, const char *session, struct place *out)
{
    char mark[DIGEST_HEX + 1];
    size_t tid = DIGEST_HEX + 1, id = tid + CS_UUID_MAX;

    if (strlen(event) <= id || event[DIGEST_HEX] != '.' ||
        (event[id - 1] != OWNS && event[id - 1] != WATCHES) || !digest(session, mark) ||
        strncmp(event, mark, DIGEST_HEX) != 0)
        return false;
    memcpy(out->tid, event + tid, CS_UUID_MAX - 1);
    out->tid[CS_UUID_MAX - 1] = '\0';
    out->watches = event[id - 1] == WATCHES;
    return cs_uuid_valid(out->tid) && read_id(event + id, out->id);
}

void cs_call_prime(struct cs_mcp_call *call, const char *tid)
{
    struct place place;
    struct cs_buf nothing;
    char event[EVENT_MAX];

    if (call->revision != CS_REVISION_2025_11_25 || call->session == NULL ||
        call->resumed[0] != '\0')
        return;
    memcpy(place.tid, tid, sizeof place.tid);
    place.watches = call->watches;
    memcpy(place.id, call->id, sizeof place.id);
    cs_buf_init(&nothing, 0);
    if (write_place(call->session->id, &place, event, sizeof event))
        cs_call_send(call, event, &nothing);
}

static enum cs_status answer_turn(struct cs_mcp_call *call, struct cs_err *err)
{
    enum cs_status rc = cs_turn_answer(call, call->resumed, err);

    if (rc == CS_OK && call->watches)
        cs_task_name(call, call->resumed);
    return rc;
}

/* Answer what the broken stream was to answer. A session of an earlier start of the daemon has
 * ended, but what was promised to it is kept. */
static void resume(struct cs_mcp_call *call)
{
    const struct cs_mcp_head *head = call->head;
    bool ours = strncmp(head->session, call->mcp->start, strlen(call->mcp->start)) == 0;
    struct place place;

    if ((call->session == NULL && ours) || !read_place(head->last_event, head->session, &place)) {
        cs_call_deny(call, 404, "There is no such stream to resume");
        return;
    }
    memcpy(call->id, place.id, sizeof call->id);
    memcpy(call->resumed, place.tid, sizeof call->resumed);
    call->watches = place.watches;
    cs_call_run(call, NULL, answer_turn);
}

/* ---- what is said without being asked ---- */

/* One who listens. */
struct cs_listener {
    struct cs_mcp_call *call;
    struct cs_feed *feed;
    const struct cs_json *uris;  /* that are watched; NULL: those of the session */
    const struct cs_json *tasks; /* ids, of which those count that `known` has as bits */
    uint64_t known;
    unsigned lists;   /* enum cs_mcp_list that are wanted */
    unsigned changed; /* of these; under mcp->mutex */
    struct cs_listener *next;
};

static const struct {
    enum cs_mcp_list list;
    const char *capability, *filter, *method;
} lists[] = {
    {CS_MCP_TOOLS, "tools", "toolsListChanged", "notifications/tools/list_changed"},
    {CS_MCP_PROMPTS, "prompts", "promptsListChanged", "notifications/prompts/list_changed"},
    {CS_MCP_RESOURCES, "resources", "resourcesListChanged", "notifications/resources/list_changed"},
};

void cs_mcp_changed(struct cs_mcp *mcp, enum cs_mcp_list list)
{
    struct cs_listener *listener;

    pthread_mutex_lock(&mcp->mutex);
    for (listener = mcp->listeners; listener != NULL; listener = listener->next)
        if ((listener->lists & list) != 0) {
            listener->changed |= list;
            cs_feed_wake(listener->feed);
        }
    pthread_mutex_unlock(&mcp->mutex);
}

static void link_listener(struct cs_listener *listener)
{
    struct cs_mcp *mcp = listener->call->mcp;

    pthread_mutex_lock(&mcp->mutex);
    listener->next = mcp->listeners;
    mcp->listeners = listener;
    pthread_mutex_unlock(&mcp->mutex);
}

static void unlink_listener(struct cs_listener *listener)
{
    struct cs_mcp *mcp = listener->call->mcp;
    struct cs_listener **place = &mcp->listeners;

    pthread_mutex_lock(&mcp->mutex);
    while (*place != listener)
        place = &(*place)->next;
    *place = listener->next;
    pthread_mutex_unlock(&mcp->mutex);
}

/* Whether a capability has a feature. */
static bool declares(const struct cs_mcp *mcp, const char *capability, const char *feature)
{
    return cs_json_bool(cs_json_path(mcp->capabilities, capability, feature, NULL), false);
}

/* Every notification on a subscription's stream names it. */
static void write_meta(const struct cs_mcp_call *call, struct cs_jsonw *w)
{
    if (!cs_mcp_stateless(call))
        return;
    cs_jsonw_object(w, "_meta");
    cs_jsonw_raw(w, "io.modelcontextprotocol/subscriptionId", call->id, strlen(call->id));
    cs_jsonw_end_object(w);
}

/* Send one notification; @uri may be NULL. */
static void send_note(struct cs_mcp_call *call, const char *method, const char *uri)
{
    struct cs_buf out;
    struct cs_jsonw w;

    cs_buf_init(&out, CS_MCP_MESSAGE_MAX);
    cs_msg_begin(&out, &w, method, "");
    write_meta(call, &w);
    if (uri != NULL)
        cs_jsonw_string(&w, "uri", uri);
    cs_msg_end(&w);
    cs_call_send(call, NULL, &out);
    cs_buf_fini(&out);
}

static void send_changed(struct cs_listener *listener)
{
    struct cs_mcp *mcp = listener->call->mcp;
    unsigned changed;
    size_t i;

    pthread_mutex_lock(&mcp->mutex);
    changed = listener->changed;
    listener->changed = 0;
    pthread_mutex_unlock(&mcp->mutex);
    for (i = 0; i < sizeof lists / sizeof *lists; i++)
        if ((changed & lists[i].list) != 0)
            send_note(listener->call, lists[i].method, NULL);
}

/* Whether this session's stream is still the newest one. */
static bool goes_on(struct cs_mcp_call *call)
{
    bool on = true;

    if (call->session == NULL)
        return !call->silent;
    pthread_mutex_lock(&call->mcp->mutex);
    on = call->session->listener == call && !call->session->ended;
    pthread_mutex_unlock(&call->mcp->mutex);
    return on && !call->silent;
}

/* Whether event @id is this stream's to tell: while a session's new stream takes over from the one
 * before, both have it. */
static bool claim(struct cs_listener *listener, int64_t id)
{
    struct cs_mcp_session *session = listener->call->session;
    bool ours;

    if (session == NULL)
        return true;
    pthread_mutex_lock(&listener->call->mcp->mutex);
    ours = id > session->told;
    if (ours)
        session->told = id;
    pthread_mutex_unlock(&listener->call->mcp->mutex);
    return ours;
}

/* Whether @uri is watched; of a session's own list under mcp->mutex. */
static bool watches(struct cs_listener *listener, const char *uri)
{
    struct cs_mcp_session *session = listener->call->session;
    bool found = false;
    size_t i;

    for (i = 0; i < cs_json_size(listener->uris) && !found; i++) {
        const char *one = cs_json_string(cs_json_at(listener->uris, i), NULL);

        found = one != NULL && strcmp(one, uri) == 0;
    }
    if (session == NULL)
        return found;
    pthread_mutex_lock(&listener->call->mcp->mutex);
    for (i = 0; i < CS_MCP_WATCHED_MAX && session->watched[i] != NULL && !found; i++)
        found = strcmp(session->watched[i], uri) == 0;
    pthread_mutex_unlock(&listener->call->mcp->mutex);
    return found;
}

/* A conversation has a new message: say so under the name by which it is watched. */
static void tell_update(struct cs_listener *listener, const struct cs_json *data)
{
    static const char *const names[] = {"sessionId", "conversationId"};
    size_t i;

    for (i = 0; i < sizeof names / sizeof *names; i++) {
        const char *id = cs_json_get_string(data, names[i]);
        char uri[CS_URI_MAX];

        if (id == NULL)
            continue;
        snprintf(uri, sizeof uri, CS_SESSION_URI "%s", id);
        if (watches(listener, uri))
            send_note(listener->call, "notifications/resources/updated", uri);
    }
}

/* Tell how task @tid stands, as tasks/get would. */
static void send_task(struct cs_mcp_call *call, const char *tid)
{
    struct cs_buf out;
    struct cs_jsonw w;

    cs_buf_init(&out, CS_MCP_MESSAGE_MAX);
    cs_msg_begin(&out, &w, "notifications/tasks", "");
    write_meta(call, &w);
    if (cs_task_write(call, &w, tid, NULL) == CS_OK) {
        cs_msg_end(&w);
        cs_call_send(call, NULL, &out);
    }
    cs_buf_fini(&out);
}

/* What changes how a task stands. */
static bool moves_task(const struct cs_event *event)
{
    return strcmp(event->name, "approval.requested") == 0 ||
           strcmp(event->name, "approval.resolved") == 0 || cs_event_ends_turn(event);
}

static void tell_task(struct cs_listener *listener, const struct cs_json *data)
{
    const char *tid = cs_json_get_string(data, "turnId");
    size_t i;

    for (i = 0; i < cs_json_size(listener->tasks) && tid != NULL; i++)
        if ((listener->known >> i & 1) != 0 &&
            strcmp(cs_json_string(cs_json_at(listener->tasks, i), NULL), tid) == 0) {
            send_task(listener->call, tid);
            return;
        }
}

static void tell(struct cs_listener *listener, const struct cs_event *event)
{
    bool moves = listener->known != 0 && moves_task(event);
    struct cs_json *data = NULL;

    if ((event->id == 0 && !moves) ||
        cs_json_parse(event->data, event->len, event->len, &data, NULL) != CS_OK)
        return;
    if (event->id != 0 && claim(listener, event->id))
        tell_update(listener, data);
    if (moves)
        tell_task(listener, data);
    cs_json_free(data);
}

/* Tell the client what happens, until it goes away or the daemon ends. Most of what happens is not
 * for it: it is looked for in time, also where there is always something. */
static void listen(struct cs_listener *listener)
{
    struct cs_mcp_call *call = listener->call;
    int64_t beat = cs_core_config(call->mcp->core)->heartbeat_ms;
    int64_t due = cs_mono_ms() + beat;

    while (goes_on(call)) {
        struct cs_event event;
        enum cs_status rc = cs_feed_next(listener->feed, due, &event, NULL);

        if (rc == CS_OK)
            tell(listener, &event);
        else if (rc == CS_CANCELLED)
            send_changed(listener);
        else if (rc != CS_TIMEOUT)
            break;
        if (cs_mono_ms() < due)
            continue;
        if (!cs_call_beat(call))
            break;
        due = cs_mono_ms() + beat;
    }
}

static enum cs_status open_stream(struct cs_listener *listener, struct cs_err *err)
{
    struct cs_feed_filter filter = {.after = -1};
    const struct cs_mcp_stream *stream = listener->call->stream;
    enum cs_status rc = stream->enter != NULL ? stream->enter(stream->arg, err) : CS_OK;

    if (rc != CS_OK)
        return rc;
    rc = cs_feed_open(listener->call->mcp->core, &filter, &listener->feed, err);
    if (rc == CS_OK)
        link_listener(listener);
    else if (stream->leave != NULL)
        stream->leave(stream->arg);
    return rc;
}

static void close_stream(struct cs_listener *listener)
{
    const struct cs_mcp_stream *stream = listener->call->stream;

    unlink_listener(listener);
    cs_feed_close(listener->feed);
    if (stream->leave != NULL)
        stream->leave(stream->arg);
}

/* ---- with sessions: GET ---- */

static void serve_session(struct cs_mcp_call *call)
{
    struct cs_mcp *mcp = call->mcp;
    struct cs_listener listener = {.call = call,
                                   .lists = CS_MCP_TOOLS | CS_MCP_PROMPTS | CS_MCP_RESOURCES};
    struct cs_err err = {0};

    if (open_stream(&listener, &err) != CS_OK) {
        cs_call_deny(call, 503, err.msg);
        return;
    }
    cs_call_bind(call, NULL, listener.feed);
    pthread_mutex_lock(&mcp->mutex);
    if (call->session->listener != NULL) /* the client has come anew */
        cs_feed_wake(call->session->listener->feed);
    call->session->listener = call;
    pthread_mutex_unlock(&mcp->mutex);
    if (cs_call_beat(call))
        listen(&listener);
    pthread_mutex_lock(&mcp->mutex);
    if (call->session->listener == call)
        call->session->listener = NULL;
    pthread_mutex_unlock(&mcp->mutex);
    cs_call_bind(call, NULL, NULL);
    close_stream(&listener);
}

void cs_mcp_listen(struct cs_mcp *mcp, const struct cs_mcp_head *head,
                   const struct cs_mcp_stream *stream, struct cs_mcp_answer *out_answer)
{
    struct cs_mcp_call call;

    cs_call_init(&call, mcp, head, stream, out_answer);
    call.revision = CS_REVISION_2025_11_25;
    if (head->session == NULL) {
        cs_call_deny(&call, 400, "The header Mcp-Session-Id is missing");
    } else if (head->revision != NULL && !cs_revision_parse(head->revision, NULL)) {
        cs_call_deny(&call, 400, "This revision of the protocol is not supported");
    } else {
        call.session = cs_session_take(mcp, head->session);
        if (call.session != NULL)
            call.revision = call.session->revision;
        if (head->last_event != NULL)
            resume(&call);
        else if (call.session != NULL)
            serve_session(&call);
        else
            cs_call_deny(&call, 404, "This session has ended: initialize again");
    }
    cs_call_fini(&call);
}

/* ---- without: subscriptions/listen ---- */

/* The first message: what will be told of what was asked for. */
static void acknowledge(struct cs_listener *listener)
{
    struct cs_mcp_call *call = listener->call;
    struct cs_buf out;
    struct cs_jsonw w;
    size_t i;

    cs_buf_init(&out, CS_MCP_MESSAGE_MAX);
    cs_msg_begin(&out, &w, "notifications/subscriptions/acknowledged", "");
    write_meta(call, &w);
    cs_jsonw_object(&w, "notifications");
    for (i = 0; i < sizeof lists / sizeof *lists; i++)
        if ((listener->lists & lists[i].list) != 0)
            cs_jsonw_bool(&w, lists[i].filter, true);
    if (listener->uris != NULL) {
        cs_jsonw_array(&w, "resourceSubscriptions");
        for (i = 0; i < cs_json_size(listener->uris); i++)
            cs_jsonw_string(&w, NULL, cs_json_string(cs_json_at(listener->uris, i), NULL));
        cs_jsonw_end_array(&w);
    }
    if (listener->tasks != NULL) {
        cs_jsonw_array(&w, "taskIds");
        for (i = 0; i < cs_json_size(listener->tasks); i++)
            if ((listener->known >> i & 1) != 0)
                cs_jsonw_string(&w, NULL, cs_json_string(cs_json_at(listener->tasks, i), NULL));
        cs_jsonw_end_array(&w);
    }
    cs_jsonw_end_object(&w);
    cs_msg_end(&w);
    cs_call_send(call, NULL, &out);
    cs_buf_fini(&out);
}

/* How each task stands now: who listens too late hears it nevertheless. */
static void tell_tasks(struct cs_listener *listener)
{
    size_t i;

    for (i = 0; i < cs_json_size(listener->tasks); i++)
        if ((listener->known >> i & 1) != 0)
            send_task(listener->call, cs_json_string(cs_json_at(listener->tasks, i), NULL));
}

static bool are_strings(const struct cs_json *list)
{
    size_t i;

    for (i = 0; i < cs_json_size(list); i++)
        if (cs_json_string(cs_json_at(list, i), NULL) == NULL)
            return false;
    return cs_json_size(list) <= CS_MCP_WATCHED_MAX;
}

/* The tasks that are to be told of, as far as there are such. */
static enum cs_status read_tasks(struct cs_listener *listener, const struct cs_json *tasks,
                                 struct cs_err *err)
{
    struct cs_mcp_call *call = listener->call;
    size_t i;

    if (tasks == NULL || !call->mcp->tasks)
        return CS_OK;
    if ((call->can & CS_CAN_TASKS) == 0)
        return cs_mcp_refuse_capability(call, CS_TASKS_EXTENSION, err);
    if (cs_json_type(tasks) != CS_JSON_ARRAY || !are_strings(tasks))
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err,
                             "taskIds must be at most %d strings", CS_MCP_WATCHED_MAX);
    listener->tasks = tasks;
    for (i = 0; i < cs_json_size(tasks); i++) {
        struct cs_turn_view view;

        if (cs_turn_view(call->mcp->core, cs_json_string(cs_json_at(tasks, i), NULL), 0, &view,
                         NULL) != CS_OK)
            continue;
        cs_turn_view_fini(&view);
        listener->known |= (uint64_t)1 << i;
    }
    return CS_OK;
}

static enum cs_status read_filter(struct cs_listener *listener, const struct cs_json *filter,
                                  struct cs_err *err)
{
    struct cs_mcp_call *call = listener->call;
    const struct cs_json *uris = cs_json_get(filter, "resourceSubscriptions");
    size_t i;

    if (cs_json_type(filter) != CS_JSON_OBJECT)
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err,
                             "params.notifications must be an object");
    if (!are_strings(uris))
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err,
                             "resourceSubscriptions must be at most %d strings",
                             CS_MCP_WATCHED_MAX);
    for (i = 0; i < sizeof lists / sizeof *lists; i++)
        if (cs_json_bool(cs_json_get(filter, lists[i].filter), false) &&
            declares(call->mcp, lists[i].capability, "listChanged"))
            listener->lists |= lists[i].list;
    if (cs_json_type(uris) == CS_JSON_ARRAY && declares(call->mcp, "resources", "subscribe"))
        listener->uris = uris;
    return read_tasks(listener, cs_json_get(filter, "taskIds"), err);
}

enum cs_status cs_mcp_subscriptions(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct cs_json *filter = cs_json_get(call->params, "notifications");
    struct cs_listener listener = {.call = call};
    enum cs_status rc = CS_OK;

    if (call->stream->send == NULL)
        return cs_mcp_refuse(call, CS_RPC_INVALID_REQUEST, NULL, err,
                             "Subscriptions need a client that takes text/event-stream");
    rc = read_filter(&listener, filter, err);
    if (rc == CS_OK)
        rc = open_stream(&listener, err);
    if (rc != CS_OK)
        return rc;
    acknowledge(&listener);
    tell_tasks(&listener);
    listen(&listener);
    close_stream(&listener);
    cs_jsonw_string(&call->w, "resultType", "complete");
    write_meta(call, &call->w);
    call->typed = call->meta = true;
    return CS_OK;
}
