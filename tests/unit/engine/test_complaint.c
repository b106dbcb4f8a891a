/* What a child writes to stderr, in the debug log. */
#include "children.h"

#include "complaint.h"
#include "cs/base/log.h"

static FILE *captured;
static int real_stderr;
static struct cs_complaint complaint;

/* What was logged since the last call; until the next one. */
static const char *logged(void)
{
    static char text[200000];
    size_t len;

    rewind(captured);
    len = fread(text, 1, sizeof text - 1, captured);
    text[len] = '\0';
    rewind(captured);
    assert_int_equal(ftruncate(fileno(captured), 0), 0);
    return text;
}

static int count(const char *text, const char *word)
{
    int found = 0;

    for (; (text = strstr(text, word)) != NULL; text += strlen(word))
        found++;
    return found;
}

static int capture(void **state)
{
    (void)state;
    memset(&complaint, 0, sizeof complaint);
    captured = tmpfile();
    real_stderr = dup(STDERR_FILENO);
    if (captured == NULL || real_stderr < 0 || dup2(fileno(captured), STDERR_FILENO) < 0)
        return -1;
    cs_log_set_level(CS_LOG_DEBUG);
    return 0;
}

static int release(void **state)
{
    (void)state;
    cs_log_set_level(CS_LOG_ERROR);
    (void)dup2(real_stderr, STDERR_FILENO);
    (void)close(real_stderr);
    return fclose(captured);
}

static void say(const char *text, int64_t now)
{
    cs_complaint_take(&complaint, 7, text, strlen(text), now);
}

static void each_line_is_logged_once_it_has_ended(void **state)
{
    const char *log;

    (void)state;
    say("one\ntw", 0);
    log = logged();
    assert_non_null(strstr(log, "level=debug event=codex_stderr pid=7 line=one\n"));
    assert_null(strstr(log, "tw"));
    say("o\n\n \nthree", 0);
    assert_non_null(strstr(logged(), "line=two\n"));
    cs_complaint_end(&complaint, 7);
    log = logged();
    assert_non_null(strstr(log, "line=three\n"));
    assert_int_equal(count(log, "event="), 1); /* none for what is empty */
}

static void a_line_is_safe_to_show(void **state)
{
    const char *log;

    (void)state;
    say("\x1b[31mred\x1b[0m \x1b]0;title\a\x01\xff\xc3\xbc\n", 0);
    log = logged();
    assert_non_null(strstr(log, "line=\"red \xc3\xbc\"\n"));
    assert_null(strchr(log, 0x1b));
}

static void a_long_line_is_cut(void **state)
{
    static char text[3 * CS_COMPLAINT_LINE];
    const char *log;

    (void)state;
    memset(text, 'y', sizeof text - 2);
    text[sizeof text - 2] = '\n';
    say(text, 0);
    say("next\n", 0);
    log = logged();
    assert_non_null(strstr(log, "event=codex_stderr_cut "));
    assert_int_equal(count(log, "y"), CS_COMPLAINT_LINE);
    assert_non_null(strstr(log, "event=codex_stderr pid=7 line=next\n"));
}

static void many_lines_are_counted_instead(void **state)
{
    const char *log;

    (void)state;
    for (int i = 0; i < CS_COMPLAINT_RATE + 5; i++)
        say("again\n", 1000);
    assert_int_equal(count(logged(), "line=again\n"), CS_COMPLAINT_RATE);
    say("later\n", 1999);
    assert_string_equal(logged(), "");
    say("now\n", 2000);
    log = logged();
    assert_non_null(strstr(log, "event=codex_stderr_left_out pid=7 lines=6\n"));
    assert_non_null(strstr(log, "line=now\n"));
    for (int i = 0; i < CS_COMPLAINT_RATE; i++)
        say("again\n", 2000);
    cs_complaint_end(&complaint, 7);
    assert_non_null(strstr(logged(), "lines=1\n"));
}

static void nothing_is_logged_above_debug(void **state)
{
    (void)state;
    cs_log_set_level(CS_LOG_INFO);
    say("one\ntwo", 0);
    cs_complaint_end(&complaint, 7);
    assert_string_equal(logged(), "");
}

static void a_childs_stderr_is_logged_while_it_runs(void **state)
{
    struct cs_spawner *spawner = new_spawner("complaint");
    struct record record;
    struct cs_process *process =
        run_shell(spawner, "echo first >&2; cat; printf second >&2", &record, 1000);
    const char *log = "";

    (void)state;
    for (int i = 0; i < 1000 && strstr(log, "line=first\n") == NULL; i++) {
        usleep(10000);
        log = logged();
    }
    assert_non_null(strstr(log, "line=first\n"));
    cs_process_close_stdin(process);
    await_exit(process);
    assert_non_null(strstr(logged(), "line=second\n"));
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, capture, release)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(each_line_is_logged_once_it_has_ended),
        CASE(a_line_is_safe_to_show),
        CASE(a_long_line_is_cut),
        CASE(many_lines_are_counted_instead),
        CASE(nothing_is_logged_above_debug),
        CASE(a_childs_stderr_is_logged_while_it_runs),
    };

    return cmocka_run_group_tests_name("complaint", tests, NULL, NULL);
}
