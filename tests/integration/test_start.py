"""scripts/start, as on a machine without credentials: demo model, real Codex, one command."""

import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import subprocess

import pytest
from support.codex import LAST_WITH_MCP, ROOT, codex_binary
from support.process import alive, command_line, descendants, wait_until


@pytest.fixture
def start(tmp_path):
    """Runs the script with more environment: (process, log, port) once it serves."""
    made = []

    def run(**more_env):
        log = tmp_path / "start.log"
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8", **more_env}
        command = [str(ROOT / "scripts/start"), "--port", "0", "--data-dir", str(tmp_path / "data")]
        with open(log, "wb") as out:
            process = subprocess.Popen(
                command, env=env, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                # a runner in the background passes on an ignored SIGINT, which no shell can trap any more
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        made.append(process)

        def listening():
            assert process.poll() is None, log.read_text()
            return re.search(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text())

        return process, log, int(wait_until(listening, "it listens", 300).group(1))

    yield run
    for process in made:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def post(port, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def test_start_serves_the_real_codex_with_the_demo_model_and_cleans_up(start):
    process, log, port = start()
    assert "DEMO" in log.read_text()
    assert get(port, "/health")[1]["demo"] is True

    status, first = post(port, "/api/codex/session", {"prompt": "my boat is called Argo"})
    assert status == 200, first
    status, second = post(
        port, "/api/codex/continue", {"conversationId": first["conversationId"], "prompt": "its name?"}
    )
    assert status == 200, second
    assert second["response"].startswith("I saw 3 messages (2 from you, 1 from me).")
    assert "my boat is called Argo" in second["response"]

    pids = descendants(process.pid)
    assert any("model_server.py" in " ".join(command_line(pid)) for pid in pids)
    home = ROOT / ".deps" / f"demo-{process.pid}"
    assert home.is_dir()
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    wait_until(lambda: not any(alive(pid) for pid in pids), "all that it started has ended", 3)
    assert not home.exists()


def test_ctrl_c_ends_start_too(start):
    process, _, port = start()
    assert get(port, "/healthz")[0] == 200
    pids = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    process.wait(15)
    wait_until(lambda: not any(alive(pid) for pid in pids), "all that it started has ended", 3)


@pytest.mark.parametrize("how", ["key", "login"])
def test_with_credentials_the_users_own_codex_runs_and_no_demo(start, tmp_path, how):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/codex").symlink_to(codex_binary(LAST_WITH_MCP))
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    if how == "key":
        env["OPENAI_API_KEY"] = "sk-0123456789"
    else:
        (tmp_path / ".codex").mkdir()
        (tmp_path / ".codex/auth.json").write_text('{"OPENAI_API_KEY": "sk-0123456789"}')
    process, log, port = start(**env)
    health = get(port, "/health")[1]
    assert health["demo"] is False and health["engine"]["version"] == LAST_WITH_MCP
    assert "DEMO" not in log.read_text()
    process.terminate()
    assert process.wait(15) == 0


def test_a_build_of_another_place_or_system_is_not_built_on(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup", tmp_path / "scripts")
    cache, kept = tmp_path / "build/release/CMakeCache.txt", tmp_path / "build/fuzz-corpus/json/seed"

    def is_left_after(made_on):
        for path in (cache, kept):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        if made_on is not None:
            (tmp_path / "build/made-on").write_text(made_on)
        subprocess.run([tmp_path / "scripts/setup", "--no-codex"], check=True, timeout=60)
        return cache.exists()

    assert not is_left_after(None)
    here = (tmp_path / "build/made-on").read_text()
    assert here.startswith(f"{tmp_path}\n")
    assert is_left_after(here)
    assert not is_left_after(here.replace(str(tmp_path), "/elsewhere"))
    assert not is_left_after(here.replace("debian", "another"))
    assert kept.exists()


def test_what_another_run_has_built_meanwhile_is_kept(tmp_path):
    for folder in ("scripts", ".deps", "build/release"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts/setup", tmp_path / "scripts")
    setup = [tmp_path / "scripts/setup", "--no-codex"]
    subprocess.run(setup, check=True, timeout=60)
    cache, made_on = tmp_path / "build/release/CMakeCache.txt", tmp_path / "build/made-on"
    here = made_on.read_text()
    made_on.write_text("elsewhere\n")
    with open(tmp_path / ".deps/build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(setup)
        wait_until(lambda: any("flock" in command_line(pid) for pid in descendants(process.pid)), "it waits", 20)
        made_on.write_text(here)
        cache.write_text("x")
    assert process.wait(60) == 0
    assert cache.exists()
