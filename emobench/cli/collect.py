"""emobench collect RUN_DIR...: tidy tables of episodes and turns, of one's own runs and of
tau-bench's result files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emobench.cli.arguments import add_json
from emobench.core.errors import InvalidInput, Problem
from emobench.core.output import say, say_json
from emobench.core.ranges import FORM, parse_numbers
from emobench.core.sweep import AGENT_STRATEGIES, ENVS, USER_STRATEGIES
from emobench.core.wording import pluralise

if TYPE_CHECKING:
    from emobench.tables.published import Described

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

EPILOG = """examples:
  emobench collect runs/x                          runs/x/tables: episodes and turns as Parquet
  emobench collect runs/x runs/y -o both --csv     one table of two runs that belong together
  emobench collect gpt-4o-airline.json --env airline --variant control --assistant gpt-4o
                                                   tau-bench's own results, as if run here

The tables are described in docs/tables.md. What is cut off or damaged is left out and reported.
Exit codes: 0 collected, 1 the disk refused, 2 an input that cannot be read or does not belong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write one table of episodes and one of turns."
    parser.epilog = EPILOG
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="RUN_DIR|RESULTS.json", help="what to collect"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="default: RUN_DIR/tables for one run, else collected/NAMES",
    )
    parser.add_argument("--csv", action="store_true", help="the tables as CSV too")
    parser.add_argument("--text", action="store_true", help="keep the text of each turn")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: CPUs, up to 8)"
    )
    add_json(parser, "print the summary for machines")
    files = parser.add_argument_group("of tau-bench's result files, which do not say it")
    files.add_argument("--env", choices=ENVS, help="whose tasks they are")
    files.add_argument("--variant", help="control for a stock user")
    files.add_argument(
        "--assistant",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="one for all files or one a file, in their order; the trials of files with the same "
        "name add up (default: the file's name)",
    )
    files.add_argument(
        "--agent-strategy",
        choices=AGENT_STRATEGIES,
        default="tool-calling",
        help="how the assistant acted (default: tool-calling)",
    )
    files.add_argument("--user-model", default="unknown", metavar="M", help="the user's model id")
    files.add_argument(
        "--user-strategy",
        choices=USER_STRATEGIES,
        default="llm",
        help="how tau-bench simulated the user (default: llm)",
    )
    files.add_argument(
        "--max-steps",
        type=int,
        default=30,
        metavar="N",
        help="most steps of a conversation (default: 30)",
    )
    files.add_argument("--tasks", help="only these: a range 0-19, or a list 0,3,7")


def run(arguments: argparse.Namespace) -> int:
    from emobench.tables.collection import (
        Request,
        check_input,
        choose_default_folder,
        collect_into,
        describe,
    )

    for path in arguments.inputs:
        check_input(path)
    run_dirs = tuple(path for path in arguments.inputs if path.is_dir())
    # The same file twice is one file.
    files = tuple({p.resolve(): p for p in arguments.inputs if not p.is_dir()}.values())
    workers = arguments.workers
    if workers is not None and workers < 1:
        raise InvalidInput(Problem("at least one process", key="--workers"))
    folder = arguments.output or choose_default_folder(run_dirs, files)
    described = read_description(arguments, files) if files else None
    if not files and (arguments.env or arguments.variant or arguments.assistant):
        raise InvalidInput(
            "--env, --variant and --assistant describe tau-bench's result files; run directories "
            "say it themselves"
        )
    request = Request(run_dirs, files, described, folder, arguments.csv, arguments.text, workers)
    summary = collect_into(request)
    if arguments.json:
        say_json(summary)
    else:
        say(describe(summary, str(folder)))
    return 0


def read_description(arguments: argparse.Namespace, files: Sequence[Path]) -> Described:
    """Return what the options say about result files, as a record. Raises InvalidInput."""
    from emobench.tables.published import Described

    missing = [f"--{key}" for key in ("env", "variant") if getattr(arguments, key) is None]
    if missing:
        raise InvalidInput(
            Problem(
                f"{' and '.join(missing)} must be given",
                file=str(files[0]),
                hint="tau-bench's result files do not say what was run, e.g. --env airline "
                "--variant control",
            )
        )
    names = arguments.assistant or [_derive_name(path) for path in files]
    if len(names) == 1:
        names = names * len(files)
    if len(names) != len(files):
        raise InvalidInput(
            Problem(
                f"{pluralise(len(names), 'name')} for {pluralise(len(files), 'file')}",
                key="--assistant",
                hint="give one name for all files, or one a file, in their order",
            )
        )
    for key, name in (*(("--assistant", name) for name in names), ("--variant", arguments.variant)):
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                Problem(
                    f"'{name}' cannot be a name here",
                    key=key,
                    allowed="letters, digits, dot, dash and underscore, up to 64",
                )
            )
    if not 1 <= arguments.max_steps <= 1000:
        raise InvalidInput(Problem("must be 1 to 1000", key="--max-steps"))
    return Described(
        env=arguments.env,
        variant=arguments.variant,
        assistants=tuple(names),
        agent_strategy=arguments.agent_strategy,
        user_model=arguments.user_model,
        user_strategy=arguments.user_strategy,
        max_steps=arguments.max_steps,
        tasks=_parse_tasks(arguments.tasks),
    )


def _parse_tasks(text: str | None) -> tuple[int, ...] | None:
    """Return 0-19 or 0,3,7 as numbers."""
    try:
        return None if text is None else tuple(sorted(parse_numbers(text)))
    except ValueError as error:
        raise InvalidInput(Problem(str(error), key="--tasks", allowed=FORM)) from None


def _derive_name(path: Path) -> str:
    from emobench.core.run_dir import slugify

    return slugify(path.stem)[:64].rstrip(".-_") or "published"
