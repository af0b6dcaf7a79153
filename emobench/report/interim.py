"""The marks of an unfinished run: whatever shows a p says that it is interim."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from emobench.report.blocks import Block, Section, Table
from emobench.report.drawing import Figure

INTERIM = (
    "Interim: the run is unfinished. Whoever looks at p while results come in, and stops or goes "
    "on by it, finds effects that are not there more often than p says."
)
_P = re.compile(r"(?<![\w^])p(?![\w^-])")


def mark_interim(sections: Sequence[Section]) -> list[Section]:
    """Return the sections with the mark at every table and figure that shows a p, and in a column
    `interim` of its numbers."""
    return [
        replace(
            section,
            blocks=tuple(map(_mark_block, section.blocks)),
            parts=tuple(mark_interim(section.parts)),
        )
        for section in sections
    ]


def _mark_block(block: Block) -> Block:
    if isinstance(block, Figure) and _P.search(block.caption):
        return replace(block, caption=f"{block.caption} {INTERIM}")
    if isinstance(block, Table) and _shows_p(block):
        records = tuple({**record, "interim": True} for record in block.records)
        return replace(block, notes=(*block.notes, INTERIM), records=records)
    return block


def _shows_p(table: Table) -> bool:
    names = {name for record in table.records[:1] for name in record}
    texts = (table.caption, *table.notes, *(head.text for head in table.head))
    return any(name == "p" or name.startswith("p_") for name in names) or any(map(_P.search, texts))
