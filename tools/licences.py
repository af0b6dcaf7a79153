"""Write docs/licences.md: the licences of the packages in locks/, by the metadata of those here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

LOCKS = Path("locks")
PAGE = Path("docs/licences.md")
PARTS = (
    ("benchmark", "The benchmark"),
    ("run", "What emobench needs"),
    ("dev", "What the PDF figures (`emobench[pdf]`) and the tests need besides"),
)
INTRODUCTION = """\
# Licences of the dependencies

Written by `make lock` from the metadata of the installed packages: the words are their authors'.
emobench itself is under the MIT licence and contains none of them; pip installs them beside it.
The original `tau_bench`, which `make venv TAU_BENCH=git` installs, is under the MIT licence; a vLLM
is the site's own.
"""


def read_lock(file: Path) -> list[Requirement]:
    """Return what a file of locks/ pins, without the hashes."""
    lines = re.findall(r"^[a-z0-9].*?(?= \\$)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return [Requirement(line) for line in lines]


def describe_licence(package: Distribution) -> str:
    """Return the SPDX expression, else classifiers, else the first line of what is said of it."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = metadata.get_all("Classifier") or []
    named = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
    if named := [name for name in named if name.endswith(("License", ")"))]:
        return ", ".join(named)
    return next(_first_lines(package), "not stated")


def _first_lines(package: Distribution) -> Iterator[str]:
    texts = [package.metadata.get("License") or ""]
    files = [file for file in package.files or () if file.name.upper().startswith("LICEN")]
    texts += [Path(str(file.locate())).read_text(encoding="utf-8") for file in files]
    for text in texts:
        yield from text.strip().splitlines()[:1]


def _row(pinned: Requirement) -> str:
    try:
        said = describe_licence(distribution(pinned.name))
    except PackageNotFoundError:
        if pinned.marker is None or pinned.marker.evaluate():
            raise SystemExit(f"{pinned.name} is not installed here: make dev") from None
        said = f"not read, since it is installed only where `{pinned.marker}`"
    return f"| {pinned.name} | {said} |\n"


def main() -> None:
    text, seen = INTRODUCTION, set[str]()
    for name, title in PARTS:
        # One that is locked in several versions is named once, by the one installed here.
        pinned = {each.name: each for each in read_lock(LOCKS / f"{name}.txt")}
        text += f"\n## {title}\n\n| package | licence |\n|---|---|\n"
        text += "".join(_row(each) for each in pinned.values() if each.name not in seen)
        seen.update(pinned)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
