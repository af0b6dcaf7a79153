"""Small files that others read while they are written: complete or absent, never half."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

LOCK_PATIENCE_S = 30.0
SMALL_FILE_BYTES = 2**14


def write_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Write the text in UTF-8, as `write_bytes_atomic` does."""
    write_bytes_atomic(path, text.encode("utf-8"), mode)


def write_bytes_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write to a temporary name in the same folder, flush to disk, rename.

    Raises OSError (disk full, no permission); the old file then stays as it was.
    """
    # Writers on two nodes may have the same pid.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with naming(path):
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_to_read(path: Path) -> BinaryIO:
    """Open a file of a run directory. Raises OSError, also where it is no regular file: a pipe in a
    run that somebody sent would be waited for without end, and a device may have none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def open_to_write(path: Path, flags: int) -> int:
    """Open a file of a run directory, or make it; return its descriptor.

    Never through a symlink: whoever sent the run may have it lead to any file of this user's.
    Raises OSError.
    """
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = "a symbolic link stands where a file is written"
        raise


def overwrite(path: Path, data: bytes) -> None:
    """Write over a file in place, which a full disk still allows; whoever reads it meanwhile may
    get half of it. Raises OSError."""
    with naming(path), path.open("r+b") as stream:
        stream.write(data)
        stream.truncate()


def is_full(error: BaseException) -> bool:
    """Return whether the disk, or what this user may have of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def has_room(folder: Path) -> bool:
    """Return whether a small file can be written; also where nobody can say."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return True
    return disk.f_bavail * disk.f_frsize >= SMALL_FILE_BYTES


def describe_failure(error: BaseException) -> str:
    """Return an error in words; one of a full disk says so, with the path first."""
    if isinstance(error, OSError) and is_full(error):
        return f"{error.filename}: the disk is FULL ({error.strerror})"
    return str(error)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an OSError that names no file, as that of a write or a flush, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def locked(path: Path, patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
    """Hold an exclusive lock on a file, also against other nodes that share the file system.

    Where the file system has no locks, or nobody lets go within `patience_s` seconds, the file is
    taken all the same: what the lock guards takes milliseconds, and must happen. Raises OSError
    where the file cannot be made.
    """
    descriptor = open_to_write(path, os.O_RDWR)
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


def read_stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written anew by rename; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def read_json(path: Path) -> Any:
    """Return the file's value, or None where there is no (readable, whole) file."""
    try:
        with open_to_read(path) as stream:
            return json.loads(stream.read().decode())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def parse_json(text: bytes) -> Any:
    """Return JSON as a value, or None where it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        # What orjson refuses and a record may hold: a lone surrogate from a model, NaN.
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def dump_json(value: Any) -> bytes:
    """Return compact JSON, also of dataclasses and of pydantic models."""
    try:
        return orjson.dumps(value, default=_to_plain, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        # A lone surrogate, which a model can send as an escape, or a number beyond 64 bits.
        return json.dumps(value, default=_to_plain).encode()


def _to_plain(value: object) -> object:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) else str(value)
