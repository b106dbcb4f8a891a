"""What happens between hosts when their histories meet: a test for each case of the rules of replication."""

import hashlib
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from support.between import Between
from support.hosts import (
    alike, aside, break_line, contents, drained, in_redis, is_set_aside, key, listed, mend_line, messages, on,
    plain_session, run_program, set_and_log_are_sound,
)
from support.process import SLOWNESS, wait_until


def database(host):
    return sqlite3.connect(host.data_dir / "codex-sessiond.db")


# ---- a deletion against an append that it did not see ----


@pytest.mark.smoke
def test_a_deletion_does_not_take_an_append_that_comes_later(proxied, make_host, redis):
    away, line = proxied("away")
    there = make_host("there")
    sid = away.ask("one")["sessionId"]
    on(there, sid, 2)
    break_line(line)
    away.go_on(sid, "two, which nobody knows yet")
    assert there.request("DELETE", f"/api/codex/session/{sid}").status == 200
    assert redis.call("EXISTS", key(sid), f"cx:tomb:{sid}") == 1  # the second of them
    mend_line(line)
    drained(away)
    shown = alike(away, there, sid=sid, count=4)
    assert contents(shown) == ["one", "two, which nobody knows yet"]
    assert {message["host"] for message in shown} == {"away"} and all(message["timestamp"] for message in shown)
    assert len(in_redis(redis, sid, 4)["messages"]) == 4
    there.go_on(sid, "and it goes on")
    alike(away, there, sid=sid, count=6)


def test_a_deletion_that_comes_later_does_not_take_an_append(proxied, make_host, redis):
    away, line = proxied("away")
    there = make_host("there")
    sid = there.ask("one")["sessionId"]
    on(away, sid, 2)
    break_line(line)
    assert away.request("DELETE", f"/api/codex/session/{sid}").status == 200
    there.go_on(sid, "two, which the deletion does not know")
    in_redis(redis, sid, 4)
    mend_line(line)
    drained(away)
    alike(away, there, sid=sid, count=4)
    in_redis(redis, sid, 4)


@contextmanager
def held_back(line, sid):
    """Requests that would put or delete the session wait until release() is called; reached says that one does."""
    free, reached = threading.Event(), threading.Event()

    def rule(words):
        if words[0].startswith(b"EVAL") and f"cx:tomb:{sid}".encode() in words:
            reached.set()
            free.wait(30 * SLOWNESS)

    line.rule = rule
    try:
        yield reached, free.set
    finally:
        free.set()
        line.rule = None


def test_a_deletion_that_an_append_overtakes_does_not_take_it(make_host, redis):
    with Between(redis.port) as line:
        a, b = make_host("alpha", url=line.url), make_host("beta")
        sid = a.ask("one")["sessionId"]
        on(b, sid, 2)
        with held_back(line, sid) as (reached, release):
            assert a.request("DELETE", f"/api/codex/session/{sid}").status == 200
            assert reached.wait(20 * SLOWNESS)
            b.go_on(sid, "two, just before the deletion comes")
            in_redis(redis, sid, 4)
            release()
            drained(a)
            alike(a, b, sid=sid, count=4)
            in_redis(redis, sid, 4)
    kinds = [fields[1] for _, fields in redis.call("XRANGE", "cx:log:anna", "-", "+")]
    assert b"del" not in kinds and b"put" in kinds  # Redis never was without it


def test_what_is_deleted_while_a_host_is_away_is_deleted_there_too(proxied, make_host, redis):
    away, line = proxied("away")
    there = make_host("there")
    sid = away.ask("to be deleted")["sessionId"]
    kept = away.ask("to be kept")["sessionId"]
    on(there, sid, 2)
    on(there, kept, 2)
    break_line(line)
    assert there.request("DELETE", f"/api/codex/session/{sid}").status == 200
    mend_line(line)
    drained(away)
    wait_until(lambda: messages(away, sid) is None, "it is gone", 15)
    assert away.post(f"/api/codex/session/{sid}/restore").status == 404
    assert redis.get(key(sid)) is None
    assert len(messages(away, kept)) == len(messages(there, kept)) == 2


def test_a_deletion_is_told_however_long_its_host_was_away(proxied, make_host, redis):
    away, line = proxied("away")
    there = make_host("there")
    sid, other = (away.ask(text)["sessionId"] for text in ("to be deleted", "on a later day"))
    on(there, sid, 2)
    on(there, other, 2)
    break_line(line)
    assert away.request("DELETE", f"/api/codex/session/{sid}").status == 200
    with closing(database(away)) as disk:  # eight days pass
        assert disk.execute("UPDATE mark SET tomb_at = tomb_at - 8 * 86400000 WHERE tomb IS NOT NULL").rowcount == 1
        disk.commit()
    assert away.request("DELETE", f"/api/codex/session/{other}").status == 200
    mend_line(line)
    drained(away)
    for gone in (sid, other):
        wait_until(lambda gone=gone: messages(there, gone) is None, "it is deleted there, too", 15)
        assert redis.call("EXISTS", f"cx:tomb:{gone}", key(gone)) == 1  # the first of them


def test_a_session_that_only_another_host_knows_is_deleted_there(make_host, redis):
    there, here = make_host("there"), make_host("here")
    first = there.ask("of a user that is new here", userId="bob")
    sid = first["sessionId"]
    in_redis(redis, sid, 2)
    assert here.request("DELETE", f"/api/codex/session/{first['conversationId']}").status == 200
    wait_until(lambda: messages(there, sid) is None, "it is gone", 15)
    assert redis.get(key(sid)) is None
    assert here.request("DELETE", f"/api/codex/session/{sid}").status == 404


# ---- expiry against an append ----


def test_what_was_appended_while_redis_let_it_expire_is_put_back_whole(proxied, make_host, redis):
    away, line = proxied("away")
    there = make_host("there")
    sid = away.ask("one")["sessionId"]
    on(there, sid, 2)
    break_line(line)
    away.go_on(sid, "two")
    assert redis.call("PEXPIRE", key(sid), 1) == redis.call("PEXPIRE", "user:sessions:anna", 1) == 1
    wait_until(lambda: redis.call("EXISTS", key(sid), "user:sessions:anna") == 0, "its time ends", 5)
    mend_line(line)
    drained(away)
    alike(away, there, sid=sid, count=4)
    in_redis(redis, sid, 4)
    assert redis.call("SISMEMBER", "user:sessions:anna", sid) == 1
    set_and_log_are_sound(redis, "anna")


# ---- the limit, reached offline ----


def live(host):
    return {session["sessionId"] for session in listed(host, "userId=bob")}


def test_a_limit_that_was_passed_offline_keeps_the_most_active_and_loses_nothing(proxied, make_host, redis):
    away, line = proxied("away", args=["--session-limit", "3"])
    there = make_host("there", args=["--session-limit", "3"])
    first, second = (away.ask(f"early {n}", userId="bob")["sessionId"] for n in range(2))
    for sid in (first, second):
        on(there, sid, 2)
    break_line(line)
    third, fourth = (there.ask(f"meanwhile {n}", userId="bob")["sessionId"] for n in range(2))
    wait_until(lambda: live(there) == {second, third, fourth}, "the limit holds there", 10)
    fifth = away.ask("offline", userId="bob")["sessionId"]
    away.go_on(first, "offline, too")  # unsent: it is not put out for good
    mend_line(line)
    drained(away)
    drained(there)
    for host in (away, there):
        wait_until(lambda host=host: live(host) == {first, fourth, fifth}, "the most active three", 20)
    assert redis.call("SCARD", "user:sessions:bob") == 3
    set_and_log_are_sound(redis, "bob")
    assert len(messages(there, first)) == 4
    for host, sids in ((away, [second]), (there, [second, third])):
        gone = {session["sessionId"]: session for session in listed(host, "userId=bob&status=completed")}
        for sid in sids:
            assert gone[sid]["archiveReason"] == gone[sid]["sync"] == "evicted"
            assert gone[sid]["messageCount"] == 2  # no row of it is gone
    assert there.post(f"/api/codex/session/{third}/restore").status == 200
    assert contents(messages(there, third)) == ["meanwhile 0"]


# ---- a wiped Redis ----


def test_a_wiped_redis_is_filled_again_by_those_who_know(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    sids = [a.ask("of a")["sessionId"], b.ask("of b")["sessionId"]]
    on(b, sids[0], 2)
    on(a, sids[1], 2)
    redis.command("FLUSHALL")
    drained(a)
    for sid in sids:
        assert in_redis(redis, sid, 2)["sessionId"] == sid
        assert redis.call("SISMEMBER", "user:sessions:anna", sid) == 1
    set_and_log_are_sound(redis, "anna")


@pytest.mark.parametrize("lost", ["conversation", "member"])
def test_what_leads_to_a_session_comes_back_without_a_turn(make_host, redis, lost):
    with Between(redis.port) as line:
        a = make_host("alpha", url=line.url)
        told = [a.ask(f"number {n}") for n in range(5)]
        drained(a)
        drained(a)
        before = line.count("MGET"), line.count("EVALSHA", "EVAL")
        drained(a)
        assert (line.count("MGET"), line.count("EVALSHA", "EVAL")) == (before[0] + 1, before[1])  # when nothing is lost
        sid, cid = told[3]["sessionId"], told[3]["conversationId"]
        if lost == "conversation":
            redis.call("DEL", f"codex:conversation:{cid}")
        else:
            redis.call("SREM", "user:sessions:anna", sid)
        drained(a)
        assert redis.call("GET", f"codex:conversation:{cid}") == sid.encode()
        assert 3600 < redis.call("TTL", f"codex:conversation:{cid}") <= 4500
        assert redis.call("SISMEMBER", "user:sessions:anna", sid) == 1
        assert line.count("EVALSHA", "EVAL") == before[1] + 1
        set_and_log_are_sound(redis, "anna")


def test_after_a_wipe_any_host_puts_back_messages_and_tombstones_of_another(make_host, proxied, redis):
    a, gone = make_host("alpha"), make_host("gone")
    late, line = proxied("late")
    kept, dead = (gone.ask(text)["sessionId"] for text in ("kept", "deleted"))
    for host in (a, late):
        on(host, kept, 2)
        on(host, dead, 2)
    break_line(line)
    assert gone.request("DELETE", f"/api/codex/session/{dead}").status == 200
    wait_until(lambda: messages(a, dead) is None, "it hears of it", 15)
    gone.kill9()
    redis.command("FLUSHALL")
    drained(a)
    assert redis.call("EXISTS", f"cx:tomb:{dead}", key(dead)) == 1  # the first of them
    in_redis(redis, kept, 2)
    mend_line(line)
    drained(late)
    wait_until(lambda: messages(late, dead) is None, "it is deleted there, too", 15)
    assert alike(a, late, sid=kept, count=2)[0]["host"] == "gone"


# ---- a running machine is rolled back ----


def test_a_running_host_that_went_back_in_time_numbers_anew(proxied, make_host, redis):
    a, line = proxied("alpha")
    b = make_host("beta")
    sid = a.ask("root")["sessionId"]
    drained(a)
    with closing(database(a)) as disk, closing(sqlite3.connect(":memory:")) as snapshot:
        disk.backup(snapshot)
        a.go_on(sid, "before")
        in_redis(redis, sid, 4)
        on(b, sid, 4)
        break_line(line)
        snapshot.backup(disk)  # the process, and with it its origin, lives on
    a.go_on(sid, "after")  # under numbers that Redis has with other bytes
    mend_line(line)
    drained(a)
    shown = alike(a, b, sid=sid, count=6)
    assert sorted(contents(shown)) == ["after", "before", "root"]
    names = [tuple(message["_cx"][:2]) for message in in_redis(redis, sid, 6)["messages"]]
    assert len(set(names)) == 6 and len({origin for origin, _ in names}) == 2
    assert a.session(sid)["sync"] == b.session(sid)["sync"] == "diverged"
    a.go_on(sid, "on with the new name")
    alike(a, b, sid=sid, count=8)
    set_and_log_are_sound(redis, "anna")


# ---- a session that others change all the time ----


def test_a_comparison_that_gave_up_is_made_again_with_nobodys_help(make_host, redis):
    refused = []

    def rule(words):
        if not words[0].startswith(b"EVAL") or not words[3].startswith(b"codex:session:"):
            return None
        refused.append(time.monotonic())
        return b"*1\r\n$7\r\nFOREIGN\r\n"

    with Between(redis.port) as line:
        a = make_host("alpha", url=line.url)
        drained(a)
        line.rule = rule
        sid = a.ask("at a busy time")["sessionId"]
        wait_until(lambda: refused and time.monotonic() - refused[-1] > 1, "it gives up", 30)
        line.rule = None
        wait_until(lambda: redis.call("EXISTS", key(sid)) == 1, "it tries again by itself", 30)
        in_redis(redis, sid, 2)


# ---- too large for a request ----


def test_what_is_too_large_for_one_request_goes_in_several(make_host, redis):
    with Between(redis.port) as line:
        away = make_host("away", url=line.url)
        there = make_host("there")
        sid = away.ask("small")["sessionId"]
        in_redis(redis, sid, 2)
        line.turn(lambda words: lambda client: None)
        for n in range(12):
            away.go_on(sid, f"{n} " + "large " * 50_000)
        line.turn(None)
        drained(away)
        alike(away, there, sid=sid, count=26)
        assert line.count("EVALSHA", "EVAL") >= 4 and line.largest() < 1_500_000


def test_the_set_names_a_session_of_several_requests_again(make_host, redis):
    a = make_host("alpha")
    sid = a.ask("small")["sessionId"]
    for n in range(5):
        a.go_on(sid, f"{n} " + "large " * 50_000)
    drained(a)
    in_redis(redis, sid, 12)
    redis.command("DEL", "user:sessions:anna", "cx:log:anna")
    drained(a)
    assert redis.call("SISMEMBER", "user:sessions:anna", sid) == 1
    set_and_log_are_sound(redis, "anna")


def test_a_message_past_every_cap_leaves_a_stub_that_names_its_host(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    sid = a.ask("one")["sessionId"]
    whole = a.go_on(sid, "[[huge 9000000]]")["response"]
    assert len(whole) == 9_000_000
    on(b, sid, 4)
    stub = messages(b, sid)[3]
    with closing(database(a)) as disk:
        stored = disk.execute("SELECT frag FROM message ORDER BY length(frag) DESC LIMIT 1").fetchone()[0]
    stored = stored.encode() if isinstance(stored, str) else stored
    assert stub["host"] == "alpha" and stub["type"] == "assistant" and "too large" in stub["content"]
    assert stub["stub"] == {"bytes": len(stored), "sha256": hashlib.sha256(stored).hexdigest()}
    b.go_on(sid, "three")
    on(a, sid, 6)
    drained(a)
    assert messages(a, sid)[3]["content"] == whole
    assert [m["_cx"][1] for m in in_redis(redis, sid, 6)["messages"]][:4] == [1, 2, 3, 4]


# ---- a newer protocol ----


def test_a_value_of_a_newer_version_is_never_written(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    sid, other = (a.ask(text)["sessionId"] for text in ("one", "another"))
    on(b, sid, 2)
    value = redis.call("GET", key(sid))
    place = value.rindex(b'"_cx":{"p":1,') + len(b'"_cx":{"p":')
    redis.call("SETRANGE", key(sid), place, "2")
    newer = redis.call("GET", key(sid))
    for host in (a, b):
        assert host.go_on(sid, f"on {host.folder.name}")["success"] is True
        is_set_aside(host, sid, "the session was written by a newer version")
    a.go_on(other, "goes on")
    alike(a, b, sid=other, count=4)
    assert redis.call("GET", key(sid)) == newer
    assert a.request("DELETE", f"/api/codex/session/{sid}").status == 200
    a.post("/api/codex/sync", {"waitMs": 10_000})
    assert redis.call("GET", key(sid)) == newer
    redis.call("SETRANGE", key(sid), place, "1")
    drained(b)
    drained(a)
    alike(a, b, sid=sid, count=4)
    assert aside(a) == aside(b) == {}


# ---- a foreign value, imported by two hosts at once ----


def test_a_foreign_value_that_two_hosts_import_at_once_is_there_once(make_host, redis):
    made = plain_session()
    sid = made["sessionId"]
    with Between(redis.port) as line, ThreadPoolExecutor(1) as pool, held_back(line, sid) as (reached, release):
        a, b = make_host("alpha", url=line.url), make_host("beta")
        run_program(redis, [made], "create")
        slow = pool.submit(messages, a, sid)
        assert reached.wait(20 * SLOWNESS)  # it read the foreign value, and is about to write
        assert b.go_on(made["conversationId"], "what is my dog called?")["response"].startswith("echo 3:")
        in_redis(redis, sid, 4)
        release()
        slow.result()
        drained(a)
        shown = alike(a, b, sid=sid, count=4)
    assert [message["content"] for message in shown][:3] == ["my dog is Rex", "noted 🐕", "what is my dog called?"]
    value = in_redis(redis, sid, 4)
    assert len({message["_cx"][0] for message in value["messages"]}) == 2  # one import, and beta


def test_a_foreign_value_that_its_writer_changes_meanwhile_is_imported_as_it_is_then(make_host, redis):
    made = plain_session()
    sid = made["sessionId"]
    added = {"type": "user", "content": "just in time", "timestamp": "2026-11-22T09:30:00.000Z"}
    with Between(redis.port) as line, ThreadPoolExecutor(1) as pool, held_back(line, sid) as (reached, release):
        a = make_host("alpha", url=line.url)
        run_program(redis, [made], "create")
        slow = pool.submit(messages, a, sid)
        assert reached.wait(20 * SLOWNESS)
        run_program(redis, [added], "append", key(sid))
        release()
        slow.result()
        drained(a)
        on(a, sid, 3)
    assert [message["content"] for message in in_redis(redis, sid, 3)["messages"]][2] == "just in time"


def test_foreign_values_that_several_hosts_race_for_are_there_once(make_host, redis):
    hosts = [make_host(name) for name in ("alpha", "beta", "gamma")]
    made = [plain_session() for _ in range(12)]
    run_program(redis, made, "create")
    start = threading.Barrier(len(hosts))

    def read_all(host):
        start.wait(20)
        for session in made:
            messages(host, session["conversationId"])

    with ThreadPoolExecutor(len(hosts)) as pool:
        for done in [pool.submit(read_all, host) for host in hosts]:
            done.result()
    for host in hosts:
        drained(host)
    for session in made:
        alike(*hosts, sid=session["sessionId"], count=2)
        origins = {m["_cx"][0] for m in in_redis(redis, session["sessionId"], 2)["messages"]}
        assert len(origins) == 1
    set_and_log_are_sound(redis, "anna")


# ---- one turn at a time ----


def lease(redis, sid):
    return redis.call("GET", f"cx:lease:{sid}")


def test_a_second_host_is_told_which_one_is_busy(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    first = a.ask("one")
    on(b, first["sessionId"], 2)
    drained(b)  # it has nothing else to ask Redis for
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(a.go_on, first["conversationId"], "[[delay 1500]] two")
        wait_until(lambda: lease(redis, first["sessionId"]), "the lease", 10)
        refused = b.go_on(first["conversationId"], "me too", status=409)
        assert refused["code"] == "session_busy" and "alpha" in refused["error"]
        assert slow.result()["success"] is True
    on(b, first["sessionId"], 4)
    assert lease(redis, first["sessionId"]) is None
    assert b.go_on(first["conversationId"], "three")["response"].startswith("echo 5:")
    assert contents(messages(b, first["sessionId"])) == ["one", "[[delay 1500]] two", "three"]


def test_the_lease_of_a_host_that_died_ends_within_a_minute(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    sid = a.ask("one")["sessionId"]
    on(b, sid, 2)
    a.post("/api/codex/continue", {"sessionId": sid, "prompt": "[[hang]]"}, headers={"Prefer": "respond-async"})
    wait_until(lambda: lease(redis, sid), "the lease", 10)
    a.kill9()
    assert 0 < redis.call("PTTL", f"cx:lease:{sid}") <= 60_000  # nobody is left to renew it
    drained(b)  # it has nothing else to ask Redis for
    assert "alpha" in b.go_on(sid, "too early", status=409)["error"]
    assert redis.call("PTTL", f"cx:lease:{sid}") <= 60_000
    assert redis.call("PEXPIRE", f"cx:lease:{sid}", 1) == 1  # the minute is over
    wait_until(lambda: lease(redis, sid) is None, "it ends", 5)
    assert b.go_on(sid, "two")["success"] is True


def test_a_lease_is_released_though_what_ends_it_goes_in_several_requests(make_host, redis):
    host = make_host("alpha")
    sid = host.ask("one")["sessionId"]
    drained(host)
    old = redis.call("GET", f"codex:session:{sid}")
    for digit in "234567":
        host.go_on(sid, digit * 250_000)
    drained(host)
    wait_until(lambda: lease(redis, sid) is None, "the lease is free before", 10)
    redis.call("SET", f"codex:session:{sid}", old)  # it went back in time: the next push is refused
    host.go_on(sid, "last")
    in_redis(redis, sid, 16)
    wait_until(lambda: lease(redis, sid) is None, "the lease is free", 10)


@pytest.mark.long
def test_a_host_that_died_with_a_turn_blocks_the_others_for_a_minute_at_most(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    sid = a.ask("one")["sessionId"]
    on(b, sid, 2)
    body = {"sessionId": sid, "prompt": "[[hang]]", "timeoutMs": 600_000}
    assert a.post("/api/codex/continue", body, headers={"Prefer": "respond-async"}).status == 202
    wait_until(lambda: lease(redis, sid), "the lease", 10)
    a.kill9()
    body["prompt"] = "two"
    wait_until(lambda: b.post("/api/codex/continue", body).status == 200, "b may", 65, 1)


@pytest.mark.long
def test_a_lease_is_held_for_as_long_as_its_turn_runs(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    sid = a.ask("one")["sessionId"]
    on(b, sid, 2)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(a.go_on, sid, "[[delay 70000]] two", timeoutMs=120_000)
        wait_until(lambda: lease(redis, sid), "the lease", 10)
        refused = 0
        while not slow.done():
            reply = b.post("/api/codex/continue", {"sessionId": sid, "prompt": "me too"})
            if not slow.done():
                assert reply.status == 409
                refused += 1
        assert slow.result()["success"] is True and refused > 60


@pytest.mark.long
def test_a_lease_is_held_while_much_else_is_to_be_said_to_a_slow_redis(make_host, redis):
    with Between(redis.port) as line:
        host = make_host("alpha", url=line.url)
        sid, *others = (host.ask(f"number {n}")["sessionId"] for n in range(200))
        drained(host)
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(host.go_on, sid, "[[delay 70000]] two", timeoutMs=120_000)
            wait_until(lambda: lease(redis, sid), "the lease", 10)
            redis.call("DEL", *map(key, others))
            redis.call("SCRIPT", "FLUSH")
            line.rule = lambda words: time.sleep(0.5 if words[0].startswith(b"EVAL") else 0)
            host.post("/api/codex/sync", {"waitMs": 0})
            began = time.monotonic()
            while time.monotonic() - began < 65:
                assert lease(redis, sid), f"it lapsed after {time.monotonic() - began:.0f} s"
                assert not slow.done()
                time.sleep(1)
            assert len(redis.call("KEYS", "codex:session:*")) < 200, "it was not busy all the time"
            line.rule = None
            slow.result()


def test_a_lease_that_another_one_took_is_neither_renewed_nor_released(make_host, redis):
    a = make_host("alpha")
    sid = a.ask("one")["sessionId"]
    in_redis(redis, sid, 2)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(a.go_on, sid, "[[delay 500]] two")
        wait_until(lambda: lease(redis, sid), "the lease", 10)
        redis.call("SET", f"cx:lease:{sid}", "another-token beta", "PX", 60_000)
        slow.result()
    in_redis(redis, sid, 4)
    drained(a)
    assert lease(redis, sid) == b"another-token beta"
    assert "beta" in a.go_on(sid, "three", status=409)["error"]


@pytest.mark.parametrize("trouble", ["refuse", "stall"])
def test_a_lease_blocks_nobody_who_does_not_reach_redis(proxied, make_host, redis, trouble):
    a = make_host("alpha")
    b, line = proxied("beta")
    sid = a.ask("one")["sessionId"]
    on(b, sid, 2)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(a.go_on, sid, "[[delay 2000]] on alpha")
        wait_until(lambda: lease(redis, sid), "the lease", 10)
        break_line(line, trouble)
        answer = b.go_on(sid, "on beta")
        assert answer["metadata"]["stale"] is True and not slow.done()
        slow.result()
    mend_line(line)
    drained(b)
    assert sorted(contents(alike(a, b, sid=sid, count=6))) == ["[[delay 2000]] on alpha", "on beta", "one"]
    assert a.session(sid)["sync"] == "diverged"


# ---- user ids ----


@pytest.mark.parametrize("user", ["root", "ubuntu", "admin"])
def test_a_user_name_that_many_people_have_is_warned_of(make_host, user):
    host = make_host("alpha", args=["--user", user])
    assert f"event=common_user user={user} " in host.log()
    doctor = host.run("doctor", "--data-dir", str(host.data_dir), "--codex", str(host.codex), "--user", user)
    assert f'note  user         "{user}" is many people\'s name' in doctor.stdout


def test_a_name_of_ones_own_is_not_warned_of_and_without_redis_none_is(make_host, make_daemon):
    host = make_host("alpha")
    alone = make_daemon("alone", args=["--user", "root"]).start()
    for daemon, user in ((host, "anna"), (alone, "root")):
        assert "common_user" not in daemon.log()
        doctor = daemon.run("doctor", "--data-dir", str(daemon.data_dir), "--codex", str(daemon.codex), "--user", user)
        assert "note  user" not in doctor.stdout


def test_a_persons_hosts_share_by_the_name_and_strangers_see_nothing(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    stranger = make_host("gamma", args=["--user", "carla"])
    sid = a.ask("mine")["sessionId"]
    theirs = stranger.ask("theirs")["sessionId"]
    on(b, sid, 2)
    drained(stranger)
    for host, sids in ((a, {sid}), (b, {sid}), (stranger, {theirs})):
        assert {session["sessionId"] for session in listed(host, "limit=100")} == sids
    assert redis.call("SMEMBERS", "user:sessions:anna") == [sid.encode()]
    assert redis.call("SMEMBERS", "user:sessions:carla") == [theirs.encode()]


def test_ones_own_sessions_have_no_limit_unless_one_is_set(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    sids = {a.ask(f"number {n}")["sessionId"] for n in range(12)}
    drained(a)
    assert redis.call("SCARD", "user:sessions:anna") == 12
    wait_until(lambda: {s["sessionId"] for s in listed(b, "limit=100")} == sids, "all are on the other host", 15)
    limited = make_host("gamma", args=["--own-session-limit", "5"])
    wait_until(lambda: len(listed(limited, "limit=100")) == 12, "it has them, too", 15)
    newest = limited.ask("one too many")["sessionId"]
    for host in (limited, a, b):
        wait_until(lambda host=host: len(listed(host, "limit=100")) == 5, "five are left", 20)
        assert newest in {s["sessionId"] for s in listed(host, "limit=100")}
    assert redis.call("SCARD", "user:sessions:anna") == 5
