/* mirror/redis: a client of one Redis server: a pipeline of commands and replies over a wire.
 *
 * Layer: mirror; hiredis and OpenSSL are included in src/mirror alone. A cs_redis serves one thread
 * at a time, but for cs_redis_interrupt() and cs_redis_counts(). Deadlines are cs_mono_ms() values.
 *
 * What the server sends is hostile input: replies are measured before they are parsed, and one that
 * passes a cap, is not RESP2, or comes unasked ends the connection. A connection that fails is
 * closed at once and owes no replies any more; what was under way may or may not have been done.
 */
#ifndef CS_MIRROR_REDIS_H
#define CS_MIRROR_REDIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/err.h"
#include "cs/mirror/url.h"

/* ---- Errors ---------------------------------------------------------------------------------- */

/** What an error means for the next step. Every error of this module has one class, found from its
 * code by cs_redis_class(). */
enum cs_redis_class {
    CS_REDIS_FINE,     /* not an error */
    CS_REDIS_LOST,     /* time-out, reset, refused, not RESP, no memory here: outcome unknown;
                        * reconnect, resend */
    CS_REDIS_DENIED,   /* NOAUTH, WRONGPASS, NOPERM, TLS: wait for minutes or for other settings */
    CS_REDIS_READONLY, /* READONLY, MASTERDOWN, LOADING, BUSY: reconnect, re-resolve, resend */
    CS_REDIS_FULL,     /* OOM, MISCONF, quota: go on pulling, push later */
    CS_REDIS_LARGE,    /* the request is too large: split it, then leave a stub */
    CS_REDIS_NOSCRIPT, /* append the same call once more: it then carries the script's text */
    CS_REDIS_REFUSED,  /* any other error: set that session aside, go on with the rest */
    CS_REDIS_STOPPED, /* cs_redis_interrupt(), or out of memory here: nothing is wrong with Redis */
};

/** The class of an error that a function of this module recorded. */
enum cs_redis_class cs_redis_class(const struct cs_err *err);

/** "fine", "lost", "auth", "readonly", "full", "large", "noscript", "refused", "stopped". */
const char *cs_redis_class_name(enum cs_redis_class class);

/** Whether the connection must be made anew after an error of this class. */
bool cs_redis_class_reconnects(enum cs_redis_class class);

/** Waiting times with full jitter. One thread. */
struct cs_backoff {
    uint64_t random;          /* state of the generator */
    unsigned tries;           /* failures of `last` in a row */
    enum cs_redis_class last; /* class that was waited for last */
};
void cs_backoff_init(struct cs_backoff *backoff, uint64_t seed);
/** Milliseconds to wait after one more failure of @class: 0 … 0.5 s, then 0 … 1 s, up to 0 … 60 s;
 * DENIED 5 to 15 minutes; FULL up to 15 minutes; no wait for LARGE, NOSCRIPT, REFUSED, STOPPED. */
int64_t cs_backoff_next(struct cs_backoff *backoff, enum cs_redis_class class);
/** Something worked: the next failure is a first one. */
void cs_backoff_reset(struct cs_backoff *backoff);

/* ---- Wires ----------------------------------------------------------------------------------- */

/** A stream of bytes to a server: TCP, TLS, unix socket, or a test's faulty one. The functions wait
 * until something happened, until @deadline (CS_TIMEOUT) or until the wake-up descriptor they were
 * made with is readable (CS_CANCELLED; the wire stays usable). Other failures are final. */
struct cs_wire;
struct cs_wire_ops {
    /** Read 1 … @cap bytes. The end of the stream is CS_UNAVAILABLE. */
    enum cs_status (*read)(struct cs_wire *wire, void *to, size_t cap, int64_t deadline,
                           size_t *out_len, struct cs_err *err);
    /** Write 1 … @len bytes. A whole pipeline is offered in one call. After CS_CANCELLED the same
     * bytes are offered again. */
    enum cs_status (*write)(struct cs_wire *wire, const void *data, size_t len, int64_t deadline,
                            size_t *out_len, struct cs_err *err);
    /** Close and free. */
    void (*close)(struct cs_wire *wire);
};
struct cs_wire {
    const struct cs_wire_ops *ops;
};

/** How a wire is made. */
struct cs_dial {
    const struct cs_redis_endpoint *endpoint;
    const char *ca_file; /* PEM file of trusted CAs; NULL: the system's */
    int wake_fd;         /* becomes readable when waiting must end; -1: never */
    int64_t deadline;
};

/** Make a wire: look the name up, connect to each of its addresses in turn until one answers, and
 * for TLS finish the handshake: at least TLS 1.2, the server's name and certificate verified. */
CS_MUST_USE enum cs_status cs_wire_dial(const struct cs_dial *dial, struct cs_wire **out_wire,
                                        struct cs_err *err);

/* ---- Replies --------------------------------------------------------------------------------- */

struct cs_reply; /* opaque; free with cs_reply_free(). What it lends lives as long as it does. */

enum cs_reply_type {
    CS_REPLY_NIL,
    CS_REPLY_STRING, /* bulk strings and status lines */
    CS_REPLY_INT,
    CS_REPLY_ARRAY,
    CS_REPLY_ERROR,
};

/* Reading. Every argument may be NULL or of another type: then NIL, NULL, 0 or the default. */

enum cs_reply_type cs_reply_type(const struct cs_reply *reply);
/** The bytes of a string, followed by a NUL; they may hold NULs too. *out_len may be NULL. */
const char *cs_reply_string(const struct cs_reply *reply, size_t *out_len);
bool cs_reply_is(const struct cs_reply *reply, const char *text);
/** An integer, also one written as a decimal string. */
int64_t cs_reply_int(const struct cs_reply *reply, int64_t otherwise);
size_t cs_reply_size(const struct cs_reply *array);
const struct cs_reply *cs_reply_at(const struct cs_reply *array, size_t index);
/** CS_OK, or the error that the server answered, with its class's code. */
CS_MUST_USE enum cs_status cs_reply_check(const struct cs_reply *reply, struct cs_err *err);
void cs_reply_free(struct cs_reply *reply);

/* ---- Connections ----------------------------------------------------------------------------- */

struct cs_redis;

struct cs_redis_options {
    const struct cs_redis_endpoint *endpoint; /* must outlive the cs_redis */
    const char *ca_file;                      /* likewise; NULL: the system's CAs */
    /** Makes wires; NULL: cs_wire_dial(). For tests. */
    enum cs_status (*dial)(void *arg, const struct cs_dial *dial, struct cs_wire **out_wire,
                           struct cs_err *err);
    void *dial_arg;
    size_t request_max; /* bytes of one command; 0: 10 MB */
    size_t queue_max;   /* bytes of commands not yet written; 0: 32 MiB */
    size_t reply_max;   /* bytes of one reply; 0: 72 MiB */
    size_t items_max;   /* elements of one reply, nested ones included; 0: 1,000,000 */
};

/** A client that is not connected. The caller frees it. */
CS_MUST_USE enum cs_status cs_redis_new(const struct cs_redis_options *options,
                                        struct cs_redis **out_redis, struct cs_err *err);
/** Close, and go to the endpoint and CAs of @options from now on; its other fields do not matter.
 * Only by the thread that is served. */
void cs_redis_redirect(struct cs_redis *redis, const struct cs_redis_options *options);
/** Close and free. NULL is a no-op. */
void cs_redis_free(struct cs_redis *redis);

/** Close what is open, dial, then AUTH and SELECT as the endpoint asks. */
CS_MUST_USE enum cs_status cs_redis_connect(struct cs_redis *redis, int64_t deadline,
                                            struct cs_err *err);
bool cs_redis_connected(const struct cs_redis *redis);
/** Close; queued commands and owed replies are forgotten. */
void cs_redis_close(struct cs_redis *redis);

/** Queue a command of @argc words. CS_TOO_LARGE (class LARGE: the command alone is too large) and
 * CS_BUSY (the queue is full: flush first) leave the queue as it was. */
CS_MUST_USE enum cs_status cs_redis_append(struct cs_redis *redis, size_t argc, const char *argv[],
                                           const size_t lens[], struct cs_err *err);
/** The same of NUL-terminated words, ended by NULL. */
CS_MUST_USE enum cs_status cs_redis_appends(struct cs_redis *redis, struct cs_err *err, ...)
    __attribute__((sentinel));

/** Write all that is queued. Does not read: keep what a pipeline answers well below its server's
 * patience, by taking replies every few hundred commands. */
CS_MUST_USE enum cs_status cs_redis_flush(struct cs_redis *redis, int64_t deadline,
                                          struct cs_err *err);

/** Replies that are owed for commands appended so far. */
size_t cs_redis_owed(const struct cs_redis *redis);

/**
 * Flush, then take the next reply, in the order of the commands. The reply of a command that the
 * server refused is an error reply and CS_OK: see cs_reply_check(). After CS_CANCELLED the
 * connection stands and the reply is still owed; after any other failure the connection is closed.
 */
CS_MUST_USE enum cs_status cs_redis_take(struct cs_redis *redis, int64_t deadline,
                                         struct cs_reply **out_reply, struct cs_err *err);

/** Append one command of NUL-terminated words, ended by NULL, and take its reply. No replies may be
 * owed. An error reply becomes the function's own failure. */
CS_MUST_USE enum cs_status cs_redis_call(struct cs_redis *redis, int64_t deadline,
                                         struct cs_reply **out_reply, struct cs_err *err, ...)
    __attribute__((sentinel));

/** Any thread: end the waiting of the call under way, or else of the next one that waits, with
 * CS_CANCELLED (class STOPPED). */
void cs_redis_interrupt(struct cs_redis *redis);

/** Since cs_redis_new(). Any thread. */
struct cs_redis_counts {
    uint64_t connects;       /* that ended in a usable connection */
    uint64_t commands;       /* written whole; scripts count once */
    uint64_t bytes_sent;     /* of RESP, without TLS */
    uint64_t bytes_received; /* likewise */
};
void cs_redis_counts(const struct cs_redis *redis, struct cs_redis_counts *out);

#endif
