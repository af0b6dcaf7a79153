"""How checks.json writes a mean and a difference: flat, without what no gate goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import GetPydanticSchema, WrapSerializer

from emobench.analysis.stats.estimates import Difference, Interval, Mean


@dataclass(frozen=True)
class MeanRecord:
    """A mean over conversations or turns."""

    label: str
    value: float | None
    """None without any."""
    low: float | None
    high: float | None
    """95 %, clustered by task; None below two tasks."""
    n: int
    tasks: int
    events: int | None
    """How often it happened, for a share of yes or no; None for other means."""
    few_events: bool
    """So few happened, or failed to, that the interval says little."""


@dataclass(frozen=True)
class DifferenceRecord:
    """A difference from control: the mean over tasks of (mean in the variant - in control)."""

    label: str
    value: float | None
    """None without a task that both have."""
    low: float | None
    high: float | None
    """95 %, Student's t over tasks; None below two tasks, or where nothing varies."""
    tasks: int


def _split_interval(interval: Interval | None) -> tuple[float | None, float | None]:
    return (interval.low, interval.high) if interval else (None, None)


def _to_mean_record(found: Mean) -> MeanRecord:
    low, high = _split_interval(found.interval)
    return MeanRecord(
        label=found.label,
        value=found.value,
        low=low,
        high=high,
        n=found.episodes,
        tasks=found.tasks,
        events=found.events,
        few_events=found.few_events,
    )


def _to_difference_record(found: Difference) -> DifferenceRecord:
    return DifferenceRecord(found.label, found.value, *_split_interval(found.interval), found.tasks)


_WrittenMean = Annotated[
    MeanRecord, WrapSerializer(lambda found, write: write(_to_mean_record(found)))
]
_WrittenDifference = Annotated[
    DifferenceRecord, WrapSerializer(lambda found, write: write(_to_difference_record(found)))
]
CheckedMean = Annotated[Mean, GetPydanticSchema(lambda _, of: of.generate_schema(_WrittenMean))]
CheckedDifference = Annotated[
    Difference, GetPydanticSchema(lambda _, of: of.generate_schema(_WrittenDifference))
]
