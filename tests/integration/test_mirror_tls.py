"""Whole daemons and a real Redis over TLS: who may be spoken to, and who is told the password."""

import glob
import os
import random
import subprocess

import pytest
from support.chaos import Admin, Line
from support.daemon import instant_codex
from support.hosts import contents, drained, messages, on, state, sync
from support.process import children, descendants, wait_until
from support.redis import Redis

PASSWORD = "correct-horse-battery"
LIBRARY = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")


def openssl(folder, *words, when=None):
    env = {**os.environ, **({"LD_PRELOAD": LIBRARY[0], "FAKETIME": when} if when else {})}
    subprocess.run(["openssl", *words], cwd=folder, env=env, check=True, capture_output=True, timeout=30)


class Certificates:
    """An authority, and what it signs, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.request("ca", "/CN=authority", "-x509", "-days", "2")

    def request(self, name, subject, *words):
        openssl(self.folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch", "-subj",
                subject, "-keyout", f"{name}.key", "-out", f"{name}.pem", *words)

    def sign(self, name, names="DNS:localhost,IP:127.0.0.1", when=None):
        self.request(name, "/CN=server", "-addext", f"subjectAltName={names}")
        openssl(self.folder, "x509", "-req", "-in", f"{name}.pem", "-out", f"{name}.pem", "-CA", "ca.pem", "-CAkey",
                "ca.key", "-CAcreateserial", "-days", "2", "-copy_extensions", "copy", when=when)

    def make(self, kind):
        if kind == "self-signed":
            self.request(kind, "/CN=server", "-x509", "-days", "2", "-addext", "subjectAltName=DNS:localhost")
        elif kind == "of another name":
            self.sign(kind, "DNS:redis.example")
        elif kind == "expired":
            self.sign(kind, when="-10d")
        else:
            self.sign(kind)
        return kind

    def path(self, name):
        return str(self.folder / name)


class TlsRedis(Redis):
    """Speaks TLS on its port, and knows a user with a password; tests look into it by another way."""

    def __init__(self, folder, certificates, kind):
        self.certificates, self.plain = certificates, kind == "plaintext"
        name = certificates.make(kind)
        super().__init__(folder, "--unixsocket", str(folder / "redis.sock"))
        if not self.plain:
            self.options += (
                "--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no",
                "--tls-ca-cert-file", certificates.path("ca.pem"),
                "--tls-cert-file", certificates.path(f"{name}.pem"), "--tls-key-file", certificates.path(f"{name}.key"),
            )

    def start(self):
        super().start()
        self.admin("ACL", "SETUSER", "daemon", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        return self

    def accepts(self):
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            self.admin = Admin(self.folder / "redis.sock")
            return self.admin("PING") == b"PONG"
        except (OSError, AssertionError):
            return False

    def commands(self):
        """What clients asked it to do, but for the test's own."""
        lines = self.admin("INFO", "commandstats").decode().split()
        return {line.split(":")[0][8:] for line in lines if line.startswith("cmdstat_")} - {"acl|setuser", "ping", "info"}


class Tap(Line):
    """A line that keeps what a host sent."""

    sent = b""

    def _remember(self, data):
        self.sent += data
        return b""


@pytest.fixture
def certificates(tmp_path):
    assert LIBRARY, "libfaketime is missing"
    return Certificates(tmp_path / "certificates")


@pytest.fixture
def make_tls_host(make_daemon, certificates):
    """A function that starts a host of the user anna whose Redis is at rediss://ADDRESS."""

    def make(name, address, ca="ca.pem"):
        args = ["--user", "anna", "--host-name", name, *(["--redis-ca", certificates.path(ca)] if ca else [])]
        env = {"UPSTASH_REDIS_URL": f"rediss://daemon:{PASSWORD}@{address}"}
        return make_daemon(name, codex=instant_codex(), engine="app-server", args=args, env=env).start()

    return make


def is_told_to_nobody(host):
    """The password is in the environment that the daemon was given, and nowhere else that others can see. What doctor
    says."""
    doctor = host.run("doctor", "--data-dir", str(host.data_dir), "--codex", str(host.codex))
    texts = [host.log(), host.get("/health").text, host.get("/api/codex/sync").text, host.get("/api/codex/stats").text]
    texts += [doctor.stdout, doctor.stderr]
    for pid in [host.pid, *descendants(host.pid)]:
        files = ["cmdline", "comm"] if pid == host.pid else ["cmdline", "comm", "environ"]
        for name in files:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                texts.append(file.read().decode("utf-8", "replace"))
    texts += [path.read_bytes().decode("latin-1") for path in host.data_dir.iterdir()]
    assert not [text[:2000] for text in texts if PASSWORD in text]
    return doctor


@pytest.mark.smoke
def test_a_conversation_goes_on_elsewhere_over_tls(make_tls_host, certificates, tmp_path):
    with TlsRedis(tmp_path / "redis", certificates, "good") as redis:
        here = make_tls_host("alpha", f"localhost:{redis.port}")
        first = here.ask("one")
        drained(here)
        there = make_tls_host("beta", f"127.0.0.1:{redis.port}")
        wait_until(lambda: state(there)["state"] == "online", "it is online", 15)

        assert there.go_on(first["conversationId"], "two")["response"].startswith("echo 3:")

        on(here, first["sessionId"], 4)
        assert messages(here, first["sessionId"]) == messages(there, first["sessionId"])
        assert state(here)["url"] == f"rediss://localhost:{redis.port}"
        redis.kill9()
        here.go_on(first["conversationId"], "three, alone")
        redis.start()
        drained(here)
        drained(there)
        on(there, first["sessionId"], 6)
        assert contents(messages(there, first["sessionId"])) == ["one", "two", "three, alone"]
        assert children(here.pid), "Codex runs"
        is_told_to_nobody(here)


@pytest.mark.parametrize("kind, ca, why", [
    ("of another name", "ca.pem", "mismatch"),
    ("expired", "ca.pem", "expired"),
    ("self-signed", "ca.pem", "self-signed"),
    ("of an unknown authority", None, "self-signed certificate in certificate chain"),
    ("plaintext", "ca.pem", ""),
])
def test_who_is_not_who_was_asked_for_is_not_told_the_password(make_tls_host, certificates, tmp_path, kind, ca, why):
    with TlsRedis(tmp_path / "redis", certificates, kind) as redis, \
            Tap("127.0.0.1", redis.port, random.Random(0)) as line:
        host = make_tls_host("alpha", f"localhost:{line.port}", ca)
        wait_until(lambda: state(host)["state"] in ("auth", "offline"), "it is refused", 15)
        told = state(host)
        if told["state"] == "auth":  # else Redis, which waits for the end of a line, takes its time again
            asked = sync(host)
            assert asked.status == 503 and PASSWORD not in asked.text, asked

        assert told["state"] == "auth" or kind == "plaintext", told
        assert why in told["error"], told
        assert not redis.commands() and b"AUTH" not in line.sent and PASSWORD.encode() not in line.sent
        assert line.sent.startswith(b"\x16\x03"), "not even a handshake came"
        sid = host.ask("here")["sessionId"]
        assert host.go_on(sid, "on")["metadata"]["stale"] is True
        doctor = is_told_to_nobody(host)
        assert doctor.returncode == 1 and "FAIL  redis" in doctor.stdout


def test_a_certificate_that_was_mended_lets_the_host_in_when_it_is_asked_to_sync(make_tls_host, certificates, tmp_path):
    with TlsRedis(tmp_path / "redis", certificates, "expired") as redis:
        host = make_tls_host("alpha", f"localhost:{redis.port}")
        wait_until(lambda: state(host)["state"] == "auth", "it is refused", 15)
        sid = host.ask("meanwhile")["sessionId"]
        certificates.make("good")
        redis.admin("CONFIG", "SET", "tls-cert-file", certificates.path("good.pem"), "tls-key-file",
                    certificates.path("good.key"))
        drained(host)
        assert host.session(sid)["sync"] == "synced"
        assert len(redis.admin("KEYS", f"codex:session:{sid}")) == 1
