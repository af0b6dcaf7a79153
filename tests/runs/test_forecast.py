"""What a sweep is expected to take, what that rests on, and a run that is held to it."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from emobench.config.load import load_profile, load_sweep
from emobench.core.errors import InvalidInput
from emobench.core.models import OpenAIModel, Price, VllmModel
from emobench.core.plan import Plan, load_plan
from emobench.core.run_dir import RunDir
from emobench.runs.forecast import forecast_plan, keep_forecast, make_forecast
from emobench.runs.measured import estimate_mean
from emobench.runs.planning import make_plan as plan_sweep
from emobench.scheduler.cost import compute_elapsed_s
from emobench.scheduler.interface import Accounts
from emobench.scheduler.schedulers import SCHEDULERS
from emobench.scheduler.usage import compute_run_cost
from emobench.store.calls import ROLES, add_usage
from emobench.store.episodes import read_lines
from emobench.store.forecast import Estimate, Forecast, read_forecast
from emobench.store.jobs import read_jobs
from emobench.store.summaries import read_summary
from tests.support.plans import ASSISTANT, CUDA, GAUDI, LOCAL, USER, make_plan, scripted
from tests.support.runs import fill, make_run
from tests.support.studies import Study

SHIPPED = sorted(Path("sweeps").glob("*.yaml"))


def forecast(plan: Plan) -> Forecast:
    return make_forecast(plan, {cell.number: len(cell.tasks) for cell in plan.cells})


def list_estimates(found: Forecast) -> list[Estimate]:
    parts: list[Mapping[str, Estimate]] = [found.calls, found.tokens_in, found.tokens_out]
    figures = [each for part in parts for each in part.values()]
    money = [each for each in (found.token_dollars, found.accelerator_dollars) if each]
    return [*figures, found.hours, found.accelerator_hours, *money]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_sweep_has_a_forecast_with_ranges(file: Path, tmp_path: Path) -> None:
    sweep = load_sweep(file)
    profile = load_profile(sweep.cluster, base=file.parent)
    plan = plan_sweep(sweep, profile, RunDir(tmp_path), None, file, 1001)
    found = forecast(plan)
    assert found.episodes == sum(len(cell.tasks) for cell in plan.cells)
    for each in list_estimates(found):
        assert 0 <= each.low <= each.typical <= each.high
    assert found.hours.low > 0
    assert (found.token_dollars is None) == (file.stem != "openai-api")


def test_what_is_held_is_cards_times_hours_and_the_user_s_as_long_as_the_last() -> None:
    plan = make_plan(CUDA, tasks=50, trials=4, variants=("control", "anger"))
    found = forecast(plan)
    assert (found.accelerators, found.servers, found.cells) == (3, 2, 8)
    assert found.accelerator_hours.typical == pytest.approx(3 * found.hours.typical)


def test_more_of_everything_takes_more() -> None:
    small, large = (forecast(make_plan(CUDA, tasks=50, trials=n)) for n in (2, 8))
    for one, other in zip(list_estimates(small), list_estimates(large), strict=True):
        assert one.typical < other.typical
    thinks = ASSISTANT.model_copy(update={"reasoning_parser": "qwen3"})
    slow = forecast(make_plan(CUDA, assistants={"qwen3-4b": thinks}, tasks=50, trials=2))
    assert slow.tokens_out["assistant"].typical > 2 * small.tokens_out["assistant"].typical
    assert slow.hours.typical > small.hours.typical


def test_where_the_file_leaves_it_open_servers_take_what_their_cache_holds() -> None:
    free, eight, many = (
        forecast(make_plan(CUDA, tasks=115, trials=8, throttle=8, concurrency=n))
        for n in (None, 8, 200)
    )
    assert eight.conversations == 64
    assert 64 < free.conversations < many.conversations == 8 * 115
    # More than fit wait, and bring nothing.
    assert free.hours.typical < eight.hours.typical
    assert many.hours.typical > free.hours.typical


def test_the_card_is_taken_from_the_gres_and_its_absence_is_told() -> None:
    h100 = forecast(make_plan(CUDA))
    assert "H100" in h100.rests_on["time"]
    assert not h100.notes
    server = CUDA.user_server.model_copy(update={"gres": "gpu", "constraint": None})
    bare = CUDA.model_copy(update={"user_server": server, "assistant_server": server})
    unknown = forecast(make_plan(bare, tasks=50, trials=4))
    assert "H100 to A100 assumed" in unknown.notes[0]
    known = forecast(make_plan(CUDA, tasks=50, trials=4))
    assert unknown.hours.high / unknown.hours.low > known.hours.high / known.hours.low
    assert "Gaudi 2" in forecast(make_plan(GAUDI)).rests_on["time"]


def test_a_model_without_a_size_in_its_name_and_one_that_does_not_fit_are_told() -> None:
    nameless = {"x": VllmModel(model="acme/chatter", tool_call_parser="hermes")}
    (note,) = forecast(make_plan(CUDA, assistants=nameless)).notes
    assert "'acme/chatter' does not say how large" in note
    large = {"x": VllmModel(model="acme/Chatter-70B", tool_call_parser="hermes")}
    (note,) = forecast(make_plan(CUDA, assistants=large)).notes
    assert "140 GB of weights do not fit into 1 card of 80 GB" in note


def test_a_scripted_server_that_takes_the_time_of_a_card_is_forecast_as_one() -> None:
    timed = scripted(hardware="a100", model_size=32)
    slow, fast = (
        forecast(make_plan(user=timed, assistants={"a": model}, tasks=50, trials=4))
        for model in (timed, scripted(hardware="a100", model_size=32, time_scale=10))
    )
    assert slow.hours.typical > 1.5 * fast.hours.typical


def test_money_of_hosted_models_and_of_accelerators() -> None:
    price = Price(input=1.0, output=10.0)
    hosted = OpenAIModel(model="m", base_url="http://localhost/v1", price=price)
    priced = CUDA.model_copy(update={"accelerator_hour_price": 2.0})
    found = forecast(make_plan(priced, user=hosted, tasks=50, max_cost=0.01))
    assert found.token_dollars is not None and found.accelerator_dollars is not None
    asked, said = found.tokens_in["user"].typical, found.tokens_out["user"].typical
    assert found.token_dollars.typical == pytest.approx((asked + 10 * said) / 1e6)
    assert found.accelerator_dollars.typical == pytest.approx(2 * found.accelerator_hours.typical)
    assert "max_cost: $0.01 would stop it before its end" in found.notes
    nameless = OpenAIModel(model="m", base_url="http://localhost/v1")
    (note,) = forecast(make_plan(LOCAL, user=nameless, assistants={"s": scripted()})).notes
    assert note == "no price of m is known: give one under `price`"


def test_a_limit_of_hours_that_is_too_low_is_told() -> None:
    plan = make_plan(CUDA, tasks=50, trials=8, max_gpu_hours=0.01)
    assert "max_gpu_hours: 0.01 would stop it before its end" in forecast(plan).notes


def test_nothing_to_run_takes_nothing() -> None:
    found = make_forecast(make_plan(CUDA), {})
    assert (found.episodes, found.jobs, found.hours) == (0, 0, Estimate.of(0))


@pytest.mark.parametrize("covered", [True, False])
def test_the_interval_of_a_mean_holds_nine_times_in_ten(covered: bool) -> None:
    """Against simulated conversations: tasks differ, and so do conversations on one task."""
    draw = random.Random(5)
    held = 0
    rounds = 400
    for _ in range(rounds):
        tasks = {task: draw.gauss(13, 3) for task in range(40)}
        pilot = list(tasks) if covered else draw.sample(list(tasks), 12)
        seen = {task: [tasks[task] + draw.gauss(0, 4) for _ in range(2)] for task in pilot}
        later = [tasks[task] + draw.gauss(0, 4) for task in tasks for _ in range(3)]
        held += sum(later) / len(later) in estimate_mean(seen, set(tasks), len(later))
    assert 0.86 <= held / rounds <= 0.99


def test_of_few_tasks_half_to_twice() -> None:
    assert estimate_mean({0: [10, 10]}, {0}, 4) == Estimate(5, 10, 20)


def test_a_run_beside_it_is_found_by_its_models_and_another_is_not(tmp_path: Path) -> None:
    pilot = make_run(tmp_path / "pilot", tasks=6)
    fill(pilot, load_plan(pilot).cells)
    own = make_run(tmp_path / "own", tasks=20)
    found = forecast_plan(load_plan(own), own)
    assert "pilot: 48 conversations" in found.rests_on["calls and tokens"]
    assert found.calls["user"].typical == found.episodes  # one call each in the made-up records
    other = make_run(tmp_path / "other", assistants={"scripted": ASSISTANT}, user=USER)
    assert "published" in forecast_plan(load_plan(other), other).rests_on["calls and tokens"]
    with pytest.raises(InvalidInput, match="no conversation of the same models"):
        forecast_plan(load_plan(other), other, pilot.path)


def test_variants_that_were_not_measured_widen_the_range(tmp_path: Path) -> None:
    pilot = make_run(tmp_path / "pilot", variants=("control",))
    fill(pilot, load_plan(pilot).cells)
    same, more = (
        forecast_plan(load_plan(run), run)
        for run in (
            make_run(tmp_path / "a", variants=("control",)),
            make_run(tmp_path / "b", variants=("control", "anxiety")),
        )
    )
    one, other = same.calls["user"], more.calls["user"]
    assert other.high / other.low > one.high / one.low


def test_the_forecast_of_the_first_submission_stays(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    plan = make_plan(CUDA, tasks=5)
    keep_forecast(plan, run_dir, None)
    first = read_forecast(run_dir)
    assert first is not None and first.episodes == 20
    keep_forecast(make_plan(CUDA, tasks=5, seed=3), run_dir, plan)
    assert read_forecast(run_dir) == first
    keep_forecast(make_plan(CUDA, tasks=5, trials=3), run_dir, plan)
    grown = read_forecast(run_dir)
    assert grown is not None and grown.episodes == 30
    run_dir.forecast.write_text("{")
    assert read_forecast(run_dir) is None


@pytest.mark.timeout(300)
def test_a_run_stays_within_the_range_of_a_forecast_from_a_pilot(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.sweep("--wait", tasks="0-9", latency=20, seed=1)
    study.run_dir.rename(tmp_path / "runs" / "pilot")
    result = study.sweep("--wait", tasks="0-29", latency=20, seed=2)
    assert result.returncode == 0, result.stderr
    run_dir = RunDir(study.run_dir)
    plan = load_plan(run_dir)
    expected = read_forecast(run_dir)
    assert expected is not None
    assert expected.rests_on["calls and tokens"] == "runs/pilot: 20 conversations"
    usage = add_usage(
        *(each.usage for cell in plan.cells if (each := read_summary(run_dir, cell.number)))
    )
    calls = [
        call
        for cell in plan.cells
        for line in read_lines(run_dir.cell(cell.number).episodes)
        if line.record
        for call in line.record.calls
    ]
    for role in ROLES:
        assert sum(call["role"] == role for call in calls) in expected.calls[role]
        assert (usage[role].prompt_tokens or 0) in expected.tokens_in[role]
        assert (usage[role].completion_tokens or 0) in expected.tokens_out[role]
    jobs = read_jobs(run_dir)
    cost = compute_run_cost(plan, run_dir, jobs, SCHEDULERS.ask_states(jobs), Accounts())
    assert compute_elapsed_s(cost, time.time()) / 3600 in expected.hours
