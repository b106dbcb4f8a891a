#include "datadir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cs/base/file.h"
#include "cs/base/hash.h"
#include "cs/base/uuid.h"

#define LOCK_NAME "lock"

/* A lock on the whole file. It belongs to the open file: it ends when the last descriptor is
 * closed. Asking who has it takes nothing, so that asking never keeps a daemon from starting. */
static int lock_file(int fd, int command, short *type)
{
    struct flock lock = {.l_type = *type, .l_whence = SEEK_SET};
    int rc = fcntl(fd, command, &lock);

    *type = lock.l_type;
    return rc;
}

static void read_owner(int fd, struct cs_datadir_owner *out_owner)
{
    char text[64] = "";
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    char *rest = text;

    out_owner->pid = n > 0 ? strtol(text, &rest, 10) : 0;
    out_owner->port = n > 0 ? (int)strtol(rest, NULL, 10) : 0;
}

static int open_lock(const char *dir, int flags)
{
    char *path = cs_path_join(dir, LOCK_NAME);
    int fd;

    if (path == NULL) {
        errno = ENOMEM;
        return -1;
    }
    fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    free(path);
    return fd;
}

enum cs_status cs_datadir_lock(const char *dir, int *out_fd, struct cs_err *err)
{
    struct cs_datadir_owner owner;
    enum cs_status rc = cs_mkdir_private(dir, err);
    short exclusive = F_WRLCK;
    int fd;

    if (rc != CS_OK)
        return rc;
    fd = open_lock(dir, O_RDWR | O_CREAT);
    if (fd < 0)
        return cs_err_errno(err, errno, "open the lock of the data folder");
    if (fchmod(fd, 0600) != 0 || lock_file(fd, F_OFD_SETLK, &exclusive) != 0) {
        if (errno != EAGAIN) {
            rc = cs_err_errno(err, errno, "lock the data folder");
        } else {
            read_owner(fd, &owner);
            rc = cs_err_set(err, CS_CONFLICT, "already_running",
                            "another daemon, pid %ld, serves the data folder %s", owner.pid, dir);
        }
        close(fd);
        return rc;
    }
    rc = cs_datadir_announce(fd, 0, err);
    if (rc != CS_OK) {
        close(fd);
        return rc;
    }
    *out_fd = fd;
    return CS_OK;
}

enum cs_status cs_datadir_announce(int fd, int port, struct cs_err *err)
{
    char text[64];
    int len = snprintf(text, sizeof text, "%ld %d\n", (long)getpid(), port);

    if (pwrite(fd, text, (size_t)len, 0) != len || ftruncate(fd, len) != 0)
        return cs_err_errno(err, errno, "write the lock of the data folder");
    return CS_OK;
}

enum cs_status cs_datadir_owner(const char *dir, struct cs_datadir_owner *out_owner,
                                struct cs_err *err)
{
    struct cs_datadir_owner owner = {0, 0};
    short conflicting = F_RDLCK;
    int fd = open_lock(dir, O_RDONLY);

    if (fd < 0 && errno != ENOENT)
        return cs_err_errno(err, errno, "open the lock of the data folder");
    if (fd >= 0 && lock_file(fd, F_OFD_GETLK, &conflicting) == 0 && conflicting != F_UNLCK)
        read_owner(fd, &owner);
    if (fd >= 0)
        close(fd);
    *out_owner = owner;
    return CS_OK;
}

enum cs_status cs_datadir_instance(const char *dir, char out[17], struct cs_err *err)
{
    unsigned char hash[CS_SHA256_LEN];
    char *path = realpath(dir, NULL);
    enum cs_status rc;

    if (path == NULL)
        return cs_err_errno(err, errno, "resolve the data folder");
    rc = cs_sha256(path, strlen(path), hash, err);
    free(path);
    if (rc == CS_OK)
        cs_hex(hash, 8, out);
    return rc;
}
