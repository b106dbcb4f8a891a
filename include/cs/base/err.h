/* base/err: the status codes and the error record that every module passes up.
 *
 * Layer: base. No state of its own; any thread.
 */
#ifndef CS_BASE_ERR_H
#define CS_BASE_ERR_H

#define CS_MUST_USE          __attribute__((warn_unused_result))
#define CS_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/** What went wrong, in few classes. A client's finer name is cs_err.code. */
enum cs_status {
    CS_OK = 0,
    CS_INVALID,     /* the caller's input is wrong; nothing was changed */
    CS_DENIED,      /* understood, and refused by policy */
    CS_NOT_FOUND,   /* no such thing, or no longer */
    CS_CONFLICT,    /* the thing is in another state than the caller needs */
    CS_MISMATCH,    /* an idempotency key came again with another body */
    CS_TOO_LARGE,   /* past a cap */
    CS_BUSY,        /* a queue or pool is full; trying again later may work */
    CS_TIMEOUT,     /* a deadline passed */
    CS_CANCELLED,   /* stopped on request */
    CS_UNAVAILABLE, /* a part that is needed is not there (Codex, a shutdown) */
    CS_UPSTREAM,    /* Codex answered with an error */
    CS_FULL,        /* the disk is full */
    CS_CORRUPT,     /* stored data fails its checks */
    CS_NO_MEM,
    CS_IO,
    CS_INTERNAL,
};

/** The first error of a call chain. Zero-initialise it; the first cs_err_set() wins. */
struct cs_err {
    enum cs_status status;
    const char *code; /* stable lower_snake_case name for clients; a static string */
    char msg[512];    /* a sentence for people, UTF-8, never a secret */
};

/**
 * Record an error and return @status, so that callers can write `return cs_err_set(…)`.
 * @err may be NULL. If @err already holds an error it is left as it is. @code is a static string;
 * NULL stands for cs_status_name(@status). A message that does not fit is cut at a character;
 * bytes that are not UTF-8 become "?".
 */
enum cs_status cs_err_set(struct cs_err *err, enum cs_status status, const char *code,
                          const char *fmt, ...) CS_PRINTF(4, 5);

/** Record CS_NO_MEM, code "out_of_memory". */
enum cs_status cs_err_nomem(struct cs_err *err);

/** Record an error from errno value @errnum: CS_FULL for ENOSPC and EDQUOT, CS_NO_MEM for ENOMEM,
 * else CS_IO; the message is "@doing: <strerror>". */
enum cs_status cs_err_errno(struct cs_err *err, int errnum, const char *doing);

/** Forget the error, so that the record can be used again. NULL is a no-op. */
void cs_err_clear(struct cs_err *err);

/** The default stable name of a status, e.g. "not_found". */
const char *cs_status_name(enum cs_status status);

#endif
