/* Sessions that contain a text. */
#include "cs/store/search.h"

#include "cs/base/json.h"
#include "fixture.h"

WRITE(write_archive, int64_t, cs_session_archive(db, *x, CS_ARCHIVE_EXPIRED, 2000000, err))

static struct cs_findings look(struct fixture *f, struct cs_search search)
{
    struct cs_findings findings;
    struct cs_db *db = NULL;

    if (search.limit == 0)
        search.limit = 100;
    if (search.deadline == 0)
        search.deadline = CS_NEVER;
    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_search(db, &search, &findings, &f->err));
    cs_store_done(f->store, db);
    return findings;
}

/* The session ids that @text finds, in order. */
static void assert_finds(struct fixture *f, const char *text, const char *sids)
{
    struct cs_findings findings = look(f, (struct cs_search){.text = text});
    char found[256] = "";
    size_t i, len = 0;

    for (i = 0; i < findings.count; i++)
        len +=
            (size_t)snprintf(found + len, sizeof found - len, "%s ", findings.items[i].session.sid);
    if (strcmp(found, sids) != 0)
        fail_msg("\"%s\" finds %s, not %s", text, found, sids);
    cs_findings_fini(&findings);
}

static void contents_and_titles_are_searched_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    int64_t one = add_session(f, 1), two = add_session(f, 2), three = add_session(f, 3);

    (void)add_message(f, one, CS_MESSAGE_USER, "50% of a_b! \"c\"\n\\d Grüße", "t1", 1000001);
    (void)add_message(f, two, CS_MESSAGE_ASSISTANT, "Nothing at all", "t2", 1000002);
    (void)add_message(f, three, CS_MESSAGE_OUTCOME, "50x of axb", "t3", 1000003);
    assert_finds(f, "NOTHING", "s2 ");
    assert_finds(f, "50% of", "s1 ");
    assert_finds(f, "a_b!", "s1 ");
    assert_finds(f, "\"c\"\n\\d", "s1 ");
    assert_finds(f, "Grüße", "s1 ");
    assert_finds(f, "A TITLE", "s3 s2 s1 ");
    assert_finds(f, "timestamp", "");
    assert_finds(f, "turnId", "");
    assert_finds(f, "", "s3 s2 s1 ");
    assert_finds(f, NULL, "s3 s2 s1 ");
}

static void a_snippet_is_cut_at_characters_on_one_line(void **state)
{
    struct fixture *f = *state;
    int64_t one = add_session(f, 1);
    struct cs_findings findings;
    char text[1200];
    size_t i, len = 0;

    for (i = 0; i < 200; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "ä%s", i == 100 ? "\nneedle\n" : "");
    (void)add_message(f, one, CS_MESSAGE_USER, text, "t1", 1000001);
    findings = look(f, (struct cs_search){.text = "needle"});
    assert_int_equal(findings.count, 1);
    assert_non_null(strstr(findings.items[0].snippet, " needle "));
    assert_true(cs_utf8_valid(findings.items[0].snippet, strlen(findings.items[0].snippet)));
    assert_true(strlen(findings.items[0].snippet) > CS_SNIPPET_MAX - 8);
    cs_findings_fini(&findings);
}

static void pages_follow_each_other_and_end(void **state)
{
    struct fixture *f = *state;
    struct cs_search search = {.limit = 2};
    struct cs_findings findings;
    int seen = 0, n;

    for (n = 1; n <= 5; n++)
        (void)add_session(f, n);
    do {
        findings = look(f, search);
        search.before_id = findings.next_before_id;
        seen += (int)findings.count;
        assert_true(findings.count <= 2);
        cs_findings_fini(&findings);
    } while (search.before_id != 0);
    assert_int_equal(seen, 5);
}

static void when_the_time_is_over_the_cursor_leads_on(void **state)
{
    struct fixture *f = *state;
    struct cs_search search = {.text = "needle", .deadline = 1}; /* long past */
    struct cs_findings findings;
    int looks = 0, n;

    (void)add_message(f, add_session(f, 1), CS_MESSAGE_USER, "needle", "t1", 1000001);
    for (n = 2; n <= 4; n++)
        (void)add_session(f, n);
    do {
        findings = look(f, search);
        looks++;
        search.before_id = findings.next_before_id;
        if (findings.count == 0) {
            assert_true(search.before_id != 0);
            cs_findings_fini(&findings);
        }
    } while (findings.count == 0);
    assert_int_equal(looks, 4);
    cs_findings_fini(&findings);
}

static void the_archive_is_searched_when_asked_for(void **state)
{
    struct fixture *f = *state;
    struct cs_findings findings;
    int64_t one = add_session(f, 1);

    (void)add_message(f, one, CS_MESSAGE_USER, "needle", "t1", 1000001);
    ok(write_archive(f, &one));
    assert_finds(f, "needle", "");
    findings = look(f, (struct cs_search){.text = "needle", .archived = true});
    assert_int_equal(findings.count, 1);
    cs_findings_fini(&findings);
}

static void a_text_that_is_too_long_is_refused(void **state)
{
    struct fixture *f = *state;
    struct cs_search search = {.limit = 1};
    struct cs_findings findings;
    struct cs_db *db = NULL;
    char text[1100];

    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    search.text = text;
    ok(cs_store_read(f->store, &db, &f->err));
    assert_int_equal(cs_search(db, &search, &findings, &f->err), CS_INVALID);
    cs_store_done(f->store, db);
}

static void turns_are_listed_newest_first(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_row rows[3];
    struct cs_db *db = NULL;
    size_t count = 0, i;
    int n;

    for (n = 1; n <= 4; n++)
        (void)begin_turn(f, add_session(f, n), n, 1000000 + n);
    ok(cs_store_read(f->store, &db, &f->err));
    ok(cs_turn_list(db, 0, rows, 3, &count, &f->err));
    assert_int_equal(count, 3);
    assert_string_equal(rows[0].tid, "t4");
    n = (int)rows[2].id;
    for (i = 0; i < count; i++)
        cs_turn_row_fini(&rows[i]);
    ok(cs_turn_list(db, n, rows, 3, &count, &f->err));
    assert_int_equal(count, 1);
    assert_string_equal(rows[0].tid, "t1");
    cs_turn_row_fini(&rows[0]);
    cs_store_done(f->store, db);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup_store, teardown)
    const struct CMUnitTest tests[] = {
        CASE(contents_and_titles_are_searched_and_nothing_else),
        CASE(a_snippet_is_cut_at_characters_on_one_line),
        CASE(pages_follow_each_other_and_end),
        CASE(when_the_time_is_over_the_cursor_leads_on),
        CASE(the_archive_is_searched_when_asked_for),
        CASE(a_text_that_is_too_long_is_refused),
        CASE(turns_are_listed_newest_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
