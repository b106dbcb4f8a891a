#include "script.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/embed.h"
#include "priv.h"

#define KEY_MAX     256 /* bytes of a key with its NUL */
#define ARGS_MAX    24  /* words of a call */
#define NUMBER_MAX  24
#define LEASE_TRIES 4
#define HEADER_FAST "#!lua flags=allow-key-locking\n"

extern const struct cs_embedded cs_mirror_lua[];

static const struct {
    const char *file;
    bool declares_all_keys;
} scripts[CS_SCRIPTS] = {
    [CS_SCRIPT_PUSH] = {"push.lua", true},
    [CS_SCRIPT_PUT] = {"put.lua", false},
    [CS_SCRIPT_DEL] = {"del.lua", false},
    [CS_SCRIPT_LEASE] = {"lease.lua", false},
};

/* ---- Texts ----------------------------------------------------------------------------------- */

/* A file without the lines that are comments: each connection loads it. */
static void add_file(struct cs_buf *out, const char *name)
{
    const struct cs_embedded *file = cs_mirror_lua;
    while (file->name && strcmp(file->name, name) != 0)
        file++;
    const char *line = (const char *)file->data, *end = line + file->len;
    while (line < end) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        const char *next = newline ? newline + 1 : end;
        size_t indent = strspn(line, " ");
        if (strncmp(line + indent, "--", 2) != 0)
            cs_buf_add(out, line, (size_t)(next - line));
        line = next;
    }
}

/* The whole text of a script for this server. */
static void add_text(const struct cs_redis *redis, enum cs_script script, struct cs_buf *out)
{
    static const struct {
        const char *name;
        int value;
    } constants[] = {
        {"WIDTH", CS_TAIL_WIDTH},    {"WIDTH_MAX", CS_TAIL_WIDTH_MAX},
        {"PROTOCOL", CS_PROTOCOL},   {"VALUE_MAX", CS_VALUE_MAX},
        {"ENTRY_MAX", CS_ENTRY_MAX}, {"LOG_LENGTH", CS_LOG_LENGTH},
        {"LOG_TTL", CS_LOG_TTL_S},   {"TOMB_TTL", CS_TOMB_TTL_S},
        {"LONG_TTL", CS_LONG_TTL_S}, {"INDEX_S", CS_INDEX_S},
        {"REFRESH_S", CS_REFRESH_S}, {"LEASE_MS", CS_LEASE_MS},
        {"PIECE_MAX", CS_PIECE_MAX},
    };
    static const int blanks[] = {512, 256, 128, 64, 32};
    if (scripts[script].declares_all_keys && redis->headers == CS_HEADERS_FAST)
        cs_buf_adds(out, HEADER_FAST);
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        cs_buf_addf(out, "local %s=%d ", constants[i].name, constants[i].value);
    for (size_t i = 0; i < sizeof blanks / sizeof *blanks; i++)
        cs_buf_addf(out, "local BLANKS%d='%*s' ", blanks[i], blanks[i], "");
    cs_buf_addc(out, '\n');
    add_file(out, "common.lua");
    add_file(out, scripts[script].file);
}

/* ---- Loading --------------------------------------------------------------------------------- */

static enum cs_status append_load(struct cs_redis *redis, enum cs_script script, struct cs_err *err)
{
    struct cs_buf text;
    cs_buf_init(&text, 65536);
    add_text(redis, script, &text);
    enum cs_status rc = cs_buf_check(&text, err);
    if (rc == CS_OK)
        rc = cs_redis_appends(redis, err, "SCRIPT", "LOAD", text.data, NULL);
    cs_buf_fini(&text);
    return rc;
}

static enum cs_status take_load(struct cs_redis *redis, enum cs_script script, int64_t deadline,
                                struct cs_err *err)
{
    struct cs_script_slot *slot = &redis->scripts[script];
    struct cs_reply *reply = NULL;
    size_t len = 0;
    enum cs_status rc = cs_redis_take(redis, deadline, &reply, err);
    if (rc == CS_OK)
        rc = cs_reply_check(reply, err);
    const char *sha = rc == CS_OK ? cs_reply_string(reply, &len) : NULL;
    if (sha && len == sizeof slot->sha - 1) {
        memcpy(slot->sha, sha, len);
        slot->sha[len] = '\0';
        slot->loaded = true;
    } else if (rc == CS_OK) {
        rc = cs_error_set(err, CS_ERROR_PROTOCOL, "loading a script", "that is no digest");
    }
    cs_reply_free(reply);
    return rc;
}

/* Load those that are not. A refused one does not keep the others from being taken. */
static enum cs_status load_missing(struct cs_redis *redis, int64_t deadline, struct cs_err *err)
{
    bool asked[CS_SCRIPTS] = {false};
    enum cs_status rc = CS_OK;
    for (int i = 0; i < CS_SCRIPTS && rc == CS_OK; i++) {
        asked[i] = !redis->scripts[i].loaded;
        if (asked[i])
            rc = append_load(redis, (enum cs_script)i, err);
    }
    for (int i = 0; i < CS_SCRIPTS && cs_redis_connected(redis); i++) {
        if (!asked[i] || cs_redis_owed(redis) == 0)
            continue;
        enum cs_status one = take_load(redis, (enum cs_script)i, deadline, err);
        if (rc == CS_OK)
            rc = one;
    }
    return rc;
}

enum cs_status cs_scripts_load(struct cs_redis *redis, int64_t deadline, struct cs_err *err)
{
    struct cs_err first = {0};
    enum cs_headers known = redis->headers;
    if (known == CS_HEADERS_UNKNOWN)
        redis->headers = CS_HEADERS_FAST;
    enum cs_status rc = load_missing(redis, deadline, &first);
    /* Redis 7.0 knows headers but not this flag, older ones know no header. */
    if (rc == CS_UPSTREAM && redis->headers == CS_HEADERS_FAST && cs_redis_connected(redis)) {
        redis->headers = CS_HEADERS_PLAIN;
        return load_missing(redis, deadline, err);
    }
    if (rc != CS_OK)
        redis->headers = known;
    return rc == CS_OK ? CS_OK : cs_err_set(err, rc, first.code, "%s", first.msg);
}

void cs_scripts_heed(struct cs_redis *redis, const struct cs_reply *reply)
{
    struct cs_err err = {0};
    if (cs_reply_check(reply, &err) == CS_OK || cs_redis_class(&err) != CS_REDIS_NOSCRIPT)
        return;
    for (size_t i = 0; i < CS_SCRIPTS; i++)
        redis->scripts[i].loaded = false;
}

/* ---- Calls ----------------------------------------------------------------------------------- */

/* The words of a call that is being put together. */
struct words {
    const char *argv[ARGS_MAX];
    size_t lens[ARGS_MAX];
    size_t count;
    char keys[6][KEY_MAX];
    size_t nkeys;
    char number[NUMBER_MAX]; /* of keys */
};

#define OWN_WORDS 3 /* the first: EVALSHA, the digest, the number of keys */

static void add(struct words *words, const char *text, size_t len)
{
    words->argv[words->count] = text;
    words->lens[words->count++] = len;
}

static void adds(struct words *words, const char *text)
{
    add(words, text, strlen(text));
}

/* A decimal number, kept in @room. */
static void add_number(struct words *words, char room[NUMBER_MAX], int64_t value)
{
    int len = snprintf(room, NUMBER_MAX, "%lld", (long long)value);
    add(words, room, (size_t)len);
}

/* Keys come before arguments. */
static enum cs_status add_key(struct words *words, const char *prefix, const char *id,
                              struct cs_err *err)
{
    char *key = words->keys[words->nkeys++];
    int len = snprintf(key, KEY_MAX, "%s%s", prefix, id);
    if (len < 0 || len >= KEY_MAX || id[0] == '\0')
        return cs_err_set(err, CS_INVALID, NULL, "an id that cannot be part of a key");
    add(words, key, (size_t)len);
    return CS_OK;
}

/* The keys that PUSH, PUT and DEL have in common; with @index those that name the session, too. */
static enum cs_status add_keys(struct words *words, const struct cs_script_session *session,
                               bool index, struct cs_err *err)
{
    enum cs_status rc = add_key(words, CS_KEY_SESSION, session->sid, err);
    if (rc == CS_OK)
        rc = add_key(words, CS_KEY_LOG, session->user, err);
    if (rc != CS_OK || !index)
        return rc;
    rc = add_key(words, CS_KEY_USER, session->user, err);
    if (rc == CS_OK)
        rc = add_key(words, CS_KEY_CONVERSATION, session->cid, err);
    return rc;
}

static enum cs_status append(struct cs_redis *redis, enum cs_script script, struct words *words,
                             struct cs_err *err)
{
    struct cs_script_slot *slot = &redis->scripts[script];
    struct cs_buf text;
    cs_buf_init(&text, 65536);
    int len = snprintf(words->number, sizeof words->number, "%zu", words->nkeys);
    words->argv[0] = slot->loaded ? "EVALSHA" : "EVAL";
    words->lens[0] = strlen(words->argv[0]);
    words->argv[1] = slot->sha;
    words->lens[1] = sizeof slot->sha - 1;
    words->argv[2] = words->number;
    words->lens[2] = (size_t)len;
    enum cs_status rc = CS_OK;
    if (!slot->loaded) {
        add_text(redis, script, &text);
        rc = cs_buf_check(&text, err);
        words->argv[1] = text.data;
        words->lens[1] = text.len;
    }
    if (rc == CS_OK)
        rc = cs_redis_append(redis, words->count, words->argv, words->lens, err);
    if (rc == CS_OK && slot->sha[0] != '\0')
        slot->loaded = true; /* EVAL loads it too, before what comes after it */
    cs_buf_fini(&text);
    return rc;
}

/* `"last used","status","model"`: the scripts know the members' names. */
static enum cs_status render_state(const struct cs_script_state *state, struct cs_buf *out,
                                   struct cs_err *err)
{
    const char *const values[] = {state->last_used_at, state->status, state->model};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        size_t len = strlen(values[i]);
        if (!cs_utf8_valid(values[i], len))
            return cs_err_set(err, CS_INVALID, NULL, "a session's state is not UTF-8");
        if (i > 0)
            cs_buf_addc(out, ',');
        cs_json_quote(out, values[i], len);
    }
    return cs_buf_check(out, err);
}

static bool origin_is_valid(const char *origin)
{
    size_t len = strspn(origin, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");
    return len >= 1 && len <= 64 && origin[len] == '\0';
}

static enum cs_status add_push(struct words *words, const struct cs_push *push,
                               const struct cs_buf texts[2], char number[NUMBER_MAX],
                               struct cs_err *err)
{
    enum cs_status rc = add_keys(words, &push->session, push->index, err);
    if (rc == CS_OK && push->lease)
        rc = add_key(words, CS_KEY_LEASE, push->session.sid, err);
    if (rc != CS_OK)
        return rc;
    add_number(words, number, push->session.ttl_s);
    adds(words, push->origin);
    add(words, texts[0].data, texts[0].len);
    add(words, texts[1].data, texts[1].len);
    add(words, push->messages, push->messages_len);
    if (push->lease)
        adds(words, push->lease);
    return CS_OK;
}

enum cs_status cs_push_append(struct cs_redis *redis, const struct cs_push *push,
                              struct cs_err *err)
{
    struct words words = {.count = OWN_WORDS};
    struct cs_buf texts[2]; /* sequence and lengths; state */
    char number[NUMBER_MAX];
    if (push->messages_len < 2 || push->from < 1 || !origin_is_valid(push->origin))
        return cs_err_set(err, CS_INVALID, NULL, "messages of no origin or sequence");
    cs_buf_init(&texts[0], CS_VALUE_MAX);
    cs_buf_init(&texts[1], CS_TAIL_WIDTH_MAX);
    cs_buf_addf(&texts[0], "%lld%s", (long long)push->from, push->lens);
    enum cs_status rc = cs_buf_check(&texts[0], err);
    if (rc == CS_OK)
        rc = render_state(&push->state, &texts[1], err);
    if (rc == CS_OK)
        rc = add_push(&words, push, texts, number, err);
    if (rc == CS_OK)
        rc = append(redis, CS_SCRIPT_PUSH, &words, err);
    cs_buf_fini(&texts[0]);
    cs_buf_fini(&texts[1]);
    return rc;
}

static enum cs_status add_put(struct words *words, const struct cs_put *put,
                              const struct cs_buf *state, char numbers[4][NUMBER_MAX],
                              struct cs_err *err)
{
    enum cs_status rc = add_keys(words, &put->session, true, err);
    if (rc == CS_OK)
        rc = add_key(words, CS_KEY_TOMB, put->session.sid, err);
    if (rc == CS_OK && put->lease)
        rc = add_key(words, CS_KEY_LEASE, put->session.sid, err);
    if (rc != CS_OK)
        return rc;
    adds(words, put->session.sid);
    add_number(words, numbers[0], put->session.ttl_s);
    add(words, put->prefix, put->prefix_len);
    add(words, put->messages, put->messages_len);
    adds(words, put->vv);
    add(words, state->data, state->len);
    add_number(words, numbers[1], put->meta);
    adds(words, put->note ? put->note : "");
    add_number(words, numbers[2], put->limit);
    add_number(words, numbers[3], put->heal_at);
    adds(words, put->foreign ? put->foreign : "");
    adds(words, put->lease ? put->lease : "");
    return CS_OK;
}

/* Whether prefix, messages and tail will make a JSON object: the ends are looked at, not the whole.
 */
static bool put_is_sound(const struct cs_put *put)
{
    return put->prefix_len > 1 && put->prefix[0] == '{' &&
           put->prefix[put->prefix_len - 1] == '[' && put->messages_len > 1 &&
           put->messages[0] == '{' && put->messages[put->messages_len - 1] == '}' &&
           put->meta >= 0 && put->limit >= 0 && put->heal_at >= 0;
}

enum cs_status cs_put_append(struct cs_redis *redis, const struct cs_put *put, struct cs_err *err)
{
    struct words words = {.count = OWN_WORDS};
    struct cs_buf state;
    char numbers[4][NUMBER_MAX];
    if (!put_is_sound(put))
        return cs_err_set(err, CS_INVALID, NULL, "a session that would not be JSON");
    cs_buf_init(&state, CS_TAIL_WIDTH_MAX);
    enum cs_status rc = render_state(&put->state, &state, err);
    if (rc == CS_OK)
        rc = add_put(&words, put, &state, numbers, err);
    if (rc == CS_OK)
        rc = append(redis, CS_SCRIPT_PUT, &words, err);
    cs_buf_fini(&state);
    return rc;
}

enum cs_status cs_del_append(struct cs_redis *redis, const struct cs_script_session *session,
                             const char *vv, struct cs_err *err)
{
    struct words words = {.count = OWN_WORDS};
    enum cs_status rc = add_keys(&words, session, true, err);
    if (rc == CS_OK)
        rc = add_key(&words, CS_KEY_TOMB, session->sid, err);
    if (rc == CS_OK) {
        adds(&words, session->sid);
        adds(&words, vv);
        rc = append(redis, CS_SCRIPT_DEL, &words, err);
    }
    return rc;
}

/* ---- The lease ------------------------------------------------------------------------------- */

/* One command about the lease; the answer is NIL or a value. */
static enum cs_status lease_command(struct cs_redis *redis, const struct cs_lease *lease, bool take,
                                    struct cs_reply **out_reply, struct cs_err *err)
{
    struct cs_buf key, value;
    char ms[NUMBER_MAX];
    cs_buf_init(&key, KEY_MAX);
    cs_buf_init(&value, KEY_MAX);
    cs_buf_addf(&key, "%s%s", CS_KEY_LEASE, lease->sid);
    cs_buf_addf(&value, "%s %s", lease->token, lease->host);
    (void)snprintf(ms, sizeof ms, "%d", CS_LEASE_MS);
    enum cs_status rc = cs_buf_check(&key, err);
    if (rc == CS_OK)
        rc = cs_buf_check(&value, err);
    if (rc == CS_OK && take)
        rc = cs_redis_call(redis, lease->deadline, out_reply, err, "SET", key.data, value.data,
                           "NX", "PX", ms, NULL);
    else if (rc == CS_OK)
        rc = cs_redis_call(redis, lease->deadline, out_reply, err, "GET", key.data, NULL);
    cs_buf_fini(&key);
    cs_buf_fini(&value);
    return rc;
}

/* SET with both NX and GET would do, but that takes Redis 7; and only a refusal costs more. */
enum cs_status cs_lease_take(struct cs_redis *redis, const struct cs_lease *lease,
                             struct cs_script_reply *out_reply, struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    const char *held = NULL, *space;
    size_t len = strlen(lease->token);
    /* it may lapse between the two */
    for (int i = 0; i < LEASE_TRIES && held == NULL; i++) {
        cs_reply_free(reply);
        reply = NULL;
        enum cs_status rc = lease_command(redis, lease, i % 2 == 0, &reply, err);
        if (rc != CS_OK)
            return rc;
        held = cs_reply_string(reply, NULL);
    }
    *out_reply = (struct cs_script_reply){.verdict = CS_VERDICT_OK, .reply = reply};
    if (held &&
        (strcmp(held, "OK") == 0 || (strncmp(held, lease->token, len) == 0 && held[len] == ' ')))
        return CS_OK;
    space = held ? strchr(held, ' ') : NULL;
    out_reply->verdict = CS_VERDICT_BUSY;
    out_reply->host = space ? space + 1 : "";
    return CS_OK;
}

static enum cs_status lease_call(struct cs_redis *redis, const char *sid, const char *const args[3],
                                 struct cs_err *err)
{
    struct words words = {.count = OWN_WORDS};
    enum cs_status rc = add_key(&words, CS_KEY_LEASE, sid, err);
    if (rc == CS_OK) {
        for (size_t i = 0; i < 3; i++)
            adds(&words, args[i]);
        rc = append(redis, CS_SCRIPT_LEASE, &words, err);
    }
    return rc;
}

enum cs_status cs_lease_renew_append(struct cs_redis *redis, const char *sid, const char *token,
                                     const char *host, struct cs_err *err)
{
    return lease_call(redis, sid, (const char *const[]){"renew", token, host}, err);
}

enum cs_status cs_lease_release_append(struct cs_redis *redis, const char *sid, const char *token,
                                       struct cs_err *err)
{
    return lease_call(redis, sid, (const char *const[]){"release", token, ""}, err);
}

/* ---- Verdicts -------------------------------------------------------------------------------- */

static const char *const verdicts[] = {
    [CS_VERDICT_OK] = "OK",           [CS_VERDICT_DUP] = "DUP",
    [CS_VERDICT_FORK] = "FORK",       [CS_VERDICT_GAP] = "GAP",
    [CS_VERDICT_MISS] = "MISS",       [CS_VERDICT_NOLOG] = "NOLOG",
    [CS_VERDICT_NOINDEX] = "NOINDEX", [CS_VERDICT_FOREIGN] = "FOREIGN",
    [CS_VERDICT_TORN] = "TORN",       [CS_VERDICT_LARGE] = "LARGE",
    [CS_VERDICT_WIDE] = "WIDE",       [CS_VERDICT_PROTOCOL] = "PROTOCOL",
    [CS_VERDICT_TOMB] = "TOMB",       [CS_VERDICT_STALE] = "STALE",
    [CS_VERDICT_FULL] = "FULL",       [CS_VERDICT_EXPIRED] = "EXPIRED",
    [CS_VERDICT_NEWER] = "NEWER",     [CS_VERDICT_BUSY] = "BUSY",
};
#define VERDICTS (sizeof verdicts / sizeof *verdicts)

/* A string of the reply that is neither missing nor empty. */
static const char *text_at(const struct cs_reply *reply, size_t index)
{
    const char *text = cs_reply_string(cs_reply_at(reply, index), NULL);
    return text && text[0] ? text : NULL;
}

/* {verdict, sequence, length, entry id, text, list}, cut anywhere after the verdict. */
static enum cs_status read_verdict(struct cs_reply *reply, struct cs_script_reply *out,
                                   struct cs_err *err)
{
    const struct cs_reply *word = cs_reply_at(reply, 0);
    size_t i = 0;
    while (i < VERDICTS && !cs_reply_is(word, verdicts[i]))
        i++;
    if (i == VERDICTS)
        return cs_error_set(err, CS_ERROR_PROTOCOL, "a script's reply", "it has no verdict");
    bool busy = i == CS_VERDICT_BUSY;
    *out = (struct cs_script_reply){
        .verdict = (enum cs_verdict)i,
        .seq = cs_reply_int(cs_reply_at(reply, 1), 0),
        .length = cs_reply_int(cs_reply_at(reply, 2), 0),
        .id = text_at(reply, 3),
        .fresh_s = cs_reply_int(cs_reply_at(reply, 4), 0),
        .vv = busy ? NULL : text_at(reply, 4),
        .host = busy ? cs_reply_string(cs_reply_at(reply, 4), NULL) : NULL,
        .evicted = cs_reply_at(reply, 5),
        .reply = reply,
    };
    return CS_OK;
}

enum cs_status cs_script_take(struct cs_redis *redis, int64_t deadline,
                              struct cs_script_reply *out_reply, struct cs_err *err)
{
    struct cs_reply *reply = NULL;
    enum cs_status rc = cs_redis_take(redis, deadline, &reply, err);
    if (rc != CS_OK)
        return rc;
    rc = cs_reply_check(reply, err);
    if (rc != CS_OK) {
        cs_reply_free(reply);
        return rc;
    }
    rc = read_verdict(reply, out_reply, err);
    if (rc != CS_OK) {
        cs_reply_free(reply);
        cs_redis_close(redis); /* whatever answers there is not our script */
    }
    return rc;
}

void cs_script_reply_free(struct cs_script_reply *reply)
{
    cs_reply_free(reply->reply);
    *reply = (struct cs_script_reply){0};
}
