"""Counts with their nouns."""

from __future__ import annotations

import pytest

from emobench.core.wording import pluralise


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 minutes"),
        (1, "1 minute"),
        (1200, "1,200 minutes"),
        (1.0, "1 minute"),
        (0.5, "0.5 minutes"),
    ],
)
def test_a_noun_follows_its_count(count: float, expected: str) -> None:
    assert pluralise(count, "minute") == expected
