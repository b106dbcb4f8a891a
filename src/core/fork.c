/* core/fork: a new session that begins with what was said in another one. */

#include "cs/base/clock.h"
#include "priv.h"
#include "sync.h"

struct fork {
    struct cs_core *core;
    const char *identifier;
    struct cs_session from, to;
    struct cs_buf evicted;
    int64_t now;
};

/* What the new session has of the other one. Its strings are borrowed. */
static enum cs_status shape(struct fork *fork, struct cs_err *err)
{
    struct cs_session *to = &fork->to;
    enum cs_status rc;

    *to = fork->from;
    rc = cs_uuid_new(to->sid, err);
    if (rc == CS_OK)
        rc = cs_uuid_new(to->cid, err);
    to->origin = NULL; /* this start's */
    to->created_at = fork->now;
    return rc;
}

/* Copy a transcript as messages of the new session. The turns get ids of their own: who deletes one
 * of the sessions must not meet the other's. */
static enum cs_status copy(struct cs_db *db, struct fork *fork,
                           const struct cs_transcript *transcript, struct cs_err *err)
{
    char tid[CS_UUID_MAX] = "";
    enum cs_status rc = CS_OK;
    size_t i;

    for (i = 0; i < transcript->count && rc == CS_OK; i++) {
        const struct cs_transcript_item *item = &transcript->items[i];
        struct cs_message_new message = {
            .session = fork->to.id,
            .kind = item->kind,
            .content = item->text,
            .content_len = item->len,
            .turn = tid,
            .extra = "\"forked\":true",
            .at = fork->now,
        };

        if (item->kind == CS_MESSAGE_USER)
            rc = cs_uuid_new(tid, err);
        if (tid[0] == '\0')
            message.turn = NULL;
        if (rc == CS_OK)
            rc = cs_message_append(db, &message, NULL, err);
    }
    return rc;
}

static enum cs_status apply(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct fork *fork = arg;
    const struct cs_config *config = cs_core_config(fork->core);
    struct cs_transcript *transcript = NULL;
    enum cs_status rc = cs_session_find_live(fork->core, db, fork->identifier, &fork->from, err);

    if (rc == CS_OK)
        rc = shape(fork, err);
    if (rc == CS_OK)
        rc = cs_message_transcript(db, fork->from.id, NULL, &transcript, err);
    if (rc == CS_OK)
        rc = cs_session_insert(db, &fork->to, err);
    if (rc == CS_OK)
        rc = cs_limits_enforce(db, &fork->to, cs_limits_of(config, fork->to.own),
                               fork->core->mirror != NULL, &fork->evicted, err);
    if (rc == CS_OK)
        rc = copy(db, fork, transcript, err);
    cs_transcript_free(transcript);
    return rc;
}

enum cs_status cs_core_fork(struct cs_core *core, const char *identifier,
                            struct cs_session *out_session, struct cs_err *err)
{
    struct fork fork = {.core = core, .identifier = identifier, .now = cs_clock_ms()};
    bool stale;
    enum cs_status rc;

    cs_core_refresh(core, identifier, &stale);
    cs_buf_init(&fork.evicted, 65536);
    rc = cs_store_write(core->store, apply, &fork, err);
    cs_buf_fini(&fork.evicted);
    cs_session_fini(&fork.from);
    if (rc != CS_OK)
        return rc;
    cs_history_forget_all(core);
    cs_sync_wake(core);
    if (fork.to.ttl_ms > 0)
        cs_expiry_note(core, fork.now + fork.to.ttl_ms);
    return cs_core_session(core, fork.to.sid, out_session, err);
}
