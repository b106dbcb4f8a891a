/* mcp/mcp: the Model Context Protocol, without a transport: one message in, what is to be answered
 * out.
 *
 * Layer: mcp, between core and api. One cs_mcp per server; any thread. A request is answered on the
 * thread that brings it, which may take as long as a turn does.
 *
 * Three revisions are spoken. 2025-06-18 and 2025-11-25 have sessions (`initialize`, then a session
 * id on each message); 2026-07-28 has none: each request says by itself what the client can do.
 */
#ifndef CS_MCP_MCP_H
#define CS_MCP_MCP_H

#include <stdbool.h>
#include <stddef.h>

#include "cs/base/buf.h"
#include "cs/base/err.h"

struct cs_core;
struct cs_mcp;
struct cs_mcp_table;

#define CS_MCP_SESSION_MAX 64 /* of a session id, with its NUL */

/** Serve @table (NULL: Codex) over @core. @table and @version outlive the cs_mcp. */
CS_MUST_USE enum cs_status cs_mcp_new(struct cs_core *core, const struct cs_mcp_table *table,
                                      const char *version, struct cs_mcp **out_mcp,
                                      struct cs_err *err);
/** When no call is under way. NULL is a no-op. */
void cs_mcp_free(struct cs_mcp *mcp);

/** What a transport says beside the message: HTTP's headers, NULL where absent. Borrowed. */
struct cs_mcp_head {
    const char *session;    /* Mcp-Session-Id */
    const char *revision;   /* MCP-Protocol-Version */
    const char *method;     /* Mcp-Method */
    const char *name;       /* Mcp-Name */
    const char *last_event; /* Last-Event-ID */
};

/** A request's way back while it is under way. Called on the thread that brought the request. */
struct cs_mcp_stream {
    /* Send a message ahead of the answer; NULL when the client takes the answer alone. @event (may
     * be NULL) is the id from which the stream can be resumed; it may come with no message. False:
     * the client is gone. */
    bool (*send)(void *arg, const char *event, const char *json, size_t len);
    /* Find out whether the client is still there. NULL: it cannot be known. */
    bool (*beat)(void *arg);
    /* The thread is going to wait for long: CS_BUSY when too many do. NULL: it may. */
    enum cs_status (*enter)(void *arg, struct cs_err *err);
    void (*leave)(void *arg);
    void *arg;
};

/** What is to be answered. */
struct cs_mcp_answer {
    int status;                       /* of HTTP */
    struct cs_buf json;               /* the response; empty: none is due, or the client is gone */
    char session[CS_MCP_SESSION_MAX]; /* issued by this message; "" for none */
};
void cs_mcp_answer_fini(struct cs_mcp_answer *answer);

/**
 * Take one message. Whatever it is, there is an answer: @out_answer is filled also when memory is
 * short (then json is empty and status 503). Caller: cs_mcp_answer_fini().
 */
void cs_mcp_post(struct cs_mcp *mcp, const struct cs_mcp_head *head, const char *text, size_t len,
                 const struct cs_mcp_stream *stream, struct cs_mcp_answer *out_answer);

/**
 * A stream of a session, for what is said without being asked; or, with head->last_event, the rest
 * of the stream that broke. Returns when the stream is over. *out_status is of HTTP: 200 when
 * something was or could have been sent, else nothing was and this is the answer.
 */
void cs_mcp_listen(struct cs_mcp *mcp, const struct cs_mcp_head *head,
                   const struct cs_mcp_stream *stream, struct cs_mcp_answer *out_answer);

/** End a session; calls under way go on. The status of HTTP. */
int cs_mcp_end(struct cs_mcp *mcp, const struct cs_mcp_head *head);

#endif
