"""What a run directory and the queue say about a sweep: `emobench status`.

Everything is read: from the cells' summaries, the endpoint files, jobs.json, and the queue (squeue
and sacct, or the process table). Where the queue cannot be asked, the files still answer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from emobench.analysis.stats.means import mean_of_sums
from emobench.core.files import has_room
from emobench.core.plan import Plan, list_instances, load_plan
from emobench.core.run_dir import RunDir
from emobench.core.times import to_iso, to_seconds
from emobench.runs.cell_state import (
    CellState,
    derive_cell_state,
    find_cell_jobs,
    find_job_of_cell,
    find_state,
)
from emobench.runs.held_jobs import BlockedJob, HeldJob, find_blocked, find_held
from emobench.runs.logs import LogIndex
from emobench.runs.server_state import ServerStatus, read_server
from emobench.scheduler.cost import CostTotals, sum_up
from emobench.scheduler.interface import JobState, is_live
from emobench.scheduler.schedulers import SCHEDULERS, find_scheduler
from emobench.scheduler.usage import SummaryOf, ask_accounts, compute_run_cost
from emobench.serving.budget import LimitStatus, MoneyStatus, build_limit_status, build_money_status
from emobench.store.calls import Usage, add_usage
from emobench.store.forecast import Estimate, read_forecast
from emobench.store.jobs import JobKind, JobRecord
from emobench.store.summaries import EPISODES_MISSING, CellSummary, find_current_summary


@dataclass(frozen=True)
class CellCounts:
    """Cells by state."""

    total: int
    done: int
    running: int
    failed: int
    waiting: int
    cancelled: int = 0

    def __str__(self) -> str:
        """Return such as '3 done, 5 waiting of 8'."""
        counts = ((getattr(self, state), state) for state in CellState)
        return f"{', '.join(f'{n} {state}' for n, state in counts if n) or '0'} of {self.total}"


@dataclass(frozen=True)
class EpisodeCounts:
    """Episodes of all cells, by their summaries."""

    finished: int
    expected: int
    outcomes: Mapping[str, int]


@dataclass(frozen=True)
class VariantStatus:
    """One variant over all cells."""

    variant: str
    episodes: int
    """Scored."""
    mean_reward: float | None
    """Of the scored episodes; None where there is none."""


@dataclass(frozen=True)
class CellProblem:
    """A cell that failed, and why."""

    cell: int
    title: str
    reason: str
    ended: str | None
    """When its last run did, ISO 8601, UTC; None: not known."""
    log: str = ""
    """Its newest log; empty where there is none or nobody asked."""


PACE_WINDOW_S = 1800.0
"""Over which the pace of a run is taken."""


def estimate_pace(cells: Iterable[CellSummary], now_s: float) -> float:
    """Return the episodes a second of the last half hour, or since the cells began if that is less;
    0 where none is known. A cell's episodes are taken to have ended evenly over its last run."""
    first = now_s - PACE_WINDOW_S
    begun, count = now_s, 0.0
    for cell in cells:
        start, end = to_seconds(cell.started), to_seconds(cell.ended)
        end = now_s if end is None else end
        if start is None or not start < end or end <= first:
            continue
        begun = min(begun, max(start, first))
        count += cell.finished * (end - max(start, first)) / (end - start)
    return count / (now_s - begun) if begun < now_s else 0.0


@dataclass(frozen=True)
class RunStatus:
    """How a run stands."""

    run_dir: str
    sweep: str
    scheduler: str
    scripted: bool
    """Whether a model of it is scripted."""
    live: bool
    """Whether one of its jobs is in the queue; a clean-up job and kept servers do not count."""
    finished: bool
    """Whether every cell is done."""
    servers: Sequence[ServerStatus]
    cells: CellCounts
    episodes: EpisodeCounts
    variants: Sequence[VariantStatus]
    problems: Sequence[CellProblem]
    """Cells that failed."""
    again: Sequence[CellProblem] = ()
    """Cells that were done, of which episodes were damaged, lost or set aside since."""
    held: Sequence[HeldJob] = ()
    blocked: Sequence[BlockedJob] = ()
    """Jobs that a limit of the site, or a mistake, keeps waiting."""
    limits: Sequence[str] = ()
    """What of the site's limits is too small for the run, where jobs are blocked and somebody
    asked."""
    expected_end: str | None = None
    """ISO 8601, UTC, by the pace of the last half hour; None: over, or nothing says."""
    expected_hours: Estimate | None = None
    """What the whole was expected to take with its servers up, while no episode has ended yet."""
    usage: Usage = field(default_factory=dict)
    """Tokens, and US dollars of hosted models, by role; of all cells."""
    usage_by_cell: Mapping[int, Usage] = field(default_factory=dict)
    """Of the cells that have any."""
    money: MoneyStatus | None = None
    """None without a max_cost; the servers' share is in it where the cost was asked for."""
    cost: CostTotals | None = None
    """None where nobody asked."""
    limit: LimitStatus | None = None
    """None without a limit, or where nobody asked for the cost."""

    def to_json(self) -> dict[str, Any]:
        """Return the whole for --json."""
        data = asdict(self)
        if self.cost is None:
            del data["cost"], data["limit"]
        return data


def read_status(run_dir: RunDir, *, cost: bool = False) -> RunStatus:
    """Return how a run stands; with `cost`, also what it has cost so far (asks sacct once more).

    Raises InvalidInput where `run_dir` is no run directory.
    """
    plan = load_plan(run_dir)
    jobs = SCHEDULERS.find_all_jobs(plan, run_dir)
    states = SCHEDULERS.ask_states(jobs)
    status = build_run_status(plan, run_dir, jobs, states)
    if status.problems:
        index = LogIndex(plan, run_dir, jobs)
        problems = [
            replace(problem, log=str(next(iter(index.find_cell_logs(problem.cell)), "")))
            for problem in status.problems
        ]
        status = replace(status, problems=problems)
    if status.blocked:
        checks = find_scheduler(plan.profile).check_plan(plan, own={job.job_id for job in jobs})
        found = [c for c in checks if c.state in ("failed", "warning")]
        limits = [f"{check.name}: {check.message}; {check.hint}" for check in found]
        status = replace(status, limits=limits)
    if not cost:
        return status
    spent = compute_run_cost(plan, run_dir, jobs, states, ask_accounts(plan, run_dir, jobs))
    return replace(
        status,
        cost=sum_up(spent),
        limit=build_limit_status(plan, spent),
        money=build_money_status(plan, status.usage, spent),
    )


def build_run_status(
    plan: Plan,
    run_dir: RunDir,
    jobs: Sequence[JobRecord],
    states: Mapping[str, JobState],
    summary_of: SummaryOf | None = None,
) -> RunStatus:
    """Return how a run stands by what the queue said, without logs and cost; `summary_of` reads a
    cell's summary by its number."""
    counts: Counter[CellState] = Counter()
    problems: list[CellProblem] = []
    again: list[CellProblem] = []
    scored: Counter[str] = Counter(dict.fromkeys(plan.sweep.variants, 0))
    rewards = dict.fromkeys(plan.sweep.variants, 0.0)
    outcomes: Counter[str] = Counter()
    finished = 0
    spent: dict[int, Usage] = {}
    summaries: list[CellSummary] = []
    ids = find_cell_jobs(plan, jobs)
    full = "" if has_room(run_dir.path) else f"{run_dir.path}: the disk is FULL"
    for cell in plan.cells:
        summary = summary_of(cell.number) if summary_of else find_current_summary(run_dir, cell)
        job = find_job_of_cell(cell.number, ids, summary, states)
        state, reason = derive_cell_state(cell, summary, job, states)
        counts[state] += 1
        if summary:
            summaries.append(summary)
            finished += summary.finished
            outcomes.update(summary.outcomes)
            n, total = summary.rewards
            scored[cell.variant] += n
            rewards[cell.variant] += total
            if summary.usage:
                spent[cell.number] = summary.usage
        if (
            state is CellState.WAITING
            and summary
            and summary.exit_reason == EPISODES_MISSING
            and not (job and is_live(find_state(job, states)))
        ):
            again.append(CellProblem(cell.number, cell.title, summary.message, summary.ended))
        if state is CellState.FAILED:
            if full and not (summary and summary.has_failed):
                reason = f"{full}, so the cell cannot say how it ended ({reason})"
            ended = summary.ended if summary else None
            problems.append(CellProblem(cell.number, cell.title, reason, ended))
    servers = [
        read_server(plan, run_dir, name, jobs, states) for name in list_instances(plan.sweep)
    ]
    # A clean-up job only waits for the others, and kept servers only for somebody's own work.
    passive = {job.job_id for job in jobs if job.kind is JobKind.CLEANUP}
    passive |= {str(server.job_id) for server in servers if server.kept_until}
    models = (plan.sweep.user, *plan.sweep.assistants.values())
    together = add_usage(*spent.values())
    expected = sum(len(cell.tasks) for cell in plan.cells)
    live = any(is_live(state) for job, state in states.items() if job not in passive)
    going = live and finished < expected
    pace = estimate_pace(summaries, time.time()) if going else 0.0
    forecast = read_forecast(run_dir) if going and not finished else None
    return RunStatus(
        run_dir=str(run_dir.path),
        sweep=plan.sweep.name,
        scheduler=plan.profile.scheduler,
        scripted=any(model.engine == "scripted" for model in models),
        live=live,
        finished=counts[CellState.DONE] == len(plan.cells),
        servers=servers,
        cells=CellCounts(len(plan.cells), **{str(state): counts[state] for state in CellState}),
        episodes=EpisodeCounts(finished, expected, dict(outcomes)),
        expected_end=to_iso(time.time() + (expected - finished) / pace) if pace else None,
        expected_hours=forecast.hours if forecast else None,
        variants=[
            VariantStatus(name, scored[name], mean_of_sums(total, scored[name]))
            for name, total in rewards.items()
        ],
        problems=problems,
        again=again,
        usage=together,
        usage_by_cell=spent,
        money=build_money_status(plan, together),
        held=find_held(jobs, states),
        blocked=find_blocked(jobs, states),
    )
