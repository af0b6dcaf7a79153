"""What may be said of an effect, and of one that was not shown."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from emobench.analysis.stats.decisions import decide, equivalence_p, simultaneous_interval
from emobench.analysis.stats.estimates import Difference
from emobench.analysis.stats.multiplicity import holm
from emobench.analysis.stats.paired import make_undefined, paired_difference
from emobench.analysis.stats.units import Floats
from emobench.report.numbers import describe_decision


def draw(seed: int, mean: float, tasks: int = 40) -> Floats:
    """Differences of four trials a task, in quarters."""
    steps = np.random.default_rng(seed).normal(mean, 0.25, tasks)
    return np.asarray(np.clip(np.round(steps * 4) / 4, -1, 1), dtype=np.float64)


def difference(seed: int, mean: float, tasks: int = 40) -> Difference:
    return paired_difference("x", draw(seed, mean, tasks), bootstrap=False)


@pytest.mark.parametrize("mean", [-0.3, -0.08, 0.0, 0.05, 0.2])
def test_equivalence_is_that_of_statsmodels(mean: float) -> None:
    expected = DescrStatsW(draw(1, mean)).ttost_mean(-0.1, 0.1)[0]
    assert equivalence_p(difference(1, mean), 0.1) == pytest.approx(expected)


def test_the_simultaneous_interval_is_bonferronis() -> None:
    values = draw(2, -0.02)
    low, high = stats.t.interval(1 - 0.05 / 4, 39, values.mean(), stats.sem(values))
    found = simultaneous_interval(difference(2, -0.02), 4, 0.5)
    assert found is not None
    assert [found.low, found.high] == pytest.approx([min(low, 0), max(high, 0)])
    assert simultaneous_interval(difference(2, -0.02), 1, None) == difference(2, -0.02).t


@pytest.mark.parametrize("seed", range(60))
def test_the_interval_for_all_and_the_p_never_contradict(seed: int) -> None:
    tasks = (6, 12, 40)[seed % 3]
    found = [difference(10 * seed + i, -0.06 * i, tasks) for i in range(5)]
    decisions = decide(found, 0.1, "5 variants")
    assert [each.p_adjusted for each in decisions] == holm([each.p_permutation for each in found])
    for each, decision in zip(found, decisions, strict=True):
        assert decision.interval is not None and decision.p_adjusted is not None
        clear = decision.interval.low > 0 or decision.interval.high < 0
        assert clear == (decision.p_adjusted < 0.05)
        assert (decision.statement in ("lower", "higher")) == clear
        assert each.value is not None
        assert decision.interval.low <= each.value <= decision.interval.high


def say(found: Difference, among: int = 1) -> str:
    """What is said of a difference beside others without data."""
    others = [make_undefined("y", "no data")] * (among - 1)
    return describe_decision(found, decide([found, *others], 0.1, "x")[0], "control")


def test_a_null_says_what_it_excludes() -> None:
    values = np.array([0.25, -0.25] * 60)
    none = paired_difference("x", values, bootstrap=False)
    assert say(none) == "equivalent to control within 10 points"
    few = paired_difference("x", values[:12], bootstrap=False)
    assert say(few) == "compatible with drops up to 16.6 and gains up to 16.6 points"
    # The sign-flip p is 0.0039 x 20, and the interval of its own clear of 0.
    drop = paired_difference("x", np.array([-0.25] * 8 + [-0.5] + [0.0] * 11), bootstrap=False)
    assert say(drop) == "lower than control"
    assert say(drop, among=20) == (
        "clear of 0 by its own interval, though not after adjustment: compatible with drops up to "
        "24.3 points"
    )
    assert say(make_undefined("x", "no control in this group")) == "no control in this group"
    same = paired_difference("x", np.zeros(12), bootstrap=False)
    assert say(same) == "all tasks have the same difference: it has no interval"
