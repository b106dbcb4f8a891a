/* main/bridge: MCP over stdio, carried to the daemon's /mcp and back.
 *
 * Layer: main; for mcp.c and bridge_*.c. One thread, one poll loop: each line of the client becomes
 * a relay, which makes one HTTP request at a time, and many are under way at once. What the daemon
 * says to one goes to the client as it comes.
 *
 * The client never learns of HTTP's sessions: when the daemon was restarted, the bridge says the
 * client's own `initialize` again and goes on.
 */
#ifndef CS_MAIN_BRIDGE_H
#define CS_MAIN_BRIDGE_H

#include <poll.h>

#include "answer.h"
#include "cs/base/json.h"
#include "datadir.h"
#include "launch.h"

/* ---- bridge_line.c: a line of the client ---- */

enum cs_line_kind { CS_LINE_REQUEST, CS_LINE_NOTE, CS_LINE_RESPONSE };

struct cs_line {
    enum cs_line_kind kind;
    char *text; /* owned, as are the other pointers; NULL in the bridge's own GET and DELETE */
    size_t len;
    char *id;           /* of a request, as JSON */
    char *cancels;      /* the request that a notifications/cancelled names, as JSON; or NULL */
    char *subject;      /* the conversation that a tool call names, or NULL */
    char *uri;          /* params.uri, or NULL */
    char method[64];    /* cut */
    char revision[32];  /* of a stateless request; "" otherwise */
    struct cs_buf head; /* header lines of a stateless request */
};

#define CS_RPC_PARSE   (-32700)
#define CS_RPC_INVALID (-32600)
#define CS_RPC_CLOSED  (-32000) /* no answer can be had */

/** Read a line. A call of `codex` gets @folder (NULL: none) for its working folder if it names
 * none, or one relative to it. CS_INVALID or CS_NO_MEM; *out_code is JSON-RPC's then. */
CS_MUST_USE enum cs_status cs_line_read(const char *text, size_t len, const char *folder,
                                        struct cs_line *out_line, int *out_code,
                                        struct cs_err *err);
void cs_line_fini(struct cs_line *line);

/** Append a JSON-RPC error and a line end. @id is JSON; NULL stands for null. @subject (or NULL)
 * becomes data.threadId. */
void cs_line_error(struct cs_buf *out, const char *id, int code, const char *message,
                   const char *subject);

/* ---- mcp.c: the bridge ---- */

#define CS_REQUESTS_MAX 128                    /* of the client at once */
#define CS_RELAYS_OWN   4                      /* kept free for what the bridge itself says */
#define CS_RELAYS_MAX   (CS_REQUESTS_MAX + 16) /* with notifications and answers beside them */

#define CS_KEPT_MAX 64 /* of what the client set up for its session */

struct cs_bridge_kept {
    char *uri;  /* of the resource that is watched; "": the level of logging; NULL: a free place */
    char *text; /* the client's line */
};

/* What the client began with `initialize`. The pointers are owned. */
struct cs_bridge_session {
    char id[CS_ANSWER_ID_MAX]; /* "" before, and where the daemon gives none */
    char version[32];          /* as negotiated */
    unsigned generation;       /* counts its lives in daemons */
    bool renewing;             /* what needs it waits */
    char *initialize;          /* the client's line */
    struct cs_bridge_kept kept[CS_KEPT_MAX];
};

struct cs_relay;

struct cs_bridge {
    const struct cs_config *config;
    char *folder; /* where the client runs us; NULL: nowhere in particular */
    struct cs_launch launch;
    struct cs_bridge_session session;
    struct cs_buf in, out; /* from and to the client */
    bool in_skips;         /* the rest of a line that was too long */
    bool in_ended, out_ended;
    bool listens, no_ears; /* a GET stream is open; the daemon offers none */
    bool unreachable;      /* the newest attempt to reach a daemon failed for good */
    struct cs_relay *relays[CS_RELAYS_MAX];
    size_t count;
};

/** A message for the client, without line end. */
void cs_bridge_say(struct cs_bridge *bridge, const char *text, size_t len);

/* ---- bridge_session.c: what the client set up, and setting it up again ---- */

/** The daemon has begun session @id. @line is the client's `initialize`; NULL: it is one that was
 * renewed. */
void cs_bridge_begun(struct cs_bridge *bridge, const struct cs_line *line, const char *id,
                     const char *version);
/** A request of the client was answered well: keep it if it is to be said again one day. */
void cs_bridge_keep(struct cs_bridge *bridge, const struct cs_line *line);
/** The session of @generation is not known: begin it again if nobody has yet. */
CS_MUST_USE enum cs_status cs_bridge_renew(struct cs_bridge *bridge, unsigned generation,
                                           struct cs_err *err);
/** It has begun again: say the rest. */
void cs_bridge_renewed(struct cs_bridge *bridge);
void cs_bridge_session_fini(struct cs_bridge_session *session);

/* ---- bridge_relay.c: one message on its way to the daemon, and what comes back ---- */

enum cs_relay_kind {
    CS_RELAY_CLIENT,  /* a line of the client */
    CS_RELAY_RENEW,   /* its `initialize` once more */
    CS_RELAY_RENEWED, /* and what else it had set up */
    CS_RELAY_LISTEN,  /* GET: what the daemon says unasked */
    CS_RELAY_BYE,     /* DELETE of the session */
};

/** Begin one. Takes @line (NULL: of a GET or DELETE), also on failure. CS_BUSY: no room; CS_NO_MEM.
 */
CS_MUST_USE enum cs_status cs_relay_add(struct cs_bridge *bridge, enum cs_relay_kind kind,
                                        struct cs_line *line, struct cs_err *err);
/** What to poll for (fd -1: nothing), and until when at most (cs_mono_ms()). */
int64_t cs_relay_wants(const struct cs_relay *relay, struct pollfd *out_poll);
/** Go on, after a poll that gave @revents. False when it is over; then cs_relay_free(). */
CS_MUST_USE bool cs_relay_step(struct cs_relay *relay, short revents);
void cs_relay_free(struct cs_relay *relay);

/** Whether later lines must wait for it. */
bool cs_relay_bars(const struct cs_relay *relay);
/** Whether the client waits for its answer; *out_starting (may be NULL): it waits for a daemon that
 * is on its way. */
bool cs_relay_is_awaited(const struct cs_relay *relay, bool *out_starting);
/** The client takes request @id back. Returns whether the daemon must be told by the note. */
bool cs_relay_cancel(struct cs_bridge *bridge, const char *id);

#endif
