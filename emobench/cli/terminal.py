"""What the commands print with: text of models that cannot act on a terminal, and fits it."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

STYLES = {
    "bold": "1",
    "dim": "2",
    "user": "1;36",
    "assistant": "1;32",
    "call": "33",
    "write": "1;33",
    "error": "1;31",
    "good": "32",
    "mark": "1;35",
}
Line = tuple[tuple[str, str], ...]
"""(style, text) pieces of one line; the style may be empty."""

_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters, what reverses or hides text, line separators, halves of a character."""


def typed_path(path: Path | str) -> str:
    """Return a path as a person would type it here."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def visible(text: str) -> str:
    """The text with every character that acts or hides written out; line breaks stay.

    >>> visible("a\\x1b[2J\\r\\nb")
    'a\\\\x1b[2J\\nb'
    """
    return _UNSAFE.sub(_written, text.replace("\r\n", "\n").replace("\t", "    "))


def flat(text: str) -> str:
    """Visible text on one line."""
    return " ".join(visible(text).split())


def width(text: str) -> int:
    """Columns that a visible text takes."""
    return len(text) if text.isascii() else sum(_columns(char) for char in text)


def cut(text: str, columns: int) -> str:
    """The text in at most so many columns, with ... where some is left out."""
    if len(text) <= columns and width(text) <= columns:
        return text
    room, kept = columns - 3, []
    if room < 0:
        return "." * columns
    for char in text[: columns + 1]:
        room -= _columns(char)
        if room < 0:
            break
        kept.append(char)
    return "".join(kept).rstrip() + "..."


def pad(text: str, columns: int) -> str:
    return text + " " * max(0, columns - width(text))


def wrap(text: str, columns: int) -> list[str]:
    """Visible text in lines of at most `columns`, broken at spaces where that is possible. What is
    indented stays so."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        bare = paragraph.strip()
        indent = " " * min(len(paragraph) - len(paragraph.lstrip()), columns // 4) if bare else ""
        lines += [indent + line for line in _wrap_line(bare, max(2, columns - len(indent)))]
    return lines


def paint(line: Line, color: bool) -> str:
    """The line as it is printed."""
    if not color:
        return "".join(text for _, text in line).rstrip()
    return "".join(
        f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style and text else text for style, text in line
    ).rstrip()


def line_width(line: Line) -> int:
    return sum(width(text) for _, text in line)


def _wrap_line(text: str, columns: int) -> list[str]:
    if len(text) <= columns and width(text) <= columns:
        return [text]
    lines: list[str] = []
    current, used = "", 0
    for word in re.findall(r"\s*\S+", text):
        size = width(word)
        if used + size <= columns:
            current, used = current + word, used + size
            continue
        if current.strip():
            lines.append(current)
        word = word.lstrip()
        *whole, current = _pieces(word, columns)
        lines += whole
        used = width(current)
    return [*lines, current]


def _pieces(word: str, columns: int) -> list[str]:
    """A word in pieces that fit."""
    if word.isascii():
        return [word[start : start + columns] for start in range(0, len(word), columns)] or [""]
    pieces, current, used = [], "", 0
    for char in word:
        size = _columns(char)
        if used + size > columns:
            pieces.append(current)
            current, used = "", 0
        current, used = current + char, used + size
    return [*pieces, current]


def _written(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@lru_cache(maxsize=4096)
def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
