/* An engine for the fixtures' tasks: the prompt says what a turn does. Include it in one file: it
 * defines the cs_engine_* functions.
 *
 *   say TEXT        answers TEXT
 *   sleep SECONDS   answers after a while, unless it is cancelled before
 *   fail            ends with an error
 *   ask COUNT       asks so many questions at once, and answers when all are answered
 */
#ifndef MCP_FIXTURE_ENGINE_H
#define MCP_FIXTURE_ENGINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/thread.h"
#include "cs/engine/engine.h"

struct cs_engine {
    pthread_mutex_t mutex; /* guards what changes in turns */
    pthread_cond_t changed;
};

struct cs_engine_turn {
    struct cs_engine *engine;
    char prompt[256], id[24];
    int64_t until; /* mono ms */
    int step, asks;
    int answered;
    bool cancelled;
    struct cs_err error; /* how it ended */
};

const char *cs_engine_kind_name(enum cs_engine_kind kind)
{
    return kind == CS_ENGINE_AUTO ? "auto" : "app-server";
}

enum cs_status cs_engine_kind_parse(const char *word, enum cs_engine_kind *out_kind,
                                    struct cs_err *err)
{
    (void)err;
    *out_kind = strcmp(word, "auto") == 0 ? CS_ENGINE_AUTO : CS_ENGINE_APP_SERVER;
    return CS_OK;
}

void cs_engine_info(struct cs_engine *engine, struct cs_engine_info *out_info)
{
    (void)engine;
    *out_info = (struct cs_engine_info){.usable = true,
                                        .path = "",
                                        .version = "0.0.0",
                                        .kind = CS_ENGINE_APP_SERVER,
                                        .kinds = 1u << CS_ENGINE_APP_SERVER,
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

/* The number behind @word in the prompt; -1 when it does not begin with @word. */
static int number_behind(const struct cs_engine_turn *turn, const char *word)
{
    size_t len = strlen(word);

    return strncmp(turn->prompt, word, len) == 0 ? (int)strtol(turn->prompt + len, NULL, 10) : -1;
}

enum cs_status cs_engine_turn_start(struct cs_engine *engine,
                                    const struct cs_engine_request *request,
                                    struct cs_engine_turn **out_turn, struct cs_err *err)
{
    struct cs_engine_turn *turn = calloc(1, sizeof *turn);
    int seconds;

    if (turn == NULL)
        return cs_err_nomem(err);
    turn->engine = engine;
    snprintf(turn->prompt, sizeof turn->prompt, "%.*s", (int)request->prompt_len, request->prompt);
    seconds = number_behind(turn, "sleep ");
    turn->until = cs_mono_ms() + (seconds > 0 ? seconds * 1000 : 0);
    turn->asks = number_behind(turn, "ask ");
    *out_turn = turn;
    return CS_OK;
}

/* Whether it has nothing to say before it is answered or cancelled, or its time has come. */
static bool is_idle(const struct cs_engine_turn *turn)
{
    if (turn->cancelled || turn->step < 2)
        return false;
    return cs_mono_ms() < turn->until ||
           (turn->step == 2 + turn->asks && turn->answered < turn->asks);
}

static void say(struct cs_engine_event *event, enum cs_event_type type, const char *text)
{
    event->type = type;
    event->text = text;
    event->len = strlen(text);
}

static void next_event(struct cs_engine_turn *turn, struct cs_engine_event *event)
{
    int step = turn->step++, asks = turn->asks > 0 ? turn->asks : 0;

    if (step == 0) {
        say(event, CS_EVENT_THREAD, "thread");
    } else if (step == 1) {
        say(event, CS_EVENT_STARTED, "turn");
        event->detail = "model";
    } else if (turn->cancelled) {
        event->type = CS_EVENT_DONE;
        event->error = &turn->error;
        (void)cs_err_set(&turn->error, CS_CANCELLED, "turn_cancelled", "It was cancelled");
    } else if (step < 2 + asks) {
        snprintf(turn->id, sizeof turn->id, "%d patch", step - 1);
        say(event, CS_EVENT_APPROVAL, "{\"changes\":[{\"path\":\"/tmp/file\",\"kind\":{}}]}");
        event->detail = turn->id;
    } else if (step == 2 + asks && strcmp(turn->prompt, "fail") != 0) {
        say(event, CS_EVENT_MESSAGE, turn->prompt);
    } else {
        event->type = CS_EVENT_DONE;
        event->error = &turn->error;
        if (step == 2)
            (void)cs_err_set(&turn->error, CS_UPSTREAM, "codex_error", "It fails by intention");
    }
}

enum cs_status cs_engine_turn_next(struct cs_engine_turn *turn, int64_t deadline,
                                   struct cs_engine_event *out_event, struct cs_err *err)
{
    struct cs_engine *engine = turn->engine;
    struct cs_engine_event event = {.text = "", .detail = ""};
    bool idle;

    pthread_mutex_lock(&engine->mutex);
    while (is_idle(turn) && cs_mono_ms() < deadline) {
        int64_t now = cs_mono_ms(), until = turn->until > now ? turn->until : deadline;

        (void)cs_cond_wait(&engine->changed, &engine->mutex, until < deadline ? until : deadline);
    }
    idle = is_idle(turn);
    if (!idle)
        next_event(turn, &event);
    pthread_mutex_unlock(&engine->mutex);
    if (idle)
        return cs_err_set(err, CS_TIMEOUT, NULL, "nothing yet");
    *out_event = event;
    return CS_OK;
}

enum cs_status cs_engine_turn_answer(struct cs_engine_turn *turn, const char *id, bool approve,
                                     struct cs_err *err)
{
    (void)id;
    (void)approve;
    (void)err;
    pthread_mutex_lock(&turn->engine->mutex);
    turn->answered++;
    pthread_cond_broadcast(&turn->engine->changed);
    pthread_mutex_unlock(&turn->engine->mutex);
    return CS_OK;
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
    free(turn);
}

#endif
