#include "children.h"

#include <errno.h>
#include <sys/wait.h>

enum { LINE_MAX_BYTES = 1024 * 1024 };

static void lines_arrive_without_their_newline(void **state)
{
    struct cs_spawner *spawner = new_spawner("lines");
    struct record record;
    struct cs_process *process =
        run_shell(spawner, "printf 'one\\n\\nthree\\nlast'", &record, LINE_MAX_BYTES);

    (void)state;
    await_exit(process);
    assert_int_equal(record.lines, 4);
    assert_string_equal(record.text.data, "one\n\nthree\nlast\n");
    assert_true(WIFEXITED(record.wait_status) && WEXITSTATUS(record.wait_status) == 0);
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void what_is_written_comes_back_whole(void **state)
{
    enum { LINES = 64, LEN = 100000 };
    struct cs_spawner *spawner = new_spawner("echo");
    struct record record;
    struct cs_process *process = run_shell(spawner, "exec cat", &record, LINE_MAX_BYTES);
    char *line = malloc(LEN + 1);

    (void)state;
    memset(line, 'x', LEN);
    line[LEN] = '\n';
    for (int i = 0; i < LINES; i++)
        assert_int_equal(cs_process_write(process, line, LEN + 1, NULL), CS_OK);
    cs_process_close_stdin(process);
    await_exit(process);
    assert_int_equal(record.lines, LINES);
    assert_int_equal(record.bytes, (size_t)LINES * LEN);
    assert_int_equal(cs_process_write(process, "x", 1, NULL), CS_UNAVAILABLE);
    free(line);
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void a_child_that_never_reads_blocks_no_writer(void **state)
{
    enum { LEN = 8 * 1024 * 1024 };
    struct cs_spawner *spawner = new_spawner("deaf");
    struct record record;
    struct cs_process *process = run_shell(spawner, "exec sleep 1000", &record, LINE_MAX_BYTES);
    char *data = calloc(1, LEN);
    int64_t start = cs_mono_ms();
    int accepted = 0;

    (void)state;
    while (accepted < 100 && cs_process_write(process, data, LEN, NULL) == CS_OK)
        accepted++;
    assert_int_equal(accepted, 8); /* 64 MiB less what the pipe took leaves no room for one more */
    assert_int_equal(cs_process_write(process, data, LEN, NULL), CS_BUSY);
    assert_true(cs_mono_ms() - start < 5000);
    cs_process_stop(process, false, true);
    await_exit(process);
    free(data);
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void a_line_over_the_cap_ends_the_process(void **state)
{
    struct cs_spawner *spawner = new_spawner("long");
    struct record record;
    struct cs_process *process = run_shell(
        spawner, "echo fine; head -c 300000 /dev/zero | tr '\\0' x; echo; exec sleep 1000", &record,
        200000);

    (void)state;
    await_exit(process);
    assert_true(record.too_long);
    assert_string_equal(record.text.data, "fine\n");
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void a_line_of_just_the_cap_is_taken(void **state)
{
    struct cs_spawner *spawner = new_spawner("cap");
    struct record record;
    struct cs_process *process = run_shell(
        spawner, "head -c 200000 /dev/zero | tr '\\0' x; echo; echo end", &record, 200000);

    (void)state;
    await_exit(process);
    assert_false(record.too_long);
    assert_int_equal(record.lines, 2);
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void a_flood_on_stderr_is_drained_and_its_end_is_kept_clean(void **state)
{
    struct cs_spawner *spawner = new_spawner("flood");
    struct record record;
    struct cs_process *process = run_shell(
        spawner,
        "head -c 3000000 /dev/zero | tr '\\0' y >&2; echo done;"
        "printf '\\033[31mred\\033[0m \\033]0;title\\007caf\\303\\251 \\377 \\001end\\n\\n' >&2",
        &record, LINE_MAX_BYTES);
    size_t len;

    (void)state;
    await_exit(process);
    assert_string_equal(record.text.data, "done\n");
    len = strlen(record.errors);
    assert_true(len > 3000 && len <= 4096);
    assert_string_equal(record.errors + len - 15, "yred caf\303\251  end");
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void a_child_that_ignores_everything_is_killed_within_the_ladder(void **state)
{
    struct cs_spawner *spawner = new_spawner("stubborn");
    struct record record;
    struct cs_process *process = run_shell(
        spawner, "trap '' TERM INT; echo up; while :; do sleep 1; done", &record, LINE_MAX_BYTES);
    int64_t start;

    (void)state;
    await_lines(&record, 1);
    start = cs_mono_ms();
    cs_process_stop(process, false, false);
    await_exit(process);
    assert_true(WIFSIGNALED(record.wait_status) && WTERMSIG(record.wait_status) == SIGKILL);
    assert_true(cs_mono_ms() - start >= 3900 && cs_mono_ms() - start < 6000);
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void stopping_closes_stdin_first(void **state)
{
    struct cs_spawner *spawner = new_spawner("polite");
    struct record record;
    struct cs_process *process = run_shell(spawner, "cat; exit 9", &record, LINE_MAX_BYTES);

    (void)state;
    cs_process_stop(process, false, false);
    await_exit(process);
    assert_true(WIFEXITED(record.wait_status) && WEXITSTATUS(record.wait_status) == 9);
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void an_interrupt_is_sent_first_when_asked_for(void **state)
{
    struct cs_spawner *spawner = new_spawner("interrupt");
    struct record record;
    struct cs_process *process =
        run_shell(spawner, "trap 'exit 7' INT; echo up; while :; do sleep 0.05; done", &record,
                  LINE_MAX_BYTES);

    (void)state;
    await_lines(&record, 1);
    cs_process_stop(process, true, false);
    await_exit(process);
    assert_true(WIFEXITED(record.wait_status) && WEXITSTATUS(record.wait_status) == 7);
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void a_child_that_closes_its_output_is_stopped(void **state)
{
    struct cs_spawner *spawner = new_spawner("mute");
    struct record record;
    struct cs_process *process =
        run_shell(spawner, "exec >/dev/null; exec sleep 1000", &record, LINE_MAX_BYTES);

    (void)state;
    await_exit(process);
    assert_true(WIFSIGNALED(record.wait_status) && WTERMSIG(record.wait_status) == SIGTERM);
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void an_heir_of_the_output_does_not_hold_up_the_end(void **state)
{
    struct cs_spawner *spawner = new_spawner("heir");
    struct record record;
    struct cs_process *process =
        run_shell(spawner,
                  "(trap '' TERM; L=$(head -c 9999 /dev/zero | tr '\\0' x);"
                  "exec yes $L) & sleep 0.1; exit 3",
                  &record, LINE_MAX_BYTES);

    (void)state;
    await_exit(process);
    assert_true(WIFEXITED(record.wait_status) && WEXITSTATUS(record.wait_status) == 3);
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

/* A tool as Codex starts them: leader of its own session, deaf to SIGTERM; prints its pid. */
#define TOOL "setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & "

static void what_a_dead_child_left_is_swept_and_nothing_else(void **state)
{
    struct cs_spawner *spawner = new_spawner("sweep");
    struct record one, two;
    struct cs_process *first = run_shell(spawner, TOOL "exec sleep 1000", &one, LINE_MAX_BYTES);
    struct cs_process *second = run_shell(spawner, TOOL "exec sleep 1000", &two, LINE_MAX_BYTES);
    pid_t mine = recorded_pid(&one, 0), other = recorded_pid(&two, 0);

    (void)state;
    kill(cs_process_pid(first), SIGKILL);
    await_exit(first);
    assert_true(ends_within(mine, 4000));
    assert_true(runs(other));
    assert_true(runs(cs_process_pid(second)));
    cs_process_stop(second, false, true);
    await_exit(second);
    assert_true(ends_within(other, 4000));
    cs_process_free(first);
    cs_process_free(second);
    record_fini(&one);
    record_fini(&two);
    end_spawner(spawner);
}

static void a_tool_that_cleared_its_environment_is_swept_with_the_last_child(void **state)
{
    struct cs_spawner *spawner = new_spawner("cleared");
    struct record record;
    struct cs_process *process =
        run_shell(spawner, "env -i setsid sh -c 'echo $$; exec /bin/sleep 1000' & exec sleep 1000",
                  &record, LINE_MAX_BYTES);
    pid_t tool = recorded_pid(&record, 0);

    (void)state;
    kill(cs_process_pid(process), SIGKILL);
    await_exit(process);
    assert_true(ends_within(tool, 4000));
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void orphans_are_reaped_and_other_children_are_not(void **state)
{
    struct cs_spawner *spawner = new_spawner("reap");
    struct record record;
    pid_t own = fork();
    struct cs_process *process;
    pid_t orphan;
    int status = 0;

    (void)state;
    if (own == 0)
        _exit(3);
    process = run_shell(spawner, "(setsid sh -c 'echo $$; exec sleep 0.2' &) ; sleep 0.1", &record,
                        LINE_MAX_BYTES);
    orphan = recorded_pid(&record, 0);
    await_exit(process);
    for (int i = 0; i < 600 && kill(orphan, 0) == 0; i++)
        usleep(10000);
    assert_int_equal(kill(orphan, 0), -1); /* not even a zombie */
    assert_int_equal(waitpid(own, &status, 0), own);
    assert_int_equal(WEXITSTATUS(status), 3);
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void only_allowed_variables_are_passed_on(void **state)
{
    struct cs_spawner *spawner = new_spawner("env-instance");
    const char *argv[] = {"/usr/bin/env", NULL}, *env[] = {"CODEX_HOME=/ours", "EXTRA=1", NULL};
    struct record record;
    struct cs_process_spec spec = {
        .argv = argv,
        .env = env,
        .max_line = LINE_MAX_BYTES,
        .events = {.on_line = record_line, .on_exit = record_exit},
        .arg = &record,
    };
    struct cs_process *process = NULL;

    (void)state;
    setenv("LD_LIBRARY_PATH", "/nowhere", 1);
    setenv("MY_SECRET", "s3cret", 1);
    setenv("LC_TIME", "C", 1);
    setenv("CODEX_HOME", "/theirs", 1);
    setenv("PATHOLOGICAL", "x", 1);
    record_init(&record);
    assert_int_equal(cs_process_spawn(spawner, &spec, &process, NULL), CS_OK);
    await_exit(process);
    assert_null(strstr(record.text.data, "LD_LIBRARY_PATH"));
    assert_null(strstr(record.text.data, "s3cret"));
    assert_null(strstr(record.text.data, "PATHOLOGICAL"));
    assert_null(strstr(record.text.data, "/theirs"));
    assert_non_null(strstr(record.text.data, "CODEX_HOME=/ours\n"));
    assert_non_null(strstr(record.text.data, "EXTRA=1\n"));
    assert_non_null(strstr(record.text.data, "LC_TIME=C\n"));
    assert_non_null(strstr(record.text.data, "\nPATH="));
    assert_non_null(strstr(record.text.data, "CODEX_SESSIOND_INSTANCE=env-instance\n"));
    assert_non_null(strstr(record.text.data, "CODEX_SESSIOND_CHILD="));
    cs_process_free(process);
    record_fini(&record);
    unsetenv("LD_LIBRARY_PATH");
    unsetenv("MY_SECRET");
    unsetenv("CODEX_HOME");
    end_spawner(spawner);
}

static void a_child_starts_with_clean_signals_descriptors_and_group(void **state)
{
    struct cs_spawner *spawner = new_spawner("clean");
    int leak = dup(1); /* not close-on-exec */
    struct record record;
    struct cs_process *process;
    char expected[128];

    (void)state;
    signal(SIGUSR1, SIG_IGN);
    process =
        run_shell(spawner,
                  "grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | tr '\\n' ' '; echo;"
                  "cut -d' ' -f5 /proc/$$/stat; pwd",
                  &record, LINE_MAX_BYTES);
    await_exit(process);
    snprintf(expected, sizeof expected,
             "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n0 1 2 3 \n%d\n/\n",
             (int)cs_process_pid(process)); /* 3 is ls's own */
    assert_string_equal(record.text.data, expected);
    signal(SIGUSR1, SIG_DFL);
    close(leak);
    cs_process_free(process);
    record_fini(&record);
    end_spawner(spawner);
}

static void a_program_that_is_not_there_is_an_error_that_names_it(void **state)
{
    struct cs_spawner *spawner = new_spawner("absent");
    const char *argv[] = {"/nowhere/codex", NULL};
    struct cs_process_spec spec = {
        .argv = argv,
        .max_line = 100,
        .events = {.on_line = record_line, .on_exit = record_exit},
    };
    struct cs_process *process = NULL;
    struct cs_err err = {0};

    (void)state;
    assert_int_equal(cs_process_spawn(spawner, &spec, &process, &err), CS_UNAVAILABLE);
    assert_null(process);
    assert_string_equal(err.code, "codex_unavailable");
    assert_non_null(strstr(err.msg, "/nowhere/codex"));
    assert_non_null(strstr(err.msg, "No such file"));
    cs_err_clear(&err);
    argv[0] = "/bin/true";
    spec.cwd = "/nowhere/folder";
    assert_int_equal(cs_process_spawn(spawner, &spec, &process, &err), CS_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "working folder (/nowhere/folder)"));
    assert_int_equal(cs_spawner_children(spawner), 0);
    end_spawner(spawner);
}

/* Given up in its own callback: what would deadlock if abandoning waited. */
struct given_up {
    struct cs_process *process;
    pthread_mutex_t mutex;
    bool done;
};

static void give_up(void *arg, char *line, size_t len)
{
    struct given_up *given_up = arg;

    (void)line;
    (void)len;
    cs_process_abandon(given_up->process);
}

static void note_end(void *arg, int wait_status, bool too_long, const char *errors)
{
    struct given_up *given_up = arg;

    (void)wait_status;
    (void)too_long;
    (void)errors;
    pthread_mutex_lock(&given_up->mutex);
    given_up->done = true;
    pthread_mutex_unlock(&given_up->mutex);
}

static bool has_ended(struct given_up *given_up)
{
    bool done;

    pthread_mutex_lock(&given_up->mutex);
    done = given_up->done;
    pthread_mutex_unlock(&given_up->mutex);
    return done;
}

static void an_abandoned_process_ends_and_frees_itself(void **state)
{
    struct cs_spawner *spawner = new_spawner("abandon");
    const char *argv[] = {"/bin/sh", "-c", "echo up; cat; exec sleep 1000", NULL};
    struct given_up given_up = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    struct cs_process_spec spec = {
        .argv = argv,
        .max_line = 100,
        .events = {.on_line = give_up, .on_exit = note_end},
        .arg = &given_up,
    };

    (void)state;
    assert_int_equal(cs_process_spawn(spawner, &spec, &given_up.process, NULL), CS_OK);
    for (int i = 0; i < 1000 && !has_ended(&given_up); i++)
        usleep(10000);
    assert_true(given_up.done);
    end_spawner(spawner);
}

static void freeing_the_spawner_ends_the_stubborn_by_the_deadline(void **state)
{
    struct cs_spawner *spawner = new_spawner("deadline");
    struct record record;
    struct cs_process *process =
        run_shell(spawner, TOOL "trap '' TERM; while :; do sleep 1; done", &record, LINE_MAX_BYTES);
    pid_t tool = recorded_pid(&record, 0), leader = cs_process_pid(process);
    int64_t start = cs_mono_ms();

    (void)state;
    cs_spawner_free(spawner, start + 1000);
    assert_true(cs_mono_ms() - start < 1900); /* SIGTERM alone would give it 2 s */
    assert_false(runs(leader));
    assert_true(ends_within(tool, 100));
    cs_process_free(process);
    record_fini(&record);
}

static void nothing_starts_once_the_spawner_ends(void **state)
{
    struct cs_spawner *spawner = new_spawner("many");
    enum { COUNT = 12 };
    struct record records[COUNT];
    struct cs_process *processes[COUNT];

    (void)state;
    for (int i = 0; i < COUNT; i++)
        processes[i] = run_shell(spawner, "exec cat", &records[i], LINE_MAX_BYTES);
    assert_int_equal(cs_spawner_children(spawner), COUNT);
    end_spawner(spawner);
    for (int i = 0; i < COUNT; i++) {
        assert_true(records[i].exited);
        cs_process_free(processes[i]);
        record_fini(&records[i]);
    }
}

static void descriptors_and_threads_stay_flat(void **state)
{
    struct cs_spawner *spawner = new_spawner("flat");
    const char *absent[] = {"/nowhere/codex", NULL};
    struct cs_process_spec spec = {.argv = absent, .max_line = 100};
    int fds = settled_entries("/proc/self/fd"), threads = settled_entries("/proc/self/task");

    (void)state;
    for (int i = 0; i < 20; i++) {
        struct record record;
        struct cs_process *process = run_shell(spawner, "cat; echo x >&2", &record, LINE_MAX_BYTES);

        assert_int_equal(cs_process_spawn(spawner, &spec, &process, NULL), CS_UNAVAILABLE);
        cs_process_stop(process, false, false);
        await_exit(process);
        cs_process_free(process);
        record_fini(&record);
    }
    assert_int_equal(settled_entries("/proc/self/fd"), fds);
    assert_int_equal(settled_entries("/proc/self/task"), threads);
    end_spawner(spawner);
}

static void *spawn_many(void *arg)
{
    for (int i = 0; i < 8; i++) {
        struct record record;
        struct cs_process *process = run_shell(arg, "read x; echo got $x", &record, LINE_MAX_BYTES);

        assert_int_equal(cs_process_write(process, "it\n", 3, NULL), CS_OK);
        await_exit(process);
        assert_string_equal(record.text.data, "got it\n");
        cs_process_free(process);
        record_fini(&record);
    }
    return NULL;
}

static void many_threads_spawn_at_once(void **state)
{
    struct cs_spawner *spawner = new_spawner("threads");
    pthread_t threads[6];

    (void)state;
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(
            cs_thread_start(&threads[i], "spawn", 256 * 1024, spawn_many, spawner, NULL), CS_OK);
    for (size_t i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(cs_spawner_children(spawner), 0);
    end_spawner(spawner);
}

/* Another daemon of the instance @instance: this program started again. Returns when its child and
 * that one's tool run. */
struct daemon {
    pid_t pid, child, tool;
};

static struct daemon start_daemon(const char *instance)
{
    struct daemon daemon = {0};
    char text[128] = "", *end;
    size_t len = 0;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    daemon.pid = fork();
    assert_true(daemon.pid >= 0);
    if (daemon.pid == 0) {
        dup2(fds[1], 1);
        close(fds[0]);
        execl("/proc/self/exe", "daemon", instance, (char *)NULL);
        _exit(1);
    }
    close(fds[1]);
    while (len < sizeof text - 1 && strchr(text, '\n') == NULL) {
        ssize_t got = read(fds[0], text + len, sizeof text - 1 - len);

        assert_true(got > 0);
        len += (size_t)got;
    }
    close(fds[0]);
    daemon.child = (pid_t)strtol(text, &end, 10);
    daemon.tool = (pid_t)strtol(end, NULL, 10);
    assert_true(runs(daemon.child) && runs(daemon.tool));
    return daemon;
}

static int be_daemon(const char *instance)
{
    struct cs_spawner *spawner = new_spawner(instance);
    struct record record;
    struct cs_process *process =
        run_shell(spawner, TOOL "exec sleep 1000", &record, LINE_MAX_BYTES);
    pid_t tool = recorded_pid(&record, 0);

    dprintf(1, "%d %d\n", (int)cs_process_pid(process), (int)tool);
    pause();
    return 0;
}

static void survivors_of_a_killed_daemon_are_swept_at_start(void **state)
{
    char instance[64]; /* of this run: others of this test may run beside us */
    struct daemon daemon;
    struct cs_spawner *spawner;

    (void)state;
    snprintf(instance, sizeof instance, "survivors-%d", (int)getpid());
    daemon = start_daemon(instance);
    kill(daemon.pid, SIGKILL);
    assert_int_equal(waitpid(daemon.pid, NULL, 0), daemon.pid);
    assert_true(ends_within(daemon.child, 1000)); /* PR_SET_PDEATHSIG */
    assert_true(runs(daemon.tool));
    spawner = new_spawner("someone-else");
    assert_true(runs(daemon.tool));
    end_spawner(spawner);
    spawner = new_spawner(instance);
    assert_false(runs(daemon.tool));
    end_spawner(spawner);
}

static void children_of_a_living_daemon_are_not_swept_at_start(void **state)
{
    char instance[64];
    struct daemon daemon;
    struct cs_spawner *spawner;

    (void)state;
    snprintf(instance, sizeof instance, "living-%d", (int)getpid());
    daemon = start_daemon(instance);
    spawner = new_spawner(instance);
    assert_true(runs(daemon.child));
    assert_true(runs(daemon.tool));
    end_spawner(spawner);
    assert_true(runs(daemon.child));
    kill(daemon.pid, SIGKILL);
    waitpid(daemon.pid, NULL, 0);
    end_spawner(new_spawner(instance));
    assert_false(runs(daemon.tool));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survivors_of_a_killed_daemon_are_swept_at_start),
        cmocka_unit_test(children_of_a_living_daemon_are_not_swept_at_start),
        cmocka_unit_test(lines_arrive_without_their_newline),
        cmocka_unit_test(what_is_written_comes_back_whole),
        cmocka_unit_test(a_child_that_never_reads_blocks_no_writer),
        cmocka_unit_test(a_line_over_the_cap_ends_the_process),
        cmocka_unit_test(a_line_of_just_the_cap_is_taken),
        cmocka_unit_test(a_flood_on_stderr_is_drained_and_its_end_is_kept_clean),
        cmocka_unit_test(a_child_that_ignores_everything_is_killed_within_the_ladder),
        cmocka_unit_test(stopping_closes_stdin_first),
        cmocka_unit_test(an_interrupt_is_sent_first_when_asked_for),
        cmocka_unit_test(a_child_that_closes_its_output_is_stopped),
        cmocka_unit_test(an_heir_of_the_output_does_not_hold_up_the_end),
        cmocka_unit_test(what_a_dead_child_left_is_swept_and_nothing_else),
        cmocka_unit_test(a_tool_that_cleared_its_environment_is_swept_with_the_last_child),
        cmocka_unit_test(orphans_are_reaped_and_other_children_are_not),
        cmocka_unit_test(only_allowed_variables_are_passed_on),
        cmocka_unit_test(a_child_starts_with_clean_signals_descriptors_and_group),
        cmocka_unit_test(a_program_that_is_not_there_is_an_error_that_names_it),
        cmocka_unit_test(an_abandoned_process_ends_and_frees_itself),
        cmocka_unit_test(freeing_the_spawner_ends_the_stubborn_by_the_deadline),
        cmocka_unit_test(nothing_starts_once_the_spawner_ends),
        cmocka_unit_test(descriptors_and_threads_stay_flat),
        cmocka_unit_test(many_threads_spawn_at_once),
    };

    if (argc == 2 && strcmp(argv[0], "daemon") == 0)
        return be_daemon(argv[1]);
    return cmocka_run_group_tests_name("process", tests, NULL, NULL);
}
