"""Arguments that several commands take, and checks of their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from emobench.core.ranges import FORM, parse_numbers

Number = TypeVar("Number", int, float)


def add_run_dir(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add the run directory; `core.plan.find_run_dir` takes the newest for one left out."""
    parser.add_argument(
        "run_dir",
        nargs=None if required else "?",
        metavar="RUN_DIR",
        help="e.g. runs/quickstart" + ("" if required else " (default: the newest below runs/)"),
    )


def add_json(parser: argparse.ArgumentParser, text: str = "for machines") -> None:
    parser.add_argument("--json", action="store_true", help=text)


def make_number_type(
    kind: type[Number], accepts: Callable[[Number], bool], allowed: str
) -> Callable[[str], Number]:
    """Return a `type` for argparse: a number that is accepted, or an error that says which are."""

    def parse(text: str) -> Number:
        with suppress(ValueError):
            value = kind(text)
            if accepts(value):
                return value
        raise argparse.ArgumentTypeError(f"{text!r}: give {allowed}")

    return parse


count = make_number_type(int, lambda value: value >= 1, "a whole number from 1")


def parse_number_argument(text: str) -> tuple[int, ...]:
    """Return numbers and ranges of them, as a `type` for argparse; else raise an error that says
    the form."""
    try:
        return tuple(parse_numbers(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; give {FORM}") from None
