"""The conformance suite of the Model Context Protocol: on the fixtures' server, and on the daemon."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from support.codex import ROOT
from support.daemon import LISTENING, daemon_binary
from support.process import SLOWNESS, wait_until

VERSION = "0.2.0-alpha.12"
REVISIONS = {"2025-11-25": 30, "2026-07-28": 37}  # and how many scenarios are scored
EXPECTED = ROOT / "tests/support/mcp_fixtures/expected-failures.yaml"
# How a check says that what it needs is not there.
NO_FIXTURE = re.compile(
    r"Unknown (tool|prompt): test_|Resource not found|does not list the diagnostic tool 'test_"
    r"|Not testable: |InputRequiredResult"
)


def only(pattern):
    found = list((ROOT / ".deps").glob(pattern))
    assert len(found) == 1, f"{pattern}: {found}; scripts/setup --tests installs it"
    return str(found[0])


def conformance(port, revision, out, *more):
    """Run the suite: its summary and the checks of each scenario."""
    node = only("node-linux-*/node_modules/node-linux-*/bin/node")
    suite = only(f"conformance-{VERSION}/node_modules/@modelcontextprotocol/conformance/dist/index.js")
    command = [node, suite, "server", "--url", f"http://127.0.0.1:{port}/mcp", "--requirements", revision]
    done = subprocess.run(
        [*command, "-o", str(out), *more], capture_output=True, text=True, timeout=120 * SLOWNESS, check=False,
        cwd=out.parent, env={"PATH": os.environ["PATH"], "HOME": str(out.parent)},
    )
    text = done.stdout + done.stderr
    checks = {}
    for path in out.glob("server-*/checks.json"):
        scenario = re.sub(r"^server-(.*)-\d{4}-\d\d-\d\dT.*$", r"\1", path.parent.name)
        checks[scenario] = json.loads(path.read_text("utf-8"))
    return done.returncode, text, checks


def bad(checks):
    return [check for check in checks if check["status"] in ("FAILURE", "WARNING")]


def required(revision):
    """The scenarios that a server of this revision must pass, by the suite's own list."""
    listed = only(f"conformance-{VERSION}/node_modules/@modelcontextprotocol/conformance/requirements/{revision}.yaml")
    section = re.search(r"^server:\n((?:  - .*\n)+)", Path(listed).read_text("utf-8"), re.M).group(1)
    names = re.findall(r"- ([\w-]+)", section)
    assert len(names) == REVISIONS[revision]
    return names


@pytest.fixture
def fixtures(tmp_path):
    """The port of the server with the suite's fixtures."""
    folder = tmp_path / "fixtures"
    folder.mkdir(mode=0o700)
    log = tmp_path / "fixtures.log"
    program = Path(daemon_binary()).resolve().parent / "tests/support/mcp_fixtures/mcp_fixtures"
    with open(log, "wb") as out:
        process = subprocess.Popen([program, folder], stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        found = wait_until(lambda: LISTENING.search(log.read_bytes()), "the fixtures are served", 20)
        yield int(found.group(2))
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(20 * SLOWNESS)
        print(log.read_text("utf-8", "replace"))
    assert code == 0


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_protocol_conforms(fixtures, tmp_path, revision):
    code, text, checks = conformance(fixtures, revision, tmp_path / "out")
    problems = {name: bad(checks[name]) for name in required(revision)}
    assert not any(problems.values()), problems
    assert code == 0, text[-3000:]


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_daemon_fails_only_for_want_of_fixtures(shared_daemon, tmp_path, revision):
    shared_daemon.ask("something to list")
    code, text, checks = conformance(
        shared_daemon.port, revision, tmp_path / "out", "--expected-failures", str(EXPECTED))
    assert code == 0, text[-3000:]
    for name in required(revision):
        for check in bad(checks[name]):
            assert NO_FIXTURE.search(check["errorMessage"]), (name, check)
