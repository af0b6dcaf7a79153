"""The time model on real HTTP against the same engine without: how well the two agree.

Conversations of six turns, as many at a time as there are clients, with the scripted server at a
scale; then the same prompts and replies through the engine in simulated time.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import deque
from typing import Any
from urllib.parse import urlsplit

from emobench.core.hardware import ModelSize
from emobench.scripted.engine_clock import split_prompt
from emobench.scripted.messages import Reply
from emobench.scripted.protocol import estimate_tokens, parse_request
from emobench.scripted.timing import BatchingEngine, Segment, build_time_model
from performance.server import scripted_server

CLIENTS, CONVERSATIONS, TURNS = 48, 192, 6
SCALE = 5.0
Call = tuple[list[Segment], int, str]


def main() -> None:
    settings = {"hardware": "a100", "model_size": 8, "time_scale": SCALE}
    calls: dict[int, list[Call]] = {number: [] for number in range(CONVERSATIONS)}
    waiting = deque(range(CONVERSATIONS))
    with scripted_server(None, **settings) as server:
        began = time.perf_counter()
        threads = [
            threading.Thread(target=_converse, args=(server.url, waiting, calls))
            for _ in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        measured = (time.perf_counter() - began) * SCALE
    simulated = _simulate(calls)
    print(f"a100, 8B, {CLIENTS} conversations at a time, {CONVERSATIONS} of {TURNS} turns:")
    print(f"  scripted server, {SCALE:g} s in a second  {measured:7.1f} s")
    print(f"  simulated                        {simulated:7.1f} s")
    print(f"  the server takes                 {measured / simulated:7.3f} times as long")


def _converse(url: str, waiting: deque[int], calls: dict[int, list[Call]]) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    while waiting:
        number = waiting.popleft()
        policy = "You are an agent and follow this policy. " * 400
        messages: list[dict[str, Any]] = [{"role": "system", "content": policy}]
        for turn in range(TURNS):
            text = f"{number} {turn}: " + "what is the state of my order? " * 12
            messages.append({"role": "user", "content": text})
            body = json.dumps({"model": "scripted", "messages": messages}).encode()
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"{parts.path}/chat/completions", body, headers)
            message = json.loads(connection.getresponse().read())["choices"][0]["message"]
            reply = Reply(message["content"])
            prompt, key = split_prompt(parse_request(body, "scripted"), reply)
            calls[number].append((prompt, estimate_tokens(reply), key))
            messages.append({"role": "assistant", "content": message["content"]})
    connection.close()


def _simulate(calls: dict[int, list[Call]]) -> float:
    engine = BatchingEngine(build_time_model("a100", ModelSize(8, 8)))
    waiting = deque(sorted(calls))
    left = {number: deque(each) for number, each in calls.items()}
    now = 0.0

    def say(number: int) -> None:
        prompt, tokens, key = left[number].popleft()
        engine.submit(now, number, prompt, tokens, key)

    for _ in range(CLIENTS):
        say(waiting.popleft())
    while (then := engine.find_next_s()) is not None:
        now = then
        for number in engine.advance(now):
            if left[number]:
                say(number)
            elif waiting:
                say(waiting.popleft())
    return now


if __name__ == "__main__":
    main()
