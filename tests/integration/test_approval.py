"""What the real Codex asks before it does it: approved, declined, too late, or more than the operator allows."""

import http.client
import json
import threading
import time

import pytest
from support.openapi import Document
from support.process import SLOWNESS, wait_until

ASYNC = {"Prefer": "respond-async"}
ASKING = {"approvalPolicy": "on-request", "sandbox": "read-only", "timeoutMs": 60_000}
ALL = ["--sandbox-ceiling", "danger-full-access"]


class Stream:
    """The events of a turn that it begins, or of everything; end() when it is not read to its end."""

    def __init__(self, daemon, path="/api/codex/events", body=None):
        self.connection = http.client.HTTPConnection(*daemon.address, timeout=30 * SLOWNESS)
        headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
        self.connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()

    def next(self):
        """The next event: (name, data)."""
        name, data = None, ""
        while True:
            line = self.response.readline().decode("utf-8").rstrip("\n")
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data += value
            elif not line and name:
                return name, json.loads(data)

    def until(self, wanted):
        """The data of the next event of that name, and the names of those before it."""
        before = []
        while True:
            name, data = self.next()
            if name == wanted:
                return data, before
            assert name not in ("turn.completed", "turn.failed"), (wanted, before, name, data)
            before.append(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.response.close()
        self.connection.close()


@pytest.fixture
def cwd(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def document():
    return Document()


def begin(daemon, cwd, prompt, **fields):
    """A stream of a new session's turn."""
    body = {"prompt": prompt, "cwd": str(cwd), **ASKING, **fields}
    return Stream(daemon, "/api/codex/session", body)


def answer(daemon, asked, decision):
    path = f"/api/codex/turn/{asked['turnId']}/approval"
    return daemon.post(path, {"approvalId": asked["approvalId"], "decision": decision})


@pytest.mark.smoke
@pytest.mark.parametrize("engine", ["app-server", "mcp"])
def test_what_is_approved_is_done_and_what_is_declined_is_not(make_daemon, cwd, document, engine):
    daemon = make_daemon(engine=engine, args=ALL).start()
    with begin(daemon, cwd, "[[escalate touch yes.txt]]") as stream:
        asked, _ = stream.until("approval.requested")
        assert asked["kind"] == "command" and "touch yes.txt" in asked["request"]["command"]
        assert asked["request"]["cwd"] == str(cwd)
        turn = daemon.turn(asked["turnId"])
        document.check_answer("GET", "/api/codex/turn/{id}", 200, turn)
        assert turn["status"] == "running" and not (cwd / "yes.txt").exists()
        with Stream(daemon) as late:  # who comes, or comes back, is told too
            assert late.until("approval.requested") == (asked, [])
        members = ("approvalId", "kind", "request", "expiresAt")
        assert turn["approvals"] == [{name: asked[name] for name in members}]
        reply = answer(daemon, asked, "approve")
        assert reply.status == 200, reply
        document.check_answer("POST", "/api/codex/turn/{id}/approval", 200, reply.json)
        resolved, _ = stream.until("approval.resolved")
        assert (resolved["approvalId"], resolved["decision"], resolved["by"]) == (asked["approvalId"], "approve", "rest")
        done, before = stream.until("turn.completed")
        assert "item" in before and (cwd / "yes.txt").exists()
    assert "approvals" not in daemon.turn(done["turnId"], 5000)
    late = answer(daemon, asked, "approve")
    assert (late.status, late["code"]) == (404, "approval_not_found")

    # the policy is the session's: a continue may be asked too
    body = {"sessionId": done["sessionId"], "prompt": "[[patch no.txt some words]]", "timeoutMs": 60_000}
    with Stream(daemon, "/api/codex/continue", body) as stream:
        asked, _ = stream.until("approval.requested")
        assert asked["kind"] == "patch"
        (change,) = asked["request"]["changes"]
        assert change["path"] == str(cwd / "no.txt") and "some words" in change["diff"]
        assert answer(daemon, asked, "decline").status == 200
        resolved, _ = stream.until("approval.resolved")
        assert resolved["decision"] == "decline"
        stream.until("turn.completed")
    assert not (cwd / "no.txt").exists()
    assert daemon.session(done["sessionId"])["approvalPolicy"] == "on-request"


def test_who_waits_without_a_stream_is_asked_too(make_daemon, cwd, document):
    """202 as soon as Codex asks; then each look with waitMs waits for the next question, or the end."""
    daemon = make_daemon(args=ALL).start()
    body = {"prompt": "[[escalate touch yes.txt]]", "cwd": str(cwd), **ASKING}
    headers = {"Idempotency-Key": "once"}
    reply = daemon.post("/api/codex/session", body, headers=headers)
    document.check_answer("POST", "/api/codex/session", 202, reply.json)
    assert (reply.status, reply["status"]) == (202, "running")
    assert reply.headers["Location"] == f"/api/codex/turn/{reply['turnId']}"
    assert "Preference-Applied" not in reply.headers
    (asked,) = reply["approvals"]
    again = daemon.post("/api/codex/session", body, headers=headers)
    assert (again.status, again.json) == (202, reply.json)
    assert answer(daemon, {**reply.json, **asked}, "approve").status == 200
    done = daemon.turn(reply["turnId"], 30_000)
    assert done["status"] == "completed" and (cwd / "yes.txt").exists()
    again = daemon.post("/api/codex/session", body, headers=headers)
    assert (again.status, again["response"]) == (200, done["response"])

    # begun at once, asked while somebody waits
    body = {"sessionId": done["sessionId"], "prompt": "[[escalate touch no.txt]]", "timeoutMs": 60_000}
    accepted = daemon.expect(202, daemon.post("/api/codex/continue", body, headers=ASYNC))
    begun = time.monotonic()
    turn = daemon.turn(accepted["turnId"], 60_000)
    assert time.monotonic() - begun < 30 and turn["status"] == "running"
    (asked,) = turn["approvals"]
    assert answer(daemon, {**turn, **asked}, "decline").status == 200
    assert daemon.turn(accepted["turnId"], 30_000)["status"] == "completed" and not (cwd / "no.txt").exists()


def test_of_two_answers_one_holds(make_daemon, cwd):
    daemon = make_daemon(args=ALL).start()
    accepted = daemon.ask("[[escalate touch raced.txt]]", status=202, headers=ASYNC, cwd=str(cwd), **ASKING)
    (asked,) = wait_until(lambda: daemon.turn(accepted["turnId"]).get("approvals"), "Codex asks", 30)
    asked["turnId"] = accepted["turnId"]
    replies = {}
    barrier = threading.Barrier(2)

    def race(decision):
        barrier.wait()
        replies[decision] = answer(daemon, asked, decision)

    threads = [threading.Thread(target=race, args=[decision]) for decision in ("approve", "decline")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wait_until(lambda: daemon.turn(accepted["turnId"], 1000)["status"] != "running", "the turn ends", 30)
    won = [decision for decision, reply in replies.items() if reply.status == 200]
    assert len(won) == 1, replies
    (lost,) = [reply for reply in replies.values() if reply.status != 200]
    # 404 when the turn had ended before the other one came
    assert (lost.status, lost["code"]) in ((409, "approval_answered"), (404, "approval_not_found"))
    assert (cwd / "raced.txt").exists() == (won == ["approve"])


def test_without_an_answer_it_is_declined_in_time(make_daemon, cwd):
    daemon = make_daemon(args=[*ALL, "--approval-timeout-ms", "1000"]).start()
    with begin(daemon, cwd, "[[escalate touch late.txt]]") as stream:
        asked, _ = stream.until("approval.requested")
        resolved, _ = stream.until("approval.resolved")
        assert (resolved["decision"], resolved["by"]) == ("decline", "timeout")
        assert answer(daemon, asked, "approve").status in (404, 409)
        done, _ = stream.until("turn.completed")
        assert "Rejected" in done["response"]
    assert not (cwd / "late.txt").exists()


def test_above_the_ceiling_nobody_is_asked(make_daemon, cwd):
    """The default ceiling, workspace-write: out of the sandbox is more than that, a patch inside cwd is not."""
    daemon = make_daemon().start()
    (cwd / "link").symlink_to(cwd.parent)
    for prompt, out in (
        (f"[[escalate touch {cwd}/out.txt]]", cwd / "out.txt"),
        ("[[patch ../out.txt words]]", cwd.parent / "out.txt"),
        ("[[patch link/out.txt words]]", cwd.parent / "out.txt"),
        ("[[patch .git/config words]]", cwd / ".git/config"),
    ):
        with begin(daemon, cwd, prompt) as stream:
            resolved, before = stream.until("approval.resolved")
            assert (resolved["decision"], resolved["by"]) == ("decline", "ceiling"), prompt
            assert "approval.requested" not in before
            stream.until("turn.completed")
        assert not out.exists()
    with begin(daemon, cwd, "[[patch in.txt words]]") as stream:
        asked, _ = stream.until("approval.requested")
        assert answer(daemon, asked, "approve").status == 200
        stream.until("turn.completed")
    assert (cwd / "in.txt").read_text() == "words\n"


def test_a_stop_with_an_open_question_ends_cleanly(make_daemon, cwd):
    daemon = make_daemon(args=ALL).start()
    with begin(daemon, cwd, "[[escalate touch stopped.txt]]") as stream:
        asked, _ = stream.until("approval.requested")
        stopping = threading.Thread(target=daemon.stop)
        stopping.start()
        resolved, _ = stream.until("approval.resolved")
        assert (resolved["decision"], resolved["by"]) == ("decline", "shutdown")
        stopping.join()
    daemon.start()
    turn = daemon.turn(asked["turnId"])
    assert (turn["status"], turn["code"]) == ("interrupted", "turn_interrupted")
    assert "approvals" not in turn and not (cwd / "stopped.txt").exists()
    assert daemon.go_on(turn["conversationId"], "go on", approvalPolicy="never")["success"]


def test_who_cannot_be_asked_is_told_so(make_daemon, cwd):
    daemon = make_daemon(engine="exec").start()
    reply = daemon.post("/api/codex/session", {"prompt": "x", **ASKING})
    assert (reply.status, reply["code"]) == (400, "approvals_unavailable")
    assert daemon.stats()["totalConversations"] == 0
    session = daemon.ask("x", cwd=str(cwd))
    reply = daemon.post("/api/codex/continue", {"prompt": "x", "approvalPolicy": "on-request", "sessionId": session["sessionId"]})
    assert (reply.status, reply["code"]) == (400, "approvals_unavailable")
