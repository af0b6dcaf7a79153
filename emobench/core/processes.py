"""Processes of Linux: when one started, and how one ends with its parent."""

from __future__ import annotations

import ctypes
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def read_start_ticks(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; None where it is gone or a
    zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name may contain anything but stands in the last pair of parentheses.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel, between fork and exec, send `number` when the parent dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
