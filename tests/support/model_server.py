#!/usr/bin/env python3
"""A small stand-in for the model behind Codex: POST /v1/responses as a stream of events, GET /v1/models.

Its answer is made from the conversation it was sent, so that a reader (or a test) can see which messages
really arrived:

    I saw 3 messages (2 from you, 1 from me). You said: "and now?". Before: "hello".

A directive on the first or the last line of the newest user message steers it:

    [[echo]]             answer with exactly that message
    [[delay MS]]         wait before answering
    [[stall]]            never answer
    [[status CODE]]      answer with that HTTP status and an error
    [[tool COMMAND]]     ask Codex to run a shell command, then report what it printed
    [[escalate COMMAND]] the same, outside of the sandbox
    [[patch FILE TEXT]]  the same for a patch that adds a file of one line
    [[big BYTES]]        an answer of that size
    [[deltas COUNT MS]]  an answer of COUNT pieces, MS apart
    [[usage]]            report 1200 tokens in (800 of them cached) and 34 out
    [[close]]            drop the connection in the middle of the answer

Standard library only; Python 3.9 or later.
"""

import argparse
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = ("demo", "gpt-5-codex")

# What Codex puts in by itself in the user's name; not counted as messages.
BOILERPLATE = re.compile(
    r"\s*(<(environment_context|user_instructions|permissions|skills?|turn_aborted|apps_instructions"
    r"|collaboration_mode|model_switch|personality|subagent|INSTRUCTIONS)|# AGENTS\.md instructions)",
    re.IGNORECASE,
)
DIRECTIVE = re.compile(r"\[\[(\w+)(?: ([^\]]*))?\]\]")
STATUS_ERRORS = {
    400: ("invalid_request_error", "The request was refused, as it asked for."),
    401: ("invalid_api_key", "Incorrect API key provided."),
    404: ("model_not_found", "The model does not exist or you do not have access to it."),
    429: ("rate_limit_exceeded", "Rate limit reached."),
    500: ("server_error", "The server had an error, as it was asked for."),
}
USAGE = {
    "input_tokens": 1200,
    "input_tokens_details": {"cached_tokens": 800},
    "output_tokens": 34,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 1234,
}


def shorten(text, limit):
    """The text on one line, its middle left out when it is longer than limit."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} … {text[-half:]}"


def text_of(item):
    """The text of a message item; its parts are joined by newlines."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = [part.get("text", "") for part in content or [] if isinstance(part, dict)]
    return "\n".join(parts)


class Conversation:
    """What a request says: messages as (role, text), and what tools printed after the newest prompt."""

    def __init__(self, request):
        self.messages = []
        self.tool_outputs = []
        items = request.get("input") or []
        if isinstance(items, str):
            items = [{"type": "message", "role": "user", "content": items}]
        for item in items:
            self._add(item)
        self.prompts = [text for role, text in self.messages if role == "user"]
        self.prompt = self.prompts[-1] if self.prompts else ""
        lines = self.prompt.strip().splitlines() or [""]
        self.directives = dict(DIRECTIVE.findall(lines[0] + "\n" + lines[-1]))

    def _add(self, item):
        kind = item.get("type", "message")
        if kind.endswith("_call_output"):
            self.tool_outputs.append(item.get("output"))
        if kind != "message" or item.get("role") not in ("user", "assistant"):
            return
        text = text_of(item)
        if item["role"] == "user":
            if BOILERPLATE.match(text):
                return
            self.tool_outputs = []
        self.messages.append((item["role"], text))

    def answer(self):
        """The text to answer with."""
        if "echo" in self.directives:
            return self.prompt
        if "big" in self.directives:
            size = int(self.directives["big"])
            return ("0123456789abcdef" * (size // 16 + 1))[:size]
        if "deltas" in self.directives:
            count = int(self.directives["deltas"].split()[0])
            return " ".join(f"piece {n}" for n in range(1, count + 1))
        if self.tool_outputs:
            return f"The command printed: {self._printed()}"
        mine = len(self.messages) - len(self.prompts)
        counts = f"({len(self.prompts)} from you, {mine} from me)"
        plural = "" if len(self.messages) == 1 else "s"
        answer = f"I saw {len(self.messages)} message{plural} {counts}."
        answer += f' You said: "{shorten(self.prompt, 400)}".'
        earlier = ", ".join(f'"{shorten(text, 80)}"' for text in self.prompts[:-1])
        return answer + (f" Before: {earlier}." if earlier else "")

    def _printed(self):
        output = self.tool_outputs[-1]
        return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)

    def pieces(self, text):
        """The text cut as it is to be streamed."""
        if "deltas" in self.directives:
            return re.findall(r"\S+ \S+ ?", text)
        size = max(24, len(text) // 64)
        return [text[at : at + size] for at in range(0, len(text), size)]


def wanted_command(directives):
    """The shell command that is to be run, and arguments beside it; None: none."""
    if "tool" in directives:
        return directives["tool"], {}
    if "escalate" in directives:
        why = {"sandbox_permissions": "require_escalated", "justification": "May I leave the sandbox?"}
        return directives["escalate"], why
    if "patch" in directives:
        name, _, text = directives["patch"].partition(" ")
        patch = f"*** Begin Patch\n*** Add File: {name}\n+{text}\n*** End Patch"
        return f"apply_patch <<'END'\n{patch}\nEND", {}
    return None


def tool_call(request, command, more, number):
    """A call of whichever shell tool the request offers."""
    arguments = {"exec_command": {"cmd": command}, "shell_command": {"command": command}}
    offered = {tool.get("name") for tool in request.get("tools") or []}
    name = next((tool for tool in arguments if tool in offered), "shell")
    given = arguments.get(name, {"command": ["bash", "-lc", command]})
    return {
        "type": "function_call",
        "id": f"fc_{number}",
        "call_id": f"call_{number}",
        "name": name,
        "arguments": json.dumps({**given, **more}),
        "status": "completed",
    }


def message_item(text, number, status="completed"):
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "type": "message",
        "id": f"msg_{number}",
        "role": "assistant",
        "status": status,
        "content": [part] if text else [],
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "codex-sessiond-demo-model"

    def log_message(self, format, *args):  # noqa: A002 (the base class's name)
        pass

    def do_GET(self):
        if self.path.split("?")[0] != "/v1/models":
            return self._error(404, "not_found", "No such path.")
        models = [{"id": name, "object": "model", "owned_by": "demo"} for name in MODELS]
        return self._json(200, {"object": "list", "data": models, "models": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.split("?")[0] != "/v1/responses":
            return self._error(404, "not_found", "No such path.")
        try:
            request = json.loads(body)
            conversation = Conversation(request)
        except (ValueError, AttributeError, TypeError) as error:
            return self._error(400, "invalid_request_error", f"Not a request: {error}")
        self.server.record(request, dict(self.headers), conversation)
        with self.server.counted():
            try:
                self._respond(request, conversation)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    def _respond(self, request, conversation):
        model = request.get("model", "")
        if model in self.server.unknown_models:
            code, message = STATUS_ERRORS[404]
            return self._error(404, code, f"The model `{model}`: {message}")
        directives = conversation.directives
        directives.update(self.server.next_fault())
        if "status" in directives:
            status = int(directives["status"])
            return self._error(status, *STATUS_ERRORS.get(status, STATUS_ERRORS[500]))
        if "delay" in directives:
            time.sleep(int(directives["delay"]) / 1000)
        if "stall" in directives:
            return self._wait_for_disconnect()
        number = next(self.server.numbers)
        self._begin_stream()
        response = {"id": f"resp_{number}", "object": "response", "model": model, "output": []}
        self._event("response.created", response={**response, "status": "in_progress"})
        wanted = None if conversation.tool_outputs else wanted_command(directives)
        if wanted:
            item = tool_call(request, *wanted, number)
            self._event("response.output_item.added", output_index=0, item=item)
        else:
            item = self._stream_text(conversation, number)
        self._event("response.output_item.done", output_index=0, item=item)
        response.update(status="completed", output=[item], usage=self._usage(conversation, item))
        self._event("response.completed", response=response)
        self._chunk(b"")
        return None

    def _stream_text(self, conversation, number):
        text = conversation.answer()
        directives = conversation.directives
        pause = int((directives.get("deltas", "0 0") + " 0").split()[1]) / 1000
        item = message_item("", number, "in_progress")
        self._event("response.output_item.added", output_index=0, item=item)
        where = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        for piece in conversation.pieces(text):
            self._event("response.output_text.delta", delta=piece, **where)
            if "close" in directives:
                self.connection.shutdown(socket.SHUT_RDWR)
                raise BrokenPipeError
            if pause:
                time.sleep(pause)
        self._event("response.output_text.done", text=text, **where)
        return message_item(text, number)

    @staticmethod
    def _usage(conversation, item):
        if "usage" in conversation.directives:
            return USAGE
        sent = sum(len(text) for _, text in conversation.messages) // 4 + 1
        made = len(json.dumps(item)) // 4
        return {
            "input_tokens": sent,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": sent + made,
        }

    def _wait_for_disconnect(self):
        self.close_connection = True
        while self.connection.recv(1):
            pass

    def _begin_stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.sequence = itertools.count()

    def _event(self, kind, **fields):
        data = {"type": kind, "sequence_number": next(self.sequence), **fields}
        text = f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
        self._chunk(text.encode("utf-8", "surrogatepass"))

    def _chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _json(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status, code, message):
        self._json(status, {"error": {"message": message, "type": code, "param": None, "code": code}})


class Counted:
    """Counts the requests that are being answered."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        with self.server.lock:
            self.server.active += 1

    def __exit__(self, *_):
        with self.server.lock:
            self.server.active -= 1


class ModelServer(ThreadingHTTPServer):
    """The server as a class: start(), then .requests and .conversations tell what Codex sent."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, host="127.0.0.1", port=0, unknown_models=(), keep=1000):
        super().__init__((host, port), Handler)
        self.unknown_models = set(unknown_models)
        self.keep = keep
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)
        self.active = 0  # requests being answered
        self.requests = []  # bodies, oldest first; the newest `keep`
        self.headers = []  # their headers
        self.conversations = []  # what was read from them
        self.faults = []  # directives, as {"stall": ""}, for the next requests, one each
        self.thread = None

    @property
    def port(self):
        return self.server_address[1]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def counted(self):
        return Counted(self)

    def next_fault(self):
        with self.lock:
            return self.faults.pop(0) if self.faults else {}

    def record(self, request, headers, conversation):
        with self.lock:
            if not self.keep:
                return
            for log, entry in (
                (self.requests, request),
                (self.headers, headers),
                (self.conversations, conversation),
            ):
                log.append(entry)
                del log[: -self.keep]

    def clear(self):
        with self.lock:
            self.requests, self.headers, self.conversations = [], [], []

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def start(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def stop(self):
        if self.thread:
            self.shutdown()
            self.thread.join()
            self.thread = None
        self.server_close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def write_port_file(path, port):
    """Appears whole or not at all, so that a waiting script never reads half a number."""
    partial = f"{path}.partial"
    with open(partial, "w", encoding="ascii") as file:
        file.write(f"{port}\n")
    os.replace(partial, path)


def main():
    parser = argparse.ArgumentParser(description="A model server for demos and tests.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--port-file", help="file to write the port to")
    parser.add_argument("--unknown-model", action="append", default=[], metavar="NAME")
    options = parser.parse_args()
    server = ModelServer(options.host, options.port, options.unknown_model, keep=0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if options.port_file:
        write_port_file(options.port_file, server.port)
    print(f"model server on http://{options.host}:{server.port}/v1", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
