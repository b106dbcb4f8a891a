/* base/json: reading JSON from outside (jansson behind a gate) and writing it.
 *
 * Layer: base. jansson.h is included by src/base/json.c alone. A parsed value serves one thread at
 * a time.
 *
 * The gate refuses, before jansson sees the text: nesting deeper than the limit (a scan without
 * recursion: worker stacks are 100 KB), more values than the limit (two bytes of text can cost
 * hundreds in memory), text over the size limit; then jansson refuses invalid
 * UTF-8, duplicate keys, NUL characters (\u0000) and trailing text. Errors: CS_INVALID with code
 * "invalid_json", CS_TOO_LARGE with code "json_too_large", CS_NO_MEM.
 */
#ifndef CS_BASE_JSON_H
#define CS_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/buf.h"
#include "cs/base/err.h"

/** The deepest nesting that is ever accepted. */
#define CS_JSON_DEPTH 64
/** The most values in one text. */
#define CS_JSON_VALUES 500000

struct cs_json; /* a parsed value; opaque */

enum cs_json_type {
    CS_JSON_NULL,
    CS_JSON_BOOL,
    CS_JSON_INT,
    CS_JSON_REAL,
    CS_JSON_STRING,
    CS_JSON_ARRAY,
    CS_JSON_OBJECT,
};

/** Parse @len bytes of any JSON value, at most @max bytes. The caller frees with cs_json_free(). */
CS_MUST_USE enum cs_status cs_json_parse(const char *text, size_t len, size_t max,
                                         struct cs_json **out_value, struct cs_err *err);
/** Free a root returned by cs_json_parse(). NULL is a no-op. */
void cs_json_free(struct cs_json *value);

/* Reading. Every argument may be NULL (then: NULL, false, 0 or the default). Returned values and
 * strings are borrowed until the root is freed. */

enum cs_json_type cs_json_type(const struct cs_json *value); /* NULL reads as CS_JSON_NULL */
/** Member @key of an object, or NULL. */
const struct cs_json *cs_json_get(const struct cs_json *object, const char *key);
/** Follow a path of keys through objects: cs_json_path(v, "error", "code", NULL). */
const struct cs_json *cs_json_path(const struct cs_json *value, ...) __attribute__((sentinel));
size_t cs_json_size(const struct cs_json *array_or_object);
const struct cs_json *cs_json_at(const struct cs_json *array, size_t index);
/** The string, or NULL if it is not one. *out_len (may be NULL) counts bytes. */
const char *cs_json_string(const struct cs_json *value, size_t *out_len);
/** cs_json_string() of member @key. */
const char *cs_json_get_string(const struct cs_json *object, const char *key);
/** The integer, or @otherwise if it is not one. */
int64_t cs_json_int(const struct cs_json *value, int64_t otherwise);
bool cs_json_bool(const struct cs_json *value, bool otherwise);

/** Walk an object's members in unspecified order: @visit returns false to stop. Returns whether all
 * were visited. */
bool cs_json_each(const struct cs_json *object,
                  bool (*visit)(const char *key, const struct cs_json *value, void *arg),
                  void *arg);

/** Append @value as compact JSON. */
void cs_json_dump(const struct cs_json *value, struct cs_buf *out);

/** Append @text as a JSON string with its quotes. The text must be valid UTF-8 (check with
 * cs_utf8_valid()); bytes ≥ 0x80 pass unchanged. Does not allocate but to grow @out. */
void cs_json_quote(struct cs_buf *out, const char *text, size_t len);

/** Whether the bytes are valid UTF-8 without NUL. */
bool cs_utf8_valid(const char *text, size_t len);

/* Writing: a writer puts the commas and quotes. Keys are NULL inside arrays and at the top.
 * Failures stick in the buffer. */

struct cs_jsonw {
    struct cs_buf *out; /* borrowed */
    uint64_t more;      /* bit d: a comma is due at depth d */
    unsigned depth;     /* at most 63 */
};

void cs_jsonw_init(struct cs_jsonw *w, struct cs_buf *out);
void cs_jsonw_object(struct cs_jsonw *w, const char *key); /* begins { */
void cs_jsonw_array(struct cs_jsonw *w, const char *key);  /* begins [ */
void cs_jsonw_end_object(struct cs_jsonw *w);
void cs_jsonw_end_array(struct cs_jsonw *w);
void cs_jsonw_string(struct cs_jsonw *w, const char *key, const char *text); /* NULL text: null */
void cs_jsonw_stringn(struct cs_jsonw *w, const char *key, const char *text, size_t len);
void cs_jsonw_int(struct cs_jsonw *w, const char *key, int64_t value);
void cs_jsonw_bool(struct cs_jsonw *w, const char *key, bool value);
void cs_jsonw_null(struct cs_jsonw *w, const char *key);
/** An ISO timestamp of wall milliseconds; 0 becomes null. */
void cs_jsonw_time(struct cs_jsonw *w, const char *key, int64_t wall_ms);
/** Text that is JSON already, as it is. */
void cs_jsonw_raw(struct cs_jsonw *w, const char *key, const char *json, size_t len);

#endif
