/* mirror/conn: a connection to Redis, with deadlines (cs/mirror/redis.h). */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "priv.h"

#define IN_SIZE     32768
#define WORDS_MAX   16 /* of cs_redis_appends() and cs_redis_call() */
#define REQUEST_MAX ((size_t)10 * 1000 * 1000)
#define QUEUE_MAX   ((size_t)32 << 20)
#define REPLY_MAX   ((size_t)72 << 20)
#define ITEMS_MAX   ((size_t)1000 * 1000)

static enum cs_status dial_default(void *arg, const struct cs_dial *dial, struct cs_wire **out_wire,
                                   struct cs_err *err)
{
    (void)arg;
    return cs_wire_dial(dial, out_wire, err);
}

static struct cs_redis_options with_defaults(const struct cs_redis_options *given)
{
    struct cs_redis_options options = *given;
    if (!options.dial)
        options.dial = dial_default;
    if (options.request_max == 0)
        options.request_max = REQUEST_MAX;
    if (options.queue_max == 0)
        options.queue_max = QUEUE_MAX;
    if (options.reply_max == 0)
        options.reply_max = REPLY_MAX;
    if (options.items_max == 0)
        options.items_max = ITEMS_MAX;
    return options;
}

enum cs_status cs_redis_new(const struct cs_redis_options *options, struct cs_redis **out_redis,
                            struct cs_err *err)
{
    struct cs_redis *redis = calloc(1, sizeof *redis);
    if (!redis)
        return cs_err_nomem(err);
    redis->options = with_defaults(options);
    cs_buf_init(&redis->out, redis->options.queue_max);
    redis->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    redis->in = malloc(IN_SIZE);
    if (redis->wake_fd < 0 || !redis->in) {
        int errnum = redis->in ? errno : ENOMEM;
        cs_redis_free(redis);
        return cs_err_errno(err, errnum, "making a Redis client");
    }
    *out_redis = redis;
    return CS_OK;
}

void cs_redis_close(struct cs_redis *redis)
{
    if (redis->wire)
        redis->wire->ops->close(redis->wire);
    redis->wire = NULL;
    if (redis->reader)
        redisReaderFree(redis->reader);
    redis->reader = NULL;
    cs_buf_fini(&redis->out); /* it may have held a whole queue */
    redis->written = redis->queued = redis->owed = redis->in_pos = redis->in_len = 0;
    redis->hung_up = false;
    for (size_t i = 0; i < CS_SCRIPTS; i++)
        redis->scripts[i].loaded = false;
}

void cs_redis_redirect(struct cs_redis *redis, const struct cs_redis_options *options)
{
    cs_redis_close(redis);
    redis->options.endpoint = options->endpoint;
    redis->options.ca_file = options->ca_file;
    redis->headers = CS_HEADERS_UNKNOWN;
}

void cs_redis_free(struct cs_redis *redis)
{
    if (!redis)
        return;
    cs_redis_close(redis);
    if (redis->wake_fd >= 0)
        (void)close(redis->wake_fd);
    free(redis->in);
    free(redis);
}

bool cs_redis_connected(const struct cs_redis *redis)
{
    return redis->wire != NULL;
}

size_t cs_redis_owed(const struct cs_redis *redis)
{
    return redis->owed;
}

void cs_redis_interrupt(struct cs_redis *redis)
{
    uint64_t one = 1;
    /* It fails only when the counter is near its end: then it is readable already. */
    if (write(redis->wake_fd, &one, sizeof one) < 0)
        return;
}

void cs_redis_counts(const struct cs_redis *redis, struct cs_redis_counts *out)
{
    *out = (struct cs_redis_counts){
        .connects = atomic_load_explicit(&redis->connects, memory_order_relaxed),
        .commands = atomic_load_explicit(&redis->commands, memory_order_relaxed),
        .bytes_sent = atomic_load_explicit(&redis->bytes_sent, memory_order_relaxed),
        .bytes_received = atomic_load_explicit(&redis->bytes_received, memory_order_relaxed),
    };
}

static void count(_Atomic uint64_t *counter, uint64_t more)
{
    atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

/* A wire's failure: an interruption is used up and leaves the connection, all else closes it. */
static enum cs_status failed(struct cs_redis *redis, enum cs_status rc)
{
    uint64_t wakes;
    if (rc != CS_CANCELLED)
        cs_redis_close(redis);
    else if (read(redis->wake_fd, &wakes, sizeof wakes) < 0)
        return rc; /* used up before */
    return rc;
}

static enum cs_status not_connected(struct cs_err *err)
{
    return cs_error_set(err, CS_ERROR_LOST, "there is no connection to Redis", NULL);
}

/* ---- Commands -------------------------------------------------------------------------------- */

enum cs_status cs_redis_append(struct cs_redis *redis, size_t argc, const char *argv[],
                               const size_t lens[], struct cs_err *err)
{
    size_t total = 0;
    char *command = NULL;
    if (!redis->wire)
        return not_connected(err);
    for (size_t i = 0; i < argc; i++)
        total += lens[i] < SIZE_MAX / 2 - total ? lens[i] : SIZE_MAX / 2 - total;
    if (total > redis->options.request_max || argc > INT_MAX)
        return cs_error_set(err, CS_ERROR_LARGE, "a command for Redis", "it is too large");
    long long len = redisFormatCommandArgv(&command, (int)argc, argv, lens);
    if (len < 0)
        return cs_err_nomem(err);
    enum cs_status rc = CS_OK;
    if ((size_t)len > redis->options.queue_max - redis->out.len)
        rc = cs_error_set(err, CS_ERROR_QUEUE, "a command for Redis", "the queue is full");
    else
        cs_buf_add(&redis->out, command, (size_t)len);
    redisFreeCommand(command);
    if (rc == CS_OK && redis->out.status != CS_OK) { /* no memory: what is queued is still whole */
        redis->out.status = CS_OK;
        rc = cs_err_nomem(err);
    }
    if (rc == CS_OK) {
        redis->queued++;
        redis->owed++;
    }
    return rc;
}

static enum cs_status append_list(struct cs_redis *redis, va_list words, struct cs_err *err)
{
    const char *argv[WORDS_MAX];
    size_t lens[WORDS_MAX], argc = 0;
    for (const char *word; (word = va_arg(words, const char *)) != NULL; argc++) {
        if (argc == WORDS_MAX)
            return cs_err_set(err, CS_INTERNAL, NULL, "a command of too many words");
        argv[argc] = word;
        lens[argc] = strlen(word);
    }
    return cs_redis_append(redis, argc, argv, lens, err);
}

enum cs_status cs_redis_appends(struct cs_redis *redis, struct cs_err *err, ...)
{
    va_list words;
    va_start(words, err);
    enum cs_status rc = append_list(redis, words, err);
    va_end(words);
    return rc;
}

enum cs_status cs_redis_flush(struct cs_redis *redis, int64_t deadline, struct cs_err *err)
{
    if (!redis->wire)
        return not_connected(err);
    if (redis->hung_up)
        return CS_OK;
    /* What is left after the last reply was not asked for, and would pass for the next one. */
    if (redis->owed == redis->queued && redis->in_pos < redis->in_len)
        return failed(redis, cs_error_set(err, CS_ERROR_PROTOCOL, "the server's reply is refused",
                                          "nobody asked for it"));
    while (redis->written < redis->out.len) {
        size_t n = 0;
        struct cs_err why = {0};
        enum cs_status rc =
            redis->wire->ops->write(redis->wire, redis->out.data + redis->written,
                                    redis->out.len - redis->written, deadline, &n, &why);
        redis->hung_up = rc == CS_UNAVAILABLE;
        if (redis->hung_up)
            return CS_OK;
        if (rc != CS_OK)
            return failed(redis, cs_err_set(err, rc, why.code, "%s", why.msg));
        redis->written += n;
        count(&redis->bytes_sent, n);
    }
    count(&redis->commands, redis->queued);
    redis->queued = redis->written = 0;
    cs_buf_reset(&redis->out);
    return CS_OK;
}

/* ---- Replies --------------------------------------------------------------------------------- */

static enum cs_status read_more(struct cs_redis *redis, int64_t deadline, struct cs_err *err)
{
    size_t n = 0;
    struct cs_err why = {0};
    if (redis->hung_up)
        deadline = cs_mono_ms();
    enum cs_status rc = redis->wire->ops->read(redis->wire, redis->in, IN_SIZE, deadline, &n, &why);
    if (rc == CS_TIMEOUT && redis->hung_up)
        return cs_error_set(err, CS_ERROR_LOST, "writing to Redis", "it closed the connection");
    if (rc != CS_OK)
        return cs_err_set(err, rc, why.code, "%s", why.msg);
    redis->in_pos = 0;
    redis->in_len = n;
    count(&redis->bytes_received, n);
    return CS_OK;
}

/* The reader has been fed a reply that is whole and within the caps. */
static enum cs_status parse(struct cs_redis *redis, struct cs_reply **out_reply, struct cs_err *err)
{
    void *reply = NULL;
    if (redisReaderGetReply(redis->reader, &reply) != REDIS_OK || !reply) {
        if (redis->reader->err == REDIS_ERR_OOM)
            return cs_err_nomem(err);
        return cs_error_set(err, CS_ERROR_PROTOCOL, "the server's reply is refused",
                            redis->reader->errstr);
    }
    *out_reply = reply;
    return CS_OK;
}

/* Move the bytes at hand through the gate into the reader. */
static enum cs_status feed(struct cs_redis *redis, struct cs_reply **out_reply, struct cs_err *err)
{
    size_t used = 0;
    bool whole = false;
    const char *data = redis->in + redis->in_pos;
    enum cs_status rc =
        cs_gate_feed(&redis->gate, data, redis->in_len - redis->in_pos, &used, &whole, err);
    if (rc != CS_OK)
        return rc;
    redis->in_pos += used;
    if (redisReaderFeed(redis->reader, data, used) != REDIS_OK)
        return cs_err_nomem(err);
    return whole ? parse(redis, out_reply, err) : CS_OK;
}

enum cs_status cs_redis_take(struct cs_redis *redis, int64_t deadline, struct cs_reply **out_reply,
                             struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    enum cs_status rc = cs_redis_flush(redis, deadline, err);
    if (rc != CS_OK)
        return rc;
    if (redis->owed == 0)
        return cs_err_set(err, CS_INTERNAL, NULL, "no reply is owed");
    while (rc == CS_OK && !reply) {
        if (redis->in_pos == redis->in_len)
            rc = read_more(redis, deadline, err);
        if (rc == CS_OK)
            rc = feed(redis, &reply, err);
    }
    if (rc != CS_OK)
        return failed(redis, rc);
    redis->owed--;
    if (cs_reply_type(reply) == CS_REPLY_ERROR)
        cs_scripts_heed(redis, reply);
    *out_reply = reply;
    return CS_OK;
}

/* The reply to the only command under way; an error reply is a failure. */
static enum cs_status take_fine(struct cs_redis *redis, int64_t deadline,
                                struct cs_reply **out_reply, struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    enum cs_status rc = cs_redis_take(redis, deadline, &reply, err);
    if (rc == CS_OK)
        rc = cs_reply_check(reply, err);
    if (rc == CS_OK)
        *out_reply = reply;
    else
        cs_reply_free(reply);
    return rc;
}

enum cs_status cs_redis_call(struct cs_redis *redis, int64_t deadline, struct cs_reply **out_reply,
                             struct cs_err *err, ...)
{
    va_list words;
    if (redis->owed > 0)
        return cs_err_set(err, CS_INTERNAL, NULL, "replies are owed");
    va_start(words, err);
    enum cs_status rc = append_list(redis, words, err);
    va_end(words);
    return rc == CS_OK ? take_fine(redis, deadline, out_reply, err) : rc;
}

/* ---- Connecting ------------------------------------------------------------------------------ */

/* A refusal of the password or the database is cured by other settings alone; the server's own
 * words are not repeated, as they might hold what was sent. */
static enum cs_status greeting_failed(struct cs_err *from, const char *doing, const char *advice,
                                      struct cs_err *err)
{
    enum cs_redis_class class = cs_redis_class(from);
    if (class == CS_REDIS_DENIED || class == CS_REDIS_REFUSED)
        return cs_error_set(err, CS_ERROR_AUTH, doing, advice);
    return cs_err_set(err, from->status, from->code, "%s", from->msg);
}

static enum cs_status authenticate(struct cs_redis *redis, int64_t deadline, struct cs_err *err)
{
    const struct cs_redis_endpoint *endpoint = redis->options.endpoint;
    struct cs_reply *reply = NULL;
    struct cs_err why = {0};
    enum cs_status rc;
    if (!endpoint->password)
        return CS_OK;
    if (endpoint->user)
        rc = cs_redis_call(redis, deadline, &reply, &why, "AUTH", endpoint->user,
                           endpoint->password, NULL);
    else
        rc = cs_redis_call(redis, deadline, &reply, &why, "AUTH", endpoint->password, NULL);
    cs_reply_free(reply);
    if (rc == CS_OK)
        return CS_OK;
    return greeting_failed(&why, "Redis refused the password",
                           endpoint->token ? "the token is not accepted over TCP; set the "
                                             "rediss:// address with its password instead"
                                           : "check the user and the password of its address",
                           err);
}

static enum cs_status select_db(struct cs_redis *redis, int64_t deadline, struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    struct cs_err why = {0};
    char db[24];
    if (redis->options.endpoint->db == 0)
        return CS_OK;
    (void)snprintf(db, sizeof db, "%d", redis->options.endpoint->db);
    enum cs_status rc = cs_redis_call(redis, deadline, &reply, &why, "SELECT", db, NULL);
    cs_reply_free(reply);
    if (rc == CS_OK)
        return CS_OK;
    return greeting_failed(&why, "Redis refused the database",
                           "check its number and whether a password is needed", err);
}

enum cs_status cs_redis_connect(struct cs_redis *redis, int64_t deadline, struct cs_err *err)
{
    const struct cs_redis_options *options = &redis->options;
    cs_redis_close(redis);
    struct cs_dial dial = {options->endpoint, options->ca_file, redis->wake_fd, deadline};
    enum cs_status rc = options->dial(options->dial_arg, &dial, &redis->wire, err);
    if (rc != CS_OK)
        return failed(redis, rc);
    cs_gate_init(&redis->gate, options->reply_max, options->items_max);
    redis->reader = redisReaderCreate();
    rc = redis->reader ? authenticate(redis, deadline, err) : cs_err_nomem(err);
    if (rc == CS_OK)
        rc = select_db(redis, deadline, err);
    if (rc != CS_OK)
        cs_redis_close(redis);
    else
        count(&redis->connects, 1);
    return rc;
}
