/* The use cases of core, on a real store and a scripted engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core_fixture.h"

/* ---- fixture ---- */

static _Atomic int64_t fake_now; /* 0: the real clock; the sweeper reads it too */

static int64_t now_faked(void)
{
    return fake_now;
}

static int teardown(void **state)
{
    int rc = teardown_core(state);

    fake_now = 0;
    cs_clock_override(NULL);
    return rc;
}

static struct cs_turn_request ask(const char *prompt)
{
    return (struct cs_turn_request){
        .prompt = prompt, .prompt_len = strlen(prompt), .ttl_seconds = -1};
}

static struct cs_turn_request ask_again(const char *identifier, const char *prompt)
{
    struct cs_turn_request request = ask(prompt);

    request.continued = true;
    request.identifier = identifier;
    return request;
}

/* Run a turn to its end and read it back. */
static struct cs_turn_view run(struct fixture *f, const struct cs_turn_request *request)
{
    struct cs_turn *turn = NULL;
    struct cs_turn_view view;
    char tid[CS_UUID_MAX];
    struct cs_err err = {0};

    if (cs_turn_begin(f->core, request, &turn, tid, &err) != CS_OK)
        fail_msg("%s", err.msg);
    if (turn != NULL)
        assert_int_equal(cs_turn_run(turn, &err), CS_OK);
    assert_int_equal(cs_turn_view(f->core, tid, 0, &view, &err), CS_OK);
    return view;
}

static void expect_refused(struct fixture *f, const struct cs_turn_request *request,
                           enum cs_status status, const char *code)
{
    struct cs_turn *turn = NULL;
    char tid[CS_UUID_MAX];
    struct cs_err err = {0};
    int starts = f->engine.starts;

    assert_int_equal(cs_turn_begin(f->core, request, &turn, tid, &err), status);
    assert_string_equal(err.code, code);
    assert_null(turn);
    assert_int_equal(f->engine.starts, starts);
}

static void await_running(struct fixture *f, int count)
{
    pthread_mutex_lock(&f->engine.mutex);
    while (f->engine.running != count)
        assert_true(cs_cond_wait(&f->engine.changed, &f->engine.mutex, cs_mono_ms() + 5000));
    pthread_mutex_unlock(&f->engine.mutex);
}

/* Begin a turn that hangs, on a thread of its own. */
static void begin_hanging(struct fixture *f, const struct cs_turn_request *request,
                          char out_tid[CS_UUID_MAX])
{
    struct cs_turn *turn = NULL;

    f->engine.script = HANG;
    assert_int_equal(cs_turn_begin(f->core, request, &turn, out_tid, NULL), CS_OK);
    assert_int_equal(cs_turn_detach(turn, NULL), CS_OK);
    await_running(f, 1);
}

/* Restart with the wall clock at @now: a jump within one run would be taken for a wrong clock. */
static void restart_at(struct fixture *f, int64_t now)
{
    close_core(f);
    fake_now = now;
    cs_clock_override(now_faked);
    open_core(f);
}

/* ---- cases ---- */

static void a_turn_stores_prompt_and_answer(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("hello");
    struct cs_turn_view view = run(f, &request);
    const struct cs_history *history = NULL;

    assert_int_equal(view.row.status, CS_TURN_COMPLETED);
    assert_string_equal(view.response, "the answer");
    assert_string_equal(view.row.model, "gpt-5-codex");
    assert_int_equal(cs_core_history(f->core, view.cid, 0, 0, &history, NULL), CS_OK);
    assert_int_equal(history->count, 2);
    assert_non_null(strstr(history->messages, "\"content\":\"hello\""));
    assert_non_null(strstr(history->messages, "\"content\":\"the answer\""));
    cs_history_release(history);
    cs_turn_view_fini(&view);
}

static void the_next_turn_goes_on_with_the_thread(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request first = ask("one"), second;
    struct cs_turn_view a = run(f, &first), b;

    assert_string_equal(f->engine.thread_asked, "");
    second = ask_again(a.cid, "two");
    b = run(f, &second);
    assert_string_equal(f->engine.thread_asked, "thread-1");
    assert_string_equal(f->engine.orphan_asked, "");
    assert_string_equal(f->engine.seen, "user:one|codex:the answer|");
    cs_turn_view_fini(&a);
    cs_turn_view_fini(&b);
}

static void a_restart_keeps_the_conversation(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request first = ask("one"), second;
    struct cs_turn_view a = run(f, &first), b;

    close_core(f);
    open_core(f);
    second = ask_again(a.sid, "two");
    b = run(f, &second);
    assert_string_equal(f->engine.thread_asked, "thread-1");
    assert_string_equal(b.cid, a.cid);
    cs_turn_view_fini(&a);
    cs_turn_view_fini(&b);
}

static void a_failed_turn_is_reverted_by_the_next(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request first = ask("one"), retry;
    struct cs_turn_view a = run(f, &first), b, c;

    f->engine.script = FAIL;
    retry = ask_again(a.sid, "two");
    b = run(f, &retry);
    assert_int_equal(b.row.status, CS_TURN_FAILED);
    assert_string_equal(b.row.error_code, "codex_error");
    f->engine.script = ANSWER;
    c = run(f, &retry);
    assert_int_equal(c.row.status, CS_TURN_COMPLETED);
    assert_string_equal(f->engine.thread_asked, "thread-1");
    assert_string_equal(f->engine.orphan_asked, b.row.engine_turn_id);
    assert_string_equal(f->engine.seen, "user:one|codex:the answer|"); /* not the orphan */
    cs_turn_view_fini(&a);
    cs_turn_view_fini(&b);
    cs_turn_view_fini(&c);
}

static void an_unknown_default_model_falls_back(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one");
    struct cs_turn_view a, b;

    f->engine.script = REFUSE_MODEL;
    a = run(f, &request);
    assert_int_equal(a.row.status, CS_TURN_COMPLETED);
    assert_true(a.row.model_fallback);
    assert_string_equal(a.row.model, "codex-own");
    assert_int_equal(f->engine.starts, 2);
    f->engine.script = ANSWER; /* the session remembers what ran */
    request = ask_again(a.sid, "two");
    b = run(f, &request);
    assert_string_equal(f->engine.model_asked, "codex-own");
    cs_turn_view_fini(&a);
    cs_turn_view_fini(&b);
}

static void an_unknown_model_asked_by_name_fails(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one");
    struct cs_turn_view view;

    f->engine.script = REFUSE_MODEL;
    request.model = "gpt-5-codex"; /* also when it is the default's name */
    view = run(f, &request);
    assert_int_equal(view.row.status, CS_TURN_FAILED);
    assert_string_equal(view.row.error_code, "model_not_found");
    assert_int_equal(f->engine.starts, 1);
    cs_turn_view_fini(&view);
}

static void a_time_out_cancels_and_leaves_the_session_continuable(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one"), retry;
    struct cs_turn_view a, b;

    f->engine.script = HANG;
    request.timeout_ms = 1000;
    a = run(f, &request);
    assert_int_equal(a.row.status, CS_TURN_FAILED);
    assert_string_equal(a.row.error, "Codex execution timeout");
    assert_int_equal(cs_turn_outcome(&a.row), CS_TIMEOUT);
    f->engine.script = ANSWER;
    retry = ask_again(a.sid, "one");
    b = run(f, &retry);
    assert_int_equal(b.row.status, CS_TURN_COMPLETED);
    assert_string_equal(f->engine.seen, "");
    cs_turn_view_fini(&a);
    cs_turn_view_fini(&b);
}

static void a_session_takes_one_turn_at_a_time(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request first = ask("one"), second;
    struct cs_turn_view a = run(f, &first), b;
    char tid[CS_UUID_MAX], cancelled[CS_UUID_MAX], sid[CS_UUID_MAX];
    struct cs_err err = {0};

    second = ask_again(a.sid, "two");
    begin_hanging(f, &second, tid);
    expect_refused(f, &second, CS_CONFLICT, "session_busy");
    assert_int_equal(cs_core_delete(f->core, a.sid, sid, &err), CS_CONFLICT);
    assert_int_equal(cs_session_cancel(f->core, a.cid, cancelled, NULL), CS_OK);
    assert_string_equal(cancelled, tid);
    assert_int_equal(cs_turn_view(f->core, tid, cs_mono_ms() + 5000, &b, NULL), CS_OK);
    assert_int_equal(b.row.status, CS_TURN_CANCELLED);
    assert_int_equal(cs_session_cancel(f->core, a.cid, cancelled, &err), CS_CONFLICT);
    cs_turn_view_fini(&a);
    cs_turn_view_fini(&b);
}

static void a_drain_interrupts_running_turns(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one");
    struct cs_turn_view view;
    char tid[CS_UUID_MAX];

    begin_hanging(f, &request, tid);
    assert_true(cs_core_drain(f->core, cs_mono_ms() + 5000));
    assert_int_equal(cs_turn_view(f->core, tid, 0, &view, NULL), CS_OK);
    assert_int_equal(view.row.status, CS_TURN_INTERRUPTED);
    expect_refused(f, &request, CS_UNAVAILABLE, "shutting_down");
    cs_turn_view_fini(&view);
}

static void an_idempotency_key_runs_one_turn(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one");
    struct cs_turn_view a, b;

    request.idempotency_key = "key-1";
    request.body_hash[0] = 1;
    a = run(f, &request);
    close_core(f);
    open_core(f);
    b = run(f, &request);
    assert_int_equal(f->engine.starts, 1);
    assert_string_equal(a.row.tid, b.row.tid);
    assert_string_equal(a.response, b.response);
    request.body_hash[0] = 2;
    expect_refused(f, &request, CS_MISMATCH, "idempotency_key_reused");
    cs_turn_view_fini(&a);
    cs_turn_view_fini(&b);
}

static void an_idempotency_key_past_its_day_runs_anew(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one");
    struct cs_turn_view a, b;
    int64_t start = cs_clock_ms();

    request.idempotency_key = "key-4";
    restart_at(f, start);
    a = run(f, &request);
    fake_now = start + 25 * INT64_C(3600) * 1000; /* a jump: the sweeper holds back */
    b = run(f, &request);
    assert_int_equal(f->engine.starts, 2);
    assert_string_not_equal(a.row.tid, b.row.tid);
    cs_turn_view_fini(&a);
    cs_turn_view_fini(&b);
}

static void a_replay_of_a_running_turn_finds_that_turn(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request first = ask("one"), second;
    struct cs_turn_view a = run(f, &first);
    struct cs_turn *turn = NULL;
    char tid[CS_UUID_MAX], again[CS_UUID_MAX];

    second = ask_again(a.sid, "two");
    second.idempotency_key = "key-2";
    begin_hanging(f, &second, tid);
    assert_int_equal(cs_turn_begin(f->core, &second, &turn, again, NULL), CS_OK);
    assert_null(turn);
    assert_string_equal(again, tid);
    cs_turn_view_fini(&a);
}

/* Holds the writer thread until it is let go. */
struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool held, open;
    struct cs_store *store;
};

static enum cs_status stand_in_the_gate(struct cs_db *db, void *arg, struct cs_err *err)
{
    struct gate *gate = arg;

    (void)db;
    (void)err;
    pthread_mutex_lock(&gate->mutex);
    gate->held = true;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->open)
        (void)cs_cond_wait(&gate->changed, &gate->mutex, CS_NEVER);
    pthread_mutex_unlock(&gate->mutex);
    return CS_OK;
}

static void *hold_writer(void *arg)
{
    struct gate *gate = arg;

    assert_int_equal(cs_store_write(gate->store, stand_in_the_gate, gate, NULL), CS_OK);
    return NULL;
}

/* One of two that send the same request, and look at the turn that they are told of. */
struct sender {
    struct fixture *f;
    const struct cs_turn_request *request;
    struct cs_turn *turn;
    char tid[CS_UUID_MAX];
    enum cs_status begun, seen;
    atomic_bool done;
};

static void *send_and_look(void *arg)
{
    struct sender *sender = arg;
    struct cs_core *core = sender->f->core;
    struct cs_turn_view view;

    sender->begun = cs_turn_begin(core, sender->request, &sender->turn, sender->tid, NULL);
    sender->seen = cs_turn_view(core, sender->tid, 0, &view, NULL);
    if (sender->seen == CS_OK)
        cs_turn_view_fini(&view);
    atomic_store(&sender->done, true);
    return NULL;
}

/* Until @count threads hold the session's turn, or @sender has done without. */
static void await_holders(struct fixture *f, const char *sid, unsigned count,
                          const struct sender *sender)
{
    int64_t deadline = SOON;
    unsigned refs = 0;

    while (refs < count && !atomic_load(&sender->done)) {
        struct cs_turn *turn = cs_registry_by_session(f->core, sid);

        assert_true(cs_mono_ms() < deadline);
        if (turn == NULL)
            continue;
        pthread_mutex_lock(&f->core->mutex);
        refs = turn->refs - 1; /* but for ours */
        pthread_mutex_unlock(&f->core->mutex);
        cs_turn_unref(turn);
    }
}

static void a_repeated_request_is_sent_to_a_turn_that_can_be_found(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request first = ask("one"), second;
    struct cs_turn_view a = run(f, &first);
    struct sender one = {.f = f, .request = &second}, two = one;
    struct gate gate = {.mutex = PTHREAD_MUTEX_INITIALIZER, .store = f->store};
    pthread_t holder, threads[2];

    second = ask_again(a.sid, "two");
    second.idempotency_key = "key-5";
    assert_int_equal(cs_cond_init(&gate.changed, NULL), CS_OK);
    assert_int_equal(pthread_create(&holder, NULL, hold_writer, &gate), 0);
    pthread_mutex_lock(&gate.mutex);
    while (!gate.held)
        assert_true(cs_cond_wait(&gate.changed, &gate.mutex, SOON));
    pthread_mutex_unlock(&gate.mutex);
    assert_int_equal(pthread_create(&threads[0], NULL, send_and_look, &one), 0);
    await_holders(f, a.sid, 2, &one); /* claimed, and not yet stored */
    assert_int_equal(pthread_create(&threads[1], NULL, send_and_look, &two), 0);
    await_holders(f, a.sid, 3, &two);
    pthread_mutex_lock(&gate.mutex);
    gate.open = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.mutex);
    assert_int_equal(pthread_join(holder, NULL), 0);
    assert_int_equal(pthread_join(threads[0], NULL), 0);
    assert_int_equal(pthread_join(threads[1], NULL), 0);
    pthread_cond_destroy(&gate.changed);
    assert_int_equal(one.begun, CS_OK);
    assert_int_equal(one.seen, CS_OK);
    assert_int_equal(two.begun, CS_OK);
    assert_null(two.turn);
    assert_string_equal(two.tid, one.tid);
    assert_int_equal(two.seen, CS_OK);
    assert_int_equal(cs_turn_run(one.turn, NULL), CS_OK);
    cs_turn_view_fini(&a);
}

/* Until @sender has come as far as to claim its session, or has done without. */
static void await_claim(struct fixture *f, const struct sender *sender)
{
    int64_t deadline = SOON, turns = 0;

    while (turns < 2 && !atomic_load(&sender->done)) {
        assert_true(cs_mono_ms() < deadline);
        pthread_mutex_lock(&f->core->mutex);
        turns = f->core->turns;
        pthread_mutex_unlock(&f->core->mutex);
    }
}

static void who_sees_an_outcome_that_is_being_committed_may_go_on(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request first = ask("one"), second, third;
    struct cs_turn_view a = run(f, &first);
    struct sender sender = {.f = f, .request = &third};
    struct cs_turn *turn;
    char tid[CS_UUID_MAX];
    pthread_t thread;

    second = ask_again(a.sid, "two");
    third = ask_again(a.sid, "three");
    begin_hanging(f, &second, tid);
    turn = cs_registry_by_session(f->core, a.sid);
    cs_registry_ending(turn, true);
    assert_int_equal(pthread_create(&thread, NULL, send_and_look, &sender), 0);
    await_claim(f, &sender);
    assert_false(atomic_load(&sender.done));
    cs_registry_ending(turn, false); /* the disk has refused it */
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(sender.begun, CS_CONFLICT);
    cs_registry_ending(turn, true);
    sender.done = false;
    assert_int_equal(pthread_create(&thread, NULL, send_and_look, &sender), 0);
    await_claim(f, &sender);
    f->engine.script = ANSWER;
    assert_true(cs_turn_cancel(f->core, tid));
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(sender.begun, CS_OK);
    assert_int_equal(cs_turn_run(sender.turn, NULL), CS_OK);
    cs_turn_unref(turn);
    cs_turn_view_fini(&a);
}

static void an_interrupted_turn_is_never_run_twice(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one");
    char tid[CS_UUID_MAX];

    request.idempotency_key = "key-3";
    begin_hanging(f, &request, tid);
    close_core(f);
    open_core(f);
    f->engine.script = ANSWER;
    expect_refused(f, &request, CS_CONFLICT, "turn_interrupted");
}

static void the_eleventh_session_puts_out_the_least_recently_used(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one"), touch;
    struct cs_turn_view views[11], touched;
    struct cs_session session;
    int64_t start = cs_clock_ms();
    int i;

    fake_now = start;
    cs_clock_override(now_faked);
    request.user = "alice";
    for (i = 0; i < 10; i++, fake_now += 10)
        views[i] = run(f, &request);
    touch = ask_again(views[0].sid, "still here");
    touched = run(f, &touch);
    fake_now += 10;
    views[10] = run(f, &request);
    assert_non_null(strstr(views[10].row.evicted, views[1].sid));
    assert_int_equal(cs_core_session(f->core, views[0].sid, &session, NULL), CS_OK);
    cs_session_fini(&session);
    assert_int_equal(cs_core_session(f->core, views[1].sid, &session, NULL), CS_NOT_FOUND);
    for (i = 0; i < 11; i++)
        cs_turn_view_fini(&views[i]);
    cs_turn_view_fini(&touched);
}

static void the_own_user_has_no_limit(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one");
    struct cs_figures figures;
    int i;

    for (i = 0; i < 12; i++) {
        struct cs_turn_view view = run(f, &request);

        assert_string_equal(view.row.evicted, "[]");
        cs_turn_view_fini(&view);
    }
    assert_int_equal(cs_core_figures(f->core, &figures, NULL), CS_OK);
    assert_int_equal(figures.sessions.live, 12);
    assert_int_equal(figures.turns.completed, 12);
}

static void an_hour_without_use_expires_and_restore_brings_back(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one"), again;
    struct cs_turn_view view = run(f, &request), next;
    const struct cs_history *history = NULL;
    struct cs_session session;
    struct cs_err err = {0};
    char *evicted = NULL;
    int64_t start = cs_clock_ms();

    restart_at(f, start + 3599 * 1000);
    assert_int_equal(cs_core_history(f->core, view.cid, 0, 0, &history, NULL), CS_OK);
    cs_history_release(history);
    restart_at(f, start + 3601 * 1000);
    assert_int_equal(cs_core_history(f->core, view.cid, 0, 0, &history, &err), CS_NOT_FOUND);
    assert_non_null(strstr(err.msg, "Session not found for conversation_id: "));
    again = ask_again(view.cid, "two");
    expect_refused(f, &again, CS_NOT_FOUND, "session_not_found");
    assert_int_equal(cs_core_restore(f->core, view.sid, &session, &evicted, NULL), CS_OK);
    assert_string_equal(evicted, "[]");
    assert_int_equal(session.message_count, 2);
    cs_session_fini(&session);
    next = run(f, &again);
    assert_int_equal(next.row.status, CS_TURN_COMPLETED);
    cs_turn_view_fini(&view);
    cs_turn_view_fini(&next);
    free(evicted);
}

static void a_clock_that_jumps_a_day_ahead_expires_nothing(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one"), again;
    struct cs_turn_view view, next;
    int64_t start = cs_clock_ms(), cleaned;

    restart_at(f, start);
    view = run(f, &request);
    fake_now = start + 86400 * 1000;
    assert_int_equal(cs_core_cleanup(f->core, &cleaned, NULL), CS_OK);
    assert_int_equal(cleaned, 0);
    again = ask_again(view.cid, "two");
    next = run(f, &again);
    assert_int_equal(next.row.status, CS_TURN_COMPLETED);
    cs_turn_view_fini(&view);
    cs_turn_view_fini(&next);
}

static void the_archive_ends_after_its_days(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one");
    struct cs_turn_view view = run(f, &request);
    struct cs_session session;
    char *evicted = NULL;
    int64_t start = cs_clock_ms(), cleaned;

    restart_at(f, start + 2 * 3600 * 1000);
    assert_int_equal(cs_core_cleanup(f->core, &cleaned, NULL), CS_OK);
    restart_at(f, start + 31 * INT64_C(86400) * 1000);
    assert_int_equal(cs_core_cleanup(f->core, &cleaned, NULL), CS_OK);
    assert_int_equal(cs_core_restore(f->core, view.sid, &session, &evicted, NULL), CS_NOT_FOUND);
    cs_turn_view_fini(&view);
}

static void a_read_after_a_write_sees_it(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one");
    struct cs_turn_view view = run(f, &request);
    const struct cs_history *before = NULL, *after = NULL;
    int i;

    request = ask_again(view.sid, "more");
    for (i = 1; i <= 20; i++) {
        struct cs_turn_view next;

        assert_int_equal(cs_core_history(f->core, view.cid, 0, 0, &before, NULL), CS_OK);
        assert_int_equal(before->count, 2 * i);
        next = run(f, &request);
        assert_int_equal(cs_core_history(f->core, view.cid, 0, 0, &after, NULL), CS_OK);
        assert_int_equal(after->count, 2 * i + 2);
        cs_history_release(before);
        cs_history_release(after);
        cs_turn_view_fini(&next);
    }
    cs_turn_view_fini(&view);
}

/* The turn of message @i of the history of @identifier, whose type and content it must have. */
static void expect_message(struct fixture *f, const char *identifier, size_t i, const char *type,
                           const char *content, char out_tid[CS_UUID_MAX])
{
    const struct cs_history *history = NULL;
    struct cs_json *messages = NULL;
    const struct cs_json *message;
    char text[8192];
    int len;

    assert_int_equal(cs_core_history(f->core, identifier, 0, 0, &history, NULL), CS_OK);
    len = snprintf(text, sizeof text, "[%.*s]", (int)history->len, history->messages);
    cs_history_release(history);
    assert_in_range(len, 2, sizeof text - 1);
    assert_int_equal(cs_json_parse(text, (size_t)len, (size_t)len, &messages, NULL), CS_OK);
    message = cs_json_at(messages, i);
    assert_string_equal(cs_json_get_string(message, "type"), type);
    assert_string_equal(cs_json_get_string(message, "content"), content);
    snprintf(out_tid, CS_UUID_MAX, "%s", cs_json_get_string(message, "turnId"));
    cs_json_free(messages);
}

static void a_fork_has_what_was_said_in_turns_of_its_own(void **state)
{
    static const char *const said[] = {"one", "the answer", "two", "the answer"};
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one");
    struct cs_turn_view first = run(f, &request), second, third;
    struct cs_session fork;
    char theirs[4][CS_UUID_MAX], ours[4][CS_UUID_MAX];

    request = ask_again(first.sid, "two");
    second = run(f, &request);
    assert_int_equal(cs_core_fork(f->core, first.sid, &fork, NULL), CS_OK);
    for (size_t i = 0; i < 4; i++) {
        const char *type = i % 2 == 0 ? "user" : "assistant";

        expect_message(f, first.sid, i, type, said[i], theirs[i]);
        expect_message(f, fork.sid, i, type, said[i], ours[i]);
        assert_true(cs_uuid_valid(ours[i]));
        assert_string_not_equal(ours[i], theirs[i]);
    }
    assert_string_equal(ours[0], ours[1]); /* a prompt and its answer */
    assert_string_equal(ours[2], ours[3]);
    assert_string_not_equal(ours[0], ours[2]);
    request = ask_again(fork.cid, "three");
    third = run(f, &request);
    assert_string_equal(f->engine.seen, "user:one|codex:the answer|user:two|codex:the answer|");
    cs_session_fini(&fork);
    cs_turn_view_fini(&first);
    cs_turn_view_fini(&second);
    cs_turn_view_fini(&third);
}

static void bad_requests_change_nothing(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("  \n");
    struct cs_figures figures;

    expect_refused(f, &request, CS_INVALID, "prompt_required");
    request = ask("one");
    request.sandbox = "danger-full-access";
    expect_refused(f, &request, CS_DENIED, "sandbox_above_ceiling");
    request = ask("one");
    request.timeout_ms = 999;
    expect_refused(f, &request, CS_INVALID, "invalid_timeout");
    request = ask("one");
    request.user = "a\nb";
    expect_refused(f, &request, CS_INVALID, "invalid_user");
    request = ask("one");
    request.cwd = "/";
    expect_refused(f, &request, CS_DENIED, "cwd_denied");
    request = ask_again(NULL, "one");
    expect_refused(f, &request, CS_INVALID, "identifier_required");
    request = ask_again("no-such", "one");
    expect_refused(f, &request, CS_NOT_FOUND, "session_not_found");
    assert_int_equal(cs_core_figures(f->core, &figures, NULL), CS_OK);
    assert_int_equal(figures.sessions.live, 0);
    assert_int_equal(figures.turns_now, 0);
}

static void a_lowered_ceiling_holds_for_old_sessions(void **state)
{
    struct fixture *f = *state;
    struct cs_turn_request request = ask("one"), again;
    struct cs_turn_view view;
    struct cs_config fresh = {0};
    char *argv[] = {(char[128]){0}, (char[64]){"--sandbox-ceiling=read-only"}, NULL};
    char *envp[] = {NULL};

    request.sandbox = "workspace-write";
    view = run(f, &request);
    snprintf(argv[0], 128, "--data-dir=%s", f->data);
    assert_int_equal(cs_config_load(&fresh, 2, argv, envp, NULL), CS_OK);
    assert_int_equal(cs_core_reload(f->core, &fresh, NULL, NULL), CS_OK);
    again = ask_again(view.sid, "two");
    expect_refused(f, &again, CS_DENIED, "sandbox_above_ceiling");
    cs_config_fini(&fresh);
    cs_turn_view_fini(&view);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup_core, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_turn_stores_prompt_and_answer),
        CASE(the_next_turn_goes_on_with_the_thread),
        CASE(a_restart_keeps_the_conversation),
        CASE(a_failed_turn_is_reverted_by_the_next),
        CASE(an_unknown_default_model_falls_back),
        CASE(an_unknown_model_asked_by_name_fails),
        CASE(a_time_out_cancels_and_leaves_the_session_continuable),
        CASE(a_session_takes_one_turn_at_a_time),
        CASE(a_drain_interrupts_running_turns),
        CASE(an_idempotency_key_runs_one_turn),
        CASE(an_idempotency_key_past_its_day_runs_anew),
        CASE(a_replay_of_a_running_turn_finds_that_turn),
        CASE(a_repeated_request_is_sent_to_a_turn_that_can_be_found),
        CASE(who_sees_an_outcome_that_is_being_committed_may_go_on),
        CASE(an_interrupted_turn_is_never_run_twice),
        CASE(the_eleventh_session_puts_out_the_least_recently_used),
        CASE(the_own_user_has_no_limit),
        CASE(an_hour_without_use_expires_and_restore_brings_back),
        CASE(a_clock_that_jumps_a_day_ahead_expires_nothing),
        CASE(the_archive_ends_after_its_days),
        CASE(a_read_after_a_write_sees_it),
        CASE(a_fork_has_what_was_said_in_turns_of_its_own),
        CASE(bad_requests_change_nothing),
        CASE(a_lowered_ceiling_holds_for_old_sessions),
    };

    return cmocka_run_group_tests_name("turn", tests, NULL, NULL);
}
