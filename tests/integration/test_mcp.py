"""MCP over HTTP: real daemon, real Codex."""

import json

import pytest
from support.mcp_client import SESSIONS, STATELESS, McpClient
from support.process import wait_until

EVERY_REVISION = (*SESSIONS, STATELESS)


def client_of(daemon, revision="2025-11-25", **options):
    client = McpClient(daemon.address, revision, **options)
    return client if revision == STATELESS else client.initialize()


def structured(answer):
    """The structured result, which the text repeats."""
    result = answer.result
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
    return result["structuredContent"]


@pytest.mark.parametrize("revision", EVERY_REVISION)
def test_a_conversation_goes_on_after_a_restart(daemon, revision):
    client = client_of(daemon, revision)
    first = structured(client.call("codex", {"prompt": "one"}))
    assert "You said: \"one\"" in first["content"]
    daemon.restart()
    client = client_of(daemon, revision)
    for name in ("threadId", "conversationId", "sessionId"):
        second = structured(client.call("codex-reply", {"prompt": name, name: first["threadId"]}))
        assert second["threadId"] == first["threadId"]
        assert f"You said: \"{name}\"" in second["content"] and "Before: " in second["content"]


@pytest.mark.parametrize("revision", EVERY_REVISION)
def test_progress_is_told_to_who_asked_for_it(daemon, revision):
    client = client_of(daemon, revision)
    got = client.call("codex", {"prompt": "[[deltas 4 20]]"}, meta={"progressToken": "p"})
    told = got.notes("notifications/progress")
    assert len(told) >= 4 and {note["progressToken"] for note in told} == {"p"}
    numbers = [note["progress"] for note in told]
    assert numbers == sorted(set(numbers)), "progress must grow"
    assert got.messages[-1] == got.response
    quiet = client.call("codex", {"prompt": "[[deltas 4 20]]"})
    assert quiet.notes("notifications/progress") == []


def is_running(daemon):
    return daemon.stats()["turns"]["running"] == 1


def has_ended(daemon, status):
    return daemon.stats()["turns"]["running"] == 0 and daemon.stats()["turns"][status] == 1


@pytest.mark.parametrize("revision", SESSIONS)
def test_a_cancelled_call_stops_codex_and_is_not_answered(daemon, revision):
    client = client_of(daemon, revision)
    stream = client.stream("tools/call", {"name": "codex", "arguments": {"prompt": "[[stall]]"}}, id="c-1")
    wait_until(lambda: is_running(daemon), "the turn runs", 10)
    assert client.notify("notifications/cancelled", {"requestId": "unknown"}).status == 202
    assert is_running(daemon)
    assert client.notify("notifications/cancelled", {"requestId": "c-1"}).status == 202
    assert list(stream.messages()) == []
    wait_until(lambda: has_ended(daemon, "cancelled"), "the turn is cancelled", 10)
    stream.close()


def test_who_goes_away_from_a_session_finds_the_answer_later(daemon):
    client = client_of(daemon)
    stream = client.stream("tools/call", {"name": "codex", "arguments": {"prompt": "[[delay 1500]]"}}, id=7)
    event, data = next(stream.events())
    assert event and data == ""
    stream.close()
    got = client.send("GET", headers={"Last-Event-ID": event}, accept="text/event-stream")
    assert got.status == 200 and got.response["id"] == 7
    thread = structured(got)["threadId"]
    assert client.send("GET", headers={"Last-Event-ID": event[:-1]}, accept="text/event-stream").status == 404
    other = client_of(daemon)
    assert other.send("GET", headers={"Last-Event-ID": event}, accept="text/event-stream").status == 404
    client.address = daemon.restart().address
    again = client.send("GET", headers={"Last-Event-ID": event}, accept="text/event-stream")
    assert again.status == 200 and structured(again)["threadId"] == thread
    assert client.request("ping").status == 404, "the session ended with the daemon"


def test_without_sessions_who_goes_away_has_cancelled(daemon):
    client = client_of(daemon, STATELESS)
    message = {"name": "codex", "arguments": {"prompt": "[[deltas 100 100]]"}, "_meta": {"progressToken": 1}}
    stream = client.stream("tools/call", message)
    next(stream.events())
    stream.close()
    wait_until(lambda: has_ended(daemon, "cancelled"), "the turn is cancelled", 10)
