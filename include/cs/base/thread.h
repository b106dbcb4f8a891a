/* base/thread: condition variables on monotonic time, and threads of a known stack size.
 *
 * Layer: base.
 */
#ifndef CS_BASE_THREAD_H
#define CS_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/err.h"

/** Initialise @cond to wait on CLOCK_MONOTONIC. */
CS_MUST_USE enum cs_status cs_cond_init(pthread_cond_t *cond, struct cs_err *err);

/** Wait with @mutex held until signalled or until @deadline (cs_mono_ms(); CS_NEVER waits on).
 * Returns false only when the deadline has passed. Spurious wake-ups happen: loop over the
 * condition. */
bool cs_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline);

/** Start a named thread (at most 15 characters are shown) with @stack bytes of stack and all
 * signals blocked. */
CS_MUST_USE enum cs_status cs_thread_start(pthread_t *out_thread, const char *name, size_t stack,
                                           void *(*run)(void *), void *arg, struct cs_err *err);

/** Give back the memory of this thread's stack that lies below the caller: before a long wait. */
void cs_stack_release(void);

#endif
