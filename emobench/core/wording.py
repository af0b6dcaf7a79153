"""Numbers in a sentence."""

from __future__ import annotations


def plural(count: float, noun: str) -> str:
    """Return the count with its noun.

    >>> plural(1, "task"), plural(1200, "task"), plural(1.0, "minute"), plural(2.5, "minute")
    ('1 task', '1,200 tasks', '1 minute', '2.5 minutes')
    """
    number = f"{count:g}" if isinstance(count, float) else f"{count:,}"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"
