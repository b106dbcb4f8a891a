"""What Redis may answer, and what the daemon then does: a test for each row of errors. Real servers bring about
what they can; a stand-in between brings about the rest."""

import signal
import time

import pytest
from support.between import Between
from support.hosts import (
    alike, aside, break_line, drained, in_redis, is_set_aside, key, mend_line, messages, on, set_and_log_are_sound,
    state, sync,
)
from support.process import SLOWNESS, wait_until
from support.proxy import Proxy
from support.redis import Redis


@pytest.fixture
def between(redis):
    with Between(redis.port) as line:
        yield line


def becomes(host, word):
    try:
        wait_until(lambda: state(host)["state"] == word, f"it becomes {word}", 20)
    except AssertionError as problem:
        raise AssertionError(f"{problem}: {state(host)}") from None


def pending(host):
    now = state(host)
    return now["pendingSessions"], now["pendingMessages"]


def lives_on(host, sid):
    """The daemon answers as if nothing had happened, and says what has."""
    before = len(messages(host, sid))
    assert host.go_on(sid, "meanwhile")["success"] is True
    assert len(messages(host, sid)) == before + 2
    health = host.health()
    assert health["status"] == "ok" and health["redis"] == state(host)["state"] != "online"
    assert health["sync"]["error"]


# ---- time-out, reset: the outcome is unknown ----


@pytest.mark.smoke
@pytest.mark.parametrize("nemesis", ["refuse", "stall", "slow", "swallow"])
def test_a_bad_line_to_redis_keeps_nobody_waiting_and_loses_nothing(proxied, make_host, redis, nemesis):
    host, line = proxied("alpha")
    other = make_host("beta")
    sid = host.ask("before")["sessionId"]
    in_redis(redis, sid, 2)
    drained(host)
    break_line(line, nemesis)
    sids = [sid]
    for n in range(5):
        began = time.monotonic()
        host.go_on(sid, f"meanwhile {n}")
        sids.append(host.ask(f"new meanwhile {n}")["sessionId"])
        assert host.health()["status"] == "ok"
        assert time.monotonic() - began < 3 * SLOWNESS
    if nemesis in ("refuse", "stall"):
        assert pending(host) == (6, 20)
    mend_line(line)
    drained(host)
    assert len(in_redis(redis, sid, 12)["messages"]) == 12
    for one in sids:
        on(other, one, 12 if one == sid else 2)
        assert messages(other, one) == messages(host, one)
        assert host.session(one)["sync"] == "synced"


def test_a_request_whose_reply_is_lost_is_sent_again_the_same_and_done_once(make_host, redis, between):
    host, other = make_host("alpha", url=between.url), make_host("beta")
    sid = host.ask("one")["sessionId"]
    in_redis(redis, sid, 2)
    lost = []

    def do_it_and_hang_up(words):
        if words[0] != b"EVALSHA" or words[2] == b"1" or len(lost) == 4:
            return None
        lost.append(words)
        return lambda client: redis.call(*words)

    between.rule = do_it_and_hang_up
    host.go_on(sid, "two")
    wait_until(lambda: len(lost) == 4, "it is sent again and again", 30)
    drained(host)
    alike(host, other, sid=sid, count=4)
    assert len(in_redis(redis, sid, 4)["messages"]) == 4
    set_and_log_are_sound(redis, "anna")
    sent = [word for words in lost for word in words if word.startswith(b',{"type":"user"')]
    assert len(sent) > 1 and set(sent) == {sent[0]}  # each time the very same bytes


def test_a_redis_that_hangs_up_is_asked_ever_more_rarely(make_host, redis, between):
    host = make_host("alpha", url=between.url)
    sid = host.ask("one")["sessionId"]
    drained(host)
    between.turn(lambda words: lambda client: None)
    becomes(host, "offline")
    before, began = len(between.seen), time.monotonic()
    for _ in range(60):
        lives_on(host, sid)
    assert len(between.seen) - before <= 10 + 2 * (time.monotonic() - began)
    between.turn(None)
    drained(host)
    in_redis(redis, sid, 122)


# ---- NOAUTH, WRONGPASS, NOPERM, a certificate ----


@pytest.mark.parametrize("trouble", ["NOAUTH", "WRONGPASS", "NOPERM"])
def test_a_redis_that_does_not_let_us_in_is_not_asked_again_until_settings_change(make_host, redis, between, trouble):
    redis.call("ACL", "SETUSER", "anna", "on", ">right one", "~*", "&*", "+@all")
    login = {"NOAUTH": "", "WRONGPASS": "anna:wrong@", "NOPERM": "anna:right%20one@"}[trouble]
    if trouble == "NOPERM":
        redis.call("ACL", "SETUSER", "anna", "-@scripting")
    else:
        redis.call("CONFIG", "SET", "requirepass", "another one")
        redis.login = ("another one",)
    host = make_host("alpha", url=f"redis://{login}127.0.0.1:{between.port}", online=False)
    becomes(host, "auth")
    asked = len(between.seen)
    sid = host.ask("here")["sessionId"]
    for _ in range(5):
        lives_on(host, sid)
    assert host.go_on(sid, "on")["metadata"]["stale"] is True
    assert len(between.seen) == asked
    assert sync(host).status == 503 and len(between.seen) > asked  # asked for, it tries
    becomes(host, "auth")

    redis.call("CONFIG", "SET", "requirepass", "")
    redis.login = None
    redis.call("ACL", "SETUSER", "anna", "+@all", ">wrong")
    host.process.send_signal(signal.SIGHUP)
    becomes(host, "online")
    in_redis(redis, sid, 14)


def test_permission_that_is_taken_away_and_given_back_is_noticed(make_host, redis, between):
    redis.call("ACL", "SETUSER", "anna", "on", ">right", "~*", "&*", "+@all")
    host = make_host("alpha", url=f"redis://anna:right@127.0.0.1:{between.port}")
    sid = host.ask("one")["sessionId"]
    in_redis(redis, sid, 2)
    redis.call("ACL", "SETUSER", "anna", "-xadd")  # in the middle of a script
    host.go_on(sid, "two")
    becomes(host, "auth")
    lives_on(host, sid)
    redis.call("ACL", "SETUSER", "anna", "+xadd")
    drained(host)
    in_redis(redis, sid, 6)


def test_a_wrong_password_is_told_and_nothing_else_suffers(make_host, redis):
    redis.command("CONFIG", "SET", "requirepass", "the-right-one")
    host = make_host("alpha", url=f"redis://:a-wrong-one@127.0.0.1:{redis.port}", online=False)
    wait_until(lambda: state(host)["state"] == "auth", "it notices", 15)
    sid = host.ask("here")["sessionId"]
    assert host.go_on(sid, "on")["metadata"]["stale"] is True
    assert host.health()["redis"] == "auth"
    doctor = host.run("doctor", "--data-dir", str(host.data_dir), "--codex", str(host.codex))
    assert doctor.returncode == 1 and "FAIL  redis" in doctor.stdout and "check user and password" in doctor.stdout
    for text in (host.log(), doctor.stdout, doctor.stderr, host.get("/health").text, host.get("/api/codex/sync").text):
        assert "a-wrong-one" not in text


# ---- READONLY, MASTERDOWN, LOADING, BUSY ----


def test_a_redis_that_takes_no_writes_is_told_and_filled_later(make_host, redis):
    host = make_host("alpha")
    redis.command("CONFIG", "SET", "min-replicas-to-write", "1")
    sid = host.ask("nobody listens")["sessionId"]
    wait_until(lambda: state(host)["state"] == "readonly", "it notices", 15)
    assert host.go_on(sid, "on")["metadata"]["continued"] is True
    redis.command("CONFIG", "SET", "min-replicas-to-write", "0")
    drained(host)
    in_redis(redis, sid, 4)


def test_a_primary_that_became_a_replica_is_left_for_the_new_one(tmp_path, make_host, redis):
    redis.call("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    with Redis(tmp_path / "second") as second, Proxy("127.0.0.1", redis.port) as name:
        host = make_host("alpha", url=f"redis://127.0.0.1:{name.port}")
        sid = host.ask("one")["sessionId"]
        drained(host)
        second.call("REPLICAOF", "127.0.0.1", redis.port)
        wait_until(lambda: second.get(key(sid)), "the replica has it", 15)
        second.call("REPLICAOF", "NO", "ONE")
        redis.call("REPLICAOF", "127.0.0.1", second.port)
        host.go_on(sid, "two")
        becomes(host, "readonly")
        assert "READONLY" in state(host)["error"]
        lives_on(host, sid)
        connects = state(host)["connects"]
        name.target = ("127.0.0.1", second.port)  # as a name that now means another server
        drained(host)
        assert state(host)["connects"] > connects
        assert len(in_redis(second, sid, 6)["messages"]) == 6


def test_a_replica_that_lags_and_takes_over_is_given_what_it_lacks_at_once(tmp_path, proxied, redis):
    redis.call("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    (a, line_a), (b, line_b) = proxied("alpha"), proxied("beta")
    with Redis(tmp_path / "replica", "--replicaof", "127.0.0.1", str(redis.port)) as replica:
        old, dead = (a.ask(text)["sessionId"] for text in ("old", "to be deleted"))
        for sid in (old, dead):
            on(b, sid, 2)
        drained(b)
        wait_until(lambda: tip(replica) == tip(redis), "it follows", 20)
        assert replica.command("REPLICAOF", "NO", "ONE") == b"+OK"  # it hears no more
        a.go_on(old, "of alpha")
        on(b, old, 4)
        b.go_on(old, "of beta")
        new = b.ask("new")["sessionId"]
        assert a.request("DELETE", f"/api/codex/session/{dead}").status == 200
        on(a, new, 2)
        wait_until(lambda: messages(b, dead) is None, "it is gone", 20)
        body = {"sessionId": new, "prompt": "[[hang]]"}
        assert a.post("/api/codex/continue", body, headers={"Prefer": "respond-async"}).status == 202
        wait_until(lambda: redis.call("EXISTS", f"cx:lease:{new}"), "the lease", 10)
        line_a.target = line_b.target = ("127.0.0.1", replica.port)
        redis.kill9()
        wait_until(lambda: replica.call("EXISTS", f"cx:lease:{new}", f"cx:tomb:{dead}") == 2, "told again", 10)
        in_redis(replica, old, 6)
        assert replica.get(key(dead)) is None
        drained(b)  # it is connected, and has nothing else to ask for
        assert "alpha" in b.go_on(new, "me too", status=409)["error"]
        alike(a, b, sid=old, count=6)
        in_redis(replica, new, 3)
        set_and_log_are_sound(replica, "anna")


def tip(redis):
    return redis.call("XREVRANGE", "cx:log:anna", "+", "-", "COUNT", 1)


def test_a_redis_that_starts_again_empty_is_filled_at_once(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    sids = [host.ask(f"of {host.folder.name}")["sessionId"] for host in (a, b)]
    for sid in sids:
        on(a, sid, 2)
        on(b, sid, 2)
    drained(a)
    drained(b)
    redis.kill9()
    redis.start()
    wait_until(lambda: redis.call("EXISTS", *map(key, sids)) == 2, "both are there", 10)
    for sid in sids:
        in_redis(redis, sid, 2)
    set_and_log_are_sound(redis, "anna")


def test_a_replica_without_its_primary_is_waited_for(tmp_path, make_host, redis):
    host = make_host("alpha")
    sid = host.ask("one")["sessionId"]
    drained(host)
    redis.call("CONFIG", "SET", "replica-serve-stale-data", "no")
    redis.call("REPLICAOF", "127.0.0.1", "1")
    host.go_on(sid, "two")
    becomes(host, "readonly")
    assert "MASTERDOWN" in state(host)["error"]
    lives_on(host, sid)
    redis.call("REPLICAOF", "NO", "ONE")
    drained(host)
    in_redis(redis, sid, 6)


def test_a_redis_that_loads_its_data_is_waited_for(make_host, redis):
    host = make_host("alpha")
    sid = host.ask("one")["sessionId"]
    drained(host)
    redis.call("EVAL", "for i = 1, 5000 do redis.call('SET', 'fill:' .. i, 'x', 'EX', 3600) end", "0")
    redis.call("SAVE")
    redis.kill9()
    redis.options = ("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
    redis.ready = (b"-LOADING Redis is loading the dataset in memory",)
    redis.start()
    becomes(host, "readonly")
    assert "LOADING" in state(host)["error"]
    lives_on(host, sid)
    redis.call("CONFIG", "SET", "key-load-delay", "0")
    drained(host)
    in_redis(redis, sid, 4)


def test_a_redis_that_is_busy_with_a_script_is_waited_for(make_host, redis):
    host = make_host("alpha")
    sid = host.ask("one")["sessionId"]
    drained(host)
    redis.call("CONFIG", "SET", "busy-reply-threshold", "1")
    with redis.ask("EVAL", "while true do end", "0") as script:
        wait_until(lambda: redis.command("PING").startswith(b"-BUSY"), "it is busy", 5)
        host.go_on(sid, "two")
        becomes(host, "readonly")
        assert "BUSY" in state(host)["error"]
        lives_on(host, sid)
        assert redis.call("SCRIPT", "KILL") == b"OK"
        assert script.readline().startswith(b"-ERR")
    drained(host)
    in_redis(redis, sid, 6)


# ---- OOM, MISCONF, quota ----


def test_a_redis_without_room_is_told_and_filled_later(make_host, redis):
    host, other = make_host("alpha"), make_host("beta")
    redis.command("CONFIG", "SET", "maxmemory", "1")
    sid = host.ask("no room")["sessionId"]
    wait_until(lambda: state(host)["state"] == "full", "it notices", 15)
    assert pending(host) == (1, 2) and host.health()["status"] == "ok"
    redis.command("CONFIG", "SET", "maxmemory", "0")
    drained(host)
    on(other, sid, 2)


def test_a_redis_that_cannot_save_is_full_until_it_can(tmp_path, make_host, redis):
    redis.stop()
    redis.options = ("--save", "3600 1000000", "--enable-protected-configs", "yes")
    redis.start()
    host = make_host("alpha")
    sid = host.ask("one")["sessionId"]
    drained(host)
    broken = tmp_path / "broken"
    broken.mkdir()
    redis.call("CONFIG", "SET", "dir", broken)
    broken.rmdir()
    redis.call("BGSAVE")
    wait_until(lambda: b"rdb_last_bgsave_status:err" in redis.call("INFO", "persistence"), "it fails to save", 10)
    host.go_on(sid, "two")
    becomes(host, "full")
    assert "MISCONF" in state(host)["error"]
    lives_on(host, sid)
    redis.call("CONFIG", "SET", "dir", redis.folder)
    redis.call("BGSAVE")
    wait_until(lambda: b"rdb_last_bgsave_status:ok" in redis.call("INFO", "persistence"), "it saves again", 10)
    drained(host)
    in_redis(redis, sid, 6)


QUOTA = b"-ERR max daily request limit exceeded. Limit: 10000, Usage: 10000.\r\n"


def test_a_host_past_its_quota_goes_on_reading_and_pushes_ever_more_rarely(make_host, redis, between):
    host, other = make_host("alpha", url=between.url), make_host("beta")
    sid = host.ask("one")["sessionId"]
    on(other, sid, 2)
    between.rule = lambda words: QUOTA if words[0].startswith(b"EVAL") else None
    host.go_on(sid, "two")
    becomes(host, "full")
    for n in range(10):
        lives_on(host, sid)
        new = other.ask(f"news {n}")["sessionId"]
        on(host, new, 2)
    assert state(host)["state"] == "full" and pending(host) == (1, 22)
    before, began = between.count("EVALSHA", "EVAL"), time.monotonic()
    for _ in range(30):
        host.go_on(sid, "more")
    assert between.count("EVALSHA", "EVAL") - before <= 6 + time.monotonic() - began
    between.rule = None
    drained(host)
    alike(host, other, sid=sid, count=84)


def test_a_quota_that_forbids_reading_too_is_not_spent_on_asking(make_host, redis, between):
    between.rule = lambda words: QUOTA
    host = make_host("alpha", url=between.url, online=False)
    becomes(host, "full")
    sid = host.ask("one")["sessionId"]
    before, began = len(between.seen), time.monotonic()
    for _ in range(30):
        lives_on(host, sid)
    assert len(between.seen) - before <= 2 * 30 + 4 * (time.monotonic() - began)  # a turn looks once before it begins
    between.rule = None
    drained(host)
    in_redis(redis, sid, 62)


# ---- a request that is too large ----


def test_a_message_that_a_server_finds_too_large_is_left_as_a_stub(make_host, redis):
    redis.call("CONFIG", "SET", "proto-max-bulk-len", "1mb")  # it answers so, and hangs up
    host, other = make_host("alpha"), make_host("beta")
    sid = host.ask("[[huge 3000000]]")["sessionId"]
    host.go_on(sid, "small again")
    drained(host)
    on(other, sid, 4)
    assert ["stub" in message for message in messages(other, sid)] == [False, True, False, False]
    assert messages(other, sid)[1]["stub"]["bytes"] > 3_000_000
    redis.kill9()
    host.go_on(sid, "now it is put as a whole")
    redis.options = ("--proto-max-bulk-len", "1mb")
    redis.start()
    drained(host)
    on(other, sid, 6)
    assert len(messages(host, sid)[1]["content"]) == 3_000_000
    assert aside(host) == aside(other) == {}


def test_a_session_that_outgrows_its_server_is_set_aside_and_makes_no_other_one_smaller(make_host, redis):
    host, other = make_host("alpha"), make_host("beta")
    large, fine = (host.ask(text)["sessionId"] for text in ("large", "fine"))
    drained(host)
    redis.call("CONFIG", "SET", "proto-max-bulk-len", "1mb")
    for n in range(4):
        host.go_on(large, f"{n} " + "large " * 50_000)
    is_set_aside(host, large, "maximum allowed size")
    host.go_on(fine, "large " * 50_000)
    alike(host, other, sid=fine, count=4)
    assert state(host)["state"] == "online"
    redis.call("CONFIG", "SET", "proto-max-bulk-len", "512mb")
    drained(host)
    alike(host, other, sid=large, count=10)
    assert aside(host) == {}


def test_a_request_limit_of_a_service_is_found_out(make_host, redis, between):
    limit = 200_000
    between.rule = lambda words: (
        b"-ERR max request size exceeded. Limit: 200000 bytes\r\n" if sum(map(len, words)) > limit else None
    )
    host, other = make_host("alpha", url=between.url), make_host("beta")
    sid = host.ask("one")["sessionId"]
    for n in range(5):
        host.go_on(sid, f"{n} " + "large " * 12_000)
    host.go_on(sid, "[[huge 400000]] is past it alone")
    drained(host)
    on(other, sid, 14)
    shown = messages(other, sid)
    assert ["stub" in message for message in shown] == [False] * 13 + [True]
    assert shown[:13] == messages(host, sid)[:13]


# ---- NOSCRIPT ----


def calls(redis, command):
    for line in redis.call("INFO", "commandstats").decode().splitlines():
        if line.startswith(f"cmdstat_{command}:calls="):
            return int(line.split("=")[1].split(",")[0])
    return 0


def test_scripts_that_redis_forgot_are_sent_once(make_host, redis):
    host = make_host("alpha")
    sid = host.ask("one")["sessionId"]
    drained(host)
    for flushes in range(1, 4):
        assert redis.call("SCRIPT", "FLUSH") == b"OK"
        evals = calls(redis, "eval")
        for n in range(5):
            host.go_on(sid, f"{flushes} {n}")
            in_redis(redis, sid, 2 + 10 * (flushes - 1) + 2 * (n + 1))
        new = host.ask("a new one")["sessionId"]
        in_redis(redis, new, 2)
        assert 1 <= calls(redis, "eval") - evals <= 3  # appending, putting, a lease: each at most once
        assert state(host)["state"] == "online" and aside(host) == {}
    set_and_log_are_sound(redis, "anna")


# ---- any other error ----


def test_a_session_whose_key_holds_something_else_is_set_aside_and_the_rest_goes_on(make_host, redis):
    host, other = make_host("alpha"), make_host("beta")
    sid, fine = (host.ask(text)["sessionId"] for text in ("one", "another"))
    on(other, sid, 2)
    on(other, fine, 2)
    redis.call("DEL", key(sid))
    redis.call("RPUSH", key(sid), "a list")
    redis.call("EXPIRE", key(sid), 3600)
    host.go_on(sid, "two")
    is_set_aside(host, sid, "its keys in Redis hold something else")
    for _ in range(3):
        host.go_on(fine, "on")
        host.go_on(sid, "on, here alone")
    alike(host, other, sid=fine, count=8)
    verb = host.run("sync", "--data-dir", str(host.data_dir))
    assert f"set aside  {sid}: its keys in Redis hold something else" in verb.stdout
    assert state(host)["state"] == host.health()["redis"] == "online"
    assert redis.call("LRANGE", key(sid), 0, -1) == [b"a list"]  # it is not ours to remove
    redis.call("DEL", key(sid))
    drained(host)
    alike(host, other, sid=sid, count=10)
    assert aside(host) == {}


@pytest.mark.parametrize(
    "error", ["ERR something went wrong", "WEIRD a word of tomorrow", "ERR " + "x" * 5000], ids=["plain", "new", "long"],
)
def test_an_unknown_error_sets_its_session_aside_with_the_reason(make_host, redis, between, error):
    host, other = make_host("alpha", url=between.url), make_host("beta")
    sid, fine = (host.ask(text)["sessionId"] for text in ("one", "another"))
    on(other, sid, 2)
    between.rule = lambda words: (
        f"-{error}\r\n".encode() if words[0].startswith(b"EVAL") and key(sid).encode() in words else None
    )
    host.go_on(sid, "two")
    is_set_aside(host, sid, error[:100])
    host.go_on(fine, "on")
    alike(host, other, sid=fine, count=4)
    assert state(host)["state"] == "online"
    between.rule = None
    drained(host)
    alike(host, other, sid=sid, count=4)
    assert aside(host) == {}


@pytest.mark.parametrize("name", ["user:sessions:anna", "cx:log:anna"])
def test_a_users_key_that_holds_something_else_harms_no_other_user(make_host, redis, name):
    host, other = make_host("alpha"), make_host("beta")
    sid = host.ask("one")["sessionId"]
    on(other, sid, 2)
    redis.call("SET", name, "something else", "EX", 3600)
    host.go_on(sid, "two")
    new = host.ask("three")["sessionId"]
    for_bob = host.ask("of bob", userId="bob")["sessionId"]
    in_redis(redis, for_bob, 2)
    assert state(host)["state"] == "online" and host.health()["status"] == "ok"
    redis.call("DEL", name)
    drained(host)
    alike(host, other, sid=sid, count=4)
    alike(host, other, sid=new, count=2)
    assert aside(host) == {}
