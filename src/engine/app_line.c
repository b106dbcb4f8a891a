/* engine/app_line: what an app-server says, on the child's reader thread, with the link's mutex. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app_server.h"

/* Turns that begin and end. */

/* The turn on the thread has an id (in the reply to turn/start) or has begun (turn/started); either
 * may come first. Codex refuses to interrupt what has not begun. */
static void note_running(struct cs_driver *driver, struct cs_app_thread *thread,
                         const char *turn_id, bool begun)
{
    if (!turn_id || !thread->busy) {
        return;
    }
    if (!*thread->running) {
        cs_codex_id(thread->running, turn_id);
    } else if (!begun || strcmp(thread->running, turn_id) != 0) {
        return;
    }
    if (thread->stop) {
        cs_app_send_about(driver, "turn/interrupt", thread->id, thread->running);
    }
}

static void note_completed(struct cs_driver *driver, struct cs_app_thread *thread,
                           const struct cs_json *turn)
{
    bool completed = cs_text_is(cs_json_get_string(turn, "status"), "completed");
    if (!completed && !*thread->orphan) {
        cs_codex_id(thread->orphan, cs_json_get_string(turn, "id"));
    }
    if (thread->stop) {
        cs_app_send_about(driver, "thread/backgroundTerminals/clean", thread->id, NULL);
    }
    thread->busy = thread->stop = false;
    thread->running[0] = '\0';
    cs_app_rest(driver, thread);
}

/* What Codex asks. */

/* What a turn's owner may be asked. Nothing is approved for longer than once. */
static const struct cs_ask_kind asks[] = {
    {"item/commandExecution/requestApproval", "command", "{\"decision\":\"accept\"}",
     "{\"decision\":\"decline\"}"},
    {"item/fileChange/requestApproval", "patch", "{\"decision\":\"accept\"}",
     "{\"decision\":\"decline\"}"},
    {"item/permissions/requestApproval", "permission", NULL, "{\"permissions\":{}}"},
};

static const struct cs_ask_kind *ask_of(const char *method)
{
    for (size_t i = 0; i < sizeof(asks) / sizeof(asks[0]); i++) {
        if (strcmp(method, asks[i].method) == 0) {
            return &asks[i];
        }
    }
    return NULL;
}

/* The result that grants the permissions asked for, for this turn; for free(). */
static char *grant(const struct cs_json *params)
{
    char *result = NULL, *permissions = cs_json_text(cs_json_get(params, "permissions"));
    if (permissions &&
        asprintf(&result, "{\"permissions\":%s,\"scope\":\"turn\"}", permissions) < 0) {
        result = NULL;
    }
    free(permissions);
    return result;
}

bool cs_app_on_request(struct cs_driver *driver, struct cs_codex_line *line)
{
    const struct cs_ask_kind *kind = ask_of(line->method);
    const struct cs_app_thread *thread =
        cs_app_thread_find(&driver->threads, cs_json_get_string(line->params, "threadId"));
    if (!kind || !thread || !thread->claim || thread->stop ||
        !thread->claim->turn->request.approvals ||
        !cs_text_is(cs_json_get_string(line->params, "turnId"), thread->running)) {
        return false;
    }
    char *granted = kind->approve ? NULL : grant(line->params);
    bool asked = (kind->approve || granted) &&
                 cs_link_ask(&driver->link, line, thread->claim->turn, kind, granted);
    free(granted);
    return asked;
}

const char *cs_app_answer(const char *method)
{
    static const struct {
        const char *method, *result;
    } answers[] = {
        {"item/tool/requestUserInput", "{\"answers\":{}}"},
        {"item/tool/call", "{\"contentItems\":[],\"success\":false}"},
        {"mcpServer/elicitation/request", "{\"action\":\"decline\"}"},
        {"execCommandApproval", "{\"decision\":\"denied\"}"},
        {"applyPatchApproval", "{\"decision\":\"denied\"}"},
    };
    const struct cs_ask_kind *kind = ask_of(method);
    for (size_t i = 0; !kind && i < sizeof(answers) / sizeof(answers[0]); i++) {
        if (strcmp(method, answers[i].method) == 0) {
            return answers[i].result;
        }
    }
    return kind ? kind->decline : NULL;
}

void cs_app_on_reply(struct cs_driver *driver, struct cs_link_turn *node,
                     const struct cs_codex_line *line)
{
    struct cs_app_turn *state = (struct cs_app_turn *)node;
    struct cs_app_thread *thread = state->claim.thread;
    if (!thread || node->call != thread->start_call) {
        return;
    }
    if (line->error) {
        thread->busy = thread->stop = false;
    } else {
        note_running(driver, thread, cs_json_get_string(cs_json_get(line->result, "turn"), "id"),
                     false);
    }
}

/* What Codex tells. */

enum cs_app_notice cs_app_notice_of(const char *method)
{
    static const struct {
        const char *method;
        enum cs_app_notice notice;
    } notices[] = {
        {"item/agentMessage/delta", CS_NOTICE_DELTA},
        {"item/started", CS_NOTICE_BEGUN},
        {"item/completed", CS_NOTICE_ITEM},
        {"thread/tokenUsage/updated", CS_NOTICE_USAGE},
        {"model/rerouted", CS_NOTICE_MODEL},
        {"turn/started", CS_NOTICE_STARTED},
        {"turn/completed", CS_NOTICE_COMPLETED},
        {"serverRequest/resolved", CS_NOTICE_SETTLED},
        {"thread/closed", CS_NOTICE_CLOSED},
    };
    for (size_t i = 0; i < sizeof(notices) / sizeof(notices[0]); i++) {
        if (strcmp(method, notices[i].method) == 0) {
            return notices[i].notice;
        }
    }
    return CS_NOTICE_OTHER;
}

/* Whether an item that begins is a patch that @turn's owner may be asked about. */
static bool tells_patch(const struct cs_engine_turn *turn, const struct cs_json *params)
{
    return turn->request.approvals &&
           cs_text_is(cs_json_get_string(cs_json_get(params, "item"), "type"), "fileChange");
}

void cs_app_on_notice(struct cs_driver *driver, struct cs_codex_line *line)
{
    enum cs_app_notice notice = cs_app_notice_of(line->method);
    struct cs_app_thread *thread =
        notice == CS_NOTICE_OTHER
            ? NULL
            : cs_app_thread_find(&driver->threads, cs_json_get_string(line->params, "threadId"));
    if (!thread) {
        return;
    }
    if (notice == CS_NOTICE_CLOSED) {
        if (!thread->busy && !thread->claim) { /* else turn/start will tell */
            cs_app_thread_free(&driver->threads, thread);
        }
        return;
    }
    if (notice == CS_NOTICE_SETTLED) {
        cs_link_ask_settled(&driver->link, cs_json_get(line->params, "requestId"));
        return;
    }
    const struct cs_json *turn = cs_json_get(line->params, "turn");
    const char *id =
        turn ? cs_json_get_string(turn, "id") : cs_json_get_string(line->params, "turnId");
    if (notice == CS_NOTICE_STARTED) {
        note_running(driver, thread, id, true);
    }
    if (!cs_text_is(id, thread->running)) {
        return; /* of an earlier turn */
    }
    const struct cs_app_claim *owner = thread->claim;
    if (notice == CS_NOTICE_COMPLETED) {
        note_completed(driver, thread, turn);
    }
    if (owner && (notice != CS_NOTICE_BEGUN || tells_patch(owner->turn, line->params))) {
        cs_turn_push(owner->turn, CS_IN_NOTICE, line->json, NULL, line->len,
                     notice == CS_NOTICE_DELTA);
        line->json = NULL;
    }
}
