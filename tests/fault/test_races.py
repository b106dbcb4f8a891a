"""Who hears of something may act on it at once. A hole in that is microseconds wide: here the daemon runs under a shim that
widens it (jitter.c), and has room for no more than one at a time of what is counted."""

import threading

import pytest
from support.daemon import jittery
from support.mcp_client import McpClient
from support.process import wait_until
from support.redis import Redis
from support.sse import Stream

SEEDS = [2, 3, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 44))]
ROUNDS = 6
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(params=SEEDS)
def tight(request, make_daemon):
    limits = ["--http-threads", "32", "--max-turns", "1", "--max-streams", "1"]
    return make_daemon(args=limits, env=jittery(request.param)).start()


def begin(daemon, prompt, conversation=None, headers=ASYNC):
    if conversation:
        return daemon.go_on(conversation, prompt, status=202, headers=headers)
    return daemon.ask(prompt, status=202, headers=headers)


def check(daemon, made, turns):
    """All that is to be read of a conversation says that so many turns of it have ended, and none runs."""
    conversation = made["conversationId"]
    assert [kind for kind, _ in daemon.history(conversation)] == ["user", "assistant"] * turns
    assert daemon.session(conversation)["messageCount"] == 2 * turns
    figures = daemon.stats()["turns"]
    assert (figures["completed"], figures["running"]) == (turns, 0)
    assert daemon.health()["turns"]["running"] == 0


def test_who_has_the_answer(tight):
    made = tight.ask("first")
    for number in range(1, ROUNDS):
        check(tight, made, number)
        tight.go_on(made["conversationId"], "next")
    check(tight, made, ROUNDS)


def test_who_waited_for_a_turn(tight):
    made = begin(tight, "first")
    for number in range(1, ROUNDS):
        assert tight.turn(made["turnId"], 20_000)["status"] == "completed"
        if number % 2:
            check(tight, made, number)
        made = begin(tight, "next", made["conversationId"])
    assert tight.turn(made["turnId"], 20_000)["status"] == "completed"


def test_who_hears_of_its_end(tight):
    with Stream(tight) as heard:
        assert heard.next(comments=True).name == "id"
        made = begin(tight, "first")
        for number in range(1, ROUNDS):
            assert heard.until("turn.completed")[-1]["turnId"] == made["turnId"]
            if number % 2:
                check(tight, made, number)
            made = begin(tight, "next", made["conversationId"])


def test_who_hears_of_its_beginning(tight):
    with Stream(tight) as heard:
        assert heard.next(comments=True).name == "id"
        for _ in range(ROUNDS):
            made = begin(tight, "[[hang]]")
            assert heard.until("turn.started")[-1]["turnId"] == made["turnId"]
            assert tight.history(made["conversationId"]) == [("user", "[[hang]]")]
            assert tight.turn(made["turnId"])["status"] == "running"
            tight.expect(202, tight.post(f"/api/codex/session/{made['sessionId']}/cancel", {}))
            assert heard.until("turn.failed")[-1]["status"] == "cancelled"


def test_who_reads_the_last_event_of_its_stream(tight):
    made, streams = tight.ask("first"), []
    for _ in range(ROUNDS):
        body = {"conversationId": made["conversationId"], "prompt": "next", "stream": True}
        streams.append(Stream(tight, "/api/codex/continue", body).start())
        assert streams[-1].answer is None, streams[-1].answer
        streams[-1].until("turn.completed")
    for stream in streams:
        stream.close()


def test_who_cancels_hears_of_the_end_and_goes_on_or_deletes(tight):
    with Stream(tight) as heard:
        assert heard.next(comments=True).name == "id"
        for _ in range(ROUNDS):
            made = begin(tight, "[[hang]]")
            heard.until("turn.started")
            tight.expect(202, tight.post(f"/api/codex/session/{made['sessionId']}/cancel", {}))
            heard.until("turn.failed")
            tight.go_on(made["conversationId"], "go on")
            path = f"/api/codex/session/{made['sessionId']}"
            tight.expect(200, tight.request("DELETE", path))
            assert tight.get(path).status == tight.get(f"/api/codex/history/{made['sessionId']}").status == 404
            assert tight.get("/api/codex/sessions?status=all")["sessions"] == []


@pytest.mark.parametrize("headers", [{}, ASYNC])
def test_who_asks_twice_at_once_is_told_of_one_turn(tight, headers):
    made = tight.ask("first")
    for number in range(ROUNDS):
        body = {"conversationId": made["conversationId"], "prompt": "next"}
        key, got = {"Idempotency-Key": f"key-{number}", **headers}, []
        threads = [
            threading.Thread(target=lambda: got.append(tight.post("/api/codex/continue", body, headers=key)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {reply.status for reply in got} == {202 if headers else 200}, got
        told = {reply["turnId"] if headers else reply["metadata"]["turnId"] for reply in got}
        assert len(told) == 1 and tight.turn(told.pop(), 20_000)["status"] == "completed"
    assert len(tight.history(made["conversationId"])) == 2 + 2 * ROUNDS


def test_who_has_the_answer_of_a_tool(tight):
    client = McpClient(tight.address, "2026-07-28")
    answer = client.call("codex", {"prompt": "first"}).result
    for _ in range(ROUNDS):
        thread = answer["structuredContent"]["threadId"]
        answer = client.call("codex-reply", {"threadId": thread, "prompt": "next"}).result
        assert "isError" not in answer, answer


def test_who_polls_a_turn(tight):
    made = begin(tight, "first")
    for _ in range(ROUNDS):
        wait_until(lambda: tight.turn(made["turnId"])["status"] == "completed", "it has ended", 20, step=0)
        made = begin(tight, "next", made["conversationId"])
    assert tight.turn(made["turnId"], 20_000)["status"] == "completed"


def test_who_polls_a_task(tight):
    client = McpClient(tight.address, "2026-07-28", {"extensions": {"io.modelcontextprotocol/tasks": {}}})

    def ended():
        told = client.request("tasks/get", {"taskId": task["taskId"]}).result
        return told if told["status"] == "completed" else None

    task = client.call("codex", {"prompt": "first"}).result
    for _ in range(ROUNDS):
        answer = wait_until(ended, "it has ended", 20, step=0)["result"]["structuredContent"]
        task = client.call("codex-reply", {"threadId": answer["threadId"], "prompt": "next"}).result
        assert task["resultType"] == "task", task
    wait_until(ended, "it has ended", 20)


def test_what_was_answered_outlives_the_end(tight):
    made = tight.ask("first")
    for number in range(2, 3):
        tight.restart()
        tight.go_on(made["conversationId"], "next")
        tight.kill9()
        tight.start()
        assert len(tight.history(made["conversationId"])) == 2 * number


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 21))
def test_who_hears_of_the_end_on_another_host(make_daemon, ram, seed):
    with Redis(ram / "redis") as redis:
        hosts = [
            make_daemon(name, args=["--http-threads", "32", "--user", "anna", "--host-name", name],
                        env={"REDIS_URL": redis.url, **jittery(seed + number)}).start()
            for number, name in enumerate(("alpha", "beta"))
        ]
        for host in hosts:
            wait_until(lambda host=host: host.health()["redis"] == "online", "it is online", 20)
        streams = [Stream(host).start() for host in hosts]
        for stream in streams:
            assert stream.next(comments=True).name == "id"
        made = hosts[0].ask("first")
        for number in range(1, ROUNDS):
            host, stream = hosts[number % 2], streams[number % 2]
            while stream.until("turn.completed")[-1]["turnId"] != made["metadata"]["turnId"]:
                continue
            assert len(host.history(made["conversationId"])) == 2 * number
            made = host.go_on(made["conversationId"], "next")
        for stream in streams:
            stream.close()
