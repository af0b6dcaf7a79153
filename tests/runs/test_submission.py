"""What is submitted, taken back and cancelled, with a scheduler that says what a test wants."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emobench.core.errors import EmobenchError, InvalidInput, SubmissionRefused
from emobench.core.gates import Gates
from emobench.core.plan import Plan, load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.core.site_check import Check, failed, warning
from emobench.core.times import to_iso
from emobench.runs import submission
from emobench.runs.dry_run import rehearse
from emobench.runs.submission import cancel, submission_lock, submit
from emobench.store.jobs import (
    JobKind,
    JobRecord,
    add_jobs,
    read_jobs,
    write_jobs,
)
from tests.support.jobs import ended_record
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.runs import finish_cell
from tests.support.scripted_scheduler import Killed, ScriptedScheduler


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Assistants a (cells 0 and 1) and b (2 and 3)."""
    return make_plan(
        CUDA, tmp_path / "logs", scripted(), {"a": scripted(), "b": scripted()}, trials=1
    )


def names(jobs: object) -> list[str]:
    assert isinstance(jobs, list)
    return [job.name for job in jobs]


def test_servers_go_with_the_cells_that_need_them_and_only_what_is_missing_is_submitted(
    plan: Plan, run_dir: RunDir
) -> None:
    scheduler = ScriptedScheduler()
    outcome = submit(plan, run_dir, schedulers=scheduler.all())
    everything = ["user", "assistant_a", "assistant_b", "a", "b", "cleanup"]
    assert names(outcome.submitted) == names(read_jobs(run_dir)) == everything
    assert (outcome.missing, outcome.live) == (4, 0)
    again = submit(plan, run_dir, schedulers=scheduler.all())
    assert (list(again.submitted), again.missing, again.live) == ([], 0, 4)

    # One array has ended and one of its cells is done; the other's servers stay.
    finish_cell(run_dir, 0)
    by_name = {job.name: job.job_id for job in read_jobs(run_dir)}
    scheduler.script[by_name["a"]] = "COMPLETED"
    third = submit(plan, run_dir, schedulers=scheduler.all())
    # The server of a's array is about to leave: a fresh one is sure to stay.
    assert scheduler.script[by_name["assistant_a"]] == "CANCELLED"
    assert scheduler.script[by_name["user"]] == "PENDING"
    assert names(third.submitted) == ["assistant_a", "a", "cleanup"]
    assert third.submitted[1].cells == (1,)
    assert (third.missing, third.live) == (1, 2)


class LimitedScheduler(ScriptedScheduler):
    """Finds these of the site's limits in the way."""

    def __init__(self, *found: Check) -> None:
        super().__init__()
        self.found = found

    def check_plan(self, *arguments: object, **others: object) -> Iterator[Check]:
        yield from self.found


def test_limits_that_never_let_jobs_run_are_told_before_anything_is_written(
    plan: Plan, run_dir: RunDir, tmp_path: Path
) -> None:
    warned: list[str] = []
    slow, impossible = (
        warning("limits", "fewer", "it takes longer"),
        failed("limits", "2 > 1", "so"),
    )
    scheduler = LimitedScheduler(slow, impossible)
    with pytest.raises(InvalidInput, match=r"cluster cuda: limits: 2 > 1\n  so$"):
        submit(plan, run_dir, warn=warned.append, schedulers=scheduler.all())
    assert not run_dir.path.exists() and not scheduler.accepted and not warned
    rehearsed = rehearse(plan, run_dir, tmp_path / "out", scheduler.all())
    assert "2 > 1" in rehearsed.refusal and not rehearsed.warnings
    scheduler.found = (slow,)
    assert submit(plan, run_dir, warn=warned.append, schedulers=scheduler.all()).missing == 4
    assert warned == ["limits: fewer; it takes longer"]
    scheduler.found = (impossible,)
    assert submit(plan, run_dir, schedulers=scheduler.all()).live == 4, "nothing is to be submitted"


def test_what_was_submitted_before_a_refusal_is_on_record(plan: Plan, run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler()
    scheduler.refuses = "b"
    with pytest.raises(SubmissionRefused, match="no b today"):
        submit(plan, run_dir, schedulers=scheduler.all())
    assert names(read_jobs(run_dir))[-2:] == ["a", "cleanup"]
    scheduler.refuses = ""
    # Here b's server was not taken back; it waits for its array.
    assert names(submit(plan, run_dir, schedulers=scheduler.all()).submitted) == ["b", "cleanup"]


def test_a_cancellation_leaves_nothing_alive(plan: Plan, run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler()
    submit(plan, run_dir, schedulers=scheduler.all())
    stopped = cancel(run_dir, schedulers=scheduler.all())
    assert len(stopped.stopped) == 6 and not stopped.shared
    assert scheduler.find_live(read_jobs(run_dir)) == []
    assert list(cancel(run_dir, schedulers=scheduler.all()).stopped) == []


@pytest.mark.parametrize("text", ['{"schema": 2, "jobs": []}', '{"jobs": []}', "[]", "{", '{"sch'])
def test_a_file_that_is_no_list_of_jobs_is_refused_and_not_taken_for_an_empty_one(
    text: str, plan: Plan, run_dir: RunDir
) -> None:
    """What runs would be submitted a second time, and the record of it be written over."""
    run_dir.path.mkdir()
    run_dir.jobs.write_text(text)
    scheduler = ScriptedScheduler()
    with pytest.raises(InvalidInput, match="record of submitted jobs cannot be read"):
        submit(plan, run_dir, schedulers=scheduler.all())
    with pytest.raises(InvalidInput):
        add_jobs(run_dir, [JobRecord(JobKind.SERVER, "user", "1")])
    assert run_dir.jobs.read_text() == text
    assert scheduler.asked == []


def test_a_process_of_this_machine_is_never_asked_of_slurm(plan: Plan, run_dir: RunDir) -> None:
    """Its number may be that of somebody's job; the profile is not what decides."""
    run_dir.path.mkdir()
    add_jobs(
        run_dir, [ended_record("server", "user", "123", 1), ended_record("array", "a", "1", 1)]
    )
    scheduler = ScriptedScheduler(j123="RUNNING")
    outcome = submit(plan, run_dir, schedulers=scheduler.all())
    assert outcome.missing == 4
    assert not any("123" in asked for asked in scheduler.asked)
    assert scheduler.script["123"] == "RUNNING"


@pytest.mark.parametrize("accepted", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("job", ["user", "assistant_a", "assistant_b", "a", "b", "cleanup"])
def test_a_command_that_was_killed_is_completed_and_nothing_is_submitted_twice(
    job: str, accepted: bool, plan: Plan, run_dir: RunDir
) -> None:
    """Before Slurm had the job, or after that and before it was on record."""
    scheduler = ScriptedScheduler()
    scheduler.killed_at = job, accepted
    with pytest.raises(Killed):
        submit(plan, run_dir, schedulers=scheduler.all())
    before = scheduler.in_queue()
    assert (job in before) == accepted
    assert job not in names(read_jobs(run_dir) if run_dir.jobs.exists() else [])
    scheduler.revive()
    said: list[str] = []
    submit(plan, run_dir, say=said.append, schedulers=scheduler.all())
    everything = ["user", "assistant_a", "assistant_b", "a", "b", "cleanup"]
    assert sorted(scheduler.in_queue()) == sorted(everything)
    live = scheduler.find_live(read_jobs(run_dir))
    assert sorted(names(live)) == sorted(everything)
    assert len({name for name in scheduler.in_queue() if name in before}) == len(before)
    cancelled = [each for each in scheduler.accepted if each not in live]
    assert names(cancelled) == [], "what was in the queue already is used"
    assert [line for line in said if f"{job}, found in the queue" in line] == said
    assert bool(said) == accepted
    again = submit(plan, run_dir, schedulers=scheduler.all())
    assert list(again.submitted) == []
    cancel(run_dir, schedulers=scheduler.all())
    assert scheduler.in_queue() == []


def test_a_cancellation_takes_what_nobody_recorded(plan: Plan, run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler()
    scheduler.killed_at = "b", True
    with pytest.raises(Killed):
        submit(plan, run_dir, schedulers=scheduler.all())
    scheduler.revive()
    stopped = cancel(run_dir, schedulers=scheduler.all())
    assert len(stopped.stopped) == 5
    assert scheduler.in_queue() == []


def test_a_server_that_waited_too_long_for_its_arrays_is_replaced(
    plan: Plan, run_dir: RunDir
) -> None:
    """It is about to leave; one that is still queued has not begun to wait."""
    scheduler = ScriptedScheduler()
    scheduler.killed_at = "a", False
    with pytest.raises(Killed):
        submit(plan, run_dir, schedulers=scheduler.all())
    scheduler.revive()
    user, first, second = read_jobs(run_dir)
    old = to_iso(time.time() - 1000)
    write_jobs(run_dir, [replace(job, submitted=old) for job in (user, first, second)])
    scheduler.accepted = []
    scheduler.script[user.job_id] = scheduler.script[first.job_id] = "RUNNING"
    submitted = submit(plan, run_dir, schedulers=scheduler.all()).submitted
    assert names(submitted) == ["user", "assistant_a", "a", "b", "cleanup"]
    assert scheduler.script[user.job_id] == scheduler.script[first.job_id] == "CANCELLED"


def test_free_settings_hold_for_what_was_submitted_before(plan: Plan, run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler()
    submit(plan, run_dir, schedulers=scheduler.all())
    scripts = {path: path.read_bytes() for path in run_dir.scripts.iterdir()}
    faster = changed(plan, throttle=3, concurrency=5, gates=Gates(coverage=0.5), seed=4)
    outcome = submit(faster, run_dir, schedulers=scheduler.all())
    assert list(outcome.submitted) == []
    assert list(outcome.changes) == [
        "concurrency: was unset, now 5, in cells that start from now on",
        "throttle: was unset, now 3, for arrays in the queue too",
        "gates.coverage: was 0.95, now 0.5, for judge, check and report",
    ]
    assert list(outcome.not_taken) == ["seed: was 10, now 4"]
    arrays = [job.job_id for job in read_jobs(run_dir) if job.kind is JobKind.ARRAY]
    assert scheduler.throttles == dict.fromkeys(arrays, 3)
    sweep = load_plan(run_dir).sweep
    assert (sweep.throttle, sweep.concurrency, sweep.seed) == (3, 5, 10)
    assert {path: path.read_bytes() for path in run_dir.scripts.iterdir()} == scripts
    scheduler.throttles.clear()
    assert list(submit(faster, run_dir, schedulers=scheduler.all()).changes) == []
    assert scheduler.throttles == {}


def test_a_finished_run_has_the_free_settings_of_its_file(plan: Plan, run_dir: RunDir) -> None:
    run_dir.path.mkdir()
    save_plan(run_dir, plan)
    for cell in plan.cells:
        finish_cell(run_dir, cell.number)
    sweep = plan.sweep.model_copy(update={"max_cost": 7.0, "seed": 4})
    changed = plan.model_copy(update={"sweep": sweep})
    assert submit(changed, run_dir, schedulers=ScriptedScheduler().all()).missing == 0
    standing = load_plan(run_dir).sweep
    assert (standing.max_cost, standing.seed) == (7.0, plan.sweep.seed)


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "under way"])
@pytest.mark.parametrize("damage", [None, "{"], ids=["gone", "cut off"])
def test_a_plan_that_was_lost_is_written_again_where_nothing_is_submitted(
    plan: Plan, run_dir: RunDir, damage: str | None, finished: bool
) -> None:
    """Every other command says that `emobench sweep` makes it again."""
    scheduler = ScriptedScheduler()
    if finished:
        run_dir.path.mkdir()
        save_plan(run_dir, plan)
        for cell in plan.cells:
            finish_cell(run_dir, cell.number)
    else:
        submit(plan, run_dir, schedulers=scheduler.all())
    if damage is None:
        run_dir.plan.unlink()
    else:
        run_dir.plan.write_text(damage)
    outcome = submit(plan, run_dir, schedulers=scheduler.all())
    assert (list(outcome.submitted), outcome.live) == ([], 0 if finished else 4)
    assert load_plan(run_dir) == plan
    assert run_dir.plan.with_name("plan.json.damaged").exists() == (damage is not None)


def test_nobody_else_puts_a_guard_beside_the_scripts(tmp_path: Path, run_dir: RunDir) -> None:
    before = os.umask(0o002)
    try:
        submission.write_scripts(make_plan(CUDA, tmp_path / "logs"), run_dir)
    finally:
        os.umask(before)
    assert (run_dir.scripts / "emobench_guard.py").exists()
    for folder in (run_dir.scripts, run_dir.scripts / "__pycache__"):
        assert folder.stat().st_mode & 0o022 == 0


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "folder: the disk is FULL (No space left on device)\n  make room"),
        (errno.EROFS, "folder: Read-only file system\n  choose a folder that you can write to"),
    ],
)
def test_why_the_run_directory_cannot_be_made(
    number: int, said: str, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "folder")

    monkeypatch.setattr(submission, "hold", refuse)
    with pytest.raises(EmobenchError) as refused, submission_lock(run_dir, print):
        pass
    assert str(refused.value).startswith(said)
    if number == errno.EROFS:
        run_dir.path.mkdir()
        run_dir.plan.touch()
        with (
            pytest.raises(EmobenchError, match="write to its folder"),
            submission_lock(run_dir, print),
        ):
            pass


def changed(plan: Plan, **settings: object) -> Plan:
    return plan.model_copy(update={"sweep": plan.sweep.model_copy(update=settings)})
