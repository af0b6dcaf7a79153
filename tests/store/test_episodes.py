"""The episode store: one writer, whole lines, and any prefix of its file is recoverable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emobench.core.errors import InvalidInput
from emobench.core.files import dump_json
from emobench.core.outcomes import Outcome
from emobench.core.run_dir import CellPaths
from emobench.core.sweep import Cell
from emobench.store.calls import RoleUsage, count_usage
from emobench.store.episodes import (
    SCHEMA,
    BenchmarkVersion,
    CellBusy,
    EarlierAttempt,
    EpisodeError,
    EpisodeRecord,
    EpisodeStore,
    Kept,
    Line,
    LineCounts,
    count_lines,
    format_line,
    make_cell_filter,
    parse_episode,
    parse_line,
    read_lines,
    read_results,
)


def record(task: int, outcome: Outcome = Outcome.SOLVED, attempt: int = 1) -> EpisodeRecord:
    reward = None if outcome is Outcome.INFRA_ERROR else float(outcome is Outcome.SOLVED)
    traj = ["é\n\u2028" * task]
    return EpisodeRecord(
        task_id=task, trial=1, outcome=outcome, reward=reward, attempt=attempt, traj=traj
    )


def line(task: int) -> bytes:
    return format_line(record(task)) + b"\n"


def test_episodes_come_back(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    with EpisodeStore(paths) as store:
        store.append(record(3))
        store.append(record(1, Outcome.FAILED))
    with EpisodeStore(paths) as store:
        assert store.list_finished() == {1, 3}
        assert store.records[3] == record(3)


def test_an_infrastructure_error_is_replaced_and_a_result_is_not(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    with EpisodeStore(paths) as store:
        store.append(record(1, Outcome.INFRA_ERROR, attempt=3))
        assert store.list_finished() == set()
        assert store.count_attempts(1) == 3
        store.append(record(2, Outcome.INFRA_ERROR, 4), record(2, Outcome.INFRA_ERROR, 3))
        assert store.count_attempts(2) == 4
        store.append(record(1, Outcome.FAILED, attempt=4))
        store.append(record(1, attempt=5))
    with EpisodeStore(paths) as store:
        assert store.records[1].outcome is Outcome.FAILED


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(min_value=0), tail=st.binary(max_size=5))
def test_any_prefix_is_recoverable(tmp_path: Path, cut: int, tail: bytes) -> None:
    paths = CellPaths(tmp_path / "0")
    paths.folder.mkdir(exist_ok=True)
    lines = [line(task) for task in range(4)]
    data = b"".join(lines)
    cut %= len(data) + 1
    tail = tail.replace(b"\n", b"")
    paths.episodes.write_bytes(data[:cut] + tail)
    whole = sum(len(b"".join(lines[: n + 1])) <= cut for n in range(4))
    with EpisodeStore(paths) as store:
        assert store.list_finished() == set(range(whole))
        store.append(record(9))
    with EpisodeStore(paths) as store:
        assert store.list_finished() == {*range(whole), 9}


def test_a_damaged_line_in_the_middle_costs_that_line_only(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    paths.folder.mkdir()
    paths.episodes.write_bytes(line(0) + b'{"task_id": 1, "out\n[]\n' + line(2))
    with EpisodeStore(paths) as store:
        assert store.list_finished() == {0, 2}


def test_line_ends_that_an_editor_changed_damage_nothing(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    with EpisodeStore(paths) as store:
        store.append(record(1), record(2))
    paths.episodes.write_bytes(paths.episodes.read_bytes().replace(b"\n", b"\r\n"))
    with EpisodeStore(paths) as store:
        assert (store.records, store.damaged) == ({1: record(1), 2: record(2)}, 0)
        store.append(record(3))
    assert [each.state for each in read_lines(paths.episodes)] == ["episode"] * 3


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    with EpisodeStore(paths), pytest.raises(CellBusy, match="another process"):
        EpisodeStore(paths).__enter__()
    with EpisodeStore(paths):
        pass


def test_a_cell_whose_file_cannot_be_opened_is_not_held(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    paths.episodes.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        EpisodeStore(paths).__enter__()
    paths.episodes.rmdir()
    with EpisodeStore(paths) as store:
        store.append(record(1))


WRITER = """
import sys
from pathlib import Path
from emobench.core.outcomes import Outcome
from emobench.core.run_dir import CellPaths
from emobench.store.episodes import EpisodeRecord, EpisodeStore
with EpisodeStore(CellPaths(Path(sys.argv[1]))) as store:
    for task in range(10**6):
        more = {"reward": 1.0, "traj": ["x" * 5000]}
        store.append(EpisodeRecord(task_id=task, trial=1, outcome=Outcome.SOLVED, **more))
        print(task, flush=True)
"""


def test_kill_9_loses_nothing_that_was_reported(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    for reports in (1, 7, 20):
        paths.episodes.unlink(missing_ok=True)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(paths.folder)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(reports):
            last = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        last = int(rest[-1]) if rest else last
        with EpisodeStore(paths) as store:
            assert store.list_finished() >= set(range(last + 1))


def test_a_line_of_a_newer_version_is_refused_and_stays(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    paths.folder.mkdir()
    newer = format_line(replace(record(1), schema=SCHEMA + 1)) + b"\n"
    paths.episodes.write_bytes(line(0) + newer)
    with pytest.raises(InvalidInput, match=f"schema {SCHEMA + 1}") as refused:
        EpisodeStore(paths).__enter__()
    assert str(paths.episodes) in str(refused.value)
    assert paths.episodes.read_bytes() == line(0) + newer
    assert not paths.set_aside.exists()


def test_a_line_without_its_checksum_is_damaged_unless_an_earlier_version_wrote_it(
    tmp_path: Path,
) -> None:
    paths = CellPaths(tmp_path / "0")
    paths.folder.mkdir()
    bare = dump_json(record(0)) + b"\n"
    earlier = dump_json(replace(record(1), schema=1)) + b"\n"
    paths.episodes.write_bytes(bare + earlier)
    with EpisodeStore(paths) as store:
        assert store.list_finished() == {1}
        assert store.damaged == 1
    assert (paths.set_aside.read_bytes(), paths.episodes.read_bytes()) == (bare, earlier)


def test_what_is_set_aside_runs_again_and_its_attempts_stay_known(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    lines = [record(1, Outcome.INFRA_ERROR, attempt=3), record(1, Outcome.AGENT_ERROR, attempt=4)]
    with EpisodeStore(paths) as store:
        store.append(record(0), *lines, record(1, attempt=5))
        store.set_aside({1})
        assert store.list_finished() == {0}
        assert store.count_attempts(1) == 5
        store.append(record(2))
    with EpisodeStore(paths) as store:
        assert store.list_finished() == {0, 2}
        told = [(each.attempt, each.outcome) for each in store.earlier[1]]
        assert told == [(3, "infra_error"), (4, "agent_error"), (5, "solved")]
        store.append(replace(record(1, attempt=6), history=store.earlier[1]))
        store.set_aside({1})
        assert [each.attempt for each in store.earlier[1]] == [3, 4, 5, 6]
    assert len(paths.set_aside.read_bytes().splitlines()) == 4


CALLS: list[dict[str, Any]] = [
    {"role": "user", "prompt_tokens": 3, "completion_tokens": 2, "cost": 0.5},
    {"role": "x"},
]
FULL = EpisodeRecord(
    episode="e" * 16,
    cell=0,
    env="retail",
    agent_strategy="act",
    variant="control",
    assistant="a",
    trial=2,
    task_id=0,
    attempt=2,
    reward=0.5,
    info={"a": 1},
    traj=[{"role": "user", "content": "\u2028é"}],
    outcome=Outcome.AGENT_ERROR,
    error=EpisodeError("assistant:rejected", "no"),
    started="2026-01-01T00:00:00+00:00",
    wall_s=1.5,
    steps=3,
    turns=2,
    tool_calls=1,
    cost=0.25,
    seed=2**40,
    calls=CALLS,
    variant_sha256="v",
    user_strategy="llm",
    fidelity=["send_seed"],
    user_prompt_sha256="p",
    benchmark=BenchmarkVersion("tau", "1"),
    emobench="0.2",
    history=[
        EarlierAttempt(
            1, EpisodeError("t", "m"), "s", 2.5, 4, Outcome.MAX_STEPS, count_usage(CALLS[:1])
        )
    ],
)
PATH = Path("cells/0/episodes.jsonl")


def away(record: EpisodeRecord) -> EpisodeRecord:
    return replace(record, outcome=Outcome.INFRA_ERROR, reward=None)


def read(**changed: object) -> EpisodeRecord:
    """The full record with some of its keys changed, as it is read; None takes one out."""
    data = {**json.loads(dump_json(FULL)), **changed}
    found = parse_episode({key: value for key, value in data.items() if value is not None})
    assert found is not None
    return found


def test_every_field_comes_back() -> None:
    assert parse_line(format_line(FULL) + b"\n", PATH) == FULL
    assert read() == FULL
    assert FULL.attempts[:-1] == FULL.history
    own = (2, FULL.error, FULL.started, 1.5, 3, Outcome.AGENT_ERROR, count_usage(CALLS))
    assert FULL.attempts[-1] == EarlierAttempt(*own)


ABSENT: dict[str, Any] = {
    "schema": 1,
    "episode": "",
    "cell": -1,
    "env": "",
    "agent_strategy": "",
    "variant": "",
    "assistant": "",
    "attempt": 1,
    "reward": None,
    "info": {},
    "traj": [],
    "error": None,
    "started": None,
    "wall_s": None,
    "steps": 0,
    "turns": 0,
    "tool_calls": 0,
    "cost": None,
    "seed": None,
    "calls": [],
    "variant_sha256": None,
    "user_strategy": None,
    "fidelity": [],
    "user_prompt_sha256": None,
    "benchmark": None,
    "emobench": None,
    "history": [],
}
"""What an older version did not write."""


@pytest.mark.parametrize("name", sorted(ABSENT))
def test_a_field_that_is_not_as_it_was_written_is_absent(name: str) -> None:
    expected = replace(FULL, **{name: ABSENT[name]})
    parts = ("info", "traj", "error", "calls", "benchmark", "fidelity", "history")
    odd: object = "x" if name in parts else [1]
    for value in (None, odd, 1e400 if name in ("reward", "wall_s", "cost", "steps") else odd):
        assert read(**{name: value}) == expected


@pytest.mark.parametrize("name", ["task_id", "trial", "outcome"])
def test_what_is_no_episode(name: str) -> None:
    data = json.loads(dump_json(FULL))
    values: list[object] = [None, [], 1.0, True, "sovled"]
    for value in values:
        assert parse_episode({**data, name: value}) is None
    assert parse_episode([]) is parse_episode(None) is None


def test_numbers_are_read_as_they_can_be_stored() -> None:
    assert read(reward=1, cost=2, wall_s=10**400) == replace(
        FULL, reward=1.0, cost=2.0, wall_s=None
    )
    assert read(cost=10**400).cost is None
    assert type(read(reward=1).reward) is float
    assert read(steps=3.0, turns=2.5, tool_calls=True) == replace(FULL, turns=0, tool_calls=0)
    for name, largest in (("attempt", 2**15 - 1), ("steps", 2**31 - 1), ("seed", 2**63 - 1)):
        assert getattr(read(**{name: largest}), name) == largest
        assert getattr(read(**{name: largest + 1}), name) == ABSENT[name]
        assert getattr(read(**{name: -largest}), name) == -largest
        assert getattr(read(**{name: -largest - 1}), name) == ABSENT[name]
    assert read(schema=0).schema == 1
    assert read(cell=2**31).cell == -1
    assert read(env="a\ud800é").env == "a?é"


def test_parts_that_are_odd_cost_themselves() -> None:
    assert read(calls=[*CALLS, 5]) == read(fidelity=["send_seed", 5]) == FULL
    assert read(history=5) == replace(FULL, history=[])
    assert read(error={}).error == EpisodeError("", "")
    assert read(benchmark={}).benchmark == BenchmarkVersion("", "")
    blank = EarlierAttempt(1, None, None, None, 0)
    assert read(history=[{}, 5, {"outcome": "x", "usage": 5}]).history == [blank, blank]
    assert read(outcome="infra_error") == away(FULL)
    assert not away(FULL).is_final and not read(reward=None).is_final


def test_a_lines_checksum_and_schema() -> None:
    written = format_line(FULL) + b"\n"
    assert parse_line(written.replace(b"control", b"contrql"), PATH) is None
    assert parse_line(written.replace(b'"crc32":"', b'"crc32":"0'), PATH) is None
    bare = dump_json(FULL) + b"\n"
    assert parse_line(bare, PATH) is None, "from schema 2 on"
    old = dump_json(replace(FULL, schema=1)) + b"\n"
    assert parse_line(old, PATH) == replace(FULL, schema=1)
    assert parse_line(format_line(replace(FULL, schema=1)) + b"\n", PATH) == replace(FULL, schema=1)
    assert parse_line(b"[1]\n", PATH) is parse_line(b"\n", PATH) is None
    with pytest.raises(InvalidInput) as refused:
        parse_line(format_line(replace(FULL, schema=3)) + b"\n", PATH)
    (problem,) = refused.value.problems
    text = "an episode of schema 3; this emobench reads up to 2"
    hint = "a newer version wrote it; use that one"
    assert (problem.message, problem.file, problem.hint) == (text, str(PATH), hint)


def test_stocks_result() -> None:
    info = {"a": 1, "outcome": "agent_error", "error_type": "assistant:rejected"}
    expected = {"task_id": 0, "reward": 0.5, "info": info, "traj": FULL.traj, "trial": 1}
    assert FULL.to_stock_result() == expected
    solved = replace(FULL, error=None, outcome=Outcome.SOLVED)
    assert solved.to_stock_result() == {**expected, "info": {"a": 1}}
    assert FULL.info == {"a": 1}


def test_the_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"damaged\n \n" + line(1) + b"torn")
    end = 10 + len(line(1))
    lines = [
        Line(0, 8, "damaged"),
        Line(8, 2, "blank"),
        Line(10, len(line(1)), "episode", record(1)),
        Line(end, 4, "torn"),
    ]
    assert list(read_lines(path)) == lines
    assert list(read_lines(path, 8)) == lines[1:]
    assert [each.end for each in lines] == [8, 10, end, end + 4]


def test_which_lines_count(tmp_path: Path) -> None:
    """Of a task its first result, or else its last line; over several files of one cell."""
    first, second = tmp_path / "first", tmp_path / "second"
    infra, failed = Outcome.INFRA_ERROR, Outcome.FAILED
    foreign = replace(record(1), env="another")
    rows = [record(1, infra, 1), record(1, infra, 2), record(1, failed, 3), record(1), foreign]
    rows += [record(2, infra, 5), record(1), foreign]
    lines = [format_line(each) + b"\n" for each in rows]
    first.write_bytes(lines[0] + b"damaged\n \n" + b"".join(lines[1:]) + b"damaged\ntorn")
    second.write_bytes(2 * line(1) + line(2) + line(3))
    kept: dict[int, Kept[tuple[int | None, int, int]]] = {}

    def count(path: Path) -> LineCounts:
        belongs = lambda each: each.env == ""  # noqa: E731
        return count_lines(path, lambda each, *at: (each.attempt, *at), kept, belongs)

    assert count(first) == LineCounts(replaced=2, duplicates=2, damaged=2, torn=1, foreign=2)
    offset = len(lines[0]) + len(b"damaged\n \n") + len(lines[1])
    assert kept[1] == Kept(first, True, (3, offset, len(lines[2])))
    assert (kept[2].is_final, kept[2].made[0]) == (False, 5)
    assert count(second) == LineCounts(repeated=3)
    assert [kept[task].path for task in (1, 2, 3)] == [first, second, second]
    for absent in (tmp_path / "absent", first / "below"):
        assert count(absent) == LineCounts()
    assert not LineCounts() and LineCounts(torn=1)
    with pytest.raises(IsADirectoryError):
        count(tmp_path)


def test_the_results_of_a_cell_are_read_anew_where_the_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "episodes"
    cell = Cell(
        number=0,
        env="retail",
        agent_strategy="act",
        variant="control",
        assistant="a",
        trial=2,
        tasks=(0,),
    )
    assert cell.key == FULL.key
    belongs = make_cell_filter(cell)
    strangers = [replace(FULL, task_id=1), replace(FULL, trial=1)]
    assert [belongs(FULL), *map(belongs, strangers)] == [True, False, False]
    lines = [replace(FULL, task_id=1), replace(FULL, trial=1), away(FULL)]
    written = [format_line(each) + b"\n" for each in lines]
    assert read_results(path, cell) == read_results(path / "below", cell) == {}
    path.write_bytes(written[0] + written[1])
    one = read_results(path, cell)
    assert one == {1: (Outcome.AGENT_ERROR, 0.5, True)}
    assert read_results(path, cell) is one
    path.write_bytes(b"".join(written))
    assert read_results(path, cell) == {**one, 0: (Outcome.INFRA_ERROR, None, False)}


def test_what_a_store_knows_of_its_file(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "deep" / "0")
    stranger = replace(record(1, attempt=9), env="another")
    paid = {"role": "user", "prompt_tokens": 3, "completion_tokens": 2, "cost": 0.5}
    infra = replace(record(1, Outcome.INFRA_ERROR, 1), calls=[paid])
    again = replace(record(1, attempt=2), calls=[paid], history=infra.attempts)
    with EpisodeStore(paths, lambda each: each.env == "") as store:
        store.append(infra, again)
        assert (store.count_attempts(1), store.count_attempts(2), store.damaged) == (2, 0, 0)
        assert store.usage["user"] == RoleUsage(6, 4, 1.0), "each attempt was paid for once"
    with paths.episodes.open("ab") as file:
        file.write(format_line(stranger) + b"\n" + b"damaged\ntorn")
    with EpisodeStore(paths, lambda each: each.env == "") as store:
        assert (store.damaged, store.foreign, store.list_finished()) == (2, [stranger], {1})
        assert (store.count_attempts(1), store.records[1]) == (2, again)
        assert paths.set_aside.read_bytes() == b"damaged\ntorn\n"
        store.set_aside({1, 2})
        assert (store.records, store.foreign, store.list_finished()) == ({}, [stranger], set())
        held = [fd for fd in Path("/proc/self/fd").iterdir() if fd.resolve() == paths.episodes]
        assert [os.get_inheritable(int(fd.name)) for fd in held] == [False]
        assert store.earlier == {1: again.attempts}
        assert store.count_attempts(1) == 2
        assert store.usage["user"] == RoleUsage(6, 4, 1.0)
    with EpisodeStore(paths, lambda each: each.env == "another") as other:
        assert (other.count_attempts(1), other.earlier, other.usage["user"]) == (9, {}, RoleUsage())
        told = f"{paths.folder}: another process is running this cell; wait for it or cancel it"
        with pytest.raises(CellBusy) as refused:
            EpisodeStore(paths).__enter__()
        assert str(refused.value) == f"{told} (emobench cancel)"
