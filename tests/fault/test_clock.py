"""The clock jumps by a day, ahead and back: nothing is lost, nothing changes its place, and nobody's hour ends early."""

import glob
from datetime import datetime

import pytest
from support.daemon import Daemon

DAY = 86400
LIBRARY = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")


class ClockDaemon(Daemon):
    """A daemon whose wall clock the test sets; the monotonic one stays real."""

    def env(self):
        self.offset_path = self.folder / "offset"
        if not self.offset_path.exists():
            self.shift(0)
        return {**super().env(), "LD_PRELOAD": LIBRARY[0], "FAKETIME_TIMESTAMP_FILE": str(self.offset_path),
                "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_FORCE_MONOTONIC_FIX": "0"}  # its fix breaks waits that are right

    def shift(self, seconds):
        """The clock is so many seconds ahead of the real one from now on."""
        partial = self.folder / "offset.partial"
        partial.write_text(f"{seconds:+d}\n", "ascii")
        partial.replace(self.folder / "offset")

    def now(self):
        """Its wall clock, as its answers show it."""
        return self.stats()["timestamp"]

    def restore_expired(self, told):
        """A new daemon knows of no jumps: what was used while the clock was behind has expired for it."""
        for conversation in told:
            if self.get(f"/api/codex/session/{conversation}").status == 404:
                self.expect(200, self.post(f"/api/codex/session/{conversation}/restore"))

    def check(self, told):
        """Every conversation that was told, in the order in which it was."""
        for conversation, prompts in told.items():
            got = [content for kind, content in self.history(conversation) if kind == "user"]
            assert got == prompts, f"{conversation}: {got}"


@pytest.fixture
def daemon(ram, instant_codex):
    assert LIBRARY, "libfaketime is missing"
    made = ClockDaemon(ram / "one", codex=instant_codex, args=["--http-threads", "32"])
    yield made.start()
    made.discard()


@pytest.mark.parametrize("jumps", [(DAY, 0), (-DAY, 0), (DAY, -DAY, DAY, 0)], ids=["ahead", "back", "to and fro"])
def test_a_jump_of_a_day_expires_nobody_and_moves_nothing(daemon, jumps):
    told = {}
    for number in range(8):
        prompt = f"first {number}"
        told[daemon.ask(prompt)["conversationId"]] = [prompt]
    for step, seconds in enumerate(jumps):
        before = daemon.now()
        daemon.shift(seconds)
        after = daemon.now()
        assert abs(days_between(before, after)) >= 1, f"the clock did not jump: {before} {after}"
        assert daemon.expect(200, daemon.post("/api/codex/cleanup"))["cleaned"] == 0
        daemon.check(told)
        for conversation in list(told)[: len(told) // 2]:
            prompt = f"after jump {step}"
            daemon.go_on(conversation, prompt)
            told[conversation].append(prompt)
        told[daemon.ask(f"new {step}")["conversationId"]] = [f"new {step}"]
        assert daemon.expect(200, daemon.post("/api/codex/cleanup"))["cleaned"] == 0
        daemon.check(told)
    assert daemon.stats()["totalActiveSessions"] == len(told)
    daemon.restart()
    daemon.restore_expired(told)
    daemon.check(told)


def test_a_restart_with_a_clock_a_day_ahead_loses_nothing(daemon):
    """The daemon cannot tell a wrong clock from a day that passed: sessions may expire, and come back whole."""
    told = {}
    for number in range(4):
        conversation = daemon.ask(f"first {number}")["conversationId"]
        daemon.go_on(conversation, "second")
        told[conversation] = [f"first {number}", "second"]
    daemon.stop()
    daemon.shift(DAY)
    daemon.start()
    daemon.expect(200, daemon.post("/api/codex/cleanup"))
    daemon.restore_expired(told)
    daemon.check(told)
    daemon.stop()
    daemon.shift(-DAY)
    daemon.start()
    for conversation, prompts in told.items():
        daemon.go_on(conversation, "third")
        prompts.append("third")
    daemon.check(told)


def days_between(before, after):
    def parse(text):
        return datetime.fromisoformat(text.replace("Z", "+00:00"))

    return (parse(after) - parse(before)).total_seconds() / (DAY - 60)
