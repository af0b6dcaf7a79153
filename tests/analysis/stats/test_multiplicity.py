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


def test_what_is_undefined_counts_in_the_family() -> None:
    assert holm([0.01, None, 0.02]) == [pytest.approx(0.03), None, pytest.approx(0.04)]
    assert benjamini_hochberg([0.01, None]) == [pytest.approx(0.02), None]
    assert holm([]) == []
    assert holm([None]) == [None]
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.5])
