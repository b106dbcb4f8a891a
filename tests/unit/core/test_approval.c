/* What Codex asks is offered, answered once, and never beyond what the operator allows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cs/base/json.h"
#include "cs/core/events.h"
#include "approval.h"
#include "core_fixture.h"

#define RIVALS  8
#define COMMAND "{\"command\":\"make\"}"

/* ---- fixture ---- */

struct asking {
    struct fixture on;
    struct cs_feed *feed;
    char tid[CS_UUID_MAX], sid[CS_UUID_MAX]; /* of the last turn */
    char id[32];                             /* of the last approval */
    char data_of_event[2048];                /* of the last event */
};

static void reload(struct asking *f, const char *flag)
{
    struct cs_config fresh = {0};

    load_config(&f->on, flag, &fresh);
    assert_int_equal(cs_core_reload(f->on.core, &fresh, NULL, NULL), CS_OK);
    cs_config_fini(&fresh);
}

static int setup(void **state)
{
    struct asking *f = calloc(1, sizeof *f);

    assert_non_null(f);
    fixture_open(&f->on, "--sandbox-ceiling=danger-full-access");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct asking *f = *state;

    cs_feed_close(f->feed);
    fixture_close(&f->on);
    free(f);
    return 0;
}

static struct cs_turn_request ask(const char *prompt)
{
    return (struct cs_turn_request){.prompt = prompt,
                                    .prompt_len = strlen(prompt),
                                    .ttl_seconds = -1,
                                    .timeout_ms = 60000,
                                    .approval = "on-request"};
}

/* Begin a turn in which Codex asks @count times, and listen to it. */
static void begin(struct asking *f, const struct cs_turn_request *request, int count,
                  const char *kind, const char *text)
{
    struct cs_feed_filter filter = {.turn = f->tid, .after = -1};
    struct cs_turn *turn = NULL;
    struct cs_err err = {0};

    pthread_mutex_lock(&f->on.engine.mutex);
    f->on.engine.script = ASK;
    f->on.engine.asks = count;
    f->on.engine.ask_kind = kind;
    f->on.engine.ask_text = text;
    f->on.engine.answered = 0;
    f->on.engine.answers[0] = '\0';
    pthread_mutex_unlock(&f->on.engine.mutex);
    if (cs_turn_begin(f->on.core, request, &turn, f->tid, &err) != CS_OK)
        fail_msg("%s", err.msg);
    snprintf(f->sid, sizeof f->sid, "%s", cs_turn_sid(turn));
    cs_feed_close(f->feed);
    assert_int_equal(cs_feed_open(f->on.core, &filter, &f->feed, &err), CS_OK);
    assert_int_equal(cs_turn_detach(turn, &err), CS_OK);
}

/* The next event but turn.started: its name; its data and approval are kept. */
static const char *next_event(struct asking *f)
{
    struct cs_event event;
    struct cs_json *json = NULL;
    const char *id;

    do {
        if (cs_feed_next(f->feed, SOON, &event, NULL) != CS_OK)
            fail_msg("no event");
    } while (strcmp(event.name, "turn.started") == 0);
    snprintf(f->data_of_event, sizeof f->data_of_event, "%s", event.data);
    assert_int_equal(cs_json_parse(event.data, event.len, event.len, &json, NULL), CS_OK);
    assert_string_equal(cs_json_get_string(json, "turnId"), f->tid);
    id = cs_json_get_string(json, "approvalId");
    if (id != NULL)
        snprintf(f->id, sizeof f->id, "%s", id);
    cs_json_free(json);
    return event.name;
}

static void expect_event(struct asking *f, const char *name, const char *part)
{
    assert_string_equal(next_event(f), name);
    if (strstr(f->data_of_event, part) == NULL)
        fail_msg("no %s in %s", part, f->data_of_event);
}

static void expect_answer(struct asking *f, const char *id, bool approve, enum cs_status status,
                          const char *code)
{
    struct cs_err err = {0};

    assert_int_equal(cs_turn_approve(f->on.core, f->tid, id, approve, "rest", &err), status);
    if (code != NULL)
        assert_string_equal(err.code, code);
}

/* What is open in the turn, now or at its end; for free(). */
static char *open_ones(struct asking *f, bool wait)
{
    struct cs_turn_view view;
    char *list;

    assert_int_equal(cs_turn_view(f->on.core, f->tid, wait ? SOON : 0, &view, NULL), CS_OK);
    list = view.approvals;
    view.approvals = NULL;
    cs_turn_view_fini(&view);
    return list;
}

static char *patch_of(const struct asking *f, const char *name, const char *more)
{
    static char text[512];

    snprintf(text, sizeof text,
             "{\"changes\":[{\"path\":\"%s/in.txt\",\"kind\":{\"type\":\"add\"}},"
             "{\"path\":\"%s/%s\",\"kind\":{\"type\":\"add\"}}]%s}",
             f->on.dir, f->on.dir, name, more);
    return text;
}

/* ---- tests ---- */

static void each_question_is_told_and_answered_once(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    struct cs_err err = {0};
    char first[32], *list;

    begin(f, &request, 2, "command", COMMAND);
    expect_event(f, "approval.requested",
                 "\"approvalId\":\"1\",\"kind\":\"command\",\"request\":" COMMAND
                 ",\"expiresAt\":\"20");
    memcpy(first, f->id, sizeof first);
    expect_event(f, "approval.requested", "\"approvalId\":\"2\"");
    list = open_ones(f, false);
    assert_non_null(
        strstr(list, "[{\"approvalId\":\"1\",\"kind\":\"command\",\"request\":" COMMAND));
    assert_non_null(strstr(list, ",{\"approvalId\":\"2\""));
    free(list);

    expect_answer(f, first, true, CS_OK, NULL);
    expect_event(f, "approval.resolved",
                 "\"approvalId\":\"1\",\"decision\":\"approve\",\"by\":\"rest\"}");
    expect_answer(f, first, false, CS_CONFLICT, "approval_answered");
    expect_answer(f, "3", true, CS_NOT_FOUND, "approval_not_found");
    expect_answer(f, "", true, CS_NOT_FOUND, "approval_not_found");
    assert_int_equal(cs_turn_approve(f->on.core, f->sid, first, true, "rest", &err), CS_NOT_FOUND);
    assert_string_equal(err.code, "turn_not_found");
    list = open_ones(f, false);
    assert_null(strstr(list, "\"approvalId\":\"1\""));
    free(list);

    expect_answer(f, "2", false, CS_OK, NULL);
    expect_event(f, "approval.resolved", "\"decision\":\"decline\",\"by\":\"rest\"}");
    expect_event(f, "turn.completed", "\"response\":\"1+2-\"");
    assert_null(open_ones(f, true));
    expect_answer(f, "2", true, CS_NOT_FOUND, "approval_not_found");
}

static void a_long_question_is_whole_in_the_turn_alone(void **state)
{
    static char text[100000];
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    char *list;

    memset(text, 'x', sizeof text - 1);
    memcpy(text, "{\"command\":\"", strlen("{\"command\":\""));
    memcpy(text + sizeof text - 3, "\"}", 2);
    begin(f, &request, 1, "command", text);
    expect_event(f, "approval.requested", "\"request\":{\"truncated\":true},\"expiresAt\"");
    list = open_ones(f, false);
    assert_non_null(strstr(list, text));
    free(list);
    expect_answer(f, "1", false, CS_OK, NULL);
}

static void a_question_without_an_answer_is_declined_in_time(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    int64_t start = cs_mono_ms();

    request.sandbox = "read-only";
    reload(f, "--approval-timeout-ms=1000");
    begin(f, &request, 2, "patch", patch_of(f, "b.txt", ""));
    expect_event(f, "approval.requested", "\"approvalId\":\"1\"");
    expect_event(f, "approval.requested", "\"approvalId\":\"2\"");
    expect_event(f, "approval.resolved", "\"1\",\"decision\":\"decline\",\"by\":\"timeout\"}");
    assert_in_range(cs_mono_ms() - start, 1000, 8000);
    expect_event(f, "approval.resolved", "\"2\",\"decision\":\"decline\",\"by\":\"timeout\"}");
    expect_event(f, "turn.completed", "\"response\":\"1-2-\"");
}

/* Nothing happens in the turn for @ms. */
static void expect_silence(struct asking *f, int64_t ms)
{
    struct cs_event event;

    assert_int_equal(cs_feed_next(f->feed, cs_mono_ms() + ms, &event, NULL), CS_TIMEOUT);
}

static void who_is_asked_may_take_longer_than_the_turn(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");

    request.timeout_ms = 1000;
    begin(f, &request, 2, "command", COMMAND);
    expect_event(f, "approval.requested", "\"approvalId\":\"1\"");
    expect_event(f, "approval.requested", "\"approvalId\":\"2\"");
    expect_answer(f, "1", true, CS_OK, NULL); /* the other one goes on holding the clock */
    expect_event(f, "approval.resolved", "\"approvalId\":\"1\"");
    expect_silence(f, 1500);
    expect_answer(f, "2", true, CS_OK, NULL);
    expect_event(f, "approval.resolved", "\"by\":\"rest\"}");
    expect_event(f, "turn.completed", "\"response\":\"1+2+\"");
}

static void after_the_answer_the_time_goes_on(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    int64_t answered;

    request.timeout_ms = 2000;
    begin(f, &request, 1, "command", COMMAND);
    pthread_mutex_lock(&f->on.engine.mutex);
    f->on.engine.answered = -1; /* Codex says nothing more */
    pthread_mutex_unlock(&f->on.engine.mutex);
    expect_event(f, "approval.requested", "\"approvalId\":\"1\"");
    expect_silence(f, 500);
    expect_answer(f, "1", true, CS_OK, NULL);
    answered = cs_mono_ms();
    expect_event(f, "approval.resolved", "\"by\":\"rest\"}");
    expect_event(f, "turn.failed", "\"execution_timeout\"");
    assert_in_range(cs_mono_ms() - answered, 1000, 8000); /* what was left, not all anew */
}

static void a_turn_ends_with_what_is_open_where_every_turn_does(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    struct cs_config fresh = {0};

    load_config(&f->on, "--sandbox-ceiling=danger-full-access", &fresh);
    fresh.turn_timeout_max_ms = 1500;
    assert_int_equal(cs_core_reload(f->on.core, &fresh, NULL, NULL), CS_OK);
    cs_config_fini(&fresh);
    request.timeout_ms = 1000;
    begin(f, &request, 1, "command", COMMAND);
    expect_event(f, "approval.requested", "\"approvalId\":\"1\"");
    expect_silence(f, 1200);
    expect_event(f, "approval.resolved", "\"decision\":\"decline\",\"by\":\"timeout\"}");
    expect_event(f, "turn.failed", "\"execution_timeout\"");
}

/* Wait for the turn until it ends or asks; whether it still runs. *out_asked is for free(). */
static bool await(struct asking *f, char **out_asked)
{
    struct cs_turn_view view;
    bool runs;

    assert_int_equal(cs_turn_await(f->on.core, f->tid, SOON, &view, NULL), CS_OK);
    runs = view.row.status == CS_TURN_RUNNING;
    *out_asked = view.approvals;
    view.approvals = NULL;
    cs_turn_view_fini(&view);
    return runs;
}

static void who_waits_for_a_turn_hears_what_it_asks(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    int64_t start = cs_mono_ms();
    char *asked;

    begin(f, &request, 1, "command", COMMAND);
    assert_true(await(f, &asked));
    assert_non_null(strstr(asked, "\"approvalId\":\"1\""));
    free(asked);
    assert_in_range(cs_mono_ms() - start, 0, 8000);
    start = cs_mono_ms();
    while (cs_mono_ms() == start)
        continue;
    start = cs_mono_ms(); /* who knows it already does not go round in circles */
    assert_true(await(f, &asked));
    free(asked);
    assert_in_range(cs_mono_ms() - start, 1000, 8000);

    expect_answer(f, "1", true, CS_OK, NULL);
    assert_false(await(f, &asked));
    assert_null(asked);
}

static int64_t news_of(struct cs_turn *turn, int64_t since)
{
    int64_t news;

    pthread_mutex_lock(&turn->core->mutex);
    news = cs_approval_news(turn, since);
    pthread_mutex_unlock(&turn->core->mutex);
    return news;
}

static void what_is_asked_while_somebody_waits_is_news(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    int64_t before = cs_mono_ms(), during, after, answered;
    struct cs_turn *turn;
    char *asked;

    begin(f, &request, 1, "command", COMMAND);
    assert_true(await(f, &asked));
    free(asked);
    turn = cs_registry_by_tid(f->on.core, f->tid);
    assert_non_null(turn);
    during = news_of(turn, before);
    after = news_of(turn, before + 60000);
    expect_answer(f, "1", true, CS_OK, NULL);
    answered = news_of(turn, before);
    cs_turn_unref(turn);
    assert_int_equal(during, before);
    assert_int_equal(after, before + 61000);
    assert_int_equal(answered, CS_NEVER);
}

/* How often a feed opened now with @filter is told of approval @id of the last turn, before that is
 * resolved; it is answered here. */
static int times_told(struct asking *f, const struct cs_feed_filter *filter, const char *id)
{
    char part[64];
    struct cs_feed *feed = NULL;
    struct cs_event event;
    int told = 0;

    snprintf(part, sizeof part, "\"approvalId\":\"%s\"", id);
    assert_int_equal(cs_feed_open(f->on.core, filter, &feed, NULL), CS_OK);
    expect_answer(f, id, true, CS_OK, NULL);
    while (cs_feed_next(feed, SOON, &event, NULL) == CS_OK &&
           (strcmp(event.name, "approval.resolved") != 0 || strstr(event.data, part) == NULL))
        told += strcmp(event.name, "approval.requested") == 0 && strstr(event.data, part) != NULL &&
                strstr(event.data, f->tid) != NULL;
    cs_feed_close(feed);
    return told;
}

static void who_begins_to_listen_is_told_what_is_open(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    struct cs_feed_filter filter = {.after = -1};
    struct cs_event event;
    struct cs_feed *feed;

    begin(f, &request, 4, "command", COMMAND);
    while (strstr(f->data_of_event, "\"approvalId\":\"4\"") == NULL)
        expect_event(f, "approval.requested", COMMAND);
    filter.user = "nobody";
    assert_int_equal(cs_feed_open(f->on.core, &filter, &feed, NULL), CS_OK);
    assert_int_equal(cs_feed_next(feed, cs_mono_ms() + 20, &event, NULL), CS_TIMEOUT);
    cs_feed_close(feed);
    filter.user = NULL;
    assert_int_equal(times_told(f, &filter, "1"), 1);
    filter.identifier = f->sid;
    assert_int_equal(times_told(f, &filter, "2"), 1);
    filter.turn = f->tid;
    assert_int_equal(times_told(f, &filter, "3"), 1);

    /* what was answered is not told, and what is open after what is in the log */
    filter = (struct cs_feed_filter){.after = 0};
    cs_feed_close(f->feed);
    assert_int_equal(cs_feed_open(f->on.core, &filter, &f->feed, NULL), CS_OK);
    assert_int_equal(cs_feed_next(f->feed, SOON, &event, NULL), CS_OK);
    assert_string_equal(event.name, "turn.started");
    expect_event(f, "approval.requested", "\"approvalId\":\"4\"");
    expect_answer(f, "4", true, CS_OK, NULL);
    expect_event(f, "approval.resolved", "\"approvalId\":\"4\"");
    expect_event(f, "turn.completed", "\"response\":\"1+2+3+4+\"");
}

static void whenever_a_feed_is_opened_it_is_told_once(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    struct cs_feed_filter filter = {.after = -1};

    for (int i = 0; i < 100; i++) {
        begin(f, &request, 1, "command", COMMAND);
        for (int pause = 0; pause < i * 20; pause++) /* let Codex ask sooner or later */
            (void)cs_mono_ms();
        filter.turn = f->tid;
        cs_feed_close(f->feed);
        assert_int_equal(cs_feed_open(f->on.core, &filter, &f->feed, NULL), CS_OK);
        expect_event(f, "approval.requested", COMMAND);
        expect_answer(f, "1", true, CS_OK, NULL);
        expect_event(f, "approval.resolved", "\"approvalId\":\"1\"");
        expect_event(f, "turn.completed", "\"response\":\"1+\"");
    }
}

static void what_is_open_never_fills_a_new_feed(void **state)
{
    static char text[60000];
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    struct cs_feed_filter filter = {.after = -1};
    int64_t deadline = SOON;
    char *asked = NULL;

    memset(text, 'x', sizeof text - 1);
    memcpy(text, "{\"command\":\"", strlen("{\"command\":\""));
    memcpy(text + sizeof text - 3, "\"}", 2);
    begin(f, &request, 8, "command", text);
    do { /* one after the other */
        free(asked);
        assert_true(cs_mono_ms() < deadline);
        asked = open_ones(f, false);
    } while (asked == NULL || strstr(asked, "\"approvalId\":\"8\"") == NULL);
    free(asked);
    cs_feed_close(f->feed);
    filter.turn = f->tid;
    assert_int_equal(cs_feed_open(f->on.core, &filter, &f->feed, NULL), CS_OK);
    for (int i = 0; i < 8; i++)
        expect_event(f, "approval.requested", i < 2 ? "xxx" : "{\"truncated\":true}");
    for (char id[] = "1"; id[0] <= '8'; id[0]++) {
        expect_answer(f, id, true, CS_OK, NULL);
        expect_event(f, "approval.resolved", "approve");
    }
    expect_event(f, "turn.completed", "1+2+3+4+5+6+7+8+");
}

static void a_cancel_closes_what_is_open(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    char tid[CS_UUID_MAX];

    begin(f, &request, 1, "command", COMMAND);
    expect_event(f, "approval.requested", "\"approvalId\":\"1\"");
    assert_int_equal(cs_session_cancel(f->on.core, f->sid, tid, NULL), CS_OK);
    expect_event(f, "approval.resolved", "\"decision\":\"decline\",\"by\":\"cancel\"}");
    expect_event(f, "turn.failed", "\"turn_cancelled\"");
}

static void a_stop_of_the_daemon_closes_what_is_open(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");

    begin(f, &request, 1, "command", COMMAND);
    expect_event(f, "approval.requested", "\"approvalId\":\"1\"");
    assert_true(cs_core_drain(f->on.core, SOON));
    expect_event(f, "approval.resolved", "\"decision\":\"decline\",\"by\":\"shutdown\"}");
    expect_event(f, "turn.failed", "\"turn_interrupted\"");
}

/* What becomes of one question in a turn with @sandbox: whether it was offered. */
static bool offered(struct asking *f, const char *sandbox, const char *kind, const char *text)
{
    struct cs_turn_request request = ask("do it");
    bool is_offered;

    request.sandbox = sandbox;
    begin(f, &request, 1, kind, text);
    is_offered = strcmp(next_event(f), "approval.requested") == 0;
    if (is_offered)
        expect_answer(f, f->id, false, CS_OK, NULL);
    else
        assert_non_null(strstr(f->data_of_event, "\"decision\":\"decline\",\"by\":\"ceiling\"}"));
    while (strcmp(next_event(f), "turn.completed") != 0)
        continue;
    assert_non_null(strstr(f->data_of_event, "\"response\":\"1-\""));
    return is_offered;
}

static void nothing_above_the_ceiling_is_offered(void **state)
{
    struct asking *f = *state;
    char moved[256];

    assert_true(offered(f, "read-only", "command", COMMAND));
    assert_true(offered(f, "danger-full-access", "permission", "{}"));
    assert_true(offered(f, "workspace-write", "patch", patch_of(f, "../out.txt", "")));

    reload(f, "--sandbox-ceiling=workspace-write");
    assert_false(offered(f, "read-only", "command", COMMAND));
    assert_false(offered(f, "workspace-write", "command", COMMAND));
    assert_false(offered(f, "read-only", "permission", "{}"));
    assert_false(offered(f, "read-only", "something", "{}"));
    assert_true(offered(f, "read-only", "patch", patch_of(f, "b.txt", "")));
    assert_false(offered(f, "workspace-write", "patch", patch_of(f, "b.txt", "")));
    assert_false(offered(f, "read-only", "patch", patch_of(f, "../b.txt", "")));
    assert_false(offered(f, "read-only", "patch", patch_of(f, "b.txt", ",\"grantRoot\":\"/\"")));
    assert_false(offered(f, "read-only", "patch", "{\"changes\":[]}"));
    assert_false(offered(f, "read-only", "patch", "{\"reason\":\"no changes known\"}"));
    assert_false(offered(f, "read-only", "patch", "{\"changes\":[{}]}"));
    snprintf(
        moved, sizeof moved,
        "{\"changes\":[{\"path\":\"%s/a\",\"kind\":{\"type\":\"update\",\"move_path\":null}}]}",
        f->on.dir);
    assert_true(offered(f, "read-only", "patch", moved));
    snprintf(
        moved, sizeof moved,
        "{\"changes\":[{\"path\":\"%s/a\",\"kind\":{\"type\":\"update\",\"move_path\":\"/b\"}}]}",
        f->on.dir);
    assert_false(offered(f, "read-only", "patch", moved));

    reload(f, "--sandbox-ceiling=read-only");
    assert_false(offered(f, "read-only", "command", COMMAND));
    assert_false(offered(f, "read-only", "patch", patch_of(f, "b.txt", "")));
}

static void a_lowered_ceiling_holds_for_what_is_open(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");

    begin(f, &request, 1, "command", COMMAND);
    expect_event(f, "approval.requested", "\"approvalId\":\"1\"");
    reload(f, "--sandbox-ceiling=workspace-write");
    expect_answer(f, "1", true, CS_DENIED, "sandbox_above_ceiling");
    expect_answer(f, "1", false, CS_OK, NULL);
    expect_event(f, "approval.resolved", "\"decision\":\"decline\",\"by\":\"rest\"}");
    expect_event(f, "turn.completed", "\"response\":\"1-\"");
}

static void what_codex_does_not_ask_any_more_cannot_be_answered(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");

    f->on.engine.ask_settled = true;
    begin(f, &request, 1, "command", COMMAND);
    expect_event(f, "approval.requested", "\"approvalId\":\"1\"");
    expect_answer(f, "1", true, CS_CONFLICT, "approval_answered");
    expect_event(f, "approval.resolved", "\"decision\":\"decline\",\"by\":\"codex\"}");
    expect_event(f, "turn.completed", "\"response\":\"\"");
}

struct rival {
    pthread_t thread;
    struct asking *f;
    bool approve;
    enum cs_status status;
};

static void *answer_too(void *arg)
{
    struct rival *rival = arg;

    rival->status =
        cs_turn_approve(rival->f->on.core, rival->f->tid, "1", rival->approve, "rest", NULL);
    return NULL;
}

static void of_many_answers_one_holds(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");
    struct rival rivals[RIVALS];
    int won = -1;

    begin(f, &request, 2, "command", COMMAND); /* the second keeps the turn going */
    expect_event(f, "approval.requested", "\"approvalId\":\"1\"");
    for (int i = 0; i < RIVALS; i++) {
        rivals[i] = (struct rival){.f = f, .approve = i % 2 == 0};
        assert_int_equal(pthread_create(&rivals[i].thread, NULL, answer_too, &rivals[i]), 0);
    }
    for (int i = 0; i < RIVALS; i++) {
        pthread_join(rivals[i].thread, NULL);
        assert_true(rivals[i].status == CS_OK || rivals[i].status == CS_CONFLICT);
        if (rivals[i].status == CS_OK) {
            assert_int_equal(won, -1);
            won = i;
        }
    }
    assert_true(won >= 0);
    while (strstr(f->data_of_event, "\"approvalId\":\"2\"") == NULL)
        (void)next_event(f);
    expect_answer(f, "2", true, CS_OK, NULL);
    while (strcmp(next_event(f), "turn.completed") != 0)
        continue;
    assert_non_null(strstr(f->data_of_event, rivals[won].approve ? "\"1+2+\"" : "\"1-2+\""));
}

/* Run a turn to its end: whether Codex was told that it may ask. */
static bool may_ask(struct asking *f, const char *identifier, const char *approval)
{
    struct cs_turn_request request = ask("say it");
    struct cs_turn *turn = NULL;
    struct cs_err err = {0};

    f->on.engine.script = ANSWER;
    request.approval = approval;
    request.continued = identifier != NULL;
    request.identifier = identifier;
    if (cs_turn_begin(f->on.core, &request, &turn, f->tid, &err) != CS_OK)
        fail_msg("%s", err.msg);
    snprintf(f->sid, sizeof f->sid, "%s", cs_turn_sid(turn));
    assert_int_equal(cs_turn_run(turn, &err), CS_OK);
    return f->on.engine.may_ask;
}

static void the_policy_is_the_sessions_and_for_a_turn_that_of_its_request(void **state)
{
    struct asking *f = *state;
    char sid[CS_UUID_MAX];

    assert_false(may_ask(f, NULL, NULL));
    assert_false(may_ask(f, f->sid, NULL));
    assert_true(may_ask(f, f->sid, "on-request"));
    assert_false(may_ask(f, f->sid, NULL));
    assert_true(may_ask(f, NULL, "on-request"));
    memcpy(sid, f->sid, sizeof sid);
    assert_true(may_ask(f, sid, NULL));
    assert_false(may_ask(f, sid, "never"));
    assert_true(may_ask(f, sid, NULL));
}

static void expect_refused(struct asking *f, const struct cs_turn_request *request,
                           const char *code)
{
    struct cs_turn *turn = NULL;
    struct cs_err err = {0};

    if (cs_turn_begin(f->on.core, request, &turn, f->tid, &err) == CS_OK) {
        assert_int_equal(cs_turn_run(turn, NULL), CS_OK);
        fail_msg("it was begun");
    }
    assert_int_equal(err.status, CS_INVALID);
    assert_string_equal(err.code, code);
}

static void bad_policies_are_refused(void **state)
{
    struct asking *f = *state;
    static const char *const words[] = {"", "always", "untrusted", "On-request"};

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        struct cs_turn_request request = ask("do it");

        request.approval = words[i];
        expect_refused(f, &request, "invalid_approval_policy");
    }
}

static void exec_cannot_ask(void **state)
{
    struct asking *f = *state;
    struct cs_turn_request request = ask("do it");

    f->on.engine.exec_only = true;
    expect_refused(f, &request, "approvals_unavailable");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(each_question_is_told_and_answered_once),
        CASE(a_long_question_is_whole_in_the_turn_alone),
        CASE(a_question_without_an_answer_is_declined_in_time),
        CASE(who_is_asked_may_take_longer_than_the_turn),
        CASE(after_the_answer_the_time_goes_on),
        CASE(a_turn_ends_with_what_is_open_where_every_turn_does),
        CASE(who_waits_for_a_turn_hears_what_it_asks),
        CASE(what_is_asked_while_somebody_waits_is_news),
        CASE(who_begins_to_listen_is_told_what_is_open),
        CASE(whenever_a_feed_is_opened_it_is_told_once),
        CASE(what_is_open_never_fills_a_new_feed),
        CASE(a_cancel_closes_what_is_open),
        CASE(a_stop_of_the_daemon_closes_what_is_open),
        CASE(nothing_above_the_ceiling_is_offered),
        CASE(a_lowered_ceiling_holds_for_what_is_open),
        CASE(what_codex_does_not_ask_any_more_cannot_be_answered),
        CASE(of_many_answers_one_holds),
        CASE(the_policy_is_the_sessions_and_for_a_turn_that_of_its_request),
        CASE(bad_policies_are_refused),
        CASE(exec_cannot_ask),
    };

    return cmocka_run_group_tests_name("approval", tests, NULL, NULL);
}
