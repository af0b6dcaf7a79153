"""Paired differences against scipy and enumeration, and what must not change them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from emobench.analysis.stats.estimates import Difference, Interval
from emobench.analysis.stats.intervals import bootstrap_interval
from emobench.analysis.stats.paired import make_undefined, paired_difference, sample_difference
from emobench.analysis.stats.permutation import sign_flip

DRAW = np.random.default_rng(11)
MANY = np.round(DRAW.normal(-0.1, 0.3, 60) * 4) / 4


def test_t_is_scipys_paired_test() -> None:
    treated, control = DRAW.random(25), DRAW.random(25)
    found = paired_difference("x", treated - control)
    expected = stats.ttest_rel(treated, control)
    low, high = expected.confidence_interval(0.95)
    assert found.p_t == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.t is not None
    assert (found.t.low, found.t.high) == pytest.approx((low, high))


@pytest.mark.parametrize("tasks", [1, 2, 5, 9])
def test_few_tasks_are_flipped_in_all_ways(tasks: int) -> None:
    values = np.random.default_rng(tasks).integers(-4, 5, tasks) / 4
    sums = [abs(np.dot(signs, values)) for signs in product([-1, 1], repeat=tasks)]
    expected = np.mean([each >= abs(values.sum()) - 1e-9 for each in sums])
    p, how = sign_flip(values)
    assert p == pytest.approx(expected)
    assert how.startswith("exact")


def test_exact_p_is_scipys() -> None:
    values = np.random.default_rng(2).normal(0.2, 1, 12)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip(values)[0] == pytest.approx(expected.pvalue, abs=1e-12)


def test_many_tasks_are_flipped_at_random_near_scipy_and_the_same_each_time() -> None:
    p, how = sign_flip(MANY)
    assert how == "9999 random sign flips"
    expected = stats.permutation_test(
        (MANY,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(1),
    ).pvalue
    assert p == pytest.approx(expected, abs=4 * np.sqrt(expected / 10_000) + 1e-3)
    assert sign_flip(MANY) == (p, how)


def test_the_random_p_is_never_0() -> None:
    p, _ = sign_flip(np.full(60, 1.0))
    assert p == pytest.approx(1 / 10_000)


def test_the_bootstrap_agrees_with_t_on_normal_data_and_is_the_same_each_time() -> None:
    values = np.random.default_rng(4).normal(0.3, 1, 115)
    found, again = (bootstrap_interval(values, None) for _ in range(2))
    t = paired_difference("x", values, bounds=None).t
    assert found is not None
    assert t is not None
    assert found == again
    assert found.low == pytest.approx(t.low, abs=0.02)
    assert found.high == pytest.approx(t.high, abs=0.02)


differences = st.lists(st.integers(-4, 4).map(lambda x: x / 4), min_size=2, max_size=30)


@settings(max_examples=40)
@given(differences)
def test_swapping_the_sides_flips_the_sign_and_nothing_else(values: list[float]) -> None:
    there = paired_difference("x", np.array(values))
    back = paired_difference("x", -np.array(values))
    assert there.value is not None
    assert back.value == pytest.approx(-there.value)
    assert back.p_permutation == pytest.approx(there.p_permutation)
    for one, other in ((there.t, back.t), (there.bootstrap, back.bootstrap)):
        if one is None:
            assert other is None
        else:
            assert other is not None
            assert (other.low, other.high) == pytest.approx((-one.high, -one.low))


@settings(max_examples=40)
@given(differences, st.permutations(range(30)))
def test_the_order_of_tasks_does_not_matter(values: list[float], order: list[int]) -> None:
    turned = [values[i] for i in order if i < len(values)]
    one, other = (paired_difference("x", np.array(each)) for each in (values, turned))
    assert other.value == pytest.approx(one.value)
    assert other.p_t == pytest.approx(one.p_t)
    if one.permutation.startswith("exact"):
        assert other.p_permutation == pytest.approx(one.p_permutation)


@settings(max_examples=40)
@given(differences, st.integers(-8, 8))
def test_a_constant_moves_the_intervals_along(values: list[float], shift: int) -> None:
    one = paired_difference("x", np.array(values), bounds=None)
    other = paired_difference("x", np.array(values) + shift, bounds=None)
    for before, after in ((one.t, other.t), (one.bootstrap, other.bootstrap)):
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert after.low == pytest.approx(before.low + shift, abs=1e-6)


def test_degenerate_differences_have_reasons_and_no_width_of_zero() -> None:
    none = paired_difference("x", np.array([]))
    assert (none.value, none.t, none.p_permutation) == (None, None, None)
    assert none.reason == "no task has a value on both sides"
    one = paired_difference("x", np.array([0.5]))
    assert (one.value, one.t, one.bootstrap, one.p_t) == (0.5, None, None, None)
    assert one.p_permutation == 1.0
    equal = paired_difference("x", np.full(12, -0.5))
    assert (equal.value, equal.t, equal.bootstrap) == (-0.5, None, None)
    assert equal.reason.startswith("all tasks have the same difference")
    assert equal.p_permutation == pytest.approx(2 / 2**12)
    zero = paired_difference("x", np.zeros(50))
    assert (zero.value, zero.t, zero.p_permutation) == (0.0, None, 1.0)
    assert zero.notes == ("fewer than 10 tasks differ",)
    with pytest.raises(ValueError, match="not finite"):
        paired_difference("x", np.array([0.1, np.nan]))


def test_rare_differences_are_marked_and_not_resampled() -> None:
    rare = np.zeros(50)
    rare[:2] = -1
    found = paired_difference("x", rare)
    assert found.bootstrap is None
    assert found.reason == "too few tasks differ for an interval by resampling"
    assert "fewer than 10 tasks differ" in found.notes
    assert "2 tasks differ: no permutation p below 0.5" in found.notes


def test_intervals_stay_where_differences_can_be() -> None:
    found = paired_difference("x", np.array([-1.0, -1.0, -0.75, 0.5]))
    assert found.t is not None
    assert found.t.low == -1.0
    assert isinstance(found.interval, Interval)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=40))
def test_a_difference_of_turns_is_students(values: list[float]) -> None:
    treated = [(task, value + shift) for task, value in enumerate(values) for shift in (-1, 1)]
    control = [(task, 1.0) for task in range(len(values) + 1)]
    found = sample_difference("x", "anger", treated, control, None)
    assert found.value == pytest.approx(sum(values) / len(values) - 1)
    assert (found.tasks, found.left_out) == (len(values), 1)
    assert (found.p_t, found.p_permutation, found.bootstrap) == (None, None, None)
    if found.t is not None and found.t.high - found.t.low > 1e-3:
        result = stats.ttest_1samp([value - 1 for value in values], 0)
        interval = result.confidence_interval(0.95)
        assert (found.t.low, found.t.high) == pytest.approx((interval.low, interval.high), abs=1e-7)


def test_no_task_on_both_sides_is_no_difference() -> None:
    found = sample_difference("x", "v", [(1, 1.0)], [(2, 1.0)])
    assert (found.value, found.interval) == (None, None)


def nothing(label: str, left_out: int, reason: str) -> Difference:
    return Difference(
        label=label,
        value=None,
        tasks=0,
        left_out=left_out,
        t=None,
        bootstrap=None,
        p_t=None,
        p_permutation=None,
        permutation="",
        reason=reason,
    )


def test_a_difference_that_cannot_be_formed_holds_nothing_but_its_reason() -> None:
    assert make_undefined("x", "why") == nothing("x", 0, "why")
    none = "no task has a value on both sides"
    assert paired_difference("x", np.array([]), left_out=3) == nothing("x", 3, none)


def test_every_part_of_a_difference_by_hand() -> None:
    values = np.array([0.5, -0.25, 0.25, 0.75, 0.0, 0.0])
    found = paired_difference("x", values, left_out=2)
    low, high = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert found.t is not None
    assert (found.t.low, found.t.high) == pytest.approx((low, high))
    assert found.p_t == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert found == Difference(
        label="x",
        value=values.mean(),
        tasks=6,
        left_out=2,
        t=found.t,
        bootstrap=bootstrap_interval(values, (-1.0, 1.0)),
        p_t=found.p_t,
        # Of 8 flips up to a common sign, 1 reaches 1.75 and 2 the 1.25 that there is.
        p_permutation=0.375,
        permutation="exact, 16 sign flips",
        notes=(
            "fewer than 10 tasks",
            "4 tasks differ: no permutation p below 0.12",
            "2 tasks left out: a value on one side only",
        ),
        error=pytest.approx(stats.sem(values)),  # type: ignore[arg-type]
    )
    plain = paired_difference("x", values, left_out=1, bootstrap=False, tests=False)
    assert (plain.bootstrap, plain.p_t, plain.p_permutation, plain.permutation) == (
        *[None] * 3,
        "",
    )
    assert (plain.value, plain.t, plain.reason) == (found.value, found.t, "")
    assert plain.notes == ("fewer than 10 tasks", "1 task left out: a value on one side only")
    wide = paired_difference("x", np.array([1.0, 0.0]))
    assert (wide.t, wide.bootstrap) == (Interval(-1.0, 1.0), None)
    assert wide.reason == "too few tasks differ for an interval by resampling"
    drawn = paired_difference("x", np.array([1.0, 0.75, 1.0, 0.5, 0.75, 1.0, 0.0])).bootstrap
    assert drawn is not None and drawn.high == 1.0
    assert paired_difference("x", np.array([1.0, 0.0, 1.0, 1.0])).bootstrap is None


@pytest.mark.parametrize(
    ("tasks", "differ", "notes"),
    [
        (10, 10, ()),
        (9, 9, ("fewer than 10 tasks",)),
        (10, 9, ("fewer than 10 tasks differ",)),
        (12, 6, ("fewer than 10 tasks differ",)),
        (12, 5, ("fewer than 10 tasks differ", "5 tasks differ: no permutation p below 0.062")),
        (12, 1, ("fewer than 10 tasks differ", "1 task differs: no permutation p below 1")),
        (12, 0, ("fewer than 10 tasks differ",)),
        (2, 2, ("fewer than 10 tasks", "2 tasks differ: no permutation p below 0.5")),
    ],
)
def test_few_tasks_and_few_that_differ_are_marked(
    tasks: int, differ: int, notes: tuple[str, ...]
) -> None:
    values = np.zeros(tasks)
    values[:differ] = np.linspace(0.5, 1.0, differ)
    assert paired_difference("x", values).notes == notes


def test_a_difference_of_samples_is_that_of_the_tasks_means() -> None:
    treated = [(3, 1.0), (1, 0.0), (3, 0.0), (2, 1.0), (9, 1.0)]
    control = [(2, 0.0), (3, 1.0), (1, 0.0), (7, 0.0), (1, 1.0)]
    found = sample_difference("share of x", "anger", treated, control)
    assert found == paired_difference(
        "difference in share of x, anger minus control, 3 tasks, 95 % interval paired by task",
        # Tasks 1, 2 and 3.
        np.array([0.0 - 0.5, 1.0 - 0.0, 0.5 - 1.0]),
        left_out=2,
        bootstrap=False,
        tests=False,
    )
    assert found.t == Interval(-1.0, 1.0)
    free = sample_difference("x", "anger", treated, control, None).t
    assert free is not None and free.low < -1 and free.high > 1
