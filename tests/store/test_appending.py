"""A line that was appended is on disk, whole, or the caller is told."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from emobench.core.files import write_atomic
from emobench.store.appending import append_lines, read_stored_lines
from emobench.store.labels import Answer, AnswerStore

LINES = [b'{"a": 1}', b"x" * 50, b"last"]
WHOLE = b"".join(line + b"\n" for line in LINES)


def append_answers(path: Path) -> None:
    with AnswerStore(path) as store:
        store.append([Answer(f"k{number}", "m", None, "said") for number in range(3)])


WRITERS: dict[str, Callable[[Path], None]] = {
    "lines": lambda path: append_lines(path, LINES),
    "store": append_answers,
    "atomic": lambda path: write_atomic(path, WHOLE.decode()),
}


@pytest.mark.parametrize("writer", ["lines", "store"])
def test_a_short_write_is_gone_on_with(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may take a part of what it is given: on a nearly full disk, over a network."""
    WRITERS[writer](tmp_path / "whole")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    WRITERS[writer](tmp_path / "in parts")
    assert (tmp_path / "in parts").read_bytes() == (tmp_path / "whole").read_bytes() != b""


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_what_was_written_is_flushed_to_disk(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, before the writer returns, and before a file takes its name."""
    path = tmp_path / "file"
    flushed: list[tuple[int, int]] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        flushed.append((status.st_ino, status.st_size))
        assert writer != "atomic" or not path.exists()

    monkeypatch.setattr(os, "fsync", fsync)
    WRITERS[writer](path)
    assert flushed[-1] == (path.stat().st_ino, path.stat().st_size)
    assert path.stat().st_size > 0


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_a_flush_that_fails_is_told_with_the_files_name(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left") as failed:
        WRITERS[writer](tmp_path / "file")
    assert failed.value.filename == str(tmp_path / "file")


def test_a_store_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    append_answers(path)
    whole = path.read_bytes()
    for torn in (b"", b'{"key": "k3"'):
        path.write_bytes(whole + torn)
        with AnswerStore(path) as store:
            assert path.read_bytes() == whole
            store.append([Answer("k3", "m", None, "said")])
        assert path.read_bytes().startswith(whole + b"{")
        assert len(path.read_bytes().splitlines()) == 4


def test_others_may_read_what_is_appended(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        append_lines(tmp_path / "file", LINES)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_where_each_line_begins(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\n\nthree")
    lines = [(b"one\n", 0), (b"\n", 4), (b"three", 5)]
    assert list(read_stored_lines(path)) == lines
    assert list(read_stored_lines(path, 4)) == lines[1:]


def test_a_torn_end_does_not_spoil_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(WHOLE + b"torn")
    append_lines(path, [b"next"])
    assert path.read_bytes() == WHOLE + b"torn\nnext\n"
