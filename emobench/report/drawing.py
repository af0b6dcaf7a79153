"""Figures as lists of shapes, and how they are drawn: SVG on the page, SVG and PDF in the exports.

Lengths are pixels; y grows downwards. Colours are roles, so that the page can show them light and
dark and a file has them fixed. PDF takes reportlab (pure Python; the extra `emobench[pdf]`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar, Literal

Anchor = Literal["start", "middle", "end"]

LIGHT: Mapping[str, str] = {
    "ink": "#1c1e21",
    "muted": "#5b626c",
    "grid": "#d9dce1",
    "accent": "#1f5c99",
    "control": "#6a717b",
    "good": "#1d6b42",
    "bad": "#a5321f",
    "warn": "#7d5200",
    "paper": "#ffffff",
    "s1": "#1f5c99",
    "s2": "#b8500f",
    "s3": "#1d7a4f",
    "s4": "#7b4ea3",
    "s5": "#8a6a00",
    "s6": "#0f7686",
    "s7": "#a8346d",
}
"""Colours by role in files; report.css has those of the page."""
SERIES = 7
FONTS = "Helvetica, Arial, 'Liberation Sans', sans-serif"
_FORBIDDEN = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot hold."""
POINTS_PER_PIXEL = 0.75
"""Points of a pixel."""
FACE, BOLD = "Vera", "VeraBd"
PDF_TEXT_SIZE = 0.88
"""The embedded face is wider than those of browsers."""


@dataclass(frozen=True)
class Line:
    x1: float
    y1: float
    x2: float
    y2: float
    role: str
    width: float = 1.0
    dash: str = ""


@dataclass(frozen=True)
class Rect:
    x: float
    y: float
    width: float
    height: float
    role: str
    share: float = 1.0
    """How opaque it is."""
    title: str = ""
    """Shown when a pointer rests on it."""


@dataclass(frozen=True)
class Circle:
    x: float
    y: float
    radius: float
    role: str
    title: str = ""


@dataclass(frozen=True)
class Path:
    """A polyline."""

    points: tuple[tuple[float, float], ...]
    role: str
    width: float = 2.0
    dash: str = ""


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    """Of the base line."""
    text: str
    role: str = "ink"
    anchor: Anchor = "start"
    size: float = 13.0
    bold: bool = False


Shape = Line | Rect | Circle | Path | Text


@dataclass(frozen=True)
class Figure:
    """One figure with its words; `name` is its id on the page and its file's."""

    kind: ClassVar[str] = "figure"
    name: str
    title: str
    description: str
    """What it shows, number by number, for those who do not see it."""
    width: float
    height: float
    shapes: tuple[Shape, ...]
    caption: str = ""
    wide: bool = False
    """Takes the whole width of the page."""


def assign_roles(variants: list[str], control: str) -> dict[str, str]:
    """Return a role for each variant's lines."""
    others = [name for name in variants if name != control]
    roles = {name: f"s{place % SERIES + 1}" for place, name in enumerate(others)}
    return {name: "control" if name == control else roles[name] for name in variants}


Paint = Callable[[str, str], str]
"""(role, 'line', 'fill' or 'text') -> attributes."""


def render_inline_svg(figure: Figure) -> str:
    """Return an SVG element for the page. Everything is escaped."""
    name = f"drawing-{escape(figure.name)}"
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {_format(figure.width)} '
        f'{_format(figure.height)}" '
        f'width="{_format(figure.width)}" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{_escape(figure.title)}</title>'
        f'<desc id="{name}-desc">{_escape(figure.description)}</desc>'
        f"{_render_svg_shapes(figure, _paint_by_class)}</svg>"
    )


def render_svg_file(figure: Figure) -> str:
    """Return an SVG file with fixed colours on white."""
    size = f'width="{_format(figure.width)}" height="{_format(figure.height)}"'
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
        f'viewBox="0 0 {_format(figure.width)} {_format(figure.height)}" '
        f'font-family="{FONTS}" role="img">\n'
        f"<title>{_escape(figure.title)}</title>\n<desc>{_escape(figure.description)}</desc>\n"
        f'<rect {size} fill="{LIGHT["paper"]}"/>\n'
        f"{_render_svg_shapes(figure, _paint_by_colour)}\n</svg>\n"
    )


def _render_svg_shapes(figure: Figure, paint: Paint) -> str:
    return "".join(_render_svg_shape(shape, paint) for shape in figure.shapes)


def _render_svg_shape(shape: Shape, paint: Paint) -> str:
    match shape:
        case Line():
            return (
                f'<line {paint(shape.role, "line")} x1="{_format(shape.x1)}" '
                f'y1="{_format(shape.y1)}" x2="{_format(shape.x2)}" y2="{_format(shape.y2)}"'
                f"{_format_svg_stroke(shape.width, shape.dash)}/>"
            )
        case Path():
            points = " ".join(f"{_format(x)},{_format(y)}" for x, y in shape.points)
            return (
                f'<polyline {paint(shape.role, "line")} points="{points}"'
                f"{_format_svg_stroke(shape.width, shape.dash)}/>"
            )
        case Rect():
            opacity = f' fill-opacity="{shape.share:.3g}"' if shape.share < 1 else ""
            start = (
                f'<rect {paint(shape.role, "fill")} x="{_format(shape.x)}" y="{_format(shape.y)}" '
                f'width="{_format(shape.width)}" height="{_format(shape.height)}"{opacity}'
            )
            return _add_title(start, "rect", shape.title)
        case Circle():
            start = (
                f'<circle {paint(shape.role, "fill")} cx="{_format(shape.x)}" '
                f'cy="{_format(shape.y)}" r="{_format(shape.radius)}"'
            )
            return _add_title(start, "circle", shape.title)
        case Text():
            anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
            weight = ' font-weight="600"' if shape.bold else ""
            return (
                f'<text {paint(shape.role, "text")} x="{_format(shape.x)}" y="{_format(shape.y)}" '
                f'font-size="{_format(shape.size)}"{anchor}{weight}>{_escape(shape.text)}</text>'
            )


def _paint_by_class(role: str, use: str) -> str:
    return f'class="{use} {role}"'


def _paint_by_colour(role: str, use: str) -> str:
    colour = LIGHT[role]
    return f'fill="none" stroke="{colour}"' if use == "line" else f'fill="{colour}"'


def _format_svg_stroke(width: float, dash: str) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f' stroke-width="{_format(width)}"{dashes}'


def _add_title(start: str, name: str, title: str) -> str:
    return f"{start}><title>{_escape(title)}</title></{name}>" if title else f"{start}/>"


def _escape(text: str) -> str:
    return escape(_FORBIDDEN.sub("\ufffd", text))


def _format(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def can_draw_pdf() -> bool:
    """Return whether reportlab is installed."""
    try:
        import reportlab  # noqa: F401
    except ImportError:
        return False
    return True


def render_pdf_file(figure: Figure) -> bytes:
    """Return one page of the figure's size, its fonts embedded, the same bytes for the same figure.

    Characters that the face lacks are written as '?'. Raises ImportError without reportlab.
    """
    from reportlab.pdfgen.canvas import Canvas

    _register_fonts()
    out = io.BytesIO()
    size = (figure.width * POINTS_PER_PIXEL, figure.height * POINTS_PER_PIXEL)
    canvas = Canvas(out, pagesize=size, invariant=1)
    canvas.setTitle(_remove_surrogates(figure.title))
    canvas.setSubject(_remove_surrogates(figure.description[:2000]))
    canvas.setCreator("emobench")
    # reportlab's y grows upwards.
    canvas.scale(POINTS_PER_PIXEL, POINTS_PER_PIXEL)
    canvas.translate(0, figure.height)
    for shape in figure.shapes:
        _draw(canvas, shape)
    canvas.showPage()
    canvas.save()
    return out.getvalue()


def _draw(canvas: Any, shape: Shape) -> None:
    colour = LIGHT[shape.role]
    canvas.setStrokeColor(colour)
    canvas.setFillColor(colour)
    match shape:
        case Line():
            _set_stroke(canvas, shape.width, shape.dash)
            canvas.line(shape.x1, -shape.y1, shape.x2, -shape.y2)
        case Path():
            _set_stroke(canvas, shape.width, shape.dash)
            path = canvas.beginPath()
            for number, (x, y) in enumerate(shape.points):
                (path.lineTo if number else path.moveTo)(x, -y)
            canvas.drawPath(path, stroke=1, fill=0)
        case Rect():
            canvas.setFillAlpha(shape.share)
            bottom = -shape.y - shape.height
            canvas.rect(shape.x, bottom, shape.width, shape.height, stroke=0, fill=1)
            canvas.setFillAlpha(1)
        case Circle():
            canvas.circle(shape.x, -shape.y, shape.radius, stroke=0, fill=1)
        case Text():
            face = BOLD if shape.bold else FACE
            canvas.setFont(face, shape.size * PDF_TEXT_SIZE)
            write = {
                "start": canvas.drawString,
                "middle": canvas.drawCentredString,
                "end": canvas.drawRightString,
            }[shape.anchor]
            write(shape.x, -shape.y, _replace_unknown(shape.text))


def _set_stroke(canvas: Any, width: float, dash: str) -> None:
    canvas.setLineWidth(width)
    canvas.setDash([float(part) for part in dash.split()] if dash else [])


def _register_fonts() -> None:
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    known = pdfmetrics.getRegisteredFontNames()
    for face in (FACE, BOLD):
        if face not in known:
            pdfmetrics.registerFont(TTFont(face, f"{face}.ttf"))


def _remove_surrogates(text: str) -> str:
    """Return the text without lone surrogates, which a model can write."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _replace_unknown(text: str) -> str:
    from reportlab.pdfbase import pdfmetrics

    glyphs = pdfmetrics.getFont(FACE).face.charToGlyph
    return "".join(char if ord(char) in glyphs else "?" for char in text)
