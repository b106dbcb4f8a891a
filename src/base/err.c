#include "cs/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "utf8.h"

const char *cs_status_name(enum cs_status status)
{
    switch (status) {
    case CS_OK:
        return "ok";
    case CS_INVALID:
        return "invalid";
    case CS_DENIED:
        return "denied";
    case CS_NOT_FOUND:
        return "not_found";
    case CS_CONFLICT:
        return "conflict";
    case CS_MISMATCH:
        return "mismatch";
    case CS_TOO_LARGE:
        return "too_large";
    case CS_BUSY:
        return "busy";
    case CS_TIMEOUT:
        return "timeout";
    case CS_CANCELLED:
        return "cancelled";
    case CS_UNAVAILABLE:
        return "unavailable";
    case CS_UPSTREAM:
        return "upstream";
    case CS_FULL:
        return "disk_full";
    case CS_CORRUPT:
        return "corrupt";
    case CS_NO_MEM:
        return "out_of_memory";
    case CS_IO:
        return "io";
    case CS_INTERNAL:
        return "internal";
    }
    return "unknown";
}

/* Make @text valid UTF-8 whatever its parts were. Of a message that was cut, the last character may
 * be incomplete: it goes. */
static void mend(char *text, size_t len, bool cut)
{
    for (size_t i = 0; i < len;) {
        size_t step = cs_utf8_step((const unsigned char *)text + i, len - i);
        if (step == 0 && cut && len - i < 4) {
            text[i] = '\0';
            return;
        }
        if (step == 0)
            text[i] = '?';
        i += step > 0 ? step : 1;
    }
}

enum cs_status cs_err_set(struct cs_err *err, enum cs_status status, const char *code,
                          const char *fmt, ...)
{
    if (!err || err->status != CS_OK)
        return status;
    err->status = status;
    err->code = code ? code : cs_status_name(status);
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(err->msg, sizeof err->msg, fmt, args);
    va_end(args);
    if (len < 0)
        err->msg[0] = '\0';
    mend(err->msg, strlen(err->msg), len >= (int)sizeof err->msg);
    return status;
}

enum cs_status cs_err_nomem(struct cs_err *err)
{
    return cs_err_set(err, CS_NO_MEM, "out_of_memory", "out of memory");
}

enum cs_status cs_err_errno(struct cs_err *err, int errnum, const char *doing)
{
    enum cs_status status = CS_IO;
    if (errnum == ENOSPC || errnum == EDQUOT)
        status = CS_FULL;
    else if (errnum == ENOMEM)
        status = CS_NO_MEM;
    const char *text = strerrordesc_np(errnum);
    if (text)
        return cs_err_set(err, status, NULL, "%s: %s", doing, text);
    return cs_err_set(err, status, NULL, "%s: error %d", doing, errnum);
}

void cs_err_clear(struct cs_err *err)
{
    if (err)
        *err = (struct cs_err){0};
}
