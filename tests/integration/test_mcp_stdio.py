"""`codex-sessiond mcp`: editors talk to the daemon over stdio, whatever happens to the daemon."""

import json
import os
import queue
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from support.mcp import SDK, Bridge, HeldFolder, node_folder
from support.process import alive, command_line, wait_until
from support.proxy import Proxy

# What a stateless request says of itself.
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.fixture
def bridge():
    """A function that starts `codex-sessiond mcp`."""
    made = []

    def make(daemon, *args, **options):
        made.append(Bridge(daemon, *args, **options))
        return made[-1]

    yield make
    for one in made:
        one.discard()


@pytest.fixture
def served(make_daemon):
    """A folder without a daemon, to be served by one that the bridge starts: ended by its pid at last."""
    folder = make_daemon()
    yield folder
    pid = owner(folder)[0]
    if str(folder.data_dir) in command_line(pid):
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid), "the daemon has ended", 12)
    folder.log_path = folder.data_dir / "daemon.log"
    folder.check_log()


def owner(daemon):
    """The pid and port of the daemon that serves the folder."""
    return tuple(map(int, (daemon.data_dir / "lock").read_text("ascii").split()))


def with_settings(daemon):
    """The settings of Daemon.command() but the data folder."""
    return ["--port", "0", "--codex", str(daemon.codex)]


def text_of(result):
    assert not result.get("isError"), result
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
    return result["structuredContent"]["content"]


@pytest.mark.smoke
def test_a_conversation_goes_on_after_the_daemon_was_killed(daemon, bridge):
    editor = bridge(daemon)
    assert editor.initialize()["serverInfo"]["name"] == "codex-sessiond"
    first = editor.result(editor.call("codex", {"prompt": "my boat is called Argo", "cwd": "/tmp"}))
    thread = first["structuredContent"]["threadId"]
    daemon.kill9()
    daemon.start()
    second = editor.result(editor.call("codex-reply", {"prompt": "its name?", "threadId": thread}))
    assert text_of(second).startswith("I saw 3 messages")
    assert "my boat is called Argo" in text_of(second)
    assert second["structuredContent"]["threadId"] == thread
    assert [kind for kind, _ in daemon.history(thread)] == ["user", "assistant"] * 2
    assert editor.close() == 0


def test_editors_that_start_at_once_share_one_daemon_that_outlives_them(served, bridge):
    editors = [bridge(served, *with_settings(served)) for _ in range(6)]
    asked = [editor.ask("initialize", {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
    }) for editor in editors]
    for editor, number in zip(editors, asked):
        assert editor.result(number)["protocolVersion"] == "2025-06-18"
        editor.send("notifications/initialized")
    pid, port = owner(served)
    thread = editors[0].result(editors[0].call("codex", {"prompt": "hello"}))["structuredContent"]["threadId"]
    history = editors[5].result(editors[5].call("codex-history", {"threadId": thread}))["structuredContent"]
    assert history["messageCount"] == 2
    assert [editor.close() for editor in editors] == [0] * 6
    assert alive(pid) and owner(served) == (pid, port)
    assert os.getsid(pid) == pid
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)} == {str(served.data_dir / "daemon.log")}
    assert (served.data_dir / "daemon.log").stat().st_mode & 0o777 == 0o600


def test_a_daemon_that_is_gone_is_started_again_by_the_next_request(served, bridge):
    editor = bridge(served, *with_settings(served))
    editor.initialize()
    editor.ask("subscriptions/listen", {"_meta": META, "notifications": {"resourcesListChanged": True}})
    assert editor.next()["method"] == "notifications/subscriptions/acknowledged"
    first = owner(served)[0]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not alive(first), "it has ended", 12)
    with pytest.raises(queue.Empty):  # who waits for news waits
        editor.next(2.5)
    assert owner(served)[0] == first
    assert editor.result(editor.ask("ping")) == {}
    assert owner(served)[0] != first


def test_a_daemon_that_cannot_start_is_an_error_that_says_why(served, bridge):
    editor = bridge(served, "--port", "0", "--host", "192.0.2.1")
    error = editor.answer(editor.ask("ping"))["error"]
    assert error["code"] == -32000 and "--allow-remote" in error["message"]
    assert editor.close() == 1


def test_wrong_settings_are_an_exit_code(daemon, bridge):
    editor = bridge(daemon, "--no-such-setting")
    assert editor.process.wait(10) == 2
    assert editor.next() is None


def test_a_long_call_holds_up_nothing_and_can_be_cancelled(daemon, bridge):
    editor = bridge(daemon)
    editor.initialize()
    long = editor.call("codex", {"prompt": "[[stall]]"}, {"progressToken": "p"})
    assert editor.result(editor.ask("ping"), 5) == {}
    wait_until(lambda: daemon.stats()["turns"]["running"] == 1, "the turn runs")
    editor.send("notifications/cancelled", params={"requestId": long})
    wait_until(lambda: daemon.stats()["turns"]["running"] == 0, "the turn was stopped", 5)
    assert editor.result(editor.ask("ping"), 5) == {}
    assert editor.close() == 0
    assert not any(message.get("id") == long for message in editor.others)


def test_progress_comes_before_the_result_and_grows(daemon, bridge):
    editor = bridge(daemon)
    editor.initialize()
    editor.result(editor.call("codex", {"prompt": "[[deltas 20 20]]"}, {"progressToken": "p"}))
    told = [message["params"] for message in editor.others if message["method"] == "notifications/progress"]
    steps = [params["progress"] for params in told]
    assert len(steps) >= 2 and steps == sorted(set(steps)), steps
    assert {params["progressToken"] for params in told} == {"p"}


def test_stateless_requests_need_no_initialize(daemon, bridge):
    editor = bridge(daemon)
    assert "2026-07-28" in editor.result(editor.ask("server/discover", {"_meta": META}))["supportedVersions"]
    result = editor.result(editor.call("codex", {"prompt": "hello"}, META))
    assert result["resultType"] == "complete"
    assert editor.answer(editor.call("naïve", {}, META))["error"]["code"] == -32602
    long = editor.call("codex", {"prompt": "[[stall]]"}, META)
    wait_until(lambda: daemon.stats()["turns"]["running"] == 1, "the turn runs")
    editor.send("notifications/cancelled", params={"requestId": long})
    wait_until(lambda: daemon.stats()["turns"]["running"] == 0, "the turn was stopped", 5)
    assert editor.close() == 0


def test_codex_works_where_the_editor_runs_us(daemon, bridge, tmp_path):
    (tmp_path / "prüfung/sub").mkdir(parents=True)
    editor = bridge(daemon, cwd=tmp_path / "prüfung")
    editor.initialize()
    for given, expected in ({}, ""), ({"cwd": "sub"}, "/sub"), ({"cwd": "/tmp"}, None):
        result = editor.result(editor.call("codex", {"prompt": "[[tool pwd]]", **given}))
        folder = f"{tmp_path}/prüfung{expected}" if expected is not None else "/tmp"
        assert folder in text_of(result), result
    editor.close()


def test_lines_that_are_no_message_are_answered_and_harm_nothing(daemon, bridge):
    editor = bridge(daemon)
    editor.initialize()
    for raw, code in (
        (b"nonsense\n", -32700), (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}\n', -32700), (b"[]\n", -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}\n', -32600),
        (b'"' + b"x" * 9_000_000 + b'"\n', -32600),  # beyond the largest body
    ):
        editor.write(raw)
        answer = editor.next()
        assert (answer["id"], answer["error"]["code"]) == (None, code), raw[:40]
    editor.write(b"\n\r\n")
    assert editor.result(editor.ask("ping")) == {} and editor.others == []
    editor.write(b'{"jsonrpc":"2.0","id":"last","method":"ping"}')  # its end is that of stdin
    assert editor.close() == 0
    assert editor.answer("last")["result"] == {}


def test_stdin_ends_and_the_call_goes_on_in_the_daemon(daemon, bridge):
    editor = bridge(daemon)
    editor.initialize()
    editor.call("codex", {"prompt": "[[delay 4000]]"})
    wait_until(lambda: daemon.stats()["turns"]["running"] == 1, "the turn runs")
    begun = time.monotonic()
    assert editor.close() == 0
    assert time.monotonic() - begun < 3.5
    wait_until(lambda: daemon.stats()["turns"]["completed"] == 1, "the turn has completed", 10)


@pytest.mark.parametrize("stateless", [False, True])
def test_what_is_watched_stays_watched_over_a_restart(daemon, bridge, stateless):
    thread = daemon.ask("hello")["conversationId"]
    uri = f"codex-session://{thread}"
    editor = bridge(daemon)
    if stateless:
        editor.ask("subscriptions/listen", {"_meta": META, "notifications": {"resourceSubscriptions": [uri]}})
        assert editor.next()["method"] == "notifications/subscriptions/acknowledged"
    else:
        editor.initialize()
        editor.result(editor.ask("resources/subscribe", {"uri": uri}))
    daemon.kill9()
    daemon.start()

    def told():
        daemon.go_on(thread, "more")
        try:
            return (editor.next(1)["method"] == "notifications/resources/updated") or None
        except queue.Empty:
            return None

    wait_until(told, "the editor is told", 10)


def test_a_client_that_sends_too_much_at_once_is_told(daemon, bridge):
    editor = bridge(daemon)
    editor.initialize()
    editor.result(editor.ask("ping"))
    os.kill(daemon.pid, signal.SIGSTOP)
    tasks = [task / "stat" for task in Path(f"/proc/{daemon.pid}/task").iterdir()]
    wait_until(lambda: all(") T " in task.read_text() for task in tasks), "every thread has stopped")
    try:
        asked = [editor.ask("ping") for _ in range(130)]
        refused = [editor.next() for _ in range(2)]
        assert [answer["id"] for answer in refused] == asked[128:]
        assert {answer["error"]["code"] for answer in refused} == {-32000}
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert sorted(editor.next()["id"] for _ in range(128)) == asked[:128]


def test_a_call_whose_connection_breaks_gets_its_answer_once(make_daemon, bridge, model):
    with Proxy("127.0.0.1", 0) as proxy:
        daemon = make_daemon(args=["--allowed-hosts", f"127.0.0.1:{proxy.port}"]).start()
        proxy.target = daemon.address
        held = HeldFolder(daemon.folder / "held", daemon, proxy.port)
        editor = bridge(daemon, data_dir=held.path)
        editor.initialize()
        number = editor.call("codex", {"prompt": "[[delay 1500]]"}, {"progressToken": 1})
        wait_until(lambda: model.requests, "the model was asked")
        proxy.cut()
        result = editor.result(number)
        assert text_of(result).startswith("I saw 1 message")
        assert len(model.requests) == 1
        held.close()


def test_what_another_server_asks_reaches_the_editor_and_its_answer_the_server(daemon, bridge, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    example = SDK / "@modelcontextprotocol/sdk/dist/esm/examples/server/elicitationFormExample.js"
    held = HeldFolder(tmp_path / "held", daemon, port)
    server = subprocess.Popen(
        [f"{node_folder()}/node", example], env={"PORT": str(port)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        editor = bridge(daemon, data_dir=held.path)  # waits until it listens
        editor.initialize("2025-06-18", {"elicitation": {}})
        number = editor.call("register_user", {})
        asked = editor.next()
        assert asked["method"] == "elicitation/create"
        editor.send(id=asked["id"], result={"action": "accept", "content": {
            "username": "anna", "email": "anna@example.org", "password": "12345678"}})
        assert "Username: anna" in editor.result(number)["content"][0]["text"]
        assert editor.close() == 0
    finally:
        server.kill()
        server.wait()
        held.close()


@pytest.mark.parametrize("end", ["killed", "upgraded"])
@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25", None])  # the streams of the second can be resumed
def test_a_call_that_dies_with_the_daemon_is_an_answer_that_names_the_conversation(daemon, bridge, version, end):
    editor = bridge(daemon)
    meta = META if version is None else None
    if version:
        editor.initialize(version)
    thread = editor.result(editor.call("codex", {"prompt": "hello"}, meta))["structuredContent"]["threadId"]
    number = editor.call("codex-reply", {"prompt": "[[stall]]", "threadId": thread}, meta)
    wait_until(lambda: daemon.stats()["turns"]["running"] == 1, "the turn runs")
    if end == "killed":
        daemon.kill9()
        daemon.start()
    else:
        daemon.restart()
    answer = json.dumps(editor.answer(number))
    assert thread in answer and ('"error"' in answer or '"isError": true' in answer)
    assert "codex-history" in answer or "codex-reply" in answer, "what the model can do now"
    again = editor.result(editor.call("codex-reply", {"prompt": "and now?", "threadId": thread}, meta))
    assert "hello" in text_of(again)


def test_what_works_in_the_background_outlives_the_editor(daemon, bridge):
    first, second = bridge(daemon), bridge(daemon)
    first.initialize()
    second.initialize()
    begun = first.result(first.call("codex", {"prompt": "[[delay 1500]] build it", "background": True}))
    thread = begun["structuredContent"]["threadId"]
    assert "codex-history" in begun["structuredContent"]["content"]
    now = second.result(second.call("codex-history", {"threadId": thread}))["structuredContent"]
    assert now["running"] and [message["type"] for message in now["messages"]] == ["user"]
    assert first.close() == 0
    number = second.call("codex-history", {"threadId": thread, "wait": 50, "limit": 1})
    done = second.result(number)["structuredContent"]
    assert not done["running"] and done["messages"][0]["content"].startswith("I saw 1 message")
    # Whoever hears of the end may go on at once.
    assert text_of(second.result(second.call("codex-reply", {"prompt": "x", "threadId": thread})))
    assert second.close() == 0
