/* api/request: what every request must be, before anyone looks at what it wants.
 *
 * civetweb takes more than HTTP allows: both framings at once, several Content-Length, no Host, and
 * it drops the headers after the 64th or after a folded line. Whatever another reader of the same
 * bytes might understand differently is refused here, and the connection closed.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cs/base/uuid.h"
#include "priv.h"

#define HEADER_BYTES_MAX                                                                           \
    16384 /* civetweb's buffer holds twice that: what is beyond it, civetweb calls malformed */

static const struct {
    const char *name;
    bool once;
} known[CS_HEADER_COUNT] = {
#define X(member, name, once) {name, once},
    CS_HEADERS(X)
#undef X
};

enum cs_status cs_refuse(struct cs_request *rq, int http_status, const char *code,
                         const char *sentence, struct cs_err *err)
{
    rq->status = http_status;
    return cs_err_set(err, CS_INVALID, code, "%s", sentence);
}

static enum cs_status bad(struct cs_request *rq, const char *sentence, struct cs_err *err)
{
    return cs_refuse(rq, 400, "bad_request", sentence, err);
}

bool cs_list_has(const char *list, const char *word)
{
    size_t len = strlen(word);

    while (list != NULL && *list != '\0') {
        size_t item;

        list += strspn(list, " \t,");
        item = strcspn(list, ", \t;");
        if (item == len && strncasecmp(list, word, len) == 0)
            return true;
        list += strcspn(list, ",");
    }
    return false;
}

/* ---- headers ---- */

static bool tells_of_proxy(const char *name)
{
    return strncasecmp(name, "x-forwarded", 11) == 0 || strcasecmp(name, "forwarded") == 0 ||
           strcasecmp(name, "via") == 0 || strcasecmp(name, "x-real-ip") == 0;
}

/* Note one header. False when it may not come again. */
static bool note_header(struct cs_request *rq, const char *name, const char *value)
{
    int i;

    for (i = 0; i < CS_HEADER_COUNT; i++) {
        if ((name[0] | 0x20) != (known[i].name[0] | 0x20) || strcasecmp(name, known[i].name) != 0)
            continue;
        if (rq->header[i] != NULL)
            return !known[i].once;
        rq->header[i] = value;
        return true;
    }
    if (!rq->forwarded && tells_of_proxy(name))
        rq->forwarded = true;
    return true;
}

/* Before a request's first line civetweb skips white space, even a whole empty header: it then
 * takes for the request what an earlier client left in the buffer. So a request must begin where
 * this worker's buffer does. */
static bool begins_in_place(struct cs_worker *worker, const char *method)
{
    if (worker->buffer == NULL || method < worker->buffer)
        worker->buffer = method;
    return method == worker->buffer;
}

/* The end of the last header that civetweb reports. */
static const char *headers_end(const struct mg_request_info *info)
{
    const char *value = info->http_headers[info->num_headers - 1].value;

    return value + strlen(value);
}

static enum cs_status check_headers(struct cs_request *rq, struct cs_err *err)
{
    const struct mg_request_info *info = rq->info;
    const char *end;
    int i;

    if (!begins_in_place(rq->worker, info->request_method))
        return bad(rq, "Empty lines come before the request", err);
    if (info->num_headers < 1)
        return bad(rq, "The request has no Host header", err);
    end = headers_end(info);
    if (info->num_headers >= MG_MAX_HEADERS || end - info->request_method > HEADER_BYTES_MAX)
        return cs_refuse(rq, 431, "headers_too_large", "The request's header is too large", err);
    /* civetweb put a NUL over each line's end and stops without a word at a line that is not a
     * header: the empty line must follow. */
    if (end[1] != '\0' || end[2] != '\r' || end[3] != '\0')
        return bad(rq, "A header line is malformed", err);
    for (i = 0; i < info->num_headers; i++)
        if (!note_header(rq, info->http_headers[i].name, info->http_headers[i].value))
            return bad(rq, "A header comes twice", err);
    return CS_OK;
}

/* ---- framing ---- */

static enum cs_status check_framing(struct cs_request *rq, struct cs_err *err)
{
    const char *length = rq->header[CS_HEADER_CONTENT_LENGTH];

    if (rq->header[CS_HEADER_TRANSFER_ENCODING] != NULL) {
        if (length != NULL)
            return bad(rq, "Transfer-Encoding and Content-Length exclude each other", err);
        return cs_refuse(rq, 411, "length_required", "Send the body with a Content-Length", err);
    }
    if (length == NULL)
        return CS_OK;
    if (length[0] == '\0' || strlen(length) > 18 || length[strspn(length, "0123456789")] != '\0')
        return bad(rq, "Content-Length is malformed", err);
    rq->body_len = strtoll(length, NULL, 10);
    rq->body_read = rq->body_len == 0;
    return CS_OK;
}

/* A path of ours needs no escapes: those that come would hide a NUL or a climb. */
static enum cs_status check_path(struct cs_request *rq, struct cs_err *err)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                "-._~/:@!$&'()*+,;=";
    const char *path = rq->info->request_uri;

    if (path[0] != '/' || path[strspn(path, plain)] != '\0' || strstr(path, "/../") != NULL ||
        strstr(path, "/./") != NULL)
        return cs_refuse(rq, 400, "invalid_path", "The path has characters that no path here has",
                         err);
    return CS_OK;
}

/* ---- Host and Origin ---- */

struct authority {
    const char *name; /* IPv6 with its brackets */
    size_t len;
    int port; /* 0: none given */
};

static bool parse_authority(const char *text, size_t len, struct authority *out)
{
    const char *end = text + len, *p = text, *digits;
    int port = 0;

    if (len > 0 && *p == '[') {
        p = memchr(p, ']', len);
        if (p == NULL)
            return false;
        p++;
    } else {
        while (p < end && *p != ':')
            p++;
    }
    if (p == text)
        return false;
    out->name = text;
    out->len = (size_t)(p - text);
    out->port = 0;
    if (p == end)
        return true;
    if (*p != ':' || end - p < 2 || end - p > 6)
        return false;
    for (digits = p + 1; digits < end; digits++) {
        if (*digits < '0' || *digits > '9')
            return false;
        port = port * 10 + (*digits - '0');
    }
    out->port = port;
    return port > 0 && port <= 65535;
}

static bool same_name(const struct authority *who, const char *name, size_t len)
{
    return who->len == len && strncasecmp(who->name, name, len) == 0;
}

static bool is_own_name(const struct cs_http *http, const struct authority *who)
{
    static const char *const loopback[] = {"127.0.0.1", "localhost", "[::1]"};
    size_t i;

    for (i = 0; i < sizeof loopback / sizeof *loopback; i++)
        if (same_name(who, loopback[i], strlen(loopback[i])))
            return true;
    return same_name(who, http->host, strlen(http->host));
}

/* Whether the setting allowed_hosts names it. An entry without a port stands for our port and for
 * none; one with a port for that port (a tunnel's other end). */
static bool is_configured_name(const struct cs_request *rq, const struct authority *who)
{
    const char *list = rq->config->allowed_hosts;
    struct authority item;

    while (list != NULL && *list != '\0') {
        size_t len;

        list += strspn(list, " ,");
        len = strcspn(list, " ,");
        if (parse_authority(list, len, &item) && same_name(who, item.name, item.len) &&
            (item.port != 0 ? who->port == item.port
                            : who->port == 0 || who->port == rq->http->port))
            return true;
        list += len;
    }
    return false;
}

/* Exact names defeat a page that made its own name resolve to this host. */
static enum cs_status check_host(struct cs_request *rq, struct cs_err *err)
{
    const char *host = rq->header[CS_HEADER_HOST];
    struct authority who;

    if (host == NULL)
        return bad(rq, "The request has no Host header", err);
    if (!parse_authority(host, strlen(host), &who))
        return bad(rq, "The Host header is malformed", err);
    if ((is_own_name(rq->http, &who) && (who.port == 0 || who.port == rq->http->port)) ||
        is_configured_name(rq, &who))
        return CS_OK;
    return cs_refuse(rq, 403, "host_not_allowed",
                     "This Host is not one of the daemon's; the setting allowed-hosts can add it",
                     err);
}

static bool origin_allowed(const struct cs_request *rq, const char *origin)
{
    struct authority who;
    bool tls = strncmp(origin, "https://", 8) == 0;

    if (!tls && strncmp(origin, "http://", 7) != 0)
        return false;
    origin += tls ? 8 : 7;
    if (!parse_authority(origin, strlen(origin), &who))
        return false;
    if (!tls && is_own_name(rq->http, &who) && (who.port != 0 ? who.port : 80) == rq->http->port)
        return true;
    return is_configured_name(rq, &who);
}

static enum cs_status check_origin(struct cs_request *rq, struct cs_err *err)
{
    const char *origin = rq->header[CS_HEADER_ORIGIN];
    const char *site = rq->header[CS_HEADER_FETCH_SITE];

    if (origin != NULL && !origin_allowed(rq, origin))
        return cs_refuse(rq, 403, "origin_not_allowed",
                         "Pages of this origin may not call the daemon", err);
    if (site != NULL && strcmp(site, "same-origin") != 0 && strcmp(site, "none") != 0)
        return cs_refuse(rq, 403, "origin_not_allowed",
                         "Pages of other sites may not call the daemon", err);
    return CS_OK;
}

/* ---- the request as a whole ---- */

static bool is_plain_id(const char *text)
{
    size_t len = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.");

    return len > 0 && len < CS_REQUEST_ID_MAX && text[len] == '\0';
}

static void set_id(struct cs_request *rq)
{
    unsigned number = atomic_fetch_add_explicit(&rq->http->requests, 1, memory_order_relaxed);
    unsigned char bytes[8];
    int i;

    for (i = 0; i < 4; i++) {
        bytes[i] = (unsigned char)(rq->http->nonce >> (24 - 8 * i));
        bytes[4 + i] = (unsigned char)(number >> (24 - 8 * i));
    }
    cs_hex(bytes, sizeof bytes, rq->id);
}

void cs_req_init(struct cs_request *rq, struct cs_http *http, struct mg_connection *conn)
{
    static _Thread_local struct cs_worker worker; /* no memory to run out of at its start */

    memset(rq, 0, sizeof *rq);
    rq->http = http;
    rq->conn = conn;
    rq->info = mg_get_request_info(conn);
    rq->worker = &worker;
    rq->config = cs_core_config(http->core);
    rq->body_read = true;
    cs_buf_init(&rq->raw, 0);
    set_id(rq);
}

enum cs_status cs_req_check(struct cs_request *rq, struct cs_err *err)
{
    const char *asked_id, *connection;
    enum cs_status rc;

    rq->head = strcmp(rq->info->request_method, "HEAD") == 0;
    rc = check_headers(rq, err);
    asked_id = rq->header[CS_HEADER_REQUEST_ID];
    if (asked_id != NULL && is_plain_id(asked_id))
        memcpy(rq->id, asked_id, strlen(asked_id) + 1);
    if (rc == CS_OK)
        rc = check_framing(rq, err);
    if (rc == CS_OK)
        rc = check_path(rq, err);
    if (rc == CS_OK)
        rc = check_host(rq, err);
    if (rc == CS_OK)
        rc = check_origin(rq, err);
    /* civetweb's own rule for keeping the connection: the reply must say the same. */
    connection = rq->header[CS_HEADER_CONNECTION];
    rq->close = rc != CS_OK || rq->header[CS_HEADER_UPGRADE] != NULL ||
                (connection != NULL ? !cs_list_has(connection, "keep-alive")
                                    : strcmp(rq->info->http_version, "1.1") != 0);
    return rc;
}

const char *cs_req_method(const struct cs_request *rq)
{
    return rq->head ? "GET" : rq->info->request_method;
}

void cs_req_drop_body(struct cs_request *rq)
{
    atomic_fetch_sub(&rq->http->body_bytes, rq->body_held);
    rq->body_held = 0;
    cs_json_free(rq->body);
    rq->body = NULL;
    cs_buf_fini(&rq->raw);
}

void cs_req_fini(struct cs_request *rq)
{
    cs_req_drop_body(rq);
}

bool cs_share_take(atomic_int *taken, int max)
{
    int now = atomic_load(taken);

    while (now < max)
        if (atomic_compare_exchange_weak(taken, &now, now + 1))
            return true;
    return false;
}

enum cs_status cs_wait_enter(struct cs_http *http, struct cs_err *err)
{
    if (cs_share_take(&http->waiting, http->wait_max))
        return CS_OK;
    return cs_err_set(err, CS_BUSY, "too_many_requests",
                      "Too many requests wait for turns already: use Prefer: respond-async");
}

void cs_wait_leave(struct cs_http *http)
{
    atomic_fetch_sub(&http->waiting, 1);
}
