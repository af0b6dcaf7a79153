"""The conversations in the page: which of them, and their text as compressed chunks of JSON.

Where all of them would make the page too large, those of one task and trial come in or stay out
together, as they are read beside each other. A transcript is data from a model: it enters the page
only as base64, and is shown only as text.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from emobench.analysis.transcript.conversation import Conversation
from emobench.benchmarks.transcript import Event, Message, Transcript, extract_text
from emobench.core.errors import InvalidInput, Problem
from emobench.core.outcomes import CONTROL, OUTCOMES, Group, Outcome
from emobench.core.redaction import redact, redact_error
from emobench.report.numbers import format_time
from emobench.store.episodes import EpisodeRecord
from emobench.tables.run_results import CellResult, EpisodeSummary

MOST_CONVERSATIONS = 10_000
MOST_BYTES = 250_000_000
"""Of episodes.jsonl: a page of 100 MB at worst, for text compresses two to ten times."""
CHUNK_BYTES = 400_000
"""JSON in a chunk before compression: small enough to decode between two key strokes."""
PREVIEW_CHARS = 110
ID_CHARS = 16
"""Of an episode's hash: enough to tell a million apart."""
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Limit:
    """How much text a page may hold; None: without limit."""

    conversations: int | None = MOST_CONVERSATIONS
    size: int | None = MOST_BYTES
    """Bytes of the lines in episodes.jsonl."""


@dataclass
class Unit:
    """The conversations of one task and trial in one setting, by variant."""

    setting: int
    task: int
    trial: int
    members: list[tuple[int, EpisodeSummary]] = field(default_factory=list)
    """(place of the cell in the plan, record), as planned."""
    differs: bool = False
    """A variant solved the task and control did not, or the other way round."""

    @property
    def at(self) -> tuple[int, int, int]:
        """Its place in reading order."""
        return (self.setting, self.task, self.trial)

    @cached_property
    def size(self) -> int:
        """Bytes of its lines in episodes.jsonl."""
        return sum(record.length for _, record in self.members)


@dataclass(frozen=True)
class Choice:
    """The units that a page holds in full, in reading order, and what there is in all."""

    units: tuple[Unit, ...]
    conversations: int
    of_conversations: int
    differing: int
    """Units among the chosen in which an outcome differs from control's."""
    of_differing: int

    @property
    def whole(self) -> bool:
        return self.conversations == self.of_conversations


def parse_limit(text: str | None) -> Limit:
    """Return the value of `--conversations`: a number, 'all' or 'none'. Raises InvalidInput."""
    if text is None:
        return Limit()
    if text == "all":
        return Limit(None, None)
    if text == "none":
        return Limit(0, None)
    if text.isdecimal() and text.isascii():
        return Limit(int(text), None)
    raise InvalidInput(
        Problem(
            f"not a number of conversations: {text!r}",
            key="--conversations",
            allowed="a whole number, all, none",
        )
    )


def list_units(cells: Iterable[tuple[int, CellResult]], settings: Sequence[Group]) -> list[Unit]:
    """Return the conversations of some cells in reading order: setting, task, trial; variants as
    planned. Each cell comes with its place in the plan."""
    units: dict[tuple[int, int, int], Unit] = {}
    variants: dict[int, str] = {}
    for place, result in cells:
        cell = result.cell
        variants[place] = cell.variant
        for record in result.file.episodes:
            at = (settings.index(cell.group), record.task_id, cell.trial)
            units.setdefault(at, Unit(*at)).members.append((place, record))
    for unit in units.values():
        unit.differs = _differs(unit, variants)
    return [units[at] for at in sorted(units)]


class Chooser:
    """Chooses, of units that come in any order, what a page holds: first those in which an outcome
    differs from control's, from the first trial on, then the others likewise, up to the limit.

    Of the units that were given it keeps those chosen so far, and one more.
    """

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._first: list[Unit] = []
        """By rank: the chosen ones, and at the end the first that is beyond the limit."""
        self._chosen = 0
        self._conversations = self._differing = 0

    def add(self, units: Sequence[Unit]) -> None:
        """Take units into account; some that were chosen may be so no more."""
        self._conversations += sum(len(unit.members) for unit in units)
        self._differing += sum(unit.differs for unit in units)
        ranked = sorted([*self._first, *units], key=_rank)
        count = size = self._chosen = 0
        for unit in ranked:
            count, size = count + len(unit.members), size + unit.size
            if self._limit.conversations is not None and count > self._limit.conversations:
                break
            if self._limit.size is not None and size > self._limit.size:
                break
            self._chosen += 1
        self._first = ranked[: self._chosen + 1]

    @property
    def chosen(self) -> list[Unit]:
        """The units that are chosen so far, in reading order."""
        return sorted(self._first[: self._chosen], key=lambda unit: unit.at)

    def make_choice(self) -> Choice:
        """Return what is chosen, of all that was added."""
        kept = tuple(self.chosen)
        return Choice(
            units=kept,
            conversations=sum(len(unit.members) for unit in kept),
            of_conversations=self._conversations,
            differing=sum(unit.differs for unit in kept),
            of_differing=self._differing,
        )


def _rank(unit: Unit) -> tuple[bool, int, int, int]:
    return (not unit.differs, unit.trial, unit.task, unit.setting)


def describe_choice(choice: Choice) -> str:
    """Say what a reader has to know where text was left out; else return an empty text."""
    if choice.whole:
        return ""
    if not choice.conversations:
        return (
            f"The text of the {choice.of_conversations:,} conversations was left out of this page; "
            "below are their outcomes."
        )
    parts = [
        f"This page holds the text of {choice.conversations:,} of {choice.of_conversations:,} "
        "conversations, all variants of a task and trial together."
    ]
    if choice.of_differing:
        parts.append(
            "Those in which a variant ended differently from control came first: "
            f"{choice.differing:,} of {choice.of_differing:,} sets of one task and trial. "
            "Within that, the first trials came first."
        )
    else:
        parts.append("The first trials came first.")
    parts.append("The other conversations are listed with their outcomes only.")
    return " ".join(parts)


def _differs(unit: Unit, variants: Mapping[int, str]) -> bool:
    scored = [
        (variants[place], record.outcome == Outcome.SOLVED)
        for place, record in unit.members
        if record.outcome != Outcome.INFRA_ERROR
    ]
    control = [solved for variant, solved in scored if variant == CONTROL]
    return bool(control) and any(solved != control[0] for _, solved in scored)


@dataclass(frozen=True, slots=True)
class _Text:
    """A conversation as the page is to hold it."""

    place: int
    """Of its cell in the plan."""
    record: EpisodeSummary
    messages: int
    preview: str
    body: bytes
    """JSON, compressed."""


class Library:
    """What the page embeds: an index of all conversations, and the chunks that hold their text.

    Units come with `choose`; then those conversations of them that it holds come with `add`, and
    are held, compressed, until better ones take their place. Conversations that are read side by
    side are mostly in one chunk.
    """

    def __init__(self, limit: Limit) -> None:
        self.choice = Choice((), 0, 0, 0, 0)
        self.texts: list[list[Any]] = []
        """Columns: cell, place among its tasks, reward, steps, messages, id, chunk, place,
        preview."""
        self.chunks: list[str] = []
        """The text, compressed, as base64."""
        self.systems: dict[str, int] = {}
        """System prompts by number; many conversations share one."""
        self._chooser = Chooser(limit)
        self._held: dict[tuple[int, int, int], list[_Text]] = {}
        self._cells: Sequence[CellResult] = ()

    def choose(self, units: Sequence[Unit]) -> None:
        """Take further units into account, and let go of the text that they displace."""
        self._chooser.add(units)
        self._held = {unit.at: self._held.get(unit.at, []) for unit in self._chooser.chosen}

    def holds(self, unit: Unit) -> bool:
        """Return whether the text of a unit's conversations is to be embedded, so far."""
        return unit.at in self._held

    def add(
        self, unit: Unit, place: int, record: EpisodeSummary, conversation: Conversation
    ) -> None:
        """Hold a conversation's text; `place` is its cell's in the plan."""
        events = list(_encode_events(conversation.transcript, self.systems))
        info = _indent(conversation.record.info) if conversation.record.info else ""
        body = {
            "events": events,
            "error": redact_error(record.error),
            "attempt": record.attempt,
            "wall": round(record.wall_s, 2),
            "started": format_time(record.started),
            "seed": conversation.record.seed,
            "calls": len(conversation.record.calls),
            "tokens": _count_tokens(conversation.record),
            "instruction": _read_instruction(conversation.record.info),
            "info": redact_error(info) if record.error else info,
        }
        # Earlier releases let keys into the episodes.
        raw = redact(json.dumps(body, separators=(",", ":"))).encode("ascii")
        messages = len(conversation.record.traj)
        self._held[unit.at].append(
            _Text(place, record, messages, redact(_preview(events)), zlib.compress(raw, 1))
        )

    def finish(self, cells: Sequence[CellResult]) -> None:
        """Pack what is held; `cells` are all of the plan's."""
        self._cells = cells
        self.choice = self._chooser.make_choice()
        tasks = [
            {record.task_id: number for number, record in enumerate(result.file.episodes)}
            for result in cells
        ]
        pending: list[bytes] = []
        for unit in self.choice.units:
            for text in self._held[unit.at]:
                record, number = text.record, cells[text.place].cell.number
                self.texts.append(
                    [
                        text.place,
                        tasks[text.place][record.task_id],
                        record.reward,
                        record.steps,
                        text.messages,
                        _shorten_id(record.episode) or f"{number}-{record.task_id}",
                        len(self.chunks),
                        len(pending),
                        text.preview,
                    ]
                )
                pending.append(zlib.decompress(text.body))
                if sum(map(len, pending)) >= CHUNK_BYTES:
                    self.chunks.append(_pack(pending))
                    pending = []
        if pending:
            self.chunks.append(_pack(pending))
        self._held = {}

    def build_index(self) -> dict[str, Any]:
        """Return what the page knows of every conversation, with or without its text."""
        return {
            "outcomes": list(OUTCOMES),
            "control": CONTROL,
            # Columns: assistant, env, strategy, variant, trial.
            "cells": [
                [cell.assistant, cell.env, cell.agent_strategy, cell.variant, cell.trial]
                for cell in (result.cell for result in self._cells)
            ],
            "tasks": [[each.task_id for each in result.file.episodes] for result in self._cells],
            # Their outcomes, one digit each: the place in OUTCOMES.
            "ended": [
                "".join(str(OUTCOMES.index(each.outcome)) for each in result.file.episodes)
                for result in self._cells
            ],
            "texts": self.texts,
            "systems": list(self.systems),
        }


def _pack(bodies: Sequence[bytes]) -> str:
    raw = b"[" + b",".join(bodies) + b"]"
    return base64.b64encode(zlib.compress(raw, 6)).decode("ascii")


def dump_script_json(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _encode_events(transcript: Transcript, systems: dict[str, int]) -> Iterator[list[Any]]:
    """Yield the transcript as short lists: [u, text], [a, text, aside], [t, tool, arguments,
    result, flags, aside, step] with the flags e (error) and w (write), [s, system prompt], and [o,
    role, text] for what is none of these."""
    others = iter((*transcript.others, None))
    other = next(others)
    for place, event in enumerate((*transcript.events, None)):
        while other is not None and other.place <= place:
            if other.role == "system":
                yield ["s", systems.setdefault(other.text, len(systems))]
            else:
                yield ["o", other.role, other.text]
            other = next(others)
        if event is not None:
            yield _encode_event(event)


def _encode_event(event: Event) -> list[Any]:
    if isinstance(event, Message):
        if event.role == "user":
            return ["u", event.text]
        return ["a", event.text, event.aside]
    flags = ("e" if event.failed else "") + ("w" if event.writes else "")
    return ["t", event.tool, event.raw, event.result, flags, event.aside, event.step]


def _indent(value: Any) -> str:
    try:
        return json.dumps(value, indent=2, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to be shown)"


def _shorten_id(episode: str) -> str:
    return episode[:ID_CHARS] if _HASH.fullmatch(episode) else episode


def _preview(events: list[list[Any]]) -> str:
    said = next((event[1] for event in events if event[0] == "u"), "")
    flat = " ".join(said[: PREVIEW_CHARS * 4].split())
    return flat if len(flat) <= PREVIEW_CHARS else flat[: PREVIEW_CHARS - 1] + "\u2026"


def _count_tokens(record: EpisodeRecord) -> int:
    keys = ("prompt_tokens", "completion_tokens")
    counts = [call.get(key) for call in record.calls for key in keys]
    return sum(count for count in counts if type(count) is int)


def _read_instruction(info: dict[str, Any]) -> str:
    """Return the instruction as the record noted it."""
    task = info.get("task")
    return extract_text(task.get("instruction")) if isinstance(task, dict) else ""
