"""Where the shipped templates, cluster profiles and sweeps are, and the user's own beside them."""

from __future__ import annotations

import os
from pathlib import Path

import emobench
from emobench.core.errors import InvalidInput, Problem
from emobench.core.ownership import require_own_templates

OWN_TEMPLATES_VARIABLE = "EMOBENCH_TEMPLATES"


def _find_shipped(name: str) -> Path:
    package = Path(emobench.__file__).resolve().parent
    installed = package / "_data" / name
    # A wheel carries the folder as package data; an editable install reads the repository's.
    return installed if installed.is_dir() else package.parent / name


def find_shipped_templates() -> Path:
    """Return the slurm_templates folder that comes with this package."""
    return _find_shipped("slurm_templates")


def find_shipped_sweeps() -> Path:
    """Return the folder of sweep files that comes with this package."""
    return _find_shipped("sweeps")


def list_template_dirs(own: Path | None = None) -> list[Path]:
    """Return the folders to look for a template or profile in: the first that has the file wins.

    `own`, then $EMOBENCH_TEMPLATES, then ./slurm_templates, then the shipped folder. Raises
    InvalidInput if `own` or the variable names something that is no folder, and where
    ./slurm_templates, which nobody named, is somebody else's.
    """
    named = [(own, "the given template folder")] if own is not None else []
    if value := os.environ.get(OWN_TEMPLATES_VARIABLE):
        named.append((Path(value), f"the variable {OWN_TEMPLATES_VARIABLE}"))
    folders = []
    for folder, source in named:
        if not folder.is_dir():
            raise InvalidInput(
                Problem(
                    f"{source} names no folder",
                    file=str(folder),
                    hint="make the folder, or leave it out to use the shipped templates",
                )
            )
        folders.append(folder.resolve())
    here = Path("slurm_templates")
    if here.is_dir():
        if here.resolve() != find_shipped_templates().resolve():
            require_own_templates(here)
        folders.append(here.resolve())
    folders.append(find_shipped_templates())
    return list(dict.fromkeys(folders))
