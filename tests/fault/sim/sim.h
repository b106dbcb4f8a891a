/* The simulation: hosts with real stores, cores and mirrors on one thread, a clock of their own, a
 * wire that loses, delays and repeats, and a real Redis behind it that forgets. */
#ifndef CS_SIM_H
#define CS_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cs/base/vector.h"
#include "cs/core/core.h"
#include "cs/mirror/redis.h"
#include "cs/store/replica.h"

#define HOSTS_MAX   4
#define ZOMBIES_MAX 16
#define USER        "U"
#define LIMIT       4

/* A request of the past. */
struct request {
    char *data;
    size_t len;
};

struct host {
    int index;
    char dir[200], backup[200];
    bool backed_up;
    int64_t skew; /* ms that its clock is off */
    struct cs_store *store;
    struct cs_core *core;
    struct cs_config config;
    bool down;
    int flaky;                           /* per cent of requests that fail */
    struct request zombies[ZOMBIES_MAX]; /* to be executed later */
    size_t zombie_count;
    struct request last; /* executed; may be repeated */
};

struct sim {
    struct host hosts[HOSTS_MAX];
    int host_count;
    int64_t now; /* wall ms */
    uint64_t random;
    struct cs_redis *admin;
    struct cs_redis_endpoint endpoint;
    struct cs_redis_options redis; /* of the hosts, through the wire */
    char dir[128];
    int nested;     /* a hook runs */
    bool hooks;     /* others interfere while a request is under way */
    bool fault;     /* Redis lost something since the last check */
    bool lost_keys; /* a key alone went, which only a full comparison finds */
    int serial;     /* of sessions */
    bool broken;    /* an invariant failed */
    bool talk;      /* print every step */
    char step[64];
    int step_no;
};
extern struct sim sim;
extern const char *mutant; /* "" for none */
extern FILE *story;        /* of the seed under way; shown if it fails and -v was given */

/* sim.c */
uint64_t sim_random(void);
int sim_below(int n);
bool sim_chance(int percent);
/* An invariant failed. */
void sim_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Runs while a request is on its way. */
void sim_interfere(struct host *sender, bool script, const char *data, size_t len);
bool is_mutant(const char *name);

/* wire.c */
enum cs_status sim_dial(void *arg, const struct cs_dial *dial, struct cs_wire **out_wire,
                        struct cs_err *err);
extern struct host *sim_dialling; /* whose wire is made */
/* Execute a past request outside of its connection. */
void sim_execute(const struct request *request);
void request_free(struct request *request);
extern bool patched; /* a mutant's script was met */

/* check.c */
void check_step(void);
void check_calm(void);
void check_end(void);
void check_begin(void);
/* The user wrote, or deleted what @vv says, or put a host back to its backup. */
void truth_add(const char *sid, int64_t origin, int64_t seq);
void truth_delete(const char *sid, const struct cs_vector *vv);
void truth_restored(struct host *host, bool before);
/* The vector of @sid on @host. */
bool host_vector(struct host *host, const char *sid, struct cs_vector *out);
/* The host whose clock is read. */
void host_enter(struct host *host, struct host **out_was);
void host_leave(struct host *was);

#endif
