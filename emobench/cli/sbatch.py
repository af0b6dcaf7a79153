"""`emobench sbatch`: the lines that submit what is missing of a run, in order."""

from __future__ import annotations

import argparse
from pathlib import Path

from emobench.cli.arguments import add_run_dir
from emobench.cli.terminal import shorten_path
from emobench.core.errors import InvalidInput, Problem
from emobench.core.output import say, warn

EPILOG = """examples:
  emobench sweep sweeps/x.yaml --no-submit     write the scripts
  emobench sbatch runs/x                       the lines that submit them
  emobench sbatch runs/x | bash                submit them
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print the lines that submit what is missing of a run: servers, then the arrays that "
        "depend on them, then the clean-up job. It submits nothing and changes nothing."
    )
    parser.epilog = EPILOG
    add_run_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    """Return exit code 0, also where nothing is missing: then there is no line, and stderr says
    why."""
    from emobench.core.plan import find_run_dir, load_plan
    from emobench.core.wording import pluralise
    from emobench.runs.submission import decide
    from emobench.scheduler.sbatch_lines import format_sbatch_lines
    from emobench.scheduler.schedulers import SCHEDULERS

    run_dir = find_run_dir(arguments.run_dir, to_act=True)
    plan = load_plan(run_dir)
    if plan.profile.one_machine:
        hint = "emobench sweep runs it; for a cluster give --cluster there"
        message = f"it is of profile {plan.profile.name}, which has no Slurm"
        raise InvalidInput(Problem(message, file=str(run_dir.path), hint=hint))
    jobs = SCHEDULERS.find_all_jobs(plan, run_dir)
    todo = decide(plan, run_dir, jobs)
    scripts = Path(shorten_path(run_dir.scripts))
    states = SCHEDULERS.ask_states(jobs)
    lines = list(format_sbatch_lines(plan, scripts, todo.missing, todo.servers, jobs, states))
    if not run_dir.scripts.is_dir():
        hint = "emobench sweep FILE --no-submit writes them"
        raise InvalidInput(Problem("there are no scripts", file=str(run_dir.scripts), hint=hint))
    for line in lines:
        say(line)
    if todo.live_count:
        have = pluralise(todo.live_count, "cell")
        warn(f"left out, because a job is there for it: {have}")
    elif not lines:
        warn("nothing to submit: every cell is done")
    return 0
