#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cs/base/err.h"
#include "cs/base/json.h"

static void the_first_error_wins(void **state)
{
    (void)state;
    struct cs_err err = {0};
    assert_int_equal(cs_err_set(&err, CS_CONFLICT, "busy_bee", "first %d", 1), CS_CONFLICT);
    assert_int_equal(cs_err_set(&err, CS_IO, NULL, "second"), CS_IO);
    assert_int_equal(err.status, CS_CONFLICT);
    assert_string_equal(err.code, "busy_bee");
    assert_string_equal(err.msg, "first 1");
}

static void a_null_record_is_fine(void **state)
{
    (void)state;
    assert_int_equal(cs_err_set(NULL, CS_IO, NULL, "lost"), CS_IO);
    assert_int_equal(cs_err_nomem(NULL), CS_NO_MEM);
    cs_err_clear(NULL);
}

static void a_null_code_is_the_status_name(void **state)
{
    (void)state;
    struct cs_err err = {0};
    (void)cs_err_set(&err, CS_NOT_FOUND, NULL, "gone");
    assert_string_equal(err.code, "not_found");
}

static void clear_makes_room_for_the_next_error(void **state)
{
    (void)state;
    struct cs_err err = {0};
    (void)cs_err_nomem(&err);
    assert_string_equal(err.code, "out_of_memory");
    cs_err_clear(&err);
    assert_int_equal(err.status, CS_OK);
    (void)cs_err_set(&err, CS_IO, NULL, "now this");
    assert_string_equal(err.msg, "now this");
}

static void errno_values_have_their_status(void **state)
{
    (void)state;
    assert_int_equal(cs_err_errno(NULL, ENOSPC, "x"), CS_FULL);
    assert_int_equal(cs_err_errno(NULL, EDQUOT, "x"), CS_FULL);
    assert_int_equal(cs_err_errno(NULL, ENOMEM, "x"), CS_NO_MEM);
    assert_int_equal(cs_err_errno(NULL, EACCES, "x"), CS_IO);
    struct cs_err err = {0};
    (void)cs_err_errno(&err, ENOENT, "opening it");
    assert_string_equal(err.msg, "opening it: No such file or directory");
    cs_err_clear(&err);
    (void)cs_err_errno(&err, 99999, "opening it");
    assert_string_equal(err.msg, "opening it: error 99999");
}

static void a_long_message_is_cut_at_a_character(void **state)
{
    (void)state;
    static const char *const characters[] = {"a", "é", "日", "😀"};
    for (size_t c = 0; c < 4; c++) {
        for (size_t shift = 0; shift < 4; shift++) {
            char text[1024] = {0};
            memset(text, 'x', shift);
            size_t len = shift;
            size_t width = strlen(characters[c]);
            for (; len + width < sizeof text; len += width)
                memcpy(text + len, characters[c], width);
            struct cs_err err = {0};
            (void)cs_err_set(&err, CS_IO, NULL, "%s", text);
            size_t kept = strlen(err.msg);
            assert_true(cs_utf8_valid(err.msg, kept));
            assert_true(kept + width >= sizeof err.msg);
            assert_memory_equal(err.msg, text, kept);
        }
    }
}

static void bytes_that_are_not_utf8_are_replaced(void **state)
{
    (void)state;
    struct cs_err err = {0};
    (void)cs_err_set(&err, CS_IO, NULL, "%.4s (%s)", "日本", "x\xff\xe6\x97y");
    assert_string_equal(err.msg, "日? (x???y)");
}

static void every_status_has_a_name_of_its_own(void **state)
{
    (void)state;
    for (int a = CS_OK; a <= CS_INTERNAL; a++) {
        assert_string_not_equal(cs_status_name((enum cs_status)a), "unknown");
        for (int b = CS_OK; b < a; b++)
            assert_string_not_equal(cs_status_name((enum cs_status)a),
                                    cs_status_name((enum cs_status)b));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_error_wins),
        cmocka_unit_test(a_null_record_is_fine),
        cmocka_unit_test(a_null_code_is_the_status_name),
        cmocka_unit_test(clear_makes_room_for_the_next_error),
        cmocka_unit_test(errno_values_have_their_status),
        cmocka_unit_test(a_long_message_is_cut_at_a_character),
        cmocka_unit_test(bytes_that_are_not_utf8_are_replaced),
        cmocka_unit_test(every_status_has_a_name_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
