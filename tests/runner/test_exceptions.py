"""An exception of ours or of the machine is missing data; one in reading a reply is the model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.cli.main import main
from emobench.runner import completion
from tests.support.model_server import LOOKUP, Reply, is_user, recording

Answer = Callable[[dict[str, Any]], Reply]
FULL = "Cannot allocate memory"


@pytest.fixture
def converse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return the last record of one conversation against such a server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())

    def run(answer: Answer, *options: str) -> dict[str, Any]:
        with recording(answer) as server:
            arguments = ["--env", "retail", "--model", "m", "--tasks", "0", "--probe", "off"]
            arguments += ["--run-dir", "run", "--model-base-url", server.url]
            code = main([*arguments, *options], command="run")
        record: dict[str, Any] = json.loads(Path("run/cells/0/episodes.jsonl").read_text())
        assert code == (record["outcome"] == "infra_error")
        return record

    return run


def stopping(request: dict[str, Any]) -> Reply:
    """A conversation of one lookup, which its user ends after the first answer."""
    if is_user(request):
        ends = sum(message["role"] == "user" for message in request["messages"]) > 1
        return Reply("###STOP###" if ends else "Hi.")
    looked_up = any(message["role"] == "tool" for message in request["messages"])
    return Reply("Done.") if looked_up else Reply(None, [LOOKUP])


def fail(*_: object, **__: object) -> None:
    raise MemoryError(FULL)


def confuse(*_: object, **__: object) -> None:
    raise TypeError("an error of ours")


@pytest.mark.parametrize(
    "place",
    [
        "agents.tool_calling_agent.message_to_action",
        "envs.base.Env.calculate_reward",
        "envs.retail.tools.find_user_id_by_name_zip.FindUserIdByNameZip.invoke",
        "emobench.runner.completion._note",
        "emobench.llm.client.Answer.json",
        "emobench.runner.injection.VariantMixin._extract_heard",
    ],
)
def test_a_full_memory_is_never_a_reward(
    converse: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    assert converse(stopping)["outcome"] == "failed", "without the fault it is scored"
    package = "" if place.startswith("emobench.") else f"{load_benchmark().package}."
    monkeypatch.setattr(package + place, fail)
    Path("run/cells/0/episodes.jsonl").unlink()
    record = converse(stopping)
    assert (record["outcome"], record["reward"]) == ("infra_error", None)
    assert record["error"] == {"type": "MemoryError", "message": FULL}
    assert "Traceback" in record["info"]["traceback"]
    assert len(record["history"]) == 2, "it was tried again"


@pytest.mark.parametrize(
    "place",
    [
        "envs.base.Env.calculate_reward",
        "emobench.runner.completion._note",
        "emobench.runner.completion._check",
        "emobench.runner.completion.make_transport",
        "emobench.runner.injection.VariantMixin.build_system_prompt",
        "emobench.runner.injection.VariantMixin.step",
    ],
)
def test_an_error_of_ours_is_never_a_reward(
    converse: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Even of the kind that reading a reply raises."""
    package = "" if place.startswith("emobench.") else f"{load_benchmark().package}."
    monkeypatch.setattr(package + place, confuse)
    record = converse(stopping)
    assert (record["outcome"], record["reward"]) == ("infra_error", None)
    assert record["error"]["type"] == "TypeError"
    assert "confuse" in record["info"]["traceback"]


def test_an_error_of_ours_after_a_reply_was_read_is_not_the_replys(
    converse: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verifying user asks twice for one message: the second call is no reading of the first."""
    calls = iter(range(100))
    note = completion._note
    monkeypatch.setattr(
        completion, "_note", lambda *a: note(*a) if next(calls) % 2 == 0 else confuse()
    )
    record = converse(lambda request: Reply("true"), "--user-strategy", "verify")
    assert (record["outcome"], record["reward"]) == ("infra_error", None)


@pytest.mark.parametrize("place", ["reset", "step"])
def test_an_error_after_a_step_is_not_the_replys(
    converse: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """What the benchmark's code does with a step's result is no reading of a reply either."""
    env = load_benchmark().import_module("envs.base").Env
    stock = getattr(env, place)

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        response = stock(*args, **kwargs)
        response.info = None
        return response

    monkeypatch.setattr(env, place, spoilt)
    record = converse(lambda request: Reply("Hm."))
    assert record["error"]["type"] == "AttributeError"
    assert (record["outcome"], record["reward"]) == ("infra_error", None)


@pytest.mark.parametrize(
    ("strategy", "reply"),
    [
        ("tool-calling", Reply(None, [(LOOKUP[0], '{"first_name": ')])),
        ("tool-calling", Reply(None, [(LOOKUP[0], "[]")])),
        ("tool-calling", Reply(None, [(LOOKUP[0], "[" * 5000)])),
        ("act", Reply('{"name": "think"}')),
        ("act", Reply("5")),
        ("act", Reply('{"name": "think", "arguments": 5}')),
        ("act", Reply('{"name": "respond", "arguments": {}}')),
    ],
    ids=str,
)
def test_a_reply_that_the_agent_cannot_read_is_its_models_error(
    converse: Callable[..., dict[str, Any]], strategy: str, reply: Reply
) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        return Reply("Hi.") if is_user(request) else reply

    record = converse(answer, "--agent-strategy", strategy)
    assert (record["outcome"], record["reward"]) == ("agent_error", 0.0)
    assert "Traceback" in record["info"]["traceback"], "as stock keeps it"


@pytest.mark.parametrize(
    ("content", "error"), [(5, ("agent_error", "assistant:rejected")), ("5", None)]
)
def test_words_that_no_server_takes_are_the_agents_error(
    converse: Callable[..., dict[str, Any]], content: object, error: tuple[str, str] | None
) -> None:
    """Where they are text, the same refusal says nothing of the agent."""

    def answer(request: dict[str, Any]) -> Reply:
        if not is_user(request):
            return Reply(json.dumps({"name": "respond", "arguments": {"content": content}}))
        if len(request["messages"]) == 2:
            return Reply("Hi.")
        return Reply(status=400, error="Input should be a valid string")

    record = converse(answer, "--agent-strategy", "act")
    assert (record["outcome"], record["error"]["type"]) == (error or ("infra_error", "user:infra"))


def test_a_user_whose_reply_cannot_be_read_is_flagged(
    converse: Callable[..., dict[str, Any]],
) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        if not is_user(request):
            return Reply("Hello.")
        ends = sum(message["role"] == "user" for message in request["messages"]) > 1
        return Reply("no format" if ends else "User Response:\nHi.")

    record = converse(answer, "--user-strategy", "react")
    assert (record["outcome"], record["reward"]) == ("user_error", 0.0)
    assert record["steps"] == 1
