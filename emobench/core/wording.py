"""Numbers and durations in a sentence."""

from __future__ import annotations


def pluralise(count: float, noun: str) -> str:
    """Return the count with its noun.

    >>> pluralise(1, "task"), pluralise(1200, "task"), pluralise(2.5, "minute")
    ('1 task', '1,200 tasks', '2.5 minutes')
    """
    number = f"{count:g}" if isinstance(count, float) else f"{count:,}"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


def format_duration(seconds: float) -> str:
    """Return a duration as 40 s, 12 min, 2 h 05 min, 3 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def format_about(value: float) -> str:
    """Return a figure that is only roughly known, with three digits that count.

    >>> format_about(71234), format_about(4.567), format_about(0)
    ('71,200', '4.57', '0')
    """
    if abs(value) < 100:
        return f"{value:.3g}"
    return f"{float(f'{value:.3g}'):,.0f}"
