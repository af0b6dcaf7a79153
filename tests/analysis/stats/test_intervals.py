"""Intervals against what defines them: scipy's t, the score equation, and resampling by hand."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy import optimize, stats

from emobench.analysis.stats.estimates import Interval
from emobench.analysis.stats.intervals import (
    LEVEL,
    RESAMPLES,
    SEED,
    TINY,
    bootstrap_interval,
    bootstrap_intervals,
    compute_half_widths,
    draw_resampling_weights,
    score_interval,
    standard_error,
    t_interval,
)
from emobench.analysis.stats.units import Floats


def test_the_standard_error_is_scipys_and_0_below_two_values() -> None:
    values = np.array([0.25, 1.0, 0.5])
    assert standard_error(values) == pytest.approx(float(stats.sem(values)))
    assert standard_error(values[:2]) == pytest.approx(float(stats.sem(values[:2])))
    assert (standard_error(values[:1]), standard_error(values[:0])) == (0.0, 0.0)


def test_t_is_scipys_within_its_bounds() -> None:
    for tasks in (2, 3, 30):
        low, high = stats.t.interval(LEVEL, tasks - 1, 0.1, 0.02)
        found = t_interval(0.1, 0.02, tasks, None)
        assert found is not None
        assert (found.low, found.high) == pytest.approx((low, high))
        assert t_interval(0.1, 0.02, tasks, (0.09, 0.11)) == Interval(0.09, 0.11)
    assert t_interval(0.1, 0.02, 1, None) is None
    assert t_interval(0.1, TINY / 2, 30, None) is None
    assert t_interval(0.1, TINY, 30, None) is not None


@pytest.mark.parametrize(
    ("mean", "error", "tasks", "episodes", "size"),
    [
        (0.3, 0.1, 12, 500, 0.21 / 0.01),
        (0.3, 0.1, 2, 500, 0.21 / 0.01),
        (0.9, 0.01, 12, 48, 48),
        (0.5, 0.0, 12, 48, 12),
        (0.5, TINY / 2, 12, 48, 12),
        (0.0, 0.0, 12, 48, 12),
        (1.0, 0.1, 12, 48, 12),
    ],
)
def test_the_ends_of_the_score_interval_solve_its_equation(
    mean: float, error: float, tasks: int, episodes: int, size: float
) -> None:
    quantile = stats.t.ppf((1 + LEVEL) / 2, tasks - 1)

    def beyond(p: float) -> float:
        return float((mean - p) ** 2 - quantile**2 * p * (1 - p) / size)

    found = score_interval(mean, error, tasks, episodes)
    assert found is not None
    low = optimize.brentq(beyond, 0, min(mean, 1 - 1e-9)) if mean > 0 else 0.0
    high = optimize.brentq(beyond, max(mean, 1e-9), 1) if mean < 1 else 1.0
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert score_interval(mean, error, 1, episodes) is None


def half_width_by_hand(values: Floats, resamples: int, seed: int) -> float:
    """Draw tasks with replacement and studentize each resample by its own error."""
    tasks = values.size
    rng = np.random.default_rng([seed, tasks])
    ratios = []
    for counts in rng.multinomial(tasks, np.full(tasks, 1 / tasks), size=resamples):
        drawn = np.repeat(values, counts)
        shift = abs(drawn.mean() - values.mean())
        # As the sample's own error, with the spread around the resample's mean.
        error = sqrt(((drawn - drawn.mean()) ** 2).sum() / (tasks * (tasks - 1)))
        flat = np.unique(drawn).size == 1
        ratios.append((0.0 if shift < 1e-9 else np.inf) if flat else shift / error)
    # The smallest value with 95 % of (resamples + 1) at or below it.
    rank = int(np.ceil(LEVEL * (resamples + 1)))
    return float(sorted(ratios)[rank - 1] * stats.sem(values))


def test_the_bootstrap_is_resampling_by_hand_column_by_column() -> None:
    draw = np.random.default_rng(7)
    columns = np.column_stack(
        [draw.normal(0.2, 1, 13), draw.integers(0, 2, 13), draw.integers(-4, 5, 13) / 4]
    ).astype(np.float64)
    found = compute_half_widths(columns, 199, 5)
    expected = [half_width_by_hand(column, 199, 5) for column in columns.T]
    assert found.tolist() == pytest.approx(expected)
    # Another number of resamples, whose rank is no whole number, and another seed.
    assert compute_half_widths(columns[:, :1], 250, 6)[0] == pytest.approx(
        half_width_by_hand(columns[:, 0], 250, 6)
    )
    intervals = bootstrap_intervals(columns, None)
    for column, each in zip(columns.T, intervals, strict=True):
        half = half_width_by_hand(column, RESAMPLES, SEED)
        expected_ends = (column.mean() - half, column.mean() + half)
        assert each is not None
        assert (each.low, each.high) == pytest.approx(expected_ends)
        alone = bootstrap_interval(column, None)
        assert alone is not None
        assert (alone.low, alone.high) == pytest.approx((each.low, each.high))
    within = bootstrap_intervals(columns, (0.15, 0.25))[0]
    assert within == bootstrap_interval(columns[:, 0], (0.15, 0.25)) == Interval(0.15, 0.25)
    first = columns[:, :1]
    other = bootstrap_interval(columns[:, 0], None, seed=5)
    assert [other] == bootstrap_intervals(first, None, seed=5) != bootstrap_intervals(first, None)


def test_the_bootstrap_is_undefined_where_over_one_resample_in_twenty_is_flat() -> None:
    # With one of 20 tasks moved, (19/20)^20 = 36 % of resamples lack it; with six, 0.08 %.
    for moved, defined in ((1, False), (2, False), (3, True), (6, True), (20, False)):
        values = np.full(20, 0.1)
        values[:moved] = 0.7
        half = compute_half_widths(values[:, None], 999, 3)[0]
        by_hand = half_width_by_hand(values, 999, 3)
        assert half == pytest.approx(by_hand) or moved == 20
        assert (bootstrap_interval(values, None) is not None) == defined
        assert (bootstrap_intervals(values[:, None], None)[0] is not None) == defined
    # A resample of one value that is the mean has no distance either, and counts as one.
    values = np.array([-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    assert compute_half_widths(values[:, None], 999, 3)[0] == pytest.approx(
        half_width_by_hand(values, 999, 3)
    )
    assert bootstrap_interval(np.array([0.5]), None) is None
    assert bootstrap_intervals(np.zeros((1, 3)), None) == [None] * 3
    assert bootstrap_interval(np.array([0.0, 1.0]), None) is None
    # Rounding is no variation, however many tasks it is spread over; small values are.
    rounded = np.array([0.3 + 1e-16 * task for task in range(12)])
    assert bootstrap_interval(rounded, None) is None
    assert bootstrap_intervals(rounded[:, None], None) == [None]
    values = np.random.default_rng(9).normal(0.3, 1, (9, 1))
    assert compute_half_widths(values * 1e-4, 999, 3) == pytest.approx(
        compute_half_widths(values, 999, 3) * 1e-4
    )


def test_weights_are_shares_of_draws_and_cannot_be_changed_by_who_shares_them() -> None:
    weights = draw_resampling_weights(7, 50, 3)
    assert weights.shape == (50, 7)
    assert weights.sum(axis=1) == pytest.approx(np.ones(50))
    assert not weights.flags.writeable


def test_half_widths_follow_the_scale_and_divide_nothing_by_0() -> None:
    """Of three tasks one resample in nine holds one task only, whose mean lies elsewhere."""
    values = np.array([[0.0, 0.0], [0.5, 0.0], [1.0, 1.0]])
    for scale in (1.0, 1e-5):
        with np.errstate(all="raise"):
            assert compute_half_widths(values * scale, 999, 1).tolist() == [np.inf, np.inf]
    many = np.arange(12.0)[:, None] ** 2
    wide, narrow = (compute_half_widths(many * scale, 999, 1)[0] for scale in (1.0, 1e-5))
    assert narrow == pytest.approx(wide * 1e-5)
