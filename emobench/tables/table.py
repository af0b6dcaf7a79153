"""The tidy tables on disk: written piece by piece, read as pandas frames (docs/tables.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.core.errors import InvalidInput, Problem
from emobench.core.files import naming, open_to_read, parse_json
from emobench.core.run_dir import RunDir
from emobench.tables.columns import (
    EPISODES,
    SCHEMA_VERSION,
    TEXT,
    TURNS,
    Column,
    build_arrow_schema,
    to_pandas,
)
from emobench.tables.csv_guard import guard_column
from emobench.tables.gather import Gathered, read_runs

if TYPE_CHECKING:
    import pandas as pd

EPISODES_FILE = "episodes.parquet"
TURNS_FILE = "turns.parquet"
SUMMARY_FILE = "collected.json"
METADATA_KEY = b"emobench"


@dataclass(frozen=True)
class Tables:
    """The tables of a collected folder, or of a run directory that is read directly."""

    path: Path
    summary: dict[str, Any] = field(repr=False)
    """As collected.json: runs, counts, what was left out."""
    _frame: pd.DataFrame | None = field(default=None, repr=False)

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """The episodes frame; `file` is a path that can be opened."""
        if self._frame is not None:
            return self._frame
        return load_episodes(self.path)

    def read_turns(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return one row a message. Raises InvalidInput for a run directory, which has no such
        table."""
        if self._frame is not None:
            raise InvalidInput(
                f"{self.path} has no table of turns; make one: emobench collect {self.path}"
            )
        return load_turns(self.path, columns)


def load_tables(path: Path | RunDir) -> Tables:
    """Return a collected folder as it was written, or a run directory as it stands now.

    Raises InvalidInput where `path` is neither, or its tables are of another version or torn.
    """
    folder = path.path if isinstance(path, RunDir) else Path(path)
    if (folder / SUMMARY_FILE).exists():
        summary = read_summary(folder)
        for name in (EPISODES_FILE, TURNS_FILE):
            _check_metadata(folder / name, summary["collection"])
        return Tables(folder, summary)
    return build_tables(folder, read_runs([folder]))


def build_tables(folder: Path, gathered: Gathered) -> Tables:
    """Return the tables of a run directory that was read."""
    return Tables(folder, gathered.summary, to_pandas(gathered.episodes, EPISODES, folder))


def load_episodes(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the episodes table of a collected folder, or such a file, with categories for names.

    Raises InvalidInput where there is none or its schema is of another version.
    """
    file = path / EPISODES_FILE if path.is_dir() else path
    return _load(file, EPISODES, columns)


def load_turns(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the turns table; with a column `text` if it was collected with --text."""
    file = path / TURNS_FILE if path.is_dir() else path
    return _load(file, (*TURNS, TEXT), columns)


def load_frame(run_dirs: Iterable[Path | RunDir]) -> pd.DataFrame:
    """Return the episodes frame of run directories as they stand now, without writing a file.

    Raises InvalidInput where one is no run directory or they do not belong together.
    """
    paths = [path.path if isinstance(path, RunDir) else Path(path) for path in run_dirs]
    return to_pandas(read_runs(paths).episodes, EPISODES, Path())


def read_summary(folder: Path) -> dict[str, Any]:
    """Read collected.json. Raises InvalidInput where it is absent, torn or of another version."""
    file = folder / SUMMARY_FILE
    try:
        with open_to_read(file) as stream:
            summary = parse_json(stream.read())
        version = summary["schema_version"]
        broken_off = summary.get("collection") is None
        if not broken_off and not all(isinstance(run["path"], str) for run in summary["runs"]):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InvalidInput(
            Problem("no collected folder: it has no readable collected.json", file=str(folder))
        ) from None
    _check_version(version, file)
    if broken_off:
        raise InvalidInput(
            Problem("a collection was broken off here", file=str(folder), hint="collect again")
        )
    return dict(summary)


def _load(file: Path, columns: Sequence[Column], wanted: Sequence[str] | None) -> pd.DataFrame:
    import pyarrow.parquet as pq

    _check_metadata(file)
    try:
        table = pq.read_table(file, columns=None if wanted is None else list(wanted))
    except (OSError, ValueError) as error:
        raise InvalidInput(Problem(f"no readable table: {error}", file=str(file))) from None
    return to_pandas(table, columns, file.parent)


def _check_metadata(file: Path, collection: str | None = None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = parse_json((pq.read_metadata(file).metadata or {})[METADATA_KEY])
        version = metadata["schema_version"]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        raise InvalidInput(
            Problem(
                "no readable table of emobench collect",
                file=str(file),
                hint="give a folder that `emobench collect` made, or collect again",
            )
        ) from None
    _check_version(version, file)
    if collection is not None and metadata.get("collection") != collection:
        raise InvalidInput(
            Problem(
                "this table is of another collection than the files beside it",
                file=str(file),
                hint="a collection was broken off here; collect again",
            )
        )


def _check_version(version: object, file: Path) -> None:
    if version != SCHEMA_VERSION:
        raise InvalidInput(
            Problem(
                f"tables of schema version {version}",
                file=str(file),
                allowed=f"version {SCHEMA_VERSION}",
                hint="collect the runs again with this version of emobench",
            )
        )


class TableWriter:
    """One Parquet file; pieces are gathered into row groups of about `rows` rows.

    Raises OSError where the disk refuses; the file is then of no use.
    """

    def __init__(self, path: Path, columns: Sequence[Column], rows: int) -> None:
        import pyarrow.parquet as pq

        self.path, self.rows = path, rows
        self.schema = build_arrow_schema(columns)
        names = [c.name for c in columns if c.kind == "category"]
        self._writer = pq.ParquetWriter(
            path, self.schema, compression="zstd", compression_level=1, use_dictionary=names
        )
        self._waiting: list[Any] = []
        self._count = 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        *_: object,
    ) -> None:
        if kind is None:
            self._flush()
        with naming(self.path):
            self._writer.close()
            if kind is None:
                with self.path.open("rb") as stream:
                    os.fsync(stream.fileno())

    def add(self, table: Any) -> None:
        self._waiting.append(table)
        self._count += table.num_rows
        if self._count >= self.rows:
            self._flush()

    def describe(self, metadata: dict[str, Any]) -> None:
        """Keep `metadata` as JSON in the file's own metadata."""
        text = json.dumps(metadata, ensure_ascii=False)
        self._writer.add_key_value_metadata({METADATA_KEY.decode(): text})

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            table = pa.concat_tables(self._waiting).unify_dictionaries()
            with naming(self.path):
                self._writer.write_table(table, row_group_size=2 * self.rows)
        self._waiting, self._count = [], 0


def write_csv(parquet: Path, path: Path) -> None:
    """Write the same rows and columns as CSV: a missing value is an empty field, times are UTC.

    A text that a spreadsheet would run as a formula has an apostrophe before it.
    """
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    file = pq.ParquetFile(parquet)
    schema = pa.schema([(f.name, _to_plain_type(f.type)) for f in file.schema_arrow])
    with naming(path), path.open("wb") as stream:
        with csv.CSVWriter(stream, schema) as writer:
            for batch in file.iter_batches(batch_size=2**16):
                table = pa.Table.from_batches([batch]).cast(schema)
                guarded = [guard_column(column) for column in table.columns]
                writer.write_table(pa.table(guarded, schema=schema))
        stream.flush()
        os.fsync(stream.fileno())


def _to_plain_type(kind: Any) -> Any:
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind
