#include "cs/base/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAP 64

void cs_buf_init(struct cs_buf *buf, size_t max)
{
    /* One byte less than everything, so that len + 1 never wraps. */
    *buf = (struct cs_buf){.max = max < SIZE_MAX ? max : SIZE_MAX - 1};
}

void cs_buf_fini(struct cs_buf *buf)
{
    free(buf->data);
    cs_buf_init(buf, buf->max);
}

void cs_buf_reset(struct cs_buf *buf)
{
    buf->len = 0;
    buf->status = CS_OK;
    if (buf->data)
        buf->data[0] = '\0';
}

static char *fail(struct cs_buf *buf, enum cs_status status)
{
    buf->status = status;
    if (buf->data)
        buf->data[buf->len] = '\0'; /* the last addition may have been made by hand */
    return NULL;
}

char *cs_buf_reserve(struct cs_buf *buf, size_t len)
{
    if (buf->status != CS_OK)
        return NULL;
    if (len > buf->max - buf->len)
        return fail(buf, CS_TOO_LARGE);
    size_t need = buf->len + len + 1;
    if (need > buf->cap) {
        size_t cap = buf->cap > buf->max / 2 ? buf->max + 1 : buf->cap * 2;
        if (cap < FIRST_CAP)
            cap = FIRST_CAP;
        if (cap < need)
            cap = need;
        char *data = realloc(buf->data, cap);
        if (!data)
            return fail(buf, CS_NO_MEM);
        buf->data = data;
        buf->cap = cap;
    }
    buf->data[buf->len + len] = '\0';
    return buf->data + buf->len;
}

void cs_buf_add(struct cs_buf *buf, const void *data, size_t len)
{
    char *to = cs_buf_reserve(buf, len);
    if (!to || len == 0)
        return;
    memcpy(to, data, len);
    buf->len += len;
}

void cs_buf_adds(struct cs_buf *buf, const char *text)
{
    cs_buf_add(buf, text, strlen(text));
}

void cs_buf_addc(struct cs_buf *buf, char c)
{
    char *to = cs_buf_reserve(buf, 1);
    if (!to)
        return;
    *to = c;
    buf->len++;
}

void cs_buf_addf(struct cs_buf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, fmt, args);
    char *to = len < 0 ? fail(buf, CS_TOO_LARGE) : cs_buf_reserve(buf, (size_t)len);
    if (to) {
        (void)vsnprintf(to, (size_t)len + 1, fmt, again);
        buf->len += (size_t)len;
    }
    va_end(again);
    va_end(args);
}

void cs_buf_consume(struct cs_buf *buf, size_t len)
{
    assert(len <= buf->len);
    if (len == 0)
        return;
    buf->len -= len;
    memmove(buf->data, buf->data + len, buf->len + 1);
}

enum cs_status cs_buf_check(const struct cs_buf *buf, struct cs_err *err)
{
    if (buf->status == CS_OK)
        return CS_OK;
    if (buf->status == CS_NO_MEM)
        return cs_err_nomem(err);
    return cs_err_set(err, buf->status, NULL, "more than %zu bytes", buf->max);
}

char *cs_buf_take(struct cs_buf *buf, size_t *out_len)
{
    if (!cs_buf_reserve(buf, 0))
        return NULL;
    char *data = buf->data;
    if (out_len)
        *out_len = buf->len;
    cs_buf_init(buf, buf->max);
    return data;
}
