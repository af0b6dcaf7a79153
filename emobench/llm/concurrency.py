"""How many conversations an endpoint takes at a time: a controller. Pure: time is an argument.

Additive increase and multiplicative decrease (Chiu and Jain, 1989) after a slow start that doubles,
as in TCP. The same controller serves a server of ours, which its supervisor looks at, a hosted
endpoint, whose replies and rejections its clients report, and a simulation of either.
"""

from __future__ import annotations

from dataclasses import dataclass

INITIAL, LOWER, UPPER = 64, 1, 4096
INITIAL_HOSTED = 8
"""What a hosted endpoint is asked for at first: its limits are not known, and others share them."""
SETTLE_S = 10.0
"""A change of the limit takes about so long to show in what the endpoint says."""
USED_UP = 0.9
"""The limit counts as used up with this share of it in use: files of clients lag by seconds."""
CROWDED = 0.1
"""Requests waiting, as a share of those running. Fewer keep the batch full and cost little."""
CROWDED_LOOKS = 3
"""Crowded looks in a row that are a sign of fullness: arrivals wait for a moment at any load."""
CACHE_HALF, CACHE_FULL = 0.5, 0.9
"""Share of the cache in use up to which the limit may be doubled, and raised at all: conversations
grow after they have begun."""
STEP = 1 / 16
"""Of the limit after a decrease: what it is raised by from then on."""
CUT_FIRST, CUT = 0.5, 0.75
"""The most that one decrease takes the limit down to: at the end of the slow start (which may have
doubled it too far), and later."""
CUT_PREEMPTED = 0.9
CUT_REJECTED = 0.7
SLOW, VERY_SLOW = 2.0, 4.0
"""Seconds a token, as a multiple of the best so far: no raise, and a decrease."""
SMOOTHING = 0.1
MIN_REPLIES = 10
OVERHEAD_TOKENS = 50.0
"""Added to a reply's tokens, so that short replies do not look slow."""
LITTLE_LEFT = 0.1
"""Share of a hosted endpoint's allowance below which the limit is not raised."""


@dataclass(frozen=True)
class EngineSample:
    """One look at the engines of a server; figures of several engines are added up."""

    in_use: int
    """Conversations under way at the server, whether or not they have a request there just now."""
    running: float
    """Requests being computed."""
    waiting: float
    """Requests that wait for a place in the batch."""
    cache_use: float | None = None
    """0 to 1, of the fullest engine; None where it is not known."""
    preemptions: float = 0.0
    """Requests taken out of the batch for lack of cache since the last look."""


class ConcurrencyController:
    """Finds how many conversations fit; told what is seen, with seconds of any steady clock."""

    def __init__(
        self,
        initial: int = INITIAL,
        lower: int = LOWER,
        upper: int = UPPER,
        settle_s: float = SETTLE_S,
    ) -> None:
        self.lower, self.upper = lower, max(lower, upper)
        self.settle_s = settle_s
        self._limit = float(min(max(initial, self.lower), self.upper))
        self._step: float | None = None
        """What the limit is raised by; None in the slow start, where it doubles."""
        self._changed_s = self._cut_again_s = self._hold_until_s = float("-inf")
        self._crowded = 0
        self._replies = 0
        self._pace = self._best_pace = 0.0
        """Seconds a token: smoothed, and the lowest of that so far."""
        self.paused_until_s = float("-inf")
        """A hosted endpoint asked for no request before this."""

    @property
    def limit(self) -> int:
        """Conversations that may be under way."""
        return int(self._limit)

    def observe(self, now_s: float, sample: EngineSample | None) -> int:
        """Take one look at a server into account and return the limit. None, a look that could not
        be made, changes nothing."""
        if sample is None:
            return self.limit
        crowded = sample.waiting >= max(1.0, CROWDED * sample.running)
        self._crowded = self._crowded + 1 if crowded else 0
        if sample.preemptions > 0 or self._crowded >= CROWDED_LOOKS:
            # The last decrease has to be felt before there is another one: conversations end.
            if sample.in_use <= self.limit:
                fits = self._limit * (CUT_PREEMPTED if sample.preemptions > 0 else 1.0)
                self._cut(now_s, fits - sample.waiting + CROWDED * sample.running)
            self._end_slow_start()
        elif not crowded and (sample.cache_use or 0.0) < CACHE_FULL:
            if (sample.cache_use or 0.0) >= CACHE_HALF:
                self._end_slow_start()
            if now_s >= self._changed_s + self.settle_s:
                self._raise(now_s, sample.in_use, self._step or self._limit)
        return self.limit

    def observe_reply(self, now_s: float, latency_s: float, tokens: int, in_use: int) -> int:
        """Take a hosted endpoint's answer of `tokens` generated tokens into account, which came
        after `latency_s`, and return the limit."""
        pace = latency_s / (OVERHEAD_TOKENS + max(tokens, 0))
        self._replies += 1
        self._pace += (pace - self._pace) * max(SMOOTHING, 1 / self._replies)
        if self._replies < MIN_REPLIES:
            self._best_pace = self._pace
        self._best_pace = min(self._best_pace, self._pace)
        if self._pace > VERY_SLOW * self._best_pace:
            self._cut(now_s, CUT * self._limit)
        elif self._pace <= SLOW * self._best_pace:
            # As many replies as there are conversations make one round, and one full raise.
            self._raise(now_s, in_use, 1.0 if self._step is None else self._step / self._limit)
        return self.limit

    def observe_rejection(self, now_s: float, retry_after_s: float | None = None) -> int:
        """Take a hosted endpoint's 429 (or 503, 529) into account and return the limit. Those of
        one burst count once."""
        self.paused_until_s = max(self.paused_until_s, now_s + (retry_after_s or 0.0))
        self._cut(now_s, CUT_REJECTED * self._limit)
        # What was on its way when the endpoint said so may be rejected until then, too.
        self._cut_again_s = max(self._cut_again_s, self.paused_until_s)
        self._hold_until_s = max(self._hold_until_s, self.paused_until_s, now_s + self.settle_s)
        return self.limit

    def observe_allowance(self, now_s: float, left: float, reset_s: float | None = None) -> int:
        """Take what a hosted endpoint says of its limits into account and return the limit: `left`
        is the share (0 to 1) of requests or tokens left, which is whole again in `reset_s`."""
        if left < LITTLE_LEFT:
            until_s = now_s + (self.settle_s if reset_s is None else reset_s)
            self._hold_until_s = max(self._hold_until_s, until_s)
        return self.limit

    def _raise(self, now_s: float, in_use: int, by: float) -> None:
        """Raise the limit, where it is used up and nothing speaks against it."""
        if in_use >= USED_UP * self.limit and now_s >= self._hold_until_s:
            self._limit = min(self._limit + by, float(self.upper))
            self._changed_s = now_s

    def _cut(self, now_s: float, target: float) -> None:
        """Lower the limit to `target`, though not by more than one decrease may, and not again
        before the last decrease shows."""
        if now_s >= self._cut_again_s:
            least = (CUT_FIRST if self._step is None else CUT) * self._limit
            self._limit = min(self._limit, max(target, least, float(self.lower)))
            self._step = max(1.0, STEP * self._limit)
            self._changed_s, self._cut_again_s = now_s, now_s + self.settle_s
        self._end_slow_start()

    def _end_slow_start(self) -> None:
        if self._step is None:
            self._step = max(1.0, STEP * self._limit)
