"""Times as they stand in files: ISO 8601, UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def iso(moment: float) -> str:
    """A moment in seconds since the epoch as it stands in files, to the millisecond."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def now() -> str:
    """This moment as it stands in files."""
    return iso(time.time())


def seconds(text: object) -> float | None:
    """A time of our files in seconds since the epoch; None where it is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def age_s(text: object) -> float:
    """Seconds since then; infinite where it is no time."""
    moment = seconds(text)
    return float("inf") if moment is None else time.time() - moment
