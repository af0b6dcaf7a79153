"""Times as they stand in files: ISO 8601, UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def to_iso(moment: float) -> str:
    """Return a moment in seconds since the epoch as it stands in files, to the millisecond."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def now() -> str:
    """Return this moment as it stands in files."""
    return to_iso(time.time())


def to_seconds(text: object) -> float | None:
    """Return a time of our files in seconds since the epoch; None where it is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def compute_age_s(text: object) -> float:
    """Return seconds since then; infinite where it is no time."""
    moment = to_seconds(text)
    return float("inf") if moment is None else time.time() - moment
