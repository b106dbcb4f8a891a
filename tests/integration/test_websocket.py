"""The WebSocket: the handshake, frames good and bad, and conversations over it."""

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct

import pytest
import websockets
from conftest import daemons
from support import wire
from support.daemon import instant_codex
from support.hosts import drained
from support.process import SLOWNESS, wait_until

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
PATH = "/api/codex/ws"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """A daemon on the instant Codex, for tests that leave nothing behind but sessions."""
    with daemons(tmp_path_factory.mktemp("fast"), None) as make:
        yield make(codex=instant_codex(), engine="app-server").start()


@pytest.fixture
def own(make_daemon):
    """One for a test that stops it or needs it empty."""
    return make_daemon(codex=instant_codex(), engine="app-server").start()


# ---- a client by hand ----


class Raw:
    """A WebSocket as bytes."""

    def __init__(self, daemon, *headers):
        self.socket = wire.connect(daemon)
        upgrade = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"]
        self.socket.sendall(wire.compose(daemon, "GET", PATH, *upgrade, *headers))
        self.stream = self.socket.makefile("rb")
        self.answer = wire.read_answer(self.stream)

    def __enter__(self):
        assert self.answer.status == 101, self.answer
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.socket.close()

    def send(self, first, payload=b"", masked=True, length=None):
        """A frame: `first` is its whole first byte; `length` lies about the payload."""
        size = len(payload) if length is None else length
        bit = 0x80 if masked else 0
        if size < 126:
            head = struct.pack("!BB", first, bit | size)
        elif size < 65536:
            head = struct.pack("!BBH", first, bit | 126, size)
        else:
            head = struct.pack("!BBQ", first, bit | 127, size)
        mask = os.urandom(4) if masked else b""
        body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)) if masked else payload
        self.socket.sendall(head + mask + body)

    def receive(self):
        """The next frame as (opcode, payload); None when the connection has ended."""
        head = self.stream.read(2)
        if len(head) < 2:
            return None
        assert head[0] & 0x70 == 0 and head[1] & 0x80 == 0, "a server sets no reserved bit and masks nothing"
        size = head[1]
        if size == 126:
            size = struct.unpack("!H", self.stream.read(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self.stream.read(8))[0]
        return head[0] & 0x0F, self.stream.read(size)

    def reply(self, message):
        self.send(0x80 | TEXT, json.dumps(message).encode())
        opcode, payload = self.receive()
        assert opcode == TEXT
        return json.loads(payload)

    def expect_close(self, code):
        opcode, payload = self.receive()
        assert (opcode, struct.unpack("!H", payload[:2])[0]) == (CLOSE, code), payload
        assert self.receive() is None
        return payload[2:].decode("utf-8")


def shake(daemon, *headers):
    return wire.exchange(daemon, wire.compose(daemon, "GET", PATH, *headers))


UPGRADE = ("Upgrade: websocket", "Connection: keep-alive, Upgrade")


def test_the_handshake_is_that_of_the_rfc(fast):
    with Raw(fast) as client:
        assert client.answer.headers["sec-websocket-accept"] == ACCEPT
        assert client.answer.headers["upgrade"].lower() == "websocket"
        assert "sec-websocket-extensions" not in client.answer.headers


@pytest.mark.parametrize(
    "headers, status, code",
    [
        ((), 426, "upgrade_required"),
        (("Upgrade: h2c", "Connection: Upgrade"), 426, "upgrade_required"),
        (("Upgrade: websocket",), 426, "upgrade_required"),
        ((*UPGRADE, f"Sec-WebSocket-Key: {KEY}"), 426, "upgrade_required"),
        ((*UPGRADE, f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 8"), 426, "upgrade_required"),
        ((*UPGRADE, "Sec-WebSocket-Version: 13"), 400, "invalid_websocket_key"),
        ((*UPGRADE, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"), 400, "invalid_websocket_key"),
        ((*UPGRADE, "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}", "Origin: http://evil.example"), 403,
         "origin_not_allowed"),
        ((*UPGRADE, "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}", "Origin: null"), 403,
         "origin_not_allowed"),
        ((*UPGRADE, "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}", "Authorization: Bearer wrong"), 401,
         "unauthorized"),
    ],
)
def test_a_handshake_that_is_none_is_refused(fast, headers, status, code):
    answer = shake(fast, *headers)
    assert (answer.status, answer.json["code"]) == (status, code)
    if status == 426:
        assert answer.headers.get("upgrade") == "websocket" or answer.headers.get("sec-websocket-version") == "13"


def test_a_name_that_is_not_ours_is_refused(fast):
    data = wire.compose(
        fast, "GET", PATH, *UPGRADE, "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}", host="evil.example",
    )
    answer = wire.exchange(fast, data)
    assert (answer.status, answer.json["code"]) == (403, "host_not_allowed")


def test_another_user_needs_the_token(fast):
    data = wire.compose(fast, "GET", PATH, *UPGRADE, "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}")
    status, body = wire.exchange_as(fast, 65534, data)
    assert (status, json.loads(body)["code"]) == (401, "unauthorized")


# ---- frames ----


def test_fragments_with_a_ping_between_make_one_message(fast):
    message = json.dumps({"type": "cancel", "id": "a", "sessionId": "nobody's"}).encode()
    with Raw(fast) as client:
        client.send(TEXT, message[:7])
        client.send(0x80 | PING, b"are you there")
        assert client.receive() == (PONG, b"are you there")
        client.send(0, message[7:20])
        client.send(0x80, message[20:])
        opcode, payload = client.receive()
        assert (opcode, json.loads(payload)["code"]) == (TEXT, "session_not_found")


@pytest.mark.parametrize(
    "frames, code",
    [
        ([(0x80 | TEXT, b"{}", False)], 1002),  # without a mask
        ([(0xC0 | TEXT, b"{}", True)], 1002),  # a reserved bit
        ([(0x83, b"{}", True)], 1002),  # an opcode that is none
        ([(0x80, b"{}", True)], 1002),  # a continuation of nothing
        ([(TEXT, b"{", True), (0x80 | TEXT, b"}", True)], 1002),  # a message within a message
        ([(PING, b"x", True)], 1002),  # a control frame in pieces
        ([(0x80 | PING, b"x" * 126, True)], 1002),  # and one that is too long
        ([(0x82, b"{}", True)], 1003),  # binary
        ([(0x80 | TEXT, b'"\xff"', True)], 1007),
        ([(TEXT, b'"\xe6', True), (0x80, b'\xe6"', True)], 1007),
        ([(0x80 | CLOSE, b"\x03", True)], 1002),
        ([(0x80 | CLOSE, b"\x03\xed", True)], 1002),  # 1005 is never sent
        ([(0x80 | CLOSE, b"\x03\xe8\xff", True)], 1007),
    ],
)
def test_what_breaks_the_protocol_is_closed_with_its_code(fast, frames, code):
    with Raw(fast) as client:
        for first, payload, masked in frames:
            client.send(first, payload, masked)
        assert client.expect_close(code)


def test_a_frame_over_the_cap_is_refused_by_its_header(make_daemon):
    daemon = make_daemon(codex=instant_codex(), engine="app-server", args=["--max-body-bytes", "65536"]).start()
    with Raw(daemon) as client:
        client.send(0x80 | TEXT, b"", length=65537)
        client.expect_close(1009)
    with Raw(daemon) as client:
        client.send(TEXT, b" " * 65000)
        client.send(0x80, b"", length=537)
        client.expect_close(1009)
    with Raw(daemon) as client:
        padded = json.dumps({"type": "none", "id": "x"}).encode().ljust(65536)
        client.send(0x80 | TEXT, padded)
        assert json.loads(client.receive()[1])["code"] == "invalid_message"


@pytest.mark.parametrize("payload, code", [(b"", 1000), (b"\x03\xe8", 1000), (b"\x03\xe9bye", 1001), (b"\x0f\xa0", 4000)])
def test_a_close_is_answered_with_its_code(fast, payload, code):
    with Raw(fast) as client:
        client.send(0x80 | CLOSE, payload)
        client.expect_close(code)


def test_a_message_that_does_not_end_is_given_up(fast):
    with Raw(fast) as client:
        client.send(TEXT, b"{")
        assert client.expect_close(1008) == "the message did not arrive whole and in time"


def test_who_is_silent_is_pinged_and_then_let_go(make_daemon):
    daemon = make_daemon(codex=instant_codex(), engine="app-server", args=["--heartbeat-ms", "1000"]).start()
    with Raw(daemon) as client:
        assert client.receive() == (PING, b"")
        client.send(0x80 | PONG)
        assert client.receive() == (PING, b"")
        assert client.expect_close(1001) == "no answer to a ping"


def test_the_end_of_the_daemon_is_told(own):
    with Raw(own) as idle, Raw(own) as busy:
        assert busy.reply({"type": "subscribe", "id": "all"})["success"]
        own.stop()
        assert idle.expect_close(1001) == "the daemon is shutting down"
        assert json.loads(busy.receive()[1]) == {"type": "end", "subscription": "all", "reason": "shutting_down"}
        busy.expect_close(1001)


def test_a_connection_cut_off_leaves_nothing(own):
    clients = [Raw(own) for _ in range(20)]
    for number, client in enumerate(clients):
        assert client.answer.status == 101
        client.reply({"type": "subscribe", "id": f"s{number}"})
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close is a reset
        client.__exit__()
    threads = f"/proc/{own.pid}/task"

    def pumps():
        names = []
        for task in os.listdir(threads):
            try:
                with open(f"{threads}/{task}/comm", encoding="ascii") as comm:
                    names.append(comm.read().strip())
            except FileNotFoundError:
                continue
        return names.count("ws")

    wait_until(lambda: pumps() == 0, "the subscriptions' threads end", 20)


# ---- messages ----


@pytest.mark.parametrize(
    "text, code",
    [
        ("", "invalid_json"),
        ("[1]", "invalid_message"),
        ("{", "invalid_json"),
        ('{"type":"prompt"}', "invalid_message"),
        ('{"type":"prompt","id":""}', "invalid_message"),
        ('{"type":"prompt","id":"' + "x" * 65 + '"}', "invalid_message"),
        ('{"type":"dance","id":"a"}', "invalid_message"),
        ('{"type":"prompt","id":"a"}', "prompt_required"),
        ('{"type":"prompt","id":"a","prompt":7}', "invalid_prompt"),
        ('{"type":"prompt","id":"a","prompt":"x","sessionId":"none"}', "session_not_found"),
        ('{"type":"subscribe","id":"a","sessionId":"none"}', "session_not_found"),
        ('{"type":"subscribe","id":"a","lastEventId":-4}', "invalid_last_event_id"),
        ('{"type":"subscribe","id":"a","lastEventId":"x"}', "invalid_last_event_id"),
        ('{"type":"unsubscribe","id":"a"}', "invalid_message"),
        ('{"type":"unsubscribe","id":"a","subscription":"b"}', "subscription_not_found"),
        ('{"type":"cancel","id":"a"}', "invalid_message"),
        ('{"type":"approval","id":"a","turnId":"none","approvalId":"1","decision":"approve"}', "turn_not_found"),
        ('{"type":"approval","id":"a","turnId":"none","approvalId":"1","decision":"maybe"}', "invalid_decision"),
    ],
)
def test_a_message_that_asks_for_nothing_is_told_so_and_the_connection_stays(fast, text, code):
    with Raw(fast) as client:
        client.send(0x80 | TEXT, text.encode())
        answer = json.loads(client.receive()[1])
        assert answer["type"] == "reply" and answer["success"] is False and answer["error"]
        assert answer["code"] == code
        assert client.reply({"type": "subscribe", "id": "still here"})["success"]


# ---- the client of a library ----


class Talk:
    """A conversation with the daemon through python's websockets."""

    def __init__(self, socket):
        self.socket = socket

    async def next(self, seconds=30):
        return json.loads(await asyncio.wait_for(self.socket.recv(), seconds * SLOWNESS))

    async def ask(self, kind, request_id, refused=None, **members):
        """The answer; `refused` is the code that it must have, None when it must be a success."""
        await self.socket.send(json.dumps({"type": kind, "id": request_id, **members}))
        answer = await self.next()
        assert (answer["type"], answer["id"]) == ("reply", request_id), answer
        assert (answer["success"], answer.get("code")) == (refused is None, refused), answer
        return answer

    async def until_end(self, subscription):
        """The events of a subscription, up to its end: (events, reason)."""
        events = []
        while True:
            message = await self.next()
            assert message["subscription"] == subscription, message
            if message["type"] == "end":
                return events, message["reason"]
            events.append(message)


def talk(daemon, play, **options):
    async def run():
        url = f"ws://127.0.0.1:{daemon.port}{PATH}"
        async with websockets.connect(url, **options) as connection:
            return await play(Talk(connection))

    return asyncio.run(run())


def names(events):
    return [event["event"] for event in events]


@pytest.mark.smoke
def test_a_prompt_streams_its_turn_through_the_real_codex(daemon):
    async def play(client):
        begun = await client.ask("prompt", "p1", prompt="hello over a socket")
        assert begun["success"] and begun["turnId"] and begun["sessionId"] and begun["conversationId"]
        events, reason = await client.until_end("p1")
        again = await client.ask("prompt", "p2", prompt="and again", conversationId=begun["conversationId"])
        more, _ = await client.until_end("p2")
        return begun, again, events, more, reason

    begun, again, events, more, reason = talk(daemon, play)
    assert reason == "turn_ended"
    assert names(events)[0] == "turn.started" and names(events)[-1] == "turn.completed"
    assert "message.delta" in names(events)
    assert all(event["data"]["turnId"] == begun["turnId"] for event in events)
    deltas = "".join(event["data"]["delta"] for event in events if event["event"] == "message.delta")
    assert events[-1]["data"]["response"] == deltas
    assert again["conversationId"] == begun["conversationId"]
    history = daemon.history(begun["conversationId"])
    assert [content for kind, content in history if kind == "user"] == ["hello over a socket", "and again"]
    assert [content for kind, content in history if kind == "assistant"] == [
        events[-1]["data"]["response"], more[-1]["data"]["response"],
    ]


async def on_turn_completed(client, sid):
    await client.ask("subscribe", "s", sessionId=sid, lastEventId=0)
    turns = 0
    while turns < 25:
        message = await client.next()
        if message["type"] == "reply":
            assert message["success"], message
        elif message["event"] == "turn.completed":
            turns += 1
            prompt = {"type": "prompt", "id": f"p{turns}", "prompt": "more", "stream": False}
            await client.socket.send(json.dumps({**prompt, "sessionId": sid}))
    return turns


async def on_end(client, sid):
    for _ in range(25):
        await client.ask("prompt", "always the same id", prompt="more", sessionId=sid)
        events, reason = await client.until_end("always the same id")
        assert (names(events)[-1], reason) == ("turn.completed", "turn_ended")
    return 25


@pytest.mark.parametrize("converse", [on_turn_completed, on_end])
def test_who_hears_that_it_has_ended_goes_on_at_once(fast, converse):
    async def play(_):
        sids = [fast.ask("the first prompt")["sessionId"] for _ in range(16)]
        url = f"ws://127.0.0.1:{fast.port}{PATH}"
        async with contextlib.AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(websockets.connect(url)) for _ in sids]
            return await asyncio.gather(*(converse(Talk(socket), sid) for socket, sid in zip(sockets, sids)))

    assert talk(fast, play) == 16 * [25]


def test_a_running_turn_is_cancelled(fast):
    async def play(client):
        begun = await client.ask("prompt", "p", prompt="[[hang]]")
        assert (await client.next())["event"] == "turn.started"
        await client.socket.send(json.dumps({"type": "cancel", "id": "c", "sessionId": begun["sessionId"]}))
        seen = []
        while not seen or seen[-1]["type"] != "end":
            seen.append(await client.next())
        return begun, seen

    begun, seen = talk(fast, play)
    replies = [message for message in seen if message["type"] == "reply"]
    assert [(reply["id"], reply["turnId"]) for reply in replies] == [("c", begun["turnId"])]
    ends = [message for message in seen if message.get("event") == "turn.failed"]
    assert [event["data"]["code"] for event in ends] == ["turn_cancelled"]


def test_a_subscription_goes_on_where_the_last_one_ended(own):
    first = own.ask("before anybody listened")

    async def play(client):
        await client.ask("subscribe", "s", lastEventId=0)
        seen = [await client.next(), await client.next()]
        await asyncio.to_thread(own.go_on, first["conversationId"], "while one listened")
        while seen[-1].get("event") != "turn.completed" or len(seen) < 4:
            seen.append(await client.next())
        return seen

    seen = [event for event in talk(own, play) if "eventId" in event]
    assert names(seen) == ["turn.started", "turn.completed"] * 2
    ids = [event["eventId"] for event in seen]
    assert ids == sorted(set(ids))
    own.restart()

    async def resume(client):
        await client.ask("subscribe", "s", sessionId=first["sessionId"], lastEventId=ids[1])
        return [await client.next(), await client.next()]

    assert [event["eventId"] for event in talk(own, resume)] == ids[2:]


def test_subscriptions_are_told_apart_and_end_when_asked(fast):
    mine, other = fast.ask("mine", userId="anna"), fast.ask("other", userId="berta")

    async def play(client):
        await client.ask("subscribe", "anna's", userId="anna")
        await client.ask("subscribe", "one", sessionId=other["sessionId"])
        await client.ask("subscribe", "one", sessionId=other["sessionId"], refused="subscription_exists")
        await asyncio.to_thread(fast.go_on, other["conversationId"], "more", userId="berta")
        seen = [await client.next()]
        while seen[-1]["event"] != "turn.completed":
            seen.append(await client.next())
        assert {message["subscription"] for message in seen} == {"one"}
        await client.socket.send(json.dumps({"type": "unsubscribe", "id": "u", "subscription": "one"}))
        rest = [await client.next(), await client.next()]
        assert {"type": "end", "subscription": "one", "reason": "unsubscribed"} in rest
        await asyncio.to_thread(fast.go_on, other["conversationId"], "unheard", userId="berta")
        await asyncio.to_thread(fast.go_on, mine["conversationId"], "heard", userId="anna")
        assert (await client.next())["subscription"] == "anna's"

    talk(fast, play)


def test_a_connection_has_so_many_subscriptions_and_no_more(fast):
    async def play(client):
        for number in range(16):
            await client.ask("subscribe", f"s{number}")
        await client.ask("subscribe", "one more", refused="too_many_subscriptions")
        await client.socket.send(json.dumps({"type": "unsubscribe", "id": "u", "subscription": "s3"}))
        await client.next(), await client.next()
        return await client.ask("subscribe", "one more")

    assert talk(fast, play)["success"]


def test_a_subscription_takes_its_share_of_the_streams(make_daemon):
    daemon = make_daemon(codex=instant_codex(), engine="app-server", args=["--max-streams", "3"]).start()

    async def play(client):
        for number in range(5):  # what is refused takes no share
            await client.ask("subscribe", f"r{number}", sessionId="nobody", refused="session_not_found")
        await client.ask("subscribe", "one")
        await client.ask("subscribe", "two")
        await client.ask("subscribe", "three", refused="too_many_streams")
        await client.ask("prompt", "p", prompt="unheard", refused="too_many_streams")
        assert daemon.stats()["totalConversations"] == 0  # it was not begun
        await client.socket.send(json.dumps({"type": "unsubscribe", "id": "u", "subscription": "one"}))
        await client.next(), await client.next()
        return await client.ask("subscribe", "three")

    assert talk(daemon, play)["success"]


def test_who_hears_the_end_of_a_turn_may_use_its_id_and_its_place(make_daemon):
    daemon = make_daemon(codex=instant_codex(), engine="app-server", args=["--max-streams", "2"]).start()

    async def play(client):
        begun = await client.ask("prompt", "p", prompt="first")
        for number in range(30):
            message = await client.next()
            while message.get("event") != "turn.completed":
                message = await client.next()
            await client.socket.send(json.dumps(
                {"type": "prompt", "id": "p", "prompt": f"{number}", "sessionId": begun["sessionId"]}))
            assert (await client.next()) == {"type": "end", "subscription": "p", "reason": "turn_ended"}
            reply = await client.next()
            assert (reply["type"], reply["success"]) == ("reply", True), f"{number}: {reply}"

    talk(daemon, play)


def test_who_reads_the_close_may_come_again(make_daemon):
    daemon = make_daemon(codex=instant_codex(), engine="app-server", args=["--max-streams", "1"]).start()
    clients = []
    for number in range(30):
        clients.append(Raw(daemon))
        assert clients[-1].answer.status == 101, f"{number}: {clients[-1].answer}"
        clients[-1].send(0x80 | CLOSE, struct.pack("!H", 1000))
        assert clients[-1].receive() == (CLOSE, struct.pack("!H", 1000))
    for client in clients:
        client.__exit__()


def test_a_session_that_only_another_host_knows_can_be_subscribed_to(make_host):
    here, there = make_host("here"), make_host("there")
    made = here.ask("of somebody else", userId="berta")
    drained(here)

    async def play(client):
        reply = await client.ask("subscribe", "s", sessionId=made["sessionId"], lastEventId=0)
        assert reply["success"], reply
        return [await client.next(), await client.next()]

    assert names(talk(there, play)) == ["turn.started", "turn.completed"]


def test_the_same_prompt_with_its_key_runs_once(fast):
    members = {"prompt": "once", "idempotencyKey": "k1"}

    async def play(client):
        begun = await client.ask("prompt", "p", **members)
        events, _ = await client.until_end("p")
        return begun, events

    begun, events = talk(fast, play)
    again, replayed = talk(fast, play)
    assert again["turnId"] == begun["turnId"] and again["replayed"] is True
    assert [event["data"] for event in replayed if "eventId" in event] == [
        event["data"] for event in events if "eventId" in event
    ]
    assert len(fast.history(begun["conversationId"])) == 2


def test_a_prompt_without_a_stream_is_only_begun(fast):
    async def play(client):
        begun = await client.ask("prompt", "p", prompt="quietly", stream=False)
        return begun, await client.ask("subscribe", "p")

    begun, subscribed = talk(fast, play)
    assert subscribed["success"]
    assert fast.turn(begun["turnId"], 10000)["status"] == "completed"


def test_a_turn_goes_on_when_its_client_is_gone(fast):
    async def play(client):
        begun = await client.ask("prompt", "p", prompt="[[delay 300]] slowly")
        client.socket.transport.abort()
        return begun

    try:
        begun = talk(fast, play, close_timeout=1)
    except websockets.ConnectionClosed:
        raise AssertionError("the answer came before the end") from None
    assert fast.turn(begun["turnId"], 10000)["status"] == "completed"


def test_a_reader_that_takes_nothing_is_let_go_and_the_turn_is_stored(make_daemon):
    daemon = make_daemon(codex=instant_codex(), engine="app-server").start()
    with Raw(daemon) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        begun = client.reply({"type": "prompt", "id": "p", "prompt": "[[huge 30000000]]", "timeoutMs": 60000})
        assert daemon.turn(begun["turnId"], 60000)["status"] == "completed"
        wait_until(lambda: "websocket_dropped" in daemon.log(), "it is let go", 20)
    assert daemon.request("GET", "/healthz").status == 200


def test_a_large_message_arrives_whole(fast):
    prompt = base64.b64encode(os.urandom(450000)).decode()

    async def play(client):
        begun = await client.ask("prompt", "p", prompt=prompt)
        await client.until_end("p")
        return begun

    begun = talk(fast, play, max_size=None)
    assert fast.history(begun["conversationId"])[0] == ("user", prompt)
