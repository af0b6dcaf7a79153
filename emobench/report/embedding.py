"""Which conversations a report holds in full, where all of them would make it too large.

Conversations of one task and trial are read beside each other, so they come in or stay out
together. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emobench.core.errors import InvalidInput, Problem
from emobench.core.outcomes import CONTROL, Group, Outcome

if TYPE_CHECKING:
    from emobench.tables.run_results import CellResult, EpisodeSummary

MOST = 10_000
MOST_BYTES = 250_000_000
"""Of episodes.jsonl: a page of 100 MB at worst, for text compresses two to ten times."""
SOLVED = "solved"


@dataclass(frozen=True)
class Limit:
    """How much text a page may hold; None: without limit."""

    conversations: int | None = MOST
    size: int | None = MOST_BYTES
    """Bytes of the lines in episodes.jsonl."""


@dataclass(slots=True)
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
    def size(self) -> int:
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


def limit_of(text: str | None) -> Limit:
    """The value of `--conversations`: a number, 'all' or 'none'. Raises InvalidInput."""
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


def units_of(cells: Sequence[CellResult]) -> list[Unit]:
    """All conversations in reading order: setting, task, trial; variants as planned."""
    settings: dict[Group, int] = {}
    units: dict[tuple[int, int, int], Unit] = {}
    for place, result in enumerate(cells):
        cell = result.cell
        setting = settings.setdefault(cell.group, len(settings))
        for record in result.file.episodes:
            at = (setting, record.task_id, cell.trial)
            unit = units.get(at)
            if unit is None:
                unit = units[at] = Unit(*at)
            unit.members.append((place, record))
    for unit in units.values():
        unit.differs = _differs(unit, cells)
    return [units[at] for at in sorted(units)]


def choose(units: Sequence[Unit], limit: Limit) -> Choice:
    """Within the limit: first the units in which an outcome differs from control's, from the
    first trial on, then the others likewise."""
    order = sorted(
        range(len(units)),
        key=lambda n: (not units[n].differs, units[n].trial, units[n].task, units[n].setting),
    )
    chosen: set[int] = set()
    count = size = 0
    for number in order:
        unit = units[number]
        count, size = count + len(unit.members), size + unit.size
        if limit.conversations is not None and count > limit.conversations:
            break
        if limit.size is not None and size > limit.size:
            break
        chosen.add(number)
    kept = tuple(units[number] for number in sorted(chosen))
    return Choice(
        units=kept,
        conversations=sum(len(unit.members) for unit in kept),
        of_conversations=sum(len(unit.members) for unit in units),
        differing=sum(unit.differs for unit in kept),
        of_differing=sum(unit.differs for unit in units),
    )


def notice(choice: Choice) -> str:
    """What a reader has to know where text was left out; else empty."""
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


def _differs(unit: Unit, cells: Sequence[CellResult]) -> bool:
    scored = [
        (cells[place].cell.variant, record.outcome == SOLVED)
        for place, record in unit.members
        if record.outcome != Outcome.INFRA_ERROR
    ]
    control = [solved for variant, solved in scored if variant == CONTROL]
    return bool(control) and any(solved != control[0] for _, solved in scored)
