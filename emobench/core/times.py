"""Times as they stand in files: ISO 8601, UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """This moment, in milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def seconds(iso: object) -> float | None:
    """A time of our files in seconds since the epoch; None where it is none."""
    try:
        return datetime.fromisoformat(str(iso)).timestamp()
    except ValueError:
        return None


def age_s(iso: object) -> float:
    """Seconds since then; infinite where it is no time."""
    moment = seconds(iso)
    return float("inf") if moment is None else datetime.now(UTC).timestamp() - moment
