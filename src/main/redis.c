#include "redis.h"

#include <string.h>

#include "cs/base/clock.h"
#include "cs/mirror/redis.h"

#define PROBE_MS 5000

enum cs_status cs_redis_settings(const struct cs_config *config,
                                 struct cs_redis_endpoint *out_endpoint, struct cs_err *err)
{
    if (config->redis_url == NULL && config->redis_token != NULL)
        return cs_err_set(err, CS_INVALID, "redis_url_required",
                          "Upstash Redis URL and TOKEN are required");
    if (config->redis_url == NULL) {
        *out_endpoint = (struct cs_redis_endpoint){0};
        return CS_OK;
    }
    return cs_redis_endpoint_parse(config->redis_url, config->redis_token, out_endpoint, err);
}

bool cs_user_is_common(const char *user)
{
    static const char *const names[] = {
        "root",      "admin", "administrator", "ubuntu",  "debian", "fedora", "centos",  "ec2-user",
        "azureuser", "pi",    "user",          "default", "guest",  "test",   "vagrant", "nobody"};
    size_t i;

    for (i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(user, names[i]) == 0)
            return true;
    return false;
}

static const char *hint(const struct cs_redis_endpoint *endpoint, const struct cs_err *err)
{
    switch (cs_redis_class(err)) {
    case CS_REDIS_DENIED:
        if (strcmp(err->code, "redis_tls") == 0)
            return "check the host name and the clock; --redis-ca names a private CA";
        if (endpoint->token)
            return "the token is not its password: set UPSTASH_REDIS_URL to the rediss:// address";
        return "check user and password, and that the user may read, write and run scripts";
    case CS_REDIS_READONLY:
        return "it takes no writes now: use the address of the primary, or wait";
    case CS_REDIS_FULL:
        return "give it more memory or a larger plan";
    case CS_REDIS_FINE:
    case CS_REDIS_LOST:
    case CS_REDIS_LARGE:
    case CS_REDIS_NOSCRIPT:
    case CS_REDIS_REFUSED:
    case CS_REDIS_STOPPED:
        break;
    }
    return "check address and network; meanwhile the daemon works without it";
}

enum cs_status cs_redis_probe(const struct cs_config *config,
                              const struct cs_redis_endpoint *endpoint, const char **out_hint,
                              struct cs_err *err)
{
    struct cs_redis_options options = {.endpoint = endpoint, .ca_file = config->redis_ca};
    int64_t deadline = cs_mono_ms() + PROBE_MS;
    struct cs_redis *redis = NULL;
    struct cs_reply *reply = NULL;
    struct cs_err why = {0};
    enum cs_status rc = cs_redis_new(&options, &redis, &why);

    if (rc == CS_OK)
        rc = cs_redis_connect(redis, deadline, &why);
    if (rc == CS_OK)
        rc = cs_redis_call(redis, deadline, &reply, &why, "EVAL", "return 1", "0", NULL);
    cs_reply_free(reply);
    cs_redis_free(redis);
    if (rc == CS_OK)
        return CS_OK;
    *out_hint = hint(endpoint, &why);
    return cs_err_set(err, rc, why.code, "%s", why.msg);
}
