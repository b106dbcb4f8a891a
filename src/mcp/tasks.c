/* mcp/tasks: turns that are polled for (2025-11-25).
 *
 * A task is a turn: its id is the turn's, so that it outlives the session, the connection and the
 * daemon, and turns begun in any other way are tasks too.
 */
#include <stdlib.h>

#include "cs/base/clock.h"
#include "turn.h"

#define POLL_MS   1000 /* between two looks of a client */
#define PAGE      50   /* tasks */
#define CANCEL_MS 5000 /* for a cancelled turn to end */

/* ---- a task ---- */

static const char *status_of(enum cs_turn_status status)
{
    switch (status) {
    case CS_TURN_RUNNING:
        return "working";
    case CS_TURN_COMPLETED:
        return "completed";
    case CS_TURN_FAILED:
    case CS_TURN_INTERRUPTED:
        return "failed";
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

/* Whether Codex waits for what tasks/result would ask of this client. */
static bool wants_input(const struct cs_mcp_call *call, const struct cs_turn_view *view)
{
    return view->approvals != NULL && view->row.status == CS_TURN_RUNNING &&
           (call->can & CS_CAN_ELICIT) != 0;
}

/* The members of a task; @asked: it waits for input. */
static void write_task(struct cs_mcp_call *call, const struct cs_turn_row *row, bool asked)
{
    int64_t kept = kept_ms(cs_core_config(call->mcp->core));
    struct cs_jsonw *w = &call->w;

    cs_jsonw_string(w, "taskId", row->tid);
    cs_jsonw_string(w, "status", asked ? "input_required" : status_of(row->status));
    if (row->error[0] != '\0')
        cs_jsonw_string(w, "statusMessage", row->error);
    cs_jsonw_time(w, "createdAt", row->started_at);
    cs_jsonw_time(w, "lastUpdatedAt", row->ended_at != 0 ? row->ended_at : row->started_at);
    if (kept != 0)
        cs_jsonw_int(w, "ttl", kept);
    else
        cs_jsonw_null(w, "ttl");
    cs_jsonw_int(w, "pollInterval", POLL_MS);
}

bool cs_task_wanted(const struct cs_mcp_call *call)
{
    return call->revision == CS_REVISION_2025_11_25 &&
           cs_json_type(cs_json_get(call->params, "task")) == CS_JSON_OBJECT;
}

enum cs_status cs_task_begun(struct cs_mcp_call *call, const char *tid, struct cs_err *err)
{
    struct cs_turn_view view;
    enum cs_status rc = cs_turn_view(call->mcp->core, tid, 0, &view, err);

    if (rc != CS_OK)
        return rc;
    cs_jsonw_object(&call->w, "task");
    write_task(call, &view.row, wants_input(call, &view));
    cs_jsonw_end_object(&call->w);
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

/* The turn that params.taskId names; waits for its end until @deadline. */
static enum cs_status find(struct cs_mcp_call *call, int64_t deadline,
                           struct cs_turn_view *out_view, struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc = cs_turn_view(call->mcp->core, call->name, deadline, out_view, &why);

    if (rc == CS_NOT_FOUND)
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err, "There is no such task");
    return rc == CS_OK ? rc : cs_err_set(err, rc, why.code, "%s", why.msg);
}

enum cs_status cs_mcp_tasks_get(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_turn_view view;
    enum cs_status rc = find(call, 0, &view, err);

    if (rc != CS_OK)
        return rc;
    write_task(call, &view.row, wants_input(call, &view));
    cs_turn_view_fini(&view);
    return CS_OK;
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

enum cs_status cs_mcp_tasks_cancel(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_turn_view view;
    bool running;
    enum cs_status rc = find(call, 0, &view, err);

    if (rc != CS_OK)
        return rc;
    running = view.row.status == CS_TURN_RUNNING;
    cs_turn_view_fini(&view);
    if (!running || !cs_turn_cancel(call->mcp->core, call->name))
        return cs_mcp_refuse(call, CS_RPC_INVALID_PARAMS, NULL, err, "The task has ended already");
    rc = find(call, cs_mono_ms() + CANCEL_MS, &view, err);
    if (rc != CS_OK)
        return rc;
    write_task(call, &view.row, wants_input(call, &view));
    cs_turn_view_fini(&view);
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
        write_task(call, &rows[i], false);
        cs_jsonw_end_object(&call->w);
    }
    cs_jsonw_end_array(&call->w);
    cs_cursor_write(&call->w, count == PAGE ? rows[PAGE - 1].id : 0);
    for (i = 0; i < count; i++)
        cs_turn_row_fini(&rows[i]);
    free(rows);
    return rc;
}
