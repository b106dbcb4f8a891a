#include "cs/base/json.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <jansson.h>

#include "utf8.h"

#define ESCAPE_MAX 6

/* A struct cs_json is a json_t: the type hides jansson from everybody else. */

static const json_t *native(const struct cs_json *value)
{
    return (const json_t *)(const void *)value;
}

static const struct cs_json *ours(const json_t *value)
{
    return (const struct cs_json *)(const void *)value;
}

/* --- scanning ------------------------------------------------------------------------------ */

#ifdef __SSE2__
/* A bit for each of 16 bytes that a JSON string cannot hold as it is. */
static unsigned escape_mask(__m128i bytes)
{
    __m128i quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
    __m128i slash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
    /* Unsigned bytes ≤ 0x1F are those that min() leaves as they are. */
    __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1F)), bytes);
    return (unsigned)_mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(quote, slash)));
}
#endif

static bool needs_escape(char c)
{
    return (unsigned char)c < 0x20 || c == '"' || c == '\\';
}

/* How many of the first bytes need no escape. */
static size_t clean_run(const char *text, size_t len)
{
    size_t i = 0;
#ifdef __SSE2__
    for (; len - i >= 16; i += 16) {
        unsigned mask = escape_mask(_mm_loadu_si128((const __m128i *)(const void *)(text + i)));
        if (mask != 0)
            return i + (size_t)__builtin_ctz(mask);
    }
#endif
    while (i < len && !needs_escape(text[i]))
        i++;
    return i;
}

/* clean_run() that copies what it passes. @to has room for @len bytes. */
static size_t copy_clean(char *to, const char *text, size_t len)
{
    size_t i = 0;
#ifdef __SSE2__
    for (; len - i >= 16; i += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(text + i));
        _mm_storeu_si128((__m128i *)(void *)(to + i), bytes);
        unsigned mask = escape_mask(bytes);
        if (mask != 0)
            return i + (size_t)__builtin_ctz(mask);
    }
#endif
    for (; i < len && !needs_escape(text[i]); i++)
        to[i] = text[i];
    return i;
}

/* How many of the first bytes are ASCII and not NUL. */
static size_t ascii_run(const char *text, size_t len)
{
    size_t i = 0;
#ifdef __SSE2__
    for (; len - i >= 16; i += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(text + i));
        __m128i nul = _mm_cmpeq_epi8(bytes, _mm_setzero_si128());
        unsigned mask = (unsigned)_mm_movemask_epi8(_mm_or_si128(bytes, nul));
        if (mask != 0)
            return i + (size_t)__builtin_ctz(mask);
    }
#endif
    while (i < len && text[i] > 0)
        i++;
    return i;
}

bool cs_utf8_valid(const char *text, size_t len)
{
    size_t i = 0;
    while (i < len) {
        i += ascii_run(text + i, len - i);
        while (i < len && (unsigned char)text[i] >= 0x80) {
            size_t step = cs_utf8_step((const unsigned char *)text + i, len - i);
            if (step == 0)
                return false;
            i += step;
        }
        if (i < len && text[i] == '\0')
            return false;
    }
    return true;
}

/* Whether the nesting stays within CS_JSON_DEPTH, and how many values there are at most. Text that
 * is not JSON may be counted in any way: jansson stops at the first byte where it differs. */
static bool shallow(const char *text, size_t len, size_t *out_values)
{
    unsigned depth = 0;
    size_t values = 1;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        if (in_string) {
            i += clean_run(text + i, len - i);
            if (i < len && text[i] == '\\')
                i++;
            else
                in_string = i < len && text[i] != '"';
            continue;
        }
        switch (text[i]) {
        case '"':
            in_string = true;
            break;
        case '[':
        case '{':
            if (++depth > CS_JSON_DEPTH)
                return false;
            values++;
            break;
        case ',':
            values++;
            break;
        case ']':
        case '}':
            depth -= depth > 0;
            break;
        default:
            break;
        }
    }
    *out_values = values;
    return true;
}

/* --- memory -------------------------------------------------------------------------------- */

/* jansson 2.14 does not look whether the buffer of its lexer could grow: out of memory it reads
 * wrong values, or past the buffer. So an allocation that fails while it parses never returns to
 * it: it jumps back to load(), which frees the blocks of this parse. */
struct block {
    struct block *prev;
    struct block *next;
    max_align_t data[];
};

struct parse {
    jmp_buf out_of_memory;
    struct block *blocks; /* those not yet freed */
};

/* The parse that runs on this thread, or NULL. */
static _Thread_local struct parse *parse;

static void *take_block(size_t size)
{
    struct block *block = NULL;
    if (size <= SIZE_MAX - sizeof *block)
        block = malloc(sizeof *block + size);
    if (!block && parse)
        longjmp(parse->out_of_memory, 1);
    if (!block)
        return NULL;
    if (parse) {
        *block = (struct block){.next = parse->blocks};
        if (block->next)
            block->next->prev = block;
        parse->blocks = block;
    }
    return block->data;
}

static void free_block(void *data)
{
    if (!data)
        return;
    struct block *block = (struct block *)(void *)((char *)data - offsetof(struct block, data));
    if (parse) { /* while one runs, jansson frees only what that parse has taken */
        if (block->next)
            block->next->prev = block->prev;
        if (block->prev)
            block->prev->next = block->next;
        else
            parse->blocks = block->next;
    }
    free(block);
}

static void set_memory(void)
{
    json_set_alloc_funcs(take_block, free_block);
}

/* json_loadb() that gives NULL and *out_no_memory when an allocation failed. */
static json_t *load(const char *text, size_t len, json_error_t *error, bool *out_no_memory)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, set_memory);
    struct parse here = {.blocks = NULL};
    parse = &here;
    if (setjmp(here.out_of_memory) == 0) {
        json_t *value = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, error);
        parse = NULL;
        *out_no_memory = false;
        return value;
    }
    parse = NULL;
    for (struct block *block = here.blocks, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    *out_no_memory = true;
    return NULL;
}

/* --- parsing ------------------------------------------------------------------------------- */

/* jansson's text ends in "near '<input>'". The input may be a prompt or a secret: leave it out. */
static enum cs_status bad_json(const json_error_t *error, struct cs_err *err)
{
    const char *near = strstr(error->text, " near ");
    int len = near ? (int)(near - error->text) : (int)strlen(error->text);
    return cs_err_set(err, CS_INVALID, "invalid_json", "invalid JSON at line %d, column %d: %.*s",
                      error->line, error->column, len, error->text);
}

enum cs_status cs_json_parse(const char *text, size_t len, size_t max, struct cs_json **out_value,
                             struct cs_err *err)
{
    if (len > max)
        return cs_err_set(err, CS_TOO_LARGE, "json_too_large", "JSON of more than %zu bytes", max);
    size_t values = 0;
    if (!shallow(text, len, &values))
        return cs_err_set(err, CS_INVALID, "invalid_json", "JSON nested deeper than %d",
                          CS_JSON_DEPTH);
    if (values > CS_JSON_VALUES)
        return cs_err_set(err, CS_TOO_LARGE, "json_too_large", "JSON of more than %d values",
                          CS_JSON_VALUES);
    json_error_t error;
    bool no_memory = false;
    json_t *value = load(text, len, &error, &no_memory);
    if (no_memory)
        return cs_err_nomem(err);
    if (!value)
        return bad_json(&error, err);
    *out_value = (struct cs_json *)(void *)value;
    return CS_OK;
}

void cs_json_free(struct cs_json *value)
{
    json_decref((json_t *)(void *)value);
}

/* --- reading ------------------------------------------------------------------------------- */

enum cs_json_type cs_json_type(const struct cs_json *value)
{
    if (!value)
        return CS_JSON_NULL;
    switch (json_typeof(native(value))) {
    case JSON_OBJECT:
        return CS_JSON_OBJECT;
    case JSON_ARRAY:
        return CS_JSON_ARRAY;
    case JSON_STRING:
        return CS_JSON_STRING;
    case JSON_INTEGER:
        return CS_JSON_INT;
    case JSON_REAL:
        return CS_JSON_REAL;
    case JSON_TRUE:
    case JSON_FALSE:
        return CS_JSON_BOOL;
    case JSON_NULL:
        break;
    }
    return CS_JSON_NULL;
}

const struct cs_json *cs_json_get(const struct cs_json *object, const char *key)
{
    return key ? ours(json_object_get(native(object), key)) : NULL;
}

const struct cs_json *cs_json_path(const struct cs_json *value, ...)
{
    va_list keys;
    va_start(keys, value);
    for (const char *key = va_arg(keys, const char *); key && value;
         key = va_arg(keys, const char *))
        value = cs_json_get(value, key);
    va_end(keys);
    return value;
}

size_t cs_json_size(const struct cs_json *array_or_object)
{
    const json_t *value = native(array_or_object);
    return json_is_object(value) ? json_object_size(value) : json_array_size(value);
}

const struct cs_json *cs_json_at(const struct cs_json *array, size_t index)
{
    return ours(json_array_get(native(array), index));
}

const char *cs_json_string(const struct cs_json *value, size_t *out_len)
{
    const char *text = json_string_value(native(value));
    if (text && out_len)
        *out_len = json_string_length(native(value));
    return text;
}

const char *cs_json_get_string(const struct cs_json *object, const char *key)
{
    return cs_json_string(cs_json_get(object, key), NULL);
}

int64_t cs_json_int(const struct cs_json *value, int64_t otherwise)
{
    return json_is_integer(native(value)) ? json_integer_value(native(value)) : otherwise;
}

bool cs_json_bool(const struct cs_json *value, bool otherwise)
{
    return json_is_boolean(native(value)) ? json_is_true(native(value)) : otherwise;
}

bool cs_json_each(const struct cs_json *object,
                  bool (*visit)(const char *key, const struct cs_json *value, void *arg), void *arg)
{
    /* Iterating takes a mutable object, though it changes nothing. */
    json_t *value = (json_t *)(uintptr_t)object;
    for (void *at = json_object_iter(value); at; at = json_object_iter_next(value, at))
        if (!visit(json_object_iter_key(at), ours(json_object_iter_value(at)), arg))
            return false;
    return true;
}

/* --- writing ------------------------------------------------------------------------------- */

static int dump_piece(const char *text, size_t len, void *out)
{
    cs_buf_add(out, text, len);
    return ((struct cs_buf *)out)->status == CS_OK ? 0 : -1;
}

void cs_json_dump(const struct cs_json *value, struct cs_buf *out)
{
    if (out->status != CS_OK)
        return;
    if (!value) {
        cs_buf_adds(out, "null");
        return;
    }
    int rc = json_dump_callback(native(value), dump_piece, out, JSON_COMPACT | JSON_ENCODE_ANY);
    if (rc != 0 && out->status == CS_OK)
        out->status = CS_NO_MEM; /* a parsed value has no other way to fail */
}

/* Write the escape of @c, at most ESCAPE_MAX bytes, and return its length. */
static size_t put_escape(char *to, char c)
{
    static const char hex[] = "0123456789abcdef";
    static const char letters[0x20] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    unsigned char byte = (unsigned char)c;
    to[0] = '\\';
    to[1] = c;
    if (byte < sizeof letters)
        to[1] = letters[byte];
    if (to[1] != '\0')
        return 2;
    memcpy(to + 1, "u00", 3);
    to[4] = hex[byte >> 4];
    to[5] = hex[byte & 15];
    return ESCAPE_MAX;
}

/* Bytes that can be added without asking for memory. */
static size_t room_in(const struct cs_buf *out)
{
    size_t most = out->cap - 1 < out->max ? out->cap - 1 : out->max;
    return most - out->len;
}

/* Most text has few escapes: as long as there is room for the rest and one escape more, nothing is
 * asked of the buffer. */
void cs_json_quote(struct cs_buf *out, const char *text, size_t len)
{
    cs_buf_addc(out, '"');
    while (len > 0) {
        char *to = cs_buf_reserve(out, len + 1);
        if (!to)
            return;
        size_t room = room_in(out);
        for (;;) {
            size_t done = copy_clean(to, text, len);
            text += done;
            len -= done;
            to += done;
            room -= done;
            if (len == 0 || room < len + ESCAPE_MAX)
                break;
            done = put_escape(to, *text++);
            len--;
            to += done;
            room -= done;
        }
        out->len = (size_t)(to - out->data);
        if (len > 0) {
            char escape[ESCAPE_MAX];
            cs_buf_add(out, escape, put_escape(escape, *text++));
            len--;
        }
    }
    cs_buf_addc(out, '"');
}
