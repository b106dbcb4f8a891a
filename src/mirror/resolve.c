/* mirror/resolve: names to addresses, with a deadline: getaddrinfo() has none, so it runs on a
 * thread of its own. A thread that comes too late frees what it found and ends; there are never
 * more than a few. */
#include <assert.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cs/base/thread.h"
#include "priv.h"

#define LOOKUPS_MAX  4
#define LOOKUP_STACK 262144

/* Shared by the caller and the thread; the last of them frees it. */
struct lookup {
    _Atomic int users;
    int done_fd;       /* eventfd: the thread is done */
    _Atomic bool done; /* set before done_fd, after the two below, which it publishes */
    int rc;            /* of getaddrinfo() */
    struct addrinfo *list;
    char host[256];
    char port[8];
};

static _Atomic int lookups; /* threads under way */

static int look_up(const char *host, const char *port, int flags, struct addrinfo **out_list)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    return getaddrinfo(host, port, &hints, out_list);
}

static void leave(struct lookup *lookup)
{
    if (atomic_fetch_sub(&lookup->users, 1) > 1)
        return;
    if (lookup->list)
        freeaddrinfo(lookup->list);
    if (lookup->done_fd >= 0)
        (void)close(lookup->done_fd);
    free(lookup);
}

static void *run(void *arg)
{
    struct lookup *lookup = arg;
    uint64_t one = 1;
    lookup->rc = look_up(lookup->host, lookup->port, AI_ADDRCONFIG, &lookup->list);
    atomic_store(&lookup->done, true);
    atomic_fetch_sub(&lookups, 1);
    if (write(lookup->done_fd, &one, sizeof one) < 0)
        assert(false); /* the counter was 0 */
    leave(lookup);
    return NULL;
}

static enum cs_status start(struct lookup *lookup, struct cs_err *err)
{
    pthread_t thread;
    if (atomic_fetch_add(&lookups, 1) >= LOOKUPS_MAX) {
        atomic_fetch_sub(&lookups, 1);
        return cs_error_set(err, CS_ERROR_UNREACHABLE, "looking up the name of Redis",
                            "earlier look-ups still hang");
    }
    atomic_fetch_add(&lookup->users, 1);
    enum cs_status rc = cs_thread_start(&thread, "redis-dns", LOOKUP_STACK, run, lookup, err);
    if (rc != CS_OK) {
        atomic_fetch_sub(&lookup->users, 1);
        atomic_fetch_sub(&lookups, 1);
        return rc;
    }
    (void)pthread_detach(thread);
    return CS_OK;
}

static enum cs_status new_lookup(const struct cs_dial *dial, struct lookup **out_lookup,
                                 struct cs_err *err)
{
    struct lookup *lookup = calloc(1, sizeof *lookup);
    if (!lookup)
        return cs_err_nomem(err);
    lookup->users = 1;
    (void)snprintf(lookup->host, sizeof lookup->host, "%s", dial->endpoint->host);
    (void)snprintf(lookup->port, sizeof lookup->port, "%d", dial->endpoint->port);
    lookup->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (lookup->done_fd < 0) {
        leave(lookup);
        return cs_error_set(err, CS_ERROR_UNREACHABLE, "looking up the name of Redis",
                            "no descriptor left");
    }
    *out_lookup = lookup;
    return CS_OK;
}

static enum cs_status found(int rc, struct cs_err *err)
{
    if (rc == 0)
        return CS_OK;
    if (rc == EAI_MEMORY)
        return cs_err_nomem(err);
    return cs_error_set(err, CS_ERROR_UNREACHABLE, "looking up the name of Redis",
                        gai_strerror(rc));
}

enum cs_status cs_resolve(const struct cs_dial *dial, struct addrinfo **out_list,
                          struct cs_err *err)
{
    struct lookup *lookup = NULL;
    enum cs_status rc = new_lookup(dial, &lookup, err);
    if (!lookup)
        return rc;
    /* An address needs no server to ask. */
    int numeric = look_up(lookup->host, lookup->port, AI_NUMERICHOST, &lookup->list);
    if (numeric == EAI_NONAME) {
        rc = start(lookup, err);
        if (rc == CS_OK)
            rc = cs_wait_fd(lookup->done_fd, POLLIN, dial->wake_fd, dial->deadline, err);
        if (rc == CS_OK)
            rc = found(atomic_load(&lookup->done) ? lookup->rc : EAI_AGAIN, err);
    } else {
        rc = found(numeric, err);
    }
    if (rc == CS_OK) {
        *out_list = lookup->list;
        lookup->list = NULL;
    }
    leave(lookup);
    return rc;
}
