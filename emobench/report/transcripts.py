"""Conversations as compressed chunks of JSON that the page decodes when they are read.

A transcript is data from a model. It enters the page only as base64, and is shown only as text.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from emobench.benchmarks.transcript import Event, Message, dialogue, text_of
from emobench.core.outcomes import CONTROL, OUTCOMES
from emobench.report.embedding import Choice, Limit, choose, units_of
from emobench.report.numbers import when
from emobench.store.lines import parse
from emobench.tables.run_results import CellResult, Collected, EpisodeRecord

CHUNK_BYTES = 400_000
"""JSON in a chunk before compression: small enough to decode between two key strokes."""
PREVIEW_CHARS = 110
ID_CHARS = 16
"""Of an episode's hash: enough to tell a million apart."""
_HASH = re.compile(r"[0-9a-f]{64}")
_ROLES = ("user", "assistant", "tool", "function")

Body = dict[str, Any]


@dataclass
class Library:
    """What the page embeds: an index of all conversations, and the chunks that hold their text."""

    choice: Choice
    cells: list[list[Any]] = field(default_factory=list)
    """Columns: assistant, env, strategy, variant, trial."""
    tasks: list[list[int]] = field(default_factory=list)
    """The tasks of each cell's conversations."""
    ended: list[str] = field(default_factory=list)
    """Their outcomes, one digit each: the place in OUTCOMES."""
    texts: list[list[Any]] = field(default_factory=list)
    """Columns: cell, place among its tasks, reward, steps, messages, id, chunk, place, preview."""
    systems: dict[str, int] = field(default_factory=dict)
    """System prompts by number; many conversations share one."""
    chunks: list[str] = field(default_factory=list)

    def index(self) -> dict[str, Any]:
        return {
            "outcomes": list(OUTCOMES),
            "control": CONTROL,
            "cells": self.cells,
            "tasks": self.tasks,
            "ended": self.ended,
            "texts": self.texts,
            "systems": list(self.systems),
        }


def build_library(
    collected: Collected, redact: Callable[[str], str], limit: Limit | None = None
) -> Library:
    """Reads each conversation that is to be embedded once, and holds a chunk of them at a time.

    Raises OSError where a file went away.
    """
    cells = collected.cells
    library = Library(choose(units_of(cells), limit or Limit()))
    for result in cells:
        cell, records = result.cell, result.file.episodes
        library.cells.append(
            [cell.assistant, cell.env, cell.agent_strategy, cell.variant, cell.trial]
        )
        library.tasks.append([record.task_id for record in records])
        library.ended.append("".join(str(OUTCOMES.index(record.outcome)) for record in records))
    places = [{task: place for place, task in enumerate(tasks)} for tasks in library.tasks]
    pending: list[str] = []
    size = 0
    for number, record in _reading_order(library.choice):
        body = _body(record, _line(cells[number], record), library.systems, redact)
        library.texts.append(
            [
                number,
                places[number][record.task_id],
                record.reward,
                record.steps,
                body.pop("messages"),
                _short_id(record.episode) or f"{number}-{record.task_id}",
                len(library.chunks),
                len(pending),
                _preview(body["events"]),
            ]
        )
        pending.append(json.dumps(body, separators=(",", ":")))
        size += len(pending[-1])
        if size >= CHUNK_BYTES:
            library.chunks.append(_packed(pending))
            pending, size = [], 0
    if pending:
        library.chunks.append(_packed(pending))
    return library


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _reading_order(choice: Choice) -> Iterator[tuple[int, EpisodeRecord]]:
    """What is read side by side stands together, mostly in one chunk."""
    for unit in choice.units:
        yield from unit.members


def _line(result: CellResult, record: EpisodeRecord) -> dict[str, Any]:
    with result.file.path.open("rb") as stream:
        stream.seek(record.offset)
        data = parse(stream.read(record.length))
    return data if isinstance(data, dict) else {}


def _body(
    record: EpisodeRecord,
    data: dict[str, Any],
    systems: dict[str, int],
    redact: Callable[[str], str],
) -> Body:
    traj = data.get("traj")
    info = data.get("info")
    calls = data.get("calls")
    task = info.get("task") if isinstance(info, dict) else None
    return {
        "messages": len(traj) if isinstance(traj, list) else 0,
        "events": list(_events(data, systems)),
        "error": redact(record.error),
        "attempt": record.attempt,
        "wall": round(record.wall_s, 2),
        "started": when(record.started),
        "seed": data.get("seed") if isinstance(data.get("seed"), int) else None,
        "calls": len(calls) if isinstance(calls, list) else 0,
        "tokens": _tokens(calls),
        "instruction": text_of(task.get("instruction")) if isinstance(task, dict) else "",
        "info": _indented(info) if info else "",
    }


def _events(data: dict[str, Any], systems: dict[str, int]) -> Iterator[list[Any]]:
    """The transcript as short lists: [u, text], [a, text, aside], [t, tool, arguments, result,
    flags, aside, step] with the flags e (error) and w (write), [s, system prompt], and
    [o, role, text] for what is none of these."""
    traj = data.get("traj")
    known: list[dict[str, Any]] = []
    step = 0
    for message in [*(traj if isinstance(traj, list) else []), None]:
        if isinstance(message, dict) and message.get("role") in _ROLES:
            known.append(message)
            continue
        for event in dialogue({**data, "traj": known}).events:
            yield _event(event, step)
        step += sum(each["role"] == "assistant" for each in known)
        known = []
        if isinstance(message, dict):
            role, text = text_of(message.get("role")) or "other", text_of(message.get("content"))
            if role == "system":
                yield ["s", systems.setdefault(text, len(systems))]
            else:
                yield ["o", role, text]
        elif message is not None:
            yield ["o", "other", text_of(message)]


def _event(event: Event, step: int) -> list[Any]:
    if isinstance(event, Message):
        if event.role == "user":
            return ["u", event.text]
        return ["a", event.text, event.aside]
    flags = ("e" if event.failed else "") + ("w" if event.writes else "")
    return ["t", event.tool, event.raw, event.result, flags, event.aside, event.step + step]


def _indented(value: Any) -> str:
    try:
        return json.dumps(value, indent=2, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to be shown)"


def _short_id(episode: str) -> str:
    return episode[:ID_CHARS] if _HASH.fullmatch(episode) else episode


def _preview(events: list[list[Any]]) -> str:
    said = next((event[1] for event in events if event[0] == "u"), "")
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
