#include "fixture.h"

struct entry {
    const char *key;
    struct cs_idempotency row;
};
WRITE(write_key, struct entry, cs_idempotency_insert(db, x->key, &x->row, err))

struct purge {
    int64_t oldest;
    unsigned max;
    int64_t next;
};
WRITE(write_purge, struct purge, cs_idempotency_purge(db, x->oldest, x->max, &x->next, err))

static enum cs_status find(struct fixture *f, const char *key, int64_t oldest,
                           struct cs_idempotency *out)
{
    struct cs_db *db = NULL;
    enum cs_status status;

    ok(cs_store_read(f->store, &db, NULL));
    status = cs_idempotency_find(db, key, oldest, out, NULL);
    cs_store_done(f->store, db);
    return status;
}

static void add(struct fixture *f, const char *key, int64_t turn, int64_t at)
{
    struct entry entry = {.key = key, .row = {.turn = turn, .created_at = at}};

    memset(entry.row.body, (int)turn, sizeof entry.row.body);
    ok(write_key(f, &entry));
}

static void a_key_is_found_with_what_it_began(void **state)
{
    struct fixture *f = *state;
    struct cs_idempotency row = {0};

    add(f, "key", 3, 100);
    ok(find(f, "key", 100, &row));
    assert_int_equal(3, row.turn);
    assert_int_equal(100, row.created_at);
    for (size_t i = 0; i < sizeof row.body; i++)
        assert_int_equal(3, row.body[i]);
}

static void an_unknown_or_old_key_is_not_found(void **state)
{
    struct fixture *f = *state;
    struct cs_idempotency row = {.turn = 77};

    add(f, "key", 3, 100);
    assert_int_equal(CS_NOT_FOUND, find(f, "other", 0, &row));
    assert_int_equal(CS_NOT_FOUND, find(f, "key", 101, &row));
    assert_int_equal(77, row.turn);
}

static void a_known_key_is_a_conflict(void **state)
{
    struct fixture *f = *state;
    struct entry again = {.key = "key", .row = {.turn = 4}};

    add(f, "key", 3, 100);
    assert_int_equal(CS_CONFLICT, write_key(f, &again));
    assert_string_equal("idempotency_key_known", f->err.code);
}

static void keys_have_1_to_255_bytes(void **state)
{
    struct fixture *f = *state;
    char key[257];
    struct entry entry = {.key = key, .row = {.turn = 4}};

    memset(key, 'k', sizeof key);
    key[256] = '\0';
    assert_int_equal(CS_INVALID, write_key(f, &entry));
    key[255] = '\0';
    ok(write_key(f, &entry));
    key[0] = '\0';
    assert_int_equal(CS_INVALID, write_key(f, &entry));
}

static void purging_forgets_the_oldest_first(void **state)
{
    struct fixture *f = *state;
    struct purge purge = {.oldest = 300, .max = 1};
    struct cs_idempotency row;

    add(f, "b", 2, 200);
    add(f, "a", 1, 100);
    add(f, "c", 3, 300);
    ok(write_purge(f, &purge));
    assert_int_equal(200, purge.next);
    assert_int_equal(CS_NOT_FOUND, find(f, "a", 0, &row));
    ok(find(f, "b", 0, &row));
    purge.max = 10;
    ok(write_purge(f, &purge));
    assert_int_equal(300, purge.next);
    ok(find(f, "c", 0, &row));
    purge.oldest = 301;
    ok(write_purge(f, &purge));
    assert_true(purge.next == INT64_MAX);
}

static void keys_go_with_their_session(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct cs_idempotency row;

    add(f, "mine", begin_turn(f, session, 1, 5), 100);
    add(f, "other", begin_turn(f, add_session(f, 2), 2, 5), 100);
    ok(write_delete(f, &session));
    assert_int_equal(CS_NOT_FOUND, find(f, "mine", 0, &row));
    ok(find(f, "other", 0, &row));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_store, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_key_is_found_with_what_it_began), TEST(an_unknown_or_old_key_is_not_found),
        TEST(a_known_key_is_a_conflict),         TEST(keys_have_1_to_255_bytes),
        TEST(purging_forgets_the_oldest_first),  TEST(keys_go_with_their_session),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
