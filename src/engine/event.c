/* engine/event: a turn's inbox, its events, and our transcript as text for Codex. */
#include "priv.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/thread.h"

enum {
    INBOX_MAX = 8 * 1024 * 1024,
    INBOX_HARD_MAX = 256 * 1024 * 1024, /* what may not be dropped, neither */
    SAID_MAX = 64 * 1024,
    CANCEL_MS = 3000,     /* for Codex to obey */
    PREAMBLE_MIN = 5,     /* messages, whatever the budget */
    PROMPT_MAX = 1000000, /* bytes; Codex takes 1,048,576 characters */
};

/* An event that waits for the owner; its strings follow it, after the error if it has one. */
struct cs_out_event {
    struct cs_out_event *next;
    struct cs_engine_event event;
    struct cs_err error[]; /* CS_EVENT_DONE: one */
};

static void free_message(struct cs_message_in *message)
{
    if (message == NULL)
        return;
    cs_json_free(message->json);
    free(message->text);
    free(message);
}

enum cs_status cs_turn_init(struct cs_engine_turn *turn, struct cs_err *err)
{
    turn->tail = &turn->head;
    turn->out_tail = &turn->out_head;
    turn->cancel_deadline = CS_NEVER;
    pthread_mutex_init(&turn->mutex, NULL);
    return cs_cond_init(&turn->wake, err);
}

void cs_turn_fini(struct cs_engine_turn *turn)
{
    while (turn->head != NULL) {
        struct cs_message_in *next = turn->head->next;

        free_message(turn->head);
        turn->head = next;
    }
    while (turn->out_head != NULL) {
        struct cs_out_event *next = turn->out_head->next;

        free(turn->out_head);
        turn->out_head = next;
    }
    free(turn->current);
    pthread_cond_destroy(&turn->wake);
    pthread_mutex_destroy(&turn->mutex);
}

void cs_turn_push(struct cs_engine_turn *turn, int kind, struct cs_json *json, char *text,
                  size_t cost, bool droppable)
{
    struct cs_message_in *message = calloc(1, sizeof *message);
    bool kept, flood;

    if (message == NULL) {
        cs_json_free(json);
        free(text);
    } else {
        *message = (struct cs_message_in){.kind = kind, .json = json, .text = text, .cost = cost};
    }
    pthread_mutex_lock(&turn->mutex);
    flood = turn->inbox_bytes + cost > INBOX_HARD_MAX;
    turn->flooded = turn->flooded || flood;
    kept = message != NULL && !flood && (!droppable || turn->inbox_bytes + cost <= INBOX_MAX);
    if (kept) {
        *turn->tail = message;
        turn->tail = &message->next;
        turn->inbox_bytes += cost;
    } else if (message == NULL) {
        turn->no_mem = turn->no_mem || !droppable;
    }
    pthread_cond_signal(&turn->wake);
    pthread_mutex_unlock(&turn->mutex);
    if (!kept)
        free_message(message);
}

/* Queue an event with room for its strings; NULL when the turn is done or without memory. */
static struct cs_out_event *add_event(struct cs_engine_turn *turn, enum cs_event_type type,
                                      const char *text, size_t len, const char *detail)
{
    struct cs_out_event *out;
    size_t detail_len = strlen(detail), errors = type == CS_EVENT_DONE ? 1 : 0;
    char *strings;

    if (turn->done)
        return NULL;
    out = malloc(sizeof *out + errors * sizeof *out->error + len + 1 + detail_len + 1);
    if (out == NULL) {
        turn->done = true;
        turn->out_of_memory = true;
        return NULL;
    }
    strings = (char *)&out->error[errors];
    *out = (struct cs_out_event){.event = {.type = type,
                                           .text = strings,
                                           .len = len,
                                           .detail = strings + len + 1,
                                           .input = -1,
                                           .cached_input = -1,
                                           .output = -1,
                                           .total_input = -1,
                                           .total_cached_input = -1,
                                           .total_output = -1}};
    if (len > 0)
        memcpy(strings, text, len);
    strings[len] = '\0';
    memcpy(strings + len + 1, detail, detail_len + 1);
    *turn->out_tail = out;
    turn->out_tail = &out->next;
    return out;
}

void cs_turn_emit(struct cs_engine_turn *turn, enum cs_event_type type, const char *text,
                  size_t len, const char *detail)
{
    add_event(turn, type, text, len, detail != NULL ? detail : "");
}

void cs_turn_emit_usage(struct cs_engine_turn *turn, const int64_t this_turn[3],
                        const int64_t totals[3])
{
    struct cs_out_event *out = add_event(turn, CS_EVENT_USAGE, "", 0, "");
    struct cs_engine_event *event;

    if (out == NULL)
        return;
    event = &out->event;
    event->input = this_turn[0];
    event->cached_input = this_turn[1];
    event->output = this_turn[2];
    event->total_input = totals[0];
    event->total_cached_input = totals[1];
    event->total_output = totals[2];
}

static bool is_cancelled(struct cs_engine_turn *turn)
{
    bool cancelled;

    pthread_mutex_lock(&turn->mutex);
    cancelled = turn->cancelled;
    pthread_mutex_unlock(&turn->mutex);
    return cancelled;
}

/* Record what Codex said. It passes on some replies of the model's server as they came, in JSON:
 * take the sentence out of those. */
static void set_upstream(struct cs_err *err, const char *code, const char *said)
{
    struct cs_json *json = NULL;
    const char *sentence = NULL;

    if (said[0] == '{' && cs_json_parse(said, strlen(said), SAID_MAX, &json, NULL) == CS_OK) {
        sentence = cs_json_string(cs_json_path(json, "error", "message", NULL), NULL);
        if (sentence == NULL)
            sentence = cs_json_get_string(json, "detail");
        if (sentence == NULL)
            sentence = cs_json_get_string(json, "message");
    }
    (void)cs_err_set(err, CS_UPSTREAM, code, "%s", sentence != NULL ? sentence : said);
    cs_json_free(json);
}

void cs_turn_emit_done(struct cs_engine_turn *turn, enum cs_status status, const char *code,
                       const char *sentence)
{
    struct cs_out_event *out = add_event(turn, CS_EVENT_DONE, "", 0, "");

    if (out == NULL)
        return;
    turn->done = true;
    out->error[0] = (struct cs_err){.status = CS_OK};
    out->event.error = out->error;
    if (status != CS_OK && is_cancelled(turn)) /* whatever Codex calls it */
        (void)cs_err_set(out->error, CS_CANCELLED, "turn_cancelled", "The turn was cancelled");
    else if (status == CS_UPSTREAM)
        set_upstream(out->error, code, sentence);
    else if (status != CS_OK)
        (void)cs_err_set(out->error, status, code, "%s", sentence);
}

/* Hand the oldest event to the owner; false if there is none. */
static bool take_event(struct cs_engine_turn *turn, struct cs_engine_event *out_event)
{
    static const struct cs_err no_mem = {CS_NO_MEM, "out_of_memory", "out of memory"};
    struct cs_out_event *out = turn->out_head;

    if (out != NULL) {
        turn->out_head = out->next;
        if (out->next == NULL)
            turn->out_tail = &turn->out_head;
        turn->current = out;
        *out_event = out->event;
        return true;
    }
    if (!turn->out_of_memory)
        return false;
    *out_event =
        (struct cs_engine_event){.type = CS_EVENT_DONE, .text = "", .detail = "", .error = &no_mem};
    return true;
}

enum wake { WAKE_MESSAGE, WAKE_CANCEL, WAKE_GIVE_UP, WAKE_NO_MEM, WAKE_FLOOD, WAKE_TIMEOUT };

/* Wait for something to do. With WAKE_MESSAGE the caller owns *out_message. */
static enum wake await(struct cs_engine_turn *turn, int64_t deadline,
                       struct cs_message_in **out_message)
{
    enum wake wake = WAKE_TIMEOUT;
    bool waiting = true;

    pthread_mutex_lock(&turn->mutex);
    for (;;) {
        int64_t until = turn->cancel_deadline < deadline ? turn->cancel_deadline : deadline;

        if (turn->no_mem) {
            wake = WAKE_NO_MEM;
        } else if (turn->flooded) {
            wake = WAKE_FLOOD;
        } else if (turn->cancelled && !turn->cancel_sent) {
            turn->cancel_sent = true;
            wake = WAKE_CANCEL;
        } else if (turn->head != NULL) {
            *out_message = turn->head;
            turn->head = turn->head->next;
            if (turn->head == NULL)
                turn->tail = &turn->head;
            turn->inbox_bytes -= (*out_message)->cost;
            wake = WAKE_MESSAGE;
        } else if (cs_mono_ms() >= turn->cancel_deadline) {
            wake = WAKE_GIVE_UP;
        } else if (waiting) {
            waiting = cs_cond_wait(&turn->wake, &turn->mutex, until) || until != deadline;
            continue;
        }
        break;
    }
    pthread_mutex_unlock(&turn->mutex);
    return wake;
}

static void begin(struct cs_engine_turn *turn)
{
    if (is_cancelled(turn)) {
        cs_turn_emit_done(turn, CS_CANCELLED, "turn_cancelled", "The turn was cancelled");
        return;
    }
    turn->begun = true;
    if (turn->ops == NULL)
        cs_turn_emit_done(turn, CS_UNAVAILABLE, "codex_unavailable", turn->unavailable);
    else
        turn->ops->step(turn->driver, turn, NULL);
}

/* One thing done on the owner's thread; false when the deadline has passed. */
static bool advance(struct cs_engine_turn *turn, int64_t deadline)
{
    struct cs_message_in *message = NULL;

    switch (await(turn, deadline, &message)) {
    case WAKE_MESSAGE:
        turn->ops->step(turn->driver, turn, message);
        free_message(message);
        return true;
    case WAKE_CANCEL:
        turn->ops->cancel(turn->driver, turn);
        return true;
    case WAKE_GIVE_UP:
        cs_turn_emit_done(turn, CS_CANCELLED, "turn_cancelled", "The turn was cancelled");
        return true;
    case WAKE_NO_MEM:
        turn->done = true;
        turn->out_of_memory = true;
        return true;
    case WAKE_FLOOD:
        cs_turn_emit_done(turn, CS_UPSTREAM, "reply_too_large",
                          "Codex says more than can be taken in");
        return true;
    case WAKE_TIMEOUT:
        break;
    }
    return false;
}

enum cs_status cs_engine_turn_next(struct cs_engine_turn *turn, int64_t deadline,
                                   struct cs_engine_event *out_event, struct cs_err *err)
{
    free(turn->current);
    turn->current = NULL;
    while (!take_event(turn, out_event)) {
        if (turn->done)
            return cs_err_set(err, CS_INTERNAL, NULL, "the turn is done already");
        if (!turn->begun)
            begin(turn);
        else if (!advance(turn, deadline))
            return cs_err_set(err, CS_TIMEOUT, NULL, "no event in time");
    }
    return CS_OK;
}

void cs_engine_turn_cancel(struct cs_engine_turn *turn)
{
    pthread_mutex_lock(&turn->mutex);
    if (!turn->cancelled) {
        turn->cancelled = true;
        turn->cancel_deadline = cs_mono_ms() + CANCEL_MS;
        pthread_cond_signal(&turn->wake);
    }
    pthread_mutex_unlock(&turn->mutex);
}

/* ---- the transcript as text ---- */

static const char *role_label(enum cs_role role)
{
    return role == CS_ROLE_USER ? "[user]\n" : "[assistant]\n";
}

/* Bytes of text[0, len) up to @max that end at a character. */
static size_t cut(const char *text, size_t len, size_t max)
{
    if (len <= max)
        return len;
    while (max > 0 && ((unsigned char)text[max] & 0xc0) == 0x80)
        max--;
    return max;
}

/* An item, without its middle if it is longer than @max. */
static void add_item(struct cs_buf *out, const struct cs_engine_item *item, size_t max)
{
    cs_buf_adds(out, role_label(item->role));
    if (item->len <= max) {
        cs_buf_add(out, item->text, item->len);
    } else {
        size_t head = cut(item->text, item->len, max / 2);
        size_t tail = cut(item->text, item->len, item->len - max / 2);

        cs_buf_add(out, item->text, head);
        cs_buf_addf(out, "\n[%zu bytes left out]\n", tail - head);
        cs_buf_add(out, item->text + tail, item->len - tail);
    }
    cs_buf_adds(out, "\n\n");
}

void cs_preamble(const struct cs_engine_item *items, size_t count, int64_t budget,
                 const struct cs_engine_request *request, struct cs_buf *out)
{
    size_t own = request->prompt_len + request->context_len, first = count, used = 0;
    size_t room = own < PROMPT_MAX ? PROMPT_MAX - own : 0;

    while (first > 0 && (count - first < PREAMBLE_MIN ||
                         used + items[first - 1].len <= (size_t)(budget > 0 ? budget : 0)))
        used += items[--first].len;
    if (count > 0) {
        size_t max = used <= room ? SIZE_MAX : room / (count - first);

        cs_buf_adds(out, "This conversation began earlier. Its transcript follows");
        if (first > 0)
            cs_buf_addf(out, ", without the oldest %zu messages", first);
        cs_buf_adds(out, ". Go on from it and answer the new message at the end.\n\n");
        for (size_t i = first; i < count; i++)
            if (items[i].len > 0)
                add_item(out, &items[i], max);
        cs_buf_adds(out, "[new message of the user]\n");
    }
    if (request->context_len > 0) {
        cs_buf_add(out, request->context, request->context_len);
        cs_buf_adds(out, "\n\n");
    }
    cs_buf_add(out, request->prompt, request->prompt_len);
}

/* ---- what Codex' errors mean ---- */

static const char *code_of_http(int64_t status)
{
    switch (status) {
    case 401:
    case 403:
        return "codex_auth";
    case 429:
        return "codex_rate_limited";
    default:
        return NULL;
    }
}

struct sign {
    const char *word, *code;
};

static const char *find_sign(const struct sign *signs, size_t count, const char *text)
{
    for (size_t i = 0; i < count; i++)
        if (strcasestr(text, signs[i].word) != NULL)
            return signs[i].code;
    return NULL;
}

struct visit {
    const char *code;
};

/* codexErrorInfo is a word, or an object whose one key is the word. */
static const char *code_of_word(const char *word)
{
    static const struct sign signs[] = {
        {"modelNotFound", "model_not_found"},
        {"unauthorized", "codex_auth"},
        {"usageLimitExceeded", "codex_rate_limited"},
        {"responseTooManyFailedAttempts", "codex_rate_limited"},
        {"contextWindowExceeded", "context_window_exceeded"},
    };

    return find_sign(signs, sizeof signs / sizeof *signs, word);
}

static bool visit_info(const char *key, const struct cs_json *value, void *arg)
{
    struct visit *visit = arg;

    visit->code = code_of_http(cs_json_int(cs_json_get(value, "httpStatusCode"), 0));
    if (visit->code == NULL)
        visit->code = code_of_word(key);
    return visit->code == NULL;
}

const char *cs_codex_error_code(const struct cs_json *info, const char *message)
{
    static const struct sign signs[] = {
        {"401 Unauthorized", "codex_auth"},
        {"403 Forbidden", "codex_auth"},
        {"not logged in", "codex_auth"},
        {"invalid_api_key", "codex_auth"},
        {"invalid api key", "codex_auth"},
        {"429 Too Many Requests", "codex_rate_limited"},
        {"rate limit", "codex_rate_limited"},
        {"usage limit", "codex_rate_limited"},
        {"context_length_exceeded", "context_window_exceeded"},
        {"context window", "context_window_exceeded"},
        {"model_not_found", "model_not_found"},
        {"unknown model", "model_not_found"},
        {"unsupported model", "model_not_found"},
        {"model is not supported", "model_not_found"},
        {"model not found", "model_not_found"},
    };
    struct visit visit = {0};
    const char *word = cs_json_string(info, NULL);

    if (word != NULL)
        visit.code = code_of_word(word);
    else if (cs_json_type(info) == CS_JSON_OBJECT)
        (void)cs_json_each(info, visit_info, &visit);
    if (visit.code == NULL && message != NULL)
        visit.code = find_sign(signs, sizeof signs / sizeof *signs, message);
    if (visit.code == NULL && message != NULL && strcasestr(message, "model") != NULL &&
        (strcasestr(message, "does not exist") != NULL ||
         strcasestr(message, "not supported") != NULL))
        visit.code = "model_not_found";
    return visit.code != NULL ? visit.code : "codex_error";
}
