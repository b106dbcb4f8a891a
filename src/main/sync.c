/* main: the verb `sync`: let the running daemon exchange everything with Redis now. */
#include <stdio.h>

#include "ask.h"
#include "datadir.h"
#include "verbs.h"

#define WAIT_MS 30000

static const char *text_of(const struct cs_json *object, const char *key)
{
    const char *text = cs_json_get_string(object, key);

    return text != NULL ? text : "never";
}

static long long number_of(const struct cs_json *object, const char *key)
{
    return (long long)cs_json_int(cs_json_get(object, key), 0);
}

static void print_state(const struct cs_json *sync)
{
    const struct cs_json *hosts = cs_json_get(sync, "hosts");
    const struct cs_json *aside = cs_json_get(sync, "quarantined");
    const char *error = cs_json_get_string(sync, "error");
    size_t i;

    printf("redis      %s since %s\n", text_of(sync, "state"), text_of(sync, "since"));
    if (error != NULL)
        printf("why        %s\n", error);
    printf("pending    %lld messages of %lld sessions\n", number_of(sync, "pendingMessages"),
           number_of(sync, "pendingSessions"));
    printf("last push  %s\n", text_of(sync, "lastPush"));
    printf("last pull  %s\n", text_of(sync, "lastPull"));
    printf("sent       %lld bytes in %lld commands\n", number_of(sync, "bytesSent"),
           number_of(sync, "commands"));
    for (i = 0; i < cs_json_size(hosts); i++)
        printf("host       %s, last seen %s\n", text_of(cs_json_at(hosts, i), "name"),
               text_of(cs_json_at(hosts, i), "lastSeen"));
    for (i = 0; i < cs_json_size(aside); i++)
        printf("set aside  %s: %s\n", text_of(cs_json_at(aside, i), "sessionId"),
               text_of(cs_json_at(aside, i), "reason"));
}

static int report(const struct cs_json *answer)
{
    const char *error = cs_json_get_string(answer, "error");

    if (!cs_json_bool(cs_json_get(answer, "success"), false)) {
        fprintf(stderr, "codex-sessiond: %s\n", error != NULL ? error : "the daemon refused");
        return 1;
    }
    print_state(cs_json_get(answer, "sync"));
    if (cs_json_bool(cs_json_get(answer, "done"), false))
        return 0;
    fputs("codex-sessiond: it takes longer and goes on in the daemon\n", stderr);
    return 1;
}

int cs_verb_sync(const struct cs_verb_input *input)
{
    struct cs_ask ask = {.method = "POST", .path = "/api/codex/sync", .wait_ms = WAIT_MS + 5000};
    struct cs_datadir_owner owner;
    struct cs_json *answer = NULL;
    struct cs_err err = {0};
    char body[32];
    int status;

    if (cs_datadir_owner(input->config->data_dir, &owner, &err) != CS_OK)
        return cs_verb_fail(&err);
    if (owner.port == 0) {
        fputs("codex-sessiond: no daemon serves this data folder\n", stderr);
        return 1;
    }
    ask.port = owner.port;
    snprintf(body, sizeof body, "{\"waitMs\":%d}", WAIT_MS);
    ask.body = body;
    if (cs_ask(&ask, &answer, &err) != CS_OK)
        return cs_verb_fail(&err);
    status = report(answer);
    cs_json_free(answer);
    return status;
}
