"""`emobench run`: one cell of a sweep (what an array task executes), or one run by hand.

Exit codes: 0 done, 1 incomplete (run again to complete it), 2 refused (also by the probe of an
endpoint), 3 servers gone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from emobench.core.errors import InvalidInput
from emobench.core.output import say, warn
from emobench.core.sweep import AGENT_STRATEGIES, ENVS, USER_STRATEGIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run one cell: of a run directory (--run-dir, with --cell or with the cell's own values), "
        "or one by hand against endpoints that exist (--model-base-url)."
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="a run directory (default by hand: runs/hand-...)",
    )
    parser.add_argument(
        "--cell", type=int, metavar="N", help="number of a cell of the run directory"
    )
    cell = parser.add_argument_group("the cell, by its values")
    cell.add_argument("--env", choices=ENVS, help="whose tasks: tau-bench's environment")
    cell.add_argument(
        "--agent-strategy",
        choices=AGENT_STRATEGIES,
        default="tool-calling",
        help="how the assistant acts (default: tool-calling)",
    )
    cell.add_argument("--model", metavar="M", help="the assistant's model id")
    cell.add_argument(
        "--variant",
        default="control",
        metavar="V",
        help="emotional persona of the user (default: control)",
    )
    cell.add_argument("--trial", type=int, default=1, metavar="K", help="from 1 (default: 1)")
    hand = parser.add_argument_group("by hand, without a sweep")
    hand.add_argument(
        "--tasks", default="all", metavar="N", help="all (default), a range 0-19, or a list 0,3,7"
    )
    hand.add_argument(
        "--model-base-url",
        metavar="URL",
        help="the assistant's endpoint, e.g. http://host:8005/v1 (default: $OPENAI_API_BASE)",
    )
    hand.add_argument(
        "--user-base-url",
        metavar="URL",
        help="the user's endpoint (default: $USER_MODEL_API_BASE, else the assistant's)",
    )
    hand.add_argument("--user-model", metavar="M", help="the user's model id (default: --model)")
    hand.add_argument(
        "--user-strategy",
        choices=USER_STRATEGIES,
        default="llm",
        help="how tau-bench simulates the user (default: llm)",
    )
    hand.add_argument(
        "--few-shot-displays-path",
        type=Path,
        metavar="FILE",
        help="tau-bench's examples, which the strategy few-shot needs",
    )
    hand.add_argument(
        "--api-key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="name of the variable that holds the endpoints' key (default: OPENAI_API_KEY)",
    )
    hand.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="the assistant's (default: 0)"
    )
    hand.add_argument(
        "--max-steps",
        type=int,
        default=30,
        metavar="N",
        help="most steps of a conversation (default: 30)",
    )
    hand.add_argument(
        "--timeout",
        type=float,
        default=600,
        metavar="S",
        help="seconds for one reply (default: 600)",
    )
    hand.add_argument(
        "--max-concurrency",
        type=int,
        default=8,
        metavar="N",
        help="conversations at a time (default: 8)",
    )
    hand.add_argument(
        "--seed", type=int, default=10, metavar="N", help="sent to both models (default: 10)"
    )
    hand.add_argument(
        "--probe",
        choices=("off", "warn", "enforce"),
        default="enforce",
        help="ask both endpoints first whether they can be used (default: enforce)",
    )


def run(arguments: argparse.Namespace) -> int:
    from emobench.core.ownership import open_own_run_dir
    from emobench.core.plan import load_plan
    from emobench.runner.array_task import run_task
    from emobench.runner.by_hand import find_cell, is_by_hand, plan_by_hand

    if is_by_hand(arguments):
        run_dir, plan = plan_by_hand(arguments)
        number = 0
    elif arguments.run_dir is None:
        raise InvalidInput(
            "nothing to run: give --run-dir DIR --cell N, or --env, --model and --model-base-url "
            "(or OPENAI_API_BASE in the environment)"
        )
    else:
        run_dir = open_own_run_dir(arguments.run_dir)
        plan = load_plan(run_dir)
        number = arguments.cell if arguments.cell is not None else find_cell(plan, arguments)
    return run_task(
        plan,
        run_dir,
        number,
        of_array=arguments.cell is not None,
        progress=say,
        warn=warn,
    )
