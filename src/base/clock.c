#include "cs/base/clock.h"

#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

static _Atomic(int64_t (*)(void)) override;

static int64_t now_us(clockid_t id)
{
    struct timespec now;
    (void)clock_gettime(id, &now); /* cannot fail: both clocks always exist */
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t cs_clock_ms(void)
{
    int64_t (*now)(void) = atomic_load_explicit(&override, memory_order_relaxed);
    return now ? now() : now_us(CLOCK_REALTIME) / 1000;
}

int64_t cs_mono_ms(void)
{
    return now_us(CLOCK_MONOTONIC) / 1000;
}

int64_t cs_mono_us(void)
{
    return now_us(CLOCK_MONOTONIC);
}

void cs_clock_override(int64_t (*now)(void))
{
    atomic_store_explicit(&override, now, memory_order_relaxed);
}

static char *put_digits(char *out, int64_t value, int digits)
{
    for (int i = digits - 1; i >= 0; i--) {
        out[i] = (char)('0' + value % 10);
        value /= 10;
    }
    return out + digits;
}

/* gmtime_r takes glibc's time zone lock; this runs for every message. The calendar is counted in
 * years that begin in March, so that the leap day comes last. */
void cs_clock_iso(int64_t wall_ms, char out[CS_ISO_MAX])
{
    const int64_t day_ms = 86400000;
    const int64_t first = -62167219200000; /* 0000-01-01 */
    const int64_t last = 253402300799999;  /* 9999-12-31T23:59:59.999 */
    if (wall_ms < first)
        wall_ms = first;
    if (wall_ms > last)
        wall_ms = last;
    int64_t of_day = (wall_ms % day_ms + day_ms) % day_ms;
    int64_t days = (wall_ms - of_day) / day_ms + 719468 + 146097; /* since -0400-03-01 */
    int64_t era = days / 146097;
    int64_t of_era = days % 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t month = (5 * of_year + 2) / 153;
    int64_t day = of_year - (153 * month + 2) / 5 + 1;
    year += (era - 1) * 400 + (month >= 10);
    month = month < 10 ? month + 3 : month - 9;

    char *at = put_digits(out, year, 4);
    *at++ = '-';
    at = put_digits(at, month, 2);
    *at++ = '-';
    at = put_digits(at, day, 2);
    *at++ = 'T';
    at = put_digits(at, of_day / 3600000, 2);
    *at++ = ':';
    at = put_digits(at, of_day / 60000 % 60, 2);
    *at++ = ':';
    at = put_digits(at, of_day / 1000 % 60, 2);
    *at++ = '.';
    at = put_digits(at, of_day % 1000, 3);
    *at++ = 'Z';
    *at = '\0';
}

int64_t cs_hlc_next(int64_t seen, int64_t wall_ms)
{
    const int64_t wall_max = INT64_MAX >> 16;
    int64_t wall = wall_ms < 0 ? 0 : wall_ms > wall_max ? wall_max : wall_ms;
    int64_t next = seen < INT64_MAX ? seen + 1 : seen;
    return next > wall * 65536 ? next : wall * 65536;
}
