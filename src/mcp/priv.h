/* mcp/priv: what the protocol's files share.
 *
 * Layer: mcp, private. A call belongs to the thread that brought it, but for the group that others
 * reach under mcp->mutex. Lock order: mcp->mutex, then a feed's or core's; no call of core that
 * waits or reads the store is made with it held.
 */
#ifndef CS_MCP_PRIV_H
#define CS_MCP_PRIV_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "cs/base/buf.h"
#include "cs/base/hash.h"
#include "cs/base/json.h"
#include "cs/base/uuid.h"
#include "cs/core/core.h"
#include "cs/mcp/mcp.h"
#include "cs/mcp/table.h"

struct cs_feed;

#define CS_MCP_ID_MAX       256 /* of a JSON-RPC id or progress token, as JSON, with its NUL */
#define CS_MCP_MESSAGE_MAX  (64u << 20)    /* bytes of a message of ours */
#define CS_MCP_SESSIONS_MAX 1024           /* beyond it the one unused for longest ends */
#define CS_MCP_IDLE_MS      (4 * 3600000L) /* a session unused for so long ends */
#define CS_MCP_WATCHED_MAX  64             /* resources that one session may watch */
#define CS_QUESTIONS_MAX    8              /* that a call may have open */
#define CS_EARLY_MAX        4              /* cancellations that wait for their calls */
#define CS_MCP_BEAT_MS      1000           /* between two looks whether a call's client is there */
#define CS_TASKS_EXTENSION  "io.modelcontextprotocol/tasks"
#define CS_SESSION_URI      "codex-session://"
#define CS_URI_MAX          256 /* of a conversation, with its NUL */

/* Errors of JSON-RPC and of the protocol. */
enum {
    CS_RPC_PARSE = -32700,
    CS_RPC_INVALID_REQUEST = -32600,
    CS_RPC_NO_METHOD = -32601,
    CS_RPC_INVALID_PARAMS = -32602,
    CS_RPC_INTERNAL = -32603,
    CS_RPC_NO_RESOURCE = -32002, /* until 2025-11-25 */
    CS_RPC_HEADER_MISMATCH = -32020,
    CS_RPC_NO_CAPABILITY = -32021,
    CS_RPC_NO_REVISION = -32022,
};

/* In the order of time. */
enum cs_revision { CS_REVISION_2025_06_18, CS_REVISION_2025_11_25, CS_REVISION_2026_07_28 };
/** "2025-06-18", … */
const char *cs_revision_name(enum cs_revision revision);
/** Whether @text names one; *out_revision (may be NULL) is it. */
bool cs_revision_parse(const char *text, enum cs_revision *out_revision);

/* What a client can do, as bits. */
enum { CS_CAN_ELICIT = 1, CS_CAN_SAMPLE = 2, CS_CAN_ROOTS = 4, CS_CAN_TASKS = 8 };

/* ---- message.c: a message ---- */

enum cs_msg_kind { CS_RPC_REQUEST, CS_RPC_NOTIFICATION, CS_RPC_RESPONSE };

struct cs_msg {
    struct cs_json *root;
    enum cs_msg_kind kind;
    const char *method;           /* borrowed of root; NULL for a response */
    const struct cs_json *params; /* an object, or NULL */
    char id[CS_MCP_ID_MAX];       /* as JSON; "" for a notification, and where it is no id */
};

/** Parse one message of at most @max bytes. On failure *out_code is the error of JSON-RPC, and
 * out_msg->id what could be read of it. cs_msg_fini() in either case. */
CS_MUST_USE enum cs_status cs_msg_parse(const char *text, size_t len, size_t max,
                                        struct cs_msg *out_msg, int *out_code, struct cs_err *err);
void cs_msg_fini(struct cs_msg *msg);
/** Render @value, a string or an integer, as JSON. CS_INVALID when it is neither, CS_TOO_LARGE,
 * CS_NO_MEM: @out is left as it was. */
enum cs_status cs_msg_id(const struct cs_json *value, char out[CS_MCP_ID_MAX]);
/** Begin a notification or, with @id not "", a request up to the members of its params. */
void cs_msg_begin(struct cs_buf *out, struct cs_jsonw *w, const char *method, const char *id);
void cs_msg_end(struct cs_jsonw *w);
/** Render an error. @id "" becomes null, @data (may be NULL) is JSON. */
void cs_msg_error(struct cs_buf *out, const char *id, int code, const char *message,
                  const char *data);

/* ---- session.c ---- */

struct cs_mcp_session {
    char id[CS_MCP_SESSION_MAX];
    enum cs_revision revision;
    unsigned can;
    int log_level;                /* least severity sent */
    int64_t used;                 /* mono ms */
    unsigned refs;                /* calls and streams */
    bool ended;                   /* out of the table */
    struct cs_mcp_call *listener; /* the stream for what is said without being asked */
    int64_t told;                 /* id of the newest event that one of its streams has had */
    struct cs_mcp_call *calls;
    struct cs_early {
        char id[CS_MCP_ID_MAX];
        int64_t until;     /* mono ms; 0: none */
    } early[CS_EARLY_MAX]; /* the last cancellations of calls that are not under way; a ring */
    unsigned early_count;
    char *watched[CS_MCP_WATCHED_MAX]; /* URIs; a NULL ends them */
    struct cs_mcp_session *next;
};

struct cs_listener;

struct cs_mcp {
    struct cs_core *core;
    const struct cs_mcp_table *table;
    const char *version;
    struct cs_json *definitions;
    const struct cs_json *capabilities;
    struct cs_buf tools[2]; /* rendered elements of tools/list; [1]: with what tasks add */
    bool tasks;
    unsigned char key[CS_SHA256_LEN]; /* of this start: seals request states */
    char start[9];                    /* hex: begins the ids of this start's sessions */

    pthread_mutex_t mutex; /* guards the rest, and what is marked so in calls */
    pthread_cond_t changed;
    struct cs_mcp_session *sessions;
    unsigned session_count;
    struct cs_listener *listeners;
    int64_t asked; /* numbers our own requests */
};

/** What a client was asked by a request of ours. */
struct cs_question {
    int64_t number;        /* id of the request; 0: a free place */
    struct cs_json *reply; /* owned; NULL: none yet */
    char approval[64];     /* of Codex that it is about; "" */
};

struct cs_mcp_call {
    struct cs_mcp *mcp;
    const struct cs_mcp_head *head;
    const struct cs_mcp_stream *stream;
    struct cs_mcp_answer *answer;
    struct cs_mcp_session *session; /* referenced; NULL without */
    enum cs_revision revision;
    unsigned can;
    int log_level;
    const char *method;
    const struct cs_json *params;
    const char *name;
    char id[CS_MCP_ID_MAX];
    char token[CS_MCP_ID_MAX]; /* of progress; "" for none */
    int64_t progress;          /* last told; -1: none */
    struct cs_jsonw w;         /* in answer->json */
    char resumed[CS_UUID_MAX]; /* turn whose broken stream goes on here; "" */
    bool watches;              /* the turn is not its own: it goes on when this is cancelled */
    bool typed;                /* the handler wrote resultType */
    bool meta;                 /* and _meta */
    bool silent;               /* the client is gone or has cancelled: no answer */
    int code;                  /* of an error of the protocol; 0: none */
    int status;                /* of HTTP, with it; 0: usual */
    struct cs_buf data;        /* of it */

    /* under mcp->mutex */
    bool cancelled;
    char tid[CS_UUID_MAX]; /* the turn that runs for it; "" */
    struct cs_feed *feed;  /* that it waits in */
    struct cs_question questions[CS_QUESTIONS_MAX];
    struct cs_mcp_call *next;
};

/** A new session; the table's bound may end an idle one. CS_BUSY when none is idle. */
CS_MUST_USE enum cs_status cs_session_begin(struct cs_mcp *mcp, enum cs_revision revision,
                                            unsigned can, char out_id[CS_MCP_SESSION_MAX],
                                            struct cs_err *err);
/** The session @id with a reference, or NULL. */
struct cs_mcp_session *cs_session_take(struct cs_mcp *mcp, const char *id);
void cs_session_drop(struct cs_mcp *mcp, struct cs_mcp_session *session);
/** Take it out of the table. Whether it was there. */
bool cs_session_end(struct cs_mcp *mcp, const char *id);
void cs_session_end_all(struct cs_mcp *mcp);
/** Be seen by notifications about the call. */
void cs_call_link(struct cs_mcp_call *call);
void cs_call_unlink(struct cs_mcp_call *call);
/** Cancel the call @id of @session, if it is under way. */
void cs_call_cancel(struct cs_mcp *mcp, struct cs_mcp_session *session, const char *id);
/** Give the answer of the client to the call that asked. Consumes msg->root if it is wanted. */
void cs_call_reply(struct cs_mcp *mcp, struct cs_mcp_session *session, struct cs_msg *msg);
/** Cancelling the call from now on stops turn @tid and wakes @feed; both may be NULL. */
void cs_call_bind(struct cs_mcp_call *call, const char *tid, struct cs_feed *feed);

/* ---- call.c: what handlers do on the way ---- */

/** Send a message ahead of the answer; forget it where none can be sent. */
void cs_call_send(struct cs_mcp_call *call, const char *event, const struct cs_buf *message);
/** Ask the client without waiting: the reply comes into the question, whose place is returned; NULL
 * when all are taken or the client cannot be asked. */
struct cs_question *cs_call_ask(struct cs_mcp_call *call, const char *method, const char *params);
/** Free the place; the reply, if one has come, is the caller's. */
struct cs_json *cs_call_asked(struct cs_mcp_call *call, struct cs_question *question);
/** Begin a stream that can be resumed while turn @tid runs and after it, where the revision has
 * that. */
void cs_call_prime(struct cs_mcp_call *call, const char *tid);
/** Look whether the call goes on: false when it was cancelled, or the client is gone. */
bool cs_call_beat(struct cs_mcp_call *call);
/** A cursor is the number of the row to go on behind; nobody's business but ours. */
CS_MUST_USE enum cs_status cs_cursor_read(struct cs_mcp_call *call, const char *text,
                                          int64_t *out_id, struct cs_err *err);
/** Write "nextCursor" unless @id is 0. */
void cs_cursor_write(struct cs_jsonw *w, int64_t id);
/** Write `content` as one text. */
void cs_text_write(struct cs_jsonw *w, const char *text, size_t len);
/** The severity of a level's name; -1: none such. */
int cs_log_severity(const char *level);

/* ---- schema.c ---- */

/** Check the object @args (NULL: {}) against @schema: type, enum, bounds and presence of its
 * members, and that there are no others where additionalProperties is false. Nested values are
 * checked for their type only. CS_INVALID, code "invalid_arguments". */
CS_MUST_USE enum cs_status cs_schema_check(const struct cs_json *schema, const struct cs_json *args,
                                           struct cs_err *err);

/* ---- the methods ---- */

enum {
    CS_METHOD_SESSION = 1,   /* with sessions */
    CS_METHOD_STATELESS = 2, /* without */
    CS_METHOD_BOTH = 3,
    CS_METHOD_CACHED = 4, /* its result tells how long it holds */
    CS_METHOD_TASKS = 8,  /* of tasks, which not every revision has */
};
struct cs_method {
    const char *name;
    cs_mcp_handler handler;
    unsigned flags;
    const char *capability; /* that we must have declared; NULL: none */
    const char *name_key;   /* member of params that Mcp-Name repeats; NULL: none */
};
const struct cs_method *cs_method_find(const char *name);
/** Whether this server, in the call's revision, offers it. */
bool cs_method_offered(const struct cs_mcp_call *call, const struct cs_method *method);

/** A call without a message yet; @answer is emptied. */
void cs_call_init(struct cs_mcp_call *call, struct cs_mcp *mcp, const struct cs_mcp_head *head,
                  const struct cs_mcp_stream *stream, struct cs_mcp_answer *answer);
/** What is left of a call: its answer is complete. */
void cs_call_fini(struct cs_mcp_call *call);
/** Answer with an error beside any request. */
void cs_call_deny(struct cs_mcp_call *call, int status, const char *sentence);
/** Let @answer write the members of the result. */
void cs_call_run(struct cs_mcp_call *call, const struct cs_method *method, cs_mcp_handler answer);
/** What a client says it can do, as bits. */
unsigned cs_capabilities_read(const struct cs_json *capabilities);
/** Forget what was written of the result. */
void cs_result_restart(struct cs_mcp_call *call);

/* methods.c */
enum cs_status cs_mcp_initialize(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_discover(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_ping(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_set_level(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_tools_list(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_tools_call(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_resources_list(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_templates_list(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_resources_read(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_subscribe(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_unsubscribe(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_prompts_list(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_prompts_get(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_tasks_get(struct cs_mcp_call *call, struct cs_err *err); /* tasks.c */
enum cs_status cs_mcp_tasks_result(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_tasks_update(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_tasks_cancel(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_tasks_list(struct cs_mcp_call *call, struct cs_err *err);
enum cs_status cs_mcp_subscriptions(struct cs_mcp_call *call, struct cs_err *err); /* listen.c */
enum cs_status cs_mcp_complete(struct cs_mcp_call *call, struct cs_err *err);
/** Write member "serverInfo" (in _meta by its long name). */
void cs_mcp_self(struct cs_mcp_call *call);
/** Render what is served into mcp->tools. */
CS_MUST_USE enum cs_status cs_mcp_prepare(struct cs_mcp *mcp, struct cs_err *err);

#endif
