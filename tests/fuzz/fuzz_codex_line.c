/* Whatever a child says: lines through the parser, the routing and the state machines of turns,
 * without a process.
 *
 * The first byte picks the driver and how the turns begin; what follows are lines. "!cancel" and
 * "!die" are the test's own.
 */
#include <stdint.h>
#include <string.h>

#include "cs/base/log.h"
#include "engine/rpc.h"

#include "../support/hand_process.h"

enum { TURNS = 2, LINES_MAX = 200 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct cs_engine_item past[] = {
    {.role = CS_ROLE_USER, .text = "what?", .len = 5},
    {.role = CS_ROLE_ASSISTANT, .text = "that", .len = 4},
};

static enum cs_status tell_past(void *arg, const struct cs_engine_item **out_items,
                                size_t *out_count, struct cs_err *err)
{
    (void)arg;
    (void)err;
    *out_items = past;
    *out_count = sizeof past / sizeof *past;
    return CS_OK;
}

/* Take all events of the turns. */
static void drain(struct cs_engine_turn *turns[TURNS], bool done[TURNS])
{
    for (int i = 0; i < TURNS; i++) {
        struct cs_engine_event event;
        while (!done[i] && cs_engine_turn_next(turns[i], 0, &event, NULL) == CS_OK) {
            if (!cs_utf8_valid(event.text, event.len) || event.text[event.len] != '\0') {
                abort();
            }
            done[i] = event.type == CS_EVENT_DONE;
        }
    }
}

static void parse_alone(const char *text, size_t len)
{
    struct cs_codex_line line;
    char *copy = malloc(len + 1);
    if (!copy) {
        return;
    }
    memcpy(copy, text, len);
    copy[len] = '\0';
    cs_codex_line(copy, len, &line);
    if ((line.json != NULL) != (line.kind >= CS_LINE_REPLY)) {
        abort();
    }
    cs_json_free(line.json);
    free(copy);
}

static void feed(struct cs_engine_turn *turns[TURNS], const char *text, size_t len)
{
    static const char cancel[] = "!cancel", die[] = "!die";
    struct cs_process *child = hand_live();
    parse_alone(text, len);
    if (len == sizeof cancel - 1 && memcmp(text, cancel, len) == 0) {
        cs_engine_turn_cancel(turns[0]);
    } else if (child && len == sizeof die - 1 && memcmp(text, die, len) == 0) {
        hand_end(child, 1, false, "it said so");
    } else if (child) {
        hand_line(child, text, len);
    }
}

static void start(struct cs_engine *engine, uint8_t how, struct cs_engine_turn *turns[TURNS])
{
    for (int i = 0; i < TURNS; i++) {
        struct cs_engine_request request = {
            .prompt = "hello",
            .prompt_len = 5,
            .cwd = "/",
            .sandbox = "read-only",
            .thread_id = how & 4 ? "t" : NULL,
            .orphan_turn = how & 8 ? "o" : NULL,
            .history = how & 16 ? tell_past : NULL,
            .preamble_bytes = 1000,
            .total_input = -1,
            .total_cached = -1,
            .total_output = -1,
        };
        if (cs_engine_turn_start(engine, &request, &turns[i], NULL) != CS_OK) {
            abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum cs_engine_kind kinds[] = {CS_ENGINE_APP_SERVER, CS_ENGINE_MCP, CS_ENGINE_EXEC,
                                                CS_ENGINE_APP_SERVER};
    static const char shake[] =
        "{\"id\":1,\"result\":{\"userAgent\":\"x\",\"serverInfo\":{\"name\":\"x\"}}}";
    if (size < 1) {
        return 0;
    }
    cs_log_set_level(CS_LOG_ERROR + 1);
    hand_spawned = 0;
    enum cs_engine_kind kind = kinds[data[0] & 3];
    struct cs_engine_options options = {
        .instance = "x", .kind = kind, .max_line = 1048576, .version = "1"};
    struct cs_engine *engine = NULL;
    struct cs_engine_turn *turns[TURNS] = {NULL};
    bool done[TURNS] = {false};
    if (cs_engine_new(&options, &engine, NULL) != CS_OK) {
        abort();
    }
    start(engine, data[0], turns);
    drain(turns, done);
    if (kind != CS_ENGINE_EXEC) {
        hand_say(hand_await(1, "initialize"), shake);
        drain(turns, done);
    }
    const char *at = (const char *)data + 1, *end = (const char *)data + size;
    for (int i = 0; at < end && i < LINES_MAX; i++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((newline ? newline : end) - at);
        feed(turns, at, len);
        drain(turns, done);
        at += len + 1;
    }
    for (int i = 0; i < TURNS; i++) {
        cs_engine_turn_free(turns[i]);
    }
    cs_engine_free(engine, 0);
    return 0;
}
