/* base/log: logfmt lines on stderr.
 *
 * Layer: base. Any thread; a line is written with one write(2). Values are quoted and escaped where
 * they need it (so no value can forge a line), cut at 4 KiB, and registered secrets are replaced.
 */
#ifndef CS_BASE_LOG_H
#define CS_BASE_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "cs/base/err.h"

enum cs_log_level { CS_LOG_DEBUG, CS_LOG_INFO, CS_LOG_WARN, CS_LOG_ERROR };

/** Set the least level that is written (default CS_LOG_INFO). */
void cs_log_set_level(enum cs_log_level level);

/** Whether lines of @level are written: lets a caller skip costly values. */
int cs_log_enabled(enum cs_log_level level);

/** "debug|info|warn|error" → level. CS_INVALID names the word. */
CS_MUST_USE enum cs_status cs_log_level_parse(const char *word, enum cs_log_level *out_level,
                                              struct cs_err *err);

/**
 * Write `time=… level=… event=@event key=value …`. After @event come pairs of `const char *` key
 * and value, ended by a NULL key. A NULL value is written as "-". Numbers: CS_NUM(n).
 */
void cs_log(enum cs_log_level level, const char *event, ...) __attribute__((sentinel));

/** Log @err as level=error with its status, code and message, and the pair @key=@value. */
void cs_log_err(const char *event, const struct cs_err *err, const char *key, const char *value);

/** Replace every occurrence of @secret (at least 6 bytes; shorter ones are ignored) in later lines
 * by "[redacted]". The string is copied; at most 256 secrets. */
CS_MUST_USE enum cs_status cs_log_redact(const char *secret, struct cs_err *err);

/** Format @value into @out and return it; see CS_NUM. */
const char *cs_log_number(char *out, size_t cap, int64_t value);

/** A decimal string of @value that lives until the end of the enclosing block. */
#define CS_NUM(value) cs_log_number((char[24]){0}, 24, (int64_t)(value))

#endif
