"""Accelerator-hours by job and by cell: queued, loading, waiting, serving, idle. Pure functions.

Only servers hold accelerators. A server's job loads until its engine answers, and again after a
restart; from then on it is serving while it has a request. Without one it is waiting where no
partner answers, a server that its conversations need beside it, and else idle. All times are
seconds since the epoch, all durations seconds; `accelerator_s` is cards times seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from emobench.core.plan import get_server_name
from emobench.store.jobs import JobKind

LOADING, WAITING, SERVING, IDLE = PHASES = ("loading", "waiting", "serving", "idle")
# What a server does from an event on. One that was told to leave has no request any more.
PHASE = {
    "starting": LOADING,
    "restarted": LOADING,
    "ready": IDLE,
    "busy": SERVING,
    "idle": IDLE,
    "left": IDLE,
    "failed": LOADING,
}


@dataclass(frozen=True)
class JobRun:
    """One run of one job, or of one task of an array; a requeued job has several."""

    kind: JobKind
    name: str
    """Server or block."""
    job_id: str
    """As squeue names it: 12, or 12_3 for a task of an array."""
    submitted: float | None
    started: float | None
    """None: it has not started."""
    ended: float | None
    """None: it has not ended."""
    accelerators: int
    source: Literal["sacct", "records"]
    cell: int | None = None


@dataclass(frozen=True)
class Mark:
    """An event of a server's log: see store/events.py."""

    time: float
    event: str
    busy_s: float = 0.0
    request_s: float = 0.0


@dataclass(frozen=True)
class Spent:
    """Where the time of a run went; loading, waiting, serving and idle are of servers, and add
    up."""

    queued_s: float
    running_s: float
    loading_s: float = 0.0
    serving_s: float = 0.0
    idle_s: float = 0.0
    waiting_s: float = 0.0
    """For a partner."""
    measured_s: float = 0.0
    """In which the engine had a request, as far as it was looked at."""
    request_s: float = 0.0
    """Of its requests in that time, added up."""


@dataclass(frozen=True)
class Period:
    """A time in which a server answered."""

    server: str
    start: float
    end: float
    accelerators: int


@dataclass(frozen=True)
class Conversation:
    """One episode as the cost sees it."""

    cell: int
    start: float
    end: float
    servers: tuple[str, ...]
    """The servers that it needs."""


def split_time(
    run: JobRun,
    marks: Sequence[Mark],
    now: float,
    partners: Sequence[tuple[float, float]] | None = None,
) -> Spent:
    """Return how `run` spent its time until `now`; `marks` are its job's, oldest first, and
    `partners` the times in which one of its partners answered (None: always)."""
    if run.started is None:
        waited_until = now if run.ended is None else run.ended
        return Spent(_measure_between(run.submitted, waited_until), 0.0)
    end = now if run.ended is None else run.ended
    totals = dict.fromkeys(PHASES, 0.0)
    measured_s = request_s = 0.0
    if run.kind is JobKind.SERVER:
        for phase, start, stop in _list_phases(run.started, end, marks):
            alone = 0.0
            if phase == IDLE and partners is not None:
                alone = stop - start - measure_overlap(partners, start, stop)
            totals[phase] += stop - start - alone
            totals[WAITING] += alone
        measured_s, request_s = _sum_served(run.started, end, marks)
    return Spent(
        queued_s=_measure_between(run.submitted, run.started),
        running_s=_measure_between(run.started, end),
        loading_s=totals[LOADING],
        serving_s=totals[SERVING],
        idle_s=totals[IDLE],
        waiting_s=totals[WAITING],
        measured_s=measured_s,
        request_s=request_s,
    )


def measure_overlap(times: Sequence[tuple[float, float]], start: float, end: float) -> float:
    """Return how much of start to end lies within one of `times`, which may overlap."""
    total, upto = 0.0, start
    for first, last in sorted(times):
        total += max(0.0, min(last, end) - max(first, upto))
        upto = max(upto, last)
    return total


def _sum_served(started: float, ended: float, marks: Sequence[Mark]) -> tuple[float, float]:
    """Return seconds with a request, and of requests, of one run; each mark has them since the
    begin of its process."""
    found = [mark for mark in marks if started - 1 <= mark.time <= ended + 1]
    busy_s = max((mark.busy_s for mark in found), default=0.0)
    return busy_s, max((mark.request_s for mark in found), default=0.0)


def list_periods(run: JobRun, marks: Sequence[Mark], now: float) -> list[Period]:
    """Return when the server of this run answered."""
    if run.kind is not JobKind.SERVER or run.started is None:
        return []
    end = now if run.ended is None else run.ended
    return [
        Period(get_server_name(run.name), start, stop, run.accelerators)
        for phase, start, stop in _list_phases(run.started, end, marks)
        if phase != LOADING and stop > start
    ]


def share_by_cell(
    answering: Iterable[Period], conversations: Sequence[Conversation]
) -> dict[int, tuple[float, float]]:
    """Return (accelerator seconds, server seconds) by cell.

    At each moment a server's time is split evenly between the conversations that need it; time
    in which there is none belongs to no cell.
    """
    result: dict[int, tuple[float, float]] = {talk.cell: (0.0, 0.0) for talk in conversations}
    key = lambda period: period.server  # noqa: E731
    for server, group in groupby(sorted(answering, key=key), key=key):
        talks = [talk for talk in conversations if server in talk.servers and talk.end > talk.start]
        share = _Share(list(group), talks)
        for talk in talks:
            cards, seconds = result[talk.cell]
            more = share.sum_between(talk.start, talk.end)
            result[talk.cell] = (cards + more[0], seconds + more[1])
    return result


class _Share:
    """Integral over time of (cards, servers) / conversations in progress, for one server.

    A conversation's share is the integral's growth while it lasts, so that the work is
    n log n, however many conversations overlap.
    """

    def __init__(self, answering: Sequence[Period], talks: Sequence[Conversation]) -> None:
        steps: dict[float, list[int]] = {}

        def step(time: float, cards: int, servers: int, active: int) -> None:
            change = steps.setdefault(time, [0, 0, 0])
            for index, value in enumerate((cards, servers, active)):
                change[index] += value

        for period in answering:
            step(period.start, period.accelerators, 1, 0)
            step(period.end, -period.accelerators, -1, 0)
        for talk in talks:
            step(talk.start, 0, 0, 1)
            step(talk.end, 0, 0, -1)
        self._times = sorted(steps)
        self._values: list[tuple[float, float]] = []
        cards = servers = active = 0
        total = (0.0, 0.0)
        before = 0.0
        for time in self._times:
            if active:
                width = (time - before) / active
                total = (total[0] + cards * width, total[1] + servers * width)
            self._values.append(total)
            change = steps[time]
            cards, servers, active = cards + change[0], servers + change[1], active + change[2]
            before = time

    def sum_between(self, start: float, end: float) -> tuple[float, float]:
        first, last = self._sum_until(start), self._sum_until(end)
        return (last[0] - first[0], last[1] - first[1])

    def _sum_until(self, time: float) -> tuple[float, float]:
        # Starts and ends of conversations are steps themselves: nothing to interpolate.
        return self._values[bisect_right(self._times, time) - 1]


@dataclass(frozen=True)
class JobCost:
    run: JobRun
    spent: Spent

    @property
    def accelerator_s(self) -> float:
        return self.run.accelerators * self.spent.running_s


@dataclass(frozen=True)
class Cost:
    """What a run has cost so far."""

    jobs: tuple[JobCost, ...]
    cells: Mapping[int, tuple[float, float]]
    """(accelerator seconds, server seconds) by cell; empty where it was not asked for."""
    problem: str = ""
    """What could not be asked or read that should have told more."""


def compute_cost(
    runs: Iterable[JobRun],
    marks: Mapping[str, Sequence[Mark]],
    now: float,
    conversations: Sequence[Conversation] = (),
    problem: str = "",
    partners: Mapping[str, Sequence[str]] | None = None,
) -> Cost:
    """Return the cost of all runs; `marks` by job id, `conversations` for the share of each cell;
    `partners` of a server are those of which it needs one, and none where one is always there."""
    runs = list(runs)
    answering = [
        period for run in runs for period in list_periods(run, marks.get(run.job_id, ()), now)
    ]
    times: dict[str, list[tuple[float, float]]] = {}
    for period in answering:
        times.setdefault(period.server, []).append((period.start, period.end))

    def list_times(run: JobRun) -> list[tuple[float, float]] | None:
        needed = (partners or {}).get(get_server_name(run.name), ())
        return [each for name in needed for each in times.get(name, ())] if needed else None

    rows = tuple(
        JobCost(run, split_time(run, marks.get(run.job_id, ()), now, list_times(run)))
        for run in runs
    )
    return Cost(rows, share_by_cell(answering, conversations) if conversations else {}, problem)


@dataclass(frozen=True)
class CostTotals:
    """What a run has cost so far, in hours. Server hours count every server as one."""

    accelerator_hours: float
    accelerator_hours_loading: float
    accelerator_hours_serving: float
    accelerator_hours_idle: float
    accelerator_hours_waiting: float
    """For a partner."""
    server_hours: float
    server_hours_loading: float
    server_hours_serving: float
    server_hours_idle: float
    server_hours_waiting: float
    server_hours_queued: float
    cell_hours: float
    cell_hours_queued: float
    mean_batch: float | None
    """Requests under way at a server with any, in the mean; None: not measured."""
    source: str
    """Where the times are from: sacct, records, or both."""
    problem: str
    """What could not be asked or read that should have told more."""

    def __str__(self) -> str:
        """Return one line: accelerator-hours, or server-hours where no card was asked for."""
        if self.problem and not self.server_hours:
            return "not known"
        kind = "accelerator" if self.accelerator_hours else "server"
        values = {name: getattr(self, f"{kind}_hours_{name}") for name in PHASES}
        phases = (
            f"{format_hours(value)} {'waiting for a partner' if name == WAITING else name}"
            for name, value in values.items()
            if name != WAITING or round(value, 3)
        )
        return f"{format_hours(getattr(self, f'{kind}_hours'))} {kind}-hours: {', '.join(phases)}"


def sum_up(cost: Cost) -> CostTotals:
    """Return the totals over all jobs."""
    servers = [row for row in cost.jobs if row.run.kind is JobKind.SERVER]
    arrays = [row for row in cost.jobs if row.run.kind is JobKind.ARRAY]

    def weighted(duration: Callable[[Spent], float]) -> float:
        return hours(sum(duration(row.spent) * row.run.accelerators for row in servers))

    def plain(duration: Callable[[Spent], float]) -> float:
        return hours(sum(duration(row.spent) for row in servers))

    def hours(seconds: float) -> float:
        return round(seconds / 3600, 6)

    return CostTotals(
        accelerator_hours=weighted(lambda each: each.running_s),
        accelerator_hours_loading=weighted(lambda each: each.loading_s),
        accelerator_hours_serving=weighted(lambda each: each.serving_s),
        accelerator_hours_idle=weighted(lambda each: each.idle_s),
        accelerator_hours_waiting=weighted(lambda each: each.waiting_s),
        server_hours=plain(lambda each: each.running_s),
        server_hours_loading=plain(lambda each: each.loading_s),
        server_hours_serving=plain(lambda each: each.serving_s),
        server_hours_idle=plain(lambda each: each.idle_s),
        server_hours_waiting=plain(lambda each: each.waiting_s),
        server_hours_queued=plain(lambda each: each.queued_s),
        cell_hours=hours(sum(row.spent.running_s for row in arrays)),
        cell_hours_queued=hours(sum(row.spent.queued_s for row in arrays)),
        mean_batch=compute_mean_batch(servers),
        source=" and ".join(sorted({row.run.source for row in cost.jobs}, reverse=True))
        or "records",
        problem=cost.problem,
    )


def compute_mean_batch(rows: Iterable[JobCost]) -> float | None:
    """Return how many requests were under way at a server while it had any; None: not measured."""
    spent = [row.spent for row in rows]
    measured_s = sum(each.measured_s for each in spent)
    return round(sum(each.request_s for each in spent) / measured_s, 2) if measured_s else None


def compute_elapsed_s(cost: Cost, now: float) -> float:
    """Return the seconds in which a job of the run was running; of several at a time one counts."""
    total = until = 0.0
    for start, end in sorted(
        (run.started, now if run.ended is None else run.ended)
        for run in (row.run for row in cost.jobs)
        if run.started is not None
    ):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def format_hours(hours: float) -> str:
    """Return hours with as many digits as matter: 0.003, 0.42, 12.3, 1234."""
    if hours >= 100:
        return f"{hours:.0f}"
    return f"{hours:.1f}" if hours >= 10 else f"{hours:.2f}" if hours >= 0.1 else f"{hours:.3f}"


def _list_phases(
    started: float, ended: float, marks: Sequence[Mark]
) -> list[tuple[str, float, float]]:
    """Return (phase, start, end) without gaps from start to end of a run of a server's job."""
    found: list[tuple[str, float, float]] = []
    phase, since = LOADING, started
    for mark in marks:
        # A requeued job's events are in one file: those of other runs lie outside. Accounting
        # has whole seconds, so a mark may lie a little before the start.
        if mark.event not in PHASE or mark.time < started - 1 or mark.time > ended:
            continue
        if mark.time > since:
            found.append((phase, since, mark.time))
            since = mark.time
        phase = PHASE[mark.event]
    if ended > since:
        found.append((phase, since, ended))
    return found


def _measure_between(start: float | None, end: float) -> float:
    return 0.0 if start is None else max(0.0, end - start)
