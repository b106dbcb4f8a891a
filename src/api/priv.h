/* api/priv: what the API's files share.
 *
 * Layer: api, private. A request and its reply belong to one civetweb worker thread (100 KB of
 * stack); struct cs_http is shared by all of them and changes only through its atomics and the
 * limiter's mutex.
 */
#ifndef CS_API_PRIV_H
#define CS_API_PRIV_H

#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include <civetweb.h>

#include "cs/api/http.h"
#include "cs/base/buf.h"
#include "cs/base/embed.h"
#include "cs/base/json.h"

#define CS_TOKEN_LEN      64                    /* hex digits */
#define CS_PARAM_MAX      129                   /* an id in a path, with its NUL */
#define CS_REQUEST_ID_MAX 65                    /* with its NUL */
#define CS_HEAD_ROOM      1024                  /* bytes kept free for a reply's header */
#define CS_BODY_MS        10000                 /* time for a request body to arrive */
#define CS_DRAIN_MS       1000                  /* time given to an unwanted body */
#define CS_BODIES_MAX     (256LL * 1024 * 1024) /* bytes of request bodies held at once */
#define CS_KEEP_ALIVE_MS  5000                  /* idle time of a connection; it holds a thread */
#define CS_REQUEST_MS     10000 /* time for a request's header; for a reader that does not read */

/** Failed credentials: a bucket that refills once a second. */
struct cs_limiter {
    pthread_mutex_t mutex; /* guards the rest */
    int left;
    int64_t refilled_at; /* mono ms */
};

struct cs_feed;

struct cs_http {
    struct cs_core *core;
    struct cs_mcp *mcp;
    struct mg_context *ctx;
    char *version, *notice; /* owned; notice may be NULL */
    char token[CS_TOKEN_LEN + 1];
    char host[256]; /* as configured; IPv6 in brackets: a name that Host may carry */
    struct sockaddr_storage listen; /* resolved; its port is the one in use */
    int port;
    bool loopback;             /* listen is a loopback address */
    int wait_max;              /* workers that may wait for turns */
    int stream_max;            /* others that may serve streams */
    uint32_t nonce;            /* of this start, in request ids */
    atomic_uint requests;      /* numbered */
    atomic_int active;         /* requests under way */
    atomic_int waiting;        /* of these, waiting for turns */
    atomic_int streams;        /* of these, streams */
    atomic_llong body_bytes;   /* of these, bytes of bodies */
    atomic_bool quiet;         /* not yet, or no longer, serving */
    atomic_bool stopped;       /* nobody listens any more */
    atomic_bool peers_unknown; /* said that the kernel cannot be asked for a peer's user */
    struct cs_limiter limiter;
    pthread_mutex_t sockets_mutex; /* guards the list */
    struct cs_ws *sockets;         /* open WebSockets */
};

/** What a worker thread of civetweb remembers. */
struct cs_worker {
    const char *buffer; /* where its requests begin; NULL before the first */
};

/* X(member, name, once): the headers that mean something to us, and whether a second one is
 * refused; else the first counts, as it does for civetweb. */
#define CS_HEADERS(X)                                                                              \
    X(HOST, "Host", true)                                                                          \
    X(ORIGIN, "Origin", true)                                                                      \
    X(FETCH_SITE, "Sec-Fetch-Site", true)                                                          \
    X(CONNECTION, "Connection", false)                                                             \
    X(UPGRADE, "Upgrade", false)                                                                   \
    X(AUTHORIZATION, "Authorization", true)                                                        \
    X(CONTENT_LENGTH, "Content-Length", true)                                                      \
    X(CONTENT_TYPE, "Content-Type", true)                                                          \
    X(TRANSFER_ENCODING, "Transfer-Encoding", true)                                                \
    X(EXPECT, "Expect", true)                                                                      \
    X(ACCEPT, "Accept", false)                                                                     \
    X(LAST_EVENT_ID, "Last-Event-ID", true)                                                        \
    X(MCP_SESSION_ID, "Mcp-Session-Id", true)                                                      \
    X(MCP_REVISION, "MCP-Protocol-Version", true)                                                  \
    X(MCP_METHOD, "Mcp-Method", true)                                                              \
    X(MCP_NAME, "Mcp-Name", true)                                                                  \
    X(PREFER, "Prefer", false)                                                                     \
    X(REQUEST_ID, "X-Request-Id", false)                                                           \
    X(IDEMPOTENCY_KEY, "Idempotency-Key", true)

enum cs_header {
#define X(member, name, once) CS_HEADER_##member,
    CS_HEADERS(X)
#undef X
        CS_HEADER_COUNT
};

struct cs_route;

struct cs_request {
    struct cs_http *http;
    struct mg_connection *conn;
    const struct mg_request_info *info; /* civetweb's */
    struct cs_worker *worker;           /* this thread's */
    const struct cs_config *config;
    const struct cs_route *route;        /* NULL until found */
    const char *header[CS_HEADER_COUNT]; /* borrowed of info; NULL when absent */
    char id[CS_REQUEST_ID_MAX];
    char param[CS_PARAM_MAX]; /* the path's :id */
    bool forwarded;           /* a proxy says that it stands between */
    bool head;                /* HEAD: as GET, without a body */
    bool close;               /* the connection ends with this request */
    bool body_read;           /* nothing of the body is left on the connection */
    int64_t body_len;         /* declared */
    size_t body_at;           /* where the body begins in raw */
    int64_t body_held;        /* counted in http->body_bytes */
    struct cs_buf raw;    /* "METHOD path\n", then the body: what an idempotency key stands for */
    struct cs_json *body; /* an object; NULL without a body */
    int status;           /* of an error that has no enum cs_status, else 0 */
    int retry_after;      /* seconds; 0: the status's usual */
    bool stale;           /* Redis could not be asked: others may know more */
    char allow[64];       /* of a 405 */
    char code[48];        /* of a stored error; "": the struct cs_err's */
    char tid[CS_UUID_MAX], sid[CS_UUID_MAX],
        cid[CS_UUID_MAX]; /* told with an error; "" if unknown */
};

struct cs_reply {
    int status;
    bool cacheable;    /* else no-store */
    bool sent;         /* the handler wrote it itself: nothing is left to send */
    struct cs_buf out; /* CS_HEAD_ROOM bytes, then the body */
    char *body;        /* if not NULL, the body stands there, with as much room before it */
    size_t body_len;
    const struct cs_history *history; /* where that is: borrowed and held until the end; or NULL */
    char extra[320];                  /* further header lines, each with its CRLF */
    size_t extra_len;
};

/* ---- request.c: what every request must be, before anyone looks at what it wants ---- */

/** Fill @rq from the connection. Cannot fail; check it next. */
void cs_req_init(struct cs_request *rq, struct cs_http *http, struct mg_connection *conn);
/** Framing, headers, Host, Origin. On failure the connection is to be closed. */
CS_MUST_USE enum cs_status cs_req_check(struct cs_request *rq, struct cs_err *err);
void cs_req_fini(struct cs_request *rq);
/** The body is not needed any more: free it, before a long wait. */
void cs_req_drop_body(struct cs_request *rq);
/** The method to look for: HEAD counts as GET. */
const char *cs_req_method(const struct cs_request *rq);
/** Record an error whose HTTP status no enum cs_status stands for; returns CS_INVALID. */
enum cs_status cs_refuse(struct cs_request *rq, int http_status, const char *code,
                         const char *sentence, struct cs_err *err);
/** Whether the comma-separated @list has @word, whatever the case. NULL is an empty list. */
bool cs_list_has(const char *list, const char *word);
/** Take one of @max shares; false when all are taken, and then not even for a moment one more:
 * others may be told that one is free. */
bool cs_share_take(atomic_int *taken, int max);
/** A worker may wait for a turn: CS_BUSY too_many_requests when too many do. Pair with
 * cs_wait_leave(). */
CS_MUST_USE enum cs_status cs_wait_enter(struct cs_http *http, struct cs_err *err);
void cs_wait_leave(struct cs_http *http);

/* ---- auth.c, peer.c ---- */

/** Whether the caller may use what is not open: 401 or 429 if not. */
CS_MUST_USE enum cs_status cs_auth_check(struct cs_request *rq, struct cs_err *err);
void cs_limiter_init(struct cs_limiter *limiter);
void cs_limiter_fini(struct cs_limiter *limiter);
/** Take one. When none is left: false, and *out_seconds until there is. */
bool cs_limiter_take(struct cs_limiter *limiter, int64_t now, int *out_seconds);

/** The other end of a connection; false when civetweb's text for it makes no sense. */
bool cs_client_address(const struct mg_request_info *info, struct sockaddr_storage *out);
enum cs_peer { CS_PEER_UNKNOWN, CS_PEER_OURS, CS_PEER_OTHER };
/** Who holds the other end of a TCP connection on this host, by the kernel's socket tables: @client
 * is its address, @server ours. CS_PEER_UNKNOWN when the kernel cannot be asked. */
enum cs_peer cs_peer_find(const struct sockaddr_storage *client,
                          const struct sockaddr_storage *server);

/* ---- socket.c, ws.c ---- */

/** The descriptor of the connection between @client and our port @server, which civetweb keeps to
 * itself; it stays civetweb's. CS_NOT_FOUND, code "connection_gone", when there is none any more;
 * CS_UNAVAILABLE, code "socket_unknown", when it cannot be told. */
CS_MUST_USE enum cs_status cs_socket_find(const struct sockaddr_storage *client,
                                          const struct sockaddr_storage *server, int *out_fd,
                                          struct cs_err *err);
/** Whether the client has ended its side of the connection, or all of it. */
bool cs_socket_ended(int fd);
/** Tell the WebSockets that the server stops. */
void cs_ws_quiesce(struct cs_http *http);

/* ---- body.c, alarm.c, query.c ---- */

/** Check the body's type and size, read and parse it into rq->body. */
CS_MUST_USE enum cs_status cs_body_read(struct cs_request *rq, struct cs_err *err);
/** Read on for a moment, so that a client still sending gets to see the reply. */
void cs_body_drain(struct cs_request *rq);

/** civetweb reads without a deadline as long as bytes trickle in: a timer of this thread interrupts
 * its poll(2) again and again once the time is over. */
struct cs_alarm {
    timer_t timer;
};
CS_MUST_USE enum cs_status cs_alarm_install(struct cs_err *err); /* once, before any worker */
void cs_alarm_unblock(void);                                     /* on each worker */
CS_MUST_USE enum cs_status cs_alarm_start(struct cs_alarm *alarm, int64_t ms, struct cs_err *err);
void cs_alarm_stop(struct cs_alarm *alarm);

/** Decode the parameter @name of the query into @out; "" when it is not there or empty. CS_INVALID,
 * code @code, when it comes twice, is badly encoded, not UTF-8 or longer than @cap − 1 bytes. */
CS_MUST_USE enum cs_status cs_query_text(const struct cs_request *rq, const char *name,
                                         const char *code, char *out, size_t cap,
                                         struct cs_err *err);
/** A decimal parameter between bounds[0] and bounds[1]; *inout_value stays when it is not there. */
CS_MUST_USE enum cs_status cs_query_int(const struct cs_request *rq, const char *name,
                                        const char *code, const int64_t bounds[2],
                                        int64_t *inout_value, struct cs_err *err);

/* ---- reply.c ---- */

void cs_reply_init(struct cs_reply *reply);
void cs_reply_fini(struct cs_reply *reply);
/** Begin a body: the writer appends to reply->out, whose header room is reserved. */
void cs_reply_begin(struct cs_reply *reply, struct cs_jsonw *w);
/** Add a header line. */
void cs_reply_header(struct cs_reply *reply, const char *name, const char *value);
/** Make @reply the rendering of @err: {success:false, error, code, requestId, ids of the turn}. */
void cs_reply_error(struct cs_request *rq, struct cs_reply *reply, const struct cs_err *err);
/** Send header and body at once. Returns the HTTP status sent. */
int cs_reply_send(struct cs_request *rq, struct cs_reply *reply);
/** Write all, or give the client up: false. */
bool cs_write_all(struct cs_request *rq, const char *data, size_t len);
/** The HTTP status of a status. */
int cs_http_status(enum cs_status status);

/* ---- sse.c ---- */

/** A worker may serve a stream: CS_BUSY too_many_streams when too many do. Pair with
 * cs_stream_leave(). */
CS_MUST_USE enum cs_status cs_stream_enter(struct cs_http *http, struct cs_err *err);
void cs_stream_leave(struct cs_http *http);
/** The same ahead of the last word, so that who reads it may come again. False while the server
 * stops, which does not wait as long for streams as for answers: then leave at the end. */
bool cs_stream_leave_early(struct cs_http *http);

/** An answer that goes on. The header goes out with what is sent first; from then on
 * reply->sent. */
struct cs_sse {
    struct cs_request *rq;
    struct cs_reply *reply; /* its extra header lines are sent */
    struct cs_buf frame;
    int64_t last; /* mono ms of the last write */
    bool broken;
    bool entered; /* it has its share of the streams */
};
void cs_sse_init(struct cs_sse *sse, struct cs_request *rq, struct cs_reply *reply);
void cs_sse_fini(struct cs_sse *sse);
/** Send an event; @id, @name and the data (one line) may each be left out: NULL, 0. Without data
 * clients keep the id and make no event of it; "" is data. False when the client is gone or takes
 * nothing for CS_REQUEST_MS, which is logged. */
bool cs_sse_send(struct cs_sse *sse, const char *id, const char *name, const char *data,
                 size_t len);
/** Send a comment. It is how a client that went away is noticed. */
bool cs_sse_beat(struct cs_sse *sse);
/** When a comment is due (mono ms). */
int64_t cs_sse_due(const struct cs_sse *sse);

/** Send what @feed gives, until it ends, the client goes or, with @tid, that turn has ended. @reset
 * (may be NULL): why earlier events cannot be had. Leaves the streams. */
void cs_sse_follow(struct cs_request *rq, struct cs_reply *reply, struct cs_feed *feed,
                   const char *tid, const char *reset);
/** Say that the daemon stops, in a way that lets a browser come back: it takes an error for final.
 */
void cs_sse_refuse(struct cs_request *rq, struct cs_reply *reply);

/* ---- route.c ---- */

typedef enum cs_status (*cs_handler)(struct cs_request *rq, struct cs_reply *reply,
                                     struct cs_err *err);

enum {
    CS_ROUTE_OPEN = 1,     /* no credentials needed */
    CS_ROUTE_MUTATION = 2, /* its body must be JSON */
    CS_ROUTE_MCP = 4,      /* not REST: no part of the contract, its body is for another parser */
    CS_ROUTE_STREAM = 8,   /* the answer goes on */
};

struct cs_route {
    const char *method;
    const char *path; /* one segment may be ":id" */
    cs_handler handler;
    unsigned flags;
};
extern const struct cs_route cs_routes[]; /* ends with a NULL method */

/** The route of @method and @path, its :id in @param; or NULL. */
const struct cs_route *cs_route_find(const char *path, const char *method,
                                     char param[CS_PARAM_MAX]);
/** Why there is none: 404, or 405 with rq->allow. */
enum cs_status cs_route_missing(struct cs_request *rq, struct cs_err *err);

/* ---- the resources ---- */

/** Append member "sync": how this host stands against Redis. */
void cs_sync_render(struct cs_jsonw *w, const struct cs_sync_status *status);
/** Set rq->stale if Redis cannot be asked now. */
void cs_stale_note(struct cs_request *rq);

enum cs_status cs_api_create(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_continue(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_turn(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_approval(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_history(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_session(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_sessions(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_delete(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_cancel(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_restore(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_cleanup(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_events(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_stats(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_health(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_healthz(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_sync(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_sync_now(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_mcp_post(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_mcp_get(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_mcp_delete(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_ws(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);
enum cs_status cs_api_openapi(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err);

#endif
