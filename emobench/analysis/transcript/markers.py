"""Transparent markers of how a user writes, by turn: no model, no lexicon of emotions.

They describe and they can be read; they do not name an emotion. The word lists and their version
stand in data/markers.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from math import inf
from types import MappingProxyType

from emobench.analysis.checks_format import CheckedDifference, CheckedMean
from emobench.analysis.stats.estimates import Mean
from emobench.analysis.stats.means import sample_mean, sample_share
from emobench.analysis.stats.paired import sample_difference
from emobench.analysis.stats.units import Sample
from emobench.analysis.transcript.conversation import Conversation
from emobench.core.outcomes import Condition

LISTS = ("reassurance", "clarification", "demands")
"""Markers with a word list: the share of turns with at least one of its entries."""
MEASURES: Mapping[str, str] = MappingProxyType(
    {
        "reassurance": "share of user turns that seek reassurance",
        "clarification": "share of user turns that ask for clarification",
        "demands": "share of user turns with a demand",
        "capitals": "words in capitals per user turn",
        "exclamations": "exclamation marks per user turn",
        "words": "words per user turn",
    }
)
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_CAPITALS = re.compile(r"\b[A-Z]{2,}\b")


@dataclass(frozen=True)
class Marked:
    """One user turn."""

    reassurance: bool
    clarification: bool
    demands: bool
    capitals: int
    """Words of two or more letters, all capitals, that the instruction and the agent did not write
    so before."""
    exclamations: int
    words: int


@dataclass(frozen=True)
class VariantMarkers:
    """The markers of one variant in one group."""

    condition: Condition
    turns: int
    measures: Mapping[str, CheckedMean]
    """By the names of `MEASURES`."""
    differences: Mapping[str, CheckedDifference] = field(default_factory=dict)
    """Variant minus control, paired by task; empty for control."""


@cache
def read_entries() -> Mapping[str, tuple[str, ...]]:
    """Return the word lists, by marker."""
    data = _read_data()
    return MappingProxyType({name: tuple(map(str, data[name]["words"])) for name in LISTS})


@cache
def read_version() -> str:
    """Return the version of the word lists."""
    return str(_read_data()["version"])


@cache
def _read_data() -> dict[str, dict[str, list[str]]]:
    import yaml

    text = (files(__package__) / "data" / "markers.yaml").read_text("utf-8")
    data: dict[str, dict[str, list[str]]] = yaml.safe_load(text)
    return data


@cache
def compile_pattern(name: str) -> re.Pattern[str]:
    """Return one expression for a word list."""
    parts = [
        r"\s+".join(
            r"\S+(?:\s+\S+){0,3}?" if word == "*" else re.escape(word) for word in entry.split()
        )
        for entry in read_entries()[name]
    ]
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)


def mark(text: str, known_capitals: frozenset[str] = frozenset()) -> Marked:
    """Return the markers of one turn. `known_capitals` are words that stood in capitals before."""
    plain = text.replace("\u2019", "'")
    return Marked(
        reassurance=compile_pattern("reassurance").search(plain) is not None,
        clarification=compile_pattern("clarification").search(plain) is not None,
        demands=compile_pattern("demands").search(plain) is not None,
        capitals=sum(word not in known_capitals for word in _CAPITALS.findall(text)),
        exclamations=text.count("!"),
        words=len(_WORD.findall(text)),
    )


def mark_turns(conversation: Conversation) -> tuple[Marked, ...]:
    """Return the markers of the user's turns, in their order."""
    task = conversation.task
    known = frozenset(_CAPITALS.findall(task.instruction if task is not None else ""))
    marked = []
    for role, text in conversation.transcript.spoken:
        if role == "user":
            marked.append(mark(text, known))
        else:
            known |= frozenset(_CAPITALS.findall(text))
    return tuple(marked)


def summarise_by_condition(
    conversations: Iterable[tuple[Condition, int, tuple[Marked, ...]]],
) -> tuple[VariantMarkers, ...]:
    """Return the rates per turn of every variant, and differences from control paired by task.

    Takes (condition, task, marked turns) of each conversation.
    """
    samples: dict[Condition, dict[str, list[tuple[int, float]]]] = {}
    for condition, task, turns in conversations:
        of_arm = samples.setdefault(condition, {name: [] for name in MEASURES})
        for turn in turns:
            for name, values in of_arm.items():
                values.append((task, float(getattr(turn, name))))
    found = []
    for condition, own in samples.items():
        control = samples.get(condition.control) if condition != condition.control else None
        found.append(
            VariantMarkers(
                condition=condition,
                turns=len(own["words"]),
                measures={name: _measure(name, condition.variant, own[name]) for name in MEASURES},
                differences={
                    name: sample_difference(
                        label,
                        condition.variant,
                        own[name],
                        control[name],
                        (-1.0, 1.0) if name in LISTS else None,
                    )
                    for name, label in MEASURES.items()
                }
                if control is not None
                else {},
            )
        )
    return tuple(found)


def _measure(name: str, variant: str, sample: Sample) -> Mean:
    what = f"{MEASURES[name]}, {variant}"
    return sample_share(what, sample) if name in LISTS else sample_mean(what, sample, (0.0, inf))
