#include "cs/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_CHUNK 16384

static enum cs_status fail(struct cs_err *err, int errnum, const char *doing, const char *path)
{
    enum cs_status status = cs_err_errno(NULL, errnum, doing);
    const char *why = strerrordesc_np(errnum);
    return cs_err_set(err, status, NULL, "%s %s: %s", doing, path, why ? why : "unknown error");
}

char *cs_path_join(const char *dir, const char *name)
{
    size_t len = strlen(dir);
    const char *slash = len > 0 && dir[len - 1] == '/' ? "" : "/";
    char *path = NULL;
    return asprintf(&path, "%s%s%s", dir, slash, name) < 0 ? NULL : path;
}

/* A new name in a folder survives a power loss only when the folder has been synced. */
static enum cs_status sync_parent(const char *path, struct cs_err *err)
{
    const char *slash = strrchr(path, '/');
    char *parent = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    if (!parent)
        return cs_err_nomem(err);
    enum cs_status status = CS_OK;
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0)
        status = fail(err, errno, "syncing", parent);
    if (fd >= 0)
        (void)close(fd);
    free(parent);
    return status;
}

static enum cs_status not_a_folder(const char *path, struct cs_err *err)
{
    return cs_err_set(err, CS_INVALID, NULL, "%s is not a folder", path);
}

static enum cs_status make_folder(const char *path, struct cs_err *err)
{
    if (mkdir(path, 0700) != 0) {
        if (errno == ENOTDIR)
            return not_a_folder(path, err);
        return errno == EEXIST ? CS_OK : fail(err, errno, "creating", path);
    }
    if (chmod(path, 0700) != 0) /* the umask may have taken bits away */
        return fail(err, errno, "setting the mode of", path);
    return sync_parent(path, err);
}

/* Demand that @path is a folder of ours, and make it private. The checks and the chmod meet the
 * same folder, whatever happens to its name meanwhile. */
static enum cs_status own_folder(const char *path, struct cs_err *err)
{
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOTDIR)
        return not_a_folder(path, err);
    if (fd < 0)
        return fail(err, errno, "opening", path);
    enum cs_status status = CS_OK;
    struct stat st;
    if (fstat(fd, &st) != 0)
        status = fail(err, errno, "examining", path);
    else if (st.st_uid != geteuid())
        status = cs_err_set(err, CS_INVALID, NULL, "%s belongs to another user", path);
    else if ((st.st_mode & 07777) != 0700 && fchmodat(fd, ".", 0700, 0) != 0)
        status = fail(err, errno, "setting the mode of", path);
    (void)close(fd);
    return status;
}

enum cs_status cs_mkdir_private(const char *path, struct cs_err *err)
{
    if (path[0] == '\0')
        return cs_err_set(err, CS_INVALID, NULL, "the name of a folder is empty");
    char *copy = strdup(path);
    if (!copy)
        return cs_err_nomem(err);
    enum cs_status status = CS_OK;
    size_t len = strlen(copy);
    while (len > 1 && copy[len - 1] == '/')
        copy[--len] = '\0';
    for (char *slash = strchr(copy + 1, '/'); slash && status == CS_OK;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        status = make_folder(copy, err);
        *slash = '/';
    }
    if (status == CS_OK)
        status = make_folder(copy, err);
    if (status == CS_OK)
        status = own_folder(copy, err);
    free(copy);
    return status;
}

/* Read until the end, or until @out is at its cap. */
static enum cs_status read_all(int fd, const char *path, struct cs_buf *out, struct cs_err *err)
{
    for (;;) {
        size_t room = out->max - out->len;
        char spare; /* shows that the file goes on past the cap */
        char *to = &spare;
        size_t want = 1;
        if (room > 0) {
            want = room < READ_CHUNK ? room : READ_CHUNK;
            to = cs_buf_reserve(out, want);
            if (!to)
                return cs_buf_check(out, err);
        }
        ssize_t got = read(fd, to, want);
        if (got == 0)
            return CS_OK;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(err, errno, "reading", path);
        if (room == 0)
            return cs_err_set(err, CS_TOO_LARGE, NULL, "%s has more than %zu bytes", path,
                              out->max);
        out->len += (size_t)got;
    }
}

enum cs_status cs_file_read(const char *path, struct cs_buf *out, struct cs_err *err)
{
    enum cs_status status = cs_buf_check(out, err);
    if (status != CS_OK)
        return status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return cs_err_set(err, CS_NOT_FOUND, NULL, "%s does not exist", path);
    if (fd < 0)
        return fail(err, errno, "opening", path);
    size_t before = out->len;
    status = read_all(fd, path, out, err);
    (void)close(fd);
    if (status != CS_OK)
        out->len = before;
    if (out->data)
        out->data[out->len] = '\0';
    return status;
}

static int write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t done = write(fd, data, len);
        if (done < 0 && errno != EINTR)
            return -1;
        if (done > 0) {
            data += done;
            len -= (size_t)done;
        }
    }
    return 0;
}

enum cs_status cs_file_write_private(const char *path, const void *data, size_t len,
                                     struct cs_err *err)
{
    char *temp = NULL;
    if (asprintf(&temp, "%s.XXXXXX", path) < 0)
        return cs_err_nomem(err);
    enum cs_status status = CS_OK;
    int fd = mkostemp(temp, O_CLOEXEC);
    if (fd < 0) {
        status = fail(err, errno, "creating", path);
        goto out;
    }
    if (fchmod(fd, 0600) != 0 || write_all(fd, data, len) != 0 || fsync(fd) != 0)
        status = fail(err, errno, "writing", path);
    if (close(fd) != 0 && status == CS_OK)
        status = fail(err, errno, "writing", path);
    if (status == CS_OK && rename(temp, path) != 0)
        status = fail(err, errno, "replacing", path);
    if (status != CS_OK) {
        (void)unlink(temp);
        goto out;
    }
    status = sync_parent(path, err);
out:
    free(temp);
    return status;
}
