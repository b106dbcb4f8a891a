#include "process_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/thread.h"

enum {
    READER_STACK = 128 * 1024, /* a driver parses JSON on it */
    RUNG_MS = 2000,
    QUEUE_MAX = 64 * 1024 * 1024,
    READ_STEP = 64 * 1024,
    KEEP_LINES = 1024 * 1024, /* memory kept for the next lines */
    TAIL_MAX = 4096,
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void wake_reader(struct cs_process *process)
{
    uint64_t one = 1;
    ssize_t ignored = write(process->wake, &one, sizeof one); /* full: awake anyway */

    (void)ignored;
}

/* ---- stdin; with the mutex ---- */

static size_t queued(const struct cs_process *process)
{
    return process->queue.len - process->queue_head;
}

static void shut_stdin(struct cs_process *process)
{
    close_fd(&process->in);
    cs_buf_fini(&process->queue);
    process->queue_head = 0;
}

static void flush_stdin(struct cs_process *process)
{
    while (process->in >= 0 && queued(process) > 0) {
        ssize_t sent =
            write(process->in, process->queue.data + process->queue_head, queued(process));

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN)
            break;
        if (sent < 0) {
            shut_stdin(process);
            break;
        }
        process->queue_head += (size_t)sent;
    }
    if (process->queue_head * 2 >= process->queue.len) { /* moving less than was sent */
        cs_buf_consume(&process->queue, process->queue_head);
        process->queue_head = 0;
    }
    if (process->queue.len == 0 && process->queue.cap > KEEP_LINES)
        cs_buf_fini(&process->queue);
    if (process->close_in && queued(process) == 0)
        shut_stdin(process);
}

enum cs_status cs_process_write(struct cs_process *process, const void *data, size_t len,
                                struct cs_err *err)
{
    enum cs_status rc = CS_OK;

    pthread_mutex_lock(&process->mutex);
    if (process->in < 0 || process->close_in) {
        rc = cs_err_set(err, CS_UNAVAILABLE, "codex_unavailable", "Codex no longer takes input");
    } else if (len > QUEUE_MAX - queued(process)) {
        rc = cs_err_set(err, CS_BUSY, "codex_busy", "Codex does not read its input");
    } else {
        cs_buf_add(&process->queue, data, len);
        rc = cs_buf_check(&process->queue, err);
        if (rc != CS_OK) /* nothing of @data was added */
            process->queue.status = CS_OK;
        flush_stdin(process); /* mostly all of it: no detour by the reader */
        if (queued(process) > 0 || process->in < 0)
            wake_reader(process);
    }
    pthread_mutex_unlock(&process->mutex);
    return rc;
}

void cs_process_close_stdin(struct cs_process *process)
{
    pthread_mutex_lock(&process->mutex);
    process->close_in = true;
    flush_stdin(process);
    wake_reader(process);
    pthread_mutex_unlock(&process->mutex);
}

/* ---- the stop ladder; with the mutex, on the reader thread ---- */

static void send_term(struct cs_process *process, int64_t now)
{
    shut_stdin(process);
    kill(-process->pid, SIGTERM);
    process->rung = CS_RUNG_TERM;
    process->rung_due = now + RUNG_MS;
}

/* Do what is due on the ladder; returns when to come again. */
static int64_t climb(struct cs_process *process)
{
    int64_t now = cs_mono_ms();
    bool due = now >= process->rung_due;

    if (!process->stop)
        return CS_NEVER;
    if (process->rung < CS_RUNG_KILL &&
        (now >= process->kill_at || (process->rung == CS_RUNG_TERM && due))) {
        shut_stdin(process);
        kill(-process->pid, SIGKILL);
        process->rung = CS_RUNG_KILL;
    } else if (process->rung == CS_RUNG_NONE && !process->skip_stdin) {
        if (process->interrupt)
            kill(process->pid, SIGINT);
        process->interrupt = false;
        shut_stdin(process);
        process->rung = CS_RUNG_ASKED;
        process->rung_due = now + RUNG_MS;
    } else if (process->rung < CS_RUNG_TERM && (process->skip_stdin || due)) {
        send_term(process, now);
    } else if (process->rung == CS_RUNG_ASKED && process->interrupt) {
        kill(process->pid, SIGINT); /* asked for while we wait for the end of its own accord */
        process->interrupt = false;
    }
    if (process->rung == CS_RUNG_KILL)
        return CS_NEVER;
    return process->rung_due < process->kill_at ? process->rung_due : process->kill_at;
}

void cs_process_stop(struct cs_process *process, bool interrupt, bool skip_stdin)
{
    pthread_mutex_lock(&process->mutex);
    process->interrupt = process->interrupt || interrupt;
    process->skip_stdin = process->skip_stdin || skip_stdin;
    process->stop = true;
    wake_reader(process);
    pthread_mutex_unlock(&process->mutex);
}

void cs_process_end_by(struct cs_process *process, int64_t kill_at)
{
    pthread_mutex_lock(&process->mutex);
    process->kill_at = kill_at;
    pthread_mutex_unlock(&process->mutex);
    cs_process_stop(process, false, true);
}

/* ---- output; reader thread ---- */

static void too_long(struct cs_process *process)
{
    process->too_long = true;
    close_fd(&process->out);
    cs_buf_fini(&process->lines);
    process->scanned = 0;
    cs_process_stop(process, false, true);
}

/* Hand over the complete lines of the buffer. */
static void deliver_lines(struct cs_process *process)
{
    struct cs_buf *lines = &process->lines;
    size_t start = 0;
    char *end;

    while ((end = memchr(lines->data + process->scanned, '\n', lines->len - process->scanned)) !=
           NULL) {
        size_t len = (size_t)(end - lines->data) - start;

        if (len > process->max_line) {
            too_long(process);
            return;
        }
        *end = '\0';
        process->events.on_line(process->arg, lines->data + start, len);
        start += len + 1;
        process->scanned = start;
    }
    cs_buf_consume(lines, start);
    process->scanned = lines->len;
    if (lines->len == 0 && lines->cap > KEEP_LINES)
        cs_buf_fini(lines);
}

/* Read once from stdout. False at its end, or when there is nothing now. */
static bool read_out(struct cs_process *process)
{
    char *room = cs_buf_reserve(&process->lines, READ_STEP);
    ssize_t got;

    if (room == NULL) { /* the line is over the cap, or memory is out */
        too_long(process);
        return false;
    }
    got = read(process->out, room, READ_STEP);
    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    if (got <= 0) {
        close_fd(&process->out);
        return false;
    }
    process->lines.len += (size_t)got;
    process->lines.data[process->lines.len] = '\0';
    deliver_lines(process);
    return process->out >= 0;
}

/* Read once from stderr; only its end is kept. */
static bool read_errors(struct cs_process *process)
{
    char *room = cs_buf_reserve(&process->tail, TAIL_MAX);
    ssize_t got = read(process->errors, room, TAIL_MAX);

    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    if (got <= 0) {
        close_fd(&process->errors);
        return false;
    }
    cs_complaint_take(&process->complaint, process->pid, room, (size_t)got, cs_mono_ms());
    process->tail.len += (size_t)got;
    if (process->tail.len > TAIL_MAX)
        cs_buf_consume(&process->tail, process->tail.len - TAIL_MAX);
    return true;
}

/* ---- the reader thread ---- */

static void reap(struct cs_process *process)
{
    int status = 0;
    pid_t got = waitpid(process->pid, &status, WNOHANG);

    if (got == 0 || (got < 0 && errno != ECHILD))
        return;
    process->wait_status = status;
    process->reaped = true;
    pthread_mutex_lock(&process->mutex);
    process->stop = false; /* the pid may be another's from now on */
    shut_stdin(process);
    pthread_mutex_unlock(&process->mutex);
}

static void poll_once(struct cs_process *process)
{
    enum { WAKE, PIDFD, OUT, ERRORS, IN, COUNT };
    struct pollfd fds[COUNT] = {[WAKE] = {.fd = process->wake, .events = POLLIN},
                                [PIDFD] = {.fd = process->pidfd, .events = POLLIN},
                                [OUT] = {.fd = process->out, .events = POLLIN},
                                [ERRORS] = {.fd = process->errors, .events = POLLIN},
                                [IN] = {.fd = -1, .events = POLLOUT}};
    int64_t due, wait;
    uint64_t count;

    pthread_mutex_lock(&process->mutex);
    due = climb(process);
    if (process->in >= 0 && queued(process) > 0)
        fds[IN].fd = process->in;
    pthread_mutex_unlock(&process->mutex);
    wait = due == CS_NEVER ? -1 : due - cs_mono_ms();
    if (due != CS_NEVER)
        wait = wait < 0 ? 0 : wait > 60000 ? 60000 : wait;
    if (poll(fds, COUNT, (int)wait) <= 0)
        return;
    if (fds[WAKE].revents != 0 && read(process->wake, &count, sizeof count) < 0)
        return;
    if (fds[IN].revents != 0) {
        pthread_mutex_lock(&process->mutex);
        flush_stdin(process);
        pthread_mutex_unlock(&process->mutex);
    }
    if (fds[ERRORS].revents != 0)
        read_errors(process);
    if (fds[OUT].revents != 0 && !read_out(process) && process->out < 0)
        cs_process_stop(process, false, false); /* it has nothing more to say */
    if (fds[PIDFD].revents != 0)
        reap(process);
}

/* What the process wrote before it ended is in the pipes; an heir that goes on writing is not read.
 */
static void read_rest(struct cs_process *process)
{
    enum { STEPS = 32 };

    for (int i = 0; i < STEPS && process->out >= 0 && read_out(process); i++)
        ;
    if (!process->too_long && process->lines.len > 0) { /* a last line without its newline */
        cs_buf_addc(&process->lines, '\n');
        if (process->lines.status == CS_OK)
            deliver_lines(process);
    }
    for (int i = 0; i < STEPS && process->errors >= 0 && read_errors(process); i++)
        ;
}

static void process_destroy(struct cs_process *process)
{
    close_fd(&process->in);
    close_fd(&process->out);
    close_fd(&process->errors);
    close_fd(&process->wake);
    close_fd(&process->pidfd);
    cs_buf_fini(&process->lines);
    cs_buf_fini(&process->tail);
    cs_buf_fini(&process->queue);
    pthread_cond_destroy(&process->ending);
    pthread_mutex_destroy(&process->mutex);
    free(process->sweep);
    free(process);
}

/* The process is gone: have its descendants swept. */
static void unlist(struct cs_process *process)
{
    struct cs_spawner *spawner = process->spawner;

    pthread_mutex_lock(&spawner->mutex);
    *process->link = process->next;
    if (process->next != NULL)
        process->next->link = process->link;
    process->sweep->number = process->number;
    process->sweep->leader = process->pid;
    process->sweep->next = spawner->sweeps;
    spawner->sweeps = process->sweep;
    process->sweep = NULL;
    pthread_cond_signal(&spawner->work);
    pthread_mutex_unlock(&spawner->mutex);
}

static void finish(struct cs_process *process)
{
    struct cs_spawner *spawner = process->spawner;
    bool abandoned;

    if (process->tail.data != NULL)
        process->tail.len = cs_complaint_clean(process->tail.data, process->tail.len);
    cs_complaint_end(&process->complaint, process->pid);
    process->events.on_exit(process->arg, process->wait_status, process->too_long,
                            process->tail.data != NULL ? process->tail.data : "");
    pthread_mutex_lock(&spawner->mutex);
    spawner->readers--;
    pthread_cond_signal(&spawner->work);
    pthread_mutex_unlock(&spawner->mutex); /* from here on the spawner may be gone */

    pthread_mutex_lock(&process->mutex);
    process->ended = true;
    abandoned = process->abandoned;
    pthread_cond_broadcast(&process->ending);
    pthread_mutex_unlock(&process->mutex);
    if (abandoned) {
        pthread_detach(pthread_self());
        process_destroy(process);
    }
}

static void *reader_run(void *arg)
{
    struct cs_process *process = arg;

    while (!process->reaped)
        poll_once(process);
    unlist(process);
    read_rest(process);
    finish(process);
    return NULL;
}

/* ---- start and end ---- */

/* A pipe; both ends above 2, so that the child's dup2() onto 0-2 loses none. */
static enum cs_status make_pipe(int fds[2], struct cs_err *err)
{
    int raw[2];

    if (pipe2(raw, O_CLOEXEC) != 0)
        return cs_err_errno(err, errno, "make a pipe for Codex");
    for (int i = 0; i < 2; i++) {
        fds[i] = raw[i] > 2 ? raw[i] : fcntl(raw[i], F_DUPFD_CLOEXEC, 3);
        if (fds[i] != raw[i])
            close(raw[i]);
    }
    return fds[0] >= 0 && fds[1] >= 0 ? CS_OK : cs_err_errno(err, errno, "make a pipe for Codex");
}

/* NULL: no memory or no descriptor. */
static struct cs_process *process_new(struct cs_spawner *spawner,
                                      const struct cs_process_spec *spec)
{
    struct cs_process *process = calloc(1, sizeof *process);

    if (process == NULL)
        return NULL;
    process->spawner = spawner;
    process->events = spec->events;
    process->arg = spec->arg;
    process->max_line = (size_t)spec->max_line;
    process->in = process->out = process->errors = process->pidfd = -1;
    process->kill_at = CS_NEVER;
    cs_buf_init(&process->lines, process->max_line + (size_t)2 * READ_STEP);
    cs_buf_init(&process->tail, (size_t)3 * TAIL_MAX);
    cs_buf_init(&process->queue, (size_t)3 * QUEUE_MAX);
    pthread_mutex_init(&process->mutex, NULL);
    process->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    process->sweep = calloc(1, sizeof *process->sweep);
    if (cs_cond_init(&process->ending, NULL) == CS_OK && process->wake >= 0 &&
        process->sweep != NULL && cs_buf_reserve(&process->tail, (size_t)2 * TAIL_MAX) != NULL)
        return process;
    process_destroy(process);
    return NULL;
}

/* Three pipes: our ends, non-blocking, to the process, the child's to the spawn. */
static enum cs_status open_pipes(struct cs_process *process, struct cs_spawn *spawn,
                                 struct cs_err *err)
{
    int *ours[] = {&process->in, &process->out, &process->errors};
    int *theirs[] = {&spawn->in, &spawn->out, &spawn->errors};

    for (int i = 0; i < 3; i++) {
        int fds[2] = {-1, -1};
        enum cs_status rc = make_pipe(fds, err);

        if (rc != CS_OK)
            return rc;
        *ours[i] = fds[i == 0];
        *theirs[i] = fds[i != 0];
        if (fcntl(*ours[i], F_SETFL, O_NONBLOCK) != 0)
            return cs_err_errno(err, errno, "make a pipe for Codex");
    }
    return CS_OK;
}

/* The child runs, but no thread can read it: end it here. */
static void disown(struct cs_process *process)
{
    kill(-process->pid, SIGKILL);
    waitpid(process->pid, NULL, 0);
    unlist(process);
    pthread_mutex_lock(&process->spawner->mutex);
    process->spawner->readers--;
    pthread_mutex_unlock(&process->spawner->mutex);
}

enum cs_status cs_process_spawn(struct cs_spawner *spawner, const struct cs_process_spec *spec,
                                struct cs_process **out_process, struct cs_err *err)
{
    struct cs_spawn spawn = {
        .cwd = spec->cwd != NULL ? spec->cwd : "/", .in = -1, .out = -1, .errors = -1};
    struct cs_process *process = process_new(spawner, spec);
    char **env = NULL;
    enum cs_status rc;

    if (process == NULL)
        return cs_err_nomem(err);
    rc = open_pipes(process, &spawn, err);
    if (rc != CS_OK)
        goto out;
    pthread_mutex_lock(&spawner->mutex);
    process->number = ++spawner->next_number;
    pthread_mutex_unlock(&spawner->mutex);
    env = cs_spawner_env(spawner, process->number, spec->env);
    if (env == NULL) {
        rc = cs_err_nomem(err);
        goto out;
    }
    spawn.process = process;
    memcpy(&spawn.argv, &spec->argv, sizeof spawn.argv); /* execve only reads them */
    spawn.env = env;
    rc = cs_spawner_run(spawner, &spawn, err);
    if (rc != CS_OK)
        goto out;
    *out_process = process; /* before the first event: its receiver may need it */
    rc = cs_thread_start(&process->thread, "cs-codex", READER_STACK, reader_run, process, err);
    if (rc != CS_OK) {
        *out_process = NULL;
        disown(process);
    }

out:
    close_fd(&spawn.in);
    close_fd(&spawn.out);
    close_fd(&spawn.errors);
    free(env);
    if (rc != CS_OK)
        process_destroy(process);
    return rc;
}

pid_t cs_process_pid(const struct cs_process *process)
{
    return process->pid;
}

bool cs_process_wait(struct cs_process *process, int64_t deadline)
{
    bool ended;

    pthread_mutex_lock(&process->mutex);
    while (!process->ended && cs_cond_wait(&process->ending, &process->mutex, deadline))
        ;
    ended = process->ended;
    pthread_mutex_unlock(&process->mutex);
    return ended;
}

void cs_process_free(struct cs_process *process)
{
    if (process == NULL)
        return;
    pthread_join(process->thread, NULL);
    process_destroy(process);
}

void cs_process_abandon(struct cs_process *process)
{
    bool ended;

    if (process == NULL)
        return;
    pthread_mutex_lock(&process->mutex);
    ended = process->ended;
    process->abandoned = true;
    process->stop = true;
    wake_reader(process);
    pthread_mutex_unlock(&process->mutex);
    if (ended)
        cs_process_free(process);
}

void cs_process_describe(int wait_status, char *out, size_t cap)
{
    if (WIFEXITED(wait_status))
        snprintf(out, cap, "exited with status %d", WEXITSTATUS(wait_status));
    else
        snprintf(out, cap, "was killed by signal %d", WTERMSIG(wait_status));
}
