/* main/ask: a request to the daemon that runs on this host.
 *
 * Layer: main.
 */
#ifndef CS_MAIN_ASK_H
#define CS_MAIN_ASK_H

#include "cs/base/json.h"

struct cs_ask {
    int port;
    const char *method, *path;
    const char *body; /* JSON; NULL: none */
    int64_t wait_ms;  /* for the whole answer */
};

/** Send it over loopback. *out_answer is the body, to be freed, whatever the HTTP status: its
 * member `success` tells. CS_UNAVAILABLE: nothing that makes sense came in time. */
CS_MUST_USE enum cs_status cs_ask(const struct cs_ask *ask, struct cs_json **out_answer,
                                  struct cs_err *err);

#endif
