"""A grid of shares: the darker the higher. A value is told by a title and by a table, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emobench.report.figures.forest import shortened
from emobench.report.scene import Figure, Line, Rect, Shape, Text

LABELS, WIDEST = 150.0, 900.0
TOP, HIGH, AXIS = 26.0, 26.0, 40.0
WRITTEN = 34.0
"""A cell of this width has its number in it."""
FAINT = 0.06
"""How opaque a share of 0 is; nothing at all is a missing one."""


@dataclass(frozen=True)
class Tile:
    value: float | None
    """0 to 1; None: missing."""
    title: str


def heatmap(
    name: str,
    title: str,
    rows: Sequence[tuple[str, Sequence[Tile]]],
    columns: Sequence[str],
    *,
    axis: str,
    caption: str = "",
    role: str = "accent",
    legend: str = "",
    cell: float | None = None,
) -> Figure:
    """A row of tiles for each label. Missing tiles have a stroke through them and no fill."""
    count = max(len(columns), 1)
    size = cell or min(44.0, max(6.0, WIDEST / count))
    shapes: list[Shape] = []
    for number, (label, tiles) in enumerate(rows):
        y = TOP + number * HIGH
        shapes.append(Text(LABELS - 12, y + HIGH / 2 + 4, shortened(label), anchor="end"))
        for place, tile in enumerate(tiles):
            shapes += _tile(tile, LABELS + place * size, y, size, role)
    every = max(1, int(-(-22 // size))) if size < WRITTEN else 1
    for place, label in enumerate(columns):
        if place % every == 0:
            x = LABELS + (place + 0.5) * size
            shapes.append(Text(x, TOP - 8, label, "muted", "middle", 10.5))
    bottom = TOP + HIGH * len(rows)
    width = LABELS + max(count * size, 330.0) + 10
    if legend:
        shapes += _legend(bottom + 12, role, legend)
    shapes.append(Text(width - 10, bottom + 22, axis, "muted", "end", 12))
    described = "; ".join(
        f"{label}: " + ", ".join("missing" if t.value is None else f"{t.value:.2f}" for t in tiles)
        for label, tiles in rows
    )
    height = bottom + AXIS
    return Figure(name, title, described, width, height, tuple(shapes), caption, wide=True)


def _tile(tile: Tile, x: float, y: float, size: float, role: str) -> list[Shape]:
    inner = max(size - 1, 1.0)
    if tile.value is None:
        rect = Rect(x, y, inner, HIGH - 2, "grid", 0.35, tile.title)
        return [rect, Line(x, y + HIGH - 2, x + inner, y, "muted", 0.8)]
    share = FAINT + (1 - FAINT) * tile.value
    shapes: list[Shape] = [Rect(x, y, inner, HIGH - 2, role, share, tile.title)]
    if size >= WRITTEN:
        role_of_text = "paper" if tile.value > 0.55 else "ink"
        middle = x + inner / 2
        text = f"{tile.value:.2f}"
        shapes.append(Text(middle, y + HIGH / 2 + 3, text, role_of_text, "middle", 11))
    return shapes


def _legend(y: float, role: str, text: str) -> list[Shape]:
    shapes: list[Shape] = []
    for part in range(5):
        share = FAINT + (1 - FAINT) * part / 4
        shapes.append(Rect(LABELS + part * 16, y, 15, 11, role, share))
    shapes.append(Text(LABELS - 12, y + 10, "0", "muted", "end", 11))
    shapes.append(Text(LABELS + 84, y + 10, f"1  {text}", "muted", size=11))
    return shapes
