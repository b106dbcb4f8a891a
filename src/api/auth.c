/* api/auth: who may use the daemon: its own user on this host, or whoever holds the token. */
#include <arpa/inet.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "cs/base/clock.h"
#include "cs/base/file.h"
#include "cs/base/log.h"
#include "cs/base/uuid.h"
#include "priv.h"

#define WRONG_TOKENS_MAX 20 /* in a row; then one a second */

void cs_limiter_init(struct cs_limiter *limiter)
{
    (void)pthread_mutex_init(&limiter->mutex, NULL);
    limiter->left = WRONG_TOKENS_MAX;
    limiter->refilled_at = cs_mono_ms();
}

void cs_limiter_fini(struct cs_limiter *limiter)
{
    (void)pthread_mutex_destroy(&limiter->mutex);
}

bool cs_limiter_take(struct cs_limiter *limiter, int64_t now, int *out_seconds)
{
    int64_t seconds;
    bool taken;

    (void)pthread_mutex_lock(&limiter->mutex);
    seconds = (now - limiter->refilled_at) / 1000;
    if (seconds > 0) {
        limiter->refilled_at += seconds * 1000;
        limiter->left = seconds >= WRONG_TOKENS_MAX - limiter->left ? WRONG_TOKENS_MAX
                                                                    : limiter->left + (int)seconds;
    }
    taken = limiter->left > 0;
    if (taken)
        limiter->left--;
    else
        *out_seconds = 1;
    (void)pthread_mutex_unlock(&limiter->mutex);
    return taken;
}

static bool is_token_text(const struct cs_buf *text)
{
    return text->len == CS_TOKEN_LEN && strspn(text->data, "0123456789abcdef") == CS_TOKEN_LEN;
}

static enum cs_status read_token(const char *path, char out[CS_TOKEN_LEN + 1], struct cs_err *err)
{
    struct cs_buf text;
    struct stat st;
    enum cs_status rc;

    cs_buf_init(&text, 256);
    rc = cs_file_read(path, &text, err);
    if (rc == CS_OK && (stat(path, &st) != 0 || (st.st_mode & 077) != 0))
        rc = cs_err_set(err, CS_DENIED, "token_exposed",
                        "%s can be read by others: delete it for a new one", path);
    while (rc == CS_OK && text.len > 0 && text.data[text.len - 1] == '\n')
        text.data[--text.len] = '\0';
    if (rc == CS_OK && is_token_text(&text))
        memcpy(out, text.data, CS_TOKEN_LEN + 1);
    else if (rc == CS_OK)
        rc = cs_err_set(err, CS_CORRUPT, "bad_token",
                        "%s does not hold a token of %d hex digits: delete it for a new one", path,
                        CS_TOKEN_LEN);
    if (text.data != NULL)
        explicit_bzero(text.data, text.cap);
    cs_buf_fini(&text);
    return rc;
}

enum cs_status cs_token_load(const char *path, char out[65], struct cs_err *err)
{
    unsigned char secret[CS_TOKEN_LEN / 2];
    char text[CS_TOKEN_LEN + 2];
    enum cs_status rc;

    rc = read_token(path, out, NULL);
    if (rc == CS_OK)
        return CS_OK;
    if (rc != CS_NOT_FOUND)
        return read_token(path, out, err);
    rc = cs_random(secret, sizeof secret, err);
    if (rc == CS_OK) {
        cs_hex(secret, sizeof secret, text);
        memcpy(text + CS_TOKEN_LEN, "\n", 2);
        rc = cs_file_write_private(path, text, CS_TOKEN_LEN + 1, err);
    }
    explicit_bzero(secret, sizeof secret);
    explicit_bzero(text, sizeof text);
    /* What the file holds is what counts: another process may have made one in the same moment. */
    return rc == CS_OK ? read_token(path, out, err) : rc;
}

static bool is_token(const struct cs_http *http, const char *authorization)
{
    const char *given;

    if (strncasecmp(authorization, "Bearer ", 7) != 0)
        return false;
    given = authorization + 7;
    given += strspn(given, " ");
    return strlen(given) == CS_TOKEN_LEN && cs_equal_secret(given, http->token, CS_TOKEN_LEN);
}

bool cs_client_address(const struct mg_request_info *info, struct sockaddr_storage *out)
{
    struct sockaddr_in *in = (struct sockaddr_in *)(void *)out;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)out;
    uint16_t port = htons((uint16_t)info->remote_port);

    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, info->remote_addr, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = port;
        return true;
    }
    if (inet_pton(AF_INET6, info->remote_addr, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = port;
        return true;
    }
    return false;
}

/* Whether a process of our user holds the other end. Asked once per connection: the answer is kept
 * as its user data. */
static bool peer_is_ours(struct cs_request *rq)
{
    static char ours, other; /* only their addresses count */
    const void *known = mg_get_user_connection_data(rq->conn);
    struct sockaddr_storage client;
    enum cs_peer peer = CS_PEER_OTHER;

    if (known != NULL)
        return known == &ours;
    if (cs_client_address(rq->info, &client))
        peer = cs_peer_find(&client, &rq->http->listen);
    if (peer == CS_PEER_UNKNOWN && !atomic_exchange(&rq->http->peers_unknown, true))
        cs_log(CS_LOG_WARN, "peers_unknown", "consequence", "every client needs the token", NULL);
    if (peer != CS_PEER_UNKNOWN)
        mg_set_user_connection_data(rq->conn, peer == CS_PEER_OURS ? &ours : &other);
    return peer == CS_PEER_OURS;
}

enum cs_status cs_auth_check(struct cs_request *rq, struct cs_err *err)
{
    const char *authorization = rq->header[CS_HEADER_AUTHORIZATION];

    if (authorization != NULL) { /* what is presented must be right, whoever presents it */
        if (is_token(rq->http, authorization))
            return CS_OK;
        if (!cs_limiter_take(&rq->http->limiter, cs_mono_ms(), &rq->retry_after))
            return cs_refuse(rq, 429, "too_many_failures", "Too many wrong credentials", err);
        return cs_refuse(rq, 401, "unauthorized", "The bearer token is wrong", err);
    }
    if (rq->http->loopback && !rq->forwarded && peer_is_ours(rq))
        return CS_OK;
    return cs_refuse(rq, 401, "unauthorized",
                     "A bearer token is required: run `codex-sessiond token` as the daemon's user",
                     err);
}
