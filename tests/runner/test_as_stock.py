"""What the benchmark's own `run` makes of a reply, and what ours does: rewards, requests, flags.

Task 57 of retail asks for no write, so that a conversation that ends is solved.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.run import run
from tests.support.model_server import ModelServer, Reply, is_user, recording

Answer = Callable[[dict[str, Any]], Reply]
TASK = 57
PRICED = "gpt-4o"
"""Stock's agents but one add costs up, and fail where litellm knows no price."""
LOOKUP = ("find_user_id_by_email", '{"email": "a@b.c"}')
CALL = '{"name": "find_user_id_by_email", "arguments": {"email": "a@b.c"}}'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    return tmp_path


def config(folder: Path, **changes: Any) -> Any:
    values = {
        "model_provider": "openai",
        "user_model_provider": "openai",
        "model": PRICED,
        "user_model": PRICED,
        "task_ids": [TASK],
        "log_dir": str(folder / "results"),
    }
    return load_benchmark().import_module("types").RunConfig(**{**values, **changes})


def stock(server: ModelServer, settings: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Converse as the benchmark's own `run` does."""
    monkeypatch.setenv("OPENAI_API_BASE", server.url)
    results: list[Any] = load_benchmark().import_module("run").run(settings)
    monkeypatch.delenv("OPENAI_API_BASE")
    return results


def ours(server: ModelServer, folder: Path, settings: Any, fidelity: Any) -> dict[str, Any]:
    """Converse on one task as ours does; its record."""
    run(settings, model_base_url=server.url, fidelity=fidelity, progress=lambda line: None)
    newest = max(folder.glob("results/*/cells/0/episodes.jsonl"), key=lambda p: p.stat().st_mtime)
    record: dict[str, Any] = json.loads(newest.read_text().splitlines()[-1])
    return record


def talk(role: str = "", odd: Reply | None = None) -> Answer:
    """A conversation of three turns, in which the second reply of `role` is `odd`."""

    def answer(request: dict[str, Any]) -> Reply:
        own = sum(message["role"] == "assistant" for message in request["messages"])
        if odd is not None and own == 1 and is_user(request) == (role == "user"):
            return odd
        if not is_user(request):
            return Reply("Well.")
        return Reply("###STOP###" if own == 3 else f"Message {own}.")

    return answer


def heard(server: ModelServer, role: str) -> list[str]:
    """What the other side read of a role, in the last request of that other side."""
    own = [request for request in server.requests if is_user(request) != (role == "user")]
    return [str(m.get("content")) for m in own[-1]["messages"] if m["role"] == "user"]


EMPTY = [Reply(""), Reply("<think>I wonder"), Reply("<think>I wonder</think>")]
LEAKS = [Reply("I wonder</think>Hm."), Reply("<think>I wonder</think>Hm.")]
SILENT = Reply(None)


@pytest.mark.parametrize(
    ("role", "odd"),
    [
        *(("assistant", odd) for odd in (SILENT, *EMPTY, *LEAKS)),
        *(("user", odd) for odd in (*EMPTY, *LEAKS)),
    ],
    ids=str,
)
def test_an_odd_reply_ends_no_conversation_that_goes_on_in_stock(
    folder: Path, monkeypatch: pytest.MonkeyPatch, role: str, odd: Reply
) -> None:
    with recording(talk(role, odd)) as server:
        (result,) = stock(server, config(folder), monkeypatch)
        as_stock = ours(server, folder, config(folder), "stock")
        server.bodies.clear()
        record = ours(server, folder, config(folder), {})
        assert (result.reward, as_stock["reward"], record["reward"]) == (1.0, 1.0, 1.0)
        assert not any("think" in text for text in heard(server, role))
        flags = [call for call in record["calls"] if call["role"] == role and len(call) > 6]
        ended = ours(server, folder, config(folder), {"end_at_empty_reply": True})
    assert flags[0].get("empty", False) is (odd not in LEAKS)
    assert ("think" in flags[0]) is ("think" in (odd.content or ""))
    failed = {"user": "user_error", "assistant": "agent_error"}[role]
    expected = ("solved", 1.0) if odd in LEAKS else (failed, 0.0)
    assert (ended["outcome"], ended["reward"]) == expected


def test_a_user_without_text_fails_in_stock_and_is_flagged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recording(talk("user", SILENT)) as server:
        (result,) = stock(server, config(folder), monkeypatch)
        record = ours(server, folder, config(folder), {})
    assert (result.reward, record["reward"], record["outcome"]) == (0.0, 0.0, "user_error")
    assert record["error"]["type"] == "user:no_reply"
    assert record["calls"][-1]["empty"]


@pytest.mark.parametrize("task", [24, TASK])
def test_a_message_without_text_is_scored_as_in_stock(
    folder: Path, monkeypatch: pytest.MonkeyPatch, task: int
) -> None:
    """Stock's score fails at it where the task has outputs to look for, as 24 has."""
    with recording(talk("assistant", SILENT)) as server:
        (result,) = stock(server, config(folder, task_ids=[task]), monkeypatch)
        record = ours(server, folder, config(folder, task_ids=[task]), {})
        assert {"role": "user"} in server.requests[-1]["messages"], "as litellm sends it"
    assert record["reward"] == result.reward == float(task == TASK)
    assert record["outcome"] == ("solved" if task == TASK else "agent_error")


@pytest.mark.parametrize("said", [None, ""])
def test_who_sent_nothing_is_at_fault_where_the_other_server_refuses_it(
    folder: Path, said: str | None
) -> None:
    go_on = talk("assistant", Reply(said))

    def answer(request: dict[str, Any]) -> Reply:
        blank = not all(m.get("content") or m.get("tool_calls") for m in request["messages"])
        error = "messages.3: content must not be empty"
        return Reply(status=400, error=error) if blank else go_on(request)

    with recording(answer) as server:
        record = ours(server, folder, config(folder), {})
    assert (record["outcome"], record["reward"]) == ("agent_error", 0.0)
    assert record["error"]["type"] in ("assistant:no_reply", "assistant:rejected")


@pytest.mark.parametrize("strategy", ["act", "react"])
def test_a_call_in_reasoning_that_was_never_closed_is_made_as_in_stock(
    folder: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    odd = Reply(f"<think>I wonder.\nThought:\nhm\nAction:\n{CALL}")
    settings = config(folder, agent_strategy=strategy)
    with recording(talk("assistant", odd)) as server:
        (result,) = stock(server, settings, monkeypatch)
        record = ours(server, folder, settings, {})
        ended = ours(server, folder, settings, {"end_at_empty_reply": True})
    assert (record["reward"], record["tool_calls"]) == (result.reward, 1)
    said = [m["content"] for m in record["traj"] if m["role"] == "assistant"]
    assert said[1] == f"Action:\n{CALL}"
    assert [m["content"] for m in record["traj"]][-1] == result.traj[-1]["content"]
    assert ended["outcome"] == ("agent_error" if strategy == "act" else ended["outcome"])


@pytest.mark.parametrize(
    ("strategy", "odd", "told"),
    [
        ("react", "<think>hm\nThought:\nx\n\nUser Response:\nYes.", "x\n\nUser Response:\nYes."),
        ("react", "<think>hm\nUser Response:\nYes.", "Yes."),
        ("llm", "<think>hm\nThought:\nx", ""),
    ],
)
def test_a_users_reply_in_reasoning_that_was_never_closed_is_heard_as_in_stock(
    folder: Path, strategy: str, odd: str, told: str
) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        reply = talk("user", Reply(odd))(request)
        plain = strategy == "react" and is_user(request) and reply.content != odd
        return Reply(f"User Response:\n{reply.content}") if plain else reply

    with recording(answer) as server:
        record = ours(server, folder, config(folder, user_strategy=strategy), {})
    assert record["reward"] == 1.0
    assert [m["content"] for m in record["traj"] if m["role"] == "user"][1] == told


@pytest.mark.parametrize("role", ["assistant", "user"])
@pytest.mark.parametrize("fidelity", ["stock", {}])
def test_half_a_character_ends_a_conversation_with_0_as_in_stock(
    folder: Path, monkeypatch: pytest.MonkeyPatch, role: str, fidelity: Any
) -> None:
    with recording(talk(role, Reply("Hm \ud83d"))) as server:
        (result,) = stock(server, config(folder), monkeypatch)
        server.bodies.clear()
        record = ours(server, folder, config(folder), fidelity)
        calls = len(server.bodies) - (fidelity == "stock")
    assert (result.reward, record["reward"]) == (0.0, 0.0)
    assert record["outcome"] == {"user": "user_error", "assistant": "agent_error"}[role]
    assert record["history"] == []
    assert calls == {"assistant": 4, "user": 3}[role], "nothing is tried again"


def as_original(body: bytes) -> bytes:
    """A request of the fork's; the prompt of its llm user ends with a line break too many."""
    return body.replace(
        rb"personalities in the instruction.\n", b"personalities in the instruction."
    )


@pytest.mark.parametrize(
    ("agent", "user"),
    [("tool-calling", "llm"), ("tool-calling", "verify"), ("react", "llm"), ("few-shot", "llm")],
)
def test_stock_fidelity_sends_stocks_requests_to_the_byte(
    folder: Path, monkeypatch: pytest.MonkeyPatch, agent: str, user: str
) -> None:
    """Tools, litellm's own messages, the verifier's prompt, and the examples that are drawn."""
    displays = folder / "displays.jsonl"
    lines = [json.dumps({"messages_display": f"example {n}"}) + "\n" for n in range(12)]
    displays.write_text("".join(lines))

    def answer(request: dict[str, Any]) -> Reply:
        if "Classification:" in str(request["messages"][0]["content"]):
            return Reply("true")
        if not is_user(request) and agent == "react":
            return Reply(f"Thought:\nhm\nAction:\n{CALL}")
        return talk("assistant", Reply("Hm.", [LOOKUP]))(request)

    settings = config(
        folder,
        agent_strategy=agent,
        user_strategy=user,
        few_shot_displays_path=str(displays),
        task_ids=[7, TASK],
        num_trials=2 if agent == "few-shot" else 1,
    )
    with recording(answer) as server:
        expected = stock(server, settings, monkeypatch)
        requests = [as_original(body) for body in server.bodies]
        server.bodies.clear()
        results = run(settings, model_base_url=server.url, fidelity="stock", progress=print)
        found = server.bodies
    in_vain = 1 + (user == "verify")  # of an environment that stock makes for the run as a whole
    assert found == requests[in_vain:]
    assert all(b"Instruction:" not in body for body in requests[:in_vain])
    assert [r.reward for r in results] == [r.reward for r in expected]
    if user == "verify":
        assert b"provider_specific_fields={" in b"".join(requests)


@pytest.mark.parametrize("model", [PRICED, "m"])
def test_the_users_cost_is_stocks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """The fork's llm user keeps none; its verifying one does as the original's all do."""

    def answer(request: dict[str, Any]) -> Reply:
        asked = str(request["messages"][0]["content"])
        return Reply("true") if "Classification:" in asked else talk()(request)

    settings = config(folder, user_strategy="verify", model=model, user_model=model)
    with recording(answer) as server:
        (result,) = stock(server, settings, monkeypatch)
        as_stock = ours(server, folder, settings, "stock")
        record = ours(server, folder, settings, {})
    assert as_stock["info"] == json.loads(json.dumps(result.info))
    assert (as_stock["info"]["user_cost"] is None) is (model == "m")
    assert record["info"]["user_cost"] is None, "the lean client knows no prices"


@pytest.mark.parametrize("agent", ["act", "react", "few-shot"])
def test_agents_that_fail_in_stock_for_want_of_a_price_converse(
    folder: Path, monkeypatch: pytest.MonkeyPatch, agent: str
) -> None:
    displays = folder / "displays.jsonl"
    displays.write_text('{"messages_display": "example"}\n' * 5)
    settings = config(
        folder,
        agent_strategy=agent,
        model="m",
        user_model="m",
        few_shot_displays_path=str(displays),
    )
    with recording(talk()) as server:
        (result,) = stock(server, settings, monkeypatch)
        assert result.reward == 0.0 and "NoneType" in result.info["error"]
        assert ours(server, folder, settings, "stock")["reward"] == 1.0


def test_the_users_that_the_fork_adds_are_those_that_the_docs_name() -> None:
    benchmark = load_benchmark()
    if benchmark.package != "tau_trait":
        pytest.skip("the original has none")
    page = (Path(__file__).parents[2] / "docs" / "fidelity.md").read_text("utf-8")
    for env in TASK_COUNTS:
        users = benchmark.import_module(f"envs.{env}.data").load_data()["users"]
        assert len(users) == 502
        assert len([name for name in users if f"`{name}`" in page]) == 2


def test_reasoning_is_taken_out_only_where_that_is_on(folder: Path) -> None:
    with recording(talk("user", LEAKS[0])) as server:
        for on in (False, True):
            ours(server, folder, config(folder), {"sanitize_think": on})
            assert heard(server, "user")[1] == ("Hm." if on else "I wonder</think>Hm.")


def test_litellm_is_passed_by_only_where_that_is_on(folder: Path) -> None:
    with recording(talk()) as server:
        for on in (False, True):
            server.seen.clear()
            ours(server, folder, config(folder), {"lean_client": on})
            assert all(("OpenAI/Python" in header) is not on for _, header in server.seen)
            assert len(server.seen) > 3


def test_litellms_other_fields_are_left_out_only_where_that_is_on(folder: Path) -> None:
    with recording(talk()) as server:
        for on in (False, True):
            server.bodies.clear()
            ours(server, folder, config(folder), {"lean_client": False, "plain_messages": on})
            assert (b"provider_specific_fields" in b"".join(server.bodies)) is not on


def test_data_is_shared_only_where_that_is_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Counter[str]()
    adapter = "emobench.benchmarks.adapter"
    from emobench.benchmarks.state import make_shared_env_class

    def counted(*arguments: Any) -> Any:
        made["shared"] += 1
        return make_shared_env_class(*arguments)

    monkeypatch.setattr(f"{adapter}.make_shared_env_class", counted)
    with recording(talk()) as server:
        for on in (False, True):
            record = ours(server, folder, config(folder), {"shared_state": on})
            assert made["shared"] == on
            assert ("shared_state" in record["fidelity"]) is on


def test_a_seed_is_sent_only_where_that_is_on(folder: Path) -> None:
    with recording(talk()) as server:
        for on in (False, True):
            server.bodies.clear()
            ours(server, folder, config(folder), {"send_seed": on})
            assert all(("seed" in request) is on for request in server.requests)


@pytest.mark.parametrize(("strategy", "calls"), [("llm", 1), ("react", 2)])
def test_the_opening_call_is_left_out_only_where_that_is_on(
    folder: Path, strategy: str, calls: int
) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        said = talk()(request)
        return Reply(f"User Response:\n{said.content}") if strategy == "react" else said

    with recording(answer) as server:
        for on in (False, True):
            server.bodies.clear()
            settings = config(folder, user_strategy=strategy)
            ours(server, folder, settings, {"skip_opening_call": on})
            opening = [r for r in server.requests if is_user(r) and "Instruction:" not in str(r)]
            assert len(opening) == (0 if on else calls)
