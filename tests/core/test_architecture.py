"""docs/architecture.md names packages and modules that exist, and no package is left out."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "emobench"
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_module_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.py|[a-z_]+\.py)`", PAGE))
    stock = {"envs/base.py"}
    assert len(named) > 10
    assert [name for name in sorted(named - stock) if not (PACKAGE / name).is_file()] == []


def test_the_page_lists_every_package() -> None:
    listed = set(re.findall(r"^\|[^|]*\| `([a-z]+)/` \|", PAGE, re.MULTILINE))
    assert listed == {folder.parent.name for folder in PACKAGE.glob("*/__init__.py")}
