"""Sessions: limits, expiry, the archive, listing, deletion."""

import time
import uuid

import pytest
from support.context import assert_context
from support.process import wait_until


def gone_sentence(conversation):
    return f"Session not found for conversation_id: {conversation}"


@pytest.mark.smoke
def test_the_eleventh_session_of_a_user_puts_the_least_recent_one_into_the_archive(daemon, model):
    sessions = [daemon.ask(f"topic {n}", userId="alice") for n in range(10)]
    daemon.go_on(sessions[0]["conversationId"], "topic 0 again")  # now number 1 is the least recent
    assert not any(session["metadata"]["evicted"] for session in sessions)

    eleventh = daemon.ask("topic 10", userId="alice")
    assert eleventh["metadata"]["evicted"] == [sessions[1]["sessionId"]]
    assert daemon.session(sessions[1]["sessionId"], status=404)["code"] == "session_not_found"
    listed = daemon.get("/api/codex/sessions?userId=alice&limit=100")["sessions"]
    assert {session["sessionId"] for session in listed} == {
        session["sessionId"] for session in [*sessions, eleventh]
    } - {sessions[1]["sessionId"]}
    # Another user's and the daemon's own sessions are not touched by it.
    assert daemon.ask("mine")["metadata"]["evicted"] == []
    assert daemon.ask("bob's", userId="bob")["metadata"]["evicted"] == []

    restored = daemon.post(f"/api/codex/session/{sessions[1]['sessionId']}/restore", {})
    assert restored.status == 200, restored
    assert restored["session"]["sessionId"] == sessions[1]["sessionId"]
    assert daemon.session(sessions[2]["sessionId"], status=404)  # the limit holds
    daemon.go_on(sessions[1]["conversationId"], "back again")
    assert_context(model, "topic 1", "back again")


def test_the_daemons_own_sessions_are_not_limited_by_default(daemon):
    made = [daemon.ask(f"topic {n}") for n in range(12)]
    assert [session["metadata"]["evicted"] for session in made] == [[]] * 12
    assert daemon.stats()["totalActiveSessions"] == 12


@pytest.mark.smoke
def test_a_session_expires_into_the_archive_and_comes_back_whole(daemon, model):
    first = daemon.ask("remember the tide", ttlSeconds=2)
    conversation = first["conversationId"]
    before = daemon.history(conversation)
    wait_until(lambda: daemon.get(f"/api/codex/session/{conversation}").status == 404, "it expires", 6)

    for reply in (
        daemon.get(f"/api/codex/history/{conversation}"),
        daemon.post("/api/codex/continue", {"conversationId": conversation, "prompt": "still there?"}),
    ):
        assert reply.status == 404
        assert reply["error"] == gone_sentence(conversation)
        assert reply["code"] == "session_not_found"
    wait_until(lambda: daemon.stats()["archivedSessions"] == 1, "the sweeper comes by", 5)
    assert daemon.stats()["totalActiveSessions"] == 0

    restored = daemon.post(f"/api/codex/session/{first['sessionId']}/restore", {})
    assert restored.status == 200, restored
    assert daemon.history(conversation) == before
    daemon.go_on(conversation, "what was it?")
    assert_context(model, "remember the tide", first["response"], "what was it?")
    assert daemon.post(f"/api/codex/session/{first['sessionId']}/restore", {}).status == 409


def test_the_time_to_live_slides_with_each_turn(daemon):
    conversation = daemon.ask("hello", ttlSeconds=4)["conversationId"]
    begun = time.monotonic()
    while time.monotonic() - begun < 6:
        daemon.go_on(conversation, "still here")
        time.sleep(1)
    session = daemon.session(conversation)
    assert session["status"] == "active"


def test_a_session_without_time_to_live_never_expires(daemon):
    session = daemon.session(daemon.ask("for ever", ttlSeconds=0)["sessionId"])
    assert session["expiresAt"] is None


def test_a_running_turn_keeps_its_session_alive(daemon):
    answer = daemon.ask("slow [[delay 3500]]", ttlSeconds=2)
    assert daemon.session(answer["sessionId"])["messageCount"] == 2


def test_what_expired_while_the_daemon_was_down_is_archived_at_its_start(daemon):
    conversation = daemon.ask("hello", ttlSeconds=1)["conversationId"]
    daemon.kill9()
    time.sleep(1.5)
    daemon.start()
    assert daemon.get(f"/api/codex/session/{conversation}").status == 404
    wait_until(lambda: daemon.stats()["archivedSessions"] == 1, "the sweeper archives it", 5)


def test_archive_days_of_nought_delete_at_once(make_daemon):
    daemon = make_daemon(args=["--archive-days", "0"]).start()
    first = daemon.ask("hello", ttlSeconds=1)
    time.sleep(1.3)
    cleaned = daemon.expect(200, daemon.post("/api/codex/cleanup", {}))
    assert cleaned["success"] is True and cleaned["timestamp"]
    assert cleaned["cleaned"] in (0, 1)  # the sweeper may have come first; never twice for one session
    wait_until(lambda: daemon.stats()["archivedSessions"] == 0, "it is deleted", 5)
    assert daemon.post(f"/api/codex/session/{first['sessionId']}/restore", {}).status == 404


def test_a_session_describes_itself(daemon):
    made = daemon.ask("  First line\nsecond", userId="carol", title="Talk", ttlSeconds=600, model="some-model")
    session = daemon.session(made["conversationId"])
    expected = {
        "sessionId": made["sessionId"], "conversationId": made["conversationId"], "status": "active",
        "model": "some-model", "sandbox": "read-only", "title": "Talk", "userId": "carol", "messageCount": 2,
        "initialPrompt": "  First line\nsecond", "cwd": str(daemon.home),
    }
    assert {key: session[key] for key in expected} == expected
    assert session["createdAt"] <= session["lastUsedAt"] < session["expiresAt"]
    assert session["engine"] and session["origin"]
    assert made["metadata"]["sandbox"] == "read-only"
    assert uuid.UUID(made["sessionId"]) and uuid.UUID(made["conversationId"])


def test_history_is_paged_backwards(daemon):
    conversation = daemon.ask("turn 0")["conversationId"]
    for n in range(1, 5):
        daemon.go_on(conversation, f"turn {n}")
    whole = daemon.history(conversation)
    assert len(whole) == 10
    page, collected, before = None, [], ""
    while page is None or before:
        page = daemon.expect(200, daemon.get(f"/api/codex/history/{conversation}?limit=4{before}"))
        assert len(page["messages"]) <= 4
        collected = [(message["type"], message["content"]) for message in page["messages"]] + collected
        before = f"&before={page['nextBefore']}" if page.get("nextBefore") else ""
    assert collected == whole
    got = daemon.expect(200, daemon.get(f"/api/codex/history/{conversation}"))
    assert got["identifier"] == conversation and got["messageCount"] == 10
    assert all(message["timestamp"] for message in got["messages"])


def test_a_listing_is_paged_and_filtered(daemon):
    made = [daemon.ask(f"topic {n}", userId="dora")["sessionId"] for n in range(5)]
    daemon.ask("another", userId="eve")
    seen, cursor = [], ""
    while True:
        page = daemon.expect(200, daemon.get(f"/api/codex/sessions?userId=dora&limit=2{cursor}"))
        seen += [session["sessionId"] for session in page["sessions"]]
        if not page.get("nextCursor"):
            break
        cursor = f"&cursor={page['nextCursor']}"
    assert seen == made[::-1]
    assert len(daemon.get("/api/codex/sessions?limit=100")["sessions"]) == 6


def test_a_deleted_session_is_gone_for_good(daemon):
    made = daemon.ask("delete me")
    gone = daemon.expect(200, daemon.request("DELETE", f"/api/codex/session/{made['conversationId']}"))
    assert gone["sessionId"] == made["sessionId"] and gone["deleted"] is True and gone["timestamp"]
    daemon.session(made["sessionId"], status=404)
    assert daemon.post(f"/api/codex/session/{made['sessionId']}/restore", {}).status == 404
    assert daemon.request("DELETE", f"/api/codex/session/{made['sessionId']}").status == 404
    assert daemon.stats()["totalActiveSessions"] == 0


def test_stats_count_turns_and_tokens(daemon, model):
    made = daemon.ask("one [[usage]]")
    daemon.go_on(made["conversationId"], "two [[usage]]")
    model.faults += [{"status": 500}] * 10
    daemon.go_on(made["conversationId"], "three", status=502)
    stats = daemon.stats()
    assert (stats["totalActiveSessions"], stats["totalConversations"]) == (1, 1)
    turns = {key: stats["turns"][key] for key in ("running", "completed", "failed")}
    assert turns == {"running": 0, "completed": 2, "failed": 1}
    assert "2400" in str(stats["tokens"]) and "68" in str(stats["tokens"])
    assert stats["uptime"] >= 0 and stats["memoryUsage"] and stats["oldestSession"] and stats["timestamp"]


REFUSED = [
    ({}, "Prompt is required"),
    ({"prompt": ""}, "Prompt is required"),
    ({"prompt": 5}, None),
    ({"prompt": "x", "timeoutMs": 10}, None),
    ({"prompt": "x", "ttlSeconds": -5}, None),
    ({"prompt": "x", "engine": "steam"}, None),
    ({"prompt": "x", "sandbox": "sandy"}, None),
    ({"prompt": "x", "cwd": "/no/such/folder"}, None),
    ({"prompt": "x", "cwd": "relative"}, None),
    ({"prompt": "x", "userId": "u" * 129}, None),
]


@pytest.mark.parametrize("body, sentence", REFUSED)
def test_a_bad_request_is_refused_with_a_sentence(shared_daemon, shared_model, body, sentence):
    reply = shared_daemon.post("/api/codex/session", body)
    assert reply.status == 400, reply
    assert reply["success"] is False and reply["code"] and reply["requestId"]
    assert reply["error"] == sentence if sentence else reply["error"]
    assert not shared_model.requests


def test_a_continue_needs_an_id(daemon):
    reply = daemon.post("/api/codex/continue", {"prompt": "x"})
    assert reply.status == 400
    assert reply["error"] == "Either conversationId or sessionId is required"
    unknown = str(uuid.uuid4())
    reply = daemon.post("/api/codex/continue", {"prompt": "x", "conversationId": unknown})
    assert reply.status == 404 and reply["error"] == gone_sentence(unknown)


def test_a_sandbox_above_the_ceiling_is_forbidden(daemon, model):
    reply = daemon.post("/api/codex/session", {"prompt": "x", "sandbox": "danger-full-access"})
    assert reply.status == 403 and reply["code"] == "sandbox_above_ceiling"
    assert not model.requests
