"""Episode files of several runs as Arrow tables, a few files at a time, in one process or in
several, with an account of what was left out.

No transcript outlives its line: a task of a worker is a handful of cells, and what it gives back
are columns.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from emobench import __version__
from emobench.core.errors import EmobenchError, InvalidInput, Problem
from emobench.core.sweep import Cell
from emobench.store.episodes import (
    EpisodeRecord,
    Kept,
    LineCounts,
    count_lines,
    make_cell_filter,
)
from emobench.tables.columns import (
    EPISODES,
    SCHEMA_VERSION,
    build_arrow_schema,
    build_episodes_table,
    build_turns_table,
)
from emobench.tables.compatibility import Run, open_compatible_runs
from emobench.tables.rows import CellFacts, build_episode_row, build_turn_rows, collect_facts

Key = tuple[str, str, str, str, int]
LEFT_OUT = tuple(LineCounts.__dataclass_fields__)
CHUNK_BYTES = 12 * 2**20
CHUNK_PARTS = 200
MOST_WORKERS = 8
_SAFE_PATH = "PYTHONSAFEPATH"
"""What -P is on the command line."""
PARALLEL_FROM = 4 * CHUNK_BYTES
"""Bytes of episode files below which starting processes costs more than it saves."""
AHEAD = 2
"""Chunks a worker may be ahead of what is written: the bound on memory."""

Rows = tuple[tuple[Any, ...], list[tuple[Any, ...]]]
"""The row of an episode and those of its turns."""
Prompt = tuple[str, str, int, str, str]
"""(environment, variant, task, SHA-256 of the user's prompt, run)."""


class Stored(NamedTuple):
    """A record, and where its line stands in the file."""

    record: EpisodeRecord
    offset: int
    length: int


@dataclass(frozen=True)
class CellFile:
    path: Path
    facts: CellFacts
    variant_sha256: str
    """Empty where it is not known."""
    benchmark: str

    def is_of(self, record: EpisodeRecord) -> bool:
        """Return whether an episode was made with the run's variant text and benchmark."""
        text_fits = not self.variant_sha256 or record.variant_sha256 == self.variant_sha256
        benchmark = record.benchmark.label if record.benchmark else ""
        return text_fits and benchmark == self.benchmark

    def find_prompt(self, record: EpisodeRecord) -> set[Prompt]:
        """Return how the user was prompted, where the record says it."""
        sha256, facts = record.user_prompt_sha256, self.facts
        of = (facts.env, facts.variant, record.task_id)
        return {(*of, sha256, facts.run)} if sha256 is not None else set()


@dataclass(frozen=True)
class Part:
    """One cell: the same episodes, in one file or in those of several runs."""

    cell: Cell
    files: tuple[CellFile, ...]

    @property
    def size(self) -> int:
        return sum(_read_size(file.path) for file in self.files)


@dataclass(frozen=True)
class ReadOptions:
    """Which columns are to be read."""

    turns: bool = False
    text: bool = False


@dataclass(frozen=True)
class Batch:
    """What some cells hold."""

    episodes: Any
    """A pyarrow table."""
    turns: Any
    """A pyarrow table, or None where none was options."""
    counts: list[tuple[str, int, LineCounts]] = field(default_factory=list)
    """(path, episodes that count, what was left out), of each file."""
    prompts: set[Prompt] = field(default_factory=set)


@dataclass(frozen=True)
class Gathered:
    """Runs that were read at once, without turns."""

    episodes: Any
    """A pyarrow table."""
    summary: dict[str, Any]


@dataclass
class Account:
    """What was read, file by file, and the check that needs every record."""

    folder: Path
    """Paths are given relative to it."""
    episodes: int = 0
    missing: int = 0
    """Episodes without a reward."""
    turns: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, Any]] = field(default_factory=list)
    """Those of which something was left out."""
    _prompts: dict[tuple[str, str, int], tuple[str, str]] = field(default_factory=dict)

    def add(self, batch: Batch) -> None:
        """Add a batch. Raises InvalidInput where the user was prompted otherwise in another run."""
        self.episodes += batch.episodes.num_rows
        self.missing += batch.episodes.column("reward").null_count
        self.turns += batch.turns.num_rows if batch.turns is not None else 0
        for path, episodes, counts in batch.counts:
            if counts:
                self.left_out.update(asdict(counts))
                self.files.append(
                    {
                        "file": make_relative(Path(path), self.folder),
                        "episodes": episodes,
                        **{name: count for name, count in asdict(counts).items() if count},
                    }
                )
        for env, variant, task, sha, run in sorted(batch.prompts):
            known, first = self._prompts.setdefault((env, variant, task), (sha, run))
            if known != sha:
                raise InvalidInput(
                    Problem(
                        f"the user's prompt differs for {env} task {task}, variant {variant}: "
                        f"{known[:12]} in {first}, {sha[:12]} in {run}",
                        hint="the benchmark's instructions or rules were changed between them; "
                        "collect them separately",
                    )
                )

    def summarise(self, runs: Sequence[Run], expected: int) -> dict[str, Any]:
        """Return what collected.json and the tables' metadata say. The same for the same input."""
        return {
            "schema_version": SCHEMA_VERSION,
            "emobench": __version__,
            "runs": [
                {
                    "name": run.name,
                    "path": make_relative(run.run_dir.path, self.folder),
                    "benchmark": run.plan.benchmark,
                    "emobench": run.plan.emobench,
                    "created": run.plan.created,
                    "seed": run.plan.sweep.seed,
                    "published": run.published,
                    "cells": len(run.plan.cells),
                }
                for run in runs
            ],
            "expected": expected,
            "episodes": self.episodes,
            "missing": self.missing,
            "turns": self.turns,
            "left_out": {name: self.left_out[name] for name in LEFT_OUT},
            "files": sorted(self.files, key=lambda entry: str(entry["file"])),
        }


def read_runs(paths: Sequence[Path], workers: int | None = None) -> Gathered:
    """Return the episodes of run directories, in memory. Raises as `open_compatible_runs`."""
    table = EpisodesInMemory(open_compatible_runs(paths))
    for batch in scan(table.parts, ReadOptions(), workers):
        table.add(batch)
    return table.finish()


class EpisodesInMemory:
    """The episodes of some runs, added batch by batch."""

    def __init__(self, runs: Sequence[Run]) -> None:
        folder = Path().resolve()
        self.parts = list_parts(runs, folder)
        self._runs = runs
        self._account = Account(folder)
        self._tables = [build_arrow_schema(EPISODES).empty_table()]

    def add(self, batch: Batch) -> None:
        """Raise InvalidInput where the user was prompted otherwise in another run."""
        self._account.add(batch)
        self._tables.append(batch.episodes)

    def finish(self) -> Gathered:
        """Return all that was added."""
        import pyarrow as pa

        summary = self._account.summarise(self._runs, count_expected(self.parts))
        return Gathered(pa.concat_tables(self._tables), summary)


def scan(
    parts: Sequence[Part], options: ReadOptions, workers: int | None = None
) -> Iterator[Batch]:
    """Yield the batches in the order of `parts`, read by up to `workers` processes (default: one
    for each CPU that this process may use, up to 8)."""
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    chunks = _split_chunks(parts)
    if workers < 2 or sum(part.size for part in parts) < PARALLEL_FROM:
        for chunk in chunks:
            yield read_parts(chunk, options)
        return
    yield from _read_in_processes(chunks, options, workers)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Make no rounds meanwhile: each would walk over all rows so far, none of which is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def build_batch(file: CellFile, lines: Sequence[Stored], left_out: LineCounts) -> Batch:
    """Return the rows of a cell whose file somebody has read; of another variant text or benchmark
    none are made."""
    own = [line for line in lines if file.is_of(line.record)]
    counts = replace(left_out, foreign=left_out.foreign + len(lines) - len(own))
    return Batch(
        build_episodes_table([build_episode_row(file.facts, *line) for line in own]),
        None,
        [(str(file.path), len(own), counts)],
        {prompt for line in own for prompt in file.find_prompt(line.record)},
    )


@without_garbage_collection()
def read_parts(parts: Sequence[Part], options: ReadOptions) -> Batch:
    """Read cells one after the other. Raises OSError on a bad disk."""
    rows: list[tuple[Any, ...]] = []
    turns: list[tuple[Any, ...]] = []
    lengths: list[int] = []
    counts: list[tuple[str, int, LineCounts]] = []
    prompts: set[Prompt] = set()
    for part in parts:
        kept: dict[int, Kept[Rows]] = {}
        found = [(file, _read_file(file, part, options, kept, prompts)) for file in part.files]
        for task in sorted(kept):
            row, messages = kept[task].made
            rows.append(row)
            turns += messages
            lengths.append(len(messages))
        held = [line.path for line in kept.values()]
        counts += [(str(file.path), held.count(file.path), each) for file, each in found]
    episodes = build_episodes_table(rows)
    table = build_turns_table(episodes, turns, lengths, options.text) if options.turns else None
    return Batch(episodes, table, counts, prompts)


def _read_file(
    file: CellFile,
    part: Part,
    options: ReadOptions,
    kept: dict[int, Kept[Rows]],
    prompts: set[Prompt],
) -> LineCounts:
    """Add what counts to `kept`, by task, as (row, rows of its turns), and every prompt met."""
    cell, of_cell = part.cell, make_cell_filter(part.cell)

    def belongs(record: EpisodeRecord) -> bool:
        own = of_cell(record) and file.is_of(record)
        if own:
            prompts.update(file.find_prompt(record))
        return own

    def make(record: EpisodeRecord, offset: int, length: int) -> Rows:
        told = build_turn_rows(record, cell.agent_strategy, options.text) if options.turns else []
        return build_episode_row(file.facts, record, offset, length), told

    return count_lines(file.path, make, kept, belongs)


def _split_chunks(parts: Sequence[Part]) -> Iterator[list[Part]]:
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


def _read_in_processes(
    chunks: Iterable[Sequence[Part]], options: ReadOptions, workers: int
) -> Iterator[Batch]:
    """Yield the batches in the order of `chunks`. Raises what reading raised; EmobenchError where a
    process ended early."""
    # Not forked: pyarrow has threads.
    context = multiprocessing.get_context("spawn")
    pending: deque[Future[Batch]] = deque()
    with _starting_processes():
        executor = ProcessPoolExecutor(workers, context, _end_with_parent)
    with executor as pool:
        try:
            for chunk in chunks:
                with _starting_processes():
                    pending.append(pool.submit(read_parts, chunk, options))
                if len(pending) > AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            # It was killed: most likely for the memory it took.
            raise EmobenchError(
                "a process that read episodes ended early; if memory is short, run with --workers 1"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _starting_processes() -> Iterator[None]:
    """Start processes that import neither the caller's main module nor from the present folder.

    The first has nothing that they need, and a script without a guard would run again in each of
    them; the second may be a run that somebody sent.
    """
    main, safe = sys.modules["__main__"], os.environ.get(_SAFE_PATH)
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if safe is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = safe


def _end_with_parent() -> None:
    """Let Ctrl-C be the parent's to handle, and end this process when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def list_parts(runs: Sequence[Run], folder: Path) -> list[Part]:
    """Return the cells of all runs, in order; a cell that several runs have is one part of several
    files.

    Paths in the tables are relative to `folder`.
    """
    files: dict[Key, list[CellFile]] = {}
    cells: dict[Key, Cell] = {}
    for run, cell in list_cells(runs):
        path = run.run_dir.cell(cell.number).episodes
        facts = collect_facts(run.name, run.plan, cell, make_relative(path, folder))
        sha256 = run.plan.sweep.variants[cell.variant].sha256
        files.setdefault(cell.key, []).append(CellFile(path, facts, sha256, run.plan.benchmark))
        cells[cell.key] = cell
    return [Part(cells[key], tuple(each)) for key, each in files.items()]


def list_cells(runs: Sequence[Run]) -> Iterator[tuple[Run, Cell]]:
    for run in runs:
        for cell in run.plan.cells:
            yield run, cell


def count_expected(parts: Sequence[Part]) -> int:
    """Return how many episodes the plans name, each once."""
    return sum(len(part.cell.tasks) for part in parts)


def make_relative(path: Path, folder: Path) -> str:
    """Return a path as seen from a folder, so that both can be moved together."""
    return os.path.relpath(path, folder)


def _read_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
