/* api/socket: the descriptor of a connection, for what civetweb cannot do on it. */
#include <dirent.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "priv.h"

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
    const struct sockaddr_in *a4 = (const struct sockaddr_in *)(const void *)a;
    const struct sockaddr_in *b4 = (const struct sockaddr_in *)(const void *)b;
    const struct sockaddr_in6 *a6 = (const struct sockaddr_in6 *)(const void *)a;
    const struct sockaddr_in6 *b6 = (const struct sockaddr_in6 *)(const void *)b;

    if (a->ss_family != b->ss_family)
        return false;
    if (a->ss_family == AF_INET)
        return a4->sin_port == b4->sin_port && a4->sin_addr.s_addr == b4->sin_addr.s_addr;
    return a->ss_family == AF_INET6 && a6->sin6_port == b6->sin6_port &&
           memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof a6->sin6_addr) == 0;
}

static in_port_t port_of(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET
               ? ((const struct sockaddr_in *)(const void *)address)->sin_port
               : ((const struct sockaddr_in6 *)(const void *)address)->sin6_port;
}

/* Whether @fd is a socket between @client and our port. A descriptor that another thread closes or
 * opens meanwhile is no such one: two ends name a connection, and ours stays open. */
static bool is_ours(int fd, const struct sockaddr_storage *client,
                    const struct sockaddr_storage *server)
{
    struct sockaddr_storage end;
    socklen_t len = sizeof end;

    memset(&end, 0, sizeof end);
    if (getpeername(fd, (struct sockaddr *)&end, &len) != 0 || !same_address(&end, client))
        return false;
    len = sizeof end;
    return getsockname(fd, (struct sockaddr *)&end, &len) == 0 && port_of(&end) == port_of(server);
}

enum cs_status cs_socket_find(const struct sockaddr_storage *client,
                              const struct sockaddr_storage *server, int *out_fd,
                              struct cs_err *err)
{
    DIR *fds = opendir("/proc/self/fd");
    const struct dirent *entry;
    int found = -1;

    if (fds == NULL)
        return cs_err_set(err, CS_UNAVAILABLE, "socket_unknown", "/proc/self/fd cannot be read");
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is this thread's own */
    while (found < 0 && (entry = readdir(fds)) != NULL) {
        int fd = (int)strtol(entry->d_name, NULL, 10);

        if (entry->d_name[0] != '.' && is_ours(fd, client, server))
            found = fd;
    }
    (void)closedir(fds);
    if (found < 0)
        return cs_err_set(err, CS_NOT_FOUND, "connection_gone", "The connection is gone");
    *out_fd = found;
    return CS_OK;
}

bool cs_socket_ended(int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLRDHUP};

    return poll(&look, 1, 0) > 0;
}
