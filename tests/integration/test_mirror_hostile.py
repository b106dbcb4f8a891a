"""A Redis that lies, floods, drips or says nothing, and one whose keys are poisoned: the daemon stays well, small
and correct, and what it holds arrives when the real one is back."""

import json
import random
import sqlite3
import time
import uuid
from contextlib import closing

import pytest
from support.between import Between
from support.codex_home import write_codex_home
from support.daemon import instant_codex
from support.hosts import (
    alike, drained, in_redis, is_set_aside, key, messages, on, plain_session, state, sync,
)
from support.model_server import ModelServer
from support.process import SLOWNESS, status_kb, wait_until
from support.redis import Redis

from integration.conftest import daemons

MEMORY_MAX_KB = 320 * 1024  # the largest value there may be is 64 MB, and is held up to three times


@pytest.fixture
def world(shared_world):
    """The line is mended after each test."""
    yield shared_world
    shared_world.line.turn(None)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory):
    """alpha, whose way to Redis we hold; beta, which reaches it; both live through all of this file."""
    folder = tmp_path_factory.mktemp("hostile")
    with ModelServer() as model, Redis(folder / "redis") as redis, Between(redis.port) as line:
        with daemons(folder, write_codex_home(folder / "codex-home", model.url)) as make:
            alpha, beta = (
                make(name, codex=instant_codex(), engine="app-server", env={"REDIS_URL": url},
                     args=["--user", "anna", "--host-name", name]).start()
                for name, url in (("alpha", line.url), ("beta", redis.url))
            )
            yield World(redis, line, alpha, beta)


class World:
    def __init__(self, redis, line, alpha, beta):
        self.redis, self.line, self.alpha, self.beta = redis, line, alpha, beta
        self.pids = (alpha.pid, beta.pid)
        wait_until(lambda: all(state(host)["state"] == "online" for host in (alpha, beta)), "they are online", 15)

    def is_well(self):
        for host, pid in zip((self.alpha, self.beta), self.pids):
            assert host.health()["status"] == "ok" and host.pid == pid
            assert status_kb(pid, "VmHWM") < MEMORY_MAX_KB * SLOWNESS


# ---- a server that does not speak as Redis does ----


def pour(head, piece):
    def answer(client):
        client.sendall(head)
        while True:
            client.sendall(piece)

    return answer


def say_nothing(client):
    while client.recv(65536):
        pass


def drip(client):
    for byte in b"$1000000\r\n" + b"x" * 1000:
        client.sendall(bytes([byte]))
        time.sleep(1)


LIES = {
    "floods": [
        pour(b"$75000000\r\n", b"x" * 65536), pour(b"$200000000\r\n", b"x" * 65536), pour(b"+", b"x" * 65536),
        pour(b"-ERR ", b"x" * 65536), pour(b"*1000000\r\n", b":1\r\n" * 10_000), pour(b"", b"*1\r\n" * 10_000),
    ],
    "lengths": [
        b"*2147483647\r\n", b"*-2\r\n", b"$-7\r\n", b"$99999999999999999999999\r\n", b"$4294967296\r\n", b"$0\r\nx\r\n",
    ],
    "other types": [
        b":1\r\n", b":-9223372036854775808\r\n", b"+OK\r\n", b"$0\r\n\r\n", b"$-1\r\n", b"*0\r\n",
        b"*3\r\n:1\r\n*1\r\n$-1\r\n-ERR inside\r\n", b"-\r\n", b"+OK\r\n+OK\r\n:1\r\n",
    ],
    "text": [
        b"$9\r\n{\"a\":[1,\x00\r\n", b"$40\r\n" + b"\xff\xfe\xc0\x80" * 10 + b"\r\n",
        b"$60000\r\n" + b"[" * 60_000 + b"\r\n",
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html><body>no</body></html>",
        random.Random(1).randbytes(100_000),
    ],
    "RESP3": [b"%1\r\n+a\r\n:1\r\n", b"_\r\n", b">2\r\n+message\r\n+x\r\n", b"#t\r\n", b"=7\r\ntxt:abc\r\n"],
}
SLOW_LIES = {"silence": say_nothing, "a byte a second": drip}


def works_alone(host, sid):
    """Turns and reads are what they would be without Redis."""
    known = len(messages(host, sid))
    answer = host.go_on(sid, f"meanwhile {known}")
    assert answer["response"] == f"echo {known + 1}: meanwhile {known}"
    assert [message["content"] for message in messages(host, sid)][known:] == [f"meanwhile {known}", answer["response"]]
    assert host.health()["status"] == "ok"


@pytest.mark.parametrize("kind", LIES)
def test_a_server_that_is_no_redis_harms_nothing(world, kind):
    host, line = world.alpha, world.line
    sid = host.ask("before")["sessionId"]
    on(world.beta, sid, 2)
    for lie in LIES[kind]:
        line.turn(lambda words, lie=lie: lie)
        assert sync(host).status == 503 and state(host)["state"] == "offline", lie
        works_alone(host, sid)
        world.is_well()
    line.turn(None)
    drained(host)
    alike(host, world.beta, sid=sid, count=2 + 2 * len(LIES[kind]))


@pytest.mark.parametrize("lie", SLOW_LIES)
def test_a_server_that_keeps_us_waiting_keeps_nobody_else_waiting(world, lie):
    host, line = world.alpha, world.line
    sid = host.ask("before")["sessionId"]
    on(world.beta, sid, 2)
    before = len(line.seen)
    line.turn(lambda words: SLOW_LIES[lie])
    sync(host, 50)
    wait_until(lambda: len(line.seen) > before, "it is kept waiting", 20)
    assert sync(host, 50).status == 202
    for _ in range(3):
        works_alone(host, sid)
    world.is_well()
    line.turn(None)
    drained(host)
    alike(host, world.beta, sid=sid, count=8)


def test_lies_about_one_command_alone_harm_nothing(world):
    host, line = world.alpha, world.line
    sid = host.ask("before")["sessionId"]
    on(world.beta, sid, 2)
    names = (b"GETRANGE", b"GET", b"XRANGE", b"XREVRANGE", b"SMEMBERS", b"EVALSHA", b"TIME", b"XREAD")
    for name in names:
        told = set()
        for lie in (b":1", b"$-1", b"*0", b"+OK", b"$0\r\n", b"$3\r\nabc", b"*2\r\n:1\r\n*1\r\n$1\r\nx",
                    b"*1\r\n*2\r\n$3\r\n1-1\r\n*0"):
            def rule(words, name=name, lie=lie, told=told):
                if words[0] != name:
                    return None
                told.add(lie)
                return lie + b"\r\n"

            line.rule = rule
            sync(host)
            assert host.health()["status"] == "ok"
        works_alone(host, sid)
        world.beta.ask("news")
        wait_until(lambda told=told: told, f"it hears lies about {name}", 20)
        world.is_well()
    line.turn(None)
    drained(host)
    shown = alike(host, world.beta, sid=sid, count=2 + 2 * len(names))
    assert len({message["content"] for message in shown}) == len(shown)
    world.beta.go_on(sid, "and it listens again")
    alike(host, world.beta, sid=sid, count=len(shown) + 2)


def test_a_log_that_goes_round_in_circles_is_left(world):
    host, line = world.alpha, world.line
    sid = host.ask("before")["sessionId"]
    on(world.beta, sid, 2)
    asked = []

    def rule(words):
        if words[0] != b"XRANGE":
            return None
        asked.append(words)
        return b"*64\r\n" + b"*2\r\n$%d\r\n%b\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n" % (len(words[2]), words[2]) * 64

    line.rule = rule
    world.beta.ask("news")
    wait_until(lambda: asked, "it reads the log", 20)
    assert sync(host).status == 200
    works_alone(host, sid)
    world.is_well()
    line.turn(None)
    drained(host)
    alike(host, world.beta, sid=sid, count=4)


# ---- poison in a real Redis ----


def value_of_200_mb(redis, sid):
    redis.call("SETRANGE", key(sid), 200 * 1024 * 1024 - 1, "x")


def tail_that_lies(redis, sid):
    """About what it holds: as many messages more as there are numbers."""
    value = redis.call("GET", key(sid))
    place = value.index(b'"vv":{', len(value) - 1024)
    colon = value.index(b":", place + 6)
    end = value.index(b"}", colon)
    lie = value[:colon + 1] + b"999999" + value[end:]
    redis.call("SET", key(sid), lie[:-40] + lie[-40:].replace(b" ", b"", 6 - (end - colon - 1)), "EX", 3600)


def bytes_that_are_no_text(redis, sid):
    value = redis.call("GET", key(sid))
    redis.call("SETRANGE", key(sid), value.index(b'"content":"') + 11, b"\xff\xfe\xfd")


def messages_twice(redis, sid):
    value = redis.call("GET", key(sid))
    start, end = value.index(b'"messages":[') + 12, value.rindex(b'],"_cx"')
    redis.call("SET", key(sid), value[:end] + b"," + value[start:end] + value[end:], "EX", 3600)


def cut_in_the_middle(redis, sid):
    value = redis.call("GET", key(sid))
    redis.call("SET", key(sid), value[200:], "EX", 3600)


def foreign(text):
    return lambda redis, sid: redis.call("SET", key(sid), text(sid), "EX", 3600)


def bomb(piece):
    def text(sid):
        head = json.dumps(plain_session(sessionId=sid))[:-1]
        return (head + ',"bomb":[' + ",".join([piece] * (12_000_000 // (len(piece) + 1))) + "]}").encode()

    return foreign(text)


POISON = [
    tail_that_lies,
    bytes_that_are_no_text,
    messages_twice,
    cut_in_the_middle,
    foreign(lambda sid: b"} not JSON {"),
    foreign(lambda sid: b'{"sessionId":"\xff\xfe"}'),
    foreign(lambda sid: b"[1,2,3]"),
    foreign(lambda sid: json.dumps(plain_session())),
    foreign(lambda sid: json.dumps(plain_session(sessionId=sid, messages=[1, None, [], {}]))),
    foreign(lambda sid: b'{"messages":' + b"[" * 1_000_000),
    foreign(lambda sid: json.dumps(plain_session(sessionId=sid))[:-1] + ',"deep":' + "[" * 900 + "]" * 900 + "}"),
]
LARGE = [value_of_200_mb, bomb("[]"), bomb("{}"), bomb("1")]


def live_through(world, *poisons):
    """Poison a session with each: all other things go on, and no message is lost."""
    host, other, redis = world.alpha, world.beta, world.redis
    fine, *sids = (host.ask(f"session {n}")["sessionId"] for n in range(1 + len(poisons)))
    for sid in (fine, *sids):
        on(other, sid, 2)
    for sid, poison in zip(sids, poisons):
        poison(redis, sid)
    for sid in sids:
        host.go_on(sid, "meanwhile")
    for each in (host, other):
        sync(each)
        each.go_on(fine, f"on {each.folder.name}")
        assert state(each)["state"] == "online"
        alike(host, other, sid=fine, count=4 if each is host else 6)
    world.is_well()
    redis.call("DEL", *map(key, sids))
    for each in (host, other, host):
        drained(each)
    for n, sid in enumerate(sids, 1):
        shown = alike(host, other, sid=sid, count=len(messages(host, sid)))
        kept = [message["content"] for message in shown if message.get("host") == "alpha"]
        assert kept[:4] == [f"session {n}", f"echo 1: session {n}", "meanwhile", kept[3]], f"poison {n}"


def test_poisoned_values_harm_their_sessions_alone_and_no_message(world):
    live_through(world, *POISON)


def test_a_value_that_names_more_than_it_holds_is_not_fetched_for_ever(world):
    host, other, redis, line = world.alpha, world.beta, world.redis, world.line
    sid, fine = (host.ask(text)["sessionId"] for text in ("one", "another"))
    on(other, sid, 2)
    tail_that_lies(redis, sid)
    host.go_on(sid, "two")
    is_set_aside(host, sid, "names messages that it does not hold")
    before = line.count("GET")
    for n in range(5):
        host.go_on(fine, f"on {n}")
        in_redis(redis, fine, 4 + 2 * n)
    assert line.count("GET") <= before + 3  # a comparison for the answer may still have been under way
    redis.call("DEL", key(sid))
    drained(host)
    alike(host, other, sid=sid, count=4)


def test_values_that_would_fill_the_memory_do_not(world):
    live_through(world, *LARGE)


def test_a_poisoned_log_harms_nothing(world):
    host, other, redis = world.alpha, world.beta, world.redis
    sid = host.ask("fine")["sessionId"]
    on(other, sid, 2)
    unknown = str(uuid.uuid4())
    add, put, delete = ["k", "add", "s", sid], ["k", "put", "s", sid], ["k", "del", "s", sid]
    for fields in (
        ["k", "add"], ["s", sid], ["x", "y"], ["k", "dance", "s", sid], ["k", "evict", "s", unknown], add, put, delete,
        [*add, "o", "0", "f", "-1", "b", "not JSON"], [*add, "b", b"\xff\xfe"], [*add, "b", "[" * 100_000],
        [*add, "b", '[{"type":"user","content":"forged"}]'],
        [*add, "b", '[{"type":"user","content":"forged","_cx":["0000000000000001",1,"9e99",""]}]'],
        [*add, "r", "5 99999999999"], [*add, "r", "-1 10"], [*add, "r", "x"], ["k", "add", "s", unknown, "r", "1 100"],
        ["k", "add", "s", "../../etc/passwd", "b", "[]"], ["k", "add", "s", "x" * 100_000, "b", "[]"],
        ["k", "put", "s", unknown, "v", "{}"], [*put, "v", '{"a":'], [*put, "a", "-5"],
        [*delete, "v", '{"0000000000000001":99}'], [*delete, "v", "x" * 9999],
    ):
        redis.call("XADD", "cx:log:anna", "*", *fields)
    for each in (host, other):
        each.go_on(sid, f"on {each.folder.name}")
        drained(each)
    shown = alike(host, other, sid=sid, count=6)
    assert "forged" not in [message["content"] for message in shown]
    assert messages(other, unknown) is None
    world.is_well()


FAR = 9_007_199_254_740_991  # a stamp some 230 years ahead


def stamps(host, sid):
    """When it was used by the clock of Redis, and when it is to be looked at: both ms."""
    with closing(sqlite3.connect(host.data_dir / "codex-sessiond.db")) as disk:
        ((used, check),) = disk.execute(
            "SELECT stamp / 1000, check_at FROM session JOIN mark USING (sid) WHERE sid = ?", (sid,))
        return used, check


@pytest.mark.parametrize("lie", ["tail", "entry", "note"])
def test_a_stamp_from_the_future_keeps_no_session_fresh(world, lie):
    host, other, redis = world.alpha, world.beta, world.redis
    sid = other.ask("one")["sessionId"]
    on(host, sid, 2)
    if lie == "tail":
        place = redis.call("GET", key(sid)).rindex(b'"at":') + 5
        redis.call("SETRANGE", key(sid), place, FAR)
    elif lie == "entry":
        redis.call("XADD", "cx:log:anna", f"{FAR // 1000}-1", "k", "add", "s", sid, "o", "0", "f", "1", "b", "[]")
    else:
        redis.call("XADD", "cx:log:anna", "*", "k", "put", "s", sid, "v", "{}", "a", FAR)
    drained(host)
    other.go_on(sid, "two")
    on(host, sid, 4)
    drained(host)
    used, check = stamps(host, sid)
    latest = (time.time() + 1) * 1000
    assert 0 < used <= latest and check <= latest + 3_600_000
    redis.call("DEL", "cx:log:anna")  # later entries would be as late as that one


def test_a_message_of_a_far_century_does_not_take_this_hosts_clock_along(world):
    host, redis = world.alpha, world.redis
    sid = host.ask("one")["sessionId"]
    in_redis(redis, sid, 2)
    later = f'[{{"type":"user","content":"later","_cx":["0000000000000001",1,"{2**62 - 2}",""]}}]'
    redis.call("XADD", "cx:log:anna", "*", "k", "add", "s", sid, "o", "0000000000000001", "f", "1", "b", later)
    drained(host)
    host.go_on(sid, "two")
    value = in_redis(redis, sid, 4)
    assert "later" not in [message["content"] for message in messages(host, sid)]
    assert all(int(message["_cx"][2]) >> 16 <= (time.time() + 1) * 1000 for message in value["messages"])


def test_poisoned_keys_around_a_session_harm_nothing(world):
    host, other, redis = world.alpha, world.beta, world.redis
    first = host.ask("fine")
    sid, cid = first["sessionId"], first["conversationId"]
    on(other, sid, 2)
    redis.call("SADD", "user:sessions:anna", "", "../../etc/passwd", b"\xff\xfe\x00", "x" * 1_000_000, "a\r\nb", "{}")
    redis.call("SADD", "user:sessions:anna", *(str(uuid.uuid4()) for _ in range(1000)))
    redis.call("SET", f"codex:conversation:{cid}", "../../etc/passwd", "EX", 3600)
    redis.call("SET", f"cx:tomb:{sid}", "not a vector", "EX", 3600)
    redis.call("SET", f"cx:out:{sid}", b"\xff", "EX", 3600)
    redis.call("RPUSH", f"cx:lease:{sid}", "a list")
    fine = other.ask("fine, too")["sessionId"]
    for each in (host, other):
        each.go_on(cid, f"on {each.folder.name}")
        each.post("/api/codex/sync", {"waitMs": 10_000})
    alike(host, other, sid=fine, count=2)
    world.is_well()
    redis.call("DEL", f"cx:tomb:{sid}", f"cx:lease:{sid}", f"codex:conversation:{cid}", f"cx:out:{sid}")
    for each in (host, other):
        drained(each)
    contents = [message["content"] for message in alike(host, other, sid=sid, count=6) if message["type"] == "user"]
    assert sorted(contents) == ["fine", "on alpha", "on beta"]
