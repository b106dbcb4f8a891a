/* mirror/url: where Redis is, read from settings.
 *
 * Layer: mirror. Any thread. Nothing here shows a user name or a password.
 */
#ifndef CS_MIRROR_URL_H
#define CS_MIRROR_URL_H

#include <stdbool.h>

#include "cs/base/buf.h"
#include "cs/base/err.h"

enum cs_redis_scheme {
    CS_REDIS_TCP,  /* redis:// */
    CS_REDIS_TLS,  /* rediss:// and https:// */
    CS_REDIS_UNIX, /* unix:// */
};

/** A parsed address. The struct owns its strings; zero-initialised it holds nothing. */
struct cs_redis_endpoint {
    enum cs_redis_scheme scheme;
    char *host;     /* name or IP literal, IPv6 without brackets; NULL for unix */
    char *path;     /* the socket's path; NULL but for unix */
    char *user;     /* NULL: AUTH with the password alone */
    char *password; /* NULL: no AUTH */
    int port;       /* 1 … 65535; 0 for unix */
    int db;         /* 0: no SELECT */
    bool token;     /* the password is the token, not part of the address */
};

/**
 * Read @url, one of
 *   redis://[[user]:password@]host[:port][/db]
 *   rediss://[[user]:password@]host[:port][/db]
 *   unix://[[user]:password@]/path
 *   https://host, which with @token stands for rediss://default:token@host:6379
 * User, password and path may be percent-encoded. @token (may be NULL) is also the password of a
 * rediss:// address that has none. On CS_OK the caller calls cs_redis_endpoint_fini().
 * CS_INVALID: code "redis_token_required" for an https address without token, else code
 * "invalid_redis_url"; the message says which part is wrong and never quotes the address.
 */
CS_MUST_USE enum cs_status cs_redis_endpoint_parse(const char *url, const char *token,
                                                   struct cs_redis_endpoint *out_endpoint,
                                                   struct cs_err *err);

/** Wipe and free the strings; the endpoint then holds nothing. */
void cs_redis_endpoint_fini(struct cs_redis_endpoint *endpoint);

/** Append what may be shown: "rediss://host:port" or "unix:///path". */
void cs_redis_endpoint_show(const struct cs_redis_endpoint *endpoint, struct cs_buf *out);

#endif
