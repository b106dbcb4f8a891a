/* Chance, time, and the story. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cs/base/clock.h"
#include "sim.h"

struct sim sim;
const char *const users[USERS] = {"U", "V"};
FILE *story;

static struct host *current; /* whose clock is read */
static uint64_t counts[COUNTS];

/* ---- chance ---- */

uint64_t sim_random(void)
{
    sim.random ^= sim.random << 13;
    sim.random ^= sim.random >> 7;
    sim.random ^= sim.random << 17;
    return sim.random;
}

int sim_below(int n)
{
    return (int)(sim_random() % (uint64_t)n);
}

bool sim_chance(int percent)
{
    return sim_below(100) < percent;
}

enum cs_status __wrap_cs_random(void *out, size_t len, struct cs_err *err);
enum cs_status __wrap_cs_random(void *out, size_t len, struct cs_err *err)
{
    unsigned char *to = out;

    (void)err;
    for (size_t i = 0; i < len; i++)
        to[i] = (unsigned char)(sim_random() >> 24);
    return CS_OK;
}

/* ---- time ---- */

void world_wait(int64_t us)
{
    sim.now_us += us;
    *sim.clock = sim.now_us;
}

/* What waits for company goes alone now: a prompt does not wait longer for its answer. */
void world_settle(void)
{
    world_wait(31000000);
    sim.settled_us += 31000000;
}

static int64_t host_ms(void)
{
    return sim.now_us / 1000 + (current != NULL ? current->skew : 0);
}

int __wrap_clock_gettime(clockid_t id, struct timespec *out);
int __wrap_clock_gettime(clockid_t id, struct timespec *out)
{
    static const int64_t start_us = INT64_C(1000000000);
    bool stands = id == CLOCK_MONOTONIC && !sim.timers;
    int64_t us =
        stands ? start_us + sim.settled_us : sim.now_us - INT64_C(1755000000000000) + start_us;

    out->tv_sec = us / 1000000;
    out->tv_nsec = us % 1000000 * 1000;
    return 0;
}

void host_enter(struct host *host, struct host **out_was)
{
    *out_was = current;
    current = host;
    if (host != NULL)
        host->touched = host->acted = true;
}

void host_leave(struct host *was)
{
    current = was;
}

void world_begin(uint64_t seed)
{
    cs_clock_override(host_ms);
    current = NULL;
    sim.random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (int i = 0; i < 16; i++)
        (void)sim_random();
    sim.now_us = *sim.clock = INT64_C(1755000000000000);
    sim.digest = UINT64_C(0xcbf29ce484222325);
    sim.timers = sim_chance(50);
    sim.broken = sim.hooks = sim.machine_rolled = false;
    sim.nested = sim.failover_in = sim.serial = sim.step_no = 0;
    sim.losses = 0;
    sim.settled_us = 0;
    sim.aim = -1;
}

/* ---- the story ---- */

void world_note(const void *data, size_t len)
{
    const unsigned char *bytes = data;

    if (sim.wire != NULL) {
        (void)fprintf(sim.wire, "\n== %d %s %lld\n", sim.step_no, sim.step, (long long)sim.now_us);
        (void)fwrite(data, 1, len, sim.wire);
    }
    for (size_t i = 0; i < len; i++)
        sim.digest = (sim.digest ^ bytes[i]) * UINT64_C(0x100000001b3);
}

void sim_fail(const char *fmt, ...)
{
    va_list args;

    sim.broken = true;
    va_start(args, fmt);
    (void)fprintf(story, "  step %d (%s): ", sim.step_no, sim.step);
    (void)vfprintf(story, fmt, args);
    (void)fprintf(story, "\n");
    va_end(args);
}

void talk(const char *fmt, ...)
{
    va_list args;

    if (!sim.talk)
        return;
    va_start(args, fmt);
    (void)fprintf(story, "    %d ", sim.step_no);
    (void)vfprintf(story, fmt, args);
    (void)fprintf(story, "\n");
    va_end(args);
}

void count(enum count what)
{
    counts[what]++;
}

void counts_print(void)
{
    static const char *const names[COUNTS] = {
        [COUNT_STEPS] = "steps",
        [COUNT_APPENDS] = "appends",
        [COUNT_MESSAGES] = "messages",
        [COUNT_DELETES] = "deletions",
        [COUNT_RESTORES] = "returns from the archive",
        [COUNT_TURNS] = "turns",
        [COUNT_BUSY] = "turns refused as busy",
        [COUNT_READS] = "reads",
        [COUNT_REQUESTS] = "requests",
        [COUNT_LOST] = "requests lost",
        [COUNT_UNANSWERED] = "replies lost",
        [COUNT_LATE] = "requests executed late",
        [COUNT_REPEATED] = "requests repeated",
        [COUNT_BETWEEN] = "acts during a request",
        [COUNT_PARTITIONS] = "partitions",
        [COUNT_FLUSHES] = "wipes of Redis",
        [COUNT_KEYS_LOST] = "keys lost",
        [COUNT_ROLLBACKS] = "rollbacks of Redis",
        [COUNT_FAILOVERS] = "failovers to a replica that lags",
        [COUNT_PLAIN] = "plain writes",
        [COUNT_RESTARTS] = "crashes",
        [COUNT_BACKUPS_RESTORED] = "backups restored",
        [COUNT_MACHINES_ROLLED] = "running machines rolled back",
        [COUNT_CLOCKS_SET] = "clocks set",
        [COUNT_HOURS] = "long idle times",
        [COUNT_CALMS] = "calm phases",
    };

    for (int i = 0; i < COUNTS; i++)
        printf("%s%llu %s", i > 0 ? ", " : "", (unsigned long long)counts[i], names[i]);
    printf("\n");
}

void run_command(const char *fmt, ...)
{
    char command[1000];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(command, sizeof command, fmt, args);
    va_end(args);
    if (system(command) != 0) /* NOLINT: names made here */
        abort();
}

void request_free(struct request *request)
{
    free(request->data);
    *request = (struct request){NULL, 0};
}

void request_keep(struct request *slot, const void *data, size_t len)
{
    request_free(slot);
    slot->data = malloc(len + 1);
    if (slot->data == NULL)
        abort();
    memcpy(slot->data, data, len);
    slot->len = len;
}
