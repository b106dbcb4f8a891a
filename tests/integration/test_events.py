"""Streams: what happens is heard as it does, and nothing that is kept is lost or comes twice."""

import asyncio
import json
import random
import shutil
import threading

import pytest
import websockets
from support.browser import Browser
from support.daemon import instant_codex
from support.hosts import break_line, mend_line, messages, on, state
from support.mcp_client import McpClient
from support.openapi import Document
from support.process import SLOWNESS, wait_until
from support.sse import Stream

EVENT_STREAM = "Accept: text/event-stream"
DOCUMENT = Document()
KEPT = {"turn.started", "turn.completed", "turn.failed"}


def check(events):
    """Each event is as the contract says; those that are kept have an id, and theirs ascend."""
    names = DOCUMENT.root["components"]["schemas"]["Events"]["properties"]
    for event in events:
        DOCUMENT.check(names[event.name], event.data, event.name)
        assert event.kept == (event.name in KEPT), event
    ids = [event.id for event in events if event.kept]
    assert ids == sorted(set(ids))


def ask(daemon, prompt, path="session", headers=(EVENT_STREAM,), **fields):
    """A turn as a stream: its events until the end."""
    with Stream(daemon, f"/api/codex/{path}", {"prompt": prompt, "cwd": "/tmp", **fields}, headers) as stream:
        assert not stream.answer, stream.answer
        events = stream.rest()
    check(events)
    return events


def follow(daemon, query="", **options):
    return Stream(daemon, f"/api/codex/events{query}", **options)


def text_of(events):
    return "".join(event["delta"] for event in events if event.name == "message.delta")


@pytest.fixture
def make_instant(make_daemon):
    def make(name="one", *args):
        return make_daemon(name, codex=instant_codex(), engine="app-server", args=args).start()

    return make


# ---- a turn ----


@pytest.mark.smoke
def test_a_turn_streams_from_its_prompt_to_its_answer(daemon):
    events = ask(daemon, "[[deltas 5 10]]")
    assert [event.name for event in events if event.name != "usage"] == [
        "turn.started", *["message.delta"] * 5, "turn.completed",
    ]
    started, completed = events[0], events[-1]
    assert started["prompt"] == "[[deltas 5 10]]"
    assert text_of(events) == completed["response"] == "piece 1 piece 2 piece 3 piece 4 piece 5"
    ids = ("sessionId", "conversationId", "userId", "turnId")
    assert all([event[key] for key in ids] == [started[key] for key in ids] for event in events)
    turn = daemon.turn(started["turnId"])
    assert (completed["response"], completed["metadata"]) == (turn["response"], turn["metadata"])

    more = ask(daemon, "and now?", "continue", conversationId=started["conversationId"])
    assert more[-1]["response"].startswith("I saw 3 messages (2 from you, 1 from me).")
    assert more[0].id > completed.id


def test_every_engine_streams_what_it_can(make_daemon, engine):
    daemon = make_daemon(engine=engine).start()
    events = ask(daemon, "[[tool echo here I am]]", sandbox="workspace-write")
    items = [event["item"] for event in events if event.name == "item"]
    assert any("here I am" in json.dumps(item) for item in items)
    assert "here I am" in events[-1]["response"] and events[-1].name == "turn.completed"
    assert events[-1]["metadata"]["engine"] == engine
    usage = [event["usage"] for event in events if event.name == "usage"]
    assert usage[-1] == events[-1]["metadata"]["usage"]
    if engine != "exec":  # it tells the answer as a whole
        assert text_of(events) == events[-1]["response"]


def test_the_body_can_ask_for_a_stream_and_has_the_last_word(daemon):
    assert ask(daemon, "hello", headers=(), stream=True)[-1].name == "turn.completed"
    reply = daemon.post("/api/codex/session", {"prompt": "hello", "stream": False}, headers={"Accept": "text/event-stream"})
    assert reply.status == 200 and reply["response"]
    reply = daemon.post("/api/codex/session", {"prompt": "hello", "stream": "yes"})
    assert (reply.status, reply["code"]) == (400, "invalid_stream")


def test_what_is_refused_before_the_turn_is_no_stream(make_instant):
    daemon = make_instant()
    busy = daemon.ask("[[hang]]", status=202, headers={"Prefer": "respond-async"}, timeoutMs=60_000)
    nobody = "00000000-0000-7000-8000-000000000000"
    for path, status, code, fields in (
        ("session", 400, "prompt_required", {"prompt": ""}),
        ("session", 403, "sandbox_above_ceiling", {"prompt": "x", "sandbox": "danger-full-access"}),
        ("continue", 404, "session_not_found", {"prompt": "x", "sessionId": nobody}),
        ("continue", 409, "session_busy", {"prompt": "x", "sessionId": busy["sessionId"]}),
    ):
        reply = daemon.post(f"/api/codex/{path}", fields, headers={"Accept": "text/event-stream"})
        assert (reply.status, reply["code"], reply["success"]) == (status, code, False)
        assert reply.headers["Content-Type"].startswith("application/json")
    assert daemon.post("/api/codex/session", {"prompt": "x"}, headers={"X-Forwarded-For": "1.2.3.4"}).status == 401
    assert daemon.get("/api/codex/events", headers={"X-Forwarded-For": "1.2.3.4"}).status == 401
    assert daemon.get("/api/codex/events", headers={"Host": "evil.example"}).status == 403
    assert daemon.get("/api/codex/events", headers={"Origin": "http://evil.example"}).status == 403


def test_a_turn_that_fails_ends_its_stream(make_instant):
    daemon = make_instant()
    events = ask(daemon, "[[fail]]")
    assert [event.name for event in events] == ["turn.started", "turn.failed"]
    assert events[-1]["status"] == "failed"
    assert events[-1]["code"] == daemon.turn(events[0]["turnId"])["code"]
    late = ask(daemon, "[[hang]]", timeoutMs=1000)
    assert (late[-1].name, late[-1]["code"]) == ("turn.failed", "execution_timeout")


@pytest.mark.smoke
def test_going_away_stops_no_turn(daemon):
    body = {"prompt": "[[deltas 30 30]]", "cwd": "/tmp"}
    with Stream(daemon, "/api/codex/session", body, [EVENT_STREAM]) as stream:
        started = stream.until("message.delta")[0]
    assert daemon.turn(started["turnId"])["status"] == "running"
    ended = wait_until(lambda: (t := daemon.turn(started["turnId"], 1000))["status"] != "running" and t, "its end", 30)
    assert ended["status"] == "completed" and ended["response"].endswith("piece 30")


def test_a_repeated_key_streams_the_turn_it_stands_for(make_instant):
    daemon = make_instant()
    headers = [EVENT_STREAM, "Idempotency-Key: once"]
    first = ask(daemon, "do it", headers=headers)
    with Stream(daemon, "/api/codex/session", {"prompt": "do it", "cwd": "/tmp"}, headers) as again:
        assert [event.id for event in again.rest()] == [event.id for event in first if event.kept]
        assert again.headers["idempotency-replayed"] == "true"
    hanging = {"prompt": "[[hang]]", "cwd": "/tmp", "timeoutMs": 60_000}
    headers = [EVENT_STREAM, "Idempotency-Key: running"]
    with Stream(daemon, "/api/codex/session", hanging, headers) as one:
        started = one.next()
        with Stream(daemon, "/api/codex/session", hanging, headers) as other:
            assert other.next()["turnId"] == started["turnId"]
            daemon.post(f"/api/codex/session/{started['sessionId']}/cancel")
            for stream in (one, other):
                assert stream.rest()[-1]["status"] == "cancelled"


# ---- all that happens ----


def test_filters_choose_what_is_heard(make_instant):
    daemon = make_instant()
    hers = daemon.ask("hers", userId="anna")
    his = daemon.ask("his", userId="bert")
    with (
        follow(daemon, f"?sessionId={hers['conversationId']}") as session, follow(daemon, "?userId=bert") as user,
        follow(daemon) as everything, follow(daemon, f"?userId=bert&sessionId={hers['sessionId']}") as nothing,
    ):
        for stream in (session, user, everything, nothing):
            assert stream.next(comments=True).name == "id"  # it listens now
        daemon.go_on(his["conversationId"], "his again")
        daemon.go_on(hers["conversationId"], "hers again")
        daemon.ask("hers elsewhere", userId="anna")
        assert session.until("turn.completed")[0]["prompt"] == "hers again"
        assert user.until("turn.completed")[0]["prompt"] == "his again"
        prompts = [event["prompt"] for event in [e for _ in range(3) for e in everything.until("turn.completed")]
                   if event.name == "turn.started"]
        assert prompts == ["his again", "hers again", "hers elsewhere"]
        daemon.stop()
        for stream in (session, user, everything, nothing):
            assert [event.name for event in stream.rest()] == ["stream.closing"]
    with follow(daemon.start(), f"?userId=anna&lastEventId=0&sessionId={hers['sessionId']}") as replay:
        heard = [event for _ in range(2) for event in replay.until("turn.completed")]
        assert [event["prompt"] for event in heard if event.name == "turn.started"] == ["hers", "hers again"]
        check(heard)


class Follower:
    """Comes back whenever it is cut off, as EventSource does, and remembers all that it got."""

    def __init__(self, daemon, last):
        self.daemon = daemon
        self.place = last
        self.ids = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while not self.done.is_set():
            try:
                with follow(self.daemon, last=self.place) as stream:
                    self._listen(stream)
            except OSError:
                self.done.wait(0.02)

    def _listen(self, stream):
        while not self.done.is_set():
            event = stream.next(comments=True)
            if event is None:
                return
            self.place = stream.place if event.id is None else event.id
            if event.name in KEPT:
                self.ids.append(event.id)


def all_ids(daemon):
    """The ids of the whole log, as a stream from its beginning has them."""
    end = daemon.ask("the end")["metadata"]["turnId"]
    ids = []
    with follow(daemon, last=0) as stream:
        while not ids or stream.seen[-1].name != "turn.completed" or stream.seen[-1]["turnId"] != end:
            ids.append(stream.next().id)
    return ids


def test_nothing_is_lost_or_comes_twice_over_restarts_and_kills(make_instant):
    daemon = make_instant("one", "--heartbeat-ms", "200")
    rng = random.Random(4)
    daemon.ask("the first")
    followers = [Follower(daemon, last) for last in (0, 1, 2)]
    try:
        for _ in range(6):
            for _ in range(rng.randrange(4)):
                daemon.ask("on and on")
            running = daemon.ask("[[delay 300]]", status=202, headers={"Prefer": "respond-async"})
            wait_until(lambda: daemon.turn(running["turnId"])["startedAt"], "it runs")
            if rng.random() < 0.6:
                daemon.kill9()
                daemon.start()
            else:
                daemon.restart()
        ids = all_ids(daemon)
        assert len(ids) >= 6 * 2 + 2 and ids == sorted(set(ids))
        for follower in followers:
            wait_until(lambda f=follower: f.ids and f.ids[-1] == ids[-1], "it has heard the end", 20)
        for follower, last in zip(followers, (0, 1, 2)):
            assert follower.ids == [number for number in ids if number > last]
    finally:
        for follower in followers:
            follower.done.set()
        daemon.stop()
        for follower in followers:
            follower.thread.join(20 * SLOWNESS)


def test_a_log_that_was_put_back_is_told_and_goes_on_live(make_instant, tmp_path):
    daemon = make_instant()
    daemon.ask("one")
    old = tmp_path / "old.db"
    assert daemon.run("backup", str(old), "--data-dir", str(daemon.data_dir)).returncode == 0
    daemon.ask("two")
    with follow(daemon, last=0) as stream:
        last = stream.until("turn.completed") and stream.until("turn.completed")[-1].id
    daemon.stop()
    for path in daemon.data_dir.glob("codex-sessiond.db*"):
        path.unlink()
    shutil.copy(old, daemon.data_dir / "codex-sessiond.db")
    daemon.start()
    with follow(daemon, last=last) as stream:
        assert stream.next(comments=True).id == 2  # where to come back to now
        assert stream.next()["reason"] == "events_lost" and stream.seen[-1].name == "stream.reset"
        daemon.ask("three")
        assert stream.until("turn.completed")[0]["prompt"] == "three"


# ---- life of a stream ----


def test_the_header_of_a_stream(make_instant):
    daemon = make_instant()
    with follow(daemon, headers=["X-Request-Id: mine"]) as stream:
        assert stream.headers == {
            "content-type": "text/event-stream", "cache-control": "no-store", "x-content-type-options": "nosniff",
            "x-accel-buffering": "no", "connection": "close", "x-request-id": "mine",
        }
    head = daemon.request("HEAD", "/api/codex/events")
    assert (head.status, head.headers["Content-Type"], head.body) == (200, "text/event-stream", b"")


def test_a_silent_stream_has_a_heartbeat(make_instant):
    daemon = make_instant("one", "--heartbeat-ms", "100")
    with follow(daemon) as stream:
        assert stream.next(comments=True).name == "id"
        assert [stream.next(comments=True).name for _ in range(3)] == [":"] * 3


def test_shutdown_says_goodbye_after_the_outcomes(make_instant):
    daemon = make_instant()
    with (
        follow(daemon) as everything,
        Stream(daemon, "/api/codex/session", {"prompt": "[[hang]]", "timeoutMs": 60_000}, [EVENT_STREAM]) as turn,
    ):
        assert turn.next().name == "turn.started"
        daemon.stop()
        assert [(event.name, event["status"]) for event in turn.rest()] == [("turn.failed", "interrupted")]
        ends = everything.rest()
        assert [event.name for event in ends] == ["turn.started", "turn.failed", "stream.closing"]
        assert ends[-1]["reason"] == "shutting_down"


def test_streams_have_a_share_of_their_own(make_instant):
    daemon = make_instant("one", "--http-threads", "16", "--heartbeat-ms", "100")  # a quarter for streams
    streams = [follow(daemon).start() for _ in range(4)]
    refused = daemon.get("/api/codex/events")
    assert (refused.status, refused["code"]) == (503, "too_many_streams") and refused.headers["Retry-After"]
    refused = daemon.post("/api/codex/session", {"prompt": "x"}, headers={"Accept": "text/event-stream"})
    assert (refused.status, refused["code"]) == (503, "too_many_streams")
    waiting = [threading.Thread(target=daemon.ask, args=("[[delay 500]]",)) for _ in range(8)]
    for thread in waiting:
        thread.start()
    assert daemon.get("/healthz").status == 200
    for thread in waiting:
        thread.join()
    for stream in streams[:2]:  # a client that goes away makes room, once a heartbeat has noticed it
        stream.close()

    def room():
        with follow(daemon) as stream:
            return stream.answer is None

    wait_until(room, "there is room again")
    for stream in streams[2:]:
        stream.close()


def test_who_hears_the_end_of_a_turn_has_its_place_for_the_next(make_instant):
    daemon = make_instant("one", "--max-streams", "1")
    made, streams = daemon.ask("first"), []
    for number in range(30):
        body = {"conversationId": made["conversationId"], "prompt": f"{number}", "stream": True}
        streams.append(Stream(daemon, "/api/codex/continue", body).start())
        assert streams[-1].answer is None, f"{number}: {streams[-1].answer}"
        streams[-1].until("turn.completed")
    for stream in streams:
        stream.close()


def test_who_falls_behind_is_told_so_and_loses_nothing_that_is_kept(make_daemon):
    daemon = make_daemon().start()
    slow = Stream(daemon, buffer=4096)  # it asks, and does not read
    wait_until(lambda: slow.file.peek(1), "it listens")
    answer = daemon.ask("[[big 8000000]]", timeoutMs=60_000)
    assert len(answer["response"]) == 8_000_000
    slow.start()
    events = slow.rest()
    assert (events[-1].name, events[-1]["reason"]) == ("stream.dropped", "slow_reader")
    assert "turn.completed" not in {event.name for event in events}
    with follow(daemon, last=slow.place) as again:
        assert again.until("turn.completed")[-1]["response"] == answer["response"]
    slow.close()


def test_dead_slow_readers_harm_nobody(make_instant):
    daemon = make_instant("one", "--heartbeat-ms", "1000")
    deaf = [Stream(daemon, "/api/codex/events?userId=deaf", buffer=4096) for _ in range(60)]
    streams = [follow(daemon, "?userId=anna").start() for _ in range(200)]
    waiting = [
        Stream(daemon, "/api/codex/session", {"prompt": "[[delay 3000]]", "cwd": "/tmp"}) for _ in range(50)
    ]
    wait_until(lambda: daemon.stats()["turns"]["running"] == 50, "the turns run")
    assert daemon.get("/healthz").status == 200
    daemon.ask("[[huge 16000000]]", userId="deaf")  # more than the kernel takes for them
    answer = daemon.ask("hello", userId="anna")
    assert daemon.get("/healthz").status == 200
    for stream in streams:
        assert stream.until("turn.completed")[-1]["turnId"] == answer["metadata"]["turnId"]
    for waiter in waiting:
        assert waiter.start().headers["content-type"].startswith("application/json")
    wait_until(lambda: daemon.log().count("reason=slow_reader") == 60, "the deaf ones are let go", 40, 0.2)
    for stream in [*deaf, *streams, *waiting]:
        stream.close()


def test_a_turn_on_one_host_is_heard_on_another(make_host):
    here, there = make_host("here"), make_host("there")
    with follow(there, "?userId=anna") as stream:
        assert stream.next(comments=True).name == "id"
        answer = here.ask("across")
        started, completed = stream.until("turn.completed")
        assert (started["host"], started["prompt"], started["userId"]) == ("here", "across", "anna")
        assert (completed["host"], completed["response"]) == ("here", answer["response"])
        assert completed["metadata"]["turnId"] == answer["metadata"]["turnId"]
        assert completed["metadata"]["timestamp"] == completed["timestamp"] == answer["metadata"]["timestamp"]
        assert started["timestamp"] == messages(here, answer["sessionId"])[0]["timestamp"]
        check([started, completed])
        with follow(there, f"?sessionId={answer['sessionId']}", last=0) as session:
            assert [event.name for event in session.until("turn.completed")] == ["turn.started", "turn.completed"]
        with follow(here, f"?sessionId={answer['conversationId']}") as back:
            assert back.next(comments=True).name == "id"
            there.go_on(answer["conversationId"], "and back")
            assert [event["host"] for event in back.until("turn.completed")] == ["there", "there"]
    on(here, answer["sessionId"], 4)


# ---- a browser ----

LISTEN = """
    window.heard = [];
    const source = new EventSource(arguments[0]);
    for (const name of arguments[1])
        source.addEventListener(name, event => heard.push([name, event.lastEventId, JSON.parse(event.data).turnId]));
    window.source = source;
"""
OPEN = 1  # EventSource.OPEN


async def prompt_over_websocket(host, sid):
    """The answer to a prompt: the turn has begun."""
    async with websockets.connect(f"ws://{host.address[0]}:{host.port}/api/codex/ws") as line:
        await line.send(json.dumps({"type": "prompt", "id": "1", "sessionId": sid, "prompt": "by line", "stream": False}))
        return json.loads(await line.recv())


def test_a_turn_without_news_from_redis_says_so_on_every_way(proxied):
    host, line = proxied("alpha")
    sid = host.ask("root")["sessionId"]
    break_line(line)
    wait_until(lambda: state(host)["state"] == "offline", "it notices", 15)
    stale = {"stale": True}

    events = ask(host, "streamed", "continue", sessionId=sid)
    started, completed = events[0], events[-1]
    assert (started.name, started["metadata"]) == ("turn.started", stale)
    assert completed["metadata"]["stale"] is True
    assert completed["metadata"] == host.turn(started["turnId"])["metadata"]

    body, once = {"prompt": "once", "sessionId": sid}, {"Idempotency-Key": "once"}
    for _ in range(2):
        reply = host.expect(200, host.post("/api/codex/continue", body, headers=once))
        assert reply["metadata"]["stale"] is True
    later = host.go_on(sid, "later", 202, headers={"Prefer": "respond-async"})
    assert later["metadata"] == stale and host.turn(later["turnId"], 20_000)["metadata"]["stale"] is True
    reply = asyncio.run(prompt_over_websocket(host, sid))
    assert reply["success"] and reply["metadata"] == stale
    assert host.turn(reply["turnId"], 20_000)["status"] == "completed"
    client = McpClient(host.address).initialize()
    called = client.call("codex-reply", {"prompt": "called", "threadId": reply["conversationId"]})
    assert called.result["structuredContent"]["stale"] is True
    failed = host.go_on(sid, "[[fail]]", 502)
    assert failed["metadata"] == host.turn(failed["turnId"])["metadata"] == stale
    assert "metadata" not in host.go_on(sid, "", 400)

    host.restart()
    with follow(host, last=started.id - 1) as stream:
        assert stream.next()["metadata"] == stale
    mend_line(line)
    wait_until(lambda: state(host)["state"] == "online", "it is back", 15)
    events = ask(host, "with news", "continue", sessionId=sid)
    assert "metadata" not in events[0].data and "stale" not in events[-1]["metadata"]


def test_a_browser_misses_nothing_over_restarts(make_daemon):
    daemon = make_daemon().start()
    daemon.args = ["--port", str(daemon.port)]  # where the page looks for it again
    with Browser() as browser:
        browser.open(f"http://127.0.0.1:{daemon.port}/healthz")
        browser.run(LISTEN, "/api/codex/events", [*KEPT, "message.delta"])
        connected = lambda: browser.run("return source.readyState") == OPEN  # noqa: E731
        wait_until(connected, "it listens")
        daemon.kill9()  # before it has heard of anything
        daemon.start()
        first = daemon.ask("[[deltas 3 10]]")["conversationId"]
        daemon.restart()
        daemon.go_on(first, "while it is away")
        wait_until(connected, "it has come back", 30)
        daemon.go_on(first, "[[deltas 5 50]]")
        daemon.kill9()
        daemon.start()
        daemon.go_on(first, "the last one")
        ids = all_ids(daemon)
        heard = wait_until(
            lambda: (h := browser.run("return heard"))[-1:] and h[-1][1] == str(ids[-1]) and h, "it has heard the end", 30
        )
    kept = [int(number) for name, number, _ in heard if name in KEPT]
    assert kept == ids
    assert sum(name == "message.delta" for name, _, _ in heard) >= 5
