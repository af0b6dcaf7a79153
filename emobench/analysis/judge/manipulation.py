"""Is the emotion visible? From the judge's labels of single turns to what is said of a variant.

Pure functions. A turn without a label is missing: it enters no share, and every result says how
many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from emobench.analysis.checks_format import CheckedDifference, CheckedMean
from emobench.analysis.stats.estimates import Interval
from emobench.analysis.stats.means import sample_mean, sample_share, wilson
from emobench.analysis.stats.paired import sample_difference
from emobench.analysis.transcript.markers import Marked
from emobench.core.outcomes import Condition
from emobench.store.labels import LABELS, NEUTRAL, Label

LAST_TURN = 10
"""Turns from this one on are one point of the decay."""
MARKER_OF: Mapping[str, str] = {
    "frustration": "demands",
    "anxiety": "reassurance",
    "anger": "demands",
    "confusion": "clarification",
}
"""The marker that is likeliest beside each emotion."""


@dataclass(frozen=True)
class JudgedTurn:
    """One user turn with what was found in it."""

    condition: Condition
    task_id: int
    trial: int
    number: int
    """Among the user's turns, from 1."""
    label: Label | None
    """None: missing."""
    marked: Marked


@dataclass(frozen=True)
class Decay:
    """One point over the course of a conversation."""

    turn: str
    """'1', '2', ..., '10+'."""
    turns: int
    """Judged turns: conversations end, so later points rest on fewer and on the longer ones."""
    recognised: float | None
    intensity: float


@dataclass(frozen=True)
class VariantManipulation:
    """One variant in one group, as one judge saw it."""

    condition: Condition
    target: str | None
    """The label that the variant should get; None for a variant that the judge has no label for."""
    turns: int
    judged: int
    conversations: int
    """With at least one judged turn."""
    labels: Mapping[str, int]
    """The variant's row of the confusion matrix: turns by label."""
    recognised: CheckedMean | None
    """Share of judged turns labelled as the target."""
    recognised_wilson: Interval | None
    """Wilson's interval of the same share: too narrow, as it takes turns for independent."""
    conversations_recognised: CheckedMean | None
    emotional: CheckedMean
    """Share of judged turns labelled as any emotion."""
    intensity: CheckedMean
    """Mean intensity from 0 to 3; neutral turns have 0."""
    decay: tuple[Decay, ...]
    above_control: CheckedDifference | None = None
    """Share of turns with the target's label, minus control's share of that label."""
    emotional_excess: CheckedDifference | None = None

    @property
    def missing(self) -> int:
        """Turns without a label."""
        return self.turns - self.judged


@dataclass(frozen=True)
class Agreement:
    """How far two ways of labelling the same turns agree."""

    what: str
    turns: int
    observed: float | None
    """Share of turns on which they agree."""
    kappa: float | None
    """Cohen's; None where it is undefined: no turns, or both always say the same one thing."""


@dataclass(frozen=True)
class Manipulation:
    """Everything that one judge's labels say."""

    model: str
    conditions: tuple[VariantManipulation, ...]
    with_markers: tuple[Agreement, ...] = field(default=())


def cohens_kappa(pairs: Sequence[tuple[object, object]]) -> float | None:
    """Return Cohen's kappa, (p_o - p_e) / (1 - p_e) (Cohen 1960).

    p_o is the share of pairs that agree, p_e what the two marginal distributions would give by
    chance: sum over labels of share in the first x share in the second. None where p_e is 1.
    """
    n = len(pairs)
    if not n:
        return None
    observed = sum(one == other for one, other in pairs) / n
    first = Counter(one for one, _ in pairs)
    second = Counter(other for _, other in pairs)
    expected = sum(count * second[label] for label, count in first.items()) / n**2
    return (observed - expected) / (1 - expected) if expected < 1 else None


def measure_agreement(what: str, pairs: Sequence[tuple[object, object]]) -> Agreement:
    """Return the observed agreement and Cohen's kappa."""
    observed = sum(one == other for one, other in pairs) / len(pairs) if pairs else None
    return Agreement(what, len(pairs), observed, cohens_kappa(pairs))


def measure_manipulation(
    model: str, turns: Iterable[JudgedTurn], targets: Mapping[str, str | None]
) -> Manipulation:
    """Return what one judge saw, by condition, with control's shares beside.

    `targets` is the label that each variant's turns should get (`Variant.judged_as`).
    """
    conditions: dict[Condition, list[JudgedTurn]] = {}
    for turn in turns:
        conditions.setdefault(turn.condition, []).append(turn)
    judged = {
        condition: [turn for turn in each if turn.label] for condition, each in conditions.items()
    }
    found = tuple(
        _measure_condition(
            condition,
            targets.get(condition.variant),
            each,
            judged[condition],
            judged.get(condition.control, []) if condition != condition.control else [],
        )
        for condition, each in conditions.items()
    )
    return Manipulation(
        model, found, _compare_with_markers([t for each in judged.values() for t in each])
    )


def _measure_condition(
    condition: Condition,
    target: str | None,
    turns: Sequence[JudgedTurn],
    judged: Sequence[JudgedTurn],
    control: Sequence[JudgedTurn],
) -> VariantManipulation:
    variant = condition.variant
    is_target = "share of user turns that the judge labels as " + (target or "none")
    emotional = "share of user turns that the judge labels as an emotion"
    hits = sum(_get_shown_label(turn) == target for turn in judged)
    return VariantManipulation(
        condition=condition,
        target=target,
        turns=len(turns),
        judged=len(judged),
        conversations=len({(turn.task_id, turn.trial) for turn in judged}),
        labels=_count_labels(judged),
        recognised=sample_share(f"{is_target}, {variant}", _mark_labelled_turns(judged, target))
        if target
        else None,
        recognised_wilson=wilson(hits, len(judged)) if target else None,
        conversations_recognised=sample_share(
            f"share of conversations with a turn that the judge labels as {target}, {variant}",
            _mark_labelled_conversations(judged, target),
        )
        if target
        else None,
        emotional=sample_share(f"{emotional}, {variant}", _mark_labelled_turns(judged, None)),
        intensity=sample_mean(
            f"mean intensity of user turns, 0 to 3, {variant}",
            [(turn.task_id, float(_get_intensity(turn))) for turn in judged],
            (0.0, 3.0),
        ),
        decay=_measure_decay(judged, target),
        above_control=sample_difference(
            is_target,
            variant,
            _mark_labelled_turns(judged, target),
            _mark_labelled_turns(control, target),
        )
        if target and control
        else None,
        emotional_excess=sample_difference(
            emotional,
            variant,
            _mark_labelled_turns(judged, None),
            _mark_labelled_turns(control, None),
        )
        if control
        else None,
    )


def _get_shown_label(turn: JudgedTurn) -> str:
    return turn.label.shown if turn.label else ""


def _get_intensity(turn: JudgedTurn) -> int:
    label = turn.label
    return label.intensity if label is not None and label.shown != NEUTRAL else 0


def _count_labels(judged: Sequence[JudgedTurn]) -> dict[str, int]:
    counts = Counter(map(_get_shown_label, judged))
    return {label: counts[label] for label in LABELS}


def _mark_labelled_turns(
    judged: Sequence[JudgedTurn], label: str | None
) -> list[tuple[int, float]]:
    """Return (task, 1 or 0) of each turn: labelled so, or with any emotion."""
    return [
        (
            turn.task_id,
            float(_get_shown_label(turn) == label if label else _get_shown_label(turn) != NEUTRAL),
        )
        for turn in judged
    ]


def _mark_labelled_conversations(
    judged: Sequence[JudgedTurn], label: str
) -> list[tuple[int, float]]:
    seen: dict[tuple[int, int], bool] = {}
    for turn in judged:
        key = (turn.task_id, turn.trial)
        seen[key] = seen.get(key, False) or _get_shown_label(turn) == label
    return [(task, float(hit)) for (task, _), hit in seen.items()]


def _measure_decay(judged: Sequence[JudgedTurn], target: str | None) -> tuple[Decay, ...]:
    by_number: dict[int, list[JudgedTurn]] = {}
    for turn in judged:
        by_number.setdefault(min(turn.number, LAST_TURN), []).append(turn)
    return tuple(
        Decay(
            turn=f"{number}+" if number == LAST_TURN else str(number),
            turns=len(each),
            recognised=sum(_get_shown_label(turn) == target for turn in each) / len(each)
            if target
            else None,
            intensity=sum(map(_get_intensity, each)) / len(each),
        )
        for number, each in sorted(by_number.items())
    )


def _compare_with_markers(judged: Sequence[JudgedTurn]) -> tuple[Agreement, ...]:
    """Return the judge's label against the marker that is likeliest beside it, over all turns."""
    return tuple(
        measure_agreement(
            f"judge says {emotion}, marker {marker}",
            [
                (_get_shown_label(turn) == emotion, bool(getattr(turn.marked, marker)))
                for turn in judged
            ],
        )
        for emotion, marker in MARKER_OF.items()
    )


def compare_judges(
    labels: Mapping[str, Mapping[str, Label | None]], turns: Iterable[str]
) -> tuple[Agreement, ...]:
    """Return the agreement of every two judges on the turns that both have labelled.

    `labels` holds each judge's labels by turn; a turn counts as often as it occurs in `turns`.
    """
    texts = list(turns)
    found = []
    for one, other in combinations(sorted(labels), 2):
        pairs: list[tuple[object, object]] = []
        for text in texts:
            first, second = labels[one].get(text), labels[other].get(text)
            if first is not None and second is not None:
                pairs.append((first.shown, second.shown))
        found.append(measure_agreement(f"{one} and {other}", pairs))
    return tuple(found)
