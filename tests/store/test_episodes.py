"""The episode store: one writer, whole lines, and any prefix of its file is recoverable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emobench.core.errors import InvalidInput
from emobench.core.files import dump_json
from emobench.core.outcomes import Outcome
from emobench.core.run_dir import CellPaths
from emobench.store.episodes import SCHEMA, CellBusy, EpisodeRecord, EpisodeStore, line_of


def record(task: int, outcome: Outcome = Outcome.SOLVED, attempt: int = 1) -> EpisodeRecord:
    reward = None if outcome is Outcome.INFRA_ERROR else float(outcome is Outcome.SOLVED)
    traj = ["é\n\u2028" * task]
    return EpisodeRecord(
        task_id=task, trial=1, outcome=outcome, reward=reward, attempt=attempt, traj=traj
    )


def line(task: int) -> bytes:
    return line_of(record(task)) + b"\n"


def test_episodes_come_back(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    with EpisodeStore(paths) as store:
        store.append(record(3))
        store.append(record(1, Outcome.FAILED))
    with EpisodeStore(paths) as store:
        assert store.finished() == {1, 3}
        assert store.records[3] == record(3)


def test_an_infrastructure_error_is_replaced_and_a_result_is_not(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    with EpisodeStore(paths) as store:
        store.append(record(1, Outcome.INFRA_ERROR, attempt=3))
        assert store.finished() == set()
        assert store.attempts(1) == 3
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
        assert store.finished() == set(range(whole))
        store.append(record(9))
    with EpisodeStore(paths) as store:
        assert store.finished() == {*range(whole), 9}


def test_a_damaged_line_in_the_middle_costs_that_line_only(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    paths.folder.mkdir()
    paths.episodes.write_bytes(line(0) + b'{"task_id": 1, "out\n[]\n' + line(2))
    with EpisodeStore(paths) as store:
        assert store.finished() == {0, 2}


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
            assert store.finished() >= set(range(last + 1))


def test_a_line_of_a_newer_version_is_refused_and_stays(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    paths.folder.mkdir()
    newer = line_of(replace(record(1), schema=SCHEMA + 1)) + b"\n"
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
        assert store.finished() == {1}
        assert store.damaged == 1
    assert (paths.set_aside.read_bytes(), paths.episodes.read_bytes()) == (bare, earlier)


def test_what_is_set_aside_runs_again_and_its_attempts_stay_known(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    lines = [record(1, Outcome.INFRA_ERROR, attempt=3), record(1, Outcome.AGENT_ERROR, attempt=4)]
    with EpisodeStore(paths) as store:
        store.append(record(0), *lines, record(1, attempt=5))
        store.set_aside({1})
        assert store.finished() == {0}
        assert store.attempts(1) == 5
        store.append(record(2))
    with EpisodeStore(paths) as store:
        assert store.finished() == {0, 2}
        told = [(each.attempt, each.outcome) for each in store.earlier[1]]
        assert told == [(3, "infra_error"), (4, "agent_error"), (5, "solved")]
        store.append(replace(record(1, attempt=6), history=store.earlier[1]))
        store.set_aside({1})
        assert [each.attempt for each in store.earlier[1]] == [3, 4, 5, 6]
    assert len(paths.set_aside.read_bytes().splitlines()) == 4
