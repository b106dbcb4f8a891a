#include "cs/base/uuid.h"

#include <errno.h>
#include <stdint.h>
#include <sys/random.h>

#include <uuid/uuid.h>

#include "cs/base/clock.h"

enum cs_status cs_random(void *out, size_t len, struct cs_err *err)
{
    unsigned char *at = out;
    while (len > 0) {
        ssize_t got = getrandom(at, len, 0);
        if (got < 0 && errno != EINTR)
            return cs_err_errno(err, errno, "reading random bytes");
        if (got > 0) {
            at += got;
            len -= (size_t)got;
        }
    }
    return CS_OK;
}

enum cs_status cs_uuid_new(char out[CS_UUID_MAX], struct cs_err *err)
{
    uuid_t id = {0};
    enum cs_status status = cs_random(id, sizeof id, err);
    if (status != CS_OK)
        return status;
    uint64_t now = (uint64_t)cs_clock_ms();
    for (int i = 0; i < 6; i++)
        id[i] = (unsigned char)(now >> (40 - 8 * i));
    id[6] = (unsigned char)(0x70 | (id[6] & 0x0F)); /* version 7 */
    id[8] = (unsigned char)(0x80 | (id[8] & 0x3F)); /* the RFC's variant */
    uuid_unparse_lower(id, out);
    return CS_OK;
}

bool cs_uuid_valid(const char *text)
{
    uuid_t id;
    return text && uuid_parse(text, id) == 0;
}

void cs_hex(const void *bytes, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *at = bytes;
    for (size_t i = 0; i < len; i++) {
        *out++ = digits[at[i] >> 4];
        *out++ = digits[at[i] & 15];
    }
    *out = '\0';
}

bool cs_equal_secret(const void *a, const void *b, size_t len)
{
    const volatile unsigned char *x = a;
    const volatile unsigned char *y = b;
    unsigned diff = 0;
    for (size_t i = 0; i < len; i++)
        diff |= (unsigned)x[i] ^ (unsigned)y[i];
    return diff == 0;
}
