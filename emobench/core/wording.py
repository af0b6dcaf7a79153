"""Numbers in a sentence."""

from __future__ import annotations


def pluralise(count: float, noun: str) -> str:
    """Return the count with its noun.

    >>> pluralise(1, "task"), pluralise(1200, "task"), pluralise(2.5, "minute")
    ('1 task', '1,200 tasks', '2.5 minutes')
    """
    number = f"{count:g}" if isinstance(count, float) else f"{count:,}"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"
