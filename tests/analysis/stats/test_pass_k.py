"""pass^k of units against enumeration."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

from emobench.analysis.stats.estimates import PassK
from emobench.analysis.stats.intervals import bootstrap_interval, score_interval
from emobench.analysis.stats.means import cluster_error, mean_reward
from emobench.analysis.stats.pass_k import pass_k_by_task, pass_k_curve
from tests.support.frames import arm, random_rewards


@pytest.mark.parametrize("trials", range(1, 8))
def test_by_enumeration_of_draws(trials: int) -> None:
    successes = np.arange(trials + 1)
    n = np.full(trials + 1, trials)
    for k in range(1, trials + 3):
        found = pass_k_by_task(successes, n, k)
        for c in range(trials + 1):
            draws = list(combinations([1] * c + [0] * (trials - c), k))
            if draws:
                assert found[c] == pytest.approx(np.mean([all(draw) for draw in draws]))
            else:
                assert np.isnan(found[c])


def test_tasks_with_too_few_trials_are_left_out_and_said() -> None:
    held = arm({0: [1, 1, 1, 0], 1: [1, None, None, 1], 2: [0, None, None, None], 3: [None]})
    (found,) = pass_k_curve("control", held.successes, held.n, (2,))
    assert found.value == pytest.approx((3 / 6 + 1) / 2)
    assert (found.tasks, found.of) == (2, 3)
    assert "1 of 3 tasks have fewer than 2 trials" in found.notes
    (none,) = pass_k_curve("control", held.successes, held.n, (5,))
    assert (none.value, none.interval, none.bootstrap) == (None, None, None)
    assert none.reason == "no task has 5 scored trials"


def test_tasks_of_several_groups_are_clusters() -> None:
    held = arm(random_rewards(3, 40, 4, missing=0.2))
    twice = [np.concatenate([each, each]) for each in (held.successes, held.n, held.tasks)]
    alone = pass_k_curve("control", held.successes, held.n, range(1, 5))
    both = pass_k_curve("control", twice[0], twice[1], range(1, 5), twice[2])
    for one, other in zip(alone, both, strict=True):
        assert other.value == pytest.approx(one.value)
        assert (other.tasks, other.of, other.notes) == (one.tasks, one.of, one.notes)
        assert one.interval is not None and other.interval is not None
        # Twice the same trials tell nothing new about the tasks.
        assert other.interval.low == pytest.approx(one.interval.low, abs=0.01)
        assert (other.bootstrap, other.reason) == (None, "")


def test_the_curve_falls_and_its_intervals_hold_it() -> None:
    held = arm(random_rewards(4, 60, 4))
    curve = pass_k_curve("control", held.successes, held.n, range(1, 5))
    values = [each.value for each in curve if each.value is not None]
    assert values == sorted(values, reverse=True)
    for each in curve:
        assert each.value is not None
        for interval in (each.interval, each.bootstrap):
            assert interval is not None
            assert interval.low < each.value < interval.high


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("similar", [False, True])
def test_the_interval_is_as_wide_as_tasks_and_not_episodes_say(k: int, similar: bool) -> None:
    """Against statsmodels' Wilson interval at the effective size, with t quantiles over tasks."""
    tasks, trials = 12, 8
    successes = np.array([5, 6] * 6) if similar else np.array([0, 8, 1, 7] * 3)
    n = np.full(tasks, trials)
    values = pass_k_by_task(successes, n, k)
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(tasks)
    size = min(mean * (1 - mean) / error**2, tasks * (trials // k))
    assert (size == tasks * (trials // k)) == similar, "the cap is met by tasks that are alike"
    alpha = 2 * norm.sf(t.ppf(0.975, tasks - 1))
    expected = proportion_confint(mean * size, size, alpha, method="wilson")
    (found,) = pass_k_curve("control", successes, n, (k,))
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx(expected)


@pytest.mark.parametrize("trials", [2, 4, 16])
def test_tasks_that_are_all_solved_count_once_however_often_they_were_tried(trials: int) -> None:
    n = np.full(12, trials)
    (found,) = pass_k_curve("control", n, n, (2,))
    alpha = 2 * norm.sf(t.ppf(0.975, 11))
    low, _ = proportion_confint(12, 12, alpha, method="wilson")
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((low, 1.0))


@pytest.mark.parametrize(
    ("failing", "tasks", "notes"),
    [
        (9, 30, ("fewer than 10 tasks with a failure",)),
        (10, 30, ()),
        (20, 30, ()),
        (21, 30, ("fewer than 10 tasks with a success",)),
        (5, 9, ("fewer than 10 tasks",)),
        (5, 10, ("fewer than 10 tasks with a success", "fewer than 10 tasks with a failure")),
    ],
)
def test_few_tasks_with_a_failure_or_a_success_are_marked(
    failing: int, tasks: int, notes: tuple[str, ...]
) -> None:
    held = arm({task: [float(task >= failing)] * 3 for task in range(tasks)})
    (found,) = pass_k_curve("control", held.successes, held.n, (2,))
    assert found.notes == notes
    assert mean_reward("control", held).notes == notes
    # A task that succeeds now and fails then has both.
    held = arm({task: [1.0, 1.0, 0.0] for task in range(30)})
    (found,) = pass_k_curve("control", held.successes, held.n, (2,))
    assert found.notes == mean_reward("control", held).notes == ()


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pass\^2"):
        pass_k_by_task(np.array([3]), np.array([2]), 2)
    for successes, n, k in ((-1, 2, 2), (1, 2, 0)):
        with pytest.raises(ValueError, match=f"pass.{k} of"):
            pass_k_by_task(np.array([1, successes]), np.array([2, n]), k)
    assert pass_k_by_task(np.array([0, 2]), np.array([2, 2]), 1).tolist() == [0.0, 1.0]


LABEL = "95 % interval over tasks"


def test_every_part_of_a_curve_by_hand() -> None:
    n = np.array([4] * 20 + [2] * 4 + [0])
    successes = np.array([4, 3, 4, 1, 0] * 4 + [2, 1, 2, 0, 0])
    curve = pass_k_curve("anger", successes, n, (1, 3, 4, 2))
    sizes = {1: "24 tasks x 2 to 4", 2: "24 tasks x 2 to 4", 3: "20 tasks x 4", 4: "20 tasks x 4"}
    for found, k in zip(curve, (1, 3, 4, 2), strict=True):
        values = pass_k_by_task(successes, n, k)
        values = values[np.isfinite(values)]
        error = cluster_error(values, np.ones(values.size, dtype=np.int64))
        fewer = (f"4 of 24 tasks have fewer than {k} trials",) if k > 2 else ()
        few = [
            f"fewer than 10 tasks with a {what}"
            for what, tasks in (("success", values > 0), ("failure", values < 1))
            if tasks.sum() < 10
        ]
        drawn = bootstrap_interval(values, (0.0, 1.0))
        assert drawn is not None and found.bootstrap is not None
        assert (found.bootstrap.low, found.bootstrap.high) == pytest.approx((drawn.low, drawn.high))
        assert found == PassK(
            label=f"pass^{k}, anger, {sizes[k]} trials, {LABEL}",
            k=k,
            value=values.mean(),
            tasks=values.size,
            of=24,
            interval=score_interval(values.mean(), error, values.size, int((n // k).sum())),
            bootstrap=found.bootstrap,
            reason="",
            notes=(*few, *fewer),
        )


def test_a_curve_of_one_task_of_none_and_of_tasks_that_are_alike() -> None:
    one, none = pass_k_curve("x", np.array([2, 1]), np.array([3, 1]), (2, 4))
    reason = "one task: nothing says how much tasks differ"
    notes = ("fewer than 10 tasks", "1 of 2 tasks have fewer than 2 trials")
    label = f"pass^2, x, 1 task x 3 trials, {LABEL}"
    assert one == PassK(label, 2, 1 / 3, 1, 2, None, None, reason, notes)
    label = f"pass^4, x, 0 tasks, {LABEL}"
    assert none == PassK(label, 4, None, 0, 2, None, None, "no task has 4 scored trials")
    alike = np.full(10, 3)
    (found,) = pass_k_curve("x", alike, alike, (2,))
    assert (found.bootstrap, found.tasks) == (None, 10)
    assert found.reason == "too few tasks differ for an interval by resampling"
    # Without resampling, as for several groups, there is nothing to give a reason for.
    (found,) = pass_k_curve("x", alike, alike, (2,), np.arange(10))
    assert (found.bootstrap, found.reason) == (None, "")


def test_entries_of_one_task_are_one_cluster_and_each_counts_once() -> None:
    successes, n = np.array([2, 1, 0, 2, 1]), np.array([2, 2, 2, 2, 1])
    (found,) = pass_k_curve("x", successes, n, (2,), np.array([0, 0, 0, 1, 2]))
    # Values 1, 0 and 0 of one task, 1 of another; the third has a trial too few.
    error = cluster_error(np.array([1.0, 1.0]), np.array([3, 1]))
    assert (found.value, found.tasks, found.of) == (0.5, 2, 3)
    assert found.interval == score_interval(0.5, error, 2, 4)
    assert found.label == f"pass^2, x, 2 tasks x 2 trials, {LABEL}"


def test_an_interval_by_resampling_ends_at_1() -> None:
    n = np.full(12, 4)
    (found,) = pass_k_curve("all", np.array([4] * 9 + [3, 3, 2]), n, [1])
    assert found.bootstrap is not None
    assert found.bootstrap.high == 1.0 > found.bootstrap.low
    free = bootstrap_interval(np.array([1.0] * 9 + [0.75, 0.75, 0.5]), None)
    assert free is not None
    assert free.high > 1.0, "unless it is cut there"


def test_two_tasks_are_more_than_one() -> None:
    (found,) = pass_k_curve("two", np.array([2, 1]), np.array([2, 2]), [1])
    assert found.reason == "too few tasks differ for an interval by resampling"
