"""Counts with their nouns, and durations."""

from __future__ import annotations

import pytest

from emobench.core.wording import format_duration, pluralise


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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "1 h 00 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
