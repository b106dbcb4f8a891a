#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/base/clock.h"
#include "cs/base/json.h"
#include "cs/base/log.h"
#include "cs/base/thread.h"

static FILE *captured;
static int real_stderr;

static int64_t epoch(void)
{
    return 0;
}

/* What was logged since the last call; until the next one. */
static const char *logged(void)
{
    static char text[200000];
    rewind(captured);
    size_t len = fread(text, 1, sizeof text - 1, captured);
    text[len] = '\0';
    rewind(captured);
    if (ftruncate(fileno(captured), 0) != 0)
        abort();
    return text;
}

static int capture(void **state)
{
    (void)state;
    captured = tmpfile();
    real_stderr = dup(STDERR_FILENO);
    if (!captured || real_stderr < 0 || dup2(fileno(captured), STDERR_FILENO) < 0)
        return -1;
    cs_clock_override(epoch);
    return 0;
}

static int release(void **state)
{
    (void)state;
    cs_clock_override(NULL);
    (void)dup2(real_stderr, STDERR_FILENO);
    (void)close(real_stderr);
    return fclose(captured);
}

#define HEAD "time=1970-01-01T00:00:00.000Z level=info event=e "

static void a_line_is_logfmt(void **state)
{
    (void)state;
    cs_log(CS_LOG_WARN, "started", "host", "127.0.0.1", "port", CS_NUM(3000), "none", (char *)NULL,
           (char *)NULL);
    assert_string_equal(logged(), "time=1970-01-01T00:00:00.000Z level=warn event=started "
                                  "host=127.0.0.1 port=3000 none=-\n");
}

static void values_are_quoted_where_they_need_it(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        const char *shown;
    } cases[] = {
        {"plain", "plain"},
        {"", "\"\""},
        {"two words", "\"two words\""},
        {"a=b", "\"a=b\""},
        {"say \"hi\"", "\"say \\\"hi\\\"\""},
        {"back\\slash", "\"back\\\\slash\""},
        {"日本", "日本"},
        {"日 本", "\"日 本\""},
        {"x\nevent=forged", "\"x\\nevent=forged\""},
        {"tab\tcr\r", "\"tab\\tcr\\r\""},
        {"\x1b[31m", "\"\\x1b[31m\""},
        {"del\x7f", "\"del\\x7f\""},
        {"c1\xc2\x9b", "\"c1\\xc2\\x9b\""},
        {"nbsp\xc2\xa0", "nbsp\xc2\xa0"},
        {"bad\xff", "\"bad\\xff\""},
        {"cut\xe6\x97", "\"cut\\xe6\\x97\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char expected[200];
        (void)snprintf(expected, sizeof expected, HEAD "k=%s\n", cases[i].shown);
        cs_log(CS_LOG_INFO, "e", "k", cases[i].value, (char *)NULL);
        assert_string_equal(logged(), expected);
    }
}

static void lines_below_the_level_are_not_written(void **state)
{
    (void)state;
    cs_log(CS_LOG_DEBUG, "e", (char *)NULL);
    assert_string_equal(logged(), "");
    assert_false(cs_log_enabled(CS_LOG_DEBUG));
    cs_log_set_level(CS_LOG_ERROR);
    cs_log(CS_LOG_WARN, "e", (char *)NULL);
    assert_string_equal(logged(), "");
    assert_true(cs_log_enabled(CS_LOG_ERROR));
    cs_log_set_level(CS_LOG_INFO);
}

static void level_words_are_parsed(void **state)
{
    (void)state;
    enum cs_log_level level = CS_LOG_INFO;
    assert_int_equal(cs_log_level_parse("error", &level, NULL), CS_OK);
    assert_int_equal(level, CS_LOG_ERROR);
    assert_int_equal(cs_log_level_parse("debug", &level, NULL), CS_OK);
    assert_int_equal(level, CS_LOG_DEBUG);
    struct cs_err err = {0};
    assert_int_equal(cs_log_level_parse("loud", &level, &err), CS_INVALID);
    assert_int_equal(level, CS_LOG_DEBUG);
    assert_non_null(strstr(err.msg, "\"loud\""));
}

static void an_error_is_logged_with_all_its_parts(void **state)
{
    (void)state;
    struct cs_err err = {0};
    (void)cs_err_set(&err, CS_BUSY, "session_busy", "a turn runs");
    cs_log_err("turn_refused", &err, "session", "s1");
    assert_string_equal(logged(),
                        "time=1970-01-01T00:00:00.000Z level=error event=turn_refused session=s1 "
                        "status=busy code=session_busy message=\"a turn runs\"\n");
    cs_log_err("odd", NULL, NULL, NULL);
    assert_non_null(strstr(logged(), "event=odd about=- status=ok"));
}

static void a_long_value_is_cut_at_a_character(void **state)
{
    (void)state;
    struct cs_buf text;
    cs_buf_init(&text, 1000000);
    for (int i = 0; i < 100000; i++)
        cs_buf_adds(&text, "日");
    cs_log(CS_LOG_INFO, "e", "k", text.data, "after", "it", (char *)NULL);
    const char *line = logged();
    size_t len = strlen(line);
    assert_in_range(len, 4096, 4096 + 100);
    assert_true(cs_utf8_valid(line, len));
    assert_string_equal(line + len - strlen("…\" after=it\n"), "…\" after=it\n");
    cs_buf_fini(&text);
}

static void a_line_of_many_long_values_still_ends(void **state)
{
    (void)state;
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    cs_log(CS_LOG_INFO, "e", "a", text, "b", text, "c", text, "d", text, "e", text, "f", text, "g",
           text, "h", text, "i", text, (char *)NULL);
    const char *line = logged();
    size_t len = strlen(line);
    assert_true(len <= 32768);
    assert_ptr_equal(strchr(line, '\n'), line + len - 1);
}

static void secrets_are_replaced(void **state)
{
    (void)state;
    assert_int_equal(cs_log_redact("sk-12345-longer", NULL), CS_OK);
    assert_int_equal(cs_log_redact("sk-12345", NULL), CS_OK);
    assert_int_equal(cs_log_redact("sk-12345-longest", NULL), CS_OK);
    assert_int_equal(cs_log_redact("sk-12345", NULL), CS_OK);
    assert_int_equal(cs_log_redact("short", NULL), CS_OK);
    cs_log(CS_LOG_INFO, "e", "k", "short", "a", "xsk-12345ysk-12345", "b", "sk-12345-longer", "l",
           "sk-12345-longest", "c", "url with sk-12345", (char *)NULL);
    assert_string_equal(logged(), HEAD "k=short a=x[redacted]y[redacted] b=[redacted] l=[redacted] "
                                       "c=\"url with [redacted]\"\n");
}

static void a_secret_across_the_cut_does_not_show(void **state)
{
    (void)state;
    assert_int_equal(cs_log_redact("sk-12345", NULL), CS_OK);
    for (size_t before = 4080; before < 4100; before++) {
        char text[5000];
        memset(text, 'x', before);
        (void)snprintf(text + before, sizeof text - before, "sk-12345%0200d", 0);
        cs_log(CS_LOG_INFO, "e", "k", text, (char *)NULL);
        assert_null(strstr(logged(), "sk-"));
    }
}

static void more_secrets_than_there_is_room_for_are_refused(void **state)
{
    (void)state;
    char secret[32];
    enum cs_status status = CS_OK;
    struct cs_err err = {0};
    for (int i = 0; i < 257 && status == CS_OK; i++) {
        (void)snprintf(secret, sizeof secret, "secret-number-%d", i);
        status = cs_log_redact(secret, &err);
    }
    assert_int_equal(status, CS_TOO_LARGE);
    assert_null(strstr(err.msg, "secret-number"));
}

static void *log_often(void *arg)
{
    for (int i = 0; i < 500; i++)
        cs_log(CS_LOG_INFO, "e", "from", (const char *)arg, "text", "some words", (char *)NULL);
    return NULL;
}

static void threads_do_not_mix_their_lines(void **state)
{
    (void)state;
    static char names[4][2] = {"a", "b", "c", "d"};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(cs_thread_start(&threads[i], "logger", 65536, log_often, names[i], NULL),
                         CS_OK);
    for (int i = 0; i < 4; i++)
        (void)pthread_join(threads[i], NULL);
    int counts[4] = {0};
    const char *line = logged();
    for (; *line; line = strchr(line, '\n') + 1) {
        char from = line[strlen(HEAD "from=")];
        char expected[128];
        (void)snprintf(expected, sizeof expected, HEAD "from=%c text=\"some words\"\n", from);
        assert_memory_equal(line, expected, strlen(expected));
        counts[from - 'a']++;
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(counts[i], 500);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, capture, release)
    const struct CMUnitTest tests[] = {
        CASE(a_line_is_logfmt),
        CASE(values_are_quoted_where_they_need_it),
        CASE(lines_below_the_level_are_not_written),
        CASE(level_words_are_parsed),
        CASE(an_error_is_logged_with_all_its_parts),
        CASE(a_long_value_is_cut_at_a_character),
        CASE(a_line_of_many_long_values_still_ends),
        CASE(secrets_are_replaced),
        CASE(a_secret_across_the_cut_does_not_show),
        CASE(threads_do_not_mix_their_lines),
        CASE(more_secrets_than_there_is_room_for_are_refused), /* the last: it fills the list */
    };
#undef CASE
    return cmocka_run_group_tests(tests, NULL, NULL);
}
