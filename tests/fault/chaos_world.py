"""Three daemons, one Redis, users who do as they please, and everything that can go wrong, in the order that a seed
decides."""

import http.client
import json
import os
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from chaos_oracle import Shown, Told, View, judge, name_of
from support.chaos import Background, ChaosRedis, Line, Network
from support.daemon import Daemon
from support.process import SLOWNESS, wait_until

NAMES = ("alpha", "beta", "gamma")
LIMITS = {"anna": None, "bob": 3}
GONE = (OSError, http.client.HTTPException)
HEALED_S = 30  # all has been exchanged so many seconds after the last fault
ALONE_S = 45  # and so many when nobody asks for it: the longest back-off that the faults here lead to


class Host:
    """A daemon and its way to Redis: a line that fails, or a cable that is pulled out."""

    def __init__(self, number, folder, codex, redis, rng):
        self.number, self.name = number, NAMES[number]
        self.cable = redis.network is not None and rng.random() < 0.34
        self.line = None if self.cable else Line(redis.address(number), redis.port, rng).start()
        where = (redis.address(number), redis.port) if self.cable else ("127.0.0.1", self.line.port)
        self.daemon = Daemon(
            folder / self.name, codex=codex, engine="app-server", env={"REDIS_URL": "redis://%s:%d" % where},
            args=["--user", "anna", "--host-name", self.name, "--session-limit", str(LIMITS["bob"]),
                  "--http-threads", "32", "--log-level", "info"],
        )
        self.backup = folder / f"{self.name}.backup"
        self.cut_off = None  # since when no word of Redis reaches it, by the wall

    def alive(self):
        return self.daemon.process is not None

    def view(self):
        return View(self.daemon.data_dir / "codex-sessiond.db")

    def hears_nothing(self):
        """Whether what Redis told it before it was cut off is all in its database: it has noticed since."""
        reply = self.cut_off and self.request("GET", "/api/codex/sync")
        if not reply:
            return False
        sync = reply["sync"]
        return sync["state"] not in ("online", "full") and datetime.fromisoformat(sync["since"]) > self.cut_off

    def request(self, *args, **options):
        """The reply; None when the daemon went away meanwhile."""
        try:
            return self.daemon.request(*args, **options)
        except GONE:
            return None


class World:
    """Faults and users' actions are methods do_…; run() chooses among them."""

    def __init__(self, seed, folder, codex):
        self.seed, self.folder, self.rng = seed, folder, random.Random(seed)
        self.network = Network(len(NAMES)).start() if Network.usable() else None
        self.redis = ChaosRedis(folder / "redis", self.network).start()
        self.hosts = [Host(n, folder, codex, self.redis, self.rng) for n in range(len(NAMES))]
        self.told, self.lost_creates = {}, {}
        self.tags, self.turns, self.flying = 0, 0, set()
        self.background, self.story, self.problems = Background(), [], []
        self.silent_loss = False  # Redis lost something while nobody's connection ended
        self.lost = set()  # conversations whose key alone vanished
        self.seen = {}  # host → what its database had

    # ---- life ----

    def begin(self):
        for host in self.hosts:
            host.daemon.start()
        for host in self.hosts:
            wait_until(lambda host=host: host.daemon.health()["redis"] == "online", f"{host.name} is online", 15)
        for _ in range(2):
            for host in self.hosts:
                self.do_create(host)

    def end(self):
        """Ends all, whatever its state; daemons must end well."""
        problems = []
        self.redis.go_on()
        for host in self.hosts:
            try:
                if host.alive():
                    host.daemon.process.send_signal(signal.SIGCONT)
                host.daemon.discard()
            except AssertionError as problem:
                problems.append(str(problem))
            if host.line:
                host.line.mend()
                host.line.stop()
        self.redis.stop()
        if self.network:
            self.network.stop()
        assert not problems, "\n".join(problems)

    def say(self, text):
        self.story.append(f"{time.monotonic():.3f} {text}")

    # ---- choosing ----

    def run(self, rounds, steps):
        for _ in range(rounds):
            for _ in range(self.rng.randint(*steps)):
                self.step()
            self.heal()
            self.settle(alone=not self.silent_loss and self.rng.random() < 0.6)
            if self.rng.random() < 0.5:
                self.repeat_the_past()
        self.go_on_anywhere()
        self.settle()

    def step(self):
        names = list(ACTIONS)
        name = self.rng.choices(names, [ACTIONS[each] for each in names])[0]
        begun = time.monotonic()
        getattr(self, f"do_{name}")(self.rng.choice(self.hosts))
        self.say(f"  {name} took {time.monotonic() - begun:.3f}")
        self.check_step()

    def pick(self):
        """A session, mostly a recent one."""
        known = list(self.told.values())
        return self.rng.choice(known[-6:] if self.rng.random() < 0.7 else known) if known else None

    def prompt(self):
        self.tags += 1
        size = self.rng.choice([0, 0, 10, 300, 5000])
        return self.tags, f"<{self.tags}> {'é🐕x' * (size // 3)}"

    # ---- users ----

    def do_create(self, host):
        if not host.alive():
            return
        tag, prompt = self.prompt()
        user = "bob" if self.rng.random() < 0.3 else "anna"
        body = {"prompt": prompt, **({"userId": user} if user == "bob" else {})}
        self.lost_creates[tag] = user
        reply = host.request("POST", "/api/codex/session", body)
        self.say(f"{host.name} creates <{tag}> of {user}: {reply and reply.status}")
        if reply is None:
            return
        assert reply.status == 200, reply
        del self.lost_creates[tag]
        told = self.told[reply["sessionId"]] = Told(reply["sessionId"], reply["conversationId"], user)
        self.acknowledge(told, tag, reply)

    def acknowledge(self, told, tag, reply):
        assert f"<{tag}>" in reply["response"], f"an answer to something else: {reply}"
        told.tags.add(tag)
        told.certain |= {("user", tag), ("assistant", tag)}
        self.turns += 1

    def go_on(self, host, told, tag, prompt):
        """Any thread."""
        told.tags.add(tag)
        self.flying.add(tag)
        try:
            reply = host.request("POST", "/api/codex/continue", {"conversationId": told.cid, "prompt": prompt})
            self.say(f"{host.name} goes on with {told.sid[-4:]} <{tag}>: {reply and (reply.status, reply.body[:90])}")
            if reply is None:
                return
            if reply.status == 200:
                self.acknowledge(told, tag, reply)
            elif reply.status in (404, 409) and reply.json.get("code") != "turn_interrupted":
                told.refused.add(tag)
            else:
                self.problems.append(f"{host.name} answers {reply}")
        except AssertionError as problem:
            self.problems.append(str(problem))
        finally:
            self.flying.discard(tag)

    def do_continue(self, host):
        told = self.pick()
        if told and host.alive():
            self.go_on(host, told, *self.prompt())

    def do_twice(self, host):
        """Two hosts go on at once."""
        told, other = self.pick(), self.rng.choice(self.hosts)
        if told and host.alive() and other.alive():
            with ThreadPoolExecutor(2) as pool:
                for one in (host, other):
                    pool.submit(self.go_on, one, told, *self.prompt())

    def do_slow(self, host):
        """A turn that is under way while other things happen."""
        told = self.pick()
        if told and host.alive():
            tag, prompt = self.prompt()
            delay = self.rng.choice([50, 200, 600])
            self.background.start(self.go_on, host, told, tag, f"{prompt} [[delay {delay}]]")

    def do_delete(self, host):
        told = self.pick()
        if not told or not host.alive():
            return
        deaf = host.hears_nothing()
        before = host.view().messages(told.sid)
        unseen = told.messages() - before
        if deaf:
            unseen = {message for message in unseen if message[1] in self.flying}
        reply = host.request("DELETE", f"/api/codex/session/{told.sid}")
        self.say(f"{host.name} deletes {told.sid[-4:]}: {reply and reply.status}")
        told.was_deleted = told.was_deleted or reply is None or reply.status == 200
        if reply is None:
            told.doubtful |= before | told.messages()
        elif reply.status == 200:
            told.covered |= before
            told.doubtful |= unseen
            told.deleted_by.setdefault(host.name, set()).update(before)
        else:
            assert reply.status in (404, 409), reply

    def do_restore(self, host):
        archived = [sid for sid, told in self.told.items() if told.user == "bob" or told.was_deleted]
        if archived and host.alive():
            sid = self.rng.choice(archived)
            reply = host.request("POST", f"/api/codex/session/{sid}/restore")
            self.say(f"{host.name} restores {sid[-4:]}: {reply and reply.status}")
            assert reply is None or reply.status in (200, 404, 409), reply

    def do_wait(self, _):
        time.sleep(self.rng.uniform(0.02, 0.3))

    # ---- lines ----

    def break_line(self, host, mode):
        if host.line:
            host.line.mode = mode
            self.say(f"the line of {host.name}: {mode}")
            if mode == "refuse":
                host.line.cut()
            if mode in ("refuse", "stall", "hole", "swallow"):
                host.cut_off = host.cut_off or datetime.now(UTC)

    def do_delay(self, host):
        self.break_line(host, "slow")

    def do_swallow(self, host):
        self.break_line(host, "swallow")

    def do_hold(self, host):
        self.break_line(host, "hold")

    def do_stall(self, host):
        self.break_line(host, self.rng.choice(["stall", "hole", "refuse"]))

    def do_flaky(self, host):
        self.break_line(host, "flaky")

    def do_cut(self, host):
        if host.line:
            host.line.cut_after(self.rng.randrange(1, 3000))
            self.say(f"the line of {host.name} is cut after {host.line.left} bytes")

    def do_link(self, host):
        if host.cable:
            far = self.rng.random() < 0.5
            self.network.link(host.number, "down", far)
            self.say(f"the cable of {host.name} is out, at the far end: {far}")
            host.cut_off = host.cut_off or datetime.now(UTC)

    def do_mend(self, host):
        self.mend(host)
        self.say(f"{host.name} reaches Redis again")

    def mend(self, host):
        if host.line:
            host.line.mend()
        else:
            for far in (False, True):
                self.network.link(host.number, "up", far)
        host.cut_off = None

    def do_replay(self, host):
        """Requests of before arrive once more."""
        if host.line and host.line.written:
            count = self.rng.randint(1, min(8, len(host.line.written)))
            begin = self.rng.randrange(len(host.line.written) - count + 1)
            host.line.replay(host.line.written[begin : begin + count])
            self.say(f"{count} requests of {host.name} arrive again")

    def do_deliver(self, host):
        if host.line:
            self.say(f"{host.line.deliver_held()} held requests of {host.name} arrive")

    # ---- hosts ----

    def do_freeze(self, host):
        """A daemon stands still while others go on."""
        if host.alive():
            self.say(f"{host.name} stands still")
            host.daemon.process.send_signal(signal.SIGSTOP)
            for other in self.hosts:
                if other is not host and self.rng.random() < 0.7:
                    self.do_continue(other)
            host.daemon.process.send_signal(signal.SIGCONT)

    def do_kill(self, host):
        if host.alive():
            self.say(f"{host.name} is killed")
            host.daemon.kill9()
            if self.rng.random() < 0.5:
                self.revive(host)

    def do_revive(self, host):
        self.revive(host)

    def revive(self, host):
        if not host.alive():
            self.say(f"{host.name} starts")
            host.daemon.start()

    def do_restart(self, host):
        if host.alive() and not self.flying:
            self.say(f"{host.name} is restarted")
            host.daemon.restart()

    def do_backup(self, host):
        if host.alive():
            host.backup.unlink(missing_ok=True)
            done = host.daemon.run("backup", str(host.backup), "--data-dir", str(host.daemon.data_dir))
            assert done.returncode == 0, done.stderr
            self.say(f"{host.name} is backed up")

    def do_go_back(self, host):
        """A host is put back to its backup; what it alone had is gone with its disk."""
        if not host.backup.exists() or not host.alive():
            return
        self.background.join(20)
        host.daemon.kill9()
        others = [other.view() for other in self.hosts if other is not host]
        for told in self.told.values():
            elsewhere = set().union(*(view.messages(told.sid) for view in others))
            told.doubtful |= told.messages() - elsewhere
            deleted = told.deleted_by.pop(host.name, None)
            if deleted and not any(told.sid in view.tombs for view in others):
                told.covered -= deleted
                told.doubtful |= deleted
        for path in host.daemon.data_dir.glob("codex-sessiond.db*"):
            path.unlink()
        shutil.copy(host.backup, host.daemon.data_dir / "codex-sessiond.db")
        os.chmod(host.daemon.data_dir / "codex-sessiond.db", 0o600)
        self.seen.pop(host.name, None)
        host.daemon.start()
        self.say(f"{host.name} is put back to its backup")

    # ---- Redis ----

    def do_freeze_redis(self, _):
        self.say("Redis stands still")
        self.redis.pause()
        for host in self.rng.sample(self.hosts, 2):
            self.do_continue(host)
        self.redis.go_on()

    def do_flush(self, _):
        self.say("Redis is wiped")
        self.redis.admin("FLUSHALL")
        self.silent_loss = True

    def do_lose_key(self, _):
        keys = sorted(self.redis.keys())
        if keys:
            key = self.rng.choice(keys)
            self.redis.admin("DEL", key)
            self.say(f"Redis loses {key}")
            self.silent_loss = True
            if key.startswith(b"codex:conversation:"):
                self.lost.add(key.decode()[19:])

    def do_snapshot(self, _):
        self.redis.snapshot()
        self.say("Redis is remembered")

    def do_roll_back(self, _):
        if self.redis.kept is not None:
            self.redis.roll_back()
            self.silent_loss = True
            self.say("Redis goes back in time")

    def do_crash_redis(self, _):
        self.redis.restart_from_snapshot()
        self.say("Redis crashes and starts from its snapshot")

    def do_fail_over(self, host):
        """What Redis has just acknowledged is gone with it."""
        told = self.pick()
        if told and host.alive():
            self.redis.snapshot()
            self.go_on(host, told, *self.prompt())
            time.sleep(self.rng.uniform(0, 0.005))
            self.do_crash_redis(host)

    # ---- looking ----

    def check_step(self):
        """What must be true at every moment."""
        for host in self.hosts:
            if not host.alive():
                continue
            view, deleted = host.view(), {sid for sid, told in self.told.items() if told.was_deleted or told.doubtful}
            view.check_order(host.name)
            gone = {one for one in self.seen.get(host.name, set()) - view.ids() if one[0] not in deleted}
            assert not gone, f"{host.name} lost {gone}"
            self.seen[host.name] = view.ids()
        Shown(self.redis).check_tombs()
        assert not self.problems, "\n".join(self.problems)

    def heal(self):
        self.say("all is well again")
        for host in self.hosts:
            self.mend(host)
        for host in self.hosts:
            if host.line:
                host.line.deliver_held()
            self.revive(host)
        self.background.join(60 * SLOWNESS)
        self.check_step()

    def settle(self, alone=False):
        """Everybody exchanges everything. Nobody must be asked to, unless Redis lost something behind their backs."""
        begun, last = time.monotonic(), [None]

        def calm():
            try:
                if not alone:
                    self.sync_all()
                self.judge()
                return True
            except AssertionError as problem:
                last[0] = problem
                return False

        try:
            wait_until(calm, "", ALONE_S if alone else HEALED_S, 0.1)
        except AssertionError:
            asked = "unasked" if alone else "asked"
            for host in self.hosts:
                self.say(f"{host.name}: {host.daemon.get('/api/codex/sync').text}")
            self.say(self.state_of_redis())
            raise AssertionError(f"{asked}, {time.monotonic() - begun:.0f} s after the last fault: {last[0]}") from last[0]
        self.silent_loss = False
        self.say(f"settled{' alone' if alone else ''} after {time.monotonic() - begun:.2f} s")

    def state_of_redis(self):
        """For who looks into a failure: what each session holds, and the logs, without payloads."""
        vectors = {sid: value["_cx"]["vv"] for sid, value in Shown(self.redis).sessions.items()}
        logs = {user: self.redis.admin("XRANGE", f"cx:log:{user}", "-", "+") for user in LIMITS}
        short = {user: [(name, [field[:40] for field in fields]) for name, fields in log] for user, log in logs.items()}
        return f"Redis: {vectors}\n{short}"

    def sync_all(self):
        for host in self.hosts:
            reply = host.daemon.post("/api/codex/sync", {"waitMs": 10_000})
            assert reply.status == 200 and reply["done"], f"{host.name} cannot sync: {reply}"

    def judge(self):
        views = {host.name: host.view() for host in self.hosts}
        self.adopt(views)
        judge(views, Shown(self.redis), self.told, LIMITS, self.lost)
        for host in self.hosts:
            sync = host.daemon.get("/api/codex/sync")["sync"]
            assert sync["state"] == "online", f"{host.name}: {sync}"
            assert sync["pendingSessions"] == sync["pendingMessages"] == 0, f"{host.name}: {sync}"
            assert not sync["quarantined"], f"{host.name}: {sync}"
        self.check_answers(views)

    def adopt(self, views):
        """Sessions whose creation was never answered."""
        for view in views.values():
            for sid in view.rows.keys() - self.told.keys():
                kind, tag = name_of(view.rows[sid][0])
                assert kind == "user" and tag in self.lost_creates, f"nobody asked for {sid}: {view.rows[sid]}"
                told = self.told[sid] = Told(sid, sid, self.lost_creates.pop(tag))
                told.tags.add(tag)

    def check_answers(self, views):
        """What the hosts' users see is the same everywhere, and said to be so."""
        lists = []
        for host in self.hosts:
            live = views[host.name].live
            listed = host.daemon.get("/api/codex/sessions?limit=500")["sessions"]
            assert {one["sessionId"] for one in listed} == live, f"{host.name} lists other sessions than it has"
            odd = {one["sessionId"]: one["sync"] for one in listed if one["sync"] not in ("synced", "diverged")}
            assert not odd, f"{host.name} says {odd}"
            lists.append({sid: host.daemon.get(f"/api/codex/history/{sid}?limit=100000").body for sid in live})
        for sid in set().union(*lists):
            assert len({answers[sid] for answers in lists if sid in answers}) == 1, f"users see different histories of {sid}"

    def repeat_the_past(self):
        """No late request changes what is shown. But evictions of bob's sessions may happen otherwise than before, and a
        message that was deleted or lost may come back to a session that lives on."""
        before = self.settled_rows()
        for host in self.hosts:
            self.do_replay(host)
        self.settle()
        after = self.settled_rows()
        changed = {key: (before.get(key), after.get(key)) for key in before.keys() | after.keys()
                   if before.get(key) != after.get(key)}
        assert not changed, f"requests of the past changed something: {changed}"

    def settled_rows(self):
        plain = [told.sid for told in self.told.values()
                 if LIMITS[told.user] is None and not told.was_deleted and not told.doubtful]
        views = {host.name: host.view() for host in self.hosts}
        return {(name, sid): view.rows.get(sid) for name, view in views.items() for sid in plain}

    def go_on_anywhere(self):
        """Each conversation is continued with all its context by any host, in one request."""
        leased = {key.decode()[9:] for key in self.redis.keys() if key.startswith(b"cx:lease:")}
        view = self.hosts[0].view()
        for sid in sorted(view.live - leased):
            plain = [row for row in view.rows[sid] if row[5] < 2]
            listed = self.hosts[0].daemon.session(sid)
            if len(plain) != len(view.rows[sid]) or listed["sync"] != "synced":
                continue
            host, told = self.rng.choice(self.hosts), self.told[sid]
            tag, prompt = self.prompt()
            told.tags.add(tag)
            reply = host.daemon.go_on(listed["conversationId"], prompt)
            assert reply["response"].startswith(f"echo {len(plain) + 1}: "), f"Codex was not told all: {reply} {plain}"
            self.acknowledge(told, tag, reply)


ACTIONS = {
    "create": 14, "continue": 30, "twice": 6, "slow": 8, "delete": 6, "restore": 4, "wait": 6,
    "delay": 2, "swallow": 3, "hold": 4, "stall": 5, "flaky": 3, "cut": 6, "link": 8, "mend": 6, "replay": 4, "deliver": 3,
    "freeze": 3, "kill": 5, "revive": 3, "restart": 1, "backup": 3, "go_back": 3,
    "freeze_redis": 3, "flush": 2, "lose_key": 4, "snapshot": 4, "roll_back": 3, "crash_redis": 3,
    "fail_over": 6,
}
