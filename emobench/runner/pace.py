"""How many conversations a cell has under way: as many as both its servers give it.

At each server of ours the cell says what it could use (`store.clients`), and finds in the endpoint
file what it gets (`serving.admission`). What a hosted endpoint takes, its replies and refusals say
(`llm.endpoint_limits`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from emobench.config.capacity import get_concurrency
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.llm.endpoint_limits import EndpointLimits
from emobench.llm.transport import Role
from emobench.runner.endpoint_resolver import EndpointResolver
from emobench.store.clients import CLIENT_BEAT_S, Client, remove_client, write_client
from emobench.store.endpoints import ServerLocation

LOOK_S = 1.0
HEADROOM, LEAST_HEADROOM = 0.5, 4
"""What a cell asks of one server beyond what the other one gives it, as a share and at least: both
can grow, and neither keeps free for the cell what it cannot use."""
OTHER: Mapping[Role, Role] = {"user": "assistant", "assistant": "user"}


@dataclass(frozen=True)
class _Offer:
    """What one role's endpoint has for the cell."""

    conversations: int | None
    """At a time; None: it cannot be used now, so as many as there are."""
    usable_elsewhere: int | None
    """Conversations to ask the other role's server for; None: as many as it has."""


@dataclass(frozen=True)
class _Told:
    """What was last written at a server."""

    location: ServerLocation
    client: Client
    at_s: float


class CellPace:
    """Follows the servers of one cell; all methods are for one thread."""

    def __init__(
        self,
        plan: Plan,
        run_dir: RunDir,
        cell: Cell,
        resolver: EndpointResolver,
        limits: EndpointLimits,
    ) -> None:
        """`limits` says how many conversations endpoints take that are not ours."""
        self._resolver, self._limits = resolver, limits
        turn = _find_turn(plan, cell)
        self._client = Client(run_dir.identity, cell.assistant, cell.number, 0, 0, turn)
        self._most, self._fixed = plan.sweep.concurrency, get_concurrency(plan)
        self._told: dict[Role, _Told] = {}
        self._shares: dict[Role, int] = {}
        """The last that each server gave."""
        self._size = self._fixed
        self._next_look = float("-inf")

    def follow(self, left: int, under_way: int) -> int:
        """Return how many conversations may be under way, as of a second ago at most.

        `left` of the cell's have not ended, and `under_way` of these have begun.
        """
        now_s = time.monotonic()
        if now_s < self._next_look:
            return self._size
        self._next_look = now_s + LOOK_S
        self._limits.note_in_use(under_way)
        wish = min(left, self._most or left)
        locations = self._resolver.locations
        offers = {role: self._find_offer(role, locations.get(role)) for role in OTHER}
        for role, location in locations.items():
            usable = offers[OTHER[role]].usable_elsewhere
            asked = wish if usable is None else min(wish, usable)
            self._tell(role, location, replace(self._client, wish=asked, in_use=under_way), now_s)
        given = [offer.conversations for offer in offers.values()]
        found = [each for each in given if each is not None]
        if len(found) == len(given):
            self._size = max(1, min(found))
        if self._most is not None:
            self._size = min(self._size, self._most)
        return self._size

    def leave(self) -> None:
        """Tell the servers that the cell has ended."""
        for told in self._told.values():
            remove_client(told.location, told.client)
        self._told.clear()

    def _find_offer(self, role: Role, location: ServerLocation | None) -> _Offer:
        if location is None:
            limit = self._limits.find(self._resolver.latest.roles[role]).controller.limit
            return _Offer(limit, limit)
        try:
            endpoint = location.read()
        except OSError:  # a file system that is away for a moment ends no cell
            return _Offer(None, self._shares.get(role, self._fixed))
        if endpoint is None or not endpoint.is_ready:
            return _Offer(None, 1)
        if endpoint.limit is None:  # of an earlier version
            return _Offer(self._fixed, self._fixed)
        share = endpoint.shares.get(self._client.name)
        if share is None:
            # It has not heard of the cell yet, or not of late.
            free = max(0, endpoint.limit - sum(endpoint.shares.values()))
            return _Offer(self._shares.get(role, min(free, self._fixed)), None)
        self._shares[role] = share
        return _Offer(share, share + max(LEAST_HEADROOM, int(HEADROOM * share)))

    def _tell(self, role: Role, location: ServerLocation, client: Client, now_s: float) -> None:
        """Write the cell's file where its words have changed what the server would do, and now and
        then."""
        told = self._told.get(role)
        if told is not None and told.location != location:
            remove_client(told.location, told.client)
            self._shares.pop(role, None)
            told = None
        if told is not None and now_s - told.at_s < CLIENT_BEAT_S:
            share, before = self._shares.get(role, 0), told.client
            gives_back = client.wish < min(share, before.wish)
            uses_up = client.in_use >= share > before.in_use
            if not (gives_back or uses_up or client.wish > before.wish):
                return
        with suppress(OSError):  # the server goes on with what it was told before
            write_client(location, client)
            self._told[role] = _Told(location, client, now_s)


def _find_turn(plan: Plan, cell: Cell) -> int:
    """Return the first cell of those that are compared with each other: all variants of a trial."""
    return min(
        each.number for each in plan.cells if (each.group, each.trial) == (cell.group, cell.trial)
    )
