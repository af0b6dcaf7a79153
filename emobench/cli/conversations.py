"""`emobench conversations`: find conversations, read one, see two side by side, or patterns."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from emobench.analysis.transcript.selection import (
    Found,
    Selection,
    find,
    find_counterparts,
    read,
    read_summaries,
)
from emobench.benchmarks.tasks import Task
from emobench.cli.arguments import add_json, add_run_dir
from emobench.cli.conversation_view import Shown, format_conversation
from emobench.cli.terminal import Line, make_table, quote_path, show, show_lines
from emobench.core.errors import InvalidInput, Problem
from emobench.core.outcomes import CONTROL
from emobench.core.output import say_json, warn
from emobench.core.plan import Plan, find_run_dir, load_plan
from emobench.core.ranges import FORM, parse_numbers
from emobench.core.run_dir import RunDir
from emobench.core.wording import pluralise

SHOWN = 4
"""Up to so many matching conversations are shown; more are listed."""
WIDEST = 120
"""Columns of a text: longer lines are hard to read."""
EPILOG = """examples:
  emobench conversations runs/x --task 12 --variant anger                 read it
  emobench conversations runs/x --task 12 --variant anger --side-by-side  beside control's
  emobench conversations runs/x --outcome failed --variant anger          list them
  emobench conversations runs/x --episode 3f2a91 --full | less            all of one
  emobench conversations runs/x --table                                   patterns by variant
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"The conversations of a run that match: up to {SHOWN} are shown, more are listed, and two "
        "variants of one task and trial stand side by side. It only reads."
    )
    parser.epilog = EPILOG
    add_run_dir(parser)
    for name, metavar, text in (
        ("task", "N", "task index; 0-4,12 takes several"),
        ("variant", "V", "one or, with commas, several"),
        ("assistant", "A", "by its name in the sweep file"),
        ("env", "E", "retail or airline"),
        ("strategy", "S", "the agent's"),
        ("trial", "K", "from 1"),
        ("outcome", "O", "solved, failed, agent_error, ..."),
    ):
        parser.add_argument(f"--{name}", action="append", default=[], metavar=metavar, help=text)
    parser.add_argument("--episode", default="", metavar="ID", help="how the episode's id begins")
    parser.add_argument(
        "--side-by-side",
        action="store_true",
        help="each one beside control's, or beside the first of two variants",
    )
    parser.add_argument("--list", action="store_true", help="list them, however few they are")
    parser.add_argument("--table", action="store_true", help="patterns by variant instead")
    parser.add_argument("--full", action="store_true", help="tool calls and results unfolded")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Return exit code 0, or 1 where no conversation matches yet."""
    run_dir = find_run_dir(arguments.run_dir)
    plan = load_plan(run_dir)
    selection = _read_selection(arguments)
    selection.check(plan)
    if arguments.table:
        return _show_table(run_dir, plan, selection, arguments.json)
    found = find(run_dir, plan, selection)
    if not found:
        warn(f"no conversation of {run_dir.path} matches yet; emobench status says what is done")
        return 1
    pairs = _find_pairs(run_dir, plan, selection, found) if arguments.side_by_side else []
    if not arguments.side_by_side and not arguments.list and _is_pair(found):
        pairs = [_put_control_left(found)]
    if arguments.json:
        chosen = [one for pair in pairs for one in pair] if arguments.side_by_side else found
        _print_json(plan, chosen, arguments.full)
    elif pairs:
        show_lines(_format_pairs(plan, pairs, arguments.full))
    elif len(found) <= SHOWN and not arguments.list:
        show_lines(_format_conversations(plan, found, arguments.full))
    else:
        _show_list(run_dir, plan, found)
    return 0


def _show_table(run_dir: RunDir, plan: Plan, selection: Selection, as_json: bool) -> int:
    from emobench.analysis.transcript.tally import table_to_json, tally_conversations
    from emobench.cli.pattern_table import render_table

    chosen = selection.variants
    if chosen and CONTROL in plan.sweep.variants and CONTROL not in chosen:
        chosen = (CONTROL, *chosen)  # what the others are compared with
    tally = tally_conversations(read_summaries(run_dir, plan, selection.of_variants(chosen)))
    names = [name for name in _list_variants(plan) if not chosen or name in chosen]
    table = tally.build_table(names, {name: plan.sweep.variants[name].text for name in names})
    if as_json:
        say_json(table_to_json(table))
    else:
        show(*render_table(table))
    return 0


def _list_variants(plan: Plan) -> list[str]:
    """Return the variants, control first, the others as planned."""
    names = dict.fromkeys(cell.variant for cell in plan.cells)
    return sorted(names, key=lambda name: name != CONTROL)


def _is_pair(found: Sequence[Found]) -> bool:
    """Return whether these are two variants of one task and trial."""
    return len(found) == 2 and found[0].place == found[1].place


def _put_control_left(found: Sequence[Found]) -> tuple[Found, Found]:
    """Return both with control on the left."""
    first, second = sorted(found, key=lambda each: each.cell.variant != CONTROL)
    return first, second


def _find_pairs(
    run_dir: RunDir, plan: Plan, selection: Selection, found: Sequence[Found]
) -> list[tuple[Found, Found]]:
    """Return each conversation beside that of the first of two given variants, or of control."""
    left = selection.variants[0] if len(selection.variants) == 2 else CONTROL
    others = [each for each in found if each.cell.variant != left]
    if not others:
        names = [name for name in _list_variants(plan) if name != left]
        raise InvalidInput(
            Problem(
                f"all that matches is {left}, and there is nothing to put beside it",
                key="--side-by-side",
                hint=f"choose another variant: --variant {' or '.join(names)}" if names else "",
            )
        )
    partners = find_counterparts(run_dir, plan, others, left)
    pairs = [(partners[each.place], each) for each in others if each.place in partners]
    if not pairs:
        raise InvalidInput(
            Problem(
                f"no conversation of {left} on the same task and trial yet", key="--side-by-side"
            )
        )
    return pairs


def _show_list(run_dir: RunDir, plan: Plan, found: Sequence[Found]) -> None:
    """Print one line a conversation, with the user's first words."""
    cells = [each.cell for each in found]
    # What is the same for all need not be said of each.
    names = [
        name
        for name in ("env", "assistant", "agent_strategy")
        if len({getattr(cell, name) for cell in cells}) > 1
    ]
    heads = ["episode", *names, "task", "variant", "trial", "outcome", "steps", "first words"]
    rows: list[list[object]] = []
    for one in found:
        said = next(read(plan, one).transcript.list_messages("user"), None)
        words = "" if said is None else said.text[:WIDEST]
        cell, summary = one.cell, one.summary
        row = [summary.episode[:8], *(getattr(cell, name) for name in names)]
        row += [summary.task_id, cell.variant, cell.trial, summary.outcome, summary.steps, words]
        style = "" if summary.outcome == "solved" else "error"
        rows.append([(style, cell) for cell in row])
    place = quote_path(run_dir.path)
    show(
        make_table(heads, rows, left=len(heads), elastic=len(heads) - 1, one_line=True),
        f"\n{pluralise(len(found), 'conversation')}; "
        f"emobench conversations {place} --episode ID reads one",
    )


def _format_conversations(plan: Plan, found: Iterable[Found], full: bool) -> Iterator[Line]:
    columns = min(_count_columns(), WIDEST)
    for number, each in enumerate(found):
        if number:
            yield from ((), (("dim", "-" * columns),), ())
        yield from format_conversation(Shown.of(each, read(plan, each)), columns, full)


def _format_pairs(plan: Plan, pairs: Sequence[tuple[Found, Found]], full: bool) -> Iterator[Line]:
    from emobench.cli.conversation_view import format_side_by_side

    columns = min(_count_columns(), 2 * WIDEST)
    for number, (left, right) in enumerate(pairs):
        if number:
            yield from ((), (("dim", "-" * columns),), ())
        one, other = (Shown.of(each, read(plan, each)) for each in (left, right))
        yield from format_side_by_side(one, other, columns, full)


def _print_json(plan: Plan, found: Iterable[Found], full: bool) -> None:
    """Print one object a conversation, one a line; with --full all that was said and done."""
    from emobench.analysis.transcript.patterns import extract_features

    for each in found:
        one = Shown.of(each, read(plan, each))
        data: dict[str, Any] = {
            **each.cell.model_dump(exclude={"number", "tasks"}),
            "cell": each.cell.number,
            "task_id": each.summary.task_id,
            "episode": each.summary.episode,
            "outcome": each.summary.outcome,
            "reward": each.summary.reward,
            "patterns": asdict(extract_features(one.transcript)),
            "fault": None if one.fault is None else asdict(one.fault),
        }
        if full:
            data["wanted"] = None if one.task is None else _ground_truth_to_json(one.task)
            data["events"] = [
                {"kind": type(event).__name__, **asdict(event)} for event in one.transcript.events
            ]
        say_json(data)


def _ground_truth_to_json(task: Task) -> dict[str, Any]:
    return {
        "instruction": task.instruction,
        "actions": [asdict(action) for action in task.actions],
        "outputs": task.outputs,
    }


def _count_columns() -> int:
    return max(20, shutil.get_terminal_size((100, 24)).columns)


def _read_selection(arguments: argparse.Namespace) -> Selection:
    return Selection(
        tasks=_parse_numbers("--task", arguments.task),
        variants=_split_names(arguments.variant),
        assistants=_split_names(arguments.assistant),
        envs=_split_names(arguments.env),
        strategies=_split_names(arguments.strategy),
        trials=_parse_numbers("--trial", arguments.trial),
        outcomes=_split_names(arguments.outcome),
        episode=arguments.episode,
    )


def _split_names(given: Sequence[str]) -> tuple[str, ...]:
    parts = (part.strip() for text in given for part in text.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def _parse_numbers(option: str, given: Sequence[str]) -> tuple[int, ...]:
    try:
        return tuple(parse_numbers(",".join(given))) if given else ()
    except ValueError as error:
        raise InvalidInput(Problem(str(error), key=option, allowed=FORM)) from None
