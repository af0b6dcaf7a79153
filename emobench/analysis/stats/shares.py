"""Shares with intervals clustered by task, and differences from control paired by task.

The unit is the task, as everywhere: conversations (and turns) of one task are alike, and an
interval that took them for independent would be too narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

from emobench.analysis.stats.student import t_quantile

Sample = Sequence[tuple[int, float]]
"""(task, value) of each conversation or turn."""
FEW = 5
"""Events below which a rate is marked: its interval says little."""


@dataclass(frozen=True)
class Measure:
    """A mean over conversations or turns."""

    label: str
    value: float | None
    """None without any."""
    low: float | None
    high: float | None
    """95 %, clustered by task; None below two tasks, or where nothing varies."""
    n: int
    tasks: int
    events: int | None
    """How often it happened, for a share of yes or no; None for other means."""
    few_events: bool = False
    """So few happened, or failed to, that the interval says little."""


@dataclass(frozen=True)
class Paired:
    """A difference from control: the mean over tasks of (mean in the variant - in control)."""

    label: str
    value: float | None
    """None without a task that both have."""
    low: float | None
    high: float | None
    """95 %, Student's t over tasks; None below two tasks, or where nothing varies."""
    tasks: int

    @classmethod
    def of(cls, treated: Sample, control: Sample, what: str, variant: str) -> Paired:
        """`what` names the measure, `variant` what is compared with control."""
        reference = _means(control)
        values = [
            mean - reference[task] for task, mean in _means(treated).items() if task in reference
        ]
        label = (
            f"difference in {what}, {variant} minus control, {len(values)} tasks, 95 % interval "
            "paired by task"
        )
        if not values:
            return cls(label, None, None, None, 0)
        mean = sum(values) / len(values)
        spread = sum((value - mean) ** 2 for value in values)
        if len(values) < 2 or spread <= 1e-12:
            return cls(label, mean, None, None, len(values))
        error = sqrt(spread / (len(values) - 1) / len(values)) * t_quantile(len(values) - 1)
        return cls(label, mean, mean - error, mean + error, len(values))


def measure(sample: Sample, label: str) -> Measure:
    """Mean and interval; a share's ends stay within 0 and 1. `label` says what is measured.

    Variance of the mean: G/(G-1) * sum over tasks of (sum of residuals)^2 / N^2, df = G-1, as for
    the mean reward.
    """
    n = len(sample)
    if not n:
        return Measure(label, None, None, None, 0, 0, None)
    values = [value for _, value in sample]
    share = all(value in (0.0, 1.0) for value in values)
    mean = sum(values) / n
    residuals: dict[int, float] = {}
    for task, value in sample:
        residuals[task] = residuals.get(task, 0.0) + value - mean
    groups = len(residuals)
    label = f"{label}, {n} of {groups} tasks, 95 % interval clustered by task"
    events = round(sum(values)) if share else None
    few = events is not None and min(events, n - events) < FEW
    square = sum(each * each for each in residuals.values())
    if groups < 2 or square <= 1e-12:
        return Measure(label, mean, None, None, n, groups, events, few)
    error = sqrt(groups / (groups - 1) * square) / n * t_quantile(groups - 1)
    low, high = mean - error, mean + error
    if all(0 <= value <= 1 for value in values):
        low, high = max(0.0, low), min(1.0, high)
    return Measure(label, mean, low, high, n, groups, events, few)


def _means(sample: Iterable[tuple[int, float]]) -> dict[int, float]:
    sums: dict[int, list[float]] = {}
    for task, value in sample:
        total = sums.setdefault(task, [0.0, 0.0])
        total[0] += value
        total[1] += 1
    return {task: total / count for task, (total, count) in sums.items()}
