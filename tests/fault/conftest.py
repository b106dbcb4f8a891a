"""Fixtures of the fault tests: the programs of the build under test, quick folders, and daemons on an instant Codex."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from support.daemon import Daemon, daemon_binary


@pytest.fixture(scope="session")
def programs():
    """The folder of what tests/fault/CMakeLists.txt makes."""
    folder = Path(daemon_binary()).resolve().parent / "tests/fault"
    assert folder.is_dir(), f"{folder} is not built"
    return folder


@pytest.fixture(scope="session")
def instant_codex(programs):
    return programs / "instant_codex"


@pytest.fixture
def ram():
    """A folder in memory, where the machine has one: the fault, not the disk, is to set the pace."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="fault-", dir=base)))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def forgetful_codex(ram, instant_codex):
    """By this name it knows no threads but its own: the daemon must tell it what was said before."""
    path = ram / "forgetful_codex"
    shutil.copy(instant_codex, path)
    return path


@pytest.fixture
def long(request):
    return request.config.getoption("--long")


@pytest.fixture
def make_daemon(request, ram, instant_codex):
    """Makes daemons; at the end of the test each must end well."""
    made = []

    def make(name="one", **options):
        options.setdefault("codex", instant_codex)
        options.setdefault("args", ["--http-threads", "64", "--log-level", "info"])
        daemon = Daemon(ram / name, **options)
        made.append(daemon)
        return daemon

    yield make
    failed = getattr(request.node, "report_call", None) and request.node.report_call.failed
    problems = []
    for daemon in made:
        try:
            daemon.discard()
        except AssertionError as problem:
            problems.append(f"{daemon.folder.name}: {problem}")
        if failed or problems:
            print(f"--- log of {daemon.folder.name} ---\n{daemon.log_tail(120)}")
    assert not problems, "\n".join(problems)
