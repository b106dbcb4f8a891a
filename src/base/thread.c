#include "cs/base/thread.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "cs/base/clock.h"

#define OWN_STACK 1024 /* bytes below the frame of cs_stack_release() that it may use itself */

struct start {
    void *(*run)(void *);
    void *arg;
    char name[16]; /* the kernel's limit */
};

enum cs_status cs_cond_init(pthread_cond_t *cond, struct cs_err *err)
{
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);
    if (rc != 0)
        return cs_err_errno(err, rc, "creating a condition variable");
    rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (rc == 0)
        rc = pthread_cond_init(cond, &attr);
    (void)pthread_condattr_destroy(&attr);
    return rc == 0 ? CS_OK : cs_err_errno(err, rc, "creating a condition variable");
}

bool cs_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline)
{
    if (deadline == CS_NEVER) {
        (void)pthread_cond_wait(cond, mutex);
        return true;
    }
    if (deadline < 0)
        deadline = 0;
    struct timespec until = {.tv_sec = (time_t)(deadline / 1000),
                             .tv_nsec = (long)(deadline % 1000) * 1000000};
    return pthread_cond_timedwait(cond, mutex, &until) != ETIMEDOUT;
}

static void *run_named(void *arg)
{
    struct start *start = arg;
    struct start copy = *start;
    free(start);
    (void)pthread_setname_np(pthread_self(), copy.name); /* a name is worth no failure */
    return copy.run(copy.arg);
}

static int create(pthread_t *out_thread, size_t stack, struct start *start)
{
    pthread_attr_t attr;
    int rc = pthread_attr_init(&attr);
    if (rc != 0)
        return rc;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (stack < (size_t)PTHREAD_STACK_MIN)
        stack = (size_t)PTHREAD_STACK_MIN;
    rc = pthread_attr_setstacksize(&attr, (stack + page - 1) / page * page);
    if (rc == 0) {
        /* The new thread inherits the mask, so no signal can reach it before it could block it. */
        sigset_t all;
        sigset_t before;
        (void)sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        rc = pthread_create(out_thread, &attr, run_named, start);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    (void)pthread_attr_destroy(&attr);
    return rc;
}

enum cs_status cs_thread_start(pthread_t *out_thread, const char *name, size_t stack,
                               void *(*run)(void *), void *arg, struct cs_err *err)
{
    struct start *start = malloc(sizeof *start);
    if (!start)
        return cs_err_nomem(err);
    *start = (struct start){.run = run, .arg = arg};
    (void)snprintf(start->name, sizeof start->name, "%s", name);
    pthread_t thread;
    int rc = create(&thread, stack, start);
    if (rc != 0) {
        free(start);
        return cs_err_errno(err, rc, "starting a thread");
    }
    *out_thread = thread;
    return CS_OK;
}

/* The C library does the same when a thread ends. */
void cs_stack_release(void)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    pthread_attr_t attr;
    void *low = NULL;
    size_t size = 0;
    if (gettid() == getpid()) /* the first stack has no bounds to rely on */
        return;
    if (pthread_getattr_np(pthread_self(), &attr) != 0)
        return;
    if (pthread_attr_getstack(&attr, &low, &size) == 0) {
        uintptr_t end = (here - OWN_STACK) / page * page;
        if (end > (uintptr_t)low)
            (void)madvise(low, end - (uintptr_t)low, MADV_DONTNEED);
    }
    (void)pthread_attr_destroy(&attr);
}
