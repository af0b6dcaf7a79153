"""Reasoning markup in a reply: taken out, and never in silence.

A reasoning model behind a server without a (working) reasoning parser sends its monologue as text.
Three forms were seen: a complete block, a block that was cut before its end, and a closing tag
alone, because the opening one is part of the chat template. Litellm takes out the first only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Form = Literal["complete", "unterminated", "closing_only"]

_TAG = re.compile(r"<(/?)(think|thinking)>", re.IGNORECASE)
_CLOSING = re.compile(r"</(?:think|thinking)>", re.IGNORECASE)
_OPENING = re.compile(r"<(?:think|thinking)>", re.IGNORECASE)


@dataclass(frozen=True)
class Sanitized:
    """A text without its reasoning, and what was found in it."""

    text: str
    forms: tuple[Form, ...] = ()

    @property
    def emptied(self) -> bool:
        """The reply was reasoning and nothing else."""
        return bool(self.forms) and not self.text


def sanitize(text: str, form: re.Pattern[str] | None = None) -> Sanitized:
    """Take reasoning blocks out of a reply; text without any comes back as it is.

    `form` is what a reply in a prescribed form begins with: such a reply within a block that was
    never closed is one all the same, as it is to tau-bench's parsers.

    >>> sanitize("<think>hm</think>\\nYes.")
    Sanitized(text='Yes.', forms=('complete',))
    """
    if "think" not in text.lower():
        return Sanitized(text)
    forms: list[Form] = []
    rest = _remove_complete(text)
    if rest != text:
        forms.append("complete")
    # Greedy: whatever precedes the last closing tag belongs to the monologue that it closes.
    *before, last = _CLOSING.split(rest)
    if before:
        forms.append("closing_only")
        rest = last
    opening = _OPENING.search(rest)
    if opening:
        forms.append("unterminated")
        begun = form.search(rest, opening.end()) if form else None
        rest = rest[: opening.start()] + (rest[begun.start() :] if begun else "")
    return Sanitized(rest.strip(), tuple(forms)) if forms else Sanitized(text)


def _remove_complete(text: str) -> str:
    """Return the text without its complete blocks, each up to the first closing tag of its own
    name.

    Takes time in proportion to the text: a pattern for a whole block would search the rest of the
    text at each opening tag.
    """
    tags = [(tag.start(), tag.end(), bool(tag[1]), len(tag[2])) for tag in _TAG.finditer(text)]
    last_closing = {name: start for start, _, closes, name in tags if closes}
    kept: list[str] = []
    place, opened = 0, 0
    for start, end, closes, name in tags:
        if opened:
            if closes and name == opened:
                place, opened = end, 0
        elif not closes and last_closing.get(name, -1) > start:
            kept.append(text[place:start])
            opened = name
    return "".join([*kept, text[place:]])
