"""How many cells and conversations run at a time. Pure.

A conversation has one request in flight at most, at one of its two servers. Servers of ours say
themselves how many conversations they hold (`serving/admission.py`); what is chosen here is how
many cells are there to have them, and where nobody says, how many conversations each has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from emobench.config.vllm_arguments import find_option
from emobench.core.cluster import ClusterProfile
from emobench.core.models import RoleModel, VllmModel
from emobench.core.plan import (
    USER_SERVER,
    CellBlock,
    Plan,
    list_roles,
    name_assistant_server,
)
from emobench.core.sweep import Cell, Sweep
from emobench.core.wording import pluralise

CONCURRENCY, THROTTLE = 8, 8
"""Where no server of the sweep says what it can batch: hosted endpoints and scripted servers."""
MAX_CONCURRENCY = 32
MAX_CELLS, MAX_LOCAL_CELLS = 64, 8
"""Cells at a time of all arrays together that are derived: each is a job, or without Slurm a
process of this machine. A trial's variants run side by side in any case."""
CELLS_A_COPY = 4
"""Cells at a time for each copy of an assistant, where that is more than MAX_CELLS: with one or
two, a copy has nothing to begin while the last conversations of a cell end."""
VLLM_NUM_SEQS = 64
"""Conversations that one vLLM engine begins with where nothing says: a quarter of vLLM's own
default, which long conversations with tools do not reach before its cache is full."""
VLLM_MOST_SEQS = 256
"""vLLM's own default, which a small model on a large card reaches."""


@dataclass(frozen=True)
class Capacity:
    """What one role's servers can batch together."""

    server: str
    requests: int | None
    """None: not known."""
    source: str
    most: int | None
    """What they may turn out to hold."""


@dataclass(frozen=True)
class Pace:
    """What runs at a time."""

    concurrency: int
    """Conversations within one cell."""
    throttle: int
    """Cells within one array (without Slurm: of all arrays together)."""


def find_capacity(server: str, model: RoleModel) -> Capacity:
    """Return what the servers of one role can batch, and what says so."""
    if not isinstance(model, VllmModel):
        return Capacity(server, None, f"engine {model.engine}", None)
    given = find_option(model, "--max-num-seqs")
    if given is not None and given.isdigit() and int(given):
        each, source = int(given), "extra_args"
    elif model.max_num_seqs is not None:
        each, source = model.max_num_seqs, "max_num_seqs"
    else:
        copies, source = count_copies(model), "a default; set max_num_seqs for another"
        return Capacity(server, VLLM_NUM_SEQS * copies, source, VLLM_MOST_SEQS * copies)
    requests = each * count_copies(model)
    return Capacity(server, requests, source, requests)


def count_copies(model: RoleModel) -> int:
    """Return how many copies of the model share the role's requests."""
    return model.replicas * (model.data_parallel if isinstance(model, VllmModel) else 1)


def count_partners(sweep: Sweep, server: str) -> int:
    """Return how many copies of the other role's models give their conversations to one of this
    server's, where these are the user's; an assistant has the user's to itself, or a part of it."""
    if server != USER_SERVER:
        return 1
    assistants = sum(count_copies(model) for model in sweep.assistants.values())
    return max(1, round(assistants / count_copies(sweep.user)))


def list_capacities(sweep: Sweep) -> dict[str, Capacity]:
    """Return capacities by server, those that exist already included."""
    return {server: find_capacity(server, model) for server, model in list_roles(sweep).items()}


def choose_pace(
    sweep: Sweep, profile: ClusterProfile, cells: Sequence[Cell], blocks: Sequence[CellBlock]
) -> Pace:
    """Return what is set by hand, and for the rest: cells enough to fill the servers while others
    end, and no more conversations in each than oversubscribe no server."""
    known = list_capacities(sweep)
    tasks = max((len(cell.tasks) for cell in cells), default=1)
    throttle = sweep.throttle or profile.throttle
    if throttle is None:
        mean = sum(len(cell.tasks) for cell in cells) / max(1, len(cells))
        each = max(1.0, min(sweep.concurrency or mean, mean))
        throttle = _choose_throttle(sweep, known, profile, blocks, each)
    if sweep.concurrency:
        return Pace(sweep.concurrency, throttle)
    if all(capacity.requests is None for capacity in known.values()):
        return Pace(CONCURRENCY, throttle)
    fitting = [MAX_CONCURRENCY, tasks]
    for server, capacity in known.items():
        if arrays := _count_array_cells(server, blocks, profile):
            assumed = CONCURRENCY * THROTTLE * len(arrays)
            cells_there = sum(min(throttle, size) for size in arrays)
            fitting.append((capacity.requests or assumed) // cells_there)
    return Pace(max(1, min(fitting)), throttle)


def _choose_throttle(
    sweep: Sweep,
    known: Mapping[str, Capacity],
    profile: ClusterProfile,
    blocks: Sequence[CellBlock],
    each: float,
) -> int:
    """Return the cells at a time within one array: two rounds of them, so that the second has
    conversations to begin while the last ones of the first end. A round fills what the servers may
    hold with `each` conversations a cell, and has all variants of a trial."""

    variants = len(sweep.variants)

    def count_round(blocks: Sequence[CellBlock]) -> int:
        assistants = {name_assistant_server(block.assistant) for block in blocks}
        servers = [[known[USER_SERVER].most], [known[name].most for name in assistants]]
        held = [sum(most or 0 for most in group) for group in servers if None not in group]
        return max(ceil(min(held) / each) if held else THROTTLE // 2, variants)

    arrays = [blocks] if profile.one_machine else [[block] for block in blocks]
    most = MAX_LOCAL_CELLS
    if not profile.one_machine:
        copies = sum(map(count_copies, sweep.assistants.values()))
        most = max(MAX_CELLS, CELLS_A_COPY * copies) // max(1, len(blocks))
    largest = max((sum(block.size for block in array) for array in arrays), default=1)
    wanted = 2 * max(map(count_round, arrays), default=1)
    return max(1, min(wanted, max(most, variants), largest))


def get_concurrency(plan: Plan) -> int:
    """Return how many conversations a cell has at a time: at most where that is set, else where no
    server says how many fit."""
    sweep = plan.sweep
    return (
        sweep.concurrency or choose_pace(sweep, plan.profile, plan.cells, plan.blocks).concurrency
    )


def get_throttle(plan: Plan) -> int:
    """Return how many cells of an array run at a time."""
    return plan.sweep.throttle or plan.profile.throttle or THROTTLE


def count_cells(plan: Plan, server: str) -> int:
    """Return how many cells that use a server run at a time."""
    arrays = _count_array_cells(server, plan.blocks, plan.profile)
    return sum(min(get_throttle(plan), n) for n in arrays)


def count_requests(plan: Plan, server: str) -> int:
    """Return the most requests at a time that a server gets from this sweep."""
    tasks = max((len(cell.tasks) for cell in plan.cells), default=1)
    return min(get_concurrency(plan), tasks) * count_cells(plan, server)


def describe(plan: Plan) -> list[str]:
    """Return what the sweep does at a time, and how each server of known capacity begins."""
    lines = [
        f"{server.removeprefix('assistant_')}: up to "
        f"{pluralise(capacity.requests, 'conversation')} at first ({capacity.source}), "
        "then by its load"
        for server, capacity in list_capacities(plan.sweep).items()
        if capacity.requests is not None
    ]
    if not lines:
        return []
    pace = f"up to {pluralise(get_throttle(plan), 'cell')} at a time"
    if len(plan.blocks) > 1 and not plan.profile.one_machine:
        pace += f" in each of {len(plan.blocks)} arrays"
    if plan.sweep.concurrency:
        pace += f", up to {pluralise(plan.sweep.concurrency, 'conversation')} in each"
    return [f"{pace}, as far as the servers hold them", *lines]


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
