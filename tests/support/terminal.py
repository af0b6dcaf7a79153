"""A command on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path


def on_terminal(folder: Path, *arguments: str, **env: str) -> str:
    """What a terminal of 80 columns gets."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm", **env}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "emobench.cli", *arguments],
        cwd=folder,
        env=environment,
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    got = b""
    try:
        while part := os.read(parent, 65536):
            got += part
    except OSError:  # the terminal's other side is closed
        pass
    finally:
        process.wait(240)
        os.close(parent)
    return got.decode()
