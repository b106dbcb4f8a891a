#include "tally.h"

#include "db.h"

static const char *const names[CS_TALLY_COUNT] = {
    [CS_TALLY_SESSIONS_LIVE] = "sessions.live",
    [CS_TALLY_SESSIONS_ARCHIVED] = "sessions.archived",
    [CS_TALLY_TURNS_RUNNING] = "turns.running",
    [CS_TALLY_TURNS_COMPLETED] = "turns.completed",
    [CS_TALLY_TURNS_FAILED] = "turns.failed",
    [CS_TALLY_TURNS_INTERRUPTED] = "turns.interrupted",
    [CS_TALLY_TURNS_CANCELLED] = "turns.cancelled",
    [CS_TALLY_TOKENS_INPUT] = "tokens.input",
    [CS_TALLY_TOKENS_CACHED_INPUT] = "tokens.cached_input",
    [CS_TALLY_TOKENS_OUTPUT] = "tokens.output",
};

/* Per table: its row in tally, and the statement that finds the greatest id in use. */
static const struct {
    const char *name;
    enum cs_sql_id newest;
} tops[CS_TOP_COUNT] = {
    [CS_TOP_SESSION] = {"top.session", CS_SQL_TOP_SESSION},
    [CS_TOP_MESSAGE] = {"top.message", CS_SQL_TOP_MESSAGE},
    [CS_TOP_TURN] = {"top.turn", CS_SQL_TOP_TURN},
};

void cs_tally_add(struct cs_db *db, enum cs_tally which, int64_t change)
{
    db->tally[which] += change;
}

enum cs_status cs_tally_flush(struct cs_db *db, struct cs_err *err)
{
    for (int i = 0; i < CS_TALLY_COUNT; i++) {
        struct cs_sql q;
        enum cs_status status;

        if (db->tally[i] == 0)
            continue;
        cs_sql_begin(&q, db, CS_SQL_TALLY_ADD);
        cs_sql_text(&q, names[i]);
        cs_sql_int(&q, db->tally[i]);
        status = cs_sql_run(&q, "count", err);
        if (status != CS_OK)
            return status;
        db->tally[i] = 0;
    }
    return CS_OK;
}

static enum cs_status read_row(struct cs_db *db, const char *name, int64_t *out_value,
                               struct cs_err *err)
{
    struct cs_sql q;
    int64_t value = 0;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_TALLY_GET);
    cs_sql_text(&q, name);
    if (cs_sql_next(&q))
        value = cs_sql_get_int(&q, 0);
    status = cs_sql_end(&q, "read a count", err);
    if (status == CS_OK)
        *out_value = value;
    return status;
}

enum cs_status cs_tally_get(struct cs_db *db, enum cs_tally which, int64_t *out_value,
                            struct cs_err *err)
{
    int64_t value = 0;
    enum cs_status status = read_row(db, names[which], &value, err);

    if (status == CS_OK)
        *out_value = value + db->tally[which];
    return status;
}

/* The greater of what is in the table and what was when rows of it were last deleted. */
static enum cs_status read_top(struct cs_db *db, enum cs_top top, int64_t *out_id,
                               struct cs_err *err)
{
    struct cs_sql q;
    int64_t kept = 0;
    int64_t newest = 0;
    enum cs_status status = read_row(db, tops[top].name, &kept, err);

    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, tops[top].newest);
    if (cs_sql_next(&q))
        newest = cs_sql_get_int(&q, 0);
    status = cs_sql_end(&q, "read the newest id", err);
    if (status == CS_OK)
        *out_id = newest > kept ? newest : kept;
    return status;
}

enum cs_status cs_tally_load_tops(struct cs_db *db, struct cs_err *err)
{
    for (int i = 0; i < CS_TOP_COUNT; i++) {
        enum cs_status status = read_top(db, (enum cs_top)i, &db->tops[i], err);

        if (status != CS_OK)
            return status;
    }
    return CS_OK;
}

enum cs_status cs_tally_top_message(struct cs_db *db, int64_t *out_id, struct cs_err *err)
{
    return read_top(db, CS_TOP_MESSAGE, out_id, err);
}

enum cs_status cs_tally_save_tops(struct cs_db *db, struct cs_err *err)
{
    for (int i = 0; i < CS_TOP_COUNT; i++) {
        struct cs_sql q;
        enum cs_status status;

        cs_sql_begin(&q, db, CS_SQL_TALLY_SET);
        cs_sql_text(&q, tops[i].name);
        cs_sql_int(&q, db->tops[i]);
        status = cs_sql_run(&q, "keep the newest id", err);
        if (status != CS_OK)
            return status;
    }
    return CS_OK;
}
