/* api/alarm: a deadline for reads that have none. */
#include <string.h>
#include <unistd.h>

#include "priv.h"

#define REPEAT_MS 20 /* a signal that comes between two polls is lost: send it again */

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* Its arrival is all that counts: poll(2) returns EINTR. */
static void wake(int signo)
{
    (void)signo;
}

enum cs_status cs_alarm_install(struct cs_err *err)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = wake;
    if (sigaction(SIGRTMIN, &action, NULL) != 0)
        return cs_err_set(err, CS_INTERNAL, NULL, "could not install the read alarm");
    return CS_OK;
}

void cs_alarm_unblock(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

enum cs_status cs_alarm_start(struct cs_alarm *alarm, int64_t ms, struct cs_err *err)
{
    struct sigevent event;
    struct itimerspec when = {
        .it_value = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000},
        .it_interval = {.tv_nsec = REPEAT_MS * 1000000L},
    };

    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGRTMIN;
    event.sigev_notify_thread_id = gettid();
    if (timer_create(CLOCK_MONOTONIC, &event, &alarm->timer) != 0)
        return cs_err_set(err, CS_BUSY, "too_many_requests", "Too many requests are being read");
    if (timer_settime(alarm->timer, 0, &when, NULL) != 0) {
        (void)timer_delete(alarm->timer);
        return cs_err_set(err, CS_INTERNAL, NULL, "could not set the read alarm");
    }
    return CS_OK;
}

void cs_alarm_stop(struct cs_alarm *alarm)
{
    (void)timer_delete(alarm->timer);
}
