"""The first requests to an engine: what counts as broken, and what is only odd."""

from __future__ import annotations

import json
import shlex
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from emobench.core.plan import load_plan
from emobench.serving import canary
from emobench.serving.canary import Verdict, calls_tools, send_canaries
from emobench.store.endpoints import load_api_key, read_endpoint
from tests.support.model_server import Reply, recording
from tests.support.serving import READY, make_run, supervising, until_state

KEY = "the-key"
REPOSITORY = Path(__file__).parents[2]
ENDPOINT = replace(READY, server="assistant_a", role="assistant", state="starting")
CALL = ("get_order_status", '{"order_id": "W1234567"}')
NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a "
    "chat template if the tokenizer does not define one."
)
NO_PARSER = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'


@dataclass(frozen=True)
class Thought(Reply):
    """A reply of a model that thinks, behind a reasoning parser."""

    def body(self) -> dict[str, Any]:
        data = super().body()
        data["choices"][0]["message"]["reasoning"] = "Hm."
        return data


def verdict_on(
    answer: Callable[[dict[str, Any]], Reply], role: str = "assistant", tools: bool = True
) -> Verdict:
    with recording(answer) as server:
        endpoint = replace(ENDPOINT, url=server.url, role=role)  # type: ignore[arg-type]
        return send_canaries(endpoint, KEY, tools=tools, timeout_s=60)


def talker(
    auto: Reply, required: Reply | None = None, chat: Reply | None = None
) -> Callable[[dict[str, Any]], Reply]:
    """Answers by what is asked of it."""

    def answer(request: dict[str, Any]) -> Reply:
        assert request["temperature"] == 0 and request["max_tokens"] <= 256
        if "tools" not in request:
            return chat or Reply("I am ready.")
        return (required or auto) if request["tool_choice"] == "required" else auto

    return answer


def test_a_model_that_chats_and_calls_is_fine() -> None:
    assert verdict_on(talker(Reply(tool_calls=[CALL]))) == Verdict()
    # A model that asks back is fine as well, as long as it can call.
    assert verdict_on(talker(Reply("Which order?"), Reply(tool_calls=[CALL]))) == Verdict()


def test_only_who_needs_tools_is_asked_for_a_call() -> None:
    with recording(talker(Reply(status=400, error=NO_PARSER))) as server:
        endpoint = replace(ENDPOINT, url=server.url)
        assert send_canaries(endpoint, KEY, tools=False, timeout_s=60) == Verdict()
        assert [request.get("tools") for request in server.requests] == [None]


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (Reply(status=400, error=NO_TEMPLATE), "chat_template", "give chat_template"),
        (Reply(status=400, error="bad things"), "chat", "bad things"),
        (Reply(status=404, error="no model m"), "chat", "another model"),
        (Reply(status=401, error="Unauthorized"), "chat", "refuses its own key"),
        (Reply(status=500, error="Internal Server Error"), "chat", "HTTP 500"),
    ],
)
def test_a_chat_that_is_refused_is_a_failure(
    reply: Reply, kind: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "PAUSE_S", 0.01)
    failure = verdict_on(lambda _: reply).failure
    assert failure is not None
    assert failure.kind == kind
    assert words in failure.format_text()
    assert KEY not in failure.format_text()


def test_tools_without_a_parser_are_a_failure_that_says_what_to_set() -> None:
    failure = verdict_on(talker(Reply(status=400, error=NO_PARSER))).failure
    assert failure is not None
    assert failure.kind == "argument"
    assert "tool_call_parser" in failure.advice
    assert "--enable-auto-tool-choice" in failure.line


def test_a_server_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "PAUSE_S", 0.01)
    statuses = iter([503, 429, 200])

    def answer(_: dict[str, Any]) -> Reply:
        return Reply("I am ready.", status=next(statuses), error="later")

    assert verdict_on(answer, tools=False) == Verdict()


@pytest.mark.parametrize(
    ("auto", "required", "words"),
    [
        (
            Reply('<tool_call>{"name": "get_order_status", "arguments": {}}</tool_call>'),
            Reply(tool_calls=[CALL]),
            "arrive as text",
        ),
        (Reply("No."), Reply("I cannot."), "did not manage a tool call"),
        (Reply("No."), Reply(tool_calls=[("get_order_status", "{}")]), "order_id"),
        (Reply("No."), Reply(tool_calls=[("get_order_status", "{")]), "did not manage"),
        (Reply("No."), Reply(tool_calls=[("other", "{}")]), "did not manage"),
        (Reply("No."), Reply(status=400, error="guided decoding broke"), "guided decoding broke"),
        (Reply(tool_calls=[("get_order_status", '{"order_id": 1}')]), None, "does not fit"),
    ],
)
def test_a_model_that_does_not_manage_a_call_is_a_warning(
    auto: Reply, required: Reply | None, words: str
) -> None:
    verdict = verdict_on(talker(auto, required))
    assert verdict.failure is None
    assert any(words in warning for warning in verdict.warnings)


def test_reasoning_that_was_cut_is_not_held_against_a_model() -> None:
    cut = Reply("", finish_reason="length")
    assert verdict_on(talker(cut, cut)) == Verdict()


@pytest.mark.parametrize(
    ("reply", "role", "words"),
    [
        (Reply("<think>hm</think> Ready."), "user", "the assistant would read"),
        (Reply("hm\n</think>\n\nReady."), "user", "closing_only"),
        (Reply("<think>I should", finish_reason="length"), "user", "unterminated"),
        (Reply("<think>hm</think> Ready."), "assistant", "the user would read"),
        (Thought("Ready."), "user", "enable_thinking: false"),
        (Reply("<tool_call>{}</tool_call> Ready."), "user", "tool markup"),
        (Reply(""), "user", "said nothing"),
    ],
)
def test_reasoning_that_leaks_is_a_warning(reply: Reply, role: str, words: str) -> None:
    verdict = verdict_on(lambda _: reply, role, tools=False)
    assert verdict.failure is None
    assert len(verdict.warnings) == 1
    assert words in verdict.warnings[0]


def test_an_assistant_may_think_behind_its_parser() -> None:
    assert verdict_on(lambda _: Thought("Ready."), tools=False) == Verdict()


def test_a_server_that_hangs_ends_with_the_time() -> None:
    over = threading.Event()

    def late(_: dict[str, Any]) -> Reply:
        over.wait(240)
        return Reply("late")

    with recording(late) as server:
        endpoint = replace(ENDPOINT, url=server.url)
        verdict = send_canaries(endpoint, KEY, tools=False, timeout_s=0.2)
        over.set()
    assert verdict.failure is not None
    assert "got no answer" in verdict.failure.line


def test_a_run_of_text_agents_needs_no_tool_calls(tmp_path: Path) -> None:
    plan = load_plan(make_run(tmp_path))
    assert calls_tools(plan, "assistant_a")
    assert not calls_tools(plan, "user")
    cells = tuple(cell.model_copy(update={"agent_strategy": "react"}) for cell in plan.cells)
    assert not calls_tools(plan.model_copy(update={"cells": cells}), "assistant_a")


def _serve_oddly(script: Path, reply: Reply) -> None:
    command = [sys.executable, "-m", "tests.support.model_server", json.dumps(asdict(reply))]
    script.write_text(f"cd {shlex.quote(str(REPOSITORY))}\nexec {shlex.join(command)}\n")


def test_a_server_that_cannot_chat_is_never_announced(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    script = run_dir.scripts / "serve_user.sh"
    _serve_oddly(script, Reply(status=400, error=NO_TEMPLATE))
    with supervising(run_dir) as process:
        assert process.wait(240) == 1
    endpoint = read_endpoint(run_dir, "user")
    assert endpoint is not None
    assert (endpoint.state, endpoint.cause) == ("failed", "chat_template")
    assert NO_TEMPLATE in endpoint.reason
    assert "what to do: give chat_template" in endpoint.reason


def test_a_warning_stands_in_the_endpoint_file_and_in_the_log(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    _serve_oddly(run_dir.scripts / "serve_user.sh", Reply("<think>hm</think> Ready."))
    with supervising(run_dir) as process:
        endpoint = until_state(run_dir, "ready")
        process.terminate()
        output = process.stdout.read() if process.stdout else ""
    assert len(endpoint.warnings) == 1
    assert "the assistant would read" in endpoint.warnings[0]
    assert f"Warning: {endpoint.warnings[0]}" in output
    assert load_api_key(run_dir) not in output


def test_the_scripted_servers_pass(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    for name in ("user", "assistant_a"):
        with supervising(run_dir, name) as process:
            assert not until_state(run_dir, "ready", name).warnings
            process.terminate()
            assert process.wait(240) == 0
