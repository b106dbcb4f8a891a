/* api/sessions: one session, the list of them, and what can be done to one. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "cs/base/clock.h"
#include "priv.h"

#define LIMIT_DEFAULT 50
#define LIMIT_MAX     500
#define CURSOR_MAX    24

/* How a session stands, in the words of the clients. */
static const char *status_of(const struct cs_session *session)
{
    if (session->state == CS_SESSION_ARCHIVED)
        return "completed";
    return session->last_failed ? "failed" : "active";
}

static const char *reason_of(const struct cs_session *session)
{
    switch (session->archive_reason) {
    case CS_ARCHIVE_NONE:
        break;
    case CS_ARCHIVE_EXPIRED:
        return "expired";
    case CS_ARCHIVE_EVICTED:
        return "evicted";
    }
    return NULL;
}

static enum cs_status render_session(const struct cs_request *rq, struct cs_jsonw *w,
                                     const char *key, const struct cs_session *session,
                                     struct cs_err *err)
{
    enum cs_sync sync;
    enum cs_status rc = cs_core_session_sync(rq->http->core, session, &sync, err);

    if (rc != CS_OK)
        return rc;
    cs_jsonw_object(w, key);
    cs_jsonw_string(w, "sessionId", session->sid);
    cs_jsonw_string(w, "conversationId", session->cid);
    cs_jsonw_string(w, "status", status_of(session));
    cs_jsonw_time(w, "createdAt", session->created_at);
    cs_jsonw_time(w, "lastUsedAt", session->last_used_at);
    cs_jsonw_time(w, "expiresAt", session->expires_at);
    cs_jsonw_string(w, "model", session->model);
    cs_jsonw_string(w, "sandbox", session->sandbox);
    cs_jsonw_string(w, "approvalPolicy", session->approval);
    cs_jsonw_string(w, "cwd", session->cwd);
    cs_jsonw_string(w, "title", session->title);
    cs_jsonw_string(w, "userId", session->user);
    cs_jsonw_int(w, "messageCount", session->message_count);
    cs_jsonw_string(w, "initialPrompt", session->initial_prompt);
    cs_jsonw_string(w, "engine", session->engine);
    cs_jsonw_string(w, "origin", session->origin);
    if (session->state == CS_SESSION_ARCHIVED) {
        cs_jsonw_time(w, "archivedAt", session->archived_at);
        cs_jsonw_string(w, "archiveReason", reason_of(session));
    }
    cs_jsonw_string(w, "sync", cs_sync_name(sync));
    cs_jsonw_end_object(w);
    return CS_OK;
}

enum cs_status cs_api_session(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_session session;
    struct cs_jsonw w;
    enum cs_status rc = cs_core_session(rq->http->core, rq->param, &session, err);

    cs_stale_note(rq);
    if (rc != CS_OK)
        return rc;
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    rc = render_session(rq, &w, "session", &session, err);
    cs_stale_render(&w, rq->stale);
    cs_jsonw_end_object(&w);
    cs_session_fini(&session);
    return rc == CS_OK ? cs_buf_check(&reply->out, err) : rc;
}

/* ---- the list ---- */

static enum cs_status read_status(const struct cs_request *rq, struct cs_session_filter *filter,
                                  struct cs_err *err)
{
    static const struct {
        const char *word;
        int live, failed;
    } words[] = {{"active", 1, -1}, {"failed", 1, 1}, {"completed", -1, 0}, {"all", 0, 0}};
    char word[16];
    size_t i;
    enum cs_status rc = cs_query_text(rq, "status", "invalid_status", word, sizeof word, NULL);

    filter->live = 1;
    if (rc == CS_OK && word[0] == '\0')
        return CS_OK;
    for (i = 0; rc == CS_OK && i < sizeof words / sizeof *words; i++)
        if (strcmp(word, words[i].word) == 0) {
            filter->live = words[i].live;
            filter->failed = words[i].failed;
            return CS_OK;
        }
    return cs_err_set(err, CS_INVALID, "invalid_status",
                      "status must be active, completed, failed or all");
}

/* The cursor is the last row's number in hexadecimal behind a mark of its form: nobody's business
 * but ours. */
static void cursor_text(int64_t id, char out[CURSOR_MAX])
{
    snprintf(out, CURSOR_MAX, "a%llx", (unsigned long long)id);
}

static enum cs_status read_cursor(const struct cs_request *rq, int64_t *out_id, struct cs_err *err)
{
    char text[CURSOR_MAX];
    enum cs_status rc = cs_query_text(rq, "cursor", "invalid_cursor", text, sizeof text, NULL);

    if (rc == CS_OK && text[0] == '\0')
        return CS_OK;
    if (rc == CS_OK && text[0] == 'a' && text[1] != '\0' && strlen(text) <= 16 &&
        text[1 + strspn(text + 1, "0123456789abcdef")] == '\0') {
        *out_id = strtoll(text + 1, NULL, 16);
        if (*out_id > 0)
            return CS_OK;
    }
    return cs_err_set(err, CS_INVALID, "invalid_cursor",
                      "The cursor is not one that was handed out");
}

static enum cs_status read_filter(const struct cs_request *rq, struct cs_session_filter *filter,
                                  char user[], size_t user_cap, struct cs_err *err)
{
    static const int64_t limits[2] = {1, LIMIT_MAX};
    int64_t limit = LIMIT_DEFAULT;
    enum cs_status rc = cs_query_text(rq, "userId", "invalid_user", user, user_cap, err);

    memset(filter, 0, sizeof *filter);
    if (rc == CS_OK && user[0] != '\0')
        filter->user = user;
    if (rc == CS_OK)
        rc = read_status(rq, filter, err);
    if (rc == CS_OK)
        rc = read_cursor(rq, &filter->before_id, err);
    if (rc == CS_OK)
        rc = cs_query_int(rq, "limit", "invalid_limit", limits, &limit, err);
    filter->limit = (unsigned)limit;
    return rc;
}

enum cs_status cs_api_sessions(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_session_filter filter;
    struct cs_session_list list;
    struct cs_jsonw w;
    char user[129], cursor[CURSOR_MAX];
    size_t i;
    enum cs_status rc = read_filter(rq, &filter, user, sizeof user, err);

    if (rc == CS_OK)
        rc = cs_core_sessions(rq->http->core, &filter, &list, err);
    if (rc != CS_OK)
        return rc;
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    cs_jsonw_int(&w, "count", (int64_t)list.count);
    cs_jsonw_array(&w, "sessions");
    for (i = 0; i < list.count && rc == CS_OK; i++)
        rc = render_session(rq, &w, NULL, &list.items[i], err);
    cs_jsonw_end_array(&w);
    cursor_text(list.next_before_id, cursor);
    cs_jsonw_string(&w, "nextCursor", list.next_before_id != 0 ? cursor : NULL);
    cs_jsonw_end_object(&w);
    cs_session_list_fini(&list);
    return rc == CS_OK ? cs_buf_check(&reply->out, err) : rc;
}

/* ---- changes ---- */

enum cs_status cs_api_delete(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    char sid[CS_UUID_MAX];
    struct cs_jsonw w;
    enum cs_status rc = cs_core_delete(rq->http->core, rq->param, sid, err);

    if (rc != CS_OK)
        return rc;
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    cs_jsonw_string(&w, "sessionId", sid);
    cs_jsonw_bool(&w, "deleted", true);
    cs_jsonw_time(&w, "timestamp", cs_clock_ms());
    cs_jsonw_end_object(&w);
    return cs_buf_check(&reply->out, err);
}

enum cs_status cs_api_cancel(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    char tid[CS_UUID_MAX], location[64];
    struct cs_jsonw w;
    enum cs_status rc = cs_session_cancel(rq->http->core, rq->param, tid, err);

    if (rc != CS_OK)
        return rc;
    snprintf(location, sizeof location, "/api/codex/turn/%s", tid);
    reply->status = 202;
    cs_reply_header(reply, "Location", location);
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    cs_jsonw_string(&w, "turnId", tid);
    cs_jsonw_bool(&w, "cancelling", true);
    cs_jsonw_time(&w, "timestamp", cs_clock_ms());
    cs_jsonw_end_object(&w);
    return cs_buf_check(&reply->out, err);
}

enum cs_status cs_api_restore(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_session session;
    struct cs_jsonw w;
    char *evicted = NULL;
    enum cs_status rc = cs_core_restore(rq->http->core, rq->param, &session, &evicted, err);

    if (rc != CS_OK)
        return rc;
    cs_reply_begin(reply, &w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_bool(&w, "success", true);
    rc = render_session(rq, &w, "session", &session, err);
    cs_jsonw_raw(&w, "evicted", evicted, strlen(evicted));
    cs_jsonw_time(&w, "timestamp", cs_clock_ms());
    cs_jsonw_end_object(&w);
    free(evicted);
    cs_session_fini(&session);
    return rc == CS_OK ? cs_buf_check(&reply->out, err) : rc;
}
