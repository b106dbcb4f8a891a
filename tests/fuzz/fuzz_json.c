/* The JSON gate, the quoting and the UTF-8 check on any bytes: no crash, and what comes out agrees
 * with what went in. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/json.h"

#define CAP (16U << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool holds)
{
    if (!holds)
        abort();
}

/* The nesting of compact JSON that jansson wrote. */
static unsigned depth_of(const char *text, size_t len)
{
    unsigned depth = 0;
    unsigned deepest = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        if (in_string && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            in_string = !in_string;
        else if (!in_string && (text[i] == '[' || text[i] == '{'))
            deepest = ++depth > deepest ? depth : deepest;
        else if (!in_string && (text[i] == ']' || text[i] == '}'))
            depth--;
    }
    demand(depth == 0 && !in_string);
    return deepest;
}

/* UTF-8 by its table of bit patterns, slowly. */
static bool utf8_by_the_book(const uint8_t *data, size_t size)
{
    static const uint32_t least[] = {0, 1, 0x80, 0x800, 0x10000};
    for (size_t i = 0; i < size;) {
        uint32_t c = data[i];
        size_t len = c < 0x80 ? 1 : c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : c >> 3 == 30 ? 4 : 0;
        if (len == 0 || len > size - i)
            return false;
        if (len > 1)
            c &= 0x7FU >> len;
        for (size_t k = 1; k < len; k++) {
            if (data[i + k] >> 6 != 2)
                return false;
            c = c << 6 | (data[i + k] & 0x3FU);
        }
        if (c < least[len] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
            return false;
        i += len;
    }
    return true;
}

static void check_parse(const char *text, size_t len)
{
    struct cs_json *value = NULL;
    struct cs_err err = {0};
    enum cs_status status = cs_json_parse(text, len, CAP, &value, &err);
    demand(err.status == status);
    if (status != CS_OK) {
        demand(status == CS_INVALID && !value && err.msg[0] != '\0');
        return;
    }
    struct cs_buf once;
    struct cs_buf twice;
    cs_buf_init(&once, CAP);
    cs_buf_init(&twice, CAP);
    cs_json_dump(value, &once);
    demand(once.status == CS_OK && cs_utf8_valid(once.data, once.len));
    demand(depth_of(once.data, once.len) <= CS_JSON_DEPTH);
    cs_json_free(value);
    demand(cs_json_parse(once.data, once.len, CAP, &value, NULL) == CS_OK);
    cs_json_dump(value, &twice);
    demand(twice.status == CS_OK && strcmp(once.data, twice.data) == 0);
    cs_json_free(value);
    cs_buf_fini(&once);
    cs_buf_fini(&twice);
}

static void check_quote(const char *text, size_t len)
{
    struct cs_buf quoted;
    cs_buf_init(&quoted, CAP);
    cs_json_quote(&quoted, text, len);
    struct cs_json *value = NULL;
    demand(cs_json_parse(quoted.data, quoted.len, CAP, &value, NULL) == CS_OK);
    size_t back_len = 0;
    const char *back = cs_json_string(value, &back_len);
    demand(back && back_len == len && (len == 0 || memcmp(back, text, len) == 0));
    cs_json_free(value);
    cs_buf_fini(&quoted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = size > 0 ? (const char *)data : "";
    check_parse(text, size);
    bool valid = cs_utf8_valid(text, size);
    demand(valid == utf8_by_the_book(data, size));
    if (valid)
        check_quote(text, size);
    return 0;
}
