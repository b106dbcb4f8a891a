"""A turn's ways to end, and what the conversation is like after each."""

import os
import signal
import time

import pytest
from support.context import assert_context, times_prompted
from support.process import alive, command_line, descendants, wait_until

ASYNC = {"Prefer": "respond-async"}


def begin(daemon, prompt, conversation=None, **fields):
    """Begin a turn without waiting for it: (ids of the 202, turn id)."""
    ask = daemon.go_on if conversation else daemon.ask
    first = [conversation] if conversation else []
    accepted = ask(*first, prompt, status=202, headers=ASYNC, **fields)
    return accepted, accepted["turnId"]


def ended(daemon, turn_id, seconds=30):
    """The turn, once it runs no more."""
    return wait_until(
        lambda: (turn := daemon.turn(turn_id, 1000))["status"] != "running" and turn,
        "the turn ends", seconds,
    )


def codex_pids(daemon):
    return [pid for pid in descendants(daemon.pid) if any("codex" in word for word in command_line(pid)[:1])]


@pytest.mark.smoke
def test_a_time_out_answers_504_and_the_retry_sees_no_orphan(make_daemon, model, engine):
    daemon = make_daemon(engine=engine).start()
    first = daemon.ask("hello there")
    conversation = first["conversationId"]

    model.faults.append({"stall": ""})
    begun = time.monotonic()
    late = daemon.go_on(conversation, "the unanswered one", status=504, timeoutMs=1500)
    assert time.monotonic() - begun < 8
    assert late["success"] is False
    assert late["error"] == "Codex execution timeout"
    assert late["code"] and late["requestId"]
    assert late["conversationId"] == conversation and late["sessionId"] == first["sessionId"]

    retry = daemon.go_on(conversation, "the unanswered one")
    assert times_prompted(model, "the unanswered one") == 1
    assert_context(model, "hello there", first["response"], "the unanswered one")
    if engine == "app-server":
        assert retry["response"].startswith("I saw 3 messages (2 from you, 1 from me).")
    kinds = [kind for kind, _ in daemon.history(conversation)]
    assert kinds == ["user", "assistant", "user", "error", "user", "assistant"]


def test_an_orphan_is_gone_after_a_restart_too(make_daemon, model, engine):
    daemon = make_daemon(engine=engine).start()
    first = daemon.ask("hello there")
    model.faults.append({"stall": ""})
    daemon.go_on(first["conversationId"], "the unanswered one", status=504, timeoutMs=1500)
    daemon.restart()
    retry = daemon.go_on(first["conversationId"], "the unanswered one")
    assert times_prompted(model, "the unanswered one") == 1
    assert_context(model, "hello there", first["response"], "the unanswered one")
    if engine == "app-server":
        assert retry["response"].startswith("I saw 3 messages (2 from you, 1 from me).")


def test_a_first_turn_that_times_out_leaves_a_session_to_continue(make_daemon, model, engine):
    daemon = make_daemon(engine=engine).start()
    model.faults.append({"stall": ""})
    late = daemon.ask("begin badly", status=504, timeoutMs=1500)
    answer = daemon.go_on(late["conversationId"], "begin well")
    assert answer["sessionId"] == late["sessionId"]
    assert times_prompted(model, "begin badly") == 0
    assert times_prompted(model, "begin well") == 1


def test_a_cancelled_turn_ends_soon_and_the_conversation_goes_on(make_daemon, model, engine):
    daemon = make_daemon(engine=engine).start()
    first = daemon.ask("hello there")
    accepted, turn_id = begin(daemon, "never mind [[stall]]", first["conversationId"])
    assert accepted["sessionId"] == first["sessionId"]
    wait_until(lambda: model.active == 1, "the model was asked")

    begun = time.monotonic()
    cancelled = daemon.post(f"/api/codex/session/{first['sessionId']}/cancel", {})
    assert cancelled.status in (200, 202) and cancelled["success"] is True
    turn = ended(daemon, turn_id)
    assert turn["status"] == "cancelled"
    assert time.monotonic() - begun < 8
    wait_until(lambda: model.active == 0, "Codex let go of the model")

    again = daemon.post(f"/api/codex/session/{first['sessionId']}/cancel", {})
    assert again.status == 409 and again["code"] == "no_running_turn"

    daemon.go_on(first["conversationId"], "go on")
    assert times_prompted(model, "never mind") == 0
    assert_context(model, "hello there", first["response"], "go on")


def test_a_waiting_client_hears_of_the_cancel(daemon, model):
    from concurrent.futures import ThreadPoolExecutor

    first = daemon.ask("hello")
    with ThreadPoolExecutor(1) as pool:
        body = {"conversationId": first["conversationId"], "prompt": "[[stall]]"}
        waiting = pool.submit(daemon.post, "/api/codex/continue", body)
        wait_until(lambda: model.active == 1, "the model was asked")
        daemon.post(f"/api/codex/session/{first['sessionId']}/cancel", {})
        reply = waiting.result(20)
    assert reply.status >= 400
    assert reply["code"] == "turn_cancelled"
    assert reply["conversationId"] == first["conversationId"]


@pytest.mark.smoke
def test_codex_dying_in_a_turn_fails_that_turn_alone(make_daemon, model, engine):
    daemon = make_daemon(engine=engine).start()
    first = daemon.ask("remember the milk")
    _, turn_id = begin(daemon, "doomed [[stall]]", first["conversationId"])
    wait_until(lambda: model.active == 1, "the model was asked")
    pids = codex_pids(daemon)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    turn = ended(daemon, turn_id)
    assert turn["status"] == "failed"
    assert turn["code"] == "codex_died"

    daemon.go_on(first["conversationId"], "what was it?")
    assert_context(model, "remember the milk", first["response"], "what was it?")
    assert times_prompted(model, "doomed") == 0
    assert daemon.session(first["sessionId"])["status"] == "active"


@pytest.mark.smoke
def test_a_kill_in_a_turn_marks_it_interrupted_and_leaves_no_codex(make_daemon, model, engine):
    daemon = make_daemon(engine=engine).start()
    first = daemon.ask("remember the eggs")
    _, turn_id = begin(daemon, "cut off [[stall]]", first["conversationId"])
    wait_until(lambda: model.active == 1, "the model was asked")
    pids = descendants(daemon.pid)
    daemon.kill9()
    wait_until(lambda: not any(alive(pid) for pid in pids), "Codex ends with the daemon")

    daemon.start()
    turn = daemon.turn(turn_id)
    assert turn["status"] == "interrupted"
    daemon.go_on(first["conversationId"], "what was it?")
    assert_context(model, "remember the eggs", first["response"], "what was it?")
    assert times_prompted(model, "cut off") == 0


def test_a_tool_of_a_cancelled_turn_is_not_left_behind(make_daemon, model):
    daemon = make_daemon(args=["--sandbox-ceiling", "danger-full-access"]).start()
    first = daemon.ask("hello")
    _, turn_id = begin(
        daemon, "[[tool sleep 987]]", first["conversationId"], sandbox="danger-full-access", timeoutMs=60_000
    )

    def sleepers():
        return [pid for pid in descendants(daemon.pid) if command_line(pid)[-2:] == ["sleep", "987"]]

    pids = wait_until(sleepers, "the tool runs", 20)
    daemon.post(f"/api/codex/session/{first['sessionId']}/cancel", {})
    assert ended(daemon, turn_id)["status"] == "cancelled"
    daemon.stop()
    wait_until(lambda: not any(alive(pid) for pid in pids), "the tool ends at the latest with the daemon")


def test_a_tool_s_output_reaches_the_answer(daemon, tmp_path):
    (tmp_path / "one" / "home" / "note.txt").write_text("the moon is full")
    answer = daemon.ask("[[tool cat note.txt]]")
    assert answer["response"].startswith("The command printed: ")
    assert "the moon is full" in answer["response"]


@pytest.mark.parametrize("status, code", [(401, "codex_auth"), (429, "codex_rate_limited"), (500, "codex_error")])
def test_an_error_of_the_model_fails_the_turn_with_its_code(daemon, model, status, code):
    model.faults += [{"status": status}] * 10
    reply = daemon.post("/api/codex/session", {"prompt": "hello"})
    assert reply.status >= 400 and reply["success"] is False
    assert reply["code"] == code
    assert reply["conversationId"] and reply["sessionId"] and reply["error"]
    model.faults.clear()
    answer = daemon.go_on(reply["conversationId"], "and now?")
    assert "and now?" in answer["response"]


def test_an_unknown_default_model_falls_back_to_codex_s_own(make_daemon, model, engine):
    model.unknown_models.add("gpt-5-codex")
    daemon = make_daemon(engine=engine).start()
    first = daemon.ask("hello")
    assert first["metadata"]["modelFallback"]
    assert first["response"] == 'I saw 1 message (1 from you, 0 from me). You said: "hello".'
    assert model.requests[-1]["model"] == "demo"
    if engine == "app-server":
        assert first["metadata"]["model"] == "demo"
    assert "gpt-5-codex" in daemon.log()
    # The conversation stays with it, without a second try each time.
    model.clear()
    second = daemon.go_on(first["conversationId"], "again")
    assert "again" in second["response"]
    assert {request["model"] for request in model.requests} == {"demo"}


def test_an_unknown_model_that_was_asked_for_is_an_error(daemon, model):
    model.unknown_models.add("no-such-model")
    reply = daemon.post("/api/codex/session", {"prompt": "hello", "model": "no-such-model"})
    assert (reply.status, reply["code"]) == (400, "model_not_found")
    assert {request["model"] for request in model.requests} == {"no-such-model"}


def test_the_model_asked_for_runs(daemon, model):
    answer = daemon.ask("hello", model="some-model")
    assert answer["metadata"]["model"] == "some-model"
    assert model.requests[-1]["model"] == "some-model"


def test_usage_is_that_of_the_turn(make_daemon, engine):
    daemon = make_daemon(engine=engine).start()
    first = daemon.ask("hello [[usage]]")
    second = daemon.go_on(first["conversationId"], "again [[usage]]")
    for answer in (first, second):
        usage = answer["metadata"]["usage"]
        assert (usage["inputTokens"], usage["cachedInputTokens"], usage["outputTokens"]) == (1200, 800, 34)


@pytest.mark.smoke
def test_respond_async_answers_202_and_the_turn_is_followed_by_its_id(daemon):
    reply = daemon.post("/api/codex/session", {"prompt": "slowly [[delay 1500]]"}, headers=ASYNC)
    assert reply.status == 202, reply
    turn_id = reply["turnId"]
    assert reply.headers["Location"] == f"/api/codex/turn/{turn_id}"
    assert reply["conversationId"] and reply["sessionId"]
    assert daemon.turn(turn_id)["status"] == "running"

    begun = time.monotonic()
    waited = daemon.turn(turn_id, 100)
    assert waited["status"] == "running" and time.monotonic() - begun < 1.2

    done = daemon.turn(turn_id, 20_000)
    assert done["status"] == "completed"
    assert "slowly" in done["response"]
    assert daemon.history(reply["conversationId"])[1] == ("assistant", done["response"])
    assert daemon.get("/api/codex/turn/00000000-0000-0000-0000-000000000000").status == 404


def test_a_client_that_leaves_does_not_stop_the_turn(daemon):
    import socket

    body = b'{"prompt":"keep going [[delay 1000]]","userId":"leaver"}'
    with socket.create_connection(daemon.address) as client:
        client.sendall(
            b"POST /api/codex/session HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (daemon.port, len(body), body)
        )
        time.sleep(0.3)

    def answered():
        sessions = daemon.get("/api/codex/sessions?userId=leaver")["sessions"]
        history = daemon.history(sessions[0]["sessionId"]) if sessions else []
        return len(history) == 2 and history

    history = wait_until(answered, "the answer is stored")
    assert history[1][0] == "assistant" and "keep going" in history[1][1]


@pytest.mark.smoke
def test_a_second_prompt_while_one_runs_is_refused(daemon, model):
    first = daemon.ask("hello")
    _, turn_id = begin(daemon, "[[delay 1500]]", first["conversationId"])
    busy = daemon.go_on(first["conversationId"], "me too", status=409)
    assert busy["code"] == "session_busy"
    assert ended(daemon, turn_id)["status"] == "completed"
    daemon.go_on(first["conversationId"], "now me")
    assert times_prompted(model, "me too") == 0


# ---- idempotency ----


@pytest.mark.smoke
def test_an_idempotency_key_runs_a_prompt_once_also_over_a_restart(daemon, model):
    key = {"Idempotency-Key": "order-1"}
    first = daemon.ask("only once", headers=key)
    again = daemon.ask("only once", headers=key)
    assert again["metadata"]["turnId"] == first["metadata"]["turnId"]
    assert (again["sessionId"], again["response"]) == (first["sessionId"], first["response"])

    other = daemon.post("/api/codex/session", {"prompt": "something else"}, headers=key)
    assert other.status == 422 and other["code"] == "idempotency_key_reused"

    daemon.kill9()
    daemon.start()
    later = daemon.ask("only once", headers=key)
    assert (later["sessionId"], later["response"]) == (first["sessionId"], first["response"])
    assert len(model.requests) == 1
    assert daemon.stats()["totalActiveSessions"] == 1


def test_an_idempotent_repeat_of_a_running_turn_waits_for_it(daemon, model):
    key = {"Idempotency-Key": "order-2"}
    body = {"prompt": "take your time [[delay 1200]]"}
    accepted = daemon.post("/api/codex/session", body, headers={**key, **ASYNC})
    assert accepted.status == 202
    answer = daemon.post("/api/codex/session", body, headers=key)
    assert answer.status == 200, answer
    assert answer["metadata"]["turnId"] == accepted["turnId"]
    assert "take your time" in answer["response"]
    assert len(model.requests) == 1


def test_an_interrupted_turn_is_never_run_again_by_its_key(daemon, model):
    key = {"Idempotency-Key": "order-3"}
    body = {"prompt": "half done [[stall]]"}
    accepted = daemon.post("/api/codex/session", body, headers={**key, **ASYNC})
    wait_until(lambda: model.active == 1, "the model was asked")
    daemon.kill9()
    daemon.start()
    repeat = daemon.post("/api/codex/session", body, headers=key)
    assert repeat.status == 409 and repeat["code"] == "turn_interrupted"
    assert len(model.requests) == 1
    assert daemon.session(accepted["sessionId"])["sessionId"] == accepted["sessionId"]
