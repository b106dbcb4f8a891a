/* core/history: rendered histories, kept for readers under a bound of bytes. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "priv.h"

#define BUCKETS     4096
#define HISTORY_MAX ((size_t)256 << 20) /* bytes of one rendered history */
#define FIRST_CAP   ((size_t)8192)      /* bytes of most */

/* A history that several readers and the cache share. */
struct shared {
    struct cs_history view; /* first: what callers hold points here */
    atomic_uint refs;
    atomic_bool lent;
    char *text; /* owned; view.messages with the bytes around them */
    int64_t last_used_at, expires_at;
};

/* A cache entry: one identifier (session or conversation id) of one history. */
struct node {
    char key[CS_UUID_MAX];
    struct shared *history;
    struct node *next;          /* in its bucket */
    struct node *newer, *older; /* ring of use; the head is the cache's own */
};

/* A reader may have read just before a write that was forgotten just before it inserts: it
 * remembers `forgotten` of its identifier's bucket before it reads, and inserts only if that has
 * not moved. */
struct bucket {
    struct node *first;
    unsigned long forgotten;
};

struct cs_history_cache {
    pthread_mutex_t mutex;
    struct node ring;
    size_t bytes, max;
    struct bucket buckets[BUCKETS];
};

static struct bucket *bucket_of(struct cs_history_cache *cache, const char *key)
{
    unsigned hash = 2166136261u;

    for (; *key != '\0'; key++)
        hash = (hash ^ (unsigned char)*key) * 16777619u;
    return &cache->buckets[(hash ^ hash >> 16) % BUCKETS];
}

/* Bytes that a history takes with its entry. */
static size_t cost(const struct shared *history)
{
    return sizeof(struct node) + sizeof *history + CS_HISTORY_BEFORE + history->view.len;
}

static struct shared *shared_of(const struct cs_history *history)
{
    return (struct shared *)(uintptr_t)history; /* the view is its first member */
}

char *cs_history_borrow(const struct cs_history *history)
{
    struct shared *shared = shared_of(history);

    return atomic_exchange(&shared->lent, true) ? NULL : shared->text + CS_HISTORY_BEFORE;
}

void cs_history_return(const struct cs_history *history)
{
    atomic_store(&shared_of(history)->lent, false);
}

void cs_history_release(const struct cs_history *history)
{
    struct shared *shared = shared_of(history);

    if (shared == NULL)
        return;
    if (atomic_fetch_sub(&shared->refs, 1) != 1)
        return;
    free(shared->text);
    free(shared);
}

enum cs_status cs_history_cache_new(size_t max_bytes, struct cs_history_cache **out_cache,
                                    struct cs_err *err)
{
    struct cs_history_cache *cache = calloc(1, sizeof *cache);

    if (cache == NULL)
        return cs_err_nomem(err);
    pthread_mutex_init(&cache->mutex, NULL);
    cache->ring.newer = cache->ring.older = &cache->ring;
    cache->max = max_bytes;
    *out_cache = cache;
    return CS_OK;
}

static void unlink_node(struct node *node)
{
    node->newer->older = node->older;
    node->older->newer = node->newer;
}

static void link_newest(struct cs_history_cache *cache, struct node *node)
{
    node->older = cache->ring.older;
    node->newer = &cache->ring;
    cache->ring.older->newer = node;
    cache->ring.older = node;
}

/* With the mutex held: where the cache points to the node of @key, or would. */
static struct node **find(struct bucket *bucket, const char *key)
{
    struct node **at = &bucket->first;

    while (*at != NULL && strcmp((*at)->key, key) != 0)
        at = &(*at)->next;
    return at;
}

/* With the mutex held. */
static void drop(struct cs_history_cache *cache, struct node **at)
{
    struct node *node = *at;

    *at = node->next;
    unlink_node(node);
    cache->bytes -= cost(node->history);
    cs_history_release(&node->history->view);
    free(node);
}

static void drop_oldest(struct cs_history_cache *cache)
{
    const char *key = cache->ring.newer->key;

    drop(cache, find(bucket_of(cache, key), key));
}

static void forget_key(struct cs_history_cache *cache, const char *key)
{
    struct bucket *bucket = bucket_of(cache, key);
    struct node **at = find(bucket, key);

    bucket->forgotten++;
    if (*at != NULL)
        drop(cache, at);
}

void cs_history_forget(struct cs_core *core, const char *sid, const char *cid)
{
    pthread_mutex_lock(&core->cache->mutex);
    forget_key(core->cache, sid);
    forget_key(core->cache, cid);
    pthread_mutex_unlock(&core->cache->mutex);
}

void cs_history_forget_all(struct cs_core *core)
{
    struct cs_history_cache *cache = core->cache;
    unsigned i;

    pthread_mutex_lock(&cache->mutex);
    for (i = 0; i < BUCKETS; i++)
        cache->buckets[i].forgotten++;
    while (cache->ring.newer != &cache->ring)
        drop_oldest(cache);
    pthread_mutex_unlock(&cache->mutex);
}

void cs_history_cache_free(struct cs_history_cache *cache)
{
    if (cache == NULL)
        return;
    while (cache->ring.newer != &cache->ring)
        drop_oldest(cache);
    pthread_mutex_destroy(&cache->mutex);
    free(cache);
}

/* The cached history with a reference, or NULL; *out_forgotten is remembered for insert(). */
static struct shared *cached(struct cs_core *core, const char *identifier,
                             unsigned long *out_forgotten)
{
    struct cs_history_cache *cache = core->cache;
    struct bucket *bucket = bucket_of(cache, identifier);
    struct shared *history = NULL;
    struct node *node;

    pthread_mutex_lock(&cache->mutex);
    *out_forgotten = bucket->forgotten;
    node = *find(bucket, identifier);
    if (node != NULL) {
        history = node->history;
        atomic_fetch_add(&history->refs, 1);
        unlink_node(node);
        link_newest(cache, node);
    }
    pthread_mutex_unlock(&cache->mutex);
    return history;
}

/* Keep @history under @identifier, unless something was written since @forgotten was read. Failing
 * to keep is no error. */
static void insert(struct cs_core *core, const char *identifier, unsigned long forgotten,
                   struct shared *history)
{
    struct cs_history_cache *cache = core->cache;
    struct bucket *bucket = bucket_of(cache, identifier);
    struct node *node = calloc(1, sizeof *node), **at;

    if (node == NULL || strlen(identifier) >= sizeof node->key) {
        free(node);
        return;
    }
    memcpy(node->key, identifier, strlen(identifier) + 1);
    node->history = history;
    pthread_mutex_lock(&cache->mutex);
    at = find(bucket, identifier);
    if (cost(history) <= cache->max / 4 && bucket->forgotten == forgotten && *at == NULL) {
        *at = node;
        atomic_fetch_add(&history->refs, 1);
        link_newest(cache, node);
        cache->bytes += cost(history);
        while (cache->bytes > cache->max)
            drop_oldest(cache);
        node = NULL;
    }
    pthread_mutex_unlock(&cache->mutex);
    free(node);
}

struct page {
    unsigned limit;
    int64_t before;
};

/* What was rendered, in no more memory than it needs: it may stay for long. */
static void keep_text(struct shared *history, struct cs_buf *text)
{
    char *fitting = realloc(text->data, text->len + CS_HISTORY_AFTER);

    history->text = fitting != NULL ? fitting : text->data;
    history->view.messages = history->text + CS_HISTORY_BEFORE;
    history->view.len = text->len - CS_HISTORY_BEFORE;
    cs_buf_init(text, HISTORY_MAX);
}

/* Render from the store. */
static enum cs_status render(struct cs_core *core, struct cs_db *db, const char *identifier,
                             struct page page, struct shared *history, struct cs_err *err)
{
    struct cs_session session;
    struct cs_buf text;
    enum cs_status rc = cs_session_find_live(core, db, identifier, &session, err);

    if (rc != CS_OK)
        return rc;
    cs_buf_init(&text, HISTORY_MAX);
    if (cs_buf_reserve(&text, CS_HISTORY_BEFORE + FIRST_CAP) != NULL)
        text.len = CS_HISTORY_BEFORE;
    rc = cs_message_history(db, session.id, page.limit, page.before, &text, &history->view.count,
                            &history->view.before, err);
    (void)cs_buf_reserve(&text, CS_HISTORY_AFTER);
    if (rc == CS_OK)
        rc = cs_buf_check(&text, err);
    if (rc == CS_OK) {
        memcpy(history->view.sid, session.sid, CS_UUID_MAX);
        memcpy(history->view.cid, session.cid, CS_UUID_MAX);
        history->view.total = session.message_count;
        history->last_used_at = session.last_used_at;
        history->expires_at = session.expires_at;
        keep_text(history, &text);
    }
    cs_buf_fini(&text);
    cs_session_fini(&session);
    return rc;
}

static bool still_live(struct cs_core *core, const struct shared *history)
{
    return !cs_expired(core, history->last_used_at, history->expires_at) ||
           cs_registry_busy(core, history->view.sid);
}

/* Render anew; *out_history has one reference. */
static enum cs_status load(struct cs_core *core, const char *identifier, unsigned limit,
                           int64_t before, struct shared **out_history, struct cs_err *err)
{
    struct shared *history = calloc(1, sizeof *history);
    struct cs_db *db = NULL;
    enum cs_status rc;

    if (history == NULL)
        return cs_err_nomem(err);
    atomic_init(&history->refs, 1);
    rc = cs_store_read(core->store, &db, err);
    if (rc == CS_OK)
        rc = render(core, db, identifier, (struct page){limit, before}, history, err);
    cs_store_done(core->store, db);
    if (rc != CS_OK) {
        cs_history_release(&history->view);
        return rc;
    }
    *out_history = history;
    return CS_OK;
}

static enum cs_status read_history(struct cs_core *core, const char *identifier, unsigned limit,
                                   int64_t before, const struct cs_history **out_history,
                                   struct cs_err *err)
{
    bool whole = limit == 0 && before == 0;
    unsigned long forgotten = 0;
    struct shared *kept = whole ? cached(core, identifier, &forgotten) : NULL;
    struct shared *fresh = NULL;
    enum cs_status rc;

    if (kept != NULL && !still_live(core, kept)) {
        cs_history_release(&kept->view);
        return cs_session_missing(identifier, err);
    }
    if (kept != NULL) {
        *out_history = &kept->view;
        return CS_OK;
    }
    rc = load(core, identifier, limit, before, &fresh, err);
    if (fresh == NULL)
        return rc;
    if (whole)
        insert(core, identifier, forgotten, fresh);
    *out_history = &fresh->view;
    return CS_OK;
}

enum cs_status cs_core_history(struct cs_core *core, const char *identifier, unsigned limit,
                               int64_t before, const struct cs_history **out_history,
                               struct cs_err *err)
{
    struct cs_err why = {0};
    bool stale;
    enum cs_status rc = read_history(core, identifier, limit, before, out_history, &why);

    if (rc == CS_NOT_FOUND && core->mirror != NULL) { /* another host may know it */
        cs_err_clear(&why);
        cs_core_refresh(core, identifier, &stale);
        rc = read_history(core, identifier, limit, before, out_history, &why);
    }
    return rc == CS_OK ? rc : cs_err_set(err, why.status, why.code, "%s", why.msg);
}
