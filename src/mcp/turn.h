/* mcp/turn: a turn of Codex as the call of a tool. Layer: mcp, private. */
#ifndef CS_MCP_TURN_H
#define CS_MCP_TURN_H

#include "priv.h"

/** Begin the turn of @request and answer with its result, or with a task if the call is one. */
CS_MUST_USE enum cs_status cs_turn_call(struct cs_mcp_call *call, struct cs_turn_request *request,
                                        struct cs_err *err);
/** Begin the turn of @request, and answer with its thread while it runs. */
CS_MUST_USE enum cs_status cs_turn_background(struct cs_mcp_call *call,
                                              struct cs_turn_request *request, struct cs_err *err);
/** Wait until @deadline for the end of a turn that is running in the conversation @identifier, if
 * there is one. CS_CANCELLED when the call is over before; CS_BUSY when too many wait already. */
CS_MUST_USE enum cs_status cs_turn_wait(struct cs_mcp_call *call, const char *identifier,
                                        int64_t deadline, struct cs_err *err);
/** Wait for turn @tid, telling the client of its progress, and answer with its result. CS_CANCELLED
 * when the call is over before; CS_BUSY when too many wait already. */
CS_MUST_USE enum cs_status cs_turn_answer(struct cs_mcp_call *call, const char *tid,
                                          struct cs_err *err);
/** Whether the call is to be answered with a task, if its tool can be one. */
bool cs_task_wanted(const struct cs_mcp_call *call);
/** Whether the call says that it must be (2025-11-25). */
bool cs_task_asked(const struct cs_mcp_call *call);
/** Answer with the task that turn @tid is. */
CS_MUST_USE enum cs_status cs_task_begun(struct cs_mcp_call *call, const char *tid,
                                         struct cs_err *err);
/** Write the members of a task as tasks/get tells them. CS_NOT_FOUND; after another failure @w
 * holds a part. */
CS_MUST_USE enum cs_status cs_task_write(const struct cs_mcp_call *call, struct cs_jsonw *w,
                                         const char *tid, struct cs_err *err);
/** Write the members of the result of a tool whose turn has ended. */
void cs_turn_result(struct cs_jsonw *out, const struct cs_turn_view *view);
/** Write which task the result is of. */
void cs_task_name(struct cs_mcp_call *call, const char *tid);

#endif
