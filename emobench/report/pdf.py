"""Figures as PDF, drawn with reportlab (pure Python; the extra `emobench[pdf]`)."""

from __future__ import annotations

import io
from typing import Any

from emobench.report.scene import LIGHT, Circle, Figure, Line, Path, Rect, Shape, Text

SCALE = 0.75
"""Points of a pixel."""
FACE, BOLD = "Vera", "VeraBd"
TEXT = 0.88
"""The embedded face is wider than those of browsers."""


def available() -> bool:
    """Whether reportlab is installed."""
    try:
        import reportlab  # noqa: F401
    except ImportError:
        return False
    return True


def pdf(figure: Figure) -> bytes:
    """One page of the figure's size, its fonts embedded, the same bytes for the same figure.

    Characters that the face lacks are written as '?'. Raises ImportError without reportlab.
    """
    from reportlab.pdfgen.canvas import Canvas

    _register()
    out = io.BytesIO()
    size = (figure.width * SCALE, figure.height * SCALE)
    canvas = Canvas(out, pagesize=size, invariant=1)
    canvas.setTitle(_encodable(figure.title))
    canvas.setSubject(_encodable(figure.description[:2000]))
    canvas.setCreator("emobench")
    # reportlab's y grows upwards.
    canvas.scale(SCALE, SCALE)
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
            _stroke(canvas, shape.width, shape.dash)
            canvas.line(shape.x1, -shape.y1, shape.x2, -shape.y2)
        case Path():
            _stroke(canvas, shape.width, shape.dash)
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
            canvas.setFont(face, shape.size * TEXT)
            write = {
                "start": canvas.drawString,
                "middle": canvas.drawCentredString,
                "end": canvas.drawRightString,
            }[shape.anchor]
            write(shape.x, -shape.y, _known(shape.text))


def _stroke(canvas: Any, width: float, dash: str) -> None:
    canvas.setLineWidth(width)
    canvas.setDash([float(part) for part in dash.split()] if dash else [])


def _register() -> None:
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    known = pdfmetrics.getRegisteredFontNames()
    for face in (FACE, BOLD):
        if face not in known:
            pdfmetrics.registerFont(TTFont(face, f"{face}.ttf"))


def _encodable(text: str) -> str:
    """Without lone surrogates, which a model can write."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _known(text: str) -> str:
    from reportlab.pdfbase import pdfmetrics

    glyphs = pdfmetrics.getFont(FACE).face.charToGlyph
    return "".join(char if ord(char) in glyphs else "?" for char in text)
