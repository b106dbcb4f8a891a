/* mirror/error: what an error of Redis asks for. */
#include <string.h>

#include "priv.h"

/* Every code that this module records, with its class. */
static const struct {
    const char *code;
    enum cs_redis_class class;
    enum cs_status status;
} codes[] = {
    [CS_ERROR_TIMEOUT] = {"redis_timeout", CS_REDIS_LOST, CS_TIMEOUT},
    [CS_ERROR_LOST] = {"redis_lost", CS_REDIS_LOST, CS_UNAVAILABLE},
    [CS_ERROR_UNREACHABLE] = {"redis_unreachable", CS_REDIS_LOST, CS_UNAVAILABLE},
    [CS_ERROR_PROTOCOL] = {"redis_protocol", CS_REDIS_LOST, CS_CORRUPT},
    [CS_ERROR_AUTH] = {"redis_auth", CS_REDIS_DENIED, CS_DENIED},
    [CS_ERROR_TLS] = {"redis_tls", CS_REDIS_DENIED, CS_DENIED},
    [CS_ERROR_READONLY] = {"redis_readonly", CS_REDIS_READONLY, CS_UNAVAILABLE},
    [CS_ERROR_FULL] = {"redis_full", CS_REDIS_FULL, CS_BUSY},
    [CS_ERROR_LARGE] = {"redis_too_large", CS_REDIS_LARGE, CS_TOO_LARGE},
    [CS_ERROR_NOSCRIPT] = {"redis_noscript", CS_REDIS_NOSCRIPT, CS_NOT_FOUND},
    [CS_ERROR_REFUSED] = {"redis_refused", CS_REDIS_REFUSED, CS_UPSTREAM},
    [CS_ERROR_QUEUE] = {"redis_queue_full", CS_REDIS_STOPPED, CS_BUSY},
    [CS_ERROR_STOPPED] = {"redis_stopped", CS_REDIS_STOPPED, CS_CANCELLED},
};
#define CODES (sizeof codes / sizeof *codes)

/* The first word of an error reply. */
static const struct {
    const char *word;
    enum cs_error error;
} words[] = {
    {"NOAUTH", CS_ERROR_AUTH},         {"WRONGPASS", CS_ERROR_AUTH},
    {"NOPERM", CS_ERROR_AUTH},         {"DENIED", CS_ERROR_AUTH},
    {"READONLY", CS_ERROR_READONLY},   {"MASTERDOWN", CS_ERROR_READONLY},
    {"LOADING", CS_ERROR_READONLY},    {"BUSY", CS_ERROR_READONLY},
    {"TRYAGAIN", CS_ERROR_READONLY},   {"CLUSTERDOWN", CS_ERROR_READONLY},
    {"NOREPLICAS", CS_ERROR_READONLY}, {"OOM", CS_ERROR_FULL},
    {"MISCONF", CS_ERROR_FULL},        {"NOSCRIPT", CS_ERROR_NOSCRIPT},
};

/* What follows "ERR" when the word says nothing: Redis' own limits and those of Upstash. Older
 * servers wrap an error that ended a script: "… @user_script: 1: -OOM command not allowed". */
static const struct {
    const char *phrase;
    enum cs_error error;
} phrases[] = {
    {"max request size exceeded", CS_ERROR_LARGE},
    {"invalid bulk length", CS_ERROR_LARGE},
    {"invalid multibulk length", CS_ERROR_LARGE},
    {"quota exceeded", CS_ERROR_FULL},
    {"max requests limit exceeded", CS_ERROR_FULL},
    {"max daily request limit exceeded", CS_ERROR_FULL},
    {"max concurrent connections exceeded", CS_ERROR_UNREACHABLE},
    {"max number of clients reached", CS_ERROR_UNREACHABLE},
    {": -OOM ", CS_ERROR_FULL},
    {": -MISCONF ", CS_ERROR_FULL},
    {": -READONLY ", CS_ERROR_READONLY},
    {": -NOREPLICAS ", CS_ERROR_READONLY},
    {": -NOPERM ", CS_ERROR_AUTH},
    {"The user executing the script can't", CS_ERROR_AUTH},
    {"ACL failure in script", CS_ERROR_AUTH},
};

enum cs_error cs_error_of_reply(const char *text)
{
    size_t len = strcspn(text, " ");
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strlen(words[i].word) == len && memcmp(words[i].word, text, len) == 0)
            return words[i].error;
    }
    for (size_t i = 0; i < sizeof phrases / sizeof *phrases; i++) {
        if (strstr(text, phrases[i].phrase))
            return phrases[i].error;
    }
    return CS_ERROR_REFUSED;
}

enum cs_status cs_error_set(struct cs_err *err, enum cs_error error, const char *doing,
                            const char *detail)
{
    return cs_err_set(err, codes[error].status, codes[error].code, detail ? "%s: %s" : "%s", doing,
                      detail);
}

enum cs_redis_class cs_redis_class(const struct cs_err *err)
{
    if (err->status == CS_OK)
        return CS_REDIS_FINE;
    for (size_t i = 0; i < CODES; i++) {
        if (strcmp(codes[i].code, err->code) == 0)
            return codes[i].class;
    }
    /* A call with wrong arguments will be wrong again; what this host lacks may come back. */
    return err->status == CS_INVALID ? CS_REDIS_REFUSED : CS_REDIS_LOST;
}

const char *cs_redis_class_name(enum cs_redis_class class)
{
    static const char *const names[] = {
        [CS_REDIS_FINE] = "fine",         [CS_REDIS_LOST] = "lost",
        [CS_REDIS_DENIED] = "auth",       [CS_REDIS_READONLY] = "readonly",
        [CS_REDIS_FULL] = "full",         [CS_REDIS_LARGE] = "large",
        [CS_REDIS_NOSCRIPT] = "noscript", [CS_REDIS_REFUSED] = "refused",
        [CS_REDIS_STOPPED] = "stopped",
    };
    return names[class];
}

bool cs_redis_class_reconnects(enum cs_redis_class class)
{
    return class == CS_REDIS_LOST || class == CS_REDIS_DENIED || class == CS_REDIS_READONLY;
}
