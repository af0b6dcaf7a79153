"""Numbers in a sentence."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """Return the count with its noun.

    >>> plural(1, "task"), plural(1200, "task")
    ('1 task', '1,200 tasks')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
