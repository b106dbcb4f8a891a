#include "cs/store/replica.h"

#include <stdlib.h>
#include <string.h>

#include "branch.h"
#include "cs/base/clock.h"
#include "db.h"
#include "message.h"
#include "names.h"

#define TOMB_MAX 262144 /* bytes of a tombstone's vector */

/* ---- reading ---- */

void cs_replica_mark_fini(struct cs_replica_mark *mark)
{
    free(mark->aside);
    free(mark->user);
    cs_vector_fini(&mark->tomb);
    *mark = (struct cs_replica_mark){0};
}

enum cs_status cs_replica_vector(struct cs_db *db, int64_t session, struct cs_vector *out_vector,
                                 struct cs_err *err)
{
    struct cs_vector vector = {0};
    struct cs_sql q;
    enum cs_status status = CS_OK, ended;

    cs_sql_begin(&q, db, CS_SQL_REPLICA_VECTOR);
    cs_sql_int(&q, session);
    while (status == CS_OK && cs_sql_next(&q))
        status = cs_vector_raise(&vector, cs_sql_get_int(&q, 0), cs_sql_get_int(&q, 1), err);
    ended = cs_sql_end(&q, "read the vector of a session", err);
    if (status == CS_OK)
        status = ended;
    if (status != CS_OK) {
        cs_vector_fini(&vector);
        return status;
    }
    *out_vector = vector;
    return CS_OK;
}

enum cs_status cs_replica_cursor(struct cs_db *db, const char *name, char **out_value,
                                 struct cs_err *err)
{
    char *value = NULL;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_CURSOR_GET);
    cs_sql_text(&q, name);
    if (cs_sql_next(&q))
        value = cs_sql_dup_text(&q, 0);
    else
        value = cs_sql_dup(&q, "");
    status = cs_sql_end(&q, "read a cursor", err);
    if (status != CS_OK) {
        free(value);
        return status;
    }
    *out_value = value;
    return CS_OK;
}

static enum cs_status pushed_upto(struct cs_db *db, int64_t *out_id, struct cs_err *err)
{
    char *value = NULL;
    enum cs_status status = cs_replica_cursor(db, CS_REPLICA_PUSHED, &value, err);

    if (status == CS_OK)
        *out_id = strtoll(value, NULL, 10);
    free(value);
    return status;
}

/* Whether @session has messages of this host behind the cursor of pushes. */
static enum cs_status has_unsent(struct cs_db *db, int64_t session, bool *out_unsent,
                                 struct cs_err *err)
{
    int64_t upto = 0;
    bool unsent;
    struct cs_sql q;
    enum cs_status status = pushed_upto(db, &upto, err);

    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, CS_SQL_REPLICA_UNSENT);
    cs_sql_int(&q, session);
    cs_sql_int(&q, upto);
    unsent = cs_sql_next(&q);
    status = cs_sql_end(&q, "look for unsent messages", err);
    if (status == CS_OK)
        *out_unsent = unsent;
    return status;
}

enum cs_status cs_replica_session(struct cs_db *db, const char *sid, int64_t *out_id,
                                  struct cs_err *err)
{
    int64_t id = 0;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_REPLICA_SESSION);
    cs_sql_text(&q, sid);
    if (cs_sql_next(&q))
        id = cs_sql_get_int(&q, 0);
    status = cs_sql_end(&q, "find a session", err);
    if (status == CS_OK)
        *out_id = id;
    return status;
}

/* Columns as CS_SQL_MARK_GET lists them. */
static enum cs_status read_mark(struct cs_sql *q, struct cs_replica_mark *mark, struct cs_err *err)
{
    const char *tomb;
    size_t len = 0;

    cs_sql_copy_text(q, 0, mark->cid, sizeof mark->cid);
    mark->user = cs_sql_dup_text(q, 1);
    mark->dirty = cs_sql_get_int(q, 2) != 0;
    mark->unsent = cs_sql_get_int(q, 3) != 0;
    mark->generation = cs_sql_get_int(q, 4);
    mark->stamp = cs_sql_get_int(q, 5);
    if (!cs_sql_is_null(q, 6))
        mark->aside = cs_sql_dup_text(q, 6);
    tomb = cs_sql_get_text(q, 7, &len);
    return tomb != NULL ? cs_vector_parse(tomb, len, &mark->tomb, err) : CS_OK;
}

enum cs_status cs_replica_mark(struct cs_db *db, const char *sid, struct cs_replica_mark *out_mark,
                               struct cs_err *err)
{
    struct cs_replica_mark mark = {0};
    int64_t session = 0;
    bool unsent = false;
    struct cs_sql q;
    enum cs_status status = CS_OK, ended;

    cs_sql_begin(&q, db, CS_SQL_MARK_GET);
    cs_sql_text(&q, sid);
    if (cs_sql_next(&q))
        status = read_mark(&q, &mark, err);
    ended = cs_sql_end(&q, "read a mark", err);
    if (status == CS_OK)
        status = ended;
    if (status == CS_OK)
        status = cs_replica_session(db, sid, &session, err);
    if (status == CS_OK && session != 0) {
        status = has_unsent(db, session, &unsent, err);
        mark.unsent = mark.unsent || unsent;
        cs_sql_begin(&q, db, CS_SQL_TURN_RUNNING);
        cs_sql_int(&q, session);
        mark.running = cs_sql_next(&q);
        ended = cs_sql_end(&q, "look for a running turn", err);
        if (status == CS_OK)
            status = ended;
    }
    if (status != CS_OK) {
        cs_replica_mark_fini(&mark);
        return status;
    }
    *out_mark = mark;
    return CS_OK;
}

enum cs_status cs_replica_messages(struct cs_db *db, const struct cs_replica_range *range,
                                   cs_replica_each each, void *arg, struct cs_err *err)
{
    struct cs_sql q;
    enum cs_status status = CS_OK, ended;

    cs_sql_begin(&q, db, range->origin != 0 ? CS_SQL_REPLICA_FROM : CS_SQL_REPLICA_ALL);
    cs_sql_int(&q, range->session);
    if (range->origin != 0) {
        cs_sql_int(&q, range->origin);
        cs_sql_int(&q, range->from);
    }
    while (status == CS_OK && cs_sql_next(&q)) {
        struct cs_replica_message message = {
            .hlc = cs_sql_get_int(&q, 0),
            .origin = cs_sql_get_int(&q, 1),
            .seq = cs_sql_get_int(&q, 2),
            .parent_origin = cs_sql_get_int(&q, 3),
            .parent_seq = cs_sql_get_int(&q, 4),
            .kind = (enum cs_message_kind)cs_sql_get_int(&q, 5),
        };

        message.frag = cs_sql_get_bytes(&q, 7, &message.len);
        status = message.frag != NULL ? each(arg, &message, err) : CS_OK;
    }
    ended = cs_sql_end(&q, "read messages", err);
    return status == CS_OK || status == CS_CANCELLED ? ended : status;
}

/* The place of a row's item: one that is there, or the next. */
static size_t news_place(const struct cs_replica_news_page *page, struct cs_sql *q)
{
    int64_t session = cs_sql_get_int(q, 1), origin = cs_sql_get_int(q, 3);
    size_t i;

    for (i = page->count; i > 0; i--)
        if (page->items[i - 1].session == session && page->items[i - 1].origin == origin)
            return i - 1;
    return page->count;
}

static void note_news(struct cs_replica_news_page *page, size_t place, struct cs_sql *q)
{
    struct cs_replica_news *item = &page->items[place];

    item->to = cs_sql_get_int(q, 4);
    page->upto = cs_sql_get_int(q, 0);
    if (place < page->count)
        return;
    item->session = cs_sql_get_int(q, 1);
    cs_sql_copy_text(q, 2, item->sid, sizeof item->sid);
    item->origin = cs_sql_get_int(q, 3);
    item->from = item->to;
    page->count++;
}

static enum cs_status offer_news(const struct cs_replica_news_page *page, size_t place,
                                 struct cs_sql *q, struct cs_err *err)
{
    struct cs_replica_message message = {
        .origin = cs_sql_get_int(q, 3),
        .seq = cs_sql_get_int(q, 4),
        .hlc = cs_sql_get_int(q, 5),
        .parent_origin = cs_sql_get_int(q, 6),
        .parent_seq = cs_sql_get_int(q, 7),
        .kind = (enum cs_message_kind)cs_sql_get_int(q, 8),
    };

    if (page->each == NULL)
        return CS_OK;
    message.frag = cs_sql_get_bytes(q, 9, &message.len);
    return message.frag != NULL ? page->each(page->arg, place, &message, err) : CS_OK;
}

static enum cs_status top_message(struct cs_db *db, int64_t *out_id, struct cs_err *err)
{
    int64_t id = 0;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_TOP_MESSAGE);
    if (cs_sql_next(&q))
        id = cs_sql_get_int(&q, 0);
    status = cs_sql_end(&q, "read the newest message", err);
    if (status == CS_OK)
        *out_id = id;
    return status;
}

enum cs_status cs_replica_news(struct cs_db *db, int64_t after, struct cs_replica_news_page *page,
                               struct cs_err *err)
{
    int64_t top = 0;
    size_t rows = 0;
    bool more;
    struct cs_sql q;
    enum cs_status status = CS_OK, ended;

    page->count = 0;
    page->upto = after;
    cs_sql_begin(&q, db, CS_SQL_REPLICA_NEWS);
    cs_sql_int(&q, after);
    while ((more = page->count < page->max && rows < page->max * 64) && cs_sql_next(&q)) {
        size_t place = news_place(page, &q);

        status = offer_news(page, place, &q, err);
        more = status == CS_OK;
        if (!more)
            break;
        note_news(page, place, &q);
        rows++;
    }
    ended = cs_sql_end(&q, "read the news", err);
    if (status == CS_OK || status == CS_CANCELLED)
        status = ended;
    if (status == CS_OK && more) /* rows of other hosts behind the last one count as seen */
        status = top_message(db, &top, err);
    if (status == CS_OK && top > page->upto)
        page->upto = top;
    return status;
}

/* The rows of @q, whose parameters are bound. */
static enum cs_status read_page(struct cs_sql *q, struct cs_id_page *page, struct cs_err *err)
{
    page->count = 0;
    cs_sql_int(q, (int64_t)page->max);
    while (page->count < page->max && cs_sql_next(q))
        cs_sql_copy_text(q, 0, page->ids[page->count++], CS_UUID_MAX);
    return cs_sql_end(q, "list sessions", err);
}

enum cs_status cs_replica_marked(struct cs_db *db, const char *after, bool aside,
                                 struct cs_id_page *page, struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_MARK_LIST);
    cs_sql_text(&q, after);
    cs_sql_int(&q, aside);
    return read_page(&q, page, err);
}

/* Both pages in one order, each id once. */
static void merge_pages(const struct cs_id_page *a, const struct cs_id_page *b,
                        struct cs_id_page *out)
{
    size_t i = 0, k = 0;

    out->count = 0;
    while (out->count < out->max && (i < a->count || k < b->count)) {
        int order = i == a->count ? 1 : k == b->count ? -1 : strcmp(a->ids[i], b->ids[k]);

        memcpy(out->ids[out->count++], order <= 0 ? a->ids[i] : b->ids[k], CS_UUID_MAX);
        i += order <= 0;
        k += order >= 0;
    }
}

enum cs_status cs_replica_of_user(struct cs_db *db, const char *user, const char *after,
                                  struct cs_id_page *page, struct cs_err *err)
{
    char(*room)[CS_UUID_MAX] = calloc(page->max * 2, sizeof *room);
    struct cs_id_page sessions = {.ids = room, .max = page->max};
    struct cs_id_page marks = {.ids = room != NULL ? room + page->max : NULL, .max = page->max};
    struct cs_sql q;
    enum cs_status status;

    if (room == NULL)
        return cs_err_nomem(err);
    cs_sql_begin(&q, db, CS_SQL_REPLICA_SIDS);
    cs_sql_text(&q, user);
    cs_sql_text(&q, after);
    status = read_page(&q, &sessions, err);
    if (status == CS_OK) {
        cs_sql_begin(&q, db, CS_SQL_MARK_SIDS);
        cs_sql_text(&q, user);
        cs_sql_text(&q, after);
        status = read_page(&q, &marks, err);
    }
    if (status == CS_OK)
        merge_pages(&sessions, &marks, page);
    free(room);
    return status;
}

enum cs_status cs_replica_archived(struct cs_db *db, const char *user, const char *after,
                                   struct cs_id_page *page, struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_REPLICA_ARCHIVED);
    cs_sql_text(&q, user);
    cs_sql_text(&q, after);
    return read_page(&q, page, err);
}

enum cs_status cs_replica_users(struct cs_db *db,
                                enum cs_status (*each)(void *arg, const char *user,
                                                       struct cs_err *err),
                                void *arg, struct cs_err *err)
{
    char *user = strdup("");
    enum cs_status status = user != NULL ? CS_OK : cs_err_nomem(err);

    while (status == CS_OK) {
        char *next = NULL;
        struct cs_sql q;

        cs_sql_begin(&q, db, CS_SQL_REPLICA_USER);
        cs_sql_text(&q, user);
        if (cs_sql_next(&q) && !cs_sql_is_null(&q, 0))
            next = cs_sql_dup_text(&q, 0);
        status = cs_sql_end(&q, "list the users", err);
        free(user);
        user = next;
        if (next == NULL)
            break;
        if (status == CS_OK)
            status = each(arg, user, err);
    }
    free(user);
    return status;
}

/* ---- marks ---- */

enum cs_status cs_replica_set_cursor(struct cs_db *db, const char *name, const char *value,
                                     struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_CURSOR_SET);
    cs_sql_text(&q, name);
    cs_sql_text(&q, value);
    return cs_sql_run(&q, "keep a cursor", err);
}

/* Where the messages of @sid begin that Redis never took: at the first behind the cursor of pushes,
 * or with this origin's first. *out_hlc stays when there is none. */
static enum cs_status unsent_from(struct cs_db *db, const char *sid, bool renumbered,
                                  int64_t *out_hlc, struct cs_err *err)
{
    int64_t session = 0, upto = 0;
    struct cs_sql q;
    enum cs_status status = cs_replica_session(db, sid, &session, err);

    if (status == CS_OK && !renumbered)
        status = pushed_upto(db, &upto, err);
    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, renumbered ? CS_SQL_REPLICA_FROM : CS_SQL_REPLICA_FIRST);
    cs_sql_int(&q, session);
    cs_sql_int(&q, renumbered ? db->origin : upto);
    if (renumbered)
        cs_sql_int(&q, 1);
    if (cs_sql_next(&q))
        *out_hlc = cs_sql_get_int(&q, 0);
    return cs_sql_end(&q, "look for the first unsent message", err);
}

enum cs_status cs_replica_flag(struct cs_db *db, const char *sid, enum cs_replica_flag flag,
                               struct cs_err *err)
{
    int64_t from = 0;
    struct cs_sql q;
    enum cs_status status = CS_OK;

    if (flag != CS_REPLICA_DIRTY)
        status = unsent_from(db, sid, flag == CS_REPLICA_RENUMBERED, &from, err);
    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, CS_SQL_MARK_FLAG);
    cs_sql_text(&q, sid);
    cs_sql_int(&q, flag != CS_REPLICA_DIRTY);
    if (from != 0)
        cs_sql_int(&q, from);
    else
        cs_sql_null(&q);
    return cs_sql_run(&q, "mark a session", err);
}

enum cs_status cs_replica_clean(struct cs_db *db, const char *sid, int64_t generation,
                                struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_MARK_CLEAN);
    cs_sql_text(&q, sid);
    cs_sql_int(&q, generation);
    cs_sql_int(&q, cs_clock_ms());
    return cs_sql_run(&q, "clear a mark", err);
}

enum cs_status cs_replica_aside(struct cs_db *db, const char *sid, const char *why,
                                struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_MARK_ASIDE);
    cs_sql_text(&q, sid);
    cs_sql_text(&q, why);
    return cs_sql_run(&q, "set a session aside", err);
}

enum cs_status cs_replica_stamp(struct cs_db *db, const char *sid, int64_t stamp,
                                struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_MARK_STAMP);
    cs_sql_text(&q, sid);
    cs_sql_int(&q, stamp);
    return cs_sql_run(&q, "keep a stamp", err);
}

enum cs_status cs_replica_bury(struct cs_db *db, const char *sid, const char *cid, const char *user,
                               const struct cs_vector *vector, struct cs_err *err)
{
    struct cs_replica_mark mark = {0};
    struct cs_buf text;
    struct cs_sql q;
    enum cs_status status = cs_replica_mark(db, sid, &mark, err);

    cs_buf_init(&text, TOMB_MAX);
    if (status == CS_OK)
        status = cs_vector_join(&mark.tomb, vector, err);
    if (status == CS_OK) {
        cs_vector_write(&mark.tomb, &text);
        status = cs_buf_check(&text, err);
    }
    if (status == CS_OK) {
        cs_sql_begin(&q, db, CS_SQL_MARK_BURY);
        cs_sql_text(&q, sid);
        cs_sql_text(&q, cid);
        cs_sql_text(&q, user);
        cs_sql_textn(&q, text.data, text.len);
        cs_sql_int(&q, cs_clock_ms());
        status = cs_sql_run(&q, "keep a tombstone", err);
    }
    cs_buf_fini(&text);
    cs_replica_mark_fini(&mark);
    return status;
}

enum cs_status cs_replica_purge(struct cs_db *db, int64_t until, int64_t untold_max,
                                struct cs_err *err)
{
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_MARK_PURGE);
    cs_sql_int(&q, until);
    status = cs_sql_run(&q, "forget tombstones", err);
    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, CS_SQL_MARK_OVERFLOW);
    cs_sql_int(&q, untold_max);
    return cs_sql_run(&q, "forget the oldest tombstones", err);
}

enum cs_status cs_replica_each_aside(struct cs_db *db, size_t max,
                                     void (*each)(void *arg, const char *sid, const char *why),
                                     void *arg, struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_MARK_EACH_ASIDE);
    cs_sql_int(&q, (int64_t)max);
    while (cs_sql_next(&q)) {
        const char *sid = cs_sql_get_text(&q, 0, NULL), *why = cs_sql_get_text(&q, 1, NULL);

        if (sid != NULL && why != NULL)
            each(arg, sid, why);
    }
    return cs_sql_end(&q, "list what was set aside", err);
}

enum cs_status cs_replica_others(struct cs_db *db, int64_t rows,
                                 enum cs_status (*each)(void *arg,
                                                        const struct cs_replica_other *message,
                                                        struct cs_err *err),
                                 void *arg, struct cs_err *err)
{
    int64_t top = 0;
    struct cs_sql q;
    enum cs_status ended, status = top_message(db, &top, err);

    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, CS_SQL_REPLICA_OTHERS);
    cs_sql_int(&q, top - rows);
    while (status == CS_OK && cs_sql_next(&q)) {
        struct cs_replica_other message = {cs_sql_get_int(&q, 0), cs_sql_get_int(&q, 1), NULL, 0};

        message.frag = cs_sql_get_bytes(&q, 2, &message.len);
        status = message.frag != NULL ? each(arg, &message, err) : CS_OK;
    }
    ended = cs_sql_end(&q, "read messages of other hosts", err);
    return status == CS_OK || status == CS_CANCELLED ? ended : status;
}

static enum cs_status add_figures(struct cs_db *db, enum cs_sql_id id, int64_t upto,
                                  struct cs_replica_figures *figures, struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, id);
    cs_sql_int(&q, upto);
    if (cs_sql_next(&q)) {
        int64_t oldest = cs_sql_get_int(&q, 2);

        figures->pending_messages += cs_sql_get_int(&q, 0);
        figures->pending_sessions += cs_sql_get_int(&q, 1);
        if (oldest != 0 && (figures->oldest_pending == 0 || oldest < figures->oldest_pending))
            figures->oldest_pending = oldest;
    }
    return cs_sql_end(&q, "count what is pending", err);
}

enum cs_status cs_replica_figures(struct cs_db *db, struct cs_replica_figures *out,
                                  struct cs_err *err)
{
    struct cs_replica_figures figures = {0};
    int64_t upto = 0;
    enum cs_status status = pushed_upto(db, &upto, err);

    if (status == CS_OK)
        status = add_figures(db, CS_SQL_REPLICA_PENDING, upto, &figures, err);
    if (status == CS_OK)
        status = add_figures(db, CS_SQL_MARK_PENDING, upto, &figures, err);
    if (status == CS_OK)
        *out = figures;
    return status;
}

/* ---- messages of other hosts ---- */

/* This start goes on under a new origin. */
static enum cs_status register_origin(struct cs_db *db, int64_t origin, struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_ORIGIN_INSERT);
    cs_sql_int(&q, origin);
    cs_sql_int(&q, cs_clock_ms());
    return cs_sql_run(&q, "register an origin", err);
}

static enum cs_status rotate_origin(struct cs_db *db, struct cs_err *err)
{
    int64_t origin = 0;
    enum cs_status status = cs_origin_new(&origin, err);

    if (status == CS_OK)
        status = register_origin(db, origin, err);
    if (status == CS_OK)
        db->origin = origin; /* stays so even if this write is undone: then it was never used */
    return status;
}

static enum cs_status is_own(struct cs_db *db, int64_t origin, bool *out_own, struct cs_err *err)
{
    bool own;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_REPLICA_OWN);
    cs_sql_int(&q, origin);
    own = cs_sql_next(&q);
    status = cs_sql_end(&q, "look for an origin", err);
    if (status == CS_OK)
        *out_own = own;
    return status;
}

/* The last message of @origin; zeroes when it has none. */
static enum cs_status last_of(struct cs_db *db, int64_t session, int64_t origin, int64_t *out_seq,
                              int64_t *out_hlc, struct cs_err *err)
{
    int64_t seq = 0, hlc = 0;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_REPLICA_LAST);
    cs_sql_int(&q, session);
    cs_sql_int(&q, origin);
    if (cs_sql_next(&q)) {
        seq = cs_sql_get_int(&q, 0);
        hlc = cs_sql_get_int(&q, 1);
    }
    status = cs_sql_end(&q, "read the last message of an origin", err);
    if (status == CS_OK) {
        *out_seq = seq;
        *out_hlc = hlc;
    }
    return status;
}

/* Whether @message is later than the one before it in its origin; no host numbers otherwise. */
static enum cs_status is_later(struct cs_db *db, int64_t session,
                               const struct cs_replica_message *message, bool *out_later,
                               struct cs_err *err)
{
    bool later = true;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_REPLICA_FROM);
    cs_sql_int(&q, session);
    cs_sql_int(&q, message->origin);
    cs_sql_int(&q, message->seq - 1);
    if (message->seq > 1 && cs_sql_next(&q))
        later = cs_sql_get_int(&q, 0) < message->hlc;
    status = cs_sql_end(&q, "read the message before", err);
    if (status == CS_OK)
        *out_later = later;
    return status;
}

/* Whether the message that has this place is the same in every byte; a stub is the same as the
 * whole message whose place it has, so that whoever has that one keeps it. */
static enum cs_status is_same(struct cs_db *db, int64_t session,
                              const struct cs_replica_message *message, bool *out_same,
                              struct cs_err *err)
{
    bool same = false;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_REPLICA_HASH);
    cs_sql_int(&q, session);
    cs_sql_int(&q, message->hlc);
    cs_sql_int(&q, message->origin);
    cs_sql_int(&q, message->seq);
    if (cs_sql_next(&q)) {
        size_t len = 0;
        const char *frag = cs_sql_get_bytes(&q, 2, &len);

        same = cs_sql_get_int(&q, 0) == message->parent_origin &&
               cs_sql_get_int(&q, 1) == message->parent_seq && frag != NULL &&
               (message->stub || (len == message->len && memcmp(frag, message->frag, len) == 0));
    }
    status = cs_sql_end(&q, "compare a message", err);
    if (status == CS_OK)
        *out_same = same;
    return status;
}

static enum cs_status hash_of(struct cs_db *db, const struct cs_identity *identity,
                              const char *frag, size_t len, unsigned char out[CS_MESSAGE_HASH_LEN],
                              struct cs_err *err)
{
    enum cs_status status;

    cs_buf_reset(&db->scratch);
    cs_identity_add(&db->scratch, identity);
    cs_buf_add(&db->scratch, frag, len);
    status = cs_buf_check(&db->scratch, err);
    return status == CS_OK ? cs_message_hash(&db->scratch, out, err) : status;
}

/* A row that is to be numbered anew. */
struct renumber {
    int64_t id, hlc, seq, parent_origin, parent_seq, kind, at;
    char *frag;
    size_t len;
};

static enum cs_status write_renumbered(struct cs_db *db, const struct renumber *row, int64_t old,
                                       int64_t first, struct cs_err *err)
{
    struct cs_identity identity = {
        .hlc = row->hlc,
        .origin = db->origin,
        .seq = row->seq,
        .parent_origin = row->parent_origin,
        .parent_seq = row->parent_seq,
        .kind = row->kind,
        .at = row->at,
    };
    unsigned char hash[CS_MESSAGE_HASH_LEN];
    struct cs_sql q;
    enum cs_status status;

    if (identity.parent_origin == old && identity.parent_seq >= first) {
        identity.parent_origin = db->origin;
        identity.parent_seq -= first - 1;
    }
    status = hash_of(db, &identity, row->frag, row->len, hash, err);
    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, CS_SQL_REPLICA_RENUMBER);
    cs_sql_int(&q, row->id);
    cs_sql_int(&q, identity.origin);
    cs_sql_int(&q, identity.seq);
    cs_sql_int(&q, identity.parent_origin);
    cs_sql_int(&q, identity.parent_seq);
    cs_sql_blob(&q, hash, sizeof hash);
    return cs_sql_run(&q, "number a message anew", err);
}

/* The first message of @origin from @first on, as a copy; row->id 0 when there is none. */
static enum cs_status take_first(struct cs_db *db, int64_t session, int64_t origin, int64_t first,
                                 struct renumber *row, struct cs_err *err)
{
    struct cs_sql q;
    enum cs_status status;

    *row = (struct renumber){0};
    cs_sql_begin(&q, db, CS_SQL_REPLICA_FROM);
    cs_sql_int(&q, session);
    cs_sql_int(&q, origin);
    cs_sql_int(&q, first);
    if (cs_sql_next(&q)) {
        row->hlc = cs_sql_get_int(&q, 0);
        row->parent_origin = cs_sql_get_int(&q, 3);
        row->parent_seq = cs_sql_get_int(&q, 4);
        row->kind = cs_sql_get_int(&q, 5);
        row->at = cs_sql_get_int(&q, 6);
        row->frag = cs_sql_dup_text(&q, 7);
        row->len = row->frag != NULL ? strlen(row->frag) : 0;
        row->id = cs_sql_get_int(&q, 8);
    }
    status = cs_sql_end(&q, "read a message", err);
    if (status != CS_OK)
        free(row->frag);
    return status;
}

/* This host went back in time and used @origin's numbers from @first on twice: what it wrote since
 * gets a new origin, and goes out again. */
static enum cs_status renumber_from(struct cs_db *db, int64_t session, int64_t origin,
                                    int64_t first, struct cs_err *err)
{
    int64_t seq = 1;
    enum cs_status status = rotate_origin(db, err);

    while (status == CS_OK) {
        struct renumber row;

        status = take_first(db, session, origin, first, &row, err);
        if (status != CS_OK || row.id == 0)
            break;
        row.seq = seq++;
        status = write_renumbered(db, &row, origin, first, err);
        free(row.frag);
    }
    return status;
}

static enum cs_status insert_row(struct cs_db *db, int64_t session,
                                 const struct cs_replica_message *message, int64_t at,
                                 struct cs_err *err)
{
    struct cs_identity identity = {
        .hlc = message->hlc,
        .origin = message->origin,
        .seq = message->seq,
        .parent_origin = message->parent_origin,
        .parent_seq = message->parent_seq,
        .kind = (int64_t)message->kind,
        .at = at,
    };
    unsigned char hash[CS_MESSAGE_HASH_LEN];
    int64_t id = ++db->tops[CS_TOP_MESSAGE];
    struct cs_sql q;
    enum cs_status status = hash_of(db, &identity, message->frag, message->len, hash, err);

    if (status != CS_OK)
        return status;
    cs_sql_begin(&q, db, CS_SQL_MESSAGE_INSERT);
    cs_sql_int(&q, id);
    cs_sql_int(&q, session);
    cs_sql_int(&q, identity.hlc);
    cs_sql_int(&q, identity.origin);
    cs_sql_int(&q, identity.seq);
    cs_sql_int(&q, identity.parent_origin);
    cs_sql_int(&q, identity.parent_seq);
    cs_sql_int(&q, identity.kind);
    cs_sql_int(&q, identity.at);
    if (message->turn != NULL)
        cs_sql_text(&q, message->turn);
    else
        cs_sql_null(&q);
    cs_sql_blob(&q, hash, sizeof hash);
    cs_sql_textn(&q, message->frag, message->len);
    status = cs_sql_run(&q, "add another host's message", err);
    return status == CS_OK ? cs_db_note_appended(db, id, session, err) : status;
}

/* A message whose parent is not the one before it, or that others follow already, may branch. */
static enum cs_status note_branch(struct cs_db *db, int64_t session,
                                  const struct cs_replica_message *message, struct cs_err *err)
{
    bool straight = true;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_MESSAGE_NEWEST);
    cs_sql_int(&q, session);
    if (cs_sql_next(&q))
        straight = cs_sql_get_int(&q, 0) < message->hlc &&
                   cs_sql_get_int(&q, 1) == message->parent_origin &&
                   cs_sql_get_int(&q, 2) == message->parent_seq;
    status = cs_sql_end(&q, "read the newest message", err);
    return status == CS_OK && !straight ? cs_branch_flag(db, session, err) : status;
}

enum cs_status cs_replica_insert(struct cs_db *db, int64_t session,
                                 const struct cs_replica_message *message, int64_t at,
                                 enum cs_replica_outcome *out_outcome, struct cs_err *err)
{
    int64_t last = 0, hlc = 0;
    bool same = false, own = false;
    enum cs_replica_outcome outcome = CS_REPLICA_ADDED;
    enum cs_status status = last_of(db, session, message->origin, &last, &hlc, err);

    if (status == CS_OK && message->seq <= last) {
        status = is_same(db, session, message, &same, err);
        if (status == CS_OK && !same)
            status = is_own(db, message->origin, &own, err);
        if (status == CS_OK && own)
            status = is_later(db, session, message, &own, err);
        if (status != CS_OK || same || !own) {
            *out_outcome = same ? CS_REPLICA_KNOWN : CS_REPLICA_DIFFERS;
            return status;
        }
        status = renumber_from(db, session, message->origin, message->seq, err);
        if (status == CS_OK)
            status = cs_branch_flag(db, session, err);
        outcome = CS_REPLICA_FORKED;
    } else if (status == CS_OK && message->seq > last + 1) {
        *out_outcome = CS_REPLICA_HOLE;
        return CS_OK;
    } else if (status == CS_OK && message->hlc <= hlc) {
        *out_outcome = CS_REPLICA_DIFFERS; /* no host numbers like that */
        return CS_OK;
    } else if (status == CS_OK && message->origin == db->origin) {
        status = rotate_origin(db, err);
    }
    if (status == CS_OK)
        status = note_branch(db, session, message, err);
    if (status == CS_OK)
        status = insert_row(db, session, message, at, err);
    if (status == CS_OK)
        *out_outcome = outcome;
    return status;
}

enum cs_status cs_replica_reborn(struct cs_db *db, const char *sid, struct cs_err *err)
{
    struct cs_replica_mark mark = {0};
    enum cs_status status = cs_replica_mark(db, sid, &mark, err);

    if (status == CS_OK && cs_vector_get(&mark.tomb, db->origin) != 0)
        status = rotate_origin(db, err);
    cs_replica_mark_fini(&mark);
    return status;
}
