"""Adjusted p-values against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from emobench.analysis.stats.multiplicity import benjamini_hochberg, holm


@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_as_statsmodels(size: int) -> None:
    p = np.random.default_rng(size).random(size) ** 3
    p[-1] = p[0]
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p.tolist()) == pytest.approx(multipletests(p, method="fdr_bh")[1])


@pytest.mark.parametrize("undefined", [0, 2])
@pytest.mark.parametrize(
    "values",
    [[0.0], [1.0, 0.0, 0.02], [0.02, 0.02, 0.01, 0.9], [0.4, 0.05, 0.05, 0.06, 1.0, 1e-4]],
)
def test_as_statsmodels_with_ties_and_ends_and_what_is_undefined(
    values: list[float], undefined: int
) -> None:
    family = [*values, *[1.0] * undefined]
    given_p = [*values, *[None] * undefined]
    for adjust, method in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
        expected = multipletests(family, method=method)[1][: len(values)]
        found = adjust(given_p)
        assert found[: len(values)] == pytest.approx(expected)
        assert found[len(values) :] == [None] * undefined


def test_what_is_undefined_counts_in_the_family() -> None:
    assert holm([0.01, None, 0.02]) == [pytest.approx(0.03), None, pytest.approx(0.04)]
    assert benjamini_hochberg([0.01, None]) == [pytest.approx(0.02), None]
    assert holm([]) == []
    assert holm([None]) == [None]
    for wrong in (1.5, -0.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm([0.5, None, wrong])
