"""The page's one script and one style, put together from their parts."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
SCRIPTS = ("library", "text", "compare", "filters", "list", "related", "pane", "main")
"""In the order in which they are run: a later part uses what an earlier one names."""
STYLES = ("report.css", "figures.css", "browser.css")


def script() -> str:
    """One function, so that no name of it is global."""
    parts = "\n".join(_read(f"browser/{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def style() -> str:
    return "\n".join(_read(name) for name in STYLES)


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
