"""A full disk: 507, reads go on, and room heals it without a restart."""

import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.process import wait_until


class SmallDisk:
    """A folder that is a small disk of its own, in a mount namespace that a sleeping process holds."""

    def __init__(self, folder, size="16m"):
        folder.mkdir(parents=True)
        self.folder = folder
        script = 'mount -t tmpfs -o size="$1",mode=700 small "$0" && echo ready && exec sleep 3600'
        self.holder = subprocess.Popen(["unshare", "-m", "sh", "-c", script, folder, size], stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"ready\n", "no mount namespace: root is needed"

    @property
    def inside(self):
        """The folder as seen from out here."""
        return Path(f"/proc/{self.holder.pid}/root{self.folder}")

    def fill(self):
        """Leave not a byte."""
        with open(self.inside / "filler", "ab", buffering=0) as filler:
            for size in (65536, 4096, 1):
                try:
                    while filler.write(b"\0" * size) == size:
                        pass
                except OSError:
                    pass

    def free(self):
        (self.inside / "filler").unlink()

    def end(self):
        self.holder.kill()
        self.holder.wait()


class DaemonOnSmallDisk(Daemon):
    disk = None

    def command(self):
        return ["nsenter", f"--mount=/proc/{self.disk.holder.pid}/ns/mnt", *super().command()]


@contextmanager
def small_disk_daemon(folder, instant_codex):
    daemon = DaemonOnSmallDisk(folder / "one", codex=instant_codex, args=["--http-threads", "64"])
    daemon.disk = SmallDisk(daemon.data_dir)
    try:
        yield daemon.start()
        daemon.discard()
    except BaseException:
        print(daemon.log_tail(60))
        if daemon.process:
            daemon.kill9()
        raise
    finally:
        daemon.disk.end()


@pytest.fixture
def daemon(ram, instant_codex):
    with small_disk_daemon(ram, instant_codex) as running:
        yield running


def refused_at_last(daemon, conversation):
    """Go on until there is no room: the prompts that were answered, and the refusal."""
    answered = []
    for number in range(2000):
        prompt = f"turn {number} {'x' * 20000}"
        reply = daemon.post("/api/codex/continue", {"conversationId": conversation, "prompt": prompt})
        if reply.status != 200:
            return answered, reply
        answered.append(prompt)
    raise AssertionError("the disk was never full")


def prompts(daemon, conversation):
    return [content for kind, content in daemon.history(conversation) if kind == "user"]


def test_a_full_disk_refuses_reads_on_and_heals(daemon):
    first = daemon.ask("before")
    conversation = first["conversationId"]
    pid = daemon.pid
    daemon.disk.fill()
    answered, reply = refused_at_last(daemon, conversation)
    assert (reply.status, reply["code"]) == (507, "disk_full"), reply
    assert reply["success"] is False
    for _ in range(5):
        created = daemon.post("/api/codex/session", {"prompt": "x" * 20000})
        assert (created.status, created["code"]) == (507, "disk_full"), created
    assert prompts(daemon, conversation) == ["before", *answered]
    assert daemon.session(conversation)["conversationId"] == conversation
    assert daemon.get("/healthz").status == 200
    daemon.stats()

    daemon.disk.free()
    daemon.go_on(conversation, "after")
    assert daemon.pid == pid
    assert prompts(daemon, conversation) == ["before", *answered, "after"]
    daemon.restart()
    assert prompts(daemon, conversation) == ["before", *answered, "after"]
    assert len(daemon.expect(200, daemon.get("/api/codex/sessions"))["sessions"]) == 1


def test_a_disk_that_fills_up_during_a_turn(daemon):
    """Nobody is told of an answer that has no room; when there is room again, the session goes on."""
    conversation = daemon.ask("before")["conversationId"]
    answered, _ = fill_and_use_up(daemon, conversation)
    daemon.disk.free()
    prompt = "held [[delay 800]] [[huge 3000000]]"
    held = daemon.post("/api/codex/continue", {"conversationId": conversation, "prompt": prompt},
                       headers={"Prefer": "respond-async"})
    turn = daemon.expect(202, held)["turnId"]
    daemon.disk.fill()
    time.sleep(2)
    assert daemon.turn(turn)["status"] != "completed"
    daemon.disk.free()
    ended = wait_until(lambda: (now := daemon.turn(turn, 1000))["status"] != "running" and now, "the turn ends", 15)
    answer = [("assistant", "x" * 3000000)] if ended["status"] == "completed" else []
    daemon.go_on(conversation, "after")
    got = daemon.history(conversation)
    assert [content for kind, content in got if kind == "user"] == ["before", *answered, prompt, "after"]
    assert [message for message in got if len(message[1]) > 1000000] == answer
    daemon.restart()
    assert daemon.history(conversation) == got


def test_a_client_that_waits_is_told_that_the_disk_is_full(daemon):
    conversation = daemon.ask("before")["conversationId"]
    threading.Timer(0.3, daemon.disk.fill).start()
    reply = daemon.post("/api/codex/continue",
                        {"conversationId": conversation, "prompt": "held [[delay 800]] [[huge 3000000]]"})
    assert (reply.status, reply["code"]) == (507, "disk_full"), reply
    assert reply["conversationId"] == conversation


def fill_and_use_up(daemon, conversation):
    daemon.disk.fill()
    return refused_at_last(daemon, conversation)
