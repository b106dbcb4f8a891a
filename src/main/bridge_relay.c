/* main/bridge_relay: one message on its way to the daemon over HTTP, and what comes back.
 *
 * A relay survives its connection. What was not sent whole is sent again; so is what does no harm
 * when it is done twice. A tool call that was sent is never repeated: its stream is resumed from
 * the last event that came, or the client is told that the answer is lost.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bridge.h"
#include "cs/api/http.h"
#include "cs/base/clock.h"
#include "cs/base/file.h"
#include "cs/base/log.h"

#define REACH_MS    20000 /* for a daemon to be there: one that stops takes up to 10 s */
#define CONNECT_MS  5000
#define SEND_MS     30000 /* for the daemon to take a message */
#define OWN_MS      10000 /* for an answer to what the bridge itself asks */
#define AGAIN_MS    25    /* between two looks for a daemon */
#define CANCEL_MS   100   /* ahead of a cancellation, so that it does not overtake its request */
#define LISTEN_MS   1000  /* the same, of what waits for news alone */
#define TRIES_MAX   5
#define RESUMES_MAX 20 /* in a row, that brought nothing */
#define READ_BYTES  16384
#define MESSAGE_MAX ((size_t)128 << 20)
#define HEAD_MAX    131072

enum step { WAITS, CONNECTS, SENDS, READS, ENDED };

struct cs_relay {
    struct cs_bridge *bridge; /* borrowed */
    enum cs_relay_kind kind;
    struct cs_line line;
    enum step step;
    int64_t at; /* when to go on (WAITS), or to give the connection up */
    int64_t reach_until;
    int fd; /* -1: none */
    bool v6;
    struct cs_buf request;
    size_t sent;
    bool delivered; /* all of the message was sent, and not refused */
    bool known;     /* the same, at some time */
    bool answered, cancelled;
    bool resumes;                   /* asks for the rest of its stream */
    bool heard;                     /* something came since it last resumed */
    unsigned resumed;               /* in vain, in a row */
    unsigned tries;                 /* after the first */
    unsigned generation;            /* of the session that it named; 0: none */
    char session[CS_ANSWER_ID_MAX]; /* the session itself: a stream is resumed in its own */
    struct cs_answer answer;
    char last_id[CS_ANSWER_ID_MAX];
};

static bool is_request(const struct cs_relay *relay)
{
    return relay->kind == CS_RELAY_CLIENT && relay->line.kind == CS_LINE_REQUEST;
}

static bool is_stateless(const struct cs_relay *relay)
{
    return relay->line.revision[0] != '\0';
}

static bool may_repeat(const struct cs_relay *relay)
{
    return !relay->delivered || strcmp(relay->line.method, "tools/call") != 0;
}

/* Whether it waits for news alone: then it waits for a daemon, too, and starts none. */
static bool is_patient(const struct cs_relay *relay)
{
    return relay->kind == CS_RELAY_LISTEN ||
           (relay->known && strcmp(relay->line.method, "subscriptions/listen") == 0);
}

/* ---- its end ---- */

static void hang_up(struct cs_relay *relay)
{
    if (relay->fd >= 0)
        close(relay->fd);
    relay->fd = -1;
}

static void end(struct cs_relay *relay)
{
    struct cs_bridge *bridge = relay->bridge;

    hang_up(relay);
    relay->step = ENDED;
    relay->at = 0; /* to be looked at without delay */
    if (relay->kind == CS_RELAY_LISTEN)
        bridge->listens = false;
    if (relay->kind == CS_RELAY_RENEW)
        bridge->session.renewing = false;
}

/* End it without the answer that the client waits for. */
static void fail(struct cs_relay *relay, const char *why)
{
    struct cs_buf text;

    if (relay->delivered && !may_repeat(relay))
        why = "The connection to the daemon was lost during this call: codex-sessions and "
              "codex-history tell what became of it";
    if (is_request(relay) && !relay->answered && !relay->cancelled) {
        cs_buf_init(&text, HEAD_MAX);
        cs_line_error(&text, relay->line.id, CS_RPC_CLOSED, why, relay->line.subject);
        if (text.status == CS_OK)
            cs_bridge_say(relay->bridge, text.data, text.len - 1);
        cs_buf_fini(&text);
    }
    cs_log(CS_LOG_WARN, "not_relayed", "method", relay->line.method, "why", why, NULL);
    end(relay);
}

static void again(struct cs_relay *relay, int64_t after_ms)
{
    hang_up(relay);
    relay->step = WAITS;
    relay->at = cs_mono_ms() + after_ms;
    relay->reach_until = relay->at + REACH_MS;
}

/* The connection ended before the answer did. */
static void lose(struct cs_relay *relay)
{
    if (relay->heard)
        relay->tries = 0; /* one that lasts may outlive many daemons */
    if (relay->cancelled || !is_request(relay) || relay->answered) {
        if (relay->kind == CS_RELAY_CLIENT && !relay->delivered && relay->tries++ < TRIES_MAX)
            again(relay, AGAIN_MS);
        else
            end(relay);
    } else if (relay->last_id[0] != '\0' && !is_stateless(relay) &&
               (relay->heard || relay->resumed < RESUMES_MAX)) {
        relay->resumed = relay->heard ? 0 : relay->resumed + 1;
        relay->resumes = true;
        again(relay, relay->answer.retry_ms >= 0 ? relay->answer.retry_ms : AGAIN_MS);
    } else if (may_repeat(relay) && relay->tries++ < TRIES_MAX) {
        relay->resumes = false;
        again(relay, AGAIN_MS);
    } else {
        fail(relay, "The connection to the daemon was lost");
    }
}

/* ---- what comes back ---- */

static bool is_answer(const struct cs_relay *relay, const struct cs_json *message)
{
    const struct cs_json *id = cs_json_get(message, "id");
    struct cs_buf text;
    bool same;

    if (id == NULL || cs_json_get(message, "method") != NULL)
        return false;
    cs_buf_init(&text, strlen(relay->line.id) + 1);
    cs_json_dump(id, &text);
    same = text.status == CS_OK && strcmp(text.data, relay->line.id) == 0;
    cs_buf_fini(&text);
    return same;
}

/* An answer in the manner of REST, or none at all: the client gets an error of JSON-RPC. */
static void answer_error(struct cs_relay *relay, const struct cs_json *body)
{
    const struct cs_json *code = cs_json_path(body, "error", "code", NULL);
    const char *sentence = cs_json_get_string(body, "error");
    char why[512];

    if (sentence == NULL)
        sentence = cs_json_get_string(cs_json_get(body, "error"), "message");
    if (sentence == NULL) {
        snprintf(why, sizeof why, "The daemon answered with HTTP status %d", relay->answer.status);
        sentence = why;
    }
    if (is_request(relay) && !relay->answered) {
        struct cs_buf text;

        cs_buf_init(&text, HEAD_MAX);
        cs_line_error(&text, relay->line.id, (int)cs_json_int(code, CS_RPC_CLOSED), sentence,
                      relay->line.subject);
        if (text.status == CS_OK)
            cs_bridge_say(relay->bridge, text.data, text.len - 1);
        cs_buf_fini(&text);
        relay->answered = true;
    }
    cs_log(CS_LOG_WARN, "refused", "method", relay->line.method, "status",
           CS_NUM(relay->answer.status), "why", sentence, NULL);
}

static void take_message(struct cs_relay *relay, const struct cs_json *message, const char *text,
                         size_t len)
{
    bool rpc = cs_json_get(message, "jsonrpc") != NULL;
    bool answer = rpc && is_request(relay) && is_answer(relay, message);
    const struct cs_json *result = cs_json_get(message, "result");

    if (result != NULL && strcmp(relay->line.method, "initialize") == 0)
        cs_bridge_begun(relay->bridge, answer ? &relay->line : NULL, relay->answer.session,
                        cs_json_get_string(result, "protocolVersion"));
    else if (result != NULL && answer)
        cs_bridge_keep(relay->bridge, &relay->line);
    if (relay->kind == CS_RELAY_RENEW || relay->kind == CS_RELAY_RENEWED ||
        relay->kind == CS_RELAY_BYE)
        return;
    if (rpc && (answer || relay->answer.status == 200))
        cs_bridge_say(relay->bridge, text, len);
    else
        answer_error(relay, message);
    relay->answered = relay->answered || answer;
}

/* Whether the answer is none that the client should see: the message was not taken and will be sent
 * again, or the daemon refuses what the bridge asked for by itself. */
static bool is_refusal(const struct cs_relay *relay)
{
    int status = relay->answer.status;

    return status != 200 && (status == 503 || (status == 404 && relay->generation > 0) ||
                             relay->resumes || relay->kind == CS_RELAY_LISTEN);
}

static void on_message(void *arg, const char *text, size_t len)
{
    struct cs_relay *relay = arg;
    struct cs_json *message = NULL;
    struct cs_err err = {0};

    relay->heard = relay->answer.status == 200;
    if (relay->cancelled || is_refusal(relay))
        return;
    if (cs_json_parse(text, len, MESSAGE_MAX, &message, &err) == CS_OK)
        take_message(relay, message, text, len);
    else
        cs_log_err("bad_message", &err, "method", relay->line.method);
    cs_json_free(message);
}

/* ---- the session ---- */

/* The daemon does not know the session (any more): begin it again, once for all that wait. */
static void renew(struct cs_relay *relay)
{
    struct cs_err err = {0};

    relay->delivered = false;
    if (cs_bridge_renew(relay->bridge, relay->generation, &err) != CS_OK)
        fail(relay, err.msg);
    else if (relay->tries++ < TRIES_MAX)
        again(relay, 0);
    else
        fail(relay, "The daemon forgets the session again and again");
}

/* Hear what the daemon says unasked, if it offers that. */
static void listen_too(struct cs_bridge *bridge)
{
    if (bridge->listens || bridge->no_ears || bridge->in_ended || bridge->session.id[0] == '\0')
        return;
    bridge->listens = cs_relay_add(bridge, CS_RELAY_LISTEN, NULL, NULL) == CS_OK;
}

/* The stream of what is said unasked has ended, or there is none. */
static void listen_on(struct cs_relay *relay)
{
    int status = relay->answer.status;

    if (status == 404) {
        renew(relay);
    } else if (status == 0 || status == 200 || status == 503) {
        relay->tries = 0;
        again(relay, LISTEN_MS);
    } else {
        relay->bridge->no_ears = true;
        end(relay);
    }
}

/* ---- the end of an answer ---- */

/* What the client sent is answered, as well as it ever will be. */
static void conclude(struct cs_relay *relay)
{
    bool good = relay->answer.status >= 200 && relay->answer.status < 300;
    bool owing = is_request(relay) && !relay->answered && !relay->cancelled;

    if (owing && good && relay->answer.stream) {
        lose(relay);
        return;
    }
    if (owing)
        answer_error(relay, NULL);
    if (good && !is_stateless(relay) && strcmp(relay->line.method, "initialize") != 0)
        listen_too(relay->bridge);
    end(relay);
}

/* A daemon that is stopping took nothing: another one may come. */
static void wait_for_next(struct cs_relay *relay)
{
    int64_t until = relay->reach_until;

    relay->delivered = relay->resumes; /* what is resumed was taken by an earlier one */
    again(relay, AGAIN_MS);
    relay->reach_until = until;
}

/* The daemon has ended its answer, or the connection. */
static void hear_end(struct cs_relay *relay)
{
    bool whole = cs_answer_end(&relay->answer);
    int status = relay->answer.status;

    if (relay->kind == CS_RELAY_LISTEN) {
        listen_on(relay);
    } else if (status == 0 || (!whole && !relay->answer.stream)) {
        lose(relay);
    } else if (relay->kind != CS_RELAY_CLIENT) {
        if (relay->kind == CS_RELAY_RENEW && status == 200)
            cs_bridge_renewed(relay->bridge);
        end(relay);
    } else if (status == 503 && cs_mono_ms() < relay->reach_until) {
        wait_for_next(relay);
    } else if (relay->resumes && status != 200) {
        relay->last_id[0] = '\0'; /* what was missed cannot be had */
        lose(relay);
    } else if (status == 404 && relay->generation > 0) {
        renew(relay);
    } else {
        conclude(relay);
    }
}

/* ---- the request ---- */

static void add_head(struct cs_relay *relay, int port, const char *token)
{
    struct cs_bridge_session *session = &relay->bridge->session;
    struct cs_buf *head = &relay->request;
    bool post = relay->line.text != NULL && !relay->resumes;
    const char *verb = post ? "POST" : relay->kind == CS_RELAY_BYE ? "DELETE" : "GET";
    bool named = !is_stateless(relay) && strcmp(relay->line.method, "initialize") != 0;

    cs_buf_addf(head, "%s /mcp HTTP/1.1\r\nHost: %s:%d\r\nConnection: close\r\n", verb,
                relay->v6 ? "[::1]" : "127.0.0.1", port);
    cs_buf_addf(head, "Authorization: Bearer %s\r\nAccept: %stext/event-stream\r\n", token,
                post ? "application/json, " : "");
    if (named && !relay->resumes) {
        memcpy(relay->session, session->id, sizeof relay->session);
        relay->generation = session->id[0] != '\0' ? session->generation : 0;
    }
    if (relay->session[0] != '\0')
        cs_buf_addf(head, "Mcp-Session-Id: %s\r\n", relay->session);
    if (named && session->version[0] != '\0')
        cs_buf_addf(head, "MCP-Protocol-Version: %s\r\n", session->version);
    if (relay->resumes)
        cs_buf_addf(head, "Last-Event-ID: %s\r\n", relay->last_id);
    if (is_stateless(relay))
        cs_buf_add(head, relay->line.head.data, relay->line.head.len);
    if (post || relay->kind == CS_RELAY_BYE)
        cs_buf_addf(head, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                    relay->line.len);
    cs_buf_adds(head, "\r\n");
    if (post)
        cs_buf_add(head, relay->line.text, relay->line.len);
}

static enum cs_status write_request(struct cs_relay *relay, int port, struct cs_err *err)
{
    char *path = cs_path_join(relay->bridge->config->data_dir, "token");
    char token[65];
    enum cs_status rc = path != NULL ? cs_token_load(path, token, err) : cs_err_nomem(err);

    free(path);
    if (rc != CS_OK)
        return rc;
    cs_buf_reset(&relay->request);
    add_head(relay, port, token);
    explicit_bzero(token, sizeof token);
    relay->sent = 0;
    return cs_buf_check(&relay->request, err);
}

static int dial(int port, bool v6)
{
    struct sockaddr_in v4_address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 v6_address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc;

    v4_address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    v6_address.sin6_addr = in6addr_loopback;
    if (fd < 0)
        return -1;
    if (v6)
        rc = connect(fd, (struct sockaddr *)&v6_address, sizeof v6_address);
    else
        rc = connect(fd, (struct sockaddr *)&v4_address, sizeof v4_address);
    if (rc != 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Nobody listens there: try the other kind of address, then look for the daemon once more. */
static void dial_again(struct cs_relay *relay)
{
    hang_up(relay);
    relay->step = WAITS;
    relay->at = cs_mono_ms() + (!relay->v6 ? 0 : is_patient(relay) ? LISTEN_MS : AGAIN_MS);
    relay->v6 = !relay->v6;
}

static void renew_answer(struct cs_relay *relay)
{
    cs_answer_fini(&relay->answer);
    cs_answer_init(&relay->answer, MESSAGE_MAX, on_message, relay);
    relay->heard = false;
}

/* The port of the daemon. What the bridge asks for by itself starts none. */
static enum cs_status find_port(struct cs_relay *relay, int *out_port, struct cs_err *err)
{
    struct cs_datadir_owner owner;
    enum cs_status rc;

    if (!is_patient(relay) && relay->kind != CS_RELAY_BYE)
        return cs_launch_port(&relay->bridge->launch, out_port, err);
    rc = cs_datadir_owner(relay->bridge->config->data_dir, &owner, err);
    if (rc == CS_OK && owner.port == 0)
        rc = cs_err_set(err, CS_UNAVAILABLE, "no_daemon", "no daemon serves the data folder");
    if (rc == CS_OK)
        *out_port = owner.port;
    return rc;
}

static void set_out(struct cs_relay *relay)
{
    int64_t now = cs_mono_ms();
    struct cs_err err = {0};
    enum cs_status rc = CS_OK;
    int port = 0;

    relay->at = now + AGAIN_MS;
    if (relay->bridge->session.renewing && !is_stateless(relay) && relay->kind != CS_RELAY_RENEW) {
        relay->reach_until = now + REACH_MS;
        return;
    }
    if (now >= relay->reach_until && !is_patient(relay))
        rc = cs_err_set(&err, CS_UNAVAILABLE, "no_daemon", "The daemon cannot be reached");
    if (rc == CS_OK)
        rc = find_port(relay, &port, &err);
    if (rc == CS_BUSY)
        return;
    if (rc == CS_UNAVAILABLE && is_patient(relay)) {
        relay->at = now + LISTEN_MS;
        return;
    }
    if (rc == CS_OK)
        rc = write_request(relay, port, &err);
    if (rc != CS_OK) {
        relay->bridge->unreachable = true;
        fail(relay, err.msg);
        return;
    }
    renew_answer(relay);
    relay->step = CONNECTS;
    relay->at = now + CONNECT_MS;
    relay->fd = dial(port, relay->v6);
    if (relay->fd < 0)
        dial_again(relay);
}

/* ---- the connection ---- */

static void check_connected(struct cs_relay *relay)
{
    socklen_t len = sizeof(int);
    int error = 0;

    if (getsockopt(relay->fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == 0) {
        relay->bridge->unreachable = false;
        relay->step = SENDS;
        relay->at = cs_mono_ms() + SEND_MS;
    } else {
        dial_again(relay);
    }
}

static void begin_reading(struct cs_relay *relay)
{
    bool own = relay->kind == CS_RELAY_RENEW || relay->kind == CS_RELAY_RENEWED ||
               relay->kind == CS_RELAY_BYE;

    relay->step = READS;
    relay->at = own ? cs_mono_ms() + OWN_MS : CS_NEVER;
}

static void send_some(struct cs_relay *relay)
{
    struct cs_buf *request = &relay->request;
    ssize_t n = send(relay->fd, request->data + relay->sent, request->len - relay->sent,
                     MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
        relay->sent += (size_t)n;
    if (relay->sent == request->len && !relay->resumes)
        relay->delivered = relay->known = true;
    if (n < 0 || relay->sent == request->len)
        begin_reading(relay); /* a daemon that stops listening may have said why */
}

static void read_some(struct cs_relay *relay)
{
    char bytes[READ_BYTES];
    ssize_t n = recv(relay->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    struct cs_err err = {0};

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0 && cs_answer_feed(&relay->answer, bytes, (size_t)n, &err) != CS_OK) {
        fail(relay, err.msg);
        return;
    }
    if (relay->answer.last_id[0] != '\0')
        memcpy(relay->last_id, relay->answer.last_id, sizeof relay->last_id);
    if (n <= 0 || relay->answer.part == CS_ANSWER_WHOLE)
        hear_end(relay);
}

static void miss_deadline(struct cs_relay *relay)
{
    if (relay->kind == CS_RELAY_CLIENT && !relay->delivered)
        fail(relay, "The daemon does not take the message");
    else
        fail(relay, "The daemon does not answer");
}

bool cs_relay_step(struct cs_relay *relay, short revents)
{
    int64_t now = cs_mono_ms();

    switch (relay->step) {
    case WAITS:
        if (relay->cancelled)
            end(relay);
        else if (now >= relay->at)
            set_out(relay);
        break;
    case CONNECTS:
        if (revents != 0)
            check_connected(relay);
        else if (now >= relay->at)
            miss_deadline(relay);
        break;
    case SENDS:
        if (revents != 0)
            send_some(relay);
        else if (now >= relay->at)
            miss_deadline(relay);
        break;
    case READS:
        if (revents != 0)
            read_some(relay);
        else if (now >= relay->at)
            miss_deadline(relay);
        break;
    case ENDED:
        break;
    }
    return relay->step != ENDED;
}

int64_t cs_relay_wants(const struct cs_relay *relay, struct pollfd *out_poll)
{
    short events = 0;

    if (relay->step == CONNECTS || relay->step == SENDS)
        events = POLLOUT;
    else if (relay->step == READS)
        events = POLLIN;
    *out_poll = (struct pollfd){.fd = events != 0 ? relay->fd : -1, .events = events};
    return relay->at;
}

/* ---- its life ---- */

enum cs_status cs_relay_add(struct cs_bridge *bridge, enum cs_relay_kind kind, struct cs_line *line,
                            struct cs_err *err)
{
    bool room = bridge->count < CS_RELAYS_MAX;
    struct cs_relay *relay = room ? calloc(1, sizeof *relay) : NULL;

    if (relay == NULL) {
        if (line != NULL)
            cs_line_fini(line);
        return room ? cs_err_nomem(err)
                    : cs_err_set(err, CS_BUSY, "too_many_requests", "Too many requests at once");
    }
    relay->bridge = bridge;
    relay->kind = kind;
    relay->fd = -1;
    if (line != NULL)
        relay->line = *line;
    cs_buf_init(&relay->request, HEAD_MAX + relay->line.len);
    cs_answer_init(&relay->answer, MESSAGE_MAX, on_message, relay);
    again(relay, relay->line.cancels != NULL ? CANCEL_MS : 0);
    bridge->relays[bridge->count++] = relay;
    return CS_OK;
}

void cs_relay_free(struct cs_relay *relay)
{
    if (relay == NULL)
        return;
    hang_up(relay);
    cs_line_fini(&relay->line);
    cs_buf_fini(&relay->request);
    cs_answer_fini(&relay->answer);
    free(relay);
}

bool cs_relay_bars(const struct cs_relay *relay)
{
    return relay->kind == CS_RELAY_CLIENT &&
           (strcmp(relay->line.method, "initialize") == 0 ||
            strcmp(relay->line.method, "notifications/initialized") == 0);
}

bool cs_relay_is_awaited(const struct cs_relay *relay, bool *out_starting)
{
    if (out_starting != NULL)
        *out_starting = relay->step == WAITS || relay->step == CONNECTS;
    return relay->kind == CS_RELAY_CLIENT && !is_patient(relay);
}

bool cs_relay_cancel(struct cs_bridge *bridge, const char *id)
{
    struct cs_relay *found = NULL;
    size_t i;

    for (i = 0; i < bridge->count && found == NULL; i++)
        if (is_request(bridge->relays[i]) && strcmp(bridge->relays[i]->line.id, id) == 0)
            found = bridge->relays[i];
    if (found == NULL)
        return bridge->session.version[0] != '\0';
    found->cancelled = true;
    if (is_stateless(found) || !found->delivered) {
        end(found); /* without sessions the end of the stream cancels */
        return false;
    }
    return true;
}
