/* The simulation: hosts with real stores, cores and mirrors on one thread, a clock and a wire of
 * their own, and a real Redis behind it that forgets. All that happens follows from the seed.
 *
 * sim.c     the run: steps, calm phases, the end
 * world.c   chance, time, the story that is told when a seed fails
 * server.c  Redis: its process and clock, and how it loses data
 * plain.c   a client of the plain format
 * wire.c    requests: lost, delayed, repeated, answered to nobody
 * host.c    hosts: started, crashed, put back to a backup or to an image of the running machine
 * user.c    what users do
 * check.c   the oracle: what was written and deleted, and the invariants
 * mutant.c  faults of the product, put in on purpose
 */
#ifndef CS_SIM_H
#define CS_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cs/base/vector.h"
#include "cs/core/core.h"
#include "cs/mirror/redis.h"
#include "cs/store/replica.h"

#define HOSTS_MAX    4
#define USERS        2
#define SESSIONS_MAX 96
#define ZOMBIES_MAX  16
#define SHARED_MAX   6000 /* bytes of a message that others get whole; larger ones leave a stub */
#define LOG_LENGTH   24   /* of a user's log, so that it is trimmed often */
#define LEASE_S      60
#define TTL_S        3600

/* ---- world.c ---- */

struct request {
    char *data;
    size_t len;
};
void request_keep(struct request *slot, const void *data, size_t len);
void request_free(struct request *request);

/* A turn that a host runs. */
struct turn {
    int64_t id; /* row; 0: none runs */
    char sid[CS_UUID_MAX];
    bool leased;      /* Redis said that the lease is ours */
    int64_t until_us; /* and so it is at least until then, if Redis loses nothing */
    unsigned losses;  /* of Redis when it said so */
};

/* A copy of a host's database, and what its process had in memory. */
struct image {
    char path[200];
    bool taken;
    int64_t origin, full_at;
};

struct host {
    int index;
    char dir[200];
    struct image backup, machine;
    int64_t skew;   /* ms that its clock is off */
    bool clock_set; /* since it compared all: only then it looks at Redis' clock */
    struct cs_store *store;
    struct cs_core *core;
    struct cs_config config;
    struct turn turn;
    bool touched; /* its database may have changed since it was looked at */
    bool acted;   /* likewise, since the last step was checked */
    bool down;
    int flaky;                           /* per cent of requests that fail */
    struct request zombies[ZOMBIES_MAX]; /* to be executed later */
    size_t zombie_count;
    struct request last; /* script request that was executed last */
};

struct sim {
    struct host hosts[HOSTS_MAX];
    int host_count;
    int64_t now_us;     /* true time */
    int64_t *clock;     /* what Redis reads: the same */
    bool timers;        /* the product's own clock of intervals runs; else it stands */
    int64_t settled_us; /* but for these */
    uint64_t random, digest;
    struct cs_redis *admin;
    struct cs_redis_endpoint endpoint;
    struct cs_redis_options redis; /* of the hosts, through the wire */
    char dir[128];
    int limits[USERS];   /* of live sessions; 0: none */
    int nested;          /* others act while a request is under way */
    struct host *sender; /* whose request it is: its users may write, but not ask Redis */
    bool hooks;          /* they may */
    int aim;             /* the session that it concerns, or -1 */
    int failover_in;     /* requests until a replica that lags takes over; 0: none does */
    unsigned losses;     /* times that Redis lost something */
    bool machine_rolled; /* a running machine was put back: numbers were used twice */
    int serial;          /* of sessions */
    bool broken;         /* an invariant failed */
    bool talk;           /* print every step */
    FILE *wire;          /* requests and replies, for who looks into a failure; or NULL */
    char step[64];
    int step_no;
};
extern struct sim sim;
extern const char *const users[USERS];
extern FILE *story; /* of the seed under way; shown if it fails and -v was given */

/* What happened, over all seeds. */
enum count {
    COUNT_STEPS,
    COUNT_APPENDS,
    COUNT_MESSAGES,
    COUNT_DELETES,
    COUNT_RESTORES,
    COUNT_TURNS,
    COUNT_BUSY,
    COUNT_READS,
    COUNT_REQUESTS,
    COUNT_LOST,
    COUNT_UNANSWERED,
    COUNT_LATE,
    COUNT_REPEATED,
    COUNT_BETWEEN,
    COUNT_PARTITIONS,
    COUNT_FLUSHES,
    COUNT_KEYS_LOST,
    COUNT_ROLLBACKS,
    COUNT_FAILOVERS,
    COUNT_PLAIN,
    COUNT_RESTARTS,
    COUNT_BACKUPS_RESTORED,
    COUNT_MACHINES_ROLLED,
    COUNT_CLOCKS_SET,
    COUNT_HOURS,
    COUNT_CALMS,
    COUNTS
};
void count(enum count what);
void counts_print(void);

uint64_t sim_random(void);
int sim_below(int n);
bool sim_chance(int percent);
/* Let time pass. */
void world_wait(int64_t us);
void world_settle(void);
void world_begin(uint64_t seed);
/* Mix what was sent or received into the digest of the seed. */
void world_note(const void *data, size_t len);
/* An invariant failed. */
void sim_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void talk(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void run_command(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The host whose clock is read. */
void host_enter(struct host *host, struct host **out_was);
void host_leave(struct host *was);
/* Others act while @sender's request is on its way. */
void sim_interfere(struct host *sender, const char *data, size_t len);

/* ---- server.c ---- */

/* A snapshot of all keys. */
enum slot { SLOT_SNAPSHOT, SLOT_REPLICA, SLOTS };

void server_start(void);
void server_stop(void);
/* Forget everything, scripts too: a seed begins. */
void server_reset(void);
struct cs_reply *server_ask(const char *a, const char *b, const char *c, const char *d);
/* All keys in order: arrays of name, time to live in ms, type, and value: a string, a set's members
 * in order, or a stream's newest id with its length. */
struct cs_reply *server_state(void);
/* The digest of all that hosts rely on: not of times to live, nor of leases. */
uint64_t server_digest(void);
void server_snapshot(enum slot slot);
bool server_roll_back(enum slot slot);
void server_flush(void);
void server_delete_key(void);

/* ---- plain.c ---- */

/* Create or edit a session, or (late) write what was read before. */
void plain_edit(void);
void plain_write_late(void);
void plain_forget(void);

/* ---- wire.c ---- */

enum cs_status sim_dial(void *arg, const struct cs_dial *dial, struct cs_wire **out_wire,
                        struct cs_err *err);
/* Execute a past request outside of its connection. */
void sim_execute(const struct request *request);

/* ---- host.c ---- */

void host_new(struct host *host, int index);
void host_free(struct host *host);
bool host_step(struct host *host, bool full);
void host_sweep(struct host *host);
void host_restart(struct host *host);
void host_take(struct host *host, struct image *image);
void host_put_back(struct host *host, const struct image *image, bool running);

/* ---- user.c ---- */

void user_append(struct host *host);
void user_begin(struct host *host, int user); /* a new session */
void user_delete(struct host *host);
void user_restore(struct host *host); /* from the archive */
void user_read(struct host *host);
void user_turn(struct host *host); /* begin one, or end the one that runs */
/* Ask for every session that Redis has and no set names. Whether there was one. */
bool user_asks_for_orphans(struct host *host);

/* ---- mutant.c ---- */

extern const char *mutant; /* "" for none */
bool is_mutant(const char *name);
/* Change the text of scripts, and what a mutant changes, on the way to Redis. */
void mutant_patch(char *data, size_t len);
/* Whether all texts to be changed were met. */
bool mutant_met(void);

/* ---- check.c ---- */

/* Sessions and messages are named by numbers. */
const char *session_name(int number, char out[CS_UUID_MAX]);
int session_number(const char *sid);
int session_user(int number);
int64_t session_ttl_s(int number);
/* The number of a new session. */
int session_new(int user, int64_t ttl_s);
/* The number of a new message of @size bytes; it stands in its text as #number#. */
int fact_new(int session, size_t size, bool plain);

void check_begin(void);
/* Look at a host at once: what its user wrote counts from now on. */
void check_host(struct host *host);
/* What the logs say since the last look. */
void check_log(void);
/* A request that Redis accepted, executed again, may change nothing. */
void check_repeat(uint64_t before, const char *what);
void check_step(void);
/* Hosts sync on a good network: what its users wrote is offered by one step. */
void check_offers(struct host *host);
void check_calm(void);
void check_end(void);
/* The user deleted what @host has of a session, or took it back from the archive. */
void truth_delete(struct host *host, int session);
void truth_restore(struct host *host, int session);
/* @host was put back to an older state. */
void truth_put_back(struct host *host);
/* A key went, alone: what only a full comparison finds. Or a full one was made. */
void truth_lost_key(const char *key);
void truth_compared(void);
/* Redis shows what it showed before: plain values that were taken over come back. */
void truth_rolled_back(void);
void truth_plain(int session, const char *text);

/* What a host read through: all that Redis has of a session. */
void check_read(struct host *host, int session);
/* A lease that Redis gave, and that nothing took, is held. */
void check_lease(struct host *host);
bool is_known(struct host *host, int session);
/* Redis has it, and the set of its user, which was lost, does not name it. */
bool is_orphan(int session);

/* The vector of @sid on @host; false when it does not have it. */
bool host_vector(struct host *host, const char *sid, struct cs_vector *out);

#endif
