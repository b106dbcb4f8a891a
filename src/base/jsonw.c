/* base/jsonw: writing JSON (cs/base/json.h). */
#include "cs/base/json.h"

#include <assert.h>
#include <string.h>

#include "cs/base/clock.h"

#define DEPTH_MAX 63

void cs_jsonw_init(struct cs_jsonw *w, struct cs_buf *out)
{
    *w = (struct cs_jsonw){.out = out};
}

/* The comma and the key that come before a value. */
static void begin(struct cs_jsonw *w, const char *key)
{
    uint64_t bit = UINT64_C(1) << w->depth;
    if (w->more & bit)
        cs_buf_addc(w->out, ',');
    w->more |= bit;
    if (key) {
        cs_json_quote(w->out, key, strlen(key));
        cs_buf_addc(w->out, ':');
    }
}

static void open_level(struct cs_jsonw *w, const char *key, char bracket)
{
    assert(w->depth < DEPTH_MAX);
    begin(w, key);
    cs_buf_addc(w->out, bracket);
    w->depth++;
    w->more &= ~(UINT64_C(1) << w->depth);
}

static void close_level(struct cs_jsonw *w, char bracket)
{
    assert(w->depth > 0);
    w->depth--;
    cs_buf_addc(w->out, bracket);
}

void cs_jsonw_object(struct cs_jsonw *w, const char *key)
{
    open_level(w, key, '{');
}

void cs_jsonw_array(struct cs_jsonw *w, const char *key)
{
    open_level(w, key, '[');
}

void cs_jsonw_end_object(struct cs_jsonw *w)
{
    close_level(w, '}');
}

void cs_jsonw_end_array(struct cs_jsonw *w)
{
    close_level(w, ']');
}

void cs_jsonw_stringn(struct cs_jsonw *w, const char *key, const char *text, size_t len)
{
    begin(w, key);
    if (text)
        cs_json_quote(w->out, text, len);
    else
        cs_buf_adds(w->out, "null");
}

void cs_jsonw_string(struct cs_jsonw *w, const char *key, const char *text)
{
    cs_jsonw_stringn(w, key, text, text ? strlen(text) : 0);
}

void cs_jsonw_int(struct cs_jsonw *w, const char *key, int64_t value)
{
    begin(w, key);
    char digits[24];
    char *at = digits + sizeof digits;
    uint64_t left = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do {
        *--at = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (value < 0)
        *--at = '-';
    cs_buf_add(w->out, at, (size_t)(digits + sizeof digits - at));
}

void cs_jsonw_bool(struct cs_jsonw *w, const char *key, bool value)
{
    begin(w, key);
    cs_buf_adds(w->out, value ? "true" : "false");
}

void cs_jsonw_null(struct cs_jsonw *w, const char *key)
{
    begin(w, key);
    cs_buf_adds(w->out, "null");
}

void cs_jsonw_time(struct cs_jsonw *w, const char *key, int64_t wall_ms)
{
    char iso[CS_ISO_MAX];
    if (wall_ms != 0)
        cs_clock_iso(wall_ms, iso);
    cs_jsonw_string(w, key, wall_ms != 0 ? iso : NULL);
}

void cs_jsonw_raw(struct cs_jsonw *w, const char *key, const char *json, size_t len)
{
    begin(w, key);
    cs_buf_add(w->out, json, len);
}
