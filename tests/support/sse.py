"""Server-sent events as a client reads them, byte by byte, by the rules of the HTML standard."""

import json
import queue
import socket
import threading
import time

from .process import SLOWNESS
from .wire import compose, read_answer


class Event:
    """An event: its id (None without one of its own), name and data; a comment has the name ":"."""

    def __init__(self, name, data, id=None):  # noqa: A002 (what the wire calls it)
        self.name = name
        self.data = data
        self.id = id

    @property
    def kept(self):
        return self.id is not None

    def __getitem__(self, key):
        return self.data[key]

    def __repr__(self):
        return f"<{self.id or ''} {self.name} {str(self.data)[:300]}>"


def parse(lines):
    """The events of a stream's lines. An id without data moves the place to come back to: ("id", id)."""
    fields = {}
    for raw in lines:
        line = raw.decode("utf-8").rstrip("\r\n")
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            number = fields.get("id")
            yield Event(fields.get("event", "message"), json.loads(fields["data"]), number and int(number))
            fields = {}
        else:
            yield Event("id", None, int(fields["id"])) if "id" in fields else Event(":", None)
            fields = {}


class Stream:
    """An open stream. next() and until() wait for events; `answer` is set instead when it was refused."""

    def __init__(self, daemon, path="/api/codex/events", body=None, headers=(), last=None, buffer=None):
        headers = [*headers, *([f"Last-Event-ID: {last}"] if last is not None else [])]
        if body is not None:
            headers.append("Content-Type: application/json")
        data = json.dumps(body).encode("utf-8") if body is not None else b""
        self.place = last  # the last id, as EventSource would send it
        self.events = queue.SimpleQueue()
        self.answer = None
        self.headers = {}
        self.seen = []
        self.socket = socket.socket(socket.AF_INET if ":" not in daemon.address[0] else socket.AF_INET6)
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(60 * SLOWNESS)
        self.socket.connect(daemon.address)
        self.socket.sendall(compose(daemon, "POST" if data else "GET", path, *headers, body=data))
        self.file = self.socket.makefile("rb")
        self.reader = None

    def start(self):
        """Read the header, then events in the background."""
        line = self.file.peek(15)[:15]
        if not line.startswith(b"HTTP/1.1 200"):
            self.answer = read_answer(self.file)
            if not self.answer:
                raise ConnectionResetError("it ended before its header")
            return self
        self.file.readline()
        while (header := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = header.decode("latin-1").partition(":")
            self.headers[name.lower()] = value.strip()
        if "content-length" in self.headers:
            self.answer = self.file.read(int(self.headers["content-length"]))
            return self
        assert self.headers["content-type"] == "text/event-stream", self.headers
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        return self

    def _read(self):
        try:
            for event in parse(iter(self.file.readline, b"")):
                self.place = event.id if event.id is not None else self.place
                self.events.put(event)
        except (OSError, ValueError):
            pass  # closed, by either side: what came before counts
        self.events.put(None)

    def next(self, comments=False):
        """The next event; None at the end of the stream."""
        deadline = time.monotonic() + 30 * SLOWNESS
        while True:
            event = self.events.get(timeout=max(0.01, deadline - time.monotonic()))
            if event is None or comments or event.name not in (":", "id"):
                self.seen += [event] if event else []
                return event

    def until(self, name):
        """All events up to the first of that name; it is the last of them."""
        got = []
        while not got or got[-1].name != name:
            got.append(self.next())
            assert got[-1], f"the stream ended without {name}: {got}"
        return got

    def rest(self):
        """All events until the end of the stream."""
        return list(iter(self.next, None))

    def close(self):
        """Go away, as a client that is killed does."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone already
        if self.reader:
            self.reader.join(10 * SLOWNESS)
        self.file.close()
        self.socket.close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()
