/* mirror/put: a whole session into Redis. */
#include <string.h>

#include "mirror_priv.h"

#define PUT_MAX (8u << 20) /* bytes of messages in one request; the rest is appended */

enum cs_status cs_whole_add(void *arg, const struct cs_mirror_message *message, struct cs_err *err)
{
    struct cs_whole *whole = arg;
    enum cs_status rc;

    whole->newest_hlc = message->hlc;
    whole->newest_origin = message->origin;
    whole->newest_seq = message->seq;
    if (whole->text.len > 0 && whole->text.len + message->len > whole->max) {
        whole->more = true;
        return CS_CANCELLED;
    }
    if (whole->text.len > 0)
        cs_buf_addc(&whole->text, ',');
    cs_record_write(&whole->text, message, whole->message_max);
    whole->count++;
    rc = cs_vector_raise(&whole->vv, message->origin, message->seq, err);
    return rc == CS_OK ? cs_buf_check(&whole->text, err) : rc;
}

enum cs_status cs_whole_load(struct cs_mirror *mirror, const char *sid, size_t max,
                             struct cs_whole *whole, struct cs_mirror_local *local,
                             struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;

    if (max == 0)
        max = mirror->request_max > PUT_MAX / 8 ? PUT_MAX : mirror->request_max;
    cs_leases_over(mirror, sid);
    *whole = (struct cs_whole){.max = max, .message_max = mirror->message_max};
    cs_buf_init(&whole->text, SIZE_MAX / 2);
    cs_mirror_local_fini(local);
    return port->load(port->arg, sid, local, cs_whole_add, whole, err);
}

void cs_whole_fini(struct cs_whole *whole)
{
    cs_buf_fini(&whole->text);
    cs_vector_fini(&whole->vv);
}

/* What was sent before and is no import only heals what Redis lost. */
static int64_t heals_at(const struct cs_putting *putting)
{
    const struct cs_mirror_local *local = putting->local;

    return local->unsent || putting->foreign != NULL ? 0 : local->stamp;
}

/* Its returns from the archive by the server's clock: hosts' own may be hours apart, and a later
 * one must be told from an earlier one. */
static int64_t version_of(const struct cs_mirror *mirror, const struct cs_putting *putting)
{
    int64_t own = putting->local->version;

    if (own > 0)
        own += mirror->skew_ms;
    return own > putting->version ? own : putting->version;
}

enum cs_status cs_whole_append(struct cs_mirror *mirror, const struct cs_putting *putting,
                               struct cs_err *err)
{
    const struct cs_mirror_local *local = putting->local;
    const struct cs_mirror_meta *meta = putting->meta;
    const struct cs_whole *whole = putting->whole;
    struct cs_buf prefix, vv;
    struct cs_put put = {
        .session = {meta->sid, meta->cid, meta->user, meta->ttl_s},
        .state = {local->status[0] != '\0' ? local->status : "active", local->last_used_at,
                  meta->model},
        .messages = whole->text.data,
        .messages_len = whole->text.len,
        .note = "",
        .limit = local->limit,
        .heal_at = heals_at(putting),
        .foreign = putting->foreign,
        .meta = version_of(mirror, putting),
        .lease = whole->more ? NULL : cs_lease_to_release(mirror, meta->sid),
    };
    enum cs_status rc;

    cs_buf_init(&prefix, 1 << 20);
    cs_buf_init(&vv, 1 << 20);
    cs_record_prefix(&prefix, meta);
    cs_vector_write(&whole->vv, &vv);
    put.prefix = prefix.data;
    put.prefix_len = prefix.len;
    put.vv = vv.data;
    rc = cs_buf_check(&prefix, err);
    if (rc == CS_OK)
        rc = cs_buf_check(&vv, err);
    if (rc == CS_OK)
        rc = cs_put_append(mirror->redis, &put, err);
    cs_buf_fini(&prefix);
    cs_buf_fini(&vv);
    return rc;
}

enum cs_status cs_whole_note(struct cs_mirror *mirror, const struct cs_putting *putting,
                             const struct cs_script_reply *reply, struct cs_changes *changes,
                             struct cs_err *err)
{
    const struct cs_mirror_meta *meta = putting->meta;
    int64_t healed = heals_at(putting);
    struct cs_mirror_change one = {.kind = CS_CHANGE_EVICT};
    enum cs_status rc = CS_OK;
    size_t i;

    if (!putting->whole->more)
        cs_lease_released(mirror, meta->sid);
    for (i = 0; i < cs_reply_size(reply->evicted) && rc == CS_OK; i++) {
        const char *sid = cs_reply_string(cs_reply_at(reply->evicted, i), NULL);

        if (sid == NULL || !cs_record_id_valid(sid))
            continue;
        one.sid = cs_changes_text(changes, sid, strlen(sid));
        rc = one.sid != NULL ? cs_changes_add(changes, &one, err) : cs_err_nomem(err);
    }
    if (rc != CS_OK || reply->id == NULL)
        return rc;
    if (reply->seq != 0)
        cs_ring(mirror, meta->user);
    cs_note_sent(mirror, meta->user, meta->sid, reply->id);
    one = (struct cs_mirror_change){.kind = CS_CHANGE_STAMP};
    one.number = healed > 0 ? healed : cs_entry_stamp(reply->id);
    one.sid = cs_changes_text(changes, meta->sid, strlen(meta->sid));
    return one.sid != NULL ? cs_changes_add(changes, &one, err) : cs_err_nomem(err);
}
