"""Where a server answers: files that its job writes by rename and every client checks.

A file is only a claim. A client believes it once the heartbeat is fresh and the server has proved
to be the one that the file names (`llm.client.verify_server`).

A role that reuses another sweep's server has, in place of an endpoint, a file that names the run
directory, the instance and the lease. Its clients read the owner's file and use the owner's key.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from emobench.core.errors import InvalidInput, Problem
from emobench.core.files import read_json, write_json
from emobench.core.run_dir import RunDir, is_name
from emobench.core.times import compute_age_s, now

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
    """Kind of the cause (see `serving.failure_diagnosis`) where the engine failed."""
    warnings: tuple[str, ...] = ()
    """What the first requests showed that may spoil the conversations."""
    final: bool = False
    """It left for good: only a new submission starts such a server again."""
    kept_until: str = ""
    """ISO 8601, UTC: nothing needs it, but it stays until then (keep_servers_min)."""
    max_concurrency: float | None = None
    """Requests of full length that its cache holds, as the engine itself says."""
    takes_over: str = ""
    """The job that it was submitted to take over from."""
    follows: tuple[str, ...] = ()
    """Incarnations that left in order, the last one first: conversations with them go on here."""
    leases: tuple[str, ...] = ()
    """Ids of the leases that the server has taken into account (see `store.leases`)."""
    limit: int | None = None
    """Conversations that fit at a time; None: of an earlier version, which does not say."""
    in_use: int = 0
    """Conversations under way, as its clients say."""
    shares: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Of these, by client (see `store.clients`)."""
    schema: Literal[1] = 1
    """Of the file; a file without it is of nobody's."""

    def compute_age_s(self) -> float:
        """Return seconds since the last heartbeat; infinite where it cannot be read."""
        return compute_age_s(self.heartbeat)

    @property
    def is_stale(self) -> bool:
        """Whether its heartbeat is so old that its job must have been killed."""
        return self.compute_age_s() > STALE_S

    @property
    def is_ready(self) -> bool:
        """Whether it says so, and its job is alive."""
        return self.state == "ready" and not self.is_stale

    @property
    def is_loaded(self) -> bool:
        """Whether it is ready, or has ended: it does not load any more."""
        return self.state != "starting"

    @property
    def is_over(self) -> bool:
        """Whether it ended by its own word, and comes back by a new submission only."""
        return self.state == "failed" or (self.state == "left" and self.final)

    @property
    def is_serving(self) -> bool:
        """Whether it is ready or on its way, and its job is alive."""
        return self.state in ("starting", "ready") and not self.is_stale


_ENDPOINT = TypeAdapter(Endpoint)


def publish(run_dir: RunDir, endpoint: Endpoint) -> None:
    """Write the server's file, with a fresh heartbeat. Raises OSError."""
    make_private_folder(run_dir)
    write_json(run_dir.endpoint(endpoint.server), asdict(endpoint) | {"heartbeat": now()})


def read_endpoint(run_dir: RunDir, server: str) -> Endpoint | None:
    """Return the server's file, or None where there is none or it is no endpoint."""
    data = read_json(run_dir.endpoint(server))
    if not isinstance(data, dict) or "schema" not in data:
        return None
    try:
        return _ENDPOINT.validate_python(data)
    except ValidationError:
        return None


def describe_privacy(run_dir: RunDir) -> str:
    """Return what this user misses who may not look into endpoints/; empty for one who may.

    The folder is its owner's alone, for the key in it; all else of a run is for colleagues to read.
    """
    try:
        run_dir.api_key.stat()
    except PermissionError:
        return (
            "the servers: endpoints/ is for its owner to read, so their states are the queue's, "
            "and when they loaded and served is not known"
        )
    except OSError:
        pass
    return ""


@dataclass(frozen=True)
class ServerLocation:
    """The run directory that a server belongs to, and its name there."""

    run_dir: RunDir
    instance: str
    lease: str = ""
    """Id of the lease; empty where the server is the run's own."""

    @property
    def file(self) -> Path:
        """The endpoint file."""
        return self.run_dir.endpoint(self.instance)

    def read(self) -> Endpoint | None:
        """Return the server's endpoint, or None where there is none."""
        return read_endpoint(self.run_dir, self.instance)

    def read_key(self) -> str:
        """Return the key that the server asks for. Raises InvalidInput where it cannot be read."""
        return load_api_key(self.run_dir)


def locate_server(run_dir: RunDir, instance: str) -> ServerLocation:
    """Return where the clients of `instance` find its server."""
    data = read_json(run_dir.endpoint(instance))
    lease = data.get("lease") if isinstance(data, dict) and data.get("schema") == 1 else None
    own = ServerLocation(run_dir, instance)
    if not isinstance(lease, dict):
        return own
    try:
        owner = RunDir(Path(lease["run_dir"]))
        found = ServerLocation(owner, str(lease["instance"]), str(lease["id"]))
    except (KeyError, TypeError):
        return own
    return found if is_name(found.instance) and is_name(found.lease) else own


def point_to_leased(run_dir: RunDir, instance: str, location: ServerLocation) -> None:
    """Have the clients of `instance` find the leased server at `location`. Raises OSError."""
    owner, name = str(location.run_dir.path), location.instance
    lease = {"run_dir": owner, "instance": name, "id": location.lease}
    write_json(run_dir.endpoint(instance), {"schema": 1, "lease": lease})


def load_api_key(run_dir: RunDir, create: bool = False) -> str:
    """Return the key that servers ask of their clients. Raises InvalidInput where there is none,
    and where its file, or the folder or run directory that it is in, is somebody else's."""
    path = run_dir.api_key
    if create and not os.path.lexists(path):
        make_private_folder(run_dir)
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
        key = read_own(run_dir, path)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            Problem(f"no key of this run's servers: {error}", file=str(path))
        ) from error
    if not key:
        raise InvalidInput(Problem("the key of this run's servers is empty", file=str(path)))
    return key


def read_own(run_dir: RunDir, path: Path) -> str:
    """Return the text of a file of keys in endpoints/. Raises OSError, also where it is not this
    user's own."""
    # Not through a link: somebody else's may lead to our key, and offer it for another server's.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags), encoding="ascii") as stream:
        opened = os.fstat(stream.fileno())
        for status in (opened, run_dir.endpoints.stat(), run_dir.path.stat()):
            if status.st_uid != os.geteuid():
                raise PermissionError("it belongs to somebody else")
        if not stat.S_ISREG(opened.st_mode):
            raise PermissionError("it is no file")
        if stat.S_IMODE(opened.st_mode) & 0o077:  # copied, or made by hand
            os.fchmod(stream.fileno(), 0o600)
        return stream.read().strip()


def make_private_folder(run_dir: RunDir) -> None:
    """Make endpoints/, which only its owner may look into. Raises OSError."""
    folder = run_dir.endpoints
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        folder.chmod(0o700)
