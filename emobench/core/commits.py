"""Which commits a study was made with: of its sweep file, of emobench and of the benchmark."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

GIT_S = 10.0
"""Git waits for a slow file system; a submission need not."""


def collect_commits(sweep_file: Path | None, benchmark_package: str) -> dict[str, str]:
    """Return the commit by 'sweep file', 'emobench' and the benchmark's package; what has none is
    left out.

    ', changed' follows where a file of theirs differs from the commit.
    """
    found = {
        "sweep file": find_commit(sweep_file) if sweep_file is not None else "",
        "emobench": _find_installed_commit("emobench")
        or find_commit(Path(__file__).parent / "__init__.py"),
        benchmark_package: _find_installed_commit(benchmark_package),
    }
    return {name: commit for name, commit in found.items() if commit}


def merge_commits(several: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return each name's distinct commits in the order given, with '; ' between.

    >>> merge_commits([{"emobench": "a1"}, {"emobench": "b2", "sweep file": "c3"}])
    {'emobench': 'a1; b2', 'sweep file': 'c3'}
    """
    merged: dict[str, list[str]] = {}
    for each in several:
        for name, known in each.items():
            merged.setdefault(name, []).extend(known.split("; "))
    return {name: "; ".join(dict.fromkeys(known)) for name, known in merged.items()}


def find_commit(file: Path) -> str:
    """Return the commit of the repository that tracks `file`; empty where none does.

    For a package's __init__.py all of the package is looked at, else the file alone.
    """
    folder = file.resolve().parent
    if _ask_git(folder, "ls-files", "--error-unmatch", file.name) is None:
        return ""  # an environment may lie in somebody else's repository
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if file.name == "__init__.py":
        changed = bool(_ask_git(folder, "status", "--porcelain", "--untracked-files=no", "--", "."))
    else:
        # `status` would run the filters that the repository names, which somebody may have sent.
        is_now = _ask_git(folder, "hash-object", "--no-filters", "--", file.name)
        changed = is_now != _ask_git(folder, "rev-parse", f"HEAD:./{file.name}")
    return f"{commit}, changed" if commit and changed else commit or ""


def _find_installed_commit(package: str) -> str:
    """Return the commit that pip installed the package from, as PEP 610 has it noted."""
    try:
        noted = distribution(package.replace("_", "-")).read_text("direct_url.json")
        commit = json.loads(noted or "{}").get("vcs_info", {}).get("commit_id", "")
    except (PackageNotFoundError, ValueError, AttributeError):
        return ""
    return str(commit)


def _ask_git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None where there is no git, no repository, or it says no."""
    # A repository's own settings may name a program here.
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
