"""Tables, colours and wrapped text of the commands; `core.output` prints them.

rich is imported by what needs it: most commands answer without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from emobench.core.output import flatten, make_visible, quote_words, say

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

STYLES = {
    "user": "bold cyan",
    "assistant": "bold green",
    "call": "yellow",
    "write": "bold yellow",
    "error": "bold red",
    "good": "green",
    "warn": "yellow",
    "mark": "bold magenta",
}
WIDEST = 100_000
"""Columns of what is not cut."""
GAP, ELASTIC = 2, 12
"""Columns between those of a table, and what is left of one that gives way to the others."""
Line = tuple[tuple[str, str], ...]
"""(style, text) pieces of one line; the style may be empty."""


def shorten_path(path: Path | str) -> str:
    """Return a path as a person would name it here."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def quote_path(path: Path | str) -> str:
    """Return a path as a person would type it in a command here."""
    return quote_words([shorten_path(path)])


def format_moment(iso: str) -> str:
    """Return the local time of a moment; with its day where that is not today."""
    moment = datetime.fromisoformat(iso).astimezone()
    today = moment.date() == datetime.now().date()
    return moment.strftime("%H:%M" if today else "%a %d %b, %H:%M")


def measure_width(text: str) -> int:
    """Return how many columns a visible text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, columns: int) -> str:
    """Return the text in at most so many columns, with ... where some is left out."""
    from rich.cells import set_cell_size

    if len(text) <= columns and measure_width(text) <= columns:
        return text
    return set_cell_size(text, columns - 3).rstrip() + "..." if columns >= 3 else "." * columns


def wrap(text: str, columns: int) -> list[str]:
    """Return visible text in lines of at most `columns`, broken at spaces where that is possible.
    What is indented stays so."""
    from rich.text import Text

    screen = _make_unused_console()
    lines: list[str] = []
    for paragraph in text.split("\n"):
        bare = paragraph.strip()
        indent = " " * min(len(paragraph) - len(paragraph.lstrip()), columns // 4) if bare else ""
        parts = Text(bare).wrap(screen, max(2, columns - len(indent)))
        lines += [(indent + part.plain).rstrip() for part in parts] or [""]
    return lines


def measure_line(line: Line) -> int:
    return sum(measure_width(text) for _, text in line)


def uses_colour(file: TextIO | None = None) -> bool:
    """Return whether it is a terminal, and nothing speaks against colour."""
    terminal = (file or sys.stdout).isatty()
    return terminal and not os.environ.get("NO_COLOR") and not is_dumb()


def is_dumb() -> bool:
    """Return whether the terminal can only append."""
    return os.environ.get("TERM", "dumb") in ("dumb", "unknown")


def make_console(file: TextIO | None = None, columns: int | None = None) -> Console:
    """Return rich's console for this process's output, or for plain text in a file.

    No text is markup in it.
    """
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment
    from rich.theme import Theme

    class Visible(Console):
        """What a table or text was given that is not visible is made so as it is printed."""

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for part in super().render(renderable, options):
                yield part if part.control else Segment(make_visible(part.text), part.style)

    return Visible(
        file=file,
        width=columns,
        color_system="auto" if file is None and uses_colour() else None,
        force_terminal=None if file is None else False,
        theme=Theme(STYLES),
        markup=False,
        emoji=False,
        highlight=False,
    )


def make_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    left: int = 1,
    *,
    elastic: int = 0,
    one_line: bool = False,
) -> Table:
    """Return a table without rules: the first `left` columns are words, the others figures.

    A cell is text, which is made visible here, or a pair of a style and text. In a narrow window
    the cells of the `elastic` column are folded, or with `one_line` cut.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    for number, head in enumerate(heads):
        made.add_column(
            flatten(head),
            justify="left" if number < left else "right",
            overflow="crop" if one_line else "fold",
            no_wrap=number != elastic,
        )
    widths = list(map(measure_width, heads))
    for row in rows:
        pairs = [cell if isinstance(cell, tuple) else ("", cell) for cell in row]
        cells = [
            Text(_flatten_cell(str(text)), style, no_wrap=one_line or None) for style, text in pairs
        ]
        widths = [max(pair) for pair in zip(widths, (cell.cell_len for cell in cells), strict=True)]
        made.add_row(*cells)
    # Figures are never cut: in a window that is narrower the terminal breaks the lines.
    widths[elastic] = min(widths[elastic], ELASTIC)
    made.min_width = sum(widths) + GAP * (len(widths) - 1)
    return made


def _flatten_cell(text: str) -> str:
    """Return visible text on one line, with its indent."""
    return " " * (len(text) - len(text.lstrip(" "))) + flatten(text)


def show(*parts: RenderableType) -> None:
    """Print texts and tables; a string is made visible here, and lines in a pipe are not broken."""
    screen = make_console()
    if screen.color_system is None:
        say(render_plain(*parts, columns=screen.width if screen.is_terminal else None))
    else:
        window = screen.width
        for part in parts:
            screen.width = max(window, getattr(part, "min_width", None) or 0)
            screen.print(make_visible(part) if isinstance(part, str) else part)
    sys.stdout.flush()  # a reader that went away is noticed here, and not at the exit


def show_lines(lines: Iterable[Line]) -> None:
    """Print lines whose text is visible already, each as it comes."""
    from rich.text import Text

    screen = make_console()
    for line in lines:
        if screen.color_system is None:
            say("".join(text for _, text in line).rstrip())
        else:
            screen.print(Text.assemble(*((text, style) for style, text in line)), soft_wrap=True)
    sys.stdout.flush()


def render_plain(*parts: RenderableType, columns: int | None = None) -> str:
    """Return the same without styles; without `columns` a table is as wide as it needs."""
    made = StringIO()
    for part in parts:
        screen = make_console(made, max(columns or WIDEST, getattr(part, "min_width", None) or 0))
        if columns is None:
            screen.width = max(1, screen.measure(part).maximum)
        screen.print(make_visible(part) if isinstance(part, str) else part)
    return "\n".join(line.rstrip() for line in made.getvalue().splitlines())


@cache
def _make_unused_console() -> Console:
    """Return a console for what asks for one and prints nothing."""
    return make_console(StringIO(), WIDEST)
