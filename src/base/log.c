#include "cs/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "utf8.h"

#define VALUE_MAX   4096
#define LINE_CAP    32768
#define SECRETS_MAX 256
#define SECRET_MIN  6

static const char *const level_names[] = {"debug", "info", "warn", "error"};

static atomic_int least = CS_LOG_INFO;

/* Guards what follows. One line is built at a time in one buffer: a worker's stack is too small for
 * it, and a line must not fail for want of memory. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct {
    char *text;
    size_t len;
} secrets[SECRETS_MAX];
static size_t secret_count;

static struct {
    char text[LINE_CAP];
    size_t len;
} line;

void cs_log_set_level(enum cs_log_level level)
{
    atomic_store_explicit(&least, (int)level, memory_order_relaxed);
}

int cs_log_enabled(enum cs_log_level level)
{
    return (int)level >= atomic_load_explicit(&least, memory_order_relaxed);
}

enum cs_status cs_log_level_parse(const char *word, enum cs_log_level *out_level,
                                  struct cs_err *err)
{
    for (int i = CS_LOG_DEBUG; i <= CS_LOG_ERROR; i++) {
        if (strcmp(word, level_names[i]) == 0) {
            *out_level = (enum cs_log_level)i;
            return CS_OK;
        }
    }
    return cs_err_set(err, CS_INVALID, NULL, "\"%s\" is not a log level: debug, info, warn, error",
                      word);
}

/* With `lock` held. */
static enum cs_status add_secret(const char *secret, size_t len, struct cs_err *err)
{
    size_t count = secret_count;
    for (size_t i = 0; i < count; i++)
        if (strcmp(secrets[i].text, secret) == 0)
            return CS_OK;
    if (count == SECRETS_MAX)
        return cs_err_set(err, CS_TOO_LARGE, NULL, "more than %d secrets to hide", SECRETS_MAX);
    secrets[count].text = strdup(secret);
    if (!secrets[count].text)
        return cs_err_nomem(err);
    secrets[count].len = len;
    secret_count = count + 1;
    return CS_OK;
}

enum cs_status cs_log_redact(const char *secret, struct cs_err *err)
{
    size_t len = strlen(secret);
    if (len < SECRET_MIN)
        return CS_OK;
    (void)pthread_mutex_lock(&lock);
    enum cs_status status = add_secret(secret, len, err);
    (void)pthread_mutex_unlock(&lock);
    return status;
}

/* What does not fit is left out; the line's end always fits. */
static void put(const char *text, size_t len)
{
    size_t room = sizeof line.text - 1 - line.len;
    if (len > room)
        return;
    memcpy(line.text + line.len, text, len);
    line.len += len;
}

static void puts_line(const char *text)
{
    put(text, strlen(text));
}

/* The length of the longest secret that begins at @at, or 0. */
static size_t secret_at(const char *at, size_t left)
{
    size_t best = 0;
    size_t count = secret_count;
    for (size_t i = 0; i < count; i++) {
        size_t len = secrets[i].len;
        if (len > best && len <= left && memcmp(at, secrets[i].text, len) == 0)
            best = len;
    }
    return best;
}

/* Valid UTF-8 that moves no cursor: neither C0, DEL nor C1 control characters. */
static size_t printable(const unsigned char *at, size_t left)
{
    if (at[0] < 0x20 || at[0] == 0x7F || (at[0] == 0xC2 && left > 1 && at[1] < 0xA0))
        return 0;
    return cs_utf8_step(at, left);
}

static bool needs_quotes(const char *value, size_t len)
{
    if (len == 0)
        return true;
    for (size_t i = 0; i < len;) {
        size_t step = printable((const unsigned char *)value + i, len - i);
        if (step == 0 || strchr(" \"=\\", value[i]))
            return true;
        i += step;
    }
    return false;
}

/* Write the character at @at and return how many bytes of it were read. */
static size_t put_character(const char *at, size_t left)
{
    size_t len = printable((const unsigned char *)at, left);
    if (len > 0) {
        if (at[0] == '"' || at[0] == '\\')
            put("\\", 1);
        put(at, len);
        return len;
    }
    char hex[8];
    if (at[0] == '\n')
        puts_line("\\n");
    else if (at[0] == '\t')
        puts_line("\\t");
    else if (at[0] == '\r')
        puts_line("\\r");
    else
        put(hex, (size_t)snprintf(hex, sizeof hex, "\\x%02x", (unsigned)(unsigned char)at[0]));
    return 1;
}

static void put_value(const char *value)
{
    if (!value) {
        put("-", 1);
        return;
    }
    size_t len = strlen(value);
    /* Only what lies before the cut matters, and not more than that is read of a long value. */
    bool quotes = needs_quotes(value, len < VALUE_MAX ? len : VALUE_MAX) || len > VALUE_MAX;
    if (quotes)
        put("\"", 1);
    size_t start = line.len;
    for (size_t i = 0; i < len;) {
        if (line.len - start >= VALUE_MAX) {
            puts_line("…");
            break;
        }
        size_t hidden = secret_at(value + i, len - i);
        if (hidden > 0)
            puts_line("[redacted]");
        i += hidden > 0 ? hidden : put_character(value + i, len - i);
    }
    if (quotes)
        put("\"", 1);
}

static void put_pair(const char *key, const char *value)
{
    if (line.len > 0)
        put(" ", 1);
    puts_line(key);
    put("=", 1);
    put_value(value);
}

static void begin_line(enum cs_log_level level, const char *event)
{
    char now[CS_ISO_MAX];
    cs_clock_iso(cs_clock_ms(), now);
    line.len = 0;
    put_pair("time", now);
    put_pair("level", level_names[level]);
    put_pair("event", event);
}

/* One write(2), unless the receiver takes less. A line that cannot be written is lost: there is no
 * better place to say so. */
static void end_line(void)
{
    line.text[line.len++] = '\n';
    for (size_t done = 0; done < line.len;) {
        ssize_t wrote = write(STDERR_FILENO, line.text + done, line.len - done);
        if (wrote < 0 && errno != EINTR)
            return;
        if (wrote > 0)
            done += (size_t)wrote;
    }
}

void cs_log(enum cs_log_level level, const char *event, ...)
{
    if (!cs_log_enabled(level))
        return;
    int saved = errno;
    va_list args;
    va_start(args, event);
    (void)pthread_mutex_lock(&lock);
    begin_line(level, event);
    for (const char *key = va_arg(args, const char *); key; key = va_arg(args, const char *))
        put_pair(key, va_arg(args, const char *));
    end_line();
    (void)pthread_mutex_unlock(&lock);
    va_end(args);
    errno = saved;
}

void cs_log_err(const char *event, const struct cs_err *err, const char *key, const char *value)
{
    static const struct cs_err none;
    const struct cs_err *shown = err ? err : &none;
    cs_log(CS_LOG_ERROR, event, key ? key : "about", value, "status", cs_status_name(shown->status),
           "code", shown->code, "message", shown->msg, (char *)NULL);
}

const char *cs_log_number(char *out, size_t cap, int64_t value)
{
    (void)snprintf(out, cap, "%" PRId64, value);
    return out;
}
