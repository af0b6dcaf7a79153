"""Two conversations about the same task in two columns, with the first difference marked.

They are aligned by the user's messages: its n-th message begins at the same height in both, and
what the assistant did until the next one stands below it, step beside step. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from emobench.benchmarks.transcript import Dialogue, Event, Message, ToolCall
from emobench.cli.conversations.conversation import (
    Conversation,
    apart,
    event_lines,
    fault_text,
    result,
    show,
    title,
    wanted_lines,
)
from emobench.cli.conversations.text import Line, flat, line_width, wrap

MIN_COLUMN = 24
SEPARATOR = " | "
DIFFERENCE = "first difference"
CALL_DIFFERENCE = "first different tool call"


def side_by_side(
    left: Conversation, right: Conversation, columns: int, full: bool
) -> Iterator[Line]:
    """Both conversations; one after the other where the terminal is too narrow."""
    half = (columns - len(SEPARATOR)) // 2
    if half < MIN_COLUMN:
        for one in (left, right):
            yield from show(one, columns, full)
            yield ()
        return
    for text in wrap(f"{title(left.found)}, beside {right.found.cell.variant}", columns):
        yield (("bold", text),)
    shared = left if left.task is not None else right
    yield from _only_instruction(shared, columns)
    yield ()
    yield from _rows(_top(left, half), _top(right, half), half)
    marks = first_differences(left.said, right.said)
    for pair in zip_longest(_exchanges(left.said), _exchanges(right.said), fillvalue=()):
        for number, events in enumerate(zip_longest(*pair)):
            sides = [[event for _, event in side] for side in pair]
            if any(apart(side, number) for side in sides if number < len(side)):
                yield from _rows([()], [()], half)
            first, second = (
                _marked(event, side, half, full) for event, side in zip(events, marks, strict=True)
            )
            yield from _rows(first, second, half)
    yield ()
    yield from _summary(left, right, columns)


def first_differences(left: Dialogue, right: Dialogue) -> tuple[dict[int, str], dict[int, str]]:
    """The mark by place among the events, for each side: of the first event that differs, and of
    the first tool call that differs, or that only one side has."""
    marks: tuple[dict[int, str], dict[int, str]] = ({}, {})
    sides = (left.events, right.events)
    for place, pair in enumerate(zip_longest(*sides)):
        if not _same(*pair):
            for side, event in zip(marks, pair, strict=True):
                if event is not None:
                    side[place] = DIFFERENCE
            break
    calls = [[p for p, e in enumerate(events) if isinstance(e, ToolCall)] for events in sides]
    for places in zip_longest(*calls):
        keys = [
            None if place is None else _key(events[place])
            for events, place in zip(sides, places, strict=True)
        ]
        if keys[0] != keys[1]:
            for side, place in zip(marks, places, strict=True):
                if place is not None:
                    both = f"{side[place]}, " if place in side else ""
                    side[place] = both + CALL_DIFFERENCE
            break
    return marks


def _same(left: Event | None, right: Event | None) -> bool:
    return left is not None and right is not None and _key(left) == _key(right)


def _key(event: Event) -> tuple[object, ...]:
    if isinstance(event, Message):
        return (event.role, event.text)
    return (*event.key, event.result)


def _exchanges(said: Dialogue) -> Iterator[tuple[tuple[int, Event], ...]]:
    """A message of the user with all that follows until the next, with places."""
    part: list[tuple[int, Event]] = []
    for place, event in enumerate(said.events):
        if part and isinstance(event, Message) and event.role == "user":
            yield tuple(part)
            part = []
        part.append((place, event))
    if part:
        yield tuple(part)


def _marked(
    event: tuple[int, Event] | None, marks: Mapping[int, str], columns: int, full: bool
) -> list[Line]:
    if event is None:
        return []
    place, what = event
    lines: list[Line] = []
    if place in marks:
        lines += [(("mark", text),) for text in wrap(f">> {marks[place]}", columns)]
    return [*lines, *event_lines(what, columns, full)]


def _top(one: Conversation, columns: int) -> list[Line]:
    style = "good" if one.found.outcome == "solved" else "error"
    lines: list[Line] = [(("bold", one.found.cell.variant),)]
    lines += [((style, text),) for text in wrap(result(one), columns)]
    if one.fault is not None:
        text = f"fault: {flat(fault_text(one.fault))}"
        lines += [(("", line),) for line in wrap(text, columns)]
    return [*lines, *wanted_lines(one, columns)]


def _only_instruction(one: Conversation, columns: int) -> Iterator[Line]:
    if one.task is not None:
        for text in wrap(f"task: {flat(one.task.instruction)}", columns):
            yield (("dim", text),)


def _rows(left: Sequence[Line], right: Sequence[Line], half: int) -> Iterator[Line]:
    for one, other in zip_longest(left, right, fillvalue=()):
        gap = " " * max(0, half - line_width(one))
        yield (*one, ("", gap), ("dim", SEPARATOR), *other)


def _summary(left: Conversation, right: Conversation, columns: int) -> Iterator[Line]:
    marks = first_differences(left.said, right.said)
    if not any(marks):
        yield (("mark", "no difference: both say and do the same"),)
        return
    for name in (DIFFERENCE, CALL_DIFFERENCE):
        parts = []
        for one, side in zip((left, right), marks, strict=True):
            place = next((place for place, mark in side.items() if name in mark), None)
            parts.append(f"{one.found.cell.variant}: {_named(one.said, place)}")
        marked = any(name in mark for side in marks for mark in side.values())
        text = f"{name}: {'; '.join(parts)}" if marked else "the same tool calls in both"
        for line in wrap(text, columns):
            yield (("mark", line),)


def _named(said: Dialogue, place: int | None) -> str:
    if place is None:
        return "nothing more"
    event = said.events[place]
    if isinstance(event, ToolCall):
        return f"step {event.step}, {flat(event.tool)}"
    number = sum(message.role == event.role for message in _messages(said.events[: place + 1]))
    return f"message {number} of the {event.role}"


def _messages(events: Sequence[Event]) -> Iterator[Message]:
    return (event for event in events if isinstance(event, Message))
