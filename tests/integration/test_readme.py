"""Every command of README.md does what the README says."""

import json
import os
import re
import subprocess

import pytest
from support.claude_model import ClaudeModel
from support.codex import ROOT
from support.mcp import CLAUDE, QUIET, node_folder

README = (ROOT / "README.md").read_text("utf-8")
PORT = "127.0.0.1:3000"

# The two that other tests stand for: test_start.py runs the first, and the second runs this.
SCRIPTS = {"scripts/start", "scripts/test"}


def commands():
    """The commands of all shell blocks, without their comments, continued lines joined."""
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*$", "", line).strip()
            if command:
                yield command


def run(command, env):
    done = subprocess.run(
        ["bash", "-ec", command], env=env, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (0, 1), f"{command}\n{done.stdout}{done.stderr}"
    return done


@pytest.fixture
def shell_env(daemon, tmp_path):
    """An environment in which `codex-sessiond` is the tested one, with the running daemon's data."""
    path = tmp_path / "bin"
    path.mkdir()
    (path / "codex-sessiond").symlink_to(daemon.binary)
    return {
        **daemon.env(),
        "PATH": f"{path}:{os.environ['PATH']}", "CODEX_SESSIOND_DATA_DIR": str(daemon.data_dir),
        "CODEX_SESSIOND_CODEX": str(daemon.codex),
    }


def test_the_scripts_of_the_readme_exist():
    named = {command for command in commands() if command.startswith("scripts/")}
    assert named == SCRIPTS
    assert all(os.access(ROOT / name, os.X_OK) for name in named)


def test_the_conversation_of_the_readme_survives_a_kill(daemon, shell_env):
    curls = [command for command in commands() if command.startswith("curl -s ")]
    assert [re.search(r"/api/codex/\w+", curl).group() for curl in curls] == [
        "/api/codex/session", "/api/codex/continue", "/api/codex/history",
    ]
    first = json.loads(run(curls[0].replace(PORT, f"127.0.0.1:{daemon.address[1]}"), shell_env).stdout)
    assert first["success"] is True
    assert set(re.findall(r'"(\w+)":', re.search(r"```json\n(.*?)```", README, re.DOTALL).group(1))) == (
        set(first) | set(first["metadata"]) | set(first["metadata"]["usage"])
    )
    daemon.kill9()
    daemon.start()
    env = {**shell_env, "CONVERSATION": first["conversationId"]}
    second = json.loads(run(curls[1].replace(PORT, f"127.0.0.1:{daemon.address[1]}"), env).stdout)
    assert "lucky number is 7" in second["response"]
    history = json.loads(run(curls[2].replace(PORT, f"127.0.0.1:{daemon.address[1]}"), env).stdout)
    assert [message["type"] for message in history["messages"]] == ["user", "assistant"] * 2


def test_the_streams_of_the_readme_stream(daemon, shell_env):
    curls = [command for command in commands() if command.startswith("curl -sN ")]
    one, all_of_them = (curl.replace(PORT, f"127.0.0.1:{daemon.address[1]}") for curl in curls)
    said = re.findall(r"^event: (.*)$", run(one, shell_env).stdout, re.MULTILINE)
    assert said[0] == "turn.started" and "message.delta" in said and said[-1] == "turn.completed"
    endless = ["timeout", "60", "bash", "-ec", f"exec {all_of_them}"]
    with subprocess.Popen(endless, env=shell_env, stdout=subprocess.PIPE, text=True) as follower:
        kept = [line for line in iter(follower.stdout.readline, "event: turn.completed\n") if line]
        follower.terminate()
    assert "event: turn.started\n" in kept and "event: message.delta\n" not in kept


def test_the_verbs_of_the_readme_run(daemon, shell_env, tmp_path):
    expected = {
        "serve": None,  # it is what serves here
        "doctor": "engine app-server",
        "token": (daemon.data_dir / "token").read_text("ascii").strip(),
        "sync": "No Redis is set",
        "backup": "wrote",
        "mcp": "",  # Claude Code runs it, below; without a line on stdin it ends at once
        "version": "codex-sessiond ",
        "help": "--sandbox-ceiling",
    }
    verbs = [command for command in commands() if command.startswith("codex-sessiond ")]
    assert [verb.split()[1] for verb in verbs] == list(expected)
    for command in verbs:
        verb = command.split()[1]
        if expected[verb] is None:
            continue
        done = run(command.replace("/tmp/", f"{tmp_path}/"), shell_env)
        assert expected[verb] in done.stdout + done.stderr, command
    assert (tmp_path / "sessions.db").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def claude_env(shell_env):
    return {**shell_env, **QUIET, "PATH": f"{CLAUDE.parent}:{node_folder()}:{shell_env['PATH']}"}


def test_claude_code_is_connected_as_the_readme_says(daemon, claude_env, tmp_path):
    stdio, shown, http = [command for command in commands() if command.startswith("claude ")]
    tail = json.loads(re.search(r'^{"mcpServers".*', README, re.MULTILINE).group())["mcpServers"]["codex"]
    assert stdio.endswith(f"-- {tail['command']} {' '.join(tail['args'])}")
    expected = re.search("^codex: .*", README, re.MULTILINE).group()
    for name, add, line in (("a", stdio, expected), ("b", http, expected[-len("✔ Connected") :])):
        env = {**claude_env, "HOME": str(tmp_path / name)}
        run(add.replace(PORT, f"127.0.0.1:{daemon.port}"), env)
        assert line in run(shown, env).stdout


def test_claude_code_has_the_conversation_of_the_readme(daemon, claude_env, tmp_path):
    (_, first), (_, second) = calls = re.findall(r"^→ (codex\S*) (.*)$", README, re.MULTILINE)
    tools = [f"mcp__codex__{tool}" for tool, _ in calls]
    answer = json.loads(re.search(r'^← ({"threadId".*)$', README, re.MULTILINE).group(1))

    def go_on(result):
        begun = json.loads(result)
        assert set(begun) == set(answer)
        daemon.kill9()
        daemon.start()
        return tools[1], json.loads(second.replace(answer["threadId"], begun["threadId"]))

    run(next(command for command in commands() if command.startswith("claude ")), claude_env)
    with ClaudeModel() as claude:
        claude.calls = [lambda _: (tools[0], json.loads(first)), go_on]
        said = run(f"claude -p Begin. --allowedTools {','.join(tools)}", {**claude_env, **claude.env}).stdout
    assert set(json.loads(said)) == set(answer) and "Argo" in json.loads(said)["content"]


def test_what_the_readme_installs_runs_and_is_what_its_service_starts(daemon, tmp_path):
    install, enable = [command for command in commands() if command.startswith(("cmake ", "systemctl "))]
    built = os.path.dirname(os.path.realpath(daemon.binary))
    run(install.replace("build/release", built), {**daemon.env(), "HOME": str(tmp_path)})
    unit = tmp_path / f".local/share/systemd/user/{enable.split()[-1]}.service"
    program, verb = re.search(r"^ExecStart=(\S+) (\w+)$", unit.read_text("utf-8"), re.MULTILINE).groups()
    assert program == str(tmp_path / ".local/bin/codex-sessiond") and verb == "serve"
    assert run(f"{program} version", daemon.env()).stdout.startswith("codex-sessiond ")


def test_no_command_of_the_readme_is_left_out():
    known = ("scripts/", "cmake ", "systemctl ", "curl ", "claude ", "codex-sessiond ")
    assert [command for command in commands() if not command.startswith(known)] == []
