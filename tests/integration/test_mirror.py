"""Several hosts and one Redis, as users meet them: real daemons, a real redis-server, a proxy that misbehaves."""

import json
import time
import uuid

import pytest
from support.codex import codex_binary
from support.context import assert_context
from support.hosts import (
    archived, break_line, drained, in_redis, mend_line, messages, on, other_program, plain_session, run_program,
    state, sync,
)
from support.process import SLOWNESS, wait_until


# ---- going on elsewhere ----


@pytest.mark.smoke
def test_a_host_that_never_saw_a_conversation_continues_it_with_all_its_context(make_host, model, redis):
    here = make_host("alpha", codex=codex_binary())
    first = here.ask("my cat is called Momo", context="we speak of pets")
    here.go_on(first["conversationId"], "and my dog is Rex")
    in_redis(redis, first["sessionId"], 5)
    there = make_host("beta", codex=codex_binary())

    answer = there.go_on(first["conversationId"], "what are my pets called?")

    assert answer["sessionId"] == first["sessionId"] and answer["metadata"]["continued"] is True
    assert "stale" not in answer["metadata"]
    assert_context(model, "we speak of pets", "my cat is called Momo", first["response"], "and my dog is Rex",
                   "what are my pets called?")
    on(here, first["sessionId"], 7)
    assert messages(here, first["sessionId"]) == messages(there, first["sessionId"])
    assert {message["host"] for message in messages(here, first["sessionId"])} == {"alpha", "beta"}


def test_a_host_that_was_away_sees_the_turns_of_the_others(make_host, proxied, redis):
    away, line = proxied("away")
    there = make_host("there")
    first = away.ask("one")
    in_redis(redis, first["sessionId"], 2)
    break_line(line)
    wait_until(lambda: state(away)["state"] == "offline", "it notices", 15)
    there.go_on(first["conversationId"], "two")
    there.go_on(first["conversationId"], "three")

    old = away.get(f"/api/codex/history/{first['sessionId']}").json
    assert len(old["messages"]) == 2 and old["metadata"] == {"stale": True}
    assert away.get(f"/api/codex/session/{first['sessionId']}")["metadata"] == {"stale": True}
    unknown = str(uuid.uuid4())
    assert away.session(unknown, 404)["metadata"] == away.go_on(unknown, "x", 404)["metadata"] == {"stale": True}
    assert "metadata" not in there.session(unknown, 404)

    mend_line(line)
    drained(away)
    assert messages(away, first["sessionId"]) == messages(there, first["sessionId"])
    assert "metadata" not in away.get(f"/api/codex/history/{first['sessionId']}").json
    assert away.go_on(first["conversationId"], "four")["response"].startswith("echo 7:")
    assert {host["name"] for host in state(away)["hosts"]} == {"there"}


def test_hosts_that_went_on_apart_keep_both_ways_and_agree_on_the_head(proxied, redis):
    a, line_a = proxied("alpha")
    b, line_b = proxied("beta")
    sid = a.ask("root")["sessionId"]
    in_redis(redis, sid, 2)
    on(b, sid, 2)
    for line in (line_a, line_b):
        break_line(line)
    for host in (a, b):
        wait_until(lambda host=host: state(host)["state"] == "offline", "it notices", 15)
    stale = a.go_on(sid, "on alpha")["metadata"]
    assert stale["stale"] is True
    time.sleep(0.01)
    b.go_on(sid, "on beta")
    b.go_on(sid, "on beta again")
    for line in (line_a, line_b):
        mend_line(line)
    drained(a)
    drained(b)
    on(a, sid, 8)
    on(b, sid, 8)

    shown = messages(a, sid)
    assert shown == messages(b, sid)
    assert [m["content"] for m in shown if m["type"] == "user" and m.get("branch")] == ["on alpha"]
    assert a.session(sid)["sync"] == b.session(sid)["sync"] == "diverged"
    assert a.go_on(sid, "next")["response"].startswith("echo 7:")  # root, on beta, on beta again, with answers
    on(b, sid, 10)
    assert b.go_on(sid, "and next")["response"].startswith("echo 9:")


# ---- the hour and the limit ----


def test_the_time_to_live_ends_on_all_hosts(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    sid = a.ask("short", ttlSeconds=4)["sessionId"]
    on(b, sid, 2)
    b.go_on(sid, "slides")
    time.sleep(3)
    on(a, sid, 4)  # the second turn moved the end
    wait_until(lambda: redis.get(f"codex:session:{sid}") is None, "gone from Redis", 20)
    for host in (a, b):
        wait_until(lambda host=host: archived(host) == [(sid, "expired")], "it expires", 20)
        assert messages(host, sid) is None


def test_the_eleventh_session_puts_out_the_least_recent_one_on_all_hosts(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    sids = []
    for n in range(10):
        sids.append((a, b)[n % 2].ask(f"number {n}", userId="bob")["sessionId"])
        in_redis(redis, sids[-1], 2)
    for host in (a, b):
        wait_until(lambda host=host: len(live_of_bob(host)) == 10, "all ten are on each host", 20)
    b.go_on(sids[0], "used again")
    on(a, sids[0], 4)
    eleventh = a.ask("one too many", userId="bob")
    in_redis(redis, eleventh["sessionId"], 2)
    expected = {*sids, eleventh["sessionId"]} - {sids[1]}
    for host in (a, b):
        wait_until(lambda host=host: live_of_bob(host) == expected, "the least recent one is out", 20)
        assert archived(host) == [(sids[1], "evicted")]
    wait_until(lambda: redis.get(f"codex:session:{sids[1]}") is None, "it is gone from Redis", 20)
    assert redis.command("SCARD", "user:sessions:bob") == b":10"


def live_of_bob(host):
    return {s["sessionId"] for s in host.get("/api/codex/sessions?userId=bob").json["sessions"]}


# ---- a Redis that fails ----


def test_pending_is_counted_and_health_stays_well_while_redis_is_gone(make_host, redis):
    host = make_host("alpha")
    sid = host.ask("one")["sessionId"]
    in_redis(redis, sid, 2)
    redis.kill9()
    wait_until(lambda: state(host)["state"] == "offline", "it notices", 15)
    host.go_on(sid, "two")
    new = host.ask("three")["sessionId"]
    health = host.health()
    assert health["status"] == "ok" and health["redis"] == "offline"
    assert health["sync"]["pendingSessions"] == 2 and health["sync"]["pendingMessages"] == 4
    assert health["sync"]["oldestPending"] and health["sync"]["error"]
    assert host.stats()["sync"]["pendingMessages"] == 4
    assert host.session(sid)["sync"] == host.session(new)["sync"] == "pending"
    assert sync(host, 500).status in (202, 503)
    redis.start()
    drained(host)
    in_redis(redis, sid, 4)
    in_redis(redis, new, 2)


@pytest.mark.smoke
def test_kill_9_with_unsent_turns_loses_nothing(proxied, make_host, redis):
    host, line = proxied("alpha")
    other = make_host("beta")
    sid = host.ask("sent")["sessionId"]
    in_redis(redis, sid, 2)
    break_line(line, "stall")
    host.go_on(sid, "unsent")
    new = host.ask("unsent too")["sessionId"]
    host.kill9()
    mend_line(line)
    host.start()
    on(other, sid, 4)
    on(other, new, 2)
    assert messages(other, sid) == messages(host, sid)


# ---- other programs ----


def test_readers_parse_every_key_at_every_moment_while_a_session_grows(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    first = a.ask("one")
    sid, cid = first["sessionId"], first["conversationId"]
    on(b, sid, 2)
    with other_program(redis, "watch", sid, cid, "anna") as reader:
        for n in range(20):
            host = (a, b)[n // 5 % 2]
            on(host, sid, 2 + 2 * n)
            host.go_on(sid, f"é {n} \\ \" \n 🐕 " + "x" * (100 * n * n), **({"model": "another"} if n == 7 else {}))
            if n == 12:
                redis.command("SCRIPT", "FLUSH")
        in_redis(redis, sid, 42)
        time.sleep(0.2)
        out, problems = reader.communicate("", 30 * SLOWNESS)
    assert reader.returncode == 0, problems
    seen = json.loads(out)
    assert seen["most"] == 42 and seen["reads"] > 100
    on(a, sid, 42)
    value = in_redis(redis, sid, 42)
    shown = messages(a, sid)
    assert [(m["type"], m["content"], m["timestamp"]) for m in value["messages"]] == [
        (m["type"], m["content"], m["timestamp"]) for m in shown]
    assert value["userId"] == "anna" and value["prompt"] == "one" and value["sandbox"] == "read-only"


def test_a_session_in_the_plain_format_is_continued(make_host, redis, model):
    a, b = make_host("alpha", codex=codex_binary()), make_host("beta")
    made = plain_session()
    sid = made["sessionId"]
    run_program(redis, [made], "create")

    answer = a.go_on(made["conversationId"], "what is my dog called?")

    assert answer["sessionId"] == sid and answer["metadata"]["continued"] is True
    assert_context(model, "my dog is Rex", "noted 🐕", "what is my dog called?")
    value = in_redis(redis, sid, 4)
    for field in ("sessionId", "conversationId", "createdAt", "prompt", "sandbox", "userId"):
        assert value[field] == made[field], field
    for now, before in zip(value["messages"], made["messages"]):
        assert {field: now[field] for field in before} == before  # what else it holds, too
    on(b, sid, 4)
    assert messages(a, sid) == messages(b, sid)
    with other_program(redis, "watch", sid, made["conversationId"], "anna") as reader:
        assert b.go_on(made["conversationId"], "thanks")["response"].startswith("echo 5:")
        in_redis(redis, sid, 6)
        _, problems = reader.communicate("", 30 * SLOWNESS)
    assert reader.returncode == 0, problems


def test_a_turn_that_a_plain_writer_added_is_taken_over(make_host, redis):
    a = make_host("alpha")
    sid = a.ask("one")["sessionId"]
    in_redis(redis, sid, 2)
    added = {"type": "user", "content": "from elsewhere", "timestamp": "2026-11-22T09:30:00.000Z"}
    run_program(redis, [added], "append", f"codex:session:{sid}")
    drained(a)
    on(a, sid, 3)
    a.go_on(sid, "two")
    contents = sorted(message["content"] for message in in_redis(redis, sid, 5)["messages"])
    assert contents == sorted(message["content"] for message in messages(a, sid))
    assert "from elsewhere" in contents


# ---- to see ----


def test_the_verbs_tell_of_redis(make_host, redis):
    a = make_host("alpha")
    a.ask("one")
    verb = a.run("sync", "--data-dir", str(a.data_dir))
    assert verb.returncode == 0, verb.stderr
    assert verb.stdout.startswith("redis      online since ") and "pending    0 messages" in verb.stdout
    doctor = a.run("doctor", "--data-dir", str(a.data_dir), "--codex", str(a.codex)).stdout
    assert f"ok    redis        {redis.url}" in doctor and "ok    sync         online" in doctor
    a.stop()
    verb = a.run("sync", "--data-dir", str(a.data_dir))
    assert verb.returncode == 1 and "no daemon" in verb.stderr


@pytest.mark.parametrize("next_turn", ["new session", "known session"])
def test_a_wiped_redis_is_noticed_with_the_next_turn(make_host, redis, next_turn):
    host = make_host("alpha")
    sids = [host.ask(f"number {n}")["sessionId"] for n in range(3)]
    for sid in sids:
        in_redis(redis, sid, 2)
    drained(host)
    redis.command("FLUSHALL")
    if next_turn == "new session":
        host.ask("one more")
    else:
        host.go_on(sids[0], "and on")
    for sid in sids[1:]:
        in_redis(redis, sid, 2)
