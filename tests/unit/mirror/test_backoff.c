#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cs/mirror/redis.h"

/* The greatest and the least of many first, second, … waits. */
static void spread(enum cs_redis_class class, unsigned nth, int64_t *least, int64_t *most)
{
    *least = INT64_MAX;
    *most = -1;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        struct cs_backoff backoff;
        int64_t wait = 0;
        cs_backoff_init(&backoff, seed);
        for (unsigned i = 0; i < nth; i++)
            wait = cs_backoff_next(&backoff, class);
        *least = wait < *least ? wait : *least;
        *most = wait > *most ? wait : *most;
    }
}

static void waits_fill_a_window_that_doubles_up_to_its_limit(void **state)
{
    (void)state;
    static const struct {
        enum cs_redis_class class;
        unsigned nth;
        int64_t from, to;
    } cases[] = {
        {CS_REDIS_LOST, 1, 0, 500},           {CS_REDIS_LOST, 2, 0, 1000},
        {CS_REDIS_LOST, 4, 0, 4000},          {CS_REDIS_LOST, 20, 0, 60000},
        {CS_REDIS_READONLY, 3, 0, 2000},      {CS_REDIS_FULL, 1, 0, 1000},
        {CS_REDIS_FULL, 30, 0, 900000},       {CS_REDIS_DENIED, 1, 300000, 900000},
        {CS_REDIS_DENIED, 9, 300000, 900000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t least, most, width = cases[i].to - cases[i].from;
        spread(cases[i].class, cases[i].nth, &least, &most);
        assert_in_range(least, cases[i].from, cases[i].from + width / 20);
        assert_in_range(most, cases[i].to - width / 20, cases[i].to);
    }
}

static void some_classes_do_not_wait(void **state)
{
    (void)state;
    static const enum cs_redis_class classes[] = {CS_REDIS_FINE, CS_REDIS_LARGE, CS_REDIS_NOSCRIPT,
                                                  CS_REDIS_REFUSED, CS_REDIS_STOPPED};
    struct cs_backoff backoff;
    cs_backoff_init(&backoff, 1);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(cs_backoff_next(&backoff, classes[i]), 0);
}

static void the_same_seed_gives_the_same_waits(void **state)
{
    (void)state;
    struct cs_backoff a, b;
    cs_backoff_init(&a, 42);
    cs_backoff_init(&b, 42);
    for (int i = 0; i < 50; i++)
        assert_int_equal(cs_backoff_next(&a, CS_REDIS_LOST), cs_backoff_next(&b, CS_REDIS_LOST));
}

static void a_success_or_another_trouble_begins_anew(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 500; seed++) {
        struct cs_backoff backoff;
        cs_backoff_init(&backoff, seed);
        for (int i = 0; i < 20; i++)
            (void)cs_backoff_next(&backoff, CS_REDIS_LOST);
        assert_in_range(cs_backoff_next(&backoff, CS_REDIS_FULL), 0, 1000);
        for (int i = 0; i < 20; i++)
            (void)cs_backoff_next(&backoff, CS_REDIS_LOST);
        cs_backoff_reset(&backoff);
        assert_in_range(cs_backoff_next(&backoff, CS_REDIS_LOST), 0, 500);
    }
}

static void a_failover_between_lost_and_readonly_is_one_row(void **state)
{
    (void)state;
    int64_t most = 0;
    for (uint64_t seed = 0; seed < 500; seed++) {
        struct cs_backoff backoff;
        cs_backoff_init(&backoff, seed);
        for (int i = 0; i < 10; i++)
            (void)cs_backoff_next(&backoff, i % 2 ? CS_REDIS_READONLY : CS_REDIS_LOST);
        int64_t wait = cs_backoff_next(&backoff, CS_REDIS_LOST);
        most = wait > most ? wait : most;
    }
    assert_in_range(most, 50000, 60000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_fill_a_window_that_doubles_up_to_its_limit),
        cmocka_unit_test(some_classes_do_not_wait),
        cmocka_unit_test(the_same_seed_gives_the_same_waits),
        cmocka_unit_test(a_success_or_another_trouble_begins_anew),
        cmocka_unit_test(a_failover_between_lost_and_readonly_is_one_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
