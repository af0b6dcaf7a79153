"""From a sweep file to a plan: load, expand, and reconcile with what a run directory holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from emobench import __version__
from emobench.benchmarks.adapter import load_benchmark
from emobench.config.capacity import choose_pace
from emobench.config.earlier_defaults import keep_earlier_defaults, keep_earlier_texts
from emobench.config.expand import expand, extend, split_into_blocks
from emobench.config.identity import collect_cell_content, find_differing_keys
from emobench.config.load import load_profile, load_sweep
from emobench.core.cluster import ClusterProfile
from emobench.core.commits import collect_commits, merge_commits
from emobench.core.errors import InvalidInput, Problem
from emobench.core.files import read_json
from emobench.core.gates import list_declared
from emobench.core.models import OpenAIModel
from emobench.core.ownership import open_own_run_dir
from emobench.core.plan import CellBlock, Plan, list_servers, load_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell, Sweep
from emobench.core.wording import pluralise
from emobench.llm.prices import find_listed_price
from emobench.runs.lost_plan import find_text_hashes, number_cells, refuse_other_blocks
from emobench.store.episodes import read_results

DEFAULT_MAX_ARRAY_SIZE = 1001  # Slurm's own default


@dataclass(frozen=True)
class Inputs:
    """What a sweep file and its profile say; the run directory has not been looked at."""

    sweep_file: Path
    sweep: Sweep
    profile: ClusterProfile
    run_dir: RunDir
    max_array_size: int

    def plan(self, warn: Callable[[str], None] = lambda text: None) -> Plan:
        """Return the plan, with the cell numbers that the run directory already has. Raises
        InvalidInput where its results would no longer belong to the sweep."""
        old: Plan | None
        if read_json(self.run_dir.plan) is not None:
            old = load_plan(self.run_dir)
        else:
            old = _rebuild_plan(self, warn)
        plan = make_plan(
            self.sweep, self.profile, self.run_dir, old, self.sweep_file, self.max_array_size
        )
        if plan.sweep.fidelity != self.sweep.fidelity:
            warn(
                f"{self.run_dir.path} was begun with end_at_empty_reply on, as was the default, "
                "and goes on with it (docs/fidelity.md)"
            )
        if any(each != self.sweep.variants[name] for name, each in plan.sweep.variants.items()):
            warn(
                f"{self.run_dir.path} was begun with version 1 of the variants' texts and goes on "
                "with it; version 2 needs another name or --run-dir (docs/variants.md)"
            )
        return plan


def read_inputs(
    sweep_file: Path,
    *,
    cluster: str | None = None,
    run_dir: Path | None = None,
    dry_run: bool = False,
    warn: Callable[[str], None] = lambda text: None,
    keep_servers_min: float | None = None,
) -> Inputs:
    """Read a sweep file and its profile; write nothing.

    A dry run also works where Slurm cannot be asked: its default array limit then stands in, and
    `warn` is told. Raises InvalidInput for mistakes in the file or the profile, and where
    what is to act in the run directory finds it not this user's own.
    """
    sweep = load_sweep(sweep_file, cluster=cluster)
    if keep_servers_min is not None:
        sweep = sweep.model_copy(update={"keep_servers_min": keep_servers_min})
    profile = load_profile(sweep.cluster, base=sweep_file.parent)
    cards = sum(model.accelerators for model in list_servers(sweep).values())
    if sweep.max_gpu_hours is not None and not cards:
        warn("max_gpu_hours has no effect: no server of this sweep holds an accelerator")
    if sweep.max_cost is not None:
        _warn_of_prices(sweep, bool(cards and profile.accelerator_hour_price), warn)
    size = _find_max_array_size(profile, dry_run, warn)
    folder = run_dir or Path("runs") / sweep.name
    place = RunDir(folder.resolve()) if dry_run else open_own_run_dir(folder)
    return Inputs(sweep_file, sweep, profile, place, size)


def _rebuild_plan(inputs: Inputs, warn: Callable[[str], None]) -> Plan | None:
    """Return the plan of a run directory that has none which can be read; None where it has no
    episodes.

    Raises InvalidInput where these are not the sweep file's.
    """
    run_dir, size = inputs.run_dir, inputs.max_array_size
    sweep = keep_earlier_texts(inputs.sweep, find_text_hashes(run_dir))
    cells = number_cells(run_dir, sweep, load_benchmark().label)
    if not cells:
        return None
    blocks = split_into_blocks(cells, size)
    refuse_other_blocks(run_dir, blocks)
    warn(f"{run_dir.plan} is gone or cannot be read; made again: the sweep file fits the episodes")
    plan = make_plan(sweep, inputs.profile, run_dir, None, inputs.sweep_file, size)
    return plan.model_copy(update={"cells": tuple(cells), "blocks": tuple(blocks)})


def _warn_of_prices(sweep: Sweep, cards: bool, warn: Callable[[str], None]) -> None:
    """Say where max_cost cannot count: no model is hosted and no accelerator has a price (`cards`:
    one has), or the price of a model is not known."""
    models = (sweep.user, *sweep.assistants.values())
    hosted = [model for model in models if isinstance(model, OpenAIModel)]
    if not hosted and not cards:
        warn(
            "max_cost has no effect: no model of this sweep is hosted, and the profile has no "
            "accelerator_hour_price for servers with accelerators"
        )
    for model in dict.fromkeys(hosted):
        if not (model.price or find_listed_price(model.model, model.base_url, model.provider)):
            warn(
                f"max_cost counts for {model.model} only what its replies say: litellm lists no "
                "price of it; give it one under `price`"
            )


def make_plan(
    sweep: Sweep,
    profile: ClusterProfile,
    run_dir: RunDir,
    old: Plan | None,
    sweep_file: Path | None,
    max_array_size: int,
) -> Plan:
    """Return a plan for `sweep`; cells and arrays of `old` keep their numbers and names."""
    benchmark = load_benchmark().label
    cells = expand(sweep)
    held = find_held_tasks(run_dir, old.cells) if old is not None else {}
    if old is not None and held:
        sweep = keep_earlier_defaults(sweep, old.sweep)
        _refuse_mixing(old, sweep, cells, held, benchmark, run_dir, sweep_file)
        cells = extend(old.cells, cells)
        blocks = _extend_blocks(old.blocks, cells, max_array_size)
    else:
        blocks = split_into_blocks(cells, max_array_size)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    gates_changed = old.gates_changed if old else ""
    if old is not None and held and old.sweep.gates != sweep.gates:
        gates_changed = now
    pace = choose_pace(sweep, profile, cells, blocks)
    sweep = sweep.model_copy(update={"throttle": pace.throttle})
    return Plan(
        emobench=__version__,
        benchmark=benchmark,
        sweep_file=str(sweep_file.resolve()) if sweep_file else "",
        created=old.created if old else now,
        sweep=sweep,
        profile=profile,
        cells=tuple(cells),
        blocks=tuple(blocks),
        logs=str(Path("logs").resolve()),
        gates_declared=list_declared(sweep.gates),
        gates_changed=gates_changed,
        # A study may go on under another commit than that of the results on disk.
        commits=merge_commits(
            [old.commits if old and held else {}, collect_commits(sweep_file, benchmark.split()[0])]
        ),
    )


def find_held_tasks(run_dir: RunDir, cells: Sequence[Cell]) -> dict[int, set[int]]:
    """Return the tasks with an episode on disk, by cell number; cells without any are left out."""
    held: dict[int, set[int]] = {}
    for cell in cells:
        tasks = set(read_results(run_dir.cell(cell.number).episodes, cell))
        if tasks:
            held[cell.number] = tasks
    return held


def _extend_blocks(
    blocks: Sequence[CellBlock], cells: Sequence[Cell], size: int
) -> list[CellBlock]:
    known = sum(block.size for block in blocks)
    names = [block.name for block in blocks]
    return [*blocks, *split_into_blocks(cells[known:], size, taken_names=names)]


def _refuse_mixing(
    old: Plan,
    sweep: Sweep,
    cells: Sequence[Cell],
    held: dict[int, set[int]],
    benchmark: str,
    run_dir: RunDir,
    sweep_file: Path | None,
) -> None:
    """Raise InvalidInput if an episode on disk would not belong to the new sweep."""
    wanted = {cell.key: cell for cell in cells}
    differing: dict[str, int] = {}

    def count(what: str, tasks: Collection[int]) -> None:
        differing[what] = differing.get(what, 0) + len(tasks)

    for cell in old.cells:
        new = wanted.get(cell.key)
        tasks = held.get(cell.number, set())
        if new is None:
            count(f"matrix: cell {cell.title} is no longer in it", tasks)
            continue
        if not tasks:
            continue
        before = collect_cell_content(old.sweep, cell, old.benchmark)
        for line in find_differing_keys(before, collect_cell_content(sweep, new, benchmark)):
            count(line, tasks)
        gone = tasks - set(new.tasks)
        if gone:
            count(f"tasks: {cell.env} no longer has {_shorten(sorted(gone))}", gone)
    if differing:
        shown = [
            f"  {what} ({pluralise(n, 'episode')} on disk)"
            for what, n in list(differing.items())[:20]
        ]
        more = len(differing) - len(shown)
        raise InvalidInput(
            Problem(
                f"the results in {run_dir.path} would no longer belong to this sweep; differing:\n"
                + "\n".join(shown + ([f"  and {more} more"] if more else [])),
                file=str(sweep_file or "command line"),
                hint="put the values back, or run the changed sweep under another name or with "
                "--run-dir; adding variants, trials, assistants or tasks is allowed",
            )
        )


def _shorten(values: Sequence[int]) -> str:
    text = ", ".join(map(str, values[:8]))
    return text if len(values) <= 8 else f"{text}, ... ({len(values)})"


def _find_max_array_size(
    profile: ClusterProfile, dry_run: bool, warn: Callable[[str], None]
) -> int:
    from emobench.scheduler.schedulers import find_scheduler

    try:
        return find_scheduler(profile).find_max_array_size(profile) or DEFAULT_MAX_ARRAY_SIZE
    except InvalidInput:
        if not dry_run:
            raise
        warn(
            f"Slurm cannot be asked here; arrays are split at its default {DEFAULT_MAX_ARRAY_SIZE}"
        )
        return DEFAULT_MAX_ARRAY_SIZE
