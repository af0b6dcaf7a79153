"""All that a process prints goes through here: what it was told cannot act on a terminal or in a
log that somebody follows.

Endpoints, models, plans and logs of others hold what they like: escape sequences, a carriage
return that hides the line before it, characters that reverse or hide text.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import threading
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import TextIO

_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters, what reverses or hides text, line separators, halves of a character."""


def make_visible(text: str) -> str:
    """Return the text with every character that acts or hides written out; line breaks stay.

    >>> make_visible("a\\x1b[2J\\r\\nb")
    'a\\\\x1b[2J\\nb'
    """
    return _UNSAFE.sub(_write_out, text.replace("\r\n", "\n").replace("\t", "    "))


def flatten(text: str) -> str:
    """Return visible text on one line."""
    return " ".join(make_visible(text).split())


def quote_words(words: Iterable[object]) -> str:
    """Return words as a shell reads them, safe to print and to paste.

    >>> quote_words(["a b", "\\x1b[2J"])
    "'a b' $'\\\\x1b[2J'"
    """
    return " ".join(_quote_word(str(word)) for word in words)


def say(text: object = "", *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print a text, made visible, to stdout or to `file`."""
    print(make_visible(str(text)), end=end, file=file or sys.stdout, flush=True)


def warn(text: object) -> None:
    """Print a remark to stderr."""
    say(f"emobench: {text}", file=sys.stderr)


def say_json(value: object, indent: int | None = None) -> None:
    """Print a value as JSON in ASCII; what JSON does not know becomes text."""
    # DEL is the one character of ASCII that JSON leaves as it is and a terminal does not show.
    say(json.dumps(value, indent=indent, default=str).replace("\x7f", "\\u007f"))


def overwrite(text: str) -> None:
    """Print over the last line of stderr."""
    print(f"\r{flatten(text)}", end="", file=sys.stderr, flush=True)


def print_tracebacks_visibly() -> None:
    """Have errors that nobody catches printed as `say` would."""

    def show(
        kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
    ) -> None:
        say("".join(traceback.format_exception(kind, error, trace)), end="", file=sys.stderr)

    sys.excepthook = show
    threading.excepthook = lambda failed: show(
        failed.exc_type, failed.exc_value, failed.exc_traceback
    )


def _write_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _quote_word(word: str) -> str:
    if not _UNSAFE.search(word) and "\n" not in word:
        return shlex.quote(word)
    written = "".join(
        "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
        if char in "\n'\\" or _UNSAFE.match(char)
        else char
        for char in word
    )
    return f"$'{written}'"
