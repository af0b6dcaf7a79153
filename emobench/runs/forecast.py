"""What a sweep takes before it is queued: calls, tokens, hours, accelerator-hours, money.

Work (calls and tokens) is that of an earlier run of the same models, else of published dialogues.
Time is that of the same run, brought to this sweep's batches by a roofline of the cards, else the
roofline's alone. A figure that rests on several uncertain ones is computed with each of them at its
end alone; its range is the root of the summed squares of what that changes, in logarithms, since
not all go wrong at once.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from emobench.config.capacity import count_cells, count_copies, count_requests
from emobench.core.hardware import (
    CARDS,
    CUDA_CARDS,
    Card,
    EngineSpeed,
    ModelSize,
    find_card,
    parse_size,
)
from emobench.core.models import OpenAIModel, RoleModel, ScriptedModel, VllmModel
from emobench.core.outcomes import CONTROL, Group
from emobench.core.ownership import make_folder
from emobench.core.plan import (
    USER_SERVER,
    Plan,
    list_instances,
    list_roles,
    list_servers,
    name_assistant_server,
)
from emobench.core.run_dir import RunDir
from emobench.core.times import now
from emobench.core.wording import pluralise
from emobench.llm.prices import find_listed_price
from emobench.runs.measured import NOTHING, Earlier, MeasuredTime, find_earlier
from emobench.runs.typical import (
    CACHED,
    CELL_S,
    HOSTED_CALL_S,
    HOSTED_TOKEN_S,
    LEAVING_S,
    SCRIPTED_CALL_S,
    SOURCE,
    TAIL,
    RoleWork,
    Work,
    build_typical_work,
    estimate_load_s,
)
from emobench.scheduler.usage import count_accelerators
from emobench.store.calls import ROLES, format_dollars
from emobench.store.forecast import ZERO, Estimate, Forecast, write_forecast
from emobench.store.summaries import find_current_summary

End = Literal["low", "typical", "high"]
ROOFLINE = Estimate(0.5, 1.0, 2.0)
"""Seconds of a server against the roofline's (docs/performance.md)."""
SAME_SITE = Estimate(0.85, 1.0, 1.15)
"""Seconds of a conversation against those measured on the same cards at the same batch."""
CPU = Card("cpu", "CPU", 64, 100, 1, ())
"""A guess; nobody plans by it."""
ANY_SIZE = {"low": ModelSize(4, 4), "typical": ModelSize(14, 14), "high": ModelSize(70, 70)}
"""Of a model whose name says none."""
MAX_SEQS = 256
"""vLLM's own default."""
REQUEST_S = 0.03
"""Of one request beside its tokens."""


@dataclass(frozen=True)
class _Stream:
    """The cells of one assistant, which run beside those of the others."""

    assistant: str
    cells: int
    episodes: int
    at_a_time: float
    """Conversations."""
    waves: float
    """Cells one after the other."""
    work: Work


class _Ends(NamedTuple):
    """Which end of each kind of uncertainty is taken."""

    work: End = "typical"
    speed: End = "typical"
    overhead: End = "typical"


class _Time(NamedTuple):
    hours: float
    accelerator_hours: float


def forecast_plan(plan: Plan, run_dir: RunDir, pilot: Path | None = None) -> Forecast:
    """Return what the rest of a plan takes, by `pilot` or by what earlier runs took. Reads only.

    Raises InvalidInput where the pilot says nothing of this plan.
    """
    finished = _count_finished(plan, run_dir)
    todo = {cell.number: len(cell.tasks) - finished[cell.number] for cell in plan.cells}
    return make_forecast(plan, todo, find_earlier(plan, run_dir, pilot), now())


def keep_forecast(plan: Plan, run_dir: RunDir, standing: Plan | None) -> None:
    """Write what a whole plan is expected to take, for its report, where none of it was run yet;
    `standing` is the plan of the last submission. A study is not held up by it."""
    grown = standing is not None and len(plan.cells) != len(standing.cells)
    if (standing is not None and not grown) or any(_count_finished(plan, run_dir).values()):
        return
    with suppress(OSError):  # the submission itself says what is wrong with the disk
        make_folder(run_dir.path)
        write_forecast(run_dir, forecast_plan(plan, run_dir))


def _count_finished(plan: Plan, run_dir: RunDir) -> dict[int, int]:
    """Return the episodes that have a result, by cell."""
    summaries = ((cell, find_current_summary(run_dir, cell)) for cell in plan.cells)
    return {
        cell.number: min(summary.finished, len(cell.tasks)) if summary else 0
        for cell, summary in summaries
    }


def make_forecast(
    plan: Plan, todo: Mapping[int, int], earlier: Earlier = NOTHING, made: str = ""
) -> Forecast:
    """Return what the plan's cells take that have episodes to run; `todo` has their number by
    cell."""
    todo = {number: count for number, count in todo.items() if count}
    cells = [plan.cells[number] for number in todo]
    episodes: Counter[Group] = Counter()
    emotional: Counter[Group] = Counter()
    for cell in cells:
        episodes[cell.group] += todo[cell.number]
        emotional[cell.group] += todo[cell.number] * (cell.variant != CONTROL)
    work = {
        group: found.work
        if (found := earlier.work.get(group))
        else build_typical_work(plan.sweep, group, emotional[group] / count)
        for group, count in episodes.items()
    }
    totals = {
        kind: {
            role: sum((getattr(work[g][role], kind) * n for g, n in episodes.items()), start=ZERO)
            for role in ROLES
        }
        for kind in ("calls", "tokens_in", "tokens_out")
    }
    streams = _list_streams(plan, todo, episodes, work)
    time = _Clock(plan, streams, earlier.time)
    used = {USER_SERVER, *(name_assistant_server(stream.assistant) for stream in streams)}
    instances = [
        name for name in list_instances(plan.sweep) if name.partition("+")[0] in used and streams
    ]
    hours, held = time.estimate()
    price = plan.profile.accelerator_hour_price
    dollars, unpriced = _estimate_dollars(plan, episodes, work, earlier)
    notes = [*time.notes, *unpriced, *_compare_limits(plan, held, dollars, price)]
    return Forecast(
        schema=1,
        made=made,
        episodes=sum(todo.values()),
        finished=sum(len(cell.tasks) for cell in plan.cells) - sum(todo.values()),
        cells=len(todo),
        servers=len(instances),
        accelerators=sum(count_accelerators(plan, name) for name in instances),
        conversations=round(sum(stream.at_a_time for stream in time.streams)),
        **totals,
        hours=hours,
        accelerator_hours=held,
        token_dollars=dollars,
        accelerator_dollars=None if price is None else held * price,
        rests_on={
            "calls and tokens": _describe_work(episodes, earlier),
            "time": time.describe(),
        },
        notes=tuple(notes),
    )


def _list_streams(
    plan: Plan,
    todo: Mapping[int, int],
    episodes: Mapping[Group, int],
    work: Mapping[Group, Work],
) -> list[_Stream]:
    counts: dict[str, list[int]] = defaultdict(list)
    for number, count in todo.items():
        counts[plan.cells[number].assistant].append(count)
    cells = {name: count_cells(plan, name_assistant_server(name)) for name in counts}
    # Without Slurm one throttle holds for the cells of all assistants together.
    share = min(1.0, count_cells(plan, USER_SERVER) / max(1, sum(cells.values())))
    streams = []
    for name, each in counts.items():
        # As many as a cell has, where the sweep file does not limit them and servers say what fits.
        within = min(plan.sweep.concurrency or max(each), max(each))
        side_by_side = min(len(each), max(1.0, cells[name] * share))
        mine = {group: n for group, n in episodes.items() if group.assistant == name}
        streams.append(
            _Stream(
                assistant=name,
                cells=len(each),
                episodes=sum(each),
                at_a_time=min(float(sum(each)), side_by_side * within),
                waves=len(each) / side_by_side,
                work={
                    role: _average([(work[group][role], n) for group, n in mine.items()])
                    for role in ROLES
                },
            )
        )
    return streams


def _average(parts: Sequence[tuple[RoleWork, int]]) -> RoleWork:
    total = sum(n for _, n in parts)

    def mean(kind: Callable[[RoleWork], Estimate]) -> Estimate:
        return sum((kind(each) * (n / total) for each, n in parts), start=ZERO)

    return RoleWork(
        mean(lambda each: each.calls),
        mean(lambda each: each.tokens_in),
        mean(lambda each: each.tokens_out),
        sum(each.fresh * n for each, n in parts) / total,
    )


class _Clock:
    """How long the streams take together."""

    def __init__(
        self, plan: Plan, streams: Sequence[_Stream], measured: MeasuredTime | None
    ) -> None:
        self._plan, self._measured = plan, measured
        self._roles = list_roles(plan.sweep)
        self.notes: list[str] = []
        self._sources: list[str] = []
        self._speeds = {
            server: self._find_speeds(server, model)
            for server, model in self._roles.items()
            if isinstance(model, VllmModel) or (isinstance(model, ScriptedModel) and model.hardware)
        }
        self.streams = [self._limit(stream) for stream in streams]

    def _limit(self, stream: _Stream) -> _Stream:
        """Return the stream with as many conversations at a time as its servers take, where the
        sweep file leaves it to them."""
        if self._plan.sweep.concurrency:
            return stream
        fits = 0.0
        servers = zip(ROLES, (USER_SERVER, name_assistant_server(stream.assistant)), strict=True)
        for role, server in servers:
            work, model = stream.work[role], self._roles[server]
            if server in self._speeds:
                length = work.tokens_in.typical / max(1.0, work.calls.typical)
                speed = self._speeds[server]["typical"]
                fits += self._count_fitting(model, speed, length) * count_copies(model)
            elif isinstance(model, OpenAIModel):
                return replace(stream, at_a_time=min(stream.at_a_time, self._begin(server)))
            else:
                return stream
        return replace(stream, at_a_time=min(stream.at_a_time, fits))

    def _begin(self, server: str) -> float:
        """Return the conversations that a hosted model begins with: nobody knows what it takes."""
        return float(count_requests(self._plan, server))

    def _count_fitting(self, model: RoleModel, speed: EngineSpeed, length: float) -> float:
        """Return how many requests of `length` tokens one copy computes at a time."""
        most = model.max_num_seqs if isinstance(model, VllmModel) else None
        return min(float(most or MAX_SEQS), max(1.0, speed.cache_tokens / length))

    def estimate(self) -> tuple[Estimate, Estimate]:
        """Return hours and accelerator-hours."""
        if not self.streams:
            return ZERO, ZERO
        middle = self._compute(_Ends())
        low, high = self._compute_at("low"), self._compute_at("high")

        def estimate(get: Callable[[_Time], float]) -> Estimate:
            typical = get(middle)
            return Estimate(
                _combine(typical, map(get, low)), typical, _combine(typical, map(get, high))
            )

        return estimate(lambda time: time.hours), estimate(lambda time: time.accelerator_hours)

    def _compute_at(self, end: End) -> list[_Time]:
        """Return the times with one kind of uncertainty at its end each."""
        return [
            self._compute(ends) for ends in (_Ends(work=end), _Ends(speed=end), _Ends(overhead=end))
        ]

    def describe(self) -> str:
        """Return what the hours rest on."""
        if self._measured is not None:
            found = self._measured
            return (
                f"{found.source} on the same cards: {found.conversation_s:.3g} s a conversation, "
                f"{found.conversations:.2g} at a time"
            )
        engines = {model.engine for name, model in self._roles.items() if name not in self._speeds}
        parts = list(dict.fromkeys(self._sources))
        parts += ["typical answering times of hosted models"] * ("openai" in engines)
        parts += ["the scripted engine's usual speed"] * ("scripted" in engines)
        return "; ".join(parts)

    def _compute(self, ends: _Ends) -> _Time:
        seconds = self._converse(ends)
        end: End = ends.overhead
        servers = list_servers(self._plan.sweep)
        load_s = max((self._get_load_s(name, end) for name in servers), default=0.0)
        leaving_s = getattr(LEAVING_S, end) if servers else 0.0
        took: dict[str, float] = {}
        for stream, conversation_s in zip(self.streams, seconds, strict=True):
            cell_s, tail_s = self._get_cell_s(end, conversation_s)
            took[name_assistant_server(stream.assistant)] = (
                stream.waves * (cell_s + tail_s)
                + stream.episodes * conversation_s / stream.at_a_time
            )
        took[USER_SERVER] = longest = max(took.values())
        held_s = sum(
            count_accelerators(self._plan, name) * (load_s + took[server] + leaving_s)
            for name in list_instances(self._plan.sweep)
            if (server := name.partition("+")[0]) in took
        )
        return _Time((load_s + longest + leaving_s) / 3600, held_s / 3600)

    def _get_load_s(self, server: str, end: End) -> float:
        if self._measured is not None and server in self._measured.load_s:
            return float(getattr(Estimate(0.6, 1.0, 2.0), end) * self._measured.load_s[server])
        model = self._roles[server]
        return float(getattr(estimate_load_s(model, self._plan.profile.accelerator), end))

    def _get_cell_s(self, end: End, conversation_s: float) -> tuple[float, float]:
        """Return the seconds of a cell beside its conversations, and of its wait for the last."""
        found = self._measured
        if found is None:
            return getattr(CELL_S, end), getattr(TAIL, end) * conversation_s
        start_s = getattr(Estimate(0.5, 2.0, 6.0), end)  # until a job's Python runs
        scale = getattr(Estimate(0.6, 1.0, 1.5), end)
        return start_s + scale * found.cell_s, scale * found.tail_s

    def _converse(self, ends: _Ends) -> list[float]:
        """Return the seconds of a conversation of each stream."""
        if self._measured is None:
            factor = getattr(ROOFLINE, ends.speed)
            return [each * factor for each in self._settle(1.0, ends)]
        found = self._measured
        total = sum(stream.at_a_time for stream in self.streams)
        more = total / max(found.conversations, 1e-9)
        now, then = self._settle(1.0, ends), self._settle(1 / max(more, 1e-9), _Ends())
        mean_then = _weigh(then, self.streams)
        factor = getattr(SAME_SITE, ends.speed)
        results = []
        for each in now:
            ratio = each / mean_then
            # From "the servers take more as well" to "they were full already", as far as the
            # roofline allows.
            if ends.speed == "low":
                ratio = max(ratio * ROOFLINE.low, min(1.0, ratio))
            elif ends.speed == "high":
                ratio = max(1.0, ratio, min(more, ratio * ROOFLINE.high))
            results.append(found.conversation_s * ratio * factor)
        return results

    def _settle(self, scale: float, ends: _Ends) -> list[float]:
        """Return the seconds of a conversation of each stream, with `scale` times as many at a
        time: batches and times depend on each other."""
        user = [0.5] * len(self.streams)  # share of a conversation that it is at the user
        seconds = [0.0] * len(self.streams)
        for _ in range(40):
            batch = sum(s.at_a_time * scale * u for s, u in zip(self.streams, user, strict=True))
            for i, stream in enumerate(self.streams):
                own = stream.at_a_time * scale * (1 - user[i])
                at_user = self._answer(USER_SERVER, stream.work["user"], batch, ends)
                server = name_assistant_server(stream.assistant)
                at_agent = self._answer(server, stream.work["assistant"], own, ends)
                seconds[i] = at_user + at_agent
                user[i] = (user[i] + at_user / seconds[i]) / 2
        return seconds

    def _answer(self, server: str, work: RoleWork, batch: float, ends: _Ends) -> float:
        """Return the seconds that a conversation waits for one role, of whose requests `batch` are
        under way."""
        model = self._roles[server]
        calls = max(1.0, getattr(work.calls, ends.work))
        said = max(1.0, getattr(work.tokens_out, ends.work))
        if isinstance(model, ScriptedModel) and not model.hardware:
            return float(calls * (model.latency_ms / 1000 + getattr(SCRIPTED_CALL_S, ends.speed)))
        if isinstance(model, OpenAIModel):
            first, each = (getattr(e, ends.speed) for e in (HOSTED_CALL_S, HOSTED_TOKEN_S))
            return float(calls * first + said * each)
        speed = self._speeds[server][ends.speed]
        length = getattr(work.tokens_in, ends.work) / calls
        scale = model.time_scale if isinstance(model, ScriptedModel) else 1.0
        batch = max(1.0, batch / count_copies(model))
        fits = self._count_fitting(model, speed, length)
        running = min(batch, fits)
        # In a steady state each token of a reply comes with its share of new prompts.
        prefill_s = running * work.fresh / said / speed.prefill_tokens_per_s
        step_s = speed.compute_step_s(running, running * length) + prefill_s
        return float(said * step_s * max(1.0, batch / fits) / scale + calls * REQUEST_S)

    def _find_speeds(self, server: str, model: VllmModel | ScriptedModel) -> dict[str, EngineSpeed]:
        """Return an engine's speed at each end, and note what is not known of it."""
        if isinstance(model, ScriptedModel):
            card = CARDS[model.hardware or "h100"]
            self._add_source(card.title)
            size = ModelSize(model.model_size, model.model_size)
            return dict.fromkeys(ANY_SIZE, EngineSpeed(card, max(1, model.accelerators), size))
        profile = self._plan.profile
        resources = profile.user_server if server == USER_SERVER else profile.assistant_server
        found = find_card(f"{resources.gres or ''} {resources.constraint or ''}")
        kind = profile.accelerator
        if found is not None:
            cards = dict.fromkeys(("low", "typical", "high"), found)
        elif kind == "cuda":
            fast, slow = CUDA_CARDS
            cards = {"low": fast, "typical": slow, "high": slow}
            self._note(
                f"which card it is stands neither in the GRES nor in the constraint: "
                f"{fast.title} to {slow.title} assumed"
            )
        else:
            cards = dict.fromkeys(
                ("low", "typical", "high"), CARDS["gaudi2"] if kind == "gaudi" else CPU
            )
        named = parse_size(model.model) or parse_size(model.served)
        sizes = dict.fromkeys(ANY_SIZE, named) if named else ANY_SIZE
        if named is None:
            self._note(
                f"the name {model.model!r} does not say how large the model is: 4 to 70 "
                "billion parameters assumed"
            )
        together = model.tensor_parallel * model.pipeline_parallel
        speeds = {end: EngineSpeed(cards[end], together, sizes[end]) for end in cards}
        middle = speeds["typical"]
        if named is not None and middle.card is not CPU and not middle.cache_tokens:
            self._note(
                f"{model.served}: {named.weight_gb:.0f} GB of weights do not fit into "
                f"{pluralise(together, 'card')} of {middle.card.memory_gb:.0f} GB "
                f"({middle.card.title})"
            )
        titles = " to ".join(dict.fromkeys(card.title for card in cards.values()))
        self._add_source(titles)
        return speeds

    def _add_source(self, titles: str) -> None:
        self._sources.append(f"a roofline of {titles} (docs/performance.md), good to a factor of 2")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _weigh(values: Sequence[float], streams: Sequence[_Stream]) -> float:
    total = sum(stream.episodes for stream in streams)
    return sum(v * s.episodes for v, s in zip(values, streams, strict=True)) / total


def _combine(typical: float, ends: Iterable[float]) -> float:
    """Return one end of a figure, from those with one uncertainty at its end each."""
    if typical <= 0:
        return 0.0
    logs = [math.log(max(end, 1e-12) / typical) for end in ends]
    size = math.sqrt(math.fsum(each * each for each in logs))
    return typical * math.exp(math.copysign(size, math.fsum(logs)))


def _estimate_dollars(
    plan: Plan, episodes: Mapping[Group, int], work: Mapping[Group, Work], earlier: Earlier
) -> tuple[Estimate | None, list[str]]:
    """Return US dollars for hosted models, None without one or its price, and what has no price."""
    total: Estimate | None = None
    notes: list[str] = []
    for group, count in episodes.items():
        found = earlier.work.get(group)
        if found is not None and found.dollars is not None:
            total = (total or ZERO) + found.dollars * count
            continue
        models = {"user": plan.sweep.user, "assistant": plan.sweep.assistants[group.assistant]}
        for role, model in models.items():
            if not isinstance(model, OpenAIModel):
                continue
            price = model.price or find_listed_price(model.model, model.base_url, model.provider)
            if price is None:
                notes.append(f"no price of {model.model} is known: give one under `price`")
                continue
            each = work[group][role]
            cached = price.input if price.cached_input is None else price.cached_input
            asked = Estimate(
                *(
                    share * cached + (1 - share) * price.input
                    for share in (CACHED.low, CACHED.typical, CACHED.high)
                )
            )
            cost = each.tokens_in * asked + each.tokens_out * price.output
            total = (total or ZERO) + cost * (count / 1e6)
    return total, list(dict.fromkeys(notes))


def _describe_work(episodes: Mapping[Group, int], earlier: Earlier) -> str:
    sources: dict[str, int] = {}
    for found in earlier.work.values():
        sources[found.source] = sources.get(found.source, 0) + found.conversations
    parts = [f"{name}: {pluralise(n, 'conversation')}" for name, n in sources.items()]
    if any(group not in earlier.work for group in episodes):
        parts.append(SOURCE)
    return "; ".join(parts)


def _compare_limits(
    plan: Plan, held: Estimate, dollars: Estimate | None, price: float | None
) -> list[str]:
    """Say where a limit of the sweep may end it before it is done."""
    limit, notes = plan.sweep.max_gpu_hours, []
    if limit is not None and held.high > limit:
        may = "would" if held.low > limit else "may"
        notes.append(f"max_gpu_hours: {limit:g} {may} stop it before its end")
    money = dollars or ZERO
    if price is not None:
        money += held * price
    most = plan.sweep.max_cost
    if most is not None and money.high > most:
        may = "would" if money.low > most else "may"
        notes.append(f"max_cost: {format_dollars(most)} {may} stop it before its end")
    return notes
