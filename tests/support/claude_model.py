"""A stand-in for the model behind Claude Code: POST /v1/messages as a stream of events.

It calls the tools that it was told to call, one per request, and at last says what the last one brought.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def newest_result(request):
    """The text of the newest tool result in the conversation."""
    for message in reversed(request["messages"]):
        blocks = message["content"] if isinstance(message["content"], list) else []
        for block in reversed(blocks):
            if block.get("type") == "tool_result":
                content = block["content"]
                return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return "(no tool was called)"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.path.startswith("/v1/messages?") and self.path != "/v1/messages":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for kind, event in self.server.events(request):
            self.wfile.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **event})}\n\n".encode())

    def do_GET(self):
        self.send_error(404)

    do_HEAD = do_GET


class ClaudeModel(ThreadingHTTPServer):
    """`calls` are to be made in order: each a function of the newest result that returns (tool, arguments)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls = []
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def env(self):
        """What makes Claude Code ask here."""
        return {
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{self.server_address[1]}",
            "ANTHROPIC_API_KEY": "sk-ant-none", "ENABLE_TOOL_SEARCH": "false",
        }

    def events(self, request):
        with self.lock:  # a request without tools is for a title or the like
            call = self.calls.pop(0)(newest_result(request)) if self.calls and request.get("tools") else None
        if call:
            block = {"type": "tool_use", "id": f"toolu_{id(request):x}", "name": call[0], "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(call[1])}
        else:
            block = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": newest_result(request)}
        usage = {"input_tokens": 1, "output_tokens": 1}
        yield "message_start", {"message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": request["model"], "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": usage,
        }}
        yield "content_block_start", {"index": 0, "content_block": block}
        yield "content_block_delta", {"index": 0, "delta": delta}
        yield "content_block_stop", {"index": 0}
        yield "message_delta", {
            "delta": {"stop_reason": "tool_use" if call else "end_turn", "stop_sequence": None}, "usage": usage,
        }
        yield "message_stop", {}

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()
