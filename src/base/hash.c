#include "cs/base/hash.h"

#include <limits.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "cs/base/uuid.h"

enum cs_status cs_sha256(const void *data, size_t len, unsigned char out[CS_SHA256_LEN],
                         struct cs_err *err)
{
    if (EVP_Digest(data, len, out, NULL, EVP_sha256(), NULL) != 1)
        return cs_err_nomem(err); /* nothing else can go wrong with a built-in digest */
    return CS_OK;
}

enum cs_status cs_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
                              unsigned char out[CS_SHA256_LEN], struct cs_err *err)
{
    if (HMAC(EVP_sha256(), key, (int)key_len, data, len, out, NULL) == NULL)
        return cs_err_nomem(err);
    return CS_OK;
}

#define SHA1_LEN 20

static enum cs_status sha1(const void *data, size_t len, unsigned char out[SHA1_LEN],
                           struct cs_err *err)
{
    return EVP_Digest(data, len, out, NULL, EVP_sha1(), NULL) == 1 ? CS_OK : cs_err_nomem(err);
}

enum cs_status cs_sha1_hex(const void *data, size_t len, char out[41], struct cs_err *err)
{
    unsigned char digest[SHA1_LEN];
    enum cs_status rc = sha1(data, len, digest, err);

    if (rc == CS_OK)
        cs_hex(digest, sizeof digest, out);
    return rc;
}

enum cs_status cs_sha1_base64(const void *data, size_t len, char out[29], struct cs_err *err)
{
    unsigned char digest[SHA1_LEN];
    enum cs_status rc = sha1(data, len, digest, err);

    if (rc == CS_OK)
        EVP_EncodeBlock((unsigned char *)out, digest, sizeof digest);
    return rc;
}

void cs_base64(struct cs_buf *out, const void *data, size_t len)
{
    size_t need = (len + 2) / 3 * 4;
    char *to = len <= INT_MAX ? cs_buf_reserve(out, need) : NULL;

    if (to == NULL) {
        out->status = out->status != CS_OK ? out->status : CS_TOO_LARGE;
        return;
    }
    EVP_EncodeBlock((unsigned char *)to, data, (int)len);
    out->len += need;
}
