/* engine/spawner: the one thread that forks. */
#include "process_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/thread.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define CS_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define CS_SANITIZED 1
#endif

/* A child that shares our memory until it calls exec starts in constant time however large we are.
 * A sanitizer's run time would see the child's calls as ours, so there the memory is copied. */
#ifdef CS_SANITIZED
#define CLONE_FLAGS (CLONE_VFORK | CLONE_PIDFD | SIGCHLD)
#else
#define CLONE_FLAGS (CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD)
#endif

enum {
    CHILD_STACK = 64 * 1024,
    SPAWNER_STACK = 256 * 1024,
    REAP_MS = 5000, /* between looks for adopted orphans that ended */
};

extern char **environ;

/* What the child's side of a start needs. */
struct launch {
    const struct cs_spawn *spawn;
    pid_t parent;
    int status; /* pipe: bytes mean failure, its closing by exec means success */
};

struct failure {
    int errnum;
    char step; /* index into steps[] */
};

enum { STEP_DUP, STEP_CHDIR, STEP_EXEC };
static const char *const steps[] = {"pass the pipes to Codex", "enter the working folder",
                                    "start Codex"};

static void reset_signals(void)
{
    struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++)
        sigaction(sig, &by_default, NULL);
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
}

/* Let exec close what is not 0-2. Every descriptor of ours is close-on-exec already; this is for
 * those of libraries. */
static void close_others(void)
{
    enum { OLD_KERNEL_MAX = 65536 };

    if (syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) == 0)
        return;
    for (int fd = 3; fd < OLD_KERNEL_MAX; fd++) /* before Linux 5.11 */
        fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* The child until exec. It may share our memory: system calls only, and nothing of ours is changed.
 */
static int child_main(void *arg)
{
    const struct launch *launch = arg;
    const struct cs_spawn *spawn = launch->spawn;
    struct failure failure = {0};

    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != launch->parent) /* we died before the line above */
        _exit(127);
    reset_signals();
    failure.step = STEP_DUP;
    if (dup2(spawn->in, 0) < 0 || dup2(spawn->out, 1) < 0 || dup2(spawn->errors, 2) < 0)
        goto fail;
    close_others();
    failure.step = STEP_CHDIR;
    if (chdir(spawn->cwd) != 0)
        goto fail;
    failure.step = STEP_EXEC;
    execve(spawn->argv[0], spawn->argv, spawn->env);

fail:
    failure.errnum = errno;
    if (write(launch->status, &failure, sizeof failure) < 0)
        _exit(126);
    _exit(127);
}

/* Start the child; the spawner thread only. Fills @spawn's outcome. */
static void launch_child(struct cs_spawn *spawn, char *stack)
{
    struct launch launch = {.spawn = spawn, .parent = getpid()};
    struct cs_process *process = spawn->process;
    struct failure failure = {0};
    int status[2], pidfd = -1;
    pid_t pid;

    spawn->doing = "make a pipe";
    if (pipe2(status, O_CLOEXEC) != 0) {
        spawn->failed = errno;
        return;
    }
    launch.status = status[1];
    spawn->doing = "start a process";
    pid = clone(child_main, stack + CHILD_STACK, CLONE_FLAGS, &launch, &pidfd);
    if (pid < 0)
        spawn->failed = errno;
    close(status[1]);
    if (pid > 0 && read(status[0], &failure, sizeof failure) == (ssize_t)sizeof failure) {
        spawn->failed = failure.errnum;
        spawn->doing = steps[(size_t)failure.step];
        waitpid(pid, NULL, 0);
        close(pidfd);
    }
    close(status[0]);
    if (spawn->failed == 0) {
        process->pid = pid;
        process->pidfd = pidfd;
    }
}

static void list_process(struct cs_spawner *spawner, struct cs_process *process)
{
    process->next = spawner->processes;
    process->link = &spawner->processes;
    if (process->next != NULL)
        process->next->link = &process->next;
    spawner->processes = process;
    spawner->readers++;
}

/* Serve the queued starts; with the mutex, which is let go meanwhile. */
static void serve_requests(struct cs_spawner *spawner)
{
    struct cs_spawn *spawn;

    while ((spawn = spawner->requests) != NULL) {
        spawner->requests = spawn->next;
        if (spawn->next == NULL)
            spawner->requests_tail = &spawner->requests;
        pthread_mutex_unlock(&spawner->mutex);
        launch_child(spawn, spawner->stack);
        pthread_mutex_lock(&spawner->mutex);
        if (spawn->failed == 0)
            list_process(spawner, spawn->process);
        spawn->done = true;
        pthread_cond_broadcast(&spawner->change);
    }
}

/* The pids of children that are not reaped, for free(); with the mutex. Without memory: NULL, and
 * *out_count says how many there are. */
static pid_t *live_pids(const struct cs_spawner *spawner, size_t *out_count)
{
    size_t count = 0;
    pid_t *pids;

    for (const struct cs_process *p = spawner->processes; p != NULL; p = p->next)
        count++;
    *out_count = count;
    pids = calloc(count + 1, sizeof *pids);
    if (pids == NULL)
        return NULL;
    count = 0;
    for (const struct cs_process *p = spawner->processes; p != NULL; p = p->next)
        pids[count++] = p->pid;
    return pids;
}

/* Walk the sweeps that are due; with the mutex, which is let go meanwhile. @mine is the spawner
 * thread's own list. */
static void serve_sweeps(struct cs_spawner *spawner, struct cs_sweep **mine)
{
    struct cs_sweep **at = mine, *last;
    int64_t close_by = spawner->close_by;
    size_t count;
    pid_t *live;

    if ((last = spawner->sweeps) != NULL) {
        while (last->next != NULL)
            last = last->next;
        last->next = *mine;
        *mine = spawner->sweeps;
        spawner->sweeps = NULL;
    }
    live = live_pids(spawner, &count);
    pthread_mutex_unlock(&spawner->mutex);
    while (live != NULL && *at != NULL) {
        struct cs_sweep *sweep = *at;

        if (cs_mono_ms() < sweep->due || !cs_sweep_step(sweep, spawner, live, count, close_by)) {
            at = &sweep->next;
            continue;
        }
        *at = sweep->next;
        free(sweep);
    }
    if (live != NULL)
        cs_sweep_reap(live, count);
    free(live);
    pthread_mutex_lock(&spawner->mutex);
}

static int64_t next_due(const struct cs_spawner *spawner, const struct cs_sweep *mine)
{
    int64_t due = spawner->processes != NULL ? cs_mono_ms() + REAP_MS : CS_NEVER;

    for (; mine != NULL; mine = mine->next)
        if (mine->due < due)
            due = mine->due;
    return due;
}

static void *spawner_run(void *arg)
{
    struct cs_spawner *spawner = arg;
    struct cs_sweep *mine = NULL;

    pthread_mutex_lock(&spawner->mutex);
    while (!spawner->quit) {
        serve_requests(spawner);
        serve_sweeps(spawner, &mine);
        if (spawner->close_by != CS_NEVER && mine == NULL && spawner->sweeps == NULL &&
            spawner->readers == 0)
            break;
        if (spawner->requests == NULL && spawner->sweeps == NULL && !spawner->quit)
            cs_cond_wait(&spawner->work, &spawner->mutex, next_due(spawner, mine));
    }
    spawner->quit = true;
    for (struct cs_spawn *spawn = spawner->requests; spawn != NULL; spawn = spawn->next) {
        spawn->failed = ECANCELED;
        spawn->doing = "start Codex";
        spawn->done = true;
    }
    pthread_cond_broadcast(&spawner->change);
    pthread_mutex_unlock(&spawner->mutex);
    while (mine != NULL) {
        struct cs_sweep *next = mine->next;

        free(mine);
        mine = next;
    }
    return NULL;
}

enum cs_status cs_spawner_run(struct cs_spawner *spawner, struct cs_spawn *spawn,
                              struct cs_err *err)
{
    bool open;

    pthread_mutex_lock(&spawner->mutex);
    open = spawner->close_by == CS_NEVER && !spawner->quit;
    if (open) {
        spawn->next = NULL;
        *spawner->requests_tail = spawn;
        spawner->requests_tail = &spawn->next;
        pthread_cond_signal(&spawner->work);
        while (!spawn->done)
            cs_cond_wait(&spawner->change, &spawner->mutex, CS_NEVER);
    }
    pthread_mutex_unlock(&spawner->mutex);
    if (!open)
        return cs_err_set(err, CS_UNAVAILABLE, "codex_unavailable", "Codex is being shut down");
    if (spawn->failed == ENOMEM)
        return cs_err_nomem(err);
    if (spawn->failed != 0)
        return cs_err_set(err, CS_UNAVAILABLE, "codex_unavailable", "cannot %s (%s): %s",
                          spawn->doing,
                          spawn->doing == steps[STEP_CHDIR] ? spawn->cwd : spawn->argv[0],
                          strerrordesc_np(spawn->failed));
    return CS_OK;
}

static bool allowed(const char *entry)
{
    static const char *const names[] = {
        "PATH=",          "HOME=",         "USER=",       "LOGNAME=",    "SHELL=",
        "TERM=",          "LANG=",         "LC_",         "TMPDIR=",     "TZ=",
        "XDG_",           "CODEX_HOME=",   "HTTP_PROXY=", "http_proxy=", "HTTPS_PROXY=",
        "https_proxy=",   "ALL_PROXY=",    "all_proxy=",  "NO_PROXY=",   "no_proxy=",
        "SSL_CERT_FILE=", "SSL_CERT_DIR=",
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(entry, names[i], strlen(names[i])) == 0)
            return strchr(entry, '=') != NULL;
    return false;
}

static bool same_name(const char *a, const char *b)
{
    size_t len = strcspn(a, "=");

    return strncmp(a, b, len) == 0 && b[len] == '=';
}

static bool overridden(const char *entry, const char *const *extra)
{
    for (; extra != NULL && *extra != NULL; extra++)
        if (same_name(entry, *extra))
            return true;
    return false;
}

char **cs_spawner_env(const struct cs_spawner *spawner, int64_t number, const char *const *extra)
{
    size_t room = strlen(spawner->instance) + sizeof spawner->daemon + 128, count = 3, len = 0;
    char **env, *text;

    for (size_t i = 0; environ != NULL && environ[i] != NULL; i++)
        count++;
    for (size_t i = 0; extra != NULL && extra[i] != NULL; i++)
        count++;
    env = malloc(count * sizeof *env + room);
    if (env == NULL)
        return NULL;
    text = (char *)(env + count);
    count = 0;
    env[count++] = text;
    len = (size_t)snprintf(text, room, "CODEX_SESSIOND_INSTANCE=%s", spawner->instance) + 1;
    env[count++] = text + len;
    snprintf(text + len, room - len, "CODEX_SESSIOND_CHILD=%s-%" PRId64, spawner->daemon, number);
    for (size_t i = 0; extra != NULL && extra[i] != NULL; i++)
        memcpy(&env[count++], &extra[i], sizeof extra[i]); /* execve only reads them */
    for (size_t i = 0; environ != NULL && environ[i] != NULL; i++)
        if (allowed(environ[i]) && !overridden(environ[i], extra))
            env[count++] = environ[i];
    env[count] = NULL;
    return env;
}

/* A write to a child that is gone must be an error, not our end; and children that are reaped on
 * their own leave no status. */
static void prepare_signals(void)
{
    struct sigaction action;

    if (sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL) {
        action.sa_handler = SIG_IGN;
        sigaction(SIGPIPE, &action, NULL);
    }
    if (sigaction(SIGCHLD, NULL, &action) == 0 && action.sa_handler == SIG_IGN) {
        action.sa_handler = SIG_DFL;
        sigaction(SIGCHLD, &action, NULL);
    }
}

static void spawner_fini(struct cs_spawner *spawner)
{
    pthread_cond_destroy(&spawner->change);
    pthread_cond_destroy(&spawner->work);
    pthread_mutex_destroy(&spawner->mutex);
    free(spawner->instance);
    free(spawner->stack);
    free(spawner);
}

enum cs_status cs_spawner_new(const char *instance, struct cs_spawner **out_spawner,
                              struct cs_err *err)
{
    struct cs_spawner *spawner = calloc(1, sizeof *spawner);
    const char *own = getenv("CODEX_SESSIOND_INSTANCE"); /* NOLINT(concurrency-mt-unsafe) */
    enum cs_status rc;

    if (spawner == NULL)
        return cs_err_nomem(err);
    spawner->requests_tail = &spawner->requests;
    spawner->close_by = CS_NEVER;
    pthread_mutex_init(&spawner->mutex, NULL);
    rc = cs_cond_init(&spawner->work, err);
    if (rc == CS_OK)
        rc = cs_cond_init(&spawner->change, err);
    spawner->instance = strdup(instance);
    spawner->stack = aligned_alloc(64, CHILD_STACK);
    if (rc == CS_OK && (spawner->instance == NULL || spawner->stack == NULL))
        rc = cs_err_nomem(err);
    if (rc != CS_OK)
        goto out;
    cs_sweep_self(spawner->daemon, sizeof spawner->daemon);
    prepare_signals();
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) {
        rc = cs_err_errno(err, errno, "become the parent of orphaned processes");
        goto out;
    }
    if (own == NULL || strcmp(own, instance) != 0) /* else our own parents would be among them */
        cs_sweep_survivors(instance, spawner->daemon);
    rc = cs_thread_start(&spawner->thread, "cs-spawner", SPAWNER_STACK, spawner_run, spawner, err);

out:
    if (rc == CS_OK)
        *out_spawner = spawner;
    else
        spawner_fini(spawner);
    return rc;
}

void cs_spawner_free(struct cs_spawner *spawner, int64_t deadline)
{
    bool idle;

    if (spawner == NULL)
        return;
    pthread_mutex_lock(&spawner->mutex);
    spawner->close_by = deadline == CS_NEVER ? CS_NEVER - 1 : deadline;
    for (struct cs_process *p = spawner->processes; p != NULL; p = p->next)
        cs_process_end_by(p, spawner->close_by - 500);
    pthread_cond_signal(&spawner->work);
    /* A second for what SIGKILL leaves to do. */
    while (!spawner->quit && cs_cond_wait(&spawner->change, &spawner->mutex,
                                          deadline > CS_NEVER - 1000 ? CS_NEVER : deadline + 1000))
        ;
    spawner->quit = true;
    pthread_cond_signal(&spawner->work);
    pthread_mutex_unlock(&spawner->mutex);
    pthread_join(spawner->thread, NULL);
    pthread_mutex_lock(&spawner->mutex);
    idle = spawner->readers == 0;
    pthread_mutex_unlock(&spawner->mutex);
    while (spawner->sweeps != NULL && idle) {
        struct cs_sweep *next = spawner->sweeps->next;

        free(spawner->sweeps);
        spawner->sweeps = next;
    }
    if (idle) /* else a child cannot even be killed, and its reader still needs us */
        spawner_fini(spawner);
}

int64_t cs_spawner_children(struct cs_spawner *spawner)
{
    int64_t count = 0;

    pthread_mutex_lock(&spawner->mutex);
    for (const struct cs_process *p = spawner->processes; p != NULL; p = p->next)
        count++;
    pthread_mutex_unlock(&spawner->mutex);
    return count;
}
