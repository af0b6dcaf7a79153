"""Conversations as lines for a terminal: what happened, what the task wanted, who was at fault.

Two about the same task stand in two columns, with the first difference marked. They are aligned by
the user's messages: its n-th message begins at the same height in both, and what the assistant did
until the next one stands below it, step beside step. Pure: columns in, lines out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from emobench.analysis.transcript.conversation import Conversation
from emobench.analysis.transcript.fault import Fault, find_fault
from emobench.analysis.transcript.selection import Found
from emobench.benchmarks.ground_truth import compare_writes
from emobench.benchmarks.tasks import Task, canonical
from emobench.benchmarks.transcript import Event, Message, ToolCall, Transcript
from emobench.cli.terminal import Line, cut, line_width, width, wrap
from emobench.core.output import flat, visible

LABEL = 11
"""Columns of the speaker's name in front of a text."""
NARROW = 60
"""Below so many columns the speaker's name has a line of its own."""
MIN_COLUMN = 24
SEPARATOR = " | "
DIFFERENCE = "first difference"
CALL_DIFFERENCE = "first different tool call"


@dataclass(frozen=True)
class Shown:
    """A conversation with all that is shown of it."""

    found: Found
    conversation: Conversation
    fault: Fault | None

    @classmethod
    def of(cls, found: Found, conversation: Conversation) -> Shown:
        return cls(found, conversation, find_fault(conversation))

    @property
    def transcript(self) -> Transcript:
        return self.conversation.transcript

    @property
    def task(self) -> Task | None:
        return self.conversation.task


def conversation_lines(one: Shown, columns: int, full: bool) -> Iterator[Line]:
    """Yield the heading, the task, then every message and tool call."""
    yield from heading(one, columns)
    yield from task_lines(one, columns)
    for number, event in enumerate(one.transcript.events):
        if starts_paragraph(one.transcript.events, number) or full:
            yield ()
        yield from event_lines(event, columns, full)


def starts_paragraph(events: Sequence[Event], number: int) -> bool:
    """Return whether a blank line stands before an event: tool calls in a row stand together."""
    pair = events[max(0, number - 1) : number + 1]
    return not all(isinstance(event, ToolCall) for event in pair)


def title(found: Found) -> str:
    cell = found.cell
    return (
        f"{cell.env} task {found.summary.task_id}, {cell.variant}, trial {cell.trial}, "
        f"{cell.assistant}, {cell.agent_strategy}"
    )


def result(one: Shown) -> str:
    """Return 'failed, reward 0, 12 steps, 31 s'."""
    found = one.found.summary
    reward = "reward missing" if found.reward is None else f"reward {found.reward:g}"
    seconds = one.conversation.record.wall_s
    took = ""
    if seconds is not None:
        took = f", {seconds:.0f} s" if seconds >= 10 else f", {seconds:.1f} s"
    return f"{found.outcome}, {reward}, {one.transcript.steps} steps{took}"


def heading(one: Shown, columns: int) -> Iterator[Line]:
    """Yield which conversation it is, how it ended, and who was at fault."""
    yield from _paragraph("bold", title(one.found), columns)
    style = "good" if one.found.summary.outcome == "solved" else "error"
    text = f"{result(one)}, episode {one.found.summary.episode[:12]}"
    yield from _paragraph(style, visible(text), columns)
    if one.conversation.record.error is not None:
        message = flat(str(one.conversation.record.error))
        yield from _labelled("error", "error", cut(message, 3 * columns), columns)
    if one.fault is not None:
        yield from _labelled("fault", "bold", flat(fault_text(one.fault)), columns)


def fault_text(found: Fault) -> str:
    """Return 'agent: wrong argument although the user said the right one (...)'."""
    reasons = "; ".join(
        f"{each.party}: {each.rule}" + (f" ({each.detail})" if each.detail else "")
        for each in found.findings
    )
    if not found.findings:
        return f"{found.party}: {found.rule}"
    return reasons if len({f.party for f in found.findings}) == 1 else f"{found.party}; {reasons}"


def task_lines(one: Shown, columns: int) -> Iterator[Line]:
    """Yield the instruction, and what the ground truth wanted."""
    if one.task is None:
        return
    yield from _labelled("task", "dim", flat(one.task.instruction), columns, text_style="dim")
    yield from ground_truth_lines(one, columns)


def ground_truth_lines(one: Shown, columns: int) -> Iterator[Line]:
    """Yield each wanted write with done or missing, each unwanted one, each output with told or
    not."""
    if one.task is None:
        return
    writes, narrow = compare_writes(one.transcript, one.task), columns < NARROW
    missing = [action.key for action in writes.missing]
    if not one.task.write_actions:
        yield from _labelled("wanted", "dim", "no change of the database", columns)
    for action in one.task.write_actions:
        state = "missing" if action.key in missing else "done"
        if state == "missing":
            missing.remove(action.key)
        call = _write_text(action.tool, action.arguments, "", narrow and state == "missing")
        if state == "done":  # it stands below in full
            call = cut(call, columns - (2 if narrow else LABEL))
        yield from _labelled(state, "error" if state == "missing" else "good", call, columns)
    for extra in writes.unwanted:
        call = _write_text(extra.tool, extra.arguments, extra.raw, narrow)
        yield from _labelled("unwanted", "error", call, columns)
    told = one.conversation.outputs_told
    for output in one.task.outputs:
        state = "told" if told.get(output) else "not told" if output in told else "to tell"
        style = {"told": "good", "not told": "error"}.get(state, "dim")
        yield from _labelled(state, style, flat(output), columns)


def event_lines(event: Event, columns: int, full: bool) -> Iterator[Line]:
    """Yield one message or tool call; calls are folded unless `full`."""
    if full and event.aside:
        yield from _labelled("thought", "dim", visible(event.aside), columns, "dim")
    if isinstance(event, Message):
        text = visible(event.text).strip("\n") or "(nothing)"
        yield from _labelled(event.role, event.role, text, columns)
        return
    style = "error" if event.failed else "write" if event.writes else "call"
    label = "write" if event.writes else "call"
    answer = "(the transcript ends here)" if event.result is None else event.result
    narrow = columns < NARROW
    room = columns - (2 if narrow else LABEL)
    if full or event.writes:  # what it wrote is what the reward is about
        text = _write_text(event.tool, event.arguments, event.raw, narrow)
        yield from _labelled(label, style, text, columns)
        if full:
            yield from _labelled("result", "dim", visible(answer) or "(nothing)", columns, "dim")
        else:
            yield from _labelled("", "", _folded(f"-> {answer}", room), columns, "dim")
        return
    text = _short_text(event)
    if narrow:
        yield ((style, label), ("", " "), ("", cut(text, columns - len(label) - 1)))
        yield (("", "  "), ("dim", _folded(f"-> {answer}", room)))
        return
    head = cut(text, room * 3 // 5)
    yield (
        (style, label.ljust(LABEL)),
        ("", head),
        ("dim", _folded(f" -> {answer}", room - width(head))),
    )


def _short_text(call: ToolCall) -> str:
    """Return a call with the values of its arguments only."""
    if call.arguments is None:
        return flat(f"{call.tool or '(no name)'}({call.raw})")
    return flat(f"{call.tool}({', '.join(map(canonical, call.arguments.values()))})")


def _write_text(tool: str, arguments: Mapping[str, Any] | None, raw: str, narrow: bool) -> str:
    """Return a call with all of its arguments; on narrow columns one a line."""
    if arguments is None:
        return flat(f"{tool}({raw})")
    parts = [flat(f"{name}={canonical(value)}") for name, value in arguments.items()]
    if not narrow:
        return f"{flat(tool)}({', '.join(parts)})"
    return "\n".join([flat(tool), *(f"  {part}" for part in parts)])


def _folded(text: str, columns: int) -> str:
    """Return a result on one line, with its length where it is cut."""
    start = text[: len(text) - len(text.lstrip())]
    line = start + flat(text[: 4 * columns + 400])
    if len(text) <= 4 * columns + 400 and width(line) <= columns:
        return line
    size = f" ({len(text) - 3 - len(start):,} characters)"
    return cut(line, columns - len(size)) + size if columns > len(size) + 12 else cut(line, columns)


def _paragraph(style: str, text: str, columns: int) -> Iterator[Line]:
    return (((style, line),) for line in wrap(text, columns))


def _labelled(
    label: str, style: str, text: str, columns: int, text_style: str = ""
) -> Iterator[Line]:
    """Yield a label, and the text beside it; on narrow columns below it."""
    if columns < NARROW:
        if label:
            yield ((style, label),)
        for line in wrap(text, columns - 2):
            yield (("", "  "), (text_style, line))
        return
    first = ((style, label.ljust(LABEL)),)
    for line in wrap(text, columns - LABEL):
        yield (*first, (text_style, line))
        first = (("", " " * LABEL),)


def side_by_side(left: Shown, right: Shown, columns: int, full: bool) -> Iterator[Line]:
    """Yield both conversations; one after the other where the terminal is too narrow."""
    half = (columns - len(SEPARATOR)) // 2
    if half < MIN_COLUMN:
        for one in (left, right):
            yield from conversation_lines(one, columns, full)
            yield ()
        return
    heading = f"{title(left.found)}, beside {right.found.cell.variant}"
    yield from _paragraph("bold", heading, columns)
    task = left.task or right.task
    if task is not None:
        yield from _paragraph("dim", f"task: {flat(task.instruction)}", columns)
    yield ()
    yield from _rows(_top(left, half), _top(right, half), half)
    marks = first_differences(left.transcript, right.transcript)
    exchanges = (_exchanges(each.transcript) for each in (left, right))
    for pair in zip_longest(*exchanges, fillvalue=()):
        for number, events in enumerate(zip_longest(*pair)):
            sides = [[event for _, event in side] for side in pair]
            if any(starts_paragraph(side, number) for side in sides if number < len(side)):
                yield from _rows([()], [()], half)
            first, second = (
                _marked(event, side, half, full) for event, side in zip(events, marks, strict=True)
            )
            yield from _rows(first, second, half)
    yield ()
    yield from _summary(left, right, columns)


def first_differences(left: Transcript, right: Transcript) -> tuple[dict[int, str], dict[int, str]]:
    """Return the mark by place among the events, for each side: of the first event that differs,
    and of the first tool call that differs, or that only one side has."""
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


def _exchanges(transcript: Transcript) -> Iterator[tuple[tuple[int, Event], ...]]:
    """Yield a message of the user with all that follows until the next, with places."""
    part: list[tuple[int, Event]] = []
    for place, event in enumerate(transcript.events):
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
        lines += _paragraph("mark", f">> {marks[place]}", columns)
    return [*lines, *event_lines(what, columns, full)]


def _top(one: Shown, columns: int) -> list[Line]:
    style = "good" if one.found.summary.outcome == "solved" else "error"
    lines: list[Line] = [(("bold", one.found.cell.variant),)]
    lines += _paragraph(style, result(one), columns)
    if one.fault is not None:
        text = f"fault: {flat(fault_text(one.fault))}"
        lines += _paragraph("", text, columns)
    return [*lines, *ground_truth_lines(one, columns)]


def _rows(left: Sequence[Line], right: Sequence[Line], half: int) -> Iterator[Line]:
    for one, other in zip_longest(left, right, fillvalue=()):
        gap = " " * max(0, half - line_width(one))
        yield (*one, ("", gap), ("dim", SEPARATOR), *other)


def _summary(left: Shown, right: Shown, columns: int) -> Iterator[Line]:
    marks = first_differences(left.transcript, right.transcript)
    if not any(marks):
        yield (("mark", "no difference: both say and do the same"),)
        return
    for name in (DIFFERENCE, CALL_DIFFERENCE):
        parts = []
        for one, side in zip((left, right), marks, strict=True):
            place = next((place for place, mark in side.items() if name in mark), None)
            parts.append(f"{one.found.cell.variant}: {_named(one.transcript, place)}")
        marked = any(name in mark for side in marks for mark in side.values())
        text = f"{name}: {'; '.join(parts)}" if marked else "the same tool calls in both"
        yield from _paragraph("mark", text, columns)


def _named(transcript: Transcript, place: int | None) -> str:
    if place is None:
        return "nothing more"
    event = transcript.events[place]
    if isinstance(event, ToolCall):
        return f"step {event.step}, {flat(event.tool)}"
    before = transcript.events[: place + 1]
    number = sum(isinstance(each, Message) and each.role == event.role for each in before)
    return f"message {number} of the {event.role}"
