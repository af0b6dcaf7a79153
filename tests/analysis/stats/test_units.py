"""Units: one row a task and variant, whatever the order of the episodes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from emobench.analysis.stats.units import (
    KEYS,
    Arm,
    add_up,
    align_by_task,
    average_by_task,
    count_by_task,
    divide,
    make_arm,
    make_frame,
    split_arms,
    stack,
    subtract_by_task,
    sum_by_task,
)
from emobench.core.errors import InvalidInput
from emobench.core.outcomes import SUCCESS, Group
from emobench.core.sweep import Cell
from tests.support.frames import arm, frame, observations


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


REACT = Group("retail", "react", "a")
TOOLS = Group("retail", "tool-calling", "a")
AIRLINE = Group("airline", "react", "a")


def columns(arm: Arm) -> list[list[float]]:
    """The arm's columns; the types of all, which are summed and divided by others, are checked."""
    each = (arm.tasks, arm.n, arm.successes, arm.total, arm.missing)
    assert [column.dtype.name for column in each] == [
        "float64" if column is arm.total else "int64" for column in each
    ]
    return [column.tolist() for column in each]


def test_an_arm_knows_its_scored_tasks_and_their_means() -> None:
    held = arm({4: [1, 0.5, None], 6: [None], 7: [0]})
    assert columns(held.scored) == [[4, 7], [2, 1], [1, 0], [1.5, 0.0], [1, 0]]
    assert held.means.tolist() == pytest.approx([0.75, np.nan, 0.0], nan_ok=True)
    found = divide(np.array([1, -3, 5]), np.array([2, 1, 0]))
    assert found.tolist() == pytest.approx([0.5, -3.0, np.nan], nan_ok=True)
    assert found.dtype == np.float64


def test_what_is_planned_adds_units_and_what_is_missing_and_takes_nothing_away() -> None:
    def cell(number: int, variant: str, tasks: tuple[int, ...]) -> Cell:
        return Cell(
            number=number,
            assistant="a",
            env="retail",
            agent_strategy="react",
            variant=variant,
            trial=number + 1,
            tasks=tasks,
        )

    episodes = frame(control={0: [1, 1, 0.5], 1: [None, None], 5: [1]}, extra={0: [0.25]})
    planned = [cell(0, "control", (0, 1)), cell(1, "control", (1, 2)), cell(2, "anger", (0,))]
    table = count_by_task(episodes, [*planned, cell(3, "control", (1,))])
    assert list(table.columns) == [*KEYS, "n", "successes", "total", "missing"]
    rows = [[*row[3:5], *row[5:]] for row in table.itertuples(index=False, name=None)]
    assert sorted(rows) == [
        ["anger", 0, 0, 0, 0.0, 1],
        # More episodes than planned are no reason to miss fewer than none.
        ["control", 0, 3, 2, 2.5, 0],
        # Three are planned, of which two failed for the machine's sake.
        ["control", 1, 0, 0, 0.0, 3],
        ["control", 2, 0, 0, 0.0, 1],
        ["control", 5, 1, 1, 1.0, 0],
        ["extra", 0, 1, 0, 0.25, 0],
    ]
    assert [str(table[name].dtype) for name in ("n", "successes", "total", "missing")] == [
        "int64",
        "int64",
        "float64",
        "int64",
    ]
    more = count_by_task(frame(control={0: [None, None, None]}), planned[:1])
    assert more["missing"].tolist() == [3, 1]
    # The ends of what a reward can be belong to it.
    assert count_by_task(frame(control={0: [0, 1]}))["total"].tolist() == [1.0]
    with pytest.raises(InvalidInput, match="1 episode "):
        count_by_task(frame(control={0: [1, -0.25]}))


def test_arms_stand_by_group_and_variant_with_tasks_ascending() -> None:
    table = count_by_task(
        make_frame(
            [
                *observations({9: [1, 0], 2: [0.5, None]}, "control", "b"),
                *observations({1: [1]}, "anger", "b"),
                *observations({1: [0]}, "control", "b", "airline"),
            ]
        )
    )
    found = split_arms(table.iloc[::-1])
    airline, retail = Group("airline", "react", "b"), Group("retail", "react", "b")
    assert {group: list(arms) for group, arms in found.items()} == {
        retail: ["control", "anger"],
        airline: ["control"],
    }
    assert columns(found[retail]["control"]) == [[2, 9], [1, 2], [0, 1], [0.5, 1.0], [1, 0]]
    assert columns(found[retail]["anger"]) == [[1], [1], [1], [1.0], [0]]
    assert columns(found[airline]["control"]) == [[1], [1], [0], [0.0], [0]]


def test_a_frame_has_the_columns_of_the_observations() -> None:
    table = make_frame(observations({3: [1, None]}, "anger", "b"))
    assert list(table.columns) == [*KEYS, "trial", "outcome", "reward", "attempt"]
    assert table.iloc[0].tolist() == ["retail", "react", "b", "anger", 3, 1, "solved", 1.0, 1]
    assert table["reward"].dtype == np.float64 and np.isnan(table["reward"][1])
    assert make_frame([])["reward"].dtype == np.float64


def test_values_are_aligned_on_the_tasks_that_all_of_them_have() -> None:
    values = {
        "one": (np.array([5, 1, 3, 8]), np.array([0.5, 0.1, 0.3, np.nan])),
        "two": (np.array([3, 5, 9]), np.array([3.0, 5.0, 9.0])),
        "not asked": (np.array([77]), np.array([1.0])),
    }
    rows, left_out = align_by_task(values, "two", "one")
    # Tasks 3 and 5; 1 and 9 stand on one side only, and 8 on none.
    assert (rows.tolist(), left_out) == ([[3.0, 5.0], [0.3, 0.5]], 2)
    assert rows.dtype == np.float64
    rows, left_out = align_by_task(values, "one", "two", "not asked")
    assert (rows.shape, left_out) == ((3, 0), 5)


def test_samples_are_summed_by_task() -> None:
    tasks, total, n = sum_by_task([(7, 0.5), (2, 1.0), (7, 1.0)])
    assert (tasks.tolist(), total.tolist(), n.tolist()) == ([2, 7], [1.0, 1.5], [1, 2])
    assert [part.dtype.name for part in (tasks, total, n)] == ["int64", "float64", "int64"]
    assert [part.tolist() for part in sum_by_task([])] == [[], [], []]
    assert add_up(np.array([1, 2, 4]), np.array([1, 0, 1])).tolist() == [2.0, 5.0]


def test_arms_of_several_groups_are_stacked() -> None:
    groups = [
        (REACT, arm({3: [1, 0], 8: [0.5, None]})),
        (AIRLINE, arm({3: [1, 1, 1]})),
        (TOOLS, arm({8: [1], 9: [None]})),
    ]
    stacked = stack(groups)
    # By environment, then task: airline 3 is 0, and retail 3, 8 and 9 are 1, 2 and 3.
    assert columns(stacked) == [
        [1, 2, 0, 2, 3],
        [2, 1, 3, 1, 0],
        [1, 0, 3, 1, 0],
        [1.0, 0.5, 3.0, 1.0, 0.0],
        [0, 1, 0, 0, 1],
    ]
    sums = {("retail", 8): (2, 0, 1.5), ("airline", 3): (3, 3, 3.0), ("retail", 3): (2, 1, 1.0)}
    assert columns(make_arm(sums)) == [[0, 1, 2], [3, 2, 2], [3, 1, 0], [3.0, 1.0, 1.5], [0, 0, 0]]
    assert columns(make_arm({("retail", 1): (1, 1, 1)}))[3] == [1.0]
    assert columns(stack([])) == columns(make_arm({})) == [[]] * 5


def test_a_task_of_several_groups_counts_once_with_its_mean() -> None:
    treated = {
        (REACT, 1): 1.0,
        (TOOLS, 1): 0.5,
        (AIRLINE, 1): 0.25,
        (REACT, 2): 0.0,
        (REACT, 4): 1.0,
    }
    control = {
        (REACT, 1): 0.5,
        (TOOLS, 1): 0.75,
        (AIRLINE, 1): 0.5,
        (REACT, 2): 1.0,
        (AIRLINE, 7): 1.0,
        (TOOLS, 2): 0.0,
    }
    gaps, left_out = subtract_by_task(treated, control)
    # airline 1, then retail 1 (0.5 and -0.25) and 2; retail 4 and airline 7 have one side.
    assert (gaps.tolist(), left_out) == ([-0.25, 0.125, -1.0], 2)
    assert gaps.dtype == np.float64
    assert average_by_task(control) == {
        ("retail", 1): 0.625,
        ("airline", 1): 0.5,
        ("retail", 2): 0.5,
        ("airline", 7): 1.0,
    }
    none, left_out = subtract_by_task({}, {})
    assert (none.size, none.dtype.name, left_out) == (0, "float64", 0)


def test_columns_of_categories_make_the_same_units() -> None:
    """As the tables have them, with categories that no episode has."""
    episodes = frame(control={0: [1, 0], 1: [None]}, anger={0: [0.5]})
    typed = episodes.astype(dict.fromkeys(KEYS[:-1], "category"))
    for name in KEYS[:-1]:
        typed[name] = typed[name].cat.add_categories("none")
    table = count_by_task(typed)
    assert len(table) == 3
    assert [str(table[name].dtype) for name in ("n", "successes", "total", "missing")] == [
        "int64",
        "int64",
        "float64",
        "int64",
    ]
    found, expected = split_arms(table), split_arms(count_by_task(episodes))
    cell = Cell(
        number=0,
        assistant="a",
        env="retail",
        agent_strategy="react",
        variant="control",
        trial=1,
        tasks=(0, 2),
    )
    planned, plain = (split_arms(count_by_task(each, [cell])) for each in (typed, episodes))
    for one, other in ((found, expected), (planned, plain)):
        assert list(one) == [REACT]
        assert {name: columns(arm) for name, arm in one[REACT].items()} == {
            name: columns(arm) for name, arm in other[REACT].items()
        }
    assert columns(planned[REACT]["control"]) == [
        [0, 1, 2],
        [2, 0, 0],
        [1, 0, 0],
        [1, 0, 0],
        [0, 1, 1],
    ]


def test_a_reward_at_the_limit_is_a_success() -> None:
    episodes = frame(control={0: [SUCCESS, SUCCESS - 1e-9]})
    assert count_by_task(episodes)["successes"].tolist() == [1]


def test_sums_of_counts_are_floats_and_tasks_are_whole_numbers() -> None:
    for sample, expected in (([(3, 2), (1, 4), (3, 5)], ([1, 3], [4, 7], [1, 2])), ([], ([],) * 3)):
        sums = sum_by_task(sample)
        assert tuple(each.tolist() for each in sums) == expected
        assert [each.dtype.name for each in sums] == ["int64", "float64", "int64"]
