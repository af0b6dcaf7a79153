"""endpoints/leases/<instance>/<id>.json: another sweep's claim to share a server of this run.

Written and taken back by that sweep; removed by the server's supervisor where it needs the server
no more.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from emobench.core.files import read_json, write_json
from emobench.core.run_dir import RunDir
from emobench.core.times import compute_age_s, now, to_seconds
from emobench.store.endpoints import ServerLocation


@dataclass(frozen=True)
class Lease:
    """One sweep's claim."""

    id: str
    run_dir: str
    """Of the sweep that leases the server."""
    instance: str
    """What the server stands for there."""
    created: str
    """ISO 8601, UTC."""

    def compute_age_s(self) -> float:
        return compute_age_s(self.created)

    @property
    def created_at(self) -> float:
        """Seconds since the epoch."""
        return to_seconds(self.created) or 0.0


def add_lease(location: ServerLocation, run_dir: RunDir, instance: str) -> ServerLocation:
    """Claim the server at `location` for `instance` of `run_dir`; the location with the lease.

    Raises OSError; what was written then has to be removed.
    """
    leased = ServerLocation(location.run_dir, location.instance, secrets.token_hex(8))
    file = _name_file(leased.run_dir, leased.instance, leased.lease)
    file.parent.mkdir(parents=True, exist_ok=True)
    claim = {"schema": 1, "run_dir": str(run_dir.path), "instance": instance, "created": now()}
    write_json(file, claim)
    return leased


def read_leases(run_dir: RunDir, instance: str) -> list[Lease]:
    """Return the leases of a server of this run, whether they still count or not."""
    found = []
    for file in sorted(run_dir.leases(instance).glob("*.json")):
        data = read_json(file)
        with suppress(KeyError, TypeError):
            lease = Lease(file.stem, data["run_dir"], data["instance"], data["created"])
            if to_seconds(lease.created) is not None:
                found.append(lease)
    return found


def give_back_lease(location: ServerLocation, run_dir: RunDir) -> None:
    """End the lease that `run_dir` has of the server at `location`; nothing happens where that is
    no lease, or another sweep's."""
    if location.lease:
        claim = read_json(_name_file(location.run_dir, location.instance, location.lease))
        if isinstance(claim, dict) and claim.get("run_dir") == str(run_dir.path):
            remove_lease(location.run_dir, location.instance, location.lease)


def remove_lease(run_dir: RunDir, instance: str, lease_id: str) -> None:
    """End a lease of the run's own server, as far as its file can be removed; nothing happens where
    there is none."""
    if lease_id:
        # Where it cannot, the server's supervisor finds out that nobody needs it.
        with suppress(OSError):
            _name_file(run_dir, instance, lease_id).unlink(missing_ok=True)


def _name_file(run_dir: RunDir, instance: str, lease_id: str) -> Path:
    return run_dir.leases(instance) / f"{lease_id}.json"
