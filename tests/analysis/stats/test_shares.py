"""Intervals against scipy and against the statistics of the mean reward."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from emobench.analysis.stats.metrics import mean_of_sums
from emobench.analysis.stats.shares import Paired, measure

SAMPLES = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60
)


@given(SAMPLES)
def test_a_share_is_clustered_as_the_mean_reward(sample: list[tuple[int, float]]) -> None:
    sums: dict[tuple[str, int], tuple[int, float]] = {}
    for task, value in sample:
        count, total = sums.get(("", task), (0, 0.0))
        sums["", task] = (count + 1, total + value)
    expected = mean_of_sums(sums, 0)
    found = measure(sample, "x")
    assert found.value == pytest.approx(expected.value)
    assert found.tasks == expected.tasks and found.n == len(sample)
    if expected.interval is None or found.low is None:
        assert found.low is None or found.low == found.high
    else:
        assert (found.low, found.high) == pytest.approx(
            (expected.interval.low, expected.interval.high), abs=1e-9
        )


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=40))
def test_a_paired_difference_is_students(values: list[float]) -> None:
    treated = list(enumerate(values))
    control = [(task, 1.0) for task in range(len(values))]
    found = Paired.of(treated, control, "x", "anger")
    assert found.value == pytest.approx(sum(values) / len(values) - 1)
    if found.low is not None and found.high is not None and found.high - found.low > 1e-3:
        result = stats.ttest_1samp([value - 1 for value in values], 0)
        interval = result.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-7)


def test_nothing_gives_nothing() -> None:
    assert measure([], "x").value is None
    assert Paired.of([(1, 1.0)], [(2, 1.0)], "x", "v").value is None
    one = measure([(1, 1.0), (1, 0.0)], "x")
    assert (one.value, one.low) == (0.5, None)
    words = measure([(1, 12.0), (2, 8.0)], "words")
    assert words.events is None and not words.few_events
    assert measure([(task, 0.0) for task in range(50)], "x").few_events
