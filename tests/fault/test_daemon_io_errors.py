"""The daemon on a disk that fails now and then: no acknowledged turn is lost, nothing crashes, nothing is damaged."""

import pytest
from support.daemon import Daemon


class TracedDaemon(Daemon):
    """Some of its system calls fail: strace makes them."""

    inject = None

    def command(self):
        if not self.inject:
            return super().command()
        call = self.inject.split(":")[0]
        return ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={call}",
                "-e", f"inject={self.inject}", *super().command()]


@pytest.fixture
def daemon(ram, instant_codex):
    made = TracedDaemon(ram / "one", codex=instant_codex, args=["--http-threads", "32"])
    yield made
    if made.process:  # the test failed
        print(made.log_tail())
        made.kill9()


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
def test_io_errors_lose_nothing_that_was_acknowledged(daemon, long, call):
    daemon.start().stop()  # the database is there: what fails is what comes later
    acked, refused = {}, 0
    for step in (3, 5, 11, 17, 23, 40) if long else (5, 17):
        daemon.inject = f"{call}:error=EIO:when=20+{step}"
        daemon.start()
        pid = daemon.pid
        conversations = list(acked)[-2:]
        for number in range(120):
            body = {"prompt": f"{call} {step} {number}"}
            path = "/api/codex/session"
            if len(conversations) > 3:
                path, body["conversationId"] = "/api/codex/continue", conversations[number % 4]
            reply = daemon.post(path, body)
            if reply.status == 200:
                acked.setdefault(reply["conversationId"], []).append((body["prompt"], reply["response"]))
                conversations += [reply["conversationId"]] if path.endswith("session") else []
            else:
                refused += 1
                assert reply.status in (409, 500, 503, 507) and reply["code"], reply
        assert daemon.process.poll() is None and daemon.pid == pid
        daemon.kill9()  # the harder end: SIGTERM would tidy up
        daemon.inject = None
        daemon.start()
        assert "quarantin" not in daemon.log(), daemon.log_tail()
        for conversation, turns in acked.items():
            check(daemon, conversation, turns)
        daemon.stop()
    assert refused > 10, "hardly any call failed"


def check(daemon, conversation, turns):
    """All acknowledged turns, each once, in order."""
    messages = daemon.history(conversation)
    contents = [content for kind, content in messages if kind == "user"]
    assert len(contents) == len(set(contents)), "a prompt is there twice"
    pairs = [(messages[at][1], messages[at + 1][1]) for at in range(len(messages) - 1)
             if messages[at][0] == "user" and messages[at + 1][0] == "assistant"]
    wanted = set(turns)
    assert [pair for pair in pairs if pair in wanted] == turns, f"lost: {wanted - set(pairs)}"
