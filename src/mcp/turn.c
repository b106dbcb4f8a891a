/* mcp/turn: a turn of Codex as the call of a tool.
 *
 * The turn runs on a thread of its own, so that a client may come and go while it runs: the call
 * only follows it.
 */
#include "turn.h"

#include <string.h>

#include "approval.h"
#include "cs/base/clock.h"
#include "cs/core/events.h"

/* Without other news the client is told so often that the turn still runs. */
#define NEWS_MS 10000

/* What a failure ends with, and a turn that nobody waits for. */
#define KEPT "\nThe conversation is kept: codex-reply goes on with it."
#define BACKGROUND                                                                                 \
    "Codex is working. codex-history with this threadId and `wait` brings its answer; "            \
    "codex-cancel stops it."

/* ---- the result ---- */

/* Write thread and content, as text and as structure. */
static void write_thread(struct cs_jsonw *out, const struct cs_turn_view *view, const char *content,
                         size_t len)
{
    struct cs_buf both;
    struct cs_jsonw w;

    cs_buf_init(&both, CS_MCP_MESSAGE_MAX);
    cs_jsonw_init(&w, &both);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "threadId", view->cid);
    cs_jsonw_stringn(&w, "content", content, len);
    if (view->row.stale)
        cs_jsonw_bool(&w, "stale", true);
    cs_jsonw_end_object(&w);
    if (both.status == CS_OK) {
        cs_text_write(out, both.data, both.len);
        cs_jsonw_raw(out, "structuredContent", both.data, both.len);
    } else {
        out->out->status = both.status;
    }
    cs_buf_fini(&both);
}

void cs_turn_result(struct cs_jsonw *out, const struct cs_turn_view *view)
{
    const struct cs_turn_row *row = &view->row;
    struct cs_buf failure;

    if (row->status == CS_TURN_COMPLETED) {
        write_thread(out, view, view->response, view->response_len);
        return;
    }
    cs_buf_init(&failure, CS_MCP_MESSAGE_MAX);
    cs_buf_addf(&failure, "%s" KEPT, row->error);
    if (failure.status == CS_OK)
        write_thread(out, view, failure.data, failure.len);
    else
        out->out->status = failure.status;
    cs_buf_fini(&failure);
    cs_jsonw_bool(out, "isError", true);
}

/* ---- following ---- */

/* What Codex does, in a line. */
static void tell_item(struct cs_mcp_call *call, const struct cs_json *item)
{
    const char *type = cs_json_get_string(item, "type");
    const char *command = cs_json_get_string(item, "command");
    struct cs_err line = {0}; /* its message is cut at a character */

    if (type == NULL)
        return;
    (void)cs_err_set(&line, CS_CANCELLED, NULL, "%s%s%s", type, command != NULL ? ": " : "",
                     command != NULL ? command : "");
    cs_mcp_progress(call, call->progress + 1, 0, line.msg);
}

static void tell(struct cs_mcp_call *call, const struct cs_event *event)
{
    struct cs_json *data = NULL;

    if (cs_json_parse(event->data, event->len, event->len, &data, NULL) != CS_OK)
        return;
    if (strcmp(event->name, "message.delta") == 0)
        cs_mcp_progress(call, call->progress + 1, 0, cs_json_get_string(data, "delta"));
    else if (strcmp(event->name, "item") == 0)
        tell_item(call, cs_json_get(data, "item"));
    else if (strcmp(event->name, "turn.started") == 0)
        cs_mcp_progress(call, call->progress + 1, 0, "Codex has begun");
    else if (strcmp(event->name, "approval.requested") == 0)
        cs_approval_ask(call, data);
    else if (strcmp(event->name, "approval.resolved") == 0)
        cs_approval_settle(call, data);
    cs_json_free(data);
}

enum followed {
    ENDED, /* the turn has, or its events */
    ASKED, /* Codex asks what the result of the call is to ask */
    OVER,  /* the call has ended before */
};

static bool is_named(const struct cs_event *event, const char *name)
{
    return strcmp(event->name, name) == 0;
}

/* Follow turn @tid by its events. The client is looked for in time, also where Codex never pauses:
 * who wants no progress is sent nothing else until the end. */
static enum followed follow(struct cs_mcp_call *call, const char *tid, struct cs_feed *feed)
{
    int64_t told = cs_mono_ms();
    int64_t due = told + CS_MCP_BEAT_MS; /* a slow turn's stream begins early */

    for (;;) {
        struct cs_event event;
        enum cs_status rc = cs_feed_next(feed, due, &event, NULL);

        if (rc == CS_OK) {
            if (is_named(&event, "approval.requested") && cs_approval_by_result(call))
                return ASKED;
            tell(call, &event);
            told = cs_mono_ms();
            if (is_named(&event, "turn.completed") || is_named(&event, "turn.failed"))
                return ENDED;
        } else if (rc == CS_CANCELLED) {
            cs_approval_answer(call, tid);
        } else if (rc != CS_TIMEOUT) {
            return ENDED; /* too slow, or shutting down: the turn itself is waited for */
        }
        if (call->silent || ((rc == CS_CANCELLED || cs_mono_ms() >= due) && !cs_call_beat(call)))
            return OVER;
        if (cs_mono_ms() >= due) /* with a session, who goes away does not end the turn */
            due = cs_mono_ms() + (cs_mcp_stateless(call) ? CS_MCP_BEAT_MS : NEWS_MS);
        if (cs_mono_ms() - told >= NEWS_MS) {
            told = cs_mono_ms();
            cs_mcp_progress(call, call->progress + 1, 0, "Codex is working");
        }
    }
}

static enum cs_status over(struct cs_err *err)
{
    return cs_err_set(err, CS_CANCELLED, NULL, "Nobody waits for the turn any more");
}

/* Ask what turn @tid wants to know now: on the stream, or as the result, and then *out_answered. */
static enum cs_status ask(struct cs_mcp_call *call, const char *tid, bool *out_answered,
                          struct cs_err *err)
{
    struct cs_turn_view view;
    struct cs_json *asked = NULL;
    size_t i;
    enum cs_status rc = cs_turn_view(call->mcp->core, tid, 0, &view, err);

    *out_answered = false;
    if (rc != CS_OK)
        return rc;
    if (view.approvals != NULL)
        rc = cs_json_parse(view.approvals, strlen(view.approvals), strlen(view.approvals), &asked,
                           err);
    cs_turn_view_fini(&view);
    if (rc == CS_OK && cs_json_size(asked) > 0 && cs_approval_by_result(call)) {
        rc = cs_approval_result(call, tid, asked, err);
        *out_answered = true;
    } else {
        for (i = 0; i < cs_json_size(asked); i++)
            cs_approval_ask(call, cs_json_at(asked, i));
    }
    cs_json_free(asked);
    return rc;
}

/* Wait for the turn's end by looking at it. */
static enum cs_status await(struct cs_mcp_call *call, const char *tid, struct cs_err *err)
{
    struct cs_turn_view view;

    for (;;) {
        enum cs_status rc =
            cs_turn_view(call->mcp->core, tid, cs_mono_ms() + CS_MCP_BEAT_MS, &view, err);

        if (rc != CS_OK)
            return rc;
        if (view.row.status != CS_TURN_RUNNING)
            break;
        cs_turn_view_fini(&view);
        if (!cs_call_beat(call))
            return over(err);
    }
    cs_turn_result(&call->w, &view);
    cs_turn_view_fini(&view);
    return CS_OK;
}

/* A feed of the turn; NULL where there is none: its end is seen without. */
static struct cs_feed *open_feed(struct cs_mcp_call *call, const char *tid)
{
    struct cs_feed_filter filter = {.turn = tid, .after = -1};
    struct cs_feed *feed = NULL;

    return cs_feed_open(call->mcp->core, &filter, &feed, NULL) == CS_OK ? feed : NULL;
}

static enum cs_status follow_and_answer(struct cs_mcp_call *call, const char *tid,
                                        struct cs_feed *feed, struct cs_err *err)
{
    enum followed how = feed != NULL ? follow(call, tid, feed) : ENDED;
    bool answered = false;

    while (how == ASKED) {
        enum cs_status rc = ask(call, tid, &answered, err);

        if (rc != CS_OK || answered)
            return rc;
        how = follow(call, tid, feed);
    }
    return how == OVER ? over(err) : await(call, tid, err);
}

/* Answer with the result of turn @tid once it has ended. Consumes @feed. */
static enum cs_status answer(struct cs_mcp_call *call, const char *tid, struct cs_feed *feed,
                             struct cs_err *err)
{
    enum cs_status rc;

    cs_call_bind(call, call->watches ? NULL : tid, feed);
    cs_approval_answer(call, tid); /* what came before a reply could wake the feed */
    cs_call_prime(call, tid);
    rc = follow_and_answer(call, tid, feed, err);
    cs_call_bind(call, NULL, NULL);
    cs_feed_close(feed);
    if (rc == CS_CANCELLED && cs_mcp_stateless(call)) /* who goes away has cancelled */
        (void)cs_turn_cancel(call->mcp->core, tid);
    return rc;
}

static enum cs_status enter(struct cs_mcp_call *call, struct cs_err *err)
{
    return call->stream->enter != NULL ? call->stream->enter(call->stream->arg, err) : CS_OK;
}

static void leave(struct cs_mcp_call *call)
{
    if (call->stream->leave != NULL)
        call->stream->leave(call->stream->arg);
}

enum cs_status cs_turn_answer(struct cs_mcp_call *call, const char *tid, struct cs_err *err)
{
    struct cs_feed *feed;
    bool answered = false;
    enum cs_status rc = enter(call, err);

    if (rc != CS_OK)
        return rc;
    feed = open_feed(call, tid);
    rc = ask(call, tid, &answered, err); /* what was asked while nobody listened */
    if (rc == CS_OK && !answered)
        rc = answer(call, tid, feed, err);
    else
        cs_feed_close(feed);
    leave(call);
    return rc;
}

static enum cs_status wait_for_end(struct cs_mcp_call *call, struct cs_feed *feed, int64_t deadline,
                                   struct cs_err *err)
{
    for (;;) {
        int64_t look = cs_mono_ms() + CS_MCP_BEAT_MS;
        struct cs_event event;
        enum cs_status rc = cs_feed_next(feed, look < deadline ? look : deadline, &event, NULL);

        if ((rc == CS_OK && cs_event_ends_turn(&event)) || cs_mono_ms() >= deadline)
            return CS_OK;
        if (rc != CS_OK && rc != CS_TIMEOUT && rc != CS_CANCELLED)
            return CS_OK; /* it cannot be waited for */
        if (rc != CS_OK && !cs_call_beat(call))
            return over(err);
    }
}

enum cs_status cs_turn_wait(struct cs_mcp_call *call, const char *identifier, int64_t deadline,
                            struct cs_err *err)
{
    struct cs_feed_filter filter = {.identifier = identifier, .after = -1};
    struct cs_feed *feed;
    enum cs_status rc = cs_feed_open(call->mcp->core, &filter, &feed, err);

    if (rc != CS_OK)
        return rc;
    if (cs_core_busy(call->mcp->core, identifier)) {
        rc = enter(call, err);
        if (rc == CS_OK) {
            cs_call_bind(call, NULL, feed);
            rc = wait_for_end(call, feed, deadline, err);
            cs_call_bind(call, NULL, NULL);
            leave(call);
        }
    }
    cs_feed_close(feed);
    return rc;
}

/* ---- the call ---- */

/* A client of tools names no time-out: it cancels. */
static void complete_request(const struct cs_mcp_call *call, struct cs_turn_request *request)
{
    request->timeout_ms = cs_core_config(call->mcp->core)->turn_timeout_max_ms;
    request->ttl_seconds = -1;
}

static enum cs_status begin_detached(struct cs_mcp_call *call,
                                     const struct cs_turn_request *request, char tid[CS_UUID_MAX],
                                     struct cs_err *err)
{
    struct cs_turn *turn = NULL;
    enum cs_status rc = cs_turn_begin(call->mcp->core, request, &turn, tid, err);

    return rc == CS_OK ? cs_turn_detach(turn, err) : rc;
}

enum cs_status cs_turn_background(struct cs_mcp_call *call, struct cs_turn_request *request,
                                  struct cs_err *err)
{
    struct cs_turn_view view;
    char tid[CS_UUID_MAX];
    enum cs_status rc;

    complete_request(call, request);
    rc = begin_detached(call, request, tid, err);
    if (rc == CS_OK)
        rc = cs_turn_view(call->mcp->core, tid, 0, &view, err);
    if (rc != CS_OK)
        return rc;
    write_thread(&call->w, &view, BACKGROUND, sizeof BACKGROUND - 1);
    cs_turn_view_fini(&view);
    return CS_OK;
}

static enum cs_status begin_task(struct cs_mcp_call *call, const struct cs_turn_request *request,
                                 struct cs_err *err)
{
    char tid[CS_UUID_MAX];
    enum cs_status rc = begin_detached(call, request, tid, err);

    return rc == CS_OK ? cs_task_begun(call, tid, err) : rc;
}

static enum cs_status begin_and_answer(struct cs_mcp_call *call,
                                       const struct cs_turn_request *request, struct cs_err *err)
{
    struct cs_turn *turn = NULL;
    struct cs_feed *feed;
    char tid[CS_UUID_MAX];
    enum cs_status rc = cs_turn_begin(call->mcp->core, request, &turn, tid, err);

    if (rc != CS_OK)
        return rc;
    feed = open_feed(call, tid); /* before the turn runs: nothing of it is missed */
    rc = cs_turn_detach(turn, err);
    if (rc == CS_OK)
        return answer(call, tid, feed, err);
    cs_feed_close(feed);
    return rc;
}

enum cs_status cs_turn_call(struct cs_mcp_call *call, struct cs_turn_request *request,
                            struct cs_err *err)
{
    char again[CS_UUID_MAX];
    enum cs_status rc = cs_approval_again(call, again, err);

    if (rc != CS_OK)
        return rc;
    if (again[0] != '\0')
        return cs_task_wanted(call) ? cs_task_begun(call, again, err)
                                    : cs_turn_answer(call, again, err);
    complete_request(call, request);
    if (cs_task_wanted(call))
        return begin_task(call, request, err);
    rc = enter(call, err);
    if (rc != CS_OK)
        return rc;
    rc = begin_and_answer(call, request, err);
    leave(call);
    return rc;
}
