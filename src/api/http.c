/* api/http: the server's life, and a request's way through it.
 *
 * civetweb accepts, reads headers and calls begin_request; everything else is ours. None of its own
 * handlers (files, CGI, forms, CORS, TLS) is ever reached.
 */
#include "cs/api/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "cs/base/thread.h"
#include "cs/base/uuid.h"
#include "cs/mcp/mcp.h"
#include "priv.h"

#define SPARE_WORKERS 256      /* never wait for turns: they serve reads */
#define PAUSE_NS      10000000 /* between two looks */
#define KNOCK_STACK   65536
#define STOP_MS       5000 /* for answers under way when the server stops */
#define STREAM_MS     500  /* for streams to say goodbye then */

/* ---- a request ---- */

/* Clients of MCP look there for how to get a token: there is nothing, whoever they are. */
static bool is_well_known(const struct cs_request *rq)
{
    static const char folder[] = "/.well-known/";

    return strncmp(rq->info->request_uri, folder, sizeof folder - 1) == 0;
}

static enum cs_status admit(struct cs_request *rq, struct cs_err *err)
{
    enum cs_status rc = cs_req_check(rq, err);

    if (rc != CS_OK)
        return rc;
    rq->route = cs_route_find(rq->info->request_uri, cs_req_method(rq), rq->param);
    if (rq->route != NULL ? (rq->route->flags & CS_ROUTE_OPEN) == 0 : !is_well_known(rq))
        rc = cs_auth_check(rq, err); /* strangers do not learn which paths there are */
    return rc == CS_OK && rq->route == NULL ? cs_route_missing(rq, err) : rc;
}

/* Not yet, or no longer, serving. */
static enum cs_status turn_away(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    const char *path = rq->info->request_uri;
    const struct cs_route *route =
        path != NULL ? cs_route_find(path, rq->info->request_method, rq->param) : NULL;

    rq->close = true;
    if (route == NULL || (route->flags & CS_ROUTE_STREAM) == 0)
        return cs_err_set(err, CS_UNAVAILABLE, "shutting_down", "The daemon is shutting down");
    cs_sse_refuse(rq, reply);
    return CS_OK;
}

static enum cs_status serve(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    enum cs_status rc;

    if (atomic_load(&rq->http->quiet))
        return turn_away(rq, reply, err);
    rc = admit(rq, err);
    if (rc == CS_OK && (rq->route->flags & CS_ROUTE_MUTATION) != 0)
        rc = cs_body_read(rq, err);
    return rc == CS_OK ? rq->route->handler(rq, reply, err) : rc;
}

static void log_request(const struct cs_request *rq, int status, const struct cs_err *err,
                        int64_t began)
{
    /* Core has told of the turns that failed; what is refused or too busy is the client's to know.
     */
    enum cs_log_level level = status == 500 || status == 507 ? CS_LOG_ERROR : CS_LOG_DEBUG;

    if (!cs_log_enabled(level))
        return;
    cs_log(level, "request", "id", rq->id, "method", rq->info->request_method, "path",
           rq->info->request_uri, "status", CS_NUM(status), "us",
           began != 0 ? CS_NUM(cs_mono_us() - began) : NULL, "error",
           err->status != CS_OK ? err->msg : NULL, NULL);
}

static int begin_request(struct mg_connection *conn)
{
    struct cs_http *http = mg_get_user_data(mg_get_context(conn));
    int64_t began = cs_log_enabled(CS_LOG_DEBUG) ? cs_mono_us() : 0;
    struct cs_request rq;
    struct cs_reply reply;
    struct cs_err err = {0};
    int status;

    atomic_fetch_add(&http->active, 1);
    cs_req_init(&rq, http, conn);
    rq.body_read = rq.info->content_length <= 0;
    cs_reply_init(&reply);
    if (serve(&rq, &reply, &err) != CS_OK && !reply.sent)
        cs_reply_error(&rq, &reply, &err);
    if (atomic_load(&http->quiet))
        rq.close = true;
    cs_req_drop_body(&rq); /* it counts: who reads the answer may send as much again */
    status = reply.sent ? reply.status : cs_reply_send(&rq, &reply);
    if (!rq.body_read && rq.header[CS_HEADER_EXPECT] == NULL) /* who asked first has not begun */
        cs_body_drain(&rq);
    log_request(&rq, status, &err, began);
    cs_reply_fini(&reply);
    cs_req_fini(&rq);
    atomic_fetch_sub(&http->active, 1);
    return status;
}

/* civetweb could not read the request: say so in our shape. What it parsed of it is not to be
 * relied on. */
static int http_error(struct mg_connection *conn, int status, const char *message)
{
    struct cs_http *http = mg_get_user_data(mg_get_context(conn));
    struct cs_request rq;
    struct cs_reply reply;
    struct cs_err err = {0};

    (void)message;
    cs_req_init(&rq, http, conn);
    cs_reply_init(&reply);
    rq.close = true;
    if (status == 413)
        (void)cs_refuse(&rq, 431, "headers_too_large", "The request's header is too large", &err);
    else if (status == 505)
        (void)cs_refuse(&rq, 505, "version_not_supported", "Only HTTP/1.1 and 1.0 are spoken",
                        &err);
    else
        (void)cs_refuse(&rq, 400, "bad_request", "The request is malformed", &err);
    cs_reply_error(&rq, &reply, &err);
    (void)cs_reply_send(&rq, &reply);
    cs_reply_fini(&reply);
    cs_req_fini(&rq);
    return 0;
}

static int log_message(const struct mg_connection *conn, const char *message)
{
    const struct cs_http *http = mg_get_user_data(mg_get_context(conn));

    /* While it serves, what it says is about requests; else it is about why it cannot. */
    cs_log(atomic_load(&http->quiet) ? CS_LOG_WARN : CS_LOG_DEBUG, "civetweb", "message", message,
           NULL);
    return 1;
}

static void *init_thread(const struct mg_context *ctx, int type)
{
    (void)ctx;
    (void)type;
    cs_alarm_unblock();
    return NULL;
}

/* ---- where to listen ---- */

static bool is_loopback(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;

        return (ntohl(in->sin_addr.s_addr) >> 24) == 127;
    }
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

static enum cs_status resolve(struct cs_http *http, const char *host, int64_t port,
                              struct cs_err *err)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *found = NULL;
    bool v6 = mg_check_feature(MG_FEATURES_IPV6) != 0;
    char service[8], bare[256];
    size_t len = strlen(host);
    int rc;

    if (len >= 2 && host[0] == '[' && host[len - 1] == ']')
        snprintf(bare, sizeof bare, "%.*s", (int)len - 2, host + 1);
    else
        snprintf(bare, sizeof bare, "%s", host);
    snprintf(service, sizeof service, "%d", (int)port);
    hints.ai_family = v6 ? AF_UNSPEC : AF_INET;
    rc = getaddrinfo(bare, service, &hints, &found);
    if (rc != 0)
        return cs_err_set(err, CS_INVALID, "invalid_host", "host %s: %s%s", host, gai_strerror(rc),
                          v6 ? "" : " (the civetweb of this system speaks IPv4 only, not IPv6)");
    memcpy(&http->listen, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    snprintf(http->host, sizeof http->host, strchr(bare, ':') != NULL ? "[%s]" : "%s", bare);
    http->loopback = is_loopback(&http->listen);
    return CS_OK;
}

static socklen_t address_len(const struct cs_http *http)
{
    return http->listen.ss_family == AF_INET ? sizeof(struct sockaddr_in)
                                             : sizeof(struct sockaddr_in6);
}

/* civetweb does not say why it cannot bind. */
static enum cs_status try_port(const struct cs_http *http, struct cs_err *err)
{
    const struct sockaddr *address = (const struct sockaddr *)(const void *)&http->listen;
    int on = 1, fd = socket(http->listen.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), errnum = 0;

    if (fd < 0)
        return cs_err_errno(err, errno, "open a socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, address, address_len(http)) != 0)
        errnum = errno;
    (void)close(fd);
    if (errnum == EADDRINUSE)
        return cs_err_set(err, CS_CONFLICT, "port_in_use",
                          "Another program listens on port %lld already",
                          (long long)cs_core_config(http->core)->port);
    return errnum == 0 ? CS_OK : cs_err_errno(err, errnum, "listen");
}

static void listen_text(const struct cs_http *http, char *out, size_t cap)
{
    char address[INET6_ADDRSTRLEN] = "";

    if (http->listen.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&http->listen;

        (void)inet_ntop(AF_INET, &in->sin_addr, address, sizeof address);
        snprintf(out, cap, "%s:%d", address, ntohs(in->sin_port));
    } else {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&http->listen;

        (void)inet_ntop(AF_INET6, &in6->sin6_addr, address, sizeof address);
        snprintf(out, cap, "[%s]:%d", address, ntohs(in6->sin6_port));
    }
}

static enum cs_status learn_port(struct cs_http *http, struct cs_err *err)
{
    struct mg_server_port ports[1];

    memset(ports, 0, sizeof ports);
    if (mg_get_server_ports(http->ctx, 1, ports) != 1)
        return cs_err_set(err, CS_INTERNAL, NULL, "could not learn the port");
    http->port = ports[0].port;
    if (http->listen.ss_family == AF_INET)
        ((struct sockaddr_in *)(void *)&http->listen)->sin_port = htons((uint16_t)http->port);
    else
        ((struct sockaddr_in6 *)(void *)&http->listen)->sin6_port = htons((uint16_t)http->port);
    return CS_OK;
}

/* ---- life ---- */

static enum cs_status start_civetweb(struct cs_http *http, int64_t threads, struct cs_err *err)
{
    char address[80], count[24], keep_alive[24], request[24];
    const char *const settings[][2] = {
        {"listening_ports", address},
        {"num_threads", count},
        {"enable_keep_alive", "yes"},
        {"keep_alive_timeout_ms", keep_alive},
        {"request_timeout_ms", request},
        {"max_request_size", "32768"}, /* of the header; see HEADER_BYTES_MAX in request.c */
        {"tcp_nodelay", "1"},          /* else Nagle's algorithm adds 40 ms */
        {"connection_queue", "4096"},
        {"listen_backlog", "4096"},
        {"decode_url", "no"}, /* else it looks for a password file per request */
        {"enable_directory_listing", "no"},
        {"enable_auth_domain_check", "no"},
        {"access_control_allow_origin", ""}, /* else it grants CORS by itself */
        {"access_control_allow_methods", ""},
        {"access_control_allow_headers", ""},
    };
    const char *options[sizeof settings / sizeof settings[0][0] + 1];
    struct mg_callbacks callbacks;

    memset(&callbacks, 0, sizeof callbacks);
    callbacks.begin_request = begin_request;
    callbacks.http_error = http_error;
    callbacks.log_message = log_message;
    callbacks.init_thread = init_thread;
    listen_text(http, address, sizeof address);
    snprintf(count, sizeof count, "%lld", (long long)threads);
    snprintf(keep_alive, sizeof keep_alive, "%d", CS_KEEP_ALIVE_MS);
    snprintf(request, sizeof request, "%d", CS_REQUEST_MS);
    memcpy(options, settings, sizeof settings);
    options[sizeof settings / sizeof settings[0][0]] = NULL;
    http->ctx = mg_start(&callbacks, http, options);
    if (http->ctx == NULL)
        return cs_err_set(err, CS_UNAVAILABLE, "listen_failed", "could not serve HTTP on %s",
                          address);
    return learn_port(http, err);
}

/* Share the workers out: what waits for turns, what streams and what is short do not take each
 * other's. */
static void share_workers(struct cs_http *http, const struct cs_config *config)
{
    int64_t threads = config->http_threads;
    bool many = threads / 2 >= SPARE_WORKERS;
    int64_t streams = many ? (threads - SPARE_WORKERS) / 2 : threads / 4;

    if (streams > config->max_streams)
        streams = config->max_streams;
    http->stream_max = (int)streams;
    http->wait_max = (int)(many ? threads - SPARE_WORKERS - streams : threads / 2);
}

static enum cs_status prepare(struct cs_http *http, const struct cs_http_options *options,
                              struct cs_err *err)
{
    const struct cs_config *config = cs_core_config(options->core);
    enum cs_status rc;

    http->core = options->core;
    share_workers(http, config);
    http->version = strdup(options->version);
    http->notice = options->notice != NULL ? strdup(options->notice) : NULL;
    if (http->version == NULL || (options->notice != NULL && http->notice == NULL))
        return cs_err_nomem(err);
    rc = resolve(http, config->host, config->port, err);
    if (rc == CS_OK && !http->loopback && !config->allow_remote)
        rc =
            cs_err_set(err, CS_DENIED, "remote_denied",
                       "%s is not a loopback address: --allow-remote permits it, and every request "
                       "then needs the token",
                       config->host);
    if (rc == CS_OK)
        rc = cs_token_load(options->token_path, http->token, err);
    if (rc == CS_OK)
        rc = cs_log_redact(http->token, err);
    if (rc == CS_OK)
        rc = cs_random(&http->nonce, sizeof http->nonce, err);
    if (rc == CS_OK)
        rc = cs_mcp_new(http->core, options->mcp, http->version, &http->mcp, err);
    if (rc == CS_OK && config->port != 0)
        rc = try_port(http, err);
    return rc == CS_OK ? cs_alarm_install(err) : rc;
}

enum cs_status cs_http_start(const struct cs_http_options *options, struct cs_http **out_http,
                             struct cs_err *err)
{
    struct cs_http *http = calloc(1, sizeof *http);
    int64_t threads = cs_core_config(options->core)->http_threads;
    enum cs_status rc;

    if (http == NULL)
        return cs_err_nomem(err);
    cs_limiter_init(&http->limiter);
    pthread_mutex_init(&http->sockets_mutex, NULL);
    atomic_store(&http->quiet, true); /* until the port is known, which the checks need */
    rc = prepare(http, options, err);
    if (rc == CS_OK) {
        (void)mg_init_library(MG_FEATURES_DEFAULT);
        rc = start_civetweb(http, threads, err);
    }
    if (rc != CS_OK) {
        cs_http_stop(http);
        return rc;
    }
    atomic_store(&http->quiet, false);
    *out_http = http;
    return CS_OK;
}

int cs_http_port(const struct cs_http *http)
{
    return http->port;
}

void cs_http_quiesce(struct cs_http *http)
{
    atomic_store(&http->quiet, true);
    cs_ws_quiesce(http);
}

/* civetweb's accepting thread looks at the stop flag once in two seconds, or when somebody knocks:
 * knock until nobody is at home. */
static void *knock(void *arg)
{
    const struct cs_http *http = arg;
    struct timespec moment = {.tv_nsec = PAUSE_NS};
    const struct sockaddr *address = (const struct sockaddr *)(const void *)&http->listen;

    while (!atomic_load(&http->stopped)) {
        int fd = socket(http->listen.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd >= 0) {
            (void)connect(fd, address, address_len(http));
            (void)close(fd);
        }
        (void)nanosleep(&moment, NULL);
    }
    return NULL;
}

static void stop_civetweb(struct cs_http *http)
{
    pthread_t knocker;
    bool knocking = cs_thread_start(&knocker, "http-stop", KNOCK_STACK, knock, http, NULL) == CS_OK;

    mg_stop(http->ctx);
    atomic_store(&http->stopped, true);
    if (knocking)
        (void)pthread_join(knocker, NULL);
    (void)mg_exit_library();
}

/* Once civetweb is told to stop, it writes no more: let the answers out first. Streams end by
 * themselves, but for those whose readers take nothing. */
static void await_answers(struct cs_http *http)
{
    struct timespec moment = {.tv_nsec = PAUSE_NS};
    int64_t began = cs_mono_ms();

    for (;;) {
        int64_t waited = cs_mono_ms() - began;
        int active = atomic_load(&http->active);

        if (waited >= STREAM_MS)
            active -= atomic_load(&http->streams);
        if (active <= 0 || waited >= STOP_MS)
            break;
        (void)nanosleep(&moment, NULL);
    }
}

void cs_http_stop(struct cs_http *http)
{
    if (http == NULL)
        return;
    cs_http_quiesce(http);
    await_answers(http);
    if (http->ctx != NULL)
        stop_civetweb(http);
    cs_mcp_free(http->mcp);
    cs_limiter_fini(&http->limiter);
    pthread_mutex_destroy(&http->sockets_mutex);
    explicit_bzero(http->token, sizeof http->token);
    free(http->version);
    free(http->notice);
    free(http);
}
