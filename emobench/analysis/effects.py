"""All findings of a study from its table of episodes: what the report and the exports show.

Every episode counts as its variant was assigned (intent to treat). Where a per-protocol column is
given, the same difference over the conforming episodes stands beside it, second, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench.analysis.stats.estimates import (
    Difference,
    Mean,
    OddsRatio,
    PassK,
    Sensitivity,
    describe_size,
    to_plain,
)
from emobench.analysis.stats.gee import fit_odds_ratios
from emobench.analysis.stats.interaction import (
    AssistantComparison,
    compare_assistants,
    compare_effects,
)
from emobench.analysis.stats.means import mean_reward, outcome_rate
from emobench.analysis.stats.mediators import MEDIATORS, SCORED_OUTCOMES, Columns, sum_columns
from emobench.analysis.stats.multiplicity import benjamini_hochberg, holm
from emobench.analysis.stats.paired import (
    make_undefined,
    paired_difference,
    paired_means,
    variant_difference,
)
from emobench.analysis.stats.pass_k import pass_k_curve
from emobench.analysis.stats.sensitivity import compare_missing
from emobench.analysis.stats.units import (
    Arm,
    Sums,
    align_by_task,
    count_by_task,
    divide,
    split_arms,
)
from emobench.core.outcomes import CONTROL, Group, Outcome
from emobench.core.sweep import Cell
from emobench.core.wording import pluralise

if TYPE_CHECKING:
    import pandas

SCHEMA_VERSION = 1
MOST_K = 16
"""pass^k beyond it is of no use, and a thousand trials would make a thousand rows of it."""
POST_TREATMENT = (
    "per protocol: episodes selected by what happened after the variant acted, so the sides are "
    "no longer comparable by design"
)


@dataclass(frozen=True)
class MediatorMean:
    """Mean of a column over the scored episodes of a variant."""

    label: str
    column: str
    value: float | None
    episodes: int


@dataclass(frozen=True)
class Exploratory:
    """A paired difference in something other than the reward."""

    column: str
    """A mediator's column or an outcome's name."""
    difference: Difference


@dataclass(frozen=True)
class Contrast:
    """A variant against the baseline."""

    baseline: str
    difference: Difference
    """In mean reward; p_adjusted by Holm over the variants of the group."""
    paired_mean: Mean
    """Mean reward of the variant on the tasks that are paired."""
    baseline_mean: Mean
    """The baseline's on the same tasks: `paired_mean` minus it is `difference`."""
    sensitivity: tuple[Sensitivity, ...]
    odds_ratio: OddsRatio
    outcomes: tuple[Exploratory, ...]
    mediators: tuple[Exploratory, ...]
    per_protocol: Difference | None
    """None where no column says which episodes conform."""


@dataclass(frozen=True)
class VariantFinding:
    """One variant of one group."""

    variant: str
    mean: Mean
    """Over all tasks of its own; what stands beside a difference is `paired_mean`."""
    pass_k: tuple[PassK, ...]
    """k from 1 to the largest number of scored trials of any task in the group, at most 16."""
    outcomes: Mapping[str, Mean]
    """Share of scored episodes by outcome, infra_error's of all episodes."""
    mediators: tuple[MediatorMean, ...]
    contrast: Contrast | None
    """None for the baseline itself."""

    @property
    def paired_mean(self) -> Mean:
        """Mean reward on the tasks that its difference is over; on its own where there is none."""
        if self.contrast is None or self.contrast.difference.value is None:
            return self.mean
        return self.contrast.paired_mean


@dataclass(frozen=True)
class GroupFinding:
    """The variants of one (environment, agent strategy, assistant)."""

    env: str
    agent_strategy: str
    assistant: str
    baseline: str
    variants: tuple[VariantFinding, ...]

    @property
    def key(self) -> Group:
        return Group(self.env, self.agent_strategy, self.assistant)


@dataclass(frozen=True)
class Findings:
    groups: tuple[GroupFinding, ...]
    assistants: tuple[AssistantComparison, ...]
    """Assistants compared under each variant; exploratory."""
    interactions: tuple[AssistantComparison, ...]
    """Variant by assistant; exploratory."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return dicts, lists, numbers and strings only; what is undefined is null."""
        found: dict[str, Any] = to_plain(self)
        return found


def estimate_effects(
    frame: pandas.DataFrame,
    *,
    baseline: str = CONTROL,
    variants: Sequence[str] | None = None,
    planned: Iterable[Cell] = (),
    per_protocol: str | None = None,
) -> Findings:
    """Return everything the report shows, for every group in `frame`.

    `variants` gives the order (default: the baseline, then as in the plan or the frame); those
    without a row in a group are left out of it. With `planned`, the plan's cells, an episode that
    is not in the frame is missing. `per_protocol` names a boolean column: which episodes conform.
    """
    cells = tuple(planned)
    groups = split_arms(count_by_task(frame, cells))
    measured = sum_columns(frame)
    conforming: dict[Group, dict[str, Arm]] | None = None
    if per_protocol is not None:
        kept = frame[per_protocol].fillna(False).to_numpy(dtype=bool)
        conforming = split_arms(count_by_task(frame[kept]))
    names = dict.fromkeys([cell.variant for cell in cells])
    order = list(variants) if variants is not None else _order(names, groups, baseline)
    found = [
        _estimate_group(
            key,
            {name: group[name] for name in order if name in group},
            baseline,
            measured,
            None if conforming is None else conforming.get(key, {}),
        )
        for key, group in groups.items()
    ]
    others = [name for name in order if name != baseline]
    return Findings(
        tuple(found),
        tuple(compare_assistants(groups, order)),
        tuple(compare_effects(groups, baseline, others)),
    )


def _order(
    planned: Iterable[str], groups: Mapping[Group, Mapping[str, Arm]], baseline: str
) -> list[str]:
    names = dict.fromkeys([*planned, *(name for group in groups.values() for name in group)])
    return [*([baseline] if baseline in names else []), *(n for n in names if n != baseline)]


def _estimate_group(
    key: Group,
    group: Mapping[str, Arm],
    baseline: str,
    measured: Columns,
    conforming: Mapping[str, Arm] | None,
) -> GroupFinding:
    treated = [name for name in group if name != baseline]
    odds = fit_odds_ratios(group, baseline, treated)
    held = measured.get(key, {})
    contrasts = _adjust_contrasts(
        {
            name: Contrast(
                baseline,
                variant_difference({key: group}, name, baseline, bootstrap=True),
                *paired_means({key: group}, name, baseline),
                sensitivity=_compute_sensitivity(group, name, baseline),
                odds_ratio=odds[name],
                outcomes=_explore(held, name, baseline, SCORED_OUTCOMES),
                mediators=_explore(held, name, baseline, tuple(MEDIATORS)),
                per_protocol=None
                if conforming is None
                else _compare_per_protocol(key, conforming, name, baseline),
            )
            for name in treated
        }
    )
    largest = max((int(arm.n.max(initial=0)) for arm in group.values()), default=0)
    largest = min(largest, MOST_K)
    found = [
        VariantFinding(
            variant=name,
            mean=mean_reward(f"mean reward, {name}", arm),
            pass_k=pass_k_curve(name, arm.successes, arm.n, range(1, largest + 1)),
            outcomes=_estimate_outcome_rates(name, arm, held.get(name, {})),
            mediators=_estimate_mediator_means(name, held.get(name, {})),
            contrast=contrasts.get(name),
        )
        for name, arm in group.items()
    ]
    return GroupFinding(*key, baseline=baseline, variants=tuple(found))


def _adjust_contrasts(contrasts: dict[str, Contrast]) -> dict[str, Contrast]:
    """Adjust confirmatory p's by Holm over the variants; exploratory ones by Benjamini-Hochberg
    over a group's table of outcomes, and over that of mediators."""
    count = len(contrasts)
    adjusted = holm([each.difference.p_permutation for each in contrasts.values()])
    how = f"Holm over {pluralise(count, 'variant')}"
    result = {
        name: replace(each, difference=replace(each.difference, p_adjusted=p, adjustment=how))
        for (name, each), p in zip(contrasts.items(), adjusted, strict=True)
    }
    for table in ("outcomes", "mediators"):
        cells = [(name, item) for name, each in result.items() for item in getattr(each, table)]
        values = benjamini_hochberg([item.difference.p_permutation for _, item in cells])
        how = f"Benjamini-Hochberg over {len(cells)} differences in {table}, exploratory"
        rows: dict[str, list[Exploratory]] = {name: [] for name in result}
        for (name, item), p in zip(cells, values, strict=True):
            difference = replace(item.difference, p_adjusted=p, adjustment=how)
            rows[name].append(replace(item, difference=difference))
        result = {
            name: replace(each, outcomes=tuple(rows[name]))
            if table == "outcomes"
            else replace(each, mediators=tuple(rows[name]))
            for name, each in result.items()
        }
    return result


def _compute_sensitivity(
    group: Mapping[str, Arm], name: str, baseline: str
) -> tuple[Sensitivity, ...]:
    if baseline not in group:
        return ()
    what = f"difference in mean reward, {name} minus {baseline}"
    return compare_missing(what, group[name], group[baseline])


def _compare_per_protocol(
    key: Group, conforming: Mapping[str, Arm], name: str, baseline: str
) -> Difference:
    if name not in conforming or baseline not in conforming:
        lacking = name if name not in conforming else baseline
        what = f"difference in mean reward, {name} minus {baseline}, per protocol"
        return make_undefined(what, f"no conforming episode of {lacking}")
    found = variant_difference({key: conforming}, name, baseline, bootstrap=True)
    return replace(
        found, label=f"{found.label}, per protocol", notes=(*found.notes, POST_TREATMENT)
    )


def _explore(
    held: Mapping[str, Mapping[str, Sums]], name: str, baseline: str, names: Sequence[str]
) -> tuple[Exploratory, ...]:
    """Return differences per task in each column that both sides have."""
    found = []
    for column in names:
        sides = {side: held.get(side, {}).get(column) for side in (name, baseline)}
        values = {
            side: (tasks, divide(total, n))
            for side, item in sides.items()
            if item is not None
            for tasks, total, n in [item]
        }
        if len(values) < 2 or not all(tasks.size for tasks, _ in values.values()):
            continue
        rows, left_out = align_by_task(values, name, baseline)
        is_outcome = column in SCORED_OUTCOMES
        what = f"share of {column}" if is_outcome else f"mean {MEDIATORS[column]}"
        difference = paired_difference(
            f"difference in {what}, {name} minus {baseline}, {describe_size(rows.shape[1], ())}, "
            "95 % interval clustered by task",
            rows[0] - rows[1],
            left_out=left_out,
            bounds=(-1.0, 1.0) if is_outcome else None,
            bootstrap=False,
        )
        found.append(Exploratory(column, difference))
    return tuple(found)


def _estimate_outcome_rates(name: str, arm: Arm, held: Mapping[str, Sums]) -> dict[str, Mean]:
    found = {}
    for outcome in SCORED_OUTCOMES:
        if outcome in held:
            _, events, n = held[outcome]
            found[outcome] = outcome_rate(f"share of {outcome}, {name}", events, n)
    attempted = arm.n + arm.missing
    some = attempted > 0
    found[Outcome.INFRA_ERROR] = outcome_rate(
        f"share of missing episodes, {name}",
        arm.missing[some].astype(np.float64),
        attempted[some],
    )
    return found


def _estimate_mediator_means(name: str, held: Mapping[str, Sums]) -> tuple[MediatorMean, ...]:
    found = []
    for column, what in MEDIATORS.items():
        if column not in held:
            continue
        _, total, n = held[column]
        episodes = int(n.sum())
        value = float(total.sum()) / episodes if episodes else None
        label = f"mean {what} per conversation, {name}, {pluralise(episodes, 'conversation')}"
        found.append(MediatorMean(label, column, value, episodes))
    return tuple(found)
