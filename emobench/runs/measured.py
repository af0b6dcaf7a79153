"""What earlier runs of the same models took: a pilot, or any run directory beside this one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from emobench.analysis.stats.student import t_quantile
from emobench.core.errors import EmobenchError, InvalidInput, Problem
from emobench.core.files import read_json
from emobench.core.models import RoleModel, ScriptedModel, VllmModel
from emobench.core.outcomes import Group
from emobench.core.plan import Plan, get_server_name, load_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.core.times import to_seconds
from emobench.runs.typical import RoleWork, Work
from emobench.store.calls import ROLES, count_usage, sum_cost
from emobench.store.episodes import EpisodeRecord, read_lines
from emobench.store.events import read_events
from emobench.store.forecast import Estimate
from emobench.store.summaries import read_summary

MOST_RUNS = 20
"""Run directories beside this one that are looked into, the newest first."""
MOST_EPISODES = 2000
"""Conversations that are read of one run."""
FEW = 8
"""Conversations below which a run's own speed is not gone by."""
OTHER_VARIANTS = Estimate(0.85, 1.0, 1.2)
"""Conversations with variants that were not measured, against those that were."""
LEVEL = 0.9


class MeasuredWork(NamedTuple):
    """What earlier conversations of a group took."""

    source: str
    """Run directory."""
    conversations: int
    work: Work
    dollars: Estimate | None
    """For hosted models, of a conversation; None: not recorded."""
    variants: frozenset[str]


class MeasuredTime(NamedTuple):
    """How fast an earlier run on the same cards was."""

    source: str
    conversation_s: float
    """From begin to end, in the mean."""
    conversations: float
    """Under way at a time, in the mean."""
    cell_s: float
    """Of a cell beside its conversations."""
    tail_s: float
    """For which a cell waited for its last conversations."""
    load_s: Mapping[str, float]
    """By server, until it answered."""


class Earlier(NamedTuple):
    """What is known of earlier runs of the same models."""

    work: Mapping[Group, MeasuredWork]
    time: MeasuredTime | None


NOTHING = Earlier({}, None)


def find_earlier(plan: Plan, run_dir: RunDir, pilot: Path | None = None) -> Earlier:
    """Return what is known of earlier conversations of the plan's groups: of `pilot`, or of this
    run itself and those beside it, the newest first.

    Raises InvalidInput where a pilot is given that no group has a conversation of.
    """
    if pilot is not None:
        found = _read(plan, RunDir(pilot.resolve()), pilot)
        if not found.work:
            raise InvalidInput(
                Problem(
                    "no conversation of the same models, environment and strategies",
                    file=str(pilot),
                    hint="without --pilot, published figures stand in",
                )
            )
        return found
    work: dict[Group, MeasuredWork] = {}
    time: MeasuredTime | None = None
    wanted = {cell.group for cell in plan.cells}
    for path in _list_candidates(run_dir):
        try:
            found = _read(plan, RunDir(path), path)
        except (EmobenchError, OSError):
            continue  # it is damaged, of another version, or nobody's to read
        work = {**found.work, **work}
        time = time or found.time
        if time and wanted <= work.keys():
            break
    return Earlier(work, time)


def _list_candidates(run_dir: RunDir) -> list[Path]:
    try:
        plans = [path for path in run_dir.path.parent.glob("*/plan.json") if path.is_file()]
        plans.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        plans = []
    others = [path.parent for path in plans if path.parent != run_dir.path]
    return [*([run_dir.path] if run_dir.plan.is_file() else []), *others[:MOST_RUNS]]


@dataclass
class _Seen:
    """The conversations of one group."""

    by_task: dict[int, list[list[float]]] = field(default_factory=lambda: defaultdict(list))
    """(calls, tokens in, tokens out) of the user and of the assistant, by task."""
    fresh: list[tuple[float, float]] = field(default_factory=list)
    dollars: list[float | None] = field(default_factory=list)
    variants: set[str] = field(default_factory=set)


def _read(plan: Plan, run_dir: RunDir, path: Path) -> Earlier:
    if not _may_match(plan, run_dir):
        return NOTHING
    other = load_plan(run_dir)
    names = _match_assistants(plan, other)
    if not names or plan.sweep.user_strategy != other.sweep.user_strategy:
        return NOTHING
    wanted = {cell.group for cell in plan.cells}
    seen: dict[Group, _Seen] = {}
    talks: list[tuple[float, float]] = []
    ends: list[tuple[float, float]] = []
    left = MOST_EPISODES
    for cell in _alternate(other):
        groups = [cell.group._replace(assistant=name) for name in names.get(cell.assistant, ())]
        groups = [group for group in groups if group in wanted]
        if not groups or left <= 0:
            continue
        records = _read_cell(run_dir, cell)
        left -= len(records)
        for record in records:
            for group in groups:
                _add(seen.setdefault(group, _Seen()), record)
        spans = [span for record in records if (span := _get_span(record))]
        talks += spans
        if (edge := _measure_cell(run_dir, cell, spans)) is not None:
            ends.append(edge)
    source = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    work = {
        group: _summarise(source, plan, group, each) for group, each in seen.items() if each.by_task
    }
    same = _describe_site(plan) == _describe_site(other)
    return Earlier(work, _measure_time(source, run_dir, talks, ends) if same else None)


def _may_match(plan: Plan, run_dir: RunDir) -> bool:
    """Return whether the other run's user may be the same model, without checking its whole plan;
    one that cannot be read is left to `load_plan`."""
    data = read_json(run_dir.plan)
    try:
        return data is None or bool(data["sweep"]["user"]["model"] == plan.sweep.user.model)
    except (KeyError, TypeError):
        return True


def _match_assistants(plan: Plan, other: Plan) -> dict[str, list[str]]:
    """Return the plan's assistants that are the same model as one of the other run, by that one's
    name; none where the user is another."""
    if _describe_model(plan.sweep.user) != _describe_model(other.sweep.user):
        return {}
    found = {
        theirs: [
            ours
            for ours, model in plan.sweep.assistants.items()
            if _describe_model(model) == _describe_model(their_model)
        ]
        for theirs, their_model in other.sweep.assistants.items()
    }
    return {name: ours for name, ours in found.items() if ours}


def _describe_model(model: RoleModel) -> tuple[object, ...]:
    """Return what its conversations' length depends on."""
    thinks = model.reasoning_parser if isinstance(model, VllmModel) else None
    return (model.engine, model.model, model.max_tokens, thinks)


def _describe_site(plan: Plan) -> tuple[object, ...]:
    """Return what the speed of its servers depends on."""
    profile = plan.profile
    cards = [
        (each.gres, each.constraint) for each in (profile.user_server, profile.assistant_server)
    ]
    models: list[tuple[object, ...]] = []
    for model in (plan.sweep.user, *plan.sweep.assistants.values()):
        layout: tuple[object, ...] = (model.accelerators, model.replicas)
        if isinstance(model, ScriptedModel):
            timed = (model.hardware, model.model_size, model.time_scale)
            layout = (*layout, model.latency_ms, *timed)
        models.append((*_describe_model(model), *layout))
    return (profile.accelerator, profile.one_machine, *cards, models[0], frozenset(models[1:]))


def _alternate(plan: Plan) -> Iterable[Cell]:
    """Yield the first cell of each array, then the second of each: those that ran side by side."""
    longest = max((block.size for block in plan.blocks), default=0)
    for place in range(longest):
        for block in plan.blocks:
            if place < block.size:
                yield plan.cells[block.cells[place]]


def _read_cell(run_dir: RunDir, cell: Cell) -> list[EpisodeRecord]:
    try:
        lines = [line.record for line in read_lines(run_dir.cell(cell.number).episodes)]
    except OSError:
        return []
    return [record for record in lines if record is not None and record.is_final]


def _add(seen: _Seen, record: EpisodeRecord) -> None:
    usage = count_usage(record.calls)
    numbers: list[float] = []
    fresh: list[float] = []
    for role in ROLES:
        prompts = [
            count
            for call in record.calls
            if call.get("role") == role and type(count := call.get("prompt_tokens")) is int
        ]
        calls = sum(call.get("role") == role for call in record.calls)
        used = usage[role]
        if not calls or used.prompt_tokens is None or used.completion_tokens is None:
            return  # a server that counts no tokens: nothing to go by
        numbers += [calls, used.prompt_tokens, used.completion_tokens]
        # The user's prompt is the task's own; the assistant's policy is everybody's.
        fresh.append(max(prompts) - (prompts[0] if role == "assistant" else 0))
    seen.by_task[record.task_id].append(numbers)
    seen.fresh.append((fresh[0], fresh[1]))
    seen.dollars.append(sum_cost(usage))
    seen.variants.add(record.variant)


def _summarise(source: str, plan: Plan, group: Group, seen: _Seen) -> MeasuredWork:
    cells = [cell for cell in plan.cells if cell.group == group]
    tasks = set().union(*(cell.tasks for cell in cells))
    episodes = sum(len(cell.tasks) for cell in cells)
    widened = not {cell.variant for cell in cells} <= seen.variants
    count = sum(map(len, seen.by_task.values()))

    def estimate(place: int) -> Estimate:
        values = {task: [row[place] for row in rows] for task, rows in seen.by_task.items()}
        found = estimate_mean(values, tasks, episodes)
        return found * OTHER_VARIANTS if widened else found

    work = {
        role: RoleWork(
            calls=estimate(3 * place),
            tokens_in=estimate(3 * place + 1),
            tokens_out=estimate(3 * place + 2),
            fresh=sum(each[place] for each in seen.fresh) / count,
        )
        for place, role in enumerate(ROLES)
    }
    known = [each for each in seen.dollars if each is not None]
    dollars = None
    if len(known) == count:
        said = work["assistant"].tokens_in
        dollars = said * (math.fsum(known) / count / said.typical) if said.typical else None
    return MeasuredWork(source, count, work, dollars, frozenset(seen.variants))


def estimate_mean(
    values: Mapping[int, Sequence[float]], tasks: set[int], episodes: int
) -> Estimate:
    """Return the mean of `episodes` conversations to come on `tasks`, from those measured by task.

    Where every task was measured, only the differences between conversations on one task are
    uncertain; else also those between tasks. The interval holds 90 % (Student's t over tasks).
    """
    covered = tasks <= values.keys()
    used = {task: each for task, each in values.items() if not covered or task in tasks}
    means = [math.fsum(each) / len(each) for each in used.values()]
    k, n = len(means), sum(map(len, used.values()))
    mean = math.fsum(means) / k
    if k < 3:
        return Estimate(mean / 2, mean, mean * 2)
    between = math.fsum((each - mean) ** 2 for each in means) / (k - 1)
    spare = n - k
    within = between
    if spare:
        squares = (
            (value - math.fsum(each) / len(each)) ** 2 for each in used.values() for value in each
        )
        within = math.fsum(squares) / spare
    variance = within * (1 / n + 1 / max(1, episodes))
    if not covered:
        variance += between * (1 / k + 1 / max(1, len(tasks)))
    # Servers and models are not the same on two days, however many conversations were measured.
    half = max(t_quantile(k - 1, LEVEL) * math.sqrt(variance), 0.05 * mean)
    return Estimate(max(0.0, mean - half), mean, mean + half)


def _get_span(record: EpisodeRecord) -> tuple[float, float] | None:
    start = to_seconds(record.started)
    if start is None or record.wall_s is None:
        return None
    return start, start + record.wall_s


def _measure_cell(
    run_dir: RunDir, cell: Cell, talks: Sequence[tuple[float, float]]
) -> tuple[float, float] | None:
    """Return the seconds of a cell beside its conversations, and of its wait for the last of them;
    None where it was run in several goes."""
    summary = read_summary(run_dir, cell.number)
    if summary is None or not talks:
        return None
    begun, ended = to_seconds(summary.started), to_seconds(summary.ended)
    first, last = min(start for start, _ in talks), max(end for _, end in talks)
    # Episodes have whole seconds.
    if begun is None or ended is None or begun > first + 1:
        return None
    slots = max(1, count_overlap(talks))
    steady = math.fsum(end - start for start, end in talks) / slots
    return max(0.0, ended - begun - (last - first)), max(0.0, last - first - steady)


def count_overlap(spans: Iterable[tuple[float, float]]) -> int:
    """Return how many of them overlap at most."""
    steps = sorted(step for start, end in spans for step in ((start, 1), (end, -1)))
    most = now = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most


def _measure_time(
    source: str,
    run_dir: RunDir,
    talks: Sequence[tuple[float, float]],
    cells: Sequence[tuple[float, float]],
) -> MeasuredTime | None:
    if len(talks) < FEW or not cells:
        return None
    total = math.fsum(end - start for start, end in talks)
    # A mean over the time in which there was one; breaks between starts of a run are none.
    covered = upto = 0.0
    for start, end in sorted(talks):
        covered += max(0.0, end - max(start, upto))
        upto = max(upto, end)
    if covered <= 0 or total <= 0:
        return None
    return MeasuredTime(
        source,
        conversation_s=total / len(talks),
        conversations=total / covered,
        cell_s=median(cell for cell, _ in cells),
        tail_s=median(tail for _, tail in cells),
        load_s=_measure_loads(run_dir),
    )


def _measure_loads(run_dir: RunDir) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for events in read_events(run_dir).values():
        begun: float | None = None
        for event in events:
            if event.event == "starting":
                begun = event.time
            elif event.event == "ready" and begun is not None:
                found[get_server_name(event.server)].append(event.time - begun)
                begun = None
    return {server: median(each) for server, each in found.items()}
