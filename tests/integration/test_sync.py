"""Conversations across hosts: real daemons, a real redis-server."""

import json
import threading
import time

import pytest
from support.process import wait_until
from support.proxy import Proxy
from support.redis import Redis


@pytest.fixture
def redis(tmp_path):
    with Redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def host(make_daemon, redis):
    """A function that starts a host of a name."""

    def make(name, url=None, **options):
        args = ["--user", "anna", "--host-name", name, *options.pop("args", [])]
        env = {"REDIS_URL": url or redis.url, **options.pop("env", {})}
        return make_daemon(name, args=args, env=env, **options).start()

    return make


def value_of(redis, session):
    """The session as a plain client reads it; None when it is not there."""
    import socket

    with socket.create_connection(("127.0.0.1", redis.port), 5) as connection:
        key = f"codex:session:{session}".encode()
        connection.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key))
        stream = connection.makefile("rb")
        size = int(stream.readline()[1:])
        return json.loads(stream.read(size)) if size >= 0 else None


def in_redis(redis, session, count):
    def there():
        value = value_of(redis, session)
        return value is not None and len(value["messages"]) == count

    wait_until(there, f"{count} messages in Redis", 15)


def test_a_conversation_is_continued_on_another_host(host, redis):
    a, b = host("alpha"), host("beta")
    first = a.ask("my cat is called Momo")
    in_redis(redis, first["sessionId"], 2)

    second = b.go_on(first["conversationId"], "what is my cat called?")

    assert second["response"].startswith("I saw 3 messages (2 from you, 1 from me).")
    assert second["sessionId"] == first["sessionId"]
    wait_until(lambda: len(a.history(first["sessionId"])) == 4, "the first host sees the turn", 15)
    assert a.history(first["sessionId"]) == b.history(first["sessionId"])
    third = a.go_on(first["conversationId"], "thanks")
    assert third["response"].startswith("I saw 5 messages (3 from you, 2 from me).")


def test_plain_clients_read_valid_json_with_the_known_fields(host, redis):
    a = host("alpha")
    first = a.ask("hello", model="gpt-5-codex")
    in_redis(redis, first["sessionId"], 2)
    value = value_of(redis, first["sessionId"])
    for field in ("sessionId", "conversationId", "createdAt", "lastUsedAt", "prompt", "model", "sandbox",
                  "context", "status", "userId"):
        assert field in value, field
    assert value["userId"] == "anna"
    assert [(m["type"], m["content"]) for m in value["messages"]] == a.history(first["sessionId"])
    assert all("timestamp" in m and m["host"] == "alpha" for m in value["messages"])


def test_both_branches_stand_when_both_hosts_went_on_alone(host, redis):
    proxies = [Proxy("127.0.0.1", redis.port).start() for _ in range(2)]
    a, b = (host(name, url=f"redis://127.0.0.1:{proxy.port}") for name, proxy in zip(("alpha", "beta"), proxies))
    first = a.ask("the root")
    in_redis(redis, first["sessionId"], 2)
    wait_until(lambda: len(b.history(first["conversationId"])) == 2, "the other host has it", 15)
    for proxy in proxies:
        proxy.mode = "refuse"
        proxy.cut()
    a.go_on(first["conversationId"], "on alpha")
    time.sleep(0.05)
    b.go_on(first["conversationId"], "on beta")
    for proxy in proxies:
        proxy.mode = "pass"

    def converged():
        for daemon in (a, b):
            daemon.post("/api/codex/sync", {})
        return len(a.history(first["sessionId"])) == 6 and a.history(first["sessionId"]) == b.history(
            first["sessionId"])

    wait_until(converged, "both have both branches", 60)
    messages = a.get(f"/api/codex/history/{first['sessionId']}").json["messages"]
    assert [m["content"] for m in messages if m.get("branch")][0] == "on alpha"
    assert {m["host"] for m in messages} == {"alpha", "beta"}
    third = a.go_on(first["conversationId"], "and now?")
    assert third["response"].startswith("I saw 5 messages (3 from you, 2 from me).")
    for proxy in proxies:
        proxy.stop()


def test_a_second_host_is_refused_while_a_turn_runs(host, redis):
    a, b = host("alpha"), host("beta")
    first = a.ask("hello")
    in_redis(redis, first["sessionId"], 2)
    assert b.history(first["conversationId"])
    slow = threading.Thread(target=a.go_on, args=(first["conversationId"], "[[delay 3000]]\nslow"))
    slow.start()
    time.sleep(1)
    refused = b.go_on(first["conversationId"], "me too", status=409)
    assert refused["code"] == "session_busy"
    assert "alpha" in json.dumps(refused)
    slow.join()
    wait_until(lambda: len(b.history(first["conversationId"])) == 4, "the turn arrives", 15)
    b.go_on(first["conversationId"], "now me")


def test_a_deleted_session_is_gone_everywhere(host, redis):
    a, b = host("alpha"), host("beta")
    first = a.ask("hello")
    in_redis(redis, first["sessionId"], 2)
    assert b.history(first["conversationId"])
    assert a.request("DELETE", f"/api/codex/session/{first['sessionId']}").status == 200
    wait_until(lambda: b.get(f"/api/codex/history/{first['sessionId']}").status == 404, "it is gone", 15)
    assert value_of(redis, first["sessionId"]) is None


def test_a_wiped_redis_is_filled_again(host, redis):
    a, b = host("alpha"), host("beta")
    first = a.ask("hello")
    in_redis(redis, first["sessionId"], 2)
    assert b.history(first["conversationId"])
    redis.command("FLUSHALL")
    a.go_on(first["conversationId"], "again")
    in_redis(redis, first["sessionId"], 4)
    wait_until(lambda: len(b.history(first["conversationId"])) == 4, "the other host has it", 15)


def test_a_session_of_another_program_is_continued(host, redis):
    a, b = host("alpha"), host("beta")
    sid, cid = "0198c0de-0000-7000-8000-000000000001", "0198c0de-0000-7000-8000-000000000002"
    value = {
        "sessionId": sid, "conversationId": cid, "createdAt": "2026-11-22T09:00:00.000Z",
        "lastUsedAt": "2026-11-22T09:00:00.000Z", "prompt": "hi", "model": "gpt-5-codex",
        "sandbox": "read-only", "context": {"a": []}, "status": "active", "userId": "anna",
        "messages": [{"type": "user", "content": "my dog is Rex", "timestamp": "2026-11-22T09:00:00.000Z"},
                     {"type": "assistant", "content": "noted", "timestamp": "2026-11-22T09:00:01.000Z"}],
    }
    redis.command("SET", f"codex:session:{sid}", json.dumps(value), "EX", "3600")
    redis.command("SET", f"codex:conversation:{cid}", sid, "EX", "3600")
    redis.command("SADD", "user:sessions:anna", sid)
    third = a.go_on(cid, "what is my dog called?")
    assert third["response"].startswith("I saw 3 messages (2 from you, 1 from me).")
    in_redis(redis, sid, 4)
    wait_until(lambda: len(b.history(cid)) == 4, "the other host has it", 15)
    assert a.history(cid) == b.history(cid)


def test_without_redis_nothing_is_in_the_way(host, redis):
    a = host("alpha")
    first = a.ask("hello")
    redis.kill9()
    began = time.monotonic()
    a.go_on(first["conversationId"], "still there?")
    assert time.monotonic() - began < 5
    redis.start()
    wait_until(lambda: a.post("/api/codex/sync", {}).status in (200, 404), "asked to sync", 10)
    in_redis(redis, first["sessionId"], 4)
