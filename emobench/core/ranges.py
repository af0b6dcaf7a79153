"""Whole numbers and ranges of them as people and Slurm write them: 0-4,12."""

from __future__ import annotations

import re
from collections.abc import Iterable

FORM = "a number, a range such as 0-19, or several with commas such as 0-4,12"
_PART = re.compile(r"([0-9]{1,6})(?:\s*-\s*([0-9]{1,6})(?::([1-9][0-9]{0,5}))?)?")


def parse_ranges(text: str, *, steps: bool = False) -> list[range]:
    """Return the ranges of a text in its order, a single number as a range of one.

    `steps` allows Slurm's third part, as in 0-6:3. Raises ValueError that says what is wrong.

    >>> parse_ranges("7, 0-4")
    [range(7, 8), range(0, 5)]
    """
    ranges = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None or (match[3] and not steps):
            raise ValueError(f"'{part.strip()}' is no number and no range")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"'{part.strip()}' runs backwards")
        ranges.append(range(first, last + 1, int(match[3] or 1)))
    return ranges


def parse_numbers(text: str, *, steps: bool = False) -> list[int]:
    """Return the numbers of `parse_ranges`, each once, in the order of the text."""
    found = (number for each in parse_ranges(text, steps=steps) for number in each)
    return list(dict.fromkeys(found))


def format_ranges(numbers: Iterable[int], *, dash: str = "-", comma: str = ", ") -> str:
    """Return the numbers in ascending order, those that follow each other as a range.

    >>> format_ranges([7, 0, 1, 2, 2])
    '0-2, 7'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return comma.join(str(a) if a == b else f"{a}{dash}{b}" for a, b in runs)
