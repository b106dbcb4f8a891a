/* mirror/reply: replies of Redis, read under caps. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "priv.h"

#define LINE_MAX_BYTES 65536

/* ---- The gate -------------------------------------------------------------------------------- */

void cs_gate_init(struct cs_gate *gate, size_t bytes_max, size_t items_max)
{
    *gate = (struct cs_gate){.bytes_max = bytes_max, .items_max = items_max, .items = 1};
}

static enum cs_status refuse(struct cs_err *err, const char *why)
{
    return cs_error_set(err, CS_ERROR_PROTOCOL, "the server's reply is refused", why);
}

/* The digits as a number, written as Redis writes them: no plus, no leading zero, within int64_t.
 */
static bool number_of(const struct cs_gate *gate, int64_t *out)
{
    char digits[sizeof gate->digits + 1] = {0};
    memcpy(digits, gate->digits, gate->ndigits);
    const char *first = digits[0] == '-' ? digits + 1 : digits;
    if (*first < '0' || *first > '9' || (*first == '0' && gate->ndigits > 1))
        return false;
    char *end = NULL;
    errno = 0;
    *out = strtoll(digits, &end, 10);
    return errno == 0 && end == digits + gate->ndigits;
}

/* An element is complete, and so are the arrays that it completes. */
static bool element_done(struct cs_gate *gate)
{
    gate->state = CS_GATE_TYPE;
    while (gate->depth > 0) {
        if (--gate->left[gate->depth - 1] > 0)
            return false;
        gate->depth--;
    }
    gate->bytes = 0;
    gate->items = 1;
    return true;
}

static enum cs_status begin_bulk(struct cs_gate *gate, int64_t len, bool *out_whole,
                                 struct cs_err *err)
{
    if (len < -1)
        return refuse(err, "a negative length");
    if (len == -1) {
        *out_whole = element_done(gate);
        return CS_OK;
    }
    if ((uint64_t)len > gate->bytes_max - gate->bytes)
        return refuse(err, "it is too large");
    gate->bulk = (size_t)len;
    gate->end = 0;
    gate->state = len > 0 ? CS_GATE_BULK : CS_GATE_END;
    return CS_OK;
}

static enum cs_status begin_array(struct cs_gate *gate, int64_t count, bool *out_whole,
                                  struct cs_err *err)
{
    if (count < -1)
        return refuse(err, "a negative length");
    if (count <= 0) {
        *out_whole = element_done(gate);
        return CS_OK;
    }
    if ((uint64_t)count > gate->items_max - gate->items)
        return refuse(err, "it has too many elements");
    if (gate->depth == CS_GATE_DEPTH)
        return refuse(err, "it is nested too deeply");
    gate->items += (size_t)count; /* promised ones count: each of them will cost memory */
    gate->left[gate->depth++] = count;
    gate->state = CS_GATE_TYPE;
    return CS_OK;
}

static enum cs_status line_done(struct cs_gate *gate, bool *out_whole, struct cs_err *err)
{
    int64_t number = 0;
    if (gate->type == '+' || gate->type == '-') {
        *out_whole = element_done(gate);
        return CS_OK;
    }
    if (!number_of(gate, &number))
        return refuse(err, "a malformed number");
    if (gate->type == '$')
        return begin_bulk(gate, number, out_whole, err);
    if (gate->type == '*')
        return begin_array(gate, number, out_whole, err);
    *out_whole = element_done(gate);
    return CS_OK;
}

static enum cs_status begin_element(struct cs_gate *gate, char type, struct cs_err *err)
{
    if (type == '\0' || !strchr("+-:$*", type))
        return refuse(err, "it is not RESP2");
    gate->type = type;
    gate->ndigits = 0;
    gate->line = 0;
    gate->cr = false;
    gate->state = type == '+' || type == '-' ? CS_GATE_LINE : CS_GATE_NUMBER;
    return CS_OK;
}

/* One byte of a line, or of the digits of a number. */
static enum cs_status line_byte(struct cs_gate *gate, char c, bool *out_whole, struct cs_err *err)
{
    if (gate->cr && c == '\n')
        return line_done(gate, out_whole, err);
    if (gate->state == CS_GATE_LINE) {
        if (gate->cr || c == '\n')
            return refuse(err, "a line break inside a line");
        gate->cr = c == '\r';
        return ++gate->line > LINE_MAX_BYTES ? refuse(err, "a line is too long") : CS_OK;
    }
    if (gate->cr || (c != '\r' && gate->ndigits == sizeof gate->digits))
        return refuse(err, "a malformed number");
    if (c == '\r')
        gate->cr = true;
    else
        gate->digits[gate->ndigits++] = c;
    return CS_OK;
}

static enum cs_status end_byte(struct cs_gate *gate, char c, bool *out_whole, struct cs_err *err)
{
    if (c != "\r\n"[gate->end])
        return refuse(err, "a string does not end where its length says");
    if (++gate->end == 2)
        *out_whole = element_done(gate);
    return CS_OK;
}

/* The bytes of a bulk string that are at hand. */
static size_t skip_bulk(struct cs_gate *gate, size_t len)
{
    size_t step = len < gate->bulk ? len : gate->bulk;
    gate->bulk -= step;
    if (gate->bulk == 0)
        gate->state = CS_GATE_END;
    return step;
}

enum cs_status cs_gate_feed(struct cs_gate *gate, const char *data, size_t len, size_t *out_used,
                            bool *out_whole, struct cs_err *err)
{
    size_t pos = 0;
    bool whole = false;
    enum cs_status rc = CS_OK;
    while (rc == CS_OK && !whole && pos < len) {
        bool bulk = gate->state == CS_GATE_BULK;
        size_t step = bulk ? skip_bulk(gate, len - pos) : 1;
        char c = data[pos];
        pos += step;
        gate->bytes += step;
        if (gate->bytes > gate->bytes_max)
            rc = refuse(err, "it is too large");
        else if (gate->state == CS_GATE_TYPE)
            rc = begin_element(gate, c, err);
        else if (!bulk && gate->state == CS_GATE_END)
            rc = end_byte(gate, c, &whole, err);
        else if (!bulk)
            rc = line_byte(gate, c, &whole, err);
    }
    if (rc != CS_OK)
        return rc;
    *out_used = pos;
    *out_whole = whole;
    return CS_OK;
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* A struct cs_reply is hiredis' redisReply under another name. */
static const redisReply *inside(const struct cs_reply *reply)
{
    return (const redisReply *)(const void *)reply;
}

enum cs_reply_type cs_reply_type(const struct cs_reply *reply)
{
    const redisReply *r = inside(reply);
    switch (r ? r->type : REDIS_REPLY_NIL) {
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
        return CS_REPLY_STRING;
    case REDIS_REPLY_INTEGER:
        return CS_REPLY_INT;
    case REDIS_REPLY_ARRAY:
        return CS_REPLY_ARRAY;
    case REDIS_REPLY_ERROR:
        return CS_REPLY_ERROR;
    default:
        return CS_REPLY_NIL;
    }
}

const char *cs_reply_string(const struct cs_reply *reply, size_t *out_len)
{
    if (cs_reply_type(reply) != CS_REPLY_STRING)
        return NULL;
    if (out_len)
        *out_len = inside(reply)->len;
    return inside(reply)->str;
}

bool cs_reply_is(const struct cs_reply *reply, const char *text)
{
    size_t len = 0;
    const char *string = cs_reply_string(reply, &len);
    return string && len == strlen(text) && memcmp(string, text, len) == 0;
}

int64_t cs_reply_int(const struct cs_reply *reply, int64_t otherwise)
{
    size_t len = 0;
    if (cs_reply_type(reply) == CS_REPLY_INT)
        return inside(reply)->integer;
    const char *text = cs_reply_string(reply, &len);
    if (!text || len == 0 || len > 20 || (text[0] != '-' && (text[0] < '0' || text[0] > '9')))
        return otherwise;
    char *end = NULL;
    errno = 0;
    int64_t value = strtoll(text, &end, 10);
    return errno == 0 && end == text + len ? value : otherwise;
}

size_t cs_reply_size(const struct cs_reply *array)
{
    return cs_reply_type(array) == CS_REPLY_ARRAY ? inside(array)->elements : 0;
}

const struct cs_reply *cs_reply_at(const struct cs_reply *array, size_t index)
{
    if (index >= cs_reply_size(array))
        return NULL;
    return (const struct cs_reply *)(const void *)inside(array)->element[index];
}

/* The server's words, fit for a log: printable ASCII, and without the arguments that it repeats. */
static void tidy(const char *text, char *out, size_t cap)
{
    size_t n = 0;
    const char *args = strstr(text, ", with args");
    for (const char *p = text; *p && p != args && n + 1 < cap; p++)
        out[n++] = (char)(*p >= ' ' && *p < 0x7f ? *p : '?');
    out[n] = '\0';
}

enum cs_status cs_reply_check(const struct cs_reply *reply, struct cs_err *err)
{
    char text[200];
    if (cs_reply_type(reply) != CS_REPLY_ERROR)
        return CS_OK;
    tidy(inside(reply)->str, text, sizeof text);
    return cs_error_set(err, cs_error_of_reply(inside(reply)->str), "Redis answered", text);
}

void cs_reply_free(struct cs_reply *reply)
{
    if (reply)
        freeReplyObject(reply);
}
