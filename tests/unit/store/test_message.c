#include "fixture.h"

#include "db.h"
#include "message.h"

/* ---- helpers ---- */

/* What a row says of itself, read past the API. */
struct row {
    int64_t hlc, origin, seq, parent_origin, parent_seq;
};

static struct row read_raw(struct fixture *f, int64_t id)
{
    char sql[128];
    struct row row = {0};
    struct cs_db *db = NULL;
    sqlite3_stmt *stmt = NULL;

    (void)snprintf(
        sql, sizeof sql,
        "SELECT hlc, origin, seq, parent_origin, parent_seq FROM message WHERE id = %lld",
        (long long)id);
    ok(cs_store_read(f->store, &db, NULL));
    assert_int_equal(SQLITE_OK, sqlite3_prepare_v2(db->sqlite, sql, -1, &stmt, NULL));
    assert_int_equal(SQLITE_ROW, sqlite3_step(stmt));
    row.hlc = sqlite3_column_int64(stmt, 0);
    row.origin = sqlite3_column_int64(stmt, 1);
    row.seq = sqlite3_column_int64(stmt, 2);
    row.parent_origin = sqlite3_column_int64(stmt, 3);
    row.parent_seq = sqlite3_column_int64(stmt, 4);
    assert_int_equal(SQLITE_OK, sqlite3_finalize(stmt));
    cs_store_done(f->store, db);
    return row;
}

/* A message as another host would have written it: its own origin, any clock. */
struct foreign {
    int64_t session, hlc, origin, seq;
    const char *frag;
};

static enum cs_status insert_foreign(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct foreign *x = arg;
    char sql[512];
    int64_t id = ++db->tops[CS_TOP_MESSAGE];

    (void)snprintf(sql, sizeof sql,
                   "INSERT INTO message (id, session, hlc, origin, seq, parent_origin, parent_seq, "
                   "kind, at, hash, frag) VALUES (%lld, %lld, %lld, %lld, %lld, 0, 0, 0, 1, x'00', "
                   "'%s')",
                   (long long)id, (long long)x->session, (long long)x->hlc, (long long)x->origin,
                   (long long)x->seq, x->frag);
    return cs_db_exec(db, sql, err);
}

static void add_foreign(struct fixture *f, struct foreign foreign)
{
    ok(cs_store_write(f->store, insert_foreign, &foreign, &f->err));
}

static int64_t fixed_clock(void)
{
    return 5000;
}

static int64_t earlier_clock(void)
{
    return 4000;
}

/* ---- appending ---- */

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

static void each_kind_has_its_name(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    static const char *const names[] = {"user", "assistant", "context", "error"};
    int64_t count = 0;
    char *text, *at;

    for (int kind = 0; kind < 4; kind++)
        (void)add_message(f, session, (enum cs_message_kind)kind, "x", NULL, 0);
    at = text = history(f, session, 0, 0, &count, NULL);
    for (int kind = 0; kind < 4; kind++) {
        char start[64];

        (void)snprintf(start, sizeof start, "{\"type\":\"%s\",\"content\":\"x\"", names[kind]);
        at = strstr(at, start);
        assert_non_null(at);
    }
    free(text);
}

static void the_first_message_has_no_parent_and_the_next_one_has(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct row first = read_raw(f, add_message(f, session, CS_MESSAGE_USER, "a", NULL, 1));
    struct row second = read_raw(f, add_message(f, session, CS_MESSAGE_USER, "b", NULL, 1));

    assert_int_equal(1, first.seq);
    assert_int_equal(0, first.parent_origin);
    assert_int_equal(0, first.parent_seq);
    assert_int_equal(2, second.seq);
    assert_int_equal(first.origin, second.parent_origin);
    assert_int_equal(1, second.parent_seq);
    assert_true(second.hlc > first.hlc);
}

static void the_clock_of_a_session_never_goes_back(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct row row;

    cs_clock_override(fixed_clock);
    row = read_raw(f, add_message(f, session, CS_MESSAGE_USER, "a", NULL, 1));
    assert_int_equal((int64_t)5000 << 16, row.hlc);
    row = read_raw(f, add_message(f, session, CS_MESSAGE_USER, "b", NULL, 1));
    assert_int_equal(((int64_t)5000 << 16) + 1, row.hlc);
    cs_clock_override(earlier_clock);
    row = read_raw(f, add_message(f, session, CS_MESSAGE_USER, "c", NULL, 1));
    assert_int_equal(((int64_t)5000 << 16) + 2, row.hlc);
}

static void a_new_start_counts_from_one_and_links_to_the_old(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct row old = read_raw(f, add_message(f, session, CS_MESSAGE_USER, "a", NULL, 1));
    struct row fresh;

    fixture_reopen(f);
    fresh = read_raw(f, add_message(f, session, CS_MESSAGE_USER, "b", NULL, 1));
    assert_int_equal(1, fresh.seq);
    assert_true(fresh.origin != old.origin);
    assert_int_equal(old.origin, fresh.parent_origin);
    assert_int_equal(old.seq, fresh.parent_seq);
    assert_true(fresh.hlc > old.hlc);
    fresh = read_raw(f, add_message(f, session, CS_MESSAGE_USER, "c", NULL, 1));
    assert_int_equal(2, fresh.seq);
}

static void news_of_another_host_do_not_break_the_sequence(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct row row = read_raw(f, add_message(f, session, CS_MESSAGE_USER, "a", NULL, 1));

    add_foreign(f, (struct foreign){session, row.hlc + 10, 42, 7, "{}"});
    row = read_raw(f, add_message(f, session, CS_MESSAGE_USER, "b", NULL, 1));
    assert_int_equal(2, row.seq);
    assert_int_equal(42, row.parent_origin);
    assert_int_equal(7, row.parent_seq);
}

static void sessions_count_apart(void **state)
{
    struct fixture *f = *state;
    int64_t one = add_session(f, 1);
    int64_t two = add_session(f, 2);

    (void)add_message(f, one, CS_MESSAGE_USER, "a", NULL, 1);
    assert_int_equal(1, read_raw(f, add_message(f, two, CS_MESSAGE_USER, "b", NULL, 1)).seq);
    assert_int_equal(2, read_raw(f, add_message(f, one, CS_MESSAGE_USER, "c", NULL, 1)).seq);
}

static void a_message_of_no_session_is_refused(void **state)
{
    struct fixture *f = *state;
    struct append append = {.message = {.session = 99, .content = "x", .content_len = 1}};

    assert_int_equal(CS_NOT_FOUND, write_message(f, &append));
    assert_string_equal("session_not_found", f->err.code);
}

static void text_that_is_not_utf8_is_refused(void **state)
{
    struct fixture *f = *state;
    struct append append = {.message = {.session = add_session(f, 1)}};

    append.message.content = "\xff";
    append.message.content_len = 1;
    assert_int_equal(CS_INVALID, write_message(f, &append));
    append.message.content = "a\0b";
    append.message.content_len = 3;
    assert_int_equal(CS_INVALID, write_message(f, &append));
}

static void ids_are_never_given_out_twice(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    int64_t id = add_message(f, session, CS_MESSAGE_USER, "a", NULL, 1);
    int64_t again;

    ok(write_delete(f, &session));
    fixture_reopen(f);
    again = add_session(f, 2);
    assert_true(again > session);
    assert_true(add_message(f, again, CS_MESSAGE_USER, "a", NULL, 1) > id);
}

static void tens_of_megabytes_round_trip(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    size_t len = (size_t)24 << 20;
    char *text = malloc(len + 1);
    struct append append = {.message = {.session = session, .content = text, .content_len = len}};
    struct cs_db *db = NULL;
    char *back = NULL;
    size_t back_len = 0;

    assert_non_null(text);
    for (size_t i = 0; i < len; i++)
        text[i] = "ab\n\"\\\t"[i % 6];
    text[len] = '\0';
    ok(write_message(f, &append));
    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_message_content(db, append.id, &back, &back_len, &f->err));
    cs_store_done(f->store, db);
    assert_int_equal(len, back_len);
    assert_memory_equal(text, back, len);
    free(text);
    free(back);
}

/* ---- history ---- */

static void an_empty_history_is_empty(void **state)
{
    struct fixture *f = *state;
    int64_t count = -1;
    int64_t before = -1;
    char *text = history(f, add_session(f, 1), 10, 0, &count, &before);

    assert_string_equal("", text);
    assert_int_equal(0, count);
    assert_int_equal(0, before);
    free(text);
}

/* The contents "m<n>" of a rendered page, "3 4 5". */
static void numbers_of(char *page, char *out, size_t cap)
{
    size_t used = 0;

    out[0] = '\0';
    for (char *at = page; (at = strstr(at, "\"content\":\"m")) != NULL; at++)
        used += (size_t)snprintf(out + used, cap - used, "%s%d", used > 0 ? " " : "",
                                 atoi(at + 12)); /* NOLINT: our own digits */
}

static void assert_page(struct fixture *f, int64_t session, unsigned limit, int64_t before,
                        const char *numbers, int64_t *out_before)
{
    char found[256];
    int64_t count = 0;
    char *page = history(f, session, limit, before, &count, out_before);

    numbers_of(page, found, sizeof found);
    assert_string_equal(numbers, found);
    free(page);
}

static void pages_go_back_to_the_start(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    int64_t other = add_session(f, 2);
    int64_t before = 0;
    char text[16];

    for (int i = 1; i <= 7; i++) {
        (void)snprintf(text, sizeof text, "m%d", i);
        (void)add_message(f, session, CS_MESSAGE_USER, text, NULL, 1);
        (void)add_message(f, other, CS_MESSAGE_USER, "other", NULL, 1);
    }
    assert_page(f, session, 0, 0, "1 2 3 4 5 6 7", &before);
    assert_int_equal(0, before);
    assert_page(f, session, 7, 0, "1 2 3 4 5 6 7", &before);
    assert_int_equal(0, before);
    assert_page(f, session, 3, 0, "5 6 7", &before);
    assert_page(f, session, 0, before, "1 2 3 4", NULL);
    assert_page(f, session, 3, before, "2 3 4", &before);
    assert_page(f, session, 3, before, "1", &before);
    assert_int_equal(0, before);
}

static void pages_neither_skip_nor_repeat_when_clocks_are_equal(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);

    /* Two hosts at the same moment; the order is (hlc, origin, seq) whatever came first. */
    add_foreign(f, (struct foreign){session, 100, 9, 1, "{\"content\":\"m3\"}"});
    add_foreign(f, (struct foreign){session, 100, 5, 4, "{\"content\":\"m2\"}"});
    add_foreign(f, (struct foreign){session, 200, 5, 5, "{\"content\":\"m4\"}"});
    add_foreign(f, (struct foreign){session, 200, 9, 2, "{\"content\":\"m5\"}"});
    add_foreign(f, (struct foreign){session, 50, 9, 3, "{\"content\":\"m1\"}"});
    for (unsigned limit = 1; limit <= 5; limit++) {
        int64_t before = 0;
        int next = 5;

        do {
            char numbers[64];
            int64_t count = 0;
            char *page = history(f, session, limit, before, &count, &before);
            char expected[64] = "";
            size_t used = 0;

            for (int i = next - (int)count + 1; i <= next; i++)
                used += (size_t)snprintf(expected + used, sizeof expected - used, "%s%d",
                                         used > 0 ? " " : "", i);
            numbers_of(page, numbers, sizeof numbers);
            assert_string_equal(expected, numbers);
            next -= (int)count;
            free(page);
        } while (before != 0);
        assert_int_equal(0, next);
    }
}

static void a_position_of_another_session_is_invalid(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    int64_t id = add_message(f, session, CS_MESSAGE_USER, "a", NULL, 1);
    int64_t other = add_session(f, 2);
    struct cs_buf out;
    struct cs_db *db = NULL;
    int64_t count = 0;

    cs_buf_init(&out, 1000);
    cs_buf_adds(&out, "kept");
    ok(cs_store_read(f->store, &db, NULL));
    assert_int_equal(CS_INVALID, cs_message_history(db, other, 1, id, &out, &count, NULL, &f->err));
    assert_string_equal("invalid_before", f->err.code);
    assert_string_equal("kept", out.data);
    cs_store_done(f->store, db);
    cs_buf_fini(&out);
}

static void a_history_past_the_cap_is_too_large(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct cs_buf out;
    struct cs_db *db = NULL;
    int64_t count = 77;

    (void)add_message(f, session, CS_MESSAGE_USER, "a long text that does not fit", NULL, 1);
    cs_buf_init(&out, 40);
    ok(cs_store_read(f->store, &db, NULL));
    assert_int_equal(CS_TOO_LARGE, cs_message_history(db, session, 0, 0, &out, &count, NULL, NULL));
    assert_int_equal(77, count);
    cs_store_done(f->store, db);
    cs_buf_fini(&out);
}

/* ---- content ---- */

static void the_content_comes_back_as_it_was(void **state)
{
    struct fixture *f = *state;
    const char *text =
        "\xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x99\x82 \x01\x1f\x7f \\u0041 </script>\r\n";
    int64_t id = add_message(f, add_session(f, 1), CS_MESSAGE_USER, text, NULL, 1);
    struct cs_db *db = NULL;
    char *back = NULL;
    size_t len = 0;

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_message_content(db, id, &back, &len, &f->err));
    assert_string_equal(text, back);
    assert_int_equal(strlen(text), len);
    free(back);
    back = NULL;
    assert_int_equal(CS_NOT_FOUND, cs_message_content(db, id + 1, &back, &len, &f->err));
    assert_null(back);
    cs_store_done(f->store, db);
}

static void a_message_without_content_is_corrupt(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct cs_transcript *transcript = NULL;
    struct cs_db *db = NULL;
    char *back = NULL;
    size_t len = 0;

    add_foreign(f, (struct foreign){session, 1, 9, 1, "{\"content\":5}"});
    ok(cs_store_read(f->store, &db, NULL));
    assert_int_equal(CS_CORRUPT, cs_message_content(db, 1, &back, &len, NULL));
    assert_int_equal(CS_CORRUPT, cs_message_transcript(db, session, NULL, &transcript, NULL));
    assert_null(transcript);
    cs_store_done(f->store, db);
}

/* ---- transcript ---- */

static void assert_transcript(struct fixture *f, int64_t session, const char *except,
                              const char *expected)
{
    struct cs_transcript *transcript = NULL;
    struct cs_db *db = NULL;
    char found[512] = "";
    size_t used = 0;

    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_message_transcript(db, session, except, &transcript, &f->err));
    cs_store_done(f->store, db);
    for (size_t i = 0; i < transcript->count; i++) {
        assert_int_equal(strlen(transcript->items[i].text), transcript->items[i].len);
        used += (size_t)snprintf(found + used, sizeof found - used, "%s%s=%s", i > 0 ? " " : "",
                                 cs_message_kind_name(transcript->items[i].kind),
                                 transcript->items[i].text);
    }
    assert_string_equal(expected, found);
    cs_transcript_free(transcript);
}

static void a_transcript_holds_completed_turns_only(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);

    assert_transcript(f, session, NULL, "");
    (void)add_message(f, session, CS_MESSAGE_CONTEXT, "given", "t1", 1);
    (void)add_message(f, session, CS_MESSAGE_USER, "one", "t1", 1);
    assert_transcript(f, session, NULL, "");
    (void)add_message(f, session, CS_MESSAGE_ASSISTANT, "1", "t1", 1);
    (void)add_message(f, session, CS_MESSAGE_USER, "two", "t2", 1);
    (void)add_message(f, session, CS_MESSAGE_OUTCOME, "failed", "t2", 1);
    (void)add_message(f, session, CS_MESSAGE_CONTEXT, "always", NULL, 1);
    (void)add_message(f, session, CS_MESSAGE_USER, "three", "t3", 1);
    (void)add_message(f, session, CS_MESSAGE_ASSISTANT, "3", "t3", 1);
    (void)add_message(f, session, CS_MESSAGE_USER, "running", "t4", 1);
    assert_transcript(f, session, NULL,
                      "context=given user=one assistant=1 context=always user=three assistant=3");
    assert_transcript(f, session, "t3", "context=given user=one assistant=1 context=always");
    assert_transcript(f, session, "t1", "context=always user=three assistant=3");
}

static void a_long_transcript_keeps_its_order(void **state)
{
    struct fixture *f = *state;
    int64_t session = add_session(f, 1);
    struct cs_transcript *transcript = NULL;
    struct cs_db *db = NULL;

    for (int i = 0; i < 100; i++) {
        char tid[16], text[16];

        (void)snprintf(tid, sizeof tid, "t%d", (i * 37) % 100);
        (void)snprintf(text, sizeof text, "%d", i);
        (void)add_message(f, session, CS_MESSAGE_USER, text, tid, 1);
        (void)add_message(f, session, CS_MESSAGE_ASSISTANT, text, tid, 1);
    }
    ok(cs_store_read(f->store, &db, NULL));
    ok(cs_message_transcript(db, session, "t37", &transcript, &f->err));
    cs_store_done(f->store, db);
    assert_int_equal(198, transcript->count);
    assert_string_equal("0", transcript->items[1].text);
    assert_string_equal("2", transcript->items[2].text);
    assert_string_equal("99", transcript->items[197].text);
    cs_transcript_free(transcript);
    cs_transcript_free(NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_store, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_message_is_rendered_as_json),
        TEST(each_kind_has_its_name),
        TEST(the_first_message_has_no_parent_and_the_next_one_has),
        TEST(the_clock_of_a_session_never_goes_back),
        TEST(a_new_start_counts_from_one_and_links_to_the_old),
        TEST(news_of_another_host_do_not_break_the_sequence),
        TEST(sessions_count_apart),
        TEST(a_message_of_no_session_is_refused),
        TEST(text_that_is_not_utf8_is_refused),
        TEST(ids_are_never_given_out_twice),
        TEST(tens_of_megabytes_round_trip),
        TEST(an_empty_history_is_empty),
        TEST(pages_go_back_to_the_start),
        TEST(pages_neither_skip_nor_repeat_when_clocks_are_equal),
        TEST(a_position_of_another_session_is_invalid),
        TEST(a_history_past_the_cap_is_too_large),
        TEST(the_content_comes_back_as_it_was),
        TEST(a_message_without_content_is_corrupt),
        TEST(a_transcript_holds_completed_turns_only),
        TEST(a_long_transcript_keeps_its_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
