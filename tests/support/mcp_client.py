"""A client of /mcp that shows every message: sessions, streams, and the stateless revision."""

import http.client
import json
import socket
import time

from .process import SLOWNESS

SESSIONS = ("2025-06-18", "2025-11-25")
STATELESS = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
BOTH = "application/json, text/event-stream"


class Answer:
    """An HTTP answer to a message: `messages` are those of the stream, the response among them."""

    def __init__(self, status, headers, messages, ids):
        self.status = status
        self.headers = headers
        self.messages = messages
        self.ids = ids  # of events

    @property
    def response(self):
        found = [message for message in self.messages if "result" in message or "error" in message]
        assert len(found) == 1, f"{self.status}: {self.messages}"
        return found[0]

    @property
    def result(self):
        assert "result" in self.response, self.response
        return self.response["result"]

    @property
    def error(self):
        assert "error" in self.response, self.response
        return self.response["error"]

    def notes(self, method):
        return [message["params"] for message in self.messages if message.get("method") == method]

    def __repr__(self):
        return f"<{self.status} {self.messages!r:.800}>"


class Stream:
    """An answer that is read event by event; it may go on for a minute."""

    def __init__(self, connection, response):
        self.until = time.monotonic() + 60 * SLOWNESS
        self.connection = connection
        self.response = response
        self.retry = None  # as the server says

    def events(self):
        """(id, data) of each event until the end."""
        event, lines = None, []
        for raw in self.response:
            assert time.monotonic() < self.until, "the stream goes on, and what was waited for does not come"
            line = raw.decode("utf-8").rstrip("\r\n")
            if line.startswith("id: "):
                event = line[4:]
            elif line.startswith("data: "):
                lines.append(line[6:])
            elif line.startswith("retry: "):
                self.retry = int(line[7:])
            elif not line and (lines or event):
                yield event, "\n".join(lines)
                event, lines = None, []

    def messages(self):
        return (json.loads(data) for _, data in self.events() if data)

    def close(self):
        """Go away without a word."""
        try:
            self.connection.sock and self.connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was faster
        self.response.close()
        self.connection.close()


class McpClient:
    def __init__(self, address, revision="2025-11-25", capabilities=None, headers=None):
        self.address = address
        self.revision = revision
        self.capabilities = capabilities or {}
        self.headers = dict(headers or {})
        self.session = None
        self.server = None
        self.last_id = 0

    # ---- HTTP ----

    def open(self, method, message=None, headers=None, accept=BOTH, timeout=60):
        """Send and return the connection and the answer, whose body is not read yet."""
        connection = http.client.HTTPConnection(*self.address, timeout=timeout * SLOWNESS)
        sent = {"Accept": accept, **self.headers, **(headers or {})}
        if self.session:
            sent.setdefault("Mcp-Session-Id", self.session)
            sent.setdefault("MCP-Protocol-Version", self.revision)
        body = None
        if method == "POST":
            sent.setdefault("Content-Type", "application/json")
            body = message if isinstance(message, bytes) else json.dumps(message).encode()
        connection.request(method, "/mcp", body, {key: value for key, value in sent.items() if value is not None})
        return connection, connection.getresponse()

    def send(self, method, message=None, **options):
        connection, response = self.open(method, message, **options)
        try:
            if "event-stream" in response.headers.get("Content-Type", ""):
                events = list(Stream(connection, response).events())
                messages = [json.loads(data) for _, data in events if data]
                return Answer(response.status, response.headers, messages, [event for event, _ in events if event])
            body = response.read()
            return Answer(response.status, response.headers, [json.loads(body)] if body else [], [])
        finally:
            connection.close()

    def post(self, message, **options):
        return self.send("POST", message, **options)

    # ---- messages ----

    def message(self, method, params=None, id=None):
        self.last_id += 1
        message = {"jsonrpc": "2.0", "id": id or self.last_id, "method": method}
        if self.revision == STATELESS:
            meta = {PREFIX + "protocolVersion": STATELESS, PREFIX + "clientCapabilities": self.capabilities}
            params = {**(params or {}), "_meta": {**meta, **(params or {}).get("_meta", {})}}
        if params is not None:
            message["params"] = params
        return message

    def head(self, message):
        """The headers that repeat what a stateless message says."""
        if self.revision != STATELESS:
            return {}
        params = message.get("params", {})
        name = params.get("name") or params.get("uri") or params.get("taskId")
        head = {"MCP-Protocol-Version": STATELESS, "Mcp-Method": message["method"]}
        return {**head, "Mcp-Name": name} if name else head

    def request(self, method, params=None, id=None, headers=None, **options):
        message = self.message(method, params, id)
        return self.post(message, headers={**self.head(message), **(headers or {})}, **options)

    def stream(self, method, params=None, id=None, **options):
        """A request whose answer is read as it comes."""
        message = self.message(method, params, id)
        connection, response = self.open("POST", message, headers=self.head(message), **options)
        assert response.status == 200, response.read()
        return Stream(connection, response)

    def notify(self, method, params=None):
        return self.post({"jsonrpc": "2.0", "method": method, "params": params or {}})

    # ---- what clients do ----

    def initialize(self):
        self.session = None
        info = {"name": "test", "version": "1"}
        got = self.request(
            "initialize",
            {"protocolVersion": self.revision, "capabilities": self.capabilities, "clientInfo": info},
        )
        assert got.status == 200, got
        self.server = got.result
        self.revision = got.result["protocolVersion"]
        self.session = got.headers["Mcp-Session-Id"]
        assert self.notify("notifications/initialized").status == 202
        return self

    def call(self, tool, arguments=None, meta=None, **options):
        params = {"name": tool, **({"arguments": arguments} if arguments is not None else {})}
        return self.request("tools/call", {**params, **({"_meta": meta} if meta else {})}, **options)
