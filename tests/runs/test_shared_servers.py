"""Servers that are kept, leased to another sweep or leased from one, when jobs are submitted and
cancelled."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from emobench.core.errors import SubmissionRefused
from emobench.core.plan import Plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.runs import submission
from emobench.runs.submission import cancel, submit
from emobench.store.endpoints import ServerLocation, point_to_leased, publish
from emobench.store.jobs import JobKind, read_jobs
from emobench.store.leases import add_lease, read_leases
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.runs import finish_cell
from tests.support.scripted_scheduler import ScriptedScheduler
from tests.support.serving import READY


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Assistant a with cells 0 and 1."""
    return make_plan(CUDA, tmp_path / "logs", scripted(), {"a": scripted()}, trials=1)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def other(tmp_path: Path, plan: Plan) -> RunDir:
    """Another sweep, which was just submitted."""
    other = RunDir(tmp_path / "other")
    other.endpoints.mkdir(parents=True)
    save_plan(other, plan)
    return other


@pytest.fixture
def scheduler(plan: Plan, run_dir: RunDir) -> ScriptedScheduler:
    """With all jobs of the run in it; its array has ended, and one of its cells failed."""
    scheduler = ScriptedScheduler()
    submit(plan, run_dir, schedulers=scheduler.all())
    finish_cell(run_dir, 0)
    scheduler.script |= {job_id(run_dir, "a"): "FAILED", job_id(run_dir, "cleanup"): "COMPLETED"}
    for server in ("user", "assistant_a"):
        scheduler.script[job_id(run_dir, server)] = "RUNNING"
    return scheduler


def job_id(run_dir: RunDir, name: str) -> str:
    """Of the newest job of that name."""
    return [job.job_id for job in read_jobs(run_dir) if job.name == name][-1]


def test_a_cancellation_leaves_servers_to_the_sweeps_that_lease_them(
    run_dir: RunDir, other: RunDir, scheduler: ScriptedScheduler
) -> None:
    add_lease(ServerLocation(run_dir, "user"), other, "user")
    user = job_id(run_dir, "user")
    cancelled = cancel(run_dir, schedulers=scheduler.all())
    assert cancelled.stopped == [f"assistant_a ({job_id(run_dir, 'assistant_a')})"]
    assert cancelled.shared == {f"user ({user})": "its arrays are being submitted: those of other"}
    assert scheduler.script[user] == "RUNNING"
    assert cancelled_jobs(run_dir) == {"assistant_a"}
    forced = cancel(run_dir, force=True, schedulers=scheduler.all())
    assert (forced.stopped, forced.shared) == ([f"user ({user})"], {})
    assert scheduler.script[user] == "CANCELLED"
    assert cancelled_jobs(run_dir) == {"assistant_a", "user"}


def cancelled_jobs(run_dir: RunDir) -> set[str]:
    return {job.name for job in read_jobs(run_dir) if job.cancelled}


def test_a_cancellation_gives_leases_back(
    run_dir: RunDir, other: RunDir, scheduler: ScriptedScheduler
) -> None:
    leased = add_lease(ServerLocation(other, "user"), run_dir, "user")
    point_to_leased(run_dir, "user", leased)
    theirs = add_lease(ServerLocation(other, "assistant_a"), RunDir(run_dir.path / "x"), "user")
    cancel(run_dir, schedulers=scheduler.all())
    assert read_leases(other, "user") == []
    assert [lease.id for lease in read_leases(other, "assistant_a")] == [theirs.lease]


def test_servers_that_others_lease_stay_when_the_sweep_is_submitted_again(
    plan: Plan, run_dir: RunDir, other: RunDir, scheduler: ScriptedScheduler
) -> None:
    add_lease(ServerLocation(run_dir, "user"), other, "user")
    user, assistant = job_id(run_dir, "user"), job_id(run_dir, "assistant_a")
    again = submit(plan, run_dir, schedulers=scheduler.all())
    assert [job.name for job in again.submitted] == ["assistant_a", "a", "cleanup"]
    # The other's last cell has ended, so it is about to leave: a fresh one is sure to stay.
    assert (scheduler.script[user], scheduler.script[assistant]) == ("RUNNING", "CANCELLED")


@pytest.mark.parametrize(
    ("minutes", "changed", "stays"),
    [
        (10, {}, True),
        (0.5, {}, False),
        (10, {"job_id": "another"}, False),
        (10, {"state": "left"}, False),
    ],
)
def test_a_kept_server_is_used_again_where_it_stays_long_enough(
    minutes: float,
    changed: dict[str, Any],
    stays: bool,
    plan: Plan,
    run_dir: RunDir,
    scheduler: ScriptedScheduler,
) -> None:
    user = job_id(run_dir, "user")
    until = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    publish(run_dir, replace(READY, **{"job_id": user, "kept_until": until, **changed}))
    again = submit(plan, run_dir, schedulers=scheduler.all())
    assert ("user" in [job.name for job in again.submitted]) != stays
    assert scheduler.script[user] == ("RUNNING" if stays else "CANCELLED")


def test_a_lease_that_no_array_holds_is_not_counted_on(
    plan: Plan, run_dir: RunDir, other: RunDir, scheduler: ScriptedScheduler
) -> None:
    leased = add_lease(ServerLocation(other, "user"), run_dir, "user")
    point_to_leased(run_dir, "user", leased)
    publish(other, replace(READY, leases=(leased.lease,)))
    scheduler.script[job_id(run_dir, "user")] = "COMPLETED"
    again = submit(plan, run_dir, schedulers=scheduler.all())
    assert "user" in [job.name for job in again.submitted]
    assert read_leases(other, "user") == []


def test_a_server_that_the_missing_cells_do_not_need_leaves_by_itself(
    tmp_path: Path, run_dir: RunDir
) -> None:
    two = make_plan(
        CUDA, tmp_path / "logs", scripted(), {"a": scripted(), "b": scripted()}, trials=1
    )
    scheduler = ScriptedScheduler()
    submit(two, run_dir, schedulers=scheduler.all())
    for number in (2, 3):
        finish_cell(run_dir, number)
    scheduler.script |= {job_id(run_dir, "a"): "FAILED", job_id(run_dir, "b"): "COMPLETED"}
    before = job_id(run_dir, "assistant_b")
    again = submit(two, run_dir, schedulers=scheduler.all())
    assert "assistant_b" not in [job.name for job in again.submitted]
    assert scheduler.script[before] == "PENDING"


@pytest.mark.parametrize("owner_knows", [True, False])
def test_a_leased_server_is_not_started_while_the_lease_counts_and_an_array_uses_it(
    owner_knows: bool, plan: Plan, run_dir: RunDir, other: RunDir, scheduler: ScriptedScheduler
) -> None:
    leased = add_lease(ServerLocation(other, "user"), run_dir, "user")
    point_to_leased(run_dir, "user", leased)
    user = job_id(run_dir, "user")
    scheduler.script |= {user: "COMPLETED", job_id(run_dir, "a"): "RUNNING"}
    publish(other, replace(READY, leases=(leased.lease,)))
    first = submit(plan, run_dir, schedulers=scheduler.all())
    assert [job.name for job in first.submitted] == ["cleanup"]  # there was none for the array
    # Its owner is leaving, or does not know of the lease.
    state, leases = ("left", (leased.lease,)) if owner_knows else ("ready", ("another",))
    publish(other, replace(READY, state=state, leases=leases))  # type: ignore[arg-type]
    again = submit(plan, run_dir, schedulers=scheduler.all())
    assert [job.name for job in again.submitted] == ["user", "cleanup"]


@pytest.mark.parametrize("array", ["", "RUNNING"])
def test_a_refused_submission_gives_new_leases_back_unless_an_array_uses_them(
    array: str,
    plan: Plan,
    run_dir: RunDir,
    other: RunDir,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leased = add_lease(ServerLocation(other, "user"), run_dir, "user")
    monkeypatch.setattr(submission, "lease_servers", lambda *_: {"user": leased})
    scheduler = ScriptedScheduler()
    two = make_plan(CUDA, plan.logs, scripted(), {"a": scripted(), "b": scripted()}, trials=1)
    scheduler.refuses = "b" if array else "a"
    with pytest.raises(SubmissionRefused):
        submit(two, run_dir, schedulers=scheduler.all())
    names = [job.name for job in read_jobs(run_dir) if job.kind is not JobKind.CLEANUP]
    assert names == ["assistant_a", "assistant_b", *(["a"] if array else [])]
    assert len(read_leases(other, "user")) == bool(array)
