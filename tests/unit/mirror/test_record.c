/* Messages and sessions as text in Redis. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mirror_priv.h"

#define ok(expression) assert_int_equal(CS_OK, (expression))

static struct cs_mirror_message message_of(const char *frag)
{
    return (struct cs_mirror_message){
        .origin = 0xabc,
        .seq = 7,
        .hlc = INT64_C(115114106880000001),
        .parent_origin = 0xdef,
        .parent_seq = 2,
        .frag = frag,
        .len = strlen(frag),
    };
}

static void a_message_comes_back_byte_for_byte(void **state)
{
    static const char frag[] = "{\"type\":\"user\",\"content\":\"\\\",\\\"_cx\\\":[\\\\ "
                               "\\u00e9\",\"turnId\":\"t-1\",\"n\":1.0}";
    struct cs_mirror_message message = message_of(frag);
    struct cs_record record;
    struct cs_buf text;

    (void)state;
    cs_buf_init(&text, 10000);
    cs_record_write(&text, &message, 10000);
    assert_non_null(strstr(text.data, ",\"_cx\":[\"0000000000000abc\",7,\"115114106880000001\","
                                      "\"0000000000000def.2\"]}"));
    ok(cs_record_parse(text.data, text.len, &record, NULL));
    assert_string_equal(frag, record.message.frag);
    assert_int_equal(message.len, record.message.len);
    assert_int_equal(0xabc, record.message.origin);
    assert_int_equal(7, record.message.seq);
    assert_int_equal(message.hlc, record.message.hlc);
    assert_int_equal(0xdef, record.message.parent_origin);
    assert_int_equal(2, record.message.parent_seq);
    assert_string_equal("t-1", record.message.turn);
    assert_false(record.stub);
    cs_record_fini(&record);
    cs_buf_fini(&text);
}

static void a_message_that_is_too_large_leaves_a_stub(void **state)
{
    struct cs_mirror_message message =
        message_of("{\"type\":\"assistant\",\"content\":"
                   "\"0123456789012345678901234567890123456789\",\"host\":\"a\"}");
    struct cs_record record;
    struct cs_buf text;

    (void)state;
    cs_buf_init(&text, 10000);
    cs_record_write(&text, &message, 20);
    ok(cs_record_parse(text.data, text.len, &record, NULL));
    assert_true(record.stub);
    assert_int_equal(7, record.message.seq);
    assert_string_equal("assistant", record.message.type);
    assert_string_equal("a", record.message.host);
    assert_null(strstr(record.message.frag, "0123456789"));
    cs_record_fini(&record);
    cs_buf_fini(&text);
}

static void a_malformed_message_is_refused(void **state)
{
    static const char *const items[] = {
        "",
        "{}",
        "[]",
        "{\"type\":\"user\",\"content\":\"x\"}",
        "{\"type\":\"user\",\"content\":\"x\",\"_cx\":[]}",
        "{\"type\":\"user\",\"content\":\"x\",\"_cx\":[\"0000000000000abc\",0,\"5\",\"\"]}",
        "{\"type\":\"user\",\"content\":\"x\",\"_cx\":[\"0000000000000abc\",1,\"-5\",\"\"]}",
        "{\"type\":\"user\",\"content\":\"x\",\"_cx\":[\"0000000000000abc\",1,5,\"\"]}",
        "{\"type\":\"user\",\"content\":\"x\",\"_cx\":[\"0000000000000abc\",1,\"9e9\",\"\"]}",
        "{\"type\":\"user\",\"content\":\"x\",\"_cx\":[\"0000000000000abc\",1,\"5\","
        "\"0000000000000abd.1x\"]}",
        "{\"type\":\"user\",\"content\":\"x\",\"_cx\":[\"xyz\",1,\"5\",\"\"]}",
        "{\"type\":\"user\",\"content\":\"x\",\"_cx\":[\"0000000000000abc\",1,\"5\",\"1.2\"]}",
        "{\"type\":\"user\",\"content\":7,\"_cx\":[\"0000000000000abc\",1,\"5\",\"\"]}",
        "{\"content\":\"x\",\"_cx\":[\"0000000000000abc\",1,\"5\",\"\"]}",
        "{\"type\":\"user\",\"content\":\"\xff\",\"_cx\":[\"0000000000000abc\",1,\"5\",\"\"]}",
        ("{\"type\":\"user\",\"type\":\"user\",\"content\":\"x\","
         "\"_cx\":[\"0000000000000abc\",1,\"5\",\"\"]}"),
    };
    struct cs_record record;

    (void)state;
    for (size_t i = 0; i < sizeof items / sizeof *items; i++)
        assert_int_not_equal(CS_OK, cs_record_parse(items[i], strlen(items[i]), &record, NULL));
}

struct seen {
    char text[256];
};

static enum cs_status note(void *arg, const char *item, size_t len, struct cs_err *err)
{
    struct seen *seen = arg;

    (void)err;
    assert_true(strlen(seen->text) + len + 2 < sizeof seen->text);
    strncat(seen->text, item, len);
    strcat(seen->text, "|"); /* NOLINT: there is room, see above */
    return CS_OK;
}

static void a_value_is_split_into_prefix_and_messages(void **state)
{
    static const char value[] =
        "{\"a\":\"\\\"messages\\\":[\",\"b\":{\"messages\":[9]},\"messages\":"
        "[ {\"x\":\"],}\"} ,[1,2],\"s\" ],\"_cx\":{}}";
    struct seen seen = {""};
    size_t prefix = 0;

    (void)state;
    ok(cs_record_split(value, strlen(value), &prefix, note, &seen, NULL));
    assert_string_equal("{\"x\":\"],}\"}|[1,2]|\"s\"|", seen.text);
    assert_int_equal('[', value[prefix - 1]);
}

static void a_value_without_messages_is_refused_wherever_it_ends(void **state)
{
    static const char value[] = "{\"a\":1,\"messages\":[{\"x\":\"y\\\\\"},2]}";
    struct seen seen = {""};
    size_t prefix = 0;

    (void)state;
    for (size_t len = 0; len + 2 < sizeof value; len++) {
        char *cut = malloc(len + 1); /* its end is where a sanitizer looks */

        memcpy(cut, value, len);
        seen.text[0] = '\0';
        assert_int_not_equal(CS_OK, cs_record_split(cut, len, &prefix, note, &seen, NULL));
        free(cut);
    }
    assert_int_not_equal(CS_OK,
                         cs_record_split("{\"messages\":{}}", 15, &prefix, note, &seen, NULL));
}

static void a_session_comes_back_from_its_prefix(void **state)
{
    struct cs_mirror_meta meta = {.sid = "s-1",
                                  .cid = "c-1",
                                  .user = (char[]){"an\"na"},
                                  .model = (char[]){"m"},
                                  .sandbox = (char[]){"read-only"},
                                  .cwd = (char[]){"/tmp"},
                                  .title = (char[]){"t"},
                                  .prompt = (char[]){"p"},
                                  .engine = (char[]){"auto"},
                                  .origin = "0000000000000abc",
                                  .created_at = INT64_C(1755000000123),
                                  .ttl_s = 60};
    struct cs_mirror_meta again;
    struct cs_json *root = NULL;
    struct cs_buf text;

    (void)state;
    cs_buf_init(&text, 10000);
    cs_record_prefix(&text, &meta);
    cs_buf_adds(&text, "]}");
    ok(cs_json_parse(text.data, text.len, text.len, &root, NULL));
    ok(cs_record_meta(root, "m2", &again, NULL));
    assert_string_equal("s-1", again.sid);
    assert_string_equal("c-1", again.cid);
    assert_string_equal("an\"na", again.user);
    assert_string_equal("m2", again.model); /* the tail's, which changes */
    assert_int_equal(meta.created_at, again.created_at);
    assert_int_equal(60, again.ttl_s);
    cs_mirror_meta_fini(&again);
    cs_json_free(root);
    cs_buf_fini(&text);
}

static void a_foreign_message_becomes_one_of_ours(void **state)
{
    static const char text[] =
        "{\"role\":\"user\",\"content\":{\"a\":[]},\"extra\":1,\"_cx\":[\"x\"]}";
    struct cs_json *root = NULL;
    struct cs_buf out;

    (void)state;
    ok(cs_json_parse(text, strlen(text), 1000, &root, NULL));
    cs_buf_init(&out, 1000);
    cs_record_foreign(&out, root, "2026-01-01T00:00:00.000Z");
    assert_string_equal("{\"type\":\"user\",\"content\":\"{\\\"a\\\":[]}\",\"timestamp\":"
                        "\"2026-01-01T00:00:00.000Z\",\"extra\":1}",
                        out.data);
    cs_buf_fini(&out);
    cs_json_free(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_comes_back_byte_for_byte),
        cmocka_unit_test(a_message_that_is_too_large_leaves_a_stub),
        cmocka_unit_test(a_malformed_message_is_refused),
        cmocka_unit_test(a_value_is_split_into_prefix_and_messages),
        cmocka_unit_test(a_value_without_messages_is_refused_wherever_it_ends),
        cmocka_unit_test(a_session_comes_back_from_its_prefix),
        cmocka_unit_test(a_foreign_message_becomes_one_of_ours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
