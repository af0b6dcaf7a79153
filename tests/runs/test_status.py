"""How a run stands, with a scheduler that says what a test wants."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from emobench.cli.status import render
from emobench.cli.terminal import render_plain
from emobench.cli.watch_screen import format_line, list_changes, render_screen
from emobench.core.plan import load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.core.times import to_iso, to_seconds
from emobench.llm.engine_metrics import Load
from emobench.runs.cell_state import CellState, derive_cell_state, find_cell_jobs, find_job_of_cell
from emobench.runs.forecast import make_forecast
from emobench.runs.held_jobs import find_held
from emobench.runs.server_state import ServerState
from emobench.runs.status import RunStatus, build_run_status, estimate_pace
from emobench.runs.submission import cancel, find_missing_cells, submit
from emobench.runs.watching import watch
from emobench.runs.watching.state import Seen, build_watch_state
from emobench.scheduler.interface import JobState
from emobench.store.endpoints import publish
from emobench.store.forecast import write_forecast
from emobench.store.jobs import JobKind, JobRecord, add_jobs, note_cancelled, read_jobs
from emobench.store.summaries import EPISODES_MISSING, CellSummary
from tests.support.jobs import local_record
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.runs import finish_cell
from tests.support.scripted_scheduler import ScriptedScheduler
from tests.support.serving import READY

JOBS = [
    JobRecord(JobKind.SERVER, "user", "1"),
    JobRecord(JobKind.SERVER, "assistant_a", "2"),
    JobRecord(JobKind.ARRAY, "a", "3", cells=(0, 1)),
]
QUEUED, STARTED, ENDED = JobState("PENDING", "Priority"), JobState("RUNNING"), JobState("FAILED")
EXIT = "exit code 1:0"
RUNNING = {"j1": "RUNNING", "j2": "RUNNING", "j3": "RUNNING"}


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """Two servers and an array of two cells."""
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    plan = make_plan(CUDA, tmp_path / "logs", scripted(), {"a": scripted()}, trials=1)
    save_plan(run_dir, plan)
    add_jobs(run_dir, JOBS)
    return run_dir


def status_of(run_dir: RunDir, scheduler: ScriptedScheduler) -> RunStatus:
    jobs = read_jobs(run_dir)
    return build_run_status(load_plan(run_dir), run_dir, jobs, scheduler.all().ask_states(jobs))


@pytest.mark.parametrize(
    ("job", "said", "text"),
    [
        (
            *("1", "PENDING JobHeldUser"),
            "job 1 is held: scontrol release 1 lets it start (user: JobHeldUser)",
        ),
        (
            *("3", "PENDING launch failed requeued held"),
            "job 3 is held: scontrol release 3 lets it start (a: launch failed requeued held)",
        ),
        (
            *("2", "PENDING JobHeldAdmin"),
            "job 2 is held: scontrol release 2, run by an administrator, lets it start "
            "(assistant_a: JobHeldAdmin)",
        ),
    ],
)
def test_a_held_job_is_shown_with_what_releases_it(
    job: str, said: str, text: str, run_dir: RunDir
) -> None:
    scheduler = ScriptedScheduler(**RUNNING)
    quiet = build_watch_state(None, Seen(status_of(run_dir, scheduler), {}), {}, time.time())
    scheduler.script[job] = said
    status = status_of(run_dir, scheduler)
    (held,) = status.held
    assert (str(held), held.command) == (text, f"scontrol release {job}")
    assert text in render_plain(*render(status), columns=200)
    state = build_watch_state(None, Seen(status, {}), {}, time.time())
    assert text in render_plain(render_screen(state, 200, 60), columns=200)
    assert f"scontrol release {job}" in render_plain(render_screen(state, 60, 24), columns=60)
    assert text in format_line(state)
    assert list_changes(state) != list_changes(quiet)
    # The same command again says why nothing happens.
    outcome = submit(load_plan(run_dir), run_dir, schedulers=scheduler.all())
    assert (list(outcome.submitted), list(outcome.held)) == ([], [held])


def test_held_tasks_are_released_with_their_array() -> None:
    states = {"1": STARTED, "3_0": STARTED, "3_1": JobState("PENDING", "JobHeldUser")}
    assert [job.command for job in find_held(JOBS, states)] == ["scontrol release 3"]


def test_nothing_is_held_where_jobs_wait_for_others(run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler(j1="PENDING Priority", j2="RUNNING", j3="PENDING Dependency")
    assert list(status_of(run_dir, scheduler).held) == []


@pytest.mark.parametrize("accounting", [True, False])
def test_after_a_cancel_cells_are_cancelled_and_servers_have_left(
    accounting: bool, run_dir: RunDir
) -> None:
    """Whether Slurm says how the jobs ended, or forgets them (and so does this machine)."""
    scheduler = ScriptedScheduler(**RUNNING)
    finish_cell(run_dir, 0, "incomplete", exit_reason="interrupted", job_id="3_0")
    assert len(cancel(run_dir, schedulers=scheduler.all()).stopped) == 3
    if not accounting:
        scheduler.script = {}
    status = status_of(run_dir, scheduler)
    assert (status.cells.cancelled, status.cells.failed) == (2, 0)
    assert str(status.cells) == "2 cancelled of 2"
    assert {(server.state, server.reason) for server in status.servers} == {
        (ServerState.LEFT, "cancelled")
    }
    assert build_watch_state(None, Seen(status, {}), {}, time.time()).newest_error is None
    shown = render_plain(*render(status))
    assert "failed" not in shown and "run the same `emobench sweep` command again" in shown
    # What is submitted again is counted by its new job.
    again = submit(load_plan(run_dir), run_dir, schedulers=scheduler.all())
    assert again.missing == 2
    assert status_of(run_dir, scheduler).cells.waiting == 2


def test_a_cell_that_had_failed_before_the_cancel_has_failed(run_dir: RunDir) -> None:
    finish_cell(run_dir, 0, "failed", exit_reason="probe_failed", message="no tools", job_id="3_0")
    finish_cell(
        run_dir, 1, "failed", exit_reason="error", message="of an earlier job", job_id="9_1"
    )
    scheduler = ScriptedScheduler(j1="GONE", j2="GONE", j3="GONE")
    assert status_of(run_dir, scheduler).cells.failed == 2
    note_cancelled(run_dir, read_jobs(run_dir))
    status = status_of(run_dir, scheduler)
    assert [(each.cell, each.reason) for each in status.problems] == [(0, "no tools")]
    assert status.cells.cancelled == 1


def test_what_ends_otherwise_has_failed(run_dir: RunDir) -> None:
    status = status_of(run_dir, ScriptedScheduler(j1="GONE", j2="TIMEOUT", j3="TIMEOUT"))
    assert (status.cells.cancelled, status.cells.failed) == (0, 2)
    assert {server.state for server in status.servers} == {ServerState.GONE}


def test_a_full_disk_is_why_a_cell_left_no_word(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_cell(run_dir, 1, "failed", exit_reason="error", message="said why")
    gone = {"3_0": JobState("GONE"), "3_1": JobState("GONE")}

    def reasons() -> list[str]:
        return [
            each.reason
            for each in build_run_status(load_plan(run_dir), run_dir, JOBS, gone).problems
        ]

    assert reasons() == ["GONE", "said why"]
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_bavail=0, f_frsize=4096))
    first, second = reasons()
    assert first.startswith(f"{run_dir.path}: the disk is FULL, so the cell cannot say")
    assert second == "said why"


def test_a_full_disk_keeps_no_job_running(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("emobench.runs.submission.note_cancelled", refuse)
    scheduler = ScriptedScheduler(**RUNNING)
    assert len(cancel(run_dir, schedulers=scheduler.all()).stopped) == 3
    assert set(scheduler.script.values()) == {"CANCELLED"}


def test_what_cells_share_is_told_once(run_dir: RunDir) -> None:
    shared = {"exit_reason": "endpoint_unavailable", "message": "server user failed: no card"}
    finish_cell(run_dir, 0, "failed", job_id="3_0", **shared)
    finish_cell(run_dir, 1, "failed", job_id="3_1", **shared)
    scheduler = ScriptedScheduler(j1="FAILED", j2="COMPLETED", j3="FAILED")
    shown = render_plain(*render(status_of(run_dir, scheduler)))
    assert "2 cells failed alike (0-1): server user failed: no card" in shown
    assert shown.count("no card") == 1
    finish_cell(run_dir, 1, "failed", job_id="3_1", exit_reason="error", message="another")
    shown = render_plain(*render(status_of(run_dir, scheduler)))
    assert "cell 0 failed: " in shown and "cell 1 failed: " in shown


@pytest.mark.parametrize(
    ("status", "job", "states", "state", "reason"),
    [
        ("done", "3_0", {"3_0": ENDED}, CellState.DONE, ""),
        # A resumed sweep gave it another task.
        ("done of 1", "3_0", {"3_0": QUEUED}, CellState.WAITING, "Priority"),
        ("", None, {}, CellState.WAITING, "not submitted"),
        ("running", None, {}, CellState.RUNNING, ""),
        ("failed", None, {}, CellState.FAILED, "said why"),
        ("", "3_0", {"3_0": QUEUED}, CellState.WAITING, "Priority"),
        # It was queued again, or submitted again, after it had failed.
        ("failed", "3_0", {"3_0": QUEUED}, CellState.WAITING, "Priority"),
        ("failed", "3_0", {"3_0": STARTED}, CellState.WAITING, "starting"),
        ("", "3_0", {"3_0": STARTED}, CellState.WAITING, "starting"),
        ("running", "3_0", {"3_0": STARTED}, CellState.RUNNING, ""),
        # One process runs many cells of this machine: it lives on after one of them failed.
        ("failed", "3.1", {"3.1": STARTED}, CellState.FAILED, "said why"),
        # Nobody could be asked, of any task: it may be alive.
        ("running", "3_0", {"3": JobState("UNKNOWN")}, CellState.RUNNING, ""),
        ("failed", "3_0", {"3_0": ENDED}, CellState.FAILED, "said why"),
        ("running", "3_0", {"3_0": JobState("TIMEOUT")}, CellState.FAILED, "TIMEOUT"),
        (
            "",
            "3_0",
            {"3_0": JobState("FAILED", "", "n1", "1:0")},
            CellState.FAILED,
            f"FAILED ({EXIT})",
        ),
        (
            *("", "3_0", {"3_0": JobState("FAILED", "None", "n1", "1:0")}),
            *(CellState.FAILED, f"FAILED ({EXIT})"),
        ),
        (
            *("", "3_0", {"3_0": JobState("FAILED", "NonZeroExitCode", "n1", "1:0")}),
            *(CellState.FAILED, f"FAILED (NonZeroExitCode, {EXIT})"),
        ),
        # It goes on when its limit is raised, or its lost episodes are run again.
        ("incomplete by max_cost", "3_0", {"3_0": ENDED}, CellState.WAITING, "said why"),
        ("incomplete by max_cost", None, {}, CellState.WAITING, "said why"),
        ("incomplete by max_cost", "3_0", {"3_0": QUEUED}, CellState.WAITING, "Priority"),
        ("failed by max_cost", "3_0", {"3_0": ENDED}, CellState.FAILED, "said why"),
        (f"running by {EPISODES_MISSING}", "3_0", {"3_0": ENDED}, CellState.WAITING, "said why"),
        (f"running by {EPISODES_MISSING}", "3_0", {"3_0": STARTED}, CellState.RUNNING, ""),
        ("", "3_0", {"3_0": JobState("COMPLETED")}, CellState.FAILED, "its job ended without"),
        ("", "3_0", {}, CellState.FAILED, "its job is gone from the queue"),
        # Slurm forgets tasks; that the array was cancelled is on record.
        ("running", "3_0", {"3": JobState("CANCELLED")}, CellState.CANCELLED, ""),
        # The end of other tasks says nothing.
        ("running", "3_0", {"3": ENDED, "3_1": ENDED}, CellState.FAILED, "its job is gone"),
    ],
)
def test_how_a_cell_stands(
    status: str,
    job: str | None,
    states: dict[str, JobState],
    state: CellState,
    reason: str,
    run_dir: RunDir,
) -> None:
    cell = load_plan(run_dir).cells[0]
    status, _, reason_of_end = status.partition(" by ")
    word, _, expected = status.partition(" of ")
    fields = {"status": word, "expected": int(expected or 2), "message": "said  why"}
    fields["exit_reason"] = reason_of_end
    summary = CellSummary.model_validate(fields) if word else None
    found, why = derive_cell_state(cell, summary, job, states)
    assert found is state
    assert why.startswith(reason) and bool(why) == bool(reason)


def test_the_job_of_a_cell(run_dir: RunDir) -> None:
    """Cells of this machine's jobs, and of a block that the plan no longer has, have no task."""
    plan = load_plan(run_dir)
    here = local_record("array", "a", "8", os.getpid(), cells=(1,))
    assert find_cell_jobs(plan, JOBS) == {0: "3_0", 1: "3_1"}
    assert find_cell_jobs(plan, [*JOBS, here]) == {0: "3_0", 1: "8"}
    assert find_cell_jobs(plan, [replace(JOBS[2], name="gone")]) == {0: "3", 1: "3"}


@pytest.mark.parametrize(
    ("job", "states", "expected"),
    [
        ("9_0", {"3_0": STARTED}, "3_0"),  # its own is unknown
        ("9_0", {"3_0": JobState("CANCELLED"), "9_0": STARTED}, "9_0"),
        ("9_0", {"3_0": STARTED, "9_0": ENDED}, "3_0"),
        (None, {"3_0": STARTED}, "3_0"),
    ],
)
def test_a_cell_that_was_submitted_by_its_values_is_with_that_job(
    job: str | None, states: dict[str, JobState], expected: str
) -> None:
    summary = CellSummary(job_id=job)
    assert find_job_of_cell(0, {0: "3_0"}, summary, states) == expected
    assert find_job_of_cell(0, {}, summary, states) == (job if job in states else None)
    assert find_job_of_cell(0, {}, None, states) is None


def test_a_cell_by_its_values_is_shown_and_not_submitted_again(run_dir: RunDir) -> None:
    by_hand = JobRecord(JobKind.CELL, "a", "9")
    jobs = [job for job in JOBS if job.kind is not JobKind.ARRAY] + [by_hand]
    finish_cell(run_dir, 0, "running", job_id="9_0")
    plan = load_plan(run_dir)
    assert find_missing_cells(plan, run_dir, jobs, {"9_0": STARTED}) == ({"a": [1]}, {"a": [0]})
    cells = build_run_status(plan, run_dir, jobs, {"9_0": STARTED}).cells
    assert (cells.running, cells.waiting) == (1, 1)
    finish_cell(run_dir, 0, "incomplete", job_id="9_0", exit_reason="interrupted")
    cells = build_run_status(plan, run_dir, jobs, {"9": JobState("CANCELLED")}).cells
    assert (cells.cancelled, cells.waiting) == (1, 1)


def test_each_task_of_an_array_has_its_own_end(run_dir: RunDir) -> None:
    completed = JobState("COMPLETED", "", "n1", "0:0")
    states = {"1": STARTED, "2": STARTED, "3_0": STARTED, "3_1": completed}
    status = build_run_status(load_plan(run_dir), run_dir, JOBS, states)
    assert (status.cells.waiting, status.cells.failed) == (1, 1)
    (problem,) = status.problems
    assert (problem.cell, problem.reason) == (1, "its job ended without a result")


def test_cells_of_an_array_that_cannot_be_asked_about_are_not_missing(run_dir: RunDir) -> None:
    """They would be submitted twice."""
    finish_cell(run_dir, 0)
    states = {"3": JobState("UNKNOWN")}
    assert find_missing_cells(load_plan(run_dir), run_dir, JOBS, states) == ({}, {"a": [1]})
    assert find_missing_cells(load_plan(run_dir), run_dir, JOBS, {"3_1": ENDED}) == ({"a": [1]}, {})


def test_a_run_is_live_as_long_as_a_job_works_for_it(run_dir: RunDir) -> None:
    """A clean-up job only waits, and a kept server is there for work by hand."""
    add_jobs(run_dir, [JobRecord(JobKind.CLEANUP, "cleanup", "4")])
    scheduler = ScriptedScheduler(j1="COMPLETED", j2="COMPLETED", j3="COMPLETED", j4="PENDING")
    assert not status_of(run_dir, scheduler).live
    scheduler.script["3"] = "PENDING"
    assert status_of(run_dir, scheduler).live
    scheduler.script |= {"3": "COMPLETED", "1": "RUNNING"}
    assert status_of(run_dir, scheduler).live
    publish(run_dir, replace(READY, kept_until="2030-01-01T00:00:00+00:00"))
    assert not status_of(run_dir, scheduler).live
    finish_cell(run_dir, 0)
    assert not status_of(run_dir, scheduler).finished
    finish_cell(run_dir, 1)
    assert status_of(run_dir, scheduler).finished


def test_episodes_and_rewards_are_those_of_the_summaries(run_dir: RunDir) -> None:
    """Of an earlier version's as well, which wrote the mean alone."""
    scored = {"scored": 1, "reward_sum": 1.0, "mean_reward": 1.0}
    outcomes = {"solved": 1, "user_error": 1}
    finish_cell(run_dir, 0, "done", finished=2, outcomes=outcomes, **scored)
    finish_cell(run_dir, 1, finished=2, outcomes={"solved": 1, "failed": 1}, mean_reward=0.5)
    status = status_of(run_dir, ScriptedScheduler())
    assert (status.episodes.finished, status.episodes.expected) == (4, 4)
    assert status.episodes.outcomes == {"solved": 2, "user_error": 1, "failed": 1}
    assert [(row.episodes, row.mean_reward) for row in status.variants] == [(1, 1.0), (2, 0.5)]


class Looks:
    """Stands in for the reader of a run: whether a job lives, and the queue's answers so far."""

    def __init__(self, *looks: tuple[bool, int], status: RunStatus) -> None:
        self._looks, self._status = list(looks), status
        self.queue = self

    answers = 0

    def look(self, *_: object) -> tuple[Seen, dict[str, Load | str]]:
        live, self.answers = self._looks.pop(0)
        return Seen(replace(self._status, live=live), {}), {}


@pytest.mark.parametrize(
    ("looks", "over"),
    [
        ([(False, 1), (False, 2), (False, 3)], True),
        ([(False, 1), (False, 2)], False),
        # Files lag behind; the same answer once more is no new one.
        ([(False, 1), (False, 1), (False, 1), (False, 2)], False),
        ([(False, 1), (False, 2), (True, 3), (False, 4), (False, 5)], False),
        ([(True, 1)], False),
    ],
)
def test_a_run_is_over_after_three_answers_without_a_live_job(
    looks: list[tuple[bool, int]], over: bool, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = status_of(run_dir, ScriptedScheduler())
    monkeypatch.setattr(watch, "Reader", lambda _: Looks(*looks, status=status))
    watched = watch.Watch(run_dir)
    for _ in looks:
        watched.look()
    assert watched.over == over


def test_a_cell_that_somebody_started_by_hand_is_followed(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = status_of(run_dir, ScriptedScheduler())
    status = replace(status, cells=replace(status.cells, running=1))
    looks = [(False, number) for number in range(5)]
    monkeypatch.setattr(watch, "Reader", lambda _: Looks(*looks, status=status))
    watched = watch.Watch(run_dir)
    for _ in looks:
        watched.look()
    assert not watched.over


def test_the_pace_is_that_of_the_last_half_hour() -> None:
    now_s = 100_000.0

    def cell(start: float, end: float | None, finished: int) -> CellSummary:
        ended = None if end is None else to_iso(now_s + end)
        return CellSummary(started=to_iso(now_s + start), ended=ended, finished=finished)

    assert estimate_pace([], now_s) == 0
    assert estimate_pace([cell(-600, None, 60)], now_s) == pytest.approx(0.1)
    assert estimate_pace([cell(-600, -300, 30), cell(-300, None, 30)], now_s) == pytest.approx(0.1)
    # Of a cell that began before, and of one that had ended by then.
    assert estimate_pace([cell(-3600, None, 360)], now_s) == pytest.approx(0.1)
    assert estimate_pace([cell(-90_000, -80_000, 999), cell(-900, None, 9)], now_s) == 0.01
    assert estimate_pace([cell(5, None, 3)], now_s) == 0  # another node's clock


def test_the_expected_end_goes_by_the_pace_and_before_it_by_the_plan(run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler(**RUNNING)
    plan = load_plan(run_dir)
    write_forecast(run_dir, make_forecast(plan, {0: 2, 1: 2}))
    early = status_of(run_dir, scheduler)
    assert early.expected_end is None and early.expected_hours is not None
    assert "after the start of its servers, as planned" in render(early)[0]
    begun = to_iso(time.time() - 60)
    finish_cell(run_dir, 0, "running", started=begun, finished=1, outcomes={"solved": 1})
    going = status_of(run_dir, scheduler)
    left_s = (to_seconds(going.expected_end) or 0) - time.time()
    assert 150 < left_s < 200  # three more at one a minute
    assert "end      about " in render(going)[0]
    assert going.to_json()["expected_end"] == going.expected_end
    watched = build_watch_state(None, Seen(going, {}), {}, time.time())
    assert watched.expected_end == going.expected_end
    ended = ScriptedScheduler(**dict.fromkeys(RUNNING, "COMPLETED"))
    over = status_of(run_dir, ended)
    assert over.expected_end is None and over.expected_hours is None
