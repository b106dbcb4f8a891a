/* Failing allocations for unit tests.
 *
 * Linked into every unit test: malloc, calloc, realloc, strdup, strndup, asprintf and vasprintf of
 * our own code (not of shared libraries) pass through here. While nothing is armed they work as
 * ever.
 *
 *     static void run(void *arg) { … must stand any one failure, and leak nothing … }
 *     assert_true(fault_sweep(run, arg) > 0);
 */
#ifndef TESTS_SUPPORT_FAULT_H
#define TESTS_SUPPORT_FAULT_H

#include <stdbool.h>

/** Let the @nth allocation from now on fail, once, in whichever thread makes it. */
void fault_arm(long nth);
/** Let no allocation fail. Returns whether one has failed since fault_arm(). */
bool fault_disarm(void);
/** Whether the armed allocation has failed already. */
bool fault_hit(void);
/** Count one allocation of an allocator that is not wrapped (sqlite3_mem_methods); true: let it
 * fail. */
bool fault_take(void);

/** Call @run with its first allocation failing, then its second, …, until one call makes fewer.
 * Returns the number of failures. @run may call fault_hit() to tell what to expect, and
 * fault_disarm() before it checks that things work again. */
long fault_sweep(void (*run)(void *arg), void *arg);

#endif
