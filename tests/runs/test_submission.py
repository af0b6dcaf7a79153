"""What is submitted, taken back and cancelled, with a scheduler that says what a test wants."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.core.errors import InvalidInput, SubmissionRefused
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.runs.submission import cancel, submit
from emobench.store.jobs import (
    JobKind,
    JobRecord,
    add_jobs,
    read_jobs,
)
from tests.support.jobs import ended_record
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.runs import finish_cell
from tests.support.scripted_scheduler import ScriptedScheduler


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


def test_what_was_submitted_before_a_refusal_is_on_record(plan: Plan, run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler()
    scheduler.refuses = "b"
    with pytest.raises(SubmissionRefused, match="no b today"):
        submit(plan, run_dir, schedulers=scheduler.all())
    assert names(read_jobs(run_dir))[-2:] == ["a", "cleanup"]
    scheduler.refuses = ""
    assert names(submit(plan, run_dir, schedulers=scheduler.all()).submitted) == [
        *("assistant_b", "b", "cleanup")
    ]


def test_a_cancellation_leaves_nothing_alive(plan: Plan, run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler()
    submit(plan, run_dir, schedulers=scheduler.all())
    stopped = cancel(run_dir, schedulers=scheduler.all())
    assert len(stopped.stopped) == 6 and not stopped.shared
    assert scheduler.live(read_jobs(run_dir)) == []
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
