"""A group is named in one order, whatever it is taken from; outcomes are spelt as on disk."""

from __future__ import annotations

import json

import orjson

from emobench.core.outcomes import OUTCOMES, Condition, Group, Observation, Outcome
from emobench.core.sweep import Cell


def test_everything_that_has_a_group_names_it_alike() -> None:
    cell = Cell(
        number=0,
        assistant="a",
        env="retail",
        agent_strategy="act",
        variant="anger",
        trial=1,
        tasks=(0,),
    )
    seen = Observation("a", "retail", "act", "anger", 1, 0, Outcome.FAILED, 0.0)
    group = Group(env="retail", agent_strategy="act", assistant="a")
    assert cell.group == seen.group == group
    assert cell.condition == group.to_condition("anger") == Condition("retail", "act", "a", "anger")
    assert cell.condition.group == cell.condition.control.group == group
    assert cell.condition.control.variant == "control"


def test_outcomes_are_spelt_as_in_the_files() -> None:
    assert OUTCOMES == (
        "solved",
        "failed",
        "agent_error",
        "max_steps",
        "context_overflow",
        "user_error",
        "infra_error",
    )
    written = [orjson.dumps(list(Outcome)), json.dumps(list(Outcome)).encode()]
    assert all(orjson.loads(text) == list(OUTCOMES) for text in written)
