"""Where a server answers: files that its job writes by rename and every client checks.

A file is only a claim. A client believes it once the heartbeat is fresh and the server answers
an authenticated request with the model that the file names.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from emobench.core.errors import InvalidInput, Problem
from emobench.core.files import read_json, write_json
from emobench.core.run_dir import RunDir

State = Literal["starting", "ready", "failed", "left"]

HEARTBEAT_S = 5.0
"""A server's job rewrites its file this often."""
STALE_S = 60.0
"""An older heartbeat means that the job was killed. Clocks of two nodes may differ a little."""


@dataclass(frozen=True)
class Endpoint:
    """endpoints/<instance>.json."""

    server: str
    role: Literal["user", "assistant"]
    url: str
    """Base URL of the OpenAI API, ending in /v1."""
    model: str
    incarnation: str
    """Random; a new one with every start of the engine."""
    engine: str
    host: str
    job_id: str
    pid: int
    started: str
    """ISO 8601, UTC: when the server's job started."""
    heartbeat: str = ""
    state: State = "starting"
    reason: str = ""
    cause: str = ""
    """Kind of the cause (see `causes`) where the engine failed."""
    warnings: Sequence[str] = ()
    """What the first requests showed that may spoil the conversations."""
    final: bool = False
    """It left for good: only a new submission starts such a server again."""
    kept_until: str = ""
    """ISO 8601, UTC: nothing needs it, but it stays until then (keep_servers_min)."""
    max_concurrency: float | None = None
    """Requests of full length that its cache holds, as the engine itself says."""
    takes_over: str = ""
    """The job that it was submitted to take over from."""
    follows: Sequence[str] = ()
    """Incarnations that left in order, the last one first: conversations with them go on here."""
    leases: Sequence[str] = ()
    """Ids of the leases that the server has taken into account (see `leases`)."""
    schema: int = 1

    def age_s(self) -> float:
        """Seconds since the last heartbeat; infinite where it cannot be read."""
        try:
            beat = datetime.fromisoformat(self.heartbeat)
            return (datetime.now(UTC) - beat).total_seconds()
        except (ValueError, TypeError):
            return float("inf")


def now() -> str:
    """This moment as it stands in files: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def publish(run_dir: RunDir, endpoint: Endpoint) -> None:
    """Write the server's file, with a fresh heartbeat. Raises OSError."""
    _private_folder(run_dir)
    write_json(run_dir.endpoint(endpoint.server), asdict(endpoint) | {"heartbeat": now()})


def read_endpoint(run_dir: RunDir, server: str) -> Endpoint | None:
    """The server's file, or None where there is none or it is no endpoint."""
    data = read_json(run_dir.endpoint(server))
    if not isinstance(data, dict) or data.get("schema") != 1:
        return None
    known = {field.name for field in fields(Endpoint)}
    try:
        # JSON has no tuples.
        values: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in data.items()
        }
        return Endpoint(**{key: value for key, value in values.items() if key in known})
    except TypeError:
        return None


def api_key(run_dir: RunDir, create: bool = False) -> str:
    """The key that servers ask of their clients. Raises InvalidInput where there is none."""
    path = run_dir.api_key
    if create and not path.exists():
        _private_folder(run_dir)
        temporary = path.with_name(f".api_key.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(secrets.token_urlsafe(32) + "\n")
            # Two servers that start together must end up with one key: the first link wins.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:  # copied, or made by hand
            path.chmod(0o600)
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            Problem(f"no key of this run's servers: {error}", file=str(path))
        ) from error
    if not key:
        raise InvalidInput(Problem("the key of this run's servers is empty", file=str(path)))
    return key


def _private_folder(run_dir: RunDir) -> None:
    folder: Path = run_dir.endpoints
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        folder.chmod(0o700)
