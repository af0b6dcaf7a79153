"""`emobench status`: how a run stands."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from emobench.cli.arguments import add_json, add_run_dir
from emobench.cli.terminal import format_moment, make_table, show
from emobench.core.output import say_json
from emobench.core.ranges import format_ranges
from emobench.core.wording import format_duration, pluralise
from emobench.store.calls import describe_usage

if TYPE_CHECKING:
    from rich.table import Table

    from emobench.runs.status import CellProblem, RunStatus

PROBLEMS = 10
"""Reasons of failed cells that are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Servers, cells, episodes, mean reward and cost of a run, and what failed."
    add_run_dir(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from emobench.core.plan import find_run_dir
    from emobench.runs.status import read_status

    status = read_status(find_run_dir(arguments.run_dir), cost=True)
    if arguments.json:
        say_json(status.to_json(), indent=2)
    else:
        show_status(status)
    return 0


def show_status(status: RunStatus) -> None:
    show(*render(status))


def describe_use(in_use: int | None, limit: int | None) -> str:
    """Return how many conversations a server has of those that it takes; empty where it does not
    say."""
    return "" if limit is None else f"{in_use} of {pluralise(limit, 'conversation')}"


def render(status: RunStatus) -> tuple[str, Table, str]:
    """Return what a person reads: servers and progress, variants, and what failed."""
    lines = [f"{status.sweep}  ({status.run_dir})"]
    if status.scripted:
        lines.append("scripted models: this tests the pipeline and is no finding")
    lines.append("")
    for server in status.servers:
        where = f"job {server.job_id}" if server.job_id else "not submitted"
        parts = [f"server   {server.name:<24} {server.state:<10} {where}", server.node, server.url]
        parts.append(describe_use(server.in_use, server.limit))
        parts.append(f"leased from {server.leased_from}" if server.leased_from else "")
        lines.append("  ".join(filter(None, parts)))
        lines += [f"         {line}" for line in server.reason.splitlines()]
        lines += [f"         warning: {each}" for each in server.warnings if each]
    lines += [f"         {job}" for job in status.held]
    own = {server.job_id for server in status.servers}  # they have their reason above
    lines += [f"         {job}" for job in status.blocked if job.job_id not in own]
    lines += [f"         {line}" for line in status.limits]
    outcomes = ", ".join(f"{n} {name}" for name, n in status.episodes.outcomes.items())
    lines.append(f"cells    {status.cells}")
    lines.append(f"episodes {status.episodes.finished} of {status.episodes.expected}")
    lines[-1] += f": {outcomes}" if outcomes else ""
    if status.expected_end:
        lines.append(f"end      about {format_moment(status.expected_end)}, at the present pace")
    elif hours := status.expected_hours:
        low, high = (format_duration(3600 * each) for each in (hours.low, hours.high))
        lines.append(f"end      {low} to {high} after the start of its servers, as planned")
    if status.cost is not None:
        lines.append(f"cost     {status.cost}")
        if status.cost.problem:
            lines.append(f"         {status.cost.problem}")
    if tokens := describe_usage(status.usage):
        lines.append(f"tokens   {tokens}")
    lines += [f"limit    {each}" for each in (status.limit, status.money) if each is not None]
    rows = [
        (row.variant, row.episodes, "-" if row.mean_reward is None else f"{row.mean_reward:.3f}")
        for row in status.variants
    ]
    variants = make_table(("variant", "episodes", "mean reward per episode"), rows)
    return "\n".join([*lines, ""]), variants, "\n".join(_list_problems(status))


def _list_problems(status: RunStatus) -> Iterator[str]:
    alike: dict[str, list[CellProblem]] = {}
    for problem in status.problems:
        alike.setdefault(problem.reason, []).append(problem)
    for first, *more in list(alike.values())[:PROBLEMS]:
        if more:
            cells = format_ranges([first.cell, *(each.cell for each in more)])
            yield f"\n{1 + len(more)} cells failed alike ({cells}): {_indent(first.reason)}"
        else:
            yield f"\ncell {first.cell} failed: {first.title}: {_indent(first.reason)}"
        if first.log:
            yield f"  log{f' of cell {first.cell}' if more else ''}: {first.log}"
    if hidden := sum(map(len, list(alike.values())[PROBLEMS:])):
        yield f"... and {hidden} more failed cells (--json has all)"
    for cell in status.again[:PROBLEMS]:
        yield f"\ncell {cell.cell}: {cell.title}: {cell.reason}"
    if hidden := len(status.again[PROBLEMS:]):
        yield f"... and episodes of {pluralise(hidden, 'more cell')} (--json has all)"
    if (status.problems or status.again or status.cells.cancelled) and not status.live:
        yield "\nrun the same `emobench sweep` command again: it runs what is missing"


def _indent(reason: str) -> str:
    """Return the lines of a reason so that none of them looks like one of ours."""
    return "\n  ".join(reason.splitlines())
