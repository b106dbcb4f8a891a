/* core/sync and core/lease, for the rest of core: what a change tells the mirror, and what a
 * request asks of it.
 *
 * Layer: core, private. All of it is nothing when no Redis is set.
 */
#ifndef CS_CORE_SYNC_H
#define CS_CORE_SYNC_H

#include "priv.h"

/** Make the mirror as @config says and start it. core->sync stays NULL without Redis. */
CS_MUST_USE enum cs_status cs_sync_start(struct cs_core *core, const struct cs_core_parts *parts,
                                         struct cs_err *err);
/** Go to the Redis of the settings @next that come after @old, if it is another one. Where there
 * was none, or is to be none, @next gets the old settings back and *out_restart is set. @next must
 * outlive the mirror. CS_INVALID: they cannot be used, and nothing has changed. */
CS_MUST_USE enum cs_status cs_sync_reload(struct cs_core *core, const struct cs_config *old,
                                          struct cs_config *next, bool *out_restart,
                                          struct cs_err *err);
/** The store as the mirror sees it (sync_port.c). */
struct cs_mirror_port cs_sync_port(struct cs_core *core);
/** Another host was seen at work at @at (wall ms). @name may be NULL. */
void cs_sync_note_host(struct cs_core *core, const char *name, int64_t at);
/** Offer what is unsent, then end the threads. */
void cs_sync_stop(struct cs_core *core);

/** A write was committed that other hosts should see. */
void cs_sync_wake(struct cs_core *core);
/** Writer thread: delete a session and leave its tombstone. */
CS_MUST_USE enum cs_status cs_sync_delete(struct cs_db *db, const struct cs_session *session,
                                          struct cs_err *err);

/** Ask for the turn's lease, for at most 500 ms. CS_CONFLICT session_busy when another host has
 * it; whatever else keeps Redis from answering, the turn goes on without. */
CS_MUST_USE enum cs_status cs_lease_begin(struct cs_turn *turn, struct cs_err *err);
void cs_lease_end(struct cs_turn *turn);

#endif
