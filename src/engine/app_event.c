/* engine/app_event: what Codex tells in a turn, as events, on the owner's thread. */
#include <stdlib.h>
#include <string.h>

#include "app_server.h"

static void on_started(struct cs_engine_turn *turn, const char *turn_id)
{
    if (turn_id) {
        cs_rpc_started(turn, turn_id);
    }
}

static void on_item(struct cs_engine_turn *turn, const struct cs_json *item)
{
    struct cs_app_turn *state = turn->state;
    const char *type = cs_json_get_string(item, "type");
    if (!type || strcmp(type, "userMessage") == 0) {
        return;
    }
    if (strcmp(type, "agentMessage") == 0) {
        size_t len = 0;
        const char *text = cs_json_string(cs_json_get(item, "text"), &len);
        if (text) {
            state->spoke = true;
            cs_turn_emit(turn, CS_EVENT_MESSAGE, text, len, "");
        }
        return;
    }
    cs_rpc_emit_json(turn, CS_EVENT_ITEM, item, type);
}

/* Codex tells the thread's totals and those of the last request to the model, and repeats itself
 * when a turn fails. */
static void on_usage(struct cs_rpc_turn *state, const struct cs_json *usage)
{
    static const char *const names[] = {"inputTokens", "cachedInputTokens", "outputTokens"};
    int64_t totals[3], last[3];
    cs_rpc_tokens(cs_json_get(usage, "total"), names, totals);
    cs_rpc_tokens(cs_json_get(usage, "last"), names, last);
    cs_rpc_used(state, last, totals);
}

static void on_completed(struct cs_driver *driver, struct cs_engine_turn *turn,
                         const struct cs_json *result)
{
    const struct cs_app_turn *state = turn->state;
    const struct cs_json *items = cs_json_get(result, "items");
    for (size_t i = cs_json_size(items); i > 0 && !state->spoke; i--) {
        const struct cs_json *item = cs_json_at(items, i - 1);
        if (cs_text_is(cs_json_get_string(item, "type"), "agentMessage")) {
            on_item(turn, item);
        }
    }
    const char *status = cs_json_get_string(result, "status");
    const struct cs_json *error = cs_json_get(result, "error");
    const char *message = cs_json_get_string(error, "message");
    if (cs_text_is(status, "completed")) {
        cs_rpc_finish(driver, turn, CS_OK, NULL, NULL);
    } else if (cs_text_is(status, "interrupted")) {
        cs_rpc_finish(driver, turn, CS_UPSTREAM, "codex_error", "Codex interrupted the turn");
    } else {
        cs_rpc_finish(driver, turn, CS_UPSTREAM,
                      cs_codex_error_code(cs_json_get(error, "codexErrorInfo"), message),
                      message ? message : "Codex says that the turn failed, and not why");
    }
}

/* A patch begins. One whose id does not fit, or that finds no memory, is not known when Codex asks
 * about it. */
static void keep_patch(struct cs_app_turn *state, const struct cs_json *item)
{
    const char *id = cs_json_get_string(item, "id");
    if (!id || strlen(id) >= CS_CODEX_ID_MAX) {
        return;
    }
    if (!state->patches) {
        state->patches = calloc(CS_APP_PATCHES_MAX, sizeof(*state->patches));
    }
    if (!state->patches) {
        return;
    }
    struct cs_app_patch *patch = &state->patches[state->patch_count++ % CS_APP_PATCHES_MAX];
    cs_codex_id(patch->item, id);
    free(patch->changes);
    patch->changes = cs_json_text(cs_json_get(item, "changes"));
}

static const char *find_patch(const struct cs_app_turn *state, const char *item)
{
    for (size_t i = 0; state->patches && item && i < CS_APP_PATCHES_MAX; i++) {
        if (state->patches[i].changes && strcmp(state->patches[i].item, item) == 0) {
            return state->patches[i].changes;
        }
    }
    return NULL;
}

/* Tell what Codex asks: the members that say what would be done, and what a patch changes. */
void cs_app_asked(struct cs_engine_turn *turn, const struct cs_json *request, const char *detail)
{
    static const char *const told[] = {"command",
                                       "cwd",
                                       "reason",
                                       "permissions",
                                       "additionalPermissions",
                                       "networkApprovalContext",
                                       "grantRoot"};
    const struct cs_json *params = cs_json_get(request, "params");
    const char *changes = find_patch(turn->state, cs_json_get_string(params, "itemId"));
    struct cs_buf text;
    struct cs_jsonw w;
    cs_rpc_approval_begin(&text, &w);
    for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
        cs_rpc_approval_member(&w, told[i], cs_json_get(params, told[i]));
    }
    if (changes) {
        cs_jsonw_raw(&w, "changes", changes, strlen(changes));
    }
    cs_rpc_approval_end(turn, &text, &w, detail);
}

void cs_app_noticed(struct cs_driver *driver, struct cs_engine_turn *turn,
                    const struct cs_json *json)
{
    struct cs_app_turn *state = turn->state;
    const struct cs_json *params = cs_json_get(json, "params");
    const char *method = cs_json_get_string(json, "method");
    size_t len = 0;
    const char *delta;
    if (!state->rpc.prompted || !method) {
        return;
    }
    switch (cs_app_notice_of(method)) {
    case CS_NOTICE_STARTED:
        on_started(turn, cs_json_get_string(cs_json_get(params, "turn"), "id"));
        break;
    case CS_NOTICE_DELTA:
        delta = cs_json_string(cs_json_get(params, "delta"), &len);
        if (delta) {
            cs_turn_emit(turn, CS_EVENT_DELTA, delta, len, "");
        }
        break;
    case CS_NOTICE_BEGUN:
        keep_patch(state, cs_json_get(params, "item"));
        break;
    case CS_NOTICE_ITEM:
        on_item(turn, cs_json_get(params, "item"));
        break;
    case CS_NOTICE_USAGE:
        on_usage(&state->rpc, cs_json_get(params, "tokenUsage"));
        break;
    case CS_NOTICE_MODEL:
        cs_text_replace(&state->rpc.model, cs_json_get_string(params, "toModel"));
        state->rpc.started = false; /* tell again, with the model that really runs */
        on_started(turn, cs_json_get_string(params, "turnId"));
        break;
    case CS_NOTICE_COMPLETED:
        on_completed(driver, turn, cs_json_get(params, "turn"));
        break;
    case CS_NOTICE_SETTLED:
    case CS_NOTICE_CLOSED:
    case CS_NOTICE_OTHER:
        break;
    }
}
