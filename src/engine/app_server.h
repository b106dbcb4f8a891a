/* engine/app_server: the app-server driver, in four files.
 *
 * Layer: engine, private. app_server.c has the child, its handshake and who uses which thread;
 * app_line.c hears what the child says, on its reader thread; app_ladder.c brings a turn to a
 * thread, and app_event.c tells what happens in it, both on the owner's thread.
 *
 * One child, `codex app-server`, holds many threads. Wire facts (0.98 to 0.169): requests and
 * replies are JSON objects, a line each; notifications name their thread and turn. A thread must be
 * loaded by the child before a turn: thread/start makes one, thread/resume reads one from Codex's
 * own files, and one process at a time may write a thread. A second turn/start on a busy thread
 * would steer the running turn. What a turn sets (sandbox, model) sticks to the thread, and so does
 * the prompt of a turn that failed or was interrupted, until thread/revert. After turn/interrupt a
 * shell tool keeps running, which thread/backgroundTerminals/clean ends; that is why the handshake
 * asks for experimentalApi.
 *
 * With approvalPolicy on-request Codex asks by requests of its own, whose ids begin at 0. One about
 * a command does not say whether the command is to leave the sandbox; one about a patch names an
 * item, and what it changes was told before, by item/started. A user's approvals_reviewer could let
 * a model answer in our place, so the reviewer is always named. An interrupt settles what is open.
 */
#ifndef CS_ENGINE_APP_SERVER_H
#define CS_ENGINE_APP_SERVER_H

#include "app_thread.h"
#include "rpc_turn.h"

#define CS_APP_PATCHES_MAX CS_LINK_ASKS_MAX

/** The recovery ladder: what the turn waits for. */
enum cs_app_rung {
    CS_RUNG_START,
    CS_RUNG_RESUME,
    CS_RUNG_REVERT,
    CS_RUNG_FORK,
    CS_RUNG_INJECT,
    CS_RUNG_TURN
};

/** What an item is about to change: a question about it names the item only. */
struct cs_app_patch {
    char item[CS_CODEX_ID_MAX];
    char *changes; /* JSON; or NULL */
};

/** A turn. The owner's thread alone uses it, but for the claim. */
struct cs_app_turn {
    struct cs_rpc_turn rpc;    /* first */
    struct cs_app_claim claim; /* guarded by the link's mutex */
    enum cs_app_rung rung;
    bool resumed, spoke, preamble;
    char thread_id[CS_CODEX_ID_MAX], orphan[CS_CODEX_ID_MAX];
    struct cs_app_patch *patches; /* the last CS_APP_PATCHES_MAX that began, a ring; or NULL */
    size_t patch_count;
};

struct cs_driver {
    struct cs_link link; /* first */
    /* Guarded by the link's mutex: */
    struct cs_app_threads threads;
    char *default_model; /* Codex's own, once it is known */
    bool initialized;    /* the child has answered initialize */
};

/* Threads (app_server.c); the caller holds the link's mutex. */

/** A line with only a threadId (and a turnId, if not NULL) whose reply nobody waits for. */
void cs_app_send_about(struct cs_driver *driver, const char *method, const char *thread_id,
                       const char *turn_id);
/** The turn uses @thread, which is free, from now on, and no other. */
void cs_app_take(struct cs_driver *driver, struct cs_app_turn *state, struct cs_app_thread *thread);
/** The turn uses no thread any more. */
void cs_app_leave(struct cs_driver *driver, struct cs_app_turn *state);
/** If nobody of ours uses the thread now, keep it loaded, within reason. */
void cs_app_rest(struct cs_driver *driver, struct cs_app_thread *thread);

/* Notifications that go to a turn, and what they mean for the thread (app_line.c). */

enum cs_app_notice {
    CS_NOTICE_OTHER,
    CS_NOTICE_DELTA,
    CS_NOTICE_BEGUN,
    CS_NOTICE_ITEM,
    CS_NOTICE_USAGE,
    CS_NOTICE_MODEL,
    CS_NOTICE_STARTED,
    CS_NOTICE_COMPLETED,
    CS_NOTICE_SETTLED,
    CS_NOTICE_CLOSED
};
enum cs_app_notice cs_app_notice_of(const char *method);

/* Entries of struct cs_link_ops. */

void cs_app_on_reply(struct cs_driver *driver, struct cs_link_turn *node,
                     const struct cs_codex_line *line); /* app_line.c */
void cs_app_on_notice(struct cs_driver *driver, struct cs_codex_line *line);
bool cs_app_on_request(struct cs_driver *driver, struct cs_codex_line *line);
const char *cs_app_answer(const char *method);
void cs_app_ready(struct cs_driver *driver, struct cs_engine_turn *turn); /* app_ladder.c */
void cs_app_replied(struct cs_driver *driver, struct cs_engine_turn *turn,
                    const struct cs_json *json);
void cs_app_noticed(struct cs_driver *driver, struct cs_engine_turn *turn,
                    const struct cs_json *json); /* app_event.c */
void cs_app_asked(struct cs_engine_turn *turn, const struct cs_json *request, const char *detail);

#endif
