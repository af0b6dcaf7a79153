"""From labels to recognition, decay and agreement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emobench.analysis.judge.manipulation import (
    JudgedTurn,
    cohens_kappa,
    compare_judges,
    measure_manipulation,
)
from emobench.analysis.transcript.markers import Marked
from emobench.core.outcomes import Condition
from emobench.store.labels import Label

PLAIN = Marked(False, False, False, 0, 0, 5)
DEMANDING = Marked(False, False, True, 0, 0, 5)
TARGETS = {"control": "neutral", "anger": "anger", "sarcastic": None}


def turn(
    variant: str,
    task: int,
    number: int,
    emotion: str | None,
    intensity: int = 2,
    marked: Marked = PLAIN,
) -> JudgedTurn:
    label = Label(emotion, 0 if emotion == "neutral" else intensity) if emotion else None
    condition = Condition("retail", "act", "a", variant)
    return JudgedTurn(condition, task, 1, number, label, marked)


def test_recognition_against_control() -> None:
    seen = measure_manipulation(
        "judge",
        [
            turn("control", 1, 1, "neutral"),
            turn("control", 1, 2, "anger"),
            turn("control", 2, 1, "neutral"),
            turn("anger", 1, 1, "anger"),
            turn("anger", 1, 2, "anger", 3),
            turn("anger", 2, 1, "anger"),
            turn("anger", 2, 2, "frustration", 1),
            turn("anger", 2, 3, None),
            turn("anger", 3, 1, "anger", 0),
            turn("sarcastic", 1, 1, "anger"),
        ],
        TARGETS,
    )
    control, anger, own = seen.conditions
    assert (anger.turns, anger.judged, anger.missing, anger.conversations) == (6, 5, 1, 3)
    assert anger.labels == {
        "neutral": 1,
        "frustration": 1,
        "anxiety": 0,
        "anger": 3,
        "confusion": 0,
    }
    assert anger.recognised is not None and anger.recognised.value == pytest.approx(3 / 5)
    assert anger.conversations_recognised is not None
    assert anger.conversations_recognised.value == pytest.approx(2 / 3)
    # Task 1: 1 - 1/2, task 2: 1/2 - 0.
    assert anger.above_control is not None and anger.above_control.value == pytest.approx(0.5)
    assert anger.emotional_excess is not None
    assert anger.emotional_excess.value == pytest.approx((0.5 + 1) / 2)
    assert anger.intensity.value == pytest.approx((2 + 3 + 2 + 1) / 5)
    assert control.target == "neutral" and control.above_control is None
    assert own.target is None and own.recognised is None
    assert own.emotional.value == 1.0


def test_a_neutral_turn_shows_no_emotion_whatever_its_intensity() -> None:
    """A judge that is not held to the schema gives it 2 at times."""
    plain = JudgedTurn(
        Condition("retail", "act", "a", "anger"), 1, 1, 1, Label("neutral", 2), PLAIN
    )
    (seen,) = measure_manipulation("judge", [plain], TARGETS).conditions
    assert (seen.emotional.value, seen.intensity.value) == (0.0, 0.0)
    assert seen.conversations_recognised is not None
    assert seen.conversations_recognised.value == 0.0
    assert [(point.recognised, point.intensity) for point in seen.decay] == [(0.0, 0.0)]
    assert seen.labels["neutral"] == 1


def test_decay_over_turns() -> None:
    turns = [turn("anger", 1, number, "anger" if number < 3 else "neutral") for number in (1, 2)]
    turns += [turn("anger", 2, number, "neutral") for number in range(1, 14)]
    (seen,) = measure_manipulation("judge", turns, TARGETS).conditions
    points = {point.turn: point for point in seen.decay}
    assert list(points) == [*map(str, range(1, 10)), "10+"]
    assert (points["1"].turns, points["1"].recognised, points["1"].intensity) == (2, 0.5, 1.0)
    assert (points["10+"].turns, points["10+"].recognised) == (4, 0.0)


def test_agreement_with_markers() -> None:
    turns = [turn("anger", 1, 1, "anger", marked=DEMANDING), turn("anger", 1, 2, "neutral")]
    found = {each.what: each for each in measure_manipulation("j", turns, TARGETS).with_markers}
    assert found["judge says anger, marker demands"].kappa == 1.0
    assert found["judge says anxiety, marker reassurance"].kappa is None
    assert found["judge says anxiety, marker reassurance"].observed == 1.0


def test_kappa_of_a_textbook() -> None:
    # 2 x 2 table 20, 5, 10, 15: agreement .7, by chance .5.
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa([]) is None
    assert cohens_kappa([("y", "y")] * 3) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), max_size=40))
def test_kappa_against_statsmodels(pairs: list[tuple[str, str]]) -> None:
    from statsmodels.stats.inter_rater import cohens_kappa as reference
    from statsmodels.stats.inter_rater import to_table

    found = cohens_kappa(pairs)
    assert cohens_kappa([(other, one) for one, other in pairs]) == (
        None if found is None else pytest.approx(found)
    )
    labels = {label for pair in pairs for label in pair}
    if found is not None and len(labels) > 1:
        numbers = [["abc".index(label) for label in pair] for pair in pairs]
        table, _ = to_table(numbers, bins=None)
        assert found == pytest.approx(reference(table, return_results=False))


def test_two_judges_on_the_turns_that_both_know() -> None:
    labels: dict[str, dict[str, Label | None]] = {
        "one": {"a": Label("anger", 2), "b": Label("neutral", 0), "c": None},
        "two": {"a": Label("anger", 1), "b": Label("anger", 2), "c": Label("anger", 2)},
    }
    (found,) = compare_judges(labels, ["a", "a", "b", "c", "unknown"])
    assert (found.what, found.turns) == ("one and two", 3)
    assert found.observed == pytest.approx(2 / 3)
    assert compare_judges({"one": {}}, ["a"]) == ()
