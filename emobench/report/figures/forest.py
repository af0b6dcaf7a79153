"""Dots with intervals, one row each: means, and differences as a forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emobench.analysis.stats.estimates import Interval
from emobench.report.scene import Anchor, Circle, Figure, Line, Rect, Shape, Text

LABELS, PLOT = 150.0, 320.0
ROW, TOP, AXIS = 34.0, 8.0, 44.0
LONGEST = 22
VALUE, NOTE = 7.6, 6.3
"""Pixels of a character at the right, rather too many."""


@dataclass(frozen=True)
class Dot:
    """One row; with `heading` a line that names the rows below it."""

    label: str
    value: float | None = None
    interval: Interval | None = None
    text: str = ""
    """The value as it is written at the right."""
    note: str = ""
    """Below the text: what has to stand beside the number."""
    bad: bool = False
    """The note is a warning."""
    caption: str = ""
    """What the number is, in full."""
    role: str = "accent"
    heading: bool = False


@dataclass(frozen=True)
class Axis:
    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    reference: float | None = None


def forest(name: str, title: str, dots: Sequence[Dot], axis: Axis, *, caption: str = "") -> Figure:
    """A row a dot, with the numbers at the right."""
    bottom = TOP + ROW * len(dots)
    written = [max(VALUE * len(dot.text), NOTE * len(dot.note)) for dot in dots]
    width = LABELS + PLOT + 24 + max(written, default=0.0)

    def x(value: float) -> float:
        share = (min(max(value, axis.low), axis.high) - axis.low) / (axis.high - axis.low)
        return LABELS + share * PLOT

    shapes: list[Shape] = []
    for value, label in axis.ticks:
        shapes.append(Line(x(value), TOP, x(value), bottom, "grid"))
        shapes.append(Text(x(value), bottom + 16, label, "muted", "middle", 12))
    if axis.reference is not None:
        at = x(axis.reference)
        shapes.append(Line(at, TOP, at, bottom, "control", 1.3, "4 3"))
    for number, dot in enumerate(dots):
        y = TOP + ROW * number + ROW / 2
        if dot.heading:
            # The lines of the grid end above it and go on below.
            shapes.append(Rect(0, y - 8, LABELS + PLOT + 1, 22, "paper"))
            shapes.append(Text(0, y + 8, dot.label, "ink", bold=True, size=12.5))
            continue
        shapes += _row(dot, x(dot.value) if dot.value is not None else None, y, width)
        if dot.interval is not None:
            left, right = x(dot.interval.low), x(dot.interval.high)
            shapes.append(Line(left, y, right, y, dot.role, 2))
            shapes += [Line(end, y - 4, end, y + 4, dot.role, 2) for end in (left, right)]
    shapes.append(Text(LABELS + PLOT / 2, bottom + 36, axis.label, "muted", "middle", 12))
    return Figure(
        name,
        title,
        "; ".join(dot.caption or dot.label for dot in dots),
        width,
        bottom + AXIS,
        tuple(shapes),
        caption,
    )


def symmetric_axis(label: str, dots: Sequence[Dot]) -> Axis:
    """Around 0, just wide enough for the dots and their intervals."""
    ends = [abs(dot.value) for dot in dots if dot.value is not None]
    ends += [abs(e) for d in dots if d.interval for e in (d.interval.low, d.interval.high)]
    largest = max(ends, default=0.0)
    reach = next((step for step in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0) if step >= largest), 2.0)
    ticks = tuple((reach * part / 2, _tick(reach * part / 2)) for part in range(-2, 3))
    return Axis(label, -reach, reach, ticks, 0.0)


def share_axis(label: str, reference: float | None) -> Axis:
    """From 0 to 1."""
    return Axis(label, 0.0, 1.0, tuple((n / 4, f"{n / 4:g}") for n in range(5)), reference)


def shortened(label: str, longest: int = LONGEST) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "\u2026"


def _row(dot: Dot, at: float | None, y: float, width: float) -> list[Shape]:
    shapes: list[Shape] = [Text(LABELS - 14, y + 4, shortened(dot.label), anchor="end")]
    if at is None:
        shapes.append(Text(LABELS + 8, y + 4, dot.text, "muted", size=12))
    else:
        shapes.append(Circle(at, y, 5, dot.role, dot.caption))
    anchor: Anchor = "start"
    left = LABELS + PLOT + 14
    lift = 3 if dot.note else -4
    if at is not None:
        shapes.append(Text(left, y - lift, dot.text, "ink", anchor, 12.5, bold=True))
    if dot.note:
        role = "bad" if dot.bad else "muted"
        shapes.append(Text(left, y + 12, dot.note, role, anchor, 11))
    return shapes


def _tick(value: float) -> str:
    return f"{value:+g}".replace("-", "\u2212") if value else "0"
