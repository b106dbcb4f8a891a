/* mirror/backoff: how long to wait before the next try. */
#include "cs/mirror/redis.h"

/* The window of the n-th wait is from `least` to `first` · 2ⁿ, at most `most` milliseconds. */
struct rule {
    int64_t least, first, most;
};

static const struct rule rules[] = {
    [CS_REDIS_FINE] = {0, 0, 0},
    [CS_REDIS_LOST] = {0, 500, 60000},
    [CS_REDIS_DENIED] = {300000, 900000, 900000},
    [CS_REDIS_READONLY] = {0, 500, 60000},
    [CS_REDIS_FULL] = {0, 1000, 900000},
    [CS_REDIS_LARGE] = {0, 0, 0},
    [CS_REDIS_NOSCRIPT] = {0, 0, 0},
    [CS_REDIS_REFUSED] = {0, 0, 0},
    [CS_REDIS_STOPPED] = {0, 0, 0},
};

/* splitmix64 */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

void cs_backoff_init(struct cs_backoff *backoff, uint64_t seed)
{
    *backoff = (struct cs_backoff){.random = seed};
}

int64_t cs_backoff_next(struct cs_backoff *backoff, enum cs_redis_class class)
{
    const struct rule *rule = &rules[class];
    if (rule->most == 0)
        return 0;
    /* A failover goes back and forth between LOST and READONLY: one row of failures. */
    enum cs_redis_class row = class == CS_REDIS_READONLY ? CS_REDIS_LOST : class;
    if (row != backoff->last)
        backoff->tries = 0;
    backoff->last = row;
    int64_t window = rule->first;
    for (unsigned i = 0; i < backoff->tries && window < rule->most; i++)
        window *= 2;
    if (window > rule->most)
        window = rule->most;
    backoff->tries++;
    uint64_t span = (uint64_t)(window - rule->least) + 1;
    return rule->least + (int64_t)(random_next(&backoff->random) % span);
}

void cs_backoff_reset(struct cs_backoff *backoff)
{
    backoff->tries = 0;
    backoff->last = CS_REDIS_FINE;
}
