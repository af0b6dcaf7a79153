"""How numbers are written: rounded for people, with a minus sign in print."""

from __future__ import annotations

from datetime import UTC, datetime

from emobench.analysis.stats.estimates import Decision, Difference, Interval, Mean, PassK

MINUS = "\u2212"
DASH = "\u2013"
DAGGER = "\u2020"


def format_number(value: float | None, digits: int | None = 2) -> str:
    """Return 0.83, or a dash where it is undefined. Without `digits` it has about three figures:
    0.42, 12.3, 1,234."""
    if value is None:
        return DASH
    return _format(value, "", digits).replace("-", MINUS)


def format_change(value: float | None, digits: int | None = 2) -> str:
    """Return +0.08, 0.00 or a minus sign in print; a dash where it is undefined."""
    if value is None:
        return DASH
    text = _format(value, "+", digits)
    return text.replace("-", MINUS) if text.strip("+-0.,") else text[1:]


def format_interval(
    interval: Interval | None,
    digits: int | None = 2,
    *,
    change: bool = False,
    scale: float = 1.0,
) -> str:
    """Return [0.41, 0.96], or an empty string; with `change` the ends have signs."""
    if interval is None:
        return ""
    write = format_change if change else format_number
    return f"[{write(scale * interval.low, digits)}, {write(scale * interval.high, digits)}]"


def format_mean(found: Mean | PassK) -> str:
    """Return '0.83 [0.41, 0.96]'."""
    return f"{format_number(found.value)} {format_interval(found.interval)}".strip()


def format_difference(found: Difference, digits: int | None = 2, *, scale: float = 1.0) -> str:
    """Return '+0.08 [-0.12, 0.28]'."""
    value = None if found.value is None else scale * found.value
    interval = format_interval(found.interval, digits, change=True, scale=scale)
    return f"{format_change(value, digits)} {interval}".strip()


def _format(value: float, sign: str, digits: int | None) -> str:
    if digits is not None:
        return f"{value:{sign}.{digits}f}"
    size = abs(value)
    return f"{value:{sign},.{2 if size < 10 else 1 if size < 100 else 0}f}"


def format_p(p: float | None) -> str:
    """Return 0.034, or < 0.001; a dash where it is undefined."""
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def format_p_phrase(p: float | None) -> str:
    """Return 'p = 0.034', 'p < 0.001' or an empty string."""
    text = format_p(p)
    return "" if p is None else f"p {text}" if text.startswith("<") else f"p = {text}"


def format_percent(share: float | None) -> str:
    """Return 83 %, or a dash where it is undefined."""
    return DASH if share is None else f"{100 * share:.0f} %"


def format_points(share: float | None) -> str:
    """Return a share as points of a hundred: 11.8."""
    return DASH if share is None else f"{round(100 * share, 1):g}"


def describe_decision(found: Difference, decision: Decision, other: str) -> str:
    """Return what a comparison with `other` lets be said: 'lower than control', 'equivalent to
    control within 10 points' or 'compatible with drops up to 4.2 and gains up to 3 points'."""
    if decision.statement in ("lower", "higher"):
        return f"{decision.statement} than {other}"
    if decision.statement == "equivalent":
        return f"equivalent to {other} within {format_points(decision.margin)} points"
    if decision.interval is None:
        return found.reason or "nothing can be said"
    ends = (("drops", -decision.interval.low), ("gains", decision.interval.high))
    spans = [f"{what} up to {format_points(end)}" for what, end in ends if end > 0]
    said = f"compatible with {' and '.join(spans)} points"
    if decision.statement == "unadjusted":
        return f"clear of 0 by its own interval, though not after adjustment: {said}"
    return said


def join_words(words: list[str]) -> str:
    """Return 'a', 'a and b', 'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def format_time(stamp: str) -> str:
    """Return an ISO time as 2026-11-20 09:00:00 UTC; as it is where it is none."""
    try:
        time = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    if time.tzinfo is None:
        return stamp
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
