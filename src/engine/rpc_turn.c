#include "rpc_turn.h"

#include <stdlib.h>
#include <string.h>

/* A driver's object begins with its link. */
static struct cs_link *link_of(struct cs_driver *driver)
{
    return (struct cs_link *)driver;
}

void cs_rpc_finish(struct cs_driver *driver, struct cs_engine_turn *turn, enum cs_status status,
                   const char *code, const char *sentence)
{
    struct cs_link *link = link_of(driver);
    struct cs_rpc_turn *state = turn->state;
    if (state->used[0] >= 0) {
        cs_turn_emit_usage(turn, state->used, state->totals);
    }
    pthread_mutex_lock(&link->mutex);
    cs_link_asks_end(link, turn);
    link->ops->release(driver, turn, status == CS_OK || !state->prompted);
    if (status == CS_OK) {
        cs_link_proved(link);
    }
    pthread_mutex_unlock(&link->mutex);
    state->ended = true;
    cs_turn_emit_done(turn, status, code, sentence);
}

void cs_rpc_unsent(struct cs_driver *driver, struct cs_engine_turn *turn, enum cs_status status,
                   const struct cs_err *why)
{
    if (status == CS_NO_MEM) {
        cs_rpc_finish(driver, turn, CS_NO_MEM, NULL, why->msg);
    } else if (status != CS_CONFLICT) {
        cs_rpc_finish(driver, turn, CS_UNAVAILABLE, "codex_unavailable", why->msg);
    }
}

void cs_rpc_refused(struct cs_driver *driver, struct cs_engine_turn *turn, const char *message)
{
    cs_rpc_finish(driver, turn, CS_UPSTREAM, cs_codex_error_code(NULL, message),
                  message ? message : "Codex refused the turn");
}

bool cs_rpc_ask_history(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct cs_rpc_turn *state = turn->state;
    const struct cs_engine_request *request = &turn->request;
    if (state->asked_history || !request->history) {
        return true;
    }
    struct cs_err err = {0};
    state->asked_history = true;
    enum cs_status status =
        request->history(request->history_arg, &state->items, &state->item_count, &err);
    if (status != CS_OK) {
        cs_rpc_finish(driver, turn, status, err.code, err.msg);
    }
    return status == CS_OK;
}

void cs_rpc_started(struct cs_engine_turn *turn, const char *turn_id)
{
    struct cs_rpc_turn *state = turn->state;
    if (state->started) {
        return;
    }
    state->started = true;
    cs_codex_id(state->turn_id, turn_id);
    cs_turn_emit(turn, CS_EVENT_STARTED, state->turn_id, strlen(state->turn_id), state->model);
}

void cs_rpc_emit_json(struct cs_engine_turn *turn, enum cs_event_type type,
                      const struct cs_json *json, const char *detail)
{
    struct cs_buf text;
    cs_buf_init(&text, CS_RPC_LINE_MAX);
    cs_json_dump(json, &text);
    if (cs_buf_check(&text, NULL) == CS_OK && text.len) {
        cs_turn_emit(turn, type, text.data, text.len, detail);
    }
    cs_buf_fini(&text);
}

void cs_rpc_tokens(const struct cs_json *json, const char *const names[3], int64_t out[3])
{
    for (int i = 0; i < 3; i++) {
        out[i] = cs_json_int(cs_json_get(json, names[i]), 0);
    }
}

void cs_rpc_used(struct cs_rpc_turn *state, const int64_t last[3], const int64_t totals[3])
{
    bool again = totals[0] >= 0 && memcmp(totals, state->totals, sizeof(state->totals)) == 0;
    if (again || last[0] + last[2] <= 0) {
        return;
    }
    for (int i = 0; i < 3; i++) {
        state->used[i] = (state->used[i] < 0 ? 0 : state->used[i]) + last[i];
        state->totals[i] = totals[i];
    }
}

static void begin(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct cs_link *link = link_of(driver);
    struct cs_rpc_turn *state = calloc(1, link->ops->state_size);
    if (!state) {
        cs_turn_emit_done(turn, CS_NO_MEM, NULL, "out of memory");
        return;
    }
    state->node.turn = turn;
    state->how = "new";
    for (int i = 0; i < 3; i++) {
        state->used[i] = state->totals[i] = -1;
    }
    turn->state = state;
    cs_link_join(link, &state->node);
}

/* The child is gone, or there is none. */
static void gone(struct cs_driver *driver, struct cs_engine_turn *turn,
                 const struct cs_message_in *message)
{
    struct cs_rpc_turn *state = turn->state;
    const char *why = message->text ? message->text : "Codex stopped";
    if (message->kind == CS_IN_UNAVAILABLE) {
        cs_rpc_finish(driver, turn, CS_UNAVAILABLE, "codex_unavailable", why);
    } else if (message->kind == CS_IN_TOO_LARGE) {
        cs_rpc_finish(driver, turn, CS_UPSTREAM, "reply_too_large", why);
    } else if (!state->prompted && !state->retried) {
        state->retried = true;
        cs_link_join(link_of(driver), &state->node);
    } else {
        cs_rpc_finish(driver, turn, CS_UPSTREAM, "codex_died", why);
    }
}

static void stop(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct cs_link *link = link_of(driver);
    pthread_mutex_lock(&link->mutex);
    link->ops->stop(driver, turn);
    cs_link_asks_end(link, turn);
    pthread_mutex_unlock(&link->mutex);
}

void cs_rpc_step(struct cs_driver *driver, struct cs_engine_turn *turn,
                 struct cs_message_in *message)
{
    const struct cs_link_ops *ops = link_of(driver)->ops;
    if (!message) {
        begin(driver, turn);
        return;
    }
    const struct cs_rpc_turn *state = turn->state;
    if (state->ended) {
        return;
    }
    switch ((enum cs_link_message)message->kind) {
    case CS_IN_READY:
        ops->ready(driver, turn);
        break;
    case CS_IN_REPLY:
        ops->replied(driver, turn, message->json);
        break;
    case CS_IN_NOTICE:
        ops->noticed(driver, turn, message->json);
        break;
    case CS_IN_ASKED:
        ops->asked(turn, message->json, message->text);
        break;
    case CS_IN_NO_MEM:
        stop(driver, turn);
        cs_rpc_finish(driver, turn, CS_NO_MEM, NULL, "out of memory");
        break;
    case CS_IN_DIED:
    case CS_IN_TOO_LARGE:
    case CS_IN_UNAVAILABLE:
        gone(driver, turn, message);
        break;
    }
}

void cs_rpc_cancel(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    const struct cs_rpc_turn *state = turn->state;
    if (!state || state->ended) {
        return;
    }
    if (state->prompted) {
        stop(driver, turn);
    } else {
        cs_rpc_finish(driver, turn, CS_CANCELLED, "turn_cancelled", "The turn was cancelled");
    }
}

void cs_rpc_detach(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct cs_link *link = link_of(driver);
    struct cs_rpc_turn *state = turn->state;
    if (!state) {
        return;
    }
    cs_link_leave(link, &state->node);
    pthread_mutex_lock(&link->mutex);
    link->ops->release(driver, turn, false);
    pthread_mutex_unlock(&link->mutex);
    if (link->ops->clear) {
        link->ops->clear(turn);
    }
    turn->state = NULL;
    free(state->model);
    free(state);
}

enum cs_status cs_rpc_driver_new(struct cs_engine *engine, const struct cs_link_ops *ops,
                                 size_t size, struct cs_driver **out_driver, struct cs_err *err)
{
    struct cs_driver *driver = calloc(1, size);
    if (!driver) {
        return cs_err_nomem(err);
    }
    enum cs_status status = cs_link_init(link_of(driver), engine, ops, driver, err);
    if (status != CS_OK) {
        free(driver);
        return status;
    }
    *out_driver = driver;
    return CS_OK;
}

void cs_rpc_driver_free(struct cs_driver *driver, int64_t deadline)
{
    if (!driver) {
        return;
    }
    struct cs_link *link = link_of(driver);
    cs_link_fini(link, deadline);
    link->ops->on_down(driver);
    if (link->ops->fini) {
        link->ops->fini(driver);
    }
    free(driver);
}
