"""Small files that others read while they are written: complete or absent, never half."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOCK_PATIENCE_S = 30.0


def write_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """`write_bytes_atomic` of the text in UTF-8."""
    write_bytes_atomic(path, text.encode("utf-8"), mode)


def write_bytes_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write to a temporary name in the same folder, flush to disk, rename.

    Raises OSError (disk full, no permission); the old file then stays as it was.
    """
    # Writers on two nodes may have the same pid.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
    """Hold an exclusive lock on a file, also against other nodes that share the file system.

    Where the file system has no locks, or nobody lets go within `patience_s` seconds, the file is
    taken all the same: what the lock guards takes milliseconds, and must happen. Raises OSError
    where the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            try:
                # flock only: among threads of a process the other kind (lockf) is no lock at all,
                # and over NFS the kernel makes one of the other.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break  # no locks here
        yield
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", mode)


def read_json(path: Path) -> Any:
    """The file's value, or None where there is no (readable, whole) file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
