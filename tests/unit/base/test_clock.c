#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

#include "cs/base/clock.h"

static void iso_agrees_with_the_c_library(void **state)
{
    (void)state;
    /* Steps of 9 days and a bit, from the year 1 to 9999. */
    for (int64_t ms = -62135596800000; ms < 253402300799999; ms += 7919 * 101011LL) {
        int64_t seconds = ms / 1000 - (ms % 1000 < 0);
        time_t when = (time_t)seconds;
        struct tm tm;
        assert_non_null(gmtime_r(&when, &tm));
        char expected[64];
        (void)snprintf(expected, sizeof expected, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ",
                       tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
                       tm.tm_sec, (int)(ms - seconds * 1000));
        char iso[CS_ISO_MAX];
        cs_clock_iso(ms, iso);
        assert_string_equal(iso, expected);
    }
}

static void iso_knows_leap_days_and_its_limits(void **state)
{
    (void)state;
    static const struct {
        int64_t ms;
        const char *iso;
    } cases[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {-1, "1969-12-31T23:59:59.999Z"},
        {951782399999, "2000-02-28T23:59:59.999Z"},
        {951782400000, "2000-02-29T00:00:00.000Z"},
        {4107542400000, "2100-03-01T00:00:00.000Z"},
        {1795340783123, "2026-11-22T09:46:23.123Z"},
        {INT64_MIN, "0000-01-01T00:00:00.000Z"},
        {INT64_MAX, "9999-12-31T23:59:59.999Z"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char iso[CS_ISO_MAX];
        cs_clock_iso(cases[i].ms, iso);
        assert_string_equal(iso, cases[i].iso);
    }
}

static int64_t frozen(void)
{
    return 42;
}

static void the_wall_clock_can_be_overridden(void **state)
{
    (void)state;
    cs_clock_override(frozen);
    assert_int_equal(cs_clock_ms(), 42);
    cs_clock_override(NULL);
    assert_true(cs_clock_ms() > 1700000000000);
}

static void monotonic_time_does_not_go_back(void **state)
{
    (void)state;
    int64_t before = cs_mono_us();
    assert_true(cs_mono_us() >= before);
    assert_true(cs_mono_ms() >= before / 1000);
}

static void a_hybrid_clock_always_moves_on(void **state)
{
    (void)state;
    assert_int_equal(cs_hlc_next(0, 1000), 1000 << 16);
    assert_int_equal(cs_hlc_next(1000 << 16, 1000), (1000 << 16) + 1);
    assert_int_equal(cs_hlc_next(5000 << 16, 1000), (5000 << 16) + 1);
    assert_int_equal(cs_hlc_next(7, -5), 8);
    assert_true(cs_hlc_next(0, INT64_MAX) > 0);
    assert_true(cs_hlc_next(INT64_MAX, 0) == INT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(iso_agrees_with_the_c_library),
        cmocka_unit_test(iso_knows_leap_days_and_its_limits),
        cmocka_unit_test(the_wall_clock_can_be_overridden),
        cmocka_unit_test(monotonic_time_does_not_go_back),
        cmocka_unit_test(a_hybrid_clock_always_moves_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
