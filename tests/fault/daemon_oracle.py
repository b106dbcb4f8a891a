"""Clients that load a daemon until it dies, and know afterwards what must be there."""

import http.client
import json
import random
import re
import threading

KEEP_ALIVE_ERRORS = (OSError, http.client.HTTPException)


class Conversation:
    """What its one client knows of it."""

    def __init__(self, cid):
        self.cid = cid
        self.pairs = []  # (prompt, response) of acknowledged turns, in order
        self.accepted = {}  # prompt → turn id of 202 answers
        self.unsure = []  # prompts sent whose answer never came
        self.touched = True


class Client(threading.Thread):
    """Keeps one connection busy until the daemon is gone. Its conversations are its own."""

    def __init__(self, number, seed):
        super().__init__()
        self.number, self.rng = number, random.Random(seed)
        self.address = self.connection = None
        self.conversations, self.lost_creates, self.keyed = [], [], []
        self.problems, self.sent = [], 0

    def again(self, address):
        """A thread for the next life, with the same memory."""
        other = Client(self.number, self.rng.random())
        other.__dict__.update({name: value for name, value in self.__dict__.items() if name in
                               ("conversations", "lost_creates", "keyed", "problems", "sent")})
        other.address = address
        return other

    def run(self):
        self.connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            while True:
                self.step()
        except KEEP_ALIVE_ERRORS:
            pass  # it was killed
        except Exception as problem:  # pylint: disable=broad-except
            self.problems.append(repr(problem))
        finally:
            self.connection.close()

    def request(self, path, body, headers):
        headers = {"Content-Type": "application/json", **headers}
        self.connection.request("POST", path, json.dumps(body), headers)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def prompt(self):
        self.sent += 1
        slow = f" [[delay {self.rng.randint(1, 60)}]]" if self.rng.random() < 0.3 else ""
        return f"<{self.number}-{self.sent}> {'x' * self.rng.choice([0, 10, 3000])}{slow}"

    def step(self):
        prompt, headers = self.prompt(), {}
        if self.rng.random() < 0.3:
            headers["Idempotency-Key"] = f"key-{self.number}-{self.sent}"
        if len(self.conversations) < 3 or self.rng.random() < 0.15:
            self.create(prompt, headers)
        else:
            self.go_on(self.rng.choice(self.conversations[-12:]), prompt, headers)

    def create(self, prompt, headers):
        body = {"prompt": prompt}
        self.lost_creates.append(prompt)
        self.keyed.append(("/api/codex/session", body, headers, None))
        status, reply = self.request("/api/codex/session", body, headers)
        self.keyed.pop()
        assert status == 200, f"{status} {reply}"
        self.lost_creates.pop()
        self.conversations.append(Conversation(reply["conversationId"]))
        self.answered(self.conversations[-1], prompt, reply)

    def go_on(self, conversation, prompt, headers):
        body = {"prompt": prompt, "conversationId": conversation.cid}
        conversation.touched = True
        if not headers and self.rng.random() < 0.2:
            headers = {"Prefer": "respond-async"}
        conversation.unsure.append(prompt)
        self.keyed.append(("/api/codex/continue", body, headers, conversation))
        status, reply = self.request("/api/codex/continue", body, headers)
        self.keyed.pop()
        conversation.unsure.pop()
        if status == 202:
            conversation.accepted[prompt] = reply["turnId"]
        elif status != 409 or not conversation.accepted:  # an accepted turn may still run
            assert status == 200, f"{status} {reply}"
            self.answered(conversation, prompt, reply)

    @staticmethod
    def answered(conversation, prompt, reply):
        found = re.match(r"echo (\d+): ", reply["response"])
        assert found and reply["response"].endswith(prompt[:200]), f"a wrong answer: {reply['response']!r}"
        known = 2 * len(conversation.pairs) + 1
        assert int(found.group(1)) >= known, f"Codex was told of {found.group(1)} messages of at least {known}"
        conversation.pairs.append((prompt, reply["response"]))


def check_history(daemon, conversation):
    """One conversation against what its client knows."""
    messages = daemon.history(conversation.cid)
    pending, pairs, outcomes = None, [], {}
    for kind, content in messages:
        if kind == "user":
            assert pending is None, f"a prompt on top of an unanswered one: {messages}"
            pending = content
        elif kind == "assistant":
            pairs.append((pending, content))
            outcomes[pending], pending = "answered", None
        else:
            assert kind == "error", f"an unexpected {kind}"
            outcomes[pending], pending = "interrupted", None
    assert pending is None, f"neither answered nor interrupted: {pending!r}"
    prompts = [content for kind, content in messages if kind == "user"]
    assert len(prompts) == len(set(prompts)), "a prompt is there twice"
    known = {prompt for prompt, _ in conversation.pairs}
    assert [pair for pair in pairs if pair[0] in known] == conversation.pairs, "acknowledged turns are missing or changed"
    others = set(prompts) - known
    assert others <= set(conversation.accepted) | set(conversation.unsure), f"nobody asked for {others}"
    for prompt, turn in conversation.accepted.items():
        assert prompt in outcomes, f"accepted with 202, and lost: {prompt!r}"
        status = daemon.turn(turn)["status"]
        assert status == ("completed" if outcomes[prompt] == "answered" else "interrupted"), f"{turn} is {status}"


def retry_keyed(daemon, client):
    """What has a key may be asked again, and never happens twice."""
    for path, body, headers, conversation in client.keyed:
        if "Idempotency-Key" not in headers:
            continue
        reply = daemon.post(path, body, headers=headers)
        if reply.status == 409:
            assert reply["code"] == "turn_interrupted", reply
        else:
            assert reply.status == 200, reply
            if conversation is None:
                client.lost_creates.remove(body["prompt"])
                conversation = Conversation(reply["conversationId"])
                client.conversations.append(conversation)
            else:
                conversation.unsure.remove(body["prompt"])
            conversation.pairs.append((body["prompt"], reply["response"]))
    client.keyed.clear()


def check_after_restart(daemon, clients):
    assert daemon.stats()["turns"]["running"] == 0
    for client in clients:
        assert not client.problems, f"client {client.number}: {client.problems}"
        for conversation in client.conversations:
            if conversation.touched:
                check_history(daemon, conversation)
                conversation.touched = False
        retry_keyed(daemon, client)


def check_all(daemon, clients):
    """Every session of the daemon: known to a client, or a create whose answer never came; none twice."""
    known = {conversation.cid: conversation for client in clients for conversation in client.conversations}
    lost_creates = [prompt for client in clients for prompt in client.lost_creates]
    seen, cursor = set(), ""
    while cursor is not None:
        page = daemon.expect(200, daemon.get(f"/api/codex/sessions?limit=500{cursor}"))
        for session in page["sessions"]:
            cid = session["conversationId"]
            assert cid not in seen, f"listed twice: {cid}"
            seen.add(cid)
            if cid not in known:
                first = daemon.history(cid)[0]
                assert first[1] in lost_creates, f"nobody asked for {first}"
                lost_creates.remove(first[1])
        cursor = f"&cursor={page['nextCursor']}" if page.get("nextCursor") else None
    assert set(known) <= seen, f"sessions are missing: {set(known) - seen}"
    for conversation in known.values():
        check_history(daemon, conversation)


def make_clients(count):
    return [Client(number, number) for number in range(count)]


def start_clients(daemon, clients):
    """The same clients for the daemon's next life."""
    clients = [client.again(daemon.address) for client in clients]
    for client in clients:
        client.start()
    return clients


def join_clients(clients):
    for client in clients:
        client.join()


def acknowledged(clients):
    return sum(len(conversation.pairs) for client in clients for conversation in client.conversations)
