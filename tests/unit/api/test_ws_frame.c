#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "ws_frame.h"

#define MAX 1000

static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};

/* A client's frame: the header as given, a mask, the payload masked. */
static size_t frame(unsigned char *out, unsigned first, const char *payload, size_t len)
{
    size_t head = 2, i;

    out[0] = (unsigned char)first;
    out[1] = (unsigned char)(0x80 | (len < 126 ? len : 126));
    if (len >= 126) {
        out[2] = (unsigned char)(len >> 8);
        out[3] = (unsigned char)len;
        head = 4;
    }
    memcpy(out + head, mask, 4);
    for (i = 0; i < len; i++)
        out[head + 4 + i] = (unsigned char)((unsigned char)payload[i] ^ mask[i % 4]);
    return head + 4 + len;
}

/* Everything given at once, then byte by byte: both must say the same. */
static enum cs_ws_got read_all(struct cs_ws_reader *reader, const unsigned char *data, size_t len,
                               size_t step)
{
    unsigned char copy[4 * MAX];
    enum cs_ws_got got = CS_WS_GOT_NOTHING;
    size_t at = 0, used;

    memcpy(copy, data, len);
    while (at < len && got == CS_WS_GOT_NOTHING) {
        size_t piece = step != 0 && step < len - at ? step : len - at;

        got = cs_ws_read(reader, copy + at, piece, &used);
        assert_in_range(used, 1, piece);
        at += used;
    }
    assert_true(got != CS_WS_GOT_TEXT || at == len);
    return got;
}

static void expect_error(const unsigned char *data, size_t len, int code)
{
    for (size_t step = 0; step < 2; step++) {
        struct cs_ws_reader reader;

        cs_ws_reader_init(&reader, MAX);
        assert_int_equal(read_all(&reader, data, len, step), CS_WS_GOT_ERROR);
        assert_int_equal(reader.code, code);
        assert_non_null(reader.why);
        cs_ws_reader_fini(&reader);
    }
}

static void expect_text(const unsigned char *data, size_t len, const char *text, size_t text_len)
{
    for (size_t step = 0; step < 4; step++) {
        struct cs_ws_reader reader;

        cs_ws_reader_init(&reader, MAX);
        assert_int_equal(read_all(&reader, data, len, step), CS_WS_GOT_TEXT);
        assert_int_equal(reader.message.len, text_len);
        assert_memory_equal(text_len == 0 ? "" : reader.message.data, text, text_len);
        cs_ws_reader_fini(&reader);
    }
}

static void a_text_frame_is_unmasked(void **state)
{
    unsigned char data[2 * MAX];
    char longer[600];

    (void)state;
    memset(longer, 'x', sizeof longer);
    expect_text(data, frame(data, 0x81, "Hello", 5), "Hello", 5);
    expect_text(data, frame(data, 0x81, "", 0), "", 0);
    expect_text(data, frame(data, 0x81, longer, 126), longer, 126);
    expect_text(data, frame(data, 0x81, longer, sizeof longer), longer, sizeof longer);
}

static void fragments_are_joined_with_a_ping_between(void **state)
{
    unsigned char data[200];
    struct cs_ws_reader reader;
    size_t len = frame(data, 0x01, "Hel", 3), used, all;

    (void)state;
    len += frame(data + len, 0x89, "ping!", 5);
    all = len + frame(data + len, 0x80, "lo", 2);
    cs_ws_reader_init(&reader, MAX);
    assert_int_equal(cs_ws_read(&reader, data, all, &used), CS_WS_GOT_PING);
    assert_int_equal(used, len);
    assert_int_equal(reader.control_len, 5);
    assert_memory_equal(reader.control, "ping!", 5);
    assert_int_equal(cs_ws_read(&reader, data + len, all - len, &used), CS_WS_GOT_TEXT);
    assert_int_equal(reader.message.len, 5);
    assert_memory_equal(reader.message.data, "Hello", 5);
    cs_ws_reader_fini(&reader);
}

static void messages_follow_one_another(void **state)
{
    unsigned char data[200];
    struct cs_ws_reader reader;
    size_t len = frame(data, 0x81, "one", 3), all = len + frame(data + len, 0x81, "two", 3), used;

    (void)state;
    cs_ws_reader_init(&reader, MAX);
    assert_int_equal(cs_ws_read(&reader, data, all, &used), CS_WS_GOT_TEXT);
    assert_string_equal(reader.message.data, "one");
    assert_int_equal(cs_ws_read(&reader, data + used, all - used, &used), CS_WS_GOT_TEXT);
    assert_string_equal(reader.message.data, "two");
    cs_ws_reader_fini(&reader);
}

static void what_breaks_the_protocol_is_refused(void **state)
{
    static const unsigned char unmasked[] = {0x81, 0x02, 'h', 'i'};
    static const unsigned char long_for_short[] = {0x81, 0xfe, 0x00, 0x05, 1, 2, 3, 4};
    static const unsigned char longer_for_long[] = {0x81, 0xff, 0, 0, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4};
    static const unsigned char top_bit[] = {0x81, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4};
    static const unsigned char long_ping[] = {0x89, 0xfe, 0x00, 0x7e, 1, 2, 3, 4};
    unsigned char data[64];
    size_t len;

    (void)state;
    expect_error(unmasked, sizeof unmasked, CS_WS_PROTOCOL_ERROR);
    expect_error(long_for_short, sizeof long_for_short, CS_WS_PROTOCOL_ERROR);
    expect_error(longer_for_long, sizeof longer_for_long, CS_WS_PROTOCOL_ERROR);
    expect_error(top_bit, sizeof top_bit, CS_WS_PROTOCOL_ERROR);
    expect_error(long_ping, sizeof long_ping, CS_WS_PROTOCOL_ERROR);
    expect_error(data, frame(data, 0xc1, "x", 1), CS_WS_PROTOCOL_ERROR); /* reserved bit */
    expect_error(data, frame(data, 0x83, "x", 1), CS_WS_PROTOCOL_ERROR); /* opcode 3 */
    expect_error(data, frame(data, 0x8b, "x", 1), CS_WS_PROTOCOL_ERROR); /* opcode 11 */
    expect_error(data, frame(data, 0x80, "x", 1), CS_WS_PROTOCOL_ERROR); /* continues nothing */
    expect_error(data, frame(data, 0x09, "x", 1), CS_WS_PROTOCOL_ERROR); /* ping in pieces */
    len = frame(data, 0x01, "x", 1);
    expect_error(data, len + frame(data + len, 0x81, "y", 1), CS_WS_PROTOCOL_ERROR);
}

static void binary_messages_are_unsupported(void **state)
{
    unsigned char data[16];

    (void)state;
    expect_error(data, frame(data, 0x82, "x", 1), CS_WS_UNSUPPORTED);
}

static void a_message_over_the_cap_is_refused_by_its_header(void **state)
{
    static const unsigned char huge[] = {0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff,
                                         0xff, 0xff, 0xff, 1,    2,    3,    4};
    unsigned char data[2 * MAX];
    char text[MAX];
    size_t len;

    (void)state;
    memset(text, 'x', sizeof text);
    expect_text(data, frame(data, 0x81, text, MAX), text, MAX);
    expect_error(huge, sizeof huge, CS_WS_TOO_BIG);
    len = frame(data, 0x01, text, MAX);
    len += frame(data + len, 0x80, "y", 1);
    expect_error(data, len - 1, CS_WS_TOO_BIG); /* its last byte is not waited for */
}

static void text_must_be_utf8(void **state)
{
    unsigned char data[64];
    size_t len;

    (void)state;
    expect_text(data, frame(data, 0x81, "\xe6\x97\xa5", 3), "\xe6\x97\xa5", 3);
    expect_error(data, frame(data, 0x81, "\xff", 1), CS_WS_BAD_DATA);
    expect_error(data, frame(data, 0x81, "\xe6\x97", 2), CS_WS_BAD_DATA);
    len = frame(data, 0x01, "\xe6", 1); /* a character may stand in two fragments */
    expect_text(data, len + frame(data + len, 0x80, "\x97\xa5", 2), "\xe6\x97\xa5", 3);
}

static void a_close_tells_its_code(void **state)
{
    static const struct {
        const char *payload;
        size_t len;
        int code, error;
    } cases[] = {
        {"", 0, CS_WS_NO_CODE, 0},
        {"\x03\xe8", 2, 1000, 0},
        {"\x03\xe9"
         "bye",
         5, 1001, 0},
        {"\x0f\xa0", 2, 4000, 0},
        {"\x03", 1, 0, CS_WS_PROTOCOL_ERROR},
        {"\x03\xed", 2, 0, CS_WS_PROTOCOL_ERROR}, /* 1005 is never sent */
        {"\x03\xe7", 2, 0, CS_WS_PROTOCOL_ERROR}, /* 999 */
        {"\x13\x88", 2, 0, CS_WS_PROTOCOL_ERROR}, /* 5000 */
        {"\x03\xe8\xff", 3, 0, CS_WS_BAD_DATA},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char data[64];
        size_t len = frame(data, 0x88, cases[i].payload, cases[i].len);
        struct cs_ws_reader reader;

        if (cases[i].error != 0) {
            expect_error(data, len, cases[i].error);
            continue;
        }
        cs_ws_reader_init(&reader, MAX);
        assert_int_equal(read_all(&reader, data, len, 1), CS_WS_GOT_CLOSE);
        assert_int_equal(reader.code, cases[i].code);
        cs_ws_reader_fini(&reader);
    }
}

static void headers_use_the_shortest_length(void **state)
{
    static const struct {
        size_t len;
        size_t head;
        unsigned char bytes[CS_WS_HEAD_MAX];
    } cases[] = {
        {0, 2, {0x81, 0}},
        {125, 2, {0x81, 125}},
        {126, 4, {0x81, 126, 0, 126}},
        {65535, 4, {0x81, 126, 0xff, 0xff}},
        {65536, 10, {0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char out[CS_WS_HEAD_MAX];

        assert_int_equal(cs_ws_head(out, CS_WS_TEXT, cases[i].len), cases[i].head);
        assert_memory_equal(out, cases[i].bytes, cases[i].head);
    }
}

static void the_handshake_answers_the_key(void **state)
{
    static const char *const bad[] = {
        "", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ===", "dGhlIHNhbXBsZSBub25j!Q=="};
    char accept[CS_WS_ACCEPT_MAX];

    (void)state; /* the example of section 1.3 */
    assert_int_equal(cs_ws_accept("dGhlIHNhbXBsZSBub25jZQ==", accept, NULL), CS_OK);
    assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(cs_ws_accept(bad[i], accept, NULL), CS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_frame_is_unmasked),
        cmocka_unit_test(fragments_are_joined_with_a_ping_between),
        cmocka_unit_test(messages_follow_one_another),
        cmocka_unit_test(what_breaks_the_protocol_is_refused),
        cmocka_unit_test(binary_messages_are_unsupported),
        cmocka_unit_test(a_message_over_the_cap_is_refused_by_its_header),
        cmocka_unit_test(text_must_be_utf8),
        cmocka_unit_test(a_close_tells_its_code),
        cmocka_unit_test(headers_use_the_shortest_length),
        cmocka_unit_test(the_handshake_answers_the_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
