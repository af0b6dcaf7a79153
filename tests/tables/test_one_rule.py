"""Every reader of an episodes file goes by one rule: resume, watch, report, tables, selection."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from emobench.analysis.transcript.selection import Selection, find
from emobench.core.files import dump_json
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.runs.watching.episodes import EpisodeScan
from emobench.store.episodes import EpisodeStore, format_line, make_cell_filter, parse_episode
from emobench.tables.run_results import collect
from emobench.tables.table import load_tables
from tests.support.runs import episode, make_run, real_episode


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "study", variants=("control", "anger"), tasks=3, trials=1)


def written(line: dict[str, object]) -> bytes:
    return json.dumps(line).encode() + b"\n"


@st.composite
def own(draw: st.DrawFn) -> bytes:
    """A whole line of the cell, some with what a strict JSON parser refuses."""
    outcome = draw(st.sampled_from(["solved", "failed", "user_error", "infra_error"]))
    line = episode(CONTROL, draw(st.integers(0, 2)), outcome, messages=2)
    odd = draw(st.sampled_from(["", "NaN", "lone surrogate"]))
    if odd == "NaN":
        line["cost"] = float("nan")
    elif odd:
        line["traj"][0]["content"] = "\ud800"
    return written(line)


CONTROL, ANGER = (
    Cell(
        number=number,
        assistant="scripted",
        env="retail",
        agent_strategy="tool-calling",
        variant=variant,
        trial=1,
        tasks=(0, 1, 2),
    )
    for number, variant in enumerate(("control", "anger"))
)
DAMAGED = (
    b"not json\n",
    b"\n",
    b"[1]\n",
    b'{"task_id": 0, "outcome": "splendid", "trial": 1}\n',
    b'{"task_id": 0, "outcome": "solved"}\n',
    b'{"task_id": true, "outcome": "solved", "trial": 1}\n',
    b'{"task_id": [0], "outcome": "solved", "trial": 1}\n',
)
FOREIGN = (
    written(episode(ANGER, 0)),
    written(episode(CONTROL, 99)),
    written({**episode(CONTROL, 1), "assistant": "another"}),
    written({**episode(CONTROL, 1), "agent_strategy": "react"}),
)
TORN = written(episode(CONTROL, 2))[:-30]
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SETTINGS
@example(lines=[FOREIGN[2], written(episode(CONTROL, 1))], tail=b"", first=0)
@given(
    lines=st.lists(own() | st.sampled_from([*DAMAGED, *FOREIGN]), max_size=8),
    tail=st.sampled_from([b"", TORN]),
    first=st.integers(0, 8),
)
def test_all_readers_find_the_same_episodes(
    run_dir: RunDir, lines: list[bytes], tail: bytes, first: int
) -> None:
    path = run_dir.cell(0).episodes
    path.parent.mkdir(parents=True, exist_ok=True)
    # Watching reads a part, while the next line is being written, and then the rest.
    path.write_bytes(b"".join(lines[:first]) + (lines[first][:-1] if first < len(lines) else b""))
    scan = EpisodeScan(load_plan(run_dir), run_dir)
    scan.read({0: False}, None, time.time())
    path.write_bytes(b"".join(lines) + tail)
    scan.read({0: False}, None, time.time())

    result = collect(run_dir).cells[0].file
    found = {each.task_id: each.outcome.value for each in result.episodes}
    tables = load_tables(run_dir)
    frame = tables.episodes
    assert dict(zip(frame["task_id"].tolist(), frame["outcome"].tolist(), strict=True)) == found
    left_out = tables.summary["left_out"]
    assert {name: getattr(result.left_out, name) for name in left_out} == left_out
    selected = find(run_dir, load_plan(run_dir), Selection())
    assert {each.summary.task_id: str(each.summary.outcome) for each in selected} == found
    counted = scan.variants["control"].outcomes
    assert {str(name): n for name, n in counted.items() if n} == Counter(found.values())
    assert result.left_out.torn == (tail != b"")
    assert len(result.episodes) + sum(vars(result.left_out).values()) == sum(
        1 for line in [*lines, tail] if line.strip()
    )


@SETTINGS
@given(lines=st.lists(own() | st.sampled_from(DAMAGED), max_size=8))
def test_a_resumed_cell_runs_what_the_report_lacks(run_dir: RunDir, lines: list[bytes]) -> None:
    path = run_dir.cell(0).episodes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(lines) + TORN)
    found = {each.task_id: each.outcome for each in collect(run_dir).cells[0].file.episodes}
    with EpisodeStore(run_dir.cell(0)) as store:
        assert {task: record.outcome for task, record in store.records.items()} == found
        assert store.list_finished() == {task for task in found if store.records[task].is_final}
    sound = [line for line in lines if line not in DAMAGED or line == b"\n"]
    assert path.read_bytes() == b"".join(sound), "what is damaged or torn has left the file"
    damaged = [line for line in lines if line not in sound]
    beside = run_dir.cell(0).set_aside
    assert beside.read_bytes() == b"".join([*damaged, TORN, b"\n"]), "and stands beside it"
    beside.unlink()


@pytest.mark.parametrize("checksum", [True, False])
def test_a_flipped_bit_anywhere_costs_its_episode_and_nothing_else(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, checksum: bool
) -> None:
    """No outcome, key or task of a spoilt line is believed. Of lines that earlier versions wrote,
    without a checksum, the runner and every reader say the same at least."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of files
    paths, plan = run_dir.cell(0), load_plan(run_dir)
    outcomes = ("solved", "agent_error")
    lines = [real_episode(run_dir, CONTROL, task, each) for task, each in enumerate(outcomes)]
    for line in lines:
        line |= {"traj": line["traj"][1:2], "info": {}, "calls": []}
    records = [parse_episode({**line, "schema": 2}) for line in lines]
    data = b"".join(
        format_line(record) + b"\n" if checksum and record is not None else written(line)
        for line, record in zip(lines, records, strict=True)
    )
    paths.folder.mkdir(parents=True)
    starts = [place for place, byte in enumerate(data) if byte == ord("\n")]
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        paths.episodes.write_bytes(flipped)
        scan = EpisodeScan(plan, run_dir)
        scan.read({0: False}, None, time.time())
        file = collect(run_dir).cells[0].file
        found = {each.task_id: each.outcome for each in file.episodes}
        with EpisodeStore(paths, make_cell_filter(CONTROL)) as store:
            assert {task: each.outcome for task, each in store.records.items()} == found, place
        watched = {name for name, n in scan.variants["control"].outcomes.items() if n}
        assert watched == set(found.values()), place
        set_aside = paths.set_aside.read_bytes() if paths.set_aside.exists() else b""
        kept = paths.episodes.read_bytes() + set_aside
        assert sorted(kept.split()) == sorted(bytes(flipped).split()), place
        if checksum:
            struck = sum(end < place for end in starts)
            lost = {struck, struck + 1} if place in starts else {struck}
            assert found == {t: outcomes[t] for t in range(2) if t not in lost}, place
        paths.set_aside.unlink(missing_ok=True)


def test_what_is_written_is_what_is_read(run_dir: RunDir) -> None:
    """The one schema: every field survives, those of a record with odd text too."""
    line = episode(CONTROL, 1, "agent_error", attempt=2)
    line["history"] = [
        {
            "attempt": 1,
            "error": {"type": "user:infra", "message": "gone"},
            "started": "2026-11-20T09:00:00+00:00",
            "wall_s": 1.5,
            "steps": 3,
            "outcome": "infra_error",
            "usage": {
                role: {
                    "prompt_tokens": 5,
                    "completion_tokens": None,
                    "cost": 0.25,
                    "rate_limit_wait_s": None,
                }
                for role in ("user", "assistant")
            },
        }
    ]
    line["traj"][0]["content"] = "\ud800"
    record = parse_episode(line)
    assert record is not None
    with EpisodeStore(run_dir.cell(0)) as store:
        store.append(record)
    with EpisodeStore(run_dir.cell(0)) as store:
        assert store.records == {1: record}
    data = json.loads(run_dir.cell(0).episodes.read_bytes())
    assert list(data)[-1] == "crc32"
    assert data == {**json.loads(dump_json(record)), "crc32": data["crc32"]}
    assert {key: data[key] for key in line} == line
