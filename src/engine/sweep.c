/* engine/sweep: what children leave behind is found and ended. */
#include "process_priv.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cs/base/clock.h"

#define INSTANCE "CODEX_SESSIOND_INSTANCE="
#define CHILD    "CODEX_SESSIOND_CHILD="

enum {
    ENVIRON_MAX = 256 * 1024, /* of a process that we look at */
    GRACE_MS = 2000,          /* between SIGTERM and SIGKILL */
    KILL_ROUNDS = 20,         /* looks after SIGKILL before we give up on something unkillable */
};

/* A process as /proc/PID/stat shows it. */
struct proc {
    pid_t pid, parent, group;
    uint64_t start; /* clock ticks since boot: with the pid a name that is not used again */
    char state;
    bool matched;
};

struct table {
    struct proc *rows;
    size_t count, cap;
};

/* Read a small file of /proc; its length, or -1. */
static ssize_t read_proc(const char *path, char *out, size_t cap)
{
    size_t len = 0;
    ssize_t got = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return -1;
    while (len < cap && (got = read(fd, out + len, cap - len)) > 0)
        len += (size_t)got;
    close(fd);
    return got < 0 ? -1 : (ssize_t)len;
}

static bool read_stat(pid_t pid, struct proc *out)
{
    char path[64], text[1024];
    const char *at;
    ssize_t len;
    int parent, group;
    uint64_t start;
    char state;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    len = read_proc(path, text, sizeof text - 1);
    if (len <= 0)
        return false;
    text[len] = '\0';
    at = strrchr(text, ')'); /* the name before it may hold anything */
    /* NOLINTNEXTLINE(cert-err34-c): the kernel wrote these numbers */
    if (at == NULL || sscanf(at + 1,
                             " %c %d %d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d"
                             " %*d %" SCNu64,
                             &state, &parent, &group, &start) != 4)
        return false;
    *out =
        (struct proc){.pid = pid, .parent = parent, .group = group, .start = start, .state = state};
    return true;
}

static bool add_row(struct table *table, const struct proc *row)
{
    if (table->count == table->cap) {
        size_t cap = table->cap == 0 ? 256 : table->cap * 2;
        struct proc *rows = realloc(table->rows, cap * sizeof *rows);

        if (rows == NULL)
            return false;
        table->rows = rows;
        table->cap = cap;
    }
    table->rows[table->count++] = *row;
    return true;
}

static int by_pid(const void *a, const void *b)
{
    const struct proc *x = a, *y = b;

    return (x->pid > y->pid) - (x->pid < y->pid);
}

/* All processes that we can see, by pid. False when they could not be read: then nothing is known.
 */
static bool scan(struct table *table)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    bool ok = dir != NULL;

    /* NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is this thread's own */
    while (ok && (entry = readdir(dir)) != NULL) {
        struct proc row;

        if (isdigit((unsigned char)entry->d_name[0]) &&
            read_stat((pid_t)strtol(entry->d_name, NULL, 10), &row))
            ok = add_row(table, &row);
    }
    if (dir != NULL)
        closedir(dir);
    if (ok && table->count > 0)
        qsort(table->rows, table->count, sizeof *table->rows, by_pid);
    return ok;
}

static bool ended(const struct proc *row)
{
    return row->state == 'Z' || row->state == 'X' || row->state == 'x';
}

/* The value of the variable @name ("NAME=") in an environment block, or NULL. */
static const char *find_var(const char *block, size_t len, const char *name)
{
    size_t name_len = strlen(name);
    const char *at = block, *end = block + len;

    while (at < end) {
        const char *stop = memchr(at, '\0', (size_t)(end - at));

        if (stop == NULL)
            return NULL; /* cut at our limit */
        if ((size_t)(stop - at) >= name_len && memcmp(at, name, name_len) == 0)
            return at + name_len;
        at = stop + 1;
    }
    return NULL;
}

/* The two markers of a process, borrowed from @block; false if it does not carry both. */
static bool read_markers(pid_t pid, char *block, const char **out_instance, const char **out_child)
{
    char path[64];
    ssize_t len;

    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    len = read_proc(path, block, ENVIRON_MAX);
    if (len <= 0)
        return false;
    *out_instance = find_var(block, (size_t)len, INSTANCE);
    *out_child = find_var(block, (size_t)len, CHILD);
    return *out_instance != NULL && *out_child != NULL;
}

/* Signal exactly the process that was seen: a pid may have been given away since. */
static void send_signal(const struct proc *row, int sig)
{
    int fd = (int)syscall(SYS_pidfd_open, row->pid, 0);
    struct proc now;

    if (fd < 0)
        return;
    if (read_stat(row->pid, &now) && now.start == row->start)
        syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0);
    close(fd);
}

static size_t signal_matched(const struct table *table, int sig)
{
    size_t count = 0;

    for (size_t i = 0; i < table->count; i++) {
        if (!table->rows[i].matched)
            continue;
        count++;
        if (sig != 0)
            send_signal(&table->rows[i], sig);
    }
    return count;
}

static struct proc *find_row(const struct table *table, pid_t pid)
{
    struct proc key = {.pid = pid};

    return bsearch(&key, table->rows, table->count, sizeof key, by_pid);
}

/* Whether an ancestor of @row is matched (or, without @root, whether @root is an ancestor). */
static bool below(const struct table *table, const struct proc *row, pid_t root)
{
    for (int depth = 0; depth < 256 && row->parent > 0; depth++) {
        if (row->parent == root)
            return true;
        row = find_row(table, row->parent);
        if (row == NULL || (root == 0 && row->matched))
            return row != NULL;
    }
    return false;
}

static bool contains(const pid_t *pids, size_t count, pid_t pid)
{
    for (size_t i = 0; i < count; i++)
        if (pids[i] == pid)
            return true;
    return false;
}

void cs_sweep_self(char *out, size_t cap)
{
    struct proc self = {0};
    struct stat space = {0};

    (void)read_stat(getpid(), &self);
    if (stat("/proc/self/ns/pid", &space) != 0)
        space.st_ino = 0;
    snprintf(out, cap, "%ju.%d.%" PRIu64, (uintmax_t)space.st_ino, (int)getpid(), self.start);
}

/* Whether a marker "<namespace>.<pid>.<start>-<number>" names a daemon that is dead. One of another
 * pid namespace cannot be looked up from here: it counts as alive. */
static bool daemon_dead(const char *marker, const char *self)
{
    const char *dot = strchr(marker, '.');
    struct proc row;
    char *end;
    long pid;

    if (dot == NULL || strncmp(marker, self, (size_t)(dot + 1 - marker)) != 0)
        return false;
    pid = strtol(dot + 1, &end, 10);
    if (*end != '.' || pid <= 0 || pid > INT32_MAX)
        return false;
    return !read_stat((pid_t)pid, &row) || ended(&row) || row.start != strtoull(end + 1, NULL, 10);
}

static void match_survivors(struct table *table, char *block, const char *instance,
                            const char *self)
{
    const char *its_instance, *its_child;

    for (size_t i = 0; i < table->count; i++) {
        struct proc *row = &table->rows[i];

        row->matched = !ended(row) && row->pid != getpid() &&
                       read_markers(row->pid, block, &its_instance, &its_child) &&
                       strcmp(its_instance, instance) == 0 && daemon_dead(its_child, self);
    }
}

void cs_sweep_survivors(const char *instance, const char *self)
{
    enum { PAUSE_MS = 50, ROUNDS = 60 };
    char *block = malloc(ENVIRON_MAX);

    for (int round = 0; block != NULL && round < ROUNDS; round++) {
        struct table table = {0};
        bool late = round * PAUSE_MS >= GRACE_MS;
        size_t left = 0;

        if (scan(&table)) {
            match_survivors(&table, block, instance, self);
            left = signal_matched(&table, late ? SIGKILL : round == 0 ? SIGTERM : 0);
        }
        free(table.rows);
        if (left == 0)
            break;
        usleep(PAUSE_MS * 1000);
    }
    free(block);
}

/* Mark what the ended child of @sweep left. Never a running child of ours, nor anything that
 * carries another child's mark: tools of a running app-server outlive the sweep of another child.
 */
static void match_left(struct table *table, char *block, const struct cs_sweep *sweep,
                       const struct cs_spawner *spawner, const pid_t *live, size_t live_count)
{
    char marker[128];
    const char *its_instance, *its_child;
    pid_t self = getpid(), own_group = getpgrp();
    bool leader_reused = contains(live, live_count, sweep->leader);

    snprintf(marker, sizeof marker, "%s-%" PRId64, spawner->daemon, sweep->number);
    for (size_t i = 0; i < table->count; i++) {
        struct proc *row = &table->rows[i];

        if (ended(row) || row->pid == self || contains(live, live_count, row->pid) ||
            !below(table, row, self))
            continue;
        if (read_markers(row->pid, block, &its_instance, &its_child) &&
            strcmp(its_instance, spawner->instance) == 0)
            row->matched = strcmp(its_child, marker) == 0;
        else /* its environment was cleared: the group tells, or that there is no one else it could
                belong to */
            row->matched = row->group != own_group &&
                           ((row->group == sweep->leader && !leader_reused) || live_count == 0);
    }
    for (size_t i = 0; i < table->count; i++) {
        struct proc *row = &table->rows[i];

        if (!row->matched && !ended(row) && !contains(live, live_count, row->pid))
            row->matched = below(table, row, 0);
    }
}

bool cs_sweep_step(struct cs_sweep *sweep, const struct cs_spawner *spawner, const pid_t *live,
                   size_t live_count, int64_t close_by)
{
    struct table table = {0};
    char *block = malloc(ENVIRON_MAX);
    int64_t now = cs_mono_ms();
    size_t left = 1;
    int sig = 0;

    if (sweep->kill_at == 0) {
        sig = SIGTERM;
        sweep->kill_at = now + GRACE_MS;
        sweep->pause = 10;
    }
    if (close_by != CS_NEVER && sweep->kill_at > close_by - 300)
        sweep->kill_at = close_by - 300;
    if (now >= sweep->kill_at && sig == 0) {
        sig = SIGKILL;
        sweep->rounds++;
    }
    if (block != NULL && scan(&table)) {
        match_left(&table, block, sweep, spawner, live, live_count);
        left = signal_matched(&table, sig);
    }
    free(table.rows);
    free(block);
    cs_sweep_reap(live, live_count);
    sweep->pause = sweep->pause < 200 ? sweep->pause * 2 : 200;
    sweep->due = now + sweep->pause;
    return left == 0 || sweep->rounds > KILL_ROUNDS;
}

/* Reap what a look at every process shows: the kernel's answer stops at the first status, which may
 * be someone else's. */
static void reap_by_scan(const pid_t *live, size_t live_count)
{
    struct table table = {0};
    pid_t self = getpid(), own_group = getpgrp();

    if (!scan(&table))
        table.count = 0;
    for (size_t i = 0; i < table.count; i++) {
        const struct proc *row = &table.rows[i];

        if (row->parent == self && ended(row) && row->group != own_group &&
            !contains(live, live_count, row->pid))
            (void)waitpid(row->pid, NULL, WNOHANG);
    }
    free(table.rows);
}

void cs_sweep_reap(const pid_t *live, size_t live_count)
{
    for (;;) {
        siginfo_t info = {0};

        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0 ||
            contains(live, live_count, info.si_pid))
            return;
        if (getpgid(info.si_pid) == getpgrp()) { /* all that is Codex's left our own group */
            reap_by_scan(live, live_count);
            return;
        }
        if (waitpid(info.si_pid, NULL, WNOHANG) <= 0)
            return;
    }
}
