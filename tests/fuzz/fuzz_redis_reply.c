/* Any bytes as what a server answers: the client ends with a reply or a closed connection, keeps
 * its caps, and says the same however the bytes are cut. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/buf.h"
#include "cs/mirror/redis.h"

#define REPLY_MAX 4096
#define ITEMS_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool holds)
{
    if (!holds)
        abort();
}

/* A server that takes everything and answers `data`, `step` bytes at a time. */
struct tape {
    struct cs_wire wire;
    const uint8_t *data;
    size_t size, pos, step;
};

static enum cs_status tape_read(struct cs_wire *wire, void *to, size_t cap, int64_t deadline,
                                size_t *out_len, struct cs_err *err)
{
    struct tape *tape = (struct tape *)wire;
    size_t left = tape->size - tape->pos;
    size_t n = left < tape->step ? left : tape->step;
    (void)deadline;
    if (n > cap)
        n = cap;
    if (n == 0)
        return cs_err_set(err, CS_UNAVAILABLE, "redis_lost", "end of the tape");
    memcpy(to, tape->data + tape->pos, n);
    tape->pos += n;
    *out_len = n;
    return CS_OK;
}

static enum cs_status tape_write(struct cs_wire *wire, const void *data, size_t len,
                                 int64_t deadline, size_t *out_len, struct cs_err *err)
{
    (void)wire, (void)data, (void)deadline, (void)err;
    *out_len = len;
    return CS_OK;
}

static void tape_close(struct cs_wire *wire)
{
    (void)wire;
}

static enum cs_status tape_dial(void *arg, const struct cs_dial *dial, struct cs_wire **out_wire,
                                struct cs_err *err)
{
    (void)dial, (void)err;
    *out_wire = arg;
    return CS_OK;
}

/* Write a reply down, and hold it against the caps. */
static void describe(const struct cs_reply *reply, struct cs_buf *out, size_t *items)
{
    size_t len = 0;
    const char *text = cs_reply_string(reply, &len);
    struct cs_err err = {0};
    demand(++*items <= ITEMS_MAX);
    cs_buf_addf(out, "%d %zu %lld ", (int)cs_reply_type(reply), cs_reply_size(reply),
                (long long)cs_reply_int(reply, -7));
    if (text)
        cs_buf_add(out, text, len);
    if (cs_reply_check(reply, &err) != CS_OK)
        cs_buf_addf(out, "%s %s", cs_redis_class_name(cs_redis_class(&err)), err.msg);
    for (size_t i = 0; i < cs_reply_size(reply); i++)
        describe(cs_reply_at(reply, i), out, items); /* eight levels at most */
}

static void play(const uint8_t *data, size_t size, size_t step, struct cs_buf *out)
{
    static const struct cs_wire_ops ops = {tape_read, tape_write, tape_close};
    static const struct cs_redis_endpoint endpoint = {.scheme = CS_REDIS_TCP};
    struct tape tape = {{&ops}, data, size, 0, step};
    struct cs_redis_options options = {.endpoint = &endpoint,
                                       .dial = tape_dial,
                                       .dial_arg = &tape.wire,
                                       .reply_max = REPLY_MAX,
                                       .items_max = ITEMS_MAX};
    struct cs_redis *redis = NULL;
    demand(cs_redis_new(&options, &redis, NULL) == CS_OK);
    demand(cs_redis_connect(redis, INT64_MAX, NULL) == CS_OK);
    for (int i = 0; i < 20; i++)
        demand(cs_redis_appends(redis, NULL, "PING", NULL) == CS_OK);
    while (cs_redis_connected(redis) && cs_redis_owed(redis) > 0) {
        struct cs_reply *reply = NULL;
        struct cs_err err = {0};
        size_t items = 0;
        if (cs_redis_take(redis, INT64_MAX, &reply, &err) == CS_OK)
            describe(reply, out, &items);
        else
            cs_buf_addf(out, "%s: %s", err.code, err.msg);
        cs_reply_free(reply);
    }
    cs_redis_free(redis);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cs_buf whole, cut;
    cs_buf_init(&whole, 1U << 20);
    cs_buf_init(&cut, 1U << 20);
    play(data, size, size, &whole);
    play(data, size, 1 + size % 7, &cut);
    demand(whole.len == cut.len);
    demand(whole.len == 0 || memcmp(whole.data, cut.data, whole.len) == 0);
    cs_buf_fini(&whole);
    cs_buf_fini(&cut);
    return 0;
}
