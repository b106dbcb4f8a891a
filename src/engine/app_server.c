#include "app_server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Threads. The caller holds the link's mutex. */

void cs_app_send_about(struct cs_driver *driver, const char *method, const char *thread_id,
                       const char *turn_id)
{
    struct cs_buf line;
    struct cs_jsonw w;
    cs_buf_init(&line, 4096);
    (void)cs_rpc_request(&driver->link, &line, &w, method);
    cs_jsonw_string(&w, "threadId", thread_id);
    if (turn_id) {
        cs_jsonw_string(&w, "turnId", turn_id);
    }
    cs_rpc_end(&line, &w);
    cs_link_send(&driver->link, &line);
    cs_buf_fini(&line);
}

/* Codex unloads a thread without subscribers by itself. */
void cs_app_rest(struct cs_driver *driver, struct cs_app_thread *thread)
{
    struct cs_app_thread *surplus = cs_app_thread_rest(&driver->threads, thread);
    if (surplus) {
        cs_app_send_about(driver, "thread/unsubscribe", surplus->id, NULL);
        cs_app_thread_free(&driver->threads, surplus);
    }
}

void cs_app_leave(struct cs_driver *driver, struct cs_app_turn *state)
{
    struct cs_app_thread *thread = state->claim.thread;
    if (thread) {
        state->claim.thread = NULL;
        thread->claim = NULL;
        cs_app_rest(driver, thread);
    }
}

void cs_app_take(struct cs_driver *driver, struct cs_app_turn *state, struct cs_app_thread *thread)
{
    if (state->claim.thread != thread) {
        cs_app_leave(driver, state);
        cs_app_thread_claim(&driver->threads, &state->claim, thread);
    }
}

static void interrupt(struct cs_driver *driver, struct cs_app_thread *thread)
{
    if (!thread->busy) {
        return;
    }
    bool asked = thread->stop && *thread->running;
    thread->stop = true;
    if (!asked && *thread->running) {
        cs_app_send_about(driver, "turn/interrupt", thread->id, thread->running);
    }
}

/* Let Codex end the turn, if it runs one for us. With the mutex held. */
static void stop(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    const struct cs_app_turn *state = turn->state;
    if (state->claim.thread) {
        interrupt(driver, state->claim.thread);
    }
}

/* Leave the thread to the next turn. With the mutex held. */
static void release(struct cs_driver *driver, struct cs_engine_turn *turn, bool clean)
{
    struct cs_app_turn *state = turn->state;
    (void)clean; /* what must be reverted stands in the thread */
    if (state->claim.thread && state->rpc.prompted) {
        memcpy(state->claim.thread->totals, state->rpc.totals, sizeof(state->rpc.totals));
    }
    cs_app_leave(driver, state);
}

/* The child, on its reader thread. */

static void arguments(const struct cs_engine *engine, const struct cs_codex *codex,
                      const char **out_argv)
{
    (void)codex;
    size_t n = 0;
    if (engine->options.api_key) {
        out_argv[n++] = "-c";
        out_argv[n++] =
            "cli_auth_credentials_store=\"ephemeral\""; /* the key must not reach Codex's files */
    }
    out_argv[n++] = "app-server";
    out_argv[n] = NULL;
}

/* Notifications that nobody here reads; Codex need not send them. */
static const char *const unread[] = {
    "account/rateLimits/updated",
    "item/commandExecution/outputDelta",
    "item/fileChange/outputDelta",
    "item/fileChange/patchUpdated",
    "item/plan/delta",
    "item/reasoning/summaryPartAdded",
    "item/reasoning/summaryTextDelta",
    "item/reasoning/textDelta",
    "remoteControl/status/changed",
    "thread/started",
    "thread/status/changed",
    "turn/diff/updated",
    "turn/plan/updated",
};

static void shake_initialize(struct cs_driver *driver)
{
    const char *version = driver->link.engine->options.version;
    struct cs_buf line;
    struct cs_jsonw w;
    cs_buf_init(&line, 65536);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "initialize");
    cs_jsonw_object(&w, "clientInfo");
    cs_jsonw_string(&w, "name", "codex-sessiond");
    cs_jsonw_string(&w, "title", "codex-sessiond");
    cs_jsonw_string(&w, "version", version ? version : "0");
    cs_jsonw_end_object(&w);
    cs_jsonw_object(&w, "capabilities");
    cs_jsonw_bool(&w, "experimentalApi", true);
    cs_jsonw_array(&w, "optOutNotificationMethods");
    for (size_t i = 0; i < sizeof(unread) / sizeof(unread[0]); i++) {
        cs_jsonw_string(&w, NULL, unread[i]);
    }
    cs_jsonw_end_array(&w);
    cs_jsonw_end_object(&w);
    cs_rpc_end(&line, &w);
    cs_link_shake(&driver->link, id, &line);
    cs_buf_fini(&line);
}

static void shake_login(struct cs_driver *driver)
{
    struct cs_buf line;
    struct cs_jsonw w;
    cs_buf_init(&line, 65536);
    int64_t id = cs_rpc_request(&driver->link, &line, &w, "account/login/start");
    cs_jsonw_string(&w, "type", "apiKey");
    cs_jsonw_string(&w, "apiKey", driver->link.engine->options.api_key);
    cs_rpc_end(&line, &w);
    cs_link_shake(&driver->link, id, &line);
    cs_buf_fini(&line);
}

static void handshake(struct cs_driver *driver, const struct cs_codex_line *reply)
{
    struct cs_link *link = &driver->link;
    if (!reply) {
        driver->initialized = false;
        shake_initialize(driver);
        return;
    }
    if (reply->error) {
        char sentence[300];
        const char *message = cs_json_get_string(reply->error, "message");
        snprintf(sentence, sizeof(sentence), "Codex app-server refused the handshake: %.200s",
                 message ? message : "");
        cs_link_refuse(link, sentence);
        return;
    }
    if (driver->initialized) { /* and this was the reply to the login */
        cs_link_ready(link);
        return;
    }
    if (!cs_json_get_string(reply->result, "userAgent")) {
        cs_link_refuse(link, "Codex app-server answered the handshake like something else");
        return;
    }
    driver->initialized = true;
    cs_link_send_text(link, "{\"method\":\"initialized\"}\n");
    if (link->engine->options.api_key) {
        shake_login(driver);
    } else {
        cs_link_ready(link);
    }
}

static void on_down(struct cs_driver *driver)
{
    cs_app_threads_clear(&driver->threads);
}

/* The driver. */

static void clear(struct cs_engine_turn *turn)
{
    struct cs_app_turn *state = turn->state;
    for (size_t i = 0; state->patches && i < CS_APP_PATCHES_MAX; i++) {
        free(state->patches[i].changes);
    }
    free(state->patches);
}

static void fini(struct cs_driver *driver)
{
    free(driver->default_model);
}

static const struct cs_link_ops link_ops = {
    .name = "Codex app-server",
    .skip_stdin = false,
    .arguments = arguments,
    .handshake = handshake,
    .on_reply = cs_app_on_reply,
    .on_notice = cs_app_on_notice,
    .on_request = cs_app_on_request,
    .answer = cs_app_answer,
    .on_down = on_down,
    .state_size = sizeof(struct cs_app_turn),
    .ready = cs_app_ready,
    .replied = cs_app_replied,
    .noticed = cs_app_noticed,
    .asked = cs_app_asked,
    .stop = stop,
    .release = release,
    .clear = clear,
    .fini = fini,
};

static enum cs_status create(struct cs_engine *engine, struct cs_driver **out_driver,
                             struct cs_err *err)
{
    return cs_rpc_driver_new(engine, &link_ops, sizeof(struct cs_driver), out_driver, err);
}

const struct cs_driver_ops cs_app_server_ops = {
    .kind = CS_ENGINE_APP_SERVER,
    .create = create,
    .destroy = cs_rpc_driver_free,
    .step = cs_rpc_step,
    .cancel = cs_rpc_cancel,
    .answer = cs_rpc_answer,
    .detach = cs_rpc_detach,
};
