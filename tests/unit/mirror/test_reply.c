#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "priv.h"

/* Feed @text in steps of @step bytes; returns the bytes used up to the end of the reply, 0 if it is
 * not whole, -1 if it is refused. */
static int gate_run(const char *text, size_t len, size_t step, size_t bytes_max, size_t items_max)
{
    struct cs_gate gate;
    cs_gate_init(&gate, bytes_max, items_max);
    for (size_t pos = 0; pos < len;) {
        size_t used = 0, n = len - pos < step ? len - pos : step;
        bool whole = false;
        struct cs_err err = {0};
        if (cs_gate_feed(&gate, text + pos, n, &used, &whole, &err) != CS_OK) {
            assert_string_equal(err.code, "redis_protocol");
            return -1;
        }
        assert_in_range(used, 1, n);
        pos += used;
        if (whole)
            return (int)pos;
        assert_int_equal(used, n);
    }
    return 0;
}

static int gate(const char *text, size_t bytes_max, size_t items_max)
{
    size_t len = strlen(text);
    int whole = gate_run(text, len, len, bytes_max, items_max);
    for (size_t step = 1; step <= len; step++)
        assert_int_equal(gate_run(text, len, step, bytes_max, items_max), whole);
    return whole;
}

static void the_end_of_a_reply_is_found_however_it_is_cut(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int end;
    } cases[] = {
        {"+OK\r\n", 5},
        {"+\r\n", 3},
        {"-ERR x\r\n", 8},
        {":1\r\n", 4},
        {":-9223372036854775808\r\n", 23},
        {"$0\r\n\r\n", 6},
        {"$-1\r\n", 5},
        {"$4\r\n\r\n\r\n\r\n", 10},
        {"*0\r\n", 4},
        {"*-1\r\n", 5},
        {"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", 19},
        {"*2\r\n*0\r\n*-1\r\n", 13},
        {"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", 32},
        {"+OK\r\n+second\r\n", 5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(gate(cases[i].text, 1000, 100), cases[i].end);
}

static void replies_that_are_not_resp2_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "HTTP/1.1 400 Bad Request\r\n",
        "<html>",
        "%1\r\n",
        "_\r\n",
        ",1.5\r\n",
        "#t\r\n",
        "~1\r\n",
        ">2\r\n",
        "(1\r\n",
        "=5\r\n",
        "!5\r\n",
        "|1\r\n",
        "\r\n",
        "\n",
        "$\r\n",
        "$+1\r\n",
        "$ 1\r\n",
        "$1 \r\n",
        "$-2\r\n",
        "$0x1\r\n",
        "$--1\r\n",
        "*\r\n",
        "*-2\r\n",
        "*1x\r\n",
        ":\r\n",
        ":1.5\r\n",
        ":+1\r\n",
        ":-\r\n",
        ":1\rx",
        ":1\r\r\n",
        ":9223372036854775808\r\n",
        ":00000000000000000000000001\r\n",
        ":01\r\n",
        ":-0\r\n",
        "$00\r\n\r\n",
        "*01\r\n",
        "$1\r\nxy",
        "$1\r\nx\rx",
        "$0\r\n\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (gate(bad[i], 1000, 100) != -1)
            fail_msg("accepted: %s", bad[i]);
    }
    assert_int_equal(gate_run("\0", 1, 1, 1000, 100), -1);
}

static void caps_are_checked_before_the_bytes_come(void **state)
{
    (void)state;
    assert_int_equal(gate("$9223372036854775807\r\n", 1000, 100), -1);
    assert_int_equal(gate("$99999999999999999999999\r\n", 1000, 100), -1);
    assert_int_equal(gate("$1001\r\n", 1000, 100), -1);
    assert_int_equal(gate("$990\r\n", 1000, 100), 0);
    assert_int_equal(gate("*2147483647\r\n", 1000, 100), -1);
    assert_int_equal(gate("*9223372036854775807\r\n", 1000, 100), -1);
    assert_int_equal(gate("*100\r\n", 1000, 100), -1);
    assert_int_equal(gate("*99\r\n", 1000, 100), 0);
    assert_int_equal(gate("*51\r\n*49\r\n", 1000, 100), -1);
    assert_int_equal(gate("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", 1000, 100), -1);
    assert_int_equal(gate("*3\r\n$6\r\n123456\r\n$6\r\n123456\r\n$6\r\n123456\r\n", 40, 100), 40);
    assert_int_equal(gate("*3\r\n$6\r\n123456\r\n$6\r\n123456\r\n$6\r\n123456\r\n", 39, 100), -1);
}

static void a_line_without_end_is_refused(void **state)
{
    (void)state;
    size_t len = 100000;
    char *text = malloc(len);
    assert_non_null(text);
    memset(text, 'x', len);
    text[0] = '+';
    assert_int_equal(gate_run(text, len, 1000, 1 << 20, 100), -1);
    free(text);
}

static void a_line_break_inside_a_line_is_refused(void **state)
{
    (void)state;
    assert_int_equal(gate("+a\rb\r\n", 1000, 100), -1);
    assert_int_equal(gate("+a\nb\r\n", 1000, 100), -1);
    assert_int_equal(gate("-a\r\r\n", 1000, 100), -1);
    assert_int_equal(gate("*1\r\n-\n\r\n", 1000, 100), -1);
}

static void one_gate_serves_many_replies(void **state)
{
    (void)state;
    struct cs_gate gate;
    static const char text[] = "*1\r\n$3\r\nabc\r\n";
    cs_gate_init(&gate, 13, 2);
    for (int i = 0; i < 100; i++) {
        size_t used = 0;
        bool whole = false;
        assert_int_equal(cs_gate_feed(&gate, text, sizeof text - 1, &used, &whole, NULL), CS_OK);
        assert_true(whole);
        assert_int_equal(used, sizeof text - 1);
    }
}

/* Whatever the bytes are, the gate and hiredis agree on where replies end. */
static void the_gate_and_the_parser_agree_on_random_bytes(void **state)
{
    (void)state;
    static const char alphabet[] = "+-:$*01235-\r\n\r\n\r\nab";
    uint64_t seed = 7;
    int wholes = 0;
    for (int round = 0; round < 500000; round++) {
        char text[40];
        struct cs_gate gate;
        size_t used = 0, len = 4 + (size_t)round % (sizeof text - 4);
        bool whole = false;
        for (size_t i = 0; i < len; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[i] = alphabet[(seed >> 33) % (sizeof alphabet - 1)];
        }
        cs_gate_init(&gate, 1000, 10);
        if (cs_gate_feed(&gate, text, len, &used, &whole, NULL) != CS_OK || !whole)
            continue;
        void *reply = NULL;
        redisReader *reader = redisReaderCreate();
        assert_int_equal(redisReaderFeed(reader, text, used), REDIS_OK);
        assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
        assert_non_null(reply);
        assert_int_equal(reader->pos, reader->len);
        freeReplyObject(reply);
        redisReaderFree(reader);
        wholes++;
    }
    assert_true(wholes > 5000);
}

static struct cs_reply *parse(const char *text)
{
    void *reply = NULL;
    redisReader *reader = redisReaderCreate();
    assert_int_equal(redisReaderFeed(reader, text, strlen(text)), REDIS_OK);
    assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
    redisReaderFree(reader);
    assert_non_null(reply);
    return reply;
}

static void values_are_read_and_wrong_types_are_harmless(void **state)
{
    (void)state;
    struct cs_reply *r =
        parse("*7\r\n$2\r\nab\r\n:7\r\n$2\r\n-3\r\n$-1\r\n+OK\r\n*0\r\n-ERR e\r\n");
    size_t len = 0;
    assert_int_equal(cs_reply_type(r), CS_REPLY_ARRAY);
    assert_int_equal(cs_reply_size(r), 7);
    assert_string_equal(cs_reply_string(cs_reply_at(r, 0), &len), "ab");
    assert_int_equal(len, 2);
    assert_int_equal(cs_reply_int(cs_reply_at(r, 1), -1), 7);
    assert_int_equal(cs_reply_int(cs_reply_at(r, 2), -1), -3);
    assert_int_equal(cs_reply_type(cs_reply_at(r, 3)), CS_REPLY_NIL);
    assert_true(cs_reply_is(cs_reply_at(r, 4), "OK"));
    assert_false(cs_reply_is(cs_reply_at(r, 4), "O"));
    assert_int_equal(cs_reply_size(cs_reply_at(r, 5)), 0);
    assert_int_equal(cs_reply_type(cs_reply_at(r, 6)), CS_REPLY_ERROR);
    assert_null(cs_reply_string(cs_reply_at(r, 6), NULL));
    assert_null(cs_reply_at(r, 7));
    assert_null(cs_reply_at(cs_reply_at(r, 0), 0));
    assert_null(cs_reply_string(r, NULL));
    assert_int_equal(cs_reply_int(r, 5), 5);
    assert_int_equal(cs_reply_int(cs_reply_at(r, 0), 5), 5);
    assert_int_equal(cs_reply_int(NULL, 5), 5);
    assert_int_equal(cs_reply_size(NULL), 0);
    assert_false(cs_reply_is(NULL, "OK"));
    assert_int_equal(cs_reply_check(NULL, NULL), CS_OK);
    cs_reply_free(r);
    cs_reply_free(NULL);
}

/* ---- Error classes --------------------------------------------------------------------------- */

static void every_error_reply_has_its_class(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum cs_redis_class class;
    } cases[] = {
        {"NOAUTH Authentication required.", CS_REDIS_DENIED},
        {"WRONGPASS invalid or missing auth token", CS_REDIS_DENIED},
        {"NOPERM this user has no permissions to run the 'set' command", CS_REDIS_DENIED},
        {"READONLY You can't write against a read only replica.", CS_REDIS_READONLY},
        {"MASTERDOWN Link with MASTER is down", CS_REDIS_READONLY},
        {"LOADING Redis is loading the dataset in memory", CS_REDIS_READONLY},
        {"BUSY Redis is busy running a script.", CS_REDIS_READONLY},
        {"BUSYGROUP Consumer Group name already exists", CS_REDIS_REFUSED},
        {"OOM command not allowed when used memory > 'maxmemory'.", CS_REDIS_FULL},
        {"MISCONF Redis is configured to save RDB snapshots", CS_REDIS_FULL},
        {"ERR DB capacity quota exceeded", CS_REDIS_FULL},
        {"ERR max requests limit exceeded. Limit: 500000, Usage: 500000.", CS_REDIS_FULL},
        {"ERR max daily request limit exceeded. Limit: 10000", CS_REDIS_FULL},
        {"ERR max request size exceeded. Limit: 10485760 bytes", CS_REDIS_LARGE},
        {"ERR max single record size exceeded", CS_REDIS_REFUSED},
        {"ERR string exceeds maximum allowed size (proto-max-bulk-len)", CS_REDIS_REFUSED},
        {"ERR The user executing the script can't run this command or subcommand", CS_REDIS_DENIED},
        {"ERR The user executing the script can't access at least one of the keys mentioned",
         CS_REDIS_DENIED},
        {"ERR ACL failure in script: User anna has no permissions to run the 'xadd' command",
         CS_REDIS_DENIED},
        {"ERR Protocol error: invalid bulk length", CS_REDIS_LARGE},
        {"ERR max concurrent connections exceeded", CS_REDIS_LOST},
        {"ERR max number of clients reached", CS_REDIS_LOST},
        {"NOSCRIPT No matching script. Please use EVAL.", CS_REDIS_NOSCRIPT},
        {"ERR Error running script: @user_script:3: @user_script: 3: -OOM command", CS_REDIS_FULL},
        {"ERR Error running script (call to f_0): @user_script:9: @user_script: 9: -NOREPLICAS Not "
         "enough good replicas to write.",
         CS_REDIS_READONLY},
        {"WRONGTYPE Operation against a key", CS_REDIS_REFUSED},
        {"ERR something new", CS_REDIS_REFUSED},
        {"", CS_REDIS_REFUSED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200];
        struct cs_err err = {0};
        (void)snprintf(text, sizeof text, "-%s\r\n", cases[i].text);
        struct cs_reply *reply = parse(text);
        assert_int_not_equal(cs_reply_check(reply, &err), CS_OK);
        if (cs_redis_class(&err) != cases[i].class)
            fail_msg("%s is %s", cases[i].text, cs_redis_class_name(cs_redis_class(&err)));
        cs_reply_free(reply);
    }
}

static void classes_are_named_and_say_whether_to_reconnect(void **state)
{
    (void)state;
    for (int class = CS_REDIS_FINE; class <= CS_REDIS_STOPPED; class ++) {
        assert_true(strlen(cs_redis_class_name((enum cs_redis_class) class)) > 2);
        assert_int_equal(cs_redis_class_reconnects((enum cs_redis_class) class),
                         class == CS_REDIS_LOST || class == CS_REDIS_DENIED ||
                             class == CS_REDIS_READONLY);
    }
    struct cs_err err = {0};
    assert_int_equal(cs_redis_class(&err), CS_REDIS_FINE);
    assert_int_equal(cs_err_nomem(&err), CS_NO_MEM);
    assert_int_equal(cs_redis_class(&err), CS_REDIS_LOST);
}

static void what_the_server_says_is_tidied(void **state)
{
    (void)state;
    struct cs_err err = {0};
    struct cs_reply *reply =
        parse("-ERR unknown\x01 command 'x', with args beginning with: 'a secret'\r\n");
    assert_int_equal(cs_reply_check(reply, &err), CS_UPSTREAM);
    assert_string_equal(err.msg, "Redis answered: ERR unknown? command 'x'");
    cs_reply_free(reply);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_end_of_a_reply_is_found_however_it_is_cut),
        cmocka_unit_test(replies_that_are_not_resp2_are_refused),
        cmocka_unit_test(caps_are_checked_before_the_bytes_come),
        cmocka_unit_test(a_line_without_end_is_refused),
        cmocka_unit_test(a_line_break_inside_a_line_is_refused),
        cmocka_unit_test(one_gate_serves_many_replies),
        cmocka_unit_test(the_gate_and_the_parser_agree_on_random_bytes),
        cmocka_unit_test(values_are_read_and_wrong_types_are_harmless),
        cmocka_unit_test(every_error_reply_has_its_class),
        cmocka_unit_test(classes_are_named_and_say_whether_to_reconnect),
        cmocka_unit_test(what_the_server_says_is_tidied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
