"""Units: one row a task and variant, whatever the order of the episodes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from emobench.analysis.stats.units import KEYS, count_by_task, split_arms
from emobench.core.errors import InvalidInput
from emobench.core.outcomes import Group
from emobench.core.sweep import Cell
from tests.support.frames import frame


def test_counts_of_a_unit() -> None:
    table = count_by_task(frame(control={0: [1, 0.5, None], 1: [0, 1, 1]}))
    assert table[["task_id", "n", "successes", "total", "missing"]].to_numpy().tolist() == [
        [0, 2, 1, 1.5, 1],
        [1, 3, 2, 2.0, 0],
    ]


def test_the_order_of_episodes_and_the_type_of_columns_do_not_matter() -> None:
    episodes = frame(control={0: [1, 0], 1: [0, None]}, anger={0: [0, 0], 1: [1, 1]})
    shuffled = episodes.sample(frac=1, random_state=3)
    typed = shuffled.astype(dict.fromkeys(KEYS[:-1], "category") | {"task_id": "int16"})
    pd.testing.assert_frame_equal(
        count_by_task(episodes),
        count_by_task(typed).astype(count_by_task(episodes).dtypes.to_dict()),
    )


def test_a_reward_that_is_no_number_is_missing_and_one_outside_is_refused() -> None:
    episodes = frame(control={0: [1, 1, 1]})
    episodes["reward"] = [1.0, np.inf, np.nan]
    assert count_by_task(episodes)[["n", "missing"]].to_numpy().tolist() == [[1, 2]]
    episodes["reward"] = [1.0, 1.5, -1.0]
    with pytest.raises(InvalidInput, match="2 episodes"):
        count_by_task(episodes)


def test_planned_episodes_that_are_not_there_are_missing() -> None:
    cells = [
        Cell(
            number=number,
            assistant="a",
            env="retail",
            agent_strategy="react",
            variant=variant,
            trial=trial,
            tasks=(0, 1),
        )
        for number, (variant, trial) in enumerate(
            [("control", 1), ("control", 2), ("anger", 1), ("anger", 2)]
        )
    ]
    group = split_arms(count_by_task(frame(control={0: [1, None], 1: [1]}), cells))[
        Group("retail", "react", "a")
    ]
    assert group["control"].missing.tolist() == [1, 1]
    assert group["anger"].n.tolist() == [0, 0]
    assert group["anger"].missing.tolist() == [2, 2]


def test_no_episode_makes_no_unit() -> None:
    assert split_arms(count_by_task(frame())) == {}
