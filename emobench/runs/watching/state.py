"""What the screen shows, computed from what was read. Pure: nothing here reads or asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from emobench.analysis.stats.means import mean_per_episode
from emobench.analysis.stats.units import make_arm
from emobench.core.outcomes import OUTCOMES
from emobench.core.times import to_iso, to_seconds
from emobench.llm.engine_metrics import Load
from emobench.runs.held_jobs import HeldJob
from emobench.runs.server_state import ServerState, ServerStatus
from emobench.runs.status import CellCounts, RunStatus
from emobench.runs.watching.episodes import Tally, Trouble
from emobench.scheduler.cost import CostTotals

RATE_WINDOW_S = 300.0
"""Episodes a minute are those of the last minutes."""
TOKEN_WINDOW_S = 10.0
"""Tokens a second are a mean over at least this time, where there are looks to take it from."""
INCARNATION_LETTERS = 6


@dataclass(frozen=True)
class Seen:
    """One look at a run: what `build_watch_state` needs beside the servers' metrics."""

    status: RunStatus
    planned: Mapping[str, int]
    """Episodes of the plan by variant."""
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    recent: Sequence[tuple[float, float]] = ()
    """(start, end) of the episodes that ended lately, in seconds since the epoch."""
    behind: int = 0
    """Bytes of episodes that were not read yet."""
    newest_error: Trouble | None = None
    cost: CostTotals | None = None
    missing: tuple[str, ...] = ()
    """What could not be asked, and why."""


@dataclass(frozen=True)
class Look:
    """A server's counters at one moment."""

    time: float
    load: Load


@dataclass(frozen=True)
class ServerRow:
    name: str
    state: ServerState
    reason: str
    job_id: str
    node: str
    incarnation: str
    """Its first letters."""
    heartbeat_age_s: float | None
    limit: int | None = None
    """Conversations that it takes at a time; None: not known."""
    in_use: int | None = None
    """Conversations that are under way there."""
    running: int | None = None
    """Requests; None: not known."""
    waiting: int | None = None
    generation_tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    cache_hit_rate: float | None = None
    """Of the prompt's tokens, since the looks that the tokens per second are of."""
    problem: str = ""
    """Why the server's metrics are not known."""
    leased_from: str = ""
    """The run directory whose server it is; empty: this run's own."""
    looks: tuple[Look, ...] = ()
    """Earlier ones of the same incarnation, the oldest first."""


@dataclass(frozen=True)
class VariantRow:
    variant: str
    episodes: int
    """Scored."""
    planned: int
    mean_reward: float | None
    low: float | None
    """95 % interval of the mean reward, clustered by task."""
    high: float | None
    outcomes: Mapping[str, int]


@dataclass(frozen=True)
class WatchState:
    time: str
    """ISO 8601, UTC."""
    sweep: str
    run_dir: str
    scheduler: str
    scripted: bool
    live: bool
    """Whether one of its jobs is in the queue."""
    finished: bool
    """Whether every cell is done."""
    servers: tuple[ServerRow, ...]
    cells: CellCounts
    episodes_finished: int
    episodes_expected: int
    episodes_per_minute: float
    time_left_s: float | None
    """None: not known."""
    expected_end: str | None
    """ISO 8601, UTC; None: over, or not known."""
    variants: tuple[VariantRow, ...]
    newest_error: Trouble | None
    cost: CostTotals | None
    unread_bytes: int
    """Of episodes: until it is 0, the rows of variants lag behind the counts."""
    missing: tuple[str, ...]
    held: tuple[HeldJob, ...] = ()


def build_watch_state(
    previous: WatchState | None,
    seen: Seen,
    metrics: Mapping[str, Load | str],
    now: float,
) -> WatchState:
    """Return the state at `now` (seconds since the epoch).

    `metrics` has each server's load, or why it could not be asked; `previous` is the state of the
    look before, from which rates are computed.
    """
    status = seen.status
    before = {row.name: row for row in previous.servers} if previous else {}
    servers = tuple(
        _build_server_row(before.get(server.name), server, metrics.get(server.name, ""), now)
        for server in status.servers
    )
    episodes = status.episodes
    rate = _compute_pace(seen.recent, now)
    left = episodes.expected - episodes.finished
    left_s = 0.0 if left <= 0 else left / rate * 60 if rate > 0 else None
    return WatchState(
        time=to_iso(now),
        sweep=status.sweep,
        run_dir=status.run_dir,
        scheduler=status.scheduler,
        scripted=status.scripted,
        live=status.live,
        finished=status.finished,
        servers=servers,
        cells=status.cells,
        episodes_finished=episodes.finished,
        episodes_expected=episodes.expected,
        episodes_per_minute=rate,
        time_left_s=left_s,
        expected_end=to_iso(now + left_s) if left_s else status.expected_end,
        variants=tuple(
            _build_variant_row(name, count, seen.tallies.get(name, Tally()))
            for name, count in seen.planned.items()
        ),
        newest_error=_find_newest_trouble(seen, status, now),
        cost=seen.cost,
        unread_bytes=seen.behind,
        missing=seen.missing,
        held=tuple(status.held),
    )


def to_json(state: WatchState) -> dict[str, Any]:
    """Return everything for --json but what only the next look needs."""
    data = asdict(state)
    for row in data["servers"]:
        del row["looks"]
    return data


def _build_server_row(
    before: ServerRow | None, server: ServerStatus, load: Load | str, now: float
) -> ServerRow:
    incarnation = server.incarnation[:INCARNATION_LETTERS]
    beat = to_seconds(server.heartbeat)
    base = ServerRow(
        name=server.name,
        state=server.state,
        reason=server.reason,
        job_id=str(server.job_id or ""),
        node=server.node,
        leased_from=server.leased_from,
        limit=server.limit,
        in_use=server.in_use,
        incarnation=incarnation,
        # Clocks of two nodes may differ a little.
        heartbeat_age_s=None if beat is None else max(0.0, round(now - beat, 1)),
    )
    if isinstance(load, str):
        return replace(base, problem=load)
    kept: tuple[Look, ...] = ()
    if before is not None and before.incarnation == incarnation:
        kept = before.looks
    if kept and _has_fallen(kept[-1].load, load):
        kept = ()  # the engine was started again under the same name
    looks = (*kept, Look(now, load))
    # One look from before the window stays, so that the mean is over the whole of it.
    while len(looks) > 2 and looks[1].time <= now - TOKEN_WINDOW_S:
        looks = looks[1:]
    first = looks[0]
    return replace(
        base,
        running=_round_value(load.running),
        waiting=_round_value(load.waiting),
        generation_tokens_per_s=_compute_rate(
            first.load.generation_tokens, load.generation_tokens, now - first.time
        ),
        prompt_tokens_per_s=_compute_rate(
            first.load.prompt_tokens, load.prompt_tokens, now - first.time
        ),
        cache_hit_rate=_compute_hit_rate(first.load, load),
        looks=looks,
    )


def _has_fallen(before: Load, after: Load) -> bool:
    old, new = before.generation_tokens, after.generation_tokens
    return old is not None and new is not None and new < old


def _round_value(value: float | None) -> int | None:
    return None if value is None else round(value)


def _compute_rate(old: float | None, new: float | None, elapsed_s: float) -> float | None:
    if old is None or new is None or elapsed_s <= 0:
        return None
    return round(max(0.0, (new - old) / elapsed_s), 1)


def _compute_hit_rate(first: Load, last: Load) -> float | None:
    """Return the cache's hit rate over the looks' time where anything was asked in it, else since
    the engine's start."""
    if last.cache_hits is None or not last.cache_queries:
        return None
    hits = last.cache_hits - (first.cache_hits or 0.0)
    queries = last.cache_queries - (first.cache_queries or 0.0)
    if queries <= 0:
        hits, queries = last.cache_hits, last.cache_queries
    return round(min(1.0, max(0.0, hits / queries)), 3)


def _compute_pace(recent: Sequence[tuple[float, float]], now: float) -> float:
    """Return the episodes a minute over the last minutes, or since the run (again) began if that is
    less."""
    inside = [pair for pair in recent if pair[1] > now - RATE_WINDOW_S]
    if not inside:
        return 0.0
    begun = max(now - RATE_WINDOW_S, min(start for start, _ in inside))
    return round(len(inside) / max(now - begun, 1.0) * 60, 2)


def _build_variant_row(name: str, planned: int, tally: Tally) -> VariantRow:
    mean = mean_per_episode(f"mean reward per episode, {name}", make_arm(tally.sums))
    return VariantRow(
        variant=name,
        episodes=mean.episodes,
        planned=planned,
        mean_reward=mean.value,
        low=mean.interval.low if mean.interval else None,
        high=mean.interval.high if mean.interval else None,
        outcomes={name: tally.outcomes[name] for name in OUTCOMES if tally.outcomes[name] > 0},
    )


def _find_newest_trouble(seen: Seen, status: RunStatus, now: float) -> Trouble | None:
    """Return the newest of what servers, cells and conversations complain about."""
    found = [seen.newest_error] if seen.newest_error is not None else []
    for server in status.servers:
        if server.state.is_broken:
            when = to_seconds(server.heartbeat) or now
            text = ": ".join(part for part in (server.state, server.reason) if part)
            found.append(Trouble(when, f"server {server.name}", _flatten(text)))
    for problem in status.problems:
        when = to_seconds(problem.ended) or 0.0
        text = f"failed: {problem.reason}" if problem.reason else "failed"
        found.append(Trouble(when, f"cell {problem.cell}", _flatten(text)))
    return max(found, key=lambda trouble: trouble.time, default=None)


def _flatten(text: str) -> str:
    return " ".join(text.split())[:500]
