#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cs/mirror/url.h"
#include "fault.h"

static struct cs_redis_endpoint read_url(const char *url, const char *token)
{
    struct cs_redis_endpoint endpoint = {0};
    struct cs_err err = {0};
    enum cs_status rc = cs_redis_endpoint_parse(url, token, &endpoint, &err);
    if (rc != CS_OK)
        fail_msg("%s: %s", url, err.msg);
    return endpoint;
}

static void expect(const char *url, const char *token, const char *shown, const char *user,
                   const char *password, int db)
{
    struct cs_redis_endpoint endpoint = read_url(url, token);
    struct cs_buf out;
    cs_buf_init(&out, 1000);
    cs_redis_endpoint_show(&endpoint, &out);
    assert_string_equal(out.data, shown);
    cs_buf_fini(&out);
    assert_int_equal(endpoint.user != NULL, user != NULL);
    assert_int_equal(endpoint.password != NULL, password != NULL);
    if (user)
        assert_string_equal(endpoint.user, user);
    if (password)
        assert_string_equal(endpoint.password, password);
    assert_int_equal(endpoint.db, db);
    cs_redis_endpoint_fini(&endpoint);
}

static void every_form_of_an_address_is_read(void **state)
{
    (void)state;
    expect("redis://h", NULL, "redis://h:6379", NULL, NULL, 0);
    expect("redis://h:1/", NULL, "redis://h:1", NULL, NULL, 0);
    expect("REDIS://h:65535/15", NULL, "redis://h:65535", NULL, NULL, 15);
    expect("rediss://u:p@h.example:6380/0", NULL, "rediss://h.example:6380", "u", "p", 0);
    expect("rediss://:p@h", NULL, "rediss://h:6379", NULL, "p", 0);
    expect("redis://[::1]:7", NULL, "redis://[::1]:7", NULL, NULL, 0);
    expect("redis://u:p@[2001:db8::1]", NULL, "redis://[2001:db8::1]:6379", "u", "p", 0);
    expect("redis://127.0.0.1", NULL, "redis://127.0.0.1:6379", NULL, NULL, 0);
    expect("unix:///run/redis.sock", NULL, "unix:///run/redis.sock", NULL, NULL, 0);
    expect("unix://u:p@/run/a%20b", NULL, "unix:///run/a b", "u", "p", 0);
}

static void secrets_are_percent_decoded(void **state)
{
    (void)state;
    expect("redis://a%40b:c%3Ad%2f%25@h", NULL, "redis://h:6379", "a@b", "c:d/%", 0);
    expect("redis://u:a@b@h", NULL, "redis://h:6379", "u", "a@b", 0);
    expect("redis://u:a:b@h", NULL, "redis://h:6379", "u", "a:b", 0);
    expect("redis://%C3%A9:%ff@h", NULL, "redis://h:6379", "\xc3\xa9", "\xff", 0);
}

static void an_https_address_with_a_token_is_upstash_over_tls(void **state)
{
    (void)state;
    expect("https://eu1-x.upstash.example", "T0ken", "rediss://eu1-x.upstash.example:6379",
           "default", "T0ken", 0);
    expect("https://h/", "t", "rediss://h:6379", "default", "t", 0);
    expect("https://h:443", "t", "rediss://h:6379", "default", "t", 0);
    struct cs_redis_endpoint endpoint = read_url("https://h", "t");
    assert_true(endpoint.token);
    assert_int_equal(endpoint.scheme, CS_REDIS_TLS);
    cs_redis_endpoint_fini(&endpoint);
    assert_null(endpoint.password);
}

static void the_token_fills_a_missing_password_over_tls_only(void **state)
{
    (void)state;
    expect("rediss://h", "t", "rediss://h:6379", "default", "t", 0);
    expect("rediss://u:p@h", "t", "rediss://h:6379", "u", "p", 0);
    expect("redis://h", "t", "redis://h:6379", NULL, NULL, 0);
    expect("unix:///s", "t", "unix:///s", NULL, NULL, 0);
}

static void an_https_address_without_token_says_what_is_needed(void **state)
{
    (void)state;
    struct cs_redis_endpoint endpoint = {.port = 7};
    const char *const tokens[] = {NULL, ""};
    for (size_t i = 0; i < 2; i++) {
        struct cs_err err = {0};
        assert_int_equal(cs_redis_endpoint_parse("https://h", tokens[i], &endpoint, &err),
                         CS_INVALID);
        assert_string_equal(err.msg, "Upstash Redis URL and TOKEN are required");
        assert_string_equal(err.code, "redis_token_required");
        assert_int_equal(endpoint.port, 7);
    }
}

static void malformed_addresses_are_refused_without_showing_them(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "hunter2",
        "http://hunter2",
        "://hunter2",
        "redis:/hunter2",
        "redis://",
        "redis://:hunter2@",
        "redis://hunter2@h",
        "redis://u:@h",
        "redis://u:hunter2%@h",
        "redis://u:hunter2%4@h",
        "redis://u:hunter2%zz@h",
        "redis://u:hunter2%00@h",
        "redis://u%00:hunter2@h",
        "redis://u:hunter2@h:",
        "redis://u:hunter2@h:0",
        "redis://u:hunter2@h:65536",
        "redis://u:hunter2@h:+1",
        "redis://u:hunter2@h:1x",
        "redis://u:hunter2@h:99999999999999999999",
        "redis://u:hunter2@h/x",
        "redis://u:hunter2@h/-1",
        "redis://u:hunter2@h/1/2",
        "redis://u:hunter2@h/999999",
        "redis://u:hunter2@h?x=1",
        "redis://u:hunter2@h#x",
        "redis://u:hunter2@h h",
        "redis://u:hunter2@h\n",
        "redis://u:hunter2@h\x7f",
        "redis://u:hunter2@h\xc3\xa9",
        "redis://u:hunter2@[::1",
        "redis://u:hunter2@[::1]x",
        "redis://u:hunter2@[h]x:1",
        "redis://u:hunter2@[::g]",
        "redis://u:hunter2@::1",
        "redis://u:hunter2@h%41",
        "https://u:hunter2@h",
        "https://hunter2/x",
        "https://hunter2:6379",
        "unix://",
        "unix:///",
        "unix://hunter2/run",
        "unix://u:hunter2@h/run",
        "unix:///run/%00hunter2",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct cs_redis_endpoint endpoint = {0};
        struct cs_err err = {0};
        if (cs_redis_endpoint_parse(bad[i], "hunter2", &endpoint, &err) != CS_INVALID)
            fail_msg("accepted: %s", bad[i]);
        assert_string_equal(err.code, "invalid_redis_url");
        assert_null(strstr(err.msg, "hunter2"));
        assert_null(endpoint.host);
    }
    char path[200] = "unix:///", longest[400] = "redis://";
    memset(path + 8, 'p', 107);
    struct cs_redis_endpoint unix_endpoint = {0};
    assert_int_equal(cs_redis_endpoint_parse(path, NULL, &unix_endpoint, NULL), CS_INVALID);
    path[8 + 106] = '\0';
    assert_int_equal(cs_redis_endpoint_parse(path, NULL, &unix_endpoint, NULL), CS_OK);
    cs_redis_endpoint_fini(&unix_endpoint);
    memset(longest + 8, 'h', 256);
    struct cs_redis_endpoint endpoint = {0};
    assert_int_equal(cs_redis_endpoint_parse(longest, NULL, &endpoint, NULL), CS_INVALID);
    longest[8 + 255] = '\0';
    assert_int_equal(cs_redis_endpoint_parse(longest, NULL, &endpoint, NULL), CS_OK);
    cs_redis_endpoint_fini(&endpoint);
}

static void parse_all(void *arg)
{
    (void)arg;
    static const char *const urls[] = {"rediss://u:p@h/1", "https://h", "unix://u:p@/s"};
    for (size_t i = 0; i < 3; i++) {
        struct cs_redis_endpoint endpoint = {0};
        struct cs_err err = {0};
        enum cs_status rc = cs_redis_endpoint_parse(urls[i], "t", &endpoint, &err);
        assert_true(rc == CS_OK || rc == CS_NO_MEM);
        if (rc == CS_NO_MEM)
            assert_null(endpoint.host);
        cs_redis_endpoint_fini(&endpoint);
    }
}

static void any_failed_allocation_is_reported(void **state)
{
    (void)state;
    assert_true(fault_sweep(parse_all, NULL) > 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_of_an_address_is_read),
        cmocka_unit_test(secrets_are_percent_decoded),
        cmocka_unit_test(an_https_address_with_a_token_is_upstash_over_tls),
        cmocka_unit_test(the_token_fills_a_missing_password_over_tls_only),
        cmocka_unit_test(an_https_address_without_token_says_what_is_needed),
        cmocka_unit_test(malformed_addresses_are_refused_without_showing_them),
        cmocka_unit_test(any_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
