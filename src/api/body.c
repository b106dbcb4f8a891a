/* api/body: request bodies, within a size, a time, and a sum over all requests. */
#include <string.h>
#include <strings.h>

#include "priv.h"

#define SLICE 262144 /* bytes asked of civetweb at once: bounds what a slow body reserves */

static bool is_json(const char *type)
{
    static const char json[] = "application/json";
    size_t len = sizeof json - 1;

    if (strncasecmp(type, json, len) != 0)
        return false;
    type += len;
    type += strspn(type, " \t");
    if (*type == '\0')
        return true;
    if (*type != ';')
        return false;
    type += 1 + strspn(type + 1, " \t");
    return strcasecmp(type, "charset=utf-8") == 0 || strcasecmp(type, "charset=\"utf-8\"") == 0;
}

static enum cs_status check_kind(struct cs_request *rq, struct cs_err *err)
{
    const char *type = rq->header[CS_HEADER_CONTENT_TYPE];
    const char *expect = rq->header[CS_HEADER_EXPECT];

    /* A page cannot send this type to another site without asking first, and nobody answers such
     * questions here. */
    if (type != NULL ? !is_json(type) : rq->body_len > 0)
        return cs_refuse(rq, 415, "unsupported_media_type", "Content-Type must be application/json",
                         err);
    if (rq->body_len > rq->config->max_body_bytes)
        return cs_err_set(err, CS_TOO_LARGE, "body_too_large", "The body may have %lld bytes",
                          (long long)rq->config->max_body_bytes);
    if (expect != NULL && strcasecmp(expect, "100-continue") != 0)
        return cs_refuse(rq, 417, "expectation_failed", "Only 100-continue can be expected", err);
    return CS_OK;
}

/* Count the body against what all requests may hold. */
static enum cs_status hold(struct cs_request *rq, struct cs_err *err)
{
    long long before = atomic_load(&rq->http->body_bytes);

    do {
        if (before + rq->body_len > CS_BODIES_MAX && before > 0)
            return cs_err_set(err, CS_BUSY, "too_many_requests", "Too many large requests at once");
    } while (!atomic_compare_exchange_weak(&rq->http->body_bytes, &before, before + rq->body_len));
    rq->body_held = rq->body_len;
    return CS_OK;
}

static enum cs_status too_slow(struct cs_request *rq, struct cs_err *err)
{
    return cs_refuse(rq, 408, "request_timeout", "The body did not arrive whole and in time", err);
}

static enum cs_status fill(struct cs_request *rq, struct cs_err *err)
{
    size_t left = (size_t)rq->body_len;
    struct cs_alarm alarm;
    enum cs_status rc = cs_alarm_start(&alarm, CS_BODY_MS, err);

    if (rc != CS_OK)
        return rc;
    while (left > 0) {
        size_t slice = left < SLICE ? left : SLICE;
        char *room = cs_buf_reserve(&rq->raw, slice);
        int got;

        if (room == NULL) {
            rc = cs_buf_check(&rq->raw, err);
            break;
        }
        got = mg_read(rq->conn, room, slice);
        if (got < 0 || (size_t)got != slice) { /* the alarm, the client's end, or ours */
            rc = too_slow(rq, err);
            break;
        }
        rq->raw.len += slice;
        left -= slice;
    }
    cs_alarm_stop(&alarm);
    rq->body_read = left == 0;
    if (rc == CS_OK)
        rq->raw.data[rq->raw.len] = '\0';
    return rc;
}

static enum cs_status parse(struct cs_request *rq, struct cs_err *err)
{
    size_t len = rq->raw.len - rq->body_at;
    enum cs_status rc;

    if ((rq->route->flags & CS_ROUTE_MCP) != 0)
        return CS_OK;
    rc = cs_json_parse(rq->raw.data + rq->body_at, len, len, &rq->body, err);

    if (rc == CS_OK && cs_json_type(rq->body) != CS_JSON_OBJECT)
        rc = cs_err_set(err, CS_INVALID, "invalid_json", "The body must be a JSON object");
    return rc;
}

enum cs_status cs_body_read(struct cs_request *rq, struct cs_err *err)
{
    enum cs_status rc = check_kind(rq, err);

    if (rc != CS_OK || rq->body_len == 0)
        return rc;
    rc = hold(rq, err);
    if (rc != CS_OK)
        return rc;
    if (rq->header[CS_HEADER_EXPECT] != NULL && strcmp(rq->info->http_version, "1.1") == 0) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

        if (mg_write(rq->conn, go_on, sizeof go_on - 1) < 0)
            return too_slow(rq, err);
    }
    cs_buf_init(&rq->raw, (size_t)rq->body_len + 4096);
    cs_buf_addf(&rq->raw, "%s %s\n", rq->info->request_method, rq->info->request_uri);
    rq->body_at = rq->raw.len;
    rc = fill(rq, err);
    return rc == CS_OK ? parse(rq, err) : rc;
}

void cs_body_drain(struct cs_request *rq)
{
    char sink[4096];
    struct cs_alarm alarm;

    if (cs_alarm_start(&alarm, CS_DRAIN_MS, NULL) != CS_OK)
        return;
    while (mg_read(rq->conn, sink, sizeof sink) == (int)sizeof sink)
        ;
    cs_alarm_stop(&alarm);
}
