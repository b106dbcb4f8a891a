/* engine/ask: requests of Codex's that wait for what a turn's owner decides. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc_turn.h"

#define ID_MAX 24

struct cs_link_ask {
    struct cs_link_ask *next;
    const struct cs_engine_turn *turn;
    char id[ID_MAX];     /* ours */
    char *wire_id;       /* Codex's, as JSON */
    char *approve;       /* result as JSON */
    const char *decline; /* likewise */
};

static void free_ask(struct cs_link_ask *ask)
{
    free(ask->wire_id);
    free(ask->approve);
    free(ask);
}

static size_t count_open(const struct cs_link *link, const struct cs_engine_turn *turn)
{
    size_t count = 0;
    for (const struct cs_link_ask *ask = link->asks; ask; ask = ask->next) {
        count += ask->turn == turn;
    }
    return count;
}

bool cs_link_ask(struct cs_link *link, struct cs_codex_line *line, struct cs_engine_turn *turn,
                 const struct cs_ask_kind *kind, const char *approve)
{
    if (count_open(link, turn) >= CS_LINK_ASKS_MAX) {
        return false;
    }
    struct cs_link_ask *ask = calloc(1, sizeof(*ask));
    char *detail = NULL;
    if (!ask) {
        return false;
    }
    ask->turn = turn;
    ask->decline = kind->decline;
    ask->wire_id = cs_json_text(line->id);
    ask->approve = strdup(approve ? approve : kind->approve);
    snprintf(ask->id, sizeof(ask->id), "%lld", (long long)++link->last_ask);
    if (!ask->wire_id || !ask->approve || asprintf(&detail, "%s %s", ask->id, kind->kind) < 0) {
        free_ask(ask);
        return false;
    }
    ask->next = link->asks;
    link->asks = ask;
    cs_turn_push(turn, CS_IN_ASKED, line->json, detail, line->len, false);
    line->json = NULL;
    return true;
}

void cs_link_ask_settled(struct cs_link *link, const struct cs_json *wire_id)
{
    char *text = cs_json_text(wire_id);
    for (struct cs_link_ask **at = &link->asks; text && *at; at = &(*at)->next) {
        if (strcmp((*at)->wire_id, text) == 0) {
            struct cs_link_ask *ask = *at;
            *at = ask->next;
            free_ask(ask);
            break;
        }
    }
    free(text);
}

void cs_link_asks_end(struct cs_link *link, const struct cs_engine_turn *turn)
{
    for (struct cs_link_ask **at = &link->asks; *at;) {
        struct cs_link_ask *ask = *at;
        if (turn && ask->turn != turn) {
            at = &ask->next;
            continue;
        }
        *at = ask->next;
        if (turn) {
            cs_link_respond(link, ask->wire_id, ask->decline);
        }
        free_ask(ask);
    }
}

enum cs_status cs_rpc_answer(struct cs_driver *driver, struct cs_engine_turn *turn, const char *id,
                             bool approve, struct cs_err *err)
{
    struct cs_link *link = (struct cs_link *)driver; /* which begins with it */
    pthread_mutex_lock(&link->mutex);
    struct cs_link_ask **at = &link->asks;
    while (*at && ((*at)->turn != turn || strcmp((*at)->id, id) != 0)) {
        at = &(*at)->next;
    }
    struct cs_link_ask *ask = *at;
    if (ask) {
        *at = ask->next;
        cs_link_respond(link, ask->wire_id, approve ? ask->approve : ask->decline);
        free_ask(ask);
    }
    pthread_mutex_unlock(&link->mutex);
    return ask ? CS_OK
               : cs_err_set(err, CS_NOT_FOUND, "approval_not_found",
                            "Codex does not ask this, or not any more");
}

/* What is asked, in words. */

void cs_rpc_approval_begin(struct cs_buf *text, struct cs_jsonw *w)
{
    cs_buf_init(text, CS_RPC_LINE_MAX);
    cs_jsonw_init(w, text);
    cs_jsonw_object(w, NULL);
}

void cs_rpc_approval_member(struct cs_jsonw *w, const char *key, const struct cs_json *value)
{
    if (cs_json_type(value) == CS_JSON_NULL) {
        return;
    }
    char *text = cs_json_text(value);
    if (text) {
        cs_jsonw_raw(w, key, text, strlen(text));
    } else {
        w->out->status = CS_NO_MEM; /* half a question must not be asked */
    }
    free(text);
}

void cs_rpc_approval_end(struct cs_engine_turn *turn, struct cs_buf *text, struct cs_jsonw *w,
                         const char *detail)
{
    cs_jsonw_end_object(w);
    if (cs_buf_check(text, NULL) == CS_OK) {
        cs_turn_emit(turn, CS_EVENT_APPROVAL, text->data, text->len, detail);
    } else {
        char id[ID_MAX];
        snprintf(id, sizeof(id), "%.*s", (int)strcspn(detail, " "), detail);
        (void)cs_rpc_answer(turn->driver, turn, id, false, NULL);
    }
    cs_buf_fini(text);
}
