"""Means and rates against statsmodels on the same data."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from emobench.analysis.stats.estimates import FEW_FAILURES, FEW_SUCCESSES, Interval, Mean
from emobench.analysis.stats.intervals import score_interval, t_interval
from emobench.analysis.stats.means import (
    cluster_error,
    mark_few,
    mean_of_sums,
    mean_per_episode,
    outcome_rate,
    sample_mean,
    sample_share,
    wilson,
)
from emobench.analysis.stats.student import t_quantile
from tests.support.frames import arm, random_rewards


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_error_is_that_of_ols_clustered_by_task(missing: float) -> None:
    rewards = random_rewards(1, 30, 4, missing=missing)
    scored = [
        (task, value) for task, values in rewards.items() for value in values if value is not None
    ]
    values = np.array([value for _, value in scored])
    fit = sm.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": np.array([task for task, _ in scored])}
    )
    held = arm(rewards).scored
    assert cluster_error(held.total, held.n) == pytest.approx(float(fit.bse[0]), rel=1e-9)
    found = mean_per_episode("mean reward", held)
    width = t_quantile(held.n.size - 1) * float(fit.bse[0])
    assert found.t is not None
    assert (found.t.low, found.t.high) == pytest.approx(
        (fit.params[0] - width, fit.params[0] + width)
    )


def test_with_one_trial_the_clustered_t_is_the_plain_one() -> None:
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    found = mean_per_episode("x", arm({task: [value] for task, value in enumerate(values)}))
    width = t_quantile(7) * statistics.stdev(values) / math.sqrt(8)
    assert found.t is not None
    assert found.t.low == pytest.approx(0.75 - width)
    assert found.t.high == 1.0


def test_repeating_a_task_gives_no_narrower_interval() -> None:
    once, often = (
        mean_per_episode("x", arm({task: [float(task % 2)] * trials for task in range(20)}))
        for trials in (1, 8)
    )
    assert once.t is not None
    assert (often.t, often.interval) == (once.t, once.interval)


SAMPLES = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60
)


@given(SAMPLES)
def test_a_share_of_turns_is_clustered_as_the_mean_per_episode(
    sample: list[tuple[int, float]],
) -> None:
    rewards: dict[int, list[float | None]] = {}
    for task, value in sample:
        rewards.setdefault(task, []).append(value)
    expected = mean_per_episode("x", arm(dict(sorted(rewards.items()))))
    found = sample_share("x", sample)
    assert (found.value, found.interval, found.t) == (
        expected.value,
        expected.interval,
        expected.t,
    )
    assert (found.tasks, found.episodes) == (expected.tasks, len(sample))
    assert found.events == sum(value for _, value in sample)
    assert sample_mean("x", sample, (0.0, 1.0)).interval == expected.interval


def test_a_mean_of_anything_has_its_t_interval_within_what_can_be() -> None:
    words = sample_mean("words", [(1, 12.0), (2, 8.0)], (0.0, math.inf))
    assert (words.value, words.events, words.few_events) == (10.0, None, False)
    assert words.interval == words.t
    assert words.interval is not None
    assert words.interval.low == 0.0
    assert words.interval.high == pytest.approx(10 + 2 * t_quantile(1))
    assert words.label == "words, 2 of 2 tasks, 95 % interval clustered by task"
    assert sample_mean("words", []).value is sample_share("x", []).value is None


def test_a_share_that_never_happens_is_marked_and_has_a_width() -> None:
    found = sample_share("x", [(task, 0.0) for task in range(50)])
    assert (found.value, found.events, found.few_events) == (0.0, 0, True)
    assert found.interval is not None and 0.05 < found.interval.high < 0.1
    one = sample_share("x", [(1, 1.0), (1, 0.0)])
    assert (one.value, one.interval) == (0.5, None)


def test_with_independent_episodes_the_score_interval_is_wilsons_with_t_quantiles() -> None:
    # Quantiles of t at many tasks are those of the normal distribution.
    tasks, events = 20_000, 6_000
    p = events / tasks
    found = score_interval(p, float(np.sqrt(p * (1 - p) / tasks)), tasks, tasks)
    low, high = proportion_confint(events, tasks, method="wilson")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-6)


def test_wilson_is_statsmodels_wilson() -> None:
    for events, n in [(0, 1), (0, 20), (3, 20), (20, 20), (57, 115)]:
        low, high = proportion_confint(events, n, method="wilson")
        found = wilson(events, n)
        assert found is not None
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert wilson(0, 0) is None
    for n in range(1, 300):
        none, every = wilson(0, n), wilson(n, n)
        # Exactly, as no rounding may leave the ends open.
        assert none is not None and none.low == 0.0 and 0 < none.high < 1
        assert every is not None and every.high == 1.0 and 0 < every.low < 1
    for events, n in ((5, 4), (-1, 4)):
        with pytest.raises(ValueError, match=f"{events} events in {n}"):
            wilson(events, n)
    narrow = wilson(3, 20, 0.5)
    assert narrow is not None
    expected = proportion_confint(3, 20, 0.5, method="wilson")
    assert (narrow.low, narrow.high) == pytest.approx(expected)


def test_what_never_varies_still_has_a_width() -> None:
    held = arm({task: [1.0] * 4 for task in range(12)})
    found = mean_per_episode("x", held)
    assert found.t is None
    assert found.interval is not None
    assert 0.6 < found.interval.low < 0.85
    assert found.interval.high == 1.0
    assert found.notes == ("fewer than 10 tasks with a failure",)


def test_one_task_or_none_has_a_reason_in_place_of_an_interval() -> None:
    one = arm({3: [1.0, 0.0]})
    found = mean_per_episode("x", one)
    assert (found.value, found.interval, found.t) == (0.5, None, None)
    assert found.reason.startswith("one task")
    none = arm({3: [None], 4: [None]})
    found = mean_per_episode("x", none)
    assert (found.value, found.missing, found.reason) == (None, 2, "no scored episode")


def test_rates_on_few_events_are_marked() -> None:
    n = np.full(40, 4, dtype=np.int64)
    events = np.zeros(40)
    events[:3] = 1
    found = outcome_rate("share of max_steps", events, n)
    assert found.value == pytest.approx(3 / 160)
    assert found.notes == ("fewer than 10 events",)
    assert outcome_rate("x", np.tile([1.0, 3.0], 20), n).notes == ()
    for happened, few in ((9, True), (10, False), (150, False), (151, True)):
        events = np.zeros(40)
        events[: happened // 4], events[happened // 4] = 4, happened % 4
        assert outcome_rate("x", events, n).few_events == few, f"{happened} of 160"
    assert outcome_rate("x", np.tile([1.0, 3.0], 20)[:9], n[:9]).notes == ("fewer than 10 tasks",)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=2, max_size=40))
def test_the_interval_holds_its_mean_and_knows_no_order(pairs: list[tuple[int, int]]) -> None:
    pairs = [(min(successes, n), n) for successes, n in pairs]
    turned = pairs[::-1]
    found, other = (
        mean_per_episode(
            "x", arm({task: [1.0] * c + [0.0] * (n - c) for task, (c, n) in enumerate(each)})
        )
        for each in (pairs, turned)
    )
    assert found.interval is not None
    assert found.value is not None
    assert other.interval is not None
    assert found.interval.low - 1e-9 <= found.value <= found.interval.high + 1e-9
    assert found.interval.high > found.interval.low
    assert other.interval.low == pytest.approx(found.interval.low)


def nothing(label: str, missing: int, events: int | None, reason: str, *notes: str) -> Mean:
    return Mean(label, None, 0, missing, 0, None, None, events, reason, notes)


CLUSTERED = "95 % interval clustered by task"


def test_every_part_of_a_mean_reward_by_hand() -> None:
    held = arm({1: [1, 0.5, None], 2: [0], 3: [None], 5: [1, 1]})
    found = mean_per_episode("mean reward, anger", held)
    # Sums 1.5, 0 and 2 of 2, 1 and 2 rewards around the mean of 0.7.
    error = math.sqrt(3 / 2 * (0.1**2 + 0.7**2 + 0.6**2)) / 5
    kept = held.scored
    computed = cluster_error(kept.total, kept.n)
    assert computed == pytest.approx(error)
    assert found == Mean(
        label=f"mean reward, anger, 3 tasks x 1 to 2 trials, {CLUSTERED}",
        value=3.5 / 5,
        episodes=5,
        missing=2,
        tasks=3,
        interval=score_interval(found.value or 0.0, computed, 3, 5),
        t=t_interval(found.value or 0.0, computed, 3, (0.0, 1.0)),
        events=None,
        reason="",
        notes=("fewer than 10 tasks",),
    )
    assert cluster_error(kept.total[:2], kept.n[:2]) > 0.0
    assert cluster_error(kept.total[:1], kept.n[:1]) == 0.0
    none = mean_per_episode("x", arm({3: [None], 4: [None]}))
    assert none == nothing(f"x, 0 tasks, {CLUSTERED}", 2, None, "no scored episode")
    assert mean_per_episode("x", arm({})) == nothing(
        f"x, 0 tasks, {CLUSTERED}", 0, None, "no episode"
    )
    alone = mean_per_episode("x", arm({3: [1.0, 0.0]}))
    assert (alone.reason, alone.tasks) == ("one task: nothing says how much tasks differ", 1)
    assert (mean_of_sums(3.0, 4), mean_of_sums(0.0, 1), mean_of_sums(0.0, 0)) == (0.75, 0.0, None)


def test_every_part_of_a_share_and_a_mean_of_turns_by_hand() -> None:
    sample = [(4, 1.0), (2, 0.0), (4, 0.0), (4, 1.0), (9, 0.0)]
    share = sample_share("turns with x", sample)
    rate = outcome_rate("turns with x", np.array([0.0, 2.0, 0.0]), np.array([1, 3, 1]))
    assert rate.label == f"turns with x, 3 tasks x 1 to 3 trials, {CLUSTERED}"
    few = ("fewer than 10 tasks", "fewer than 10 events")
    error = cluster_error(np.array([0.0, 2.0, 0.0]), np.array([1, 3, 1]))
    for found in (share, rate):
        assert found == Mean(
            label=f"turns with x, 5 of 3 tasks, {CLUSTERED}" if found is share else rate.label,
            value=0.4,
            episodes=5,
            missing=0,
            tasks=3,
            interval=score_interval(0.4, error, 3, 5),
            t=t_interval(0.4, error, 3, (0.0, 1.0)),
            events=2,
            notes=few,
        )
    unit = sample_mean("x", sample, (0.0, 1.0))
    assert (unit.interval, unit.t, unit.events) == (share.interval, share.t, None)
    free = sample_mean("x", sample)
    assert free.t is not None and free.t.low < 0
    assert (free.interval, free.label) == (free.t, f"x, 5 of 3 tasks, {CLUSTERED}")
    bounded = sample_mean("x", sample, (0.2, 0.5))
    assert bounded.interval == bounded.t == Interval(0.2, 0.5)
    assert sample_share("x", []) == nothing("x", 0, 0, "no episode", "fewer than 10 tasks")
    assert sample_mean("x", []) == nothing("x", 0, None, "no episode", "fewer than 10 tasks")


def test_few_tasks_are_marked_below_ten_and_not_at_ten() -> None:
    for tasks, notes in ((9, ("fewer than 10 tasks",)), (10, ())):
        sample = [(task, float(turn % 2)) for task in range(tasks) for turn in range(4)]
        for bounds in (None, (0.0, 1.0), (0.0, 9.0)):
            assert sample_mean("x", sample, bounds).notes == notes
        assert sample_share("x", sample).notes == notes
    sample = [(task, float(task < 5)) for task in range(30)]
    assert sample_mean("x", sample, (0.0, 1.0)).notes == ("fewer than 10 tasks with a success",)
    assert sample_mean("x", sample, (0.0, 9.0)).notes == ()
    some = np.arange(20)
    assert mark_few(some < 10, some < 10) == ()
    assert mark_few(some < 9, some < 9) == (
        "fewer than 10 tasks with a success",
        "fewer than 10 tasks with a failure",
    )


def test_one_success_or_failure_a_task_is_enough() -> None:
    tasks = range(10)
    notes = [
        mean_per_episode("m", arm(dict.fromkeys(tasks, rewards))).notes
        for rewards in ([1, 0, 0], [1, 1, 0], [1, 1], [0, 0])
    ]
    assert notes == [(), (), (FEW_FAILURES,), (FEW_SUCCESSES,)]
    notes = [
        sample_mean("m", [(task, value) for task in tasks for value in values], (0.0, 1.0)).notes
        for values in ([1, 0, 0], [1, 1, 0], [1, 1], [0, 0])
    ]
    assert notes == [(), (), (FEW_FAILURES,), (FEW_SUCCESSES,)]


def test_two_tasks_say_how_much_tasks_differ() -> None:
    assert mean_per_episode("m", arm({0: [1, 0], 1: [1, 1]})).reason == ""
    assert mean_per_episode("m", arm({0: [1, 0]})).reason.startswith("one task")
