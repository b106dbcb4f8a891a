/* store/branch: which messages lead to the newest one.
 *
 * A conversation that two hosts went on with while apart has branches: messages of the same parent
 * from different origins. All are kept; the active ones are those from the first to the newest in
 * order, along the parents.
 */
#ifndef CS_STORE_BRANCH_H
#define CS_STORE_BRANCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/store/store.h"

struct cs_path_link {
    int64_t origin, seq;
    int64_t parent_origin, parent_seq;
    bool active;
};
struct cs_path {
    struct cs_path_link *links; /* all messages of the session, in order */
    size_t count, cap;
    bool branched; /* some are not active */
};
void cs_path_fini(struct cs_path *path);
CS_MUST_USE enum cs_status cs_path_read(struct cs_db *db, int64_t session, struct cs_path *out_path,
                                        struct cs_err *err);
/** Whether message (@origin, @seq) is active; unknown ones are. *hint speeds up a walk in order:
 * start at 0. */
bool cs_path_active(const struct cs_path *path, int64_t origin, int64_t seq, size_t *hint);

/** Whether the session was flagged as branched. */
CS_MUST_USE enum cs_status cs_branch_flagged(struct cs_db *db, int64_t session, bool *out_flagged,
                                             struct cs_err *err);
/** W. */
CS_MUST_USE enum cs_status cs_branch_flag(struct cs_db *db, int64_t session, struct cs_err *err);

#endif
