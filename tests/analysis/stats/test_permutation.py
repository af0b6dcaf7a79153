"""The sign-flip test against enumeration in whole numbers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from emobench.analysis.stats.permutation import (
    DRAWS,
    EXACT,
    draw_signs,
    exact_p,
    random_p,
    sign_flip,
)


def by_enumeration(tenths: list[int]) -> float:
    """Return p in whole numbers, where sums that are equal are equal."""
    flips = list(product([-1, 1], repeat=len(tenths)))
    sums = [
        abs(sum(sign * each for sign, each in zip(signs, tenths, strict=True))) for signs in flips
    ]
    return sum(each >= abs(sum(tenths)) for each in sums) / len(flips)


def test_equal_sums_are_equal_whatever_the_rounding_for_each_column() -> None:
    columns = [[1, 2, 3, -3], [1, 1, 1, 7], [3, -6, 3, 1], [1, 2, 4, 8], [-7, 1, 1, 1]]
    # However large the values are, and whatever those of the other columns.
    scales = np.array([1e9 / 3, 1e-3 / 3, 0.1, 1e6 / 7, 0.1])
    found = exact_p(np.array(columns, dtype=np.float64).T * scales)
    assert found.tolist() == [by_enumeration(column) for column in columns]
    for column in columns:
        assert sign_flip(np.array([0.0, *column, 0.0]) * 0.1) == (
            by_enumeration(column),
            "exact, 16 sign flips",
        )


def test_no_difference_has_no_p_and_none_that_is_other_than_0_has_1() -> None:
    assert sign_flip(np.array([])) == (None, "")
    assert sign_flip(np.zeros(3)) == (1.0, "exact, 1 sign flip")
    assert sign_flip(np.array([0.5])) == (1.0, "exact, 2 sign flips")


def test_up_to_14_differences_are_flipped_in_all_ways_and_more_at_random() -> None:
    assert EXACT == 14
    values = np.random.default_rng(1).normal(0.3, 1, 15)
    zeros = np.zeros(20)
    assert sign_flip(np.append(values[:14], zeros))[1] == "exact, 16384 sign flips"
    assert sign_flip(values[:14])[0] == float(exact_p(values[:14, None])[0])
    p, how = sign_flip(values)
    assert how == "9999 random sign flips"
    assert p == float(random_p(values[:, None])[0])
    assert sign_flip(values, seed=3)[0] == float(random_p(values[:, None], 3)[0]) != p
    # The zeros are there, so that all contrasts of a study share one set of draws.
    padded = np.append(values, zeros)
    assert sign_flip(padded)[0] == float(random_p(padded[:, None])[0])


def test_the_random_p_counts_the_data_as_one_of_the_flips() -> None:
    columns = np.random.default_rng(2).normal(0.2, 1, (16, 2))
    signs = draw_signs(16, DRAWS, 4)
    sums = [[abs(float(row @ column)) for row in signs] for column in columns.T]
    expected = [
        (sum(each >= abs(column.sum()) for each in found) + 1) / (DRAWS + 1)
        for column, found in zip(columns.T, sums, strict=True)
    ]
    assert random_p(columns, 4).tolist() == pytest.approx(expected)


def test_ties_are_found_at_any_scale() -> None:
    differences = np.array([0.1, 0.2, -0.3, 0.7, 0.9, 1.1])
    expected = sign_flip(differences)
    assert [sign_flip(differences * scale) for scale in (1e-6, 1e12)] == [expected] * 2
