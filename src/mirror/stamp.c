/* mirror/stamp: Redis' clock, and what is believed of stamps.
 *
 * Expiry and eviction go by the clock of Redis, and every stamp was taken from it. One that is
 * ahead of it was written by somebody else, or by a Redis whose clock was wrong.
 */
#include <stdlib.h>

#include "mirror_priv.h"

#define AHEAD_MS 60000 /* more than that is not believed */
#define ASKED_MS 1000  /* Redis need not be asked again for so long */

enum cs_status cs_ask_time(struct cs_mirror *mirror, struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    int64_t seconds, micros;
    enum cs_status rc = cs_redis_call(mirror->redis, cs_op_deadline(), &reply, err, "TIME", NULL);

    if (rc != CS_OK)
        return rc;
    seconds = cs_reply_int(cs_reply_at(reply, 0), 0);
    micros = cs_reply_int(cs_reply_at(reply, 1), 0);
    cs_reply_free(reply);
    if (seconds <= 0 || seconds > INT64_MAX / 2000000)
        return cs_err_set(err, CS_CORRUPT, "redis_protocol", "Redis has no usable clock");
    mirror->asked_at = cs_clock_ms();
    mirror->skew_ms = seconds * 1000 + micros / 1000 - mirror->asked_at;
    pthread_mutex_lock(&mirror->mutex);
    mirror->figures.skew_ms = mirror->skew_ms;
    pthread_mutex_unlock(&mirror->mutex);
    return CS_OK;
}

int64_t cs_local_ms(const struct cs_mirror *mirror, int64_t stamp)
{
    return stamp / 1000 - mirror->skew_ms;
}

int64_t cs_entry_stamp(const char *id)
{
    char *rest = NULL;
    int64_t ms = strtoll(id, &rest, 10), n = *rest == '-' ? strtoll(rest + 1, NULL, 10) : 0;

    if (ms < 0 || ms > INT64_MAX / 2000)
        return 0;
    return ms * 1000 + (n < 0 ? 0 : n > 999 ? 999 : n);
}

static bool is_ahead(const struct cs_mirror *mirror, int64_t stamp)
{
    return cs_local_ms(mirror, stamp) > cs_clock_ms() + AHEAD_MS;
}

/* Our clock may have been set since it was compared with that of Redis. */
static bool may_ask(const struct cs_mirror *mirror)
{
    int64_t since = cs_clock_ms() - mirror->asked_at;

    return (since < 0 || since > ASKED_MS) && cs_redis_connected(mirror->redis) &&
           cs_redis_owed(mirror->redis) == 0;
}

enum cs_status cs_believe(struct cs_mirror *mirror, int64_t *stamp, struct cs_err *err)
{
    enum cs_status rc = CS_OK;

    if (is_ahead(mirror, *stamp) && may_ask(mirror))
        rc = cs_ask_time(mirror, err);
    if (rc == CS_OK && is_ahead(mirror, *stamp))
        *stamp = (cs_clock_ms() + mirror->skew_ms) * 1000;
    return rc;
}
