"""The results of the statistics: plain frozen records that say what they are.

Every number is a float or None. Where one is None, `reason` says why; `notes` mark results that
hold less well than the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from emobench.core.wording import pluralise

FEW = 10
"""Tasks, or tasks with an event, below which a result is marked (docs/statistics.md)."""
FEW_TASKS = f"fewer than {FEW} tasks"
FEW_FAILURES = f"fewer than {FEW} tasks with a failure"
FEW_SUCCESSES = f"fewer than {FEW} tasks with a success"
FEW_DIFFER = f"fewer than {FEW} tasks differ"

FEW_EVENTS = f"fewer than {FEW} events"


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Mean:
    """A mean over episodes or user turns, or the share of those in which something happened."""

    label: str
    value: float | None
    episodes: int
    """Those that the mean is over (turns, for a mean over turns)."""
    missing: int
    """Infrastructure errors, and planned episodes that are not there where the plan is known."""
    tasks: int
    interval: Interval | None
    """95 %: the one to show. Within 0 to 1 Wilson's with the variance clustered by task, else t."""
    t: Interval | None
    """95 %, cluster-robust Student t over tasks; None where it has no width."""
    events: int | None = None
    """How often it happened, for a share; None for other means."""
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def few_events(self) -> bool:
        """Whether a share rests on so few events, or so few others, that it says little."""
        return FEW_EVENTS in self.notes


@dataclass(frozen=True)
class PassK:
    """Mean over tasks of C(c,k)/C(n,k)."""

    label: str
    k: int
    value: float | None
    tasks: int
    """Tasks with at least k scored trials."""
    of: int
    """Tasks with at least one."""
    interval: Interval | None
    """95 %, Wilson's with the variance between tasks: the one to show."""
    bootstrap: Interval | None
    """95 %, resampling tasks (symmetric bootstrap-t)."""
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A mean over tasks of (one side minus the other), each task counting once."""

    label: str
    value: float | None
    tasks: int
    """Tasks with a value on both sides."""
    left_out: int
    """Tasks with a value on one side only."""
    t: Interval | None
    """95 %, Student t over tasks: the one to show."""
    bootstrap: Interval | None
    """95 %, resampling tasks (symmetric bootstrap-t); None where it was not asked for."""
    p_t: float | None
    """Two-sided, Student t; None where tests were not asked for, as the other p-values."""
    p_permutation: float | None
    """Two-sided, from flipping the signs of the tasks' differences."""
    permutation: str
    """'exact, 1024 sign flips' or '9999 random sign flips'."""
    p_adjusted: float | None = None
    adjustment: str = ""
    """What p_adjusted is corrected by and over, e.g. 'Holm over 4 variants'."""
    reason: str = ""
    notes: tuple[str, ...] = ()
    error: float | None = None
    """Standard error over tasks; None below two tasks."""

    @property
    def interval(self) -> Interval | None:
        return self.t


Statement = Literal["lower", "higher", "equivalent", "unadjusted", "compatible", "unknown"]
"""An effect by Holm; or, without one: equivalent within the margin; an interval of its own that is
clear of 0, and no claim after adjustment; drops and gains that are compatible; nothing."""


@dataclass(frozen=True)
class Decision:
    """What a family of comparisons lets be said of one of them."""

    statement: Statement
    p_adjusted: float | None
    family: str
    """'Holm over 4 variants'."""
    interval: Interval | None
    """95 % for all of the family at once; clear of 0 exactly where p_adjusted is below 0.05."""
    p_equivalence: float | None
    """Of two one-sided tests at the margin, by Holm over the same family."""
    margin: float
    """Smallest effect of interest, a share of 1."""


@dataclass(frozen=True)
class Sensitivity:
    """The difference under another treatment of missing rewards."""

    label: str
    rule: str
    """'as failure', 'worst case', 'best case' or 'lost first attempts as failures'."""
    value: float | None
    tasks: int
    t: Interval | None
    p_permutation: float | None
    reason: str = ""
    reverses: bool = False
    """Whether it reads otherwise than the main difference, by p before adjustment: a drop, a gain
    or neither."""

    @property
    def interval(self) -> Interval | None:
        return self.t


@dataclass(frozen=True)
class OddsRatio:
    """The model-based check: odds of success, variant over control."""

    label: str
    value: float | None
    interval: Interval | None
    p: float | None
    reason: str = ""


def to_plain(value: Any) -> Any:
    """Return a record as JSON takes it: dicts, lists, numbers without NaN or infinity."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def describe_size(tasks: int, trials: Sequence[int]) -> str:
    """Return '115 tasks x 4 trials', or 'x 2 to 4 trials' where tasks differ in them."""
    counts = [int(count) for count in trials if count]
    text = pluralise(tasks, "task")
    if not counts:
        return text
    low, high = min(counts), max(counts)
    span = f"{low}" if low == high else f"{low} to {high}"
    return f"{text} x {span} trial{'' if high == 1 else 's'}"
