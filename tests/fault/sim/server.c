/* Redis: a real server with the clock of the simulation, and how it loses data. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "sim.h"

#define ADMIN_MS 20000

static pid_t server;

/* ---- the process ---- */

/* The library that gives the server its clock stands beside this program. */
static void preload(char *out, size_t size)
{
    char self[500];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash;

    self[len > 0 ? len : 0] = '\0';
    slash = strrchr(self, '/');
    if (slash == NULL)
        abort();
    *slash = '\0';
    (void)snprintf(out, size, "%s/redis_clock.so", self);
}

static void run_server(const char *socket, const char *clock)
{
    char library[600], log[200];

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* not to outlive a simulation that is killed */
    preload(library, sizeof library);
    (void)snprintf(log, sizeof log, "%s/redis.log", sim.dir);
    (void)setenv("LD_PRELOAD", library, 1);
    (void)setenv("REDIS_CLOCK", clock, 1);
    execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", socket, "--save", "",
           "--appendonly", "no", "--stream-node-max-entries", "8", "--logfile", log, "--dir",
           sim.dir, (char *)NULL);
    _exit(127);
}

static void make_clock(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, sizeof *sim.clock) != 0)
        abort();
    sim.clock = mmap(NULL, sizeof *sim.clock, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (sim.clock == MAP_FAILED)
        abort();
    (void)close(fd);
    *sim.clock = sim.now_us = INT64_C(1755000000000000);
}

void server_start(void)
{
    char path[200], clock[200];
    struct cs_err err = {0};

    (void)snprintf(path, sizeof path, "%s/redis.sock", sim.dir);
    (void)snprintf(clock, sizeof clock, "%s/clock", sim.dir);
    make_clock(clock);
    server = fork();
    if (server == 0)
        run_server(path, clock);
    sim.endpoint = (struct cs_redis_endpoint){.scheme = CS_REDIS_UNIX, .path = strdup(path)};
    sim.redis = (struct cs_redis_options){.endpoint = &sim.endpoint};
    if (cs_redis_new(&sim.redis, &sim.admin, &err) != CS_OK)
        abort();
    for (int tries = 0; tries < 500; tries++) {
        cs_err_clear(&err);
        if (cs_redis_connect(sim.admin, cs_mono_ms() + ADMIN_MS, &err) == CS_OK)
            return;
        (void)usleep(20000);
    }
    (void)fprintf(stderr, "sim: no redis-server: %s\n", err.msg);
    exit(2);
}

void server_stop(void)
{
    cs_redis_free(sim.admin);
    (void)kill(server, SIGKILL);
    (void)waitpid(server, NULL, 0);
    free(sim.endpoint.path);
    (void)munmap(sim.clock, sizeof *sim.clock);
}

/* ---- asking ---- */

struct cs_reply *server_ask(const char *a, const char *b, const char *c, const char *d)
{
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};

    if (cs_redis_call(sim.admin, cs_mono_ms() + ADMIN_MS, &reply, &err, a, b, c, d, NULL) !=
        CS_OK) {
        (void)fprintf(stderr, "sim: %s: %s\n", a, err.msg);
        abort();
    }
    return reply;
}

struct cs_reply *server_state(void)
{
    return server_ask("EVAL",
                      "local out, keys = {}, redis.call('KEYS', '*') "
                      "table.sort(keys) "
                      "for i, key in ipairs(keys) do "
                      "  local kind, value = redis.call('TYPE', key).ok, '' "
                      "  if kind == 'string' then value = redis.call('GET', key) "
                      "  elseif kind == 'set' then "
                      "    value = redis.call('SMEMBERS', key) table.sort(value) "
                      "  elseif kind == 'stream' then "
                      "    local tip = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1] "
                      "    value = (tip and tip[1] or '') .. ' ' .. redis.call('XLEN', key) end "
                      "  out[i] = {key, redis.call('PTTL', key), kind, value} "
                      "end "
                      "return out",
                      "0", NULL);
}

uint64_t server_digest(void)
{
    struct cs_reply *reply =
        server_ask("EVAL",
                   "local text, keys = {}, redis.call('KEYS', '*') "
                   "table.sort(keys) "
                   "for _, key in ipairs(keys) do if key:sub(1, 9) ~= 'cx:lease:' then "
                   "  local kind, value = redis.call('TYPE', key).ok, '' "
                   "  if kind == 'string' then value = redis.call('GET', key) "
                   "  elseif kind == 'set' then "
                   "    value = redis.call('SMEMBERS', key) table.sort(value) "
                   "    value = table.concat(value, ' ') "
                   "  elseif kind == 'stream' then "
                   "    local tip = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1] "
                   "    value = (tip and tip[1] or '') .. ' ' .. redis.call('XLEN', key) end "
                   "  text[#text + 1] = key .. '\\n' .. value end "
                   "end "
                   "return redis.sha1hex(table.concat(text, '\\n'))",
                   "0", NULL);
    char digits[17];
    uint64_t digest;

    (void)snprintf(digits, sizeof digits, "%.16s", cs_reply_string(reply, NULL));
    digest = strtoull(digits, NULL, 16);
    cs_reply_free(reply);
    return digest;
}

/* ---- losing ---- */

/* All keys as they were at some time. */
static struct cs_reply *snapshots[SLOTS];

void server_snapshot(enum slot slot)
{
    cs_reply_free(snapshots[slot]);
    snapshots[slot] =
        server_ask("EVAL",
                   "local out, keys, t = {}, redis.call('KEYS', '*'), redis.call('TIME') "
                   "table.sort(keys) "
                   "for i, key in ipairs(keys) do "
                   "  local ends = t[1] * 1000 + math.floor(t[2] / 1000) + redis.call('PTTL', key) "
                   "  out[i] = {key, string.format('%.0f', ends), redis.call('DUMP', key)} "
                   "end "
                   "return out",
                   "0", NULL);
}

static void lose(void)
{
    cs_reply_free(server_ask("FLUSHALL", NULL, NULL, NULL));
    world_wait(2000); /* or a new log entry may get an old one's id */
    sim.losses++;
}

void server_flush(void)
{
    lose();
    count(COUNT_FLUSHES);
}

static void bring_back(const struct cs_reply *item)
{
    const char *argv[] = {"RESTORE", NULL, NULL, NULL, "ABSTTL"};
    size_t lens[] = {7, 0, 0, 0, 6};
    struct cs_reply *reply = NULL;

    if (cs_reply_int(cs_reply_at(item, 1), 0) <= sim.now_us / 1000)
        return; /* its time is over */
    argv[1] = cs_reply_string(cs_reply_at(item, 0), &lens[1]);
    argv[2] = cs_reply_string(cs_reply_at(item, 1), &lens[2]);
    argv[3] = cs_reply_string(cs_reply_at(item, 2), &lens[3]);
    if (cs_redis_append(sim.admin, 5, argv, lens, NULL) != CS_OK ||
        cs_redis_take(sim.admin, cs_mono_ms() + ADMIN_MS, &reply, NULL) != CS_OK ||
        cs_reply_check(reply, NULL) != CS_OK)
        abort();
    cs_reply_free(reply);
}

bool server_roll_back(enum slot slot)
{
    if (snapshots[slot] == NULL)
        return false;
    lose();
    for (size_t i = 0; i < cs_reply_size(snapshots[slot]); i++)
        bring_back(cs_reply_at(snapshots[slot], i));
    truth_rolled_back();
    count(slot == SLOT_REPLICA ? COUNT_FAILOVERS : COUNT_ROLLBACKS);
    return true;
}

void server_delete_key(void)
{
    struct cs_reply *state = server_state();
    size_t keys = cs_reply_size(state);
    const char *key = NULL;

    if (keys > 0)
        key =
            cs_reply_string(cs_reply_at(cs_reply_at(state, (size_t)sim_below((int)keys)), 0), NULL);
    if (key != NULL) {
        cs_reply_free(server_ask("DEL", key, NULL, NULL));
        world_wait(2000); /* as above */
        truth_lost_key(key);
        talk("Redis loses %s", key);
        sim.losses++;
        count(COUNT_KEYS_LOST);
    }
    cs_reply_free(state);
}

void server_reset(void)
{
    for (int i = 0; i < SLOTS; i++) {
        cs_reply_free(snapshots[i]);
        snapshots[i] = NULL;
    }
    cs_reply_free(server_ask("FLUSHALL", NULL, NULL, NULL));
    cs_reply_free(server_ask("SCRIPT", "FLUSH", NULL, NULL));
}
