/* core/approval: what Codex asks in a turn, and who answers.
 *
 * Each question is answered once: by a caller, by its time-out, by the operator's ceiling, or with
 * the end of its turn. Whoever closes it tells Codex and then the listeners, all under core->mutex:
 * so what listeners hear is in the order in which it happened, also to who begins to listen.
 * While one is open the turn's clock stands still: people take longer than Codex may.
 */
#include "approval.h"

#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/json.h"
#include "cs/base/log.h"

#define KEPT_MAX    64                 /* closed ones that are remembered per turn */
#define TOLD_MAX    ((size_t)64 << 10) /* bytes of a request in an event; of a longer one nothing */
#define MEMBERS_MAX (TOLD_MAX + 4096)
#define LOOK_MS     100  /* at least, between two looks whether the clock goes again */
#define KNOWN_MS    1000 /* a wait lasts so long beside what was open when it began */

struct cs_approval {
    struct cs_approval *next; /* the younger one */
    char id[24], kind[16];
    char *request;      /* JSON object; NULL once closed */
    const char *needs;  /* the sandbox whose power it is about */
    int64_t due;        /* mono ms: declined then */
    int64_t expires_at; /* the same, wall ms */
    int64_t asked_at;   /* mono ms */
    int64_t number;     /* among all of this core */
    bool open;
};

static const char *decision_name(bool approve)
{
    return approve ? "approve" : "decline";
}

/* ---- the ceiling ---- */

/* Whether a patch that Codex may not make by itself stays within what the sandbox workspace-write
 * would let it do. Where Codex's commands can write already, one could turn a checked folder into a
 * link before the patch is made, so there it does not count. */
static bool patch_stays_inside(const struct cs_turn *turn, const struct cs_json *request)
{
    const struct cs_json *changes = cs_json_get(request, "changes");
    size_t count = cs_json_size(changes);
    bool inside = count > 0 && cs_json_type(changes) == CS_JSON_ARRAY &&
                  cs_json_get(request, "grantRoot") == NULL &&
                  strcmp(turn->row.sandbox, "read-only") == 0;

    for (size_t i = 0; inside && i < count; i++) {
        const struct cs_json *change = cs_json_at(changes, i);
        const struct cs_json *moved = cs_json_path(change, "kind", "move_path", NULL);
        const char *path = cs_json_get_string(change, "path");

        inside = path != NULL && cs_request_inside(turn->session.cwd, path);
        if (inside && cs_json_type(moved) != CS_JSON_NULL)
            inside = cs_json_string(moved, NULL) != NULL &&
                     cs_request_inside(turn->session.cwd, cs_json_string(moved, NULL));
    }
    return inside;
}

/* The sandbox whose power an approval would grant. A command may leave the sandbox, and Codex does
 * not say whether it will; what is unknown counts as the most. */
static const char *power_of(const struct cs_turn *turn, const char *kind, const char *text,
                            size_t len)
{
    struct cs_json *request = NULL;
    const char *needs = "danger-full-access";

    if (strcmp(kind, "patch") == 0 && cs_json_parse(text, len, len, &request, NULL) == CS_OK &&
        patch_stays_inside(turn, request))
        needs = "workspace-write";
    cs_json_free(request);
    return needs;
}

/* ---- telling, under core->mutex ---- */

static void tell_resolved(struct cs_turn *turn, const char *id, bool approve, const char *by)
{
    struct cs_buf members;

    cs_buf_init(&members, MEMBERS_MAX);
    cs_buf_addf(&members, "\"approvalId\":\"%s\",\"decision\":\"%s\",\"by\":", id,
                decision_name(approve));
    cs_json_quote(&members, by, strlen(by));
    cs_events_passing(turn, "approval.resolved", &members);
    cs_buf_fini(&members);
}

/* An object with the members that events and answers have in common. */
static void render(struct cs_jsonw *w, const struct cs_approval *approval, size_t max)
{
    size_t len = strlen(approval->request);

    cs_jsonw_string(w, "approvalId", approval->id);
    cs_jsonw_string(w, "kind", approval->kind);
    if (len <= max)
        cs_jsonw_raw(w, "request", approval->request, len);
    else
        cs_jsonw_raw(w, "request", "{\"truncated\":true}", strlen("{\"truncated\":true}"));
    cs_jsonw_time(w, "expiresAt", approval->expires_at);
}

/* Tell @feed alone, or, if it is NULL, whoever listens; of a request longer than @max only that it
 * is there. False when the feed has no room. */
static bool tell_requested(struct cs_turn *turn, const struct cs_approval *approval,
                           struct cs_feed *feed, size_t max)
{
    struct cs_buf members;
    struct cs_jsonw w;
    bool room = true;

    cs_buf_init(&members, MEMBERS_MAX);
    cs_jsonw_init(&w, &members);
    cs_jsonw_object(&w, NULL);
    render(&w, approval, max);
    cs_jsonw_end_object(&w);
    if (members.status == CS_OK) {
        cs_buf_consume(&members, 1); /* the braces */
        members.len--;
        if (feed == NULL)
            cs_events_passing(turn, "approval.requested", &members);
        else
            room = cs_events_again(feed, turn, "approval.requested", &members);
    }
    cs_buf_fini(&members);
    return room;
}

/* ---- the list, under core->mutex ---- */

static struct cs_approval *find(struct cs_turn *turn, const char *id)
{
    struct cs_approval *approval = turn->approvals;

    while (approval != NULL && strcmp(approval->id, id) != 0)
        approval = approval->next;
    return approval;
}

static void free_approval(struct cs_approval *approval)
{
    free(approval->request);
    free(approval);
}

/* Close an open one and tell Codex. CS_NOT_FOUND when Codex does not want to know any more. */
static enum cs_status close_one(struct cs_turn *turn, struct cs_approval *approval, bool approve)
{
    approval->open = false;
    if (--turn->open == 0) /* the clock goes on */
        turn->deadline += cs_mono_ms() - turn->still_since;
    free(approval->request);
    approval->request = NULL;
    return cs_engine_turn_answer(turn->engine_turn, approval->id, approve, NULL);
}

/* Forget the oldest closed one when there are many. */
static void forget_old(struct cs_turn *turn)
{
    struct cs_approval **at, **oldest = NULL;
    size_t closed = 0;

    for (at = &turn->approvals; *at != NULL; at = &(*at)->next) {
        if ((*at)->open)
            continue;
        closed++;
        if (oldest == NULL)
            oldest = at;
    }
    if (closed > KEPT_MAX) {
        struct cs_approval *gone = *oldest;

        *oldest = gone->next;
        free_approval(gone);
    }
}

static void append(struct cs_turn *turn, struct cs_approval *approval)
{
    struct cs_approval **at = &turn->approvals;

    while (*at != NULL)
        at = &(*at)->next;
    *at = approval;
    approval->open = true;
    approval->asked_at = cs_mono_ms();
    approval->number = ++turn->core->asked;
    if (turn->open++ == 0)
        turn->still_since = approval->asked_at;
}

/* ---- the driving thread ---- */

static struct cs_approval *approval_new(const struct cs_turn *turn, const char *id,
                                        const char *kind, const struct cs_engine_event *event)
{
    const struct cs_config *config = cs_core_config(turn->core);
    struct cs_approval *approval = calloc(1, sizeof *approval);
    int64_t now = cs_mono_ms();

    if (approval == NULL)
        return NULL;
    snprintf(approval->id, sizeof approval->id, "%s", id);
    snprintf(approval->kind, sizeof approval->kind, "%s", kind);
    approval->needs = power_of(turn, kind, event->text, event->len);
    approval->due = now + config->approval_timeout_ms;
    if (approval->due > turn->limit)
        approval->due = turn->limit;
    approval->expires_at = cs_clock_ms() + (approval->due - now);
    approval->request = strdup(event->text);
    if (approval->request == NULL) {
        free(approval);
        return NULL;
    }
    return approval;
}

static void log_resolved(const struct cs_turn *turn, const char *id, bool approve, const char *by)
{
    cs_log(CS_LOG_INFO, "approval_resolved", "turn", turn->row.tid, "approval", id, "decision",
           decision_name(approve), "by", by, NULL);
}

/* Nobody is asked. @approval may be NULL: there was no memory for it. */
static void decline(struct cs_turn *turn, struct cs_approval *approval, const char *id)
{
    const char *by = approval != NULL ? "ceiling" : "memory";

    pthread_mutex_lock(&turn->core->mutex);
    if (approval != NULL) {
        append(turn, approval);
        forget_old(turn);
        (void)close_one(turn, approval, false);
    } else {
        (void)!cs_engine_turn_answer(turn->engine_turn, id, false, NULL);
    }
    tell_resolved(turn, id, false, by);
    pthread_mutex_unlock(&turn->core->mutex);
    log_resolved(turn, id, false, by);
}

void cs_approval_asked(struct cs_turn *turn, const struct cs_engine_event *event)
{
    struct cs_core *core = turn->core;
    struct cs_approval *approval;
    char id[24], kind[16];

    if (sscanf(event->detail, "%23s %15s", id, kind) != 2)
        return;
    approval = approval_new(turn, id, kind, event);
    if (approval == NULL ||
        cs_request_sandbox(cs_core_config(core), approval->needs, NULL) != CS_OK) {
        decline(turn, approval, id);
        return;
    }
    pthread_mutex_lock(&core->mutex);
    append(turn, approval);
    forget_old(turn);
    (void)tell_requested(turn, approval, NULL, TOLD_MAX);
    pthread_cond_broadcast(&turn->changed);
    pthread_mutex_unlock(&core->mutex);
    cs_log(CS_LOG_INFO, "approval_requested", "turn", turn->row.tid, "approval", id, "kind", kind,
           NULL);
}

int64_t cs_approval_due(struct cs_turn *turn)
{
    const struct cs_approval *approval;
    int64_t due = CS_NEVER;

    pthread_mutex_lock(&turn->core->mutex);
    for (approval = turn->approvals; approval != NULL; approval = approval->next)
        if (approval->open && approval->due < due)
            due = approval->due;
    pthread_mutex_unlock(&turn->core->mutex);
    return due;
}

int64_t cs_approval_deadline(struct cs_turn *turn)
{
    int64_t now = cs_mono_ms(), deadline;

    pthread_mutex_lock(&turn->core->mutex);
    deadline = turn->deadline;
    if (turn->open > 0) {
        int64_t left = deadline - turn->still_since;

        deadline = now + (left > LOOK_MS ? left : LOOK_MS);
    }
    pthread_mutex_unlock(&turn->core->mutex);
    return deadline < turn->limit ? deadline : turn->limit;
}

/* Decline one that is open and due at @now, in the name of @by. False when there is none. */
static bool decline_due(struct cs_turn *turn, int64_t now, const char *by)
{
    struct cs_approval *approval;
    char id[sizeof approval->id] = "";

    pthread_mutex_lock(&turn->core->mutex);
    approval = turn->approvals;
    while (approval != NULL && (!approval->open || approval->due > now))
        approval = approval->next;
    if (approval != NULL) {
        (void)close_one(turn, approval, false);
        memcpy(id, approval->id, sizeof id);
        tell_resolved(turn, id, false, by);
    }
    pthread_mutex_unlock(&turn->core->mutex);
    if (approval == NULL)
        return false;
    log_resolved(turn, id, false, by);
    return true;
}

void cs_approval_expire(struct cs_turn *turn)
{
    while (decline_due(turn, cs_mono_ms(), "timeout"))
        continue;
}

void cs_approval_await_told(struct cs_turn *turn)
{
    pthread_mutex_lock(&turn->core->mutex); /* which whoever answers holds until it is told */
    pthread_mutex_unlock(&turn->core->mutex);
}

void cs_approval_end(struct cs_turn *turn, enum cs_stop stop)
{
    static const char *const by[] = {
        [CS_STOP_NONE] = "codex",
        [CS_STOP_TIMEOUT] = "timeout",
        [CS_STOP_CANCEL] = "cancel",
        [CS_STOP_SHUTDOWN] = "shutdown",
    };

    while (decline_due(turn, INT64_MAX, by[stop]))
        continue;
}

void cs_approval_free(struct cs_turn *turn)
{
    while (turn->approvals != NULL) {
        struct cs_approval *next = turn->approvals->next;

        free_approval(turn->approvals);
        turn->approvals = next;
    }
}

/* ---- callers ---- */

/* An open one with this id; with the mutex. */
static enum cs_status find_open(struct cs_turn *turn, const char *id,
                                struct cs_approval **out_approval, struct cs_err *err)
{
    struct cs_approval *approval = find(turn, id);

    if (approval == NULL) {
        (void)cs_err_set(err, CS_NOT_FOUND, "approval_not_found",
                         "Codex does not ask this in turn %s", turn->row.tid);
        return CS_NOT_FOUND;
    }
    if (!approval->open || turn->stop != CS_STOP_NONE) {
        (void)cs_err_set(err, CS_CONFLICT, "approval_answered",
                         "This was answered already, or it is too late");
        return CS_CONFLICT;
    }
    *out_approval = approval;
    return CS_OK;
}

/* The turn does not run here. */
static enum cs_status explain_missing(struct cs_core *core, const char *tid, struct cs_err *err)
{
    struct cs_turn_row row;
    struct cs_db *db = NULL;
    enum cs_status rc = cs_store_read(core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_turn_find(db, tid, &row, err);
    cs_store_done(core->store, db);
    if (rc != CS_OK)
        return rc;
    cs_turn_row_fini(&row);
    return cs_err_set(err, CS_NOT_FOUND, "approval_not_found",
                      "Turn %s does not run: nothing is asked in it", tid);
}

enum cs_status cs_turn_approve(struct cs_core *core, const char *tid, const char *approval_id,
                               bool approve, const char *by, struct cs_err *err)
{
    struct cs_turn *turn = cs_registry_by_tid(core, tid);
    struct cs_approval *approval = NULL;
    enum cs_status rc;

    if (turn == NULL)
        return explain_missing(core, tid, err);
    pthread_mutex_lock(&core->mutex);
    rc = find_open(turn, approval_id, &approval, err);
    if (rc == CS_OK && approve) /* the ceiling may have been lowered meanwhile */
        rc = cs_request_sandbox(cs_core_config(core), approval->needs, err);
    if (rc != CS_OK) {
        pthread_mutex_unlock(&core->mutex);
        cs_turn_unref(turn);
        return rc;
    }
    if (close_one(turn, approval, approve) != CS_OK) {
        rc = cs_err_set(err, CS_CONFLICT, "approval_answered", "Codex does not ask this any more");
        approve = false;
        by = "codex";
    }
    tell_resolved(turn, approval_id, approve, by);
    pthread_mutex_unlock(&core->mutex);
    log_resolved(turn, approval_id, approve, by);
    cs_turn_unref(turn);
    return rc;
}

struct tell_walk {
    struct cs_feed *feed;
    int64_t upto;
};

static void tell_node(const void *node, VISIT visit, void *arg)
{
    struct cs_turn *const *turn = node;
    const struct tell_walk *walk = arg;
    const struct cs_approval *approval;

    if ((visit != postorder && visit != leaf) || !cs_events_wanted(walk->feed, *turn))
        return;
    for (approval = (*turn)->approvals; approval != NULL; approval = approval->next)
        if (approval->open && approval->number <= walk->upto &&
            !tell_requested(*turn, approval, walk->feed, TOLD_MAX))
            (void)tell_requested(*turn, approval, walk->feed, 0);
}

void cs_approval_tell_again(struct cs_core *core, struct cs_feed *feed, int64_t upto)
{
    struct tell_walk walk = {feed, upto};

    pthread_mutex_lock(&core->mutex);
    twalk_r(core->by_tid, tell_node, &walk);
    pthread_mutex_unlock(&core->mutex);
}

int64_t cs_approval_news(const struct cs_turn *turn, int64_t since)
{
    const struct cs_approval *approval;
    int64_t news = CS_NEVER;

    for (approval = turn->approvals; approval != NULL; approval = approval->next) {
        int64_t at = approval->asked_at >= since ? since : since + KNOWN_MS;

        if (approval->open && at < news)
            news = at;
    }
    return news;
}

enum cs_status cs_approval_list(struct cs_core *core, const char *tid, char **out_json,
                                struct cs_err *err)
{
    struct cs_turn *turn = cs_registry_by_tid(core, tid);
    const struct cs_approval *approval;
    struct cs_buf list;
    struct cs_jsonw w;
    size_t count = 0;
    enum cs_status rc;

    if (turn == NULL)
        return CS_OK;
    cs_buf_init(&list, (size_t)1 << 30);
    cs_jsonw_init(&w, &list);
    cs_jsonw_array(&w, NULL);
    pthread_mutex_lock(&core->mutex);
    for (approval = turn->approvals; approval != NULL; approval = approval->next) {
        if (!approval->open)
            continue;
        cs_jsonw_object(&w, NULL);
        render(&w, approval, SIZE_MAX);
        cs_jsonw_end_object(&w);
        count++;
    }
    pthread_mutex_unlock(&core->mutex);
    cs_jsonw_end_array(&w);
    rc = cs_buf_check(&list, err);
    if (rc == CS_OK && count > 0)
        *out_json = cs_buf_take(&list, NULL);
    cs_buf_fini(&list);
    cs_turn_unref(turn);
    return rc;
}
