/* mirror/record: messages and sessions as text in Redis. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cs/base/hash.h"
#include "mirror_priv.h"

#define AHEAD_MS   (INT64_C(100) * 365 * 86400000) /* that no clock is wrong by */
#define IDENTITY   ",\"_cx\":["
#define RECORD_MAX (72u << 20)

/* ---- splitting: the bytes of array elements, without parsing them ---- */

/* The end of the string that begins at @at (its opening quote); @len if it has none. */
static size_t skip_string(const char *text, size_t len, size_t at)
{
    for (at++; at < len && text[at] != '"'; at++)
        if (text[at] == '\\')
            at++;
    return at < len ? at + 1 : len;
}

/* The end of the value that begins at @at: the comma or closing bracket behind it. */
static size_t skip_value(const char *text, size_t len, size_t at)
{
    int depth = 0;

    while (at < len) {
        char c = text[at];

        if (c == '"') {
            at = skip_string(text, len, at);
            continue;
        }
        if (depth == 0 && (c == ',' || c == ']' || c == '}'))
            return at;
        depth += (c == '[' || c == '{') - (c == ']' || c == '}');
        at++;
    }
    return len;
}

static size_t skip_blanks(const char *text, size_t len, size_t at)
{
    while (at < len &&
           (text[at] == ' ' || text[at] == '\n' || text[at] == '\t' || text[at] == '\r'))
        at++;
    return at;
}

static enum cs_status malformed(struct cs_err *err)
{
    (void)cs_err_set(err, CS_INVALID, "invalid_record", "a value in Redis is malformed");
    return CS_INVALID;
}

typedef enum cs_status (*item_visitor)(void *arg, const char *item, size_t len, struct cs_err *err);

/* Visit the elements of the array whose bracket is at @at; *out_end is behind its closing one. */
static enum cs_status walk_array(const char *text, size_t len, size_t at, item_visitor each,
                                 void *arg, struct cs_err *err)
{
    enum cs_status rc = CS_OK;

    at = skip_blanks(text, len, at + 1);
    while (rc == CS_OK && at < len && text[at] != ']') {
        size_t end = skip_value(text, len, at), last = end;

        while (last > at && strchr(" \n\t\r", text[last - 1]) != NULL)
            last--;
        if (end >= len || text[end] == '}')
            return malformed(err);
        rc = each(arg, text + at, last - at, err);
        at = text[end] == ',' ? skip_blanks(text, len, end + 1) : end;
    }
    return rc != CS_OK || at < len ? rc : malformed(err);
}

enum cs_status cs_record_items(const char *text, size_t len, item_visitor each, void *arg,
                               struct cs_err *err)
{
    return len > 0 && text[0] == '[' ? walk_array(text, len, 0, each, arg, err) : malformed(err);
}

enum cs_status cs_record_split(const char *text, size_t len, size_t *out_prefix, item_visitor each,
                               void *arg, struct cs_err *err)
{
    static const char name[] = "\"messages\"";
    size_t at = skip_blanks(text, len, 0);

    if (at >= len || text[at] != '{')
        return malformed(err);
    at = skip_blanks(text, len, at + 1);
    while (at < len && text[at] == '"') {
        size_t end = skip_string(text, len, at), value = skip_blanks(text, len, end);
        bool found = end - at == sizeof name - 1 && memcmp(text + at, name, end - at) == 0;

        if (value >= len || text[value] != ':')
            return malformed(err);
        value = skip_blanks(text, len, value + 1);
        if (found && value < len && text[value] == '[') {
            *out_prefix = value + 1;
            return walk_array(text, len, value, each, arg, err);
        }
        at = skip_value(text, len, value);
        if (at < len && text[at] == ',')
            at = skip_blanks(text, len, at + 1);
    }
    return malformed(err);
}

/* ---- a message ---- */

void cs_record_fini(struct cs_record *record)
{
    cs_json_free(record->root);
    free(record->frag);
    *record = (struct cs_record){0};
}

/* Where the identity begins: the last place that looks like it; it cannot stand in a string, whose
 * quotes are escaped. */
static const char *find_identity(const char *item, size_t len)
{
    size_t at;

    for (at = len; at >= sizeof IDENTITY; at--)
        if (item[at - 1] == '[' &&
            memcmp(item + at - (sizeof IDENTITY - 1), IDENTITY, sizeof IDENTITY - 1) == 0)
            return item + at - (sizeof IDENTITY - 1);
    return NULL;
}

/* A number as it is written here; 0 for anything else. */
static int64_t parse_number(const char *text)
{
    size_t len = strlen(text);

    return len <= 19 && strspn(text, "0123456789") == len ? strtoll(text, NULL, 10) : 0;
}

/* "origin.seq", or "" for none. */
static bool parse_parent(const char *text, struct cs_mirror_message *message)
{
    char name[CS_VECTOR_NAME_MAX];

    if (text[0] == '\0')
        return true;
    if (strlen(text) < CS_VECTOR_NAME_MAX + 1 || text[CS_VECTOR_NAME_MAX - 1] != '.')
        return false;
    memcpy(name, text, CS_VECTOR_NAME_MAX - 1);
    name[CS_VECTOR_NAME_MAX - 1] = '\0';
    message->parent_origin = cs_vector_origin(name);
    message->parent_seq = parse_number(text + CS_VECTOR_NAME_MAX);
    return message->parent_origin != 0 && message->parent_seq > 0;
}

static bool read_identity(const struct cs_json *identity, struct cs_mirror_message *message)
{
    const char *origin = cs_json_string(cs_json_at(identity, 0), NULL);
    const char *hlc = cs_json_string(cs_json_at(identity, 2), NULL);
    const char *parent = cs_json_string(cs_json_at(identity, 3), NULL);

    if (origin == NULL || hlc == NULL || parent == NULL || cs_json_size(identity) != 4)
        return false;
    message->origin = cs_vector_origin(origin);
    message->seq = cs_json_int(cs_json_at(identity, 1), 0);
    message->hlc = parse_number(hlc);
    return message->origin != 0 && message->seq > 0 && message->hlc > 0 &&
           message->hlc >> 16 < cs_clock_ms() + AHEAD_MS && parse_parent(parent, message);
}

/* The object: it must be one that can be stored and shown. */
static enum cs_status read_object(struct cs_record *record, struct cs_err *err)
{
    struct cs_mirror_message *message = &record->message;
    const char *turn;
    struct cs_json *root = NULL;
    enum cs_status rc = cs_json_parse(record->frag, message->len, RECORD_MAX, &root, err);

    if (rc != CS_OK)
        return rc;
    record->root = root;
    message->type = cs_json_get_string(record->root, "type");
    turn = cs_json_get_string(record->root, "turnId");
    message->turn = turn != NULL && cs_record_id_valid(turn) ? turn : NULL;
    message->host = cs_json_get_string(record->root, "host");
    record->stub = cs_json_get(record->root, "stub") != NULL;
    if (message->type == NULL || cs_json_get_string(record->root, "content") == NULL)
        return malformed(err);
    return CS_OK;
}

enum cs_status cs_record_parse(const char *item, size_t len, struct cs_record *out,
                               struct cs_err *err)
{
    struct cs_record record = {0};
    struct cs_json *identity = NULL;
    const char *at = len > 2 && item[len - 1] == '}' ? find_identity(item, len) : NULL;
    size_t head = at != NULL ? (size_t)(at - item) : 0;
    enum cs_status rc;

    if (at == NULL)
        return malformed(err);
    rc = cs_json_parse(at + sizeof IDENTITY - 2, len - head - (sizeof IDENTITY - 2) - 1, 512,
                       &identity, err);
    if (rc != CS_OK)
        return rc;
    if (!read_identity(identity, &record.message))
        rc = malformed(err);
    cs_json_free(identity);
    if (rc != CS_OK)
        return rc;
    record.frag = malloc(head + 2);
    if (record.frag == NULL)
        return cs_err_nomem(err);
    memcpy(record.frag, item, head);
    memcpy(record.frag + head, "}", 2);
    record.message.frag = record.frag;
    record.message.len = head + 1;
    rc = read_object(&record, err);
    if (rc != CS_OK) {
        cs_record_fini(&record);
        return rc;
    }
    *out = record;
    return CS_OK;
}

/* In the place of a message that is too large: what it was, and where it is. */
static void write_stub(struct cs_buf *out, const struct cs_mirror_message *message)
{
    unsigned char hash[CS_SHA256_LEN];
    char hex[2 * CS_SHA256_LEN + 1] = "";
    struct cs_json *root = NULL;
    const char *type = NULL, *host = NULL, *time = NULL;
    struct cs_jsonw w;

    if (cs_json_parse(message->frag, message->len, message->len, &root, NULL) == CS_OK) {
        type = cs_json_get_string(root, "type");
        host = cs_json_get_string(root, "host");
        time = cs_json_get_string(root, "timestamp");
    }
    if (cs_sha256(message->frag, message->len, hash, NULL) == CS_OK)
        cs_hex(hash, sizeof hash, hex);
    cs_jsonw_init(&w, out);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "type", type != NULL ? type : "assistant");
    cs_jsonw_string(&w, "content", "(This message is too large to be shared. Its host keeps it.)");
    cs_jsonw_string(&w, "timestamp", time != NULL ? time : "");
    if (cs_json_get_string(root, "turnId") != NULL)
        cs_jsonw_string(&w, "turnId", cs_json_get_string(root, "turnId"));
    if (host != NULL)
        cs_jsonw_string(&w, "host", host);
    cs_jsonw_object(&w, "stub");
    cs_jsonw_int(&w, "bytes", (int64_t)message->len);
    cs_jsonw_string(&w, "sha256", hex);
    cs_jsonw_end_object(&w);
    cs_jsonw_end_object(&w);
    cs_json_free(root);
}

void cs_record_number(struct cs_buf *out, uint64_t number)
{
    char digits[20];
    size_t at = sizeof digits;

    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    cs_buf_add(out, digits + at, sizeof digits - at);
}

/* An origin's name, as cs_vector_name() has it. */
static void write_origin(struct cs_buf *out, int64_t origin)
{
    char name[CS_VECTOR_NAME_MAX - 1];
    uint64_t rest = (uint64_t)origin;
    size_t at;

    for (at = sizeof name; at > 0; rest >>= 4)
        name[--at] = "0123456789abcdef"[rest & 15];
    cs_buf_add(out, name, sizeof name);
}

void cs_record_write(struct cs_buf *out, const struct cs_mirror_message *message, size_t max)
{
    if (message->len > max)
        write_stub(out, message);
    else
        cs_buf_add(out, message->frag, message->len);
    if (out->status != CS_OK || out->len == 0)
        return;
    out->len--; /* the brace */
    cs_buf_add(out, IDENTITY "\"", sizeof IDENTITY);
    write_origin(out, message->origin);
    cs_buf_adds(out, "\",");
    cs_record_number(out, (uint64_t)message->seq);
    cs_buf_adds(out, ",\"");
    cs_record_number(out, (uint64_t)message->hlc);
    cs_buf_adds(out, "\",\"");
    if (message->parent_origin != 0) {
        write_origin(out, message->parent_origin);
        cs_buf_addc(out, '.');
        cs_record_number(out, (uint64_t)message->parent_seq);
    }
    cs_buf_adds(out, "\"]}");
}

/* ---- a session ---- */

void cs_mirror_meta_fini(struct cs_mirror_meta *meta)
{
    free(meta->user);
    free(meta->model);
    free(meta->sandbox);
    free(meta->cwd);
    free(meta->title);
    free(meta->prompt);
    free(meta->engine);
    *meta = (struct cs_mirror_meta){0};
}

void cs_mirror_local_fini(struct cs_mirror_local *local)
{
    cs_mirror_meta_fini(&local->meta);
    cs_vector_fini(&local->vv);
    cs_vector_fini(&local->tomb);
    *local = (struct cs_mirror_local){0};
}

void cs_record_prefix(struct cs_buf *out, const struct cs_mirror_meta *meta)
{
    struct cs_jsonw w;

    cs_jsonw_init(&w, out);
    cs_jsonw_object(&w, NULL);
    cs_jsonw_string(&w, "sessionId", meta->sid);
    cs_jsonw_string(&w, "conversationId", meta->cid);
    cs_jsonw_string(&w, "userId", meta->user);
    cs_jsonw_time(&w, "createdAt", meta->created_at);
    cs_jsonw_string(&w, "prompt", meta->prompt);
    cs_jsonw_string(&w, "sandbox", meta->sandbox);
    cs_jsonw_null(&w, "context");
    cs_jsonw_string(&w, "title", meta->title);
    cs_jsonw_string(&w, "cwd", meta->cwd);
    cs_jsonw_string(&w, "engine", meta->engine);
    cs_jsonw_string(&w, "origin", meta->origin);
    cs_jsonw_int(&w, "ttlSeconds", meta->ttl_s);
    cs_buf_adds(out, ",\"messages\":[");
}

bool cs_record_id_valid(const char *id)
{
    size_t len = strlen(id);

    return len > 0 && len < CS_UUID_MAX &&
           strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == len;
}

/* Wall ms of an ISO time; @otherwise when it is none. */
static int64_t parse_time(const char *text, int64_t otherwise)
{
    struct tm tm = {0};
    const char *rest = text != NULL ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
    int64_t ms = 0;

    if (rest == NULL)
        return otherwise;
    if (*rest == '.')
        ms = strtol(rest + 1, NULL, 10) % 1000;
    return (int64_t)timegm(&tm) * 1000 + ms;
}

/* A copy of member @key, or of @otherwise. */
static char *copy_member(const struct cs_json *object, const char *key, const char *otherwise,
                         size_t max)
{
    const char *text = cs_json_get_string(object, key);
    size_t len;

    if (text == NULL)
        text = otherwise;
    len = strlen(text);
    if (len > max)
        for (len = max; len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80;)
            len--;
    return strndup(text, len);
}

enum cs_status cs_record_meta(const struct cs_json *object, const char *model,
                              struct cs_mirror_meta *out_meta, struct cs_err *err)
{
    struct cs_mirror_meta meta = {0};
    const char *sid = cs_json_get_string(object, "sessionId");
    const char *cid = cs_json_get_string(object, "conversationId");
    const char *origin = cs_json_get_string(object, "origin");

    if (sid == NULL || !cs_record_id_valid(sid) || (cid != NULL && !cs_record_id_valid(cid)))
        return malformed(err);
    (void)snprintf(meta.sid, sizeof meta.sid, "%s", sid);
    (void)snprintf(meta.cid, sizeof meta.cid, "%s", cid != NULL ? cid : sid);
    if (origin != NULL && cs_vector_origin(origin) != 0)
        (void)snprintf(meta.origin, sizeof meta.origin, "%s", origin);
    meta.user = copy_member(object, "userId", "", 128);
    meta.model = copy_member(object, "model", model != NULL ? model : "", 128);
    meta.sandbox = copy_member(object, "sandbox", "read-only", 32);
    meta.cwd = copy_member(object, "cwd", "", 4000);
    meta.title = copy_member(object, "title", "", 1024);
    meta.prompt = copy_member(object, "prompt", "", 1024);
    meta.engine = copy_member(object, "engine", "auto", 16);
    meta.created_at = parse_time(cs_json_get_string(object, "createdAt"), cs_clock_ms());
    meta.ttl_s = cs_json_int(cs_json_get(object, "ttlSeconds"), 3600);
    if (meta.ttl_s < 0 || meta.ttl_s > 31536000)
        meta.ttl_s = 3600;
    if (meta.user == NULL || meta.model == NULL || meta.sandbox == NULL || meta.cwd == NULL ||
        meta.title == NULL || meta.prompt == NULL || meta.engine == NULL) {
        cs_mirror_meta_fini(&meta);
        return cs_err_nomem(err);
    }
    *out_meta = meta;
    return CS_OK;
}

struct foreign {
    struct cs_buf *out;
};

static bool copy_other(const char *key, const struct cs_json *value, void *arg)
{
    static const char *const done[] = {"type", "role", "content", "timestamp", "_cx", "stub"};
    struct foreign *foreign = arg;
    size_t i;

    for (i = 0; i < sizeof done / sizeof done[0]; i++)
        if (strcmp(key, done[i]) == 0)
            return true;
    cs_buf_addc(foreign->out, ',');
    cs_json_quote(foreign->out, key, strlen(key));
    cs_buf_addc(foreign->out, ':');
    cs_json_dump(value, foreign->out);
    return true;
}

void cs_record_foreign(struct cs_buf *out, const struct cs_json *message, const char *default_time)
{
    struct foreign foreign = {out};
    const char *type = cs_json_get_string(message, "type");
    const char *time = cs_json_get_string(message, "timestamp");
    const struct cs_json *content = cs_json_get(message, "content");
    struct cs_buf text;

    if (type == NULL)
        type = cs_json_get_string(message, "role");
    cs_buf_init(&text, RECORD_MAX);
    if (cs_json_type(content) == CS_JSON_STRING)
        cs_buf_adds(&text, cs_json_string(content, NULL));
    else if (content != NULL)
        cs_json_dump(content, &text);
    cs_buf_adds(out, "{\"type\":");
    cs_json_quote(out, type != NULL ? type : "user", strlen(type != NULL ? type : "user"));
    cs_buf_adds(out, ",\"content\":");
    cs_json_quote(out, text.len > 0 ? text.data : "", text.len);
    cs_buf_adds(out, ",\"timestamp\":");
    cs_json_quote(out, time != NULL ? time : default_time,
                  strlen(time != NULL ? time : default_time));
    (void)cs_json_each(message, copy_other, &foreign);
    cs_buf_addc(out, '}');
    if (text.status != CS_OK && out->status == CS_OK)
        out->status = text.status;
    cs_buf_fini(&text);
}

/* ---- changes ---- */

enum cs_status cs_changes_add(struct cs_changes *changes, const struct cs_mirror_change *change,
                              struct cs_err *err)
{
    size_t cap = changes->cap > 0 ? changes->cap * 2 : 16;
    struct cs_mirror_change *items;

    if (changes->count == changes->cap) {
        items = reallocarray(changes->items, cap, sizeof *items);
        if (items == NULL)
            return cs_err_nomem(err);
        changes->items = items;
        changes->cap = cap;
    }
    changes->items[changes->count++] = *change;
    return CS_OK;
}

enum cs_status cs_changes_own_take(struct cs_changes *changes, void *memory, struct cs_err *err)
{
    size_t cap = changes->owned_cap > 0 ? changes->owned_cap * 2 : 16;
    void **owned;

    if (memory == NULL)
        goto nomem;
    if (changes->owned_count == changes->owned_cap) {
        owned = reallocarray(changes->owned, cap, sizeof *owned);
        if (owned == NULL) {
            free(memory);
            goto nomem;
        }
        changes->owned = owned;
        changes->owned_cap = cap;
    }
    changes->owned[changes->owned_count++] = memory;
    return CS_OK;

nomem:
    (void)cs_err_nomem(err);
    return CS_NO_MEM;
}

const char *cs_changes_text(struct cs_changes *changes, const char *text, size_t len)
{
    char *copy = malloc(len + 1);

    if (copy == NULL)
        return NULL;
    memcpy(copy, text, len);
    copy[len] = '\0';
    return cs_changes_own_take(changes, copy, NULL) == CS_OK ? copy : NULL;
}

static const char *copy_or_null(struct cs_changes *changes, const char *text)
{
    return text != NULL ? cs_changes_text(changes, text, strlen(text)) : NULL;
}

enum cs_status cs_changes_message(struct cs_changes *changes, const char *sid,
                                  const struct cs_record *record, int64_t at, struct cs_err *err)
{
    struct cs_mirror_message *copy = malloc(sizeof *copy);
    struct cs_mirror_change change = {.kind = CS_CHANGE_MESSAGE, .number = at, .message = copy};
    enum cs_status rc = cs_changes_own_take(changes, copy, err);

    if (rc != CS_OK)
        return rc;
    *copy = record->message;
    copy->frag = cs_changes_text(changes, record->message.frag, record->message.len);
    copy->type = copy_or_null(changes, record->message.type);
    copy->turn = copy_or_null(changes, record->message.turn);
    copy->host = copy_or_null(changes, record->message.host);
    change.sid = copy_or_null(changes, sid);
    change.text = record->stub ? "stub" : NULL;
    if (copy->frag == NULL || copy->type == NULL || change.sid == NULL)
        return cs_err_nomem(err);
    return cs_changes_add(changes, &change, err);
}

enum cs_status cs_changes_apply(struct cs_mirror *mirror, struct cs_changes *changes,
                                struct cs_err *err)
{
    const struct cs_mirror_port *port = &mirror->options.port;
    enum cs_status rc = CS_OK;
    size_t i;

    for (i = 0; i < changes->count && rc == CS_OK; i++)
        if (changes->items[i].kind == CS_CHANGE_STAMP)
            rc = cs_believe(mirror, &changes->items[i].number, err);
    if (rc == CS_OK && changes->count > 0)
        rc = port->apply(port->arg, changes->items, changes->count, err);
    cs_changes_fini(changes);
    return rc;
}

void cs_changes_fini(struct cs_changes *changes)
{
    size_t i;

    for (i = 0; i < changes->owned_count; i++)
        free(changes->owned[i]);
    free(changes->owned);
    free(changes->items);
    *changes = (struct cs_changes){0};
}
