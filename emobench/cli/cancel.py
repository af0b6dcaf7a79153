"""`emobench cancel`: stop the jobs of a run."""

from __future__ import annotations

import argparse

from emobench.cli.arguments import add_json, add_run_dir
from emobench.core.output import say, say_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Stop the jobs of a run; results stay, and the same sweep goes on later."
    add_run_dir(parser, required=True)
    parser.add_argument("--force", action="store_true", help="also servers that other sweeps lease")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from emobench.core.plan import find_run_dir
    from emobench.runs.submission import cancel

    run_dir = find_run_dir(arguments.run_dir, to_act=True)
    tell = (lambda text: None) if arguments.json else say
    cancelled = cancel(run_dir, force=arguments.force, say=tell)
    if arguments.json:
        say_json({"cancelled": cancelled.stopped, "shared": cancelled.shared})
        return 0
    if cancelled.stopped:
        say(f"cancelled: {', '.join(cancelled.stopped)}; results stay in {run_dir.path}")
    elif not cancelled.shared:
        say(f"nothing of {run_dir.path} was running")
    for name, who in cancelled.shared.items():
        say(f"{name} stays: another sweep uses it: {who}; --force cancels it as well")
    return 0
