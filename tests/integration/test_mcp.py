"""MCP over HTTP: real daemon, real Codex."""

import http.client
import json

import pytest
from support.mcp_client import SESSIONS, STATELESS, McpClient, Stream
from support.process import status_kb, wait_until

EVERY_REVISION = (*SESSIONS, STATELESS)


def client_of(daemon, revision="2025-11-25", **options):
    client = McpClient(daemon.address, revision, **options)
    return client if revision == STATELESS else client.initialize()


def structured(answer):
    """The structured result, which the text repeats."""
    result = answer.result
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
    return result["structuredContent"]


@pytest.mark.parametrize("revision", EVERY_REVISION)
def test_a_conversation_goes_on_after_a_restart(daemon, revision):
    client = client_of(daemon, revision)
    first = structured(client.call("codex", {"prompt": "one"}))
    assert "You said: \"one\"" in first["content"]
    daemon.restart()
    client = client_of(daemon, revision)
    for name in ("threadId", "conversationId", "sessionId"):
        second = structured(client.call("codex-reply", {"prompt": name, name: first["threadId"]}))
        assert second["threadId"] == first["threadId"]
        assert f"You said: \"{name}\"" in second["content"] and "Before: " in second["content"]


@pytest.mark.parametrize("revision", EVERY_REVISION)
def test_progress_is_told_to_who_asked_for_it(daemon, revision):
    client = client_of(daemon, revision)
    got = client.call("codex", {"prompt": "[[deltas 4 20]]"}, meta={"progressToken": "p"})
    told = got.notes("notifications/progress")
    assert len(told) >= 4 and {note["progressToken"] for note in told} == {"p"}
    numbers = [note["progress"] for note in told]
    assert numbers == sorted(set(numbers)), "progress must grow"
    assert got.messages[-1] == got.response
    quiet = client.call("codex", {"prompt": "[[deltas 4 20]]"})
    assert quiet.notes("notifications/progress") == []


def is_running(daemon):
    return daemon.stats()["turns"]["running"] == 1


def has_ended(daemon, status):
    return daemon.stats()["turns"]["running"] == 0 and daemon.stats()["turns"][status] == 1


@pytest.mark.parametrize("revision", SESSIONS)
def test_a_cancelled_call_stops_codex_and_is_not_answered(daemon, revision):
    client = client_of(daemon, revision)
    stream = client.stream("tools/call", {"name": "codex", "arguments": {"prompt": "[[stall]]"}}, id="c-1")
    wait_until(lambda: is_running(daemon), "the turn runs", 10)
    assert client.notify("notifications/cancelled", {"requestId": "unknown"}).status == 202
    assert is_running(daemon)
    assert client.notify("notifications/cancelled", {"requestId": "c-1"}).status == 202
    assert list(stream.messages()) == []
    wait_until(lambda: has_ended(daemon, "cancelled"), "the turn is cancelled", 10)
    stream.close()


def test_who_goes_away_from_a_session_finds_the_answer_later(daemon):
    client = client_of(daemon)
    stream = client.stream("tools/call", {"name": "codex", "arguments": {"prompt": "[[delay 1500]]"}}, id=7)
    event, data = next(stream.events())
    assert event and data == ""
    assert stream.retry == 1000, "how soon to come back"
    assert stream.response.headers["X-Accel-Buffering"] == "no"
    stream.close()
    got = client.send("GET", headers={"Last-Event-ID": event}, accept="text/event-stream")
    assert got.status == 200 and got.response["id"] == 7
    thread = structured(got)["threadId"]
    assert client.send("GET", headers={"Last-Event-ID": event[:-1]}, accept="text/event-stream").status == 404
    other = client_of(daemon)
    assert other.send("GET", headers={"Last-Event-ID": event}, accept="text/event-stream").status == 404
    client.address = daemon.restart().address
    again = client.send("GET", headers={"Last-Event-ID": event}, accept="text/event-stream")
    assert again.status == 200 and structured(again)["threadId"] == thread
    assert client.request("ping").status == 404, "the session ended with the daemon"


def test_without_sessions_who_goes_away_has_cancelled(daemon):
    client = client_of(daemon, STATELESS)
    message = {"name": "codex", "arguments": {"prompt": "[[deltas 100 100]]"}, "_meta": {"progressToken": 1}}
    stream = client.stream("tools/call", message)
    next(stream.events())
    stream.close()
    wait_until(lambda: has_ended(daemon, "cancelled"), "the turn is cancelled", 10)


def test_an_answer_that_was_given_is_given_again_and_cannot_be_cancelled(daemon):
    """A client may not have heard the end of a stream, or cancel what is over."""
    client = client_of(daemon)
    message = {"name": "codex", "arguments": {"prompt": "[[delay 300]]"}}
    first = client.request("tools/call", message, id="over")
    for _ in range(2):
        again = client.send("GET", headers={"Last-Event-ID": first.ids[0]}, accept="text/event-stream")
        assert again.response == first.response
    assert client.notify("notifications/cancelled", {"requestId": "over"}).status == 202
    thread = structured(first)["threadId"]
    assert structured(client.call("codex-reply", {"prompt": "x", "threadId": thread}))["threadId"] == thread
    assert daemon.stats()["turns"]["completed"] == 2


# ---- whole conversations ----


def test_conversations_are_listed_found_read_forked_and_cancelled(daemon):
    client = client_of(daemon)
    titled = daemon.ask("nothing to see", title="Ärger mit dem Zoll")["conversationId"]
    first = structured(client.call("codex", {"prompt": "[[echo]] 100% Schnee_mann \"quoted\" ünd mehr"}))["threadId"]
    second = structured(client.call("codex", {"prompt": "other"}))["threadId"]

    listed = structured(client.call("codex-sessions"))
    assert [one["threadId"] for one in listed["sessions"]] == [second, first, titled]
    assert "nextCursor" not in listed
    one = listed["sessions"][0]
    assert one["status"] == "active" and one["snippet"] == "other" and one["host"] and one["messageCount"] == 2
    assert 0 <= one["ageSeconds"] < 60

    def found(query):
        return [hit["threadId"] for hit in structured(client.call("codex-sessions", {"query": query}))["sessions"]]

    assert found("schnee_mann") == [first] and found("schneeXmann") == []
    assert found("100%") == [first] and found("\"quoted\" ünd") == [first]
    assert found("ärger") == [] and found("Ärger MIT") == [titled]
    assert found("timestamp") == [], "only contents are searched"
    page = structured(client.call("codex-sessions", {"limit": 2}))
    assert [one["threadId"] for one in page["sessions"]] == [second, first]
    page = structured(client.call("codex-sessions", {"limit": 2, "cursor": page["nextCursor"]}))
    assert [one["threadId"] for one in page["sessions"]] == [titled]
    assert client.call("codex-sessions", {"cursor": "x"}).error["code"] == -32602

    history = structured(client.call("codex-history", {"threadId": second}))
    assert [message["type"] for message in history["messages"]] == ["user", "assistant"]
    last = structured(client.call("codex-history", {"threadId": second, "limit": 1}))
    assert last["messages"] == history["messages"][1:] and last["messageCount"] == 2
    assert structured(client.call("codex-history", {"threadId": second, "before": last["nextBefore"]}))["messages"] == (
        history["messages"][:1])

    fork = structured(client.call("codex-fork", {"threadId": second}))
    assert fork["forkedFrom"] == second and fork["messageCount"] == 2 and fork["threadId"] != second
    went_on = structured(client.call("codex-reply", {"threadId": fork["threadId"], "prompt": "more"}))
    assert "Before: \"other\"" in went_on["content"]
    assert len(daemon.history(second)) == 2, "the other one is as it was"
    sid = daemon.session(fork["threadId"])["sessionId"]
    daemon.expect(200, daemon.request("DELETE", f"/api/codex/session/{sid}"))
    assert len(daemon.history(second)) == 2
    assert "Before: \"other\"" in structured(client.call("codex-reply", {"threadId": second, "prompt": "x"}))["content"]

    idle = client.call("codex-cancel", {"threadId": second}).result
    assert idle["isError"] and "No turn" in idle["content"][0]["text"]
    stream = client.stream("tools/call", {"name": "codex", "arguments": {"prompt": "[[stall]]"}})
    next(stream.events())
    running = structured(client.call("codex-sessions", {"limit": 1}))["sessions"][0]
    assert running["status"] == "running"
    assert structured(client.call("codex-cancel", {"threadId": running["threadId"]}))["threadId"] == running["threadId"]
    answer = [message for message in stream.messages()][-1]["result"]
    assert answer["isError"] and answer["structuredContent"]["threadId"] == running["threadId"]
    stream.close()


@pytest.mark.parametrize("revision", EVERY_REVISION)
def test_conversations_are_resources_and_a_prompt(daemon, revision):
    client = client_of(daemon, revision)
    thread = structured(client.call("codex", {"prompt": "hello"}))["threadId"]
    listed = client.request("resources/list").result["resources"]
    uri = f"codex-session://{thread}"
    assert [one["uri"] for one in listed] == [uri] and listed[0]["title"] == "hello"
    content = client.request("resources/read", {"uri": uri}).result["contents"][0]
    assert content["uri"] == uri
    read = client.request("resources/read", {"uri": uri}).result
    assert ({"ttlMs", "cacheScope", "resultType", "_meta"} <= set(read)) == (revision == STATELESS)
    assert [message["type"] for message in json.loads(content["text"])["messages"]] == ["user", "assistant"]
    template = client.request("resources/templates/list").result["resourceTemplates"]
    assert [one["uriTemplate"] for one in template] == ["codex-session://{id}"]
    for unknown in ("codex-session://nobody", "file:///etc/passwd"):
        error = client.request("resources/read", {"uri": unknown}).error
        assert error["code"] == (-32602 if revision == STATELESS else -32002) and error["data"]["uri"] == unknown
    prompt = client.request("prompts/get", {"name": "session", "arguments": {"threadId": thread}}).result
    assert [message["role"] for message in prompt["messages"]] == ["user", "assistant"]
    assert client.request("prompts/get", {"name": "session"}).error["code"] == -32602
    ref = {"type": "ref/resource", "uri": "codex-session://{id}"}
    values = client.request("completion/complete", {"ref": ref, "argument": {"name": "id", "value": thread[:4]}})
    assert values.result["completion"]["values"] == [thread]


@pytest.mark.parametrize("revision", EVERY_REVISION)
def test_tools_keep_their_order(daemon, revision):
    listed = [client_of(daemon, revision).request("tools/list").result["tools"] for _ in range(3)]
    assert listed[0] == listed[1] == listed[2]


def test_who_watches_a_conversation_is_told_of_its_news(daemon):
    client = client_of(daemon)
    thread, other = (structured(client.call("codex", {"prompt": name}))["threadId"] for name in ("one", "two"))
    uri = f"codex-session://{thread}"
    assert client.request("resources/subscribe", {"uri": uri}).result == {}
    connection, response = client.open("GET", accept="text/event-stream")
    assert response.status == 200
    stream = Stream(connection, response)
    modern = McpClient(daemon.address, STATELESS)
    listen = modern.stream("subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}}, id="s")
    acknowledged = next(listen.messages())
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["notifications"] == {"resourceSubscriptions": [uri]}
    daemon.go_on(other, "not this")
    daemon.go_on(thread, "this")
    for told in (next(stream.messages()), next(listen.messages())):
        assert (told["method"], told["params"]["uri"]) == ("notifications/resources/updated", uri)
    assert told["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": "s"}
    again, _ = client.open("GET", accept="text/event-stream")
    assert [message["params"]["uri"] for message in stream.messages()] in ([], [uri]), "the newer stream took over"
    again.close()
    stream.close()
    listen.close()


# ---- tasks ----


def task_of(client, prompt):
    got = client.request("tools/call", {"name": "codex", "arguments": {"prompt": prompt}, "task": {"ttl": 60_000}})
    task = got.result["task"]
    assert task["status"] == "working" and task["pollInterval"] > 0 and task["createdAt"] and task["ttl"] > 0
    return task["taskId"]


def status_of(client, task):
    return client.request("tasks/get", {"taskId": task}).result["status"]


def test_a_task_has_an_id_at_once_and_is_kept_over_restarts(daemon):
    client = client_of(daemon)
    assert client.server["capabilities"]["tasks"] == {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
    tools = {tool["name"]: tool.get("execution") for tool in client.request("tools/list").result["tools"]}
    assert tools["codex"] == tools["codex-reply"] == {"taskSupport": "optional"} and tools["codex-history"] is None
    task = task_of(client, "[[delay 700]]")
    assert status_of(client, task) == "working"
    got = client.request("tasks/result", {"taskId": task})
    assert got.result["_meta"] == {"io.modelcontextprotocol/related-task": {"taskId": task}}
    thread = structured(got)["threadId"]
    running = task_of(client, "[[stall]]")
    listed = client.request("tasks/list").result["tasks"]
    assert [(one["taskId"], one["status"]) for one in listed] == [(running, "working"), (task, "completed")]
    daemon.restart()
    client = client_of(daemon)
    assert status_of(client, task) == "completed"
    assert structured(client.request("tasks/result", {"taskId": task}))["threadId"] == thread
    lost = client.request("tasks/get", {"taskId": running}).result
    assert lost["status"] == "failed" and lost["statusMessage"]
    assert client.request("tasks/result", {"taskId": running}).result["isError"]


def test_a_task_is_cancelled_but_not_by_who_only_waits_for_it(daemon):
    client = client_of(daemon)
    task = task_of(client, "[[stall]]")
    waiting = client.stream("tasks/result", {"taskId": task}, id="w")
    assert client.notify("notifications/cancelled", {"requestId": "w"}).status == 202
    assert list(waiting.messages()) == []
    assert status_of(client, task) == "working"
    assert client.request("tasks/cancel", {"taskId": task}).result["status"] == "cancelled"
    assert client.request("tasks/cancel", {"taskId": task}).error["code"] == -32602
    for unknown in ("nobody", "00000000-0000-7000-8000-000000000000"):
        assert client.request("tasks/get", {"taskId": unknown}).error["code"] == -32602
    plain = client.request("tools/call", {"name": "codex-sessions", "task": {}})
    assert plain.error["code"] == -32601, "a tool that cannot be a task"


def test_before_tasks_were_defined_they_mean_nothing(daemon):
    client = client_of(daemon, "2025-06-18")
    assert client.request("tasks/list").error["code"] == -32601
    got = client.request("tools/call", {"name": "codex", "arguments": {"prompt": "x"}, "task": {}})
    assert structured(got)["content"], "the member means nothing there"


# ---- tasks as an extension of the stateless revision ----

TASKS = "io.modelcontextprotocol/tasks"


def declaring(daemon, **more):
    return McpClient(daemon.address, STATELESS, capabilities={"extensions": {TASKS: {}}, **more})


def begun(client, prompt, tool="codex", **arguments):
    """A call becomes a task without being asked to."""
    result = client.call(tool, {"prompt": prompt, **arguments}).result
    assert result["resultType"] == "task" and result["status"] == "working" and result["createdAt"]
    assert result["ttlMs"] > 0 and result["pollIntervalMs"] > 0
    assert not {"task", "ttl", "result", "requestState", "inputRequests"} & set(result)
    return result["taskId"]


def task_at(client, task):
    result = client.request("tasks/get", {"taskId": task}).result
    assert result["resultType"] == "complete" and result["taskId"] == task
    return result


def settled(client, task, seconds=20):
    """The task when Codex has ended it, or waits for its user."""
    def moved_on():
        now = task_at(client, task)
        return now if now["status"] != "working" else None

    return wait_until(moved_on, "the task moved on", seconds)


def test_who_declares_tasks_gets_an_id_at_once_that_holds_over_restarts(daemon):
    client = declaring(daemon)
    capabilities = client.request("server/discover").result["capabilities"]
    assert capabilities["extensions"] == {TASKS: {}} and "tasks" not in capabilities
    task = begun(client, "[[delay 700]]")
    assert "result" not in task_at(client, task)
    done = settled(client, task)
    assert done["status"] == "completed"
    thread = done["result"]["structuredContent"]["threadId"]
    assert json.loads(done["result"]["content"][0]["text"]) == done["result"]["structuredContent"]
    # Whoever hears of the end may go on at once.
    assert settled(client, begun(client, "more", "codex-reply", threadId=thread))["status"] == "completed"
    lost = begun(client, "[[stall]]")
    client.address = daemon.restart().address
    assert task_at(client, task)["result"] == done["result"]
    told = task_at(client, lost)
    assert told["status"] == "completed" and told["result"]["isError"] and told["statusMessage"]
    assert client.call("codex-sessions").result["resultType"] == "complete", "what is quick is no task"


def test_a_task_of_the_extension_is_cancelled_by_a_word_and_by_nothing_else(daemon):
    client = declaring(daemon)
    task = begun(client, "[[stall]]")
    # The connection of the call is long gone.
    assert task_at(client, task)["status"] == "working"
    for _ in range(2):
        assert set(client.request("tasks/cancel", {"taskId": task}).result) == {"resultType", "_meta"}
    told = settled(client, task)
    assert told["status"] == "cancelled" and "result" not in told
    for method, more in (("get", {}), ("cancel", {}), ("update", {"inputResponses": {}})):
        params = {"taskId": "00000000-0000-7000-8000-000000000000", **more}
        got = client.request("tasks/" + method, params)
        assert (got.status, got.error["code"]) == (200, -32602)


def test_tasks_are_for_who_declares_them(daemon):
    plain, client = McpClient(daemon.address, STATELESS), declaring(daemon)
    assert structured(plain.call("codex", {"prompt": "x"}))["content"]
    task = begun(client, "hello")
    missing = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
    for method, params in (
        ("tasks/get", {"taskId": task}), ("tasks/cancel", {"taskId": task}),
        ("tasks/update", {"taskId": task, "inputResponses": {}}),
        ("subscriptions/listen", {"notifications": {"taskIds": [task]}}),
    ):
        got = plain.request(method, params)
        assert (got.status, got.error["code"], got.error["data"]) == (400, -32021, missing), method
    for method in ("tasks/result", "tasks/list"):
        got = client.request(method, {"taskId": task})
        assert (got.status, got.error["code"]) == (404, -32601), "of the revision before"
    got = client.request("tasks/get", {"taskId": task}, headers={"Mcp-Name": "other"})
    assert (got.status, got.error["code"]) == (400, -32020)


def test_who_listens_for_a_task_is_told_how_it_stands_and_how_it_ends(daemon):
    client = declaring(daemon)
    done, running = begun(client, "hello"), begun(client, "[[stall]]")
    settled(client, done)
    stream = client.stream("subscriptions/listen", {"notifications": {"taskIds": [done, "nobody", running]}}, id="s")
    messages = stream.messages()
    assert next(messages)["params"]["notifications"] == {"taskIds": [done, running]}, "as far as there are such"

    def told():
        message = next(messages)
        assert message["method"] == "notifications/tasks"
        assert message["params"].pop("_meta") == {"io.modelcontextprotocol/subscriptionId": "s"}
        return message["params"]

    def got(task):
        return {key: value for key, value in task_at(client, task).items() if key not in ("resultType", "_meta")}

    assert told() == got(done) and told() == got(running)
    begun(client, "of no interest")
    client.request("tasks/cancel", {"taskId": running})
    assert (end := told())["status"] == "cancelled" and end == got(running)
    stream.close()


# ---- approvals ----

ALL = ["--sandbox-ceiling", "danger-full-access"]


def asking(cwd, prompt):
    arguments = {"prompt": prompt, "cwd": str(cwd), "sandbox": "read-only", "approval-policy": "on-request"}
    return {"name": "codex", "arguments": arguments}


@pytest.fixture
def cwd(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("action", ["accept", "decline"])
def test_what_codex_asks_is_asked_of_the_client(make_daemon, cwd, action):
    daemon = make_daemon(args=ALL).start()
    client = client_of(daemon, capabilities={"elicitation": {}})
    stream = client.stream("tools/call", asking(cwd, "[[escalate touch yes.txt]]"))
    messages = stream.messages()
    question = next(message for message in messages if message.get("method") == "elicitation/create")
    assert "touch yes.txt" in question["params"]["message"]
    assert not (cwd / "yes.txt").exists()
    reply = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": action, "content": {}}}
    assert client.post(reply).status == 202
    assert client.post({**reply, "result": {"action": "accept"}}).status == 202, "too late, and nothing comes of it"
    assert [message["result"] for message in messages if "result" in message][0]["structuredContent"]["threadId"]
    assert (cwd / "yes.txt").exists() == (action == "accept")
    stream.close()


def test_a_question_that_is_answered_elsewhere_is_taken_back(make_daemon, cwd):
    daemon = make_daemon(args=ALL).start()
    client = client_of(daemon, capabilities={"elicitation": {}})
    stream = client.stream("tools/call", asking(cwd, "[[escalate touch yes.txt]]"))
    messages = stream.messages()
    question = next(message for message in messages if message.get("method") == "elicitation/create")
    task = client.request("tasks/list").result["tasks"][0]["taskId"]
    (asked,) = daemon.turn(task)["approvals"]
    decision = {"approvalId": asked["approvalId"], "decision": "approve"}
    daemon.expect(200, daemon.post(f"/api/codex/turn/{task}/approval", decision))
    rest = list(messages)
    taken_back = [message["params"] for message in rest if message.get("method") == "notifications/cancelled"]
    assert [note["requestId"] for note in taken_back] == [question["id"]]
    assert "result" in rest[-1] and (cwd / "yes.txt").exists()
    stream.close()


@pytest.mark.parametrize("action", ["accept", "decline"])
def test_without_sessions_the_result_is_the_question(make_daemon, cwd, action):
    daemon = make_daemon(args=ALL).start()
    client = McpClient(daemon.address, STATELESS, capabilities={"elicitation": {}})
    call = asking(cwd, "[[escalate touch yes.txt]]")
    first = client.request("tools/call", call).result
    assert first["resultType"] == "input_required"
    ((key, question),) = first["inputRequests"].items()
    assert question["method"] == "elicitation/create" and "touch yes.txt" in question["params"]["message"]
    forged = client.request("tools/call", {**call, "requestState": first["requestState"] + "0"})
    assert forged.error["code"] == -32602
    again = client.request("tools/call", {**call, "requestState": first["requestState"]}).result
    assert again["inputRequests"] == first["inputRequests"], "what is not answered is asked again"
    answers = {"inputResponses": {key: {"action": action, "content": {}}}, "requestState": first["requestState"]}
    done = client.request("tools/call", {**call, **answers}).result
    assert done["resultType"] == "complete" and done["structuredContent"]["threadId"]
    assert (cwd / "yes.txt").exists() == (action == "accept")


@pytest.mark.parametrize("action", ["accept", "decline"])
def test_a_task_of_the_extension_tells_what_codex_asks(make_daemon, cwd, action):
    daemon = make_daemon(args=ALL).start()
    client = declaring(daemon, elicitation={})
    task = client.request("tools/call", asking(cwd, "[[escalate touch yes.txt]]")).result["taskId"]
    asked = settled(client, task)
    assert asked["status"] == "input_required" and task_at(client, task)["inputRequests"] == asked["inputRequests"]
    assert task_at(declaring(daemon), task)["status"] == "working", "who cannot ask is not asked"
    ((key, question),) = asked["inputRequests"].items()
    assert question["method"] == "elicitation/create" and "touch yes.txt" in question["params"]["message"]

    def update(responses):
        return client.request("tasks/update", {"taskId": task, "inputResponses": responses})

    assert update([]).error["code"] == -32602
    for beside in ({"other": {"action": "accept"}}, {key: 7}, {key: {}}):
        assert set(update(beside).result) == {"resultType", "_meta"}
        assert task_at(client, task)["inputRequests"] == asked["inputRequests"], "no answer to the question"
    update({key: {"action": action, "content": {}}})
    update({key: {"action": "accept"}})  # too late, and nothing comes of it
    done = settled(client, task)
    assert done["status"] == "completed" and done["result"]["structuredContent"]["threadId"]
    assert (cwd / "yes.txt").exists() == (action == "accept")


# ---- the transport ----


def test_sessions_that_are_ended_or_forgotten_leave_no_memory_behind(daemon):
    message = McpClient(daemon.address).message("initialize", {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}})
    connection = http.client.HTTPConnection(*daemon.address)

    def ask(method, body=None, **headers):
        connection.request(method, "/mcp", body and json.dumps(body), {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        response.read()
        return response

    def thousand(end):
        for _ in range(1000):
            began = ask("POST", message)
            assert began.status == 200
            if end:
                assert ask("DELETE", **{"Mcp-Session-Id": began.headers["Mcp-Session-Id"]}).status == 200
        return status_kb(daemon.pid, "VmRSS")

    thousand(end=True)
    before = thousand(end=True)
    assert thousand(end=True) < before + 256
    full = max(thousand(end=False), thousand(end=False))  # beyond the most there may be, the oldest end
    assert full < before + 4096, "each is small"
    assert thousand(end=False) < full + 256
    connection.close()


def leave_during_a_call(client):
    """Ask for JSON alone, as a client does that has no use for streams, and go away."""
    message = client.message("tools/call", {"name": "codex", "arguments": {"prompt": "[[stall]]"}})
    body = json.dumps(message).encode()
    head = {"Accept": "application/json", "Content-Type": "application/json", **client.head(message)}
    if client.session:
        head["Mcp-Session-Id"] = client.session
    connection = http.client.HTTPConnection(*client.address)
    connection.request("POST", "/mcp", body, head)
    return connection


@pytest.mark.parametrize("revision", ["2025-11-25", STATELESS])
def test_a_client_that_takes_json_alone_is_missed_when_it_has_gone(make_daemon, revision):
    daemon = make_daemon(args=["--http-threads", "16"]).start()  # of which 8 may wait for turns
    client = client_of(daemon, revision)
    for running in range(1, 9):
        connection = leave_during_a_call(client)
        wait_until(lambda: daemon.stats()["turns"]["running"] == running, "the turn runs", 10)
        connection.close()
    if revision == STATELESS:
        wait_until(lambda: daemon.stats()["turns"]["cancelled"] == 8, "going away cancels", 10)
    else:
        assert client.call("codex", {"prompt": "x"}).result["isError"], "as many wait as may"
        wait_until(lambda: "isError" not in client.call("codex", {"prompt": "x"}).result, "nobody waits", 20, step=0.2)
        assert daemon.stats()["turns"]["running"] == 8, "the turns go on"


def test_pages_of_other_sites_are_turned_away(daemon):
    client = client_of(daemon)
    ping = client.message("ping")
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{daemon.port}"):
        assert client.post(ping, headers={"Origin": origin}).status == 403
        assert client.send("GET", headers={"Origin": origin}, accept="text/event-stream").status == 403
    assert client.post(ping, headers={"Host": "evil.example"}).status == 403
    assert client.post(ping, headers={"Origin": f"http://127.0.0.1:{daemon.port}"}).status == 200


def test_a_session_id_is_no_credential(daemon):
    client = client_of(daemon)
    ping = client.message("ping")
    assert client.post(ping, headers={"X-Forwarded-For": "10.0.0.1"}).status == 401
    assert client.post(ping, headers={"Authorization": "Bearer " + "0" * 64}).status == 401
    token = (daemon.data_dir / "token").read_text().strip()
    headers = {"X-Forwarded-For": "10.0.0.1", "Authorization": "Bearer " + token}
    assert client.post(ping, headers=headers).status == 200


def test_probes_before_initialize_are_answered_at_once(daemon):
    client = McpClient(daemon.address)
    assert client.send("GET", headers={"mcp-protocol-version": "2024-11-05"}, accept=None).status == 405
    assert client.send("GET", accept="text/event-stream").status == 405
    assert client.send("DELETE").status in (400, 415)
    for path in ("oauth-protected-resource", "oauth-protected-resource/mcp", "openid-configuration"):
        for headers in ({}, {"X-Forwarded-For": "10.0.0.1"}):
            assert daemon.get("/.well-known/" + path, headers=headers).status == 404


def test_what_is_accepted_decides_the_form_of_an_answer(daemon):
    client = client_of(daemon)
    ping = client.message("ping")
    for accept, kind in (
        ("application/json", "application/json"), ("*/*", "application/json"), (None, "application/json"),
        ("text/event-stream", "text/event-stream"), ("text/event-stream, application/json", "application/json"),
    ):
        got = client.post(ping, accept=accept)
        assert got.status == 200 and got.headers["Content-Type"].startswith(kind) and got.result == {}, accept
    assert client.post(ping, accept="text/html").status == 406
    assert client.post(b"{}", headers={"Content-Type": "text/plain"}).status == 415
    only_json = client.call("codex", {"prompt": "[[deltas 2 10]]"}, meta={"progressToken": 1}, accept="application/json")
    assert len(only_json.messages) == 1 and structured(only_json)["content"]
    deep = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":' + b"[" * 2000 + b"]" * 2000 + b"}}"
    refused = client.post(deep)
    assert refused.status == 400 and refused.error["code"] == -32700
