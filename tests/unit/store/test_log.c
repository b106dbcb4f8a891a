/* The log of all sessions in the order of ids: what a listener is told, and what it can read again.
 */
#include "fixture.h"

#include "cs/store/replica.h"

#define FAR INT64_C(0x0123456789abcdef) /* an origin of another host */

/* ---- helpers ---- */

struct heard {
    struct cs_appended rows[64];
    size_t count, calls;
};

static void hear(void *arg, const struct cs_appended *rows, size_t count)
{
    struct heard *heard = arg;

    assert_true(heard->count + count <= 64);
    memcpy(heard->rows + heard->count, rows, count * sizeof *rows);
    heard->count += count;
    heard->calls++;
}

struct insertion {
    int64_t session;
    struct cs_replica_message message;
    enum cs_replica_outcome outcome;
};
WRITE(write_insert, struct insertion,
      cs_replica_insert(db, x->session, &x->message, 2000000, &x->outcome, err))

/* The ids of @range as "1,2,", read @max at a time until its end. */
static const char *ids_of(struct fixture *f, struct cs_message_range range, size_t max)
{
    static char text[1024];
    int64_t ids[64];
    struct cs_message_page page = {.ids = ids, .max = max};
    struct cs_db *db = NULL;
    size_t len = 0;

    text[0] = '\0';
    ok(cs_store_read(f->store, &db, &f->err));
    while (range.after < range.upto) {
        ok(cs_message_ids(db, &range, &page, &f->err));
        for (size_t i = 0; i < page.count; i++)
            len += (size_t)snprintf(text + len, sizeof text - len, "%lld,", (long long)ids[i]);
        assert_true(page.reached > range.after && page.reached <= range.upto);
        range.after = page.reached;
    }
    cs_store_done(f->store, db);
    return text;
}

static int64_t top_of(struct fixture *f)
{
    struct cs_db *db = NULL;
    int64_t top = -1;

    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_message_top(db, &top, &f->err));
    cs_store_done(f->store, db);
    return top;
}

/* ---- cases ---- */

static void a_listener_is_told_of_each_message_with_its_session(void **state)
{
    struct fixture *f = *state;
    struct heard heard = {.count = 0};
    int64_t a = add_session(f, 1), b = add_session(f, 2), first, second;

    (void)add_message(f, a, CS_MESSAGE_USER, "before", NULL, 1);
    cs_store_listen(f->store, hear, &heard);
    first = add_message(f, a, CS_MESSAGE_USER, "one", NULL, 1);
    second = add_message(f, b, CS_MESSAGE_USER, "two", NULL, 1);
    (void)add_session(f, 3); /* adds no message */
    assert_int_equal(2, heard.count);
    assert_int_equal(2, heard.calls);
    assert_int_equal(first, heard.rows[0].id);
    assert_int_equal(a, heard.rows[0].session);
    assert_int_equal(second, heard.rows[1].id);
    assert_int_equal(b, heard.rows[1].session);
    cs_store_listen(f->store, NULL, NULL);
    (void)add_message(f, a, CS_MESSAGE_USER, "after", NULL, 1);
    assert_int_equal(2, heard.count);
}

static void a_listener_is_told_of_merged_messages_but_not_of_known_ones(void **state)
{
    struct fixture *f = *state;
    struct heard heard = {.count = 0};
    char frag[] = "{\"type\":\"user\",\"content\":\"from afar\"}";
    struct insertion insertion = {
        .session = add_session(f, 1),
        .message = {.hlc = 1000, .origin = FAR, .seq = 1, .frag = frag, .len = sizeof frag - 1}};

    cs_store_listen(f->store, hear, &heard);
    ok(write_insert(f, &insertion));
    assert_int_equal(CS_REPLICA_ADDED, insertion.outcome);
    ok(write_insert(f, &insertion));
    assert_int_equal(CS_REPLICA_KNOWN, insertion.outcome);
    assert_int_equal(1, heard.count);
    assert_int_equal(top_of(f), heard.rows[0].id);
    assert_int_equal(insertion.session, heard.rows[0].session);
}

static enum cs_status append_and_fail(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct append *append = arg;

    ok(cs_message_append(db, &append->message, &append->id, err));
    return CS_DENIED;
}

static void a_listener_is_not_told_of_what_was_taken_back(void **state)
{
    struct fixture *f = *state;
    struct heard heard = {.count = 0};
    struct append append = {
        .message = {.session = add_session(f, 1), .content = "lost", .content_len = 4, .at = 1}};
    int64_t kept;

    cs_store_listen(f->store, hear, &heard);
    assert_int_equal(CS_DENIED, cs_store_write(f->store, append_and_fail, &append, NULL));
    assert_int_equal(0, heard.count);
    kept = add_message(f, append.message.session, CS_MESSAGE_USER, "kept", NULL, 1);
    assert_int_equal(1, heard.count);
    assert_int_equal(kept, heard.rows[0].id);
}

static void the_log_is_read_of_all_of_a_session_or_of_a_user(void **state)
{
    struct fixture *f = *state;
    int64_t a = add_session(f, 1), b = add_session_of(f, 2, "bert", 1000000, 0);

    for (int i = 0; i < 3; i++) {
        (void)add_message(f, a, CS_MESSAGE_USER, "a", NULL, 1);
        (void)add_message(f, b, CS_MESSAGE_USER, "b", NULL, 1);
    }
    for (size_t max = 1; max <= 7; max++) {
        assert_string_equal("1,2,3,4,5,6,",
                            ids_of(f, (struct cs_message_range){0, 6, 0, NULL}, max));
        assert_string_equal("3,4,", ids_of(f, (struct cs_message_range){2, 4, 0, NULL}, max));
        assert_string_equal("2,4,6,", ids_of(f, (struct cs_message_range){0, 6, b, NULL}, max));
        assert_string_equal("5,", ids_of(f, (struct cs_message_range){3, 6, a, NULL}, max));
        assert_string_equal("1,3,5,", ids_of(f, (struct cs_message_range){0, 6, 0, "anna"}, max));
        assert_string_equal("", ids_of(f, (struct cs_message_range){0, 6, 0, "carl"}, max));
    }
}

static void a_look_at_a_long_log_ends_early_and_can_be_gone_on_with(void **state)
{
    struct fixture *f = *state;
    struct cs_message_range range = {0, 1000000, 0, "nobody"};
    int64_t ids[4];
    struct cs_message_page page = {.ids = ids, .max = 4, .count = 9};
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_message_ids(db, &range, &page, &f->err));
    cs_store_done(f->store, db);
    assert_int_equal(0, page.count);
    assert_in_range(page.reached, 1, range.upto - 1);
    assert_string_equal("", ids_of(f, range, 4));
}

static void a_row_comes_with_its_session_user_and_turn(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    int64_t id = add_message(f, session, CS_MESSAGE_ASSISTANT, "said", "t1", 77);
    struct cs_message_row row;
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_message_get(db, id, &row, &f->err));
    assert_int_equal(id, row.id);
    assert_int_equal(session, row.session);
    assert_int_equal(CS_MESSAGE_ASSISTANT, row.kind);
    assert_int_equal(77, row.at);
    assert_string_equal("s1", row.sid);
    assert_string_equal("c1", row.cid);
    assert_string_equal("t1", row.tid);
    assert_string_equal("anna", row.user);
    assert_non_null(strstr(row.frag, "\"content\":\"said\""));
    assert_int_equal(strlen(row.frag), row.len);
    cs_message_row_fini(&row);
    assert_int_equal(CS_NOT_FOUND, cs_message_get(db, id + 1, &row, &f->err));
    cs_store_done(f->store, db);
}

static void the_top_of_the_log_survives_the_deletion_of_its_newest_rows(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    int64_t id;

    assert_int_equal(0, top_of(f));
    id = add_message(f, session, CS_MESSAGE_USER, "gone soon", NULL, 1);
    assert_int_equal(id, top_of(f));
    ok(write_delete(f, &session));
    assert_int_equal(id, top_of(f));
    fixture_reopen(f);
    assert_int_equal(id, top_of(f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_listener_is_told_of_each_message_with_its_session,
                                        setup_store, teardown),
        cmocka_unit_test_setup_teardown(a_listener_is_told_of_merged_messages_but_not_of_known_ones,
                                        setup_store, teardown),
        cmocka_unit_test_setup_teardown(a_listener_is_not_told_of_what_was_taken_back, setup_store,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_log_is_read_of_all_of_a_session_or_of_a_user,
                                        setup_store, teardown),
        cmocka_unit_test_setup_teardown(a_look_at_a_long_log_ends_early_and_can_be_gone_on_with,
                                        setup_store, teardown),
        cmocka_unit_test_setup_teardown(a_row_comes_with_its_session_user_and_turn, setup_store,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_top_of_the_log_survives_the_deletion_of_its_newest_rows,
                                        setup_store, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
