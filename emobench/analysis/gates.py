"""The four gates before a headline: coverage, power, manipulation, fidelity.

Pure functions from figures and declared thresholds to verdicts. A gate that could not be evaluated
is "not checked", which is never "passed". What a variant fails is a label that stands wherever its
effect is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from emobench.analysis.judge.manipulation import VariantManipulation
from emobench.analysis.stats.estimates import Difference, Interval, Mean
from emobench.analysis.stats.power import DesignPower
from emobench.analysis.transcript.fidelity import VariantFidelity
from emobench.core.gates import FidelityGate, Gates, ManipulationGate
from emobench.core.outcomes import CONTROL, Condition, Group
from emobench.core.wording import pluralise
from emobench.store.labels import NEUTRAL

Verdict = Literal["passed", "failed", "not_checked"]
Bound = Literal["at least", "at most"]
Unit = Literal["%", "points"]
Gate = Literal["coverage", "power", "manipulation", "fidelity"]
GATES: tuple[Gate, ...] = ("coverage", "power", "manipulation", "fidelity")
LEAST_JUDGED = 0.9
"""Share of a variant's turns that need a label before the judge's verdict on it counts."""


@dataclass(frozen=True)
class Criterion:
    """One threshold and what was found."""

    what: str
    value: float | None
    low: float | None
    high: float | None
    """95 % interval of the value, where there is one."""
    bound: Bound
    threshold: float
    verdict: Verdict
    unit: Unit = "%"
    """points: a difference of two shares or of two mean rewards, of 100."""

    @property
    def near(self) -> bool:
        """Whether the interval holds the threshold: more data might turn the verdict."""
        if self.low is None or self.high is None:
            return False
        return self.low <= self.threshold <= self.high

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.what}: not known"
        interval = ""
        if self.low is not None and self.high is not None:
            interval = (
                f" (95 % interval {_format_percent(self.low)} to {_format_percent(self.high)})"
            )
        return (
            f"{self.what}: {_format_percent(self.value)} {self.unit}{interval}, wanted "
            f"{self.bound} {_format_percent(self.threshold)}"
        )


@dataclass(frozen=True)
class GateResult:
    """One gate for one variant in one group."""

    condition: Condition
    gate: Gate
    verdict: Verdict
    reason: str
    """In plain words: what failed, or why nothing could be said, or the figures that passed."""
    criteria: tuple[Criterion, ...] = ()


@dataclass(frozen=True)
class Label:
    """What stands beside an effect."""

    gate: Gate
    verdict: Literal["failed", "not_checked"]
    text: str
    """E.g. 'fails the manipulation gate: ...'."""


@dataclass(frozen=True)
class Coverage:
    """Episodes of one variant in one group."""

    condition: Condition
    planned: int
    with_result: int
    begun: int = 0
    """At least once."""
    lost: int = 0
    """Of these, those whose first attempt gave no result that counts."""

    @property
    def share(self) -> float | None:
        return self.with_result / self.planned if self.planned else None

    @property
    def lost_share(self) -> float | None:
        """Of the first attempts."""
        return self.lost / self.begun if self.begun else None


def evaluate(
    gates: Gates,
    coverage: Iterable[Coverage],
    *,
    power: Mapping[Group, DesignPower],
    manipulation: Mapping[Condition, VariantManipulation],
    fidelity: Mapping[Condition, VariantFidelity],
) -> tuple[GateResult, ...]:
    """Return every gate of every planned variant, in the order of `coverage`.

    `power` is by group. A variant without an entry in one of the others is not checked there.
    Control has the gates that need no contrast: coverage and fidelity.
    """
    results = []
    by_condition = {found.condition: found for found in coverage}
    for condition, found in by_condition.items():
        control = by_condition.get(condition.control)
        results.append(_evaluate_coverage(gates, found, control))
        if condition.variant != CONTROL:
            results.append(_evaluate_power(condition, power.get(condition.group)))
            results.append(
                _evaluate_manipulation(gates.manipulation, condition, manipulation.get(condition))
            )
        results.append(_evaluate_fidelity(gates.fidelity, condition, fidelity.get(condition)))
    return tuple(results)


def find_labels(results: Iterable[GateResult], condition: Condition) -> tuple[Label, ...]:
    """Return what has to stand beside a variant's effect: its own gates, and control's that
    failed."""
    found = []
    for result in results:
        if result.verdict == "passed":
            continue
        if result.condition == condition:
            said = "fails" if result.verdict == "failed" else "is not checked by"
            text = f"{said} the {result.gate} gate: {result.reason}"
            found.append(Label(result.gate, result.verdict, text))
        elif result.condition == condition.control and result.verdict == "failed":
            text = f"its control fails the {result.gate} gate: {result.reason}"
            found.append(Label(result.gate, "failed", text))
    return tuple(found)


def decide_overall_verdict(results: Iterable[GateResult]) -> Verdict:
    """Return failed if any gate failed; passed only if all passed."""
    return _find_worst([result.verdict for result in results])


def _evaluate_coverage(gates: Gates, found: Coverage, control: Coverage | None) -> GateResult:
    what = f"share of its {found.planned} planned episodes with a result"
    criteria = [_check_value(what, found.share, "at least", gates.coverage)]
    own, other = found.lost_share, control.lost_share if control else None
    if found is not control and own is not None and other is not None:
        more = "more" if own >= other else "fewer"
        what = f"first attempts lost, {more} than in control"
        most = gates.lost_attempts
        criteria.append(_check_value(what, abs(own - other), "at most", most, unit="points"))
    return _build_result(found.condition, "coverage", tuple(criteria))


def _evaluate_power(condition: Condition, power: DesignPower | None) -> GateResult:
    if power is None:
        reason = "there is no control to compare with"
        return GateResult(condition, "power", "not_checked", reason)
    design = power.design
    size = f"{pluralise(design.tasks, 'task')} x {pluralise(design.trials, 'trial')}"
    what = (
        f"smallest drop in mean reward that {size} detect with {_format_percent(power.power)} % "
        "power"
    )
    verdict: Verdict = "passed" if power.enough else "failed"
    criterion = Criterion(
        what, power.smallest, None, None, "at most", power.wanted, verdict, "points"
    )
    said = str(criterion)
    if power.smallest is None:
        said = f"{what}: none at all, wanted at most {_format_percent(power.wanted)} points"
    elif power.wanted > power.most:
        most = _format_percent(power.most)
        said = f"{said}, which no drop can be: control's mean is {most} points"
    said += f" (tasks as hard as {power.difficulty.source})"
    reason = said if power.enough else f"underpowered: {said}"
    return GateResult(condition, "power", verdict, reason, (criterion,))


def _evaluate_manipulation(
    gate: ManipulationGate, condition: Condition, seen: VariantManipulation | None
) -> GateResult:
    def not_checked(reason: str) -> GateResult:
        return GateResult(condition, "manipulation", "not_checked", reason)

    if seen is None or not seen.judged:
        return not_checked("no judge has labelled its turns (emobench judge)")
    if seen.target is None:
        return not_checked(
            "it has no label to look for (judged_as of the variant in the sweep file)"
        )
    if seen.judged < LEAST_JUDGED * seen.turns:
        return not_checked(f"only {seen.judged} of {seen.turns} user turns have a label")
    if seen.target == NEUTRAL:
        excess = _check_difference(
            "excess over control of the share of emotional turns",
            seen.emotional_excess,
            "at most",
            gate.placebo,
        )
        return _build_result(condition, "manipulation", (excess,))
    assert seen.recognised is not None and seen.conversations_recognised is not None
    return _build_result(
        condition,
        "manipulation",
        (
            _check_mean("share of turns recognised", seen.recognised, "at least", gate.turns),
            _check_mean(
                "share of conversations recognised",
                seen.conversations_recognised,
                "at least",
                gate.conversations,
            ),
            _check_difference(
                "share of turns recognised, above control's",
                seen.above_control,
                "at least",
                gate.above_control,
            ),
        ),
    )


def _evaluate_fidelity(
    gate: FidelityGate, condition: Condition, seen: VariantFidelity | None
) -> GateResult:
    if seen is None or not seen.conversations:
        reason = "there is no conversation to look at"
        return GateResult(condition, "fidelity", "not_checked", reason)
    criteria = [
        _check_mean("share of facts conveyed", seen.measures["conveyed"], "at least", gate.conveyed)
    ]
    if condition.variant != CONTROL:
        criteria.append(
            _check_difference(
                "facts conveyed, against control",
                seen.differences.get("conveyed"),
                "at least",
                -gate.conveyed_loss,
            )
        )
        for name, what, most in (
            ("invented", "conversations with an invented value", gate.invented),
            ("contradicted", "conversations with a contradicted value", gate.contradicted),
            ("early_stops", "conversations ended too early", gate.early_stops),
            ("role_flips", "conversations in which the user speaks as the agent", gate.role_flips),
        ):
            criteria.append(
                _check_difference(
                    f"{what}, against control", seen.differences.get(name), "at most", most
                )
            )
    return _build_result(condition, "fidelity", tuple(criteria))


def _check_mean(what: str, found: Mean, bound: Bound, threshold: float) -> Criterion:
    return _check_value(what, found.value, bound, threshold, found.interval)


def _check_difference(
    what: str, found: Difference | None, bound: Bound, threshold: float
) -> Criterion:
    if found is None:
        return _check_value(what, None, bound, threshold, unit="points")
    return _check_value(what, found.value, bound, threshold, found.interval, "points")


def _check_value(
    what: str,
    value: float | None,
    bound: Bound,
    threshold: float,
    interval: Interval | None = None,
    unit: Unit = "%",
) -> Criterion:
    verdict: Verdict = "not_checked"
    if value is not None:
        # Rounding must not fail what lies on the threshold.
        met = value >= threshold - 1e-9 if bound == "at least" else value <= threshold + 1e-9
        verdict = "passed" if met else "failed"
    low, high = (interval.low, interval.high) if interval else (None, None)
    return Criterion(what, value, low, high, bound, threshold, verdict, unit)


def _build_result(condition: Condition, gate: Gate, criteria: tuple[Criterion, ...]) -> GateResult:
    verdict = _find_worst([criterion.verdict for criterion in criteria])
    shown = [criterion for criterion in criteria if criterion.verdict == verdict]
    return GateResult(condition, gate, verdict, "; ".join(map(str, shown)), criteria)


def _find_worst(verdicts: list[Verdict]) -> Verdict:
    for verdict in ("failed", "not_checked"):
        if verdict in verdicts:
            return "failed" if verdict == "failed" else "not_checked"
    return "passed" if verdicts else "not_checked"


def _format_percent(share: float) -> str:
    """Return a share in percent, with the figures that a threshold may have.

    >>> _format_percent(0.95), _format_percent(-0.034), _format_percent(0.0)
    ('95', '-3.4', '0')
    """
    return f"{round(share * 100, 1) + 0.0:g}"
