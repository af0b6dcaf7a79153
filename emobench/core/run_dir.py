"""The run directory: the one place that computes every path in it. Nothing here touches the disk.

runs/<sweep name>/
  plan.json                     the resolved sweep, profile and cells (written by `sweep` only)
  jobs.json                     what was submitted (by `sweep`, and by servers: their successors)
  scripts/                      what is submitted, byte for byte
  submitit/                     submitit's own files
  endpoints/                    mode 0700: <instance>.json by that server's job, api_key (0600)
  endpoints/hosted_keys.json    mode 0600: keys of hosted endpoints, by `sweep`
  endpoints/<instance>+next.json          by a successor, until it takes over
  endpoints/leases/<instance>/<id>.json   by another sweep that shares this server
  endpoints/clients/<instance>/<run>-<cell>.json   by a running cell, of this run or another, that
                                uses this server
  endpoints/<instance>.<job>.events.jsonl when that job loaded, served and was idle
  cells/<n>/episodes.jsonl      one line an episode, appended by that cell's run only
  cells/<n>/set_aside.jsonl     lines that were damaged, or are run again by `rerun`; never deleted
  cells/<n>/variant_summary.json
  cells/<n>/results.json        tau-bench's own format, written at the end
  forecast.json                 what it was expected to take, written at the first submission
  installed_vllm.json           which arguments the site's vLLM takes, asked at submission
  judge.jsonl                   the judge's answers, one line each, appended by `judge` only
  checks.json                   manipulation, fidelity and gates, by `judge` and `check`
  report.html
  tables/                       made by `emobench collect` (docs/tables.md)
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from emobench.core.errors import InvalidInput


@dataclass(frozen=True)
class CellPaths:
    """The files of one cell."""

    folder: Path

    @property
    def episodes(self) -> Path:
        return self.folder / "episodes.jsonl"

    @property
    def set_aside(self) -> Path:
        return self.folder / "set_aside.jsonl"

    @property
    def summary(self) -> Path:
        return self.folder / "variant_summary.json"

    @property
    def results(self) -> Path:
        return self.folder / "results.json"

    @property
    def lock(self) -> Path:
        return self.folder / ".lock"


@dataclass(frozen=True)
class RunDir:
    """Paths of one run directory."""

    path: Path

    @property
    def identity(self) -> str:
        """Twelve hex digits that tell it from other run directories: of its path."""
        return sha256(os.fsencode(self.path)).hexdigest()[:12]

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs.json"

    @property
    def jobs_lock(self) -> Path:
        return self.path / ".jobs.lock"

    @property
    def submission_lock(self) -> Path:
        """Held by the one command that submits or cancels jobs."""
        return self.path / ".submission.lock"

    @property
    def scripts(self) -> Path:
        return self.path / "scripts"

    @property
    def submitit(self) -> Path:
        return self.path / "submitit"

    @property
    def endpoints(self) -> Path:
        return self.path / "endpoints"

    @property
    def api_key(self) -> Path:
        return self.endpoints / "api_key"

    @property
    def hosted_keys(self) -> Path:
        return self.endpoints / "hosted_keys.json"

    @property
    def installed_vllm(self) -> Path:
        return self.path / "installed_vllm.json"

    @property
    def forecast(self) -> Path:
        return self.path / "forecast.json"

    @property
    def judge_answers(self) -> Path:
        return self.path / "judge.jsonl"

    @property
    def checks(self) -> Path:
        return self.path / "checks.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def endpoint(self, instance: str) -> Path:
        return self.endpoints / f"{_check_name(instance)}.json"

    def successor(self, instance: str) -> Path:
        """Return where a server announces itself that is to take over from the instance's present
        one."""
        return self.endpoints / f"{_check_name(instance)}+next.json"

    def leases(self, instance: str) -> Path:
        """Return the folder of the leases that other sweeps have of this run's server, one file
        each."""
        return self.endpoints / "leases" / _check_name(instance)

    def clients(self, instance: str) -> Path:
        """Return the folder of the cells that use this run's server, one file each."""
        return self.endpoints / "clients" / _check_name(instance)

    def events(self, instance: str, job_id: str) -> Path:
        return self.endpoints / f"{_check_name(instance)}.{_check_name(job_id)}.events.jsonl"

    def cell(self, number: int) -> CellPaths:
        return CellPaths(self.path / "cells" / str(number))


def is_name(text: str) -> bool:
    """Return whether a text read from a file can stand in a path or a command line as one name.

    >>> is_name("user+2"), is_name("../x"), is_name("--all")
    (True, False, False)
    """
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", text) is not None


def _check_name(text: str) -> str:
    if not is_name(text):
        raise InvalidInput(f"{text[:80]!r} stands where a server or a job is named, and is no name")
    return text


def slugify(model: str) -> str:
    """Return a model id as a file-name part: 'Qwen/Qwen3-4B' -> 'Qwen3-4B'; never a path.

    >>> slugify("../../x")
    'x'
    """
    last = model.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-")[:80] or "model"
