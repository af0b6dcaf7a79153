"""Reruns are part of the data: what was lost first is counted, compared and put back."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from emobench.analysis.effects import Contrast, Findings, estimate_effects
from emobench.analysis.stats.lost_attempts import mark_lost
from emobench.analysis.stats.sensitivity import LOST
from tests.support.frames import frame

TASKS, TRIALS = 60, 4


def lose_failures(share: float, *, seed: int = 1) -> pandas.DataFrame:
    """A drop of 20 points; that share of anger's failures is lost first, and solved when it is run
    again."""
    draw = np.random.default_rng(seed)
    rewards = {
        name: {
            task: [float(draw.random() < chance) for _ in range(TRIALS)] for task in range(TASKS)
        }
        for name, chance in (("control", 0.7), ("anger", 0.5))
    }
    table = frame(**rewards)
    failed = (table["variant"] == "anger") & (table["reward"] == 0)
    again = failed & (draw.random(len(table)) < share)
    return table.assign(
        reward=table["reward"].mask(again, 1.0), attempt=table["attempt"].mask(again, 2)
    )


def contrast_of(findings: Findings) -> Contrast:
    (group,) = findings.groups
    contrast = next(each for each in group.variants if each.variant == "anger").contrast
    assert contrast is not None
    return contrast


def test_an_effect_that_reruns_hid_is_in_its_row() -> None:
    table = lose_failures(0.4)
    found = contrast_of(estimate_effects(table))
    p = found.difference.p_permutation
    assert p is not None and p > 0.05
    row = next(each for each in found.sensitivity if each.rule == LOST)
    true = contrast_of(estimate_effects(lose_failures(0.0))).difference
    assert row.value == pytest.approx(true.value)
    assert row.p_permutation == pytest.approx(true.p_permutation)
    assert row.reverses
    assert [each.rule for each in found.sensitivity if each.reverses] == [LOST]


def test_losses_are_compared_by_variant() -> None:
    table = lose_failures(0.4)
    findings = estimate_effects(table)
    shares = {each.variant: each.lost for each in findings.groups[0].variants}
    lost = int(mark_lost(table).sum())
    assert (shares["anger"].events, shares["anger"].episodes) == (lost, TASKS * TRIALS)
    assert shares["control"].events == 0
    found = contrast_of(findings).lost
    assert found.value == pytest.approx(lost / (TASKS * TRIALS))
    assert found.p_permutation is not None and found.p_permutation < 0.001


def test_nothing_lost_changes_nothing() -> None:
    found = contrast_of(estimate_effects(lose_failures(0.0)))
    assert (found.lost.value, found.lost.p_permutation) == (0.0, 1.0)
    assert {each.value for each in found.sensitivity} == {found.difference.value}
    assert not any(each.reverses for each in found.sensitivity)


def test_an_attempt_that_is_still_missing_is_lost_and_one_never_begun_is_not() -> None:
    table = frame(control={0: [1.0, None]}, anger={0: [1.0, 0.0]})
    assert mark_lost(table).tolist() == [False, True, False, False]
    assert mark_lost(table.drop(columns="attempt")).tolist() == [False, True, False, False]
