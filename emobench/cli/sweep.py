"""`emobench sweep`: load, expand, render and submit a sweep."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from emobench.cli.arguments import add_json, make_number_type
from emobench.cli.terminal import quote_path, shorten_path
from emobench.core.errors import InvalidInput
from emobench.core.output import say, say_json, warn
from emobench.core.ranges import format_ranges
from emobench.core.wording import pluralise

if TYPE_CHECKING:
    from emobench.core.plan import Plan
    from emobench.core.run_dir import RunDir
    from emobench.store.jobs import JobRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Submit a sweep file, or what is missing of it."
    parser.add_argument("file", type=Path, metavar="FILE", help="a sweep file, e.g. sweeps/x.yaml")
    parser.add_argument(
        "--cluster", metavar="NAME|PATH", help="profile instead of the sweep file's"
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<sweep name>")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and change nothing"
    )
    instead.add_argument(
        "--no-submit", action="store_true", help="write the scripts, for somebody to submit by hand"
    )
    instead.add_argument("--wait", action="store_true", help="follow it to its end, then report")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="an empty or new folder for the scripts of --dry-run (default: they are not kept)",
    )
    parser.add_argument(
        "--keep-servers",
        type=make_number_type(
            float, lambda minutes: 0 <= minutes <= 100_000, "minutes, from 0 to 100000"
        ),
        metavar="MIN",
        help="minutes that the servers stay after the last cell (default: keep_servers_min)",
    )
    add_json(parser, "print the outcome for machines")


def run(arguments: argparse.Namespace) -> int:
    """Return exit code 0: submitted, finished, or nothing to do; 1: --wait ended with missing
    episodes."""
    from emobench.runs.planning import read_inputs
    from emobench.runs.submission import prepare_by_hand, submission_lock, submit
    from emobench.serving.preflight import check_servers
    from emobench.serving.shutdown_policy import describe_keeping_cost

    # Machines read one JSON object and nothing else.
    tell = (lambda text: None) if arguments.json else say

    if arguments.out is not None and not arguments.dry_run:
        raise InvalidInput("--out is for the scripts of --dry-run; --run-dir names a run's folder")
    inputs = read_inputs(
        arguments.file,
        cluster=arguments.cluster,
        run_dir=arguments.run_dir,
        dry_run=arguments.dry_run,
        warn=warn,
        keep_servers_min=arguments.keep_servers,
    )
    run_dir = inputs.run_dir
    place = quote_path(run_dir.path)
    if arguments.dry_run:
        from emobench.cli.dry_run import plan_dry_run, show_dry_run

        plan = plan_dry_run(inputs, arguments.out, warn)
        tell(format_headline(plan, run_dir))
        show_dry_run(plan, run_dir, arguments.out, arguments.json, tell)
        return 0
    with submission_lock(run_dir, tell):
        plan = check_servers(inputs.plan(warn), run_dir, warn)
        tell(format_headline(plan, run_dir))
        if arguments.no_submit:
            paths = prepare_by_hand(plan, run_dir)
        else:
            outcome = submit(
                plan,
                run_dir,
                on_job=lambda job: tell(f"  {_describe_job(job)}"),
                warn=warn,
                say=lambda text: tell(f"  {text}"),
            )
    if arguments.no_submit:
        tell("written, nothing submitted:")
        for path in paths:
            tell(f"  {shorten_path(path)}")
        if arguments.json:
            say_json({"run_dir": str(run_dir.path), "scripts": [str(p) for p in paths]})
        return 0
    if not outcome.missing and not outcome.live:
        tell("finished: every cell is done, nothing to submit")
    elif not outcome.missing:
        tell(
            "nothing to submit: there are jobs for what is left "
            f"({pluralise(outcome.live, 'cell')})"
        )
    else:
        tell(f"submitted {outcome.missing} of {pluralise(len(plan.cells), 'cell')}")
    for job in outcome.held:
        tell(f"  {job}")
    for line in outcome.changes:
        tell(f"changed:    {line}")
    for line in outcome.not_taken:
        tell(f"not taken:  {line}")
    if outcome.not_taken:
        tell("            for the jobs in the queue; cancel them and submit again to take it")
    if plan.sweep.keep_servers_min and (outcome.missing or outcome.live):
        tell(
            "kept:       the servers stay up to "
            f"{pluralise(plan.sweep.keep_servers_min, 'minute')} after the last cell: "
            f"at most {describe_keeping_cost(plan, plan.sweep.keep_servers_min)}; "
            f"end them with: emobench cancel {place}"
        )
    finished = not outcome.missing and not outcome.live
    if arguments.wait:
        from emobench.cli.watch import show_results, wait

        finished = wait(run_dir, quiet=arguments.json).finished
        if not arguments.json:
            if not finished:
                from emobench.cli.status import show_status
                from emobench.runs.status import read_status

                show_status(read_status(run_dir))
            show_results(run_dir)
        from emobench.report.render import build_report

        tell(f"report: {build_report(run_dir)}")
    elif outcome.missing or outcome.live:
        tell(f"follow it:  emobench status {place}")
        tell(f"logs:       tail -f {quote_path(plan.logs)}/*")
    if arguments.json:
        say_json(
            {
                "run_dir": str(run_dir.path),
                "cells": len(plan.cells),
                "submitted_cells": outcome.missing,
                "live_cells": outcome.live,
                "jobs": [job.to_json() for job in outcome.submitted],
                "leased": {name: str(place.run_dir.path) for name, place in outcome.leased.items()},
                "held": [asdict(job) for job in outcome.held],
                "changes": [*outcome.changes],
                "not_taken": [*outcome.not_taken],
                "finished": finished,
            }
        )
    return 1 if arguments.wait and not finished else 0


def format_headline(plan: Plan, run_dir: RunDir) -> str:
    """Return what this sweep is, in a few lines."""
    from emobench.analysis.planned_power import judge_planned_power
    from emobench.cli.power import summarise
    from emobench.config.capacity import describe
    from emobench.store.calls import format_dollars

    sweep = plan.sweep
    tasks = sum(len(cell.tasks) for cell in plan.cells)
    size = f"{pluralise(len(plan.cells), 'cell')}, {pluralise(tasks, 'episode')}"
    lines = [
        f"{sweep.name}: {size}, on {plan.profile.name}",
        f"  variants    {', '.join(sweep.variants)}",
        f"  user        {sweep.user.model} ({sweep.user.engine}, {sweep.user_strategy})",
    ]
    lines += [
        f"  assistant   {model.model} ({model.engine})" for model in sweep.assistants.values()
    ]
    lines += [
        f"  tasks       {_describe_tasks(env, numbers)}" for env, numbers in sweep.tasks.items()
    ]
    lines += [f"  benchmark   {plan.benchmark}", f"  run folder  {shorten_path(run_dir.path)}"]
    lines += [f"  at a time   {text}" for text in describe(plan)]
    if sweep.max_gpu_hours is not None:
        lines.append(f"  limit       {sweep.max_gpu_hours:g} accelerator-hours (max_gpu_hours)")
    if sweep.max_cost is not None:
        what = "hosted models"
        if plan.profile.accelerator_hour_price:
            what += " and accelerators"
        lines.append(f"  limit       {format_dollars(sweep.max_cost)} for {what} (max_cost)")
    lines += [f"  {line}" for line in summarise(judge_planned_power(plan))]
    return "\n".join(lines)


def _describe_tasks(env: str, numbers: Sequence[int]) -> str:
    """Return 'retail 0-19 (20 tasks)'; one number is explained, since it might be meant as a
    count."""
    text = f"{env} {format_ranges(numbers)} ({pluralise(len(numbers), 'task')}"
    if len(numbers) == 1 and numbers[0] > 0:
        first = pluralise(numbers[0], "task")
        text += f", counted from 0; the first {first}: {format_ranges(range(numbers[0]))}"
    return text + ")"


def _describe_job(job: JobRecord) -> str:
    cells = f", {pluralise(len(job.cells), 'cell')}" if job.cells else ""
    return f"job {job.job_id}: {job.kind} {job.name}{cells}"
