#include "names.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/uuid.h"

enum cs_status cs_origin_new(int64_t *out_origin, struct cs_err *err)
{
    uint64_t bits = 0;
    enum cs_status status;

    do {
        status = cs_random(&bits, sizeof bits, err);
        bits &= INT64_MAX;
    } while (status == CS_OK && bits == 0);
    if (status == CS_OK)
        *out_origin = (int64_t)bits;
    return status;
}

void cs_origin_name(int64_t origin, char out[CS_ORIGIN_MAX])
{
    (void)snprintf(out, CS_ORIGIN_MAX, "%016" PRIx64, (uint64_t)origin);
}

enum cs_status cs_origin_parse(const char *name, int64_t *out_origin, struct cs_err *err)
{
    uint64_t value;

    if (strlen(name) != CS_ORIGIN_MAX - 1 || strspn(name, "0123456789abcdef") != CS_ORIGIN_MAX - 1)
        return cs_err_set(err, CS_INVALID, "invalid_origin", "an origin is 16 hex digits");
    value = strtoull(name, NULL, 16);
    if (value == 0 || value > INT64_MAX)
        return cs_err_set(err, CS_INVALID, "invalid_origin", "an origin has 63 bits and is not 0");
    *out_origin = (int64_t)value;
    return CS_OK;
}
