/* store/search: conversations that contain a text.
 *
 * Layer: store. There is no index of words: sessions are looked through one by one, newest first,
 * for as long as the caller gives.
 */
#ifndef CS_STORE_SEARCH_H
#define CS_STORE_SEARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/store/session.h"

#define CS_SNIPPET_MAX 200 /* bytes, with the NUL */

struct cs_search {
    const char *text;  /* UTF-8; whatever the case of ASCII letters; NULL or "": every session */
    bool archived;     /* also sessions in the archive */
    int64_t before_id; /* keyset cursor: rows with a smaller id; 0 starts at the newest */
    unsigned limit;    /* 1 … 500 */
    int64_t deadline;  /* mono ms; at least one session is looked at */
};

struct cs_finding {
    struct cs_session session;
    char host[64];                /* where its newest message was written; "" if not told */
    char snippet[CS_SNIPPET_MAX]; /* around the text, else the beginning of the first prompt */
};

struct cs_findings {
    struct cs_finding *items; /* newest first */
    size_t count;
    int64_t next_before_id; /* where to go on (also when the time was over), or 0 at the end */
};
void cs_findings_fini(struct cs_findings *findings);

/** Look in titles and messages. Caller: cs_findings_fini(). */
CS_MUST_USE enum cs_status cs_search(struct cs_db *db, const struct cs_search *search,
                                     struct cs_findings *out_findings, struct cs_err *err);

#endif
