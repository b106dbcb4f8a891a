"""What replication asks of Redis: commands as a provider bills them, bytes, and when they are sent."""

import re
import time

from support.hosts import break_line, drained, in_redis, mend_line, on, state
from support.process import wait_until
from support.redis import read_reply

LOOKS = ("info", "get", "ping")  # of this test; the daemon's own GETs are not of a turn


def billed(redis):
    """Commands so far: those of scripts and pipelines, too."""
    with redis.ask("INFO", "commandstats") as stream:
        lines = read_reply(stream).decode().splitlines()
    found = (re.match(r"cmdstat_([^|:]+)[^:]*:calls=(\d+)", line) for line in lines)
    return sum(int(one.group(2)) for one in found if one and one.group(1) not in LOOKS)


def settled(redis):
    """The commands so far, once none came for two seconds."""
    seen = {"count": billed(redis), "since": time.monotonic()}

    def quiet():
        count = billed(redis)
        if count != seen["count"]:
            seen.update(count=count, since=time.monotonic())
        return time.monotonic() - seen["since"] > 2

    wait_until(quiet, "nothing is sent any more", 20, 0.1)
    return seen["count"]


def test_a_turn_costs_at_most_twelve_commands(make_host, redis):
    host = make_host("alpha")
    sid = host.ask("the first one makes the log, too")["sessionId"]
    before = settled(redis)
    host.ask("a new session")
    created = settled(redis)
    assert 5 <= created - before <= 12
    host.go_on(sid, "and on")
    turned = settled(redis)
    assert 5 <= turned - created <= 12
    host.go_on(sid, "[[delay 3000]] and on")
    assert 5 <= settled(redis) - turned <= 12
    assert len(in_redis(redis, sid, 6)["messages"]) == 6


def test_a_prompt_waits_for_its_answer_but_not_in_a_new_session_for_long(make_host, redis):
    here, there = make_host("alpha"), make_host("beta")
    hang = {"headers": {"Prefer": "respond-async"}, "status": 202}
    sid = here.ask("[[hang]] new", **hang)["sessionId"]
    assert len(in_redis(redis, sid, 1)["messages"]) == 1
    on(there, sid, 1)
    assert redis.command("EXISTS", f"cx:lease:{sid}") == b":1"

    known = here.ask("known")["sessionId"]
    on(there, known, 2)
    here.go_on(known, "[[delay 4000]] goes with its answer", **hang)
    wait_until(lambda: redis.command("EXISTS", f"cx:lease:{known}") == b":1", "the turn runs", 10)
    running = True
    while running:  # the lease ends with the push of the answer
        count = len(redis.get(f"codex:session:{known}")["messages"])
        running = redis.command("EXISTS", f"cx:lease:{known}") == b":1"
        assert count == 2 or not running
        time.sleep(0.1)
    on(there, known, 4)
    assert here.session(known)["sync"] == "synced"


def test_a_sync_sends_prompts_that_wait(make_host, redis):
    host = make_host("alpha")
    sid = host.ask("known")["sessionId"]
    in_redis(redis, sid, 2)
    host.go_on(sid, "[[hang]] waits", headers={"Prefer": "respond-async"}, status=202)
    wait_until(lambda: host.session(sid)["sync"] == "pending", "it waits", 10)
    drained(host)
    in_redis(redis, sid, 3)
    assert host.session(sid)["sync"] == "synced"


def test_a_backlog_is_sent_once(proxied, redis):
    host, line = proxied("alpha")
    known = [host.ask(f"number {n}")["sessionId"] for n in range(3)]
    for sid in known:
        in_redis(redis, sid, 2)
    break_line(line)
    wait_until(lambda: state(host)["state"] == "offline", "it notices", 15)
    for n in range(40):
        host.go_on(known[n % 3], f"{n} " + "x" * 20_000)
    new = [host.ask("y" * 20_000)["sessionId"] for _ in range(10)]
    mend_line(line)
    before = state(host)["bytesSent"]
    drained(host)
    for sid in new:
        in_redis(redis, sid, 2)
    assert len(in_redis(redis, known[0], 30)["messages"]) == 30
    sent = state(host)["bytesSent"] - before
    assert 50 * 20_000 < sent < 1.1 * 50 * 20_000, f"{sent} bytes"
