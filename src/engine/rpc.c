#include "rpc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "cs/base/thread.h"

#include "process_priv.h"

#define SUPERVISOR_STACK ((size_t)128 * 1024)
#define TEXT_MAX         ((size_t)64 * 1024 * 1024)
#define LINE_USUAL       ((size_t)1500) /* holds a request with a short prompt */
#define METHOD_NOT_FOUND "\"error\":{\"code\":-32601,\"message\":\"method not found\"}"

/* Lines. */

/* Turn each escape \u0000 into \ufffd. Returns whether there was one. */
static bool mend_nuls(char *text, size_t len)
{
    bool found = false;
    for (size_t i = 0; i + 1 < len; i++) {
        if (text[i] != '\\') {
            continue;
        }
        if (len - i >= 6 && memcmp(text + i + 1, "u0000", 5) == 0) {
            memcpy(text + i + 2, "fffd", 4);
            found = true;
        }
        i++; /* the escaped character: it may be a backslash */
    }
    return found;
}

void cs_codex_line(char *text, size_t len, struct cs_codex_line *out)
{
    *out = (struct cs_codex_line){.kind = CS_LINE_NOISE, .method = "", .call = -1, .len = len};
    size_t skip = 0;
    while (skip < len && (text[skip] == ' ' || text[skip] == '\t' || text[skip] == '\r')) {
        skip++;
    }
    if (skip == len || text[skip] != '{') {
        return;
    }
    out->kind = CS_LINE_BAD;
    struct cs_json *json = NULL;
    enum cs_status status = cs_json_parse(text, len, len, &json, NULL);
    if (status == CS_INVALID && mend_nuls(text, len)) {
        status = cs_json_parse(text, len, len, &json, NULL);
    }
    if (status != CS_OK) {
        out->kind = status == CS_NO_MEM ? CS_LINE_NO_MEM : CS_LINE_BAD;
        return;
    }
    const char *method = cs_json_get_string(json, "method");
    const struct cs_json *id = cs_json_get(json, "id");
    bool has_id = cs_json_type(id) == CS_JSON_INT || cs_json_type(id) == CS_JSON_STRING;
    if (!method && !has_id) {
        cs_json_free(json);
        return;
    }
    out->json = json;
    out->id = id;
    out->params = cs_json_get(json, "params");
    out->result = cs_json_get(json, "result");
    const struct cs_json *error = cs_json_get(json, "error");
    out->error = cs_json_type(error) == CS_JSON_NULL ? NULL : error;
    if (method) {
        out->method = method;
        out->kind = has_id ? CS_LINE_REQUEST : CS_LINE_NOTICE;
    } else {
        out->kind = CS_LINE_REPLY;
        out->call = cs_json_int(id, -1);
    }
}

void cs_codex_id(char out[CS_CODEX_ID_MAX], const char *id)
{
    size_t len = id ? strnlen(id, CS_CODEX_ID_MAX - 1) : 0;
    if (len > 0) {
        memcpy(out, id, len);
    }
    out[len] = '\0';
}

size_t cs_codex_hash(const char *id)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *id; id++) {
        hash = (hash ^ (unsigned char)*id) * 0x100000001b3u;
    }
    return (size_t)(hash ^ hash >> 32);
}

bool cs_text_is(const char *text, const char *word)
{
    return text && strcmp(text, word) == 0;
}

void cs_text_replace(char **text, const char *by)
{
    char *copy = by ? strdup(by) : NULL;
    free(*text);
    *text = copy;
}

char *cs_json_text(const struct cs_json *json)
{
    struct cs_buf buf;
    cs_buf_init(&buf, TEXT_MAX);
    cs_json_dump(json, &buf);
    char *text = cs_buf_take(&buf, NULL);
    cs_buf_fini(&buf);
    return text;
}

int64_t cs_link_next_id(struct cs_link *link)
{
    return __atomic_add_fetch(&link->last_id, 1, __ATOMIC_RELAXED);
}

int64_t cs_rpc_request(struct cs_link *link, struct cs_buf *line, struct cs_jsonw *w,
                       const char *method)
{
    int64_t id = cs_link_next_id(link);
    (void)cs_buf_reserve(line, LINE_USUAL); /* grow once */
    cs_jsonw_init(w, line);
    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "jsonrpc", "2.0");
    cs_jsonw_int(w, "id", id);
    cs_jsonw_string(w, "method", method);
    cs_jsonw_object(w, "params");
    return id;
}

void cs_rpc_end(struct cs_buf *line, struct cs_jsonw *w)
{
    cs_jsonw_end_object(w);
    cs_jsonw_end_object(w);
    cs_buf_addc(line, '\n');
}

/* Calls: the turns that wait for a reply, by id. */

static struct cs_link_turn **bucket(struct cs_link *link, int64_t id)
{
    return &link->calls[(uint64_t)id & (CS_LINK_BUCKETS - 1)];
}

struct cs_link_turn *cs_link_find(struct cs_link *link, int64_t id)
{
    if (id <= 0) {
        return NULL;
    }
    struct cs_link_turn *node = *bucket(link, id);
    while (node && node->call != id) {
        node = node->chain;
    }
    return node;
}

static void forget_call(struct cs_link *link, struct cs_link_turn *node)
{
    if (!node->call) {
        return;
    }
    struct cs_link_turn **at = bucket(link, node->call);
    while (*at != node) {
        at = &(*at)->chain;
    }
    *at = node->chain;
    node->chain = NULL;
    node->call = 0;
}

bool cs_link_live(const struct cs_link *link, const struct cs_link_turn *node)
{
    return link->state == CS_LINK_READY && node->generation == link->generation;
}

static void stop(struct cs_link *link)
{
    cs_process_stop(link->process, false, link->ops->skip_stdin);
}

enum cs_status cs_link_call(struct cs_link *link, struct cs_link_turn *node, int64_t id,
                            const struct cs_buf *line, struct cs_err *err)
{
    enum cs_status status = cs_buf_check(line, err);
    if (status != CS_OK) {
        return status;
    }
    if (!cs_link_live(link, node)) {
        return cs_err_set(err, CS_CONFLICT, NULL, "the turn is not on the live child");
    }
    status = cs_process_write(link->process, line->data, line->len, err);
    if (status == CS_UNAVAILABLE) { /* it does not read: on_gone() will tell the turn */
        cs_err_clear(err);
        stop(link);
        return CS_OK;
    }
    if (status != CS_OK) {
        return status;
    }
    if (!link->asked_at) {
        link->asked_at = cs_mono_ms();
    }
    forget_call(link, node);
    node->call = id;
    node->chain = *bucket(link, id);
    *bucket(link, id) = node;
    return CS_OK;
}

static void send_bytes(struct cs_link *link, const char *data, size_t len)
{
    struct cs_err err = {0};
    if (!link->process || link->exited) {
        return;
    }
    if (cs_process_write(link->process, data, len, &err) != CS_OK) {
        cs_log_err("codex_write", &err, "child", link->ops->name);
    }
}

void cs_link_send(struct cs_link *link, const struct cs_buf *line)
{
    if (cs_buf_check(line, NULL) == CS_OK) {
        send_bytes(link, line->data, line->len);
    }
}

void cs_link_send_text(struct cs_link *link, const char *line)
{
    send_bytes(link, line, strlen(line));
}

void cs_link_respond(struct cs_link *link, const char *wire_id, const char *result)
{
    struct cs_buf line;
    cs_buf_init(&line, TEXT_MAX);
    cs_buf_adds(&line, "{\"jsonrpc\":\"2.0\",\"id\":");
    cs_buf_adds(&line, wire_id);
    cs_buf_adds(&line, result ? ",\"result\":" : ",");
    cs_buf_adds(&line, result ? result : METHOD_NOT_FOUND);
    cs_buf_adds(&line, "}\n");
    cs_link_send(link, &line);
    cs_buf_fini(&line);
}

/* Turns. */

/* Put a kind without a message in the turn's inbox. @sentence may be NULL. */
static void tell(struct cs_engine_turn *turn, enum cs_link_message kind, const char *sentence)
{
    cs_turn_push(turn, (int)kind, NULL, sentence ? strdup(sentence) : NULL, 0, false);
}

/* The turns that are on the child or wait for one get @kind, and are on none. */
static void tell_all(struct cs_link *link, enum cs_link_message kind, const char *sentence)
{
    for (struct cs_link_turn *node = link->turns; node; node = node->next) {
        if (!node->waiting && !node->generation) {
            continue;
        }
        forget_call(link, node);
        /* A turn that only waited did not lose anything: for it there is no Codex. */
        enum cs_link_message what = node->waiting ? CS_IN_UNAVAILABLE : kind;
        node->waiting = false;
        node->generation = 0;
        tell(node->turn, what, sentence);
    }
}

static void board(struct cs_link *link, struct cs_link_turn *node)
{
    node->waiting = false;
    node->generation = link->generation;
    tell(node->turn, CS_IN_READY, NULL);
}

void cs_link_join(struct cs_link *link, struct cs_link_turn *node)
{
    pthread_mutex_lock(&link->mutex);
    if (!node->joined) {
        node->joined = true;
        node->prev = NULL;
        node->next = link->turns;
        if (link->turns) {
            link->turns->prev = node;
        }
        link->turns = node;
    }
    if (link->state == CS_LINK_READY) {
        board(link, node);
    } else {
        node->waiting = true;
        pthread_cond_signal(&link->wake);
    }
    pthread_mutex_unlock(&link->mutex);
}

void cs_link_leave(struct cs_link *link, struct cs_link_turn *node)
{
    pthread_mutex_lock(&link->mutex);
    if (node->joined) {
        forget_call(link, node);
        cs_link_asks_end(link, node->turn);
        if (node->next) {
            node->next->prev = node->prev;
        }
        if (node->prev) {
            node->prev->next = node->next;
        } else {
            link->turns = node->next;
        }
        node->joined = false;
    }
    pthread_mutex_unlock(&link->mutex);
}

void cs_link_proved(struct cs_link *link)
{
    link->start_count = 0;
}

/* The handshake. */

/* The child is of no use: tell its turns, and let it end. */
static void give_up(struct cs_link *link, enum cs_link_message kind, const char *sentence)
{
    link->state = CS_LINK_STOPPING;
    snprintf(link->why, sizeof(link->why), "%s", sentence);
    tell_all(link, kind, sentence);
    if (link->process) { /* else start() has yet to learn of it, and stops it then */
        stop(link);
    }
}

void cs_link_refuse(struct cs_link *link, const char *sentence)
{
    give_up(link, CS_IN_UNAVAILABLE, sentence);
}

void cs_link_shake(struct cs_link *link, int64_t id, const struct cs_buf *line)
{
    if (cs_buf_check(line, NULL) != CS_OK) {
        cs_link_refuse(link, "there is no memory for the handshake");
        return;
    }
    link->shake_id = id;
    cs_link_send(link, line);
}

void cs_link_ready(struct cs_link *link)
{
    link->state = CS_LINK_READY;
    for (struct cs_link_turn *node = link->turns; node; node = node->next) {
        if (node->waiting) {
            board(link, node);
        }
    }
    pthread_cond_signal(&link->wake); /* no deadline any more */
}

/* The child's reader thread. */

static void answer(struct cs_link *link, const struct cs_codex_line *line)
{
    char *id = cs_json_text(line->id);
    if (id) {
        cs_link_respond(link, id, link->ops->answer(line->method));
    }
    free(id);
}

static void route_reply(struct cs_link *link, struct cs_codex_line *line)
{
    if (link->state == CS_LINK_STARTING && line->call == link->shake_id && link->shake_id) {
        link->shake_id = 0;
        link->ops->handshake(link->driver, line);
        return;
    }
    struct cs_link_turn *node = cs_link_find(link, line->call);
    if (!node) {
        return; /* a turn that has left, or a request whose reply nobody waits for */
    }
    link->ops->on_reply(link->driver, node, line);
    forget_call(link, node);
    cs_turn_push(node->turn, CS_IN_REPLY, line->json, NULL, line->len, false);
    line->json = NULL;
}

/* A line could not be read, and nobody can tell whose it was: the handshake, or all turns on the
 * child, end, lest one waits for ever. */
static void lose_line(struct cs_link *link)
{
    if (link->state == CS_LINK_STARTING) {
        cs_link_refuse(link, "there is no memory for the handshake");
        return;
    }
    for (struct cs_link_turn *node = link->turns; node; node = node->next) {
        if (node->generation) {
            tell(node->turn, CS_IN_NO_MEM, NULL);
        }
    }
}

/* With the mutex held. */
static void take_line(struct cs_link *link, struct cs_codex_line *line)
{
    link->asked_at = 0;
    switch (line->kind) {
    case CS_LINE_NOISE:
        break;
    case CS_LINE_BAD:
        link->bad_lines++;
        break;
    case CS_LINE_NO_MEM:
        lose_line(link);
        break;
    case CS_LINE_REQUEST:
        if (!link->ops->on_request(link->driver, line)) {
            answer(link, line);
        }
        break;
    case CS_LINE_REPLY:
        route_reply(link, line);
        break;
    case CS_LINE_NOTICE:
        link->ops->on_notice(link->driver, line);
        break;
    }
}

static void on_line(void *arg, char *text, size_t len)
{
    struct cs_link *link = arg;
    struct cs_codex_line line;
    cs_codex_line(text, len, &line);
    if (line.kind == CS_LINE_BAD || line.kind == CS_LINE_NO_MEM) {
        cs_log(CS_LOG_WARN, line.kind == CS_LINE_BAD ? "codex_bad_line" : "codex_no_memory",
               "child", link->ops->name, "bytes", CS_NUM(len), NULL);
    } else if (line.kind == CS_LINE_REQUEST) {
        cs_log(CS_LOG_DEBUG, "codex_request", "method", line.method, NULL);
    }
    pthread_mutex_lock(&link->mutex);
    take_line(link, &line);
    pthread_mutex_unlock(&link->mutex);
    cs_json_free(line.json);
}

/* link->why: how it ended, and the last of stderr that fits. */
static void explain_exit(struct cs_link *link, int wait_status, bool too_long, const char *errors)
{
    char how[80];
    if (too_long) {
        snprintf(how, sizeof(how), "sent a line of more than %lld bytes",
                 (long long)link->engine->options.max_line);
    } else {
        cs_process_describe(wait_status, how, sizeof(how));
    }
    const size_t room = sizeof(link->why) - 128;
    if (strlen(errors) > room) {
        errors += strlen(errors) - room;
        while (((unsigned char)*errors & 0xc0) == 0x80) {
            errors++;
        }
    }
    snprintf(link->why, sizeof(link->why), "%s %s%s%s", link->ops->name, how, *errors ? ": " : "",
             errors);
}

static void on_gone(void *arg, int wait_status, bool too_long, const char *errors)
{
    struct cs_link *link = arg;
    pthread_mutex_lock(&link->mutex);
    enum cs_link_state was = link->state;
    link->state = CS_LINK_DOWN;
    link->exited = true;
    link->shake_id = link->asked_at = 0;
    if (was != CS_LINK_STOPPING) { /* else the reason is known already */
        explain_exit(link, wait_status, too_long, errors);
        if (!link->closing) {
            cs_log(CS_LOG_WARN, "codex_exit", "child", link->ops->name, "why", link->why, NULL);
        }
    }
    if (was == CS_LINK_READY || was == CS_LINK_STARTING) {
        tell_all(link, too_long ? CS_IN_TOO_LARGE : CS_IN_DIED, link->why);
    }
    cs_link_asks_end(link, NULL);
    link->ops->on_down(link->driver);
    pthread_cond_signal(&link->wake);
    pthread_mutex_unlock(&link->mutex);
}

/* The supervisor thread. */

static bool any_waiting(const struct cs_link *link)
{
    for (const struct cs_link_turn *node = link->turns; node; node = node->next) {
        if (node->waiting) {
            return true;
        }
    }
    return false;
}

/* Whether the last CS_LINK_STARTS starts were all recent and none led to a completed turn. */
static bool looping(const struct cs_link *link, int64_t now)
{
    return link->start_count == CS_LINK_STARTS &&
           now - link->starts[link->start_next] < CS_LINK_STARTS_MS;
}

static void note_start(struct cs_link *link, int64_t now)
{
    link->starts[link->start_next] = now;
    link->start_next = (link->start_next + 1) % CS_LINK_STARTS;
    if (link->start_count < CS_LINK_STARTS) {
        link->start_count++;
    }
    if (++link->generation > 1) {
        __atomic_add_fetch(&link->engine->restarts, 1, __ATOMIC_RELAXED);
    }
}

/* Spawn the child that engine->codex names. Without the mutex. */
static enum cs_status spawn(struct cs_link *link, struct cs_process **out_process,
                            struct cs_err *err)
{
    struct cs_engine *engine = link->engine;
    pthread_mutex_lock(&engine->mutex);
    char *path = strdup(engine->codex.path);
    const char *argv[CS_LINK_ARGS] = {path};
    link->ops->arguments(engine, &engine->codex, argv + 1);
    pthread_mutex_unlock(&engine->mutex);
    enum cs_status status;
    if (!path) {
        return cs_err_nomem(err);
    }
    if (!*path) {
        status = cs_err_set(err, CS_UNAVAILABLE, "codex_unavailable", "no Codex CLI was found");
    } else {
        struct cs_process_spec spec = {
            .argv = argv,
            .max_line = engine->options.max_line,
            .events = {.on_line = on_line, .on_exit = on_gone},
            .arg = link,
        };
        status = cs_process_spawn(engine->spawner, &spec, out_process, err);
    }
    free(path);
    return status;
}

static void start(struct cs_link *link)
{
    int64_t now = cs_mono_ms();
    if (looping(link, now)) {
        char sentence[sizeof(link->why) + 100];
        snprintf(sentence, sizeof(sentence),
                 "Codex was started %d times within a minute and did not stay; the last time: %s",
                 CS_LINK_STARTS, link->why);
        tell_all(link, CS_IN_UNAVAILABLE, sentence);
        return;
    }
    note_start(link, now);
    link->state = CS_LINK_STARTING;
    link->exited = false;
    link->deadline = now + link->handshake_ms;
    pthread_mutex_unlock(&link->mutex);
    struct cs_process *process = NULL;
    struct cs_err err = {0};
    enum cs_status status = spawn(link, &process, &err);
    pthread_mutex_lock(&link->mutex);
    if (status != CS_OK) {
        link->state = CS_LINK_DOWN;
        snprintf(link->why, sizeof(link->why), "%.300s", err.msg);
        tell_all(link, CS_IN_UNAVAILABLE, err.msg);
        return;
    }
    link->process = process; /* which may have said something, or ended, in the meantime */
    if (link->state == CS_LINK_STARTING) {
        link->ops->handshake(link->driver, NULL);
    } else if (link->state == CS_LINK_STOPPING) {
        stop(link);
    }
}

/* Both return the time of the next look. */

static int64_t watch_handshake(struct cs_link *link)
{
    if (cs_mono_ms() < link->deadline) {
        return link->deadline;
    }
    char sentence[128];
    snprintf(sentence, sizeof(sentence), "%s did not finish its handshake in %d ms",
             link->ops->name, link->handshake_ms);
    cs_link_refuse(link, sentence);
    return CS_NEVER;
}

/* Each call makes Codex say something at once, if only that a turn has begun. Without this, one
 * that hangs would fail every turn until somebody restarts us. */
static int64_t watch_silence(struct cs_link *link)
{
    int64_t now = cs_mono_ms();
    if (!link->asked_at || now - link->asked_at < link->silence_ms) {
        return now + link->silence_ms / 4;
    }
    char sentence[128];
    snprintf(sentence, sizeof(sentence), "%s was asked, and said nothing for %d ms",
             link->ops->name, link->silence_ms);
    cs_log(CS_LOG_WARN, "codex_silent", "child", link->ops->name, NULL);
    give_up(link, CS_IN_DIED, sentence);
    return CS_NEVER;
}

/* One thing that is due. Returns the time until which to wait for the next, 0 for not at all. */
static int64_t supervise_once(struct cs_link *link)
{
    if (link->process && link->exited) {
        struct cs_process *process = link->process;
        link->process = NULL;
        pthread_mutex_unlock(&link->mutex);
        cs_process_free(process);
        pthread_mutex_lock(&link->mutex);
        return 0;
    }
    if (link->closing) {
        return CS_NEVER;
    }
    if (link->state == CS_LINK_DOWN && !link->process && any_waiting(link)) {
        start(link);
        return 0;
    }
    if (!link->process) {
        return CS_NEVER;
    }
    return link->state == CS_LINK_STARTING ? watch_handshake(link)
           : link->state == CS_LINK_READY  ? watch_silence(link)
                                           : CS_NEVER;
}

static void *supervise(void *arg)
{
    struct cs_link *link = arg;
    pthread_mutex_lock(&link->mutex);
    while (!link->closing) {
        int64_t until = supervise_once(link);
        if (until && !link->closing) {
            cs_cond_wait(&link->wake, &link->mutex, until);
        }
    }
    pthread_mutex_unlock(&link->mutex);
    return NULL;
}

/* Life. */

enum cs_status cs_link_init(struct cs_link *link, struct cs_engine *engine,
                            const struct cs_link_ops *ops, struct cs_driver *driver,
                            struct cs_err *err)
{
    *link = (struct cs_link){.engine = engine,
                             .ops = ops,
                             .driver = driver,
                             .handshake_ms = CS_LINK_HANDSHAKE_MS,
                             .silence_ms = CS_LINK_SILENCE_MS,
                             .why = "no reason known"};
    int errnum = pthread_mutex_init(&link->mutex, NULL);
    if (errnum) {
        return cs_err_errno(err, errnum, "make a mutex");
    }
    enum cs_status status = cs_cond_init(&link->wake, err);
    if (status != CS_OK) {
        pthread_mutex_destroy(&link->mutex);
        return status;
    }
    status =
        cs_thread_start(&link->supervisor, "codex-link", SUPERVISOR_STACK, supervise, link, err);
    if (status != CS_OK) {
        pthread_cond_destroy(&link->wake);
        pthread_mutex_destroy(&link->mutex);
    }
    return status;
}

void cs_link_fini(struct cs_link *link, int64_t deadline)
{
    pthread_mutex_lock(&link->mutex);
    link->closing = true;
    pthread_cond_signal(&link->wake);
    pthread_mutex_unlock(&link->mutex);
    pthread_join(link->supervisor, NULL);
    if (link->process) {
        stop(link);
        cs_process_end_by(link->process, deadline);
        cs_process_free(link->process);
    }
    pthread_cond_destroy(&link->wake);
    pthread_mutex_destroy(&link->mutex);
}
