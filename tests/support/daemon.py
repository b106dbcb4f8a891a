"""A codex-sessiond of its own for a test: private folders, a free port, stopped by its pid."""

import http.client
import json
import os
import re
import signal
import subprocess
import zlib
from pathlib import Path

from .codex import ROOT, codex_binary
from .process import SLOWNESS, wait_until

LISTENING = re.compile(rb"listening on http://([^:\s]+):(\d+)")
SANITIZER = re.compile(r"ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error: ")


def daemon_binary():
    return os.environ.get("CS_BINARY") or str(ROOT / "build/release/codex-sessiond")


def instant_codex():
    """A stand-in for Codex that answers at once, or never: the real one is not what is measured here."""
    program = Path(daemon_binary()).resolve().parent / "tests/fault/instant_codex"
    assert program.exists(), f"{program} is not built"
    return program


def jitter(name):
    """With CS_JITTER=SEED every daemon runs under the shim, each with places of its own."""
    seed = os.environ.get("CS_JITTER")
    case = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0]  # without its stage
    return jittery(zlib.crc32(f"{seed} {case} {name}".encode())) if seed else {}


def jittery(seed):
    """The environment in which a daemon sleeps a little wherever it has just told somebody something."""
    library = Path(daemon_binary()).resolve().parent / "tests/fault/jitter.so"
    assert library.exists(), f"{library} is not built"
    return {"LD_PRELOAD": str(library), "JITTER_NAME": "codex-sessiond", "JITTER_SEED": str(seed)}


class Reply:
    """An HTTP answer."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def text(self):
        return self.body.decode("utf-8")

    @property
    def json(self):
        return json.loads(self.body)

    def __getitem__(self, key):
        return self.json[key]

    def __repr__(self):
        return f"<{self.status} {self.body[:600]!r}>"


class Daemon:
    """start(), then request() or the named helpers. `args` and `env` are added to serve's own."""

    def __init__(self, folder, codex=None, codex_home=None, engine=None, args=(), env=None, binary=None):
        self.folder = Path(folder)
        self.binary = binary or daemon_binary()
        self.data_dir = self.folder / "data"
        self.home = self.folder / "home"
        self.log_path = self.folder / "daemon.log"
        self.codex = codex or codex_binary()
        self.codex_home = codex_home
        self.engine = engine
        self.args = list(args)
        self.more_env = dict(env or {})
        self.process = None
        self.address = None
        self.home.mkdir(parents=True, exist_ok=True)

    # ---- life ----

    def env(self):
        """What the daemon may know of this machine."""
        env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "XDG_DATA_HOME": str(self.folder / "share"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            **jitter(self.folder.name),
        }
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"):
            if name in os.environ:
                env[name] = os.environ[name]
        if self.codex_home:
            env["CODEX_HOME"] = str(self.codex_home)
        return {**env, **self.more_env}

    def command(self):
        engine = ["--engine", self.engine] if self.engine else []
        return [
            self.binary, "serve", "--port", "0", "--data-dir", str(self.data_dir),
            "--codex", str(self.codex), "--log-level", "debug", *engine, *self.args,
        ]

    def start(self):
        """Returns when it accepts requests."""
        assert not self.process, "it runs already"
        self.log_path.touch()
        seen = self.log_path.stat().st_size
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.env(), cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )

        def listening():
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode} at start:\n{self.log_tail()}")
            with open(self.log_path, "rb") as log:
                log.seek(seen)
                return LISTENING.search(log.read())

        found = wait_until(listening, "the daemon listens", 20)
        self.address = (found.group(1).decode(), int(found.group(2)))
        return self

    def stop(self, seconds=10):
        """SIGTERM; it must exit 0 in time and leave no sanitizer report."""
        process, self.process = self.process, None
        if not process:
            return
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(seconds * SLOWNESS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"SIGTERM did not end it within {seconds} s") from None
        self.check_log()
        assert code == 0, f"it ended with {code} at SIGTERM"

    def kill9(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def discard(self):
        """End it at the end of a test, whatever its state."""
        if self.process and self.process.poll() is None:
            self.stop()
        elif self.process:
            code, self.process = self.process.returncode, None
            self.check_log()
            raise AssertionError(f"the daemon died during the test, with {code}")

    def restart(self):
        self.stop()
        return self.start()

    def restart_on_its_port(self):
        """For clients that know it by its address; the port stays from now on."""
        self.args += ["--port", str(self.port)]
        return self.restart()

    @property
    def pid(self):
        return self.process.pid

    @property
    def port(self):
        return self.address[1]

    def run(self, *args, env=None, **options):
        """Another verb of the same program, with the same folders."""
        return subprocess.run(
            [self.binary, *args], env={**self.env(), **(env or {})}, cwd=self.folder,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60 * SLOWNESS,
            check=False, **options,
        )

    # ---- log ----

    def log(self):
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def log_tail(self, lines=60):
        return "\n".join(self.log().splitlines()[-lines:])

    def check_log(self):
        found = SANITIZER.search(self.log())
        assert not found, f"a sanitizer's report:\n{self.log()[max(0, found.start() - 200):][:6000]}"

    # ---- requests ----

    def request(self, method, path, body=None, headers=None, timeout=90.0, raw=None):
        """One request on a connection of its own. `body` is sent as JSON, `raw` as it is."""
        connection = http.client.HTTPConnection(*self.address, timeout=timeout * SLOWNESS)
        headers = dict(headers or {})
        if body is not None:
            raw = json.dumps(body, ensure_ascii=False).encode("utf-8")
            headers.setdefault("Content-Type", "application/json")
        elif raw is None and method in ("POST", "PUT", "DELETE"):
            headers.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, raw, headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body=None, **options):
        return self.request("POST", path, body, **options)

    def expect(self, status, reply):
        assert reply.status == status, f"wanted {status}: {reply}\n{self.log_tail(30)}"
        return reply.json

    def ask(self, prompt, status=200, headers=None, **fields):
        """Begin a session."""
        reply = self.post("/api/codex/session", {"prompt": prompt, **fields}, headers=headers)
        return self.expect(status, reply)

    def go_on(self, conversation, prompt, status=200, headers=None, **fields):
        """Continue a conversation by its id."""
        body = {"conversationId": conversation, "prompt": prompt, **fields}
        return self.expect(status, self.post("/api/codex/continue", body, headers=headers))

    def history(self, identifier):
        """Its messages as (type, content)."""
        got = self.expect(200, self.get(f"/api/codex/history/{identifier}"))
        return [(message["type"], message["content"]) for message in got["messages"]]

    def session(self, identifier, status=200):
        got = self.expect(status, self.get(f"/api/codex/session/{identifier}"))
        return got["session"] if status == 200 else got

    def turn(self, turn_id, wait_ms=0):
        return self.expect(200, self.get(f"/api/codex/turn/{turn_id}?waitMs={wait_ms}"))

    def health(self):
        return self.expect(200, self.get("/health"))

    def stats(self):
        return self.expect(200, self.get("/api/codex/stats"))["stats"]
