"""Did the simulated user stay with its task? One record a conversation, and shares by condition.

Everything is told by rules from the transcript, the instruction and the ground truth; no model is
asked. The rules rather miss a slip than see one that is none (docs/gates.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from emobench.analysis.checks_format import CheckedDifference, CheckedMean
from emobench.analysis.stats.estimates import Mean
from emobench.analysis.stats.means import UNIT, sample_mean, sample_share
from emobench.analysis.stats.paired import sample_difference
from emobench.analysis.stats.units import Sample
from emobench.analysis.transcript.conversation import Conversation
from emobench.analysis.transcript.facts import (
    AIRPORTS,
    OWN,
    UNINVENTED,
    TaskFacts,
    Value,
    extract_facts,
    find_airport_codes,
    find_other_names,
    is_conveyed,
    is_known,
)
from emobench.analysis.transcript.facts import extract_values as values_in
from emobench.benchmarks.tools import writes
from emobench.core.outcomes import Condition
from emobench.llm.reasoning import sanitize
from emobench.llm.replies import MARKUP

COUNTED = ("solved", "failed", "max_steps", "user_error")
"""Outcomes of conversations that nobody but the user and the agent's choices brought to an end."""

_IDENTITY = ("user_id", "email", "zip")
"""What an agent finds a user's profile by (a name needs its zip)."""
_AGENT_SPEAKS = re.compile(
    r"\b(?:how (?:can|may) i (?:help|assist) you"
    r"|anything else (?:that )?i can (?:help|assist)(?: you)?"
    r"|(?:can|could|would|may) (?:you|i) (?:please )?(?:provide|give|have|share|tell)(?: me)?"
    r"(?: with)? your"
    r" (?:zip|(?:order|user|account|reservation|booking|confirmation) ?(?:id|number))"
    r"|i(?:'ll| will| can| have|'ve|'m going to| am going to) (?:now )?"
    r"(?:look(?:ed)? up|pull(?:ed)? up|process(?:ed)?"
    r"|cancel(?:l?ed)?|updat(?:e|ed)|access(?:ed)?|located?|issued?) your"
    r"|thank you for (?:contacting|reaching out to|choosing|calling) (?:us|our)\b"
    r"|as (?:a|an|your) (?:ai|customer (?:service|support)|virtual) (?:agent|assistant"
    r"|representative))",
    re.I,
)
"""What only the agent's side of the desk says."""
_OPEN = re.compile(
    r"\?|\(yes/no\)|\b(?:please|could you) (?:provide|confirm|reply|share|let me know|tell)|"
    r"\b(?:one moment|please hold|let me (?:check|look)|i(?:'ll| will) (?:now )?(?:check|look|"
    r"proceed|process))\b",
    re.I,
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_CLOSING = re.compile(
    r"\b(?:(?:any(?:thing| other| more)|something|what) else"
    r"|(?:any )?(?:other|further|more) (?:questions?|requests?|assistance|help)"
    r"|have a (?:great|nice|good|wonderful)"
    r"|transfer(?:red)?)\b",
    re.I,
)
"""Of a sentence that asks for nothing but goodbye, or offers to hand over."""


@dataclass(frozen=True)
class EpisodeFidelity:
    """One conversation. Values are written 'kind value'."""

    condition: Condition
    trial: int
    task_id: int
    episode: str
    outcome: str
    facts: int | None
    """Values in the instruction; None where the task is not known, and with it no value."""
    missed: tuple[str, ...]
    """Those that the user did not convey."""
    invented: tuple[str, ...]
    """Values that neither the instruction, nor the ground truth, nor the agent gave before."""
    contradicted: tuple[str, ...]
    """Another value than the user's own, of a kind that it has one of."""
    early_stop: bool
    """It ended the conversation while a write of the ground truth was outstanding, and the agent
    waited for it or did not know who it is."""
    role_flips: int
    """Turns in which it speaks as the agent."""
    think_leaks: int
    """Turns in which the agent read reasoning or tool markup."""
    think_removed: int
    """Replies that reasoning was taken out of before."""
    turns: int
    """What it said, message by message."""

    @property
    def counts(self) -> bool:
        """Whether the shares are taken over it: nothing but the dialogue cut it short."""
        return self.outcome in COUNTED

    @property
    def conveyed(self) -> float | None:
        """Share of the facts; None for a task that tells none."""
        return (self.facts - len(self.missed)) / self.facts if self.facts else None


MEASURES: Mapping[str, str] = {
    "conveyed": "share of the instruction's facts that the user conveys",
    "invented": "share of conversations with an invented value",
    "contradicted": "share of conversations with a contradicted value",
    "early_stops": "share of conversations that the user ended too early",
    "role_flips": "share of conversations in which the user speaks as the agent",
    "think_leaks": "share of conversations in which the agent read reasoning or tool markup",
}


@dataclass(frozen=True)
class VariantFidelity:
    """One variant in one group."""

    condition: Condition
    conversations: int
    """Those that the shares are taken over."""
    left_out: int
    """Conversations that the agent's or the server's failure cut short."""
    measures: Mapping[str, CheckedMean]
    """By the names of `MEASURES`."""
    differences: Mapping[str, CheckedDifference] = field(default_factory=dict)
    """Variant minus control, paired by task; empty for control."""
    missed_by_kind: Mapping[str, int] = field(default_factory=dict)
    think_removed: int = 0


def check_fidelity(conversation: Conversation) -> EpisodeFidelity:
    """Check one conversation and return its record."""
    record, turns = conversation.record, conversation.transcript.turns
    facts = None if conversation.task is None else extract_facts(conversation.task)
    missed: list[Value] = []
    invented: set[Value] = set()
    contradicted: set[Value] = set()
    if facts is not None:
        whole = "\n".join(turns)
        missed = sorted(fact for fact in facts.told if not is_conveyed(fact, whole))
        invented, contradicted = _find_strange_values(conversation, facts)
    return EpisodeFidelity(
        condition=conversation.record.condition,
        trial=record.trial,
        task_id=record.task_id,
        episode=record.episode,
        outcome=record.outcome,
        facts=None if facts is None else len(facts.told),
        missed=_format_values(missed),
        invented=_format_values(sorted(invented)),
        contradicted=_format_values(sorted(contradicted)),
        early_stop=facts is not None and _has_stopped_early(conversation, facts, missed),
        role_flips=sum(_AGENT_SPEAKS.search(turn) is not None for turn in turns),
        think_leaks=sum(
            bool(sanitize(turn).forms) or MARKUP.search(turn) is not None for turn in turns
        ),
        think_removed=conversation.think_removed,
        turns=len(turns),
    )


def _find_strange_values(
    conversation: Conversation, facts: TaskFacts
) -> tuple[set[Value], set[Value]]:
    """Return (invented, contradicted), each value once."""
    env, task = conversation.record.env, conversation.task
    instruction = task.instruction.lower() if task is not None else ""
    heard = "\n".join(text for role, text in conversation.transcript.spoken if role != "user")
    known = set(facts.known)
    invented: set[Value] = set()
    contradicted: set[Value] = set()
    for role, text in conversation.transcript.spoken:
        values = set(values_in(env, text))
        if role == "assistant":
            known |= values
            continue
        for value in values:
            kind = value[0]
            if kind in UNINVENTED or is_known(value, known):
                continue
            if kind == "airport" and value[1] not in {
                AIRPORTS[c] for c in find_airport_codes(text)
            }:
                continue  # a city may be anything: where one lives, where a friend is
            (contradicted if kind in OWN and kind in facts.own else invented).add(value)
        own_name = facts.own.get("name")
        if own_name:
            contradicted |= {
                ("name", name)
                for name in find_other_names(text, own_name)
                if name not in instruction and name not in heard.lower()
            }
    return invented, contradicted


def _has_stopped_early(
    conversation: Conversation, facts: TaskFacts, missed: Iterable[Value]
) -> bool:
    """Return whether the user ended the conversation before the task could be done.

    All of: the user ended it; a write of the ground truth was not called, counted by tool; and
    the agent was waiting for the user (its last words ask or announce something), or the user had
    kept to itself who it is. After a refusal or a goodbye the user may go.
    """
    transcript, task = conversation.transcript, conversation.task
    if task is None or not transcript.stopped_by_user:
        return False
    called = Counter(call.tool for call in transcript.calls)
    if not Counter(action.tool for action in task.write_actions) - called:
        return False
    identity = {fact for fact in facts.told if fact[0] in _IDENTITY}
    if identity and identity <= set(missed) and not any(map(writes, called)):
        return True
    last = next((text for role, text in reversed(transcript.spoken) if role != "user"), None)
    if last is None:
        return True
    rest = _SENTENCE.sub(lambda said: " " if _CLOSING.search(said[0]) else said[0], last)
    return _OPEN.search(rest) is not None


def summarise_by_condition(records: Iterable[EpisodeFidelity]) -> tuple[VariantFidelity, ...]:
    """Return the shares of every variant in its group, and differences from control paired by
    task."""
    conditions: dict[Condition, list[EpisodeFidelity]] = {}
    for record in records:
        conditions.setdefault(record.condition, []).append(record)
    samples = {condition: _collect_samples(each) for condition, each in conditions.items()}
    found = []
    for condition, each in conditions.items():
        counted = [record for record in each if record.counts]
        control = samples.get(condition.control) if condition != condition.control else None
        missed = Counter(value.partition(" ")[0] for record in counted for value in record.missed)
        found.append(
            VariantFidelity(
                condition=condition,
                conversations=len(counted),
                left_out=len(each) - len(counted),
                measures={
                    name: _measure(name, condition.variant, samples[condition][name])
                    for name in MEASURES
                },
                differences={
                    name: sample_difference(
                        label, condition.variant, samples[condition][name], control[name]
                    )
                    for name, label in MEASURES.items()
                }
                if control is not None
                else {},
                missed_by_kind=dict(missed.most_common()),
                think_removed=sum(record.think_removed for record in each),
            )
        )
    return tuple(found)


def _measure(name: str, variant: str, sample: Sample) -> Mean:
    what = f"{MEASURES[name]}, {variant}"
    return sample_mean(what, sample, UNIT) if name == "conveyed" else sample_share(what, sample)


def _collect_samples(records: Iterable[EpisodeFidelity]) -> dict[str, list[tuple[int, float]]]:
    """Return the sample of each measure."""
    samples: dict[str, list[tuple[int, float]]] = {name: [] for name in MEASURES}
    for record in records:
        if not record.counts:
            continue
        if record.conveyed is not None:
            samples["conveyed"].append((record.task_id, record.conveyed))
        of_task = record.facts is not None
        for name, known, happened in (
            ("invented", of_task, bool(record.invented)),
            ("contradicted", of_task, bool(record.contradicted)),
            ("early_stops", of_task, record.early_stop),
            ("role_flips", True, bool(record.role_flips)),
            ("think_leaks", True, bool(record.think_leaks)),
        ):
            if known:
                samples[name].append((record.task_id, float(happened)))
    return samples


def _format_values(values: Iterable[Value]) -> tuple[str, ...]:
    return tuple(f"{kind} {value}" for kind, value in values)
