#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cs/base/json.h"
#include "cs/base/thread.h"
#include "fault.h"

#define CAP 1000000

static enum cs_status parse_bytes(const char *text, size_t len, struct cs_json **out,
                                  struct cs_err *err)
{
    return cs_json_parse(text, len, CAP, out, err);
}

static struct cs_json *parse(const char *text)
{
    struct cs_json *value = NULL;
    struct cs_err err = {0};
    if (parse_bytes(text, strlen(text), &value, &err) != CS_OK)
        fail_msg("%s: %s", text, err.msg);
    return value;
}

static void refused(const char *text, size_t len)
{
    struct cs_json *value = NULL;
    struct cs_err err = {0};
    assert_int_equal(parse_bytes(text, len, &value, &err), CS_INVALID);
    assert_string_equal(err.code, "invalid_json");
    assert_null(value);
}

static void values_read_back(void **state)
{
    (void)state;
    struct cs_json *v =
        parse("{\"s\":\"a\\u00e9\\ud83d\\ude00\\n\",\"i\":-9223372036854775808,\"t\":true,"
              "\"n\":null,\"r\":1.5,\"a\":[1,\"two\",{\"deep\":{\"er\":7}}]}");
    size_t len = 0;
    assert_string_equal(cs_json_string(cs_json_get(v, "s"), &len), "aé😀\n");
    assert_int_equal(len, 8);
    assert_string_equal(cs_json_get_string(v, "s"), "aé😀\n");
    assert_true(cs_json_int(cs_json_get(v, "i"), 1) == INT64_MIN);
    assert_true(cs_json_bool(cs_json_get(v, "t"), false));
    assert_int_equal(cs_json_type(cs_json_get(v, "n")), CS_JSON_NULL);
    assert_int_equal(cs_json_type(cs_json_get(v, "r")), CS_JSON_REAL);
    assert_int_equal(cs_json_type(cs_json_get(v, "t")), CS_JSON_BOOL);
    assert_int_equal(cs_json_type(v), CS_JSON_OBJECT);
    assert_int_equal(cs_json_size(v), 6);
    const struct cs_json *a = cs_json_get(v, "a");
    assert_int_equal(cs_json_size(a), 3);
    assert_int_equal(cs_json_int(cs_json_at(a, 0), 0), 1);
    assert_int_equal(cs_json_int(cs_json_path(cs_json_at(a, 2), "deep", "er", (char *)NULL), 0), 7);
    assert_null(cs_json_path(v, "a", "deep", (char *)NULL));
    cs_json_free(v);
}

static void what_is_not_there_reads_as_the_default(void **state)
{
    (void)state;
    struct cs_json *v = parse("{\"s\":\"x\",\"i\":5,\"r\":5.0}");
    assert_null(cs_json_get(NULL, "a"));
    assert_null(cs_json_get(v, NULL));
    assert_null(cs_json_get(v, "a"));
    assert_null(cs_json_get(cs_json_get(v, "s"), "a"));
    assert_null(cs_json_at(v, 0));
    assert_null(cs_json_at(NULL, 0));
    assert_null(cs_json_string(cs_json_get(v, "i"), NULL));
    assert_null(cs_json_get_string(NULL, "s"));
    assert_int_equal(cs_json_int(NULL, -3), -3);
    assert_int_equal(cs_json_int(cs_json_get(v, "r"), -3), -3);
    assert_int_equal(cs_json_int(cs_json_get(v, "s"), -3), -3);
    assert_true(cs_json_bool(cs_json_get(v, "i"), true));
    assert_int_equal(cs_json_size(NULL), 0);
    assert_int_equal(cs_json_size(cs_json_get(v, "s")), 0);
    assert_int_equal(cs_json_type(NULL), CS_JSON_NULL);
    assert_null(cs_json_path(NULL, "a", (char *)NULL));
    cs_json_free(v);
    cs_json_free(NULL);
}

static void any_value_may_be_the_root(void **state)
{
    (void)state;
    static const char *const roots[] = {"true", "null", "\"x\"", "12", "[]", " {} \n"};
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++)
        cs_json_free(parse(roots[i]));
}

static void malformed_text_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "[1] 2",
        "{}{}",
        "nul",
        "'x'",
        "01",
        "1.",
        "+1",
        "\"\\x\"",
        "\"a\nb\"",
        "\"unended",
        "\"esc\\",
        "{\"a\":1,\"a\":2}",
        "9223372036854775808",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "1e999",
        "\"\\u0000\"",
        "{\"\\u0000\":1}",
        "\"\\ud800\"",
        "\"\\ude00\\ud83d\"",
        "\"\xff\"",
        "\"\xc0\xaf\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xe6\x97\"",
        "]",
        "}",
        "NaN",
        "\xef\xbb\xbf{}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(bad[i], strlen(bad[i]));
    refused("{}\0", 3);
    refused("\"a\0b\"", 5);
    refused("\0", 1);
}

static void errors_do_not_quote_the_input(void **state)
{
    (void)state;
    static const char *const bad[] = {"{\"a\":\"sk-secret\n\"}",
                                      "{\"sk-secret\":1,\"sk-secret\":2}", "[\"x\" sk-secret]",
                                      "{\"a\":\"x\" \"sk-secret\"}", "\"sk-secret"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct cs_json *value = NULL;
        struct cs_err err = {0};
        assert_int_equal(parse_bytes(bad[i], strlen(bad[i]), &value, &err), CS_INVALID);
        assert_null(strstr(err.msg, "secret"));
        assert_non_null(strstr(err.msg, "line "));
    }
}

/* @open @depth times, @middle, @close @depth times. */
static char *nest(const char *open, const char *middle, const char *close, int depth)
{
    struct cs_buf buf;
    cs_buf_init(&buf, CAP);
    for (int i = 0; i < depth; i++)
        cs_buf_adds(&buf, open);
    cs_buf_adds(&buf, middle);
    for (int i = 0; i < depth; i++)
        cs_buf_adds(&buf, close);
    char *text = cs_buf_take(&buf, NULL);
    assert_non_null(text);
    return text;
}

static void nesting_is_accepted_to_the_limit_and_no_further(void **state)
{
    (void)state;
    static const char *const shapes[][3] = {{"[", "1", "]"}, {"{\"a\":", "1", "}"}};
    for (size_t i = 0; i < 2; i++) {
        char *deepest = nest(shapes[i][0], shapes[i][1], shapes[i][2], CS_JSON_DEPTH);
        cs_json_free(parse(deepest));
        free(deepest);
        char *deeper = nest(shapes[i][0], shapes[i][1], shapes[i][2], CS_JSON_DEPTH + 1);
        refused(deeper, strlen(deeper));
        free(deeper);
    }
    char *bomb = nest("[", "", "", 400000);
    struct cs_json *value = NULL;
    struct cs_err err = {0};
    assert_int_equal(parse_bytes(bomb, strlen(bomb), &value, &err), CS_INVALID);
    assert_non_null(strstr(err.msg, "nested deeper than 64"));
    free(bomb);
}

/* A million objects of two bytes each would cost hundreds of megabytes. */
static void values_are_accepted_to_the_limit_and_no_further(void **state)
{
    (void)state;
    static const char *const items[] = {"1,", "{},"};
    for (size_t i = 0; i < 2; i++) {
        size_t each = i + 1, most = (CS_JSON_VALUES - 2) / each; /* the list and its last item */
        struct cs_json *value = NULL;
        struct cs_err err = {0};
        struct cs_buf list;
        cs_buf_init(&list, 4 << 20);
        cs_buf_addc(&list, '[');
        for (size_t n = 0; n < most; n++)
            cs_buf_adds(&list, items[i]);
        cs_buf_adds(&list, "1]");
        assert_int_equal(cs_json_parse(list.data, list.len, list.len, &value, &err), CS_OK);
        assert_int_equal(cs_json_size(value), most + 1);
        cs_json_free(value);
        list.len -= 2;
        cs_buf_addf(&list, "%s%s1]", items[i], items[i]);
        assert_int_equal(cs_json_parse(list.data, list.len, list.len, &value, &err), CS_TOO_LARGE);
        assert_string_equal(err.code, "json_too_large");
        cs_buf_fini(&list);
    }
}

static void brackets_in_strings_do_not_count(void **state)
{
    (void)state;
    char *brackets = nest("[", "", "", 500);
    char text[1024];
    /* An escaped quote does not end the string, an escaped backslash before a quote does. */
    (void)snprintf(text, sizeof text, "[\"\\\"%s\",\"\\\\\"]", brackets);
    struct cs_json *v = parse(text);
    assert_int_equal(cs_json_size(v), 2);
    assert_string_equal(cs_json_string(cs_json_at(v, 1), NULL), "\\");
    cs_json_free(v);
    (void)snprintf(text, sizeof text, "[\"\\\\\",%s", brackets);
    refused(text, strlen(text));
    free(brackets);
    char *closed = nest("[],", "1", "", 500);
    char list[2048];
    (void)snprintf(list, sizeof list, "[%s]", closed);
    cs_json_free(parse(list));
    free(closed);
}

static void text_past_its_cap_is_too_large(void **state)
{
    (void)state;
    struct cs_json *value = NULL;
    struct cs_err err = {0};
    assert_int_equal(cs_json_parse("[1]", 3, 2, &value, &err), CS_TOO_LARGE);
    assert_string_equal(err.code, "json_too_large");
    assert_int_equal(cs_json_parse("[1]", 3, 3, &value, NULL), CS_OK);
    cs_json_free(value);
}

struct seen {
    int members;
    int stop_at;
};

static bool count_member(const char *key, const struct cs_json *value, void *arg)
{
    struct seen *seen = arg;
    assert_int_equal(key[0] - 'a', cs_json_int(value, -1));
    return ++seen->members != seen->stop_at;
}

static void each_visits_members_until_told_to_stop(void **state)
{
    (void)state;
    struct cs_json *v = parse("{\"a\":0,\"b\":1,\"c\":2}");
    struct seen seen = {0};
    assert_true(cs_json_each(v, count_member, &seen));
    assert_int_equal(seen.members, 3);
    seen = (struct seen){.stop_at = 2};
    assert_false(cs_json_each(v, count_member, &seen));
    assert_int_equal(seen.members, 2);
    assert_true(cs_json_each(NULL, count_member, &seen));
    cs_json_free(v);
}

static const char *const big = "{\"list\":[1,2.5,\"text that is longer than sixteen bytes, so "
                               "that the lexer's buffer grows\",true,null,[[]],{}],"
                               "\"number\":1234567890123456789,\"日本\":\"語 \\u8a9e \\\" \\\\\"}";
static const char *const big_dumped =
    "{\"list\":[1,2.5,\"text that is longer than sixteen bytes, so "
    "that the lexer's buffer grows\",true,null,[[]],{}],"
    "\"number\":1234567890123456789,\"日本\":\"語 語 \\\" \\\\\"}";

static void a_dump_is_compact_and_faithful(void **state)
{
    (void)state;
    struct cs_json *v = parse(big);
    struct cs_buf out;
    cs_buf_init(&out, CAP);
    cs_json_dump(v, &out);
    assert_string_equal(out.data, big_dumped);
    cs_buf_reset(&out);
    cs_json_dump(NULL, &out);
    assert_string_equal(out.data, "null");
    cs_buf_fini(&out);
    cs_buf_init(&out, 10);
    cs_json_dump(v, &out);
    assert_int_equal(out.status, CS_TOO_LARGE);
    cs_buf_fini(&out);
    cs_json_free(v);
}

static void parse_and_dump(void *arg)
{
    (void)arg;
    struct cs_json *value = NULL;
    struct cs_err err = {0};
    enum cs_status status = parse_bytes(big, strlen(big), &value, &err);
    struct cs_buf out;
    cs_buf_init(&out, CAP);
    if (status == CS_OK) {
        cs_json_dump(value, &out);
        status = cs_buf_check(&out, &err);
    }
    assert_int_equal(status, fault_hit() ? CS_NO_MEM : CS_OK);
    assert_int_equal(err.status, status);
    if (status == CS_OK)
        assert_string_equal(out.data, big_dumped);
    cs_buf_fini(&out);
    cs_json_free(value);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    assert_true(fault_sweep(parse_and_dump, NULL) > 20);
}

static void *parse_nested(void *arg)
{
    struct cs_json *value = NULL;
    *(enum cs_status *)arg = parse_bytes(big, strlen(big), &value, NULL);
    cs_json_free(value);
    value = NULL;
    char *deepest = nest("{\"a\":", "1", "}", CS_JSON_DEPTH);
    if (parse_bytes(deepest, strlen(deepest), &value, NULL) == CS_OK) {
        struct cs_buf out;
        cs_buf_init(&out, CAP);
        cs_json_dump(value, &out);
        if (!out.data || strcmp(out.data, deepest) != 0)
            *(enum cs_status *)arg = CS_INTERNAL;
        cs_buf_fini(&out);
    }
    free(deepest);
    cs_json_free(value);
    return NULL;
}

static void the_deepest_value_fits_a_small_stack(void **state)
{
    (void)state;
    enum cs_status status = CS_INTERNAL;
    pthread_t thread;
    assert_int_equal(cs_thread_start(&thread, "small", 65536, parse_nested, &status, NULL), CS_OK);
    (void)pthread_join(thread, NULL);
    assert_int_equal(status, CS_OK);
}

/* Characters that end at every offset of a 16-byte block, quoted and parsed again. */
static void quoting_round_trips_at_every_alignment(void **state)
{
    (void)state;
    static const char *const pieces[] = {"\"",   "\\", "\n", "\x01", "\x1f",
                                         "\x7f", "/",  "é",  "日",   "😀"};
    struct cs_buf out;
    cs_buf_init(&out, CAP);
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        for (size_t before = 0; before < 40; before++) {
            char text[128] = {0};
            memset(text, 'x', before);
            memcpy(text + before, pieces[p], strlen(pieces[p]));
            memset(text + strlen(text), 'y', before % 19);
            cs_buf_reset(&out);
            cs_json_quote(&out, text, strlen(text));
            assert_int_equal(out.status, CS_OK);
            assert_int_equal(out.data[out.len], '\0');
            struct cs_json *v = parse(out.data);
            assert_string_equal(cs_json_string(v, NULL), text);
            cs_json_free(v);
        }
    }
    cs_buf_fini(&out);
}

static void quoting_uses_the_short_escapes(void **state)
{
    (void)state;
    struct cs_buf out;
    cs_buf_init(&out, CAP);
    cs_json_quote(&out, "a\"\\\b\f\n\r\t\x01\x1f\0z\x7f/é", 16);
    assert_string_equal(out.data, "\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\\u0000z\x7f/é\"");
    cs_buf_reset(&out);
    cs_json_quote(&out, NULL, 0);
    assert_string_equal(out.data, "\"\"");
    cs_buf_fini(&out);
    cs_buf_init(&out, 9);
    cs_json_quote(&out, "1234567", 7);
    assert_int_equal(out.status, CS_OK);
    cs_buf_reset(&out);
    cs_json_quote(&out, "12345678", 8);
    assert_int_equal(out.status, CS_TOO_LARGE);
    cs_buf_fini(&out);
}

static void quoting_is_exact_at_the_cap(void **state)
{
    (void)state;
    char text[200];
    for (size_t len = 0; len < sizeof text; len++) {
        size_t need = 2;
        for (size_t i = 0; i < len; i++) {
            text[i] = i % 7 == 3 ? '\x02' : i % 5 == 1 ? '\n' : 'x';
            need += i % 7 == 3 ? 6 : i % 5 == 1 ? 2 : 1;
        }
        for (size_t cap = need - 1; cap <= need; cap++) {
            struct cs_buf out;
            cs_buf_init(&out, cap);
            cs_json_quote(&out, text, len);
            assert_int_equal(out.status, cap == need ? CS_OK : CS_TOO_LARGE);
            assert_true(out.len <= cap);
            if (cap == need)
                assert_int_equal(out.len, need);
            cs_buf_fini(&out);
        }
    }
}

static void utf8_is_judged_strictly(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        bool valid;
    } cases[] = {
        {"", 0, true},
        {"p", 1, true},
        {"\x7f", 1, true},
        {"\xc2\x80", 2, true},
        {"\xdf\xbf", 2, true},
        {"\xe0\xa0\x80", 3, true},
        {"\xed\x9f\xbf", 3, true},
        {"\xee\x80\x80", 3, true},
        {"\xef\xbf\xbf", 3, true},
        {"\xf0\x90\x80\x80", 4, true},
        {"\xf4\x8f\xbf\xbf", 4, true},
        {"\0", 1, false},
        {"\x80", 1, false},
        {"\xbf", 1, false},
        {"\xc0\x80", 2, false},
        {"\xc1\xbf", 2, false},
        {"\xc2", 1, false},
        {"\xc2\x41", 2, false},
        {"\xc2\xc2", 2, false},
        {"\xe0\x9f\xbf", 3, false},
        {"\xe0\xa0", 2, false},
        {"\xe0\xa0\x41", 3, false},
        {"\xed\xa0\x80", 3, false},
        {"\xed\xbf\xbf", 3, false},
        {"\xf0\x8f\xbf\xbf", 4, false},
        {"\xf0\x90\x80", 3, false},
        {"\xf4\x90\x80\x80", 4, false},
        {"\xf5\x80\x80\x80", 4, false},
        {"\xff", 1, false},
        {"\xfe", 1, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t before = 0; before < 35; before++) {
            char text[80];
            memset(text, 'x', sizeof text);
            memcpy(text + before, cases[i].text, cases[i].len);
            assert_int_equal(cs_utf8_valid(text, before + cases[i].len), cases[i].valid);
            /* ASCII after it makes a cut character wrong, and nothing right. */
            assert_int_equal(cs_utf8_valid(text, before + cases[i].len + 20), cases[i].valid);
            /* What completes a character must lie within the length. */
            if (cases[i].valid && cases[i].len > 1)
                assert_false(cs_utf8_valid(text, before + cases[i].len - 1));
        }
    }
}

static void a_writer_puts_commas_keys_and_brackets(void **state)
{
    (void)state;
    struct cs_buf out;
    cs_buf_init(&out, CAP);
    struct cs_jsonw w;
    cs_jsonw_init(&w, &out);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "s", "q\"");
    cs_jsonw_stringn(&w, "n", "abc", 2);
    cs_jsonw_string(&w, "none", NULL);
    cs_jsonw_array(&w, "list");
    cs_jsonw_int(&w, NULL, 0);
    cs_jsonw_int(&w, NULL, INT64_MIN);
    cs_jsonw_int(&w, NULL, INT64_MAX);
    cs_jsonw_int(&w, NULL, -10);
    cs_jsonw_array(&w, NULL);
    cs_jsonw_int(&w, NULL, 1);
    cs_jsonw_end_array(&w);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_int(&w, "k", 2);
    cs_jsonw_end_object(&w);
    cs_jsonw_array(&w, NULL);
    cs_jsonw_end_array(&w);
    cs_jsonw_end_array(&w);
    cs_jsonw_bool(&w, "yes", true);
    cs_jsonw_bool(&w, "no", false);
    cs_jsonw_null(&w, "nil");
    cs_jsonw_time(&w, "at", 1);
    cs_jsonw_time(&w, "never", 0);
    cs_jsonw_raw(&w, "raw", "{\"x\":1}", 7);
    cs_jsonw_end_object(&w);
    assert_string_equal(
        out.data, "{\"s\":\"q\\\"\",\"n\":\"ab\",\"none\":null,"
                  "\"list\":[0,-9223372036854775808,9223372036854775807,-10,[1],{\"k\":2},[]],"
                  "\"yes\":true,\"no\":false,\"nil\":null,"
                  "\"at\":\"1970-01-01T00:00:00.001Z\",\"never\":null,\"raw\":{\"x\":1}}");
    cs_json_free(parse(out.data));
    cs_buf_fini(&out);
}

static void a_writer_nests_63_deep(void **state)
{
    (void)state;
    struct cs_buf out;
    cs_buf_init(&out, CAP);
    struct cs_jsonw w;
    cs_jsonw_init(&w, &out);
    for (int i = 0; i < 63; i++) {
        cs_jsonw_array(&w, NULL);
        cs_jsonw_int(&w, NULL, i);
    }
    for (int i = 0; i < 63; i++) {
        cs_jsonw_end_array(&w);
        if (i < 62)
            cs_jsonw_int(&w, NULL, i);
    }
    struct cs_json *v = parse(out.data);
    assert_int_equal(cs_json_size(v), 3);
    cs_json_free(v);
    cs_buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_read_back),
        cmocka_unit_test(what_is_not_there_reads_as_the_default),
        cmocka_unit_test(any_value_may_be_the_root),
        cmocka_unit_test(malformed_text_is_refused),
        cmocka_unit_test(errors_do_not_quote_the_input),
        cmocka_unit_test(nesting_is_accepted_to_the_limit_and_no_further),
        cmocka_unit_test(values_are_accepted_to_the_limit_and_no_further),
        cmocka_unit_test(brackets_in_strings_do_not_count),
        cmocka_unit_test(text_past_its_cap_is_too_large),
        cmocka_unit_test(each_visits_members_until_told_to_stop),
        cmocka_unit_test(a_dump_is_compact_and_faithful),
        cmocka_unit_test(every_failed_allocation_is_reported),
        cmocka_unit_test(the_deepest_value_fits_a_small_stack),
        cmocka_unit_test(quoting_round_trips_at_every_alignment),
        cmocka_unit_test(quoting_uses_the_short_escapes),
        cmocka_unit_test(quoting_is_exact_at_the_cap),
        cmocka_unit_test(utf8_is_judged_strictly),
        cmocka_unit_test(a_writer_puts_commas_keys_and_brackets),
        cmocka_unit_test(a_writer_nests_63_deep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
