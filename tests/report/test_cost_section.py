"""The report's cost: where the hours went, and the plan beside the fact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emobench.core.models import ScriptedModel
from emobench.core.plan import load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.core.times import to_iso
from emobench.report.blocks import Table
from emobench.report.sections.cost import build_cost_section
from emobench.report.study import build_study
from emobench.runs.forecast import keep_forecast
from emobench.store.jobs import add_jobs
from tests.support.jobs import local_record
from tests.support.plans import LOCAL
from tests.support.runs import append, episode, make_run, summarise

BEGIN = 1_780_000_000.0
CARDS = LOCAL.model_copy(update={"accelerator": "cuda", "accelerator_hour_price": 2.0})
USAGE = {"user": {"prompt_tokens": 5000, "completion_tokens": 100}}


def write_events(run_dir: RunDir, server: str, job: str, *events: tuple[float, str]) -> None:
    run_dir.endpoints.mkdir(exist_ok=True)
    with run_dir.events(server, job).open("a") as stream:
        for seconds, event in events:
            fields: dict[str, object] = {"time": to_iso(BEGIN + seconds), "event": event}
            if event == "served":
                fields |= {"busy_s": 1000.0, "request_s": 12_000.0}
            stream.write(json.dumps({**fields, "server": server, "job_id": job}) + "\n")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run whose user's server waited 500 s for the assistant's, and both served 1,000 s."""
    models = {"user": ScriptedModel(accelerators=2)}
    run_dir = make_run(
        tmp_path / "run",
        user=models["user"],
        assistants={"a": ScriptedModel(accelerators=1)},
        variants=("control", "frustration"),
        profile=CARDS,
    )
    plan = load_plan(run_dir)
    run_dir.plan.unlink()
    keep_forecast(plan, run_dir, None)
    save_plan(run_dir, plan)
    for cell in plan.cells:
        outcomes = ["solved"] * 5 + ["failed"]
        lines = [episode(cell, t, o) for t, o in zip(cell.tasks, outcomes, strict=True)]
        append(run_dir, cell, lines)
        summarise(run_dir, cell, "done", finished=6, expected=6, usage=USAGE)
    life = ((600.0, "busy"), (1600.0, "idle"), (1690.0, "served"), (1700.0, "left"))
    write_events(run_dir, "user", "1", (0, "starting"), (100, "ready"), *life)
    write_events(run_dir, "assistant_a", "2", (500, "starting"), (600, "ready"), *life)
    add_jobs(run_dir, [local_record("server", "user", "1", 0)])
    add_jobs(run_dir, [local_record("server", "assistant_a", "2", 0)])
    return run_dir


def find_table(run_dir: RunDir, name: str) -> Table:
    blocks = build_cost_section(build_study(run_dir)).walk()
    return next(each for each in blocks if isinstance(each, Table) and each.name == name)


def test_where_the_hours_went_in_total_and_for_a_solved_task(run_dir: RunDir) -> None:
    table = find_table(run_dir, "cost-use")
    hours = {str(each["what"]): each["accelerator_hours"] for each in table.records}
    seconds = {what: round(3600 * float(str(value))) for what, value in hours.items()}
    # The user's server holds two cards, the assistant's one.
    assert seconds == {
        "loading": 2 * 100 + 100,
        "waiting": 2 * 500,
        "serving": 3 * 1000,
        "idle": 3 * 100,
        "total": 2 * 1700 + 1200,
    }
    (serving,) = (each for each in table.records if each["what"] == "serving")
    assert serving["mean_batch"] == 12.0
    texts = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert texts["in total"] == ["1.28", "100%", "230 s", "$2.56", "$0.13"]
    assert "for each of 20 solved tasks" in table.caption
    assert "had 12 requests, in the mean" in table.caption


def test_the_plan_stands_beside_the_fact(run_dir: RunDir) -> None:
    table = find_table(run_dir, "cost-plan")
    took = {str(each["figure"]): each["took"] for each in table.records}
    assert took["user's tokens in"] == 4 * 5000
    assert took["accelerator-hours"] == pytest.approx(4600 / 3600, abs=1e-5)
    assert took["hours with a job running"] == pytest.approx(1700 / 3600)
    assert took["cost of accelerators"] == pytest.approx(2 * 4600 / 3600, abs=1e-5)
    for each in table.records:
        low, middle, high = (float(str(each[key])) for key in ("low", "expected", "high"))
        assert low <= middle <= high
    assert any("rested on: typical figures" in note for note in table.notes)


def test_without_a_forecast_or_with_a_damaged_one_there_is_no_comparison(run_dir: RunDir) -> None:
    for text in ("{", '{"episodes": "many"}'):
        run_dir.forecast.write_text(text)
        names = {
            each.name
            for each in build_cost_section(build_study(run_dir)).walk()
            if isinstance(each, Table)
        }
        assert "cost-use" in names and "cost-plan" not in names
