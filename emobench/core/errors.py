"""The user's mistakes and the world's failures, as exceptions that print without a traceback.

EmobenchError              base; the command line prints it and exits with `exit_code`
+-- InvalidInput           exit 2: the user can mend it; carries one or more `Problem`s
+-- SubmissionRefused      exit 1: the scheduler said no; what was submitted is taken back
+-- ServersGone            exit 3: an endpoint a cell needs never came or went away
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Problem:
    """One mistake: what, where, what is allowed, what to do. Empty parts are left out."""

    message: str
    file: str = ""
    line: int = 0  # 1-based; 0 means unknown
    key: str = ""  # dotted path, e.g. "matrix.variant[2]"
    allowed: str = ""
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file and self.line else self.file
        head = ": ".join(part for part in (where, self.key, self.message) if part)
        lines = [head]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)


class EmobenchError(Exception):
    """Base of every error that is shown to the user without a traceback."""

    exit_code = 1


class InvalidInput(EmobenchError):
    """The user's mistake. Several problems are reported at once."""

    exit_code = 2

    def __init__(self, problems: Problem | Iterable[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems: Sequence[Problem] = (
            (problems,) if isinstance(problems, Problem) else tuple(problems)
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SubmissionRefused(EmobenchError):
    """The scheduler refused a job; the message quotes what it said and what can be done."""


class ServersGone(EmobenchError):
    """An endpoint that a cell needs did not come up in time, or went away."""

    exit_code = 3


def suggest_nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint naming the closest valid name, or an empty string."""
    matches = get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f"did you mean '{matches[0]}'?" if matches else ""


def show(value: object) -> str:
    """Return a value from a file, short enough for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return str(value)


def list_names(names: Iterable[object], limit: int = 30) -> str:
    """Return names with commas; the end of a long list is counted instead."""
    every = [str(name) for name in names]
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more
