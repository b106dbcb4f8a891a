"""What must be true of hosts that share a Redis, as far as it can be seen from outside: in their databases, their answers,
and in Redis."""

import json
import re
import sqlite3

TAG = re.compile(r"<(\d+)>")
KINDS = {0: "user", 1: "assistant", 2: "context", 3: "error"}
ROWS = """
    SELECT s.sid, s.user, s.archived_at IS NULL,
        m.origin, m.seq, m.hlc, m.parent_origin, m.parent_seq, m.kind, m.turn, m.frag
    FROM session s JOIN message m ON m.session = s.id ORDER BY s.sid, m.hlc, m.origin, m.seq
"""


class Told:
    """What the users know of a session. A message is named by its kind and the tag of its prompt."""

    def __init__(self, sid, cid, user):
        self.sid, self.cid, self.user = sid, cid, user
        self.certain = set()  # was acknowledged
        self.tags = set()  # were asked for, whatever became of them
        self.refused = set()  # were refused: must never appear
        self.covered = set()  # were deleted by a deletion that stands
        self.doubtful = set()  # may have been deleted, or were on one disk only that is gone
        self.deleted_by = {}  # host → what its deletions covered
        self.was_deleted = False  # somebody asked for that

    def messages(self):
        return {(kind, tag) for kind in ("user", "assistant") for tag in self.tags}

    def owed(self):
        """What must be there if anything of the session is."""
        return self.certain - self.covered - self.doubtful


class View:
    """A host's database at one moment."""

    def __init__(self, path):
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        try:
            self.rows, self.users, self.live = {}, {}, set()
            for sid, user, live, *row in database.execute(ROWS):
                self.rows.setdefault(sid, []).append(tuple(row))
                self.users[sid] = user
                if live:
                    self.live.add(sid)
            self.tombs = dict(database.execute("SELECT sid, tomb FROM mark WHERE tomb IS NOT NULL"))
        finally:
            database.close()

    def ids(self):
        return {(sid, row[0], row[1]) for sid, rows in self.rows.items() for row in rows}

    def messages(self, sid):
        return {name_of(row) for row in self.rows.get(sid, [])}

    def check_order(self, host):
        """A sequence of an origin is 1, 2, 3, … in each session, and nothing comes before what its author had seen."""
        for sid, rows in self.rows.items():
            sequences, times = {}, {row[:2]: row[2] for row in rows}
            for origin, seq, hlc, *parent in rows:
                sequences.setdefault(origin, []).append(seq)
                before = times.get(tuple(parent[:2]), -1)  # it may come later, or have been deleted
                assert before < hlc, f"{host}: {origin} {seq} in {sid} stands before its parent"
            for origin, found in sequences.items():
                assert sorted(found) == list(range(1, len(found) + 1)), f"{host}: a hole in {sid}: {origin} {sorted(found)}"


def name_of(row):
    kind, turn, frag = KINDS[row[5]], row[6], row[7]
    tag = TAG.search(json.loads(frag).get("content", ""))
    return (kind, int(tag.group(1))) if kind in ("user", "assistant") and tag else (kind, turn)


class Shown:
    """What a plain client sees in Redis."""

    def __init__(self, redis):
        keys = redis.keys()
        lives = redis.admin.all([("PTTL", key) for key in keys] or [("PING",)])
        self.sessions, self.tombs, self.conversations, self.sets = {}, {}, {}, {}
        for key, left in zip(keys, lives):
            assert left == -2 or left > 0, f"{key} has no time to live"
            name = key.decode()
            if name.startswith("codex:session:"):
                value = redis.admin("GET", key)
                if value is not None:
                    self.sessions[name[14:]] = read_value(name, value)
            elif name.startswith("cx:tomb:"):
                self.tombs[name[8:]] = json.loads(redis.admin("GET", key) or "{}")
            elif name.startswith("codex:conversation:"):
                self.conversations[name[19:]] = (redis.admin("GET", key) or b"").decode()
            elif name.startswith("user:sessions:"):
                self.sets[name[14:]] = {member.decode() for member in redis.admin("SMEMBERS", key)}

    def check_tombs(self):
        for sid in self.sessions.keys() & self.tombs.keys():
            vector, tomb = self.sessions[sid]["_cx"]["vv"], self.tombs[sid]
            assert any(seq > tomb.get(origin, 0) for origin, seq in vector.items()), f"{sid} stands beside its tombstone"


def read_value(name, value):
    """Parses; says its own length; its vector counts its messages, each once and none missing."""
    session = json.loads(value)
    tail, found = session["_cx"], {}
    assert tail["L"] == len(value), f"{name} has {len(value)} bytes and says {tail['L']}"
    for message in session["messages"]:
        origin, seq = message["_cx"][:2]
        found.setdefault(origin, []).append(seq)
    for origin, sequence in found.items():
        assert sorted(sequence) == list(range(1, len(sequence) + 1)), f"{name}: {origin} has {sorted(sequence)}"
    assert tail["vv"] == {origin: len(sequence) for origin, sequence in found.items()}, f"{name}: an untrue vector"
    assert session["messageCount"] == len(session["messages"]), f"{name}: an untrue count"
    return session


def check_hosts_agree(views, sid):
    """The same bytes in the same order on those where it lives."""
    first, *others = [(name, view) for name, view in views.items() if sid in view.live]
    for name, view in others:
        mine, theirs = first[1].rows.get(sid), view.rows.get(sid)
        assert mine == theirs, f"{sid} differs between {first[0]} and {name}:\n{mine}\n{theirs}"


def check_redis_holds(shown, sid, rows):
    """What Redis shows of a session is what a host has."""
    found = {}
    for message in shown.sessions[sid]["messages"]:
        origin, seq, *_ = message.pop("_cx")
        found[int(origin, 16), seq] = message
    assert found == {(row[0], row[1]): json.loads(row[7]) for row in rows}, f"Redis and the hosts differ in {sid}"


def followers(views, user, limits):
    """A host follows its own user, and others as long as it has live sessions of theirs."""
    return {
        name: view for name, view in views.items()
        if limits[user] is None or any(view.users[sid] == user for sid in view.live)
    }


def check_told(told, views, limits):
    """What users were told against what the hosts have, once all is exchanged."""
    here = set().union(*(view.messages(told.sid) for view in views.values()))
    live = [name for name, view in views.items() if told.sid in view.live]
    assert not {message for message in here if message[1] in told.refused}, f"a refused prompt is in {told.sid}"
    strangers = {message for message in here if message[0] == "user" and message[1] not in told.tags}
    assert not strangers, f"nobody asked for {strangers} in {told.sid}"
    missing = told.owed() - here
    assert not missing, f"acknowledged and lost in {told.sid}: {missing}; there is {here}"
    wanted = followers(views, told.user, limits)
    holders = [name for name, view in views.items() if told.sid in view.rows and (name in wanted or name in live)]
    returned = here and here <= told.covered and holders
    assert not returned, f"{told.sid} of {told.user} was deleted; {live} have it live, of {holders} that have it"
    assert not live or set(live) == set(wanted), f"{told.sid} is live on {live} alone, not on {wanted.keys()}"


def check_sets(shown, views, limits, lost):
    """The users' sets name the live sessions, all of them and nothing else, within the limits. The key of a conversation
    that was `lost` alone may take ten minutes to come back with a push."""
    for user, limit in limits.items():
        for name, view in followers(views, user, limits).items():
            live = {sid for sid in view.live if view.users[sid] == user}
            there = shown.sets.get(user, set())
            assert there == live, f"{user}'s set and what is live on {name} differ: {there ^ live}"
            assert limit is None or len(live) <= limit, f"{user} has {len(live)} sessions"
    for sid in set().union(*shown.sets.values()):
        cid = shown.sessions[sid]["conversationId"]
        assert shown.conversations.get(cid) == sid or cid in lost, f"{cid} does not lead to {sid}"


def judge(views, shown, sessions, limits, lost):
    """All that must be true when everybody has talked."""
    for name, view in views.items():
        view.check_order(name)
        unknown = view.rows.keys() - sessions.keys()
        assert not unknown, f"{name} has sessions that nobody made: {unknown}"
        for sid in view.tombs:
            assert sessions[sid].was_deleted, f"{name} buried {sid}, which nobody deleted"
    for sid in shown.tombs:
        assert sessions[sid].was_deleted, f"Redis has a tombstone of {sid}, which nobody deleted"
    shown.check_tombs()
    check_sets(shown, views, limits, lost)
    for told in sessions.values():
        check_told(told, views, limits)
        live = [view for view in views.values() if told.sid in view.live]
        if live:
            check_hosts_agree(views, told.sid)
            check_redis_holds(shown, told.sid, live[0].rows[told.sid])
        elif limits[told.user] is None:
            there = [name for name, view in views.items() if told.sid in view.rows]
            assert not there, f"{told.sid} is in the archive of {there}, and nobody put it there"
