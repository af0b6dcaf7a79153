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
from emobench.benchmarks.tasks import Task, dump_canonical
from emobench.benchmarks.transcript import Event, Message, ToolCall, Transcript
from emobench.cli.terminal import Line, cut, measure_line, measure_width, wrap
from emobench.core.output import flatten, make_visible

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


def format_conversation(one: Shown, columns: int, full: bool) -> Iterator[Line]:
    """Yield the heading, the task, then every message and tool call."""
    yield from format_heading(one, columns)
    yield from format_task(one, columns)
    for number, event in enumerate(one.transcript.events):
        if starts_paragraph(one.transcript.events, number) or full:
            yield ()
        yield from format_event(event, columns, full)


def starts_paragraph(events: Sequence[Event], number: int) -> bool:
    """Return whether a blank line stands before an event: tool calls in a row stand together."""
    pair = events[max(0, number - 1) : number + 1]
    return not all(isinstance(event, ToolCall) for event in pair)


def format_title(found: Found) -> str:
    cell = found.cell
    return (
        f"{cell.env} task {found.summary.task_id}, {cell.variant}, trial {cell.trial}, "
        f"{cell.assistant}, {cell.agent_strategy}"
    )


def format_result(one: Shown) -> str:
    """Return 'failed, reward 0, 12 steps, 31 s'."""
    found = one.found.summary
    reward = "reward missing" if found.reward is None else f"reward {found.reward:g}"
    seconds = one.conversation.record.wall_s
    took = ""
    if seconds is not None:
        took = f", {seconds:.0f} s" if seconds >= 10 else f", {seconds:.1f} s"
    return f"{found.outcome}, {reward}, {one.transcript.steps} steps{took}"


def format_heading(one: Shown, columns: int) -> Iterator[Line]:
    """Yield which conversation it is, how it ended, and who was at fault."""
    yield from _format_paragraph("bold", format_title(one.found), columns)
    style = "good" if one.found.summary.outcome == "solved" else "error"
    text = f"{format_result(one)}, episode {one.found.summary.episode[:12]}"
    yield from _format_paragraph(style, make_visible(text), columns)
    if one.conversation.record.error is not None:
        message = flatten(str(one.conversation.record.error))
        yield from _format_labelled("error", "error", cut(message, 3 * columns), columns)
    if one.fault is not None:
        yield from _format_labelled("fault", "bold", flatten(format_fault(one.fault)), columns)


def format_fault(found: Fault) -> str:
    """Return 'agent: wrong argument although the user said the right one (...)'."""
    reasons = "; ".join(
        f"{each.party}: {each.rule}" + (f" ({each.detail})" if each.detail else "")
        for each in found.findings
    )
    if not found.findings:
        return f"{found.party}: {found.rule}"
    return reasons if len({f.party for f in found.findings}) == 1 else f"{found.party}; {reasons}"


def format_task(one: Shown, columns: int) -> Iterator[Line]:
    """Yield the instruction, and what the ground truth wanted."""
    if one.task is None:
        return
    yield from _format_labelled(
        "task", "dim", flatten(one.task.instruction), columns, text_style="dim"
    )
    yield from format_ground_truth(one, columns)


def format_ground_truth(one: Shown, columns: int) -> Iterator[Line]:
    """Yield each wanted write with done or missing, each unwanted one, each output with told or
    not."""
    if one.task is None:
        return
    writes, narrow = compare_writes(one.transcript, one.task), columns < NARROW
    missing = [action.key for action in writes.missing]
    if not one.task.write_actions:
        yield from _format_labelled("wanted", "dim", "no change of the database", columns)
    for action in one.task.write_actions:
        state = "missing" if action.key in missing else "done"
        if state == "missing":
            missing.remove(action.key)
        call = _format_write(action.tool, action.arguments, "", narrow and state == "missing")
        if state == "done":  # it stands below in full
            call = cut(call, columns - (2 if narrow else LABEL))
        yield from _format_labelled(state, "error" if state == "missing" else "good", call, columns)
    for extra in writes.unwanted:
        call = _format_write(extra.tool, extra.arguments, extra.raw, narrow)
        yield from _format_labelled("unwanted", "error", call, columns)
    told = one.conversation.outputs_told
    for output in one.task.outputs:
        state = "told" if told.get(output) else "not told" if output in told else "to tell"
        style = {"told": "good", "not told": "error"}.get(state, "dim")
        yield from _format_labelled(state, style, flatten(output), columns)


def format_event(event: Event, columns: int, full: bool) -> Iterator[Line]:
    """Yield one message or tool call; calls are folded unless `full`."""
    if full and event.aside:
        yield from _format_labelled("thought", "dim", make_visible(event.aside), columns, "dim")
    if isinstance(event, Message):
        text = make_visible(event.text).strip("\n") or "(nothing)"
        yield from _format_labelled(event.role, event.role, text, columns)
        return
    style = "error" if event.failed else "write" if event.writes else "call"
    label = "write" if event.writes else "call"
    answer = "(the transcript ends here)" if event.result is None else event.result
    narrow = columns < NARROW
    room = columns - (2 if narrow else LABEL)
    if full or event.writes:  # what it wrote is what the reward is about
        text = _format_write(event.tool, event.arguments, event.raw, narrow)
        yield from _format_labelled(label, style, text, columns)
        if full:
            yield from _format_labelled(
                "result", "dim", make_visible(answer) or "(nothing)", columns, "dim"
            )
        else:
            yield from _format_labelled("", "", _fold(f"-> {answer}", room), columns, "dim")
        return
    text = _format_short_call(event)
    if narrow:
        yield ((style, label), ("", " "), ("", cut(text, columns - len(label) - 1)))
        yield (("", "  "), ("dim", _fold(f"-> {answer}", room)))
        return
    head = cut(text, room * 3 // 5)
    yield (
        (style, label.ljust(LABEL)),
        ("", head),
        ("dim", _fold(f" -> {answer}", room - measure_width(head))),
    )


def _format_short_call(call: ToolCall) -> str:
    """Return a call with the values of its arguments only."""
    if call.arguments is None:
        return flatten(f"{call.tool or '(no name)'}({call.raw})")
    return flatten(f"{call.tool}({', '.join(map(dump_canonical, call.arguments.values()))})")


def _format_write(tool: str, arguments: Mapping[str, Any] | None, raw: str, narrow: bool) -> str:
    """Return a call with all of its arguments; on narrow columns one a line."""
    if arguments is None:
        return flatten(f"{tool}({raw})")
    parts = [flatten(f"{name}={dump_canonical(value)}") for name, value in arguments.items()]
    if not narrow:
        return f"{flatten(tool)}({', '.join(parts)})"
    return "\n".join([flatten(tool), *(f"  {part}" for part in parts)])


def _fold(text: str, columns: int) -> str:
    """Return a result on one line, with its length where it is cut."""
    start = text[: len(text) - len(text.lstrip())]
    line = start + flatten(text[: 4 * columns + 400])
    if len(text) <= 4 * columns + 400 and measure_width(line) <= columns:
        return line
    size = f" ({len(text) - 3 - len(start):,} characters)"
    return cut(line, columns - len(size)) + size if columns > len(size) + 12 else cut(line, columns)


def _format_paragraph(style: str, text: str, columns: int) -> Iterator[Line]:
    return (((style, line),) for line in wrap(text, columns))


def _format_labelled(
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


def format_side_by_side(left: Shown, right: Shown, columns: int, full: bool) -> Iterator[Line]:
    """Yield both conversations; one after the other where the terminal is too narrow."""
    half = (columns - len(SEPARATOR)) // 2
    if half < MIN_COLUMN:
        for one in (left, right):
            yield from format_conversation(one, columns, full)
            yield ()
        return
    heading = f"{format_title(left.found)}, beside {right.found.cell.variant}"
    yield from _format_paragraph("bold", heading, columns)
    task = left.task or right.task
    if task is not None:
        yield from _format_paragraph("dim", f"task: {flatten(task.instruction)}", columns)
    yield ()
    yield from _join_columns(_format_top(left, half), _format_top(right, half), half)
    marks = find_first_differences(left.transcript, right.transcript)
    exchanges = (_split_exchanges(each.transcript) for each in (left, right))
    for pair in zip_longest(*exchanges, fillvalue=()):
        for number, events in enumerate(zip_longest(*pair)):
            sides = [[event for _, event in side] for side in pair]
            if any(starts_paragraph(side, number) for side in sides if number < len(side)):
                yield from _join_columns([()], [()], half)
            first, second = (
                _mark_event(event, side, half, full)
                for event, side in zip(events, marks, strict=True)
            )
            yield from _join_columns(first, second, half)
    yield ()
    yield from _summarise(left, right, columns)


def find_first_differences(
    left: Transcript, right: Transcript
) -> tuple[dict[int, str], dict[int, str]]:
    """Return the mark by place among the events, for each side: of the first event that differs,
    and of the first tool call that differs, or that only one side has."""
    marks: tuple[dict[int, str], dict[int, str]] = ({}, {})
    sides = (left.events, right.events)
    for place, pair in enumerate(zip_longest(*sides)):
        if not _is_same(*pair):
            for side, event in zip(marks, pair, strict=True):
                if event is not None:
                    side[place] = DIFFERENCE
            break
    calls = [[p for p, e in enumerate(events) if isinstance(e, ToolCall)] for events in sides]
    for places in zip_longest(*calls):
        keys = [
            None if place is None else _make_key(events[place])
            for events, place in zip(sides, places, strict=True)
        ]
        if keys[0] != keys[1]:
            for side, place in zip(marks, places, strict=True):
                if place is not None:
                    both = f"{side[place]}, " if place in side else ""
                    side[place] = both + CALL_DIFFERENCE
            break
    return marks


def _is_same(left: Event | None, right: Event | None) -> bool:
    return left is not None and right is not None and _make_key(left) == _make_key(right)


def _make_key(event: Event) -> tuple[object, ...]:
    if isinstance(event, Message):
        return (event.role, event.text)
    return (*event.key, event.result)


def _split_exchanges(transcript: Transcript) -> Iterator[tuple[tuple[int, Event], ...]]:
    """Yield a message of the user with all that follows until the next, with places."""
    part: list[tuple[int, Event]] = []
    for place, event in enumerate(transcript.events):
        if part and isinstance(event, Message) and event.role == "user":
            yield tuple(part)
            part = []
        part.append((place, event))
    if part:
        yield tuple(part)


def _mark_event(
    event: tuple[int, Event] | None, marks: Mapping[int, str], columns: int, full: bool
) -> list[Line]:
    if event is None:
        return []
    place, what = event
    lines: list[Line] = []
    if place in marks:
        lines += _format_paragraph("mark", f">> {marks[place]}", columns)
    return [*lines, *format_event(what, columns, full)]


def _format_top(one: Shown, columns: int) -> list[Line]:
    style = "good" if one.found.summary.outcome == "solved" else "error"
    lines: list[Line] = [(("bold", one.found.cell.variant),)]
    lines += _format_paragraph(style, format_result(one), columns)
    if one.fault is not None:
        text = f"fault: {flatten(format_fault(one.fault))}"
        lines += _format_paragraph("", text, columns)
    return [*lines, *format_ground_truth(one, columns)]


def _join_columns(left: Sequence[Line], right: Sequence[Line], half: int) -> Iterator[Line]:
    for one, other in zip_longest(left, right, fillvalue=()):
        gap = " " * max(0, half - measure_line(one))
        yield (*one, ("", gap), ("dim", SEPARATOR), *other)


def _summarise(left: Shown, right: Shown, columns: int) -> Iterator[Line]:
    marks = find_first_differences(left.transcript, right.transcript)
    if not any(marks):
        yield (("mark", "no difference: both say and do the same"),)
        return
    for name in (DIFFERENCE, CALL_DIFFERENCE):
        parts = []
        for one, side in zip((left, right), marks, strict=True):
            place = next((place for place, mark in side.items() if name in mark), None)
            parts.append(f"{one.found.cell.variant}: {_describe_place(one.transcript, place)}")
        marked = any(name in mark for side in marks for mark in side.values())
        text = f"{name}: {'; '.join(parts)}" if marked else "the same tool calls in both"
        yield from _format_paragraph("mark", text, columns)


def _describe_place(transcript: Transcript, place: int | None) -> str:
    if place is None:
        return "nothing more"
    event = transcript.events[place]
    if isinstance(event, ToolCall):
        return f"step {event.step}, {flatten(event.tool)}"
    before = transcript.events[: place + 1]
    number = sum(isinstance(each, Message) and each.role == event.role for each in before)
    return f"message {number} of the {event.role}"
