"""A site's set-up lines, run on this machine to ask what a server would find after them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emobench.core.processes import die_with_parent
from emobench.core.redaction import hide_environment, redact

GRACE_S = 2.0


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
    """Run set-up lines, then set `environment`, then run `command`, as a job's script would.

    Not a login shell: a job's is none either, it has the environment that sbatch passes on. And a
    login shell's profile may hold locks, which outlive one that is ended. All that was started has
    ended when this returns.
    """
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    hide_environment(os.environ)
    process = subprocess.Popen(
        ["bash", "-c", "\n".join([*lines, *exports, command])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        text=True,
        errors="replace",
        # A narrow terminal would break the options of a help page over lines.
        env={**os.environ, "COLUMNS": "200"},
    )
    try:
        output, errors = process.communicate(timeout=timeout_s)
        return Ran(process.returncode, redact(output), redact(errors))
    except subprocess.TimeoutExpired:
        _end(process)
        return Ran(None, "", "")
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[str]) -> None:
    """Send SIGTERM to the whole session first, so that traps can clean up."""
    deadline = time.monotonic() + GRACE_S
    os.killpg(process.pid, signal.SIGTERM)
    # Not reaped here: as long as the shell is not, nobody else gets its group's number.
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, process.pid, options) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    # The shell may be gone before what it started.
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
