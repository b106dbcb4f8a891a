"""What goes wrong between hosts and Redis: lines that fail in the middle of a request, links that go down, a Redis that
dies, forgets or goes back in time."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time

from .process import wait_until
from .proxy import Proxy
from .redis import Redis

WRITES = (b"EVAL", b"EVALSHA", b"SET")


def cut_command(data):
    """The bytes of the first whole RESP command in `data`; 0 when it is not there yet."""
    end = data.find(b"\r\n")
    if end < 0:
        return 0
    at = end + 2
    for _ in range(int(data[1:end])):
        end = data.find(b"\r\n", at)
        if end < 0:
            return 0
        at = end + 2 + int(data[at + 1 : end]) + 2
    return at if at <= len(data) else 0


class Line(Proxy):
    """A proxy that also knows the modes "hold" (commands are kept, to be delivered late), "hole" (nothing passes, and
    nobody is told) and "flaky" (each connection is cut after a few bytes), and that remembers what was written."""

    REMEMBERED = 300

    def __init__(self, host, port, rng):
        super().__init__(host, port, delay=0.1)
        self.rng = rng
        self.written, self.held = [], []
        self.left = None  # bytes until the next cut, in either direction

    def cut_after(self, size):
        self.left = size

    def mend(self):
        """What was held back goes with its connection: TCP loses no bytes in the middle."""
        lossless = self.mode in ("pass", "slow") and self.left is None
        self.mode, self.left = "pass", None
        if not lossless:
            self.cut()

    def replay(self, commands):
        """Late requests of a client that is gone."""
        with socket.create_connection(self.target, 5) as connection:
            connection.settimeout(5)
            stream = connection.makefile("rb")
            for command in commands:
                connection.sendall(command)
                skip_reply(stream)

    def deliver_held(self):
        held, self.held = self.held, []
        self.replay(held)
        return len(held)

    def _gate(self, counted):
        begun = b""  # a command of which the end is to come
        quota = [self.rng.randrange(20, 6000)]

        def admit(data):
            nonlocal begun
            if counted:
                begun = self._remember(begun + data)
            self._linger()
            return self._admit(data, counted, quota)

        return admit

    def _admit(self, data, counted, quota):
        """What of it may pass, and whether the connection ends with it."""
        if self.mode in ("hold", "hole") or (self.mode == "swallow" and not counted):
            return b"", False
        if self.mode == "flaky":
            quota[0] -= len(data)
            return (data[: quota[0]], True) if quota[0] < 0 else (data, False)
        if self.left is not None:
            over = len(data) - self.left
            self.left = -over if over <= 0 else None
            return (data[: len(data) - over], True) if over > 0 else (data, False)
        return data, False

    def _remember(self, data):
        """Keep the writes among the commands of `data`; what is left of it."""
        while size := cut_command(data):
            command, data = data[:size], data[size:]
            if command.split(b"\r\n", 3)[2].upper() in WRITES:
                with self.lock:
                    kept = self.held if self.mode == "hold" else self.written
                    kept.append(command)
                    del kept[: -self.REMEMBERED]
        return data


def skip_reply(stream):
    """Read one reply, whatever it is."""
    owed = 1
    while owed:
        line = stream.readline()
        if not line:
            raise OSError("the connection ended")
        owed -= 1
        if line[:1] == b"*":
            owed += max(0, int(line[1:]))
        elif line[:1] == b"$" and int(line[1:]) >= 0:
            stream.read(int(line[1:]) + 2)


class Admin:
    """A connection for looking into Redis, past all lines."""

    def __init__(self, path):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(10)
        self.connection.connect(str(path))
        self.stream = self.connection.makefile("rb")

    def close(self):
        self.stream.close()
        self.connection.close()

    def __call__(self, *words):
        return self.all([words])[0]

    def all(self, commands):
        """The replies to a pipeline."""
        data = bytearray()
        for words in commands:
            parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
            data += b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        self.connection.sendall(data)
        return [self._reply() for _ in commands]

    def _reply(self):
        """Errors are not expected here."""
        line = self.stream.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.stream.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        raise AssertionError(f"Redis answers {line!r}")


class Network:
    """A network of its own for Redis, with one cable to each host. `usable` says whether this machine permits it:
    only where nothing but loopback is there, lest it meddle with the machine's own network."""

    def __init__(self, cables):
        self.cables, self.holder = cables, None

    @staticmethod
    def usable():
        if [name for _, name in socket.if_nameindex()] != ["lo"] or not shutil.which("ip"):
            return False
        trial = ["unshare", "-n", "ip", "link", "add", "cs-a", "type", "veth", "peer", "name", "cs-b"]
        return subprocess.run(trial, stderr=subprocess.DEVNULL, check=False).returncode == 0

    def start(self):
        self.holder = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        own = os.readlink("/proc/self/ns/net")
        wait_until(lambda: self._namespace() not in ("", own), "the namespace")
        self.inside("ip", "link", "set", "lo", "up")
        for n in range(self.cables):
            run("ip", "link", "add", f"cs{n}", "type", "veth", "peer", "name", "cable", "netns", str(self.holder.pid))
            self.inside("ip", "link", "set", "cable", "name", f"cs{n}")
            for side, where in ((1, run), (2, self.inside)):
                where("ip", "address", "add", f"10.77.{n}.{side}/24", "dev", f"cs{n}")
                where("ip", "link", "set", f"cs{n}", "up")
        return self

    def _namespace(self):
        try:
            return os.readlink(f"/proc/{self.holder.pid}/ns/net")
        except OSError:
            return ""

    def prefix(self):
        return ["nsenter", "-t", str(self.holder.pid), "-n"]

    def inside(self, *command):
        run(*self.prefix(), *command)

    def link(self, cable, state, far):
        """A cable is pulled out at the far end, or the host's own interface goes down."""
        (self.inside if far else run)("ip", "link", "set", f"cs{cable}", state)

    def stop(self):
        for n in range(self.cables):
            subprocess.run(["ip", "link", "del", f"cs{n}"], stderr=subprocess.DEVNULL, check=False)
        self.holder.kill()
        self.holder.wait()
        self.holder.stdin.close()


def run(*command):
    subprocess.run(command, check=True, timeout=20)


class ChaosRedis(Redis):
    """A redis-server that can be stopped, wiped and put back; in a network of its own where there is one."""

    def __init__(self, folder, network=None):
        self.path = folder / "redis.sock"
        super().__init__(folder, "--unixsocket", str(self.path), "--protected-mode", "no",
                         "--bind", "0.0.0.0" if network else "127.0.0.1")
        self.network, self.admin, self.kept = network, None, None

    def prefix(self):
        return self.network.prefix() if self.network else []

    def accepts(self):
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            self.admin = Admin(self.path)
            return self.admin("PING") == b"PONG"
        except (OSError, AssertionError):  # not there, or still loading
            return False

    def address(self, host):
        return f"10.77.{host}.2" if self.network else "127.0.0.1"

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def keys(self):
        return self.admin("KEYS", "*")

    def snapshot(self):
        """Remember all that is there."""
        keys = self.keys()
        values = self.admin.all([command for key in keys for command in (("DUMP", key), ("PTTL", key))])
        self.kept = [(key, values[2 * n], values[2 * n + 1]) for n, key in enumerate(keys) if values[2 * n]]
        self.admin("SAVE")

    def roll_back(self):
        """What was remembered takes the place of what is there."""
        back = [("RESTORE", key, max(1, left), value) for key, value, left in self.kept]
        self.admin.all([("MULTI",), ("FLUSHALL",), *back, ("EXEC",)])

    def restart_from_snapshot(self):
        """As after a crash of a server that saves now and then."""
        self.kill9()
        self.admin.close()
        self.path.unlink(missing_ok=True)
        self.start()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.go_on()
        super().stop()


class Background:
    """Requests that are under way while other things happen."""

    def __init__(self):
        self.threads = []

    def start(self, function, *args):
        thread = threading.Thread(target=function, args=args)
        self.threads.append(thread)
        thread.start()

    def join(self, seconds):
        deadline = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"a request got no answer within {seconds} s"
        self.threads.clear()
