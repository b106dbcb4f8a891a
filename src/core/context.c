/* core/context: what Codex must know of the past, and where it may know it already. */
#include <stdlib.h>
#include <string.h>

#include "priv.h"

/* Set *@slot to a copy of @text, or leave it NULL for "". */
static enum cs_status keep(char **slot, const char *text, struct cs_err *err)
{
    if (text[0] == '\0')
        return CS_OK;
    *slot = strdup(text);
    return *slot != NULL ? CS_OK : cs_err_nomem(err);
}

/*
 * Codex's thread holds exactly our past when our last turn completed on it. When that turn did not
 * complete but Codex had numbered it, the thread is right up to that turn, which is reverted. In
 * every other case what the thread holds is unknown, and it is built anew from our transcript.
 */
enum cs_status cs_context_thread(struct cs_turn *turn, const struct cs_turn_row *last, bool newest,
                                 struct cs_err *err)
{
    enum cs_status rc;

    turn->thread_total = (struct cs_usage){-1, -1, -1};
    if (last == NULL || strcmp(last->engine, cs_engine_kind_name(turn->kind)) != 0)
        return CS_OK;
    if (last->status != CS_TURN_COMPLETED && last->engine_turn_id[0] == '\0')
        return CS_OK;
    if (!newest) /* another host went on, or the thread's turn is on a branch that was left */
        return CS_OK;
    rc = keep(&turn->thread_id, last->thread_id, err);
    if (rc == CS_OK && last->status != CS_TURN_COMPLETED)
        rc = keep(&turn->orphan_turn, last->engine_turn_id, err);
    turn->thread_total = last->total;
    return rc;
}

enum cs_status cs_context_history(void *arg, const struct cs_engine_item **out_items,
                                  size_t *out_count, struct cs_err *err)
{
    struct cs_turn *turn = arg;
    struct cs_db *db = NULL;
    enum cs_status rc;
    size_t i;

    rc = cs_store_read(turn->core->store, &db, err);
    if (rc == CS_OK) {
        cs_transcript_free(turn->transcript);
        turn->transcript = NULL;
        rc = cs_message_transcript(db, turn->session.id, turn->row.tid, &turn->transcript, err);
    }
    cs_store_done(turn->core->store, db);
    if (rc != CS_OK || turn->transcript == NULL)
        return rc;

    free(turn->items);
    turn->items = calloc(turn->transcript->count + 1, sizeof *turn->items);
    if (turn->items == NULL)
        return cs_err_nomem(err);
    for (i = 0; i < turn->transcript->count; i++) {
        const struct cs_transcript_item *from = &turn->transcript->items[i];

        turn->items[i].role = from->kind == CS_MESSAGE_ASSISTANT ? CS_ROLE_ASSISTANT : CS_ROLE_USER;
        turn->items[i].text = from->text;
        turn->items[i].len = from->len;
    }
    *out_items = turn->items;
    *out_count = turn->transcript->count;
    return CS_OK;
}
