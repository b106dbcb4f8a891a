#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/base/clock.h"
#include "cs/base/thread.h"
#include "fault.h"

struct seen {
    char name[16];
    size_t stack;
    bool term_blocked;
};

static void *look(void *arg)
{
    struct seen *seen = arg;
    (void)pthread_getname_np(pthread_self(), seen->name, sizeof seen->name);
    pthread_attr_t attr;
    if (pthread_getattr_np(pthread_self(), &attr) == 0) {
        (void)pthread_attr_getstacksize(&attr, &seen->stack);
        (void)pthread_attr_destroy(&attr);
    }
    sigset_t mask;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &mask);
    seen->term_blocked = sigismember(&mask, SIGTERM) == 1;
    return arg;
}

static void a_thread_has_its_name_stack_and_mask(void **state)
{
    (void)state;
    struct seen seen = {0};
    pthread_t thread;
    assert_int_equal(cs_thread_start(&thread, "a-very-long-thread-name", 300001, look, &seen, NULL),
                     CS_OK);
    void *result = NULL;
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_ptr_equal(result, &seen);
    assert_string_equal(seen.name, "a-very-long-thr");
    assert_in_range(seen.stack, 300001, 300001 + 65536);
    assert_true(seen.term_blocked);
    sigset_t mask;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &mask);
    assert_int_equal(sigismember(&mask, SIGTERM), 0);
}

/* What the frames of a long way left behind. */
static __attribute__((noinline)) void dive(uintptr_t *out_at)
{
    volatile char deep[65536];
    for (size_t i = 0; i < sizeof deep; i++)
        deep[i] = 1;
    *out_at = (uintptr_t)&deep[sizeof deep / 4];
}

static bool is_resident(uintptr_t at)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char seen = 0;
    assert_int_equal(mincore((char *)(at / page * page), 1, &seen), 0);
    return (seen & 1) != 0;
}

static void *dive_and_release(void *arg)
{
    bool *resident = arg;
    volatile char kept[20000];
    for (size_t i = 0; i < sizeof kept; i++)
        kept[i] = (char)i;
    uintptr_t deep = 0;
    dive(&deep);
    resident[0] = is_resident(deep);
    cs_stack_release();
    resident[1] = is_resident(deep);
    for (size_t i = 0; i < sizeof kept; i++)
        resident[2] = resident[2] || kept[i] != (char)i;
    return arg;
}

static void a_stack_that_is_not_needed_is_given_back(void **state)
{
    (void)state;
    bool resident[3] = {false, true, false}; /* before, after; the last: what is in use changed */
    pthread_t thread;
    assert_int_equal(cs_thread_start(&thread, "diver", 262144, dive_and_release, resident, NULL),
                     CS_OK);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(resident[0]);
    assert_false(resident[1]);
    assert_false(resident[2]);
    cs_stack_release(); /* of the first thread: nothing */
}

static void a_stack_that_is_too_small_is_raised(void **state)
{
    (void)state;
    struct seen seen = {0};
    pthread_t thread;
    assert_int_equal(cs_thread_start(&thread, "tiny", 1, look, &seen, NULL), CS_OK);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(seen.stack >= 16384);
}

static void an_impossible_stack_is_an_error(void **state)
{
    (void)state;
    pthread_t thread;
    struct cs_err err = {0};
    assert_int_not_equal(cs_thread_start(&thread, "huge", (size_t)1 << 50, look, NULL, &err),
                         CS_OK);
    assert_int_not_equal(err.status, CS_OK);
}

static void start_one(void *arg)
{
    struct seen seen = {0};
    (void)arg;
    pthread_t thread;
    enum cs_status status = cs_thread_start(&thread, "t", 65536, look, &seen, NULL);
    assert_int_equal(status, fault_hit() ? CS_NO_MEM : CS_OK);
    if (status == CS_OK)
        (void)pthread_join(thread, NULL);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    assert_int_equal(fault_sweep(start_one, NULL), 1);
}

static void a_wait_ends_at_its_deadline(void **state)
{
    (void)state;
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond;
    assert_int_equal(cs_cond_init(&cond, NULL), CS_OK);
    (void)pthread_mutex_lock(&mutex);
    int64_t deadline = cs_mono_ms() + 30;
    while (cs_cond_wait(&cond, &mutex, deadline))
        ;
    assert_true(cs_mono_ms() >= deadline);
    assert_true(cs_mono_ms() < deadline + 5000);
    assert_false(cs_cond_wait(&cond, &mutex, deadline - 1000));
    assert_false(cs_cond_wait(&cond, &mutex, -1));
    (void)pthread_mutex_unlock(&mutex);
    (void)pthread_cond_destroy(&cond);
}

struct meeting {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool here;
};

static void *arrive(void *arg)
{
    struct meeting *meeting = arg;
    (void)pthread_mutex_lock(&meeting->mutex);
    meeting->here = true;
    (void)pthread_cond_signal(&meeting->cond);
    (void)pthread_mutex_unlock(&meeting->mutex);
    return NULL;
}

static void a_wait_without_end_is_ended_by_a_signal(void **state)
{
    (void)state;
    static const int64_t deadlines[] = {CS_NEVER, CS_NEVER - 1};
    for (size_t i = 0; i < 2; i++) {
        struct meeting meeting = {.mutex = PTHREAD_MUTEX_INITIALIZER};
        assert_int_equal(cs_cond_init(&meeting.cond, NULL), CS_OK);
        (void)pthread_mutex_lock(&meeting.mutex);
        pthread_t thread;
        assert_int_equal(cs_thread_start(&thread, "guest", 65536, arrive, &meeting, NULL), CS_OK);
        while (!meeting.here)
            assert_true(cs_cond_wait(&meeting.cond, &meeting.mutex, deadlines[i]));
        (void)pthread_mutex_unlock(&meeting.mutex);
        (void)pthread_join(thread, NULL);
        (void)pthread_cond_destroy(&meeting.cond);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thread_has_its_name_stack_and_mask),
        cmocka_unit_test(a_stack_that_is_not_needed_is_given_back),
        cmocka_unit_test(a_stack_that_is_too_small_is_raised),
        cmocka_unit_test(an_impossible_stack_is_an_error),
        cmocka_unit_test(every_failed_allocation_is_reported),
        cmocka_unit_test(a_wait_ends_at_its_deadline),
        cmocka_unit_test(a_wait_without_end_is_ended_by_a_signal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
