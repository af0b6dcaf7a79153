"""The comment of a Slurm job: which run directory's it is, and what it is there.

    emobench 1f0c9ab24e55 server user+2 after 123: study, Qwen/Qwen3-32B

It stands in the scripts, so a job that was submitted by hand has it too; squeue shows it, so a job
that nobody recorded is found again (`Scheduler.find_jobs`). What follows the colon is for people.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from emobench.core.run_dir import RunDir
from emobench.store.jobs import JobKind

SEPARATOR = ","
"""Between the names of several servers that are one job."""
_FORM = re.compile(
    rf"emobench (?P<run>[0-9a-f]{{12}}) (?P<kind>{'|'.join(JobKind)}) (?P<name>[^\s:]+)"
    r"(?: after (?P<after>[^\s:]+))?: "
)


@dataclass(frozen=True)
class JobComment:
    """What the comment of a job says to this program."""

    kind: JobKind
    name: str
    """Instance of a server, or of several, or block of cells."""
    takes_over: str = ""
    """The server's job that it was submitted to take over from."""

    def write(self, run_dir: RunDir, text: str) -> str:
        """Return the comment with `text` for people."""
        after = f" after {self.takes_over}" if self.takes_over else ""
        return f"emobench {run_dir.identity} {self.kind} {self.name}{after}: {text}"


def find_run_in_comment(comment: str) -> str | None:
    """Return the identity of the run directory that a comment names; None where it names none."""
    match = _FORM.match(comment)
    return None if match is None else match["run"]


def read_comment(comment: str, run_dir: RunDir) -> JobComment | None:
    """Return what a job's comment says; None where the job is not this run directory's."""
    match = _FORM.match(comment)
    if match is None or match["run"] != run_dir.identity:
        return None
    return JobComment(JobKind(match["kind"]), match["name"], match["after"] or "")
