"""A file of lines that one process at a time appends to, and that any prefix of can be gone on
with: what was written is on disk, and a line that was torn by a kill or a full disk is cut off."""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from emobench.core.files import naming, open_to_read, open_to_write


class LineStore(ABC):
    """Appends to `path` while it holds an exclusive lock on `lock`, which may be the same file.

    Opening raises what `busy` makes where another process holds the lock, and OSError where the
    disk says no; what was there before stays.
    """

    def __init__(self, path: Path, lock: Path) -> None:
        self._path = path
        self._lock = lock
        self._held = ExitStack()
        self._descriptor = -1

    @abstractmethod
    def _make_busy_error(self) -> Exception:
        """Return what to raise where another process holds the lock."""

    @abstractmethod
    def _load(self) -> int:
        """Take in what the file holds; return the offset after its last whole line."""

    def __enter__(self) -> Self:
        with ExitStack() as held:
            try:
                fcntl.flock(_open(self._lock, held), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._make_busy_error() from None
            self._descriptor = _open(self._path, held)
            whole = self._load()
            if whole < os.fstat(self._descriptor).st_size:
                os.ftruncate(self._descriptor, whole)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _write(self, lines: Iterable[bytes]) -> None:
        """Append lines without their line breaks; when this returns they are on disk."""
        with naming(self._path):
            _append(self._descriptor, lines)

    def _reopen(self) -> None:
        """Go on with the file that has taken the place of the one that was opened."""
        with ExitStack() as held:
            os.dup2(_open(self._path, held), self._descriptor, inheritable=False)


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Append lines without their line breaks to a file that no other process writes; when this
    returns they are on disk. Raises OSError."""
    with ExitStack() as held, naming(path):
        descriptor = _open(path, held)
        end = os.fstat(descriptor).st_size
        if end and os.pread(descriptor, 1, end - 1) != b"\n":
            lines = [b"", *lines]  # the last write was cut off
        _append(descriptor, lines)


def read_stored_lines(path: Path, start: int = 0) -> Iterator[tuple[bytes, int]]:
    """Yield each line from the byte `start` on, with its line break, and where it begins.

    A last line without a line break is torn, or being written. Raises OSError.
    """
    with open_to_read(path) as stream:
        stream.seek(start)
        for line in stream:
            yield line, start
            start += len(line)


def _append(descriptor: int, lines: Iterable[bytes]) -> None:
    data = memoryview(b"".join(line + b"\n" for line in lines))
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)


def _open(path: Path, held: ExitStack) -> int:
    descriptor = open_to_write(path, os.O_RDWR | os.O_APPEND)
    held.callback(os.close, descriptor)
    return descriptor
