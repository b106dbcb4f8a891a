#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cs/base/buf.h"
#include "fault.h"

static void additions_follow_each_other_and_end_in_nul(void **state)
{
    (void)state;
    struct cs_buf buf;
    cs_buf_init(&buf, 1000);
    cs_buf_adds(&buf, "one ");
    cs_buf_add(&buf, "two three", 4);
    cs_buf_addc(&buf, '3');
    cs_buf_addf(&buf, " %d%s", 4, "!");
    assert_int_equal(buf.len, 12);
    assert_string_equal(buf.data, "one two 3 4!");
    assert_int_equal(cs_buf_check(&buf, NULL), CS_OK);
    cs_buf_fini(&buf);
}

static void the_cap_is_exact(void **state)
{
    (void)state;
    for (size_t cap = 0; cap < 300; cap++) {
        struct cs_buf buf;
        cs_buf_init(&buf, cap);
        for (size_t i = 0; i < cap; i++)
            cs_buf_addc(&buf, 'x');
        assert_int_equal(buf.status, CS_OK);
        assert_int_equal(buf.len, cap);
        cs_buf_addc(&buf, 'y');
        assert_int_equal(buf.status, CS_TOO_LARGE);
        assert_int_equal(buf.len, cap);
        assert_true(buf.cap <= (cap + 1 > 64 ? cap + 1 : 64));
        cs_buf_fini(&buf);
    }
}

static void a_failure_sticks_until_reset(void **state)
{
    (void)state;
    struct cs_buf buf;
    cs_buf_init(&buf, 5);
    cs_buf_adds(&buf, "123");
    cs_buf_adds(&buf, "456");
    cs_buf_adds(&buf, "7");
    cs_buf_addf(&buf, "%d", 8);
    assert_null(cs_buf_reserve(&buf, 1));
    assert_null(cs_buf_take(&buf, NULL));
    assert_string_equal(buf.data, "123");
    struct cs_err err = {0};
    assert_int_equal(cs_buf_check(&buf, &err), CS_TOO_LARGE);
    assert_string_equal(err.code, "too_large");
    cs_buf_reset(&buf);
    cs_buf_adds(&buf, "12345");
    assert_string_equal(buf.data, "12345");
    assert_int_equal(cs_buf_check(&buf, NULL), CS_OK);
    cs_buf_fini(&buf);
}

static void a_size_that_would_wrap_is_too_large(void **state)
{
    (void)state;
    struct cs_buf buf;
    cs_buf_init(&buf, SIZE_MAX);
    cs_buf_addc(&buf, 'x');
    assert_null(cs_buf_reserve(&buf, SIZE_MAX));
    assert_int_equal(buf.status, CS_TOO_LARGE);
    cs_buf_reset(&buf);
    cs_buf_addc(&buf, 'x');
    assert_null(cs_buf_reserve(&buf, SIZE_MAX - 1));
    assert_int_equal(buf.status, CS_TOO_LARGE);
    cs_buf_fini(&buf);
}

static void reserve_gives_room_to_write(void **state)
{
    (void)state;
    struct cs_buf buf;
    cs_buf_init(&buf, 4096);
    cs_buf_adds(&buf, "ab");
    char *room = cs_buf_reserve(&buf, 1000);
    assert_non_null(room);
    memset(room, 'z', 1000);
    buf.len += 1000;
    assert_int_equal(buf.data[1002], '\0');
    assert_memory_equal(buf.data, "abzz", 4);
    cs_buf_fini(&buf);
}

static void consume_moves_the_rest_down(void **state)
{
    (void)state;
    struct cs_buf buf;
    cs_buf_init(&buf, 100);
    cs_buf_consume(&buf, 0);
    cs_buf_adds(&buf, "line\nnext");
    cs_buf_consume(&buf, 5);
    assert_string_equal(buf.data, "next");
    assert_int_equal(buf.len, 4);
    cs_buf_consume(&buf, 4);
    assert_string_equal(buf.data, "");
    cs_buf_fini(&buf);
}

static void take_hands_over_the_bytes(void **state)
{
    (void)state;
    struct cs_buf buf;
    cs_buf_init(&buf, 100);
    size_t len = 99;
    char *empty = cs_buf_take(&buf, &len);
    assert_string_equal(empty, "");
    assert_int_equal(len, 0);
    cs_buf_adds(&buf, "mine");
    char *text = cs_buf_take(&buf, &len);
    assert_string_equal(text, "mine");
    assert_int_equal(len, 4);
    assert_null(buf.data);
    cs_buf_adds(&buf, "more");
    assert_string_equal(buf.data, "more");
    cs_buf_fini(&buf);
    free(text);
    free(empty);
}

static void build(void *arg)
{
    (void)arg;
    struct cs_buf buf;
    cs_buf_init(&buf, 100000);
    for (int i = 0; i < 2000; i++)
        cs_buf_addf(&buf, "%d,", i);
    if (fault_hit()) {
        assert_int_equal(cs_buf_check(&buf, NULL), CS_NO_MEM);
        assert_null(cs_buf_take(&buf, NULL));
    } else {
        assert_int_equal(cs_buf_check(&buf, NULL), CS_OK);
        assert_int_equal(buf.len, 8890);
    }
    cs_buf_fini(&buf);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    assert_true(fault_sweep(build, NULL) >= 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(additions_follow_each_other_and_end_in_nul),
        cmocka_unit_test(the_cap_is_exact),
        cmocka_unit_test(a_failure_sticks_until_reset),
        cmocka_unit_test(a_size_that_would_wrap_is_too_large),
        cmocka_unit_test(reserve_gives_room_to_write),
        cmocka_unit_test(consume_moves_the_rest_down),
        cmocka_unit_test(take_hands_over_the_bytes),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
