/* Faults of the product, put in on purpose: calls between its files that are answered otherwise,
 * and texts that are changed on their way to Redis. The product has no switch for them. */
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/mirror/mirror.h"
#include "cs/store/session.h"
#include "sim.h"

struct cs_follow;

const char *mutant = "";

bool is_mutant(const char *name)
{
    return strcmp(mutant, name) == 0;
}

/* ---- texts: the new one is as long as the old one ---- */

static struct {
    const char *mutant; /* "": always */
    const char *from, *to;
    bool met;
} patches[] = {
    {"", "LOG_LENGTH=1000", "LOG_LENGTH=0024", false},
    {"lua_nogap", "if from > have + 1 then return {'GAP', have} end",
     "if from > have + 1 then have = from - 1      end", false},
    {"lua_nofork", "if not last then return false end", "last = last or pos", false},
    {"lua_nocas", "if t and (not covers(new, t.vv) or", "if t and (false               and", false},
    {"lua_nosha", "redis.sha1hex(call('GET', KEYS[1]) or '') ~= ARGV[11]", "false", false},
    {"lua_notomb", "if marks[1] and covers(", "if false and covers(", false},
    {"lua_delany", "if t and not covers(joined, t.vv)", "if false and not covers(joined,{})",
     false},
    {"lua_nottl", "call('EXPIRE', KEYS[2], LOG_TTL)", "call('EXISTS', KEYS[2], LOG_TTL)", false},
    {"lua_noslide", "call('EXPIRE', KEYS[1], ttl)", "call('EXISTS', KEYS[1])     ", false},
    {"lua_nolimit", "if limit > 0 and not has_place", "if limit < 0 and not has_place", false},
    {"lua_noheal", "if heal > 0 and over > 0 and live[over].at >= at", "if false", false},
    {"lua_noout", "if version and covers(argument_vector(vector)", "if false and covers({}", false},
    {"lua_nolead", "call('EXISTS', KEYS[2], KEYS[4]) == 2", "call('EXISTS', KEYS[2]) == 1", false},
    {"lua_short", "t.L = start + #messages + t.width", "t.L=1+start+#messages+t.width", false},
    {"lua_twice", "  if to <= have then\n", "  if to < 0     then\n", false},
    {"lua_anylease", "held:sub(1, #token + 1) ~= token .. ' ' then\n    call('SET', key, held",
     "false then\n    call('SET', key, held                               ", false},
};

void mutant_patch(char *data, size_t len)
{
    if (memmem(data, len, "SCRIPT", 6) == NULL && memmem(data, len, "\r\nEVAL\r\n", 8) == NULL)
        return;
    for (size_t i = 0; i < sizeof patches / sizeof *patches; i++) {
        size_t size = strlen(patches[i].from), fits = strlen(patches[i].to);
        char *at = data;

        if (patches[i].mutant[0] != '\0' && !is_mutant(patches[i].mutant))
            continue;
        while ((at = memmem(at, len - (size_t)(at - data), patches[i].from, size)) != NULL) {
            patches[i].met = true;
            memset(at, ' ', size);
            memcpy(at, patches[i].to, fits < size ? fits : size);
            at += size;
        }
    }
}

bool mutant_met(void)
{
    for (size_t i = 0; i < sizeof patches / sizeof *patches; i++)
        if (!patches[i].met && (patches[i].mutant[0] == '\0' || is_mutant(patches[i].mutant)))
            return false;
    return true;
}

/* ---- calls ---- */

#define WRAP(type, name, ...)                                                                      \
    type __real_##name(__VA_ARGS__);                                                               \
    type __wrap_##name(__VA_ARGS__);                                                               \
    type __wrap_##name(__VA_ARGS__)

WRAP(enum cs_status, cs_replica_clean, struct cs_db *db, const char *sid, int64_t generation,
     struct cs_err *err)
{
    struct cs_replica_mark mark;

    if (is_mutant("clean_all") && cs_replica_mark(db, sid, &mark, NULL) == CS_OK) {
        generation = mark.generation;
        cs_replica_mark_fini(&mark);
    }
    return is_mutant("clean_never") ? CS_OK : __real_cs_replica_clean(db, sid, generation, err);
}

WRAP(enum cs_status, cs_replica_flag, struct cs_db *db, const char *sid, enum cs_replica_flag flag,
     struct cs_err *err)
{
    if (is_mutant("no_dirty") && flag == CS_REPLICA_DIRTY)
        return CS_OK;
    if (is_mutant("no_unsent") && flag != CS_REPLICA_DIRTY)
        return CS_OK;
    return __real_cs_replica_flag(db, sid, flag, err);
}

WRAP(enum cs_status, cs_replica_bury, struct cs_db *db, const char *sid, const char *cid,
     const char *user, const struct cs_vector *vector, struct cs_err *err)
{
    return is_mutant("no_tomb") ? CS_OK : __real_cs_replica_bury(db, sid, cid, user, vector, err);
}

WRAP(enum cs_status, cs_replica_mark, struct cs_db *db, const char *sid,
     struct cs_replica_mark *out_mark, struct cs_err *err)
{
    enum cs_status rc = __real_cs_replica_mark(db, sid, out_mark, err);

    if (rc == CS_OK && is_mutant("all_sent"))
        out_mark->unsent = false;
    return rc;
}

WRAP(enum cs_status, cs_replica_stamp, struct cs_db *db, const char *sid, int64_t stamp,
     struct cs_err *err)
{
    return is_mutant("no_stamp") ? CS_OK : __real_cs_replica_stamp(db, sid, stamp, err);
}

WRAP(enum cs_status, cs_replica_reborn, struct cs_db *db, const char *sid, struct cs_err *err)
{
    return is_mutant("no_reborn") ? CS_OK : __real_cs_replica_reborn(db, sid, err);
}

WRAP(enum cs_status, cs_session_restore, struct cs_db *db, int64_t id, int64_t now,
     struct cs_err *err)
{
    return is_mutant("no_return") ? CS_OK : __real_cs_session_restore(db, id, now, err);
}

WRAP(bool, cs_vector_le, const struct cs_vector *vector, const struct cs_vector *other)
{
    if (is_mutant("first_origin") && vector->count > 1) { /* compares the first origin alone */
        struct cs_vector one = {vector->items, 1, 1};

        return __real_cs_vector_le(&one, other);
    }
    return __real_cs_vector_le(vector, other);
}

WRAP(int64_t, cs_hlc_next, int64_t seen, int64_t wall_ms)
{
    return is_mutant("wall_clock") ? wall_ms << 16 : __real_cs_hlc_next(seen, wall_ms);
}

/* Whose entries are remembered until they come back. */
WRAP(struct cs_follow *, cs_follow_of, struct cs_mirror *mirror, const char *user)
{
    return is_mutant("no_confirm") ? NULL : __real_cs_follow_of(mirror, user);
}

WRAP(enum cs_status, cs_mirror_fetch, struct cs_mirror *mirror, const char *identifier,
     int64_t deadline, struct cs_err *err)
{
    return is_mutant("no_fetch") ? CS_OK
                                 : __real_cs_mirror_fetch(mirror, identifier, deadline, err);
}
