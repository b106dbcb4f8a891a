"""Programs that speak MCP: our own on stdio, and other people's, which must stay on loopback."""

import fcntl
import glob
import json
import os
import queue
import re
import signal
import struct
import subprocess
import threading

from .codex import ROOT
from .daemon import SANITIZER
from .process import SLOWNESS

INSPECTOR = ROOT / ".deps/inspector-2.12.0/node_modules/.bin/mcp-inspector"
CLAUDE = ROOT / ".deps/claude-code-2.1.330/node_modules/.bin/claude"
SDK = ROOT / ".deps/sdk-1.32.2/node_modules"
SDK_CLIENT = ROOT / "tests/support/mcp_client.mjs"
TASKS_CLIENT = ROOT / "tests/support/mcp_tasks.mjs"

# What makes them keep their usage to themselves.
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1", "DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
}
PEER = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')


def node_folder():
    found = glob.glob(f"{ROOT}/.deps/node-linux-*-22.23.3/node_modules/node-linux-*/bin")
    if not found:
        raise FileNotFoundError("Node.js for tests is missing: run scripts/setup --tests")
    return found[0]


class Clients:
    """Runs other people's programs with a home of their own, each under strace."""

    def __init__(self, folder, daemon):
        self.folder = folder
        self.home = folder / "client-home"
        self.project = folder / "project"
        self.home.mkdir()
        self.project.mkdir()
        self.env = {
            "PATH": os.pathsep.join([node_folder(), os.path.dirname(daemon.binary), "/usr/bin", "/bin"]),
            "HOME": str(self.home), "LANG": "C.UTF-8", "NODE_PATH": str(SDK), **QUIET,
        }

    def run(self, *command, env=None, seconds=60):
        """Its CompletedProcess; an AssertionError if it tried to reach anything beyond this machine."""
        trace = self.folder / "strace.log"
        command = [
            "strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-e", "signal=none", "-o",
            str(trace), *map(str, command),
        ]
        process = subprocess.Popen(
            command, env={**self.env, **(env or {})}, cwd=self.project, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )
        try:
            out, errors = process.communicate(timeout=seconds * SLOWNESS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it runs on stdio
            process.wait()
            raise
        done = subprocess.CompletedProcess(command, process.returncode, out, errors)
        peers = {v4 or v6 for v4, v6 in PEER.findall(trace.read_text("utf-8", "replace"))}
        outside = {peer for peer in peers if not peer.startswith("127.") and peer != "::1"}
        assert not outside, f"{command} wanted to reach {outside}"
        return done


class Bridge:
    """`codex-sessiond mcp`, line by line."""

    def __init__(self, daemon, *args, data_dir=None, env=None, cwd=None):
        self.lines = queue.Queue()
        self.log_path = daemon.folder / "bridge.log"
        self.stderr = open(self.log_path, "ab")
        self.process = subprocess.Popen(
            [daemon.binary, "mcp", "--data-dir", str(data_dir or daemon.data_dir), *args],
            env={**daemon.env(), **(env or {})}, cwd=cwd or daemon.folder, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.stderr,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.numbers = 0

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def write(self, raw):
        self.process.stdin.write(raw)
        self.process.stdin.flush()

    def send(self, method=None, **members):
        message = {"jsonrpc": "2.0", **({"method": method} if method else {}), **members}
        self.write(json.dumps(message).encode() + b"\n")

    def ask(self, method, params=None):
        """Send a request; returns its id."""
        self.numbers += 1
        self.send(method, id=self.numbers, **({} if params is None else {"params": params}))
        return self.numbers

    def call(self, tool, arguments, meta=None):
        params = {"name": tool, "arguments": arguments, **({"_meta": meta} if meta else {})}
        return self.ask("tools/call", params)

    def next(self, seconds=30):
        """The next message; None at the end."""
        line = self.lines.get(timeout=seconds * SLOWNESS)
        return None if line is None else json.loads(line)

    def answer(self, number, seconds=30):
        """The answer to a request; what comes before it is left in .others."""
        self.others = []
        while True:
            message = self.next(seconds)
            assert message is not None, "stdout ended"
            if message.get("id") == number and "method" not in message:
                return message
            self.others.append(message)

    def result(self, number, seconds=30):
        answer = self.answer(number, seconds)
        assert "result" in answer, answer
        return answer["result"]

    def initialize(self, version="2025-11-25", capabilities=None):
        number = self.ask("initialize", {
            "protocolVersion": version, "capabilities": capabilities or {},
            "clientInfo": {"name": "test", "version": "1"},
        })
        result = self.result(number)
        self.send("notifications/initialized")
        return result

    def close(self, seconds=10):
        """End stdin; returns the exit code."""
        self.process.stdin.close()
        code = self.process.wait(seconds * SLOWNESS)
        self.reader.join()
        return code

    def discard(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.stderr.close()
        log = self.log_path.read_text("utf-8", "replace")
        assert not SANITIZER.search(log), log[:6000]


class HeldFolder:
    """A data folder whose lock is held here in the name of a daemon that listens on `port`."""

    def __init__(self, folder, daemon, port):
        self.path = folder
        folder.mkdir(mode=0o700)
        token = folder / "token"
        token.write_bytes((daemon.data_dir / "token").read_bytes())
        token.chmod(0o600)
        self.lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.fcntl(self.lock, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        os.pwrite(self.lock, f"{os.getpid()} {port}\n".encode(), 0)

    def close(self):
        os.close(self.lock)
