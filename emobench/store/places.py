"""Where an instance's endpoint file is: in its own run directory, or in that of another sweep.

A role that reuses another sweep's server has, in place of an endpoint, a file that names the run
directory, the instance and the lease. Its clients read the owner's file and use the owner's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emobench.core.files import read_json, write_json
from emobench.core.run_dir import RunDir
from emobench.store.endpoints import Endpoint, api_key, read_endpoint


@dataclass(frozen=True)
class Place:
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
        """The server's endpoint, or None where there is none."""
        return read_endpoint(self.run_dir, self.instance)

    def key(self) -> str:
        """The key that the server asks for. Raises InvalidInput where it cannot be read."""
        return api_key(self.run_dir)


def place_of(run_dir: RunDir, instance: str) -> Place:
    """Where the clients of `instance` find its server."""
    data = read_json(run_dir.endpoint(instance))
    lease = data.get("lease") if isinstance(data, dict) and data.get("schema") == 1 else None
    own = Place(run_dir, instance)
    if not isinstance(lease, dict):
        return own
    try:
        owner = RunDir(Path(lease["run_dir"]))
        return Place(owner, str(lease["instance"]), str(lease["id"]))
    except (KeyError, TypeError):
        return own


def lead_to(run_dir: RunDir, instance: str, place: Place) -> None:
    """Have the clients of `instance` find the leased server at `place`. Raises OSError."""
    lease = {"run_dir": str(place.run_dir.path), "instance": place.instance, "id": place.lease}
    write_json(run_dir.endpoint(instance), {"schema": 1, "lease": lease})
