"""Whose fault an episode's end is: every way a model or a server can fail, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from emobench import __version__
from emobench.benchmarks.adapter import load_benchmark
from emobench.cli.main import main
from emobench.config.identity import collect_cell_content, hash_content
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.runner.episode import derive_episode_seed
from tests.support.model_server import ModelServer, Reply, is_user, recording

Record = dict[str, Any]
LOOKUP = ("find_user_id_by_name_zip", '{"first_name": "A", "last_name": "B", "zip": "1"}')
THINK_STOP = "<think>The rule says ###STOP### when satisfied."


def converse(
    folder: Path,
    answer: Callable[[dict[str, Any]], Reply],
    *options: str,
    expect: int = 0,
) -> tuple[Record, ModelServer]:
    """The record of one episode of one cell against such a server."""
    with recording(answer) as server:
        arguments = ["--env", "retail", "--model", "m", "--tasks", "0", "--run-dir", str(folder)]
        arguments += ["--model-base-url", server.url, "--probe", "off"]
        code = main([*arguments, *options], command="run")
    assert code == expect
    (line,) = (folder / "cells/0/episodes.jsonl").read_text().splitlines()
    return json.loads(line), server


def talking(assistant: Reply, user: Reply | None = None) -> Callable[[dict[str, Any]], Reply]:
    """Both roles always give the same reply."""
    return lambda request: (user or Reply("Go on.")) if is_user(request) else assistant


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", (0.0,))
    return tmp_path / "run"


def test_the_step_limit(folder: Path) -> None:
    record, _ = converse(folder, talking(Reply("Hm.")), "--max-steps", "3")
    assert (record["outcome"], record["reward"]) == ("max_steps", 0.0)
    assert (record["steps"], record["turns"], record["tool_calls"]) == (3, 3, 0)
    assert [message["role"] for message in record["traj"]] == [
        "system",
        "user",
        *["assistant", "user"] * 3,
    ]


@pytest.mark.parametrize(("limit", "outcome"), [(3, "failed"), (2, "max_steps")])
def test_an_end_on_the_very_last_step_is_an_end(folder: Path, limit: int, outcome: str) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        heard = sum(message["role"] == "user" for message in request["messages"])
        # The user opens, answers twice, and ends at what the assistant says third.
        return Reply("###STOP###" if is_user(request) and heard == 4 else "Hm.")

    record, _ = converse(folder, answer, "--max-steps", str(limit))
    assert (record["outcome"], record["steps"]) == (outcome, limit)


def test_a_task_solved_on_the_very_last_step_is_solved(folder: Path) -> None:
    """Retail's task 0 asks for one exchange; what it takes is known from the ground truth."""
    actions = [
        (action.name, json.dumps(action.kwargs))
        for action in load_benchmark().load_tasks("retail")[0].actions
    ]

    def answer(request: dict[str, Any]) -> Reply:
        if is_user(request):
            heard = sum(message["role"] == "user" for message in request["messages"])
            return Reply("###STOP###" if heard == 2 else "Hi.")
        made = sum(message["role"] == "tool" for message in request["messages"])
        return Reply(None, [actions[made]]) if made < len(actions) else Reply("Done.")

    record, _ = converse(folder, answer, "--max-steps", str(len(actions) + 1))
    assert (record["outcome"], record["reward"]) == ("solved", 1.0)
    assert record["steps"] == len(actions) + 1


def test_a_context_that_is_too_long(folder: Path) -> None:
    error = "This model's maximum context length is 8192 tokens, however you requested 9000."
    record, _ = converse(folder, talking(Reply(status=400, error=error)))
    assert (record["outcome"], record["reward"]) == ("context_overflow", 0.0)
    assert "8192" in record["error"]["message"]
    assert len(record["traj"]) == 2


@pytest.mark.parametrize(
    "assistant",
    [
        Reply(None, [(LOOKUP[0], '{"first_name": "A"')]),
        Reply(None, [(LOOKUP[0], "[]")]),
        Reply(status=400, error="invalid tool call arguments in message 3"),
    ],
    ids=str,
)
def test_an_unusable_reply_is_the_agents_error(folder: Path, assistant: Reply) -> None:
    record, server = converse(folder, talking(assistant))
    assert (record["outcome"], record["reward"]) == ("agent_error", 0.0)
    assert record["error"]["message"]
    assert len(record["traj"]) == 2
    assert len(server.bodies) == 2, "it is data, and is not tried again"


def test_a_500_for_a_made_up_tool_is_the_agents_error(folder: Path) -> None:
    failed = Reply(status=500, error="Failed to parse tool call: unknown function 'x'")
    # As llama.cpp does: it parses what its model wrote only where there are tools to call.
    record, _ = converse(
        folder, lambda request: failed if request.get("tools") else Reply("Hello.")
    )
    assert record["outcome"] == "agent_error"
    assert "unknown function" in record["error"]["message"]


@pytest.mark.parametrize("user", [Reply(None), Reply(None, [LOOKUP])], ids=["null", "tool"])
def test_a_user_that_says_nothing_is_flagged(folder: Path, user: Reply) -> None:
    record, _ = converse(folder, talking(Reply("Hello."), user))
    assert (record["outcome"], record["reward"]) == ("user_error", 0.0)
    assert record["error"]["type"] == "user:no_reply"


def test_a_react_user_without_its_format_is_the_users_error(folder: Path) -> None:
    answer = talking(Reply("Hello."), Reply("no format at all"))
    record, _ = converse(folder, answer, "--user-strategy", "react")
    assert record["outcome"] == "user_error"
    assert "Invalid response format" in record["error"]["message"]


@pytest.mark.parametrize("status", [401, 402, 404, 500, 503])
def test_a_server_that_fails_is_missing_data_and_tried_again(folder: Path, status: int) -> None:
    record, _ = converse(folder, talking(Reply(status=status, error="boom")), expect=1)
    assert (record["outcome"], record["reward"]) == ("infra_error", None)
    assert [entry["attempt"] for entry in record["history"]] == [1, 2]
    assert record["attempt"] == 3
    summary = json.loads((folder / "cells/0/variant_summary.json").read_text())
    assert (summary["status"], summary["exit_reason"]) == ("incomplete", "infra_errors")
    assert (summary["mean_reward"], summary["finished"]) == (None, 0)
    assert f"HTTP {status}: boom" in summary["message"]
    assert json.loads((folder / "cells/0/results.json").read_text()) == []

    record, lines = converse_again(folder, talking(Reply("Hm.")))
    assert (record["outcome"], record["attempt"], lines) == ("max_steps", 4, 2)


def converse_again(folder: Path, answer: Callable[[dict[str, Any]], Reply]) -> tuple[Record, int]:
    """Complete the cell with a server that works; its last record and how many there are."""
    plan = json.loads((folder / "plan.json").read_text())
    with recording(answer) as server:
        model = plan["sweep"]["assistants"]["m"]
        assert model["base_url"] != server.url, "an address is no part of an episode's identity"
        arguments = ["--env", "retail", "--model", "m", "--tasks", "0", "--run-dir", str(folder)]
        arguments += ["--model-base-url", server.url, "--probe", "off"]
        main(arguments, command="run")
    lines = (folder / "cells/0/episodes.jsonl").read_text().splitlines()
    return json.loads(lines[-1]), len(lines)


def test_a_server_that_recovers_costs_nothing(folder: Path) -> None:
    failures = iter([Reply(status=503, error="loading"), Reply(status=503, error="loading")])

    def answer(request: dict[str, Any]) -> Reply:
        if is_user(request):
            return Reply("Go on.")
        return next(failures, Reply("Hm."))

    record, _ = converse(folder, answer, "--max-steps", "1")
    assert record["outcome"] == "max_steps"
    assert [entry["error"]["type"] for entry in record["history"]] == ["assistant:infra"]


def test_the_first_of_parallel_calls_is_made_and_their_number_kept(folder: Path) -> None:
    replies = iter([Reply(None, [LOOKUP, LOOKUP])])
    answer = lambda request: (  # noqa: E731
        Reply("Hi.") if is_user(request) else next(replies, Reply("Hm."))
    )
    record, _ = converse(folder, answer, "--max-steps", "2")
    assert record["tool_calls"] == 1
    assert [call.get("tool_calls") for call in record["calls"]] == [None, 2, None, None]
    assert len(record["traj"][2]["tool_calls"]) == 1


def test_a_reply_that_was_cut_but_says_something_goes_on(folder: Path) -> None:
    answer = talking(Reply("I will now", finish_reason="length"))
    record, _ = converse(folder, answer, "--max-steps", "1")
    assert record["outcome"] == "max_steps"
    assert record["calls"][1]["finish_reason"] == "length"


def test_an_unknown_tool_is_told_to_the_agent_as_stock_does(folder: Path) -> None:
    record, _ = converse(folder, talking(Reply(None, [("fly", "{}")])), "--max-steps", "1")
    assert record["traj"][-1]["content"] == "Unknown action fly"


@pytest.mark.parametrize(
    ("text", "heard", "forms"),
    [
        ("<think>###STOP###?</think>Go on.", "Go on.", ["complete"]),
        ("###STOP### is not yet due</think>\n\nGo on.", "Go on.", ["closing_only"]),
        (f"Go on. {THINK_STOP}", "Go on.", ["unterminated"]),
    ],
)
def test_reasoning_does_not_reach_the_other_side(
    folder: Path, text: str, heard: str, forms: list[str]
) -> None:
    record, _ = converse(folder, talking(Reply("Hm."), Reply(text)), "--max-steps", "2")
    assert record["outcome"] == "max_steps"
    assert [m["content"] for m in record["traj"] if m["role"] == "user"] == [heard] * 3
    assert all(call["think"] == forms for call in record["calls"] if call["role"] == "user")


def test_each_call_is_on_record(folder: Path) -> None:
    record, _ = converse(folder, talking(Reply("Hm.")), "--max-steps", "1")
    assert [call["role"] for call in record["calls"]] == ["user", "assistant", "user"]
    for call in record["calls"]:
        assert (call["prompt_tokens"], call["completion_tokens"]) == (3, 2)
        assert call["finish_reason"] == "stop"
        assert call["latency_s"] >= 0
    assert record["cost"] is None
    assert "skip_opening_call" in record["fidelity"]


def test_the_whole_record_of_a_conversation(folder: Path) -> None:
    """One lookup, one answer, and the user's end."""

    def answer(request: dict[str, Any]) -> Reply:
        if is_user(request):
            heard = sum(message["role"] == "user" for message in request["messages"])
            return Reply("###STOP###" if heard == 2 else "Hi.")
        looked_up = any(message["role"] == "tool" for message in request["messages"])
        return Reply("Done.") if looked_up else Reply(None, [LOOKUP])

    begun = datetime.now(UTC).replace(microsecond=0)
    record, server = converse(folder, answer)
    started = datetime.fromisoformat(record.pop("started"))
    assert begun <= started <= datetime.now(UTC)
    assert started.utcoffset() == timedelta(0) and not started.microsecond
    assert 0 < record.pop("wall_s") < 600
    plan = load_plan(RunDir(folder))
    sweep, benchmark = plan.sweep, load_benchmark()
    roles = ["system", "user", "assistant", "tool", "assistant", "user"]
    assert [message["role"] for message in record.pop("traj")] == roles
    called = ["user", "assistant", "assistant", "user"]
    assert [call["role"] for call in record.pop("calls")] == called
    assert record.pop("info")["reward_info"]["reward"] == 0.0
    (prompt,) = {r["messages"][0]["content"] for r in server.requests if is_user(r)}
    assert {r["temperature"] for r in server.requests if not is_user(r)} == {0.0}
    assert record.pop("crc32")
    assert record == {
        "schema": 2,
        "episode": hash_content(collect_cell_content(sweep, plan.cells[0], plan.benchmark), 0),
        "cell": 0,
        "env": "retail",
        "agent_strategy": "tool-calling",
        "variant": "control",
        "assistant": "m",
        "trial": 1,
        "task_id": 0,
        "attempt": 1,
        "reward": 0.0,
        "outcome": "failed",
        "error": None,
        "steps": 2,
        "turns": 1,
        "tool_calls": 1,
        "cost": None,
        "seed": derive_episode_seed(sweep.seed, "retail", 0, 1),
        "variant_sha256": sweep.variants["control"].sha256,
        "user_strategy": "llm",
        "fidelity": [
            "skip_opening_call",
            "sanitize_think",
            "send_seed",
            "lean_client",
            "shared_state",
            "plain_messages",
        ],
        "user_prompt_sha256": sha256(prompt.encode()).hexdigest(),
        "benchmark": {"package": benchmark.package, "version": benchmark.version},
        "emobench": __version__,
        "history": [],
    }
