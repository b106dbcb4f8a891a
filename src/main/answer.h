/* main/answer: an HTTP answer, and the server-sent events in it, read as its bytes come.
 *
 * Layer: main. No socket in it. A message is a whole JSON body or what one event of a stream
 * carries; it is handed on without line ends.
 */
#ifndef CS_MAIN_ANSWER_H
#define CS_MAIN_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/buf.h"

#define CS_ANSWER_ID_MAX 256

enum cs_answer_part {
    CS_ANSWER_HEAD,
    CS_ANSWER_PLAIN, /* a body without chunks */
    CS_ANSWER_CHUNK_SIZE,
    CS_ANSWER_CHUNK,
    CS_ANSWER_CHUNK_END,
    CS_ANSWER_TRAILER,
    CS_ANSWER_WHOLE,
};

struct cs_answer {
    int status;                     /* 0 until the head is there */
    bool stream;                    /* of events */
    char session[CS_ANSWER_ID_MAX]; /* Mcp-Session-Id; "" without one that can be sent back */
    char last_id[CS_ANSWER_ID_MAX]; /* of the newest event that had one */
    int64_t retry_ms;               /* as the stream asked for; -1: it did not */

    /* inner */
    void (*message)(void *arg, const char *text, size_t len);
    void *arg;
    enum cs_answer_part part;
    int64_t left;        /* bytes of the body or the chunk; -1: until the connection ends */
    bool chunked;        /* as the head says */
    struct cs_buf line;  /* of head, chunk sizes and trailer */
    struct cs_buf field; /* line of an event */
    struct cs_buf data;  /* of an event, or the body */
};

/** Ready for an answer whose messages have at most @max bytes and go to @message. */
void cs_answer_init(struct cs_answer *answer, size_t max,
                    void (*message)(void *arg, const char *text, size_t len), void *arg);
void cs_answer_fini(struct cs_answer *answer);

/** Take the next bytes. What follows a whole answer is ignored. CS_INVALID: it is no HTTP;
 * CS_TOO_LARGE, CS_NO_MEM. */
CS_MUST_USE enum cs_status cs_answer_feed(struct cs_answer *answer, const char *data, size_t len,
                                          struct cs_err *err);
/** The connection has ended. Returns whether the answer is whole. */
bool cs_answer_end(struct cs_answer *answer);

#endif
