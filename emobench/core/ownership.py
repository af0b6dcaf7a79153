"""Whether a run directory is this user's own, asked by every command that acts in it.

Who may write to a run directory chooses what its jobs execute: their scripts, submitit's pickles,
the plan with its set-up lines. So those that act (sweep, run, serve, cancel, rerun, judge) refuse a
folder that is somebody else's, that others may write to or may put another in the place of, and a
path that leads through somebody else's symlink. What only looks does not ask.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from emobench.core.errors import InvalidInput, Problem
from emobench.core.run_dir import RunDir

LOOKING = "status, watch, logs, conversations, check and report -o FILE"
"""What works on somebody else's run."""
FOREIGN_RUN = f"of somebody else's run you can use {LOOKING}; for a run of your own give --run-dir"
MOST_SYMLINKS = 40


def open_own_run_dir(path: Path | str) -> RunDir:
    """Return the run directory at `path`, which need not exist, for a command that acts in it.

    Raises InvalidInput where it is not this user's own, and OSError.
    """
    run_dir = RunDir(_resolve_links(Path(path)))
    require_own(run_dir)
    return run_dir


def require_own(run_dir: RunDir) -> None:
    """Raise InvalidInput unless the run directory, and the folders in it that jobs execute and
    trust, are this user's own as far as they exist. Raises OSError."""
    cells = run_dir.path / "cells"
    for folder in (run_dir.path, run_dir.scripts, run_dir.submitit, run_dir.endpoints, cells):
        _require_own_folder(_resolve_links(folder))
    # Left from when others could write to the folder: they can still write to their file.
    with suppress(FileNotFoundError, NotADirectoryError):
        scripts = [file for file in run_dir.scripts.iterdir() if not file.is_dir()]
        for file in (run_dir.plan, run_dir.jobs, *scripts):
            if os.path.lexists(file) and not is_own_file(file):
                message = "this file is not yours alone to write, and decides what runs as you"
                hint = f"look into it; if it is right: cp {file} x && mv x {file}"
                raise InvalidInput(Problem(message, file=str(file), hint=hint))


def require_own_templates(folder: Path) -> None:
    """Raise InvalidInput unless templates in the present folder, which become scripts that run as
    this user, are this user's own or the system's. Raises OSError."""
    if folder.stat().st_uid != 0:
        advice = "work in another folder; if you trust it, name it in EMOBENCH_TEMPLATES"
        _require_own_folder(_resolve_links(folder), advice)


def is_own_file(path: Path) -> bool:
    """Return whether there is such a file, it is this user's own, and nobody else may write to
    it."""
    try:
        status = _resolve_links(path).stat()
    except (OSError, InvalidInput):
        return False
    own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    return own and not _can_others_write(status)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, that nobody else may write to, whatever the umask says.

    Raises OSError.
    """
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(mode=0o755, exist_ok=True)


def _resolve_links(path: Path) -> Path:
    """Return the path without symlinks, each of which is this user's or the system's.

    Raises InvalidInput where one is not.
    """
    # In a user namespace the system's files may be shown as nobody's.
    trusted = {os.geteuid(), 0, Path("/").stat().st_uid}
    real = Path("/")
    left = list(reversed((Path.cwd() / path).parts[1:]))
    links = 0
    while left:
        name = left.pop()
        if name == "..":
            real = real.parent
            continue
        step = real / name
        try:
            status = step.lstat()
        except (FileNotFoundError, NotADirectoryError):
            real = step
            continue
        if not stat.S_ISLNK(status.st_mode):
            real = step
            continue
        links += 1
        if status.st_uid not in trusted:
            message = (
                f"this symlink is {_name_user(status.st_uid)}'s, who can have it lead anywhere"
            )
            hint = "give the folder itself, without the symlink"
            raise InvalidInput(Problem(message, file=str(step), hint=hint))
        if links > MOST_SYMLINKS:
            raise InvalidInput(Problem("too many symlinks one after another", file=str(path)))
        target = step.readlink()
        if target.is_absolute():
            real = Path("/")
        left += reversed([part for part in target.parts if part != "/"])
    return real


def _require_own_folder(folder: Path, advice: str = FOREIGN_RUN) -> None:
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        status = None
    if status is not None and status.st_uid != os.geteuid():
        message = f"this belongs to {_name_user(status.st_uid)}"
        raise InvalidInput(Problem(message, file=str(folder), hint=advice))
    if status is not None and _can_others_write(status):
        hint = f"if you trust what is in it: chmod go-w {folder}"
        raise InvalidInput(
            Problem(
                "others may write to this folder, whose scripts run as you", str(folder), hint=hint
            )
        )
    with suppress(FileNotFoundError, NotADirectoryError):
        above = folder.parent.stat()
        if _can_others_write(above) and not above.st_mode & stat.S_ISVTX:
            message = (
                f"others may write to this folder, and put another in the place of {folder.name}"
            )
            hint = f"chmod go-w or chmod +t {folder.parent}, or take a folder of your own in it"
            raise InvalidInput(Problem(message, file=str(folder.parent), hint=hint))


def _can_others_write(status: os.stat_result) -> bool:
    """Return whether others may write. A user's private group is nobody else; with ACLs the group's
    bits are the most they give."""
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_private(status.st_gid)


def _is_private(group_id: int) -> bool:
    with suppress(KeyError):
        me, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(group_id)
        return group.gr_name == me and set(group.gr_mem) <= {me}
    return False


def _name_user(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"
