"""A conversation as messages and tool calls, whichever form the agent's strategy gave it.

Tool-calling agents call tools in a field of their messages. The act and react agents write each
action as JSON into their text, and get a tool's result as a user's message that begins with
"API output: ". Here both are the same: messages and tool calls in their order. Nothing that a
model or a file may put into a transcript raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from emobench.benchmarks.tasks import canonical
from emobench.benchmarks.tools import RESPOND, writes

TEXT_STRATEGIES = ("act", "react")
STOP = "###STOP###"
"""With it the user ends a conversation."""
API_OUTPUT = "API output: "
"""How the react and act agents show a tool's answer: as a message of the user."""
REACT_USER = "User Response:"
"""What the react user says to the agent stands behind it."""
LONGEST = 20_000
"""Characters of a message that rules look at: a model caught in a loop writes megabytes."""
_AROUND_STOP = ".'\"`*"
_UNKNOWN = "Unknown action"


@dataclass(frozen=True, slots=True)
class Message:
    """What the user said to the assistant, or the assistant to the user."""

    role: Literal["user", "assistant"]
    text: str
    step: int
    """The assistant's step, from 1; of a user's message the last one before it, 0 at the start."""
    aside: str = ""
    """A react agent's thought, which the user does not hear."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    tool: str
    raw: str
    """The arguments as the model wrote them."""
    arguments: dict[str, Any] | None
    """None where they are no JSON object."""
    result: str | None
    """None where the transcript ends before it."""
    step: int
    aside: str = ""
    """Text beside the call, which the user does not hear."""

    @property
    def unknown(self) -> bool:
        """The benchmark has no such tool."""
        return self.result is not None and self.result.startswith(_UNKNOWN)

    @property
    def failed(self) -> bool:
        """The tool answered with an error, or does not exist."""
        return self.result is not None and self.result.startswith(("Error", _UNKNOWN))

    @property
    def writes(self) -> bool:
        """A call of a tool that changes the database, whether or not it was refused."""
        return bool(self.tool) and not self.unknown and writes(self.tool)

    @property
    def key(self) -> tuple[str, str]:
        """Equal for calls of one tool with the same arguments, in whatever order they stand."""
        if self.arguments is None:
            return (self.tool, self.raw)
        return (self.tool, canonical(self.arguments))


Event = Message | ToolCall


@dataclass(frozen=True, slots=True)
class OtherMessage:
    """A system prompt, or a message of no known role."""

    role: str
    text: str
    place: int
    """How many events stand before it."""


@dataclass(frozen=True)
class Transcript:
    """A conversation without its system prompt."""

    events: tuple[Event, ...]
    steps: int
    """The assistant's messages and tool calls, counted as tau-bench counts them."""
    react_user: bool = False
    """The user's messages may hold its thoughts too (user strategy react, or not known)."""
    others: tuple[OtherMessage, ...] = ()

    @property
    def calls(self) -> Iterator[ToolCall]:
        return (event for event in self.events if isinstance(event, ToolCall))

    def messages(self, role: Literal["user", "assistant"]) -> Iterator[Message]:
        return (event for event in self.events if isinstance(event, Message) and event.role == role)

    def words(self, message: Message) -> str:
        """What a message says to the other side: a user's without its thought and without the
        marker that ends a conversation. Stock hands the react user's thought to the agent as
        well, but these words are not meant for it."""
        if message.role == "assistant":
            return message.text
        text = message.text
        if self.react_user:
            text = text.rpartition(REACT_USER)[2]
        return without_stop(text)

    @cached_property
    def turns(self) -> tuple[str, ...]:
        """The user's words, message by message, each to `LONGEST`; a bare marker is no turn."""
        return tuple(text for role, text in self.spoken if role == "user")

    @cached_property
    def spoken(self) -> tuple[tuple[Literal["user", "assistant"], str], ...]:
        """(role, words to `LONGEST`) of every message that says something."""
        return tuple(
            (event.role, text)
            for event in self.events
            if isinstance(event, Message) and (text := self.words(event)[:LONGEST])
        )

    @property
    def stopped_by_user(self) -> bool:
        last = self.events[-1] if self.events else None
        return isinstance(last, Message) and last.role == "user" and STOP in last.text


def parse_transcript(record: Mapping[str, Any]) -> Transcript:
    """The transcript of a line of episodes.jsonl, or of tau-bench's own results."""
    transcript = record.get("traj")
    parser = _Parser(record.get("agent_strategy") in TEXT_STRATEGIES)
    for message in transcript if isinstance(transcript, list) else ():
        parser.add(message)
    return Transcript(
        tuple(parser.events),
        parser.step,
        record.get("user_strategy", "react") == "react",
        tuple(parser.others),
    )


def without_stop(text: str) -> str:
    """The text without the marker that ends a conversation, and what is put around it.

    >>> without_stop("That is all. '###STOP###'.")
    'That is all'
    """
    first, *rest = text.split(STOP)
    if not rest:
        return text.strip()
    parts = [_trim(first, 0, 1), *(_trim(part, 1, 1) for part in rest[:-1]), _trim(rest[-1], 1, 0)]
    return " ".join(part for part in parts if part).strip()


def _trim(text: str, left: int, right: int) -> str:
    """Without the space, dots and marks of quotation on the sides given. Linear, which a pattern
    that looks for the marker behind them is not."""
    start, end = 0, len(text)
    while left and start < end and (text[start].isspace() or text[start] in _AROUND_STOP):
        start += 1
    while right and end > start and (text[end - 1].isspace() or text[end - 1] in _AROUND_STOP):
        end -= 1
    return text[start:end]


def text_of(content: object) -> str:
    """A message's content as text; null is empty, parts are joined."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in content)
        return "\n".join(part for part in parts if isinstance(part, str))
    return canonical(content)


class _Parser:
    def __init__(self, textual: bool) -> None:
        self.events: list[Event] = []
        self.others: list[OtherMessage] = []
        self.step = 0
        self._textual = textual
        self._waiting: list[tuple[object, int]] = []
        """(id, place among the events) of calls without a result."""

    def add(self, message: object) -> None:
        if not isinstance(message, dict):
            if message is not None:
                self.others.append(OtherMessage("other", text_of(message), len(self.events)))
            return
        role, text = message.get("role"), text_of(message.get("content"))
        if role == "assistant":
            self.step += 1
            self._waiting.clear()
            if self._textual:
                self._add_action(text)
            else:
                self._add_reply(message, text)
        elif role in ("tool", "function"):
            self._add_result(message, text)
        elif role == "user":
            if self._textual and self._waiting and text.startswith(API_OUTPUT):
                self._add_result({}, text.removeprefix(API_OUTPUT))
            else:
                self.events.append(Message("user", text, self.step))
        else:
            self.others.append(OtherMessage(text_of(role) or "other", text, len(self.events)))

    def _add_reply(self, message: dict[str, Any], text: str) -> None:
        calls = message.get("tool_calls")
        found = [call for call in calls if isinstance(call, dict)] if type(calls) is list else []
        if not found:
            self.events.append(Message("assistant", text, self.step))
        for place, call in enumerate(found):
            function = call.get("function")
            function = function if isinstance(function, dict) else {}
            given = function.get("arguments")
            self._waiting.append((call.get("id"), len(self.events)))
            self._add_call(function.get("name"), given, text if place == 0 else "")

    def _add_action(self, text: str) -> None:
        # As stock parses it: what follows the last "Action:", and a plain reply where that is no
        # JSON.
        before, _, action = text.rpartition("Action:")
        aside = before.strip().removeprefix("Thought:").strip()
        parsed = _parsed(action)
        if parsed is None or "name" not in parsed or "arguments" not in parsed:
            self.events.append(Message("assistant", action.strip(), self.step, aside))
            return
        name, given = parsed["name"], parsed["arguments"]
        if name == RESPOND:
            said = given.get("content") if isinstance(given, dict) else given
            self.events.append(Message("assistant", text_of(said), self.step, aside))
            return
        self._waiting.append((None, len(self.events)))
        self._add_call(name, given, aside)

    def _add_call(self, name: object, given: object, aside: str) -> None:
        raw = given if isinstance(given, str) else "" if given is None else canonical(given)
        arguments = given if isinstance(given, dict) else _parsed(raw)
        self.events.append(ToolCall(text_of(name), raw, arguments, None, self.step, aside))

    def _add_result(self, message: dict[str, Any], text: str) -> None:
        wanted = message.get("tool_call_id")
        places = [place for id_, place in self._waiting if wanted is not None and id_ == wanted]
        place = places[0] if places else self._waiting[0][1] if self._waiting else None
        if place is None:
            name = text_of(message.get("name"))
            self.events.append(ToolCall(name, "", None, text, self.step))
            return
        self._waiting = [pair for pair in self._waiting if pair[1] != place]
        call = self.events[place]
        assert isinstance(call, ToolCall)
        self.events[place] = replace(call, result=text)


def _parsed(raw: str) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
