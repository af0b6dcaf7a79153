"""endpoints/clients/<instance>/<run>-<cell>.json: a running cell that uses a server of this run.

Written by the cell's run, also by that of another sweep which leases the server, and taken away at
its end. The server's supervisor reads them and answers in the endpoint file, under the file's name.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from emobench.core.files import read_json, write_json
from emobench.core.run_dir import RunDir
from emobench.core.times import compute_age_s, now
from emobench.store.endpoints import STALE_S, ServerLocation, make_private_folder

CLIENT_BEAT_S = 5.0
"""A client's file is rewritten this often at least."""


@dataclass(frozen=True)
class Client:
    """What one cell says of itself at one server."""

    sweep: str
    """Identity of its run directory."""
    assistant: str
    cell: int
    wish: NonNegativeInt
    """Conversations that it could have under way now."""
    in_use: NonNegativeInt
    """Conversations that it has under way."""
    turn: NonNegativeInt = 0
    """Cells of a sweep and assistant that run side by side have the same; lower ones go first."""
    heartbeat: str = ""
    """ISO 8601, UTC."""

    @property
    def name(self) -> str:
        """What the file is named after, and its share in the endpoint file."""
        return f"{self.sweep}-{self.cell}"


_CLIENT = TypeAdapter(Client)


def write_client(location: ServerLocation, client: Client) -> None:
    """Write the cell's file at the server at `location`, with a fresh heartbeat. Raises OSError."""
    folder = location.run_dir.clients(location.instance)
    if not folder.is_dir():
        make_private_folder(location.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{client.name}.json", asdict(client) | {"heartbeat": now()})


def remove_client(location: ServerLocation, client: Client) -> None:
    """Take the cell's file away; one that cannot be gets stale."""
    with suppress(OSError):
        folder = location.run_dir.clients(location.instance)
        (folder / f"{client.name}.json").unlink(missing_ok=True)


def list_client_files(run_dir: RunDir, instance: str) -> list[str]:
    """Return the names of the files of a server's clients, sorted."""
    try:
        return sorted(path.name for path in run_dir.clients(instance).glob("*.json"))
    except OSError:
        return []


def read_clients(run_dir: RunDir, instance: str) -> list[Client]:
    """Return the clients of a server of this run, without files that are none and without those
    that have been silent for so long that their cell must have been killed."""
    found = []
    for name in list_client_files(run_dir, instance):
        with suppress(ValidationError, OSError):
            client = _CLIENT.validate_python(read_json(run_dir.clients(instance) / name))
            if f"{client.name}.json" == name and compute_age_s(client.heartbeat) <= STALE_S:
                found.append(client)
    return found
