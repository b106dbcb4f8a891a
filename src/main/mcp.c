/* main: the verb `mcp`: MCP on stdin and stdout, for editors; a thin client of the daemon.
 *
 * stdout carries JSON-RPC alone. A read or write of stdio follows a poll and takes no more than
 * that promised, so that neither side can hold up the other. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bridge.h"
#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "verbs.h"

#define LEAVE_MS    2000 /* after the end of stdin, for answers that are still due */
#define BYE_MS      500  /* to say that the session is over */
#define WRITE_MAX   4096 /* as much as a pipe that can be written to always takes (PIPE_BUF) */
#define READ_MAX    65536
#define OUT_HIGH    1048576 /* with so much waiting, nothing is read from the daemon */
#define OUT_MAX     ((size_t)256 << 20)
#define POLL_STDIN  0
#define POLL_STDOUT 1
#define POLL_RELAYS 2

void cs_bridge_say(struct cs_bridge *bridge, const char *text, size_t len)
{
    cs_buf_add(&bridge->out, text, len);
    cs_buf_addc(&bridge->out, '\n');
}

/* ---- what the client says ---- */

static void refuse_line(struct cs_bridge *bridge, const char *id, int code, const char *why)
{
    cs_line_error(&bridge->out, id, code, why, NULL);
    cs_log(CS_LOG_WARN, "line_refused", "why", why, NULL);
}

static size_t count_requests(const struct cs_bridge *bridge)
{
    size_t i, count = 0;

    for (i = 0; i < bridge->count; i++)
        count += cs_relay_is_awaited(bridge->relays[i], NULL);
    return count;
}

static void take_line(struct cs_bridge *bridge, const char *text, size_t len)
{
    struct cs_err err = {0};
    struct cs_line line;
    char *id;
    int code;

    if (cs_line_read(text, len, bridge->folder, &line, &code, &err) != CS_OK) {
        refuse_line(bridge, NULL, code, err.msg);
        return;
    }
    if (line.cancels != NULL && !cs_relay_cancel(bridge, line.cancels)) {
        cs_line_fini(&line);
        return;
    }
    if (line.kind == CS_LINE_REQUEST && count_requests(bridge) >= CS_REQUESTS_MAX) {
        refuse_line(bridge, line.id, CS_RPC_CLOSED, "Too many requests at once");
        cs_line_fini(&line);
        return;
    }
    id = line.id != NULL ? strdup(line.id) : NULL;
    if (cs_relay_add(bridge, CS_RELAY_CLIENT, &line, &err) != CS_OK)
        refuse_line(bridge, id, CS_RPC_CLOSED, err.msg);
    free(id);
}

/* Whether the next line may be taken now. */
static bool has_room(const struct cs_bridge *bridge)
{
    size_t i;

    for (i = 0; i < bridge->count; i++)
        if (cs_relay_bars(bridge->relays[i]))
            return false;
    return bridge->count < CS_RELAYS_MAX - CS_RELAYS_OWN;
}

/* Take the whole lines that have come. The last one may lack its end when nothing more comes. */
static void take_lines(struct cs_bridge *bridge)
{
    struct cs_buf *in = &bridge->in;
    size_t at = 0;

    while (at < in->len && has_room(bridge)) {
        const char *text = in->data + at, *end = memchr(text, '\n', in->len - at);
        size_t len = end != NULL ? (size_t)(end - text) : in->len - at;

        if (end == NULL && !bridge->in_ended)
            break;
        at += len + (end != NULL);
        if (len > 0 && text[len - 1] == '\r')
            len--;
        if (bridge->in_skips)
            bridge->in_skips = false;
        else if (len > 0)
            take_line(bridge, text, len);
    }
    cs_buf_consume(in, at);
}

/* stdin can be read. */
static void read_stdin(struct cs_bridge *bridge)
{
    struct cs_buf *in = &bridge->in;
    size_t room = in->max - in->len < READ_MAX ? in->max - in->len : READ_MAX;
    char *to = cs_buf_reserve(in, room);
    ssize_t n = to != NULL ? read(STDIN_FILENO, to, room) : 0;

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        n = -2;
    if (n > 0)
        in->len += (size_t)n;
    if (n == 0 || n == -1)
        bridge->in_ended = true;
    if (in->data == NULL)
        return;
    in->data[in->len] = '\0';
    if (in->len < in->max || memchr(in->data, '\n', in->len) != NULL)
        return;
    if (!bridge->in_skips)
        refuse_line(bridge, NULL, CS_RPC_INVALID, "The line is too long");
    bridge->in_skips = true;
    cs_buf_reset(in);
}

/* ---- what the client is told ---- */

/* stdout can be written to. */
static void write_stdout(struct cs_bridge *bridge)
{
    struct cs_buf *out = &bridge->out;
    size_t len = out->len < WRITE_MAX ? out->len : WRITE_MAX;
    ssize_t n = write(STDOUT_FILENO, out->data, len);

    if (n > 0)
        cs_buf_consume(out, (size_t)n);
    else if (n < 0 && errno != EINTR && errno != EAGAIN)
        bridge->out_ended = true;
}

/* ---- the loop ---- */

/* Fill @polls; returns until when to wait. */
static int64_t list_polls(const struct cs_bridge *bridge, struct pollfd *polls)
{
    bool reads = !bridge->in_ended && has_room(bridge);
    bool writes = bridge->out.len > 0;
    int64_t until = CS_NEVER;
    size_t i;

    polls[POLL_STDIN] = (struct pollfd){.fd = reads ? STDIN_FILENO : -1, .events = POLLIN};
    polls[POLL_STDOUT] = (struct pollfd){.fd = STDOUT_FILENO, .events = writes ? POLLOUT : 0};
    for (i = 0; i < bridge->count; i++) {
        struct pollfd *wanted = &polls[POLL_RELAYS + i];
        int64_t at = cs_relay_wants(bridge->relays[i], wanted);

        if (bridge->out.len > OUT_HIGH && (wanted->events & POLLIN) != 0)
            wanted->fd = -1;
        until = at < until ? at : until;
    }
    return until;
}

/* Let each relay go on; those that are over leave. New ones may come meanwhile: their turn is next
 * time. */
static void step_relays(struct cs_bridge *bridge, const struct pollfd *polls)
{
    size_t count = bridge->count, kept = 0, i;

    for (i = 0; i < count; i++) {
        struct cs_relay *relay = bridge->relays[i];

        if (!cs_relay_step(relay, polls[POLL_RELAYS + i].revents)) {
            cs_relay_free(relay);
            bridge->relays[i] = NULL;
        }
    }
    for (i = 0; i < bridge->count; i++)
        if (bridge->relays[i] != NULL)
            bridge->relays[kept++] = bridge->relays[i];
    bridge->count = kept;
}

/* One turn of the loop, at most until @deadline. */
static void turn(struct cs_bridge *bridge, int64_t deadline)
{
    struct pollfd polls[POLL_RELAYS + CS_RELAYS_MAX];
    int64_t until = list_polls(bridge, polls), wait;

    until = until < deadline ? until : deadline;
    wait = until - cs_mono_ms();
    if (until == CS_NEVER)
        wait = -1;
    else if (wait < 0)
        wait = 0;
    if (poll(polls, POLL_RELAYS + bridge->count, (int)wait) < 0)
        return; /* a signal; no revents are set */
    if (polls[POLL_STDOUT].revents & (POLLERR | POLLHUP | POLLNVAL))
        bridge->out_ended = true;
    else if (polls[POLL_STDOUT].revents & POLLOUT)
        write_stdout(bridge);
    if (polls[POLL_STDIN].revents != 0)
        read_stdin(bridge);
    step_relays(bridge, polls);
    take_lines(bridge);
}

/* Whether the client waits for anything; *out_starting: for a daemon to come, above all. */
static bool is_awaited(const struct cs_bridge *bridge, bool *out_starting)
{
    bool awaited = bridge->in.len > 0, starting;
    size_t i;

    *out_starting = false;
    for (i = 0; i < bridge->count; i++)
        if (cs_relay_is_awaited(bridge->relays[i], &starting)) {
            awaited = true;
            *out_starting = *out_starting || starting;
        }
    return awaited;
}

static bool goes_on(const struct cs_bridge *bridge)
{
    return !bridge->out_ended && bridge->out.status == CS_OK && bridge->in.status == CS_OK;
}

/* The session is over; a call that goes on keeps it. */
static void say_bye(struct cs_bridge *bridge)
{
    int64_t deadline = cs_mono_ms() + BYE_MS;
    size_t i;

    for (i = 0; i < bridge->count; i++)
        cs_relay_free(bridge->relays[i]);
    bridge->count = 0;
    if (bridge->session.id[0] == '\0' || cs_relay_add(bridge, CS_RELAY_BYE, NULL, NULL) != CS_OK)
        return;
    while (bridge->count > 0 && goes_on(bridge) && cs_mono_ms() < deadline)
        turn(bridge, deadline);
}

static void serve(struct cs_bridge *bridge)
{
    int64_t leave_at = CS_NEVER;
    bool starting, awaited = true;

    while (goes_on(bridge) && cs_mono_ms() < leave_at) {
        turn(bridge, leave_at);
        if (!bridge->in_ended)
            continue;
        awaited = is_awaited(bridge, &starting);
        if (!awaited && bridge->out.len == 0)
            break;
        if (leave_at == CS_NEVER || starting)
            leave_at = cs_mono_ms() + LEAVE_MS;
    }
    if (goes_on(bridge) && !awaited)
        say_bye(bridge);
}

static void fini(struct cs_bridge *bridge)
{
    size_t i;

    for (i = 0; i < bridge->count; i++)
        cs_relay_free(bridge->relays[i]);
    cs_buf_fini(&bridge->in);
    cs_buf_fini(&bridge->out);
    cs_bridge_session_fini(&bridge->session);
    free(bridge->folder);
}

int cs_verb_mcp(const struct cs_verb_input *input)
{
    struct cs_bridge bridge = {.config = input->config};
    struct cs_err err = {0};
    enum cs_log_level level;
    int status;

    signal(SIGPIPE, SIG_IGN);
    if (cs_log_level_parse(input->config->log_level, &level, &err) != CS_OK)
        return cs_verb_fail(&err);
    cs_log_set_level(level);
    /* The root, where desktops start programs, means none. With NULL glibc allocates. */
    bridge.folder = getcwd(NULL, 0); /* NOLINT(clang-analyzer-unix.StdCLibraryFunctions) */
    if (bridge.folder != NULL && (bridge.folder[0] != '/' || bridge.folder[1] == '\0')) {
        free(bridge.folder);
        bridge.folder = NULL;
    }
    cs_launch_init(&bridge.launch, input);
    cs_buf_init(&bridge.in, (size_t)input->config->max_body_bytes + 1);
    cs_buf_init(&bridge.out, OUT_MAX);
    serve(&bridge);
    status = bridge.unreachable || bridge.in.status != CS_OK || bridge.out.status != CS_OK;
    fini(&bridge);
    return status;
}
