"""Metrics against enumeration and against arithmetic done by hand."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest

from emobench.analysis.stats.metrics import (
    by_variant,
    difference,
    mean_reward,
    outcome_counts,
    pass_hat_k,
    pass_k,
)
from emobench.analysis.stats.student import t_quantile
from emobench.core.outcomes import OUTCOMES, Observation
from tests.support.frames import observations


@pytest.mark.parametrize("trials", range(1, 8))
def test_pass_k_is_the_share_of_draws_that_all_succeed(trials: int) -> None:
    for successes in range(trials + 1):
        results = [1] * successes + [0] * (trials - successes)
        for k in range(1, trials + 1):
            draws = list(itertools.combinations(results, k))
            share = sum(all(draw) for draw in draws) / len(draws)
            assert pass_k(successes, trials, k) == pytest.approx(share)


def test_pass_k_is_undefined_with_fewer_trials_than_k() -> None:
    assert pass_k(2, 2, 3) is None
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        pass_k(3, 2, 1)


def test_pass_hat_k_counts_trials_for_each_task() -> None:
    observed = observations({0: [1, 1, 1, 0], 1: [1, None, None, 1], 2: [0, None, None, None]})
    first, second, third = (pass_hat_k(observed, k) for k in (1, 2, 3))
    assert first.value == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert (second.tasks, second.of) == (2, 3)
    assert second.value == pytest.approx((3 / 6 + 1) / 2)
    assert third.tasks == 1
    assert third.value == pytest.approx(1 / 4)
    assert pass_hat_k(observed, 5).value is None


def test_pass_hat_k_keeps_environments_apart() -> None:
    observed = observations({0: [1]}) + observations({0: [1]}, env="airline")
    assert pass_hat_k(observed, 2).value is None
    assert pass_hat_k(observed, 1).of == 2


def test_a_reward_short_of_one_is_no_success() -> None:
    assert pass_hat_k(observations({0: [0.5, 1 - 1e-9]}), 1).value == pytest.approx(0.5)


def test_infrastructure_errors_are_missing_and_not_zero() -> None:
    mean = mean_reward(observations({0: [1, None], 1: [1, None]}))
    assert (mean.value, mean.scored, mean.missing, mean.tasks) == (1.0, 2, 2, 2)
    nothing = mean_reward(observations({0: [None]}))
    assert (nothing.value, nothing.missing, nothing.interval) == (None, 1, None)


def test_with_one_trial_the_clustered_interval_is_the_plain_one() -> None:
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    mean = mean_reward(observations({task: [value] for task, value in enumerate(values)}))
    width = t_quantile(7) * statistics.stdev(values) / math.sqrt(8)
    assert mean.interval is not None
    assert mean.interval.low == pytest.approx(0.75 - width)
    assert mean.interval.high == 1.0


def test_repeating_a_task_gives_no_narrower_interval() -> None:
    once = mean_reward(observations({task: [float(task % 2)] for task in range(20)}))
    often = mean_reward(observations({task: [float(task % 2)] * 8 for task in range(20)}))
    assert once.interval is not None
    assert often.interval == once.interval


def test_no_interval_where_it_would_pretend() -> None:
    assert mean_reward(observations({0: [1, 0]})).interval is None
    assert mean_reward(observations({0: [1], 1: [1]})).interval is None


def test_difference_is_paired_by_task() -> None:
    control = observations({0: [1, 1], 1: [1, 0], 2: [0, 0], 3: [1, 1]})
    treated = observations({0: [1, 0], 1: [0, 0], 2: [0, None], 4: [1, 1]}, "anger")
    found = difference(treated, control)
    gaps = [-0.5, -0.5, 0.0]
    width = t_quantile(2) * statistics.stdev(gaps) / math.sqrt(3)
    assert found.tasks == 3
    assert found.value == pytest.approx(statistics.mean(gaps))
    assert found.interval is not None
    assert found.interval.low == -1.0  # -1/3 - width lies beyond what a difference can be
    assert found.interval.high == pytest.approx(-1 / 3 + width)
    assert difference(treated, []).value is None


def test_a_task_of_several_groups_counts_once() -> None:
    control = observations({0: [1], 1: [1]})
    treated = observations({0: [0], 1: [1]}, "anger")
    both = [*control, *(_moved(item) for item in control)]
    found = difference([*treated, *(_moved(item) for item in control)], both)
    assert found.tasks == 2
    assert found.value == pytest.approx(-0.25)


def test_outcomes_name_every_outcome() -> None:
    counts = outcome_counts(observations({0: [1, 0, None]}))
    assert tuple(counts) == OUTCOMES
    assert (counts["solved"], counts["failed"], counts["infra_error"]) == (1, 1, 1)
    assert by_variant(observations({0: [1]}), ["anger", "control"])["anger"] == []


def _moved(item: Observation) -> Observation:
    return Observation(
        assistant="b",
        env=item.env,
        agent_strategy=item.agent_strategy,
        variant=item.variant,
        trial=item.trial,
        task_id=item.task_id,
        outcome=item.outcome,
        reward=item.reward,
    )
