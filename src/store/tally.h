/* store/tally: running totals, so that figures cost no scan.
 *
 * Changes are gathered in the writer's cs_db and reach the table once per transaction, however many
 * writes it groups.
 */
#ifndef CS_STORE_TALLY_H
#define CS_STORE_TALLY_H

#include <stdint.h>

#include "cs/store/store.h"

/* The counts of turns are in the order of enum cs_turn_status. */
enum cs_tally {
    CS_TALLY_SESSIONS_LIVE,
    CS_TALLY_SESSIONS_ARCHIVED,
    CS_TALLY_TURNS_RUNNING,
    CS_TALLY_TURNS_COMPLETED,
    CS_TALLY_TURNS_FAILED,
    CS_TALLY_TURNS_INTERRUPTED,
    CS_TALLY_TURNS_CANCELLED,
    CS_TALLY_TOKENS_INPUT,
    CS_TALLY_TOKENS_CACHED_INPUT,
    CS_TALLY_TOKENS_OUTPUT,
    CS_TALLY_COUNT,
};

/** W. Count @change; it is kept or dropped with the write it belongs to. */
void cs_tally_add(struct cs_db *db, enum cs_tally which, int64_t change);

/** W. Bring what was counted into the table, before the commit. */
CS_MUST_USE enum cs_status cs_tally_flush(struct cs_db *db, struct cs_err *err);

/** The total, with what this transaction has counted. */
CS_MUST_USE enum cs_status cs_tally_get(struct cs_db *db, enum cs_tally which, int64_t *out_value,
                                        struct cs_err *err);

/** W. Read the greatest ids ever given out into db->tops. */
CS_MUST_USE enum cs_status cs_tally_load_tops(struct cs_db *db, struct cs_err *err);
/** The greatest message id given out that a reader may know. */
CS_MUST_USE enum cs_status cs_tally_top_message(struct cs_db *db, int64_t *out_id,
                                                struct cs_err *err);
/** W. Remember db->tops in the table: before rows are deleted. */
CS_MUST_USE enum cs_status cs_tally_save_tops(struct cs_db *db, struct cs_err *err);

#endif
