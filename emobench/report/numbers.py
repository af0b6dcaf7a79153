"""How numbers are written: rounded for people, with a minus sign in print."""

from __future__ import annotations

from datetime import UTC, datetime

from emobench.analysis.stats.estimates import Interval

MINUS = "\u2212"
DASH = "\u2013"
DAGGER = "\u2020"


def rate(value: float | None) -> str:
    """0.83, or a dash where it is undefined."""
    return DASH if value is None else f"{value:.2f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """+0.08, 0.00 or a minus sign in print; a dash where it is undefined."""
    if value is None:
        return DASH
    text = f"{value:+.{digits}f}"
    return text[1:] if not float(text) else text.replace("-", MINUS)


def bounds(interval: Interval | None, difference: bool = False) -> str:
    """[0.41, 0.96], or an empty string."""
    if interval is None:
        return ""
    write = signed if difference else rate
    return f"[{write(interval.low)}, {write(interval.high)}]"


def p_value(p: float | None) -> str:
    """0.034, or < 0.001; a dash where it is undefined."""
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_phrase(p: float | None) -> str:
    """'p = 0.034', 'p < 0.001' or an empty string."""
    text = p_value(p)
    return "" if p is None else f"p {text}" if text.startswith("<") else f"p = {text}"


def measure(value: float | None) -> str:
    """A mean of anything with three figures: 0.42, 12.3, 1,234."""
    if value is None:
        return DASH
    size = abs(value)
    digits = 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:,.{digits}f}".replace("-", MINUS)


def change(value: float | None) -> str:
    """A difference of such means: +0.42, \u221212.3, 0.00."""
    if value is None:
        return DASH
    size = abs(value)
    digits = 2 if size < 10 else 1 if size < 100 else 0
    text = f"{value:+,.{digits}f}"
    return text[1:] if not text.strip("+-0.,") else text.replace("-", MINUS)


def spread(interval: Interval | None) -> str:
    """The interval of such a difference."""
    return f"[{change(interval.low)}, {change(interval.high)}]" if interval else ""


def percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.0f} %"


def points(share: float | None) -> str:
    """A share as points of a hundred: 11.8."""
    return DASH if share is None else f"{round(100 * share, 1):g}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(words: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def when(stamp: str) -> str:
    """An ISO time as 2026-11-20 09:00:00 UTC; as it is where it is none."""
    try:
        time = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    if time.tzinfo is None:
        return stamp
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
