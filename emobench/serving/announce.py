"""What a server's job says of itself: the endpoint file with its heartbeat, and the job's log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from emobench.serving.engine import Engine
from emobench.serving.handover import Handover
from emobench.serving.leases import Leases
from emobench.serving.shutdown_policy import Limits
from emobench.store.endpoints import Endpoint, State


class Announcer:
    """Keeps the endpoint, and writes it where its clients look."""

    def __init__(
        self,
        endpoint: Endpoint,
        handover: Handover,
        limits: Limits,
        leases: Leases,
        heartbeat_s: float,
    ) -> None:
        self.endpoint = endpoint
        self._handover, self._limits, self._leases = handover, limits, leases
        self._heartbeat_s = heartbeat_s
        self._engine: Engine | None = None
        self._beat = float("-inf")

    def started(self, engine: Engine) -> None:
        """A new start of the engine, which has another address and incarnation."""
        self._engine = engine
        self.endpoint = replace(
            self.endpoint, url=f"{engine.url}/v1", incarnation=engine.incarnation, warnings=()
        )

    def warn(self, warnings: Sequence[str]) -> None:
        """What the first requests showed, for the next announcement."""
        self.endpoint = replace(self.endpoint, warnings=tuple(warnings))

    def say(self, state: State, reason: str = "", cause: str = "") -> None:
        """Write the endpoint file now."""
        # Only a server that may go on takes another sweep's lease into account.
        leases = self._leases.ids if state == "ready" and not self._limits.closing else ()
        self.endpoint = replace(
            self.endpoint,
            state=state,
            reason=reason,
            cause=cause,
            final=self._limits.final,
            kept_until=self._limits.kept_until,
            leases=leases,
            max_concurrency=self._engine.max_concurrency if self._engine else None,
        )
        try:
            self._handover.publish(self.endpoint)
        except OSError as error:
            # A full disk must not end a server that works; the next beat tries again.
            print(f"emobench: cannot write the endpoint file: {error}", flush=True)
        self._beat = time.monotonic()

    def beat(self, state: State, reason: str = "") -> None:
        """Write it where the heartbeat is due, or where another sweep waits for an answer."""
        asked = self._leases.look()
        if asked or time.monotonic() - self._beat >= self._heartbeat_s:
            self.say(state, reason)

    def banner(self) -> None:
        """Tell the job's log where the server is."""
        assert self._engine is not None
        seconds = time.monotonic() - self._engine.started
        print("=" * 72)
        print(f"emobench: server {self.endpoint.server} is ready after {seconds:.0f} s")
        print(f"  Node:  {self.endpoint.host}")
        print(f"  Model: {self.endpoint.model}")
        print(f"  URL:   {self.endpoint.url}")
        for warning in self.endpoint.warnings:
            print(f"  Warning: {warning}")
        print("=" * 72, flush=True)
