"""What one conversation shows, in numbers: lengths, tool calls, apologies, refusals, transfers.

Everything is counted by rules that a reader can check by hand (docs/conversations.md). The
patterns of text look at what the assistant said to the user, sentence by sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from emobench.benchmarks.tools import TRANSFER
from emobench.benchmarks.transcript import Transcript

APOLOGY = re.compile(
    r"\b(?:sorry|apolog(?:y|ies|i[sz](?:e|es|ed|ing))|my (?:mistake|bad)|(?:please|do) forgive|"
    r"regret (?:the|any|this|that)|beg your pardon)\b",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    r"\b(?:(?:i|we)(?: am|'m| are|'re| was| were)? (?:currently )?(?:unable|not able|not allowed|"
    r"not permitted|not authori[sz]ed) to|(?:i|we) (?:can ?not|can't|will not|won't|may not)|"
    r"(?:is|are|was|were)(?: not|n't) (?:possible|permitted|allowed|eligible)|"
    r"(?:against|violates?|outside) (?:our|the|company|airline|store)\b[^.!?]{0,20}\bpolic(?:y|ies)"
    r"|"
    r"polic(?:y|ies) (?:do(?:es)?(?: not|n't) (?:allow|permit)|prohibits?|forbids?))",
    re.IGNORECASE,
)
_CONDITION = re.compile(r"\b(?:without|until|unless|before)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?\n])\s+")
WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
"""Letters of any script; digits and marks make no word."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One number of a conversation: its key in `Features`, and in words."""

    key: str
    label: str
    share: bool = False
    """Yes or no in one conversation, a share over several."""


PATTERNS = (
    Pattern("steps", "assistant's steps"),
    Pattern("user_messages", "user's messages"),
    Pattern("user_words", "words in a user's message"),
    Pattern("assistant_messages", "assistant's messages to the user"),
    Pattern("assistant_words", "words in an assistant's message"),
    Pattern("tool_calls", "tool calls"),
    Pattern("write_calls", "write calls"),
    Pattern("tool_errors", "tool calls answered by an error"),
    Pattern("unknown_tools", "calls of a tool that does not exist"),
    Pattern("repeated_calls", "tool calls repeated with the same arguments"),
    Pattern("wrote", "conversations with a write call", share=True),
    Pattern("first_write_step", "step of the first write call, where there is one"),
    Pattern("apologies", "assistant's messages with an apology"),
    Pattern("refusals", "assistant's messages with a refusal"),
    Pattern("transferred", "conversations transferred to a human", share=True),
)


@dataclass(frozen=True, slots=True)
class Features:
    """The patterns of one conversation; None: undefined in it."""

    steps: int
    user_messages: int
    user_words: float | None
    """Mean words of a message; None without one."""
    assistant_messages: int
    assistant_words: float | None
    tool_calls: int
    write_calls: int
    tool_errors: int
    unknown_tools: int
    repeated_calls: int
    """Calls whose tool and arguments occurred before, whatever happened in between."""
    wrote: bool
    first_write_step: int | None
    apologies: int
    refusals: int
    transferred: bool


def split_user_words(transcript: Transcript) -> list[list[str]]:
    """Return the words of each of the user's messages."""
    return [
        split_words(transcript.extract_words(message))
        for message in transcript.list_messages("user")
    ]


def extract_features(transcript: Transcript, user: list[list[str]] | None = None) -> Features:
    """Return the patterns of one conversation; `user` are its `split_user_words`, where they are
    known."""
    user = split_user_words(transcript) if user is None else user
    assistant = [message.text for message in transcript.list_messages("assistant")]
    calls = list(transcript.calls)
    first_write = next((call.step for call in calls if call.writes), None)
    return Features(
        steps=transcript.steps,
        user_messages=len(user),
        user_words=_average([len(each) for each in user]),
        assistant_messages=len(assistant),
        assistant_words=_average([len(split_words(text)) for text in assistant]),
        tool_calls=len(calls),
        write_calls=sum(call.writes for call in calls),
        tool_errors=sum(call.failed for call in calls),
        unknown_tools=sum(call.unknown for call in calls),
        repeated_calls=len(calls) - len({call.key for call in calls}),
        wrote=first_write is not None,
        first_write_step=first_write,
        apologies=sum(apologises(text) for text in assistant),
        refusals=sum(refuses(text) for text in assistant),
        transferred=any(call.tool == TRANSFER and not call.failed for call in calls),
    )


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case.

    >>> split_words("I'm 30, don\u2019t ask: ask #W12!")
    ["i'm", "don't", 'ask', 'ask', 'w']
    """
    return WORD.findall(text.casefold().replace("\u2019", "'"))


def apologises(text: str) -> bool:
    """Return whether a message holds an apology.

    >>> apologises("I apologize for the delay."), apologises("Your order is on its way.")
    (True, False)
    """
    return APOLOGY.search(text) is not None


def refuses(text: str) -> bool:
    """Return whether a sentence of a message declines something; one that names a condition does
    not.

    >>> refuses("I cannot cancel this flight."), refuses("I cannot go on without your user id.")
    (True, False)
    """
    text = text.replace("\u2019", "'")
    if REFUSAL.search(text) is None:
        return False
    return any(
        REFUSAL.search(sentence) and not _CONDITION.search(sentence)
        for sentence in _SENTENCE.split(text)
    )


def _average(values: list[int]) -> float | None:
    return sum(values) / len(values) if values else None
