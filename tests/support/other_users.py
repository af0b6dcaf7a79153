"""Run code as another user, in a child process; only root can."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

ALICE, MALLORY = 61001, 61002
"""The user whose commands are tested, and somebody else with an account."""
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make files of another user, or be one"
)


def as_user(user_id: int, function: Callable[[], int]) -> tuple[int, str]:
    """Return the function's exit code and all that it printed, as the user; 99 for a traceback.

    Python's own files may be closed to them: what is imported there has to be imported before.
    """
    with tempfile.TemporaryFile() as out:
        sys.stdout.flush()
        sys.stderr.flush()
        if not (pid := os.fork()):
            code = 99
            try:
                for standard in (1, 2):
                    os.dup2(out.fileno(), standard)
                sys.stdout = os.fdopen(1, "w", closefd=False)
                sys.stderr = os.fdopen(2, "w", closefd=False)
                os.setgroups([])
                os.setgid(user_id)
                os.setuid(user_id)
                code = function()
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        return code, out.read().decode(errors="replace")


def give(path: Path, user_id: int) -> None:
    """Make a file or a folder, with all that is in it, the user's."""
    for each in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
        os.chown(each, user_id, user_id, follow_symlinks=False)
