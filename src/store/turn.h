/* store/turn, inside the store: what only opening needs. */
#ifndef CS_STORE_TURN_PRIV_H
#define CS_STORE_TURN_PRIV_H

#include <stdint.h>

#include "cs/store/turn.h"

/** W. End every running turn as interrupted, with an outcome message each. */
CS_MUST_USE enum cs_status cs_turn_interrupt_all(struct cs_db *db, int64_t now, struct cs_err *err);

#endif
