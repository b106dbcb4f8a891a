/* api/query: parameters of the query string. */
#include <stdlib.h>
#include <string.h>

#include "priv.h"

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decode @text[0..len) into @out. Returns the length, or cap when it is malformed or too long. */
static size_t decode(const char *text, size_t len, char *out, size_t cap)
{
    size_t i = 0, n = 0;

    while (i < len) {
        char c = text[i];

        if (n + 1 >= cap)
            return cap;
        if (c == '%') {
            int high = i + 2 < len ? hex_value(text[i + 1]) : -1;
            int low = i + 2 < len ? hex_value(text[i + 2]) : -1;

            if (high < 0 || low < 0)
                return cap;
            c = (char)(high * 16 + low);
            i += 2;
        } else if (c == '+') {
            c = ' ';
        }
        out[n++] = c;
        i++;
    }
    out[n] = '\0';
    return n;
}

/* The raw value of @name, or NULL. *out_count says how often it comes. */
static const char *find(const char *query, const char *name, size_t *out_len, int *out_count)
{
    size_t name_len = strlen(name);
    const char *value = NULL;

    *out_count = 0;
    while (query != NULL && *query != '\0') {
        size_t len = strcspn(query, "&");

        if (len >= name_len && strncmp(query, name, name_len) == 0 &&
            (len == name_len || query[name_len] == '=')) {
            value = query + name_len + (len > name_len);
            *out_len = (size_t)(query + len - value);
            ++*out_count;
        }
        query += len + (query[len] == '&');
    }
    return value;
}

enum cs_status cs_query_text(const struct cs_request *rq, const char *name, const char *code,
                             char *out, size_t cap, struct cs_err *err)
{
    size_t len = 0, n;
    int count;
    const char *value = find(rq->info->query_string, name, &len, &count);

    out[0] = '\0';
    if (value == NULL)
        return CS_OK;
    if (count > 1)
        return cs_err_set(err, CS_INVALID, code, "The parameter %s comes twice", name);
    n = decode(value, len, out, cap);
    if (n >= cap || !cs_utf8_valid(out, n))
        return cs_err_set(err, CS_INVALID, code, "The parameter %s is malformed or too long", name);
    return CS_OK;
}

enum cs_status cs_query_int(const struct cs_request *rq, const char *name, const char *code,
                            const int64_t bounds[2], int64_t *inout_value, struct cs_err *err)
{
    char text[20];
    enum cs_status rc = cs_query_text(rq, name, code, text, sizeof text, NULL);

    if (rc == CS_OK && text[0] == '\0')
        return CS_OK;
    if (rc == CS_OK && text[strspn(text, "0123456789")] == '\0') {
        long long value =
            strtoll(text, NULL, 10); /* of 19 digits at most, or the largest there is */

        if (value >= bounds[0] && value <= bounds[1]) {
            *inout_value = value;
            return CS_OK;
        }
    }
    return cs_err_set(err, CS_INVALID, code, "The parameter %s must be a number from %lld to %lld",
                      name, (long long)bounds[0], (long long)bounds[1]);
}
