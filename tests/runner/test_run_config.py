"""`run(config)` beside the benchmark's own: the same requests, the same results, nothing lost."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.cli.main import main
from emobench.core.errors import InvalidInput
from emobench.core.sweep import Fidelity
from emobench.run import run
from emobench.runner.by_hand import EpisodesMissing
from tests.support.model_server import ModelServer, Reply, is_user, recording

TASKS = [0, 7]


def config(server: ModelServer, folder: Path, **changes: Any) -> Any:
    values = {
        "model_provider": "openai",
        "user_model_provider": "openai",
        "model": "lab/m",
        "user_model": "m",  # a slash here makes stock fail at its first checkpoint
        "task_ids": TASKS,
        "log_dir": str(folder / "results"),
        "max_concurrency": 2,
    }
    return load_benchmark().import_module("types").RunConfig(**{**values, **changes})


def conversing(request: dict[str, Any]) -> Reply:
    """A short conversation that ends by itself, with one tool call in it."""
    messages = request["messages"]
    said = sum(message["role"] == "assistant" for message in messages)
    if is_user(request):
        text = ["I want something.", "###STOP###"][min(said, 1)]
        if "User Response" in messages[0]["content"]:
            # Marked by its own thought, which stock hands on to the agent.
            text = f"Thought:\nhm\n\nUser Response:\n{text}"
        return Reply(text)
    if "tools" in request and said == 0:
        return Reply(None, [("find_user_id_by_email", '{"email": "a@b.c"}')])
    return Reply("Done.")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    return tmp_path


def essence(request: dict[str, Any]) -> str:
    """A request as far as it makes the conversation: litellm's messages carry more, unread."""
    fields = ("role", "content", "tool_calls", "tool_call_id", "name")
    messages = [
        {key: message[key] for key in fields if message.get(key) is not None}
        for message in request["messages"]
    ]
    for message in messages:
        if message["role"] == "system":
            message["content"] = message["content"].rstrip("\n")  # the fork's prompt has one more
        for call in message.get("tool_calls", []):
            call.pop("index", None)
    kept = {key: request.get(key) for key in ("model", "temperature", "tools", "seed")}
    return json.dumps({**kept, "messages": messages}, sort_keys=True)


def stock(server: ModelServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setenv("OPENAI_API_BASE", server.url)
    results: list[Any] = load_benchmark().import_module("run").run(config(server, folder))
    monkeypatch.delenv("OPENAI_API_BASE")
    return results


def by_task(results: list[Any]) -> dict[int, tuple[float, Any]]:
    return {result.task_id: (result.reward, result.info["reward_info"]) for result in results}


def test_stock_fidelity_makes_stocks_requests(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with recording(conversing) as server:
        expected = stock(server, folder, monkeypatch)
        requests = Counter(map(essence, server.requests))
        server.bodies.clear()
        results = run(config(server, folder), model_base_url=server.url, fidelity="stock")
        ours = Counter(map(essence, server.requests))
        # Stock builds one more environment for the whole run, whose user converses in vain.
        in_vain = requests - ours
        assert not ours - requests
        assert sum(in_vain.values()) == 1
        assert by_task(results) == by_task(expected)
        assert [result.trial for result in results] == [0, 0]

        server.bodies.clear()
        repaired = run(config(server, folder), model_base_url=server.url)
        assert by_task(repaired) == by_task(expected)
        seeds = [request.pop("seed") for request in server.requests]
        assert len(set(seeds)) == len(TASKS)
        unseeded = [{**request, "seed": None} for request in server.requests]
        missing = requests - Counter(map(essence, unseeded))
        assert not Counter(map(essence, unseeded)) - requests
        # No opening call in any user's constructor.
        assert sum(missing.values()) == 1 + len(TASKS)
        assert all("Instruction:" not in json.loads(m)["messages"][0]["content"] for m in missing)
    capsys.readouterr()


@pytest.mark.parametrize("repair", [False, True])
def test_a_react_users_thought_reaches_the_agent_only_in_stock(folder: Path, repair: bool) -> None:
    with recording(conversing) as server:
        settings = config(server, folder, user_strategy="react", task_ids=[0])
        fidelity = {"react_user_reply": repair}
        run(settings, model_base_url=server.url, fidelity=fidelity, progress=lambda line: None)
        heard = [r["messages"][1]["content"] for r in server.requests if not is_user(r)]
    assert heard[0] == (
        "I want something." if repair else "hm\n\nUser Response:\nI want something."
    )


@pytest.mark.parametrize(
    ("said", "repair", "heard"),
    [
        ("I shall say ###STOP### when done.", False, None),
        ("I shall say ###STOP### when done.", True, "I shall say STOP when done."),
        ("###STOP###", False, None),
        ("###STOP###", True, None),
        ("Thanks! '###STOP###'.", False, None),
        ("Thanks! '###STOP###'.", True, None),
    ],
)
def test_a_quoted_stop_marker_ends_the_conversation_only_in_stock(
    folder: Path, said: str, repair: bool, heard: str | None
) -> None:
    """`heard` is what the agent reads of it; None where the conversation ends."""

    def answer(request: dict[str, Any]) -> Reply:
        opens = len(request["messages"]) == 2
        return Reply(("Hi." if opens else said) if is_user(request) else "Well.")

    with recording(answer) as server:
        run(
            config(server, folder, task_ids=[0]),
            model_base_url=server.url,
            fidelity={"standalone_stop": repair},
            max_steps=2,
            progress=lambda line: None,
        )
        (record,) = records(folder)
    assert record["outcome"] == ("failed" if heard is None else "max_steps")
    assert record["traj"][3]["content"] == (said if heard is None else heard)
    assert ("standalone_stop" in record["fidelity"]) is repair


def records(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("results/*/cells/*/episodes.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_few_shot_examples_are_drawn_by_the_seed(folder: Path) -> None:
    displays = folder / "displays.jsonl"
    lines = [json.dumps({"messages_display": f"example {n}"}) + "\n" for n in range(12)]
    displays.write_text("".join(lines))
    prompts = []
    for attempt in range(2):
        with recording(conversing) as server:
            settings = config(
                server,
                folder / str(attempt),
                agent_strategy="few-shot",
                few_shot_displays_path=str(displays),
            )
            run(settings, model_base_url=server.url, progress=lambda line: None)
            agents = [r["messages"][0]["content"] for r in server.requests if not is_user(r)]
        prompts.append(sorted(set(agents)))
    assert prompts[0] == prompts[1]
    assert len(prompts[0]) == len(TASKS), "each task has a draw of its own"


@pytest.mark.parametrize("strategy", ["tool-calling", "act", "react"])
def test_models_without_a_price_work_with_every_strategy(folder: Path, strategy: str) -> None:
    with recording(conversing) as server:
        settings = config(server, folder, agent_strategy=strategy, task_ids=[0], num_trials=2)
        results = run(settings, model_base_url=server.url, progress=lambda line: None)
        again = len(server.bodies)
        assert run(settings, model_base_url=server.url, progress=lambda line: None) == results
        assert len(server.bodies) == again, "what is finished is not run again"
        other = run(
            settings.model_copy(update={"task_ids": [3]}),
            model_base_url=server.url,
            progress=lambda line: None,
        )
    assert [(result.task_id, result.trial) for result in results] == [(0, 0), (0, 1)]
    assert [(result.task_id, result.trial) for result in other] == [(3, 0), (3, 1)]
    assert {record["outcome"] for record in records(folder)} <= {"solved", "failed"}


def test_missing_results_are_an_error_with_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())
    broken = True

    def answer(request: dict[str, Any]) -> Reply:
        if broken and "yusuf" in request["messages"][0]["content"].lower():
            return Reply(status=503, error="busy")
        return conversing(request)

    with recording(answer) as server:
        with pytest.raises(EpisodesMissing) as failed:
            run(config(server, folder), model_base_url=server.url, progress=lambda line: None)
        assert [result.task_id for result in failed.value.results] == [7]
        broken = False
        results = run(config(server, folder), model_base_url=server.url, progress=lambda line: None)
    assert [result.task_id for result in results] == TASKS


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"env": "telecom"}, "retail, airline"),
        ({"task_split": "train"}, "test"),
        ({"task_ids": [115]}, "0 to 114"),
        ({"task_ids": [1, 7, 1, 1]}, "names 1 more than once.*num_trials"),
        ({"user_strategy": "human"}, "human"),
        ({"agent_strategy": "few-shot"}, "few_shot_displays"),
        ({"max_concurrency": 0}, "concurrency"),
    ],
)
def test_mistakes(folder: Path, changes: dict[str, Any], named: str) -> None:
    with recording(conversing) as server, pytest.raises(InvalidInput, match=named):
        run(config(server, folder, **changes), model_base_url=server.url)
    assert not (folder / "results").exists()


def test_stock_means_every_repair_off() -> None:
    assert not any(Fidelity.stock().model_dump().values())


def test_both_models_are_found_where_peoples_scripts_say(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recording(conversing) as assistant, recording(conversing) as user:
        monkeypatch.setenv("OPENAI_API_BASE", assistant.url)
        monkeypatch.setenv("USER_MODEL_API_BASE", user.url)
        hand = ["--env", "retail", "--model", "m", "--tasks", "0", "--probe", "off"]
        assert main(["run", *hand]) == 0
        run(config(assistant, folder, task_ids=[0]), progress=lambda line: None)
        assert {is_user(request) for request in assistant.requests} == {False}
        assert {is_user(request) for request in user.requests} == {True}
        before = len(user.requests)
        # What is given counts more.
        given = ["--model-base-url", assistant.url, "--user-base-url", assistant.url]
        assert main(["run", *hand, "--run-dir", "given", *given]) == 0
        assert len(user.requests) == before
        # A run by hand goes on under the same command, a sweep's cell needs no address.
        assert main(["run", *hand, "--run-dir", "given"]) == 0
        assert main(["run", "--run-dir", "given", "--cell", "0"]) == 0
    monkeypatch.delenv("OPENAI_API_BASE")
    assert main(["run", *hand]) == 2


def test_the_example_of_the_docs_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "by-hand.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert "tau_bench" not in example
    with recording(conversing) as server:
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        exec(compile(example, "docs/by-hand.md", "exec"), {})
        prompts = [r["messages"][0]["content"] for r in server.requests if is_user(r)]
        models = {(is_user(request), request["model"]) for request in server.requests}
    own = "How you come across:\n- You answer every question with biting sarcasm."
    assert {prompt.endswith(own) for prompt in prompts} == {True, False}
    assert models == {(False, "Qwen/Qwen3-4B-Instruct-2507"), (True, "Qwen/Qwen3-32B")}
    printed = capsys.readouterr().out
    assert "control 0.0" in printed and "biting sarcasm" in printed
    assert len(list((folder / "results").iterdir())) == 2


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("sarcasm", "unknown variant 'sarcasm'"),
        ({}, "one variant at a time"),
        ({"a": "x", "b": "y"}, "one variant at a time"),
        ({"anger": "x"}, "anger"),
        ({"mine": " "}, "not empty"),
    ],
)
def test_a_variant_that_is_none(folder: Path, variant: Any, said: str) -> None:
    with recording(conversing) as server, pytest.raises(InvalidInput, match=said):
        run(config(server, folder), variant=variant, model_base_url=server.url)
    assert not (folder / "results").exists()
