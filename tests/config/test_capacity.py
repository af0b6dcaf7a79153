"""Throttle and concurrency follow from what the servers can batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emobench.config.capacity import (
    MAX_CELLS,
    MAX_CONCURRENCY,
    MAX_LOCAL_CELLS,
    VLLM_MOST_SEQS,
    VLLM_NUM_SEQS,
    Pace,
    choose_pace,
    count_partners,
    count_requests,
    describe,
    find_capacity,
    get_concurrency,
)
from emobench.core.models import OpenAIModel, RoleModel, VllmModel
from emobench.core.plan import USER_SERVER, Plan, name_assistant_server
from emobench.llm.engine_metrics import parse_whole_requests
from emobench.runs.planning import read_inputs
from tests.support.plans import CUDA, LOCAL, make_plan, scripted


def paced(plan: Plan) -> tuple[Pace, Plan]:
    """The pace of a plan, and the plan with it."""
    pace = choose_pace(plan.sweep, plan.profile, plan.cells, plan.blocks)
    values = {"concurrency": pace.concurrency, "throttle": pace.throttle}
    return pace, plan.model_copy(update={"sweep": plan.sweep.model_copy(update=values)})


def vllm(**values: Any) -> VllmModel:
    return VllmModel(model="m", **values)


def with_tasks(plan: Plan, tasks: int) -> Plan:
    cells = [cell.model_copy(update={"tasks": tuple(range(tasks))}) for cell in plan.cells]
    return plan.model_copy(update={"cells": tuple(cells)})


@pytest.mark.parametrize(
    ("model", "requests", "source"),
    [
        (vllm(max_num_seqs=100), 100, "max_num_seqs"),
        (vllm(max_num_seqs=100, data_parallel=2, replicas=3), 600, "max_num_seqs"),
        (vllm(extra_args=("--max-num-seqs", "24")), 24, "extra_args"),
        (vllm(extra_args=("--max_num_seqs=24",), max_num_seqs=9), 24, "extra_args"),
        (vllm(tensor_parallel=4), VLLM_NUM_SEQS, "a default"),
        (OpenAIModel(model="x"), None, "engine openai"),
        (scripted(), None, "engine scripted"),
    ],
)
def test_the_capacity_of_a_role_and_its_source(
    model: RoleModel, requests: int | None, source: str
) -> None:
    found = find_capacity("user", model)
    assert found.requests == requests
    assert found.source.startswith(source)


PACES = st.fixed_dictionaries(
    {
        "user": st.integers(1, 600),
        "assistants": st.lists(st.integers(1, 600), min_size=1, max_size=4),
        "trials": st.integers(1, 40),
        "block_size": st.integers(1, 60),
        "tasks": st.integers(1, 115),
        "concurrency": st.none() | st.integers(1, 64),
        "throttle": st.none() | st.integers(1, 40),
        "local": st.booleans(),
    }
)


@given(PACES)
@settings(max_examples=120)
def test_a_second_round_is_there_and_the_fixed_share_of_each_cell_fits(
    case: dict[str, Any],
) -> None:
    assistants: dict[str, RoleModel] = {
        f"a{i}": vllm(max_num_seqs=size) for i, size in enumerate(case["assistants"])
    }
    profile = CUDA.model_copy(update={"scheduler": "local"}) if case["local"] else CUDA
    given_by_hand = {key: case[key] for key in ("concurrency", "throttle") if case[key]}
    plan = make_plan(
        profile,
        "/logs",
        vllm(max_num_seqs=case["user"]),
        assistants,
        trials=case["trials"],
        block_size=case["block_size"],
        **given_by_hand,
    )
    plan = with_tasks(plan, case["tasks"])
    pace, resolved = paced(plan)
    servers = [USER_SERVER, *map(name_assistant_server, assistants)]
    limits = dict(zip(servers, [case["user"], *case["assistants"]], strict=True))

    def fits(concurrency: int) -> bool:
        sweep = plan.sweep.model_copy(
            update={"concurrency": concurrency, "throttle": pace.throttle}
        )
        tried = plan.model_copy(update={"sweep": sweep})
        return all(count_requests(tried, server) <= limit for server, limit in limits.items())

    cells = sum(block.size for block in plan.blocks)
    largest = cells if case["local"] else max(block.size for block in plan.blocks)
    bound = MAX_LOCAL_CELLS if case["local"] else MAX_CELLS // len(plan.blocks)
    bound = min(max(bound, len(plan.sweep.variants)), largest)
    if case["throttle"]:
        assert pace.throttle == case["throttle"]
    else:
        assert min(len(plan.sweep.variants), largest) <= pace.throttle <= bound
        each = min(case["concurrency"] or case["tasks"], case["tasks"])
        together = [case["assistants"]] if case["local"] else [[n] for n in case["assistants"]]
        held = max(min(case["user"], sum(own)) for own in together)
        if pace.throttle < bound:
            assert pace.throttle * each >= 2 * held
            assert pace.throttle >= 2 * len(plan.sweep.variants)
    if case["concurrency"]:
        assert pace.concurrency == case["concurrency"]
    else:
        most = min(MAX_CONCURRENCY, case["tasks"])
        assert 1 <= pace.concurrency <= most
        assert fits(pace.concurrency) or pace.concurrency == 1
        assert pace.concurrency == most or not fits(pace.concurrency + 1)
    assert describe(resolved)


def test_twice_the_cells_that_a_server_may_hold_run_at_a_time() -> None:
    """What is assumed of a server is little; what it may turn out to hold is not."""
    plan = with_tasks(make_plan(CUDA, "/logs", trials=20), 40)
    assert VLLM_MOST_SEQS == 256
    pace, _ = paced(plan)
    assert pace == Pace(concurrency=4, throttle=14), "7 cells of 40 hold 256"
    by_hand = plan.model_copy(update={"sweep": plan.sweep.model_copy(update={"concurrency": 16})})
    assert paced(by_hand)[0] == Pace(concurrency=16, throttle=32)


def test_an_assistant_s_replicas_have_four_cells_each() -> None:
    """64 cells of all arrays left each of 14 replicas little more than one."""
    assistants: dict[str, RoleModel] = {name: vllm(replicas=12) for name in "abcd"}
    plan = with_tasks(make_plan(CUDA, "/logs", vllm(replicas=16), assistants, trials=200), 115)
    assert paced(plan)[0] == Pace(concurrency=5, throttle=48)
    single = make_plan(CUDA, "/logs", vllm(), {name: vllm() for name in "abcd"}, trials=200)
    assert paced(with_tasks(single, 115))[0].throttle == 6, "two rounds of 256 conversations"


def test_the_copies_of_assistants_for_each_of_the_user_s() -> None:
    assistants: dict[str, RoleModel] = {
        "a": vllm(replicas=12),
        "b": vllm(replicas=6, data_parallel=2),
        "c": OpenAIModel(model="gpt-x"),
    }
    sweep = make_plan(CUDA, "/logs", vllm(replicas=8), assistants).sweep
    assert count_partners(sweep, "user") == 3
    assert count_partners(sweep, "assistant_a") == 1
    fewer = sweep.model_copy(update={"assistants": {"c": OpenAIModel(model="gpt-x")}})
    assert count_partners(fewer, "user") == 1


def test_the_variants_of_a_trial_run_side_by_side_and_the_next_trials_too() -> None:
    variants = ("control", "placebo", "anger", "anxiety", "confusion")
    plan = make_plan(CUDA, "/logs", vllm(max_num_seqs=32), variants=variants, trials=20)
    pace, _ = paced(with_tasks(plan, 115))
    assert pace.throttle == 10
    many = tuple(f"v{number}" for number in range(30))
    plan = make_plan(LOCAL, "/logs", vllm(max_num_seqs=32), variants=many)
    assert paced(with_tasks(plan, 115))[0].throttle == 30, "more than this machine has else"


@pytest.mark.parametrize("user", [scripted(), OpenAIModel(model="gpt-x")])
def test_without_a_vllm_server_eight_cells_run_at_a_time(user: RoleModel) -> None:
    plan = make_plan(CUDA, "/logs", user, {"a": scripted()}, trials=20)
    assert paced(plan)[0] == Pace(8, 8)
    assert describe(plan) == []
    site = CUDA.model_copy(update={"throttle": 3})
    assert paced(plan.model_copy(update={"profile": site}))[0] == Pace(8, 3)


def test_what_the_submission_says() -> None:
    model = vllm(max_num_seqs=128)
    plan = with_tasks(make_plan(CUDA, "/logs", model, {"x": model}, trials=10), 12)
    plan = plan.model_copy(update={"sweep": plan.sweep.model_copy(update={"throttle": 20})})
    assert describe(plan) == [
        "up to 20 cells at a time, as far as the servers hold them",
        "user: up to 128 conversations at first (max_num_seqs), then by its load",
        "x: up to 128 conversations at first (max_num_seqs), then by its load",
    ]
    by_hand = plan.sweep.model_copy(update={"concurrency": 12})
    assert describe(plan.model_copy(update={"sweep": by_hand}))[0] == (
        "up to 20 cells at a time, up to 12 conversations in each, as far as the servers hold them"
    )


def test_the_plan_holds_numbers_and_a_resubmission_may_change_them(tmp_path: Path) -> None:
    text = (
        "name: s\ntrials: 2\nmatrix: {env: retail, variant: control}\ntasks: 0-9\n"
        "user: {model: u, max_num_seqs: 30}\n"
        "assistants: {a: {model: b, tool_call_parser: hermes}}\n"
    )
    file = tmp_path / "s.yaml"
    file.write_text(text)
    plan = read_inputs(file, run_dir=tmp_path / "run").plan()
    assert (plan.sweep.concurrency, plan.sweep.throttle) == (None, 2), "as the servers say"
    assert get_concurrency(plan) == 10, "where one does not say it"
    file.write_text(text + "concurrency: 3\n")
    plan = read_inputs(file, run_dir=tmp_path / "run").plan()
    assert json.loads(plan.model_dump_json())["sweep"]["concurrency"] == 3


def test_vllms_own_figure() -> None:
    line = "(EngineCore pid=7) INFO Maximum concurrency for 32,768 tokens per request: 5.31x"
    assert parse_whole_requests(line) == 5.31
    assert parse_whole_requests("INFO Available KV cache memory: 5.31 GiB") is None
