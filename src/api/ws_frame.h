/* api/ws_frame: WebSocket frames (RFC 6455): bytes in, whole messages out.
 *
 * Layer: api, private. civetweb's own reader takes frames of any size and without a mask, and waits
 * for the rest of one without a deadline: it is not used. A reader serves one thread.
 */
#ifndef CS_API_WS_FRAME_H
#define CS_API_WS_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/buf.h"
#include "cs/base/err.h"

#define CS_WS_HEAD_MAX    10  /* bytes of a header that the server sends */
#define CS_WS_CONTROL_MAX 125 /* bytes of payload of a control frame */
#define CS_WS_ACCEPT_MAX  29  /* of the answer to a handshake's key, with its NUL */

/** Section 11.8. */
enum cs_ws_op {
    CS_WS_CONTINUATION = 0,
    CS_WS_TEXT = 1,
    CS_WS_BINARY = 2,
    CS_WS_CLOSE = 8,
    CS_WS_PING = 9,
    CS_WS_PONG = 10,
};

/** Section 7.4.1. */
enum cs_ws_code {
    CS_WS_NORMAL = 1000,
    CS_WS_GOING_AWAY = 1001,
    CS_WS_PROTOCOL_ERROR = 1002,
    CS_WS_UNSUPPORTED = 1003,
    CS_WS_NO_CODE = 1005, /* never sent */
    CS_WS_BAD_DATA = 1007,
    CS_WS_POLICY = 1008,
    CS_WS_TOO_BIG = 1009,
    CS_WS_INTERNAL = 1011,
};

/** What has come in. */
enum cs_ws_got {
    CS_WS_GOT_NOTHING, /* more bytes are needed */
    CS_WS_GOT_TEXT,    /* reader->message: a whole text message, valid UTF-8 without NUL */
    CS_WS_GOT_PING,    /* reader->control */
    CS_WS_GOT_PONG,
    CS_WS_GOT_CLOSE, /* reader->code: the other side's, CS_WS_NO_CODE without one */
    CS_WS_GOT_ERROR, /* reader->code and reader->why: what to close with */
};

struct cs_ws_reader {
    struct cs_buf message; /* its `max` is the cap of a message; valid until the next call */
    unsigned char control[CS_WS_CONTROL_MAX]; /* payload of the last control frame */
    size_t control_len;
    int code;
    const char *why; /* static */

    unsigned char head[14]; /* of the frame under way */
    size_t head_len;
    bool in_payload;
    uint64_t left;   /* of its payload */
    unsigned masked; /* bytes unmasked so far, modulo 4 */
    bool in_message; /* a fragmented message is under way */
    bool given;      /* `message` was handed out */
};

/** @max: the cap of a message, in bytes. */
void cs_ws_reader_init(struct cs_ws_reader *reader, size_t max);
void cs_ws_reader_fini(struct cs_ws_reader *reader);
/** Take bytes from the peer, up to the next thing to be acted upon; *out_used counts those taken.
 * After CS_WS_GOT_CLOSE and CS_WS_GOT_ERROR no more may be given. */
enum cs_ws_got cs_ws_read(struct cs_ws_reader *reader, unsigned char *data, size_t len,
                          size_t *out_used);
/** Whether something has begun that has not arrived whole. */
bool cs_ws_partial(const struct cs_ws_reader *reader);
/** The header of an unfragmented frame of @len bytes; returns its length. */
size_t cs_ws_head(unsigned char out[CS_WS_HEAD_MAX], enum cs_ws_op op, size_t len);
/** The answer to a handshake's Sec-WebSocket-Key. CS_INVALID, code "invalid_websocket_key", unless
 * it stands for 16 bytes. */
CS_MUST_USE enum cs_status cs_ws_accept(const char *key, char out[CS_WS_ACCEPT_MAX],
                                        struct cs_err *err);

#endif
