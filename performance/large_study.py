"""A study of 100,000 conversations on 64 accelerators whose jobs wait in a queue, simulated.

`python -m performance.large_study [CONVERSATIONS [MEAN_WAIT_S]]`. The bound: each server, from when
it is ready, ends conversations as fast as the best static setting lets one such server, and all of
an assistant's servers end together. Queue waits are exponential.
"""

from __future__ import annotations

import random
import sys
import time

from emobench.core.hardware import ModelSize
from emobench.scripted.timing import build_time_model
from performance.simulation import CellSpec, Outcome, Pacing, ServerSpec, Simulation, Study

ASSISTANTS, REPLICAS, USERS = 4, 12, 16
"""With 8 of the user's and 14 of each assistant, the user's caches hold too few conversations."""
TASKS = 115
THROTTLE, FIRST = 48, 5
"""What config/capacity.py chooses for four arrays: cells of each, and what a cell begins with."""
MEAN_WAIT_S, LOADS_S = 600.0, 120.0
TALK = 3.0
STATIC = (6, 8, 10, 12, 14, 16)
MODEL = build_time_model("h100", ModelSize(8, 8))


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    mean_wait_s = float(sys.argv[2]) if len(sys.argv) > 2 else MEAN_WAIT_S
    cells = round(wanted / ASSISTANTS / TASKS)
    began = time.perf_counter()
    rate = max(_measure_rate(concurrency) for concurrency in STATIC)
    dice = random.Random(1)
    waits = {
        f"a{number}": [dice.expovariate(1 / mean_wait_s) for _ in range(REPLICAS)]
        for number in range(ASSISTANTS)
    }
    specs = {
        name: [ServerSpec(MODEL, wait, LOADS_S) for wait in each] for name, each in waits.items()
    }
    users = [ServerSpec(MODEL, dice.expovariate(1 / mean_wait_s), LOADS_S) for _ in range(USERS)]
    study = Study(
        users, specs, _list_cells(list(specs), cells), Pacing(THROTTLE, first=FIRST), {}, TALK
    )
    outcome = Simulation(study).run()
    first = min(server.starts_s for each in (users, *specs.values()) for server in each)
    user_ready = min(server.ready_s for server in users)
    bound = max(
        _find_end(cells * TASKS, rate, [max(s.ready_s, user_ready) for s in each])
        for each in specs.values()
    )
    total = ASSISTANTS * cells * TASKS
    cards = ASSISTANTS * REPLICAS + USERS
    print(f"{total} conversations, {outcome.calls} calls, on {cards} accelerators:")
    print(f"  one server of an assistant, at its best   {rate:8.3f} conversations/s")
    print(f"  bound from tokens and slots               {bound - first:8.0f} s")
    ratio = outcome.seconds / (bound - first)
    print(f"  simulated                                 {outcome.seconds:8.0f} s  ({ratio:.3f})")
    print(f"  from 95 % to all                          {outcome.tail:8.1%}")
    print(f"  accelerator-hours                         {outcome.accelerator_s / 3600:8.0f}")
    print(f"  to simulate                               {time.perf_counter() - began:8.0f} s")
    _print_batches(outcome)


def _measure_rate(concurrency: int) -> float:
    """Return the conversations a second of one assistant's server in the steady middle."""
    servers = {"a0": [ServerSpec(MODEL, loads_s=0.0)]}
    cells = _list_cells(["a0"], 20)
    pacing = Pacing(10, concurrency)
    study = Study([ServerSpec(MODEL, loads_s=0.0)], servers, cells, pacing, {}, TALK)
    ends = Simulation(study).run().ends_s
    low, high = len(ends) // 4, 3 * len(ends) // 4
    return (high - low) / (ends[high] - ends[low])


def _list_cells(assistants: list[str], each: int) -> list[CellSpec]:
    return [
        CellSpec(number * each + cell, name, "retail", range(TASKS))
        for number, name in enumerate(assistants)
        for cell in range(each)
    ]


def _find_end(conversations: int, rate: float, ready_s: list[float]) -> float:
    """Return when servers that begin at these times have ended so many between them."""
    ready = sorted(ready_s)
    done = 0.0
    for running, (since, until) in enumerate(
        zip(ready, [*ready[1:], float("inf")], strict=True), 1
    ):
        if done + rate * running * (until - since) >= conversations:
            return since + (conversations - done) / (rate * running)
        done += rate * running * (until - since)
    raise AssertionError("the last interval has no end")


def _print_batches(outcome: Outcome) -> None:
    means = sorted(outcome.compute_mean_batch(name) for name in outcome.servers if name[0] == "a")
    print(f"  mean batch of an assistant's server       {means[0]:.0f} to {means[-1]:.0f}")


if __name__ == "__main__":
    main()
