/* A clock for a redis-server under test, and no chance in it: an LD_PRELOAD shim.
 *
 * REDIS_CLOCK names a file of eight bytes: the time in microseconds, kept by the test. Wall clocks
 * read it; the others, which measure how long things take, go on as they are. Hash seeds come from
 * /dev/zero, so that two servers that were asked the same answer the same.
 */
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const _Atomic int64_t *now_us;

__attribute__((constructor)) static void map_clock(void)
{
    const char *path = getenv("REDIS_CLOCK");
    int fd = path != NULL ? open(path, O_RDONLY) : -1;
    void *map = fd >= 0 ? mmap(NULL, sizeof *now_us, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;

    if (map == MAP_FAILED)
        abort();
    (void)close(fd);
    now_us = map;
}

static int64_t read_us(void)
{
    return now_us != NULL ? atomic_load(now_us) : 0;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    int64_t us = read_us();

    (void)zone;
    tv->tv_sec = us / 1000000;
    tv->tv_usec = us % 1000000;
    return 0;
}

int clock_gettime(clockid_t id, struct timespec *out)
{
    int64_t us = read_us();

    if (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)
        return (int)syscall(SYS_clock_gettime, id, out);
    out->tv_sec = us / 1000000;
    out->tv_nsec = us % 1000000 * 1000;
    return 0;
}

time_t time(time_t *out)
{
    time_t seconds = read_us() / 1000000;

    if (out != NULL)
        *out = seconds;
    return seconds;
}

static FILE *open_as(const char *name, const char *path, const char *mode)
{
    FILE *(*next)(const char *, const char *);

    *(void **)&next = dlsym(RTLD_NEXT, name);
    return next(strcmp(path, "/dev/urandom") == 0 ? "/dev/zero" : path, mode);
}

FILE *fopen(const char *restrict path, const char *restrict mode)
{
    return open_as("fopen", path, mode);
}

FILE *fopen64(const char *restrict path, const char *restrict mode)
{
    return open_as("fopen64", path, mode);
}
