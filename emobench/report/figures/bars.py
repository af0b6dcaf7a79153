"""Shares of a whole, one bar a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from emobench.report.figures.forest import shortened
from emobench.report.scene import Figure, Line, Rect, Shape, Text

LABELS, PLOT = 150.0, 430.0
ROW, TOP = 28.0, 8.0


def bars(
    name: str,
    title: str,
    rows: Sequence[tuple[str, Mapping[str, float]]],
    roles: Mapping[str, tuple[str, float]],
    *,
    caption: str = "",
) -> Figure:
    """`rows` hold shares by part, `roles` (role, opacity) by part, in the order in which they
    stand from the left."""
    shapes: list[Shape] = []
    bottom = TOP + ROW * len(rows)
    for number, (label, shares) in enumerate(rows):
        y = TOP + ROW * number
        shapes.append(Text(LABELS - 12, y + ROW / 2 + 3, shortened(label), anchor="end"))
        x = LABELS
        for part, (role, share) in roles.items():
            width = shares.get(part, 0.0) * PLOT
            if width > 0:
                text = f"{label}, {part}: {shares[part]:.0%}"
                shapes.append(Rect(x, y + 3, max(width - 0.8, 0.4), ROW - 8, role, share, text))
            x += width
    for step in range(5):
        at = LABELS + PLOT * step / 4
        shapes.append(Line(at, bottom, at, bottom + 4, "muted"))
        shapes.append(Text(at, bottom + 18, f"{25 * step} %", "muted", "middle", 12))
    x, y = LABELS, bottom + 40
    for part, (role, share) in roles.items():
        if x + 7.2 * len(part) > LABELS + PLOT + 20:
            x, y = LABELS, y + 20
        shapes.append(Rect(x, y - 9, 11, 11, role, share))
        shapes.append(Text(x + 16, y, part, "muted", size=12))
        x += 16 + 7.2 * len(part) + 14
    described = "; ".join(
        f"{label}: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
        for label, shares in rows
    )
    width = LABELS + PLOT + 40
    return Figure(name, title, described, width, y + 12, tuple(shapes), caption)
