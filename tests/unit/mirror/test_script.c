#include "server.h"

#include <sys/un.h>

#include "cs/base/json.h"
#include "script.h"

#define MB ((size_t)1 << 20)

static struct server server;
static struct cs_redis *redis; /* what is tested */
static struct cs_redis *admin; /* looks and meddles */

static int start(void **state)
{
    (void)state;
    server_start(&server);
    admin = client_connect(&server.endpoint);
    redis = client_connect(&server.endpoint);
    return cs_scripts_load(redis, soon(), NULL) == CS_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    cs_redis_free(redis);
    cs_redis_free(admin);
    server_stop(&server);
    return 0;
}

/* ---- Looking and meddling -------------------------------------------------------------------- */

/* The reply to a command of NUL-terminated words, ended by NULL. */
static struct cs_reply *ask(const char *word, ...) __attribute__((sentinel));
static struct cs_reply *ask(const char *word, ...)
{
    const char *argv[8];
    size_t lens[8], argc = 0;
    struct cs_reply *reply = NULL;
    struct cs_err err = {0};
    va_list words;
    va_start(words, word);
    for (; word; word = va_arg(words, const char *)) {
        argv[argc] = word;
        lens[argc++] = strlen(word);
    }
    va_end(words);
    if (cs_redis_append(admin, argc, argv, lens, &err) != CS_OK ||
        cs_redis_take(admin, soon(), &reply, &err) != CS_OK || cs_reply_check(reply, &err) != CS_OK)
        fail_msg("%s", err.msg);
    return reply;
}

static int64_t number_and_free(struct cs_reply *reply)
{
    int64_t number = cs_reply_int(reply, -99);
    cs_reply_free(reply);
    return number;
}

#define ASK(...)    ask(__VA_ARGS__, NULL)
#define DO(...)     cs_reply_free(ASK(__VA_ARGS__))
#define NUMBER(...) number_and_free(ASK(__VA_ARGS__))

static int flush(void **state)
{
    (void)state;
    DO("FLUSHALL");
    return 0;
}

static const char *key_of(const char *prefix, const char *id)
{
    static char keys[32][200];
    static unsigned next;
    char *key = keys[next++ % 32];
    (void)snprintf(key, sizeof keys[0], "%s%s", prefix, id);
    return key;
}

static void every_key_has_a_ttl(void)
{
    struct cs_reply *keys = ASK("KEYS", "*");
    for (size_t i = 0; i < cs_reply_size(keys); i++) {
        const char *key = cs_reply_string(cs_reply_at(keys, i), NULL);
        if (NUMBER("TTL", key) < 0)
            fail_msg("%s has no time to live", key);
    }
    cs_reply_free(keys);
}

struct sum {
    const struct cs_json *messages;
    int64_t total;
};

/* Whether an origin's messages are all there, 1 … n, each once. */
static bool origin_is_whole(const char *origin, const struct cs_json *n, void *arg)
{
    struct sum *sum = arg;
    int64_t next = 1;
    for (size_t i = 0; i < cs_json_size(sum->messages); i++) {
        const struct cs_json *message = cs_json_at(sum->messages, i);
        if (strcmp(cs_json_get_string(message, "o"), origin) == 0)
            assert_int_equal(cs_json_int(cs_json_get(message, "q"), -1), next++);
    }
    assert_int_equal(cs_json_int(n, -1), next - 1);
    sum->total += next - 1;
    return true;
}

/* A session's value as any reader sees it; what holds at every moment is checked. The caller frees.
 */
static struct cs_json *session(const char *sid)
{
    struct cs_json *root = NULL;
    struct cs_err err = {0};
    size_t len = 0;
    every_key_has_a_ttl();
    struct cs_reply *reply = ASK("GET", key_of(CS_KEY_SESSION, sid));
    const char *text = cs_reply_string(reply, &len);
    if (!text) {
        cs_reply_free(reply);
        return NULL;
    }
    if (cs_json_parse(text, len, 256 * MB, &root, &err) != CS_OK)
        fail_msg("%s: %.300s", err.msg, text);
    const struct cs_json *cx = cs_json_get(root, "_cx");
    assert_int_equal(cs_json_int(cs_json_get(cx, "L"), -1), len);
    assert_int_equal(cs_json_int(cs_json_get(cx, "p"), -1), 1);
    struct sum sum = {cs_json_get(root, "messages"), 0};
    assert_true(cs_json_each(cs_json_get(cx, "vv"), origin_is_whole, &sum));
    assert_int_equal(sum.total, cs_json_size(sum.messages));
    assert_int_equal(cs_json_int(cs_json_get(root, "messageCount"), -1), sum.total);
    struct cs_tail tail = {.kind = CS_TAIL_MISS};
    assert_int_equal(cs_tail_parse(text, len, &tail, NULL), CS_OK);
    assert_int_equal(tail.kind, CS_TAIL_OURS);
    assert_int_equal(tail.length, len);
    assert_string_equal(tail.last_used_at, cs_json_get_string(root, "lastUsedAt"));
    cs_tail_fini(&tail);
    cs_reply_free(reply);
    return root;
}

static int64_t size_of(const char *sid)
{
    struct cs_json *root = session(sid);
    int64_t size = root ? (int64_t)cs_json_size(cs_json_get(root, "messages")) : -1;
    cs_json_free(root);
    return size;
}

/* The newest log entry's field. Borrowed until the next call. */
static const char *newest(const char *user, const char *field)
{
    static char value[5000];
    value[0] = '\0';
    struct cs_reply *reply = ASK("XREVRANGE", key_of(CS_KEY_LOG, user), "+", "-", "COUNT", "1");
    const struct cs_reply *fields = cs_reply_at(cs_reply_at(reply, 0), 1);
    for (size_t i = 0; i + 1 < cs_reply_size(fields); i += 2) {
        if (cs_reply_is(cs_reply_at(fields, i), field))
            (void)snprintf(value, sizeof value, "%s",
                           cs_reply_string(cs_reply_at(fields, i + 1), NULL));
    }
    cs_reply_free(reply);
    return value;
}

/* A digest of everything in Redis but times to live. */
static uint64_t everything(void)
{
    uint64_t hash = 1469598103934665603u;
    struct cs_reply *reply = ASK("DEBUG", "DIGEST");
    for (const char *p = cs_reply_string(reply, NULL); *p; p++)
        hash = (hash ^ (uint64_t)(unsigned char)*p) * 1099511628211u;
    cs_reply_free(reply);
    return hash;
}

/* ---- Calls ----------------------------------------------------------------------------------- */

static struct cs_script_reply verdict; /* of the last call */

static void take(void)
{
    struct cs_err err = {0};
    cs_script_reply_free(&verdict);
    if (cs_script_take(redis, soon(), &verdict, &err) != CS_OK)
        fail_msg("%s", err.msg);
}

static struct cs_script_session ids(const char *sid)
{
    static char cids[32][100];
    static unsigned next;
    char *cid = cids[next++ % 32];
    (void)snprintf(cid, sizeof cids[0], "c-%s", sid);
    return (struct cs_script_session){.sid = sid, .cid = cid, .user = "ann", .ttl_s = 3600};
}

static const struct cs_script_state now_state = {"active", "2026-01-01T00:00:01.000Z", "m\"1"};

static char texts[300][100];
static char joined[300 * 100], joined_lens[300 * 4]; /* as a PUSH wants them */

/* Messages `from` … `from + count - 1` of @origin. Returns the bytes of `joined`. */
static size_t make_texts(const char *origin, int64_t from, size_t count, const char *content)
{
    size_t len = 0, lens = 0;
    joined_lens[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        int n = snprintf(texts[i], sizeof texts[i], "{\"content\":\"%s\",\"o\":\"%s\",\"q\":%lld}",
                         content, origin, (long long)from + (long long)i);
        len += (size_t)snprintf(joined + len, sizeof joined - len, ",%s", texts[i]);
        if (i + 1 < count)
            lens += (size_t)snprintf(joined_lens + lens, sizeof joined_lens - lens, " %d", n + 1);
    }
    return len;
}

static struct cs_push push_of(const char *sid, const char *origin, int64_t from, size_t count)
{
    size_t len = make_texts(origin, from, count, "hi");
    return (struct cs_push){.session = ids(sid),
                            .state = now_state,
                            .origin = origin,
                            .from = from,
                            .messages = joined,
                            .messages_len = len,
                            .lens = joined_lens,
                            .index = true};
}

static enum cs_verdict send_push(const struct cs_push *push)
{
    struct cs_err err = {0};
    if (cs_push_append(redis, push, &err) != CS_OK)
        fail_msg("%s", err.msg);
    take();
    return verdict.verdict;
}

static enum cs_verdict push(const char *sid, const char *origin, int64_t from, size_t count)
{
    struct cs_push p = push_of(sid, origin, from, count);
    return send_push(&p);
}

/* A whole session: messages 1 … n of one origin. */
static struct cs_put put_of(const char *sid, const char *origin, size_t count)
{
    static char prefix[300], messages[300 * 100], vv[100];
    size_t len = 0;
    make_texts(origin, 1, count, "hi");
    for (size_t i = 0; i < count; i++)
        len +=
            (size_t)snprintf(messages + len, sizeof messages - len, "%s%s", i ? "," : "", texts[i]);
    int n = snprintf(prefix, sizeof prefix,
                     "{\"sessionId\":\"%s\",\"conversationId\":\"c-%s\",\"messages\":[", sid, sid);
    (void)snprintf(vv, sizeof vv, "{\"%s\":%zu}", origin, count);
    return (struct cs_put){.session = ids(sid),
                           .state = now_state,
                           .prefix = prefix,
                           .prefix_len = (size_t)n,
                           .messages = messages,
                           .messages_len = len,
                           .vv = vv,
                           .meta = 100};
}

static enum cs_verdict send_put(const struct cs_put *put)
{
    struct cs_err err = {0};
    if (cs_put_append(redis, put, &err) != CS_OK)
        fail_msg("%s", err.msg);
    take();
    return verdict.verdict;
}

static enum cs_verdict put(const char *sid, const char *origin, size_t count)
{
    struct cs_put p = put_of(sid, origin, count);
    return send_put(&p);
}

static enum cs_verdict del(const char *sid, const char *vv)
{
    struct cs_script_session session = ids(sid);
    assert_int_equal(cs_del_append(redis, &session, vv, NULL), CS_OK);
    take();
    return verdict.verdict;
}

/* ---- Watching -------------------------------------------------------------------------------- */

static int monitor_open(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char ok[5];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)snprintf(at.sun_path, sizeof at.sun_path, "%s", server.path);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(write(fd, "MONITOR\r\n", 9), 9);
    assert_int_equal(recv(fd, ok, 5, MSG_WAITALL), 5);
    return fd;
}

/* The names of the commands since monitor_open(), separated by blanks; closes it. */
static char *monitor_close(int fd)
{
    static char text[65536], names[2000];
    size_t len = 0;
    DO("ECHO", "the-end");
    text[0] = '\0';
    while (!strstr(text, "the-end")) {
        ssize_t n = read(fd, text + len, sizeof text - 1 - len);
        assert_true(n > 0);
        len += (size_t)n;
        text[len] = '\0';
    }
    (void)close(fd);
    names[0] = '\0';
    size_t used = 0;
    for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        char name[40];
        const char *begin = strstr(line, "] \"");
        if (begin && sscanf(begin, "] \"%39[^\"]", name) == 1 && strcmp(name, "ECHO") != 0)
            used +=
                (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? " " : "", name);
    }
    return names;
}

/* ---- PUSH ------------------------------------------------------------------------------------ */

static void messages_are_appended_and_the_value_stays_json(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 1);
    for (int64_t q = 2; q < 60; q++) {
        assert_int_equal(push("s", "a", q, 1), CS_VERDICT_OK);
        assert_int_equal(verdict.seq, q);
        assert_non_null(verdict.id);
        assert_int_equal(verdict.length, NUMBER("STRLEN", key_of(CS_KEY_SESSION, "s")));
        assert_int_equal(size_of("s"), q);
    }
    assert_int_equal(push("s", "b", 1, 200), CS_VERDICT_OK);
    assert_int_equal(push("s", "a", 60, 5), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 264);
    struct cs_json *root = session("s");
    assert_string_equal(cs_json_get_string(root, "status"), "active");
    assert_string_equal(cs_json_get_string(root, "model"), "m\"1");
    assert_string_equal(cs_json_get_string(root, "sessionId"), "s");
    cs_json_free(root);
}

static void an_append_costs_five_commands_and_writes_the_log_first(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    int fd = monitor_open();
    assert_int_equal(push("s", "a", 2, 3), CS_VERDICT_OK);
    assert_string_equal(monitor_close(fd), "EVALSHA GETRANGE XADD SETRANGE EXPIRE");
    struct cs_push p = push_of("s", "a", 5, 1);
    p.lease = "tok";
    fd = monitor_open();
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
    assert_string_equal(monitor_close(fd), "EVALSHA GETRANGE XADD SETRANGE EXPIRE GETDEL");
}

static void many_bytes_are_written_by_calls_of_their_own(void **state)
{
    (void)state;
    struct cs_put q = put_of("s", "a", 200);
    int fd = monitor_open();
    assert_int_equal(send_put(&q), CS_VERDICT_OK);
    char *commands = monitor_close(fd);
    assert_non_null(strstr(commands, " XADD SET APPEND APPEND SET SADD"));
    assert_int_equal(size_of("s"), 200);
    struct cs_push p = push_of("s", "a", 201, 200);
    fd = monitor_open();
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
    assert_string_equal(monitor_close(fd), "EVALSHA GETRANGE XADD SETRANGE SETRANGE EXPIRE");
    assert_int_equal(size_of("s"), 400);
    assert_int_equal(send_push(&p), CS_VERDICT_DUP);
    assert_int_equal(push("s", "a", 300, 200), CS_VERDICT_OK); /* half of it is new */
    assert_int_equal(size_of("s"), 499);
}

static void a_repeated_append_changes_nothing(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    assert_int_equal(push("s", "a", 2, 3), CS_VERDICT_OK);
    uint64_t before = everything();
    assert_int_equal(push("s", "a", 2, 3), CS_VERDICT_DUP);
    assert_int_equal(verdict.seq, 4);
    assert_int_equal(push("s", "a", 1, 1), CS_VERDICT_DUP);
    assert_int_equal(push("s", "a", 4, 1), CS_VERDICT_DUP);
    assert_true(everything() == before);
    assert_int_equal(push("s", "a", 3, 4), CS_VERDICT_OK);
    assert_int_equal(verdict.seq, 6);
    assert_int_equal(size_of("s"), 6);
    assert_string_equal(newest("ann", "f"), "5");
    assert_string_equal(newest("ann", "o"), "a");
    assert_string_equal(newest("ann", "k"), "add");
    assert_string_equal(newest("ann", "s"), "s");
    assert_string_equal(newest("ann", "b"), "[{\"content\":\"hi\",\"o\":\"a\",\"q\":5},"
                                            "{\"content\":\"hi\",\"o\":\"a\",\"q\":6}]");
}

static void the_same_id_with_other_bytes_is_a_fork(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    assert_int_equal(push("s", "a", 2, 3), CS_VERDICT_OK);
    uint64_t before = everything();
    struct cs_push p = push_of("s", "a", 3, 1);
    p.messages_len = make_texts("a", 3, 1, "other");
    assert_int_equal(send_push(&p), CS_VERDICT_FORK);
    assert_int_equal(verdict.seq, 4);
    p = push_of("s", "a", 4, 2);
    p.messages_len = make_texts("a", 4, 2, "other");
    assert_int_equal(send_push(&p), CS_VERDICT_FORK);
    assert_true(everything() == before);
}

static void a_gap_says_where_to_begin(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 2), CS_VERDICT_OK);
    uint64_t before = everything();
    assert_int_equal(push("s", "a", 4, 2), CS_VERDICT_GAP);
    assert_int_equal(verdict.seq, 2);
    assert_int_equal(push("s", "b", 2, 1), CS_VERDICT_GAP);
    assert_int_equal(verdict.seq, 0);
    assert_true(everything() == before);
}

static void what_is_missing_is_named_and_nothing_is_written(void **state)
{
    (void)state;
    assert_int_equal(push("s", "a", 1, 1), CS_VERDICT_MISS);
    assert_int_equal(NUMBER("DBSIZE"), 0);
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    DO("DEL", key_of(CS_KEY_LOG, "ann"));
    assert_int_equal(push("s", "a", 2, 1), CS_VERDICT_NOLOG);
    assert_int_equal(size_of("s"), 1);
    assert_int_equal(NUMBER("EXISTS", key_of(CS_KEY_LOG, "ann")), 0);
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK); /* the same again: the log is made anew */
    assert_int_equal(push("s", "a", 2, 1), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 2);
}

static void a_wide_vector_doubles_the_tail(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    int64_t most = 0;
    for (int i = 0; i < 200; i++) {
        char origin[40];
        (void)snprintf(origin, sizeof origin, "%016d", i);
        int64_t before = NUMBER("STRLEN", key_of(CS_KEY_SESSION, "s"));
        assert_int_equal(push("s", origin, 1, 1), CS_VERDICT_OK);
        int64_t grown = NUMBER("STRLEN", key_of(CS_KEY_SESSION, "s")) - before;
        most = grown > most ? grown : most;
        assert_int_equal(size_of("s"), i + 2);
    }
    assert_in_range(most, 4096, 4096 + 200);
    /* Read by C as by the scripts: a short read says how much is needed. */
    size_t len = 0;
    struct cs_tail tail = {.kind = CS_TAIL_MISS};
    struct cs_reply *reply = ASK("GETRANGE", key_of(CS_KEY_SESSION, "s"), "-1024", "-1");
    const char *text = cs_reply_string(reply, &len);
    assert_int_equal(cs_tail_parse(text, len, &tail, NULL), CS_OK);
    assert_int_equal(tail.kind, CS_TAIL_WIDER);
    assert_int_equal(tail.width, 8192);
    cs_tail_fini(&tail);
    cs_reply_free(reply);
    assert_int_equal(put("s", "z", 1), CS_VERDICT_STALE);
}

static void more_origins_than_the_widest_tail_holds_are_refused(void **state)
{
    (void)state;
    char *vv = malloc(4 * CS_TAIL_WIDTH_MAX), *first = vv;
    assert_non_null(vv);
    vv += snprintf(vv, 20, "{\"a\":1");
    for (int i = 0; i < 3200; i++)
        vv += snprintf(vv, 40, ",\"%016d\":1", i);
    (void)snprintf(vv, 2, "}");
    struct cs_put p = put_of("s", "a", 1);
    p.vv = first;
    assert_int_equal(send_put(&p), CS_VERDICT_WIDE);
    assert_int_equal(NUMBER("DBSIZE"), 0);
    free(first);
}

static void a_large_append_leaves_offsets_in_the_log(void **state)
{
    (void)state;
    static char large[200000];
    int n = snprintf(large, sizeof large, ",{\"o\":\"a\",\"q\":2,\"content\":\"");
    memset(large + n, 'y', sizeof large - (size_t)n - 3);
    memcpy(large + sizeof large - 3, "\"}", 3);
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    struct cs_push p = push_of("s", "a", 2, 1);
    p.messages = large;
    p.messages_len = sizeof large - 1;
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 2);
    assert_string_equal(newest("ann", "b"), "");
    long long at = 0, len = 0;
    assert_int_equal(sscanf(newest("ann", "r"), "%lld %lld", &at, &len), 2);
    assert_int_equal(len, sizeof large - 2);
    char first[30], last[30];
    (void)snprintf(first, sizeof first, "%lld", at);
    (void)snprintf(last, sizeof last, "%lld", at + len - 1);
    struct cs_reply *reply = ASK("GETRANGE", key_of(CS_KEY_SESSION, "s"), first, last);
    assert_true(cs_reply_is(reply, large + 1));
    cs_reply_free(reply);
    assert_int_equal(send_push(&p), CS_VERDICT_DUP);
    assert_int_equal(push("s", "a", 3, 1), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 3);
}

static void a_value_past_its_cap_is_refused(void **state)
{
    (void)state;
    size_t len = 9 * MB;
    char *large = malloc(len + 1);
    assert_non_null(large);
    int n = snprintf(large, 60, ",{\"o\":\"a\",\"q\":2,\"content\":\"");
    memset(large + n, 'y', len - (size_t)n - 2);
    memcpy(large + len - 2, "\"}", 3);
    struct cs_push p = push_of("s", "a", 2, 1);
    p.messages = large;
    p.messages_len = len;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 2);
    free(large);
    /* As if there were seven more of these: the length in the tail is all that is looked at. */
    struct cs_reply *reply = ASK("GETRANGE", key_of(CS_KEY_SESSION, "s"), "-1024", "-1");
    char tail[1025], offset[24];
    (void)snprintf(tail, sizeof tail, "%s", cs_reply_string(reply, NULL));
    cs_reply_free(reply);
    char *length = strstr(tail, "\"L\":") + 4;
    char *space = strstr(length, "  ");
    memmove(length + 1, length, (size_t)(space + 1 - length)); /* one digit more, one blank less */
    memcpy(length, "67108860", 8);
    (void)snprintf(offset, sizeof offset, "%lld",
                   (long long)NUMBER("STRLEN", key_of(CS_KEY_SESSION, "s")) - 1024);
    DO("SETRANGE", key_of(CS_KEY_SESSION, "s"), offset, tail);
    uint64_t before = everything();
    assert_int_equal(push("s", "a", 3, 20), CS_VERDICT_LARGE);
    assert_true(everything() == before);
}

static void the_state_is_that_of_the_latest_use(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    struct cs_push p = push_of("s", "a", 2, 1);
    p.state = (struct cs_script_state){"failed", "2026-01-01T00:00:02.000Z", "m2"};
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
    p = push_of("s", "b", 1, 1);
    p.state = (struct cs_script_state){"active", "2025-12-31T00:00:00.000Z", "m3"};
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
    struct cs_json *root = session("s");
    assert_string_equal(cs_json_get_string(root, "status"), "failed");
    assert_string_equal(cs_json_get_string(root, "model"), "m2");
    assert_string_equal(cs_json_get_string(root, "lastUsedAt"), "2026-01-01T00:00:02.000Z");
    cs_json_free(root);
}

static void hostile_names_do_not_break_the_tail(void **state)
{
    (void)state;
    struct cs_push p;
    static const char *const models[] = {
        "],\"_cx\":{\"p\":2,\"L\":1}",
        "\",\"w\":\"1024\"}",
        "{}{}",
        ",\"messageCount\":7 ,\"w\":\"1\"}",
        "\"lastUsedAt\":\"9999\"",
        "%d%s$1\\",
        "\xc3\xa9\n\t",
    };
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char at[32];
        (void)snprintf(at, sizeof at, "2026-01-01T00:01:%02zu.000Z", i);
        p = push_of("s", "a", (int64_t)i + 2, 1);
        p.state = (struct cs_script_state){"active", at, models[i]};
        assert_int_equal(send_push(&p), CS_VERDICT_OK);
        struct cs_json *root = session("s");
        assert_string_equal(cs_json_get_string(root, "model"), models[i]);
        cs_json_free(root);
    }
    p = push_of("s", "a", 1, 1);
    p.state.model = "\xff";
    assert_int_equal(cs_push_append(redis, &p, NULL), CS_INVALID);
    p = push_of("s", "a", 1, 1);
    static const char *const origins[] = {
        "",   "a b",      "a\"",
        "a:", "\xc3\xa9", "01234567890123456789012345678901234567890123456789012345678901234"};
    for (size_t i = 0; i < sizeof origins / sizeof *origins; i++) {
        p.origin = origins[i];
        assert_int_equal(cs_push_append(redis, &p, NULL), CS_INVALID);
    }
}

/* Set a session's stamps back by @seconds, as if its last append had been so long ago. */
static void age(const char *sid, int64_t seconds)
{
    size_t len = 0;
    struct cs_reply *reply = ASK("GET", key_of(CS_KEY_SESSION, sid));
    const char *text = cs_reply_string(reply, &len);
    char *copy = malloc(len + 1);
    assert_non_null(copy);
    memcpy(copy, text, len + 1);
    for (int i = 0; i < 2; i++) {
        char *p = strstr(copy + len - 1024, i ? "\"ix\":" : "\"at\":") + 5;
        char *end = NULL;
        long long value = strtoll(p, &end, 10);
        char digits[24];
        int n = snprintf(digits, sizeof digits, "%lld", value - (long long)seconds * 1000000);
        assert_int_equal(n, end - p);
        memcpy(p, digits, (size_t)n);
    }
    DO("SET", key_of(CS_KEY_SESSION, sid), copy, "KEEPTTL");
    free(copy);
    cs_reply_free(reply);
}

static void the_index_is_looked_at_only_when_its_keys_are_named(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    struct cs_push p = push_of("s", "a", 2, 1);
    p.index = false;
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
    assert_in_range(verdict.fresh_s, 590, 600);
    age("s", 601);
    p = push_of("s", "a", 3, 1);
    p.index = false;
    int fd = monitor_open();
    assert_int_equal(send_push(&p), CS_VERDICT_NOINDEX);
    assert_string_equal(monitor_close(fd), "EVALSHA GETRANGE XADD SETRANGE EXPIRE");
    assert_int_equal(push("s", "a", 4, 1), CS_VERDICT_OK);
    assert_int_equal(verdict.fresh_s, 600);
    assert_int_equal(size_of("s"), 4);
}

static void appends_refresh_the_index_every_ten_minutes(void **state)
{
    (void)state;
    const char *user = key_of(CS_KEY_USER, "ann"),
               *conversation = key_of(CS_KEY_CONVERSATION, "c-s");
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    assert_in_range(NUMBER("TTL", user), 4498, 4500);
    DO("EXPIRE", user, "1000");
    DO("DEL", conversation);
    assert_int_equal(push("s", "a", 2, 1), CS_VERDICT_OK);
    assert_in_range(NUMBER("TTL", user), 998, 1000);
    age("s", 601);
    int fd = monitor_open();
    assert_int_equal(push("s", "a", 3, 1), CS_VERDICT_OK);
    const char *commands = monitor_close(fd);
    assert_non_null(strstr(commands, "STRLEN SISMEMBER TTL EXPIRE SET SETRANGE EXPIRE"));
    assert_in_range(NUMBER("TTL", user), 4498, 4500);
    assert_in_range(NUMBER("TTL", conversation), 4498, 4500);
    fd = monitor_open();
    assert_int_equal(push("s", "a", 4, 1), CS_VERDICT_OK);
    assert_string_equal(monitor_close(fd), "EVALSHA GETRANGE XADD SETRANGE EXPIRE");
    /* A longer life of another session is not cut short. */
    DO("EXPIRE", user, "100000");
    age("s", 601);
    assert_int_equal(push("s", "a", 5, 1), CS_VERDICT_OK);
    assert_in_range(NUMBER("TTL", user), 99998, 100000);
    /* A day's first append refreshes the log. */
    DO("EXPIRE", key_of(CS_KEY_LOG, "ann"), "1000");
    age("s", 86400);
    assert_int_equal(push("s", "a", 6, 1), CS_VERDICT_OK);
    assert_in_range(NUMBER("TTL", key_of(CS_KEY_LOG, "ann")), 604798, 604800);
}

static void a_missing_index_is_noticed_and_made_anew_by_put(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    DO("DEL", key_of(CS_KEY_USER, "ann"));
    age("s", 700);
    assert_int_equal(push("s", "a", 2, 1), CS_VERDICT_NOINDEX);
    assert_int_equal(verdict.seq, 2);
    assert_non_null(verdict.id);
    assert_int_equal(size_of("s"), 2);
    assert_int_equal(push("s", "a", 3, 1), CS_VERDICT_NOINDEX); /* until it is repaired */
    int64_t length = NUMBER("STRLEN", key_of(CS_KEY_SESSION, "s"));
    int fd = monitor_open();
    assert_int_equal(put("s", "a", 3), CS_VERDICT_OK);
    assert_null(strstr(monitor_close(fd), "SETRANGE"));
    assert_int_equal(verdict.length, length);
    assert_int_equal(NUMBER("SISMEMBER", key_of(CS_KEY_USER, "ann"), "s"), 1);
    assert_int_equal(push("s", "a", 4, 1), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 4);
}

static void a_session_without_an_end_gets_thirty_days(void **state)
{
    (void)state;
    struct cs_put p = put_of("s", "a", 1);
    p.session.ttl_s = 0;
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_in_range(NUMBER("TTL", key_of(CS_KEY_SESSION, "s")), 2591998, 2592000);
    assert_in_range(NUMBER("TTL", key_of(CS_KEY_USER, "ann")), 2592898, 2592900);
    DO("EXPIRE", key_of(CS_KEY_SESSION, "s"), "10");
    struct cs_push q = push_of("s", "a", 2, 1);
    q.session.ttl_s = 0;
    assert_int_equal(send_push(&q), CS_VERDICT_OK);
    assert_in_range(NUMBER("TTL", key_of(CS_KEY_SESSION, "s")), 2591998, 2592000);
    /* A short one beside it leaves the set its life. */
    assert_int_equal(put("t", "a", 1), CS_VERDICT_OK);
    assert_in_range(NUMBER("TTL", key_of(CS_KEY_USER, "ann")), 2592890, 2592900);
    every_key_has_a_ttl();
}

static void the_hour_slides_with_each_append(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    DO("EXPIRE", key_of(CS_KEY_SESSION, "s"), "10");
    assert_int_equal(push("s", "a", 2, 1), CS_VERDICT_OK);
    assert_in_range(NUMBER("TTL", key_of(CS_KEY_SESSION, "s")), 3598, 3600);
}

static void values_that_are_not_ours_are_foreign(void **state)
{
    (void)state;
    const char *key = key_of(CS_KEY_SESSION, "s");
    static char spaces[3000], narrow[CS_TAIL_WIDTH + 1]; /* a tail that says it is twice as wide */
    static const char *const values[] = {
        "{\"sessionId\":\"s\",\"messages\":[]}", "x",    "{\"messages\":[],\"w\":\"1024\"}",
        "{\"messages\":[],\"w\":\"99999\"}",     spaces, narrow,
    };
    int n = snprintf(narrow, sizeof narrow,
                     "],\"_cx\":{\"p\":1,\"L\":1024,\"at\":1,\"ix\":1,\"mv\":0,\"vv\":{\"a\":1}},"
                     "\"lastUsedAt\":\"\",\"messageCount\":1");
    memset(narrow + n, ' ', sizeof narrow - 1 - (size_t)n);
    memcpy(narrow + sizeof narrow - 1 - 12, ",\"w\":\"2048\"}", 12);
    memset(spaces, ' ', sizeof spaces - 1);
    memcpy(spaces + sizeof spaces - 1 - 1024, "],\"_cx\":{\"p\":1,\"L\":5}", 21);
    memcpy(spaces + sizeof spaces - 1 - 12, ",\"w\":\"1024\"}", 12);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        DO("SET", key, values[i], "EX", "1000");
        uint64_t before = everything();
        struct cs_tail tail = {.kind = CS_TAIL_MISS};
        assert_int_equal(cs_tail_parse(values[i], strlen(values[i]), &tail, NULL), CS_OK);
        assert_int_equal(tail.kind, values[i] == narrow ? CS_TAIL_WIDER : CS_TAIL_FOREIGN);
        cs_tail_fini(&tail);
        assert_int_equal(push("s", "a", 1, 1), CS_VERDICT_FOREIGN);
        assert_int_equal(put("s", "a", 1), CS_VERDICT_FOREIGN);
        assert_int_equal(del("s", "{\"a\":1}"), CS_VERDICT_FOREIGN);
        assert_true(everything() == before);
    }
}

static void a_foreign_value_is_replaced_by_its_digest_only(void **state)
{
    (void)state;
    const char *key = key_of(CS_KEY_SESSION, "s");
    DO("SET", key, "abc", "EX", "1000");
    struct cs_put p = put_of("s", "a", 2);
    p.foreign = "a9993e364706816aba3e25717850c26c9cd0d89d"; /* SHA-1 of "abc" */
    DO("SET", key, "abd", "EX", "1000");
    assert_int_equal(send_put(&p), CS_VERDICT_FOREIGN);
    DO("SET", key, "abc", "EX", "1000");
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 2);

    /* Sent once more, when that value is gone: others may have it under other numbers. */
    uint64_t before = everything();
    assert_int_equal(send_put(&p), CS_VERDICT_FOREIGN);
    assert_true(everything() == before);
    DO("DEL", key);
    before = everything();
    assert_int_equal(send_put(&p), CS_VERDICT_FOREIGN);
    assert_true(everything() == before);
}

static void a_newer_protocol_is_never_written(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    size_t len = 0;
    struct cs_reply *reply = ASK("GET", key_of(CS_KEY_SESSION, "s"));
    const char *text = cs_reply_string(reply, &len);
    char *copy = malloc(len + 1);
    assert_non_null(copy);
    memcpy(copy, text, len + 1);
    *(strstr(copy, "\"p\":1") + 4) = '2';
    DO("SET", key_of(CS_KEY_SESSION, "s"), copy, "KEEPTTL");
    uint64_t before = everything();
    assert_int_equal(push("s", "a", 2, 1), CS_VERDICT_PROTOCOL);
    assert_int_equal(put("s", "a", 2), CS_VERDICT_PROTOCOL);
    assert_int_equal(del("s", "{\"a\":9}"), CS_VERDICT_PROTOCOL);
    assert_true(everything() == before);
    struct cs_tail tail = {.kind = CS_TAIL_MISS};
    assert_int_equal(cs_tail_parse(copy, len, &tail, NULL), CS_OK);
    assert_int_equal(tail.kind, CS_TAIL_PROTOCOL);
    assert_int_equal(tail.protocol, 2);
    cs_tail_fini(&tail);
    free(copy);
    cs_reply_free(reply);
}

/* Make the value of session "s" begin elsewhere: longer or shorter than its tail says. */
static void tear(bool longer)
{
    struct cs_reply *reply = ASK("GET", key_of(CS_KEY_SESSION, "s"));
    size_t len = 0;
    const char *text = cs_reply_string(reply, &len);
    char *torn = malloc(len + 10);
    assert_non_null(torn);
    (void)snprintf(torn, len + 10, "%s%s", longer ? "   " : "", longer ? text : text + 3);
    DO("SET", key_of(CS_KEY_SESSION, "s"), torn, "KEEPTTL");
    free(torn);
    cs_reply_free(reply);
}

static void a_torn_value_is_removed_or_replaced(void **state)
{
    (void)state;
    for (int longer = 0; longer < 2; longer++) {
        DO("FLUSHALL");
        assert_int_equal(put("s", "a", 2), CS_VERDICT_OK);
        tear(longer != 0);
        assert_int_equal(push("s", "a", 2, 1), CS_VERDICT_TORN); /* a message known already */
        assert_int_equal(NUMBER("EXISTS", key_of(CS_KEY_SESSION, "s")), 0);
        assert_int_equal(put("s", "a", 2), CS_VERDICT_OK);
        assert_int_equal(size_of("s"), 2);
        age("s", 700);
        tear(longer != 0);
        assert_int_equal(push("s", "a", 3, 1), CS_VERDICT_TORN); /* every ten minutes */
        assert_int_equal(NUMBER("EXISTS", key_of(CS_KEY_SESSION, "s")), 0);
        assert_int_equal(put("s", "a", 3), CS_VERDICT_OK);
        tear(longer != 0);
        assert_int_equal(put("s", "a", 3), CS_VERDICT_OK); /* whoever could not read it */
        assert_int_equal(size_of("s"), 3);
    }
}

/* ---- PUT ------------------------------------------------------------------------------------- */

static void a_put_creates_all_keys_and_tells_the_log(void **state)
{
    (void)state;
    struct cs_put p = put_of("s", "a", 3);
    p.note = "{\"title\":\"t\"}";
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_int_equal(verdict.length, NUMBER("STRLEN", key_of(CS_KEY_SESSION, "s")));
    assert_int_equal(cs_reply_size(verdict.evicted), 0);
    assert_int_equal(size_of("s"), 3);
    assert_string_equal(newest("ann", "k"), "put");
    assert_string_equal(newest("ann", "v"), "{\"a\":3}");
    assert_string_equal(newest("ann", "n"), "{\"title\":\"t\"}");
    assert_int_equal(NUMBER("SISMEMBER", key_of(CS_KEY_USER, "ann"), "s"), 1);
    struct cs_reply *reply = ASK("GET", key_of(CS_KEY_CONVERSATION, "c-s"));
    assert_true(cs_reply_is(reply, "s"));
    cs_reply_free(reply);
    assert_in_range(NUMBER("TTL", key_of(CS_KEY_SESSION, "s")), 3598, 3600);
    assert_in_range(NUMBER("TTL", key_of(CS_KEY_CONVERSATION, "c-s")), 4498, 4500);
}

static void a_new_session_costs_ten_commands(void **state)
{
    (void)state;
    const char *user = key_of(CS_KEY_USER, "ann"), *log = key_of(CS_KEY_LOG, "ann");
    for (int64_t limit = 0; limit <= 5; limit += 5) {
        struct cs_put p = put_of("s", "a", 1);
        p.limit = limit;
        assert_int_equal(send_put(&p), CS_VERDICT_OK);
        assert_in_range(NUMBER("TTL", log), 604798, 604800);
        DO("EXPIRE", log, "1000");
        for (int i = 0; i < 2; i++) {
            p = put_of(i == 0 ? "t" : "u", "a", 1);
            p.limit = limit;
            DO("EXPIRE", user, i == 0 ? "4300" : "4100"); /* some minutes passed */
            int fd = monitor_open();
            assert_int_equal(send_put(&p), CS_VERDICT_OK);
            char *commands = monitor_close(fd);
            const char *found = strstr(commands, " EXISTS XADD SET SET SADD TTL");
            assert_non_null(found);
            assert_string_equal(found + strlen(" EXISTS XADD SET SET SADD TTL"),
                                i == 0 ? "" : " EXPIRE EXPIRE");
            *strchr(commands + strlen("EVALSHA MGET GETRANGE "), ' ') = '\0';
            assert_string_equal(commands, limit == 0 ? "EVALSHA MGET GETRANGE SRANDMEMBER"
                                                     : "EVALSHA MGET GETRANGE SMEMBERS");
            assert_in_range(NUMBER("TTL", user), i == 0 ? 4298 : 4498, i == 0 ? 4300 : 4500);
            assert_in_range(NUMBER("TTL", log), i == 0 ? 998 : 604798, i == 0 ? 1000 : 604800);
        }
        DO("FLUSHALL");
    }
}

static void a_put_never_goes_back(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 3), CS_VERDICT_OK);
    uint64_t before = everything();
    assert_int_equal(put("s", "a", 3), CS_VERDICT_DUP);
    assert_string_equal(verdict.vv, "{\"a\":3}");
    assert_int_equal(put("s", "a", 2), CS_VERDICT_STALE);
    assert_string_equal(verdict.vv, "{\"a\":3}");
    assert_int_equal(put("s", "b", 5), CS_VERDICT_STALE);
    struct cs_put p = put_of("s", "a", 5);
    p.meta = 99;
    assert_int_equal(send_put(&p), CS_VERDICT_STALE);
    assert_true(everything() == before);
    assert_int_equal(put("s", "a", 5), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 5);
}

static void a_newer_prefix_replaces_an_older_one(void **state)
{
    (void)state;
    struct cs_put p = put_of("s", "a", 2);
    p.meta = 9000000000000000000; /* past what a double holds */
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    p.meta++;
    p.prefix = "{\"sessionId\":\"s\",\"title\":\"new\",\"messages\":[";
    p.prefix_len = strlen(p.prefix);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    p.meta--;
    p.prefix = "{\"sessionId\":\"s\",\"title\":\"old\",\"messages\":[";
    assert_int_equal(send_put(&p), CS_VERDICT_STALE);
    struct cs_json *root = session("s");
    assert_string_equal(cs_json_get_string(root, "title"), "new");
    cs_json_free(root);
}

static void a_put_that_would_not_be_json_is_refused_here(void **state)
{
    (void)state;
    struct cs_put p = put_of("s", "a", 1);
    p.messages_len = 0;
    assert_int_equal(cs_put_append(redis, &p, NULL), CS_INVALID);
    p = put_of("s", "a", 1);
    p.prefix_len--;
    assert_int_equal(cs_put_append(redis, &p, NULL), CS_INVALID);
    p = put_of("s", "a", 1);
    p.messages_len--;
    assert_int_equal(cs_put_append(redis, &p, NULL), CS_INVALID);
    p = put_of("", "a", 1);
    assert_int_equal(cs_put_append(redis, &p, NULL), CS_INVALID);
    assert_int_equal(cs_redis_owed(redis), 0);
}

static struct cs_put limited(const char *sid, int64_t limit)
{
    struct cs_put p = put_of(sid, "a", 1);
    p.limit = limit;
    return p;
}

static void a_new_session_puts_out_the_least_recent(void **state)
{
    (void)state;
    static const char *const sids[] = {"s0", "s1", "s2"};
    for (int i = 0; i < 3; i++) {
        struct cs_put p = limited(sids[i], 3);
        assert_int_equal(send_put(&p), CS_VERDICT_OK);
        nap(2);
    }
    assert_int_equal(push("s0", "a", 2, 1), CS_VERDICT_OK);
    struct cs_put p = limited("s3", 3);
    int fd = monitor_open();
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    const char *commands = monitor_close(fd);
    assert_non_null(strstr(commands, "XADD XADD GETRANGE SET DEL SREM SET")); /* the log first */
    assert_int_equal(cs_reply_size(verdict.evicted), 1);
    assert_true(cs_reply_is(cs_reply_at(verdict.evicted, 0), "s1"));
    assert_int_equal(NUMBER("SCARD", key_of(CS_KEY_USER, "ann")), 3);
    assert_int_equal(
        NUMBER("EXISTS", key_of(CS_KEY_SESSION, "s1"), key_of(CS_KEY_CONVERSATION, "c-s1")), 0);
    assert_int_equal(size_of("s0"), 2);
    /* What is put out first makes the log anew, if it is gone. */
    DO("DEL", key_of(CS_KEY_LOG, "ann"));
    p = limited("s5", 3);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_in_range(NUMBER("TTL", key_of(CS_KEY_LOG, "ann")), 604798, 604800);
    assert_int_equal(push("s3", "a", 2, 1), CS_VERDICT_OK);
    assert_int_equal(push("s5", "a", 2, 1), CS_VERDICT_OK);
    /* The limit was lowered: several go, and a replacing PUT needs no place. */
    p = limited("s4", 2);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_int_equal(cs_reply_size(verdict.evicted), 2);
    p = limited("s4", 1);
    p.meta = 101;
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_int_equal(NUMBER("SCARD", key_of(CS_KEY_USER, "ann")), 2);
    every_key_has_a_ttl();
}

static void a_limit_holds_over_many_sessions(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        char sid[20];
        (void)snprintf(sid, sizeof sid, "s%d", i);
        struct cs_put p = limited(sid, 10);
        assert_int_equal(send_put(&p), CS_VERDICT_OK);
        struct cs_reply *keys = ASK("KEYS", "codex:session:*");
        assert_int_equal(cs_reply_size(keys), i < 10 ? i + 1 : 10);
        cs_reply_free(keys);
        assert_int_equal(NUMBER("SCARD", key_of(CS_KEY_USER, "ann")), i < 10 ? i + 1 : 10);
    }
    /* Another user's sessions do not count. */
    struct cs_put p = limited("other", 10);
    p.session.user = "bob";
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_int_equal(cs_reply_size(verdict.evicted), 0);
}

static void a_late_put_does_not_bring_an_evicted_session_back(void **state)
{
    (void)state;
    struct cs_put p = limited("s0", 1);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    p = limited("s1", 1);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    uint64_t before = everything();
    p = limited("s0", 1);
    assert_int_equal(send_put(&p), CS_VERDICT_FULL);
    assert_true(everything() == before);
    p = put_of("s0", "a", 2); /* news do */
    p.limit = 1;
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_true(cs_reply_is(cs_reply_at(verdict.evicted, 0), "s1"));
    p = limited("s1", 1); /* and so does a change of what precedes the messages */
    p.meta = 101;
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
}

static int64_t server_now(void)
{
    struct cs_reply *reply = ASK("TIME");
    int64_t now = cs_reply_int(cs_reply_at(reply, 0), 0);
    cs_reply_free(reply);
    return now;
}

static void healing_displaces_no_fresher_session(void **state)
{
    (void)state;
    struct cs_put p = limited("s0", 2);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    p = limited("s1", 2);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    age("s1", 100);
    uint64_t before = everything();
    p = limited("old", 2);
    p.heal_at = (server_now() - 1000) * 1000000;
    assert_int_equal(send_put(&p), CS_VERDICT_FULL);
    assert_true(everything() == before);
    p.heal_at = (server_now() - 50) * 1000000;
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_true(cs_reply_is(cs_reply_at(verdict.evicted, 0), "s1"));
}

static void healing_keeps_the_stamp_and_the_rest_of_the_time(void **state)
{
    (void)state;
    int64_t stamp = (server_now() - 3000) * 1000000;
    struct cs_put p = put_of("s", "a", 1);
    p.heal_at = stamp;
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    struct cs_json *root = session("s");
    assert_int_equal(cs_json_int(cs_json_path(root, "_cx", "at", NULL), 0), stamp);
    cs_json_free(root);
    assert_in_range(NUMBER("TTL", key_of(CS_KEY_SESSION, "s")), 597, 601);
    char shown[30];
    (void)snprintf(shown, sizeof shown, "%lld", (long long)stamp);
    assert_string_equal(newest("ann", "a"), shown);
    p = put_of("t", "a", 1);
    p.heal_at = (server_now() - 3601) * 1000000;
    uint64_t before = everything();
    assert_int_equal(send_put(&p), CS_VERDICT_EXPIRED);
    assert_true(everything() == before);
    p.session.ttl_s = 0;
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    every_key_has_a_ttl();
}

static void members_without_a_value_are_cleaned(void **state)
{
    (void)state;
    for (int limit = 0; limit < 20; limit += 10) {
        struct cs_put p = limited("s0", limit);
        assert_int_equal(send_put(&p), CS_VERDICT_OK);
        p = limited("s1", limit);
        assert_int_equal(send_put(&p), CS_VERDICT_OK);
        DO("DEL", key_of(CS_KEY_SESSION, "s0"));
        p = limited("s2", limit);
        assert_int_equal(send_put(&p), CS_VERDICT_OK);
        assert_int_equal(cs_reply_size(verdict.evicted), 0);
        assert_int_equal(NUMBER("SISMEMBER", key_of(CS_KEY_USER, "ann"), "s0"), 0);
        assert_int_equal(NUMBER("SCARD", key_of(CS_KEY_USER, "ann")), 2);
        DO("FLUSHALL");
    }
    /* A dangling member does not cost a living one its place. */
    struct cs_put p = limited("s0", 2);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    DO("SADD", key_of(CS_KEY_USER, "ann"), "ghost");
    p = limited("s1", 2);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_int_equal(cs_reply_size(verdict.evicted), 0);
    assert_int_equal(NUMBER("SCARD", key_of(CS_KEY_USER, "ann")), 2);
}

static void foreign_sessions_are_evicted_by_their_time_to_live(void **state)
{
    (void)state;
    struct cs_put p = limited("s0", 3);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    DO("SET", key_of(CS_KEY_SESSION, "f1"), "{}", "EX", "3000"); /* used ten minutes ago */
    DO("SET", key_of(CS_KEY_SESSION, "f2"), "{}", "EX", "3590");
    DO("SADD", key_of(CS_KEY_USER, "ann"), "f1", "f2");
    age("s0", 100);
    p = limited("s1", 3);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_true(cs_reply_is(cs_reply_at(verdict.evicted, 0), "f1"));
    p = limited("s2", 3);
    assert_int_equal(send_put(&p), CS_VERDICT_OK);
    assert_true(cs_reply_is(cs_reply_at(verdict.evicted, 0), "s0"));
}

/* ---- DEL ------------------------------------------------------------------------------------- */

static void a_deletion_leaves_a_tombstone(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 3), CS_VERDICT_OK);
    assert_int_equal(del("s", "{\"a\":3}"), CS_VERDICT_OK);
    assert_string_equal(verdict.vv, "{\"a\":3}");
    assert_non_null(verdict.id);
    assert_int_equal(
        NUMBER("EXISTS", key_of(CS_KEY_SESSION, "s"), key_of(CS_KEY_CONVERSATION, "c-s")), 0);
    assert_int_equal(NUMBER("SISMEMBER", key_of(CS_KEY_USER, "ann"), "s"), 0);
    assert_in_range(NUMBER("TTL", key_of(CS_KEY_TOMB, "s")), 604798, 604800);
    assert_string_equal(newest("ann", "k"), "del");
    assert_string_equal(newest("ann", "v"), "{\"a\":3}");
    uint64_t before = everything();
    assert_int_equal(del("s", "{\"a\":3}"), CS_VERDICT_DUP);
    assert_int_equal(del("s", "{\"a\":2}"), CS_VERDICT_DUP);
    assert_int_equal(put("s", "a", 3), CS_VERDICT_TOMB);
    assert_string_equal(verdict.vv, "{\"a\":3}");
    assert_int_equal(put("s", "a", 2), CS_VERDICT_TOMB);
    assert_int_equal(push("s", "a", 4, 1), CS_VERDICT_MISS);
    assert_true(everything() == before);
    every_key_has_a_ttl();
    assert_int_equal(put("s", "a", 4), CS_VERDICT_OK); /* something that it did not cover */
    assert_int_equal(del("s", "{\"b\":1}"), CS_VERDICT_NEWER);
}

static void a_deletion_covers_only_what_it_saw(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 3), CS_VERDICT_OK);
    assert_int_equal(push("s", "b", 1, 2), CS_VERDICT_OK);
    uint64_t before = everything();
    assert_int_equal(del("s", "{\"a\":3}"), CS_VERDICT_NEWER);
    assert_string_equal(verdict.vv, "{\"a\":3,\"b\":2}");
    assert_int_equal(del("s", "{\"a\":3,\"b\":1}"), CS_VERDICT_NEWER);
    assert_true(everything() == before);
    assert_int_equal(del("s", "{\"a\":3,\"b\":2}"), CS_VERDICT_OK);
    assert_int_equal(del("s", "{\"c\":1}"), CS_VERDICT_OK);
    assert_string_equal(verdict.vv, "{\"a\":3,\"b\":2,\"c\":1}");
    struct cs_script_session session = ids("s");
    assert_int_equal(cs_del_append(redis, &session, "nonsense", NULL), CS_OK);
    struct cs_err err = {0};
    struct cs_script_reply reply = {0};
    assert_int_equal(cs_script_take(redis, soon(), &reply, &err), CS_UPSTREAM);
}

/* ---- The lease ------------------------------------------------------------------------------- */

static enum cs_verdict lease(const char *token, const char *host)
{
    const struct cs_lease lease = {"s", token, host, soon()};
    cs_script_reply_free(&verdict);
    assert_int_equal(cs_lease_take(redis, &lease, &verdict, NULL), CS_OK);
    return verdict.verdict;
}

static enum cs_verdict renew(const char *token, const char *host)
{
    assert_int_equal(cs_lease_renew_append(redis, "s", token, host, NULL), CS_OK);
    take();
    return verdict.verdict;
}

static void free_lease(const char *token)
{
    assert_int_equal(cs_lease_release_append(redis, "s", token, NULL), CS_OK);
    take();
    assert_int_equal(verdict.verdict, CS_VERDICT_OK);
}

static void a_lease_is_held_by_one_token(void **state)
{
    (void)state;
    const char *key = key_of(CS_KEY_LEASE, "s");
    assert_int_equal(lease("t1", "host one"), CS_VERDICT_OK);
    assert_in_range(NUMBER("PTTL", key), 59000, 60000);
    assert_int_equal(lease("t1", "host one"), CS_VERDICT_OK); /* asked again: a lost reply */
    assert_int_equal(lease("t2", "two"), CS_VERDICT_BUSY);
    assert_string_equal(verdict.host, "host one");
    assert_int_equal(lease("t", "three"), CS_VERDICT_BUSY);
    DO("PEXPIRE", key, "1000");
    assert_int_equal(renew("t2", "two"), CS_VERDICT_BUSY);
    assert_string_equal(verdict.host, "host one");
    assert_true(NUMBER("PTTL", key) <= 1000);
    assert_int_equal(renew("t1", "host one"), CS_VERDICT_OK);
    assert_in_range(NUMBER("PTTL", key), 59000, 60000);
    free_lease("t2");
    assert_int_equal(lease("t2", "two"), CS_VERDICT_BUSY);
    free_lease("t1");
    assert_int_equal(NUMBER("EXISTS", key), 0);
    assert_int_equal(renew("t1", "host one"), CS_VERDICT_OK); /* it had lapsed and was free */
    assert_int_equal(lease("t2", "two"), CS_VERDICT_BUSY);
}

/* Redis 6.2 knows no SET with both NX and GET. */
static void a_lease_takes_one_command_that_old_servers_know(void **state)
{
    (void)state;
    int fd = monitor_open();
    assert_int_equal(lease("t1", "one"), CS_VERDICT_OK);
    assert_string_equal(monitor_close(fd), "SET");
    fd = monitor_open();
    assert_int_equal(lease("t2", "two"), CS_VERDICT_BUSY);
    assert_string_equal(monitor_close(fd), "SET GET");
}

static void an_append_releases_the_lease_of_its_turn(void **state)
{
    (void)state;
    const char *key = key_of(CS_KEY_LEASE, "s");
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    assert_int_equal(lease("t1", "one"), CS_VERDICT_OK);
    struct cs_push p = push_of("s", "a", 2, 1);
    p.lease = "t2";
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
    assert_int_equal(NUMBER("EXISTS", key), 1);
    p = push_of("s", "a", 3, 1);
    p.lease = "t1";
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
    assert_int_equal(NUMBER("EXISTS", key), 0);
    assert_int_equal(lease("t1", "one"), CS_VERDICT_OK);
    assert_int_equal(send_push(&p), CS_VERDICT_DUP);
    assert_int_equal(NUMBER("EXISTS", key), 0);
    struct cs_put q = put_of("s", "a", 4);
    q.lease = "t1";
    assert_int_equal(lease("t1", "one"), CS_VERDICT_OK);
    assert_int_equal(send_put(&q), CS_VERDICT_OK);
    assert_int_equal(NUMBER("EXISTS", key), 0);
    assert_int_equal(lease("t1", "one"), CS_VERDICT_OK);
    assert_int_equal(send_put(&q), CS_VERDICT_DUP);
    assert_int_equal(NUMBER("EXISTS", key), 0);
    DO("LPUSH", key, "of another type");
    DO("EXPIRE", key, "100");
    p = push_of("s", "a", 5, 1);
    p.lease = "t1";
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 5);
}

/* ---- Loading --------------------------------------------------------------------------------- */

static void a_forgotten_script_is_sent_once(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    DO("SCRIPT", "FLUSH");
    struct cs_push p = push_of("s", "a", 2, 1);
    struct cs_script_reply reply = {0};
    struct cs_err err = {0};
    assert_int_equal(cs_push_append(redis, &p, NULL), CS_OK);
    assert_int_equal(cs_script_take(redis, soon(), &reply, &err), CS_NOT_FOUND);
    assert_int_equal(cs_redis_class(&err), CS_REDIS_NOSCRIPT);
    assert_true(cs_redis_connected(redis));
    int fd = monitor_open();
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
    assert_int_equal(push("s", "a", 3, 1), CS_VERDICT_OK);
    assert_string_equal(monitor_close(fd), "EVAL GETRANGE XADD SETRANGE EXPIRE "
                                           "EVALSHA GETRANGE XADD SETRANGE EXPIRE");
    assert_int_equal(put("s", "a", 4), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 4);
}

static void scripts_work_without_having_been_loaded(void **state)
{
    (void)state;
    struct cs_redis *kept = redis;
    redis = client_connect(&server.endpoint);
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    assert_int_equal(push("s", "a", 2, 1), CS_VERDICT_OK);
    assert_int_equal(push("s", "a", 3, 1), CS_VERDICT_OK);
    assert_int_equal(size_of("s"), 3);
    cs_redis_free(redis);
    redis = kept;
}

static void loading_takes_one_round_once_the_server_is_known(void **state)
{
    (void)state;
    struct cs_redis *other = client_connect(&server.endpoint);
    assert_int_equal(cs_scripts_load(other, soon(), NULL), CS_OK);
    assert_int_equal(cs_redis_connect(other, soon(), NULL), CS_OK);
    int fd = monitor_open();
    assert_int_equal(cs_scripts_load(other, soon(), NULL), CS_OK);
    assert_string_equal(monitor_close(fd), "SCRIPT SCRIPT SCRIPT SCRIPT");
    cs_redis_free(other);
}

/* A server that answers SCRIPT LOAD, and refuses texts with a header when @arg says how. */
static void load_scripts(struct fake *fake, int fd)
{
    static const char sha[] = "$40\r\n0123456789012345678901234567890123456789\r\n";
    const char *refusal = fake->arg, *command = fake->got + fake->len;
    while (!fake->stop && fake_read(fake, fd, 50)) {
        size_t size;
        const char *end = fake->got + fake->len;
        fake->got[fake->len] = '\0';
        while (sscanf(command, "*3 $6 SCRIPT $4 LOAD $%zu", &size) == 1) {
            const char *text = strstr(strstr(command, "LOAD\r\n$") + 6, "\r\n") + 2;
            if (end < text + size + 2)
                break;
            bool refused = refusal[0] != '\0' && text[0] == '#';
            (void)fake_send(fd, refused ? refusal : sha, strlen(refused ? refusal : sha));
            command = text + size + 2;
        }
    }
}

static int occurrences(const char *text, const char *of)
{
    int n = 0;
    for (; (text = strstr(text, of)) != NULL; text++)
        n++;
    return n;
}

static void headers_are_as_the_server_knows_them(void **state)
{
    (void)state;
    static struct {
        const char *server;
        char refusal[120];
        int loads, headers;   /* on the first connection */
        int later_has_header; /* on the next one */
    } cases[] = {
        {"one that knows the flag", "", 4, 1, 1},
        {"Redis 7", "-ERR Unexpected flag in script shebang: allow-key-locking\r\n", 5, 1, 0},
        {"Redis 6.2",
         "-ERR Error compiling script (new function): user_script:1: unexpected symbol near "
         "'#'\r\n",
         5, 1, 0},
    };
    static const char load[] = "\r\nLOAD\r\n", header[] = "#!lua flags=allow-key-locking\n";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cs_err err = {0};
        struct fake *fake = fake_start(load_scripts, cases[i].refusal);
        struct cs_redis *other = client_connect(&fake->endpoint);
        if (cs_scripts_load(other, soon(), &err) != CS_OK)
            fail_msg("%s: %s", cases[i].server, err.msg);
        assert_int_equal(occurrences(fake->got, load), cases[i].loads);
        assert_int_equal(occurrences(fake->got, header), cases[i].headers);
        fake->len = 0;
        assert_int_equal(cs_redis_connect(other, soon(), NULL), CS_OK);
        assert_int_equal(cs_scripts_load(other, soon(), NULL), CS_OK);
        assert_int_equal(occurrences(fake->got, load), 4);
        assert_int_equal(occurrences(fake->got, header), cases[i].later_has_header);
        cs_redis_free(other);
        fake_stop(fake);
    }
}

static void a_full_server_takes_nothing_and_says_so(void **state)
{
    (void)state;
    assert_int_equal(put("s", "a", 1), CS_VERDICT_OK);
    uint64_t before = everything();
    DO("CONFIG", "SET", "maxmemory", "1");
    struct cs_push p = push_of("s", "a", 2, 1);
    struct cs_put q = put_of("t", "a", 1);
    struct cs_script_session session = ids("s");
    struct cs_script_reply reply = {0};
    for (int i = 0; i < 3; i++) {
        struct cs_err err = {0};
        enum cs_status rc = i == 0   ? cs_push_append(redis, &p, NULL)
                            : i == 1 ? cs_put_append(redis, &q, NULL)
                                     : cs_del_append(redis, &session, "{\"a\":1}", NULL);
        assert_int_equal(rc, CS_OK);
        assert_int_not_equal(cs_script_take(redis, soon(), &reply, &err), CS_OK);
        if (cs_redis_class(&err) != CS_REDIS_FULL)
            fail_msg("%d: %s", i, err.msg);
    }
    DO("CONFIG", "SET", "maxmemory", "0");
    assert_true(everything() == before);
    assert_int_equal(send_push(&p), CS_VERDICT_OK);
}

static void keys_of_another_type_are_an_error_before_any_write(void **state)
{
    (void)state;
    static const char *const prefixes[] = {CS_KEY_SESSION, CS_KEY_LOG, CS_KEY_USER};
    for (size_t i = 0; i < 3; i++) {
        const char *key = key_of(prefixes[i], i == 0 ? "s" : "ann");
        DO("HSET", key, "f", "v");
        uint64_t before = everything();
        struct cs_put p = put_of("s", "a", 1);
        struct cs_script_reply reply = {0};
        struct cs_err err = {0};
        assert_int_equal(cs_put_append(redis, &p, NULL), CS_OK);
        assert_int_equal(cs_script_take(redis, soon(), &reply, &err), CS_UPSTREAM);
        assert_int_equal(cs_redis_class(&err), CS_REDIS_REFUSED);
        assert_true(everything() == before);
        DO("DEL", key);
    }
}

#define CASE(name) cmocka_unit_test_setup(name, flush)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(messages_are_appended_and_the_value_stays_json),
        CASE(an_append_costs_five_commands_and_writes_the_log_first),
        CASE(the_index_is_looked_at_only_when_its_keys_are_named),
        CASE(many_bytes_are_written_by_calls_of_their_own),
        CASE(a_repeated_append_changes_nothing),
        CASE(the_same_id_with_other_bytes_is_a_fork),
        CASE(a_gap_says_where_to_begin),
        CASE(what_is_missing_is_named_and_nothing_is_written),
        CASE(a_wide_vector_doubles_the_tail),
        CASE(more_origins_than_the_widest_tail_holds_are_refused),
        CASE(a_large_append_leaves_offsets_in_the_log),
        CASE(a_value_past_its_cap_is_refused),
        CASE(the_state_is_that_of_the_latest_use),
        CASE(hostile_names_do_not_break_the_tail),
        CASE(appends_refresh_the_index_every_ten_minutes),
        CASE(a_missing_index_is_noticed_and_made_anew_by_put),
        CASE(a_session_without_an_end_gets_thirty_days),
        CASE(the_hour_slides_with_each_append),
        CASE(values_that_are_not_ours_are_foreign),
        CASE(a_foreign_value_is_replaced_by_its_digest_only),
        CASE(a_newer_protocol_is_never_written),
        CASE(a_torn_value_is_removed_or_replaced),
        CASE(a_put_creates_all_keys_and_tells_the_log),
        CASE(a_new_session_costs_ten_commands),
        CASE(a_put_never_goes_back),
        CASE(a_newer_prefix_replaces_an_older_one),
        CASE(a_put_that_would_not_be_json_is_refused_here),
        CASE(a_new_session_puts_out_the_least_recent),
        CASE(a_limit_holds_over_many_sessions),
        CASE(a_late_put_does_not_bring_an_evicted_session_back),
        CASE(healing_displaces_no_fresher_session),
        CASE(healing_keeps_the_stamp_and_the_rest_of_the_time),
        CASE(members_without_a_value_are_cleaned),
        CASE(foreign_sessions_are_evicted_by_their_time_to_live),
        CASE(a_deletion_leaves_a_tombstone),
        CASE(a_deletion_covers_only_what_it_saw),
        CASE(a_lease_is_held_by_one_token),
        CASE(a_lease_takes_one_command_that_old_servers_know),
        CASE(an_append_releases_the_lease_of_its_turn),
        CASE(a_forgotten_script_is_sent_once),
        CASE(scripts_work_without_having_been_loaded),
        CASE(loading_takes_one_round_once_the_server_is_known),
        CASE(headers_are_as_the_server_knows_them),
        CASE(a_full_server_takes_nothing_and_says_so),
        CASE(keys_of_another_type_are_an_error_before_any_write),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
