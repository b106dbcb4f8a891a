/* mcp/tasks: turns that are polled for.
 *
 * A task is a turn: its id is the turn's, so that it outlives the session, the connection and the
 * daemon, and turns begun in any other way are tasks too.
 *
 * There are two dialects. In 2025-11-25 tasks are part of the protocol: a client asks for one with
 * its call, waits with tasks/result, and is asked on that stream. In 2026-07-28 they are an
 * extension: who declares it gets a task for every call that may take long, and tasks/get has it
 * all, the result and what Codex asks, which tasks/update answers.
 */
#include <stdlib.h>
#include <string.h>

#include "approval.h"
#include "cs/base/clock.h"
#include "turn.h"

#define POLL_MS   1000 /* between two looks of a client */
#define PAGE      50   /* tasks */
#define CANCEL_MS 5000 /* for a cancelled turn to end */

/* ---- a task ---- */

/* With the extension a task fails by an error of the protocol alone: a turn that failed is a result
 * that says so. */
static const char *status_of(const struct cs_mcp_call *call, enum cs_turn_status status)
{
    switch (status) {
    case CS_TURN_RUNNING:
        return "working";
    case CS_TURN_COMPLETED:
        return "completed";
    case CS_TURN_FAILED:
    case CS_TURN_INTERRUPTED:
        return cs_mcp_stateless(call) ? "completed" : "failed";
    case CS_TURN_CANCELLED:
        return "cancelled";
    }
    return "failed";
}

/* How long a turn is kept from its beginning: as long as its session, at least. */
static int64_t kept_ms(const struct cs_config *config)
{
    return config->ttl_seconds == 0 ? 0
                                    : config->ttl_seconds * 1000 + config->archive_days * 86400000;
}

/* Whether Codex waits for what this client could be asked. */
static bool wants_input(const struct cs_mcp_call *call, const struct cs_turn_view *view)
{
    return view->approvals != NULL && view->row.status == CS_TURN_RUNNING &&
           (call->can & CS_CAN_ELICIT) != 0;
}

/* The members of a task; @asked: it waits for input. */
static void write_task(const struct cs_mcp_call *call, struct cs_jsonw *w,
                       const struct cs_turn_row *row, bool asked)
{
    int64_t kept = kept_ms(cs_core_config(call->mcp->core));
    const char *ttl = cs_mcp_stateless(call) ? "ttlMs" : "ttl";

    cs_jsonw_string(w, "taskId", row->tid);
    cs_jsonw_string(w, "status", asked ? "input_required" : status_of(call, row->status));
    if (row->error[0] != '\0')
        cs_jsonw_string(w, "statusMessage", row->error);
    cs_jsonw_time(w, "createdAt", row->started_at);
    cs_jsonw_time(w, "lastUpdatedAt", row->ended_at != 0 ? row->ended_at : row->started_at);
    if (kept != 0)
        cs_jsonw_int(w, ttl, kept);
    else
        cs_jsonw_null(w, ttl);
    cs_jsonw_int(w, cs_mcp_stateless(call) ? "pollIntervalMs" : "pollInterval", POLL_MS);
}

/* What the extension adds as the task stands: its result, or what is asked. */
static enum cs_status write_detail(struct cs_jsonw *w, const struct cs_turn_view *view, bool asked,
                                   struct cs_err *err)
{
    struct cs_json *questions = NULL;
    enum cs_status rc = CS_OK;

    if (asked) {
        size_t len = strlen(view->approvals);

        rc = cs_json_parse(view->approvals, len, len, &questions, err);
        if (rc == CS_OK)
            rc = cs_approval_requests(w, questions, err);
        cs_json_free(questions);
    } else if (view->row.status != CS_TURN_RUNNING && view->row.status != CS_TURN_CANCELLED) {
        cs_jsonw_object(w, "result");
        cs_turn_result(w, view);
        cs_jsonw_string(w, "resultType", "complete");
        cs_jsonw_end_object(w);
    }
    return rc;
}

enum cs_status cs_task_write(const struct cs_mcp_call *call, struct cs_jsonw *w, const char *tid,
                             struct cs_err *err)
{
    struct cs_turn_view view;
    enum cs_status rc = cs_turn_view(call->mcp->core, tid, 0, &view, err);
    bool asked;

    if (rc != CS_OK)
        return rc;
    asked = wants_input(call, &view);
    write_task(call, w, &view.row, asked);
    if (cs_mcp_stateless(call))
        rc = write_detail(w, &view, asked, err);
    cs_turn_view_fini(&view);
    return rc;
}

bool cs_task_asked(const struct cs_mcp_call *call)
{
    return call->revision == CS_REVISION_2025_11_25 &&
           cs_json_type(cs_json_get(call->params, "task")) == CS_JSON_OBJECT;
}

bool cs_task_wanted(const struct cs_mcp_call *call)
{
    return cs_mcp_stateless(call) ? (call->can & CS_CAN_TASKS) != 0 : cs_task_asked(call);
}

enum cs_status cs_task_begun(struct cs_mcp_call *call, const char *tid, struct cs_err *err)
{
    struct cs_turn_view view;
    enum cs_status rc = cs_turn_view(call->mcp->core, tid, 0, &view, err);

    if (rc != CS_OK)
        return rc;
    if (cs_mcp_stateless(call)) {
        cs_mcp_result_type(call, "task");
        write_task(call, &call->w, &view.row, wants_input(call, &view));
    } else {
        cs_jsonw_object(&call->w, "task");
        write_task(call, &call->w, &view.row, wants_input(call, &view));
        cs_jsonw_end_object(&call->w);
    }
    cs_turn_view_fini(&view);
    return CS_OK;
}

void cs_task_name(struct cs_mcp_call *call, const char *tid)
{
    cs_jsonw_object(&call->w, "_meta");
    cs_jsonw_object(&call->w, "io.modelcontextprotocol/related-task");
    cs_jsonw_string(&call->w, "taskId", tid);
    cs_jsonw_end_object(&call->w);
    cs_jsonw_end_object(&call->w);
}

/* ---- the methods ---- */

/* How a missing turn reads where a task was asked for. */
static enum cs_status no_task(struct cs_mcp_call *call, const struct cs_err *why,
                              struct cs_err *err)
{
    if (why->status == CS_NOT_FOUND)
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err, "There is no such task");
    return cs_err_set(err, why->status, why->code, "%s", why->msg);
}

/* The turn that params.taskId names; waits for its end until @deadline. */
static enum cs_status find(struct cs_mcp_call *call, int64_t deadline,
                           struct cs_turn_view *out_view, struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc = cs_turn_view(call->mcp->core, call->name, deadline, out_view, &why);

    return rc == CS_OK ? rc : no_task(call, &why, err);
}

enum cs_status cs_mcp_tasks_get(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc = cs_task_write(call, &call->w, call->name, &why);

    return rc == CS_OK ? rc : no_task(call, &why, err);
}

enum cs_status cs_mcp_tasks_result(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_turn_view view;
    enum cs_status rc = find(call, 0, &view, err);

    if (rc != CS_OK)
        return rc;
    cs_turn_view_fini(&view);
    call->watches = true;
    rc = cs_turn_answer(call, call->name, err);
    if (rc == CS_OK)
        cs_task_name(call, call->name);
    return rc;
}

enum cs_status cs_mcp_tasks_update(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct cs_json *given = cs_json_get(call->params, "inputResponses");
    struct cs_turn_view view;
    enum cs_status rc = find(call, 0, &view, err);

    if (rc != CS_OK)
        return rc;
    cs_turn_view_fini(&view);
    if (cs_json_type(given) != CS_JSON_OBJECT)
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err,
                             "params.inputResponses must be an object");
    cs_approval_take(call, call->name, given);
    return CS_OK;
}

/* Ask turn call->name to stop, and answer with how it stands then. */
static enum cs_status cancel(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_turn_view view;
    enum cs_status rc;

    if (!cs_turn_cancel(call->mcp->core, call->name))
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err, "The task has ended already");
    rc = find(call, cs_mono_ms() + CANCEL_MS, &view, err);
    if (rc != CS_OK)
        return rc;
    write_task(call, &call->w, &view.row, wants_input(call, &view));
    cs_turn_view_fini(&view);
    return CS_OK;
}

enum cs_status cs_mcp_tasks_cancel(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_turn_view view;
    enum cs_status rc = find(call, 0, &view, err);

    if (rc != CS_OK)
        return rc;
    cs_turn_view_fini(&view);
    if (!cs_mcp_stateless(call))
        return cancel(call, err);
    (void)cs_turn_cancel(call->mcp->core, call->name); /* an ended one is as good */
    return CS_OK;
}

enum cs_status cs_mcp_tasks_list(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_turn_row *rows = NULL;
    int64_t before = 0;
    size_t count = 0, i;
    enum cs_status rc =
        cs_cursor_read(call, cs_json_get_string(call->params, "cursor"), &before, err);

    if (rc != CS_OK)
        return rc;
    rows = calloc(PAGE, sizeof *rows);
    if (rows == NULL)
        return cs_err_nomem(err);
    rc = cs_core_turns(call->mcp->core, before, rows, PAGE, &count, err);
    cs_jsonw_array(&call->w, "tasks");
    for (i = 0; i < count; i++) {
        cs_jsonw_object(&call->w, NULL);
        write_task(call, &call->w, &rows[i], false);
        cs_jsonw_end_object(&call->w);
    }
    cs_jsonw_end_array(&call->w);
    cs_cursor_write(&call->w, count == PAGE ? rows[PAGE - 1].id : 0);
    for (i = 0; i < count; i++)
        cs_turn_row_fini(&rows[i]);
    free(rows);
    return rc;
}
