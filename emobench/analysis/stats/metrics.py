"""Mean reward, pass^k, paired differences and outcomes. Pure functions of observations.

The unit is the task: intervals are clustered by (environment, task) and differences are paired
by it. An infrastructure error is missing data: it enters no mean, and every result says how many.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt

from emobench.analysis.stats.student import t_quantile
from emobench.core.outcomes import OUTCOMES, SUCCESS, Group, Observation


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class MeanReward:
    value: float | None
    scored: int
    """Episodes with a reward."""
    missing: int
    """Episodes without one."""
    tasks: int
    interval: Interval | None
    """95 %, clustered by task; None below two tasks, or where nothing varies."""


@dataclass(frozen=True)
class PassK:
    k: int
    value: float | None
    """None where no task has k trials: undefined, not 0."""
    tasks: int
    """Tasks with at least k scored trials: those the value is a mean over."""
    of: int
    """Tasks with at least one scored trial."""


@dataclass(frozen=True)
class Difference:
    value: float | None
    tasks: int
    """Tasks with a reward on both sides."""
    interval: Interval | None
    """95 %, Student t over tasks; None below two tasks, or where nothing varies."""


def mean_reward(observations: Iterable[Observation]) -> MeanReward:
    """Mean over scored episodes, with the cluster-robust interval over tasks.

    Variance of the mean: G/(G-1) * sum over tasks of (sum of residuals)^2 / N^2, df = G-1.
    """
    clusters: dict[tuple[str, int], list[float]] = defaultdict(list)
    missing = 0
    for item in observations:
        if item.reward is None:
            missing += 1
        else:
            clusters[item.task].append(item.reward)
    return mean_of_sums(
        {task: (len(values), sum(values)) for task, values in clusters.items()}, missing
    )


def mean_of_sums(clusters: Mapping[tuple[str, int], tuple[int, float]], missing: int) -> MeanReward:
    """`mean_reward` of (scored episodes, sum of rewards) by task: all that it depends on."""
    scored = sum(count for count, _ in clusters.values())
    if not scored:
        return MeanReward(None, 0, missing, 0, None)
    mean = sum(total for _, total in clusters.values()) / scored
    squares = sum((total - count * mean) ** 2 for count, total in clusters.values())
    groups = len(clusters)
    error = sqrt(groups / (groups - 1) * squares) / scored if groups > 1 else 0.0
    return MeanReward(mean, scored, missing, groups, _interval(mean, error, groups, 0.0, 1.0))


def pass_k(successes: int, trials: int, k: int) -> float | None:
    """C(c,k)/C(n,k), the chance that k trials drawn from n with c successes all succeed.

    arXiv 2406.12045. None where n < k. Raises ValueError unless 0 <= c <= n and k >= 1.
    """
    if not 0 <= successes <= trials or k < 1:
        raise ValueError(f"no pass^{k} of {successes} successes in {trials} trials")
    return comb(successes, k) / comb(trials, k) if trials >= k else None


def pass_hat_k(observations: Iterable[Observation], k: int) -> PassK:
    """Mean over tasks of pass^k, with the trials counted per task (and per group)."""
    trials: Counter[tuple[object, ...]] = Counter()
    successes: Counter[tuple[object, ...]] = Counter()
    for item in observations:
        if item.reward is not None:
            unit = (*item.group, item.task_id)
            trials[unit] += 1
            successes[unit] += item.reward >= SUCCESS
    values = [pass_k(successes[unit], count, k) for unit, count in trials.items()]
    defined = [value for value in values if value is not None]
    mean = sum(defined) / len(defined) if defined else None
    return PassK(k, mean, len(defined), len(values))


def difference(treated: Iterable[Observation], control: Iterable[Observation]) -> Difference:
    """Mean over tasks of (variant's mean reward - control's), each within its own group.

    A task met in several groups counts once, with the mean of its groups' differences.
    """
    means = _unit_means(treated)
    reference = _unit_means(control)
    by_task: dict[tuple[str, int], list[float]] = defaultdict(list)
    for unit, value in means.items():
        if unit in reference:
            group, task_id = unit
            by_task[(group[0], task_id)].append(value - reference[unit])
    values = [sum(each) / len(each) for each in by_task.values()]
    count = len(values)
    if not count:
        return Difference(None, 0, None)
    mean = sum(values) / count
    squares = sum((value - mean) ** 2 for value in values)
    error = sqrt(squares / (count - 1) / count) if count > 1 else 0.0
    return Difference(mean, count, _interval(mean, error, count, -1.0, 1.0))


def outcome_counts(observations: Iterable[Observation]) -> dict[str, int]:
    """Episodes by outcome, every outcome named."""
    counts = Counter(item.outcome for item in observations)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def by_variant(
    observations: Iterable[Observation], variants: Sequence[str]
) -> dict[str, list[Observation]]:
    """The observations of each variant, in the given order; empty lists stay."""
    parts: dict[str, list[Observation]] = {variant: [] for variant in variants}
    for item in observations:
        parts[item.variant].append(item)
    return parts


def _unit_means(
    observations: Iterable[Observation],
) -> dict[tuple[Group, int], float]:
    units: dict[tuple[Group, int], list[float]] = defaultdict(list)
    for item in observations:
        if item.reward is not None:
            units[(item.group, item.task_id)].append(item.reward)
    return {unit: sum(values) / len(values) for unit, values in units.items()}


def _interval(mean: float, error: float, groups: int, low: float, high: float) -> Interval | None:
    # Where nothing varies the formula gives a width of 0, which is not what is known.
    if groups < 2 or error < 1e-12:
        return None
    width = t_quantile(groups - 1) * error
    return Interval(max(low, mean - width), min(high, mean + width))
