"""Other people's MCP clients, talking to the daemon over HTTP and over stdio: the programs themselves."""

import json
import queue
import subprocess
import threading

import pytest
from support.claude_model import ClaudeModel
from support.codex import LAST_WITH_MCP, codex_binary
from support.codex_home import write_codex_home
from support.mcp import CLAUDE, INSPECTOR, SDK_CLIENT, TASKS_CLIENT, Clients
from support.process import SLOWNESS, wait_until

WAYS = ("http", "stdio")


def url(daemon):
    return f"http://127.0.0.1:{daemon.port}/mcp"


def stdio(daemon):
    return [daemon.binary, "mcp", "--data-dir", daemon.data_dir]


@pytest.fixture
def clients(tmp_path, daemon):
    return Clients(tmp_path, daemon)


# ---- the TypeScript SDK ----


@pytest.mark.parametrize("way", WAYS)
def test_the_typescript_sdk_does_what_editors_do(make_daemon, tmp_path, way):
    daemon = make_daemon(args=["--sandbox-ceiling", "danger-full-access"]).start()
    clients = Clients(tmp_path, daemon)
    target = [url(daemon), daemon.run("token", "--data-dir", str(daemon.data_dir)).stdout.strip()]
    done = clients.run("node", SDK_CLIENT, *(target if way == "http" else stdio(daemon)))
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["server"] == "codex-sessiond"
    assert seen["errors"] == []
    assert {tool["name"] for tool in seen["tools"]} == {
        "codex", "codex-reply", "codex-sessions", "codex-history", "codex-fork", "codex-cancel",
    }
    assert all("outputSchema" in tool and "annotations" in tool for tool in seen["tools"])
    assert len(seen["progress"]) >= 2 and seen["progress"] == sorted(set(seen["progress"]))
    assert seen["first"]["content"].startswith("piece 1 piece 2")
    assert seen["second"]["content"].startswith("I saw 3 messages")
    assert seen["second"]["threadId"] == seen["first"]["threadId"] == seen["history"]["threadId"]
    assert seen["history"]["messageCount"] == 4
    assert len(seen["asked"]) == 1 and "echo out" in seen["asked"][0]
    assert "The command printed:" in seen["bold"]["content"] and str(clients.project) in seen["bold"]["content"]
    assert seen["task"] == ["taskCreated", "taskStatus", "result"]
    assert seen["taskResult"]["content"].startswith("I saw 5 messages")
    assert "enough" in seen["cancelled"] and seen["cancelledAfter"] < 2000 * SLOWNESS
    assert seen["unknown"] == -32602
    wait_until(lambda: daemon.stats()["turns"]["running"] == 0, "the cancelled turn has ended", 5)


def test_the_client_of_the_tasks_extension_gets_long_turns_as_tasks(make_daemon, tmp_path):
    daemon = make_daemon(args=["--sandbox-ceiling", "danger-full-access"]).start()
    clients = Clients(tmp_path, daemon)
    token = daemon.run("token", "--data-dir", str(daemon.data_dir)).stdout.strip()
    done = clients.run(
        "node", TASKS_CLIENT, url(daemon), token, clients.project, env={"NODE_PATH": str(INSPECTOR.parents[1])})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["errors"] == [] and seen["tools"] == 6
    assert set(seen["methods"]) == {"tools/call", "tasks/get", "tasks/update", "tasks/cancel"}
    assert seen["kind"] == "task" and seen["statuses"][-1] == "completed"
    assert seen["first"]["content"].startswith("I saw 1 message")
    assert seen["second"]["threadId"] == seen["first"]["threadId"]
    assert seen["second"]["content"].startswith("I saw 3 messages")
    assert len(seen["asked"]) == 1 and "echo out" in seen["asked"][0]
    assert "The command printed:" in seen["bold"]["content"] and str(clients.project) in seen["bold"]["content"]
    assert seen["cancelled"] == "cancelled"
    wait_until(lambda: daemon.stats()["turns"]["running"] == 0, "the cancelled turn has ended", 5)


# ---- MCP Inspector ----


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("way", WAYS)
def test_inspector_finds_nothing_to_complain_of(daemon, clients, way, era):
    target = [url(daemon), "--transport", "http"] if way == "http" else stdio(daemon)

    def inspect(method, *args):
        return clients.run(
            INSPECTOR, "--cli", *target, "--method", method, *args, "--format", "json", "--protocol-era", era,
        )

    listed = inspect("tools/list", "--strict")
    assert listed.returncode == 0, listed.stderr
    names = [tool["name"] for tool in json.loads(listed.stdout)["result"]["tools"]]
    assert names[:2] == ["codex", "codex-reply"]

    called = inspect("tools/call", "--tool-name", "codex", "--tool-args-json", '{"prompt": "hello"}')
    assert called.returncode == 0, called.stderr
    answer = json.loads(called.stdout)["result"]["structuredContent"]
    assert answer["content"].startswith("I saw 1 message")
    assert daemon.history(answer["threadId"])[0] == ("user", "hello")
    read = inspect("resources/read", "--uri", f"codex-session://{answer['threadId']}")
    assert "hello" in json.loads(read.stdout)["result"]["contents"][0]["text"], read.stderr

    assert inspect("tools/call", "--tool-name", "no-such-tool", "--tool-args-json", "{}").returncode == 5


def test_inspector_needs_the_right_token_if_it_sends_one(daemon, clients):
    def inspect(token):
        return clients.run(
            INSPECTOR, "--cli", url(daemon), "--transport", "http", "--method", "tools/list", "--header",
            f"Authorization: Bearer {token}",
        ).returncode

    assert inspect((daemon.data_dir / "token").read_text("ascii").strip()) == 0
    assert inspect("0" * 64) != 0


# ---- Claude Code ----


def test_claude_code_says_whether_it_is_connected(daemon, clients):
    clients.run(CLAUDE, "mcp", "add", "--transport", "http", "codex", url(daemon))
    assert "codex: " in (listed := clients.run(CLAUDE, "mcp", "list").stdout) and "✔ Connected" in listed
    daemon.stop()
    assert "codex: " in (listed := clients.run(CLAUDE, "mcp", "list").stdout) and "✔ Connected" not in listed


def test_claude_code_goes_on_over_http_after_the_daemon_was_killed(daemon, clients):
    daemon.restart_on_its_port()
    clients.run(CLAUDE, "mcp", "add", "--transport", "http", "codex", url(daemon))

    def begin(_):
        return "mcp__codex__codex", {"prompt": "my boat is called Argo"}

    def go_on(result):
        daemon.kill9()
        daemon.start()
        return "mcp__codex__codex-reply", {"prompt": "its name?", "threadId": json.loads(result)["threadId"]}

    with ClaudeModel() as claude:
        claude.calls = [begin, go_on]
        allowed = "mcp__codex__codex,mcp__codex__codex-reply"
        said = clients.run(CLAUDE, "-p", "Ask Codex twice.", "--allowedTools", allowed, env=claude.env)
    assert said.returncode == 0, said.stdout + said.stderr
    answer = json.loads(said.stdout)
    assert answer["content"].startswith("I saw 3 messages") and "Argo" in answer["content"]
    assert [kind for kind, _ in daemon.history(answer["threadId"])] == ["user", "assistant"] * 2


def test_a_turn_that_outlasts_claude_codes_patience_is_had_from_the_history(daemon, clients):
    clients.run(CLAUDE, "mcp", "add", "codex", "--", *stdio(daemon))
    asked = []

    def begin(_):
        return "mcp__codex__codex", {"prompt": "[[delay 3500]] build it", "background": True}

    def ask(result):
        said = json.loads(result)
        if not said.get("running", True):
            return None  # Claude says what it has got
        claude.calls.append(ask)
        asked.append(said["threadId"])
        return "mcp__codex__codex-history", {"threadId": said["threadId"], "wait": 1}

    with ClaudeModel() as claude:
        claude.calls = [begin, ask]
        said = clients.run(
            CLAUDE, "-p", "Build it.", "--allowedTools", "mcp__codex__codex,mcp__codex__codex-history",
            env={**claude.env, "MCP_TOOL_TIMEOUT": str(int(3000 * SLOWNESS))})
    assert said.returncode == 0, said.stdout + said.stderr
    assert len(asked) > 1 and set(asked) == {json.loads(said.stdout)["threadId"]}
    assert json.loads(said.stdout)["messages"][-1]["content"].startswith("I saw 1 message")


# ---- Codex ----


class AppServer:
    """Codex as a client: its app-server, which knows our daemon by its configuration."""

    def __init__(self, folder, home, settings):
        with open(home / "config.toml", "a", encoding="utf-8") as config:
            config.write(f"[mcp_servers.sessions]\n{settings}\n")
        self.log = open(folder / "app-server.log", "wb")
        self.process = subprocess.Popen(
            [codex_binary(), "app-server"],
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "CODEX_HOME": str(home)}, cwd=folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )
        self.answers = queue.Queue()
        self.numbers = 0
        threading.Thread(target=self._read, daemon=True).start()
        self.ask("initialize", {"clientInfo": {"name": "test", "version": "1"}})
        self._send({"method": "initialized"})

    def _read(self):
        for line in self.process.stdout:
            message = json.loads(line)
            if "id" in message and "method" not in message:
                self.answers.put(message)

    def _send(self, message):
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, method, params):
        self.numbers += 1
        self._send({"id": self.numbers, "method": method, "params": params})
        answer = self.answers.get(timeout=60 * SLOWNESS)
        assert answer["id"] == self.numbers and "result" in answer, answer
        return answer["result"]

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            self.log.close()


@pytest.fixture(params=WAYS)
def app_server(request, tmp_path, model, daemon):
    command, *args = map(str, stdio(daemon))
    settings = {
        "http": f"url = {json.dumps(url(daemon))}",
        "stdio": f"command = {json.dumps(command)}\nargs = {json.dumps(args)}",
    }
    home = tmp_path / "outer-codex"
    write_codex_home(home, model.url)
    (tmp_path / "outer").mkdir()
    server = AppServer(tmp_path / "outer", home, settings[request.param])
    yield server
    server.close()


def test_codex_holds_a_conversation_through_us_over_a_restart(daemon, app_server):
    (status,) = app_server.ask("mcpServerStatus/list", {})["data"]
    assert status["name"] == "sessions" and {"codex", "codex-reply"} <= set(status["tools"]), status
    outer = app_server.ask("thread/start", {"cwd": "/tmp"})["thread"]["id"]

    def call(tool, arguments):
        return app_server.ask("mcpServer/tool/call", {
            "server": "sessions", "threadId": outer, "tool": tool, "arguments": arguments,
        })["structuredContent"]

    first = call("codex", {"prompt": "my boat is called Argo"})
    assert first["content"].startswith("I saw 1 message")
    daemon.restart_on_its_port()
    second = call("codex-reply", {"prompt": "its name?", "threadId": first["threadId"]})
    assert "my boat is called Argo" in second["content"]
    assert second["threadId"] == first["threadId"]
    (contents,) = app_server.ask("mcpServer/resource/read", {
        "server": "sessions", "threadId": outer, "uri": f"codex-session://{first['threadId']}",
    })["contents"]
    read = json.loads(contents["text"])
    assert [message["content"] for message in read["messages"] if message["type"] == "user"] == [
        "my boat is called Argo", "its name?",
    ]


# ---- what `codex mcp-server` was ----


def tools_of_the_old_server(folder):
    requests = [
        {"id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list"},
    ]
    home = folder / "old-codex"
    home.mkdir()
    process = subprocess.Popen(
        [codex_binary(LAST_WITH_MCP), "mcp-server"], env={"PATH": "/usr/bin:/bin", "CODEX_HOME": str(home)},
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    try:
        for request in requests:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **request}) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline()) if "id" in request else None
    finally:
        process.kill()
        process.wait()
    return {tool["name"]: tool for tool in answer["result"]["tools"]}


def test_whoever_called_codex_mcp_server_can_call_us(daemon, clients, tmp_path):
    listed = clients.run(INSPECTOR, "--cli", *stdio(daemon), "--method", "tools/list", "--format", "json")
    ours = {tool["name"]: tool for tool in json.loads(listed.stdout)["result"]["tools"]}
    theirs = tools_of_the_old_server(tmp_path)
    assert set(theirs) == {"codex", "codex-reply"}

    def shape(schema):
        """Types and choices without the words."""
        return {
            name: (member["type"], set(member.get("enum", ()))) for name, member in schema["properties"].items()
        }

    for name, tool in theirs.items():
        taken = shape(ours[name]["inputSchema"])
        for argument, wanted in shape(tool["inputSchema"]).items():
            assert taken[argument] == wanted, f"{name}: {argument}"
        assert ours[name]["inputSchema"]["required"] == tool["inputSchema"]["required"]
        told = shape(ours[name]["outputSchema"])
        assert shape(tool["outputSchema"]).items() <= told.items(), "and what else is told is optional"
        assert set(ours[name]["outputSchema"]["required"]) == set(tool["outputSchema"]["required"])
