#include "cs/mirror/url.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define DEFAULT_PORT 6379
#define HOST_MAX     255
#define DB_MAX       65535

/* A part of the address. NULL start: the part is absent. */
struct part {
    const char *at;
    size_t len;
};

struct parts {
    struct part scheme, user, password, host, port, path;
};

static enum cs_status malformed(struct cs_err *err, const char *what)
{
    (void)cs_err_set(err, CS_INVALID, "invalid_redis_url", "Redis URL: %s", what);
    return CS_INVALID;
}

/* ---- Splitting ------------------------------------------------------------------------------- */

/* Cut @whole at the first @c: the head is returned, @whole keeps what follows. Without a @c nothing
 * is cut and the part is absent. */
static struct part cut(struct part *whole, char c)
{
    const char *sep = memchr(whole->at, c, whole->len);
    if (!sep)
        return (struct part){0};
    struct part head = {whole->at, (size_t)(sep - whole->at)};
    *whole = (struct part){sep + 1, whole->len - head.len - 1};
    return head;
}

/* [[user]:password@] of an authority; the last @ ends it, as a password may hold others. */
static void split_userinfo(struct part *authority, struct parts *to)
{
    const char *at = memrchr(authority->at, '@', authority->len);
    if (!at)
        return;
    to->password = (struct part){authority->at, (size_t)(at - authority->at)};
    to->user = cut(&to->password, ':');
    if (!to->user.at) { /* a name without a password */
        to->user = to->password;
        to->password = (struct part){0};
    }
    *authority = (struct part){at + 1, authority->len - (size_t)(at + 1 - authority->at)};
}

static enum cs_status split_host(struct part authority, struct parts *to, struct cs_err *err)
{
    if (authority.len > 0 && authority.at[0] == '[') {
        struct part rest = {authority.at + 1, authority.len - 1};
        to->host = cut(&rest, ']');
        if (!to->host.at)
            return malformed(err, "a [ without ]");
        if (rest.len > 0 && rest.at[0] != ':')
            return malformed(err, "text between ] and the port");
        if (rest.len > 0)
            to->port = (struct part){rest.at + 1, rest.len - 1};
        return CS_OK;
    }
    to->host = cut(&authority, ':');
    if (to->host.at)
        to->port = authority;
    else
        to->host = authority;
    return CS_OK;
}

static enum cs_status split(const char *url, struct parts *to, struct cs_err *err)
{
    for (const char *p = url; *p; p++) {
        if ((unsigned char)*p <= ' ' || *p == 0x7f)
            return malformed(err, "a space or control character");
        if (*p == '?' || *p == '#')
            return malformed(err, "? and # have no meaning here (percent-encode them)");
    }
    const char *sep = strstr(url, "://");
    if (!sep)
        return malformed(err, "no scheme (rediss://, redis://, unix:// or https://)");
    to->scheme = (struct part){url, (size_t)(sep - url)};
    struct part authority = {sep + 3, strlen(sep + 3)};
    const char *slash = strchr(sep + 3, '/');
    if (slash) {
        to->path = (struct part){slash, strlen(slash)};
        authority.len = (size_t)(slash - authority.at);
    }
    split_userinfo(&authority, to);
    return split_host(authority, to, err);
}

/* ---- Parts to values ------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Decode percent-encoding into new memory; an absent part gives NULL. */
static enum cs_status decode(struct part part, const char *bad, char **out, struct cs_err *err)
{
    if (!part.at)
        return CS_OK;
    char *to = malloc(part.len + 1);
    size_t n = 0;
    if (!to)
        return cs_err_nomem(err);
    for (size_t i = 0; i < part.len; i++) {
        int c = (unsigned char)part.at[i];
        if (c == '%') {
            int high = i + 2 < part.len ? hex_digit(part.at[i + 1]) : -1;
            int low = i + 2 < part.len ? hex_digit(part.at[i + 2]) : -1;
            c = high < 0 || low < 0 ? 0 : high * 16 + low;
            i += 2;
        }
        to[n++] = (char)c;
        if (c == 0) {
            explicit_bzero(to, n);
            free(to);
            return malformed(err, bad);
        }
    }
    to[n] = '\0';
    *out = to;
    return CS_OK;
}

/* A decimal number of at most 5 digits in min … max. */
static bool number(struct part part, int min, int max, int *out)
{
    int value = 0;
    if (part.len < 1 || part.len > 5)
        return false;
    for (size_t i = 0; i < part.len; i++) {
        if (part.at[i] < '0' || part.at[i] > '9')
            return false;
        value = value * 10 + (part.at[i] - '0');
    }
    if (value < min || value > max)
        return false;
    *out = value;
    return true;
}

static bool host_is_valid(const char *host)
{
    struct in6_addr six;
    size_t len = strlen(host);
    if (len == 0 || len > HOST_MAX)
        return false;
    if (strchr(host, ':'))
        return inet_pton(AF_INET6, host, &six) == 1;
    for (const char *p = host; *p; p++) {
        bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
        if (!letter && !(*p >= '0' && *p <= '9') && !strchr("-._", *p))
            return false;
    }
    return true;
}

static enum cs_status take_host(const struct parts *parts, struct cs_redis_endpoint *to,
                                struct cs_err *err)
{
    to->host = strndup(parts->host.at, parts->host.len);
    if (!to->host)
        return cs_err_nomem(err);
    if (!host_is_valid(to->host))
        return malformed(err, "the host is missing or malformed");
    to->port = DEFAULT_PORT;
    if (parts->port.at && !number(parts->port, 1, 65535, &to->port))
        return malformed(err, "the port is not a number from 1 to 65535");
    return CS_OK;
}

static enum cs_status take_user(const struct parts *parts, struct cs_redis_endpoint *to,
                                struct cs_err *err)
{
    enum cs_status rc = decode(parts->user, "bad percent-encoding in the user", &to->user, err);
    if (rc == CS_OK)
        rc = decode(parts->password, "bad percent-encoding in the password", &to->password, err);
    if (rc != CS_OK)
        return rc;
    if (to->user && !to->password)
        return malformed(err, "a user without a password");
    if (to->password && to->password[0] == '\0')
        return malformed(err, "an empty password");
    if (to->user && to->user[0] == '\0') { /* ":password@" */
        free(to->user);
        to->user = NULL;
    }
    return CS_OK;
}

/* The token is the password of the user "default". */
static enum cs_status take_token(const char *token, struct cs_redis_endpoint *to,
                                 struct cs_err *err)
{
    if (!to->user)
        to->user = strdup("default");
    to->password = strdup(token);
    to->token = true;
    return to->user && to->password ? CS_OK : cs_err_nomem(err);
}

/* ---- One function per scheme ----------------------------------------------------------------- */

static enum cs_status read_redis(const struct parts *parts, const char *token,
                                 struct cs_redis_endpoint *to, struct cs_err *err)
{
    enum cs_status rc = take_user(parts, to, err);
    if (rc == CS_OK)
        rc = take_host(parts, to, err);
    if (rc != CS_OK)
        return rc;
    if (parts->path.len > 1) {
        struct part db = {parts->path.at + 1, parts->path.len - 1};
        if (!number(db, 0, DB_MAX, &to->db))
            return malformed(err, "the database after / is not a number");
    }
    if (to->scheme == CS_REDIS_TLS && !to->password && token)
        rc = take_token(token, to, err);
    return rc;
}

static enum cs_status read_https(const struct parts *parts, const char *token,
                                 struct cs_redis_endpoint *to, struct cs_err *err)
{
    int port = 443;
    if (parts->user.at || parts->password.at)
        return malformed(err, "an https address takes its secret from the token");
    if (parts->path.len > 1)
        return malformed(err, "an https address has no path");
    if (parts->port.at && !number(parts->port, 443, 443, &port))
        return malformed(err, "an https address has no port (use rediss:// for another one)");
    struct parts host = {.host = parts->host};
    enum cs_status rc = take_host(&host, to, err);
    if (rc != CS_OK)
        return rc;
    if (!token)
        return cs_err_set(err, CS_INVALID, "redis_token_required",
                          "Upstash Redis URL and TOKEN are required");
    return take_token(token, to, err);
}

static enum cs_status read_unix(const struct parts *parts, const char *token,
                                struct cs_redis_endpoint *to, struct cs_err *err)
{
    (void)token;
    if (parts->host.len > 0 || parts->port.at)
        return malformed(err, "a unix address has no host (unix:///path)");
    if (parts->path.len <= 1)
        return malformed(err, "the path of the socket is missing");
    enum cs_status rc = take_user(parts, to, err);
    if (rc == CS_OK)
        rc = decode(parts->path, "bad percent-encoding in the path", &to->path, err);
    if (rc == CS_OK && strlen(to->path) >= sizeof((struct sockaddr_un *)NULL)->sun_path)
        return malformed(err, "the path of the socket is too long");
    return rc;
}

static const struct {
    const char *name;
    enum cs_redis_scheme scheme;
    enum cs_status (*read)(const struct parts *parts, const char *token,
                           struct cs_redis_endpoint *to, struct cs_err *err);
} schemes[] = {
    {"redis", CS_REDIS_TCP, read_redis},
    {"rediss", CS_REDIS_TLS, read_redis},
    {"https", CS_REDIS_TLS, read_https},
    {"unix", CS_REDIS_UNIX, read_unix},
};

enum cs_status cs_redis_endpoint_parse(const char *url, const char *token,
                                       struct cs_redis_endpoint *out_endpoint, struct cs_err *err)
{
    struct cs_redis_endpoint endpoint = {0};
    struct parts parts = {0};
    if (token && token[0] == '\0')
        token = NULL;
    enum cs_status rc = split(url, &parts, err);
    if (rc != CS_OK)
        return rc;
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        if (strlen(schemes[i].name) != parts.scheme.len ||
            strncasecmp(schemes[i].name, parts.scheme.at, parts.scheme.len) != 0)
            continue;
        endpoint.scheme = schemes[i].scheme;
        rc = schemes[i].read(&parts, token, &endpoint, err);
        if (rc == CS_OK)
            *out_endpoint = endpoint;
        else
            cs_redis_endpoint_fini(&endpoint);
        return rc;
    }
    return malformed(err, "the scheme is none of rediss, redis, unix and https");
}

static void wipe(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

void cs_redis_endpoint_fini(struct cs_redis_endpoint *endpoint)
{
    free(endpoint->host);
    free(endpoint->path);
    wipe(endpoint->user);
    wipe(endpoint->password);
    *endpoint = (struct cs_redis_endpoint){0};
}

void cs_redis_endpoint_show(const struct cs_redis_endpoint *endpoint, struct cs_buf *out)
{
    if (endpoint->scheme == CS_REDIS_UNIX) {
        cs_buf_addf(out, "unix://%s", endpoint->path);
        return;
    }
    const char *scheme = endpoint->scheme == CS_REDIS_TLS ? "rediss" : "redis";
    bool six = strchr(endpoint->host, ':') != NULL;
    cs_buf_addf(out, six ? "%s://[%s]:%d" : "%s://%s:%d", scheme, endpoint->host, endpoint->port);
}
