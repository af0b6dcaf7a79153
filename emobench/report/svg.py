"""Figures as SVG text: inline, coloured by the page's style sheet, or a file of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

from emobench.report.scene import LIGHT, Circle, Figure, Line, Path, Rect, Shape, Text

FONTS = "Helvetica, Arial, 'Liberation Sans', sans-serif"
_FORBIDDEN = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot hold."""
Paint = Callable[[str, str], str]
"""(role, 'line', 'fill' or 'text') -> attributes."""


def inline(figure: Figure) -> str:
    """An SVG element for the page. Everything is escaped."""
    name = f"drawing-{escape(figure.name)}"
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {_n(figure.width)} {_n(figure.height)}" '
        f'width="{_n(figure.width)}" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{_t(figure.title)}</title>'
        f'<desc id="{name}-desc">{_t(figure.description)}</desc>'
        f"{_shapes(figure, _by_class)}</svg>"
    )


def standalone(figure: Figure) -> str:
    """An SVG file with fixed colours on white."""
    size = f'width="{_n(figure.width)}" height="{_n(figure.height)}"'
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
        f'viewBox="0 0 {_n(figure.width)} {_n(figure.height)}" '
        f'font-family="{FONTS}" role="img">\n'
        f"<title>{_t(figure.title)}</title>\n<desc>{_t(figure.description)}</desc>\n"
        f'<rect {size} fill="{LIGHT["paper"]}"/>\n'
        f"{_shapes(figure, _by_colour)}\n</svg>\n"
    )


def _shapes(figure: Figure, paint: Paint) -> str:
    return "".join(_shape(shape, paint) for shape in figure.shapes)


def _shape(shape: Shape, paint: Paint) -> str:
    match shape:
        case Line():
            return (
                f'<line {paint(shape.role, "line")} x1="{_n(shape.x1)}" y1="{_n(shape.y1)}" '
                f'x2="{_n(shape.x2)}" y2="{_n(shape.y2)}"{_stroke(shape.width, shape.dash)}/>'
            )
        case Path():
            points = " ".join(f"{_n(x)},{_n(y)}" for x, y in shape.points)
            return (
                f'<polyline {paint(shape.role, "line")} points="{points}"'
                f"{_stroke(shape.width, shape.dash)}/>"
            )
        case Rect():
            opacity = f' fill-opacity="{shape.share:.3g}"' if shape.share < 1 else ""
            start = (
                f'<rect {paint(shape.role, "fill")} x="{_n(shape.x)}" y="{_n(shape.y)}" '
                f'width="{_n(shape.width)}" height="{_n(shape.height)}"{opacity}'
            )
            return _titled(start, "rect", shape.title)
        case Circle():
            start = (
                f'<circle {paint(shape.role, "fill")} cx="{_n(shape.x)}" cy="{_n(shape.y)}" '
                f'r="{_n(shape.radius)}"'
            )
            return _titled(start, "circle", shape.title)
        case Text():
            anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
            weight = ' font-weight="600"' if shape.bold else ""
            return (
                f'<text {paint(shape.role, "text")} x="{_n(shape.x)}" y="{_n(shape.y)}" '
                f'font-size="{_n(shape.size)}"{anchor}{weight}>{_t(shape.text)}</text>'
            )


def _by_class(role: str, use: str) -> str:
    return f'class="{use} {role}"'


def _by_colour(role: str, use: str) -> str:
    colour = LIGHT[role]
    return f'fill="none" stroke="{colour}"' if use == "line" else f'fill="{colour}"'


def _stroke(width: float, dash: str) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f' stroke-width="{_n(width)}"{dashes}'


def _titled(start: str, name: str, title: str) -> str:
    return f"{start}><title>{_t(title)}</title></{name}>" if title else f"{start}/>"


def _t(text: str) -> str:
    return escape(_FORBIDDEN.sub("\ufffd", text))


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
