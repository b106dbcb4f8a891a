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
from support.mcp_lender import Lender
from support.process import SLOWNESS, wait_until

VERSION = "0.2.0-alpha.12"
REVISIONS = {"2025-11-25": 30, "2026-07-28": 37}  # and how many scenarios are scored
EXPECTED = ROOT / "tests/support/mcp_fixtures/expected-failures.yaml"
# Of the Tasks extension, which no revision requires: no turn fails by an error of the protocol once its task exists.
TASKS_FAILURES = {"2025-11-25": set(), "2026-07-28": {"sep-2663-tasks-get-status-failed"}}


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


def of_tasks(checks):
    """The checks of the extension's scenarios that went wrong."""
    return {check["id"] for name in checks if name.startswith("tasks-") for check in bad(checks[name])}


def expected():
    return set(re.findall(r"^  - ([\w-]+)", EXPECTED.read_text("utf-8"), re.M))


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_protocol_conforms(fixtures, tmp_path, revision):
    code, text, checks = conformance(fixtures, revision, tmp_path / "out")
    problems = {name: bad(checks[name]) for name in required(revision)}
    assert not any(problems.values()), problems
    assert of_tasks(checks) == TASKS_FAILURES[revision]
    assert code == 0, text[-3000:]


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_daemon_fails_only_for_want_of_fixtures(shared_daemon, fixtures, tmp_path, revision):
    """What fails on the daemon passes as soon as somebody lends it the names that it says it does not know."""
    shared_daemon.ask("something to list")
    code, text, checks = conformance(
        shared_daemon.port, revision, tmp_path / "out", "--expected-failures", str(EXPECTED))
    assert code == 0, text[-3000:]
    failed = {name for name in required(revision) if bad(checks[name])}
    assert failed <= expected()
    with Lender(shared_daemon.address, ("127.0.0.1", fixtures)) as lender:
        code, text, checks = conformance(lender.port, revision, tmp_path / "lent")
    problems = {name: bad(checks[name]) for name in required(revision)}
    assert not any(problems.values()), problems
    assert of_tasks(checks) == TASKS_FAILURES[revision]
    assert code == 0, text[-3000:]
    assert lender.lent
