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


class Redis:
    def __init__(self, folder, *options):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.port = free_port()
        self.process = None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self):
        command = [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--save", "", "--appendonly", "no", *self.options,
        ]
        with open(self.folder / "redis.log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self.accepts, "redis-server accepts connections")
        return self

    def accepts(self):
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            return self.command("PING") == b"+PONG"
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

    def ask(self, *words):
        """The replies to a command, as a binary stream."""
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        data = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(data)
            return connection.makefile("rb")

    def kill9(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()
