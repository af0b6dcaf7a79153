"""How long a batching server takes on an accelerator: a time model, and an engine that keeps to it.
Pure: time is an argument, in seconds.

One step of the engine computes a token for each request that decodes and some prompt tokens of
those that do not yet (chunked prefill), as vLLM's does:

    step = overhead + max(weights / bandwidth, tokens x 2 x parameters / flops)
         + tokens of context read x bytes of a token / bandwidth + requests x overhead of a request

docs/performance.md names the published figures that the constants were fitted to, and how far off
they are.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import sqrt

from emobench.core.errors import InvalidInput, Problem
from emobench.core.hardware import CARDS, MEMORY_SHARE, ModelSize
from emobench.core.models import Hardware

STEP_OVERHEAD_S, REQUEST_OVERHEAD_S = 5e-4, 5e-6
ACTIVATIONS_GB = 3.0
"""What the largest step needs besides weights and cache."""
LEAST_CACHE_TOKENS = 8192
"""For less than one conversation of tau-bench no server is started."""
ROUNDING_S = 1e-9


@dataclass(frozen=True)
class Reach:
    """What a server gets of a card's data sheet in a step, and vLLM's defaults there.

    core/hardware.py has lower shares: those of whole runs, in which prompts are computed between
    the tokens of others. Here each is counted by itself.
    """

    bandwidth: float
    flops: float
    max_num_seqs: int
    max_num_batched_tokens: int


REACH: dict[Hardware, Reach] = {
    "h100": Reach(0.85, 0.43, 1024, 8192),
    "a100": Reach(0.84, 0.71, 256, 2048),
    "gaudi2": Reach(0.72, 0.7, 256, 2048),
}


@dataclass(frozen=True)
class TimeModel:
    """What a step takes, in seconds."""

    weights_s: float
    """Reading all weights once."""
    token_s: float
    """Computing one token, of a prompt or of a reply."""
    context_token_s: float
    """Reading one token of context from the cache."""
    cache_tokens: int
    """Tokens that the cache holds."""
    max_num_seqs: int
    max_num_batched_tokens: int
    overhead_s: float = STEP_OVERHEAD_S
    request_s: float = REQUEST_OVERHEAD_S

    def compute_step(self, batch: int, context: float, prompt_tokens: int = 0) -> float:
        """Return the seconds of one step: `batch` requests decode, with `context` tokens of theirs
        in the cache, and `prompt_tokens` of others are computed."""
        return (
            self.overhead_s
            + max(self.weights_s, self.token_s * (batch + prompt_tokens))
            + self.context_token_s * context
            + self.request_s * batch
        )

    def sum_steps(self, steps: int, batch: int, context: float) -> float:
        """Return the seconds of `steps` steps in a row; each adds `batch` tokens to the context."""
        first = self.compute_step(batch, context)
        return steps * first + self.context_token_s * batch * steps * (steps - 1) / 2

    def count_steps(self, seconds: float, batch: int, context: float) -> int:
        """Return how many whole steps in a row end within `seconds`."""
        growth = self.context_token_s * batch / 2
        first = self.compute_step(batch, context) - growth
        # The positive root of growth x steps^2 + first x steps = seconds, in the form that also
        # holds without growth; rounding may be off by one, so sum_steps has the last word.
        seconds = max(seconds, 0.0)
        steps = int(2 * seconds / (first + sqrt(first * first + 4 * growth * seconds)))
        while self.sum_steps(steps + 1, batch, context) <= seconds:
            steps += 1
        while steps and self.sum_steps(steps, batch, context) > seconds:
            steps -= 1
        return steps


def build_time_model(hardware: Hardware, size: ModelSize, cards: int = 1) -> TimeModel:
    """Return the time model of a model of that size in BF16, whose layers so many cards share.

    Raises InvalidInput where its weights leave no room for a conversation.
    """
    card, reach = CARDS[hardware], REACH[hardware]
    bandwidth = card.bandwidth_gb_s * 1e9 * cards * reach.bandwidth
    free_gb = (card.memory_gb * MEMORY_SHARE - ACTIVATIONS_GB) * cards - size.weight_gb
    cache_tokens = int(free_gb * 1e6 / size.cache_kb_per_token)
    if cache_tokens < LEAST_CACHE_TOKENS:
        message = f"{size.total:g}B leaves no room for a cache on {cards} x {card.title}"
        hint = "take a smaller model_size, or more accelerators"
        raise InvalidInput(Problem(message, key="model_size", hint=hint))
    return TimeModel(
        weights_s=size.weight_gb * 1e9 / bandwidth,
        token_s=2e9 * size.active / (card.tflops * 1e12 * cards * reach.flops),
        context_token_s=size.cache_kb_per_token * 1e3 / bandwidth,
        cache_tokens=cache_tokens,
        max_num_seqs=reach.max_num_seqs,
        max_num_batched_tokens=reach.max_num_batched_tokens,
    )


Segment = tuple[Hashable, int]
"""A piece of a prompt: a key that stands for it and all before it, and its tokens. The last one may
grow from request to request: what is in the cache of it is not computed again."""


@dataclass
class _Request:
    number: int
    prompt: Sequence[Segment]
    output_tokens: int
    reply: Hashable | None
    generated: int = 0
    to_compute: int = 0
    """Tokens of the prompt (and of what was generated before a preemption) not computed yet."""
    prompt_tokens: int = 0


@dataclass
class Counters:
    """What an engine has counted since its start, in tokens where nothing else is said."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    """Requests."""


@dataclass
class _Step:
    """The step under way."""

    end_s: float
    parts: list[tuple[_Request, int]] = field(default_factory=list)
    """Prompt tokens that are computed in it."""


class BatchingEngine:
    """A server that batches: requests wait, are admitted in order of arrival while the cache has
    room, share their steps, and are preempted (the last to come first) where the cache is full.

    What is in nobody's use stays in the cache until its room is needed, the longest unused first.
    A caller alternates `advance` to a time, and `submit` at that time.
    """

    def __init__(self, model: TimeModel) -> None:
        self.model = model
        self.counters = Counters()
        self._now_s = 0.0
        """The last boundary between two steps."""
        self._step: _Step | None = None
        self._steps = 0
        self._waiting: deque[_Request] = deque()
        self._prefilling: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}
        """In order of admission."""
        self._decoding: list[tuple[int, int]] = []
        """A heap: the step after which a request is done, and its number."""
        self._batch = 0
        """Requests that decode."""
        self._context = 0
        """Tokens of theirs."""
        self._in_use: dict[Hashable, list[int]] = {}
        """Segments that running requests hold: how many, and the tokens."""
        self._unused: OrderedDict[Hashable, int] = OrderedDict()
        """Segments that nobody holds, the longest unused first."""
        self._held = self._kept = self._generated = 0
        """Tokens of the two, and of the replies of those that run."""

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def cache_use(self) -> float:
        """Share of the cache that running requests hold, as vLLM counts it."""
        return (self._held + self._generated) / self.model.cache_tokens

    def submit(
        self,
        now_s: float,
        number: int,
        prompt: Sequence[Segment],
        output_tokens: int,
        reply: Hashable | None = None,
    ) -> None:
        """Take a request of that number, after `advance(now_s)`. `reply` is the key that the reply
        has as a segment of a later prompt. Raises ValueError where the cache cannot hold it."""
        tokens = sum(size for _, size in prompt)
        if tokens + output_tokens > self.model.cache_tokens:
            raise ValueError(
                f"{tokens} + {output_tokens} tokens; the cache holds {self.model.cache_tokens}"
            )
        if not self._running:
            self._now_s = now_s
        elif self._step is None:
            # A step that has begun is not joined: the request waits for its end.
            ends = self._now_s + self.model.compute_step(self._batch, self._context)
            self._step = _Step(ends)
        self._waiting.append(
            _Request(number, prompt, max(1, output_tokens), reply, prompt_tokens=tokens)
        )

    def advance(self, to_s: float) -> list[int]:
        """Let time pass and return the numbers of the requests done by `to_s`, in order."""
        done: list[int] = []
        to_s += ROUNDING_S
        while True:
            if self._step is None and (self._waiting or self._prefilling or self._lacks_room()):
                self._begin_step()
            if self._step is not None:
                if self._step.end_s > to_s:
                    return done
                self._end_step(self._step, done)
            elif not self._running:
                return done
            else:
                steps = self._count_free_steps()
                if self._now_s + self._sum_steps(steps) > to_s:
                    seconds = to_s - self._now_s
                    self._decode(self.model.count_steps(seconds, self._batch, self._context), done)
                    return done
                self._decode(steps, done)

    def find_next_s(self) -> float | None:
        """Return when a request is done, or may be, if no other comes; None where none is there."""
        if self._step is None:
            self._begin_step()
        if self._step is not None:
            return self._step.end_s
        return self._now_s + self._sum_steps(self._count_free_steps()) if self._running else None

    def _sum_steps(self, steps: int) -> float:
        return self.model.sum_steps(steps, self._batch, self._context)

    def _count_free_steps(self) -> int:
        """Return the steps until the first request is done or the cache is full."""
        room = self.model.cache_tokens - self._held - self._generated
        return min(self._decoding[0][0] - self._steps, room // self._batch)

    def _begin_step(self) -> None:
        """At a boundary: preempt and admit, and begin a step where prompts are to be computed."""
        self._preempt()
        while self._waiting and len(self._running) < self.model.max_num_seqs:
            if not self._admit(self._waiting[0]):
                break
            self._waiting.popleft()
        if not self._prefilling:
            return
        room = self.model.max_num_batched_tokens - self._batch
        parts = []
        for request in self._prefilling:
            part = min(request.to_compute, room)
            if part <= 0:
                break
            parts.append((request, part))
            room -= part
        seconds = self.model.compute_step(self._batch, self._context, sum(p for _, p in parts))
        self._step = _Step(self._now_s + seconds, parts)

    def _end_step(self, step: _Step, done: list[int]) -> None:
        self._step = None
        if self._batch:
            self._decode(1, done)
        self._now_s = step.end_s
        for request, part in step.parts:
            request.to_compute -= part
            if request.to_compute == 0:
                self._prefilling.popleft()
                self._start_decoding(request, done)

    def _start_decoding(self, request: _Request, done: list[int]) -> None:
        """Give the first token of the reply, with the step that ends the prompt."""
        request.generated += 1
        self._generated += 1
        self.counters.generation_tokens += 1
        if request.generated == request.output_tokens:
            self._finish(request, done)
            return
        self._batch += 1
        self._context += request.prompt_tokens + request.generated
        ends = self._steps + request.output_tokens - request.generated
        heappush(self._decoding, (ends, request.number))

    def _decode(self, steps: int, done: list[int]) -> None:
        """Let the batch decode, over no request's end."""
        self._now_s += self._sum_steps(steps)
        self._steps += steps
        tokens = steps * self._batch
        self._context += tokens
        self._generated += tokens
        self._make_room(0)
        self.counters.generation_tokens += tokens
        while self._decoding and self._decoding[0][0] <= self._steps:
            request = self._running[heappop(self._decoding)[1]]
            request.generated = request.output_tokens
            self._batch -= 1
            self._context -= request.prompt_tokens + request.generated
            self._finish(request, done)

    def _finish(self, request: _Request, done: list[int]) -> None:
        self._release(request, request.reply)
        done.append(request.number)

    def _release(self, request: _Request, reply: Hashable | None = None) -> None:
        """Give back what a request holds. It stays in the cache, the end to be forgotten first."""
        del self._running[request.number]
        self._generated -= request.generated
        if reply is not None and reply not in self._in_use:
            self._keep(reply, request.generated)
        for key, _ in reversed(request.prompt):
            entry = self._in_use[key]
            entry[0] -= 1
            if not entry[0]:
                del self._in_use[key]
                self._held -= entry[1]
                self._keep(key, entry[1] + (request.generated if key == reply else 0))

    def _keep(self, key: Hashable, tokens: int) -> None:
        self._kept += tokens - self._unused.pop(key, 0)
        self._unused[key] = tokens
        self._make_room(0)

    def _make_room(self, tokens: int) -> None:
        """Forget what is in nobody's use, the longest unused first, until `tokens` have room."""
        limit = self.model.cache_tokens - self._held - self._generated - tokens
        while self._kept > limit and self._unused:
            key, size = self._unused.popitem(last=False)
            self._kept -= size
            if self._kept < limit:  # its end is enough
                self._unused[key] = limit - self._kept
                self._unused.move_to_end(key, last=False)
                self._kept = limit

    def _admit(self, request: _Request) -> bool:
        """Put a request into the batch; False where the cache has no room for it."""
        cached = new = 0
        hit = True
        for key, tokens in request.prompt:
            entry = self._in_use.get(key)
            there = min(entry[1] if entry else self._unused.get(key, 0), tokens)
            cached += there if hit else 0
            hit = hit and there == tokens
            new += tokens - there if entry else tokens
        free = self.model.cache_tokens - self._held - self._generated
        # With room for the next token of each.
        if new + request.generated + len(self._running) + 1 > free:
            return False
        for key, tokens in request.prompt:
            entry = self._in_use.get(key)
            if entry is None:
                self._kept -= self._unused.pop(key, 0)
                self._in_use[key] = [1, tokens]
                self._held += tokens
            else:
                entry[0] += 1
                self._held += max(0, tokens - entry[1])
                entry[1] = max(tokens, entry[1])
        self._generated += request.generated
        self._make_room(0)
        # One token at least is computed: the next one comes of it.
        request.to_compute = max(1, request.prompt_tokens - cached + request.generated)
        if not request.generated:
            self.counters.prompt_tokens += request.prompt_tokens
            self.counters.prefix_queries += request.prompt_tokens
            self.counters.prefix_hits += cached
        self._running[request.number] = request
        self._prefilling.append(request)
        return True

    def _preempt(self) -> None:
        """Take requests out of the batch, the last that came first, until a step has room."""
        while self._lacks_room():
            request = next(reversed(self._running.values()))
            if request.to_compute:
                self._prefilling.remove(request)
            else:
                self._stop_decoding(request)
            self._release(request)
            self._waiting.appendleft(request)
            self.counters.preemptions += 1

    def _lacks_room(self) -> bool:
        """Return whether the cache has no room for the next token of each."""
        used = self._held + self._generated + self._batch
        return self._batch > 0 and used > self.model.cache_tokens

    def _stop_decoding(self, request: _Request) -> None:
        place = next(i for i, (_, number) in enumerate(self._decoding) if number == request.number)
        ends, _ = self._decoding.pop(place)
        self._decoding.sort()
        request.generated = request.output_tokens - (ends - self._steps)
        self._batch -= 1
        self._context -= request.prompt_tokens + request.generated
