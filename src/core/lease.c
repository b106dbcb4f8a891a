/* core/lease: one turn at a time per session, over all hosts that reach Redis. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cs/base/clock.h"
#include "sync.h"

#define LEASE_WAIT_MS 500

void cs_core_host_name(const struct cs_config *config, char out[64])
{
    size_t len;

    out[0] = '\0';
    if (config->host_name != NULL)
        (void)snprintf(out, 64, "%s", config->host_name);
    else if (gethostname(out, 63) != 0)
        out[0] = '\0';
    out[63] = '\0';
    len = strlen(out);
    if (len == 0 || !cs_utf8_valid(out, len))
        (void)snprintf(out, 64, "host");
}

enum cs_status cs_lease_begin(struct cs_turn *turn, struct cs_err *err)
{
    struct cs_core *core = turn->core;
    struct cs_err why = {0};
    /* nobody else knows a new session yet: its lease can wait until others do */
    int64_t deadline = turn->row.continued ? cs_mono_ms() + LEASE_WAIT_MS : 0;
    enum cs_status rc;

    if (core->mirror == NULL)
        return CS_OK;
    rc = cs_mirror_lease(core->mirror, turn->session.sid, deadline, &why);
    if (rc == CS_CONFLICT)
        return cs_err_set(err, rc, why.code, "%s", why.msg);
    turn->row.stale = turn->row.continued && rc != CS_OK;
    return CS_OK;
}

void cs_lease_end(struct cs_turn *turn)
{
    if (turn->core->mirror != NULL)
        cs_mirror_lease_end(turn->core->mirror, turn->session.sid);
}
