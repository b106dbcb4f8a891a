"""Runs every test of the project in phases, two at a time, and counts cases.

A phase is a command with a log of its own and a way to count what passed and failed in it. A phase whose
needs failed counts as one failure; so does a phase that finds nothing to run: nothing is skipped.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "build" / "test-logs"
LANES = 2

SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "exitcode=99:second_deadlock_stack=1",
}


class Count:
    def __init__(self, passed=0, failed=0):
        self.passed = passed
        self.failed = failed


class Phase:
    """name, what must have passed before, and the command; count() reads the outcome."""

    def __init__(self, name, needs, command, env=None, timeout=1500):
        self.name = name
        self.needs = needs
        self.command = command
        self.env = env or {}
        self.timeout = timeout
        self.seconds = 0.0
        self.result = None
        self.child = None  # while it runs

    @property
    def log(self):
        return LOGS / f"{self.name}.log"

    def run(self):
        begun = time.monotonic()
        env = {**os.environ, **self.env}
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                self.command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )
            try:
                code = self.child.wait(self.timeout)
            except subprocess.TimeoutExpired:
                self.stop()
                code = self.child.wait()
                log.write(f"\nended after {self.timeout} s\n".encode())
            self.child = None
        self.seconds = time.monotonic() - begun
        self.result = self.count(code)
        if code != 0 and not self.result.failed:
            self.result.failed = 1

    def stop(self):
        """End it with all that it started."""
        if self.child:
            os.killpg(self.child.pid, signal.SIGKILL)

    def count(self, code):
        return Count(int(code == 0), int(code != 0))

    def digest(self):
        """What of the log to show when the phase failed."""
        return self.log.read_text("utf-8", "replace").splitlines()[-60:]


class Build(Phase):
    """Configures and builds a preset; counts only when it fails."""

    def __init__(self, preset, *options):
        configure = shlex.join(["cmake", "--preset", preset, *options])
        command = f"{configure} && cmake --build --preset {preset} -j 2"
        super().__init__(f"build-{preset}", [], ["sh", "-c", command])

    def count(self, code):
        return Count(0, int(code != 0))


class Unit(Phase):
    """The cmocka programs of a build; counts their cases."""

    def __init__(self, preset):
        command = ["ctest", "--test-dir", f"build/{preset}", "-j", "2", "--no-tests=error", "-V"]
        super().__init__(f"unit-{preset}", [f"build-{preset}"], command, SANITIZER_ENV)

    def count(self, code):
        text = self.log.read_text("utf-8", "replace")
        passed = len(re.findall(r"\[ +OK \]", text))
        failed = sum(int(n) for n in re.findall(r"\[  FAILED  \] (\d+) test", text))
        failed_programs = len(re.findall(r"^ *\d+/\d+ Test .*(\*\*\*|Not Run)", text, re.MULTILINE))
        return Count(passed, max(failed, failed_programs))

    def digest(self):
        telling = re.compile(r"FAILED|\*\*\*|ERROR|WARNING|SUMMARY|Not Run| error: |LINE|^\d+: *#[0-6] ")
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return [line for line in lines if telling.search(line)][:80]


class Pytest(Phase):
    """A folder of system tests, on the daemon of one build. `slowness` stretches their deadlines."""

    def __init__(self, name, folder, preset, *options, slowness=1, env=None):
        self.report = LOGS / f"{name}.xml"
        command = offline() + [
            "/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={self.report}",
            *options, folder,
        ]
        env = {
            **SANITIZER_ENV,
            "CS_BINARY": str(ROOT / f"build/{preset}/codex-sessiond"),
            "CS_SLOWNESS": str(slowness),
            **(env or {}),
        }
        super().__init__(name, [f"build-{preset}"], command, env)
        self.report.unlink(missing_ok=True)

    def count(self, code):
        if not self.report.exists():
            return Count(0, 1)
        count = Count()
        for suite in ElementTree.parse(self.report).getroot().iter("testsuite"):
            bad = sum(int(suite.get(kind, 0)) for kind in ("failures", "errors", "skipped"))
            count.failed += bad
            count.passed += int(suite.get("tests", 0)) - bad
        return count


class Fuzz(Phase):
    """Every fuzz target for a while, from its seeds and from what once found a bug."""

    def __init__(self, seconds):
        script = """
            found=0
            for target in $(find build/fuzz -type f -name 'fuzz_*' -perm -u+x | sort); do
                name=${target##*/fuzz_}
                found=$((found + 1))
                set -- -max_total_time=$0 -timeout=10 -rss_limit_mb=2048 -artifact_prefix=build/test-logs/$name-
                [ ! -e tests/fuzz/$name.dict ] || set -- "$@" -dict=tests/fuzz/$name.dict
                set -- "$@" build/fuzz-corpus/$name
                mkdir -p build/fuzz-corpus/$name
                for seeds in tests/fuzz/corpus/$name tests/fuzz/regressions/$name; do
                    [ ! -d $seeds ] || set -- "$@" $seeds
                done
                echo "== $name"
                if "$target" "$@"; then echo "fuzz passed: $name"; else echo "fuzz failed: $name"; fi
            done
            [ $found -gt 0 ]
        """
        super().__init__("fuzz", ["build-fuzz"], ["sh", "-c", script, str(seconds)], SANITIZER_ENV, 4 * 3600)

    def count(self, code):
        text = self.log.read_text("utf-8", "replace")
        return Count(text.count("\nfuzz passed: "), text.count("\nfuzz failed: "))


def offline():
    """A command prefix that leaves only loopback to what follows, as far as this machine permits it. Who is not
    root becomes root of a user namespace for it, with subordinate ids as other users where there are some."""
    for unshare in (["unshare", "-n"], ["unshare", "-r", "--map-auto", "-n"], ["unshare", "-r", "-n"]):
        if subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL).returncode == 0:
            return [*unshare, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    return []


# Run once more in the deep tier, with the shim of tests/fault/jitter.c under every daemon. What rests on how fast hosts
# are has no place here.
RACY = ("approval", "conversation", "daemon", "events", "http_contract", "mcp", "mcp_stdio", "session", "turn", "websocket")


def phases(long):
    gates = [
        Phase("gate-layers", [], ["tests/check/layers.sh"]),
        Phase("gate-words", [], ["tests/check/words.sh"]),
        Phase("gate-format", [], ["tests/check/format.sh"]),
        Phase(
            "gate-headers", ["build-dev"],
            ["cmake", "--build", "build/dev", "--target", "all_verify_interface_header_sets", "-j", "2"],
        ),
        Phase("gate-tidy", ["build-asan"], ["tests/check/tidy.sh"]),
    ]
    deep = ["--long"] if long else []
    racy = [f"tests/integration/test_{name}.py" for name in RACY]
    races = Pytest("races", racy[0], "release", *racy[1:], slowness=3, env={"CS_JITTER": "1"})
    return [
        Build("release", "-DCS_TESTS=ON", "-DCS_WERROR=ON"),  # scripts/start leaves them off
        Build("dev"),
        Pytest("system", "tests/integration", "release", *deep),
        *gates[:4],
        Unit("dev"),
        Build("asan"),
        Unit("asan"),
        Build("tsan"),
        Unit("tsan"),
        Pytest("fault", "tests/fault", "release", *deep),
        *([races] if long else []),
        # From here on the longest first: both lanes end at much the same time.
        Build("fuzz"),
        Fuzz(1800 if long else 60),
        Pytest("system-tsan", "tests/integration", "tsan", "-m", "smoke", slowness=5),
        gates[4],
        Pytest("system-asan", "tests/integration", "asan", "-m", "smoke", slowness=3),
    ]


class Runner:
    def __init__(self, todo):
        self.phases = list(todo)
        self.todo = list(todo)
        self.done = {}
        self.changed = threading.Condition()

    def next(self):
        """The first phase whose needs are done; None when there is no more to begin."""
        with self.changed:
            while self.todo:
                for phase in self.todo:
                    if all(need in self.done for need in phase.needs):
                        self.todo.remove(phase)
                        return phase
                self.changed.wait()
            return None

    def lane(self):
        while phase := self.next():
            broken = [need for need in phase.needs if self.done[need].failed]
            if broken:
                phase.log.write_text(f"not run: {', '.join(broken)} failed\n")
                phase.result = Count(0, 1)
            else:
                phase.run()
            report(phase)
            with self.changed:
                self.done[phase.name] = phase.result
                self.changed.notify_all()

    def run(self):
        lanes = [threading.Thread(target=self.lane) for _ in range(LANES)]
        for lane in lanes:
            lane.start()
        try:
            for lane in lanes:
                lane.join()
        except KeyboardInterrupt:
            with self.changed:
                self.todo = []
            for phase in self.phases:
                phase.stop()
            raise


def report(phase):
    result = phase.result
    line = f"{phase.name:14} {phase.seconds:6.0f} s  {result.passed:4} passed"
    if result.failed:
        where = phase.log.relative_to(ROOT)
        line += f", {result.failed} failed; from {where}:\n    " + "\n    ".join(phase.digest())
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(prog="scripts/test", description="Build, and run every test.")
    parser.add_argument("--long", action="store_true", help="the deep tier")
    parser.add_argument("phase", nargs="*", help="only these phases, and what they need")
    options = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    chosen = phases(options.long)
    if options.phase:
        names = set(options.phase)
        names.update(need for phase in chosen if phase.name in names for need in phase.needs)
        chosen = [phase for phase in chosen if phase.name in names]
    if not offline():
        print("this machine permits no private network: tests run on its own one", flush=True)
    if options.long:
        for phase in chosen:
            phase.timeout *= 24
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    runner = Runner(chosen)
    # A folder of this run alone: nobody else's tidying reaches it, and nothing of it stays.
    with tempfile.TemporaryDirectory(prefix="cs-", ignore_cleanup_errors=True) as scratch:
        os.environ["TMPDIR"] = scratch
        runner.run()
    passed = sum(count.passed for count in runner.done.values())
    failed = sum(count.failed for count in runner.done.values())
    print(f"{time.monotonic() - begun:.0f} s in all", flush=True)
    print(f"{passed} passed, {failed} failed", flush=True)
    return int(failed > 0 or passed == 0)


if __name__ == "__main__":
    sys.exit(main())
