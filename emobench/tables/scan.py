"""From cell files to Arrow tables, a few files at a time, in this process or in several.

No transcript outlives its line: a task of a worker is a handful of cells, and what it gives back
are columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emobench.core.sweep import Cell
from emobench.store.episodes import EpisodeRecord, Kept, LineCounts, count_lines
from emobench.tables.rows import CellFacts, episode_row, turn_rows

CHUNK_BYTES = 12 * 2**20
CHUNK_PARTS = 200
MOST_WORKERS = 8
PARALLEL_FROM = 4 * CHUNK_BYTES
"""Bytes of episode files below which starting processes costs more than it saves."""

Rows = tuple[tuple[Any, ...], list[tuple[Any, ...]]]
"""The row of an episode and those of its turns."""
Prompt = tuple[str, str, int, str, str]
"""(environment, variant, task, SHA-256 of the user's prompt, run)."""


@dataclass(frozen=True)
class CellFile:
    path: Path
    facts: CellFacts
    variant_sha256: str
    """Empty where it is not known."""
    benchmark: str


@dataclass(frozen=True)
class Part:
    """One cell: the same episodes, in one file or in those of several runs."""

    cell: Cell
    files: tuple[CellFile, ...]

    @property
    def size(self) -> int:
        return sum(_size(file.path) for file in self.files)


@dataclass(frozen=True)
class Wanted:
    """Which columns are to be read."""

    turns: bool = False
    text: bool = False


@dataclass(frozen=True)
class Batch:
    """What some cells hold."""

    episodes: Any
    """A pyarrow table."""
    turns: Any
    """A pyarrow table, or None where none was wanted."""
    counts: list[tuple[str, int, LineCounts]] = field(default_factory=list)
    """(path, episodes that count, what was left out), of each file."""
    prompts: set[Prompt] = field(default_factory=set)


def scan(parts: Sequence[Part], wanted: Wanted, workers: int | None = None) -> Iterator[Batch]:
    """The batches in the order of `parts`, read by up to `workers` processes (default: one for
    each CPU that this process may use, up to 8)."""
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    chunks = _chunks(parts)
    if workers < 2 or sum(part.size for part in parts) < PARALLEL_FROM:
        for chunk in chunks:
            yield read_parts(chunk, wanted)
        return
    from emobench.tables.workers import in_processes

    yield from in_processes(chunks, wanted, workers)


def read_parts(parts: Sequence[Part], wanted: Wanted) -> Batch:
    """Read cells one after the other. Raises OSError on a bad disk."""
    from emobench.tables.table import episodes_table, turns_table

    rows: list[tuple[Any, ...]] = []
    turns: list[tuple[Any, ...]] = []
    lengths: list[int] = []
    counts: list[tuple[str, int, LineCounts]] = []
    prompts: set[Prompt] = set()
    for part in parts:
        kept: dict[int, Kept[Rows]] = {}
        found = [(file, _read_file(file, part, wanted, kept, prompts)) for file in part.files]
        for task in sorted(kept):
            row, messages = kept[task].made
            rows.append(row)
            turns += messages
            lengths.append(len(messages))
        held = [line.path for line in kept.values()]
        counts += [(str(file.path), held.count(file.path), each) for file, each in found]
    episodes = episodes_table(rows)
    table = turns_table(episodes, turns, lengths, wanted.text) if wanted.turns else None
    return Batch(episodes, table, counts, prompts)


def _read_file(
    file: CellFile, part: Part, wanted: Wanted, kept: dict[int, Kept[Rows]], prompts: set[Prompt]
) -> LineCounts:
    """Add what counts to `kept`, by task, as (row, rows of its turns), and every prompt met."""
    cell = part.cell

    def belongs(record: EpisodeRecord) -> bool:
        own = (
            record.belongs_to(cell)
            and (not file.variant_sha256 or record.variant_sha256 == file.variant_sha256)
            and (record.benchmark.label if record.benchmark else "") == file.benchmark
        )
        prompt = record.user_prompt_sha256
        if own and prompt is not None:
            prompts.add((cell.env, cell.variant, record.task_id, prompt, file.facts.run))
        return own

    def make(record: EpisodeRecord, offset: int, length: int) -> Rows:
        told = turn_rows(record, cell.agent_strategy, wanted.text) if wanted.turns else []
        return episode_row(file.facts, record, offset, length), told

    return count_lines(file.path, make, kept, belongs)


def _chunks(parts: Sequence[Part]) -> Iterator[list[Part]]:
    chunk: list[Part] = []
    size = 0
    for part in parts:
        chunk.append(part)
        size += part.size
        if size >= CHUNK_BYTES or len(chunk) >= CHUNK_PARTS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
