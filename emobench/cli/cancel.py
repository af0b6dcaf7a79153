"""`emobench cancel`: stop the jobs of a run."""

from __future__ import annotations

import argparse
import json

from emobench.cli.arguments import add_json, add_run_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Stop the jobs of a run; results stay, and the same sweep goes on later."
    add_run_dir(parser, required=True)
    parser.add_argument("--force", action="store_true", help="also servers that other sweeps lease")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from emobench.core.plan import find_run_dir
    from emobench.runs.submission import cancel

    run_dir = find_run_dir(arguments.run_dir, to_act=True)
    say = (lambda text: None) if arguments.json else print
    cancelled = cancel(run_dir, force=arguments.force, say=say)
    if arguments.json:
        print(json.dumps({"cancelled": cancelled.stopped, "shared": cancelled.shared}))
        return 0
    if cancelled.stopped:
        print(f"cancelled: {', '.join(cancelled.stopped)}; results stay in {run_dir.path}")
    elif not cancelled.shared:
        print(f"nothing of {run_dir.path} was running")
    for name, who in cancelled.shared.items():
        print(f"{name} stays: another sweep uses it: {who}; --force cancels it as well")
    return 0
