"""The tidy tables: what the files say, typed, whole or not at all, and as documented."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emobench.benchmarks.transcript import parse_transcript
from emobench.config.templates import find_shipped_sweeps
from emobench.core.outcomes import OUTCOMES, Outcome
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.store.episodes import EpisodeRecord, parse_episode
from emobench.tables.columns import (
    EPISODES,
    TEXT,
    TURNS,
    Column,
    build_episodes_table,
    build_turns_table,
)
from emobench.tables.rows import build_episode_row, build_turn_rows, collect_facts
from emobench.tables.run_results import collect
from emobench.tables.table import (
    load_episodes,
    load_frame,
    load_tables,
    load_turns,
)
from tests.support.runs import append, collected, episode, full_run, real_episode

PAGE = (find_shipped_sweeps().parent / "docs/tables.md").read_text("utf-8")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return full_run(tmp_path / "study")


def test_every_value_of_an_episode_is_in_its_row(run_dir: RunDir) -> None:
    frame = load_frame([run_dir])
    records = {}
    for cell in load_plan(run_dir).cells:
        for line in run_dir.cell(cell.number).episodes.read_text().splitlines():
            record = json.loads(line)
            records[cell.number, record["task_id"]] = record
    assert len(frame) == len(records) == 16
    rows: list[Any] = list(frame.itertuples())
    for row in rows:
        record = records[row.cell, row.task_id]
        for key in ("episode", "env", "agent_strategy", "assistant", "variant", "trial"):
            assert getattr(row, key) == record[key]
        for key in ("attempt", "outcome", "steps", "seed", "variant_sha256", "user_prompt_sha256"):
            assert getattr(row, key) == record[key]
        if record["outcome"] == "infra_error":
            assert pd.isna(row.reward)
            assert row.success is pd.NA
            assert row.error == "APIConnectionError"
        else:
            assert (row.reward, row.success) == (record["reward"], record["reward"] == 1)
        assert (row.user_prompt_tokens, row.assistant_completion_tokens) == (900, 40)
        assert (row.user_incarnation, row.assistant_incarnation) == ("user01", "assistant01")
        assert row.started == pd.Timestamp(record["started"])
        with Path(row.file).open("rb") as stream:
            stream.seek(row.offset)
            assert json.loads(stream.read(row.length)) == record


def test_the_frame_agrees_with_the_other_reader(run_dir: RunDir) -> None:
    frame = load_frame([run_dir])
    told = [
        (o.assistant, o.variant, o.trial, o.task_id, o.outcome, o.reward)
        for o in collect(run_dir).list_observations()
    ]
    columns = ["assistant", "variant", "trial", "task_id", "outcome", "reward"]
    rows = frame[columns].astype({"reward": object}).itertuples(index=False)
    assert [(*row[:5], None if pd.isna(row[5]) else row[5]) for row in rows] == told


def test_types_and_categories_are_those_of_the_schema(run_dir: RunDir, tmp_path: Path) -> None:
    collected(tmp_path / "out", run_dir, text=True)
    episodes, turns = load_episodes(tmp_path / "out"), load_turns(tmp_path / "out")
    assert list(episodes.columns) == [column.name for column in EPISODES]
    assert list(turns.columns) == [column.name for column in (*TURNS, TEXT)]
    for frame, columns in ((episodes, EPISODES), (turns, TURNS)):
        for column in columns:
            assert _kind(frame[column.name], column) == column.kind, column.name
            if not column.nullable:
                assert not frame[column.name].isna().any(), column.name
    assert tuple(episodes["outcome"].cat.categories) == OUTCOMES
    assert list(episodes["variant"].cat.categories) == ["control", "anger"]
    pd.testing.assert_frame_equal(episodes, load_frame([run_dir]))


def _kind(series: pd.Series[Any], column: Column) -> str:
    """The column's kind by its dtype, which says too whether values can be missing."""
    kind = {"str": "string", "object": "string", "datetime64[us, UTC]": "time"}
    if column.nullable:
        kind |= {"Int32": "int32", "Int64": "int64", "boolean": "bool"}
        kind |= dict.fromkeys(("int32", "int64", "bool"), "a type without missing values")
    return kind.get(str(series.dtype), str(series.dtype))


@pytest.mark.parametrize(("title", "columns"), [("episodes", EPISODES), ("turns", (*TURNS, TEXT))])
def test_the_page_says_what_the_schema_says(title: str, columns: Sequence[Column]) -> None:
    section = PAGE.split(f"## Columns of the {title}")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (yes)? ?\| (.+) \|$", section, flags=re.M)
    assert [(name, kind, bool(missing)) for name, kind, missing, _ in rows] == [
        (column.name, column.kind, column.nullable) for column in columns
    ]


def test_turns_are_the_messages(run_dir: RunDir, tmp_path: Path) -> None:
    collected(tmp_path / "out", run_dir, text=True)
    turns = load_turns(tmp_path / "out")
    first = turns[(turns["cell"] == 0) & (turns["task_id"] == 0)]
    record = json.loads(run_dir.cell(0).episodes.read_text().splitlines()[0])
    spoken = [(place, m) for place, m in enumerate(record["traj"]) if m["role"] != "system"]
    assert list(first["position"]) == [place for place, _ in spoken]
    assert list(first["role"]) == [message["role"] for _, message in spoken]
    assert list(first["text"]) == [message["content"] or "" for _, message in spoken]
    assert list(first["words"]) == [len((m["content"] or "").split()) for _, m in spoken]
    assert len(turns) == 16 * len(spoken)


def test_calls_that_react_agents_write_are_calls() -> None:
    messages = [
        {"role": "system", "content": "policy"},
        {"role": "user", "content": "API output: is what my screen says"},
        {
            "role": "assistant",
            "content": 'Thought:\nlook\nAction:\n{"name": "get_order", "arguments": {}}',
        },
        {"role": "user", "content": "API output: Error: order not found"},
        {
            "role": "assistant",
            "content": 'Action:\n{"name": "respond", "arguments": {"content": "Sorry"}}',
        },
        {"role": "user", "content": "API output: again"},
        {"role": "assistant", "content": "Action: no JSON"},
    ]
    record = EpisodeRecord(task_id=0, trial=1, outcome=Outcome.FAILED, traj=messages)
    rows = build_turn_rows(record, "react", with_text=False)
    assert [(row[0], row[1], row[4], row[5]) for row in rows] == [
        (1, "user", None, False),
        (2, "assistant", "get_order", False),
        (3, "tool", "get_order", True),
        (4, "assistant", None, False),
        (5, "user", None, False),
        (6, "assistant", None, False),
    ]
    assert [row[1] for row in build_turn_rows(record, "tool-calling", False)].count("user") == 3


def test_turns_and_patterns_see_the_same_calls() -> None:
    """Answers find their calls by id, one answer each, and an error begins with 'Error:'."""
    function = {"name": "get_order", "arguments": "{}"}
    calls = [
        {"id": "a", "function": function},
        {"id": "b", "function": {"name": "cancel_order", "arguments": "{}"}},
    ]
    results = (("b", "Error: no"), ("a", "Errors are rare"), ("a", "Unknown action x"))
    messages: list[dict[str, Any]] = [{"role": "assistant", "tool_calls": calls}]
    messages += [{"role": "tool", "tool_call_id": id_, "content": t} for id_, t in results]
    written = [
        {"role": "assistant", "content": f"Action: {json.dumps(function)}"},
        {"role": "user", "content": "API output: Errors are rare"},
        {"role": "user", "content": "API output: it says again"},
        {"role": "assistant", "content": 'Action: {"name": "get_order"}'},
        {"role": "user", "content": "API output: you called nothing"},
    ]
    for strategy, traj in (("tool-calling", messages), ("react", written)):
        record = EpisodeRecord(task_id=0, trial=1, outcome=Outcome.FAILED, traj=list(traj))
        rows = build_turn_rows(record, strategy, with_text=False)
        transcript = parse_transcript(traj, strategy)
        answers = sorted((row[4] or "", row[5]) for row in rows if row[1] == "tool")
        assert answers == sorted((call.tool, call.failed) for call in transcript.calls)
        assert transcript.steps == sum(row[1] == "assistant" for row in rows)
        spoken = [each.text for each in transcript.list_messages("user")]
        assert [len(text) for text in spoken] == [row[2] for row in rows if row[1] == "user"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_prefix_of_a_file_gives_what_is_whole_in_it(run_dir: RunDir, data: Any) -> None:
    path = run_dir.cell(0).episodes
    whole = path.read_bytes()
    try:
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        tables = load_tables(run_dir)
        lines = whole[:cut].split(b"\n")[:-1]
        assert len(tables.episodes) == 12 + len(lines)
        ends = [m.end() for m in re.finditer(b"\n", whole)]
        assert tables.summary["left_out"]["torn"] == (cut not in (0, *ends))
        assert tables.summary["expected"] == 16
    finally:
        path.write_bytes(whole)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_record_of_any_values_makes_a_row(run_dir: RunDir, data: Any) -> None:
    plan = load_plan(run_dir)
    cell = plan.cells[0]
    line = episode(cell, 0)
    loose = sorted(line.keys() - {"task_id", "trial", "outcome"})
    for key in data.draw(st.sets(st.sampled_from(loose), min_size=1)):
        line[key] = data.draw(JSON)
    record = parse_episode(line)
    assert record is not None
    row = build_episode_row(collect_facts("x", plan, cell, "f"), record, 0, 1)
    assert build_episodes_table([row]).num_rows == 1
    build_turn_rows(record, "react", with_text=True)
    build_turn_rows(record, "tool-calling", with_text=True)


def test_every_row_of_a_large_table_stands_in_its_place(run_dir: RunDir) -> None:
    plan = load_plan(run_dir)
    facts = collect_facts("x", plan, plan.cells[0], "f")
    messages = [{"role": "user", "content": "a " * n} for n in range(3)]
    record = EpisodeRecord(task_id=7, trial=1, outcome=Outcome.FAILED, traj=messages)
    count = 1234
    episodes = build_episodes_table(
        [build_episode_row(facts, record, n, 2 * n) for n in range(count)]
    )
    assert episodes.column("offset").to_pylist() == list(range(count))
    assert episodes.column("length").to_pylist() == list(range(0, 2 * count, 2))
    turns = build_turns_table(
        episodes, build_turn_rows(record, "react", False) * count, [3] * count, False
    )
    assert turns.column("words").to_pylist() == [0, 1, 2] * count
    assert build_episodes_table([]).schema == episodes.schema


def test_what_was_left_out_is_counted_by_file(run_dir: RunDir, tmp_path: Path) -> None:
    control, anger = load_plan(run_dir).cells[:2]
    path = run_dir.cell(0).episodes
    append(
        run_dir,
        control,
        [
            real_episode(run_dir, control, 3, "solved", attempt=2),
            real_episode(run_dir, control, 3, "failed", attempt=3),
            real_episode(run_dir, anger, 1, "solved"),
            {**real_episode(run_dir, control, 2, "solved"), "variant_sha256": "0" * 64},
        ],
    )
    with path.open("a") as stream:
        stream.write('not json\n{"task_id": 1')
    summary = collected(tmp_path / "out", run_dir)
    counts = {"replaced": 1, "duplicates": 1, "damaged": 1, "torn": 1, "foreign": 2, "repeated": 0}
    assert summary["left_out"] == counts
    (entry,) = summary["files"]
    assert entry["file"] == "../study/cells/0/episodes.jsonl"
    assert {key: count for key, count in entry.items() if key != "file"} == {
        "episodes": 4,
        **{key: count for key, count in counts.items() if count},
    }
    assert (summary["episodes"], summary["missing"]) == (16, 3)
    for name in ("episodes.parquet", "turns.parquet"):
        kept = pq.read_metadata(tmp_path / "out" / name).metadata[b"emobench"]
        assert json.loads(kept).items() >= summary.items()


def test_csv_has_the_same_rows(run_dir: RunDir, tmp_path: Path) -> None:
    collected(tmp_path / "out", run_dir, csv=True, text=True)
    for name, columns in (("episodes", EPISODES), ("turns", (*TURNS, TEXT))):
        frame = pq.read_table(tmp_path / f"out/{name}.parquet").to_pandas()
        text = pd.read_csv(tmp_path / f"out/{name}.csv", keep_default_na=False, dtype=str)
        assert list(text.columns) == list(frame.columns)
        assert len(text) == len(frame)
        for column in columns:
            expected = [_as_text(value, column) for value in frame[column.name]]
            given = [_as_text(_typed(field, column), column) for field in text[column.name]]
            assert given == expected, column.name


def _typed(field: str, column: Column) -> Any:
    if field == "" and column.nullable:
        return None
    if column.kind.startswith("int"):
        return int(field)
    if column.kind.startswith("float"):
        return float(field)
    if column.kind == "bool":
        return {"true": True, "false": False}[field]
    return pd.Timestamp(field) if column.kind == "time" else field


def _as_text(value: Any, column: Column) -> str:
    if pd.isna(value):
        return "missing"
    if column.kind.startswith("int"):
        return str(int(value))
    if column.kind.startswith("float"):
        return f"{value:.6g}"
    return str(value)
