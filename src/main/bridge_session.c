/* main/bridge_session: what the client set up with the daemon, and setting it up again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bridge.h"
#include "cs/base/log.h"

static enum cs_status say_again(struct cs_bridge *bridge, enum cs_relay_kind kind, const char *text,
                                size_t len, struct cs_err *err)
{
    struct cs_line line;
    int code;
    enum cs_status rc = cs_line_read(text, len, NULL, &line, &code, err);

    return rc == CS_OK ? cs_relay_add(bridge, kind, &line, err) : rc;
}

static void forget(struct cs_bridge_kept *kept)
{
    free(kept->uri);
    free(kept->text);
    *kept = (struct cs_bridge_kept){0};
}

void cs_bridge_session_fini(struct cs_bridge_session *session)
{
    size_t i;

    for (i = 0; i < CS_KEPT_MAX; i++)
        forget(&session->kept[i]);
    free(session->initialize);
}

void cs_bridge_begun(struct cs_bridge *bridge, const struct cs_line *line, const char *id,
                     const char *version)
{
    struct cs_bridge_session *session = &bridge->session;
    char *text;

    if (version == NULL || strlen(version) >= sizeof session->version ||
        strspn(version, "0123456789-") != strlen(version))
        return;
    if (line != NULL) {
        text = strdup(line->text);
        if (text == NULL)
            return; /* then it cannot be begun again */
        cs_bridge_session_fini(session);
        memset(session->kept, 0, sizeof session->kept);
        session->initialize = text;
    }
    snprintf(session->id, sizeof session->id, "%s", id);
    snprintf(session->version, sizeof session->version, "%s", version);
    session->generation++;
}

/* The place of what is kept about @uri, or a free one; NULL: there is none. */
static struct cs_bridge_kept *place_of(struct cs_bridge_session *session, const char *uri)
{
    struct cs_bridge_kept *place = NULL;
    size_t i;

    for (i = CS_KEPT_MAX; i > 0; i--) {
        struct cs_bridge_kept *kept = &session->kept[i - 1];

        if (kept->uri == NULL)
            place = kept;
    }
    for (i = 0; i < CS_KEPT_MAX; i++)
        if (session->kept[i].uri != NULL && strcmp(session->kept[i].uri, uri) == 0)
            place = &session->kept[i];
    return place;
}

void cs_bridge_keep(struct cs_bridge *bridge, const struct cs_line *line)
{
    bool level = strcmp(line->method, "logging/setLevel") == 0;
    bool watch = strcmp(line->method, "resources/subscribe") == 0;
    bool unwatch = strcmp(line->method, "resources/unsubscribe") == 0;
    const char *uri = level ? "" : line->uri;
    struct cs_bridge_kept *place;

    if ((!level && !watch && !unwatch) || uri == NULL || line->revision[0] != '\0')
        return;
    place = place_of(&bridge->session, uri);
    if (place == NULL)
        return;
    forget(place);
    if (unwatch)
        return;
    place->uri = strdup(uri);
    place->text = strdup(line->text);
    if (place->uri == NULL || place->text == NULL)
        forget(place);
}

enum cs_status cs_bridge_renew(struct cs_bridge *bridge, unsigned generation, struct cs_err *err)
{
    struct cs_bridge_session *session = &bridge->session;
    enum cs_status rc;

    if (generation != session->generation || session->renewing)
        return CS_OK; /* it is under way, or done */
    if (session->initialize == NULL)
        return cs_err_set(err, CS_UNAVAILABLE, "session_lost",
                          "The daemon has forgotten the session");
    rc = say_again(bridge, CS_RELAY_RENEW, session->initialize, strlen(session->initialize), err);
    session->renewing = rc == CS_OK;
    return rc;
}

void cs_bridge_renewed(struct cs_bridge *bridge)
{
    static const char note[] = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}";
    struct cs_bridge_kept *kept = bridge->session.kept;
    struct cs_err err = {0};
    enum cs_status rc = say_again(bridge, CS_RELAY_RENEWED, note, sizeof note - 1, &err);
    size_t i;

    for (i = 0; i < CS_KEPT_MAX && rc == CS_OK; i++)
        if (kept[i].text != NULL)
            rc = say_again(bridge, CS_RELAY_RENEWED, kept[i].text, strlen(kept[i].text), &err);
    if (rc == CS_OK)
        cs_log(CS_LOG_INFO, "session_renewed", NULL);
    else
        cs_log_err("session_renewed_in_part", &err, NULL, NULL);
}
