#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core_fixture.h"

static int setup(void **state)
{
    static struct fixture f;

    fixture_open(&f, NULL);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    fixture_close(*state);
    return 0;
}

/* A turn in the conversation @sid, or with NULL in a new one, whose id comes to @out_sid. */
static void chat(struct fixture *f, const char *sid, char out_sid[CS_UUID_MAX])
{
    struct cs_turn_request request = {.prompt = "hello", .prompt_len = 5, .ttl_seconds = -1};
    struct cs_turn *turn = NULL;
    struct cs_turn_view view;
    char tid[CS_UUID_MAX];

    request.continued = sid != NULL;
    request.identifier = sid;
    assert_int_equal(cs_turn_begin(f->core, &request, &turn, tid, NULL), CS_OK);
    memcpy(out_sid, cs_turn_sid(turn), CS_UUID_MAX);
    assert_int_equal(cs_turn_detach(turn, NULL), CS_OK);
    assert_int_equal(cs_turn_view(f->core, tid, SOON, &view, NULL), CS_OK);
    assert_int_equal(view.row.status, CS_TURN_COMPLETED);
    cs_turn_view_fini(&view);
}

static const struct cs_history *history_of(struct fixture *f, const char *sid)
{
    const struct cs_history *history = NULL;

    assert_int_equal(cs_core_history(f->core, sid, 0, 0, &history, NULL), CS_OK);
    return history;
}

static void the_room_around_a_history_has_one_borrower_at_a_time(void **state)
{
    struct fixture *f = *state;
    const struct cs_history *one, *two;
    char sid[CS_UUID_MAX], *messages;

    chat(f, NULL, sid);
    one = history_of(f, sid);
    two = history_of(f, sid);
    assert_ptr_equal(one, two); /* out of the cache */
    messages = cs_history_borrow(one);
    assert_ptr_equal(messages, one->messages);
    memset(messages - CS_HISTORY_BEFORE, 'b', CS_HISTORY_BEFORE);
    memset(messages + one->len, 'a', CS_HISTORY_AFTER);
    assert_null(cs_history_borrow(two));
    cs_history_return(one);
    assert_non_null(cs_history_borrow(two));
    cs_history_return(two);
    assert_memory_equal(two->messages, "{\"type\":\"user\"", 14);
    assert_int_equal(two->messages[two->len - 1], '}');
    cs_history_release(one);
    cs_history_release(two);
}

static void a_borrowed_history_outlives_what_made_it_old(void **state)
{
    struct fixture *f = *state;
    const struct cs_history *old, *fresh;
    char sid[CS_UUID_MAX], *messages;

    chat(f, NULL, sid);
    old = history_of(f, sid);
    messages = cs_history_borrow(old);
    assert_non_null(messages);
    chat(f, sid, sid);
    fresh = history_of(f, sid);
    assert_ptr_not_equal(old, fresh);
    assert_int_equal(old->count, 2);
    assert_int_equal(fresh->count, 4);
    messages[-1] = '[';
    cs_history_return(old);
    cs_history_release(old);
    assert_non_null(cs_history_borrow(fresh));
    cs_history_return(fresh);
    cs_history_release(fresh);
}

static void what_does_not_fit_puts_out_what_was_read_longest_ago(void **state)
{
    enum { SESSIONS = 5 };
    struct fixture *f = *state;
    const struct cs_history *kept[SESSIONS], *again;
    char sids[SESSIONS][CS_UUID_MAX];
    struct cs_history_cache *whole = f->core->cache;
    size_t each;
    int i;

    for (i = 0; i < SESSIONS; i++)
        chat(f, NULL, sids[i]);
    kept[0] = history_of(f, sids[0]);
    each = CS_HISTORY_BEFORE + kept[0]->len + 512; /* a little more than it takes */
    cs_history_release(kept[0]);
    assert_int_equal(cs_history_cache_new(4 * each, &f->core->cache, NULL), CS_OK);
    for (i = 0; i < SESSIONS; i++)
        kept[i] = history_of(f, sids[i]);
    again = history_of(f, sids[1]);
    assert_ptr_equal(again, kept[1]);
    cs_history_release(again);
    again = history_of(f, sids[0]);
    assert_ptr_not_equal(again, kept[0]);
    cs_history_release(again);
    for (i = 0; i < SESSIONS; i++)
        cs_history_release(kept[i]);
    cs_history_cache_free(f->core->cache);
    f->core->cache = whole;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_room_around_a_history_has_one_borrower_at_a_time, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_borrowed_history_outlives_what_made_it_old, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_does_not_fit_puts_out_what_was_read_longest_ago, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
