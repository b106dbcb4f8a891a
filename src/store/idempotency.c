#include "cs/store/idempotency.h"

#include <string.h>

#include "db.h"

#define KEY_MAX 255

enum cs_status cs_idempotency_insert(struct cs_db *db, const char *key,
                                     const struct cs_idempotency *entry, struct cs_err *err)
{
    struct cs_err why = {.status = CS_OK};
    size_t len = strlen(key);
    struct cs_sql q;
    enum cs_status status;

    if (len < 1 || len > KEY_MAX)
        return cs_err_set(err, CS_INVALID, "invalid_idempotency_key",
                          "an idempotency key has 1 to %d bytes", KEY_MAX);
    cs_sql_begin(&q, db, CS_SQL_IDEMPOTENCY_INSERT);
    cs_sql_int(&q, entry->turn);
    cs_sql_textn(&q, key, len);
    cs_sql_blob(&q, entry->body, sizeof entry->body);
    cs_sql_int(&q, entry->created_at);
    status = cs_sql_run(&q, "remember an idempotency key", &why);
    if (status == CS_CONFLICT)
        return cs_err_set(err, CS_CONFLICT, "idempotency_key_known",
                          "the idempotency key is known already");
    return status == CS_OK ? CS_OK : cs_err_set(err, status, why.code, "%s", why.msg);
}

enum cs_status cs_idempotency_find(struct cs_db *db, const char *key, int64_t oldest,
                                   struct cs_idempotency *out_entry, struct cs_err *err)
{
    struct cs_idempotency entry = {0};
    bool found;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_IDEMPOTENCY_FIND);
    cs_sql_text(&q, key);
    cs_sql_int(&q, oldest);
    found = cs_sql_next(&q);
    if (found) {
        size_t len = 0;
        const char *body = cs_sql_get_bytes(&q, 1, &len);

        entry.turn = cs_sql_get_int(&q, 0);
        if (body != NULL)
            memcpy(entry.body, body, len < sizeof entry.body ? len : sizeof entry.body);
        entry.created_at = cs_sql_get_int(&q, 2);
    }
    status = cs_sql_end(&q, "look for an idempotency key", err);
    if (status == CS_OK && !found)
        return cs_err_set(err, CS_NOT_FOUND, "idempotency_key_unknown",
                          "the idempotency key is unknown");
    if (status == CS_OK)
        *out_entry = entry;
    return status;
}

enum cs_status cs_idempotency_purge(struct cs_db *db, int64_t oldest, unsigned max,
                                    int64_t *out_next, struct cs_err *err)
{
    int64_t next = INT64_MAX;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_IDEMPOTENCY_PURGE);
    cs_sql_int(&q, oldest);
    cs_sql_int(&q, (int64_t)max);
    status = cs_sql_run(&q, "forget idempotency keys", err);
    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, CS_SQL_IDEMPOTENCY_NEXT);
    if (cs_sql_next(&q) && !cs_sql_is_null(&q, 0))
        next = cs_sql_get_int(&q, 0);
    status = cs_sql_end(&q, "look for the oldest idempotency key", err);
    if (status == CS_OK)
        *out_next = next;
    return status;
}
