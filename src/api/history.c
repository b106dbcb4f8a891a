/* api/history: GET /api/codex/history/:id. The busiest read: rendered messages are sent from where
 * they are. */
#include <string.h>

#include "priv.h"

#define BEFORE_MAX  9007199254740991 /* what every JSON reader can hold */
#define LIMIT_MAX   100000
#define START_USUAL 200 /* bytes before the messages */

/* All that comes before the messages. */
static void render_start(const struct cs_request *rq, struct cs_jsonw *w,
                         const struct cs_history *history)
{
    cs_jsonw_object(w, NULL);
    cs_jsonw_bool(w, "success", true);
    cs_jsonw_string(w, "identifier", rq->param);
    cs_jsonw_int(w, "messageCount", history->total);
    if (history->before != 0)
        cs_jsonw_int(w, "nextBefore", history->before);
    cs_stale_render(w, rq->stale);
    cs_buf_adds(w->out, ",\"messages\":[");
}

/* Put the rest of the answer around the messages, where they are. Consumes @history if it is to be
 * had. */
static bool render_around(const struct cs_request *rq, struct cs_reply *reply,
                          const struct cs_history *history)
{
    char *messages = cs_history_borrow(history);
    struct cs_buf *start = &reply->out;
    struct cs_jsonw w;

    if (messages == NULL)
        return false;
    (void)cs_buf_reserve(start, START_USUAL);
    cs_jsonw_init(&w, start);
    render_start(rq, &w, history);
    if (start->status != CS_OK || start->len > CS_HISTORY_BEFORE - CS_HEAD_ROOM) {
        cs_history_return(history);
        return false;
    }
    reply->history = history;
    reply->body = memcpy(messages - start->len, start->data, start->len);
    messages[history->len] = ']';
    messages[history->len + 1] = '}';
    reply->body_len = start->len + history->len + CS_HISTORY_AFTER;
    return true;
}

/* The same in a buffer of its own: another reader has the room around the messages. */
static void render_copy(const struct cs_request *rq, struct cs_reply *reply,
                        const struct cs_history *history)
{
    struct cs_jsonw w;

    (void)cs_buf_reserve(&reply->out, CS_HEAD_ROOM + history->len + 512); /* grow once */
    cs_reply_begin(reply, &w);
    render_start(rq, &w, history);
    cs_buf_add(&reply->out, history->messages, history->len);
    cs_buf_adds(&reply->out, "]}");
}

enum cs_status cs_api_history(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    static const int64_t limits[2] = {1, LIMIT_MAX}, befores[2] = {1, BEFORE_MAX};
    const struct cs_history *history;
    int64_t limit = 0, before = 0;
    enum cs_status rc = cs_query_int(rq, "limit", "invalid_limit", limits, &limit, err);

    if (rc == CS_OK)
        rc = cs_query_int(rq, "before", "invalid_before", befores, &before, err);
    if (rc == CS_OK)
        rc = cs_core_history(rq->http->core, rq->param, (unsigned)limit, before, &history, err);
    if (rc == CS_OK || rc == CS_NOT_FOUND)
        cs_stale_note(rq);
    if (rc != CS_OK)
        return rc;
    if (render_around(rq, reply, history))
        return CS_OK;
    render_copy(rq, reply, history);
    cs_history_release(history);
    return cs_buf_check(&reply->out, err);
}
