"""The daemon as a program: its verbs, its data folder, its start and its end."""

import json
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import threading
import time

import pytest
from support.codex import ROOT
from support.context import assert_context
from support.process import alive, as_user, children, command_line, descendants, wait_until

ASYNC = {"Prefer": "respond-async"}


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.smoke
def test_sigterm_with_turns_under_way_ends_in_time_and_leaves_nothing(make_daemon, model, engine):
    daemon = make_daemon(engine=engine).start()
    first = daemon.ask("hello")
    accepted = [daemon.ask(f"{n} [[stall]]", status=202, headers=ASYNC) for n in range(3)]
    wait_until(lambda: model.active == 3, "the model was asked")
    pids = descendants(daemon.pid)
    assert pids
    begun = time.monotonic()
    daemon.stop()
    assert time.monotonic() - begun < 10
    assert not any(alive(pid) for pid in pids)

    daemon.start()
    for one in accepted:
        assert daemon.turn(one["turnId"])["status"] == "interrupted"
    daemon.go_on(first["conversationId"], "again")
    assert_context(model, "hello", "again")


def test_an_idle_daemon_ends_at_once_and_leaves_no_log_of_the_database(daemon):
    daemon.ask("hello")
    begun = time.monotonic()
    daemon.stop()
    assert time.monotonic() - begun < 5
    wal = daemon.data_dir / "codex-sessiond.db-wal"
    assert not wal.exists() or wal.stat().st_size == 0
    assert daemon.process is None


def test_a_port_that_is_given_up_is_named_no_more(daemon):
    """Clients send the token to the port that the data folder names: it must not be a stranger's by then."""
    daemon.ask("hello")  # Codex has to end, after the port was given up
    owner = (daemon.data_dir / "lock").read_text("ascii").split()
    assert owner == [str(daemon.pid), str(daemon.port)]
    daemon.process.send_signal(signal.SIGTERM)
    while daemon.process.poll() is None:
        try:
            socket.create_connection(daemon.address, 10).close()
        except ConnectionError:
            assert (daemon.data_dir / "lock").read_text("ascii").split() == [owner[0], "0"]
    assert daemon.process.returncode == 0
    daemon.process = None


@pytest.mark.smoke
def test_a_second_daemon_on_the_same_data_names_the_first(daemon, make_daemon):
    second = make_daemon("two")
    second.data_dir = daemon.data_dir
    result = subprocess.run(
        second.command(), env=second.env(), capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode != 0
    assert str(daemon.pid) in result.stderr
    assert "listening" not in result.stdout + result.stderr
    assert daemon.ask("still fine")["success"] is True


def test_a_port_in_use_is_named(daemon, make_daemon):
    second = make_daemon("two", args=["--port", str(daemon.port)])
    result = subprocess.run(
        second.command(), env=second.env(), capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode != 0 and str(daemon.port) in result.stderr


def test_the_data_folder_is_private_whatever_the_umask(make_daemon):
    old = os.umask(0)
    try:
        daemon = make_daemon().start()
        daemon.ask("hello")
        backup = daemon.folder / "copy.db"
        assert daemon.run("backup", str(backup), "--data-dir", str(daemon.data_dir)).returncode == 0
    finally:
        os.umask(old)
    assert mode(daemon.data_dir) == 0o700
    files = [path for path in daemon.data_dir.rglob("*") if path.is_file()]
    assert any(path.name == "codex-sessiond.db" for path in files)
    assert {str(path): mode(path) for path in [*files, backup]} == {str(path): 0o600 for path in [*files, backup]}


@pytest.mark.smoke
def test_a_backup_while_serving_holds_all_that_was_acknowledged_before(daemon):
    acknowledged, stop = [], threading.Event()

    def work():
        while not stop.is_set():
            acknowledged.append(daemon.ask(f"note {len(acknowledged)}")["conversationId"])

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    wait_until(lambda: len(acknowledged) >= 10, "some turns are done", 30)
    before = list(acknowledged)
    backup = daemon.folder / "copy.db"
    result = daemon.run("backup", str(backup), "--data-dir", str(daemon.data_dir))
    stop.set()
    for worker in workers:
        worker.join()
    assert result.returncode == 0, result

    with sqlite3.connect(f"file:{backup}?mode=ro", uri=True) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    again = daemon.run("backup", str(backup), "--data-dir", str(daemon.data_dir))
    assert again.returncode != 0 and "copy.db" in again.stderr

    # The copy is a whole database: a daemon serves from it.
    daemon.stop()
    for path in daemon.data_dir.glob("codex-sessiond.db*"):
        path.unlink()
    os.rename(backup, daemon.data_dir / "codex-sessiond.db")
    daemon.start()
    for conversation in before:
        assert len(daemon.history(conversation)) == 2
    daemon.go_on(before[0], "after the restore")


def test_a_damaged_database_is_set_aside_and_the_daemon_says_so(daemon, make_daemon):
    for n in range(5):
        daemon.ask(f"note {n}")
    daemon.stop()
    database = daemon.data_dir / "codex-sessiond.db"
    with open(database, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(database.stat().st_size - 4096))
    damaged = database.read_bytes()

    daemon.start()
    kept = list(daemon.data_dir.glob("codex-sessiond.db.damaged-*"))
    assert any(path.read_bytes() == damaged for path in kept)
    assert all(mode(path) == 0o600 for path in kept)
    assert "damaged" in daemon.log()
    assert "damaged" in json.dumps(daemon.health())
    assert daemon.stats()["totalActiveSessions"] == 0
    first = daemon.ask("a new start")
    daemon.restart()
    assert "a new start" in daemon.go_on(first["conversationId"], "again")["response"]


def test_a_newer_database_is_refused_untouched(daemon):
    daemon.ask("hello")
    daemon.stop()
    path = daemon.data_dir / "codex-sessiond.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9999")
    database.close()
    before = path.read_bytes()
    with pytest.raises(AssertionError, match="ended with [1-9]"):
        daemon.start()
    daemon.process = None
    assert path.read_bytes() == before
    assert "newer" in daemon.log_tail()


def test_sighup_reloads_what_is_reloadable(make_daemon, model):
    daemon = make_daemon()
    config = daemon.folder / "config" / "codex-sessiond" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"model": "first-model"}')
    daemon.start()
    daemon.ask("hello")
    assert model.requests[-1]["model"] == "first-model"
    config.write_text('{"model": "second-model", "port": 1}')
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: "event=reloaded" in daemon.log(), "it says that it reloaded")
    daemon.ask("hello")
    assert model.requests[-1]["model"] == "second-model"
    assert daemon.get("/healthz").status == 200
    # A bad file changes nothing.
    config.write_text('{"modle": "x"}')
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: "modle" in daemon.log(), "it names the bad key")
    daemon.ask("hello")
    assert model.requests[-1]["model"] == "second-model"


BAD_SETTINGS = [
    (["--prot", "1"], {}, "prot"),
    (["--port", "70000"], {}, "port"),
    (["--engine", "steam"], {}, "engine"),
    ([], {"CODEX_SESSIOND_TTL_SECONDS": "soon"}, "TTL_SECONDS|ttl-seconds|ttlSeconds"),
    ([], {"CODEX_SESSIOND_NO_SUCH": "1"}, "NO_SUCH"),
]


@pytest.mark.parametrize("args, env, named", BAD_SETTINGS)
def test_a_bad_setting_is_an_error_that_names_it(make_daemon, args, env, named):
    result = make_daemon().run("serve", *args, env=env)
    assert result.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    assert re.search(named, result.stderr)


def test_a_secret_is_never_shown(make_daemon, model):
    secret = "sk-very-secret-0123456789"
    daemon = make_daemon(env={"OPENAI_API_KEY": secret}).start()
    daemon.ask("hello")
    shown = daemon.log() + daemon.get("/health").text + daemon.get("/api/codex/stats").text
    doctor = daemon.run("doctor", "--data-dir", str(daemon.data_dir))
    assert secret not in shown + doctor.stdout + doctor.stderr
    assert secret not in " ".join(command_line(daemon.pid))
    token = daemon.run("token", "--data-dir", str(daemon.data_dir)).stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{64}", token)
    assert token not in shown + doctor.stdout + doctor.stderr


def test_another_user_of_the_machine_needs_the_token(daemon):
    url = f"http://127.0.0.1:{daemon.port}/api/codex/stats"
    token = daemon.run("token", "--data-dir", str(daemon.data_dir)).stdout.strip()

    def status_as_nobody(*options):
        command = [*as_user(65534), "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *options, url]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

    assert daemon.get("/api/codex/stats").status == 200
    assert status_as_nobody() == "401"
    assert status_as_nobody("-H", "Authorization: Bearer " + "0" * 64) == "401"
    assert status_as_nobody("-H", f"Authorization: Bearer {token}") == "200"


def test_version_help_and_unknown_verbs(make_daemon):
    daemon = make_daemon()
    version = daemon.run("version")
    assert version.returncode == 0 and re.search(r"\b\d+\.\d+\.\d+\b", version.stdout)
    help_ = daemon.run("help")
    assert help_.returncode == 0
    for word in ("serve", "doctor", "token", "backup", "version", "--data-dir", "CODEX_SESSIOND_"):
        assert word in help_.stdout
    unknown = daemon.run("sevre")
    assert unknown.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT) and "sevre" in unknown.stderr


def test_doctor_tells_what_it_found_and_how_to_mend_it(make_daemon):
    daemon = make_daemon(env={"OPENAI_API_KEY": "sk-0123456789"})
    args = ["--data-dir", str(daemon.data_dir), "--port", "0"]
    good = daemon.run("doctor", *args, "--codex", str(daemon.codex))
    assert good.returncode == 0, good
    assert "0.169.0" in good.stdout and "app-server" in good.stdout
    bad = daemon.run("doctor", *args, "--codex", "/no/such/codex")
    assert bad.returncode == 1
    assert "/no/such/codex" in bad.stdout + bad.stderr


def test_without_codex_it_serves_and_says_what_is_wrong(make_daemon):
    daemon = make_daemon(codex="/no/such/codex").start()
    reply = daemon.post("/api/codex/session", {"prompt": "hello"})
    assert reply.status == 503 and reply["code"] == "codex_unavailable"
    assert daemon.get("/healthz").status == 200


def test_the_engine_is_found_by_itself(make_daemon):
    assert make_daemon().start().ask("hello")["metadata"]["engine"] == "app-server"


def test_idle_codex_processes_are_one_and_the_same(daemon):
    """A turn costs no new process."""
    first = daemon.ask("hello")
    before = children(daemon.pid)
    for n in range(5):
        daemon.go_on(first["conversationId"], f"again {n}")
        daemon.ask(f"other {n}")
    assert children(daemon.pid) == before


def test_the_openapi_document_is_served(daemon):
    document = daemon.expect(200, daemon.get("/api/codex/openapi.json"))
    assert document["openapi"].startswith("3.1")
    for path in ("/api/codex/session", "/api/codex/continue", "/api/codex/history/{id}", "/health"):
        assert path in document["paths"]


def test_the_source_tree_holds_no_build_output():
    assert not list((ROOT / "src").rglob("*.o"))
