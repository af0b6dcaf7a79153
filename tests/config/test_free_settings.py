"""What may change while a run is under way, and what not."""

from __future__ import annotations

from typing import Any

from emobench.config.free_settings import ANALYSIS, describe_changes, take_free_settings
from emobench.config.identity import collect_cell_content
from emobench.core.gates import Gates, JudgeSettings
from emobench.core.models import OpenAIModel, RoleModel
from emobench.core.sweep import Sweep
from tests.support.plans import make_plan, scripted


def sweep(url: str = "http://a/v1", **settings: Any) -> Sweep:
    models: dict[str, RoleModel] = {"a": OpenAIModel(model="m", base_url=url), "b": scripted()}
    return make_plan(user=scripted(), assistants=models, **settings).sweep


def test_each_change_is_told_with_when_it_holds() -> None:
    old = sweep(throttle=2, concurrency=4)
    new = sweep(
        "http://b/v1",
        throttle=6,
        concurrency=8,
        seed=3,
        trials=5,
        gates=Gates(coverage=0.9),
        judge=JudgeSettings(server="b"),
    )
    taken = take_free_settings(old, new)
    assert describe_changes(old, taken) == [
        'a.base_url: was "http://a/v1", now "http://b/v1", in cells that start from now on',
        "concurrency: was 4, now 8, in cells that start from now on",
        "throttle: was 2, now 6, for arrays in the queue too",
        "gates.coverage: was 0.95, now 0.9, for judge, check and report",
        *(line for line in describe_changes(old, taken) if line.startswith("judge")),
    ]
    assert taken.judge == new.judge
    assert (taken.seed, taken.trials) == (old.seed, old.trials)
    assert describe_changes(taken, new) == []
    cells = make_plan(user=scripted(), assistants={"a": scripted(), "b": scripted()}).cells
    for cell in cells:
        assert collect_cell_content(taken, cell, "x") == collect_cell_content(old, cell, "x")


def test_a_password_of_an_earlier_plan_is_not_told() -> None:
    old = sweep("http://me:pa55w0rd@a/v1?x=1&api_key=s3cret&y=2")
    assert describe_changes(old, sweep()) == [
        'a.base_url: was "http://[key]@a/v1?x=1&api_key=[key]&y=2", now "http://a/v1", '
        "in cells that start from now on"
    ]


def test_the_analysis_takes_its_own_settings_only() -> None:
    new = sweep(throttle=6, gates=Gates(coverage=0.9))
    taken = take_free_settings(sweep(throttle=2), new, ANALYSIS)
    assert (taken.throttle, taken.gates.coverage) == (2, 0.9)
