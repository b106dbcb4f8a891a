/* powerloss: a disk that forgets what was not synced, and that fails on demand. An LD_PRELOAD shim
 * for tests.
 *
 * kill -9 keeps every byte that was written, so it says nothing about fsync. This shim lets each
 * change to the files of one folder through, and first writes to a journal how to take it back;
 * fsync and fdatasync write there that everything before is safe now. When the process has died,
 * powerloss.py reads the journal and leaves each file as a disk could have: what was synced, and of
 * the rest nothing or any part. Names are treated likewise: a file that was created, renamed or
 * removed is safe when its folder was synced.
 *
 * Environment:
 *   POWERLOSS_DIR        folder to watch: an absolute path without links, given to the program in
 * the same form POWERLOSS_JOURNAL    folder of the journal, on the same file system; exists, empty
 *   POWERLOSS_KILL_AT    N: the process kills itself in place of the Nth change; 0 or unset: never
 *   POWERLOSS_FAIL_AT    N: the Nth change fails instead of happening
 *   POWERLOSS_FAIL_EVERY N: and so does every Nth after it
 *   POWERLOSS_ERRNO      with this error number (5, EIO, if unset)
 *
 * Only the process that loaded it is watched, not its children. "-shm" files are left alone: they
 * are memory, and no power loss preserves them. Nothing is really synced: the model is the disk.
 */
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FD_MAX 65536

/** What the journal says; powerloss.py knows the same numbers. */
enum kind {
    KIND_WRITE = 1,    /* `old` bytes were at `offset`, `len` bytes come in their place */
    KIND_TRUNCATE = 2, /* the size becomes `len`; `old` bytes were cut from there */
    KIND_SYNC = 3,     /* the file `ino` is safe */
    KIND_CREATE = 4,   /* path is new */
    KIND_UNLINK = 5,   /* path goes; kept in the journal's folder as saved-`offset` */
    KIND_RENAME = 6,   /* "from\nto"; what `to` was is kept as saved-`offset` (0: there was none) */
    KIND_DIR_SYNC = 7, /* the names in folder `path` are safe */
};

/** A record: this, then the path, then the old bytes. */
struct record {
    uint64_t kind, ino, offset, len, old_size, path_len, old_len;
};

enum watch { WATCH_NOT, WATCH_FILE, WATCH_DIR };

static struct {
    pthread_mutex_t mutex; /* orders every change with its record */
    pid_t pid;
    char dir[4096];
    size_t dir_len;
    char journal_dir[4096];
    int journal;
    uint64_t changes, saved;
    uint64_t kill_at, fail_at, fail_every;
    int fail_errno;
    atomic_uchar watched[FD_MAX];
} self = {.mutex = PTHREAD_MUTEX_INITIALIZER, .journal = -1};

static _Noreturn void give_up(const char *what)
{
    (void)dprintf(STDERR_FILENO, "powerloss: %s: %s\n", what, strerror(errno));
    abort();
}

static uint64_t number(const char *name)
{
    const char *text = getenv(name);
    return text == NULL ? 0 : strtoull(text, NULL, 10);
}

__attribute__((constructor)) static void begin(void)
{
    const char *dir = getenv("POWERLOSS_DIR"), *journal = getenv("POWERLOSS_JOURNAL");
    if (dir == NULL || journal == NULL) {
        return;
    }
    (void)snprintf(self.dir, sizeof self.dir, "%s", dir);
    (void)snprintf(self.journal_dir, sizeof self.journal_dir, "%s", journal);
    self.dir_len = strlen(self.dir);
    self.kill_at = number("POWERLOSS_KILL_AT");
    self.fail_at = number("POWERLOSS_FAIL_AT");
    self.fail_every = number("POWERLOSS_FAIL_EVERY");
    self.fail_errno = number("POWERLOSS_ERRNO") != 0 ? (int)number("POWERLOSS_ERRNO") : EIO;
    char path[4200];
    (void)snprintf(path, sizeof path, "%s/journal", self.journal_dir);
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) {
        give_up(path);
    }
    self.journal = (int)fd;
    self.pid = getpid();
}

/* ---- what is watched ---- */

static bool active(void)
{
    return self.journal >= 0 && getpid() == self.pid; /* a vforked child shares our memory */
}

static enum watch watch_of(int fd)
{
    if (!active() || fd < 0 || fd >= FD_MAX) {
        return WATCH_NOT;
    }
    return (enum watch)atomic_load(&self.watched[fd]);
}

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);
    return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

/** Whether @path, relative to @at, is the folder or lies in it; its full form goes to @out. */
static bool inside(int at, const char *path, char out[4096])
{
    if (!active()) {
        return false;
    }
    if (path[0] == '/' || at == AT_FDCWD) {
        (void)snprintf(out, 4096, "%s", path);
    } else {
        char link[64], base[2048];
        (void)snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t len = readlink(link, base, sizeof base - 1);
        (void)snprintf(out, 4096, "%.*s/%.2000s", len > 0 ? (int)len : 0, base, path);
    }
    return strncmp(out, self.dir, self.dir_len) == 0 &&
           (out[self.dir_len] == '\0' || out[self.dir_len] == '/') && !ends_with(out, "-shm");
}

/* ---- the journal ---- */

/** Count a change, with the mutex held. False: it must fail, errno says with what. */
static bool permitted(void)
{
    self.changes++;
    if (self.changes == self.kill_at) {
        (void)kill(self.pid, SIGKILL);
        for (;;) {
            (void)pause();
        }
    }
    bool fails =
        self.changes == self.fail_at || (self.fail_every > 0 && self.changes > self.fail_at &&
                                         (self.changes - self.fail_at) % self.fail_every == 0);
    if (fails) {
        errno = self.fail_errno;
    }
    return !fails;
}

static void note(const struct record *record, const char *path, const void *old)
{
    struct record head = *record;
    head.path_len = path != NULL ? strlen(path) : 0;
    struct iovec parts[] = {
        {.iov_base = &head, .iov_len = sizeof head},
        {.iov_base = (void *)(uintptr_t)path, .iov_len = head.path_len},
        {.iov_base = (void *)(uintptr_t)old, .iov_len = head.old_len},
    };
    size_t whole = sizeof head + head.path_len + head.old_len;
    if (syscall(SYS_writev, self.journal, parts, 3) != (long)whole) {
        give_up("journal");
    }
}

/** Note a change of the bytes from @offset on: of @len bytes, or (KIND_TRUNCATE) to the size @len.
 */
static void note_bytes(int fd, enum kind kind, uint64_t offset, uint64_t len)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        give_up("fstat");
    }
    struct record record = {.kind = kind,
                            .ino = st.st_ino,
                            .offset = offset,
                            .len = len,
                            .old_size = (uint64_t)st.st_size};
    uint64_t end = kind == KIND_TRUNCATE ? record.old_size : offset + len;
    end = end < record.old_size ? end : record.old_size;
    record.old_len = end > offset ? end - offset : 0;
    char *old = malloc(record.old_len + 1);
    if (old == NULL || pread(fd, old, record.old_len, (off_t)offset) != (ssize_t)record.old_len) {
        give_up("reading the old bytes");
    }
    note(&record, NULL, old);
    free(old);
}

/** Keep the file @path under a number of its own; 0 if there is none. */
static uint64_t keep(const char *path)
{
    char saved[4200];
    (void)snprintf(saved, sizeof saved, "%s/saved-%llu", self.journal_dir,
                   (unsigned long long)self.saved + 1);
    if (link(path, saved) != 0) {
        if (errno != ENOENT) {
            give_up(path);
        }
        return 0;
    }
    return ++self.saved;
}

/** Change a watched file's size, with the mutex held. */
static int resize(int fd, off_t size)
{
    if (!permitted()) {
        return -1;
    }
    note_bytes(fd, KIND_TRUNCATE, (uint64_t)size, (uint64_t)size);
    return (int)syscall(SYS_ftruncate, fd, size);
}

/* ---- opening ---- */

static int open_inside(const char *path, int flags, mode_t mode)
{
    struct stat st;
    bool old = lstat(path, &st) == 0, writes = (flags & O_ACCMODE) != O_RDONLY;
    bool creates = !old && (flags & O_CREAT) != 0;
    if (creates && !permitted()) {
        return -1;
    }
    if (writes && (flags & O_ACCMODE) == O_WRONLY) {
        flags = (flags & ~O_ACCMODE) | O_RDWR; /* the old bytes must be readable */
    }
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags & ~O_TRUNC, mode);
    if (fd < 0 || fd >= FD_MAX || fstat(fd, &st) != 0) {
        return fd;
    }
    if (creates) {
        note(&(struct record){.kind = KIND_CREATE, .ino = st.st_ino}, path, NULL);
    }
    bool regular = S_ISREG(st.st_mode);
    atomic_store(&self.watched[fd], S_ISDIR(st.st_mode) ? WATCH_DIR
                                    : regular           ? WATCH_FILE
                                                        : WATCH_NOT);
    if (regular && writes && (flags & O_TRUNC) != 0 && st.st_size > 0 && resize(fd, 0) != 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

static int do_open(int at, const char *path, int flags, mode_t mode)
{
    char full[4096];
    if (!inside(at, path, full)) {
        int fd = (int)syscall(SYS_openat, at, path, flags, mode);
        if (fd >= 0 && fd < FD_MAX && active()) {
            atomic_store(&self.watched[fd], WATCH_NOT);
        }
        return fd;
    }
    (void)pthread_mutex_lock(&self.mutex);
    int fd = open_inside(full, flags, mode);
    (void)pthread_mutex_unlock(&self.mutex);
    return fd;
}

#define MODE_OF(flags)                                                                             \
    mode_t mode = 0;                                                                               \
    if (((flags) & (O_CREAT | O_TMPFILE)) != 0) {                                                  \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode = va_arg(args, mode_t);                                                               \
        va_end(args);                                                                              \
    }

int open(const char *path, int flags, ...)
{
    MODE_OF(flags)
    return do_open(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE_OF(flags)
    return do_open(AT_FDCWD, path, flags, mode);
}

int openat(int at, const char *path, int flags, ...)
{
    MODE_OF(flags)
    return do_open(at, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...)
{
    MODE_OF(flags)
    return do_open(at, path, flags, mode);
}

int close(int fd)
{
    if (watch_of(fd) != WATCH_NOT) {
        atomic_store(&self.watched[fd], WATCH_NOT);
    }
    return (int)syscall(SYS_close, fd);
}

/* ---- changing bytes ---- */

static ssize_t do_pwrite(int fd, const void *data, size_t len, off_t offset)
{
    (void)pthread_mutex_lock(&self.mutex);
    ssize_t n = -1;
    if (permitted()) {
        note_bytes(fd, KIND_WRITE, (uint64_t)offset, len);
        n = syscall(SYS_pwrite64, fd, data, len, offset);
    }
    (void)pthread_mutex_unlock(&self.mutex);
    return n;
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    return watch_of(fd) == WATCH_FILE ? do_pwrite(fd, data, len, offset)
                                      : syscall(SYS_pwrite64, fd, data, len, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
    return pwrite(fd, data, len, offset);
}

ssize_t write(int fd, const void *data, size_t len)
{
    if (watch_of(fd) != WATCH_FILE) {
        return syscall(SYS_write, fd, data, len);
    }
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    off_t offset =
        (flags & O_APPEND) != 0 && fstat(fd, &st) == 0 ? st.st_size : lseek(fd, 0, SEEK_CUR);
    ssize_t n = do_pwrite(fd, data, len, offset);
    if (n > 0) {
        (void)lseek(fd, offset + n, SEEK_SET);
    }
    return n;
}

int ftruncate(int fd, off_t size)
{
    if (watch_of(fd) != WATCH_FILE) {
        return (int)syscall(SYS_ftruncate, fd, size);
    }
    (void)pthread_mutex_lock(&self.mutex);
    int status = resize(fd, size);
    (void)pthread_mutex_unlock(&self.mutex);
    return status;
}

int ftruncate64(int fd, off64_t size)
{
    return ftruncate(fd, size);
}

static int do_sync(int fd, long call)
{
    enum watch watch = watch_of(fd);
    if (watch == WATCH_NOT) {
        return (int)syscall(call, fd);
    }
    (void)pthread_mutex_lock(&self.mutex);
    int status = permitted() ? 0 : -1;
    struct stat st;
    if (status == 0 && fstat(fd, &st) != 0) {
        give_up("fstat");
    }
    if (status == 0 && watch == WATCH_DIR) {
        char link[64], path[4096];
        (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t len = readlink(link, path, sizeof path - 1);
        path[len > 0 ? len : 0] = '\0';
        note(&(struct record){.kind = KIND_DIR_SYNC, .ino = st.st_ino}, path, NULL);
    } else if (status == 0) {
        note(&(struct record){.kind = KIND_SYNC, .ino = st.st_ino}, NULL, NULL);
    }
    (void)pthread_mutex_unlock(&self.mutex);
    return status;
}

int fsync(int fd)
{
    return do_sync(fd, SYS_fsync);
}

int fdatasync(int fd)
{
    return do_sync(fd, SYS_fdatasync);
}

/* ---- changing names ---- */

int unlinkat(int at, const char *path, int flags)
{
    char full[4096];
    if (!inside(at, path, full) || (flags & AT_REMOVEDIR) != 0) {
        return (int)syscall(SYS_unlinkat, at, path, flags);
    }
    (void)pthread_mutex_lock(&self.mutex);
    int status = -1;
    struct stat st;
    if (lstat(full, &st) == 0 && permitted()) {
        note(&(struct record){.kind = KIND_UNLINK, .offset = keep(full)}, full, NULL);
        status = (int)syscall(SYS_unlinkat, AT_FDCWD, full, 0);
    }
    (void)pthread_mutex_unlock(&self.mutex);
    return status;
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int renameat(int from_at, const char *from, int to_at, const char *to)
{
    char from_full[4096], to_full[4096], both[8200];
    bool here = inside(from_at, from, from_full);
    if (!inside(to_at, to, to_full) || !here) {
        return (int)syscall(SYS_renameat2, from_at, from, to_at, to, 0);
    }
    (void)pthread_mutex_lock(&self.mutex);
    int status = -1;
    struct stat st;
    if (lstat(from_full, &st) == 0 && permitted()) {
        (void)snprintf(both, sizeof both, "%s\n%s", from_full, to_full);
        note(&(struct record){.kind = KIND_RENAME, .offset = keep(to_full)}, both, NULL);
        status = (int)syscall(SYS_renameat2, AT_FDCWD, from_full, AT_FDCWD, to_full, 0);
    }
    (void)pthread_mutex_unlock(&self.mutex);
    return status;
}

int rename(const char *from, const char *to)
{
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}
