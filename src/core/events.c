#include "cs/core/events.h"

#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "approval.h"
#include "events.h"
#include "priv.h"

#define FEED_MAX    ((size_t)256 * 1024) /* bytes waiting in a feed */
#define PASSING_MAX ((size_t)512 << 20)  /* bytes of a passing event */
#define PAGE        32                   /* ids read at once */

/* What waits in a feed: a passing event, or lasting ones by their ids, which are read from the
 * store when it is their turn. */
struct waiting {
    struct waiting *next;
    struct cs_told *passing; /* NULL: lasting ones */
    int64_t from, upto;      /* ids of the first and the last of them */
};

struct cs_feed {
    struct cs_core *core;
    /* fixed when it was opened */
    int64_t session; /* rowid; 0: all */
    char turn[CS_UUID_MAX];
    char *user; /* owned; NULL: all */

    /* the owning thread's */
    int64_t cursor, goal; /* lasting events with cursor < id ≤ goal are to be given out now */
    int64_t ids[PAGE];    /* of these, the next ones */
    size_t id_count, id_next;
    int64_t reached;         /* up to where ids[] looked */
    struct cs_told *current; /* the event given out last */

    /* under bus->mutex */
    struct waiting *head, **tail;
    struct waiting *last; /* the newest one; NULL: none */
    size_t bytes;
    enum cs_status end; /* CS_OK: goes on; CS_UNAVAILABLE: ends after what waits */
    bool woken;
    size_t place; /* in bus->seats */
    pthread_cond_t changed;
};

/* What a publisher must look at for every feed, side by side. */
struct seat {
    int64_t session;
    struct cs_feed *feed;
};

struct cs_bus {
    atomic_size_t heard; /* feeds; read without the mutex */

    pthread_mutex_t mutex; /* guards what follows; nothing else is locked while it is held */
    struct seat *seats;
    size_t count, cap;
    bool closed;

    struct cs_shelf shelf;
};

/* ---- publishing ---- */

static struct waiting *pop_locked(struct cs_feed *feed)
{
    struct waiting *first = feed->head;

    if (first == NULL)
        return NULL;
    feed->head = first->next;
    if (feed->head == NULL) {
        feed->tail = &feed->head;
        feed->last = NULL;
    }
    feed->bytes -= sizeof *first + (first->passing != NULL ? first->passing->len : 0);
    return first;
}

static void end_locked(struct cs_feed *feed, enum cs_status why)
{
    struct waiting *first;

    feed->end = why;
    while (why != CS_UNAVAILABLE && (first = pop_locked(feed)) != NULL) {
        cs_told_unref(first->passing);
        free(first);
    }
    pthread_cond_signal(&feed->changed);
}

/* Queue @passing, or the lasting event @id when it is NULL. */
static void push_locked(struct cs_feed *feed, struct cs_told *passing, int64_t id)
{
    size_t cost = sizeof *feed->last + (passing != NULL ? passing->len : 0);
    struct waiting *last;

    if (feed->end != CS_OK)
        return;
    if (passing == NULL && feed->last != NULL && feed->last->passing == NULL) {
        feed->last->upto = id;
        return;
    }
    if (feed->bytes + cost > FEED_MAX) {
        end_locked(feed, CS_BUSY);
        return;
    }
    last = malloc(sizeof *last);
    if (last == NULL) {
        end_locked(feed, CS_NO_MEM);
        return;
    }
    *last = (struct waiting){.passing = passing, .from = id, .upto = id};
    if (passing != NULL)
        atomic_fetch_add(&passing->refs, 1);
    *feed->tail = last;
    feed->tail = &last->next;
    feed->last = last;
    feed->bytes += cost;
    pthread_cond_signal(&feed->changed);
}

/* cs_store_listener: messages were committed. Which of them a feed wants is found out when it reads
 * them; here only what would wake it in vain most often is left out. */
static void on_commit(void *arg, const struct cs_appended *rows, size_t count)
{
    struct cs_bus *bus = arg;

    if (atomic_load(&bus->heard) == 0)
        return;
    pthread_mutex_lock(&bus->mutex);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < bus->count; k++) {
            if (bus->seats[k].session == 0 || bus->seats[k].session == rows[i].session)
                push_locked(bus->seats[k].feed, NULL, rows[i].id);
        }
    }
    pthread_mutex_unlock(&bus->mutex);
}

bool cs_events_heard(struct cs_core *core)
{
    return atomic_load_explicit(&core->bus->heard, memory_order_relaxed) != 0;
}

static struct cs_told *passing_new(const struct cs_turn *turn, const char *name,
                                   const struct cs_buf *members)
{
    struct cs_told *passing = NULL;
    struct cs_buf text;

    cs_buf_init(&text, PASSING_MAX);
    cs_event_begin(&text, turn->session.sid, turn->session.cid, turn->session.user, turn->row.tid);
    cs_buf_addc(&text, ',');
    cs_buf_add(&text, members->data, members->len);
    cs_buf_addc(&text, '}');
    if (text.status == CS_OK && members->status == CS_OK)
        passing = cs_told_new(&(struct cs_tale){
            .name = name,
            .session = turn->session.id,
            .turn = turn->row.tid,
            .user = turn->session.user,
            .text = &text,
        });
    cs_buf_fini(&text);
    return passing;
}

static bool covers(const struct cs_feed *feed, int64_t session, const char *turn, const char *user)
{
    return (feed->session == 0 || feed->session == session) &&
           (feed->turn[0] == '\0' || strcmp(feed->turn, turn) == 0) &&
           (feed->user == NULL || strcmp(feed->user, user) == 0);
}

static bool wants(const struct cs_feed *feed, const struct cs_told *told)
{
    return covers(feed, told->session, told->turn, told->user);
}

bool cs_events_wanted(const struct cs_feed *feed, const struct cs_turn *turn)
{
    return covers(feed, turn->session.id, turn->row.tid, turn->session.user);
}

void cs_events_passing(struct cs_turn *turn, const char *name, const struct cs_buf *members)
{
    struct cs_bus *bus = turn->core->bus;
    struct cs_told *passing;

    if (!cs_events_heard(turn->core))
        return;
    passing = passing_new(turn, name, members);
    if (passing == NULL)
        return; /* no memory: listeners have the outcome to go by */
    pthread_mutex_lock(&bus->mutex);
    for (size_t i = 0; i < bus->count; i++) {
        const struct seat *seat = &bus->seats[i];

        if ((seat->session == 0 || seat->session == turn->session.id) && wants(seat->feed, passing))
            push_locked(seat->feed, passing, 0);
    }
    pthread_mutex_unlock(&bus->mutex);
    cs_told_unref(passing);
}

bool cs_events_again(struct cs_feed *feed, struct cs_turn *turn, const char *name,
                     const struct cs_buf *members)
{
    struct cs_bus *bus = turn->core->bus;
    struct cs_told *passing = passing_new(turn, name, members);
    bool room;

    if (passing == NULL)
        return false;
    pthread_mutex_lock(&bus->mutex);
    room = feed->bytes + passing->len <= FEED_MAX / 2; /* the rest is for what happens now */
    if (room)
        push_locked(feed, passing, 0);
    pthread_mutex_unlock(&bus->mutex);
    cs_told_unref(passing);
    return room;
}

/* ---- the bus's life ---- */

enum cs_status cs_bus_start(struct cs_core *core, struct cs_err *err)
{
    struct cs_bus *bus = calloc(1, sizeof *bus);
    enum cs_status rc;

    if (bus == NULL)
        return cs_err_nomem(err);
    rc = cs_shelf_init(&bus->shelf, err);
    if (rc != CS_OK) {
        free(bus);
        return rc;
    }
    pthread_mutex_init(&bus->mutex, NULL);
    core->bus = bus;
    cs_store_listen(core->store, on_commit, bus);
    return CS_OK;
}

void cs_bus_close(struct cs_core *core)
{
    struct cs_bus *bus = core->bus;

    pthread_mutex_lock(&bus->mutex);
    bus->closed = true;
    for (size_t i = 0; i < bus->count; i++) {
        if (bus->seats[i].feed->end == CS_OK)
            end_locked(bus->seats[i].feed, CS_UNAVAILABLE);
    }
    pthread_mutex_unlock(&bus->mutex);
}

void cs_bus_stop(struct cs_core *core)
{
    struct cs_bus *bus = core->bus;

    if (bus == NULL)
        return;
    cs_store_listen(core->store, NULL, NULL);
    cs_shelf_fini(&bus->shelf);
    pthread_mutex_destroy(&bus->mutex);
    free(bus->seats);
    free(bus);
    core->bus = NULL;
}

static enum cs_status sit_down_locked(struct cs_bus *bus, struct cs_feed *feed, struct cs_err *err)
{
    if (bus->closed)
        return cs_err_set(err, CS_UNAVAILABLE, "shutting_down", "The daemon is shutting down");
    if (bus->count == bus->cap) {
        size_t more = bus->cap > 0 ? bus->cap * 2 : 16;
        void *grown = reallocarray(bus->seats, more, sizeof *bus->seats);

        if (grown == NULL)
            return cs_err_nomem(err);
        bus->seats = grown;
        bus->cap = more;
    }
    feed->place = bus->count;
    bus->seats[bus->count++] = (struct seat){feed->session, feed};
    atomic_store(&bus->heard, bus->count);
    return CS_OK;
}

/* *out_asked: what Codex asked up to there was told before the feed could hear it. */
static enum cs_status sit_down(struct cs_feed *feed, int64_t *out_asked, struct cs_err *err)
{
    struct cs_bus *bus = feed->core->bus;
    enum cs_status rc;

    pthread_mutex_lock(&feed->core->mutex);
    pthread_mutex_lock(&bus->mutex);
    rc = sit_down_locked(bus, feed, err);
    pthread_mutex_unlock(&bus->mutex);
    *out_asked = feed->core->asked;
    pthread_mutex_unlock(&feed->core->mutex);
    return rc;
}

static void stand_up(struct cs_feed *feed)
{
    struct cs_bus *bus = feed->core->bus;
    struct seat last;

    pthread_mutex_lock(&bus->mutex);
    last = bus->seats[--bus->count];
    bus->seats[feed->place] = last;
    last.feed->place = feed->place;
    atomic_store(&bus->heard, bus->count);
    end_locked(feed, CS_CANCELLED); /* empties it */
    pthread_mutex_unlock(&bus->mutex);
}

/* ---- opening ---- */

static void feed_free(struct cs_feed *feed)
{
    cs_told_unref(feed->current);
    free(feed->user);
    pthread_cond_destroy(&feed->changed);
    free(feed);
}

static enum cs_status feed_new(struct cs_core *core, const struct cs_feed_filter *filter,
                               struct cs_feed **out_feed, struct cs_err *err)
{
    struct cs_feed *feed = calloc(1, sizeof *feed);
    enum cs_status rc;

    if (feed == NULL)
        return cs_err_nomem(err);
    feed->core = core;
    feed->tail = &feed->head;
    rc = cs_cond_init(&feed->changed, err);
    if (rc != CS_OK) {
        free(feed);
        return rc;
    }
    if (filter->user != NULL && (feed->user = strdup(filter->user)) == NULL) {
        feed_free(feed);
        return cs_err_nomem(err);
    }
    *out_feed = feed;
    return CS_OK;
}

static enum cs_status find_turn(struct cs_feed *feed, struct cs_db *db, const char *tid,
                                struct cs_err *err)
{
    struct cs_turn_row row;
    enum cs_status rc = cs_turn_find(db, tid, &row, err);

    if (rc != CS_OK)
        return rc;
    if (feed->session != 0 && feed->session != row.session) {
        rc = cs_err_set(err, CS_NOT_FOUND, "turn_not_found", "The session has no such turn");
    } else {
        feed->session = row.session;
        feed->cursor = row.prompt_message - 1;
        memcpy(feed->turn, row.tid, sizeof feed->turn);
    }
    cs_turn_row_fini(&row);
    return rc;
}

/* Find what @filter names. */
static enum cs_status resolve(struct cs_feed *feed, const struct cs_feed_filter *filter,
                              struct cs_err *err)
{
    struct cs_session session;
    struct cs_db *db = NULL;
    enum cs_status rc = CS_OK;

    feed->cursor = filter->after;
    if (filter->identifier == NULL && filter->turn == NULL)
        return CS_OK;
    rc = cs_store_read(feed->core->store, &db, err);
    if (rc == CS_OK && filter->identifier != NULL) {
        rc = cs_session_find(db, filter->identifier, &session, NULL);
        if (rc == CS_OK) {
            feed->session = session.id;
            cs_session_fini(&session);
        } else if (rc == CS_NOT_FOUND) {
            rc = cs_session_missing(filter->identifier, err);
        } else {
            rc = cs_err_set(err, rc, NULL, "could not look the session up");
        }
    }
    if (rc == CS_OK && filter->turn != NULL)
        rc = find_turn(feed, db, filter->turn, err);
    cs_store_done(feed->core->store, db);
    return rc;
}

/* What is in the log now is read from there; what comes later is told. */
static enum cs_status take_top(struct cs_feed *feed, struct cs_err *err)
{
    struct cs_db *db = NULL;
    int64_t top = 0;
    enum cs_status rc = cs_store_read(feed->core->store, &db, err);

    if (rc == CS_OK)
        rc = cs_message_top(db, &top, err);
    cs_store_done(feed->core->store, db);
    if (rc != CS_OK)
        return rc;
    if (feed->cursor > top)
        return cs_err_set(err, CS_CONFLICT, "events_lost",
                          "The log ends before the last event seen: it was put back to a backup");
    feed->goal = top;
    if (feed->cursor < 0)
        feed->cursor = top;
    feed->reached = feed->cursor;
    return CS_OK;
}

enum cs_status cs_feed_open(struct cs_core *core, const struct cs_feed_filter *filter,
                            struct cs_feed **out_feed, struct cs_err *err)
{
    struct cs_feed *feed = NULL;
    int64_t asked = 0;
    enum cs_status rc = feed_new(core, filter, &feed, err);

    if (feed == NULL)
        return rc;
    rc = resolve(feed, filter, err);
    if (rc == CS_OK)
        rc = sit_down(feed, &asked, err);
    if (rc != CS_OK) {
        feed_free(feed);
        return rc;
    }
    rc = take_top(feed, err);
    if (rc != CS_OK) {
        cs_feed_close(feed);
        return rc;
    }
    cs_approval_tell_again(core, feed, asked); /* after what is in the log */
    *out_feed = feed;
    return CS_OK;
}

void cs_feed_close(struct cs_feed *feed)
{
    if (feed == NULL)
        return;
    stand_up(feed);
    feed_free(feed);
}

/* ---- listening ---- */

/* Why the feed gives nothing, whatever waits in it. */
static enum cs_status stopped_locked(struct cs_feed *feed, struct cs_err *err)
{
    if (feed->woken) {
        feed->woken = false;
        return cs_err_set(err, CS_CANCELLED, NULL, "woken");
    }
    if (feed->end == CS_BUSY)
        return cs_err_set(err, CS_BUSY, "slow_reader", "The reader is too slow");
    if (feed->end == CS_NO_MEM)
        return cs_err_nomem(err);
    return CS_OK;
}

static enum cs_status stopped(struct cs_feed *feed, struct cs_err *err)
{
    struct cs_bus *bus = feed->core->bus;
    enum cs_status rc;

    pthread_mutex_lock(&bus->mutex);
    rc = stopped_locked(feed, err);
    pthread_mutex_unlock(&bus->mutex);
    return rc;
}

/* What waits longest; to be freed. */
static enum cs_status take(struct cs_feed *feed, int64_t deadline, struct waiting **out_first,
                           struct cs_err *err)
{
    struct cs_bus *bus = feed->core->bus;
    struct waiting *first = NULL;
    bool in_time = true;
    enum cs_status rc;

    pthread_mutex_lock(&bus->mutex);
    for (;;) {
        rc = stopped_locked(feed, err);
        if (rc == CS_OK)
            first = pop_locked(feed);
        if (rc != CS_OK || first != NULL || feed->end != CS_OK || !in_time)
            break;
        in_time = cs_cond_wait(&feed->changed, &bus->mutex, deadline);
    }
    if (rc == CS_OK && first == NULL)
        rc = feed->end != CS_OK
                 ? cs_err_set(err, CS_UNAVAILABLE, "shutting_down", "The daemon is shutting down")
                 : cs_err_set(err, CS_TIMEOUT, NULL, "nothing happened");
    pthread_mutex_unlock(&bus->mutex);
    if (rc == CS_OK)
        *out_first = first;
    return rc;
}

/* Go on with what waited: either there is a passing event now, or lasting ones are to be read. */
static void begin(struct cs_feed *feed, struct waiting *first)
{
    feed->current = first->passing;
    if (first->passing == NULL && first->upto > feed->cursor) {
        if (first->from > feed->cursor + 1)
            feed->cursor = first->from - 1;
        feed->goal = first->upto;
        feed->id_count = feed->id_next = 0;
        feed->reached = feed->cursor;
    }
    free(first);
}

/* Find the ids that come next. A single one needs no search. */
static enum cs_status turn_page(struct cs_feed *feed, struct cs_err *err)
{
    struct cs_message_range range = {
        .after = feed->reached,
        .upto = feed->goal,
        .session = feed->session,
        .user = feed->user,
    };
    struct cs_message_page page = {.ids = feed->ids, .max = PAGE};
    struct cs_db *db = NULL;
    enum cs_status rc = CS_OK;

    if (range.upto == range.after + 1) {
        feed->ids[0] = page.reached = range.upto;
        page.count = 1;
    } else {
        rc = cs_store_read(feed->core->store, &db, err);
        if (rc == CS_OK)
            rc = cs_message_ids(db, &range, &page, err);
        cs_store_done(feed->core->store, db);
    }
    if (rc != CS_OK)
        return rc;
    feed->cursor = range.after;
    feed->reached = page.reached;
    feed->id_next = 0;
    feed->id_count = page.count;
    return CS_OK;
}

/* The next lasting event that is due becomes the current one; none does when the look was in vain.
 */
static enum cs_status read_on(struct cs_feed *feed, struct cs_err *err)
{
    struct cs_bus *bus = feed->core->bus;
    struct cs_told *told = NULL;
    enum cs_status rc = CS_OK;

    if (feed->id_next == feed->id_count)
        rc = turn_page(feed, err);
    while (rc == CS_OK && told == NULL && feed->id_next < feed->id_count) {
        rc = cs_shelf_get(&bus->shelf, feed->core->store, feed->ids[feed->id_next], &told, err);
        if (rc == CS_OK)
            feed->cursor = feed->ids[feed->id_next++];
        if (told != NULL && !wants(feed, told)) {
            cs_told_unref(told);
            told = NULL;
        }
    }
    if (rc == CS_OK && feed->id_next == feed->id_count)
        feed->cursor = feed->reached;
    feed->current = told;
    return rc;
}

/* A step towards the next event: look for lasting ones, or wait. */
static enum cs_status advance(struct cs_feed *feed, int64_t deadline, struct cs_err *err)
{
    struct waiting *first;
    enum cs_status rc;

    if (feed->cursor >= feed->goal) {
        rc = take(feed, deadline, &first, err);
        if (rc == CS_OK)
            begin(feed, first);
        return rc;
    }
    rc = stopped(feed, err);
    if (rc == CS_OK)
        rc = read_on(feed, err);
    if (rc == CS_OK && feed->current == NULL && feed->cursor < feed->goal &&
        cs_mono_ms() >= deadline)
        rc = cs_err_set(err, CS_TIMEOUT, NULL, "the log is long");
    return rc;
}

enum cs_status cs_feed_next(struct cs_feed *feed, int64_t deadline, struct cs_event *out_event,
                            struct cs_err *err)
{
    const struct cs_told *told;
    enum cs_status rc;

    cs_told_unref(feed->current);
    feed->current = NULL;
    do
        rc = advance(feed, deadline, err);
    while (rc == CS_OK && feed->current == NULL);
    if (rc != CS_OK)
        return rc;
    told = feed->current;
    *out_event = (struct cs_event){told->id, told->name, told->data, told->len};
    return CS_OK;
}

int64_t cs_feed_position(const struct cs_feed *feed)
{
    return feed->cursor;
}

bool cs_event_ends_turn(const struct cs_event *event)
{
    return strcmp(event->name, "turn.completed") == 0 || strcmp(event->name, "turn.failed") == 0;
}

void cs_feed_wake(struct cs_feed *feed)
{
    struct cs_bus *bus = feed->core->bus;

    pthread_mutex_lock(&bus->mutex);
    feed->woken = true;
    pthread_cond_signal(&feed->changed);
    pthread_mutex_unlock(&bus->mutex);
}
