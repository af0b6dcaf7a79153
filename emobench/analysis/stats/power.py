"""How small a drop a design finds by the rule that decides: Holm on sign-flip p's.

Sweeps are simulated by `task_model`, and each is tested as the report does it: a drop is found
where the sign-flip p of a variant, paired by task, is at most alpha divided by the number of
variants. That is Holm's first step, hence the power for a variant whose companions have no effect;
where they have one too, it is higher. The seed is fixed: the same design gives the same answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from emobench.analysis.stats.intervals import SEED
from emobench.analysis.stats.permutation import find_small_p
from emobench.analysis.stats.task_model import PUBLISHED, Difficulty, distribute_gaps
from emobench.core.outcomes import CONTROL, Group
from emobench.core.sweep import Cell

ALPHA = 0.05
POWER = 0.8
SMALLEST_EFFECT = 0.1
"""Drop in mean reward that a sweep should be able to see where it declares none."""
SIMULATED = 4_000
"""Sweeps of which power is a share: a standard error of 0.6 points at 80 %."""
MOST_TRIALS = 32
MOST_TASKS = 10_000
PRECISION = 0.0005
"""Of a smallest drop, in mean reward."""


WantedFrom = Literal["sweep file", "default", "command"]
"""Where the smallest effect of interest was said."""


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
    """In Holm's family of the group: compared with control, and no placebo."""

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
    """Smallest detectable drop in mean reward; None where none is, however large."""
    wanted: float
    """The smallest effect of interest."""

    @property
    def enough(self) -> bool:
        return self.smallest is not None and self.smallest <= self.wanted <= self.most

    @property
    def most(self) -> float:
        """The largest drop that there can be: control's whole mean."""
        return self.difficulty.pass_1

    @cached_property
    def trials_needed(self) -> int | None:
        """For the wanted drop on these tasks; None where no number of trials is enough."""
        design = self.design
        return solve_trials(
            self.difficulty, design.tasks, self.wanted, alpha=self.alpha, power=self.power
        )

    @cached_property
    def tasks_needed(self) -> int | None:
        """For the wanted drop with these trials; None where no number of tasks is enough."""
        design = self.design
        return solve_tasks(
            self.difficulty, design.trials, self.wanted, alpha=self.alpha, power=self.power
        )


@dataclass(frozen=True)
class PowerVerdict:
    """The power gate: whether the planned sweep can see the smallest effect of interest."""

    passed: bool
    wanted: float
    """The smallest effect of interest."""
    wanted_from: WantedFrom
    alpha: float
    power: float
    designs: tuple[DesignPower, ...]
    without_contrast: tuple[str, ...]
    """Groups with no control or nothing to compare with it."""


@lru_cache(maxsize=4096)
def compute_power(
    difficulty: Difficulty, tasks: int, trials: int, drop: float, alpha: float = ALPHA
) -> float:
    """Return the share of simulated sweeps in which a variant's drop has a sign-flip p of at most
    `alpha`, two-sided; 0 for a drop that there cannot be. Raises ValueError unless 0 < alpha < 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, not at {alpha}")
    # Where all tasks differ, and all in one direction, p is 2 / 2^tasks.
    if tasks < 2 or trials < 1 or 2.0 ** (1 - tasks) > alpha:
        return 0.0
    chances = distribute_gaps(difficulty, trials, drop)
    if chances is None:
        return 0.0
    counts = np.random.default_rng(SEED).multinomial(tasks, chances, SIMULATED)
    return float(find_small_p(counts, alpha).mean())


def solve_drop(
    difficulty: Difficulty, tasks: int, trials: int, *, alpha: float = ALPHA, power: float = POWER
) -> float | None:
    """Return the smallest drop in mean reward found with this power, two-sided; None where there is
    none up to the whole mean. Raises ValueError unless 0.5 < power < 1."""
    if not 0.5 < power < 1:
        raise ValueError(f"power lies between 0.5 and 1, not at {power}")
    low, high = 0.0, difficulty.pass_1 * 0.999
    if compute_power(difficulty, tasks, trials, high, alpha) < power:
        return None
    while high - low > PRECISION:
        middle = (low + high) / 2
        found = compute_power(difficulty, tasks, trials, middle, alpha) >= power
        low, high = (low, middle) if found else (middle, high)
    return high


def solve_trials(
    difficulty: Difficulty, tasks: int, drop: float, *, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Return trials of each task that make `drop` detectable; None where none up to 32 do."""
    return _find_least(
        lambda trials: compute_power(difficulty, tasks, trials, drop, alpha) >= power, MOST_TRIALS
    )


def solve_tasks(
    difficulty: Difficulty, trials: int, drop: float, *, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Return tasks that make `drop` detectable with these trials; None where none up to 10 000
    do."""
    return _find_least(
        lambda tasks: compute_power(difficulty, tasks, trials, drop, alpha) >= power, MOST_TASKS
    )


def _find_least(is_enough: Callable[[int], bool], most: int) -> int | None:
    """Return the least number that is enough; None where `most` is not."""
    low, high = 0, 1
    while not is_enough(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def group_designs(
    cells: Iterable[Cell], placebos: Collection[str] = ()
) -> tuple[list[Design], list[str]]:
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
        # A placebo is a family of its own: Holm's other variants do not share alpha with it.
        family = len([name for name in variants if name not in placebos]) or 1
        trials_of = [_count_trials_by_task(sets) for sets in group.values()]
        tasks = min(len(counts) for counts in trials_of)
        trials = min(min(counts.values(), default=0) for counts in trials_of)
        found.append(Design(*key, tasks=tasks, trials=trials, variants=family))
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
    """Return what a design can see, at Holm's first step."""
    first = alpha / design.variants
    return DesignPower(
        design,
        difficulty,
        first,
        power,
        solve_drop(difficulty, design.tasks, design.trials, alpha=first, power=power),
        wanted,
    )


def judge_power(
    cells: Sequence[Cell],
    smallest_effect: float = SMALLEST_EFFECT,
    *,
    wanted_from: WantedFrom = "default",
    alpha: float = ALPHA,
    power: float = POWER,
    difficulties: Mapping[Group, Difficulty] | None = None,
    placebos: Collection[str] = (),
) -> PowerVerdict:
    """Return the power gate of a planned sweep.

    `smallest_effect` is the smallest drop of interest, from where `wanted_from` says.
    `difficulties`, by (env, agent strategy, assistant), come from the study's own data or a
    pilot's; the published ones stand in for groups without. A sweep that compares nothing does not
    pass.
    """
    planned, without = group_designs(cells, placebos)
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
    return PowerVerdict(passed, smallest_effect, wanted_from, alpha, power, found, tuple(without))
