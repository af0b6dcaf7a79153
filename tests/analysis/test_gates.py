"""Verdicts follow from figures and thresholds; what is not known never passes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from emobench.analysis.gates import (
    Coverage,
    GateResult,
    Verdict,
    decide_overall_verdict,
    evaluate,
    find_labels,
)
from emobench.analysis.judge.manipulation import (
    JudgedTurn,
    VariantManipulation,
    measure_manipulation,
)
from emobench.analysis.stats.estimates import Difference, Interval, Mean
from emobench.analysis.stats.power import Design, DesignPower, assess_design
from emobench.analysis.stats.task_model import PUBLISHED
from emobench.analysis.transcript.fidelity import MEASURES, VariantFidelity
from emobench.analysis.transcript.markers import Marked
from emobench.core.gates import Gates
from emobench.core.outcomes import Condition
from emobench.store.labels import Label

ANGER = Condition("retail", "tool-calling", "a", "anger")
PLACEBO = replace(ANGER, variant="placebo")
CONTROL = ANGER.control
FULL = (100, 100)
"""Planned episodes, and those with a result."""


def power(tasks: int, trials: int) -> DesignPower:
    design = Design("retail", "tool-calling", "a", tasks, trials, 2)
    return assess_design(design, PUBLISHED["retail"], 0.1)


def seen(condition: Condition, *emotions: str | None) -> list[JudgedTurn]:
    """One turn in each task."""
    plain = Marked(False, False, False, 0, 0, 3)
    return [
        JudgedTurn(condition, task, 1, 1, Label(emotion, 2) if emotion else None, plain)
        for task, emotion in enumerate(emotions)
    ]


def judged(*turns: JudgedTurn, **own: str) -> dict[Condition, VariantManipulation]:
    targets = {"control": "neutral", "placebo": "neutral", "anger": "anger", **own}
    found = measure_manipulation("judge", turns, targets)
    return {each.condition: each for each in found.conditions}


def faithful(
    condition: Condition, share: float | None = 0.9, /, **differences: float
) -> VariantFidelity:
    def difference(name: str) -> Difference:
        value = differences.get(name, 0.0)
        interval = Interval(value - 0.01, value + 0.01)
        return Difference(name, value, 100, 0, interval, None, None, None, "")

    return VariantFidelity(
        condition,
        conversations=100,
        left_out=0,
        measures={"conveyed": Mean("conveyed", share, 100, 0, 100, None, None)},
        differences={name: difference(name) for name in MEASURES}
        if condition.variant != "control"
        else {},
    )


def covered(counts: dict[Condition, tuple[int, int]]) -> list[Coverage]:
    return [Coverage(condition, *each) for condition, each in counts.items()]


def result(
    gate: str,
    condition: Condition = ANGER,
    *,
    gates: Gates | None = None,
    coverage: dict[Condition, tuple[int, int]] | None = None,
    design: DesignPower | None = None,
    turns: list[JudgedTurn] | None = None,
    fidelity: dict[Condition, VariantFidelity] | None = None,
) -> GateResult:
    (found,) = (
        each
        for each in evaluate(
            gates or Gates(),
            covered(coverage or {CONTROL: FULL, condition: FULL}),
            power={condition.group: design} if design else {},
            manipulation=judged(*turns) if turns else {},
            fidelity=fidelity or {},
        )
        if (each.gate, each.condition) == (gate, condition)
    )
    return found


@pytest.mark.parametrize(
    ("with_result", "verdict"), [(95, "passed"), (94, "failed"), (0, "failed"), (100, "passed")]
)
def test_coverage(with_result: int, verdict: Verdict) -> None:
    found = result("coverage", coverage={ANGER: (100, with_result)})
    assert found.verdict == verdict
    assert f"its 100 planned episodes with a result: {with_result} %" in found.reason


def test_nothing_planned_is_not_checked() -> None:
    assert result("coverage", coverage={ANGER: (0, 0)}).verdict == "not_checked"


def test_power_is_the_power_computations_verdict() -> None:
    assert result("power", design=power(115, 8)).verdict == "passed"
    weak = result("power", design=power(20, 1))
    assert weak.verdict == "failed"
    assert weak.reason.startswith(
        "underpowered: smallest drop in mean reward that 20 tasks x 1 trial detect"
    )
    assert result("power", design=power(2, 1)).verdict == "failed"
    assert result("power").verdict == "not_checked"


NEUTRAL = ["neutral"] * 20


@pytest.mark.parametrize(
    ("emotions", "verdict"),
    [
        (["anger"] * 20, "passed"),
        (["anger"] * 15 + ["neutral"] * 5, "passed"),
        (["anger"] * 14 + ["neutral"] * 6, "failed"),
        (["frustration"] * 20, "failed"),
        (["anger"] * 18 + [None] * 2, "passed"),
        (["anger"] * 17 + [None] * 3, "not_checked"),
        ([None] * 20, "not_checked"),
    ],
)
def test_an_emotion_has_to_be_seen(emotions: list[str | None], verdict: Verdict) -> None:
    turns = seen(CONTROL, *NEUTRAL) + seen(ANGER, *emotions)
    assert result("manipulation", turns=turns).verdict == verdict


def test_it_has_to_be_seen_more_than_in_control() -> None:
    turns = seen(CONTROL, *["anger"] * 17, *["neutral"] * 3) + seen(ANGER, *["anger"] * 20)
    found = result("manipulation", turns=turns)
    assert found.verdict == "failed"
    assert "above control's: 15 points" in found.reason
    assert result("manipulation", turns=seen(ANGER, *["anger"] * 20)).verdict == "not_checked"


def test_no_judge_is_not_checked_and_never_passed() -> None:
    found = result("manipulation")
    assert (found.verdict, found.criteria) == ("not_checked", ())
    own = replace(ANGER, variant="sarcastic")
    turns = seen(CONTROL, *NEUTRAL) + seen(own, *["anger"] * 20)
    assert result("manipulation", own, turns=turns).verdict == "not_checked"


@pytest.mark.parametrize(
    ("judged_as", "emotions", "verdict"),
    [
        ("anger", ["anger"] * 20, "passed"),
        ("anger", ["anxiety"] * 20, "failed"),
        ("neutral", ["neutral"] * 20, "passed"),
        ("neutral", ["anxiety"] * 20, "failed"),
    ],
)
def test_a_variant_of_ones_own_is_judged_as_it_says(
    judged_as: str, emotions: list[str], verdict: Verdict
) -> None:
    own = replace(ANGER, variant="mild")
    turns = seen(CONTROL, *NEUTRAL) + seen(own, *emotions)
    found = evaluate(
        Gates(),
        covered({CONTROL: FULL, own: FULL}),
        power={},
        manipulation=judged(*turns, mild=judged_as),
        fidelity={},
    )
    (result,) = (each for each in found if (each.gate, each.condition) == ("manipulation", own))
    assert result.verdict == verdict


@pytest.mark.parametrize(("emotional", "verdict"), [(2, "passed"), (3, "failed")])
def test_a_placebo_has_to_show_none(emotional: int, verdict: Verdict) -> None:
    turns = seen(CONTROL, *NEUTRAL)
    turns += seen(PLACEBO, *["anxiety"] * emotional, *["neutral"] * (20 - emotional))
    assert result("manipulation", PLACEBO, turns=turns).verdict == verdict


@pytest.mark.parametrize(
    ("differences", "failing"),
    [
        ({}, ""),
        ({"conveyed": -0.05}, ""),
        ({"conveyed": -0.06}, "facts conveyed, against control: -6 points"),
        ({"conveyed": 0.3}, ""),
        ({"invented": 0.06}, "invented"),
        ({"contradicted": 0.04}, "contradicted"),
        ({"early_stops": 0.06}, "ended too early"),
        ({"role_flips": 0.03}, "speaks as the agent"),
        ({"invented": -0.5, "think_leaks": 0.5}, ""),
    ],
)
def test_fidelity_is_relative_to_control(differences: dict[str, float], failing: str) -> None:
    found = result("fidelity", fidelity={ANGER: faithful(ANGER, **differences)})
    assert found.verdict == ("failed" if failing else "passed")
    if failing:
        assert failing in found.reason
        assert ";" not in found.reason


def test_facts_that_are_never_conveyed_fail_control_too() -> None:
    found = result("fidelity", CONTROL, fidelity={CONTROL: faithful(CONTROL, 0.4)})
    assert found.verdict == "failed"
    assert result("fidelity").verdict == "not_checked"


def test_a_verdict_near_its_threshold_says_so() -> None:
    found = result("fidelity", fidelity={ANGER: faithful(ANGER, invented=0.055)})
    (near,) = (each for each in found.criteria if each.near)
    assert (near.verdict, near.threshold) == ("failed", 0.05)


def test_thresholds_are_the_sweeps() -> None:
    strict = Gates(coverage=1.0)
    weak = {ANGER: (100, 99)}
    assert result("coverage", coverage=weak).verdict == "passed"
    assert result("coverage", gates=strict, coverage=weak).verdict == "failed"


def test_labels_stand_beside_the_effect() -> None:
    results = evaluate(
        Gates(),
        covered({CONTROL: (100, 50), ANGER: FULL, PLACEBO: FULL}),
        power={ANGER.group: power(115, 8)},
        manipulation={},
        fidelity={each: faithful(each) for each in (CONTROL, ANGER, PLACEBO)},
    )
    assert [(each.gate, each.condition.variant) for each in results if each.gate == "power"] == [
        ("power", "anger"),
        ("power", "placebo"),
    ]
    shown = find_labels(results, ANGER)
    assert [(each.gate, each.verdict) for each in shown] == [
        ("coverage", "failed"),
        ("manipulation", "not_checked"),
    ]
    assert shown[0].text.startswith("its control fails the coverage gate: ")
    assert find_labels(results, CONTROL)[0].text.startswith("fails the coverage gate: ")
    assert decide_overall_verdict(results) == "failed"
    good = [each for each in results if each.condition == ANGER]
    assert decide_overall_verdict(good) == "not_checked"
    assert (
        decide_overall_verdict([each for each in good if each.gate != "manipulation"]) == "passed"
    )
    assert decide_overall_verdict([]) == "not_checked"


@pytest.mark.parametrize(
    ("lost", "of_control", "verdict"),
    [(0, 0, "passed"), (5, 2, "passed"), (6, 2, "failed"), (2, 6, "failed"), (30, 30, "passed")],
)
def test_first_attempts_are_lost_alike(lost: int, of_control: int, verdict: Verdict) -> None:
    coverage = [Coverage(CONTROL, 100, 100, 100, of_control), Coverage(ANGER, 100, 100, 100, lost)]
    results = evaluate(Gates(), coverage, power={}, manipulation={}, fidelity={})
    found = {each.condition: each for each in results if each.gate == "coverage"}
    assert found[ANGER].verdict == verdict
    assert found[CONTROL].verdict == "passed"
    if verdict == "failed":
        more = "more" if lost > of_control else "fewer"
        assert f"first attempts lost, {more} than in control: 4 points" in found[ANGER].reason
