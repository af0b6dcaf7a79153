"""The model-based check: a marginal logistic model of success, fitted by GEE."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import exp

import numpy as np

from emobench.analysis.stats.estimates import FEW, Interval, OddsRatio, describe_size
from emobench.analysis.stats.units import Arm

LARGEST_CLUSTER = 600
"""Episodes of one task; above it a fit would take minutes, for the cube of this number."""
HUGE = 12.0
"""A log odds ratio beyond this is a variant that always or never succeeds, not an estimate."""


def fit_odds_ratios(
    arms: Mapping[str, Arm], baseline: str, variants: Sequence[str]
) -> dict[str, OddsRatio]:
    """Return odds of success of each variant over `baseline`, from one fit to the whole group.

    Binomial GEE with exchangeable correlation within (environment, task), Liang and Zeger 1986
    (Biometrika 73), and the bias-reduced covariance of Mancl and DeRouen 2001 (Biometrics 57), by
    statsmodels. What cannot be fitted has no value and a reason; nothing is raised.
    """
    labels = {
        variant: f"odds ratio of success, {variant} over {baseline}, "
        f"{describe_size(int((arms[variant].n > 0).sum()), arms[variant].n.tolist())}, "
        "GEE clustered by task"
        if variant in arms
        else f"odds ratio of success, {variant} over {baseline}"
        for variant in variants
    }

    def without(reason: str) -> dict[str, OddsRatio]:
        return {name: OddsRatio(labels[name], None, None, None, reason) for name in variants}

    if baseline not in arms or not arms[baseline].n.sum():
        return without(f"no scored episode of {baseline}")
    rates = {
        name: float(arms[name].successes.sum() / arms[name].n.sum())
        for name in (baseline, *variants)
        if name in arms and arms[name].n.sum()
    }
    if not 0 < rates[baseline] < 1:
        return without(
            f"{baseline} {_describe_constant_rate(rates[baseline])}: odds have no estimate"
        )
    fitted = [name for name in variants if name in rates and 0 < rates[name] < 1]
    found = without("")
    for name in variants:
        if name not in rates:
            found[name] = OddsRatio(labels[name], None, None, None, "no scored episode")
        elif name not in fitted:
            reason = f"{name} {_describe_constant_rate(rates[name])}: odds have no estimate"
            found[name] = OddsRatio(labels[name], None, None, None, reason)
    if fitted:
        values, reason = _fit(arms, baseline, fitted)
        for name in fitted:
            if name in values:
                found[name] = _compute_odds_ratio(
                    labels[name], values[name], _count_paired_tasks(arms, baseline, name)
                )
            else:
                found[name] = OddsRatio(labels[name], None, None, None, reason)
    return found


def _count_paired_tasks(arms: Mapping[str, Arm], baseline: str, variant: str) -> int:
    """Return tasks with a scored episode on both sides."""
    return int(np.intersect1d(arms[variant].scored.tasks, arms[baseline].scored.tasks).size)


def _compute_odds_ratio(
    label: str, fit: tuple[float, float, float, float], tasks: int
) -> OddsRatio:
    log_odds, error, p, z = fit
    if tasks < FEW:
        # Seen on two tasks: 0.17 [0.05, 0.56]. The normal quantile knows nothing of so few.
        reason = f"fewer than {FEW} tasks: an interval would claim too much"
        return OddsRatio(label, exp(log_odds), None, None, reason)
    interval = Interval(exp(log_odds - z * error), exp(log_odds + z * error))
    return OddsRatio(label, exp(log_odds), interval, p)


def _describe_constant_rate(rate: float) -> str:
    return "always succeeds" if rate >= 1 else "never succeeds"


def _fit(
    arms: Mapping[str, Arm], baseline: str, variants: Sequence[str]
) -> tuple[dict[str, tuple[float, float, float, float]], str]:
    """Return (log odds ratio, standard error, p, normal quantile) by variant; or why there are
    none."""
    names = (baseline, *variants)
    tasks = np.concatenate([np.repeat(arms[name].tasks, arms[name].n) for name in names])
    clusters, sizes = np.unique(tasks, return_counts=True)
    if clusters.size < 2:
        return {}, "one task: GEE needs more"
    if sizes.max() > LARGEST_CLUSTER:
        return {}, f"not fitted: more than {LARGEST_CLUSTER} episodes of one task"
    success = np.concatenate([_expand_outcomes(arms[name]) for name in names])
    column = np.repeat(np.arange(len(names)), [int(arms[name].n.sum()) for name in names])
    design = (column[:, None] == np.arange(1, len(names))).astype(np.float64)
    design = np.column_stack([np.ones(column.size), design])

    from scipy.stats import norm
    from statsmodels.genmod.cov_struct import Exchangeable
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_estimating_equations import GEE

    order = np.argsort(tasks, kind="stable")
    try:
        with warnings.catch_warnings():
            # Failures are looked for below, in the figures.
            warnings.simplefilter("ignore")
            result = GEE(
                success[order],
                design[order],
                groups=tasks[order],
                family=Binomial(),
                cov_struct=Exchangeable(),
            ).fit(cov_type="bias_reduced", maxiter=100)
            # Computed here: a variance may be negative, and its root warns.
            log_odds, errors = np.asarray(result.params)[1:], np.asarray(result.bse)[1:]
    except (np.linalg.LinAlgError, ValueError, ZeroDivisionError, FloatingPointError) as error:
        return {}, f"GEE could not be fitted: {error}"
    if not result.converged:
        return {}, "GEE did not converge"
    sound = np.isfinite(log_odds).all() and np.isfinite(errors).all() and (errors > 0).all()
    if not sound or (np.abs(log_odds) > HUGE).any():
        return {}, "GEE did not converge to usable figures"
    p = 2 * norm.sf(np.abs(log_odds / errors))
    z = float(norm.ppf(0.975))
    return {
        name: (float(log_odds[i]), float(errors[i]), float(p[i]), z)
        for i, name in enumerate(variants)
    }, ""


def _expand_outcomes(arm: Arm) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return 1 for each success and 0 for each failure, task by task."""
    counts = np.column_stack([arm.successes, arm.n - arm.successes]).ravel()
    return np.repeat(np.tile([1.0, 0.0], arm.n.size), counts)
