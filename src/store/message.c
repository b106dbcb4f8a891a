#include "cs/store/message.h"

#include <stdlib.h>
#include <string.h>

#include "branch.h"
#include "cs/base/clock.h"
#include "cs/base/hash.h"
#include "cs/base/json.h"
#include "db.h"
#include "message.h"

/* Kept between messages for the next one; a larger buffer is given back. */
#define SCRATCH_KEEP (1 << 20)

/* Rows that one look at the log of all sessions covers at most. */
#define LOOK 5000

/* The greatest place: every message is before it. */
#define END_OF_TIME ((struct place){INT64_MAX, INT64_MAX, INT64_MAX})

/* Where a message stands in its session: the order of a conversation. */
struct place {
    int64_t hlc, origin, seq;
};

const char *cs_message_kind_name(enum cs_message_kind kind)
{
    switch (kind) {
    case CS_MESSAGE_USER:
        return "user";
    case CS_MESSAGE_ASSISTANT:
        return "assistant";
    case CS_MESSAGE_CONTEXT:
        return "context";
    case CS_MESSAGE_OUTCOME:
        return "error";
    }
    return "unknown";
}

/* ---- appending ---- */

static void bind_place(struct cs_sql *q, const struct place *place)
{
    cs_sql_int(q, place->hlc);
    cs_sql_int(q, place->origin);
    cs_sql_int(q, place->seq);
}

static struct place read_place(struct cs_sql *q)
{
    return (struct place){cs_sql_get_int(q, 0), cs_sql_get_int(q, 1), cs_sql_get_int(q, 2)};
}

/* The newest message of @session; zeroes when it has none, provided that the session exists. */
static enum cs_status find_newest(struct cs_db *db, int64_t session, struct place *out_newest,
                                  struct cs_err *err)
{
    struct place newest = {0, 0, 0};
    bool exists;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_MESSAGE_NEWEST);
    cs_sql_int(&q, session);
    exists = cs_sql_next(&q);
    if (exists)
        newest = read_place(&q);
    status = cs_sql_end(&q, "read the newest message", err);
    if (status == CS_OK && !exists) {
        cs_sql_begin(&q, db, CS_SQL_SESSION_STATE);
        cs_sql_int(&q, session);
        exists = cs_sql_next(&q);
        status = cs_sql_end(&q, "read the session", err);
        if (status == CS_OK && !exists)
            return cs_err_set(err, CS_NOT_FOUND, "session_not_found", "the session is gone");
    }
    if (status == CS_OK)
        *out_newest = newest;
    return status;
}

/* The next seq of this start's origin in @session. Nearly always the newest message is ours; else
 * ours is looked for backwards: once per session and start (or per news from another host). */
static enum cs_status next_seq(struct cs_db *db, int64_t session, const struct place *newest,
                               int64_t *out_seq, struct cs_err *err)
{
    int64_t last = 0;
    struct cs_sql q;
    enum cs_status status = CS_OK;

    if (newest->origin == db->origin) {
        last = newest->seq;
    } else if (newest->origin != 0) {
        cs_sql_begin(&q, db, CS_SQL_MESSAGE_NEWEST_SEQ);
        cs_sql_int(&q, session);
        cs_sql_int(&q, db->origin);
        if (cs_sql_next(&q))
            last = cs_sql_get_int(&q, 0);
        status = cs_sql_end(&q, "read the last sequence number", err);
    }
    if (status == CS_OK)
        *out_seq = last + 1;
    return status;
}

void cs_identity_add(struct cs_buf *out, const struct cs_identity *identity)
{
    const int64_t values[] = {
        identity->hlc,        identity->origin, identity->seq, identity->parent_origin,
        identity->parent_seq, identity->kind,   identity->at,
    };
    char bytes[CS_IDENTITY_LEN];
    size_t used = 0;

    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        for (int shift = 56; shift >= 0; shift -= 8)
            bytes[used++] = (char)(unsigned char)((uint64_t)values[i] >> shift);
    }
    cs_buf_add(out, bytes, used);
}

enum cs_status cs_message_hash(const struct cs_buf *sealed, unsigned char out[CS_MESSAGE_HASH_LEN],
                               struct cs_err *err)
{
    unsigned char full[CS_SHA256_LEN];
    enum cs_status status = cs_sha256(sealed->data, sealed->len, full, err);

    if (status == CS_OK)
        memcpy(out, full, CS_MESSAGE_HASH_LEN);
    return status;
}

/* Branches form between turns: what a turn adds hangs on what it added before, also when another
 * host's message came in between. */
static enum cs_status find_parent(struct cs_db *db, const struct cs_message_new *message,
                                  const struct place *newest, struct cs_identity *identity,
                                  struct cs_err *err)
{
    bool ours = false;
    struct cs_sql q;
    enum cs_status status;

    identity->parent_origin = newest->origin;
    identity->parent_seq = newest->seq;
    if (newest->origin == db->origin || identity->seq == 1 || message->turn == NULL)
        return CS_OK;
    cs_sql_begin(&q, db, CS_SQL_REPLICA_TURN);
    cs_sql_int(&q, message->session);
    cs_sql_int(&q, db->origin);
    if (cs_sql_next(&q)) {
        const char *turn = cs_sql_get_text(&q, 0, NULL);

        ours = turn != NULL && strcmp(turn, message->turn) == 0;
    }
    status = cs_sql_end(&q, "read the turn's last message", err);
    if (status != CS_OK || !ours)
        return status;
    identity->parent_origin = db->origin;
    identity->parent_seq = identity->seq - 1;
    return cs_branch_flag(db, message->session, err);
}

static void render(struct cs_buf *out, const struct cs_message_new *message, const char *host)
{
    char iso[CS_ISO_MAX];

    cs_clock_iso(message->at, iso);
    cs_buf_adds(out, "{\"type\":\"");
    cs_buf_adds(out, cs_message_kind_name(message->kind));
    cs_buf_adds(out, "\",\"content\":");
    cs_json_quote(out, message->content, message->content_len);
    cs_buf_adds(out, ",\"timestamp\":\"");
    cs_buf_adds(out, iso);
    cs_buf_addc(out, '"');
    if (message->turn != NULL) {
        cs_buf_adds(out, ",\"turnId\":");
        cs_json_quote(out, message->turn, strlen(message->turn));
    }
    if (host[0] != '\0') {
        cs_buf_adds(out, ",\"host\":");
        cs_json_quote(out, host, strlen(host));
    }
    if (message->extra != NULL && message->extra[0] != '\0') {
        cs_buf_addc(out, ',');
        cs_buf_adds(out, message->extra);
    }
    cs_buf_addc(out, '}');
}

/* Insert the row whose identity and text stand in db->scratch. */
static enum cs_status insert(struct cs_db *db, const struct cs_message_new *message,
                             const struct cs_identity *identity, int64_t id, struct cs_err *err)
{
    const struct cs_buf *sealed = &db->scratch;
    unsigned char hash[CS_MESSAGE_HASH_LEN];
    struct cs_sql q;
    enum cs_status status = cs_message_hash(sealed, hash, err);

    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, CS_SQL_MESSAGE_INSERT);
    cs_sql_int(&q, id);
    cs_sql_int(&q, message->session);
    cs_sql_int(&q, identity->hlc);
    cs_sql_int(&q, identity->origin);
    cs_sql_int(&q, identity->seq);
    cs_sql_int(&q, identity->parent_origin);
    cs_sql_int(&q, identity->parent_seq);
    cs_sql_int(&q, identity->kind);
    cs_sql_int(&q, identity->at);
    if (message->turn != NULL)
        cs_sql_text(&q, message->turn);
    else
        cs_sql_null(&q);
    cs_sql_blob(&q, hash, sizeof hash);
    cs_sql_textn(&q, sealed->data + CS_IDENTITY_LEN, sealed->len - CS_IDENTITY_LEN);
    status = cs_sql_run(&q, "append a message", err);
    return status == CS_OK ? cs_db_note_appended(db, id, message->session, err) : status;
}

enum cs_status cs_message_append(struct cs_db *db, const struct cs_message_new *message,
                                 int64_t *out_id, struct cs_err *err)
{
    struct cs_identity identity = {.kind = (int64_t)message->kind, .at = message->at};
    struct place newest = {0, 0, 0};
    int64_t id;
    enum cs_status status;

    if (!cs_utf8_valid(message->content, message->content_len))
        return cs_err_set(err, CS_INVALID, "invalid_text", "a message must be UTF-8 without NUL");
    status = find_newest(db, message->session, &newest, err);
    if (status == CS_OK)
        status = next_seq(db, message->session, &newest, &identity.seq, err);
    if (status != CS_OK)
        return status;
    identity.hlc = cs_hlc_next(newest.hlc, cs_clock_ms());
    identity.origin = db->origin;
    status = find_parent(db, message, &newest, &identity, err);
    if (status != CS_OK)
        return status;

    cs_buf_reset(&db->scratch);
    cs_identity_add(&db->scratch, &identity);
    render(&db->scratch, message, db->host);
    status = cs_buf_check(&db->scratch, err);
    id = ++db->tops[CS_TOP_MESSAGE];
    if (status == CS_OK)
        status = insert(db, message, &identity, id, err);
    if (db->scratch.cap > SCRATCH_KEEP)
        cs_buf_fini(&db->scratch);
    if (status == CS_OK && out_id != NULL)
        *out_id = id;
    return status;
}

/* ---- history ---- */

/* A part of a session's messages. */
struct page {
    int64_t session;
    unsigned limit;      /* messages at most; 0: no limit */
    struct place before; /* messages before this place */
    struct place start;  /* the first one; of use if start_id is not 0 */
    int64_t start_id;    /* its rowid; 0: the page begins with the session */
    int64_t older;       /* position that continues with older messages; 0: there are none */
};

/* Turn a position that a client gave back into a place. */
static enum cs_status find_before(struct cs_db *db, int64_t position, struct page *page,
                                  struct cs_err *err)
{
    bool found;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_MESSAGE_PLACE);
    cs_sql_int(&q, position);
    cs_sql_int(&q, page->session);
    found = cs_sql_next(&q);
    if (found)
        page->before = read_place(&q);
    status = cs_sql_end(&q, "find the position in the history", err);
    if (status == CS_OK && !found)
        return cs_err_set(err, CS_INVALID, "invalid_before", "the session has no such position");
    return status;
}

/* Count back from the end of the page, in the index alone. */
static enum cs_status find_start(struct cs_db *db, struct page *page, struct cs_err *err)
{
    struct cs_sql q;

    if (page->limit == 0)
        return CS_OK;
    cs_sql_begin(&q, db, CS_SQL_MESSAGE_PAGE_START);
    cs_sql_int(&q, page->session);
    bind_place(&q, &page->before);
    cs_sql_int(&q, (int64_t)page->limit - 1);
    if (cs_sql_next(&q)) {
        page->start = read_place(&q);
        page->start_id = cs_sql_get_int(&q, 3);
        page->older = cs_sql_next(&q) ? page->start_id : 0;
    }
    return cs_sql_end(&q, "find the page of the history", err);
}

static bool before(const struct place *a, const struct place *b)
{
    if (a->hlc != b->hlc)
        return a->hlc < b->hlc;
    return a->origin != b->origin ? a->origin < b->origin : a->seq < b->seq;
}

/* A message with a badge: it is not on the way to the newest one. */
static void add_badged(struct cs_buf *out, const char *frag, size_t len)
{
    cs_buf_add(out, frag, len - 1);
    cs_buf_adds(out, ",\"branch\":true}");
}

/* The page of a session that has branches: all of it is walked. */
static enum cs_status read_branched(struct cs_db *db, const struct page *page, struct cs_buf *out,
                                    int64_t *out_count, struct cs_err *err)
{
    struct cs_path path = {0};
    int64_t count = 0;
    size_t hint = 0;
    struct cs_sql q;
    enum cs_status status = cs_path_read(db, page->session, &path, err);

    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, CS_SQL_REPLICA_ALL);
    cs_sql_int(&q, page->session);
    while (out->status == CS_OK && cs_sql_next(&q)) {
        struct place at = read_place(&q);
        bool active = cs_path_active(&path, at.origin, at.seq, &hint);
        size_t len = 0;
        const char *frag = cs_sql_get_bytes(&q, 7, &len);

        if ((page->start_id != 0 && before(&at, &page->start)) || !before(&at, &page->before) ||
            frag == NULL || len < 2)
            continue;
        if (count++ > 0)
            cs_buf_addc(out, ',');
        if (active)
            cs_buf_add(out, frag, len);
        else
            add_badged(out, frag, len);
    }
    cs_path_fini(&path);
    status = cs_sql_end(&q, "read the history", err);
    if (status == CS_OK)
        status = cs_buf_check(out, err);
    if (status == CS_OK)
        *out_count = count;
    return status;
}

static enum cs_status read_page(struct cs_db *db, const struct page *page, struct cs_buf *out,
                                int64_t *out_count, struct cs_err *err)
{
    int64_t count = 0;
    struct cs_sql q;
    enum cs_status status;

    if (page->start_id != 0) {
        cs_sql_begin(&q, db, CS_SQL_MESSAGE_FROM);
        cs_sql_int(&q, page->session);
        bind_place(&q, &page->start);
        cs_sql_int(&q, (int64_t)page->limit);
    } else if (!before(&page->before, &END_OF_TIME)) {
        cs_sql_begin(&q, db, CS_SQL_MESSAGE_WHOLE);
        cs_sql_int(&q, page->session);
    } else {
        cs_sql_begin(&q, db, CS_SQL_MESSAGE_UNTIL);
        cs_sql_int(&q, page->session);
        bind_place(&q, &page->before);
    }
    while (out->status == CS_OK && cs_sql_next(&q)) {
        size_t len = 0;
        const char *frag = cs_sql_get_bytes(&q, 0, &len);

        if (count > 0)
            cs_buf_addc(out, ',');
        cs_buf_add(out, frag, len);
        count++;
    }
    status = cs_sql_end(&q, "read the history", err);
    if (status == CS_OK)
        status = cs_buf_check(out, err);
    if (status == CS_OK)
        *out_count = count;
    return status;
}

/* NOLINTNEXTLINE(readability-function-size): eight parameters by its contract */
enum cs_status cs_message_history(struct cs_db *db, int64_t session, unsigned limit,
                                  int64_t position, struct cs_buf *out, int64_t *out_count,
                                  int64_t *out_before, struct cs_err *err)
{
    struct page page = {.session = session, .limit = limit, .before = END_OF_TIME};
    size_t len = out->len;
    int64_t count = 0;
    bool branched = false;
    enum cs_status status = cs_branch_flagged(db, session, &branched, err);

    if (status == CS_OK && position != 0)
        status = find_before(db, position, &page, err);
    if (status == CS_OK)
        status = find_start(db, &page, err);
    if (status == CS_OK)
        status = branched ? read_branched(db, &page, out, &count, err)
                          : read_page(db, &page, out, &count, err);
    if (status != CS_OK) {
        if (out->data != NULL) { /* as it was, for a caller that goes on with the buffer */
            out->len = len;
            out->data[len] = '\0';
        }
        return status;
    }
    *out_count = count;
    if (out_before != NULL)
        *out_before = page.older;
    return CS_OK;
}

/* ---- content ---- */

/* The decoded content of a rendered message, for the caller to free. */
static enum cs_status decode(const char *frag, size_t len, char **out_text, size_t *out_len,
                             struct cs_err *err)
{
    struct cs_json *json = NULL;
    const char *content;
    char *text = NULL;
    size_t content_len = 0;
    enum cs_status status = cs_json_parse(frag, len, len, &json, err);

    if (status != CS_OK)
        return status;
    content = cs_json_string(cs_json_get(json, "content"), &content_len);
    if (content == NULL) {
        status = cs_err_set(err, CS_CORRUPT, NULL, "a stored message has no content");
        goto out;
    }
    text = malloc(content_len + 1);
    if (text == NULL) {
        status = cs_err_nomem(err);
        goto out;
    }
    memcpy(text, content, content_len);
    text[content_len] = '\0';
    *out_text = text;
    *out_len = content_len;

out:
    cs_json_free(json);
    return status;
}

enum cs_status cs_message_content(struct cs_db *db, int64_t id, char **out_text, size_t *out_len,
                                  struct cs_err *err)
{
    char *text = NULL;
    size_t text_len = 0;
    bool found;
    struct cs_sql q;
    enum cs_status decoded = CS_OK;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_MESSAGE_BY_ID);
    cs_sql_int(&q, id);
    found = cs_sql_next(&q);
    if (found) {
        size_t len = 0;
        const char *frag = cs_sql_get_bytes(&q, 0, &len);

        if (frag != NULL)
            decoded = decode(frag, len, &text, &text_len, err);
    }
    status = cs_sql_end(&q, "read a message", err);
    if (status == CS_OK && !found)
        status = cs_err_set(err, CS_NOT_FOUND, "message_not_found", "there is no such message");
    if (status == CS_OK)
        status = decoded;
    if (status != CS_OK) {
        free(text);
        return status;
    }
    *out_text = text;
    *out_len = text_len;
    return CS_OK;
}

/* ---- transcript ---- */

/* The turns of a session that have an answer, sorted. */
struct answered {
    char (*tids)[CS_UUID_MAX];
    size_t count, cap;
};

static int compare_tids(const void *a, const void *b)
{
    return strncmp(a, b, CS_UUID_MAX);
}

/* Make room for one more of @size in *@items. False when out of memory. */
static bool grow(void **items, size_t count, size_t *cap, size_t size)
{
    size_t more = *cap > 0 ? *cap * 2 : 16;
    void *grown;

    if (count < *cap)
        return true;
    grown = reallocarray(*items, more, size);
    if (grown == NULL)
        return false;
    *items = grown;
    *cap = more;
    return true;
}

static enum cs_status find_answered(struct cs_db *db, int64_t session, struct answered *out,
                                    struct cs_err *err)
{
    void *tids = NULL;
    bool room = true;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_MESSAGE_ANSWERED);
    cs_sql_int(&q, session);
    while (room && cs_sql_next(&q)) {
        const char *tid = cs_sql_get_text(&q, 0, NULL);

        room = tid == NULL || grow(&tids, out->count, &out->cap, sizeof *out->tids);
        out->tids = tids;
        if (room && tid != NULL)
            strncpy(out->tids[out->count++], tid, CS_UUID_MAX);
    }
    status = cs_sql_end(&q, "read the answered turns", err);
    if (status == CS_OK && !room)
        status = cs_err_nomem(err);
    if (status == CS_OK && out->count > 0)
        qsort(out->tids, out->count, sizeof *out->tids, compare_tids);
    return status;
}

/* Whether a message of turn @tid (or of none) belongs into the transcript. */
static bool wanted(const struct answered *answered, const char *tid, const char *except)
{
    if (tid == NULL)
        return true;
    if (except != NULL && strcmp(tid, except) == 0)
        return false;
    return answered->count > 0 && bsearch(tid, answered->tids, answered->count,
                                          sizeof *answered->tids, compare_tids) != NULL;
}

/* Add the message of the row that @q stands on. */
static enum cs_status add_item(struct cs_sql *q, struct cs_transcript *transcript, size_t *cap,
                               struct cs_err *err)
{
    void *items = transcript->items;
    struct cs_transcript_item item = {.kind = (enum cs_message_kind)cs_sql_get_int(q, 0)};
    size_t len = 0;
    const char *frag = cs_sql_get_bytes(q, 2, &len);
    enum cs_status status;

    if (frag == NULL || !grow(&items, transcript->count, cap, sizeof item))
        return cs_err_nomem(err);
    transcript->items = items;
    status = decode(frag, len, &item.text, &item.len, err);
    if (status == CS_OK)
        transcript->items[transcript->count++] = item;
    return status;
}

enum cs_status cs_message_transcript(struct cs_db *db, int64_t session, const char *except,
                                     struct cs_transcript **out_transcript, struct cs_err *err)
{
    struct cs_transcript *transcript = calloc(1, sizeof *transcript);
    struct answered answered = {NULL, 0, 0};
    struct cs_path path = {0};
    bool branched = false;
    size_t cap = 0, hint = 0;
    struct cs_sql q;
    enum cs_status status, read;

    if (transcript == NULL)
        return cs_err_nomem(err);
    status = find_answered(db, session, &answered, err);
    if (status == CS_OK)
        status = cs_branch_flagged(db, session, &branched, err);
    if (status == CS_OK && branched)
        status = cs_path_read(db, session, &path, err);
    if (status != CS_OK)
        goto out;
    cs_sql_begin(&q, db, CS_SQL_MESSAGE_TALK);
    cs_sql_int(&q, session);
    while (status == CS_OK && cs_sql_next(&q)) {
        if (cs_path_active(&path, cs_sql_get_int(&q, 3), cs_sql_get_int(&q, 4), &hint) &&
            wanted(&answered, cs_sql_get_text(&q, 1, NULL), except))
            status = add_item(&q, transcript, &cap, err);
    }
    read = cs_sql_end(&q, "read the transcript", err);
    if (status == CS_OK)
        status = read;
    if (status == CS_OK) {
        *out_transcript = transcript;
        transcript = NULL;
    }

out:
    cs_path_fini(&path);
    free(answered.tids);
    cs_transcript_free(transcript);
    return status;
}

void cs_transcript_free(struct cs_transcript *transcript)
{
    if (transcript == NULL)
        return;
    for (size_t i = 0; i < transcript->count; i++)
        free(transcript->items[i].text);
    free(transcript->items);
    free(transcript);
}

enum cs_status cs_message_newest_turn(struct cs_db *db, int64_t session, char out_tid[CS_UUID_MAX],
                                      struct cs_err *err)
{
    struct cs_sql q;

    out_tid[0] = '\0';
    cs_sql_begin(&q, db, CS_SQL_MESSAGE_NEWEST_TURN);
    cs_sql_int(&q, session);
    if (cs_sql_next(&q) && !cs_sql_is_null(&q, 0))
        cs_sql_copy_text(&q, 0, out_tid, CS_UUID_MAX);
    return cs_sql_end(&q, "read the newest turn", err);
}

/* ---- the log ---- */

void cs_message_row_fini(struct cs_message_row *row)
{
    free(row->user);
    free(row->frag);
    *row = (struct cs_message_row){0};
}

enum cs_status cs_message_get(struct cs_db *db, int64_t id, struct cs_message_row *out_row,
                              struct cs_err *err)
{
    struct cs_message_row row = {.id = id};
    bool found;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_MESSAGE_ROW);
    cs_sql_int(&q, id);
    found = cs_sql_next(&q);
    if (found) {
        cs_sql_copy_text(&q, 0, row.sid, sizeof row.sid);
        cs_sql_copy_text(&q, 1, row.cid, sizeof row.cid);
        row.user = cs_sql_dup_text(&q, 2);
        row.kind = (enum cs_message_kind)cs_sql_get_int(&q, 3);
        row.at = cs_sql_get_int(&q, 4);
        cs_sql_copy_text(&q, 5, row.tid, sizeof row.tid);
        row.frag = cs_sql_dup_text(&q, 6);
        row.len = row.frag != NULL ? strlen(row.frag) : 0;
        row.session = cs_sql_get_int(&q, 7);
    }
    status = cs_sql_end(&q, "read a message", err);
    if (status == CS_OK && !found)
        status = cs_err_set(err, CS_NOT_FOUND, "message_not_found", "there is no such message");
    if (status != CS_OK) {
        cs_message_row_fini(&row);
        return status;
    }
    *out_row = row;
    return CS_OK;
}

/* The end of what one look at the log of all sessions covers. */
static int64_t look_until(const struct cs_message_range *range)
{
    if (range->session != 0 || range->upto - range->after <= LOOK)
        return range->upto;
    return range->after + LOOK;
}

enum cs_status cs_message_ids(struct cs_db *db, const struct cs_message_range *range,
                              struct cs_message_page *page, struct cs_err *err)
{
    int64_t reached = look_until(range);
    size_t count = 0;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db,
                 range->session != 0   ? CS_SQL_MESSAGE_IDS_SESSION
                 : range->user != NULL ? CS_SQL_MESSAGE_IDS_USER
                                       : CS_SQL_MESSAGE_IDS);
    cs_sql_int(&q, range->after);
    cs_sql_int(&q, reached);
    cs_sql_int(&q, (int64_t)page->max);
    if (range->session != 0)
        cs_sql_int(&q, range->session);
    else if (range->user != NULL)
        cs_sql_text(&q, range->user);
    while (count < page->max && cs_sql_next(&q))
        page->ids[count++] = cs_sql_get_int(&q, 0);
    status = cs_sql_end(&q, "read the log", err);
    if (status != CS_OK)
        return status;
    page->reached = count == page->max ? page->ids[count - 1] : reached;
    page->count = count;
    return CS_OK;
}

enum cs_status cs_message_top(struct cs_db *db, int64_t *out_id, struct cs_err *err)
{
    return cs_tally_top_message(db, out_id, err);
}
