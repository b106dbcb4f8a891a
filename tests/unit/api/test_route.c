#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "priv.h"

extern const struct cs_embedded cs_openapi[];

struct asked {
    struct mg_request_info info;
    struct cs_request rq;
    struct cs_err err;
    enum cs_status status; /* of cs_route_missing(), when there is no route */
};

static void ask(struct asked *a, const char *method, const char *path)
{
    memset(a, 0, sizeof *a);
    a->info.request_method = method;
    a->info.request_uri = path;
    a->rq.info = &a->info;
    a->rq.head = strcmp(method, "HEAD") == 0;
    a->rq.route = cs_route_find(path, cs_req_method(&a->rq), a->rq.param);
    a->status = a->rq.route != NULL ? CS_OK : cs_route_missing(&a->rq, &a->err);
}

static void every_path_finds_its_handler(void **state)
{
    struct asked a;

    (void)state;
    ask(&a, "GET", "/api/codex/session/0b3c-1");
    assert_int_equal(a.status, CS_OK);
    assert_ptr_equal(a.rq.route->handler, cs_api_session);
    assert_string_equal(a.rq.param, "0b3c-1");
    ask(&a, "DELETE", "/api/codex/session/0b3c-1");
    assert_ptr_equal(a.rq.route->handler, cs_api_delete);
    ask(&a, "POST", "/api/codex/session/x/cancel");
    assert_ptr_equal(a.rq.route->handler, cs_api_cancel);
    assert_string_equal(a.rq.param, "x");
    ask(&a, "POST", "/api/codex/session");
    assert_ptr_equal(a.rq.route->handler, cs_api_create);
    ask(&a, "HEAD", "/healthz");
    assert_ptr_equal(a.rq.route->handler, cs_api_healthz);
}

static void other_paths_find_nothing(void **state)
{
    static const char *const paths[] = {"/",
                                        "/api",
                                        "/api/codex/history",
                                        "/api/codex/history/",
                                        "/api/codex/history/a/b",
                                        "/health/",
                                        "/HEALTH",
                                        "//health",
                                        "/api/codex/session//cancel",
                                        "/healthz2",
                                        "/api/codex/session/x/cancel/"};
    struct asked a;

    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        ask(&a, "GET", paths[i]);
        assert_int_equal(a.status, CS_NOT_FOUND);
        assert_string_equal(a.err.code, "route_not_found");
    }
}

static void a_wrong_method_is_told_the_right_ones(void **state)
{
    static const struct {
        const char *method, *path, *allow;
    } cases[] = {
        {"PUT", "/api/codex/session/x", "GET, HEAD, DELETE"},
        {"HEAD", "/api/codex/cleanup", "POST"},
        {"OPTIONS", "/health", "GET, HEAD"},
        {"get", "/health", "GET, HEAD"},
    };
    struct asked a;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ask(&a, cases[i].method, cases[i].path);
        assert_int_not_equal(a.status, CS_OK);
        assert_int_equal(a.rq.status, 405);
        assert_string_equal(a.rq.allow, cases[i].allow);
    }
}

static void a_long_id_is_cut_not_overrun(void **state)
{
    char path[1024] = "/api/codex/history/";
    struct asked a;

    (void)state;
    memset(path + strlen(path), 'a', 900);
    ask(&a, "GET", path);
    assert_int_equal(a.status, CS_OK);
    assert_int_equal(strlen(a.rq.param), CS_PARAM_MAX - 1);
}

static void mutations_and_only_they_read_bodies(void **state)
{
    (void)state;
    for (const struct cs_route *route = cs_routes; route->method != NULL; route++)
        assert_int_equal((route->flags & CS_ROUTE_MUTATION) != 0,
                         strcmp(route->method, "GET") != 0);
}

/* ---- the document and the table say the same ---- */

static struct cs_json *document(void)
{
    struct cs_json *root = NULL;

    assert_int_equal(cs_json_parse((const char *)cs_openapi[0].data, cs_openapi[0].len,
                                   cs_openapi[0].len, &root, NULL),
                     CS_OK);
    return root;
}

/* "/a/:id/b" as the document writes it. */
static void document_path(const char *path, char out[128])
{
    const char *hole = strstr(path, ":id");

    if (hole == NULL)
        (void)snprintf(out, 128, "%s", path);
    else
        (void)snprintf(out, 128, "%.*s{id}%s", (int)(hole - path), path, hole + 3);
}

static void every_route_is_in_the_document(void **state)
{
    struct cs_json *root = document();

    (void)state;
    for (const struct cs_route *route = cs_routes; route->method != NULL; route++) {
        const struct cs_json *operation;
        char path[128], method[8] = "";

        if ((route->flags & CS_ROUTE_MCP) != 0)
            continue;
        document_path(route->path, path);
        for (size_t i = 0; route->method[i] != '\0'; i++)
            method[i] = (char)(route->method[i] | 0x20);
        operation = cs_json_path(root, "paths", path, method, NULL);
        if (operation == NULL)
            fail_msg("%s %s is not in schema/openapi.yaml", route->method, route->path);
        assert_non_null(cs_json_get(operation, "operationId"));
        assert_int_equal(cs_json_get(operation, "security") != NULL,
                         (route->flags & CS_ROUTE_OPEN) != 0);
    }
    cs_json_free(root);
}

static bool count_operation(const char *key, const struct cs_json *value, void *arg)
{
    (void)value;
    if (strcmp(key, "parameters") != 0)
        ++*(int *)arg;
    return true;
}

static bool count_path(const char *key, const struct cs_json *value, void *arg)
{
    (void)key;
    return cs_json_each(value, count_operation, arg);
}

static void nothing_else_is_in_the_document(void **state)
{
    struct cs_json *root = document();
    const struct cs_route *route;
    int operations = 0, routes = 0;

    (void)state;
    (void)cs_json_each(cs_json_get(root, "paths"), count_path, &operations);
    for (route = cs_routes; route->method != NULL; route++)
        routes += (route->flags & CS_ROUTE_MCP) == 0;
    assert_int_equal(operations, routes);
    cs_json_free(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_path_finds_its_handler),
        cmocka_unit_test(other_paths_find_nothing),
        cmocka_unit_test(a_wrong_method_is_told_the_right_ones),
        cmocka_unit_test(a_long_id_is_cut_not_overrun),
        cmocka_unit_test(mutations_and_only_they_read_bodies),
        cmocka_unit_test(every_route_is_in_the_document),
        cmocka_unit_test(nothing_else_is_in_the_document),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
