"""Conversations as compressed chunks of JSON that the page decodes when they are read.

A transcript is data from a model. It enters the page only as base64, and is shown only as text.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from emobench.analysis.metrics import OUTCOMES
from emobench.report.tables import when
from emobench.results.collect import CellResult, Collected, EpisodeRecord, conversations

CHUNK_BYTES = 400_000
"""JSON in a chunk before compression: small enough to decode between two key strokes."""
PREVIEW_CHARS = 110


@dataclass
class Library:
    """What the page embeds: an index of all conversations, and the chunks that hold them."""

    cells: list[list[Any]] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)
    """Columns: cell, task, outcome, reward, steps, messages, id, chunk, place, preview."""
    systems: list[str] = field(default_factory=list)
    """System prompts; many conversations share one."""
    chunks: list[str] = field(default_factory=list)

    def index(self) -> dict[str, Any]:
        return {
            "outcomes": list(OUTCOMES),
            "cells": self.cells,
            "rows": self.rows,
            "systems": self.systems,
        }


def build_library(collected: Collected, redact: Callable[[str], str]) -> Library:
    """Reads every conversation once; holds no more than a chunk of them at a time."""
    library = Library()
    systems: dict[str, int] = {}
    pending: list[str] = []
    size = 0
    for number, result in enumerate(collected.cells):
        cell = result.cell
        library.cells.append(
            [cell.assistant, cell.env, cell.agent_strategy, cell.variant, cell.trial]
        )
        for record, data in _lines(result):
            body = _body(record, data, systems, redact)
            library.rows.append(
                [
                    number,
                    record.task_id,
                    OUTCOMES.index(record.outcome),
                    record.reward,
                    record.steps,
                    len(body["messages"]),
                    record.episode or f"{cell.number}-{record.task_id}",
                    len(library.chunks),
                    len(pending),
                    _preview(body["messages"]),
                ]
            )
            pending.append(json.dumps(body, separators=(",", ":")))
            size += len(pending[-1])
            if size >= CHUNK_BYTES:
                library.chunks.append(_packed(pending))
                pending, size = [], 0
    if pending:
        library.chunks.append(_packed(pending))
    library.systems = list(systems)
    library.rows.sort(key=lambda row: _reading_order(collected, row))
    return library


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _lines(result: CellResult) -> Iterator[tuple[EpisodeRecord, dict[str, Any]]]:
    if result.file.episodes:
        yield from conversations(result.file.path, result.file.episodes)


def _reading_order(collected: Collected, row: list[Any]) -> tuple[Any, ...]:
    """One task's conversations stand together, so that variants are read side by side."""
    cell = collected.cells[row[0]].cell
    return (cell.env, cell.assistant, cell.agent_strategy, row[1], cell.trial, cell.number)


def _body(
    record: EpisodeRecord,
    data: dict[str, Any],
    systems: dict[str, int],
    redact: Callable[[str], str],
) -> dict[str, Any]:
    traj = data.get("traj")
    info = data.get("info")
    calls = data.get("calls")
    task = info.get("task") if isinstance(info, dict) else None
    return {
        "messages": [_message(each, systems) for each in (traj if isinstance(traj, list) else [])],
        "error": redact(record.error),
        "attempt": record.attempt,
        "wall": round(record.wall_s, 2),
        "started": when(record.started),
        "seed": data.get("seed") if isinstance(data.get("seed"), int) else None,
        "calls": len(calls) if isinstance(calls, list) else 0,
        "tokens": _tokens(calls),
        "instruction": _text(task.get("instruction")) if isinstance(task, dict) else "",
        "info": json.dumps(info, indent=2, ensure_ascii=False) if info else "",
    }


def _message(message: Any, systems: dict[str, int]) -> dict[str, Any]:
    """A chat message with short keys: r role, t text, s system prompt, c tool calls, n name."""
    if not isinstance(message, dict):
        return {"r": "other", "t": _text(message)}
    role = _text(message.get("role")) or "other"
    text = _text(message.get("content"))
    if role == "system":
        return {"r": role, "s": systems.setdefault(text, len(systems))}
    short: dict[str, Any] = {"r": role, "t": text}
    if message.get("name"):
        short["n"] = _text(message["name"])
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        short["c"] = [_call(call) for call in calls]
    return short


def _call(call: Any) -> list[str]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return ["", _text(call)]
    return [_text(function.get("name")), _text(function.get("arguments"))]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _preview(messages: list[dict[str, Any]]) -> str:
    said = next((each["t"] for each in messages if each["r"] == "user"), "")
    flat = " ".join(said[: PREVIEW_CHARS * 4].split())
    return flat if len(flat) <= PREVIEW_CHARS else flat[: PREVIEW_CHARS - 1] + "\u2026"


def _tokens(calls: Any) -> int:
    keys = ("prompt_tokens", "completion_tokens")
    listed = calls if isinstance(calls, list) else []
    values = [call.get(key) for call in listed if isinstance(call, dict) for key in keys]
    return sum(value for value in values if type(value) is int)


def _packed(bodies: list[str]) -> str:
    raw = f"[{','.join(bodies)}]".encode("ascii")
    return base64.b64encode(zlib.compress(raw, 6)).decode("ascii")
