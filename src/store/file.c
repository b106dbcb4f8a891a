#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum cs_status cs_create_private(const char *path, struct cs_err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int errnum = 0;

    if (fd < 0 && errno == EEXIST)
        return cs_err_set(err, CS_CONFLICT, "file_exists", "%s exists already", path);
    if (fd < 0)
        return cs_err_errno(err, errno, "create a private file");
    if (fchmod(fd, 0600) != 0 || fsync(fd) != 0)
        errnum = errno;
    if (close(fd) != 0 && errnum == 0)
        errnum = errno;
    if (errnum != 0)
        return cs_err_errno(err, errnum, "create a private file");
    return cs_sync_parent(path, err);
}

static enum cs_status sync_path(const char *path, int flags, struct cs_err *err)
{
    int fd = open(path, flags | O_CLOEXEC);
    int errnum = 0;

    if (fd < 0)
        return cs_err_errno(err, errno, "open to sync");
    if (fsync(fd) != 0)
        errnum = errno;
    (void)close(fd);
    return errnum == 0 ? CS_OK : cs_err_errno(err, errnum, "sync");
}

enum cs_status cs_sync_file(const char *path, struct cs_err *err)
{
    return sync_path(path, O_RDONLY | O_NOFOLLOW, err);
}

enum cs_status cs_sync_parent(const char *path, struct cs_err *err)
{
    const char *slash = strrchr(path, '/');
    char dir[PATH_MAX];
    size_t len;

    if (slash == NULL)
        return sync_path(".", O_RDONLY | O_DIRECTORY, err);
    len = slash == path ? 1 : (size_t)(slash - path);
    if (len >= sizeof dir)
        return cs_err_set(err, CS_INVALID, NULL, "the path is too long");
    memcpy(dir, path, len);
    dir[len] = '\0';
    return sync_path(dir, O_RDONLY | O_DIRECTORY, err);
}
