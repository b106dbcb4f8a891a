/* core/turn_row: the two transactions of a turn: the prompt before Codex sees it, the outcome
 * before the client does. */
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/json.h"
#include "cs/store/idempotency.h"
#include "priv.h"
#include "sync.h"

#define EVICTED_MAX 65536 /* bytes of the JSON array of evicted ids */
#define PURGE_MAX   10000 /* old keys forgotten in one go */

struct begin {
    struct cs_turn *turn;
    const struct cs_config *config;
    struct cs_buf evicted;
    int64_t now;
    char *out_tid; /* the earlier turn with the same key */
};

/* Whether the key was used. CS_MISMATCH when with another body, CS_CONFLICT when its turn was
 * interrupted; else *out_tid is its turn, or "". */
static enum cs_status find_key(struct cs_db *db, const char *key,
                               const unsigned char body[CS_SHA256_LEN], int64_t oldest,
                               char out_tid[CS_UUID_MAX], struct cs_err *err)
{
    struct cs_idempotency entry;
    struct cs_turn_row row;
    enum cs_status rc = cs_idempotency_find(db, key, oldest, &entry, NULL);

    out_tid[0] = '\0';
    if (rc == CS_NOT_FOUND)
        return CS_OK;
    if (rc != CS_OK)
        return cs_err_set(err, rc, NULL, "could not look the idempotency key up");
    if (memcmp(entry.body, body, CS_SHA256_LEN) != 0)
        return cs_err_set(err, CS_MISMATCH, "idempotency_key_reused",
                          "This Idempotency-Key was used with another request");
    rc = cs_turn_get(db, entry.turn, &row, err);
    if (rc != CS_OK)
        return rc;
    if (row.status == CS_TURN_INTERRUPTED)
        rc = cs_err_set(
            err, CS_CONFLICT, "turn_interrupted",
            "The turn of this Idempotency-Key, %s, was interrupted and is not run again", row.tid);
    else
        memcpy(out_tid, row.tid, CS_UUID_MAX);
    cs_turn_row_fini(&row);
    return rc;
}

static int64_t oldest_key(const struct cs_config *config)
{
    return cs_clock_ms() - config->idempotency_hours * 3600000;
}

enum cs_status cs_turn_replay(struct cs_core *core, const struct cs_turn_request *request,
                              char out_tid[CS_UUID_MAX], struct cs_err *err)
{
    struct cs_db *db = NULL;
    enum cs_status rc;

    out_tid[0] = '\0';
    if (request->idempotency_key == NULL)
        return CS_OK;
    rc = cs_store_read(core->store, &db, err);
    if (rc == CS_OK)
        rc = find_key(db, request->idempotency_key, request->body_hash,
                      oldest_key(cs_core_config(core)), out_tid, err);
    cs_store_done(core->store, db);
    return rc;
}

/* The session must still be as it was read: not deleted, archived or expired in between. */
static enum cs_status recheck_session(struct cs_db *db, struct begin *begin, struct cs_err *err)
{
    struct cs_session now;
    enum cs_status rc = cs_session_get(db, begin->turn->session.id, &now, NULL);

    if (rc == CS_NOT_FOUND)
        return cs_session_missing(begin->turn->session.cid, err);
    if (rc != CS_OK)
        return cs_err_set(err, rc, NULL, "could not read the session");
    if (now.state != CS_SESSION_LIVE)
        rc = cs_session_missing(begin->turn->session.cid, err);
    cs_session_fini(&now);
    return rc;
}

static enum cs_status insert_session(struct cs_db *db, struct begin *begin, struct cs_err *err)
{
    struct cs_turn *turn = begin->turn;
    struct cs_message_new context = {
        .kind = CS_MESSAGE_CONTEXT,
        .content = turn->context,
        .content_len = turn->context_len,
        .turn = turn->row.tid,
        .at = begin->now,
    };
    enum cs_status rc = cs_session_insert(db, &turn->session, err);

    if (rc == CS_OK)
        rc = cs_limits_enforce(db, &turn->session, cs_limits_of(begin->config, turn->session.own),
                               turn->core->mirror != NULL, &begin->evicted, err);
    context.session = turn->session.id;
    if (rc == CS_OK && turn->context != NULL)
        rc = cs_message_append(db, &context, NULL, err);
    return rc;
}

static enum cs_status insert_turn(struct cs_db *db, struct begin *begin, struct cs_err *err)
{
    struct cs_turn *turn = begin->turn;
    struct cs_message_new prompt = {
        .session = turn->session.id,
        .kind = CS_MESSAGE_USER,
        .content = turn->prompt,
        .content_len = turn->prompt_len,
        .turn = turn->row.tid,
        .at = begin->now,
    };
    struct cs_idempotency entry;
    int64_t next;
    enum cs_status rc = cs_message_append(db, &prompt, &turn->row.prompt_message, err);

    if (rc != CS_OK)
        return rc;
    turn->row.session = turn->session.id;
    turn->row.evicted = begin->evicted.len > 0 ? begin->evicted.data : NULL;
    rc = cs_turn_insert(db, &turn->row, err);
    turn->row.evicted = NULL; /* borrowed for the call */
    if (rc != CS_OK || turn->idempotency_key == NULL)
        return rc;
    /* a key past its time may be used anew, also before the sweeper has come by */
    rc = cs_idempotency_purge(db, oldest_key(begin->config), PURGE_MAX, &next, err);
    if (rc != CS_OK)
        return rc;
    memcpy(entry.body, turn->body_hash, CS_SHA256_LEN);
    entry.turn = turn->row.id;
    entry.created_at = begin->now;
    return cs_idempotency_insert(db, turn->idempotency_key, &entry, err);
}

/* Whether the newest message of @session belongs to turn @tid. */
static enum cs_status is_newest(struct cs_db *db, int64_t session, const char *tid,
                                bool *out_newest, struct cs_err *err)
{
    char newest[CS_UUID_MAX] = "";
    enum cs_status rc = cs_message_newest_turn(db, session, newest, err);

    *out_newest = strcmp(newest, tid) == 0;
    return rc;
}

/* Writer thread. */
static enum cs_status apply_begin(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct begin *begin = arg;
    struct cs_turn *turn = begin->turn;
    struct cs_turn_row last;
    bool newest = false;
    enum cs_status rc = CS_OK;

    if (turn->idempotency_key != NULL)
        rc = find_key(db, turn->idempotency_key, turn->body_hash, oldest_key(begin->config),
                      begin->out_tid, err);
    if (rc != CS_OK || begin->out_tid[0] != '\0')
        return rc;
    if (!turn->row.continued) {
        rc = insert_session(db, begin, err);
    } else {
        rc = recheck_session(db, begin, err);
        if (rc == CS_OK) {
            rc = cs_turn_last(db, turn->session.id, &last, NULL);
            if (rc == CS_OK) {
                rc = is_newest(db, turn->session.id, last.tid, &newest, err);
                if (rc == CS_OK)
                    rc = cs_context_thread(turn, &last, newest, err);
                cs_turn_row_fini(&last);
            } else {
                rc = rc == CS_NOT_FOUND ? cs_context_thread(turn, NULL, false, err)
                                        : cs_err_set(err, rc, NULL, "could not read the last turn");
            }
        }
    }
    return rc == CS_OK ? insert_turn(db, begin, err) : rc;
}

/* Writer thread. */
static void on_begun(void *arg)
{
    const struct begin *begin = arg;
    struct cs_turn *turn = begin->turn;

    if (begin->out_tid[0] != '\0')
        return;
    cs_history_forget(turn->core, turn->session.sid, turn->session.cid);
    if (begin->evicted.len > strlen("[]"))
        cs_history_forget_all(turn->core);
    cs_registry_stored(turn);
}

enum cs_status cs_turn_persist_begin(struct cs_turn *turn, char out_tid[CS_UUID_MAX],
                                     struct cs_err *err)
{
    struct begin begin = {
        .turn = turn,
        .config = cs_core_config(turn->core),
        .now = turn->row.started_at,
        .out_tid = out_tid,
    };
    enum cs_status rc;

    out_tid[0] = '\0';
    cs_buf_init(&begin.evicted, EVICTED_MAX);
    rc = cs_store_write_then(turn->core->store, apply_begin, on_begun, &begin, err);
    if (rc == CS_OK && out_tid[0] == '\0') {
        cs_sync_wake(turn->core);
        if (begin.evicted.len > strlen("[]"))
            cs_expiry_note(turn->core, begin.now + begin.config->archive_days * 86400000);
        if (turn->idempotency_key != NULL)
            cs_expiry_note(turn->core, begin.now + begin.config->idempotency_hours * 3600000);
    }
    cs_buf_fini(&begin.evicted);
    return rc;
}

/* Members of the answer's message beside the content: what a reader of the history wants to know.
 */
static void render_extra(const struct cs_turn *turn, struct cs_buf *out)
{
    const struct cs_turn_row *row = &turn->row;
    struct cs_jsonw w;

    cs_jsonw_init(&w, out);
    cs_jsonw_object(&w, NULL);
    if (row->status != CS_TURN_COMPLETED) {
        cs_jsonw_string(&w, "code", row->error_code);
        cs_jsonw_string(&w, "status", cs_turn_status_name(row->status));
    }
    cs_jsonw_string(&w, "model", row->model);
    cs_jsonw_string(&w, "engine", row->engine);
    cs_jsonw_end_object(&w);
}

static enum cs_status apply_end(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct cs_turn *turn = arg;
    struct cs_turn_row *row = &turn->row;
    bool completed = row->status == CS_TURN_COMPLETED;
    struct cs_message_new message = {
        .session = turn->session.id,
        .kind = completed ? CS_MESSAGE_ASSISTANT : CS_MESSAGE_OUTCOME,
        .content = completed ? turn->answer : row->error,
        .content_len = completed ? turn->answer_len : strlen(row->error),
        .turn = row->tid,
        .at = row->ended_at,
    };
    struct cs_buf extra;
    enum cs_status rc;

    cs_buf_init(&extra, 4096);
    render_extra(turn, &extra);
    rc = cs_buf_check(&extra, err);
    if (rc == CS_OK) {
        extra.data[extra.len - 1] = '\0'; /* the members without their braces */
        message.extra = extra.data + 1;
        rc = cs_message_append(db, &message, &row->answer_message, err);
    }
    if (rc == CS_OK)
        rc = cs_turn_finish(db, row, err);
    if (rc == CS_OK && row->model_fallback && completed)
        rc = cs_session_set_model(db, turn->session.id, row->model, err);
    cs_buf_fini(&extra);
    if (rc == CS_OK)
        cs_registry_ending(turn, true);
    return rc;
}

static void release(struct cs_turn *turn)
{
    cs_lease_end(turn);
    cs_registry_release(turn);
}

/* Writer thread: who hears of the end may go on at once, and finds it in the history. */
static void on_ended(void *arg)
{
    struct cs_turn *turn = arg;

    cs_history_forget(turn->core, turn->session.sid, turn->session.cid);
    release(turn);
}

enum cs_status cs_turn_persist_end(struct cs_turn *turn, struct cs_err *err)
{
    enum cs_status rc = cs_store_write_then(turn->core->store, apply_end, on_ended, turn, err);

    if (rc == CS_CONFLICT || rc == CS_NOT_FOUND) {
        release(turn);
    } else if (rc != CS_OK) {
        cs_registry_ending(turn, false);
        cs_lease_end(turn);
    }
    cs_sync_wake(turn->core);
    return rc;
}
