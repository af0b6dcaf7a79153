"""How many cells and conversations run at a time: from what the servers can batch. Pure.

A conversation has one request in flight at most, at one of its two servers; so what a server may
have to batch is the number of conversations that use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emobench.config.vllm_arguments import find_option
from emobench.core.cluster import ClusterProfile
from emobench.core.models import RoleModel, VllmModel
from emobench.core.plan import (
    USER_SERVER,
    CellBlock,
    Plan,
    list_roles,
    list_servers,
    name_assistant_server,
)
from emobench.core.sweep import Cell, Sweep
from emobench.core.wording import pluralise

CONCURRENCY, THROTTLE = 8, 8
"""Where no server of the sweep says what it can batch: hosted endpoints and scripted servers."""
MAX_CONCURRENCY = 32
MAX_THROTTLE = 64
"""Cells at a time that are derived; each one is a job of its own."""
VLLM_NUM_SEQS = 64
"""Requests at a time of one vLLM engine where nothing says: a quarter of vLLM's own default, which
long conversations with tools do not reach before its cache is full."""


@dataclass(frozen=True)
class Capacity:
    """What one role's servers can batch together."""

    server: str
    requests: int | None
    """None: not known."""
    source: str


@dataclass(frozen=True)
class Pace:
    """What runs at a time."""

    concurrency: int
    """Conversations within one cell."""
    throttle: int
    """Cells within one array (without Slurm: of all arrays together)."""


@dataclass(frozen=True)
class _ServerLoad:
    """The cells that meet at one server."""

    requests: int
    """What the server batches."""
    arrays: tuple[int, ...]
    """Cells of each array that uses it; without Slurm there is one throttle for all."""

    def count_cells(self, throttle: int) -> int:
        return sum(min(throttle, size) for size in self.arrays)


def find_capacity(server: str, model: RoleModel) -> Capacity:
    """Return what the servers of one role can batch, and what says so."""
    if not isinstance(model, VllmModel):
        return Capacity(server, None, f"engine {model.engine}")
    given = find_option(model, "--max-num-seqs")
    if given is not None and given.isdigit() and int(given):
        each, source = int(given), "extra_args"
    elif model.max_num_seqs is not None:
        each, source = model.max_num_seqs, "max_num_seqs"
    else:
        each, source = VLLM_NUM_SEQS, "a default; set max_num_seqs for another"
    return Capacity(server, each * count_copies(model), source)


def count_copies(model: VllmModel) -> int:
    """Return how many copies of the model share the role's requests."""
    return model.data_parallel * model.replicas


def list_capacities(sweep: Sweep) -> dict[str, Capacity]:
    """Return capacities by server, those that exist already included."""
    return {server: find_capacity(server, model) for server, model in list_roles(sweep).items()}


def choose_pace(
    sweep: Sweep, profile: ClusterProfile, cells: Sequence[Cell], blocks: Sequence[CellBlock]
) -> Pace:
    """Return what is set by hand, and for the rest as much as no server is oversubscribed by."""
    throttle = sweep.throttle or profile.throttle
    known = list_capacities(sweep)
    if all(capacity.requests is None for capacity in known.values()):
        return Pace(sweep.concurrency or CONCURRENCY, throttle or THROTTLE)
    tasks = max((len(cell.tasks) for cell in cells), default=1)
    loads = [
        _ServerLoad(
            CONCURRENCY * THROTTLE * len(arrays)
            if capacity.requests is None
            else capacity.requests,
            arrays,
        )
        for server, capacity in known.items()
        if (arrays := _count_array_cells(server, blocks, profile))
    ]
    largest = max((size for load in loads for size in load.arrays), default=1)
    return find_best_pace(loads, tasks, largest, len(sweep.variants), sweep.concurrency, throttle)


def find_best_pace(
    loads: Sequence[_ServerLoad],
    tasks: int,
    largest: int,
    variants: int,
    concurrency: int | None,
    throttle: int | None,
) -> Pace:
    """Return the pace with the most conversations that oversubscribes no server.

    The variants of a trial run side by side where that is possible; between paces that are equal
    the one with fewer jobs wins. One conversation of one cell runs in any case.
    """

    def conversations(pace: Pace, load: _ServerLoad) -> int:
        return min(pace.concurrency, tasks) * load.count_cells(pace.throttle)

    choices = [
        Pace(each, cells)
        for each in ([concurrency] if concurrency else range(1, min(MAX_CONCURRENCY, tasks) + 1))
        for cells in ([throttle] if throttle else range(1, min(MAX_THROTTLE, largest) + 1))
    ]
    fitting = [
        pace
        for pace in choices
        if all(conversations(pace, load) <= load.requests for load in loads)
    ]
    if not fitting:
        return choices[0]
    side_by_side = min(variants, largest)
    return max(
        fitting,
        key=lambda pace: (
            min(pace.throttle, side_by_side),
            sum(conversations(pace, load) for load in loads),
            -pace.throttle,
        ),
    )


def get_concurrency(plan: Plan) -> int:
    """Return how many conversations a cell has at a time."""
    return plan.sweep.concurrency or CONCURRENCY


def get_throttle(plan: Plan) -> int:
    """Return how many cells of an array run at a time."""
    return plan.sweep.throttle or plan.profile.throttle or THROTTLE


def count_requests(plan: Plan, server: str) -> int:
    """Return the most requests at a time that a server gets from this sweep."""
    arrays = _count_array_cells(server, plan.blocks, plan.profile)
    tasks = max((len(cell.tasks) for cell in plan.cells), default=1)
    return min(get_concurrency(plan), tasks) * _ServerLoad(0, arrays).count_cells(
        get_throttle(plan)
    )


def describe(plan: Plan) -> list[str]:
    """Return one line for each server of known capacity: what the sweep asks of it at a time."""
    lines = []
    for server, capacity in list_capacities(plan.sweep).items():
        if capacity.requests is None:
            continue
        asked = count_requests(plan, server)
        text = f"up to {pluralise(asked, 'request')} for {server.removeprefix('assistant_')}, "
        text += f"which batches {capacity.requests} ({capacity.source})"
        lines.append(text + ("; the rest waits there" if asked > capacity.requests else ""))
    if not lines:
        return []
    pace = f"{pluralise(get_throttle(plan), 'cell')} at a time x "
    pace += pluralise(get_concurrency(plan), "conversation")
    if len(plan.blocks) > 1 and not plan.profile.one_machine:
        pace += f", in each of {len(plan.blocks)} arrays"
    return [f"{pace}: {lines[0]}", *lines[1:]]


def describe_overload(plan: Plan, server: str, whole: float | None) -> str:
    """Return a warning where a server gets much more than it said it can hold; else empty.

    `whole` is vLLM's own figure for one engine: requests of full length (max_model_len) that its
    cache holds. A conversation is rarely a quarter of that length.
    """
    model = list_servers(plan.sweep).get(server)
    if whole is None or not isinstance(model, VllmModel):
        return ""
    whole *= model.data_parallel
    asked = -(-count_requests(plan, server) // model.replicas)
    if asked <= max(4 * whole, 1):
        return ""
    return (
        f"its cache holds {whole:g} requests of full length, and the sweep sends up to {asked} at "
        "a time: replies get slow; lower concurrency or throttle, or use more cards"
    )


def _count_array_cells(
    server: str, blocks: Sequence[CellBlock], profile: ClusterProfile
) -> tuple[int, ...]:
    """Return the number of cells of each array that uses a server."""
    sizes = tuple(
        block.size
        for block in blocks
        if server in (USER_SERVER, name_assistant_server(block.assistant))
    )
    # Without Slurm one throttle holds for all arrays together.
    return (sum(sizes),) if sizes and profile.one_machine else sizes
