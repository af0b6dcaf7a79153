"""Every module can be imported by itself, so that a lazy import cannot hide a broken name."""

from __future__ import annotations

import importlib
import pkgutil

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
