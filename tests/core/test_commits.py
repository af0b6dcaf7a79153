"""The commits that a plan remembers, of real repositories."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from emobench.core.commits import collect_commits, find_commit, merge_commits
from emobench.runs.planning import read_inputs

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

SWEEP = """
name: small
matrix: {env: retail, agent_strategy: tool-calling, variant: control}
tasks: 0-2
trials: 1
user: {engine: scripted}
assistants: {a: {engine: scripted}}
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def sweep_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a repository of its own, committed."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "study.yaml"
    file.write_text(SWEEP)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "study.yaml")
    git(tmp_path, "commit", "-q", "-m", "first")
    return file


def test_a_tracked_file_has_its_commit(sweep_file: Path) -> None:
    head = git(sweep_file.parent, "rev-parse", "HEAD")
    assert find_commit(sweep_file) == head
    assert collect_commits(sweep_file, "no_such_package")["sweep file"] == head
    sweep_file.write_text(SWEEP + "seed: 4\n")
    assert find_commit(sweep_file) == f"{head}, changed"


@pytest.mark.parametrize("setting", ["core.fsmonitor", "filter.x.clean", "diff.x.textconv"])
def test_nothing_runs_that_the_repository_names(sweep_file: Path, setting: str) -> None:
    folder = sweep_file.parent
    mark, program = folder / "mark", folder / "program"
    program.write_text(f"#!/bin/sh\ntouch {mark}\ncat\n")
    program.chmod(0o755)
    (folder / ".gitattributes").write_text("*.yaml filter=x diff=x\n")
    git(folder, "config", setting, str(program))
    # As long as it was, so that git has to look into it.
    sweep_file.write_text(SWEEP.replace("0-2", "0-1"))
    assert find_commit(sweep_file).endswith(", changed")
    assert not mark.exists()


def test_what_no_repository_tracks_has_none(sweep_file: Path) -> None:
    other = sweep_file.with_name("other.yaml")
    other.write_text(SWEEP)
    assert find_commit(other) == ""
    assert "sweep file" not in collect_commits(other, "no_such_package")


def test_a_package_is_changed_by_any_of_its_files(sweep_file: Path) -> None:
    package = sweep_file.parent / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "module.py").touch()
    git(package, "add", ".")
    git(package, "commit", "-q", "-m", "second")
    head = git(package, "rev-parse", "HEAD")
    assert find_commit(package / "__init__.py") == head
    (package / "module.py").write_text("x = 1\n")
    assert find_commit(package / "__init__.py") == f"{head}, changed"


def test_the_plan_remembers_it(sweep_file: Path) -> None:
    plan = read_inputs(sweep_file).plan()
    assert plan.commits["sweep file"] == git(sweep_file.parent, "rev-parse", "HEAD")


def test_commits_of_several_runs_stand_side_by_side() -> None:
    same = {"emobench": "a1"}
    assert merge_commits([same, same, {"emobench": "b2"}]) == {"emobench": "a1; b2"}
