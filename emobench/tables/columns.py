"""The columns of the tidy tables, as data. docs/tables.md says the same in words; a test compares.

Raise SCHEMA_VERSION when a column changes its name, its type or its meaning, or goes away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    Column("think", "bool"),
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

ROLES = ("user", "assistant", "tool")
