"""When a server leaves by itself, decided step by step without one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.serving import shutdown_policy
from emobench.serving.shutdown_policy import ShutdownPolicy
from tests.support.plans import make_plan, scripted
from tests.support.processes import until

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Stands in for the two clocks of emobench.serving.shutdown_policy."""

    minutes = 0.0

    def monotonic(self) -> float:
        return self.minutes * 60

    def now(self, _: object) -> datetime:
        return BEGIN + timedelta(minutes=self.minutes)


@dataclass
class World:
    """What a policy asks: the sweep's need, other sweeps' and the budget."""

    plan: Plan
    unneeded: str = ""
    leased: str = ""
    reached: str = ""
    arrays_ended: bool = True
    reached_while_asked: str = ""

    def explain_leaving(self) -> str:
        self.reached = self.reached or self.reached_while_asked
        return self.unneeded

    def explain_staying(self) -> str:
        return self.leased

    def check(self, _: Plan) -> str:
        return self.reached if self.arrays_ended else ""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(shutdown_policy, "time", clock)
    monkeypatch.setattr(shutdown_policy, "datetime", clock)
    return clock


def make_policy(monkeypatch: pytest.MonkeyPatch, **sweep: Any) -> tuple[ShutdownPolicy, World]:
    world = World(make_plan(user=scripted(), **sweep))
    monkeypatch.setattr(shutdown_policy, "Budget", lambda run_dir: world)
    policy = ShutdownPolicy(RunDir(Path("/run")), world, world, 0.0)  # type: ignore[arg-type]
    return policy, world


def test_a_server_leaves_when_nothing_needs_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, world = make_policy(monkeypatch)
    assert (policy.explain_leaving(), policy.outlasts_job) == ("", True)
    world.unneeded, world.leased = "all cells are done", "array a of second"
    assert (policy.explain_leaving(), policy.outlasts_job) == ("", True)
    world.leased = ""
    assert (policy.explain_leaving(), policy.final) == ("all cells are done", True)
    assert not policy.outlasts_job
    # What it has said to its clients stands.
    world.unneeded = ""
    assert (policy.explain_leaving(), policy.final) == ("", True)


def test_a_kept_server_stays_its_minutes_from_the_moment_that_nothing_needs_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, world = make_policy(monkeypatch, keep_servers_min=30.0)
    clock.minutes = 10
    world.unneeded = "all cells are done"
    assert (policy.explain_leaving(), policy.kept_until) == ("", "2026-01-01T00:40:00+00:00")
    assert not policy.outlasts_job
    clock.minutes = 39
    assert (policy.explain_leaving(), policy.kept_until) == ("", "2026-01-01T00:40:00+00:00")
    # It is needed again, and then has its minutes anew.
    world.unneeded = ""
    assert (policy.explain_leaving(), policy.kept_until, policy.outlasts_job) == ("", "", True)
    world.unneeded = "all cells are done"
    assert (policy.explain_leaving(), policy.kept_until) == ("", "2026-01-01T01:09:00+00:00")
    clock.minutes = 69
    assert (policy.explain_leaving(), policy.kept_until) == ("all cells are done", "")


@pytest.mark.parametrize(("limit_min", "leaves"), [(60.0, True), (0.0, False)])
def test_a_server_leaves_after_two_idle_looks_with_the_limit_between_them(
    limit_min: float, leaves: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, world = make_policy(monkeypatch, idle_limit_min=limit_min)
    for clock.minutes, busy in ((500, False), (559, True), (560, False), (561, None), (562, False)):
        policy.observe(busy)
        assert policy.explain_idleness() == ""
    clock.minutes = 621
    policy.observe(False)
    assert policy.explain_idleness() == ""
    clock.minutes = 622
    policy.observe(False)
    # A lease is no reason to stay idle.
    world.leased = "array a of second"
    assert policy.explain_leaving() == ""
    found = policy.explain_idleness()
    assert (found == "idle for 60 minutes (idle_limit_min)") == leaves
    assert leaves or not found


def test_a_server_stays_for_the_end_of_its_own_cells_when_the_budget_is_reached(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, world = make_policy(monkeypatch)
    world.reached, world.arrays_ended = "max_gpu_hours reached", False
    world.unneeded = "its arrays have left the queue"
    for _ in range(3):
        assert policy.explain_leaving() == ""
    assert policy.closing and not policy.outlasts_job and not policy.final
    world.arrays_ended = True
    until(policy.explain_leaving, "the budget's answer")
    assert policy.explain_leaving() == "max_gpu_hours reached"


def test_arrays_that_left_because_of_the_budget_are_not_the_reason(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, world = make_policy(monkeypatch)
    world.arrays_ended = False
    world.unneeded, world.reached_while_asked = "its arrays have left", "max_gpu_hours reached"
    assert policy.explain_leaving() == ""
