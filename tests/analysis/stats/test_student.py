"""Quantiles against the printed tables (NIST/SEMATECH handbook, 1.3.6.7.2)."""

from __future__ import annotations

import pytest
from scipy import stats

from emobench.analysis.stats.student import t_quantile, two_sided

TABLE = {
    (1, 0.95): 12.706,
    (2, 0.95): 4.303,
    (3, 0.95): 3.182,
    (5, 0.95): 2.571,
    (10, 0.95): 2.228,
    (49, 0.95): 2.010,
    (100, 0.95): 1.984,
    (1, 0.9): 6.314,
    (4, 0.99): 4.604,
    (30, 0.99): 2.750,
}


@pytest.mark.parametrize(("key", "expected"), TABLE.items())
def test_quantile_is_that_of_the_table(key: tuple[int, float], expected: float) -> None:
    assert t_quantile(*key) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 20, 164])
def test_quantile_inverts_the_distribution(df: int) -> None:
    assert two_sided(t_quantile(df, 0.8), df) == pytest.approx(0.8, abs=1e-12)


@pytest.mark.parametrize("df", [*range(1, 13), 99, 100])
def test_the_distribution_is_scipys(df: int) -> None:
    for t in (0.0, 0.1, 1.0, 2.5, 40.0):
        assert two_sided(t, df) == pytest.approx(2 * stats.t.cdf(t, df) - 1, abs=1e-12)
    for level in (0.01, 0.5, 0.9875, 0.9999):
        assert t_quantile(df, level) == pytest.approx(stats.t.ppf((1 + level) / 2, df))


@pytest.mark.parametrize(("df", "level"), [(0, 0.95), (5, 0.0), (5, 1.0)])
def test_what_has_no_quantile_is_refused(df: int, level: float) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(df, level)
