"""pass^k of units against enumeration."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from emobench.analysis.stats.pass_k import pass_k_by_task, pass_k_curve
from tests.support.frames import arm, random_rewards


@pytest.mark.parametrize("trials", range(1, 8))
def test_by_enumeration_of_draws(trials: int) -> None:
    successes = np.arange(trials + 1)
    n = np.full(trials + 1, trials)
    for k in range(1, trials + 3):
        found = pass_k_by_task(successes, n, k)
        for c in range(trials + 1):
            draws = list(combinations([1] * c + [0] * (trials - c), k))
            if draws:
                assert found[c] == pytest.approx(np.mean([all(draw) for draw in draws]))
            else:
                assert np.isnan(found[c])


def test_tasks_with_too_few_trials_are_left_out_and_said() -> None:
    held = arm({0: [1, 1, 1, 0], 1: [1, None, None, 1], 2: [0, None, None, None], 3: [None]})
    (found,) = pass_k_curve("control", held.successes, held.n, (2,))
    assert found.value == pytest.approx((3 / 6 + 1) / 2)
    assert (found.tasks, found.of) == (2, 3)
    assert "1 of 3 tasks have fewer than 2 trials" in found.notes
    (none,) = pass_k_curve("control", held.successes, held.n, (5,))
    assert (none.value, none.interval, none.bootstrap) == (None, None, None)
    assert none.reason == "no task has 5 scored trials"


def test_tasks_of_several_groups_are_clusters() -> None:
    held = arm(random_rewards(3, 40, 4, missing=0.2))
    twice = [np.concatenate([each, each]) for each in (held.successes, held.n, held.tasks)]
    alone = pass_k_curve("control", held.successes, held.n, range(1, 5))
    both = pass_k_curve("control", twice[0], twice[1], range(1, 5), twice[2])
    for one, other in zip(alone, both, strict=True):
        assert other.value == pytest.approx(one.value)
        assert (other.tasks, other.of, other.notes) == (one.tasks, one.of, one.notes)
        assert one.interval is not None and other.interval is not None
        # Twice the same trials tell nothing new about the tasks.
        assert other.interval.low == pytest.approx(one.interval.low, abs=0.01)
        assert (other.bootstrap, other.reason) == (None, "")


def test_the_curve_falls_and_its_intervals_hold_it() -> None:
    held = arm(random_rewards(4, 60, 4))
    curve = pass_k_curve("control", held.successes, held.n, range(1, 5))
    values = [each.value for each in curve if each.value is not None]
    assert values == sorted(values, reverse=True)
    for each in curve:
        assert each.value is not None
        for interval in (each.interval, each.bootstrap):
            assert interval is not None
            assert interval.low < each.value < interval.high


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pass\^2"):
        pass_k_by_task(np.array([3]), np.array([2]), 2)
