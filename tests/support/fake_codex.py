#!/usr/bin/env python3
"""A Codex whose behaviour is told: what the real one cannot be made to do on demand.

    fake_codex.py --scenario WORDS --log FILE (--version | --help | app-server | mcp-server)

Words of the scenario hold for the process, separated by commas:

    mute            never answer the handshake
    refuse          answer the handshake with an error
    crash           complain on stderr and exit before the handshake
    noise           print chatter before the handshake
    no-inject, no-revert, no-fork    these methods are unknown
    old-fork        forking copies the whole thread, whatever was asked
    forget          no thread can be resumed
    die-once        die at the first thread/start of all processes with this log
    duplicate       MCP: send each delta in both forms

Words in a prompt, in double brackets, hold for its turn:

    [[die]]         complain on stderr and exit
    [[garbage]]     lines that are no JSON, or none that can be read
    [[late]]        the reply comes after all notifications
    [[huge N]]      a line of N bytes
    [[deltas N]]    N deltas
    [[nul]]         NUL characters in the answer
    [[ask]]         ask for approvals first, and answer with what was decided
    [[propose]]     the same as a turn may be asked: a patch, and more
    [[asks N]]      ask for approval of N commands at once, and answer with what was decided
    [[settle]]      ask, and settle it without an answer; then run until interrupted
    [[wait]]        run until interrupted
    [[deaf]]        run for ever
    [[hold]]        do not even answer the request, until interrupted or for ever
    [[early]]       the request is answered, but the turn begins only when it was once interrupted
    [[fail]]        fail for want of room in the model's context
    [[reroute]]     another model runs

Every line that comes in is appended to the log. The answer counts and names the messages of the thread.
"""

import json
import os
import re
import sys

HELP = """Codex CLI

Commands:
  exec        Run Codex non-interactively
  app-server  Run the app server
  mcp-server  Start Codex as an MCP server

Options:
"""


class Codex:
    def __init__(self, scenario, log):
        self.scenario = set(filter(None, scenario.split(",")))
        self.log = open(log, "a", encoding="utf-8") if log else None
        self.log_path = log
        self.threads = {}  # id: texts
        self.tokens = {}  # id of a thread: used so far
        self.turns = {}  # id of a turn: (thread, index of its prompt)
        self.running = {}  # id of a turn: id of the call to be answered, or None
        self.answers = []  # to our own requests
        self.early = None  # a turn that has not begun
        self.pending = None  # a turn that waits for them
        self.expected = 0  # as many of them
        self.count = 0

    def send(self, **message):
        self.raw(json.dumps(message))

    @staticmethod
    def raw(text):
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.flush()

    def new_id(self, kind):
        self.count += 1
        return f"{kind}-{os.getpid()}-{self.count}"

    def die(self, status=3):
        sys.stderr.write("\033[31mERROR\033[0m the model fell\nout of the window\n")
        sys.stderr.flush()
        os._exit(status)

    def first_time(self, word):
        mark = f"{self.log_path}.{word}"
        if os.path.exists(mark):
            return False
        with open(mark, "w", encoding="ascii"):
            return True

    def run(self):
        if "crash" in self.scenario:
            self.die(1)
        if "noise" in self.scenario:
            self.raw("warming up")
            self.raw("[1, 2")
        for line in sys.stdin:
            if self.log:
                self.log.write(line)
                self.log.flush()
            message = json.loads(line)
            if "method" not in message:
                self.answers.append(message)
                if self.pending and len(self.answers) == self.expected:
                    self.pending()
                    self.pending = None
            else:
                name = re.sub(r"\W", "_", message["method"])
                handler = getattr(self, "on_" + name, None)
                if handler:
                    handler(message.get("id"), message.get("params") or {})
                elif "id" in message:
                    self.unknown(message["id"], message["method"])

    def unknown(self, call, method):
        text = f"Invalid request: unknown variant `{method}`, expected one of …"
        self.send(id=call, error={"code": -32600, "message": text})

    def on_initialize(self, call, params):
        if "refuse" in self.scenario:
            return self.send(id=call, error={"code": -1, "message": "not today"})
        if "mute" not in self.scenario:
            return self.greet(call)

    def describe(self, thread):
        texts = self.threads[thread]
        return f"{len(texts)} texts: " + "|".join(text[:60] for text in texts)

    def ask(self, decided, count=4):
        """Some requests; each may have an id of another kind."""
        self.answers = []
        self.expected = count
        self.pending = lambda: decided(json.dumps(self.answers, sort_keys=True))


class AppServer(Codex):
    MODEL = "default-model"

    def greet(self, call):
        self.send(id=call, result={"userAgent": "fake/0.169.0", "codexHome": "/"})

    def on_account_login_start(self, call, params):
        self.send(id=call, result={"type": params["type"]})

    def thread_result(self, call, thread, params, turns=()):
        kinds = {"read-only": "readOnly", "workspace-write": "workspaceWrite"}
        kind = kinds.get(params.get("sandbox"), "dangerFullAccess")
        self.send(
            id=call,
            result={
                "thread": {"id": thread, "turns": [{"id": turn} for turn in turns], "status": {"type": "idle"}},
                "model": params.get("model") or self.MODEL,
                "sandbox": {"type": kind, "networkAccess": True},
            },
        )

    def on_thread_start(self, call, params):
        if "die-once" in self.scenario and self.first_time("die-once"):
            self.die()
        thread = self.new_id("thread")
        self.threads[thread] = []
        self.thread_result(call, thread, params)

    def on_thread_resume(self, call, params):
        thread = params["threadId"]
        if "forget" in self.scenario or not thread.startswith("thread-"):
            text = f"no rollout found for thread id {thread}"
            return self.send(id=call, error={"code": -32600, "message": text})
        self.threads.setdefault(thread, ["from the files"])
        return self.thread_result(call, thread, params)

    def on_thread_inject_items(self, call, params):
        if "no-inject" in self.scenario:
            return self.unknown(call, "thread/inject_items")
        texts = [item["content"][0]["text"] for item in params["items"]]
        self.threads[params["threadId"]] += texts
        return self.send(id=call, result={})

    def on_thread_revert(self, call, params):
        if "no-revert" in self.scenario:
            return self.unknown(call, "thread/revert")
        if params["beforeTurnId"] not in self.turns:
            text = f"turn not found: {params['beforeTurnId']}"
            return self.send(id=call, error={"code": -32600, "message": text})
        thread, index = self.turns[params["beforeTurnId"]]
        del self.threads[thread][index:]
        return self.send(id=call, result={"thread": {"id": thread}})

    def on_thread_fork(self, call, params):
        if "no-fork" in self.scenario:
            return self.unknown(call, "thread/fork")
        thread = self.new_id("thread")
        texts = self.threads[params["threadId"]]
        turns = [turn for turn, (of, _) in self.turns.items() if of == params["threadId"]]
        if "old-fork" not in self.scenario:
            at = turns.index(params["beforeTurnId"])
            texts = texts[: self.turns[turns[at]][1]]
            turns = turns[:at]
        self.threads[thread] = list(texts)
        return self.thread_result(call, thread, params, turns)

    def on_thread_unsubscribe(self, call, params):
        self.threads.pop(params["threadId"], None)
        self.send(id=call, result={"status": "unsubscribed"})

    def on_thread_backgroundTerminals_clean(self, call, params):
        self.send(id=call, result={})

    def on_turn_interrupt(self, call, params):
        turn = params["turnId"]
        if turn not in self.running:
            self.send(id=call, error={"code": -32600, "message": "no active turn to interrupt"})
            if turn == self.early:
                self.running[turn] = self.early = None
                self.note("turn/started", turn, turn={"id": turn, "status": "inProgress"})
            return None
        self.send(id=call, result={})
        return self.complete(turn, "interrupted")

    def on_turn_start(self, call, params):
        thread = params["threadId"]
        if thread not in self.threads:
            text = f"thread not found: {thread}"
            return self.send(id=call, error={"code": -32600, "message": text})
        text = "\n".join(part["text"] for part in params["input"])
        words = dict(re.findall(r"\[\[(\w+)(?: (\d+))?\]\]", text))
        turn = self.new_id("turn")
        self.turns[turn] = (thread, len(self.threads[thread]))
        self.threads[thread].append(text)
        if "die" in words:
            self.die()
        if "early" in words:
            self.early = turn
            return self.send(id=call, result={"turn": {"id": turn, "status": "inProgress"}})
        self.running[turn] = None
        reply = {"turn": {"id": turn, "status": "inProgress"}}
        if "late" not in words and "hold" not in words:
            self.send(id=call, result=reply)
        self.note("turn/started", turn, turn={"id": turn, "status": "inProgress"})
        if "garbage" in words:
            self.garbage(turn)
        if words.keys() & {"wait", "deaf", "hold"}:
            if "deaf" in words:
                del self.running[turn]
            return None
        if "fail" in words:
            self.usage(turn, 0)
            error = {"message": "out of room", "codexErrorInfo": "contextWindowExceeded"}
            return self.complete(turn, "failed", error)
        if "reroute" in words:
            self.note("model/rerouted", turn, toModel="other-model", fromModel="x", reason="y")
        if "ask" in words:
            self.ask(lambda decided: self.speak(turn, decided))
            for number, method in (
                (0, "item/commandExecution/requestApproval"),
                ("x", "mcpServer/elicitation/request"),
                (1, "execCommandApproval"),
                (2, "something/new"),
            ):
                self.send(id=number, method=method, params={"threadId": thread})
            return None
        if words.keys() & {"propose", "asks", "settle"}:
            return self.ask_owner(turn, words)
        if "huge" in words:
            item = {"type": "commandExecution", "id": "i", "aggregatedOutput": "x" * int(words["huge"])}
            self.note("item/completed", turn, item=item)
        answer = self.describe(thread)
        if "nul" in words:
            answer = "a\0b\\u0000c\0"
        self.speak(turn, answer, int(words.get("deltas") or 2))
        if "late" in words:
            self.send(id=call, result=reply)
        return None

    def ask_owner(self, turn, words):
        def request(number, kind, **params):
            params.update(threadId=self.turns[turn][0], turnId=params.get("turnId", turn))
            self.send(id=number, method=f"item/{kind}/requestApproval", params=params)

        if "settle" in words:
            self.running[turn] = None
            request("s", "commandExecution", itemId="c", command="true")
            self.note("serverRequest/resolved", turn, requestId="s")
            return self.note("item/completed", turn, item={"type": "agentMessage", "id": "m", "text": "I go on"})
        self.running[turn] = None
        self.ask(lambda decided: turn in self.running and self.speak(turn, decided), int(words.get("asks") or 4))
        if "asks" in words:
            for number in range(int(words["asks"])):
                request(number, "commandExecution", itemId=f"c{number}", command="true")
            return None
        change = {"path": "/w/a.txt", "kind": {"type": "add"}, "diff": "hi\n"}
        self.note("item/started", turn, item={"type": "fileChange", "id": "patch-1", "changes": [change]})
        request(0, "fileChange", itemId="patch-1", reason="so that it works", grantRoot=None)
        request("p", "permissions", itemId="x", cwd="/w", permissions={"network": {"enabled": True}})
        request(1, "commandExecution", itemId="y", command="rm -r x", cwd="/w")
        request(2, "commandExecution", itemId="z", command="of an earlier turn", turnId="turn-0")
        return None

    def note(self, method, turn_id, **params):
        self.send(method=method, params={"threadId": self.turns[turn_id][0], "turnId": turn_id, **params})

    def garbage(self, turn):
        self.raw("not json")
        self.raw("{not json either")
        self.raw('{"method": "\udcff\udcfe"}')
        self.raw("{}")
        self.raw('{"id": 99999999, "result": {}}')
        self.raw('{"id": null, "result": {}}')
        self.raw('{"method": "item/completed", "params": ' + "[" * 200 + "]" * 200 + "}")
        self.raw('{"method": "turn/completed", "params": {"threadId": "thread-other", "turn": {"id": "t"}}}')
        thread = self.turns[turn][0]
        self.raw('{"method": "turn/completed", "params": {"threadId": "%s", "turn": {"id": "t"}}}' % thread)
        self.raw('{"method": "turn/completed", "params": [1, 2]}')

    def usage(self, turn, tokens=10):
        thread = self.turns[turn][0]
        total = self.tokens[thread] = self.tokens.get(thread, 0) + tokens
        usage = {
            "total": {"inputTokens": total, "cachedInputTokens": 0, "outputTokens": total // 2},
            "last": {"inputTokens": tokens, "cachedInputTokens": 0, "outputTokens": tokens // 2},
        }
        for _ in range(2):
            self.note("thread/tokenUsage/updated", turn, tokenUsage=usage)

    def speak(self, turn, answer, deltas=2):
        size = max(1, -(-len(answer) // deltas))
        for at in range(0, len(answer), size):
            self.note("item/agentMessage/delta", turn, itemId="i", delta=answer[at : at + size])
        self.note("item/completed", turn, item={"type": "reasoning", "id": "r", "summary": []})
        self.note("item/completed", turn, item={"type": "agentMessage", "id": "i", "text": answer})
        self.threads[self.turns[turn][0]].append(answer)
        self.usage(turn)
        self.complete(turn, "completed")

    def complete(self, turn, status, error=None):
        self.running.pop(turn, None)
        self.note("turn/completed", turn, turn={"id": turn, "items": [], "status": status, "error": error})


class McpServer(Codex):
    def greet(self, call):
        self.send(jsonrpc="2.0", id=call, result={"serverInfo": {"name": "fake", "version": "0.153.4"}})

    def event(self, call, kind, **fields):
        params = {"_meta": {"requestId": call}, "id": f"turn-{call}", "msg": {"type": kind, **fields}}
        self.send(jsonrpc="2.0", method="codex/event", params=params)

    def result(self, call, text, thread=None, error=False):
        result = {"content": [{"type": "text", "text": text}]}
        if thread:
            result["structuredContent"] = {"threadId": thread, "content": text}
        if error:
            result["isError"] = True
        self.send(jsonrpc="2.0", id=call, result=result)

    def on_notifications_cancelled(self, _, params):
        call = params["requestId"]
        if call in self.running:
            del self.running[call]
            self.event(call, "turn_aborted", reason="interrupted")

    def on_tools_call(self, call, params):
        given = params["arguments"]
        if params["name"] == "codex-reply":
            thread = given["threadId"]
            if thread not in self.threads or "forget" in self.scenario:
                return self.result(call, f"Session not found for thread_id: {thread}", error=True)
        else:
            thread = self.new_id("thread")
            self.threads[thread] = []
            self.event(call, "session_configured", session_id=thread, model=given.get("model", "default-model"))
        return self.turn(call, thread, given["prompt"])

    def turn(self, call, thread, text):
        words = dict(re.findall(r"\[\[(\w+)(?: (\d+))?\]\]", text))
        self.threads[thread].append(text)
        if "die" in words:
            self.die()
        self.event(call, "task_started", turn_id=f"turn-{call}")
        if "garbage" in words:
            self.raw("not json")
            self.raw("{not json either")
            self.raw('{"jsonrpc": "2.0", "method": "codex/event", "params": {"msg": {"type": "turn_aborted"}}}')
            self.raw('{"jsonrpc": "2.0", "method": "codex/event", "params": {"_meta": {"requestId": "%d"}}}' % call)
        if "wait" in words:
            self.running[call] = None
            return None
        if "deaf" in words:
            return None
        if "fail" in words:
            info = {"response_too_many_failed_attempts": {"http_status_code": 429}}
            self.event(call, "error", message="exceeded retry limit, last status: 429 Too Many Requests", codex_error_info=info)
            return self.result(call, "exceeded retry limit, last status: 429 Too Many Requests", thread, True)
        if "ask" in words:
            self.ask(lambda decided: self.speak(call, thread, decided))
            for number, method in ((0, "elicitation/create"), ("x", "elicitation/create"), (1, "ping"), (2, "new")):
                self.send(jsonrpc="2.0", id=number, method=method, params={})
            return None
        if "propose" in words:
            return self.ask_owner(call, thread)
        if "huge" in words:
            self.event(call, "item_completed", item={"type": "CommandExecution", "output": "x" * int(words["huge"])})
        answer = "a\0b\\u0000c\0" if "nul" in words else self.describe(thread)
        return self.speak(call, thread, answer, int(words.get("deltas") or 2))

    def ask_owner(self, call, thread):
        def request(number, kind, of=call, **params):
            more = {f"codex_{name}": value for name, value in params.items()}
            more.update(message="May it?", codex_elicitation=kind, codex_mcp_tool_call_id=str(of))
            self.send(jsonrpc="2.0", id=number, method="elicitation/create", params=more)

        self.ask(lambda decided: self.speak(call, thread, decided))
        moved = {"type": "update", "unified_diff": "@@", "move_path": "/w/b.txt"}
        request(0, "patch-approval", changes={"/w/a.txt": moved}, reason="so that it works")
        request("x", "exec-approval", command=["sh", "-c", "echo 'a b' $HOME", ""], cwd="/w")
        request(1, "exec-approval", of=4711, command=["of another call"])
        request(2, "new-approval")

    def speak(self, call, thread, answer, deltas=2):
        size = max(1, -(-len(answer) // deltas))
        for at in range(0, len(answer), size):
            self.event(call, "agent_message_content_delta", delta=answer[at : at + size])
            if "duplicate" in self.scenario:
                self.event(call, "agent_message_delta", delta=answer[at : at + size])
        self.event(call, "item_completed", item={"type": "Reasoning", "id": "r"})
        self.event(call, "agent_message", message=answer)
        self.threads[thread].append(answer)
        tokens = 10 * len(self.threads[thread])
        usage = {
            "total_token_usage": {"input_tokens": tokens, "cached_input_tokens": 1, "output_tokens": 5},
            "last_token_usage": {"input_tokens": 20, "cached_input_tokens": 1, "output_tokens": 5},
        }
        self.event(call, "token_count", info=None)
        self.event(call, "token_count", info=usage)
        self.event(call, "token_count", info=usage)
        self.result(call, answer, thread)


def main():
    args = sys.argv[1:]
    options = {"--scenario": "", "--log": ""}
    while args and args[0] in options:
        options[args[0]] = args[1]
        args = args[2:]
    scenario, log = options["--scenario"], options["--log"]
    if "--version" in args:
        print("codex-cli 0.169.0")
    elif "--help" in args:
        print(HELP)
    elif "app-server" in args:
        AppServer(scenario, log).run()
    elif "mcp-server" in args:
        McpServer(scenario, log).run()


if __name__ == "__main__":
    main()
