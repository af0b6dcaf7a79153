"""Which conversations share a seed: those that are compared, and no others."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.core.cluster import ClusterProfile
from emobench.core.models import OpenAIModel
from emobench.core.run_dir import RunDir
from emobench.runner.cell import run_cell
from emobench.runner.completion import StockDraws
from emobench.runner.episode import CellContext, _make_stock_draws, derive_episode_seed
from tests.support.model_server import Reply, recording
from tests.support.plans import make_plan

LOCAL = ClusterProfile(name="local", scheduler="local")


def test_each_part_of_a_seed_counts() -> None:
    parts = list(product((10, 11), ("retail", "airline"), (0, 1, 11), (1, 2, 11)))
    assert len({derive_episode_seed(*part) for part in parts}) == len(parts)
    assert all(0 <= derive_episode_seed(*part) < 2**31 for part in parts), (
        "some servers take no more"
    )
    assert derive_episode_seed(10, "retail", 0, 1) == 651370407, "as earlier versions drew it"


def test_trials_and_tasks_have_seeds_of_their_own_which_variants_share(tmp_path: Path) -> None:
    """Trials that share a seed would be one trial counted twice: pass^k would not mean anything."""
    with recording(lambda request: Reply("Hm.")) as server:
        model = OpenAIModel(model="m", base_url=server.url)
        plan = make_plan(LOCAL, tmp_path, model, {"a": model}, max_steps=1, probe="off")
        plan = plan.model_copy(update={"benchmark": load_benchmark().label})
        seeds: dict[tuple[int, str], list[int]] = {}
        for cell in plan.cells:
            server.bodies.clear()
            assert run_cell(plan, RunDir(tmp_path), cell.number, lambda line: None) == 0
            sent = [request["seed"] for request in server.requests]
            assert len(sent) == 3 * len(cell.tasks), "both roles' requests carry it"
            seeds[cell.trial, cell.variant] = sorted(set(sent))
    trials = {trial: seeds[trial, "control"] for trial in (1, 2)}
    assert seeds == {(t, v): trials[t] for t in (1, 2) for v in ("control", "frustration")}
    assert len({*trials[1], *trials[2]}) == 4, "two tasks in each of two trials"


@pytest.mark.parametrize(("trial", "task", "earlier"), [(1, 7, 0), (1, 2, 1), (2, 7, 3), (3, 9, 8)])
def test_a_few_shot_agents_draws_follow_stocks_order_of_trials_and_tasks(
    tmp_path: Path, trial: int, task: int, earlier: int
) -> None:
    model = OpenAIModel(model="m")
    plan = make_plan(LOCAL, tmp_path, model, {"a": model})
    benchmark = load_benchmark()
    context = CellContext.of(plan.sweep, plan.cells[0], benchmark)
    assert _make_stock_draws(context, task) is None, "the others draw nothing"
    few_shot = {"agent_strategy": "few-shot", "trial": trial, "tasks": (7, 2, 9)}
    context = replace(context, cell=plan.cells[0].model_copy(update=few_shot))
    last = benchmark.find_last_task_drawn(plan.cells[0].env)
    assert _make_stock_draws(context, task) == StockDraws(plan.sweep.seed, last, earlier)
