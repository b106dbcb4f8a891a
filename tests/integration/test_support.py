"""The tools of the other tests, and the demo model that users see, do what they say."""

import http.client
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.model_server import __file__ as MODEL_SERVER
from support.model_server import ModelServer
from support.process import wait_until
from support.proxy import Proxy
from support.redis import Redis


def message(role, text):
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def respond(port, *texts, model="demo"):
    """(status, events) of a conversation whose messages are alternately the user's and the model's."""
    items = [message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"model": model, "stream": True, "input": items})
    connection.request("POST", "/v1/responses", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    if reply.status != 200:
        return reply.status, json.loads(text)
    return 200, [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def answer(events):
    return events[-1]["response"]["output"][0]["content"][0]["text"]


def test_the_model_tells_what_it_saw(model):
    status, events = respond(model.port, "hello", "hi", "and  now?")
    assert status == 200
    assert [event["type"] for event in events if "delta" not in event["type"]] == [
        "response.created", "response.output_item.added", "response.output_text.done",
        "response.output_item.done", "response.completed",
    ]
    assert answer(events) == (
        'I saw 3 messages (2 from you, 1 from me). You said: "and now?". Before: "hello".'
    )
    assert "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta") == answer(events)


def test_the_model_ignores_what_codex_adds_by_itself(model):
    _, events = respond(model.port, "<environment_context>\n  <cwd>/x</cwd></environment_context>")
    assert answer(events).startswith("I saw 0 messages")


def test_the_model_obeys_its_directives(model):
    assert answer(respond(model.port, "a\n日本 [[echo]]")[1]) == "a\n日本 [[echo]]"
    assert len(answer(respond(model.port, "[[big 100000]]")[1])) == 100_000
    assert respond(model.port, "[[status 429]]")[0] == 429
    deltas = [e for e in respond(model.port, "[[deltas 5 10]]")[1] if "delta" in e]
    assert len(deltas) == 5
    begun = time.monotonic()
    respond(model.port, "[[delay 200]]")
    assert time.monotonic() - begun >= 0.2
    # Only on the first or last line: an older prompt inside a transcript steers nothing.
    assert respond(model.port, "Transcript:\n[[status 500]]\nand now?")[0] == 200


def test_the_model_answers_a_hundred_at_once(model):
    begun = time.monotonic()
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda n: answer(respond(model.port, f"{n} [[delay 500]]")[1]), range(100)))
    assert time.monotonic() - begun < 10
    assert all(f'"{n} ' in answers[n] for n in range(100))
    assert len(model.requests) == 100 and model.active == 0


def test_an_unknown_model_is_refused():
    with ModelServer(unknown_models=["nope"]) as model:
        status, body = respond(model.port, "hello", model="nope")
        assert status == 404 and body["error"]["code"] == "model_not_found"
        assert respond(model.port, "hello")[0] == 200


def test_the_model_server_is_a_program(tmp_path):
    port_file = tmp_path / "port"
    command = [sys.executable, MODEL_SERVER, "--port-file", str(port_file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        wait_until(port_file.exists, "it announces its port")
        port = int(port_file.read_text())
        assert str(port) in process.stdout.readline()
        assert respond(port, "hello")[0] == 200
    finally:
        process.terminate()
        assert process.wait(5) == 0
        process.stdout.close()


def test_a_redis_server_starts_and_a_proxy_stands_before_it(tmp_path):
    with Redis(tmp_path / "redis") as redis, Proxy("127.0.0.1", redis.port) as proxy:
        direct, redis.port = redis.port, proxy.port
        assert redis.command("SET", "k", "v") == b"+OK"
        assert proxy.bytes_to_target > 0
        proxy.mode = "refuse"
        with pytest.raises(OSError):
            if redis.command("PING") == b"":
                raise ConnectionResetError
        redis.port = direct
        assert redis.command("GET", "k") == b"$1"
