/* engine/exec: `codex exec --json`, a process per turn.
 *
 * Wire facts (0.98 to 0.169): the prompt goes to stdin, which is then closed; options stand before
 * `resume`. Events are a JSON object a line: thread.started {thread_id}, turn.started,
 * item.completed {item}, turn.completed {usage}, turn.failed {error}, error {message} (also for
 * attempts that are repeated: no verdict). The usage after a resume is the total of the thread.
 * There are no text deltas and no way to interrupt but SIGINT. An unknown thread ends the process
 * without any event; a thread id that is no UUID would silently begin a new thread, so ids are
 * checked before and compared after. exec cannot take back a prompt that was left unanswered: such
 * a thread is left behind, and the transcript goes on in a new one.
 */
#include "priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/uuid.h"

/* The low bits of a message's kind; above them stands the number of the run. */
enum message { MESSAGE_LINE, MESSAGE_BAD_LINE, MESSAGE_EXIT, MESSAGE_TOO_LONG, MESSAGE_KINDS };

enum { PROMPT_MAX = 64 * 1024 * 1024 };

struct cs_driver {
    struct cs_engine *engine;
};

/* What the reader thread of a process knows of the turn. A turn has one, or two after another. */
struct run {
    pthread_mutex_t mutex;
    struct cs_engine_turn *turn; /* NULL: no one listens any more */
    int refs;                    /* the turn's state and the process's events */
    int number;                  /* 1 or 2: messages of an earlier run may still be in the inbox */
};

struct state {
    struct run *run;
    struct cs_process *process;
    char thread_id[CS_UUID_MAX]; /* "" or the thread to be resumed */
    const char *reached;         /* how the thread was reached, for CS_EVENT_THREAD */
    bool thread_started, answered, completed;
    int runs;
    int bad_lines;
    char *failure; /* what Codex said of the failed turn; owned */
    char *notice;  /* its last `error` event; owned */
};

/* ---- the run: reader thread ---- */

static struct run *run_new(struct cs_engine_turn *turn, int number)
{
    struct run *run = calloc(1, sizeof *run);

    if (run == NULL)
        return NULL;
    pthread_mutex_init(&run->mutex, NULL);
    run->turn = turn;
    run->refs = 2;
    run->number = number;
    return run;
}

static void run_unref(struct run *run, int count, bool silence)
{
    bool last;

    pthread_mutex_lock(&run->mutex);
    if (silence)
        run->turn = NULL;
    run->refs -= count;
    last = run->refs == 0;
    pthread_mutex_unlock(&run->mutex);
    if (!last)
        return;
    pthread_mutex_destroy(&run->mutex);
    free(run);
}

static void run_push(struct run *run, enum message kind, struct cs_json *json, char *text,
                     size_t cost)
{
    pthread_mutex_lock(&run->mutex);
    if (run->turn != NULL) {
        cs_turn_push(run->turn, (int)kind + run->number * MESSAGE_KINDS, json, text, cost, false);
    } else {
        cs_json_free(json);
        free(text);
    }
    pthread_mutex_unlock(&run->mutex);
}

static void on_line(void *arg, char *line, size_t len)
{
    struct cs_json *json = NULL;

    if (line[0] != '{') /* a warning that strayed to stdout */
        return;
    if (cs_json_parse(line, len, len, &json, NULL) == CS_OK)
        run_push(arg, MESSAGE_LINE, json, NULL, len);
    else
        run_push(arg, MESSAGE_BAD_LINE, NULL, NULL, 0);
}

/* Tells how it ended, then what it wrote to stderr. */
static void on_exit_event(void *arg, int wait_status, bool line_too_long, const char *errors)
{
    char end[64], *text = NULL;

    cs_process_describe(wait_status, end, sizeof end);
    if (asprintf(&text, "%s\n%s", end, errors) < 0)
        text = NULL;
    run_push(arg, line_too_long ? MESSAGE_TOO_LONG : MESSAGE_EXIT, NULL, text, 0);
    run_unref(arg, 1, false);
}

/* ---- starting ---- */

static enum cs_status launch(struct cs_driver *driver, struct cs_engine_turn *turn,
                             const char *const *argv, const struct cs_buf *prompt,
                             struct cs_err *err)
{
    const struct cs_engine_options *options = &driver->engine->options;
    struct state *state = turn->state;
    char *key = NULL;
    const char *env[2] = {NULL, NULL};
    struct cs_process_spec spec = {
        .argv = argv,
        .env = env,
        .cwd = turn->request.cwd,
        .max_line = options->max_line,
        .events = {.on_line = on_line, .on_exit = on_exit_event},
        .arg = state->run,
    };
    enum cs_status rc;

    if (options->api_key != NULL) {
        if (asprintf(&key, "CODEX_API_KEY=%s", options->api_key) < 0)
            return cs_err_nomem(err);
        env[0] = key;
    }
    rc = cs_process_spawn(driver->engine->spawner, &spec, &state->process, err);
    free(key);
    if (rc != CS_OK)
        return rc;
    rc = cs_process_write(state->process, prompt->data, prompt->len, NULL);
    cs_process_close_stdin(state->process);
    if (rc == CS_NO_MEM)
        return cs_err_nomem(err);
    return CS_OK; /* if it is gone already, its end tells why */
}

/* The command line; caller-chosen values are glued to their option, so that none can look like
 * another. */
static enum cs_status run_codex(struct cs_driver *driver, struct cs_engine_turn *turn,
                                const struct cs_buf *prompt, struct cs_err *err)
{
    const struct cs_engine_request *request = &turn->request;
    struct state *state = turn->state;
    char *path = NULL, *sandbox = NULL, *cwd = NULL, *model = NULL;
    const char *argv[16];
    size_t argc = 0;
    enum cs_status rc = CS_OK;

    pthread_mutex_lock(&driver->engine->mutex);
    path = strdup(driver->engine->codex.path);
    pthread_mutex_unlock(&driver->engine->mutex);
    if (asprintf(&sandbox, "--sandbox=%s", request->sandbox) < 0)
        sandbox = NULL;
    if (asprintf(&cwd, "--cd=%s", request->cwd) < 0)
        cwd = NULL;
    if (request->model != NULL && asprintf(&model, "--model=%s", request->model) < 0)
        model = NULL;
    state->run = run_new(turn, ++state->runs);
    if (path == NULL || sandbox == NULL || cwd == NULL || state->run == NULL ||
        (model == NULL && request->model != NULL)) {
        rc = cs_err_nomem(err);
        goto out;
    }
    argv[argc++] = path;
    argv[argc++] = "exec";
    argv[argc++] = "--json";
    argv[argc++] = "--skip-git-repo-check";
    argv[argc++] = sandbox;
    argv[argc++] = cwd;
    argv[argc++] = "-c";
    argv[argc++] = "approval_policy=\"never\"";
    if (model != NULL)
        argv[argc++] = model;
    if (state->thread_id[0] != '\0') {
        argv[argc++] = "resume";
        argv[argc++] = state->thread_id;
    }
    argv[argc++] = "-";
    argv[argc] = NULL;
    rc = launch(driver, turn, argv, prompt, err);

out:
    if (state->run != NULL && state->process == NULL) { /* no events will come */
        run_unref(state->run, 2, true);
        state->run = NULL;
    }
    free(path);
    free(sandbox);
    free(cwd);
    free(model);
    return rc;
}

static void fail(struct cs_engine_turn *turn, const struct cs_err *err)
{
    cs_turn_emit_done(turn, err->status, err->code, err->msg);
}

/* Run the prompt in the thread to be resumed, or in a new one that is told the transcript. */
static void start(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    const struct cs_engine_request *request = &turn->request;
    struct state *state = turn->state;
    const struct cs_engine_item *items = NULL;
    size_t count = 0;
    struct cs_buf prompt;
    struct cs_err err = {0};
    enum cs_status rc = CS_OK;

    cs_buf_init(&prompt, PROMPT_MAX);
    state->reached = "resumed";
    if (state->thread_id[0] == '\0') {
        if (request->history != NULL)
            rc = request->history(request->history_arg, &items, &count, &err);
        state->reached = count > 0 ? "preamble" : "new";
    }
    if (rc == CS_OK) {
        cs_preamble(items, count, request->preamble_bytes, request, &prompt);
        rc = cs_buf_check(&prompt, &err);
    }
    if (rc == CS_OK)
        rc = run_codex(driver, turn, &prompt, &err);
    cs_buf_fini(&prompt);
    if (rc != CS_OK)
        fail(turn, &err);
}

/* Forget the process; it ends by itself. */
static void drop_run(struct state *state)
{
    if (state->run != NULL)
        run_unref(state->run, 1, true);
    cs_process_abandon(state->process);
    state->run = NULL;
    state->process = NULL;
}

static void begin(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    const struct cs_engine_request *request = &turn->request;
    struct state *state = calloc(1, sizeof *state);

    turn->state = state;
    if (state == NULL) {
        cs_turn_emit_done(turn, CS_NO_MEM, "out_of_memory", "out of memory");
        return;
    }
    if (request->thread_id != NULL && cs_uuid_valid(request->thread_id) &&
        request->orphan_turn == NULL)
        memcpy(state->thread_id, request->thread_id, CS_UUID_MAX);
    start(driver, turn);
}

/* The thread cannot be continued: begin a new one. */
static void start_over(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;

    drop_run(state);
    state->thread_id[0] = '\0';
    state->bad_lines = 0;
    free(state->notice);
    state->notice = NULL;
    start(driver, turn);
}

/* ---- what Codex says ---- */

static void on_thread_started(struct cs_driver *driver, struct cs_engine_turn *turn,
                              const struct cs_json *line)
{
    struct state *state = turn->state;
    const char *id = cs_json_get_string(line, "thread_id");

    if (id == NULL)
        id = "";
    if (state->thread_id[0] != '\0' && strcmp(id, state->thread_id) != 0) {
        start_over(driver, turn); /* it does not know our thread, and does not say so */
        return;
    }
    state->thread_started = true;
    cs_turn_emit(turn, CS_EVENT_THREAD, id, strlen(id), state->reached);
}

static void on_item(struct cs_engine_turn *turn, const struct cs_json *item)
{
    struct state *state = turn->state;
    const char *type = cs_json_get_string(item, "type");
    struct cs_buf json;

    if (type == NULL)
        return;
    if (strcmp(type, "agent_message") == 0) {
        size_t len = 0;
        const char *text = cs_json_string(cs_json_get(item, "text"), &len);

        if (text == NULL)
            return;
        state->answered = true;
        cs_turn_emit(turn, CS_EVENT_MESSAGE, text, len, "");
        return;
    }
    cs_buf_init(&json, (size_t)turn->engine->options.max_line * 2);
    cs_json_dump(item, &json);
    if (json.status == CS_OK)
        cs_turn_emit(turn, CS_EVENT_ITEM, json.data, json.len, type);
    cs_buf_fini(&json);
}

static void on_usage(struct cs_engine_turn *turn, const struct cs_json *usage)
{
    static const char *const names[3] = {"input_tokens", "cached_input_tokens", "output_tokens"};
    const struct cs_engine_request *request = &turn->request;
    const struct state *state = turn->state;
    const int64_t before[3] = {request->total_input, request->total_cached, request->total_output};
    int64_t this_turn[3], totals[3];

    for (int i = 0; i < 3; i++) {
        totals[i] = cs_json_int(cs_json_get(usage, names[i]), -1);
        this_turn[i] = totals[i];
        if (state->thread_id[0] != '\0' && totals[i] >= 0) /* of the whole thread */
            this_turn[i] = before[i] >= 0 && totals[i] >= before[i] ? totals[i] - before[i] : -1;
    }
    cs_turn_emit_usage(turn, this_turn, totals);
}

static void replace(char **at, const char *text)
{
    free(*at);
    *at = text != NULL ? strdup(text) : NULL;
}

static void on_line_message(struct cs_driver *driver, struct cs_engine_turn *turn,
                            const struct cs_json *line)
{
    struct state *state = turn->state;
    const char *type = cs_json_get_string(line, "type"), *model = turn->request.model;

    if (type == NULL)
        return;
    if (strcmp(type, "thread.started") == 0) {
        on_thread_started(driver, turn, line);
    } else if (strcmp(type, "turn.started") == 0) {
        cs_turn_emit(turn, CS_EVENT_STARTED, "", 0, model != NULL ? model : "");
    } else if (strcmp(type, "item.completed") == 0) {
        on_item(turn, cs_json_get(line, "item"));
    } else if (strcmp(type, "error") == 0) {
        replace(&state->notice, cs_json_get_string(line, "message"));
    } else if (strcmp(type, "turn.completed") == 0) {
        on_usage(turn, cs_json_get(line, "usage"));
        state->completed = true;
        cs_process_stop(state->process, false,
                        false); /* its end is due now: it lets go of the thread */
    } else if (strcmp(type, "turn.failed") == 0) {
        replace(&state->failure,
                cs_json_string(cs_json_path(line, "error", "message", NULL), NULL));
        if (state->failure == NULL)
            replace(&state->failure, "Codex gave no reason");
        cs_process_stop(state->process, false, false);
    }
}

/* The line of @text that explains most: the last that says "error", else the last. At most 300
 * bytes. */
static void explain(const char *text, char *out, size_t cap)
{
    const char *best = "", *line = text;
    bool said_error = false;

    while (*line != '\0') {
        size_t len = strcspn(line, "\n");
        bool says_error = strncasecmp(line, "error", 5) == 0;

        if (len > 0 && (says_error || !said_error)) {
            best = line;
            said_error = says_error;
        }
        line += len + (line[len] == '\n');
    }
    snprintf(out, cap, "%.*s", (int)strcspn(best, "\n"), best);
}

/* The process is gone: the verdict. @text is its end, a newline, its stderr. */
static void on_end(struct cs_driver *driver, struct cs_engine_turn *turn, const char *text,
                   bool too_long)
{
    struct state *state = turn->state;
    char reason[300] = "", sentence[512];
    size_t end;

    if (text == NULL)
        text = "ended";
    end = strcspn(text, "\n");
    if (state->failure != NULL) {
        cs_turn_emit_done(turn, CS_UPSTREAM, cs_codex_error_code(NULL, state->failure),
                          state->failure);
    } else if (too_long) {
        cs_turn_emit_done(turn, CS_UPSTREAM, "reply_too_large",
                          "Codex sent a line that is too long");
    } else if (state->completed && !state->answered && state->bad_lines > 0) {
        cs_turn_emit_done(turn, CS_UPSTREAM, "codex_protocol",
                          "Codex sent a line that is not valid JSON");
    } else if (state->completed) {
        cs_turn_emit_done(turn, CS_OK, NULL, NULL);
    } else if (state->thread_id[0] != '\0' && !state->thread_started && !turn->cancel_sent) {
        start_over(driver, turn); /* it does not know the thread, or another process holds it */
    } else {
        explain(state->notice != NULL ? state->notice
                : text[end] == '\n'   ? text + end + 1
                                      : "",
                reason, sizeof reason);
        snprintf(sentence, sizeof sentence, "Codex %.*s before the turn was over%s%s", (int)end,
                 text, reason[0] != '\0' ? ": " : "", reason);
        cs_turn_emit_done(turn, CS_UPSTREAM, "codex_died", sentence);
    }
}

/* ---- the driver ---- */

static enum cs_status create(struct cs_engine *engine, struct cs_driver **out_driver,
                             struct cs_err *err)
{
    struct cs_driver *driver = calloc(1, sizeof *driver);

    if (driver == NULL)
        return cs_err_nomem(err);
    driver->engine = engine;
    *out_driver = driver;
    return CS_OK;
}

static void destroy(struct cs_driver *driver, int64_t deadline)
{
    (void)deadline; /* processes of turns that are gone end with the spawner */
    free(driver);
}

static void step(struct cs_driver *driver, struct cs_engine_turn *turn,
                 struct cs_message_in *message)
{
    struct state *state = turn->state;

    if (message == NULL) {
        begin(driver, turn);
        return;
    }
    if (message->kind / MESSAGE_KINDS != state->runs)
        return;
    switch ((enum message)(message->kind % MESSAGE_KINDS)) {
    case MESSAGE_LINE:
        on_line_message(driver, turn, message->json);
        break;
    case MESSAGE_BAD_LINE:
        state->bad_lines++;
        break;
    case MESSAGE_EXIT:
        on_end(driver, turn, message->text, false);
        break;
    case MESSAGE_TOO_LONG:
        on_end(driver, turn, message->text, true);
        break;
    case MESSAGE_KINDS:
        break;
    }
}

static void cancel(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;

    (void)driver;
    if (state != NULL && state->process != NULL)
        cs_process_stop(state->process, true, false);
}

static void detach(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    struct state *state = turn->state;

    (void)driver;
    if (state == NULL)
        return;
    drop_run(state);
    free(state->failure);
    free(state->notice);
    free(state);
    turn->state = NULL;
}

const struct cs_driver_ops cs_exec_ops = {
    .kind = CS_ENGINE_EXEC,
    .create = create,
    .destroy = destroy,
    .step = step,
    .cancel = cancel,
    .detach = detach,
};
