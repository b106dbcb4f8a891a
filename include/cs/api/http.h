/* api/http: the HTTP server: REST routes over core.
 *
 * Layer: api; civetweb.h is included in src/api alone. Requests are served on threads of its own;
 * the functions here are for the one thread that owns the server.
 */
#ifndef CS_API_HTTP_H
#define CS_API_HTTP_H

#include "cs/base/err.h"
#include "cs/core/core.h"

struct cs_http;
struct cs_mcp_table;

/** Strings are borrowed for the call, the rest until cs_http_stop(). */
struct cs_http_options {
    struct cs_core *core;
    const char *token_path; /* file with the bearer token; created (0600, 32 random bytes in hex)
                               when missing */
    const char *version;
    const struct cs_mcp_table *mcp; /* what /mcp offers; NULL: Codex */
    const char
        *notice; /* shown in /health: e.g. that a damaged database was quarantined; or NULL */
};

/** Bind and serve. The address and port come from the settings. CS_DENIED when a non-loopback host
 * lacks allow_remote; CS_CONFLICT, code "port_in_use". */
CS_MUST_USE enum cs_status cs_http_start(const struct cs_http_options *options,
                                         struct cs_http **out_http, struct cs_err *err);
/** The port in use (useful with port 0). */
int cs_http_port(const struct cs_http *http);
/** Stop accepting: requests under way go on, new ones get 503 shutting_down. */
void cs_http_quiesce(struct cs_http *http);
/** Wait for workers and free. NULL is a no-op. */
void cs_http_stop(struct cs_http *http);

/** Read the token, creating it when missing (the verb `token` uses it too). @out has room for 65
 * bytes. */
CS_MUST_USE enum cs_status cs_token_load(const char *path, char out[65], struct cs_err *err);

#endif
