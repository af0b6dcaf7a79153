"""`emobench report`. Exit codes: 0 written, 1 the disk refused, 2 wrong arguments."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from emobench.core.errors import EmobenchError, InvalidInput, Problem
from emobench.core.output import say, warn
from emobench.core.wording import pluralise

EPILOG = """examples:
  emobench report runs/x                             runs/x/report.html, also while it runs
  emobench report runs/x -o x.html                   elsewhere, e.g. of a colleague's run
  emobench report runs/x --export paper/emotions     figures and tables as files, too
  emobench collect runs/x runs/y -o both && emobench report both     several runs as one
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "One HTML file of a run, or of a folder that `emobench collect` made: it opens offline and "
        "holds the conversations. It can be made at any time."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "paths", nargs="+", metavar="RUN_DIR", help="e.g. runs/quickstart, or a collected folder"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="where to write it (default: report.html in the run directory)",
    )
    parser.add_argument(
        "--conversations",
        metavar="N|all|none",
        help="how many have their text in the report (default: up to 10000)",
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FOLDER",
        help="write figures (SVG, PDF), tables (CSV, LaTeX) and findings.json there",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the report, and the export where one is asked for."""
    if len(arguments.paths) > 1:
        paths = shlex.join(arguments.paths)
        raise InvalidInput(
            Problem(
                "a report is of one run or of one collected folder",
                key="RUN_DIR",
                hint=f"emobench collect {paths} -o FOLDER && emobench report FOLDER",
            )
        )
    from emobench.core.plan import find_run_dir
    from emobench.report.library import parse_limit

    limit = parse_limit(arguments.conversations)
    run_dir = find_run_dir(arguments.paths[0])
    output: Path = arguments.output or run_dir.report
    if arguments.output is not None or run_dir.path.is_dir():
        _check_output(output)

    from emobench.report.render import write_report
    from emobench.report.study import build_study

    study = build_study(run_dir, limit)
    say(write_report(study, output))
    if arguments.export is not None:
        from emobench.report.export import export

        files, notice = export(study, arguments.export)
        say(f"{pluralise(len(files), 'file')} in {arguments.export}")
        if notice:
            warn(notice)
    return 0


def _check_output(file: Path) -> None:
    """Refuse, before hours of conversations are read, what could not be written.

    Raises InvalidInput for a path that is no file's, EmobenchError for a folder of somebody else.
    """
    if file.is_dir():
        raise InvalidInput(f"{file} is a folder; -o takes the name of a file, e.g. {file}/x.html")
    folder = file.parent
    if not folder.is_dir():
        raise InvalidInput(f"there is no folder {folder} to write {file.name} to; make it first")
    if not os.access(folder, os.W_OK, effective_ids=True):
        raise EmobenchError(
            f"{folder} is not yours to write to\n  write the report elsewhere: "
            "emobench report RUN_DIR -o FILE"
        )
