"""Patterns of conversations by variant, with differences from control paired by task.

A tally takes one conversation at a time and keeps sums by task, counts of words and of faults:
never a transcript. Infrastructure errors are missing data: they are counted, and enter no pattern.
Several groups (environment, agent strategy, assistant) may be in one tally: differences are formed
within each, and a task met in several counts once, with the mean of its groups.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import TYPE_CHECKING, Any

from emobench.analysis.stats.log_odds import WordCounts, WordDifference, compare_words
from emobench.analysis.transcript.conversation import Conversation
from emobench.analysis.transcript.fault import INFRASTRUCTURE, PARTIES, Fault, find_fault
from emobench.analysis.transcript.fidelity import EpisodeFidelity
from emobench.analysis.transcript.patterns import (
    PATTERNS,
    Features,
    Pattern,
    extract_features,
    split_user_words,
    split_words,
)
from emobench.core.outcomes import CONTROL, Group, Outcome
from emobench.core.wording import pluralise

if TYPE_CHECKING:
    from emobench.analysis.stats.estimates import Difference

"""(environment, agent strategy, assistant)."""
Unit = tuple[Group, str, int]
"""(group, variant, task)."""

FEW_CONVERSATIONS = 5
"""Below it a pattern, or a party at fault, is marked."""


@dataclass(frozen=True)
class Summary:
    """What is kept of one conversation until it is tallied."""

    features: Features | None
    """None for an infrastructure error."""
    fault: Fault | None
    words: Counter[str]
    """Of the user."""


@dataclass(frozen=True)
class VariantPattern:
    """One pattern of one variant."""

    label: str
    pattern: Pattern
    variant: str
    mean: float | None
    """Mean over tasks of the mean over a task's conversations; None where undefined."""
    tasks: int
    conversations: int
    """Those in which it is defined."""
    events: int
    """Of these, those in which it is above 0."""
    difference: Difference | None
    """From control, paired by task; None for control and where there is no control."""

    @property
    def is_rare(self) -> bool:
        """Whether it occurs, in so few conversations that its mean says little."""
        return 0 < self.events < FEW_CONVERSATIONS


@dataclass(frozen=True)
class VariantFaults:
    """Who was at fault in the conversations of a variant that did not solve their task."""

    variant: str
    conversations: int
    """All of the variant, infrastructure errors included."""
    unsolved: int
    parties: Mapping[str, int]
    """By party, every party named; infrastructure is missing data, not a failure."""
    rules: Mapping[tuple[str, str], int]
    """By (party, first rule)."""


@dataclass(frozen=True)
class VariantWords:
    """Words of the variant's users against control's."""

    label: str
    variant: str
    differences: tuple[WordDifference, ...]
    """By z, the variant's own first."""
    in_prompt: frozenset[str]
    """Words that only this variant's text has: a user that repeats them shows its prompt."""


@dataclass(frozen=True)
class ConversationTable:
    """All of it; variants in the order given."""

    variants: tuple[str, ...]
    groups: tuple[Group, ...]
    conversations: Mapping[str, int]
    """By variant, without infrastructure errors."""
    missing: Mapping[str, int]
    """Infrastructure errors by variant."""
    patterns: tuple[VariantPattern, ...]
    faults: tuple[VariantFaults, ...]
    words: tuple[VariantWords, ...]


def summarise(conversation: Conversation, fidelity: EpisodeFidelity | None = None) -> Summary:
    """Return what a conversation contributes; `fidelity` as in `find_fault`."""
    found = find_fault(conversation, fidelity)
    if conversation.record.outcome is Outcome.INFRA_ERROR:
        return Summary(None, found, Counter())
    user = split_user_words(conversation.transcript)
    counted = Counter(word for each in user for word in each)
    return Summary(extract_features(conversation.transcript, user), found, counted)


class Tally:
    """Sums over conversations; as large as the number of (group, variant, task) and of words."""

    def __init__(self) -> None:
        self._sums: dict[Unit, list[tuple[int, int, float]]] = {}
        """By pattern: conversations in which it is defined, in which it is above 0, and its sum."""
        self._conversations: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._solved: Counter[str] = Counter()
        self._faults: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        self._words: dict[str, Counter[str]] = defaultdict(Counter)
        self._holding: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, group: Group, variant: str, task: int, one: Summary) -> None:
        """Count one conversation."""
        if one.fault is None:
            self._solved[variant] += 1
        else:
            self._faults[variant][(one.fault.party, one.fault.rule)] += 1
        if one.features is None:
            self._missing[variant] += 1
            return
        self._conversations[variant] += 1
        sums = self._sums.setdefault((group, variant, task), [(0, 0, 0.0)] * len(PATTERNS))
        for place, pattern in enumerate(PATTERNS):
            value = getattr(one.features, pattern.key)
            if value is not None:
                count, events, total = sums[place]
                sums[place] = (count + 1, events + (value > 0), total + value)
        self._words[variant].update(one.words)
        self._holding[variant].update(one.words.keys())

    def build_table(
        self, variants: Sequence[str], texts: Mapping[str, str], control: str = CONTROL
    ) -> ConversationTable:
        """Return the results so far; `texts` are the variants' own prompts. Imports numpy."""
        return ConversationTable(
            variants=tuple(variants),
            groups=tuple(sorted({group for group, _, _ in self._sums})),
            conversations={name: self._conversations[name] for name in variants},
            missing={name: self._missing[name] for name in variants},
            patterns=_adjust(
                [
                    self._compare_pattern(
                        place, pattern, name, control if control in variants else ""
                    )
                    for place, pattern in enumerate(PATTERNS)
                    for name in variants
                ]
            ),
            faults=tuple(self._count_faults(name) for name in variants),
            words=tuple(
                self._compare_words(name, control, _list_own_words(name, texts))
                for name in variants
                if name != control and control in variants
            ),
        )

    def _compare_pattern(
        self, place: int, pattern: Pattern, variant: str, control: str
    ) -> VariantPattern:
        from emobench.analysis.stats.units import average_by_task

        by_task = average_by_task(self._compute_means(place, variant))
        counts = [sums[place] for (_, name, _), sums in self._sums.items() if name == variant]
        difference = None
        if control and variant != control:
            difference = self._compute_difference(place, pattern, variant, control)
        return VariantPattern(
            label=f"{pattern.label}, {variant}, mean over {pluralise(len(by_task), 'task')}",
            pattern=pattern,
            variant=variant,
            mean=fsum(by_task.values()) / len(by_task) if by_task else None,
            tasks=len(by_task),
            conversations=sum(count for count, _, _ in counts),
            events=sum(events for _, events, _ in counts),
            difference=difference,
        )

    def _compute_difference(
        self, place: int, pattern: Pattern, variant: str, control: str
    ) -> Difference:
        from emobench.analysis.stats.paired import paired_difference
        from emobench.analysis.stats.units import subtract_by_task

        gaps, left_out = subtract_by_task(
            self._compute_means(place, variant), self._compute_means(place, control)
        )
        what = f"difference in {pattern.label}, {variant} minus {control}"
        return paired_difference(
            f"{what}, {pluralise(gaps.size, 'task')}, 95 % interval clustered by task",
            gaps,
            left_out=left_out,
            bounds=(-1.0, 1.0) if pattern.share else None,
            bootstrap=False,
        )

    def _compute_means(self, place: int, variant: str) -> dict[tuple[Group, int], float]:
        return {
            (group, task): sums[place][2] / sums[place][0]
            for (group, name, task), sums in self._sums.items()
            if name == variant and sums[place][0]
        }

    def _count_faults(self, variant: str) -> VariantFaults:
        rules = self._faults[variant]
        parties = dict.fromkeys(PARTIES, 0)
        for (party, _), count in rules.items():
            parties[party] += count
        unsolved = sum(parties.values()) - parties[INFRASTRUCTURE]
        everything = unsolved + parties[INFRASTRUCTURE] + self._solved[variant]
        return VariantFaults(variant, everything, unsolved, parties, dict(rules.most_common()))

    def _compare_words(self, variant: str, control: str, own: frozenset[str]) -> VariantWords:
        background: Counter[str] = Counter()
        for counts in self._words.values():
            background.update(counts)
        found = compare_words(
            WordCounts(self._words[variant], self._holding[variant]),
            WordCounts(self._words[control], self._holding[control]),
            background,
        )
        return VariantWords(
            label=f"log-odds ratio of users' words with an informative Dirichlet prior, "
            f"{variant} against {control}, {self._conversations[variant]} and "
            f"{pluralise(self._conversations[control], 'conversation')}",
            variant=variant,
            differences=tuple(found),
            in_prompt=own,
        )


def _adjust(patterns: list[VariantPattern]) -> tuple[VariantPattern, ...]:
    """Return the patterns with p-values adjusted over all differences of the table, which is
    exploratory."""
    from emobench.analysis.stats.multiplicity import benjamini_hochberg

    places = [place for place, each in enumerate(patterns) if each.difference is not None]
    given = [each.difference for each in patterns if each.difference is not None]
    adjusted = benjamini_hochberg([each.p_permutation for each in given])
    how = f"Benjamini-Hochberg over {len(given)} exploratory differences"
    for place, difference, p in zip(places, given, adjusted, strict=True):
        changed = replace(difference, p_adjusted=p, adjustment=how)
        patterns[place] = replace(patterns[place], difference=changed)
    return tuple(patterns)


def _list_own_words(variant: str, texts: Mapping[str, str]) -> frozenset[str]:
    others = {word for name, text in texts.items() if name != variant for word in split_words(text)}
    return frozenset(split_words(texts.get(variant, ""))) - others


def tally_conversations(conversations: Iterable[tuple[Group, str, int, Summary]]) -> Tally:
    """Return a tally of all of them."""
    tally = Tally()
    for group, variant, task, one in conversations:
        tally.add(group, variant, task, one)
    return tally


def table_to_json(table: ConversationTable) -> dict[str, Any]:
    """Return everything in the table as JSON takes it; means and intervals that are undefined are
    null."""
    from emobench.analysis.stats.estimates import to_plain

    return {
        "variants": list(table.variants),
        "groups": [list(group) for group in table.groups],
        "conversations": dict(table.conversations),
        "missing": dict(table.missing),
        "patterns": [to_plain(each) for each in table.patterns],
        "faults": [
            {
                "variant": each.variant,
                "conversations": each.conversations,
                "unsolved": each.unsolved,
                "parties": dict(each.parties),
                "rules": [
                    {"party": party, "rule": rule, "conversations": count}
                    for (party, rule), count in each.rules.items()
                ],
            }
            for each in table.faults
        ],
        "words": [
            {
                "label": each.label,
                "variant": each.variant,
                "words": [
                    {**to_plain(word), "in_prompt": word.word in each.in_prompt}
                    for word in each.differences
                ],
            }
            for each in table.words
        ],
    }
