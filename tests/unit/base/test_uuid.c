#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cs/base/clock.h"
#include "cs/base/hash.h"
#include "cs/base/uuid.h"

static int64_t at_a_known_time(void)
{
    return 0x0123456789AB;
}

static void a_new_id_is_a_version_7_uuid_of_the_wall_clock(void **state)
{
    (void)state;
    cs_clock_override(at_a_known_time);
    char id[CS_UUID_MAX];
    assert_int_equal(cs_uuid_new(id, NULL), CS_OK);
    cs_clock_override(NULL);
    assert_int_equal(strlen(id), 36);
    assert_memory_equal(id, "01234567-89ab-7", 15);
    assert_non_null(strchr("89ab", id[19]));
    assert_true(cs_uuid_valid(id));
    assert_int_equal(strspn(id, "0123456789abcdef-"), 36);
}

static void new_ids_differ(void **state)
{
    (void)state;
    char ids[100][CS_UUID_MAX];
    for (int i = 0; i < 100; i++) {
        assert_int_equal(cs_uuid_new(ids[i], NULL), CS_OK);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(ids[i], ids[j]);
    }
}

static void only_the_long_form_is_valid(void **state)
{
    (void)state;
    assert_true(cs_uuid_valid("0190a1b2-0000-7000-8000-00000000abcd"));
    assert_true(cs_uuid_valid("0190A1B2-0000-7000-8000-00000000ABCD"));
    assert_false(cs_uuid_valid(NULL));
    assert_false(cs_uuid_valid(""));
    assert_false(cs_uuid_valid("0190a1b2-0000-7000-8000-00000000abc"));
    assert_false(cs_uuid_valid("0190a1b2-0000-7000-8000-00000000abcde"));
    assert_false(cs_uuid_valid("0190a1b2-0000-7000-8000-00000000abcg"));
    assert_false(cs_uuid_valid("0190a1b2000070008000-00000000abcd----"));
    assert_false(cs_uuid_valid("{190a1b2-0000-7000-8000-00000000abc}"));
    assert_false(cs_uuid_valid("0190a1b2 0000 7000 8000 00000000abcd"));
}

static void random_fills_all_bytes(void **state)
{
    (void)state;
    unsigned char seen[64] = {0};
    for (int round = 0; round < 20; round++) {
        unsigned char bytes[64];
        assert_int_equal(cs_random(bytes, sizeof bytes, NULL), CS_OK);
        for (size_t i = 0; i < sizeof bytes; i++)
            seen[i] |= bytes[i];
    }
    for (size_t i = 0; i < sizeof seen; i++)
        assert_int_not_equal(seen[i], 0);
}

static void hex_is_lower_case(void **state)
{
    (void)state;
    char out[9];
    cs_hex("\x00\xfa\x10\x9b", 4, out);
    assert_string_equal(out, "00fa109b");
    cs_hex("", 0, out);
    assert_string_equal(out, "");
}

static void secrets_are_equal_only_in_every_byte(void **state)
{
    (void)state;
    assert_true(cs_equal_secret("abcd", "abcd", 4));
    assert_false(cs_equal_secret("abcd", "abce", 4));
    assert_false(cs_equal_secret("abcd", "Abcd", 4));
    assert_true(cs_equal_secret("a", "b", 0));
}

static void sha256_matches_the_published_vectors(void **state)
{
    (void)state;
    unsigned char digest[CS_SHA256_LEN];
    char hex[2 * CS_SHA256_LEN + 1];
    assert_int_equal(cs_sha256("", 0, digest, NULL), CS_OK);
    cs_hex(digest, sizeof digest, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_int_equal(cs_sha256("abc", 3, digest, NULL), CS_OK);
    cs_hex(digest, sizeof digest, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_id_is_a_version_7_uuid_of_the_wall_clock),
        cmocka_unit_test(new_ids_differ),
        cmocka_unit_test(only_the_long_form_is_valid),
        cmocka_unit_test(random_fills_all_bytes),
        cmocka_unit_test(hex_is_lower_case),
        cmocka_unit_test(secrets_are_equal_only_in_every_byte),
        cmocka_unit_test(sha256_matches_the_published_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
