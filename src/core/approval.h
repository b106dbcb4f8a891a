/* core/approval, for the rest of core: what Codex asks in a turn.
 *
 * Layer: core, private. The first six are for the thread that drives the turn.
 */
#ifndef CS_CORE_APPROVAL_H
#define CS_CORE_APPROVAL_H

#include "priv.h"

/** Offer what Codex asks, or decline it at once when it is above the operator's ceiling. */
void cs_approval_asked(struct cs_turn *turn, const struct cs_engine_event *event);
/** Mono ms at which the next open one is too late; CS_NEVER. */
int64_t cs_approval_due(struct cs_turn *turn);
/** Mono ms at which the turn's time is over. Its clock stands while one is open: then it is when
 * that would be if each were answered now, and never in the past. */
int64_t cs_approval_deadline(struct cs_turn *turn);
/** Decline those. */
void cs_approval_expire(struct cs_turn *turn);
/** An event came from Codex: those who answered what it may follow from have told of that. */
void cs_approval_await_told(struct cs_turn *turn);
/** The engine's turn is over: close what is open. */
void cs_approval_end(struct cs_turn *turn, enum cs_stop stop);
/** With the last reference to the turn. */
void cs_approval_free(struct cs_turn *turn);

/** Tell @feed alone of what is open, as far as it was asked before core->asked was @upto. */
void cs_approval_tell_again(struct cs_core *core, struct cs_feed *feed, int64_t upto);
/** With core->mutex: mono ms at which who waits for the turn since @since is to look at what is
 * open; CS_NEVER when nothing is. */
int64_t cs_approval_news(const struct cs_turn *turn, int64_t since);
/** The open ones of a turn as a JSON array, for free(); *out_json stays as it is for none. */
CS_MUST_USE enum cs_status cs_approval_list(struct cs_core *core, const char *tid, char **out_json,
                                            struct cs_err *err);

#endif
