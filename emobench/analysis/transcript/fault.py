"""Who was at fault where a conversation did not solve its task, by rules.

A rule speaks only where the records prove something; "undetermined" is a valid answer, and so is
what remains where the rules accuse more than one party. The rules, and what they cannot see, are
in docs/conversations.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from emobench.analysis.transcript.conversation import Conversation
from emobench.analysis.transcript.fidelity import EpisodeFidelity, check_fidelity
from emobench.benchmarks.ground_truth import (
    Writes,
    compare_writes,
    find_differences,
    is_distinctive,
    list_scalars,
    mentions,
)
from emobench.benchmarks.tasks import Task
from emobench.benchmarks.tools import TRANSFER
from emobench.benchmarks.transcript import Event, Message, ToolCall, Transcript
from emobench.core.outcomes import Outcome

AGENT, PROBABLY_AGENT = "agent", "probably agent"
USER, SIMULATOR = "user", "user simulator"
INFRASTRUCTURE, UNDETERMINED = "infrastructure", "undetermined"
PARTIES = (AGENT, PROBABLY_AGENT, USER, SIMULATOR, UNDETERMINED, INFRASTRUCTURE)

ASKS_FOR_HUMAN = re.compile(
    r"\b(?:human|real person|supervisor|manager|representative|someone else|transfer me)\b",
    re.IGNORECASE,
)
_DONE = (
    r"(?:processed|cancell?ed|updated|changed|modified|exchanged|returned|booked|refunded|completed|"
    r"upgraded|submitted|initiated)"
)
CLAIMS_DONE = re.compile(
    rf"\b(?:been taken care of|(?:has|have) been successfully {_DONE}|"
    rf"(?<!if )(?:i|we)(?: have|'ve)? (?:now |just |successfully )?{_DONE})\b",
    re.IGNORECASE,
)
_DERIVED = re.compile(r"-?\d+\.\d+|\d{4}-\d{2}-\d{2}.*")
LOOP_SHARE = 0.5
"""Of the calls of a conversation that met the step limit: from here on they count as a loop."""
LOOP_CALLS = 6


@dataclass(frozen=True)
class Finding:
    """What one rule found."""

    party: str
    rule: str
    detail: str


@dataclass(frozen=True)
class Fault:
    """The party that the rules name, and why."""

    party: str
    """One of `PARTIES`."""
    findings: tuple[Finding, ...]
    """All that were found; of several parties where the verdict is undetermined."""

    @property
    def rule(self) -> str:
        """The first rule of the party named; 'several parties' or 'no rule applies' without."""
        for finding in self.findings:
            if finding.party == self.party:
                return finding.rule
        return "several parties" if self.findings else "no rule applies"


@dataclass(frozen=True)
class _Case:
    transcript: Transcript
    task: Task
    writes: Writes
    fidelity: EpisodeFidelity

    def list_user_texts(self, before: ToolCall | None = None) -> list[str]:
        """Return what the user said, up to a call."""
        events = self._list_until(before)
        return [e.text for e in events if isinstance(e, Message) and e.role == "user"]

    def list_results(self, before: ToolCall | None = None) -> list[str]:
        """Return what the tools answered, up to a call."""
        return [e.result for e in self._list_until(before) if isinstance(e, ToolCall) and e.result]

    def _list_until(self, end: ToolCall | None) -> Iterator[Event]:
        return takewhile(lambda event: event is not end, self.transcript.events)


def find_fault(conversation: Conversation, fidelity: EpisodeFidelity | None = None) -> Fault | None:
    """Find who was at fault; None for a solved task. `fidelity` is that of the conversation, where
    it has been checked already."""
    record, transcript, task = conversation.record, conversation.transcript, conversation.task
    if record.outcome is Outcome.SOLVED:
        return None
    decided = _BY_OUTCOME.get(record.outcome)
    if decided is not None:
        reason = (record.error.message or record.error.type) if record.error else ""
        return Fault(decided[0], (Finding(*decided, reason),))
    fidelity = fidelity or check_fidelity(conversation)
    findings = list(_find_simulator_fault(fidelity))
    if task is not None:
        case = _Case(transcript, task, compare_writes(transcript, task), fidelity)
        findings += [finding for rule in _RULES for finding in rule(case)]
        if record.outcome is Outcome.FAILED and not findings:
            findings += _blame_by_elimination(case)
    if record.outcome is Outcome.MAX_STEPS:
        findings += _find_loop(transcript)
    parties = {finding.party for finding in findings}
    return Fault(parties.pop() if len(parties) == 1 else UNDETERMINED, tuple(findings))


_BY_OUTCOME: dict[Outcome, tuple[str, str]] = {
    Outcome.INFRA_ERROR: (INFRASTRUCTURE, "no answer from a server"),
    Outcome.AGENT_ERROR: (AGENT, "unusable reply"),
    Outcome.USER_ERROR: (SIMULATOR, "unusable reply of the user"),
}


def _find_simulator_fault(fidelity: EpisodeFidelity) -> Iterator[Finding]:
    if fidelity.think_leaks:
        where = f"{fidelity.think_leaks} of its messages"
        yield Finding(SIMULATOR, "reasoning or markup in what the user said", where)
    if fidelity.role_flips:
        where = f"{fidelity.role_flips} of its messages"
        yield Finding(SIMULATOR, "the user speaks as the agent", where)


def _find_wrong_values(case: _Case) -> Iterator[Finding]:
    """Find a write call that differs from the wanted one in a value that only one side explains."""
    for action, call in case.writes.pairs:
        heard, shown = case.list_user_texts(call), case.list_results(call)
        for name, right, wrong in find_differences(action, call):
            where = (
                f"{call.tool}: {name} {_format_values(wrong)} instead of {_format_values(right)}"
            )
            right = [value for value in right if is_distinctive(value)]
            wrong = [value for value in wrong if is_distinctive(value)]
            told_right = bool(right) and all(mentions(heard, value) for value in right)
            told_wrong = any(mentions(heard, value) for value in wrong)
            known = any(mentions([case.task.instruction], value) for value in right)
            if told_right and not told_wrong:
                yield Finding(AGENT, "wrong argument although the user said the right one", where)
            elif known and wrong and not told_right and all(mentions(heard, v) for v in wrong):
                yield Finding(USER, "the user said another value than its task", where)
            elif any(
                _is_id_like(value) and not mentions([*heard, *shown], value) for value in wrong
            ):
                yield Finding(AGENT, "an id that nobody mentioned", where)


def _find_unasked_write(case: _Case) -> Iterator[Finding]:
    """Find an unwanted write before the assistant said anything: the policy asks for consent."""
    for event in case.transcript.events:
        if isinstance(event, Message) and event.role == "assistant":
            return
        if isinstance(event, ToolCall) and event in case.writes.unwanted:
            yield Finding(AGENT, "a write before asking the user anything", event.tool)
            return


def _find_needless_transfer(case: _Case) -> Iterator[Finding]:
    if case.task.transfer or not (case.writes.missing or case.task.outputs):
        return
    if any(ASKS_FOR_HUMAN.search(text) for text in case.list_user_texts()):
        return
    if any(call.tool == TRANSFER and not call.failed for call in case.transcript.calls):
        yield Finding(AGENT, "a transfer that neither the task nor the user asked for", TRANSFER)


def _find_empty_claim(case: _Case) -> Iterator[Finding]:
    """Find a claim of the assistant's that it was done, and had not written anything at all."""
    if not case.writes.missing or any(
        call.writes and not call.failed for call in case.transcript.calls
    ):
        return
    for message in case.transcript.list_messages("assistant"):
        claim = CLAIMS_DONE.search(message.text.replace("\u2019", "'"))
        if claim:
            yield Finding(AGENT, "it claimed to be done and had changed nothing", claim[0])
            return


def _find_early_stop(case: _Case) -> Iterator[Finding]:
    """Find that the user ended it while a wanted write was open: as the fidelity checks tell it, or
    without having named an id that only it knew."""
    if not (case.transcript.stopped_by_user and case.writes.missing):
        return
    if case.fidelity.early_stop:
        yield Finding(USER, "the user ended it too early", "")
    seen = [
        *case.list_user_texts(),
        *case.list_results(),
        *(call.raw for call in case.transcript.calls),
    ]
    needed = {
        value
        for action in case.task.actions
        for argument in action.arguments.values()
        for value in list_scalars(argument)
        if _is_id_like(value) and mentions([case.task.instruction], value)
    }
    unsaid = sorted(value for value in needed if not mentions(seen, value))
    if unsaid:
        yield Finding(
            USER, "the user ended it without naming what only it knew", _format_values(unsaid)
        )


def _blame_by_elimination(case: _Case) -> Iterator[Finding]:
    """Blame the agent where no rule spoke and the user did all that can be checked of it."""
    user = case.fidelity
    if not user.facts or not (case.writes.missing or case.writes.unwanted):
        return
    if not (user.missed or user.invented or user.contradicted or user.early_stop):
        rule = "by elimination: the user told every fact of its task and invented none"
        yield Finding(PROBABLY_AGENT, rule, f"{user.facts} facts")


def _find_loop(transcript: Transcript) -> Iterator[Finding]:
    calls = list(transcript.calls)
    repeated = len(calls) - len({call.key for call in calls})
    if len(calls) >= LOOP_CALLS and repeated >= LOOP_SHARE * len(calls):
        yield Finding(AGENT, "the same calls until the step limit", f"{repeated} of {len(calls)}")


_RULES: tuple[Callable[[_Case], Iterator[Finding]], ...] = (
    _find_wrong_values,
    _find_unasked_write,
    _find_needless_transfer,
    _find_empty_claim,
    _find_early_stop,
)


def _is_id_like(value: str) -> bool:
    """Return whether a value is an identifier or a zip code: no spaces, digits, some length. Dates
    and amounts, which an agent may derive from other words, are none."""
    if len(value) < 5 or _DERIVED.fullmatch(value) or any(char.isspace() for char in value):
        return False
    return any(char.isdigit() for char in value)


def _format_values(values: list[str]) -> str:
    return ", ".join(values) if values else "nothing"
