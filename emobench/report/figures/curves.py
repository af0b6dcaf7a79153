"""Lines over a whole number: pass^k over k, the emotion over the turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emobench.analysis.stats.estimates import Interval
from emobench.report.figures.forest import shortened
from emobench.report.scene import Circle, Figure, Line, Path, Shape, Text

LEFT, PLOT, RIGHT = 48.0, 400.0, 150.0
TOP, TALL, AXIS = 28.0, 230.0, 46.0
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4")
APART = 15.0
"""Pixels between two labels."""


@dataclass(frozen=True)
class Point:
    place: int
    """Its column, from 0."""
    value: float
    interval: Interval | None = None
    caption: str = ""


@dataclass(frozen=True)
class Curve:
    label: str
    points: tuple[Point, ...]
    role: str


def curves(
    name: str,
    title: str,
    lines: Sequence[Curve],
    columns: Sequence[str],
    *,
    axis: str,
    value_axis: str,
    caption: str = "",
    most: float = 1.0,
) -> Figure:
    """Values from 0 to `most`; each line has its name at its end, its own dash and colour."""
    step = PLOT / max(len(columns) - 1, 1)
    bottom = TOP + TALL

    def x(place: int) -> float:
        return LEFT + 12 + place * (step if len(columns) > 1 else 0)

    def y(value: float) -> float:
        return bottom - min(max(value / most, 0.0), 1.0) * TALL

    shapes: list[Shape] = []
    for part in range(5):
        value = most * part / 4
        shapes.append(Line(LEFT, y(value), LEFT + PLOT + 24, y(value), "grid"))
        shapes.append(Text(LEFT - 8, y(value) + 4, f"{value:g}", "muted", "end", 12))
    every = max(1, -(-len(columns) // 16))
    for place, label in enumerate(columns):
        if place % every == 0:
            shapes.append(Text(x(place), bottom + 17, label, "muted", "middle", 12))
    spread = min(5.0, step / max(2 * len(lines), 1))
    for number, curve in enumerate(lines):
        shift = (number - (len(lines) - 1) / 2) * spread
        points = tuple((x(p.place) + shift, y(p.value)) for p in curve.points)
        for point, (at, _) in zip(curve.points, points, strict=True):
            if point.interval:
                low, high = y(point.interval.low), y(point.interval.high)
                shapes.append(Line(at, low, at, high, curve.role, 1.2))
        shapes.append(Path(points, curve.role, 2.0, DASHES[number % len(DASHES)]))
        shapes += [
            Circle(at, height, 3.5, curve.role, point.caption)
            for point, (at, height) in zip(curve.points, points, strict=True)
        ]
    shapes += _labels(lines, x, y, len(columns) - 1)
    shapes.append(Text(LEFT + PLOT / 2, bottom + 38, axis, "muted", "middle", 12))
    shapes.append(Text(0, TOP - 14, value_axis, "muted", size=12))
    captions = [point.caption for curve in lines for point in curve.points]
    return Figure(
        name,
        title,
        "; ".join(captions),
        LEFT + PLOT + RIGHT,
        bottom + AXIS,
        tuple(shapes),
        caption,
    )


def _labels(
    lines: Sequence[Curve], x: Callable[[int], float], y: Callable[[float], float], last: int
) -> list[Shape]:
    """The names where the lines end, moved apart where they would cover each other."""
    ends = sorted(
        (each.points[-1].place, y(each.points[-1].value), number)
        for number, each in enumerate(lines)
        if each.points
    )
    placed: list[Shape] = []
    before, lowest = -1, 0.0
    for place, height, number in ends:
        lowest = max(height, lowest + APART) if place == before else height
        before = place
        curve = lines[number]
        at = LEFT + PLOT + 34 if place == last else x(place) + 18
        text = shortened(curve.label, 20)
        placed.append(Text(at, lowest + 4, text, curve.role, size=12.5, bold=True))
    return placed
