"""Leases of a run's servers: why a server stays that its own run no longer needs.

Another sweep writes endpoints/leases/<instance>/<id>.json into this run directory. It counts from
the moment that the server's endpoint file names its id: who writes that file and who decides to
leave is one thread of the supervisor, so what it has named, it takes into account.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from emobench.core.errors import InvalidInput
from emobench.core.files import read_json
from emobench.core.plan import load_plan
from emobench.core.poller import Poller
from emobench.core.run_dir import RunDir
from emobench.scheduler.schedulers import SCHEDULERS, Schedulers
from emobench.serving.need import NO_ARRAY_S, ON_THEIR_WAY, QUEUE_CHECK_S, blocks_of_server
from emobench.store.endpoints import STALE_S
from emobench.store.jobs import JobKind, read_jobs
from emobench.store.summaries import read_summary


@dataclass(frozen=True)
class Lease:
    """One sweep's claim to share a server."""

    id: str
    run_dir: str
    """Of the sweep that leases it."""
    instance: str
    """What the server stands for there."""
    created: str
    """ISO 8601, UTC."""

    def age_s(self) -> float:
        return (datetime.now(UTC) - datetime.fromisoformat(self.created)).total_seconds()


def read_leases(run_dir: RunDir, instance: str) -> list[Lease]:
    """The leases of a server of this run, whether they still count or not."""
    found = []
    for file in sorted(run_dir.leases(instance).glob("*.json")):
        data = read_json(file)
        try:
            lease = Lease(file.stem, data["run_dir"], data["instance"], data["created"])
            lease.age_s()
        except (KeyError, TypeError, ValueError):
            continue
        found.append(lease)
    return found


def who_needs_lease(lease: Lease, schedulers: Schedulers = SCHEDULERS) -> str:
    """Who in the leasing sweep still needs the server, in words; empty if nobody does.

    The same question as `who_needs`, asked of that sweep's plan, cells and jobs. Asks the queue.
    """
    run_dir = RunDir(Path(lease.run_dir))
    of = f"of {run_dir.path.name}"
    try:
        plan = load_plan(run_dir)
    except InvalidInput:
        # On another node a plan that was just written may not be seen yet.
        return f"the sweep {of}, just submitted" if lease.age_s() < STALE_S else ""
    blocks = blocks_of_server(plan, lease.instance)
    cells = [plan.cells[n] for block in plan.blocks if block.name in blocks for n in block.cells]
    summaries = (read_summary(run_dir, cell.number) for cell in cells)
    if all(
        summary is not None and summary.is_done(cell)
        for cell, summary in zip(cells, summaries, strict=True)
    ):
        return ""
    arrays = [j for j in read_jobs(run_dir) if j.kind is JobKind.ARRAY and j.name in blocks]
    if live := schedulers.live(arrays):
        return f"array {live[0]} {of}"
    taken = datetime.fromisoformat(lease.created).timestamp()
    came = any((array.submitted_at or 0.0) >= taken for array in arrays)
    return "" if came or lease.age_s() > NO_ARRAY_S else f"{ON_THEIR_WAY}: those {of}"


def who_leases(run_dir: RunDir, instance: str) -> str:
    """Who in other sweeps needs a server of this run; empty if nobody does. Asks the queue."""
    return next(filter(None, map(who_needs_lease, read_leases(run_dir, instance))), "")


class Leases:
    """What a supervisor knows of its server's leases, without ever waiting for the queue."""

    def __init__(self, run_dir: RunDir, instance: str, check_s: float = QUEUE_CHECK_S) -> None:
        self._run_dir, self._instance = run_dir, instance
        # A successor finds the leases of the server that it takes over from.
        self._held = read_leases(run_dir, instance)
        self._needed = Poller("the queue of leases", self._ask, check_s)
        self._asked_for: frozenset[str] = frozenset()

    def look(self) -> bool:
        """Read the folder; whether there is a new lease."""
        before = set(self.ids)
        self._held = read_leases(self._run_dir, self._instance)
        return not before.issuperset(self.ids)

    @property
    def ids(self) -> tuple[str, ...]:
        """Those that count, as of the last look: for the endpoint file."""
        return tuple(lease.id for lease in self._held)

    def why_stay(self) -> str:
        """Who needs the server in another sweep; empty if nobody does."""
        if not self._held:
            return ""
        who: Mapping[str, str] = self._needed.poll() or {}
        if not who.keys() >= set(self.ids) and self._asked_for != frozenset(self.ids):
            self._asked_for = frozenset(self.ids)
            self._needed.refresh_soon()
        for lease in self._held:
            # A lease of which nothing is known yet counts.
            if said := who.get(lease.id, f"a new lease of {lease.run_dir}"):
                return said
        return ""

    def _ask(self) -> dict[str, str]:
        who = {lease.id: who_needs_lease(lease) for lease in self._held}
        for lease_id, needs in who.items():
            if not needs:  # its sweep takes another one when it needs the server again
                file = self._run_dir.leases(self._instance) / f"{lease_id}.json"
                file.unlink(missing_ok=True)
        return who
