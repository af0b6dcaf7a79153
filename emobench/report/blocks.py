"""What a section is made of: tables, figures and remarks, for the page and the exports alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from emobench.report.drawing import Figure

Scalar = str | int | float | bool | None
State = Literal["", "passed", "failed", "not_checked", "muted", "strong"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table as it is read."""

    text: str
    detail: str = ""
    """Smaller, behind it: an interval, a share."""
    title: str = ""
    """What the number is, in full."""
    link: str = ""
    state: State = ""
    mark: str = ""
    """A sign that a note under the table explains."""


@dataclass(frozen=True)
class Head:
    text: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table; `records` are the same numbers unrounded, with the labels that name them."""

    kind: ClassVar[str] = "table"
    name: str
    caption: str
    head: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    records: tuple[Mapping[str, Scalar], ...] = ()
    folded: bool = False
    """Opened on demand: the words for a figure, or a long list."""
    of: str = ""
    """Name of the figure that it is the text of."""
    prose: bool = False
    """Its cells hold words rather than numbers."""


@dataclass(frozen=True)
class Remark:
    kind: ClassVar[str] = "remark"
    text: str
    strong: str = ""
    """Its first words."""


@dataclass(frozen=True)
class Items:
    """A list of short texts."""

    kind: ClassVar[str] = "items"
    items: tuple[tuple[str, str], ...]
    """(what, text)."""
    caption: str = ""


Block = Table | Figure | Remark | Items


@dataclass(frozen=True)
class Section:
    identifier: str
    title: str
    blocks: tuple[Block, ...] = ()
    parts: tuple[Section, ...] = field(default=())
    folded: bool = False

    def walk(self) -> Iterator[Block]:
        """Yield its blocks and those of its parts, in reading order."""
        yield from self.blocks
        for part in self.parts:
            yield from part.walk()


def make_heads(first: str, *others: str) -> tuple[Head, ...]:
    """Return column heads of which the first names the row."""
    return (Head(first, numeric=False), *(Head(text) for text in others))


def list_blocks(sections: Sequence[Section]) -> list[Block]:
    """Return the blocks of all sections and their parts, in reading order."""
    return [block for section in sections for block in section.walk()]
