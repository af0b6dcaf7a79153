"""The tidy tables: as Arrow while they are made, as pandas where they are analysed.

`columns` lists the columns; docs/tables.md describes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.core.errors import InvalidInput, Problem
from emobench.core.outcomes import OUTCOMES
from emobench.core.run_dir import RunDir
from emobench.tables.columns import (
    EPISODES,
    FROM_EPISODE,
    OF_MESSAGE,
    ROLES,
    SCHEMA_VERSION,
    TEXT,
    TURNS,
    Column,
)

if TYPE_CHECKING:
    import pandas as pd

EPISODES_FILE = "episodes.parquet"
TURNS_FILE = "turns.parquet"
SUMMARY_FILE = "collected.json"
METADATA_KEY = b"emobench"
_FIXED = {"outcome": OUTCOMES, "role": ROLES}
"""Categories that are the same in every table, whether they occur or not."""


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

    def turns(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row a message. Raises InvalidInput for a run directory, which has no such table."""
        if self._frame is not None:
            raise InvalidInput(
                f"{self.path} has no table of turns; make one: emobench collect {self.path}"
            )
        return load_turns(self.path, columns)


def load_tables(path: Path | RunDir) -> Tables:
    """A collected folder as it was written, or a run directory as it stands now.

    Raises InvalidInput where `path` is neither, or its tables are of another version or torn.
    """
    folder = path.path if isinstance(path, RunDir) else Path(path)
    if (folder / SUMMARY_FILE).exists():
        summary = read_summary(folder)
        for name in (EPISODES_FILE, TURNS_FILE):
            _check_metadata(folder / name, summary["collection"])
        return Tables(folder, summary)
    from emobench.tables.gather import read_runs

    gathered = read_runs([folder])
    return Tables(folder, gathered.summary, to_pandas(gathered.episodes, EPISODES, folder))


def load_episodes(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The episodes table of a collected folder, or such a file, with categories for names.

    Raises InvalidInput where there is none or its schema is of another version.
    """
    file = path / EPISODES_FILE if path.is_dir() else path
    return _load(file, EPISODES, columns)


def load_turns(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The turns table; with a column `text` if it was collected with --text."""
    file = path / TURNS_FILE if path.is_dir() else path
    return _load(file, (*TURNS, TEXT), columns)


def frame_of(run_dirs: Iterable[Path | RunDir]) -> pd.DataFrame:
    """The episodes frame of run directories as they stand now, without writing a file.

    Raises InvalidInput where one is no run directory or they do not belong together.
    """
    from emobench.tables.gather import read_runs

    paths = [path.path if isinstance(path, RunDir) else Path(path) for path in run_dirs]
    return to_pandas(read_runs(paths).episodes, EPISODES, Path())


def read_summary(folder: Path) -> dict[str, Any]:
    """collected.json. Raises InvalidInput where it is absent, torn or of another version."""
    file = folder / SUMMARY_FILE
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        version = summary["schema_version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidInput(
            Problem("no collected folder: it has no readable collected.json", file=str(folder))
        ) from None
    _check_version(version, file)
    if summary.get("collection") is None:
        raise InvalidInput(
            Problem("a collection was broken off here", file=str(folder), hint="collect again")
        )
    return dict(summary)


def arrow_schema(columns: Sequence[Column]) -> Any:
    """The pyarrow schema of a table."""
    import pyarrow as pa

    return pa.schema([pa.field(c.name, _arrow_type(c), nullable=c.nullable) for c in columns])


def turn_columns(with_text: bool) -> tuple[Column, ...]:
    return (*TURNS, TEXT) if with_text else TURNS


def episodes_table(rows: Sequence[tuple[Any, ...]]) -> Any:
    """Rows of `rows.episode_row` as a pyarrow table."""
    return _table(EPISODES, _transposed(rows, len(EPISODES)))


def turns_table(
    episodes: Any, rows: Sequence[tuple[Any, ...]], counts: Sequence[int], with_text: bool
) -> Any:
    """Rows of `rows.turn_rows` as a pyarrow table; the first `counts[0]` are the first episode's,
    and so on."""
    import numpy as np
    import pyarrow as pa

    message = (*OF_MESSAGE, TEXT) if with_text else OF_MESSAGE
    own = _table(message, _transposed(rows, len(message)))
    whose = pa.array(np.repeat(np.arange(len(counts), dtype=np.int64), counts))
    shared = episodes.select(list(FROM_EPISODE)).take(whose)
    return pa.table([*shared.columns, *own.columns], schema=arrow_schema(turn_columns(with_text)))


def to_pandas(table: Any, columns: Sequence[Column], folder: Path) -> pd.DataFrame:
    """A frame with the types that docs/tables.md promises; `file` is resolved from `folder`."""
    import pandas as pd
    import pyarrow as pa

    nullable = {
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    present = [column for column in columns if column.name in table.column_names]
    table = table.unify_dictionaries()
    series = {}
    for column in present:
        mapper = nullable.get if column.nullable else None
        series[column.name] = table.column(column.name).to_pandas(types_mapper=mapper)
        fixed = _FIXED.get(column.name)
        if fixed:
            series[column.name] = series[column.name].cat.set_categories(list(fixed))
    frame = pd.DataFrame(series)
    if "file" in frame:
        names = frame["file"].cat.categories
        frame["file"] = frame["file"].cat.rename_categories(
            {name: str((folder / name).resolve()) for name in names}
        )
    return frame


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
        metadata = json.loads((pq.read_metadata(file).metadata or {})[METADATA_KEY])
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


def _arrow_type(column: Column) -> Any:
    import pyarrow as pa

    return {
        "category": pa.dictionary(pa.int32(), pa.string()),
        "string": pa.string(),
        "int16": pa.int16(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
    }[column.kind]


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _table(columns: Sequence[Column], values: Sequence[Sequence[Any]]) -> Any:
    import pyarrow as pa

    schema = arrow_schema(columns)
    return pa.table(
        [pa.array(v, type=f.type) for v, f in zip(values, schema, strict=True)], schema=schema
    )
