"""The cells of a run directory whose plan.json is lost, from the sweep file and its episodes."""

from __future__ import annotations

from collections.abc import Sequence

from emobench.config.expand import expand
from emobench.config.identity import collect_cell_content, hash_content
from emobench.core.errors import InvalidInput, Problem
from emobench.core.plan import CellBlock
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell, Sweep
from emobench.store.episodes import EpisodeRecord, read_lines
from emobench.store.jobs import JobKind, read_jobs


def number_cells(run_dir: RunDir, sweep: Sweep, benchmark: str) -> list[Cell]:
    """Return the sweep's cells, those with episodes under the number of their folder; none where
    there are no episodes.

    Raises InvalidInput where an episode is not one of this sweep's, by its hash.
    """
    found = _read_records_by_number(run_dir)
    if not found:
        return []
    free = {cell.key: cell for cell in expand(sweep)}
    numbered: dict[int, Cell] = {}
    for number, records in found.items():
        cell = free.pop(records[0].key, None)
        if cell is None:
            raise _make_misfit_error(
                run_dir, f"cell {number} is not in the sweep file, or twice on disk"
            )
        content = collect_cell_content(sweep, cell, benchmark)
        if any(record.episode != hash_content(content, record.task_id) for record in records):
            raise _make_misfit_error(
                run_dir, f"cell {number} ({cell.title}) has episodes of other content"
            )
        numbered[number] = cell
    rest = iter(free.values())
    count = len(numbered) + len(free)
    if max(numbered) >= count:
        raise _make_misfit_error(
            run_dir, f"there is a cell {max(numbered)}, and the file has only {count}"
        )
    cells = [numbered.get(number) or next(rest) for number in range(count)]
    return [cell.model_copy(update={"number": number}) for number, cell in enumerate(cells)]


def find_text_hashes(run_dir: RunDir) -> dict[str, str]:
    """Return the SHA-256 of the text that the episodes of each variant were made with."""
    return {
        record.variant: record.variant_sha256
        for records in _read_records_by_number(run_dir).values()
        for record in records[:1]
        if record.variant_sha256
    }


def refuse_other_blocks(run_dir: RunDir, blocks: Sequence[CellBlock]) -> None:
    """Raise InvalidInput where jobs were submitted for blocks that are not these."""
    cells = {block.name: block.cells for block in blocks}
    for job in read_jobs(run_dir):
        arrays = job.block_names if job.kind is JobKind.ARRAY else ()
        known = {number for name in arrays for number in cells.get(name, ())}
        if arrays and not known.issuperset(job.cells):
            raise _make_misfit_error(run_dir, f"job {job.job_id} was submitted for other cells")


def _read_records_by_number(run_dir: RunDir) -> dict[int, list[EpisodeRecord]]:
    found: dict[int, list[EpisodeRecord]] = {}
    for path in sorted((run_dir.path / "cells").glob("*/episodes.jsonl")):
        records = [line.record for line in read_lines(path) if line.record is not None]
        if records and path.parent.name.isdigit():
            found[int(path.parent.name)] = records
    return found


def _make_misfit_error(run_dir: RunDir, why: str) -> InvalidInput:
    return InvalidInput(
        Problem(
            "the plan is gone or cannot be read, and cannot be made again from this sweep file: "
            + why,
            file=str(run_dir.plan),
            hint="put the file back that the run was made with (or plan.json itself), or use "
            "another --run-dir",
        )
    )
