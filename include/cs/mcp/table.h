/* mcp/table: what a server offers: definitions as JSON, and a function for each.
 *
 * Layer: mcp. The definitions are one JSON object, as clients are to see them:
 *   {"instructions": …, "capabilities": {…}, "tools": […], "resources": […],
 *    "resourceTemplates": […], "prompts": […]}
 */
#ifndef CS_MCP_TABLE_H
#define CS_MCP_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/err.h"
#include "cs/base/json.h"

struct cs_core;
struct cs_embedded;
struct cs_mcp;
struct cs_mcp_call;

/**
 * Answer @call: write the members of the result with cs_mcp_result(call). On failure what was
 * written is forgotten: of a tool, @err becomes a result with isError that the model gets to read;
 * of anything else, an error of the protocol. cs_mcp_refuse() makes it one in every case.
 */
typedef enum cs_status (*cs_mcp_handler)(struct cs_mcp_call *call, struct cs_err *err);

struct cs_mcp_entry {
    const char *name; /* of a tool or prompt as it is defined; ends with NULL */
    cs_mcp_handler handler;
    bool task; /* a tool that can be called as a task */
};

struct cs_mcp_table {
    const struct cs_embedded *definitions; /* the first of them */
    const char *name, *title;              /* of the server */
    const struct cs_mcp_entry *tools;      /* arguments are checked against the inputSchema first */
    const struct cs_mcp_entry *prompts;    /* required arguments likewise */
    cs_mcp_handler list_resources;         /* NULL: the definitions alone */
    cs_mcp_handler read_resource;          /* cs_mcp_name() is the URI */
    cs_mcp_handler complete;               /* write "values" and "hasMore" */
    const char *(*advise)(const char *code); /* what to do about a tool's failure, or NULL */
};

/** Codex: sessions of core as tools and resources. */
extern const struct cs_mcp_table cs_mcp_codex;

/* ---- reading a call ---- */

struct cs_core *cs_mcp_core(const struct cs_mcp_call *call);
struct cs_mcp *cs_mcp_server(const struct cs_mcp_call *call);
/** The tool's or prompt's name, or the resource's URI. */
const char *cs_mcp_name(const struct cs_mcp_call *call);
const struct cs_json *cs_mcp_params(const struct cs_mcp_call *call);
/** params.arguments: an object; NULL when there are none. */
const struct cs_json *cs_mcp_args(const struct cs_mcp_call *call);
/** Argument @name as a string, or NULL. */
const char *cs_mcp_arg(const struct cs_mcp_call *call, const char *name);
/** Whether the client declared capability @name ("elicitation", "sampling", "roots", or the name of
 * an extension). */
bool cs_mcp_can(const struct cs_mcp_call *call, const char *name);
/** Whether each request stands alone: questions then go out as a result (input_required). */
bool cs_mcp_stateless(const struct cs_mcp_call *call);
/** Whether the client has cancelled the call, or, where that means the same, has gone. */
bool cs_mcp_cancelled(struct cs_mcp_call *call);

/* ---- answering it ---- */

/** Where the members of the result go. */
struct cs_jsonw *cs_mcp_result(struct cs_mcp_call *call);
/** Write resultType, where it is not "complete". */
void cs_mcp_result_type(struct cs_mcp_call *call, const char *type);
/** Write `content` as one text. */
void cs_mcp_text(struct cs_mcp_call *call, const char *text, size_t len);
/** Make the answer the JSON-RPC error @code; @data (may be NULL) is JSON. Returns CS_INVALID. */
enum cs_status cs_mcp_refuse(struct cs_mcp_call *call, int code, const char *data,
                             struct cs_err *err, const char *fmt, ...) CS_PRINTF(5, 6);
/** The error of a capability, or with a slash in its name an extension, that the client did not
 * declare. */
enum cs_status cs_mcp_refuse_capability(struct cs_mcp_call *call, const char *capability,
                                        struct cs_err *err);

/* ---- on the way ---- */

/** Tell how far it is, if the client asked to be told: @progress grows with each call. @total 0:
 * unknown. @message may be NULL. */
void cs_mcp_progress(struct cs_mcp_call *call, int64_t progress, int64_t total,
                     const char *message);
/** Log to the client, if it wants to be told of @level ("info", …). */
void cs_mcp_log(struct cs_mcp_call *call, const char *level, const char *text);
/** Ask the client (with sessions only): CS_OK and its reply, whose member "result" is an object and
 * which is to be freed; CS_UNAVAILABLE when it cannot be asked, CS_UPSTREAM when it answers with an
 * error, CS_TIMEOUT, CS_CANCELLED. @params is JSON. */
CS_MUST_USE enum cs_status cs_mcp_ask(struct cs_mcp_call *call, const char *method,
                                      const char *params, int64_t deadline,
                                      struct cs_json **out_reply, struct cs_err *err);
/** Wait, but not past a cancellation: whether the time passed in full. */
bool cs_mcp_pause(struct cs_mcp_call *call, int64_t ms);

/** Sign @text, so that a client can be trusted to bring it back: "text.signature" is appended. */
CS_MUST_USE enum cs_status cs_mcp_seal(struct cs_mcp *mcp, const char *text, struct cs_buf *out,
                                       struct cs_err *err);
/** Whether @sealed is of this server; its text goes to @out (of @cap bytes). */
bool cs_mcp_unseal(struct cs_mcp *mcp, const char *sealed, char *out, size_t cap);

enum cs_mcp_list { CS_MCP_TOOLS = 1, CS_MCP_PROMPTS = 2, CS_MCP_RESOURCES = 4 };
/** Say to all who listen that a list has changed. */
void cs_mcp_changed(struct cs_mcp *mcp, enum cs_mcp_list list);

#endif
