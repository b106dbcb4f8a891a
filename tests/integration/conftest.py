"""Fixtures of the system tests: a model server, and daemons that are ended and looked at afterwards."""

import pytest
from support.codex import VERSION_OF_ENGINE, codex_binary
from support.codex_home import write_codex_home
from support.daemon import Daemon
from support.model_server import ModelServer

ENGINES = ("app-server", "exec", "mcp")


@pytest.fixture
def model():
    with ModelServer() as server:
        yield server


@pytest.fixture
def codex_home(tmp_path, model):
    return write_codex_home(tmp_path / "codex-home", model.url)


@pytest.fixture
def make_daemon(request, tmp_path, codex_home):
    """Makes daemons that share the model server; at the end of the test each must end well."""
    made = []

    def make(name="one", **options):
        engine = options.get("engine")
        options.setdefault("codex", codex_binary(VERSION_OF_ENGINE.get(engine, "0.169.0")))
        options.setdefault("codex_home", codex_home)
        daemon = Daemon(tmp_path / name, **options)
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


@pytest.fixture
def daemon(make_daemon):
    """A running daemon with its defaults: the app-server of the newest Codex."""
    return make_daemon().start()


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param
