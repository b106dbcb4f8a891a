#include "fault.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>

static atomic_long countdown; /* allocations up to the failing one; 0 and less: none will fail */
static atomic_bool hit;

void fault_arm(long nth)
{
    atomic_store(&hit, false);
    atomic_store(&countdown, nth);
}

bool fault_disarm(void)
{
    atomic_store(&countdown, 0);
    return atomic_load(&hit);
}

bool fault_hit(void)
{
    return atomic_load(&hit);
}

bool fault_take(void)
{
    if (atomic_load_explicit(&countdown, memory_order_relaxed) <= 0)
        return false;
    if (atomic_fetch_sub(&countdown, 1) != 1)
        return false;
    atomic_store(&hit, true);
    errno = ENOMEM;
    return true;
}

long fault_sweep(void (*run)(void *arg), void *arg)
{
    for (long failures = 0;; failures++) {
        fault_arm(failures + 1);
        run(arg);
        /* @run may have disarmed, so ask what happened, not what is armed. */
        (void)fault_disarm();
        if (!fault_hit())
            return failures;
    }
}

/* The linker (--wrap) sends calls of malloc to __wrap_malloc, and of __real_malloc to malloc. */
// NOLINTBEGIN(bugprone-reserved-identifier)
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t max);
int __real_vasprintf(char **out, const char *fmt, va_list args);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t max);
int __wrap_vasprintf(char **out, const char *fmt, va_list args)
    __attribute__((format(printf, 2, 0)));
int __wrap_asprintf(char **out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void *__wrap_malloc(size_t size)
{
    return fault_take() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fault_take() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fault_take() ? NULL : __real_realloc(old, size);
}

char *__wrap_strdup(const char *text)
{
    return fault_take() ? NULL : __real_strdup(text);
}

char *__wrap_strndup(const char *text, size_t max)
{
    return fault_take() ? NULL : __real_strndup(text, max);
}

int __wrap_vasprintf(char **out, const char *fmt, va_list args)
{
    return fault_take() ? -1 : __real_vasprintf(out, fmt, args);
}

int __wrap_asprintf(char **out, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int len = __wrap_vasprintf(out, fmt, args);
    va_end(args);
    return len;
}

/* What asprintf and vasprintf become under _FORTIFY_SOURCE. */
int __wrap___vasprintf_chk(char **out, int flag, const char *fmt, va_list args)
    __attribute__((format(printf, 3, 0)));
int __wrap___asprintf_chk(char **out, int flag, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

int __wrap___vasprintf_chk(char **out, int flag, const char *fmt, va_list args)
{
    (void)flag;
    return __wrap_vasprintf(out, fmt, args);
}

int __wrap___asprintf_chk(char **out, int flag, const char *fmt, ...)
{
    (void)flag;
    va_list args;
    va_start(args, fmt);
    int len = __wrap_vasprintf(out, fmt, args);
    va_end(args);
    return len;
}
// NOLINTEND(bugprone-reserved-identifier)
