/* api/events: GET /api/codex/events. */
#include <stdlib.h>
#include <string.h>

#include "cs/core/events.h"
#include "priv.h"

#define USER_MAX 129 /* with its NUL */
#define ID_MAX   20  /* digits of an event's id, with its NUL */

/* The id of the last event that the client has seen: as EventSource says it when it comes back, or
 * as the address does. -1 for none. */
static enum cs_status read_last(const struct cs_request *rq, int64_t *out_last, struct cs_err *err)
{
    const char *text = rq->header[CS_HEADER_LAST_EVENT_ID];
    char value[ID_MAX];
    size_t digits;

    if (text == NULL) {
        enum cs_status rc =
            cs_query_text(rq, "lastEventId", "invalid_last_event_id", value, sizeof value, err);

        if (rc != CS_OK)
            return rc;
        text = value;
    }
    digits = strspn(text, "0123456789");
    if (text[digits] != '\0' || digits >= ID_MAX)
        return cs_err_set(err, CS_INVALID, "invalid_last_event_id",
                          "The id of the last event must be a number, as an event's id is");
    *out_last = digits > 0 ? strtoll(text, NULL, 10) : -1;
    return CS_OK;
}

/* A log that was put back to a backup has no place to go on from: say so, and go on from now. */
static enum cs_status open_feed(struct cs_core *core, struct cs_feed_filter *filter,
                                struct cs_feed **out_feed, const char **out_reset,
                                struct cs_err *err)
{
    enum cs_status rc = cs_feed_open(core, filter, out_feed, err);

    if (rc != CS_CONFLICT)
        return rc;
    *out_reset = err->code;
    cs_err_clear(err);
    filter->after = -1;
    return cs_feed_open(core, filter, out_feed, err);
}

static enum cs_status follow(struct cs_request *rq, struct cs_reply *reply,
                             struct cs_feed_filter *filter, struct cs_err *err)
{
    struct cs_feed *feed = NULL;
    const char *reset = NULL;
    enum cs_status rc;

    if (filter->identifier != NULL)
        cs_core_refresh(rq->http->core, filter->identifier, &rq->stale);
    rc = open_feed(rq->http->core, filter, &feed, &reset, err);
    if (rc != CS_OK)
        return rc;
    cs_sse_follow(rq, reply, feed, NULL, reset);
    cs_feed_close(feed);
    return CS_OK;
}

enum cs_status cs_api_events(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_feed_filter filter = {.after = -1};
    char identifier[CS_PARAM_MAX], user[USER_MAX];
    enum cs_status rc =
        cs_query_text(rq, "sessionId", "invalid_session", identifier, sizeof identifier, err);

    if (rc == CS_OK)
        rc = cs_query_text(rq, "userId", "invalid_user", user, sizeof user, err);
    if (rc == CS_OK)
        rc = read_last(rq, &filter.after, err);
    if (rc == CS_OK)
        rc = cs_stream_enter(rq->http, err);
    if (rc != CS_OK)
        return rc;
    filter.identifier = identifier[0] != '\0' ? identifier : NULL;
    filter.user = user[0] != '\0' ? user : NULL;
    rc = follow(rq, reply, &filter, err);
    if (rc != CS_OK)
        cs_stream_leave(rq->http);
    return rc;
}
