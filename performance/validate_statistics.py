"""Coverage of the intervals, false claims and power, by simulating whole sweeps.

`make validate-statistics`. A task's chance of success is Beta distributed with the moments of
published pass^1 and pass^2. A variant takes the same share of every task's chance; where power is
at stake it moves their logits, as `emobench power` assumes. The functions under test are those of
the report. Prints the tables of docs/statistics.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from emobench.analysis.stats.decisions import decide
from emobench.analysis.stats.estimates import Difference, Interval
from emobench.analysis.stats.intervals import (
    RESAMPLES,
    SEED,
    compute_half_widths,
    score_interval,
    standard_error,
    t_interval,
)
from emobench.analysis.stats.means import cluster_error
from emobench.analysis.stats.multiplicity import holm
from emobench.analysis.stats.pass_k import pass_k_by_task
from emobench.analysis.stats.permutation import EXACT, exact_p, random_p
from emobench.analysis.stats.power import ALPHA, solve_drop
from emobench.analysis.stats.task_model import PUBLISHED, Difficulty, find_shift

SWEEPS = 10_000
VARIANTS = 4
DROP = 0.1
POWER_SWEEPS = 2_000
BATCH = 250
FAMILY_SWEEPS = 2_000
CLAIMS = ("lower", "higher")
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scenario:
    name: str
    difficulty: Difficulty
    tasks: int
    trials: int
    missing: float = 0.0
    """Chance that a trial is missing, at random; each task keeps at least one."""

    @property
    def shape(self) -> tuple[float, float]:
        hard = self.difficulty
        total = hard.within / hard.between
        return hard.pass_1 * total, (1 - hard.pass_1) * total


EASY = Difficulty(0.95, 0.92, "of our own")
EASIER = Difficulty(0.97, 0.955, "of our own")
HARD = Difficulty(0.04, 0.012, "of our own")
SCENARIOS = (
    *(Scenario("airline", PUBLISHED["airline"], n, k) for n in (6, 10, 50) for k in (1, 4, 8)),
    *(Scenario("retail", PUBLISHED["retail"], 115, k) for k in (1, 4, 8)),
    Scenario("airline, 10 % missing", PUBLISHED["airline"], 50, 4, 0.1),
    *(Scenario("mean 0.95", EASY, n, 4) for n in (10, 50)),
    Scenario("mean 0.97", EASIER, 50, 8),
)

AIRLINE, RETAIL = PUBLISHED["airline"], PUBLISHED["retail"]
POWER_SCENARIOS = (
    *(("airline", AIRLINE, tasks, 1, 1) for tasks in (20, 50)),
    *(("airline", AIRLINE, tasks, 4, 5) for tasks in (10, 20, 50)),
    *(("retail", RETAIL, 115, trials, 5) for trials in (1, 4, 8)),
    ("airline", replace(AIRLINE, spread=1.5), 50, 4, 5),
    ("retail", replace(RETAIL, spread=1.5), 115, 4, 5),
    ("mean 0.95", EASY, 50, 4, 5),
    ("mean 0.95", EASY, 115, 4, 5),
    ("mean 0.04", HARD, 50, 4, 5),
    ("mean 0.04", HARD, 115, 8, 5),
)


class Sweeps:
    """SWEEPS simulated sweeps: successes and scored trials, tasks x sweeps."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.rng = np.random.default_rng([seed, scenario.tasks, scenario.trials])
        self.chance = self.rng.beta(*scenario.shape, size=(scenario.tasks, SWEEPS))

    def run(self, drop: float) -> tuple[Ints, Ints]:
        """One arm whose mean reward lies `drop` below control's."""
        scenario = self.scenario
        share = 1 - drop / scenario.difficulty.pass_1
        kept = self.rng.binomial(scenario.trials, 1 - scenario.missing, self.chance.shape)
        n = np.maximum(kept, 1)
        return self.rng.binomial(n, self.chance * share), n


def main() -> int:
    started = time.process_time()
    error = 100 * sqrt(0.95 * 0.05 / SWEEPS)
    print(
        f"{SWEEPS} sweeps a row, {VARIANTS} variants and control; Monte Carlo standard error "
        f"{error:.1f} points at 95 %, {100 * sqrt(0.8 * 0.2 / SWEEPS):.1f} at 80 %\n"
    )
    print(
        "| tasks as in | tasks | trials | mean | mean, t | difference, t | difference, bootstrap "
        "| pass^k | pass^k, bootstrap | false claims | false claims, t |"
    )
    print("|---|" + "---|" * 10)
    for scenario in SCENARIOS:
        print(row(scenario), flush=True)
    print_families()
    print(
        f"\n{POWER_SWEEPS} sweeps a row; Monte Carlo standard error "
        f"{100 * sqrt(0.8 * 0.2 / POWER_SWEEPS):.1f} points\n\n"
        "| tasks as in | tasks | trials | variants | spread | smallest drop | found |\n"
        "|---|" + "---|" * 6
    )
    for name, difficulty, tasks, trials, variants in POWER_SCENARIOS:
        print(power_row(difficulty, name, tasks, trials, variants), flush=True)
    print(f"\n{time.process_time() - started:.0f} s of processor time", file=sys.stderr)
    return 0


def print_families() -> None:
    """Print what the headline claims of FAMILY_SWEEPS sweeps with several groups of airline."""
    print(
        f"\n{FAMILY_SWEEPS} sweeps a row, airline 50 tasks x 4 trials, {VARIANTS} variants\n\n"
        "| groups | drop | claim, by group | claim, over all | claim, pooled | claim, either "
        "| equivalent, over all | equivalent, pooled | all intervals at once |\n"
        f"|{'---|' * 9}"
    )
    for groups in (1, 4, 12):
        for drop in (0.0, DROP):
            print(family_row(groups, drop), flush=True)


def family_row(groups: int, drop: float) -> str:
    """Return shares of sweeps in %, in which any comparison of any family is claimed, or is called
    equivalent within 10 points; and in which all intervals of the run's family hold the drop."""
    scenario = Scenario("airline", PUBLISHED["airline"], 50, 4)
    rng = np.random.default_rng([SEED, groups, int(100 * drop)])
    shape = (scenario.tasks, groups, FAMILY_SWEEPS)
    chance = rng.beta(*scenario.shape, size=shape)
    share = 1 - drop / scenario.difficulty.pass_1
    control = rng.binomial(scenario.trials, chance) / scenario.trials
    gaps = [
        rng.binomial(scenario.trials, chance * share) / scenario.trials - control
        for _ in range(VARIANTS)
    ]
    single = [_make_differences(gap[:, g]) for gap in gaps for g in range(groups)]
    pooled = [_make_differences(gap.mean(axis=1)) for gap in gaps]
    counts = np.zeros(7)
    for i in range(FAMILY_SWEEPS):
        found = [each[i] for each in single]
        overall = decide(found, DROP, "all")
        together = decide([each[i] for each in pooled], DROP, "variants")
        own = [decide(found[g::groups], DROP, "group") for g in range(groups)]
        intervals = [each.interval for each in overall]
        counts += (
            any(each.statement in CLAIMS for family in own for each in family),
            any(each.statement in CLAIMS for each in overall),
            any(each.statement in CLAIMS for each in together),
            any(each.statement in CLAIMS for each in (*overall, *together)),
            any(each.statement == "equivalent" for each in overall),
            any(each.statement == "equivalent" for each in together),
            all(each is None or each.low <= -drop <= each.high for each in intervals),
        )
    figures = " | ".join(f"{100 * count / FAMILY_SWEEPS:.1f}" for count in counts)
    return f"| {groups} | {100 * drop:.0f} | {figures} |"


def _make_differences(gaps: Floats) -> list[Difference]:
    """Return a difference for each sweep (tasks x sweeps), with all that a decision reads."""
    p_values = np.concatenate([_flip(part) for part in _batches(gaps)])
    return [
        Difference(
            "", float(gap.mean()), gap.size, 0, _t(gap), None, None, float(p), "",
            error=standard_error(gap),
        )
        for gap, p in zip(gaps.T, p_values, strict=True)
    ]  # fmt: skip


def row(scenario: Scenario) -> str:
    sweeps = Sweeps(scenario, SEED)
    control, n = sweeps.run(0.0)
    treated, m = sweeps.run(DROP)
    gaps = treated / m - control / n
    hard, tasks, trials = scenario.difficulty, scenario.tasks, scenario.trials
    mean = coverage(hard.pass_1, lambda i: _mean(control[:, i], n[:, i], score_interval_of))
    mean_t = coverage(hard.pass_1, lambda i: _mean(control[:, i], n[:, i], t_interval_of))
    difference_t = coverage(-DROP, lambda i: _t(gaps[:, i]))
    whole = not scenario.missing
    a, b = scenario.shape
    chance = prod((a + i) / (a + b + i) for i in range(trials))
    if whole:
        passed = pass_k_by_task(control, n, trials)
        pass_score = coverage(chance, lambda i: _pass(passed[:, i]))
        pass_boot = bootstrap_coverage(passed, chance, (0.0, 1.0))
    else:
        pass_score = pass_boot = "-"
    return (
        f"| {scenario.name} | {tasks} | {trials} | {mean} | {mean_t} | {difference_t} "
        f"| {bootstrap_coverage(gaps, -DROP, (-1.0, 1.0))} | {pass_score} | {pass_boot} "
        f"| {' | '.join(false_claims(sweeps))} |"
    )


def coverage(truth: float, interval: Callable[[int], Interval | None]) -> str:
    """Share of the sweeps' intervals that hold the truth, and how many sweeps have none."""
    found = [interval(i) for i in range(SWEEPS)]
    defined = [each for each in found if each is not None]
    hits = sum(each.low - 1e-9 <= truth <= each.high + 1e-9 for each in defined)
    return _share(hits, len(defined))


def bootstrap_coverage(values: Floats, truth: float, bounds: tuple[float, float]) -> str:
    hits = defined = 0
    for start in range(0, SWEEPS, BATCH):
        part = values[:, start : start + BATCH]
        half = compute_half_widths(part, RESAMPLES, SEED)
        known = np.isfinite(half) & (part.std(axis=0) > 1e-12)
        gap = np.abs(part.mean(axis=0) - truth)
        inside = (gap <= half + 1e-9) & (bounds[0] <= truth <= bounds[1])
        hits += int((inside & known).sum())
        defined += int(known.sum())
    return _share(hits, defined)


def false_claims(sweeps: Sweeps) -> tuple[str, str]:
    """Share of sweeps without any effect in which Holm calls some variant's p below 0.05."""
    control, n = sweeps.run(0.0)
    p_flip, p_t = [], []
    for _ in range(VARIANTS):
        treated, m = sweeps.run(0.0)
        gaps = treated / m - control / n
        p_flip.append(np.concatenate([_flip(part) for part in _batches(gaps)]))
        p_t.append(_p_t(gaps))
    return _claimed(p_flip), _claimed(p_t)


def power_row(difficulty: Difficulty, name: str, tasks: int, trials: int, variants: int) -> str:
    """How often the drop that `emobench power` names is found by Holm on sign-flip p's, where the
    other variants have no effect: drawn task by task, POWER_SWEEPS sweeps."""
    start = f"| {name} | {tasks} | {trials} | {variants} | {difficulty.spread:g} "
    drop = solve_drop(difficulty, tasks, trials, alpha=ALPHA / variants)
    if drop is None:
        return f"{start}| none | - |"
    rng = np.random.default_rng([SEED, tasks, trials, variants])
    a, b = Scenario(name, difficulty, tasks, trials).shape
    chance = np.clip(rng.beta(a, b, size=(tasks, POWER_SWEEPS)), 1e-9, 1 - 1e-9)
    control = rng.binomial(trials, chance)
    p_values = []
    for lost in (drop, *(0.0,) * (variants - 1)):
        shift = find_shift(difficulty, lost)
        assert shift is not None
        moved = np.log(chance / (1 - chance)) - shift
        moved += difficulty.spread * rng.standard_normal(chance.shape)
        gaps = (rng.binomial(trials, 1 / (1 + np.exp(-moved))) - control) / trials
        p_values.append(np.concatenate([_flip(part) for part in _batches(gaps)]))
    adjusted = [holm(column)[0] for column in np.stack(p_values, axis=1).tolist()]
    found = sum(p is not None and p <= ALPHA for p in adjusted)
    return f"{start}| {100 * drop:.1f} | {100 * found / POWER_SWEEPS:.1f} |"


def _claimed(p_values: list[Floats]) -> str:
    table = np.stack(p_values)
    false = 0
    for i in range(SWEEPS):
        adjusted = holm(table[:, i].tolist())
        false += any(p is not None and p <= ALPHA for p in adjusted)
    return f"{100 * false / SWEEPS:.1f}"


def _flip(gaps: Floats) -> Floats:
    return exact_p(gaps) if gaps.shape[0] <= EXACT else random_p(gaps)


def _batches(values: Floats) -> list[Floats]:
    return [values[:, start : start + BATCH] for start in range(0, values.shape[1], BATCH)]


def _p_t(gaps: Floats) -> Floats:
    from scipy.stats import t

    tasks = gaps.shape[0]
    error = gaps.std(axis=0, ddof=1) / sqrt(tasks)
    # Without variation there is no test, hence no claim.
    score = np.divide(gaps.mean(axis=0), error, out=np.zeros(error.shape), where=error > 1e-12)
    return np.asarray(2 * t.sf(np.abs(score), tasks - 1), dtype=np.float64)


def score_interval_of(mean: float, error: float, tasks: int, episodes: int) -> Interval | None:
    return score_interval(mean, error, tasks, episodes)


def t_interval_of(mean: float, error: float, tasks: int, _: int) -> Interval | None:
    return t_interval(mean, error, tasks, (0.0, 1.0))


def _mean(
    successes: Ints, n: Ints, interval: Callable[[float, float, int, int], Interval | None]
) -> Interval | None:
    total = successes.astype(np.float64)
    episodes = int(n.sum())
    return interval(float(total.sum() / episodes), cluster_error(total, n), n.size, episodes)


def _t(values: Floats) -> Interval | None:
    return t_interval(float(values.mean()), standard_error(values), values.size, (-1.0, 1.0))


def _pass(values: Floats) -> Interval | None:
    return score_interval(float(values.mean()), standard_error(values), values.size, values.size)


def _share(hits: int, defined: int) -> str:
    if not defined:
        return "none"
    lacking = SWEEPS - defined
    note = f" ({100 * lacking / SWEEPS:.0f} % none)" if lacking >= SWEEPS / 100 else ""
    return f"{100 * hits / defined:.1f}{note}"


if __name__ == "__main__":
    sys.exit(main())
