/* api/route: which path is whose. schema/openapi.yaml describes the same list; a test compares
 * them. */
#include <stdio.h>
#include <string.h>

#include "priv.h"

const struct cs_route cs_routes[] = {
    {"GET", "/api/codex/history/:id", cs_api_history, 0},
    {"POST", "/api/codex/session", cs_api_create, CS_ROUTE_MUTATION},
    {"POST", "/api/codex/continue", cs_api_continue, CS_ROUTE_MUTATION},
    {"GET", "/api/codex/turn/:id", cs_api_turn, 0},
    {"POST", "/api/codex/turn/:id/approval", cs_api_approval, CS_ROUTE_MUTATION},
    {"GET", "/api/codex/session/:id", cs_api_session, 0},
    {"DELETE", "/api/codex/session/:id", cs_api_delete, CS_ROUTE_MUTATION},
    {"POST", "/api/codex/session/:id/cancel", cs_api_cancel, CS_ROUTE_MUTATION},
    {"POST", "/api/codex/session/:id/restore", cs_api_restore, CS_ROUTE_MUTATION},
    {"GET", "/api/codex/sessions", cs_api_sessions, 0},
    {"GET", "/api/codex/events", cs_api_events, CS_ROUTE_STREAM},
    {"GET", "/api/codex/sync", cs_api_sync, 0},
    {"POST", "/api/codex/sync", cs_api_sync_now, CS_ROUTE_MUTATION},
    {"GET", "/api/codex/stats", cs_api_stats, 0},
    {"POST", "/api/codex/cleanup", cs_api_cleanup, CS_ROUTE_MUTATION},
    {"POST", "/mcp", cs_api_mcp_post, CS_ROUTE_MUTATION | CS_ROUTE_MCP},
    {"GET", "/mcp", cs_api_mcp_get, CS_ROUTE_MCP},
    {"DELETE", "/mcp", cs_api_mcp_delete, CS_ROUTE_MUTATION | CS_ROUTE_MCP},
    {"GET", "/api/codex/ws", cs_api_ws, 0},
    {"GET", "/api/codex/openapi.json", cs_api_openapi, 0},
    {"GET", "/health", cs_api_health, 0},
    {"GET", "/healthz", cs_api_healthz, CS_ROUTE_OPEN},
    {NULL, NULL, NULL, 0},
};

/* Whether @path is of the shape @pattern; its :id goes to @param. */
static bool matches(const char *pattern, const char *path, char param[CS_PARAM_MAX])
{
    const char *hole = strstr(pattern, ":id");
    size_t before, len;

    if (hole == NULL)
        return strcmp(pattern, path) == 0;
    before = (size_t)(hole - pattern);
    if (strncmp(pattern, path, before) != 0)
        return false;
    len = strcspn(path + before, "/");
    if (len == 0 || strcmp(hole + 3, path + before + len) != 0)
        return false;
    if (len >= CS_PARAM_MAX) /* no id is that long: what is left of it is not found either */
        len = CS_PARAM_MAX - 1;
    memcpy(param, path + before, len);
    param[len] = '\0';
    return true;
}

const struct cs_route *cs_route_find(const char *path, const char *method, char param[CS_PARAM_MAX])
{
    const struct cs_route *route;

    for (route = cs_routes; route->method != NULL; route++)
        if (strcmp(route->method, method) == 0 && matches(route->path, path, param))
            return route;
    return NULL;
}

static void allow(struct cs_request *rq, const char *method)
{
    size_t len = strlen(rq->allow);

    snprintf(rq->allow + len, sizeof rq->allow - len, "%s%s", len > 0 ? ", " : "", method);
}

enum cs_status cs_route_missing(struct cs_request *rq, struct cs_err *err)
{
    const struct cs_route *route;

    for (route = cs_routes; route->method != NULL; route++) {
        if (!matches(route->path, rq->info->request_uri, rq->param))
            continue;
        allow(rq, route->method);
        if (strcmp(route->method, "GET") == 0)
            allow(rq, "HEAD");
    }
    if (rq->allow[0] != '\0')
        return cs_refuse(rq, 405, "method_not_allowed", "This path does not take this method", err);
    return cs_err_set(err, CS_NOT_FOUND, "route_not_found", "There is nothing at this path");
}
