#include "fixture.h"

static void a_message_is_rendered_as_json(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct append append = {.message = {.session = session,
                                        .kind = CS_MESSAGE_ASSISTANT,
                                        .content = "line\n\"q\" \xe6\x97\xa5",
                                        .content_len = 12,
                                        .turn = "t1",
                                        .extra = "\"model\":\"x\"",
                                        .at = 1723888888888}};
    int64_t count = 0;
    char *text;

    ok(write_message(f, &append));
    text = history(f, session, 0, 0, &count, NULL);
    assert_string_equal(
        "{\"type\":\"assistant\",\"content\":\"line\\n\\\"q\\\" \xe6\x97\xa5\","
        "\"timestamp\":\"2024-08-17T10:01:28.888Z\",\"turnId\":\"t1\",\"model\":\"x\"}",
        text);
    assert_int_equal(1, count);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_message_is_rendered_as_json, setup_store, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
