"""The figures: plain values in, shapes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from emobench.analysis.stats.estimates import Interval
from emobench.report.drawing import Anchor, Circle, Figure, Line, Path, Rect, Shape, Text

LABELS, FOREST_PLOT = 150.0, 320.0
FOREST_ROW, FOREST_TOP, FOREST_AXIS = 34.0, 8.0, 44.0
LONGEST_LABEL = 22
VALUE_WIDTH, NOTE_WIDTH = 7.6, 6.3
"""Pixels of a character at the right, rather too many."""
BAR_PLOT = 430.0
BAR_ROW, BAR_TOP = 28.0, 8.0
CURVE_LEFT, CURVE_PLOT, CURVE_RIGHT = 48.0, 400.0, 150.0
CURVE_TOP, CURVE_HEIGHT, CURVE_AXIS = 28.0, 230.0, 46.0
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4")
LABEL_GAP = 15.0
"""Pixels between two labels."""
TILES_WIDEST = 900.0
TILE_TOP, TILE_HEIGHT, TILE_AXIS = 26.0, 26.0, 40.0
TILE_WITH_NUMBER = 34.0
"""A cell of this width has its number in it."""
FAINT = 0.06
"""How opaque a share of 0 is; nothing at all is a missing one."""


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


def draw_forest(
    name: str, title: str, dots: Sequence[Dot], axis: Axis, *, caption: str = ""
) -> Figure:
    """Draw a row a dot, with the numbers at the right."""
    bottom = FOREST_TOP + FOREST_ROW * len(dots)
    written = [max(VALUE_WIDTH * len(dot.text), NOTE_WIDTH * len(dot.note)) for dot in dots]
    width = LABELS + FOREST_PLOT + 24 + max(written, default=0.0)

    def x(value: float) -> float:
        share = (min(max(value, axis.low), axis.high) - axis.low) / (axis.high - axis.low)
        return LABELS + share * FOREST_PLOT

    shapes: list[Shape] = []
    for value, label in axis.ticks:
        shapes.append(Line(x(value), FOREST_TOP, x(value), bottom, "grid"))
        shapes.append(Text(x(value), bottom + 16, label, "muted", "middle", 12))
    if axis.reference is not None:
        at = x(axis.reference)
        shapes.append(Line(at, FOREST_TOP, at, bottom, "control", 1.3, "4 3"))
    for number, dot in enumerate(dots):
        y = FOREST_TOP + FOREST_ROW * number + FOREST_ROW / 2
        if dot.heading:
            # The lines of the grid end above it and go on below.
            shapes.append(Rect(0, y - 8, LABELS + FOREST_PLOT + 1, 22, "paper"))
            shapes.append(Text(0, y + 8, dot.label, "ink", bold=True, size=12.5))
            continue
        shapes += _draw_dot_row(dot, x(dot.value) if dot.value is not None else None, y, width)
        if dot.interval is not None:
            left, right = x(dot.interval.low), x(dot.interval.high)
            shapes.append(Line(left, y, right, y, dot.role, 2))
            shapes += [Line(end, y - 4, end, y + 4, dot.role, 2) for end in (left, right)]
    shapes.append(Text(LABELS + FOREST_PLOT / 2, bottom + 36, axis.label, "muted", "middle", 12))
    return Figure(
        name,
        title,
        "; ".join(dot.caption or dot.label for dot in dots),
        width,
        bottom + FOREST_AXIS,
        tuple(shapes),
        caption,
    )


def make_symmetric_axis(label: str, dots: Sequence[Dot]) -> Axis:
    """Return an axis around 0, just wide enough for the dots and their intervals."""
    ends = [abs(dot.value) for dot in dots if dot.value is not None]
    ends += [abs(e) for d in dots if d.interval for e in (d.interval.low, d.interval.high)]
    largest = max(ends, default=0.0)
    reach = next((step for step in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0) if step >= largest), 2.0)
    ticks = tuple((reach * part / 2, _format_tick(reach * part / 2)) for part in range(-2, 3))
    return Axis(label, -reach, reach, ticks, 0.0)


def make_share_axis(label: str, reference: float | None) -> Axis:
    """Return an axis from 0 to 1."""
    return Axis(label, 0.0, 1.0, tuple((n / 4, f"{n / 4:g}") for n in range(5)), reference)


def shorten(label: str, longest: int = LONGEST_LABEL) -> str:
    """Return the label, cut with an ellipsis where it is too long."""
    return label if len(label) <= longest else label[: longest - 1] + "\u2026"


def _draw_dot_row(dot: Dot, at: float | None, y: float, width: float) -> list[Shape]:
    shapes: list[Shape] = [Text(LABELS - 14, y + 4, shorten(dot.label), anchor="end")]
    if at is None:
        shapes.append(Text(LABELS + 8, y + 4, dot.text, "muted", size=12))
    else:
        shapes.append(Circle(at, y, 5, dot.role, dot.caption))
    anchor: Anchor = "start"
    left = LABELS + FOREST_PLOT + 14
    lift = 3 if dot.note else -4
    if at is not None:
        shapes.append(Text(left, y - lift, dot.text, "ink", anchor, 12.5, bold=True))
    if dot.note:
        role = "bad" if dot.bad else "muted"
        shapes.append(Text(left, y + 12, dot.note, role, anchor, 11))
    return shapes


def _format_tick(value: float) -> str:
    return f"{value:+g}".replace("-", "\u2212") if value else "0"


def draw_bars(
    name: str,
    title: str,
    rows: Sequence[tuple[str, Mapping[str, float]]],
    roles: Mapping[str, tuple[str, float]],
    *,
    caption: str = "",
) -> Figure:
    """Draw one bar a row: `rows` hold shares by part, `roles` (role, opacity) by part, in the order
    in which they stand from the left."""
    shapes: list[Shape] = []
    bottom = BAR_TOP + BAR_ROW * len(rows)
    for number, (label, shares) in enumerate(rows):
        y = BAR_TOP + BAR_ROW * number
        shapes.append(Text(LABELS - 12, y + BAR_ROW / 2 + 3, shorten(label), anchor="end"))
        x = LABELS
        for part, (role, share) in roles.items():
            width = shares.get(part, 0.0) * BAR_PLOT
            if width > 0:
                text = f"{label}, {part}: {shares[part]:.0%}"
                shapes.append(Rect(x, y + 3, max(width - 0.8, 0.4), BAR_ROW - 8, role, share, text))
            x += width
    for step in range(5):
        at = LABELS + BAR_PLOT * step / 4
        shapes.append(Line(at, bottom, at, bottom + 4, "muted"))
        shapes.append(Text(at, bottom + 18, f"{25 * step} %", "muted", "middle", 12))
    x, y = LABELS, bottom + 40
    for part, (role, share) in roles.items():
        if x + 7.2 * len(part) > LABELS + BAR_PLOT + 20:
            x, y = LABELS, y + 20
        shapes.append(Rect(x, y - 9, 11, 11, role, share))
        shapes.append(Text(x + 16, y, part, "muted", size=12))
        x += 16 + 7.2 * len(part) + 14
    described = "; ".join(
        f"{label}: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
        for label, shares in rows
    )
    width = LABELS + BAR_PLOT + 40
    return Figure(name, title, described, width, y + 12, tuple(shapes), caption)


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


def draw_curves(
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
    """Draw values from 0 to `most`; each line has its name at its end, its own dash and colour."""
    step = CURVE_PLOT / max(len(columns) - 1, 1)
    bottom = CURVE_TOP + CURVE_HEIGHT

    def x(place: int) -> float:
        return CURVE_LEFT + 12 + place * (step if len(columns) > 1 else 0)

    def y(value: float) -> float:
        return bottom - min(max(value / most, 0.0), 1.0) * CURVE_HEIGHT

    shapes: list[Shape] = []
    for part in range(5):
        value = most * part / 4
        shapes.append(Line(CURVE_LEFT, y(value), CURVE_LEFT + CURVE_PLOT + 24, y(value), "grid"))
        shapes.append(Text(CURVE_LEFT - 8, y(value) + 4, f"{value:g}", "muted", "end", 12))
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
    shapes += _draw_curve_labels(lines, x, y, len(columns) - 1)
    shapes.append(Text(CURVE_LEFT + CURVE_PLOT / 2, bottom + 38, axis, "muted", "middle", 12))
    shapes.append(Text(0, CURVE_TOP - 14, value_axis, "muted", size=12))
    captions = [point.caption for curve in lines for point in curve.points]
    return Figure(
        name,
        title,
        "; ".join(captions),
        CURVE_LEFT + CURVE_PLOT + CURVE_RIGHT,
        bottom + CURVE_AXIS,
        tuple(shapes),
        caption,
    )


def _draw_curve_labels(
    lines: Sequence[Curve], x: Callable[[int], float], y: Callable[[float], float], last: int
) -> list[Shape]:
    """Return the names where the lines end, moved apart where they would cover each other."""
    ends = sorted(
        (each.points[-1].place, y(each.points[-1].value), number)
        for number, each in enumerate(lines)
        if each.points
    )
    placed: list[Shape] = []
    before, lowest = -1, 0.0
    for place, height, number in ends:
        lowest = max(height, lowest + LABEL_GAP) if place == before else height
        before = place
        curve = lines[number]
        at = CURVE_LEFT + CURVE_PLOT + 34 if place == last else x(place) + 18
        text = shorten(curve.label, 20)
        placed.append(Text(at, lowest + 4, text, curve.role, size=12.5, bold=True))
    return placed


@dataclass(frozen=True)
class Tile:
    value: float | None
    """0 to 1; None: missing."""
    title: str


def draw_heatmap(
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
    """Draw a row of tiles for each label. Missing tiles have a stroke through them and no fill."""
    count = max(len(columns), 1)
    size = cell or min(44.0, max(6.0, TILES_WIDEST / count))
    shapes: list[Shape] = []
    for number, (label, tiles) in enumerate(rows):
        y = TILE_TOP + number * TILE_HEIGHT
        shapes.append(Text(LABELS - 12, y + TILE_HEIGHT / 2 + 4, shorten(label), anchor="end"))
        for place, tile in enumerate(tiles):
            shapes += _draw_tile(tile, LABELS + place * size, y, size, role)
    every = max(1, int(-(-22 // size))) if size < TILE_WITH_NUMBER else 1
    for place, label in enumerate(columns):
        if place % every == 0:
            x = LABELS + (place + 0.5) * size
            shapes.append(Text(x, TILE_TOP - 8, label, "muted", "middle", 10.5))
    bottom = TILE_TOP + TILE_HEIGHT * len(rows)
    width = LABELS + max(count * size, 330.0) + 10
    if legend:
        shapes += _draw_legend(bottom + 12, role, legend)
    shapes.append(Text(width - 10, bottom + 22, axis, "muted", "end", 12))
    described = "; ".join(
        f"{label}: " + ", ".join("missing" if t.value is None else f"{t.value:.2f}" for t in tiles)
        for label, tiles in rows
    )
    height = bottom + TILE_AXIS
    return Figure(name, title, described, width, height, tuple(shapes), caption, wide=True)


def _draw_tile(tile: Tile, x: float, y: float, size: float, role: str) -> list[Shape]:
    inner = max(size - 1, 1.0)
    if tile.value is None:
        rect = Rect(x, y, inner, TILE_HEIGHT - 2, "grid", 0.35, tile.title)
        return [rect, Line(x, y + TILE_HEIGHT - 2, x + inner, y, "muted", 0.8)]
    share = FAINT + (1 - FAINT) * tile.value
    shapes: list[Shape] = [Rect(x, y, inner, TILE_HEIGHT - 2, role, share, tile.title)]
    if size >= TILE_WITH_NUMBER:
        role_of_text = "paper" if tile.value > 0.55 else "ink"
        middle = x + inner / 2
        text = f"{tile.value:.2f}"
        shapes.append(Text(middle, y + TILE_HEIGHT / 2 + 3, text, role_of_text, "middle", 11))
    return shapes


def _draw_legend(y: float, role: str, text: str) -> list[Shape]:
    shapes: list[Shape] = []
    for part in range(5):
        share = FAINT + (1 - FAINT) * part / 4
        shapes.append(Rect(LABELS + part * 16, y, 15, 11, role, share))
    shapes.append(Text(LABELS - 12, y + 10, "0", "muted", "end", 11))
    shapes.append(Text(LABELS + 84, y + 10, f"1  {text}", "muted", size=11))
    return shapes
