/* core/event_share: the events that feeds share. */
#include <stdlib.h>
#include <string.h>

#include "events.h"
#include "priv.h"

#define HOLD_MAX  ((size_t)16 * 1024) /* bytes of an event that is held for those who come later */
#define EVENT_MAX ((size_t)512 << 20) /* bytes of an event */

/* ---- events ---- */

struct cs_told *cs_told_new(const struct cs_tale *tale)
{
    size_t len = tale->text->len, user = strlen(tale->user) + 1;
    struct cs_told *told = malloc(sizeof *told + len + 1 + user);

    if (told == NULL)
        return NULL;
    *told = (struct cs_told){
        .name = tale->name,
        .id = tale->id,
        .session = tale->session,
        .user = told->data + len + 1,
        .len = len,
    };
    atomic_init(&told->refs, 1);
    strncpy(told->turn, tale->turn, sizeof told->turn - 1);
    memcpy(told->data, tale->text->data, len);
    told->data[len] = '\0';
    memcpy(told->data + len + 1, tale->user, user);
    return told;
}

/* With the shelf's mutex held, if it is of one. Returns whether it is gone. */
static bool drop(struct cs_told *told)
{
    if (atomic_fetch_sub(&told->refs, 1) != 1)
        return false;
    if (told->slot != NULL)
        *told->slot = (struct cs_slot){.id = 0};
    return true;
}

void cs_told_unref(struct cs_told *told)
{
    struct cs_shelf *shelf;
    bool gone;

    if (told == NULL)
        return;
    shelf = told->shelf;
    if (shelf != NULL)
        pthread_mutex_lock(&shelf->mutex);
    gone = drop(told);
    if (shelf != NULL)
        pthread_mutex_unlock(&shelf->mutex);
    if (gone)
        free(told);
}

/* ---- the shelf ---- */

enum cs_status cs_shelf_init(struct cs_shelf *shelf, struct cs_err *err)
{
    enum cs_status rc = cs_cond_init(&shelf->ready, err);

    if (rc == CS_OK)
        pthread_mutex_init(&shelf->mutex, NULL);
    return rc;
}

static void clear_locked(struct cs_slot *slot)
{
    struct cs_told *told = slot->told;

    *slot = (struct cs_slot){.id = 0};
    if (told == NULL)
        return;
    told->slot = NULL;
    if (told->len <= HOLD_MAX && drop(told))
        free(told);
}

void cs_shelf_fini(struct cs_shelf *shelf)
{
    for (size_t i = 0; i < CS_SHELF_SLOTS; i++)
        clear_locked(&shelf->slots[i]);
    pthread_cond_destroy(&shelf->ready);
    pthread_mutex_destroy(&shelf->mutex);
}

static struct cs_slot *find_locked(struct cs_shelf *shelf, int64_t id)
{
    for (size_t i = 0; i < CS_SHELF_SLOTS; i++) {
        if (shelf->slots[i].id == id)
            return &shelf->slots[i];
    }
    return NULL;
}

/* A slot for @id, to be filled by the caller; NULL when all are being filled. */
static struct cs_slot *claim_locked(struct cs_shelf *shelf, int64_t id)
{
    for (size_t i = 0; i < CS_SHELF_SLOTS; i++) {
        struct cs_slot *slot = &shelf->slots[shelf->next++ % CS_SHELF_SLOTS];

        if (slot->busy)
            continue;
        clear_locked(slot);
        slot->id = id;
        slot->busy = true;
        return slot;
    }
    return NULL;
}

/* Read message @id and render it; *out_told stays NULL when it is no event. */
static enum cs_status render(struct cs_store *store, int64_t id, struct cs_told **out_told,
                             struct cs_err *err)
{
    struct cs_tale tale = {.id = id};
    struct cs_message_row row = {.id = 0};
    struct cs_err why = {.status = CS_OK};
    struct cs_db *db = NULL;
    struct cs_buf text;
    enum cs_status rc = cs_store_read(store, &db, &why);

    cs_buf_init(&text, EVENT_MAX);
    if (rc == CS_OK)
        rc = cs_message_get(db, id, &row, &why);
    if (rc == CS_OK)
        rc = cs_event_lasting(db, &row, &text, &tale.name, &why);
    cs_store_done(store, db);
    if (rc == CS_OK && tale.name != NULL) {
        tale.session = row.session;
        tale.turn = row.tid;
        tale.user = row.user;
        tale.text = &text;
        *out_told = cs_told_new(&tale);
        rc = *out_told != NULL ? CS_OK : cs_err_nomem(&why);
    }
    cs_message_row_fini(&row);
    cs_buf_fini(&text);
    if (rc == CS_NOT_FOUND)
        return CS_OK; /* deleted since */
    return rc == CS_OK ? CS_OK : cs_err_set(err, rc, why.code, "%s", why.msg);
}

static void fill_locked(struct cs_shelf *shelf, struct cs_slot *slot, struct cs_told *told)
{
    slot->busy = false;
    slot->told = told;
    if (told != NULL) {
        told->shelf = shelf;
        told->slot = slot;
        if (told->len <= HOLD_MAX)
            atomic_fetch_add(&told->refs, 1);
    }
}

enum cs_status cs_shelf_get(struct cs_shelf *shelf, struct cs_store *store, int64_t id,
                            struct cs_told **out_told, struct cs_err *err)
{
    struct cs_told *told = NULL;
    struct cs_slot *slot;
    enum cs_status rc;

    pthread_mutex_lock(&shelf->mutex);
    while ((slot = find_locked(shelf, id)) != NULL && slot->busy)
        (void)cs_cond_wait(&shelf->ready, &shelf->mutex, CS_NEVER);
    if (slot != NULL) {
        if (slot->told != NULL)
            atomic_fetch_add(&slot->told->refs, 1);
        *out_told = slot->told;
        pthread_mutex_unlock(&shelf->mutex);
        return CS_OK;
    }
    slot = claim_locked(shelf, id);
    pthread_mutex_unlock(&shelf->mutex);

    rc = render(store, id, &told, err);
    if (slot != NULL) {
        pthread_mutex_lock(&shelf->mutex);
        if (rc == CS_OK)
            fill_locked(shelf, slot, told);
        else
            *slot = (struct cs_slot){.id = 0};
        pthread_cond_broadcast(&shelf->ready);
        pthread_mutex_unlock(&shelf->mutex);
    }
    if (rc == CS_OK)
        *out_told = told;
    return rc;
}
