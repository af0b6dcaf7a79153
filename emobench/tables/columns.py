"""The columns of the tidy tables, and rows of values as Arrow tables and as pandas frames.

docs/tables.md says the same in words; a test compares.

Raise SCHEMA_VERSION when a column changes its name, its type or its meaning, or goes away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emobench.core.outcomes import OUTCOMES

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

Kind = Literal[
    "category", "string", "int16", "int32", "int64", "float32", "float64", "bool", "time"
]


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind
    nullable: bool = False
    """In pandas a missing number of kind float is NaN, of the others pandas' NA."""


EPISODES = (
    Column("run", "category"),
    Column("cell", "int32"),
    Column("episode", "string"),
    Column("env", "category"),
    Column("agent_strategy", "category"),
    Column("assistant", "category"),
    Column("assistant_model", "category"),
    Column("user_model", "category"),
    Column("user_strategy", "category"),
    Column("variant", "category"),
    Column("trial", "int16"),
    Column("task_id", "int16"),
    Column("attempt", "int16"),
    Column("outcome", "category"),
    Column("reward", "float64", nullable=True),
    Column("success", "bool", nullable=True),
    Column("steps", "int32"),
    Column("turns", "int32"),
    Column("tool_calls", "int32"),
    Column("wall_s", "float32", nullable=True),
    Column("cost", "float64", nullable=True),
    Column("user_prompt_tokens", "int32", nullable=True),
    Column("user_completion_tokens", "int32", nullable=True),
    Column("assistant_prompt_tokens", "int32", nullable=True),
    Column("assistant_completion_tokens", "int32", nullable=True),
    Column("user_cost", "float64", nullable=True),
    Column("assistant_cost", "float64", nullable=True),
    Column("think", "bool"),
    Column("user_think_replies", "int32"),
    Column("assistant_think_replies", "int32"),
    Column("user_empty_replies", "int32"),
    Column("assistant_empty_replies", "int32"),
    Column("seed", "int64", nullable=True),
    Column("started", "time", nullable=True),
    Column("error", "category", nullable=True),
    Column("user_incarnation", "category", nullable=True),
    Column("assistant_incarnation", "category", nullable=True),
    Column("variant_sha256", "category", nullable=True),
    Column("user_prompt_sha256", "category", nullable=True),
    Column("benchmark", "category"),
    Column("emobench", "category", nullable=True),
    Column("file", "category"),
    Column("offset", "int64"),
    Column("length", "int32"),
)

FROM_EPISODE = (
    "run",
    "cell",
    "trial",
    "task_id",
    "variant",
    "env",
    "agent_strategy",
    "assistant",
)
"""Columns of the turns that say whose turn it is, as the episodes have them."""

OF_MESSAGE = (
    Column("position", "int16"),
    Column("role", "category"),
    Column("characters", "int32"),
    Column("words", "int32"),
    Column("tool", "category", nullable=True),
    Column("tool_error", "bool"),
)
TEXT = Column("text", "string")
"""Only with --text."""

TURNS = (*(next(c for c in EPISODES if c.name == name) for name in FROM_EPISODE), *OF_MESSAGE)

_BLOCK = 300
ROLES = ("user", "assistant", "tool")
_FIXED = {"outcome": OUTCOMES, "role": ROLES}
"""Categories that are the same in every table, whether they occur or not."""


def build_arrow_schema(columns: Sequence[Column]) -> Any:
    """Return the pyarrow schema of a table."""
    import pyarrow as pa

    return pa.schema([pa.field(c.name, _find_arrow_type(c), nullable=c.nullable) for c in columns])


def list_turn_columns(with_text: bool) -> tuple[Column, ...]:
    return (*TURNS, TEXT) if with_text else TURNS


def build_episodes_table(rows: Sequence[tuple[Any, ...]]) -> Any:
    """Return rows of `rows.build_episode_row` as a pyarrow table."""
    return _build_table(EPISODES, _transpose(rows, len(EPISODES)))


def build_turns_table(
    episodes: Any, rows: Sequence[tuple[Any, ...]], counts: Sequence[int], with_text: bool
) -> Any:
    """Return rows of `rows.build_turn_rows` as a pyarrow table; the first `counts[0]` are the first
    episode's, and so on."""
    import numpy as np
    import pyarrow as pa

    message = (*OF_MESSAGE, TEXT) if with_text else OF_MESSAGE
    own = _build_table(message, _transpose(rows, len(message)))
    whose = pa.array(np.repeat(np.arange(len(counts), dtype=np.int64), counts))
    shared = episodes.select(list(FROM_EPISODE)).take(whose)
    return pa.table(
        [*shared.columns, *own.columns], schema=build_arrow_schema(list_turn_columns(with_text))
    )


def to_pandas(table: Any, columns: Sequence[Column], folder: Path) -> pd.DataFrame:
    """Return a frame with the types that docs/tables.md promises; `file` is resolved from
    `folder`."""
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


def _find_arrow_type(column: Column) -> Any:
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


def _transpose(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Return the columns, made of blocks of rows that the processor's cache holds."""
    columns: list[list[Any]] = [[] for _ in range(width)]
    for start in range(0, len(rows), _BLOCK):
        block = zip(*rows[start : start + _BLOCK], strict=True)
        for column, values in zip(columns, block, strict=True):
            column += values
    return columns


def _build_table(columns: Sequence[Column], values: Sequence[Sequence[Any]]) -> Any:
    import pyarrow as pa

    schema = build_arrow_schema(columns)
    return pa.table(
        [pa.array(v, type=f.type) for v, f in zip(values, schema, strict=True)], schema=schema
    )
