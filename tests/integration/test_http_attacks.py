"""What an attacker may send, and what must come of it: nothing."""

import random
import socket
import threading
import time

import pytest
from support.daemon import Daemon, instant_codex
from support.process import SLOWNESS, status_kb
from support.wire import compose, connect, exchange, exchange_as, read_answer


JSON = "Content-Type: application/json"
NOBODY_UID = 65534


@pytest.fixture(scope="module")
def instant(tmp_path_factory):
    daemon = Daemon(
        tmp_path_factory.mktemp("attacks"), codex=instant_codex(), engine="app-server",
        args=["--http-threads", "128", "--log-level", "info"],
    ).start()
    yield daemon
    daemon.discard()


@pytest.fixture
def own(tmp_path):
    """A daemon for one test alone, ended whatever becomes of it."""
    daemon = Daemon(tmp_path / "one", codex=instant_codex(), args=["--http-threads", "16"]).start()
    yield daemon
    daemon.discard()


def health_time(daemon):
    begun = time.monotonic()
    assert daemon.get("/health").status == 200
    return time.monotonic() - begun


@pytest.fixture(autouse=True)
def still_well(instant):
    """Whatever a test did, the same daemon answers at once afterwards."""
    pid = instant.pid
    yield
    assert instant.process.poll() is None and instant.pid == pid
    assert health_time(instant) < 0.1 * SLOWNESS


def token_of(daemon):
    return (daemon.data_dir / "token").read_text().strip()


# ---- a web page ----


@pytest.mark.parametrize("kind", [
    "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonx",
    "application/json; charset=utf-16", "text/plain; application/json", "application/json, text/plain",
])
def test_a_form_cannot_begin_a_turn(instant, kind):
    before = instant.stats()["totalConversations"]
    data = compose(instant, "POST", "/api/codex/session", f"Content-Type: {kind}", body=b'{"prompt":"x"}')
    answer = exchange(instant, data)
    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
    for path in ("/api/codex/cleanup", "/api/codex/session/x/cancel", "/api/codex/session/x/restore"):
        assert exchange(instant, compose(instant, "POST", path, f"Content-Type: {kind}")).status == 415
    assert instant.stats()["totalConversations"] == before


def test_json_types_that_are_fine(instant):
    for kind in ("application/json", "Application/JSON; charset=utf-8", 'application/json;charset="UTF-8"'):
        data = compose(instant, "POST", "/api/codex/session", f"Content-Type: {kind}", body=b'{"prompt":"x"}')
        assert exchange(instant, data).status == 200


@pytest.mark.parametrize("line", [
    "Origin: http://evil.example", "Origin: null", "Origin: http://localhost", "Origin: https://127.0.0.1:{port}",
    "Origin: http://127.0.0.1:{port}.evil.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site",
])
def test_a_page_of_another_origin_changes_nothing(instant, line):
    session = instant.ask("keep me")["sessionId"]
    data = compose(instant, "DELETE", f"/api/codex/session/{session}", line.format(port=instant.port))
    answer = exchange(instant, data)
    assert (answer.status, answer.json["code"]) == (403, "origin_not_allowed")
    assert answer.headers["connection"] == "close"
    assert instant.session(session)


def test_a_rebound_name_reads_nothing(instant):
    for host in (f"evil.example:{instant.port}", "evil.example", f"localhost.evil.example:{instant.port}"):
        for path in ("/health", "/healthz", "/", "/api/codex/openapi.json"):
            answer = exchange(instant, compose(instant, "GET", path, host=host))
            assert (answer.status, answer.json["code"]) == (403, "host_not_allowed")


# ---- another user of this host ----

def test_another_user_needs_the_token(instant):
    close = "Connection: close"
    for path in ("/health", "/api/codex/stats", "/nowhere", "/api/codex/openapi.json"):
        status, body = exchange_as(instant, NOBODY_UID, compose(instant, "GET", path, close))
        assert status == 401 and b'"unauthorized"' in body
    post = compose(instant, "POST", "/api/codex/session", JSON, close, body=b'{"prompt":"x"}')
    before = instant.stats()["totalConversations"]
    assert exchange_as(instant, NOBODY_UID, post)[0] == 401
    assert instant.stats()["totalConversations"] == before
    assert exchange_as(instant, NOBODY_UID, compose(instant, "GET", "/healthz", close))[0] == 200
    bearer = f"Authorization: Bearer {token_of(instant)}"
    assert exchange_as(instant, NOBODY_UID, compose(instant, "GET", "/health", close, bearer))[0] == 200


def test_another_user_stays_another_user(instant):
    """The kernel is asked once per connection: the answer holds for the later requests too."""
    data = compose(instant, "GET", "/health") + compose(instant, "GET", "/health", "Connection: close")
    status, rest = exchange_as(instant, NOBODY_UID, data)
    assert status == 401 and rest.count(b"HTTP/1.1 401 ") == 1 and b"200 OK" not in rest


def test_another_user_that_closes_at_once_gains_nothing(instant):
    """The kernel reports a closed socket as root's: it must not pass for ours."""
    session = instant.ask("keep me")["sessionId"]
    data = compose(instant, "DELETE", f"/api/codex/session/{session}")
    for _ in range(40):
        exchange_as(instant, NOBODY_UID, data, wait=False)
    time.sleep(0.3)
    assert instant.session(session)


def test_the_token_cannot_be_read_by_others(instant):
    path = instant.data_dir / "token"
    assert path.stat().st_mode & 0o777 == 0o600 and instant.data_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("header", [
    "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: localhost", "x-forwarded-proto: https", "Forwarded: for=127.0.0.1",
    "Via: 1.1 proxy", "X-Real-IP: 127.0.0.1",
])
def test_a_proxied_request_needs_the_token(instant, header):
    answer = exchange(instant, compose(instant, "GET", "/health", header))
    assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
    bearer = f"Authorization: Bearer {token_of(instant)}"
    assert exchange(instant, compose(instant, "GET", "/health", header, bearer)).status == 200


def test_on_one_connection_each_request_is_judged(instant):
    """A proxy's connection carries requests of many: what one was allowed says nothing of the next."""
    with connect(instant) as client, client.makefile("rb") as stream:
        statuses = []
        for headers in ([], ["X-Forwarded-For: 1.2.3.4"], [], ["Origin: http://evil.example"]):
            client.sendall(compose(instant, "GET", "/health", *headers))
            statuses.append(read_answer(stream).status)
    assert statuses == [200, 401, 200, 403]


def test_a_credential_that_is_presented_must_be_right(own):
    token = token_of(own)
    wrong = [
        token[:-1], token + "0", token.upper(), "", "x" * 64, "Basic " + token, token[:-1] + chr(ord(token[-1]) ^ 1),
    ]
    for value in wrong:
        scheme = "" if value.startswith("Basic") else "Bearer "
        answer = exchange(own, compose(own, "GET", "/health", f"Authorization: {scheme}{value}"))
        assert answer.status == 401, value
    for _ in range(30):
        answer = exchange(own, compose(own, "GET", "/health", "Authorization: Bearer 0"))
    assert answer.status == 429 and int(answer.headers["retry-after"]) > 0
    right = compose(own, "GET", "/health", f"authorization: bearer {token}")
    assert exchange(own, right).status == 200  # whoever has the token is never locked out
    assert own.get("/health").status == 200
    assert token not in own.log()


# ---- bytes ----


def test_a_header_too_large_is_told(instant):
    for headers in (["X-Big: " + "x" * 20_000], [f"X-{n}: y" for n in range(64)], ["Cookie: " + "c" * 16_400]):
        with connect(instant) as client:
            client.sendall(compose(instant, "GET", "/healthz", *headers))
            with client.makefile("rb") as stream:
                answer = read_answer(stream)
        assert (answer.status, answer.json["code"]) == (431, "headers_too_large")
    assert exchange(instant, compose(instant, "GET", "/healthz", *[f"X-{n}: y" for n in range(60)])).status == 200


def test_a_header_hidden_behind_a_broken_line_does_not_pass(instant):
    """civetweb stops reading at such lines: a proxy's header after them would be lost."""
    for broken in (" folded", "\tfolded", ": nameless", "\x80bad: 1", "no colon"):
        data = compose(instant, "GET", "/health", "X-A: 1", broken, "X-Forwarded-For: 1.2.3.4")
        answer = exchange(instant, data)
        assert answer is None or answer.status == 400, (broken, answer)
    bare = compose(instant, "GET", "/health").replace(b"\r\n", b"\n")
    assert exchange(instant, bare).status == 400


def test_empty_lines_before_a_request_do_not_reach_what_is_left_in_the_buffer(own):
    """civetweb would take bytes of an earlier client for the rest of this request."""
    for _ in range(200):  # every worker has seen a request
        assert exchange(own, compose(own, "GET", "/healthz")).status == 200
    request = compose(own, "GET", "/healthz")
    for before in (b"\r\n", b"\r\n\r\n", b"\n\n", b" " * 12 + b"\r\n\r\n", b"\r\n" * 8, b"\r\n\r\n" * 1024):
        with connect(own) as client:
            client.sendall(before + request)
            with client.makefile("rb") as stream:
                answer = read_answer(stream)
                assert answer.status in (400, 431), (before[:20], answer)
                assert not stream.read()


def test_a_refused_body_of_any_size_still_shows_its_answer(instant):
    """The client goes on sending for a while; it must not lose the answer to a reset connection."""
    body = b"x" * (20 * 1024 * 1024)
    answer = exchange(instant, compose(instant, "POST", "/api/codex/session", JSON, body=body))
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")
    answer = exchange(instant, compose(instant, "POST", "/api/codex/session", "Content-Type: text/plain", body=body[:2_000_000]))
    assert answer.status == 415
    answer = exchange(instant, compose(instant, "GET", "/healthz", body=body[:2_000_000]))
    assert answer.status == 200 and answer.headers["connection"] == "close"


def test_an_expectation_other_than_100_continue_fails(instant):
    data = compose(instant, "POST", "/api/codex/session", JSON, "Expect: gold", body=b'{"prompt":"x"}')
    assert exchange(instant, data).status == 417


def test_who_expects_100_gets_it_at_once(instant):
    body = b'{"prompt":"' + b"x" * 300_000 + b'"}'
    with connect(instant) as client, client.makefile("rb") as stream:
        head = compose(instant, "POST", "/api/codex/session", JSON, "Expect: 100-continue", body=body)[: -len(body)]
        begun = time.monotonic()
        client.sendall(head)
        assert read_answer(stream).status == 100
        assert time.monotonic() - begun < 0.5 * SLOWNESS
        client.sendall(body)
        assert read_answer(stream).status == 200


def test_who_expects_100_is_refused_before_sending(instant):
    head = compose(instant, "POST", "/api/codex/session", JSON, "Expect: 100-continue", "Content-Length: 99999999")
    begun = time.monotonic()
    assert exchange(instant, head).status == 413
    assert time.monotonic() - begun < 0.5 * SLOWNESS


@pytest.mark.parametrize("pace", [0.2, 4.0])
def test_a_body_that_drips_is_given_up(instant, pace):
    """In ten seconds in all, however steadily the bytes trickle in."""
    begun = time.monotonic()
    with connect(instant, 60) as client:
        client.sendall(compose(instant, "POST", "/api/codex/session", JSON, "Content-Length: 100000"))
        client.settimeout(pace)
        answer = b""
        while time.monotonic() - begun < 20 * SLOWNESS and not answer:
            try:
                client.sendall(b"x")
                answer = client.recv(4096)
            except TimeoutError:
                pass
    assert b" 408 " in answer.split(b"\r\n")[0] + b" " and b"request_timeout" in answer
    assert 9 < time.monotonic() - begun < 16 * SLOWNESS


def test_a_header_that_drips_is_given_up(instant):
    begun = time.monotonic()
    with connect(instant, 60) as client:
        client.settimeout(0.5)
        ended = False
        while time.monotonic() - begun < 30 * SLOWNESS and not ended:
            try:
                client.sendall(b"G" if time.monotonic() - begun < 0.1 else b"E")
                ended = client.recv(4096) != b"?"
            except TimeoutError:
                pass
            except OSError:
                ended = True
    assert ended and time.monotonic() - begun < 16 * SLOWNESS


def test_sixty_slow_sockets_do_not_slow_the_others(instant):
    stop = threading.Event()
    head = compose(instant, "POST", "/api/codex/session", JSON, "Content-Length: 5000")

    def drip(n):
        with connect(instant) as client:
            data = head + b"{" * 5000 if n % 2 else b"GET /" + b"x" * 5000
            for byte in data:
                if stop.is_set():
                    return
                try:
                    client.sendall(bytes([byte]))
                except OSError:
                    return
                time.sleep(0.05)

    slow = [threading.Thread(target=drip, args=(n,)) for n in range(60)]
    for one in slow:
        one.start()
    try:
        time.sleep(0.5)
        assert sorted(health_time(instant) for _ in range(20))[-3] < 0.25 * SLOWNESS
    finally:
        stop.set()
        for one in slow:
            one.join()


def test_a_reader_that_does_not_read_is_let_go(instant):
    """Its answer is far larger than what the kernel buffers."""
    session = instant.ask("[[huge 12000000]]")["sessionId"]
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(instant.address)
        client.sendall(compose(instant, "GET", f"/api/codex/history/{session}"))
        time.sleep(16)  # ten without progress, as civetweb counts them
        assert instant.get("/healthz").status == 200
        client.settimeout(60)
        got = 0
        while data := client.recv(1 << 20):
            got += len(data)
    assert got < 12_000_000  # it was cut: its worker went on to others
    assert len(instant.get(f"/api/codex/history/{session}").body) > 12_000_000


BOMBS = [
    b"[" * 1300 + b"]" * 1300,
    b'{"prompt":' + b"[" * 100_000,
    b'{"context":' + b'[{"content":' * 30_000 + b"1" + b"}]" * 30_000 + b"}",
    b'{"a":' * 65 + b"1" + b"}" * 65,
    b'"' + b"\\" * 100_001,
    b'{"prompt":"x","prompt":"y"}',
    b'{"prompt":"x","\\u0070rompt":"y"}',
    b'{"prompt":"\xc0\xaf"}', b'{"prompt":"\xed\xa0\x80"}', b'{"prompt":"\xf5\x80\x80\x80"}', b'\xff\xfe{\x00}\x00',
    b'{"prompt":"a\\u0000b"}', b'{"prompt":"a\x00b"}', b'{"prompt":"\\ud800"}', b'{"prompt":"\\udc00\\ud800"}',
    b'{"prompt":"x"}{}', b"{'prompt':'x'}", b'{"prompt":"x",}', b'{"prompt":NaN}', b"[]", b"null", b'"x"', b"1e999",
    b'\xef\xbb\xbf{"prompt":"x"}', b"{" * 500_000,
]


@pytest.mark.parametrize("body", BOMBS, ids=lambda body: repr(body[:24]))
def test_a_bomb_does_not_go_off(instant, body):
    before = instant.stats()["totalConversations"]
    answer = exchange(instant, compose(instant, "POST", "/api/codex/session", JSON, body=body))
    assert answer.status == 400 and answer.json["success"] is False
    assert instant.stats()["totalConversations"] == before


def test_a_prompt_longer_than_codex_takes_is_told(instant):
    body = b'{"prompt":"' + b"x" * 1_048_577 + b'"}'
    answer = exchange(instant, compose(instant, "POST", "/api/codex/session", JSON, body=body))
    assert (answer.status, answer.json["code"]) == (413, "prompt_too_large")


# ---- ten thousand at random ----

SEEDS = [
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/codex/sessions?limit=5&cursor=a1 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n",
    b'POST /api/codex/continue HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'
    b'Content-Length: 32\r\n\r\n{"prompt":"x","sessionId":"none"}',
    b"DELETE /api/codex/session/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\n\r\n",
    b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
]
PIECES = [
    b"\r\n", b"\n", b"\r", b"\0", b"\xff", b" ", b"\t", b":", b"%00", b"%2e%2e/", b"../", b"?", b"&", b"=", b"#",
    b"Content-Length: 5\r\n", b"Content-Length: 99999999999999999999\r\n", b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Host: evil\r\n", b"Expect: 100-continue\r\n", b"X: " + b"y" * 9000,
    b"{", b"[" * 500, b"\\u0000", b"HTTP/9.9", b"\r\n\r\n", b"A" * 3000, b"Authorization: Bearer x\r\n",
]


def mutate(rng):
    data = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randrange(1, 6)):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(4)
        if kind == 0:
            data[at:at] = rng.choice(PIECES)
        elif kind == 1:
            del data[at : at + rng.randrange(1, 20)]
        elif kind == 2 and at < len(data):
            data[at] = rng.randrange(256)
        else:
            data[at:at] = data[: rng.randrange(1, 60)]
        data = data or bytearray(b"\n")
    return bytes(data)


def test_ten_thousand_malformed_requests(instant):
    rng = random.Random(20261122)

    def send(count):
        for _ in range(count):
            with connect(instant) as client:
                try:
                    client.sendall(mutate(rng))
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass
                except OSError:
                    pass

    send(1000)  # every worker has touched its stack and its buffer
    assert instant.get("/health").status == 200
    before = status_kb(instant.pid, "VmRSS")
    times = []
    for _ in range(100):
        send(100)
        times.append(health_time(instant))
    assert max(times) < 0.1 * SLOWNESS
    if SLOWNESS == 1:  # a sanitizer keeps what is freed
        assert status_kb(instant.pid, "VmRSS") - before < 5 * 1024
