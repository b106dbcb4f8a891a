/* A client of the plain format: GET, JSON.parse, edit, JSON.stringify, SET. It knows nothing of
 * versions, and writes over what others did meanwhile. */
#include <stdlib.h>
#include <string.h>

#include "cs/base/buf.h"
#include "cs/base/clock.h"
#include "sim.h"

/* What it read and has not written yet. */
static struct {
    int session;
    char *text; /* NULL: nothing */
} pending;

void plain_forget(void)
{
    free(pending.text);
    pending.text = NULL;
}

static bool has_room(int user)
{
    char key[64];
    struct cs_reply *reply;
    int64_t members;

    (void)snprintf(key, sizeof key, "user:sessions:%s", users[user]);
    reply = server_ask("SCARD", key, NULL, NULL);
    members = cs_reply_int(reply, 0);
    cs_reply_free(reply);
    return sim.limits[user] == 0 || members < sim.limits[user];
}

static void add_message(struct cs_buf *out, int session)
{
    char time[CS_ISO_MAX];

    cs_clock_iso(sim.now_us / 1000, time);
    cs_buf_addf(out, "{\"type\":\"user\",\"content\":\"#%d# plain\",\"timestamp\":\"%s\"}",
                fact_new(session, 0, true), time);
}

static char *new_text(int session)
{
    char sid[CS_UUID_MAX], time[CS_ISO_MAX];
    struct cs_buf text;

    cs_buf_init(&text, 65536);
    (void)session_name(session, sid);
    cs_clock_iso(sim.now_us / 1000, time);
    cs_buf_addf(&text,
                "{\"sessionId\":\"%s\",\"conversationId\":\"c%s\",\"createdAt\":\"%s\","
                "\"lastUsedAt\":\"%s\",\"prompt\":\"p\",\"userId\":\"%s\",\"messages\":[",
                sid, sid, time, time, users[session_user(session)]);
    add_message(&text, session);
    cs_buf_adds(&text, "],\"status\":\"active\"}");
    return cs_buf_take(&text, NULL);
}

/* The text with one more message, as JSON.stringify() would write it: without the blanks. */
static char *edited(const char *old, size_t len, int session)
{
    static const char close[] = "],\"";
    const char *end = NULL, *at = old;
    struct cs_buf text;

    while ((at = memmem(at, len - (size_t)(at - old), close, sizeof close - 1)) != NULL)
        end = at++;
    if (end == NULL || end[-1] == '[')
        return NULL;
    cs_buf_init(&text, 32 << 20);
    cs_buf_add(&text, old, (size_t)(end - old));
    cs_buf_addc(&text, ',');
    add_message(&text, session);
    for (at = end; at < old + len; at++)
        if (*at != ' ')
            cs_buf_addc(&text, *at);
    return cs_buf_take(&text, NULL);
}

static void put(int session, const char *text)
{
    char sid[CS_UUID_MAX], key[96], set[64];
    const char *user = users[session_user(session)];

    (void)session_name(session, sid);
    (void)snprintf(key, sizeof key, "codex:session:%s", sid);
    (void)snprintf(set, sizeof set, "user:sessions:%s", user);
    cs_reply_free(server_ask("SET", key, text, NULL));
    cs_reply_free(server_ask("EXPIRE", key, "3600", NULL));
    if (has_room(session_user(session))) { /* it minds the limit, too */
        cs_reply_free(server_ask("SADD", set, sid, NULL));
        cs_reply_free(server_ask("EXPIRE", set, "2592900", NULL));
    }
    (void)snprintf(key, sizeof key, "codex:conversation:c%s", sid);
    cs_reply_free(server_ask("SET", key, sid, NULL));
    cs_reply_free(server_ask("EXPIRE", key, "4500", NULL));
    sim.losses++; /* it may have written over others' */
    truth_plain(session, text);
    talk("a plain client writes %s", sid);
    count(COUNT_PLAIN);
}

static void edit(int session)
{
    char sid[CS_UUID_MAX], key[96];
    struct cs_reply *reply;
    const char *old;
    size_t len = 0;
    char *text = NULL;

    (void)session_name(session, sid);
    (void)snprintf(key, sizeof key, "codex:session:%s", sid);
    reply = server_ask("GET", key, NULL, NULL);
    old = cs_reply_string(reply, &len);
    if (old != NULL)
        text = edited(old, len, session);
    cs_reply_free(reply);
    if (text != NULL && pending.text == NULL && sim_chance(30)) {
        pending.session = session;
        pending.text = text;
        return;
    }
    if (text != NULL)
        put(session, text);
    free(text);
}

void plain_edit(void)
{
    int user = sim_below(USERS);

    if (sim.serial > 0 && sim_chance(70)) {
        edit(sim.aim >= 0 && sim_chance(60) ? sim.aim : sim_below(sim.serial));
    } else if (sim.serial < SESSIONS_MAX && has_room(user)) {
        int session = session_new(user, TTL_S);
        char *text = new_text(session);

        put(session, text);
        free(text);
    }
}

void plain_write_late(void)
{
    if (pending.text != NULL) {
        put(pending.session, pending.text);
        truth_rolled_back(); /* for those who took over what it brings again */
    }
    plain_forget();
}
