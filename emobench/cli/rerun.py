"""`emobench rerun`: set episodes of a run aside, so that they are run again."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from emobench.cli.arguments import add_json, add_run_dir, parse_number_argument
from emobench.cli.terminal import shorten_path
from emobench.core.errors import InvalidInput, Problem
from emobench.core.outcomes import Outcome
from emobench.core.output import quote_words, say, say_json, warn
from emobench.core.wording import pluralise

if TYPE_CHECKING:
    from emobench.core.plan import Plan
    from emobench.core.run_dir import RunDir
    from emobench.runs.rerun import ChosenEpisodes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Set episodes of a run aside, so that they are run again. They stay in the cell's "
        "set_aside.jsonl, and the new episode's record lists the attempts before it. Without "
        "--submit the next `emobench sweep` of the same file runs them."
    )
    parser.epilog = (
        "what several options name has to fit all of them; infra_error runs again anyway"
    )
    add_run_dir(parser, required=True)
    parser.add_argument(
        "--outcome",
        action="append",
        choices=[str(outcome) for outcome in Outcome],
        default=[],
        metavar="OUTCOME",
        help=f"those that ended so ({', '.join(Outcome)}); may be repeated",
    )
    parser.add_argument(
        "--cell", type=parse_number_argument, default=[], metavar="N", help="cells, e.g. 3 or 0-4"
    )
    parser.add_argument(
        "--task", type=parse_number_argument, default=[], metavar="N", help="tasks, e.g. 12 or 0-4"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, and stop")
    parser.add_argument("--submit", action="store_true", help="submit their cells as well")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from emobench.core.plan import find_run_dir, load_plan
    from emobench.runs.rerun import Choice, choose_episodes, set_aside

    run_dir = find_run_dir(arguments.run_dir, to_act=not arguments.dry_run)
    plan = load_plan(run_dir)
    _check(arguments, plan, run_dir)
    outcomes = tuple(Outcome(name) for name in arguments.outcome)
    chosen = choose_episodes(plan, run_dir, Choice(outcomes, arguments.cell, arguments.task))
    if not arguments.json:
        say("\n".join(_describe(chosen)))
    if outcomes and outcomes != (Outcome.INFRA_ERROR,) and chosen:
        warn(
            "chosen by how they ended: running only what failed again raises the mean; say so "
            "where you report it"
        )
    if chosen and not arguments.dry_run:
        set_aside(run_dir, chosen)
        if arguments.submit:
            _submit(plan, run_dir, quiet=arguments.json)
        elif not arguments.json:
            say(f"set aside; run them again with:  {_format_command(plan, run_dir)}")
    if arguments.json:
        cells = {str(each.cell.number): each.outcomes for each in chosen}
        say_json({"set_aside": not arguments.dry_run, "cells": cells})
    return 0


def _check(arguments: argparse.Namespace, plan: Plan, run_dir: RunDir) -> None:
    if not (arguments.outcome or arguments.cell or arguments.task):
        raise InvalidInput("which episodes? give --outcome, --cell or --task, or several of them")
    if (run_dir.path / "collected.json").exists():
        raise InvalidInput(
            Problem(
                "this is a collected folder",
                file=str(run_dir.path),
                hint="name the run that the episodes are of",
            )
        )
    if arguments.submit and not plan.sweep_file:
        raise InvalidInput(
            Problem(
                "this run was made by hand and has nothing to submit",
                key="--submit",
                hint="leave it out, and repeat the command that made the run",
            )
        )


def _describe(chosen: list[ChosenEpisodes]) -> list[str]:
    if not chosen:
        return ["no episode fits; nothing to set aside"]
    total = sum(len(each.outcomes) for each in chosen)
    lines = [f"{pluralise(total, 'episode')} of {pluralise(len(chosen), 'cell')}:"]
    for each in chosen:
        counts = Counter(str(outcome) for outcome in each.outcomes.values())
        ended = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
        tasks = ", ".join(map(str, each.outcomes))
        lines.append(f"  cell {each.cell.number} ({each.cell.title}): {ended}: {tasks}")
    return lines


def _format_command(plan: Plan, run_dir: RunDir) -> str:
    if not plan.sweep_file:
        return "the command that made the run"
    file, folder = shorten_path(plan.sweep_file), shorten_path(run_dir.path)
    return quote_words(["emobench", "sweep", file, "--run-dir", folder])


def _submit(plan: Plan, run_dir: RunDir, quiet: bool) -> None:
    from emobench.runs.submission import submission_lock, submit

    with submission_lock(run_dir, warn):
        outcome = submit(plan, run_dir, warn=warn)
    if not quiet:
        say(f"submitted {pluralise(outcome.missing, 'cell')}; {outcome.live} have a job already")
