/* instant_codex: stands in for Codex 0.169 where Codex itself would be the measure: benchmarks,
 * crash loops and injected faults. It speaks what the daemon uses of `codex app-server` and `codex
 * exec --json`, and answers each prompt at once with
 *
 *     echo N: <the first 200 bytes of the prompt>
 *
 * where N counts the messages that this process knows of the thread (injected ones, prompts and
 * answers). Every thread id can be resumed, unless the program's own name contains "forgetful":
 * then no process knows another one's threads, as with an emptied CODEX_HOME.
 *
 * A prompt may ask for a fault:
 *     [[die]]        exit in the middle of the turn
 *     [[hang]]       never answer; an interrupt still works
 *     [[deaf]]       never answer, and ignore the interrupt too
 *     [[delay MS]]   answer after so many milliseconds
 *     [[fail]]       the turn fails
 *     [[garbage]]    lines that are no messages come before the answer
 *     [[huge N]]     an answer of N bytes
 *     [[clock]]      the answer is the monotonic time at which it is written, in ns
 *
 * One thread, one poll loop. Any failure of its own ends it with status 70.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#define ID_MAX     40
#define ECHO_BYTES 200
#define NO_TIME    INT64_MAX
#define MS         INT64_C(1000000)

/** What a prompt asks for. */
struct wish {
    bool die, hang, deaf, fail, garbage, clock;
    int64_t delay_ms;
    size_t huge; /* bytes; 0 for an echo */
};

/** A turn that has not been answered yet. */
struct turn {
    struct turn *next;
    char thread[ID_MAX];
    char id[ID_MAX];
    int64_t due; /* monotonic ns; NO_TIME while it hangs */
    struct wish wish;
    json_int_t known; /* messages of the thread, its prompt included */
    char *prompt;     /* owned */
};

static struct {
    json_t *threads;    /* thread id → messages known */
    struct turn *turns; /* unanswered */
    bool forgetful;
    uint32_t nonce; /* makes the ids of this process its own */
    uint64_t ids;
    char *out; /* what the next flush writes */
    size_t out_len, out_cap;
} self;

static void die(const char *what)
{
    (void)fprintf(stderr, "instant_codex: %s\n", what);
    exit(70);
}

static void *must(void *memory)
{
    if (memory == NULL) {
        die("out of memory");
    }
    return memory;
}

static int64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 * MS + t.tv_nsec;
}

static void mint(char id[ID_MAX])
{
    self.ids++;
    (void)snprintf(id, ID_MAX, "%08" PRIx32 "-0000-7000-8000-%012" PRIx64, self.nonce, self.ids);
}

/* ---- output ---- */

static void put(const char *data, size_t len)
{
    if (self.out_len + len > self.out_cap) {
        self.out_cap = (self.out_len + len) * 2;
        self.out = must(realloc(self.out, self.out_cap));
    }
    memcpy(self.out + self.out_len, data, len);
    self.out_len += len;
}

static void puts_out(const char *text)
{
    put(text, strlen(text));
}

__attribute__((format(printf, 1, 2))) static void putf(const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (len < 0 || (size_t)len >= sizeof text) {
        die("a message is too long");
    }
    put(text, (size_t)len);
}

/** Append @text as a JSON string. */
static void put_string(const char *text)
{
    json_t *value = json_string_nocheck(text);
    char *dump = json_dumps(must(value), JSON_ENCODE_ANY);
    puts_out(must(dump));
    free(dump);
    json_decref(value);
}

static void flush(void)
{
    for (size_t done = 0; done < self.out_len;) {
        ssize_t n = write(STDOUT_FILENO, self.out + done, self.out_len - done);
        if (n < 0 && errno != EINTR) {
            exit(0); /* the reader is gone */
        }
        done += n > 0 ? (size_t)n : 0;
    }
    self.out_len = 0;
}

/** Begin a reply to the request @id; the caller adds the result and "}\n". */
static void put_reply(const json_t *id)
{
    char *dump = json_dumps(id, JSON_ENCODE_ANY);
    puts_out("{\"id\":");
    puts_out(must(dump));
    puts_out(",");
    free(dump);
}

static void reply_error(const json_t *id, const char *what, const char *which)
{
    put_reply(id);
    puts_out("\"error\":{\"code\":-32600,\"message\":");
    char text[256];
    (void)snprintf(text, sizeof text, "%s%s", what, which);
    put_string(text);
    puts_out("}}\n");
}

/* ---- turns ---- */

static struct wish parse_wish(const char *prompt)
{
    struct wish wish = {0};
    for (const char *at = strstr(prompt, "[["); at != NULL; at = strstr(at, "[[")) {
        at += 2;
        wish.die |= strncmp(at, "die]]", 5) == 0;
        wish.hang |= strncmp(at, "hang]]", 6) == 0;
        wish.deaf |= strncmp(at, "deaf]]", 6) == 0;
        wish.fail |= strncmp(at, "fail]]", 6) == 0;
        wish.garbage |= strncmp(at, "garbage]]", 9) == 0;
        wish.clock |= strncmp(at, "clock]]", 7) == 0;
        if (strncmp(at, "delay ", 6) == 0) {
            wish.delay_ms = strtol(at + 6, NULL, 10);
        } else if (strncmp(at, "huge ", 5) == 0) {
            wish.huge = strtoul(at + 5, NULL, 10);
        }
    }
    return wish;
}

/** The answer to @prompt, as a JSON string; the caller frees it. */
static char *compose(const struct wish *wish, json_int_t known, const char *prompt)
{
    if (wish->huge > 0) {
        char *text = must(malloc(wish->huge + 3));
        memset(text, 'x', wish->huge + 2);
        text[0] = text[wish->huge + 1] = '"';
        text[wish->huge + 2] = '\0';
        return text;
    }
    size_t len = strlen(prompt);
    if (len > ECHO_BYTES) {
        len = ECHO_BYTES;
        while (len > 0 && ((unsigned char)prompt[len] & 0xc0) == 0x80) {
            len--; /* never cut a character */
        }
    }
    char text[ECHO_BYTES + 64];
    if (wish->clock) {
        (void)snprintf(text, sizeof text, "%" PRId64, now_ns());
    } else {
        (void)snprintf(text, sizeof text, "echo %" JSON_INTEGER_FORMAT ": %.*s", known, (int)len,
                       prompt);
    }
    json_t *value = must(json_string(text));
    char *dump = must(json_dumps(value, JSON_ENCODE_ANY));
    json_decref(value);
    return dump;
}

static void put_garbage(void)
{
    puts_out("this is no "
             "JSON\n\n{\n[]\n17\n\"\\ud800\"\n\xff\xfe\x80\n{\"method\":7}\n{\"id\":999999,"
             "\"result\":{}}\n");
    puts_out("{\"method\":\"item/"
             "completed\",\"params\":{\"item\":[],\"threadId\":4,\"turnId\":null}}\n");
    puts_out("{\"method\":\"turn/completed\",\"params\":{\"threadId\":\"no such thread\"}}\n");
    for (int i = 0; i < 2000; i++) {
        puts_out("[");
    }
    puts_out("\n");
}

static void put_completed(const struct turn *turn, const char *status)
{
    putf("{\"method\":\"turn/completed\",\"params\":{\"threadId\":\"%s\",\"turn\":{\"id\":\"%s\","
         "\"items\":[],\"status\":\"%s\",\"error\":%s}}}\n",
         turn->thread, turn->id, status,
         strcmp(status, "failed") == 0
             ? "{\"message\":\"the fault that was asked for\",\"codexErrorInfo\":\"other\"}"
             : "null");
}

static void put_answer(const struct turn *turn)
{
    char *text = compose(&turn->wish, turn->known, turn->prompt);
    if (turn->wish.huge == 0) { /* a huge one comes as one line, the delta would be another */
        putf("{\"method\":\"item/agentMessage/"
             "delta\",\"params\":{\"threadId\":\"%s\",\"turnId\":\"%s\","
             "\"itemId\":\"m\",\"delta\":",
             turn->thread, turn->id);
        puts_out(text);
        puts_out("}}\n");
    }
    puts_out("{\"method\":\"item/"
             "completed\",\"params\":{\"item\":{\"type\":\"agentMessage\",\"id\":\"m\",\"text\":");
    puts_out(text);
    putf("},\"threadId\":\"%s\",\"turnId\":\"%s\"}}\n", turn->thread, turn->id);
    size_t in = strlen(turn->prompt) / 4 + 1, out = strlen(text) / 4 + 1;
    putf("{\"method\":\"thread/tokenUsage/"
         "updated\",\"params\":{\"threadId\":\"%s\",\"turnId\":\"%s\",\"tokenUsage\":"
         "{\"total\":{\"totalTokens\":%zu,\"inputTokens\":%zu,\"cachedInputTokens\":0,"
         "\"outputTokens\":%zu},"
         "\"last\":{\"totalTokens\":%zu,\"inputTokens\":%zu,\"cachedInputTokens\":0,"
         "\"outputTokens\":%zu}}}}\n",
         turn->thread, turn->id, in + out, in, out, in + out, in, out);
    free(text);
}

static void finish(struct turn *turn, bool interrupted)
{
    if (interrupted) {
        put_completed(turn, "interrupted");
    } else if (turn->wish.fail) {
        put_completed(turn, "failed");
    } else {
        put_answer(turn);
        (void)json_object_set_new(self.threads, turn->thread, json_integer(turn->known + 1));
        put_completed(turn, "completed");
    }
    free(turn->prompt);
    free(turn);
}

/** Answer what is due; the time until the next one, in ms for poll(). */
static int finish_due(void)
{
    int64_t now = 0, next = NO_TIME;
    for (struct turn **at = &self.turns; *at != NULL;) {
        struct turn *turn = *at;
        if (turn->due != NO_TIME && now == 0) {
            now = now_ns();
        }
        if (turn->due <= now) {
            *at = turn->next;
            finish(turn, false);
            continue;
        }
        next = turn->due < next ? turn->due : next;
        at = &turn->next;
    }
    return next == NO_TIME ? -1 : (int)((next - now) / MS) + 1;
}

/* ---- app-server ---- */

static const char *param(const json_t *params, const char *key)
{
    const char *text = json_string_value(json_object_get(params, key));
    return text != NULL ? text : "";
}

/** The text of the last input item of turn/start: the prompt. */
static const char *prompt_of(const json_t *params)
{
    const json_t *input = json_object_get(params, "input");
    size_t count = json_array_size(input);
    return count == 0 ? "" : param(json_array_get(input, count - 1), "text");
}

static void do_thread(const json_t *id, const char *thread, const json_t *params)
{
    const char *model = param(params, "model");
    put_reply(id);
    putf("\"result\":{\"thread\":{\"id\":\"%.36s\",\"path\":null,\"turns\":[]},\"model\":\"%.64s\","
         "\"modelProvider\":\"instant\"}}\n",
         thread, *model != '\0' ? model : "instant-1");
}

static void do_thread_start(const json_t *id, const json_t *params)
{
    char thread[ID_MAX];
    mint(thread);
    (void)json_object_set_new(self.threads, thread, json_integer(0));
    do_thread(id, thread, params);
    putf("{\"method\":\"thread/started\",\"params\":{\"thread\":{\"id\":\"%s\"}}}\n", thread);
}

static void do_thread_resume(const json_t *id, const json_t *params)
{
    const char *thread = param(params, "threadId");
    if (json_object_get(self.threads, thread) == NULL) {
        if (self.forgetful || strlen(thread) != 36) {
            reply_error(id, "no rollout found for thread id ", thread);
            return;
        }
        (void)json_object_set_new(self.threads, thread, json_integer(0));
    }
    do_thread(id, thread, params);
}

static void do_inject(const json_t *id, const json_t *params)
{
    const char *thread = param(params, "threadId");
    json_t *known = json_object_get(self.threads, thread);
    if (known == NULL) {
        reply_error(id, "thread not found: ", thread);
        return;
    }
    json_int_t count = (json_int_t)json_array_size(json_object_get(params, "items"));
    (void)json_integer_set(known, json_integer_value(known) + count);
    put_reply(id);
    puts_out("\"result\":{}}\n");
}

static void do_turn_start(const json_t *id, const json_t *params)
{
    const char *thread = param(params, "threadId");
    json_t *known = json_object_get(self.threads, thread);
    if (known == NULL) {
        reply_error(id, "thread not found: ", thread);
        return;
    }
    (void)json_integer_set(known, json_integer_value(known) + 1);
    struct turn *turn = must(calloc(1, sizeof *turn));
    (void)snprintf(turn->thread, sizeof turn->thread, "%s", thread);
    mint(turn->id);
    turn->known = json_integer_value(known);
    turn->prompt = must(strdup(prompt_of(params)));
    turn->wish = parse_wish(turn->prompt);
    put_reply(id);
    putf("\"result\":{\"turn\":{\"id\":\"%s\",\"items\":[],\"status\":\"inProgress\",\"error\":"
         "null}}}\n",
         turn->id);
    putf("{\"method\":\"turn/"
         "started\",\"params\":{\"threadId\":\"%s\",\"turn\":{\"id\":\"%s\",\"items\":[],"
         "\"status\":\"inProgress\",\"error\":null}}}\n",
         turn->thread, turn->id);
    if (turn->wish.garbage) {
        put_garbage();
    }
    if (turn->wish.die) {
        flush();
        _exit(3);
    }
    if (!turn->wish.hang && !turn->wish.deaf && turn->wish.delay_ms == 0) {
        finish(turn, false);
        return;
    }
    turn->due = turn->wish.delay_ms > 0 ? now_ns() + turn->wish.delay_ms * MS : NO_TIME;
    turn->next = self.turns;
    self.turns = turn;
}

static void do_interrupt(const json_t *id, const json_t *params)
{
    for (struct turn **at = &self.turns; *at != NULL; at = &(*at)->next) {
        struct turn *turn = *at;
        if (strcmp(turn->thread, param(params, "threadId")) != 0) {
            continue;
        }
        if (turn->wish.deaf) {
            return;
        }
        put_reply(id);
        puts_out("\"result\":{}}\n");
        *at = turn->next;
        finish(turn, true);
        return;
    }
    reply_error(id, "no active turn to interrupt", "");
}

static void do_initialize(const json_t *id, const json_t *params)
{
    (void)params;
    put_reply(id);
    puts_out("\"result\":{\"userAgent\":\"instant/0.169.0\",\"codexHome\":\"/nonexistent\","
             "\"platformFamily\":\"unix\",\"platformOs\":\"linux\"}}\n");
}

/** Requests that only have to succeed. */
static void do_nothing(const json_t *id, const json_t *params)
{
    if (*param(params, "threadId") != '\0') {
        do_thread(id, param(params, "threadId"), params);
        return;
    }
    put_reply(id);
    puts_out("\"result\":{}}\n");
}

static const struct {
    const char *method;
    void (*run)(const json_t *id, const json_t *params);
} methods[] = {
    {"initialize", do_initialize},       {"thread/start", do_thread_start},
    {"thread/resume", do_thread_resume}, {"thread/inject_items", do_inject},
    {"thread/revert", do_nothing},       {"thread/archive", do_nothing},
    {"thread/unsubscribe", do_nothing},  {"thread/backgroundTerminals/clean", do_nothing},
    {"account/login/start", do_nothing}, {"turn/start", do_turn_start},
    {"turn/interrupt", do_interrupt},
};

static void handle(const char *line, size_t len)
{
    json_t *message = json_loadb(line, len, 0, NULL);
    const json_t *id = json_object_get(message, "id");
    const char *method = param(message, "method");
    if (message == NULL) {
        (void)fprintf(stderr, "Failed to deserialize JSONRPCMessage\n");
    } else if (id != NULL && *method != '\0') { /* notifications and replies to us need nothing */
        bool known = false;
        for (size_t i = 0; i < sizeof methods / sizeof *methods && !known; i++) {
            known = strcmp(method, methods[i].method) == 0;
            if (known) {
                methods[i].run(id, json_object_get(message, "params"));
            }
        }
        if (!known) {
            reply_error(id, "Invalid request: unknown variant ", method);
        }
    }
    json_decref(message);
}

/** Wait for stdin or the next due turn; false at the end of input. Grows @in, adds what came to
 * @len. */
static bool read_more(char **in, size_t *cap, size_t *len, int wait_ms)
{
    struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&fd, 1, wait_ms) <= 0) {
        return true;
    }
    if (*cap - *len < 65536) {
        *cap = *cap * 2 + 131072;
        *in = must(realloc(*in, *cap));
    }
    ssize_t n = read(STDIN_FILENO, *in + *len, *cap - *len);
    *len += n > 0 ? (size_t)n : 0;
    return n > 0 || (n < 0 && errno == EINTR);
}

static int app_server(void)
{
    char *in = NULL;
    size_t cap = 0, len = 0;
    for (;;) {
        int wait_ms = finish_due();
        flush();
        size_t scanned = len;
        if (!read_more(&in, &cap, &len, wait_ms)) {
            break;
        }
        size_t start = 0;
        for (char *end;
             scanned < len && (end = memchr(in + scanned, '\n', len - scanned)) != NULL;) {
            handle(in + start, (size_t)(end - in) - start);
            scanned = start = (size_t)(end - in) + 1;
        }
        if (start > 0) {
            memmove(in, in + start, len - start);
            len -= start;
        }
    }
    free(in);
    return 0;
}

/* ---- exec ---- */

static int exec_turn(const char *resumed)
{
    char *prompt = NULL;
    size_t cap = 0, len = 0;
    while (read_more(&prompt, &cap, &len, -1)) {
    }
    prompt = must(realloc(prompt, len + 1));
    prompt[len] = '\0';
    char thread[ID_MAX];
    mint(thread);
    if (resumed != NULL && self.forgetful) {
        (void)fprintf(stderr, "Error: no rollout found for thread id %s\n", resumed);
        return 1;
    }
    putf("{\"type\":\"thread.started\",\"thread_id\":\"%.36s\"}\n{\"type\":\"turn.started\"}\n",
         resumed != NULL ? resumed : thread);
    struct wish wish = parse_wish(prompt);
    if (wish.garbage) {
        put_garbage();
    }
    flush();
    if (wish.die) {
        _exit(3);
    }
    while (wish.hang || wish.deaf) {
        (void)pause();
    }
    (void)poll(NULL, 0, (int)wish.delay_ms);
    if (wish.fail) {
        puts_out("{\"type\":\"turn.failed\",\"error\":{\"message\":\"the fault that was asked "
                 "for\"}}\n");
        flush();
        return 1;
    }
    char *text = compose(&wish, 1, prompt);
    puts_out("{\"type\":\"item.completed\",\"item\":{\"id\":\"item_0\",\"type\":\"agent_message\","
             "\"text\":");
    puts_out(text);
    putf("}}\n{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":%zu,\"cached_input_tokens\":"
         "0,"
         "\"output_tokens\":%zu}}\n",
         len / 4 + 1, strlen(text) / 4 + 1);
    flush();
    free(text);
    free(prompt);
    return 0;
}

int main(int argc, char *argv[])
{
    const char *verb = argc > 1 ? argv[1] : "--help";
    self.forgetful = strstr(argv[0], "forgetful") != NULL;
    self.nonce = (uint32_t)now_ns() ^ ((uint32_t)getpid() << 16);
    self.threads = must(json_object());
    if (strcmp(verb, "--version") == 0) {
        (void)puts("codex-cli 0.169.0");
    } else if (strcmp(verb, "app-server") == 0) {
        return app_server();
    } else if (strcmp(verb, "exec") == 0) {
        const char *resumed = NULL;
        for (int i = 2; i + 1 < argc; i++) {
            resumed = strcmp(argv[i], "resume") == 0 ? argv[i + 1] : resumed;
        }
        return exec_turn(resumed);
    } else {
        (void)puts("Codex CLI\n\nUsage: codex [OPTIONS] <COMMAND> [ARGS]\n\nCommands:\n"
                   "  exec              Run Codex non-interactively [aliases: e]\n"
                   "  app-server        [experimental] Run the app server or related tooling\n"
                   "  help              Print this message or the help of the given subcommand(s)");
    }
    return 0;
}
