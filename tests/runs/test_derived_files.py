"""What a cell's summary and results say is what its episodes say, whatever became of the files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from emobench.cli.status import render
from emobench.core.files import describe_failure, read_stamp
from emobench.core.plan import load_plan
from emobench.core.run_dir import CellPaths, RunDir
from emobench.runs.status import build_run_status
from emobench.runs.submission import find_missing_cells
from emobench.scheduler.interface import JobState
from emobench.store.episodes import EpisodeStore, make_cell_filter, parse_episode
from emobench.store.jobs import JobKind, make_record
from emobench.store.summaries import SummaryWriter, find_current_summary, renew_files, write_files
from emobench.tables.run_results import collect
from tests.support.runs import make_run, real_episode


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run whose two cells are done."""
    run_dir = make_run(tmp_path / "run", variants=("control", "anger"), tasks=3, trials=1)
    for cell in load_plan(run_dir).cells:
        with EpisodeStore(run_dir.cell(cell.number), make_cell_filter(cell)) as store:
            for task in cell.tasks:
                line = real_episode(run_dir, cell, task, "solved" if task else "agent_error")
                record = parse_episode({**line, "schema": 2})
                assert record is not None
                store.append(record)
            write_files(store, cell)
    return run_dir


def missing(run_dir: RunDir) -> list[int]:
    found, live = find_missing_cells(load_plan(run_dir), run_dir, [], {})
    assert not live
    return [number for cells in found.values() for number in cells]


def cells_done(run_dir: RunDir) -> int:
    return build_run_status(load_plan(run_dir), run_dir, [], {}).cells.done


def cut(paths: CellPaths) -> None:
    lines = paths.episodes.read_bytes().splitlines(keepends=True)
    paths.episodes.write_bytes(b"".join(lines[:2]))


def flip_outcome(paths: CellPaths) -> None:
    data = paths.episodes.read_bytes()
    paths.episodes.write_bytes(data.replace(b'"solved"', b'"solfed"', 1))


def delete(paths: CellPaths) -> None:
    paths.episodes.unlink()


def tear(paths: CellPaths) -> None:
    os.truncate(paths.episodes, paths.episodes.stat().st_size - 1)


@pytest.mark.parametrize(("damage", "lost"), [(cut, 1), (flip_outcome, 1), (tear, 1), (delete, 3)])
def test_a_cell_whose_episodes_are_gone_is_not_done_and_runs_again(
    run_dir: RunDir, damage: Callable[[CellPaths], None], lost: int
) -> None:
    """Its summary goes on to say "done"; sweep, status, servers and report go by the episodes."""
    assert (missing(run_dir), cells_done(run_dir)) == ([], 2)
    damage(run_dir.cell(1))
    assert missing(run_dir) == [1]
    status = build_run_status(load_plan(run_dir), run_dir, [], {})
    assert (status.cells.done, status.cells.waiting) == (1, 1)
    assert not status.finished
    assert status.episodes.finished == 6 - lost
    assert sum(len(result.file.episodes) for result in collect(run_dir).cells) == 6 - lost
    summary = find_current_summary(run_dir, load_plan(run_dir).cells[1])
    assert summary is not None
    assert f"{lost} of 3 episodes are missing" in summary.message
    (cell,) = status.again
    assert (cell.cell, cell.reason) == (1, summary.message)
    shown = render(status)[-1]
    assert f"cell 1: {cell.title}: {summary.message}" in shown
    assert "run the same `emobench sweep` command again" in shown
    (block,) = load_plan(run_dir).blocks
    jobs = [make_record(JobKind.ARRAY, block.name, "3", "x", cells=(1,))]
    waiting = {"3_1": JobState("PENDING")}
    assert build_run_status(load_plan(run_dir), run_dir, jobs, waiting).again == []


def test_a_bit_that_flips_in_silence_is_found_by_the_next_submission(run_dir: RunDir) -> None:
    """The disk changes neither size nor time of a file."""
    paths = run_dir.cell(0)
    before = paths.episodes.stat()
    flip_outcome(paths)
    os.utime(paths.episodes, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert missing(run_dir) == [0]


@pytest.mark.parametrize("text", [None, "", '{"status": "done", "expe', '{"schema": 9}'])
def test_a_summary_that_is_gone_is_made_again(run_dir: RunDir, text: str | None) -> None:
    paths, cell = run_dir.cell(0), load_plan(run_dir).cells[0]
    before = json.loads(paths.summary.read_bytes())
    if text is None:
        paths.summary.unlink()
    else:
        paths.summary.write_text(text)
    assert (missing(run_dir), cells_done(run_dir)) == ([], 2)
    renew_files(run_dir, cell)
    assert json.loads(paths.summary.read_bytes()) == before


def test_a_stale_summary_is_made_again(run_dir: RunDir) -> None:
    """As after a copy of the episodes from elsewhere."""
    paths, cell = run_dir.cell(0), load_plan(run_dir).cells[0]
    before = json.loads(paths.summary.read_bytes())
    stale = {**before, "status": "failed", "finished": 1, "mean_reward": 0.0, "episodes_bytes": 7}
    paths.summary.write_text(json.dumps(stale))
    assert cells_done(run_dir) == 2
    renew_files(run_dir, cell)
    assert json.loads(paths.summary.read_bytes()) == before


@pytest.mark.parametrize("text", [None, "", "[]"])
def test_results_that_are_gone_or_cut_off_are_made_again(run_dir: RunDir, text: str | None) -> None:
    paths, cell = run_dir.cell(0), load_plan(run_dir).cells[0]
    before = paths.results.read_bytes()
    if text is None:
        paths.results.unlink()
    else:
        paths.results.write_text(text)
    renew_files(run_dir, cell)
    assert paths.results.read_bytes() == before


def test_results_that_somebody_changed_are_made_again(run_dir: RunDir) -> None:
    """By hand, to the same length."""
    paths, cell = run_dir.cell(0), load_plan(run_dir).cells[0]
    before = paths.results.read_bytes()
    paths.results.write_bytes(before.replace(b'"reward":1.0', b'"reward":0.0', 1))
    changed = paths.summary.stat().st_mtime_ns + 1_000_000
    os.utime(paths.results, ns=(changed, changed))
    assert paths.results.read_bytes() != before
    renew_files(run_dir, cell)
    assert paths.results.read_bytes() == before


def test_what_is_current_is_left_alone(run_dir: RunDir) -> None:
    paths = run_dir.cell(0)
    before = {path: read_stamp(path) for path in paths.folder.iterdir()}
    for cell in load_plan(run_dir).cells:
        renew_files(run_dir, cell)
    assert {path: read_stamp(path) for path in paths.folder.iterdir()} == before


def test_a_summary_of_an_earlier_version_is_believed_unless_the_episodes_are_newer(
    run_dir: RunDir,
) -> None:
    paths, cell = run_dir.cell(0), load_plan(run_dir).cells[0]
    data = json.loads(paths.summary.read_bytes())
    for key in ("episodes_bytes", "results_bytes"):
        del data[key]
    paths.summary.write_text(json.dumps({**data, "message": "as it was"}))
    found = find_current_summary(run_dir, cell)
    assert found is not None and (found.status, found.message) == ("done", "as it was")
    cut(paths)
    os.utime(paths.summary, ns=(0, 0))
    found = find_current_summary(run_dir, cell)
    assert found is not None and found.status is None


def test_a_cell_that_was_killed_after_its_last_episode_is_done(run_dir: RunDir) -> None:
    paths = run_dir.cell(0)
    data = json.loads(paths.summary.read_bytes())
    running = {**data, "status": "running", "exit_reason": "running", "finished": 2}
    paths.summary.write_text(json.dumps({**running, "episodes_bytes": data["episodes_bytes"] - 9}))
    assert (missing(run_dir), cells_done(run_dir)) == ([], 2)


def test_a_full_disk_is_told_as_full_and_not_as_a_job_that_is_gone(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for a new summary, and status goes by the one that is there."""
    plan = load_plan(run_dir)
    cell = plan.cells[0]

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cut(run_dir.cell(0))
    with EpisodeStore(run_dir.cell(0), make_cell_filter(cell)) as store:
        writer = SummaryWriter(plan, run_dir, cell, {})
        writer.write(store)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as failed:
            store.append(store.records[0])
        with pytest.raises(OSError, match="No space left"):
            writer.end(store, "failed", "error", describe_failure(failed.value))
    job = make_record(JobKind.ARRAY, "scripted", "7", "x.sbatch", cells=(0,))
    status = build_run_status(plan, run_dir, [job], {"7": JobState("GONE")})
    [problem] = status.problems
    assert problem.reason.startswith(f"{run_dir.cell(0).episodes}: the disk is FULL")
    assert "GONE" not in problem.reason
