#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cs/base/embed.h"

/* Made by the build from the files in tests/unit/base/embedded: b.txt, then a.bin, then an empty
 * one. */
extern const struct cs_embedded test_files[];

static void files_come_in_the_order_given_with_their_bytes(void **state)
{
    (void)state;
    static const struct cs_embedded expected[] = {
        {"b.txt", (const unsigned char *)"quote \" slash \\ trigraph \?\?/\nend\n", 33},
        {"a.bin", (const unsigned char *)"\0\1\377\0z", 5},
        {"empty", (const unsigned char *)"", 0},
    };
    for (size_t i = 0; i < 3; i++) {
        assert_string_equal(test_files[i].name, expected[i].name);
        assert_int_equal(test_files[i].len, expected[i].len);
        assert_memory_equal(test_files[i].data, expected[i].data, expected[i].len + 1);
    }
    assert_null(test_files[3].name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_come_in_the_order_given_with_their_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
