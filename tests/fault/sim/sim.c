/* sim FROM TO [MUTANT] [-v] [-wFILE]: seeds FROM … TO-1 against a private redis-server; prints
 * those that fail (-v: with their story; -w: all requests and replies) and what happened. A mutant
 * is a fault that is put in on purpose: a seed must then fail. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cs/base/log.h"

#define ROUNDS 3 /* after which all agree */

/* ---- in the middle of a request ---- */

static void others_write(struct host *other)
{
    user_append(other);
    (void)host_step(other, false);
}

static void others_delete(struct host *other)
{
    user_delete(other);
    (void)host_step(other, false);
}

static void others_step(struct host *other)
{
    (void)host_step(other, false);
}

/* The sender's own users do not wait for its requests. */
static void own_users(struct host *sender)
{
    int dice = sim_below(100);

    if (dice < 35)
        user_append(sender);
    else if (dice < 85)
        user_delete(sender);
    else
        user_restore(sender);
}

/* A replica that has seen nothing of what comes now will take over soon. */
static void fail_over_soon(void)
{
    if (sim.failover_in > 0)
        return;
    server_snapshot(SLOT_REPLICA);
    sim.failover_in = sim_chance(50) ? 1 : 2 + sim_below(5);
}

/* The session that a request names first. */
static int aim_of(const char *data, size_t len)
{
    static const char key[] = "codex:session:";
    const char *at = memmem(data, len, key, sizeof key - 1);
    char sid[CS_UUID_MAX] = "";

    for (size_t i = 0; at != NULL && i + 1 < sizeof sid; i++) {
        const char *c = at + sizeof key - 1 + i;

        if (c >= data + len || *c == '\r')
            break;
        sid[i] = *c;
    }
    return at != NULL ? session_number(sid) : -1;
}

void sim_interfere(struct host *sender, const char *data, size_t len)
{
    struct host *other = &sim.hosts[sim_below(sim.host_count)];
    bool script = memmem(data, len, "\r\nEVAL", 6) != NULL;
    int dice = sim_below(100);

    if (!sim.hooks || sim.nested > 0 || !sim_chance(script ? 35 : 15))
        return;
    sim.nested++;
    sim.sender = sender;
    sim.aim = aim_of(data, len);
    count(COUNT_BETWEEN);
    if (dice < 30 && other != sender)
        others_write(other);
    else if (dice < 40 && other != sender)
        others_step(other);
    else if (dice < 48 && other != sender)
        others_delete(other);
    else if (dice < 65)
        own_users(sender);
    else if (dice < 68)
        server_flush();
    else if (dice < 76)
        (void)server_roll_back(SLOT_SNAPSHOT);
    else if (dice < 86)
        fail_over_soon();
    else if (dice < 92)
        plain_edit();
    else if (dice < 94)
        server_delete_key();
    sim.sender = NULL;
    sim.aim = -1;
    sim.nested--;
}

/* ---- steps ---- */

static void step(struct host *host)
{
    (void)host_step(host, false);
}

static void full(struct host *host)
{
    (void)host_step(host, true);
}

static void partition(struct host *host)
{
    host->down = !host->down;
    count(COUNT_PARTITIONS);
}

static void flaky(struct host *host)
{
    static const int flakiness[] = {0, 0, 20, 60};

    host->flaky = flakiness[sim_below(4)];
}

/* A request arrives long after its sender gave up. */
static void late(struct host *host)
{
    if (host->zombie_count == 0)
        return;
    size_t i = (size_t)sim_below((int)host->zombie_count);

    sim_execute(&host->zombies[i]);
    request_free(&host->zombies[i]);
    host->zombies[i] = host->zombies[--host->zombie_count];
    host->zombies[host->zombie_count] = (struct request){NULL, 0};
    count(COUNT_LATE);
}

static void repeat(struct host *host)
{
    sim_execute(&host->last);
    count(COUNT_REPEATED);
}

static void flush(struct host *host)
{
    (void)host;
    server_flush();
}

static void delete_key(struct host *host)
{
    (void)host;
    server_delete_key();
}

static void snapshot(struct host *host)
{
    (void)host;
    server_snapshot(SLOT_SNAPSHOT);
}

static void roll_back(struct host *host)
{
    (void)host;
    (void)server_roll_back(SLOT_SNAPSHOT);
}

static void edit(struct host *host)
{
    (void)host;
    plain_edit();
}

static void write_late(struct host *host)
{
    (void)host;
    plain_write_late();
}

static void backup(struct host *host)
{
    host_take(host, &host->backup);
}

static void restore_backup(struct host *host)
{
    host_put_back(host, &host->backup, false);
}

static void take_machine(struct host *host)
{
    host_take(host, &host->machine);
}

static void roll_machine(struct host *host)
{
    host_put_back(host, &host->machine, true);
}

static void set_clock(struct host *host)
{
    static const int64_t skews[] = {0, -90000, 3600000, -7200000, 86400000};

    host->skew = skews[sim_below(5)];
    host->clock_set = true;
    count(COUNT_CLOCKS_SET);
}

/* Time passes, and sweepers wake. */
static void pass(int64_t us)
{
    world_wait(us);
    for (int h = 0; h < sim.host_count && us >= 60000000; h++)
        host_sweep(&sim.hosts[h]);
}

static void idle(struct host *host)
{
    (void)host;
    pass((int64_t)(20 + sim_below(60)) * 60000000);
    count(COUNT_HOURS);
}

static void heal(void)
{
    sim.hooks = false;
    sim.failover_in = 0;
    for (int h = 0; h < sim.host_count; h++) {
        sim.hosts[h].down = false;
        sim.hosts[h].flaky = 0;
    }
}

static void rounds(int n, bool all)
{
    for (int i = 0; i < n; i++)
        for (int h = 0; h < sim.host_count; h++) {
            if (!host_step(&sim.hosts[h], all))
                sim_fail("11: host %d cannot sync on a good network", h);
            host_sweep(&sim.hosts[h]);
        }
}

/* The network is well again, and nobody does anything. */
static void calm(struct host *host)
{
    (void)host;
    count(COUNT_CALMS);
    heal();
    world_settle();
    for (int h = 0; h < sim.host_count; h++)
        check_offers(&sim.hosts[h]);
    rounds(ROUNDS - 1, false);
    check_calm();
    rounds(2, true);
    truth_compared();
    sim.hooks = true;
}

static const struct {
    int weight;
    const char *name;
    void (*act)(struct host *host);
} steps[] = {
    {30, "append", user_append},
    {26, "step", step},
    {4, "full", full},
    {3, "delete", user_delete},
    {2, "return", user_restore},
    {3, "read", user_read},
    {5, "turn", user_turn},
    {1, "sweep", host_sweep},
    {7, "partition", partition},
    {5, "flaky", flaky},
    {4, "late request", late},
    {2, "repeated request", repeat},
    {2, "flush", flush},
    {3, "delete key", delete_key},
    {2, "snapshot", snapshot},
    {2, "rollback", roll_back},
    {2, "plain edit", edit},
    {1, "plain write", write_late},
    {2, "crash", host_restart},
    {2, "backup", backup},
    {1, "restore", restore_backup},
    {2, "image", take_machine},
    {1, "machine rollback", roll_machine},
    {1, "clock", set_clock},
    {2, "idle", idle},
    {3, "calm", calm},
};

static size_t choose(void)
{
    size_t i = 0;
    int total = 0, dice;

    for (size_t k = 0; k < sizeof steps / sizeof *steps; k++)
        total += steps[k].weight;
    for (dice = sim_below(total); dice >= steps[i].weight; i++)
        dice -= steps[i].weight;
    return i;
}

/* ---- a run ---- */

static void finish(void)
{
    uint64_t before;

    (void)snprintf(sim.step, sizeof sim.step, "end");
    heal();
    for (int h = 0; h < sim.host_count; h++)
        while (sim.hosts[h].zombie_count > 0)
            late(&sim.hosts[h]);
    for (int h = 0; h < sim.host_count; h++)
        if (sim.hosts[h].turn.id != 0)
            user_turn(&sim.hosts[h]);
    world_settle();
    rounds(ROUNDS, true);
    for (int u = 0; u < USERS; u++) /* the next session of a user tidies the set up */
        user_begin(&sim.hosts[0], u);
    rounds(ROUNDS, true);
    truth_compared();
    check_step();
    if (user_asks_for_orphans(&sim.hosts[0]))
        rounds(ROUNDS, true);
    check_end();
    before = server_digest();
    rounds(1, true); /* 11: and then it is over */
    if (before != server_digest())
        sim_fail("11: the hosts find no rest");
    for (int h = 0; h < sim.host_count; h++) { /* 10 */
        sim_execute(&sim.hosts[h].last);
        check_step();
    }
}

static bool run_seed(uint64_t seed)
{
    static const int64_t leaps_ms[] = {1, 5, 400, 60000};
    static const int limits[] = {4, 4, 4, 0};

    world_begin(seed);
    server_reset();
    check_begin();
    plain_forget();
    sim.limits[0] = limits[sim_below(4)];
    sim.limits[1] = 3;
    sim.host_count = 2 + sim_below(3);
    for (int h = 0; h < sim.host_count; h++)
        host_new(&sim.hosts[h], h);
    sim.hooks = true;
    int total = 60 + sim_below(160);

    for (sim.step_no = 0; sim.step_no < total && !sim.broken; sim.step_no++) {
        struct host *host = &sim.hosts[sim_below(sim.host_count)];
        size_t chosen = choose();

        pass(leaps_ms[sim_below(4)] * 1000);
        (void)snprintf(sim.step, sizeof sim.step, "%s %d", steps[chosen].name, host->index);
        if (sim.talk)
            (void)fprintf(story, "    %d %s\n", sim.step_no, sim.step);
        steps[chosen].act(host);
        check_step();
        count(COUNT_STEPS);
    }
    if (!sim.broken)
        finish();
    for (int h = 0; h < sim.host_count; h++)
        host_free(&sim.hosts[h]);
    return !sim.broken;
}

/* The story of a seed that fails is shown. */
static bool tell_seed(uint64_t seed)
{
    char *text = NULL;
    size_t len = 0;
    bool passed;

    story = open_memstream(&text, &len);
    if (story == NULL)
        abort();
    passed = run_seed(seed);
    (void)fclose(story);
    if (!passed && sim.talk)
        (void)fwrite(text, 1, len, stdout);
    free(text);
    if (!passed)
        printf("seed %llu failed\n", (unsigned long long)seed);
    return passed;
}

int main(int argc, char **argv)
{
    uint64_t from, to, failed = 0, digest = 0;
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

    if (argc < 3) {
        (void)fprintf(stderr, "usage: sim FROM TO [MUTANT] [-v] [-wFILE]\n");
        return 2;
    }
    from = strtoull(argv[1], NULL, 10);
    to = strtoull(argv[2], NULL, 10);
    for (int i = 3; i < argc; i++) {
        if (strcmp(argv[i], "-v") == 0)
            sim.talk = true;
        else if (strncmp(argv[i], "-w", 2) == 0)
            sim.wire = fopen(argv[i] + 2, "we");
        else
            mutant = argv[i];
    }
    (void)snprintf(sim.dir, sizeof sim.dir, "%s/cs-sim-XXXXXX", base);
    if (mkdtemp(sim.dir) == NULL)
        return 2;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    cs_log_set_level(CS_LOG_ERROR);
    server_start();
    for (uint64_t seed = from; seed < to && (failed == 0 || mutant[0] == '\0'); seed++) {
        failed += !tell_seed(seed);
        digest = digest * 31 + sim.digest;
    }
    server_reset();
    plain_forget();
    check_begin();
    server_stop();
    if (sim.wire != NULL)
        (void)fclose(sim.wire);
    run_command("rm -rf %s", sim.dir);
    if (!mutant_met())
        printf("no script has the text that %s changes\n", mutant);
    counts_print();
    printf("%s: seeds %llu to %llu, %llu failed, digest %016llx\n",
           mutant[0] != '\0' ? mutant : "product", (unsigned long long)from, (unsigned long long)to,
           (unsigned long long)failed, (unsigned long long)digest);
    return failed > 0 ? 1 : 0;
}
