/* What the files of this module share.
 *
 * Layer: mirror, private.
 */
#ifndef CS_MIRROR_PRIV_H
#define CS_MIRROR_PRIV_H

#include <netdb.h>
#include <stdatomic.h>

#include <hiredis/hiredis.h>

#include "cs/base/buf.h"
#include "cs/base/clock.h"
#include "cs/mirror/redis.h"

/* ---- Errors (error.c) ------------------------------------------------------------------------ */

enum cs_error {
    CS_ERROR_TIMEOUT,
    CS_ERROR_LOST,
    CS_ERROR_UNREACHABLE,
    CS_ERROR_PROTOCOL,
    CS_ERROR_AUTH,
    CS_ERROR_TLS,
    CS_ERROR_READONLY,
    CS_ERROR_FULL,
    CS_ERROR_LARGE,
    CS_ERROR_NOSCRIPT,
    CS_ERROR_REFUSED,
    CS_ERROR_QUEUE,
    CS_ERROR_STOPPED,
};

/* Record "@doing: @detail" (@detail may be NULL) with the status and code of @error. */
enum cs_status cs_error_set(struct cs_err *err, enum cs_error error, const char *doing,
                            const char *detail);
/* What an error reply means. */
enum cs_error cs_error_of_reply(const char *text);

/* ---- Wires (wire.c, resolve.c, tls.c) -------------------------------------------------------- */

/* Wait until @fd is ready for @events: CS_OK, CS_TIMEOUT, CS_CANCELLED (@wake_fd is readable) or
 * CS_IO. Without any of these at hand, poll() gets the time that is left. */
CS_MUST_USE enum cs_status cs_wait_fd(int fd, short events, int wake_fd, int64_t deadline,
                                      struct cs_err *err);

/* The addresses of the endpoint's host and port, for freeaddrinfo(). The look-up runs on a thread
 * of its own, which is left to itself when the deadline comes first. */
CS_MUST_USE enum cs_status cs_resolve(const struct cs_dial *dial, struct addrinfo **out_list,
                                      struct cs_err *err);

/* Put TLS on @lower and finish the handshake, the peer verified. Steals @lower even on failure. */
CS_MUST_USE enum cs_status cs_tls_wrap_take(struct cs_wire *lower, const struct cs_dial *dial,
                                            struct cs_wire **out_wire, struct cs_err *err);

/* ---- Replies (reply.c) ----------------------------------------------------------------------- */

/* hiredis stops at eight levels, the reply itself included. */
#define CS_GATE_DEPTH 7

/* Finds where a reply ends and refuses it as soon as it passes a cap, before any of it is parsed.
 * It looks at each byte once and keeps none but those of a length. */
struct cs_gate {
    size_t bytes_max, items_max;
    size_t bytes, items;         /* of the reply so far; items: also those that arrays promise */
    int64_t left[CS_GATE_DEPTH]; /* elements that are missing at each level */
    unsigned depth;              /* open arrays */
    enum cs_gate_state {
        CS_GATE_TYPE,
        CS_GATE_NUMBER,
        CS_GATE_LINE,
        CS_GATE_BULK,
        CS_GATE_END
    } state;
    char type;       /* of the element being read */
    bool cr;         /* the line's last byte was a CR */
    char digits[21]; /* of a length or an integer */
    unsigned ndigits;
    size_t line;  /* bytes of a line so far */
    size_t bulk;  /* bytes of a bulk string that are missing */
    unsigned end; /* bytes of its final CR LF that were seen */
};
void cs_gate_init(struct cs_gate *gate, size_t bytes_max, size_t items_max);
/* Read on: *out_used bytes of @data belong to the reply; *out_whole: it ends with them, and the
 * gate is ready for the next one. CS_CORRUPT or CS_TOO_LARGE: refused, see @err. */
CS_MUST_USE enum cs_status cs_gate_feed(struct cs_gate *gate, const char *data, size_t len,
                                        size_t *out_used, bool *out_whole, struct cs_err *err);

/* ---- The client (conn.c, script.c) ----------------------------------------------------------- */

enum cs_script { CS_SCRIPT_PUSH, CS_SCRIPT_PUT, CS_SCRIPT_DEL, CS_SCRIPT_LEASE, CS_SCRIPTS };

/* Whether the server takes the header that lets scripts of known keys run beside others. */
enum cs_headers { CS_HEADERS_UNKNOWN, CS_HEADERS_FAST, CS_HEADERS_PLAIN };

/* What this connection's server has of a script. */
struct cs_script_slot {
    char sha[41]; /* "" until it was loaded once */
    bool loaded;  /* false: the next call carries the text */
};

/* An error reply was taken: NOSCRIPT makes the next call of each script carry its text. */
void cs_scripts_heed(struct cs_redis *redis, const struct cs_reply *reply);

struct cs_redis {
    struct cs_redis_options options; /* defaults filled in */
    struct cs_wire *wire;            /* NULL: closed */
    redisReader *reader;             /* NULL: closed */
    struct cs_gate gate;
    struct cs_buf out; /* commands; the first `written` bytes are written */
    size_t written;
    size_t queued; /* commands in `out` */
    size_t owed;   /* replies */
    bool hung_up; /* the server did, while we wrote: it may have said why, and nothing else comes */
    char *in;     /* IN_SIZE bytes: read, not yet fed */
    size_t in_pos, in_len;
    int wake_fd; /* eventfd */
    struct cs_script_slot scripts[CS_SCRIPTS];
    enum cs_headers headers;
    _Atomic uint64_t connects, commands, bytes_sent, bytes_received;
};

#endif
