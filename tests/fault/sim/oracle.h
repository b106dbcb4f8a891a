/* What the two halves of the oracle share: truth.c knows what was written and what hosts have,
 * check.c looks at Redis and compares. */
#ifndef CS_SIM_ORACLE_H
#define CS_SIM_ORACLE_H

#include "sim.h"

/* A message that somebody wrote. */
struct fact {
    int session;
    int64_t origin, seq, hlc; /* as it stands on hosts; 0: not seen yet */
    uint64_t hash;            /* of its bytes */
    size_t size;
    bool plain;      /* of a plain client */
    bool in_redis;   /* and nothing but a fault may take it from Redis until a host has it */
    unsigned losses; /* of Redis when it was written there */
    int shown;       /* the look in which Redis showed it last */
    bool committed;  /* a host had it */
    bool deleted;    /* by a user who saw it */
    bool maybe;      /* nobody is bound to have it any more: see truth_put_back() */
    unsigned whole;  /* hosts that have it: bits */
    unsigned stub;   /* hosts that have a stub in its place */
};

/* A session, and what happened to it. */
struct session {
    int user;
    int64_t ttl_s;
    struct cs_vector deleted; /* what users deleted */
    struct cs_vector offered; /* what Redis ever took */
    struct cs_vector told;    /* what Redis ever heard to be deleted */
    unsigned restored;        /* hosts whose user brought it back, and Redis does not know yet */
    bool lost;                /* a key went alone: only a full comparison finds that */
    bool plain;               /* a plain client wrote it at some time */
    bool foreign;             /* and what it wrote is what Redis shows */
    bool replayed; /* a plain value came back with a rollback: it may be imported twice */
    bool forked;   /* a machine that was put back gave a number to two messages */
    bool put_out;  /* the log says so since the last look */
    /* as Redis showed it last */
    bool shown;
    int64_t ends_us; /* then its time is over */
    bool over;       /* it is not there, because its time was over */
    struct cs_vector vv;
    bool unnamed; /* the user's set may name it although it is not there */
};

extern struct session sessions[SESSIONS_MAX];

/* A seed begins. */
void check_forget(void);

/* A value that Redis shows, and each of its messages, by the number in its text. */
void truth_value(void);
void truth_looked(void); /* all values were shown */
void truth_shown(int session, const char *content);
/* Whether @session is live on any host. */
bool is_live_anywhere(int session);
bool is_live_on(struct host *host, int session);
/* Whether a host follows a user: its own one always, another one while it has a live session. */
bool is_followed(struct host *host, int user);
/* All messages of a session in order, as text; NULL when the host does not have it. A message that
 * not everybody gets whole is named by its place alone. */
char *dump(struct host *host, int session);
void check_somewhere(void);
void check_pending(struct host *host);
/* A machine gave out numbers twice, and Redis may have hidden that. */
bool is_ambiguous(int session);
/* Redis let go of a session for a reason. */
void truth_let_go(int session);
void show_session(int session);
/* Bits of sessions, by number, that hold messages of @host that Redis never took. */
struct set {
    bool has[SESSIONS_MAX];
};
struct set unoffered(struct host *host);
/* 8 */
void check_tomb(int session, const struct cs_vector *tomb, const char *where);

#endif
