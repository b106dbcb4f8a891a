"""Hosts that were apart for hours, one of them with a wrong clock: when they meet again, all have all of it, and the figures
of that are shown."""

import random
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from chaos_oracle import Shown, Told, View, judge
from support.chaos import ChaosRedis, Line
from support.process import status_kb, wait_until
from test_clock import LIBRARY, ClockDaemon

HOUR = 3600
HOURS = 8
NAMES = ("alpha", "beta", "gamma")
WRONG = {"gamma": -3 * HOUR - 17}  # seconds that a host's clock is off


class Party:
    """Three hosts of one user, and what was said on them."""

    def __init__(self, folder, codex):
        self.now, self.tags, self.told, self.home = 0, 0, {}, {}
        self.redis = ChaosRedis(folder / "redis").start()
        self.lines = {name: Line("127.0.0.1", self.redis.port, random.Random(0)).start() for name in NAMES}
        self.hosts = {name: ClockDaemon(
            folder / name, codex=codex, engine="app-server",
            env={"REDIS_URL": f"redis://127.0.0.1:{self.lines[name].port}"},
            args=["--user", "anna", "--host-name", name, "--ttl-seconds", str(7 * 24 * HOUR), "--http-threads", "32",
                  "--log-level", "info"],
        ) for name in NAMES}

    def pass_time(self, seconds):
        self.now += seconds
        for name, host in self.hosts.items():
            host.shift(self.now + WRONG.get(name, 0))

    def start(self, ago):
        """At a time of the past: it passes faster than that of Redis."""
        for host in self.hosts.values():
            host.env()
        self.pass_time(-ago)
        for host in self.hosts.values():
            host.start()
        self.wait_for_state("online")

    def stop(self):
        for name, host in self.hosts.items():
            self.lines[name].mend()
            host.discard()
            self.lines[name].stop()
        self.redis.stop()

    def wait_for_state(self, state):
        for name, host in self.hosts.items():
            wait_until(lambda host=host: host.health()["redis"] == state, f"{name} is {state}", 30)

    # ---- what is said ----

    def tag(self):
        self.tags += 1
        return self.tags

    def say(self, name, told, tag):
        prompt = f"<{tag}> {'said on ' + name + ' ' * 8:x<{tag * 37 % 900}}"
        if told is None:
            reply = self.hosts[name].ask(prompt)
            told = Told(reply["sessionId"], reply["conversationId"], "anna")
            self.told[told.sid], self.home[told.sid] = told, name
        else:
            reply = self.hosts[name].go_on(told.cid, prompt)
        assert f"<{tag}>" in reply["response"], reply
        told.tags.add(tag)
        told.certain |= {("user", tag), ("assistant", tag)}

    def say_all(self, what):
        """Turns (host, session or None) as three busy users would: several at once, one per session and host."""
        with ThreadPoolExecutor(6) as pool:
            for done in [pool.submit(self.say, name, told, self.tag()) for name, told in what]:
                done.result()

    # ---- what became of it ----

    def sum(self, figure):
        return sum(host.get("/api/codex/sync")["sync"][figure] for host in self.hosts.values())

    def views(self):
        return {name: View(host.data_dir / "codex-sessiond.db") for name, host in self.hosts.items()}

    def converge(self, seconds):
        """Ask each host once, then wait until all have all. Seconds that it took."""
        begun = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda host: host.post("/api/codex/sync", {"waitMs": 60_000}), self.hosts.values()))

        def calm():
            held = {count_messages(host) for host in self.hosts.values()}
            return held == {2 * self.tags} and self.sum("pendingMessages") + self.sum("pendingSessions") == 0

        wait_until(calm, "all hosts have all messages, and nothing is pending", seconds, 0.2)
        return time.monotonic() - begun


def count_messages(host):
    database = sqlite3.connect(f"file:{host.data_dir}/codex-sessiond.db?mode=ro", uri=True, timeout=10)
    try:
        return database.execute("SELECT count(*) FROM message").fetchone()[0]
    finally:
        database.close()


@pytest.fixture
def party(ram, forgetful_codex):
    assert LIBRARY, "libfaketime is missing"
    made = Party(ram, forgetful_codex)
    yield made
    made.stop()


def stay_apart(party, sessions):
    """New sessions on each host, and turns: of sessions that all know, some on one host alone and some on several."""
    rng, common = random.Random(sessions), list(party.told.values())
    for line in party.lines.values():
        line.mode = "refuse"
        line.cut()
    party.wait_for_state("offline")
    new = sessions - len(common)
    for hour in range(HOURS):
        party.pass_time(HOUR)
        own = new // HOURS + (hour < new % HOURS)
        party.say_all([(NAMES[(hour + n) % 3], None) for n in range(own)])
        party.say_all([(party.home[told.sid], told) for told in list(party.told.values())[-own:]])
        several = rng.sample(common, len(common) // 4)
        party.say_all([(name, told) for told in several for name in rng.sample(NAMES, rng.choice([1, 1, 2, 3]))])


def check_alike(party):
    """All that the oracle of faults knows; and whoever is asked goes on with all that was said."""
    views = party.views()
    judge(views, Shown(party.redis), party.told, {"anna": None}, set())
    assert views["alpha"].live == party.told.keys(), "not all sessions are live"
    listed = {}
    for host in party.hosts.values():
        cursor = ""
        while cursor is not None:
            page = host.expect(200, host.get(f"/api/codex/sessions?limit=500{cursor}"))
            for one in page["sessions"]:
                listed.setdefault(one["sessionId"], []).append((one["sync"], one["messageCount"]))
            cursor = f"&cursor={page['nextCursor']}" if page["nextCursor"] else None
    for sid, seen in listed.items():
        assert len(seen) == 3 and len(set(seen)) == 1 and seen[0][0] in ("synced", "diverged"), f"{sid}: {seen}"
    branched = [sid for sid, seen in listed.items() if seen[0][0] == "diverged"]
    for sid in random.Random(1).sample(sorted(party.told.keys() - branched), 5):
        count = len(views["alpha"].rows[sid])
        reply = party.hosts["gamma"].go_on(party.told[sid].cid, "what did I say?")
        assert reply["response"].startswith(f"echo {count + 1}: "), f"{reply} after {count}"
    return branched


@pytest.mark.parametrize("sessions", [1000, pytest.param(10_000, marks=pytest.mark.long)])
def test_hosts_that_were_apart_for_hours_become_alike(party, sessions):
    party.start(ago=HOURS * HOUR)
    party.say_all([(NAMES[n % 3], None) for n in range(sessions // 4)])
    party.converge(60)
    before = {figure: party.sum(figure) for figure in ("commands", "bytesSent", "bytesReceived")}

    stay_apart(party, sessions)
    pending = party.sum("pendingMessages")
    for line in party.lines.values():
        line.mend()
    took = party.converge(20 + sessions // 50)

    after = {figure: party.sum(figure) - was for figure, was in before.items()}
    branched = check_alike(party)
    peak = {name: status_kb(host.pid, "VmHWM") // 1024 for name, host in party.hosts.items()}
    print(f"{sessions} sessions, {2 * party.tags} messages, {pending} of them pending on their hosts after {HOURS} hours apart: "
          f"alike after {took:.1f} s, {after['commands']} commands, {after['bytesSent']} bytes sent and "
          f"{after['bytesReceived']} received; {len(branched)} sessions with branches; peak RSS in MiB {peak}")
    assert pending >= sessions and len(branched) >= sessions // 25, "they were hardly apart"
