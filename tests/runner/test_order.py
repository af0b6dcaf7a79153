"""The longest conversations begin first, and nothing that they hold depends on it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emobench.benchmarks.adapter import load_benchmark
from emobench.benchmarks.tasks import load_env
from emobench.core.files import write_json
from emobench.core.models import OpenAIModel
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.runner.cell import run_cell
from emobench.runner.order import estimate_length, predict_lengths, sort_longest_first
from emobench.store.episodes import EpisodeRecord, EpisodeStore
from emobench.store.summaries import read_summary
from tests.support.model_server import Reply, recording
from tests.support.plans import LOCAL, make_plan
from tests.support.scripted import Launch, launch

__all__ = ["launch"]
RETAIL = dict(enumerate(load_env("retail").tasks))
LENGTHS = st.dictionaries(st.integers(0, 114), st.integers(0, 10**6), max_size=20)


def planned(folder: Path, url: str, **options: Any) -> tuple[Plan, RunDir]:
    model = OpenAIModel(model="scripted", base_url=url)
    options = {"concurrency": 2, "probe": "off", **options}
    plan = make_plan(LOCAL, folder, model, {"a": model}, **options)
    return plan.model_copy(update={"benchmark": load_benchmark().label}), RunDir(folder)


def note_tokens(run_dir: RunDir, number: int, tokens: Mapping[int, int]) -> None:
    summary = run_dir.cell(number).summary
    summary.parent.mkdir(parents=True)
    write_json(summary, {"schema": 1, "cell": number, "tokens_by_task": tokens})


def test_the_estimate_goes_by_what_the_user_tells_and_what_is_written() -> None:
    """The mean conversation of each environment is 1, as measured ones are."""
    by_length = sorted(RETAIL.values(), key=estimate_length)
    short, long = by_length[0], by_length[-1]
    assert len(short.write_actions) < len(long.write_actions)
    assert len(short.instruction) < len(long.instruction)
    for env in ("retail", "airline"):
        tasks = load_env(env).tasks
        assert 0.8 < sum(map(estimate_length, tasks)) / len(tasks) < 1.2


@given(st.lists(LENGTHS, max_size=4), st.integers(2, 9))
def test_what_was_measured_counts_relative_to_its_cell(
    measured: list[dict[int, int]], times: int
) -> None:
    tasks = {number: RETAIL[number] for number in range(0, 115, 3)}
    lengths = predict_lengths(tasks, measured)
    assert lengths.keys() == tasks.keys()
    assert all(length > 0 for length in lengths.values())
    wordy = [{task: times * tokens for task, tokens in cell.items()} for cell in measured]
    assert predict_lengths(tasks, wordy) == pytest.approx(lengths)
    seen = set().union(*measured)
    for number in tasks.keys() - seen:
        assert lengths[number] == pytest.approx(estimate_length(tasks[number]))


def test_a_few_measurements_outweigh_the_estimate() -> None:
    tasks = {number: RETAIL[number] for number in range(10)}
    wrong = sorted(tasks, key=lambda number: estimate_length(tasks[number]))
    cell = {number: 1000 - 100 * place for place, number in enumerate(wrong)}
    lengths = predict_lengths(tasks, [cell, cell])
    assert sorted(tasks, key=lambda number: -lengths[number])[:3] == wrong[:3]


def test_a_cell_begins_with_the_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    pairs = threading.Barrier(2)

    def converse(context: Any, roles: Any, task: int, attempt: int, *_: Any) -> EpisodeRecord:
        begun.append(task)
        pairs.wait(20)
        return ended(context, task)

    with recording(lambda request: Reply("Hm.")) as server:
        plan, run_dir = planned(tmp_path, server.url, tasks=12)
        monkeypatch.setattr("emobench.runner.episode.run_episode", converse)
        assert run_cell(plan, run_dir, 0, lambda line: None) == 0
    wanted = sorted(range(12), key=lambda task: -estimate_length(RETAIL[task]))
    assert wanted != list(range(12))
    pairs_of = [set(begun[i : i + 2]) for i in range(0, 12, 2)]
    assert pairs_of == [set(wanted[i : i + 2]) for i in range(0, 12, 2)]


def ended(context: Any, task: int) -> EpisodeRecord:
    from emobench.config.identity import hash_content
    from emobench.core.outcomes import Outcome

    env, strategy, assistant = context.cell.env, context.cell.agent_strategy, context.cell.assistant
    return EpisodeRecord(
        task_id=task,
        trial=context.cell.trial,
        outcome=Outcome.SOLVED,
        reward=1.0,
        episode=hash_content(context.content, task),
        env=env,
        agent_strategy=strategy,
        assistant=assistant,
        variant=context.cell.variant,
    )


def test_a_cell_goes_by_what_the_others_of_its_setting_wrote(tmp_path: Path) -> None:
    plan, run_dir = planned(
        tmp_path, "http://localhost:9/v1", envs=("retail", "airline"), tasks=6, trials=12
    )
    retail = [cell for cell in plan.cells if cell.env == "retail"]
    airline = next(cell for cell in plan.cells if cell.env == "airline")
    by_estimate = sort_longest_first(plan, run_dir, retail[-1], range(6))
    backwards = {task: 100 + 50 * place for place, task in enumerate(by_estimate)}
    for cell in retail[:3]:
        note_tokens(run_dir, cell.number, backwards)
    assert sort_longest_first(plan, run_dir, retail[3], range(6)) == by_estimate[::-1]
    assert sort_longest_first(plan, run_dir, retail[3], [4, 2]) == sorted(
        [4, 2], key=by_estimate[::-1].index
    )
    unmeasured = sort_longest_first(plan, run_dir, airline, range(6))
    tasks = load_env("airline").tasks
    assert unmeasured == sorted(range(6), key=lambda task: -estimate_length(tasks[task]))


def test_nothing_is_read_and_sorted_where_one_converses_at_a_time(tmp_path: Path) -> None:
    plan, run_dir = planned(tmp_path, "http://localhost:9/v1", tasks=9, concurrency=1)
    assert sort_longest_first(plan, run_dir, plan.cells[0], [3, 8, 1]) == [3, 8, 1]


def test_a_damaged_summary_of_another_cell_is_no_measure(tmp_path: Path) -> None:
    plan, run_dir = planned(tmp_path, "http://localhost:9/v1", tasks=6)
    expected = sort_longest_first(plan, run_dir, plan.cells[1], range(6))
    note_tokens(run_dir, 0, {0: 0, 1: 0})
    run_dir.cell(3).folder.mkdir(parents=True)
    run_dir.cell(3).summary.write_text('{"schema": 1, "tokens_by_task": {"x": "y"}}')
    assert sort_longest_first(plan, run_dir, plan.cells[1], range(6)) == expected


def test_content_is_equal_in_any_order(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real conversations with a server that makes mistakes by its seed, in two orders."""
    url = launch(mistakes=0.4).url + "/v1"

    def run(folder: Path) -> dict[int, dict[str, Any]]:
        plan, run_dir = planned(folder, url, tasks=12, concurrency=3)
        assert run_cell(plan, run_dir, 0, lambda line: None) == 0
        with EpisodeStore(run_dir.cell(0)) as store:
            return {task: read_content(record) for task, record in store.records.items()}

    def shortest_first(
        plan: Plan, run_dir: RunDir, cell: Cell, tasks: Collection[int]
    ) -> list[int]:
        return sort_longest_first(plan, run_dir, cell, tasks)[::-1]

    longest_first = run(tmp_path / "one")
    monkeypatch.setattr("emobench.runner.cell.sort_longest_first", shortest_first)
    assert run(tmp_path / "other") == longest_first
    assert {content["reward"] for content in longest_first.values()} == {0.0, 1.0}
    summaries = [read_summary(RunDir(tmp_path / name), 0) for name in ("one", "other")]
    tokens = [summary.tokens_by_task for summary in summaries if summary is not None]
    assert tokens[0] == tokens[1]
    assert tokens[0].keys() == set(range(12))


def read_content(record: EpisodeRecord) -> dict[str, Any]:
    """Return what a record says but for its times."""
    content = {name: getattr(record, name) for name in record.__slots__}
    calls = [{**call, "latency_s": 0, "sent": 0} for call in content.pop("calls")]
    return {**content, "started": None, "wall_s": None, "calls": calls}
