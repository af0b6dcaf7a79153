"""Markers count what they say, and hold nothing that a prompt dictates."""

from __future__ import annotations

import pytest

from emobench.analysis.transcript.markers import (
    LISTS,
    Marked,
    compile_pattern,
    mark,
    mark_turns,
    read_entries,
    summarise_by_condition,
)
from emobench.config.variants import load_builtin
from emobench.core.outcomes import Condition
from emobench.core.sweep import BUILTIN_VARIANTS
from tests.support.conversations import conversation


@pytest.mark.parametrize("variant", BUILTIN_VARIANTS)
def test_no_entry_occurs_in_a_variants_text(variant: str) -> None:
    text = " ".join(load_builtin(variant).text.lower().split())
    assert [entry for each in read_entries().values() for entry in each if entry in text] == []
    assert [name for name in LISTS if compile_pattern(name).search(text)] == []


def test_lists_share_no_entry_and_are_in_lower_case() -> None:
    every = [entry for each in read_entries().values() for entry in each]
    assert len(set(every)) == len(every)
    assert all(entry == " ".join(entry.lower().split()) for entry in every)


def test_every_entry_is_found_by_its_own_marker() -> None:
    for name in LISTS:
        for entry in read_entries()[name]:
            text = f"So, {entry.replace('*', 'a whole restocking fee').upper()}?"
            assert getattr(mark(text), name), entry


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("Yes, please go ahead.", Marked(False, False, False, 0, 0, 4)),
        ("Are you sure? I don\u2019t want to lose it!", Marked(True, False, False, 0, 1, 9)),
        ("What does a fare class mean?", Marked(False, True, False, 0, 0, 6)),
        ("I INSIST! Sort this out, ASAP!!", Marked(False, False, True, 2, 3, 6)),
        ("unsure, are youth fares okay", Marked(False, False, False, 0, 0, 5)),
    ],
)
def test_a_turn(text: str, marked: Marked) -> None:
    assert mark(text) == marked


def test_capitals_that_others_wrote_first_are_no_emphasis() -> None:
    talk = conversation("airline", 15, "LAS to DEN, NOW", "With a GOLD card?", "GOLD, YES", "ok")
    assert [turn.capitals for turn in mark_turns(talk)] == [1, 1]


def test_differences_from_control_are_paired_by_task() -> None:
    def turn(exclamations: int) -> Marked:
        return Marked(False, False, False, 0, exclamations, 5)

    control, anger = (Condition("retail", "act", "a", name) for name in ("control", "anger"))
    found = summarise_by_condition(
        [
            (control, 1, (turn(0), turn(2))),
            (control, 2, (turn(0),)),
            (anger, 1, (turn(3),)),
            (anger, 2, (turn(4), turn(0))),
            (anger, 9, (turn(50),)),
        ]
    )
    assert found[0].differences == {}
    shown = found[1].differences["exclamations"]
    # Task 1: 3 - 1; task 2: 2 - 0; task 9 has no control.
    assert (shown.value, shown.tasks) == (2.0, 2)
    assert found[1].measures["exclamations"].value == pytest.approx(57 / 4)
    assert found[1].turns == 4
