/* Version vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cs/base/vector.h"

#define ok(expression) assert_int_equal(CS_OK, (expression))

static struct cs_vector make(int64_t a, int64_t b)
{
    struct cs_vector vector = {0};

    if (a > 0)
        ok(cs_vector_raise(&vector, 10, a, NULL));
    if (b > 0)
        ok(cs_vector_raise(&vector, 7, b, NULL));
    return vector;
}

static void raising_keeps_the_greatest_and_the_order(void **state)
{
    struct cs_vector vector = make(3, 5);

    (void)state;
    ok(cs_vector_raise(&vector, 10, 2, NULL));
    ok(cs_vector_raise(&vector, 7, 6, NULL));
    assert_int_equal(2, vector.count);
    assert_int_equal(7, vector.items[0].origin);
    assert_int_equal(6, cs_vector_get(&vector, 7));
    assert_int_equal(3, cs_vector_get(&vector, 10));
    assert_int_equal(0, cs_vector_get(&vector, 8));
    cs_vector_fini(&vector);
}

static void less_or_equal_looks_at_every_origin(void **state)
{
    static const struct {
        int64_t a1, a2, b1, b2;
        bool le;
    } cases[] = {{1, 1, 1, 1, true},  {1, 0, 1, 1, true}, {1, 1, 1, 0, false},
                 {2, 1, 1, 9, false}, {0, 0, 0, 0, true}, {1, 9, 2, 8, false}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cs_vector a = make(cases[i].a1, cases[i].a2), b = make(cases[i].b1, cases[i].b2);

        assert_int_equal(cases[i].le, cs_vector_le(&a, &b));
        cs_vector_fini(&a);
        cs_vector_fini(&b);
    }
}

static void a_join_has_all_of_both(void **state)
{
    struct cs_vector a = make(3, 1), b = make(2, 4);

    (void)state;
    ok(cs_vector_join(&a, &b, NULL));
    assert_int_equal(3, cs_vector_get(&a, 10));
    assert_int_equal(4, cs_vector_get(&a, 7));
    cs_vector_fini(&a);
    cs_vector_fini(&b);
}

static void what_is_written_is_read_again(void **state)
{
    struct cs_vector vector = make(3, 5), again = {0};
    struct cs_buf text;

    (void)state;
    cs_buf_init(&text, 1000);
    cs_vector_write(&vector, &text);
    assert_string_equal("{\"0000000000000007\":5,\"000000000000000a\":3}", text.data);
    ok(cs_vector_parse(text.data, text.len, &again, NULL));
    assert_true(cs_vector_le(&vector, &again) && cs_vector_le(&again, &vector));
    cs_buf_fini(&text);
    cs_vector_fini(&vector);
    cs_vector_fini(&again);
}

static void anything_else_is_refused(void **state)
{
    static const char *const texts[] = {
        "[]",
        "{\"7\":1}",
        "{\"0000000000000007\":0}",
        "{\"0000000000000007\":-1}",
        "{\"0000000000000007\":\"1\"}",
        "{\"000000000000000A\":1}",
        "{\"ffffffffffffffff\":1}",
        "{\"0000000000000000\":1}",
        "{",
    };
    struct cs_vector vector = {0};

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_not_equal(CS_OK, cs_vector_parse(texts[i], strlen(texts[i]), &vector, NULL));
    assert_int_equal(0, vector.count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raising_keeps_the_greatest_and_the_order),
        cmocka_unit_test(less_or_equal_looks_at_every_origin),
        cmocka_unit_test(a_join_has_all_of_both),
        cmocka_unit_test(what_is_written_is_read_again),
        cmocka_unit_test(anything_else_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
