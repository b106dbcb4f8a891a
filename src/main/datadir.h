/* main/datadir: the daemon's data folder and its lock.
 *
 * Layer: main.
 */
#ifndef CS_MAIN_DATADIR_H
#define CS_MAIN_DATADIR_H

#include "cs/base/err.h"

/** Who serves a data folder. */
struct cs_datadir_owner {
    long pid; /* 0: nobody */
    int port; /* 0: not listening yet */
};

/** Make the folder private and take its lock, which ends with the process. CS_CONFLICT, code
 * "already_running", when another daemon has it; the message names its pid. *out_fd stays open as
 * long as the lock is held. */
CS_MUST_USE enum cs_status cs_datadir_lock(const char *dir, int *out_fd, struct cs_err *err);
/** Note our pid and @port in the lock file, for doctor. */
CS_MUST_USE enum cs_status cs_datadir_announce(int fd, int port, struct cs_err *err);
/** Who holds the lock now. */
CS_MUST_USE enum cs_status cs_datadir_owner(const char *dir, struct cs_datadir_owner *out_owner,
                                            struct cs_err *err);
/** An id of the folder for marking child processes: 16 hex digits of a hash of its resolved path.
 */
CS_MUST_USE enum cs_status cs_datadir_instance(const char *dir, char out[17], struct cs_err *err);

#endif
