"""A conversation as messages and tool calls, whichever form the agent's strategy gave it.

Tool-calling agents call tools in a field of their messages. The act and react agents write each
action as JSON into their text, and get a tool's result as a user's message that begins with
"API output: ". Here both are the same: messages and tool calls in their order. Nothing that a
model or a file may put into a transcript raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from emobench.benchmarks.tasks import dump_canonical
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
_UNKNOWN = "Unknown action "
_decode = json.JSONDecoder().raw_decode


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
        return self.result is not None and is_error(self.result)

    @property
    def writes(self) -> bool:
        """A call of a tool that changes the database, whether or not it was refused."""
        return bool(self.tool) and not self.unknown and writes(self.tool)

    @property
    def key(self) -> tuple[str, str]:
        """Equal for calls of one tool with the same arguments, in whatever order they stand."""
        if self.arguments is None:
            return (self.tool, self.raw)
        return (self.tool, dump_canonical(self.arguments))


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

    def list_messages(self, role: Literal["user", "assistant"]) -> Iterator[Message]:
        return (event for event in self.events if isinstance(event, Message) and event.role == role)

    def extract_words(self, message: Message) -> str:
        """Return what a message says to the other side: a user's without its thought and without
        the marker that ends a conversation. Stock hands the react user's thought to the agent as
        well, but these words are not meant for it."""
        if message.role == "assistant":
            return message.text
        text = message.text
        if self.react_user:
            text = text.rpartition(REACT_USER)[2]
        return remove_stop(text)

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
            if isinstance(event, Message) and (text := self.extract_words(event)[:LONGEST])
        )

    @property
    def stopped_by_user(self) -> bool:
        last = self.events[-1] if self.events else None
        return isinstance(last, Message) and last.role == "user" and STOP in last.text


def parse_transcript(
    messages: object, agent_strategy: str, user_strategy: str | None = None
) -> Transcript:
    """Return the transcript of an episode, or of one of tau-bench's own results. A user strategy
    that is not known may have been react."""
    events: list[Event] = []
    others: list[OtherMessage] = []
    places: list[int] = []
    """Of the calls, by number, among the events."""
    step = 0
    for _, role, text, tool, more in read_messages(messages, agent_strategy):
        if isinstance(more, Reply):
            step += 1
            aside = more.aside
            for name, given, _ in more.calls:
                places.append(len(events))
                raw = (
                    given
                    if isinstance(given, str)
                    else ""
                    if given is None
                    else dump_canonical(given)
                )
                arguments = given if isinstance(given, dict) else _parse_object(raw)
                events.append(ToolCall(name, raw, arguments, None, step, aside))
                aside = ""
            if not more.calls:
                events.append(Message("assistant", more.said, step, aside))
        elif role == "user":
            events.append(Message("user", text, step))
        elif role != "tool":
            others.append(OtherMessage(role, text, len(events)))
        elif more is None:
            events.append(ToolCall(tool, "", None, text, step))
        else:
            call = events[places[more]]
            assert isinstance(call, ToolCall)
            events[places[more]] = replace(call, result=text)
    return Transcript(tuple(events), step, user_strategy in (None, "react"), tuple(others))


RawCall = tuple[str, object, object]
"""(tool, arguments as they stand there, id) of a call in a record."""


class Reply(NamedTuple):
    """What an assistant's message holds."""

    calls: tuple[RawCall, ...] = ()
    said: str = ""
    """What a message without calls says to the user."""
    aside: str = ""
    """What stands beside."""


# A plain tuple: a collection reads ten million of them, and one with names takes four times as
# long to make.
RawMessage = tuple[int, str, str, str, Reply | int | None]
"""(place, role, text, tool, more) of a message as it stands in a record.

The place counts from 0. The role is user, assistant, tool, or what else the message calls itself.
The text is its content, of a tool's answer without `API_OUTPUT`. The tool is the first one that it
calls, or the one that answers. More is an assistant's `Reply`, and of a tool's answer the number of
the call in the transcript, None where there is no such call."""


def read_messages(transcript: object, agent_strategy: str) -> Iterator[RawMessage]:
    """Yield the messages of a record's transcript. A null is none."""
    textual = agent_strategy in TEXT_STRATEGIES
    waiting: list[tuple[int, RawCall]] = []
    """The latest calls without an answer, by number."""
    made = 0
    for place, message in enumerate(transcript if isinstance(transcript, list) else ()):
        if not isinstance(message, dict):
            if message is not None:
                yield place, "other", extract_text(message), "", None
            continue
        role, content = message.get("role"), message.get("content")
        text = content if isinstance(content, str) else extract_text(content)
        if role == "assistant":
            reply = _read_action(text) if textual else _read_reply(text, message.get("tool_calls"))
            calls = reply.calls
            waiting = list(enumerate(calls, made))
            made += len(calls)
            yield place, "assistant", text, calls[0][0] if calls else "", reply
        elif role == "user":
            if textual and waiting and text.startswith(API_OUTPUT):
                number, call = waiting.pop(0)
                yield place, "tool", text.removeprefix(API_OUTPUT), call[0], number
            else:
                yield place, "user", text, "", None
        elif role not in ("tool", "function"):
            yield place, extract_text(role) or "other", text, "", None
        elif waiting:
            number, call = waiting.pop(_find_call(message.get("tool_call_id"), waiting))
            yield place, "tool", text, call[0], number
        else:
            yield place, "tool", text, extract_text(message.get("name")), None


def _read_reply(text: str, listed: object) -> Reply:
    """Read a message of an agent that calls tools in a field of its own."""
    calls: list[RawCall] = []
    for call in listed if isinstance(listed, list) else ():
        if isinstance(call, dict):
            function = call.get("function")
            function = function if isinstance(function, dict) else {}
            calls.append(
                (extract_text(function.get("name")), function.get("arguments"), call.get("id"))
            )
    return Reply(tuple(calls), "", text) if calls else Reply((), text)


def _read_action(text: str) -> Reply:
    """Read a message of an act or react agent."""
    # As stock parses it: what follows the last "Action:", and a plain reply where that is no JSON.
    before, _, action = text.rpartition("Action:")
    aside = before.strip().removeprefix("Thought:").strip()
    parsed = _parse_object(action)
    if parsed is None or "name" not in parsed or "arguments" not in parsed:
        return Reply((), action.strip(), aside)
    name, given = parsed["name"], parsed["arguments"]
    if name == RESPOND:
        return Reply(
            (), extract_text(given.get("content") if isinstance(given, dict) else given), aside
        )
    return Reply(((extract_text(name), given, None),), "", aside)


def _find_call(named: object, waiting: list[tuple[int, RawCall]]) -> int:
    """Return where the call waits that a tool's answer names; 0 where it names none of them."""
    if named is not None and len(waiting) > 1:
        for index, (_, (_, _, id_)) in enumerate(waiting):
            if id_ == named:
                return index
    return 0


def is_error(result: str) -> bool:
    """Return whether a tool's answer is an error, or that there is no such tool."""
    return result.startswith(("Error:", _UNKNOWN))


def remove_stop(text: str) -> str:
    """Return the text without the marker that ends a conversation, and what is put around it.

    >>> remove_stop("That is all. '###STOP###'.")
    'That is all'
    """
    first, *rest = text.split(STOP)
    if not rest:
        return text.strip()
    parts = [_trim(first, 0, 1), *(_trim(part, 1, 1) for part in rest[:-1]), _trim(rest[-1], 1, 0)]
    return " ".join(part for part in parts if part).strip()


def _trim(text: str, left: int, right: int) -> str:
    """Return the text without the space, dots and marks of quotation on the sides given. Linear,
    which a pattern that looks for the marker behind them is not."""
    start, end = 0, len(text)
    while left and start < end and (text[start].isspace() or text[start] in _AROUND_STOP):
        start += 1
    while right and end > start and (text[end - 1].isspace() or text[end - 1] in _AROUND_STOP):
        end -= 1
    return text[start:end]


def extract_text(content: object) -> str:
    """Return a message's content as text; null is empty, parts are joined."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in content)
        return "\n".join(part for part in parts if isinstance(part, str))
    return dump_canonical(content)


def _parse_object(raw: str) -> dict[str, Any] | None:
    # As json.loads, in half the time; a sentence, as most are, is told by its first letter.
    text = raw.strip(" \t\n\r")
    if not text.startswith("{"):
        return None
    value: dict[str, Any]
    try:
        value, end = _decode(text)
    except (ValueError, RecursionError):
        return None
    return value if end == len(text) else None
