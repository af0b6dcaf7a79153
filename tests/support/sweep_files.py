"""Sweep files for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.config.load import load_sweep
from emobench.core.errors import InvalidInput, Problem
from emobench.core.sweep import Sweep

SCRIPTED = """\
engine: scripted
matrix: {env: retail, variant: [control, anger]}
trials: 2
tasks: 0-2
assistants: {good: {mistakes: 0.1}, bad: {mistakes: 0.9}}
"""


def write(folder: Path, text: str, name: str = "study.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def load(folder: Path, text: str) -> Sweep:
    return load_sweep(write(folder, text))


def problems(folder: Path, text: str) -> list[Problem]:
    """What is wrong with a sweep file; each problem names the file and a line of it."""
    with pytest.raises(InvalidInput) as caught:
        load(folder, text)
    assert "pydantic" not in str(caught.value) and "Input should" not in str(caught.value)
    for problem in caught.value.problems:
        assert problem.file.endswith("study.yaml")
        assert 0 <= problem.line <= text.count("\n") + 1
    return list(caught.value.problems)


def problem(folder: Path, text: str) -> Problem:
    (only,) = problems(folder, text)
    return only
