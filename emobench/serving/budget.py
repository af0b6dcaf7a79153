"""What a run may cost: max_gpu_hours of its servers; max_cost of the hosted models it calls and,
where the profile has a price of an accelerator-hour, of its servers too."""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from emobench.core.errors import EmobenchError, InvalidInput, Problem
from emobench.core.output import say
from emobench.core.plan import Plan, get_server_name, list_servers, load_plan
from emobench.core.run_dir import RunDir
from emobench.scheduler.cost import Cost, format_hours
from emobench.scheduler.schedulers import SCHEDULERS
from emobench.scheduler.usage import ask_accounts, compute_run_cost
from emobench.store.calls import Usage, format_dollars, sum_cost
from emobench.store.jobs import JobKind, read_jobs
from emobench.store.summaries import read_summary

LOOK_S = 10.0
"""How often a cell looks what the others of its run have spent."""
_GO_ON = "raise it in the sweep file and run the same `emobench sweep` command again"


def sum_hours(plan: Plan, cost: Cost) -> float:
    """Return the accelerator-hours of all server jobs. Where neither accounting nor the profile
    knows of cards, a role's own count holds."""
    models = list_servers(plan.sweep)
    seconds = 0.0
    for row in cost.jobs:
        if row.run.kind is JobKind.SERVER:
            model = models.get(get_server_name(row.run.name))
            cards = row.run.accelerators or (model.accelerators if model else 0)
            seconds += cards * row.spent.running_s
    return seconds / 3600


def compute_used_hours(plan: Plan, run_dir: RunDir) -> float:
    """Return what all server jobs of the run directory have used until now. Asks squeue and
    sacct."""
    servers = [job for job in read_jobs(run_dir) if job.kind is JobKind.SERVER]
    accounts = ask_accounts(plan, run_dir, servers)
    return sum_hours(
        plan, compute_run_cost(plan, run_dir, servers, SCHEDULERS.ask_states(servers), accounts)
    )


def describe_reached(plan: Plan, hours: float) -> str:
    """Return 'max_gpu_hours reached: 4.02 of 4.00', or empty."""
    limit = plan.sweep.max_gpu_hours
    if limit is None or hours < limit:
        return ""
    return f"max_gpu_hours reached: {format_hours(hours)} of {format_hours(limit)}"


def describe_cost_reached(max_cost: float | None, spent: float) -> str:
    """Return 'max_cost reached: $4.02 of $4.00', or empty; both in US dollars."""
    if max_cost is None or spent < max_cost:
        return ""
    return f"max_cost reached: {format_dollars(spent)} of {format_dollars(max_cost)}"


def sum_spent_dollars(plan: Plan, run_dir: RunDir, *, without: int | None = None) -> float:
    """Return what the hosted models of a run have cost, by its cells' summaries; `without` one
    cell."""
    numbers = (cell.number for cell in plan.cells if cell.number != without)
    summaries = (read_summary(run_dir, number) for number in numbers)
    return math.fsum(sum_cost(each.usage) or 0.0 for each in summaries if each)


def compute_card_dollars(plan: Plan, hours: float) -> float:
    """Return what so many accelerator-hours cost, in US dollars; 0 where the profile has no
    price."""
    return hours * (plan.profile.accelerator_hour_price or 0.0)


def _needs_hours(plan: Plan) -> bool:
    """Return whether a limit of the run is one of accelerator-hours, or of their price."""
    sweep = plan.sweep
    priced = bool(plan.profile.accelerator_hour_price)
    return sweep.max_gpu_hours is not None or (sweep.max_cost is not None and priced)


def refuse_if_spent(plan: Plan, run_dir: RunDir) -> None:
    """Raise InvalidInput where a run directory has used one of its limits already."""
    sweep = plan.sweep
    hours = compute_used_hours(plan, run_dir) if _needs_hours(plan) else 0.0
    cost = 0.0
    if sweep.max_cost is not None:
        cost = sum_spent_dollars(plan, run_dir) + compute_card_dollars(plan, hours)
    said = {
        "max_gpu_hours": f"{text} accelerator-hours"
        if (text := describe_reached(plan, hours))
        else "",
        "max_cost": describe_cost_reached(sweep.max_cost, cost),
    }
    problems = [
        Problem(
            f"{text}; nothing was submitted",
            file=plan.sweep_file,
            key=key,
            hint="raise it and run the same command again: finished conversations stay, and "
            "what is missing goes on. `emobench report` works with what there is",
        )
        for key, text in said.items()
        if text
    ]
    if problems:
        raise InvalidInput(problems)


class CostLimit:
    """max_cost, as one cell keeps to it: of hosted models. What servers cost they watch themselves
    (`Budget`). Its threads may ask at the same time."""

    def __init__(self, plan: Plan, run_dir: RunDir, cell: int, own: float) -> None:
        """`own` is what the cell itself has spent before, in US dollars."""
        self._plan, self._run_dir, self._cell, self._own = plan, run_dir, cell, own
        self._lock = threading.Lock()
        self._next_look = 0.0
        self._others = 0.0

    def spend(self, amount: float) -> None:
        """Note what a conversation of this cell has cost, at its end."""
        with self._lock:
            self._own += amount

    def check(self) -> str:
        """Return why no new conversation may begin; empty where one may.

        The other cells' spending, and a limit that was changed meanwhile, are as of some seconds
        ago.
        """
        with self._lock:
            if (began := time.monotonic()) >= self._next_look:
                self._look()
                # What looking costs stays below a twentieth of the time.
                ended = time.monotonic()
                self._next_look = ended + max(LOOK_S, 20 * (ended - began))
            limit = self._plan.sweep.max_cost
            text = (
                describe_cost_reached(limit, self._others + self._own) if limit is not None else ""
            )
        return f"{text}; {_GO_ON}" if text else ""

    def _look(self) -> None:
        with suppress(EmobenchError):  # the plan as it was will do
            self._plan = load_plan(self._run_dir)
        if self._plan.sweep.max_cost is not None:
            self._others = sum_spent_dollars(self._plan, self._run_dir, without=self._cell)


class Budget:
    """The limits of a run, as one of its servers watches them. `check` may take a minute."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self.reached = ""
        """Why the sweep is being stopped; set before the arrays are told."""

    def check(self, plan: Plan) -> str:
        """Stop the sweep where it has used enough: the reason, once its arrays have ended."""
        if not _needs_hours(plan):
            return ""
        hours = compute_used_hours(plan, self._run_dir)
        self.reached = describe_reached(plan, hours)
        if not self.reached and plan.profile.accelerator_hour_price:
            spent = sum_spent_dollars(plan, self._run_dir) + compute_card_dollars(plan, hours)
            self.reached = describe_cost_reached(plan.sweep.max_cost, spent)
        if self.reached:
            say(f"emobench: {self.reached}: the sweep is stopped")
            # An array that does not go away must not keep the servers: they cost.
            with suppress(EmobenchError):
                arrays = [job for job in read_jobs(self._run_dir) if job.kind is JobKind.ARRAY]
                SCHEDULERS.stop_cells(SCHEDULERS.find_live(arrays))
        return self.reached


@dataclass(frozen=True)
class LimitStatus:
    """For `status`: the limit, what is used of it, and whether it is reached."""

    max_gpu_hours: float
    used: float
    reached: bool

    def __str__(self) -> str:
        text = (
            f"{format_hours(self.used)} of {format_hours(self.max_gpu_hours)} accelerator-hours "
            "used"
        )
        if not self.reached:
            return text
        return f"{text}: max_gpu_hours reached, the sweep is stopped; {_GO_ON}"


def build_money_status(plan: Plan, usage: Usage, cost: Cost | None = None) -> MoneyStatus | None:
    """Return how the run stands by its max_cost, its servers' share too where `cost` is given; None
    without a limit."""
    limit = plan.sweep.max_cost
    if limit is None:
        return None
    used = sum_cost(usage) or 0.0
    if cost is not None:
        used += compute_card_dollars(plan, sum_hours(plan, cost))
    return MoneyStatus(limit, used, bool(describe_cost_reached(limit, used)))


def build_limit_status(plan: Plan, cost: Cost) -> LimitStatus | None:
    """Return how the run stands by its limit; None without one."""
    if plan.sweep.max_gpu_hours is None:
        return None
    hours = sum_hours(plan, cost)
    return LimitStatus(
        plan.sweep.max_gpu_hours, round(hours, 6), bool(describe_reached(plan, hours))
    )


@dataclass(frozen=True)
class MoneyStatus:
    """For `status`: the limit of money, and what is used of it, in US dollars."""

    max_cost: float
    used: float
    reached: bool

    def __str__(self) -> str:
        text = f"{format_dollars(self.used)} of {format_dollars(self.max_cost)} used"
        return (
            f"{text}: max_cost reached, no new conversation begins; {_GO_ON}"
            if self.reached
            else text
        )
