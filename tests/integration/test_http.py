"""What the HTTP side refuses, and how: on the wire, against the running daemon."""

import json
import socket
import time

import pytest
from support.daemon import instant_codex
from support.process import SLOWNESS


def exchange(daemon, data, timeout=15.0):
    """Send bytes, read to the end or until the answer is whole: (status, headers in lower case, body)."""
    with socket.create_connection(daemon.address, timeout * SLOWNESS) as client:
        client.sendall(data)
        with client.makefile("rb") as answer:
            line = answer.readline()
            if not line:
                return None, {}, b""
            headers = {}
            while (header := answer.readline()) not in (b"\r\n", b""):
                name, _, value = header.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            body = answer.read(int(headers.get("content-length", 0)))
            return int(line.split()[1]), headers, body


def request(daemon, line="GET /api/codex/stats HTTP/1.1", headers=None, body=b"", host=True):
    lines = [line, *([f"Host: 127.0.0.1:{daemon.port}"] if host else []), *(headers or [])]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def post(daemon, body, *headers):
    length = f"Content-Length: {len(body)}"
    return request(daemon, "POST /api/codex/session HTTP/1.1", [length, *headers], body)


def assert_error(answer, status, code=None):
    got, headers, body = answer
    assert got == status, answer
    error = json.loads(body)
    assert error["success"] is False and error["error"] and error["requestId"]
    if code:
        assert error["code"] == code
    assert headers["content-type"].startswith("application/json")
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers
    return headers


@pytest.mark.smoke
def test_errors_have_their_status_and_one_shape(shared_daemon):
    assert_error(exchange(shared_daemon, request(shared_daemon, "GET /nowhere HTTP/1.1")), 404)
    headers = assert_error(exchange(shared_daemon, request(shared_daemon, "PUT /api/codex/session HTTP/1.1")), 405)
    assert headers["allow"] == "POST"
    plain = post(shared_daemon, b'{"prompt":"x"}', "Content-Type: text/plain")
    assert_error(exchange(shared_daemon, plain), 415, "unsupported_media_type")
    assert_error(exchange(shared_daemon, post(shared_daemon, b'{"prompt":"x"}')), 415)
    assert_error(exchange(shared_daemon, post(shared_daemon, b'{"prompt":', "Content-Type: application/json")), 400)
    assert_error(exchange(shared_daemon, post(shared_daemon, b"[]", "Content-Type: application/json")), 400)
    big = request(
        shared_daemon, "POST /api/codex/session HTTP/1.1",
        ["Content-Type: application/json", "Content-Length: 99999999999"],
    )
    assert_error(exchange(shared_daemon, big), 413, "body_too_large")
    many = request(shared_daemon, headers=[f"X-{n}: y" for n in range(200)])
    assert_error(exchange(shared_daemon, many), 431)


FOREIGN = [
    ["Host: evil.example"],
    ["Host: 127.0.0.1.evil.example"],
    ["Host: localhost:1"],
    ["Host: evil.example:{port}"],
    ["Host: 127.0.0.1:{port}", "Origin: http://evil.example"],
    ["Host: 127.0.0.1:{port}", "Origin: null"],
    ["Host: 127.0.0.1:{port}", "Origin: http://127.0.0.1:1"],
    ["Host: 127.0.0.1:{port}", "Sec-Fetch-Site: cross-site"],
]


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: headers[-1])
@pytest.mark.parametrize("path", ["/api/codex/stats", "/healthz", "/nowhere"])
def test_a_foreign_host_or_origin_is_forbidden_on_every_path(shared_daemon, headers, path):
    headers = [header.format(port=shared_daemon.port) for header in headers]
    answer = exchange(shared_daemon, request(shared_daemon, f"GET {path} HTTP/1.1", headers, host=False))
    assert_error(answer, 403)


def test_own_hosts_and_origins_are_welcome(shared_daemon):
    for name in (f"127.0.0.1:{shared_daemon.port}", f"localhost:{shared_daemon.port}", f"[::1]:{shared_daemon.port}"):
        headers = [f"Host: {name}", f"Origin: http://{name}"]
        assert exchange(shared_daemon, request(shared_daemon, headers=headers, host=False))[0] == 200


def test_a_preflight_gets_no_permission(shared_daemon):
    answer = exchange(shared_daemon, request(
        shared_daemon, "OPTIONS /api/codex/session HTTP/1.1",
        ["Origin: http://evil.example", "Access-Control-Request-Method: POST",
         "Access-Control-Request-Headers: content-type"],
    ))
    assert answer[0] >= 400
    assert not [name for name in answer[1] if name.startswith("access-control")]


SMUGGLED = [
    ["Content-Length: 2", "Content-Length: 3"],
    ["Content-Length: 2", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked"],
    ["Content-Length: +2"],
    ["Content-Length: 0x2"],
    ["Content-Length: -1"],
    ["Content-Length: 99999999999999999999"],
    ["Content-Length: 2", "Host: localhost"],
    ["Content-Length: 2", "X Bad: 1"],
    ["Content-Length: 2", "X-Folded: 1", " more"],
]


@pytest.mark.parametrize("headers", SMUGGLED, ids=lambda headers: headers[-1])
def test_ambiguous_framing_is_refused_and_the_connection_closed(shared_daemon, headers):
    data = request(
        shared_daemon, "POST /api/codex/cleanup HTTP/1.1", ["Content-Type: application/json", *headers],
        b"{}GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    with socket.create_connection(shared_daemon.address, 15) as client:
        client.sendall(data)
        try:
            answer = b"".join(iter(lambda: client.recv(65536), b""))  # to the end: it closes
        except ConnectionResetError:
            answer = b""
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert not answer or 400 <= int(answer.split()[1]) < 500
    assert shared_daemon.get("/healthz").status == 200


PATHS = [
    "/api/%2e%2e/health", "/api/codex/history/%00", "/api/codex/../../health", "//health", "/health%00",
    "/api/codex/history/" + "a" * 3000, "/api/codex/history/", "http://evil.example/health", "*",
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:30])
def test_odd_paths_find_nothing(shared_daemon, path):
    status = exchange(shared_daemon, request(shared_daemon, f"GET {path} HTTP/1.1"))[0]
    assert status is None or status in (400, 403, 404, 414, 431)
    assert shared_daemon.get("/healthz").status == 200


def test_deep_and_strange_json_is_refused(shared_daemon, shared_model):
    strange = [
        b"[" * 1300 + b"]" * 1300,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"prompt":"x","prompt":"y"}',
        b'{"prompt":"\xff\xfe"}',
        b'{"prompt":"\\ud800"}',
        b'{"prompt":"x"} trailing',
        b"",
        b"{" * 100_000,
    ]
    for body in strange:
        answer = exchange(shared_daemon, post(shared_daemon, body, "Content-Type: application/json"))
        assert answer[0] == 400, (body[:40], answer)
    assert not shared_model.requests


def test_the_token_is_demanded_behind_a_proxy_and_wrong_ones_are_slowed(daemon):
    for name in ("Forwarded: for=1.2.3.4", "X-Forwarded-For: 1.2.3.4"):
        assert_error(exchange(daemon, request(daemon, headers=[name])), 401, "unauthorized")
    wrong = request(daemon, headers=["Authorization: Bearer " + "0" * 64])
    statuses = [exchange(daemon, wrong)[0] for _ in range(40)]
    assert statuses[0] == 401 and statuses[-1] == 429
    token = daemon.run("token", "--data-dir", str(daemon.data_dir)).stdout.strip()
    right = request(daemon, headers=[f"Authorization: Bearer {token}", "X-Forwarded-For: 1.2.3.4"])
    assert exchange(daemon, right)[0] == 200  # not locked out by the others


def test_remote_hosts_need_a_word_of_consent(make_daemon):
    daemon = make_daemon()
    result = daemon.run("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", str(daemon.data_dir))
    assert result.returncode != 0 and "allow-remote" in result.stderr


def test_with_allow_remote_everyone_needs_the_token(make_daemon):
    daemon = make_daemon(args=["--host", "0.0.0.0", "--allow-remote"]).start()
    daemon.address = ("127.0.0.1", daemon.port)
    assert daemon.get("/api/codex/stats").status == 401
    token = daemon.run("token", "--data-dir", str(daemon.data_dir)).stdout.strip()
    authorized = {"Authorization": f"Bearer {token}"}
    assert daemon.get("/api/codex/stats", headers=authorized).status == 200


def test_slow_senders_do_not_keep_others_waiting(shared_daemon):
    """Half-sent headers and bodies on many sockets: the next request is answered at once."""
    slow = []
    try:
        for n in range(200):
            client = socket.create_connection(shared_daemon.address, 15)
            client.sendall(b"GET /health" if n % 2 else post(shared_daemon, b"{" * 1000, "Content-Type: application/json")[:-500])
            slow.append(client)
        begun = time.monotonic()
        assert shared_daemon.get("/healthz").status == 200
        assert time.monotonic() - begun < 0.5 * SLOWNESS
    finally:
        for client in slow:
            client.close()


def test_a_large_body_that_expects_100_continue_is_not_stalled(shared_daemon):
    body = json.dumps({"prompt": "x" * 300_000 + "\n[[big 10]]"}).encode()
    with socket.create_connection(shared_daemon.address, 30) as client:
        head = post(shared_daemon, body, "Content-Type: application/json", "Expect: 100-continue")[: -len(body)]
        client.sendall(head)
        begun = time.monotonic()
        assert client.recv(100).startswith(b"HTTP/1.1 100")
        assert time.monotonic() - begun < 0.5 * SLOWNESS
        client.sendall(body)
        assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_readers_of_one_history_do_not_disturb_each_other(make_daemon):
    """One reader takes its time; others, and a HEAD, get the same answer meanwhile, each under its own request id."""
    daemon = make_daemon(codex=instant_codex(), engine="app-server", args=["--cache-bytes=67108864"]).start()
    made = daemon.ask("[[huge 8000000]]")["sessionId"]
    line = f"GET /api/codex/history/{made} HTTP/1.1"
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(60 * SLOWNESS)
        slow.connect(daemon.address)
        slow.sendall(request(daemon, line, ["X-Request-Id: slow", "Connection: close"]))
        got = slow.recv(1)
        quick = [exchange(daemon, request(daemon, line, [f"X-Request-Id: quick-{n}"])) for n in range(2)]
        head = exchange(daemon, request(daemon, line.replace("GET", "HEAD"), ["Connection: close"]))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        while more := slow.recv(1 << 20):
            got += more
    begin, _, body = got.partition(b"\r\n\r\n")
    assert b"X-Request-Id: slow\r\n" in begin and f"Content-Length: {len(body)}\r\n".encode() in begin
    assert len(json.loads(body)["messages"][1]["content"]) == 8_000_000
    assert [(status, headers["x-request-id"]) for status, headers, _ in quick] == [(200, "quick-0"), (200, "quick-1")]
    assert [other for _, _, other in quick] == [body, body]
    assert head[0] == 200 and head[1]["content-length"] == str(len(body)) and head[2] == b""
    assert exchange(daemon, request(daemon, line))[2] == body
