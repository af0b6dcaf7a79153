"""How many conversations an endpoint takes at a time: a controller. Pure: time is an argument.

Additive increase and multiplicative decrease (Chiu and Jain, 1989) after a slow start that doubles,
as in TCP. The same controller serves a server of ours, which its supervisor looks at, a hosted
endpoint, whose replies and rejections its clients report, and a simulation of either.

A server gives its signs of fullness late: conversations fill its cache as they grow, and once it
is full they lose it to each other and take several times as long. So a raise waits until those
that have begun are grown, goes no further than the cache has room for as many, and is taken back
where it brought no more tokens a second (docs/performance.md has what each of these is worth).
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
CACHE_FULL = 0.9
"""Share of the cache in use that is a sign of fullness."""
CACHE_AIM = 0.75
"""Share of the cache up to which the limit is raised, as if all conversations had a request there:
between two requests their place in the prefix cache is lost where others need its room."""
GROWS, GROWS_LEAST = 1.05, 0.01
"""Conversations still grow where the cache's use rose beyond this multiple plus this in
`settle_s`: it follows a raise by about as long as a conversation takes."""
NEEDS_RUNNING = 16
"""Requests running from which what one of them holds is taken: fewer mostly hold what all share."""
FORGETS = 0.998
"""Of the most that a conversation was seen to hold, at each look: those to come may be shorter."""
STEP = 1 / 16
"""Of the limit after a decrease: what it is raised by from then on."""
PAYS = 0.07
"""A raise pays if the tokens a second grow by this share of what the conversations do. Beyond that
a batch only gets slower, and the conversations lose their place in the prefix cache."""
YIELD_LOOKS = 2
"""The last looks at a limit from which its tokens a second are taken."""
PROBE = 0.5
"""Of the limit: what is tried after a raise that did not pay."""
HOLD_S, HOLD_MOST_S = 60.0, 960.0
"""No raise for so long after one that did not pay: at first, and after several."""
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
    tokens_per_s: float | None = None
    """Generated since the last look."""


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
        self._yields: list[tuple[int, float]] = []
        """Of looks at the present limit, used up: conversations under way and tokens a second."""
        self._before: tuple[float, float, float] | None = None
        """The limit before the last raise, and what it gave: the mean of these."""
        self._before_raise: tuple[float, float, float] | None = None
        self._hold_s = HOLD_S
        self._grown: tuple[float, float] | None = None
        """When the cache's use was last noted, and what it was."""
        self._held = 0.0
        """Share of the cache that a running request holds, the most of late."""
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
        elif not crowded:
            self._consider_raise(now_s, sample)
        return self.limit

    def _consider_raise(self, now_s: float, sample: EngineSample) -> None:
        """Raise the limit where that is of use, and lower it where the cache gets full."""
        if sample.running >= NEEDS_RUNNING and sample.in_use >= USED_UP * self.limit:
            self._held = max(FORGETS * self._held, (sample.cache_use or 0.0) / sample.running)
        if (sample.cache_use or 0.0) >= CACHE_FULL and sample.in_use <= self.limit:
            self._cut(now_s, self._find_room())
        elif self._has_grown(now_s, sample) and self._is_worth_raising(now_s, sample):
            by = min(self._step or self._limit, self._find_room() - self._limit)
            if by >= 1:
                self._raise(now_s, sample.in_use, by)

    def _find_room(self) -> float:
        """Return how many conversations the cache has room for."""
        return CACHE_AIM / self._held if self._held else float("inf")

    def _has_grown(self, now_s: float, sample: EngineSample) -> bool:
        """Return whether the conversations have grown as long as they get."""
        if sample.cache_use is None:
            return True
        if self._grown is None:
            self._grown = (now_s, sample.cache_use)
        since_s, before = self._grown
        if now_s < since_s + self.settle_s:
            return False
        self._grown = (now_s, sample.cache_use)
        return sample.cache_use <= GROWS * before + GROWS_LEAST

    def _is_worth_raising(self, now_s: float, sample: EngineSample) -> bool:
        """Return whether the last change has shown, and more are of use; where the last raise did
        not pay it is taken back."""
        if sample.in_use < USED_UP * self.limit:
            return False
        if sample.tokens_per_s is None:
            return now_s >= self._changed_s + self.settle_s
        if now_s >= self._changed_s + self.settle_s / 2:
            self._yields.append((sample.in_use, sample.tokens_per_s))
        if now_s < max(self._changed_s + self.settle_s, self._hold_until_s):
            return False
        if len(self._yields) < YIELD_LOOKS:
            return False
        recent = self._yields[-YIELD_LOOKS:]
        in_use, tokens = (sum(each) / len(recent) for each in zip(*recent, strict=True))
        if self._before is not None:
            limit, used, gave = self._before
            if tokens < gave * (1 + PAYS * (in_use / used - 1)):
                self._set_limit(now_s, min(limit, self._limit))
                self._step = PROBE * self._limit
                self._hold_until_s = now_s + self._hold_s
                self._hold_s = min(2 * self._hold_s, HOLD_MOST_S)
                return False
        self._before_raise = (self._limit, in_use, tokens)
        return True

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
            self._set_limit(now_s, min(self._limit + by, float(self.upper)))
            self._before, self._before_raise = self._before_raise, None

    def _cut(self, now_s: float, target: float) -> None:
        """Lower the limit to `target`, though not by more than one decrease may, and not again
        before the last decrease shows."""
        if now_s >= self._cut_again_s:
            least = (CUT_FIRST if self._step is None else CUT) * self._limit
            self._set_limit(now_s, min(self._limit, max(target, least, float(self.lower))))
            self._step = max(1.0, STEP * self._limit)
            self._cut_again_s = now_s + self.settle_s
        self._end_slow_start()

    def _set_limit(self, now_s: float, limit: float) -> None:
        self._limit, self._changed_s = limit, now_s
        self._before = self._grown = None
        self._yields.clear()

    def _end_slow_start(self) -> None:
        if self._step is None:
            self._step = max(1.0, STEP * self._limit)
