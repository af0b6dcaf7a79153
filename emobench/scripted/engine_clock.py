"""Requests take the time of a batching engine: the time model in real time, times a scale."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import count
from typing import Any

from emobench.scripted.messages import Message, Reply, extract_text
from emobench.scripted.protocol import ChatRequest, RequestRefused
from emobench.scripted.timing import BatchingEngine, Segment, TimeModel


class EngineClock:
    """Lets each request wait until the engine would have answered it."""

    def __init__(self, model: TimeModel, scale: float) -> None:
        self.engine = BatchingEngine(model)
        self._scale = scale
        self._began_s: float | None = None
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, request: ChatRequest, reply: Reply, reply_tokens: int) -> None:
        """Wait as long as the engine would take. Raises RequestRefused (400) where the cache could
        never hold the request."""
        prompt, reply_key = split_prompt(request, reply)
        number, now_s = next(self._numbers), self.look()
        try:
            self.engine.submit(now_s, number, prompt, reply_tokens, reply_key)
        except ValueError as error:
            message = f"This model's maximum context length is exceeded: {error}."
            raise RequestRefused(message) from None
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._set_timer(now_s)
        await answer

    def look(self) -> float:
        """Bring the engine up to now, answer what is done, and return the engine's time."""
        clock_s = asyncio.get_running_loop().time()
        if self._began_s is None:
            self._began_s = clock_s
        now_s = (clock_s - self._began_s) * self._scale
        for number in self.engine.advance(now_s):
            answer = self._answers.pop(number)
            if not answer.done():  # its client may have gone
                answer.set_result(None)
        return now_s

    def _set_timer(self, now_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        next_s = self.engine.find_next_s()
        self._timer = (
            None
            if next_s is None
            else asyncio.get_running_loop().call_later((next_s - now_s) / self._scale, self._wake)
        )

    def _wake(self) -> None:
        self._set_timer(self.look())


def split_prompt(request: ChatRequest, reply: Reply) -> tuple[list[Segment], str]:
    """Return the prompt as segments, tools first and then each message, and the key that the
    reply has in a later prompt that begins with all of these."""
    calls = [{"function": {"name": c.name, "arguments": c.arguments}} for c in reply.tool_calls]
    answer = {"role": "assistant", "content": reply.content, "tool_calls": calls}
    texts = [json.dumps(request.tools), *map(_format_message, (*request.messages, answer))]
    segments = list(_chain(texts))
    return segments[:-1], str(segments[-1][0])


def _chain(texts: Sequence[str]) -> Iterator[Segment]:
    key = ""
    for text in texts:
        key = blake2b(f"{key}{text}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        yield key, max(1, len(text) // 4)


def _format_message(message: Message) -> str:
    """Return what a model reads of a message; how clients spell an absent text does not matter."""
    calls: list[Any] = message.get("tool_calls") or []
    functions = [call.get("function") for call in calls if isinstance(call, Mapping)]
    said = [
        f"{function.get('name')} {function.get('arguments')}"
        for function in functions
        if isinstance(function, Mapping)
    ]
    return "\n".join([message["role"], extract_text(message), *said])
