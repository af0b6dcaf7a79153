"""One notation of ranges for sweep files, the command line, reports and Slurm's arrays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emobench.core.ranges import format_ranges, parse_numbers, parse_ranges


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("7", [7]),
        ("0-4", [0, 1, 2, 3, 4]),
        (" 9-11 , 0 - 1,10", [9, 10, 11, 0, 1]),
        ("007", [7]),
    ],
)
def test_numbers_keep_the_order_of_the_text(text: str, numbers: list[int]) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no number"),
        ("1,", "'' is no number"),
        ("1-", "'1-' is no number"),
        ("-1", "'-1' is no number"),
        ("1.5", "'1.5' is no number"),
        ("\u0661", "is no number"),
        ("1234567", "is no number"),
        ("3,9-2", "'9-2' runs backwards"),
        ("0-6:3", "'0-6:3' is no number"),
    ],
)
def test_anything_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_ranges(text)


def test_steps_are_slurms_alone() -> None:
    assert parse_numbers("0-6:3,9", steps=True) == [0, 3, 6, 9]
    with pytest.raises(ValueError, match="no range"):
        parse_ranges("0-6:0", steps=True)


@given(st.sets(st.integers(0, 2000), min_size=1))
def test_what_is_written_is_read_back(numbers: set[int]) -> None:
    assert parse_numbers(format_ranges(numbers)) == sorted(numbers)
    assert parse_numbers(format_ranges(numbers, comma=",")) == sorted(numbers)


def test_written_ranges_are_short() -> None:
    assert format_ranges([4, 0, 1, 2, 7, 3]) == "0-4, 7"
    assert format_ranges([0, 1, 9], dash="\u2013") == "0\u20131, 9"
    assert format_ranges([]) == ""
