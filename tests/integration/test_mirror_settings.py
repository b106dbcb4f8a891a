"""Where Redis is, said in each of the ways there are; and what is shown of it."""

import json
import signal
import socket

import pytest
from support.daemon import instant_codex
from support.hosts import alike, drained, in_redis, listed, on, state, sync
from support.openapi import Document
from support.process import wait_until
from support.redis import Redis

from integration.test_mirror_tls import PASSWORD, Certificates, is_told_to_nobody

UPSTASH = "127.77.66.55"  # stands for a host at Upstash: all of 127.0.0.0/8 is this machine


def doctor(host, env, *args):
    done = host.run("doctor", "--data-dir", str(host.data_dir), "--codex", str(instant_codex()), *args, env=env)
    return [line for line in done.stdout.splitlines() if line[6:11] == "redis"], done


# ---- the address ----


@pytest.mark.parametrize(
    "name", ["UPSTASH_REDIS_URL", "REDIS_URL", "UPSTASH_REDIS_REST_URL", "CODEX_SESSIOND_REDIS_URL"],
)
def test_an_address_is_found_under_each_of_its_names(make_daemon, redis, name):
    said, _ = doctor(make_daemon(), {name: redis.url})
    assert said == [f"ok    redis        {redis.url}"]


def test_an_address_is_found_in_the_file_of_settings(make_daemon, redis):
    host = make_daemon()
    file = host.folder / "settings.json"
    file.write_text(json.dumps({"redisUrl": redis.url}))
    file.chmod(0o600)
    said, _ = doctor(host, {}, "--config", str(file))
    assert said == [f"ok    redis        {redis.url}"]


def test_the_first_of_several_names_counts_and_an_empty_one_is_none(make_daemon, redis):
    env = {"UPSTASH_REDIS_URL": redis.url, "REDIS_URL": "redis://127.0.0.1:1",
           "UPSTASH_REDIS_REST_URL": "redis://127.0.0.1:2"}
    assert doctor(make_daemon(), env)[0] == [f"ok    redis        {redis.url}"]
    env = {"UPSTASH_REDIS_URL": "", "REDIS_URL": "", "UPSTASH_REDIS_REST_URL": redis.url}
    assert doctor(make_daemon(), env)[0] == [f"ok    redis        {redis.url}"]


@pytest.mark.parametrize("url, token", [
    ("UPSTASH_REDIS_URL", "UPSTASH_REDIS_TOKEN"), ("UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"),
])
def test_the_https_address_of_upstash_with_its_token_is_redis_over_tls(make_daemon, tmp_path, url, token):
    certificates = Certificates(tmp_path / "certificates")
    certificates.sign("upstash", f"IP:{UPSTASH}")
    options = (
        "--bind", f"{UPSTASH}", "127.0.0.1", "--tls-port", "6379", "--tls-auth-clients", "no",
        "--tls-ca-cert-file", certificates.path("ca.pem"), "--tls-cert-file", certificates.path("upstash.pem"),
        "--tls-key-file", certificates.path("upstash.key"), "--requirepass", PASSWORD,
    )
    with Redis(tmp_path / "redis", *options) as redis:
        redis.login = (PASSWORD,)
        env = {url: f"https://{UPSTASH}", token: PASSWORD}
        host = make_daemon(
            codex=instant_codex(), engine="app-server", env=env,
            args=["--user", "anna", "--redis-ca", certificates.path("ca.pem")],
        ).start()
        sid = host.ask("one")["sessionId"]
        drained(host)
        assert state(host)["url"] == f"rediss://{UPSTASH}:6379"
        assert redis.call("EXISTS", f"codex:session:{sid}") == 1
        assert is_told_to_nobody(host).returncode == 1  # for want of credentials of Codex alone
        _, wrong = doctor(host, {**env, token: "a-rest-token"}, "--redis-ca", certificates.path("ca.pem"))
        assert "the token is not its password: set UPSTASH_REDIS_URL to the rediss:// address" in wrong.stdout
        assert "a-rest-token" not in wrong.stdout + wrong.stderr


@pytest.mark.parametrize("env", [
    {"UPSTASH_REDIS_URL": "https://calm-cod-1.upstash.io"}, {"UPSTASH_REDIS_REST_URL": "https://calm-cod-1.upstash.io"},
    {"REDIS_URL": "https://calm-cod-1.upstash.io"}, {"CODEX_SESSIOND_REDIS_URL": "https://calm-cod-1.upstash.io"},
    {"UPSTASH_REDIS_URL": "https://calm-cod-1.upstash.io", "UPSTASH_REDIS_TOKEN": ""},
    {"UPSTASH_REDIS_TOKEN": "a-token-alone"}, {"UPSTASH_REDIS_REST_TOKEN": "a-token-alone"},
])
def test_half_of_the_upstash_settings_is_refused_before_anything_starts(make_daemon, env):
    host = make_daemon()
    refused = host.run("serve", "--port", "0", "--data-dir", str(host.data_dir), env=env)
    assert refused.returncode == 1
    assert refused.stderr == "codex-sessiond: Upstash Redis URL and TOKEN are required\n"
    assert not host.data_dir.exists()


@pytest.mark.parametrize("url", [
    f"redis://anna:{PASSWORD}@", f"http://anna:{PASSWORD}@localhost", f"redis://anna:{PASSWORD}@localhost:99999",
    f"redis://anna:{PASSWORD}@localhost/x", f"https://anna:{PASSWORD}@calm-cod-1.upstash.io",
    f"redis://{PASSWORD}@localhost", f"anna:{PASSWORD}@localhost:6379",
])
def test_a_malformed_address_is_refused_without_showing_it(make_daemon, url):
    host = make_daemon()
    for verb in ("serve", "doctor"):
        refused = host.run(verb, "--port", "0", "--data-dir", str(host.data_dir), "--codex", str(instant_codex()),
                           env={"REDIS_URL": url})
        assert refused.returncode == 1
        assert "Redis URL: " in refused.stderr + refused.stdout
        assert PASSWORD not in refused.stderr + refused.stdout


def test_a_secret_has_no_flag(make_daemon):
    host = make_daemon()
    for flag in ("--redis-url", "--redis-token"):
        refused = host.run("serve", "--data-dir", str(host.data_dir), flag, f"redis://:{PASSWORD}@localhost")
        assert refused.returncode != 0 and PASSWORD not in refused.stderr + refused.stdout


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_a_user_with_a_password_is_let_in_and_nobody_sees_the_password(make_daemon, tmp_path, way):
    path = tmp_path / "r.sock"
    with Redis(tmp_path / "redis", "--unixsocket", str(path)) as redis:
        redis.call("ACL", "SETUSER", "daemon", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        redis.call("CONFIG", "SET", "requirepass", "another")
        redis.login = ("another",)
        ways = {"tcp": f"127.0.0.1:{redis.port}/2", "unix": str(path)}
        scheme = {"tcp": "redis", "unix": "unix"}[way]
        host = make_daemon(
            codex=instant_codex(), engine="app-server", args=["--user", "anna", "--log-level", "debug"],
            env={"REDIS_URL": f"{scheme}://daemon:{PASSWORD}@{ways[way]}"},
        ).start()
        sid = host.ask("one")["sessionId"]
        drained(host)
        assert state(host)["url"] == {"tcp": redis.url, "unix": f"unix://{path}"}[way]
        databases = redis.call("INFO", "keyspace").decode()
        assert {"tcp": "db2:", "unix": "db0:"}[way] in databases
        is_told_to_nobody(host)
        redis.call("ACL", "SETUSER", "daemon", "resetpass", ">changed")
        redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        host.go_on(sid, "two")
        wait_until(lambda: state(host)["state"] == "auth", "it is not let in", 20)
        assert sync(host).status == 503 and PASSWORD not in sync(host).text
        is_told_to_nobody(host)


# ---- another one ----


def set_redis(host, redis_url):
    file = host.folder / "settings.json"
    file.write_text(json.dumps({"redisUrl": redis_url} if redis_url else {}))
    file.chmod(0o600)
    return file


def reload(host, redis_url, word):
    """Put it into the file of settings and have that read; wait until the log says `word` once more."""
    set_redis(host, redis_url)
    before = host.log().count(word)
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: host.log().count(word) > before, f"it says {word}", 15)


@pytest.fixture
def movable(make_daemon):
    """A function that starts a host whose file of settings names Redis."""

    def make(name, redis_url):
        host = make_daemon(name, codex=instant_codex(), engine="app-server")
        host.folder.mkdir(parents=True, exist_ok=True)
        host.args += ["--user", "anna", "--host-name", name, "--config", str(set_redis(host, redis_url))]
        return host.start()

    return make


def test_another_redis_is_gone_to_without_a_restart(movable, make_host, redis, tmp_path):
    with Redis(tmp_path / "second") as second:
        second.call("ACL", "SETUSER", "daemon", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        first_host, second_host = make_host("one"), make_host("two", url=second.url)
        host = movable("moves", redis.url)
        sid = host.ask("before")["sessionId"]
        on(first_host, sid, 2)
        reload(host, f"redis://daemon:{PASSWORD}@127.0.0.1:{second.port}", "event=reloaded")
        wait_until(lambda: (state(host)["url"], state(host)["state"]) == (second.url, "online"), "it is there", 15)
        on(second_host, sid, 2)  # what it had, it told there
        other = second_host.ask("there")["sessionId"]
        on(host, other, 2)  # its doorbell is there, too
        host.go_on(sid, "after")
        alike(host, second_host, sid=sid, count=4)
        assert len(in_redis(redis, sid, 2)["messages"]) == 2  # the first one hears no more
        is_told_to_nobody(host)
        assert host.health()["redis"] == "online"


def test_who_hears_of_another_redis_is_told_how_that_one_is(movable, redis):
    host = movable("moves", redis.url)
    sid = host.ask("one")["sessionId"]
    drained(host)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and says nothing
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        reload(host, url, "event=reloaded")
        assert state(host)["url"] == url and state(host)["state"] in ("connecting", "offline")
        assert host.go_on(sid, "two")["metadata"]["stale"] is True
        reload(host, redis.url, "event=reloaded")
        wait_until(lambda: state(host)["state"] == "online", "it is back", 20)
    assert len(in_redis(redis, sid, 4)["messages"]) == 4


def test_another_redis_that_cannot_be_is_refused_and_the_old_one_kept(movable, redis):
    host = movable("stays", redis.url)
    wait_until(lambda: state(host)["state"] == "online", "it is online", 15)
    for url in (f"redis://anna:{PASSWORD}@", f"https://anna:{PASSWORD}@calm-cod-1.upstash.io"):
        reload(host, url, "event=reload_refused")
    reload(host, None, "needs_restart=redisUrl")
    sid = host.ask("one")["sessionId"]
    in_redis(redis, sid, 2)
    assert state(host)["url"] == redis.url
    is_told_to_nobody(host)


def test_a_first_redis_needs_a_restart(movable, redis):
    host = movable("alone", None)
    reload(host, redis.url, "needs_restart=redisUrl")
    assert host.health()["redis"] == "off" and host.ask("one")["success"] is True
    host.restart()
    wait_until(lambda: state(host)["state"] == "online", "it is online", 15)


# ---- none ----


def test_without_redis_all_is_local_and_says_so(make_daemon):
    document = Document()
    host = make_daemon(codex=instant_codex(), engine="app-server").start()
    first = host.ask("one")
    assert "stale" not in host.go_on(first["conversationId"], "two")["metadata"]
    health = host.health()
    assert health["redis"] == health["sync"]["state"] == host.stats()["redis"] == "off"
    shown = host.get("/api/codex/sync").json
    document.check_answer("GET", "/api/codex/sync", 200, shown)
    assert shown["sync"]["url"] is None and shown["sync"]["commands"] == shown["sync"]["pendingMessages"] == 0
    assert host.session(first["sessionId"])["sync"] == "local"
    refused = sync(host)
    assert refused.status == 409 and refused["code"] == "redis_off"
    verb = host.run("sync", "--data-dir", str(host.data_dir))
    assert verb.returncode == 1 and "No Redis is set" in verb.stderr
    assert doctor(host, {})[0] == ["ok    redis        off: sessions stay on this host"]


# ---- to see ----


def test_hosts_that_were_seen_are_known_after_a_restart(make_host, redis):
    a, b = make_host("alpha"), make_host("beta")
    sid = b.ask("one")["sessionId"]
    on(a, sid, 2)
    seen = state(a)["hosts"]
    assert [host["name"] for host in seen] == ["beta"]
    a.restart()
    assert state(a)["hosts"] == seen


def test_every_field_of_the_state_says_what_it_means(make_host, redis):
    document = Document()
    a, b = make_host("alpha"), make_host("beta")
    before = state(a)
    assert before["state"] == "online" and before["since"] and before["error"] is None
    assert before["lastPull"] and before["hosts"] == before["quarantined"] == []
    sid = a.ask("one")["sessionId"]
    on(b, sid, 2)
    b.go_on(sid, "two")
    on(a, sid, 4)
    done = sync(a)
    assert done.status == 200 and done["done"] is True
    document.check_answer("POST", "/api/codex/sync", 200, done.json)
    document.check_answer("GET", "/health", 200, a.health())
    document.check_answer("GET", "/api/codex/history/{id}", 200, a.get(f"/api/codex/history/{sid}").json)
    shown = a.get("/api/codex/sync").json
    document.check_answer("GET", "/api/codex/sync", 200, shown)
    now = shown["sync"]
    assert now["host"] == "alpha" and now["url"] == redis.url and now["since"] == before["since"]
    assert now["pendingSessions"] == now["pendingMessages"] == 0 and now["oldestPending"] is None
    assert now["lastPush"] > before["since"] and now["lastPull"] > before["lastPull"]
    assert [host["name"] for host in now["hosts"]] == ["beta"] and now["hosts"][0]["lastSeen"] > before["since"]
    for count in ("commands", "bytesSent", "bytesReceived"):
        assert now[count] > before[count] > 0
    assert now["connects"] >= 2 and abs(now["clockSkewMs"]) < 1000  # one to talk, one to listen
    assert a.health()["sync"]["state"] == a.stats()["sync"]["state"] == a.health()["redis"] == "online"
    redis.kill9()
    wait_until(lambda: state(a)["state"] == "offline", "it notices", 15)
    a.go_on(sid, "three")
    new = a.ask("four")["sessionId"]
    gone = state(a)
    assert gone["since"] > now["since"] and gone["error"]
    assert gone["oldestPending"] > now["lastPush"] and gone["pendingMessages"] == 4
    waited = sync(a, 0)
    assert waited.status == 202 and waited["done"] is False
    document.check_answer("POST", "/api/codex/sync", 202, waited.json)
    assert sync(a).status == 503
    for bad in (-1, 60_001, "1", 1.5, True):
        refused = a.post("/api/codex/sync", {"waitMs": bad})
        assert refused.status == 400 and refused["code"] == "invalid_wait", bad
    shown = {session["sessionId"]: session["sync"] for session in listed(a, "limit=10")}
    assert shown == {sid: "pending", new: "pending"} and a.session(sid)["sync"] == "pending"
    verb = a.run("sync", "--data-dir", str(a.data_dir))
    assert verb.returncode == 1 and verb.stderr
    redis.start()
    drained(a)
    drained(b)
    alike(a, b, sid=sid, count=6)
    in_redis(redis, new, 2)
    shown = {session["sessionId"]: session["sync"] for session in listed(a, "limit=10")}
    assert shown == {sid: "synced", new: "synced"}
