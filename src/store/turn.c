#include "cs/store/turn.h"

#include <stdlib.h>

#include "cs/store/message.h"
#include "db.h"
#include "turn.h"

#define INTERRUPTED_CODE "turn_interrupted"
#define INTERRUPTED_TEXT "The daemon stopped while this turn was running"

const char *cs_turn_status_name(enum cs_turn_status status)
{
    switch (status) {
    case CS_TURN_RUNNING:
        return "running";
    case CS_TURN_COMPLETED:
        return "completed";
    case CS_TURN_FAILED:
        return "failed";
    case CS_TURN_INTERRUPTED:
        return "interrupted";
    case CS_TURN_CANCELLED:
        return "cancelled";
    }
    return "unknown";
}

void cs_turn_row_fini(struct cs_turn_row *turn)
{
    free(turn->model);
    free(turn->sandbox);
    free(turn->engine);
    free(turn->engine_version);
    free(turn->thread_id);
    free(turn->engine_turn_id);
    free(turn->error_code);
    free(turn->error);
    free(turn->evicted);
    *turn = (struct cs_turn_row){0};
}

/* ---- writing ---- */

/* Say why an insertion met a row that is there already. */
static enum cs_status explain_conflict(struct cs_db *db, const struct cs_turn_row *turn,
                                       struct cs_err *err)
{
    bool running;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_TURN_RUNNING);
    cs_sql_int(&q, turn->session);
    running = cs_sql_next(&q);
    status = cs_sql_end(&q, "look for a running turn", err);
    if (status != CS_OK)
        return status;
    if (running)
        return cs_err_set(err, CS_CONFLICT, "session_busy", "a turn of this session is running");
    return cs_err_set(err, CS_CONFLICT, "turn_exists", "the turn id is in use");
}

enum cs_status cs_turn_insert(struct cs_db *db, struct cs_turn_row *turn, struct cs_err *err)
{
    struct cs_err why = {.status = CS_OK};
    int64_t id = ++db->tops[CS_TOP_TURN];
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_TURN_INSERT);
    cs_sql_int(&q, id);
    cs_sql_text(&q, turn->tid);
    cs_sql_int(&q, turn->session);
    cs_sql_int(&q, turn->continued);
    cs_sql_int(&q, turn->started_at);
    cs_sql_int(&q, turn->timeout_ms);
    cs_sql_text(&q, turn->model);
    cs_sql_text(&q, turn->sandbox);
    cs_sql_int(&q, turn->prompt_message);
    cs_sql_text(&q, turn->evicted != NULL ? turn->evicted : "[]");
    cs_sql_int(&q, turn->stale);
    status = cs_sql_run(&q, "begin a turn", &why);
    if (status == CS_CONFLICT)
        return explain_conflict(db, turn, err);
    if (status != CS_OK)
        return cs_err_set(err, status, why.code, "%s", why.msg);
    cs_tally_add(db, CS_TALLY_TURNS_RUNNING, 1);
    turn->id = id;
    return CS_OK;
}

static void count_end(struct cs_db *db, const struct cs_turn_row *turn)
{
    const struct {
        enum cs_tally which;
        int64_t tokens;
    } used[] = {
        {CS_TALLY_TOKENS_INPUT, turn->usage.input},
        {CS_TALLY_TOKENS_CACHED_INPUT, turn->usage.cached_input},
        {CS_TALLY_TOKENS_OUTPUT, turn->usage.output},
    };

    cs_tally_add(db, CS_TALLY_TURNS_RUNNING, -1);
    cs_tally_add(db, (enum cs_tally)(CS_TALLY_TURNS_RUNNING + (int)turn->status), 1);
    for (size_t i = 0; i < sizeof used / sizeof *used; i++) {
        if (used[i].tokens > 0)
            cs_tally_add(db, used[i].which, used[i].tokens);
    }
}

enum cs_status cs_turn_finish(struct cs_db *db, const struct cs_turn_row *turn, struct cs_err *err)
{
    struct cs_sql q;
    enum cs_status status;

    if (turn->status == CS_TURN_RUNNING)
        return cs_err_set(err, CS_INVALID, NULL, "a turn cannot end as running");
    cs_sql_begin(&q, db, CS_SQL_TURN_FINISH);
    cs_sql_int(&q, turn->id);
    cs_sql_int(&q, (int64_t)turn->status);
    cs_sql_int(&q, turn->ended_at);
    cs_sql_int(&q, turn->duration_ms);
    cs_sql_text(&q, turn->model);
    cs_sql_int(&q, turn->model_fallback);
    cs_sql_text(&q, turn->engine);
    cs_sql_text(&q, turn->engine_version);
    cs_sql_text(&q, turn->thread_id);
    cs_sql_text(&q, turn->engine_turn_id);
    cs_sql_int(&q, turn->usage.input);
    cs_sql_int(&q, turn->usage.cached_input);
    cs_sql_int(&q, turn->usage.output);
    cs_sql_int(&q, turn->total.input);
    cs_sql_int(&q, turn->total.cached_input);
    cs_sql_int(&q, turn->total.output);
    cs_sql_int(&q, turn->answer_message);
    cs_sql_text(&q, turn->error_code);
    cs_sql_text(&q, turn->error);
    status = cs_sql_run(&q, "end a turn", err);
    if (status != CS_OK)
        return status;
    if (cs_sql_changes(&q) == 0)
        return cs_err_set(err, CS_CONFLICT, "turn_not_running", "the turn is not running");
    count_end(db, turn);
    return CS_OK;
}

/* ---- reading ---- */

/* Columns as TURN_COLUMNS in sql.c lists them. Out of memory sticks in @q. */
static void read_row(struct cs_sql *q, struct cs_turn_row *turn)
{
    turn->id = cs_sql_get_int(q, 0);
    cs_sql_copy_text(q, 1, turn->tid, sizeof turn->tid);
    turn->session = cs_sql_get_int(q, 2);
    turn->continued = cs_sql_get_int(q, 3) != 0;
    turn->status = (enum cs_turn_status)cs_sql_get_int(q, 4);
    turn->started_at = cs_sql_get_int(q, 5);
    turn->ended_at = cs_sql_get_int(q, 6);
    turn->duration_ms = cs_sql_get_int(q, 7);
    turn->timeout_ms = cs_sql_get_int(q, 8);
    turn->model = cs_sql_dup_text(q, 9);
    turn->model_fallback = cs_sql_get_int(q, 10) != 0;
    turn->sandbox = cs_sql_dup_text(q, 11);
    turn->engine = cs_sql_dup_text(q, 12);
    turn->engine_version = cs_sql_dup_text(q, 13);
    turn->thread_id = cs_sql_dup_text(q, 14);
    turn->engine_turn_id = cs_sql_dup_text(q, 15);
    turn->usage.input = cs_sql_get_int(q, 16);
    turn->usage.cached_input = cs_sql_get_int(q, 17);
    turn->usage.output = cs_sql_get_int(q, 18);
    turn->total.input = cs_sql_get_int(q, 19);
    turn->total.cached_input = cs_sql_get_int(q, 20);
    turn->total.output = cs_sql_get_int(q, 21);
    turn->prompt_message = cs_sql_get_int(q, 22);
    turn->answer_message = cs_sql_get_int(q, 23);
    turn->error_code = cs_sql_dup_text(q, 24);
    turn->error = cs_sql_dup_text(q, 25);
    turn->evicted = cs_sql_dup_text(q, 26);
    turn->stale = cs_sql_get_int(q, 27) != 0;
}

/* Run @q, whose parameters are bound, for one turn. */
static enum cs_status read_one(struct cs_sql *q, struct cs_turn_row *out_turn, struct cs_err *err)
{
    struct cs_turn_row turn = {0};
    bool found = cs_sql_next(q);
    enum cs_status status;

    if (found)
        read_row(q, &turn);
    status = cs_sql_end(q, "read a turn", err);
    if (status == CS_OK && !found)
        status = cs_err_set(err, CS_NOT_FOUND, "turn_not_found", "there is no such turn");
    if (status != CS_OK) {
        cs_turn_row_fini(&turn);
        return status;
    }
    *out_turn = turn;
    return CS_OK;
}

enum cs_status cs_turn_find(struct cs_db *db, const char *tid, struct cs_turn_row *out_turn,
                            struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_TURN_BY_TID);
    cs_sql_text(&q, tid);
    return read_one(&q, out_turn, err);
}

enum cs_status cs_turn_get(struct cs_db *db, int64_t id, struct cs_turn_row *out_turn,
                           struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_TURN_BY_ID);
    cs_sql_int(&q, id);
    return read_one(&q, out_turn, err);
}

/* No index of its own: the newest message that belongs to a turn of this host names it. */
enum cs_status cs_turn_last(struct cs_db *db, int64_t session, struct cs_turn_row *out_turn,
                            struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_TURN_LAST);
    cs_sql_int(&q, session);
    return read_one(&q, out_turn, err);
}

enum cs_status cs_turn_list(struct cs_db *db, int64_t before, struct cs_turn_row *out_turns,
                            size_t max, size_t *out_count, struct cs_err *err)
{
    size_t count = 0;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_TURN_LIST);
    cs_sql_int(&q, before > 0 ? before : INT64_MAX);
    cs_sql_int(&q, (int64_t)max);
    while (count < max && cs_sql_next(&q))
        read_row(&q, &out_turns[count++]);
    status = cs_sql_end(&q, "list the turns", err);
    if (status == CS_OK) {
        *out_count = count;
        return CS_OK;
    }
    while (count > 0)
        cs_turn_row_fini(&out_turns[--count]);
    return status;
}

enum cs_status cs_turn_figures(struct cs_db *db, struct cs_turn_figures *out, struct cs_err *err)
{
    struct cs_turn_figures figures = {0};
    const struct {
        enum cs_tally which;
        int64_t *value;
    } wanted[] = {
        {CS_TALLY_TURNS_RUNNING, &figures.running},
        {CS_TALLY_TURNS_COMPLETED, &figures.completed},
        {CS_TALLY_TURNS_FAILED, &figures.failed},
        {CS_TALLY_TURNS_INTERRUPTED, &figures.interrupted},
        {CS_TALLY_TURNS_CANCELLED, &figures.cancelled},
        {CS_TALLY_TOKENS_INPUT, &figures.usage.input},
        {CS_TALLY_TOKENS_CACHED_INPUT, &figures.usage.cached_input},
        {CS_TALLY_TOKENS_OUTPUT, &figures.usage.output},
    };

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        enum cs_status status = cs_tally_get(db, wanted[i].which, wanted[i].value, err);

        if (status != CS_OK)
            return status;
    }
    *out = figures;
    return CS_OK;
}

/* ---- after a stop ---- */

/* The running turn of the first session after @session; CS_NOT_FOUND when no more runs. */
static enum cs_status next_running(struct cs_db *db, int64_t session, struct cs_turn_row *out_turn,
                                   struct cs_err *err)
{
    int64_t id = 0;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_TURN_ANY_RUNNING);
    cs_sql_int(&q, session);
    if (cs_sql_next(&q))
        id = cs_sql_get_int(&q, 0);
    status = cs_sql_end(&q, "look for running turns", err);
    if (status != CS_OK)
        return status;
    return id != 0 ? cs_turn_get(db, id, out_turn, err) : CS_NOT_FOUND;
}

static enum cs_status interrupt(struct cs_db *db, const struct cs_turn_row *turn, int64_t now,
                                struct cs_err *err)
{
    struct cs_message_new outcome = {
        .session = turn->session,
        .kind = CS_MESSAGE_OUTCOME,
        .content = INTERRUPTED_TEXT,
        .content_len = sizeof INTERRUPTED_TEXT - 1,
        .turn = turn->tid,
        .extra = "\"code\":\"" INTERRUPTED_CODE "\"",
        .at = now,
    };
    struct cs_turn_row ended = *turn; /* borrows */
    char code[] = INTERRUPTED_CODE;
    char text[] = INTERRUPTED_TEXT;
    enum cs_status status = cs_message_append(db, &outcome, &ended.answer_message, err);

    if (status != CS_OK)
        return status;
    ended.status = CS_TURN_INTERRUPTED;
    ended.ended_at = now;
    ended.error_code = code;
    ended.error = text;
    return cs_turn_finish(db, &ended, err);
}

enum cs_status cs_turn_interrupt_all(struct cs_db *db, int64_t now, struct cs_err *err)
{
    struct cs_turn_row turn = {0};
    int64_t session = 0;
    enum cs_status status;

    while ((status = next_running(db, session, &turn, err)) == CS_OK) {
        session = turn.session;
        status = interrupt(db, &turn, now, err);
        cs_turn_row_fini(&turn);
        if (status != CS_OK)
            return status;
    }
    return status == CS_NOT_FOUND ? CS_OK : status;
}
