"""A Redis that misbehaves on command: it stands between hosts and a real one, and knows the commands."""

import socket
import threading

from .proxy import Listener
from .redis import compose


def read_command(stream):
    """The words of the next command; None at the end of the stream."""
    head = stream.readline()
    if not head.endswith(b"\r\n"):
        return None
    words = []
    for _ in range(int(head[1:])):
        size = int(stream.readline()[1:])
        words.append(stream.read(size + 2)[:-2])
    return words


def read_raw(stream):
    """The bytes of the next RESP2 reply, whole."""
    head = stream.readline()
    if not head.endswith(b"\r\n"):
        raise ConnectionError("the server closed")
    parts = [head]
    if head[:1] == b"$" and int(head[1:]) >= 0:
        parts.append(stream.read(int(head[1:]) + 2))
    elif head[:1] == b"*":
        parts += [read_raw(stream) for _ in range(int(head[1:]))]
    return b"".join(parts)


class Between(Listener):
    """rule(words) is asked about each command. None: it passes, and so does its reply. Bytes: they are the
    reply instead. A function: it gets the client's socket and answers as it likes; then the connection ends."""

    def __init__(self, port):
        super().__init__()
        self.target = ("127.0.0.1", port)
        self.rule = None
        self.seen = []  # the name and the size of each command

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def count(self, *names):
        """How many of the commands so far have one of these names."""
        with self.lock:
            return sum(name in names for name, _ in self.seen)

    def largest(self):
        with self.lock:
            return max(size for _, size in self.seen)

    def turn(self, rule):
        """From now on by this rule, on new connections too."""
        self.rule = rule
        self.cut()

    def _serve(self, client):
        self.keep(client)
        threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client):
        server = None
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            commands = client.makefile("rb")
            while (words := read_command(commands)) is not None:
                with self.lock:
                    self.seen.append((words[0].decode(), sum(map(len, words))))
                answer = self.rule(words) if self.rule else None
                if callable(answer):
                    answer(client)
                    break
                if answer is None:
                    if server is None:
                        server = socket.create_connection(self.target)
                        replies = server.makefile("rb")
                        self.keep(server)
                    server.sendall(compose(*words))
                    answer = read_raw(replies)
                client.sendall(answer)
        except (OSError, ValueError):
            pass  # one of the ends is gone, or was cut within a command
        finally:
            self.drop(*filter(None, (client, server)))
