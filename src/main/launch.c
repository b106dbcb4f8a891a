#include "launch.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/file.h"
#include "cs/base/log.h"
#include "datadir.h"

#define LOG_NAME     "daemon.log"
#define LOG_MAX      8388608 /* a longer log is begun anew */
#define LOG_TAIL     1024
#define FLAGS_MAX    256
#define RESTART_MS   1000
#define PROGRAM      "/proc/self/exe"
#define PROGRAM_NAME "codex-sessiond"

void cs_launch_init(struct cs_launch *launch, const struct cs_verb_input *input)
{
    *launch = (struct cs_launch){.input = input};
}

static enum cs_status no_daemon(struct cs_err *err, const char *why)
{
    return cs_err_set(err, CS_UNAVAILABLE, "no_daemon", "the daemon does not start: %s", why);
}

static enum cs_status open_log(const char *dir, int *out_fd, struct cs_err *err)
{
    enum cs_status rc = cs_mkdir_private(dir, err);
    char *path = cs_path_join(dir, LOG_NAME);
    struct stat st;
    int fd;

    if (rc != CS_OK || path == NULL) {
        free(path);
        return rc != CS_OK ? rc : cs_err_nomem(err);
    }
    fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    free(path);
    if (fd < 0)
        return cs_err_errno(err, errno, "open the daemon's log");
    if (fstat(fd, &st) == 0 && st.st_size > LOG_MAX && ftruncate(fd, 0) != 0) {
        close(fd);
        return cs_err_errno(err, errno, "begin the daemon's log anew");
    }
    *out_fd = fd;
    return CS_OK;
}

/* In the child. Our caller's files do not live on in the daemon. */
static _Noreturn void become_daemon(char *const argv[], int log)
{
    int null = open("/dev/null", O_RDONLY);
    sigset_t none;

    assert(log >= 0);
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    (void)close_range(STDERR_FILENO + 1, UINT_MAX, CLOSE_RANGE_CLOEXEC); /* not on old kernels */
    if (null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(log, STDOUT_FILENO) >= 0 &&
        dup2(log, STDERR_FILENO) >= 0)
        execv(PROGRAM, argv);
    _exit(127);
}

static enum cs_status start(struct cs_launch *launch, struct cs_err *err)
{
    static char name[] = PROGRAM_NAME, verb[] = "serve";
    char *argv[FLAGS_MAX + 3] = {name, verb};
    const struct cs_verb_input *input = launch->input;
    enum cs_status rc;
    int log = -1, i;
    pid_t pid;

    if (input->argc > FLAGS_MAX)
        return no_daemon(err, "there are too many flags");
    for (i = 0; i < input->argc; i++)
        argv[2 + i] = input->argv[i];
    rc = open_log(input->config->data_dir, &log, err);
    if (rc != CS_OK)
        return rc;
    pid = fork();
    if (pid == 0)
        become_daemon(argv, log);
    close(log);
    if (pid < 0)
        return cs_err_errno(err, errno, "start the daemon");
    launch->child = pid;
    launch->again_at = cs_mono_ms() + RESTART_MS;
    cs_log(CS_LOG_INFO, "daemon_started", "pid", CS_NUM(pid), NULL);
    return CS_OK;
}

/* The daemon we started has given up: its last words say why. */
static enum cs_status tell_why(const char *dir, struct cs_err *err)
{
    static const char mark[] = PROGRAM_NAME ": ";
    char text[LOG_TAIL + 1] = "", *why, *next;
    ssize_t n = -1;
    int fd = -1;

    if (open_log(dir, &fd, NULL) == CS_OK) {
        off_t size;
        assert(fd >= 0);
        size = lseek(fd, 0, SEEK_END);
        n = pread(fd, text, LOG_TAIL, size > LOG_TAIL ? size - LOG_TAIL : 0);
        close(fd);
    }
    text[n > 0 ? n : 0] = '\0';
    why = strstr(text, mark);
    while (why != NULL && (next = strstr(why + 1, mark)) != NULL)
        why = next;
    if (why == NULL)
        return no_daemon(err, "see " LOG_NAME " in its data folder");
    why += sizeof mark - 1;
    why[strcspn(why, "\n")] = '\0';
    return no_daemon(err, why);
}

/* Whether the daemon we started has given up since we last looked. One that served ends with 0. */
static bool has_failed(struct cs_launch *launch)
{
    int status = 0;

    if (launch->child == 0 || waitpid(launch->child, &status, WNOHANG) == 0)
        return false;
    launch->child = 0;
    return WIFEXITED(status) && WEXITSTATUS(status) != 0;
}

enum cs_status cs_launch_port(struct cs_launch *launch, int *out_port, struct cs_err *err)
{
    const char *dir = launch->input->config->data_dir;
    bool failed = has_failed(launch);
    struct cs_datadir_owner owner;
    enum cs_status rc = cs_datadir_owner(dir, &owner, err);

    if (rc != CS_OK)
        return rc;
    if (owner.port != 0) {
        launch->seen = true;
        *out_port = owner.port;
        return CS_OK;
    }
    if (launch->seen) /* whoever keeps it alive may start it again: it is theirs to do */
        launch->again_at = cs_mono_ms() + RESTART_MS;
    launch->seen = false;
    if (owner.pid == 0 && failed)
        return tell_why(dir, err);
    if (owner.pid == 0 && launch->child == 0 && cs_mono_ms() >= launch->again_at) {
        rc = start(launch, err);
        if (rc != CS_OK)
            return rc;
    }
    return cs_err_set(err, CS_BUSY, "daemon_starting", "the daemon is starting");
}
