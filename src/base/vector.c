#include "cs/base/vector.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ORIGINS_MAX 4096 /* more than the widest tail in Redis can name */

void cs_vector_fini(struct cs_vector *vector)
{
    free(vector->items);
    *vector = (struct cs_vector){0};
}

/* The place of @origin, or where it would be inserted. */
static size_t place_of(const struct cs_vector *vector, int64_t origin)
{
    size_t low = 0, high = vector->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (vector->items[middle].origin < origin)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int64_t cs_vector_get(const struct cs_vector *vector, int64_t origin)
{
    size_t place = place_of(vector, origin);

    if (place < vector->count && vector->items[place].origin == origin)
        return vector->items[place].seq;
    return 0;
}

static enum cs_status grow(struct cs_vector *vector, struct cs_err *err)
{
    size_t cap = vector->cap > 0 ? vector->cap * 2 : 4;
    struct cs_vector_item *items;

    if (vector->count < vector->cap)
        return CS_OK;
    items = reallocarray(vector->items, cap, sizeof *items);
    if (items == NULL)
        return cs_err_nomem(err);
    vector->items = items;
    vector->cap = cap;
    return CS_OK;
}

enum cs_status cs_vector_raise(struct cs_vector *vector, int64_t origin, int64_t seq,
                               struct cs_err *err)
{
    size_t place = place_of(vector, origin);
    enum cs_status rc;

    if (place < vector->count && vector->items[place].origin == origin) {
        if (vector->items[place].seq < seq)
            vector->items[place].seq = seq;
        return CS_OK;
    }
    rc = grow(vector, err);
    if (rc != CS_OK)
        return rc;
    memmove(&vector->items[place + 1], &vector->items[place],
            (vector->count - place) * sizeof *vector->items);
    vector->items[place] = (struct cs_vector_item){origin, seq};
    vector->count++;
    return CS_OK;
}

enum cs_status cs_vector_join(struct cs_vector *vector, const struct cs_vector *other,
                              struct cs_err *err)
{
    enum cs_status rc = CS_OK;
    size_t i;

    for (i = 0; i < other->count && rc == CS_OK; i++)
        rc = cs_vector_raise(vector, other->items[i].origin, other->items[i].seq, err);
    return rc;
}

bool cs_vector_le(const struct cs_vector *vector, const struct cs_vector *other)
{
    size_t i;

    for (i = 0; i < vector->count; i++)
        if (vector->items[i].seq > cs_vector_get(other, vector->items[i].origin))
            return false;
    return true;
}

void cs_vector_name(int64_t origin, char out[CS_VECTOR_NAME_MAX])
{
    (void)snprintf(out, CS_VECTOR_NAME_MAX, "%016" PRIx64, (uint64_t)origin);
}

int64_t cs_vector_origin(const char *name)
{
    uint64_t value;

    if (strlen(name) != CS_VECTOR_NAME_MAX - 1 ||
        strspn(name, "0123456789abcdef") != CS_VECTOR_NAME_MAX - 1)
        return 0;
    value = strtoull(name, NULL, 16);
    return value <= INT64_MAX ? (int64_t)value : 0;
}

void cs_vector_write(const struct cs_vector *vector, struct cs_buf *out)
{
    size_t i;

    cs_buf_addc(out, '{');
    for (i = 0; i < vector->count; i++)
        cs_buf_addf(out, "%s\"%016" PRIx64 "\":%" PRId64, i > 0 ? "," : "",
                    (uint64_t)vector->items[i].origin, vector->items[i].seq);
    cs_buf_addc(out, '}');
}

struct reading {
    struct cs_vector vector;
    enum cs_status rc;
    struct cs_err *err;
};

static bool read_item(const char *key, const struct cs_json *value, void *arg)
{
    struct reading *reading = arg;
    int64_t origin = cs_vector_origin(key), seq = cs_json_int(value, 0);

    if (origin == 0 || seq < 1 || reading->vector.count == ORIGINS_MAX)
        reading->rc = cs_err_set(reading->err, CS_INVALID, "invalid_vector",
                                 "a version vector names something that is no origin");
    else
        reading->rc = cs_vector_raise(&reading->vector, origin, seq, reading->err);
    return reading->rc == CS_OK;
}

enum cs_status cs_vector_read(const struct cs_json *object, struct cs_vector *out_vector,
                              struct cs_err *err)
{
    struct reading reading = {.err = err};

    if (cs_json_type(object) != CS_JSON_OBJECT)
        return cs_err_set(err, CS_INVALID, "invalid_vector", "a version vector is an object");
    if (!cs_json_each(object, read_item, &reading)) {
        cs_vector_fini(&reading.vector);
        return reading.rc;
    }
    *out_vector = reading.vector;
    return CS_OK;
}

enum cs_status cs_vector_parse(const char *text, size_t len, struct cs_vector *out_vector,
                               struct cs_err *err)
{
    struct cs_json *root = NULL;
    enum cs_status rc = cs_json_parse(text, len, len, &root, err);

    if (rc == CS_OK)
        rc = cs_vector_read(root, out_vector, err);
    cs_json_free(root);
    return rc;
}
