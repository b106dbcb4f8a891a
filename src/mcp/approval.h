/* mcp/approval: what Codex asks, asked of an MCP client. Layer: mcp, private. */
#ifndef CS_MCP_APPROVAL_H
#define CS_MCP_APPROVAL_H

#include "priv.h"

/** Ask the client what @asked (data of approval.requested) says, unless that is open already. */
void cs_approval_ask(struct cs_mcp_call *call, const struct cs_json *asked);
/** A question was answered elsewhere (data of approval.resolved): take it back. */
void cs_approval_settle(struct cs_mcp_call *call, const struct cs_json *resolved);
/** Pass on to turn @tid what the client has answered by now. */
void cs_approval_answer(struct cs_mcp_call *call, const char *tid);

/** Whether this client is asked by the result of its call. */
bool cs_approval_by_result(const struct cs_mcp_call *call);
/** Answer with what turn @tid asks (an array as of struct cs_turn_view). */
CS_MUST_USE enum cs_status cs_approval_result(struct cs_mcp_call *call, const char *tid,
                                              const struct cs_json *asked, struct cs_err *err);
/** Write "inputRequests": what is asked (the same array). */
CS_MUST_USE enum cs_status cs_approval_requests(struct cs_jsonw *w, const struct cs_json *asked,
                                                struct cs_err *err);
/** Pass on to turn @tid what the client answers: an object, of whose members those count that
 * answer an open question. */
void cs_approval_take(struct cs_mcp_call *call, const char *tid, const struct cs_json *given);
/** If the call came again with answers: pass them on, and *out_tid is its turn; else "". */
CS_MUST_USE enum cs_status cs_approval_again(struct cs_mcp_call *call, char out_tid[CS_UUID_MAX],
                                             struct cs_err *err);

#endif
