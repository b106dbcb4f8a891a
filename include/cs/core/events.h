/* core/events: what happens in this store, told to whoever listens: live, or from the store again.
 *
 * Layer: core. There are two kinds of events. A *lasting* one is a row of the log (a prompt, an
 * answer, an outcome), of this host or merged in from another one; its id is the row's, and a
 * listener that comes back with the last id that it saw gets every later one, once, in the order of
 * ids, also over restarts. A *passing* one (a delta, an item, usage, an approval) has id 0 and is
 * for those who listen now: what matters of it is in the lasting event that ends the turn. What
 * Codex asks and nobody has answered is told again to who begins to listen.
 *
 *   turn.started        lasting: a prompt is durable
 *   message.delta       passing: {…, "delta": text}
 *   item                passing: {…, "item": as Codex reports it}
 *   usage               passing: {…, "usage": {inputTokens, cachedInputTokens, outputTokens}}
 *   approval.requested  passing: {…, "approvalId", "kind", "request", "expiresAt"}
 *   approval.resolved   passing: {…, "approvalId", "decision", "by"}
 *   turn.completed      lasting: {…, "response", …}
 *   turn.failed         lasting: {…, "status", "code", "error"}; passing only when the disk refuses
 * it
 *
 * What a fork copies is no event: nothing happened anew.
 *
 * Every event's data is a JSON object that begins with sessionId, conversationId, userId and
 * turnId.
 *
 * Any thread may open a feed; a feed belongs to one thread, but for cs_feed_wake(). What is waiting
 * in a feed is bounded; a listener that falls behind is told so and must open another one.
 */
#ifndef CS_CORE_EVENTS_H
#define CS_CORE_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/err.h"

struct cs_core;
struct cs_feed;

/** What to listen to. NULL means all; several narrow it together. Borrowed during the call. */
struct cs_feed_filter {
    const char *identifier; /* session or conversation id, live or archived */
    const char *user;
    const char *turn; /* turn id: begins with its turn.started, whatever `after` says */
    int64_t after;    /* id of the last event seen; -1: only what happens from now on */
};

struct cs_event {
    int64_t id;       /* 0: passing */
    const char *name; /* static */
    const char *data; /* a JSON object; valid until the next call on the feed */
    size_t len;
};

/**
 * Listen. What happens after this returns is not missed. CS_NOT_FOUND (session_not_found,
 * turn_not_found); CS_CONFLICT, code "events_lost", when `after` is ahead of the store (it was put
 * back to a backup): the listener must look at the sessions anew and go on with -1; CS_UNAVAILABLE,
 * code "shutting_down"; CS_NO_MEM.
 */
CS_MUST_USE enum cs_status cs_feed_open(struct cs_core *core, const struct cs_feed_filter *filter,
                                        struct cs_feed **out_feed, struct cs_err *err);

/**
 * The next event, waiting at most until @deadline (cs_mono_ms()): CS_TIMEOUT then. CS_CANCELLED
 * after cs_feed_wake(), once per call; CS_BUSY, code "slow_reader", when more was waiting than a
 * feed may hold: nothing more comes; CS_UNAVAILABLE, code "shutting_down", when the daemon stops,
 * after all that was waiting.
 */
CS_MUST_USE enum cs_status cs_feed_next(struct cs_feed *feed, int64_t deadline,
                                        struct cs_event *out_event, struct cs_err *err);

/** The id to come back with: of the last lasting event given out or passed over, or where the feed
 * began. The owning thread's. */
int64_t cs_feed_position(const struct cs_feed *feed);

/** Whether it is a turn's last event. */
bool cs_event_ends_turn(const struct cs_event *event);

/** Make cs_feed_next() return, on whatever thread waits in it. */
void cs_feed_wake(struct cs_feed *feed);

/** NULL is a no-op. */
void cs_feed_close(struct cs_feed *feed);

#endif
