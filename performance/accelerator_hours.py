"""Accelerator-hours of a study with nothing set by hand, against all static settings; simulated.

(a) against the best of the static settings and against main a53931f's defaults, which split 64
requests a server in advance and began with the first task; (b) the share of time in which a loaded
server has less than 80 % of its useful batch, which is the mean batch of the smallest static
setting that is within 5 % of the best; (c) the time from 95 % to all of the conversations.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from emobench.core.hardware import ModelSize
from emobench.core.models import Hardware
from emobench.scripted.timing import build_time_model
from performance.simulation import CellSpec, Outcome, Pacing, ServerSpec, Simulation, Study

TASKS, VARIANTS = 115, 5
THROTTLE = 10
"""What config/capacity.py chooses for one to three arrays of 20 cells."""
CONCURRENCY = (4, 8, 12, 16, 24)


@dataclass(frozen=True)
class Case:
    """A study: its models, and what a53931f's defaults were for it."""

    hardware: Hardware
    billions: float
    cards: int
    assistants: int
    cells: int
    before: Pacing
    talk: float = 1.0

    @property
    def name(self) -> str:
        return (
            f"{self.hardware} x {self.cards}, {self.billions:g}B, {self.assistants} assistants, "
            f"{self.assistants * self.cells * TASKS} conversations, replies x {self.talk:g}"
        )


CASES = (
    Case("h100", 4, 1, 1, 10, Pacing(8, 8)),
    Case("h100", 4, 1, 3, 10, Pacing(7, 3)),
    Case("h100", 4, 1, 5, 10, Pacing(6, 2)),
    Case("a100", 32, 2, 1, 10, Pacing(8, 8)),
)


def main() -> None:
    print("simulated studies, accelerator-hours (loading included):")
    with ProcessPoolExecutor(2) as pool:
        for case in CASES:
            settings = [
                Pacing(throttle, each) for throttle in (5, THROTTLE) for each in CONCURRENCY
            ]
            first = max(1, 64 // (THROTTLE * case.assistants))
            ours, before, *static = pool.map(
                run_case,
                [case] * (2 + len(settings)),
                [Pacing(THROTTLE, first=first), case.before, *settings],
                [True, False] + [True] * len(settings),
            )
            _print_case(case, ours, before, static)


def run_case(case: Case, pacing: Pacing, longest_first: bool = True) -> Outcome:
    """Simulate a study under one way of pacing."""
    size = ModelSize(case.billions, case.billions)
    server = ServerSpec(build_time_model(case.hardware, size, case.cards), cards=case.cards)
    names = [f"a{number}" for number in range(case.assistants)]
    cells = [
        CellSpec(block * case.cells + cell, name, "retail", range(TASKS))
        for block, name in enumerate(names)
        for cell in range(case.cells)
    ]
    servers = {name: [server] for name in names}
    study = Study([server], servers, cells, pacing, {}, case.talk, longest_first)
    return Simulation(study).run()


def _print_case(case: Case, ours: Outcome, before: Outcome, static: list[Outcome]) -> None:
    best = min(static, key=lambda outcome: outcome.accelerator_s)
    good = [each for each in static if each.accelerator_s <= 1.05 * best.accelerator_s]
    useful = min(each.compute_mean_batch("a0+1") for each in good)
    hours = [each.accelerator_s / 3600 for each in (ours, best, before)]
    print(f"{case.name}:")
    print(f"  nothing set {hours[0]:.2f}, best static {hours[1]:.2f}, a53931f {hours[2]:.2f}")
    print(f"  (a) of the best static {hours[0] / hours[1]:.2f}, goal 1.1")
    print(f"      of a53931f's defaults {hours[0] / hours[2]:.2f}, goal 0.6; the best static has")
    print(f"      {hours[1] / hours[2]:.2f}")
    low = ours.compute_low_share("a0+1", useful)
    print(f"  (b) below 80 % of a useful batch of {useful:.0f}: {low:.0%} of the time, goal 10 %")
    print(f"  (c) from 95 % to all: {ours.tail:.1%} of the whole, goal 10 %", flush=True)


if __name__ == "__main__":
    main()
