/* A wire that loses requests, loses replies, and keeps requests to execute them later. */
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "sim.h"

#define MARKER     "*2\r\n$4\r\nECHO\r\n$9\r\n~~end~~of\r\n"
#define MARKER_END "~~end~~of\r\n"

struct host *sim_dialling;

struct wire {
    struct cs_wire base;
    struct cs_wire *real;
    struct host *host;
    bool mute; /* the reply to what was sent gets lost */
};

static enum cs_status lost(struct cs_err *err)
{
    return cs_err_set(err, CS_UNAVAILABLE, "redis_lost", "the simulated wire is cut");
}

void request_free(struct request *request)
{
    free(request->data);
    *request = (struct request){NULL, 0};
}

static void keep(struct request *slot, const void *data, size_t len)
{
    request_free(slot);
    slot->data = malloc(len + 1);
    if (slot->data == NULL)
        abort();
    memcpy(slot->data, data, len);
    slot->len = len;
}

/* Scripts are changed on their way, so that the product has no switch for it. The new text is as
 * long as the old one. */
static const struct {
    const char *mutant, *from, *to;
} patches[] = {
    {"lua_nogap", "if from > have + 1 then return {'GAP', have} end",
     "if from > have + 1 then have = from - 1      end"},
    {"lua_nocas", "if t and (not covers(new, t.vv) or", "if t and (false               and"},
    {"lua_notomb", "if marks[1] and covers(", "if false and covers("},
    {"lua_delany", "if t and not covers(joined, t.vv)", "if false and not covers(joined,{})"},
    {"lua_nottl", "call('EXPIRE', KEYS[2], LOG_TTL)", "call('EXISTS', KEYS[2], LOG_TTL)"},
    {"lua_nolimit", "if limit > 0 and not has_place", "if limit < 0 and not has_place"},
    {"lua_short", "t.L = start + 1 + #blob + t.width", "t.L = start + 2 + #blob + t.width"},
    {"lua_twice", "  if to <= have then\n", "  if to < 0     then\n"},
};

bool patched; /* the mutant's text was met */

static void patch(char *data, size_t len)
{
    for (size_t i = 0; i < sizeof patches / sizeof *patches; i++) {
        char *at = is_mutant(patches[i].mutant)
                       ? memmem(data, len, patches[i].from, strlen(patches[i].from))
                       : NULL;
        size_t size = strlen(patches[i].from);

        if (at == NULL)
            continue;
        patched = true;
        memset(at, ' ', size);
        memcpy(at, patches[i].to, strlen(patches[i].to) < size ? strlen(patches[i].to) : size);
    }
}

static enum cs_status write_all(struct cs_wire *real, const void *data, size_t len,
                                struct cs_err *err)
{
    size_t done = 0;
    enum cs_status rc = CS_OK;

    while (rc == CS_OK && done < len) {
        size_t n = 0;

        rc = real->ops->write(real, (const char *)data + done, len - done, cs_mono_ms() + 5000, &n,
                              err);
        done += n;
    }
    return rc;
}

static enum cs_status wire_write(struct cs_wire *base, const void *data, size_t len,
                                 int64_t deadline, size_t *out_len, struct cs_err *err)
{
    struct wire *wire = (struct wire *)base;
    struct host *host = wire->host;
    bool script = memmem(data, len, "EVALSHA", 7) != NULL;
    int dice = sim_below(100);
    char *copy;
    enum cs_status rc;

    (void)deadline;
    if (host->down)
        return lost(err);
    sim_interfere(host, script, data, len);
    if (dice < host->flaky * 4 / 10)
        return lost(err); /* the request is lost */
    if (dice < host->flaky * 6 / 10 && host->zombie_count < ZOMBIES_MAX) {
        keep(&host->zombies[host->zombie_count++], data, len);
        return lost(err); /* it arrives later */
    }
    wire->mute = dice < host->flaky;
    copy = malloc(len + 1);
    if (copy == NULL)
        abort();
    memcpy(copy, data, len);
    if (mutant[0] != '\0' && memmem(copy, len, "SCRIPT", 6) != NULL)
        patch(copy, len);
    if (script)
        keep(&host->last, data, len);
    rc = write_all(wire->real, copy, len, err);
    free(copy);
    if (rc == CS_OK)
        *out_len = len;
    return rc;
}

static enum cs_status wire_read(struct cs_wire *base, void *to, size_t cap, int64_t deadline,
                                size_t *out_len, struct cs_err *err)
{
    struct wire *wire = (struct wire *)base;
    enum cs_status rc = wire->real->ops->read(wire->real, to, cap, deadline, out_len, err);

    if (wire->mute || wire->host->down)
        return rc == CS_OK ? lost(err) : rc;
    return rc;
}

static void wire_close(struct cs_wire *base)
{
    struct wire *wire = (struct wire *)base;

    wire->real->ops->close(wire->real);
    free(wire);
}

enum cs_status sim_dial(void *arg, const struct cs_dial *dial, struct cs_wire **out_wire,
                        struct cs_err *err)
{
    static const struct cs_wire_ops ops = {wire_read, wire_write, wire_close};
    struct wire *wire;
    struct host *host = arg;
    enum cs_status rc;

    if (host->down)
        return lost(err);
    wire = calloc(1, sizeof *wire);
    if (wire == NULL)
        return cs_err_nomem(err);
    rc = cs_wire_dial(dial, &wire->real, err);
    if (rc != CS_OK) {
        free(wire);
        return rc;
    }
    wire->base.ops = &ops;
    wire->host = host;
    *out_wire = &wire->base;
    return CS_OK;
}

void sim_execute(const struct request *request)
{
    struct cs_dial dial = {&sim.endpoint, NULL, -1, cs_mono_ms() + 5000};
    struct cs_wire *real = NULL;
    static char seen[1 << 20];
    size_t used = 0;

    if (request->data == NULL || cs_wire_dial(&dial, &real, NULL) != CS_OK)
        return;
    if (write_all(real, request->data, request->len, NULL) != CS_OK ||
        write_all(real, MARKER, strlen(MARKER), NULL) != CS_OK)
        abort();
    for (;;) {
        size_t n = 0;

        if (real->ops->read(real, seen + used, sizeof seen - used, cs_mono_ms() + 5000, &n, NULL) !=
            CS_OK)
            break;
        used += n;
        if (used >= strlen(MARKER_END) &&
            memcmp(seen + used - strlen(MARKER_END), MARKER_END, strlen(MARKER_END)) == 0)
            break;
        if (used > sizeof seen / 2) {
            memmove(seen, seen + used - 64, 64);
            used = 64;
        }
    }
    real->ops->close(real);
}
