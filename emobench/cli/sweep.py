"""python -m emobench.sweep FILE: load, expand, render and submit a sweep."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from emobench.analysis.stats.power import power_verdict
from emobench.cli.main import add_sweep_arguments, guarded
from emobench.cli.power import summary
from emobench.config.capacity import describe
from emobench.core.plan import Plan, servers_of
from emobench.core.run_dir import RunDir


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m emobench.sweep",
        description="Submit a sweep file, or what is missing of it. The same as `emobench sweep`.",
    )
    add_sweep_arguments(parser)
    arguments = parser.parse_args(argv)
    return guarded(lambda: sweep_command(arguments))


def sweep_command(arguments: argparse.Namespace) -> int:
    """Exit code 0: submitted, finished, or nothing to do; 1: --wait ended with missing episodes."""
    from emobench.runs.planning import prepare
    from emobench.runs.submission import submit, write_scripts
    from emobench.serving.preflight import check_servers
    from emobench.serving.shutdown_policy import cost_of_keeping

    def say(text: str) -> None:
        if not arguments.json:  # machines read one JSON object and nothing else
            print(text, flush=True)

    def warn(text: str) -> None:
        print(f"emobench: {text}", file=sys.stderr)

    run_dir, plan = prepare(
        arguments.file,
        cluster=arguments.cluster,
        run_dir=arguments.run_dir,
        dry_run=arguments.dry_run,
        warn=warn,
        keep_servers_min=arguments.keep_servers,
    )
    check_servers(plan, run_dir, warn)
    cards = sum(model.accelerators for model in servers_of(plan.sweep).values())
    if plan.sweep.max_gpu_hours is not None and not cards:
        warn("max_gpu_hours has no effect: no server of this sweep holds an accelerator")
    say(headline(plan, run_dir))
    if arguments.dry_run:
        paths = write_scripts(plan, run_dir)
        say("written, nothing submitted:")
        for path in paths:
            say(f"  {_short(path)}")
        if arguments.json:
            print(json.dumps({"run_dir": str(run_dir.path), "scripts": [str(p) for p in paths]}))
        return 0
    outcome = submit(
        plan,
        run_dir,
        on_job=lambda job: say(f"  {_job_line(job)}"),
        warn=warn,
        say=lambda text: say(f"  {text}"),
    )
    if not outcome.missing and not outcome.live:
        say("finished: every cell is done, nothing to submit")
    elif not outcome.missing:
        say(f"nothing to submit: the {outcome.live} cells that are not done have a job already")
    else:
        say(f"submitted {outcome.missing} of {len(plan.cells)} cells")
    if plan.sweep.keep_servers_min and (outcome.missing or outcome.live):
        say(
            f"kept:       the servers stay up to {plan.sweep.keep_servers_min:g} minutes after the "
            f"last cell: at most {cost_of_keeping(plan, plan.sweep.keep_servers_min)}; "
            f"end them with: emobench cancel {_short(run_dir.path)}"
        )
    code = 0
    if arguments.wait:
        from emobench.cli.progress import follow

        code = follow(run_dir, say)
    elif outcome.missing or outcome.live:
        say(f"follow it:  emobench status {_short(run_dir.path)}")
        say(f"logs:       tail -f {_short(plan.logs)}/*")
    if arguments.json:
        print(
            json.dumps(
                {
                    "run_dir": str(run_dir.path),
                    "cells": len(plan.cells),
                    "submitted_cells": outcome.missing,
                    "live_cells": outcome.live,
                    "jobs": list(outcome.submitted),
                    "leased": {
                        name: str(place.run_dir.path) for name, place in outcome.leased.items()
                    },
                    "finished": not outcome.missing and not outcome.live if code == 0 else False,
                }
            )
        )
    return code


def headline(plan: Plan, run_dir: RunDir) -> str:
    """What this sweep is, in a few lines."""
    sweep = plan.sweep
    tasks = sum(len(cell.tasks) for cell in plan.cells)
    smallest = sweep.gates.smallest_effect
    lines = [
        f"{sweep.name}: {len(plan.cells)} cells, {tasks} episodes, on {plan.profile.name}",
        f"  variants    {', '.join(sweep.variants)}",
        f"  user        {sweep.user.model} ({sweep.user.engine}, {sweep.user_strategy})",
    ]
    lines += [
        f"  assistant   {model.model} ({model.engine})" for model in sweep.assistants.values()
    ]
    lines += [f"  benchmark   {plan.benchmark}", f"  run folder  {_short(run_dir.path)}"]
    lines += [f"  at a time   {text}" for text in describe(plan)]
    if sweep.max_gpu_hours is not None:
        lines.append(f"  limit       {sweep.max_gpu_hours:g} accelerator-hours (max_gpu_hours)")
    lines += [f"  {line}" for line in summary(power_verdict(plan.cells, smallest))]
    return "\n".join(lines)


def _job_line(job: Mapping[str, Any]) -> str:
    cells = f", {len(job['cells'])} cells" if job["kind"] == "array" else ""
    return f"job {job['job_id']}: {job['kind']} {job['name']}{cells}"


def _short(path: Any) -> str:
    """A path as a person would type it here."""
    from pathlib import Path

    path = Path(path)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
