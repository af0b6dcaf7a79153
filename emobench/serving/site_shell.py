"""A site's set-up lines, run on this machine to ask what a server would find after them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """How a script ended; `code` is None where it was ended for taking too long."""

    code: int | None
    output: str
    errors: str

    @property
    def last_words(self) -> str:
        """The last line that it wrote to stderr, or else to stdout."""
        lines = [line.strip() for text in (self.errors, self.output) for line in text.splitlines()]
        said = [line for line in self.errors.splitlines() if line.strip()]
        return (said or [line for line in lines if line] or [""])[-1].strip()[:300]


def run_lines(
    lines: Sequence[str], environment: Mapping[str, str], command: str, timeout_s: float
) -> Ran:
    """Run set-up lines, then set `environment`, then run `command`, in a login shell.

    Everything that it started has ended when this returns.
    """
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    process = subprocess.Popen(
        ["bash", "-lc", "\n".join([*lines, *exports, command])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        errors="replace",
        # A narrow terminal would break the options of a help page over lines.
        env={**os.environ, "COLUMNS": "200"},
    )
    try:
        output, errors = process.communicate(timeout=timeout_s)
        return Ran(process.returncode, output, errors)
    except subprocess.TimeoutExpired:
        return Ran(None, "", "")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
