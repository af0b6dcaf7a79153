"""What the clean-up job waits for and cancels, with a scheduler that says what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from emobench.core.plan import load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.core.times import now
from emobench.runs import cleanup
from emobench.runs.cleanup import clean_up, find_owners, survey
from emobench.runs.submission import cancel, submission_lock
from emobench.serving.demand import ON_THEIR_WAY, OwnDemand
from emobench.store.endpoints import ServerLocation, point_to_leased
from emobench.store.jobs import JobKind, JobRecord, add_jobs, write_jobs
from emobench.store.leases import add_lease
from tests.support.jobs import local_record
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.runs import change_sweep, finish_cell
from tests.support.scripted_scheduler import ScriptedScheduler


def jobs() -> list[JobRecord]:
    """Submitted just now: a suite may take longer than servers wait for their arrays."""
    return [
        JobRecord(JobKind.SERVER, "user", "1", submitted=now()),
        JobRecord(JobKind.SERVER, "assistant_a", "2", submitted=now()),
        JobRecord(JobKind.ARRAY, "a", "3", submitted=now(), cells=(0, 1)),
        JobRecord(JobKind.CLEANUP, "cleanup", "4", submitted=now()),
    ]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    plan = make_plan(CUDA, tmp_path / "logs", scripted(), {"a": scripted()}, trials=1)
    save_plan(run_dir, plan)
    write_jobs(run_dir, jobs())
    return run_dir


def test_servers_that_outlive_their_last_client_are_cancelled(run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler(j1="RUNNING", j2="PENDING", j3="COMPLETED", j4="RUNNING")
    said: list[str] = []
    cancelled = clean_up(run_dir, said.append, grace_s=0, schedulers=scheduler.all())
    assert cancelled == ["user (job 1)", "assistant_a (job 2)"]
    assert (scheduler.script["1"], scheduler.script["4"]) == ("CANCELLED", "RUNNING")
    assert said[-1] == "they are gone"
    assert clean_up(run_dir, said.append, grace_s=0, schedulers=scheduler.all()) == []
    assert said[-1].startswith("nothing to clean up")


def test_servers_that_a_command_submits_cells_for_meanwhile_stay(run_dir: RunDir) -> None:
    """The clean-up job cancels under the lock of those that submit, and looks again under it."""
    scheduler = ScriptedScheduler(j1="RUNNING", j2="COMPLETED", j3="COMPLETED", j5="RUNNING")
    said: list[str] = []
    with ExitStack() as command:
        command.enter_context(submission_lock(run_dir, said.append))

        def say(text: str) -> None:
            said.append(text)
            if text.startswith("waiting for"):
                again = JobRecord(JobKind.ARRAY, "a", "5", submitted=now(), cells=(0, 1))
                add_jobs(run_dir, [again])
                command.close()

        assert clean_up(run_dir, say, grace_s=0, schedulers=scheduler.all()) == []
    assert scheduler.script["1"] == "RUNNING"
    assert any(text.startswith("waiting for") for text in said)


class Clock:
    """Stands in for the time of emobench.runs.cleanup; sleeping takes none."""

    def __init__(self, on_sleep: Callable[[], None] = lambda: None) -> None:
        self.now, self._on_sleep = 0.0, on_sleep

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._on_sleep()


@pytest.mark.parametrize(("keep_min", "cancelled_after_s"), [(0.0, 40), (10.0, 640)])
def test_servers_get_their_grace_after_the_minutes_that_they_are_kept(
    keep_min: float, cancelled_after_s: float, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_sweep(run_dir, keep_servers_min=keep_min)
    clock = Clock()
    monkeypatch.setattr(cleanup, "time", clock)
    scheduler = ScriptedScheduler(j1="RUNNING", j3="COMPLETED")
    assert clean_up(run_dir, lambda text: None, schedulers=scheduler.all()) == ["user (job 1)"]
    assert cancelled_after_s <= clock.now <= cancelled_after_s + 5


def test_arrays_that_are_being_submitted_are_waited_for(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jobs(run_dir, jobs()[:2])
    clock = Clock(on_sleep=lambda: write_jobs(run_dir, jobs()))
    monkeypatch.setattr(cleanup, "time", clock)
    scheduler = ScriptedScheduler(j1="RUNNING", j2="RUNNING", j3="RUNNING")
    said: list[str] = []
    assert clean_up(run_dir, said.append, schedulers=scheduler.all()) == []
    assert clock.now > 0
    assert f"user (job 1) stays: {ON_THEIR_WAY}" in said
    assert "user (job 1) stays: array a (job 3) needs it" in said


def test_servers_that_somebody_needs_stay(run_dir: RunDir, tmp_path: Path) -> None:
    """An array, one that is being submitted, or another sweep."""
    scheduler = ScriptedScheduler(j1="RUNNING", j2="RUNNING", j3="RUNNING")
    said: list[str] = []
    assert clean_up(run_dir, said.append, grace_s=0, schedulers=scheduler.all()) == []
    assert "user (job 1) stays: array a (job 3) needs it" in said
    write_jobs(run_dir, jobs()[:2])
    seen = survey(run_dir, scheduler.all())
    assert seen.awaited and not seen.free
    assert dict(seen.needed) == {
        "user (job 1)": ON_THEIR_WAY,
        "assistant_a (job 2)": ON_THEIR_WAY,
    }
    write_jobs(run_dir, [replace(job, submitted="2020-01-01T00:00:00+00:00") for job in jobs()[:2]])
    other = RunDir(tmp_path / "other")
    leased = add_lease(ServerLocation(run_dir, "user"), other, "user")
    seen = survey(run_dir, scheduler.all())
    assert dict(seen.needed) == {"user (job 1)": "the sweep of other, just submitted"}
    assert [job.name for job in seen.free] == ["assistant_a"]
    other.path.mkdir()
    save_plan(other, load_plan(run_dir))
    other.endpoints.mkdir()
    point_to_leased(other, "user", leased)
    assert find_owners(other) == [run_dir]
    assert find_owners(run_dir) == []


def test_the_first_part_of_a_heterogeneous_job_stays_as_long_as_the_other_is_needed(
    run_dir: RunDir, tmp_path: Path
) -> None:
    """With the first part, whose server has left, Slurm would end the other one."""
    pair = [
        replace(job, script="scripts/servers_a.sbatch", submitted="2020-01-01T00:00:00+00:00")
        for job in jobs()[:2]
    ]
    write_jobs(run_dir, pair)
    scheduler = ScriptedScheduler(j1="RUNNING", j2="RUNNING")
    assert [job.name for job in survey(run_dir, scheduler.all()).free] == ["user", "assistant_a"]
    leased = ServerLocation(run_dir, "assistant_a")
    add_lease(leased, RunDir(tmp_path / "other"), "assistant_a")
    seen = survey(run_dir, scheduler.all())
    assert (list(seen.needed), seen.free) == (["assistant_a (job 2)"], [])
    assert cancel(run_dir, schedulers=scheduler.all()).stopped == []
    # Jobs of their own are ended one by one.
    write_jobs(run_dir, [replace(job, script=f"scripts/{job.name}.sbatch") for job in pair])
    assert [job.name for job in survey(run_dir, scheduler.all()).free] == ["user"]


def test_the_supervisor_and_the_clean_up_job_agree(run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler(j1="RUNNING", j2="RUNNING", j3="RUNNING")
    demand = OwnDemand(
        load_plan(run_dir), run_dir, "user", "1", now(), 0.0, schedulers=scheduler.all()
    )

    def why_leave() -> str:
        return demand.explain_leaving(20)

    def free() -> list[str]:
        return [job.name for job in survey(run_dir, scheduler.all()).free]

    assert (why_leave(), free()) == ("", [])
    scheduler.script["3"] = "FAILED"
    assert why_leave() == "its arrays have left the queue"
    assert free() == ["user", "assistant_a"]
    add_jobs(run_dir, [JobRecord(JobKind.ARRAY, "a", "5", submitted=now())])
    scheduler.script["5"] = "PENDING"
    assert (why_leave(), free()) == ("", [])
    for cell in (0, 1):
        finish_cell(run_dir, cell)
    assert why_leave() == "all cells are done"
    assert free() == ["user", "assistant_a"]


def test_a_server_of_this_machine_is_not_the_clean_up_jobs(run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler(j9="RUNNING")
    write_jobs(run_dir, [local_record("server", "user", "9", 1, submitted="2020-01-01T00:00:00Z")])
    assert survey(run_dir, scheduler.all()).free == []
    assert scheduler.asked == []
