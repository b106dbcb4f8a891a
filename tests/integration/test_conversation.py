"""A conversation outlives its processes: with each engine, on the real Codex."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.context import assert_context

SECRETS = [f"fact {n} is {word}" for n, word in enumerate(
    "ash birch cedar dogwood elm fir ginkgo hazel ivy juniper kapok larch maple neem oak pine quince "
    "rowan spruce teak".split(), 1)]


@pytest.mark.smoke
def test_two_turns_with_a_kill_between_are_one_conversation(make_daemon, model, engine):
    daemon = make_daemon(engine=engine).start()
    first = daemon.ask("my cat is called Momo")
    assert first["success"] is True
    assert first["response"] == 'I saw 1 message (1 from you, 0 from me). You said: "my cat is called Momo".'
    assert first["metadata"]["engine"] == engine

    daemon.kill9()
    daemon.start()
    second = daemon.go_on(first["conversationId"], "what is my cat called?")

    assert second["metadata"]["continued"] is True
    assert second["sessionId"] == first["sessionId"]
    assert_context(model, "my cat is called Momo", first["response"], "what is my cat called?")
    if engine != "mcp":  # there the transcript can only go into the prompt
        assert second["response"].startswith("I saw 3 messages (2 from you, 1 from me).")
    assert daemon.history(first["conversationId"]) == [
        ("user", "my cat is called Momo"),
        ("assistant", first["response"]),
        ("user", "what is my cat called?"),
        ("assistant", second["response"]),
    ]


def test_twenty_turns_with_a_restart_in_the_middle_keep_all_context(make_daemon, model, engine):
    daemon = make_daemon(engine=engine).start()
    conversation = daemon.ask(SECRETS[0])["conversationId"]
    for fact in SECRETS[1:10]:
        daemon.go_on(conversation, fact)
    daemon.restart()
    for fact in SECRETS[10:]:
        answer = daemon.go_on(conversation, fact)["response"]

    assert_context(model, *SECRETS)
    if engine != "mcp":
        assert answer.startswith("I saw 39 messages (20 from you, 19 from me).")
        assert model.conversations[-1].prompts == SECRETS
    else:  # one prompt carried the ten turns before the restart; nine followed it
        assert len(model.conversations[-1].prompts) == 10
    prompts = [content for kind, content in daemon.history(conversation) if kind == "user"]
    assert prompts == SECRETS


def empty(codex_home):
    """All that Codex keeps goes; its configuration stays."""
    for entry in Path(codex_home).iterdir():
        if entry.name == "config.toml":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@pytest.mark.smoke
def test_the_context_comes_back_when_codex_has_lost_its_files(make_daemon, model, codex_home, engine):
    daemon = make_daemon(engine=engine).start()
    first = daemon.ask("the key is under the mat")
    second = daemon.go_on(first["conversationId"], "the door is blue")
    daemon.stop()
    empty(codex_home)
    daemon.start()
    third = daemon.go_on(first["conversationId"], "where is the key?")

    assert_context(
        model, "the key is under the mat", first["response"], "the door is blue", second["response"],
        "where is the key?",
    )
    if engine == "app-server":
        assert third["response"].startswith("I saw 5 messages (3 from you, 2 from me).")
    # And the rebuilt thread carries on by itself.
    daemon.go_on(first["conversationId"], "thank you")
    assert_context(model, "the key is under the mat", "the door is blue", "where is the key?", "thank you")


def test_codex_files_vanishing_under_a_running_daemon_do_no_harm(daemon, model, codex_home):
    first = daemon.ask("the sea is green")
    empty(codex_home)
    daemon.kill9()
    daemon.start()
    second = daemon.go_on(first["conversationId"], "what is green?")
    assert second["response"].startswith("I saw 3 messages (2 from you, 1 from me).")
    assert_context(model, "the sea is green", "what is green?")


def test_thirty_two_conversations_at_once_keep_their_own_context(make_daemon, engine):
    daemon = make_daemon(engine=engine).start()

    def converse(n):
        mine = f"my number is {n:04d}!"
        conversation = daemon.ask(f"{mine} [[delay 300]]", timeoutMs=120_000)["conversationId"]
        answer = daemon.go_on(conversation, "what is my number?", timeoutMs=120_000)["response"]
        return mine, answer, daemon.history(conversation)

    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(converse, range(32)))
    for n, (mine, answer, history) in enumerate(results):
        assert answer.startswith("I saw 3 messages (2 from you, 1 from me).")
        assert mine in answer
        others = [f"{other:04d}!" for other in range(32) if other != n]
        assert not [other for other in others if other in answer]
        assert [kind for kind, _ in history] == ["user", "assistant"] * 2
    assert daemon.stats()["totalActiveSessions"] == 32


def test_a_caller_s_context_reaches_the_model_with_the_first_prompt(daemon, model):
    first = daemon.ask("summarise", context=["the report says 42", "the author is Ada"])
    assert_context(model, "the report says 42", "the author is Ada", "summarise")
    daemon.go_on(first["conversationId"], "again")
    assert_context(model, "the report says 42", "summarise", "again")
    assert [kind for kind, _ in daemon.history(first["sessionId"])][-4:] == [
        "user", "assistant", "user", "assistant",
    ]


TEXTS = {
    "japanese": "こんにちは、世界。『引用』と改行\nも、そのまま届く。",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 \U0001f980 e\u0301 é \u200d \ufeff.",
    "newlines": "one\ntwo\r\n\tthree\n\n\nseven",
    "json": '{"a": "\\u0041 \\\\ \\"quoted\\" </script> \u2028 \u2029"}',
    "control": "bell \x07 escape \x1b[31m delete \x7f.",
}


@pytest.mark.smoke
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_text_goes_through_unchanged(daemon, model, text):
    prompt = f"{text}\n[[echo]]"
    answer = daemon.ask(prompt)
    assert model.conversations[-1].prompt == prompt
    assert answer["response"] == prompt
    assert daemon.history(answer["sessionId"]) == [("user", prompt), ("assistant", prompt)]
    assert daemon.session(answer["sessionId"])["initialPrompt"] == prompt


def test_a_prompt_of_a_megabyte_goes_through_by_each_engine(make_daemon, model, engine):
    daemon = make_daemon(engine=engine).start()
    ending = "\n[[echo]] [[usage]]"
    prompt = ("Ärger 日本 🦀 " * 100_000)[: 1_048_576 - len(ending)] + ending
    answer = daemon.ask(prompt, timeoutMs=60_000)
    assert model.conversations[-1].prompt == prompt
    assert answer["response"] == prompt
    assert daemon.history(answer["sessionId"]) == [("user", prompt), ("assistant", prompt)]


def test_nul_in_a_prompt_is_refused(daemon, model):
    reply = daemon.post("/api/codex/session", {"prompt": "a\0b"})
    assert reply.status == 400 and reply["success"] is False
    assert not model.requests
    assert daemon.stats()["totalActiveSessions"] == 0
