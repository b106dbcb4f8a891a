/* sim FROM TO [MUTANT] [-v]: seeds FROM … TO-1 against a private redis-server; prints those that
 * fail. A mutant is a fault that is put in on purpose: a seed must then fail. */
#include "sim.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "cs/base/log.h"
#include "cs/store/message.h"
#include "priv.h" /* core's: the limit */

struct sim sim;
const char *mutant = "";
FILE *story; /* of the seed under way; shown if it fails */

static struct host *current; /* whose clock is read */

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

bool is_mutant(const char *name)
{
    return strcmp(mutant, name) == 0;
}

/* The end of the user's log, for who looks into a failure. */
static void show_log(void)
{
    struct cs_reply *log = NULL;

    if (cs_redis_call(sim.admin, cs_mono_ms() + 5000, &log, NULL, "XREVRANGE", "cx:log:" USER, "+",
                      "-", "COUNT", "25", NULL) != CS_OK)
        return;
    for (size_t i = cs_reply_size(log); i > 0; i--) {
        const struct cs_reply *entry = cs_reply_at(log, i - 1), *fields = cs_reply_at(entry, 1);

        (void)fprintf(story, "      %s", cs_reply_string(cs_reply_at(entry, 0), NULL));
        for (size_t k = 1; k < cs_reply_size(fields) && k < 8; k += 2)
            (void)fprintf(story, " %.60s", cs_reply_string(cs_reply_at(fields, k), NULL));
        (void)fprintf(story, "\n");
    }
    cs_reply_free(log);
}

void sim_fail(const char *fmt, ...)
{
    va_list args;

    if (sim.talk && !sim.broken)
        show_log();
    sim.broken = true;
    if (!sim.talk)
        return;
    va_start(args, fmt);
    (void)fprintf(story, "  step %d (%s): ", sim.step_no, sim.step);
    (void)vfprintf(story, fmt, args);
    (void)fprintf(story, "\n");
    va_end(args);
}

static void talk(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void talk(const char *fmt, ...)
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

/* ---- what the product reads from outside ---- */

enum cs_status __wrap_cs_random(void *out, size_t len, struct cs_err *err);
enum cs_status __wrap_cs_random(void *out, size_t len, struct cs_err *err)
{
    unsigned char *to = out;

    (void)err;
    for (size_t i = 0; i < len; i++)
        to[i] = (unsigned char)(sim_random() >> 24);
    return CS_OK;
}

static int64_t sim_clock(void)
{
    return sim.now + (current != NULL ? current->skew : 0);
}

void host_enter(struct host *host, struct host **out_was)
{
    *out_was = current;
    current = host;
}

void host_leave(struct host *was)
{
    current = was;
}

/* ---- mutants of C: calls between files, answered otherwise ---- */

enum cs_status __real_cs_replica_clean(struct cs_db *db, const char *sid, int64_t generation,
                                       struct cs_err *err);
enum cs_status __wrap_cs_replica_clean(struct cs_db *db, const char *sid, int64_t generation,
                                       struct cs_err *err);
enum cs_status __wrap_cs_replica_clean(struct cs_db *db, const char *sid, int64_t generation,
                                       struct cs_err *err)
{
    struct cs_replica_mark mark;

    if (is_mutant("clean_all") && cs_replica_mark(db, sid, &mark, NULL) == CS_OK) {
        generation = mark.generation;
        cs_replica_mark_fini(&mark);
    }
    return __real_cs_replica_clean(db, sid, generation, err);
}

enum cs_status __real_cs_replica_flag(struct cs_db *db, const char *sid, enum cs_replica_flag flag,
                                      struct cs_err *err);
enum cs_status __wrap_cs_replica_flag(struct cs_db *db, const char *sid, enum cs_replica_flag flag,
                                      struct cs_err *err);
enum cs_status __wrap_cs_replica_flag(struct cs_db *db, const char *sid, enum cs_replica_flag flag,
                                      struct cs_err *err)
{
    if (is_mutant("no_dirty") && flag == CS_REPLICA_DIRTY)
        return CS_OK;
    if (is_mutant("no_unsent") && flag == CS_REPLICA_UNSENT)
        return CS_OK;
    return __real_cs_replica_flag(db, sid, flag, err);
}

enum cs_status __real_cs_replica_bury(struct cs_db *db, const char *sid, const char *cid,
                                      const char *user, const struct cs_vector *vector,
                                      struct cs_err *err);
enum cs_status __wrap_cs_replica_bury(struct cs_db *db, const char *sid, const char *cid,
                                      const char *user, const struct cs_vector *vector,
                                      struct cs_err *err);
enum cs_status __wrap_cs_replica_bury(struct cs_db *db, const char *sid, const char *cid,
                                      const char *user, const struct cs_vector *vector,
                                      struct cs_err *err)
{
    return is_mutant("no_tomb") ? CS_OK : __real_cs_replica_bury(db, sid, cid, user, vector, err);
}

bool __real_cs_vector_le(const struct cs_vector *vector, const struct cs_vector *other);
bool __wrap_cs_vector_le(const struct cs_vector *vector, const struct cs_vector *other);
bool __wrap_cs_vector_le(const struct cs_vector *vector, const struct cs_vector *other)
{
    /* compares the first origin alone */
    if (is_mutant("first_origin") && vector->count > 1) {
        struct cs_vector one = {vector->items, 1, 1};

        return __real_cs_vector_le(&one, other);
    }
    return __real_cs_vector_le(vector, other);
}

int64_t __real_cs_hlc_next(int64_t seen, int64_t wall_ms);
int64_t __wrap_cs_hlc_next(int64_t seen, int64_t wall_ms);
int64_t __wrap_cs_hlc_next(int64_t seen, int64_t wall_ms)
{
    return is_mutant("wall_clock") ? wall_ms << 16 : __real_cs_hlc_next(seen, wall_ms);
}

struct cs_mirror;
void __real_cs_note_sent(struct cs_mirror *mirror, const char *user, const char *sid,
                         const char *id);
void __wrap_cs_note_sent(struct cs_mirror *mirror, const char *user, const char *sid,
                         const char *id);
void __wrap_cs_note_sent(struct cs_mirror *mirror, const char *user, const char *sid,
                         const char *id)
{
    if (!is_mutant("no_confirm"))
        __real_cs_note_sent(mirror, user, sid, id);
}

enum cs_status __real_cs_replica_mark(struct cs_db *db, const char *sid,
                                      struct cs_replica_mark *out_mark, struct cs_err *err);
enum cs_status __wrap_cs_replica_mark(struct cs_db *db, const char *sid,
                                      struct cs_replica_mark *out_mark, struct cs_err *err);
enum cs_status __wrap_cs_replica_mark(struct cs_db *db, const char *sid,
                                      struct cs_replica_mark *out_mark, struct cs_err *err)
{
    enum cs_status rc = __real_cs_replica_mark(db, sid, out_mark, err);

    if (rc == CS_OK && is_mutant("all_sent"))
        out_mark->unsent = false;
    return rc;
}

enum cs_status __real_cs_replica_set_cursor(struct cs_db *db, const char *name, const char *value,
                                            struct cs_err *err);
enum cs_status __wrap_cs_replica_set_cursor(struct cs_db *db, const char *name, const char *value,
                                            struct cs_err *err);
enum cs_status __wrap_cs_replica_set_cursor(struct cs_db *db, const char *name, const char *value,
                                            struct cs_err *err)
{
    return __real_cs_replica_set_cursor(db, name, value, err);
}

/* ---- Redis ---- */

static pid_t server;

static void start_server(void)
{
    char path[200], log[200];
    struct cs_err err = {0};
    int tries;

    (void)snprintf(path, sizeof path, "%s/redis.sock", sim.dir);
    (void)snprintf(log, sizeof log, "%s/redis.log", sim.dir);
    server = fork();
    if (server == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* not to outlive a simulation that is killed */
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", path, "--save", "",
               "--appendonly", "no", "--logfile", log, "--dir", sim.dir, (char *)NULL);
        _exit(127);
    }
    sim.endpoint = (struct cs_redis_endpoint){.scheme = CS_REDIS_UNIX, .path = strdup(path)};
    sim.redis = (struct cs_redis_options){.endpoint = &sim.endpoint};
    if (cs_redis_new(&sim.redis, &sim.admin, &err) != CS_OK)
        abort();
    for (tries = 0; tries < 200; tries++) {
        cs_err_clear(&err);
        if (cs_redis_connect(sim.admin, cs_mono_ms() + 1000, &err) == CS_OK)
            return;
        usleep(20000);
    }
    (void)fprintf(stderr, "sim: no redis-server: %s\n", err.msg);
    exit(2);
}

static void stop_server(void)
{
    cs_redis_free(sim.admin);
    (void)kill(server, SIGKILL);
    (void)waitpid(server, NULL, 0);
    free(sim.endpoint.path);
}

static struct cs_reply *admin(const char *a, const char *b, const char *c)
{
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};

    if (cs_redis_call(sim.admin, cs_mono_ms() + 5000, &reply, &err, a, b, c, NULL) != CS_OK) {
        (void)fprintf(stderr, "sim: %s: %s\n", a, err.msg);
        abort();
    }
    return reply;
}

/* All keys as they were at some time. */
struct snapshot {
    char key[160];
    char *data;
    size_t len;
    int64_t ttl;
};
static struct snapshot snapshots[256];
static size_t snapshot_count;
static bool snapshot_taken;

static void take_snapshot(void)
{
    struct cs_reply *keys = admin("KEYS", "*", NULL);

    while (snapshot_count > 0)
        free(snapshots[--snapshot_count].data);
    for (size_t i = 0; i < cs_reply_size(keys) && snapshot_count < 256; i++) {
        struct snapshot *one = &snapshots[snapshot_count];
        const char *key = cs_reply_string(cs_reply_at(keys, i), NULL);
        struct cs_reply *data = admin("DUMP", key, NULL), *ttl = admin("PTTL", key, NULL);
        const char *bytes = cs_reply_string(data, &one->len);

        if (bytes != NULL) {
            (void)snprintf(one->key, sizeof one->key, "%s", key);
            one->data = malloc(one->len + 1);
            memcpy(one->data, bytes, one->len);
            one->ttl = cs_reply_int(ttl, 0) > 0 ? cs_reply_int(ttl, 0) : 1000;
            snapshot_count++;
        }
        cs_reply_free(data);
        cs_reply_free(ttl);
    }
    cs_reply_free(keys);
    snapshot_taken = true;
}

static void flush(void)
{
    cs_reply_free(admin("FLUSHALL", NULL, NULL));
    (void)usleep(2000); /* or a new log entry may get an old one's id */
    sim.fault = true;
}

static void roll_back(void)
{
    flush();
    for (size_t i = 0; i < snapshot_count; i++) {
        const struct snapshot *one = &snapshots[i];
        char ttl[24];
        const char *argv[] = {"RESTORE", one->key, ttl, one->data};
        size_t lens[] = {7, strlen(one->key), 0, one->len};
        struct cs_reply *reply = NULL;

        (void)snprintf(ttl, sizeof ttl, "%lld", (long long)one->ttl);
        lens[2] = strlen(ttl);
        if (cs_redis_append(sim.admin, 4, argv, lens, NULL) != CS_OK ||
            cs_redis_take(sim.admin, cs_mono_ms() + 5000, &reply, NULL) != CS_OK)
            abort();
        cs_reply_free(reply);
    }
}

static void delete_key(void)
{
    struct cs_reply *keys = admin("KEYS", "*", NULL);
    size_t n = cs_reply_size(keys);

    if (n > 0)
        cs_reply_free(admin(
            "DEL", cs_reply_string(cs_reply_at(keys, (size_t)sim_below((int)n)), NULL), NULL));
    cs_reply_free(keys);
    sim.fault = true;
    sim.lost_keys = true;
}

/* ---- hosts ---- */

static void run_command(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void run_command(const char *fmt, ...)
{
    char command[1000];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(command, sizeof command, fmt, args);
    va_end(args);
    if (system(command) != 0) /* NOLINT: names made here */
        abort();
}

static void host_open(struct host *host)
{
    char name[8];
    struct cs_store_options options = {
        .dir = host->dir, .readers = 2, .no_thread = true, .host = name};
    struct cs_store_opened *opened = calloc(1, sizeof *opened);
    struct cs_redis_options redis = sim.redis;
    struct cs_core_parts parts = {.config = &host->config, .no_thread = true, .redis = &redis};
    struct cs_err err = {0};
    struct host *was;

    host_enter(host, &was);
    (void)snprintf(name, sizeof name, "h%d", host->index);
    redis.dial = sim_dial;
    redis.dial_arg = host;
    if (cs_store_open(&options, &host->store, opened, &err) == CS_OK) {
        parts.store = host->store;
        if (cs_core_new(&parts, &host->core, &err) == CS_OK) {
            free(opened);
            host_leave(was);
            return;
        }
    }
    (void)fprintf(stderr, "sim: host: %s\n", err.msg);
    abort();
}

static void host_close(struct host *host)
{
    cs_core_free(host->core);
    cs_store_close(host->store);
    host->core = NULL;
    host->store = NULL;
}

static void host_new(struct host *host, int index)
{
    static const int64_t skews[] = {0, 0, -90000, 3600000};

    memset(host, 0, sizeof *host);
    host->index = index;
    host->skew = skews[sim_below(4)];
    (void)snprintf(host->dir, sizeof host->dir, "%s/host%d", sim.dir, index);
    (void)snprintf(host->backup, sizeof host->backup, "%s/backup%d.db", sim.dir, index);
    run_command("rm -rf %s %s && mkdir %s", host->dir, host->backup, host->dir);
    host->config = (struct cs_config){
        .user = (char[]){USER},
        .model = (char[]){"m"},
        .sandbox = (char[]){"read-only"},
        .sandbox_ceiling = (char[]){"workspace-write"},
        .cwd = (char[]){"/tmp"},
        .engine = (char[]){"auto"},
        .session_limit = LIMIT,
        .own_session_limit = LIMIT,
        .archive_days = 30,
        .idempotency_hours = 24,
        .cache_bytes = 1 << 20,
    };
    host->config.user = strdup(USER);
    host->config.model = strdup("m");
    host->config.sandbox = strdup("read-only");
    host->config.sandbox_ceiling = strdup("workspace-write");
    host->config.cwd = strdup("/tmp");
    host->config.engine = strdup("auto");
    host_open(host);
}

static void host_free(struct host *host)
{
    host_close(host);
    cs_config_fini(&host->config);
    while (host->zombie_count > 0)
        request_free(&host->zombies[--host->zombie_count]);
    request_free(&host->last);
}

static bool host_step(struct host *host, bool full)
{
    struct cs_err err = {0};
    struct host *was;
    enum cs_status rc;

    host_enter(host, &was);
    rc = cs_mirror_step(host->core->mirror, full, &err);
    host_leave(was);
    if (rc != CS_OK)
        talk("host %d: %s", host->index, err.msg);
    return rc == CS_OK;
}

/* ---- what users do ---- */

struct appending {
    struct host *host;
    char sid[CS_UUID_MAX];
    bool fresh; /* a new session */
    int messages;
    int64_t origin, seq; /* of the last one */
    bool done;
};

static enum cs_status note_last(void *arg, const struct cs_replica_message *message,
                                struct cs_err *err)
{
    struct appending *a = arg;

    (void)err;
    truth_add(a->sid, message->origin, message->seq);
    return CS_OK;
}

static enum cs_status find_or_make(struct cs_db *db, struct appending *a,
                                   struct cs_session *session, struct cs_err *err)
{
    struct cs_buf evicted;
    enum cs_status rc;

    if (!a->fresh) {
        rc = cs_session_find(db, a->sid, session, err);
        if (rc == CS_OK && session->state == CS_SESSION_ARCHIVED) {
            rc = cs_session_restore(db, session->id, cs_clock_ms(), err);
            if (rc == CS_OK)
                rc = cs_replica_flag(db, a->sid, CS_REPLICA_UNSENT, err);
        }
        return rc;
    }
    *session = (struct cs_session){.user = strdup(USER),
                                   .own = true,
                                   .model = strdup("m"),
                                   .sandbox = strdup("read-only"),
                                   .cwd = strdup("/tmp"),
                                   .title = strdup("t"),
                                   .initial_prompt = strdup("p"),
                                   .engine = strdup("auto"),
                                   .created_at = cs_clock_ms()};
    memcpy(session->sid, a->sid, CS_UUID_MAX);
    (void)snprintf(session->cid, sizeof session->cid, "c%.30s", a->sid);
    rc = cs_session_insert(db, session, err);
    cs_buf_init(&evicted, 65536);
    if (rc == CS_OK)
        rc = cs_limits_enforce(db, session, LIMIT, true, &evicted, err);
    cs_buf_fini(&evicted);
    return rc;
}

static enum cs_status apply_append(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct appending *a = arg;
    struct cs_session session = {0};
    char text[64];
    enum cs_status rc = find_or_make(db, a, &session, err);
    struct cs_message_new message = {.session = session.id, .content = text, .at = cs_clock_ms()};

    for (int i = 0; i < a->messages && rc == CS_OK; i++) {
        int size = sim_chance(3) ? 5000 : 0; /* some pass what a log entry holds */
        char *big = NULL;
        int64_t id = 0;
        struct cs_vector vv = {0};

        (void)snprintf(text, sizeof text, "%d from %d: %llx", sim.step_no, a->host->index,
                       (unsigned long long)sim_random());
        message.kind = i % 2 == 0 ? CS_MESSAGE_USER : CS_MESSAGE_ASSISTANT;
        message.content_len = strlen(text);
        if (size > 0) {
            big = malloc((size_t)size);
            memset(big, 'x', (size_t)size);
            message.content = big;
            message.content_len = (size_t)size;
        }
        rc = cs_message_append(db, &message, &id, err);
        message.content = text;
        free(big);
        cs_vector_fini(&vv);
    }
    cs_session_fini(&session);
    return rc;
}

/* What a host has of @sid beyond @old is new. */
static void note_new(struct host *host, const char *sid, const struct cs_vector *old)
{
    struct cs_vector now;

    (void)host_vector(host, sid, &now);
    for (size_t i = 0; i < now.count; i++)
        for (int64_t seq = cs_vector_get(old, now.items[i].origin) + 1; seq <= now.items[i].seq;
             seq++) {
            struct appending a = {.host = host};
            struct cs_replica_message message = {.origin = now.items[i].origin, .seq = seq};

            memcpy(a.sid, sid, CS_UUID_MAX);
            (void)note_last(&a, &message, NULL);
        }
    cs_vector_fini(&now);
}

/* A session that exists somewhere, or "". */
static void pick(char out[CS_UUID_MAX])
{
    out[0] = '\0';
    if (sim.serial == 0)
        return;
    (void)snprintf(out, CS_UUID_MAX, "s%d",
                   sim.serial <= 6 ? sim_below(sim.serial)
                                   : sim.serial - 1 - sim_below(6)); /* mostly recent ones */
}

static void do_append(struct host *host)
{
    struct appending a = {.host = host, .messages = 1 + sim_below(3)};
    struct cs_vector old = {0};
    struct cs_err err = {0};
    struct host *was;
    bool stale, known;

    pick(a.sid);
    a.fresh = a.sid[0] == '\0' || sim_chance(sim.serial < 3 ? 30 : 8);
    if (a.fresh)
        (void)snprintf(a.sid, sizeof a.sid, "s%d", sim.serial++);
    host_enter(host, &was);
    known = host_vector(host, a.sid, &old);
    if (!known && !a.fresh) {
        cs_vector_fini(&old);
        cs_core_refresh(host->core, a.sid, &stale);
        known = host_vector(host, a.sid, &old);
    }
    if (known || a.fresh) {
        if (cs_store_write(host->store, apply_append, &a, &err) != CS_OK)
            sim_fail("append: %s", err.msg);
        note_new(host, a.sid, &old);
        talk("host %d appends %d to %s%s", host->index, a.messages, a.sid, a.fresh ? " (new)" : "");
    }
    cs_vector_fini(&old);
    host_leave(was);
}

static void do_delete(struct host *host)
{
    char sid[CS_UUID_MAX], out[CS_UUID_MAX];
    struct cs_vector vv = {0};
    struct host *was;

    pick(sid);
    host_enter(host, &was);
    if (sid[0] != '\0' && host_vector(host, sid, &vv) &&
        cs_core_delete(host->core, sid, out, NULL) == CS_OK) {
        truth_delete(sid, &vv);
        talk("host %d deletes %s", host->index, sid);
    }
    cs_vector_fini(&vv);
    host_leave(was);
}

static void do_restart(struct host *host)
{
    host_close(host);
    host_open(host);
}

static void do_backup(struct host *host)
{
    (void)unlink(host->backup);
    if (cs_store_backup(host->dir, host->backup, NULL) == CS_OK)
        host->backed_up = true;
}

static void do_restore(struct host *host)
{
    host_close(host);
    run_command("cd %s && rm -f codex-sessiond.db* && cp %s codex-sessiond.db", host->dir,
                host->backup);
    host_open(host);
    truth_restored(host, false);
    sim.fault = true;
    sim.lost_keys = true;
}

/* ---- a run ---- */

/* While @sender's request is on its way, others act. */
void sim_interfere(struct host *sender, bool script, const char *data, size_t len)
{
    struct host *other = &sim.hosts[sim_below(sim.host_count)];
    int dice = sim_below(100);

    (void)data;
    (void)len;
    if (!sim.hooks || sim.nested > 0 || !sim_chance(script ? 35 : 10))
        return;
    sim.nested++;
    if (dice < 40 && other != sender) {
        do_append(other);
        (void)host_step(other, false);
    } else if (dice < 50 && other != sender) {
        (void)host_step(other, false);
    } else if (dice < 62 && other != sender) {
        do_delete(other);
        (void)host_step(other, false);
    } else if (dice >= 75 && dice < 80) {
        flush();
        talk("FLUSHALL in between");
    } else if (dice >= 80 && dice < 92 && snapshot_taken) {
        roll_back();
        talk("rollback in between");
    }
    sim.nested--;
}

static void do_zombie(struct host *host)
{
    if (host->zombie_count == 0)
        return;
    size_t i = (size_t)sim_below((int)host->zombie_count);

    sim_execute(&host->zombies[i]);
    request_free(&host->zombies[i]);
    host->zombies[i] = host->zombies[--host->zombie_count];
    host->zombies[host->zombie_count] = (struct request){NULL, 0};
}

static void heal(void)
{
    sim.hooks = false;
    for (int h = 0; h < sim.host_count; h++) {
        sim.hosts[h].down = false;
        sim.hosts[h].flaky = 0;
    }
}

static void rounds(int n, bool full)
{
    for (int i = 0; i < n; i++)
        for (int h = 0; h < sim.host_count; h++)
            if (!host_step(&sim.hosts[h], full))
                sim_fail("11: host %d cannot sync on a good network", h);
}

static void do_calm(void)
{
    heal();
    rounds(5, false);
    check_calm();
    rounds(2, true);
    sim.lost_keys = false;
    sim.fault = true;
    sim.hooks = true;
}

static const struct {
    int weight;
    const char *name;
} steps[] = {
    {34, "append"},   {28, "step"},      {4, "full"},     {3, "delete"},
    {7, "partition"}, {5, "flaky"},      {4, "zombie"},   {2, "repeat"},
    {2, "flush"},     {3, "delete key"}, {2, "snapshot"}, {2, "rollback"},
    {2, "restart"},   {2, "backup"},     {1, "restore"},  {3, "calm"},
};

static const char *choose(void)
{
    int total = 0, dice;

    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        total += steps[i].weight;
    dice = sim_below(total);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (dice < steps[i].weight)
            return steps[i].name;
        dice -= steps[i].weight;
    }
    return "";
}

static void act(struct host *host, const char *what)
{
    static const int flakiness[] = {0, 0, 20, 60};

    if (strcmp(what, "append") == 0)
        do_append(host);
    else if (strcmp(what, "step") == 0)
        (void)host_step(host, false);
    else if (strcmp(what, "full") == 0)
        (void)host_step(host, true);
    else if (strcmp(what, "delete") == 0)
        do_delete(host);
    else if (strcmp(what, "partition") == 0)
        host->down = !host->down;
    else if (strcmp(what, "flaky") == 0)
        host->flaky = flakiness[sim_below(4)];
    else if (strcmp(what, "zombie") == 0)
        do_zombie(host);
    else if (strcmp(what, "repeat") == 0)
        sim_execute(&host->last);
    else if (strcmp(what, "flush") == 0)
        flush();
    else if (strcmp(what, "delete key") == 0)
        delete_key();
    else if (strcmp(what, "snapshot") == 0)
        take_snapshot();
    else if (strcmp(what, "rollback") == 0 && snapshot_taken)
        roll_back();
    else if (strcmp(what, "restart") == 0)
        do_restart(host);
    else if (strcmp(what, "backup") == 0)
        do_backup(host);
    else if (strcmp(what, "restore") == 0 && host->backed_up)
        do_restore(host);
    else if (strcmp(what, "calm") == 0)
        do_calm();
}

static void finish(void)
{
    (void)snprintf(sim.step, sizeof sim.step, "end");
    heal();
    for (int h = 0; h < sim.host_count; h++)
        while (sim.hosts[h].zombie_count > 0)
            do_zombie(&sim.hosts[h]);
    sim.fault = true;
    rounds(4, true);
    sim.fault = true;
    check_end();
    for (int h = 0; h < sim.host_count; h++) { /* 10: once more changes nothing */
        sim_execute(&sim.hosts[h].last);
        check_step();
    }
}

static bool run_seed(uint64_t seed)
{
    static const int64_t leaps[] = {1, 5, 400, 60000};

    sim.random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (int i = 0; i < 16; i++)
        (void)sim_random();
    sim.now = INT64_C(1755000000000);
    sim.broken = sim.fault = sim.lost_keys = snapshot_taken = false;
    sim.serial = 0;
    sim.hooks = false;
    flush();
    check_begin();
    sim.host_count = 2 + sim_below(3);
    for (int h = 0; h < sim.host_count; h++)
        host_new(&sim.hosts[h], h);
    sim.hooks = true;
    int count = 60 + sim_below(160);

    for (sim.step_no = 0; sim.step_no < count && !sim.broken; sim.step_no++) {
        struct host *host = &sim.hosts[sim_below(sim.host_count)];
        const char *what = choose();

        sim.now += leaps[sim_below(4)];
        (void)snprintf(sim.step, sizeof sim.step, "%s %d", what, host->index);
        if (sim.talk)
            (void)fprintf(story, "    %d %s\n", sim.step_no, sim.step);
        act(host, what);
        check_step();
    }
    if (!sim.broken)
        finish();
    for (int h = 0; h < sim.host_count; h++)
        host_free(&sim.hosts[h]);
    return !sim.broken;
}

int main(int argc, char **argv)
{
    uint64_t from, to, failed = 0, seed;
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

    if (argc < 3) {
        (void)fprintf(stderr, "usage: sim FROM TO [MUTANT] [-v]\n");
        return 2;
    }
    from = strtoull(argv[1], NULL, 10);
    to = strtoull(argv[2], NULL, 10);
    for (int i = 3; i < argc; i++) {
        if (strcmp(argv[i], "-v") == 0)
            sim.talk = true;
        else
            mutant = argv[i];
    }
    (void)snprintf(sim.dir, sizeof sim.dir, "%s/cs-sim-XXXXXX", base);
    if (mkdtemp(sim.dir) == NULL)
        return 2;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    cs_log_set_level(CS_LOG_ERROR);
    cs_clock_override(sim_clock);
    start_server();
    for (seed = from; seed < to; seed++) {
        char *text = NULL;
        size_t len = 0;
        bool passed;

        story = open_memstream(&text, &len);
        if (story == NULL)
            return 2;
        passed = run_seed(seed);
        (void)fclose(story);
        if (!passed && sim.talk)
            (void)fwrite(text, 1, len, stdout);
        free(text);
        if (!passed) {
            printf("seed %llu failed\n", (unsigned long long)seed);
            failed++;
            if (mutant[0] != '\0')
                break;
        }
    }
    stop_server();
    if (strncmp(mutant, "lua_", 4) == 0 && !patched)
        printf("no script has the text that %s changes\n", mutant);
    run_command("rm -rf %s", sim.dir);
    printf("%s: seeds %llu to %llu, %llu failed\n", mutant[0] != '\0' ? mutant : "product",
           (unsigned long long)from, (unsigned long long)to, (unsigned long long)failed);
    return failed > 0 ? 1 : 0;
}
