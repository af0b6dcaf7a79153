"""tau-bench's own result files: written by its real run(), cut off anywhere, merged, foreign."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emobench.benchmarks.adapter import load_benchmark
from emobench.core.errors import InvalidInput
from emobench.core.outcomes import Outcome
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.store.episodes import EpisodeError, read_lines
from emobench.tables.collection import Request, collect_into
from emobench.tables.published import Described, classify_error, classify_result
from emobench.tables.run_results import collect
from emobench.tables.table import load_episodes, load_tables, load_turns
from tests.support.model_server import Reply, is_user, recording
from tests.support.runs import full_run
from tests.support.stock_results import result, written

BAD_CALL, TOO_LONG, SERVER_DOWN, ENDLESS, SILENT_USER, FAILS = range(6)


def collected(folder: Path, *files: Path, names: tuple[str, ...] = (), **described: Any) -> Any:
    values = {"env": "airline", "variant": "control", **described}
    assistants = names or ("gpt-4o",) * len(files)
    return collect_into(Request((), files, Described(assistants=assistants, **values), folder))


@pytest.fixture(scope="module")
def by_stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of a real run(), in which each task meets another fate."""
    folder = tmp_path_factory.mktemp("stock")
    benchmark = load_benchmark()
    instructions = [task.instruction for task in benchmark.load_tasks("retail")[:6]]

    def answer(request: dict[str, Any]) -> Reply:
        messages = request["messages"]
        said = sum(message["role"] == "assistant" for message in messages)
        if is_user(request):
            prompt = messages[0]["content"]
            task = next((n for n, text in enumerate(instructions) if text in prompt), None)
            if said == 0:
                return Reply(f"case {task}")
            if task == SILENT_USER:
                return Reply(None)
            return Reply("Go on." if task == ENDLESS else "###STOP###")
        task = int(messages[1]["content"].removeprefix("case "))
        if task == BAD_CALL:
            return Reply(None, [("get_order_details", '{"order_id": ')])
        if task == TOO_LONG:
            return Reply(status=400, error="This model's maximum context length is 8 tokens.")
        if task == SERVER_DOWN:
            return Reply(status=500, error="out of order")
        return Reply("Hm.")

    with pytest.MonkeyPatch.context() as patch, recording(answer) as server:
        patch.chdir(folder)
        patch.setenv("OPENAI_API_KEY", "k")
        patch.setenv("OPENAI_BASE_URL", server.url)
        patch.setenv("OPENAI_API_BASE", server.url)
        config = benchmark.import_module("types").RunConfig(
            model_provider="openai",
            user_model_provider="openai",
            model="m",
            user_model="m",
            task_ids=list(range(6)),
            log_dir=str(folder / "results"),
            max_concurrency=6,
        )
        benchmark.import_module("run").run(config)
    (file,) = (folder / "results").glob("*.json")
    yield file


def test_what_stock_calls_a_failure_is_told_apart(by_stock: Path, tmp_path: Path) -> None:
    stock = {each["task_id"]: each for each in json.loads(by_stock.read_text())}
    assert {each["reward"] for each in stock.values()} == {0.0}, "all alike to stock"
    summary = collected(tmp_path / "out", by_stock, names=("m",), env="retail")
    frame = load_episodes(tmp_path / "out").set_index("task_id")
    assert frame["outcome"].to_dict() == {
        BAD_CALL: "agent_error",
        TOO_LONG: "context_overflow",
        SERVER_DOWN: "infra_error",
        ENDLESS: "max_steps",
        SILENT_USER: "user_error",
        FAILS: "failed",
    }
    assert frame["reward"].isna().to_dict() == {task: task == SERVER_DOWN for task in range(6)}
    assert frame.loc[BAD_CALL, "error"] == "stock:JSONDecodeError"
    assert (frame.loc[ENDLESS, "steps"], frame.loc[ENDLESS, "turns"]) == (30, 30)
    assert (summary["episodes"], summary["missing"]) == (6, 1)
    turns = load_turns(tmp_path / "out")
    assert len(turns) == sum(len(each["traj"][1:]) for each in stock.values())


def test_the_folder_is_a_run_directory(tmp_path: Path) -> None:
    file = written(tmp_path / "r.json", [result(t, n) for n in range(3) for t in range(4)])
    collected(tmp_path / "out", file, user_model="gpt-4o")
    found = collect(RunDir(tmp_path / "out"))
    assert [cell.state for cell in found.cells] == ["done"] * 3
    assert len(found.list_observations()) == 12
    (run,) = load_tables(tmp_path / "out").summary["runs"]
    assert (run["path"], run["published"]) == ("published", True)
    frame = load_episodes(tmp_path / "out")
    assert set(frame["user_model"]) == {"gpt-4o"}
    rows: list[Any] = list(frame.itertuples())
    for row in rows:
        line = Path(row.file).read_bytes()[row.offset : row.offset + row.length]
        told = json.loads(line)["traj"][1]["content"]
        assert told == f"Task {row.task_id}, trial {row.trial - 1}."


def test_merged_shards_that_all_say_trial_0(tmp_path: Path) -> None:
    shards = [[result(t, 0, float(n == 0 or t == 1)) for t in range(3)] for n in range(4)]
    for number, shard in enumerate(shards):
        for each in shard:
            each["traj"][2]["tool_calls"] = [{"id": f"c{number}", "function": {"name": "think"}}]
    every = [each for shard in shards for each in shard]
    merged = written(tmp_path / "merged.json", every)
    collected(tmp_path / "out", merged)
    frame = load_episodes(tmp_path / "out")
    counts = frame.groupby("task_id")["success"].agg(["sum", "count"])
    assert counts.to_numpy().tolist() == [[1, 4], [4, 4], [1, 4]]
    assert sorted(set(frame["trial"])) == [1, 2, 3, 4]
    # A shard beside the file that it is part of, and the file under another name, add nothing.
    part = written(tmp_path / "part.json", shards[2])
    copy = written(tmp_path / "copy.json", every)
    summary = collected(tmp_path / "again", merged, part, copy)
    assert (summary["episodes"], summary["left_out"]["repeated"]) == (12, 3 + 12)
    # As separate files they add up to the same.
    files = [written(tmp_path / f"{n}.json", shard) for n, shard in enumerate(shards)]
    collected(tmp_path / "apart", *files)
    apart = load_episodes(tmp_path / "apart")
    columns = ["trial", "task_id", "reward"]
    assert apart[columns].to_numpy().tolist() == frame[columns].to_numpy().tolist()


def test_a_doubled_file_has_the_trials_of_the_file(tmp_path: Path) -> None:
    results = [result(t, n, float((t + n) % 3 == 0)) for n in range(4) for t in range(5)]
    results[7] = exception(2, 1)
    collected(tmp_path / "once", written(tmp_path / "once.json", results))
    summary = collected(tmp_path / "twice", written(tmp_path / "twice.json", results * 2))
    once, twice = load_episodes(tmp_path / "once"), load_episodes(tmp_path / "twice")
    columns = ["trial", "task_id", "reward", "outcome"]
    assert twice[columns].to_numpy().tolist() == once[columns].to_numpy().tolist()
    assert (summary["expected"], summary["left_out"]["repeated"]) == (20, 20)


def test_trials_without_randomness_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    alike = [{**result(0), "trial": trial} for trial in range(3)]
    collected(tmp_path / "out", written(tmp_path / "r.json", alike))
    assert list(load_episodes(tmp_path / "out")["trial"]) == [1, 2, 3]
    assert load_episodes(tmp_path / "out")["episode"].is_unique


def test_exceptions_that_are_alike_are_trials_of_merged_shards(tmp_path: Path) -> None:
    """Their text is the same in each trial; to drop one would raise pass^k."""
    shards = [[result(0), exception(1)] for _ in range(3)]
    for number, shard in enumerate(shards):
        shard[0]["traj"][2]["content"] = f"Done in shard {number}."
    files = [written(tmp_path / f"{n}.json", shard) for n, shard in enumerate(shards)]
    merged = written(tmp_path / "merged.json", [each for shard in shards for each in shard])
    for name, inputs in (("apart", files), ("merged", [merged]), ("both", [merged, files[1]])):
        collected(tmp_path / name, *inputs)
        frame = load_episodes(tmp_path / name)
        counts = frame.groupby(["task_id", "outcome"], observed=True).size().to_dict()
        assert counts == {(0, "solved"): 3, (1, "context_overflow"): 3}, name


def exception(task: int, trial: int = 0) -> dict[str, Any]:
    info = {"error": "maximum context length is 8 tokens", "traceback": "x"}
    return result(task, trial, 0.0, traj=[], info=info)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_prefix_gives_the_results_that_are_whole(tmp_path: Path, data: Any) -> None:
    results = [result(task, reward=task % 2) for task in range(5)]
    results[3]["traj"][1]["content"] = 'é \\" ]}, [{ \u2028'
    text = json.dumps(results, indent=data.draw(st.sampled_from([None, 2])), ensure_ascii=False)
    whole = text.encode()
    file = tmp_path / "cut.json"
    cut = data.draw(st.integers(0, len(whole)))
    file.write_bytes(whole[:cut])
    expected = _whole_elements(whole[:cut].decode("utf-8", "ignore"))
    folder = tmp_path / "out"
    if not expected:
        with pytest.raises(InvalidInput, match=r"no whole result|no results file"):
            collected(folder, file)
        return
    summary = collected(folder, file)
    assert summary["episodes"] == expected
    assert summary["left_out"]["torn"] == (cut < len(whole))
    assert list(load_episodes(folder)["reward"]) == [task % 2 for task in range(expected)]


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_entry_costs_that_entry_alone(tmp_path: Path, data: Any) -> None:
    results = [result(task, reward=task % 2) for task in range(8)]
    for each in results:
        each["traj"][1]["content"] = '{"task_id": 3, "info": {}, "traj": []}'
        each["traj"][2]["tool_calls"] = [{"id": "c", "function": {"arguments": '{"trial": 0}'}}]
    texts = [json.dumps(each, indent=data.draw(st.sampled_from([None, 2]))) for each in results]
    bad = data.draw(st.integers(0, 7))
    place = data.draw(st.integers(0, len(texts[bad]) - 1))
    spoilt = data.draw(st.sampled_from(["", "x", '"', "\\", "{", "}", "[", "]", ",", ":", "\0"]))
    texts[bad] = texts[bad][:place] + spoilt + texts[bad][place + 1 :]
    file = tmp_path / "damaged.json"
    file.write_text("[" + ", ".join(texts) + "]")
    summary = collected(tmp_path / "out", file)
    rewards = dict(load_episodes(tmp_path / "out")[["task_id", "reward"]].to_numpy().tolist())
    for task in range(8):
        assert task == bad or rewards[task] == task % 2
    # What is lost is counted. A stray brace before an entry that is whole costs nothing and counts.
    left_out = summary["left_out"]
    assert summary["episodes"] in (7, 8)
    assert summary["episodes"] + left_out["damaged"] + left_out["torn"] in (8, 9)


def test_two_damaged_entries_side_by_side_are_two(tmp_path: Path) -> None:
    text = json.dumps([result(task) for task in range(6)])
    for task in (2, 3):
        text = text.replace(f'"task_id": {task}, "reward":', f'"task_id": {task}, "reward"')
    (tmp_path / "r.json").write_text(text)
    summary = collected(tmp_path / "out", tmp_path / "r.json")
    assert summary["files"] == [{"file": "r.json", "episodes": 4, "damaged": 2}]


@pytest.mark.parametrize("missing", [1, 2, 3, 40])
def test_a_file_cut_off_near_its_end_is_reported(tmp_path: Path, missing: int) -> None:
    text = json.dumps([result(task) for task in range(3)], indent=2)
    (tmp_path / "cut.json").write_text(text[:-missing])
    summary = collected(tmp_path / "out", tmp_path / "cut.json")
    assert (summary["episodes"], summary["left_out"]["torn"]) == (3 - (missing > 2), 1)


def _whole_elements(text: str) -> int:
    """How many elements of a list a text holds to their end, by closing it after each bracket."""
    ends = [place + 1 for place, character in enumerate(text) if character == "}"]
    for end in reversed(ends):
        try:
            return len(json.loads(text[:end] + "]"))
        except ValueError:
            continue
    return 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no results file of tau-bench"),
        (b"PAR1\x00\xff", "no results file of tau-bench"),
        (b'{"task_id": 0}', "no results file of tau-bench"),
        (b"[1, 2]", "no results file of tau-bench"),
        (b'[{"episode": "x"}]', "no results file of tau-bench"),
        (b"[]", "no whole result"),
        (b"[" * 200_000, "no whole result"),
        (json.dumps([result(50)]).encode(), "airline has the test tasks 0 to 49"),
        (
            json.dumps(
                [result(0, traj=[{"role": "system", "content": "# Retail agent policy"}])]
            ).encode(),
            "a conversation of retail, not of airline",
        ),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=said):
        collected(tmp_path / "out", file)
    assert not (tmp_path / "out").exists()


def test_some_tasks_only_and_damaged_results(tmp_path: Path) -> None:
    results: list[Any] = [result(0), {**result(1), "reward": None}, result(2), "x", result(240)]
    summary = collected(tmp_path / "out", written(tmp_path / "r.json", results), tasks=(0, 1, 2))
    assert (summary["episodes"], summary["expected"]) == (2, 3)
    assert summary["files"] == [{"file": "r.json", "episodes": 2, "damaged": 2, "foreign": 1}]


def test_published_results_beside_a_run_of_ones_own(tmp_path: Path) -> None:
    own = full_run(tmp_path / "own", envs=("airline",))
    file = written(tmp_path / "r.json", [result(task) for task in range(4)])

    def both(folder: str, **changed: Any) -> Any:
        values = {"env": "airline", "variant": "control", "assistants": ("gpt-4o",), **changed}
        return collect_into(Request((own.path,), (file,), Described(**values), tmp_path / folder))

    both("out")
    frame = load_episodes(tmp_path / "out")
    assert frame["assistant"].value_counts().to_dict() == {"scripted": 16, "gpt-4o": 4}
    assert len(collect(RunDir(tmp_path / "out")).list_observations()) == 20
    assert load_plan(RunDir(tmp_path / "out")).benchmark == "tau_trait 0.1.1"
    for changed, said in (
        ({"assistants": ("scripted",)}, "assistant 'scripted' is in both"),
        ({"user_model": "gpt-4o"}, 'user.model: "scripted" | "gpt-4o"'),
        ({"user_strategy": "react"}, "user_strategy"),
        ({"max_steps": 10}, "max_steps: 30 | 10"),
        ({"tasks": (0, 1)}, 'tasks.airline: "0-3" | "0-1"'),
    ):
        with pytest.raises(InvalidInput) as refused:
            both("refused", **changed)
        assert said in str(refused.value)
    assert not (tmp_path / "refused").exists()


def test_our_own_results_json_gives_the_rewards_of_its_run(tmp_path: Path) -> None:
    own = full_run(tmp_path / "own", envs=("airline",), variants=("control",))
    outcomes: dict[tuple[int, int], tuple[str, str | None]] = {}
    files = []
    errors = cycle([Outcome.AGENT_ERROR, Outcome.USER_ERROR, Outcome.CONTEXT_OVERFLOW, None])
    for cell in load_plan(own).cells:
        lines = read_lines(own.cell(cell.number).episodes)
        records = [line.record for line in lines if line.record and line.record.is_final]
        for record in records:
            record.traj = record.traj[1:]  # the factory's policy is retail's
            if (outcome := next(errors)) is not None:
                record.outcome, record.error = outcome, EpisodeError("user:no_reply", "gone")
                record.info, record.reward = {"error": "gone"}, 0.0
            error = record.error.type if record.error else None
            outcomes[cell.trial, record.task_id] = (record.outcome, error)
        results = [record.to_stock_result() for record in records]
        assert {each["trial"] for each in results} == {cell.trial - 1}, "as stock counts them"
        files.append(written(own.cell(cell.number).results, results))
    collected(tmp_path / "out", *files)
    frame = load_episodes(tmp_path / "out").astype({"error": object})
    frame["error"] = frame["error"].where(frame["error"].notna(), None)
    columns = ["trial", "task_id", "outcome", "error"]
    read = {(t, k): (o, e) for t, k, o, e in frame[columns].itertuples(index=False)}
    assert read == outcomes
    assert frame["reward"].tolist() == (frame["outcome"] == "solved").astype(float).tolist()


@pytest.mark.parametrize(
    ("message", "traceback", "expected"),
    [
        ("no route", "", ("infra_error", "stock:unknown")),
        ("x", "litellm.exceptions.RateLimitError: x", ("infra_error", "stock:RateLimitError")),
        (
            "x",
            'File "/a/agents/v/tau_bench/agents/chat_react_agent.py", line 4\n'
            "TypeError: unsupported operand type(s) for +=: 'float' and 'NoneType'",
            ("infra_error", "stock:TypeError"),
        ),
        (
            "",
            'File "/a/tau_bench/agents/chat_react_agent.py", line 4\nAssertionError',
            ("agent_error", "stock:AssertionError"),
        ),
        (
            "prompt is too long: context length exceeded",
            "",
            ("context_overflow", "stock:unknown"),
        ),
    ],
)
def test_exceptions_by_whose_they_were(
    message: str, traceback: str, expected: tuple[str, str]
) -> None:
    assert classify_error(message, traceback) == expected


def test_a_reward_is_taken_as_it_is() -> None:
    unscored: dict[str, Any] = {"task": {}, "reward_info": None}
    assert classify_result(result(0, reward=1.0)) == ("solved", 1.0, None)
    assert classify_result(result(0, reward=0.0)) == ("failed", 0.0, None)
    assert classify_result(result(0, reward=0.0, info=unscored)) == ("max_steps", 0.0, None)
    assert classify_result(result(0, reward=0.0, info={})) == ("failed", 0.0, None)
