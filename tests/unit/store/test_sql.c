/* The statements: none scans a table; and the tables: as schema/schema.sql says. */
#include "fixture.h"

#include <ctype.h>
#include <sqlite3.h>

#include "db.h"

/* ---- scans ---- */

static int64_t scans_in(sqlite3 *sqlite, const char *sql)
{
    sqlite3_stmt *stmt = NULL;
    char *explain = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", sql);
    int64_t scans = 0;

    assert_non_null(explain);
    assert_int_equal(SQLITE_OK, sqlite3_prepare_v2(sqlite, explain, -1, &stmt, NULL));
    while (sqlite3_step(stmt) == SQLITE_ROW) {
        const char *step = (const char *)sqlite3_column_text(stmt, 3);

        if (strstr(step, "SCAN") != NULL) {
            print_error("%s\n    in %s\n", step, sql);
            scans++;
        }
    }
    assert_int_equal(SQLITE_OK, sqlite3_finalize(stmt));
    sqlite3_free(explain);
    return scans;
}

static void the_check_for_scans_sees_one(void **state)
{
    struct fixture *f = *state;
    struct cs_db *db = NULL;

    ok(cs_store_read(f->store, &db, NULL));
    assert_int_equal(1, scans_in(db->sqlite, "SELECT * FROM message WHERE kind = 1"));
    cs_store_done(f->store, db);
}

static void no_statement_scans_a_table(void **state)
{
    struct fixture *f = *state;
    struct cs_db *db = NULL;
    int64_t scans = 0;

    ok(cs_store_read(f->store, &db, NULL));
    for (int i = 0; i < CS_SQL_COUNT; i++) {
        assert_non_null(cs_sql_text_of((enum cs_sql_id)i));
        scans += scans_in(db->sqlite, cs_sql_text_of((enum cs_sql_id)i));
    }
    assert_int_equal(0, scans);
    cs_store_done(f->store, db);
}

static void a_reader_prepares_what_it_needs_and_nothing_that_writes(void **state)
{
    struct fixture *f = *state;
    struct cs_db *db = NULL;
    struct cs_err err = {.status = CS_OK};

    ok(cs_store_read(f->store, &db, NULL));
    assert_null(db->stmts[CS_SQL_MESSAGE_BY_ID]);
    for (int i = 0; i < CS_SQL_COUNT; i++) {
        struct cs_sql q;

        cs_sql_begin(&q, db, (enum cs_sql_id)i);
        if (cs_sql_writes((enum cs_sql_id)i)) {
            assert_false(cs_sql_next(&q));
            assert_int_equal(CS_IO, cs_sql_end(&q, "write", &err));
            assert_null(db->stmts[i]);
        } else {
            ok(cs_sql_end(&q, "read", NULL));
            assert_true(sqlite3_stmt_readonly(db->stmts[i]));
        }
    }
    cs_store_done(f->store, db);
}

/* ---- drift ---- */

/* Without comments, blanks as one. */
static void normalise(char *text)
{
    char *to = text;
    bool blank = true;

    for (const char *from = text; *from != '\0'; from++) {
        if (from[0] == '-' && from[1] == '-') {
            while (from[1] != '\0' && from[1] != '\n')
                from++;
            continue;
        }
        if (isspace((unsigned char)*from)) {
            blank = true;
            continue;
        }
        if (blank && to > text && strchr("(),", *from) == NULL && strchr("(,", to[-1]) == NULL)
            *to++ = ' ';
        *to++ = *from;
        blank = false;
    }
    *to = '\0';
}

/* Everything in sqlite_schema, a line each. */
static void describe(sqlite3 *sqlite, struct cs_buf *out)
{
    sqlite3_stmt *stmt = NULL;

    assert_int_equal(SQLITE_OK,
                     sqlite3_prepare_v2(sqlite,
                                        "SELECT type, name, tbl_name, coalesce(sql, '') FROM "
                                        "sqlite_schema ORDER BY type, name",
                                        -1, &stmt, NULL));
    while (sqlite3_step(stmt) == SQLITE_ROW) {
        char *sql = strdup((const char *)sqlite3_column_text(stmt, 3));

        normalise(sql);
        cs_buf_addf(out, "%s %s %s: %s\n", (const char *)sqlite3_column_text(stmt, 0),
                    (const char *)sqlite3_column_text(stmt, 1),
                    (const char *)sqlite3_column_text(stmt, 2), sql);
        free(sql);
    }
    assert_int_equal(SQLITE_OK, sqlite3_finalize(stmt));
}

static void read_schema(struct cs_buf *out)
{
    static const char here[] = __FILE__;
    char path[1024];
    const char *end = strstr(here, "tests/unit/store/");
    FILE *file;
    int c;

    assert_non_null(end);
    (void)snprintf(path, sizeof path, "%.*sschema/schema.sql", (int)(end - here), here);
    file = fopen(path, "rb");
    assert_non_null(file);
    while ((c = getc(file)) != EOF)
        cs_buf_addc(out, (char)c);
    (void)fclose(file);
}

static void the_migrations_build_what_the_schema_documents(void **state)
{
    struct fixture *f = *state;
    struct cs_buf built, documented, text;
    struct cs_db *db = NULL;
    sqlite3 *memory = NULL;

    cs_buf_init(&built, 1 << 20);
    cs_buf_init(&documented, 1 << 20);
    cs_buf_init(&text, 1 << 20);
    read_schema(&text);
    assert_int_equal(SQLITE_OK, sqlite3_open(":memory:", &memory));
    assert_int_equal(SQLITE_OK, sqlite3_exec(memory, text.data, NULL, NULL, NULL));
    describe(memory, &documented);
    assert_int_equal(SQLITE_OK, sqlite3_close(memory));
    ok(cs_store_read(f->store, &db, NULL));
    describe(db->sqlite, &built);
    cs_store_done(f->store, db);
    assert_string_equal(documented.data, built.data);
    cs_buf_fini(&built);
    cs_buf_fini(&documented);
    cs_buf_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_check_for_scans_sees_one, setup_store, teardown),
        cmocka_unit_test_setup_teardown(no_statement_scans_a_table, setup_store, teardown),
        cmocka_unit_test_setup_teardown(a_reader_prepares_what_it_needs_and_nothing_that_writes,
                                        setup_store, teardown),
        cmocka_unit_test_setup_teardown(the_migrations_build_what_the_schema_documents, setup_store,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
