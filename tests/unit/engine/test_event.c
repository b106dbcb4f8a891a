#include "priv.h"

#include "children.h"
#include "fault.h"

/* A driver that does what the test says. */
struct cs_driver {
    int steps, cancels, detaches;
    void (*on_step)(struct cs_engine_turn *turn, struct cs_message_in *message);
    pthread_t owner;
};

static void fake_step(struct cs_driver *driver, struct cs_engine_turn *turn,
                      struct cs_message_in *message)
{
    driver->steps++;
    assert_true(pthread_equal(pthread_self(), driver->owner));
    if (driver->on_step != NULL)
        driver->on_step(turn, message);
}

static void fake_cancel(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    (void)turn;
    driver->cancels++;
    assert_true(pthread_equal(pthread_self(), driver->owner));
}

static void fake_detach(struct cs_driver *driver, struct cs_engine_turn *turn)
{
    (void)turn;
    driver->detaches++;
}

static const struct cs_driver_ops fake_ops = {
    .step = fake_step, .cancel = fake_cancel, .detach = fake_detach};

static struct cs_engine_turn *new_turn(struct cs_driver *driver)
{
    struct cs_engine_turn *turn = calloc(1, sizeof *turn);

    assert_non_null(turn);
    driver->owner = pthread_self();
    turn->ops = &fake_ops;
    turn->driver = driver;
    assert_int_equal(cs_turn_init(turn, NULL), CS_OK);
    return turn;
}

/* Emits each message's text as a delta; "end" ends the turn well, "bad" badly. */
static void echo_step(struct cs_engine_turn *turn, struct cs_message_in *message)
{
    if (message == NULL)
        cs_turn_emit(turn, CS_EVENT_STARTED, "", 0, "a model");
    else if (strcmp(message->text, "end") == 0)
        cs_turn_emit_done(turn, CS_OK, NULL, NULL);
    else if (strcmp(message->text, "bad") == 0)
        cs_turn_emit_done(turn, CS_UPSTREAM, "codex_error", "It did not work");
    else
        cs_turn_emit(turn, CS_EVENT_DELTA, message->text, strlen(message->text), "");
}

static void push(struct cs_engine_turn *turn, const char *text)
{
    cs_turn_push(turn, 0, NULL, strdup(text), strlen(text), false);
}

static enum cs_status next(struct cs_engine_turn *turn, int64_t ms,
                           struct cs_engine_event *out_event)
{
    return cs_engine_turn_next(turn, cs_mono_ms() + ms, out_event, NULL);
}

static void events_come_in_order_and_end_with_done(void **state)
{
    struct cs_driver driver = {.on_step = echo_step};
    struct cs_engine_turn *turn = new_turn(&driver);
    struct cs_engine_event event;

    (void)state;
    push(turn, "one");
    push(turn, "two");
    push(turn, "end");
    push(turn, "late");
    assert_int_equal(next(turn, 0, &event), CS_OK);
    assert_int_equal(event.type, CS_EVENT_STARTED);
    assert_string_equal(event.detail, "a model");
    assert_int_equal(event.input, -1);
    assert_int_equal(next(turn, 0, &event), CS_OK);
    assert_string_equal(event.text, "one");
    assert_int_equal(next(turn, 0, &event), CS_OK);
    assert_string_equal(event.text, "two");
    assert_int_equal(next(turn, 0, &event), CS_OK);
    assert_int_equal(event.type, CS_EVENT_DONE);
    assert_int_equal(event.error->status, CS_OK);
    assert_int_equal(next(turn, 0, &event), CS_INTERNAL);
    assert_int_equal(driver.steps, 4); /* nothing is stepped after the end */
    cs_engine_turn_free(turn);
    assert_int_equal(driver.cancels, 0);
    assert_int_equal(driver.detaches, 1);
}

static void a_deadline_passes_and_the_turn_goes_on(void **state)
{
    struct cs_driver driver = {.on_step = echo_step};
    struct cs_engine_turn *turn = new_turn(&driver);
    struct cs_engine_event event;
    int64_t start = cs_mono_ms();

    (void)state;
    assert_int_equal(next(turn, 0, &event), CS_OK);
    assert_int_equal(next(turn, 60, &event), CS_TIMEOUT);
    assert_true(cs_mono_ms() - start >= 60);
    push(turn, "one");
    assert_int_equal(next(turn, 0, &event), CS_OK);
    assert_string_equal(event.text, "one");
    cs_engine_turn_free(turn);
    assert_int_equal(driver.cancels, 1); /* freed before its end */
}

static void *push_later(void *arg)
{
    usleep(50000);
    push(arg, "from afar");
    return NULL;
}

static void a_message_of_another_thread_wakes_the_owner(void **state)
{
    struct cs_driver driver = {.on_step = echo_step};
    struct cs_engine_turn *turn = new_turn(&driver);
    struct cs_engine_event event;
    pthread_t thread;

    (void)state;
    assert_int_equal(next(turn, 0, &event), CS_OK);
    assert_int_equal(cs_thread_start(&thread, "push", 65536, push_later, turn, NULL), CS_OK);
    assert_int_equal(next(turn, 5000, &event), CS_OK);
    assert_string_equal(event.text, "from afar");
    pthread_join(thread, NULL);
    cs_engine_turn_free(turn);
}

static void over_the_cap_only_droppable_messages_are_lost(void **state)
{
    enum { MIB = 1024 * 1024 };
    struct cs_driver driver = {.on_step = echo_step};
    struct cs_engine_turn *turn = new_turn(&driver);
    struct cs_engine_event event;

    (void)state;
    for (int i = 0; i < 10; i++)
        cs_turn_push(turn, 0, NULL, strdup("small"), MIB, true);
    cs_turn_push(turn, 0, NULL, strdup("big"), 4 * MIB, false);
    assert_int_equal(turn->inbox_bytes, 12 * MIB);
    assert_int_equal(next(turn, 0, &event), CS_OK);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(next(turn, 0, &event), CS_OK);
        assert_string_equal(event.text, "small");
    }
    assert_int_equal(next(turn, 0, &event), CS_OK);
    assert_string_equal(event.text, "big");
    assert_int_equal(turn->inbox_bytes, 0);
    cs_engine_turn_free(turn);
}

static void a_flood_of_what_cannot_be_dropped_fails_the_turn(void **state)
{
    enum { MIB = 1024 * 1024 };
    struct cs_driver driver = {.on_step = echo_step};
    struct cs_engine_turn *turn = new_turn(&driver);
    struct cs_engine_event event;

    (void)state;
    for (int i = 0; i < 9; i++)
        cs_turn_push(turn, 0, NULL, strdup("big"), 32 * MIB, false);
    assert_int_equal(turn->inbox_bytes, 256 * MIB);
    assert_int_equal(next(turn, 0, &event), CS_OK);
    assert_int_equal(next(turn, 0, &event), CS_OK);
    assert_int_equal(event.type, CS_EVENT_DONE);
    assert_string_equal(event.error->code, "reply_too_large");
    cs_engine_turn_free(turn);
}

static void a_reply_of_the_server_is_reduced_to_its_sentence(void **state)
{
    static const char *const cases[][2] = {
        {"{\"error\": {\"message\": \"No such thing.\", \"code\": 1}}", "No such thing."},
        {"{\"detail\": \"Not supported\"}", "Not supported"},
        {"{\"message\": \"Said\"}", "Said"},
        {"{\"other\": 1}", "{\"other\": 1}"},
        {"{broken", "{broken"},
        {"plain", "plain"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cs_driver driver = {0};
        struct cs_engine_turn *turn = new_turn(&driver);
        struct cs_engine_event event;

        turn->begun = true;
        cs_turn_emit_done(turn, CS_UPSTREAM, "codex_error", cases[i][0]);
        assert_int_equal(next(turn, 0, &event), CS_OK);
        assert_string_equal(event.error->msg, cases[i][1]);
        cs_engine_turn_free(turn);
    }
}

static void a_turn_that_codex_does_not_stop_is_given_up_after_three_seconds(void **state)
{
    struct cs_driver driver = {.on_step = echo_step};
    struct cs_engine_turn *turn = new_turn(&driver);
    struct cs_engine_event event;
    int64_t start = cs_mono_ms();

    (void)state;
    assert_int_equal(next(turn, 0, &event), CS_OK);
    cs_engine_turn_cancel(turn);
    cs_engine_turn_cancel(turn);
    assert_int_equal(driver.cancels, 0); /* the owner does it, in next() */
    assert_int_equal(next(turn, 20, &event), CS_TIMEOUT);
    assert_int_equal(driver.cancels, 1);
    assert_int_equal(next(turn, 10000, &event), CS_OK);
    assert_int_equal(event.type, CS_EVENT_DONE);
    assert_int_equal(event.error->status, CS_CANCELLED);
    assert_string_equal(event.error->code, "turn_cancelled");
    assert_true(cs_mono_ms() - start >= 2990 && cs_mono_ms() - start < 4000);
    cs_engine_turn_free(turn);
    assert_int_equal(driver.cancels, 1);
}

static void after_a_cancel_any_failure_counts_as_cancelled(void **state)
{
    struct cs_driver driver = {.on_step = echo_step};
    struct cs_engine_turn *turn = new_turn(&driver);
    struct cs_engine_event event;

    (void)state;
    assert_int_equal(next(turn, 0, &event), CS_OK);
    cs_engine_turn_cancel(turn);
    push(turn, "bad");
    assert_int_equal(next(turn, 1000, &event), CS_OK);
    assert_int_equal(event.error->status, CS_CANCELLED);
    cs_engine_turn_free(turn);
}

static void a_turn_that_ended_well_in_spite_of_a_cancel_is_well(void **state)
{
    struct cs_driver driver = {.on_step = echo_step};
    struct cs_engine_turn *turn = new_turn(&driver);
    struct cs_engine_event event;

    (void)state;
    assert_int_equal(next(turn, 0, &event), CS_OK);
    cs_engine_turn_cancel(turn);
    push(turn, "end");
    assert_int_equal(next(turn, 1000, &event), CS_OK);
    assert_int_equal(event.error->status, CS_OK);
    cs_engine_turn_free(turn);
}

static void a_turn_cancelled_before_it_began_never_begins(void **state)
{
    struct cs_driver driver = {.on_step = echo_step};
    struct cs_engine_turn *turn = new_turn(&driver);
    struct cs_engine_event event;

    (void)state;
    cs_engine_turn_cancel(turn);
    assert_int_equal(next(turn, 1000, &event), CS_OK);
    assert_int_equal(event.error->status, CS_CANCELLED);
    cs_engine_turn_free(turn);
    assert_int_equal(driver.steps + driver.cancels + driver.detaches, 0);
}

static void one_turn_with_failures(void *arg)
{
    struct cs_driver driver = {.on_step = echo_step};
    struct cs_engine_turn *turn = arg;
    struct cs_engine_event event = {.type = CS_EVENT_DELTA};
    int count = 0;
    char *texts[2] = {strdup("one"), strdup("end")};
    bool whole;

    turn->ops = &fake_ops;
    turn->driver = &driver;
    driver.owner = pthread_self();
    if (texts[0] == NULL || texts[1] == NULL) {
        free(texts[0]);
        free(texts[1]);
        return;
    }
    assert_int_equal(cs_turn_init(turn, NULL), CS_OK);
    cs_turn_push(turn, 0, NULL, texts[0], 3, false);
    cs_turn_push(turn, 0, NULL, texts[1], 3, false);
    while (event.type != CS_EVENT_DONE) {
        assert_int_equal(next(turn, 1000, &event), CS_OK);
        count++;
    }
    whole = !fault_hit();
    assert_int_equal(event.error->status, whole ? CS_OK : CS_NO_MEM);
    assert_true(!whole || count == 3);
    cs_turn_fini(turn);
    memset(turn, 0, sizeof *turn);
}

static void without_memory_the_turn_ends_and_says_so(void **state)
{
    struct cs_engine_turn turn = {0};

    (void)state;
    assert_true(fault_sweep(one_turn_with_failures, &turn) >= 7);
}

/* ---- the preamble ---- */

static struct cs_engine_item items[12];

static char *compose(size_t count, int64_t budget, const struct cs_engine_request *request)
{
    struct cs_buf out;

    cs_buf_init(&out, 16 * 1024 * 1024);
    cs_preamble(items, count, budget, request, &out);
    return cs_buf_take(&out, NULL);
}

static void set_items(size_t count)
{
    static const char *const texts[] = {"m0", "m1", "m2", "m3", "m4",  "m5",
                                        "m6", "m7", "m8", "m9", "m10", "m11"};

    for (size_t i = 0; i < count; i++)
        items[i] = (struct cs_engine_item){.role = i % 2 == 0 ? CS_ROLE_USER : CS_ROLE_ASSISTANT,
                                           .text = texts[i],
                                           .len = strlen(texts[i])};
}

static void without_a_past_the_prompt_stays_as_it_is(void **state)
{
    struct cs_engine_request request = {.prompt = "hello", .prompt_len = 5};
    struct cs_engine_request with = {
        .prompt = "hello", .prompt_len = 5, .context = "facts", .context_len = 5};
    char *text = compose(0, 1000, &request);

    (void)state;
    assert_string_equal(text, "hello");
    free(text);
    text = compose(0, 1000, &with);
    assert_string_equal(text, "facts\n\nhello");
    free(text);
}

static void the_newest_messages_that_fit_are_told_in_order(void **state)
{
    struct cs_engine_request request = {.prompt = "next?", .prompt_len = 5};
    char *text;

    (void)state;
    set_items(10);
    text = compose(10, 14, &request); /* room for seven of two bytes */
    assert_null(strstr(text, "m2"));
    assert_non_null(strstr(text, "without the oldest 3 messages"));
    assert_non_null(strstr(text, "[assistant]\nm3\n\n[user]\nm4\n\n"));
    assert_true(strstr(text, "m3") < strstr(text, "m9"));
    assert_string_equal(text + strlen(text) - 5, "next?");
    free(text);
    text = compose(10, 1000, &request);
    assert_non_null(strstr(text, "[user]\nm0\n\n[assistant]\nm1\n\n"));
    assert_null(strstr(text, "oldest"));
    free(text);
}

static void at_least_five_messages_are_told_whatever_the_budget(void **state)
{
    struct cs_engine_request request = {.prompt = "next?", .prompt_len = 5};
    char *text;

    (void)state;
    set_items(10);
    text = compose(10, 0, &request);
    assert_null(strstr(text, "m4"));
    assert_non_null(strstr(text, "m5"));
    free(text);
    text = compose(3, 0, &request);
    assert_non_null(strstr(text, "m0"));
    free(text);
}

static void five_huge_messages_lose_their_middles_at_characters(void **state)
{
    enum { LEN = 600000 };
    struct cs_engine_request request = {.prompt = "a prompt of 20 bytes", .prompt_len = 20};
    char *huge = malloc(LEN), *text;

    (void)state;
    for (size_t i = 0; i + 3 <= LEN; i += 3)
        memcpy(huge + i, "\346\227\245", 3);
    for (size_t i = 0; i < 5; i++)
        items[i] = (struct cs_engine_item){.role = CS_ROLE_USER, .text = huge, .len = LEN};
    text = compose(5, 65536, &request);
    assert_true(strlen(text) < 1048576);
    assert_true(strlen(text) > 900000);
    assert_true(cs_utf8_valid(text, strlen(text)));
    assert_non_null(strstr(text, "bytes left out]"));
    free(text);
    free(huge);
}

static void what_codex_says_becomes_a_stable_code(void **state)
{
    static const struct {
        const char *info, *message, *code;
    } cases[] = {
        {"\"modelNotFound\"", "x", "model_not_found"},
        {"{\"httpConnectionFailed\":{\"httpStatusCode\":401}}", "x", "codex_auth"},
        {"{\"responseTooManyFailedAttempts\":{\"httpStatusCode\":429}}", "x", "codex_rate_limited"},
        {"{\"responseTooManyFailedAttempts\":{\"httpStatusCode\":null}}", "x",
         "codex_rate_limited"},
        {"\"contextWindowExceeded\"", "x", "context_window_exceeded"},
        {"\"internalServerError\"", "x", "codex_error"},
        {"\"other\"", "The model `gpt-9` does not exist", "model_not_found"},
        {NULL, "unexpected status 401 Unauthorized: nope", "codex_auth"},
        {NULL, "exceeded retry limit, last status: 429 Too Many Requests", "codex_rate_limited"},
        {NULL, "something else", "codex_error"},
        {NULL, NULL, "codex_error"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cs_json *info = NULL;

        if (cases[i].info != NULL)
            assert_int_equal(cs_json_parse(cases[i].info, strlen(cases[i].info), 1000, &info, NULL),
                             CS_OK);
        assert_string_equal(cs_codex_error_code(info, cases[i].message), cases[i].code);
        cs_json_free(info);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_come_in_order_and_end_with_done),
        cmocka_unit_test(a_deadline_passes_and_the_turn_goes_on),
        cmocka_unit_test(a_message_of_another_thread_wakes_the_owner),
        cmocka_unit_test(over_the_cap_only_droppable_messages_are_lost),
        cmocka_unit_test(a_flood_of_what_cannot_be_dropped_fails_the_turn),
        cmocka_unit_test(a_reply_of_the_server_is_reduced_to_its_sentence),
        cmocka_unit_test(a_turn_that_codex_does_not_stop_is_given_up_after_three_seconds),
        cmocka_unit_test(after_a_cancel_any_failure_counts_as_cancelled),
        cmocka_unit_test(a_turn_that_ended_well_in_spite_of_a_cancel_is_well),
        cmocka_unit_test(a_turn_cancelled_before_it_began_never_begins),
        cmocka_unit_test(without_memory_the_turn_ends_and_says_so),
        cmocka_unit_test(without_a_past_the_prompt_stays_as_it_is),
        cmocka_unit_test(the_newest_messages_that_fit_are_told_in_order),
        cmocka_unit_test(at_least_five_messages_are_told_whatever_the_budget),
        cmocka_unit_test(five_huge_messages_lose_their_middles_at_characters),
        cmocka_unit_test(what_codex_says_becomes_a_stable_code),
    };

    return cmocka_run_group_tests_name("event", tests, NULL, NULL);
}
