"""HTTP by hand: bytes on a socket, for what a library would not send."""

import json
import socket
import subprocess

from .process import SLOWNESS, as_user


class Answer:
    """What came back: status, headers (names in lower case), body."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:300]!r}>"


def read_answer(stream, head=False):
    """One answer from a binary stream; None when it ended before."""
    line = stream.readline()
    if not line:
        return None
    assert line.startswith(b"HTTP/1.1 "), line
    headers = {}
    while (header := stream.readline()) not in (b"\r\n", b""):
        name, _, value = header.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    length = 0 if head else int(headers.get("content-length", 0))
    return Answer(int(line.split()[1]), headers, stream.read(length))


def compose(daemon, method, path, *headers, body=b"", host=None):
    """The bytes of a request; Content-Length is added where there is a body."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or '127.0.0.1:%d' % daemon.port}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def connect(daemon, seconds=30.0):
    return socket.create_connection(daemon.address, seconds * SLOWNESS)


def exchange(daemon, data, head=False):
    """Send the bytes on a connection of their own and read one answer."""
    with connect(daemon) as client:
        client.sendall(data)
        with client.makefile("rb") as stream:
            return read_answer(stream, head)


def exchange_as(daemon, uid, data, wait=True):
    """The same from a process of another user; without waiting it closes as soon as the bytes are sent."""
    end = "cat <&3" if wait else "exec 3>&-"
    script = f'exec 3<>/dev/tcp/127.0.0.1/{daemon.port} && cat >&3 && {end}'
    done = subprocess.run(
        [*as_user(uid), "bash", "-c", script],
        input=data, capture_output=True, timeout=60 * SLOWNESS, check=True, cwd="/",
    )
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    return (int(head.split()[1]), body) if wait else None
