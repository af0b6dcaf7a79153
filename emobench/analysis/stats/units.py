"""Rewards by (group, variant, task): all that the statistics need of the episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emobench.core.errors import InvalidInput
from emobench.core.outcomes import SUCCESS, Group, Observation
from emobench.core.sweep import Cell
from emobench.core.wording import pluralise

if TYPE_CHECKING:
    import pandas

KEYS = (*Group._fields, "variant", "task_id")
COUNTS = ("n", "successes", "total", "missing")
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Sums = tuple[Ints, Floats, Ints]
"""Tasks, a sum by task, and how many values it is a sum of."""
Sample = Sequence[tuple[int, float]]
"""(task, value) of each conversation or turn of a variant."""
Means = Mapping[tuple[Group, int], float]
"""Mean value by (group, task)."""


@dataclass(frozen=True)
class Arm:
    """One variant of one group, an entry a task, tasks ascending."""

    tasks: Ints
    n: Ints
    """Scored trials."""
    successes: Ints
    total: Floats
    """Sum of rewards."""
    missing: Ints

    @property
    def scored(self) -> Arm:
        """The tasks with at least one scored trial."""
        return self.select(self.n > 0)

    def select(self, keep: Flags) -> Arm:
        """Return the tasks that `keep` marks."""
        return Arm(
            self.tasks[keep],
            self.n[keep],
            self.successes[keep],
            self.total[keep],
            self.missing[keep],
        )

    @property
    def means(self) -> Floats:
        """Mean reward by task; NaN where no trial is scored."""
        return divide(self.total, self.n)


def count_by_task(frame: pandas.DataFrame, planned: Iterable[Cell] = ()) -> pandas.DataFrame:
    """Return one row for each (env, agent_strategy, assistant, variant, task_id): n, successes,
    total, missing.

    `frame` is the table of episodes. A reward that is not finite is missing. With `planned`, the
    cells of the plan, planned episodes that are not in the frame are missing too. Raises
    InvalidInput for rewards outside 0 to 1.
    """
    import pandas as pd

    reward = frame["reward"].to_numpy(np.float64)
    scored = np.isfinite(reward)
    outside = int(((reward < 0) | (reward > 1))[scored].sum())
    if outside:
        raise InvalidInput(
            f"rewards lie between 0 and 1; {pluralise(outside, 'episode')} with others"
        )
    work = frame[list(KEYS)].assign(
        n=scored.astype(np.int64),
        successes=(scored & (reward >= SUCCESS)).astype(np.int64),
        total=np.where(scored, reward, 0.0),
        missing=(~scored).astype(np.int64),
    )
    table = work.groupby(list(KEYS), observed=True)[list(COUNTS)].sum().reset_index()
    expected: dict[tuple[str, str, str, str, int], int] = {}
    for cell in planned:
        for task in cell.tasks:
            key = (cell.env, cell.agent_strategy, cell.assistant, cell.variant, task)
            expected[key] = expected.get(key, 0) + 1
    if not expected:
        return table
    plan = pd.DataFrame([(*key, count) for key, count in expected.items()])
    plan.columns = pd.Index([*KEYS, "planned"])
    both = table.merge(plan, how="outer")
    both[[*COUNTS, "planned"]] = both[[*COUNTS, "planned"]].fillna(0)
    both["missing"] = np.maximum(both["missing"], both["planned"] - both["n"])
    both[["n", "successes", "missing"]] = both[["n", "successes", "missing"]].astype(np.int64)
    return both.drop(columns="planned")


def split_arms(table: pandas.DataFrame) -> dict[Group, dict[str, Arm]]:
    """Return the units as arrays, by group and variant, in the order in which they stand."""
    result: dict[Group, dict[str, Arm]] = {}
    for key, part in table.groupby([*Group._fields, "variant"], observed=True, sort=False):
        env, strategy, assistant, variant = (str(item) for item in key)
        part = part.sort_values("task_id")
        result.setdefault(Group(env, strategy, assistant), {})[variant] = Arm(
            part["task_id"].to_numpy(np.int64),
            part["n"].to_numpy(np.int64),
            part["successes"].to_numpy(np.int64),
            part["total"].to_numpy(np.float64),
            part["missing"].to_numpy(np.int64),
        )
    return result


def keep_paired(one: Arm, other: Arm) -> tuple[Arm, Arm]:
    """Return both arms on the tasks of which each has a scored trial."""
    one, other = one.scored, other.scored
    return one.select(np.isin(one.tasks, other.tasks)), other.select(
        np.isin(other.tasks, one.tasks)
    )


def align_by_task(values: Mapping[str, tuple[Ints, Floats]], *names: str) -> tuple[Floats, int]:
    """Return the values of `names` on the tasks where all of them have one, a row a name; and how
    many tasks have a value for some but not all of them."""
    defined = {
        name: dict(zip(tasks[np.isfinite(items)], items[np.isfinite(items)], strict=True))
        for name, (tasks, items) in ((name, values[name]) for name in names)
    }
    common = set.intersection(*(set(items) for items in defined.values()))
    union = set.union(*(set(items) for items in defined.values()))
    order = sorted(common)
    rows = [[float(defined[name][task]) for task in order] for name in names]
    return np.array(rows, dtype=np.float64).reshape(len(names), len(order)), len(union - common)


def sum_by_task(sample: Sample) -> Sums:
    """Return the tasks of a sample, ascending, with the sum and the number of values of each."""
    tasks, places, counts = np.unique(
        np.array([task for task, _ in sample], dtype=np.int64),
        return_inverse=True,
        return_counts=True,
    )
    return tasks, add_up(np.array([value for _, value in sample]), places), counts


def stack(groups: Iterable[tuple[Group, Arm]]) -> Arm:
    """Return the arms of several groups one below the other, an entry a (group, task).

    `tasks` numbers each (environment, task) from 0, so entries of one number are of one task.
    """
    parts = list(groups)
    names = [(group[0], task) for group, arm in parts for task in arm.tasks.tolist()]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    none = np.empty(0, np.int64)
    return Arm(
        np.array([numbers[name] for name in names], dtype=np.int64),
        np.concatenate([none, *(arm.n for _, arm in parts)]),
        np.concatenate([none, *(arm.successes for _, arm in parts)]),
        np.concatenate([none.astype(np.float64), *(arm.total for _, arm in parts)]),
        np.concatenate([none, *(arm.missing for _, arm in parts)]),
    )


def make_arm(sums: Mapping[tuple[str, int], tuple[int, int, float]]) -> Arm:
    """Return an arm of (scored trials, successes, sum of rewards) by (environment, task), with no
    trial missing; tasks are numbered as by `stack`."""
    table = np.array([sums[name] for name in sorted(sums)], dtype=np.float64).reshape(-1, 3)
    n, successes = (table[:, column].astype(np.int64) for column in (0, 1))
    return Arm(np.arange(n.size), n, successes, table[:, 2], np.zeros_like(n))


def add_up(values: NDArray[np.generic], places: NDArray[np.generic]) -> Floats:
    """Return the sums of `values` by place; `places` number them from 0 and leave none out."""
    return np.bincount(places, values).astype(np.float64)


def average_by_task(values: Means) -> dict[tuple[str, int], float]:
    """Return the mean over groups of each (environment, task)."""
    parts: dict[tuple[str, int], list[float]] = {}
    for ((env, _, _), task), value in values.items():
        parts.setdefault((env, task), []).append(value)
    return {task: sum(each) / len(each) for task, each in parts.items()}


def subtract_by_task(treated: Means, control: Means) -> tuple[Floats, int]:
    """Return the differences by (environment, task), and how many tasks only one side has.

    They are formed within each group; a task met in several groups counts once, with the mean of
    its groups' differences.
    """
    gaps = average_by_task(
        {unit: treated[unit] - control[unit] for unit in treated if unit in control}
    )
    either = {(group[0], task) for group, task in (*treated, *control)}
    return np.array([gaps[task] for task in sorted(gaps)], dtype=np.float64), len(either) - len(
        gaps
    )


def divide(numerator: NDArray[np.generic], denominator: NDArray[np.generic]) -> Floats:
    """Return elementwise quotient; NaN where the denominator is 0."""
    top = numerator.astype(np.float64)
    bottom = denominator.astype(np.float64)
    found: Floats = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=found, where=bottom > 0)
    return found


def make_frame(observations: Iterable[Observation]) -> pandas.DataFrame:
    """Return observations as a table with the columns that `count_by_task` reads, and outcome,
    trial and attempt."""
    import pandas as pd

    columns = [*KEYS, "trial", "outcome", "reward", "attempt"]
    rows = [[getattr(item, name) for name in columns] for item in observations]
    frame = pd.DataFrame(rows, columns=pd.Index(columns))
    frame["reward"] = frame["reward"].astype("float64")
    return frame
