/* An engine that does what a test's script says, linked instead of the real one, so that every way
 * in which Codex may answer can be had on demand. Include it in one file of a test program: it
 * defines the cs_engine_* functions.
 */
#ifndef TESTS_SUPPORT_SCRIPTED_ENGINE_H
#define TESTS_SUPPORT_SCRIPTED_ENGINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/thread.h"
#include "cs/engine/engine.h"

enum script { ANSWER, FAIL, REFUSE_MODEL, HANG, TALK, ASK, CHAT };

#define CHAT_WORDS 100
#define CHAT_MS    30 /* between two of them */

struct cs_engine {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    enum script script;
    int starts; /* turns begun */
    int running;
    char thread_asked[64]; /* of the last turn, "" for a new one */
    char orphan_asked[64];
    char model_asked[64];
    char seen[4096]; /* the transcript it was given, "role:text|" each */
    int next_turn;
    bool may_ask;   /* of the last turn */
    bool exec_only; /* no other way in is there */
    /* of ASK: so many questions, "1" and up, all of this kind */
    int asks;
    const char *ask_kind, *ask_text;
    bool ask_settled;  /* no answer is taken */
    char answers[256]; /* "1+2-": what was approved and declined */
    int answered;
};

struct cs_engine_turn {
    struct cs_engine *engine;
    struct cs_engine_request request;
    enum script script;
    int step;
    bool cancelled;
    char text[64], detail[32];
    struct cs_err error;
};

static void copy(char *out, size_t cap, const char *text)
{
    snprintf(out, cap, "%s", text != NULL ? text : "");
}

const char *cs_engine_kind_name(enum cs_engine_kind kind)
{
    return kind == CS_ENGINE_AUTO ? "auto" : kind == CS_ENGINE_EXEC ? "exec" : "app-server";
}

enum cs_status cs_engine_kind_parse(const char *word, enum cs_engine_kind *out_kind,
                                    struct cs_err *err)
{
    if (strcmp(word, "auto") != 0 && strcmp(word, "app-server") != 0)
        return cs_err_set(err, CS_INVALID, "invalid_engine", "no engine %s", word);
    *out_kind = word[1] == 'u' ? CS_ENGINE_AUTO : CS_ENGINE_APP_SERVER;
    return CS_OK;
}

void cs_engine_info(struct cs_engine *engine, struct cs_engine_info *out_info)
{
    enum cs_engine_kind kind = engine->exec_only ? CS_ENGINE_EXEC : CS_ENGINE_APP_SERVER;

    *out_info = (struct cs_engine_info){.usable = true,
                                        .path = "",
                                        .version = "0.0.0",
                                        .kind = kind,
                                        .kinds = 1u << kind,
                                        .why = ""};
}

void cs_engine_refresh(struct cs_engine *engine)
{
    (void)engine;
}

void cs_engine_figures(struct cs_engine *engine, int64_t *out_children, int64_t *out_restarts)
{
    (void)engine;
    *out_children = *out_restarts = 0;
}

static void note_history(struct cs_engine *engine, const struct cs_engine_request *request)
{
    const struct cs_engine_item *items = NULL;
    size_t count = 0, i, used = 0;

    engine->seen[0] = '\0';
    if (request->history == NULL)
        return;
    if (request->history(request->history_arg, &items, &count, NULL) != CS_OK)
        return;
    for (i = 0; i < count && used < sizeof engine->seen; i++)
        used += (size_t)snprintf(engine->seen + used, sizeof engine->seen - used, "%s:%.*s|",
                                 items[i].role == CS_ROLE_USER ? "user" : "codex",
                                 (int)items[i].len, items[i].text);
}

enum cs_status cs_engine_turn_start(struct cs_engine *engine,
                                    const struct cs_engine_request *request,
                                    struct cs_engine_turn **out_turn, struct cs_err *err)
{
    struct cs_engine_turn *turn = calloc(1, sizeof *turn);

    if (turn == NULL)
        return cs_err_nomem(err);
    note_history(engine, request);
    turn->engine = engine;
    turn->request = *request;
    pthread_mutex_lock(&engine->mutex);
    turn->script = engine->script;
    engine->starts++;
    engine->running++;
    copy(engine->thread_asked, sizeof engine->thread_asked, request->thread_id);
    copy(engine->orphan_asked, sizeof engine->orphan_asked, request->orphan_turn);
    copy(engine->model_asked, sizeof engine->model_asked, request->model);
    engine->may_ask = request->approvals;
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->mutex);
    *out_turn = turn;
    return CS_OK;
}

static void event_text(struct cs_engine_turn *turn, struct cs_engine_event *event,
                       enum cs_event_type type, const char *text)
{
    copy(turn->text, sizeof turn->text, text);
    event->type = type;
    event->text = turn->text;
    event->len = strlen(turn->text);
}

static void event_end(struct cs_engine_turn *turn, struct cs_engine_event *event,
                      enum cs_status status, const char *code)
{
    turn->error = (struct cs_err){.status = CS_OK};
    event->type = CS_EVENT_DONE;
    event->error = &turn->error;
    if (status != CS_OK)
        cs_err_set(&turn->error, status, code, "codex says %s", code);
}

/* All that Codex may report on its way to an answer. */
static bool talk(struct cs_engine_turn *turn, struct cs_engine_event *event)
{
    switch (turn->step) {
    case 2:
        event_text(turn, event, CS_EVENT_DELTA, "the ");
        return true;
    case 3:
        event_text(turn, event, CS_EVENT_DELTA, "\"answer\"");
        return true;
    case 4:
        event_text(turn, event, CS_EVENT_ITEM, "{\"type\":\"reasoning\",\"id\":\"r1\"}");
        event->detail = "reasoning";
        return true;
    case 5:
        event_text(turn, event, CS_EVENT_USAGE, "");
        event->input = 10;
        event->cached_input = 4;
        event->output = 3;
        event->total_input = event->total_cached_input = event->total_output = -1;
        return true;
    case 6:
        event_text(turn, event, CS_EVENT_MESSAGE, "the \"answer\"");
        return true;
    default:
        return false;
    }
}

/* The questions, then what was answered. */
static bool ask_owner(struct cs_engine_turn *turn, struct cs_engine_event *event)
{
    struct cs_engine *engine = turn->engine;
    int number = turn->step - 1;

    if (number <= engine->asks) {
        snprintf(turn->detail, sizeof turn->detail, "%d %s", number, engine->ask_kind);
        event->type = CS_EVENT_APPROVAL;
        event->text = engine->ask_text;
        event->len = strlen(engine->ask_text);
        event->detail = turn->detail;
        return true;
    }
    if (number == engine->asks + 1)
        event_text(turn, event, CS_EVENT_MESSAGE, engine->answers);
    return number == engine->asks + 1;
}

static void last_step(struct cs_engine_turn *turn, struct cs_engine_event *event)
{
    if (turn->script == CHAT && turn->step < CHAT_WORDS) {
        event_text(turn, event, CS_EVENT_DELTA, "word ");
        return;
    }
    if (turn->script == TALK && talk(turn, event))
        return;
    if (turn->script == ASK && ask_owner(turn, event))
        return;
    if (turn->script == FAIL)
        event_end(turn, event, CS_UPSTREAM, "codex_error");
    else if (turn->script == REFUSE_MODEL && turn->request.model != NULL)
        event_end(turn, event, CS_UPSTREAM, "model_not_found");
    else if (turn->step == 2 && turn->script != TALK && turn->script != ASK)
        event_text(turn, event, CS_EVENT_MESSAGE, "the answer");
    else
        event_end(turn, event, CS_OK, NULL);
}

/* Whether Codex has nothing to say, with the mutex. */
static bool waits(const struct cs_engine_turn *turn)
{
    const struct cs_engine *engine = turn->engine;

    if (turn->cancelled)
        return false;
    if (turn->script == ASK)
        return turn->step == engine->asks + 2 && engine->answered < engine->asks;
    return turn->script == HANG && turn->step >= 2;
}

enum cs_status cs_engine_turn_next(struct cs_engine_turn *turn, int64_t deadline,
                                   struct cs_engine_event *out_event, struct cs_err *err)
{
    struct cs_engine *engine = turn->engine;
    struct cs_engine_event event = {.text = "", .detail = ""};
    char id[32];

    pthread_mutex_lock(&engine->mutex);
    while (waits(turn))
        if (!cs_cond_wait(&engine->changed, &engine->mutex, deadline)) {
            pthread_mutex_unlock(&engine->mutex);
            return cs_err_set(err, CS_TIMEOUT, NULL, "nothing yet");
        }
    if (turn->script == CHAT && turn->step >= 2) { /* the pace of words; a cancel cuts in */
        int64_t next = cs_mono_ms() + CHAT_MS;

        while (!turn->cancelled && cs_cond_wait(&engine->changed, &engine->mutex, next))
            continue;
    }
    snprintf(id, sizeof id, "T%d", engine->next_turn);
    if (turn->step == 0) {
        event_text(turn, &event, CS_EVENT_THREAD,
                   turn->request.thread_id != NULL ? turn->request.thread_id : "thread-1");
    } else if (turn->step == 1) {
        engine->next_turn++;
        event_text(turn, &event, CS_EVENT_STARTED, id);
        event.detail = turn->request.model != NULL ? turn->request.model : "codex-own";
    } else if (turn->cancelled) {
        event_end(turn, &event, CS_CANCELLED, "turn_cancelled");
    } else {
        last_step(turn, &event);
    }
    turn->step++;
    pthread_mutex_unlock(&engine->mutex);
    *out_event = event;
    return CS_OK;
}

enum cs_status cs_engine_turn_answer(struct cs_engine_turn *turn, const char *id, bool approve,
                                     struct cs_err *err)
{
    struct cs_engine *engine = turn->engine;
    size_t len;
    bool taken;

    pthread_mutex_lock(&engine->mutex);
    len = strlen(engine->answers);
    taken = !engine->ask_settled;
    if (taken)
        snprintf(engine->answers + len, sizeof engine->answers - len, "%s%c", id,
                 approve ? '+' : '-');
    engine->answered++;
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->mutex);
    return taken ? CS_OK : cs_err_set(err, CS_NOT_FOUND, "approval_not_found", "not asked");
}

void cs_engine_turn_cancel(struct cs_engine_turn *turn)
{
    pthread_mutex_lock(&turn->engine->mutex);
    turn->cancelled = true;
    pthread_cond_broadcast(&turn->engine->changed);
    pthread_mutex_unlock(&turn->engine->mutex);
}

void cs_engine_turn_free(struct cs_engine_turn *turn)
{
    pthread_mutex_lock(&turn->engine->mutex);
    turn->engine->running--;
    pthread_cond_broadcast(&turn->engine->changed);
    pthread_mutex_unlock(&turn->engine->mutex);
    free(turn);
}

/* Made ready for use; the test owns the memory. */
static void scripted_engine_init(struct cs_engine *engine)
{
    memset(engine, 0, sizeof *engine);
    pthread_mutex_init(&engine->mutex, NULL);
    (void)!cs_cond_init(&engine->changed, NULL);
}

#endif
