"""The REST contract: each answer is what schema/openapi.yaml says, and what clients may rely on beyond it."""

import http.client
import json
import signal
import threading
import time

import pytest
from support.daemon import Daemon, instant_codex
from support.openapi import Document
from support.process import SLOWNESS, wait_until
from support.wire import compose, connect, exchange, read_answer


JSON = "Content-Type: application/json"
NOBODY = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def document():
    return Document()


@pytest.fixture(scope="module")
def instant(tmp_path_factory):
    """A daemon on the instant Codex, for all tests here that leave it as it was."""
    daemon = Daemon(tmp_path_factory.mktemp("contract"), codex=instant_codex(), engine="app-server").start()
    yield daemon
    daemon.discard()


@pytest.fixture
def make_instant(tmp_path):
    made = []

    def make(*args):
        made.append(Daemon(tmp_path / str(len(made)), codex=instant_codex(), engine="app-server", args=args))
        return made[-1].start()

    yield make
    for daemon in made:
        daemon.discard()


def test_the_served_document_is_the_one_in_the_repository(instant, document):
    reply = instant.get("/api/codex/openapi.json")
    assert reply.headers["Content-Type"].startswith("application/json")
    assert reply.json == document.root and reply.json["openapi"].startswith("3.1")


@pytest.mark.smoke
def test_every_answer_is_as_documented(instant, document):
    def call(method, path, status, body=None, name=None, headers=None):
        reply = instant.request(method, path, body, headers=headers)
        assert reply.status == status, reply
        document.check_answer(method, name or path, status, reply.json)
        seen.add((method, name or path))
        return reply.json

    seen = set()
    session = call("POST", "/api/codex/session", 200, {"prompt": "hi", "context": ["a", {"text": "b"}]})
    sid, cid = session["sessionId"], session["conversationId"]
    call("POST", "/api/codex/continue", 200, {"prompt": "on", "sessionId": sid})
    failed = call("POST", "/api/codex/continue", 502, {"prompt": "[[fail]]", "conversationId": cid})
    assert (failed["sessionId"], failed["conversationId"]) == (sid, cid)
    turn = "/api/codex/turn/"
    call("GET", turn + failed["turnId"], 200, name=turn + "{id}")
    call("GET", turn + session["metadata"]["turnId"], 200, name=turn + "{id}")
    call("GET", turn + NOBODY, 404, name=turn + "{id}")
    history = call("GET", f"/api/codex/history/{sid}?limit=2", 200, name="/api/codex/history/{id}")
    assert len(history["messages"]) == 2 and history["messageCount"] > 2 and history["nextBefore"]
    one = "/api/codex/session/{id}"
    assert call("GET", one.format(id=cid), 200, name=one)["session"]["status"] == "failed"
    call("GET", one.format(id=NOBODY), 404, name=one)
    call("GET", "/api/codex/sessions?limit=1", 200, name="/api/codex/sessions")
    call("GET", "/api/codex/sessions?status=asleep", 400, name="/api/codex/sessions")
    assert call("GET", "/api/codex/events?lastEventId=x", 400, name="/api/codex/events")["code"] == "invalid_last_event_id"
    assert call("GET", "/api/codex/ws", 426)["code"] == "upgrade_required"
    call("GET", f"/api/codex/events?sessionId={NOBODY}", 404, name="/api/codex/events")
    call("GET", "/api/codex/sync", 200)
    assert call("POST", "/api/codex/sync", 409, {"waitMs": 10})["code"] == "redis_off"
    assert call("POST", "/api/codex/sync", 400, {"waitMs": 60_001})["code"] == "invalid_wait"
    call("GET", "/api/codex/stats", 200)
    call("POST", "/api/codex/cleanup", 200)
    call("GET", "/api/codex/openapi.json", 200)
    call("GET", "/health", 200)
    call("GET", "/healthz", 200)

    running = call(
        "POST", "/api/codex/session", 202, {"prompt": "[[hang]]", "timeoutMs": 60_000},
        headers={"Prefer": "respond-async"},
    )
    assert call("GET", turn + running["turnId"], 200, name=turn + "{id}")["status"] == "running"
    approval = turn + "{id}/approval"
    for tid, status, code, body in (
        (running["turnId"], 404, "approval_not_found", {"approvalId": "1", "decision": "approve"}),
        (session["metadata"]["turnId"], 404, "approval_not_found", {"approvalId": "1", "decision": "decline"}),
        (NOBODY, 404, "turn_not_found", {"approvalId": "1", "decision": "approve"}),
        (running["turnId"], 400, "invalid_decision", {"approvalId": "1", "decision": "acceptForSession"}),
        (running["turnId"], 400, "invalid_decision", {"approvalId": "1"}),
        (running["turnId"], 400, "invalid_approval_id", {"approvalId": 1, "decision": "approve"}),
    ):
        assert call("POST", approval.format(id=tid), status, body, name=approval)["code"] == code
    call("POST", "/api/codex/continue", 409, {"prompt": "x", "sessionId": running["sessionId"]})
    call("DELETE", one.format(id=running["sessionId"]), 409, name=one)
    cancel = one + "/cancel"
    call("POST", cancel.format(id=running["sessionId"]), 202, name=cancel)
    ended = call("GET", turn + running["turnId"] + "?waitMs=20000", 200, name=turn + "{id}")
    assert ended["status"] == "cancelled" and ended["code"] == "turn_cancelled"
    call("POST", cancel.format(id=sid), 409, name=cancel)
    restore = one + "/restore"
    call("POST", restore.format(id=sid), 409, name=restore)
    call("POST", restore.format(id=NOBODY), 404, name=restore)
    call("DELETE", one.format(id=running["sessionId"]), 200, name=one)
    assert call("DELETE", one.format(id=cid), 200, name=one)["sessionId"] == sid
    assert seen == {(method, path) for method, path, _ in document.operations()}


def test_an_archived_session_is_shown_and_restored_as_documented(make_instant, document):
    daemon = make_instant("--session-limit", "1")
    first = daemon.ask("one", userId="u")
    second = daemon.ask("two", userId="u")
    assert second["metadata"]["evicted"] == [first["sessionId"]]
    assert daemon.session(first["sessionId"], 404)["code"] == "session_not_found"
    listed = daemon.get("/api/codex/sessions?status=completed&userId=u").json
    document.check_answer("GET", "/api/codex/sessions", 200, listed)
    assert [s["sessionId"] for s in listed["sessions"]] == [first["sessionId"]]
    assert listed["sessions"][0]["archiveReason"] == "evicted"
    restored = daemon.post(f"/api/codex/session/{first['conversationId']}/restore").json
    document.check_answer("POST", "/api/codex/session/{id}/restore", 200, restored)
    assert restored["evicted"] == [second["sessionId"]] and restored["session"]["status"] == "active"


def test_the_kept_sentences(instant):
    for body in ({}, {"prompt": ""}, {"prompt": " \n\t"}, {"prompt": None}):
        for path in ("session", "continue"):
            reply = instant.post(f"/api/codex/{path}", body)
            assert (reply.status, reply["error"]) == (400, "Prompt is required"), body
    reply = instant.post("/api/codex/session", raw=b"", headers={"Content-Type": "application/json"})
    assert (reply.status, reply["error"]) == (400, "Prompt is required")
    for more in ({}, {"sessionId": None}, {"conversationId": "", "sessionId": ""}):
        reply = instant.post("/api/codex/continue", {"prompt": "x", **more})
        assert (reply.status, reply["error"]) == (400, "Either conversationId or sessionId is required")
    for path in (f"/api/codex/history/{NOBODY}", f"/api/codex/session/{NOBODY}"):
        reply = instant.get(path)
        assert (reply.status, reply["error"]) == (404, f"Session not found for conversation_id: {NOBODY}")
    reply = instant.post("/api/codex/session", {"prompt": "[[hang]]", "timeoutMs": 1000})
    assert (reply.status, reply["error"]) == (504, "Codex execution timeout")
    assert reply["sessionId"] and reply["conversationId"] and reply["turnId"]


def test_a_member_of_the_wrong_type_is_named_and_nothing_begins(instant):
    before = instant.stats()["totalConversations"]
    wrong = {
        "prompt": 1, "model": [], "sandbox": {}, "userId": 1, "context": 1, "cwd": False, "title": 1.5,
        "timeoutMs": "1000", "ttlSeconds": -1, "engine": 3, "approvalPolicy": True,
    }
    for name, value in wrong.items():
        reply = instant.post("/api/codex/session", {"prompt": "x", name: value})
        assert reply.status == 400 and name in reply["error"], reply
        assert reply["code"].startswith("invalid_"), reply
    for bad in ({"model": ""}, {"sandbox": "none"}, {"timeoutMs": 1}, {"engine": "warp"}, {"cwd": "relative"}, {"approvalPolicy": "always"}):
        assert instant.post("/api/codex/session", {"prompt": "x", **bad}).status == 400, bad
    reply = instant.post("/api/codex/session", {"prompt": "x", "sandbox": "danger-full-access"})
    assert (reply.status, reply["code"]) == (403, "sandbox_above_ceiling")
    assert instant.stats()["totalConversations"] == before


def test_bad_parameters_are_named(instant):
    sid = instant.ask("x")["sessionId"]
    bad = [
        f"/api/codex/history/{sid}?limit=0", f"/api/codex/history/{sid}?limit=x",
        f"/api/codex/history/{sid}?before=-1", f"/api/codex/history/{sid}?limit=1&limit=2",
        f"/api/codex/turn/{NOBODY}?waitMs=60001", "/api/codex/sessions?limit=501",
        "/api/codex/sessions?cursor=1", "/api/codex/sessions?cursor=a", "/api/codex/sessions?userId=%ff",
        "/api/codex/sessions?userId=" + "u" * 129, "/api/codex/sessions?status=x",
    ]
    for path in bad:
        reply = instant.get(path)
        assert reply.status == 400 and reply["code"].startswith("invalid_"), (path, reply)
    empty = instant.get("/api/codex/sessions?userId=&status=&limit=&cursor=")
    assert empty.status == 200 and sid in empty.text  # as good as not given


def test_pages_of_sessions_meet_without_gap_or_overlap(instant):
    made = [instant.ask(f"p{n}", userId="Zoë & co")["sessionId"] for n in range(5)]
    got, cursor = [], ""
    while cursor is not None:
        page = instant.get(f"/api/codex/sessions?userId=Zo%C3%AB+%26%20co&limit=2{cursor}").json
        got += [session["sessionId"] for session in page["sessions"]]
        cursor = page["nextCursor"] and f"&cursor={page['nextCursor']}"
    assert got == made[::-1]


def test_pages_of_history_meet_without_gap_or_overlap(instant):
    session = instant.ask("p0")
    for n in range(1, 4):
        instant.go_on(session["conversationId"], f"p{n}")
    whole = instant.get(f"/api/codex/history/{session['sessionId']}").json
    assert "nextBefore" not in whole and whole["messageCount"] == len(whole["messages"]) == 8
    got, before = [], ""
    while before is not None:
        page = instant.get(f"/api/codex/history/{session['sessionId']}?limit=3{before}").json
        assert page["messageCount"] == 8
        got = page["messages"] + got
        before = f"&before={page['nextBefore']}" if "nextBefore" in page else None
    assert got == whole["messages"]


def test_head_is_get_without_the_body(instant):
    with connect(instant) as client, client.makefile("rb") as stream:
        client.sendall(compose(instant, "HEAD", "/healthz"))
        head = read_answer(stream, head=True)
        client.sendall(compose(instant, "GET", "/healthz"))
        got = read_answer(stream)
    assert head.status == got.status == 200
    assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.body))


def test_every_path_tells_its_methods(instant, document):
    allowed = {}
    for method, path, _ in document.operations():
        allowed.setdefault(path, set()).add(method)
    for path, methods in allowed.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - methods:
            answer = exchange(instant, compose(instant, method, path.replace("{id}", "x"), JSON))
            assert answer.status == 405, (method, path, answer)
            told = set(answer.headers["allow"].split(", "))
            assert told == methods | ({"HEAD"} if "GET" in methods else set())
            document.check_answer("GET", "/healthz", 405, answer.json)


def test_a_request_id_comes_back_and_a_bad_one_does_not(instant):
    def ask(*headers):
        answer = exchange(instant, compose(instant, "GET", "/nowhere", *headers))
        assert answer.json["requestId"] == answer.headers["x-request-id"]
        return answer.headers["x-request-id"]

    assert ask("X-Request-Id: my-id_1.2") == "my-id_1.2"
    made = {ask(), ask(), ask("X-Request-Id: a b"), ask("X-Request-Id: " + "x" * 65), ask("X-Request-Id: ")}
    assert len(made) == 5 and all(len(name) == 16 for name in made)


def test_answers_may_not_be_stored_nor_sniffed(instant):
    for path in ("/healthz", "/health", "/nowhere", "/api/codex/stats"):
        answer = exchange(instant, compose(instant, "GET", path))
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_connection_serves_many_requests(instant):
    with connect(instant) as client, client.makefile("rb") as stream:
        for n in range(20):
            body = json.dumps({"prompt": f"n{n}"}).encode()
            client.sendall(compose(instant, "POST", "/api/codex/session", JSON, body=body))
            answer = read_answer(stream)
            assert answer.status == 200 and answer.headers["connection"] == "keep-alive"
        client.sendall(compose(instant, "GET", "/healthz") * 3)  # pipelined
        assert [read_answer(stream).status for _ in range(3)] == [200] * 3
        client.sendall(compose(instant, "GET", "/healthz", "Connection: close"))
        assert read_answer(stream).headers["connection"] == "close"
        assert stream.read() == b""


def test_an_asynchronous_turn_tells_where_to_look(instant, document):
    reply = instant.post(
        "/api/codex/session", {"prompt": "[[delay 300]] later"},
        headers={"Prefer": "wait=1, respond-async", "Idempotency-Key": "contract-async"},
    )
    assert reply.status == 202 and reply.headers["Preference-Applied"] == "respond-async"
    assert reply.headers["Location"] == f"/api/codex/turn/{reply['turnId']}"
    begun = time.monotonic()
    turn = instant.get(reply.headers["Location"] + "?waitMs=30000").json
    assert turn["status"] == "completed" and "later" in turn["response"]
    assert time.monotonic() - begun < 10 * SLOWNESS
    again = instant.post(
        "/api/codex/session", {"prompt": "[[delay 300]] later"},
        headers={"Prefer": "respond-async", "Idempotency-Key": "contract-async"},
    )
    assert again.status == 202 and again["turnId"] == reply["turnId"]
    assert again.headers["Idempotency-Replayed"] == "true" and again["status"] == "completed"


def test_an_idempotency_key_stands_for_one_turn(instant):
    body = {"prompt": "[[delay 500]] once"}
    answers = []

    def ask():
        answers.append(instant.post("/api/codex/session", body, headers={"Idempotency-Key": "contract-1"}))

    both = [threading.Thread(target=ask) for _ in range(4)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert sum(answer.headers["Idempotency-Replayed"] == "true" for answer in answers) == 3
    other = instant.post("/api/codex/session", {"prompt": "twice"}, headers={"Idempotency-Key": "contract-1"})
    assert (other.status, other["code"]) == (422, "idempotency_key_reused")
    elsewhere = instant.post("/api/codex/continue", body, headers={"Idempotency-Key": "contract-1"})
    assert elsewhere.status in (400, 422)
    for key in ("x" * 256, "a\tb"):
        data = compose(instant, "POST", "/api/codex/session", JSON, f"Idempotency-Key: {key}", body=b'{"prompt":"x"}')
        assert exchange(instant, data).status == 400


def test_waiting_requests_leave_threads_for_others(make_instant):
    daemon = make_instant("--http-threads", "16")  # half of them may wait
    results = []

    def wait():
        reply = daemon.post("/api/codex/session", {"prompt": "[[hang]]", "timeoutMs": 60_000})
        results.append(reply.status)

    waiters = [threading.Thread(target=wait) for _ in range(8)]
    for waiter in waiters:
        waiter.start()
    wait_until(lambda: daemon.stats()["turns"]["running"] == 8, "eight turns run")
    refused = daemon.post("/api/codex/session", {"prompt": "one more"})
    assert (refused.status, refused["code"]) == (503, "too_many_requests")
    assert int(refused.headers["Retry-After"]) > 0
    assert daemon.stats()["totalConversations"] == 8  # nothing was begun for it
    later = daemon.post("/api/codex/session", {"prompt": "in my own time"}, headers={"Prefer": "respond-async"})
    assert later.status == 202
    assert daemon.get(f"/api/codex/turn/{later['turnId']}?waitMs=1").status == 503
    assert daemon.get(f"/api/codex/turn/{later['turnId']}").status == 200
    daemon.stop()
    for waiter in waiters:
        waiter.join()
    assert results == [409] * 8  # each was told of the interruption


def test_during_shutdown_new_requests_are_told_to_come_back(make_instant):
    daemon = make_instant()
    kept = http.client.HTTPConnection(*daemon.address, timeout=30)
    kept.request("GET", "/healthz")
    assert kept.getresponse().read()
    waited = []

    def wait():
        waited.append(daemon.post("/api/codex/session", {"prompt": "[[deaf]]", "timeoutMs": 60_000}))

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until(lambda: daemon.health()["turns"]["running"] == 1, "the turn runs")
    time.sleep(0.5)  # Codex has it by now, and will not let go of it
    kept.request("GET", "/healthz")
    assert kept.getresponse().read()
    daemon.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    kept.request("GET", "/healthz")
    reply = kept.getresponse()
    assert reply.status == 503 and reply.headers["Connection"] == "close"
    assert int(reply.headers["Retry-After"]) > 0
    assert json.loads(reply.read())["code"] == "shutting_down"
    kept.close()
    assert daemon.process.wait(10 * SLOWNESS) == 0
    daemon.process = None
    waiter.join()
    assert waited[0].status == 409 and waited[0]["code"] == "turn_interrupted"
    assert waited[0].headers["Connection"] == "close"


def test_a_port_in_use_is_named(instant):
    result = instant.run("serve", "--port", str(instant.port), "--data-dir", str(instant.folder / "other"))
    assert result.returncode != 0 and str(instant.port) in result.stderr


def test_allowed_hosts_are_taken_up_at_sighup(make_instant, tmp_path):
    file = tmp_path / "config.json"
    file.write_text("{}")
    daemon = make_instant("--config", str(file))
    tunnel = compose(daemon, "GET", "/health", "Origin: http://localhost:8080", host="localhost:8080")
    assert exchange(daemon, tunnel).status == 403
    file.write_text(json.dumps({"allowedHosts": "box.example, localhost:8080"}))
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: exchange(daemon, tunnel).status == 200, "the tunnel's name is accepted")
    page = compose(daemon, "GET", "/health", "Origin: https://box.example", host="box.example")
    assert exchange(daemon, page).status == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2"])
def test_every_loopback_host_serves(make_instant, host):
    daemon = make_instant("--host", host)
    connection = http.client.HTTPConnection(host, daemon.port, timeout=30)
    connection.request("GET", "/health")  # no token: the peer is known on each of them
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "no-such-host.invalid", "1.2.3.4.5", ""])
def test_other_hosts_are_refused_with_a_reason(instant, host):
    result = instant.run("serve", "--port", "0", "--host", host, "--data-dir", str(instant.folder / "other"))
    assert result.returncode != 0 and (host or "host") in result.stderr, result
