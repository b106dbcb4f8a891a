"""A daemon that seems to have fixtures: what it says it does not have is asked of the fixtures' server.

Nothing else is: a request goes to the daemon first, and on to the fixtures only if the daemon's answer is the
refusal of a name that it does not know. So what fails on the daemon alone, and here does not, fails for want of that
name and for nothing else.
"""

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .process import SLOWNESS

LISTS = {"tools/list": "tools", "prompts/list": "prompts", "resources/list": "resources",
         "resources/templates/list": "resourceTemplates"}
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


def refusals(message):
    """How the daemon refuses the name that this request is about: (codes, sentence)."""
    params = message.get("params") or {}
    return {
        "tools/call": ((-32602,), f"Unknown tool: {params.get('name')}"),
        "prompts/get": ((-32602,), f"Unknown prompt: {params.get('name')}"),
        "resources/read": ((-32002, -32602), "Resource not found"),
        "tasks/get": ((-32602,), "There is no such task"),
        "tasks/update": ((-32602,), "There is no such task"),
        "tasks/cancel": ((-32602,), "There is no such task"),
    }.get(message.get("method"))


class Lender:
    """The daemon with the fixtures of the server on `fixtures`, as (host, port); a context manager."""

    def __init__(self, daemon, fixtures):
        self.daemon = daemon
        self.fixtures = fixtures
        self.sessions = {}  # the daemon's: the fixtures'
        self.lent = []  # (method, name) that the daemon did not know
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"lender": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    lender = None
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def open(self, target, body):
        """Send this request to `target`; the connection and its answer, not read yet."""
        connection = http.client.HTTPConnection(*target, timeout=60 * SLOWNESS)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() in ("host", "origin"):  # our own port is the target's; what is foreign stays so
                value = value.replace(f":{self.lender.port}", f":{target[1]}")
            if name.lower() == "mcp-session-id" and target == self.lender.fixtures:
                value = self.lender.sessions.get(value, value)
            if name.lower() not in HOP_BY_HOP:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return connection, connection.getresponse()

    def ask(self, target, body):
        """The whole answer: its status, headers and bytes."""
        connection, response = self.open(target, body)
        try:
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def tell(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def relay(self, connection, response):
        """Pass an answer on as it comes; a stream ends with the connection."""
        try:
            if "event-stream" not in response.headers.get("Content-Type", ""):
                self.tell(response.status, response.headers, response.read())
                return
            self.close_connection = True
            self.send_response(response.status)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            while chunk := response.read1(65536):
                self.wfile.write(chunk)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the suite has gone: so do we
        finally:
            connection.close()

    def do_POST(self):
        daemon, fixtures = self.lender.daemon, self.lender.fixtures
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            message = json.loads(body)
        except ValueError:
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("params", {}), dict):
            self.tell(*self.ask(daemon, body))
        elif "method" not in message or "id" not in message:
            if self.headers.get("Mcp-Session-Id") in self.lender.sessions:
                self.ask(fixtures, body)
            self.tell(*self.ask(daemon, body))
        elif message["method"] == "initialize":
            self.begin(body)
        elif message["method"] in LISTS:
            self.merge(body, LISTS[message["method"]])
        elif refusals(message) and self.is_unknown(message, body):
            self.relay(*self.open(fixtures, body))
        else:
            self.relay(*self.open(daemon, body))

    def do_GET(self):
        self.relay(*self.open(self.lender.daemon, b""))

    do_DELETE = do_GET

    def begin(self, body):
        status, headers, told = self.ask(self.lender.daemon, body)
        if "Mcp-Session-Id" in headers:
            self.lender.sessions[headers["Mcp-Session-Id"]] = self.ask(self.lender.fixtures, body)[1]["Mcp-Session-Id"]
        self.tell(status, headers, told)

    def merge(self, body, member):
        status, headers, told = self.ask(self.lender.daemon, body)
        _, _, more = self.ask(self.lender.fixtures, body)
        if status == 200 and "result" in (answer := json.loads(told)):
            answer["result"][member] += json.loads(more)["result"][member]
            told = json.dumps(answer).encode()
        self.tell(status, headers, told)

    def is_unknown(self, message, body):
        """Whether the daemon refuses the request for not knowing the name, and for nothing else."""
        codes, sentence = refusals(message)
        _, headers, told = self.ask(self.lender.daemon, body)
        if "json" not in headers.get("Content-Type", "") or "error" not in (answer := json.loads(told)):
            return False
        unknown = answer["error"]["code"] in codes and answer["error"]["message"] == sentence
        if unknown:
            self.lender.lent.append((message["method"], message["params"].get("name", message["params"].get("uri"))))
        return unknown
