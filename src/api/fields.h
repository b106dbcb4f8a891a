/* api/fields: the members of a turn's request body.
 *
 * Layer: api, private. Knows neither civetweb nor a connection: tests and the fuzzer call it alone.
 */
#ifndef CS_API_FIELDS_H
#define CS_API_FIELDS_H

#include "cs/base/buf.h"
#include "cs/base/json.h"
#include "cs/core/core.h"

/** Fill @out from @body (an object; NULL reads as an empty one). The strings are borrowed of @body
 * or @joined, which gets an array of contexts as one text. Unknown members are left alone, null is
 * as good as absent, and a member of the wrong type is CS_INVALID, code "invalid_<member>".
 * Idempotency is the caller's. */
CS_MUST_USE enum cs_status cs_fields_read(const struct cs_json *body, bool continued,
                                          struct cs_turn_request *out, struct cs_buf *joined,
                                          struct cs_err *err);
/** Member "decision" of @body: "approve" or "decline", else CS_INVALID, code "invalid_decision". */
CS_MUST_USE enum cs_status cs_decision_read(const struct cs_json *body, bool *out_approve,
                                            struct cs_err *err);

#endif
