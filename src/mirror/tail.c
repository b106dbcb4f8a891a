/* mirror/tail: what stands at the end of a session's value: how far each origin is in it. */
#include <stdlib.h>
#include <string.h>

#include "script.h"

#define HEAD "],\"_cx\":{\"p\":"
#define FOOT ",\"w\":\""

/* The width named at the end of the tail, or 0. */
static size_t named_width(const char *text, size_t len)
{
    size_t width = 0, digits = 0;
    if (len < 2 || memcmp(text + len - 2, "\"}", 2) != 0)
        return 0;
    const char *end = text + len - 2, *p = end;
    while (p > text && p[-1] >= '0' && p[-1] <= '9' && end - p < 6)
        p--;
    for (const char *d = p; d < end; d++, digits++)
        width = width * 10 + (size_t)(*d - '0');
    size_t foot = sizeof FOOT - 1;
    if (digits == 0 || (size_t)(p - text) < foot || memcmp(p - foot, FOOT, foot) != 0)
        return 0;
    return width <= CS_TAIL_WIDTH_MAX ? width : 0;
}

static bool is_count(const char *origin, const struct cs_json *n, void *arg)
{
    (void)origin;
    (void)arg;
    return cs_json_int(n, 0) >= 1;
}

/* Set the fields from a parsed tail; whether all of them are what they should be. */
static bool read_fields(struct cs_tail *tail)
{
    const struct cs_json *cx = cs_json_get(tail->root, "_cx");
    tail->protocol = cs_json_int(cs_json_get(cx, "p"), 0);
    tail->length = cs_json_int(cs_json_get(cx, "L"), -1);
    tail->stamp = cs_json_int(cs_json_get(cx, "at"), -1);
    tail->meta = cs_json_int(cs_json_get(cx, "mv"), -1);
    tail->vv = cs_json_get(cx, "vv");
    tail->status = cs_json_get_string(tail->root, "status");
    tail->last_used_at = cs_json_get_string(tail->root, "lastUsedAt");
    tail->model = cs_json_get_string(tail->root, "model");
    return tail->length > 0 && tail->stamp >= 0 && tail->meta >= 0 &&
           cs_json_type(tail->vv) == CS_JSON_OBJECT && cs_json_each(tail->vv, is_count, NULL);
}

/* Parse the tail in its exact width. Text that is no JSON is no error: it is not ours. */
static enum cs_status read_json(const char *text, struct cs_tail *tail, struct cs_err *err)
{
    char *object = malloc(tail->width);
    struct cs_err why = {0};
    if (!object)
        return cs_err_nomem(err);
    object[0] = '{'; /* in the place of "]," */
    memcpy(object + 1, text + 2, tail->width - 2);
    enum cs_status rc = cs_json_parse(object, tail->width - 1, tail->width, &tail->root, &why);
    free(object);
    return rc == CS_NO_MEM ? cs_err_nomem(err) : CS_OK;
}

enum cs_status cs_tail_parse(const char *text, size_t len, struct cs_tail *out_tail,
                             struct cs_err *err)
{
    struct cs_tail tail = {.kind = CS_TAIL_MISS};
    if (len > 0)
        tail.kind = CS_TAIL_FOREIGN;
    tail.width = named_width(text, len);
    if (tail.width > len && len == CS_TAIL_WIDTH)
        tail.kind = CS_TAIL_WIDER;
    const char *start = tail.width <= len ? text + len - tail.width : text;
    bool ours = tail.width >= CS_TAIL_WIDTH && tail.width <= len &&
                memcmp(start, HEAD, sizeof HEAD - 1) == 0;
    if (ours) {
        enum cs_status rc = read_json(start, &tail, err);
        if (rc != CS_OK)
            return rc;
    }
    if (tail.root && read_fields(&tail))
        tail.kind = CS_TAIL_OURS;
    if (tail.root && tail.protocol > CS_PROTOCOL)
        tail.kind = CS_TAIL_PROTOCOL;
    if (tail.root && tail.kind == CS_TAIL_FOREIGN)
        cs_tail_fini(&tail);
    *out_tail = tail;
    return CS_OK;
}

void cs_tail_fini(struct cs_tail *tail)
{
    cs_json_free(tail->root);
    *tail = (struct cs_tail){.kind = tail->kind};
}
