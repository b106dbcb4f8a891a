/* main/redis: the settings of Redis, looked at before anything is started.
 *
 * Layer: main.
 */
#ifndef CS_MAIN_REDIS_H
#define CS_MAIN_REDIS_H

#include "cs/base/config.h"
#include "cs/mirror/url.h"

/** Read the address from the settings; *out_endpoint as of cs_redis_endpoint_parse(), empty when no
 * Redis is set. CS_INVALID as there, and for a token without an address. */
CS_MUST_USE enum cs_status cs_redis_settings(const struct cs_config *config,
                                             struct cs_redis_endpoint *out_endpoint,
                                             struct cs_err *err);

/** Whether the name is one that many machines have for a user of theirs: in one Redis, two people
 * of that name would share their sessions. */
bool cs_user_is_common(const char *user);

/** Connect, log in and run the smallest of scripts. On failure *err says why, and @hint what to do.
 */
CS_MUST_USE enum cs_status cs_redis_probe(const struct cs_config *config,
                                          const struct cs_redis_endpoint *endpoint,
                                          const char **out_hint, struct cs_err *err);

#endif
