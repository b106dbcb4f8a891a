/* base/clock: wall time, monotonic time, and hybrid logical clocks.
 *
 * Layer: base. Any thread. Wall time is milliseconds since 1970 (UTC), monotonic time milliseconds
 * since some start; deadlines are always monotonic.
 */
#ifndef CS_BASE_CLOCK_H
#define CS_BASE_CLOCK_H

#include <stdint.h>

/** Room for "2026-11-22T09:46:00.123Z" and its NUL. */
#define CS_ISO_MAX 25

/** A deadline that never comes. */
#define CS_NEVER INT64_MAX

int64_t cs_clock_ms(void); /* wall */
int64_t cs_mono_ms(void);  /* monotonic */
int64_t cs_mono_us(void);

/** ISO 8601 in UTC with milliseconds. */
void cs_clock_iso(int64_t wall_ms, char out[CS_ISO_MAX]);

/** Tests only: let cs_clock_ms() answer @now(); NULL restores the real clock. */
void cs_clock_override(int64_t (*now)(void));

/** The hybrid logical clock after one that has seen @seen: max(@seen + 1, @wall_ms << 16). The low
 * 16 bits count events within a millisecond. */
int64_t cs_hlc_next(int64_t seen, int64_t wall_ms);

#endif
