/* api/ws_request: what a client asks for over its WebSocket, and the events that it gets.
 *
 * Every message is a JSON object with a `type`, and an `id` of the client's own that the answer
 * names again. Members have the names that they have in the REST API.
 */
#include <stdio.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/hash.h"
#include "cs/base/thread.h"
#include "fields.h"
#include "ws.h"

#define STACK_BYTES 131072              /* of a subscription's thread */
#define KEEP_BYTES  ((size_t)64 * 1024) /* of its buffer, between two events */
#define OUT_MAX     ((size_t)512 << 20)
#define CONTEXT_MAX (64u << 20)

/* A request under way: what it says, and its answer. */
struct act {
    struct cs_ws *ws;
    const struct cs_json *body;
    const char *text;
    size_t len;
    struct cs_jsonw w;                 /* within the answer's object, after what every answer has */
    bool entered;                      /* a subscription's share of the streams is taken */
    struct cs_ws_subscription *opened; /* its events come after the answer; NULL: none */
};

static const char *request_id(const struct act *act)
{
    return cs_json_get_string(act->body, "id");
}

/* ---- subscriptions ---- */

static void send_buf(struct cs_ws *ws, struct cs_buf *out)
{
    if (out->status == CS_OK)
        (void)cs_ws_send(ws, CS_WS_TEXT, out->data, out->len);
}

static bool send_event(const struct cs_ws_subscription *subscription, const struct cs_event *event,
                       struct cs_buf *out)
{
    struct cs_jsonw w;

    cs_buf_reset(out);
    cs_jsonw_init(&w, out);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "type", "event");
    cs_jsonw_string(&w, "subscription", subscription->id);
    cs_jsonw_string(&w, "event", event->name);
    if (event->id != 0)
        cs_jsonw_int(&w, "eventId", event->id);
    cs_jsonw_raw(&w, "data", event->data, event->len);
    cs_jsonw_end_object(&w);
    return out->status == CS_OK && cs_ws_send(subscription->ws, CS_WS_TEXT, out->data, out->len);
}

static void send_end(const struct cs_ws_subscription *subscription, const char *reason,
                     struct cs_buf *out)
{
    struct cs_jsonw w;

    cs_buf_reset(out);
    cs_jsonw_init(&w, out);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "type", "end");
    cs_jsonw_string(&w, "subscription", subscription->id);
    cs_jsonw_string(&w, "reason", reason);
    cs_jsonw_end_object(&w);
    send_buf(subscription->ws, out);
}

/* A turn whose session was deleted on another host never ends. */
static bool session_is_gone(const struct cs_ws_subscription *subscription)
{
    struct cs_turn_view view;
    enum cs_status rc =
        cs_turn_view(subscription->ws->rq->http->core, subscription->tid, 0, &view, NULL);

    if (rc == CS_OK)
        cs_turn_view_fini(&view);
    return rc == CS_NOT_FOUND;
}

/* All that its thread has left to do is to say how it ended: who reads of that may use its id and
 * its share of the streams again. */
static void retire(struct cs_ws_subscription *subscription)
{
    if (!atomic_exchange(&subscription->done, true))
        cs_stream_leave(subscription->ws->rq->http);
}

/* Carry events out until there are no more; returns why. */
static const char *carry(struct cs_ws_subscription *subscription, struct cs_feed *feed,
                         struct cs_buf *out)
{
    struct cs_event event;
    struct cs_err err = {.status = CS_OK};

    for (;;) {
        bool last;
        int64_t look = cs_mono_ms() + subscription->ws->rq->config->heartbeat_ms;
        enum cs_status rc = cs_feed_next(feed, subscription->once ? look : CS_NEVER, &event, &err);

        if (rc == CS_TIMEOUT) {
            cs_err_clear(&err);
            if (session_is_gone(subscription))
                return "session_deleted";
            continue;
        }
        if (rc == CS_CANCELLED)
            return atomic_load(&subscription->ws->rq->http->quiet) ? "shutting_down"
                                                                   : "unsubscribed";
        if (rc != CS_OK)
            return err.code != NULL ? err.code : cs_status_name(rc);
        last = subscription->once && cs_event_ends_turn(&event);
        if (last)
            retire(subscription);
        if (!send_event(subscription, &event, out))
            return "slow_reader"; /* or gone: nobody reads this */
        if (last)
            return "turn_ended";
        if (out->cap > KEEP_BYTES)
            cs_buf_fini(out);
    }
}

static void *run_subscription(void *arg)
{
    struct cs_ws_subscription *subscription = arg;
    struct cs_feed *feed = subscription->feed;
    struct cs_buf out;
    const char *reason;

    cs_buf_init(&out, OUT_MAX);
    reason = carry(subscription, feed, &out);
    pthread_mutex_lock(&subscription->ws->feeds);
    subscription->feed = NULL;
    pthread_mutex_unlock(&subscription->ws->feeds);
    cs_feed_close(feed);
    retire(subscription);
    send_end(subscription, reason, &out);
    cs_buf_fini(&out);
    return NULL;
}

static void wake(struct cs_ws_subscription *subscription)
{
    pthread_mutex_lock(&subscription->ws->feeds);
    if (subscription->feed != NULL)
        cs_feed_wake(subscription->feed);
    pthread_mutex_unlock(&subscription->ws->feeds);
}

static void clear(struct cs_ws_subscription *subscription)
{
    (void)pthread_join(subscription->thread, NULL);
    subscription->ws = NULL;
}

void cs_ws_end_all(struct cs_ws *ws)
{
    for (size_t i = 0; i < CS_WS_SUBSCRIPTIONS_MAX; i++)
        if (ws->subscriptions[i].ws != NULL)
            wake(&ws->subscriptions[i]);
    for (size_t i = 0; i < CS_WS_SUBSCRIPTIONS_MAX; i++)
        if (ws->subscriptions[i].ws != NULL)
            clear(&ws->subscriptions[i]);
}

/* The subscription called @id, or NULL. Clears away those that have ended. */
static struct cs_ws_subscription *find(struct cs_ws *ws, const char *id)
{
    struct cs_ws_subscription *found = NULL;

    for (size_t i = 0; i < CS_WS_SUBSCRIPTIONS_MAX; i++) {
        struct cs_ws_subscription *subscription = &ws->subscriptions[i];

        if (subscription->ws != NULL && atomic_load(&subscription->done))
            clear(subscription);
        if (subscription->ws != NULL && strcmp(subscription->id, id) == 0)
            found = subscription;
    }
    return found;
}

/* A place for a subscription, which is a stream as others are. */
static enum cs_status free_place(struct act *act, struct cs_ws_subscription **out_place,
                                 struct cs_err *err)
{
    struct cs_ws *ws = act->ws;

    if (find(ws, request_id(act)) != NULL)
        return cs_err_set(err, CS_CONFLICT, "subscription_exists",
                          "There is a subscription with this id");
    for (size_t i = 0; i < CS_WS_SUBSCRIPTIONS_MAX; i++) {
        if (ws->subscriptions[i].ws == NULL) {
            enum cs_status rc = cs_stream_enter(ws->rq->http, err);

            act->entered = rc == CS_OK;
            *out_place = &ws->subscriptions[i];
            return rc;
        }
    }
    return cs_err_set(err, CS_BUSY, "too_many_subscriptions", "A connection has at most %d",
                      CS_WS_SUBSCRIPTIONS_MAX);
}

static enum cs_status open_subscription(struct act *act, struct cs_ws_subscription *place,
                                        const struct cs_feed_filter *filter, struct cs_err *err)
{
    enum cs_status rc = cs_feed_open(act->ws->rq->http->core, filter, &place->feed, err);

    if (rc != CS_OK)
        return rc;
    place->once = filter->turn != NULL;
    if (place->once)
        snprintf(place->tid, sizeof place->tid, "%s", filter->turn);
    atomic_store(&place->done, false);
    snprintf(place->id, sizeof place->id, "%s", request_id(act));
    act->opened = place;
    return CS_OK;
}

static void start_subscription(struct cs_ws *ws, struct cs_ws_subscription *place)
{
    struct cs_err err = {.status = CS_OK};
    struct cs_buf out;

    place->ws = ws;
    if (cs_thread_start(&place->thread, "ws", STACK_BYTES, run_subscription, place, &err) == CS_OK)
        return;
    cs_buf_init(&out, OUT_MAX);
    cs_feed_close(place->feed);
    cs_stream_leave(ws->rq->http);
    send_end(place, "too_many_subscriptions", &out);
    cs_buf_fini(&out);
    place->ws = NULL;
}

/* ---- the requests ---- */

static const char *identifier_of(const struct cs_json *body)
{
    const char *conversation = cs_json_get_string(body, "conversationId");

    return conversation != NULL ? conversation : cs_json_get_string(body, "sessionId");
}

static enum cs_status need(const char *text, const char *name, struct cs_err *err)
{
    if (text != NULL && text[0] != '\0')
        return CS_OK;
    return cs_err_set(err, CS_INVALID, "invalid_message", "The message needs a string %s", name);
}

static enum cs_status subscribe(struct act *act, struct cs_err *err)
{
    const struct cs_json *after = cs_json_get(act->body, "lastEventId");
    struct cs_feed_filter filter = {
        .identifier = identifier_of(act->body),
        .user = cs_json_get_string(act->body, "userId"),
        .after = cs_json_int(after, -1),
    };
    struct cs_ws_subscription *place;
    bool stale;
    enum cs_status rc = free_place(act, &place, err);

    if (rc == CS_OK && after != NULL && filter.after < 0)
        rc = cs_err_set(err, CS_INVALID, "invalid_last_event_id",
                        "lastEventId must be a whole number, not negative");
    if (rc == CS_OK && filter.identifier != NULL)
        cs_core_refresh(act->ws->rq->http->core, filter.identifier, &stale);
    if (rc == CS_OK)
        rc = open_subscription(act, place, &filter, err);
    return rc;
}

static enum cs_status unsubscribe(struct act *act, struct cs_err *err)
{
    const char *id = cs_json_get_string(act->body, "subscription");
    struct cs_ws_subscription *subscription;
    enum cs_status rc = need(id, "subscription", err);

    if (rc != CS_OK)
        return rc;
    subscription = find(act->ws, id);
    if (subscription == NULL)
        return cs_err_set(err, CS_NOT_FOUND, "subscription_not_found",
                          "There is no subscription with this id");
    wake(subscription);
    return CS_OK;
}

/* Begin the turn, and its subscription before its first event. */
static enum cs_status begin_turn(struct act *act, const struct cs_turn_request *request,
                                 struct cs_ws_subscription *place, struct cs_err *err)
{
    struct cs_core *core = act->ws->rq->http->core;
    struct cs_feed_filter filter = {.after = -1};
    struct cs_turn *turn = NULL;
    char tid[CS_UUID_MAX];
    enum cs_status rc = cs_turn_begin(core, request, &turn, tid, err);

    if (rc != CS_OK)
        return rc;
    cs_jsonw_string(&act->w, "turnId", tid);
    if (turn != NULL) {
        cs_jsonw_string(&act->w, "sessionId", cs_turn_sid(turn));
        cs_jsonw_string(&act->w, "conversationId", cs_turn_cid(turn));
        cs_stale_render(&act->w, cs_turn_stale(turn));
    } else {
        cs_jsonw_bool(&act->w, "replayed", true);
    }
    filter.turn = tid;
    if (place != NULL)
        rc = open_subscription(act, place, &filter, err);
    if (turn != NULL) { /* it has begun, whoever may listen */
        enum cs_status detached = cs_turn_detach(turn, err);

        rc = rc == CS_OK ? detached : rc;
    }
    return rc;
}

static enum cs_status prompt(struct act *act, struct cs_err *err)
{
    struct cs_ws_subscription *place = NULL;
    struct cs_turn_request request;
    struct cs_buf joined;
    enum cs_status rc = CS_OK;

    cs_buf_init(&joined, CONTEXT_MAX);
    if (cs_json_bool(cs_json_get(act->body, "stream"), true))
        rc = free_place(act, &place, err);
    if (rc == CS_OK)
        rc = cs_fields_read(act->body, identifier_of(act->body) != NULL, &request, &joined, err);
    if (rc == CS_OK) {
        request.idempotency_key = cs_json_get_string(act->body, "idempotencyKey");
        if (request.idempotency_key != NULL)
            rc = cs_sha256(act->text, act->len, request.body_hash, err);
    }
    if (rc == CS_OK)
        rc = begin_turn(act, &request, place, err);
    cs_buf_fini(&joined);
    return rc;
}

static enum cs_status cancel(struct act *act, struct cs_err *err)
{
    const char *identifier = identifier_of(act->body);
    char tid[CS_UUID_MAX];
    enum cs_status rc = need(identifier, "sessionId or conversationId", err);

    if (rc == CS_OK)
        rc = cs_session_cancel(act->ws->rq->http->core, identifier, tid, err);
    if (rc == CS_OK)
        cs_jsonw_string(&act->w, "turnId", tid);
    return rc;
}

static enum cs_status approval(struct act *act, struct cs_err *err)
{
    const char *tid = cs_json_get_string(act->body, "turnId");
    const char *id = cs_json_get_string(act->body, "approvalId");
    bool approve = false;
    enum cs_status rc = need(tid, "turnId", err);

    if (rc == CS_OK)
        rc = need(id, "approvalId", err);
    if (rc == CS_OK)
        rc = cs_decision_read(act->body, &approve, err);
    if (rc == CS_OK)
        rc = cs_turn_approve(act->ws->rq->http->core, tid, id, approve, "websocket", err);
    return rc;
}

static const struct {
    const char *type;
    enum cs_status (*act)(struct act *act, struct cs_err *err);
} requests[] = {
    {"subscribe", subscribe}, {"unsubscribe", unsubscribe}, {"prompt", prompt},
    {"cancel", cancel},       {"approval", approval},
};

static enum cs_status dispatch(struct act *act, struct cs_err *err)
{
    const char *type = cs_json_get_string(act->body, "type"), *id = request_id(act);

    if (id == NULL || id[0] == '\0' || strlen(id) >= CS_WS_ID_MAX)
        return cs_err_set(err, CS_INVALID, "invalid_message",
                          "The message needs an id: a string of 1 to %d bytes", CS_WS_ID_MAX - 1);
    for (size_t i = 0; type != NULL && i < sizeof requests / sizeof *requests; i++)
        if (strcmp(requests[i].type, type) == 0)
            return requests[i].act(act, err);
    return cs_err_set(err, CS_INVALID, "invalid_message",
                      "The message's type is none of subscribe, unsubscribe, prompt, cancel, "
                      "approval");
}

static void begin_answer(struct act *act, struct cs_buf *out, bool success)
{
    cs_buf_reset(out);
    cs_jsonw_init(&act->w, out);
    cs_jsonw_object(&act->w, NULL);
    cs_jsonw_string(&act->w, "type", "reply");
    cs_jsonw_string(&act->w, "id", request_id(act));
    cs_jsonw_bool(&act->w, "success", success);
}

void cs_ws_act(struct cs_ws *ws, const char *text, size_t len)
{
    struct act act = {.ws = ws, .text = text, .len = len};
    struct cs_json *body = NULL;
    struct cs_err err = {.status = CS_OK};
    struct cs_buf out;
    enum cs_status rc = cs_json_parse(text, len, len, &body, &err);

    cs_buf_init(&out, OUT_MAX);
    act.body = body;
    begin_answer(&act, &out, true);
    if (rc == CS_OK)
        rc = dispatch(&act, &err);
    if (rc != CS_OK) {
        begin_answer(&act, &out, false);
        cs_jsonw_string(&act.w, "error", err.msg);
        cs_jsonw_string(&act.w, "code", err.code != NULL ? err.code : cs_status_name(rc));
    }
    cs_jsonw_end_object(&act.w);
    send_buf(ws, &out);
    cs_buf_fini(&out);
    if (act.opened != NULL)
        start_subscription(ws, act.opened);
    else if (act.entered)
        cs_stream_leave(ws->rq->http);
    cs_json_free(body);
}
