/* Who rings, however many are listened for. */
#include "server.h"

#include "cs/base/thread.h"
#include "mirror_priv.h"

#define USERS    2500 /* more than one read listens for */
#define HEARD_MS 15000

static struct server server;

/* A store that follows many users and has no session. */
struct store {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    char user[32]; /* whose log was read last, up to an entry */
};

static enum cs_status no_news(void *arg, int64_t after, struct cs_mirror_news_page *page,
                              struct cs_err *err)
{
    (void)arg;
    (void)err;
    page->count = 0;
    page->upto = after;
    return CS_OK;
}

static enum cs_status nothing(void *arg, const char *sid, struct cs_mirror_local *out_local,
                              cs_mirror_each each, void *each_arg, struct cs_err *err)
{
    (void)arg;
    (void)each;
    (void)each_arg;
    (void)err;
    *out_local = (struct cs_mirror_local){0};
    (void)snprintf(out_local->meta.sid, sizeof out_local->meta.sid, "%s", sid);
    (void)snprintf(out_local->meta.cid, sizeof out_local->meta.cid, "%s", sid);
    out_local->meta.user = strdup("");
    return out_local->meta.user != NULL ? CS_OK : CS_NO_MEM;
}

static enum cs_status apply(void *arg, const struct cs_mirror_change *changes, size_t count,
                            struct cs_err *err)
{
    struct store *store = arg;

    (void)err;
    pthread_mutex_lock(&store->mutex);
    for (size_t i = 0; i < count; i++)
        if (changes[i].kind == CS_CHANGE_CURSOR && changes[i].text[0] != '\0')
            (void)snprintf(store->user, sizeof store->user, "%s", changes[i].user);
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->mutex);
    return CS_OK;
}

static enum cs_status none_marked(void *arg, const char *after, bool aside, struct cs_id_page *page,
                                  struct cs_err *err)
{
    (void)arg;
    (void)after;
    (void)aside;
    (void)err;
    page->count = 0;
    return CS_OK;
}

static enum cs_status no_sessions(void *arg, const char *user, const char *after,
                                  struct cs_id_page *page, struct cs_err *err)
{
    (void)user;
    return none_marked(arg, after, false, page, err);
}

static enum cs_status many_users(void *arg,
                                 enum cs_status (*each)(void *each_arg, const char *user,
                                                        const char *cursor, struct cs_err *err),
                                 void *each_arg, struct cs_err *err)
{
    enum cs_status rc = CS_OK;

    (void)arg;
    for (int i = 0; i < USERS && rc == CS_OK; i++) {
        char user[32];

        (void)snprintf(user, sizeof user, "u%04d", i);
        rc = each(each_arg, user, "", err);
    }
    return rc;
}

static enum cs_status never_pushed(void *arg, int64_t *out_rowid, struct cs_err *err)
{
    (void)arg;
    (void)err;
    *out_rowid = 0;
    return CS_OK;
}

/* Something happens in the user's log: it is read soon. Returns how long that took. */
static int64_t ring(struct store *store, struct cs_redis *admin, const char *user)
{
    int64_t began = cs_mono_ms();
    struct cs_reply *reply = NULL;
    char key[64];
    bool heard;

    (void)snprintf(key, sizeof key, CS_KEY_LOG "%s", user);
    assert_int_equal(
        cs_redis_call(admin, soon(), &reply, NULL, "XADD", key, "*", "k", "evict", "s", "x", NULL),
        CS_OK);
    cs_reply_free(reply);
    pthread_mutex_lock(&store->mutex);
    while (strcmp(store->user, user) != 0 &&
           cs_cond_wait(&store->changed, &store->mutex, began + HEARD_MS))
        continue;
    heard = strcmp(store->user, user) == 0;
    pthread_mutex_unlock(&store->mutex);
    if (!heard)
        fail_msg("nobody hears of %s", user);
    return cs_mono_ms() - began;
}

static void every_one_of_many_users_is_heard(void **state)
{
    static const char *const users[] = {"u2499", "u0999", "u1700"};
    struct store store = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    struct cs_redis_options redis = {.endpoint = &server.endpoint};
    const struct cs_mirror_options options = {
        .redis = &redis,
        .port = {.arg = &store,
                 .news = no_news,
                 .load = nothing,
                 .apply = apply,
                 .marked = none_marked,
                 .sessions = no_sessions,
                 .archived = no_sessions,
                 .users = many_users,
                 .pushed = never_pushed},
        .host = "here",
    };
    struct cs_redis *admin = client_connect(&server.endpoint);
    struct cs_mirror_figures before, after;
    struct cs_mirror *mirror = NULL;

    (void)state;
    assert_int_equal(cs_cond_init(&store.changed, NULL), CS_OK);
    assert_int_equal(cs_mirror_new(&options, &mirror, NULL), CS_OK);
    assert_int_equal(cs_mirror_start(mirror, NULL), CS_OK);
    assert_int_equal(cs_mirror_sync(mirror, cs_mono_ms() + 60000, NULL), CS_OK);
    cs_mirror_figures(mirror, &before);
    for (size_t i = 0; i < sizeof users / sizeof *users; i++)
        print_message("%s is heard after %d ms\n", users[i], (int)ring(&store, admin, users[i]));
    cs_mirror_figures(mirror, &after);
    print_message("%d commands\n", (int)(after.commands - before.commands));
    assert_in_range(after.commands - before.commands, 1, 100);
    cs_mirror_stop(mirror, cs_mono_ms() + 2000);
    cs_mirror_free(mirror);
    cs_redis_free(admin);
    pthread_cond_destroy(&store.changed);
}

static int start(void **state)
{
    (void)state;
    server_start(&server);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    server_stop(&server);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_one_of_many_users_is_heard),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
