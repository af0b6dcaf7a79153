"""The command line, run in this process, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from emobench.cli.main import main
from tests.support.processes import PATIENCE_S, changed_environment

COLUMNS = "100"
"""Of the terminal that commands believe to have."""


def as_process(
    folder: Path, *arguments: str, module: str = "emobench.cli", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": COLUMNS, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def emobench(
    folder: Path, *arguments: str, command: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `emobench ARGUMENTS` in `folder`, or `python -m emobench.COMMAND ARGUMENTS`.

    In this process, as starting one takes half a second; not for commands that submit, whose jobs
    would be this process's children.
    """
    out, error = io.StringIO(), io.StringIO()
    with (
        changed_environment({**os.environ, "COLUMNS": COLUMNS, **environment}),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        prog = f"python -m emobench.{command}" if command else ""
        try:
            code = main(arguments, command=command, prog=prog)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), error.getvalue())
