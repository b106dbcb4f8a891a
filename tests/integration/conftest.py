"""Fixtures of the system tests: a model server, and daemons that are ended and looked at afterwards."""

from contextlib import contextmanager

import pytest
from support.codex import VERSION_OF_ENGINE, codex_binary
from support.codex_home import write_codex_home
from support.daemon import Daemon, instant_codex
from support.model_server import ModelServer
from support.process import wait_until
from support.proxy import Proxy
from support.redis import Redis

ENGINES = ("app-server", "exec", "mcp")


@pytest.fixture
def model():
    with ModelServer() as server:
        yield server


@pytest.fixture
def codex_home(tmp_path, model):
    return write_codex_home(tmp_path / "codex-home", model.url)


@contextmanager
def daemons(folder, codex_home):
    """A function that makes daemons; at the end each must end well, or its log is shown."""
    made = []

    def make(name="one", **options):
        version = VERSION_OF_ENGINE.get(options.get("engine"), "0.169.0")
        options.setdefault("codex", codex_binary(version))
        options.setdefault("codex_home", codex_home)
        daemon = Daemon(folder / name, **options)
        made.append(daemon)
        return daemon

    yield make
    problems = []
    for daemon in made:
        try:
            daemon.discard()
        except AssertionError as problem:
            problems.append(f"{daemon.folder.name}: {problem}")
        print(f"--- log of {daemon.folder.name} ---\n{daemon.log_tail(120)}")  # shown on failure only
    assert not problems, "\n".join(problems)


@pytest.fixture
def make_daemon(tmp_path, codex_home):
    with daemons(tmp_path, codex_home) as make:
        yield make


@pytest.fixture
def daemon(make_daemon):
    """A running daemon with its defaults: the app-server of the newest Codex."""
    return make_daemon().start()


@pytest.fixture(scope="module")
def shared_model():
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory, shared_model):
    """One daemon for the tests of a file that leave nothing behind."""
    folder = tmp_path_factory.mktemp("shared")
    with daemons(folder, write_codex_home(folder / "codex-home", shared_model.url)) as make:
        yield make().start()


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


# ---- several hosts ----


@pytest.fixture
def redis(tmp_path):
    with Redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def make_host(make_daemon, redis):
    """A function that starts a host of the user anna, on the instant Codex unless told otherwise."""

    def make(name, url=None, codex=None, args=(), env=None, online=True):
        daemon = make_daemon(
            name, codex=codex or instant_codex(), engine="app-server",
            args=["--user", "anna", "--host-name", name, *args], env={"REDIS_URL": url or redis.url, **(env or {})},
        ).start()
        if online:
            wait_until(lambda: daemon.health()["redis"] == "online", "it is online", 15)
        return daemon

    return make


@pytest.fixture
def proxied(redis, make_host):
    """A function that starts a host whose way to Redis is a proxy: (host, proxy)."""
    proxies = []

    def make(name, **options):
        proxies.append(Proxy("127.0.0.1", redis.port, delay=0.2).start())
        return make_host(name, url=f"redis://127.0.0.1:{proxies[-1].port}", **options), proxies[-1]

    yield make
    for proxy in proxies:
        proxy.mode = "pass"
        proxy.stop()
