/* core/drive: a turn's way through Codex, on the thread that waits for it. */
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "approval.h"
#include "priv.h"

#define GIVE_UP_MS                                                                                 \
    6000 /* after a stop: Codex's own 3 s and slack, then the turn is left behind                  \
          */
#define STACK_BYTES 131072 /* of a thread that drives a detached turn */
#define QUIET_MS    50     /* without an event: the turn will take its time */

/* Replace the owned string at @slot. Out of memory keeps the old one: the outcome must still be
 * written. */
static void replace(char **slot, const char *text)
{
    char *copy = strdup(text);

    if (copy == NULL)
        return;
    free(*slot);
    *slot = copy;
}

static enum cs_stop stop_of(struct cs_turn *turn)
{
    enum cs_stop stop;

    pthread_mutex_lock(&turn->core->mutex);
    stop = turn->stop;
    pthread_mutex_unlock(&turn->core->mutex);
    return stop;
}

static void keep_answer(struct cs_turn *turn, const struct cs_engine_event *event)
{
    char *copy = malloc(event->len + 1);

    free(turn->answer);
    turn->answer = copy;
    turn->answer_len = copy != NULL ? event->len : 0;
    if (copy == NULL)
        return; /* end_row() reports it */
    memcpy(copy, event->text, event->len);
    copy[event->len] = '\0';
}

static void note_event(struct cs_turn *turn, const struct cs_engine_event *event)
{
    struct cs_turn_row *row = &turn->row;

    switch (event->type) {
    case CS_EVENT_THREAD:
        replace(&row->thread_id, event->text);
        cs_log(CS_LOG_DEBUG, "turn_thread", "turn", row->tid, "thread", event->text, "how",
               event->detail, NULL);
        break;
    case CS_EVENT_STARTED:
        replace(&row->engine_turn_id, event->text);
        if (event->detail[0] != '\0')
            replace(&row->model, event->detail);
        break;
    case CS_EVENT_MESSAGE:
        keep_answer(turn, event);
        break;
    case CS_EVENT_USAGE:
        row->usage = (struct cs_usage){event->input, event->cached_input, event->output};
        row->total =
            (struct cs_usage){event->total_input, event->total_cached_input, event->total_output};
        break;
    case CS_EVENT_DELTA:
    case CS_EVENT_ITEM:
    case CS_EVENT_APPROVAL:
    case CS_EVENT_DONE:
        break;
    }
}

/* Wait for an event. Once in a turn that is quiet, what its beginning took of the stack is given
 * back: a thousand such turns would hold many MB of it. */
static enum cs_status next_event(struct cs_engine_turn *engine_turn, bool *quiet, int64_t until,
                                 struct cs_engine_event *event, struct cs_err *err)
{
    int64_t soon = *quiet ? CS_NEVER : cs_mono_ms() + QUIET_MS;
    enum cs_status rc = cs_engine_turn_next(engine_turn, soon < until ? soon : until, event, err);

    if (rc != CS_TIMEOUT || soon >= until)
        return rc;
    cs_err_clear(err);
    cs_stack_release();
    *quiet = true;
    return cs_engine_turn_next(engine_turn, until, event, err);
}

/* Pull events until the end, at most until the turn's deadline and what stopping takes. */
static void pull(struct cs_turn *turn, struct cs_engine_turn *engine_turn, struct cs_err *out_end)
{
    struct cs_engine_event event;
    int64_t give_up = CS_NEVER;
    bool quiet = false;
    enum cs_status rc;

    for (;;) {
        int64_t end = give_up != CS_NEVER ? give_up : cs_approval_deadline(turn);
        int64_t due = cs_approval_due(turn);

        rc = next_event(engine_turn, &quiet, due < end ? due : end, &event, out_end);
        if (rc == CS_TIMEOUT && due < end) {
            cs_err_clear(out_end);
            cs_approval_expire(turn);
            continue;
        }
        if (rc == CS_TIMEOUT && give_up == CS_NEVER) {
            cs_err_clear(out_end);
            if (cs_mono_ms() < cs_approval_deadline(turn))
                continue; /* its clock stood still */
            cs_registry_stop(turn, CS_STOP_TIMEOUT);
            give_up = cs_mono_ms() + GIVE_UP_MS;
            continue;
        }
        if (rc != CS_OK)
            return;
        if (turn->may_ask)
            cs_approval_await_told(turn);
        note_event(turn, &event);
        cs_event_of_engine(turn, &event);
        if (event.type == CS_EVENT_APPROVAL)
            cs_approval_asked(turn, &event);
        if (event.type == CS_EVENT_DONE) {
            *out_end = *event.error;
            return;
        }
    }
}

/* One attempt; @model NULL asks for Codex's own default. *out_end says how it ended. */
static void attempt(struct cs_turn *turn, const char *model, struct cs_err *out_end)
{
    const struct cs_config *config = cs_core_config(turn->core);
    struct cs_engine_request request = {
        .kind = turn->kind,
        .prompt = turn->prompt,
        .prompt_len = turn->prompt_len,
        .context = turn->context,
        .context_len = turn->context_len,
        .cwd = turn->session.cwd,
        .sandbox = turn->row.sandbox,
        .model = model != NULL && model[0] != '\0' ? model : NULL, /* "": what a fallback ran on */
        .thread_id = turn->thread_id,
        .orphan_turn = turn->orphan_turn,
        .history = turn->row.continued ? cs_context_history : NULL,
        .history_arg = turn,
        .preamble_bytes = config->preamble_bytes,
        .total_input = turn->thread_total.input,
        .total_cached = turn->thread_total.cached_input,
        .total_output = turn->thread_total.output,
        .approvals = turn->may_ask,
    };
    struct cs_engine_turn *engine_turn = NULL;

    if (cs_engine_turn_start(turn->core->engine, &request, &engine_turn, out_end) != CS_OK)
        return;
    cs_registry_set_engine_turn(turn, engine_turn);
    pull(turn, engine_turn, out_end);
    cs_approval_end(turn, stop_of(turn));
    cs_registry_set_engine_turn(turn, NULL);
    cs_engine_turn_free(engine_turn);
}

/* Codex refused the default model: go once more with its own, on a thread that never saw this
 * prompt. */
static void attempt_own_default(struct cs_turn *turn, struct cs_err *out_end)
{
    cs_log(CS_LOG_WARN, "model_fallback", "turn", turn->row.tid, "model", turn->row.model, "reason",
           out_end->msg, NULL);
    cs_err_clear(out_end);
    free(turn->thread_id);
    free(turn->orphan_turn);
    turn->thread_id = turn->orphan_turn = NULL;
    turn->thread_total = (struct cs_usage){-1, -1, -1};
    replace(&turn->row.thread_id, "");
    replace(&turn->row.engine_turn_id, "");
    replace(&turn->row.model, "");
    turn->row.model_fallback = true;
    atomic_store(&turn->core->model_fallback, true);
    attempt(turn, NULL, out_end);
}

static void end_failed(struct cs_turn_row *row, enum cs_turn_status status, const char *code,
                       const char *sentence)
{
    row->status = status;
    replace(&row->error_code, code);
    replace(&row->error, sentence);
}

/* Turn how it ended into the row that will be stored. */
static void end_row(struct cs_turn *turn, const struct cs_err *end)
{
    struct cs_turn_row *row = &turn->row;

    row->ended_at = cs_clock_ms();
    row->duration_ms = cs_mono_ms() - turn->begun;
    if (end->status == CS_OK && turn->answer == NULL)
        turn->answer = strdup(""); /* Codex may end a turn without a word */
    if (end->status == CS_OK && turn->answer != NULL) {
        row->status = CS_TURN_COMPLETED;
        return;
    }
    switch (stop_of(turn)) {
    case CS_STOP_TIMEOUT:
        end_failed(row, CS_TURN_FAILED, "execution_timeout", "Codex execution timeout");
        break;
    case CS_STOP_CANCEL:
        end_failed(row, CS_TURN_CANCELLED, "turn_cancelled", "The turn was cancelled");
        break;
    case CS_STOP_SHUTDOWN:
        end_failed(row, CS_TURN_INTERRUPTED, "turn_interrupted",
                   "The daemon stopped while this turn was running");
        break;
    case CS_STOP_NONE:
        if (end->status == CS_OK)
            end_failed(row, CS_TURN_FAILED, "out_of_memory", "out of memory");
        else
            end_failed(row, CS_TURN_FAILED,
                       end->code != NULL ? end->code : cs_status_name(end->status), end->msg);
        break;
    }
}

static void log_end(const struct cs_turn *turn)
{
    const struct cs_turn_row *row = &turn->row;
    bool completed = row->status == CS_TURN_COMPLETED;

    cs_log(completed ? CS_LOG_INFO : CS_LOG_WARN, "turn_end", "turn", row->tid, "session",
           turn->session.sid, "status", cs_turn_status_name(row->status), "code",
           completed ? NULL : row->error_code, "detail", completed ? NULL : row->error, "engine",
           row->engine, "model", row->model, "ms", CS_NUM(row->duration_ms), NULL);
}

/* Write the outcome; when the disk refuses, the sweeper goes on trying while the session stays
 * busy. */
static enum cs_status finish(struct cs_turn *turn, const struct cs_err *end, struct cs_err *err)
{
    struct cs_err why = {0};
    enum cs_status rc;

    end_row(turn, end);
    log_end(turn);
    rc = cs_turn_persist_end(turn, &why);
    if (rc != CS_OK) {
        cs_event_unstored(turn, &why);
        (void)cs_err_set(err, rc, why.code, "%s", why.msg);
    }
    if (rc != CS_OK && rc != CS_CONFLICT && rc != CS_NOT_FOUND)
        cs_expiry_retry_later(turn);
    return rc;
}

enum cs_status cs_turn_run(struct cs_turn *turn, struct cs_err *err)
{
    struct cs_err end = {0};
    enum cs_status rc;

    attempt(turn, turn->row.model, &end);
    if (turn->default_model && stop_of(turn) == CS_STOP_NONE && end.code != NULL &&
        strcmp(end.code, "model_not_found") == 0)
        attempt_own_default(turn, &end);
    rc = finish(turn, &end, err);
    cs_turn_unref(turn);
    return rc;
}

static void *run_detached(void *arg)
{
    struct cs_turn *turn = arg;
    struct cs_err err = {0};

    if (cs_turn_run(turn, &err) != CS_OK)
        cs_log_err("turn_not_stored", &err, NULL, NULL);
    return NULL;
}

enum cs_status cs_turn_detach(struct cs_turn *turn, struct cs_err *err)
{
    struct cs_err end = {0};
    pthread_t thread;

    if (cs_thread_start(&thread, "turn", STACK_BYTES, run_detached, turn, &end) == CS_OK) {
        pthread_detach(thread);
        return CS_OK;
    }
    cs_err_clear(&end);
    cs_err_set(&end, CS_BUSY, "too_many_turns", "No thread could be started for the turn");
    if (finish(turn, &end, NULL) != CS_OK)
        cs_log(CS_LOG_ERROR, "turn_not_stored", "turn", turn->row.tid, NULL);
    cs_turn_unref(turn);
    return cs_err_set(err, end.status, end.code, "%s", end.msg);
}
