"""A figure as a list of shapes: drawn as SVG on the page, as SVG and PDF in the exports.

Lengths are pixels; y grows downwards. Colours are roles, so that the page can show them light and
dark and a file has them fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

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


def series(variants: list[str], control: str) -> dict[str, str]:
    """A role for each variant's lines."""
    others = [name for name in variants if name != control]
    roles = {name: f"s{place % SERIES + 1}" for place, name in enumerate(others)}
    return {name: "control" if name == control else roles[name] for name in variants}
