"""max_gpu_hours: what a run's servers have used, and the end of a sweep that has used enough."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from emobench.core.errors import EmobenchError, InvalidInput, Problem
from emobench.core.plan import Plan, server_of, servers_of
from emobench.core.run_dir import RunDir
from emobench.scheduler.cost import Cost
from emobench.scheduler.schedulers import SCHEDULERS
from emobench.scheduler.usage import ask_accounts, usage
from emobench.store.jobs import JobKind, read_jobs


def hours_of(plan: Plan, cost: Cost) -> float:
    """Accelerator-hours of all server jobs. Where neither accounting nor the profile knows of
    cards, a role's own count holds."""
    models = servers_of(plan.sweep)
    seconds = 0.0
    for row in cost.jobs:
        if row.run.kind is JobKind.SERVER:
            model = models.get(server_of(row.run.name))
            cards = row.run.accelerators or (model.accelerators if model else 0)
            seconds += cards * row.spent.running_s
    return seconds / 3600


def used_hours(plan: Plan, run_dir: RunDir) -> float:
    """What all server jobs of the run directory have used until now. Asks squeue and sacct."""
    servers = [job for job in read_jobs(run_dir) if job.kind is JobKind.SERVER]
    accounts = ask_accounts(run_dir, servers)
    return hours_of(plan, usage(plan, run_dir, servers, SCHEDULERS.states(servers), accounts))


def reached(plan: Plan, hours: float) -> str:
    """'max_gpu_hours reached: 4.02 of 4', or empty."""
    limit = plan.sweep.max_gpu_hours
    if limit is None or hours < limit:
        return ""
    return f"max_gpu_hours reached: {_number(hours)} of {_number(limit)}"


def refuse_if_spent(plan: Plan, run_dir: RunDir) -> None:
    """Raise InvalidInput where a run directory has used its limit already."""
    if plan.sweep.max_gpu_hours is None:
        return
    if text := reached(plan, used_hours(plan, run_dir)):
        raise InvalidInput(
            Problem(
                f"{text} accelerator-hours; nothing was submitted",
                file=plan.sweep_file,
                key="max_gpu_hours",
                hint="raise it and run the same command again: finished conversations stay, and "
                "what is missing goes on. `emobench report` works with what there is",
            )
        )


class Budget:
    """The limit of a run, as one of its servers watches it. `check` may take a minute."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self.reached = ""
        """Why the sweep is being stopped; set before the arrays are told."""

    def check(self, plan: Plan) -> str:
        """Stop the sweep where it has used enough: the reason, once its arrays have ended."""
        if plan.sweep.max_gpu_hours is None:
            return ""
        self.reached = reached(plan, used_hours(plan, self._run_dir))
        if self.reached:
            print(f"emobench: {self.reached}: the sweep is stopped", flush=True)
            # An array that does not go away must not keep the servers: they cost.
            with suppress(EmobenchError):
                arrays = [job for job in read_jobs(self._run_dir) if job.kind is JobKind.ARRAY]
                SCHEDULERS.stop_cells(SCHEDULERS.live(arrays))
        return self.reached


@dataclass(frozen=True)
class LimitStatus:
    """For `status`: the limit, what is used of it, and whether it is reached."""

    max_gpu_hours: float
    used: float
    reached: bool

    def __str__(self) -> str:
        text = f"{_number(self.used)} of {_number(self.max_gpu_hours)} accelerator-hours used"
        if not self.reached:
            return text
        return (
            f"{text}: max_gpu_hours reached, the sweep is stopped; raise it in the sweep file and "
            "run the same `emobench sweep` command again"
        )


def state_of_limit(plan: Plan, cost: Cost) -> LimitStatus | None:
    """Return how the run stands by its limit; None without one."""
    if plan.sweep.max_gpu_hours is None:
        return None
    hours = hours_of(plan, cost)
    return LimitStatus(plan.sweep.max_gpu_hours, round(hours, 6), bool(reached(plan, hours)))


def _number(hours: float) -> str:
    """Two digits behind the point, or as many as matter: 4.02, 4, 0.0031."""
    return f"{hours:.2f}".rstrip("0").rstrip(".") if hours >= 0.1 else f"{hours:.2g}"
