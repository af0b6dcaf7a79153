"""How full an engine was: seconds with a request, and seconds of requests. Pure; time is given.

The engine is looked at every few seconds. Where it adds up what its requests took (vLLM does), that
counts; else the requests that were under way at two looks stand for the time between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from emobench.llm.engine_metrics import Load, was_busy

LONGEST_S = 120.0
"""Between two looks that belong together; after a longer silence nobody knows."""


@dataclass(frozen=True)
class Served:
    """What an engine did while it was looked at; grows only."""

    busy_s: float = 0.0
    """With a request."""
    request_s: float = 0.0
    """Of requests, added up: over `busy_s` the mean batch."""

    def __bool__(self) -> bool:
        return self.busy_s > 0


class UsageMeter:
    """Adds up looks at one engine."""

    def __init__(self) -> None:
        self.served = Served()
        self._last: tuple[float, Load] | None = None

    def forget_engine(self) -> None:
        """Begin with another engine, whose counters begin anew; what was served stays."""
        self._last = None

    def observe(self, now_s: float, load: Load) -> None:
        """Take a look at `now_s` into account."""
        last, self._last = self._last, (now_s, load)
        if last is None or not 0 < (passed_s := now_s - last[0]) <= LONGEST_S:
            return
        before = last[1]
        if not (was_busy(before, load) or (before.running or 0) + (before.waiting or 0) > 0):
            return
        request_s = passed_s * ((before.running or 0) + (load.running or 0)) / 2
        if before.request_s is not None and load.request_s is not None:
            # Counted where a request ends: over a long time the same, and exact.
            request_s = max(0.0, load.request_s - before.request_s)
        self.served = Served(self.served.busy_s + passed_s, self.served.request_s + request_s)
