/* engine/rpc: a long-lived child that speaks JSON-RPC, an object a line, and serves many turns.
 *
 * Layer: engine, private; shared by the app-server and the MCP driver. What their turns do alike is
 * in rpc_turn.c.
 *
 * A link owns the child. Its supervisor thread starts one when a turn waits for it, bounds the
 * handshake, ends a child that hangs, frees dead ones and holds a crash loop down. The child's
 * reader thread calls the link with each line. Both run a driver's hooks with the link's mutex
 * held; a hook looks up, pushes and writes, and never waits.
 *
 * Locks: link->mutex, then a turn's mutex or a process's own. engine->mutex is never taken with
 * link->mutex held.
 */
#ifndef CS_ENGINE_RPC_H
#define CS_ENGINE_RPC_H

#include "priv.h"

/* Lines. */

enum cs_line_kind {
    CS_LINE_NOISE,   /* not an object: start-up chatter */
    CS_LINE_BAD,     /* meant as an object, and not readable or not JSON-RPC */
    CS_LINE_NO_MEM,  /* could not be read for want of memory */
    CS_LINE_REPLY,   /* id, and result or error */
    CS_LINE_NOTICE,  /* method, no id */
    CS_LINE_REQUEST, /* method and id: Codex wants an answer */
};

struct cs_codex_line {
    enum cs_line_kind kind;
    size_t len;               /* bytes of the line */
    struct cs_json *json;     /* the line, owned by the caller; NULL for the first three kinds */
    const char *method;       /* "" for a reply; the rest is borrowed from json and may be NULL */
    const struct cs_json *id; /* as it came, to be echoed */
    int64_t call;             /* a reply's id; -1 if it is none of ours (not an integer) */
    const struct cs_json *params;
    const struct cs_json *result;
    const struct cs_json *error; /* an object with code and message, if the call failed */
};

/** Read one line of @len bytes, NUL-terminated. Without state; for any input. An escaped NUL
 * character in a string reads as U+FFFD, so that a tool's binary output cannot hide the end of a
 * turn; @text is changed in place then. */
void cs_codex_line(char *text, size_t len, struct cs_codex_line *out);

/* Small helps. */

/** Room for an id of Codex's and its NUL. */
#define CS_CODEX_ID_MAX 64
/** Copy an id; NULL as "". */
void cs_codex_id(char out[CS_CODEX_ID_MAX], const char *id);
/** A hash of an id, for tables. */
size_t cs_codex_hash(const char *id);
/** @json as text, for free(); NULL without memory. */
char *cs_json_text(const struct cs_json *json);
/** Whether @text is @word; NULL is no word. */
bool cs_text_is(const char *text, const char *word);
/** Free @text and put a copy of @by there; NULL if @by is NULL or memory is out. */
void cs_text_replace(char **text, const char *by);

/* The link. */

/** Starts without a completed turn between them that are made within CS_LINK_STARTS_MS; then turns
 * are refused. */
#define CS_LINK_STARTS    5
#define CS_LINK_STARTS_MS 60000
/** How long a child may take from its start to the end of the handshake. */
#define CS_LINK_HANDSHAKE_MS 30000
/** How long a child may say nothing at all after a call. */
#define CS_LINK_SILENCE_MS 30000
#define CS_LINK_BUCKETS    1024 /* a power of two */
#define CS_LINK_ARGS       8

/** What reaches a turn's inbox (struct cs_message_in.kind). Of the last three kinds exactly one
 * comes when the child that the turn is on goes away, and then the turn is on no child. */
enum cs_link_message {
    CS_IN_READY,       /* the child can be used */
    CS_IN_REPLY,       /* json: the reply to the turn's call */
    CS_IN_NOTICE,      /* json: a notification of the turn's */
    CS_IN_ASKED,       /* json: a request of Codex's that waits for cs_rpc_answer(); text: its
                          "ID KIND" */
    CS_IN_NO_MEM,      /* a message that may have been the turn's was lost */
    CS_IN_DIED,        /* text: a sentence */
    CS_IN_TOO_LARGE,   /* text: a sentence; the child died of too long a line */
    CS_IN_UNAVAILABLE, /* text: a sentence; no child could be started */
};

/** A turn's place on a link; part of the driver's per-turn state. Guarded by the link's mutex. */
struct cs_link_turn {
    struct cs_engine_turn *turn;
    struct cs_link_turn *prev, *next; /* all turns of the link */
    struct cs_link_turn *chain;       /* in its bucket of calls */
    int64_t call;                     /* id of the call that waits for its reply; 0: none */
    uint64_t generation;              /* the child it is on; 0: none */
    bool joined, waiting;
};

struct cs_link;
struct cs_link_ops {
    const char *name; /* for sentences: "Codex app-server" */
    bool skip_stdin;  /* closing stdin does not end such a child */
    /** A new child's arguments after the path, at most CS_LINK_ARGS - 2; borrowed until it runs. */
    void (*arguments)(const struct cs_engine *engine, const struct cs_codex *codex,
                      const char **out_argv);
    /** The handshake: first with reply NULL, then with each reply. Writes the next request with
     * cs_link_shake(), or calls cs_link_ready() or cs_link_refuse(). */
    void (*handshake)(struct cs_driver *driver, const struct cs_codex_line *reply);
    /** A reply to @node's call, before it is put in the inbox. */
    void (*on_reply)(struct cs_driver *driver, struct cs_link_turn *node,
                     const struct cs_codex_line *line);
    /** A notification. May take line->json (and sets it to NULL then). */
    void (*on_notice)(struct cs_driver *driver, struct cs_codex_line *line);
    /** Codex asks something that the owner of a turn wants to decide: hand it on with
     * cs_link_ask(). False: answer at once. */
    bool (*on_request)(struct cs_driver *driver, struct cs_codex_line *line);
    /** The answer at once: the result for a request as JSON, or NULL: "method not found". It grants
     * nothing. */
    const char *(*answer)(const char *method);
    /** The child is gone, with all that it had loaded. */
    void (*on_down)(struct cs_driver *driver);

    /* For rpc_turn.c; on the owner's thread, and not after the turn's end. */

    size_t state_size; /* of the state per turn, which begins with a struct cs_rpc_turn */
    /** The child is ready: make the first call. */
    void (*ready)(struct cs_driver *driver, struct cs_engine_turn *turn);
    void (*replied)(struct cs_driver *driver, struct cs_engine_turn *turn,
                    const struct cs_json *reply);
    void (*noticed)(struct cs_driver *driver, struct cs_engine_turn *turn,
                    const struct cs_json *notice);
    /** Tell what Codex asks with cs_rpc_approval(). @detail is the event's. */
    void (*asked)(struct cs_engine_turn *turn, const struct cs_json *request, const char *detail);
    /** With the mutex held: let Codex end the turn, if it runs one. */
    void (*stop)(struct cs_driver *driver, struct cs_engine_turn *turn);
    /** With the mutex held: the turn is over for its thread. @clean: its answer is on it, or not
     * even its prompt. */
    void (*release)(struct cs_driver *driver, struct cs_engine_turn *turn, bool clean);
    /** Free what the state owns; NULL: nothing more. */
    void (*clear)(struct cs_engine_turn *turn);
    /** Free what the driver owns beside its link; NULL: nothing more. All turns have left. */
    void (*fini)(struct cs_driver *driver);
};

enum cs_link_state { CS_LINK_DOWN, CS_LINK_STARTING, CS_LINK_READY, CS_LINK_STOPPING };

struct cs_link {
    struct cs_engine *engine;
    const struct cs_link_ops *ops;
    struct cs_driver *driver;
    pthread_t supervisor;
    pthread_mutex_t mutex; /* guards all below, and the driver's own tables */
    pthread_cond_t wake;   /* the supervisor's */
    enum cs_link_state state;
    bool closing;
    struct cs_process *process; /* freed by the supervisor */
    bool exited;                /* the process has made its last call */
    uint64_t generation;        /* counts children, from 1 */
    int64_t deadline;           /* of the handshake, mono ms */
    int64_t last_id;
    int64_t shake_id;               /* id of the handshake's request */
    int64_t starts[CS_LINK_STARTS]; /* mono ms; a ring */
    size_t start_count, start_next;
    int64_t bad_lines; /* lines that could not be read */
    int handshake_ms;  /* CS_LINK_HANDSHAKE_MS */
    int silence_ms;    /* CS_LINK_SILENCE_MS */
    int64_t asked_at;  /* mono ms: of the first call since the last line; 0: none */
    char why[400];     /* a sentence: why the last child went away */
    struct cs_link_turn *turns;
    struct cs_link_turn *calls[CS_LINK_BUCKETS];
    struct cs_link_ask *asks; /* open ones */
    int64_t last_ask;
};

/** Begin, with no child yet. */
CS_MUST_USE enum cs_status cs_link_init(struct cs_link *link, struct cs_engine *engine,
                                        const struct cs_link_ops *ops, struct cs_driver *driver,
                                        struct cs_err *err);
/** Stop the child, at most until @deadline if it obeys, and free. All turns have left. */
void cs_link_fini(struct cs_link *link, int64_t deadline);

/* For a turn's owner; these take the mutex. */

/** Ask for a live child: CS_IN_READY follows, or one of the last three kinds. */
void cs_link_join(struct cs_link *link, struct cs_link_turn *node);
/** Forget the turn. */
void cs_link_leave(struct cs_link *link, struct cs_link_turn *node);

/** Begin a request in @line: its id is returned, and the object and its "params" object are open in
 * @w. */
int64_t cs_rpc_request(struct cs_link *link, struct cs_buf *line, struct cs_jsonw *w,
                       const char *method);
/** Close what cs_rpc_request() opened, and end the line. */
void cs_rpc_end(struct cs_buf *line, struct cs_jsonw *w);

/* For hooks and owners; the caller holds the mutex. */

/** Send @line as the call @id of @node, whose reply will come as CS_IN_REPLY. CS_CONFLICT when the
 * turn is not on the live child (why is in its inbox already); CS_BUSY or CS_NO_MEM when it cannot
 * be queued. */
CS_MUST_USE enum cs_status cs_link_call(struct cs_link *link, struct cs_link_turn *node, int64_t id,
                                        const struct cs_buf *line, struct cs_err *err);
/** Send a line whose reply nobody waits for; best effort. */
void cs_link_send(struct cs_link *link, const struct cs_buf *line);
void cs_link_send_text(struct cs_link *link, const char *line);
/** Whether the turn can call now. */
bool cs_link_live(const struct cs_link *link, const struct cs_link_turn *node);
/** The turn whose call @id waits for its reply, or NULL. */
struct cs_link_turn *cs_link_find(struct cs_link *link, int64_t id);
/** A turn has completed on this child: it is no crash loop. */
void cs_link_proved(struct cs_link *link);
/** The next id; for a line whose reply nobody waits for. */
int64_t cs_link_next_id(struct cs_link *link);

/** Answer Codex's request @wire_id (JSON); @result NULL: "method not found". Best effort. */
void cs_link_respond(struct cs_link *link, const char *wire_id, const char *result);

/* What Codex asks and waits for (ask.c); the caller holds the mutex. */

/** Requests of a turn that may be open at a time. */
#define CS_LINK_ASKS_MAX 16

/** How a request is told and answered. Results are JSON. */
struct cs_ask_kind {
    const char *method, *kind;
    const char *approve; /* NULL: depends on the request */
    const char *decline;
};

/** Let @turn's owner decide about the request in @line, whose json is taken. @approve NULL: as
 * @kind says. False when that cannot be, and nothing is taken. */
bool cs_link_ask(struct cs_link *link, struct cs_codex_line *line, struct cs_engine_turn *turn,
                 const struct cs_ask_kind *kind, const char *approve);
/** Codex has settled its request by itself. */
void cs_link_ask_settled(struct cs_link *link, const struct cs_json *wire_id);
/** Decline what is open of @turn; NULL: forget everything, because the child is gone. */
void cs_link_asks_end(struct cs_link *link, const struct cs_engine_turn *turn);

/* For the handshake hook. */

void cs_link_shake(struct cs_link *link, int64_t id, const struct cs_buf *line);
void cs_link_ready(struct cs_link *link);
void cs_link_refuse(struct cs_link *link, const char *sentence);

#endif
