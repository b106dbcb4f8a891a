/* jitter: a machine on which anything may take a while. An LD_PRELOAD shim for tests.
 *
 * What is told too early (a reply, an event, an end, before what it implies is true) is not seen
 * on a quiet machine: the hole is microseconds wide. This shim widens such holes: after a call by
 * which one thread or process tells another something, it may sleep. Three things decide, all of
 * them drawn from a seed:
 *
 *   places   one place in the program of eight is slow at first: its calls sleep long
 *   moods    for half a second at a time a thread is brisk, or uneven, or slow at every call
 *   chance   how long, up to JITTER_MAX_US
 *
 * Environment:
 *   JITTER_SEED    which run it is; unset: no delays
 *   JITTER_MAX_US  the longest ordinary delay, 5000 if unset; a slow place sleeps up to the double
 *   JITTER_NAME    the program to delay, by its short name; unset: any that loads this
 *
 * The same seed gives the same slow places; threads still race, so that a failure may need a few
 * runs to come back.
 */
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PLACES      4096      /* that are told apart */
#define SLOW_PLACES 8         /* one of so many is slow, */
#define SLOW_TIMES  200       /* for so many times: a loop there ends, too */
#define MOOD_NS     500000000 /* how long a thread keeps its mood */

static struct {
    bool on;
    pid_t pid;
    uint64_t seed, max_us;
    atomic_uint threads;
    atomic_uint passed[PLACES];
} self;

static _Thread_local struct {
    uint64_t state; /* 0: not seeded yet */
    uint64_t mood_until;
    unsigned one_in; /* of so many calls one is delayed; 0: none */
    bool inside;
} mine;

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15U;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

static uint64_t draw(uint64_t below)
{
    mine.state = mix(mine.state);
    return mine.state % below;
}

__attribute__((constructor)) static void begin(void)
{
    const char *seed = getenv("JITTER_SEED"), *max = getenv("JITTER_MAX_US");
    const char *name = getenv("JITTER_NAME");

    if (seed == NULL || (name != NULL && strcmp(name, program_invocation_short_name) != 0))
        return;
    self.seed = strtoull(seed, NULL, 10);
    self.max_us = max != NULL ? strtoull(max, NULL, 10) : 5000;
    self.pid = getpid();
    self.on = self.max_us > 0;
}

static void nap(uint64_t us)
{
    struct timespec time = {.tv_sec = (time_t)(us / 1000000),
                            .tv_nsec = (long)(us % 1000000) * 1000};

    (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}

static void take_mood(void)
{
    static const unsigned moods[] = {0, 0, 64, 16, 4, 2};
    struct timespec now;
    uint64_t ns;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    if (mine.state == 0)
        mine.state = mix(self.seed ^ ((uint64_t)atomic_fetch_add(&self.threads, 1) << 32)) | 1;
    if (ns < mine.mood_until)
        return;
    mine.mood_until = ns + MOOD_NS;
    mine.one_in = moods[draw(sizeof moods / sizeof moods[0])];
}

/* @place is where the call returns to. Its lowest 12 bits do not depend on where the program was
 * loaded. */
static void perhaps(const void *place)
{
    uintptr_t low = (uintptr_t)place & (PLACES - 1);
    bool slow;
    int saved = errno;

    if (!self.on || mine.inside)
        return;
    mine.inside = true;
    take_mood();
    slow = mix(self.seed ^ low) % SLOW_PLACES == 0 &&
           atomic_fetch_add_explicit(&self.passed[low], 1, memory_order_relaxed) < SLOW_TIMES;
    if (slow && draw(2) == 0 && getpid() == self.pid)
        nap(draw(2 * self.max_us));
    else if (mine.one_in > 0 && draw(mine.one_in) == 0 && getpid() == self.pid)
        nap(draw(self.max_us));
    mine.inside = false;
    errno = saved;
}

/* The function that we stand before. Looked up when the library is loaded: a child that shares our
 * memory may call it before it runs its own program, and must find it without a lock. */
static void *find(const char *name)
{
    void *found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2"); /* conditions have an older form too */

    if (found == NULL)
        found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        abort();
    return found;
}

/* A function that does what it does, and then perhaps sleeps. */
#define AFTER(type, name, params, ...)                                                             \
    static type(*real_##name) params;                                                              \
    __attribute__((constructor)) static void find_##name(void)                                     \
    {                                                                                              \
        if (real_##name == NULL)                                                                   \
            *(void **)&real_##name = find(#name);                                                  \
    }                                                                                              \
    type name params                                                                               \
    {                                                                                              \
        type result;                                                                               \
                                                                                                   \
        find_##name(); /* other libraries may be loaded first */                                   \
        result = real_##name(__VA_ARGS__);                                                         \
        perhaps(__builtin_return_address(0));                                                      \
        return result;                                                                             \
    }

AFTER(int, pthread_mutex_unlock, (pthread_mutex_t * mutex), mutex)
AFTER(int, pthread_rwlock_unlock, (pthread_rwlock_t * lock), lock)
AFTER(int, pthread_cond_signal, (pthread_cond_t * cond), cond)
AFTER(int, pthread_cond_broadcast, (pthread_cond_t * cond), cond)
AFTER(int, sem_post, (sem_t * sem), sem)
AFTER(int, poll, (struct pollfd * fds, nfds_t count, int ms), fds, count, ms)
AFTER(ssize_t, send, (int fd, const void *data, size_t len, int flags), fd, data, len, flags)
AFTER(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), fd, message, flags)
AFTER(ssize_t, recv, (int fd, void *data, size_t len, int flags), fd, data, len, flags)
AFTER(ssize_t, write, (int fd, const void *data, size_t len), fd, data, len)
AFTER(ssize_t, writev, (int fd, const struct iovec *parts, int count), fd, parts, count)
AFTER(int, shutdown, (int fd, int how), fd, how)
AFTER(int, close, (int fd), fd)
AFTER(int, fdatasync, (int fd), fd)
AFTER(int, kill, (pid_t pid, int signal), pid, signal)

struct beginning {
    void *(*run)(void *arg);
    void *arg;
};

static void *begin_late(void *arg)
{
    struct beginning beginning = *(struct beginning *)arg;

    free(arg);
    perhaps(__builtin_return_address(0));
    return beginning.run(beginning.arg);
}

static int (*real_create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

__attribute__((constructor)) static void find_create(void)
{
    if (real_create == NULL)
        *(void **)&real_create = find("pthread_create");
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    struct beginning *beginning = malloc(sizeof *beginning);
    int result;

    if (beginning == NULL)
        return EAGAIN;
    *beginning = (struct beginning){run, arg};
    find_create();
    result = real_create(thread, attr, begin_late, beginning);
    if (result != 0)
        free(beginning);
    perhaps(__builtin_return_address(0));
    return result;
}
