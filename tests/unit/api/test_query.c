#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "priv.h"

static enum cs_status text_of(const char *query, const char *name, char *out, size_t cap)
{
    struct mg_request_info info = {.query_string = query};
    struct cs_request rq = {.info = &info};

    return cs_query_text(&rq, name, "invalid", out, cap, NULL);
}

static enum cs_status number_of(const char *query, int64_t min, int64_t max, int64_t *value)
{
    const int64_t bounds[2] = {min, max};
    struct mg_request_info info = {.query_string = query};
    struct cs_request rq = {.info = &info};

    return cs_query_int(&rq, "n", "invalid_n", bounds, value, NULL);
}

static void values_are_decoded(void **state)
{
    static const struct {
        const char *query, *value;
    } cases[] = {
        {"user=a", "a"},
        {"x=1&user=a%20b+c&y=", "a b c"},
        {"user=%E6%97%A5", "\xe6\x97\xa5"},
        {"user=", ""},
        {"user", ""},
        {"user=a=b", "a=b"},
        {"users=no&user=yes", "yes"},
    };
    char out[32];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(text_of(cases[i].query, "user", out, sizeof out), CS_OK);
        assert_string_equal(out, cases[i].value);
    }
}

static void an_absent_parameter_is_no_error(void **state)
{
    static const char *const queries[] = {NULL, "", "&", "users=1", "use=1", "x=user"};
    char out[8] = "x";

    (void)state;
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) {
        assert_int_equal(text_of(queries[i], "user", out, sizeof out), CS_OK);
        assert_string_equal(out, "");
    }
}

static void malformed_values_are_refused(void **state)
{
    static const char *const queries[] = {
        "user=%",         "user=%4",       "user=%zz",
        "user=a%00b",     "user=%ff",      "user=a&user=b",
        "user=%ed%a0%80", "user=12345678", "user=%31%32%33%34%35%36%37%38"};
    char out[8];

    (void)state;
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++)
        assert_int_equal(text_of(queries[i], "user", out, sizeof out), CS_INVALID);
    assert_int_equal(text_of("user=1234567", "user", out, sizeof out), CS_OK);
}

static void numbers_are_decimal_and_bounded(void **state)
{
    static const char *const bad[] = {
        "n=-1", "n=+1",    "n=1.0", "n=0x1", "n=%2d1", "n=0", "n=99999999999999999999",
        "n=11", "n=1&n=1", "n= 1"};
    int64_t value = 7;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(number_of(bad[i], 1, 10, &value), CS_INVALID);
    assert_int_equal(value, 7);
    assert_int_equal(number_of("m=1", 1, 10, &value), CS_OK);
    assert_int_equal(number_of("n=", 1, 10, &value), CS_OK);
    assert_int_equal(value, 7);
    assert_int_equal(number_of("n=10", 1, 10, &value), CS_OK);
    assert_int_equal(value, 10);
    assert_int_equal(number_of("n=9007199254740992", 1, 9007199254740991, &value), CS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_decoded),
        cmocka_unit_test(an_absent_parameter_is_no_error),
        cmocka_unit_test(malformed_values_are_refused),
        cmocka_unit_test(numbers_are_decimal_and_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
