"""What `emobench sweep --dry-run` prints."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from emobench.cli.plan import render
from emobench.cli.terminal import shorten_path, show
from emobench.config.capacity import get_throttle
from emobench.core.errors import InvalidInput, Problem
from emobench.core.output import say_json
from emobench.core.plan import Plan, list_instances
from emobench.core.ranges import format_ranges
from emobench.core.run_dir import RunDir
from emobench.core.wording import pluralise
from emobench.runs.dry_run import DryRun, ScriptChange, rehearse
from emobench.runs.planning import Inputs
from emobench.scheduler.render import has_cleanup
from emobench.serving.preflight import check_servers

DIFF_LINES = 40
"""Lines of changed scripts that are shown; the scripts of --out have all of them."""
LONGEST = 300
"""Characters of a line: a variant's text may have changed."""


def plan_dry_run(inputs: Inputs, out: Path | None, warn: Callable[[str], None]) -> Plan:
    """Return the plan that would be submitted. Reads the run directory only. Raises InvalidInput,
    also where there is something at `out`."""
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        hint = "give a new or an empty folder with --out"
        raise InvalidInput(Problem("there is something already", file=str(out), hint=hint))
    with tempfile.TemporaryDirectory(prefix="emobench-") as scratch:
        copy = RunDir(Path(scratch))  # what the installed vLLM says is kept there
        if inputs.run_dir.installed_vllm.exists():
            shutil.copy(inputs.run_dir.installed_vllm, copy.installed_vllm)
        return check_servers(inputs.plan(warn), copy, warn)


def show_dry_run(
    plan: Plan, run_dir: RunDir, out: Path | None, as_json: bool, say: Callable[[str], None]
) -> None:
    """Print what would be done, and write the plan and the scripts into `out` where it is given."""
    with tempfile.TemporaryDirectory(prefix="emobench-") as scratch:
        done = rehearse(plan, run_dir, out.resolve() if out else Path(scratch))
    say("dry run: nothing was submitted, and nothing in the run folder was changed")
    for line in describe(plan, run_dir, done):
        say(f"  {line}")
    if out is None:
        say("the scripts were not kept; --out DIR writes them into DIR, to read")
    else:
        say(f"written to {shorten_path(out.resolve())}:")
        for path in done.paths:
            say(f"  {shorten_path(path)}")
    if not as_json:
        show("", *render(plan, done.forecast))
    else:
        say_json(_to_json(run_dir, out, done))


def describe(plan: Plan, run_dir: RunDir, done: DryRun) -> Iterator[str]:
    """Yield what would be done, a line each."""
    todo = done.todo
    if done.refusal:
        yield from f"would be refused: {done.refusal}".splitlines()
    yield from (f"warning: {line}" for line in done.warnings)
    for job in done.unrecorded:
        yield f"would take job {job.job_id} on record: {job.kind} {job.name}, found in the queue"
    for server in todo.leaving:
        yield f"would cancel {server}: it is about to leave, and a fresh one takes its place"
    models = list_instances(plan.sweep)
    for name in todo.servers:
        either = ", unless another sweep's can be shared" if models[name].reuse else ""
        yield f"would submit server {name}{either}"
    for name, cells in todo.missing.items():
        yield (
            f"would submit array {name}: {pluralise(len(cells), 'cell')} ({format_ranges(cells)}), "
            f"{get_throttle(plan)} at a time"
        )
    if (todo.missing and has_cleanup(plan)) or todo.cleanup:
        yield "would submit the clean-up job, after the arrays"
    if not todo.submits and not todo.cleanup:
        yield "would submit nothing" + ("" if todo.live else ": every cell is done")
    if todo.live:
        yield f"{pluralise(todo.live_count, 'cell')} that are not done have a job already"
    yield from map(str, todo.held)
    if done.changes:
        yield f"against the plan in {shorten_path(run_dir.path)}:"
        yield from (f"  {line[:LONGEST]}" for line in done.changes)
    if done.not_taken:
        yield "not for the jobs in the queue, before they are cancelled and submitted again:"
        yield from (f"  {line[:LONGEST]}" for line in done.not_taken)
    lines = [line for change in done.scripts for line in _describe_script(change)]
    if lines:
        yield f"against the scripts in {shorten_path(run_dir.scripts)}:"
        yield from (f"  {line}" for line in lines[:DIFF_LINES])
    if len(lines) > DIFF_LINES:
        yield f"  ... and {len(lines) - DIFF_LINES} more lines"


def _describe_script(change: ScriptChange) -> list[str]:
    return [f"{change.name}: {change.what}", *(f"  {line}" for line in change.lines)]


def _to_json(run_dir: RunDir, out: Path | None, done: DryRun) -> dict[str, object]:
    todo = done.todo
    return {
        "run_dir": str(run_dir.path),
        "out": str(out.resolve()) if out else None,
        "scripts": [str(path) for path in done.paths] if out else [],
        "refusal": done.refusal,
        "warnings": [*done.warnings],
        "servers": [*todo.servers],
        "arrays": {name: [*cells] for name, cells in todo.missing.items()},
        "live_cells": todo.live_count,
        "leaving": [job.to_json() for job in todo.leaving],
        "unrecorded": [job.to_json() for job in done.unrecorded],
        "changes": [*done.changes],
        "not_taken": [*done.not_taken],
        "forecast": done.forecast.to_json(),
        "changed_scripts": {change.name: change.what for change in done.scripts},
    }
