"""Dots with intervals as inline SVG. Colours come from the page's style sheet, by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from emobench.analysis.metrics import Interval

LABEL_WIDTH = 132
VALUE_WIDTH = 58
PLOT_WIDTH = 330
ROW_HEIGHT = 30
TOP = 10
AXIS_HEIGHT = 42


@dataclass(frozen=True)
class Dot:
    """One row of a chart."""

    label: str
    value: float | None
    interval: Interval | None
    text: str
    """The value as it is written beside the dot."""
    caption: str
    """What the number is, for screen readers and on hover."""
    is_reference: bool = False


def dot_chart(
    dots: Sequence[Dot],
    *,
    identifier: str,
    title: str,
    description: str,
    axis: str,
    domain: tuple[float, float],
    ticks: Sequence[tuple[float, str]],
    reference: float | None,
) -> str:
    """An SVG figure: one row a dot, `reference` as a dashed line. Everything is escaped."""
    low, high = domain
    width = LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH
    bottom = TOP + ROW_HEIGHT * len(dots)

    def x(value: float) -> str:
        share = (min(max(value, low), high) - low) / (high - low)
        return f"{LABEL_WIDTH + share * PLOT_WIDTH:.1f}"

    parts = [
        f'<svg class="chart" role="img" viewBox="0 0 {width} {bottom + AXIS_HEIGHT}" '
        f'aria-labelledby="{identifier}-title {identifier}-desc">',
        f'<title id="{identifier}-title">{escape(title)}</title>',
        f'<desc id="{identifier}-desc">{escape(description)}</desc>',
    ]
    for value, label in ticks:
        parts.append(
            f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="{TOP}" y2="{bottom}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x(value)}" y="{bottom + 16}" text-anchor="middle">'
            f"{escape(label)}</text>"
        )
    if reference is not None:
        parts.append(
            f'<line class="reference" x1="{x(reference)}" x2="{x(reference)}" '
            f'y1="{TOP}" y2="{bottom}"/>'
        )
    for number, dot in enumerate(dots):
        parts += _row(dot, x, TOP + ROW_HEIGHT * number + ROW_HEIGHT // 2)
    middle = LABEL_WIDTH + PLOT_WIDTH / 2
    parts.append(
        f'<text class="axis" x="{middle:.0f}" y="{bottom + 36}" text-anchor="middle">'
        f"{escape(axis)}</text></svg>"
    )
    return "".join(parts)


def _row(dot: Dot, x: Callable[[float], str], y: int) -> list[str]:
    kind = "dot control" if dot.is_reference else "dot"
    parts = [
        f'<g class="{kind}"><title>{escape(dot.caption)}</title>',
        f'<text class="label" x="{LABEL_WIDTH - 14}" y="{y + 4}" text-anchor="end">'
        f"{escape(_shortened(dot.label))}</text>",
    ]
    if dot.value is None:
        parts.append(
            f'<text class="absent" x="{LABEL_WIDTH + 8}" y="{y + 4}">{escape(dot.text)}</text></g>'
        )
        return parts
    if dot.interval is not None:
        left, right = x(dot.interval.low), x(dot.interval.high)
        parts.append(f'<line class="whisker" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts += [
            f'<line class="cap" x1="{end}" x2="{end}" y1="{y - 4}" y2="{y + 4}"/>'
            for end in (left, right)
        ]
    parts.append(f'<circle cx="{x(dot.value)}" cy="{y}" r="5"/>')
    parts.append(
        f'<text class="value" x="{LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH}" y="{y + 4}" '
        f'text-anchor="end">{escape(dot.text)}</text></g>'
    )
    return parts


def _shortened(label: str) -> str:
    return label if len(label) <= 18 else label[:17] + "\u2026"
