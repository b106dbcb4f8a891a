"""Several hosts at one Redis: what tests do to them and see of them."""

import json
import os
import subprocess
import uuid
from contextlib import contextmanager

from .codex import ROOT
from .process import SLOWNESS, wait_until

CLIENT = ROOT / "tests/support/redis_client.js"
PACKAGE = ROOT / ".deps/redis-4.7.1/node_modules"


def break_line(proxy, mode="refuse"):
    proxy.mode = mode
    if mode == "refuse":
        proxy.cut()


def mend_line(proxy):
    """What was held back by a stalled line is gone with it."""
    proxy.mode = "pass"
    proxy.cut()


def state(host):
    return host.expect(200, host.get("/api/codex/sync"))["sync"]


def sync(host, wait_ms=10_000):
    return host.post("/api/codex/sync", {"waitMs": wait_ms})


def messages(host, identifier):
    """As they are shown; None while the session is unknown."""
    reply = host.get(f"/api/codex/history/{identifier}?limit=100000")
    return reply["messages"] if reply.status == 200 else None


def in_redis(redis, session, count):
    """Wait until Redis has so many messages; the session as a plain client sees it."""

    def there():
        value = redis.get(f"codex:session:{session}")
        return value if value and len(value["messages"]) == count else None

    return wait_until(there, f"{count} messages in Redis", 20)


def on(host, session, count):
    wait_until(lambda: len(messages(host, session) or []) == count, f"{count} messages on {host.folder.name}", 20)


def drained(host):
    """Ask for a sync until nothing is pending."""

    def done():
        now = sync(host)
        return now.status == 200 and now["sync"]["state"] == "online" and now["sync"]["pendingMessages"] == 0

    wait_until(done, "nothing is pending", 40, 0.2)


@contextmanager
def other_program(redis, *words):
    env = {"PATH": os.environ["PATH"], "NODE_PATH": str(PACKAGE)}
    process = subprocess.Popen(
        ["node", CLIENT, redis.url, *words], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run_program(redis, lines, *words):
    with other_program(redis, *words) as process:
        out, problems = process.communicate("".join(json.dumps(line) + "\n" for line in lines), 30 * SLOWNESS)
        assert process.returncode == 0, problems
        return out


def archived(host):
    listed = host.get("/api/codex/sessions?status=completed").json["sessions"]
    return [(session["sessionId"], session["archiveReason"]) for session in listed]


def plain_session(**fields):
    now = "2026-11-22T09:00:0%d.000Z"
    return {
        "sessionId": str(uuid.uuid4()), "conversationId": str(uuid.uuid4()), "userId": "anna",
        "createdAt": now % 0, "lastUsedAt": now % 1, "prompt": "my dog is Rex", "model": "gpt-5-codex",
        "sandbox": "read-only", "context": {"empty": [], "big": 1723888888888123}, "status": "active",
        "messages": [
            {"type": "user", "content": "my dog is Rex", "timestamp": now % 0},
            {"type": "assistant", "content": "noted 🐕", "timestamp": now % 1, "more": {"a": []}},
        ],
        **fields,
    }


def listed(host, query):
    return host.expect(200, host.get(f"/api/codex/sessions?{query}"))["sessions"]


def aside(host):
    """What is set aside, and why. A local change takes a session out for a moment."""
    return {record["sessionId"]: record["reason"] for record in state(host)["quarantined"]}


def is_set_aside(host, sid, why):
    wait_until(lambda: why in aside(host).get(sid, ""), f"it is set aside: {why}", 15)


def key(sid):
    return f"codex:session:{sid}"


def alike(*hosts, sid, count):
    """Wait until each host shows so many messages; they are the same everywhere."""
    for host in hosts:
        on(host, sid, count)
    shown = messages(hosts[0], sid)
    for host in hosts[1:]:
        other = messages(host, sid)
        differ = [(n, str(a)[:300], str(b)[:300]) for n, (a, b) in enumerate(zip(shown, other)) if a != b]
        assert not differ, f"{hosts[0].folder.name} and {host.folder.name}: {differ}"
    return shown


def contents(shown, kind="user"):
    return [message["content"] for message in shown if message["type"] == kind]


def set_and_log_are_sound(redis, user):
    """The user's set names what is there, each key has an end, and no message was told twice."""
    for sid in redis.call("SMEMBERS", f"user:sessions:{user}"):
        assert redis.call("EXISTS", b"codex:session:" + sid) == 1
    for name in redis.call("KEYS", "*"):
        assert redis.call("PTTL", name) > 0, name
    told = set()
    for _, fields in redis.call("XRANGE", f"cx:log:{user}", "-", "+"):
        entry = dict(zip(fields[::2], fields[1::2]))
        if entry[b"k"] == b"add":
            place = entry[b"s"], entry[b"o"], entry[b"f"]
            assert place not in told, f"told twice: {place}"
            told.add(place)
