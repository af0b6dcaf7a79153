"""The odds ratios against statsmodels' own fit of the same episodes, and fits that cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.genmod.cov_struct import Exchangeable
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_estimating_equations import GEE

from emobench.analysis.stats.gee import LARGEST_CLUSTER, fit_odds_ratios
from tests.support.frames import arm, random_rewards


def test_as_statsmodels_by_formula() -> None:
    rewards = {
        "control": random_rewards(1, 40, 4),
        "anger": random_rewards(2, 40, 4, 0.7),
        "anxiety": random_rewards(3, 40, 4, 0.9, missing=0.2),
    }
    rows = [
        (name, task, value)
        for name, tasks in rewards.items()
        for task, values in tasks.items()
        for value in values
        if value is not None
    ]
    data = {
        "variant": [name for name, _, _ in rows],
        "task": [task for _, task, _ in rows],
        "success": [value for _, _, value in rows],
    }
    import pandas as pd

    fit = GEE.from_formula(
        "success ~ C(variant, Treatment('control'))",
        "task",
        data=pd.DataFrame(data),
        family=Binomial(),
        cov_struct=Exchangeable(),
    ).fit(cov_type="bias_reduced")
    found = fit_odds_ratios(
        {name: arm(r) for name, r in rewards.items()}, "control", ["anger", "anxiety"]
    )
    for name, each in found.items():
        term = f"C(variant, Treatment('control'))[T.{name}]"
        assert each.value == pytest.approx(np.exp(fit.params[term]), rel=1e-5)
        assert each.p == pytest.approx(fit.pvalues[term], rel=1e-4)
        low, high = np.exp(fit.conf_int().loc[term])
        assert each.interval is not None
        assert (each.interval.low, each.interval.high) == pytest.approx((low, high), rel=1e-4)


def test_what_cannot_be_fitted_says_why() -> None:
    some = arm(random_rewards(1, 20, 2))
    always = arm({task: [1.0, 1.0] for task in range(20)})
    nothing = arm({task: [None, None] for task in range(20)})
    one = arm({0: [1.0, 0.0, 1.0]})
    many = arm({task: [1.0, 0.0] * LARGEST_CLUSTER for task in range(2)})

    def reason(arms: dict[str, object]) -> str:
        found = fit_odds_ratios(arms, "control", ["anger"])["anger"]  # type: ignore[arg-type]
        assert (found.value, found.interval, found.p) == (None, None, None)
        return found.reason

    assert reason({"anger": some}) == "no scored episode of control"
    assert reason({"control": nothing, "anger": some}) == "no scored episode of control"
    assert reason({"control": some, "anger": nothing}) == "no scored episode"
    assert reason({"control": some}) == "no scored episode"
    assert reason({"control": always, "anger": some}).startswith("control always succeeds")
    assert reason({"control": some, "anger": always}).startswith("anger always succeeds")
    assert reason({"control": one, "anger": one}).startswith("one task")
    assert reason({"control": many, "anger": many}).startswith("not fitted")


def test_a_variant_without_failures_does_not_spoil_the_others() -> None:
    arms = {
        "control": arm(random_rewards(1, 30, 3)),
        "anger": arm(random_rewards(2, 30, 3, 0.8)),
        "placebo": arm({task: [1.0] * 3 for task in range(30)}),
    }
    found = fit_odds_ratios(arms, "control", ["anger", "placebo"])
    assert found["anger"].value is not None
    assert found["placebo"].value is None


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_variance_below_0_warns_of_nothing() -> None:
    arms = {"control": arm({0: [0, 1], 1: [1, 0]}), "anger": arm({0: [1], 1: [0]})}
    (found,) = fit_odds_ratios(arms, "control", ["anger"]).values()
    assert found.value == pytest.approx(1.0)
    assert found.interval is None
