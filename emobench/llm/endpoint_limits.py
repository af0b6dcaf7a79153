"""What endpoints let us do, shared by all conversations of a process: when one may be asked again,
and how many conversations it takes.

An endpoint that has had too many requests answers 429 (or 503 or 529), often with the time after
which to come back. Whoever hears it first tells the others, which wait together; where no time is
said, each call waits for itself, longer from time to time. No call waits longer than its budget.
Replies and refusals drive the controller that says how many conversations there may be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import uniform
from typing import Protocol

from emobench.core.output import flatten
from emobench.core.stop_signals import Stopped
from emobench.core.wording import format_duration
from emobench.llm.concurrency import INITIAL_HOSTED, UPPER, ConcurrencyController
from emobench.llm.rate_limits import Allowance, Busy

BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 60.0
"""The first wait of a call that was not told how long, and the most that doubling makes of it."""
SPREAD, LONGEST_SPREAD_S = 0.25, 15.0
"""Of a pause, over which those who waited together come back: at once they would be too many."""
SAY_AGAIN_S = 60.0
LOOK_S = 1.0
"""Between two looks at whether the endpoint has moved."""


class Addressed(Protocol):
    """What tells one endpoint from another, as `ModelEndpoint` has it."""

    @property
    def provider(self) -> str: ...
    @property
    def url(self) -> str | None: ...
    @property
    def model(self) -> str: ...
    @property
    def api_key(self) -> str | None: ...


@dataclass
class Effort:
    """What one call takes beyond its answer."""

    retries: int = 0
    """Times it was sent again after a failure."""
    rate_limit_wait_s: float = 0.0
    """Seconds that it waited for rate limits."""
    refusals: int = 0
    """Times it was told that the endpoint is busy."""
    has_moved: Callable[[], bool] = lambda: False
    """Whether the endpoint is elsewhere by now, so that there is nothing to wait for."""


class EndpointLimit:
    """One endpoint's pauses and the conversations that it takes. Safe to share among threads."""

    def __init__(
        self,
        name: str,
        stop: threading.Event | None = None,
        progress: Callable[[str], None] | None = None,
        most: int | None = None,
    ) -> None:
        """`stop` ends every wait at once; `progress` is told, now and then, that there is one;
        there are never more than `most` conversations."""
        self.controller = ConcurrencyController(most or INITIAL_HOSTED, upper=most or UPPER)
        """Of the conversations under way at the endpoint."""
        self.in_use = 0
        """Conversations under way there."""
        self._name, self._progress = name, progress
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._resumes = self._spread_s = 0.0
        """When (by the monotonic clock) the pause ends, and for how long after it calls begin."""
        self._say_next = 0.0
        self.words = ""
        """Of the answer that asked for the newest pause."""

    def wait_for_turn(self, effort: Effort, budget_s: float) -> bool:
        """Wait for the end of the endpoint's pause. Returns False, at once, where it lasts longer
        than the call may still wait; raises Stopped."""
        while (left_s := self._resumes - time.monotonic()) > 0 and not effort.has_moved():
            if left_s > budget_s - effort.rate_limit_wait_s:
                return False
            self._sleep(left_s + uniform(0, self._spread_s), effort)
        return True

    def wait_after(self, busy: Busy, words: str, effort: Effort, budget_s: float) -> bool:
        """Wait because the endpoint has just answered that it is busy, in these words. Returns
        False where the call may not wait so long; raises Stopped."""
        effort.refusals += 1
        own_s = min(BACKOFF_S * 2.0 ** min(effort.refusals - 1, 30), LONGEST_BACKOFF_S)
        self._note(busy, words, own_s)
        left_s = budget_s - effort.rate_limit_wait_s
        if left_s <= 0 or (busy.wait_s or 0.0) > left_s:
            return False
        self._sleep(min(uniform(own_s / 2, own_s), left_s), effort)
        return self.wait_for_turn(effort, budget_s)

    def note_reply(self, latency_s: float, tokens: int, allowance: Allowance | None) -> None:
        """Note an answer of `tokens` generated tokens, which came `latency_s` after its request,
        and what it says of the limits."""
        now = time.monotonic()
        with self._lock:
            if allowance is not None:
                self.controller.observe_allowance(now, allowance.left, allowance.reset_s)
            self.controller.observe_reply(now, latency_s, tokens, self.in_use)

    def _note(self, busy: Busy, words: str, own_s: float) -> None:
        now = time.monotonic()
        wait_s = busy.wait_s or 0.0
        with self._lock:
            self.controller.observe_rejection(now, busy.wait_s)
            if now + wait_s > self._resumes:
                self._resumes, self.words = now + wait_s, words
                self._spread_s = min(SPREAD * wait_s, LONGEST_SPREAD_S)
            if self._progress is None or now < self._say_next:
                return
            self._say_next = now + max(wait_s, SAY_AGAIN_S)
        length = format_duration(max(wait_s, own_s))
        asked = "as it asks" if wait_s else "then longer, since it does not say how long"
        self._progress(f"rate limit of {flatten(self._name)}: calls wait {length}, {asked}")

    def _sleep(self, seconds: float, effort: Effort) -> None:
        began = time.monotonic()
        try:
            while (left_s := began + seconds - time.monotonic()) > 0 and not effort.has_moved():
                if self._stop.wait(min(left_s, LOOK_S)):
                    raise Stopped
        finally:
            effort.rate_limit_wait_s += time.monotonic() - began


class EndpointLimits:
    """The limits of all endpoints that a cell, a probe or a judge asks."""

    def __init__(
        self,
        stop: threading.Event | None = None,
        progress: Callable[[str], None] | None = None,
        most: int | None = None,
    ) -> None:
        self._stop, self._progress, self._most = stop, progress, most
        self._lock = threading.Lock()
        self._limits: dict[tuple[str | None, ...], EndpointLimit] = {}

    def find(self, endpoint: Addressed) -> EndpointLimit:
        """Return the limit of an endpoint: of one model behind one address, for one key."""
        key = (endpoint.provider, endpoint.url, endpoint.model, endpoint.api_key)
        with self._lock:
            if key not in self._limits:
                self._limits[key] = EndpointLimit(
                    repr(endpoint), self._stop, self._progress, self._most
                )
            return self._limits[key]

    def note_in_use(self, conversations: int) -> None:
        """Note how many conversations are under way, each of which uses every endpoint."""
        with self._lock:
            for limit in self._limits.values():
                limit.in_use = conversations
