/* A wire that loses requests, loses replies, and keeps requests to execute them later. A request is
 * executed to its end while it is written; its reply waits to be read. */
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "sim.h"

#define MARKER     "*2\r\n$4\r\nECHO\r\n$9\r\n~~end~~of\r\n"
#define MARKER_END "$9\r\n~~end~~of\r\n"
#define PATIENCE   20000 /* ms */

/* Bytes that were answered. */
struct answer {
    char *data;
    size_t at, len, cap;
};

struct wire {
    struct cs_wire base;
    struct cs_wire *real;
    struct host *host;
    struct answer answer;
    bool mute; /* the reply gets lost */
};

static enum cs_status lost(struct cs_err *err)
{
    return cs_err_set(err, CS_UNAVAILABLE, "redis_lost", "the simulated wire is cut");
}

static enum cs_status write_all(struct cs_wire *real, const char *data, size_t len,
                                struct cs_err *err)
{
    size_t done = 0;
    enum cs_status rc = CS_OK;

    while (rc == CS_OK && done < len) {
        size_t n = 0;

        rc = real->ops->write(real, data + done, len - done, cs_mono_ms() + PATIENCE, &n, err);
        done += n;
    }
    return rc;
}

/* Read until the marker's own answer, which is left out. */
static enum cs_status read_all(struct cs_wire *real, struct answer *answer, struct cs_err *err)
{
    static const size_t end = sizeof MARKER_END - 1;
    enum cs_status rc = CS_OK;

    while (rc == CS_OK &&
           (answer->len < end || memcmp(answer->data + answer->len - end, MARKER_END, end) != 0)) {
        size_t n = 0;

        if (answer->cap - answer->len < 65536) {
            answer->cap = answer->cap * 2 + 131072;
            answer->data = realloc(answer->data, answer->cap);
            if (answer->data == NULL)
                abort();
        }
        rc = real->ops->read(real, answer->data + answer->len, answer->cap - answer->len,
                             cs_mono_ms() + PATIENCE, &n, err);
        answer->len += n;
    }
    if (rc == CS_OK)
        answer->len -= end;
    return rc;
}

static enum cs_status execute(struct cs_wire *real, const char *data, size_t len,
                              struct answer *answer, struct cs_err *err)
{
    size_t before = answer->len;
    enum cs_status rc = write_all(real, data, len, err);

    if (rc == CS_OK)
        rc = write_all(real, MARKER, strlen(MARKER), err);
    if (rc == CS_OK)
        rc = read_all(real, answer, err);
    world_note(data, len);
    world_note(answer->data + before, answer->len - before);
    return rc;
}

void sim_execute(const struct request *request)
{
    struct cs_dial dial = {&sim.endpoint, NULL, -1, cs_mono_ms() + PATIENCE};
    struct answer answer = {0};
    struct cs_wire *real = NULL;

    if (request->data == NULL)
        return;
    if (cs_wire_dial(&dial, &real, NULL) != CS_OK ||
        execute(real, request->data, request->len, &answer, NULL) != CS_OK)
        abort();
    real->ops->close(real);
    free(answer.data);
    check_log();
}

/* How many scripts a request calls. */
static int scripts_in(const char *data, size_t len)
{
    const char *at = data;
    int n = 0;

    while ((at = memmem(at, len - (size_t)(at - data), "\r\nEVAL", 6)) != NULL) {
        at += 6;
        n++;
    }
    return n;
}

/* What the server does when a request arrives, and some time after. */
static enum cs_status arrive(struct wire *wire, const char *data, size_t len, struct cs_err *err)
{
    int scripts = scripts_in(data, len);
    bool twice = scripts == 1 && sim_chance(10);
    enum cs_status rc = execute(wire->real, data, len, &wire->answer, err);

    if (rc != CS_OK)
        return rc;
    if (scripts > 0) {
        request_keep(&wire->host->last, data, len);
        check_log();
    }
    if (twice) {
        uint64_t before = server_digest();

        sim_execute(&wire->host->last);
        count(COUNT_REPEATED);
        check_repeat(before, "at once");
    }
    if (sim.failover_in > 0 && --sim.failover_in == 0) {
        talk("failover");
        (void)server_roll_back(SLOT_REPLICA);
    }
    return CS_OK;
}

static enum cs_status wire_write(struct cs_wire *base, const void *data, size_t len,
                                 int64_t deadline, size_t *out_len, struct cs_err *err)
{
    struct wire *wire = (struct wire *)base;
    struct host *host = wire->host, *was;
    int dice = sim_below(100);
    char *copy;
    enum cs_status rc;

    (void)deadline;
    if (host->down)
        return lost(err);
    world_wait(20 + sim_below(400));
    count(COUNT_REQUESTS);
    host_enter(NULL, &was);
    sim_interfere(host, data, len);
    host_leave(was);
    if (dice < host->flaky * 4 / 10) {
        count(COUNT_LOST);
        return lost(err);
    }
    copy = malloc(len + 1);
    if (copy == NULL)
        abort();
    memcpy(copy, data, len);
    mutant_patch(copy, len);
    if (dice < host->flaky * 6 / 10 && host->zombie_count < ZOMBIES_MAX) {
        request_keep(&host->zombies[host->zombie_count++], copy, len);
        free(copy);
        return lost(err); /* it arrives later */
    }
    wire->mute = dice < host->flaky;
    rc = arrive(wire, copy, len, err);
    free(copy);
    if (rc == CS_OK)
        *out_len = len;
    return rc;
}

static enum cs_status wire_read(struct cs_wire *base, void *to, size_t cap, int64_t deadline,
                                size_t *out_len, struct cs_err *err)
{
    struct wire *wire = (struct wire *)base;
    struct answer *answer = &wire->answer;
    size_t n = answer->len - answer->at;

    (void)deadline;
    if (wire->mute || wire->host->down) {
        count(COUNT_UNANSWERED);
        return lost(err);
    }
    if (n == 0)
        return cs_err_set(err, CS_TIMEOUT, "redis_timeout", "nothing is owed");
    n = n < cap ? n : cap;
    memcpy(to, answer->data + answer->at, n);
    answer->at += n;
    if (answer->at == answer->len)
        answer->at = answer->len = 0;
    *out_len = n;
    return CS_OK;
}

static void wire_close(struct cs_wire *base)
{
    struct wire *wire = (struct wire *)base;

    wire->real->ops->close(wire->real);
    free(wire->answer.data);
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
