"""Every module can be imported by itself, so that a lazy import cannot hide a broken name."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import emobench

ENTRIES = {"emobench.cli.__main__", "emobench.scripted.__main__"}
"""They act when they are imported."""


def modules() -> list[str]:
    found = pkgutil.walk_packages(emobench.__path__, "emobench.")
    return sorted({module.name for module in found} - ENTRIES)


@pytest.mark.parametrize("name", modules())
def test_every_module_can_be_imported(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


def imported_names(file: Path) -> list[str]:
    """Return the modules that a file imports, wherever in it."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def test_what_tests_share_stands_in_no_test() -> None:
    """It stands in tests/support, or beside the tests of the cluster."""
    tests = Path(__file__).parents[1]
    wrong = [
        f"{file.relative_to(tests)}: {name}"
        for file in tests.rglob("*.py")
        for name in imported_names(file)
        if name.startswith("tests.") and ".test_" in name
    ]
    assert wrong == []
