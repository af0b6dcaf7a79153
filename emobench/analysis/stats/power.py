"""How small a drop a design can detect, in closed form: no table and no heavy import.

The model. A task's chance of success p is Beta distributed with the mean and second moment of
published pass^1 and pass^2 (pass^2 is E[p^2]); a variant takes the same share of every task's
chance, q = (1 - r) p, so that the drop is r E[p]. A task's difference of mean rewards then has the
variance

    (E[p(1-p)] + E[q(1-q)]) / trials + r^2 Var(p)

and a paired t test over G tasks detects the drop with the wanted power where drop / sqrt(variance
/ G) = t(1 - alpha/2; G-1) + t(power; G-1). That is a quadratic in r. Simulation gives 78 to 81 %
for the drops that this calls 80 % (docs/statistics.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from emobench.analysis.stats.student import t_quantile
from emobench.core.outcomes import CONTROL, Group
from emobench.core.sweep import Cell

ALPHA = 0.05
POWER = 0.8
SMALLEST_EFFECT = 0.1
"""Drop in mean reward that a sweep should be able to see where it declares none."""
MOST_TRIALS = 1000
MOST_TASKS = 10_000


@dataclass(frozen=True)
class Difficulty:
    """How hard an environment's tasks are: the first two moments of their chance of success."""

    pass_1: float
    pass_2: float
    source: str

    @property
    def within(self) -> float:
        """E[p(1-p)], the variance of one trial of a given task."""
        return max(self.pass_1 - self.pass_2, 0.0)

    @property
    def between(self) -> float:
        """Var(p), the variance between tasks."""
        return max(self.pass_2 - self.pass_1**2, 0.0)


PUBLISHED: Mapping[str, Difficulty] = {
    "airline": Difficulty(0.420, 0.273, "published gpt-4o, tau-bench"),
    "retail": Difficulty(0.604, 0.491, "published gpt-4o, tau-bench"),
}
"""pass^1 and pass^2 of gpt-4o with tool calling, from tau-bench's README."""


@dataclass(frozen=True)
class Design:
    """One group of a sweep: variants compared with control on the same tasks."""

    env: str
    agent_strategy: str
    assistant: str
    tasks: int
    trials: int
    """Of each task under each variant; the least where variants differ in it."""
    variants: int
    """Compared with control; Holm's first step divides alpha by it."""

    @property
    def group(self) -> Group:
        return Group(self.env, self.agent_strategy, self.assistant)


@dataclass(frozen=True)
class DesignPower:
    """What one design can see."""

    design: Design
    difficulty: Difficulty
    alpha: float
    """Of Holm's first step: that of the study by the number of variants."""
    power: float
    smallest: float | None
    """Smallest detectable drop in mean reward; None where even the whole mean is too little."""
    wanted: float
    """The smallest effect of interest."""
    trials_needed: int | None
    """For the wanted drop on these tasks; None where no number of trials is enough."""
    tasks_needed: int | None
    """For the wanted drop with these trials; None where no number of tasks is enough."""

    @property
    def enough(self) -> bool:
        return self.smallest is not None and self.smallest <= self.wanted + 1e-12


@dataclass(frozen=True)
class PowerVerdict:
    """The power gate: whether the planned sweep can see the smallest effect of interest."""

    passed: bool
    wanted: float
    """The smallest effect of interest."""
    alpha: float
    power: float
    designs: tuple[DesignPower, ...]
    without_contrast: tuple[str, ...]
    """Groups with no control or nothing to compare with it."""


def critical_ratio(tasks: int, alpha: float, power: float) -> float:
    """Return standard errors that a detectable difference spans. Raises ValueError unless tasks >
    1, 0 < alpha < 1 and 0.5 < power < 1."""
    if not 0.5 < power < 1:
        raise ValueError(f"power lies between 0.5 and 1, not at {power}")
    return t_quantile(tasks - 1, 1 - alpha) + t_quantile(tasks - 1, 2 * power - 1)


def variance(difficulty: Difficulty, drop: float, trials: float) -> float:
    """Return the variance of one task's difference of mean rewards."""
    share = drop / difficulty.pass_1
    left = 1 - share
    treated = left * difficulty.pass_1 - left**2 * difficulty.pass_2
    return (difficulty.within + treated) / trials + share**2 * difficulty.between


def solve_drop(
    difficulty: Difficulty, tasks: int, trials: int, *, alpha: float = ALPHA, power: float = POWER
) -> float | None:
    """Return the smallest drop in mean reward found with this power, two-sided; None where there is
    none up to the whole mean, or below two tasks or one trial."""
    mean = difficulty.pass_1
    if tasks < 2 or trials < 1 or not mean > 0:
        return None
    squared = critical_ratio(tasks, alpha, power) ** 2
    # share^2 a + share b + c = 0 with share = drop / mean.
    a = mean**2 * tasks / squared - difficulty.between + difficulty.pass_2 / trials
    b = (mean - 2 * difficulty.pass_2) / trials
    c = -2 * difficulty.within / trials
    if a <= 0:
        return None
    share = (-b + sqrt(b * b - 4 * a * c)) / (2 * a)
    return share * mean if share <= 1 else None


def solve_trials(
    difficulty: Difficulty, tasks: int, drop: float, *, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Return trials of each task that make `drop` detectable; None where none up to 1000 do."""
    if tasks < 2 or not 0 < drop <= difficulty.pass_1:
        return None
    room = tasks * (drop / critical_ratio(tasks, alpha, power)) ** 2
    lasting = (drop / difficulty.pass_1) ** 2 * difficulty.between
    if room <= lasting:
        return None
    trials = max(1, ceil((variance(difficulty, drop, 1) - lasting) / (room - lasting) - 1e-9))
    return trials if trials <= MOST_TRIALS else None


def solve_tasks(
    difficulty: Difficulty, trials: int, drop: float, *, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Return tasks that make `drop` detectable with these trials; None where none up to 10 000
    do."""
    if trials < 1 or not 0 < drop <= difficulty.pass_1:
        return None
    spread = variance(difficulty, drop, trials)

    def detects(tasks: int) -> bool:
        return drop >= critical_ratio(tasks, alpha, power) * sqrt(spread / tasks)

    low, high = 1, 2
    while not detects(high):
        if high == MOST_TASKS:
            return None
        low, high = high, min(2 * high, MOST_TASKS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detects(middle) else (middle, high)
    return high


def group_designs(cells: Iterable[Cell]) -> tuple[list[Design], list[str]]:
    """Return the groups of these cells that compare something with control, and the titles of
    others."""
    groups: dict[Group, dict[str, Counter[tuple[int, ...]]]] = {}
    for cell in cells:
        group = groups.setdefault(cell.group, {})
        group.setdefault(cell.variant, Counter())[cell.tasks] += 1
    found, without = [], []
    for key, group in groups.items():
        variants = [name for name in group if name != CONTROL]
        if CONTROL not in group or not variants:
            without.append("/".join(key))
            continue
        trials_of = [_count_trials_by_task(sets) for sets in group.values()]
        tasks = min(len(counts) for counts in trials_of)
        trials = min(min(counts.values(), default=0) for counts in trials_of)
        found.append(Design(*key, tasks=tasks, trials=trials, variants=len(variants)))
    return found, without


def _count_trials_by_task(sets: Mapping[tuple[int, ...], int]) -> Counter[int]:
    """Return trials of each task, from how many cells have each set of tasks."""
    trials: Counter[int] = Counter()
    for tasks, cells in sets.items():
        for task in tasks:
            trials[task] += cells
    return trials


def assess_design(
    design: Design,
    difficulty: Difficulty,
    wanted: float,
    *,
    alpha: float = ALPHA,
    power: float = POWER,
) -> DesignPower:
    """Return what a design can see, and what the wanted drop takes, at Holm's first step."""
    first = alpha / design.variants
    return DesignPower(
        design,
        difficulty,
        first,
        power,
        solve_drop(difficulty, design.tasks, design.trials, alpha=first, power=power),
        wanted,
        solve_trials(difficulty, design.tasks, wanted, alpha=first, power=power),
        solve_tasks(difficulty, design.trials, wanted, alpha=first, power=power),
    )


def judge_power(
    cells: Sequence[Cell],
    smallest_effect: float = SMALLEST_EFFECT,
    *,
    alpha: float = ALPHA,
    power: float = POWER,
    difficulties: Mapping[Group, Difficulty] | None = None,
) -> PowerVerdict:
    """Return the power gate of a planned sweep.

    `smallest_effect` is the smallest drop of interest, which the sweep declares under `gates`.
    `difficulties`, by (env, agent strategy, assistant), come from pilot data; the published ones
    stand in for groups without. A sweep that compares nothing does not pass.
    """
    planned, without = group_designs(cells)
    known = difficulties or {}
    found = tuple(
        assess_design(
            design,
            known.get(design.group) or PUBLISHED[design.env],
            smallest_effect,
            alpha=alpha,
            power=power,
        )
        for design in planned
    )
    passed = bool(found) and all(each.enough for each in found)
    return PowerVerdict(passed, smallest_effect, alpha, power, found, tuple(without))
