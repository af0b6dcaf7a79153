"""`emobench plan`: what a sweep takes, before it is queued."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from emobench.cli.arguments import add_json
from emobench.cli.terminal import make_table, show
from emobench.core.output import say_json, warn
from emobench.core.wording import format_about, format_duration, pluralise
from emobench.scheduler.cost import format_hours
from emobench.store.calls import format_dollars

if TYPE_CHECKING:
    from rich.console import RenderableType

    from emobench.core.plan import Plan
    from emobench.store.forecast import Estimate, Forecast

EPILOG = """examples:
  emobench plan sweeps/x.yaml                      calls, tokens, hours, accelerator-hours, money
  emobench plan sweeps/x.yaml --cluster my.yaml    on another site's cards
  emobench plan sweeps/x.yaml --pilot runs/pilot   by what a small run of the same models took
  emobench plan runs/x                             what is left of a run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "What a sweep takes before it is queued, each figure with its range and what it rests on. "
        "It only reads."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "source", type=Path, metavar="FILE|RUN_DIR", help="a sweep file, or a run directory"
    )
    parser.add_argument(
        "--cluster", metavar="NAME|PATH", help="profile instead of the sweep file's"
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<sweep name>")
    parser.add_argument(
        "--pilot",
        type=Path,
        metavar="RUN_DIR",
        help="go by this run (default: this sweep's own and those beside it, of the same models)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from emobench.core.errors import InvalidInput
    from emobench.core.plan import load_plan
    from emobench.core.run_dir import RunDir
    from emobench.runs.forecast import forecast_plan
    from emobench.runs.planning import read_inputs

    if arguments.source.is_dir():
        if arguments.cluster or arguments.run_dir:
            raise InvalidInput("--cluster and --run-dir are for a sweep file; a run has its own")
        run_dir = RunDir(arguments.source.resolve())
        plan = load_plan(run_dir)
    else:
        inputs = read_inputs(
            arguments.source,
            cluster=arguments.cluster,
            run_dir=arguments.run_dir,
            dry_run=True,
            warn=warn,
        )
        run_dir, plan = inputs.run_dir, inputs.plan(warn)
    forecast = forecast_plan(plan, run_dir, arguments.pilot)
    if arguments.json:
        say_json({"sweep": plan.sweep.name, **forecast.to_json()}, indent=2)
    else:
        show(*render(plan, forecast))
    return 0


def render(plan: Plan, forecast: Forecast) -> list[RenderableType]:
    """Return the forecast as a person reads it."""
    sweep = plan.sweep
    done = f", {forecast.finished:,} done before" if forecast.finished else ""
    head = (
        f"{sweep.name}: {pluralise(forecast.episodes, 'episode')} to run in "
        f"{pluralise(forecast.cells, 'cell')}{done}, on {plan.profile.name}"
    )
    if not forecast.episodes:
        return [f"{head}\nnothing is left to run"]
    jobs = pluralise(forecast.cells, "cell")
    if forecast.servers:
        jobs += f", {pluralise(forecast.servers, 'server')}"
    if forecast.accelerators:
        jobs += f" with {pluralise(forecast.accelerators, 'accelerator')}"
    lines = [
        head,
        f"  at a time  {pluralise(forecast.conversations, 'conversation')} at most",
        f"  jobs       {forecast.jobs:,}: {jobs}",
        "",
    ]
    table = make_table(("", "expected", "from", "to"), [*_list_rows(forecast)])
    below = ["", "rests on"]
    below += [f"  {what:<17}{text}" for what, text in forecast.rests_on.items()]
    below += [f"note: {text}" for text in forecast.notes]
    below.append("not in it: time in the queue, and what is begun again after a failure")
    return ["\n".join(lines), table, "\n".join(below)]


def _list_rows(forecast: Forecast) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []

    def add(title: str, figure: Estimate | None, write: Callable[[float], str]) -> None:
        if figure is not None:
            rows.append((title, *map(write, (figure.typical, figure.low, figure.high))))

    for title, kind in (
        ("calls", forecast.calls),
        ("tokens in", forecast.tokens_in),
        ("tokens out", forecast.tokens_out),
    ):
        for role, each in kind.items():
            add(f"{title}, {role}", each, lambda count: format_about(round(count)))
    add("time", forecast.hours, lambda hours: format_duration(3600 * hours))
    if forecast.accelerators:
        add("accelerator-hours", forecast.accelerator_hours, format_hours)
    add("cost of hosted models", forecast.token_dollars, format_dollars)
    add("cost of accelerators", forecast.accelerator_dollars, format_dollars)
    return rows
