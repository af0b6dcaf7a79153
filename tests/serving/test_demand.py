"""Who still needs a server: one answer for its supervisor, the clean-up job and a submission."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from emobench.core.plan import Plan, load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.core.times import now
from emobench.scheduler.interface import JobState
from emobench.serving import demand
from emobench.serving.demand import (
    NO_ARRAY_S,
    ON_THEIR_WAY,
    LeaseDemand,
    OwnDemand,
    RemainingCells,
    describe_lease_need,
    describe_lessees,
    describe_server_need,
)
from emobench.store.endpoints import ServerLocation
from emobench.store.jobs import JobKind, JobRecord, write_jobs
from emobench.store.leases import Lease, add_lease, read_leases, remove_lease
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.processes import until
from tests.support.runs import finish_cell
from tests.support.scripted_scheduler import ScriptedScheduler

SERVER = JobRecord(JobKind.SERVER, "assistant_a", "1")
USER = JobRecord(JobKind.SERVER, "user+2", "2")
OTHER = JobRecord(JobKind.ARRAY, "b", "3")
ARRAY = JobRecord(JobKind.ARRAY, "a", "4")
SUCCESSOR = JobRecord(JobKind.SERVER, "assistant_a", "5", takes_over="1")
JOBS = [SERVER, USER, OTHER]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run of two assistants, a (cells 0 and 1) and b (2 and 3)."""
    run_dir = RunDir(tmp_path / "second")
    run_dir.path.mkdir()
    models = {"a": scripted(), "b": scripted()}
    save_plan(run_dir, make_plan(CUDA, tmp_path, scripted(), dict(models), trials=1))
    return run_dir


@pytest.fixture
def plan(run_dir: RunDir) -> Plan:
    return load_plan(run_dir)


@pytest.mark.parametrize(
    ("jobs", "server", "age_s", "states", "who"),
    [
        (JOBS, SERVER, 0, {}, ON_THEIR_WAY),
        (JOBS, SERVER, NO_ARRAY_S, {}, ON_THEIR_WAY),
        (JOBS, SERVER, NO_ARRAY_S + 1, {}, ""),
        (JOBS, USER, 0, {"j3": "PENDING"}, "array b (job 3)"),
        # What cannot be asked about may be alive.
        (JOBS, USER, NO_ARRAY_S + 1, {"j3": "UNKNOWN"}, "array b (job 3)"),
        (JOBS, SERVER, 0, {"j3": "RUNNING"}, ON_THEIR_WAY),
        # A server may have the name of a block.
        ([SERVER, replace(USER, name="a")], SERVER, 0, {"j2": "RUNNING"}, ON_THEIR_WAY),
        # An array of an earlier submission, and the one that the server is for.
        ([ARRAY, *JOBS], SERVER, 0, {}, ON_THEIR_WAY),
        ([*JOBS, ARRAY], SERVER, 0, {}, ""),
        ([*JOBS, ARRAY], SERVER, 0, {"j4": "RUNNING"}, "array a (job 4)"),
        ([*JOBS, ARRAY, SUCCESSOR], SUCCESSOR, 0, {}, ""),
        # Of a run that an early version began: one record of several blocks.
        ([SERVER, replace(OTHER, blocks=("a", "b"))], SERVER, 0, {"j3": "RUNNING"}, "array b"),
    ],
)
def test_who_needs_a_server(
    jobs: list[JobRecord],
    server: JobRecord,
    age_s: float,
    states: dict[str, str],
    who: str,
    plan: Plan,
    run_dir: RunDir,
) -> None:
    schedulers = ScriptedScheduler(**states).all()
    found = describe_server_need(plan, run_dir, jobs, server, age_s, schedulers=schedulers)
    assert found.startswith(who) and bool(found) == bool(who)


def test_cells_that_are_done_need_no_server_though_their_array_has_not_ended(
    plan: Plan, run_dir: RunDir
) -> None:
    """The clean-up job says what the server says."""
    schedulers = ScriptedScheduler(j4="RUNNING").all()
    ask = (plan, run_dir, [*JOBS, ARRAY], SERVER, 0.0)
    finish_cell(run_dir, 0)
    assert describe_server_need(*ask, schedulers=schedulers) == "array a (job 4)"
    finish_cell(run_dir, 1, expected=1)  # a resumed sweep gave it another task
    assert describe_server_need(*ask, schedulers=schedulers) == "array a (job 4)"
    finish_cell(run_dir, 1)
    assert describe_server_need(*ask, schedulers=schedulers) == ""


def test_remaining_cells(plan: Plan, run_dir: RunDir) -> None:
    cells = RemainingCells(plan, run_dir, "assistant_a+2")
    begun = datetime.now(UTC).timestamp() - 1
    assert cells.has_any_left() and not cells.have_all_ended_since(begun)
    finish_cell(run_dir, 1)
    finish_cell(run_dir, 0, "failed", ended="2020-01-01T00:00:00+00:00")
    assert cells.has_any_left() and not cells.have_all_ended_since(begun)
    finish_cell(run_dir, 0, "running", ended=now())
    assert not cells.have_all_ended_since(begun)
    ended = now()
    finish_cell(run_dir, 0, "incomplete", ended=ended)
    assert cells.has_any_left() and cells.have_all_ended_since(begun)
    assert cells.have_all_ended_since(datetime.fromisoformat(ended).timestamp())
    finish_cell(run_dir, 0, "failed", ended=ago(60))
    finish_cell(run_dir, 1, "failed", ended=ended)
    assert not RemainingCells(plan, run_dir, "assistant_a").have_all_ended_since(begun)
    finish_cell(run_dir, 0)
    assert not cells.has_any_left()


def test_who_needs_a_leased_server(run_dir: RunDir, tmp_path: Path) -> None:
    scheduler = ScriptedScheduler(j4="RUNNING")

    def who(lease: Lease) -> str:
        return describe_lease_need(lease, scheduler.all())

    lease = Lease("1", str(run_dir.path), "user", now())
    old = replace(lease, created=ago(NO_ARRAY_S + 1))
    assert who(lease) == f"{ON_THEIR_WAY}: those of second"
    assert who(old) == ""
    write_jobs(run_dir, [replace(ARRAY, submitted=now())])
    assert who(lease) == who(old) == "array a (job 4) of second"
    assert who(replace(lease, instance="assistant_c")) == ""
    scheduler.script["4"] = "COMPLETED"
    assert who(lease) == ""
    write_jobs(run_dir, [replace(ARRAY, submitted=ago(60))])
    assert who(lease) == f"{ON_THEIR_WAY}: those of second"
    write_jobs(run_dir, [replace(ARRAY, submitted=lease.created)])  # within one second
    assert who(lease) == ""
    write_jobs(run_dir, [replace(ARRAY, submitted="")])
    assert who(lease) == f"{ON_THEIR_WAY}: those of second"
    for number in range(4):
        finish_cell(run_dir, number)
    assert who(lease) == ""
    gone = replace(lease, run_dir=str(tmp_path / "gone"))
    assert who(gone) == "the sweep of gone, just submitted"
    assert who(replace(gone, created=ago(61))) == ""


def test_a_lease_is_read_as_it_was_written_until_it_is_removed(
    run_dir: RunDir, tmp_path: Path
) -> None:
    owner = RunDir(tmp_path / "first")
    leased = add_lease(ServerLocation(owner, "user"), run_dir, "user+2")
    (lease,) = read_leases(owner, "user")
    assert (lease.id, lease.run_dir, lease.instance) == (leased.lease, str(run_dir.path), "user+2")
    assert lease.compute_age_s() < 60
    schedulers = ScriptedScheduler().all()
    assert describe_lessees(owner, "user", schedulers) == f"{ON_THEIR_WAY}: those of second"
    write_jobs(run_dir, [replace(ARRAY, submitted=now())])
    busy = ScriptedScheduler(j4="RUNNING").all()
    assert describe_lessees(owner, "user", busy) == "array a (job 4) of second"
    assert describe_lessees(owner, "user", ScriptedScheduler(j4="COMPLETED").all()) == ""
    (owner.leases("user") / "x.json").write_text('{"run_dir": "/", "created": "yesterday"}')
    assert read_leases(owner, "user") == [lease]
    remove_lease(owner, "user", lease.id)
    remove_lease(owner, "user", lease.id)
    remove_lease(owner, "user", "")
    assert read_leases(owner, "user") == []
    assert describe_lessees(owner, "user", schedulers) == ""


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


class Clock:
    """Stands in for the time of emobench.serving.demand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


OLD = replace(ARRAY, job_id="0")
LEAVES = "its arrays have left the queue"
NONE_CAME = "no array was in the queue within 15 minutes"


@pytest.mark.parametrize(
    ("jobs", "looks"),
    [
        # (seconds since its start, state of array 4, why it leaves), one look after the other.
        ([SERVER], [(0, "GONE", ""), (899, "GONE", ""), (901, "GONE", NONE_CAME)]),
        ([SERVER, ARRAY], [(900, "FAILED", LEAVES), (901, "FAILED", NONE_CAME)]),
        ([SERVER, ARRAY], [(0, "PENDING", ""), (9999, "RUNNING", ""), (9999, "FAILED", LEAVES)]),
        ([SERVER, ARRAY], [(0, "UNKNOWN", ""), (9999, "UNKNOWN", "")]),
        ([SERVER, ARRAY], [(0, "FAILED", LEAVES)]),
        # The array of an earlier submission: the server's own is on its way.
        (
            [ARRAY, SERVER],
            [(0, "FAILED", ""), (901, "FAILED", NONE_CAME)],
        ),
        # Started again for an array that was there already.
        ([ARRAY, SERVER], [(0, "RUNNING", ""), (150, "FAILED", ""), (151, "FAILED", LEAVES)]),
        ([OLD, SERVER, ARRAY], [(0, "RUNNING", ""), (10, "FAILED", LEAVES)]),
        # Submitted by hand: it has no record.
        ([ARRAY], [(0, "RUNNING", ""), (9999, "FAILED", "")]),
        ([], [(9999, "GONE", "")]),
    ],
)
def test_when_a_server_is_not_needed_any_more(
    jobs: list[JobRecord],
    looks: list[tuple[float, str, str]],
    run_dir: RunDir,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, scheduler = Clock(), ScriptedScheduler()
    clock.now = begun = 5000.0
    monkeypatch.setattr(demand, "time", clock)
    write_jobs(run_dir, jobs)
    own = OwnDemand(plan, run_dir, "assistant_a", "1", now(), 0.0, scheduler.all())
    for age_s, scheduler.script["4"], why in looks:
        clock.now = begun + age_s
        found = own.explain_leaving(60)
        assert found.startswith(why) and bool(found) == bool(why)


def test_a_server_that_was_started_by_hand_leaves_when_all_cells_have_ended(
    run_dir: RunDir, plan: Plan
) -> None:
    scheduler = ScriptedScheduler(j4="RUNNING")
    write_jobs(run_dir, [ARRAY])
    own = OwnDemand(plan, run_dir, "assistant_a", "1", ago(60), 0.0, scheduler.all())
    finish_cell(run_dir, 0, "failed", ended=now())
    finish_cell(run_dir, 1, "failed", ended=ago(120))
    scheduler.script["4"] = "FAILED"
    assert own.explain_leaving(60) == ""
    scheduler.script["4"] = "RUNNING"
    finish_cell(run_dir, 1, "failed", ended=now())
    assert own.explain_leaving(60) == ""
    scheduler.script["4"] = "FAILED"
    assert own.explain_leaving(60) == "all cells have ended"
    finish_cell(run_dir, 0)
    finish_cell(run_dir, 1)
    assert own.explain_leaving(60) == "all cells are done"


def test_a_lease_of_which_nothing_is_known_yet_counts_until_its_sweep_was_asked(
    run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_answer, needs = threading.Event(), {"1": "array a of second"}

    def ask(lease: Lease) -> str:
        may_answer.wait(240)
        return needs.get(lease.instance, "")

    def asking() -> bool:
        return "the queue of leases" in {thread.name for thread in threading.enumerate()}

    monkeypatch.setattr(demand, "describe_lease_need", ask)
    owner = RunDir(tmp_path / "first")
    leases = LeaseDemand(owner, "user", check_s=3600)
    assert (leases.refresh(), leases.explain_staying()) == (False, "")
    first = add_lease(ServerLocation(owner, "user"), run_dir, "1")
    assert leases.explain_staying() == ""
    assert (leases.refresh(), leases.refresh()) == (True, False)
    assert leases.ids == (first.lease,)
    assert leases.explain_staying() == f"a new lease of {run_dir.path}"
    assert asking()
    may_answer.set()
    until(lambda: leases.explain_staying() == "array a of second", "an answer")
    assert leases.explain_staying() == "array a of second"
    until(lambda: not asking(), "the end of the question")
    # A new one is asked about at once, and then both are over.
    needs.clear()
    add_lease(ServerLocation(owner, "user"), run_dir, "2")
    assert leases.refresh()
    assert leases.explain_staying() != ""
    until(lambda: leases.explain_staying() == "", "the next answer")
    assert read_leases(owner, "user") == []
    assert not leases.refresh()
    assert not leases.ids


def test_the_queue_is_asked_at_once_where_all_cells_seem_to_have_ended(
    run_dir: RunDir, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, scheduler = Clock(), ScriptedScheduler(j4="RUNNING")
    monkeypatch.setattr(demand, "time", clock)
    write_jobs(run_dir, [SERVER, ARRAY])
    own = OwnDemand(plan, run_dir, "assistant_a", "1", ago(60), 3600, scheduler.all())
    assert own.explain_leaving(60) == ""
    scheduler.script["4"] = "FAILED"
    finish_cell(run_dir, 0, "failed", ended=now())
    clock.now = 6
    assert own.explain_leaving(60) == ""
    finish_cell(run_dir, 1, "incomplete", ended=now())
    clock.now = 10.9  # it looks every five seconds
    assert own.explain_leaving(60) == ""
    clock.now = 11
    assert own.explain_leaving(60) == LEAVES
    assert len(scheduler.asked) == 2


def test_tasks_that_a_new_submission_adds_count_at_once(
    run_dir: RunDir, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is read again where it has changed, and only there."""
    read: list[Plan] = []

    def load(where: RunDir) -> Plan:
        read.append(load_plan(where))
        return read[-1]

    monkeypatch.setattr(demand, "load_plan", load)
    write_jobs(run_dir, [SERVER, ARRAY])
    scheduler = ScriptedScheduler(j4="RUNNING")
    own = OwnDemand(plan, run_dir, "assistant_a", "1", now(), 0.0, scheduler.all())
    finish_cell(run_dir, 0)
    finish_cell(run_dir, 1)
    assert (own.explain_leaving(60), read) == ("all cells are done", [])
    models = {"a": scripted(), "b": scripted()}
    save_plan(run_dir, make_plan(CUDA, tmp_path, scripted(), dict(models), trials=1, tasks=3))
    for _ in range(2):
        assert own.explain_leaving(60) == ""
        assert read == [own.plan]
    assert len(own.plan.cells[1].tasks) == 3


@pytest.mark.parametrize("damage", ["", "{", None])
def test_a_plan_that_is_damaged_meanwhile_ends_no_server(
    run_dir: RunDir, plan: Plan, tmp_path: Path, damage: str | None
) -> None:
    write_jobs(run_dir, [SERVER, ARRAY])
    own = OwnDemand(
        plan, run_dir, "assistant_a", "1", now(), 0.0, ScriptedScheduler(j4="RUNNING").all()
    )
    if damage is None:
        run_dir.plan.unlink()
    else:
        run_dir.plan.write_text(damage)
    assert (own.explain_leaving(60), own.plan) == ("", plan)
    models = {"a": scripted(), "b": scripted()}
    mended = make_plan(CUDA, tmp_path, scripted(), dict(models), trials=1, tasks=3)
    save_plan(run_dir, mended)
    assert (own.explain_leaving(60), own.plan) == ("", mended)


class FinishingScheduler(ScriptedScheduler):
    """The last cells end while the queue is asked."""

    run_dir: RunDir

    def ask_states(self, jobs: Sequence[JobRecord]) -> dict[str, JobState]:
        for cell in (0, 1):
            finish_cell(self.run_dir, cell)
        return super().ask_states(jobs)


def test_cells_that_end_while_the_queue_is_asked_are_done(run_dir: RunDir, plan: Plan) -> None:
    scheduler = FinishingScheduler(j4="COMPLETED")
    scheduler.run_dir = run_dir
    write_jobs(run_dir, [SERVER, ARRAY])
    own = OwnDemand(plan, run_dir, "assistant_a", "1", now(), 3600, scheduler.all())
    assert [own.explain_leaving(60), own.explain_leaving(60)] == ["", "all cells are done"]
