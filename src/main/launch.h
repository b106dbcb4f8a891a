/* main/launch: the daemon of a data folder, started when there is none.
 *
 * Layer: main. One thread. Whoever starts a daemon at the same time, one of them gets the folder's
 * lock, and all use that one. It has a session of its own and outlives its starter; what it logs
 * goes to daemon.log in the data folder.
 */
#ifndef CS_MAIN_LAUNCH_H
#define CS_MAIN_LAUNCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "verbs.h"

struct cs_launch {
    const struct cs_verb_input *input; /* borrowed: its settings are the daemon's */
    pid_t child;                       /* the daemon we started; 0: none that runs */
    bool seen;                         /* a daemon was there when we last looked */
    int64_t again_at;                  /* when another may be started */
};

void cs_launch_init(struct cs_launch *launch, const struct cs_verb_input *input);

/** The port of the daemon. CS_BUSY: one is starting or stopping, ask again in a moment.
 * CS_UNAVAILABLE, code "no_daemon": none can be started; the message says why. */
CS_MUST_USE enum cs_status cs_launch_port(struct cs_launch *launch, int *out_port,
                                          struct cs_err *err);

#endif
