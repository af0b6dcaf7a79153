"""`emobench judge`: ask a model about every user turn without an answer, then check the gates.

Exit codes: 0 every turn has an answer, 1 some have none, 2 wrong arguments, 3 no such server now.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from emobench.cli.arguments import add_json, add_run_dir, count
from emobench.core.output import overwrite, say
from emobench.core.wording import pluralise

if TYPE_CHECKING:
    from emobench.analysis.judge.asking import Asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Ask a model which emotion each user turn of a run shows, blind to the variant. Answers "
        "are kept in the run directory; stopped or repeated, it goes on."
    )
    parser.epilog = (
        "exit codes: 0 every turn has an answer, 1 some have none (repeat the command), "
        "2 wrong arguments, 3 the server is not there"
    )
    add_run_dir(parser, required=True)
    parser.add_argument("--base-url", metavar="URL", help="e.g. http://host:8005/v1")
    parser.add_argument("--model", metavar="M", help="the model's id there")
    parser.add_argument(
        "--api-key-env", metavar="NAME", help="name of the variable that holds the endpoint's key"
    )
    parser.add_argument(
        "--server", metavar="NAME", help="a running server of the sweep: user, or an assistant"
    )
    parser.add_argument("--concurrency", type=count, metavar="N", help="requests at a time")
    parser.add_argument(
        "--sample", type=count, metavar="N", help="conversations of each variant (default: all)"
    )
    parser.add_argument(
        "--max-tokens", type=count, metavar="N", help="most tokens of an answer (default: 1024)"
    )
    add_json(parser, "print the checks for machines")


def run(arguments: argparse.Namespace) -> int:
    from emobench.analysis.judge.asking import judge_run
    from emobench.analysis.judge.endpoint import find_endpoint, merge_settings
    from emobench.cli.check import FAILED, PASSED, check_run
    from emobench.config.current_plan import load_current_plan
    from emobench.core.plan import find_run_dir

    run_dir = find_run_dir(arguments.run_dir, to_act=True)
    plan = load_current_plan(run_dir)
    settings = merge_settings(
        plan.sweep.judge,
        server=arguments.server,
        model=arguments.model,
        base_url=arguments.base_url,
        api_key_env=arguments.api_key_env,
        concurrency=arguments.concurrency,
        sample=arguments.sample,
        max_tokens=arguments.max_tokens,
    )
    endpoint = find_endpoint(settings, plan, run_dir, given=arguments.base_url is not None)
    asked = judge_run(run_dir, settings, endpoint, plan.sweep.seed, _make_progress())
    say(show(asked, endpoint.model), file=sys.stderr if arguments.json else sys.stdout)
    check_run(run_dir, None, arguments.json)
    return FAILED if asked.failed else PASSED


def show(asked: Asked, model: str) -> str:
    """Say what came of asking the judge."""
    text = (
        f"{model}: {pluralise(asked.distinct, 'different user turn')}, {asked.known} answered "
        f"before, {asked.answered} now"
    )
    if asked.unreadable:
        text += f"; {asked.unreadable} answers hold no label beyond doubt and count as missing"
    if asked.failed:
        text += (
            f"; {asked.failed} without an answer ({asked.why or 'not asked'}): repeat the command "
            "to ask again"
        )
    return text


def _make_progress() -> Callable[[int, int], None]:
    """Return what prints to a terminal how far it is, and nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda done, of: None
    return lambda done, of: overwrite(f"{done} of {of} turns")
