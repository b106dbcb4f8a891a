"""A real redis-server on a free loopback port."""

import json
import socket
import subprocess
from pathlib import Path

from .process import wait_until


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def compose(*words):
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def read_reply(stream):
    kind, line = stream.read(1), stream.readline().rstrip(b"\r\n")
    assert kind and kind in b"+:$*", f"Redis answered {kind + line!r}"
    if kind == b"+":
        return line
    if kind == b":":
        return int(line)
    if int(line) < 0:
        return None
    if kind == b"$":
        return stream.read(int(line) + 2)[:-2]
    return [read_reply(stream) for _ in range(int(line))]


class Redis:
    def __init__(self, folder, *options):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.port = free_port()
        self.process = None
        self.login = None  # the words after AUTH, where it is needed
        self.ready = (b"+PONG", b"-NOAUTH Authentication required.")  # answers of one that has started

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self):
        command = [
            *self.prefix(), "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--save", "", "--appendonly", "no", *self.options,
        ]
        with open(self.folder / "redis.log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self.accepts, "redis-server accepts connections")
        return self

    def prefix(self):
        """The words before the command that starts it."""
        return []

    def accepts(self):
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            return self.command("PING") in self.ready
        except OSError:
            return False

    def get(self, key):
        """The JSON of a string, as a plain client reads it; None when there is none."""
        with self.ask("GET", key) as stream:
            size = int(stream.readline()[1:])
            return json.loads(stream.read(size)) if size >= 0 else None

    def command(self, *words):
        """The first line of the reply to a command."""
        with self.ask(*words) as stream:
            return stream.readline().rstrip(b"\r\n")

    def call(self, *words):
        """The reply to a command: bytes, a number, a list or None. An error is an AssertionError."""
        with self.ask(*words) as stream:
            return read_reply(stream)

    def ask(self, *words):
        """The replies to a command, as a binary stream."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            stream = connection.makefile("rb")
            if self.login:
                connection.sendall(compose("AUTH", *self.login))
                assert read_reply(stream) == b"OK"
            connection.sendall(compose(*words))
            return stream

    def kill9(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()  # what it would save is of no use, and it might refuse to end without
            self.process.wait(10)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()
